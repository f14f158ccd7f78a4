//! The `mail` block: reading it (`compile.rs`, `listen.rs`), making settings of it (`assemble.rs`), and its servers (`server.rs`).

pub mod assemble;
pub mod compile;
pub mod listen;
pub mod memory;
pub mod server;
