//! Mail: servers that log clients of IMAP, POP3 and SMTP in, and then pass them on.
//!
//! ```text
//! configuration    config/ → modules (rows, settings) → Config
//! one worker       service: connections → session → pipeline: dialogue ⇄ auth (auth_http) → upstream → relay
//! ```
//!
//! The dialogue with a client, the question to the authentication server and the login at the client's server are values
//! (`dialogue/`, `proto/mail_auth.rs`, `login.rs`); the pipeline waits for all of them.

pub mod auth;
pub mod client_name;
pub mod config;
pub mod dialogue;
pub mod handshake;
pub mod login;
pub mod modules;
pub mod pipeline;
pub mod protocol;
pub mod relay;
pub mod scope;
pub mod service;
pub mod session;
pub mod upstream;

pub use config::assemble::compile;
pub use config::server::{Listen, Server};
pub use service::{Hooks, Service};
pub use session::Session;

use crate::config::Places;
use crate::net::listener::{Listener, Serves};
use crate::net::tls::certificate::Certificate;
use crate::net::tls::ocsp::stapling::Ignored;
use crate::net::tls::watch::{Pair, Trusted};
use crate::script::registry::Variables;
use crate::shared::status_zone::Zones;
use crate::shared::tls::in_force;
use crate::shm::counter::Slot;
use crate::shm::named::Used;

/// A compiled `mail` block: plain data. A worker leaks it after the fork and refers to it for life.
#[derive(Debug)]
pub struct Config {
    /// Every address; each belongs to one server.
    pub listens: Vec<Listen>,
    pub servers: Vec<Server>,
    /// There are none: mail has no variables.
    pub variables: Variables<Session>,
    /// The modules' tables for the whole block.
    pub tables: modules::Tables,
    /// The counts of resolvers.
    pub zones: Zones,
    /// The lines of the configuration's files, to tell where directives are.
    pub places: Places,
    /// The servers' certificates that come from files.
    pub pairs: Vec<Pair>,
    /// The files by which clients' certificates are judged.
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
            serves: Serves::Mail(index),
        })
    }

    /// The slots of counters in use, for `shm::counter::sweep`.
    pub fn slots(&self) -> impl Iterator<Item = u32> {
        let servers = self.servers.iter().filter_map(|server| server.slot);
        servers.chain(self.zones.iter().map(|zone| zone.slot)).map(Slot::index)
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
}

// A worker's state must not be in the configuration, which outlives it and is shared with other workers.
const _: () = {
    const fn is_plain<T: Send + Sync>() {}
    is_plain::<Config>();
};
