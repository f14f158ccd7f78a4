//! The facts that accompany an idle connection, or a tunnel, from a worker of an old generation to one of the new.
//!
//! Pure data: the descriptors travel with the message that `worker/messages.rs` writes and reads. A worker
//! may be hostile, so the receiving worker accepts none of these numbers beyond what its configuration
//! allows. A tunnel keeps the time limits and rates with which it began: its connections are all that it costs.

use std::fmt;
use std::net::SocketAddr;

use zeroize::Zeroizing;

use crate::base::frame::{Fields, put_vector16};
use crate::sys::address::SockAddr;

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

/// The longest state of a tunnel that travels in the message; a longer one travels in sealed memory.
pub const INLINE_BYTES_MAX: usize = 15 * 1024;

/// The longest state of a tunnel: what a pipe holds in each direction, and the records of both connections. A tunnel
/// with more bytes on their way stays until there are fewer.
pub const STATE_BYTES_MAX: usize = 1024 * 1024;

/// In the place of a listener's index: the configuration has none for the client's address.
pub const NO_LISTENER: u32 = u32::MAX;

/// The protocols whose tunnels move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelOf {
    Stream,
    Http,
    Mail,
}

/// A tunnel on its way. Two descriptors travel with it: the client's connection, then the upstream's. If the state is
/// longer than [`INLINE_BYTES_MAX`] it is empty here, and the third descriptor is the memory that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MovedTunnel {
    /// Like [`Handover::listen`], or [`NO_LISTENER`].
    pub listen: u32,
    pub of: TunnelOf,
    pub state: TunnelState,
}

/// A session of datagrams on its way. The socket of its upstream travels with it, and its client's datagrams arrive where
/// the kernel delivers them (`sys/datagram.rs`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MovedSession {
    /// Like [`Handover::listen`].
    pub listen: u32,
    pub client: SocketAddr,
    /// At most [`INLINE_BYTES_MAX`].
    pub state: TunnelState,
}

/// The state of a tunnel or a session as its protocol writes it (`stream/moved.rs`, `http/request/parked/moved.rs`, `mail/relay.rs`). It may contain keys, so
/// it is erased when dropped and not printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct TunnelState(pub Zeroizing<Vec<u8>>);

impl fmt::Debug for TunnelState {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "TunnelState({} bytes)", self.0.len())
    }
}

impl MovedTunnel {
    /// The number of descriptors that travel with it.
    pub fn fd_count(&self) -> usize {
        if self.state.0.is_empty() { 3 } else { 2 }
    }
}

/// Appends an address of a connection. Internet addresses only: of a unix socket's client there is nothing to tell.
pub fn save_address(address: Option<&SockAddr>, out: &mut Vec<u8>) {
    let text = address.and_then(SockAddr::inet).map(ToString::to_string).unwrap_or_default();
    put_vector16(out, text.as_bytes());
}

/// Reads what [`save_address`] has written. `None`: it is damaged. `Some(None)`: there was none.
pub fn load_address(fields: &mut Fields<'_>) -> Option<Option<SockAddr>> {
    let text = std::str::from_utf8(fields.vector16()?).ok()?;
    if text.is_empty() {
        return Some(None);
    }
    Some(Some(SockAddr::Inet(text.parse().ok()?)))
}
