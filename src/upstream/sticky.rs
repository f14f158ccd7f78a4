//! Clients that stay at one peer (`sticky`): the ids of peers, and the tables that remember which key is bound
//! to which.
//!
//! Knows no protocol: the language part brings a key or an id, and says when a peer has answered. The course
//! of a request through its group prefers the peer that the request is bound to (`upstream/session.rs`).
//! Touches: a table in shared memory (`shm/affinity.rs`), the log. Behaviour: nginx.org, `sticky` of
//! ngx_http_upstream_module; `sticky source` is ours.

use std::fmt::Write;
use std::io;
use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use md5::{Digest, Md5};

use crate::base::network::Network;
use crate::log;
use crate::shm::affinity::{Mark, Table};
use crate::shm::named::{self, Used};
use crate::upstream::peer::Peer;

/// The interval at which a table logs that it is too small.
const TOLD_EVERY_MS: u64 = 60_000;

/// The name by which clients and tables refer to a peer of a sticky group.
///
/// The same in every worker and after every reload, as long as its `server` line has the same `route` or leads
/// to the same address.
#[derive(Debug, PartialEq, Eq)]
pub struct Id {
    text: Box<[u8]>,
    mark: Mark,
}

impl Id {
    /// `route` of the peer's server, otherwise the MD5 digest of the peer's address in hex, as in nginx.
    /// `address` is the peer's name, such as `127.0.0.1:8080`.
    pub fn new(route: Option<&str>, address: &str) -> Self {
        let text = route.map_or_else(|| digest(address), str::to_owned);
        Self { mark: Mark::of(text.as_bytes()), text: text.into_bytes().into() }
    }

    /// What a cookie contains.
    pub fn text(&self) -> &[u8] {
        &self.text
    }
}

fn digest(address: &str) -> String {
    let mut hex = String::with_capacity(32);
    for byte in Md5::digest(address.as_bytes()) {
        let _ = write!(hex, "{byte:02x}"); // writing to a String does not fail
    }
    hex
}

/// The peer that a request is bound to. There may be none of this id in the group: it comes from the client, or
/// from memory that other workers write.
#[derive(Debug, PartialEq, Eq)]
pub enum Bound {
    /// The client names it (`sticky cookie`, `sticky route`).
    Id(Box<[u8]>),
    /// A table does.
    Mark(Mark),
    /// A kept connection leads to this [`Peer::address_id`] (`ntlm`).
    Address(u32),
}

impl Bound {
    /// True if it is this peer.
    pub(super) fn is(&self, peer: &Peer) -> bool {
        match self {
            Self::Id(text) => peer.id().is_some_and(|id| *text == id.text),
            Self::Mark(mark) => peer.id().is_some_and(|id| *mark == id.mark),
            Self::Address(id) => peer.address_id == *id,
        }
    }
}

/// Keys and the peers they are bound to: `sticky learn` and `sticky source`.
///
/// Part of the configuration; all workers share its table, which a reload and a new binary find by the name
/// of the zone and its size. A key that is not used for `timeout_ms` is forgotten.
#[derive(Debug)]
pub struct Bindings {
    /// The language part whose groups it is for; empty: HTTP.
    part: &'static str,
    zone: Box<str>,
    bytes: usize,
    timeout_ms: u64,
    /// Empty with `-t`, where nothing is served.
    table: OnceLock<Table>,
    /// The last time that it logged that it is too small; 0: never.
    told_ms: AtomicU64,
}

impl Bindings {
    /// `part`: the language part, since zones of two parts may have one name; empty: HTTP.
    pub fn new(part: &'static str, zone: &str, bytes: usize, timeout_ms: u64) -> Self {
        let (table, told_ms) = (OnceLock::new(), AtomicU64::new(0));
        Self { part, zone: zone.into(), bytes, timeout_ms, table, told_ms }
    }

    /// Maps its memory. For the master when a configuration is complete; not with `-t`.
    pub fn open(&self) -> io::Result<()> {
        if self.table.get().is_none() {
            let _ = self.table.set(Table::open(self.memory(), self.bytes)?);
        }
        Ok(())
    }

    /// Its memory.
    pub fn used(&self) -> Used {
        Used { name: self.memory(), bytes: self.bytes }
    }

    fn memory(&self) -> u64 {
        named::name(&format!("{}sticky {} {}", self.part, self.zone, self.bytes))
    }

    pub fn zone(&self) -> &str {
        &self.zone
    }

    /// The peer that a key is bound to.
    pub fn find(&self, key: &[u8], now_ms: u64) -> Option<Bound> {
        let table = self.table.get()?;
        table.get(table.key(key), self.timeout_ms, now_ms).map(Bound::Mark)
    }

    /// Binds a key to a peer, from now on for `timeout_ms`.
    pub fn bind(&self, key: &[u8], peer: &Peer, now_ms: u64) {
        let (Some(table), Some(id)) = (self.table.get(), peer.id()) else { return };
        if table.put(table.key(key), id.mark, self.timeout_ms, now_ms) {
            self.tell_too_small(now_ms);
        }
    }

    /// The same for a key that is bound to some peer; another one stays unbound.
    pub fn renew(&self, key: &[u8], peer: &Peer, now_ms: u64) {
        let (Some(table), Some(id)) = (self.table.get(), peer.id()) else { return };
        table.renew(table.key(key), id.mark, self.timeout_ms, now_ms);
    }

    #[cold]
    fn tell_too_small(&self, now_ms: u64) {
        let told_ms = self.told_ms.load(Relaxed);
        if told_ms != 0 && now_ms.saturating_sub(told_ms) < TOLD_EVERY_MS {
            return;
        }
        self.told_ms.store(now_ms.max(1), Relaxed);
        let (zone, size) = (&self.zone, self.bytes / 1024);
        log::warn!(
            log::process(),
            &(),
            "sticky zone \"{}\" is too small: it forgot a client whose time was not over; give \"sticky\" more than \
             zone={}:{}k",
            zone,
            zone,
            size
        );
    }
}

/// The part of a client's address by which it is known (`sticky source`): this many bits of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefixes {
    pub v4: u8,
    pub v6: u8,
}

impl Default for Prefixes {
    /// An IPv4 address, and the network that a provider gives to one IPv6 client.
    fn default() -> Self {
        Self { v4: 32, v6: 64 }
    }
}

impl Prefixes {
    /// The key of a client. An IPv4 address that is mapped into IPv6 counts as what it is.
    pub fn key(self, client: IpAddr) -> Vec<u8> {
        let client = client.to_canonical();
        let network = Network::of(client, if client.is_ipv4() { self.v4 } else { self.v6 });
        network.to_string().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::balance::tests::peers;

    fn bindings(zone: &str, timeout_ms: u64) -> Bindings {
        let bindings = Bindings::new("", zone, 32 * 1024, timeout_ms);
        bindings.open().expect("maps");
        bindings
    }

    /// Two peers with ids, the second one by its route.
    fn pair() -> (Peer, Peer) {
        let mut two =
            peers(2, |_, _| {}).into_iter().map(|peer| std::rc::Rc::into_inner(peer).expect("only one"));
        let (first, second) = (two.next().expect("a peer"), two.next().expect("a peer"));
        let id = Id::new(None, &first.name);
        (first.with_id(id), second.with_id(Id::new(Some("b"), "")))
    }

    #[test]
    fn the_id_of_a_peer_is_its_route_or_the_digest_of_its_address() {
        // echo -n 127.0.0.1:8080 | md5sum
        assert_eq!(Id::new(None, "127.0.0.1:8080").text(), b"5958c386bf5e9109ac10d2a628645aea".as_slice());
        assert_eq!(Id::new(Some("app-1"), "127.0.0.1:8080").text(), b"app-1");
    }

    #[test]
    fn a_bound_request_names_a_peer_by_its_id_or_its_mark() {
        let (first, second) = pair();
        let id = |text: &[u8]| Bound::Id(text.into());
        assert!(id(b"b").is(&second) && !id(b"b").is(&first) && !id(b"").is(&first) && !id(b"B").is(&second));
        assert!(!id(&[b'b'; 100_000]).is(&second));
        let text = first.id().expect("set").text().to_vec();
        assert!(id(&text).is(&first) && !id(&text[..31]).is(&first));
        assert!(Bound::Mark(Mark::of(&text)).is(&first) && !Bound::Mark(Mark::of(&text)).is(&second));
        let without = peers(1, |_, _| {});
        assert!(!id(b"b").is(&without[0]), "the group is not sticky");
    }

    #[test]
    fn a_key_stays_with_its_peer_for_a_while() {
        let (first, second) = pair();
        let bindings = bindings("sticky test 1", 1000);
        let mark = |peer: &Peer| Some(Bound::Mark(peer.id().expect("set").mark));
        assert_eq!(bindings.find(b"k", 0), None);
        bindings.renew(b"k", &first, 0);
        assert_eq!(bindings.find(b"k", 0), None, "only what is bound is renewed");
        bindings.bind(b"k", &first, 0);
        bindings.renew(b"k", &second, 900);
        assert_eq!((bindings.find(b"k", 1800), bindings.find(b"k", 3000)), (mark(&second), None));
        bindings.bind(b"k", &first, 3000);
        assert_eq!((bindings.find(b"k", 3000), bindings.find(b"other", 3000)), (mark(&first), None));
    }

    #[test]
    fn tables_are_found_again_by_zone_and_size() {
        let (first, _) = pair();
        let old = bindings("sticky test 2", 1000);
        old.bind(b"k", &first, 0);
        assert!(bindings("sticky test 2", 5000).find(b"k", 4000).is_some(), "with the timeout of the reload");
        let larger = Bindings::new("", "sticky test 2", 64 * 1024, 1000);
        larger.open().expect("maps");
        assert_eq!(larger.find(b"k", 0), None, "another table");
        assert_ne!(larger.memory(), old.memory());
        let closed = Bindings::new("", "sticky test 2", 32 * 1024, 1000);
        closed.bind(b"k", &first, 0);
        assert_eq!(closed.find(b"k", 0), None, "with -t there is none");
    }

    #[test]
    fn a_client_is_known_by_a_part_of_its_address() {
        let key = |text: &str, v4, v6| Prefixes { v4, v6 }.key(text.parse().expect("an address"));
        assert_eq!(key("10.1.2.3", 24, 64), key("10.1.2.200", 24, 64));
        assert_ne!(key("10.1.2.3", 32, 64), key("10.1.2.4", 32, 64));
        assert_eq!(key("::ffff:10.1.2.3", 32, 64), key("10.1.2.3", 32, 64));
        assert_eq!(key("2001:db8::1", 32, 64), key("2001:db8::ffff:0:1", 32, 64));
        assert_ne!(key("2001:db8::1", 32, 128), key("2001:db8::2", 32, 128));
        assert_eq!(key("2001:db8::1", 0, 0), key("::1", 0, 0), "one key for all");
        assert_ne!(key("2001:db8::1", 0, 0), key("10.1.2.3", 0, 0), "for all of one family");
    }
}
