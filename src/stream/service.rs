//! The stream service of one worker: connections come in, and some are handed to other listeners.
//!
//! Touches: sockets that were accepted elsewhere. One per worker, for its whole life.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use crate::log;
use crate::net::datagram::{self as socket, Turn};
use crate::net::handover::{self, MovedSession, MovedTunnel};
use crate::net::tunnel::moved::Arrived;
use crate::net::{Transport, clients, open, room};
use crate::runtime::buffer::Buffer;
use crate::runtime::{self, Io};
use crate::shm::counter::{self, Total};

use crate::stream::datagram::{self, Table};
use crate::stream::moved;
use crate::stream::pipeline;
use crate::stream::proxy::relay;
use crate::stream::{Config, Listen, Session, Worker};
use crate::sys::address::SockAddr;

/// A connection on its way to another listener (`pass`).
pub struct Passed {
    pub transport: Transport,
    pub peer: SockAddr,
    /// The client's bytes that have been read already.
    pub ahead: Buffer,
    /// How often it has been passed on, this time included.
    pub hops: u8,
}

impl fmt::Debug for Passed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Passed").field("peer", &self.peer).field("hops", &self.hops).finish_non_exhaustive()
    }
}

/// Callbacks from the stream service to its worker.
pub struct Hooks {
    /// Gives a session in progress to a worker of the new generation.
    #[allow(clippy::type_complexity, reason = "one hook, named by its field")]
    pub hand_over: Box<dyn Fn(MovedTunnel, Vec<OwnedFd>)>,
    /// Gives a session of datagrams to a worker of the new generation.
    #[allow(clippy::type_complexity, reason = "one hook, named by its field")]
    pub hand_over_session: Box<dyn Fn(MovedSession, OwnedFd)>,
    /// Hands a connection to the listener with this address. The error: there is none.
    #[allow(clippy::type_complexity, reason = "one hook, named by its field")]
    pub pass: Box<dyn Fn(Passed, &SockAddr) -> Result<(), Passed>>,
}

struct Inner {
    worker: Worker,
    hooks: Hooks,
    next_number: Cell<u64>,
    /// The sessions of datagrams, by the index of the listener.
    tables: RefCell<HashMap<usize, Rc<Table>>>,
}

/// The stream service of one worker.
///
/// The worker makes one inside its runtime, and calls [`Service::open`] for each accepted connection; each becomes a
/// task. A copy is one pointer, to state that lives as long as the process.
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
        worker.upstreams.recall();
        Self(Box::leak(Box::new(Inner {
            worker,
            hooks,
            next_number: Cell::new(1),
            tables: RefCell::default(),
        })))
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
        match Io::register(fd) {
            Ok(io) => {
                let passed = Passed { transport: io.into(), peer, ahead: Buffer::default(), hops: 0 };
                self.take(passed, listen);
            }
            Err(error) => log::error!(
                log::process(),
                &(),
                "epoll_ctl() failed for a client connection {}",
                log::Cause(&error)
            ),
        }
        counter::add(Total::Handled, 1);
    }

    /// Serves a connection that another listener has passed on to this one.
    pub fn take(self, passed: Passed, listen: usize) {
        let listen: &'static Listen = &self.config().listens[listen];
        let number = self.number();
        let Passed { transport, peer, ahead, hops } = passed;
        let mut local = listen.address.clone();
        if listen.is_wildcard() || hops > 0 {
            local = transport.local_addr().unwrap_or(local);
        }
        let mut session = Session::new(self.worker(), listen, number, peer, local);
        session.enter_server();
        session.probe = transport.probe();
        session.preread = ahead;
        session.hops = hops;
        let client = clients::Client::new(number, clients::Protocol::Tcp, session.probe);
        runtime::spawn(pipeline::serve(self, transport, Box::new(session), open::Guard::new(client)));
    }

    /// The number of the next session.
    pub fn number(self) -> u64 {
        let number = self.0.next_number.get();
        self.0.next_number.set(number + 1);
        number
    }

    /// Serves the datagrams that a socket of `config.listens[listen]` receives, as long as `turn` says so.
    pub fn receive(self, fd: OwnedFd, listen: usize, turn: impl Fn() -> Turn + 'static) {
        let Some(socket) = socket::register(fd) else { return };
        let make = || Table::new(Rc::clone(&socket));
        let table = Rc::clone(self.0.tables.borrow_mut().entry(listen).or_insert_with(make));
        let listen: &'static Listen = &self.config().listens[listen];
        runtime::spawn(datagram::receive(self, (socket, table), listen, turn));
    }

    /// Goes on with a session of datagrams of an older worker, at the listener `config.listens[listen]`. False: its state
    /// is damaged, or this worker has no socket of the listener.
    pub fn adopt_session(self, session: MovedSession, fd: OwnedFd, listen: usize) -> bool {
        let table = self.0.tables.borrow().get(&listen).map(Rc::clone);
        let listen: &'static Listen = &self.config().listens[listen];
        table.is_some_and(|table| datagram::resume(self, &table, listen, session, fd).is_some())
    }

    /// Gives a session of datagrams away.
    pub fn hand_over_session(self, session: MovedSession, fd: OwnedFd) {
        (self.0.hooks.hand_over_session)(session, fd);
    }

    /// Goes on with a session of an older worker, at the listener `config.listens[listen]`. False: its state is damaged.
    pub fn adopt(self, arrived: Arrived, listen: usize) -> bool {
        let listen: &'static Listen = &self.config().listens[listen];
        let Some(relaying) = moved::resume(self, arrived, listen) else { return false };
        let number = relaying.descriptor();
        runtime::spawn(relay::run(relaying));
        number.into_iter().for_each(room::client_has_come);
        true
    }

    /// Gives a session away.
    pub fn hand_over(self, tunnel: MovedTunnel, fds: Vec<OwnedFd>) {
        (self.0.hooks.hand_over)(tunnel, fds);
    }

    /// The index of one of the configuration's listeners, for messages to the master.
    pub fn listen_index(self, listen: &'static Listen) -> u32 {
        // By its position: there may be thousands of listeners, and as many sessions to hand over.
        let index = self.config().listens.element_offset(listen);
        index.and_then(|index| u32::try_from(index).ok()).unwrap_or(handover::NO_LISTENER)
    }

    /// Hands a connection to another listener.
    pub fn pass(self, passed: Passed, address: &SockAddr) -> Result<(), Passed> {
        (self.0.hooks.pass)(passed, address)
    }
}
