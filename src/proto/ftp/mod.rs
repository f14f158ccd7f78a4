//! FTP as values: a client's commands, a server's replies, and the addresses of data connections in both.
//!
//! Touches: nothing; lines in, their parts out. Truth: RFC 959, RFC 1123 §4.1.2, RFC 2228, RFC 2389, RFC 2428, RFC 4217; for
//! what a proxy must not believe, RFC 2577.

pub mod address;
pub mod command;
pub mod reply;

pub use command::{Direction, Verb};
