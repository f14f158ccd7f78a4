//! Counts that this thread has taken but not yet written to shared memory.
//!
//! An atomic addition to a word that other workers write too costs more than all the rest of counting. So
//! sums are kept in a few thread-local places, and [`flush`] writes them at the end of each turn. A worker
//! that is killed loses the counts of its current turn.

use std::cell::RefCell;

use super::counter::{Slot, Word};
use super::detail::{Detail, Facts};
use super::histogram::{self, Histogram};

/// Number of places for slots and for histograms. Two that map to one place evict each other.
const PLACES: usize = 16; // the bits of `dirty_sums` and `dirty_durations`
const WORDS: usize = 16;

#[derive(Clone, Copy)]
struct Sums {
    slot: Slot,
    words: [u64; WORDS],
}

#[derive(Clone, Copy)]
struct Durations {
    histogram: Histogram,
    bucket: usize,
    count: u64,
    sum_us: u64,
}

#[derive(Clone, Copy)]
struct Repeated {
    detail: Detail,
    facts: Facts,
    count: u64,
}

/// The pending counts of this thread.
pub struct Pending {
    sums: [Option<Sums>; PLACES],
    durations: [Option<Durations>; PLACES],
    repeated: [Option<Repeated>; PLACES],
    /// One bit for each place of `sums` that has something to write.
    dirty_sums: u16,
    /// The same for `durations`.
    dirty_durations: u16,
    /// The same for `repeated`.
    dirty_repeated: u16,
}

thread_local! {
    static PENDING: RefCell<Pending> = const {
        RefCell::new(Pending {
            sums: [None; PLACES],
            durations: [None; PLACES],
            repeated: [None; PLACES],
            dirty_sums: 0,
            dirty_durations: 0,
            dirty_repeated: 0,
        })
    };
}

/// Adds to the counts, which are written at the end of the turn. `add` may not call functions of this file.
///
/// A request that is over adds several counts: finding the thread's costs more than adding to them.
#[inline]
pub fn add(add: impl FnOnce(&mut Pending)) {
    PENDING.with_borrow_mut(add);
}

impl Pending {
    /// Counts a request that ended with `status`, and adds to other words of its slot.
    pub fn count(&mut self, slot: Slot, status: u16, others: &[(Word, u64)]) {
        let at = slot.index() as usize % PLACES;
        self.dirty_sums |= 1 << at;
        let place = &mut self.sums[at];
        if place.as_ref().is_some_and(|sums| sums.slot.index() != slot.index()) {
            place.take().iter_mut().for_each(write_sums);
        }
        let sums = place.get_or_insert_with(|| Sums { slot, words: [0; WORDS] });
        sums.words[Word::Requests as usize] += 1;
        if let Some(word) = Word::of_status(status) {
            sums.words[word as usize] += 1;
        }
        for (word, count) in others {
            sums.words[*word as usize] += count;
        }
    }

    /// Counts the facts about a request in the details of a slot, if it has any.
    #[inline]
    pub fn count_facts(&mut self, slot: Slot, facts: Facts) {
        let Some(detail) = slot.detail() else { return };
        let at = detail.index() as usize % PLACES;
        self.dirty_repeated |= 1 << at;
        match &mut self.repeated[at] {
            // Most requests of a turn are alike.
            Some(there) if there.detail == detail && there.facts == facts => there.count += 1,
            place => place.replace(Repeated { detail, facts, count: 1 }).iter().for_each(write_repeated),
        }
    }

    /// Counts a duration in microseconds.
    pub fn record(&mut self, histogram: Histogram, us: u64) {
        self.record_in(histogram, us, histogram::bucket(us));
    }

    /// Counts one duration in several histograms.
    #[inline]
    pub fn record_all<const N: usize>(&mut self, histograms: [Option<Histogram>; N], us: u64) {
        let bucket = histogram::bucket(us);
        // A plain loop: iterators over arrays of options cost more than the counting.
        for histogram in &histograms {
            let Some(histogram) = *histogram else { continue };
            self.record_in(histogram, us, bucket);
        }
    }

    fn record_in(&mut self, histogram: Histogram, us: u64, bucket: usize) {
        let at = histogram.index() % PLACES;
        self.dirty_durations |= 1 << at;
        match &mut self.durations[at] {
            Some(there) if there.histogram == histogram && there.bucket == bucket => {
                there.count += 1;
                there.sum_us += us;
            }
            place => {
                let next = Durations { histogram, bucket, count: 1, sum_us: us };
                place.replace(next).iter().for_each(write_durations);
            }
        }
    }

    fn flush(&mut self) {
        for at in bits(std::mem::take(&mut self.dirty_sums)) {
            // Leave the place to its slot, which will most likely be counted again in the next turn.
            self.sums[at].iter_mut().for_each(write_sums);
        }
        for at in bits(std::mem::take(&mut self.dirty_durations)) {
            self.durations[at].take().iter().for_each(write_durations);
        }
        for at in bits(std::mem::take(&mut self.dirty_repeated)) {
            self.repeated[at].take().iter().for_each(write_repeated);
        }
    }
}

/// The indexes of the bits that are set.
#[inline]
fn bits(mut bits: u16) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let at = (bits != 0).then(|| bits.trailing_zeros() as usize)?;
        bits &= bits - 1;
        Some(at)
    })
}

/// Writes all pending counts: called at the end of a turn, and before the process ends.
pub fn flush() {
    PENDING.with_borrow_mut(Pending::flush);
}

fn write_sums(sums: &mut Sums) {
    for (index, count) in sums.words.iter_mut().enumerate().filter(|(_, count)| **count != 0) {
        sums.slot.add_at(index, std::mem::take(count));
    }
}

fn write_repeated(kept: &Repeated) {
    kept.detail.add(kept.facts, kept.count);
}

fn write_durations(kept: &Durations) {
    kept.histogram.add(kept.bucket, kept.count, kept.sum_us);
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
                add(|counts| counts.count(*slot, 204, &[(Word::BytesOut, n as u64 * round)]));
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
                add(|counts| counts.count_facts(*slot, Facts::new(status, Protocol::Http11, End::OK)));
            }
        }
        flush();
        for slot in &slots {
            let detail = slot.detail().expect("room");
            assert_eq!(detail.statuses().collect::<Vec<_>>(), [(200, 2), (404, 1)]);
        }
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
