//! The results of lookups, and how often a cache has had each.
//!
//! Touches: two slots of counters in shared memory, one for numbers of responses and one for their bytes.
//! Behaviour: nginx.org, `$upstream_cache_status`, and `/http/caches/` of ngx_http_api_module.

use crate::shm::behind::{self, Sign};
use crate::shm::counter::{Kind, Slot, Word};

/// The result of a lookup: `$upstream_cache_status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Miss,
    Bypass,
    Expired,
    Stale,
    Updating,
    Revalidated,
    Hit,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Miss => "MISS",
            Self::Bypass => "BYPASS",
            Self::Expired => "EXPIRED",
            Self::Stale => "STALE",
            Self::Updating => "UPDATING",
            Self::Revalidated => "REVALIDATED",
            Self::Hit => "HIT",
        }
    }

    /// True if the response is the upstream's, not one that was stored.
    pub fn is_from_upstream(self) -> bool {
        matches!(self, Self::Miss | Self::Bypass | Self::Expired)
    }

    /// The word that counts it. That of requests counts all.
    fn word(self) -> Word {
        match self {
            Self::Miss => Word::MISS,
            Self::Bypass => Word::BYPASS,
            Self::Expired => Word::EXPIRED,
            Self::Stale => Word::STALE,
            Self::Updating => Word::UPDATING,
            Self::Revalidated => Word::REVALIDATED,
            Self::Hit => Word::HIT,
        }
    }

    /// The word that counts responses that were stored; `None`: those of this status are in the cache already.
    fn written_word(self) -> Option<Word> {
        match self {
            Self::Miss => Some(Word::MISS_STORED),
            Self::Bypass => Some(Word::BYPASS_STORED),
            Self::Expired => Some(Word::EXPIRED_STORED),
            Self::Stale | Self::Updating | Self::Revalidated | Self::Hit => None,
        }
    }
}

/// A number of responses and the bytes of their bodies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    pub responses: u64,
    pub bytes: u64,
}

/// The counters of one cache. Empty with `-t`, or if there is no room for them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts(Option<[Slot; 2]>);

impl Counts {
    /// Those of the cache with this name, which a reload finds again. For the master while it compiles a configuration.
    pub fn open(name: &str) -> Self {
        let slot = |what| crate::shm::counter::slot(Kind::Cache, &format!("{what} {name}"));
        Self(slot("responses").zip(slot("bytes")).map(Into::into))
    }

    /// Counts a response with a body of so many bytes.
    pub fn count(&self, status: Status, bytes: u64) {
        self.add(status.word(), bytes);
    }

    /// Counts a response that was stored.
    pub fn count_written(&self, status: Status, bytes: u64) {
        status.written_word().into_iter().for_each(|word| self.add(word, bytes));
    }

    pub fn sum(&self, status: Status) -> Sum {
        self.get(status.word())
    }

    /// The responses that were stored; `None`: those of this status are in the cache already.
    pub fn written(&self, status: Status) -> Option<Sum> {
        status.written_word().map(|word| self.get(word))
    }

    pub fn slots(&self) -> impl Iterator<Item = Slot> + use<> {
        self.0.into_iter().flatten()
    }

    fn add(&self, word: Word, bytes: u64) {
        let Some([responses, all_bytes]) = self.0 else { return };
        behind::add(|counts| {
            counts.count(responses, 0, &[(word, 1)], Sign::Add);
            counts.count(all_bytes, 0, &[(word, bytes)], Sign::Add);
        });
    }

    fn get(&self, word: Word) -> Sum {
        let sum =
            |[responses, bytes]: [Slot; 2]| Sum { responses: responses.get(word), bytes: bytes.get(word) };
        self.0.map_or_else(Sum::default, sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Status; 7] = [
        Status::Miss,
        Status::Bypass,
        Status::Expired,
        Status::Stale,
        Status::Updating,
        Status::Revalidated,
        Status::Hit,
    ];

    #[test]
    fn each_status_has_counts_of_its_own() {
        let counts = Counts::open("each_status.test");
        for (number, status) in (1..).zip(ALL) {
            (0..number).for_each(|_| counts.count(status, 10));
            counts.count_written(status, 1000 + number);
        }
        behind::flush();
        for (number, status) in (1..).zip(ALL) {
            assert_eq!(counts.sum(status), Sum { responses: number, bytes: number * 10 }, "{status:?}");
            let written = status.is_from_upstream().then_some(Sum { responses: 1, bytes: 1000 + number });
            assert_eq!(counts.written(status), written, "{status:?}");
        }
        assert_eq!(counts.slots().count(), 2);
        assert_eq!(Counts::default().sum(Status::Hit), Sum::default());
    }
}
