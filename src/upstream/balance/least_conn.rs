//! The peer with the fewest connections in use for its weight (`least_conn`).
//!
//! Of several such peers, round robin chooses. In a group with `zone` the connections of all workers count.
//! Behaviour: nginx's ngx_http_upstream_least_conn_module.c.

use crate::upstream::balance::{Eligible, round_robin};
use crate::upstream::load::{Least, Load};

pub(super) fn pick(eligible: &Eligible<'_>) -> Option<usize> {
    match eligible.plain() {
        Some(plain) => plain.least_conn(),
        None => of_all_workers(eligible),
    }
}

fn of_all_workers(eligible: &Eligible<'_>) -> Option<usize> {
    let (usable, conns) = (eligible.usable(), eligible.all_conns());
    if !eligible.is_even(&usable) {
        return least(eligible, usable.iter(), |load| conns[load.index]);
    }
    let weights = eligible.weights();
    let least = Least::of(conns.iter().copied().zip(weights.iter().copied()))?;
    if !least.has_equals {
        return Some(least.first);
    }
    let is_equal = |index: usize| least.is_equal((conns[index], weights[index]));
    match eligible.turn().filter(|index| is_equal(*index)) {
        Some(index) => Some(index),
        None => round_robin::among(eligible, usable.iter().filter(|load| is_equal(load.index))),
    }
}

/// The peer with the lowest cost for its weight; of several, the one that round robin chooses. `cost` is
/// asked at least once for each peer.
#[inline]
pub(super) fn least<'a>(
    eligible: &Eligible<'_>,
    loads: impl Iterator<Item = Load<'a>> + Clone,
    cost: impl Fn(Load<'_>) -> i64,
) -> Option<usize> {
    let mut best: Option<(usize, i64, i64)> = None;
    let mut has_equals = false;
    for load in loads.clone() {
        let own = cost(load);
        match best {
            Some((_, lowest, weight)) if is_more(own, load.present_weight(), lowest, weight) => {}
            Some((_, lowest, weight)) if !is_more(lowest, weight, own, load.present_weight()) => {
                has_equals = true
            }
            _ => (best, has_equals) = (Some((load.index, own, load.present_weight())), false),
        }
    }
    let (first, lowest, weight) = best?;
    if !has_equals {
        return Some(first);
    }
    let equals = loads.filter(|&load| {
        load.index >= first && {
            let own = cost(load);
            !is_more(own, load.present_weight(), lowest, weight)
                && !is_more(lowest, weight, own, load.present_weight())
        }
    });
    // Connections of other workers may have changed: if nobody is left, the first one was the best just now.
    round_robin::among(eligible, equals).or(Some(first))
}

/// True if `cost` for `weight` is more than `other` for `other_weight`. Costs and weights are below 2⁶³ and
/// 2³², so the products fit.
#[inline]
pub(super) fn is_more(cost: i64, weight: i64, other: i64, other_weight: i64) -> bool {
    match (cost.checked_mul(other_weight), other.checked_mul(weight)) {
        (Some(left), Some(right)) => left > right,
        _ => i128::from(cost) * i128::from(other_weight) > i128::from(other) * i128::from(weight),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::balance::Tried;
    use crate::upstream::balance::tests::list;

    fn chosen(list: &crate::upstream::state::List, count: usize) -> String {
        let tried = Tried::new(list.peers.len());
        let mut held = Vec::new();
        let mut out = String::new();
        for _ in 0..count {
            let index = pick(&Eligible::new(list, &tried, 0)).unwrap();
            held.push(list.peers[index].open());
            out.push_str(&index.to_string());
        }
        out
    }

    #[test]
    fn prefers_the_idle_peer() {
        let list = list(3, |_, _| {});
        let _busy = [list.peers[0].open(), list.peers[0].open(), list.peers[1].open()];
        assert_eq!(pick(&Eligible::new(&list, &Tried::new(3), 0)), Some(2));
    }

    #[test]
    fn connections_count_for_the_weight() {
        let list = list(2, |index, server| server.weight = if index == 0 { 3 } else { 1 });
        let picks = chosen(&list, 40);
        assert_eq!((picks.matches('0').count(), picks.matches('1').count()), (30, 10), "{picks}");
    }

    #[test]
    fn equals_take_turns_by_weight() {
        let list = list(3, |_, _| {});
        let turn = || pick(&Eligible::new(&list, &Tried::new(3), 0)).unwrap().to_string();
        assert_eq!((0..7).map(|_| turn()).collect::<String>(), "0120120");
    }

    #[test]
    fn huge_costs_compare_as_they_should() {
        assert!(is_more(i64::MAX, 1, i64::MAX - 1, 1) && !is_more(i64::MAX - 1, 1, i64::MAX, 1));
        assert!(is_more(i64::MAX, 1, i64::MAX, u32::MAX.into()));
        assert!(!is_more(0, 1, 0, 5) && !is_more(0, 5, 0, 1));
    }
}
