//! One question to a responder: its name is looked up, its addresses are tried, the response is read.
//!
//! Each address is asked by an exchange of `net/fetch.rs`, which has all limits but the whole time; this file has the terms
//! of OCSP and its words for the log. Touches: name servers, connections to responders.
//! Behaviour: nginx, whose words stand in the error log.

use std::cell::{Cell, RefCell};

use crate::log::{self, Cause, Logger, Text};
use crate::net::address::Address;
use crate::net::connect::Refusal;
use crate::net::fetch::{self, Fault, Limits, Place};
use crate::net::lookup::Lookup;
use crate::net::tls::ocsp::responder::Responder;
use crate::net::tls::verify::ocsp::RESPONSE_BYTES_MAX;
use crate::proto::h1;
use crate::proto::head::ResponseHead;
use crate::proto::header::Id;
use crate::runtime::timeout;

/// How long one exchange may take, all addresses of the responder included; nginx waits as long for each.
pub const EXCHANGE_MS_MAX: u64 = 60_000;
/// The most addresses of a responder that are tried.
const ADDRESSES_MAX: usize = 8;
/// The most exchanges of a worker at a time.
const EXCHANGES_MAX: usize = 256;
const CONTENT_TYPE: &[u8] = b"application/ocsp-response";
const LIMITS: Limits = Limits {
    connect_ms_max: 10_000,
    head_bytes_max: 8 * 1024,
    body_bytes_max: RESPONSE_BYTES_MAX,
    accepts: is_response,
};

thread_local! {
    static UNDER_WAY: Cell<usize> = const { Cell::new(0) };
}

/// The subject of an exchange, for the log.
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

/// Asks a responder with an OCSP request, and returns its response, which is not checked. `None`: there is
/// none, and the log says why.
pub async fn ask(
    responder: &Responder,
    request: &[u8],
    lookup: &Lookup,
    subject: &Subject<'_>,
) -> Option<Vec<u8>> {
    let Some(_place) = Place::take(&UNDER_WAY, EXCHANGES_MAX) else {
        log::error!(subject.log, subject, "{EXCHANGES_MAX} OCSP responders are asked already");
        return None;
    };
    match timeout(EXCHANGE_MS_MAX, ask_each(responder, request, lookup, subject)).await {
        Ok(response) => response,
        Err(_) => {
            log::error!(subject.log, subject, "{}", told(&Fault::TimedOut(EXCHANGE_MS_MAX)));
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
    let addresses = match lookup.addresses(&responder.host).await {
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
        match fetch::ask(&address, None, &request, &LIMITS).await {
            Ok(response) => return Some(response.body),
            Err(fault) => {
                log::error!(subject.log, subject, "{}", told(&fault));
                // A status is the responder's answer, whichever address gives it.
                if matches!(fault, Fault::Status(_)) {
                    return None;
                }
            }
        }
    }
    None
}

/// Whether a head is that of a response to an OCSP request.
fn is_response(head: &ResponseHead, bytes: &[u8]) -> Result<(), Fault> {
    if head.status != 200 {
        return Err(Fault::Status(head.status));
    }
    // A response without a type is one, as for nginx.
    if let Some(value) = head.fields.value(bytes, Id::ContentType)
        && !value.eq_ignore_ascii_case(CONTENT_TYPE)
    {
        return Err(Fault::ContentType(value.to_vec()));
    }
    // We have asked in HTTP/1.0.
    match head.fields.value(bytes, Id::TransferEncoding) {
        Some(_) => Err(Fault::Invalid(h1::Error::UnexpectedTransferEncoding)),
        None => Ok(()),
    }
}

/// A fault in the words of nginx.
fn told(fault: &Fault) -> String {
    match fault {
        Fault::Refused(Refusal::TimedOut) | Fault::TimedOut(_) => "OCSP responder timed out".to_owned(),
        Fault::Io(error) => format!("the connection to the OCSP responder failed {}", Cause(error)),
        Fault::Premature => "OCSP responder prematurely closed connection".to_owned(),
        Fault::Invalid(error) => format!("OCSP responder sent invalid response: {error}"),
        Fault::ContentType(value) => {
            format!("OCSP responder sent invalid \"Content-Type\" header: \"{}\"", Text(value))
        }
        Fault::TooLarge(bytes) => format!("OCSP responder sent a response of more than {bytes} bytes"),
        Fault::Status(status) => format!("OCSP responder sent status {status} instead of a response"),
        Fault::Refused(_) | Fault::TooMany | Fault::Unresolved(_) | Fault::Secure(_) => fault.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::fetch::Incoming;

    const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/ocsp-response\r\n";

    /// Feeds a response in pieces of this size, and then its end.
    fn arrive(text: &[u8], size: usize) -> Result<Option<Vec<u8>>, String> {
        let mut incoming = Incoming::new(&LIMITS);
        for piece in text.chunks(size).chain([&[][..]]) {
            if let Some(response) = incoming.push(piece).map_err(|fault| told(&fault))? {
                return Ok(Some(response.body));
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
