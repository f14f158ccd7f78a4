//! Sockets as the proxy uses them: addresses, listening, accepting, connecting.

pub mod address;
pub mod connect;
pub mod drain;
pub mod open;

pub use address::Address;
