//! Outlier ejection: a peer that answers worse than it should, or than the others, gets no requests for a while.
//!
//! `max_fails` counts failures, whatever else a peer does well; this looks at the share of failures in an interval,
//! and at the time to the head of a response. Each ejection is longer than the last, until the peer behaves; a part
//! of the group always stays. The state is in the peer, or in shared memory for a group with `zone`
//! (`upstream/peer.rs`). Pure: the time is an argument.

use std::fmt;

use crate::base::number;
use crate::config::{Diagnostic, Node};

/// The factor by which a repeated ejection may be longer than the first.
const REPEATS_MAX: u64 = 10;

/// A compiled `outlier_ejection`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The share of failed requests from which on a peer is ejected, in percent.
    pub errors_percent: Option<u32>,
    /// How many times slower than the median of the others a peer may be, in hundredths.
    pub latency_x100: Option<u32>,
    pub interval_ms: u64,
    /// Fewer requests in an interval say nothing.
    pub requests_min: u32,
    /// The length of a first ejection.
    pub time_ms: u64,
    /// The share of a group that may be ejected at a time, in percent.
    pub max_percent: u32,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            errors_percent: None,
            latency_x100: None,
            interval_ms: 10_000,
            requests_min: 20,
            time_ms: 30_000,
            max_percent: 50,
        }
    }
}

/// What a peer did in an interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub requests: u32,
    pub errors: u32,
}

impl Tally {
    /// As one word of shared memory.
    pub fn to_word(self) -> u64 {
        u64::from(self.requests) << 32 | u64::from(self.errors)
    }

    pub fn from_word(word: u64) -> Self {
        Self { requests: (word >> 32) as u32, errors: word as u32 }
    }
}

/// The rest of a group, as it looks to one of its peers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Others {
    /// Number of peers without this one, and how many of them are ejected.
    pub count: usize,
    pub ejected: usize,
    /// The median of their times to the head of a response, in microseconds; 0: unknown.
    pub median_us: u64,
}

/// Why a peer is ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Errors(Tally),
    /// Its time to the head of a response, and that of the others, in microseconds.
    Latency {
        own_us: u64,
        median_us: u64,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Errors(tally) => write!(out, "{} of {} requests failed", tally.errors, tally.requests),
            Self::Latency { own_us, median_us } => {
                let ms = |us: u64| us as f64 / 1000.0;
                write!(out, "it takes {:.1} ms to respond, the others {:.1} ms", ms(*own_us), ms(*median_us))
            }
        }
    }
}

impl Rules {
    /// Reads `outlier_ejection errors=50% latency=3 interval=10s requests=20 time=30s max=50%`.
    pub fn read(node: &Node) -> Result<Self, Diagnostic> {
        let mut rules = Self::default();
        for word in &node.args {
            let (name, value) = word.text.split_once('=').unwrap_or((&word.text, ""));
            let percent = |from: u32| {
                let number = value.strip_suffix('%').and_then(|digits| digits.parse::<u32>().ok());
                number.filter(|percent| (from..=100).contains(percent))
            };
            let read = match name {
                "errors" => percent(1).map(|percent| rules.errors_percent = Some(percent)),
                "latency" => factor_x100(value).map(|factor| rules.latency_x100 = Some(factor)),
                "interval" => positive_ms(value).map(|ms| rules.interval_ms = ms),
                "requests" => {
                    let count = value.parse().ok().filter(|count| *count > 0);
                    count.map(|count| rules.requests_min = count)
                }
                "time" => positive_ms(value).map(|ms| rules.time_ms = ms),
                "max" => percent(0).map(|percent| rules.max_percent = percent),
                _ => None,
            };
            read.ok_or_else(|| {
                let message = format!("invalid parameter \"{}\"", word.text);
                Diagnostic::error(word.span, message)
                    .help("write errors=50%, latency=3, interval=10s, requests=20, time=30s or max=50%")
            })?;
        }
        if rules.errors_percent.is_none() && rules.latency_x100.is_none() {
            let message = "\"outlier_ejection\" has no rule";
            return Err(Diagnostic::error(node.span, message)
                .help("add errors=50% for the share of failed requests, or latency=3 for slow servers"));
        }
        Ok(rules)
    }

    /// Whether a peer is ejected after an interval. `own_us`: its time to the head of a response; 0: unknown.
    pub fn judge(&self, tally: Tally, own_us: u64, others: Others) -> Option<Reason> {
        let may_go = (others.ejected + 1) * 100 <= (others.count + 1) * self.max_percent as usize
            && others.ejected < others.count;
        if tally.requests < self.requests_min || !may_go {
            return None;
        }
        let errors = u64::from(tally.errors.min(tally.requests)) * 100;
        if self.errors_percent.is_some_and(|percent| errors >= u64::from(percent) * u64::from(tally.requests))
        {
            return Some(Reason::Errors(tally));
        }
        let median_us = others.median_us;
        let is_slow = self.latency_x100.is_some_and(|factor| {
            median_us > 0 && own_us.saturating_mul(100) > median_us.saturating_mul(u64::from(factor))
        });
        is_slow.then_some(Reason::Latency { own_us, median_us })
    }

    /// How long the next ejection lasts, after `repeats` that came shortly before it.
    pub fn time_ms(&self, repeats: u64) -> u64 {
        self.time_ms.saturating_mul((repeats + 1).min(REPEATS_MAX))
    }

    /// The longest ejection that a worker may have written into shared memory.
    pub fn time_max_ms(&self) -> u64 {
        self.time_ms(REPEATS_MAX)
    }
}

/// The median of some times; 0 of none.
pub fn median_us(mut times: Vec<u64>) -> u64 {
    let middle = times.len() / 2;
    if times.is_empty() { 0 } else { *times.select_nth_unstable(middle).1 }
}

fn positive_ms(text: &str) -> Option<u64> {
    number::parse_millis(text).filter(|ms| *ms > 0)
}

/// `2.5` as 250.
fn factor_x100(text: &str) -> Option<u32> {
    let factor = text.parse::<f64>().ok().filter(|factor| (1.01..=1000.0).contains(factor));
    factor.map(|factor| (factor * 100.0).round() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LoadOptions, load_text};

    fn read(text: &str) -> Result<Rules, String> {
        let (tree, _) = load_text("test.conf", text, &LoadOptions::default());
        Rules::read(&tree.nodes[0]).map_err(|diagnostic| diagnostic.message)
    }

    fn tally(errors: u32, requests: u32) -> Tally {
        Tally { requests, errors }
    }

    #[test]
    fn its_words_are_read_and_nonsense_is_refused() {
        let rules = read("outlier_ejection errors=30% latency=2.5 interval=5s requests=9 time=1m max=20%;");
        let expected = Rules {
            errors_percent: Some(30),
            latency_x100: Some(250),
            interval_ms: 5000,
            requests_min: 9,
            time_ms: 60_000,
            max_percent: 20,
        };
        assert_eq!(rules, Ok(expected));
        assert_eq!(read("outlier_ejection;"), Err("\"outlier_ejection\" has no rule".into()));
        for word in [
            "errors=0%",
            "errors=101%",
            "errors=5",
            "errors",
            "latency=1",
            "latency=x",
            "interval=0",
            "requests=0",
            "time=x",
            "max=-1%",
            "what=1",
        ] {
            let refused = read(&format!("outlier_ejection errors=50% {word};"));
            assert_eq!(refused, Err(format!("invalid parameter \"{word}\"")), "{word}");
        }
    }

    #[test]
    fn a_peer_that_fails_too_often_is_ejected() {
        let rules = read("outlier_ejection errors=50%;").unwrap();
        let others = Others { count: 3, ..Others::default() };
        assert_eq!(rules.judge(tally(10, 20), 0, others), Some(Reason::Errors(tally(10, 20))));
        assert_eq!(rules.judge(tally(9, 20), 0, others), None);
        assert_eq!(rules.judge(tally(19, 19), 0, others), None, "too few say nothing");
        let hostile = tally(u32::MAX, 20);
        assert!(rules.judge(hostile, 0, others).is_some(), "words may be nonsense");
    }

    #[test]
    fn a_part_of_the_group_always_stays() {
        let rules = read("outlier_ejection errors=50%;").unwrap();
        let judged =
            |count, ejected| rules.judge(tally(20, 20), 0, Others { count, ejected, median_us: 0 }).is_some();
        assert!(!judged(0, 0), "the only one");
        assert!(judged(1, 0) && !judged(1, 1));
        assert!(judged(3, 1) && !judged(3, 2));
        let all = Rules { max_percent: 100, ..rules };
        assert!(all.judge(tally(20, 20), 0, Others { count: 1, ejected: 1, median_us: 0 }).is_none());
        let none = Rules { max_percent: 0, ..rules };
        assert!(none.judge(tally(20, 20), 0, Others { count: 9, ..Others::default() }).is_none());
    }

    #[test]
    fn a_peer_that_is_slower_than_the_others_is_ejected() {
        let rules = read("outlier_ejection latency=3;").unwrap();
        let others = |median_us| Others { count: 3, ejected: 0, median_us };
        let slow = Reason::Latency { own_us: 3001, median_us: 1000 };
        assert_eq!(rules.judge(tally(0, 20), 3001, others(1000)), Some(slow));
        assert_eq!(rules.judge(tally(0, 20), 3000, others(1000)), None);
        assert_eq!(rules.judge(tally(0, 20), u64::MAX, others(0)), None, "nothing is known of the others");
        assert_eq!(slow.to_string(), "it takes 3.0 ms to respond, the others 1.0 ms");
        assert_eq!((median_us(vec![5, 1, 9]), median_us(vec![])), (5, 0));
    }

    #[test]
    fn repeated_ejections_are_longer_up_to_a_limit() {
        let rules = Rules { time_ms: 30, ..Rules::default() };
        let times: Vec<u64> = [0, 1, 8, 9, 10, u64::MAX - 1].map(|repeats| rules.time_ms(repeats)).into();
        assert_eq!(times, [30, 60, 270, 300, 300, 300]);
        assert_eq!(rules.time_max_ms(), 300);
    }

    #[test]
    fn a_tally_is_a_word() {
        for tally in [tally(0, 0), tally(3, 7), tally(u32::MAX, u32::MAX)] {
            assert_eq!(Tally::from_word(tally.to_word()), tally);
        }
    }
}
