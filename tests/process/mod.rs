//! The daemon as a process: starting, signals, what it costs.

mod broken_configuration;
mod connections;
mod memory;
mod reload;
mod respawn;
mod signals;
mod start;
mod syscalls;
