//! One request of our own over HTTP or HTTPS, and its whole response: for services that a worker asks itself.
//!
//! The name is looked up, its addresses are tried in turn, the response is read. Each request has a connection of its
//! own. Touches: name servers, connections to the service. Every wait has a limit, and so has every buffer.
//! RFC 9110, RFC 9112.

use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::thread::LocalKey;

use crate::log::{Cause, Text};
use crate::net::Transport;
use crate::net::address::{Address, Host, parse_upstream};
use crate::net::connect::{self, Options, Refusal};
use crate::net::lookup::Lookup;
use crate::net::tls::client::{self, Client, Terms};
use crate::proto::h1;
use crate::proto::h1::chunked::Decoder;
use crate::proto::h1::length::{self, BodyLength};
use crate::proto::h1::response::{Progress, Seen, parse_more};
use crate::proto::head::ResponseHead;
use crate::proto::message::Method;
use crate::runtime::timeout;

/// How long one address may take to accept the connection, so that the next one has time left.
const CONNECT_MS_MAX: u64 = 5_000;
/// The most addresses that are tried.
const ADDRESSES_MAX: usize = 4;
/// The most requests of a worker at a time.
pub const FETCHES_MAX: usize = 256;
/// The longest head of a response.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// A response is read in pieces of this size.
const READ_BYTES: usize = 4096;
/// Interim responses before the final one; a further one is an error.
const INTERIM_MAX: usize = 8;

thread_local! {
    static UNDER_WAY: Cell<usize> = const { Cell::new(0) };
}

/// A URL (`https://host:port/path?query`), without a user and a fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    pub is_tls: bool,
    host: Host,
    /// The value of `Host`.
    authority: Box<str>,
    /// Path and query; begins with a slash.
    target: Box<str>,
}

impl Url {
    /// `None`: it is no `http://` or `https://` URL, or has bytes that no URL has, a user, or a fragment.
    pub fn parse(text: &str) -> Option<Self> {
        let scheme = |name: &str| {
            let (scheme, rest) = text.split_at_checked(name.len())?;
            scheme.eq_ignore_ascii_case(name).then_some(rest)
        };
        let (is_tls, rest) = match (scheme("https://"), scheme("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return None,
        };
        // Bytes that would end the request's line or a field of it.
        let is_plain =
            rest.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'#' | b'\\' | b'"'));
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        if !is_plain || authority.contains('@') || authority.starts_with("unix:") {
            return None;
        }
        let default_port = if is_tls { 443 } else { 80 };
        let host = parse_upstream(authority, default_port).ok()?;
        let Host::Inet { name, port } = &host else { return None };
        let name = if name.contains(':') { format!("[{name}]") } else { name.to_string() };
        let authority = if *port == default_port { name } else { format!("{name}:{port}") };
        let slash = if target.starts_with('/') { "" } else { "/" };
        Some(Self { is_tls, host, authority: authority.into(), target: format!("{slash}{target}").into() })
    }

    /// The host without its port.
    pub fn name(&self) -> &str {
        match &self.host {
            Host::Inet { name, .. } => name,
            Host::Unix(_) => "",
        }
    }

    /// True if it leads to this machine by a literal address, so that nobody is on the way.
    pub fn is_loopback(&self) -> bool {
        let address = self.host.literal();
        address.and_then(|address| address.ip()).is_some_and(|ip| ip.is_loopback())
    }
}

/// A request: a GET without a body, or a POST of a form.
pub struct Request<'a> {
    pub url: &'a Url,
    /// The value of `Authorization`.
    pub authorization: Option<&'a str>,
    /// The fields of a form, encoded; `None`: GET.
    pub form: Option<&'a str>,
}

impl Request<'_> {
    fn bytes(&self) -> Vec<u8> {
        let Url { authority, target, .. } = self.url;
        let method = if self.form.is_some() { "POST" } else { "GET" };
        let mut head = format!(
            "{method} {target} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: pronghorn\r\nAccept: application/json\r\n\
             Connection: close\r\n"
        );
        if let Some(value) = self.authorization {
            head.push_str(&format!("Authorization: {value}\r\n"));
        }
        if let Some(form) = self.form {
            let count = form.len();
            let kind = "application/x-www-form-urlencoded";
            head.push_str(&format!("Content-Type: {kind}\r\nContent-Length: {count}\r\n"));
        }
        head.push_str("\r\n");
        head.push_str(self.form.unwrap_or(""));
        head.into_bytes()
    }
}

/// A complete response.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub body: Vec<u8>,
}

/// How a service is asked.
#[derive(Clone)]
pub struct Means {
    pub tls: Arc<Client>,
    pub lookup: Lookup,
    /// How long a request may take, all addresses included.
    pub timeout_ms: u64,
    /// The longest body.
    pub body_bytes_max: usize,
}

/// Why there is no response.
#[derive(Debug)]
pub enum Fault {
    /// [`FETCHES_MAX`] are under way.
    TooMany,
    Unresolved(String),
    Refused(Refusal),
    Secure(String),
    Io(io::Error),
    TimedOut(u64),
    /// The connection ended before the response did.
    Premature,
    Invalid(h1::Error),
    TooLarge(usize),
    /// The service answers with a status that is of no use.
    Status(u16),
    ContentType(Vec<u8>),
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany => write!(out, "{FETCHES_MAX} requests of this worker are under way already"),
            Self::Unresolved(why) => write!(out, "its name could not be resolved {why}"),
            Self::Refused(refusal) => refusal.fmt(out),
            Self::Secure(why) => out.write_str(why),
            Self::Io(error) => write!(out, "the connection failed {}", Cause(error)),
            Self::TimedOut(ms) => write!(out, "no response within {ms} ms"),
            Self::Premature => out.write_str("the connection was closed before the response was complete"),
            Self::Invalid(error) => write!(out, "invalid response: {error}"),
            Self::TooLarge(bytes) => write!(out, "the response has more than {bytes} bytes"),
            Self::Status(status) => write!(out, "it answered with status {status}"),
            Self::ContentType(value) => write!(out, "its response has the type \"{}\"", Text(value)),
        }
    }
}

/// The limits of an exchange with one address, and its condition for the response.
#[derive(Clone, Copy)]
pub struct Limits {
    /// How long the address may take to accept the connection, so that the next one has time left.
    pub connect_ms_max: u64,
    pub head_bytes_max: usize,
    pub body_bytes_max: usize,
    /// Judges the head of the final response, before its body is read.
    pub accepts: fn(&ResponseHead, &[u8]) -> Result<(), Fault>,
}

/// One of the requests of this worker: those of a kind have a count of their own, so that no kind takes the places of another.
pub struct Place(&'static LocalKey<Cell<usize>>);

impl Place {
    /// `None`: `max` of them are under way.
    pub fn take(under_way: &'static LocalKey<Cell<usize>>, max: usize) -> Option<Self> {
        let count = under_way.get();
        (count < max).then(|| {
            under_way.set(count + 1);
            Self(under_way)
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// Sends a request and reads the response. Only an address that gives no connection is followed by the next one: a request
/// that was sent is not sent again.
pub async fn fetch(request: &Request<'_>, terms: &Means) -> Result<Response, Fault> {
    let Some(_place) = Place::take(&UNDER_WAY, FETCHES_MAX) else { return Err(Fault::TooMany) };
    let fetched = timeout(terms.timeout_ms, Box::pin(ask_each(request, terms))).await;
    fetched.unwrap_or(Err(Fault::TimedOut(terms.timeout_ms)))
}

async fn ask_each(request: &Request<'_>, terms: &Means) -> Result<Response, Fault> {
    let found = terms.lookup.addresses(&request.url.host).await.map_err(Fault::Unresolved)?;
    let tls = request.url.is_tls.then_some((&terms.tls, request.url));
    let limits = Limits {
        connect_ms_max: CONNECT_MS_MAX,
        head_bytes_max: HEAD_BYTES_MAX,
        body_bytes_max: terms.body_bytes_max,
        accepts: |_, _| Ok(()),
    };
    let bytes = request.bytes();
    let mut last = Fault::Unresolved("(no address)".to_owned());
    for address in found.into_iter().take(ADDRESSES_MAX) {
        match ask(&address, tls, &bytes, &limits).await {
            Err(fault @ (Fault::Refused(_) | Fault::Secure(_))) => last = fault,
            answered => return answered,
        }
    }
    Err(last)
}

/// Sends a request, as bytes, to one address and reads the response, on a connection of its own. Takes no account of the whole
/// time, which is the caller's. `tls`: the client, and the URL that the certificate is checked for.
pub async fn ask(
    address: &Address,
    tls: Option<(&Arc<Client>, &Url)>,
    request: &[u8],
    limits: &Limits,
) -> Result<Response, Fault> {
    // The place among the worker's connections is held until the response is complete.
    let opened = connect::open(address, &Options::default(), limits.connect_ms_max).await;
    let (mut transport, _place) = opened.map_err(Fault::Refused)?;
    if let Some((client, url)) = tls {
        let own = Terms::new(Arc::clone(client), url.name(), None);
        let io = transport.plain().ok_or_else(|| Fault::Secure("the connection is no socket".to_owned()))?;
        let session = client.connect(io, &own, &url.authority).await.map_err(|error| secure(&error, url))?;
        transport.secure(*session);
    }
    transport.write_all(request).await.map_err(Fault::Io)?;
    poll_fn(|cx| transport.poll_flush(cx)).await.map_err(Fault::Io)?;
    read(&transport, limits).await
}

fn secure(error: &client::Error, url: &Url) -> Fault {
    let name = url.name();
    Fault::Secure(match (error.refused(), error) {
        (Some(refused), _) => format!("its certificate is refused: {}", refused.refusal),
        (None, client::Error::Name) => format!("\"{name}\" is no name that a certificate could have"),
        (None, client::Error::Handshake(error)) => format!("SSL handshake failed: {error}"),
    })
}

async fn read(transport: &Transport, limits: &Limits) -> Result<Response, Fault> {
    let mut incoming = Incoming::new(limits);
    loop {
        let mut piece = [0; READ_BYTES];
        let count = match poll_fn(|cx| transport.poll_read(cx, &mut piece)).await {
            Ok(count) => count,
            // A server that ends TLS without its alert: the length of the body says whether it is complete.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
            Err(error) => return Err(Fault::Io(error)),
        };
        if let Some(response) = incoming.push(piece.get(..count).unwrap_or_default())? {
            return Ok(response);
        }
    }
}

/// A response as it arrives.
pub struct Incoming<'a> {
    limits: &'a Limits,
    bytes: Vec<u8>,
    head: ResponseHead,
    seen: Seen,
    interim_count: usize,
    /// The delimitation of the body, once the head is complete.
    length: Option<BodyLength>,
    decoder: Decoder,
    body: Vec<u8>,
}

impl<'a> Incoming<'a> {
    pub fn new(limits: &'a Limits) -> Self {
        Self {
            limits,
            bytes: Vec::new(),
            head: ResponseHead::default(),
            seen: Seen::default(),
            interim_count: 0,
            length: None,
            decoder: Decoder::default(),
            body: Vec::new(),
        }
    }

    /// Takes the next bytes; none: the connection has ended. Returns the response when it is complete.
    pub fn push(&mut self, piece: &[u8]) -> Result<Option<Response>, Fault> {
        self.bytes.extend_from_slice(piece);
        while self.length.is_none() {
            let progress =
                parse_more(&self.bytes, self.limits.head_bytes_max, &mut self.head, &mut self.seen);
            let Progress::Complete(end) = progress.map_err(Fault::Invalid)? else {
                return if piece.is_empty() { Err(Fault::Premature) } else { Ok(None) };
            };
            if matches!(self.head.status, 100..=199) {
                self.interim_count += 1;
                if self.interim_count > INTERIM_MAX || self.head.status == 101 {
                    return Err(Fault::Invalid(h1::Error::InvalidStatusLine));
                }
                self.bytes.drain(..end);
                (self.head, self.seen) = (ResponseHead::default(), Seen::default());
                continue;
            }
            (self.limits.accepts)(&self.head, &self.bytes)?;
            let length = length::response(&self.head, &self.bytes, Method::Get).map_err(Fault::Invalid)?;
            self.length = Some(length);
            self.bytes.drain(..end);
        }
        let is_complete = match self.length {
            Some(BodyLength::Length(length)) => {
                if length > self.limits.body_bytes_max as u64 {
                    return Err(Fault::TooLarge(self.limits.body_bytes_max));
                }
                self.body.append(&mut self.bytes);
                let is_complete = self.body.len() as u64 >= length;
                self.body.truncate(length as usize);
                is_complete
            }
            Some(BodyLength::Chunked) => self.decode()?,
            Some(BodyLength::None) => true,
            Some(BodyLength::UntilClose) | None => {
                self.body.append(&mut self.bytes);
                piece.is_empty()
            }
        };
        if self.body.len() > self.limits.body_bytes_max {
            return Err(Fault::TooLarge(self.limits.body_bytes_max));
        }
        if !is_complete && piece.is_empty() {
            return Err(Fault::Premature);
        }
        if !is_complete {
            return Ok(None);
        }
        Ok(Some(Response { status: self.head.status, body: std::mem::take(&mut self.body) }))
    }

    fn decode(&mut self) -> Result<bool, Fault> {
        let mut at = 0;
        loop {
            let rest = self.bytes.get(at..).unwrap_or_default();
            let step = self.decoder.decode(rest).map_err(Fault::Invalid)?;
            if let Some(data) = step.data.clone() {
                self.body.extend_from_slice(rest.get(data).unwrap_or_default());
            }
            at += step.consumed;
            if step.done || (step.data.is_none() && at >= self.bytes.len()) || step.consumed == 0 {
                self.bytes.drain(..at.min(self.bytes.len()));
                return Ok(step.done);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_have_a_host_and_a_target() {
        let cases = [
            ("https://idp.test", "idp.test", "/"),
            ("HTTPS://idp.test:443/a?b", "idp.test", "/a?b"),
            ("https://idp.test:8443/a", "idp.test:8443", "/a"),
            ("http://127.0.0.1:80/x", "127.0.0.1", "/x"),
            ("https://[::1]:8/x", "[::1]:8", "/x"),
            ("https://idp.test?x", "idp.test", "/?x"),
        ];
        for (text, authority, target) in cases {
            let url = Url::parse(text).expect(text);
            assert_eq!((&*url.authority, &*url.target), (authority, target), "{text}");
        }
        for text in [
            "",
            "ftp://a/",
            "https://",
            "https:///x",
            "https://a@b/",
            "https://a/ b",
            "https://a/\r\nX: y",
            "https://a/#x",
            "https://unix:/tmp/x",
            "https://a\\b/",
            "//a/",
        ] {
            assert_eq!(Url::parse(text), None, "{text}");
        }
        assert!(Url::parse("http://127.0.0.1:8/").is_some_and(|url| url.is_loopback() && !url.is_tls));
        assert!(
            Url::parse("http://localhost/").is_some_and(|url| !url.is_loopback()),
            "a name may lead anywhere"
        );
    }

    fn arrive(text: &[u8], size: usize) -> Result<Option<(u16, Vec<u8>)>, String> {
        let limits = Limits {
            connect_ms_max: CONNECT_MS_MAX,
            head_bytes_max: HEAD_BYTES_MAX,
            body_bytes_max: 100,
            accepts: |_, _| Ok(()),
        };
        let mut incoming = Incoming::new(&limits);
        for piece in text.chunks(size).chain([&[][..]]) {
            if let Some(response) = incoming.push(piece).map_err(|fault| fault.to_string())? {
                return Ok(Some((response.status, response.body)));
            }
        }
        Ok(None)
    }

    #[test]
    fn a_response_is_the_same_in_any_pieces() {
        let cases = [
            ("HTTP/1.1 200 OK\r\n\r\nbody", 200),
            ("HTTP/1.1 400 Bad\r\nContent-Length: 4\r\n\r\nbody", 400),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nb\r\n3\r\nody\r\n0\r\n\r\n", 200),
            ("HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody", 200),
        ];
        for (text, status) in cases {
            for size in 1..text.len() {
                let expected = Ok(Some((status, b"body".to_vec())));
                assert_eq!(arrive(text.as_bytes(), size), expected, "{text:?} {size}");
            }
        }
    }

    #[test]
    fn answers_without_an_end_are_refused() {
        let long = "x".repeat(200);
        let cases = [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nbody".to_owned(), "closed before"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n".to_owned(), "more than 100 bytes"),
            (format!("HTTP/1.1 200 OK\r\n\r\n{long}"), "more than 100 bytes"),
            (
                format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nc8\r\n{long}"),
                "more than 100 bytes",
            ),
            (
                format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{long}"),
                "invalid response",
            ),
            ("HTTP/1.1 101 Switching\r\n\r\n".to_owned(), "invalid response"),
            (format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "x".repeat(20_000)), "too large header"),
            (String::new(), "closed before"),
        ];
        for (text, expected) in cases {
            for size in [1, 7, 4096] {
                let error = arrive(text.as_bytes(), size).expect_err(&text);
                assert!(error.contains(expected), "{error} {size}");
            }
        }
    }
}
