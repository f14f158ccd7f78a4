//! One question to a responder: its name is looked up, its addresses are tried, the response is read.
//!
//! Touches: name servers, connections to responders. Every wait has a limit, and so has every buffer.
//! Behaviour: nginx, whose words stand in the error log.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use crate::log::{self, Cause, Logger, Text};
use crate::net::Transport;
use crate::net::address::{Address, Host};
use crate::net::connect::{Options, connect};
use crate::net::resolver::Resolver;
use crate::net::tls::ocsp::responder::Responder;
use crate::net::tls::verify::ocsp::RESPONSE_BYTES_MAX;
use crate::proto::h1;
use crate::proto::h1::length::{self, BodyLength};
use crate::proto::h1::response::{Progress, Seen, parse_more};
use crate::proto::head::ResponseHead;
use crate::proto::header::Id;
use crate::proto::message::Method;
use crate::runtime::blocking::{self, Lane};
use crate::runtime::timeout;

/// How long one exchange may take, all addresses of the responder included; nginx waits as long for each.
pub const EXCHANGE_MS_MAX: u64 = 60_000;
/// How long one address may take to accept the connection, so that the next one has time left.
const CONNECT_MS_MAX: u64 = 10_000;
/// The most addresses of a responder that are tried.
const ADDRESSES_MAX: usize = 8;
/// The most exchanges of a worker at a time.
const EXCHANGES_MAX: usize = 256;
/// The longest head of a response.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// A response is read in pieces of this size.
const READ_BYTES: usize = 4096;
const CONTENT_TYPE: &[u8] = b"application/ocsp-response";

thread_local! {
    static UNDER_WAY: Cell<usize> = const { Cell::new(0) };
}

/// How names of responders are looked up.
#[derive(Clone, Debug, Default)]
pub struct Lookup {
    /// `resolver`; `None`: the system's.
    pub resolver: Option<Rc<Resolver>>,
    /// `resolver_timeout`.
    pub timeout_ms: u64,
}

/// What an exchange is about, for the log.
pub struct Subject<'a> {
    pub log: Logger,
    /// The connection whose client is checked.
    pub connection: Option<u64>,
    /// The file of the certificate; empty: it is a client's.
    pub certificate: &'a str,
    /// The host that is asked.
    pub responder: &'a str,
    peer: RefCell<Option<Address>>,
}

impl<'a> Subject<'a> {
    pub fn new(log: Logger, connection: Option<u64>, certificate: &'a str, responder: &'a str) -> Self {
        Self { log, connection, certificate, responder, peer: RefCell::default() }
    }
}

impl log::Context for Subject<'_> {
    fn connection(&self) -> Option<u64> {
        self.connection
    }

    fn action(&self) -> Option<&str> {
        Some("requesting certificate status")
    }

    fn fields(&self, fields: &mut log::Fields) {
        fields.plain("responder", Text(self.responder.as_bytes()));
        if let Some(peer) = &*self.peer.borrow() {
            fields.plain("peer", peer);
        }
        if !self.certificate.is_empty() {
            fields.quoted("certificate", self.certificate.as_bytes());
        }
    }
}

/// Why one address gave no response.
#[derive(Debug)]
enum Fault {
    Connect(io::Error),
    Io(io::Error),
    TimedOut,
    /// The connection ended before the response did.
    Premature,
    Invalid(h1::Error),
    ContentType(Vec<u8>),
    TooLarge,
    Status(u16),
}

impl Fault {
    /// A status is the responder's answer, whichever address gives it.
    fn is_final(&self) -> bool {
        matches!(self, Self::Status(_))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => write!(out, "connect() failed {}", Cause(error)),
            Self::Io(error) => write!(out, "the connection to the OCSP responder failed {}", Cause(error)),
            Self::TimedOut => out.write_str("OCSP responder timed out"),
            Self::Premature => out.write_str("OCSP responder prematurely closed connection"),
            Self::Invalid(error) => write!(out, "OCSP responder sent invalid response: {error}"),
            Self::ContentType(value) => {
                write!(out, "OCSP responder sent invalid \"Content-Type\" header: \"{}\"", Text(value))
            }
            Self::TooLarge => {
                write!(out, "OCSP responder sent a response of more than {RESPONSE_BYTES_MAX} bytes")
            }
            Self::Status(status) => write!(out, "OCSP responder sent status {status} instead of a response"),
        }
    }
}

/// One of the exchanges of this worker.
struct Place;

impl Place {
    fn take() -> Option<Self> {
        let count = UNDER_WAY.get();
        (count < EXCHANGES_MAX).then(|| {
            UNDER_WAY.set(count + 1);
            Self
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        UNDER_WAY.set(UNDER_WAY.get().saturating_sub(1));
    }
}

/// Asks a responder with an OCSP request, and returns its response, which is not checked. `None`: there is
/// none, and the log says why.
pub async fn ask(
    responder: &Responder,
    request: &[u8],
    lookup: &Lookup,
    subject: &Subject<'_>,
) -> Option<Vec<u8>> {
    let Some(_place) = Place::take() else {
        log::error!(subject.log, subject, "{EXCHANGES_MAX} OCSP responders are asked already");
        return None;
    };
    match timeout(EXCHANGE_MS_MAX, ask_each(responder, request, lookup, subject)).await {
        Ok(response) => response,
        Err(_) => {
            log::error!(subject.log, subject, "{}", Fault::TimedOut);
            None
        }
    }
}

async fn ask_each(
    responder: &Responder,
    request: &[u8],
    lookup: &Lookup,
    subject: &Subject<'_>,
) -> Option<Vec<u8>> {
    let addresses = match addresses(&responder.host, lookup).await {
        Ok(addresses) => addresses,
        Err(why) => {
            let name = Text(subject.responder.as_bytes());
            log::error!(subject.log, subject, "{name} could not be resolved {why}");
            return None;
        }
    };
    let request = responder.request(request);
    for address in addresses.into_iter().take(ADDRESSES_MAX) {
        subject.peer.replace(Some(address.clone()));
        match ask_one(&address, &request).await {
            Ok(response) => return Some(response),
            Err(fault) => {
                log::error!(subject.log, subject, "{fault}");
                if fault.is_final() {
                    return None;
                }
            }
        }
    }
    None
}

/// The addresses of a host. Errors: why there are none, in parentheses.
pub async fn addresses(host: &Host, lookup: &Lookup) -> Result<Vec<Address>, String> {
    if let Some(address) = host.literal() {
        return Ok(vec![address]);
    }
    let Host::Inet { name, port } = host else { return Ok(Vec::new()) };
    if let Some(resolver) = &lookup.resolver {
        let found = resolver.addresses(name, lookup.timeout_ms).await.map_err(|why| why.to_string())?;
        return Ok(found.list.iter().map(|&ip| Address::Inet(SocketAddr::new(ip, *port))).collect());
    }
    let host = host.clone();
    let looking = blocking::try_run(Lane::Names, move || host.resolve());
    let looking = looking.map_err(|_| "(too many lookups at a time)".to_owned())?;
    looking.await.map_err(|error| Cause(&error).to_string())
}

async fn ask_one(address: &Address, request: &[u8]) -> Result<Vec<u8>, Fault> {
    let options = Options::default();
    let connecting = timeout(CONNECT_MS_MAX, connect(address, &options)).await;
    let transport = connecting.map_err(|_| Fault::TimedOut)?.map_err(Fault::Connect)?;
    transport.write_all(request).await.map_err(Fault::Io)?;
    read(&transport).await
}

async fn read(transport: &Transport) -> Result<Vec<u8>, Fault> {
    let mut incoming = Incoming::default();
    loop {
        let mut piece = [0; READ_BYTES];
        let count = poll_fn(|cx| transport.poll_read(cx, &mut piece)).await.map_err(Fault::Io)?;
        let piece = piece.get(..count).unwrap_or_default();
        if let Some(body) = incoming.push(piece)? {
            return Ok(body);
        }
    }
}

/// A response as it arrives.
#[derive(Default)]
struct Incoming {
    bytes: Vec<u8>,
    head: ResponseHead,
    seen: Seen,
    /// Where the body begins, and its length.
    body: Option<(usize, BodyLength)>,
}

impl Incoming {
    /// Takes the next bytes; none: the connection has ended. Returns the body when it is complete.
    fn push(&mut self, piece: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        self.bytes.extend_from_slice(piece);
        if self.body.is_none() {
            self.body = self.parse_head()?;
        }
        let Some((start, length)) = self.body else {
            return if piece.is_empty() { Err(Fault::Premature) } else { Ok(None) };
        };
        let arrived = self.bytes.len() - start;
        let is_complete = match length {
            BodyLength::Length(length) => match usize::try_from(length) {
                Ok(length) if length <= RESPONSE_BYTES_MAX => {
                    self.bytes.truncate(start + length);
                    arrived >= length
                }
                _ => return Err(Fault::TooLarge),
            },
            _ if arrived > RESPONSE_BYTES_MAX => return Err(Fault::TooLarge),
            BodyLength::UntilClose => piece.is_empty(),
            // We have asked in HTTP/1.0.
            BodyLength::Chunked | BodyLength::None => {
                return Err(Fault::Invalid(h1::Error::UnexpectedTransferEncoding));
            }
        };
        if !is_complete && piece.is_empty() {
            return Err(Fault::Premature);
        }
        Ok(is_complete.then(|| self.bytes.split_off(start)))
    }

    fn parse_head(&mut self) -> Result<Option<(usize, BodyLength)>, Fault> {
        let progress = parse_more(&self.bytes, HEAD_BYTES_MAX, &mut self.head, &mut self.seen);
        let Progress::Complete(end) = progress.map_err(Fault::Invalid)? else { return Ok(None) };
        if self.head.status != 200 {
            return Err(Fault::Status(self.head.status));
        }
        // A response without a type is one, as for nginx.
        if let Some(value) = self.head.fields.value(&self.bytes, Id::ContentType)
            && !value.eq_ignore_ascii_case(CONTENT_TYPE)
        {
            return Err(Fault::ContentType(value.to_vec()));
        }
        let length = length::response(&self.head, &self.bytes, Method::Get).map_err(Fault::Invalid)?;
        Ok(Some((end, length)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/ocsp-response\r\n";

    /// Feeds a response in pieces of this size, and then its end.
    fn arrive(text: &[u8], size: usize) -> Result<Option<Vec<u8>>, String> {
        let mut incoming = Incoming::default();
        for piece in text.chunks(size).chain([&[][..]]) {
            if let Some(body) = incoming.push(piece).map_err(|fault| fault.to_string())? {
                return Ok(Some(body));
            }
        }
        Ok(None)
    }

    #[test]
    fn a_response_is_the_same_in_any_pieces() {
        let cases = [
            format!("{HEAD}\r\nbody"),
            format!("{HEAD}Content-Length: 4\r\n\r\nbody"),
            format!("{HEAD}Content-Length: 4\r\n\r\nbody and more"),
            "HTTP/1.0 200\n\nbody".to_owned(),
        ];
        for text in cases {
            for size in 1..text.len() {
                assert_eq!(arrive(text.as_bytes(), size), Ok(Some(b"body".to_vec())), "{text:?} {size}");
            }
        }
    }

    #[test]
    fn other_answers_are_refused_in_nginx_words() {
        let long = "x".repeat(RESPONSE_BYTES_MAX + 1);
        let cases = [
            (String::new(), "OCSP responder prematurely closed connection"),
            ("HTTP/1.0 200 OK\r\nA: b".to_owned(), "OCSP responder prematurely closed connection"),
            (format!("{HEAD}Content-Length: 5\r\n\r\nbody"), "OCSP responder prematurely closed connection"),
            ("hello".to_owned(), "OCSP responder sent invalid response: invalid status line"),
            (
                "HTTP/1.1 404 Not Found\r\n\r\n".to_owned(),
                "OCSP responder sent status 404 instead of a response",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Type: text/\"html\r\n\r\n".to_owned(),
                "OCSP responder sent invalid \"Content-Type\" header: \"text/\\x22html\"",
            ),
            (
                format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
                "OCSP responder sent invalid response: HTTP/1.0 message with \"Transfer-Encoding\" header",
            ),
            (format!("{HEAD}\r\n{long}"), "OCSP responder sent a response of more than 32768 bytes"),
            (
                format!("{HEAD}Content-Length: 32769\r\n\r\n"),
                "OCSP responder sent a response of more than 32768 bytes",
            ),
            (
                format!("HTTP/1.1 200 OK\r\nA: {long}\r\n\r\n"),
                "OCSP responder sent invalid response: too large header",
            ),
        ];
        for (text, expected) in cases {
            for size in [1, 7, 4096] {
                assert_eq!(arrive(text.as_bytes(), size), Err(expected.to_owned()), "{size}");
            }
        }
    }
}
