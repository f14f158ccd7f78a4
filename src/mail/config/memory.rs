//! The memory that a connection of these servers may take, by the directives that bound it.
//!
//! Pure. The bounds are those of `docs/security.md`.

use crate::mail::Config;
use crate::mail::config::server::Server;

const KIB: usize = 1024;

/// A session: its record, its task, and the question to the authentication server.
const SESSION_BYTES: usize = 8 * KIB;
/// The bytes on their way in one direction (`net/tunnel.rs`).
const DIRECTION_BYTES: usize = 16 * KIB;
/// Sealed records that a client has not taken (`net/tls/stream.rs`).
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
    // A command is there twice: as it has arrived, and as its arguments.
    let command = server.terms.command_bytes_max.saturating_mul(2);
    let reply = server.confs.proxy.buffer_bytes();
    let parts = [SESSION_BYTES, command, reply, 2 * DIRECTION_BYTES, sealed];
    parts.into_iter().fold(0, usize::saturating_add)
}
