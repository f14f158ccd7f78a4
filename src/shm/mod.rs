//! Memory shared by the master and its workers: tables of atomics, mapped before the fork.
//!
//! One area holds the permanent tables: a lane per worker (`lanes`, `heartbeat`, `counter::Total`, `gauges`), counters
//! by name (`counter::Slot`), the state of upstream peers (`peers`) and latency histograms (`histogram`). It
//! is address space rather than memory: a page costs nothing until it is touched. Further zones (rate limits,
//! caches) are separate `Zone`s (`named`): leaky buckets (`leaky_bucket`), the peers to which keys are bound
//! (`affinity`), counts held by keys (`held_counts`), the keys of caches (`cache_index`), TLS sessions (`tls_sessions`) and the keys of TLS tickets
//! (`ticket_keys`). Stuck workers say in `whereabouts` where they are. Names keep their counters across reloads, and
//! across an upgrade whose new binary adopts the descriptor.

pub mod affinity;
pub mod alike;
mod area;
pub mod behind;
pub mod cache_index;
pub mod cache_purges;
pub mod counter;
pub mod detail;
pub mod gauges;
pub mod heartbeat;
pub mod held_counts;
pub mod histogram;
mod index;
pub mod lanes;
pub mod leaky_bucket;
pub mod named;
pub mod peers;
mod pending;
pub mod ticket_keys;
pub mod tls_sessions;
pub mod whereabouts;
pub mod zone;

use std::os::fd::{AsRawFd, RawFd};

pub use self::area::{BYTES, as_fd, open, resident_bytes, secret};
pub use self::lanes::Lane;
pub use self::zone::Zone;

/// The descriptors of all shared memory, for a process that closes all others.
pub fn descriptors() -> Vec<RawFd> {
    let zones = named::all().into_iter().map(|(_, fd)| fd.as_raw_fd());
    zones.chain([as_fd().as_raw_fd()]).chain(whereabouts::descriptor()).collect()
}
