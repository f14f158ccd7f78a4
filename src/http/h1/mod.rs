//! HTTP/1 with a client: the life of a connection, reading a request's body and writing its response.
//!
//! The rest of `http/` knows a [`Reader`] and a [`Writer`] as variants of a body's source and a response's
//! destination (`http/request/body.rs`, `http/response/output.rs`); another client protocol is another folder
//! like this one.

pub mod connection;
pub mod reader;
pub mod server_date;
pub mod writer;

pub use connection::{Conn, serve};
pub use reader::Reader;
pub use writer::Writer;
