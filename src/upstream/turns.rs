//! The order of turns in smooth weighted round robin while nothing is against any peer of a list.
//!
//! The choices among whole weights repeat after as many turns as the sum of the weights, without their common divisor.
//! So they are made once, and a counter walks through them: a turn costs the same for two peers and for a thousand. In a
//! group with `zone` all workers take their turns from one counter. A turn whose peer may not be used, or has not its
//! whole weight, is decided in rounds (`balance/round_robin.rs`), and so are as many turns after it as the order has; with
//! `zone` those of all workers. Touches: the group's words in shared memory.

use std::cell::Cell;

use crate::shm::peers::SharedTurns;

/// Additions that making an order may take, about a quarter of a millisecond. Lists that would take more, such as a
/// thousand peers of many different weights, go by rounds.
const WORK_MAX: u64 = 1 << 18;

/// The turns of one list.
#[derive(Debug)]
pub(super) struct Turns {
    order: Order,
    /// The words that all workers share, in a group with `zone`.
    shared: Option<SharedTurns>,
}

#[derive(Debug)]
enum Order {
    /// All weights are equal: each of this many peers once.
    Equal(u64),
    /// The numbers of the peers.
    Each(Box<[u32]>),
}

impl Turns {
    /// `None`: there are too many turns until they repeat.
    pub(super) fn new(weights: &[i64], shared: Option<SharedTurns>) -> Option<Self> {
        let divisor =
            weights.iter().fold(0, |divisor, weight| common_divisor(divisor, weight.unsigned_abs()));
        let first = *weights.first()?;
        if first <= 0 || weights.iter().any(|weight| *weight <= 0) {
            return None;
        }
        if weights.iter().all(|weight| *weight == first) {
            return Some(Self { order: Order::Equal(weights.len() as u64), shared });
        }
        let weights: Vec<i64> = weights.iter().map(|weight| weight / divisor.cast_signed()).collect();
        let total = weights.iter().try_fold(0_i64, |sum, weight| sum.checked_add(*weight))?;
        total.unsigned_abs().checked_mul(weights.len() as u64).filter(|work| *work <= WORK_MAX)?;
        let mut currents = vec![0_i64; weights.len()];
        let mut order = Vec::with_capacity(usize::try_from(total).ok()?);
        for _ in 0..total {
            let mut best = 0;
            for (index, weight) in weights.iter().enumerate() {
                currents[index] += weight;
                // Among equals the first wins.
                if currents[index] > currents[best] {
                    best = index;
                }
            }
            currents[best] -= total;
            order.push(u32::try_from(best).ok()?);
        }
        Some(Self { order: Order::Each(order.into()), shared })
    }

    /// Number of turns after which they repeat; not 0.
    fn count(&self) -> u64 {
        match &self.order {
            Order::Equal(count) => *count,
            Order::Each(order) => order.len() as u64,
        }
    }

    #[inline]
    fn at(&self, turn: u64) -> usize {
        match &self.order {
            Order::Equal(count) => (turn % count) as usize,
            Order::Each(order) => order[(turn % order.len() as u64) as usize] as usize,
        }
    }

    /// The next peer by this worker's own counter.
    #[inline]
    pub(super) fn next(&self, turn: &Cell<u64>) -> usize {
        let index = self.at(turn.get());
        turn.set(turn.get().wrapping_add(1));
        index
    }

    /// The next peer by the counter of all workers. `None`: there is no such counter, or this turn goes by rounds.
    #[inline]
    pub(super) fn next_shared(&self, is_fit: impl FnOnce(usize) -> bool) -> Option<usize> {
        let shared = self.shared?;
        if shared.takes_round(self.count()) {
            return None;
        }
        let index = self.at(shared.next());
        if !is_fit(index) {
            shared.go_by_rounds(self.count());
            return None;
        }
        Some(index)
    }
}

fn common_divisor(mut one: u64, mut other: u64) -> u64 {
    while other != 0 {
        (one, other) = (other, one % other);
    }
    one
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(weights: &[i64], count: usize) -> Option<String> {
        let turns = Turns::new(weights, None)?;
        let turn = Cell::new(0);
        Some((0..count).map(|_| turns.next(&turn).to_string()).collect())
    }

    #[test]
    fn the_order_is_that_of_the_rounds_and_repeats() {
        assert_eq!(order(&[5, 1, 1], 14).as_deref(), Some("00102000010200"));
        assert_eq!(order(&[500, 100, 100], 14).as_deref(), Some("00102000010200"), "only the ratio counts");
        assert_eq!(order(&[7, 7, 7], 7).as_deref(), Some("0120120"));
        assert_eq!(order(&[3], 3).as_deref(), Some("000"));
    }

    #[test]
    fn lists_that_would_take_long_have_none() {
        assert!(order(&[i64::MAX, 1], 1).is_none());
        assert!(order(&[i64::MAX, i64::MAX], 1).is_some(), "equal ones are no work");
        assert!(order(&[1 << 17, 1], 1).is_none());
        assert!(order(&[], 1).is_none());
        assert!(order(&[0, 3], 1).is_none());
        let many: Vec<i64> = (0..1000).map(|index| 1 + index % 2).collect();
        assert!(order(&many, 1).is_none());
    }

    #[test]
    fn workers_share_a_counter_and_one_that_goes_by_rounds_makes_all_do_so() {
        let shared = SharedTurns::of("turns.test").map(|shared| shared.of_priority(1));
        let workers = [(), ()].map(|()| Turns::new(&[2, 1], shared).expect("an order"));
        let turn = |worker: usize| workers[worker].next_shared(|_| true);
        assert_eq!([turn(0), turn(1), turn(1), turn(0)], [Some(0), Some(1), Some(0), Some(0)]);
        assert_eq!(workers[0].next_shared(|index| index != 1), None, "it may not be used");
        assert_eq!([turn(1), turn(0), turn(1)], [None; 3], "as many as the order has");
        assert_eq!(turn(0), Some(0), "the unused turn is not made up for");
        let others = SharedTurns::of("turns.test").map(|shared| shared.of_priority(0));
        assert_eq!(Turns::new(&[2, 1], others).and_then(|turns| turns.next_shared(|_| true)), Some(0));
    }

    #[test]
    fn no_word_of_a_hostile_worker_lasts() {
        let shared = SharedTurns::of("turns.hostile").expect("room");
        let turns = Turns::new(&[2, 1], Some(shared)).expect("an order");
        shared.scribble(u64::MAX);
        let rounds = std::iter::from_fn(|| turns.next_shared(|_| true).is_none().then_some(())).count();
        assert_eq!(rounds, 3);
        assert!((0..5).all(|_| turns.next_shared(|index| index < 2).is_some()), "the counter wraps");
    }
}
