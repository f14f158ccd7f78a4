//! HTTP/3 with a client: one task for the connection, and one for each of its requests.
//!
//! The task of the connection ([`serve`]) takes datagrams and sends them. It shares the connection's [`State`] with the tasks
//! of the requests, each of which answers as if it had a connection to itself: it reads the body and writes the response
//! (`http/streams/`) through its [`Stream`]. What they add in a turn of the loop leaves at its end.

pub mod connection;
pub mod listener;
mod receive;
mod send;
pub mod state;
pub mod stream;

pub use connection::serve;
pub use listener::Listener;
pub use state::State;
pub use stream::Stream;

/// The name of the protocol in ALPN (RFC 9114 §3.1).
pub const ALPN: &[u8; 2] = b"h3";
