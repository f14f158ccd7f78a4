//! A stream of HTTP/2 as its request sees it.
//!
//! Touches: the shared state only; the connection's task is woken to send what was added. The state is borrowed for single
//! calls, never while something is awaited.

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::http::request::error::{Error, Kind};
use crate::http::streams::{self, Carrier, Compression, Gone, Sent, Sheet, Side};
use crate::proto::h2::{Code, Connection};

/// The part of a connection that its tasks share.
pub type Shared = streams::Shared<Connection>;

/// A stream of a connection. Dropping it ends the stream, if it has not ended.
#[derive(Debug)]
pub struct Stream {
    shared: Rc<Shared>,
    id: u32,
    /// How the stream ends if its response is not complete.
    code: Cell<Code>,
}

impl Stream {
    pub fn new(shared: Rc<Shared>, id: u32) -> Self {
        Self { shared, id, code: Cell::new(Code::INTERNAL_ERROR) }
    }

    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Sets the code with which an incomplete response ends. PROTOCOL_ERROR ends a complete one too.
    pub fn ends_with(&self, code: Code) {
        self.code.set(code);
    }

    pub fn is_gone(&self) -> bool {
        self.shared.state.borrow_mut().stream(self.id).is_none_or(|stream| stream.reset().is_some())
    }

    /// Calls `act` with the protocol's state and the number of the stream, then has the connection send.
    pub fn with<T>(&self, act: impl FnOnce(&mut Connection, u32) -> T) -> T {
        let result = act(&mut self.shared.state.borrow_mut(), self.id);
        self.shared.wake();
        result
    }

    /// The same for what sends nothing.
    pub fn ask<T>(&self, act: impl FnOnce(&mut Connection, u32) -> T) -> T {
        act(&mut self.shared.state.borrow_mut(), self.id)
    }
}

impl Sheet for Connection {
    type Id = u32;

    fn send_block(&mut self, id: u32, block: &[u8], ends: bool) -> Result<(), Gone> {
        Self::send_block(self, id, block, ends)
    }

    fn send_data(
        &mut self,
        id: u32,
        data: &[u8],
        ends: bool,
        frame_bytes: usize,
        waker: &Waker,
    ) -> Result<Sent, Gone> {
        Self::send_data(self, id, data, ends, frame_bytes, waker)
    }
}

impl Carrier for Stream {
    type State = Connection;

    const COMPRESSION: Compression = Compression::Hpack;

    fn write<T>(&self, act: impl FnOnce(&mut Side<'_, Connection>) -> T) -> T {
        self.with(|proto, id| act(&mut Side::new(proto, id)))
    }

    fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self.shared.state.borrow_mut().stream(self.id) {
            Some(stream) if stream.reset().is_none() => {
                stream.wake_later(cx.waker());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    fn poll_take(
        &self,
        (used, opens): (usize, bool),
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Vec<u8>, bool), Error>> {
        if used > 0 || opens {
            self.with(|proto, id| {
                proto.release(id, used);
                if opens {
                    proto.open_window(id);
                }
            });
        }
        self.ask(|proto, id| {
            let Some(state) = proto.stream(id).filter(|state| state.reset().is_none()) else {
                return Poll::Ready(Err(Error::left()));
            };
            if let Some(fault) = state.fault() {
                return Poll::Ready(Err(Error::client(Kind::BadBody(fault))));
            }
            if !state.has_data() && !state.is_remote_closed() {
                state.wake_later(cx.waker());
                return Poll::Pending;
            }
            let is_last = state.is_remote_closed();
            Poll::Ready(Ok((proto.take_data(id), is_last)))
        })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.with(|proto, id| proto.close(id, self.code.get()));
    }
}
