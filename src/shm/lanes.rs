//! A lane per process that counts: its own words, which nobody else writes while it lives.
//!
//! The master takes a lane before it forks, the child enters it, the master gives it back when the child is
//! gone: what the child held is then zero, what it had counted stays. Words of a lane:
//! ```text
//! 0 owner (pid)  1 generation  2 heartbeat  3 last event  4 worker number  5–7 –   | one cache line
//! 8 accepted  9 handled  10 requests  11 active  12 reading  13 writing  14 waiting  15 –
//! ```

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU64, AtomicUsize};

use super::area::{Area, Header, LANE_WORDS, LANES, area};
use super::counter::Total;
use super::{heartbeat, holders};

pub(super) const OWNER: usize = 0;
pub(super) const GENERATION: usize = 1;
const WORKER: usize = 4;
pub(super) const TOTALS: usize = 8;

/// The lane of this process; 0, the master's, until `enter`.
static MINE: AtomicUsize = AtomicUsize::new(0);

/// The number of a lane: from 1 for workers, 0 for the master.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane(u16);

impl Lane {
    pub fn number(self) -> usize {
        usize::from(self.0)
    }

    /// The lane of that number, for one that came over a wire or an environment variable.
    pub fn of_number(number: usize) -> Option<Lane> {
        (number < LANES).then_some(Lane(number as u16))
    }
}

/// Takes a free lane for a worker about to be forked. None: all are taken (511 live workers).
pub fn take(worker: u32, generation: u64) -> Option<Lane> {
    take_in(area(), worker, generation)
}

/// Called by the child, before it counts anything: the lane is this process's from now on.
pub fn enter(lane: Lane) {
    area().lane(lane.number())[OWNER].store(u64::from(std::process::id()), Release);
    MINE.store(lane.number(), Relaxed);
}

/// Called by the master when the process of `lane` is gone: zeroes what it held and frees the lane.
pub fn give(lane: Lane) {
    holders::give_back(lane);
    give_in(area(), lane);
}

/// All lanes in use, with the pid of each.
pub fn taken() -> impl Iterator<Item = (Lane, u32)> {
    let owner = |lane: &usize| area().lane(*lane)[OWNER].load(Acquire) as u32;
    (1..used(area())).map(move |lane| (Lane(lane as u16), owner(&lane))).filter(|&(_, pid)| pid != 0)
}

/// Which worker (its number within its generation) the lane was taken for.
pub fn worker(lane: Lane) -> u32 {
    area().lane(lane.number())[WORKER].load(Relaxed) as u32
}

/// This process's lane.
#[inline]
pub fn mine() -> Lane {
    Lane(MINE.load(Relaxed) as u16)
}

#[inline]
pub(super) fn my_words() -> &'static [AtomicU64; LANE_WORDS] {
    area().lane(MINE.load(Relaxed))
}

/// One past the highest lane that was ever taken; sums stop there, so as not to touch what nobody used.
pub(super) fn used(area: &Area) -> usize {
    (area.header(Header::LanesUsed).load(Relaxed) as usize).clamp(1, LANES)
}

pub(super) fn take_in(area: &Area, worker: u32, generation: u64) -> Option<Lane> {
    // Until the child enters, the taker's pid holds the lane.
    let holder = u64::from(std::process::id());
    for number in 1..LANES {
        let words = area.lane(number);
        if words[OWNER].compare_exchange(0, holder, Acquire, Relaxed).is_ok() {
            area.header(Header::LanesUsed).fetch_max(number as u64 + 1, Relaxed);
            words[GENERATION].store(generation, Relaxed);
            words[WORKER].store(u64::from(worker), Relaxed);
            return Some(Lane(number as u16));
        }
    }
    None
}

pub(super) fn give_in(area: &Area, lane: Lane) {
    let words = area.lane(lane.number());
    for gauge in [Total::Active, Total::Reading, Total::Writing, Total::Waiting] {
        words[TOTALS + gauge as usize].store(0, Relaxed);
    }
    heartbeat::clear(words);
    if area.clear_row(lane.number()).is_err() {
        // A kernel that cannot punch holes: word by word.
        let slots = super::counter::slots_used(area);
        for slot in 0..slots {
            area.active(lane.number(), slot).store(0, Relaxed);
        }
    }
    words[OWNER].store(0, Release);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_is_taken_once_until_it_is_given() {
        let area = Area::fresh();
        let first = take_in(&area, 0, 1).expect("free");
        let second = take_in(&area, 1, 1).expect("free");
        assert_eq!((first.number(), second.number(), used(&area)), (1, 2, 3));
        give_in(&area, first);
        assert_eq!(take_in(&area, 0, 2).expect("free"), first);
        assert_eq!(area.lane(1)[GENERATION].load(Relaxed), 2);
    }

    #[test]
    fn all_lanes_can_be_taken_and_then_none() {
        let area = Area::fresh();
        let taken = (0..).map_while(|worker| take_in(&area, worker, 1)).count();
        assert_eq!(taken, LANES - 1);
        give_in(&area, Lane(300));
        assert_eq!(take_in(&area, 9, 1), Some(Lane(300)));
    }

    #[test]
    fn a_dead_worker_s_gauges_go_and_its_sums_stay() {
        let area = Area::fresh();
        let lane = take_in(&area, 0, 1).expect("free");
        let words = area.lane(lane.number());
        for total in Total::ALL {
            words[TOTALS + total as usize].store(5, Relaxed);
        }
        area.active(lane.number(), 40_000).store(3, Relaxed);
        give_in(&area, lane);
        let left = Total::ALL.map(|total| words[TOTALS + total as usize].load(Relaxed));
        assert_eq!(left, [5, 5, 5, 0, 0, 0, 0]);
        assert_eq!(area.active(lane.number(), 40_000).load(Relaxed), 0);
    }

    #[test]
    fn threads_never_share_a_lane() {
        let area = Area::fresh();
        let mut lanes: Vec<Lane> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..100).filter_map(|worker| take_in(&area, worker, 1)).collect()))
                .collect();
            threads.into_iter().flat_map(|thread| -> Vec<Lane> { thread.join().expect("joins") }).collect()
        });
        lanes.sort();
        lanes.dedup();
        assert_eq!(lanes.len(), 400);
    }
}
