//! HTTP/1 with a client: a connection's life, and how one request's body is read from it and its response written.
//!
//! The rest of `http/` knows a [`Reader`] and a [`Writer`] as variants of what a body is read and a response written
//! with (`http/request/body.rs`, `http/response/output.rs`); another client protocol is another folder like this one.

pub mod connection;
pub mod reader;
pub mod server_date;
pub mod writer;

pub use connection::{Conn, serve};
pub use reader::Reader;
pub use writer::Writer;
