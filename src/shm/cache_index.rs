//! The keys of a response cache (`proxy_cache_path keys_zone=`), in a table of fixed size that all workers and the
//! cache manager share.
//!
//! ```text
//! header: magic, 2 words of a secret, loaded, lead | tallies of groups: 4 words each | groups of 8 buckets of 8 ways
//! tally:  in use | files | their blocks | changes
//! bucket: 8 first halves of digests | 8 times: second half, use, file, error, lock
//! use:    second of the last use: 34 bits | uses: 10 | tag: 20; 0: never used
//! file:   blocks of 512 bytes: 35 | generation: 8 | present: 1 | tag: 20
//! error:  second until which it is valid: 34 | status: 10 | tag: 20; 0: none
//!         or millisecond of the invalidation: 34 | 1: 10 | tag: 20
//! lock:   millisecond of the last renewal: 40 | owner: 24; 0: not locked
//! ```
//! A key is its digest, the MD5 from which the name of its file follows. A hash seeded with the secret places it in
//! one of two buckets, so that clients cannot choose keys that collide there. When both are full a key gives way: one
//! without a file rather than one with a file, of those the one whose last use is the longest ago, and a locked one
//! last. The tag is a part of the digest: a word written under the key that was there before counts as unset.
//!
//! **Any worker may write anything here.** What is read decides which file is opened, counted or removed, and a
//! file itself says which key it is for, so nothing here can make a wrong response. Each change is one exchange of a
//! word. A process that dies between two of them leaves a file that is not in the index, a key without its file, or a
//! tally that is wrong until the manager corrects it.
//! Times are those of the monotonic clock, which no operator sets; one that lies ahead counts as now, or, beyond what clocks of two workers can
//! differ, as long ago.
//! Behaviour: nginx.org, `proxy_cache_path`, `proxy_cache_lock`, `proxy_cache_min_uses`.

use std::io;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU64, fence};

use super::leaky_bucket::{init_header, keyed_hash};
use super::named;
use crate::sys::random;

mod words;

use words::{ErrorWord, FileWord, LockWord, OWNER_MASK, UseWord};

pub mod survey;

/// The MD5 of a key.
pub type Digest = [u8; 16];

const WAYS: usize = 8;
/// The words of a way beside the first half of its digest.
const WAY_WORDS: usize = 5;
const BUCKET_WORDS: usize = WAYS * (1 + WAY_WORDS);
const GROUP_BUCKETS: usize = 8;
const GROUP_WORDS: usize = GROUP_BUCKETS * BUCKET_WORDS;
const TALLY_WORDS: usize = 4;
const HEADER_WORDS: usize = 16;
/// The word of the header that says that the files on disk are in the table.
const LOADED: usize = 3;
/// The process that loads and manages the files: a word like that of a lock, with a process id.
const LEAD: usize = 4;
/// "pronghor" and the version of this layout.
const MAGIC: u64 = 0x7072_6f6e_6768_6f72 ^ 0x0106;

/// The number of times that other processes may be quicker to change the words of a key.
const ATTEMPTS: usize = 16;
/// A lock that was not renewed for so long no longer protects its key from giving way.
pub const LOCK_MS_MAX: u64 = 60_000;

/// A table of the keys of one cache.
///
/// The master opens it while it compiles a configuration; workers count uses and files, the manager loads it and
/// removes what is old. Nothing fails: a full table forgets a key, and says which file is to be removed with it.
#[derive(Clone, Copy)]
pub struct Index {
    words: &'static [AtomicU64],
    groups: usize,
}

/// Whether a key has a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    Yes,
    No,
    /// The files on disk are still being loaded: there may be one.
    Unknown,
}

/// What is known of a key at one use of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// Including this one; at most 1023.
    pub uses: u32,
    pub file: Presence,
    /// Bytes on disk, if it is known that there is a file.
    pub bytes: Option<u64>,
    /// The status of an error that is still valid.
    pub error: Option<u16>,
    /// The key that had to give way, and had a file: the caller removes that.
    pub evicted: Option<Digest>,
}

/// The right to fetch or to update a key, until it is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    digest: Digest,
    owner: u64,
}

/// The number of keys with files, and the bytes that they take on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    pub files: u64,
    pub bytes: u64,
}

/// A digest in two halves, and its hash in this table. No first half is 0, which is a free way: keys whose digest
/// begins with 0 and with 1 share a place, one in 2^64.
#[derive(Clone, Copy)]
struct Key {
    halves: [u64; 2],
    hash: u64,
}

/// A place for a key.
#[derive(Clone, Copy)]
struct Way {
    first: &'static AtomicU64,
    /// The second half of the digest, and the words of the key.
    rest: &'static [AtomicU64],
    /// Those of its group.
    tally: &'static [AtomicU64],
}

/// The ways of a bucket.
type Bucket = [Way; WAYS];

impl Key {
    fn tag(self) -> u64 {
        words::tag(self.halves[1])
    }
}

impl Way {
    fn second(&self) -> &'static AtomicU64 {
        &self.rest[0]
    }

    fn used(&self) -> &'static AtomicU64 {
        &self.rest[1]
    }

    fn file(&self) -> &'static AtomicU64 {
        &self.rest[2]
    }

    fn error(&self) -> &'static AtomicU64 {
        &self.rest[3]
    }

    fn lock(&self) -> &'static AtomicU64 {
        &self.rest[4]
    }

    fn halves(&self) -> [u64; 2] {
        [self.first.load(Acquire), self.second().load(Relaxed)]
    }

    fn is(&self, key: Key) -> bool {
        self.halves() == key.halves
    }

    fn is_same(&self, other: &Self) -> bool {
        std::ptr::eq(self.first, other.first)
    }

    /// Exchanges the word of the file and adjusts the tally. False: another process was quicker.
    fn replace_file(&self, before: FileWord, new: FileWord) -> bool {
        let [_, files, blocks, changes] = [0, 1, 2, 3].map(|word| &self.tally[word]);
        // First, so that whoever sums up sees that something may be on its way.
        changes.fetch_add(1, Relaxed);
        if self.file().compare_exchange(before.0, new.0, Release, Relaxed).is_err() {
            return false;
        }
        files.fetch_add(u64::from(new.is_present()).wrapping_sub(before.is_present().into()), Relaxed);
        blocks.fetch_add(new.blocks().wrapping_sub(before.blocks()), Relaxed);
        true
    }

    /// Notes a use as of now and returns how often the key was used; `count`: it is one more.
    fn note_use(&self, key: Key, now_s: u64, count: bool) -> u32 {
        for _ in 0..ATTEMPTS {
            let before = UseWord(self.used().load(Relaxed));
            let uses = before.uses(key.tag()) + u64::from(count);
            let new = UseWord::new(now_s, uses, key.tag());
            // An equal word is not written: workers that serve one key need not fetch its line from each other.
            if before == new || self.used().compare_exchange(before.0, new.0, Relaxed, Relaxed).is_ok() {
                return new.uses(key.tag()) as u32;
            }
        }
        1
    }
}

impl Index {
    /// Opens the table in the zone of this name, which is created if there is none. For the master.
    pub fn open(name: u64, bytes: usize) -> io::Result<Self> {
        Self::of(named::zone(name, bytes)?.words())
    }

    /// Errors: there is no room for a group.
    fn of(words: &'static [AtomicU64]) -> io::Result<Self> {
        let groups = words.len().saturating_sub(HEADER_WORDS) / (TALLY_WORDS + GROUP_WORDS);
        if groups == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a table of keys needs a page"));
        }
        init_header(words, MAGIC);
        Ok(Self { words, groups })
    }

    /// The number of keys that it can hold.
    pub fn capacity(&self) -> usize {
        self.groups * GROUP_BUCKETS * WAYS
    }

    /// True once all files that were on disk at the start are in the table.
    pub fn is_loaded(&self) -> bool {
        self.words[LOADED].load(Acquire) != 0
    }

    pub fn set_loaded(&self) {
        self.words[LOADED].store(1, Release);
    }

    /// Takes the lead for a process, or renews it: of all that share this table, in several generations or binaries, only
    /// that one removes files. It keeps the lead for `age_ms` after each call, as long as it lives.
    pub fn lead(&self, pid: u32, now_ms: u64, age_ms: u64, is_alive: impl Fn(u32) -> bool) -> bool {
        let owner = u64::from(pid) & OWNER_MASK;
        let before = LockWord(self.words[LEAD].load(Relaxed));
        let other = before.owner() as u32;
        if before.owner() != owner && before.is_held(now_ms, age_ms) && is_alive(other) {
            return false;
        }
        let new = LockWord::new(now_ms, owner);
        self.words[LEAD].compare_exchange(before.0, new.0, Relaxed, Relaxed).is_ok()
    }

    /// The sum of all files. Reads a word or two of each group.
    pub fn size(&self) -> Size {
        let mut size = Size::default();
        for group in 0..self.groups {
            let tally = self.tally(group);
            if tally[0].load(Relaxed) == 0 {
                continue;
            }
            // A group that was never full cannot have a negative number of files, but one that a process died in can.
            let count = |word: usize| tally[word].load(Relaxed).cast_signed().max(0).cast_unsigned();
            size.files = size.files.saturating_add(count(1));
            size.bytes = size.bytes.saturating_add(count(2).saturating_mul(words::BLOCK_BYTES));
        }
        size
    }

    /// Counts a use of a key, for which it makes a place.
    pub fn touch(&self, digest: &Digest, now_s: u64) -> Use {
        let key = self.key(digest);
        let (way, evicted) = self.place(key, now_s);
        let Some(way) = way else {
            // Only if others change the same words all the time.
            return Use { uses: 1, file: Presence::Unknown, bytes: None, error: None, evicted };
        };
        let uses = way.note_use(key, now_s, true);
        let file = FileWord(way.file().load(Acquire));
        let is_present = file.is_of(key.tag());
        let file_is = match is_present {
            true => Presence::Yes,
            false if self.is_loaded() => Presence::No,
            false => Presence::Unknown,
        };
        let error = ErrorWord(way.error().load(Relaxed)).status(key.tag(), now_s);
        Use { uses, file: file_is, bytes: is_present.then(|| file.bytes()), error, evicted }
    }

    /// Takes the right to fetch or to update a key; `None`: another request has it, and has renewed it within
    /// `age_ms`. A key that has no place in the table is free.
    pub fn lock(&self, digest: &Digest, now_ms: u64, age_ms: u64) -> Option<Ticket> {
        let key = self.key(digest);
        let owner = (random::number() & OWNER_MASK).max(1);
        let ticket = Ticket { digest: *digest, owner };
        let Some(way) = self.own(key) else { return Some(ticket) };
        let before = LockWord(way.lock().load(Relaxed));
        if before.is_held(now_ms, age_ms) {
            return None;
        }
        let new = LockWord::new(now_ms, owner);
        way.lock().compare_exchange(before.0, new.0, Relaxed, Relaxed).is_ok().then_some(ticket)
    }

    pub fn is_locked(&self, digest: &Digest, now_ms: u64, age_ms: u64) -> bool {
        let way = self.own(self.key(digest));
        way.is_some_and(|way| LockWord(way.lock().load(Relaxed)).is_held(now_ms, age_ms))
    }

    /// Says that the holder of a ticket is still at work.
    pub fn renew(&self, ticket: &Ticket, now_ms: u64) {
        self.replace_lock(ticket, LockWord::new(now_ms, ticket.owner));
    }

    /// Gives a ticket back. Nothing happens if another request has taken the lock over.
    pub fn release(&self, ticket: &Ticket) {
        self.replace_lock(ticket, LockWord(0));
    }

    fn replace_lock(&self, ticket: &Ticket, new: LockWord) {
        let Some(way) = self.own(self.key(&ticket.digest)) else { return };
        let before = LockWord(way.lock().load(Relaxed));
        if before.owner() == ticket.owner {
            let _ = way.lock().compare_exchange(before.0, new.0, Relaxed, Relaxed);
        }
    }

    /// A complete file has got its name; `bytes` are those on disk. Returns the key that had to give way and
    /// had a file, which the caller removes.
    pub fn stored(&self, digest: &Digest, bytes: u64, now_s: u64) -> Option<Digest> {
        self.put_file(digest, bytes, now_s, true)
    }

    /// A file was found on disk. The same, but nothing changes if the table has a file of this key: it may be newer.
    pub fn found(&self, digest: &Digest, bytes: u64, now_s: u64) -> Option<Digest> {
        self.put_file(digest, bytes, now_s, false)
    }

    fn put_file(&self, digest: &Digest, bytes: u64, now_s: u64, is_new: bool) -> Option<Digest> {
        let key = self.key(digest);
        let mut evicted = None;
        for _ in 0..ATTEMPTS {
            let (way, gave_way) = self.place(key, now_s);
            evicted = evicted.or(gave_way);
            let Some(way) = way else { break };
            let before = FileWord(way.file().load(Relaxed));
            if !is_new && before.is_of(key.tag()) {
                break;
            }
            let new = before.next(bytes, key.tag());
            if !way.replace_file(before, new) {
                continue;
            }
            if way.is(key) {
                way.note_use(key, now_s, false);
                let error = ErrorWord(way.error().load(Relaxed));
                if !error.is_invalidation(key.tag()) {
                    let _ = way.error().compare_exchange(error.0, 0, Relaxed, Relaxed);
                }
                break;
            }
            // The place was taken meanwhile: the file is not that of the key there now.
            let _ = way.replace_file(new, FileWord(0));
            if gave_way.is_some() {
                break;
            }
        }
        evicted
    }

    /// The response of a key is this error, without a file, for so many seconds. A place is not made for it.
    pub fn failed(&self, digest: &Digest, status: u16, now_s: u64, valid_s: u64) {
        let (key, until_s) = (self.key(digest), now_s.saturating_add(valid_s));
        if let Some(way) = self.own(key) {
            way.error().store(ErrorWord::new(until_s, status, key.tag()).0, Relaxed);
        }
    }

    /// The file of a key is gone, or cannot be used.
    pub fn forget(&self, digest: &Digest) {
        let Some(way) = self.own(self.key(digest)) else { return };
        for _ in 0..ATTEMPTS {
            let before = FileWord(way.file().load(Relaxed));
            if !before.is_present() || way.replace_file(before, before.gone()) {
                return;
            }
        }
    }

    /// Says that the stored response of a key is out of date, and so is a response that a request is still waiting for
    /// ([`Index::was_invalidated`]): forgets the file, which the caller then removes, and the error. True if there was an
    /// error.
    pub fn invalidate(&self, digest: &Digest, now_ms: u64) -> bool {
        let key = self.key(digest);
        let Some(way) = self.own(key) else { return false };
        // Before the file is removed: the one that is stored afterwards is removed by its own request.
        let invalidation = ErrorWord::invalidation(now_ms, key.tag());
        let before = ErrorWord(way.error().swap(invalidation.0, Release));
        self.forget(digest);
        before.status(key.tag(), now_ms / 1000).is_some()
    }

    /// True if a key was invalidated after `since_ms`. `now_ms` must not be earlier than that.
    pub fn was_invalidated(&self, digest: &Digest, since_ms: u64, now_ms: u64) -> bool {
        let key = self.key(digest);
        let age_ms = self
            .own(key)
            .and_then(|way| ErrorWord(way.error().load(Acquire)).invalidated_ago_ms(key.tag(), now_ms));
        age_ms.is_some_and(|age_ms| age_ms < now_ms.saturating_sub(since_ms))
    }

    /// The way of a key, made if there is none, and the key with a file that gave way for it.
    fn place(&self, key: Key, now_s: u64) -> (Option<Way>, Option<Digest>) {
        let mut gave_way = None;
        for _ in 0..ATTEMPTS {
            if let Some(way) = self.own(key) {
                return (Some(way), gave_way);
            }
            let Some(victim) = self.victim(key, now_s) else { continue };
            let [first, second] = victim.halves();
            // Whoever exchanges this word has the way for itself: its halves fit no key before the second one is set.
            if victim.first.compare_exchange(first, key.halves[0], Release, Relaxed).is_err() {
                continue;
            }
            victim.tally[0].store(1, Relaxed);
            let before = FileWord(victim.file().load(Relaxed));
            let had_file = before.is_present() && victim.replace_file(before, before.gone());
            gave_way = gave_way.or((had_file && first != 0).then(|| digest_of([first, second])));
            for word in [victim.used(), victim.error(), victim.lock()] {
                word.store(0, Relaxed);
            }
            if victim.second().compare_exchange(second, key.halves[1], Release, Relaxed).is_err() {
                return (None, gave_way);
            }
            // Two processes may take a way for one key at the same time. A process that sees the other one's way gives up
            // its own: at least one of them does, wherever the two ways are.
            fence(SeqCst);
            let is_other = |way: &Way| way.is(key) && !way.is_same(&victim);
            if !self.buckets(key).iter().flatten().any(is_other) {
                return (Some(victim), gave_way);
            }
            let _ = victim.first.compare_exchange(key.halves[0], 0, Release, Relaxed);
        }
        (None, gave_way)
    }

    fn own(&self, key: Key) -> Option<Way> {
        self.buckets(key).into_iter().flatten().find(|way| way.is(key))
    }

    /// The way for a new key: a free one of the emptier bucket, or the one that is missed the least.
    fn victim(&self, key: Key, now_s: u64) -> Option<Way> {
        let mut best: Option<((usize, u64), Way)> = None;
        for bucket in self.buckets(key) {
            let free = bucket.iter().filter(|way| way.first.load(Relaxed) == 0).count();
            for way in bucket {
                let worth = match way.first.load(Relaxed) {
                    0 => (3, free as u64),
                    _ => words::worth(&way, now_s),
                };
                if best.is_none_or(|(known, _)| worth > known) {
                    best = Some((worth, way));
                }
            }
        }
        best.map(|(_, way)| way)
    }

    fn key(&self, digest: &Digest) -> Key {
        let [first, second] = halves_of(digest);
        Key { halves: [first.max(1), second], hash: keyed_hash(self.words, digest) }
    }

    /// The two buckets of a key.
    fn buckets(&self, key: Key) -> [Bucket; 2] {
        let count = self.groups * GROUP_BUCKETS;
        // Independent of each other, as far as the parts of a good hash are.
        [key.hash >> 32, key.hash & 0xffff_ffff].map(|number| self.bucket(number as usize % count))
    }

    fn bucket(&self, number: usize) -> Bucket {
        let tally = self.tally(number / GROUP_BUCKETS);
        let start = HEADER_WORDS + self.groups * TALLY_WORDS + number * BUCKET_WORDS;
        let words = &self.words[start..start + BUCKET_WORDS];
        std::array::from_fn(|way| {
            let at = WAYS + way * WAY_WORDS;
            Way { first: &words[way], rest: &words[at..at + WAY_WORDS], tally }
        })
    }

    fn tally(&self, group: usize) -> &'static [AtomicU64] {
        let at = HEADER_WORDS + group * TALLY_WORDS;
        &self.words[at..at + TALLY_WORDS]
    }
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Index({})", self.capacity())
    }
}

fn halves_of(digest: &Digest) -> [u64; 2] {
    let number = u128::from_be_bytes(*digest);
    [(number >> 64) as u64, number as u64]
}

fn digest_of([first, second]: [u64; 2]) -> Digest {
    (u128::from(first) << 64 | u128::from(second)).to_be_bytes()
}

#[cfg(test)]
mod tests;
