//! HTTP's part of the record of a proxied request, besides its tries (`upstream/trace.rs`): response data for
//! variables, and the URL for the error log.

use std::rc::Rc;

use crate::http::response::headers::Headers;
use crate::http::upstream::cache::state as cache;
use crate::http::upstream::protocol::Protocol;
use crate::http::upstream::switched::Switched;
use crate::proto::head::ResponseHead;
use crate::proto::header::Id;
use crate::runtime::buffer::Buffer;
use crate::upstream::Trace;

/// An upstream's response head, kept for `$upstream_http_…`.
#[derive(Debug, Default)]
pub struct Head {
    /// Starts with the head's bytes.
    pub buffer: Buffer,
    pub head: ResponseHead,
}

/// The HTTP part of a request's way through its upstreams. Written by the exchange, read by variables and
/// logs.
#[derive(Debug, Default)]
pub struct Proxied {
    head: Option<Rc<Head>>,
    /// The trailer lines of the last response, each ended by CRLF.
    pub trailers: Vec<u8>,
    tunnel: Option<Box<Switched>>,
    /// `X-Accel-Buffering: yes` or `no`, unless it is ignored.
    pub buffering: Option<bool>,
    /// `$proxy_host` and `$proxy_port`, if `proxy_pass` has variables.
    pub host: Option<(Vec<u8>, Vec<u8>)>,
    /// The protocol of the upstream, and whether it is inside TLS.
    pub protocol: Protocol,
    pub is_tls: bool,
    /// The cookies of sticky groups, for the response to the client; no two have the same name.
    cookies: Option<Box<Cookies>>,
    /// Its way through the response cache, if its location has one.
    pub cache: Option<Box<cache::State>>,
    /// The URL for the error log, starting with its path. `None`: the target that the client sent.
    pub uri: Option<Box<[u8]>>,
}

/// Cookies as text; boxed as a whole, since few requests have one.
#[derive(Debug, Default)]
struct Cookies(Vec<Vec<u8>>);

impl Proxied {
    /// Starts a new pass of this request, without data of the last response.
    pub fn begin_pass(&mut self) {
        self.buffering = None;
        if let Some(cache) = &mut self.cache {
            (cache.status, cache.fetch) = (None, None);
        }
        self.is_tls = false;
        self.trailers.clear();
        self.head = None;
    }

    /// Starts with what is known of another pass before its first response.
    pub fn begin_like(&mut self, other: &Self) {
        (self.host, self.is_tls, self.uri) = (other.host.clone(), other.is_tls, other.uri.clone());
        self.protocol = other.protocol;
        let fetch = other.cache.as_ref().and_then(|cache| cache.fetch.clone());
        self.cache =
            fetch.map(|fetch| Box::new(cache::State { fetch: Some(fetch), ..cache::State::default() }));
    }

    pub fn set_head(&mut self, head: Rc<Head>) {
        self.head = Some(head);
    }

    pub fn take_head(&mut self) -> Option<Rc<Head>> {
        self.head.take()
    }

    pub fn head(&self) -> Option<&Head> {
        self.head.as_deref()
    }

    /// Has the response to the client set a cookie, whichever response that will be. It replaces one of the
    /// same name. `text` is `name=value` and the attributes.
    pub fn set_cookie(&mut self, text: &[u8]) {
        let name = |text: &[u8]| text.iter().position(|byte| *byte == b'=').unwrap_or(text.len());
        let Cookies(cookies) = &mut **self.cookies.get_or_insert_default();
        cookies.retain(|known| known[..name(known)] != text[..name(text)]);
        cookies.push(text.to_vec());
    }

    /// Those cookies, before the response's own fields.
    #[inline]
    pub fn add_cookies(&mut self, headers: &mut Headers) {
        for cookie in self.cookies.take().into_iter().flat_map(|cookies| cookies.0.into_iter().rev()) {
            headers.push_first(Id::SetCookie, &cookie);
        }
    }

    /// `http://127.0.0.1:8080/uri`, for the error log, while a try is in progress; of another protocol only the address.
    /// `received`: the client's target.
    pub fn url(&self, trace: &Trace, received: &[u8]) -> Option<String> {
        trace.action?;
        let uri = String::from_utf8_lossy(self.uri.as_deref().unwrap_or(received));
        let scheme = self.protocol.scheme(self.is_tls);
        trace.peer_name().map(|name| {
            if !self.protocol.has_uris() {
                format!("{scheme}://{name}")
            } else if name.starts_with("unix:") {
                format!("{scheme}://{name}:{uri}")
            } else {
                format!("{scheme}://{name}{uri}")
            }
        })
    }

    pub fn set_tunnel(&mut self, upstream: Switched) {
        self.tunnel = Some(Box::new(upstream));
    }

    /// True if an upstream has switched protocols.
    pub fn has_tunnel(&self) -> bool {
        self.tunnel.is_some()
    }

    /// The connection to the upstream that has switched protocols.
    pub fn take_tunnel(&mut self) -> Option<Box<Switched>> {
        self.tunnel.take()
    }
}
