//! HTTP to upstreams: the contents of requests and the rewriting of responses; every `proxy_…` directive
//! except `proxy_pass`.
//!
//! Settings only. Those that other upstream protocols share are in `http/upstream/conf.rs`; the life of a
//! proxied request is in `http/upstream/`.
//! Behaviour: nginx.org, ngx_http_proxy_module.

pub mod cookie;
mod redirect;

use std::sync::{Arc, LazyLock};

use crate::config::directive::one_of;
use crate::config::inherit::{own, replace};
use crate::config::{Diagnostic, Inherit, Node, Setting, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive};
use crate::http::request::Request;
use crate::http::scope::{Script, Variable};
use crate::http::upstream::conf::{self, Family};
use crate::http::upstream::rows::upstream_rows;
use crate::http::upstream::set_header::{self, Lines, Sent};
use crate::http::upstream::tls;
use crate::proto::field_text::{Label, Token};
use crate::proto::message::Version;
use crate::script::value;
use crate::shared::tls::upstream_rows::Secures;
use cookie::Cookies;
use redirect::Redirect;

/// Fields of an upstream's response that are hidden from the client (nginx's list).
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

/// The family of `proxy_` directives.
static FAMILY: Family = Family::new("proxy_", HIDDEN, Some(redirect::rewritten));

settings! {
    /// The settings of one block: those of every family, and those specific to HTTP.
    #[derive(Debug)]
    pub struct Conf {
        pub upstream: conf::Conf = &FAMILY,
        set_headers: Lines => replace,
        redirects: Vec<Redirect> => replace,
        cookies: Cookies,
        http_version: Setting<Version> = Version::Http11,
        method: Inherit<Script>,
        frozen: Option<Arc<Frozen>> => own,
    }
}

/// Values computed once from the lists of a block.
#[derive(Debug)]
struct Frozen {
    sent: Sent,
    has_cookies: bool,
}

/// The values in force where no `proxy_` directive is set.
static DEFAULT: LazyLock<Frozen> = LazyLock::new(|| freeze(&Conf::default()));

impl Conf {
    /// The `Host` set by `proxy_set_header`; `None`: `$proxy_host`.
    pub fn host(&self) -> Option<&Script> {
        self.sent().host.as_ref()
    }

    /// The names and values of `proxy_set_header`, without `Host`.
    pub fn lines(&self) -> &[(Label, Script)] {
        &self.sent().lines
    }

    /// True if `proxy_set_header` sets `Connection`.
    pub fn sets_connection(&self) -> bool {
        self.sent().sets_connection
    }

    /// The rules for `Set-Cookie`, if there are any.
    pub fn cookies(&self) -> Option<&Cookies> {
        self.frozen().has_cookies.then_some(&self.cookies)
    }

    /// The rules for `Location` and `Refresh`, in order.
    pub fn redirects(&self) -> &[Redirect] {
        if self.redirects.is_empty() { &[Redirect::Default] } else { &self.redirects }
    }

    /// True if `proxy_redirect default` is set explicitly.
    pub fn has_default_redirect(&self) -> bool {
        self.redirects.iter().any(|rule| matches!(rule, Redirect::Default))
    }

    pub fn version(&self) -> Version {
        self.http_version.get()
    }

    /// The request fields set by `proxy_set_header`.
    pub fn sent(&self) -> &Sent {
        &self.frozen().sent
    }

    pub fn method(&self) -> Option<&Script> {
        self.method.as_ref()
    }

    fn frozen(&self) -> &Frozen {
        self.frozen.as_deref().unwrap_or_else(|| &DEFAULT)
    }
}

impl Secures for Conf {
    type Scope = Request;

    fn tls(&mut self) -> &mut tls::Settings {
        &mut self.upstream.set.tls
    }
}

impl BlockConf for Conf {
    fn freeze(&mut self, cx: &mut Cx) {
        // HTTP/1.0 has no chunks: a body of unknown length must be read first
        cx.body_files |= self.version() == Version::Http10;
        self.upstream.freeze(cx);
        self.frozen = Some(Arc::new(freeze(self)));
    }
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = upstream_rows!("proxy_", Conf, upstream, [relay, streamed, http, tls], [
    custom("proxy_set_header", ANY, Arity::exactly(2), |c: &mut Conf, cx, node| set_header::push(&mut c.set_headers, cx, node),
        "Sets a field of the request to the upstream.").default("Host $proxy_host"),
    custom("proxy_redirect", ANY, Arity::between(1, 2), |conf: &mut Conf, cx, node| redirect::read(&mut conf.redirects, cx, node),
        "Rewrites the Location and Refresh fields of the response.").default("default"),
    custom("proxy_cookie_domain", ANY, Arity::between(1, 2), |conf: &mut Conf, cx, node| cookie::domain(&mut conf.cookies, cx, node),
        "Rewrites the Domain of Set-Cookie: a domain or ~regex, and its replacement.").default("off"),
    custom("proxy_cookie_path", ANY, Arity::between(1, 2), |conf: &mut Conf, cx, node| cookie::path(&mut conf.cookies, cx, node),
        "Rewrites the Path of Set-Cookie: a prefix or ~regex, and its replacement.").default("off"),
    custom("proxy_cookie_flags", ANY, Arity::between(1, 4), |conf: &mut Conf, cx, node| cookie::flags(&mut conf.cookies, cx, node),
        "Sets or removes flags of cookies by name or ~regex: [no]secure, [no]httponly, samesite=strict|lax|none, nosamesite.").default("off"),
    one_of("proxy_http_version", ANY, |c| &mut c.http_version,
        "Sets the HTTP version of requests to upstreams. With 2 requests share the connections of a group that has keepalive."),
    custom("proxy_method", ANY, ONE, method,
        "Sets the method of the request to the upstream, instead of the client's. A value that is not a token is answered with 500."),
    custom("proxy_set_body", ANY, ONE, |c, cx, node| script(&mut c.upstream.set.own_body, cx, node),
        "Sets the body of the request to the upstream, instead of the client's."),
    accepted("proxy_headers_hash_max_size", ANY, ONE, Accepted::Number, "Tables grow as needed."),
    accepted("proxy_headers_hash_bucket_size", ANY, ONE, Accepted::Number, "Tables grow as needed."),
]);

pub static VARIABLES: &[Variable] = &[];

fn freeze(conf: &Conf) -> Frozen {
    Frozen { sent: Sent::new(&conf.set_headers), has_cookies: !conf.cookies.is_empty() }
}

fn method(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let text = node.arg(0);
    if !value::has_variables(text) && Token::new(text.as_bytes()).is_none() {
        return Err(Diagnostic::error(node.arg_span(0), format!("\"{text}\" is no method"))
            .help("a method is one word, such as POST"));
    }
    script(&mut conf.method, cx, node)
}

fn script(slot: &mut Inherit<Script>, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let value = Script::compile(&node.args[0], cx)?;
    slot.put(value, node)
}
