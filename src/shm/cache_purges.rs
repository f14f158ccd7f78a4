//! The purges of all keys with a prefix (`proxy_cache_purge` with a key that ends in `*`), in a table of fixed size that
//! all workers and the cache manager share.
//!
//! ```text
//! header: magic, 2 words of a secret, lock, places ever used, places in use, begun | 128 places of 128 words
//! place:  version, odd while it is written | time by the wall clock | by the monotonic clock | state | prefix
//! state:  length of the prefix: 62 bits | stage: 2; 0: free
//! ```
//! A purge does not look for files. It is noted here, and from then on no response is served or stored that is older and
//! whose key has the prefix. The manager frees a place when no such response is left. A lookup reads one word while there
//! are no purges. The table is written under a lock, which passes on when its holder died; a place whose writer died
//! counts as free.
//!
//! **Any worker may write anything here.** A purge that is none makes responses be fetched again, no more.
//! Behaviour: nginx.org, `proxy_cache_purge`, `purger` of `proxy_cache_path`.

use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use super::leaky_bucket::init_header;
use super::named;
use crate::sys::random;

/// The number of purges that can be in progress.
pub const PLACES: usize = 128;
/// The longest prefix.
pub const PREFIX_BYTES_MAX: usize = (PLACE_WORDS - HEAD_WORDS) * 8;
/// More purges than this are so many that the manager looks for their files, whatever the configuration says.
pub const MANY: usize = PLACES / 2;

const PLACE_WORDS: usize = 128;
/// The words of a place before the prefix.
const HEAD_WORDS: usize = 4;
const HEADER_WORDS: usize = 8;
const LOCK: usize = 3;
const EVER: usize = 4;
const IN_USE: usize = 5;
const BEGUN: usize = 6;
/// "pronghor" and the version of this layout.
const MAGIC: u64 = 0x7072_6f6e_6768_6f72 ^ 0x0107;

/// The time after which the holder of the lock has died: it needs microseconds.
const LOCK_MS_MAX: u64 = 1000;
const LOCK_MS_BITS: u32 = 40;

const STAGE_BITS: u32 = 2;
/// Its files may be anywhere in the cache.
const PENDING: u64 = 1;
/// Its files are gone; a request that asked the upstream before may still be about to store one.
const DONE: u64 = 2;

/// The table of one cache.
#[derive(Clone, Copy)]
pub struct Purges {
    words: &'static [AtomicU64],
}

/// The moment of a purge or of its reader, by both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Milliseconds since 1970, with which the times in files are compared.
    pub wall_ms: u64,
    pub monotonic_ms: u64,
}

/// A purge as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Purge {
    pub prefix: Vec<u8>,
    pub at: Moment,
    is_done: bool,
    place: usize,
    version: u64,
}

/// Why a purge was not noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Another process is changing the table: try again in a moment.
    Busy,
    /// There are [`PLACES`] purges whose files are not gone yet.
    Full,
    /// The prefix is longer than [`PREFIX_BYTES_MAX`].
    TooLong,
}

/// The right to change the table.
struct Guard(&'static AtomicU64, u64);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.compare_exchange(self.1, 0, Release, Relaxed);
    }
}

impl Purges {
    /// Opens the table in the zone of this name, which is created if there is none. For the master.
    pub fn open(name: u64) -> io::Result<Self> {
        Ok(Self::of(named::zone(name, Self::bytes())?.words()))
    }

    /// The size of its zone.
    pub fn bytes() -> usize {
        (HEADER_WORDS + PLACES * PLACE_WORDS) * 8
    }

    fn of(words: &'static [AtomicU64]) -> Self {
        init_header(words, MAGIC);
        Self { words }
    }

    /// True for the first caller since the table was made: it has the purges from before the start.
    pub fn begin(&self) -> bool {
        self.words[BEGUN].swap(1, Relaxed) == 0
    }

    /// Notes that all keys with this prefix are purged now. Older purges of keys that all have the prefix too give way.
    pub fn add(&self, prefix: &[u8], at: Moment) -> Result<(), Refusal> {
        if prefix.len() > PREFIX_BYTES_MAX {
            return Err(Refusal::TooLong);
        }
        let _guard = self.lock(at.monotonic_ms).ok_or(Refusal::Busy)?;
        let all: Vec<_> = (0..PLACES).map(|place| self.read(place)).collect();
        let covered =
            |place: &usize| all[*place].as_ref().is_some_and(|known| known.prefix.starts_with(prefix));
        let free = (0..PLACES).find(|place| all[*place].is_none());
        let done = || {
            let done = all.iter().flatten().filter(|purge| purge.is_done);
            done.min_by_key(|purge| purge.at.monotonic_ms).map(|purge| purge.place)
        };
        let place = free.or_else(|| (0..PLACES).find(covered)).or_else(done).ok_or(Refusal::Full)?;
        self.write(place, prefix, at);
        // Not earlier: one of the two holds at any time.
        (0..PLACES).filter(covered).filter(|other| *other != place).for_each(|other| self.free(other));
        self.count();
        Ok(())
    }

    /// True if a response that was received at `received_ms` since 1970, for a key with this text, is purged.
    #[inline]
    pub fn cover(&self, key: &[u8], received_ms: i64, now_wall_ms: u64) -> bool {
        !self.is_empty() && self.some_covers(key, received_ms, now_wall_ms)
    }

    /// True if a key with this text was purged after a request asked the upstream, at `asked_ms` of the monotonic clock.
    #[inline]
    pub fn came_after(&self, key: &[u8], asked_ms: u64) -> bool {
        !self.is_empty() && self.any(key, |at| at.monotonic_ms >= asked_ms)
    }

    /// True if there are no purges.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.words[IN_USE].load(Acquire) == 0
    }

    #[cold]
    fn some_covers(&self, key: &[u8], received_ms: i64, now_wall_ms: u64) -> bool {
        self.any(key, |at| is_older(received_ms, at.wall_ms, now_wall_ms))
    }

    fn any(&self, key: &[u8], is_met: impl Fn(Moment) -> bool) -> bool {
        let ever = (self.words[EVER].load(Relaxed) as usize).min(PLACES);
        (0..ever).any(|place| {
            self.has_prefix_of(place, key)
                && self.read(place).is_some_and(|purge| key.starts_with(&purge.prefix) && is_met(purge.at))
        })
    }

    /// A quick look without a copy, which may be wrong while the place is written.
    fn has_prefix_of(&self, place: usize, key: &[u8]) -> bool {
        let words = self.place(place);
        let Some(length) = length_of(words[3].load(Acquire)) else { return false };
        let Some(prefix) = key.get(..length) else { return false };
        words[HEAD_WORDS..]
            .iter()
            .zip(prefix.chunks(8))
            .all(|(word, bytes)| word.load(Relaxed) == word_of(bytes))
    }

    /// The purges whose files are not gone yet.
    pub fn pending(&self) -> Vec<Purge> {
        let all = (0..PLACES).filter_map(|place| self.read(place));
        all.filter(|purge| !purge.is_done).collect()
    }

    /// Says that no file is left that a purge removes.
    pub fn finish(&self, purge: &Purge, now_ms: u64) {
        let Some(_guard) = self.lock(now_ms) else { return };
        if self.place(purge.place)[0].load(Relaxed) == purge.version {
            self.place(purge.place)[3].store(state_of(purge.prefix.len(), DONE), Release);
        }
    }

    /// Frees the places of purges that are done and older than `done_ms`, and of others that are older than
    /// `pending_ms`. True if there were some of the latter.
    pub fn tidy(&self, now_ms: u64, done_ms: u64, pending_ms: u64) -> bool {
        let Some(_guard) = self.lock(now_ms).filter(|_| !self.is_empty()) else { return false };
        let mut has_pending = false;
        for place in 0..PLACES {
            let purge = self.read(place);
            let is_over = purge.as_ref().is_none_or(|purge| {
                let age_ms = now_ms.saturating_sub(purge.at.monotonic_ms);
                age_ms > if purge.is_done { done_ms } else { pending_ms }
            });
            if is_over {
                has_pending |= purge.is_some_and(|purge| !purge.is_done);
                self.free(place);
            }
        }
        self.count();
        has_pending
    }

    /// The purge of a place; `None`: it is free, or being written.
    fn read(&self, place: usize) -> Option<Purge> {
        let words = self.place(place);
        let version = words[0].load(Acquire);
        let (wall_ms, monotonic_ms) = (words[1].load(Relaxed), words[2].load(Relaxed));
        let state = words[3].load(Relaxed);
        let length = length_of(state)?;
        let text = words[HEAD_WORDS..].iter().take(length.div_ceil(8));
        let mut prefix: Vec<u8> = text.flat_map(|word| word.load(Acquire).to_le_bytes()).collect();
        prefix.truncate(length);
        let is_whole = version.is_multiple_of(2) && words[0].load(Relaxed) == version;
        is_whole.then_some(Purge {
            prefix,
            at: Moment { wall_ms, monotonic_ms },
            is_done: state & ((1 << STAGE_BITS) - 1) == DONE,
            place,
            version,
        })
    }

    fn write(&self, place: usize, prefix: &[u8], at: Moment) {
        let words = self.place(place);
        let version = words[0].load(Relaxed) | 1;
        words[0].swap(version, AcqRel); // what follows is not seen before it
        words[1].store(at.wall_ms, Release);
        words[2].store(at.monotonic_ms, Release);
        words[3].store(state_of(prefix.len(), PENDING), Release);
        for (word, bytes) in words[HEAD_WORDS..].iter().zip(prefix.chunks(8)) {
            word.store(word_of(bytes), Release);
        }
        words[0].store(version.wrapping_add(1), Release);
        self.words[EVER].fetch_max(place as u64 + 1, Relaxed);
    }

    fn free(&self, place: usize) {
        let words = self.place(place);
        words[3].store(0, Release);
        words[0].store((words[0].load(Relaxed) | 1).wrapping_add(1), Release);
    }

    /// Counts the places in use.
    fn count(&self) {
        let count = (0..PLACES).filter(|place| self.place(*place)[3].load(Relaxed) != 0).count();
        self.words[IN_USE].store(count as u64, Release);
    }

    fn lock(&self, now_ms: u64) -> Option<Guard> {
        let now_ms = now_ms & ((1 << LOCK_MS_BITS) - 1);
        let before = self.words[LOCK].load(Relaxed);
        let taken_ms = before & ((1 << LOCK_MS_BITS) - 1);
        let is_held = before != 0 && now_ms.abs_diff(taken_ms) < LOCK_MS_MAX;
        let owner = random::number() >> LOCK_MS_BITS | 1;
        let mine = owner << LOCK_MS_BITS | now_ms;
        let lock = &self.words[LOCK];
        (!is_held && lock.compare_exchange(before, mine, Acquire, Relaxed).is_ok()).then(|| Guard(lock, mine))
    }

    fn place(&self, place: usize) -> &'static [AtomicU64] {
        let at = HEADER_WORDS + place * PLACE_WORDS;
        &self.words[at..at + PLACE_WORDS]
    }
}

impl Purge {
    /// True if it removes the file of a response that was received at `received_ms` since 1970, for a key with this text.
    pub fn covers(&self, key: &[u8], received_ms: i64, now_wall_ms: u64) -> bool {
        key.starts_with(&self.prefix) && is_older(received_ms, self.at.wall_ms, now_wall_ms)
    }
}

/// A response from the future is one from before the clock was set back.
fn is_older(received_ms: i64, purged_ms: u64, now_wall_ms: u64) -> bool {
    let received_ms = u64::try_from(received_ms).unwrap_or(0);
    received_ms <= purged_ms || received_ms > now_wall_ms
}

fn state_of(length: usize, stage: u64) -> u64 {
    (length as u64) << STAGE_BITS | stage
}

/// The length of a prefix; `None`: the place is free.
fn length_of(state: u64) -> Option<usize> {
    (state != 0).then(|| ((state >> STAGE_BITS) as usize).min(PREFIX_BYTES_MAX))
}

/// Up to eight bytes as a word, zeros behind them.
fn word_of(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

impl std::fmt::Debug for Purges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Purges({})", self.words[IN_USE].load(Relaxed))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::zone::Zone;
    use super::*;

    /// An empty table.
    pub(crate) fn purges() -> Purges {
        Purges::of(Zone::map(Purges::bytes()).expect("maps").words())
    }

    /// Both clocks show the same.
    fn at(ms: u64) -> Moment {
        Moment { wall_ms: ms, monotonic_ms: ms }
    }

    fn prefixes(purges: &Purges) -> Vec<String> {
        purges.pending().iter().map(|purge| String::from_utf8_lossy(&purge.prefix).into_owned()).collect()
    }

    #[test]
    fn a_purge_covers_older_responses_whose_key_has_the_prefix() {
        let purges = purges();
        assert!(purges.is_empty() && !purges.cover(b"/a/b", 0, 9000));
        purges.add(b"/a/long-prefix", at(5000)).expect("room");
        purges.add(b"/b", at(6000)).expect("room");
        for (key, received_ms, expected) in [
            ("/a/long-prefix", 5000, true),
            ("/a/long-prefix-and-more", 1, true),
            ("/a/long-prefix", 5001, false),
            ("/a/long-prefi", 1, false),
            ("/a/long-prefiX", 1, false),
            ("/b", 5001, true),
            ("/b/c", 6000, true),
            ("/b/c", 6001, false),
            ("/b/c", 7000, false),
            ("/b/c", 7001, true), // the clock was set back
            ("/b/c", i64::MIN, true),
            ("", 1, false),
        ] {
            assert_eq!(purges.cover(key.as_bytes(), received_ms, 7000), expected, "{key} {received_ms}");
            let one = purges.pending().iter().any(|purge| purge.covers(key.as_bytes(), received_ms, 7000));
            assert_eq!(one, expected, "{key} {received_ms}");
        }
        assert!(purges.came_after(b"/b/c", 6000) && !purges.came_after(b"/b/c", 6001));
        assert!(!purges.came_after(b"/c", 0));
    }

    #[test]
    fn every_length_of_a_prefix_is_compared_whole() {
        let text: Vec<u8> = (0..PREFIX_BYTES_MAX).map(|at| b'a' + (at % 26) as u8).collect();
        for length in (0..40).chain([PREFIX_BYTES_MAX - 1, PREFIX_BYTES_MAX]) {
            let purges = purges();
            purges.add(&text[..length], at(10)).expect("room");
            assert!(purges.cover(&text, 1, 20), "{length}");
            if length > 0 {
                let mut other = text.clone();
                other[length - 1] ^= 1;
                assert!(!purges.cover(&other, 1, 20), "{length}");
                assert!(!purges.cover(&text[..length - 1], 1, 20), "{length}");
            }
        }
        assert_eq!(purges().add(&[0; PREFIX_BYTES_MAX + 1], at(1)), Err(Refusal::TooLong));
    }

    #[test]
    fn a_wider_purge_takes_the_place_of_narrower_ones() {
        let purges = purges();
        for (ms, prefix) in (1..).zip(["/a/1", "/a/2", "/b", "/a/1"]) {
            purges.add(prefix.as_bytes(), at(ms)).expect("room");
        }
        assert_eq!(prefixes(&purges).len(), 3);
        assert!(purges.cover(b"/a/1", 4, 9), "the later one counts");
        purges.add(b"/a", at(5)).expect("room");
        let mut left = prefixes(&purges);
        left.sort();
        assert_eq!(left, ["/a", "/b"]);
        purges.add(b"", at(6)).expect("room");
        assert_eq!(prefixes(&purges), [""]);
        assert!(purges.cover(b"anything", 6, 9));
    }

    #[test]
    fn purges_that_are_done_give_way_and_others_do_not() {
        let purges = purges();
        for number in 0..PLACES {
            purges.add(format!("/{number}/").as_bytes(), at(100 + number as u64)).expect("room");
        }
        assert_eq!(purges.add(b"/x", at(500)), Err(Refusal::Full));
        purges.add(b"/7/", at(501)).expect("the same again");
        assert_eq!(purges.pending().len(), PLACES);
        let of = |text: &str| {
            purges.pending().into_iter().find(|purge| purge.prefix == text.as_bytes()).expect("pending")
        };
        let (old, seven) = (of("/3/"), of("/7/"));
        purges.add(b"/7/", at(502)).expect("again");
        purges.finish(&seven, 503);
        assert_eq!(purges.pending().len(), PLACES, "it was purged again since");
        purges.finish(&old, 503);
        assert_eq!(purges.pending().len(), PLACES - 1);
        assert!(purges.cover(b"/3/", 50, 900) && purges.came_after(b"/3/", 50), "what is under way");
        purges.add(b"/x", at(504)).expect("the place of one that is done");
        assert!(!purges.cover(b"/3/", 50, 900));
        assert_eq!(purges.add(b"/y", at(505)), Err(Refusal::Full));
    }

    #[test]
    fn places_are_free_again_after_their_time() {
        let purges = purges();
        purges.add(b"/done", at(1000)).expect("room");
        purges.finish(&purges.pending()[0], 1000);
        purges.add(b"/pending", at(1000)).expect("room");
        assert!(!purges.tidy(1600, 600, 9000));
        assert!(purges.cover(b"/done", 1, 2000));
        assert!(!purges.tidy(1601, 600, 9000), "only one that was done");
        assert!(!purges.cover(b"/done", 1, 2000) && purges.cover(b"/pending", 1, 2000));
        assert!(purges.tidy(10_001, 600, 9000));
        assert!(purges.is_empty() && !purges.tidy(10_001, 600, 9000));
        assert!(purges.begin() && !purges.begin());
    }

    #[test]
    fn a_process_that_dies_at_any_step_blocks_nobody() {
        let purges = purges();
        let guard = purges.lock(1000).expect("free");
        assert_eq!(purges.add(b"/a", at(1500)), Err(Refusal::Busy));
        std::mem::forget(guard);
        // It died while it wrote the first place.
        purges.place(0)[0].store(1, Relaxed);
        purges.place(0)[3].store(state_of(2, PENDING), Relaxed);
        purges.add(b"/a", at(2000)).expect("the lock is free again");
        assert_eq!(prefixes(&purges), ["/a"]);
        assert!(purges.cover(b"/a", 1, 3000));
    }

    #[test]
    fn any_words_are_read_without_harm() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let purges = purges();
            let words = bytes.chunks(8).map(word_of);
            for (word, value) in purges.words[HEADER_WORDS - 5..].iter().zip(words) {
                word.store(value, Relaxed);
            }
            let _ = purges.cover(bytes, 5, 10);
            let _ = purges.add(&bytes[..bytes.len().min(9)], at(u64::MAX));
            purges.pending().iter().for_each(|purge| purges.finish(purge, 0));
            purges.tidy(5000, 0, 0);
        });
    }
}
