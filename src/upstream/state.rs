//! A group in one worker: the peers that its servers' names resolve to now, and the idle connections to them.
//!
//! Made from the configuration the first time that the worker needs the group. The set of peers is replaced
//! as a whole when a name's addresses change; a request keeps the set with which it began.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::net::address::Address;
use crate::net::tls::client::Terms;
use crate::shm::counter::Slot;
use crate::shm::peers::Place;
use crate::upstream::balance::Ring;
use crate::upstream::budget::Budget;
use crate::upstream::follow::Names;
use crate::upstream::group::Group;
use crate::upstream::known::Spot;
use crate::upstream::links::Links;
use crate::upstream::load::Loads;
use crate::upstream::peer::{BACKUP, Peer, Server, Shared};
use crate::upstream::pool::{ClientNumber, Connection, Pool, Tag};
use crate::upstream::sticky::Bound;
use crate::upstream::sticky::Id;
use crate::upstream::turns::Turns;
use crate::upstream::waiting::Waiting;

/// The peers at one moment. A request keeps the set with which it began.
#[derive(Debug)]
pub struct Set {
    /// The group whose peers they are.
    pub group: Arc<Group>,
    /// One list for each priority, the most preferred first. None of them is empty.
    pub levels: Vec<List>,
    /// Number of peers that are not `down`, at all levels: the number of turns that a request may take.
    pub tries: u32,
}

/// The peers of one priority, between which the balancer chooses.
#[derive(Debug)]
pub struct List {
    /// 0 for ordinary servers, 1 for `backup`.
    pub priority: u32,
    pub peers: Vec<Rc<Peer>>,
    /// The peers' loads, in the same order.
    pub loads: Rc<Loads>,
    group: Option<Arc<Group>>,
    /// Sums of the weights up to and including each peer; made when a balancer first asks.
    ends: OnceCell<Box<[i64]>>,
    /// Made at the first turn; `None`: there is no order.
    turns: OnceCell<Option<Turns>>,
    ring: OnceCell<Ring>,
}

impl List {
    /// Gives each of these peers its seat. `group` has the names of their servers.
    pub fn of(priority: u32, peers: Vec<Rc<Peer>>, group: Option<Arc<Group>>) -> Self {
        let loads = Rc::new(Loads::new(peers.iter().map(|peer| peer.load())));
        peers.iter().enumerate().for_each(|(index, peer)| peer.sit(&loads, index));
        let (ends, turns, ring) = (OnceCell::new(), OnceCell::new(), OnceCell::new());
        Self { priority, peers, loads, group, ends, turns, ring }
    }

    /// The turns of round robin while nothing is against any peer.
    #[inline]
    pub(super) fn turns(&self) -> Option<&Turns> {
        let turns = || {
            let shared = self.group.as_ref().and_then(|group| group.turns);
            Turns::new(self.loads.weights(), shared.map(|shared| shared.of_priority(self.priority)))
        };
        self.turns.get_or_init(turns).as_ref()
    }

    /// The peer that owns a unit of the sum of all weights. One past the last peer beyond that sum.
    pub(super) fn at_weight(&self, unit: i64) -> usize {
        let ends = self.ends.get_or_init(|| {
            let add = |end: &mut i64, load: crate::upstream::load::Load<'_>| {
                *end = end.saturating_add(load.weight());
                Some(*end)
            };
            self.loads.iter().scan(0, add).collect()
        });
        ends.partition_point(|&end| end <= unit)
    }

    /// The ring of consistent hashing: made when a request first needs it.
    pub(super) fn ring(&self) -> &Ring {
        self.ring.get_or_init(|| {
            Ring::new(
                self.peers.iter().zip(self.loads.iter()).map(|(peer, load)| (self.name(peer), load.weight())),
            )
        })
    }

    /// The name that places a peer on the ring: its server's as written, or, for one of a service's servers,
    /// its own.
    fn name<'a>(&'a self, peer: &'a Peer) -> &'a str {
        let server = self.group.as_ref().and_then(|group| group.servers.get(peer.server));
        server.filter(|server| server.service.is_none()).map_or(&peer.name, |server| &server.name)
    }
}

impl Set {
    fn empty(group: Arc<Group>) -> Self {
        Self { group, levels: Vec::new(), tries: 0 }
    }

    /// True if there is a single peer.
    pub fn is_single(&self) -> bool {
        matches!(&*self.levels, [only] if only.peers.len() == 1)
    }

    pub fn is_empty(&self) -> bool {
        self.levels.is_empty()
    }

    /// The number of peers at the level that has the most.
    pub fn largest_level(&self) -> usize {
        self.levels.iter().map(|list| list.peers.len()).max().unwrap_or(0)
    }

    /// Every peer, in order of priority.
    pub fn all(&self) -> impl Iterator<Item = &Rc<Peer>> {
        self.levels.iter().flat_map(|list| &list.peers)
    }

    /// Every peer with its priority.
    fn ranked(&self) -> impl Iterator<Item = (u32, &Rc<Peer>)> {
        self.levels.iter().flat_map(|list| list.peers.iter().map(|peer| (list.priority, peer)))
    }
}

/// A group in one worker.
///
/// Owns the peers with this worker's state of them, and the kept connections. Requests, and the tasks that
/// look names up, hold it while they use it. Nothing here is shared with other processes, except the words of
/// peers in a group with `zone`, which are in shared memory.
#[derive(Debug)]
pub struct GroupState {
    pub group: Arc<Group>,
    /// The first lookups of its servers' names; `None` if no server has `resolve`.
    pub names: Option<Names>,
    /// The requests that went to a second server in parallel.
    pub hedges: Budget,
    /// The requests that were repeated.
    pub retries: Budget,
    /// The requests that wait for a peer; `None`: none does.
    pub waiting: Option<Rc<Waiting>>,
    pool: Pool,
    /// The connections that requests share.
    pub links: Rc<Links>,
    set: RefCell<Rc<Set>>,
}

impl GroupState {
    pub fn new(group: Arc<Group>) -> Self {
        let names = group.lookup.as_ref().map(|lookup| Names::new(&group, lookup.timeout_ms));
        let set = RefCell::new(Rc::new(Set::empty(Arc::clone(&group))));
        let waiting = group.queue.is_some().then(|| Rc::new(Waiting::new(group.slot)));
        let (hedges, retries) = (Budget::default(), Budget::default());
        let (pool, links) = (Pool::new(group.slot), Rc::default());
        let state = Self { group, names, hedges, retries, waiting, pool, links, set };
        state.set.replace(Rc::new(state.first_set()));
        state
    }

    pub fn set(&self) -> Rc<Set> {
        Rc::clone(&self.set.borrow())
    }

    /// Takes a kept connection to `peer` on these terms, if there is a good one. `tag` is the location that
    /// asks.
    pub fn take(&self, peer: &Rc<Peer>, tag: Tag, terms: Option<&Arc<Terms>>) -> Option<Box<Connection>> {
        self.pool.take(peer, tag, terms, &self.group.keepalive)
    }

    /// The same for a client that a connection may be bound to (`ntlm`).
    pub fn take_for(
        &self,
        client: ClientNumber,
        peer: &Rc<Peer>,
        tag: Tag,
        terms: Option<&Arc<Terms>>,
    ) -> Option<Box<Connection>> {
        self.pool.take_bound(client, peer, tag, terms).or_else(|| self.take(peer, tag, terms))
    }

    /// The peer that a client's bound connection leads to.
    pub fn bound(&self, client: ClientNumber) -> Option<Bound> {
        self.pool.bound_address(client).map(Bound::Address)
    }

    /// Keeps a connection whose last response ended cleanly, unless it is used up or the worker is leaving.
    pub fn give(&self, connection: Box<Connection>) {
        self.pool.give(connection, &self.group.keepalive);
    }

    /// Takes over the present addresses of a server's name. False if they have not changed. Existing peers
    /// keep their state; those whose address is gone get no new requests.
    pub fn learn(&self, server_index: usize, spots: &[Spot]) -> bool {
        if self.is_at(server_index, spots) {
            return false;
        }
        let group = self.set().group.with_addresses(server_index, spots);
        self.put(Arc::new(group), server_index, spots.to_vec());
        true
    }

    /// Puts another server at a position of the group. False if the group has no such position. The peers of the
    /// other servers, and those of this one that stay as they are, keep their state.
    pub fn edit(&self, position: usize, server: Server, shared: Arc<[Shared]>) -> bool {
        let old = self.set();
        // The line has no addresses of a name. They are known here, and to the master only if it is not followed.
        let is_name = server.resolve || server.addresses.is_empty();
        let found = (is_name && !server.is_removed).then(|| self.found(&old, position));
        let spots = found.unwrap_or_else(|| spots(&server.addresses));
        let Some(mut group) = old.group.with_server(position, server, Some(shared)) else { return false };
        if is_name {
            group = group.with_addresses(position, &spots);
        }
        self.put(Arc::new(group), position, spots);
        true
    }

    /// The addresses at which a server has peers now.
    fn found(&self, set: &Set, position: usize) -> Vec<Spot> {
        let Some(server) = set.group.servers.get(position) else { return Vec::new() };
        let scale = self.group.weight_scale().max(1);
        let own = set.ranked().filter(|(_, peer)| peer.server == position);
        own.map(|(rank, peer)| Spot {
            // An SRV record has a weight and a priority of its own.
            weight: server.service.as_ref().and_then(|_| u16::try_from(peer.weight() / scale).ok()),
            is_backup: rank > server.priority,
            slot: peer.shared.slot.map(Slot::index),
            place: peer.shared.place.map(Place::index),
            ..Spot::from(peer.address.clone())
        })
        .collect()
    }

    /// True if the server has exactly these peers, in any order.
    fn is_at(&self, server_index: usize, spots: &[Spot]) -> bool {
        let set = self.set();
        let server = set.group.servers.get(server_index).filter(|server| !server.is_removed);
        let Some(server) = server else { return true };
        let mut peers: Vec<_> = set.ranked().filter(|(_, peer)| peer.server == server_index).collect();
        let is_known = |spot: &Spot| {
            let is_it = |(rank, peer): &(u32, &Rc<Peer>)| {
                *rank == priority(server, spot)
                    && peer.address == spot.address
                    && peer.is_of(server, self.weight(server, spot))
            };
            // Each peer matches one address.
            peers.iter().position(is_it).map(|index| peers.swap_remove(index)).is_some()
        };
        spots.iter().all(is_known) && peers.is_empty()
    }

    /// True if there is no peer at all.
    pub fn is_empty(&self) -> bool {
        self.set.borrow().is_empty()
    }

    pub fn has_peers(&self, server_index: usize) -> bool {
        self.set().all().any(|peer| peer.server == server_index)
    }

    /// Indexes of the servers without a peer because their name did not resolve at the start, except those
    /// with `resolve`.
    pub fn unresolved(&self) -> Vec<usize> {
        let mut waiting = self.set().group.unresolved();
        waiting.retain(|index| !self.has_peers(*index));
        waiting
    }

    /// The peers of all servers at the addresses that the configuration knows.
    fn first_set(&self) -> Set {
        let group = &self.group;
        let mut draft = Draft::default();
        let mut ids = HashMap::new();
        for (index, server) in group.servers.iter().enumerate() {
            for spot in spots(&server.addresses) {
                let next_id = ids.len() as u32;
                let address_id = *ids.entry(spot.address.clone()).or_insert(next_id);
                let rank = priority(server, &spot);
                let mut peer = self.peer(group, index, server, spot);
                peer.address_id = address_id;
                draft.add(rank, Rc::new(peer));
                draft.tries += u32::from(!server.down);
            }
        }
        draft.finish(group)
    }

    /// Puts the peers that one server has at these addresses in the place of those that it had. `group` is the present
    /// one, perhaps with this server as a new one.
    ///
    /// Of the others, whose number may be large, only the pointers are copied.
    fn put(&self, group: Arc<Group>, index: usize, spots: Vec<Spot>) {
        let old = self.set();
        let Some(server) = group.servers.get(index) else { return };
        let own: Vec<Ranked<'_>> = old.ranked().filter(|(_, peer)| peer.server == index).collect();
        let mut left = own.clone();
        let mut now: Vec<(u32, Rc<Peer>)> = Vec::with_capacity(spots.len());
        for spot in spots {
            let weight = self.weight(server, &spot);
            let is_it = |(_, peer): &Ranked<'_>| peer.address == spot.address && peer.is_of(server, weight);
            // Reuse each peer only once: two SRV records may name the same address.
            let kept = left.iter().position(is_it).map(|at| Rc::clone(left.swap_remove(at).1));
            let rank = priority(server, &spot);
            let peer = kept.unwrap_or_else(|| {
                let others = old.all().chain(now.iter().map(|(_, peer)| peer));
                let address_id = address_id(others, &spot.address);
                let mut peer = self.peer(&group, index, server, spot);
                peer.address_id = address_id;
                Rc::new(peer)
            });
            now.push((rank, peer));
        }
        let was_down = old.group.servers.get(index).is_some_and(|server| server.down);
        let mut draft = Draft {
            levels: Vec::with_capacity(old.levels.len() + 1),
            tries: old.tries - if was_down { 0 } else { own.len() as u32 },
        };
        // The peers of a level are in the order of their servers.
        let split = |list: &List| list.peers.partition_point(|peer| peer.server < index);
        for list in &old.levels {
            let mut peers = Vec::with_capacity(list.peers.len() + now.len());
            peers.extend_from_slice(&list.peers[..split(list)]);
            draft.levels.push((list.priority, peers));
        }
        for (_, peer) in &left {
            let successor = now.iter().find(|(_, now)| now.address == peer.address);
            peer.succession.end(successor.map(|(_, successor)| Rc::clone(successor)));
        }
        for (rank, peer) in now {
            draft.add(rank, peer);
            draft.tries += u32::from(!server.down);
        }
        for list in &old.levels {
            let behind = list.peers[split(list)..].iter().filter(|peer| peer.server != index);
            behind.for_each(|peer| draft.add(list.priority, Rc::clone(peer)));
        }
        let set = draft.finish(&group);
        for list in &old.levels {
            list.loads.retire();
            let same = set.levels.iter().find(|now| now.priority == list.priority);
            same.into_iter().for_each(|now| now.loads.turn.set(list.loads.turn.get()));
        }
        self.set.replace(Rc::new(set));
        if !left.is_empty() {
            self.pool.close_retired();
            self.links.close_retired();
        }
    }

    /// The weight of a server at one of its addresses, in the group's scale.
    fn weight(&self, server: &Server, spot: &Spot) -> i64 {
        let weight = spot.weight.map_or(server.weight, i64::from);
        weight.saturating_mul(self.group.weight_scale())
    }

    fn peer(&self, group: &Group, index: usize, server: &Server, spot: Spot) -> Peer {
        let configured = group.shared(index, &spot.address);
        let slot = configured.slot.or_else(|| Slot::of_index(spot.slot?));
        let place = configured.place.or_else(|| Place::of_index(spot.place?));
        let shared = Shared { slot, place };
        let peer = |server: &Server, spot: Spot| {
            let peer = Peer::new(server, index, spot.address, shared, self.group.is_shared);
            peer.with_checks(self.group.checks).with_agent(self.group.has_agent)
        };
        let weight = self.weight(server, &spot);
        let mut peer = if weight == server.weight {
            peer(server, spot)
        } else {
            peer(&Server { weight, ..server.clone() }, spot)
        };
        peer.waiting.clone_from(&self.waiting);
        peer.outliers = self.group.outliers;
        if self.group.is_sticky {
            let id = Id::new(server.route.as_deref(), &peer.name);
            return peer.with_id(id);
        }
        peer
    }
}

/// A peer with its priority.
type Ranked<'a> = (u32, &'a Rc<Peer>);

/// A set while it is put together.
#[derive(Debug, Default)]
struct Draft {
    levels: Vec<(u32, Vec<Rc<Peer>>)>,
    tries: u32,
}

impl Draft {
    fn add(&mut self, priority: u32, peer: Rc<Peer>) {
        let index = self.levels.partition_point(|(other, _)| *other < priority);
        if self.levels.get(index).is_none_or(|(other, _)| *other != priority) {
            self.levels.insert(index, (priority, Vec::new()));
        }
        self.levels[index].1.push(peer);
    }

    fn finish(self, group: &Arc<Group>) -> Set {
        let list = |(priority, peers)| List::of(priority, peers, Some(Arc::clone(group)));
        let levels = self.levels.into_iter().filter(|(_, peers)| !peers.is_empty()).map(list).collect();
        Set { group: Arc::clone(group), levels, tries: self.tries }
    }
}

/// The number of an address: that of a peer which has it, or else one that no peer has.
fn address_id<'a>(peers: impl Iterator<Item = &'a Rc<Peer>>, address: &Address) -> u32 {
    let mut next = 0;
    for peer in peers {
        if peer.address == *address {
            return peer.address_id;
        }
        next = next.max(peer.address_id + 1);
    }
    next
}

fn spots(addresses: &[Address]) -> Vec<Spot> {
    addresses.iter().cloned().map(Spot::from).collect()
}

fn priority(server: &Server, spot: &Spot) -> u32 {
    if spot.is_backup { server.priority.max(BACKUP) } else { server.priority }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::net::address;
    use crate::upstream::session::{Outcome, Session};

    fn server(name: &str) -> Server {
        Server::new(name, address::parse_upstream(name, 80).unwrap())
    }

    fn addresses(texts: &[&str]) -> Vec<Address> {
        texts.iter().map(|text| Address::Inet(text.parse().unwrap())).collect()
    }

    /// A group without places in shared memory.
    pub(in crate::upstream) fn state(servers: Vec<Server>) -> GroupState {
        GroupState::new(Arc::new(Group::uncounted("test", servers)))
    }

    #[test]
    fn a_server_with_several_addresses_is_several_peers() {
        let mut many = server("backend.test");
        many.addresses = addresses(&["1.1.1.1:80", "1.1.1.2:80"]);
        many.weight = 2;
        let group = state(vec![many, server("1.1.1.3")]);
        let names: Vec<String> = group.set().all().map(|peer| peer.name.to_string()).collect();
        assert_eq!(names, ["1.1.1.1:80", "1.1.1.2:80", "1.1.1.3:80"]);
        assert_eq!(group.set().tries, 3);
    }

    #[test]
    fn an_unresolved_server_joins_when_its_name_resolves() {
        let group = state(vec![server("later.test"), server("1.1.1.3")]);
        assert_eq!(group.unresolved(), [0]);
        let mut session = Session::new(&group, 0);
        session.pick(1000).unwrap();
        let survivor = Rc::clone(group.set().all().next().unwrap());

        let now = spots(&addresses(&["1.1.1.1:80", "1.1.1.2:80"]));
        assert!(group.learn(0, &now) && !group.learn(0, &now));

        assert_eq!(group.unresolved(), [0usize; 0]);
        let set = group.set();
        assert_eq!(set.all().count(), 3);
        assert!(Rc::ptr_eq(set.all().last().unwrap(), &survivor), "a peer that stays keeps its words");
        session.finish(Outcome::Failed, 1000);
        assert_eq!(survivor.conns(), 0);
    }

    #[test]
    fn peers_come_and_go_by_address_and_weight() {
        let mut followed = server("later.test");
        followed.resolve = true;
        let group = state(vec![followed]);
        assert_eq!(group.unresolved(), [0usize; 0], "it is followed");
        let spot = |port: u16, weight, is_backup| Spot {
            address: Address::Inet(([1, 1, 1, 1], port).into()),
            weight: Some(weight),
            is_backup,
            slot: None,
            place: None,
        };
        assert!(group.learn(0, &[spot(1, 5, false), spot(1, 5, false), spot(2, 5, true)]));
        let before = group.set();
        let sizes = |set: &Set| set.levels.iter().map(|list| list.peers.len()).collect::<Vec<_>>();
        assert_eq!((sizes(&before), before.tries), (vec![2, 1], 3));
        let primary = &before.levels[0].peers;
        assert!(!Rc::ptr_eq(&primary[0], &primary[1]), "two records are two peers");
        assert!(
            !group.learn(0, &[spot(2, 5, true), spot(1, 5, false), spot(1, 5, false)]),
            "order is nothing"
        );

        assert!(group.learn(0, &[spot(1, 6, false), spot(1, 5, false), spot(2, 5, false)]));
        let after = group.set();
        assert_eq!(sizes(&after), [3]);
        let now = &after.levels[0].peers;
        assert!(!primary.iter().any(|old| Rc::ptr_eq(old, &now[0])), "another weight");
        assert!(primary.iter().any(|old| Rc::ptr_eq(old, &now[1])));
        assert!(
            Rc::ptr_eq(&before.levels[1].peers[0], &now[2]),
            "the state is the peer's, whatever its list"
        );
        assert!(group.learn(0, &[]) && !group.has_peers(0));
    }

    #[test]
    fn a_group_whose_names_do_not_resolve_has_nobody() {
        let group = state(vec![server("later.test")]);
        assert!(Session::new(&group, 0).pick(0).is_none());
    }

    #[test]
    fn tries_count_the_servers_that_are_not_down() {
        let down = Server { down: true, ..server("1.1.1.1") };
        let backup = Server { priority: BACKUP, ..server("1.1.1.2") };
        assert_eq!(state(vec![down, backup, server("1.1.1.3")]).set().tries, 2);
    }
}
