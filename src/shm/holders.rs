//! How many each key holds: counts by worker, so that a worker that dies takes its share with it.
//!
//! ```text
//! header: magic, 2 words of a secret, capacity | fingerprints: capacity | counts: LANES rows of capacity × u32
//! ```
//! A key's count is the sum of its column. A place whose column is 0 is free for another key: whoever takes it
//! writes its lane's number first, looks at the column again, and then writes the fingerprint. Whoever counts
//! looks at the fingerprint again afterwards. Addresses of lanes that no worker has had cost nothing.
//! Behaviour: nginx.org, ngx_http_limit_conn_module.

use std::io;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Mutex, PoisonError};

use super::area::{LANES, area};
use super::lanes::{self, Lane, OWNER};
use super::table::{Key, init_header, keyed_hash};
use super::zone::Zone;

const MAGIC: u64 = 0x7072_6f6e_6768_6f72 ^ 0x0103;
/// The largest page of the machines we build for.
const PAGE_WORDS: usize = 8192;
const CAPACITY_WORD: usize = 3;
/// nginx documents 16 thousand states for a zone of 1m.
const BYTES_A_KEY: usize = 64;
/// Places that are looked at for one key.
const PROBES: usize = 32;

/// A table of keys and how many each holds.
#[derive(Clone, Copy)]
pub struct Holders {
    zone: &'static Zone,
    capacity: usize,
}

/// One that is held, until it is dropped.
#[derive(Debug)]
pub struct Held {
    count: &'static AtomicU32,
}

/// Why a key may hold no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It holds as many as it may.
    Limit,
    /// All places for it are other keys'.
    Full,
}

/// The zones whose counts a dead worker takes with it.
static WATCHED: Mutex<Vec<&'static Zone>> = Mutex::new(Vec::new());

impl Holders {
    /// The table in the zone of this name, made if there is none. For the master.
    pub fn open(name: u64, bytes: usize) -> io::Result<Self> {
        let capacity = (bytes / BYTES_A_KEY).max(PROBES);
        let words = PAGE_WORDS + capacity.next_multiple_of(PAGE_WORDS) + LANES * row_words(capacity);
        let zone = super::named::zone(name, words * size_of::<u64>())?;
        zone.words()[CAPACITY_WORD].store(capacity as u64, Relaxed);
        init_header(zone.words(), MAGIC);
        watch(zone);
        Ok(Self { zone, capacity })
    }

    pub fn key(&self, bytes: &[u8]) -> Key {
        Key(keyed_hash(self.zone.words(), bytes))
    }

    /// Holds one more for a key that may hold `max` in all workers.
    pub fn hold(&self, key: Key, max: u32) -> Result<Held, Refused> {
        let lane = lanes::mine().number();
        // Another worker may take a place away at the same moment, and yet another the next one.
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
            if !is_free(before) || self.sum(place) > 0 {
                continue;
            }
            let claim = lane as u64 + 1;
            if fingerprint.compare_exchange(before, claim, SeqCst, SeqCst).is_err() {
                continue;
            }
            if self.sum(place) > 0 {
                fingerprint.store(before, SeqCst); // somebody was quicker
                continue;
            }
            fingerprint.store(key.0, SeqCst);
            // Of two workers that took a place for one key at once, both use the first one.
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

/// Nobody's, a key's (which may hold nothing any more), or one that a dead worker was about to take.
fn is_free(fingerprint: u64) -> bool {
    match fingerprint {
        0 | 1024.. => true,
        claim => area().lane(claim as usize - 1)[OWNER].load(Relaxed) == 0,
    }
}

const fn row_words(capacity: usize) -> usize {
    (capacity / 2 + 1).next_multiple_of(PAGE_WORDS)
}

fn row_start(lane: usize, capacity: usize) -> usize {
    PAGE_WORDS + capacity.next_multiple_of(PAGE_WORDS) + lane % LANES * row_words(capacity)
}

/// What a dead worker held in this zone is given back from now on; nothing for zones of another kind.
pub(super) fn watch(zone: &'static Zone) {
    if zone.words()[0].load(Relaxed) != MAGIC {
        return;
    }
    let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
    if !watched.iter().any(|other| std::ptr::eq(*other, zone)) {
        watched.push(zone);
    }
}

pub(super) fn forget(zone: &'static Zone) {
    WATCHED.lock().unwrap_or_else(PoisonError::into_inner).retain(|other| !std::ptr::eq(*other, zone));
}

/// Gives back what the dead worker of this lane held.
pub(super) fn give_back(lane: Lane) {
    for zone in WATCHED.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        let capacity = zone.words()[CAPACITY_WORD].load(Relaxed) as usize;
        let start = row_start(lane.number(), capacity);
        let row = start..start + row_words(capacity);
        if zone.clear(row.clone()).is_err() {
            // A kernel that cannot punch holes: word by word, and in one width only.
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
