//! The `upstream` block, its groups, and the variables that tell of a request's way through its peers.
//!
//! Touches: the resolver, for the servers' names, while compiling. A name that does not resolve is a warning:
//! its server counts as down until it does (`upstream/unresolved.rs`).
//! Behaviour: nginx.org, ngx_http_upstream_module.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use crate::base::number;
use crate::config::directive::{block, custom, millis, number};
use crate::config::inherit::duplicate;
use crate::config::{Arity, Context, Diagnostic, Inherit, Merge, Node, Span};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive};
use crate::http::request::Request;
use crate::http::response::headers::trailer;
use crate::http::scope::Variable;
use crate::http::upstream::trace::Attempt;
use crate::log::{self, Logger};
use crate::net::address::{self, Address, Host};
use crate::net::resolver::Resolver;
use crate::runtime;
use crate::script::variable::{Argument, prefix, variable};
use crate::shared::resolver;
use crate::shm::counter::Slot;
use crate::upstream::Group;
use crate::upstream::follow::{self, Names, Tell};
use crate::upstream::group::Keepalive;
use crate::upstream::known::Spot;
use crate::upstream::peer::Server;
use crate::upstream::unresolved as retry;

/// Groups made while serving, for `proxy_pass` with variables, that are kept with their connections.
const DYNAMIC_MAX: usize = 64;

/// The directives of one `upstream` block.
#[derive(Debug, Default)]
pub struct Conf {
    servers: Vec<Server>,
    idle: Option<(usize, bool)>,
    has_zone: bool,
    requests: Inherit<u64>,
    time: Inherit<u64>,
    timeout: Inherit<u64>,
    resolver: Inherit<Rc<Resolver>>,
    resolver_timeout: Inherit<u64>,
}

impl Merge for Conf {
    fn merge(&mut self, _: &Self) {}
}

impl BlockConf for Conf {
    const INHERITS: bool = false;
}

const UPSTREAM: Context = Context::UPSTREAM;

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    block("upstream", Context::HTTP, Arity::exactly(1), upstream, "A named group of servers that share load.").opens(&[(Context::HTTP, Context::UPSTREAM)]),
    custom("server", UPSTREAM, Arity::at_least(1), server,
        "A server of the group: weight, max_fails, fail_timeout, max_conns, backup, down. With resolve it follows its name while serving, with service= by \
         SRV records."),
    custom("keepalive", UPSTREAM, Arity::between(1, 2), keepalive,
        "Idle connections that each worker keeps, \"local\" to the location that opened them; 32 local."),
    number("keepalive_requests", UPSTREAM, (0, u32::MAX as u64), |conf| &mut conf.requests, "Requests over one connection; 1000."),
    millis("keepalive_time", UPSTREAM, |conf| &mut conf.time, "Age at which a connection is not kept any more; 1h."),
    millis("keepalive_timeout", UPSTREAM, |conf| &mut conf.timeout, "How long an idle connection is kept; 60s."),
    custom("zone", UPSTREAM, Arity::between(1, 2), zone, "Shares the peers' failures and connection counts among all workers. The size is not needed."),
    custom("least_conn", UPSTREAM, Arity::exactly(0), unavailable, "Not available yet."),
    custom("ip_hash", UPSTREAM, Arity::exactly(0), unavailable, "Not available yet."),
    custom("hash", UPSTREAM, Arity::between(1, 2), unavailable, "Not available yet."),
    custom("random", UPSTREAM, Arity::between(0, 2), unavailable, "Not available yet."),
    custom("least_time", UPSTREAM, Arity::between(1, 2), unavailable, "Not available yet."),
    custom("sticky", UPSTREAM, Arity::at_least(1), unavailable, "Not available yet."),
    custom("queue", UPSTREAM, Arity::between(1, 2), unavailable, "Not available yet."),
    custom("resolver", UPSTREAM, Arity::at_least(1), own_resolver, "Name servers for the servers with \"resolve\"; those of the http block."),
    millis("resolver_timeout", UPSTREAM, |conf| &mut conf.resolver_timeout,
        "How long a lookup may take, and the pause after one that failed; that of the http block."),
    custom("ntlm", UPSTREAM, Arity::exactly(0), unavailable, "Not available yet."),
    custom("state", UPSTREAM, Arity::exactly(1), unavailable, "Not available yet."),
];

#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    variable("upstream_addr", |request, _, out| each(request, out, |attempt, out| out.extend_from_slice(attempt.name())),
        "The servers that were asked; a comma between tries, a colon after an internal redirect."),
    variable("upstream_status", |request, _, out| {
        each(request, out, |attempt, out| match attempt.status {
            0 => out.push(b'-'),
            status => out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes()),
        })
    },
        "The status of each server's answer; 502 or 504 where there was none."),
    variable("upstream_connect_time", |request, _, out| each(request, out, |attempt, out| seconds(attempt.connect_us, out)),
        "The time to connect to each server, in seconds; 0.000 for a kept connection."),
    variable("upstream_send_time", |request, _, out| each(request, out, |attempt, out| seconds(attempt.sent_us, out)),
        "The time until each server had been sent the whole request, in seconds."),
    variable("upstream_header_time", |request, _, out| each(request, out, |attempt, out| seconds(attempt.header_us, out)),
        "The time until the head of each server's answer was there, in seconds."),
    variable("upstream_response_time", |request, _, out| each(request, out, |attempt, out| seconds(attempt.ended_us.map(|_| attempt.response_us()), out)),
        "The time until each server's answer was there, in seconds."),
    variable("upstream_response_length", |request, _, out| each(request, out, |attempt, out| count(attempt.length, out)),
        "Bytes of the body of each server's answer."),
    variable("upstream_bytes_received", |request, _, out| each(request, out, |attempt, out| count(attempt.received, out)), "Bytes that each server sent."),
    variable("upstream_bytes_sent", |request, _, out| each(request, out, |attempt, out| count(attempt.sent, out)), "Bytes that each server was sent."),
    // empty, as nginx has it wherever no cache was asked; formats of logs name it often
    variable("upstream_cache_etag", |_, _, _| false, "The ETag of an answer in a cache; empty, since none is asked."),
    variable("upstream_cache_last_modified", |_, _, _| false, "The Last-Modified of an answer in a cache; empty, since none is asked."),
    variable("upstream_cache_status", |_, _, _| false, "What a cache had for the request; empty, since none is asked."),
    prefix("upstream_http_", http, "The server's field of this name, in lower case and with underscores."),
    prefix("upstream_trailer_", |request, argument, out| trailer(&request.upstream.trailers, &argument.name, out),
        "The field of this name behind the body of the server's answer."),
    prefix("upstream_cookie_", cookie, "The cookie of this name that the server sets."),
];

/// The groups that a configuration names, while it is read: referenced and defined in any order.
#[derive(Debug, Default)]
pub struct Shared {
    entries: Vec<Entry>,
    /// By lower-case name and the port that was written with it.
    by_name: HashMap<(Box<str>, Option<u16>), usize>,
    groups: Vec<Group>,
    log: Option<Logger>,
}

#[derive(Debug)]
struct Entry {
    name: Box<str>,
    port: Option<u16>,
    host: Option<Host>,
    group: Option<Group>,
    /// The block's own `resolver` and `resolver_timeout`.
    resolver: (Option<Rc<Resolver>>, Option<u64>),
    span: Span,
}

impl Shared {
    /// The index of the group for a host of `proxy_pass`, as written, and the port written with it; the same
    /// host is the same group.
    pub fn reference(&mut self, name: &str, port: Option<u16>, host: Host, span: Span) -> usize {
        let key = (name.to_ascii_lowercase().into_boxed_str(), port);
        let next = self.entries.len();
        let index = *self.by_name.entry(key).or_insert(next);
        if index == next {
            self.entries.push(Entry {
                name: name.into(),
                port,
                host: Some(host),
                group: None,
                resolver: (None, None),
                span,
            });
        }
        index
    }

    fn define(
        &mut self,
        group: Group,
        resolver: (Option<Rc<Resolver>>, Option<u64>),
        span: Span,
    ) -> Result<(), Diagnostic> {
        let key = (group.name.to_ascii_lowercase().into_boxed_str(), None);
        let next = self.entries.len();
        let index = *self.by_name.entry(key).or_insert(next);
        match self.entries.get_mut(index) {
            Some(entry) if entry.group.is_some() => {
                Err(Diagnostic::error(span, format!("duplicate upstream \"{}\"", group.name)))
            }
            Some(entry) => {
                (entry.group, entry.resolver, entry.span) = (Some(group), resolver, span);
                Ok(())
            }
            None => {
                let name = group.name.clone();
                self.entries.push(Entry { name, port: None, host: None, group: Some(group), resolver, span });
                Ok(())
            }
        }
    }

    /// The servers of a group, once the groups are made.
    pub fn servers(&self, group: usize) -> &[Server] {
        self.groups.get(group).map_or(&[], |group| &group.servers)
    }

    pub fn into_groups(self) -> Upstreams {
        let is_incomplete = |index: &usize| !self.groups[*index].unresolved().is_empty();
        let incomplete = (0..self.groups.len()).filter(is_incomplete).collect();
        let followed = (0..self.groups.len()).filter(|&index| self.groups[index].names.is_some()).collect();
        Upstreams {
            followed,
            groups: self.groups.into(),
            by_name: self.by_name,
            incomplete,
            dynamic: RefCell::default(),
            log: self.log,
        }
    }
}

/// Makes every referenced group that no block defines from the host it names; called when all was read.
pub fn resolve(common: &resolver::Conf, cx: &mut Cx) {
    let entries = std::mem::take(&mut cx.upstreams.entries);
    let defined: HashSet<String> = entries
        .iter()
        .filter(|entry| entry.group.is_some())
        .map(|entry| entry.name.to_ascii_lowercase())
        .collect();
    for entry in entries {
        if let Some(port) = entry.port.filter(|_| defined.contains(&entry.name.to_ascii_lowercase())) {
            let message = format!("upstream \"{}\" may not have port {port}", entry.name);
            cx.diagnostics.push(Diagnostic::error(entry.span, message));
        }
        let group = match (entry.group, entry.host) {
            (Some(mut group), _) => {
                if let Err(diagnostic) = follow_names(&mut group, entry.resolver, common, entry.span) {
                    cx.diagnostics.push(diagnostic);
                }
                group
            }
            (None, Some(host)) => {
                let name = with_port(&entry.name, entry.port);
                let mut server = Server::new(&name, host);
                look_up(&mut server, entry.span, cx);
                Group::new(&name, vec![server])
            }
            (None, None) => Group::new(&entry.name, Vec::new()),
        };
        cx.upstreams.groups.push(group);
    }
    cx.upstreams.log = Some(cx.options.error_log);
}

/// Gives a group with servers to `resolve` the name servers for it.
fn follow_names(
    group: &mut Group,
    (own, own_timeout_ms): (Option<Rc<Resolver>>, Option<u64>),
    common: &resolver::Conf,
    span: Span,
) -> Result<(), Diagnostic> {
    if !group.servers.iter().any(|server| server.resolve) {
        return Ok(());
    }
    let Some(resolver) = own.or_else(|| common.resolver().cloned()) else {
        let message =
            format!("no resolver defined to resolve names at run time in upstream \"{}\"", group.name);
        return Err(
            Diagnostic::error(span, message).help("add a \"resolver\" to the http block, or to this one")
        );
    };
    group.names = Some(Names::new(resolver, own_timeout_ms.unwrap_or(common.timeout_ms())));
    Ok(())
}

/// The groups of a configuration, ready to serve.
#[derive(Debug)]
pub struct Upstreams {
    groups: Box<[Group]>,
    by_name: HashMap<(Box<str>, Option<u16>), usize>,
    /// The groups with names that did not resolve. Noted by the master: a worker that looked through all groups
    /// would get a copy of each one's page of memory.
    incomplete: Box<[usize]>,
    /// The groups with names that are looked up while serving.
    followed: Box<[usize]>,
    /// The freshest last.
    dynamic: RefCell<Vec<Made>>,
    log: Option<Logger>,
}

/// A group that was made while serving.
#[derive(Debug)]
struct Made {
    group: Rc<Group>,
    source: usize,
    asked_ms: u64,
}

/// A group of the configuration, or one made for a name that a variable brought.
#[derive(Clone, Debug)]
pub enum Chosen {
    Configured(&'static Group),
    Dynamic(Rc<Group>),
}

impl std::ops::Deref for Chosen {
    type Target = Group;

    fn deref(&self) -> &Group {
        match self {
            Self::Configured(group) => group,
            Self::Dynamic(group) => group,
        }
    }
}

impl Upstreams {
    pub fn get(&'static self, index: usize) -> Option<&'static Group> {
        self.groups.get(index)
    }

    /// The group of the configuration for a host that was evaluated.
    pub fn find(&'static self, name: &str, port: Option<u16>) -> Option<Chosen> {
        let key = (name.to_ascii_lowercase().into_boxed_str(), port);
        let index = *self.by_name.get(&key)?;
        self.groups.get(index).map(Chosen::Configured)
    }

    /// The group that was made for a host before, and whether its addresses were asked for within `valid_ms`; if not,
    /// the caller does it, and others go on with what is known. `source`: who is asked.
    pub fn find_made(
        &self,
        name: &str,
        port: Option<u16>,
        source: usize,
        valid_ms: u64,
    ) -> Option<(Rc<Group>, bool)> {
        let full = with_port(name, port);
        let mut dynamic = self.dynamic.borrow_mut();
        let is_it = |made: &Made| made.source == source && made.group.name.eq_ignore_ascii_case(&full);
        let index = dynamic.iter().rposition(is_it)?;
        let mut made = dynamic.remove(index);
        let now_ms = runtime::now_ms();
        let is_fresh = now_ms.saturating_sub(made.asked_ms) < valid_ms;
        if !is_fresh {
            made.asked_ms = now_ms;
        }
        let group = Rc::clone(&made.group);
        dynamic.push(made);
        Some((group, is_fresh))
    }

    /// The group of one server for an evaluated host that has these addresses. One that was made before keeps its
    /// connections.
    pub fn make(
        &self,
        name: &str,
        port: Option<u16>,
        source: usize,
        host: &Host,
        addresses: Vec<Address>,
    ) -> Chosen {
        let asked_ms = runtime::now_ms();
        if let Some((group, _)) = self.find_made(name, port, source, 0) {
            group.learn(0, &addresses.into_iter().map(Spot::from).collect::<Vec<_>>());
            return Chosen::Dynamic(group);
        }
        // Which address fails is forgotten after each request, as in nginx.
        let server = Server { addresses, fails_max: 0, ..Server::new(name, host.clone()) };
        let group = Rc::new(Group::uncounted(&with_port(name, port), vec![server]));
        let oldest = {
            let mut dynamic = self.dynamic.borrow_mut();
            dynamic.push(Made { group: Rc::clone(&group), source, asked_ms });
            (dynamic.len() > DYNAMIC_MAX).then(|| dynamic.remove(0))
        };
        drop(oldest);
        Chosen::Dynamic(group)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter()
    }

    /// The groups none of whose servers has an address: nothing that is passed to them is answered.
    pub fn unreachable(&self) -> impl Iterator<Item = &Group> {
        let has_none =
            |group: &&Group| !group.servers.is_empty() && group.unresolved().len() == group.servers.len();
        self.groups.iter().filter(has_none)
    }

    /// The numbers of the counters' slots that these groups use, for `shm::counter::sweep`.
    pub fn slots(&self) -> Vec<u32> {
        self.groups.iter().flat_map(Group::slots).map(Slot::index).collect()
    }

    /// The numbers of their peers' places, for `shm::peers::sweep`.
    pub fn places(&self) -> impl Iterator<Item = u32> {
        self.groups.iter().flat_map(Group::places).map(|place| place.index())
    }

    /// The servers whose names are looked up while serving: the index of the group, of the server in it, and the name
    /// for [`crate::upstream::known`].
    pub fn followed_servers(&self) -> impl Iterator<Item = (usize, usize, String)> {
        let groups = self.followed.iter().filter_map(|&index| Some((index, self.groups.get(index)?)));
        groups.flat_map(|(index, group)| {
            let servers = group.servers.iter().enumerate().filter(|(_, server)| server.resolve);
            servers.map(move |(server, _)| (index, server, follow::key(group, server)))
        })
    }

    /// Begins to retry the names that did not resolve and to follow those with `resolve`; once per worker. `tell`: of
    /// where these lead.
    pub fn start(&'static self, tell: &Tell) {
        let log = self.log.unwrap_or_else(log::process);
        for &index in &self.followed {
            self.groups.get(index).into_iter().for_each(|group| follow::start(group, index, log, tell));
        }
        let waiting: Vec<&'static Group> =
            self.incomplete.iter().filter_map(|&index| self.groups.get(index)).collect();
        if let (false, Some(log)) = (waiting.is_empty(), &self.log) {
            runtime::spawn(retry::retry(waiting, *log));
        }
    }
}

fn with_port(name: &str, port: Option<u16>) -> String {
    port.map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"))
}

fn upstream(_: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let before = cx.diagnostics.error_count();
    let partial = cx.block(node, Context::UPSTREAM);
    let conf = partial.upstream.map(|conf| *conf).unwrap_or_default();
    if conf.servers.iter().all(|server| server.backup) {
        // A server that is refused is told, and not missed besides.
        return match cx.diagnostics.error_count() > before {
            true => Ok(()),
            false => Err(Diagnostic::error(node.span, "no servers are inside upstream")),
        };
    }
    let defaults = Keepalive::default();
    let (idle_max, local) = conf.idle.unwrap_or((defaults.idle_max, defaults.local));
    let keepalive = Keepalive {
        idle_max,
        local,
        requests_max: conf.requests.get(defaults.requests_max),
        time_ms: conf.time.get(defaults.time_ms),
        timeout_ms: conf.timeout.get(defaults.timeout_ms),
    };
    let group = Group::with(node.arg(0), conf.servers, keepalive, conf.has_zone);
    let resolver = (conf.resolver.as_ref().cloned(), conf.resolver_timeout.as_ref().copied());
    cx.upstreams.define(group, resolver, node.arg_span(0))
}

fn own_resolver(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    conf.resolver.put(Rc::new(Resolver::new(resolver::read(node, &cx.options.names)?)), node)
}

fn server(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let name = node.arg(0);
    let host = address::parse_upstream(name, 80)
        .map_err(|bad| Diagnostic::error(node.arg_span(0), format!("{bad} in upstream \"{name}\"")))?;
    let mut server = Server::new(name, host);
    for word in node.args.iter().skip(1) {
        parameter(&mut server, &word.text).map_err(|why| Diagnostic::error(word.span, why))?;
    }
    if let (Some(_), false) = (&server.service, server.resolve) {
        let message = format!("\"service\" upstream server \"{name}\" requires \"resolve\" parameter");
        return Err(Diagnostic::error(node.span, message));
    }
    if server.service.is_some() && name.contains(':') {
        let message = format!("\"service\" upstream server \"{name}\" may not have port");
        return Err(Diagnostic::error(node.arg_span(0), message));
    }
    server.resolve &= server.host.literal().is_none(); // an address needs no looking up
    if !server.resolve {
        look_up(&mut server, node.arg_span(0), cx);
    }
    conf.servers.push(server);
    Ok(())
}

fn parameter(server: &mut Server, text: &str) -> Result<(), String> {
    let invalid = || format!("invalid parameter \"{text}\"");
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    match (name, value) {
        ("weight", value) => {
            server.weight = positive(value).filter(|&weight| weight > 0).ok_or_else(invalid)?
        }
        ("max_fails", value) => server.fails_max = positive(value).ok_or_else(invalid)?,
        ("max_conns", value) => server.conns_max = positive(value).ok_or_else(invalid)?,
        ("fail_timeout", value) => {
            server.fail_timeout_ms = number::parse_millis(value).ok_or_else(invalid)?
        }
        ("backup", "") => server.backup = true,
        ("down", "") => server.down = true,
        ("resolve", "") => server.resolve = true,
        ("service", value) if !value.is_empty() => server.service = Some(value.into()),
        ("drain" | "slow_start" | "route", _) => {
            return Err(format!("the \"{name}\" parameter of \"server\" is not available yet"));
        }
        _ => return Err(invalid()),
    }
    Ok(())
}

fn positive<T: From<u32>>(text: &str) -> Option<T> {
    text.parse::<u32>().ok().map(T::from)
}

fn look_up(server: &mut Server, span: Span, cx: &mut Cx) {
    if server.resolve(&cx.options.names) {
        return;
    }
    let message = format!("host not found in upstream \"{}\"", server.name);
    cx.diagnostics.push(if server.host.is_invalid_name() {
        Diagnostic::error(span, message).help("names that end with \"invalid\" never resolve (RFC 6761)")
    } else {
        let help = "the server counts as down until the name resolves; it is tried again while serving";
        Diagnostic::warning(span, message).help(help)
    });
}

fn keepalive(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    if conf.idle.is_some() {
        return Err(duplicate(node));
    }
    let text = node.arg(0);
    let idle_max = text.parse().map_err(|_| {
        Diagnostic::error(node.arg_span(0), format!("invalid value \"{text}\" in \"keepalive\" directive"))
    })?;
    match node.arg(1) {
        "" | "local" => {}
        other => return Err(Diagnostic::error(node.arg_span(1), format!("invalid parameter \"{other}\""))),
    }
    conf.idle = Some((idle_max, node.args.len() == 2));
    Ok(())
}

fn zone(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    if std::mem::replace(&mut conf.has_zone, true) {
        return Err(duplicate(node));
    }
    if node.args.len() == 2 && number::parse_size(node.arg(1)).is_none() {
        return Err(Diagnostic::error(node.arg_span(1), format!("invalid zone size \"{}\"", node.arg(1))));
    }
    Ok(())
}

fn unavailable(_: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let message = format!("the \"{}\" directive is not available yet", node.name.text);
    Err(Diagnostic::error(node.span, message).help("without it the group uses weighted round robin"))
}

/// One value per turn, `, ` between them and ` : ` where an internal redirect began a new pass.
fn each(request: &mut Request, out: &mut Vec<u8>, value: impl Fn(&Attempt, &mut Vec<u8>)) -> bool {
    for (index, attempt) in request.upstream.attempts().iter().enumerate() {
        match (index, attempt.is_new_pass) {
            (0, _) => {}
            (_, true) => out.extend_from_slice(b" : "),
            (_, false) => out.extend_from_slice(b", "),
        }
        value(attempt, out);
    }
    !request.upstream.attempts().is_empty()
}

fn seconds(us: Option<u64>, out: &mut Vec<u8>) {
    let Some(milliseconds) = us.map(|us| us / 1000) else { return out.push(b'-') };
    let fraction = milliseconds % 1000;
    out.extend_from_slice(itoa::Buffer::new().format(milliseconds / 1000).as_bytes());
    out.push(b'.');
    for divisor in [100, 10, 1] {
        out.push(b'0' + (fraction / divisor % 10) as u8);
    }
}

fn count(count: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(count).as_bytes());
}

/// `$upstream_http_name`: all fields of that name, joined.
fn http(request: &mut Request, argument: &Argument, out: &mut Vec<u8>) -> bool {
    let Some(kept) = request.upstream.head() else { return false };
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

/// `$upstream_cookie_name`: the value of that cookie in the first `Set-Cookie` that sets it, up to `;`.
///
/// As in nginx spaces may surround `=`, and those behind the value belong to it.
fn cookie(request: &mut Request, argument: &Argument, out: &mut Vec<u8>) -> bool {
    let Some(kept) = request.upstream.head() else { return false };
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

/// A variable's name spells a field's in lower case with underscores.
fn is_named(field: &[u8], variable: &str) -> bool {
    let spelled = |byte: &u8| if *byte == b'-' { b'_' } else { byte.to_ascii_lowercase() };
    field.len() == variable.len() && field.iter().map(spelled).eq(variable.bytes())
}
