//! The services of a worker, one for each protocol, and the listeners that say which of them a connection is for.

use std::os::fd::OwnedFd;

use crate::cycle::Config;
use crate::http::upstream::probe::Prober;
use crate::http::{self, Hooks};
use crate::net::handover::Handover;
use crate::net::listener::{Listener, Serves};
use crate::shared::control::Desk;
use crate::shm::counter::Slot;
use crate::shm::peers::Place;
use crate::sys::address::SockAddr;
use crate::upstream::follow::Tell;
use crate::upstream::known::Spot;
use crate::upstream::peer::{Server, Shared};
use crate::upstream::{Upstreams, block};
use crate::worker::messages::Edited;

/// The destination of a worker's connections.
///
/// A listener's index is the one it has in the whole configuration: slots and messages name it so. A service knows its
/// own listeners only, and counts them for itself.
#[derive(Clone, Copy, Debug)]
pub struct Services {
    listeners: &'static [Listener],
    http: http::Service,
    /// The state of the upstreams that the clients of `http` use or, in the controller, see.
    upstreams: &'static http::Worker,
}

/// Starts to check the servers of upstreams, and to look their names up. Called once, inside the runtime of the process
/// that does it; `tell` gets news about names. `None`: the configuration has no upstreams.
pub fn probe(config: &'static Config, tell: &Tell) -> Option<Prober> {
    Some(http::upstream::probe::start(config.http.as_ref()?, tell))
}

/// Takes over a server that was changed.
pub fn edit(upstreams: &Upstreams, edited: &Edited) -> bool {
    let Ok(server) = block::server(edited.line.split(' '), Some(80)) else { return false };
    let server = Server { id: edited.id, ..server };
    let server = if edited.is_removed { server.removed() } else { server };
    let shared = |(slot, place): &(Option<u32>, Option<u32>)| Shared {
        slot: slot.and_then(Slot::of_index),
        place: place.and_then(Place::of_index),
    };
    let shared = edited.shared.iter().map(shared).collect();
    upstreams.edit(edited.group as usize, edited.position as usize, server, shared)
}

impl Services {
    /// Called once per worker, inside its runtime. `None`: the configuration serves nothing.
    pub fn new(config: &'static Config, hooks: Hooks, desk: Desk) -> Option<Self> {
        let hand_over = hooks.hand_over;
        let hand_over = move |fd, handover: &Handover| {
            let listen = config.listener_index(Serves::Http(handover.listen as usize));
            let listen = u32::try_from(listen).unwrap_or(u32::MAX);
            hand_over(fd, &Handover { listen, ..handover.clone() })
        };
        let hooks = Hooks { hand_over: Box::new(hand_over) };
        let http = http::Service::with_orders(config.http.as_ref()?, hooks, desk, None);
        Some(Self { listeners: config.listeners(), http, upstreams: http.worker() })
    }

    /// Serves operators, in the controller. `None`: there is no control socket.
    pub fn for_operators(config: &'static Config, desk: Desk) -> Option<Self> {
        // The connections of operators do not move to another process.
        let hooks = Hooks { hand_over: Box::new(|fd, _| Err(fd)) };
        let subject: Option<&'static http::Worker> = config.http.as_ref().map(|http| {
            let worker = http::Worker::new(http);
            worker.upstreams.recall();
            &*Box::leak(Box::new(worker))
        });
        let http = http::Service::with_orders(config.control.as_ref()?, hooks, desk, subject);
        Some(Self { listeners: config.listeners(), http, upstreams: subject.unwrap_or(http.worker()) })
    }

    /// Takes over the addresses of a server's name.
    pub fn learn(self, group: usize, server: usize, spots: &[Spot]) {
        self.upstreams.upstreams.learn(group, server, spots);
    }

    /// Takes over a server that was changed. False if this process is out of step with the master's configuration.
    pub fn edit(self, edited: &Edited) -> bool {
        edit(&self.upstreams.upstreams, edited)
    }

    /// Serves a connection that this listener has accepted.
    pub fn open(self, fd: OwnedFd, peer: SockAddr, listener: usize) {
        match self.listeners[listener].serves {
            Serves::Http(listen) | Serves::Control(listen) => self.http.open(fd, peer, listen),
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
            Serves::Control(_) => {} // they do not move
        }
    }
}
