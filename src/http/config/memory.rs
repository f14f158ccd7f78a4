//! The memory that a connection of these servers may take, by the directives that bound it.
//!
//! Pure. The bounds are those of `docs/security.md`; what `worker_memory_budget` bounds is not counted here.

use crate::http::Config;
use crate::http::config::location::Location;
use crate::http::config::server::Server;

const KIB: usize = 1024;

/// An idle connection with TLS: its record, two cipher contexts and its task.
const CONNECTION_BYTES: usize = 7 * KIB;
/// A request beside its buffers: its futures, fields and variables.
const REQUEST_BYTES: usize = 16 * KIB;
/// Sealed records that a client has not taken (`net/tls/stream.rs`).
const SEALED_BYTES: usize = 132 * KIB;
/// Frames of HTTP/2 that a client has not taken, with those of one more write (`proto/h2/connection.rs`).
const FRAMES_BYTES: usize = 80 * KIB;
/// A response that is being stored, as long as it is not in its file (`http/upstream/cache/fill.rs`).
const FILL_BYTES: usize = 80 * KIB;

impl Config {
    /// The most that one of a worker's connections may take, in bytes: each carries a request whose buffers are full. A
    /// request that is passed on shares the buffers of both sides between two connections.
    ///
    /// The further streams of a connection of HTTP/2 are not counted: few have bodies, and those that are passed on have
    /// connections of their own.
    pub fn connection_bytes(&self) -> u64 {
        let bytes = self.servers.iter().map(server_bytes).max().unwrap_or(0);
        bytes as u64
    }
}

fn server_bytes(server: &Server) -> usize {
    let core = &server.root.confs.http_core;
    let sealed = if server.tls.is_some() { SEALED_BYTES } else { 0 };
    let frames = if server.root.confs.http2.is_on() { FRAMES_BYTES } else { 0 };
    let client = [CONNECTION_BYTES, REQUEST_BYTES, core.head_bytes_max(), sealed, frames];
    let client = client.into_iter().fold(0, usize::saturating_add);
    let locations = server.locations();
    let with_variants = locations.iter().flat_map(|location| location.variants().chain([*location]));
    with_variants.map(|location| location_bytes(location, client)).max().unwrap_or(client)
}

fn location_bytes(location: &Location, client: usize) -> usize {
    let client = client.saturating_add(location.confs.http_core.client_body_buffer_size());
    if !location.confs.proxy_pass.is_set() {
        return client.saturating_add(location.confs.static_file.read_bytes());
    }
    let passes = location.passes();
    let sealed = if location.tls.is_some() { SEALED_BYTES } else { 0 };
    let stored = if passes.set.cache.place().is_some() { FILL_BYTES } else { 0 };
    let upstream = [CONNECTION_BYTES, passes.head_bytes_max(), passes.buffer_bytes(), sealed, stored];
    let both = upstream.into_iter().fold(client, usize::saturating_add);
    client.max(both / 2)
}
