//! One server of a group, as configured, and the peers it resolves to, with what is known of their health.
//!
//! A peer's words are read and written by one worker, or, in a group with `zone`, by all workers: plain
//! atomics without a lock, so that a worker that dies leaves valid words behind.
//! Parameters: nginx.org, `server` of ngx_http_upstream_module.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use crate::net::address::{Address, Host};

/// A `server` line of an `upstream` block, or the one server of `proxy_pass http://host`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// As written, for messages: `backend:8080`.
    pub name: Box<str>,
    pub host: Host,
    pub weight: i64,
    /// Failures within `fail_timeout` after which a peer is left out; 0: never.
    pub fails_max: i64,
    /// The window of `fails_max`, and how long the peer is left out.
    pub fail_timeout_ms: u64,
    /// Connections to one peer, the idle ones not counted; 0: no limit.
    pub conns_max: i64,
    pub backup: bool,
    pub down: bool,
    /// Where the name leads. Empty: it did not resolve yet, and the server is down until it does.
    pub addresses: Vec<Address>,
}

impl Server {
    /// A server with every parameter at its default, not resolved.
    pub fn new(name: &str, host: Host) -> Self {
        let addresses = host.literal().into_iter().collect();
        Self {
            name: name.into(),
            host,
            weight: 1,
            fails_max: 1,
            fail_timeout_ms: 10_000,
            conns_max: 0,
            backup: false,
            down: false,
            addresses,
        }
    }

    /// Looks the name up when it is one. Blocks. On an error the addresses stay what they were.
    pub fn resolve(&mut self) -> std::io::Result<()> {
        if self.host.literal().is_none() {
            self.addresses = self.host.resolve()?;
        }
        Ok(())
    }
}

/// What is known of a peer while serving. Milliseconds of the monotonic clock, which all workers share.
#[derive(Debug, Default)]
pub struct Words {
    current_weight: AtomicI64,
    effective_weight: AtomicI64,
    conns: AtomicI64,
    fails: AtomicI64,
    /// The last failure.
    accessed_ms: AtomicI64,
    /// When the current window began, or the last failure.
    checked_ms: AtomicI64,
}

/// Words of this worker alone, or of all.
#[derive(Debug)]
pub enum Store {
    Local(Box<Words>),
    Shared(&'static Words),
}

/// One address of a server.
#[derive(Debug)]
pub struct Peer {
    pub address: Address,
    /// The address as nginx prints it, for logs and `$upstream_addr`.
    pub name: Box<str>,
    /// Index of its line in [`crate::upstream::Group::servers`].
    pub server: usize,
    weight: i64,
    fails_max: i64,
    fail_timeout_ms: i64,
    conns_max: i64,
    down: bool,
    words: Store,
}

impl Peer {
    pub fn new(server: &Server, index: usize, address: Address, words: Store) -> Self {
        let peer = Self {
            name: address.to_string().into(),
            address,
            server: index,
            weight: server.weight,
            fails_max: server.fails_max,
            fail_timeout_ms: i64::try_from(server.fail_timeout_ms).unwrap_or(i64::MAX),
            conns_max: server.conns_max,
            down: server.down,
            words,
        };
        peer.words().effective_weight.store(server.weight, Relaxed);
        peer
    }

    pub fn is_down(&self) -> bool {
        self.down
    }

    /// Connections in use.
    pub fn conns(&self) -> i64 {
        self.words().conns.load(Relaxed)
    }

    pub fn fails(&self) -> i64 {
        self.words().fails.load(Relaxed)
    }

    /// Left out for its failures at this moment.
    pub fn is_failed(&self, now_ms: i64) -> bool {
        let words = self.words();
        self.fails_max != 0
            && words.fails.load(Relaxed) >= self.fails_max
            && now_ms - words.checked_ms.load(Relaxed) <= self.fail_timeout_ms
    }

    pub fn is_full(&self) -> bool {
        self.conns_max != 0 && self.conns() >= self.conns_max
    }

    /// Gives the peer its share of one round; returns `(current, share)`.
    /// A peer that had failed grows back to its weight, one a round.
    pub(super) fn weigh(&self) -> (i64, i64) {
        let words = self.words();
        let share = words.effective_weight.load(Relaxed);
        if share < self.weight {
            self.add(&words.effective_weight, 1);
        }
        (self.add(&words.current_weight, share), share)
    }

    /// Chosen: pays what the round gave out, and begins a new window when the last is over.
    pub(super) fn choose(&self, total: i64, now_ms: i64) {
        let words = self.words();
        self.add(&words.current_weight, -total);
        if now_ms - words.checked_ms.load(Relaxed) > self.fail_timeout_ms {
            words.checked_ms.store(now_ms, Relaxed);
        }
    }

    pub(super) fn open(&self) {
        self.add(&self.words().conns, 1);
    }

    pub(super) fn close(&self) {
        self.add(&self.words().conns, -1);
    }

    /// Counts a failure. True when it is the one that takes the peer out.
    pub(super) fn fail(&self, now_ms: i64) -> bool {
        let words = self.words();
        let fails = self.add(&words.fails, 1);
        words.accessed_ms.store(now_ms, Relaxed);
        words.checked_ms.store(now_ms, Relaxed);
        if self.fails_max == 0 {
            return false;
        }
        let share = words.effective_weight.load(Relaxed) - self.weight / self.fails_max;
        words.effective_weight.store(share.max(0), Relaxed);
        fails >= self.fails_max
    }

    /// A request went well: forgets failures that are older than the current window.
    pub(super) fn succeed(&self) {
        let words = self.words();
        if words.accessed_ms.load(Relaxed) < words.checked_ms.load(Relaxed) {
            words.fails.store(0, Relaxed);
        }
    }

    pub(super) fn forget_failures(&self) {
        self.words().fails.store(0, Relaxed);
    }

    fn words(&self) -> &Words {
        match &self.words {
            Store::Local(words) => words,
            Store::Shared(words) => words,
        }
    }

    /// Adds and returns the sum. Only words that other workers write too need the locked instruction.
    fn add(&self, word: &AtomicI64, amount: i64) -> i64 {
        match self.words {
            Store::Shared(_) => word.fetch_add(amount, Relaxed) + amount,
            Store::Local(_) => {
                let sum = word.load(Relaxed) + amount;
                word.store(sum, Relaxed);
                sum
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::address;

    fn peer(fails_max: i64) -> Peer {
        let host = address::parse_upstream("127.0.0.1:81", 80).unwrap();
        let server = Server { fails_max, weight: 4, ..Server::new("127.0.0.1:81", host) };
        Peer::new(&server, 0, server.addresses[0].clone(), Store::Local(Box::default()))
    }

    #[test]
    fn is_left_out_after_max_fails_until_the_timeout_is_over() {
        let peer = peer(2);
        assert!(!peer.fail(1000));
        assert!(!peer.is_failed(1000));
        assert!(peer.fail(2000));
        assert!(peer.is_failed(2000));
        assert!(peer.is_failed(12_000));
        assert!(!peer.is_failed(12_001));
    }

    #[test]
    fn a_success_in_a_later_window_forgets_failures() {
        let peer = peer(2);
        peer.fail(1000);
        peer.succeed();
        assert_eq!(peer.fails(), 1, "still the window of the failure");
        peer.choose(0, 20_000);
        peer.succeed();
        assert_eq!(peer.fails(), 0);
    }

    #[test]
    fn failures_without_a_limit_never_take_it_out() {
        let peer = peer(0);
        for _ in 0..100 {
            assert!(!peer.fail(1000));
        }
        assert!(!peer.is_failed(1000));
        assert_eq!(peer.weigh(), (4, 4), "nor cost it weight");
    }

    #[test]
    fn weight_lost_by_a_failure_grows_back() {
        let peer = peer(2);
        peer.fail(1000);
        let shares: Vec<i64> = (0..4).map(|_| peer.weigh().1).collect();
        assert_eq!(shares, [2, 3, 4, 4]);
    }
}
