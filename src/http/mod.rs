//! HTTP: servers, locations, the request pipeline and its modules.

pub mod begin;
pub mod client;
pub mod config;
pub mod downstream;
pub mod h1;
pub mod h2;
pub mod h3;
pub mod handshake;
pub mod modules;
pub mod nesting;
pub mod pipeline;
#[cfg(any(test, feature = "property"))]
pub mod property;
pub mod request;
pub mod response;
pub mod satisfy;
pub mod scope;
pub mod send_file;
pub mod service;
pub mod streams;
pub mod temp_file;
pub mod tunnel;
pub mod upstream;
pub mod verdict;

use std::cell::{OnceCell, RefCell};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;

pub use config::assemble::compile;
pub use config::server::{Listen, Server};
pub use service::{Hooks, Service};

use crate::config::Places;
use crate::net::listener::{Listener, Serves};
use crate::net::resolver::Resolvers;
use crate::net::tls::certificate::Certificate;
use crate::net::tls::ocsp::stapling::Ignored;
use crate::net::tls::watch::{Pair, Trusted};
use crate::proto::uri::LastHost;
use crate::script::keyval::Declared;
use crate::script::registry::Variables;
pub use crate::shared::CompileOptions;
use crate::shared::control::Desk;
use crate::shared::status_zone::Zones;
use crate::shared::tls::in_force;
use crate::shared::zone;
use crate::shm::counter::{self, Slot};
use crate::shm::named::Used;
use crate::upstream::otlp::Exporter;
use crate::upstream::{Groups, Upstreams};

/// A compiled `http` block: plain data. A worker leaks it after the fork and refers to it for life. State
/// that changes while serving belongs to the worker ([`Worker`]), or is in shared memory.
#[derive(Debug)]
pub struct Config {
    /// Every address, without duplicates.
    pub listens: Vec<Listen>,
    /// The longest `keepalive_timeout` of any location.
    pub keepalive_ms_max: u64,
    pub servers: Vec<Server>,
    /// The settings of the `http` block itself.
    pub root: modules::Confs,
    pub variables: Variables<request::Request>,
    /// The modules' tables for the whole block.
    pub tables: modules::Tables,
    pub upstreams: Groups,
    /// Paths of unix sockets that occur in values (`map`, `set` and similar directives); empty if no
    /// `proxy_pass` has variables.
    pub sockets: HashSet<PathBuf>,
    pub prefix: PathBuf,
    /// The base of relative names of certificates.
    pub folder: PathBuf,
    /// The lines of the configuration's files, to tell where directives are.
    pub places: Places,
    /// It is the server of the control socket.
    pub is_control: bool,
    /// Time at which it was read, in seconds since 1970.
    pub loaded_s: i64,
    /// The files of the whole configuration with their contents; kept only if there is a control socket.
    pub sources: Vec<(String, String)>,
    /// True if some `proxy_bind` is `transparent`: the workers need CAP_NET_RAW.
    pub is_transparent: bool,
    /// True if requests are not logged by default: no log is configured, and the prefix has no directory for
    /// one.
    pub is_unlogged: bool,
    /// Directories for temporary files, to be made before serving starts.
    pub folders: Vec<PathBuf>,
    /// An optional one: without it, bodies that may have to be sent twice are streamed.
    pub wanted_folder: Option<PathBuf>,
    /// The default of `client_body_temp_path`.
    pub client_body_temp_path: temp_file::TempPath,
    /// The servers' certificates that come from files.
    pub pairs: Vec<Pair>,
    /// The files by which peers' certificates are judged.
    pub trusted: Vec<Trusted>,
}

impl Config {
    /// The listeners that the master opens for these servers.
    pub fn listeners(&self) -> impl Iterator<Item = Listener> {
        self.listens.iter().enumerate().map(|(index, listen)| Listener {
            address: listen.address.clone(),
            options: listen.options.clone(),
            span: listen.span,
            serves: Serves::Http(index),
        })
    }

    /// The slots of counters in use, for `shm::counter::sweep`.
    pub fn slots(&self) -> impl Iterator<Item = u32> {
        let servers = self.servers.iter().filter_map(|server| server.slot);
        let zones = self.tables.status_zone.iter().map(|zone| zone.slot);
        let limits = self.tables.limit_req.slots().chain(self.tables.limit_conn.slots());
        let caches = self.tables.cache.iter().flat_map(|zone| zone.counts.slots());
        servers
            .chain(zones)
            .chain(limits)
            .chain(caches)
            .map(counter::Slot::index)
            .chain(self.upstreams.slots())
    }

    /// True if a `proxy_pass` with variables may connect to this socket: its path is part of the
    /// configuration's text, or the value is a unix socket by configuration (`is_literal`: it starts with
    /// `unix:` whatever the request) and no variable leads elsewhere from there. A client must not choose a
    /// socket of this machine.
    pub fn may_connect(&self, path: &Path, is_literal: bool) -> bool {
        let climbs = path.components().any(|part| part == std::path::Component::ParentDir);
        self.sockets.contains(path) || is_literal && !climbs
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

    /// The shared memory zones in use.
    pub fn zones(&self) -> Vec<Used> {
        self.tables.zones()
    }
}

// A worker's state must not be in the configuration, which outlives it and is shared with other workers.
const _: () = {
    const fn is_plain<T: Send + Sync>() {}
    is_plain::<Config>();
};

/// A worker's state for an `http` block: that of its upstream groups, and the names that it has looked up.
#[derive(Debug)]
pub struct Worker {
    pub config: &'static Config,
    pub upstreams: Upstreams,
    pub resolvers: Rc<Resolvers>,
    /// Where the orders of operators go.
    pub desk: Desk,
    /// The things that the control interface shows besides this worker; set once, if there is anything.
    pub shown: OnceCell<Shown>,
    /// The host that the last request has named.
    pub last_host: RefCell<LastHost>,
    /// The spans of traced requests, once there is one; `None` inside: they go nowhere.
    exporter: OnceCell<Option<Rc<Exporter>>>,
}

/// The things that the control interface shows and changes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shown {
    /// The worker whose upstreams it is about; `None`: the one that is asked.
    pub http: Option<&'static Worker>,
    pub stream: Option<Streams>,
    pub mail: Option<Mail>,
}

impl Shown {
    /// The part of the status page that other language parts provide: plain data, for other threads.
    pub fn others(self) -> Others {
        Others { stream_zones: self.stream.map(|stream| stream.zones), mail: self.mail }
    }
}

/// The things besides the `http` block whose numbers are shown.
#[derive(Clone, Copy, Debug)]
pub struct Others {
    pub stream_zones: Option<&'static Zones>,
    pub mail: Option<Mail>,
}

/// The part of it that is about the `stream` block.
#[derive(Clone, Copy, Debug)]
pub struct Streams {
    pub upstreams: &'static Upstreams,
    /// Its servers that are counted.
    pub servers: &'static [Counted],
    pub keyvals: &'static [Declared],
    pub zones: &'static Zones,
    pub limit_conns: &'static [zone::Shown],
}

/// The part of it that is about the `mail` block.
#[derive(Clone, Copy, Debug)]
pub struct Mail {
    pub servers: &'static [MailServer],
    pub zones: &'static Zones,
}

/// A server of mail with its counters.
#[derive(Debug)]
pub struct MailServer {
    /// imap, pop3 or smtp.
    pub protocol: &'static str,
    pub counted: Counted,
}

/// A server with its counters.
#[derive(Debug)]
pub struct Counted {
    pub name: Box<str>,
    pub address: Box<str>,
    pub slot: Slot,
}

impl Worker {
    pub fn new(config: &'static Config) -> Self {
        let resolvers = Rc::<Resolvers>::default();
        let upstreams = Upstreams::new(&config.upstreams);
        Self {
            config,
            upstreams,
            resolvers,
            desk: Desk::default(),
            shown: OnceCell::new(),
            last_host: RefCell::default(),
            exporter: OnceCell::new(),
        }
    }

    /// Where the spans of traced requests go; `None`: nowhere.
    pub fn exporter(&'static self) -> Option<&'static Rc<Exporter>> {
        let start = || {
            let target = self.config.tables.otel.0.as_ref()?;
            let group = self.upstreams.get(target.group)?;
            Some(Exporter::start(target, Rc::clone(group), self.config.root.http_core.log()))
        };
        self.exporter.get_or_init(start).as_ref()
    }

    /// Called when everything in the worker has ended.
    pub fn end(&self) {
        if let Some(Some(exporter)) = self.exporter.get() {
            exporter.end();
        }
    }
}

#[cfg(test)]
mod tests;
