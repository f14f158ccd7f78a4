//! Counts that this thread has taken but not yet written to shared memory.
//!
//! An atomic addition to a word that other workers write too costs more than all the rest of counting. So
//! sums are kept in a few thread-local places, and [`flush`] writes them at the end of each turn. A worker
//! that is killed loses the counts of its current turn.

use std::cell::RefCell;

use super::alike::{Alike, Amounts, Parts, Shape};
use super::counter::{Slot, Word};
use super::detail::{Detail, Facts};
use super::histogram::{self, Histogram};
use super::peers::Place;

/// Number of places for slots and for histograms. Two that map to one place evict each other.
const PLACES: usize = 16; // the bits of `dirty_sums` and `dirty_durations`
const WORDS: usize = 16;

#[derive(Clone, Copy)]
struct Sums {
    slot: Slot,
    words: [u64; WORDS],
    /// The place of a peer, where each of its statuses is counted.
    place: Option<Place>,
    /// Requests with the status below that are not in `words` yet: most requests of a turn have the same.
    same: u64,
    status: u16,
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
    /// The last requests, which were alike.
    alike: Option<Alike>,
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
            alike: None,
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
    /// Counts a finished request in all its places. `parts`: the places, which are asked for only if it differs from the
    /// last one.
    #[inline]
    pub fn finish(&mut self, shape: Shape, amounts: Amounts, parts: impl FnOnce() -> Parts) {
        match &mut self.alike {
            Some(alike) if alike.shape == shape => alike.add(amounts),
            _ => {
                self.settle();
                self.alike = Some(Alike { shape, parts: parts(), count: 1, amounts });
            }
        }
    }

    /// Counts the requests that were added up.
    fn settle(&mut self) {
        let Some(Alike { shape, parts, count, amounts }) = self.alike.take() else { return };
        let facts = shape.facts();
        let bytes = [(Word::BytesIn, amounts.bytes_in), (Word::BytesOut, amounts.bytes_out)];
        let response = [(Word::ResponseUs, amounts.us[2])];
        let zones = parts.zones.into_iter().flatten().map(|slot| (slot, &bytes[..]));
        for (slot, others) in zones.chain(parts.group.map(|slot| (slot, &response[..]))) {
            self.count_several((slot, None), facts.status(), count, others);
            self.count_facts_of(slot, facts, count);
        }
        for ((histograms, bucket), us) in parts.times.iter().zip(shape.buckets()).zip(amounts.us) {
            let Some(bucket) = bucket else { continue };
            for histogram in histograms.iter().flatten() {
                self.record_in(*histogram, us, bucket, count);
            }
        }
    }

    /// Counts a request that ended with `status`, and adds to other words of its slot.
    pub fn count(&mut self, slot: Slot, status: u16, others: &[(Word, u64)]) {
        self.count_several((slot, None), status, 1, others);
    }

    /// Counts a turn of the peer with this place, which has sent `status`.
    pub fn count_peer(&mut self, slot: Slot, place: Option<Place>, status: u16, others: &[(Word, u64)]) {
        self.count_several((slot, place), status, 1, others);
    }

    #[inline]
    fn count_several(
        &mut self,
        (slot, peer): (Slot, Option<Place>),
        status: u16,
        requests: u64,
        others: &[(Word, u64)],
    ) {
        let at = slot.index() as usize % PLACES;
        self.dirty_sums |= 1 << at;
        let place = &mut self.sums[at];
        if place.as_ref().is_some_and(|sums| sums.slot.index() != slot.index()) {
            place.take().iter_mut().for_each(write_sums);
        }
        let new = || Sums { slot, words: [0; WORDS], place: peer, same: 0, status };
        let sums = place.get_or_insert_with(new);
        if sums.status != status {
            sums.settle();
            sums.status = status;
        }
        sums.same += requests;
        for (word, count) in others {
            sums.words[*word as usize] += count;
        }
    }

    /// Counts the facts about a request in the details of a slot, if it has any.
    #[inline]
    pub fn count_facts(&mut self, slot: Slot, facts: Facts) {
        self.count_facts_of(slot, facts, 1);
    }

    fn count_facts_of(&mut self, slot: Slot, facts: Facts, count: u64) {
        let Some(detail) = slot.detail() else { return };
        let at = detail.index() as usize % PLACES;
        self.dirty_repeated |= 1 << at;
        match &mut self.repeated[at] {
            // Most requests of a turn are alike.
            Some(there) if there.detail == detail && there.facts == facts => there.count += count,
            place => place.replace(Repeated { detail, facts, count }).iter().for_each(write_repeated),
        }
    }

    /// Counts a duration in microseconds.
    pub fn record(&mut self, histogram: Histogram, us: u64) {
        self.record_in(histogram, us, histogram::bucket(us), 1);
    }

    /// Counts one duration in several histograms.
    #[inline]
    pub fn record_all<const N: usize>(&mut self, histograms: [Option<Histogram>; N], us: u64) {
        let bucket = histogram::bucket(us);
        // A plain loop: iterators over arrays of options cost more than the counting.
        for histogram in &histograms {
            let Some(histogram) = *histogram else { continue };
            self.record_in(histogram, us, bucket, 1);
        }
    }

    /// `us`: the sum of `count` durations.
    fn record_in(&mut self, histogram: Histogram, us: u64, bucket: usize, count: u64) {
        let at = histogram.index() % PLACES;
        self.dirty_durations |= 1 << at;
        match &mut self.durations[at] {
            Some(there) if there.histogram == histogram && there.bucket == bucket => {
                there.count += count;
                there.sum_us += us;
            }
            place => {
                let next = Durations { histogram, bucket, count, sum_us: us };
                place.replace(next).iter().for_each(write_durations);
            }
        }
    }

    fn flush(&mut self) {
        self.settle();
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

impl Sums {
    /// Counts the requests that had the same status.
    fn settle(&mut self) {
        let count = std::mem::take(&mut self.same);
        if count == 0 {
            return;
        }
        self.words[Word::Requests as usize] += count;
        if let Some(word) = Word::of_status(self.status) {
            self.words[word as usize] += count;
            if let Some(place) = self.place {
                place.count_status(self.status, count);
            }
        }
    }
}

fn write_sums(sums: &mut Sums) {
    sums.settle();
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
    fn requests_that_are_alike_count_like_single_ones() {
        use crate::shm::detail::{End, Protocol};
        let named_slot = |kind, name| slot(kind, name).expect("room");
        let server = named_slot(Kind::Server, "alike.test");
        let location = named_slot(Kind::Location, "alike.test /");
        let group = named_slot(Kind::Upstream, "alike.test group");
        let times =
            ["alike request", "alike header", "alike response"].map(|name| named(name).expect("room"));
        let detail = group.detail().expect("room");
        let cases: [(u16, [Option<u64>; 3]); 5] = [
            (200, [Some(70), Some(30), Some(60)]),
            (200, [Some(70), Some(30), Some(60)]),
            (200, [Some(70), Some(31), Some(60)]),
            (404, [Some(70), Some(31), Some(60)]),
            (404, [Some(70), None, None]),
        ];
        for (status, us) in cases {
            let facts = Facts::new(status, Protocol::Http11, End::OK);
            let of_group = us[1].map(|_| group);
            let shape = Shape::new([Some(server), Some(location), of_group], facts, us);
            let amounts = Amounts { bytes_in: 5, bytes_out: 7, us: us.map(Option::unwrap_or_default) };
            let times = times.map(|histogram| [Some(histogram), None, None]);
            let parts = || Parts { zones: [Some(server), Some(location)], group: of_group, times };
            add(|counts| counts.finish(shape, amounts, parts));
        }
        flush();
        for slot in [server, location] {
            let words = [Word::Requests, Word::Status2xx, Word::Status4xx, Word::BytesIn, Word::BytesOut];
            assert_eq!(words.map(|word| slot.get(word)), [5, 3, 2, 25, 35]);
        }
        let words = [Word::Requests, Word::Status2xx, Word::Status4xx, Word::ResponseUs];
        assert_eq!(words.map(|word| group.get(word)), [4, 3, 1, 240]);
        assert_eq!(detail.statuses().collect::<Vec<_>>(), [(200, 3), (404, 1)]);
        let all = times.map(|histogram| histogram.snapshot());
        assert_eq!(all.each_ref().map(|all| (all.count(), all.sum_us)), [(5, 350), (4, 122), (4, 240)]);
        assert_eq!(all[1].quantile(0.5), Some(30));
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
