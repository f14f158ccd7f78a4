//! Accepting from the leased slots, and pausing when the worker can hold no more.
//!
//! At the limit, a client in the queue gets the place of a connection that only waits. If there is none the
//! worker is *full*: it pauses and says so in shared memory, so that the master steers new connections to its
//! siblings (`master/watchdog.rs`).
//!
//! Touches: listening sockets. The worker never shuts them down for others; it only stops watching them. Only
//! if there is no master does it shut them down itself.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::task::Poll;

use crate::log;
use crate::net::datagram::Turn;
use crate::net::{open, room};
use crate::runtime::{self, Acceptor, race, sleep};
use crate::shm::heartbeat;
use crate::sys::{datagram, retire, socket};
use crate::worker::messages::SlotIndex;
use crate::worker::services::Services;

/// The pause of accepting when descriptors or memory have run out and nothing closes meanwhile.
const PAUSE_MS: u64 = 500; // nginx's accept_mutex_delay

/// Maximum number of connections that a leaving worker accepts from one queue. If more keep coming, another
/// process accepts them.
const DRAIN_MAX: usize = 1024;

/// A listening socket that a worker may accept from.
#[derive(Debug)]
pub struct Slot {
    /// Index of the listener in the configuration.
    pub listen: usize,
    pub fd: OwnedFd,
    /// It is lent by a service manager, which goes on listening with it.
    pub is_lent: bool,
}

/// The slots of a worker, and those it accepts from now.
#[derive(Debug)]
pub struct Leases {
    slots: Vec<Slot>,
    /// By slot, those it accepts from.
    active: RefCell<HashMap<SlotIndex, Rc<Lease>>>,
    /// Slots being retired: while this worker leaves, it accepts from them until the master shuts them down.
    ending: RefCell<Vec<Weak<Lease>>>,
    /// Datagrams are received; until then they wait in the sockets.
    receives: Rc<Cell<bool>>,
}

thread_local! {
    /// The siblings were told to take over this worker's share.
    static IS_FULL: Cell<bool> = const { Cell::new(false) };
    /// The reason is that descriptors or memory have run out.
    static IS_SHORT: Cell<bool> = const { Cell::new(false) };
}

/// One slot that is accepted from; the accepting task holds it.
#[derive(Debug, Default)]
struct Lease {
    /// The accepting task must end.
    stop: Cell<bool>,
    /// Keeps a leaving worker alive until the task has ended.
    guard: RefCell<Option<open::Background>>,
}

impl Leases {
    /// `receives`: no older worker receives datagrams.
    pub fn new(slots: Vec<Slot>, receives: bool) -> Self {
        let receives = Rc::new(Cell::new(receives));
        Self { slots, active: RefCell::default(), ending: RefCell::default(), receives }
    }

    /// Begins to receive datagrams: no older worker does so any more, and this one has their sessions.
    pub fn receive_datagrams(&self) {
        self.receives.set(true);
        runtime::wake_all();
    }

    /// Starts to accept from a slot. Ignores a slot that is unknown or already leased.
    pub fn add(&self, index: SlotIndex, services: Services) {
        let Some(slot) = self.slots.get(index as usize) else { return };
        if self.active.borrow().contains_key(&index) {
            return;
        }
        if datagram::is_datagram(slot.fd.as_fd()) {
            return self.receive(index, slot, services);
        }
        // Use our own descriptor: epoll identifies a socket by its number, and the slot's may be registered
        // again later.
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

    /// Starts to receive from a UDP socket.
    fn receive(&self, index: SlotIndex, slot: &Slot, services: Services) {
        match slot.fd.try_clone() {
            Ok(fd) => {
                let lease = Rc::new(Lease::default());
                self.active.borrow_mut().insert(index, lease.clone());
                let receives = Rc::clone(&self.receives);
                services.receive(fd, slot.listen, move || match (lease.stop.get(), receives.get()) {
                    (true, _) => Turn::Over,
                    (false, true) => Turn::Now,
                    (false, false) => Turn::Later,
                });
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

    /// Stops accepting for good, after accepting the connections that wait in the queues.
    ///
    /// A slot being retired is accepted from until the master shuts it down: handshakes that have begun still
    /// complete.
    pub fn close(&self, services: Option<Services>) {
        for (index, lease) in self.active.borrow_mut().drain() {
            let Some(slot) = self.slots.get(index as usize) else { continue };
            if datagram::is_datagram(slot.fd.as_fd()) {
                // The task ends once the sessions have been handed over.
                lease.stop.set(true);
                self.ending.borrow_mut().push(Rc::downgrade(&lease));
                continue;
            }
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

    /// Stops accepting connections because this process ends.
    pub fn halt(&self) {
        let active = self.active.borrow();
        let is_stream = |index: u32| {
            self.slots.get(index as usize).is_some_and(|slot| !datagram::is_datagram(slot.fd.as_fd()))
        };
        active.iter().filter(|(index, _)| is_stream(**index)).for_each(|(_, lease)| lease.stop.set(true));
    }

    /// True once nothing is accepted any more.
    pub fn are_closed(&self) -> bool {
        let mut ending = self.ending.borrow_mut();
        ending.retain(|lease| lease.strong_count() > 0);
        ending.is_empty()
    }

    /// Stops accepting also from slots being retired: there is no master to shut them down.
    pub fn abandon(&self) {
        if self.are_closed() {
            return;
        }
        for lease in self.ending.borrow().iter().filter_map(Weak::upgrade) {
            lease.stop.set(true);
        }
        runtime::wake_all();
    }

    /// Stops new clients from reaching these slots; leaves lent ones alone.
    pub fn retire(&self) {
        self.own_slots().for_each(|slot| retire::retire(slot.fd.as_fd()));
    }

    /// True if no client is still on its way to these slots, which were retired `for_ms` milliseconds ago.
    pub fn are_drained(&self, for_ms: u64) -> bool {
        retire::are_drained(self.own_slots().map(|slot| slot.fd.as_fd()), for_ms)
    }

    /// Shuts these slots down for all processes that have them; leaves lent ones alone.
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
            // The slot was being retired, and the master has shut it down. Any process that has a slot could
            // shut down another one; the master brings that one back.
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

/// At the limit, waits for a client in the queue and makes room for it. False if nothing gave way and the
/// worker was full meanwhile, or if accepting stops.
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

/// Pauses accepting after a failure: until a connection closes, or for a fixed time.
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
