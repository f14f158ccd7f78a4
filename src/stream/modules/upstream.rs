//! The rows of the `upstream` block, and the variables about a session's tries of its peers.
//!
//! The parser of the block, the groups and their state are in `src/upstream/`; most rows in `shared/upstream_rows.rs`.
//! Behaviour: nginx.org, ngx_stream_upstream_module.

use std::collections::HashMap;

use crate::config::directive::{block as opens, custom};
use crate::config::{Arity, Context, Diagnostic, Merge, Node, Span};
use crate::script::variable::{put, variable};
use crate::shared::balance_key::Key;
use crate::shared::sticky::{self, Source, Zones};
use crate::shared::upstream_rows::{self as rows, Draft};
use crate::shm::named::Used;
use crate::stream::config::compile::Cx;
use crate::stream::modules::{BlockConf, Directive, ModuleTable};
use crate::stream::scope::Variable;
use crate::stream::session::Session;
use crate::upstream::balance::{Time, Times};
use crate::upstream::sticky::Bindings;
use crate::upstream::trace::{put_count, put_seconds};
use crate::upstream::{Block, Group};

/// The settings of one `upstream` block: the group's, and those that need a session.
#[derive(Debug, Default)]
pub struct Conf {
    block: Block,
    selection: Selection,
}

/// What a group's balancer takes from a session.
#[derive(Debug, Default)]
pub struct Selection {
    pub key: Key<Session>,
    /// Peers are compared by the time to connect, instead of that to their first byte.
    pub by_connect: bool,
    /// `sticky source`.
    pub sticky: Option<Sticky>,
}

/// The table of clients that a group binds to its servers.
#[derive(Debug)]
pub struct Sticky {
    pub source: Source,
    span: Span,
}

impl Merge for Conf {
    fn merge(&mut self, _: &Self) {}
}

impl BlockConf for Conf {
    const INHERITS: bool = false;
}

impl Draft for Conf {
    type Scope = Session;
    const DEFAULT_PORT: Option<u16> = None;
    const TIMES: Times =
        &[("connect", Time::Header), ("first_byte", Time::Header), ("last_byte", Time::LastByte)];

    fn block(&mut self) -> &mut Block {
        &mut self.block
    }

    fn key(&mut self) -> &mut Key<Session> {
        &mut self.selection.key
    }
}

/// The selections of the groups, while everything is read.
#[derive(Debug, Default)]
pub struct Selections {
    /// By the index of the group.
    groups: HashMap<usize, Selection>,
    zones: Zones,
}

/// The selections of the groups, by the index of the group.
#[derive(Debug)]
pub struct Table(HashMap<usize, Selection>);

impl Table {
    /// What a group's balancer takes from a session; `None`: nothing.
    pub fn selection(&self, group: &Group) -> Option<&Selection> {
        self.0.get(&group.index?)
    }
}

impl ModuleTable for Table {
    fn open(cx: &mut Cx) -> Self {
        let table = Self(std::mem::take(&mut cx.drafts.upstream).groups);
        sticky::open(table.bindings(), cx);
        table
    }

    fn add_zones(&self, zones: &mut Vec<Used>) {
        zones.extend(self.bindings().map(|(bindings, _)| bindings.used()));
    }
}

impl Table {
    /// The tables of `sticky`, each with the place of its directive.
    fn bindings(&self) -> impl Iterator<Item = (&Bindings, Span)> {
        let stickies = self.0.values().filter_map(|selection| selection.sticky.as_ref());
        stickies.map(|sticky| (&sticky.source.bindings, sticky.span))
    }
}

const UPSTREAM: Context = Context::STREAM_UPSTREAM;

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    opens("upstream", Context::STREAM, Arity::exactly(1), upstream,
        "Declares a named group of servers that share the load.").opens(&[(Context::STREAM, Context::STREAM_UPSTREAM)]),
    rows::server(UPSTREAM),
    rows::zone(UPSTREAM),
    rows::state(UPSTREAM),
    rows::fail_open(UPSTREAM),
    rows::least_conn(UPSTREAM),
    rows::ip_hash(UPSTREAM),
    rows::hash(UPSTREAM),
    rows::random(UPSTREAM,
        "Selects a server at random, by weight. With two it selects the better of two: by the fewest connections (least_conn, the default), or \
         by least_time=connect, first_byte or last_byte."),
    rows::least_time(UPSTREAM,
        "Selects the server with the lowest average time for its connections in use and its weight: to connect (connect), to its first byte \
         (first_byte) or to the end of the session (last_byte); with inflight, sessions that still wait count too."),
    custom("sticky", UPSTREAM, Arity::at_least(2), sticky,
        "Keeps each client on one server while that can serve. source zone=NAME:SIZE [timeout=10m] [prefix4=32] [prefix6=64] remembers the client's \
         address, or the first bits of it. A client of a zone takes 16 bytes."),
    rows::outlier_ejection(UPSTREAM),
    rows::retry_budget(UPSTREAM),
    rows::own_resolver(UPSTREAM, "those of the stream block"),
    rows::resolver_timeout(UPSTREAM, "that of the stream block"),
];

#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    variable("upstream_addr", |s, _, out| s.upstream.put_each(out, |attempt, out| out.extend_from_slice(attempt.name())),
        "The addresses of the servers tried, with commas between."),
    variable("upstream_last_addr", |s, _, out| put(s.upstream.peer_name(), out), "The address of the server that was chosen last."),
    variable("upstream_last_server_name", |s, _, out| put(s.upstream.server_name(), out),
        "The name of the server that was chosen last, as in its server line, without the port."),
    variable("upstream_connect_time", |s, _, out| s.upstream.put_each(out, |attempt, out| put_seconds(attempt.connect_us.get(), out)),
        "The time to connect to each server, in seconds."),
    variable("upstream_first_byte_time", |s, _, out| s.upstream.put_each(out, |attempt, out| put_seconds(attempt.header_us.get(), out)),
        "The time to the first byte of each server, in seconds."),
    variable("upstream_session_time",
        |s, _, out| s.upstream.put_each(out, |attempt, out| put_seconds(attempt.ended_us.get().map(|_| attempt.response_us()), out)),
        "The duration of the session with each server, in seconds."),
    variable("upstream_bytes_received",
        |s, _, out| s.upstream.put_each(out, |attempt, out| put_count(attempt.received, out)), "The bytes received from each server."),
    variable("upstream_bytes_sent", |s, _, out| s.upstream.put_each(out, |attempt, out| put_count(attempt.sent, out)), "The bytes sent to each server."),
];

fn upstream(_: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let before = cx.diagnostics.error_count();
    let partial = cx.block(node, UPSTREAM);
    let Conf { block, mut selection } = partial.upstream.map(|conf| *conf).unwrap_or_default();
    let health_check = partial.health_check.map(|conf| *conf).unwrap_or_default();
    selection.by_connect = node.children().iter().any(|child| {
        let words = [&*child.name.text, child.arg(0), child.arg(1)];
        matches!(words, ["least_time", "connect", _] | ["random", _, "least_time=connect"])
    });
    let added = cx.upstreams.add_block((block, "stream"), node, before, &mut cx.diagnostics)?;
    let Some(index) = added else { return Ok(()) };
    health_check.add_to_group(index, cx);
    if let Some(sticky) = &selection.sticky {
        cx.drafts.upstream.zones.claim(&sticky.source.bindings, sticky.span, node.arg(0))?;
    }
    cx.drafts.upstream.groups.insert(index, selection);
    Ok(())
}

fn sticky(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    if node.arg(0) != "source" {
        let message = format!("unknown parameter \"{}\"", node.arg(0));
        let help = "in stream, clients are known by their address only: sticky source zone=NAME:SIZE";
        return Err(Diagnostic::error(node.arg_span(0), message).help(help));
    }
    conf.block.set_sticky(node)?;
    conf.selection.sticky = Some(Sticky { source: Source::read("stream ", node)?, span: node.span });
    Ok(())
}
