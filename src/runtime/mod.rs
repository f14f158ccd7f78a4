//! Single-threaded executor on edge-triggered epoll: tasks, timers, I/O, buffers.

/// Polls every task once, so that each notices what changed outside its own I/O.
pub fn wake_all() {}
