//! The target of a location's requests: `proxy_pass`, `fastcgi_pass`, and those of other protocols.
//!
//! It is not inherited: a nested location passes requests on only if it says so itself. A block has one target; of
//! several directives for different protocols the last one counts, as in nginx. Touches: nothing; the groups of peers
//! are made after the whole configuration has been read.
//! Behaviour: nginx.org, `proxy_pass` of ngx_http_proxy_module, `fastcgi_pass` of ngx_http_fastcgi_module.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::directive::custom;
use crate::config::inherit::{duplicate, own};
use crate::config::{Arity, Context, Diagnostic, Diagnostics, Node, Span, Word, settings};
use crate::http::config::compile::Cx;
use crate::http::config::location::{Kind, Location};
use crate::http::config::server::Server;
use crate::http::modules::{BlockConf, Directive, proxy};
use crate::http::request::Request;
use crate::http::scope::{Script, Variable};
use crate::http::upstream::conf;
use crate::http::upstream::h1::HostLine;
use crate::http::upstream::protocol::Protocol;
use crate::http::upstream::tls::Layer;
use crate::http::verdict::{Reply, Verdict};
use crate::log;
use crate::net::address::{self, Host};
use crate::proto::header::Id;
use crate::proto::message::Method;
use crate::script::value;
use crate::script::variable::{replaceable, variable};
use crate::shared::connection::client_address;

settings! {
    /// The directive of one block.
    #[derive(Debug)]
    pub struct Conf {
        pass: Option<(Pass, Span)> => own,
        protocol: Protocol => own,
        /// The value of `$memcached_key`.
        key: Option<Script> => own,
    }
}

/// The target of requests.
#[derive(Debug)]
pub enum Pass {
    Fixed {
        /// Index of the group in the configuration's `Upstreams`.
        group: usize,
        target: Target,
        /// Its `Host` for requests in HTTP/1.
        host_line: HostLine,
    },
    /// Evaluated for each request.
    Script(Script),
}

/// The parts of a `proxy_pass` URL, or of another protocol's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub protocol: Protocol,
    /// The whole URL, for `proxy_redirect default`.
    pub url: Box<str>,
    /// `https://`: the server speaks TLS.
    pub is_tls: bool,
    /// The host as written, without the port; `unix:/path` for a unix socket.
    pub name: Box<str>,
    /// The port, if it is written.
    pub port: Option<u16>,
    pub host: Host,
    /// The part that replaces the location's name; starts with a slash. `None`: the request's URI is passed
    /// unchanged.
    pub uri: Option<Box<str>>,
}

impl BlockConf for Conf {
    const INHERITS: bool = false;
    const INHERITS_NAMELESS: bool = true;
}

impl Conf {
    pub fn is_set(&self) -> bool {
        self.pass.is_some()
    }

    pub fn pass(&self) -> Option<&Pass> {
        self.pass.as_ref().map(|(pass, _)| pass)
    }

    /// The protocol of the target; HTTP without one.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The key by which a cache is asked.
    pub fn key(&self) -> Option<&Script> {
        self.key.as_ref()
    }

    /// The fixed target of a `proxy_pass`; `None` if it has variables.
    pub fn target(&self) -> Option<&Target> {
        match self.pass() {
            Some(Pass::Fixed { target, .. }) if target.protocol == Protocol::Http => Some(target),
            Some(Pass::Fixed { .. } | Pass::Script(_)) | None => None,
        }
    }
}

const PLACES: Context = Context::LOCATION.or(Context::LOCATION_IF);

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("proxy_pass", PLACES.or(Context::LIMIT_EXCEPT), Arity::exactly(1), proxy_pass,
        "Passes the requests of a location to a server or a group of servers: http://host:port/uri, or https://host:port/uri to speak TLS."),
    custom("fastcgi_pass", PLACES, Arity::exactly(1), |conf: &mut Conf, cx, node| pass(conf, cx, node, Protocol::FastCgi),
        "Passes the requests of a location to a FastCGI server or a group of them: host:port, unix:/path, or the name of an upstream block."),
    custom("uwsgi_pass", PLACES, Arity::exactly(1), |conf: &mut Conf, cx, node| pass(conf, cx, node, Protocol::Uwsgi),
        "Passes the requests of a location to a uwsgi server or a group of them: [uwsgi://]host:port, unix:/path or the name of an upstream block, or \
         the same with suwsgi:// to speak TLS."),
    custom("grpc_pass", PLACES, Arity::exactly(1), |conf: &mut Conf, cx, node| pass(conf, cx, node, Protocol::Grpc),
        "Passes the requests of a location to a gRPC server or a group of them, over HTTP/2: [grpc://]host:port, unix:/path or the name of an \
         upstream block, or the same with grpcs:// to speak TLS."),
    custom("scgi_pass", PLACES, Arity::exactly(1), |conf: &mut Conf, cx, node| pass(conf, cx, node, Protocol::Scgi),
        "Passes the requests of a location to an SCGI server or a group of them: host:port, unix:/path, or the name of an upstream block."),
    custom("memcached_pass", PLACES, Arity::exactly(1), |conf: &mut Conf, cx, node| pass(conf, cx, node, Protocol::Memcached),
        "Answers the requests of a location with the values that a memcached server, or a group of them, has for the key $memcached_key."),
    custom("tunnel_pass", PLACES.or(Context::SERVER), Arity::between(0, 1), tunnel_pass,
        "Connects clients that send CONNECT with a server and passes bytes in both directions, as a forward proxy does: with the host and port that the \
         client asks for, or with the given host:port, which may have variables, or upstream block. Needs HTTP/1.1. Restrict it by allow, auth_basic or a map: \
         otherwise every client reaches whatever this machine does."),
];

#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    replaceable("proxy_host", |request, _, out| host(request, out), "The name and port of the server in proxy_pass."),
    replaceable("proxy_port", |request, _, out| port(request, out), "The port of the server in proxy_pass, or the default port of its protocol."),
    variable("proxy_add_x_forwarded_for", |request, _, out| { add_x_forwarded_for(request, out); true },
        "The X-Forwarded-For field of the request, with the client's address appended."),
];

/// The content phase: requests of this location go upstream.
pub fn content(request: &mut Request) -> Verdict {
    let conf = &request.location.confs.proxy_pass;
    if conf.is_set() {
        let is_refused = match conf.protocol {
            Protocol::Memcached => !request.method.is_get_or_head(),
            // only a tunnel may take CONNECT, and it takes nothing else
            Protocol::Tunnel => request.method != Method::Connect,
            _ => request.method == Method::Connect,
        };
        return if is_refused { Verdict::Done(Reply::Status(405)) } else { Verdict::Pass };
    }
    if request.route.left_proxy {
        // nginx responds like this if the later of two `if` blocks has no "proxy_pass".
        log::alert!(request.error_log(), &*request, "no upstream configuration");
        return Verdict::Done(Reply::Status(500));
    }
    Verdict::Next
}

/// Refuses a URI part if there is no location name to replace, and `proxy_redirect default` if the target is
/// not known.
pub fn check(conf: &Conf, redirects: &proxy::Conf, kind: &Kind, cx: &mut Cx) {
    if conf.protocol != Protocol::Http {
        return;
    }
    if let (Some((Pass::Script(_), span)), true) = (&conf.pass, redirects.has_default_redirect()) {
        let message =
            "\"proxy_redirect default\" cannot be used with \"proxy_pass\" directive with variables";
        cx.diagnostics.push(Diagnostic::error(*span, message));
    }
    let is_nameless = matches!(kind, Kind::Regex(_) | Kind::Named);
    if let Some((Pass::Fixed { target, .. }, span)) = &conf.pass
        && target.uri.is_some()
        && is_nameless
    {
        let message = "\"proxy_pass\" cannot have URI part in location given by regular expression, \
                       or inside named location, or inside \"if\" statement, or inside \"limit_except\" block";
        cx.diagnostics.push(Diagnostic::error(*span, message));
    }
}

/// TLS to the upstreams of a block, if its requests may go to `https://` or `suwsgi://`. `family`: the settings of its
/// protocol; `has_http2`: that is HTTP/2, which the handshake offers.
pub fn layer(conf: &Conf, family: &conf::Conf, has_http2: bool, cx: &mut Cx) -> Option<Arc<Layer>> {
    let plain = match conf.protocol {
        Protocol::Http => "http://",
        Protocol::Uwsgi => "uwsgi://",
        Protocol::Grpc => "grpc://",
        Protocol::FastCgi | Protocol::Scgi | Protocol::Memcached | Protocol::Tunnel => return None,
    };
    let (host, span) = match &conf.pass {
        Some((Pass::Fixed { target, .. }, span)) if target.is_tls => (Some(target.tls_name()), *span),
        Some((Pass::Script(script), span)) if !script.begins_with(plain) => (None, *span),
        Some(_) | None => return None,
    };
    let offered = has_http2.then_some("h2");
    family.set.tls.layer(family.prefix(), (host, offered), span, cx)
}

impl Target {
    /// Reads `http://host[:port][uri]` or `http://unix:/path[:uri]`, or the same with `https://`. Errors:
    /// nginx's words.
    pub fn parse(url: &str) -> Result<Self, String> {
        let prefix =
            |scheme: &str| url.get(..scheme.len()).is_some_and(|text| text.eq_ignore_ascii_case(scheme));
        let (is_tls, rest) = match (prefix("http://"), prefix("https://")) {
            (true, _) => (false, &url["http://".len()..]),
            (_, true) => (true, &url["https://".len()..]),
            _ => return Err("invalid URL prefix".to_owned()),
        };
        let protocol = Protocol::Http;
        let default_port = protocol.default_port(is_tls).unwrap_or(0);
        if let Some(rest) = rest.strip_prefix("unix:") {
            let (path, uri) = rest.split_once(':').map_or((rest, ""), |(path, uri)| (path, uri));
            let host = address::parse_upstream(&format!("unix:{path}"), default_port)
                .map_err(|bad| format!("{bad} in upstream \"{rest}\""))?;
            let name = format!("unix:{path}").into();
            let (url, uri) = (url.into(), uri_part(uri));
            return Ok(Self { protocol, url, is_tls, name, port: None, host, uri });
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, uri) = rest.split_at(end);
        let host = address::parse_upstream(authority, default_port)
            .map_err(|bad| format!("{bad} in upstream \"{rest}\""))?;
        let (name, port) = name_and_port(authority, &host);
        Ok(Self { protocol, url: url.into(), is_tls, name, port, host, uri: uri_part(uri) })
    }

    /// Reads the address of a server of another protocol: `host:port`, `unix:/path`, or the name of a group. Errors:
    /// nginx's words.
    pub fn parse_address(text: &str, protocol: Protocol) -> Result<Self, String> {
        let host = address::parse_upstream(text, protocol.default_port(false).unwrap_or(0))
            .map_err(|bad| format!("{bad} in upstream \"{text}\""))?;
        let (name, port) = match &host {
            Host::Unix(_) => (text.into(), None),
            Host::Inet { .. } => name_and_port(text, &host),
        };
        Ok(Self { protocol, url: text.into(), is_tls: false, name, port, host, uri: None })
    }

    /// Reads the value of a `…_pass` with variables.
    pub fn parse_value(text: &str, protocol: Protocol) -> Result<Self, String> {
        let scheme = |scheme: &str| match text.get(..scheme.len()) {
            Some(start) if start.eq_ignore_ascii_case(scheme) => Some(&text[scheme.len()..]),
            _ => None,
        };
        match protocol {
            Protocol::Http => Self::parse(text),
            Protocol::Uwsgi | Protocol::Grpc => {
                let [plain, secure] = match protocol {
                    Protocol::Grpc => ["grpc://", "grpcs://"],
                    _ => ["uwsgi://", "suwsgi://"],
                };
                match scheme(secure) {
                    Some(rest) => {
                        Self::parse_address(rest, protocol).map(|target| Self { is_tls: true, ..target })
                    }
                    None => Self::parse_address(scheme(plain).unwrap_or(text), protocol),
                }
            }
            Protocol::FastCgi | Protocol::Scgi | Protocol::Memcached | Protocol::Tunnel => {
                Self::parse_address(text, protocol)
            }
        }
    }

    /// True if no port is written although the protocol has no usual one: the name must be that of a group.
    pub fn is_portless(&self) -> bool {
        matches!(self.host, Host::Inet { port: 0, .. })
    }

    /// Writes `$proxy_host`, which is the default `Host`: without the port if it is the protocol's own.
    pub fn write_host(&self, out: &mut Vec<u8>) {
        if self.is_unix() {
            return out.extend_from_slice(b"localhost");
        }
        out.extend_from_slice(self.name.as_bytes());
        if let Some(port) = self.port.filter(|&port| Some(port) != self.protocol.default_port(self.is_tls)) {
            out.push(b':');
            out.extend_from_slice(itoa::Buffer::new().format(port).as_bytes());
        }
    }

    /// Writes `$proxy_port`; nothing for a unix socket.
    pub fn write_port(&self, out: &mut Vec<u8>) {
        if !self.is_unix() {
            out.extend_from_slice(itoa::Buffer::new().format(self.own_port()).as_bytes());
        }
    }

    /// The port, written or not.
    pub fn own_port(&self) -> u16 {
        self.port.or(self.protocol.default_port(self.is_tls)).unwrap_or(0)
    }

    /// The host that the server's certificate is for, unless `proxy_ssl_name` names another: that of
    /// `$proxy_host`.
    pub fn tls_name(&self) -> &str {
        if self.is_unix() { "localhost" } else { &self.name }
    }

    fn is_unix(&self) -> bool {
        matches!(&self.host, Host::Unix(path) if *path != PathBuf::new())
    }
}

/// The name in an address as it is written, and the port if it is written too.
fn name_and_port(authority: &str, host: &Host) -> (Box<str>, Option<u16>) {
    let name_end = if authority.starts_with('[') {
        authority.find(']').map_or(authority.len(), |at| at + 1)
    } else {
        authority.find(':').unwrap_or(authority.len())
    };
    let port = match host {
        Host::Inet { port, .. } if name_end < authority.len() => Some(*port),
        Host::Inet { .. } | Host::Unix(_) => None,
    };
    (authority[..name_end].into(), port)
}

fn uri_part(text: &str) -> Option<Box<str>> {
    match text.as_bytes().first() {
        None => None,
        Some(b'/') => Some(text.into()),
        Some(_) => Some(format!("/{text}").into()),
    }
}

fn proxy_pass(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    if value::has_variables(&node.args[0].text) {
        warn_of_clients_word(&node.args[0], cx);
    }
    pass(conf, cx, node, Protocol::Http)
}

fn tunnel_pass(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let asked = Word { text: "$host:$request_port".into(), span: node.span, quoted: false };
    cx.note_tunnel();
    pass_to(conf, cx, (node, node.args.first().unwrap_or(&asked)), Protocol::Tunnel)
}

/// Warns of tunnels to wherever a client wants that every client may use.
pub fn warn_of_open_doors(servers: &[Server], out: &mut Diagnostics) {
    for location in servers.iter().flat_map(Server::locations) {
        let is_open = |location: &&Location| {
            let confs = &location.confs;
            !confs.are_guarded() && !confs.ssl.requires_certificate()
        };
        for place in std::iter::once(location).chain(location.variants()).filter(is_open) {
            if let (Some((Pass::Script(_), span)), Protocol::Tunnel) =
                (&place.confs.proxy_pass.pass, place.protocol)
            {
                let message = "every client may reach whatever this machine reaches, by \"tunnel_pass\"";
                let help = "add access rules, such as \"allow 10.0.0.0/8; deny all;\" or auth_basic, or let a map choose among the intended hosts";
                out.push(Diagnostic::warning(*span, message).help(help));
            }
        }
    }
}

fn pass(conf: &mut Conf, cx: &mut Cx, node: &Node, protocol: Protocol) -> Result<(), Diagnostic> {
    pass_to(conf, cx, (node, &node.args[0]), protocol)
}

fn pass_to(
    conf: &mut Conf,
    cx: &mut Cx,
    (node, word): (&Node, &Word),
    protocol: Protocol,
) -> Result<(), Diagnostic> {
    if conf.is_set() && conf.protocol == protocol {
        return Err(duplicate(node));
    }
    let pass = if value::has_variables(&word.text) {
        cx.has_passes_of_variables = true;
        Pass::Script(Script::compile(word, cx)?)
    } else {
        let target =
            Target::parse_value(&word.text, protocol).map_err(|why| Diagnostic::error(word.span, why))?;
        let has_https_port = target.is_tls && protocol == Protocol::Http;
        let group =
            cx.upstreams.reference(&target.name, target.port, has_https_port, target.host.clone(), word.span);
        if protocol == Protocol::Http {
            cx.note_fixed(group, word.span);
        }
        Pass::Fixed { group, host_line: HostLine::of(&target), target }
    };
    if protocol == Protocol::Memcached {
        conf.key = Some(Script::compile_text("$memcached_key", node.span, cx)?);
    }
    // an application is told the length of a body, for which it must be read first
    cx.body_files |= !protocol.has_uris() && protocol != Protocol::Tunnel;
    (conf.pass, conf.protocol) = (Some((pass, node.span)), protocol);
    Ok(())
}

/// Warns of a host taken from client input: it can be any host, including those that only this machine can
/// reach.
fn warn_of_clients_word(word: &Word, cx: &mut Cx) {
    let host = word.text.strip_prefix("http://").or_else(|| word.text.strip_prefix("https://"));
    let Some(rest) = host.and_then(|host| host.strip_prefix('$')) else { return };
    let Ok((name, _)) = value::variable_name(rest, word.span) else { return };
    let is_whole = ["args", "query_string", "uri", "document_uri", "request_uri", "host"].contains(&name);
    let is_part = ["arg_", "http_", "cookie_"].iter().any(|start| name.starts_with(start));
    let is_group = name.bytes().all(|byte| byte.is_ascii_digit());
    if is_whole || is_part || is_group {
        let message = format!("the host of \"proxy_pass\" begins with \"${name}\", which a client chooses");
        cx.diagnostics.push(
            Diagnostic::warning(word.span, message).help("let \"map\" choose among the intended hosts"),
        );
    }
}

fn host(request: &mut Request, out: &mut Vec<u8>) -> bool {
    match (request.location.confs.proxy_pass.target(), &request.proxied.host) {
        (Some(target), _) => target.write_host(out),
        (None, Some((host, _))) => out.extend_from_slice(host),
        (None, None) => return false,
    }
    true
}

fn port(request: &mut Request, out: &mut Vec<u8>) -> bool {
    match (request.location.confs.proxy_pass.target(), &request.proxied.host) {
        (Some(target), _) => target.write_port(out),
        (None, Some((_, port))) => out.extend_from_slice(port),
        (None, None) => return false,
    }
    true
}

/// The client's `X-Forwarded-For` with the client's address appended.
fn add_x_forwarded_for(request: &Request, out: &mut Vec<u8>) {
    let data = request.input.data();
    for (id, value) in request.head.fields.iter().map(|field| (field.id, field.value(data))) {
        if id == Some(Id::XForwardedFor) {
            out.extend_from_slice(value);
            out.extend_from_slice(b", ");
        }
    }
    client_address(&request.connection.peer, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(url: &str) -> String {
        let target = match Target::parse(url) {
            Ok(target) => target,
            Err(why) => return why,
        };
        let (mut host, mut port) = (Vec::new(), Vec::new());
        target.write_host(&mut host);
        target.write_port(&mut port);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        format!("{} {} {} {}", target.name, text(host), text(port), target.uri.as_deref().unwrap_or("-"))
    }

    #[test]
    fn takes_a_url_apart_as_nginx_does() {
        let cases = [
            ("http://backend", "backend backend 80 -"),
            ("HTTP://backend/", "backend backend 80 /"),
            ("http://backend:80/a", "backend backend 80 /a"),
            ("http://backend:8080", "backend backend:8080 8080 -"),
            ("http://127.0.0.1:81/a?b=c", "127.0.0.1 127.0.0.1:81 81 /a?b=c"),
            ("http://backend?b=c", "backend backend 80 /?b=c"),
            ("http://[::1]:81/x", "[::1] [::1]:81 81 /x"),
            ("http://[::1]", "[::1] [::1] 80 -"),
            ("http://unix:/run/a.sock", "unix:/run/a.sock localhost  -"),
            ("https://backend", "backend backend 443 -"),
            ("HTTPS://backend:443/a", "backend backend 443 /a"),
            ("https://backend:80", "backend backend:80 80 -"),
            ("https://[::1]:8443/x", "[::1] [::1]:8443 8443 /x"),
            ("https://unix:/run/a.sock:/uri/", "unix:/run/a.sock localhost  /uri/"),
            ("http://unix:/run/a.sock:/uri/", "unix:/run/a.sock localhost  /uri/"),
        ];
        for (url, expected) in cases {
            assert_eq!(shown(url), expected, "{url}");
        }
    }

    #[test]
    fn says_what_is_wrong_with_a_url() {
        assert_eq!(shown("backend"), "invalid URL prefix");
        assert_eq!(shown("http://:80/"), "no host in upstream \":80/\"");
        assert_eq!(shown("http://a:99999/"), "invalid port in upstream \"a:99999/\"");
        assert_eq!(shown("https:/a"), "invalid URL prefix");
    }
}
