//! Rates by key (`limit_req`): a leaky bucket for each, in a table of fixed size that all workers share.
//!
//! ```text
//! header: magic, 2 words of a secret | buckets of 8 ways: fingerprint, state
//! state: last_ms: 36 bits | excess: 28 bits, in thousandths of a request
//! ```
//! A key is known by a 64-bit hash seeded with the secret, so that a client cannot choose keys that collide
//! in one bucket. When a bucket is full, a new key replaces the oldest of the keys that are within their rate
//! by now, or, if there are none, the oldest of the others; a refusal counts as use. Each request is one
//! compare-and-swap; a process that dies at any instruction leaves valid words.
//! Behaviour: nginx.org, ngx_http_limit_req_module.

use std::hash::{BuildHasher, DefaultHasher, Hasher, RandomState};
use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::named;

const WAYS: usize = 8;
const WAY_WORDS: usize = 2;
const BUCKET_WORDS: usize = WAYS * WAY_WORDS;
/// The suitability of a way for a new key: best if free, next if its key is within the rate; among equals the oldest.
type Worth = (bool, bool, u64);
/// The header takes the place of one bucket.
const HEADER_WORDS: usize = BUCKET_WORDS;
/// "pronghor" and the version of this layout.
const MAGIC: u64 = 0x7072_6f6e_6768_6f72 ^ 0x0102;

const EXCESS_BITS: u32 = 28;
/// The largest excess that is counted, in thousandths of a request.
pub const EXCESS_MAX: u64 = (1 << EXCESS_BITS) - 1;
const CLOCK_BITS: u32 = 64 - EXCESS_BITS;

/// Minimum time between the last change of a state and the note of a refusal: each note may lose the leak of
/// a fraction of a millisecond.
const REFUSAL_MS: u64 = 64;

/// The outcome of one more request of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Added {
    /// The excess beyond the rate, in thousandths of a request. `Err`: it would exceed the maximum, so the
    /// request was not counted.
    pub excess: Result<u64, u64>,
    /// The key replaced another one that was beyond its rate; that one starts anew with its next request.
    pub evicts: bool,
}

/// A table of keys and their rates.
///
/// The master opens it while it compiles a configuration; workers call [`Table::add`] and [`Table::peek`] for
/// each limited request. It never fails: a full bucket evicts.
#[derive(Clone, Copy)]
pub struct Table {
    words: &'static [AtomicU64],
}

/// A key, hashed for one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(pub(super) u64);

impl Table {
    /// Opens the table in the zone of this name, which is created if there is none. For the master.
    pub fn open(name: u64, bytes: usize) -> io::Result<Self> {
        Ok(Self::of(named::zone(name, bytes)?.words()))
    }

    fn of(words: &'static [AtomicU64]) -> Self {
        init_header(words, MAGIC);
        Self { words }
    }

    /// The number of keys that it can hold.
    pub fn capacity(&self) -> usize {
        self.bucket_count() * WAYS
    }

    pub fn key(&self, bytes: &[u8]) -> Key {
        Key(keyed_hash(self.words, bytes))
    }

    /// The excess that a key would have with one more request now; nothing is counted.
    pub fn peek(&self, key: Key, rate: u64, now_ms: u64) -> u64 {
        let way = self.ways(key).find(|way| way[0].load(Acquire) == key.0);
        way.map_or(0, |way| next(way[1].load(Relaxed), rate, now_ms).1)
    }

    /// Counts a request of a key that may exceed `rate` (thousandths a second) by `max`.
    pub fn add(&self, key: Key, rate: u64, max: u64, now_ms: u64) -> Added {
        let (way, evicts) = self.entry(key, rate, now_ms);
        let state = &way[1];
        let mut seen = state.load(Relaxed);
        loop {
            let (new, excess) = next(seen, rate, now_ms);
            let (new, answer) =
                if excess > max { (refused(seen, rate, now_ms), Err(excess)) } else { (new, Ok(excess)) };
            if new == seen {
                return Added { excess: answer, evicts };
            }
            match state.compare_exchange_weak(seen, new, Relaxed, Relaxed) {
                Ok(_) => return Added { excess: answer, evicts },
                Err(other) => seen = other,
            }
        }
    }

    /// Finds the way of a key, or takes one for it; true if it was taken from a key that is beyond its rate.
    fn entry(&self, key: Key, rate: u64, now_ms: u64) -> (&'static [AtomicU64], bool) {
        let own = |way: &&[AtomicU64]| way[0].load(Acquire) == key.0;
        loop {
            if let Some(way) = self.ways(key).find(own) {
                return (way, false);
            }
            // Read all owners once: a way found free must not be taken from a key that has come meanwhile,
            // and a key that another worker has just added must not get a second way.
            let owned = self.ways(key).map(|way| (way, way[0].load(Acquire)));
            let mut oldest: Option<(Worth, &[AtomicU64], u64)> = None;
            for (way, owner) in owned {
                if owner == key.0 {
                    return (way, false);
                }
                let state = way[1].load(Relaxed);
                let is_within = left(state, rate, now_ms).1 == 0;
                let age = (owner == 0, is_within, age_ms(state, now_ms));
                if oldest.is_none_or(|(known, ..)| age >= known) {
                    oldest = Some((age, way, owner));
                }
            }
            let Some(((is_free, is_within, _), way, before)) = oldest else { continue };
            // Zero the state first, so that the new key never has the old one's excess, except for requests
            // counted in between.
            way[1].store(0, Relaxed);
            if way[0].compare_exchange(before, key.0, Release, Relaxed).is_ok() {
                // If two workers took a way for one key at the same time, both use the first of them.
                let first = self.ways(key).find(own).unwrap_or(way);
                if !std::ptr::eq(first, way) {
                    way[0].store(0, Release);
                }
                return (first, !is_free && !is_within);
            }
        }
    }

    fn ways(&self, key: Key) -> impl Iterator<Item = &'static [AtomicU64]> + use<> {
        let bucket = (key.0 >> 32) as usize % self.bucket_count();
        let start = HEADER_WORDS + bucket * BUCKET_WORDS;
        self.words[start..start + BUCKET_WORDS].chunks_exact(WAY_WORDS)
    }

    fn bucket_count(&self) -> usize {
        (self.words.len() - HEADER_WORDS) / BUCKET_WORDS
    }
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Table({})", self.capacity())
    }
}

/// Writes a secret into the header of a fresh zone.
pub(super) fn init_header(words: &'static [AtomicU64], magic: u64) {
    if words[0].load(Acquire) == magic {
        return;
    }
    for secret in &words[1..3] {
        secret.store(RandomState::new().build_hasher().finish(), Relaxed);
    }
    words[0].store(magic, Release);
}

/// A keyed hash that cannot be predicted without the secret in the header; never below 1024.
pub(super) fn keyed_hash(words: &'static [AtomicU64], key: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write_u64(words[1].load(Relaxed));
    hasher.write_u64(words[2].load(Relaxed));
    hasher.write(key);
    hasher.finish().max(1024)
}

/// The state and the excess after one more request; 0 is the state of a key without requests.
fn next(state: u64, rate: u64, now_ms: u64) -> (u64, u64) {
    let now = now_ms & ((1 << CLOCK_BITS) - 1);
    if state == 0 {
        return (now.max(1) << EXCESS_BITS, 0);
    }
    let (last, before) = (state >> EXCESS_BITS, state & EXCESS_MAX);
    let passed_ms = age_ms(state, now_ms);
    let leaked = rate.saturating_mul(passed_ms) / 1000;
    let excess = (before + 1000).saturating_sub(leaked).min(EXCESS_MAX);
    let last = if passed_ms > 0 { now.max(1) } else { last };
    (last << EXCESS_BITS | excess, excess)
}

/// The part of the excess that has leaked by now, and the part that is left.
fn left(state: u64, rate: u64, now_ms: u64) -> (u64, u64) {
    let leaked = rate.saturating_mul(age_ms(state, now_ms)) / 1000;
    (leaked, (state & EXCESS_MAX).saturating_sub(leaked))
}

/// The state of a key after a refused request: the request is not counted, but the key is in use.
///
/// Time moves on only to the moment when the last whole thousandth leaked, so that the noted excess leaks as
/// it would have without the note, or slightly faster.
fn refused(state: u64, rate: u64, now_ms: u64) -> u64 {
    if age_ms(state, now_ms) < REFUSAL_MS || rate == 0 {
        return state;
    }
    let (leaked, left) = left(state, rate, now_ms);
    let last = (state >> EXCESS_BITS) + (leaked * 1000).div_ceil(rate);
    let last = (last & ((1 << CLOCK_BITS) - 1)).max(1);
    last << EXCESS_BITS | left
}

/// Time since the last request; 0 if another worker's clock was ahead.
fn age_ms(state: u64, now_ms: u64) -> u64 {
    let passed = now_ms.wrapping_sub(state >> EXCESS_BITS) & ((1 << CLOCK_BITS) - 1);
    if passed >> (CLOCK_BITS - 1) == 0 { passed } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::super::zone::Zone;
    use super::*;

    fn table(bytes: usize) -> Table {
        Table::of(Zone::map(bytes).expect("maps").words())
    }

    #[test]
    fn the_bucket_leaks_at_its_rate() {
        let table = table(64 * 1024);
        let key = table.key(b"client");
        let rate = 2000; // 2r/s
        let cases = [
            (10_000, 1000, Ok(0)),
            (10_000, 1000, Ok(1000)),
            (10_000, 1000, Err(2000)),
            (10_250, 1000, Err(1500)),
            (10_500, 1000, Ok(1000)),
            (10_400, 1000, Err(2000)), // another worker's clock, a moment behind
            (60_000, 1000, Ok(0)),
        ];
        for (now_ms, max, expected) in cases {
            assert_eq!(table.add(key, rate, max, now_ms).excess, expected, "{now_ms}");
        }
        assert_eq!(table.peek(key, rate, 60_000), 1000);
        assert_eq!(table.peek(key, rate, 60_000), 1000, "looking does not count");
        assert_eq!(table.peek(table.key(b"stranger"), rate, 60_000), 0);
    }

    #[test]
    fn a_slow_rate_begins_with_a_request_even_at_boot() {
        let table = table(64 * 1024);
        let key = table.key(b"");
        assert_eq!(table.add(key, 16, 0, 0).excess, Ok(0));
        assert_eq!(table.add(key, 16, 0, 10).excess, Err(1000));
    }

    #[test]
    fn excess_saturates() {
        let table = table(64 * 1024);
        let key = table.key(b"flood");
        for _ in 0..300_000 {
            let _ = table.add(key, 1, EXCESS_MAX, 5);
        }
        assert_eq!(table.peek(key, 1, 5), EXCESS_MAX);
    }

    #[test]
    fn the_oldest_makes_room_and_the_newest_stay() {
        let table = table(32 * 1024);
        let count = table.capacity() * 20;
        let key = |n: usize| table.key(&n.to_le_bytes());
        for n in 0..count {
            let added = table.add(key(n), 1000, 0, n as u64 + 1);
            assert_eq!(added, Added { excess: Ok(0), evicts: false }, "a new key is never refused");
        }
        assert!(
            (count - 20..count).all(|n| table.peek(key(n), 1, count as u64) > 900),
            "the newest are known"
        );
        let known = (0..count / 2).filter(|n| table.peek(key(*n), 1, count as u64) > 0).count();
        assert_eq!(known, 0, "old ones are gone");
    }

    #[test]
    fn a_key_that_is_refused_stays_while_others_pass_by() {
        let table = table(32 * 1024);
        let key = |n: usize| table.key(&n.to_le_bytes());
        let (rate, greedy) = (16, table.key(b"greedy")); // 1r/m
        for _ in 0..6 {
            table.add(greedy, rate, 5000, 1).excess.expect("within its burst");
        }
        let mut evicted = 0;
        // Many more keys than the table holds, each within its rate; then each beyond its rate too.
        for n in 0..table.capacity() * 8 {
            let now_ms = 1 + n as u64 / 8;
            evicted += u32::from(table.add(key(n), rate, 5000, now_ms).evicts);
            assert!(table.add(greedy, rate, 5000, now_ms).excess.is_err(), "{n}");
        }
        assert_eq!(evicted, 0);
        let later_ms = table.capacity() as u64 + 1;
        for n in 0..table.capacity() * 8 {
            let now_ms = later_ms + n as u64 / 8;
            for _ in 0..3 {
                evicted += u32::from(table.add(key(n), rate, 5000, now_ms).evicts);
            }
        }
        assert!(evicted > 0, "and it is told");
    }

    #[test]
    fn refusals_take_nothing_from_what_leaks() {
        for rate in [16, 500, 1500, 333_333] {
            let (table, often, seldom) = (table(64 * 1024), 1, 2_u64);
            let keys = [often, seldom].map(|n: u64| table.key(&n.to_le_bytes()));
            let max = (20 * rate).max(5000);
            for key in keys {
                while table.peek(key, rate, 1000) + 1000 <= max {
                    table.add(key, rate, max, 1000).excess.expect("within");
                }
            }
            for now_ms in 1001..11_000 {
                let _ = table.add(keys[0], rate, 0, now_ms);
            }
            let [often, seldom] = keys.map(|key| table.peek(key, rate, 11_000));
            assert!(
                often >= seldom && often - seldom <= 10 * rate / REFUSAL_MS + 2,
                "{often} {seldom} at {rate}"
            );
        }
    }

    #[test]
    fn two_tables_hash_differently() {
        assert_ne!(table(32 * 1024).key(b"a"), table(32 * 1024).key(b"a"));
    }

    #[test]
    fn no_request_is_lost_between_threads() {
        // Large enough that no bucket fills up: a full one would evict from any of its ways, since all are
        // equally old.
        let table = table(1024 * 1024);
        let key = table.key(b"shared");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for n in 0..1000 {
                        table.add(key, 0, EXCESS_MAX, 1000).excess.expect("counted");
                        let other = table.key(format!("other {n}").as_bytes());
                        let _ = table.add(other, 0, EXCESS_MAX, 1000);
                    }
                });
            }
        });
        assert_eq!(table.peek(key, 0, 1000), 4000 * 1000);
    }
}
