//! The connection of a request's client, as seen by the request.
//!
//! A request asks whether its client is still there, reads its body from it and answers into it. A client
//! protocol (`http/h1/`) decides how bytes are framed; only it looks inside. Touches: the client's
//! connection.

use std::future::poll_fn;
use std::task::{Context, Poll};

use crate::http::request::error::Error;
use crate::http::streams::Carrier;
use crate::http::{h1, h2, h3, streams};
use crate::net::Transport;
use crate::net::transport::Raw;
use crate::proto::field_text::Lines;
use crate::runtime::Io;

/// The origin of a request.
#[derive(Clone, Copy, Debug)]
pub enum Downstream<'a> {
    /// An HTTP/1 connection, which serves one request at a time.
    H1(&'a Transport),
    /// A stream of an HTTP/2 connection, which serves many at a time.
    H2(&'a h2::Stream),
    /// A stream of an HTTP/3 connection, the same.
    H3(&'a h3::Stream),
    /// A request without a waiting client: a copy for a mirror, or a subrequest that runs ahead of its turn.
    /// It never leaves, and sends nothing.
    Nobody,
}

impl<'a> Downstream<'a> {
    /// Ready when the client will send no more or is gone. Takes the place of a reader of the connection.
    #[inline]
    pub fn poll_gone(self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::H1(transport) => transport.poll_gone(cx),
            Self::H2(stream) => stream.poll_gone(cx),
            Self::H3(stream) => stream.poll_gone(cx),
            Self::Nobody => Poll::Pending,
        }
    }

    /// Waits as [`Downstream::poll_gone`] does.
    pub async fn gone(self) {
        poll_fn(|cx| self.poll_gone(cx)).await;
    }

    #[inline]
    pub fn is_gone(self) -> bool {
        match self {
            Self::H1(transport) => transport.is_gone(),
            Self::H2(stream) => stream.is_gone(),
            Self::H3(stream) => stream.is_gone(),
            Self::Nobody => false,
        }
    }

    /// Sends fields of a response that is still being made (`103 Early Hints`), before any of it has been
    /// sent.
    ///
    /// Errors: 499 if the client has gone, 408 if it reads nothing for this long.
    pub async fn hint(self, fields: &Lines, timeout_ms: u64) -> Result<(), Error> {
        match self {
            Self::H1(transport) => h1::writer::write_early_hints(transport, fields, timeout_ms).await,
            Self::H2(stream) => streams::send_early_hints(stream, fields),
            Self::H3(stream) => streams::send_early_hints(stream, fields),
            Self::Nobody => Ok(()),
        }
    }

    /// Counts bytes of a message that the connection has taken, as [`Transport::advance`] does.
    #[inline]
    pub fn advance(self, before: u64, count: usize) -> u64 {
        match self {
            Self::H1(transport) => transport.advance(before, count),
            Self::H2(_) | Self::H3(_) | Self::Nobody => before + count as u64,
        }
    }

    /// False if the transport holds bytes back that the socket has not taken.
    #[inline]
    pub fn is_flushed(self) -> bool {
        match self {
            Self::H1(transport) => transport.is_flushed(),
            Self::H2(_) | Self::H3(_) | Self::Nobody => true,
        }
    }

    /// The client's socket, if bytes of a body may be moved between it and another one inside the kernel.
    #[inline]
    pub fn plain(self) -> Option<&'a Io> {
        match self {
            Self::H1(transport) => transport.plain(),
            Self::H2(_) | Self::H3(_) | Self::Nobody => None,
        }
    }

    /// The client's connection, if bytes of a body may be moved to it without a buffer between.
    #[inline]
    pub fn raw(self) -> Option<Raw<'a>> {
        match self {
            Self::H1(transport) => transport.raw(),
            Self::H2(_) | Self::H3(_) | Self::Nobody => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::transport::script::play;
    use crate::runtime::{Runtime, TimedOut, timeout};

    #[test]
    fn a_client_goes_and_nobody_stays() {
        assert_eq!(size_of::<Downstream<'_>>(), 2 * size_of::<usize>());
        Runtime::new().unwrap().block_on(async {
            let (transport, script) = play();
            let client = Downstream::H1(&transport);
            assert_eq!(timeout(1, client.gone()).await, Err(TimedOut));
            script.sends(b"next request").pauses().ends();
            assert!(!client.is_gone());
            client.gone().await;
            assert!(client.is_gone() && client.raw().is_none());
            assert_eq!(timeout(1, Downstream::Nobody.gone()).await, Err(TimedOut));
            assert!(!Downstream::Nobody.is_gone() && Downstream::Nobody.raw().is_none());
        });
    }
}
