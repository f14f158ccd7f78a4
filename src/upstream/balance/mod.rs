//! Balancers: the ways in which a group chooses among its peers. Each is one file and one variant of
//! [`Method`].
//!
//! A balancer receives the peers that a request may still use ([`Eligible`]) and what it keeps of the request
//! ([`Cursor`]), and returns the index of one peer. The session counts a peer's turn and decides when it ends
//! (`upstream/session.rs`); the peer itself knows the reasons to leave it out (`upstream/peer.rs`). A
//! balancer keeps its state in the peers, so that it stays with a peer when the set around it changes; tables
//! that depend on the set belong to its lists (`upstream/state.rs`). No clock, no socket: the time is an
//! argument.

mod consistent;
mod hash;
mod ip_hash;
mod least_conn;
mod least_time;
#[cfg(test)]
mod properties;
mod random;
mod round_robin;

use smallvec::{SmallVec, smallvec};

pub use consistent::Ring;

use crate::upstream::load::{Load, Loads, Plain, ones};
use crate::upstream::peer::Peer;
use crate::upstream::state::List;

/// Number of misses after which a balancer that selects by key or at random leaves the choice to round robin;
/// nginx's.
const TRIES_MAX: u32 = 20;

/// The balancer of a group. Plain data, part of the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// Smooth weighted round robin: nginx's default.
    #[default]
    RoundRobin,
    LeastConn,
    /// The key is the client's network.
    IpHash,
    Hash,
    /// `hash … consistent`
    Consistent {
        /// `bounded=`, in thousandths; 0: no bound.
        bounded_x1000: u32,
    },
    Random {
        /// `two`: the better of two peers.
        two: Option<By>,
    },
    LeastTime {
        time: Time,
        /// Requests that still wait for the peer count.
        inflight: bool,
    },
}

/// What makes one of two peers the better one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Conns,
    Time(Time),
}

/// The time by which peers are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    /// The average time to the head of a response.
    Header,
    /// The average time to its end.
    LastByte,
    /// The average time to the head, which follows a slow response at once.
    Ewma,
}

/// The words of a language part for the times by which it compares peers.
pub type Times = &'static [(&'static str, Time)];

impl Time {
    /// The time that a word means.
    pub fn parse(word: &str, times: Times) -> Option<Self> {
        times.iter().find(|(name, _)| *name == word).map(|(_, time)| *time)
    }
}

impl Method {
    /// The index of the peer to use next; `None` if no peer may be used.
    #[inline]
    pub(super) fn pick(self, eligible: &Eligible<'_>, cursor: &mut Cursor) -> Option<usize> {
        match self {
            Self::RoundRobin => round_robin::pick(eligible),
            Self::LeastConn => least_conn::pick(eligible),
            Self::IpHash => ip_hash::pick(eligible, cursor),
            Self::Hash => hash::pick(eligible, cursor),
            Self::Consistent { bounded_x1000 } => consistent::pick(eligible, cursor, bounded_x1000),
            Self::Random { two } => random::pick(eligible, cursor, two),
            Self::LeastTime { time, inflight } => least_time::pick(eligible, time, inflight),
        }
    }

    /// The time by which it compares peers, if it does.
    #[inline]
    pub fn time(self) -> Option<Time> {
        match self {
            Self::LeastTime { time, .. } | Self::Random { two: Some(By::Time(time)) } => Some(time),
            _ => None,
        }
    }

    /// True if it can give a peer a part of its weight; nginx too excludes methods by key and by chance.
    pub fn has_slow_start(self) -> bool {
        matches!(self, Self::RoundRobin | Self::LeastConn | Self::LeastTime { .. })
    }

    /// True if requests that still wait for a peer count.
    #[inline]
    pub fn counts_waiting(self) -> bool {
        matches!(self, Self::LeastTime { inflight: true, .. })
    }
}

/// What a balancer keeps of one request, from turn to turn.
#[derive(Clone, Debug, Default)]
pub(super) struct Cursor {
    /// For methods that send equal keys to the same peer; empty for others.
    key: Box<[u8]>,
    hash: u32,
    rehash: u32,
    /// Misses so far.
    tries: u32,
    has_begun: bool,
}

impl Cursor {
    pub(super) fn new(key: Box<[u8]>) -> Self {
        Self { key, ..Self::default() }
    }

    /// Begins again, for another list.
    pub(super) fn restart(&mut self) {
        (self.hash, self.rehash, self.tries, self.has_begun) = (0, 0, 0, false);
    }

    fn may_try(&self) -> bool {
        self.tries <= TRIES_MAX
    }
}

/// The peers of one list that a request may use at this moment: not tried yet, not down, not left out after
/// failures, and below their `max_conns`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Eligible<'a> {
    list: &'a List,
    tried: &'a Tried,
    now_ms: u64,
    /// Failures and health do not matter.
    is_open: bool,
}

impl<'a> Eligible<'a> {
    pub(super) fn new(list: &'a List, tried: &'a Tried, now_ms: u64) -> Self {
        Self { list, tried, now_ms, is_open: false }
    }

    /// The same, whether the peers are well or not (`fail_open`).
    pub(super) fn opened(self, is_open: bool) -> Self {
        Self { is_open, ..self }
    }

    fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// Number of peers in the list, whether they may be used or not.
    fn len(&self) -> usize {
        self.list.peers.len()
    }

    /// True if the peer with this index may be used: for balancers that select by key.
    #[inline]
    pub(super) fn has(&self, index: usize) -> bool {
        !self.tried.has(index)
            && index < self.len()
            && (self.list.loads.is_usable(index) || self.is_usable_when_asked(index))
    }

    /// The peer's own word about that.
    fn is_usable_when_asked(&self, index: usize) -> bool {
        self.peer(index).is_some_and(|peer| {
            peer.is_usable(self.now_ms) || self.is_open && peer.has_room() && !peer.is_draining()
        })
    }

    /// The load of a peer that may be used.
    #[inline]
    fn get(&self, index: usize) -> Option<Load<'a>> {
        if self.has(index) { self.load(index) } else { None }
    }

    /// The load of a peer, whether it may be used or not.
    #[inline]
    fn load(&self, index: usize) -> Option<Load<'a>> {
        self.list.loads.get(index)
    }

    fn peer(&self, index: usize) -> Option<&'a Peer> {
        self.list.peers.get(index).map(|peer| &**peer)
    }

    /// The peers that may be used, each of which is asked once.
    pub(super) fn usable(&self) -> Usable<'a> {
        let loads = &*self.list.loads;
        let word = |index: usize| {
            let (sure, unsure) = loads.usable_bits(index);
            let untried = !self.tried.0.get(index).copied().unwrap_or(u64::MAX);
            let asked = ones(unsure & untried).filter(|bit| self.is_usable_when_asked(index * 64 + bit));
            asked.fold(sure & untried, |bits, bit| bits | 1 << bit)
        };
        Usable { loads, bits: (0..self.len().div_ceil(64)).map(word).collect() }
    }

    /// The loads as plain numbers, if every peer of the list may be used: the usual case.
    #[inline]
    fn plain(&self) -> Option<Plain<'a>> {
        if self.tried.has_any() { None } else { self.list.loads.plain() }
    }

    /// The next peer in the order of round robin; `None`: its next turn goes by rounds.
    #[inline]
    fn turn(&self) -> Option<usize> {
        let loads = &*self.list.loads;
        if self.plain().is_some() {
            return Some(self.list.turns()?.next(&loads.turn));
        }
        if self.tried.has_any() || self.is_open || !loads.are_whole() {
            return None;
        }
        let is_fit = |index| self.get(index).is_some_and(|load| load.is_unhurt()) && loads.are_whole();
        self.list.turns()?.next_shared(is_fit)
    }

    /// True if every peer of the list may be used and has its whole weight.
    fn is_even(&self, usable: &Usable<'_>) -> bool {
        let loads = &*self.list.loads;
        loads.are_whole() && loads.are_small() && usable.count() == self.len()
    }

    /// The weights of the peers, in their order.
    fn weights(&self) -> &'a [i64] {
        self.list.loads.weights()
    }

    /// [`Loads::all_conns`](crate::upstream::load::Loads::all_conns).
    fn all_conns(&self) -> SmallVec<[i64; 128]> {
        self.list.loads.all_conns()
    }

    /// [`Loads::bound`](crate::upstream::load::Loads::bound).
    #[inline]
    fn bound(&self) -> i64 {
        self.list.loads.bound()
    }

    /// The peer that owns this unit of the sum of all weights, modulo that sum.
    fn at_weight(&self, unit: u32) -> usize {
        self.list.at_weight(i64::from(unit).checked_rem(self.list.loads.total_weight).unwrap_or(0))
    }

    /// A peer by its weight, from a number that is uniform over all 64 bits.
    fn at_random_weight(&self, number: u64) -> usize {
        let total = u128::from(self.list.loads.total_weight.unsigned_abs());
        self.list.at_weight(((u128::from(number) * total) >> 64) as i64)
    }

    /// The peers whose connections have ended lately.
    fn freed(&self) -> impl Iterator<Item = usize> {
        self.list.loads.freed()
    }

    fn ring(&self) -> &'a Ring {
        self.list.ring()
    }
}

/// The peers of a list that may be used, as a bit set.
#[derive(Debug)]
pub(super) struct Usable<'a> {
    loads: &'a Loads,
    bits: SmallVec<[u64; 4]>,
}

impl<'a> Usable<'a> {
    fn count(&self) -> usize {
        self.bits.iter().map(|bits| bits.count_ones() as usize).sum()
    }

    /// Their loads, in the order of the list.
    #[inline]
    pub(super) fn iter(&self) -> impl Iterator<Item = Load<'a>> + Clone {
        let loads = self.loads;
        let word = move |(index, bits): (usize, &u64)| {
            ones(*bits).filter_map(move |bit| loads.get(index * 64 + bit))
        };
        self.bits.iter().enumerate().flat_map(word)
    }
}

/// The peers of a list that a request has tried, as a bit set.
#[derive(Clone, Debug)]
pub(super) struct Tried(SmallVec<[u64; 1]>);

impl Tried {
    /// For lists of up to `count` peers.
    pub(super) fn new(count: usize) -> Self {
        Self(smallvec![0; count.div_ceil(64)])
    }

    #[inline]
    pub(super) fn has(&self, index: usize) -> bool {
        self.0.get(index / 64).is_some_and(|word| word & (1 << (index % 64)) != 0)
    }

    #[inline]
    pub(super) fn has_any(&self) -> bool {
        self.0.iter().any(|word| *word != 0)
    }

    #[inline]
    pub(super) fn add(&mut self, index: usize) {
        if let Some(word) = self.0.get_mut(index / 64) {
            *word |= 1 << (index % 64);
        }
    }

    pub(super) fn clear(&mut self) {
        self.0.fill(0);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::net::address;
    use crate::upstream::peer::{Server, Shared};

    /// Peers at ports from 81 on; `set` changes their `server` lines.
    pub(in crate::upstream) fn peers(count: u16, set: impl Fn(u16, &mut Server)) -> Vec<Rc<Peer>> {
        let peer = |index: u16| {
            let name = format!("1.1.1.1:{}", 81 + index);
            let mut server = Server::new(&name, address::parse_upstream(&name, 80).unwrap());
            set(index, &mut server);
            Rc::new(Peer::new(
                &server,
                usize::from(index),
                server.addresses[0].clone(),
                Shared::default(),
                false,
            ))
        };
        (0..count).map(peer).collect()
    }

    /// The same, as a list.
    pub(in crate::upstream) fn list(count: u16, set: impl Fn(u16, &mut Server)) -> List {
        List::of(0, peers(count, set), None)
    }

    #[test]
    fn peers_that_are_tried_down_failed_or_full_are_not_eligible() {
        let list = list(5, |index, server| {
            server.down = index == 1;
            server.conns_max = i64::from(index == 3);
        });
        let mut tried = Tried::new(5);
        tried.add(0);
        list.peers[2].fail(1000);
        let used = list.peers[3].open();
        let indexes = |tried: &Tried, now_ms| -> Vec<usize> {
            Eligible::new(&list, tried, now_ms).usable().iter().map(|load| load.index).collect()
        };
        assert_eq!(indexes(&tried, 1000), [4]);
        assert_eq!(indexes(&tried, 11_001), [2, 4], "its time is over");
        drop(used);
        tried.clear();
        assert_eq!(indexes(&tried, 11_001), [0, 2, 3, 4]);
        assert!(Eligible::new(&list, &tried, 0).get(5).is_none(), "beyond the list");
    }

    #[test]
    fn each_peer_has_a_bit_of_its_own() {
        let mut tried = Tried::new(130);
        (0..130).step_by(2).for_each(|index| tried.add(index));
        assert!((0..130).all(|index| tried.has(index) == (index % 2 == 0)));
        tried.add(1000);
        assert!(!tried.has(1000), "beyond the list nothing is noted");
    }
}
