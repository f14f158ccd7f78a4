//! Redirects from plain HTTP to HTTPS, and `Strict-Transport-Security` (`https_redirect`).
//!
//! Runs in the post-read phase of a server that listens both with `ssl` and without, for requests that come in
//! plain, and for the head of every response over TLS. Also answers plain HTTP at such a server's TLS port.
//! Touches: nothing but the request. Truth: RFC 6797; RFC 8555 §8.3 for the path of ACME challenges.

use std::net::IpAddr;

use crate::base::number::{parse_millis, parse_u64};
use crate::config::directive::custom;
use crate::config::{Arity, Context, Diagnostic, Inherit, Node, Span, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive};
use crate::http::request::Request;
use crate::http::scope::Variable;
use crate::http::verdict::{Reply, Verdict};
use crate::proto::message::Method;

const FIELD: &[u8] = b"Strict-Transport-Security";

/// Paths below it are answered in plain: a certificate authority asks there before there is a certificate.
const CHALLENGES: &[u8] = b"/.well-known/acme-challenge/";

/// A day: browsers that have seen it accept neither plain HTTP nor a wrong certificate until it is over, so a
/// mistake must not last for a year. Who knows that HTTPS stays writes `hsts=1y`.
const HSTS_MS_DEFAULT: u64 = 86_400_000;
/// The least that browsers' preload lists accept.
const PRELOAD_MS_MIN: u64 = 365 * 86_400_000;

/// The value of `https_redirect`.
#[derive(Clone, Debug)]
struct Redirect {
    is_on: bool,
    /// The status of the redirect; `None`: 301, or 308 for a method whose body has to come along.
    status: Option<u16>,
    /// The value of `Strict-Transport-Security`; empty: none is sent.
    hsts: Box<str>,
    /// The port in the redirect, where it is not the one of the server's `listen`.
    port: Option<u16>,
}

settings! {
    #[derive(Clone, Debug)]
    pub struct Conf {
        redirect: Inherit<Redirect>,
    }
}

const BOTH: Context = Context::HTTP.or(Context::SERVER);

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("https_redirect", BOTH, Arity::between(1, 5), set,
        "Redirects requests that come in plain to a server that also listens with ssl to https, except those of ACME challenges, and sends \
         Strict-Transport-Security with responses over TLS. The status is given, or with on it is 301, or 308 if the method is neither GET nor HEAD. \
         hsts=TIME sets how long browsers insist on https (default one day), hsts=off sends nothing; subdomains and preload are added to it. port=NUMBER \
         is the port that clients see, by default that of listen.").default("off"),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {
    fn acts(&self) -> bool {
        self.active().is_some()
    }
}

fn set(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let (is_on, status) = match node.arg(0) {
        "on" => (true, None),
        "off" => (false, None),
        "301" => (true, Some(301)),
        "302" => (true, Some(302)),
        "307" => (true, Some(307)),
        "308" => (true, Some(308)),
        other => {
            let message = format!("invalid value \"{other}\"");
            let help = "write on, off, 301, 302, 307 or 308";
            return Err(Diagnostic::error(node.arg_span(0), message).help(help));
        }
    };
    let (mut hsts_ms, mut subdomains, mut preload, mut port) = (Some(HSTS_MS_DEFAULT), false, false, None);
    for index in 1..node.args.len() {
        let word = node.arg(index);
        let invalid = |help: &str| {
            Diagnostic::error(node.arg_span(index), format!("invalid parameter \"{word}\"")).help(help)
        };
        match word.split_once('=') {
            Some(("hsts", "off")) => hsts_ms = None,
            Some(("hsts", time)) => match parse_millis(time) {
                Some(ms) => hsts_ms = Some(ms),
                None => return Err(invalid("a time is written like 30d or 1y")),
            },
            Some(("port", number)) => match parse_u64(number.as_bytes()).map(u16::try_from) {
                Some(Ok(number @ 1..)) => port = Some(number),
                _ => return Err(invalid("a port is a number from 1 to 65535")),
            },
            None if word == "subdomains" => subdomains = true,
            None if word == "preload" => preload = true,
            _ => {
                return Err(invalid(
                    "the parameters are hsts=TIME, hsts=off, subdomains, preload and port=NUMBER",
                ));
            }
        }
    }
    let span = node.arg_span(0);
    if hsts_ms.is_none() && (subdomains || preload) {
        let message = "\"subdomains\" and \"preload\" are parts of what hsts=off does not send";
        return Err(Diagnostic::error(span, message).help("write hsts=1y, or remove them"));
    }
    if preload && (!subdomains || hsts_ms < Some(PRELOAD_MS_MIN)) {
        let message = "browsers do not preload a host without subdomains, or for less than a year";
        return Err(Diagnostic::error(span, message).help("write: hsts=1y subdomains preload"));
    }
    let mut hsts = hsts_ms.map_or_else(String::new, |ms| format!("max-age={}", ms / 1000));
    hsts.push_str(if subdomains { "; includeSubDomains" } else { "" });
    hsts.push_str(if preload { "; preload" } else { "" });
    conf.redirect.put(Redirect { is_on, status, hsts: hsts.into(), port }, node)
}

impl Conf {
    fn active(&self) -> Option<&Redirect> {
        self.redirect.as_ref().filter(|redirect| redirect.is_on)
    }

    /// True if it is on.
    pub fn is_on(&self) -> bool {
        self.active().is_some()
    }

    /// The place of the directive.
    pub fn span(&self) -> Option<Span> {
        self.redirect.span()
    }
}

/// The setting that applies to a request's server; `None`: it is off, or the server has no TLS.
fn of(request: &Request) -> Option<(&'static Redirect, u16)> {
    let redirect = request.server.root.confs.https_redirect.active()?;
    Some((redirect, request.server.https_port?))
}

/// Redirects a request that came in plain.
pub fn redirect(request: &mut Request) -> Verdict {
    // At a TLS port nothing else is answered in plain.
    let is_tls_port = request.connection.listen.ssl;
    if request.connection.tls.is_some() || !is_tls_port && request.uri.starts_with(CHALLENGES) {
        return Verdict::Next;
    }
    let Some((redirect, port)) = of(request) else { return Verdict::Next };
    request.keep_alive &= !is_tls_port && request.body.is_read();
    let port = if is_tls_port { request.connection.local.port().unwrap_or(port) } else { port };
    Verdict::Done(reply(request, redirect, port))
}

/// True if plain HTTP is redirected where this request came in, and therefore not refused at a TLS port.
pub fn applies(request: &Request) -> bool {
    of(request).is_some()
}

fn reply(request: &Request, redirect: &Redirect, port: u16) -> Reply {
    let method_is_kept = !matches!(request.method, Method::Get | Method::Head);
    let status = redirect.status.unwrap_or(if method_is_kept { 308 } else { 301 });
    let mut url = b"https://".to_vec();
    // A `Host` is a name or an address without user, path or port (RFC 3986 §3.2.2), or it has been refused.
    url.extend_from_slice(&request.host);
    if request.host.is_empty() {
        url.extend_from_slice(own_name(request).as_bytes());
    }
    let port = redirect.port.unwrap_or(port);
    if port != 443 {
        url.extend_from_slice(format!(":{port}").as_bytes());
    }
    let target = request.target();
    if target.first() != Some(&b'/') {
        url.push(b'/');
    }
    url.extend(target.iter().filter(|byte| !byte.is_ascii_control()));
    Reply::Redirect(status, url)
}

/// What a client without `Host` is sent to: the server's name if it is one, otherwise the address that the
/// client has reached.
fn own_name(request: &Request) -> String {
    let name = request.server.name();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    let is_name = name.bytes().all(is_plain) && !name.starts_with('.') && !name.ends_with('.');
    match request.connection.local.ip() {
        _ if is_name && !name.is_empty() => name.to_ascii_lowercase(),
        Some(IpAddr::V6(ip)) => format!("[{ip}]"),
        Some(ip) => ip.to_string(),
        None => "localhost".into(),
    }
}

/// Adds `Strict-Transport-Security`, unless the upstream or `add_header` has. RFC 6797 §7.2 forbids it on a
/// plain connection.
pub fn add(request: &mut Request) {
    let Some((redirect, _)) = of(request).filter(|_| request.connection.tls.is_some()) else { return };
    if redirect.hsts.is_empty() || request.is_subrequest() {
        return;
    }
    let headers = &mut request.response.headers;
    if headers.all(FIELD).next().is_none() {
        headers.push(FIELD, redirect.hsts.as_bytes());
    }
}
