//! Counters: the process-wide ones of `stub_status`, and a slot of words for each named server, upstream and
//! peer.
//!
//! All workers add to the words of a slot. The counters of `stub_status` are kept per lane, so that the
//! gauges of a worker that dies can be zeroed. A slot is found by the fingerprint of its kind and name, so a
//! reload finds the same counters again. Behaviour: nginx.org, ngx_http_stub_status_module.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{LazyLock, Mutex, PoisonError};

use super::area::{Area, Header, SLOT_WORDS, SLOTS, area, fingerprint};
use super::detail::{self, Detail};
use super::index::{Index, Table};
use super::lanes::{self, Lane, TOTALS};

/// Counters of the whole process tree. `Active` to `Waiting` and `Drawn` are gauges: the present number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Total {
    Accepted = 0,
    Handled = 1,
    Requests = 2,
    Active = 3,
    Reading = 4,
    Writing = 5,
    Waiting = 6,
    /// Connections that only waited and were asked to close, to make room for others.
    Reused = 7,
    /// Bytes of memory that requests hold beyond what each needs (`net/budget.rs`).
    Drawn = 8,
    /// Requests that got less memory than they wanted, since too much was in use.
    Degraded = 9,
    /// TLS handshakes with clients that succeeded, and those of them that resumed a session.
    Handshakes = 10,
    Resumed = 11,
    /// TLS handshakes with clients that failed, and the reasons that are told apart.
    HandshakesFailed = 12,
    NoCommonProtocol = 13,
    NoCommonCipher = 14,
    HandshakeTimeout = 15,
    CertificateRejected = 16,
    /// Certificates of peers that were refused, and the reasons that are told apart.
    VerifyNoCertificate = 17,
    VerifyExpired = 18,
    VerifyRevoked = 19,
    VerifyOtherName = 20,
    VerifyOther = 21,
}

impl Total {
    /// Those that count connections and requests.
    pub const ALL: [Total; 8] = [
        Total::Accepted,
        Total::Handled,
        Total::Requests,
        Total::Active,
        Total::Reading,
        Total::Writing,
        Total::Waiting,
        Total::Reused,
    ];
}

/// Adds to a sum (all but the gauges).
///
/// Only for the thread of the worker's loop, as are the functions for gauges: no other thread or process
/// writes to its lane, so no locked instruction is needed.
#[inline]
pub fn add(total: Total, count: u64) {
    let word = &lanes::my_counts()[TOTALS + total as usize];
    word.store(word.load(Relaxed).wrapping_add(count), Relaxed);
}

/// Increments a gauge (`Active`, `Reading`, `Writing`, `Waiting`) until [`leave`].
#[inline]
pub fn enter(gauge: Total) {
    add(gauge, 1);
}

/// Decrements a gauge.
#[inline]
pub fn leave(gauge: Total) {
    add(gauge, 1u64.wrapping_neg());
}

/// Moves one from the gauge `from` to the gauge `to`.
#[inline]
pub fn pass(from: Total, to: Total) {
    let words = lanes::my_counts();
    for (gauge, change) in [(from, 1u64.wrapping_neg()), (to, 1)] {
        let word = &words[TOTALS + gauge as usize];
        word.store(word.load(Relaxed).wrapping_add(change), Relaxed);
    }
}

/// The sum of a counter over all workers, including those that have exited.
pub fn total(total: Total) -> u64 {
    total_in(area(), total)
}

/// The part of a counter that belongs to a lane.
pub fn total_of(lane: Lane, total: Total) -> u64 {
    area().lane(lane.number())[TOTALS + total as usize].load(Relaxed)
}

fn total_in(area: &Area, total: Total) -> u64 {
    let count = |lane: usize| area.lane(lane)[TOTALS + total as usize].load(Relaxed);
    (0..lanes::used(area)).map(count).fold(0, u64::wrapping_add)
}

/// The kind of thing that a name belongs to; the same name has one slot for each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Server = 0,
    Location = 1,
    Upstream = 2,
    Peer = 3,
    /// A `status_zone` of servers, of HTTP or streams.
    Zone = 4,
    /// A zone of `limit_req` or `limit_conn`.
    Limit = 5,
    /// A `status_zone` of a `resolver`.
    Resolver = 6,
    /// A cache: its responses, and their bytes.
    Cache = 7,
}

impl Kind {
    /// True if it has further counts.
    fn has_detail(self) -> bool {
        matches!(self, Self::Location | Self::Upstream | Self::Zone)
    }
}

/// The words of a slot. They only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    Requests = 0,
    Status1xx = 1,
    Status2xx = 2,
    Status3xx = 3,
    Status4xx = 4,
    Status5xx = 5,
    BytesIn = 6,
    BytesOut = 7,
    /// Sum of the times to the complete response, in microseconds.
    ResponseUs = 8,
    /// Requests that were passed on to another peer.
    Retries = 9,
    /// Failures since the start.
    Failures = 10,
    /// Words of each kind's own, which have names below.
    Own0 = 11,
    Own1 = 12,
    Own2 = 13,
    Own3 = 14,
    Own4 = 15,
}

/// Servers and their zones: TLS handshakes with clients.
impl Word {
    pub const HANDSHAKES: Self = Self::Own0;
    pub const HANDSHAKES_FAILED: Self = Self::Own1;
    /// Those that resumed a session.
    pub const RESUMED: Self = Self::Own2;
    /// Clients whose certificate was refused, or that sent none where one is required.
    pub const VERIFY_FAILED: Self = Self::Own3;
}

/// Servers of mail: clients that have logged in, and attempts that the authentication server has refused.
impl Word {
    pub const LOGINS: Self = Self::Retries;
    pub const LOGINS_FAILED: Self = Self::Failures;
}

/// Peers: active checks.
impl Word {
    pub const CHECKS: Self = Self::Own0;
    pub const CHECKS_FAILED: Self = Self::Own1;
    /// The times that the peer became unhealthy.
    pub const UNHEALTHY: Self = Self::Own2;
    /// The last check: 1 failed, 2 passed; 0: there was none.
    pub const LAST_CHECK: Self = Self::Own3;
    /// Milliseconds for which it was unavailable, unhealthy or being checked, until it last came back.
    pub const DOWN_MS: Self = Self::Own4;
}

/// Peers: the times that failures have made it unavailable.
impl Word {
    pub const UNAVAILABLE: Self = Self::Retries;
}

/// Resolvers: lookups at name servers by what was asked for, and by their end.
impl Word {
    pub const NAMES: Self = Self::Requests;
    pub const SERVICES: Self = Self::Own0;
    /// Names of addresses.
    pub const HOSTS: Self = Self::Own1;
    pub const NO_ERROR: Self = Self::Status1xx;
    pub const FORMAT_ERROR: Self = Self::Status2xx;
    pub const SERVER_FAILURE: Self = Self::Status3xx;
    pub const NO_NAME: Self = Self::Status4xx;
    pub const NOT_IMPLEMENTED: Self = Self::Status5xx;
    pub const REFUSED: Self = Self::BytesIn;
    pub const TIMED_OUT: Self = Self::BytesOut;
    pub const OTHER_ERROR: Self = Self::ResponseUs;
}

/// Caches: responses by the result of the lookup, and those of them that were stored. A cache has two slots, for their
/// numbers and for the bytes of their bodies.
impl Word {
    pub const MISS: Self = Self::Status1xx;
    pub const BYPASS: Self = Self::Status2xx;
    pub const EXPIRED: Self = Self::Status3xx;
    pub const STALE: Self = Self::Status4xx;
    pub const UPDATING: Self = Self::Status5xx;
    pub const REVALIDATED: Self = Self::BytesIn;
    pub const HIT: Self = Self::BytesOut;
    pub const MISS_STORED: Self = Self::ResponseUs;
    pub const BYPASS_STORED: Self = Self::Retries;
    pub const EXPIRED_STORED: Self = Self::Failures;
}

/// Upstreams.
impl Word {
    /// Requests that found the queue full.
    pub const QUEUE_OVERFLOWS: Self = Self::Own0;
}

impl Word {
    /// The word that counts a status's class; `None` outside 100–599.
    #[inline]
    pub fn of_status(code: u16) -> Option<Self> {
        Some(match code / 100 {
            1 => Word::Status1xx,
            2 => Word::Status2xx,
            3 => Word::Status3xx,
            4 => Word::Status4xx,
            5 => Word::Status5xx,
            _ => return None,
        })
    }
}

/// The counters of one name. It is only a pointer and an index: copy it, and keep it in the configuration.
#[derive(Clone, Copy)]
pub struct Slot {
    words: &'static [AtomicU64; SLOT_WORDS],
    index: u32,
    detail: Option<Detail>,
}

static TABLE: Table =
    Table { capacity: SLOTS, used: Header::SlotsUsed, name: Area::slot_name, clear: clear_slot };

static INDEX: LazyLock<Mutex<Index>> = LazyLock::new(|| Mutex::new(Index::new(&TABLE)));

/// The details of the slots that have one.
static DETAILS: LazyLock<Mutex<HashMap<u32, Detail>>> = LazyLock::new(Mutex::default);

fn clear_slot(area: &Area, index: usize) {
    for word in area.slot(index) {
        word.store(0, Relaxed);
    }
}

/// Finds or creates the slot of a name. `None`: all 65,536 are in use.
///
/// For the master while it compiles a configuration; too slow for the path of a request.
pub fn slot(kind: Kind, name: &str) -> Option<Slot> {
    let name = fingerprint(kind as u8, name.as_bytes());
    let index = INDEX.lock().unwrap_or_else(PoisonError::into_inner).find(area(), name)?;
    if !kind.has_detail() {
        return Some(Slot::at(area(), index));
    }
    let detail = detail::of_name(name);
    let mut details = DETAILS.lock().unwrap_or_else(PoisonError::into_inner);
    match detail {
        Some(detail) => _ = details.insert(index, detail),
        None => _ = details.remove(&index),
    }
    Some(Slot { detail, ..Slot::at(area(), index) })
}

/// Number of slots ever assigned: a worker cannot have counted in any other.
pub(super) fn used(area: &Area) -> usize {
    TABLE.used(area)
}

/// Frees the slots that no configuration names any more. Call it only when no worker of an older one is
/// alive.
pub fn sweep(live: &HashSet<u32>) {
    INDEX.lock().unwrap_or_else(PoisonError::into_inner).sweep(area(), live);
    let mut details = DETAILS.lock().unwrap_or_else(PoisonError::into_inner);
    details.retain(|slot, _| live.contains(slot));
    detail::sweep(&details.values().map(|detail| detail.index()).collect());
}

impl Slot {
    fn at(area: &Area, index: u32) -> Slot {
        Slot { words: area.slot(index as usize), index, detail: None }
    }

    /// The slot with this number, which the master has assigned; `None`: there is no such slot.
    pub fn of_index(index: u32) -> Option<Slot> {
        ((index as usize) < SLOTS).then(|| Self::at(area(), index))
    }

    /// Its further counts; `None`: it has none, or all are in use.
    #[inline]
    pub fn detail(self) -> Option<Detail> {
        self.detail
    }

    /// Its number, for [`sweep`] and [`Slot::of_index`].
    pub fn index(self) -> u32 {
        self.index
    }

    #[inline]
    pub fn word(self, word: Word) -> &'static AtomicU64 {
        &self.words[word as usize]
    }

    #[inline]
    pub fn add(self, word: Word, count: u64) {
        self.word(word).fetch_add(count, Relaxed);
    }

    /// Sets a word that holds a state instead of a sum.
    pub fn set(self, word: Word, value: u64) {
        self.word(word).store(value, Relaxed);
    }

    pub fn get(self, word: Word) -> u64 {
        self.word(word).load(Relaxed)
    }
}

impl PartialEq for Slot {
    fn eq(&self, other: &Self) -> bool {
        self.index == other.index
    }
}

impl Eq for Slot {}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Slot({})", self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_slot_and_kinds_differ() {
        let slot_of = |kind, name| slot(kind, name).expect("room").index();
        let first = slot_of(Kind::Server, "keeps.test");
        assert_eq!(slot_of(Kind::Server, "keeps.test"), first);
        assert_ne!(slot_of(Kind::Upstream, "keeps.test"), first);
        assert_ne!(slot_of(Kind::Server, "other.test"), first);
    }

    #[test]
    fn swept_slots_are_empty_and_all_of_the_table_is_used() {
        let area = Area::fresh();
        let mut index = Index::new(&TABLE);
        let all: Vec<u32> = (1..=SLOTS as u64).filter_map(|name| index.find(&area, name)).collect();
        assert_eq!((all.len(), index.find(&area, u64::MAX)), (SLOTS, None));
        Slot::at(&area, all[9]).add(Word::Requests, 5);
        index.sweep(&area, &all.iter().copied().filter(|slot| *slot != all[9]).collect());
        assert_eq!(index.find(&area, u64::MAX), Some(all[9]));
        assert_eq!(Slot::at(&area, all[9]).get(Word::Requests), 0);
    }

    #[test]
    fn statuses_have_classes() {
        let codes = [100, 204, 301, 499, 599, 600, 99, 0];
        let classes = codes.map(Word::of_status);
        let words = [Word::Status1xx, Word::Status2xx, Word::Status3xx, Word::Status4xx, Word::Status5xx];
        assert_eq!(classes[..5], words.map(Some));
        assert_eq!(classes[5..], [None, None, None]);
    }

    #[test]
    fn totals_add_up_over_lanes() {
        let area = Area::fresh();
        let lanes = [1, 2].map(|number| lanes::Lane::of_number(number).expect("a lane"));
        lanes.iter().for_each(|lane| lanes::prepare_in(&area, *lane, 0, 1));
        for lane in lanes {
            area.lane(lane.number())[TOTALS + Total::Requests as usize].store(20, Relaxed);
        }
        for lane in lanes {
            area.lane(lane.number())[TOTALS + Total::Active as usize].store(1, Relaxed);
        }
        assert_eq!([Total::Requests, Total::Active].map(|total| total_in(&area, total)), [40, 2]);
        // the first worker is killed
        lanes::give_in(&area, lanes[0]);
        assert_eq!([Total::Requests, Total::Active].map(|total| total_in(&area, total)), [40, 1]);
    }

    #[test]
    fn threads_lose_no_count() {
        let slot = slot(Kind::Server, "threads.test").expect("room");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| slot.add(Word::BytesIn, 3)));
            }
        });
        assert_eq!(slot.get(Word::BytesIn), 120_000);
    }

    #[test]
    fn twenty_thousand_names_cost_eight_bytes_unused_and_136_used() {
        let area = Area::fresh();
        let before = area.zone().resident_bytes().expect("stat");
        let mut index = Index::new(&TABLE);
        let all: Vec<u32> = (1..=20_000)
            .map(|name| index.find(&area, fingerprint(0, &u32::to_le_bytes(name))).expect("room"))
            .collect();
        let unused = area.zone().resident_bytes().expect("stat") - before;
        assert!(unused <= 20_000 * 8 + 8192, "{unused}");
        for &index in &all {
            Slot::at(&area, index).add(Word::Requests, 1);
        }
        let used = area.zone().resident_bytes().expect("stat") - before;
        assert!(used <= 20_000 * (8 + 128) + 5 * 4096, "{used}");
    }
}
