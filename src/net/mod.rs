//! Sockets as the proxy uses them: addresses, connecting, and how many connections a worker holds and whether
//! it is about to leave them.

pub mod address;
pub mod connect;
pub mod drain;
pub mod open;
pub mod resolver;

pub use address::Address;
