//! Places of a table in shared memory, found by the fingerprint of a name.
//!
//! The names are kept in shared memory, so that a reload and a new binary find the same places again. A
//! master reads there once which name has which place, and from then on relies on its own memory: any worker
//! can write those words, and must not be able to make two names share a place. Only masters assign places;
//! during an upgrade two of them may do so at the same time.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use super::area::{Area, Header};

/// One table of the area.
pub(super) struct Table {
    pub capacity: usize,
    /// The header's count of places that were ever assigned.
    pub used: Header,
    /// The fingerprint of a place's name; 0 if it is free, or about to be assigned.
    pub name: fn(&Area, usize) -> &'static AtomicU64,
    /// Zeroes the contents of a place.
    pub clear: fn(&Area, usize),
}

impl Table {
    /// The number of places ever assigned, kept within the table whatever a worker writes into the header.
    pub fn used(&self, area: &Area) -> usize {
        (area.header(self.used).load(Relaxed) as usize).min(self.capacity)
    }
}

/// The hash of a fingerprint, which is one itself.
#[derive(Default)]
struct Fingerprint(u64);

impl Hasher for Fingerprint {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.0 = self.0.rotate_left(8) ^ u64::from(byte));
    }

    fn write_u64(&mut self, fingerprint: u64) {
        self.0 = fingerprint;
    }
}

/// One master's knowledge of a table.
pub(super) struct Index {
    table: &'static Table,
    by_name: HashMap<u64, u32, BuildHasherDefault<Fingerprint>>,
    free: Vec<u32>,
    /// Places that had no name when they were read: free, or another master was about to name them.
    nameless: Vec<u32>,
    /// Number of places that were read into `by_name`; another master may have added more.
    read: usize,
    /// One past the highest place that this master assigned.
    end: usize,
}

impl Index {
    pub fn new(table: &'static Table) -> Self {
        Self { table, by_name: HashMap::default(), free: Vec::new(), nameless: Vec::new(), read: 0, end: 0 }
    }

    /// The place of a name, assigned now if it has none. `None`: all are in use.
    ///
    /// A master that dies after taking a place but before naming it leaves the place nameless; a later
    /// [`Index::sweep`] by another master frees it.
    pub fn find(&mut self, area: &Area, name: u64) -> Option<u32> {
        self.catch_up(area);
        if let Some(&index) = self.by_name.get(&name) {
            return Some(index);
        }
        let index = match self.free.pop() {
            Some(index) => {
                // A worker can have written into the place while it was free.
                (self.table.clear)(area, index as usize);
                index
            }
            None => {
                let next = area.header(self.table.used);
                let capacity = self.table.capacity as u64;
                let grow = |used| (used < capacity).then(|| used + 1);
                next.fetch_update(Relaxed, Relaxed, grow).ok()? as u32
            }
        };
        (self.table.name)(area, index as usize).store(name, Relaxed);
        self.by_name.insert(name, index);
        if self.read == index as usize {
            self.read += 1;
        }
        self.end = self.end.max(index as usize + 1);
        Some(index)
    }

    fn catch_up(&mut self, area: &Area) {
        // Never go back: if a worker writes a smaller number there, two names must not get one place.
        let known = self.read.max(self.end);
        if self.table.used(area) < known {
            area.header(self.table.used).fetch_max(known as u64, Relaxed);
        }
        let used = self.table.used(area);
        for index in self.read..used {
            match (self.table.name)(area, index).load(Relaxed) {
                0 => self.nameless.push(index as u32),
                name => {
                    self.by_name.entry(name).or_insert(index as u32);
                }
            }
        }
        self.read = used;
    }

    /// Frees the places that are not in `live`. Call it only when no worker of an older configuration and no
    /// other master is alive.
    pub fn sweep(&mut self, area: &Area, live: &HashSet<u32>) {
        self.catch_up(area);
        let (table, free) = (self.table, &mut self.free);
        self.by_name.retain(|_, &mut index| {
            let keep = live.contains(&index);
            if !keep {
                (table.clear)(area, index as usize);
                (table.name)(area, index as usize).store(0, Relaxed);
                free.push(index);
            }
            keep
        });
        let nameless = std::mem::take(&mut self.nameless);
        let given: HashSet<u32> = self.by_name.values().chain(&self.free).copied().collect();
        self.free.extend(nameless.into_iter().filter(|index| !given.contains(index)));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const CAPACITY: usize = 100;

    // Any table of the area will do; the table of slots has more room than this test needs.
    static TABLE: Table =
        Table { capacity: CAPACITY, used: Header::SlotsUsed, name: Area::slot_name, clear: note_cleared };

    thread_local! {
        static CLEARED: Cell<usize> = const { Cell::new(0) };
    }

    fn note_cleared(_: &Area, _: usize) {
        CLEARED.set(CLEARED.get() + 1);
    }

    #[test]
    fn another_master_finds_the_same_places() {
        let area = Area::fresh();
        let (mut old, mut new) = (Index::new(&TABLE), Index::new(&TABLE));
        let first = old.find(&area, 11).expect("room");
        assert_eq!(new.find(&area, 11), Some(first));
        let second = new.find(&area, 22).expect("room");
        assert_eq!(old.find(&area, 22), Some(second));
        assert_ne!(first, second);
    }

    #[test]
    fn swept_places_are_cleared_and_used_again() {
        let area = Area::fresh();
        let mut index = Index::new(&TABLE);
        let (kept, swept) = (index.find(&area, 1).expect("room"), index.find(&area, 2).expect("room"));
        index.sweep(&area, &HashSet::from([kept]));
        assert_eq!((CLEARED.get(), area.slot_name(swept as usize).load(Relaxed)), (1, 0));
        assert_eq!(index.find(&area, 3), Some(swept));
        assert_eq!(CLEARED.get(), 2, "again: a worker may have written into it");
        assert_eq!(index.find(&area, 1), Some(kept));
    }

    #[test]
    fn names_never_share_a_place_whatever_the_header_says() {
        let area = Area::fresh();
        let mut index = Index::new(&TABLE);
        let first: Vec<_> = (1..=5).map(|name| index.find(&area, name).expect("room")).collect();
        for used in [0, 1, 3] {
            area.header(TABLE.used).store(used, Relaxed);
            let next = index.find(&area, 100 + used).expect("room");
            assert!(!first.contains(&next), "{used}");
        }
        area.header(TABLE.used).store(u64::MAX, Relaxed);
        assert_eq!((index.find(&area, 3), index.find(&area, 999)), (Some(first[2]), None));
    }

    #[test]
    fn a_full_table_says_so_and_has_room_after_a_sweep() {
        let area = Area::fresh();
        let mut index = Index::new(&TABLE);
        assert!((1..=CAPACITY as u64).all(|name| index.find(&area, name).is_some()));
        assert_eq!(index.find(&area, u64::MAX), None);
        assert!(index.find(&area, 7).is_some());
        assert_eq!(TABLE.used(&area), CAPACITY);
        index.sweep(&area, &HashSet::new());
        assert!((1000..1000 + CAPACITY as u64).all(|name| index.find(&area, name).is_some()));
        assert_eq!(index.find(&area, u64::MAX), None);
    }

    #[test]
    fn a_master_that_died_before_naming_a_place_costs_none() {
        let area = Area::fresh();
        let mut index = Index::new(&TABLE);
        let first = index.find(&area, 1).expect("room");
        // Meanwhile the other master has taken two places and named one of them.
        area.header(TABLE.used).fetch_add(2, Relaxed);
        let second = index.find(&area, 2).expect("room");
        area.slot_name(1).store(77, Relaxed);
        index.sweep(&area, &HashSet::from([first, second]));
        let mut given: Vec<_> = [3, 4].map(|name| index.find(&area, name).expect("room")).into();
        given.sort_unstable();
        assert_eq!(given, [1, 2]);
        assert_eq!(index.find(&area, 5), Some(4), "the next one is new");
    }

    #[test]
    fn the_next_master_uses_what_the_last_one_has_freed() {
        let area = Area::fresh();
        let mut old = Index::new(&TABLE);
        let kept = old.find(&area, 1).expect("room");
        let freed = old.find(&area, 2).expect("room");
        old.sweep(&area, &HashSet::from([kept]));
        let mut new = Index::new(&TABLE);
        assert_eq!(new.find(&area, 1), Some(kept));
        new.sweep(&area, &HashSet::from([kept]));
        assert_eq!(new.find(&area, 3), Some(freed));
    }
}
