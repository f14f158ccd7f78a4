//! A peer for each key (`hash`): the remainder of a CRC-32.
//!
//! If the peer may not be used, the key is hashed again with the number of the try in front; after too many
//! misses round robin chooses, as it does for an empty key. Peers that are `down` keep their part of the
//! keys. Behaviour: nginx's ngx_http_upstream_hash_module.c, with equal results (and those of
//! Cache::Memcached).

use crate::base::checksum::crc32;
use crate::upstream::balance::{Cursor, Eligible, round_robin};

pub(super) fn pick(eligible: &Eligible<'_>, cursor: &mut Cursor) -> Option<usize> {
    if eligible.len() < 2 || cursor.key.is_empty() {
        return round_robin::pick(eligible);
    }
    by_hash(eligible, cursor, |cursor| {
        let mut crc = 0;
        if cursor.rehash > 0 {
            crc = crc32(crc, itoa::Buffer::new().format(cursor.rehash).as_bytes());
        }
        crc = crc32(crc, &cursor.key);
        cursor.hash = cursor.hash.wrapping_add(crc >> 16 & 0x7fff);
        cursor.rehash += 1;
    })
}

/// The peer that the hash of a request falls on; if that may not be used, the one of the next hash, and after
/// some misses the one that round robin chooses. `advance` makes the next hash.
pub(super) fn by_hash(
    eligible: &Eligible<'_>,
    cursor: &mut Cursor,
    advance: impl Fn(&mut Cursor),
) -> Option<usize> {
    while cursor.may_try() {
        advance(cursor);
        let index = eligible.at_weight(cursor.hash);
        if eligible.has(index) {
            return Some(index);
        }
        cursor.tries += 1;
    }
    round_robin::pick(eligible)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::balance::Tried;
    use crate::upstream::balance::tests::list;

    fn place(list: &crate::upstream::state::List, key: &str) -> Option<usize> {
        let tried = Tried::new(list.peers.len());
        pick(&Eligible::new(list, &tried, 0), &mut Cursor::new(key.as_bytes().into()))
    }

    #[test]
    fn keys_spread_by_weight_and_stay() {
        let list = list(3, |index, server| server.weight = i64::from(index) + 1);
        let mut counts = [0; 3];
        for number in 0..6000 {
            let key = format!("/page/{number}");
            let index = place(&list, &key).unwrap();
            assert_eq!(place(&list, &key), Some(index));
            counts[index] += 1;
        }
        for (count, wanted) in counts.into_iter().zip([1000, 2000, 3000]) {
            assert!((wanted - 150..wanted + 150).contains(&count), "{counts:?}");
        }
    }

    #[test]
    fn a_key_goes_on_to_other_peers_each_once() {
        let list = list(5, |_, _| {});
        let (mut tried, mut cursor) = (Tried::new(5), Cursor::new(b"key".as_slice().into()));
        let mut seen = Vec::new();
        while let Some(index) = pick(&Eligible::new(&list, &tried, 0), &mut cursor) {
            assert!(!seen.contains(&index));
            tried.add(index);
            seen.push(index);
        }
        assert_eq!(seen.len(), 5, "the last ones by round robin");
        assert!(cursor.tries <= 21);
    }

    #[test]
    fn an_empty_key_takes_turns() {
        let list = list(3, |_, _| {});
        let turns: Vec<_> = (0..6).map(|_| place(&list, "").unwrap()).collect();
        assert_eq!(turns, [0, 1, 2, 0, 1, 2]);
    }
}
