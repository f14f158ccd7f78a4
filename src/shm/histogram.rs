//! Latency histograms: log-linear buckets, 32 to an octave, from 1 µs to 1073 s.
//!
//! The width of a bucket is at most 1/32 of its values. A histogram has 16 stripes, so that workers do not
//! contend for a cache line; a snapshot sums them. Histograms are named like counters and kept across
//! reloads.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};

use super::area::{Area, HISTOGRAM_WORDS, HISTOGRAMS, Header, area, fingerprint};
use super::lanes;

const SUB_BITS: u32 = 5;
const SUB_COUNT: u64 = 1 << SUB_BITS;
/// 2^30 µs: longer durations are counted in the last bucket.
const VALUE_BITS: u32 = 30;
const BUCKETS: usize = ((VALUE_BITS - SUB_BITS + 1) as usize) << SUB_BITS;
pub(super) const LAST_BUCKET: usize = BUCKETS - 1;
/// Index of the word behind the buckets: the sum of all values, in microseconds.
pub(super) const SUM: usize = BUCKETS;
const KIND: u8 = 255;

const _: () = assert!(BUCKETS < HISTOGRAM_WORDS);

/// One histogram in shared memory. It is only a number: copy it, and keep it in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Histogram {
    /// Those with a name, then those of details.
    index: u32,
}

/// Finds or creates the histogram of a name ("request", "zone NAME connect"). `None`: all 512 are in use.
///
/// For the master while it compiles a configuration.
pub fn named(name: &str) -> Option<Histogram> {
    static MAKING: Mutex<()> = Mutex::new(());
    let _one = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    find(area(), fingerprint(KIND, name.as_bytes())).map(|index| Histogram { index })
}

fn find(area: &Area, name: u64) -> Option<u32> {
    let used = area.header(Header::HistogramsUsed);
    let known = (used.load(Relaxed) as usize).min(HISTOGRAMS);
    if let Some(index) = (0..known).find(|&index| area.histogram_name(index).load(Relaxed) == name) {
        return Some(index as u32);
    }
    let next =
        used.fetch_update(Relaxed, Relaxed, |used| (used < HISTOGRAMS as u64).then(|| used + 1)).ok()?;
    area.histogram_name(next as usize).store(name, Relaxed);
    Some(next as u32)
}

impl Histogram {
    #[inline]
    pub(super) fn of_index(index: u32) -> Self {
        Self { index }
    }

    #[cfg(test)]
    /// Counts `count` durations that fall into one bucket and take `sum_us` together.
    pub(super) fn add(self, bucket: usize, count: u64, sum_us: u64) {
        let words = area().histogram(self.index as usize, lanes::mine().number());
        words[bucket].fetch_add(count, Relaxed);
        words[SUM].fetch_add(sum_us, Relaxed);
    }

    pub(super) fn index(self) -> usize {
        self.index as usize
    }

    /// Sums all stripes, at about one moment.
    pub fn snapshot(self) -> Snapshot {
        snapshot(area(), self.index as usize)
    }
}

/// The contents of a histogram at one moment, in the reader's own memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    counts: Vec<u64>,
    /// The sum of all values, in microseconds.
    pub sum_us: u64,
}

impl Snapshot {
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The value below which a share `q` (0 to 1) of all values lies, in microseconds: the middle of its
    /// bucket. `None` when the histogram is empty.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        let count = self.count();
        let rank = ((q.clamp(0.0, 1.0) * count as f64).ceil() as u64).clamp(1, count.max(1));
        let mut seen = 0;
        for (index, &here) in self.counts.iter().enumerate() {
            seen = here.saturating_add(seen);
            if here > 0 && seen >= rank {
                let (low, high) = bounds(index);
                return Some(low + (high - low) / 2);
            }
        }
        None
    }

    /// The buckets that are not empty: lowest value, one past the highest (both in µs), count.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64, u64)> {
        let filled = self.counts.iter().enumerate().filter(|&(_, &count)| count > 0);
        filled.map(|(index, &count)| (bounds(index).0, bounds(index).1, count))
    }

    /// The values counted since `earlier`, a snapshot of the same histogram.
    pub fn since(&self, earlier: &Snapshot) -> Snapshot {
        let counts =
            self.counts.iter().zip(&earlier.counts).map(|(now, then)| now.saturating_sub(*then)).collect();
        Snapshot { counts, sum_us: self.sum_us.wrapping_sub(earlier.sum_us) }
    }
}

fn snapshot(area: &Area, index: usize) -> Snapshot {
    let mut all = Snapshot { counts: vec![0; BUCKETS], sum_us: 0 };
    // Skip stripes that no lane has used: reading a hole in the mapping would fill it.
    for stripe in 0..lanes::used(area).min(Area::stripes(index)) {
        let words = area.histogram(index, stripe);
        for (count, word) in all.counts.iter_mut().zip(words) {
            *count = count.saturating_add(word.load(Relaxed));
        }
        all.sum_us = all.sum_us.wrapping_add(words[SUM].load(Relaxed));
    }
    all
}

/// The bucket of a value: the value itself below 32, then 32 to an octave.
#[inline]
pub(super) fn bucket(us: u64) -> usize {
    let us = us.min((1 << VALUE_BITS) - 1);
    // Below 64 there is no shift. Above, the highest bit that is left counts as one row more.
    let shift = (us | SUB_COUNT).ilog2() - SUB_BITS;
    ((shift as usize) << SUB_BITS) + (us >> shift) as usize
}

/// The lowest value of a bucket, and one past the highest.
fn bounds(bucket: usize) -> (u64, u64) {
    let (row, column) = (bucket as u64 >> SUB_BITS, bucket as u64 & (SUB_COUNT - 1));
    match row {
        0 => (column, column + 1),
        row => ((SUB_COUNT + column) << (row - 1), (SUB_COUNT + column + 1) << (row - 1)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(histogram: Histogram, us: u64) {
        histogram.add(bucket(us), 1, us);
    }

    #[test]
    fn buckets_join_without_gap_and_stay_narrow() {
        let mut next = 0;
        for index in 0..BUCKETS {
            let (low, high) = bounds(index);
            assert_eq!(low, next);
            assert_eq!((bucket(low), bucket(high - 1)), (index, index));
            assert!(high - low == 1 || (high - low) * SUB_COUNT <= low);
            next = high;
        }
        assert_eq!(next, 1 << VALUE_BITS);
        for long in [next, next + 1, u64::MAX] {
            assert_eq!(bucket(long), BUCKETS - 1);
        }
    }

    #[test]
    fn quantiles_of_known_values() {
        let histogram = named("quantiles test").expect("room");
        assert_eq!(histogram.snapshot().quantile(0.5), None);
        (1..=1000).for_each(|ms| record(histogram, ms * 1000));
        let all = histogram.snapshot();
        assert_eq!((all.count(), all.sum_us), (1000, 500_500_000));
        for (q, expected) in [(0.0, 1_000), (0.5, 500_000), (0.99, 990_000), (1.0, 1_000_000)] {
            let found = all.quantile(q).expect("not empty");
            assert!(found.abs_diff(expected) * SUB_COUNT <= expected, "{q}: {found}");
        }
        record(histogram, 7);
        let later = histogram.snapshot().since(&all);
        assert_eq!((later.count(), later.sum_us), (1, 7));
        assert_eq!(later.buckets().collect::<Vec<_>>(), [(7, 8, 1)]);
    }

    #[test]
    fn a_name_keeps_its_histogram() {
        let area = Area::fresh();
        let first = find(&area, 5);
        assert_eq!((first, find(&area, 6), find(&area, 5)), (Some(0), Some(1), first));
        assert_eq!((7..).map_while(|name| find(&area, name)).count(), HISTOGRAMS - 2);
    }

    #[test]
    fn threads_lose_no_count() {
        let histogram = named("threads test").expect("room");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|us| record(histogram, us)));
            }
        });
        assert_eq!(histogram.snapshot().count(), 40_000);
    }

    proptest! {
        #[test]
        fn a_value_lies_in_its_bucket(us in 0u64..1 << VALUE_BITS) {
            let (low, high) = bounds(bucket(us));
            prop_assert!(low <= us && us < high);
        }
    }
}
