//! The part of each peer's state that balancers read for every request: its weights and its connections.
//!
//! A list keeps its peers' loads side by side ([`Loads`]), so that choosing among a hundred peers reads a few
//! cache lines instead of a hundred peers scattered over the heap. A bit for each peer says whether the peer
//! itself must be asked before it is used; it is clear for a peer against which nothing is known.
//!
//! In a group with `zone` the weights are words that all workers add to, without a lock. What all workers
//! together add in a round and what the chosen peer pays is equal, however their instructions interleave, so
//! the shares are exact in the long run. A worker that dies between the two distorts one round. Touches: the
//! peers' words in shared memory.

use std::cell::Cell;

use crate::shm::peers::{Place, Word};

/// Limit of a current weight in shared memory, as a multiple of the sum of all weights. Without errors it is
/// below the sum times the number of workers that choose at the same moment.
const BOUND_ROUNDS: i64 = 64;

/// The weights and connections of one peer.
#[derive(Clone, Debug)]
pub struct Load {
    /// As configured; at least 1.
    pub weight: i64,
    current: Cell<i64>,
    /// What a slow start permits of it at present.
    permitted: Cell<i64>,
    /// The part of the weight that failures have cost; it comes back by one each round.
    lost: Cell<i64>,
    conns: Cell<i64>,
    /// The words that count instead of these cells in a group with `zone`.
    place: Option<Place>,
    /// The place where its agent says which percentage of its weight it gets. Then shares are in percents, for the
    /// whole list.
    advised: Option<Place>,
}

/// Shares are this many times as large in a list whose peers have agents.
const PERCENTS: i64 = 100;

impl Load {
    /// `place`: the words that it shares with the other workers, in a group with `zone`.
    pub fn new(weight: i64, place: Option<Place>) -> Self {
        let (current, lost, conns) = Default::default();
        Self { weight, current, permitted: Cell::new(weight), lost, conns, place, advised: None }
    }

    /// The same load, of which the peer's agent tells the share.
    #[must_use]
    pub fn with_agent(self, place: Place) -> Self {
        Self { advised: Some(place), ..self }
    }

    /// The part of a weight that its agent leaves to it.
    #[inline]
    fn advised(&self, weight: i64) -> i64 {
        self.advised.map_or(weight, |place| weight.saturating_mul(i64::from(place.advice().percent)))
    }

    /// The weight without the part that a slow start holds back, and without what the peer's agent takes of it: to be
    /// compared with those of other peers of the list.
    #[inline]
    pub fn present_weight(&self) -> i64 {
        self.advised(self.permitted.get())
    }

    /// False for as many of all numbers as the peer's agent takes of its weight. `number` is uniform over all 64 bits.
    #[inline]
    pub fn accepts(&self, number: u64) -> bool {
        self.advised.is_none_or(|place| {
            (u128::from(number) * PERCENTS as u128) >> 64 < u128::from(place.advice().percent)
        })
    }

    /// Sets the part of the weight that counts at present; at least 1.
    pub fn permit(&self, weight: i64) {
        self.permitted.set(weight.clamp(1, self.weight.max(1)));
    }

    /// Number of connections in use, in a group with `zone` those of all workers.
    #[inline]
    pub fn conns(&self) -> i64 {
        match self.place {
            Some(place) => i64::from(place.in_use()),
            None => self.conns.get(),
        }
    }

    /// Counts a connection of this worker. Connections in shared memory are counted by
    /// [`Place::enter`](crate::shm::peers::Place::enter).
    pub fn add_conns(&self, change: i64) {
        self.conns.set(self.conns.get() + change);
    }

    /// Gives the peer its share of one round; returns `(current, share)`. `bound` is [`Loads::bound`].
    #[inline]
    pub fn weigh(&self, bound: i64) -> (i64, i64) {
        if let Some(place) = self.place {
            return self.weigh_shared(place, bound);
        }
        let lost = self.lost.get();
        let share = self.advised(self.permitted.get().min(self.weight - lost));
        if lost > 0 {
            self.lost.set(lost - 1);
        }
        let current = self.current.get() + share;
        self.current.set(current);
        (current, share)
    }

    fn weigh_shared(&self, place: Place, bound: i64) -> (i64, i64) {
        let lost = place.number(Word::LostWeight, self.weight.cast_unsigned()).cast_signed();
        let share = self.advised(self.permitted.get().min(self.weight - lost));
        let bound = if self.advised.is_some() { bound.saturating_mul(PERCENTS) } else { bound };
        if lost > 0 {
            place.set_number(Word::LostWeight, lost.cast_unsigned() - 1);
        }
        let current = place.add_weight(Word::CurrentWeight, share);
        if current < -bound {
            self.restart();
            return (0, share);
        }
        (current, share)
    }

    /// Pays the sum of the round's shares: the peer was chosen.
    #[inline]
    pub fn pay(&self, total: i64) {
        match self.place {
            Some(place) => _ = place.add_weight(Word::CurrentWeight, -total),
            None => self.current.set(self.current.get() - total),
        }
    }

    /// Forgets the rounds so far.
    pub fn restart(&self) {
        match self.place {
            Some(place) => place.set_weight(Word::CurrentWeight, 0),
            None => self.current.set(0),
        }
    }

    /// Takes a part of its weight away for a failure; at most all of it.
    pub fn lose(&self, part: i64) {
        match self.place {
            Some(place) => {
                let lost = place.number(Word::LostWeight, self.weight.cast_unsigned()).cast_signed();
                place.set_number(Word::LostWeight, (lost + part).min(self.weight).cast_unsigned());
            }
            None => self.lost.set((self.lost.get() + part).min(self.weight)),
        }
    }
}

/// Number of peers remembered because a connection to them has ended lately. With eight, the connections of a
/// hundred equal peers differ by two at most, while requests come and go (tests: balance/properties.rs).
const FREED_MAX: usize = 8;

/// The loads of a list's peers, in their order.
#[derive(Debug, Default)]
pub struct Loads {
    loads: Box<[Load]>,
    /// A bit for each peer: it must be asked whether it may be used.
    asked: Box<[Cell<u64>]>,
    /// Sum of all weights.
    pub total_weight: i64,
    /// The peers whose connections have ended lately; [`u32::MAX`]: none.
    freed: [Cell<u32>; FREED_MAX],
    next_freed: Cell<usize>,
}

impl Loads {
    pub fn new(loads: impl Iterator<Item = Load>) -> Self {
        let loads: Box<[Load]> = loads.collect();
        // No bit beyond the last peer: `has_asked` looks at whole words.
        let bits = |word: usize| u64::MAX >> (64 - (loads.len() - word * 64).min(64));
        let asked = (0..loads.len().div_ceil(64)).map(|word| Cell::new(bits(word))).collect();
        let total_weight = loads.iter().fold(0, |sum, load| load.weight.saturating_add(sum));
        let freed = [const { Cell::new(u32::MAX) }; FREED_MAX];
        Self { loads, asked, total_weight, freed, next_freed: Cell::new(0) }
    }

    #[inline]
    pub fn get(&self, index: usize) -> Option<&Load> {
        self.loads.get(index)
    }

    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = &Load> + Clone {
        self.loads.iter()
    }

    pub fn len(&self) -> usize {
        self.loads.len()
    }

    pub fn is_empty(&self) -> bool {
        self.loads.is_empty()
    }

    /// Counts the end of a connection to a peer.
    #[inline]
    pub fn free(&self, index: usize) {
        let Some(load) = self.loads.get(index) else { return };
        load.add_conns(-1);
        let next = self.next_freed.get() % FREED_MAX;
        self.freed[next].set(index as u32);
        self.next_freed.set(next + 1);
    }

    /// The peers whose connections have ended lately; some may come several times.
    pub fn freed(&self) -> impl Iterator<Item = usize> {
        self.freed.iter().map(|index| index.get() as usize)
    }

    /// A current weight beyond this is an error.
    #[inline]
    pub fn bound(&self) -> i64 {
        self.total_weight.saturating_mul(BOUND_ROUNDS)
    }

    /// True if the peer itself must be asked whether it may be used.
    #[inline]
    pub fn is_asked(&self, index: usize) -> bool {
        self.asked.get(index / 64).is_none_or(|word| word.get() & (1 << (index % 64)) != 0)
    }

    /// True if some peer must be asked.
    #[inline]
    pub fn has_asked(&self) -> bool {
        self.asked.iter().any(|word| word.get() != 0)
    }

    pub fn set_asked(&self, index: usize, is_asked: bool) {
        let Some(word) = self.asked.get(index / 64) else { return };
        let bit = 1 << (index % 64);
        word.set(if is_asked { word.get() | bit } else { word.get() & !bit });
    }

    /// The peers have moved to another list: from now on the facts are theirs alone.
    pub fn retire(&self) {
        self.asked.iter().for_each(|word| word.set(u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::peers;

    #[test]
    fn bits_of_peers_are_their_own() {
        let loads = Loads::new((0..70).map(|_| Load::new(2, None)));
        assert_eq!((loads.total_weight, loads.len()), (140, 70));
        assert!(loads.is_asked(69), "until it is known that nothing is against it");
        (0..70).for_each(|index| loads.set_asked(index, index == 65));
        assert!((0..70).all(|index| loads.is_asked(index) == (index == 65)));
        assert!(loads.is_asked(1000), "beyond the list");
        loads.retire();
        assert!(loads.is_asked(3));
    }

    #[test]
    fn no_peer_need_be_asked_once_nothing_is_against_any() {
        for count in [0, 1, 63, 64, 65, 100, 128] {
            let loads = Loads::new((0..count).map(|_| Load::new(1, None)));
            assert_eq!(loads.has_asked(), count > 0, "{count}");
            (0..count).for_each(|index| loads.set_asked(index, false));
            assert!(!loads.has_asked(), "{count}");
        }
    }

    #[test]
    fn shared_weights_are_those_of_all_workers_and_bounded() {
        let place = peers::place("load.test", "shared").expect("room");
        let (first, second) = (Load::new(5, Some(place)), Load::new(5, Some(place)));
        assert_eq!((first.weigh(100), second.weigh(100)), ((5, 5), (10, 5)));
        first.pay(7);
        assert_eq!(second.weigh(100), (8, 5));
        second.lose(3);
        assert_eq!((first.weigh(100), first.weigh(100)), ((10, 2), (13, 3)), "and grows back");
        second.lose(i64::MAX / 2);
        assert_eq!(first.weigh(100).1, 0, "never less than nothing");
        for hostile in [i64::MIN, i64::MIN + 1, -101 - 5] {
            place.set_weight(Word::CurrentWeight, hostile);
            place.set_number(Word::LostWeight, u64::MAX);
            assert_eq!(first.weigh(100), (0, 0));
            assert_eq!(place.weight(Word::CurrentWeight, i64::MAX), 0, "it begins again");
        }
        place.set_weight(Word::CurrentWeight, i64::MAX);
        place.set_number(Word::LostWeight, 0);
        assert_eq!(first.weigh(100), (0, 5), "it wrapped");
        assert_eq!(first.weigh(100), (5, 5));
    }

    #[test]
    fn an_agent_lowers_the_share_of_its_peer() {
        let place = |name: &str| peers::place("load.agent", name).expect("room");
        let loads = ["a", "b"].map(|name| Load::new(1, None).with_agent(place(name)));
        place("a").set_advice(peers::Advice { percent: 25, ..peers::Advice::default() });
        let mut counts = [0, 0];
        for _ in 0..100 {
            let shares = [loads[0].weigh(64), loads[1].weigh(64)];
            let chosen = usize::from(shares[1].0 > shares[0].0);
            counts[chosen] += 1;
            loads[chosen].pay(shares[0].1 + shares[1].1);
        }
        assert_eq!(counts, [20, 80]);
    }
}
