//! Balancers: the ways in which a group chooses among its peers. Each is one file and one variant of
//! [`Method`].
//!
//! A balancer receives the peers that a request may still use ([`Eligible`]) and the request's key, and
//! returns the index of one peer. The session counts a peer's turn and decides when it ends
//! (`upstream/session.rs`); the peer itself knows the reasons to leave it out (`upstream/peer.rs`). A
//! balancer keeps its state in the peers, so that it stays with a peer when the set around it changes. No
//! clock, no socket: the time is an argument.

mod round_robin;

use std::rc::Rc;

use smallvec::{SmallVec, smallvec};

use crate::upstream::peer::Peer;

/// The balancer of a group. Plain data, part of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// Smooth weighted round robin: nginx's default.
    #[default]
    RoundRobin,
}

impl Method {
    /// The index of the peer to use next; `None` if no peer may be used.
    ///
    /// `key` is the request's, for methods that send equal keys to the same peer; empty for others.
    #[inline]
    pub(super) fn pick(&self, eligible: &Eligible<'_>, _key: &[u8]) -> Option<usize> {
        match self {
            Self::RoundRobin => round_robin::pick(eligible),
        }
    }
}

/// The peers of one list that a request may use at this moment: not tried yet, not down, not left out after
/// failures, and below their `max_conns`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Eligible<'a> {
    peers: &'a [Rc<Peer>],
    tried: &'a Tried,
    now_ms: u64,
}

impl<'a> Eligible<'a> {
    pub(super) fn new(peers: &'a [Rc<Peer>], tried: &'a Tried, now_ms: u64) -> Self {
        Self { peers, tried, now_ms }
    }

    /// The peer with this index, if it may be used: for balancers that select by key.
    #[inline]
    pub(super) fn get(&self, index: usize) -> Option<&'a Peer> {
        let peer = self.peers.get(index)?;
        let is_usable = !self.tried.has(index) && peer.is_usable(self.now_ms);
        is_usable.then_some(&**peer)
    }

    /// Every peer that may be used, with its index.
    #[inline]
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &'a Peer)> {
        (0..self.peers.len()).filter_map(|index| Some((index, self.get(index)?)))
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

    #[test]
    fn peers_that_are_tried_down_failed_or_full_are_not_eligible() {
        let peers = peers(5, |index, server| {
            server.down = index == 1;
            server.conns_max = i64::from(index == 3);
        });
        let mut tried = Tried::new(peers.len());
        tried.add(0);
        peers[2].fail(1000);
        let used = peers[3].open();
        let indexes = |tried: &Tried, now_ms| -> Vec<usize> {
            Eligible::new(&peers, tried, now_ms).iter().map(|(index, _)| index).collect()
        };
        assert_eq!(indexes(&tried, 1000), [4]);
        assert_eq!(indexes(&tried, 11_001), [2, 4], "its time is over");
        drop(used);
        tried.clear();
        assert_eq!(indexes(&tried, 11_001), [0, 2, 3, 4]);
        assert!(Eligible::new(&peers, &tried, 0).get(5).is_none(), "beyond the list");
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
