//! A request that outlives its response: the part that a tunnel keeps, to be logged at its end.
//!
//! Ten thousand tunnels may be open for days. A full request takes some four kilobytes: buffers of its heads,
//! tables of their fields, space for what may still happen. Here its texts are stored consecutively in one
//! piece, and the heads are parsed again when they are needed.

pub mod moved;
mod texts;

use std::ffi::OsStr;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;

use texts::Texts;

use crate::http::Worker;
use crate::http::config::location::Location;
use crate::http::config::server::{Listen, Server};
use crate::http::modules::States;
use crate::http::request::body::Body;
use crate::http::request::route::Rewriting;
use crate::http::request::{Connection, Request};
use crate::http::response::headers::Headers;
use crate::http::upstream::proxied::Head;
use crate::net::tls;
use crate::net::transport::Probe;
use crate::proto::h1::{request, response};
use crate::proto::head::{RequestHead, ResponseHead};
use crate::proto::message::Method;
use crate::proto::proxy_protocol;
use crate::runtime::buffer::Buffer;
use crate::script::Slots;
use crate::script::captures::Captures;
use crate::shm::gauges::Held;
use crate::sys::address::SockAddr;
use crate::upstream::trace::{self, Action};

/// A request without anything that can be rebuilt. When dropped, it is logged like any other.
#[derive(Debug)]
pub struct Parked(Option<Box<Inner>>);

/// The texts, in the order in which they are stored.
const INPUT: usize = 0;
const URI: usize = 1;
const ARGS: usize = 2;
const HOST: usize = 3;
const SENT: usize = 4;
const RECEIVED: usize = 5;
const UPSTREAM_URI: usize = 6;
/// Of the connection; see [`address_bytes`].
const PEER: usize = 7;
const LOCAL: usize = 8;
const TEXTS: usize = 9;

#[derive(Debug)]
struct Inner {
    worker: &'static Worker,
    server: &'static Server,
    location: &'static Location,
    connection: Bare,
    texts: Texts<TEXTS>,
    status: u16,
    error_status: Option<u16>,
    method: Method,
    rewriting: Rewriting,
    is_internal: bool,
    bytes_sent: u64,
    head_bytes_sent: u64,
    received: u64,
    started_us: u64,
    headed_us: u64,
    answered_us: Option<u64>,
    action: Option<Action>,
    upstream: trace::Parked,
    /// See [`Request::processing`].
    processing: Option<Held>,
    rare: Option<Box<Rare>>,
}

/// A [`Connection`] without its addresses, which are texts.
#[derive(Clone, Debug)]
struct Bare {
    number: u64,
    probe: Option<Probe>,
    proxy: Option<Rc<proxy_protocol::Header>>,
    tls: Option<Rc<tls::Info>>,
    listen: &'static Listen,
    requests: u64,
    opened_ms: u64,
    is_pipelined: bool,
}

/// The size of a parked request, without its texts.
#[cfg(test)]
pub const SIZE: usize = size_of::<Inner>();

/// Rarely used parts.
#[derive(Debug)]
struct Rare {
    captures: Captures,
    slots: Slots,
    states: Option<Box<States>>,
    id: Option<(u64, u64)>,
    socket_peer: Option<Box<SockAddr>>,
    reason: Vec<u8>,
    upstream_host: Option<(Vec<u8>, Vec<u8>)>,
    trailers: Vec<u8>,
}

impl Parked {
    pub fn new(mut request: Box<Request>) -> Self {
        request.is_parked = true;
        let request = &mut *request;
        let sent = request.response.headers.to_lines();
        let head = request.proxied.take_head();
        let received = head.as_ref().map_or(&b""[..], |head| head.buffer.data());
        let Connection { peer, local, .. } = &request.connection;
        let texts = Texts::new([
            request.input.data(),
            &request.uri,
            &request.args,
            &request.host,
            &sent,
            received,
            request.proxied.uri.as_deref().unwrap_or(b""),
            &address_bytes(peer),
            &address_bytes(local),
        ]);
        let rare = Rare {
            captures: std::mem::take(&mut request.values.captures),
            slots: request.values.take_slots(),
            states: request.states.park(),
            id: request.id,
            socket_peer: request.socket_peer.take(),
            reason: std::mem::take(&mut request.response.reason),
            upstream_host: request.proxied.host.take(),
            trailers: std::mem::take(&mut request.proxied.trailers),
        };
        let inner = Inner {
            worker: request.worker,
            server: request.server,
            location: request.location,
            connection: Bare::of(&request.connection),
            texts,
            status: request.response.status,
            error_status: request.error_page.status,
            method: request.method,
            rewriting: request.route.rewriting,
            is_internal: request.route.is_internal,
            bytes_sent: request.bytes_sent,
            head_bytes_sent: request.head_bytes_sent,
            received: request.body.received(),
            started_us: request.started_us,
            headed_us: request.headed_us,
            answered_us: request.answered_us,
            action: request.upstream.action,
            upstream: request.upstream.park(),
            processing: request.processing.take(),
            rare: (!rare.is_empty()).then(|| Box::new(rare)),
        };
        Self(Some(Box::new(inner)))
    }

    /// The location of the request.
    pub fn location(&self) -> Option<&'static Location> {
        self.0.as_ref().map(|inner| inner.location)
    }

    /// Rebuilds the request.
    pub fn restore(mut self) -> Option<Box<Request>> {
        self.0.take().map(|inner| inner.restore())
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        if let Some(inner) = self.0.take() {
            drop(inner.restore());
        }
    }
}

impl Rare {
    fn is_empty(&self) -> bool {
        let has_values = self.states.is_some() || self.id.is_some() || self.socket_peer.is_some();
        let has_upstream = self.upstream_host.is_some() || !self.trailers.is_empty();
        let has_texts = !self.slots.is_empty() || !self.reason.is_empty() || !self.captures.is_empty();
        !has_values && !has_upstream && !has_texts
    }
}

impl Inner {
    fn text(&self, index: usize) -> Vec<u8> {
        self.texts.get(index)
    }

    fn connection(&self) -> Connection {
        let Bare { number, probe, proxy, tls, listen, requests, opened_ms, is_pipelined } =
            self.connection.clone();
        let (peer, local) = (address(&self.text(PEER)), address(&self.text(LOCAL)));
        Connection { number, probe, peer, proxy, tls, local, listen, requests, opened_ms, is_pipelined }
    }

    fn restore(mut self: Box<Self>) -> Box<Request> {
        let input = buffer(&self.text(INPUT));
        let mut head = Box::<RequestHead>::default();
        // It was parsed before; if it cannot be parsed now, its fields are unknown.
        let _ = request::parse(input.data(), &self.server.root.confs.http_core.head_limits(), &mut head);
        let mut body = Body::none();
        body.set_received(self.received);
        let mut request = Request::new(self.worker, self.server, || self.connection(), input, head, || body);
        request.location = self.location;
        request.method = self.method;
        request.uri = self.text(URI);
        request.args = self.text(ARGS);
        request.host = self.text(HOST).into();
        request.route.rewriting = self.rewriting;
        request.route.is_internal = self.is_internal;
        request.error_page.status = self.error_status;
        request.response.status = self.status;
        request.response.headers = headers(&self.text(SENT));
        (request.bytes_sent, request.head_bytes_sent) = (self.bytes_sent, self.head_bytes_sent);
        (request.started_us, request.headed_us) = (self.started_us, self.headed_us);
        request.answered_us = self.answered_us;
        request.upstream.unpark(std::mem::take(&mut self.upstream));
        request.upstream.action = self.action;
        request.proxied.uri =
            Some(self.text(UPSTREAM_URI)).filter(|uri| !uri.is_empty()).map(Vec::into_boxed_slice);
        let received = buffer(&self.text(RECEIVED));
        let mut head = ResponseHead::default();
        if response::parse(received.data(), usize::MAX, &mut head).is_ok() {
            request.proxied.set_head(Rc::new(Head { buffer: received, head }));
        }
        if let Some(rare) = self.rare.take() {
            let Rare { captures, slots, states, id, socket_peer, reason, upstream_host, trailers } = *rare;
            (request.values.captures, request.states) =
                (captures, states.map_or_else(States::default, |states| *states));
            (request.id, request.socket_peer, request.response.reason) = (id, socket_peer, reason);
            (request.proxied.host, request.proxied.trailers) = (upstream_host, trailers);
            request.values.set_slots(slots);
        }
        request
    }
}

impl Bare {
    fn of(connection: &Connection) -> Self {
        let Connection { number, probe, proxy, tls, listen, requests, opened_ms, is_pipelined, .. } =
            connection.clone();
        Self { number, probe, proxy, tls, listen, requests, opened_ms, is_pipelined }
    }
}

/// An address in few bytes: `4`, IP address and port; `6`, IP address, port and scope; or `u` and the path of a unix socket.
fn address_bytes(address: &SockAddr) -> Vec<u8> {
    match address {
        SockAddr::Inet(SocketAddr::V4(v4)) => {
            [b"4", &v4.ip().octets()[..], &v4.port().to_be_bytes()].concat()
        }
        SockAddr::Inet(SocketAddr::V6(v6)) => {
            [b"6", &v6.ip().octets()[..], &v6.port().to_be_bytes(), &v6.scope_id().to_be_bytes()].concat()
        }
        SockAddr::Unix(path) => [b"u", path.as_os_str().as_bytes()].concat(),
        SockAddr::Datagram(_) => Vec::new(), // HTTP has none
    }
}

/// The address that [`address_bytes`] has written; a socket without a name if that is damaged.
fn address(bytes: &[u8]) -> SockAddr {
    let inet = || {
        let (kind, rest) = bytes.split_first()?;
        let (ip, rest) = match kind {
            b'4' => rest.split_first_chunk::<4>().map(|(ip, rest)| (IpAddr::from(*ip), rest))?,
            b'6' => rest.split_first_chunk::<16>().map(|(ip, rest)| (IpAddr::from(*ip), rest))?,
            _ => return None,
        };
        let (port, rest) = rest.split_first_chunk::<2>()?;
        let mut address = SocketAddr::new(ip, u16::from_be_bytes(*port));
        if let (SocketAddr::V6(v6), Some((scope, _))) = (&mut address, rest.split_first_chunk::<4>()) {
            v6.set_scope_id(u32::from_be_bytes(*scope));
        }
        Some(SockAddr::Inet(address))
    };
    let path = || bytes.strip_prefix(b"u").unwrap_or_default();
    inet().unwrap_or_else(|| SockAddr::Unix(OsStr::from_bytes(path()).into()))
}

fn buffer(text: &[u8]) -> Buffer {
    let mut buffer = Buffer::take(text.len());
    buffer.extend(text);
    buffer
}

/// Parses field lines again.
fn headers(lines: &[u8]) -> Headers {
    let mut headers = Headers::default();
    for line in lines.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if let Some(at) = memchr::memmem::find(line, b": ") {
            headers.push(&line[..at], &line[at + 2..]);
        }
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back_as_they_were() {
        let unix = |path: &str| SockAddr::Unix(path.into());
        let inet = |text: &str| SockAddr::Inet(text.parse().expect("an address"));
        let addresses = ["192.0.2.1:80", "[2001:db8::1]:65535", "[fe80::1%7]:443"].map(inet);
        for address in addresses.into_iter().chain([unix(""), unix("/run/a"), unix("/run/a/longer/path.s")]) {
            assert_eq!(super::address(&address_bytes(&address)), address);
        }
        for damaged in [&b""[..], b"4", b"4abc", b"6abcdefgh", b"x"] {
            assert_eq!(super::address(damaged), unix(""), "{damaged:?}");
        }
    }
}
