//! HTTP/1.1 (RFC 9112): heads, bodies, framing.

pub mod chunked;
pub mod encode;
pub mod fields;
pub mod length;
pub mod request;
pub mod response;

use std::fmt;

use crate::proto::header::TooManyOptions;

/// The reason why a message was refused. Its `Display` follows `client sent` or `upstream sent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    InvalidMethod,
    InvalidRequestLine,
    InvalidTarget,
    InvalidVersion,
    UnsupportedVersion,
    /// A CR without LF.
    BareCr,
    /// A LF without CR, in a head whose request line ends with both.
    BareLf,
    InvalidFieldLine,
    InvalidFieldName,
    InvalidFieldValue,
    /// A value continued on the next line (RFC 9112 §5.2).
    FoldedField,
    LineTooLong,
    HeadTooLarge,
    TooManyFields,
    /// More options in `Connection` than `header::CONNECTION_OPTIONS_MAX`.
    TooManyOptions,
    MissingHost,
    DuplicateHost,
    /// A second field of a name that may have only one value.
    DuplicateField,
    InvalidHost,
    InvalidContentLength,
    DuplicateContentLength,
    /// Both `Content-Length` and `Transfer-Encoding`: the two ends may disagree about where the message ends.
    Ambiguous,
    UnknownTransferEncoding,
    /// `Transfer-Encoding` in a message of HTTP/1.0.
    UnexpectedTransferEncoding,
    InvalidStatusLine,
    InvalidChunk,
    ChunkTooLarge,
    ChunkExtensionsTooLong,
    TrailersTooLarge,
}

impl Error {
    /// The status sent to the client; an upstream's error is always a 502.
    pub fn status(self) -> u16 {
        match self {
            Self::LineTooLong => 414,
            Self::UnsupportedVersion => 505,
            Self::UnknownTransferEncoding => 501,
            _ => 400,
        }
    }

    /// True if the head exceeds the buffers for it (nginx's 494, answered as 400).
    pub fn is_too_large(self) -> bool {
        matches!(self, Self::HeadTooLarge | Self::TooManyFields)
    }
}

impl Error {
    /// The text of its `Display`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidMethod => "invalid method",
            Self::InvalidRequestLine => "invalid request",
            Self::InvalidTarget => "invalid request target",
            Self::InvalidVersion => "invalid HTTP version",
            Self::UnsupportedVersion => "unsupported HTTP version",
            Self::BareCr => "a CR without LF",
            Self::BareLf => "a LF without CR",
            Self::InvalidFieldLine => "invalid header line",
            Self::InvalidFieldName => "invalid header name",
            Self::InvalidFieldValue => "invalid header value",
            Self::FoldedField => "a header folded over several lines",
            Self::LineTooLong => "too long URI",
            Self::HeadTooLarge => "too large header",
            Self::TooManyFields => "too many headers",
            Self::TooManyOptions => "more than 64 options in \"Connection\"",
            Self::MissingHost => "HTTP/1.1 request without \"Host\" header",
            Self::DuplicateHost => "duplicate \"Host\" header",
            Self::DuplicateField => "duplicate header line",
            Self::InvalidHost => "invalid host",
            Self::InvalidContentLength => "invalid \"Content-Length\" header",
            Self::DuplicateContentLength => "duplicate \"Content-Length\" header",
            Self::Ambiguous => "\"Content-Length\" and \"Transfer-Encoding\" headers at the same time",
            Self::UnknownTransferEncoding => "unknown \"Transfer-Encoding\"",
            Self::UnexpectedTransferEncoding => "HTTP/1.0 message with \"Transfer-Encoding\" header",
            Self::InvalidStatusLine => "invalid status line",
            Self::InvalidChunk => "invalid chunk",
            Self::ChunkTooLarge => "too large chunk",
            Self::ChunkExtensionsTooLong => "too long chunk extensions",
            Self::TrailersTooLarge => "too large trailers",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::error::Error for Error {}

impl From<TooManyOptions> for Error {
    fn from(_: TooManyOptions) -> Self {
        Self::TooManyOptions
    }
}
