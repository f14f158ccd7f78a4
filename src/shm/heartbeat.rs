//! A worker's sign of life: one word that says "awake since" or "asleep", and what it did last.
//!
//! The worker writes after and before each epoll_wait, two plain stores; the master reads (the watchdog).

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::area::{LANE_WORDS, area};
use super::lanes::{self, GENERATION, Lane, OWNER};

const BEAT: usize = 2;
const EVENT: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Between fork and the first turn of its loop.
    Starting,
    Awake,
    Asleep,
}

/// What the master sees of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    pub state: State,
    /// Monotonic milliseconds of the last change to awake; 0 while starting.
    pub since_ms: u64,
    pub pid: u32,
    pub generation: u64,
    /// What `event` was last told; its meaning is the worker's.
    pub last_event: u64,
}

/// This worker's turn began: `now_ms` is monotonic.
#[inline]
pub fn awake(now_ms: u64) {
    // Bit 0 awake, bit 1 asleep; neither: starting.
    lanes::my_words()[BEAT].store(now_ms << 2 | 1, Release);
}

/// This worker's turn is over.
#[inline]
pub fn asleep() {
    let beat = &lanes::my_words()[BEAT];
    beat.store(beat.load(Relaxed) & !3 | 2, Release);
}

/// Notes what is about to run, for the log line about a stuck worker.
#[inline]
pub fn event(what: u64) {
    lanes::my_words()[EVENT].store(what, Relaxed);
}

pub fn read(lane: Lane) -> Heartbeat {
    read_words(area().lane(lane.number()))
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
    }
}

pub(super) fn clear(words: &[AtomicU64; LANE_WORDS]) {
    words[BEAT].store(0, Relaxed);
    words[EVENT].store(0, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_tells_its_state() {
        // The master's lane of the process-wide area: no other test beats.
        assert_eq!(read(Lane::MASTER).state, State::Starting);
        awake(1234);
        event(9);
        let seen = read(Lane::MASTER);
        assert_eq!((seen.state, seen.since_ms, seen.last_event), (State::Awake, 1234, 9));
        asleep();
        let seen = read(Lane::MASTER);
        assert_eq!((seen.state, seen.since_ms), (State::Asleep, 1234));
        clear(area().lane(0));
        assert_eq!(read(Lane::MASTER).state, State::Starting);
    }
}
