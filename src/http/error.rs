//! What can end a request: the status for the client, whose fault it was, and whether another peer may try.

use std::fmt;

/// Who caused an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Upstream,
    Ours,
}

/// The end of a request before its response was complete.
#[derive(Debug)]
pub struct Error {
    /// The status to answer with, when nothing was sent yet; 499: the client has gone.
    pub status: u16,
    pub side: Side,
    /// Another peer may be asked: nothing of the answer has come, and the request may be repeated.
    pub retryable: bool,
    /// For the log; a lower-case fact.
    pub cause: String,
}

impl Error {
    pub fn client(status: u16, cause: impl Into<String>) -> Self {
        Self { status, side: Side::Client, retryable: false, cause: cause.into() }
    }

    pub fn upstream(status: u16, cause: impl Into<String>) -> Self {
        Self { status, side: Side::Upstream, retryable: true, cause: cause.into() }
    }

    pub fn ours(cause: impl Into<String>) -> Self {
        Self { status: 500, side: Side::Ours, retryable: false, cause: cause.into() }
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
