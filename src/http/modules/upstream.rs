//! The rows of the `upstream` block, and the variables about a request's tries of its peers.
//!
//! The parser of the block, the groups and their state are in `src/upstream/`.
//! Behaviour: nginx.org, ngx_http_upstream_module.

use std::collections::HashMap;

use crate::config::directive::{block as opens, custom, millis, number};
use crate::config::{Arity, Context, Diagnostic, Merge, Node, Span};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive, ModuleTable};
use crate::http::request::Request;
use crate::http::response::headers::trailer;
use crate::http::scope::Variable;
use crate::http::upstream::cache::state::Status;
use crate::http::upstream::selection::Selection;
use crate::http::upstream::sticky::Sticky;
use crate::script::variable::{Argument, prefix, put, variable};
use crate::shared::balance_key::Key;
use crate::shared::sticky::{self, Zones};
use crate::shared::upstream_rows::{self as rows, Draft};
use crate::shm::named::Used;
use crate::upstream::balance::{Time, Times};
use crate::upstream::sticky::Bindings;
use crate::upstream::trace::{put_count, put_seconds};
use crate::upstream::{Block, Group};

/// The settings of one `upstream` block: the group's, and those that need a request.
#[derive(Debug, Default)]
pub struct Conf {
    block: Block,
    selection: Selection,
}

impl Merge for Conf {
    fn merge(&mut self, _: &Self) {}
}

impl Draft for Conf {
    type Scope = Request;
    const DEFAULT_PORT: Option<u16> = Some(80);
    const TIMES: Times = &[("header", Time::Header), ("last_byte", Time::LastByte), ("ewma", Time::Ewma)];

    fn block(&mut self) -> &mut Block {
        &mut self.block
    }

    fn key(&mut self) -> &mut Key<Request> {
        &mut self.selection.key
    }
}

impl BlockConf for Conf {
    const INHERITS: bool = false;
}

/// The selections of the groups that have one, while everything is read.
#[derive(Debug, Default)]
pub struct Selections {
    /// By the index of the group.
    groups: HashMap<usize, Selection>,
    zones: Zones,
}

/// The selections of the groups that have one, by the index of the group.
#[derive(Debug)]
pub struct Table(HashMap<usize, Selection>);

impl Table {
    /// The selection of a group, which takes from a request what chooses a peer; `None`: nothing.
    #[inline]
    pub fn selection(&self, group: &Group) -> Option<&Selection> {
        if self.0.is_empty() { None } else { self.0.get(&group.index?) }
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
        stickies.filter_map(|sticky| Some((sticky.bindings()?, sticky.span)))
    }
}

const UPSTREAM: Context = Context::UPSTREAM;

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    opens("upstream", Context::HTTP, Arity::exactly(1), upstream,
        "Declares a named group of servers that share the load.").opens(&[(Context::HTTP, Context::UPSTREAM)]),
    rows::server(UPSTREAM),
    custom("keepalive", UPSTREAM, Arity::between(1, 2), keepalive,
        "Sets how many idle connections each worker keeps; \"local\" restricts them to the location that opened them.").default("32 local"),
    number("keepalive_requests", UPSTREAM, (0, u32::MAX as u64), |conf: &mut Conf| &mut conf.block.keepalive_requests,
        "Limits the number of requests on one connection.").default("1000"),
    number("keepalive_streams", UPSTREAM, (1, 65_535), |conf: &mut Conf| &mut conf.block.keepalive_streams,
        "Limits the number of requests that share a connection of HTTP/2 or gRPC at a time; the server may permit fewer. Further ones open another \
         connection, and the log says so once.").default("128"),
    millis("keepalive_time", UPSTREAM, |conf: &mut Conf| &mut conf.block.keepalive_time,
        "Sets the age after which a connection is no longer kept.").default("1h"),
    millis("keepalive_timeout", UPSTREAM, |conf: &mut Conf| &mut conf.block.keepalive_timeout, "Sets how long an idle connection is kept.").default("60s"),
    rows::zone(UPSTREAM),
    rows::state(UPSTREAM),
    rows::fail_open(UPSTREAM),
    rows::least_conn(UPSTREAM),
    rows::ip_hash(UPSTREAM),
    rows::hash(UPSTREAM),
    rows::random(UPSTREAM,
        "Selects a server at random, by weight. With two it selects the better of two: by the fewest connections (least_conn, the default), or \
         by least_time=header, last_byte or ewma."),
    rows::least_time(UPSTREAM,
        "Selects the server with the lowest average time for its connections in use and its weight: to the head of a response (header) or to its \
         end (last_byte); with inflight, requests that still wait count too. With ewma, an average of the time to the head that rises at once \
         with a slow response and falls by half every five seconds."),
    custom("sticky", UPSTREAM, Arity::at_least(2), sticky,
        "Keeps each client on one server while that can serve. cookie NAME [expires=TIME|max] [domain=] [path=] [httponly] [secure] [samesite=] \
         sets a cookie with the id of the server: its route= or a digest of its address. route $VARIABLE … takes the id from the request. learn \
         create=$VARIABLE lookup=$VARIABLE zone=NAME:SIZE [timeout=10m] [header] remembers which server made a session; with header it does so as \
         soon as the head of the response is there. source zone=NAME:SIZE [timeout=10m] [prefix4=32] [prefix6=64] remembers the client's address, \
         or the first bits of it. A client of a zone takes 16 bytes."),
    custom("queue", UPSTREAM, Arity::between(1, 2), |conf: &mut Conf, _, node| conf.block.set_queue(node),
        "Lets so many requests in each worker wait until a server may be used, each of them for up to timeout=TIME (60s); without it, or beyond it, the \
         response is 502."),
    rows::outlier_ejection(UPSTREAM),
    rows::retry_budget(UPSTREAM),
    rows::own_resolver(UPSTREAM, "those of the http block"),
    rows::resolver_timeout(UPSTREAM, "that of the http block"),
    custom("ntlm", UPSTREAM, Arity::exactly(0), ntlm,
        "Lets clients authenticate their connections by NTLM: once a request has an Authorization field of NTLM or Negotiate, the connection to the \
         server that it is sent on serves this client's connection alone, all requests of which go there. Kept for keepalive_timeout, besides those \
         that keepalive counts."),
];

#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    variable("upstream_addr", |request, _, out| request.upstream.put_each(out, |attempt, out| out.extend_from_slice(attempt.name())),
        "The addresses of the servers asked: a comma separates tries, a colon an internal redirect."),
    variable("upstream_status", |request, _, out| {
        request.upstream.put_each(out, |attempt, out| match attempt.status {
            0 => out.push(b'-'),
            status => out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes()),
        })
    },
        "The status of each server's response; 502 or 504 if there was none."),
    variable("upstream_connect_time", |request, _, out| request.upstream.put_each(out, |attempt, out| put_seconds(attempt.connect_us.get(), out)),
        "The time to connect to each server, in seconds; 0.000 for a kept connection."),
    variable("upstream_send_time", |request, _, out| request.upstream.put_each(out, |attempt, out| put_seconds(attempt.sent_us.get(), out)),
        "The time until the whole request was sent to each server, in seconds."),
    variable("upstream_header_time", |request, _, out| request.upstream.put_each(out, |attempt, out| put_seconds(attempt.header_us.get(), out)),
        "The time until the response head of each server was received, in seconds."),
    variable("upstream_response_time",
        |request, _, out| request.upstream.put_each(out, |attempt, out| put_seconds(attempt.ended_us.get().map(|_| attempt.response_us()), out)),
        "The time until the response of each server was complete, in seconds."),
    variable("upstream_response_length", |request, _, out| request.upstream.put_each(out, |attempt, out| put_count(attempt.length, out)),
        "The bytes of each server's response body."),
    variable("upstream_bytes_received", |request, _, out| request.upstream.put_each(out, |attempt, out| put_count(attempt.received, out)),
        "The bytes received from each server."),
    variable("upstream_bytes_sent",
        |request, _, out| request.upstream.put_each(out, |attempt, out| put_count(attempt.sent, out)), "The bytes sent to each server."),
    variable("upstream_last_addr", |request, _, out| put(request.upstream.peer_name(), out), "The address of the server that was chosen last."),
    variable("upstream_last_server_name", |request, _, out| put(request.upstream.server_name(), out),
        "The name of the server that was chosen last, as in its server line, without the port."),
    variable("upstream_cache_etag", |request, _, out| put(request.fetch().and_then(|fetch| std::str::from_utf8(&fetch.etag).ok()), out),
        "The ETag of an expired response about which the upstream is asked (proxy_cache_revalidate)."),
    variable("upstream_cache_last_modified",
        |request, _, out| put(request.fetch().and_then(|fetch| std::str::from_utf8(&fetch.last_modified).ok()), out),
        "The Last-Modified of an expired response about which the upstream is asked."),
    variable("upstream_cache_status", |request, _, out| put(request.proxied.cache.as_ref().and_then(|cache| cache.status).map(Status::as_str), out),
        "The result of the lookup in the cache: MISS, BYPASS, EXPIRED, STALE, UPDATING, REVALIDATED or HIT."),
    prefix("upstream_http_", http, "The field of this name in the upstream's response, written in lower case with underscores."),
    prefix("upstream_trailer_", |request, argument, out| trailer(&request.proxied.trailers, &argument.name, out),
        "The trailer field of this name in the upstream's response."),
    prefix("upstream_cookie_", cookie, "The cookie of this name that the upstream's response sets."),
];

fn upstream(_: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let before = cx.diagnostics.error_count();
    let partial = cx.block(node, Context::UPSTREAM);
    let Conf { block, selection } = partial.upstream.map(|conf| *conf).unwrap_or_default();
    let health_check = partial.health_check.map(|conf| *conf).unwrap_or_default();
    let added = cx.upstreams.add_block((block, ""), node, before, &mut cx.diagnostics)?;
    let Some(index) = added else { return Ok(()) };
    health_check.add_to_group(index, cx);
    if let Some((sticky, bindings)) =
        selection.sticky.as_ref().and_then(|sticky| Some((sticky, sticky.bindings()?)))
    {
        cx.drafts.upstream.zones.claim(bindings, sticky.span, node.arg(0))?;
    }
    if !selection.is_empty() {
        cx.drafts.upstream.groups.insert(index, selection);
    }
    Ok(())
}

fn keepalive(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    conf.block.set_keepalive(node)
}

fn sticky(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    conf.block.set_sticky(node)?;
    conf.selection.sticky = Some(Sticky::read(node, cx)?);
    Ok(())
}

fn ntlm(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let is_twice = std::mem::replace(&mut conf.block.binds, true);
    conf.selection.binds = true;
    if is_twice { Err(Diagnostic::error(node.span, "\"ntlm\" directive is duplicate")) } else { Ok(()) }
}

/// `$upstream_http_name`: all fields of this name, joined.
fn http(request: &mut Request, argument: &Argument, out: &mut Vec<u8>) -> bool {
    let Some(kept) = request.proxied.head() else { return false };
    let mut found = false;
    for (name, value) in kept.head.fields.pairs(kept.buffer.data()) {
        if is_named(name, &argument.name) {
            if std::mem::replace(&mut found, true) {
                out.extend_from_slice(b", ");
            }
            out.extend_from_slice(value);
        }
    }
    found
}

/// `$upstream_cookie_name`: the value, up to `;`, in the first `Set-Cookie` for this cookie.
///
/// As in nginx, spaces may surround `=`, and spaces after the value belong to it.
fn cookie(request: &mut Request, argument: &Argument, out: &mut Vec<u8>) -> bool {
    let Some(kept) = request.proxied.head() else { return false };
    let fields = kept.head.fields.pairs(kept.buffer.data());
    let values = fields.filter(|(name, _)| name.eq_ignore_ascii_case(b"set-cookie"));
    let wanted = argument.name.as_bytes();
    let mut cookies = values.filter_map(|(_, field)| {
        let (name, rest) = field.split_at_checked(wanted.len())?;
        let value = skip_spaces(rest).strip_prefix(b"=").filter(|_| name.eq_ignore_ascii_case(wanted))?;
        skip_spaces(value).split(|&byte| byte == b';').next()
    });
    cookies.next().is_some_and(|value| {
        out.extend_from_slice(value);
        true
    })
}

fn skip_spaces(text: &[u8]) -> &[u8] {
    &text[text.iter().take_while(|&&byte| byte == b' ').count()..]
}

/// Compares a field's name with a variable's name, which is in lower case with underscores.
fn is_named(field: &[u8], variable: &str) -> bool {
    let spelled = |byte: &u8| if *byte == b'-' { b'_' } else { byte.to_ascii_lowercase() };
    field.len() == variable.len() && field.iter().map(spelled).eq(variable.bytes())
}
