//! The daemon as a process: starting, signals, what it costs.

mod start;
