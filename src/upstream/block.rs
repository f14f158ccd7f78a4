//! The directives of an `upstream` block, and the group that they define.
//!
//! Knows no protocol: the rows of `http/modules/upstream.rs` call these setters. Touches: the table of names,
//! for the servers' addresses (`sys/names.rs`). Behaviour: nginx.org, ngx_http_upstream_module.

use std::path::Path;
use std::sync::Arc;

use crate::base::number;
use crate::config::inherit::duplicate;
use crate::config::{Diagnostic, Diagnostics, Inherit, Node, Span};
use crate::net::address::{self, Host};
use crate::net::resolver::Settings;
use crate::sys::names::Names;
use crate::upstream::balance::{By, Method, Time, Times};
use crate::upstream::group::{Group, Keepalive, StateFile};
use crate::upstream::peer::{BACKUP, Server};
use crate::upstream::{budget, outlier, state_file, waiting};

/// The default time that a request waits in a queue; nginx's.
const QUEUE_MS: u64 = 60_000;
/// The number of retries a second that a budget does not count by default.
const RETRIES_PER_S: u32 = 10;

/// The settings of one block while it is read.
#[derive(Debug, Default)]
pub struct Block {
    servers: Vec<Arc<Server>>,
    idle: Option<(usize, bool)>,
    has_zone: bool,
    state: Option<Arc<StateFile>>,
    is_sticky: bool,
    /// `ntlm`.
    pub binds: bool,
    method: Option<Method>,
    pub fail_open: Inherit<bool>,
    outliers: Option<outlier::Rules>,
    queue: Option<waiting::Rule>,
    retries: Option<budget::Rule>,
    pub keepalive_requests: Inherit<u64>,
    pub keepalive_streams: Inherit<u64>,
    pub keepalive_time: Inherit<u64>,
    pub keepalive_timeout: Inherit<u64>,
    pub resolver: Inherit<Arc<Settings>>,
    pub resolver_timeout: Inherit<u64>,
}

/// The group of a block, with the block's own settings for resolving names.
#[derive(Debug)]
pub struct Defined {
    pub group: Group,
    pub resolver: Option<Arc<Settings>>,
    pub resolver_timeout_ms: Option<u64>,
}

impl Block {
    /// Makes the group, once the whole block has been read. `None` if it has no servers other than backups, and no file
    /// that may get some.
    pub fn into_group(self, name: &str, part: &'static str) -> Option<Defined> {
        if self.state.is_none() && self.servers.iter().all(|server| server.priority != 0) {
            return None;
        }
        let defaults = Keepalive::default();
        let (idle_max, local) = self.idle.unwrap_or((defaults.idle_max, defaults.local));
        let keepalive = Keepalive {
            idle_max,
            local,
            requests_max: self.keepalive_requests.get(defaults.requests_max),
            time_ms: self.keepalive_time.get(defaults.time_ms),
            timeout_ms: self.keepalive_timeout.get(defaults.timeout_ms),
            streams_max: self
                .keepalive_streams
                .as_ref()
                .map_or(defaults.streams_max, |count| u32::try_from(*count).unwrap_or(u32::MAX)),
            binds: self.binds,
        };
        let method = self.method.unwrap_or_default();
        let mut group = Group::with((part, name), self.servers, method, keepalive, self.has_zone);
        group.is_sticky = self.is_sticky;
        group.fails_open = self.fail_open.get(false);
        (group.queue, group.retries) = (self.queue, self.retries);
        (group.outliers, group.state) = (self.outliers, self.state);
        let (resolver, timeout_ms) = (self.resolver.as_ref().cloned(), self.resolver_timeout.as_ref());
        Some(Defined { group, resolver, resolver_timeout_ms: timeout_ms.copied() })
    }

    /// `server`. Without a `default_port` each server that is not a service has one of its own.
    pub fn add_server(
        &mut self,
        node: &Node,
        default_port: Option<u16>,
        names: &Names,
        out: &mut Diagnostics,
    ) -> Result<(), Diagnostic> {
        if self.state.is_some() {
            return Err(incompatible(node));
        }
        let words = node.args.iter().map(|word| &*word.text);
        let mut server = server(words, default_port).map_err(|(wrong, why)| {
            let span = wrong.map_or(node.span, |index| node.arg_span(index));
            Diagnostic::error(span, why)
        })?;
        if !server.resolve {
            look_up(&mut server, node.arg_span(0), names, out);
        }
        self.servers.push(Arc::new(server));
        Ok(())
    }

    /// `state FILE`; `prefix`: the folder where relative paths begin.
    pub fn set_state(
        &mut self,
        node: &Node,
        prefix: &Path,
        default_port: Option<u16>,
        names: &Names,
        out: &mut Diagnostics,
    ) -> Result<(), Diagnostic> {
        if self.state.is_some() {
            return Err(duplicate(node));
        }
        if !self.servers.is_empty() {
            return Err(incompatible(node));
        }
        let (path, span) = (prefix.join(node.arg(0)), node.arg_span(0));
        if let Some(folder) = path.parent().filter(|folder| !folder.is_dir()) {
            let message =
                format!("\"{}\" is no folder, so changes of this upstream cannot be kept", folder.display());
            out.push(
                Diagnostic::warning(span, message).help("make the folder, or name a file in another one"),
            );
        }
        let mut servers = state_file::read(&path, default_port).map_err(|why| {
            Diagnostic::error(span, why)
                .help("the file has lines such as \"server 127.0.0.1:8080 weight=2;\"")
        })?;
        for server in servers.iter_mut().filter(|server| !server.resolve) {
            look_up(server, span, names, out);
        }
        self.servers = servers.into_iter().map(Arc::new).collect();
        self.state = Some(Arc::new(StateFile { path: path.into(), span }));
        Ok(())
    }

    /// The balancer. As in nginx the last one counts, with a warning if there are several.
    pub fn set_method(&mut self, method: Method, node: &Node, out: &mut Diagnostics) {
        if self.method.replace(method).is_some() {
            out.push(Diagnostic::warning(node.span, "load balancing method redefined"));
        }
    }

    /// `keepalive`
    pub fn set_keepalive(&mut self, node: &Node) -> Result<(), Diagnostic> {
        if self.idle.is_some() {
            return Err(duplicate(node));
        }
        let text = node.arg(0);
        let idle_max = text.parse().map_err(|_| {
            let message = format!("invalid value \"{text}\" in \"keepalive\" directive");
            Diagnostic::error(node.arg_span(0), message)
        })?;
        match node.arg(1) {
            "" | "local" => {}
            other => {
                return Err(Diagnostic::error(node.arg_span(1), format!("invalid parameter \"{other}\"")));
            }
        }
        self.idle = Some((idle_max, node.args.len() == 2));
        Ok(())
    }

    /// `sticky`. Fails if it was set before.
    pub fn set_sticky(&mut self, node: &Node) -> Result<(), Diagnostic> {
        if std::mem::replace(&mut self.is_sticky, true) {
            return Err(duplicate(node));
        }
        Ok(())
    }

    /// `outlier_ejection`
    pub fn set_outliers(&mut self, node: &Node) -> Result<(), Diagnostic> {
        self.outliers.replace(outlier::Rules::read(node)?).map_or(Ok(()), |_| Err(duplicate(node)))
    }

    /// `queue NUMBER [timeout=TIME]`
    pub fn set_queue(&mut self, node: &Node) -> Result<(), Diagnostic> {
        let invalid = |index: usize, what: &str| {
            let message = format!("invalid {what} \"{}\"", node.arg(index));
            Diagnostic::error(node.arg_span(index), message)
        };
        let max = node.arg(0).parse().ok().filter(|max| *max > 0).ok_or_else(|| invalid(0, "value"))?;
        let timeout_ms = match node.arg(1) {
            "" => QUEUE_MS,
            word => word
                .strip_prefix("timeout=")
                .and_then(number::parse_millis)
                .ok_or_else(|| invalid(1, "parameter"))?,
        };
        let rule = waiting::Rule { max, timeout_ms };
        self.queue.replace(rule).map_or(Ok(()), |_| Err(duplicate(node)))
    }

    /// `retry_budget PERCENT% [min=NUMBER]`
    pub fn set_retry_budget(&mut self, node: &Node) -> Result<(), Diagnostic> {
        let invalid = |index: usize| {
            let message = format!("invalid value \"{}\" in \"retry_budget\" directive", node.arg(index));
            Diagnostic::error(node.arg_span(index), message).help(
                "write a share of the requests, such as 20%, and perhaps how many a second are free: min=10",
            )
        };
        let percent = node.arg(0).strip_suffix('%').and_then(|digits| digits.parse().ok());
        let percent = percent.filter(|percent| *percent <= 100).ok_or_else(|| invalid(0))?;
        let min_per_s = match node.arg(1) {
            "" => RETRIES_PER_S,
            word => {
                word.strip_prefix("min=").and_then(|digits| digits.parse().ok()).ok_or_else(|| invalid(1))?
            }
        };
        let rule = budget::Rule { percent, min_per_s };
        self.retries.replace(rule).map_or(Ok(()), |_| Err(duplicate(node)))
    }

    /// `zone`
    pub fn set_zone(&mut self, node: &Node) -> Result<(), Diagnostic> {
        if std::mem::replace(&mut self.has_zone, true) {
            return Err(duplicate(node));
        }
        if node.args.len() == 2 && number::parse_size(node.arg(1)).is_none() {
            let message = format!("invalid zone size \"{}\"", node.arg(1));
            return Err(Diagnostic::error(node.arg_span(1), message));
        }
        Ok(())
    }
}

/// The servers of a group are in its block or in its file.
fn incompatible(node: &Node) -> Diagnostic {
    Diagnostic::error(node.span, "\"server\" and \"state\" cannot both be in an upstream")
        .help("move the servers to the state file: server 127.0.0.1:8080;")
}

/// Takes the addresses of a server's name; a finding if it has none.
pub(super) fn look_up(server: &mut Server, span: Span, names: &Names, out: &mut Diagnostics) {
    // An address has been there since `Server::new`.
    if !server.addresses.is_empty() || server.resolve(names) {
        return;
    }
    let message = format!("host not found in upstream \"{}\"", server.name);
    out.push(if server.host.is_invalid_name() {
        Diagnostic::error(span, message).help("names that end with \"invalid\" never resolve (RFC 6761)")
    } else {
        let help = "the server counts as down until the name resolves; it is tried again while serving";
        Diagnostic::warning(span, message).help(help)
    });
}

/// The method of `hash`, whose first argument is the key.
pub fn hash(node: &Node) -> Result<Method, Diagnostic> {
    let mut words = node.args.iter().skip(1);
    let is_consistent = match words.next() {
        None => return Ok(Method::Hash),
        Some(word) => &*word.text == "consistent",
    };
    let bound = words.next();
    let bounded_x1000 = bound.map_or(Some(0), |word| {
        let factor = word.text.strip_prefix("bounded=")?.parse::<f64>().ok()?;
        ((1.001..=1000.0).contains(&factor)).then_some((factor * 1000.0).round() as u32)
    });
    match bounded_x1000 {
        Some(bounded_x1000) if is_consistent => Ok(Method::Consistent { bounded_x1000 }),
        _ => {
            let wrong = if is_consistent { 2 } else { 1 };
            let message = format!("invalid parameter \"{}\"", node.arg(wrong));
            Err(Diagnostic::error(node.arg_span(wrong), message).help(
                "the parameters are \"consistent\", and after it \"bounded=C\" with C from 1.001 to 1000",
            ))
        }
    }
}

/// The method of `random`.
pub fn random(node: &Node, times: Times) -> Result<Method, Diagnostic> {
    let invalid = |index| {
        let message = format!("invalid parameter \"{}\"", node.arg(index));
        let words: Vec<String> = times.iter().map(|(word, _)| format!("\"least_time={word}\"")).collect();
        let help =
            format!("the parameters are \"two\", and after it \"least_conn\" or one of {}", words.join(", "));
        Diagnostic::error(node.arg_span(index), message).help(help)
    };
    let two = match (node.arg(0), node.arg(1)) {
        ("", _) => None,
        ("two", "" | "least_conn") => Some(By::Conns),
        ("two", by) => {
            let time = by.strip_prefix("least_time=").and_then(|word| Time::parse(word, times));
            Some(By::Time(time.ok_or_else(|| invalid(1))?))
        }
        _ => return Err(invalid(0)),
    };
    Ok(Method::Random { two })
}

/// The method of `least_time`.
pub fn least_time(node: &Node, times: Times) -> Result<Method, Diagnostic> {
    let word = node.arg(0);
    let Some(time) = Time::parse(word, times) else {
        let words: Vec<String> = times.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let help = format!("the times are {}", words.join(", "));
        return Err(Diagnostic::error(node.arg_span(0), format!("invalid value \"{word}\"")).help(help));
    };
    let inflight = match node.arg(1) {
        "" => false,
        "inflight" if time != Time::Ewma => true,
        other => {
            return Err(Diagnostic::error(node.arg_span(1), format!("invalid parameter \"{other}\"")));
        }
    };
    Ok(Method::LeastTime { time, inflight })
}

/// A server from the words of its line, without its addresses unless it is an address itself. The error is the number
/// of the word that is wrong, if it is one word, and why.
///
/// `default_port`: that of a name without one; `None`: each name needs one.
pub fn server<'a>(
    words: impl IntoIterator<Item = &'a str>,
    default_port: Option<u16>,
) -> Result<Server, (Option<usize>, String)> {
    let mut words = words.into_iter();
    let name = words.next().unwrap_or_default();
    let host = address::parse_upstream(name, default_port.unwrap_or(0))
        .map_err(|bad| (Some(0), format!("{bad} in upstream \"{name}\"")))?;
    let mut server = Server::new(name, host);
    for (index, word) in words.enumerate() {
        parameter(&mut server, word).map_err(|why| (Some(index + 1), why))?;
    }
    if let (Some(_), false) = (&server.service, server.resolve) {
        let message = format!("\"service\" upstream server \"{name}\" requires \"resolve\" parameter");
        return Err((None, message));
    }
    if server.service.is_some() && name.contains(':') {
        return Err((Some(0), format!("\"service\" upstream server \"{name}\" may not have port")));
    }
    if matches!(server.host, Host::Inet { port: 0, .. }) && server.service.is_none() {
        return Err((Some(0), format!("no port in upstream \"{name}\"")));
    }
    server.resolve = server.resolve && server.host.literal().is_none(); // an address needs no lookup
    Ok(server)
}

/// The words of a server's line, the inverse of [`server`]: its name and the parameters that differ from their
/// defaults.
pub fn words(server: &Server) -> Vec<String> {
    let default = Server::new(&server.name, server.host.clone());
    let mut words = vec![server.name.to_string()];
    let mut number = |name: &str, value: i128, default: i128, unit: &str| {
        if value != default {
            words.push(format!("{name}={value}{unit}"));
        }
    };
    number("weight", server.weight.into(), default.weight.into(), "");
    number("max_conns", server.conns_max.into(), default.conns_max.into(), "");
    number("max_fails", server.fails_max.into(), default.fails_max.into(), "");
    number("fail_timeout", server.fail_timeout_ms.into(), default.fail_timeout_ms.into(), "ms");
    number("slow_start", server.slow_start_ms.into(), default.slow_start_ms.into(), "ms");
    if server.priority > BACKUP {
        number("priority", server.priority.into(), 0, "");
    }
    words.extend(server.route.iter().map(|route| format!("route={route}")));
    words.extend(server.service.iter().map(|service| format!("service={service}")));
    let flags = [
        ("backup", server.priority == BACKUP),
        ("down", server.down),
        ("drain", server.drain),
        ("resolve", server.resolve),
    ];
    words.extend(flags.into_iter().filter(|(_, is_set)| *is_set).map(|(name, _)| name.to_owned()));
    words
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
        ("backup", "") => server.priority = BACKUP,
        ("priority", value) => server.priority = positive(value).ok_or_else(invalid)?,
        ("down", "") => server.down = true,
        ("drain", "") => server.drain = true,
        ("slow_start", value) => server.slow_start_ms = number::parse_millis(value).ok_or_else(invalid)?,
        ("route", value) if !value.is_empty() => server.route = Some(value.into()),
        ("resolve", "") => server.resolve = true,
        ("service", value) if !value.is_empty() => server.service = Some(value.into()),
        _ => return Err(invalid()),
    }
    Ok(())
}

fn positive<T: From<u32>>(text: &str) -> Option<T> {
    text.parse::<u32>().ok().map(T::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LoadOptions, load_text};

    const TIMES: Times = &[("header", Time::Header), ("last_byte", Time::LastByte), ("ewma", Time::Ewma)];

    /// Parses a block's directives.
    fn read(text: &str) -> Result<Block, Diagnostic> {
        let (tree, findings) = load_text("test.conf", text, &LoadOptions::default());
        assert!(!findings.has_errors(), "{text}");
        let mut block = Block::default();
        for node in &tree.nodes {
            match &*node.name.text {
                "server" => {
                    block.add_server(node, Some(80), &Names::default(), &mut Diagnostics::default())?
                }
                "keepalive" => block.set_keepalive(node)?,
                "zone" => block.set_zone(node)?,
                "queue" => block.set_queue(node)?,
                "retry_budget" => block.set_retry_budget(node)?,
                other => panic!("{other}"),
            }
        }
        Ok(block)
    }

    fn error(text: &str) -> String {
        read(text).expect_err("refused").message
    }

    #[test]
    fn a_server_has_its_parameters() {
        let block = read(
            "server 1.1.1.1:81 weight=5 max_fails=3 fail_timeout=30s max_conns=7 backup; \
             server 1.1.1.2 down; server unix:/run/a.sock;",
        );
        let group = block.unwrap().into_group("g", "").unwrap().group;
        let first = &group.servers[0];
        assert_eq!((first.weight, first.fails_max, first.fail_timeout_ms), (5, 3, 30_000));
        assert_eq!((first.conns_max, first.priority, first.down), (7, BACKUP, false));
        let second = &group.servers[1];
        assert_eq!((second.weight, second.fails_max, second.fail_timeout_ms), (1, 1, 10_000));
        assert_eq!((second.conns_max, second.priority, second.down), (0, 0, true));
        assert_eq!(&*group.servers[2].name, "unix:/run/a.sock");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (text, message) in [
            ("server 1.1.1.1 weight=0;", "invalid parameter \"weight=0\""),
            ("server 1.1.1.1 weight=-1;", "invalid parameter \"weight=-1\""),
            ("server 1.1.1.1 max_conns=99999999999;", "invalid parameter \"max_conns=99999999999\""),
            ("server 1.1.1.1 backup=1;", "invalid parameter \"backup=1\""),
            (
                "server a.test service=http;",
                "\"service\" upstream server \"a.test\" requires \"resolve\" parameter",
            ),
            (
                "server a.test:80 service=http resolve;",
                "\"service\" upstream server \"a.test:80\" may not have port",
            ),
            ("server 1.1.1.1 slow_start=x;", "invalid parameter \"slow_start=x\""),
            ("server 1.1.1.1 route=;", "invalid parameter \"route=\""),
            ("server 1.1.1.1 drain=1;", "invalid parameter \"drain=1\""),
            ("server 1.1.1.1 priority=x;", "invalid parameter \"priority=x\""),
            ("keepalive x;", "invalid value \"x\" in \"keepalive\" directive"),
            ("keepalive 5 far;", "invalid parameter \"far\""),
            ("zone a x;", "invalid zone size \"x\""),
            ("queue 0;", "invalid value \"0\""),
            ("queue 5 timeout=x;", "invalid parameter \"timeout=x\""),
            ("queue 5 5s;", "invalid parameter \"5s\""),
            ("retry_budget 20;", "invalid value \"20\" in \"retry_budget\" directive"),
            ("retry_budget 101%;", "invalid value \"101%\" in \"retry_budget\" directive"),
            ("retry_budget 20% max=2;", "invalid value \"max=2\" in \"retry_budget\" directive"),
        ] {
            assert_eq!(error(text), message, "{text}");
        }
        assert!(read("keepalive 5; keepalive 6;").is_err() && read("zone a; zone a;").is_err());
    }

    /// The method of a directive, or its message.
    fn method(text: &str) -> Result<Method, String> {
        let (tree, findings) = load_text("test.conf", text, &LoadOptions::default());
        assert!(!findings.has_errors(), "{text}");
        let node = &tree.nodes[0];
        let method = match &*node.name.text {
            "hash" => hash(node),
            "random" => random(node, TIMES),
            _ => least_time(node, TIMES),
        };
        method.map_err(|diagnostic| diagnostic.message)
    }

    #[test]
    fn balancers_have_their_parameters() {
        let time = |time, inflight| Method::LeastTime { time, inflight };
        for (text, expected) in [
            ("hash $uri;", Method::Hash),
            ("hash $uri consistent;", Method::Consistent { bounded_x1000: 0 }),
            ("hash $uri consistent bounded=1.25;", Method::Consistent { bounded_x1000: 1250 }),
            ("hash $uri consistent bounded=1000;", Method::Consistent { bounded_x1000: 1_000_000 }),
            ("random;", Method::Random { two: None }),
            ("random two;", Method::Random { two: Some(By::Conns) }),
            ("random two least_conn;", Method::Random { two: Some(By::Conns) }),
            ("random two least_time=header;", Method::Random { two: Some(By::Time(Time::Header)) }),
            ("random two least_time=ewma;", Method::Random { two: Some(By::Time(Time::Ewma)) }),
            ("least_time header;", time(Time::Header, false)),
            ("least_time last_byte inflight;", time(Time::LastByte, true)),
            ("least_time ewma;", time(Time::Ewma, false)),
        ] {
            assert_eq!(method(text).as_ref(), Ok(&expected), "{text}");
        }
        for (text, wrong) in [
            ("hash $uri often;", "invalid parameter \"often\""),
            ("hash $uri often bounded=2;", "invalid parameter \"often\""),
            ("hash $uri consistent bounded=1;", "invalid parameter \"bounded=1\""),
            ("hash $uri consistent bounded=nan;", "invalid parameter \"bounded=nan\""),
            ("hash $uri consistent bounded=1001;", "invalid parameter \"bounded=1001\""),
            ("hash $uri consistent twice;", "invalid parameter \"twice\""),
            ("random three;", "invalid parameter \"three\""),
            ("random two least_time=x;", "invalid parameter \"least_time=x\""),
            ("least_time first;", "invalid value \"first\""),
            ("least_time header fast;", "invalid parameter \"fast\""),
            ("least_time ewma inflight;", "invalid parameter \"inflight\""),
        ] {
            assert_eq!(method(text), Err(wrong.to_owned()), "{text}");
        }
    }

    #[test]
    fn the_last_of_several_methods_counts() {
        let (tree, _) = load_text("test.conf", "a; b;", &LoadOptions::default());
        let (mut block, mut out) = (read("server 1.1.1.1;").unwrap(), Diagnostics::default());
        block.set_method(Method::LeastConn, &tree.nodes[0], &mut out);
        assert!(out.0.is_empty());
        block.set_method(Method::Hash, &tree.nodes[1], &mut out);
        assert_eq!(out.0[0].message, "load balancing method redefined");
        assert_eq!(block.into_group("g", "").unwrap().group.method, Method::Hash);
    }

    #[test]
    fn extra_and_waiting_requests_are_bounded_as_the_block_says() {
        let group = |text| read(text).unwrap().into_group("g", "").unwrap().group;
        let set = group("server 1.1.1.1; queue 70 timeout=5s; retry_budget 20% min=3;");
        assert_eq!(set.queue, Some(waiting::Rule { max: 70, timeout_ms: 5000 }));
        assert_eq!(set.retries, Some(budget::Rule { percent: 20, min_per_s: 3 }));
        let set = group("server 1.1.1.1; queue 1; retry_budget 0%;");
        assert_eq!(set.queue, Some(waiting::Rule { max: 1, timeout_ms: 60_000 }));
        assert_eq!(set.retries, Some(budget::Rule { percent: 0, min_per_s: 10 }));
        let set = group("server 1.1.1.1;");
        assert_eq!((set.queue, set.retries), (None, None));
        assert!(read("queue 1; queue 1;").is_err() && read("retry_budget 1%; retry_budget 1%;").is_err());
    }

    #[test]
    fn a_block_without_primary_servers_makes_no_group() {
        assert!(read("server 1.1.1.1 backup;").unwrap().into_group("g", "").is_none());
        assert!(Block::default().into_group("g", "").is_none());
    }

    #[test]
    fn connections_are_kept_as_the_block_says() {
        let keepalive = |text| read(text).unwrap().into_group("g", "").unwrap().group.keepalive;
        assert_eq!(keepalive("server 1.1.1.1;"), Keepalive::default());
        let kept = keepalive("server 1.1.1.1; keepalive 7;");
        assert_eq!((kept.idle_max, kept.local), (7, false));
        let kept = keepalive("server 1.1.1.1; keepalive 7 local;");
        assert_eq!((kept.idle_max, kept.local), (7, true));
    }
}
