//! A named set of servers that share load: an `upstream` block, or the one server of a `proxy_pass`.
//!
//! Built while the configuration is compiled. Its servers are immutable; its set of peers is replaced as a
//! whole when a name leads elsewhere.

use std::cell::RefCell;
use std::rc::Rc;

use crate::net::address::Address;
use crate::shm::counter::{self, Slot};
use crate::shm::peers::{self, Place};
use crate::upstream::balance::Method;
use crate::upstream::follow::Names;
use crate::upstream::known::Spot;
use crate::upstream::peer::{Peer, Server};
use crate::upstream::pool::Pool;

/// How a group keeps connections to its peers (`keepalive` and its companions).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Idle connections kept by each worker; 0: every connection is closed after its request.
    pub idle_max: usize,
    /// A connection serves again only the location that opened it.
    pub local: bool,
    pub requests_max: u64,
    /// Age after which a connection is not kept any more.
    pub time_ms: u64,
    /// How long a connection stays idle.
    pub timeout_ms: u64,
}

impl Default for Keepalive {
    fn default() -> Self {
        Self { idle_max: 32, local: true, requests_max: 1000, time_ms: 3_600_000, timeout_ms: 60_000 }
    }
}

/// Peers at one moment. A request keeps the set with which it began.
#[derive(Debug, Default)]
pub struct Set {
    pub primary: Vec<Rc<Peer>>,
    pub backup: Vec<Rc<Peer>>,
    /// Peers that are not `down`, backups included: how many turns a request may take.
    pub tries: u32,
    /// How one of them is chosen.
    pub method: Method,
}

impl Set {
    /// One peer and nobody beside it.
    pub fn is_single(&self) -> bool {
        self.primary.len() == 1 && self.backup.is_empty()
    }
}

/// Where the processes count what concerns one peer. Given out by the master only, so a peer that a worker makes while
/// serving has none, and neither has one that came when all were in use.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shared {
    /// Its counters: requests, statuses, bytes, times.
    pub slot: Option<Slot>,
    /// Its words for balancing: failures, connections in use, health.
    pub place: Option<Place>,
}

/// A group of servers, and its peers in this worker.
#[derive(Debug)]
pub struct Group {
    pub name: Box<str>,
    pub servers: Vec<Server>,
    pub keepalive: Keepalive,
    pub method: Method,
    /// `zone`: all workers count its peers' failures together.
    is_shared: bool,
    /// How the names of its servers with `resolve` are looked up; `None`: there is no such server.
    pub names: Option<Names>,
    /// Its counters; `None`: it is not counted, or there was no slot left.
    pub slot: Option<Slot>,
    /// The idle connections of this worker.
    pub pool: Pool,
    set: RefCell<Rc<Set>>,
}

impl Group {
    /// `servers` with the addresses they have; those without are left out until [`Group::learn`].
    pub fn new(name: &str, servers: Vec<Server>) -> Self {
        Self::with(name, servers, Keepalive::default(), false)
    }

    /// Like [`Group::new`], with what an `upstream` block says. `is_shared`: it has a `zone`.
    pub fn with(name: &str, servers: Vec<Server>, keepalive: Keepalive, is_shared: bool) -> Self {
        let mut group = Self { keepalive, is_shared, ..Self::empty(name, servers) };
        group.slot = counter::slot(counter::Kind::Upstream, name);
        let shared = |address: &Address| {
            let peer = address.to_string();
            let slot = counter::slot(counter::Kind::Peer, &format!("{name}/{peer}"));
            Shared { slot, place: peers::place(name, &peer) }
        };
        group.rebuild(|_, server| Some(spots(&server.addresses)), shared);
        group
    }

    /// A group that a worker makes while it serves. It has no counters: names that come from requests would use up
    /// the table, and slots are given out by the master only.
    pub fn uncounted(name: &str, servers: Vec<Server>) -> Self {
        let group = Self::empty(name, servers);
        group.rebuild(|_, server| Some(spots(&server.addresses)), |_| Shared::default());
        group
    }

    fn empty(name: &str, mut servers: Vec<Server>) -> Self {
        servers.shrink_to_fit(); // there may be thousands of groups
        Self {
            name: name.into(),
            servers,
            keepalive: Keepalive::default(),
            method: Method::default(),
            is_shared: false,
            names: None,
            slot: None,
            pool: Pool::default(),
            set: RefCell::default(),
        }
    }

    /// Its counters and those of its peers.
    pub fn slots(&self) -> Vec<Slot> {
        let set = self.set();
        let peers = set.primary.iter().chain(&set.backup).filter_map(|peer| peer.shared.slot);
        peers.chain(self.slot).collect()
    }

    /// The places of its peers.
    pub fn places(&self) -> Vec<Place> {
        let set = self.set();
        set.primary.iter().chain(&set.backup).filter_map(|peer| peer.shared.place).collect()
    }

    pub fn set(&self) -> Rc<Set> {
        Rc::clone(&self.set.borrow())
    }

    /// Takes the addresses that a server's name leads to now; false: nothing has changed by it. Peers that exist stay
    /// what they are, those that are not among the addresses any more get no new requests.
    pub fn learn(&self, server_index: usize, spots: &[Spot]) -> bool {
        if self.is_at(server_index, spots) {
            return false;
        }
        // slots are given out by the master only
        self.rebuild(|index, _| (index == server_index).then(|| spots.to_vec()), |_| Shared::default());
        true
    }

    /// The server has just these peers, in whatever order.
    fn is_at(&self, server_index: usize, spots: &[Spot]) -> bool {
        let Some(server) = self.servers.get(server_index) else { return true };
        let set = self.set();
        let listed = |list: &[Rc<Peer>], is_backup: bool| {
            let of_server = list.iter().filter(|peer| peer.server == server_index);
            of_server.map(|peer| (Rc::clone(peer), is_backup)).collect::<Vec<_>>()
        };
        let mut peers = [listed(&set.primary, false), listed(&set.backup, true)].concat();
        let is_known = |spot: &Spot| {
            let is_it = |(peer, is_backup): &(Rc<Peer>, bool)| {
                *is_backup == (server.backup || spot.is_backup)
                    && peer.address == spot.address
                    && peer.has_weight(weight(server, spot))
            };
            // each peer stands for one address
            peers.iter().position(is_it).map(|index| peers.swap_remove(index)).is_some()
        };
        spots.iter().all(is_known) && peers.is_empty()
    }

    /// There is no peer at all.
    pub fn is_empty(&self) -> bool {
        let set = self.set.borrow();
        set.primary.is_empty() && set.backup.is_empty()
    }

    pub fn has_peers(&self, server_index: usize) -> bool {
        let set = self.set();
        set.primary.iter().chain(&set.backup).any(|peer| peer.server == server_index)
    }

    /// Indexes of the servers that have no peer because their name did not resolve at the start. Names that are
    /// followed while serving are another matter.
    pub fn unresolved(&self) -> Vec<usize> {
        let waits = |index: &usize| !self.servers[*index].resolve && !self.has_peers(*index);
        (0..self.servers.len()).filter(waits).collect()
    }

    /// `spots_of`: where a server is now; `None`: its peers stay.
    fn rebuild(
        &self,
        spots_of: impl Fn(usize, &Server) -> Option<Vec<Spot>>,
        shared: impl Fn(&Address) -> Shared,
    ) {
        let old = self.set();
        // each peer stays once: two SRV records may name one address
        let mut left: Vec<&Rc<Peer>> = old.primary.iter().chain(&old.backup).collect();
        let mut set = Set { method: self.method.clone(), ..Set::default() };
        for (index, server) in self.servers.iter().enumerate() {
            let Some(spots) = spots_of(index, server) else {
                let of_server = |peer: &&Rc<Peer>| peer.server == index;
                let before = (set.primary.len(), set.backup.len());
                set.primary.extend(old.primary.iter().filter(of_server).cloned());
                set.backup.extend(old.backup.iter().filter(of_server).cloned());
                let kept = set.primary.len() + set.backup.len() - before.0 - before.1;
                set.tries += if server.down { 0 } else { kept as u32 };
                continue;
            };
            for spot in spots {
                let weight = weight(server, &spot);
                let is_it = |peer: &&Rc<Peer>| {
                    peer.server == index && peer.address == spot.address && peer.has_weight(weight)
                };
                let kept = left.iter().position(is_it).map(|at| Rc::clone(left.swap_remove(at)));
                let peer = kept.unwrap_or_else(|| {
                    let shared = shared(&spot.address);
                    let peer =
                        |server: &Server| Peer::new(server, index, spot.address, shared, self.is_shared);
                    Rc::new(match spot.weight {
                        Some(_) => peer(&Server { weight, ..server.clone() }),
                        None => peer(server),
                    })
                });
                set.tries += u32::from(!server.down);
                let list = if server.backup || spot.is_backup { &mut set.backup } else { &mut set.primary };
                list.push(peer);
            }
        }
        let stays =
            |peer: &&Rc<Peer>| set.primary.iter().chain(&set.backup).any(|other| Rc::ptr_eq(peer, other));
        let mut has_retired = false;
        for peer in old.primary.iter().chain(&old.backup).filter(|peer| !stays(peer)) {
            peer.retire();
            has_retired = true;
        }
        self.set.replace(Rc::new(set));
        if has_retired {
            self.pool.close_retired();
        }
    }
}

fn spots(addresses: &[Address]) -> Vec<Spot> {
    addresses.iter().cloned().map(Spot::from).collect()
}

fn weight(server: &Server, spot: &Spot) -> i64 {
    spot.weight.map_or(server.weight, i64::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::address;
    use crate::upstream::session::{Outcome, Session};

    fn server(name: &str) -> Server {
        Server::new(name, address::parse_upstream(name, 80).unwrap())
    }

    fn addresses(texts: &[&str]) -> Vec<Address> {
        texts.iter().map(|text| Address::Inet(text.parse().unwrap())).collect()
    }

    #[test]
    fn a_server_with_several_addresses_is_several_peers() {
        let mut many = server("backend.test");
        many.addresses = addresses(&["1.1.1.1:80", "1.1.1.2:80"]);
        many.weight = 2;
        let group = Group::new("g", vec![many, server("1.1.1.3")]);
        let names: Vec<String> = group.set().primary.iter().map(|peer| peer.name.to_string()).collect();
        assert_eq!(names, ["1.1.1.1:80", "1.1.1.2:80", "1.1.1.3:80"]);
        assert_eq!(group.set().tries, 3);
    }

    #[test]
    fn an_unresolved_server_joins_when_its_name_resolves() {
        let group = Group::new("g", vec![server("later.test"), server("1.1.1.3")]);
        assert_eq!(group.unresolved(), [0]);
        let mut session = Session::new(&group, 0);
        session.pick(1000).unwrap();
        let survivor = Rc::clone(&group.set().primary[0]);

        let now = spots(&addresses(&["1.1.1.1:80", "1.1.1.2:80"]));
        assert!(group.learn(0, &now) && !group.learn(0, &now));

        assert_eq!(group.unresolved(), [0usize; 0]);
        let set = group.set();
        assert_eq!(set.primary.len(), 3);
        assert!(Rc::ptr_eq(&set.primary[2], &survivor), "a peer that stays keeps its words");
        session.finish(Outcome::Failed, 1000);
        assert_eq!(survivor.conns(), 0);
    }

    #[test]
    fn peers_come_and_go_by_address_and_weight() {
        let mut followed = server("later.test");
        followed.resolve = true;
        let group = Group::new("g", vec![followed]);
        assert_eq!(group.unresolved(), [0usize; 0], "it is followed");
        let spot = |port: u16, weight, is_backup| Spot {
            address: Address::Inet(([1, 1, 1, 1], port).into()),
            weight: Some(weight),
            is_backup,
        };
        assert!(group.learn(0, &[spot(1, 5, false), spot(1, 5, false), spot(2, 5, true)]));
        let before = group.set();
        assert_eq!((before.primary.len(), before.backup.len(), before.tries), (2, 1, 3));
        assert!(!Rc::ptr_eq(&before.primary[0], &before.primary[1]), "two records are two peers");
        assert!(
            !group.learn(0, &[spot(2, 5, true), spot(1, 5, false), spot(1, 5, false)]),
            "order is nothing"
        );

        assert!(group.learn(0, &[spot(1, 6, false), spot(1, 5, false), spot(2, 5, false)]));
        let after = group.set();
        assert_eq!((after.primary.len(), after.backup.len()), (3, 0));
        assert!(!before.primary.iter().any(|old| Rc::ptr_eq(old, &after.primary[0])), "another weight");
        assert!(before.primary.iter().any(|old| Rc::ptr_eq(old, &after.primary[1])));
        assert!(
            Rc::ptr_eq(&before.backup[0], &after.primary[2]),
            "the state is the peer's, whatever its list"
        );
        assert!(group.learn(0, &[]) && !group.has_peers(0));
    }

    #[test]
    fn a_group_whose_names_do_not_resolve_has_nobody() {
        let group = Group::new("g", vec![server("later.test")]);
        assert!(Session::new(&group, 0).pick(0).is_none());
    }

    #[test]
    fn tries_count_the_servers_that_are_not_down() {
        let down = Server { down: true, ..server("1.1.1.1") };
        let backup = Server { backup: true, ..server("1.1.1.2") };
        assert_eq!(Group::new("g", vec![down, backup, server("1.1.1.3")]).set().tries, 2);
    }
}
