//! The stage of this worker's departure, which decides what becomes of its idle connections.
//!
//! One thread-local word, set by the worker's control code; every protocol waits for it between two requests.
//! Waiting costs a connection nothing: `begin` wakes every task once.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::Poll;

use crate::runtime;

/// The stages of a worker's departure; it only moves forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Accepts and serves.
    Serving,
    /// A newer generation runs: idle plain connections are handed over to it, current requests finish first.
    HandOver,
    /// Graceful stop: idle connections close, current requests finish.
    Close,
    /// The time for a graceful stop is over: everything ends.
    Now,
}

thread_local! {
    static MODE: Cell<Mode> = const { Cell::new(Mode::Serving) };
}

pub fn mode() -> Mode {
    MODE.get()
}

/// Moves to `mode` and wakes every task so that it notices; a step back is ignored.
pub fn begin(mode: Mode) {
    if mode > MODE.get() {
        MODE.set(mode);
        runtime::wake_all();
    }
}

/// Ready once the worker has reached `mode`.
pub async fn reached(mode: Mode) {
    poll_fn(|_| if MODE.get() >= mode { Poll::Ready(()) } else { Poll::Pending }).await;
}
