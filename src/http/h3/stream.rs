//! A stream as its request sees it, and the state that all streams of a connection share.
//!
//! Touches: the shared state only; the connection's task is woken to send what was added. The state is borrowed for single
//! calls, never while something is awaited.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::http::h3::State;
use crate::http::request::error::Error;
use crate::http::streams::{Carrier, Compression, Gone, Sent, Sheet};
use crate::proto::h3::Code;

/// The part of a connection that its tasks share.
#[derive(Debug)]
pub struct Shared {
    pub state: RefCell<State>,
    /// The task of the connection.
    task: RefCell<Option<Waker>>,
    /// `keepalive_timeout` of the location of the last request that has ended.
    pub keepalive_ms: Cell<Option<u64>>,
    /// A request has ended after which its settings allow no further one.
    pub is_last: Cell<bool>,
}

impl Shared {
    pub fn new(state: State) -> Rc<Self> {
        let (state, task) = (RefCell::new(state), RefCell::new(None));
        Rc::new(Self { state, task, keepalive_ms: Cell::new(None), is_last: Cell::new(false) })
    }

    /// Notes the connection's task.
    pub fn wake_later(&self, waker: &Waker) {
        self.task.replace(Some(waker.clone()));
    }

    /// Wakes the connection's task: there is something to send, or a stream has ended.
    pub fn wake(&self) {
        let task = self.task.take();
        if let Some(task) = task {
            task.wake();
        }
    }
}

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

/// A stream with the state of its connection.
pub struct Side<'s> {
    state: &'s mut State,
    id: u64,
}

impl Sheet for Side<'_> {
    fn send_block(&mut self, block: &[u8], ends: bool) -> Result<(), Gone> {
        self.state.send_block(self.id, block, ends)
    }

    fn send_data(&mut self, data: &[u8], ends: bool, _: usize, waker: &Waker) -> Result<Sent, Gone> {
        self.state.send_data(self.id, data, ends, waker)
    }
}

impl Carrier for Stream {
    type Streams<'s> = Side<'s>;

    const COMPRESSION: Compression = Compression::Qpack;

    fn write<T>(&self, act: impl FnOnce(&mut Side<'_>) -> T) -> T {
        let result = act(&mut Side { state: &mut self.shared.state.borrow_mut(), id: self.id });
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
