//! An idle connection on its way from a worker of the old generation to one of the new.
//!
//! Pure data: the descriptor travels beside it, and `worker/messages.rs` writes and reads it. A worker may be hostile, so
//! the one that goes on with the connection takes none of these numbers beyond what its configuration allows.

/// The longest header of the PROXY protocol that goes with a connection; one with kilobytes of TLVs closes instead.
pub const PROXY_BYTES_MAX: usize = 3000;

/// What the new worker must know of a connection beside its descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handover {
    /// The listener it was accepted on: its index among the addresses of the configuration that the process has which
    /// wrote or reads this. Between two masters it means nothing: the socket's own address tells.
    pub listen: u32,
    pub requests: u64,
    pub idle_ms_left: u64,
    pub opened_ms_ago: u64,
    /// For logs.
    pub number: u64,
    /// The header of the PROXY protocol as it came; empty without one.
    pub proxy: Box<[u8]>,
}
