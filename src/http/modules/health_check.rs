//! Active health checks of upstream servers (`health_check`), and the conditions for their responses (`match`).
//!
//! A check is written in a location that passes to the group, or in the `upstream` block itself. The prober makes
//! them (`http/upstream/probe.rs`, `upstream/prober.rs`). Touches: nothing.
//! Behaviour: nginx.org, ngx_http_upstream_hc_module.

use crate::base::number;
use crate::config::directive::{block, custom};
use crate::config::inherit::{duplicate, own};
use crate::config::{Arity, Context, Diagnostic, Node, Span, params, settings};
use crate::http::config::compile::Cx;
use crate::http::config::server::Server;
use crate::http::modules::proxy_pass::Pass;
use crate::http::modules::{BlockConf, Confs, Directive, ModuleTable};
use crate::http::scope::Variable;
use crate::http::upstream::grpc_check::{self, Call};
use crate::http::upstream::matching::Match;
use crate::http::upstream::protocol::Protocol;
use crate::http::upstream::tls::Layer;
use crate::proto::message::Version;
use crate::shared::health_check::{self as shared, Agent, HasAgent};
use crate::upstream::check::Rules;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        check: Option<Check> => own,
        /// `agent_check`
        agent: Option<Agent> => own,
        /// The block is a `match`.
        conditions: Match => own,
    }
}

/// One `health_check`.
#[derive(Debug)]
pub struct Check {
    pub rules: Rules,
    /// The target of its requests.
    pub uri: Box<str>,
    /// The age up to which a connection is kept for the next probe; 0: none is kept.
    pub keepalive_ms: u64,
    pub kind: Kind,
    /// The call of one with `type=grpc`.
    pub call: Call,
    /// It uses TLS, where no `proxy_pass` says so.
    pub is_tls: bool,
    matching: Option<Box<str>>,
    span: Span,
}

/// The exchange of a check with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Http,
    /// It connects, and talks as its `match` says.
    Tcp,
    /// It calls the health service of a gRPC server.
    Grpc,
}

impl Check {
    /// The name of its `match`.
    pub fn matching(&self) -> Option<&str> {
        self.matching.as_deref()
    }

    /// The conditions for the responses to it.
    pub fn conditions<'a>(&self, table: &'a Table) -> Option<&'a Match> {
        table.matching(self.matching()?)
    }
}

pub type OfGroup = shared::OfGroup<Check, Layer>;
pub type Draft = shared::Draft<Match, Check, Layer>;
pub type Table = shared::Table<Match, Check, Layer>;

impl ModuleTable for Table {
    fn open(cx: &mut Cx) -> Self {
        std::mem::take(&mut cx.drafts.health_check).finish(&mut cx.diagnostics)
    }
}

const UPSTREAM: Context = Context::UPSTREAM;

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("health_check", Context::LOCATION.or(UPSTREAM), Arity::at_least(0), health_check,
        "Checks the servers of the group that the location passes to, or of the upstream block that it stands in, and leaves unhealthy ones out: \
         interval=, jitter=, fails=, passes=, uri=, port=, match=, keepalive_time=, type=http, tcp or grpc, mandatory, persistent. A gRPC server \
         must say that it serves grpc_service=, or answer with grpc_status= (12: it has no health service). One process checks for all workers. \
         Requests of a location's check have the location's settings (proxy_set_header, proxy_ssl_*, timeouts), others those of the http block, and use \
         TLS with ssl."),
    shared::agent_check(UPSTREAM),
    block("match", Context::HTTP, Arity::exactly(1), matching, "Names the conditions that the response to a health check must meet; all must hold.")
        .opens(&[(Context::HTTP, Context::MATCH)]),
    custom("status", Context::MATCH, Arity::at_least(1), status, "Requires one of these status codes: 200, 200-399; with \"!\" before them, none of them."),
    custom("header", Context::MATCH, Arity::between(1, 3), header,
        "Requires a field of the response (NAME), that there is none (! NAME), or that its value compares: NAME = value, with =, !=, ~ or !~."),
    custom("body", Context::MATCH, Arity::exactly(2), body,
        "Requires that the first 256 KB of the body match a regular expression (~), or do not (!~)."),
    custom("send", Context::MATCH, Arity::exactly(1), send,
        "Sets what a check with type=tcp sends first. \\r, \\n, \\t, \\\\ and \\xHH are single bytes."),
    custom("expect", Context::MATCH, Arity::between(1, 2), expect,
        "Requires that the answer to a check with type=tcp contains these bytes, or that its first 16 KB match a regular expression (~, or \
         ~* without regard to case)."),
    custom("require", Context::MATCH, Arity::at_least(1), require, "Requires that all these values are neither empty nor 0."),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {
    const INHERITS: bool = false;
}

impl HasAgent for Conf {
    fn agent(&mut self) -> &mut Option<Agent> {
        &mut self.agent
    }
}

impl Conf {
    /// The check of a location.
    pub fn check(&self) -> Option<&Check> {
        self.check.as_ref()
    }

    /// Adds the checks of an `upstream` block to its group.
    pub fn add_to_group(self, index: usize, cx: &mut Cx) {
        if let Some(check) = self.check {
            cx.upstreams.check(index, &check.rules);
            cx.drafts.health_check.of_groups.push(OfGroup { group: index, check, layer: None });
        }
        if let Some(agent) = self.agent {
            cx.upstreams.advise(index);
            cx.drafts.health_check.agents.push((index, agent));
        }
    }
}

/// Completes the checks before the groups are made: those of locations are told to their groups, those of `upstream` blocks
/// get the settings of the `http` block, `root`.
pub fn complete(servers: &[Server], root: &Confs, cx: &mut Cx) {
    for location in servers.iter().flat_map(Server::locations) {
        let Some(check) = location.confs.health_check.check() else { continue };
        match location.confs.proxy_pass.pass() {
            _ if check.is_tls => {
                let message = "\"health_check\" in a location takes \"ssl\" from the URL of its upstream";
                let help = "write https:// or grpcs:// there";
                cx.diagnostics.push(Diagnostic::error(check.span, message).help(help));
            }
            Some(Pass::Fixed { .. }) if check.kind == Kind::Grpc && location.protocol != Protocol::Grpc => {
                let message = "\"health_check\" with \"type=grpc\" requires \"grpc_pass\"";
                cx.diagnostics.push(Diagnostic::error(check.span, message));
            }
            Some(Pass::Fixed { group, .. }) => cx.upstreams.check(*group, &check.rules),
            Some(Pass::Script(_)) => {
                let message = "\"health_check\" cannot be used with \"proxy_pass\" directive with variables";
                let help = "write it in the \"upstream\" block instead";
                cx.diagnostics.push(Diagnostic::error(check.span, message).help(help));
            }
            None => {
                let message = "\"health_check\" in a location without \"proxy_pass\" has nothing to check";
                cx.diagnostics.push(Diagnostic::error(check.span, message));
            }
        }
    }
    let mut of_groups = std::mem::take(&mut cx.drafts.health_check.of_groups);
    for OfGroup { check, layer, .. } in of_groups.iter_mut().filter(|it| it.check.is_tls) {
        let is_grpc = check.kind == Kind::Grpc;
        let family = if is_grpc { &root.grpc.upstream } else { &root.proxy.upstream };
        let has_http2 = is_grpc || (check.kind == Kind::Http && root.proxy.version() == Version::Http2);
        let offered = has_http2.then_some("h2");
        *layer = family.set.tls.layer(family.prefix(), (None, offered), check.span, cx);
    }
    cx.drafts.health_check.of_groups = of_groups;
}

const PARAMETERS: &[&str] = &[
    "interval=",
    "jitter=",
    "fails=",
    "passes=",
    "uri=",
    "port=",
    "match=",
    "keepalive_time=",
    "type=",
    "grpc_service=",
    "grpc_status=",
    "ssl",
    "mandatory",
    "persistent",
];

fn health_check(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    if conf.check.is_some() {
        return Err(duplicate(node));
    }
    let mut check = Check {
        rules: Rules::default(),
        uri: "/".into(),
        keepalive_ms: 0,
        kind: Kind::Http,
        call: Call::default(),
        is_tls: false,
        matching: None,
        span: node.span,
    };
    for word in &node.args {
        let invalid = || params::invalid_parameter(word, PARAMETERS);
        if check.rules.take(word)? {
            continue;
        }
        if &*word.text == "ssl" {
            check.is_tls = true;
            continue;
        }
        let (name, value) = word.text.split_once('=').ok_or_else(invalid)?;
        match name {
            "uri" => {
                let is_plain = value.bytes().all(|byte| byte.is_ascii_graphic());
                check.uri =
                    Some(value).filter(|uri| uri.starts_with('/') && is_plain).ok_or_else(invalid)?.into();
            }
            "match" => {
                check.matching = Some(value.into());
                cx.drafts.health_check.matches.refer(value, word);
            }
            "keepalive_time" => check.keepalive_ms = number::parse_millis(value).ok_or_else(invalid)?,
            "type" if value == "http" => check.kind = Kind::Http,
            "type" if value == "tcp" => check.kind = Kind::Tcp,
            "type" if value == "grpc" => check.kind = Kind::Grpc,
            "grpc_service" => check.call.service = value.into(),
            "grpc_status" => {
                let code = number::parse_u64(value.as_bytes()).filter(|code| *code <= u64::from(u16::MAX));
                check.call.status = code.ok_or_else(invalid)?;
            }
            _ => return Err(invalid()),
        }
    }
    if check.kind != Kind::Grpc && check.call != Call::default() {
        let message = "\"grpc_service\" and \"grpc_status\" require \"type=grpc\"";
        return Err(Diagnostic::error(node.span, message));
    }
    if check.kind == Kind::Grpc {
        if &*check.uri != "/" || check.matching.is_some() {
            let message = "a check of \"type=grpc\" has neither \"uri\" nor \"match\"";
            return Err(
                Diagnostic::error(node.span, message).help("\"grpc_service\" names what is asked for")
            );
        }
        check.uri = grpc_check::PATH.into();
    }
    shared::demand_mandatory(&check.rules, node)?;
    conf.check = Some(check);
    Ok(())
}

fn send(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    conf.conditions.conversation.set_send(node)
}

fn expect(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    conf.conditions.conversation.set_expect(node, cx)
}

fn matching(_: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let partial = cx.block(node, Context::MATCH);
    let conditions = partial.health_check.map(|conf| conf.conditions).unwrap_or_default();
    cx.drafts.health_check.matches.define(node, conditions)
}

fn status(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    conf.conditions.add_statuses(node)
}

fn header(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    conf.conditions.add_field(node, cx)
}

fn body(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    conf.conditions.add_body(node, cx)
}

fn require(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    conf.conditions.require(node, cx)
}
