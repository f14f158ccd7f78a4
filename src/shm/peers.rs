//! The shared state of each peer of an upstream group: its failures, its health, an operator's orders, and
//! the number of its connections in use.
//!
//! Each peer has a place of 16 words, found by the fingerprint of its group's name and its own. A reload and
//! a new binary find the same place again; it is freed once no configuration names the peer any more. Every
//! word is one atomic, so that a process may die at any instruction. Connections in use are counted in the
//! lane of each worker, so that the share of a worker that dies can be removed.
//!
//! **Any worker may write anything here.** So no word is trusted: numbers are limited by the reader, a time
//! that lies ahead counts as now and is corrected, and unknown bits and states mean nothing. The words decide
//! which peer is asked next, never which memory is touched. Behaviour: nginx.org, `zone` of
//! ngx_http_upstream_module.

use std::collections::HashSet;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{LazyLock, Mutex, PoisonError};

use super::area::{Area, Header, PEER_WORDS, PEERS, area, fingerprint};
use super::index::{Index, Table};
use super::{heartbeat, lanes};
use crate::sys::address::SockAddr;

/// The kind byte of the names of peers, which no kind of counter has.
const KIND: u8 = 254;

/// The bits below a status in the word that counts it.
const STATUS_SHIFT: u32 = 48;

/// The words of a place. Times are those of the monotonic clock, which all processes share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// Failures within the present `fail_timeout`.
    Fails = 0,
    /// Time of the last failure.
    FailedMs = 1,
    /// Start of the current window of failures, or time of the last failure.
    CheckedMs = 2,
    /// Bits of [`Orders`].
    Orders = 3,
    /// A [`Health`].
    Health = 4,
    /// Time of the last change of health.
    HealthMs = 5,
    /// Time at which the peer came back, for a slow start.
    ReturnedMs = 6,
    /// Signed: the peer's current weight in smooth weighted round robin.
    CurrentWeight = 7,
    /// The part of its weight that recent failures have cost.
    LostWeight = 8,
    /// Moving averages of the times to the head and to the end of its responses, in microseconds, and the
    /// time of their last change.
    HeadUs = 9,
    ResponseUs = 10,
    AverageMs = 11,
    /// Start of the interval whose requests are in `Tally`.
    TallyMs = 12,
    /// Requests and errors of an interval, two halves of a word (`upstream/outlier.rs`).
    Tally = 13,
    /// Up to when the peer is ejected.
    EjectedMs = 14,
    /// Number of ejections in a short time.
    Ejections = 15,
}

/// An operator's orders about a peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Orders {
    /// It gets no requests.
    pub down: bool,
    /// It gets only requests that are bound to it.
    pub drain: bool,
}

impl Orders {
    const DOWN: u64 = 1;
    const DRAIN: u64 = 1 << 1;
    const BITS: u64 = Self::DOWN | Self::DRAIN;

    fn to_word(self) -> u64 {
        (u64::from(self.down) * Self::DOWN) | (u64::from(self.drain) * Self::DRAIN)
    }

    fn from_word(word: u64) -> Self {
        Self { down: word & Self::DOWN != 0, drain: word & Self::DRAIN != 0 }
    }
}

/// What a peer's agent has said of it. It is in the word of the orders, in other bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advice {
    /// It gets no requests: it says that it is down.
    pub is_down: bool,
    /// It gets no requests: it is being maintained.
    pub is_in_maintenance: bool,
    /// It gets only requests that are bound to it.
    pub drains: bool,
    /// The share of its weight that it gets, 0 to 100.
    pub percent: u8,
}

impl Default for Advice {
    fn default() -> Self {
        Self { is_down: false, is_in_maintenance: false, drains: false, percent: 100 }
    }
}

impl Advice {
    const DOWN: u64 = 1 << 2;
    const MAINTENANCE: u64 = 1 << 3;
    const DRAINS: u64 = 1 << 4;
    /// 100 less the percent, so that an empty word means nothing.
    const LESS: u32 = 8;
    const BITS: u64 = Self::DOWN | Self::MAINTENANCE | Self::DRAINS | (0xff << Self::LESS);

    fn to_word(self) -> u64 {
        (u64::from(self.is_down) * Self::DOWN)
            | (u64::from(self.is_in_maintenance) * Self::MAINTENANCE)
            | (u64::from(self.drains) * Self::DRAINS)
            | u64::from(100 - self.percent.min(100)) << Self::LESS
    }

    fn from_word(word: u64) -> Self {
        Self {
            is_down: word & Self::DOWN != 0,
            is_in_maintenance: word & Self::MAINTENANCE != 0,
            drains: word & Self::DRAINS != 0,
            percent: 100 - (word >> Self::LESS & 0xff).min(100) as u8,
        }
    }
}

fn valid_orders(word: u64) -> u64 {
    if word & !(Orders::BITS | Advice::BITS) == 0 { word } else { 0 }
}

/// The result of a peer's active checks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Health {
    /// It has not been checked yet, or is not checked at all.
    #[default]
    Unknown = 0,
    Healthy = 1,
    Unhealthy = 2,
    /// Not to be used before its first check (`mandatory`).
    Checking = 3,
    /// Unhealthy, but so are all others of its group, which therefore are all used (`fail_open`).
    Spare = 4,
}

impl Health {
    fn from_word(word: u64) -> Self {
        match word {
            1 => Self::Healthy,
            2 => Self::Unhealthy,
            3 => Self::Checking,
            4 => Self::Spare,
            _ => Self::Unknown,
        }
    }
}

/// The place of one peer. It is only a pointer and an index: copy it, and keep it in the configuration.
#[derive(Clone, Copy)]
pub struct Place {
    words: &'static [AtomicU64; PEER_WORDS],
    index: u32,
}

/// The words that round robin in a group with `zone` shares: for each priority a counter of turns, and a number of turns
/// that go by rounds (`upstream/turns.rs`). They have a place like that of a peer, under a name that no peer has.
#[derive(Debug, Clone, Copy)]
pub struct SharedTurns {
    place: Place,
    /// Index of the first of its two words.
    at: usize,
}

/// The name of the place; peers' names are addresses.
const TURNS: &str = "turns";

impl SharedTurns {
    /// Finds or creates those of a group, for its most preferred peers. `None`: all places are in use. For the master.
    pub fn of(group: &str) -> Option<Self> {
        Some(Self { place: place(&format!("{group}/{TURNS}"))?, at: 0 })
    }

    /// Those for peers of this priority; from the eighth on all have the same.
    #[must_use]
    pub fn of_priority(self, priority: u32) -> Self {
        let lists = PEER_WORDS as u32 / 2;
        Self { at: 2 * priority.min(lists - 1) as usize, ..self }
    }

    /// The number of the place, for [`sweep`].
    pub fn index(self) -> u32 {
        self.place.index
    }

    /// Takes the next turn.
    #[inline]
    pub fn next(self) -> u64 {
        self.place.words[self.at].fetch_add(1, Relaxed)
    }

    /// True if this turn is one of those that go by rounds, of which there are at most `max`. Two workers that ask at the
    /// same moment may count as one.
    #[inline]
    pub fn takes_round(self, max: u64) -> bool {
        let word = &self.place.words[self.at + 1];
        let left = word.load(Relaxed).min(max);
        if left > 0 {
            word.store(left - 1, Relaxed);
        }
        left > 0
    }

    /// Makes the next turns go by rounds.
    pub fn go_by_rounds(self, count: u64) {
        self.place.words[self.at + 1].store(count, Relaxed);
    }

    #[cfg(test)]
    pub fn scribble(self, bits: u64) {
        self.place.words.iter().for_each(|word| word.store(bits, Relaxed));
    }
}

static TABLE: Table =
    Table { capacity: PEERS, used: Header::PeersUsed, name: Area::peer_name, clear: clear_place };

static INDEX: LazyLock<Mutex<Index>> = LazyLock::new(|| Mutex::new(Index::new(&TABLE)));

/// The name of a group's peer in shared memory.
pub fn full_name(group: &str, peer: &SockAddr) -> String {
    let mut name = String::with_capacity(group.len() + "/255.255.255.255:65535".len());
    name.push_str(group);
    name.push('/');
    peer.push_to(&mut name);
    name
}

/// Finds or creates the place of a peer by its [`full_name`]. `None`: all 65,536 are in use.
///
/// For the master while it compiles a configuration; too slow for the path of a request.
pub fn place(peer: &str) -> Option<Place> {
    let name = fingerprint(KIND, peer.as_bytes());
    let index = INDEX.lock().unwrap_or_else(PoisonError::into_inner).find(area(), name)?;
    Some(Place::at(area(), index))
}

/// Frees the places that no configuration names any more. Call it only when no worker of an older one is
/// alive.
pub fn sweep(live: &HashSet<u32>) {
    INDEX.lock().unwrap_or_else(PoisonError::into_inner).sweep(area(), live);
}

/// Notes that the checks of a generation's configuration have begun: from now on its processes believe the health in
/// shared memory, which the checks of an earlier one may have found until then.
pub fn begin_checks(generation: u64) {
    area().header(Header::ChecksBegun).store(generation, Relaxed);
}

/// True if the checks of this process' generation have begun, or those of a later one.
pub fn have_checks_begun() -> bool {
    area().header(Header::ChecksBegun).load(Relaxed) >= heartbeat::generation()
}

/// Number of places ever assigned: a dead worker cannot have counted in any other.
pub(super) fn used(area: &Area) -> usize {
    TABLE.used(area)
}

fn clear_place(area: &Area, index: usize) {
    for word in area.peer(index).iter().chain(area.peer_statuses(index)) {
        word.store(0, Relaxed);
    }
    for lane in 0..lanes::used(area) {
        let count = area.in_use(lane, index);
        if count.load(Relaxed) != 0 {
            count.store(0, Relaxed);
        }
    }
}

impl Place {
    fn at(area: &Area, index: u32) -> Self {
        Self { words: area.peer(index as usize), index }
    }

    /// The place with this number, which the master has assigned; `None`: there is no such place.
    pub fn of_index(index: u32) -> Option<Self> {
        ((index as usize) < PEERS).then(|| Self::at(area(), index))
    }

    /// Its number, for [`sweep`] and [`Place::of_index`].
    pub fn index(self) -> u32 {
        self.index
    }

    /// Reads a number, limited to `max`.
    #[inline]
    pub fn number(self, word: Word, max: u64) -> u64 {
        self.load(word).min(max)
    }

    pub fn set_number(self, word: Word, number: u64) {
        self.store(word, number);
    }

    /// Reads a weight, limited to `-max..=max`.
    pub fn weight(self, word: Word, max: i64) -> i64 {
        let max = max.max(0);
        self.load(word).cast_signed().clamp(-max, max)
    }

    /// Adds to a weight, which other workers may change at the same time. Returns the sum, which wraps.
    #[inline]
    pub fn add_weight(self, word: Word, change: i64) -> i64 {
        let before = self.words[word as usize].fetch_add(change.cast_unsigned(), Relaxed);
        before.cast_signed().wrapping_add(change)
    }

    pub fn set_weight(self, word: Word, weight: i64) {
        self.store(word, weight.cast_unsigned());
    }

    /// Reads a time that must have passed. One that lies ahead was written by a worker gone wrong; it is set
    /// to now, or the peer would be down for all workers for ever.
    #[inline]
    pub fn past_ms(self, word: Word, now_ms: u64) -> u64 {
        let at_ms = self.load(word);
        if at_ms > now_ms {
            self.store(word, now_ms);
            return now_ms;
        }
        at_ms
    }

    pub fn set_ms(self, word: Word, at_ms: u64) {
        self.store(word, at_ms);
    }

    pub fn orders(self) -> Orders {
        Orders::from_word(self.orders_word())
    }

    pub fn set_orders(self, orders: Orders) {
        self.change_orders(Orders::BITS, orders.to_word());
    }

    pub fn advice(self) -> Advice {
        Advice::from_word(self.orders_word())
    }

    /// The word of orders and advice; nothing if it has a bit that neither has, since a worker gone wrong wrote it.
    #[inline]
    fn orders_word(self) -> u64 {
        valid_orders(self.load(Word::Orders))
    }

    pub fn set_advice(self, advice: Advice) {
        self.change_orders(Advice::BITS, advice.to_word());
    }

    /// Sets some bits of the word; another process may set the others at the same time.
    fn change_orders(self, bits: u64, value: u64) {
        let changed = |old| Some(valid_orders(old) & !bits | value & bits);
        let _ = self.words[Word::Orders as usize].fetch_update(Relaxed, Relaxed, changed);
    }

    /// The result of the checks, and the time since which it holds.
    pub fn health(self, now_ms: u64) -> (Health, u64) {
        (Health::from_word(self.load(Word::Health)), self.past_ms(Word::HealthMs, now_ms))
    }

    pub fn set_health(self, health: Health, now_ms: u64) {
        // Write the time first: a reader in between sees the old state as recent, which does no harm.
        self.store(Word::HealthMs, now_ms);
        self.store(Word::Health, health as u64);
    }

    /// Counts one connection of this worker as in use while the guard lives.
    ///
    /// Only for the thread of the worker's loop: no other process writes to its lane, so no locked
    /// instruction is needed.
    #[inline]
    pub fn enter(self) -> InUse {
        let count = area().in_use(lanes::mine().number(), self.index as usize);
        count.store(count.load(Relaxed).wrapping_add(1), Relaxed);
        InUse { count }
    }

    /// Notes that the peer was chosen now.
    #[inline]
    pub fn note_chosen(self, now_ms: u64) {
        let [chosen_ms, ..] = area().peer_statuses(self.index as usize);
        // Other workers read the word too: leave it to them as long as it is right.
        if chosen_ms.load(Relaxed) != now_ms {
            chosen_ms.store(now_ms, Relaxed);
        }
    }

    /// The time at which it was last chosen; `None`: never.
    pub fn chosen_ms(self, now_ms: u64) -> Option<u64> {
        let [chosen_ms, ..] = area().peer_statuses(self.index as usize);
        Some(chosen_ms.load(Relaxed).min(now_ms)).filter(|at_ms| *at_ms != 0)
    }

    /// Counts responses with this status. The first 30 that there are have a word each, with the
    /// status in its upper half; the last word has the number of all others.
    pub fn count_status(self, status: u16, count: u64) {
        let [_, words @ ..] = area().peer_statuses(self.index as usize);
        let own = u64::from(status) << STATUS_SHIFT;
        let (others, each) = words.split_last().expect("there are some");
        for word in each {
            let before = match word.compare_exchange(0, own | count, Relaxed, Relaxed) {
                Ok(_) => return,
                Err(before) => before,
            };
            if before >> STATUS_SHIFT == u64::from(status) {
                word.fetch_add(count, Relaxed);
                return;
            }
        }
        others.fetch_add(count, Relaxed);
    }

    /// The number of responses with this status, together with others if there were too many to tell them apart.
    pub(super) fn count_of(self, status: u16) -> u64 {
        let [_, words @ ..] =
            area().peer_statuses(self.index as usize).each_ref().map(|word| word.load(Relaxed));
        let own = words.iter().find(|word| **word >> STATUS_SHIFT == u64::from(status));
        own.map_or(words[words.len() - 1], |word| word & ((1 << STATUS_SHIFT) - 1))
    }

    /// The statuses that it has sent, with their counts. `None`: there were more of them than are told apart.
    pub fn statuses(self) -> Option<Vec<(u16, u64)>> {
        let [_, words @ ..] =
            area().peer_statuses(self.index as usize).each_ref().map(|word| word.load(Relaxed));
        let (others, each) = words.split_last()?;
        let status = |word: &u64| ((word >> STATUS_SHIFT) as u16, word & ((1 << STATUS_SHIFT) - 1));
        (*others == 0).then(|| each.iter().filter(|word| **word != 0).map(status).collect())
    }

    /// True if its words alone show that it may be used: no failures, no orders, no advice, no ejection, and no checks
    /// that speak against it. Otherwise its peer knows.
    #[inline]
    pub fn is_clear(self) -> bool {
        let against = self.load(Word::Fails) | self.load(Word::Orders) | self.load(Word::EjectedMs);
        against == 0 && self.load(Word::Health) <= Health::Healthy as u64
    }

    /// Number of connections in use in all workers.
    pub fn in_use(self) -> u32 {
        in_use(area(), self.index as usize)
    }

    #[inline]
    fn load(self, word: Word) -> u64 {
        self.words[word as usize].load(Relaxed)
    }

    #[inline]
    fn store(self, word: Word, value: u64) {
        self.words[word as usize].store(value, Relaxed);
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Place({})", self.index)
    }
}

fn in_use(area: &Area, index: usize) -> u32 {
    let count = |lane| area.in_use(lane, index).load(Relaxed);
    (0..lanes::used(area)).map(count).fold(0, u32::wrapping_add)
}

/// The number of connections in use in all workers of each of these peers: one row of each lane after the other, which
/// is faster than asking for each peer.
pub fn in_use_of_all(places: impl Iterator<Item = Place> + Clone, out: &mut [i64]) {
    let area = area();
    let mut sums = smallvec::SmallVec::<[u32; 128]>::from_elem(0, out.len());
    for lane in 0..lanes::used(area) {
        let row = area.all_in_use(lane);
        for (sum, place) in sums.iter_mut().zip(places.clone()) {
            *sum = sum.wrapping_add(row[place.index as usize % PEERS].load(Relaxed));
        }
    }
    out.iter_mut().zip(sums).for_each(|(count, sum)| *count = sum.into());
}

/// Counts one connection in use until it is dropped.
#[derive(Debug)]
pub struct InUse {
    count: &'static AtomicU32,
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.count.store(self.count.load(Relaxed).wrapping_sub(1), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::lanes::Lane;

    #[test]
    fn connections_of_several_peers_are_those_of_each() {
        let places = ["b", "a", "c"].map(|name| place(&format!("peers.several/{name}")).expect("room"));
        let _held = [places[0].enter(), places[2].enter(), places[2].enter()];
        let mut counts = [7; 3];
        in_use_of_all(places.into_iter(), &mut counts);
        assert_eq!(counts, [1, 0, 2]);
        assert_eq!(places.map(|place| i64::from(place.in_use())), counts);
    }

    #[test]
    fn a_peer_is_found_again_by_its_group_and_its_name() {
        let index = |group, peer| place(&format!("{group}/{peer}")).expect("room").index();
        let first = index("peers.test", "10.0.0.1:80");
        assert_eq!(index("peers.test", "10.0.0.1:80"), first);
        assert_ne!(index("peers.test", "10.0.0.2:80"), first);
        assert_ne!(index("other.test", "10.0.0.1:80"), first);
    }

    #[test]
    fn a_full_table_says_so_and_sweeping_frees_it() {
        let area = Area::fresh();
        let mut index = Index::new(&TABLE);
        let all: Vec<u32> = (1..=PEERS as u64).filter_map(|name| index.find(&area, name)).collect();
        assert_eq!((all.len(), index.find(&area, u64::MAX)), (PEERS, None));
        let place = Place::at(&area, all[5]);
        place.set_number(Word::Fails, 9);
        area.in_use(0, all[5] as usize).store(4, Relaxed);
        let live = all.iter().copied().filter(|index| *index != all[5]).collect();
        index.sweep(&area, &live);
        assert_eq!(index.find(&area, u64::MAX), Some(all[5]), "the one that nobody names");
        assert_eq!(place.number(Word::Fails, u64::MAX), 0);
        assert_eq!(in_use(&area, all[5] as usize), 0);
    }

    #[test]
    fn the_next_binary_finds_the_words_of_the_last() {
        let area = Area::fresh();
        let (mut old, mut new) = (Index::new(&TABLE), Index::new(&TABLE));
        let index = old.find(&area, 11).expect("room");
        Place::at(&area, index).set_number(Word::Fails, 3);
        assert_eq!(new.find(&area, 11), Some(index));
        assert_eq!(Place::at(&area, index).number(Word::Fails, u64::MAX), 3);
    }

    #[test]
    fn a_worker_that_dies_takes_its_connections_with_it() {
        let area = Area::fresh();
        let index = Index::new(&TABLE).find(&area, 1).expect("room") as usize;
        let lanes = [1, 2].map(|number| Lane::of_number(number).expect("a lane"));
        for (lane, count) in lanes.into_iter().zip([3, 4]) {
            lanes::prepare_in(&area, lane, 0, 1);
            area.in_use(lane.number(), index).store(count, Relaxed);
        }
        let place = Place::at(&area, index as u32);
        place.set_number(Word::Fails, 2);
        assert_eq!(in_use(&area, index), 7);
        // It may be killed between any two of its instructions: each changes one word.
        lanes::give_in(&area, lanes[0]);
        assert_eq!(in_use(&area, index), 4);
        assert_eq!(place.number(Word::Fails, u64::MAX), 2, "what it has found out stays");
    }

    #[test]
    fn connections_count_while_their_guards_live() {
        let place = place("peers.test/guards").expect("room");
        let guards: Vec<InUse> = (0..3).map(|_| place.enter()).collect();
        assert_eq!(place.in_use(), 3);
        drop(guards);
        assert_eq!(place.in_use(), 0);
    }

    #[test]
    fn whatever_a_hostile_worker_writes_is_read_within_bounds() {
        let area = Area::fresh();
        let place = Place::at(&area, 7);
        for bits in [u64::MAX, 1 << 63, i64::MAX as u64, 0x8000_0000_0000_0001] {
            for word in area.peer(7) {
                word.store(bits, Relaxed);
            }
            assert!(place.number(Word::ResponseUs, 60_000_000) <= 60_000_000);
            assert!((-10..=10).contains(&place.weight(Word::CurrentWeight, 10)));
            assert_eq!(place.weight(Word::LostWeight, -5), 0);
            assert_eq!(place.past_ms(Word::CheckedMs, 5000), 5000);
            assert_eq!(place.past_ms(Word::CheckedMs, 6000), 5000, "it was put right, and passes");
            assert_eq!(place.health(5000), (Health::Unknown, 5000));
            assert_eq!((place.orders(), place.advice()), (Orders::default(), Advice::default()));
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let area = Area::fresh();
        let place = Place::at(&area, 0);
        assert_eq!((place.orders(), place.health(9)), (Orders::default(), (Health::Unknown, 0)));
        for orders in [(true, false), (false, true), (true, true)] {
            let orders = Orders { down: orders.0, drain: orders.1 };
            place.set_orders(orders);
            assert_eq!(place.orders(), orders);
            let advice = Advice { drains: orders.down, percent: 30, ..Advice::default() };
            place.set_advice(advice);
            assert_eq!((place.orders(), place.advice()), (orders, advice));
        }
        place.set_orders(Orders::default());
        assert_eq!(place.advice().percent, 30, "the one does not change the other");
        for health in [Health::Healthy, Health::Unhealthy, Health::Checking, Health::Spare, Health::Unknown] {
            place.set_health(health, 1234);
            assert_eq!(place.health(5000), (health, 1234));
        }
        place.set_weight(Word::CurrentWeight, -7);
        place.set_weight(Word::LostWeight, 3);
        place.set_ms(Word::ReturnedMs, 77);
        assert_eq!(place.add_weight(Word::CurrentWeight, 10), 3);
        assert_eq!(place.add_weight(Word::CurrentWeight, -10), -7);
        let weights = [Word::CurrentWeight, Word::LostWeight].map(|word| place.weight(word, 100));
        assert_eq!((weights, place.past_ms(Word::ReturnedMs, 100)), ([-7, 3], 77));
    }

    #[test]
    fn statuses_are_counted_each_until_there_are_too_many() {
        let place = place("peers.test/statuses").expect("room");
        for (status, count) in [(200, 3), (404, 1), (200, 2)] {
            place.count_status(status, count);
        }
        assert_eq!(place.statuses(), Some(vec![(200, 5), (404, 1)]));
        for status in 300..328 {
            place.count_status(status, 1);
        }
        assert_eq!(place.statuses().map(|all| all.len()), Some(30), "as many as there are words");
        place.count_status(200, 1);
        assert!(place.statuses().is_some_and(|all| all[0] == (200, 6)));
        place.count_status(599, 1);
        assert_eq!(place.statuses(), None);
    }

    #[test]
    fn the_checks_of_a_generation_have_begun_when_the_master_says_so() {
        // The lane of the tests' process is the master's, whose generation is 0.
        assert!(have_checks_begun());
    }
}
