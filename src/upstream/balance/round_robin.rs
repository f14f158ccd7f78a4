//! Smooth weighted round robin: the default balancer, and the choice between equals of the others.
//!
//! In each round every peer that may be used gains its effective weight; the peer with the highest total is
//! chosen and pays the sum of all gains. So weights 5, 1, 1 give a a b a c a a, not a a a a a b c. A failure
//! lowers a peer's effective weight, which then grows back by one each round. While nothing is against any peer the
//! choices repeat, and are made once for all (`upstream/turns.rs`). Behaviour: nginx's ngx_http_upstream_get_peer
//! (ngx_http_upstream_round_robin.c).

use crate::upstream::balance::Eligible;
use crate::upstream::load::Load;

#[inline]
pub(super) fn pick(eligible: &Eligible<'_>) -> Option<usize> {
    if let Some(index) = eligible.turn() {
        return Some(index);
    }
    match eligible.plain() {
        Some(plain) => plain.round(),
        None => among(eligible, eligible.usable().iter()),
    }
}

/// Chooses among some of the peers of a list.
#[inline]
pub(super) fn among<'a>(
    eligible: &Eligible<'_>,
    loads: impl Iterator<Item = Load<'a>> + Clone,
) -> Option<usize> {
    let bound = eligible.bound();
    let mut best: Option<(i64, Load<'_>)> = None;
    let mut total = 0;
    for load in loads.clone() {
        let (current, share) = load.weigh(bound);
        total += share;
        // Among equals the first wins.
        if best.is_none_or(|(most, _)| current > most) {
            best = Some((current, load));
        }
    }
    let (most, load) = best?;
    if most > bound {
        // An error in shared memory, or thousands of workers that died in the middle of a round.
        loads.for_each(|load| load.restart());
    } else {
        load.pay(total);
    }
    Some(load.index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::balance::Tried;
    use crate::upstream::balance::tests::list;

    /// The peers chosen one after the other, as digits from 0.
    fn turns(weights: &[i64], count: usize) -> String {
        let list = list(weights.len() as u16, |index, server| server.weight = weights[usize::from(index)]);
        let tried = Tried::new(list.peers.len());
        let turn = |_| pick(&Eligible::new(&list, &tried, 0)).unwrap().to_string();
        (0..count).map(turn).collect()
    }

    #[test]
    fn spreads_by_weight_smoothly() {
        assert_eq!(turns(&[5, 1, 1], 14), "00102000010200");
        assert_eq!(turns(&[1, 1, 1], 7), "0120120");
        assert_eq!(turns(&[1], 2), "00");
    }

    #[test]
    fn each_peer_gets_its_weight_in_a_whole_round() {
        let weights = [7, 3, 1, 5];
        let chosen = turns(&weights, 1600);
        let counts = [0, 1, 2, 3].map(|peer| chosen.matches(&peer.to_string()).count() as i64);
        assert_eq!(counts, weights.map(|weight| weight * 100));
    }

    #[test]
    fn a_peer_that_failed_comes_back_slowly() {
        let list = list(2, |_, server| server.weight = 4);
        let tried = Tried::new(list.peers.len());
        list.peers[0].fail(1000);
        let turn = |_| pick(&Eligible::new(&list, &tried, 20_000)).unwrap().to_string();
        let chosen: String = (0..16).map(turn).collect();
        // The other peer wins the first rounds, until the lost weight has grown back.
        assert!(chosen.starts_with("11"), "{chosen}");
        assert!(chosen.ends_with("0101") || chosen.ends_with("1010"), "{chosen}");
    }

    #[test]
    fn no_peer_is_chosen_where_none_may_be_used() {
        let list = list(2, |_, server| server.down = true);
        assert_eq!(pick(&Eligible::new(&list, &Tried::new(2), 0)), None);
        assert_eq!(
            pick(&Eligible::new(&crate::upstream::balance::tests::list(0, |_, _| {}), &Tried::new(0), 0)),
            None
        );
    }
}
