//! Memory shared by master and workers: tables of atomics, mapped before the fork.
//!
//! One area holds what is always there: a lane per worker (`lanes`, `heartbeat`, `counter::Total`), counters
//! by name (`counter::Slot`), what is known of the peers of upstream groups (`peers`) and latency histograms
//! (`histogram`). It is address space, not memory: a page costs only once it is touched. Further zones (rate
//! limits, caches) are `Zone`s of their own (`named`): leaky buckets (`leaky_bucket`), what each key holds
//! (`held_counts`). Names keep their counters across reloads, and across a binary upgrade that adopts the
//! descriptor.

mod area;
pub mod behind;
pub mod counter;
pub mod heartbeat;
pub mod held_counts;
pub mod histogram;
mod index;
pub mod lanes;
pub mod leaky_bucket;
pub mod named;
pub mod peers;
pub mod zone;

use std::os::fd::{AsRawFd, RawFd};

pub use self::area::{BYTES, as_fd, open, resident_bytes};
pub use self::lanes::Lane;
pub use self::zone::Zone;

/// The descriptors of all shared memory, for a process that keeps these and closes others.
pub fn descriptors() -> Vec<RawFd> {
    let zones = named::all().into_iter().map(|(_, fd)| fd.as_raw_fd());
    zones.chain([as_fd().as_raw_fd()]).collect()
}
