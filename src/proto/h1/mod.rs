//! HTTP/1.1 (RFC 9112): heads, bodies, framing.
//!
//! What frames ambiguously is refused, in both directions; nothing is repaired that two readers could read
//! in two ways.

pub mod chunked;
pub mod encode;
mod field;
pub mod length;
pub mod request;
pub mod response;

use std::fmt;

/// Why a message cannot be accepted. Displayed after "client sent" or "upstream sent".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    BadRequestLine,
    BadMethod,
    BadTarget,
    BadVersion,
    UnsupportedVersion,
    BadStatusLine,
    BadField,
    LineTooLong,
    HeadTooLarge,
    BadContentLength,
    SeveralLengths,
    UnknownTransferEncoding,
    /// Transfer-Encoding in HTTP/1.0, or together with Content-Length.
    Ambiguous,
    BadChunk,
    TrailersTooLarge,
}

impl Error {
    /// The status that tells a client of its error.
    pub fn status(self) -> u16 {
        match self {
            Self::LineTooLong => 414,
            Self::UnsupportedVersion => 505,
            Self::UnknownTransferEncoding => 501,
            _ => 400,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::BadRequestLine => "invalid request",
            Self::BadMethod => "invalid method",
            Self::BadTarget => "invalid request target",
            Self::BadVersion | Self::UnsupportedVersion => "invalid version",
            Self::BadStatusLine => "no valid HTTP/1.0 header",
            Self::BadField => "invalid header line",
            Self::LineTooLong => "too long URI",
            Self::HeadTooLarge => "too large request header",
            Self::BadContentLength => "invalid \"Content-Length\" header",
            Self::SeveralLengths => "duplicate \"Content-Length\" header",
            Self::UnknownTransferEncoding => "unknown \"Transfer-Encoding\"",
            Self::Ambiguous => {
                "\"Content-Length\" and \"Transfer-Encoding\" headers that contradict each other"
            }
            Self::BadChunk => "invalid chunked body",
            Self::TrailersTooLarge => "too large trailers",
        })
    }
}
