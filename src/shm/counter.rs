//! Counters: the process-wide ones of `stub_status`, and a slot of words for every named server, upstream and peer.
//!
//! Sums are added by all workers to one word; what is held (active) is counted per lane, so that a worker that dies
//! takes its share with it. Slots are found by the fingerprint of their kind and name: a reload finds the same
//! counters again. Truth: nginx.org, ngx_http_stub_status_module.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{LazyLock, Mutex, PoisonError};

use super::area::{Area, Header, SLOT_WORDS, SLOTS, area, fingerprint};
use super::lanes::{self, TOTALS};

/// The counters of the whole process tree. `Active` to `Waiting` and `Drawn` are gauges: what is held now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Total {
    Accepted = 0,
    Handled = 1,
    Requests = 2,
    Active = 3,
    Reading = 4,
    Writing = 5,
    Waiting = 6,
    /// Connections that only waited and were asked to close, so that others had room.
    Reused = 7,
    /// Bytes of memory that requests hold beyond what each needs (`net/budget.rs`).
    Drawn = 8,
    /// Requests that had to make do with less, since those were too many.
    Degraded = 9,
}

impl Total {
    /// Those that count connections and requests.
    pub const ALL: [Total; 8] = [
        Total::Accepted,
        Total::Handled,
        Total::Requests,
        Total::Active,
        Total::Reading,
        Total::Writing,
        Total::Waiting,
        Total::Reused,
    ];
}

/// Adds to a sum (`Accepted`, `Handled`, `Requests`, `Reused`, `Degraded`).
///
/// For the thread of the worker's loop only, here and for the gauges: nobody else writes to its lane, so that no
/// locked instruction is needed.
#[inline]
pub fn add(total: Total, count: u64) {
    let word = &lanes::my_words()[TOTALS + total as usize];
    word.store(word.load(Relaxed).wrapping_add(count), Relaxed);
}

/// One more is held (`Active`, `Reading`, `Writing`, `Waiting`), until [`leave`].
#[inline]
pub fn enter(gauge: Total) {
    add(gauge, 1);
}

/// One less is held.
#[inline]
pub fn leave(gauge: Total) {
    add(gauge, 1u64.wrapping_neg());
}

/// One that was held as `from` is held as `to`.
#[inline]
pub fn pass(from: Total, to: Total) {
    let words = lanes::my_words();
    for (gauge, change) in [(from, 1u64.wrapping_neg()), (to, 1)] {
        let word = &words[TOTALS + gauge as usize];
        word.store(word.load(Relaxed).wrapping_add(change), Relaxed);
    }
}

/// The sum of a counter over all workers, those that are gone included.
pub fn total(total: Total) -> u64 {
    total_in(area(), total)
}

fn total_in(area: &Area, total: Total) -> u64 {
    let count = |lane: usize| area.lane(lane)[TOTALS + total as usize].load(Relaxed);
    (0..lanes::used(area)).map(count).fold(0, u64::wrapping_add)
}

/// What a name names; equal names of two kinds have two slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Server = 0,
    Location = 1,
    Upstream = 2,
    Peer = 3,
}

/// The words of a slot. Those ending in `Ms` are set, the others grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    Requests = 0,
    Status1xx = 1,
    Status2xx = 2,
    Status3xx = 3,
    Status4xx = 4,
    Status5xx = 5,
    BytesIn = 6,
    BytesOut = 7,
    /// Failures within the present `fail_timeout`; the balancer resets it.
    Fails = 8,
    /// Monotonic time of the last failure.
    LastFailMs = 9,
    /// Monotonic time when the peer was last tried after failures.
    CheckedMs = 10,
    /// Free for the balancer or the prober (up, down, draining).
    State = 11,
    /// Time to the whole response, summed, in microseconds.
    ResponseUs = 12,
    /// Requests that went on to another peer.
    Retries = 13,
    /// Failures since the start.
    Failures = 14,
    /// Monotonic time of the last choice.
    SelectedMs = 15,
}

impl Word {
    /// The word of a status's class; `None` outside 100–599.
    #[inline]
    pub fn of_status(code: u16) -> Option<Self> {
        Some(match code / 100 {
            1 => Word::Status1xx,
            2 => Word::Status2xx,
            3 => Word::Status3xx,
            4 => Word::Status4xx,
            5 => Word::Status5xx,
            _ => return None,
        })
    }
}

/// The counters of one name. A copy of a pointer; store it in configuration.
#[derive(Clone, Copy)]
pub struct Slot {
    words: &'static [AtomicU64; SLOT_WORDS],
    index: u32,
}

/// Finds or makes the slot of a name. None: all 65,536 are in use.
///
/// For the master while it compiles configuration; not for a request's path.
pub fn slot(kind: Kind, name: &str) -> Option<Slot> {
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    let index = names.find(area(), fingerprint(kind as u8, name.as_bytes()))?;
    Some(Slot::at(area(), index))
}

/// Frees the slots that no configuration names any more. Only while no worker of an older one lives.
pub fn sweep(live: &HashSet<u32>) {
    NAMES.lock().unwrap_or_else(PoisonError::into_inner).sweep(area(), live);
}

impl Slot {
    fn at(area: &Area, index: u32) -> Slot {
        Slot { words: area.slot(index as usize), index }
    }

    /// Its number, for `sweep`.
    pub fn index(self) -> u32 {
        self.index
    }

    #[inline]
    pub fn word(self, word: Word) -> &'static AtomicU64 {
        &self.words[word as usize]
    }

    #[inline]
    pub fn add(self, word: Word, count: u64) {
        self.word(word).fetch_add(count, Relaxed);
    }

    pub(super) fn add_at(self, index: usize, count: u64) {
        self.words[index].fetch_add(count, Relaxed);
    }

    pub fn get(self, word: Word) -> u64 {
        self.word(word).load(Relaxed)
    }

    pub fn set(self, word: Word, value: u64) {
        self.word(word).store(value, Relaxed);
    }

    /// Counts one active request or connection of this worker while the guard lives.
    #[inline]
    pub fn enter(self) -> Active {
        let count = area().active(lanes::mine().number(), self.index as usize);
        count.fetch_add(1, Relaxed);
        Active { count }
    }

    /// How many are active in all workers.
    pub fn active(self) -> u32 {
        let area = area();
        let count = |lane| area.active(lane, self.index as usize).load(Relaxed);
        (0..lanes::used(area)).map(count).fold(0, u32::wrapping_add)
    }
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Slot({})", self.index)
    }
}

/// One active request in a slot.
#[derive(Debug)]
pub struct Active {
    count: &'static std::sync::atomic::AtomicU32,
}

impl Drop for Active {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Relaxed);
    }
}

pub(super) fn slots_used(area: &Area) -> usize {
    (area.header(Header::SlotsUsed).load(Relaxed) as usize).min(SLOTS)
}

/// The index over the fingerprints, in the memory of whoever compiles.
#[derive(Default)]
struct Names {
    by_name: HashMap<u64, u32>,
    free: Vec<u32>,
    /// Slots that `by_name` knows; another master (an upgrade) may have added more.
    read: usize,
    /// One past the highest slot that was given out here.
    end: usize,
}

static NAMES: LazyLock<Mutex<Names>> = LazyLock::new(Mutex::default);

impl Names {
    fn find(&mut self, area: &Area, name: u64) -> Option<u32> {
        self.catch_up(area);
        if let Some(&index) = self.by_name.get(&name) {
            return Some(index);
        }
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                let next = area.header(Header::SlotsUsed);
                let next = next
                    .fetch_update(Relaxed, Relaxed, |used| (used < SLOTS as u64).then(|| used + 1))
                    .ok()?;
                next as u32
            }
        };
        area.slot_name(index as usize).store(name, Relaxed);
        self.by_name.insert(name, index);
        self.end = self.end.max(index as usize + 1);
        Some(index)
    }

    fn catch_up(&mut self, area: &Area) {
        // Never back: a worker that writes a smaller number there must not have two names share one slot.
        let known = self.read.max(self.end);
        if slots_used(area) < known {
            area.header(Header::SlotsUsed).fetch_max(known as u64, Relaxed);
        }
        let used = slots_used(area);
        for index in self.read..used {
            let name = area.slot_name(index).load(Relaxed);
            if name != 0 {
                self.by_name.entry(name).or_insert(index as u32);
            }
        }
        self.read = used;
    }

    fn sweep(&mut self, area: &Area, live: &HashSet<u32>) {
        self.catch_up(area);
        self.by_name.retain(|_, &mut index| {
            let keep = live.contains(&index);
            if !keep {
                area.slot_name(index as usize).store(0, Relaxed);
                for word in area.slot(index as usize) {
                    word.store(0, Relaxed);
                }
                self.free.push(index);
            }
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_slot_and_kinds_differ() {
        let slot_of = |kind, name| slot(kind, name).expect("room").index();
        let first = slot_of(Kind::Server, "keeps.test");
        assert_eq!(slot_of(Kind::Server, "keeps.test"), first);
        assert_ne!(slot_of(Kind::Upstream, "keeps.test"), first);
        assert_ne!(slot_of(Kind::Server, "other.test"), first);
    }

    #[test]
    fn another_master_finds_the_same_slots() {
        let area = Area::fresh();
        let (mut old, mut new) = (Names::default(), Names::default());
        let a = old.find(&area, 11).expect("room");
        assert_eq!(new.find(&area, 11), Some(a));
        let b = new.find(&area, 22).expect("room");
        assert_eq!(old.find(&area, 22), Some(b));
        assert_ne!(a, b);
    }

    #[test]
    fn swept_slots_are_empty_and_used_again() {
        let area = Area::fresh();
        let mut names = Names::default();
        let (a, b) = (names.find(&area, 1).expect("room"), names.find(&area, 2).expect("room"));
        Slot::at(&area, b).add(Word::Requests, 5);
        names.sweep(&area, &HashSet::from([a]));
        assert_eq!(names.find(&area, 3), Some(b));
        assert_eq!(Slot::at(&area, b).get(Word::Requests), 0);
        assert_eq!(names.find(&area, 1), Some(a));
    }

    #[test]
    fn names_never_share_a_slot_whatever_the_header_says() {
        let area = Area::fresh();
        let mut names = Names::default();
        let first: Vec<_> = (1..=5).map(|name| names.find(&area, name).expect("room")).collect();
        for used in [0, 1, 3] {
            area.header(Header::SlotsUsed).store(used, Relaxed);
            let next = names.find(&area, 100 + used).expect("room");
            assert!(!first.contains(&next), "{used}");
        }
        area.header(Header::SlotsUsed).store(u64::MAX, Relaxed);
        assert_eq!((names.find(&area, 3), names.find(&area, 999)), (Some(first[2]), None));
    }

    #[test]
    fn a_full_table_says_so() {
        let area = Area::fresh();
        let mut names = Names::default();
        for name in 1..=SLOTS as u64 {
            assert!(names.find(&area, name).is_some());
        }
        assert_eq!(names.find(&area, u64::MAX), None);
        assert!(names.find(&area, 7).is_some());
        assert_eq!(slots_used(&area), SLOTS);
    }

    #[test]
    fn statuses_have_classes() {
        let codes = [100, 204, 301, 499, 599, 600, 99, 0];
        let classes = codes.map(Word::of_status);
        let words = [Word::Status1xx, Word::Status2xx, Word::Status3xx, Word::Status4xx, Word::Status5xx];
        assert_eq!(classes[..5], words.map(Some));
        assert_eq!(classes[5..], [None, None, None]);
    }

    #[test]
    fn active_counts_while_the_guard_lives() {
        let slot = slot(Kind::Peer, "active.test").expect("room");
        let guards: Vec<Active> = (0..3).map(|_| slot.enter()).collect();
        assert_eq!(slot.active(), 3);
        drop(guards);
        assert_eq!(slot.active(), 0);
    }

    #[test]
    fn totals_add_up_over_lanes() {
        let area = Area::fresh();
        let lanes = [1, 2].map(|number| lanes::Lane::of_number(number).expect("a lane"));
        lanes.iter().for_each(|lane| lanes::prepare_in(&area, *lane, 0, 1));
        for lane in lanes {
            area.lane(lane.number())[TOTALS + Total::Requests as usize].store(20, Relaxed);
        }
        for lane in lanes {
            area.lane(lane.number())[TOTALS + Total::Active as usize].store(1, Relaxed);
        }
        assert_eq!([Total::Requests, Total::Active].map(|total| total_in(&area, total)), [40, 2]);
        // the first worker is killed
        lanes::give_in(&area, lanes[0]);
        assert_eq!([Total::Requests, Total::Active].map(|total| total_in(&area, total)), [40, 1]);
    }

    #[test]
    fn threads_lose_no_count() {
        let slot = slot(Kind::Server, "threads.test").expect("room");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| slot.add(Word::BytesIn, 3)));
            }
        });
        assert_eq!(slot.get(Word::BytesIn), 120_000);
    }

    #[test]
    fn twenty_thousand_names_cost_eight_bytes_unused_and_136_used() {
        let area = Area::fresh();
        let before = area.zone().resident_bytes().expect("stat");
        let mut names = Names::default();
        let all: Vec<u32> = (1..=20_000)
            .map(|name| names.find(&area, fingerprint(0, &u32::to_le_bytes(name))).expect("room"))
            .collect();
        let unused = area.zone().resident_bytes().expect("stat") - before;
        assert!(unused <= 20_000 * 8 + 8192, "{unused}");
        for &index in &all {
            Slot::at(&area, index).add(Word::Requests, 1);
            area.active(1, index as usize).fetch_add(1, Relaxed);
            area.active(2, index as usize).fetch_add(1, Relaxed);
        }
        let used = area.zone().resident_bytes().expect("stat") - before;
        assert!(used <= 20_000 * (8 + 128 + 8) + 5 * 4096, "{used}");
    }
}
