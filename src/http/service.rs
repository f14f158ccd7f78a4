//! The HTTP service of one worker: connections come in, are taken over, and are handed over.
//!
//! Touches: sockets that were accepted elsewhere. One per worker, for its whole life.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;

use crate::http::{Config, Listen, Shown, Worker, h1, h3, tunnel};
use crate::log;
use crate::net::datagram::{self, Turn};
use crate::net::handover::{Handover, MovedTunnel};
use crate::net::quic::Post;
use crate::net::transport::Probe;
use crate::net::tunnel::moved::Arrived;
use crate::net::{Transport, room};
use crate::runtime;
use crate::runtime::buffer::Buffer;
use crate::shared::control::Desk;
use crate::shm::counter::{self, Total};
use crate::sys::address::SockAddr;
use crate::sys::socket;

/// Callbacks from the HTTP service to its worker.
pub struct Hooks {
    /// Gives an idle connection to a worker of the new generation. The descriptor is returned if it cannot be
    /// handed over.
    #[allow(clippy::type_complexity, reason = "one hook, named by its field")]
    pub hand_over: Box<dyn Fn(OwnedFd, &Handover) -> Result<(), OwnedFd>>,
    /// Gives a tunnel to a worker of the new generation.
    #[allow(clippy::type_complexity, reason = "one hook, named by its field")]
    pub hand_over_tunnel: Box<dyn Fn(MovedTunnel, Vec<OwnedFd>)>,
}

struct Inner {
    worker: Worker,
    hooks: Hooks,
    next_number: Cell<u64>,
    /// Those of QUIC, by their indexes.
    listeners: RefCell<HashMap<usize, Rc<h3::Listener>>>,
    /// Where datagrams of QUIC come in that other processes pass on.
    post: OnceCell<Option<Rc<Post>>>,
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
        Self::with_orders(config, hooks, Desk::default())
    }

    /// The same for a service whose clients may give orders.
    pub fn with_orders(config: &'static Config, hooks: Hooks, desk: Desk) -> Self {
        let worker = Worker { desk, ..Worker::new(config) };
        worker.upstreams.recall();
        Self(Box::leak(Box::new(Inner {
            worker,
            hooks,
            next_number: Cell::new(1),
            listeners: RefCell::default(),
            post: OnceCell::new(),
        })))
    }

    pub fn config(self) -> &'static Config {
        self.0.worker.config
    }

    /// Sets what the control interface shows. Called once, before any connection is served.
    pub fn show(self, shown: Shown) {
        let _ = self.0.worker.shown.set(shown);
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

    /// Serves a connection that a listener of another protocol has accepted for this one. `ahead`: the client's bytes
    /// that have been read already.
    pub fn take(self, transport: Transport, peer: SockAddr, ahead: Buffer, listen: usize) {
        let number = self.next_number();
        let conn = h1::Conn::new(transport, self, &self.config().listens[listen], peer, number);
        runtime::spawn(h1::serve(conn.with_ahead(ahead)));
    }

    /// Serves the QUIC clients whose datagrams a socket of `config.listens[listen]` receives, as long as `turn` says so.
    pub fn receive(self, fd: OwnedFd, listen: usize, turn: impl Fn() -> Turn + 'static) {
        let Some(socket) = datagram::register(fd) else { return };
        let post = self.0.post.get_or_init(|| self.open_post()).clone();
        let mut listeners = self.0.listeners.borrow_mut();
        let make = || h3::Listener::new(self, &self.config().listens[listen], Rc::clone(&socket), post);
        let listener = Rc::clone(listeners.entry(listen).or_insert_with(make));
        runtime::spawn(listener.receive(socket, turn));
    }

    /// Opens the place for datagrams that other processes pass on, once there is a listener of QUIC.
    fn open_post(self) -> Option<Rc<Post>> {
        let report = |error: &io::Error| {
            let what = "datagrams of QUIC cannot be passed on between workers";
            log::error!(log::process(), &(), "{what} {}", log::Cause(error));
        };
        let post = Rc::new(Post::open(&self.config().root.http3.keys()).inspect_err(report).ok()?);
        let listeners = move || self.0.listeners.borrow().values().map(Rc::clone).collect();
        runtime::spawn(h3::listener::take_post(Rc::clone(&post), listeners));
        Some(post)
    }

    /// The number of the next connection.
    pub fn next_number(self) -> u64 {
        let number = self.0.next_number.get();
        self.0.next_number.set(number + 1);
        number
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
    pub fn listen_index(self, listen: &'static Listen) -> u32 {
        // By its position: there may be thousands of listeners, and as many connections to hand over.
        let index = self.config().listens.element_offset(listen);
        index.and_then(|index| u32::try_from(index).ok()).unwrap_or(u32::MAX)
    }

    /// Gives an idle connection away.
    pub fn hand_over(self, fd: OwnedFd, handover: &Handover) -> Result<(), OwnedFd> {
        (self.0.hooks.hand_over)(fd, handover)
    }

    /// Goes on with a tunnel of an older worker, at the listener `config.listens[listen]`. False: its state is damaged.
    pub fn adopt_tunnel(self, arrived: Arrived, listen: usize) -> bool {
        let number = arrived.client.probe().map(Probe::descriptor);
        let Some(tunnel) = tunnel::resume(self, arrived, &self.config().listens[listen]) else {
            return false;
        };
        runtime::spawn(tunnel::run(tunnel));
        number.into_iter().for_each(room::client_has_come);
        true
    }

    /// Gives a tunnel away.
    pub fn hand_over_tunnel(self, tunnel: MovedTunnel, fds: Vec<OwnedFd>) {
        (self.0.hooks.hand_over_tunnel)(tunnel, fds);
    }

    fn connection(self, fd: OwnedFd, peer: SockAddr, listen: &'static Listen) -> Option<h1::Conn> {
        let number = self.next_number();
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
