//! HTTP/2 with a client: one task for the connection, and one for each of its streams.
//!
//! The task of the connection ([`serve`]) owns the transport. It shares the protocol's state
//! (`proto/h2/connection.rs`) with the tasks of the streams, each of which answers one request as if it had a connection
//! to itself: it reads the body and writes the response (`http/streams/`) through its [`Stream`]. What they add
//! to the output in a turn of the loop leaves in one write.

pub mod connection;
pub mod stream;

pub use connection::{Begun, Conn, serve};
pub use stream::Stream;

pub use crate::proto::h2::frame::PREFACE;

/// The name of the protocol in ALPN (RFC 9113 §3.2).
pub const ALPN: &[u8; 2] = b"h2";

/// True if the first bytes of a connection are those of the preface, as far as they go.
pub fn begins(data: &[u8]) -> bool {
    let count = data.len().min(PREFACE.len());
    data[..count] == PREFACE[..count]
}
