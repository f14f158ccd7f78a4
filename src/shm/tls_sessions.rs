//! TLS sessions that all workers share (`ssl_session_cache shared:NAME:SIZE`): a ring of entries and an
//! index.
//!
//! ```text
//! header: magic, 2 words of a secret, …, head | index: a word for each block, in buckets of 8
//!         | marks: a u32 for each block | ring: blocks of 64 bytes
//! index word: position of an entry: 40 bits | tag of its key: 24 bits; 0: free
//! mark: the second at which the entry that starts in this block expires; 0: none starts here
//! entry: checksum, value_bytes and expiry, key (4 words), value
//! ```
//! `head` counts the blocks ever reserved. A worker that stores a session reserves blocks with one addition,
//! writes the entry there, and then makes it known with one exchange of an index word. So the oldest entries
//! are overwritten first, which are those that expire first, as in nginx; a worker that dies on the way
//! leaves blocks that nobody finds; and nobody waits for anybody. Two cases are left to the reader, who
//! copies an entry before it checks it: a writer that overtook it (`head` has moved on), and a writer that
//! slept for a whole round and then wrote into a newer entry (the checksum differs). Either way the session
//! is gone, which costs its client a full handshake. [`Table::take`] empties the index word by an exchange,
//! so only one of several workers gets it.
//!
//! A hostile worker can read and write everything here. All numbers are bounded by their reader; what a value
//! means is for the caller to parse with the same suspicion.
//! Behaviour: nginx.org, `ssl_session_cache`.

use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64, fence};

use super::leaky_bucket::{init_header, keyed_hash};
use super::named;
use super::zone::Zone;

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;
/// The largest value that is stored: a session with a client's chain of several certificates. nginx stops at
/// 4096.
pub const VALUE_BYTES_MAX: usize = 16 * 1024;

pub type Key = [u8; KEY_BYTES];

/// "pronghor" and the version of this layout.
const MAGIC: u64 = 0x7072_6f6e_6768_6f72 ^ 0x0104;
const HEADER_WORDS: usize = 16;
/// On another cache line than the secret, which never changes.
const HEAD_WORD: usize = 8;
const BLOCK_WORDS: usize = 8;
const BUCKET_WORDS: usize = 8;
const KEY_WORDS: usize = KEY_BYTES / 8;
const ENTRY_WORDS: usize = 2 + KEY_WORDS;
const WORD_BYTES: usize = size_of::<u64>();
const TAG_BITS: u32 = 24;
const POSITION_MASK: u64 = (1 << (64 - TAG_BITS)) - 1;
/// An entry has at most this part of the ring.
const ENTRY_SHARE: usize = 4;
/// The number of times that other workers may be quicker to change the index words of a bucket.
const ATTEMPTS: usize = 16;

/// A table of sessions.
///
/// The master opens it while it compiles a configuration; workers store, look up and take. Times are seconds
/// of one clock that all workers share.
#[derive(Clone, Copy)]
pub struct Table {
    header: &'static [AtomicU64],
    index: &'static [AtomicU64],
    marks: &'static [AtomicU32],
    ring: &'static [AtomicU64],
}

/// A session has been stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// The number of sessions that had to go although they had not expired.
    pub evicted: u32,
}

/// A session in the ring, copied and checked.
struct Found {
    slot: &'static AtomicU64,
    /// The index word that led to it.
    word: u64,
    start: u64,
    expires_s: u32,
    value: Vec<u8>,
}

impl Table {
    /// Opens the table in the zone of this name, which is created if there is none. For the master.
    pub fn open(name: u64, bytes: usize) -> io::Result<Self> {
        let zone = named::zone(name, bytes)?;
        // Without it a core file has master secrets; nothing else depends on it.
        let _ = zone.leave_out_of_dumps();
        Self::of(zone)
    }

    /// Errors: the zone is smaller than a page.
    pub(super) fn of(zone: &Zone) -> io::Result<Self> {
        let words = zone.words();
        let rest = words.len().saturating_sub(HEADER_WORDS);
        // A block is 8 words of the ring, one of the index and half a word of the marks.
        let blocks = rest * 2 / (2 * BLOCK_WORDS + 3) / BUCKET_WORDS * BUCKET_WORDS;
        let marks_at = HEADER_WORDS + blocks;
        let ring_at = marks_at + blocks / 2;
        let marks = zone.halves(marks_at..ring_at).filter(|marks| !marks.is_empty());
        let ring = words.get(ring_at..ring_at + blocks * BLOCK_WORDS);
        let (Some(marks), Some(ring)) = (marks, ring) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a table of sessions needs a page"));
        };
        init_header(words, MAGIC);
        Ok(Self { header: &words[..HEADER_WORDS], index: &words[HEADER_WORDS..marks_at], marks, ring })
    }

    /// Number of sessions without a client certificate that fit: they have about 100 bytes.
    pub fn capacity(&self) -> usize {
        self.blocks() / (ENTRY_WORDS * WORD_BYTES + 100).div_ceil(BLOCK_WORDS * WORD_BYTES)
    }

    /// The largest value that it stores, in bytes: [`VALUE_BYTES_MAX`], or less in a small table.
    pub fn value_bytes_max(&self) -> usize {
        let share = (self.blocks() / ENTRY_SHARE * BLOCK_WORDS).saturating_sub(ENTRY_WORDS);
        VALUE_BYTES_MAX.min(share * WORD_BYTES)
    }

    /// Stores a session for `lifetime_s`; it replaces another one of this key. `None`: the value is too
    /// large.
    pub fn put(&self, key: &Key, value: &[u8], lifetime_s: u32, now_s: u32) -> Option<Stored> {
        if value.len() > self.value_bytes_max() {
            return None;
        }
        let expires_s = now_s.saturating_add(lifetime_s).max(1);
        let (start, evicted) = self.reserve(blocks_of(value.len()), now_s);
        self.write(start, key, value, expires_s);
        self.mark(start).store(expires_s, Relaxed);
        let replaced = self.publish(key, start, now_s)?;
        Some(Stored { evicted: evicted + replaced })
    }

    /// The session of a key. `None`: there is none, or it has expired, or it lives for more than
    /// `lifetime_max_s` from now, which a reload can shorten.
    pub fn get(&self, key: &Key, lifetime_max_s: u32, now_s: u32) -> Option<Vec<u8>> {
        let found = self.find(key)?;
        found.is_live(lifetime_max_s, now_s).then_some(found.value)
    }

    /// The session of a key, which is then gone: exactly one of several workers gets it. As [`Table::get`]
    /// otherwise.
    pub fn take(&self, key: &Key, lifetime_max_s: u32, now_s: u32) -> Option<Vec<u8>> {
        let found = self.find(key)?;
        found.slot.compare_exchange(found.word, 0, AcqRel, Relaxed).ok()?;
        self.mark(found.start).store(0, Relaxed);
        self.wipe(found.start, blocks_of(found.value.len()));
        found.is_live(lifetime_max_s, now_s).then_some(found.value)
    }

    /// Reserves blocks, and counts the entries there that have not expired.
    fn reserve(&self, count: usize, now_s: u32) -> (u64, u32) {
        let start = self.head().fetch_add(count as u64, AcqRel);
        // A reader that has seen any of the words written from now on must see the new head.
        fence(Release);
        let marks = (0..count as u64).map(|block| self.mark(start.wrapping_add(block)).swap(0, Relaxed));
        (start, marks.map(|expires_s| u32::from(expires_s > now_s)).sum())
    }

    fn write(&self, start: u64, key: &Key, value: &[u8], expires_s: u32) {
        let lengths = (value.len() as u64) << 32 | u64::from(expires_s);
        let checksum = self.checksum(start, lengths, key, value);
        let words = [checksum, lengths].into_iter().chain(words_of(key)).chain(words_of(value));
        words.enumerate().for_each(|(index, word)| self.word(start, index).store(word, Relaxed));
    }

    /// Makes an entry known. Returns the number of others that had to go although they had not expired;
    /// `None` if other workers were quicker each time.
    fn publish(&self, key: &Key, start: u64, now_s: u32) -> Option<u32> {
        let (bucket, tag) = self.bucket(key);
        let new = (start & POSITION_MASK) << TAG_BITS | tag;
        for _ in 0..ATTEMPTS {
            // Best the word of the same key; then one that leads nowhere any more; then the oldest.
            let mut best: Option<((bool, u64), &AtomicU64, u64)> = None;
            for slot in bucket {
                let word = slot.load(Acquire);
                let is_own = word & tag_mask() == tag && self.read(slot, word, key).is_some();
                let worth = (is_own, self.age(word, now_s));
                if best.is_none_or(|(known, ..)| worth > known) {
                    best = Some((worth, slot, word));
                }
            }
            let ((is_own, _), slot, before) = best?;
            if slot.compare_exchange(before, new, AcqRel, Relaxed).is_err() {
                continue;
            }
            let Some(other) = self.start_of(before) else { return Some(0) };
            let expires_s = self.mark(other).swap(0, Relaxed);
            return Some(u32::from(!is_own && expires_s > now_s));
        }
        self.mark(start).store(0, Relaxed);
        None
    }

    /// The number of blocks reserved since the entry of an index word was; `MAX` if it cannot be used any
    /// more.
    fn age(&self, word: u64, now_s: u32) -> u64 {
        let start = self.start_of(word).filter(|start| self.mark(*start).load(Relaxed) > now_s);
        start.map_or(u64::MAX, |start| self.head().load(Relaxed).wrapping_sub(start))
    }

    fn find(&self, key: &Key) -> Option<Found> {
        let (bucket, tag) = self.bucket(key);
        bucket.iter().find_map(|slot| {
            let word = slot.load(Acquire);
            (word & tag_mask() == tag).then(|| self.read(slot, word, key))?
        })
    }

    /// Copies the entry of an index word and checks the copy. `None` unless it is whole, and of this key.
    fn read(&self, slot: &'static AtomicU64, word: u64, key: &Key) -> Option<Found> {
        let start = self.start_of(word)?;
        let load = |index| self.word(start, index).load(Relaxed);
        let (checksum, lengths) = (load(0), load(1));
        let (value_bytes, expires_s) = ((lengths >> 32) as usize, lengths as u32);
        if value_bytes > self.value_bytes_max() {
            return None;
        }
        let is_own = words_of(key).enumerate().all(|(index, word)| load(2 + index) == word);
        if !is_own {
            return None;
        }
        let words = ENTRY_WORDS..ENTRY_WORDS + value_bytes.div_ceil(WORD_BYTES);
        let mut value = Vec::with_capacity(words.len() * WORD_BYTES);
        words.for_each(|index| value.extend_from_slice(&load(index).to_ne_bytes()));
        value.truncate(value_bytes);
        fence(Acquire);
        let is_whole =
            self.start_of(word) == Some(start) && self.checksum(start, lengths, key, &value) == checksum;
        is_whole.then_some(Found { slot, word, start, expires_s, value })
    }

    /// Zeroes a taken entry, which holds secrets. The oldest part of the ring is left to the writers that
    /// will overwrite it soon: a zero written a moment too late would spoil an entry of theirs.
    fn wipe(&self, start: u64, count: usize) {
        let age = self.head().load(Relaxed).wrapping_sub(start);
        let blocks = self.blocks() as u64;
        if age <= blocks - blocks / 8 {
            (0..count * BLOCK_WORDS).for_each(|index| self.word(start, index).store(0, Relaxed));
        }
    }

    /// The position of the entry of an index word; `None` if it has been overwritten, or may be at this
    /// moment.
    fn start_of(&self, word: u64) -> Option<u64> {
        let head = self.head().load(Relaxed);
        let age = head.wrapping_sub(word >> TAG_BITS) & POSITION_MASK;
        (word != 0 && age <= self.blocks() as u64).then(|| head.wrapping_sub(age))
    }

    /// A key's bucket, and its tag, which is never 0.
    fn bucket(&self, key: &Key) -> (&'static [AtomicU64], u64) {
        let hash = keyed_hash(self.header, key);
        let bucket = (hash >> 32) as usize % (self.index.len() / BUCKET_WORDS) * BUCKET_WORDS;
        (&self.index[bucket..bucket + BUCKET_WORDS], (hash & tag_mask()).max(1))
    }

    /// A hash of an entry at its position. Two entries mixed up by accident differ from it.
    fn checksum(&self, start: u64, lengths: u64, key: &Key, value: &[u8]) -> u64 {
        let mut hasher = DefaultHasher::new();
        for number in [self.header[1].load(Relaxed), self.header[2].load(Relaxed), start, lengths] {
            hasher.write_u64(number);
        }
        hasher.write(key);
        hasher.write(value);
        hasher.finish()
    }

    fn head(&self) -> &'static AtomicU64 {
        &self.header[HEAD_WORD]
    }

    fn mark(&self, position: u64) -> &'static AtomicU32 {
        &self.marks[(position % self.marks.len() as u64) as usize]
    }

    /// A word of the entry at a position; entries go on at the start of the ring.
    fn word(&self, start: u64, index: usize) -> &'static AtomicU64 {
        let first = (start % self.blocks() as u64) as usize * BLOCK_WORDS;
        &self.ring[(first + index) % self.ring.len()]
    }

    fn blocks(&self) -> usize {
        self.marks.len()
    }
}

impl Found {
    fn is_live(&self, lifetime_max_s: u32, now_s: u32) -> bool {
        self.expires_s > now_s && self.expires_s - now_s <= lifetime_max_s
    }
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Table({})", self.capacity())
    }
}

const fn tag_mask() -> u64 {
    (1 << TAG_BITS) - 1
}

const fn blocks_of(value_bytes: usize) -> usize {
    (ENTRY_WORDS + value_bytes.div_ceil(WORD_BYTES)).div_ceil(BLOCK_WORDS)
}

/// Bytes as words, the last one filled up with zeroes.
fn words_of(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.chunks(WORD_BYTES).map(|chunk| {
        let mut word = [0; WORD_BYTES];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_ne_bytes(word)
    })
}

/// What holds whatever the shared words are, for the fuzz targets (`fuzz/`) and the tests here.
#[cfg(any(test, feature = "property"))]
pub mod property {
    use std::cell::LazyCell;

    use super::*;

    /// Panics unless a table works after `damage` to it: each 10 bytes are the index of a word and its new
    /// value. Damage after an entry was written may cost that entry, but never makes another value of it.
    pub fn survives(damage: &[u8]) {
        thread_local! {
            // Mappings live as long as the process.
            static ZONE: LazyCell<Zone> = LazyCell::new(|| Zone::map(1).expect("maps"));
        }
        ZONE.with(|zone| {
            zone.clear(0..zone.words().len()).expect("whole pages");
            let table = Table::of(zone).expect("a page");
            let (key, value) = (|n: usize| [n as u8; KEY_BYTES], |n: usize| vec![n as u8; 50 + n % 150]);
            for (step, change) in damage.as_chunks::<10>().0.iter().enumerate().take(250) {
                assert!(table.put(&key(step), &value(step), 300, 1).is_some());
                let [low, high, word @ ..] = *change;
                // The secret is spared: with another one the entries are not damaged, but unknown.
                let place = 3 + usize::from(u16::from_le_bytes([low, high])) % (zone.words().len() - 3);
                zone.words()[place].store(u64::from_le_bytes(word), Relaxed);
                for n in step.saturating_sub(4)..=step {
                    let found = if step % 3 == 0 {
                        table.take(&key(n), u32::MAX, 1)
                    } else {
                        table.get(&key(n), u32::MAX, 1)
                    };
                    assert!(found.is_none_or(|found| found == value(n)));
                }
                assert!(table.put(&key(255), &value(255), 300, 1).is_some());
                assert_eq!(table.take(&key(255), 300, 1), Some(value(255)));
                assert_eq!(table.take(&key(255), 300, 1), None);
            }
        });
    }
}

#[cfg(test)]
mod tests;
