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

/// A compiled `http` block: plain data. A worker leaks it after the fork and refers to it for life; what changes while
/// serving is the worker's own ([`Worker`]), or in shared memory.
#[derive(Debug)]
pub struct Config {
    /// Every address once.
    pub listens: Vec<Listen>,
    /// The longest `keepalive_timeout` of any location.
    pub keepalive_ms_max: u64,
    pub servers: Vec<Server>,
    /// The settings of the `http` block itself.
    pub root: modules::Confs,
    pub variables: Variables<request::Request>,
    /// What `limit_req` and `limit_conn` count in.
    pub limit_req: Vec<modules::limit_req::Zone>,
    pub limit_conn: Vec<modules::limit_conn::Zone>,
    pub upstreams: Groups,
    /// How long requests and their upstreams take, of all servers together.
    pub durations: modules::counters::Durations,
    /// Paths of unix sockets that values are written with (`map`, `set` and their like); empty where no `proxy_pass` has
    /// variables.
    pub sockets: HashSet<PathBuf>,
    pub prefix: PathBuf,
    /// The lines of the configuration's files, to name directives by.
    pub places: Places,
    /// Some `proxy_bind` is `transparent`: the workers need CAP_NET_RAW.
    pub is_transparent: bool,
    /// Requests are not logged where nothing else is said: no log is named, and the prefix has no folder for one.
    pub is_unlogged: bool,
    /// Directories for temporary files, to be made before anything is served.
    pub folders: Vec<PathBuf>,
    /// One more, which can be done without: bodies that may have to be sent twice stream where it is missing.
    pub wanted_folder: Option<PathBuf>,
    /// Where request bodies go if no `client_body_temp_path` says otherwise.
    pub client_body_temp_path: temp_file::TempPath,
}

impl Config {
    /// What the master listens on for these servers.
    pub fn listeners(&self) -> impl Iterator<Item = Listener> {
        self.listens.iter().enumerate().map(|(index, listen)| Listener {
            address: listen.address.clone(),
            options: listen.options.clone(),
            span: listen.span,
            serves: Serves::Http(index),
        })
    }

    /// The numbers of the counters' slots in use, for `shm::counter::sweep`.
    pub fn slots(&self) -> impl Iterator<Item = u32> {
        let servers = self.servers.iter().filter_map(|server| server.slot);
        servers.map(counter::Slot::index).chain(self.upstreams.slots())
    }

    /// Whether a `proxy_pass` with variables may go to this socket: the configuration has its path as text, or says itself
    /// that it is one (`is_literal`: the value begins with `unix:` whatever the request) and no variable leads elsewhere
    /// from there. A client must not choose a socket of this machine.
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

// Nothing of a worker's state may be in the configuration, which outlives it and is shared with others.
const _: () = {
    const fn is_plain<T: Send + Sync>() {}
    is_plain::<Config>();
};

/// What one worker owns for an `http` block: the state of its upstreams' groups, and the names that it has looked up.
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

/// What the worker gives to its HTTP service.
pub struct Hooks {
    /// Gives an idle connection to a worker of the new generation. The descriptor comes back when nobody takes it.
    #[allow(clippy::type_complexity, reason = "one hook, named by its field")]
    pub hand_over: Box<dyn Fn(OwnedFd, &Handover) -> Result<(), OwnedFd>>,
    /// Tells where a name of an upstream leads now, for the workers that come.
    pub learned: crate::upstream::follow::Tell,
}

struct Inner {
    worker: Worker,
    hooks: Hooks,
    next_number: Cell<u64>,
}

/// The HTTP service of one worker.
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

    /// What this worker owns.
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

    /// Goes on with an idle connection that a worker of an older generation has handed over; `handover.listen` counts
    /// in this configuration.
    ///
    /// The older worker may still hold the socket, and it may be hostile. The mode is set here once more, and no call on
    /// a connection relies on it (`runtime/io.rs`).
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

    /// The index of one of the configuration's listeners, for the master.
    fn listen_index(self, listen: &'static Listen) -> u32 {
        // By where it lies: there may be thousands of listeners, and as many connections to hand over.
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
