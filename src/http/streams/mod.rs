//! Requests and responses in streams, of which a connection has many: the part that is the same in HTTP/2 and HTTP/3.
//!
//! A request [begins](Facts::begin) when its head has arrived, a [`Reader`] takes its body from a [`Carrier`], a [`Writer`] gives it a
//! response, and a WebSocket ([`tunnel`]) is data in both directions. The tasks of a connection have a [`Shared`] state. The
//! carrier of HTTP/2 is in `http/h2/stream.rs`, that of HTTP/3 in `http/h3/stream.rs`.

mod begin;
mod reader;
mod shared;
pub mod tunnel;
mod writer;

use std::task::{Context, Poll, Waker};

pub use begin::{Beginning, Facts};
pub use reader::Reader;
pub use shared::Shared;
pub use writer::{Compression, Writer, send_continue, send_early_hints};

use crate::http::request::error::Error;
pub use crate::proto::h2::connection::{Gone, Sent};

/// One stream of a connection, as its request uses it.
pub trait Carrier {
    /// The state of the connection.
    type State: Sheet;

    /// Which compression its heads have.
    const COMPRESSION: Compression;

    /// Calls `act` with the stream's side of the connection, then has the connection send.
    fn write<T>(&self, act: impl FnOnce(&mut Side<'_, Self::State>) -> T) -> T;

    /// Ready once the client has given up the request, or its connection is gone.
    fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()>;

    /// Takes data of the request's body that has arrived. Ready with true at its end. `before`: so many bytes that were taken
    /// the last time have been used, and whether the body is read from now on.
    fn poll_take(&self, before: (usize, bool), cx: &mut Context<'_>) -> Poll<Result<(Vec<u8>, bool), Error>>;
}

/// The state of a connection, which sends the parts of responses.
pub trait Sheet {
    /// The number of a stream.
    type Id: Copy;

    /// Sends a head, or trailers. `ends`: nothing follows.
    fn send_block(&mut self, id: Self::Id, block: &[u8], ends: bool) -> Result<(), Gone>;

    /// Sends as much data as there is room for, in HTTP/2 in frames of at most `frame_bytes`. If some is left, the waker is
    /// woken when there is room again.
    fn send_data(
        &mut self,
        id: Self::Id,
        data: &[u8],
        ends: bool,
        frame_bytes: usize,
        waker: &Waker,
    ) -> Result<Sent, Gone>;
}

/// A stream with the state of its connection, while several things are handed on.
#[derive(Debug)]
pub struct Side<'s, S: Sheet> {
    state: &'s mut S,
    id: S::Id,
}

impl<'s, S: Sheet> Side<'s, S> {
    pub fn new(state: &'s mut S, id: S::Id) -> Self {
        Self { state, id }
    }

    /// See [`Sheet::send_block`].
    pub fn send_block(&mut self, block: &[u8], ends: bool) -> Result<(), Gone> {
        self.state.send_block(self.id, block, ends)
    }

    /// See [`Sheet::send_data`].
    pub fn send_data(
        &mut self,
        data: &[u8],
        ends: bool,
        frame_bytes: usize,
        waker: &Waker,
    ) -> Result<Sent, Gone> {
        self.state.send_data(self.id, data, ends, frame_bytes, waker)
    }
}
