//! The counts that a worker has taken in its present turn, in memory that outlives it: a list of facts, and the journal of
//! their addition to the counters.
//!
//! ```text
//! state | facts: ENTRIES × 13 | journal: ITEMS × (word, count, before)
//! state: facts done (16 bits) | facts (16) | items of the journal (16) | items done (16)
//! ```
//! Only the lane's own process writes them (`behind`). At the end of a turn it adds the facts up in the journal, one item
//! for each word to add to, commits the journal with one store to the state, and adds one item after the other. If it is
//! killed, the master continues from the state ([`settle`]). Whether the item that was about to be added has been is seen
//! in its word, which has grown by then. (Only if the worker is killed in the few instructions before an addition, while
//! another one adds as much to the same word, is that addition lost.)
//!
//! **Any worker may write anything here.** The master's work is bounded by the size of the tables, and each index is
//! checked: nothing but counters can be added to, which any worker could write itself.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Relaxed, Release};

use super::area::{Area, SLOTS, area};
use super::counter::Word;
use super::detail::{CONNECT_TIME, Detail, Facts, HEADER_TIME, REQUEST_TIME, RESPONSE_TIME};
use super::histogram::{self, Histogram};
use super::lanes::Lane;
use super::peers::Place;

/// Maximum number of facts of a turn; with more of them they are added in the middle of the turn.
pub(super) const ENTRIES: usize = 128;
pub(super) const ENTRY_WORDS: usize = 13;
/// Maximum number of words that are added to at once.
pub(super) const ITEMS: usize = 512;
/// No fact is counted in more words.
const ITEMS_OF_ENTRY: usize = 48;
const ITEM_WORDS: usize = 3;
const FACTS_AT: usize = 1;
const JOURNAL_AT: usize = FACTS_AT + ENTRIES * ENTRY_WORDS;
pub(super) const WORDS: usize = JOURNAL_AT + ITEMS * ITEM_WORDS;

/// The words of one lane.
pub(super) type Words = [AtomicU64; WORDS];

/// The kinds of facts, in the low byte of the first word.
pub(super) const REQUESTS: u64 = 1;
pub(super) const COUNT: u64 = 2;
pub(super) const FACTS: u64 = 3;
pub(super) const TIMES: u64 = 4;

/// Marks a number that is not there.
pub(super) const NONE: u64 = 0xffff;

/// The addition has not been tried.
const UNTRIED: u64 = u64::MAX;

/// The bit of a key that names a status of a peer; other keys are words of the area.
const STATUS_KEY: u64 = 1 << 63;

/// One fact: what its words mean depends on its kind.
///
/// ```text
/// requests  kind  shape: 3 words  count  bytes in, out  4 times in µs  details: 3 × u16  named histograms: 4 × u16
/// count     kind, status, 4 words' numbers  slot, place + 1  count  4 sums
/// facts     kind  detail  facts  count
/// times     kind  histogram  bucket  count  sum in µs
/// ```
pub(super) type Entry = [AtomicU64; ENTRY_WORDS];

pub(super) fn entry(words: &Words, index: usize) -> &Entry {
    let at = FACTS_AT + index % ENTRIES * ENTRY_WORDS;
    words[at..at + ENTRY_WORDS].try_into().expect("a range of a fact's words")
}

/// Says how many facts there are: those before are complete.
#[inline]
pub(super) fn commit(words: &Words, count: usize) {
    words[0].store((count as u64) << 16, Release);
}

#[derive(Clone, Copy)]
struct State {
    facts_done: usize,
    facts: usize,
    items: usize,
    items_done: usize,
}

/// One more item done, in the word of a [`State`].
const ITEM_DONE: u64 = 1 << 48;

impl State {
    fn word(self) -> u64 {
        let Self { facts_done, facts, items, items_done } = self;
        facts_done as u64 | (facts as u64) << 16 | (items as u64) << 32 | (items_done as u64) << 48
    }

    fn load(words: &Words) -> Self {
        let word = words[0].load(Relaxed);
        let part = |shift: u32| (word >> shift) as usize & 0xffff;
        Self {
            facts_done: part(0),
            facts: part(16).min(ENTRIES),
            items: part(32).min(ITEMS),
            items_done: part(48),
        }
    }
}

/// Finds the item of a word in the journal.
pub(super) struct Lookup {
    /// The item of each hash, and the journal that it belongs to.
    items: [Found; Self::SIZE],
    /// The number of the present journal. Those of older ones are out of date, so that none has to be removed.
    journal: u16,
}

#[derive(Clone, Copy)]
struct Found {
    journal: u16,
    item: u16,
}

impl Lookup {
    const SIZE: usize = 2 * ITEMS;

    pub const fn new() -> Self {
        Self { items: [Found { journal: 0, item: 0 }; Self::SIZE], journal: 0 }
    }

    /// Begins a journal without items.
    fn begin(&mut self) {
        self.journal = self.journal.wrapping_add(1);
        if self.journal == 0 {
            *self = Self { journal: 1, ..Self::new() };
        }
    }

    /// The item of a key; `None`: it has none yet, and gets `new`.
    #[inline]
    fn item(&mut self, key: u64, new: usize, keys: impl Fn(usize) -> u64) -> Option<usize> {
        let mut at = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54) as usize;
        loop {
            let found = &mut self.items[at];
            if found.journal != self.journal {
                *found = Found { journal: self.journal, item: new as u16 };
                return None;
            }
            if keys(usize::from(found.item)) == key {
                return Some(usize::from(found.item));
            }
            at = (at + 1) % Self::SIZE;
        }
    }
}

const _: () = assert!(Lookup::SIZE == 1 << (64 - 54) && ITEMS_OF_ENTRY <= ITEMS);

/// Adds `count` facts to the counters, and forgets them.
pub(super) fn flush(words: &Words, count: usize, lookup: &mut Lookup, lane: Lane) {
    let area = area();
    let mut state = State { facts_done: 0, facts: count, items: 0, items_done: 0 };
    while state.facts_done < count {
        state = journal(words, state, lookup, lane);
        let mut word = state.word();
        words[0].store(word, Release);
        for [key, sum, before] in items(words).iter().take(state.items) {
            let (key, sum) = (key.load(Relaxed), sum.load(Relaxed));
            // The keys are our own, so a word of the area needs no look at which part it belongs to.
            match area.word(key as usize).filter(|_| key & STATUS_KEY == 0) {
                Some(counter) => {
                    before.store(counter.load(Relaxed), Release);
                    counter.fetch_add(sum, AcqRel);
                }
                None => {
                    before.store(value(area, key), Release);
                    apply(area, key, sum);
                }
            }
            word += ITEM_DONE;
            words[0].store(word, Release);
        }
    }
    words[0].store(0, Release);
}

/// Adds up as many facts in the journal as it has room for. Returns the state to commit.
fn journal(words: &Words, state: State, lookup: &mut Lookup, lane: Lane) -> State {
    lookup.begin();
    let items = items(words);
    let mut state = State { items: 0, items_done: 0, ..state };
    while state.facts_done < state.facts && state.items + ITEMS_OF_ENTRY <= ITEMS {
        each_sum(entry(words, state.facts_done), lane, |key, sum| {
            match lookup.item(key, state.items, |index| items[index % ITEMS][0].load(Relaxed)) {
                None => {
                    let [at, total, before] = &items[state.items % ITEMS];
                    at.store(key, Relaxed);
                    total.store(sum, Relaxed);
                    before.store(UNTRIED, Relaxed);
                    state.items += 1;
                }
                Some(known) => add(&items[known % ITEMS][1], sum),
            }
        });
        state.facts_done += 1;
    }
    state
}

/// Adds what a process that is gone has left in its lane. For the master, which trusts none of it.
pub(super) fn settle(lane: Lane) {
    let (area, words) = (area(), area().pending(lane.number()));
    let state = State::load(words);
    for index in state.items_done..state.items {
        let [key, total, before] = items(words)[index % ITEMS].each_ref().map(|word| word.load(Relaxed));
        let was_tried = index == state.items_done && before != UNTRIED;
        if was_tried && value(area, key).wrapping_sub(before) >= total {
            continue;
        }
        apply(area, key, total);
    }
    for index in state.facts_done..state.facts {
        each_sum(entry(words, index), lane, |key, sum| apply(area, key, sum));
    }
    words[0].store(0, Release);
}

/// The items of the journal: a word's key, what to add to it, and its value before.
#[inline]
fn items(words: &Words) -> &[[AtomicU64; ITEM_WORDS]; ITEMS] {
    words[JOURNAL_AT..].as_chunks().0.try_into().expect("the words behind the facts are the items")
}

/// Adds to a word that no other process writes.
#[inline]
pub(super) fn add(word: &AtomicU64, count: u64) {
    word.store(word.load(Relaxed).wrapping_add(count), Relaxed);
}

fn peer_status(key: u64) -> (Option<Place>, u16) {
    (Place::of_index((key >> 16) as u32 & 0x7fff_ffff), key as u16)
}

fn value(area: &Area, key: u64) -> u64 {
    if key & STATUS_KEY == 0 {
        return area.counter(key as usize).map_or(0, |word| word.load(Relaxed));
    }
    let (place, status) = peer_status(key);
    place.map_or(0, |place| place.count_of(status))
}

fn apply(area: &Area, key: u64, sum: u64) {
    if sum == 0 {
        return;
    }
    if key & STATUS_KEY == 0 {
        if let Some(word) = area.counter(key as usize) {
            word.fetch_add(sum, AcqRel);
        }
        return;
    }
    let (place, status) = peer_status(key);
    if let Some(place) = place {
        place.count_status(status, sum);
    }
}

/// Calls `out` with each word that a fact is counted in, and what to add.
fn each_sum(entry: &Entry, lane: Lane, mut out: impl FnMut(u64, u64)) {
    let word = |index: usize| entry[index].load(Relaxed);
    match word(0) & 0xff {
        REQUESTS => each_of_requests(entry, lane, &mut out),
        COUNT => {
            let (head, places) = (word(0), word(1));
            let (status, ids) = ((head >> 8) as u16, head >> 24);
            let (slot, count) = (places as u32, word(2));
            each_of_slot(slot, status, count, &mut out);
            for number in 0..4 {
                let sum = word(3 + number);
                if sum != 0 {
                    out(slot_word(slot, (ids >> (4 * number)) as usize & 0xf), sum);
                }
            }
            let place = places >> 32;
            if place != 0 && count != 0 && Word::of_status(status).is_some() {
                out(STATUS_KEY | (place - 1) << 16 | u64::from(status), count);
            }
        }
        FACTS => each_of_facts(word(1), Facts::of_word(word(2) as u32), word(3), &mut out),
        TIMES => {
            let histogram = Histogram::of_index(word(1) as u32);
            each_of_times(histogram, lane, (word(2), word(3), word(4)), &mut out);
        }
        _ => {}
    }
}

/// Plain loops and conditions: this runs in every turn, and chains of iterators took twice as many instructions.
fn each_of_requests(entry: &Entry, lane: Lane, out: &mut impl FnMut(u64, u64)) {
    let word = |index: usize| entry[index].load(Relaxed);
    let half = |index: usize| (word(1 + index / 2) >> (32 * (index % 2))) as u32;
    let quarter = |index: usize, number: usize| word(index) >> (16 * number) & 0xffff;
    let (facts, count) = (Facts::of_word(half(3)), word(4));
    let (bytes_in, bytes_out, response_us) = (word(5), word(6), word(10));
    for number in 0..3 {
        let slot = half(number);
        if slot == u32::MAX {
            continue;
        }
        each_of_slot(slot, facts.status(), count, out);
        if number == 2 {
            out(slot_word(slot, Word::ResponseUs as usize), response_us);
        } else {
            out(slot_word(slot, Word::BytesIn as usize), bytes_in);
            out(slot_word(slot, Word::BytesOut as usize), bytes_out);
        }
        each_of_facts(quarter(11, number), facts, count, out);
    }
    let buckets = [half(4) >> 16, half(4) & 0xffff, half(5) >> 16, half(5) & 0xffff];
    let details = [(0, REQUEST_TIME), (2, CONNECT_TIME), (2, HEADER_TIME), (2, RESPONSE_TIME)];
    for (number, (bucket, (owner, time))) in buckets.into_iter().zip(details).enumerate() {
        if u64::from(bucket) == NONE {
            continue;
        }
        let sums = (u64::from(bucket), count, word(7 + number));
        let named = quarter(12, number);
        if named != NONE {
            each_of_times(Histogram::of_index(named as u32), lane, sums, out);
        }
        if let Some(detail) = Detail::of_index(quarter(11, owner)) {
            each_of_times(detail.histogram(time), lane, sums, out);
        }
        if number == 0
            && let Some(location) = Detail::of_index(quarter(11, 1))
        {
            each_of_times(location.histogram(REQUEST_TIME), lane, sums, out);
        }
    }
}

#[inline]
fn slot_word(slot: u32, word: usize) -> u64 {
    Area::slot_at(slot as usize % SLOTS) as u64 + word as u64
}

/// Requests of a slot that had this status.
#[inline(always)]
fn each_of_slot(slot: u32, status: u16, count: u64, out: &mut impl FnMut(u64, u64)) {
    if count != 0 {
        out(slot_word(slot, Word::Requests as usize), count);
        if let Some(class) = Word::of_status(status) {
            out(slot_word(slot, class as usize), count);
        }
    }
}

#[inline(always)]
fn each_of_facts(detail: u64, facts: Facts, count: u64, out: &mut impl FnMut(u64, u64)) {
    if let Some(detail) = Detail::of_index(detail) {
        let at = Area::detail_at(detail.index() as usize);
        facts.words().for_each(|word| out((at + word) as u64, count));
    }
}

#[inline(always)]
fn each_of_times(
    histogram: Histogram,
    lane: Lane,
    (bucket, count, sum_us): (u64, u64, u64),
    out: &mut impl FnMut(u64, u64),
) {
    let at = Area::histogram_at(histogram.index(), lane.number());
    out((at + (bucket as usize).min(histogram::LAST_BUCKET)) as u64, count);
    if sum_us != 0 {
        out((at + histogram::SUM) as u64, sum_us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::alike::Shape;
    use crate::shm::counter::{Kind, Slot, slot};
    use crate::shm::detail::{End, Protocol};
    use crate::shm::histogram::named;
    use crate::shm::peers::place;

    /// The counters of some facts, and the facts.
    struct Case {
        slots: [Slot; 2],
        place: Place,
        histogram: Histogram,
        facts: Vec<[u64; ENTRY_WORDS]>,
    }

    impl Case {
        fn new(name: &str) -> Self {
            let zone = slot(Kind::Zone, name).expect("room");
            let peer = slot(Kind::Peer, name).expect("room");
            let place = place(&format!("pending.test/{name}")).expect("room");
            let histogram = named(&format!("pending {name}")).expect("room");
            let facts = Facts::new(200, Protocol::Http11, End::OK);
            let [a, b, c] = Shape::new([Some(zone), None, None], facts, [Some(70), None, None, None]).words();
            let detail = u64::from(zone.detail().expect("room").index());
            let (of_zone, index) = (detail | NONE << 16 | NONE << 32, histogram.index() as u64);
            let head = COUNT | 200 << 8 | (Word::BytesIn as u64) << 24;
            let at = u64::from(peer.index()) | (u64::from(place.index()) + 1) << 32;
            let facts = vec![
                [
                    REQUESTS,
                    a,
                    b,
                    c,
                    3,
                    30,
                    300,
                    210,
                    0,
                    0,
                    0,
                    of_zone,
                    index | NONE << 16 | NONE << 32 | NONE << 48,
                ],
                [head, at, 3, 33, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                [TIMES, index, 70, 1, 70, 0, 0, 0, 0, 0, 0, 0, 0],
                [FACTS, detail, u64::from(facts.word()), 1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                [head, at, 1, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            ];
            Self { slots: [zone, peer], place, histogram, facts }
        }

        fn write(&self, words: &Words) -> State {
            for (index, fact) in self.facts.iter().enumerate() {
                entry(words, index).iter().zip(fact).for_each(|(word, value)| word.store(*value, Relaxed));
            }
            commit(words, self.facts.len());
            State::load(words)
        }

        /// All that the facts are counted in has so many times their sums.
        fn assert_times(&self, times: u64) {
            let ids = [Word::Requests, Word::Status2xx, Word::BytesIn, Word::BytesOut];
            let sums: Vec<u64> = self.slots.iter().flat_map(|slot| ids.map(|id| slot.get(id))).collect();
            assert_eq!(sums, [3, 3, 30, 300, 4, 4, 44, 0].map(|sum| sum * times));
            let statuses: Vec<_> = self.slots[0].detail().expect("room").statuses().collect();
            let (of_peer, histogram) = (self.place.statuses(), self.histogram.snapshot());
            assert_eq!((statuses, of_peer), (vec![(200, 4 * times)], Some(vec![(200, 4 * times)])));
            assert_eq!((histogram.count(), histogram.sum_us), (4 * times, 280 * times));
        }
    }

    /// A lane that no other test uses, and its words; its stripe of a histogram is that of this process.
    fn lane(number: usize) -> (Lane, &'static Words) {
        (Lane::of_number(number).expect("a lane"), area().pending(number))
    }

    #[test]
    fn what_a_worker_had_noted_is_counted_once() {
        let (case, (lane, words)) = (Case::new("noted"), lane(400));
        case.write(words);
        settle(lane);
        case.assert_times(1);
        settle(lane);
        case.assert_times(1);
        let count = case.write(words).facts;
        flush(words, count, &mut Lookup::new(), lane);
        settle(lane);
        case.assert_times(2);
    }

    /// Between any two stores.
    #[test]
    fn a_worker_may_die_at_any_step_of_its_additions() {
        let (case, (lane, words)) = (Case::new("any step"), lane(416));
        let area = area();
        let mut times = 0;
        let count = journal(words, case.write(words), &mut Lookup::new(), lane).items;
        assert!(count > 10);
        for done in 0..=count {
            for step in 0..3 {
                let mut state = journal(words, case.write(words), &mut Lookup::new(), lane);
                words[0].store(state.word(), Release);
                for index in 0..(done + 1).min(count) {
                    let [key, sum, before] = &items(words)[index];
                    if index < done || step > 0 {
                        before.store(value(area, key.load(Relaxed)), Relaxed);
                    }
                    if index < done || step > 1 {
                        apply(area, key.load(Relaxed), sum.load(Relaxed));
                    }
                }
                state.items_done = done;
                words[0].store(state.word(), Release);
                settle(lane);
                times += 1;
                case.assert_times(times);
            }
        }
    }

    #[test]
    fn facts_that_are_too_many_for_the_journal_are_added_in_parts() {
        let (mut case, (lane, words)) = (Case::new("parts"), lane(432));
        let names: Vec<Slot> =
            (0..ENTRIES).map(|n| slot(Kind::Peer, &format!("pending {n}")).expect("room")).collect();
        let of = |slot: &Slot| {
            let ids = Word::BytesIn as u64 | (Word::BytesOut as u64) << 4 | (Word::ResponseUs as u64) << 8;
            [COUNT | 404 << 8 | ids << 24, u64::from(slot.index()), 1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0]
        };
        case.facts = names.iter().map(of).collect();
        let count = case.write(words).facts;
        flush(words, count, &mut Lookup::new(), lane);
        for slot in names {
            let ids = [Word::Requests, Word::Status4xx, Word::BytesIn, Word::BytesOut, Word::ResponseUs];
            assert_eq!(ids.map(|id| slot.get(id)), [1, 1, 2, 3, 4]);
        }
    }

    #[test]
    fn whatever_a_hostile_worker_leaves_is_settled_within_bounds() {
        let (lane, words) = lane(448);
        for (index, bits) in
            [u64::MAX, 1 << 63, 0x0101_0101_0101_0101, 0xffff_0000_ffff_0004].into_iter().enumerate()
        {
            for kind in [REQUESTS, COUNT, FACTS, TIMES, 77] {
                words.iter().for_each(|word| word.store(bits, Relaxed));
                for index in 0..ENTRIES {
                    entry(words, index)[0].store(bits & !0xff | kind, Relaxed);
                }
                // Sums of nothing: other tests count at the same time.
                (0..ENTRIES).for_each(|index| {
                    entry(words, index)[2..11].iter().for_each(|word| word.store(0, Relaxed))
                });
                (0..ITEMS).for_each(|index| items(words)[index][1].store(0, Relaxed));
                words[0].store(u64::MAX >> index, Relaxed);
                settle(lane);
                assert_eq!(words[0].load(Relaxed), 0);
            }
        }
    }
}
