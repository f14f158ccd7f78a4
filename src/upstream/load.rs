//! The part of each peer's state that balancers read for every request: its weights and its connections.
//!
//! A list keeps the numbers of its peers side by side ([`Loads`]), so that choosing among a hundred peers reads a few
//! cache lines instead of a hundred peers scattered over the heap. Three bits for each peer say whether the peer itself
//! must be asked before it is used, whether that can be left out while its words in shared memory are clear, and whether
//! its share is other than its weight. A list in which no peer must be asked, and each has its whole weight, is chosen
//! from by loops over plain numbers ([`Plain`]).
//!
//! In a group with `zone` the weights are words that all workers add to, without a lock. What all workers
//! together add in a round and what the chosen peer pays is equal, however their instructions interleave, so
//! the shares are exact in the long run. A worker that dies between the two distorts one round. Touches: the
//! peers' words in shared memory.

use std::cell::Cell;

use smallvec::SmallVec;

use crate::shm::peers::{self, Place, Word};

/// Limit of a current weight in shared memory, as a multiple of the sum of all weights. Without errors it is
/// below the sum times the number of workers that choose at the same moment.
const BOUND_ROUNDS: i64 = 64;

/// Shares are this many times as large in a list whose peers have agents.
const PERCENTS: i64 = 100;

/// The load of a peer on its way from one list to another.
#[derive(Clone, Debug)]
pub struct LoadState {
    weight: i64,
    current: i64,
    permitted: i64,
    lost: i64,
    conns: i64,
    words: Words,
}

/// Where a load's numbers are in shared memory.
#[derive(Clone, Copy, Debug)]
struct Words {
    /// The words that count instead of the list's numbers in a group with `zone`.
    place: Option<Place>,
    /// The place where its agent says which percentage of its weight it gets. Then shares are in percents, for the
    /// whole list.
    advised: Option<Place>,
}

impl LoadState {
    /// `place`: the words that it shares with the other workers, in a group with `zone`.
    pub fn new(weight: i64, place: Option<Place>) -> Self {
        Self {
            weight,
            current: 0,
            permitted: weight,
            lost: 0,
            conns: 0,
            words: Words { place, advised: None },
        }
    }

    /// The same load, of which the peer's agent tells the share.
    #[must_use]
    pub fn with_agent(mut self, place: Place) -> Self {
        self.words.advised = Some(place);
        self
    }
}

/// The weights and connections of one peer of a list.
#[derive(Clone, Copy, Debug)]
pub struct Load<'a> {
    loads: &'a Loads,
    /// Its number in the list.
    pub index: usize,
    words: Words,
}

impl Load<'_> {
    /// As configured; at least 1.
    #[inline]
    pub fn weight(&self) -> i64 {
        self.loads.weights[self.index]
    }

    #[inline]
    fn slot(&self) -> &Held {
        &self.loads.held[self.index]
    }

    #[inline]
    fn current(&self) -> &Cell<i64> {
        &self.loads.currents[self.index]
    }

    /// The part of a weight that its agent leaves to it.
    #[inline]
    fn advised(&self, weight: i64) -> i64 {
        self.words.advised.map_or(weight, |place| weight.saturating_mul(i64::from(place.advice().percent)))
    }

    /// True if failures have cost it none of its weight, in a group with `zone`.
    #[inline]
    pub fn is_unhurt(&self) -> bool {
        self.words.place.is_none_or(|place| place.number(Word::LostWeight, 1) == 0)
    }

    /// The weight without the part that a slow start holds back, and without what the peer's agent takes of it: to be
    /// compared with those of other peers of the list.
    #[inline]
    pub fn present_weight(&self) -> i64 {
        self.advised(self.slot().permitted.get())
    }

    /// False for as many of all numbers as the peer's agent takes of its weight. `number` is uniform over all 64 bits.
    #[inline]
    pub fn accepts(&self, number: u64) -> bool {
        self.words.advised.is_none_or(|place| {
            (u128::from(number) * PERCENTS as u128) >> 64 < u128::from(place.advice().percent)
        })
    }

    /// Sets the part of the weight that counts at present; at least 1.
    pub fn permit(&self, weight: i64) {
        self.slot().permitted.set(weight.clamp(1, self.weight().max(1)));
        self.note_share();
    }

    /// Says to the list whether its share is other than its weight.
    fn note_share(&self) {
        let held = self.slot();
        let is_reduced = held.lost.get() != 0 || held.permitted.get() != self.weight();
        self.loads.reduced.set(self.index, is_reduced || self.words.advised.is_some());
    }

    /// Number of connections in use, in a group with `zone` those of all workers.
    #[inline]
    pub fn conns(&self) -> i64 {
        match self.words.place {
            Some(place) => i64::from(place.in_use()),
            None => self.loads.conns[self.index].get(),
        }
    }

    /// Counts a connection of this worker. Connections in shared memory are counted by
    /// [`Place::enter`](crate::shm::peers::Place::enter).
    pub fn add_conns(&self, change: i64) {
        let conns = &self.loads.conns[self.index];
        conns.set(conns.get() + change);
        self.loads.unused.set(self.index, conns.get() == 0);
    }

    /// Gives the peer its share of one round; returns `(current, share)`. `bound` is [`Loads::bound`].
    #[inline]
    pub fn weigh(&self, bound: i64) -> (i64, i64) {
        if let Some(place) = self.words.place {
            return self.weigh_shared(place, bound);
        }
        let held = self.slot();
        let lost = held.lost.get();
        let share = self.advised(held.permitted.get().min(self.weight() - lost));
        if lost > 0 {
            held.lost.set(lost - 1);
            self.note_share();
        }
        let current = self.current().get() + share;
        self.current().set(current);
        (current, share)
    }

    fn weigh_shared(&self, place: Place, bound: i64) -> (i64, i64) {
        let weight = self.weight();
        let lost = place.number(Word::LostWeight, weight.cast_unsigned()).cast_signed();
        let share = self.advised(self.slot().permitted.get().min(weight - lost));
        let bound = if self.words.advised.is_some() { bound.saturating_mul(PERCENTS) } else { bound };
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
        match self.words.place {
            Some(place) => _ = place.add_weight(Word::CurrentWeight, -total),
            None => self.current().set(self.current().get() - total),
        }
    }

    /// Forgets the rounds so far.
    pub fn restart(&self) {
        match self.words.place {
            Some(place) => place.set_weight(Word::CurrentWeight, 0),
            None => self.current().set(0),
        }
    }

    /// Takes a part of its weight away for a failure; at most all of it.
    pub fn lose(&self, part: i64) {
        match self.words.place {
            Some(place) => {
                let weight = self.weight();
                let lost = place.number(Word::LostWeight, weight.cast_unsigned()).cast_signed();
                place.set_number(Word::LostWeight, (lost + part).min(weight).cast_unsigned());
            }
            None => {
                let lost = &self.slot().lost;
                lost.set((lost.get() + part).min(self.weight()));
                self.note_share();
            }
        }
    }

    /// The numbers that it takes along to another list.
    pub fn state(&self) -> LoadState {
        LoadState {
            weight: self.weight(),
            current: self.current().get(),
            permitted: self.slot().permitted.get(),
            lost: self.slot().lost.get(),
            conns: self.loads.conns[self.index].get(),
            words: self.words,
        }
    }
}

impl Words {
    #[inline]
    fn are_clear(&self) -> bool {
        self.place.is_some_and(Place::is_clear)
    }
}

/// The reasons to hold a part of a peer's weight back.
#[derive(Debug)]
struct Held {
    /// The part of it that a slow start permits at present.
    permitted: Cell<i64>,
    /// The part of the weight that failures have cost; it comes back by one each round.
    lost: Cell<i64>,
}

/// A bit for each peer of a list.
#[derive(Debug, Default)]
struct Bits(Box<[Cell<u64>]>);

impl Bits {
    /// All set. No bit beyond the last peer is: [`Bits::any`] looks at whole words.
    fn all(count: usize) -> Self {
        Self((0..count.div_ceil(64)).map(|word| Cell::new(Self::of_word(count, word))).collect())
    }

    /// The bits that a word of a list of `count` peers has.
    #[inline]
    fn of_word(count: usize, word: usize) -> u64 {
        match count.saturating_sub(word * 64).min(64) {
            0 => 0,
            left => u64::MAX >> (64 - left),
        }
    }

    fn none(count: usize) -> Self {
        Self((0..count.div_ceil(64)).map(|_| Cell::new(0)).collect())
    }

    /// True for a peer beyond the list too.
    #[inline]
    fn has(&self, index: usize) -> bool {
        self.0.get(index / 64).is_none_or(|word| word.get() & (1 << (index % 64)) != 0)
    }

    #[inline]
    fn any(&self) -> bool {
        self.0.iter().any(|word| word.get() != 0)
    }

    /// The peers whose bits are set, in their order.
    #[inline]
    fn iter(&self) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().flat_map(|(word, bits)| ones(bits.get()).map(move |bit| word * 64 + bit))
    }

    #[inline]
    fn set(&self, index: usize, is_set: bool) {
        let Some(word) = self.0.get(index / 64) else { return };
        let bit = 1 << (index % 64);
        word.set(if is_set { word.get() | bit } else { word.get() & !bit });
    }
}

/// The numbers of the bits that are set.
#[inline]
pub(super) fn ones(bits: u64) -> impl Iterator<Item = usize> + Clone {
    let lowest = |bits: &u64| Some(bits & (bits - 1)).filter(|rest| *rest != 0);
    std::iter::successors(Some(bits).filter(|bits| *bits != 0), lowest)
        .map(|bits| bits.trailing_zeros() as usize)
}

/// Number of peers remembered because a connection to them has ended lately. With eight, the connections of a
/// hundred equal peers differ by two at most, while requests come and go (tests: balance/properties.rs).
const FREED_MAX: usize = 8;

/// The loads of a list's peers, in their order.
#[derive(Debug, Default)]
pub struct Loads {
    weights: Box<[i64]>,
    /// The weights of smooth round robin, which a round raises.
    currents: Box<[Cell<i64>]>,
    conns: Box<[Cell<i64>]>,
    /// The peers with no connection in use by this worker.
    unused: Bits,
    held: Box<[Held]>,
    words: Box<[Words]>,
    /// The peers that must be asked whether they may be used.
    asked: Bits,
    /// Those of them that may be used if their words in shared memory are clear.
    clear_suffices: Bits,
    /// The peers whose share may be other than their weight.
    reduced: Bits,
    /// Some weights are in shared memory.
    is_shared: bool,
    /// Sum of all weights.
    pub total_weight: i64,
    /// The number of turns that this worker has taken in order (`upstream/turns.rs`).
    pub turn: Cell<u64>,
    /// The peers whose connections have ended lately; [`u32::MAX`]: none.
    freed: [Cell<u32>; FREED_MAX],
    next_freed: Cell<usize>,
}

impl Loads {
    pub fn new(loads: impl Iterator<Item = LoadState>) -> Self {
        let loads: Vec<LoadState> = loads.collect();
        let made = Self {
            weights: loads.iter().map(|load| load.weight).collect(),
            currents: loads.iter().map(|load| Cell::new(load.current)).collect(),
            conns: loads.iter().map(|load| Cell::new(load.conns)).collect(),
            held: loads
                .iter()
                .map(|load| Held { permitted: Cell::new(load.permitted), lost: Cell::new(load.lost) })
                .collect(),
            words: loads.iter().map(|load| load.words).collect(),
            unused: Bits::none(loads.len()),
            asked: Bits::all(loads.len()),
            clear_suffices: Bits::none(loads.len()),
            reduced: Bits::all(loads.len()),
            is_shared: loads.iter().any(|load| load.words.place.is_some()),
            turn: Cell::new(0),
            total_weight: loads.iter().fold(0, |sum, load| load.weight.saturating_add(sum)),
            freed: [const { Cell::new(u32::MAX) }; FREED_MAX],
            next_freed: Cell::new(0),
        };
        made.iter().for_each(|load| {
            load.note_share();
            load.add_conns(0);
        });
        made
    }

    #[inline]
    pub fn get(&self, index: usize) -> Option<Load<'_>> {
        let words = *self.words.get(index)?;
        Some(Load { loads: self, index, words })
    }

    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = Load<'_>> + Clone {
        self.words.iter().enumerate().map(|(index, &words)| Load { loads: self, index, words })
    }

    /// The numbers alone, if they are all that counts: nothing is against any peer, each has its whole weight, and no
    /// other worker adds to it.
    #[inline]
    pub fn plain(&self) -> Option<Plain<'_>> {
        let is_plain = !self.is_shared && !self.asked.any() && self.are_whole() && self.are_small();
        is_plain.then_some(Plain(self))
    }

    /// True if this worker knows of no reason why a peer should have less than its whole weight.
    #[inline]
    pub fn are_whole(&self) -> bool {
        !self.reduced.any()
    }

    /// True if sums and products of weights and numbers of connections need no check.
    #[inline]
    pub fn are_small(&self) -> bool {
        self.total_weight <= Plain::TOTAL_MAX
    }

    pub fn weights(&self) -> &[i64] {
        &self.weights
    }

    pub fn len(&self) -> usize {
        self.weights.len()
    }

    pub fn is_empty(&self) -> bool {
        self.weights.is_empty()
    }

    /// Counts the end of a connection to a peer.
    #[inline]
    pub fn free(&self, index: usize) {
        let Some(load) = self.get(index) else { return };
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

    pub fn set_asked(&self, index: usize, is_asked: bool) {
        self.asked.set(index, is_asked);
    }

    /// Says that a peer that must be asked may be used without that while its words in shared memory are clear.
    pub fn set_clear_suffices(&self, index: usize, suffices: bool) {
        self.clear_suffices.set(index, suffices);
    }

    /// True if it is known that the peer may be used.
    #[inline]
    pub fn is_usable(&self, index: usize) -> bool {
        !self.asked.has(index)
            || self.clear_suffices.has(index) && self.words.get(index).is_some_and(Words::are_clear)
    }

    /// The same for 64 peers from a multiple of 64 on, as two sets of bits: those that are known to be usable, and the
    /// others.
    #[inline]
    pub fn usable_bits(&self, word: usize) -> (u64, u64) {
        let bits = |set: &Bits| set.0.get(word).map_or(0, Cell::get);
        let (asked, by_words) = (bits(&self.asked), bits(&self.clear_suffices));
        let all = Bits::of_word(self.len(), word);
        let list = self.words.get(word * 64..).unwrap_or_default().iter().take(64);
        let clear = list.enumerate().fold(0, |clear, (bit, words)| {
            clear | u64::from(by_words & (1 << bit) != 0 && words.are_clear()) << bit
        });
        let sure = all & !asked | clear;
        (sure, all & !sure)
    }

    /// Number of connections in use of each peer, as [`Load::conns`].
    pub fn all_conns(&self) -> SmallVec<[i64; 128]> {
        let mut conns: SmallVec<_> = self.conns.iter().map(Cell::get).collect();
        let places = self.words.iter().map_while(|words| words.place);
        if places.clone().count() == conns.len() {
            peers::in_use_of_all(places, &mut conns);
        } else {
            conns.iter_mut().zip(self.iter()).for_each(|(count, load)| *count = load.conns());
        }
        conns
    }

    /// The peers have moved to another list: from now on the facts are theirs alone.
    pub fn retire(&self) {
        self.asked.0.iter().for_each(|word| word.set(u64::MAX));
        self.clear_suffices.0.iter().for_each(|word| word.set(0));
    }
}

/// The loads of a list in which every peer may be used and has its whole weight: the usual case.
#[derive(Clone, Copy, Debug)]
pub struct Plain<'a>(&'a Loads);

impl Plain<'_> {
    /// Products of a weight and a number of connections fit into 63 bits.
    const TOTAL_MAX: i64 = 1 << 31;

    /// A round of smooth weighted round robin among all peers.
    #[inline]
    pub fn round(self) -> Option<usize> {
        self.choose(self.0.currents.iter().zip(&self.0.weights).enumerate())
    }

    /// The same among some of them.
    #[inline]
    pub fn round_of(self, some: impl Iterator<Item = usize>) -> Option<usize> {
        let Self(loads) = self;
        self.choose(
            some.filter_map(|index| Some((index, (loads.currents.get(index)?, loads.weights.get(index)?)))),
        )
    }

    /// Gives each of these peers its weight; the one that has the most then pays for all.
    #[inline]
    fn choose<'a>(self, some: impl Iterator<Item = (usize, (&'a Cell<i64>, &'a i64))>) -> Option<usize> {
        let (mut best, mut total) = ((usize::MAX, i64::MIN), 0);
        // Not `for`: asked for one item after the other, nested iterators took four times as many instructions.
        some.for_each(|(index, (current, weight))| {
            let now = current.get() + weight;
            current.set(now);
            total += weight;
            // Among equals the first wins.
            if now > best.1 {
                best = (index, now);
            }
        });
        let chosen = self.0.currents.get(best.0)?;
        chosen.set(chosen.get() - total);
        Some(best.0)
    }

    /// The peer with the fewest connections for its weight; of several, the one that a round among them chooses.
    #[inline]
    pub fn least_conn(self) -> Option<usize> {
        let mut unused = self.0.unused.iter();
        if let Some(first) = unused.next() {
            // None can have fewer, and all of them have as few.
            return if unused.next().is_some() { self.round_of(self.0.unused.iter()) } else { Some(first) };
        }
        let loads = || self.0.conns.iter().map(Cell::get).zip(self.0.weights.iter().copied());
        let least = Least::of(loads())?;
        if !least.has_equals {
            return Some(least.first);
        }
        let is_equal = |(index, load)| least.is_equal(load).then_some(index);
        self.round_of(loads().enumerate().skip(least.first).filter_map(is_equal))
    }
}

/// The fewest connections for their weight among the peers of a list. Weights add up to at most [`Plain::TOTAL_MAX`], and
/// numbers of connections have 32 bits.
#[derive(Clone, Copy, Debug)]
pub struct Least {
    /// Index of the first peer that has them.
    pub first: usize,
    /// Others have as many.
    pub has_equals: bool,
    conns: i64,
    weight: i64,
}

impl Least {
    /// Of pairs of a number of connections and a weight; `None`: there is none.
    #[inline]
    pub fn of(mut loads: impl Iterator<Item = (i64, i64)>) -> Option<Self> {
        let (conns, weight) = loads.next()?;
        let mut least = Self { first: 0, has_equals: false, conns, weight };
        for (index, (conns, weight)) in (1..).zip(loads) {
            let (own, other) = (conns * least.weight, least.conns * weight);
            if own < other {
                least = Self { first: index, has_equals: false, conns, weight };
            } else if own == other {
                least.has_equals = true;
            }
        }
        Some(least)
    }

    /// True for a peer that has as few.
    #[inline]
    pub fn is_equal(&self, (conns, weight): (i64, i64)) -> bool {
        conns * self.weight == self.conns * weight
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::peers::Health;
    #[test]
    fn bits_of_peers_are_their_own() {
        let loads = Loads::new((0..70).map(|_| LoadState::new(2, None)));
        assert_eq!((loads.total_weight, loads.len()), (140, 70));
        assert!(loads.asked.has(69), "until it is known that nothing is against it");
        (0..70).for_each(|index| loads.set_asked(index, index == 65));
        assert!((0..70).all(|index| loads.asked.has(index) == (index == 65)));
        assert!(loads.asked.has(1000), "beyond the list");
        loads.retire();
        assert!(loads.asked.has(3));
    }

    #[test]
    fn no_peer_need_be_asked_once_nothing_is_against_any() {
        for count in [0, 1, 63, 64, 65, 100, 128] {
            let loads = Loads::new((0..count).map(|_| LoadState::new(1, None)));
            assert_eq!(loads.asked.any(), count > 0, "{count}");
            (0..count).for_each(|index| loads.set_asked(index, false));
            assert!(!loads.asked.any(), "{count}");
        }
    }

    #[test]
    fn a_list_is_plain_while_each_peer_has_its_whole_weight() {
        let loads = Loads::new((0..70).map(|_| LoadState::new(4, None)));
        let is_plain = |loads: &Loads| loads.plain().is_some();
        assert!(!is_plain(&loads), "each must be asked");
        (0..70).for_each(|index| loads.set_asked(index, false));
        assert!(is_plain(&loads));
        let last = loads.get(69).expect("the last one");
        last.lose(2);
        for _ in 0..2 {
            assert!(!is_plain(&loads), "failures have cost it weight");
            last.weigh(100);
        }
        assert!(is_plain(&loads), "which has come back");
        last.permit(1);
        assert!(!is_plain(&loads), "it starts slowly");
        last.permit(4);
        assert!(is_plain(&loads));
        assert_eq!([0, 1, 2].map(|word| loads.usable_bits(word)), [(u64::MAX, 0), (0x3f, 0), (0, 0)]);
        loads.set_asked(64, true);
        assert_eq!(loads.usable_bits(1), (0x3e, 1));
        loads.set_asked(64, false);
        let moved = Loads::new([last.state()].into_iter());
        moved.set_asked(0, false);
        assert!(is_plain(&moved));
        let place = peers::place("load.test/plain").expect("room");
        let shared = Loads::new([LoadState::new(4, Some(place))].into_iter());
        shared.set_asked(0, false);
        assert!(!is_plain(&shared), "others add to its words");
        let heavy = Loads::new([LoadState::new(Plain::TOTAL_MAX + 1, None)].into_iter());
        heavy.set_asked(0, false);
        assert!(!is_plain(&heavy), "products would not fit");
    }

    #[test]
    fn clear_words_spare_the_question_to_the_peer() {
        let place = peers::place("load.test/told").expect("room");
        let loads = Loads::new([LoadState::new(4, Some(place))].into_iter());
        assert!(!loads.is_usable(0), "only the peer knows");
        loads.set_clear_suffices(0, true);
        assert!(loads.is_usable(0));
        for word in [Word::Fails, Word::Orders, Word::EjectedMs] {
            place.set_number(word, 1);
            assert!(!loads.is_usable(0), "{word:?}");
            place.set_number(word, 0);
        }
        for (health, is_usable) in
            [(Health::Healthy, true), (Health::Unhealthy, false), (Health::Spare, false)]
        {
            place.set_health(health, 5);
            assert_eq!(loads.is_usable(0), is_usable, "{health:?}");
        }
        place.set_health(Health::Unknown, 5);
        assert_eq!((loads.is_usable(0), loads.usable_bits(0)), (true, (1, 0)));
        loads.retire();
        assert!(!loads.is_usable(0));
    }

    #[test]
    fn shared_weights_are_those_of_all_workers_and_bounded() {
        let place = peers::place("load.test/shared").expect("room");
        let workers = [(), ()].map(|()| Loads::new([LoadState::new(5, Some(place))].into_iter()));
        let [first, second] = workers.each_ref().map(|loads| loads.get(0).expect("its load"));
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
        let place = |name: &str| peers::place(&format!("load.agent/{name}")).expect("room");
        let list =
            Loads::new(["a", "b"].map(|name| LoadState::new(1, None).with_agent(place(name))).into_iter());
        let loads: Vec<Load> = list.iter().collect();
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
