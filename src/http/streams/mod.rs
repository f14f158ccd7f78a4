//! Requests and responses in streams, of which a connection has many: the part that is the same in HTTP/2 and HTTP/3.
//!
//! A [`Reader`] takes the body of a request from a [`Carrier`], a [`Writer`] gives it a response, and a WebSocket ([`tunnel`])
//! is data in both directions. The carrier of HTTP/2 is in `http/h2/stream.rs`, that of HTTP/3 in `http/h3/stream.rs`.

mod reader;
pub mod tunnel;
mod writer;

use std::task::{Context, Poll, Waker};

pub use reader::Reader;
pub use writer::{Compression, Writer, send_continue, send_early_hints};

use crate::http::request::error::Error;
pub use crate::proto::h2::connection::{Gone, Sent};

/// One stream of a connection, as its request uses it.
pub trait Carrier {
    /// The state of the connection while several things are handed on.
    type Streams<'s>: Sheet;

    /// Which compression its heads have.
    const COMPRESSION: Compression;

    /// Calls `act` with the stream's side of the connection, then has the connection send.
    fn write<T>(&self, act: impl FnOnce(&mut Self::Streams<'_>) -> T) -> T;

    /// Ready once the client has given up the request, or its connection is gone.
    fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()>;

    /// Takes data of the request's body that has arrived. Ready with true at its end. `before`: so many bytes that were taken
    /// the last time have been used, and whether the body is read from now on.
    fn poll_take(&self, before: (usize, bool), cx: &mut Context<'_>) -> Poll<Result<(Vec<u8>, bool), Error>>;
}

/// The parts of a response in a stream.
pub trait Sheet {
    /// Sends a head, or trailers. `ends`: nothing follows.
    fn send_block(&mut self, block: &[u8], ends: bool) -> Result<(), Gone>;

    /// Sends as much data as there is room for, in HTTP/2 in frames of at most `frame_bytes`. If some is left, the waker is
    /// woken when there is room again.
    fn send_data(&mut self, data: &[u8], ends: bool, frame_bytes: usize, waker: &Waker)
    -> Result<Sent, Gone>;
}
