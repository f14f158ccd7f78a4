//! Streams: servers that pass connections on without looking at what they carry.
//!
//! ```text
//! configuration    config/ → modules (rows, settings) → Config
//! one worker       service: connections → session → pipeline: phases → proxy
//! ```

pub mod config;
pub mod datagram;
pub mod handshake;
pub mod modules;
pub mod moved;
pub mod pipeline;
pub mod probe;
pub mod proxy;
pub mod scope;
pub mod service;
pub mod session;
pub mod verdict;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;

pub use config::assemble::compile;
pub use config::server::{Listen, Server};
pub use service::{Hooks, Passed, Service};
pub use session::Session;

use crate::config::Places;
use crate::net::listener::{Listener, Serves};
use crate::net::resolver::Resolvers;
use crate::net::tls::certificate::Certificate;
use crate::net::tls::ocsp::stapling::Ignored;
use crate::net::tls::watch::{Pair, Trusted};
use crate::script::registry::Variables;
use crate::shared::tls::in_force;
use crate::shm::counter::Slot;
use crate::shm::named::Used;
use crate::upstream::{Groups, Upstreams};

/// A compiled `stream` block: plain data. A worker leaks it after the fork and refers to it for life. State
/// that changes while serving belongs to the worker ([`Worker`]), or is in shared memory.
#[derive(Debug)]
pub struct Config {
    /// Every address, without duplicates.
    pub listens: Vec<Listen>,
    pub servers: Vec<Server>,
    /// The settings of the block itself.
    pub root: modules::Confs,
    pub variables: Variables<Session>,
    /// The modules' tables for the whole block.
    pub tables: modules::Tables,
    pub upstreams: Groups,
    /// Paths of unix sockets that occur in values (`map`, `set` and similar directives); empty if no
    /// `proxy_pass` has variables.
    pub sockets: HashSet<PathBuf>,
    /// The lines of the configuration's files, to tell where directives are.
    pub places: Places,
    /// True if some `proxy_bind` is `transparent`: the workers need CAP_NET_RAW.
    pub is_transparent: bool,
    /// The base of relative names of certificates.
    pub folder: PathBuf,
    /// The servers' certificates that come from files.
    pub pairs: Vec<Pair>,
    /// The files by which peers' certificates are judged.
    pub trusted: Vec<Trusted>,
    /// `ssl_handshakes_max`
    pub handshakes_max: usize,
}

impl Config {
    /// The listeners that the master opens for these servers.
    pub fn listeners(&self) -> impl Iterator<Item = Listener> {
        self.listens.iter().enumerate().map(|(index, listen)| Listener {
            address: listen.address.clone(),
            options: listen.options.clone(),
            span: Some(listen.span),
            serves: Serves::Stream(index),
        })
    }

    /// The slots of counters in use, for `shm::counter::sweep`.
    pub fn slots(&self) -> impl Iterator<Item = u32> {
        let servers = self.servers.iter().filter_map(|server| server.slot);
        let zones =
            self.tables.status_zone.iter().map(|zone| zone.slot).chain(self.tables.limit_conn.slots());
        servers.chain(zones).map(Slot::index).chain(self.upstreams.slots())
    }

    /// The shared memory zones in use.
    pub fn zones(&self) -> Vec<Used> {
        self.tables.zones()
    }

    /// The certificate of a pair that is in force.
    pub fn certificate(&self, pair: usize) -> Option<Certificate> {
        in_force::certificate(self.pairs.get(pair)?, |server| self.servers.get(server)?.tls.as_ref())
    }

    /// Puts a newer certificate in force for all servers that use this pair. Returns why nothing is stapled
    /// with it although it should be.
    pub fn replace_certificate(&self, pair: usize, certificate: &Certificate) -> Option<Ignored> {
        let pair = self.pairs.get(pair)?;
        in_force::replace(pair, certificate, |server| self.servers.get(server)?.tls.as_ref())
    }

    /// True if a `proxy_pass` with variables may connect to this socket: its path is part of the
    /// configuration's text, or the value is a unix socket whatever the session (`is_literal`) and no variable
    /// leads elsewhere from there. A client must not choose a socket of this machine.
    pub fn may_connect(&self, path: &Path, is_literal: bool) -> bool {
        let climbs = path.components().any(|part| part == std::path::Component::ParentDir);
        self.sockets.contains(path) || is_literal && !climbs
    }
}

// A worker's state must not be in the configuration, which outlives it and is shared with other workers.
const _: () = {
    const fn is_plain<T: Send + Sync>() {}
    is_plain::<Config>();
};

/// A worker's state for a `stream` block: that of its upstream groups, and the names that it has looked up.
#[derive(Debug)]
pub struct Worker {
    pub config: &'static Config,
    pub upstreams: Upstreams,
    pub resolvers: Rc<Resolvers>,
}

impl Worker {
    pub fn new(config: &'static Config) -> Self {
        let resolvers = Rc::<Resolvers>::default();
        let upstreams = Upstreams::new(&config.upstreams);
        Self { config, upstreams, resolvers }
    }
}
