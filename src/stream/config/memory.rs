//! The memory that a connection of these servers may take, by the directives that bound it.
//!
//! Pure. The bounds are those of `docs/security.md`.

use crate::stream::Config;
use crate::stream::config::server::Server;

const KIB: usize = 1024;

/// A session: its record, its task, and what its line in the log needs.
const SESSION_BYTES: usize = 8 * KIB;
/// The bytes on their way in one direction (`stream/proxy/relay.rs`).
const DIRECTION_BYTES: usize = 16 * KIB;
/// Sealed records that a side has not taken (`net/tls/stream.rs`).
const SEALED_BYTES: usize = 132 * KIB;

impl Config {
    /// The most that one of a worker's connections may take, in bytes. A session has two, and shares its buffers
    /// between them.
    pub fn connection_bytes(&self) -> u64 {
        self.servers.iter().map(|server| session_bytes(server) / 2).max().unwrap_or(0) as u64
    }
}

fn session_bytes(server: &Server) -> usize {
    let sealed = if server.tls.is_some() { SEALED_BYTES } else { 0 };
    let parts = [SESSION_BYTES, 2 * DIRECTION_BYTES, server.confs.core.preread_bytes_max(), sealed];
    parts.into_iter().fold(0, usize::saturating_add)
}
