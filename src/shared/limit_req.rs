//! Leaky-bucket limits on the rate of scopes by a key: `limit_req` and its zones.
//!
//! Touches: the scope's variables, one table in shared memory for each rule. Does not wait, and asks no clock: a delay is
//! part of the outcome. Behaviour: nginx.org, ngx_http_limit_req_module.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use smallvec::SmallVec;

use crate::config::inherit::{duplicate, replace};
use crate::config::{Diagnostic, Node, Setting, Span, Word, params, settings};
use crate::log;
use crate::script::value::Script;
use crate::script::{Compile, Scope};
use crate::shared::zone::Fate;
use crate::shared::{ByRule, Severity, zone};
use crate::shm::leaky_bucket::{self, EXCESS_MAX, Key};

pub type Declared<S> = zone::Declared<S, Rate>;
pub type Zones<S> = zone::Zones<S, Rate>;
pub type Zone<S> = zone::Zone<S, leaky_bucket::Table, Rate>;
pub type Table<S> = zone::Table<S, leaky_bucket::Table, Rate>;

/// The rate of a zone, and when it last complained.
#[derive(Debug)]
pub struct Rate {
    /// Thousandths of a request in a second.
    rate: u64,
    /// The last time it logged that it forgot keys which were being limited; 0: never.
    told_ms: AtomicU64,
}

/// One `limit_req`.
#[derive(Clone, Copy, Debug)]
struct Rule {
    /// Index of the zone.
    zone: usize,
    /// In thousandths of a request.
    burst: u64,
    /// The excess up to which nothing is delayed, in thousandths of a request.
    delay: u64,
    span: Span,
}

settings! {
    /// The limits of one block.
    #[derive(Debug)]
    pub struct Limits {
        rules: Vec<Rule> => replace,
        /// The severity of a rejection.
        pub level: Setting<Severity> = Severity::Error,
        pub dry_run: Setting<bool> = false,
    }
}

/// The outcome of a scope's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    /// It is to wait first.
    Delayed,
    Rejected,
    DelayedDryRun,
    RejectedDryRun,
}

impl Outcome {
    fn fate(self) -> Fate {
        match self {
            Self::Passed => Fate::Passed,
            Self::Delayed => Fate::Delayed,
            Self::Rejected => Fate::Rejected,
            Self::DelayedDryRun => Fate::DelayedDryRun,
            Self::RejectedDryRun => Fate::RejectedDryRun,
        }
    }

    /// As `$limit_req_status` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Passed => "PASSED",
            Self::Delayed => "DELAYED",
            Self::Rejected => "REJECTED",
            Self::DelayedDryRun => "DELAYED_DRY_RUN",
            Self::RejectedDryRun => "REJECTED_DRY_RUN",
        }
    }
}

/// The interval at which a zone logs that it is too small.
const TOLD_EVERY_MS: u64 = 60_000;

/// nginx's limit on the length of a key.
const KEY_BYTES_MAX: usize = 65_535;

/// Reads a `limit_req_zone`.
pub fn read_zone<S: Scope>(node: &Node, cx: &mut impl Compile<Scope = S>) -> Result<Declared<S>, Diagnostic> {
    let key = Script::compile(&node.args[0], cx)?;
    let (mut zone, mut rate) = (None, 1000);
    for word in &node.args[1..] {
        if let Some(parameter) = zone::parameter(word) {
            zone = Some(parameter?);
        } else if let Some(value) = params::value(word, "rate") {
            rate = parse_rate(value).ok_or_else(|| {
                let diagnostic = Diagnostic::error(word.span, format!("invalid rate \"{}\"", word.text));
                diagnostic.help("a rate is a number of requests in a second or a minute: 10r/s, 30r/m")
            })?;
        } else if &*word.text != "sync" {
            return Err(params::invalid_parameter(word, &["zone=", "rate=", "sync"]));
        }
    }
    let zone = zone.ok_or_else(|| zone::missing(&node.name))?;
    Ok(Declared::new(node, key, zone, Rate { rate, told_ms: AtomicU64::new(0) }))
}

/// `10r/s`, `30r/m`; a bare number is a second's.
fn parse_rate(text: &str) -> Option<u64> {
    let (number, seconds) = match (text.strip_suffix("r/s"), text.strip_suffix("r/m")) {
        (Some(number), _) => (number, 1),
        (None, Some(number)) => (number, 60),
        (None, None) => (text, 1),
    };
    let count: u32 = number.parse().ok().filter(|_| number.bytes().all(|byte| byte.is_ascii_digit()))?;
    (count > 0).then(|| u64::from(count) * 1000 / seconds)
}

/// A number of requests, in thousandths.
fn requests(value: &str, what: &str, word: &Word) -> Result<u64, Diagnostic> {
    let max = EXCESS_MAX / 1000;
    let number = value.parse().ok().filter(|number| (1..=max).contains(number));
    number.map(|number: u64| number * 1000).ok_or_else(|| {
        let diagnostic = Diagnostic::error(word.span, format!("invalid {what} value \"{}\"", word.text));
        diagnostic.help(format!("it is a number of requests from 1 to {max}"))
    })
}

/// A rule that a scope has passed so far.
struct Passed<'a, S> {
    rule: &'a Rule,
    zone: &'a Zone<S>,
    table: leaky_bucket::Table,
    key: Key,
}

/// The longest delay so far, and the rule that asks for it.
struct Delay<'a> {
    ms: u64,
    excess: u64,
    rule: &'a Rule,
    zone: &'a str,
}

impl Limits {
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Reads a `limit_req`.
    pub fn add<S: Scope>(&mut self, node: &Node, zones: &mut Zones<S>) -> Result<(), Diagnostic> {
        let (mut name, mut burst, mut delay) = (None, 0, 0);
        for word in &node.args {
            if let Some(value) = params::value(word, "zone") {
                name = Some((value, word.span));
            } else if let Some(value) = params::value(word, "burst") {
                burst = requests(value, "burst", word)?;
            } else if let Some(value) = params::value(word, "delay") {
                delay = requests(value, "delay", word)?;
            } else if &*word.text == "nodelay" {
                delay = u64::MAX;
            } else {
                return Err(params::invalid_parameter(word, &["zone=", "burst=", "delay=", "nodelay"]));
            }
        }
        let (name, span) = name.ok_or_else(|| zone::missing(&node.name))?;
        let zone = zones.reference(name, span);
        if self.rules.iter().any(|rule| rule.zone == zone) {
            return Err(duplicate(node));
        }
        self.rules.push(Rule { zone, burst, delay, span: node.span });
        Ok(())
    }

    /// Asks every rule: what becomes of the scope, and for how many milliseconds it is to wait. `None`: no zone counts it.
    ///
    /// Only when all rules let it pass it is counted in all of their zones.
    pub fn limit<S: Scope>(&self, scope: &mut S, zones: &[Zone<S>], now_ms: u64) -> Option<(Outcome, u64)> {
        let mut passed: SmallVec<[Passed<'_, S>; 4]> = SmallVec::new();
        let mut longest: Option<Delay<'_>> = None;
        let (last, mut is_last_counted) = (self.rules.len().saturating_sub(1), false);
        for (index, rule) in self.rules.iter().enumerate() {
            let Some(zone) = zones.get(rule.zone) else { continue };
            let Some(table) = zone.memory else { continue };
            let Some(key) = zone.key_of(scope, KEY_BYTES_MAX) else { continue };
            let key = table.key(&key);
            let answer = if index == last {
                is_last_counted = true;
                add(scope, rule, zone, (table, key), rule.burst, now_ms)
            } else {
                peek(rule, zone, (table, key), now_ms)
            };
            match answer {
                Ok(excess) if index == last => longest = Some(rule.delay_of(zone, excess)),
                Ok(_) => passed.push(Passed { rule, zone, table, key }),
                Err(excess) => {
                    let outcome = self.reject(scope, rule, &zone.name, excess);
                    zone.count(outcome.fate());
                    return Some((outcome, 0));
                }
            }
        }
        if passed.is_empty() && !is_last_counted {
            return None;
        }
        for Passed { rule, zone, table, key } in passed.into_iter().rev() {
            let Ok(excess) = add(scope, rule, zone, (table, key), EXCESS_MAX, now_ms) else { continue };
            let delay = rule.delay_of(zone, excess);
            if longest.as_ref().is_none_or(|longest| delay.ms > longest.ms) {
                longest = Some(delay);
            }
        }
        let (outcome, delay_ms, delays) = match longest.filter(|delay| delay.ms > 0) {
            None => (Outcome::Passed, 0, None),
            Some(delay) => (self.delay(scope, &delay), delay.ms, Some(delay.rule.zone)),
        };
        for rule in &self.rules {
            let fate = if delays == Some(rule.zone) { outcome.fate() } else { Fate::Passed };
            zones.get(rule.zone).iter().for_each(|zone| zone.count(fate));
        }
        Some((outcome, delay_ms))
    }

    #[cold]
    fn reject<S: Scope>(&self, scope: &S, rule: &Rule, zone: &str, excess: u64) -> Outcome {
        let is_dry = self.dry_run.get();
        let level = self.level.get().level();
        let by_rule = ByRule { scope, rule: rule.span };
        let dry = if is_dry { ", dry run" } else { "" };
        log::at!(
            level,
            scope.logger(),
            &by_rule,
            "limiting requests{}, excess: {}.{:03} by zone \"{}\"",
            dry,
            excess / 1000,
            excess % 1000,
            zone
        );
        if is_dry { Outcome::RejectedDryRun } else { Outcome::Rejected }
    }

    #[cold]
    fn delay<S: Scope>(&self, scope: &S, delay: &Delay<'_>) -> Outcome {
        let is_dry = self.dry_run.get();
        let level = self.level.get().milder().level();
        let by_rule = ByRule { scope, rule: delay.rule.span };
        let dry = if is_dry { ", dry run" } else { "" };
        log::at!(
            level,
            scope.logger(),
            &by_rule,
            "delaying request{}, excess: {}.{:03}, by zone \"{}\"",
            dry,
            delay.excess / 1000,
            delay.excess % 1000,
            delay.zone
        );
        if is_dry { Outcome::DelayedDryRun } else { Outcome::Delayed }
    }
}

impl Rule {
    fn delay_of<'a, S>(&'a self, zone: &'a Zone<S>, excess: u64) -> Delay<'a> {
        let ms = excess.saturating_sub(self.delay) * 1000 / zone.detail.rate.max(1);
        Delay { ms, excess, rule: self, zone: &zone.name }
    }
}

/// The excess with which a rule would let a scope pass. Errors: it would refuse it, which counts as use of the key.
fn peek<S>(
    rule: &Rule,
    zone: &Zone<S>,
    (table, key): (leaky_bucket::Table, Key),
    now_ms: u64,
) -> Result<u64, u64> {
    let excess = table.peek(key, zone.detail.rate, now_ms);
    if excess <= rule.burst {
        return Ok(excess);
    }
    let _ = table.add(key, zone.detail.rate, 0, now_ms);
    Err(excess)
}

/// Counts a scope, and says where the zone had to forget a key for it that was being limited.
fn add<S: Scope>(
    scope: &S,
    rule: &Rule,
    zone: &Zone<S>,
    (table, key): (leaky_bucket::Table, Key),
    max: u64,
    now_ms: u64,
) -> Result<u64, u64> {
    let added = table.add(key, zone.detail.rate, max, now_ms);
    if added.evicts {
        tell_too_small(scope, rule, zone, now_ms);
    }
    added.excess
}

#[cold]
fn tell_too_small<S: Scope>(scope: &S, rule: &Rule, zone: &Zone<S>, now_ms: u64) {
    let told = &zone.detail.told_ms;
    let told_ms = told.load(Relaxed);
    if told_ms != 0 && now_ms.saturating_sub(told_ms) < TOLD_EVERY_MS {
        return;
    }
    told.store(now_ms.max(1), Relaxed);
    let by_rule = ByRule { scope, rule: rule.span };
    let (name, size) = (&zone.name, zone.bytes / 1024);
    log::warn!(
        scope.logger(),
        &by_rule,
        "zone \"{}\" is too small: it forgot a client that is beyond its rate; give \"limit_req_zone\" more than zone={}:{}k",
        name,
        name,
        size
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_nginx_reads_them() {
        let cases = [
            ("1r/s", Some(1000)),
            ("30r/m", Some(500)),
            ("1r/m", Some(16)),
            ("5", Some(5000)),
            ("0r/s", None),
            ("r/s", None),
            ("-1r/s", None),
            ("+1r/s", None),
            ("1r/h", None),
            ("99999999999r/s", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_rate(text), expected, "{text}");
        }
    }
}
