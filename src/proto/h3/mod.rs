//! HTTP/3 (RFC 9114) and its field compression (RFC 9204), as far as they lie above the streams of QUIC.

pub mod frame;
pub mod integer;
pub mod peer;
#[cfg(any(test, feature = "property"))]
pub mod property;
pub mod qpack;
pub mod request;

pub use frame::Code;
pub use peer::Peer;

/// The limits of heads, which all versions share.
pub use crate::proto::h1::request::Limits as HeadLimits;
