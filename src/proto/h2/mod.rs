//! HTTP/2 (RFC 9113) and its header compression (RFC 7541): frames, streams, flow control.

pub mod abuse;
pub mod connection;
pub mod frame;
pub mod hpack;
pub mod huffman;
#[cfg(any(test, feature = "property"))]
pub mod property;
pub mod request;
pub mod response;
pub mod stream;

pub use connection::{Connection, Event, Limits};
pub use frame::Code;
