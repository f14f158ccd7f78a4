//! Active checks of a group's peers: their rules, and what their results make of a peer's health.
//!
//! The tasks that run checks are in `upstream/prober.rs`. Touches: the peers' health in shared memory, which is only
//! read. Behaviour: nginx.org, `health_check` of ngx_http_upstream_hc_module.

use crate::base::number;
use crate::config::{Diagnostic, Word};
use crate::shm::peers::{self, Health, Place};

/// The parameters that checks of every kind have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The time from the start of one check of a peer to the next.
    pub interval_ms: u64,
    /// Each check is delayed by a random time up to this.
    pub jitter_ms: u64,
    /// Failed checks in a row after which a healthy peer is unhealthy, and passed ones after which it is healthy again.
    pub fails: u32,
    pub passes: u32,
    /// The port to connect to instead of the peer's own.
    pub port: Option<u16>,
    /// A peer gets no requests before its first check.
    pub is_mandatory: bool,
    /// A reload does not make its first check another first one.
    pub is_persistent: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            interval_ms: 5_000,
            jitter_ms: 0,
            fails: 1,
            passes: 1,
            port: None,
            is_mandatory: false,
            is_persistent: false,
        }
    }
}

impl Rules {
    /// Takes a parameter of the directive; false if it is none of these.
    pub fn take(&mut self, word: &Word) -> Result<bool, Diagnostic> {
        let invalid = || Diagnostic::error(word.span, format!("invalid parameter \"{}\"", word.text));
        let (name, value) = word.text.split_once('=').unwrap_or((&word.text, ""));
        let count = || value.parse::<u32>().ok().filter(|count| *count > 0).ok_or_else(invalid);
        match name {
            "interval" => {
                let interval_ms = number::parse_millis(value).filter(|ms| *ms > 0);
                self.interval_ms = interval_ms.ok_or_else(invalid)?;
            }
            "jitter" => self.jitter_ms = number::parse_millis(value).ok_or_else(invalid)?,
            "fails" => self.fails = count()?,
            "passes" => self.passes = count()?,
            "port" => {
                self.port = Some(value.parse().ok().filter(|port| *port > 0).ok_or_else(invalid)?);
            }
            "mandatory" if *word.text == *name => self.is_mandatory = true,
            "persistent" if *word.text == *name => self.is_persistent = true,
            "mandatory" | "persistent" => return Err(invalid()),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// What a group's checks have in common: where the health of its peers begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checks {
    pub is_mandatory: bool,
    pub is_persistent: bool,
}

impl Checks {
    pub fn of(rules: &Rules) -> Self {
        Self { is_mandatory: rules.is_mandatory, is_persistent: rules.is_persistent }
    }

    /// Those of a group with a further check.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let forgets = |checks: Self| checks.is_mandatory && !checks.is_persistent;
        Self {
            is_mandatory: self.is_mandatory || other.is_mandatory,
            is_persistent: !forgets(self) && !forgets(other),
        }
    }

    /// The health of a peer with which a prober begins, by the one in shared memory. `is_new`: it is the first
    /// prober of a configuration.
    pub fn begin(self, health: Health, is_new: bool) -> Health {
        let is_open = health == Health::Unknown || (is_new && !self.is_persistent);
        if self.is_mandatory && is_open { Health::Checking } else { health }
    }

    /// The health of a peer as the processes of this configuration see it, and the time since which it holds. Until its
    /// prober has begun, shared memory has what the checks of the configuration before have found.
    pub fn shown(self, place: Place, now_ms: u64) -> (Health, u64) {
        let (health, since_ms) = place.health(now_ms);
        let is_new = self.is_mandatory && !self.is_persistent && !peers::have_checks_begun();
        (self.begin(health, is_new), since_ms)
    }
}

/// One check's view of one peer.
#[derive(Debug)]
pub struct Course {
    health: Health,
    /// Results in a row that speak against `health`.
    run: u32,
}

impl Course {
    /// `health`: the peer's in shared memory, which a prober before this one may have found.
    pub fn new(health: Health) -> Self {
        // Whether all others are unhealthy too is not for one peer to say.
        let health = if health == Health::Spare { Health::Unhealthy } else { health };
        Self { health, run: 0 }
    }

    pub fn health(&self) -> Health {
        self.health
    }

    /// Counts a result. True if the peer's health is another one now.
    pub fn note(&mut self, has_passed: bool, rules: &Rules) -> bool {
        let result = if has_passed { Health::Healthy } else { Health::Unhealthy };
        let needed = match (self.health, result) {
            (Health::Healthy, Health::Unhealthy) | (Health::Unknown, Health::Unhealthy) => rules.fails,
            (Health::Unhealthy, Health::Healthy) => rules.passes,
            // Nothing is known that this result could contradict.
            (Health::Unknown | Health::Checking, _) => 1,
            _ => {
                self.run = 0;
                return false;
            }
        };
        self.run += 1;
        if self.run < needed {
            return false;
        }
        (self.health, self.run) = (result, 0);
        true
    }
}

/// The health of a peer by all its checks: each of them can make it unhealthy.
pub fn combined<'a>(courses: impl Iterator<Item = &'a Course> + Clone) -> Health {
    let has = |health| courses.clone().any(|course| course.health == health);
    let gravest = [Health::Unhealthy, Health::Checking, Health::Unknown];
    gravest.into_iter().find(|health| has(*health)).unwrap_or(Health::Healthy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Span;

    fn rules(fails: u32, passes: u32) -> Rules {
        Rules { fails, passes, ..Rules::default() }
    }

    /// The health after each of these results, by first letters.
    fn course(from: Health, rules: &Rules, results: &str) -> String {
        let mut course = Course::new(from);
        let letter = |result| {
            course.note(result == '+', rules);
            match course.health() {
                Health::Unknown => '?',
                Health::Healthy => 'h',
                Health::Unhealthy | Health::Spare => 'u',
                Health::Checking => 'c',
            }
        };
        results.chars().map(letter).collect()
    }

    #[test]
    fn health_changes_after_so_many_results_in_a_row() {
        use Health::{Checking, Healthy, Unhealthy, Unknown};
        for (from, fails, passes, results, expected) in [
            (Healthy, 1, 1, "-+-", "uhu"),
            (Healthy, 3, 2, "--+---", "hhhhhu"),
            (Unhealthy, 3, 2, "+-++", "uuuh"),
            (Unknown, 2, 2, "-+", "?h"),
            (Unknown, 2, 2, "--++", "?uuh"),
            (Health::Spare, 1, 2, "++", "uh"),
            (Checking, 3, 3, "+-", "hh"),
            (Checking, 3, 3, "-+++", "uuuh"),
        ] {
            assert_eq!(course(from, &rules(fails, passes), results), expected, "{from:?} {results}");
        }
    }

    #[test]
    fn one_failing_check_of_several_makes_a_peer_unhealthy() {
        use Health::{Checking, Healthy, Unhealthy, Unknown};
        for (all, expected) in [
            (&[Healthy, Healthy][..], Healthy),
            (&[Healthy, Unhealthy], Unhealthy),
            (&[Checking, Healthy], Checking),
            (&[Checking, Unhealthy], Unhealthy),
            (&[Unknown, Healthy], Unknown),
        ] {
            let courses: Vec<Course> = all.iter().map(|health| Course::new(*health)).collect();
            assert_eq!(combined(courses.iter()), expected, "{all:?}");
        }
    }

    #[test]
    fn mandatory_checks_come_first_and_persistent_ones_outlive_a_reload() {
        use Health::{Checking, Healthy, Unhealthy, Unknown};
        let checks = |is_mandatory, is_persistent| Checks { is_mandatory, is_persistent };
        let (plain, strict, kept) = (checks(false, false), checks(true, false), checks(true, true));
        for (checks, health, is_new, expected) in [
            (plain, Unknown, true, Unknown),
            (plain, Unhealthy, true, Unhealthy),
            (strict, Unknown, false, Checking),
            (strict, Healthy, true, Checking),
            (strict, Healthy, false, Healthy),
            (kept, Healthy, true, Healthy),
            (kept, Unknown, true, Checking),
        ] {
            assert_eq!(checks.begin(health, is_new), expected, "{checks:?} {health:?}");
        }
        assert_eq!(plain.and(kept), kept);
        assert_eq!(strict.and(kept), strict);
    }

    #[test]
    fn parameters_are_read_and_nonsense_is_refused() {
        let word = |text: &str| Word { text: text.into(), span: Span::default(), quoted: false };
        let mut read = Rules::default();
        for text in
            ["interval=2s", "jitter=100ms", "fails=3", "passes=2", "port=81", "mandatory", "persistent"]
        {
            assert!(read.take(&word(text)).expect("valid"), "{text}");
        }
        let expected = Rules {
            interval_ms: 2000,
            jitter_ms: 100,
            fails: 3,
            passes: 2,
            port: Some(81),
            is_mandatory: true,
            is_persistent: true,
        };
        assert_eq!(read, expected);
        for text in [
            "interval=0",
            "interval=x",
            "jitter=-1",
            "fails=0",
            "passes=x",
            "port=0",
            "port=65536",
            "mandatory=1",
        ] {
            assert!(read.take(&word(text)).is_err(), "{text}");
        }
        assert!(!read.take(&word("uri=/")).expect("another's"));
    }
}
