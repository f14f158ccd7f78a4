//! Protocols as values: bytes and time in, bytes out; no socket, no clock.

pub mod dns;
pub mod h1;
pub mod header;
pub mod message;
pub mod property;
pub mod proxy_protocol;
pub mod uri;
