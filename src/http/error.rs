//! What can end a request: the status for the client, and whose fault it was.
//!
//! Whether another peer may be tried is not decided by it (`upstream/next.rs`).

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

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.cause)
    }
}
