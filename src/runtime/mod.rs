//! Single-threaded executor on edge-triggered epoll: tasks, timers, I/O, buffers.
//!
//! Protocol code is written linearly as futures, which this floor polls (`docs/architecture.md` §2). All
//! state is thread-local; the functions here panic outside of [`Runtime::block_on`].

pub mod blocking;
pub mod buffer;
pub mod channel;
mod executor;
mod io;
mod reactor;
pub mod relay;
mod time;
mod timer;
pub mod waiters;
mod waker;
mod work;

#[cfg(test)]
pub use executor::skip_waits;
pub use executor::{
    LONG_TURN_US, POLL_WORK, Runtime, at_rest, at_turn_end, is_running, last_event, leave_sockets_open,
    now_ms, now_us, on_panic, set_turn_hook, set_wait_hooks, spawn, task_count, wake_all,
};
pub use io::{Acceptor, Io, ask_to_close, asked_count, registration_count, waiting_count};
pub use reactor::Waiting;
pub use time::{
    Either, TimedOut, Timer, after_others, race, sleep, timeout, timeout_by, timer_count, yield_now,
};
pub use work::{charge, poll_budget, worked};
