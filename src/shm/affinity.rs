//! The upstream peer to which each key is bound (`sticky learn`, `sticky source`), in a table of fixed size
//! that all workers share.
//!
//! ```text
//! header: magic, 2 words of a secret | buckets of 8 ways: key, state
//! state: tick of the last use: 30 bits | mark of the peer, xor the key: 34 bits; 0: not bound
//! ```
//! A key is known by a 64-bit hash seeded with the secret, so that clients cannot choose keys that collide.
//! It has a place in one of two buckets, the emptier one, so that the table forgets no key before it is two
//! thirds full; then the key of the two buckets whose last use is the longest ago gives way. A tick is 64 ms of
//! the monotonic clock. Each change is one exchange of a word. A process that dies between the two words of a
//! place leaves a key that is not bound, and a state read under the wrong key has the mark of no peer.
//!
//! **Any worker may write anything here.** What is read is compared with the marks of a group's peers, so it
//! selects one of them or none. A time that lies ahead counts as now, or, beyond what clocks of two workers can
//! differ, as over.
//! Behaviour: nginx.org, `sticky` of ngx_http_upstream_module, where a key is bound in the same way.

use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::area::fingerprint;
use super::leaky_bucket::{Key, init_header, keyed_hash};
use super::named;

/// The kind byte of the names of peers in their marks.
const KIND: u8 = 253;
const WAYS: usize = 8;
const WAY_WORDS: usize = 2;
const BUCKET_WORDS: usize = WAYS * WAY_WORDS;
/// The header takes the place of one bucket.
const HEADER_WORDS: usize = BUCKET_WORDS;
/// "pronghor" and the version of this layout.
const MAGIC: u64 = 0x7072_6f6e_6768_6f72 ^ 0x0105;

const MARK_BITS: u32 = 34;
const MARK_MASK: u64 = (1 << MARK_BITS) - 1;
const TICK_MASK: u64 = (1 << (64 - MARK_BITS)) - 1;
const TICK_MS: u64 = 64;
/// Longer times since the last use cannot be told from times that lie ahead: 397 days.
const AGE_TICKS_MAX: u64 = TICK_MASK / 2;
/// How far another worker's clock, which it reads once a turn, may be ahead of ours: a minute.
const AHEAD_TICKS_MAX: u64 = 60_000 / TICK_MS;
/// The number of times that other workers may be quicker to change the words of a key.
const ATTEMPTS: usize = 16;

/// Stands for a peer in the table: 34 bits that depend on its name only, so that a reload, an upgrade and any
/// other worker have the same. Two peers of one group have the same mark once in billions of pairs; clients
/// bound to the second then go to the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(u64);

impl Mark {
    pub fn of(name: &[u8]) -> Self {
        Self(fingerprint(KIND, name) & MARK_MASK)
    }
}

/// A table of keys and the peer that each is bound to.
///
/// The master opens it while it compiles a configuration; workers look keys up and bind them. Nothing fails: a
/// full table forgets the oldest of the keys that a new one could replace. A key is forgotten `timeout_ms`
/// after its last use, or up to two ticks later; as the times are compared by the reader, a reload changes the
/// timeout for keys that are bound already.
#[derive(Clone, Copy)]
pub struct Table {
    words: &'static [AtomicU64],
}

/// A place of a key: the key and its state.
type Way = &'static [AtomicU64];

/// A place, and the words that were read there.
#[derive(Clone, Copy)]
struct Place {
    way: Way,
    owner: u64,
    state: u64,
}

impl Table {
    /// Opens the table in the zone of this name, which is created if there is none. For the master.
    pub fn open(name: u64, bytes: usize) -> io::Result<Self> {
        Self::of(named::zone(name, bytes)?.words())
    }

    /// Errors: there is no room for a bucket.
    fn of(words: &'static [AtomicU64]) -> io::Result<Self> {
        if words.len() < HEADER_WORDS + BUCKET_WORDS {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a table of keys needs a page"));
        }
        init_header(words, MAGIC);
        Ok(Self { words })
    }

    /// The number of keys that it can hold.
    pub fn capacity(&self) -> usize {
        self.bucket_count() * WAYS
    }

    pub fn key(&self, bytes: &[u8]) -> Key {
        Key(keyed_hash(self.words, bytes))
    }

    /// The peer that a key is bound to; `None`: to none, or its time is over.
    pub fn get(&self, key: Key, timeout_ms: u64, now_ms: u64) -> Option<Mark> {
        let state = self.own(key)?[1].load(Relaxed);
        let is_over = is_over(state, timeout_ms, tick(now_ms));
        (!is_over).then_some(Mark((state ^ key.0) & MARK_MASK))
    }

    /// Binds a key to a peer as of now. True if another key, whose time was not over, had to give way.
    pub fn put(&self, key: Key, mark: Mark, timeout_ms: u64, now_ms: u64) -> bool {
        let now = tick(now_ms);
        let new = state(key, mark, now);
        for _ in 0..ATTEMPTS {
            if let Some(way) = self.own(key) {
                if replace(way, way[1].load(Relaxed), new) {
                    return false;
                }
                continue;
            }
            let Some(Place { way, owner, state: before }) = self.place(key, timeout_ms, now) else {
                continue;
            };
            let is_live = owner != 0 && !is_over(before, timeout_ms, now);
            // Unbind the old key first, so that the new one never has its state.
            if !replace(way, before, 0) || way[0].compare_exchange(owner, key.0, Release, Relaxed).is_err() {
                continue;
            }
            // If two workers took a place for one key at the same time, both use the first of them.
            if self.own(key).is_some_and(|first| !std::ptr::eq(first, way)) {
                let _ = way[0].compare_exchange(key.0, 0, Release, Relaxed);
                continue;
            }
            for other in self.ways(key).filter(|other| !std::ptr::eq(*other, way)) {
                let _ = other[0].compare_exchange(key.0, 0, Release, Relaxed);
            }
            way[1].store(new, Relaxed);
            return is_live;
        }
        false
    }

    /// Binds a key to a peer as of now if it is bound to some peer already. False if not.
    pub fn renew(&self, key: Key, mark: Mark, timeout_ms: u64, now_ms: u64) -> bool {
        let now = tick(now_ms);
        for _ in 0..ATTEMPTS {
            let Some(way) = self.own(key) else { return false };
            let before = way[1].load(Relaxed);
            if is_over(before, timeout_ms, now) {
                return false;
            }
            if replace(way, before, state(key, mark, now)) {
                return true;
            }
        }
        false
    }

    fn own(&self, key: Key) -> Option<Way> {
        self.ways(key).find(|way| way[0].load(Acquire) == key.0)
    }

    fn ways(&self, key: Key) -> impl Iterator<Item = Way> + use<> {
        self.buckets(key).into_iter().flatten()
    }

    /// The place for a new key. Free places come first, those of the emptier bucket
    /// before others; if there are none, the one whose last use is the longest ago.
    fn place(&self, key: Key, timeout_ms: u64, now: u64) -> Option<Place> {
        let mut best: Option<((usize, u64), Place)> = None;
        for bucket in self.buckets(key) {
            let places: [_; WAYS] = bucket.map(|way| {
                let (owner, state) = (way[0].load(Acquire), way[1].load(Relaxed));
                Place { way, owner, state }
            });
            let is_free = |place: &Place| place.owner == 0 || is_over(place.state, timeout_ms, now);
            let free = places.iter().filter(|place| is_free(place)).count();
            for place in places {
                let age = || age(place.state, now).unwrap_or(0);
                let worth = if is_free(&place) { (free, 0) } else { (0, age()) };
                if best.is_none_or(|(known, _)| worth > known) {
                    best = Some((worth, place));
                }
            }
        }
        best.map(|(_, place)| place)
    }

    /// The two buckets of a key.
    fn buckets(&self, key: Key) -> [[Way; WAYS]; 2] {
        // Independent of each other, as far as the parts of a good hash are.
        [key.0 >> 32, key.0 & 0xffff_ffff].map(|number| {
            let start = HEADER_WORDS + number as usize % self.bucket_count() * BUCKET_WORDS;
            std::array::from_fn(|way| {
                let at = start + way * WAY_WORDS;
                &self.words[at..at + WAY_WORDS]
            })
        })
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

fn tick(now_ms: u64) -> u64 {
    (now_ms / TICK_MS) & TICK_MASK
}

fn state(key: Key, mark: Mark, now: u64) -> u64 {
    now.max(1) << MARK_BITS | ((mark.0 ^ key.0) & MARK_MASK)
}

/// Ticks since the last use; `None`: the key is not bound, or the time lies ahead by more than clocks differ.
fn age(state: u64, now: u64) -> Option<u64> {
    let last = state >> MARK_BITS;
    let passed = now.wrapping_sub(last) & TICK_MASK;
    let is_ahead = (last.wrapping_sub(now) & TICK_MASK) <= AHEAD_TICKS_MAX;
    if is_ahead { Some(0) } else { Some(passed).filter(|passed| *passed <= AGE_TICKS_MAX) }
        .filter(|_| state != 0)
}

fn is_over(state: u64, timeout_ms: u64, now: u64) -> bool {
    // The last use was somewhere in its tick: not a moment too early.
    age(state, now).is_none_or(|passed| passed > timeout_ms.div_ceil(TICK_MS).min(AGE_TICKS_MAX))
}

/// Changes the state of a place unless another worker has. An equal state is not written: workers that renew
/// one key need not fetch its line from each other.
fn replace(way: Way, before: u64, new: u64) -> bool {
    before == new || way[1].compare_exchange(before, new, Relaxed, Relaxed).is_ok()
}

#[cfg(test)]
mod tests {
    use super::super::zone::Zone;
    use super::*;

    const MINUTE_MS: u64 = 60_000;

    fn table(bytes: usize) -> Table {
        Table::of(Zone::map(bytes).expect("maps").words()).expect("a page")
    }

    fn mark(name: &str) -> Mark {
        Mark::of(name.as_bytes())
    }

    fn numbered(table: &Table, number: usize) -> Key {
        table.key(&number.to_le_bytes())
    }

    #[test]
    fn a_key_is_bound_until_its_time_is_over() {
        let table = table(32 * 1024);
        let (key, other) = (table.key(b"a"), table.key(b"b"));
        assert!(!table.put(key, mark("one"), 2000, 1000));
        assert_eq!(table.get(key, 2000, 1000), Some(mark("one")));
        assert_eq!(table.get(other, 2000, 1000), None);
        assert_eq!(table.get(key, 2000, 3000), Some(mark("one")), "not a moment too early");
        assert_eq!(table.get(key, 2000, 3000 + 2 * TICK_MS), None);
        assert_eq!(table.get(key, 500, 2000), None, "a shorter timeout counts at once");
        assert!(!table.put(key, mark("two"), 2000, 2000));
        assert_eq!(table.get(key, 2000, 3500), Some(mark("two")));
    }

    #[test]
    fn only_a_bound_key_is_renewed() {
        let table = table(32 * 1024);
        let key = table.key(b"a");
        assert!(!table.renew(key, mark("one"), 2000, 1000));
        assert_eq!(table.get(key, 2000, 1000), None);
        table.put(key, mark("one"), 2000, 1000);
        assert!(table.renew(key, mark("one"), 2000, 2500));
        assert_eq!(table.get(key, 2000, 4000), Some(mark("one")));
        assert!(table.renew(key, mark("two"), 2000, 4000), "to the peer that serves it now");
        assert_eq!(table.get(key, 2000, 4000), Some(mark("two")));
        assert!(!table.renew(key, mark("one"), 2000, 9000), "its time is over");
    }

    #[test]
    fn no_key_is_forgotten_before_the_table_is_two_thirds_full() {
        let table = table(64 * 1024);
        let count = table.capacity() * 7 / 10;
        for number in 0..count {
            assert!(
                !table.put(numbered(&table, number), mark("one"), MINUTE_MS, 1000),
                "{number} of {count}"
            );
        }
        assert!((0..count).all(|number| table.get(numbered(&table, number), MINUTE_MS, 1000).is_some()));
    }

    #[test]
    fn a_full_table_says_so_and_forgets_the_oldest() {
        let table = table(32 * 1024);
        let count = table.capacity() * 20;
        let mut evicted = 0;
        for number in 0..count {
            let now_ms = 1000 + number as u64 * TICK_MS;
            evicted += usize::from(table.put(numbered(&table, number), mark("one"), u64::MAX, now_ms));
        }
        let now_ms = 1000 + count as u64 * TICK_MS;
        let is_known = |number: &usize| table.get(numbered(&table, *number), u64::MAX, now_ms).is_some();
        let known = (0..count).filter(is_known).count();
        assert_eq!((known, evicted), (table.capacity(), count - table.capacity()));
        let latest = (count - table.capacity() / 2..count).filter(is_known).count();
        assert!(latest > table.capacity() * 2 / 5, "{latest} of the last {}", table.capacity() / 2);
        // Those whose time is over make room without a word.
        let later_ms = now_ms + 3600 * 1000;
        for number in count..count + table.capacity() / 2 {
            assert!(!table.put(numbered(&table, number), mark("one"), MINUTE_MS, later_ms));
        }
    }

    #[test]
    fn a_time_ahead_counts_as_now_or_as_over() {
        let table = table(32 * 1024);
        let key = table.key(b"a");
        table.put(key, mark("one"), 1000, 50_000);
        assert_eq!(table.get(key, 1000, 40_000), Some(mark("one")), "another worker's clock");
        for ahead_ms in [MINUTE_MS * 3, 1 << 33, 1 << 35] {
            table.put(key, mark("one"), 1000, 50_000 + ahead_ms);
            assert_eq!(table.get(key, 1000, 50_000), None, "{ahead_ms}");
            assert!(!table.put(key, mark("two"), 1000, 50_000));
            assert_eq!(table.get(key, 1000, 50_000), Some(mark("two")));
        }
        // A worker that fills the table with such times does not keep the others from using it.
        for word in &table.words[HEADER_WORDS..] {
            word.store(state(Key(5000), mark("one"), tick(MINUTE_MS * 10)), Relaxed);
        }
        assert!(!table.put(key, mark("one"), 1000, 1000));
        assert_eq!(table.get(key, 1000, 1000), Some(mark("one")));
    }

    #[test]
    fn a_state_under_the_key_of_another_has_the_mark_of_no_peer() {
        let table = table(32 * 1024);
        let (key, other) = (table.key(b"a"), table.key(b"b"));
        table.put(key, mark("one"), 1000, 1000);
        // A writer died between the two words of the place.
        let way = table.own(key).expect("bound");
        let taken = table.buckets(other)[0][3];
        taken[0].store(other.0, Relaxed);
        taken[1].store(way[1].load(Relaxed), Relaxed);
        assert_ne!(table.get(other, 1000, 1000), Some(mark("one")));
        assert!(!table.put(other, mark("two"), 1000, 1000));
        assert_eq!(table.get(other, 1000, 1000), Some(mark("two")));
    }

    #[test]
    fn whatever_a_hostile_worker_writes_the_table_goes_on() {
        let table = table(1);
        let mut seed = 1_u64;
        let mut random = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            seed.rotate_right(11)
        };
        for round in 0..2000_u64 {
            let now_ms = round * 97;
            for _ in 0..20 {
                let (index, word) = (random() as usize % table.words.len(), random());
                table.words[index].store(if word % 5 == 0 { u64::MAX } else { word }, Relaxed);
            }
            let key = numbered(&table, round as usize % 50);
            let _ = table.get(key, 1000, now_ms);
            let _ = table.renew(key, mark("one"), 1000, now_ms);
            let _ = table.put(key, mark("one"), 1000, now_ms);
            assert_eq!(table.get(key, 1000, now_ms), Some(mark("one")), "{round}");
        }
    }

    #[test]
    fn the_next_binary_finds_what_the_last_one_bound() {
        let zone = Zone::map(32 * 1024).expect("maps");
        let old = Table::of(zone.words()).expect("a page");
        old.put(old.key(b"a"), mark("one"), 1000, 1000);
        let adopted = Zone::adopt(zone.as_fd().try_clone_to_owned().expect("dup")).expect("adopts");
        let new = Table::of(adopted.words()).expect("a page");
        assert_eq!(new.get(new.key(b"a"), 1000, 1000), Some(mark("one")));
        assert!(Table::of(&zone.words()[..HEADER_WORDS]).is_err());
    }

    #[test]
    fn threads_that_bind_the_same_keys_agree() {
        let table = table(256 * 1024);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || {
                    let own = mark(&format!("peer {thread}"));
                    for round in 0..2000 {
                        let key = numbered(&table, round % 100);
                        table.put(key, own, 1000, 1000);
                    }
                });
            }
        });
        let marks: Vec<Mark> = (0..4).map(|thread| mark(&format!("peer {thread}"))).collect();
        for number in 0..100 {
            let found = table.get(numbered(&table, number), 1000, 1000);
            assert!(found.is_some_and(|found| marks.contains(&found)), "{number}");
        }
        let places = table.words[HEADER_WORDS..].chunks(WAY_WORDS);
        assert_eq!(places.filter(|way| way[0].load(Relaxed) != 0).count(), 100, "each key has one place");
    }
}
