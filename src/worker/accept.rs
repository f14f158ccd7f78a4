//! Accepting from the leased slots, and pausing where the worker can hold no more.
//!
//! Touches: listening sockets, which it never closes for others: it stops looking at them. Only where there is no
//! master it ends listening itself.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::task::Poll;

use crate::http::Service;
use crate::log;
use crate::net::open;
use crate::runtime::{self, Acceptor, race, sleep};
use crate::sys::socket;
use crate::worker::control::SlotIndex;

/// How long accepting rests when descriptors or memory have run out and nothing closes meanwhile.
const PAUSE_MS: u64 = 500; // nginx's accept_mutex_delay

/// Connections of one queue that a leaving worker accepts at most: where more come all the time, somebody else
/// accepts them.
const DRAIN_MAX: usize = 1024;

/// A listening socket that a worker may accept from.
#[derive(Debug)]
pub struct Slot {
    /// Index of the address in the configuration.
    pub listen: usize,
    pub fd: OwnedFd,
    /// A service manager goes on listening with it.
    pub is_lent: bool,
}

/// The slots of a worker, and those it accepts from now.
#[derive(Debug)]
pub struct Leases {
    slots: Vec<Slot>,
    /// By slot: set when the accepting task shall end.
    active: RefCell<HashMap<SlotIndex, Rc<Cell<bool>>>>,
    limit: usize,
}

impl Leases {
    /// `limit`: client connections that may be open at one time.
    pub fn new(slots: Vec<Slot>, limit: usize) -> Self {
        Self { slots, active: RefCell::default(), limit }
    }

    /// Begins to accept from a slot. A slot that is leased already, or unknown, is left alone.
    pub fn add(&self, index: SlotIndex, service: Service) {
        let Some(slot) = self.slots.get(index as usize) else { return };
        if self.active.borrow().contains_key(&index) {
            return;
        }
        // A descriptor of our own: epoll knows it by its number, and the slot's may be in use again later.
        let registered = slot.fd.try_clone().and_then(Acceptor::register);
        match registered {
            Ok(acceptor) => {
                let stop = Rc::new(Cell::new(false));
                self.active.borrow_mut().insert(index, stop.clone());
                runtime::spawn(accept(acceptor, service, slot.listen, stop, self.limit));
            }
            Err(error) => {
                log::alert!(
                    log::process(),
                    &(),
                    "a listening socket could not be leased {}",
                    log::Cause(&error)
                );
            }
        }
    }

    /// Stops accepting from a slot; its queue stays as it is.
    pub fn remove(&self, index: SlotIndex) {
        if let Some(stop) = self.active.borrow_mut().remove(&index) {
            stop.set(true);
        }
        runtime::wake_all();
    }

    /// Stops accepting for good. What waits in the queues is accepted first: their addresses may be about to go.
    pub fn close(&self, service: Option<Service>) {
        for (index, stop) in self.active.borrow_mut().drain() {
            stop.set(true);
            if let (Some(slot), Some(service)) = (self.slots.get(index as usize), service) {
                drain(slot, service, self.limit.saturating_sub(open::count()));
            }
        }
        runtime::wake_all();
    }

    /// Ends listening, for all who have these slots; those that are lent are left alone.
    pub fn shut(&self) {
        for slot in self.slots.iter().filter(|slot| !slot.is_lent) {
            socket::shut_listener(slot.fd.as_fd());
        }
    }
}

fn drain(slot: &Slot, service: Service, limit: usize) {
    for _ in 0..limit.min(DRAIN_MAX) {
        match socket::accept(slot.fd.as_fd()) {
            Ok((fd, peer)) => service.open(fd, peer, slot.listen),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(_) => return,
        }
    }
}

async fn accept(acceptor: Acceptor, service: Service, listen: usize, stop: Rc<Cell<bool>>, limit: usize) {
    loop {
        if open::count() >= limit {
            log::warn!(
                log::process(),
                &(),
                "{limit} worker_connections are open, accepting pauses: raise \"worker_connections\" or \
                 \"worker_rlimit_nofile\", or add workers"
            );
            acceptor.pause();
            poll_fn(|cx| if stop.get() { Poll::Ready(()) } else { open::poll_below(limit, cx) }).await;
        }
        if stop.get() {
            return;
        }
        if let Err(error) = acceptor.resume() {
            log::alert!(
                log::process(),
                &(),
                "epoll_ctl() failed for a listening socket {}",
                log::Cause(&error)
            );
            return;
        }
        let accepted = poll_fn(|cx| {
            if stop.get() {
                return Poll::Ready(None);
            }
            acceptor.poll_accept(cx).map(Some)
        });
        match accepted.await {
            None => return,
            Some(Ok((fd, peer))) => service.open(fd, peer, listen),
            Some(Err(error)) => {
                report(&error);
                acceptor.pause();
                let before = open::count();
                let something_closes = poll_fn(|cx| open::poll_below(before.max(1), cx));
                race(something_closes, sleep(PAUSE_MS)).await;
            }
        }
    }
}

fn report(error: &io::Error) {
    use nix::libc::{EMFILE, ENFILE};
    match error.raw_os_error() {
        Some(EMFILE) => log::crit!(
            log::process(),
            &(),
            "accept4() failed {}, accepting pauses: raise \"worker_rlimit_nofile\"",
            log::Cause(error)
        ),
        Some(ENFILE) => log::crit!(
            log::process(),
            &(),
            "accept4() failed {}, accepting pauses: raise the system's fs.file-max",
            log::Cause(error)
        ),
        _ => log::error!(log::process(), &(), "accept4() failed {}", log::Cause(error)),
    }
}
