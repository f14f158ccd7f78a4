//! The daemon as a process: starting, signals, what it costs.

mod alone;
mod broken_configuration;
mod command_line;
mod connections;
mod daemonize;
mod deaths;
mod early_signals;
mod fatal_worker;
mod listen_fds;
mod memory;
mod notify;
mod pid_file;
mod queues;
mod reload;
mod reload_load;
mod respawn;
mod shutdown_timeout;
mod signals;
mod start;
mod syscalls;
mod unix_socket;
mod upgrade;
mod upgrade_fails;
mod upgrade_load;
mod watchdog;
