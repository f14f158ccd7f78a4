//! A stream of HTTP/3 as its request sees it.
//!
//! Touches: the shared state only; the connection's task is woken to send what was added. The state is borrowed for single
//! calls, never while something is awaited.

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::http::h3::State;
use crate::http::request::error::Error;
use crate::http::streams::{self, Carrier, Compression, Gone, Sent, Sheet, Side};
use crate::proto::h3::Code;

/// The part of a connection that its tasks share.
pub type Shared = streams::Shared<State>;

/// A stream of a connection. Dropping it ends the stream, if it has not ended.
#[derive(Debug)]
pub struct Stream {
    shared: Rc<Shared>,
    id: u64,
    /// How the stream ends if its response is not complete.
    code: Cell<Code>,
}

impl Stream {
    pub fn new(shared: Rc<Shared>, id: u64) -> Self {
        Self { shared, id, code: Cell::new(Code::INTERNAL_ERROR) }
    }

    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Sets the code with which an incomplete response ends.
    pub fn ends_with(&self, code: Code) {
        self.code.set(code);
    }

    pub fn is_gone(&self) -> bool {
        self.shared.state.borrow().streams.get(&self.id).is_none_or(|request| request.is_gone)
    }

    /// True if the body contradicts its declared length.
    pub fn is_faulty(&self) -> bool {
        self.shared.state.borrow().streams.get(&self.id).is_some_and(|request| request.fault.is_some())
    }
}

impl Sheet for State {
    type Id = u64;

    fn send_block(&mut self, id: u64, block: &[u8], ends: bool) -> Result<(), Gone> {
        Self::send_block(self, id, block, ends)
    }

    fn send_data(&mut self, id: u64, data: &[u8], ends: bool, _: usize, waker: &Waker) -> Result<Sent, Gone> {
        Self::send_data(self, id, data, ends, waker)
    }
}

impl Carrier for Stream {
    type State = State;

    const COMPRESSION: Compression = Compression::Qpack;

    fn write<T>(&self, act: impl FnOnce(&mut Side<'_, State>) -> T) -> T {
        let result = act(&mut Side::new(&mut self.shared.state.borrow_mut(), self.id));
        self.shared.wake();
        result
    }

    fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.shared.state.borrow_mut();
        match state.streams.get_mut(&self.id) {
            Some(request) if !request.is_gone => {
                request.reader = Some(cx.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    fn poll_take(&self, _: (usize, bool), cx: &mut Context<'_>) -> Poll<Result<(Vec<u8>, bool), Error>> {
        let taken = self.shared.state.borrow_mut().poll_body(self.id, cx);
        self.shared.wake(); // the client gets room for further data
        taken
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.state.borrow_mut().close(self.id, self.code.get());
        self.shared.wake();
    }
}
