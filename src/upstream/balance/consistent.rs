//! Consistent hashing (`hash … consistent`): few keys move when a peer comes or goes.
//!
//! The ring is ketama's as nginx places it: 160 points for each unit of weight, each point the CRC-32 of the
//! server's host, a zero, its port and the point before. A key belongs to the first point that is not below
//! its own CRC-32. So a group whose nodes run this program and nginx places each key on the same peer. Points
//! belong to a server's name as it is written; of several peers with one name (its addresses, or equal
//! lines), round robin chooses. If none of them may be used the next point counts, and after too many points
//! round robin.
//!
//! With `bounded=C` a peer is also passed over while it has more than C times its share of all connections
//! in use, by weight ("Consistent Hashing with Bounded Loads", Mirrokni, Thorup and Zadimoghaddam 2016).
//! Behaviour: nginx's ngx_http_upstream_hash_module.c.

use crate::base::checksum::crc32;
use crate::upstream::balance::{Cursor, Eligible, round_robin};

/// Points for each unit of weight, as in nginx and Cache::Memcached::Fast.
const POINTS_PER_WEIGHT: usize = 160;

/// Maximum sum of the weights on a ring: 84 MB in each worker. Beyond it weights count in proportion.
const WEIGHT_MAX: i64 = 65_536;

/// The points of a list's peers.
#[derive(Debug, Default)]
pub struct Ring {
    /// Ascending, each once.
    hashes: Box<[u32]>,
    /// For each of them, the index of its name in `owners`.
    owner_of: Box<[u32]>,
    /// The peers of each name.
    owners: Box<[Box<[u32]>]>,
}

impl Ring {
    /// `peers` are the names and weights of a list's peers, in their order.
    pub fn new<'a>(peers: impl Iterator<Item = (&'a str, i64)>) -> Self {
        let mut names: Vec<(&str, i64, Vec<u32>)> = Vec::new();
        let mut by_name = std::collections::HashMap::new();
        for (index, (name, weight)) in peers.enumerate() {
            let at = *by_name.entry(name).or_insert_with(|| {
                names.push((name, 0, Vec::new()));
                names.len() - 1
            });
            // The points of a larger weight include those of a smaller one.
            names[at].1 = weight.max(names[at].1);
            names[at].2.push(index as u32);
        }
        let total: i64 = names.iter().map(|(_, weight, _)| weight).sum();
        let units = |weight: i64| {
            let weight = i128::from(weight);
            let scaled =
                if total > WEIGHT_MAX { weight * i128::from(WEIGHT_MAX) / i128::from(total) } else { weight };
            usize::try_from(scaled).unwrap_or(0).max(1)
        };
        let count = names.iter().map(|(_, weight, _)| units(*weight) * POINTS_PER_WEIGHT).sum();
        let mut points: Vec<(u32, u32)> = Vec::with_capacity(count);
        for (owner, (name, weight, _)) in names.iter().enumerate() {
            let (host, port) = split(name);
            let start = crc32(crc32(crc32(0, host), b"\0"), port);
            let mut before = 0u32;
            for _ in 0..units(*weight) * POINTS_PER_WEIGHT {
                before = crc32(start, &before.to_le_bytes());
                points.push((before, owner as u32));
            }
        }
        points.sort_by_key(|&(hash, _)| hash); // stable: of equal points the first server's counts
        points.dedup_by_key(|&mut (hash, _)| hash);
        Self {
            hashes: points.iter().map(|&(hash, _)| hash).collect(),
            owner_of: points.iter().map(|&(_, owner)| owner).collect(),
            owners: names.into_iter().map(|(_, _, peers)| peers.into()).collect(),
        }
    }

    /// The index of the point to which a key belongs; one past the end: the first.
    fn find(&self, key: &[u8]) -> u32 {
        let hash = crc32(0, key);
        self.hashes.partition_point(|&point| point < hash) as u32
    }

    /// The peers to which a point belongs, modulo their number.
    fn owners(&self, point: u32) -> Option<&[u32]> {
        let index = (point as usize).checked_rem(self.owner_of.len())?;
        self.owners.get(self.owner_of[index] as usize).map(|peers| &**peers)
    }
}

/// The host and the port of a server's name, as nginx takes them apart.
fn split(name: &str) -> (&[u8], &[u8]) {
    let bytes = name.as_bytes();
    if let Some((scheme, path)) = bytes.split_at_checked(5)
        && scheme.eq_ignore_ascii_case(b"unix:")
    {
        return (path, b"");
    }
    let digits = bytes.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    match bytes.split_at(bytes.len() - digits) {
        ([host @ .., b':'], port) => (host, port),
        _ => (bytes, b""),
    }
}

/// `bounded_x1000`: C in thousandths; 0: no bound.
pub(super) fn pick(eligible: &Eligible<'_>, cursor: &mut Cursor, bounded_x1000: u32) -> Option<usize> {
    if eligible.len() < 2 || cursor.key.is_empty() || !cursor.may_try() {
        return round_robin::pick(eligible);
    }
    let ring = eligible.ring();
    if !std::mem::replace(&mut cursor.has_begun, true) {
        cursor.hash = ring.find(&cursor.key);
    }
    let bound = (bounded_x1000 != 0).then(|| Bound::new(eligible, bounded_x1000));
    // Points of owners that have their share already are no misses; but the walk has an end.
    let mut full_left = ring.owners.len().saturating_mul(8);
    while cursor.may_try() {
        let owners = ring.owners(cursor.hash)?;
        if let (Some(plain), None) = (eligible.plain(), &bound) {
            if owners.len() == eligible.len() {
                return round_robin::pick(eligible); // one name for all peers
            }
            return plain.round_of(owners.iter().map(|&index| index as usize));
        }
        let free = owners.iter().filter_map(|&index| eligible.get(index as usize));
        match &bound {
            Some(bound) if full_left > 0 && free.clone().next().is_some() => {
                let below = free.filter(|load| bound.permits(load.conns(), load.present_weight()));
                if let Some(index) = round_robin::among(eligible, below) {
                    return Some(index);
                }
                full_left -= 1;
                cursor.hash = cursor.hash.wrapping_add(1);
                continue;
            }
            _ => {
                if let Some(index) = round_robin::among(eligible, free) {
                    return Some(index);
                }
            }
        }
        cursor.hash = cursor.hash.wrapping_add(1);
        cursor.tries += 1;
    }
    round_robin::pick(eligible)
}

/// The share of the connections in use that a peer may have.
struct Bound {
    /// Connections of all peers that may be used, and one more.
    conns: i128,
    weight: i128,
    factor_x1000: i128,
}

impl Bound {
    fn new(eligible: &Eligible<'_>, factor_x1000: u32) -> Self {
        let (mut conns, mut weight) = (1, 0);
        for load in eligible.usable().iter() {
            conns += i128::from(load.conns());
            weight += i128::from(load.present_weight());
        }
        Self { conns, weight, factor_x1000: factor_x1000.into() }
    }

    /// True if a peer with `conns` may get one more: at most its share times the factor, rounded up.
    fn permits(&self, conns: i64, weight: i64) -> bool {
        let unit = 1000 * self.weight.max(1);
        let most = (self.conns * i128::from(weight) * self.factor_x1000 + unit - 1) / unit;
        i128::from(conns) < most
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::balance::Tried;
    use crate::upstream::balance::tests::list;
    use crate::upstream::peer::InUse;
    use crate::upstream::state::List;

    fn place(list: &List, key: &str, bounded_x1000: u32) -> Option<usize> {
        let tried = Tried::new(list.peers.len());
        pick(&Eligible::new(list, &tried, 0), &mut Cursor::new(key.as_bytes().into()), bounded_x1000)
    }

    #[test]
    fn names_are_taken_apart_as_nginx_does() {
        for (name, host, port) in [
            ("127.0.0.1:8081", "127.0.0.1", "8081"),
            ("backend", "backend", ""),
            ("backend9", "backend9", ""),
            ("unix:/tmp/a:9", "/tmp/a:9", ""),
            ("UNIX:/tmp/a", "/tmp/a", ""),
            ("[::1]:80", "[::1]", "80"),
            ("[::1]", "[::1]", ""),
            ("host:", "host", ""),
            (":80", "", "80"),
            ("80", "80", ""),
            ("", "", ""),
        ] {
            assert_eq!(split(name), (host.as_bytes(), port.as_bytes()), "{name}");
        }
    }

    #[test]
    fn few_keys_move_when_a_peer_goes() {
        let (all, without) = (list(10, |_, _| {}), list(10, |index, server| server.down = index == 3));
        let keys = 20_000;
        let mut moved = 0;
        for number in 0..keys {
            let key = format!("/{number}");
            let (before, after) = (place(&all, &key, 0), place(&without, &key, 0));
            if before != after {
                assert_eq!(before, Some(3), "only its own keys move");
                moved += 1;
            }
        }
        assert!(f64::from(moved) <= 1.5 / 10.0 * f64::from(keys), "{moved} of {keys}");
    }

    /// A name that is gone, rather than down: the ring is another one.
    #[test]
    fn few_keys_move_to_a_ring_without_the_peer() {
        let names: Vec<String> = (0..10).map(|index| format!("10.0.0.{index}:80")).collect();
        let ring = |skip: usize| {
            Ring::new(
                names.iter().enumerate().filter(|(index, _)| *index != skip).map(|(_, name)| (&**name, 1)),
            )
        };
        let (all, without) = (ring(99), ring(9));
        let owner = |ring: &Ring, key: &str| ring.owners(ring.find(key.as_bytes())).unwrap()[0];
        let keys: Vec<String> = (0..20_000).map(|number| format!("/{number}")).collect();
        let moved = keys.iter().filter(|key| owner(&all, key) != owner(&without, key)).count();
        assert!(moved > 0 && moved * 10 <= keys.len() * 3 / 2, "{moved}");
    }

    #[test]
    fn keys_spread_by_weight() {
        let list = list(3, |index, server| server.weight = i64::from(index + 1) * 2);
        let mut counts = [0i32; 3];
        (0..12_000).for_each(|number| counts[place(&list, &format!("k{number}"), 0).unwrap()] += 1);
        for (count, wanted) in counts.into_iter().zip([2000, 4000, 6000]) {
            assert!((count - wanted).abs() < wanted / 5, "{counts:?}");
        }
    }

    #[test]
    fn peers_of_one_name_take_turns() {
        let ring = Ring::new([("a:80", 1), ("b:80", 2), ("a:80", 3)].into_iter());
        assert_eq!(ring.owners.len(), 2);
        assert_eq!(&*ring.owners[0], [0, 2]);
        assert!(ring.hashes.is_sorted_by(|a, b| a < b) && ring.hashes.len() == 5 * 160);
    }

    #[test]
    fn a_ring_has_a_largest_size() {
        let ring = Ring::new([("a:80", i64::from(u32::MAX)), ("b:80", 1)].into_iter());
        assert!(ring.hashes.len() <= (WEIGHT_MAX as usize + 1) * POINTS_PER_WEIGHT);
        assert!(ring.owner_of.contains(&1), "nobody loses all points");
        assert!(Ring::new(std::iter::empty()).owners(5).is_none());
    }

    #[test]
    fn a_bound_keeps_a_hot_key_from_overloading_its_peer() {
        for (bound, most) in [(1250, 13), (2000, 20)] {
            let list = list(10, |_, _| {});
            let mut held: Vec<InUse> = Vec::new();
            for _ in 0..100 {
                let index = place(&list, "hot", bound).unwrap();
                held.push(list.peers[index].open());
            }
            let highest = list.peers.iter().map(|peer| peer.conns()).max();
            assert_eq!(highest, Some(most), "C = {bound}/1000, 100 connections, 10 peers");
        }
        let list = list(10, |_, _| {});
        let held: Vec<InUse> = (0..100).map(|_| list.peers[place(&list, "hot", 0).unwrap()].open()).collect();
        assert_eq!(held[0].peer().conns(), 100, "without one it all stays");
    }

    #[test]
    fn a_bound_leaves_keys_alone_while_peers_are_idle() {
        let list = list(10, |_, _| {});
        for number in 0..500 {
            let key = format!("/{number}");
            assert_eq!(place(&list, &key, 1250), place(&list, &key, 0));
        }
    }

    #[test]
    fn each_peer_is_tried_once() {
        let list = list(30, |_, _| {});
        for bounded in [0, 1250] {
            let (mut tried, mut cursor) = (Tried::new(30), Cursor::new(b"key".as_slice().into()));
            let mut seen = std::collections::HashSet::new();
            while let Some(index) = pick(&Eligible::new(&list, &tried, 0), &mut cursor, bounded) {
                assert!(seen.insert(index));
                tried.add(index);
            }
            assert_eq!(seen.len(), 30);
        }
    }
}
