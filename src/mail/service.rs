//! The mail service of one worker: connections come in.
//!
//! Touches: sockets that were accepted elsewhere. One per worker, for its whole life.

use std::fmt;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use crate::log;
use crate::mail::{Config, Listen, Session, pipeline, relay};
use crate::net::handover::{self, MovedTunnel};
use crate::net::resolver::Resolvers;
use crate::net::transport::Transport;
use crate::net::tunnel::moved::Arrived;
use crate::net::{clients, open, room};
use crate::runtime::{self, Io};
use crate::shm::counter::{self, Total};
use crate::sys::address::SockAddr;

/// Callbacks from the mail service to its worker.
pub struct Hooks {
    /// Gives a session that has logged in to a worker of the new generation.
    #[allow(clippy::type_complexity, reason = "one hook, named by its field")]
    pub hand_over: Box<dyn Fn(MovedTunnel, Vec<OwnedFd>)>,
    /// The number of the next session. Those of `stream` have the same numbers.
    pub number: Box<dyn Fn() -> u64>,
}

struct Inner {
    config: &'static Config,
    hooks: Hooks,
    resolvers: Rc<Resolvers>,
}

/// The mail service of one worker.
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
        Self(Box::leak(Box::new(Inner { config, hooks, resolvers: Rc::default() })))
    }

    pub fn config(self) -> &'static Config {
        self.0.config
    }

    /// This worker's name servers.
    pub fn resolvers(self) -> &'static Resolvers {
        &self.0.resolvers
    }

    /// Serves a connection that `config.listens[listen]` has accepted.
    pub fn open(self, fd: OwnedFd, peer: SockAddr, listen: usize) {
        counter::add(Total::Accepted, 1);
        match Io::register(fd) {
            Ok(io) => self.take(io.into(), peer, &self.config().listens[listen]),
            Err(error) => log::error!(
                log::process(),
                &(),
                "epoll_ctl() failed for a client connection {}",
                log::Cause(&error)
            ),
        }
        counter::add(Total::Handled, 1);
    }

    fn take(self, transport: Transport, peer: SockAddr, listen: &'static Listen) {
        let mut local = listen.address.clone();
        if listen.is_wildcard() {
            local = transport.local_addr().unwrap_or(local);
        }
        let number = self.number();
        let session = Box::new(Session::new(self.config(), listen, number, peer, local));
        let protocol = session.server.terms.protocol.of_clients();
        let client = clients::Client::new(number, protocol, transport.probe());
        runtime::spawn(pipeline::serve(self, transport, session, open::Guard::new(client)));
    }

    /// The number of the next session.
    pub fn number(self) -> u64 {
        (self.0.hooks.number)()
    }

    /// Goes on with a session of an older worker, at the listener `config.listens[listen]`. False: its state is damaged.
    pub fn adopt(self, arrived: Arrived, listen: usize) -> bool {
        let Some(relaying) = relay::resume(self, arrived, &self.config().listens[listen]) else {
            return false;
        };
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
        let index = self.config().listens.element_offset(listen);
        index.and_then(|index| u32::try_from(index).ok()).unwrap_or(handover::NO_LISTENER)
    }
}
