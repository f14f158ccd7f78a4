//! A peer for each client network (`ip_hash`).
//!
//! The key is the client's network; equal ones go to the same peer while it may be used, otherwise the hash
//! goes on over the same bytes, and after too many misses round robin chooses. Peers that are `down` keep
//! their part of the networks. Behaviour: nginx's ngx_http_upstream_ip_hash_module.c, with equal results.

use crate::upstream::balance::{Cursor, Eligible, hash, round_robin};

/// nginx's first value.
const START: u32 = 89;

pub(super) fn pick(eligible: &Eligible<'_>, cursor: &mut Cursor) -> Option<usize> {
    if eligible.len() < 2 {
        return round_robin::pick(eligible);
    }
    if !std::mem::replace(&mut cursor.has_begun, true) {
        cursor.hash = START;
    }
    hash::by_hash(eligible, cursor, |cursor| {
        for &byte in &*cursor.key {
            cursor.hash = (cursor.hash * 113 + u32::from(byte)) % 6271;
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::balance::Tried;
    use crate::upstream::balance::tests::list;

    fn place(list: &crate::upstream::state::List, key: &[u8], tried: &Tried) -> Option<usize> {
        pick(&Eligible::new(list, tried, 0), &mut Cursor::new(key.into()))
    }

    #[test]
    fn a_network_stays_with_its_peer() {
        let list = list(3, |_, _| {});
        for last in 0..=255 {
            let key = [10, 0, last];
            let first = place(&list, &key, &Tried::new(3));
            assert!((0..5).all(|_| place(&list, &key, &Tried::new(3)) == first));
        }
    }

    /// The values are nginx 1.22's: 127.0.0.0/24 hashes to 4053, then to 1063 (mod 6271).
    #[test]
    fn hashes_as_nginx_does_and_goes_on_from_there() {
        let mut hash = START;
        for byte in [127, 0, 0] {
            hash = (hash * 113 + byte) % 6271;
        }
        let list = list(4, |_, _| {});
        let mut tried = Tried::new(4);
        let first = place(&list, &[127, 0, 0], &tried).unwrap();
        assert_eq!(first, (hash % 4) as usize);
        let mut cursor = Cursor::new([127, 0, 0].into());
        assert_eq!(pick(&Eligible::new(&list, &tried, 0), &mut cursor), Some(first));
        tried.add(first);
        let mut seen = vec![first];
        while let Some(next) = pick(&Eligible::new(&list, &tried, 0), &mut cursor) {
            assert!(!seen.contains(&next), "each once");
            tried.add(next);
            seen.push(next);
        }
        assert_eq!(seen.len(), 4);
    }

    #[test]
    fn a_peer_that_is_down_keeps_its_part_for_later() {
        let (all, without) = (list(3, |_, _| {}), list(3, |index, server| server.down = index == 1));
        for last in 0..=255 {
            let (before, after) = (
                place(&all, &[10, 0, last], &Tried::new(3)),
                place(&without, &[10, 0, last], &Tried::new(3)),
            );
            assert!(before == after || before == Some(1), "{last}: {before:?} {after:?}");
            assert!(after.is_some_and(|index| index != 1));
        }
    }
}
