//! The free lanes of the shared memory, kept in the master's own memory, where no worker can write.
//!
//! During an upgrade two masters assign lanes of one area. The older one grants the newer one a part of the
//! free lanes, and neither ever assigns one of the other's. When one of them ends the other has them all,
//! except those whose workers are still alive.

use crate::master::link::LaneSet;
use crate::shm::lanes::{LANES, Lane};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Free,
    /// Used by a worker of this master, or by one whose master has ended.
    Taken,
    /// The other master assigns it.
    Other,
}

#[derive(Debug)]
pub struct Lanes([Use; LANES]);

impl Lanes {
    /// All lanes except the master's own (0).
    pub fn all() -> Self {
        let mut lanes = Self([Use::Free; LANES]);
        lanes.0[0] = Use::Taken;
        lanes
    }

    /// The lanes that an older master has granted.
    pub fn granted(set: &LaneSet) -> Self {
        let is_granted = |number: usize| number > 0 && set[number / 8] & 1 << (number % 8) != 0;
        let mut lanes =
            Self(std::array::from_fn(|number| if is_granted(number) { Use::Free } else { Use::Other }));
        lanes.0[0] = Use::Taken;
        lanes
    }

    /// Takes the first free lane for a worker that is about to be forked. `None`: all are taken.
    pub fn take(&mut self) -> Option<Lane> {
        let number = self.0.iter().position(|it| *it == Use::Free)?;
        self.0[number] = Use::Taken;
        Lane::of_number(number)
    }

    /// Frees the lane of a worker that is gone.
    pub fn give(&mut self, lane: Lane) {
        if lane.number() > 0 {
            self.0[lane.number()] = Use::Free;
        }
    }

    /// The lanes without a worker.
    pub fn free(&self) -> impl Iterator<Item = Lane> {
        let is_free = |number: &usize| self.0[*number] == Use::Free;
        (0..LANES).filter(is_free).filter_map(Lane::of_number)
    }

    /// Grants free lanes to a newer master. Keeps up to one for each of `worker_count` workers, so that this
    /// master can still reload.
    pub fn grant(&mut self, worker_count: usize) -> LaneSet {
        let free: Vec<usize> = (0..LANES).filter(|number| self.0[*number] == Use::Free).collect();
        let kept = worker_count.min(free.len() / 3);
        let mut set = [0; LANES / 8];
        for number in &free[kept..] {
            self.0[*number] = Use::Other;
            set[number / 8] |= 1 << (number % 8);
        }
        set
    }

    /// Takes over the lanes of the other master, which has ended. Those of `alive` stay taken until they are
    /// given back.
    pub fn inherit(&mut self, alive: impl IntoIterator<Item = Lane>) {
        self.0.iter_mut().filter(|it| **it == Use::Other).for_each(|it| *it = Use::Free);
        for lane in alive {
            self.0[lane.number()] = Use::Taken;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(lanes: &mut Lanes) -> Vec<usize> {
        std::iter::from_fn(|| lanes.take()).map(Lane::number).collect()
    }

    #[test]
    fn a_lane_is_taken_once_until_it_is_given() {
        let mut lanes = Lanes::all();
        assert_eq!(taken(&mut lanes), (1..LANES).collect::<Vec<_>>(), "all but the master's own");
        lanes.give(Lane::of_number(300).expect("a lane"));
        lanes.give(Lane::of_number(0).expect("a lane"));
        assert_eq!(lanes.free().map(Lane::number).collect::<Vec<_>>(), [300]);
        assert_eq!(taken(&mut lanes), [300]);
    }

    #[test]
    fn two_masters_never_give_out_one_lane() {
        let mut old = Lanes::all();
        let workers: Vec<Lane> = (0..4).filter_map(|_| old.take()).collect();
        let mut new = Lanes::granted(&old.grant(4));
        let (mut of_old, mut of_new) = (taken(&mut old), taken(&mut new));
        assert_eq!(of_old.len(), 4, "enough for a reload");
        assert_eq!(of_new.len(), LANES - 1 - 8);
        of_old.append(&mut of_new);
        of_old.sort_unstable();
        of_old.dedup();
        assert_eq!(of_old.len(), LANES - 1 - workers.len());
    }

    #[test]
    fn both_have_room_when_there_are_many_workers() {
        let mut old = Lanes::all();
        assert_eq!((0..256).filter_map(|_| old.take()).count(), 256);
        let mut new = Lanes::granted(&old.grant(256));
        assert_eq!((taken(&mut old).len(), taken(&mut new).len()), (85, 170));
    }

    #[test]
    fn the_lanes_of_a_master_that_has_ended_are_the_other_s() {
        let mut old = Lanes::all();
        let mut new = Lanes::granted(&old.grant(0));
        let (first, second) = (new.take().expect("free"), new.take().expect("free"));
        old.inherit([second]);
        let all = taken(&mut old);
        assert!(all.contains(&first.number()) && !all.contains(&second.number()));
        assert_eq!(all.len(), LANES - 2);
        old.give(second);
        assert_eq!(old.take(), Some(second));
    }
}
