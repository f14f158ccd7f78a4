//! The state that the task of a connection shares with those of its requests.
//!
//! Touches: nothing else. The state is borrowed for single calls, never while something is awaited.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Waker;

/// The part of a connection that its tasks share.
#[derive(Debug)]
pub struct Shared<S> {
    /// The protocol's state.
    pub state: RefCell<S>,
    /// The task of the connection.
    task: RefCell<Option<Waker>>,
    /// `keepalive_timeout` of the location of the last request that has ended.
    pub keepalive_ms: Cell<Option<u64>>,
    /// A request has ended after which its settings allow no further one.
    pub is_last: Cell<bool>,
}

impl<S> Shared<S> {
    pub fn new(state: S) -> Rc<Self> {
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

    /// A request has ended in a location with this `keepalive_timeout`.
    pub fn request_ended(&self, keepalive_ms: u64) {
        self.keepalive_ms.set(Some(keepalive_ms));
        if keepalive_ms == 0 {
            self.is_last.set(true);
        }
    }
}
