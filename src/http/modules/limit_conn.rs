//! Limits on how many requests of a key are being served at one time (`limit_conn`, `limit_conn_zone`).
//!
//! Runs in the preaccess phase. Touches: the request's variables, one table in shared memory for each rule.
//! A request gives back what it holds when it is dropped; what a dead worker's requests held the master gives back.
//! Behaviour: nginx.org, ngx_http_limit_conn_module.

use crate::config::directive::{custom, flag, keyword, number};
use crate::config::inherit::{duplicate, replace};
use crate::config::{Arity, Context, Diagnostic, Inherit, Merge, Node, Span, params};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive, core, limit_req};
use crate::http::pipeline::{Reply, Verdict};
use crate::http::request::Request;
use crate::http::request::termination::{How, Phase, Termination, Who};
use crate::http::scope::{Script, Variable};
use crate::http::zone::{self, ByRule};
use crate::log;
use crate::script::variable::variable;
use crate::shm::held_counts::{Holders, Refused};

/// One `limit_conn`.
#[derive(Clone, Copy, Debug)]
struct Rule {
    /// Index of the zone.
    zone: usize,
    max: u32,
    span: Span,
}

#[derive(Debug, Default)]
pub struct Conf {
    rules: Vec<Rule>,
    status: Inherit<u64>,
    level: Inherit<usize>,
    dry_run: Inherit<bool>,
}

/// A `limit_conn_zone` as it was read.
pub struct Declared {
    key: Script,
    key_text: Box<str>,
    bytes: usize,
    span: Span,
}

/// A zone with its memory.
#[derive(Debug)]
pub struct Zone {
    name: Box<str>,
    key: Script,
    pub id: u64,
    /// `None` with `-t`, where nothing is served.
    holders: Option<Holders>,
}

/// What became of a request at its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    Rejected,
    RejectedDryRun,
}

/// nginx's four, from the least severe.
const LEVELS: &[&str] = &["info", "notice", "warn", "error"];

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("limit_conn_zone", Context::HTTP, Arity::exactly(2), limit_conn_zone,
        "The number of requests under way for each value of a key, in a zone of shared memory: KEY zone=NAME:SIZE."),
    custom("limit_conn", Context::ANY, Arity::exactly(2), limit_conn, "Limits by a zone how many requests of one key are served at one time."),
    number("limit_conn_status", Context::ANY, (400, 599), |c| &mut c.status, "Status of a rejected request; 444 closes its connection without an answer; 503."),
    keyword("limit_conn_log_level", Context::ANY, LEVELS, |c| &mut c.level, "Severity of a rejection; error."),
    flag("limit_conn_dry_run", Context::ANY, |c| &mut c.dry_run, "Counts and logs, but limits nothing; off."),
];

#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    variable("limit_conn_status", |request, _, out| {
    let name: &[u8] = match request.limits.conn {
        None => return false,
        Some(Outcome::Passed) => b"PASSED",
        Some(Outcome::Rejected) => b"REJECTED",
        Some(Outcome::RejectedDryRun) => b"REJECTED_DRY_RUN",
    };
    out.extend_from_slice(name);
    true
}, "What limit_conn made of the request: PASSED, REJECTED or REJECTED_DRY_RUN."),
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

fn limit_conn_zone(_: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let key = Script::compile(&node.args[0], cx)?;
    let word = &node.args[1];
    let (name, bytes) =
        zone::parameter(word).ok_or_else(|| params::invalid_parameter(word, &["zone="]))??;
    if cx.limit_req.is_declared(name) {
        return Err(zone::other_use(name, node));
    }
    let declared = Declared { key, key_text: node.arg(0).into(), bytes, span: node.span };
    cx.limit_conn.declare(name, declared).map_err(|before| zone::already_bound(name, &before.key_text, node))
}

fn limit_conn(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let invalid = |message: String| Diagnostic::error(node.arg_span(1), message);
    let max = match node.arg(1).parse::<u64>() {
        Ok(0) | Err(_) => return Err(invalid(format!("invalid number of connections \"{}\"", node.arg(1)))),
        Ok(65_536..) => return Err(invalid("connection limit must be less 65536".into())),
        Ok(max) => max as u32,
    };
    let zone = cx.limit_conn.reference(node.arg(0), node.arg_span(0));
    if conf.rules.iter().any(|rule| rule.zone == zone) {
        return Err(duplicate(node));
    }
    conf.rules.push(Rule { zone, max, span: node.span });
    Ok(())
}

/// Maps the zones when everything is read.
pub fn open(cx: &mut Cx) -> Vec<Zone> {
    let declared = cx.limit_conn.complete("limit_conn_zone", &mut cx.diagnostics);
    let test_only = cx.options.test_only || cx.diagnostics.has_errors();
    let diagnostics = &mut cx.diagnostics;
    let open = |(name, declared): (Box<str>, Declared)| {
        let Declared { key, key_text, bytes, span } = declared;
        let id = zone::id("limit_conn", &name, bytes, &key_text);
        let holders = (!test_only).then(|| Holders::open(id, bytes)).transpose().unwrap_or_else(|error| {
            let message = format!("no memory for the zone \"{name}\" {}", log::Cause(&error));
            diagnostics.push(Diagnostic::error(span, message));
            None
        });
        Zone { name, key, id, holders }
    };
    declared.into_iter().map(open).collect()
}

pub fn preaccess(request: &mut Request) -> Verdict {
    if request.location.limit_conn.rules.is_empty() || request.limits.conn.is_some() {
        return Verdict::Next;
    }
    limit(request)
}

fn limit(request: &mut Request) -> Verdict {
    let conf: &'static Conf = &request.location.limit_conn;
    let zones = &request.config.limit_conn;
    for rule in &conf.rules {
        let Some(zone) = zones.get(rule.zone) else { continue };
        let Some(holders) = zone.holders else { continue };
        let key = zone.key.to_vec(request);
        if key.is_empty() {
            continue;
        }
        if key.len() > 255 {
            let name = &zone.name;
            let what = "the value of the key is more than 255 bytes, the request is not limited by zone";
            log::error!(core::error_log(request), &*request, "{} \"{}\"", what, name);
            continue;
        }
        request.limits.conn = Some(Outcome::Passed);
        match holders.hold(holders.key(&key), rule.max) {
            Ok(held) => request.limits.held.push(held),
            Err(why) => return reject(request, conf, rule, zone, why),
        }
    }
    Verdict::Next
}

#[cold]
fn reject(request: &mut Request, conf: &Conf, rule: &Rule, zone: &Zone, why: Refused) -> Verdict {
    let is_dry = conf.dry_run.get(false);
    let level = limit_req::level(conf.level.get(3));
    let by_rule = ByRule { request: &*request, rule: rule.span };
    let (dry, name) = (if is_dry { ", dry run," } else { "" }, &zone.name);
    match why {
        Refused::Limit => log::at!(
            level,
            core::error_log(request),
            &by_rule,
            "limiting connections{} by zone \"{}\"",
            dry,
            name
        ),
        Refused::Full => log::alert!(
            core::error_log(request),
            &by_rule,
            "could not allocate node{} in limit_conn zone \"{}\"; give \"limit_conn_zone\" a larger one",
            dry,
            name
        ),
    }
    request.limits.held.clear();
    if is_dry {
        request.limits.conn = Some(Outcome::RejectedDryRun);
        return Verdict::Next;
    }
    request.limits.conn = Some(Outcome::Rejected);
    request.termination = Some(Termination::new(Who::Proxy, How::Limit, Phase::Process).by("limit_conn"));
    Verdict::Done(Reply::Status(conf.status.get(503) as u16))
}
