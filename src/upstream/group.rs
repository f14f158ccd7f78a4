//! A named set of servers that share load, as configured: an `upstream` block, or the single server of a
//! `proxy_pass`.
//!
//! Plain data, made while the configuration is compiled and never changed. A worker's state of a group is a
//! [`GroupState`](crate::upstream::GroupState); the state common to all workers is in shared memory, at the
//! places that are assigned here.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::Span;
use crate::net::address::Address;
use crate::net::resolver::Settings;
use crate::shm::counter::{self, Slot};
use crate::shm::peers::{self, Place, SharedTurns};
use crate::upstream::balance::Method;
use crate::upstream::check::Checks;
use crate::upstream::known::Spot;
use crate::upstream::peer::{Server, Shared};
use crate::upstream::{budget, outlier, waiting};

/// The number of steps in which a weight of 1 grows during a slow start.
const SLOW_START_SCALE: i64 = 100;

/// The rules for keeping connections to a group's peers (`keepalive` and related directives).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Maximum number of idle connections kept by each worker; 0: close every connection after its request.
    pub idle_max: usize,
    /// A connection is reused only by the location that opened it.
    pub local: bool,
    pub requests_max: u64,
    /// Maximum age of a connection that is kept.
    pub time_ms: u64,
    /// Maximum time that a connection stays idle.
    pub timeout_ms: u64,
    /// Maximum number of streams of a connection of HTTP/2 at a time; its peer may permit fewer.
    pub streams_max: u32,
    /// A connection on which a client has begun to authenticate serves that client alone (`ntlm`).
    pub binds: bool,
}

impl Default for Keepalive {
    fn default() -> Self {
        Self {
            idle_max: 32,
            local: true,
            requests_max: 1000,
            time_ms: 3_600_000,
            timeout_ms: 60_000,
            streams_max: 128, // as many as the default of http2_max_concurrent_streams lets a client have
            binds: false,
        }
    }
}

/// The parameters for looking up, while serving, the names of a group's servers with `resolve`.
#[derive(Clone, Debug)]
pub struct Lookup {
    /// `None`: the system's name servers.
    pub resolver: Option<Arc<Settings>>,
    /// `resolver_timeout`: the time limit of a lookup, and the pause after one that failed.
    pub timeout_ms: u64,
}

/// The file that keeps the servers of a group (`state`), and the place that names it.
#[derive(Clone, Debug)]
pub struct StateFile {
    pub path: Box<Path>,
    pub span: Span,
}

impl StateFile {
    /// The file itself, however its path is written: that which is there, or else its name in its folder.
    pub fn identity(&self) -> PathBuf {
        let in_folder = || {
            let folder = self.path.parent()?.canonicalize().ok()?;
            Some(folder.join(self.path.file_name()?))
        };
        self.path.canonicalize().ok().or_else(in_folder).unwrap_or_else(|| self.path.to_path_buf())
    }
}

/// A group of servers.
///
/// The configuration owns it, or the worker that made it for a name in a request; the states of workers refer
/// to it and keep it alive. Creating one assigns its counters and its peers' places in shared memory; when
/// these are used up, the group works without them.
#[derive(Clone, Debug)]
pub struct Group {
    pub name: Box<str>,
    /// The language part that it belongs to, if that is not `http`: groups of the same name in two parts are two.
    pub part: &'static str,
    /// Its index in the configuration, by which a language part finds what it knows of the group; `None`: it was
    /// made while serving.
    pub index: Option<usize>,
    /// An `upstream` block defines it; otherwise it is the host of a `proxy_pass`.
    pub is_block: bool,
    /// By their positions, which never change: a server that was removed leaves an empty one, and one that was
    /// added takes an empty position or a new one.
    pub servers: Vec<Arc<Server>>,
    pub method: Method,
    pub keepalive: Keepalive,
    /// `zone`: all workers count its peers' failures together.
    pub is_shared: bool,
    /// The turns of round robin that all workers take together, if it has a zone.
    pub turns: Option<SharedTurns>,
    /// `fail_open`: if no peer may be used because all are unhealthy or have failed, all of them are used.
    pub fails_open: bool,
    /// The active checks of its peers, whose results all workers heed; `None`: there are none.
    pub checks: Option<Checks>,
    /// `sticky`: its peers have ids.
    pub is_sticky: bool,
    /// `agent_check`: an agent of each peer tells how it is.
    pub has_agent: bool,
    /// `outlier_ejection`
    pub outliers: Option<outlier::Rules>,
    /// `queue`: how many requests may wait for a peer.
    pub queue: Option<waiting::Rule>,
    /// `retry_budget`: how many repeated requests it may get; `None`: any number.
    pub retries: Option<budget::Rule>,
    /// `state`: the file that keeps its servers, which each change writes anew.
    pub state: Option<Arc<StateFile>>,
    /// `None` if it has no server with `resolve`.
    pub lookup: Option<Lookup>,
    /// Number of servers that the configuration has; those behind them were added while serving.
    pub configured_count: usize,
    /// The id of the next server that is added.
    pub next_id: u32,
    /// A configured server has `slow_start`. What is added later does not change it: all workers count in the same
    /// scale.
    has_slow_start: bool,
    /// Its counters; `None` if it is not counted, or if no slot was left.
    pub slot: Option<Slot>,
    /// For each server, in the order of its addresses.
    shared: Vec<Arc<[Shared]>>,
    /// The places of peers that were removed, by an operator or by their name, and may still process requests.
    leaving: Vec<Place>,
}

impl Group {
    /// `servers` have the addresses known so far; a server without any gets peers when a worker learns some.
    pub fn new(name: &str, servers: Vec<Server>) -> Self {
        Self::of("", name, servers)
    }

    /// The same in a language part (`part` of the group).
    pub fn of(part: &'static str, name: &str, servers: Vec<Server>) -> Self {
        Self::with((part, name), servers, Method::default(), Keepalive::default(), false)
    }

    /// Like [`Group::of`], with the settings of an `upstream` block. `is_shared`: it has a `zone`.
    pub fn with(
        (part, name): (&'static str, &str),
        servers: Vec<impl Into<Arc<Server>>>,
        method: Method,
        keepalive: Keepalive,
        is_shared: bool,
    ) -> Self {
        let full = full_name(part, name);
        let slot = counter::slot(counter::Kind::Upstream, &full);
        let turns = if is_shared { SharedTurns::of(&full) } else { None };
        let mut group = Self::uncounted(name, servers);
        group.shared = group.servers.iter().map(|server| Self::assign(&full, server)).collect();
        Self { part, method, keepalive, is_shared, turns, slot, ..group }
    }

    /// Assigns the counters and places of a server's addresses, as only a master may.
    fn assign(group: &str, server: &Server) -> Arc<[Shared]> {
        let shared = |address: &Address| {
            let peer = peers::full_name(group, address);
            Shared { slot: counter::slot(counter::Kind::Peer, &peer), place: peers::place(&peer) }
        };
        server.addresses.iter().map(shared).collect()
    }

    /// The same group with another server at `position`, or with one more if that is the number of its servers.
    /// `None`: it has no such position. `shared`: the counters and places that the master has assigned to the
    /// server's addresses; `None`: this is the master, and assigns them.
    #[must_use]
    pub fn with_server(
        &self,
        position: usize,
        server: Server,
        shared: Option<Arc<[Shared]>>,
    ) -> Option<Self> {
        let shared = shared.unwrap_or_else(|| Self::assign(&self.full_name(), &server));
        let mut group = self.clone();
        group.next_id = group.next_id.max(server.id.saturating_add(1));
        if server.is_removed {
            group.leave(self.shared_of(position).iter().filter_map(|shared| shared.place));
        }
        match position.cmp(&group.servers.len()) {
            Ordering::Less => {
                group.servers[position] = Arc::new(server);
                group.shared[position] = shared;
            }
            Ordering::Equal => {
                group.servers.push(Arc::new(server));
                group.shared.push(shared);
            }
            Ordering::Greater => return None,
        }
        Some(group)
    }

    /// Notes that these peers have left. Forgets those that had left before and process nothing any more.
    fn leave(&mut self, places: impl Iterator<Item = Place>) {
        self.leaving.retain(|place| place.in_use() > 0);
        self.leaving.extend(places);
    }

    /// The same group, in which a server has peers at these addresses now: those that its name leads to. Others that it
    /// had have left.
    #[must_use]
    pub fn with_addresses(&self, position: usize, spots: &[Spot]) -> Self {
        let mut group = self.clone();
        let Some(server) = group.servers.get_mut(position) else { return group };
        let addresses = spots.iter().map(|spot| spot.address.clone()).collect();
        *server = Arc::new(Server { addresses, ..Server::clone(server) });
        let shared = |spot: &Spot| {
            let configured = self.shared(position, &spot.address);
            Shared {
                slot: spot.slot.and_then(Slot::of_index).or(configured.slot),
                place: spot.place.and_then(Place::of_index).or(configured.place),
            }
        };
        let shared: Arc<[Shared]> = spots.iter().map(shared).collect();
        let is_there = |place: &Place| {
            shared.iter().any(|now| now.place.is_some_and(|now| now.index() == place.index()))
        };
        group.leave(self.shared_of(position).iter().filter_map(|old| old.place));
        group.leaving.retain(|place| !is_there(place));
        // A group that was made while serving has no places.
        if let Some(present) = group.shared.get_mut(position) {
            *present = shared;
        }
        group
    }

    /// The position of the server with this id.
    pub fn position(&self, id: u32) -> Option<usize> {
        // Positions are ids unless servers were added.
        let is_it = |server: &Arc<Server>| server.id == id && !server.is_removed;
        let guess = usize::try_from(id).ok()?;
        match self.servers.get(guess) {
            Some(server) if is_it(server) => Some(guess),
            _ => self.servers.iter().position(is_it),
        }
    }

    /// Its servers with their positions, without those that were removed.
    pub fn present(&self) -> impl Iterator<Item = (usize, &Server)> {
        let all = self.servers.iter().map(|server| &**server).enumerate();
        all.filter(|(_, server)| !server.is_removed)
    }

    /// The counters and places of a server's addresses, in their order.
    pub fn shared_of(&self, position: usize) -> &[Shared] {
        self.shared.get(position).map_or(&[], |shared| shared)
    }

    /// Its name in memory that all language parts share.
    pub fn full_name(&self) -> Cow<'_, str> {
        full_name(self.part, &self.name)
    }

    /// A group that a worker makes while it serves. It counts nothing in shared memory: names that come from
    /// requests would use up the tables, and only the master assigns places.
    pub fn uncounted(name: &str, servers: Vec<impl Into<Arc<Server>>>) -> Self {
        let mut servers: Vec<Arc<Server>> = servers.into_iter().map(Into::into).collect();
        for (server, id) in servers.iter_mut().zip(0..) {
            Arc::make_mut(server).id = id;
        }
        let configured_count = servers.len();
        let has_slow_start = servers.iter().any(|server| server.slow_start_ms != 0);
        Self {
            name: name.into(),
            part: "",
            index: None,
            is_block: false,
            servers,
            method: Method::default(),
            keepalive: Keepalive::default(),
            is_shared: false,
            turns: None,
            fails_open: false,
            checks: None,
            is_sticky: false,
            has_agent: false,
            outliers: None,
            queue: None,
            retries: None,
            state: None,
            lookup: None,
            configured_count,
            next_id: u32::try_from(configured_count).unwrap_or(u32::MAX),
            has_slow_start,
            slot: None,
            shared: Vec::new(),
            leaving: Vec::new(),
        }
    }

    /// The factor of all weights: a slow start needs smaller parts of a weight than 1.
    pub fn weight_scale(&self) -> i64 {
        if self.has_slow_start && self.method.has_slow_start() { SLOW_START_SCALE } else { 1 }
    }

    /// The slot and the place of one of its servers at one of its addresses.
    pub fn shared(&self, server_index: usize, address: &Address) -> Shared {
        let found = self.servers.get(server_index).and_then(|server| {
            let index = server.addresses.iter().position(|other| other == address)?;
            self.shared.get(server_index)?.get(index)
        });
        found.copied().unwrap_or_default()
    }

    /// Its counters and those of its peers.
    pub fn slots(&self) -> impl Iterator<Item = Slot> {
        self.shared.iter().flat_map(|shared| &**shared).filter_map(|shared| shared.slot).chain(self.slot)
    }

    /// The places of its peers.
    pub fn places(&self) -> impl Iterator<Item = Place> {
        self.shared.iter().flat_map(|shared| &**shared).filter_map(|shared| shared.place)
    }

    /// The places of its peers, and of those that were removed.
    pub fn all_places(&self) -> impl Iterator<Item = Place> {
        self.places().chain(self.leaving.iter().copied())
    }

    /// Number of peers that were removed, by an operator or by their name, and that still process requests.
    pub fn zombies(&self) -> usize {
        if self.leaving.is_empty() {
            return 0;
        }
        let present: HashSet<u32> = self.places().map(Place::index).collect();
        let leaving: HashSet<u32> =
            self.leaving.iter().filter(|place| place.in_use() > 0).map(|place| place.index()).collect();
        leaving.difference(&present).count()
    }

    /// Number of peers for which no place was left.
    pub fn peers_without_place(&self) -> usize {
        self.shared.iter().flat_map(|shared| &**shared).filter(|shared| shared.place.is_none()).count()
    }

    /// Indexes of the servers whose names did not resolve, except those with `resolve`.
    pub fn unresolved(&self) -> Vec<usize> {
        let waits = |(_, server): &(usize, &Server)| !server.resolve && server.addresses.is_empty();
        self.present().filter(waits).map(|(position, _)| position).collect()
    }
}

fn full_name<'a>(part: &str, name: &'a str) -> Cow<'a, str> {
    if part.is_empty() { name.into() } else { format!("{part} {name}").into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::address;

    fn server(name: &str, addresses: &[&str]) -> Server {
        let addresses = addresses.iter().map(|text| Address::Inet(text.parse().unwrap())).collect();
        Server { addresses, ..Server::new(name, address::parse_upstream(name, 80).unwrap()) }
    }

    #[test]
    fn each_address_of_each_server_counts_on_its_own() {
        let servers = || {
            let (first, second) = (["1.1.1.1:80", "1.1.1.2:80"], ["1.1.1.2:80", "1.1.1.3:80"]);
            vec![server("a.test", &first), server("b.test", &second), server("c.test", &[])]
        };
        let group = Group::new("group.places", servers());
        let index = |server: usize, text: &str| {
            let shared = group.shared(server, &Address::Inet(text.parse().unwrap()));
            shared.slot.zip(shared.place).map(|(slot, place)| (slot.index(), place.index()))
        };
        let all = [index(0, "1.1.1.1:80"), index(0, "1.1.1.2:80"), index(1, "1.1.1.3:80")];
        assert!(all.iter().all(Option::is_some) && all[0] != all[1] && all[1] != all[2]);
        assert_eq!(index(1, "1.1.1.2:80"), all[1], "one address of one group is one peer to all processes");
        for (server, text) in [(0, "1.1.1.3:80"), (2, "1.1.1.1:80"), (9, "1.1.1.1:80")] {
            assert_eq!(index(server, text), None, "{server} {text}");
        }
        assert_eq!((group.slots().count(), group.places().count(), group.peers_without_place()), (5, 4, 0));
        assert_eq!(group.unresolved(), [2]);

        let made = Group::uncounted("group.places", servers());
        assert_eq!((made.slots().count(), made.places().count()), (0, 0));
        assert!(made.shared(0, &Address::Inet("1.1.1.1:80".parse().unwrap())).place.is_none());
    }
}
