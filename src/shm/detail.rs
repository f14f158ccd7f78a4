//! Further counts of a zone or an upstream group: each status, each protocol, each way in which requests ended, and
//! histograms of their times.
//!
//! A detail belongs to a slot of [`counter`](super::counter), which has its name; both are found again by it. Unused
//! ones cost address space only. All workers add to its words, at the end of their turns.

use std::collections::HashSet;
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{LazyLock, Mutex, PoisonError};

use super::area::{Area, DETAILS, HISTOGRAMS, Header, area};
use super::histogram::Histogram;
use super::index::{Index, Table};

/// Statuses are counted from 100 on.
const STATUS_MIN: u16 = 100;
const STATUS_COUNT: usize = 500;
const PROTOCOLS_AT: usize = STATUS_COUNT;
const ENDS_AT: usize = PROTOCOLS_AT + Protocol::ALL.len();

/// The number of histograms of a detail.
pub const TIMES: usize = 3;
/// The histogram of a zone: from the first byte of a request to the end of its response, or of a session.
pub const REQUEST_TIME: usize = 0;
/// The histograms of an upstream group: the times to connect, to the response head, and to the end of the response.
pub const CONNECT_TIME: usize = 0;
pub const HEADER_TIME: usize = 1;
pub const RESPONSE_TIME: usize = 2;

/// The protocol of a request or a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http10,
    Http11,
    Http2,
    Http3,
    Tcp,
    Udp,
}

impl Protocol {
    pub const ALL: [Self; 6] = [Self::Http10, Self::Http11, Self::Http2, Self::Http3, Self::Tcp, Self::Udp];

    pub fn name(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2.0",
            Self::Http3 => "HTTP/3.0",
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}

/// The side that ended a request, and how: the first part of `$termination_reason`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct End(u8);

impl End {
    /// The whole response was sent.
    pub const OK: Self = Self(0);

    pub const CLIENT_ERROR: Self = Self(3);
    pub const UPSTREAM_ERROR: Self = Self(8);
    pub const PROXY_ERROR: Self = Self(13);

    const NAMES: [&'static str; 16] = [
        "ok",
        "client_abort",
        "client_timeout",
        "client_error",
        "client_limit",
        "client_down",
        "upstream_abort",
        "upstream_timeout",
        "upstream_error",
        "upstream_limit",
        "upstream_down",
        "proxy_abort",
        "proxy_timeout",
        "proxy_error",
        "proxy_limit",
        "proxy_down",
    ];

    /// `who`: client, upstream, proxy; `how`: abort, timeout, error, limit, down; both from 0.
    pub fn new(who: u8, how: u8) -> Self {
        Self(1 + who % 3 * 5 + how % 5)
    }

    pub fn name(self) -> &'static str {
        Self::NAMES[usize::from(self.0) % Self::NAMES.len()]
    }
}

/// The facts about a request of which each is counted, in one word so that equal ones are told at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts(u32);

impl Facts {
    #[inline]
    pub fn new(status: u16, protocol: Protocol, end: End) -> Self {
        Self(u32::from(status) << 16 | (protocol as u32) << 8 | u32::from(end.0))
    }

    /// All of them in one word.
    #[inline]
    pub(super) fn word(self) -> u32 {
        self.0
    }

    /// Those of a word that [`Facts::word`] has made.
    pub(super) fn of_word(word: u32) -> Self {
        Self(word)
    }

    pub fn status(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// The words of a detail that count them.
    pub(super) fn words(self) -> impl Iterator<Item = usize> {
        let status =
            self.status().checked_sub(STATUS_MIN).map(usize::from).filter(|index| *index < STATUS_COUNT);
        let protocol = PROTOCOLS_AT + (self.0 >> 8) as usize % 256 % Protocol::ALL.len();
        let end = ENDS_AT + self.0 as usize % End::NAMES.len();
        status.into_iter().chain([protocol, end])
    }
}

/// The further counts of a slot. It is only a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Detail {
    index: u16,
}

static TABLE: Table = Table { capacity: DETAILS, used: Header::DetailsUsed, name: Area::detail_name, clear };

static INDEX: LazyLock<Mutex<Index>> = LazyLock::new(|| Mutex::new(Index::new(&TABLE)));

fn clear(area: &Area, index: usize) {
    // If the kernel cannot punch holes, the old counts stay and are added to.
    let _: io::Result<()> = area.clear_detail(index);
}

/// Finds or creates the detail of a name, given by its fingerprint. `None`: all are in use.
pub(super) fn of_name(name: u64) -> Option<Detail> {
    let index = INDEX.lock().unwrap_or_else(PoisonError::into_inner).find(area(), name)?;
    Some(Detail { index: index as u16 })
}

/// Frees those that are not in `live`.
pub(super) fn sweep(live: &HashSet<u32>) {
    INDEX.lock().unwrap_or_else(PoisonError::into_inner).sweep(area(), live);
}

impl Detail {
    /// The detail with this number; `None`: there is no such detail.
    #[inline]
    pub(super) fn of_index(index: u64) -> Option<Self> {
        (index < DETAILS as u64).then_some(Self { index: index as u16 })
    }

    pub(super) fn index(self) -> u32 {
        u32::from(self.index)
    }

    /// One of its histograms, from 0 to [`TIMES`].
    #[inline]
    pub fn histogram(self, number: usize) -> Histogram {
        Histogram::of_index((HISTOGRAMS + usize::from(self.index) * TIMES + number % TIMES) as u32)
    }

    #[cfg(test)]
    pub(super) fn add(self, facts: Facts, count: u64) {
        let words = area().detail(usize::from(self.index));
        for word in facts.words() {
            words[word].fetch_add(count, Relaxed);
        }
    }

    fn counts(self, start: usize, length: usize) -> impl Iterator<Item = (usize, u64)> {
        let words = &area().detail(usize::from(self.index))[start..start + length];
        words.iter().map(|word| word.load(Relaxed)).enumerate().filter(|(_, count)| *count > 0)
    }

    /// The statuses that there were, with their counts.
    pub fn statuses(self) -> impl Iterator<Item = (u16, u64)> {
        self.counts(0, STATUS_COUNT).map(|(index, count)| (index as u16 + STATUS_MIN, count))
    }

    pub fn protocols(self) -> impl Iterator<Item = (&'static str, u64)> {
        self.counts(PROTOCOLS_AT, Protocol::ALL.len())
            .map(|(index, count)| (Protocol::ALL[index].name(), count))
    }

    pub fn ends(self) -> impl Iterator<Item = (&'static str, u64)> {
        self.counts(ENDS_AT, End::NAMES.len()).map(|(index, count)| (End::NAMES[index], count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::area::fingerprint;
    use crate::shm::behind;

    #[test]
    fn each_fact_is_counted_in_its_own_word() {
        let detail = of_name(fingerprint(200, b"facts")).expect("room");
        let cases = [
            (Facts::new(200, Protocol::Http11, End::OK), 2),
            (Facts::new(599, Protocol::Udp, End::new(2, 4)), 1),
            (Facts::new(100, Protocol::Http10, End::new(0, 0)), 1),
            (Facts::new(0, Protocol::Http10, End::OK), 1),
            (Facts::new(600, Protocol::Http2, End::OK), 1),
        ];
        for (facts, count) in cases {
            detail.add(facts, count);
        }
        assert_eq!(detail.statuses().collect::<Vec<_>>(), [(100, 1), (200, 2), (599, 1)]);
        let protocols = [("HTTP/1.0", 2), ("HTTP/1.1", 2), ("HTTP/2.0", 1), ("UDP", 1)];
        assert_eq!(detail.protocols().collect::<Vec<_>>(), protocols);
        assert_eq!(detail.ends().collect::<Vec<_>>(), [("ok", 4), ("client_abort", 1), ("proxy_down", 1)]);
    }

    #[test]
    fn details_have_histograms_of_their_own() {
        let (one, two) = (of_name(fingerprint(200, b"one")), of_name(fingerprint(200, b"two")));
        let (one, two) = (one.expect("room"), two.expect("room"));
        behind::add(|counts| counts.record(one.histogram(2), 70));
        behind::add(|counts| counts.record(two.histogram(0), 80));
        behind::flush();
        let counts =
            [one, two].map(|detail| [0, 1, 2].map(|number| detail.histogram(number).snapshot().count()));
        assert_eq!(counts, [[0, 0, 1], [1, 0, 0]]);
    }

    #[test]
    fn a_place_that_is_free_again_is_empty() {
        let area = Area::fresh();
        let mut index = Index::new(&TABLE);
        let first = index.find(&area, 7).expect("room") as usize;
        area.detail(first)[3].store(9, Relaxed);
        area.histogram(HISTOGRAMS + first * TIMES + 1, 3)[5].store(9, Relaxed);
        index.sweep(&area, &HashSet::new());
        assert_eq!(index.find(&area, 8), Some(first as u32));
        assert_eq!(area.detail(first)[3].load(Relaxed), 0);
        assert_eq!(area.histogram(HISTOGRAMS + first * TIMES + 1, 3)[5].load(Relaxed), 0);
    }
}
