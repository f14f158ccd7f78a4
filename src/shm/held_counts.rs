//! The number held by each key (`limit_conn`), counted per worker, so that the share of a dead worker can be
//! removed.
//!
//! ```text
//! header: magic, 2 words of a secret, capacity | fingerprints: capacity | counts: LANES rows of capacity × u32
//! ```
//! A key's count is the sum of its column. A place whose column is 0 is free for another key. A worker that
//! takes it writes the place into its lane and its lane's number into the place, checks the column again, and
//! then writes the fingerprint; a worker that counts checks the fingerprint again afterwards. A lane's number
//! in a place is valid only while that lane names the place, so a place left behind by a dead or hostile
//! worker is free again. The rows of lanes that were never used cost no memory.
//! Behaviour: nginx.org, ngx_http_limit_conn_module.

use std::io;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Mutex, PoisonError};

use super::area::{LANES, area};
use super::lanes::{self, CLAIM, Lane};
use super::leaky_bucket::{Key, init_header, keyed_hash};
use super::zone::Zone;

const MAGIC: u64 = 0x7072_6f6e_6768_6f72 ^ 0x0103;
/// The largest page size of the machines we build for.
const PAGE_WORDS: usize = 8192;
const CAPACITY_WORD: usize = 3;
/// nginx documents 16 thousand states for a zone of 1m.
const BYTES_A_KEY: usize = 64;
/// Maximum number of places tried for one key.
const PROBES: usize = 32;

/// A table of keys and the number that each holds.
///
/// The master opens it while it compiles a configuration; workers call [`Holders::hold`], and the guard that
/// it returns gives the count back. What a dead worker held is given back when its lane is.
#[derive(Clone, Copy)]
pub struct Holders {
    zone: &'static Zone,
    capacity: usize,
}

/// Counts one for its key until it is dropped.
#[derive(Debug)]
pub struct Held {
    count: &'static AtomicU32,
}

/// The reasons why a key may hold no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It holds as many as it may already.
    Limit,
    /// All the places where it could be counted belong to other keys.
    Full,
}

/// The tables to clean up when a worker dies. Their capacities are kept here: the one in a zone's header is
/// only informative, since any worker can write it.
static WATCHED: Mutex<Vec<Holders>> = Mutex::new(Vec::new());

impl Holders {
    /// Opens the table in the zone of this name, which is created if there is none. For the master.
    pub fn open(name: u64, bytes: usize) -> io::Result<Self> {
        let capacity = (bytes / BYTES_A_KEY).max(PROBES);
        let words = PAGE_WORDS + capacity.next_multiple_of(PAGE_WORDS) + LANES * row_words(capacity);
        let zone = super::named::zone(name, words * size_of::<u64>())?;
        zone.words()[CAPACITY_WORD].store(capacity as u64, Relaxed);
        init_header(zone.words(), MAGIC);
        let table = Self { zone, capacity };
        table.watch();
        Ok(table)
    }

    /// Lists the table among those that are cleaned up when a worker dies.
    fn watch(self) {
        let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
        match watched.iter_mut().find(|other| std::ptr::eq(other.zone, self.zone)) {
            Some(other) => *other = self,
            None => watched.push(self),
        }
    }

    pub fn key(&self, bytes: &[u8]) -> Key {
        Key(keyed_hash(self.zone.words(), bytes))
    }

    /// Counts one more for a key that may hold up to `max` in all workers together.
    pub fn hold(&self, key: Key, max: u32) -> Result<Held, Refused> {
        let lane = lanes::mine().number();
        // Another worker may take the place away at this moment, and yet another the next one.
        for _ in 0..PROBES {
            let place = self.place(key, lane).ok_or(Refused::Full)?;
            let count = self.count(lane, place);
            count.fetch_add(1, SeqCst);
            if self.fingerprint(place).load(SeqCst) != key.0 {
                count.fetch_sub(1, SeqCst);
                continue;
            }
            let held = Held { count };
            return if self.sum(place) > max { Err(Refused::Limit) } else { Ok(held) };
        }
        Err(Refused::Full)
    }

    /// Finds the place of a key, or takes one for it.
    fn place(&self, key: Key, lane: usize) -> Option<usize> {
        let places = || self.places(key);
        if let Some(place) = places().find(|place| self.fingerprint(*place).load(SeqCst) == key.0) {
            return Some(place);
        }
        for place in places() {
            let fingerprint = self.fingerprint(place);
            let before = fingerprint.load(SeqCst);
            if !is_free(before, place) || self.sum(place) > 0 {
                continue;
            }
            let _claiming = Claiming::begin(lane, place);
            let claim = lane as u64 + 1;
            if fingerprint.compare_exchange(before, claim, SeqCst, SeqCst).is_err() {
                continue;
            }
            if self.sum(place) > 0 {
                fingerprint.store(before, SeqCst); // another worker was quicker
                continue;
            }
            fingerprint.store(key.0, SeqCst);
            // If two workers took a place for one key at the same time, both use the first of them.
            let first = places().find(|place| self.fingerprint(*place).load(SeqCst) == key.0);
            return first.or(Some(place));
        }
        None
    }

    fn places(&self, key: Key) -> impl Iterator<Item = usize> + use<> {
        let (start, capacity) = ((key.0 >> 32) as usize, self.capacity);
        (0..PROBES).map(move |probe| start.wrapping_add(probe) % capacity)
    }

    fn fingerprint(&self, place: usize) -> &'static AtomicU64 {
        &self.zone.words()[PAGE_WORDS + place]
    }

    fn count(&self, lane: usize, place: usize) -> &'static AtomicU32 {
        let word = row_start(lane, self.capacity) + place / 2;
        let pair = self.zone.halves(word..word + 1).expect("the plan lies inside the zone");
        &pair[place % 2]
    }

    fn sum(&self, place: usize) -> u32 {
        let lanes = 0..lanes::used(area());
        lanes.map(|lane| self.count(lane, place).load(SeqCst)).fold(0, u32::wrapping_add)
    }
}

impl std::fmt::Debug for Holders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Holders({})", self.capacity)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.count.fetch_sub(1, SeqCst);
    }
}

/// The place that this process is about to take, announced in its lane.
struct Claiming(&'static AtomicU64);

impl Claiming {
    fn begin(lane: usize, place: usize) -> Self {
        let word = &area().lane(lane)[CLAIM];
        word.store(place as u64 + 1, SeqCst);
        Self(word)
    }
}

impl Drop for Claiming {
    fn drop(&mut self) {
        self.0.store(0, SeqCst);
    }
}

/// True if a place is unused, has a key (which may hold nothing any more), or was claimed by a worker that is
/// not about to take it.
fn is_free(fingerprint: u64, place: usize) -> bool {
    match fingerprint {
        0 | 1024.. => true,
        claim => area().lane(claim as usize - 1)[CLAIM].load(SeqCst) != place as u64 + 1,
    }
}

const fn row_words(capacity: usize) -> usize {
    (capacity / 2 + 1).next_multiple_of(PAGE_WORDS)
}

fn row_start(lane: usize, capacity: usize) -> usize {
    PAGE_WORDS + capacity.next_multiple_of(PAGE_WORDS) + lane % LANES * row_words(capacity)
}

pub(super) fn forget(zone: &'static Zone) {
    WATCHED.lock().unwrap_or_else(PoisonError::into_inner).retain(|other| !std::ptr::eq(other.zone, zone));
}

/// Gives back the counts of the dead worker of this lane.
pub(super) fn give_back(lane: Lane) {
    area().lane(lane.number())[CLAIM].store(0, SeqCst);
    for Holders { zone, capacity } in WATCHED.lock().unwrap_or_else(PoisonError::into_inner).iter().copied() {
        let start = row_start(lane.number(), capacity);
        let row = start..start + row_words(capacity);
        if zone.clear(row.clone()).is_err() {
            // A kernel that cannot punch holes: zero the words one by one, in the same width as elsewhere.
            zone.halves(row).into_iter().flatten().for_each(|count| count.store(0, Relaxed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holders(name: &str, bytes: usize) -> Holders {
        Holders::open(super::super::named::name(name), bytes).expect("maps")
    }

    #[test]
    fn a_key_holds_as_many_as_it_may() {
        let holders = holders("holders test 1", 64 * 1024);
        let (a, b) = (holders.key(b"a"), holders.key(b"b"));
        let first = holders.hold(a, 2).expect("the first");
        let second = holders.hold(a, 2).expect("the second");
        assert_eq!(holders.hold(a, 2).map(drop), Err(Refused::Limit));
        assert_eq!(holders.hold(a, 2).map(drop), Err(Refused::Limit), "who is refused holds nothing");
        assert!(holders.hold(b, 1).is_ok(), "another key");
        drop(first);
        assert!(holders.hold(a, 2).is_ok());
        drop(second);
    }

    #[test]
    fn places_are_used_again_and_held_ones_stay() {
        let holders = holders("holders test 2", 64 * 1024); // 1024 keys
        let key = |n: u32| holders.key(&n.to_le_bytes());
        let kept: Vec<Held> = (0..100).map(|n| holders.hold(key(n), 1).expect("room")).collect();
        for n in 100..20_000 {
            assert!(holders.hold(key(n), 1).is_ok(), "{n}");
        }
        for n in 0..100 {
            assert_eq!(holders.hold(key(n), 1).map(drop), Err(Refused::Limit));
        }
        drop(kept);
        assert!((0..100).all(|n| holders.hold(key(n), 1).is_ok()));
    }

    #[test]
    fn a_full_zone_refuses() {
        let holders = holders("holders test 3", 32 * BYTES_A_KEY);
        let held: Vec<_> = (0..1000u32).map(|n| holders.hold(holders.key(&n.to_le_bytes()), 1)).collect();
        assert_eq!(held.iter().filter(|held| held.is_ok()).count(), 32);
        assert_eq!(held.last().map(|held| held.as_ref().map(drop)), Some(Err(&Refused::Full)));
    }

    /// A lane whose words this test may write: no worker of a test process gets it.
    const STRANGER: usize = LANES - 2;

    #[test]
    fn places_that_a_worker_was_about_to_take_are_free_when_it_is_gone() {
        let holders = holders("holders test 5", 32 * BYTES_A_KEY);
        for place in 0..holders.capacity {
            holders.fingerprint(place).store(STRANGER as u64 + 1, SeqCst);
        }
        area().lane(STRANGER)[CLAIM].store(7 + 1, SeqCst);
        let held: Vec<_> = (0..32u32).map(|n| holders.hold(holders.key(&n.to_le_bytes()), 1)).collect();
        assert_eq!(held.iter().filter(|held| held.is_ok()).count(), 31, "all but the one that it takes now");
        give_back(Lane::of_number(STRANGER).expect("a lane"));
        assert!(holders.hold(holders.key(b"another"), 1).is_ok());
    }

    #[test]
    fn a_zone_whose_header_a_worker_has_written_is_given_back_by_its_plan() {
        let holders = holders("holders test 6", 32 * BYTES_A_KEY);
        let lane = Lane::of_number(LANES - 3).expect("a lane");
        holders.count(lane.number(), 5).store(3, SeqCst);
        for capacity in [0, 1, u64::MAX, u64::MAX / 8] {
            holders.zone.words()[CAPACITY_WORD].store(capacity, Relaxed);
            holders.zone.words()[0].store(capacity, Relaxed);
            give_back(lane);
        }
        assert_eq!(holders.count(lane.number(), 5).load(SeqCst), 0);
    }

    #[test]
    fn threads_share_a_key() {
        let holders = holders("holders test 4", 64 * 1024);
        let key = holders.key(b"shared");
        std::thread::scope(|scope| {
            for n in 0..4u32 {
                scope.spawn(move || {
                    for m in 0..2000 {
                        drop(holders.hold(key, 1000).expect("room"));
                        drop(holders.hold(holders.key(&(n * 10_000 + m).to_le_bytes()), 1));
                    }
                });
            }
        });
        let all: Vec<_> = (0..5).map(|_| holders.hold(key, 5).expect("nothing was left behind")).collect();
        assert_eq!(holders.hold(key, 5).map(drop), Err(Refused::Limit));
        drop(all);
    }
}
