//! Counts the connections that this worker holds, for itself and, those of clients, in the shared counters.
//!
//! `worker_connections` limits clients and upstream servers together (`net/room.rs`). A leaving worker exits
//! once the count of clients is zero.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::net::clients::Client;
use crate::runtime::waiters::Waiters;
use crate::shm::counter::{self, Total};

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
    static UPSTREAM_COUNT: Cell<usize> = const { Cell::new(0) };
    /// Number of connections closed since the start.
    static CLOSED: Cell<u64> = const { Cell::new(0) };
    /// Some task waits for a connection to become idle.
    static IDLE_IS_WANTED: Cell<bool> = const { Cell::new(false) };
    /// Number of requests that no connection waits for.
    static BACKGROUND: Cell<usize> = const { Cell::new(0) };
    /// The tasks that wait for a connection to end; a handful at most.
    static WAITING: RefCell<Waiters> = const { RefCell::new(Waiters::new()) };
}

/// Counts one client connection while it lives; at first as one that waits.
#[derive(Debug)]
pub struct Guard {
    client: Rc<Client>,
}

impl Guard {
    pub fn new(client: Client) -> Self {
        COUNT.set(COUNT.get() + 1);
        counter::enter(Total::Active);
        counter::enter(Total::Waiting);
        Self { client: client.enlist() }
    }

    /// The record that operators see.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Moves the connection to another gauge: waiting, being read from, or being answered (`Waiting`,
    /// `Reading`, `Writing`).
    pub fn turn(&mut self, gauge: Total) {
        counter::pass(self.client.gauge(), gauge);
        self.client.turn(gauge);
        if gauge == Total::Waiting {
            self.rests();
        }
    }

    /// Notes that the connection only waits from now on: another one may need its place.
    #[inline]
    pub fn rests(&self) {
        if IDLE_IS_WANTED.get() {
            wake();
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        COUNT.set(COUNT.get() - 1);
        counter::leave(self.client.gauge());
        counter::leave(Total::Active);
        self.client.leave();
        closed();
    }
}

/// Counts one connection to an upstream server while it lives, kept ones included.
#[derive(Debug)]
pub struct Place(());

impl Place {
    #[allow(clippy::new_without_default, reason = "counting is an effect, not a default value")]
    pub fn new() -> Self {
        UPSTREAM_COUNT.set(UPSTREAM_COUNT.get() + 1);
        Self(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        UPSTREAM_COUNT.set(UPSTREAM_COUNT.get() - 1);
        closed();
    }
}

/// Counts a request that no connection waits for, such as a copy for a mirror. It takes no client's place,
/// but the worker does not exit before it ends.
#[derive(Debug)]
pub struct Background(());

impl Background {
    /// `None`: `max` of them run already.
    pub fn new(max: usize) -> Option<Self> {
        (BACKGROUND.get() < max).then(|| {
            BACKGROUND.set(BACKGROUND.get() + 1);
            Self(())
        })
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        BACKGROUND.set(BACKGROUND.get() - 1);
        wake();
    }
}

fn closed() {
    CLOSED.set(CLOSED.get().wrapping_add(1));
    wake();
}

fn wake() {
    // Take them first: waking calls into the runtime.
    IDLE_IS_WANTED.set(false);
    let waiting = WAITING.try_with(|waiting| waiting.borrow_mut().take()).unwrap_or_default();
    waiting.into_iter().for_each(Waker::wake);
}

/// Number of client connections.
pub fn count() -> usize {
    COUNT.get()
}

/// Number of all connections that `worker_connections` limits.
#[inline]
pub fn total() -> usize {
    COUNT.get() + UPSTREAM_COUNT.get()
}

/// Number of connections closed so far, for [`poll_closed`].
pub fn closed_count() -> u64 {
    CLOSED.get()
}

/// Ready once a connection has been closed since [`closed_count`] returned `before`.
pub fn poll_closed(before: u64, cx: &mut Context<'_>) -> Poll<()> {
    poll_until(|| CLOSED.get() != before, cx)
}

/// Ready once `holds` returns true; it is called again whenever a connection is closed or becomes idle.
pub fn poll_change(holds: impl Fn() -> bool, cx: &mut Context<'_>) -> Poll<()> {
    let polled = poll_until(holds, cx);
    if polled.is_pending() {
        IDLE_IS_WANTED.set(true);
    }
    polled
}

/// Ready when no client connection is open and no request runs in the background.
pub fn poll_idle(cx: &mut Context<'_>) -> Poll<()> {
    poll_until(|| COUNT.get() + BACKGROUND.get() == 0, cx)
}

fn poll_until(holds: impl Fn() -> bool, cx: &mut Context<'_>) -> Poll<()> {
    if holds() {
        return Poll::Ready(());
    }
    WAITING.with_borrow_mut(|waiting| waiting.add(cx));
    Poll::Pending
}
