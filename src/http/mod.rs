//! HTTP: servers, locations, the request pipeline and its modules.

pub mod client;
pub mod config;
pub mod downstream;
pub mod h1;
pub mod modules;
pub mod pipeline;
#[cfg(any(test, feature = "property"))]
pub mod property;
pub mod request;
pub mod response;
pub mod satisfy;
pub mod scope;
pub mod temp_file;
pub mod tunnel;
pub mod upstream;
pub mod verdict;

use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

pub use config::compile::{CompileOptions, compile};
pub use config::server::{Listen, Server};

use crate::config::Places;
use crate::log;
use crate::net::handover::Handover;
use crate::net::listener::{Listener, Serves};
use crate::net::resolver::Resolvers;
use crate::net::room;
use crate::runtime;
use crate::script::registry::Variables;
use crate::shm::counter::{self, Total};
use crate::sys::address::SockAddr;
use crate::sys::socket;
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
    /// The tables of `limit_req` and `limit_conn`.
    pub limit_req: Vec<modules::limit_req::Zone>,
    pub limit_conn: Vec<modules::limit_conn::Zone>,
    pub upstreams: Groups,
    /// The durations of requests and of their upstreams, for all servers together.
    pub durations: modules::counters::Durations,
    /// Paths of unix sockets that occur in values (`map`, `set` and similar directives); empty if no
    /// `proxy_pass` has variables.
    pub sockets: HashSet<PathBuf>,
    pub prefix: PathBuf,
    /// The lines of the configuration's files, to tell where directives are.
    pub places: Places,
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
        servers.map(counter::Slot::index).chain(self.upstreams.slots())
    }

    /// True if a `proxy_pass` with variables may connect to this socket: its path is part of the
    /// configuration's text, or the value is a unix socket by configuration (`is_literal`: it starts with
    /// `unix:` whatever the request) and no variable leads elsewhere from there. A client must not choose a
    /// socket of this machine.
    pub fn may_connect(&self, path: &Path, is_literal: bool) -> bool {
        let climbs = path.components().any(|part| part == std::path::Component::ParentDir);
        self.sockets.contains(path) || is_literal && !climbs
    }

    /// The names of the shared memory zones in use, for `shm::named::sweep`.
    pub fn zones(&self) -> impl Iterator<Item = u64> {
        let rates = self.limit_req.iter().map(|zone| zone.id);
        rates.chain(self.limit_conn.iter().map(|zone| zone.id))
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
}

impl Worker {
    pub fn new(config: &'static Config) -> Self {
        let resolvers = Rc::<Resolvers>::default();
        let upstreams = Upstreams::new(&config.upstreams, Rc::clone(&resolvers));
        Self { config, upstreams, resolvers }
    }
}

/// Callbacks from the HTTP service to its worker.
pub struct Hooks {
    /// Gives an idle connection to a worker of the new generation. The descriptor is returned if it cannot be
    /// handed over.
    #[allow(clippy::type_complexity, reason = "one hook, named by its field")]
    pub hand_over: Box<dyn Fn(OwnedFd, &Handover) -> Result<(), OwnedFd>>,
    /// Reports new addresses of an upstream's name, for workers that start later.
    pub learned: crate::upstream::follow::Tell,
}

struct Inner {
    worker: Worker,
    hooks: Hooks,
    next_number: Cell<u64>,
}

/// The HTTP service of one worker.
///
/// The worker makes one inside its runtime, and calls [`Service::open`] for each accepted connection and
/// [`Service::adopt`] for each one handed over by an older worker; each becomes a task. A copy is one
/// pointer, to state that lives as long as the process.
#[derive(Clone, Copy)]
pub struct Service(&'static Inner);

impl fmt::Debug for Service {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Service")
    }
}

impl Service {
    /// Called once per worker, inside its runtime.
    pub fn new(config: &'static Config, hooks: Hooks) -> Self {
        let worker = Worker::new(config);
        worker.upstreams.start(&hooks.learned);
        Self(Box::leak(Box::new(Inner { worker, hooks, next_number: Cell::new(1) })))
    }

    pub fn config(self) -> &'static Config {
        self.0.worker.config
    }

    /// The state of this worker.
    pub fn worker(self) -> &'static Worker {
        &self.0.worker
    }

    /// Serves a connection that `config.listens[listen]` has accepted.
    pub fn open(self, fd: OwnedFd, peer: SockAddr, listen: usize) {
        counter::add(Total::Accepted, 1);
        if let Some(conn) = self.connection(fd, peer, &self.config().listens[listen]) {
            counter::add(Total::Handled, 1);
            runtime::spawn(h1::serve(conn));
        }
    }

    /// Continues with an idle connection from a worker of an older generation; `handover.listen` is an index
    /// into this configuration.
    ///
    /// The older worker may still have the socket, and may be hostile. The mode of the socket is set again
    /// here, and no call on a connection relies on it (`runtime/io.rs`).
    pub fn adopt(self, fd: OwnedFd, handover: &Handover) {
        let Some(listen) = self.config().listens.get(handover.listen as usize) else { return };
        if socket::set_nonblocking(fd.as_fd()).is_err() {
            return;
        }
        let number = fd.as_raw_fd();
        let peer = socket::peer_addr(&fd).unwrap_or(SockAddr::Unix(PathBuf::new()));
        if let Some(conn) = self.connection(fd, peer, listen).and_then(|conn| conn.adopted(handover)) {
            runtime::spawn(h1::serve(conn));
            room::client_has_come(number);
        }
    }

    /// The index of one of the configuration's listeners, for messages to the master.
    fn listen_index(self, listen: &'static Listen) -> u32 {
        // By its position: there may be thousands of listeners, and as many connections to hand over.
        let index = self.config().listens.element_offset(listen);
        index.and_then(|index| u32::try_from(index).ok()).unwrap_or(u32::MAX)
    }

    /// Gives an idle connection away.
    pub fn hand_over(self, fd: OwnedFd, handover: &Handover) -> Result<(), OwnedFd> {
        (self.0.hooks.hand_over)(fd, handover)
    }

    fn connection(self, fd: OwnedFd, peer: SockAddr, listen: &'static Listen) -> Option<h1::Conn> {
        let number = self.0.next_number.get();
        self.0.next_number.set(number + 1);
        match h1::Conn::open(fd, self, listen, peer, number) {
            Ok(conn) => Some(conn),
            Err(error) => {
                log::error!(
                    log::process(),
                    &(),
                    "epoll_ctl() failed for a client connection {}",
                    log::Cause(&error)
                );
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
