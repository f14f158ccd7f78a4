//! Single-threaded executor on edge-triggered epoll: tasks, timers, I/O, buffers.
