//! Names that are followed while serving (`resolve`): the prober looks them up again whenever an answer expires, and all
//! workers are told.
//!
//! One task per server, in the prober. It tells the master of each change, and of the first outcome, for which
//! requests wait; the master tells every worker (`upstream/known.rs`). A failed lookup changes nothing. A name that no
//! longer exists loses its peers if a `resolver` directive names the name servers, as in nginx; asked of the system's
//! name servers, it keeps its last addresses. Behaviour: nginx.org, `resolve` and `service` of
//! ngx_http_upstream_module.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use crate::log::{self, Logger};
use crate::net::Address;
use crate::net::address::Host;
use crate::net::resolver::{Failure, Source};
use crate::proto::dns::Code;
use crate::runtime::channel::Notify;
use crate::runtime::{self, sleep, timeout};
use crate::upstream::group::Group;
use crate::upstream::known::{self, Spot};
use crate::upstream::peer::Server;
use crate::upstream::state::GroupState;

/// Minimum pause between two lookups: a TTL of zero must not cause an endless stream of queries.
const PAUSE_MS_MIN: u64 = 1_000;
/// Pause after the answer that a name does not exist, without `valid=`; nginx's.
const ABSENT_MS: u64 = 10_000;

/// The progress of the first lookups of a group's names, as seen by a worker.
#[derive(Debug)]
pub struct Names {
    /// `resolver_timeout`: how long a request waits for them.
    timeout_ms: u64,
    /// For each server, whether its first lookup has finished, or it needs none.
    heard: Box<[Cell<bool>]>,
    unheard_count: Cell<usize>,
    notify: Notify,
}

/// Called in the prober with news about a name: the index of the group in the configuration, the index of the server
/// in the group, and its addresses.
pub type Tell = Rc<dyn Fn(usize, usize, &[Spot])>;

impl Names {
    /// The names of a group with servers that are followed.
    pub fn new(group: &Group, timeout_ms: u64) -> Self {
        let heard: Box<[Cell<bool>]> =
            group.servers.iter().map(|server| Cell::new(!server.resolve)).collect();
        let unheard_count = Cell::new(heard.iter().filter(|heard| !heard.get()).count());
        Self { timeout_ms, heard, unheard_count, notify: Notify::new() }
    }

    /// True once the first lookup of every name has finished, successfully or not.
    pub fn are_settled(&self) -> bool {
        self.unheard_count.get() == 0
    }

    /// Waits for the first lookups, so that the first requests after a start find peers.
    pub async fn settle(&self) {
        let settled = async {
            while !self.are_settled() {
                self.notify.notified().await;
            }
        };
        let _ = timeout(self.timeout_ms, settled).await;
    }

    /// Notes that the outcome of a server's lookup is known.
    fn hear(&self, server_index: usize) {
        if self.heard.get(server_index).is_some_and(|heard| !heard.replace(true)) {
            self.unheard_count.set(self.unheard_count.get().saturating_sub(1));
            self.notify.notify();
        }
    }
}

/// Takes over the addresses of a server's name that the prober has found.
pub fn learn(state: &GroupState, server_index: usize, spots: &[Spot]) {
    if let Some(server) = state.set().group.servers.get(server_index) {
        state.learn(server_index, &localized(server, spots.to_vec()));
    }
    state.names.iter().for_each(|names| names.hear(server_index));
}

/// Takes over the addresses that were known when this process was forked.
pub fn recall(state: &GroupState) {
    for (index, server) in state.set().group.present() {
        if is_followed(server)
            && let Some(spots) = known::recall(&key(&state.group, index))
        {
            learn(state, index, &spots);
        }
    }
}

/// True if the prober looks the name of a server up: it is followed, or did not resolve yet.
pub fn is_followed(server: &Server) -> bool {
    server.resolve || server.addresses.is_empty()
}

/// The port is taken from the configuration of this process; another one may have found the addresses.
fn localized(server: &Server, mut spots: Vec<Spot>) -> Vec<Spot> {
    if let (None, Host::Inet { port, .. }) = (&server.service, &server.host) {
        for spot in &mut spots {
            if let Address::Inet(inet) = &mut spot.address
                && inet.port() != *port
            {
                inet.set_port(*port);
                spot.place = None; // it belongs to the peer at the other port
            }
        }
    }
    spots
}

/// Starts to follow the names of a group; once, in the prober. `group_index` is the group's index in the configuration.
pub fn start(group: &Arc<Group>, group_index: usize, source: &Rc<Source>, log: Logger, tell: &Tell) {
    for (index, _) in group.servers.iter().enumerate().filter(|(_, server)| server.resolve) {
        let tell = Rc::clone(tell);
        let tell = move |spots: &[Spot]| tell(group_index, index, spots);
        runtime::spawn(follow(Arc::clone(group), index, Rc::clone(source), log, tell));
    }
}

async fn follow(group: Arc<Group>, index: usize, source: Rc<Source>, log: Logger, tell: impl Fn(&[Spot])) {
    let (Some(server), Some(lookup)) = (group.servers.get(index), &group.lookup) else { return };
    let name = &server.name;
    let mut known = known::recall(&key(&group, index)).map(|spots| localized(server, spots));
    let mut last_failure = None;
    loop {
        let (failure, pause_ms) = match ask(server, &source, lookup.timeout_ms).await {
            Ok((spots, expires_ms)) => {
                if known.as_ref().is_none_or(|known| !are_same(known, &spots)) {
                    let count = spots.len();
                    log::notice!(
                        log,
                        &(),
                        "upstream server \"{name}\" of \"{}\" has {count} addresses now",
                        group.name
                    );
                    tell(&spots);
                    known = Some(spots);
                }
                (None, expires_ms.saturating_sub(runtime::now_ms()) + 1)
            }
            Err(failure) => {
                let is_gone = failure == Failure::Code(Code::NotFound);
                if known.is_none() || (is_gone && !source.keeps_vanished()) {
                    // Requests wait for the first outcome, even if it is a failure.
                    if known.as_ref().is_none_or(|known| !known.is_empty()) {
                        tell(&[]);
                    }
                    known = Some(Vec::new());
                }
                let pause_ms = match is_gone {
                    true => source.valid_ms().unwrap_or(ABSENT_MS),
                    false => lookup.timeout_ms,
                };
                (Some(failure), pause_ms)
            }
        };
        // Retries that fail in the same way are not logged.
        if let Some(failure) = failure.filter(|failure| last_failure != Some(*failure)) {
            let has_peers = known.as_ref().is_some_and(|known| !known.is_empty());
            let what = if has_peers { "its addresses stay" } else { "it counts as down" };
            log::warn!(
                log,
                &(),
                "upstream server \"{name}\" of \"{}\" could not be resolved {failure}, {what}",
                group.name
            );
        }
        last_failure = failure;
        sleep(pause_ms.max(PAUSE_MS_MIN)).await;
    }
}

/// True if both lists have the same addresses, in any order.
fn are_same(some: &[Spot], others: &[Spot]) -> bool {
    let sorted = |spots: &[Spot]| {
        let mut all: Vec<_> =
            spots.iter().map(|spot| (spot.address.inet().copied(), spot.weight, spot.is_backup)).collect();
        all.sort_unstable();
        all
    };
    some.len() == others.len() && sorted(some) == sorted(others)
}

async fn ask(server: &Server, source: &Source, timeout_ms: u64) -> Result<(Vec<Spot>, u64), Failure> {
    let Host::Inet { name, port } = &server.host else { return Err(Failure::BadName) };
    let inet = |ip, port| Address::Inet(SocketAddr::new(ip, port));
    match &server.service {
        Some(service) => {
            let found = source.services(service, name, timeout_ms).await?;
            let spot = |place: &crate::net::resolver::Place| Spot {
                weight: Some(place.weight),
                is_backup: place.is_backup,
                ..inet(place.ip, place.port).into()
            };
            Ok((found.list.iter().map(spot).collect(), found.expires_ms))
        }
        None => {
            let found = source.addresses(name, timeout_ms).await?;
            Ok((found.list.iter().map(|&ip| inet(ip, *port).into()).collect(), found.expires_ms))
        }
    }
}

/// The key of a server in [`known`]: without the port, which belongs to the configuration.
pub fn key(group: &Group, index: usize) -> String {
    let Some(Host::Inet { name, .. }) = group.servers.get(index).map(|server| &server.host) else {
        return group.full_name().into_owned();
    };
    let service = group.servers[index].service.as_deref().unwrap_or("");
    format!("{} {name} {service}", group.full_name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::address;
    use crate::runtime::Runtime;

    fn spots(texts: &[&str]) -> Vec<Spot> {
        texts.iter().map(|text| Spot::from(Address::Inet(text.parse().unwrap()))).collect()
    }

    fn state() -> GroupState {
        let server = |name: &str| {
            let host = address::parse_upstream(name, 80).unwrap();
            Server { resolve: true, ..Server::new(name, host) }
        };
        let mut group = Group::uncounted("follow.test", vec![server("a.test:81"), server("b.test")]);
        group.lookup = Some(crate::upstream::group::Lookup { resolver: None, timeout_ms: 10_000 });
        GroupState::new(Arc::new(group))
    }

    #[test]
    fn requests_wait_for_the_first_outcome_of_every_name() {
        Runtime::new().unwrap().block_on(async {
            let state = Rc::new(state());
            assert!(!state.names.as_ref().unwrap().are_settled());
            let later = Rc::clone(&state);
            runtime::spawn(async move {
                learn(&later, 0, &spots(&["1.1.1.1:9"]));
                learn(&later, 0, &spots(&["1.1.1.1:9"]));
                sleep(1).await;
                learn(&later, 1, &[]);
            });
            state.names.as_ref().unwrap().settle().await;
            assert!(state.names.as_ref().unwrap().are_settled());
            let names: Vec<String> = state.set().all().map(|peer| peer.name.to_string()).collect();
            assert_eq!(names, ["1.1.1.1:81"], "the port is that of this configuration");
        });
    }

    #[test]
    fn the_order_of_addresses_is_no_news() {
        let (one, other) = (spots(&["1.1.1.1:1", "1.1.1.2:1"]), spots(&["1.1.1.2:1", "1.1.1.1:1"]));
        assert!(are_same(&one, &other) && !are_same(&one, &one[..1]) && are_same(&[], &[]));
        let heavier = Spot { weight: Some(5), ..one[0].clone() };
        assert!(!are_same(&one[..1], &[heavier]));
    }
}
