//! The counting of requests: facts are noted in memory that only this process writes, and added to the counters of all
//! processes at the end of each turn.
//!
//! An atomic addition to a word that other workers write too costs more than all the rest of counting; most requests of a
//! turn are counted in the same words. The memory is the worker's lane (`pending`), so that nothing is lost when it is
//! killed: the master adds what it has left. Other threads and processes count in memory of their own.

use std::cell::RefCell;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use super::alike::{Amounts, Parts, Shape};
use super::area::area;
use super::counter::{Slot, Word};
use super::detail::{Detail, Facts};
use super::histogram::{self, Histogram};
use super::lanes;
use super::peers::Place;
use super::pending::{self, COUNT, ENTRIES, Entry, FACTS, Lookup, NONE, REQUESTS, TIMES, Words, entry};

/// The most words that a fact adds to besides requests and their status.
const OTHERS_MAX: usize = 4;

/// The pending counts of this thread.
pub struct Pending {
    /// `None` before the first one.
    words: Option<&'static Words>,
    /// The number of facts.
    count: usize,
    /// The last requests, and the last count of a slot: most are like those before, and added to them.
    alike: Option<(Shape, &'static Entry)>,
    same: Option<([u64; 2], &'static Entry)>,
    lookup: Lookup,
}

thread_local! {
    static PENDING: RefCell<Pending> = const {
        RefCell::new(Pending { words: None, count: 0, alike: None, same: None, lookup: Lookup::new() })
    };
}

/// Adds to the counts. `add` may not call functions of this file.
///
/// A request that is over adds several counts: finding the thread's costs more than adding to them.
#[inline]
pub fn add(add: impl FnOnce(&mut Pending)) {
    PENDING.with_borrow_mut(add);
}

/// From here on this thread's counts are in the lane of this process. For the thread of a worker's loop.
pub fn keep_in_lane() {
    flush();
    PENDING.with_borrow_mut(|pending| pending.words = Some(area().pending(lanes::mine().number())));
}

/// Adds one, or takes one back that was added in the same turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    Add,
    TakeBack,
}

impl Sign {
    #[inline]
    fn of(self, count: u64) -> u64 {
        match self {
            Self::Add => count,
            Self::TakeBack => count.wrapping_neg(),
        }
    }
}

impl Pending {
    /// Counts a finished request in all its places. `parts` is asked only if its shape differs from the last one.
    #[inline]
    pub fn finish(&mut self, shape: Shape, amounts: Amounts, sign: Sign, parts: impl FnOnce() -> Parts) {
        let entry = match self.alike {
            Some((last, entry)) if last == shape => entry,
            _ => {
                let parts = parts();
                self.begin_requests(shape, &parts)
            }
        };
        let Amounts { bytes_in, bytes_out, us } = amounts;
        let sums = [1, bytes_in, bytes_out, us[0], us[1], us[2], us[3]];
        for (word, sum) in entry[4..11].iter().zip(sums) {
            // A tunnel of an older worker comes with any numbers, since that worker is not trusted: sums wrap.
            pending::add(word, sign.of(sum));
        }
    }

    #[cold]
    #[inline(never)]
    fn begin_requests(&mut self, shape: Shape, parts: &Parts) -> &'static Entry {
        let pack = |numbers: &[Option<u64>]| {
            numbers.iter().rev().fold(0, |packed, number| packed << 16 | number.unwrap_or(NONE))
        };
        let detail = |slot: Option<Slot>| Some(u64::from(slot?.detail()?.index()));
        let details = pack(&parts.slots.map(detail));
        let named = pack(&parts.named.map(|histogram| Some(histogram?.index() as u64)));
        let [first, second, third] = shape.words();
        let entry = self.push([REQUESTS, first, second, third, 0, 0, 0, 0, 0, 0, 0, details, named]);
        self.alike = Some((shape, entry));
        entry
    }

    /// Counts a request that ended with `status`, and adds to other words of its slot (at most four).
    pub fn count(&mut self, slot: Slot, status: u16, others: &[(Word, u64)], sign: Sign) {
        self.count_peer(slot, None, status, others, sign);
    }

    /// Counts a turn of the peer with this place, which has sent `status`.
    #[inline]
    pub fn count_peer(
        &mut self,
        slot: Slot,
        place: Option<Place>,
        status: u16,
        others: &[(Word, u64)],
        sign: Sign,
    ) {
        debug_assert!(others.len() <= OTHERS_MAX);
        let ids = others.iter().rev().fold(0, |ids, (word, _)| ids << 4 | *word as u64);
        let place = place.map_or(0, |place| u64::from(place.index()) + 1);
        let head = [COUNT | u64::from(status) << 8 | ids << 24, u64::from(slot.index()) | place << 32];
        let entry = match self.same {
            Some((last, entry)) if last == head => entry,
            _ => {
                let entry = self.push([head[0], head[1], 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
                self.same = Some((head, entry));
                entry
            }
        };
        pending::add(&entry[2], sign.of(1));
        for (word, (_, sum)) in entry[3..3 + OTHERS_MAX].iter().zip(others) {
            pending::add(word, sign.of(*sum));
        }
    }

    /// Counts the facts about a request in the details of a slot, if it has any.
    #[inline]
    pub fn count_facts(&mut self, slot: Slot, facts: Facts, sign: Sign) {
        let Some(detail) = slot.detail().map(Detail::index) else { return };
        let (detail, facts) = (u64::from(detail), u64::from(facts.word()));
        self.push([FACTS, detail, facts, sign.of(1), 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    /// Counts a duration in microseconds.
    pub fn record(&mut self, histogram: Histogram, us: u64) {
        self.record_all([Some(histogram)], us, Sign::Add);
    }

    /// Counts one duration in several histograms.
    #[inline]
    pub fn record_all<const N: usize>(&mut self, histograms: [Option<Histogram>; N], us: u64, sign: Sign) {
        let bucket = histogram::bucket(us) as u64;
        // A plain loop: iterators over arrays of options cost more than the counting.
        for histogram in &histograms {
            let Some(histogram) = *histogram else { continue };
            let index = histogram.index() as u64;
            self.push([TIMES, index, bucket, sign.of(1), sign.of(us), 0, 0, 0, 0, 0, 0, 0, 0]);
        }
    }

    fn push(&mut self, words: [u64; pending::ENTRY_WORDS]) -> &'static Entry {
        if self.count == ENTRIES {
            self.flush();
        }
        let memory = match self.words {
            Some(memory) => memory,
            None => self.open(),
        };
        let entry = entry(memory, self.count);
        for (word, value) in entry.iter().zip(words) {
            word.store(value, Relaxed);
        }
        self.count += 1;
        pending::commit(memory, self.count);
        entry
    }

    /// Memory of this thread, which no other process sees.
    #[cold]
    fn open(&mut self) -> &'static Words {
        let words: Box<[AtomicU64]> = (0..pending::WORDS).map(|_| AtomicU64::new(0)).collect();
        let words: &'static [AtomicU64] = Box::leak(words);
        let words = words.try_into().expect("as many as there are words");
        self.words = Some(words);
        words
    }

    fn flush(&mut self) {
        (self.alike, self.same) = (None, None);
        let count = std::mem::take(&mut self.count);
        if let Some(words) = self.words.filter(|_| count > 0) {
            pending::flush(words, count, &mut self.lookup, lanes::mine());
        }
    }
}

/// Adds all pending counts to the counters: called at the end of a turn, and before the process ends.
pub fn flush() {
    PENDING.with_borrow_mut(Pending::flush);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::counter::{Kind, slot};
    use crate::shm::histogram::named;

    #[test]
    fn sums_are_complete_after_a_flush_whoever_shared_a_place() {
        let slots: Vec<Slot> =
            (0..40).map(|n| slot(Kind::Location, &format!("behind.test {n}")).expect("room")).collect();
        for round in 1..=3 {
            for (n, slot) in slots.iter().enumerate() {
                add(|counts| counts.count(*slot, 204, &[(Word::BytesOut, n as u64 * round)], Sign::Add));
            }
        }
        flush();
        for (n, slot) in slots.iter().enumerate() {
            let words = [Word::Requests, Word::Status2xx, Word::BytesOut].map(|word| slot.get(word));
            assert_eq!(words, [3, 3, n as u64 * 6]);
        }
        flush();
        assert_eq!(slots[0].get(Word::Requests), 3, "nothing is written twice");
    }

    #[test]
    fn facts_are_complete_after_a_flush_whoever_shared_a_place() {
        use crate::shm::detail::{End, Protocol};
        let slots: Vec<Slot> =
            (0..40).map(|n| slot(Kind::Zone, &format!("facts.test {n}")).expect("room")).collect();
        for status in [200, 200, 404] {
            for slot in &slots {
                add(|counts| {
                    counts.count_facts(*slot, Facts::new(status, Protocol::Http11, End::OK), Sign::Add)
                });
            }
        }
        flush();
        for slot in &slots {
            let detail = slot.detail().expect("room");
            assert_eq!(detail.statuses().collect::<Vec<_>>(), [(200, 2), (404, 1)]);
        }
    }

    #[test]
    fn requests_that_are_alike_count_like_single_ones() {
        use crate::shm::detail::{CONNECT_TIME, End, Protocol};
        let named_slot = |kind, name| slot(kind, name).expect("room");
        let server = named_slot(Kind::Server, "alike.test");
        let location = named_slot(Kind::Location, "alike.test /");
        let group = named_slot(Kind::Upstream, "alike.test group");
        let times = ["alike request", "alike connect", "alike header", "alike response"]
            .map(|name| named(name).expect("room"));
        let detail = group.detail().expect("room");
        let cases: [(u16, [Option<u64>; 4]); 6] = [
            (200, [Some(70), None, Some(30), Some(60)]),
            (200, [Some(70), None, Some(30), Some(60)]),
            (200, [Some(70), None, Some(31), Some(60)]),
            (404, [Some(70), None, Some(31), Some(60)]),
            (404, [Some(70), Some(20), Some(31), Some(60)]),
            (404, [Some(70), None, None, None]),
        ];
        for (status, us) in cases {
            let facts = Facts::new(status, Protocol::Http11, End::OK);
            let of_group = us[2].map(|_| group);
            let shape = Shape::new([Some(server), Some(location), of_group], facts, us);
            let amounts = Amounts { bytes_in: 5, bytes_out: 7, us: us.map(Option::unwrap_or_default) };
            let slots = [Some(server), Some(location), of_group];
            let parts = || Parts { slots, named: times.map(Some) };
            add(|counts| counts.finish(shape, amounts, Sign::Add, parts));
        }
        flush();
        for slot in [server, location] {
            let words = [Word::Requests, Word::Status2xx, Word::Status4xx, Word::BytesIn, Word::BytesOut];
            assert_eq!(words.map(|word| slot.get(word)), [6, 3, 3, 30, 42]);
        }
        let words = [Word::Requests, Word::Status2xx, Word::Status4xx, Word::ResponseUs];
        assert_eq!(words.map(|word| group.get(word)), [5, 3, 2, 300]);
        assert_eq!(detail.statuses().collect::<Vec<_>>(), [(200, 3), (404, 2)]);
        let all = times.map(|histogram| histogram.snapshot());
        assert_eq!(
            all.each_ref().map(|all| (all.count(), all.sum_us)),
            [(6, 420), (1, 20), (5, 153), (5, 300)]
        );
        assert_eq!(all[2].quantile(0.1), Some(30));
        let of_group = detail.histogram(CONNECT_TIME).snapshot();
        assert_eq!((of_group.count(), of_group.sum_us), (1, 20));
    }

    #[test]
    fn durations_are_complete_after_a_flush() {
        let histogram = named("behind test").expect("room");
        for us in [5, 5, 5, 70_000, 5, 70_001] {
            add(|counts| counts.record(histogram, us));
        }
        flush();
        let all = histogram.snapshot();
        assert_eq!((all.count(), all.sum_us), (6, 140_021));
        assert_eq!(all.quantile(0.5), Some(5));
    }
}
