//! Sockets as the proxy uses them: addresses, connecting, how many connections a worker holds, which of them give way
//! to others, and whether it is about to leave them.

pub mod address;
pub mod connect;
pub mod drain;
pub mod open;
pub mod resolver;
pub mod room;

pub use address::Address;
