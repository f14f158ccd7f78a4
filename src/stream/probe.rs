//! The prober's work for streams: the names of upstreams that are followed.
//!
//! Touches: name servers.

use std::fmt;

use crate::stream::{Config, Worker};
use crate::upstream::Upstreams;
use crate::upstream::follow::Tell;
use crate::upstream::known::Spot;

/// The work of the prober for a `stream` block.
#[derive(Clone, Copy)]
pub struct Prober(&'static Worker);

impl fmt::Debug for Prober {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Prober")
    }
}

impl Prober {
    /// The state of the upstreams in this process.
    pub fn upstreams(self) -> &'static Upstreams {
        &self.0.upstreams
    }

    /// Takes over the addresses of a server's name.
    pub fn learn(self, group_index: usize, server_index: usize, spots: &[Spot]) {
        self.0.upstreams.learn(group_index, server_index, spots);
    }
}

/// Starts the lookups of a configuration. Called once, inside the runtime of the process that makes them. `tell` is called
/// with news about names; the same addresses come back by [`Prober::learn`].
pub fn start(config: &'static Config, tell: &Tell) -> Prober {
    let worker: &'static Worker = Box::leak(Box::new(Worker::new(config)));
    worker.upstreams.recall();
    worker.upstreams.follow(tell);
    Prober(worker)
}
