//! One whole configuration: the main and events blocks, and the blocks of the protocols.
//!
//! The master reads and opens it and keeps it in force; a worker serves it; the command line tests it. What it needs of
//! the system (listeners, folders, counters) it tells in terms that know no protocol.

pub mod config;
pub mod settings;

pub use config::Config;
