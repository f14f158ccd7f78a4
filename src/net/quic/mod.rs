//! QUIC: connections over the datagrams of a listening socket, with the TLS that the configuration describes.
//!
//! Knows no protocol above. quinn-proto, which has no socket and no clock, decides; an [`Endpoint`] brings it datagrams and
//! sends what it wants to say, for all connections of a listener in this worker, and a [`Connection`] is one of them.
//! Datagrams for another process of this server go to its [`Post`].
//! Touches: listening sockets. RFC 9000, RFC 9001, RFC 9002.

pub mod connection;
pub mod endpoint;
pub mod ids;
pub mod keys;
pub mod post;
pub mod session;

pub use connection::Connection;
pub use endpoint::{Endpoint, Settings};
pub use keys::Keys;
pub use post::Post;
