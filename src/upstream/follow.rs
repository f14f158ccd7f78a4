//! Servers with `resolve`: each worker looks their names up again whenever an answer expires.
//!
//! One task per server. A failed lookup changes nothing, except that a name that does not exist loses its
//! peers. Peers whose addresses remain keep their state and their connections. Behaviour: nginx.org,
//! `resolve` and `service` of ngx_http_upstream_module.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;

use crate::log::{self, Logger};
use crate::net::Address;
use crate::net::address::Host;
use crate::net::drain;
use crate::net::resolver::{Failure, Resolver};
use crate::proto::dns::Code;
use crate::runtime::channel::Notify;
use crate::runtime::{self, Either, race, sleep, timeout};
use crate::upstream::group::Group;
use crate::upstream::known::{self, Spot};
use crate::upstream::state::GroupState;

/// Minimum pause between two lookups: a TTL of zero must not cause an endless stream of queries.
const PAUSE_MS_MIN: u64 = 1_000;
/// Pause after the answer that a name does not exist, without `valid=`; nginx's.
const ABSENT_MS: u64 = 10_000;

/// The resolver of a group's names, and the progress of their first lookups.
#[derive(Debug)]
pub struct Names {
    resolver: Rc<Resolver>,
    /// `resolver_timeout`: the time limit of a lookup, and the pause after one that failed.
    timeout_ms: u64,
    /// Servers whose first lookup has not finished.
    unheard: Cell<usize>,
    heard: Notify,
}

/// Called on each change, with the index of the group in the configuration, the index of the server in the
/// group, and its addresses.
pub type Tell = Rc<dyn Fn(usize, usize, &[Spot])>;

impl Names {
    pub fn new(resolver: Rc<Resolver>, timeout_ms: u64) -> Self {
        Self { resolver, timeout_ms, unheard: Cell::new(0), heard: Notify::new() }
    }

    /// True once the first lookup of every name has finished, successfully or not.
    pub fn are_settled(&self) -> bool {
        self.unheard.get() == 0
    }

    /// Waits for the first lookups, so that the first requests after a start find peers.
    pub async fn settle(&self) {
        let settled = async {
            while !self.are_settled() {
                self.heard.notified().await;
            }
        };
        let _ = timeout(self.timeout_ms, settled).await;
    }
}

/// Starts to follow the names of a group; once per worker. `group_index` is the group's index in the
/// configuration.
pub fn start(state: &Rc<GroupState>, group_index: usize, log: Logger, tell: &Tell) {
    let (Some(names), group) = (&state.names, &state.group) else { return };
    for (index, server) in group.servers.iter().enumerate().filter(|(_, server)| server.resolve) {
        let Host::Inet { port, .. } = &server.host else { continue };
        if let Some(mut spots) = known::recall(&key(group, index)) {
            if server.service.is_none() {
                // The port is taken from the configuration, where it may have changed.
                for spot in &mut spots {
                    spot.address =
                        Address::Inet(SocketAddr::new(spot.address.ip().unwrap_or([0; 4].into()), *port));
                }
            }
            state.learn(index, &spots);
        } else {
            names.unheard.set(names.unheard.get() + 1);
        }
        let tell = Rc::clone(tell);
        let tell = move |spots: &[Spot]| tell(group_index, index, spots);
        runtime::spawn(follow(Rc::clone(state), index, log, tell));
    }
}

async fn follow(state: Rc<GroupState>, index: usize, log: Logger, tell: impl Fn(&[Spot])) {
    let (Some(names), group) = (&state.names, &*state.group) else { return };
    let mut is_first = !state.has_peers(index);
    let mut is_absent = false;
    loop {
        let found = ask(group, names, index).await;
        let pause_ms = match &found {
            Ok((spots, expires_ms)) => {
                is_absent = false;
                if state.learn(index, spots) {
                    tell(spots);
                    let (name, count) = (&group.servers[index].name, spots.len());
                    log::notice!(
                        log,
                        &(),
                        "upstream server \"{name}\" of \"{}\" has {count} addresses now",
                        group.name
                    );
                }
                expires_ms.saturating_sub(runtime::now_ms()) + 1
            }
            Err(failure) => {
                let is_gone = *failure == Failure::Code(Code::NotFound);
                if is_gone && state.learn(index, &[]) {
                    tell(&[]);
                }
                if !(is_gone && std::mem::replace(&mut is_absent, is_gone)) {
                    let name = &group.servers[index].name;
                    let what =
                        if state.has_peers(index) { "its addresses stay" } else { "it counts as down" };
                    log::warn!(
                        log,
                        &(),
                        "upstream server \"{name}\" of \"{}\" could not be resolved {failure}, {what}",
                        group.name
                    );
                }
                if is_gone { names.resolver.valid_ms().unwrap_or(ABSENT_MS) } else { names.timeout_ms }
            }
        };
        if std::mem::take(&mut is_first) {
            names.unheard.set(names.unheard.get().saturating_sub(1));
            names.heard.notify();
        }
        let pause = sleep(pause_ms.max(PAUSE_MS_MIN));
        if let Either::Second(()) = race(pause, drain::reached(drain::Mode::HandOver)).await {
            return;
        }
    }
}

async fn ask(group: &Group, names: &Names, index: usize) -> Result<(Vec<Spot>, u64), Failure> {
    let Some(server) = group.servers.get(index) else { return Err(Failure::BadName) };
    let Host::Inet { name, port } = &server.host else { return Err(Failure::BadName) };
    let inet = |ip, port| Address::Inet(SocketAddr::new(ip, port));
    match &server.service {
        Some(service) => {
            let found = names.resolver.services(service, name, names.timeout_ms).await?;
            let spot = |place: &crate::net::resolver::Place| Spot {
                address: inet(place.ip, place.port),
                weight: Some(place.weight),
                is_backup: place.is_backup,
            };
            Ok((found.list.iter().map(spot).collect(), found.expires_ms))
        }
        None => {
            let found = names.resolver.addresses(name, names.timeout_ms).await?;
            Ok((found.list.iter().map(|&ip| inet(ip, *port).into()).collect(), found.expires_ms))
        }
    }
}

/// The key of a server in [`known`]: without the port, which belongs to the configuration.
pub fn key(group: &Group, index: usize) -> String {
    let Some(Host::Inet { name, .. }) = group.servers.get(index).map(|server| &server.host) else {
        return group.name.to_string();
    };
    let service = group.servers[index].service.as_deref().unwrap_or("");
    format!("{} {name} {service}", group.name)
}
