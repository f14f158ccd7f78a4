//! A lane for each process that counts: its own words, which no other process writes while it lives.
//!
//! The master prepares a lane before it forks, the child enters it, and the master gives it back when the
//! child is gone: gauges are then zeroed, sums stay. Only the master knows which lanes are free
//! (`master/lanes.rs`). Every worker can write any of these words, so they are only for display and for sums;
//! nothing about a process's life is decided by them. The words of a lane:
//! ```text
//! 0 owner (pid)  1 generation  2 heartbeat  3 last event  4 worker number  5 claim  6 full  7 longest turn   | one cache line
//! 8 accepted  9 handled  10 requests  11 active  12 reading  13 writing  14 waiting  15 reused
//! 16 bytes drawn  17 degraded  18 TLS handshakes  19 resumed  20 failed  21 protocol  22 cipher  23 timeout
//! 24 certificate rejected  25 no certificate  26 expired  27 revoked  28 other name  29 refused otherwise  30 post  31 taken
//! ```

use std::sync::atomic::Ordering::{Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};

pub use super::area::LANES;
use super::area::{Area, Header, LANE_WORDS, area};
use super::counter::Total;
use super::{heartbeat, held_counts, pending};

pub(super) const OWNER: usize = 0;
pub(super) const GENERATION: usize = 1;
const WORKER: usize = 4;
/// The place that the process is about to take in a table of `held_counts`, plus one; 0: none.
pub(super) const CLAIM: usize = 5;
pub(super) const TOTALS: usize = 8;
/// The port at which the process takes datagrams of QUIC from others (`net/quic/post.rs`); 0: it takes none.
const POST: usize = 30;

/// The addresses at which the process takes new clients of QUIC: a bit for each, by a hash.
const TAKEN: usize = 31;

/// The lane of this process; 0, the master's, until `enter`.
static MINE: AtomicUsize = AtomicUsize::new(0);
static IS_APART: AtomicBool = AtomicBool::new(false);
static APART: [AtomicU64; LANE_WORDS] = [const { AtomicU64::new(0) }; LANE_WORDS];

/// The number of a worker in the lanes of other processes.
pub const NO_WORKER: u32 = u32::MAX;

/// The number of a lane: from 1 for workers, 0 for the master.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane(u16);

impl Lane {
    pub fn number(self) -> usize {
        usize::from(self.0)
    }

    /// The lane with this number, if there is one.
    pub fn of_number(number: usize) -> Option<Lane> {
        (number < LANES).then_some(Lane(number as u16))
    }
}

/// Prepares a lane for a worker that is about to be forked: zeroes all gauges and held counts.
pub fn prepare(lane: Lane, worker: u32, generation: u64) {
    // Other workers may have written here since the lane was given back.
    give(lane);
    prepare_in(area(), lane, worker, generation);
}

/// Makes the lane this process's own. The child calls it before it counts anything.
pub fn enter(lane: Lane) {
    area().lane(lane.number())[OWNER].store(u64::from(std::process::id()), Release);
    MINE.store(lane.number(), Relaxed);
}

/// From here on this process counts for itself only: its clients are operators, not those of the service.
pub fn count_apart() {
    IS_APART.store(true, Relaxed);
}

/// Adds up what the process of `lane` has counted, zeroes what it held, and frees the lane. The master calls it when that
/// process is gone.
pub fn collect(lane: Lane) {
    pending::settle(lane);
    give(lane);
}

/// Zeroes what the process of `lane` held, and frees the lane.
fn give(lane: Lane) {
    held_counts::give_back(lane);
    give_in(area(), lane);
}

/// Zeroes the gauges and held counts of the master's own lane and of the free ones. They are zero already,
/// unless a worker has written into rows that are not its own. Call it only when no other master assigns
/// lanes.
pub fn clear(free: impl Iterator<Item = Lane>) {
    let used = used(area());
    [Lane(0)].into_iter().chain(free).take_while(|lane| lane.number() < used).for_each(give);
}

/// The number, within its generation, of the worker that the lane was prepared for.
pub fn worker(lane: Lane) -> u32 {
    area().lane(lane.number())[WORKER].load(Relaxed) as u32
}

/// Tells other processes the port at which this one takes datagrams.
pub fn tell_post(port: u16) {
    my_words()[POST].store(u64::from(port), Relaxed);
}

/// The port at which the process of a lane takes datagrams; `None`: it takes none.
pub fn post(lane: Lane) -> Option<u16> {
    let port = area().lane(lane.number())[POST].load(Relaxed);
    u16::try_from(port).ok().filter(|port| *port > 0)
}

/// Tells other processes that this one takes new clients of QUIC at an address, by its hash.
pub fn tell_taken(address: u64) {
    my_words()[TAKEN].fetch_or(1 << (address % 64), Relaxed);
}

/// True if the process of a lane has told that of this address; one of 64 other addresses looks the same.
pub fn is_taken(lane: Lane, address: u64) -> bool {
    area().lane(lane.number())[TAKEN].load(Relaxed) >> (address % 64) & 1 == 1
}

/// The generation of the process that the lane was prepared for.
pub fn generation(lane: Lane) -> u64 {
    area().lane(lane.number())[GENERATION].load(Relaxed)
}

/// The lanes of the workers that live, by what they say of themselves.
pub fn living() -> impl Iterator<Item = Lane> {
    let master = u64::from(nix::unistd::getppid().as_raw().cast_unsigned());
    let owner = |lane: usize| area().lane(lane)[OWNER].load(Relaxed);
    let lives = move |lane: &usize| owner(*lane) != 0 && owner(*lane) != master;
    let lanes = (1..used(area())).filter(lives).filter_map(Lane::of_number);
    lanes.filter(|lane| worker(*lane) != NO_WORKER)
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

/// The words that this process counts in.
#[inline]
pub(super) fn my_counts() -> &'static [AtomicU64; LANE_WORDS] {
    if IS_APART.load(Relaxed) { &APART } else { my_words() }
}

/// One past the highest lane ever used. Sums stop there, so that unused memory is not touched.
pub(super) fn used(area: &Area) -> usize {
    (area.header(Header::LanesUsed).load(Relaxed) as usize).clamp(1, LANES)
}

pub(super) fn prepare_in(area: &Area, lane: Lane, worker: u32, generation: u64) {
    let words = area.lane(lane.number());
    area.header(Header::LanesUsed).fetch_max(u64::from(lane.0) + 1, Relaxed);
    words[GENERATION].store(generation, Relaxed);
    words[WORKER].store(u64::from(worker), Relaxed);
    [POST, TAKEN].into_iter().for_each(|word| words[word].store(0, Relaxed));
    // Until the child enters, the lane shows the master's process id.
    words[OWNER].store(u64::from(std::process::id()), Release);
}

pub(super) fn give_in(area: &Area, lane: Lane) {
    let words = area.lane(lane.number());
    for gauge in [Total::Active, Total::Reading, Total::Writing, Total::Waiting, Total::Drawn] {
        words[TOTALS + gauge as usize].store(0, Relaxed);
    }
    heartbeat::clear(words);
    [POST, TAKEN].into_iter().for_each(|word| words[word].store(0, Relaxed));
    pending::commit(area.pending(lane.number()), 0);
    if area.clear_row(lane.number()).is_err() {
        // A kernel that cannot punch holes: zero the words one by one.
        for peer in 0..super::peers::used(area) {
            area.in_use(lane.number(), peer).store(0, Relaxed);
        }
        for slot in 0..super::counter::used(area) {
            [0, 1].into_iter().for_each(|half| area.gauge(lane.number(), slot, half).store(0, Relaxed));
        }
    }
    words[OWNER].store(0, Release);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_reach_as_far_as_lanes_were_prepared() {
        let area = Area::fresh();
        assert_eq!(used(&area), 1, "the master's own");
        prepare_in(&area, Lane(2), 0, 1);
        prepare_in(&area, Lane(1), 1, 1);
        assert_eq!(used(&area), 3);
        assert_eq!([1, 2].map(|lane| area.lane(lane)[OWNER].load(Relaxed) as u32), [std::process::id(); 2]);
        give_in(&area, Lane(1));
        assert_eq!((area.lane(1)[OWNER].load(Relaxed), used(&area)), (0, 3));
        area.header(Header::LanesUsed).store(u64::MAX, Relaxed);
        assert_eq!(used(&area), LANES, "whatever a worker writes there");
    }

    #[test]
    fn a_dead_worker_s_gauges_go_and_its_sums_stay() {
        let area = Area::fresh();
        let lane = Lane(1);
        prepare_in(&area, lane, 0, 1);
        let words = area.lane(lane.number());
        for total in Total::ALL {
            words[TOTALS + total as usize].store(5, Relaxed);
        }
        area.in_use(lane.number(), 40_000).store(3, Relaxed);
        give_in(&area, lane);
        let left = Total::ALL.map(|total| words[TOTALS + total as usize].load(Relaxed));
        assert_eq!(left, [5, 5, 5, 0, 0, 0, 0, 5]);
        assert_eq!(area.in_use(lane.number(), 40_000).load(Relaxed), 0);
    }
}
