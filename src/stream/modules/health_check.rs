//! Active health checks of upstream servers (`health_check`), and what they talk about with them (`match`).
//!
//! A check is written in a server that passes to the group, or in the `upstream` block itself. The prober makes them
//! (`stream/probe.rs`, `upstream/prober.rs`). Touches: nothing.
//! Behaviour: nginx.org, ngx_stream_upstream_hc_module.

use crate::config::directive::{block, custom, millis};
use crate::config::inherit::{duplicate, own};
use crate::config::{Arity, Context, Diagnostic, Node, Setting, Span, params, settings};
use crate::shared::conversation::Conversation;
use crate::shared::health_check::{self as shared, Agent, HasAgent};
use crate::stream::config::compile::Cx;
use crate::stream::config::server::Server;
use crate::stream::modules::proxy::{Layer, Pass};
use crate::stream::modules::{BlockConf, Confs, Directive, ModuleTable};
use crate::stream::scope::Variable;
use crate::upstream::check::Rules;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        timeout: Setting<u64> = 5_000,
        check: Option<Check> => own,
        /// `agent_check`
        agent: Option<Agent> => own,
        /// The block is a `match`.
        conversation: Conversation => own,
    }
}

/// One `health_check`.
#[derive(Debug)]
pub struct Check {
    pub rules: Rules,
    /// It sends a datagram instead of connecting.
    pub is_udp: bool,
    /// It encrypts its connections, whatever `proxy_ssl` says.
    is_tls: bool,
    matching: Option<Box<str>>,
    span: Span,
}

impl Check {
    /// The name of its `match`.
    pub fn matching(&self) -> Option<&str> {
        self.matching.as_deref()
    }

    /// Its conversation with a peer; `None`: it only connects.
    pub fn conversation<'a>(&self, table: &'a Table) -> Option<&'a Conversation> {
        table.matching(self.matching()?)
    }
}

pub type OfGroup = shared::OfGroup<Check, Layer>;
pub type Draft = shared::Draft<Conversation, Check, Layer>;
pub type Table = shared::Table<Conversation, Check, Layer>;

impl ModuleTable for Table {
    fn open(cx: &mut Cx) -> Self {
        std::mem::take(&mut cx.drafts.health_check).finish(&mut cx.diagnostics)
    }
}

const UPSTREAM: Context = Context::STREAM_UPSTREAM;
const MATCH: Context = Context::STREAM_MATCH;

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("health_check", Context::STREAM_SERVER.or(UPSTREAM), Arity::at_least(0), health_check,
        "Checks the servers of the group that the server passes to, or of the upstream block that it stands in, and leaves unhealthy ones out: interval=, \
         jitter=, fails=, passes=, port=, match=, mandatory, persistent. It connects, over TLS where proxy_ssl is on, and talks as its match says. With \
         udp it sends a datagram, which must be answered as match says, or not be refused within a second. One process checks for all workers. The \
         check of a server has the server's settings (proxy_bind, proxy_protocol, proxy_ssl_*), that of an upstream block those of the stream block; \
         with ssl it uses TLS there."),
    millis("health_check_timeout", Context::IN_STREAM, |c| &mut c.timeout, "Limits the time that a health check may take."),
    shared::agent_check(UPSTREAM),
    block("match", Context::STREAM, Arity::exactly(1), matching, "Names what a health check sends to a server and expects from it.")
        .opens(&[(Context::STREAM, MATCH)]),
    custom("send", MATCH, Arity::exactly(1), |conf: &mut Conf, _, node| conf.conversation.set_send(node),
        "Sets what the check sends first. \\r, \\n, \\t, \\\\ and \\xHH are single bytes."),
    custom("expect", MATCH, Arity::between(1, 2), |conf: &mut Conf, cx, node| conf.conversation.set_expect(node, cx),
        "Requires that the first 16 KB of the answer contain these bytes, or match a regular expression (~, or ~* without regard to case)."),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {}

impl HasAgent for Conf {
    fn agent(&mut self) -> &mut Option<Agent> {
        &mut self.agent
    }
}

impl Conf {
    /// The check of a server.
    pub fn check(&self) -> Option<&Check> {
        self.check.as_ref()
    }

    /// `health_check_timeout`
    pub fn timeout_ms(&self) -> u64 {
        self.timeout.get()
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

/// Completes the checks before the groups are made: those of servers are told to their groups, those of `upstream` blocks
/// get the settings of the `stream` block, `root`.
pub fn complete(servers: &[Server], root: &Confs, cx: &mut Cx) {
    for (server, check) in servers.iter().filter_map(|it| Some((it, it.confs.health_check.check()?))) {
        let refused = |message: &str| Diagnostic::error(check.span, message);
        match server.confs.proxy.pass() {
            _ if check.is_tls => {
                let message = "\"health_check\" in a server takes \"ssl\" from \"proxy_ssl\"";
                cx.diagnostics.push(refused(message).help("write \"proxy_ssl on;\" in the server"));
            }
            Some(Pass::Fixed { group, .. }) => cx.upstreams.check(*group, &check.rules),
            Some(Pass::Script(_)) => {
                let message = "\"health_check\" cannot be used with \"proxy_pass\" directive with variables";
                cx.diagnostics.push(refused(message).help("write it in the \"upstream\" block instead"));
            }
            None => {
                let message = "\"health_check\" in a server without \"proxy_pass\" has nothing to check";
                cx.diagnostics.push(refused(message));
            }
        }
    }
    let mut of_groups = std::mem::take(&mut cx.drafts.health_check.of_groups);
    for of_group in &mut of_groups {
        let check = &of_group.check;
        if !check.is_udp && (check.is_tls || root.proxy.is_encrypting()) {
            of_group.layer = root.proxy.layer_of_group(check.span, cx);
        }
    }
    cx.drafts.health_check.of_groups = of_groups;
}

const PARAMETERS: &[&str] = &[
    "interval=",
    "jitter=",
    "fails=",
    "passes=",
    "port=",
    "match=",
    "udp",
    "ssl",
    "mandatory",
    "persistent",
];

fn health_check(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    if conf.check.is_some() {
        return Err(duplicate(node));
    }
    let rules = Rules::default();
    let mut check = Check { rules, is_udp: false, is_tls: false, matching: None, span: node.span };
    for word in &node.args {
        if check.rules.take(word)? {
            continue;
        }
        match word.text.split_once('=') {
            None if &*word.text == "udp" => check.is_udp = true,
            None if &*word.text == "ssl" => check.is_tls = true,
            Some(("match", name)) => {
                check.matching = Some(name.into());
                cx.drafts.health_check.matches.refer(name, word);
            }
            _ => return Err(params::invalid_parameter(word, PARAMETERS)),
        }
    }
    if check.is_udp && check.is_tls {
        return Err(Diagnostic::error(node.span, "\"health_check\" with \"udp\" cannot have \"ssl\""));
    }
    shared::demand_mandatory(&check.rules, node)?;
    conf.check = Some(check);
    Ok(())
}

fn matching(_: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let partial = cx.block(node, MATCH);
    let conversation = partial.health_check.map(|conf| conf.conversation).unwrap_or_default();
    cx.drafts.health_check.matches.define(node, conversation)
}
