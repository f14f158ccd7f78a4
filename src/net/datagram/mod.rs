//! UDP sockets that serve many clients: the worker's space for what arrives, and what leaves at the end of a turn.
//!
//! Touches: listening sockets.

mod answers;

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::rc::Rc;

pub use answers::Answers;

use crate::log;
use crate::sys::datagrams::Receiver;

thread_local! {
    /// One for all sockets of a worker: what it holds is used before the next call.
    static RECEIVER: RefCell<Option<Box<Receiver>>> = const { RefCell::new(None) };
}

/// Calls `f` with the worker's space for messages.
pub fn with_receiver<T>(f: impl FnOnce(&mut Receiver) -> T) -> T {
    RECEIVER.with_borrow_mut(|receiver| f(receiver.get_or_insert_default()))
}

/// Whether a socket's datagrams are this worker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Workers of an earlier generation receive them still.
    Later,
    Now,
    Over,
}

/// Watches a socket. `None`: that failed, and the log says so.
pub fn register(fd: OwnedFd) -> Option<Rc<Answers>> {
    let report = |error: &std::io::Error| {
        log::alert!(log::process(), &(), "epoll_ctl() failed for a listening socket {}", log::Cause(error));
    };
    Answers::new(fd).inspect_err(report).ok()
}
