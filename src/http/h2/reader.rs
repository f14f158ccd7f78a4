//! Reads the body of a request from a stream.
//!
//! Touches: the state that the streams of a connection share. Waits for bytes only: timeouts are up to the body
//! (`http/request/body.rs`). Bounded by the stream's window: the client gets room for further data when what has arrived
//! was used. RFC 9113 §6.1, §6.9; RFC 9110 §10.1.1.

use std::task::{Context, Poll};

use crate::http::h2::{Stream, writer};
use crate::http::request::error::{Error, Kind};

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
    pub fn poll_fill(&mut self, stream: &Stream, cx: &mut Context<'_>) -> Poll<Result<usize, Error>> {
        self.send_continue(stream);
        let used = std::mem::take(&mut self.bytes).len();
        (self.start, self.end) = (0, 0);
        let opens = !std::mem::replace(&mut self.is_open, true);
        if used > 0 || opens {
            stream.with(|proto, id| {
                proto.release(id, used);
                if opens {
                    proto.open_window(id);
                }
            });
        }
        let taken = stream.ask(|proto, id| {
            let Some(state) = proto.stream(id).filter(|state| state.reset().is_none()) else {
                return Err(Error::left());
            };
            if let Some(fault) = state.fault() {
                return Err(Error::client(Kind::BadBody(fault)));
            }
            if !state.has_data() && !state.is_remote_closed() {
                state.wake_later(cx.waker());
                return Ok(None);
            }
            let is_last = state.is_remote_closed();
            Ok(Some((proto.take_data(id), is_last)))
        });
        match taken {
            Err(error) => Poll::Ready(Err(error)),
            Ok(None) => Poll::Pending,
            Ok(Some((bytes, is_last))) => {
                (self.bytes, self.is_last) = (bytes, is_last);
                Poll::Ready(Ok(self.bytes.len()))
            }
        }
    }

    /// Sends the interim response that the client expects before it sends the body, once.
    pub fn send_continue(&mut self, stream: &Stream) {
        if std::mem::take(&mut self.expects_continue) {
            writer::send_continue(stream);
        }
    }

    /// Gives up the interim response, because it is too late for it.
    pub fn forget_continue(&mut self) {
        self.expects_continue = false;
    }
}
