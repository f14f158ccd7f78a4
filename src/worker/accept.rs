//! Accepting from the leased slots, and pausing where the worker can hold no more.
//!
//! At the limit a client that waits in the queue gets the place of a connection that only waits. Where there is none the
//! worker is *full*: it pauses, and says so in shared memory, so that the master steers new connections to its siblings
//! (`master/watchdog.rs`).
//!
//! Touches: listening sockets, which it never closes for others: it stops looking at them. Only where there is no
//! master it ends listening itself.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::task::Poll;

use crate::log;
use crate::net::{open, room};
use crate::runtime::{self, Acceptor, race, sleep};
use crate::shm::heartbeat;
use crate::sys::{retire, socket};
use crate::worker::messages::SlotIndex;
use crate::worker::services::Services;

/// The pause of accepting when descriptors or memory have run out and nothing closes meanwhile.
const PAUSE_MS: u64 = 500; // nginx's accept_mutex_delay

/// Connections of one queue that a leaving worker accepts at most: where more come all the time, somebody else
/// accepts them.
const DRAIN_MAX: usize = 1024;

/// A listening socket that a worker may accept from.
#[derive(Debug)]
pub struct Slot {
    /// Index of the listener in the configuration.
    pub listen: usize,
    pub fd: OwnedFd,
    /// A service manager goes on listening with it.
    pub is_lent: bool,
}

/// The slots of a worker, and those it accepts from now.
#[derive(Debug)]
pub struct Leases {
    slots: Vec<Slot>,
    /// By slot, those it accepts from.
    active: RefCell<HashMap<SlotIndex, Rc<Lease>>>,
    /// Slots on their way out, accepted from until the master ends them, while this worker leaves.
    ending: RefCell<Vec<Weak<Lease>>>,
}

thread_local! {
    /// The siblings are told that they should take this worker's share.
    static IS_FULL: Cell<bool> = const { Cell::new(false) };
    /// Because descriptors or memory have run out.
    static IS_SHORT: Cell<bool> = const { Cell::new(false) };
}

/// One slot that is accepted from; the accepting task holds it.
#[derive(Debug, Default)]
struct Lease {
    /// The accepting task shall end.
    stop: Cell<bool>,
    /// Keeps a worker that leaves from ending before the task.
    guard: RefCell<Option<open::Background>>,
}

impl Leases {
    pub fn new(slots: Vec<Slot>) -> Self {
        Self { slots, active: RefCell::default(), ending: RefCell::default() }
    }

    /// Begins to accept from a slot. A slot that is leased already, or unknown, is left alone.
    pub fn add(&self, index: SlotIndex, services: Services) {
        let Some(slot) = self.slots.get(index as usize) else { return };
        if self.active.borrow().contains_key(&index) {
            return;
        }
        // A descriptor of our own: epoll knows it by its number, and the slot's may be in use again later.
        let registered = slot.fd.try_clone().and_then(Acceptor::register);
        match registered {
            Ok(acceptor) => {
                let lease = Rc::new(Lease::default());
                self.active.borrow_mut().insert(index, lease.clone());
                runtime::spawn(accept(acceptor, services, slot.listen, lease));
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
        if let Some(lease) = self.active.borrow_mut().remove(&index) {
            lease.stop.set(true);
        }
        runtime::wake_all();
    }

    /// Stops accepting for good. What waits in the queues is accepted first.
    ///
    /// A slot on its way out is accepted from until the master ends it: clients whose handshake has begun still come.
    pub fn close(&self, services: Option<Services>) {
        for (index, lease) in self.active.borrow_mut().drain() {
            let Some(slot) = self.slots.get(index as usize) else { continue };
            if let Some(services) = services {
                drain(slot, services, room::limit().saturating_sub(open::total()));
            }
            if retire::is_hidden(slot.fd.as_fd()) {
                *lease.guard.borrow_mut() = open::Background::new(usize::MAX);
                self.ending.borrow_mut().push(Rc::downgrade(&lease));
            } else {
                lease.stop.set(true);
            }
        }
        runtime::wake_all();
    }

    /// Nothing is accepted any more.
    pub fn are_closed(&self) -> bool {
        let mut ending = self.ending.borrow_mut();
        ending.retain(|lease| lease.strong_count() > 0);
        ending.is_empty()
    }

    /// Stops accepting from slots on their way out too: there is no master to end them.
    pub fn abandon(&self) {
        if self.are_closed() {
            return;
        }
        for lease in self.ending.borrow().iter().filter_map(Weak::upgrade) {
            lease.stop.set(true);
        }
        runtime::wake_all();
    }

    /// Lets no new client come to these slots; those that are lent are left alone.
    pub fn retire(&self) {
        self.own_slots().for_each(|slot| retire::retire(slot.fd.as_fd()));
    }

    /// No client is on the way to these slots, which were retired so many milliseconds ago.
    pub fn are_drained(&self, for_ms: u64) -> bool {
        retire::are_drained(self.own_slots().map(|slot| slot.fd.as_fd()), for_ms)
    }

    /// Ends listening, for all who have these slots; those that are lent are left alone.
    pub fn shut(&self) {
        for slot in self.own_slots() {
            socket::shut_listener(slot.fd.as_fd());
        }
    }

    fn own_slots(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(|slot| !slot.is_lent)
    }
}

fn drain(slot: &Slot, services: Services, limit: usize) {
    for _ in 0..limit.min(DRAIN_MAX) {
        match socket::accept(slot.fd.as_fd()) {
            Ok((fd, peer)) => services.open(fd, peer, slot.listen),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(_) => return,
        }
    }
}

async fn accept(acceptor: Acceptor, services: Services, listen: usize, lease: Rc<Lease>) {
    let stop = &lease.stop;
    loop {
        if let Err(error) = acceptor.resume() {
            log::alert!(
                log::process(),
                &(),
                "epoll_ctl() failed for a listening socket {}",
                log::Cause(&error)
            );
            return;
        }
        if open::total() >= room::limit() && !has_room(&acceptor, stop).await {
            continue;
        }
        let accepted = poll_fn(|cx| {
            if stop.get() {
                return Poll::Ready(None);
            }
            acceptor.poll_accept(cx).map(Some)
        });
        match accepted.await {
            None => return,
            Some(Ok((fd, peer))) => {
                let number = fd.as_raw_fd();
                services.open(fd, peer, listen);
                room::client_has_come(number);
            }
            // It was on its way out, and the master has ended it. Another one may have been ended by anybody who has it, and
            // the master brings it back.
            Some(Err(error))
                if error.raw_os_error() == Some(nix::libc::EINVAL) && retire::is_hidden(acceptor.as_fd()) =>
            {
                return;
            }
            Some(Err(error)) => {
                if room::is_shortage(&error) && room::free_descriptors(&error).await {
                    continue;
                }
                report(&error);
                acceptor.pause();
                pause_after(&error, stop).await;
            }
        }
    }
}

/// Waits at the limit for somebody in the queue, and makes room for them. False: nothing gave way, and the worker has
/// been full until now; or accepting stops.
async fn has_room(acceptor: &Acceptor, stop: &Cell<bool>) -> bool {
    let is_below = || open::total() < room::limit();
    poll_fn(|cx| match acceptor.poll_incoming(cx) {
        Poll::Pending => open::poll_change(|| stop.get() || is_below(), cx),
        ready => ready,
    })
    .await;
    if stop.get() || room::make_room_for_client().await {
        return true;
    }
    become_full();
    acceptor.pause();
    poll_fn(|cx| open::poll_change(|| stop.get() || is_below() || runtime::waiting_count() > 0, cx)).await;
    false
}

/// Accepting rests after a failure: until something closes, or for a while.
async fn pause_after(error: &io::Error, stop: &Cell<bool>) {
    if room::is_shortage(error) {
        IS_SHORT.set(true);
        become_full();
    }
    let before = open::closed_count();
    let something_closes =
        poll_fn(|cx| open::poll_change(|| stop.get() || open::closed_count() != before, cx));
    race(something_closes, sleep(PAUSE_MS)).await;
}

fn become_full() {
    if IS_FULL.replace(true) {
        return;
    }
    if !IS_SHORT.get() {
        let limit = room::limit();
        log::warn!(
            log::process(),
            &(),
            "{limit} worker_connections are not enough, accepting pauses: raise \"worker_connections\" or \
             \"worker_rlimit_nofile\", or add workers"
        );
    }
    heartbeat::set_full(true);
    runtime::spawn(recover());
}

/// Takes this worker's share back once there is room for more than the next client.
async fn recover() {
    loop {
        poll_fn(|cx| open::poll_change(room::has_slack, cx)).await;
        if !IS_SHORT.replace(false) {
            break;
        }
        sleep(PAUSE_MS).await;
        IS_SHORT.set(!room::has_descriptors());
    }
    IS_FULL.set(false);
    heartbeat::set_full(false);
}

fn report(error: &io::Error) {
    if !room::is_shortage(error) {
        log::error!(log::process(), &(), "accept4() failed {}", log::Cause(error));
        return;
    }
    let remedy = room::remedy(error.raw_os_error().unwrap_or(0));
    log::crit!(log::process(), &(), "accept4() failed {}, accepting pauses: {remedy}", log::Cause(error));
}
