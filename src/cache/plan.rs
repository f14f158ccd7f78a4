//! The decisions of the cache manager as values: which keys go now, and when to look next.
//!
//! Touches nothing: no clock, no file, no shared memory, so that histories of a cache can be played in a test. The
//! manager (`cache/upkeep.rs`) asks, and removes.
//! Behaviour: nginx.org, `proxy_cache_path`, its parameters `inactive`, `max_size` and `min_free`.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::shm::cache_index::survey::Seen;

/// The longest time between two looks.
const REST_MS_MAX: u64 = 10_000;
/// The shortest time between two looks, if the last one has removed all that was due.
const REST_MS_MIN: u64 = 1_000;
/// Looks take at most this part of a processor: the rest after one is at least so many times as long.
const REST_PER_COST: u64 = 20;
/// The longest rest after a look that took long.
const REST_MS_AFTER_COST: u64 = 30_000;

/// The limits of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub inactive_s: u64,
    /// `None`: no limit.
    pub max_bytes: Option<u64>,
    /// 0: no limit.
    pub min_free_bytes: u64,
}

/// The contents of a cache and its disk at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holds {
    pub bytes: u64,
    /// Free bytes of the disk; `None`: unknown.
    pub free_bytes: Option<u64>,
    pub now_ms: u64,
}

impl Limits {
    /// The number of bytes that have to go.
    pub fn excess(&self, holds: &Holds) -> u64 {
        // As in nginx: a cache is to be smaller than its maximum, and the disk is to have more than its minimum.
        let above = |limit: u64| (holds.bytes + 1).saturating_sub(limit);
        let missing = |free: u64| (self.min_free_bytes + 1).saturating_sub(free);
        let of_cache = self.max_bytes.map_or(0, above);
        let of_disk = if self.min_free_bytes == 0 { 0 } else { holds.free_bytes.map_or(0, missing) };
        of_cache.max(of_disk)
    }
}

/// One look at all keys of a cache: collects those that go.
///
/// Of those that could go it keeps the oldest, at most `keys_max`; if there are more another look has to follow.
#[derive(Debug)]
pub struct Look {
    inactive_s: u64,
    /// Bytes that have to go.
    excess: u64,
    keys_max: usize,
    /// The youngest on top, which gives way to an older one.
    oldest: BinaryHeap<ByAge>,
    is_cut: bool,
    /// The age of the oldest key that is not inactive yet.
    oldest_s: Option<u64>,
}

/// The outcome of a look.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// The keys to remove, the oldest first.
    pub goes: Vec<Seen>,
    /// More would have to go.
    pub is_short: bool,
    /// Seconds until the next key will have been inactive for too long.
    pub next_s: Option<u64>,
}

#[derive(Debug, PartialEq, Eq)]
struct ByAge(Seen);

impl Ord for ByAge {
    fn cmp(&self, other: &Self) -> Ordering {
        // The digest makes the order one that does not depend on the table's.
        other.0.age_s.cmp(&self.0.age_s).then_with(|| other.0.digest.cmp(&self.0.digest))
    }
}

impl PartialOrd for ByAge {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Look {
    pub fn new(limits: &Limits, excess: u64, keys_max: usize) -> Self {
        let oldest = BinaryHeap::new();
        Self { inactive_s: limits.inactive_s, excess, keys_max, oldest, is_cut: false, oldest_s: None }
    }

    /// Looks at one key. A locked one stays: its file is about to be replaced.
    pub fn see(&mut self, seen: &Seen) {
        let is_inactive = self.is_inactive(seen);
        if !is_inactive {
            self.oldest_s = self.oldest_s.max(Some(seen.age_s));
        }
        let may_go = is_inactive || (self.excess > 0 && seen.bytes.is_some());
        if seen.is_locked || !may_go {
            return;
        }
        self.oldest.push(ByAge(*seen));
        if self.oldest.len() > self.keys_max {
            self.oldest.pop();
            self.is_cut = true;
        }
    }

    fn is_inactive(&self, seen: &Seen) -> bool {
        seen.age_s >= self.inactive_s
    }

    pub fn finish(mut self) -> Found {
        let mut goes = Vec::new();
        let (mut left, mut is_over) = (self.excess, false);
        let oldest = std::mem::take(&mut self.oldest).into_sorted_vec();
        for ByAge(seen) in oldest {
            if !self.is_inactive(&seen) && left == 0 {
                is_over = true;
                break;
            }
            left = left.saturating_sub(seen.bytes.unwrap_or(0));
            goes.push(seen);
        }
        let next_s = self.oldest_s.map(|age_s| self.inactive_s - age_s);
        Found { goes, is_short: self.is_cut && !is_over, next_s }
    }
}

/// A look whose outcome has been carried out.
#[derive(Clone, Copy, Debug)]
pub struct Looked {
    pub found: Holds,
    /// After what was due is removed.
    pub left: Holds,
    /// Seconds until the next key will have been inactive for too long.
    pub next_s: Option<u64>,
    /// The duration of the look, without removing anything.
    pub cost_ms: u64,
}

/// The times at which the manager looks at one cache.
#[derive(Debug, Default)]
pub struct Rhythm {
    /// The contents after the last look.
    left: Option<Holds>,
}

impl Rhythm {
    /// Milliseconds until the next look: until a key will be inactive, or the cache full if it goes on growing as it did
    /// since the look before; ten seconds at most.
    pub fn rest_ms(&mut self, limits: &Limits, looked: &Looked) -> u64 {
        let Looked { found, left, next_s, cost_ms } = looked;
        let before = self.left.replace(*left);
        let until_inactive = next_s.map(|next_s| next_s.saturating_mul(1000));
        let until_full = before.and_then(|before| until_full_ms(limits, &before, found, left));
        let soonest = until_inactive.into_iter().chain(until_full).min().unwrap_or(REST_MS_MAX);
        let least = cost_ms.saturating_mul(REST_PER_COST).clamp(REST_MS_MIN, REST_MS_AFTER_COST);
        soonest.min(REST_MS_MAX).max(least)
    }
}

/// Milliseconds until one of the limits is reached, if the cache grows as it did from `before` to `found`.
fn until_full_ms(limits: &Limits, before: &Holds, found: &Holds, left: &Holds) -> Option<u64> {
    let passed_ms = found.now_ms.checked_sub(before.now_ms)?;
    let until = |room: u64, growth: u64| (growth > 0).then(|| room.saturating_mul(passed_ms) / growth);
    let growth = found.bytes.saturating_sub(before.bytes);
    let of_cache = limits.max_bytes.and_then(|max| until(max.saturating_sub(left.bytes), growth));
    let of_disk = || {
        let shrinkage = before.free_bytes?.saturating_sub(found.free_bytes?);
        until(left.free_bytes?.saturating_sub(limits.min_free_bytes), shrinkage)
    };
    let of_disk = if limits.min_free_bytes > 0 { of_disk() } else { None };
    of_cache.into_iter().chain(of_disk).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { inactive_s: 600, max_bytes: None, min_free_bytes: 0 };

    fn key(number: u8, age_s: u64, bytes: u64) -> Seen {
        Seen::made_up([number; 16], age_s, (bytes > 0).then_some(bytes))
    }

    fn look(limits: &Limits, excess: u64, keys_max: usize, keys: &[Seen]) -> (Vec<u8>, bool, Option<u64>) {
        let mut look = Look::new(limits, excess, keys_max);
        keys.iter().for_each(|seen| look.see(seen));
        let Found { goes, is_short, next_s } = look.finish();
        (goes.iter().map(|seen| seen.digest[0]).collect(), is_short, next_s)
    }

    #[test]
    fn inactive_keys_go_with_or_without_a_file() {
        let keys = [key(1, 599, 10), key(2, 600, 10), key(3, 9000, 0), key(4, 0, 10)];
        assert_eq!(look(&LIMITS, 0, 10, &keys), (vec![3, 2], false, Some(1)));
        assert_eq!(look(&LIMITS, 0, 10, &[]), (vec![], false, None));
        let none = Limits { inactive_s: 0, ..LIMITS };
        assert_eq!(look(&none, 0, 10, &keys[..1]), (vec![1], false, None));
    }

    #[test]
    fn a_full_cache_loses_the_least_recently_used_and_no_more_than_it_must() {
        let keys = [key(1, 30, 100), key(2, 50, 100), key(3, 40, 0), key(4, 20, 100), key(5, 700, 50)];
        assert_eq!(look(&LIMITS, 1, 10, &keys), (vec![5], false, Some(550)), "an inactive one counts too");
        assert_eq!(look(&LIMITS, 51, 10, &keys), (vec![5, 2], false, Some(550)));
        assert_eq!(look(&LIMITS, 151, 10, &keys), (vec![5, 2, 1], false, Some(550)));
        assert_eq!(look(&LIMITS, 9999, 10, &keys), (vec![5, 2, 1, 4], false, Some(550)), "there is no more");
    }

    #[test]
    fn a_locked_key_stays() {
        let mut keys = [key(1, 9000, 100), key(2, 10, 100)];
        keys[0].is_locked = true;
        assert_eq!(look(&LIMITS, 1, 10, &keys), (vec![2], false, Some(590)));
    }

    #[test]
    fn the_oldest_go_first_and_a_look_follows_for_the_others() {
        let keys: Vec<Seen> = (0..100).map(|number| key(number, 700 + u64::from(number), 10)).collect();
        assert_eq!(look(&LIMITS, 0, 3, &keys), (vec![99, 98, 97], true, None));
        let young: Vec<Seen> = (0..100).map(|number| key(number, u64::from(number), 10)).collect();
        assert_eq!(look(&LIMITS, 25, 5, &young), (vec![99, 98, 97], false, Some(501)), "three are enough");
        assert_eq!(look(&LIMITS, 60, 5, &young), (vec![99, 98, 97, 96, 95], true, Some(501)));
    }

    #[test]
    fn a_cache_stays_below_its_maximum_and_the_disk_above_its_minimum() {
        let holds = |bytes, free| Holds { bytes, free_bytes: free, now_ms: 0 };
        let max = Limits { max_bytes: Some(100), ..LIMITS };
        assert_eq!([99, 100, 150].map(|bytes| max.excess(&holds(bytes, None))), [0, 1, 51]);
        let free = Limits { min_free_bytes: 100, ..LIMITS };
        assert_eq!([101, 100, 0].map(|bytes| free.excess(&holds(0, Some(bytes)))), [0, 1, 101]);
        assert_eq!(free.excess(&holds(9, None)), 0, "a disk that cannot be asked");
        assert_eq!(LIMITS.excess(&holds(u64::MAX - 1, Some(0))), 0);
        let both = Limits { max_bytes: Some(0), min_free_bytes: 10, ..LIMITS };
        assert_eq!(both.excess(&holds(0, Some(0))), 11);
    }

    #[test]
    fn the_next_look_comes_when_something_will_be_due() {
        let max = Limits { max_bytes: Some(1000), ..LIMITS };
        let mut rhythm = Rhythm::default();
        let mut rest = |now_ms, (found, left), next_s, cost_ms| {
            let [found, left] = [found, left].map(|bytes| Holds { bytes, free_bytes: None, now_ms });
            rhythm.rest_ms(&max, &Looked { found, left, next_s, cost_ms })
        };
        assert_eq!(rest(0, (0, 0), None, 0), 10_000);
        assert_eq!(rest(10_000, (0, 0), Some(3), 0), 3000);
        assert_eq!(rest(13_000, (0, 0), Some(0), 0), 1000, "not all the time");
        assert_eq!(rest(14_000, (200, 200), None, 0), 4000, "800 more at 200 a second");
        assert_eq!(rest(16_000, (1200, 800), None, 0), 1000, "200 more at 500 a second");
        assert_eq!(rest(17_000, (100, 100), None, 0), 10_000);
        assert_eq!(rest(18_000, (100, 100), Some(1), 200), 4000, "it costs a twentieth at most");
        assert_eq!(rest(22_000, (100, 100), Some(1), 60_000), 30_000);
        let free = Limits { min_free_bytes: 100, ..LIMITS };
        let mut rhythm = Rhythm::default();
        let mut rest = |now_ms, free_bytes| {
            let holds = Holds { bytes: 0, free_bytes: Some(free_bytes), now_ms };
            rhythm.rest_ms(&free, &Looked { found: holds, left: holds, next_s: None, cost_ms: 0 })
        };
        assert_eq!((rest(0, 700), rest(2000, 400)), (10_000, 2000), "300 more at 150 a second");
    }

    #[test]
    fn a_cache_that_is_filled_for_an_hour_keeps_its_limits() {
        // A kilobyte every 50 ms, each used once, in virtual time.
        let limits = Limits { inactive_s: 60, max_bytes: Some(200 * 1024), min_free_bytes: 0 };
        let mut rhythm = Rhythm::default();
        let mut stored: Vec<(u8, u64)> = Vec::new();
        let (mut due_ms, mut looks, mut most) = (0, 0, 0);
        for now_ms in (0..3_600_000).step_by(50) {
            stored.push(((now_ms / 50 % 251) as u8, now_ms));
            most = most.max(stored.len());
            if now_ms < due_ms {
                continue;
            }
            looks += 1;
            let holds = |count: usize| Holds { bytes: count as u64 * 1024, free_bytes: None, now_ms };
            let count = stored.len();
            let excess = limits.excess(&holds(count));
            let mut look = Look::new(&limits, excess, 1000);
            stored.iter().for_each(|(number, at)| look.see(&key(*number, (now_ms - at) / 1000, 1024)));
            let found = look.finish();
            stored.drain(..found.goes.len());
            let (next_s, left) = (found.next_s, holds(stored.len()));
            due_ms =
                now_ms + rhythm.rest_ms(&limits, &Looked { found: holds(count), left, next_s, cost_ms: 0 });
        }
        assert!(most <= 200 + 21 * 10, "{most} kilobytes");
        assert!(stored.len() <= 220, "{} kilobytes", stored.len());
        assert!((360..=3600).contains(&looks), "{looks} looks");
    }
}
