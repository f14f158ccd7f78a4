//! Sockets as the proxy uses them: addresses, listening, accepting, connecting.

pub mod drain;
pub mod open;
