//! A request on its way through the pipeline.
//!
//! Owns the bytes of its head; everything parsed from them is a range. It is freed as a whole when it ends,
//! and logged at that moment, whatever ended it.

pub mod ahead;
pub mod body;
pub mod body_file;
pub mod error;
pub mod error_page;
pub mod limit;
pub mod parked;
pub mod route;
pub mod states;
pub mod subrequest;
pub mod target;
pub mod termination;

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use crate::base::in_place::boxed;
use crate::base::network::Network;
use crate::http::config::location::Location;
use crate::http::config::server::{Listen, Server};
use crate::http::modules::{self, States};
use crate::http::request::body::Body;
use crate::http::request::error_page::ErrorPage;
use crate::http::request::route::{Rewriting, Route};
use crate::http::request::subrequest::Tally;
use crate::http::request::termination::Termination;
use crate::http::response::Response;
use crate::http::response::coded::{self, Coding};
use crate::http::response::filter::Filters;
use crate::http::upstream::proxied::Proxied;
use crate::http::{Config, Worker};
use crate::log::{self, Logger};
use crate::net::budget::Share;
use crate::net::tls;
use crate::net::transport::Probe;
use crate::proto::field_text::Token;
use crate::proto::head::RequestHead;
use crate::proto::header::Id;
use crate::proto::message::{Method, Version};
use crate::proto::proxy_protocol;
use crate::proto::uri::Host;
use crate::runtime;
use crate::runtime::buffer::Buffer;
use crate::script::Values;
use crate::shared::realip;
use crate::shm::gauges::{Held, Present};
use crate::sys::address::SockAddr;
use crate::sys::clock;
use crate::upstream::Trace;

/// A request's view of its connection.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Unique within this worker; `*N` in the error log, `$connection`.
    pub number: u64,
    /// Queries the kernel about the client's socket; `None`: the request has no waiting client.
    pub probe: Option<Probe>,
    /// The client: the socket's peer, or the address that a trusted proxy names (`set_real_ip_from`).
    pub peer: SockAddr,
    /// The addresses that a proxy in front has sent.
    pub proxy: Option<Rc<proxy_protocol::Header>>,
    /// The result of the TLS handshake; `None`: the connection is plain.
    pub tls: Option<Rc<tls::Info>>,
    /// The address the client connected to.
    pub local: SockAddr,
    pub listen: &'static Listen,
    /// The number of requests so far, including this one.
    pub requests: u64,
    pub opened_ms: u64,
    /// The request's first bytes arrived with the previous one (`$pipe`).
    pub is_pipelined: bool,
}

/// A request, from its parsed head to its log line.
///
/// A client protocol makes one for each head that it reads, and `request/subrequest.rs` for each subrequest;
/// the pipeline, the handlers of modules, the filters and the variables all work on it. It owns the bytes of
/// its head, its body, the values of its variables and the head of its response; server, location and
/// settings are references into the configuration. It never owns a connection: I/O goes through a `Client` or
/// a `Downstream`, which are passed separately. Dropping it runs the log phase, whatever ended it, unless a
/// tunnel has parked it (`parked.rs`).
#[derive(Debug)]
pub struct Request {
    pub config: &'static Config,
    /// The state of the worker that serves it.
    pub worker: &'static Worker,
    pub server: &'static Server,
    pub location: &'static Location,
    pub connection: Connection,
    /// The head's bytes, to which `head` refers.
    pub input: Buffer,
    /// How many more bytes they are than the client has sent: fields were added (`more_set_input_headers`), or the head
    /// came compressed.
    input_added: i32,
    pub head: Box<RequestHead>,
    /// The method in force: an `error_page` redirect changes others to GET.
    pub method: Method,
    /// Decoded and normalized path.
    pub uri: Vec<u8>,
    /// The text after `?`, without it.
    pub args: Vec<u8>,
    /// In lower case, without the port; from the request line or `Host`. Empty if the client sent none.
    pub host: Host,
    /// The stored values of its variables.
    pub values: Values,
    pub body: Body,
    pub response: Response,
    /// Head and body as sent to the client.
    pub bytes_sent: u64,
    pub head_bytes_sent: u64,
    /// The whole response was sent (`$request_completion`).
    pub is_complete: bool,
    /// It has been added to the counters.
    pub is_counted: bool,
    /// Counts it among those in progress, if its server has a zone.
    pub processing: Option<Held>,
    /// The connection may serve another request after this one.
    pub keep_alive: bool,
    /// How it has come to its location.
    pub route: Route,
    /// The page that is made instead of its answer.
    pub error_page: ErrorPage,
    /// With `satisfy any`: the status with which handlers have refused it so far.
    pub refusal: Option<u16>,
    /// The record of its tries of upstream peers.
    pub upstream: Trace,
    /// HTTP's part of that record.
    pub proxied: Proxied,
    /// `$request_id`, after its first use.
    pub id: Option<(u64, u64)>,
    /// When the first byte of the head was read.
    pub started_us: u64,
    /// When the head was complete.
    pub headed_us: u64,
    /// When the head of the response was written to the client's socket.
    pub answered_us: Option<u64>,
    /// What ended it, other than its response.
    pub termination: Option<Termination>,
    /// The socket's peer, if `connection.peer` differs.
    pub socket_peer: Option<Box<SockAddr>>,
    /// The filters for the body of the response, added by the head steps of modules.
    pub filters: Option<Box<Filters>>,
    /// The content coding of the whole response; only for the client's own request.
    pub coding: Option<Box<dyn Coding>>,
    /// Sizes before and after content coding, once the response is complete.
    pub coded: Option<coded::Report>,
    /// The modules' states for it.
    pub states: States,
    /// The counts of subrequests of the client's request, after the first one.
    pub tally: Option<Rc<Tally>>,
    /// Memory that it holds beyond what each request needs.
    pub share: Share,
    /// 0 for the client's own request, otherwise the nesting depth of this subrequest.
    pub depth: u8,
    /// Its values have been moved elsewhere, and its log line will be written there.
    pub is_parked: bool,
}

impl Request {
    /// A closure makes the body, after everything that could panic and before all else: only then is the body
    /// built in place instead of being copied three times. Another one makes the connection, so that it is copied once.
    #[inline(always)]
    pub fn new(
        worker: &'static Worker,
        server: &'static Server,
        connection: impl FnOnce() -> Connection,
        input: Buffer,
        head: Box<RequestHead>,
        body: impl FnOnce() -> Body,
    ) -> Box<Self> {
        let method = head.method;
        let now_us = runtime::now_us();
        let connection = connection();
        boxed(|| Self {
            body: body(),
            connection,
            config: worker.config,
            worker,
            server,
            location: &server.root,
            input,
            input_added: 0,
            head,
            method,
            uri: Vec::new(),
            args: Vec::new(),
            host: Host::default(),
            values: Values::default(),
            response: Response::default(),
            bytes_sent: 0,
            head_bytes_sent: 0,
            is_complete: false,
            is_counted: false,
            processing: None,
            keep_alive: false,
            route: Route::default(),
            error_page: ErrorPage::default(),
            refusal: None,
            upstream: Trace::default(),
            proxied: Proxied::default(),
            id: None,
            started_us: now_us,
            headed_us: now_us,
            answered_us: None,
            termination: None,
            socket_peer: None,
            filters: None,
            coding: None,
            coded: None,
            states: States::default(),
            tally: None,
            share: Share::default(),
            depth: 0,
            is_parked: false,
        })
    }

    /// Counts it among the requests in progress of its server's zone.
    #[inline]
    pub fn enter_zone(&mut self) {
        self.processing = Self::zone_of(self.server);
    }

    /// Counts one among the requests in progress of a server's zone.
    #[inline]
    pub fn zone_of(server: &Server) -> Option<Held> {
        let zone = server.root.confs.status_zone.of_server();
        zone.map(|slot| slot.gauge(Present::Processing).hold())
    }

    /// A subrequest for another URI of the same server: it takes the head and the body of this request, and
    /// its variables until [`Request::take_back`].
    pub fn sub(&mut self, uri: Vec<u8>, args: Vec<u8>) -> Box<Self> {
        let mut sub = self.inner(uri, args, Body::copy(&self.body));
        sub.values.set_slots(self.values.take_slots());
        sub.states = States::lend(self);
        sub
    }

    /// A subrequest for more of the same answer, in the location that this request has come to.
    pub fn sub_more(&mut self) -> Box<Self> {
        let mut sub = self.sub(self.uri.clone(), self.args.clone());
        sub.location = self.location;
        sub.values.captures = self.values.captures.clone();
        (sub.method, sub.route.is_internal) = (self.method, self.route.is_internal);
        sub.route.rewriting = self.route.rewriting;
        sub
    }

    /// A subrequest that runs beside this request: it has the variables and states as they are now.
    pub fn sub_ahead(&self, uri: Vec<u8>, args: Vec<u8>) -> Box<Self> {
        self.apart(uri, args, Body::copy(&self.body))
    }

    /// A copy for another URI of the same server, independent of this request, its client and its variables.
    pub fn fork(&self, uri: Vec<u8>, body: Body) -> Box<Self> {
        let mut fork = self.apart(uri, self.args.clone(), body);
        fork.method = self.method;
        fork
    }

    /// The same request again, without its body, for a second exchange with an upstream. Like every subrequest it
    /// is not logged.
    pub fn again(&self) -> Box<Self> {
        let mut again = self.apart(self.uri.clone(), self.args.clone(), Body::without(&self.body));
        (again.method, again.location) = (self.method, self.location);
        again.values.captures = self.values.captures.clone();
        again.proxied.begin_like(&self.proxied);
        again
    }

    /// A subrequest with copies of the variables, which may outlive this request and its client.
    fn apart(&self, uri: Vec<u8>, args: Vec<u8>, body: Body) -> Box<Self> {
        let mut sub = self.inner(uri, args, body);
        sub.connection.probe = None;
        sub.values.set_slots(self.values.slots().clone());
        sub.states = States::copy(self);
        sub
    }

    /// Another location makes the answer, by `error_page` or `X-Accel-Redirect`: as nginx has it for a GET, except for a HEAD,
    /// and without the body unless it is kept.
    pub fn become_get(&mut self) {
        if self.method != Method::Head {
            self.method = Method::Get;
        }
        self.body.make_optional();
    }

    fn inner(&self, uri: Vec<u8>, args: Vec<u8>, body: Body) -> Box<Self> {
        let mut input = Buffer::take(self.input.data().len());
        input.extend(self.input.data());
        let mut inner = Self::new(
            self.worker,
            self.server,
            || self.connection.clone(),
            input,
            self.head.clone(),
            || body,
        );
        inner.input_added = self.input_added;
        (inner.uri, inner.args) = (uri, args);
        inner.route.rewriting = Rewriting::Replaced { left_location: false };
        inner.method = Method::Get;
        inner.host.clone_from(&self.host);
        inner.route.is_internal = true;
        inner.keep_alive = self.keep_alive;
        inner.depth = self.depth.saturating_add(1);
        inner.tally.clone_from(&self.tally);
        inner.socket_peer.clone_from(&self.socket_peer);
        inner.id = self.id;
        inner
    }

    /// Takes the variables back.
    pub fn take_back(&mut self, sub: &mut Self) {
        self.values.set_slots(sub.values.take_slots());
        States::take_back(self, sub);
        self.id = sub.id;
    }

    /// The request line is incomplete or not HTTP: only its bytes are known (`-` in the log).
    pub fn is_malformed(&self) -> bool {
        self.head.target.is_empty()
    }

    /// The error log in force.
    pub fn error_log(&self) -> Logger {
        log::logger_for(self.location.confs.http_core.log(), || self.connection.peer.ip())
    }

    /// The type of a response that the configuration itself provides, by the URI's extension.
    pub fn content_type(&self) -> Vec<u8> {
        let core = &self.location.confs.http_core;
        core.type_of(&self.uri).unwrap_or(core.default_type()).as_bytes().to_vec()
    }

    pub fn is_subrequest(&self) -> bool {
        self.depth > 0
    }

    /// The first field with this id in the request.
    pub fn header(&self, id: Id) -> Option<&[u8]> {
        self.head.fields.value(self.input.data(), id)
    }

    /// Sets a field of the request, replacing all fields that are meant; an empty value removes them.
    ///
    /// `only_existing`: if there is none it is not added. `value` must not contain a byte that would end its
    /// line.
    pub fn set_field(
        &mut self,
        is_meant: impl Fn(&[u8]) -> bool,
        name: &[u8],
        value: &[u8],
        only_existing: bool,
    ) {
        let data = self.input.data();
        if only_existing && !self.head.fields.iter().any(|field| is_meant(field.name(data))) {
            return;
        }
        let line = (!value.is_empty()).then(|| {
            let start = self.input.data().len();
            for part in [name, b": ", value, b"\r\n"] {
                self.input.extend(part);
                self.input_added += part.len() as i32;
            }
            (start, name.len(), value.len())
        });
        self.head.fields.replace(self.input.data(), is_meant, line);
    }

    /// The request line as received.
    pub fn line(&self) -> &[u8] {
        let data = self.input.data().get(self.head.method_range.start..).unwrap_or(b""); // after empty lines
        let end = memchr::memchr2(b'\r', b'\n', data).unwrap_or(data.len());
        &data[..end]
    }

    /// Path and arguments as received (`$request_uri`).
    pub fn target(&self) -> &[u8] {
        path_and_query(self.input.data().get(self.head.target.clone()).unwrap_or(b""))
    }

    /// The method in force (`$request_method`).
    pub fn method_text(&self) -> &[u8] {
        match self.method {
            Method::Get => b"GET", // also after an internal redirect has changed it
            Method::Head => b"HEAD",
            _ => self.input.data().get(self.head.method_range.clone()).unwrap_or(b""),
        }
    }

    /// The method as a token of a head.
    pub fn method_token(&self) -> Token<'_> {
        match self.method {
            Method::Get => Token::GET,
            Method::Head => Token::HEAD,
            _ => self.head.method_token(self.input.data()),
        }
    }

    pub fn version(&self) -> Version {
        self.head.version
    }

    pub fn is_http2(&self) -> bool {
        self.head.version == Version::Http2
    }

    pub fn is_http3(&self) -> bool {
        self.head.version == Version::Http3
    }

    /// True if its connection carries several requests at a time.
    pub fn has_streams(&self) -> bool {
        self.head.version >= Version::Http2
    }

    pub fn is_head(&self) -> bool {
        self.method == Method::Head
    }

    /// The client that trusted peers name in the fields of this name (`X-Forwarded-For` and its like).
    pub fn forwarded_client(
        &self,
        name: &[u8],
        trusted: &[Network],
        is_recursive: bool,
        peer: Option<IpAddr>,
    ) -> Option<SocketAddr> {
        let data = self.input.data();
        let fields = self.head.fields.iter().rev();
        let fields = fields.filter(|field| field.name(data).eq_ignore_ascii_case(name));
        let words = fields.flat_map(|field| {
            field.value(data).rsplit(|byte| matches!(byte, b' ' | b',')).filter(|word| !word.is_empty())
        });
        realip::named_client(words, trusted, is_recursive, peer)
    }

    /// The host for `$host`: the request's, otherwise the server's first name.
    pub fn host_or_name(&self) -> &[u8] {
        if self.host.is_empty() { self.server.name().as_bytes() } else { &self.host }
    }

    /// Sets how many bytes the client has sent for the head, if they are not those of the text.
    pub fn set_head_length(&mut self, bytes: u32) {
        self.input_added = self.input.data().len() as i32 - bytes as i32; // both are bounded by the limits of a head
    }

    /// Sets when its first bytes arrived, in terms of `runtime::now_ms`; `None`: now.
    pub fn began(&mut self, began_ms: Option<u64>) {
        if let Some(began_ms) = began_ms {
            let waited_us = runtime::now_ms().saturating_sub(began_ms) * 1000;
            self.started_us = self.headed_us.saturating_sub(waited_us);
        }
    }

    /// Microseconds since the first byte of the request was read.
    pub fn elapsed_us(&self) -> u64 {
        clock::monotonic_us().saturating_sub(self.started_us)
    }

    /// Bytes of the body as sent to the client.
    pub fn body_bytes_sent(&self) -> u64 {
        self.bytes_sent.saturating_sub(self.head_bytes_sent)
    }

    /// Bytes of the request: head and the part of the body that was read.
    pub fn length(&self) -> u64 {
        (self.input.data().len() as i64 - i64::from(self.input_added)) as u64 + self.body.received()
    }
}

impl log::Context for Request {
    fn connection(&self) -> Option<u64> {
        Some(self.connection.number)
    }

    fn action(&self) -> Option<&str> {
        self.upstream.action()
    }

    fn fields(&self, fields: &mut log::Fields) {
        match self.connection.peer.ip() {
            Some(ip) => fields.plain("client", ip),
            None => fields.plain("client", "unix:"),
        };
        fields.plain("server", self.server.name());
        if !self.line().is_empty() {
            fields.quoted("request", self.line());
        }
        if let Some(upstream) = self.proxied.url(&self.upstream, self.target()) {
            fields.quoted("upstream", upstream.as_bytes());
        }
        if let Some(host) = self.header(Id::Host) {
            fields.quoted("host", host);
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if !self.is_parked {
            modules::LOG_STEPS.iter().for_each(|act| act(self));
        }
    }
}

/// The path and arguments of a target that may be in absolute form (`http://host/path`).
#[inline]
fn path_and_query(target: &[u8]) -> &[u8] {
    match target.first() {
        None | Some(b'/') => target,
        Some(_) => after_authority(target),
    }
}

#[cold]
fn after_authority(target: &[u8]) -> &[u8] {
    let authority = memchr::memmem::find(target, b"://").map_or(target, |at| &target[at + 3..]);
    match authority.iter().position(|byte| matches!(byte, b'/' | b'?')) {
        Some(at) => &authority[at..],
        None => b"/",
    }
}
