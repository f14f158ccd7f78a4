//! The pairs of one key-value zone: a map with its times of expiry and, for addresses, an index of networks.
//!
//! Pure data; the time is an argument. A pair that has expired is not found, and [`Table::expire`] gives its memory
//! back. Behaviour: nginx.org, ngx_http_keyval_module.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::Arc;

use crate::base::network::Network;

/// The longest key. A longer search key is looked up by its beginning if the zone compares prefixes.
pub const KEY_BYTES_MAX: usize = 1024;
/// The longest value.
pub const VALUE_BYTES_MAX: usize = 8 * 1024;
/// Memory of a pair besides its bytes: its nodes in the maps, and the heads of its allocations.
const PAIR_BYTES: usize = 192;

/// How keys are compared (`type=`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// Byte by byte.
    #[default]
    String,
    /// Keys are addresses and networks. The smallest network that contains the search key wins.
    Ip,
    /// The longest key that the search key begins with wins.
    Prefix,
}

impl Kind {
    /// The kind of this name.
    pub fn of(word: &str) -> Option<Self> {
        [Self::String, Self::Ip, Self::Prefix].into_iter().find(|kind| kind.name() == word)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Ip => "ip",
            Self::Prefix => "prefix",
        }
    }
}

pub type Key = Arc<[u8]>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    pub value: Box<[u8]>,
    /// On the monotonic clock; `None`: it stays.
    pub expires_ms: Option<u64>,
}

impl Pair {
    pub fn is_alive(&self, now_ms: u64) -> bool {
        self.expires_ms.is_none_or(|at_ms| now_ms < at_ms)
    }
}

/// The first bits of an address: those without IPv4 before those with, the longest first.
type Place = (bool, Reverse<u8>, u128);

/// See the file.
#[derive(Debug, Default)]
pub struct Table {
    kind: Kind,
    pairs: BTreeMap<Key, Pair>,
    expiries: BTreeSet<(u64, Key)>,
    networks: BTreeMap<Place, Key>,
    bytes: usize,
}

impl Table {
    pub fn new(kind: Kind) -> Self {
        Self { kind, ..Self::default() }
    }

    /// True if a zone of this kind can have the key.
    pub fn takes(&self, key: &[u8]) -> bool {
        self.kind != Kind::Ip || place_of(key).is_some()
    }

    /// The value for a search key.
    pub fn find(&self, search: &[u8], now_ms: u64) -> Option<&[u8]> {
        match self.kind {
            Kind::String => self.get(search, now_ms).map(|pair| &*pair.value),
            Kind::Prefix => self.find_prefix(search, now_ms),
            Kind::Ip => self.find_network(search, now_ms),
        }
    }

    /// The pair of exactly this key.
    pub fn get(&self, key: &[u8], now_ms: u64) -> Option<&Pair> {
        self.pairs.get(key).filter(|pair| pair.is_alive(now_ms))
    }

    /// The greatest key that is not greater than the search key has all the bytes in common with it that any key has
    /// which is a prefix. So each step shortens the search key, and the first prefix is the longest.
    fn find_prefix(&self, search: &[u8], now_ms: u64) -> Option<&[u8]> {
        let mut rest = &search[..search.len().min(KEY_BYTES_MAX)];
        loop {
            let range = (Bound::Unbounded, Bound::Included(rest));
            let (key, pair) = self.pairs.range::<[u8], _>(range).next_back()?;
            let common = key.iter().zip(rest).take_while(|(one, other)| one == other).count();
            if common < key.len() {
                rest = &rest[..common];
            } else if pair.is_alive(now_ms) {
                return Some(&pair.value);
            } else {
                rest = &rest[..key.len().checked_sub(1)?];
            }
        }
    }

    fn find_network(&self, search: &[u8], now_ms: u64) -> Option<&[u8]> {
        let (is_v4, Reverse(length), bits) = place_of(search)?;
        let mut next = (is_v4, Reverse(length), 0);
        // One step for each length that some key has.
        loop {
            let ((family, Reverse(length), _), _) =
                self.networks.range(next..).next().filter(|((family, ..), _)| *family == is_v4)?;
            let place = (*family, Reverse(*length), first(bits, *length, is_v4));
            let found = self.networks.get(&place).and_then(|key| self.get(key, now_ms));
            if let Some(pair) = found {
                return Some(&pair.value);
            }
            next = (is_v4, Reverse(length.checked_sub(1)?), 0);
        }
    }

    /// The key of the pair that a further one of this key would replace: the same, or for addresses another text of
    /// the same network.
    pub fn key_of(&self, key: &[u8]) -> Option<&Key> {
        match self.kind {
            Kind::Ip => self.networks.get(&place_of(key)?),
            Kind::String | Kind::Prefix => self.pairs.get_key_value(key).map(|(key, _)| key),
        }
    }

    /// Sets a pair.
    pub fn put(&mut self, key: &[u8], pair: Pair) {
        if let Some(old) = self.key_of(key).cloned() {
            self.remove(&old);
        }
        let key: Key = key.into();
        self.bytes += bytes_of(&key, &pair.value);
        if let Some(at_ms) = pair.expires_ms {
            self.expiries.insert((at_ms, Arc::clone(&key)));
        }
        if let (Kind::Ip, Some(place)) = (self.kind, place_of(&key)) {
            self.networks.insert(place, Arc::clone(&key));
        }
        self.pairs.insert(key, pair);
    }

    /// Removes the pair of exactly this key. False: there is none.
    pub fn remove(&mut self, key: &[u8]) -> bool {
        let Some((key, pair)) = self.pairs.remove_entry(key) else { return false };
        self.bytes -= bytes_of(&key, &pair.value);
        if let (Kind::Ip, Some(place)) = (self.kind, place_of(&key)) {
            self.networks.remove(&place);
        }
        if let Some(at_ms) = pair.expires_ms {
            self.expiries.remove(&(at_ms, key));
        }
        true
    }

    pub fn clear(&mut self) {
        *self = Self::new(self.kind);
    }

    /// Removes the pairs that have expired.
    pub fn expire(&mut self, now_ms: u64) {
        while let Some((at_ms, key)) = self.expiries.first().cloned()
            && at_ms <= now_ms
        {
            self.remove(&key);
        }
    }

    /// True if some pair has a time of expiry: only then does a search need the time.
    pub fn has_expiries(&self) -> bool {
        !self.expiries.is_empty()
    }

    /// The time at which the next pair expires.
    pub fn expires_ms(&self) -> Option<u64> {
        self.expiries.first().map(|(at_ms, _)| *at_ms)
    }

    /// The pairs whose keys come after this one, also those that have expired.
    pub fn after(&self, key: Option<&Key>) -> impl Iterator<Item = (&Key, &Pair)> {
        let start = key.map_or(Bound::Unbounded, |key| Bound::Excluded(&**key));
        self.pairs.range::<[u8], _>((start, Bound::Unbounded))
    }

    /// The pairs that have not expired, by key.
    pub fn iter(&self, now_ms: u64) -> impl Iterator<Item = (&Key, &Pair)> {
        self.pairs.iter().filter(move |(_, pair)| pair.is_alive(now_ms))
    }

    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// The memory of all pairs.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The memory of all pairs after [`Table::put`].
    pub fn bytes_with(&self, key: &[u8], value: &[u8]) -> usize {
        let old = self.key_of(key).and_then(|key| Some(bytes_of(key, &self.pairs.get(key)?.value)));
        self.bytes - old.unwrap_or(0) + bytes_of(key, value)
    }
}

fn bytes_of(key: &[u8], value: &[u8]) -> usize {
    key.len() + value.len() + PAIR_BYTES
}

/// The place of an address or network in the index; `None`: the text is neither.
fn place_of(text: &[u8]) -> Option<Place> {
    let parsed = Network::parse(std::str::from_utf8(text).ok()?)?;
    let Network::Inet { address, prefix } = parsed.network else { return None };
    match (address, address.to_canonical()) {
        // An IPv4 address in IPv6 form is the IPv4 address.
        (IpAddr::V6(_), IpAddr::V4(ip)) if prefix >= 96 => {
            Some((true, Reverse(prefix - 96), u128::from(ip.to_bits())))
        }
        (IpAddr::V4(ip), _) => Some((true, Reverse(prefix), u128::from(ip.to_bits()))),
        (IpAddr::V6(ip), _) => Some((false, Reverse(prefix), ip.to_bits())),
    }
}

/// The first bits of an address; the others are zero.
fn first(bits: u128, length: u8, is_v4: bool) -> u128 {
    let width = if is_v4 { 32 } else { 128 };
    bits & u128::MAX.checked_shl(width - u32::from(length).min(width)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pair(value: &str, expires_ms: Option<u64>) -> Pair {
        Pair { value: value.as_bytes().into(), expires_ms }
    }

    fn table(kind: Kind, keys: &[&str]) -> Table {
        let mut table = Table::new(kind);
        for key in keys {
            table.put(key.as_bytes(), pair(&format!("<{key}>"), None));
        }
        table
    }

    fn found(table: &Table, search: &str) -> String {
        table
            .find(search.as_bytes(), 0)
            .map(|value| String::from_utf8_lossy(value).into_owned())
            .unwrap_or_default()
    }

    #[test]
    fn strings_match_as_a_whole() {
        let table = table(Kind::String, &["a", "", "a\0b"]);
        for (search, expected) in [("a", "<a>"), ("", "<>"), ("a\0b", "<a\0b>"), ("ab", ""), ("A", "")] {
            assert_eq!(found(&table, search), expected, "{search:?}");
        }
    }

    #[test]
    fn the_longest_prefix_wins() {
        let table = table(Kind::Prefix, &["/", "/a", "/a/b/c", "/ab", "/b"]);
        for (search, expected) in [
            ("/", "</>"),
            ("/a", "</a>"),
            ("/a/b", "</a>"),
            ("/a/b/c/d", "</a/b/c>"),
            ("/a/b/d", "</a>"),
            ("/abc", "</ab>"),
            ("/c", "</>"),
            ("x", ""),
            ("", ""),
        ] {
            assert_eq!(found(&table, search), expected, "{search:?}");
        }
    }

    #[test]
    fn the_smallest_network_wins() {
        let table = table(
            Kind::Ip,
            &[
                "10.0.0.0/8",
                "10.1.0.0/16",
                "10.1.2.3",
                "0.0.0.0/0",
                "2001:db8::/32",
                "2001:db8::1",
                "::ffff:192.0.2.1",
            ],
        );
        for (search, expected) in [
            ("10.1.2.3", "<10.1.2.3>"),
            ("::ffff:10.1.2.3", "<10.1.2.3>"),
            ("10.1.2.4", "<10.1.0.0/16>"),
            ("10.1.0.0/24", "<10.1.0.0/16>"),
            ("10.0.0.0/7", "<0.0.0.0/0>"),
            ("10.2.0.0", "<10.0.0.0/8>"),
            ("11.0.0.0", "<0.0.0.0/0>"),
            ("192.0.2.1", "<::ffff:192.0.2.1>"),
            ("2001:db8::1", "<2001:db8::1>"),
            ("2001:db8::2", "<2001:db8::/32>"),
            ("2001:db9::", ""),
            ("unix:", ""),
            ("", ""),
            ("ten", ""),
        ] {
            assert_eq!(found(&table, search), expected, "{search:?}");
        }
        assert!(!table.takes(b"10.0.0.0/33") && !table.takes(b"unix:") && table.takes(b"1.2.3.4"));
    }

    #[test]
    fn a_network_has_one_pair_however_it_is_written() {
        let mut table = table(Kind::Ip, &["10.0.0.0/8"]);
        assert_eq!(table.key_of(b"10.9.9.9/8").map(|key| &**key), Some(&b"10.0.0.0/8"[..]));
        table.put(b"10.9.9.9/8", pair("new", None));
        assert_eq!((found(&table, "10.0.0.1").as_str(), table.len()), ("new", 1));
        assert!(!table.remove(b"10.0.0.0/8") && table.remove(b"10.9.9.9/8"));
        assert_eq!((found(&table, "10.0.0.1").as_str(), table.bytes()), ("", 0));
    }

    #[test]
    fn an_expired_pair_is_not_found_and_lets_a_shorter_prefix_or_wider_network_win() {
        let mut prefixes = Table::new(Kind::Prefix);
        prefixes.put(b"/a", pair("short", None));
        prefixes.put(b"/a/b", pair("long", Some(10)));
        assert_eq!(prefixes.find(b"/a/b/c", 9), Some(&b"long"[..]));
        assert_eq!(prefixes.find(b"/a/b/c", 10), Some(&b"short"[..]));
        let mut networks = Table::new(Kind::Ip);
        networks.put(b"10.0.0.0/8", pair("wide", None));
        networks.put(b"10.0.0.1", pair("narrow", Some(10)));
        assert_eq!(networks.find(b"10.0.0.1", 9), Some(&b"narrow"[..]));
        assert_eq!(networks.find(b"10.0.0.1", 10), Some(&b"wide"[..]));
        assert_eq!((networks.iter(10).count(), networks.len(), networks.expires_ms()), (1, 2, Some(10)));
        networks.expire(9);
        assert_eq!(networks.len(), 2);
        networks.expire(10);
        assert!(networks.len() == 1 && !networks.has_expiries());
        let mut empty = Table::new(Kind::Prefix);
        empty.put(b"", pair("all", Some(10)));
        assert_eq!((empty.find(b"x", 9), empty.find(b"x", 10)), (Some(&b"all"[..]), None));
    }

    #[test]
    fn memory_is_counted_to_the_byte() {
        let mut table = Table::new(Kind::String);
        assert_eq!(table.bytes_with(b"key", b"value"), 8 + PAIR_BYTES);
        table.put(b"key", pair("value", Some(5)));
        assert_eq!(table.bytes(), 8 + PAIR_BYTES);
        assert_eq!(table.bytes_with(b"key", b""), 3 + PAIR_BYTES);
        table.put(b"key", pair("", None));
        assert_eq!((table.bytes(), table.expires_ms()), (3 + PAIR_BYTES, None));
        table.clear();
        assert_eq!((table.bytes(), table.is_empty()), (0, true));
    }

    proptest! {
        #[test]
        fn prefixes_are_found_as_by_trying_all(
            keys in proptest::collection::vec("[ab]{0,6}", 0..20), search in "[ab]{0,8}",
        ) {
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            let table = table(Kind::Prefix, &keys);
            let longest = keys.iter().filter(|key| search.starts_with(**key)).max_by_key(|key| key.len());
            prop_assert_eq!(found(&table, &search), longest.map(|key| format!("<{key}>")).unwrap_or_default());
        }

        #[test]
        fn networks_are_found_as_by_trying_all(
            keys in proptest::collection::vec((0u32..16, 26u8..=32), 0..20), search in 0u32..64,
        ) {
            let texts: Vec<String> = keys.iter()
                .map(|(bits, length)| Network::of(std::net::Ipv4Addr::from_bits(bits << 2).into(), *length).to_string())
                .collect();
            let table = table(Kind::Ip, &texts.iter().map(String::as_str).collect::<Vec<_>>());
            let address = IpAddr::V4(std::net::Ipv4Addr::from_bits(search));
            let smallest = texts.iter()
                .filter(|text| Network::parse(text).expect("a network").network.contains(Some(address)))
                .max_by_key(|text| text.split_once('/').expect("a length").1.parse::<u8>().expect("a number"));
            prop_assert_eq!(
                found(&table, &address.to_string()),
                smallest.map(|text| format!("<{text}>")).unwrap_or_default()
            );
        }
    }
}
