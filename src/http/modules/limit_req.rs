//! Leaky-bucket limits on the rate of requests (`limit_req`, `limit_req_zone`).
//!
//! Runs in the preaccess phase. Touches: the request's variables, one table in shared memory for each rule.
//! Does not wait: a delay is a verdict, and slept by the pipeline.
//! Behaviour: nginx.org, ngx_http_limit_req_module.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use smallvec::SmallVec;

use crate::config::directive::{custom, flag, keyword, number};
use crate::config::inherit::{duplicate, replace};
use crate::config::{Arity, Context, Diagnostic, Inherit, Merge, Node, Span, params};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive, core};
use crate::http::pipeline::{Reply, Verdict};
use crate::http::request::Request;
use crate::http::request::termination::{How, Phase, Termination, Who};
use crate::http::scope::{Script, Variable};
use crate::http::zone::{self, ByRule};
use crate::log::{self, Level};
use crate::runtime;
use crate::script::variable::variable;
use crate::shm::leaky_bucket::{EXCESS_MAX, Key, Table};

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

#[derive(Debug, Default)]
pub struct Conf {
    rules: Vec<Rule>,
    status: Inherit<u64>,
    level: Inherit<usize>,
    dry_run: Inherit<bool>,
}

/// A `limit_req_zone` as it was read.
pub struct Declared {
    key: Script,
    key_text: Box<str>,
    bytes: usize,
    rate: u64,
    span: Span,
}

/// A zone with its memory.
#[derive(Debug)]
pub struct Zone {
    name: Box<str>,
    key: Script,
    /// Thousandths of a request in a second.
    rate: u64,
    pub id: u64,
    bytes: usize,
    /// When it was last told that keys were forgotten that were being limited; 0: never.
    told_ms: AtomicU64,
    /// `None` with `-t`, where nothing is served.
    table: Option<Table>,
}

/// What became of a request at its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    Delayed,
    Rejected,
    DelayedDryRun,
    RejectedDryRun,
}

/// How often a zone says that it is too small.
const TOLD_EVERY_MS: u64 = 60_000;

/// nginx's four, from the least severe.
const LEVELS: &[&str] = &["info", "notice", "warn", "error"];

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("limit_req_zone", Context::HTTP, Arity::between(3, 4), limit_req_zone,
        "The rate of requests for each value of a key, in a zone of shared memory: KEY zone=NAME:SIZE rate=Nr/s or Nr/m."),
    custom("limit_req", Context::ANY, Arity::between(1, 3), limit_req,
        "Limits the rate of requests by a zone. Up to burst= requests beyond it wait, the first delay= of them not, with nodelay none. More are rejected."),
    number("limit_req_status", Context::ANY, (400, 599), |c| &mut c.status, "Status of a rejected request; 444 closes its connection without an answer; 503."),
    keyword("limit_req_log_level", Context::ANY, LEVELS, |c| &mut c.level, "Severity of a rejection; a delay is one step less severe; error."),
    flag("limit_req_dry_run", Context::ANY, |c| &mut c.dry_run, "Counts and logs, but limits nothing; off."),
];

#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    variable("limit_req_status", |request, _, out| {
    let name: &[u8] = match request.limits.req {
        None => return false,
        Some(Outcome::Passed) => b"PASSED",
        Some(Outcome::Delayed) => b"DELAYED",
        Some(Outcome::Rejected) => b"REJECTED",
        Some(Outcome::DelayedDryRun) => b"DELAYED_DRY_RUN",
        Some(Outcome::RejectedDryRun) => b"REJECTED_DRY_RUN",
    };
    out.extend_from_slice(name);
    true
}, "What limit_req made of the request: PASSED, DELAYED, REJECTED, or with _DRY_RUN."),
];

impl Merge for Conf {
    fn merge(&mut self, outer: &Self) {
        replace(&mut self.rules, &outer.rules);
        self.status.merge(&outer.status);
        self.level.merge(&outer.level);
        self.dry_run.merge(&outer.dry_run);
    }
}

impl BlockConf for Conf {
    fn acts(&self) -> bool {
        !self.rules.is_empty()
    }
}

fn limit_req_zone(_: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let key = Script::compile(&node.args[0], cx)?;
    let (mut name_bytes, mut rate) = (None, 1000);
    for word in &node.args[1..] {
        if let Some(zone) = zone::parameter(word) {
            name_bytes = Some(zone?);
        } else if let Some(value) = params::value(word, "rate") {
            rate = parse_rate(value).ok_or_else(|| {
                let diagnostic = Diagnostic::error(word.span, format!("invalid rate \"{}\"", word.text));
                diagnostic.help("a rate is a number of requests in a second or a minute: 10r/s, 30r/m")
            })?;
        } else if &*word.text != "sync" {
            return Err(params::invalid_parameter(word, &["zone=", "rate=", "sync"]));
        }
    }
    let (name, bytes) = name_bytes.ok_or_else(|| zone::missing(&node.name))?;
    if cx.limit_conn.is_declared(name) {
        return Err(zone::other_use(name, node));
    }
    let declared = Declared { key, key_text: node.arg(0).into(), bytes, rate, span: node.span };
    cx.limit_req.declare(name, declared).map_err(|before| zone::already_bound(name, &before.key_text, node))
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

fn limit_req(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
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
    let zone = cx.limit_req.reference(name, span);
    if conf.rules.iter().any(|rule| rule.zone == zone) {
        return Err(duplicate(node));
    }
    conf.rules.push(Rule { zone, burst, delay, span: node.span });
    Ok(())
}

/// A number of requests, in thousandths.
fn requests(value: &str, what: &str, word: &crate::config::Word) -> Result<u64, Diagnostic> {
    let max = EXCESS_MAX / 1000;
    let number = value.parse().ok().filter(|number| (1..=max).contains(number));
    number.map(|number: u64| number * 1000).ok_or_else(|| {
        let diagnostic = Diagnostic::error(word.span, format!("invalid {what} value \"{}\"", word.text));
        diagnostic.help(format!("it is a number of requests from 1 to {max}"))
    })
}

/// Maps the zones when everything is read.
pub fn open(cx: &mut Cx) -> Vec<Zone> {
    let declared = cx.limit_req.complete("limit_req_zone", &mut cx.diagnostics);
    let test_only = cx.options.test_only || cx.diagnostics.has_errors();
    let diagnostics = &mut cx.diagnostics;
    let open = |(name, declared): (Box<str>, Declared)| {
        let Declared { key, key_text, bytes, rate, span } = declared;
        let id = zone::id("limit_req", &name, bytes, &key_text);
        let table = (!test_only).then(|| Table::open(id, bytes)).transpose().unwrap_or_else(|error| {
            let message = format!("no memory for the zone \"{name}\" {}", log::Cause(&error));
            diagnostics.push(Diagnostic::error(span, message));
            None
        });
        Zone { name, key, rate, id, bytes, told_ms: AtomicU64::new(0), table }
    };
    declared.into_iter().map(open).collect()
}

pub fn preaccess(request: &mut Request) -> Verdict {
    if request.location.limit_req.rules.is_empty() || request.limits.req.is_some() {
        return Verdict::Next;
    }
    limit(request)
}

/// A rule that a request has passed so far.
struct Passed {
    rule: &'static Rule,
    zone: &'static Zone,
    table: Table,
    key: Key,
}

/// Asks every rule. Only when all let the request pass it is counted in all of them.
fn limit(request: &mut Request) -> Verdict {
    let conf: &'static Conf = &request.location.limit_req;
    let zones = &request.config.limit_req;
    let now_ms = runtime::now_ms();
    let mut passed: SmallVec<[Passed; 4]> = SmallVec::new();
    let mut longest: Option<(u64, u64, &Rule, &Zone)> = None;
    let (last, mut is_last_counted) = (conf.rules.len() - 1, false);
    for (index, rule) in conf.rules.iter().enumerate() {
        let Some(zone) = zones.get(rule.zone) else { continue };
        let Some(table) = zone.table else { continue };
        let Some(key) = key_of(request, zone, table) else { continue };
        let answer = if index == last {
            is_last_counted = true;
            add(request, rule, zone, (table, key), rule.burst)
        } else {
            let excess = table.peek(key, zone.rate, now_ms);
            if excess > rule.burst {
                let _ = table.add(key, zone.rate, 0, now_ms); // refused, which counts as use
            }
            if excess > rule.burst { Err(excess) } else { Ok(excess) }
        };
        match answer {
            Ok(excess) if index == last => longest = Some((delay_ms(rule, zone, excess), excess, rule, zone)),
            Ok(_) => passed.push(Passed { rule, zone, table, key }),
            Err(excess) => return reject(request, conf, rule, zone, excess),
        }
    }
    if passed.is_empty() && !is_last_counted {
        return Verdict::Next;
    }
    for Passed { rule, zone, table, key } in passed.into_iter().rev() {
        let Ok(excess) = add(request, rule, zone, (table, key), EXCESS_MAX) else { continue };
        let ms = delay_ms(rule, zone, excess);
        if longest.is_none_or(|(longest_ms, ..)| ms > longest_ms) {
            longest = Some((ms, excess, rule, zone));
        }
    }
    match longest.filter(|(ms, ..)| *ms > 0) {
        None => {
            request.limits.req = Some(Outcome::Passed);
            Verdict::Next
        }
        Some((ms, excess, rule, zone)) => delay(request, conf, rule, zone, (excess, ms)),
    }
}

/// Counts a request, and says where the zone had to forget a key for it that was being limited.
fn add(
    request: &Request,
    rule: &Rule,
    zone: &Zone,
    (table, key): (Table, Key),
    max: u64,
) -> Result<u64, u64> {
    let now_ms = runtime::now_ms();
    let added = table.add(key, zone.rate, max, now_ms);
    if added.evicts {
        tell_too_small(request, rule, zone, now_ms);
    }
    added.excess
}

#[cold]
fn tell_too_small(request: &Request, rule: &Rule, zone: &Zone, now_ms: u64) {
    let told_ms = zone.told_ms.load(Relaxed);
    if told_ms != 0 && now_ms.saturating_sub(told_ms) < TOLD_EVERY_MS {
        return;
    }
    zone.told_ms.store(now_ms.max(1), Relaxed);
    let by_rule = ByRule { request, rule: rule.span };
    let (name, size) = (&zone.name, zone.bytes / 1024);
    log::warn!(
        core::error_log(request),
        &by_rule,
        "zone \"{}\" is too small: it forgot a client that is beyond its rate; give \"limit_req_zone\" more than zone={}:{}k",
        name,
        name,
        size
    );
}

/// The key's value in the zone; `None` where the zone does not count this request.
fn key_of(request: &mut Request, zone: &'static Zone, table: Table) -> Option<Key> {
    let value = zone.key.to_vec(request);
    if value.len() > 65_535 {
        let name = &zone.name;
        let what = "the value of the key is more than 65535 bytes, the request is not limited by zone";
        log::error!(core::error_log(request), &*request, "{} \"{}\"", what, name);
        return None;
    }
    (!value.is_empty()).then(|| table.key(&value))
}

fn delay_ms(rule: &Rule, zone: &Zone, excess: u64) -> u64 {
    excess.saturating_sub(rule.delay) * 1000 / zone.rate.max(1)
}

#[cold]
fn reject(request: &mut Request, conf: &Conf, rule: &Rule, zone: &Zone, excess: u64) -> Verdict {
    let is_dry = conf.dry_run.get(false);
    let level = level(conf.level.get(3));
    let by_rule = ByRule { request: &*request, rule: rule.span };
    let (dry, name) = (if is_dry { ", dry run" } else { "" }, &zone.name);
    log::at!(
        level,
        core::error_log(request),
        &by_rule,
        "limiting requests{}, excess: {}.{:03} by zone \"{}\"",
        dry,
        excess / 1000,
        excess % 1000,
        name
    );
    if is_dry {
        request.limits.req = Some(Outcome::RejectedDryRun);
        return Verdict::Next;
    }
    request.limits.req = Some(Outcome::Rejected);
    request.termination = Some(Termination::new(Who::Proxy, How::Limit, Phase::Process).by("limit_req"));
    Verdict::Done(Reply::Status(conf.status.get(503) as u16))
}

#[cold]
fn delay(request: &mut Request, conf: &Conf, rule: &Rule, zone: &Zone, (excess, ms): (u64, u64)) -> Verdict {
    let is_dry = conf.dry_run.get(false);
    let level = level(conf.level.get(3).saturating_sub(1));
    let by_rule = ByRule { request: &*request, rule: rule.span };
    let (dry, name) = (if is_dry { ", dry run" } else { "" }, &zone.name);
    log::at!(
        level,
        core::error_log(request),
        &by_rule,
        "delaying request{}, excess: {}.{:03}, by zone \"{}\"",
        dry,
        excess / 1000,
        excess % 1000,
        name
    );
    if is_dry {
        request.limits.req = Some(Outcome::DelayedDryRun);
        return Verdict::Next;
    }
    request.limits.req = Some(Outcome::Delayed);
    Verdict::Delay(ms)
}

/// The level of an index of [`LEVELS`].
pub fn level(index: usize) -> Level {
    LEVELS.get(index).and_then(|name| Level::parse(name)).unwrap_or(Level::Error)
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
