//! The cache of files of one worker: the most recently used paths, bounded in number, bytes and descriptors.
//!
//! It knows no files or clocks beyond its arguments. The least recently used entry is evicted first.

use std::collections::HashMap;
use std::rc::Rc;

use crate::http::modules::open_file_cache::{Found, Outcome};

const NONE: u32 = u32::MAX;

/// The bounds of a cache.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub entries: usize,
    pub bytes: usize,
    pub descriptors: usize,
}

#[derive(Debug)]
struct Slot {
    path: Rc<[u8]>,
    /// `None`: so far only its uses are counted.
    kept: Option<Outcome>,
    uses: u64,
    used_ms: u64,
    checked_ms: u64,
    newer: u32,
    older: u32,
}

#[derive(Debug)]
pub struct Cache {
    bounds: Bounds,
    places: HashMap<Rc<[u8]>, u32>,
    slots: Vec<Slot>,
    newest: u32,
    oldest: u32,
    bytes: usize,
    descriptors: usize,
    /// A task that removes unused entries is running.
    pub is_swept: bool,
}

impl Cache {
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            places: HashMap::new(),
            slots: Vec::new(),
            newest: NONE,
            oldest: NONE,
            bytes: 0,
            descriptors: 0,
            is_swept: false,
        }
    }

    /// The cached result for a path, and when it was last confirmed. The path becomes the most recently used.
    pub fn get(&mut self, path: &[u8], now_ms: u64) -> Option<(&Outcome, u64)> {
        let place = *self.places.get(path)?;
        self.unlink(place);
        self.link(place);
        let slot = &mut self.slots[place as usize];
        slot.uses += 1;
        slot.used_ms = now_ms;
        slot.kept.as_ref().map(|kept| (kept, slot.checked_ms))
    }

    /// Records that a result was confirmed.
    pub fn confirm(&mut self, path: &[u8], now_ms: u64) {
        if let Some(place) = self.places.get(path) {
            self.slots[*place as usize].checked_ms = now_ms;
        }
    }

    /// Caches a result if the path has been used often enough.
    pub fn put(&mut self, path: &[u8], found: Outcome, now_ms: u64, uses_min: u64) {
        let place = self.place_of(path, now_ms);
        let slot = &mut self.slots[place as usize];
        slot.checked_ms = now_ms;
        if slot.uses < uses_min {
            return;
        }
        let before = slot.kept.replace(found);
        let (bytes, descriptors) = weight(&slot.kept);
        let (bytes_before, descriptors_before) = weight(&before);
        self.bytes = self.bytes + bytes - bytes_before;
        self.descriptors = self.descriptors + descriptors - descriptors_before;
        self.shrink();
    }

    /// Drops the result for a path; its uses stay counted.
    pub fn drop_kept(&mut self, path: &[u8]) {
        let Some(place) = self.places.get(path) else { return };
        let kept = self.slots[*place as usize].kept.take();
        let (bytes, descriptors) = weight(&kept);
        self.bytes -= bytes;
        self.descriptors -= descriptors;
    }

    /// Drops entries that have not been used since then. Returns false once the cache is empty.
    pub fn expire(&mut self, unused_since_ms: u64) -> bool {
        while self.oldest != NONE && self.slots[self.oldest as usize].used_ms <= unused_since_ms {
            self.remove(self.oldest);
        }
        !self.slots.is_empty()
    }

    fn place_of(&mut self, path: &[u8], now_ms: u64) -> u32 {
        if let Some(place) = self.places.get(path) {
            return *place;
        }
        let place = self.slots.len() as u32;
        let path: Rc<[u8]> = path.into();
        let (kept, checked_ms) = (None, now_ms);
        let slot =
            Slot { path: path.clone(), kept, uses: 1, used_ms: now_ms, checked_ms, newer: NONE, older: NONE };
        self.slots.push(slot);
        self.places.insert(path, place);
        self.link(place);
        place
    }

    fn shrink(&mut self) {
        let Bounds { entries, bytes, descriptors } = self.bounds;
        while self.oldest != self.newest
            && (self.slots.len() > entries || self.bytes > bytes || self.descriptors > descriptors)
        {
            self.remove(self.oldest);
        }
    }

    fn remove(&mut self, place: u32) {
        self.unlink(place);
        let slot = self.slots.swap_remove(place as usize);
        let (bytes, descriptors) = weight(&slot.kept);
        self.bytes -= bytes;
        self.descriptors -= descriptors;
        self.places.remove(&slot.path);
        // the last slot has moved into its place
        if let Some(moved) = self.slots.get(place as usize) {
            let (newer, older) = (moved.newer, moved.older);
            self.places.insert(moved.path.clone(), place);
            match newer {
                NONE => self.newest = place,
                newer => self.slots[newer as usize].older = place,
            }
            match older {
                NONE => self.oldest = place,
                older => self.slots[older as usize].newer = place,
            }
        }
    }

    fn link(&mut self, place: u32) {
        let older = std::mem::replace(&mut self.newest, place);
        let slot = &mut self.slots[place as usize];
        (slot.newer, slot.older) = (NONE, older);
        match older {
            NONE => self.oldest = place,
            older => self.slots[older as usize].newer = place,
        }
    }

    fn unlink(&mut self, place: u32) {
        let slot = &self.slots[place as usize];
        let (newer, older) = (slot.newer, slot.older);
        match newer {
            NONE => self.newest = older,
            newer => self.slots[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.slots[older as usize].newer = newer,
        }
    }
}

/// The bytes of memory and descriptors that a result takes.
fn weight(kept: &Option<Outcome>) -> (usize, usize) {
    match kept {
        Some(Ok(Found::File(entry))) => entry.weight(),
        _ => (0, 0),
    }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;

    fn cache(entries: usize) -> Cache {
        Cache::new(Bounds { entries, bytes: 1000, descriptors: 10 })
    }

    fn names(cache: &Cache) -> Vec<String> {
        let mut names = Vec::new();
        let mut place = cache.newest;
        while place != NONE {
            let slot = &cache.slots[place as usize];
            assert_eq!(cache.places[&slot.path], place);
            names.push(String::from_utf8(slot.path.to_vec()).unwrap());
            place = slot.older;
        }
        assert_eq!((names.len(), names.len()), (cache.slots.len(), cache.places.len()));
        names
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut cache = cache(3);
        for (at, name) in ["a", "b", "c"].iter().enumerate() {
            cache.put(name.as_bytes(), Ok(Found::Directory), at as u64, 0);
        }
        assert!(cache.get(b"a", 5).is_some());
        cache.put(b"d", Err(Errno::ENOENT), 6, 0);
        assert_eq!(names(&cache), ["d", "a", "c"]);
        assert!(cache.expire(2));
        assert_eq!(names(&cache), ["d", "a"]);
        assert!(matches!(cache.get(b"d", 7), Some((Err(Errno::ENOENT), 6))));
        assert!(!cache.expire(7));
        assert_eq!(names(&cache), [""; 0]);
        cache.put(b"e", Ok(Found::Directory), 8, 0);
        assert_eq!(names(&cache), ["e"]);
    }

    #[test]
    fn what_is_seldom_used_is_only_counted() {
        let mut cache = cache(3);
        for expected in [false, false, true] {
            assert_eq!(cache.get(b"a", 1).is_some(), expected);
            cache.put(b"a", Ok(Found::Directory), 1, 2);
        }
        cache.drop_kept(b"a");
        assert!(cache.get(b"a", 1).is_none());
    }

    #[test]
    fn links_stay_whole_under_many_changes() {
        let mut cache = cache(20);
        let mut state = 1_u32;
        for step in 0..5000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let name = format!("{}", (state >> 16) % 40);
            match state >> 28 {
                0 => drop(cache.expire(step - step.min(9))),
                1..=6 => drop(cache.get(name.as_bytes(), step)),
                _ => cache.put(name.as_bytes(), Ok(Found::Other), step, 0),
            }
            assert!(names(&cache).len() <= 20);
        }
    }
}
