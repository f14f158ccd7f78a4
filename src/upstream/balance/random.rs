//! A peer at random, by weight (`random`), or the better of two such peers (`random two`).
//!
//! After too many misses round robin chooses. Of two, the one with the fewer connections for its weight is
//! better, or the one with the lower time ([`By`]). Touches: a random seed of the kernel, once for each
//! thread. Behaviour: nginx's ngx_http_upstream_random_module.c.
//!
//! Where connections decide, the peers to which a connection has just ended are compared too, and win if they
//! have fewer than both. Otherwise a peer that has lost several connections gets new ones only when chance finds it, and
//! of many peers some would have twice the connections of others.

use std::cell::Cell;

use crate::sys::random;
use crate::upstream::balance::{By, Cursor, Eligible, least_conn, least_time, round_robin};
use crate::upstream::load::Load;

pub(super) fn pick(eligible: &Eligible<'_>, cursor: &mut Cursor, two: Option<By>) -> Option<usize> {
    if eligible.len() < 2 {
        return round_robin::pick(eligible);
    }
    let mut first = None;
    while cursor.may_try() {
        let index = eligible.at_random_weight(number());
        let is_accepted = || eligible.load(index).is_some_and(|load| load.accepts(number()));
        if first == Some(index) || !eligible.has(index) || !is_accepted() {
            cursor.tries += 1;
            continue;
        }
        match (two, first) {
            (None, _) => return Some(index),
            (Some(_), None) => first = Some(index),
            (Some(by), Some(other)) => return Some(best(eligible, by, better(eligible, by, other, index))),
        }
    }
    round_robin::pick(eligible)
}

/// The better of two peers; the second if they are equal, as in nginx.
fn better(eligible: &Eligible<'_>, by: By, first: usize, second: usize) -> usize {
    let (Some(one), Some(other)) = (eligible.load(first), eligible.load(second)) else { return second };
    let (cost, other_cost) = match by {
        By::Conns => (one.conns(), other.conns()),
        By::Time(time) => {
            let cost = |load: Load<'_>| least_time::cost(eligible, load.index, load.conns(), time, false);
            (cost(one), cost(other))
        }
    };
    if least_conn::is_more(other_cost, other.present_weight(), cost, one.present_weight()) {
        first
    } else {
        second
    }
}

/// `chosen`, or a peer that has lost a connection lately and has fewer.
fn best(eligible: &Eligible<'_>, by: By, chosen: usize) -> usize {
    let (By::Conns, Some(load)) = (by, eligible.load(chosen)) else { return chosen };
    let mut least = (chosen, load.conns(), load.present_weight());
    for index in eligible.freed() {
        if let Some(load) = eligible.load(index)
            && least_conn::is_more(least.1, least.2, load.conns(), load.present_weight())
            && eligible.has(index)
        {
            least = (index, load.conns(), load.present_weight());
        }
    }
    least.0
}

thread_local! {
    static STATE: Cell<u64> = const { Cell::new(0) };
}

/// The next number of xorshift64*, which is fast; nothing secret depends on it.
#[inline]
fn number() -> u64 {
    let mut state = STATE.get();
    if state == 0 {
        state = random::number() | 1;
    }
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    STATE.set(state);
    state.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::balance::Tried;
    use crate::upstream::balance::tests::list;
    use crate::upstream::state::List;

    fn turn(list: &List, two: Option<By>) -> usize {
        let tried = Tried::new(list.peers.len());
        pick(&Eligible::new(list, &tried, 0), &mut Cursor::default(), two).unwrap()
    }

    #[test]
    fn peers_get_their_weight() {
        let list = list(3, |index, server| server.weight = i64::from(index) + 1);
        let mut counts = [0; 3];
        (0..60_000).for_each(|_| counts[turn(&list, None)] += 1);
        for (count, wanted) in counts.into_iter().zip([10_000, 20_000, 30_000]) {
            assert!((wanted - 700..wanted + 700).contains(&count), "{counts:?}");
        }
    }

    #[test]
    fn of_two_the_one_with_fewer_connections_is_chosen() {
        let list = list(2, |_, _| {});
        let busy = list.peers[0].open();
        assert!((0..100).all(|_| turn(&list, Some(By::Conns)) == 1));
        drop(busy);
        let _busy = list.peers[1].open();
        assert!((0..100).all(|_| turn(&list, Some(By::Conns)) == 0));
    }

    #[test]
    fn a_peer_that_may_not_be_used_is_never_chosen() {
        let list = list(4, |index, server| server.down = index != 2);
        for two in [None, Some(By::Conns)] {
            assert!((0..200).all(|_| turn(&list, two) == 2), "at last by round robin");
        }
    }

    #[test]
    fn two_threads_have_two_sequences() {
        let other = std::thread::spawn(number).join().unwrap();
        assert_ne!(number(), other);
    }
}
