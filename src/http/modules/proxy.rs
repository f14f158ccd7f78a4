//! How requests are passed and answers taken: every `proxy_…` directive but `proxy_pass`.
//!
//! Settings only; the life of a proxied request is in `http/upstream.rs`.
//! Behaviour: nginx.org, ngx_http_proxy_module.

pub mod cookie;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};

use crate::config::directive::{Accepted, accepted, custom, flag, keyword, millis, number, size};
use crate::config::inherit::duplicate;
use crate::config::{Arity, Context, Diagnostic, Inherit, Merge, Node, Span, inherit, params};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive};
use crate::http::regex::Regex;
use crate::http::request::Request;
use crate::http::response::Omits;
use crate::http::script::{self, Script};
use crate::http::variable::Variable;
use crate::net::Address;
use crate::net::connect;
use crate::proto::h1::encode::{Label, Token};
use crate::proto::header::Id;
use crate::upstream::Faults;
use cookie::Cookies;

/// Largest response head while `proxy_buffer_size` is not set; set, it is the limit itself.
const HEAD_BYTES_MAX: u64 = 64 * 1024;

/// Fields of a client's request that are not passed on: hop by hop, or made anew for the upstream.
const REPLACED: &[&str] = &[
    "Host",
    "Connection",
    "Proxy-Connection",
    "Content-Length",
    "Transfer-Encoding",
    "TE",
    "Keep-Alive",
    "Expect",
    "Upgrade",
];

/// Fields of an upstream's response that the client does not get (nginx's list).
const HIDDEN: &[&str] = &[
    "Date",
    "Server",
    "X-Pad",
    "X-Accel-Expires",
    "X-Accel-Redirect",
    "X-Accel-Limit-Rate",
    "X-Accel-Buffering",
    "X-Accel-Charset",
];

/// The words of `proxy_ignore_headers`.
const IGNORABLE: &[&str] = &[
    "X-Accel-Redirect",
    "X-Accel-Expires",
    "X-Accel-Limit-Rate",
    "X-Accel-Buffering",
    "X-Accel-Charset",
    "Expires",
    "Cache-Control",
    "Set-Cookie",
    "Vary",
];

/// The settings of one block.
#[derive(Clone, Debug, Default)]
pub struct Conf {
    set_headers: Vec<(Box<str>, Script)>,
    hide: Vec<Box<str>>,
    pass: Vec<Box<str>>,
    ignore: Vec<Box<str>>,
    redirects: Vec<Redirect>,
    cookies: Cookies,
    next: Inherit<Faults>,
    next_tries: Inherit<u64>,
    next_timeout: Inherit<u64>,
    http_version: Inherit<usize>,
    method: Inherit<Script>,
    body: Inherit<Script>,
    bind: Inherit<Bind>,
    timeout_total: Inherit<u64>,
    buffer_size: Inherit<u64>,
    request_buffering: Inherit<bool>,
    connect_timeout: Inherit<u64>,
    send_timeout: Inherit<u64>,
    read_timeout: Inherit<u64>,
    pass_trailers: Inherit<bool>,
    intercept_errors: Inherit<bool>,
    ignore_client_abort: Inherit<bool>,
    socket_keepalive: Inherit<bool>,
    pass_request_headers: Inherit<bool>,
    pass_request_body: Inherit<bool>,
    frozen: Option<Arc<Frozen>>,
}

/// What is computed once from the lists of a block.
#[derive(Debug)]
struct Frozen {
    host: Option<Script>,
    /// The name and the value; not sent when the value is empty.
    lines: Vec<(Label, Script)>,
    sets_connection: bool,
    replaced: Names,
    hidden: Names,
    /// Of the fields that are not hidden.
    omits: Omits,
    /// Fields of the upstream that are not obeyed.
    ignored: Names,
    has_cookies: bool,
    connect: connect::Options,
}

/// A set of field names, known ones by id.
#[derive(Debug, Default)]
pub struct Names {
    ids: Vec<bool>,
    others: Vec<Box<[u8]>>,
}

/// One `proxy_bind`.
#[derive(Clone, Debug)]
enum Bind {
    Off,
    Fixed {
        address: Address,
        is_transparent: bool,
    },
    /// Evaluated for each request.
    Script {
        address: Script,
        is_transparent: bool,
    },
}

/// One `proxy_redirect`.
#[derive(Clone, Debug)]
pub enum Redirect {
    Off,
    /// From the URL of `proxy_pass` to the location's name.
    Default,
    Prefix {
        from: Script,
        to: Script,
    },
    Regex {
        from: Regex,
        to: Script,
    },
}

impl Names {
    fn insert(&mut self, name: &str) {
        match Id::of(name.as_bytes()) {
            Some(id) => {
                let index = id as usize;
                if self.ids.len() <= index {
                    self.ids.resize(index + 1, false);
                }
                self.ids[index] = true;
            }
            None => self.others.push(name.as_bytes().into()),
        }
    }

    fn remove(&mut self, name: &str) {
        match Id::of(name.as_bytes()) {
            Some(id) => {
                if let Some(known) = self.ids.get_mut(id as usize) {
                    *known = false;
                }
            }
            None => self.others.retain(|other| !other.eq_ignore_ascii_case(name.as_bytes())),
        }
    }

    #[inline]
    pub fn contains(&self, id: Option<Id>, name: &[u8]) -> bool {
        match id {
            Some(id) => self.ids.get(id as usize).is_some_and(|known| *known),
            None => self.others.iter().any(|other| other.eq_ignore_ascii_case(name)),
        }
    }
}

/// What holds where no `proxy_` directive is set.
static DEFAULT: LazyLock<Frozen> = LazyLock::new(|| freeze(&Conf::default()));

impl Conf {
    /// The `Host` that `proxy_set_header` sets; `None`: `$proxy_host`.
    pub fn host(&self) -> Option<&Script> {
        self.frozen().host.as_ref()
    }

    /// The lines of `proxy_set_header`: the name and the value. `Host` is not among them.
    pub fn lines(&self) -> &[(Label, Script)] {
        &self.frozen().lines
    }

    /// A `Connection` is set by `proxy_set_header`.
    pub fn sets_connection(&self) -> bool {
        self.frozen().sets_connection
    }

    /// A field of the client is not passed on, because it is replaced or between two hops only.
    pub fn replaces(&self, id: Option<Id>, name: &[u8]) -> bool {
        self.frozen().replaced.contains(id, name)
    }

    /// A field of the upstream is kept from the client.
    #[inline]
    pub fn hides(&self, id: Option<Id>, name: &[u8]) -> bool {
        self.frozen().hidden.contains(id, name)
    }

    /// The fields of an upstream's answer that ours do not stand for.
    #[inline]
    pub fn omits(&self) -> Omits {
        self.frozen().omits
    }

    /// A field of the upstream is not obeyed.
    pub fn ignores(&self, id: Id) -> bool {
        self.frozen().ignored.contains(Some(id), b"")
    }

    /// The rules for `Set-Cookie`, if there are any.
    pub fn cookies(&self) -> Option<&Cookies> {
        self.frozen().has_cookies.then_some(&self.cookies)
    }

    pub fn connect_options(&self) -> &connect::Options {
        &self.frozen().connect
    }

    /// The local address of a connection is the request's own: it has variables.
    pub fn has_own_local(&self) -> bool {
        matches!(self.bind.as_ref(), Some(Bind::Script { .. }))
    }

    /// The value of a `proxy_bind` with variables, and the address that it is.
    pub fn own_local(&self, request: &mut Request) -> (Vec<u8>, Option<Address>) {
        let Some(Bind::Script { address, .. }) = self.bind.as_ref() else { return (Vec::new(), None) };
        let value = address.to_vec(request);
        let parsed = std::str::from_utf8(&value).ok().and_then(parse_local);
        (value, parsed)
    }

    /// The rules for `Location` and `Refresh`, in order.
    pub fn redirects(&self) -> &[Redirect] {
        if self.redirects.is_empty() { &[Redirect::Default] } else { &self.redirects }
    }

    /// `proxy_redirect default` is written.
    pub fn has_default_redirect(&self) -> bool {
        self.redirects.iter().any(|rule| matches!(rule, Redirect::Default))
    }

    pub fn next(&self) -> Faults {
        self.next.get(Faults::default())
    }

    pub fn next_tries(&self) -> u32 {
        self.next_tries.get(0) as u32
    }

    pub fn next_timeout_ms(&self) -> u64 {
        self.next_timeout.get(0)
    }

    pub fn is_http11(&self) -> bool {
        self.http_version.get(1) == 1
    }

    pub fn method(&self) -> Option<&Script> {
        self.method.as_ref()
    }

    pub fn body(&self) -> Option<&Script> {
        self.body.as_ref()
    }

    /// Bytes that a response head may have.
    pub fn head_bytes_max(&self) -> usize {
        self.buffer_size.get(HEAD_BYTES_MAX) as usize
    }

    /// Where that was said.
    pub fn buffer_size_span(&self) -> Option<Span> {
        self.buffer_size.span()
    }

    /// What `proxy_request_buffering` says, if anything.
    pub fn request_buffering(&self) -> Option<bool> {
        self.request_buffering.as_ref().copied()
    }

    pub fn connect_timeout_ms(&self) -> u64 {
        self.connect_timeout.get(60_000)
    }

    pub fn send_timeout_ms(&self) -> u64 {
        self.send_timeout.get(60_000)
    }

    pub fn read_timeout_ms(&self) -> u64 {
        self.read_timeout.get(60_000)
    }

    /// How long a request may take from its first upstream to the end of the answer; 0: any time.
    pub fn timeout_total_ms(&self) -> u64 {
        self.timeout_total.get(0)
    }

    /// Where that was said.
    pub fn timeout_total_span(&self) -> Option<Span> {
        self.timeout_total.span()
    }

    pub fn pass_trailers(&self) -> bool {
        self.pass_trailers.get(false)
    }

    pub fn intercept_errors(&self) -> bool {
        self.intercept_errors.get(false)
    }

    pub fn ignore_client_abort(&self) -> bool {
        self.ignore_client_abort.get(false)
    }

    pub fn pass_request_headers(&self) -> bool {
        self.pass_request_headers.get(true)
    }

    pub fn pass_request_body(&self) -> bool {
        self.pass_request_body.get(true)
    }

    fn frozen(&self) -> &Frozen {
        self.frozen.as_deref().unwrap_or_else(|| &DEFAULT)
    }
}

impl Merge for Conf {
    fn merge(&mut self, outer: &Self) {
        inherit::replace(&mut self.set_headers, &outer.set_headers);
        inherit::replace(&mut self.hide, &outer.hide);
        inherit::replace(&mut self.pass, &outer.pass);
        inherit::replace(&mut self.ignore, &outer.ignore);
        inherit::replace(&mut self.redirects, &outer.redirects);
        self.cookies.merge(&outer.cookies);
        self.next.merge(&outer.next);
        self.next_tries.merge(&outer.next_tries);
        self.next_timeout.merge(&outer.next_timeout);
        self.http_version.merge(&outer.http_version);
        self.method.merge(&outer.method);
        self.body.merge(&outer.body);
        self.bind.merge(&outer.bind);
        self.timeout_total.merge(&outer.timeout_total);
        self.buffer_size.merge(&outer.buffer_size);
        self.request_buffering.merge(&outer.request_buffering);
        self.connect_timeout.merge(&outer.connect_timeout);
        self.send_timeout.merge(&outer.send_timeout);
        self.read_timeout.merge(&outer.read_timeout);
        self.pass_trailers.merge(&outer.pass_trailers);
        self.intercept_errors.merge(&outer.intercept_errors);
        self.ignore_client_abort.merge(&outer.ignore_client_abort);
        self.socket_keepalive.merge(&outer.socket_keepalive);
        self.pass_request_headers.merge(&outer.pass_request_headers);
        self.pass_request_body.merge(&outer.pass_request_body);
    }
}

impl BlockConf for Conf {
    fn freeze(&mut self, cx: &mut Cx) {
        // HTTP/1.0 has no chunks: a body whose length is not known is read first
        cx.body_files |= self.request_buffering() == Some(true) || !self.is_http11();
        self.frozen = Some(Arc::new(freeze(self)));
    }
}

const ANY: Context = Context::ANY;
const ONE: Arity = Arity::exactly(1);
const MANY: Arity = Arity::at_least(1);
const VERSIONS: &[&str] = &["1.0", "1.1"];

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("proxy_set_header", ANY, Arity::exactly(2), set_header, "A field of the request to the upstream; Host $proxy_host."),
    custom("proxy_hide_header", ANY, ONE, |conf, _, node| push(&mut conf.hide, node), "A field that the client does not get."),
    custom("proxy_pass_header", ANY, ONE, |conf, _, node| push(&mut conf.pass, node),
        "A field that the client gets, though it is hidden by default. Of Server and Date it gets the upstream's, or none."),
    custom("proxy_ignore_headers", ANY, MANY, ignore_headers, "Fields of the response that are passed on but not obeyed."),
    custom("proxy_redirect", ANY, Arity::between(1, 2), redirect, "Rewrites Location and Refresh; default."),
    custom("proxy_cookie_domain", ANY, Arity::between(1, 2), |conf, cx, node| cookie::domain(&mut conf.cookies, cx, node),
        "Rewrites the Domain of Set-Cookie: a domain or ~regex, and what it becomes; off."),
    custom("proxy_cookie_path", ANY, Arity::between(1, 2), |conf, cx, node| cookie::path(&mut conf.cookies, cx, node),
        "Rewrites the Path of Set-Cookie: a prefix or ~regex, and what it becomes; off."),
    custom("proxy_cookie_flags", ANY, Arity::between(1, 4), |conf, cx, node| cookie::flags(&mut conf.cookies, cx, node),
        "Sets or removes flags of the cookies of a name or ~regex: [no]secure, [no]httponly, samesite=strict|lax|none, nosamesite; off."),
    custom("proxy_next_upstream", ANY, MANY, next_upstream, "Faults after which another server is tried; error timeout."),
    number("proxy_next_upstream_tries", ANY, (0, u32::MAX as u64), |c| &mut c.next_tries, "Servers tried for one request, 0: all; 0."),
    millis("proxy_next_upstream_timeout", ANY, |c| &mut c.next_timeout, "Time in which another server may be tried, 0: no limit; 0."),
    keyword("proxy_http_version", ANY, VERSIONS, |c| &mut c.http_version, "Version of HTTP for requests to upstreams; 1.1."),
    custom("proxy_method", ANY, ONE, method, "Method of the request to the upstream, instead of the client's; a value that is no token is answered with 500."),
    custom("proxy_set_body", ANY, ONE, |c, cx, node| script(&mut c.body, cx, node), "Body of the request to the upstream, instead of the client's."),
    custom("proxy_bind", ANY, Arity::between(1, 2), bind,
        "Local address of connections to upstreams, with a port or without; transparent: it may be any address, such as $remote_addr; off."),
    size("proxy_buffer_size", ANY, |c| &mut c.buffer_size, "Most bytes that the head of a response may have; 64k."),
    flag("proxy_request_buffering", ANY, |c| &mut c.request_buffering,
        "Reads the request's body before an upstream is chosen: all of it (on), none (off). Not set, as far as client_body_buffer_size, and all of one \
         that may have to be sent to another server (proxy_next_upstream) or to the proxied location of an error_page."),
    millis("proxy_connect_timeout", ANY, |c| &mut c.connect_timeout, "How long connecting may take; 60s."),
    millis("proxy_send_timeout", ANY, |c| &mut c.send_timeout, "Between two writes to the upstream; 60s."),
    millis("proxy_read_timeout", ANY, |c| &mut c.read_timeout, "Between two reads from the upstream; 60s."),
    millis("proxy_timeout_total", ANY, |c| &mut c.timeout_total,
        "How long a request may take from its first upstream to the end of the answer, all tries together, 0: any time; 0."),
    flag("proxy_pass_trailers", ANY, |c| &mut c.pass_trailers, "Passes trailers of an answer in chunks on to clients of HTTP/1.1; off."),
    flag("proxy_intercept_errors", ANY, |c| &mut c.intercept_errors, "Answers of status 300 and above go through error_page; off."),
    flag("proxy_ignore_client_abort", ANY, |c| &mut c.ignore_client_abort, "The upstream's answer is awaited though the client has gone; off."),
    flag("proxy_socket_keepalive", ANY, |c| &mut c.socket_keepalive, "TCP keepalive probes to upstreams; off."),
    flag("proxy_pass_request_headers", ANY, |c| &mut c.pass_request_headers, "The client's fields are passed on; on."),
    flag("proxy_pass_request_body", ANY, |c| &mut c.pass_request_body, "The client's body is passed on; on."),
    accepted("fastcgi_temp_path", ANY, Arity::between(1, 4), Accepted::Words, "FastCGI is not available yet."),
    accepted("uwsgi_temp_path", ANY, Arity::between(1, 4), Accepted::Words, "Uwsgi is not available yet."),
    accepted("scgi_temp_path", ANY, Arity::between(1, 4), Accepted::Words, "SCGI is not available yet."),
    accepted("proxy_headers_hash_max_size", ANY, ONE, Accepted::Number, "Tables grow as needed."),
    accepted("proxy_headers_hash_bucket_size", ANY, ONE, Accepted::Number, "Tables grow as needed."),
];

pub static VARIABLES: &[Variable] = &[];

fn freeze(conf: &Conf) -> Frozen {
    let is = |name: &str, other: &str| name.eq_ignore_ascii_case(other);
    let mut replaced = Names::default();
    REPLACED.iter().for_each(|name| replaced.insert(name));
    let (mut host, mut lines, mut sets_connection) = (None, Vec::new(), false);
    for (name, value) in conf.set_headers.iter().filter(|(name, _)| !name.is_empty()) {
        replaced.insert(name);
        if is(name, "host") {
            host = Some(value.clone());
            continue;
        }
        sets_connection |= is(name, "connection");
        // how the body is framed is decided where the body is known
        let is_framing = is(name, "content-length") || is(name, "transfer-encoding");
        if !is_framing && value.as_text() != Some(b"") {
            lines.extend(Label::new(name).map(|label| (label, value.clone())));
        }
    }
    let mut hidden = Names::default();
    HIDDEN.iter().copied().chain(conf.hide.iter().map(|name| &**name)).for_each(|name| hidden.insert(name));
    conf.pass.iter().for_each(|name| hidden.remove(name));
    let passes = |id: Id| !hidden.contains(Some(id), b"");
    let omits = Omits { server: passes(Id::Server), date: passes(Id::Date) };
    let mut ignored = Names::default();
    conf.ignore.iter().for_each(|name| ignored.insert(name));
    let has_cookies = !conf.cookies.is_empty();
    let (bind, is_transparent) = match conf.bind.as_ref() {
        None | Some(Bind::Off) => (None, false),
        Some(Bind::Fixed { address, is_transparent }) => (Some(address.clone()), *is_transparent),
        Some(Bind::Script { is_transparent, .. }) => (None, *is_transparent),
    };
    let connect = connect::Options { bind, is_transparent, probes: conf.socket_keepalive.get(false) };
    Frozen { host, lines, sets_connection, replaced, hidden, omits, ignored, has_cookies, connect }
}

fn set_header(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let name = node.arg(0);
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let value = Script::compile(&node.args[1], cx)?;
    if name.is_empty() || !name.bytes().all(is_token) {
        let message = format!("\"{name}\" is no name of a header field");
        let bare = name.trim_end_matches(':').trim();
        if node.arg(1).is_empty() {
            cx.diagnostics
                .push(Diagnostic::warning(node.arg_span(0), message).help("this line has no effect"));
            // it still replaces the lines of the outer block
            conf.set_headers.push(("".into(), value));
            return Ok(());
        }
        let help = match !bare.is_empty() && bare.bytes().all(is_token) {
            true => format!("write the name alone: {bare}"),
            false => "a name is made of letters, digits and !#$%&'*+-.^_`|~".to_owned(),
        };
        return Err(Diagnostic::error(node.arg_span(0), message).help(help));
    }
    let is_framing =
        ["content-length", "transfer-encoding"].iter().any(|framing| name.eq_ignore_ascii_case(framing));
    if is_framing && !node.arg(1).is_empty() {
        let message = format!("\"{name}\" is set by the proxy itself, this value is not used");
        cx.diagnostics.push(Diagnostic::warning(node.span, message));
    }
    conf.set_headers.push((name.into(), value));
    Ok(())
}

fn push(list: &mut Vec<Box<str>>, node: &Node) -> Result<(), Diagnostic> {
    list.push(node.arg(0).into());
    Ok(())
}

fn ignore_headers(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    for (index, word) in node.args.iter().enumerate() {
        if !IGNORABLE.iter().any(|name| name.eq_ignore_ascii_case(&word.text)) {
            let message = format!("invalid value \"{}\"", word.text);
            return Err(
                Diagnostic::error(word.span, message).help(format!("one of {}", IGNORABLE.join(", ")))
            );
        }
        if conf.ignore.iter().any(|name| name.eq_ignore_ascii_case(&word.text)) {
            cx.diagnostics.push(params::duplicate_value(node, index));
        }
        conf.ignore.push((&word.text).into());
    }
    Ok(())
}

fn redirect(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    if conf.redirects.iter().any(|rule| matches!(rule, Redirect::Off)) {
        return Err(duplicate(node));
    }
    let rule = match (node.args.len(), node.arg(0)) {
        (1, "off") if conf.redirects.is_empty() => Redirect::Off,
        (1, "off") => return Err(duplicate(node)),
        (1, "default") => Redirect::Default,
        (1, other) => {
            return Err(Diagnostic::error(node.arg_span(0), format!("invalid parameter \"{other}\"")));
        }
        (_, pattern) => {
            let to = Script::compile(&node.args[1], cx)?;
            let span = node.arg_span(0);
            match pattern.strip_prefix('~') {
                Some(pattern) => {
                    let (pattern, is_caseless) =
                        pattern.strip_prefix('*').map_or((pattern, false), |pattern| (pattern, true));
                    Redirect::Regex {
                        from: Regex::new(pattern, is_caseless, span)?.declare(&mut cx.variables),
                        to,
                    }
                }
                None => Redirect::Prefix { from: Script::compile(&node.args[0], cx)?, to },
            }
        }
    };
    conf.redirects.push(rule);
    Ok(())
}

/// Several lines of a block are one list.
fn next_upstream(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let mut all = conf.next.as_ref().copied();
    for index in 0..node.args.len() {
        // nginx knows this one for its cache; there is nothing stale here that it could mean
        if node.arg(index) == "updating" {
            continue;
        }
        let faults = Faults::parse(std::iter::once(node.arg(index))).map_err(|_| {
            Diagnostic::error(node.arg_span(index), format!("invalid value \"{}\"", node.arg(index)))
        })?;
        if all.is_some_and(|all| all.contains(faults)) && node.arg(index) != "off" {
            cx.diagnostics.push(params::duplicate_value(node, index));
        }
        all = Some(all.map_or(faults, |all| all.and(faults)));
    }
    conf.next = Inherit::default();
    set(&mut conf.next, all.unwrap_or_default(), node)
}

fn bind(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let text = node.arg(0);
    let is_transparent = match node.arg(1) {
        "" => false,
        "transparent" => true,
        other => return Err(Diagnostic::error(node.arg_span(1), format!("invalid parameter \"{other}\""))),
    };
    let bind = if text == "off" && node.args.len() == 1 {
        Bind::Off
    } else if script::has_variables(text) {
        Bind::Script { address: Script::compile(&node.args[0], cx)?, is_transparent }
    } else {
        let invalid = || Diagnostic::error(node.arg_span(0), format!("invalid address \"{text}\""));
        Bind::Fixed { address: parse_local(text).ok_or_else(invalid)?, is_transparent }
    };
    cx.is_transparent |= is_transparent;
    set(&mut conf.bind, bind, node)
}

/// An address with or without a port; without one the kernel chooses it.
fn parse_local(text: &str) -> Option<Address> {
    let ip = || text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
    let address = text.parse().ok().or_else(|| Some(SocketAddr::new(ip()?, 0)));
    address.map(Address::Inet)
}

fn method(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let text = node.arg(0);
    if !script::has_variables(text) && Token::new(text.as_bytes()).is_none() {
        return Err(Diagnostic::error(node.arg_span(0), format!("\"{text}\" is no method"))
            .help("a method is one word, such as POST"));
    }
    script(&mut conf.method, cx, node)
}

fn script(slot: &mut Inherit<Script>, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let value = Script::compile(&node.args[0], cx)?;
    set(slot, value, node)
}

fn set<T>(slot: &mut Inherit<T>, value: T, node: &Node) -> Result<(), Diagnostic> {
    slot.put(value, node)
}
