//! A response as the pipeline builds it, before framing: status, fields, and the length of its body.
//!
//! Pure data; the protocol's writer adds the status line, `Server`, `Date`, `Connection` and the framing.

pub mod body_file;
pub mod coded;
pub mod coding;
pub mod condition;
pub mod error_page;
pub mod file;
pub mod filter;
pub mod headers;
pub mod media_types;
pub mod output;
pub mod redirect;
pub mod whole;

use std::borrow::Cow;

use crate::http::response::headers::Headers;
use crate::proto::field_text::Lines;
use crate::proto::header::Id;

/// The head of a response.
///
/// A handler, the reader of an upstream's head or an error page fills it; `Client::start` passes it through
/// the head steps of all modules (`modules::HEAD_STEPS`), which add and change fields, and then to the writer of
/// the client's protocol. The body travels separately.
#[derive(Clone, Debug, Default)]
pub struct Response {
    pub status: u16,
    /// The reason phrase of an upstream's status line; empty: the standard one for the status.
    pub reason: Vec<u8>,
    pub headers: Headers,
    /// The length of the body, if it is known before it is sent.
    pub content_length: Option<u64>,
    /// The field that precedes `Connection`, as nginx orders them: the `Last-Modified` of a file, or a
    /// `Location` that was made absolute. Fields of an upstream keep their own order.
    pub first: Option<Id>,
    /// Standard fields that are left out, unless they are in `headers`.
    pub omits: Omits,
    /// Ranges of it may be requested; the module `ranges` cuts them.
    pub allows_ranges: bool,
    /// A request for several ranges gets the whole.
    pub has_single_range: bool,
    /// The conditions of the client's request apply to it: it was stored, or is being stored, so that its upstream was
    /// asked without them.
    pub is_conditional: bool,
    /// A 304 of our own, which has the type and length of its 200 until its head is sent. Modules treat its
    /// tag and `Vary` as they would treat those of the 200 (RFC 9110 §15.4.5).
    pub is_current: bool,
    /// Trailers follow a chunked body: `modules::TRAILER_STEPS` add theirs at its end.
    pub has_trailers: bool,
    pub trailers: Lines,
}

/// Fields that every response of ours has. If the configuration passes on an upstream's (`proxy_pass_header
/// Server`), a response from an upstream has them only if the upstream sent them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Omits {
    pub server: bool,
    pub date: bool,
}

impl Response {
    pub fn new(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub fn with_type(status: u16, content_type: &[u8]) -> Self {
        let mut response = Self::new(status);
        if !content_type.is_empty() {
            response.headers.push_id(Id::ContentType, content_type);
        }
        response
    }

    /// Adjusts the head for a body that will be changed on its way: its length is unknown, ranges are
    /// unavailable, and a strong tag becomes weak.
    pub fn body_changes(&mut self) {
        self.content_length = None;
        self.allows_ranges = false;
        self.headers.remove(Id::AcceptRanges);
        match self.headers.get(Id::Etag) {
            None => {}
            Some(tag) if tag.starts_with(b"W/") => {}
            Some(tag) if tag.starts_with(b"\"") => {
                let weak = [b"W/", tag].concat();
                self.headers.set(Id::Etag, &weak);
            }
            Some(_) => self.headers.remove(Id::Etag),
        }
    }

    /// The status by which modules treat validators and codings: for a 304 that of its 200.
    pub fn represented_status(&self) -> u16 {
        if self.is_current { 200 } else { self.status }
    }

    /// Removes from a 304 the fields of its 200, after the modules have seen them.
    pub fn leave_out_body(&mut self) {
        self.is_current = false;
        self.content_length = None;
        for id in [Id::ContentType, Id::ContentEncoding, Id::AcceptRanges] {
            self.headers.remove(id);
        }
    }

    /// True if a response with this status never has a body (RFC 9110 §6.4.1).
    pub fn is_bodiless(&self) -> bool {
        matches!(self.status, 100..=199 | 204 | 304)
    }
}

/// A body that is known together with the head, so nothing needs to be awaited.
#[derive(Clone, Debug)]
pub enum Body {
    Empty,
    Bytes(Cow<'static, [u8]>),
}

impl Body {
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Empty => b"",
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// The reason phrase for a status; empty if nginx knows none.
pub fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Moved Temporarily", // nginx's phrase; RFC 9110 has Found
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Not Allowed", // nginx's phrase
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Time-out",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Request Entity Too Large",
        414 => "Request-URI Too Large",
        415 => "Unsupported Media Type",
        416 => "Requested Range Not Satisfiable",
        421 => "Misdirected Request",
        425 => "Too Early",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Temporarily Unavailable",
        504 => "Gateway Time-out",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "",
    }
}
