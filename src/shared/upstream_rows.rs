//! The rows of an `upstream` block that all language parts have.
//!
//! A part's own block implements [`Draft`], and its table lists these rows with the kind of block they stand in. The settings
//! are `upstream/block.rs`. Touches: the table of names, for the servers' addresses.
//! Behaviour: nginx.org, ngx_http_upstream_module and ngx_stream_upstream_module.

use std::sync::Arc;

use crate::config::directive::{custom, flag, millis};
use crate::config::{Arity, Context, Diagnostic, Diagnostics, Directive, Node};
use crate::script::Scope;
use crate::script::value::Script;
use crate::shared::balance_key::Key;
use crate::shared::{Environment, resolver};
use crate::upstream::balance::{Method, Times};
use crate::upstream::{Block, block};

/// An `upstream` block of a language part while it is read.
pub trait Draft: 'static {
    type Scope: Scope;

    /// The port of a server that is written without one; `None`: each has its own.
    const DEFAULT_PORT: Option<u16>;

    /// The words for the times of `least_time`.
    const TIMES: Times;

    fn block(&mut self) -> &mut Block;

    fn key(&mut self) -> &mut Key<Self::Scope>;
}

/// Calls a setter that adds to the findings while it reads the names.
fn with_findings<X: Environment, T>(cx: &mut X, set: impl FnOnce(&X, &mut Diagnostics) -> T) -> T {
    let mut found = std::mem::take(cx.diagnostics());
    let outcome = set(cx, &mut found);
    *cx.diagnostics() = found;
    outcome
}

/// `server`
#[rustfmt::skip]
pub const fn server<C: Draft, X: Environment + 'static>(contexts: Context) -> Directive<C, X> {
    custom("server", contexts, Arity::at_least(1), |conf: &mut C, cx: &mut X, node| {
        with_findings(cx, |cx, found| conf.block().add_server(node, C::DEFAULT_PORT, cx.names(), found))
    },
        "Adds a server to the group, with the parameters weight, max_fails, fail_timeout, max_conns, backup, down, drain, slow_start and route. With \
         priority=N it is used while no server of a lower number can be; backup is priority 1. With resolve the server follows its name while \
         serving, at the name servers of resolver or else of /etc/resolv.conf; with service= by SRV records.")
}

/// `state`
#[rustfmt::skip]
pub const fn state<C: Draft, X: Environment + 'static>(contexts: Context) -> Directive<C, X> {
    custom("state", contexts, Arity::exactly(1), |conf: &mut C, cx: &mut X, node| {
        with_findings(cx, |cx, found| conf.block().set_state(node, cx.prefix(), C::DEFAULT_PORT, cx.names(), found))
    },
        "Reads the servers of the group from this file, which has the lines of a block without server directives, and keeps the changes there that are made \
         while serving. A file that is missing is a group without servers. Such changes are not in the file of control_state.")
}

/// `zone`
#[rustfmt::skip]
pub const fn zone<C: Draft, X: 'static>(contexts: Context) -> Directive<C, X> {
    custom("zone", contexts, Arity::between(1, 2), |conf: &mut C, _, node| conf.block().set_zone(node),
        "Shares the failures and connection counts of peers among all workers. The size is not needed.")
}

/// `fail_open`
#[rustfmt::skip]
pub const fn fail_open<C: Draft, X: 'static>(contexts: Context) -> Directive<C, X> {
    flag("fail_open", contexts, |conf: &mut C| &mut conf.block().fail_open,
        "Uses all servers if none of them is well: those that have failed, were ejected or failed their checks, but not those that are down \
         or full.").default("off")
}

/// `least_conn`
#[rustfmt::skip]
pub const fn least_conn<C: Draft, X: Environment + 'static>(contexts: Context) -> Directive<C, X> {
    custom("least_conn", contexts, Arity::exactly(0), |conf, cx, node| set_method(conf, cx, node, Method::LeastConn, Key::None),
        "Selects the server with the fewest connections in use for its weight; with a zone, those of all workers.")
}

/// `ip_hash`
#[rustfmt::skip]
pub const fn ip_hash<C: Draft, X: Environment + 'static>(contexts: Context) -> Directive<C, X> {
    custom("ip_hash", contexts, Arity::exactly(0), |conf, cx, node| set_method(conf, cx, node, Method::IpHash, Key::Address),
        "Selects a server by the client's network: the first three octets of an IPv4 address, or the whole IPv6 address.")
}

/// `hash`
#[rustfmt::skip]
pub const fn hash<C: Draft, X: Environment<Scope = C::Scope> + 'static>(contexts: Context) -> Directive<C, X> {
    custom("hash", contexts, Arity::between(1, 3), |conf, cx, node| {
        let key = Key::Script(Script::compile(&node.args[0], cx)?);
        set_method(conf, cx, node, block::hash(node)?, key)
    },
        "Selects a server by the hash of a key, which may have variables. With consistent few keys move when servers come or go; \
         with bounded=C a server gets at most C times its share of the connections in use, and further requests go to the next on the ring. \
         Weights on a ring count up to a sum of 65536, and in proportion beyond it.")
}

/// `random`
#[rustfmt::skip]
pub const fn random<C: Draft, X: Environment + 'static>(contexts: Context, doc: &'static str) -> Directive<C, X> {
    custom("random", contexts, Arity::between(0, 2), |conf, cx, node| {
        set_method(conf, cx, node, block::random(node, C::TIMES)?, Key::None)
    }, doc)
}

/// `least_time`
#[rustfmt::skip]
pub const fn least_time<C: Draft, X: Environment + 'static>(contexts: Context, doc: &'static str) -> Directive<C, X> {
    custom("least_time", contexts, Arity::between(1, 2), |conf, cx, node| {
        set_method(conf, cx, node, block::least_time(node, C::TIMES)?, Key::None)
    }, doc)
}

/// `outlier_ejection`
#[rustfmt::skip]
pub const fn outlier_ejection<C: Draft, X: 'static>(contexts: Context) -> Directive<C, X> {
    custom("outlier_ejection", contexts, Arity::at_least(1), |conf: &mut C, _, node| conf.block().set_outliers(node),
        "Leaves a server out for time=TIME (30s) after an interval=TIME (10s) with at least requests=NUMBER (20) in which errors=PERCENT% of them failed, or \
         after which it takes latency=FACTOR times as long to respond as the others. Each further time is longer, up to ten times. Not more than \
         max=PERCENT% (50%) of the servers are left out.").default("off")
}

/// `retry_budget`
#[rustfmt::skip]
pub const fn retry_budget<C: Draft, X: 'static>(contexts: Context) -> Directive<C, X> {
    custom("retry_budget", contexts, Arity::between(1, 2), |conf: &mut C, _, node| conf.block().set_retry_budget(node),
        "Limits how many requests a worker may send to a further server after a failure, as a share of its requests to the group: 20%. min=NUMBER a second \
         (10) are free.").default("no limit")
}

/// `resolver`
#[rustfmt::skip]
pub const fn own_resolver<C: Draft, X: Environment + 'static>(contexts: Context, default: &'static str) -> Directive<C, X> {
    custom("resolver", contexts, Arity::at_least(1), |conf: &mut C, cx: &mut X, node| {
        conf.block().resolver.put(Arc::new(resolver::read(node, cx)?), node)
    }, "Sets the name servers for servers with \"resolve\", with the parameters of the resolver directive.").default(default)
}

/// `resolver_timeout`
#[rustfmt::skip]
pub const fn resolver_timeout<C: Draft, X: 'static>(contexts: Context, default: &'static str) -> Directive<C, X> {
    millis("resolver_timeout", contexts, |conf: &mut C| &mut conf.block().resolver_timeout,
        "Limits how long a lookup may take, and sets the pause after a failed one.").default(default)
}

fn set_method<C: Draft>(
    conf: &mut C,
    cx: &mut impl Environment,
    node: &Node,
    method: Method,
    key: Key<C::Scope>,
) -> Result<(), Diagnostic> {
    conf.block().set_method(method, node, cx.diagnostics());
    *conf.key() = key;
    Ok(())
}
