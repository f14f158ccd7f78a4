//! The facts that accompany an idle connection from a worker of an old generation to one of the new.
//!
//! Pure data: the descriptor travels with the message that `worker/messages.rs` writes and reads. A worker
//! may be hostile, so the receiving worker accepts none of these numbers beyond what its configuration
//! allows.

use std::fmt;

use zeroize::Zeroizing;

/// The longest PROXY protocol header that is handed over; a connection with kilobytes of TLVs is closed
/// instead.
pub const PROXY_BYTES_MAX: usize = 3000;

/// The state of a connection's TLS (`net/tls/moved.rs`); empty: the connection is plain. It contains keys, so it is
/// erased when dropped and not printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct TlsState(pub Zeroizing<Vec<u8>>);

impl fmt::Debug for TlsState {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "TlsState({} bytes)", self.0.len())
    }
}

/// The facts about a connection that the new worker needs in addition to its descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handover {
    /// Index of the listener that accepted the connection, among the addresses in the configuration of the
    /// process that writes or reads this. It means nothing between two masters, which go by the socket's own
    /// address.
    pub listen: u32,
    pub requests: u64,
    pub idle_ms_left: u64,
    pub opened_ms_ago: u64,
    /// The connection's number, for logs.
    pub number: u64,
    /// The PROXY protocol header as it was received; empty without one.
    pub proxy: Box<[u8]>,
    pub tls: TlsState,
}
