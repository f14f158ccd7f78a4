//! A named set of servers that share load: an `upstream` block, or the one server of a `proxy_pass`.
//!
//! Built while the configuration is compiled. Its servers are immutable; its set of peers is replaced as a
//! whole when a name that did not resolve at the start does.

use std::cell::RefCell;
use std::rc::Rc;

use crate::net::address::Address;
use crate::shm::counter::{self, Slot};
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
}

impl Set {
    /// One peer and nobody beside it.
    pub fn is_single(&self) -> bool {
        self.primary.len() == 1 && self.backup.is_empty()
    }
}

/// A group of servers, and its peers in this worker.
#[derive(Debug)]
pub struct Group {
    pub name: Box<str>,
    pub servers: Vec<Server>,
    pub keepalive: Keepalive,
    /// `zone`: all workers count its peers' failures together.
    is_shared: bool,
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
        let slot = |address: &Address| counter::slot(counter::Kind::Peer, &format!("{name}/{address}"));
        group.rebuild(|server| server.addresses.clone(), slot);
        group
    }

    /// A group that a worker makes while it serves. It has no counters: names that come from requests would use up
    /// the table, and slots are given out by the master only.
    pub fn uncounted(name: &str, servers: Vec<Server>) -> Self {
        let group = Self::empty(name, servers);
        group.rebuild(|server| server.addresses.clone(), |_| None);
        group
    }

    fn empty(name: &str, servers: Vec<Server>) -> Self {
        Self {
            name: name.into(),
            servers,
            keepalive: Keepalive::default(),
            is_shared: false,
            slot: None,
            pool: Pool::default(),
            set: RefCell::default(),
        }
    }

    /// Its counters and those of its peers.
    pub fn slots(&self) -> Vec<Slot> {
        let set = self.set();
        let peers = set.primary.iter().chain(&set.backup).filter_map(|peer| peer.slot);
        peers.chain(self.slot).collect()
    }

    pub fn set(&self) -> Rc<Set> {
        Rc::clone(&self.set.borrow())
    }

    /// Takes the addresses of a server whose name resolves now. Peers that exist stay what they are.
    pub fn learn(&self, server_index: usize, addresses: &[Address]) {
        let old = self.set();
        let known = |index: usize| {
            let peers = old.primary.iter().chain(&old.backup);
            peers.filter(move |peer| peer.server == index).map(|peer| peer.address.clone())
        };
        let mut index = 0;
        let addresses_of = |_: &Server| {
            let of_server = if index == server_index { addresses.to_vec() } else { known(index).collect() };
            index += 1;
            of_server
        };
        // slots are given out by the master only
        self.rebuild(addresses_of, |_| None);
    }

    /// Its peers have these addresses, in whatever order. For groups of one server.
    pub fn is_at(&self, addresses: &[Address]) -> bool {
        let set = self.set();
        let peers = || set.primary.iter().chain(&set.backup);
        peers().count() == addresses.len() && peers().all(|peer| addresses.contains(&peer.address))
    }

    /// Indexes of the servers that have no peer because their name did not resolve.
    pub fn unresolved(&self) -> Vec<usize> {
        let set = self.set();
        let has_peer = |index| set.primary.iter().chain(&set.backup).any(|peer| peer.server == index);
        (0..self.servers.len()).filter(|&index| !has_peer(index)).collect()
    }

    fn rebuild(
        &self,
        mut addresses_of: impl FnMut(&Server) -> Vec<Address>,
        slot: impl Fn(&Address) -> Option<Slot>,
    ) {
        let old = self.set();
        let mut set = Set::default();
        for (index, server) in self.servers.iter().enumerate() {
            for address in addresses_of(server) {
                let mut kept = old.primary.iter().chain(&old.backup);
                let kept = kept.find(|peer| peer.server == index && peer.address == address);
                let peer = kept.cloned().unwrap_or_else(|| {
                    let slot = slot(&address);
                    Rc::new(Peer::new(server, index, address, slot, self.is_shared))
                });
                set.tries += u32::from(!server.down);
                let list = if server.backup { &mut set.backup } else { &mut set.primary };
                list.push(peer);
            }
        }
        self.set.replace(Rc::new(set));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::address;
    use crate::upstream::round_robin::{Outcome, Session};

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

        group.learn(0, &addresses(&["1.1.1.1:80", "1.1.1.2:80"]));

        assert_eq!(group.unresolved(), [0usize; 0]);
        let set = group.set();
        assert_eq!(set.primary.len(), 3);
        assert!(Rc::ptr_eq(&set.primary[2], &survivor), "a peer that stays keeps its words");
        session.finish(Outcome::Failed, 1000);
        assert_eq!(survivor.conns(), 0);
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
