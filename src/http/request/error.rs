//! What can end a request: the status for the client, and whose fault it was.
//!
//! Whether another peer may be tried is not decided by it (`upstream/fault.rs`).

use std::fmt;

/// Who caused an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Upstream,
    Ours,
}

/// A limit of the configuration that ended a request; the log names its directive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// With the bytes that were sent, or announced.
    BodySize(u64),
    BodyTimeout,
    BodyRate,
    HeaderTimeout,
    HeaderRate,
    HeadSize,
    FieldCount,
    SendTimeout,
    UpstreamHeadSize,
    SubrequestSize,
    TotalTimeout,
}

impl Limit {
    /// The directive, for `$termination_reason`.
    pub fn directive(self) -> &'static str {
        match self {
            Self::BodySize(_) => "client_max_body_size",
            Self::BodyTimeout => "client_body_timeout",
            Self::BodyRate => "client_body_min_rate",
            Self::HeaderTimeout => "client_header_timeout",
            Self::HeaderRate => "client_header_min_rate",
            Self::HeadSize => "large_client_header_buffers",
            Self::FieldCount => "max_headers",
            Self::SendTimeout => "send_timeout",
            Self::UpstreamHeadSize => "proxy_buffer_size",
            Self::TotalTimeout => "proxy_timeout_total",
            Self::SubrequestSize => "subrequest_output_buffer_size",
        }
    }
}

/// The end of a request before its response was complete.
#[derive(Debug)]
pub struct Error {
    /// The status to answer with, when nothing was sent yet; 499: the client has gone.
    pub status: u16,
    pub side: Side,
    /// For the log; a lower-case fact.
    pub cause: String,
    /// What decided, where the configuration did.
    pub limit: Option<Limit>,
}

impl Error {
    pub fn client(status: u16, cause: impl Into<String>) -> Self {
        Self { status, side: Side::Client, cause: cause.into(), limit: None }
    }

    pub fn upstream(status: u16, cause: impl Into<String>) -> Self {
        Self { status, side: Side::Upstream, cause: cause.into(), limit: None }
    }

    pub fn ours(cause: impl Into<String>) -> Self {
        Self { status: 500, side: Side::Ours, cause: cause.into(), limit: None }
    }

    /// The same, because a limit of the configuration said so.
    #[must_use]
    pub fn by(self, limit: Limit) -> Self {
        Self { limit: Some(limit), ..self }
    }

    /// The client closed its connection, or cannot be written to.
    pub fn gone(cause: &std::io::Error) -> Self {
        Self::client(499, format!("client closed connection ({cause})"))
    }
}

impl Error {
    /// The client has gone (499), or a subrequest has said to drop it (444): it gets no answer.
    pub fn ends_silently(&self) -> bool {
        matches!(self.status, 444 | 499)
    }

    /// A connection that ended or broke, as opposed to one that carried nonsense.
    pub fn is_early_end(&self) -> bool {
        let begins = |text| self.cause.starts_with(text);
        begins("client prematurely") || begins("upstream prematurely") || begins("recv()") || begins("send()")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.cause)
    }
}
