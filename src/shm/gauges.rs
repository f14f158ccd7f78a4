//! Present numbers about the things that have a slot of [`counter`](super::counter): requests that are being processed,
//! connections that are kept, requests that wait.
//!
//! Each process has a row of its own, in its lane, and a gauge is the sum over all rows. So the part of a worker that is
//! gone goes with its lane, whatever it was doing.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use super::area::area;
use super::counter::Slot;
use super::lanes;

/// The gauges of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Present {
    /// Servers and their zones: requests or sessions in progress.
    Processing,
    /// Upstream groups: idle connections that are kept.
    Idle,
    /// Upstream groups: requests that wait for a peer (`queue`).
    Waiting,
}

impl Present {
    /// Its number among the two of a slot.
    fn half(self) -> usize {
        match self {
            Self::Processing | Self::Idle => 0,
            Self::Waiting => 1,
        }
    }
}

/// The part of this process in a gauge. Only for the thread of its loop.
#[derive(Clone, Copy, Debug)]
pub struct Gauge {
    word: &'static AtomicU32,
}

impl Gauge {
    #[inline]
    pub fn set(self, number: usize) {
        self.word.store(u32::try_from(number).unwrap_or(u32::MAX), Relaxed);
    }

    /// Counts one until it is dropped.
    #[inline]
    pub fn hold(self) -> Held {
        self.word.store(self.word.load(Relaxed).wrapping_add(1), Relaxed);
        Held(self)
    }
}

/// One that a gauge counts.
#[derive(Debug)]
pub struct Held(Gauge);

impl Drop for Held {
    #[inline]
    fn drop(&mut self) {
        let Self(Gauge { word }) = self;
        word.store(word.load(Relaxed).wrapping_sub(1), Relaxed);
    }
}

impl Slot {
    /// The part of this process in a gauge of this slot.
    #[inline]
    pub fn gauge(self, of: Present) -> Gauge {
        let lane = lanes::mine().number();
        Gauge { word: area().gauge(lane, self.index() as usize, of.half()) }
    }

    /// The sum over all processes.
    pub fn present(self, of: Present) -> u32 {
        let area = area();
        let part = |lane| area.gauge(lane, self.index() as usize, of.half()).load(Relaxed);
        (0..lanes::used(area)).map(part).fold(0, u32::wrapping_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::counter::{Kind, slot};
    use crate::shm::lanes::Lane;

    #[test]
    fn a_gauge_is_the_sum_of_all_processes_and_loses_those_that_are_gone() {
        let slot = slot(Kind::Upstream, "gauges.test").expect("room");
        let lanes = [480, 481].map(|number| Lane::of_number(number).expect("a lane"));
        lanes.iter().for_each(|lane| lanes::prepare(*lane, 0, 1));
        let word = |lane: Lane, half| area().gauge(lane.number(), slot.index() as usize, half);
        word(lanes[0], 0).store(3, Relaxed);
        word(lanes[1], 0).store(4, Relaxed);
        word(lanes[1], 1).store(5, Relaxed);
        slot.gauge(Present::Idle).set(10);
        let guards = [slot.gauge(Present::Waiting).hold(), slot.gauge(Present::Waiting).hold()];
        assert_eq!([Present::Idle, Present::Waiting].map(|of| slot.present(of)), [17, 7]);
        lanes::collect(lanes[1]);
        assert_eq!([Present::Idle, Present::Waiting].map(|of| slot.present(of)), [13, 2]);
        drop(guards);
        lanes::collect(lanes[0]);
        assert_eq!([Present::Idle, Present::Waiting].map(|of| slot.present(of)), [10, 0]);
    }
}
