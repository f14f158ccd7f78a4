//! A worker's heartbeat: a word that says "awake since" or "asleep", its last event, and whether it has room.
//!
//! The worker writes before and after each epoll_wait, one plain store each; the master's watchdog reads. All
//! of it is a hint: a worker that lies about itself loses its share of new connections, or keeps a share that
//! it does not serve.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::area::{Area, LANE_WORDS, area};
use super::lanes::{self, GENERATION, Lane, OWNER};

const BEAT: usize = 2;
const EVENT: usize = 3;
const FULL: usize = 6;
const TURN: usize = 7;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Between the fork and the first turn of its loop.
    Starting,
    Awake,
    Asleep,
}

/// The master's view of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    pub state: State,
    /// Time of the last change to awake, in monotonic milliseconds; 0 while starting.
    pub since_ms: u64,
    pub pid: u32,
    pub generation: u64,
    /// The last value passed to `event`; only the worker knows its meaning.
    pub last_event: u64,
    /// It can take no more connections: its siblings should get the new ones.
    pub is_full: bool,
}

/// Notes that a turn of this worker's loop began; `now_ms` is monotonic.
#[inline]
pub fn awake(now_ms: u64) {
    awake_in(lanes::my_words(), now_ms);
}

/// Notes that this worker's turn is over.
#[inline]
pub fn asleep() {
    asleep_in(lanes::my_words());
}

/// Notes what is about to run, for the log line about a stuck worker.
#[inline]
pub fn event(what: u64) {
    lanes::my_words()[EVENT].store(what, Relaxed);
}

/// Sets whether this worker is full, that is, can take no more connections.
pub fn set_full(is_full: bool) {
    lanes::my_words()[FULL].store(u64::from(is_full), Relaxed);
}

/// The last value passed to [`event`] in this process.
pub fn last_event() -> u64 {
    lanes::my_words()[EVENT].load(Relaxed)
}

/// Reports how long a turn of this worker's loop took, in microseconds. The lane keeps the longest until it
/// is given back, so it belongs to one worker; after a reload the new workers start at zero.
pub fn turn(took_us: u64) {
    turn_in(lanes::my_words(), took_us);
}

/// The longest turn of all living workers, in microseconds.
pub fn longest_turn_us() -> u64 {
    longest_turn_in(area())
}

/// The longest turn of the worker of a lane, in microseconds.
pub fn longest_turn_us_of(lane: Lane) -> u64 {
    area().lane(lane.number())[TURN].load(Relaxed)
}

/// The generation of this process; 0: it is the master.
pub fn generation() -> u64 {
    area().lane(lanes::mine().number())[GENERATION].load(Relaxed)
}

pub fn read(lane: Lane) -> Heartbeat {
    read_words(area().lane(lane.number()))
}

#[inline]
fn awake_in(words: &[AtomicU64; LANE_WORDS], now_ms: u64) {
    // Bit 0 awake, bit 1 asleep; neither: starting.
    words[BEAT].store(now_ms << 2 | 1, Release);
}

#[inline]
fn asleep_in(words: &[AtomicU64; LANE_WORDS]) {
    let beat = &words[BEAT];
    beat.store(beat.load(Relaxed) & !3 | 2, Release);
}

fn turn_in(words: &[AtomicU64; LANE_WORDS], took_us: u64) {
    words[TURN].store(words[TURN].load(Relaxed).max(took_us), Relaxed);
}

fn longest_turn_in(area: &Area) -> u64 {
    (0..lanes::used(area)).map(|lane| area.lane(lane)[TURN].load(Relaxed)).max().unwrap_or(0)
}

fn read_words(words: &[AtomicU64; LANE_WORDS]) -> Heartbeat {
    let beat = words[BEAT].load(Acquire);
    let state = match beat & 3 {
        0 => State::Starting,
        1 => State::Awake,
        _ => State::Asleep,
    };
    Heartbeat {
        state,
        since_ms: beat >> 2,
        pid: words[OWNER].load(Acquire) as u32,
        generation: words[GENERATION].load(Relaxed),
        last_event: words[EVENT].load(Relaxed),
        is_full: words[FULL].load(Relaxed) != 0,
    }
}

pub(super) fn clear(words: &[AtomicU64; LANE_WORDS]) {
    words[BEAT].store(0, Relaxed);
    words[EVENT].store(0, Relaxed);
    words[FULL].store(0, Relaxed);
    words[TURN].store(0, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_tells_its_state() {
        let area = Area::fresh();
        let lane = Lane::of_number(1).expect("a lane");
        lanes::prepare_in(&area, lane, 3, 8);
        let words = area.lane(lane.number());
        let seen = || {
            let beat = read_words(words);
            (beat.state, beat.since_ms)
        };
        assert_eq!(seen(), (State::Starting, 0));
        assert_eq!((read_words(words).pid, read_words(words).generation), (std::process::id(), 8));
        awake_in(words, 1234);
        words[EVENT].store(9, Relaxed);
        words[FULL].store(1, Relaxed);
        assert_eq!((seen(), read_words(words).last_event), ((State::Awake, 1234), 9));
        assert!(read_words(words).is_full);
        asleep_in(words);
        assert_eq!(seen(), (State::Asleep, 1234));
        lanes::give_in(&area, lane);
        assert_eq!(
            (seen(), read_words(words).pid, read_words(words).last_event),
            ((State::Starting, 0), 0, 0)
        );
        assert!(!read_words(words).is_full);
    }

    #[test]
    fn the_longest_turn_is_that_of_the_workers_that_live() {
        let area = Area::fresh();
        let lanes: Vec<_> = (1..3).map(|number| Lane::of_number(number).expect("a lane")).collect();
        lanes.iter().for_each(|lane| lanes::prepare_in(&area, *lane, 0, 1));
        for (lane, took_us) in [(0, 500), (1, 700), (0, 900), (0, 300)] {
            turn_in(area.lane(lanes[lane].number()), took_us);
        }
        assert_eq!(longest_turn_in(&area), 900);
        lanes::give_in(&area, lanes[0]);
        assert_eq!(longest_turn_in(&area), 700);
    }
}
