//! Reads the body of a request from a stream.
//!
//! Touches: the state that the streams of a connection share. Waits for bytes only: timeouts are up to the body
//! (`http/request/body.rs`). Bounded by the stream's window: the client gets room for further data when what has arrived
//! was used. RFC 9113 §6.1, §6.9; RFC 9114 §4.1; RFC 9110 §10.1.1.

use std::task::{Context, Poll, ready};

use crate::http::request::error::Error;
use crate::http::streams::{Carrier, writer};

/// The data of one request as it arrives.
#[derive(Debug, Default)]
pub struct Reader {
    /// Data that was taken from the stream. Everything up to `end` is decoded, what is before `start` was used.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// The stream has ended behind `bytes`.
    is_last: bool,
    is_read: bool,
    /// The window has been opened for a body that is being read.
    is_open: bool,
    expects_continue: bool,
}

impl Reader {
    pub fn new(expects_continue: bool) -> Self {
        Self { expects_continue, ..Self::default() }
    }

    /// True if the whole body has been read.
    pub fn is_read(&self) -> bool {
        self.is_read
    }

    /// The decoded bytes in memory.
    pub fn data(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    pub fn has_data(&self) -> bool {
        self.start < self.end
    }

    pub fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
    }

    /// Makes what has arrived readable; false: more must be read first.
    pub fn decode(&mut self) -> bool {
        if self.is_read {
            return false;
        }
        self.end = self.bytes.len();
        self.is_read = self.is_last;
        self.has_data() || self.is_read
    }

    /// Takes what has arrived, to be decoded next. Ready with the number of bytes, 0 at the end of the body.
    pub fn poll_fill(&mut self, stream: &impl Carrier, cx: &mut Context<'_>) -> Poll<Result<usize, Error>> {
        self.send_continue(stream);
        let used = std::mem::take(&mut self.bytes).len();
        (self.start, self.end) = (0, 0);
        let opens = !std::mem::replace(&mut self.is_open, true);
        (self.bytes, self.is_last) = ready!(stream.poll_take((used, opens), cx))?;
        Poll::Ready(Ok(self.bytes.len()))
    }

    /// Sends the interim response that the client expects before it sends the body, once.
    pub fn send_continue(&mut self, stream: &impl Carrier) {
        if std::mem::take(&mut self.expects_continue) {
            writer::send_continue(stream);
        }
    }

    /// Gives up the interim response, because it is too late for it.
    pub fn forget_continue(&mut self) {
        self.expects_continue = false;
    }
}
