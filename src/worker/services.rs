//! The services of a worker, one for each protocol, and the listeners that say which of them a connection is for.

use std::os::fd::OwnedFd;

use crate::cycle::Config;
use crate::http::upstream::probe::Prober;
use crate::http::{self, Hooks};
use crate::net::handover::Handover;
use crate::net::listener::{Listener, Serves};
use crate::sys::address::SockAddr;
use crate::upstream::follow::Tell;
use crate::upstream::known::Spot;

/// The destination of a worker's connections.
///
/// A listener's index is the one it has in the whole configuration: slots and messages name it so. A service knows its
/// own listeners only, and counts them for itself.
#[derive(Clone, Copy, Debug)]
pub struct Services {
    listeners: &'static [Listener],
    http: http::Service,
}

/// Starts to check the servers of upstreams, and to look their names up. Called once, inside the runtime of the process
/// that does it; `tell` gets news about names. `None`: the configuration has no upstreams.
pub fn probe(config: &'static Config, tell: &Tell) -> Option<Prober> {
    Some(http::upstream::probe::start(config.http.as_ref()?, tell))
}

impl Services {
    /// Called once per worker, inside its runtime. `None`: the configuration serves nothing.
    pub fn new(config: &'static Config, hooks: Hooks) -> Option<Self> {
        let hand_over = hooks.hand_over;
        let hand_over = move |fd, handover: &Handover| {
            let listen = config.listener_index(Serves::Http(handover.listen as usize));
            let listen = u32::try_from(listen).unwrap_or(u32::MAX);
            hand_over(fd, &Handover { listen, ..handover.clone() })
        };
        let hooks = Hooks { hand_over: Box::new(hand_over) };
        let http = http::Service::new(config.http.as_ref()?, hooks);
        Some(Self { listeners: config.listeners(), http })
    }

    /// Takes over the addresses of a server's name.
    pub fn learn(self, group: usize, server: usize, spots: &[Spot]) {
        self.http.worker().upstreams.learn(group, server, spots);
    }

    /// Serves a connection that this listener has accepted.
    pub fn open(self, fd: OwnedFd, peer: SockAddr, listener: usize) {
        match self.listeners[listener].serves {
            Serves::Http(listen) => self.http.open(fd, peer, listen),
        }
    }

    /// Takes over an idle connection of another worker; closes it if its listener does not exist any more.
    pub fn adopt(self, fd: OwnedFd, handover: &Handover) {
        let Some(listener) = self.listeners.get(handover.listen as usize) else { return };
        match listener.serves {
            Serves::Http(listen) => {
                let listen = u32::try_from(listen).unwrap_or(u32::MAX);
                self.http.adopt(fd, &Handover { listen, ..handover.clone() });
            }
        }
    }
}
