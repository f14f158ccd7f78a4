//! The `http` block made into servers and locations.

pub mod compile;
pub mod listen;
pub mod location;
pub mod passes;
pub mod server;
