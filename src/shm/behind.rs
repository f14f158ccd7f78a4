//! Counts that this thread has taken but not yet written to shared memory.
//!
//! An atomic addition to a word that other workers write too costs more than all the rest of counting. So
//! sums are kept in a few thread-local places, and [`flush`] writes them at the end of each turn. A worker
//! that is killed loses the counts of its current turn.

use std::cell::RefCell;

use super::counter::{Slot, Word};
use super::histogram::{self, Histogram};

/// Number of places for slots and for histograms. Two that map to one place evict each other.
const PLACES: usize = 16; // the bits of `dirty`
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

struct Behind {
    sums: [Option<Sums>; PLACES],
    durations: [Option<Durations>; PLACES],
    /// One bit for each place of `sums` that has something to write.
    dirty: u16,
    has_durations: bool,
}

thread_local! {
    static BEHIND: RefCell<Behind> = const {
        RefCell::new(Behind { sums: [None; PLACES], durations: [None; PLACES], dirty: 0, has_durations: false })
    };
}

/// Counts a request that ended with `status`, and adds to other words of its slot. Written at the end of the
/// turn.
pub fn count(slot: Slot, status: u16, others: &[(Word, u64)]) {
    BEHIND.with_borrow_mut(|behind| {
        let at = slot.index() as usize % PLACES;
        behind.dirty |= 1 << at;
        let place = &mut behind.sums[at];
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
    });
}

/// Counts a duration in microseconds. Written at the end of the turn.
pub fn record(histogram: Histogram, us: u64) {
    BEHIND.with_borrow_mut(|behind| {
        behind.has_durations = true;
        let bucket = histogram::bucket(us);
        let place = &mut behind.durations[histogram.index() % PLACES];
        match place {
            Some(there) if there.histogram == histogram && there.bucket == bucket => {
                there.count += 1;
                there.sum_us += us;
            }
            _ => {
                let next = Durations { histogram, bucket, count: 1, sum_us: us };
                place.replace(next).iter().for_each(write_durations);
            }
        }
    });
}

/// Writes all pending counts: called at the end of a turn, and before the process ends.
pub fn flush() {
    BEHIND.with_borrow_mut(|behind| {
        let mut dirty = std::mem::take(&mut behind.dirty);
        while dirty != 0 {
            // Leave the place to its slot, which will most likely be counted again in the next turn.
            behind.sums[dirty.trailing_zeros() as usize].iter_mut().for_each(write_sums);
            dirty &= dirty - 1;
        }
        if std::mem::take(&mut behind.has_durations) {
            behind.durations.iter_mut().filter_map(Option::take).for_each(|kept| write_durations(&kept));
        }
    });
}

fn write_sums(sums: &mut Sums) {
    for (index, count) in sums.words.iter_mut().enumerate().filter(|(_, count)| **count != 0) {
        sums.slot.add_at(index, std::mem::take(count));
    }
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
                count(*slot, 204, &[(Word::BytesOut, n as u64 * round)]);
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
    fn durations_are_complete_after_a_flush() {
        let histogram = named("behind test").expect("room");
        for us in [5, 5, 5, 70_000, 5, 70_001] {
            record(histogram, us);
        }
        flush();
        let all = histogram.snapshot();
        assert_eq!((all.count(), all.sum_us), (6, 140_021));
        assert_eq!(all.quantile(0.5), Some(5));
    }
}
