//! The connections that this worker holds, counted: for itself, and those of clients for all who look at the shared
//! counters.
//!
//! `worker_connections` bounds clients and upstream servers together (`net/room.rs`). The worker leaves once the
//! count of clients is zero.

use std::cell::{Cell, RefCell};
use std::task::{Context, Poll, Waker};

use crate::shm::counter::{self, Total};

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
    static UPSTREAM_COUNT: Cell<usize> = const { Cell::new(0) };
    /// Connections that have been closed since the start.
    static CLOSED: Cell<u64> = const { Cell::new(0) };
    /// Somebody waits for a connection that becomes idle.
    static IDLE_IS_WANTED: Cell<bool> = const { Cell::new(false) };
    /// Requests that no connection waits for.
    static BACKGROUND: Cell<usize> = const { Cell::new(0) };
    /// The tasks that wait for a connection to end; a handful at most.
    static WAITING: RefCell<Vec<Waker>> = const { RefCell::new(Vec::new()) };
}

/// One client connection; counted as long as it lives, first among those that wait.
#[derive(Debug)]
pub struct Guard {
    gauge: Total,
}

impl Guard {
    #[allow(clippy::new_without_default, reason = "counting is an effect, not a default value")]
    pub fn new() -> Self {
        COUNT.set(COUNT.get() + 1);
        counter::enter(Total::Active);
        counter::enter(Total::Waiting);
        Self { gauge: Total::Waiting }
    }

    /// Counts it among those that wait, are read from, or are answered (`Waiting`, `Reading`, `Writing`).
    pub fn turn(&mut self, gauge: Total) {
        counter::pass(self.gauge, gauge);
        self.gauge = gauge;
        if gauge == Total::Waiting {
            self.rests();
        }
    }

    /// It only waits from now on: somebody may need its place.
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
        counter::leave(self.gauge);
        counter::leave(Total::Active);
        closed();
    }
}

/// A connection to an upstream server; counted as long as it lives, kept ones included.
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

/// A request that no connection waits for, such as a copy for a mirror. It takes no place of a client's, but the
/// worker does not leave before its end.
#[derive(Debug)]
pub struct Background(());

impl Background {
    /// `None`: there are as many as there may be.
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
    // Taken first: waking calls into the runtime.
    IDLE_IS_WANTED.set(false);
    let waiting = WAITING.try_with(RefCell::take).unwrap_or_default();
    waiting.into_iter().for_each(Waker::wake);
}

/// Client connections.
pub fn count() -> usize {
    COUNT.get()
}

/// All connections that `worker_connections` bounds.
#[inline]
pub fn total() -> usize {
    COUNT.get() + UPSTREAM_COUNT.get()
}

/// Connections that have been closed so far, for [`poll_closed`].
pub fn closed_count() -> u64 {
    CLOSED.get()
}

/// Ready when a connection has been closed since [`closed_count`] was `before`.
pub fn poll_closed(before: u64, cx: &mut Context<'_>) -> Poll<()> {
    poll_until(|| CLOSED.get() != before, cx)
}

/// Ready when `holds`, which is asked again whenever a connection is closed or becomes idle.
pub fn poll_change(holds: impl Fn() -> bool, cx: &mut Context<'_>) -> Poll<()> {
    let polled = poll_until(holds, cx);
    if polled.is_pending() {
        IDLE_IS_WANTED.set(true);
    }
    polled
}

/// Ready when nothing is open, and nothing goes on in the background.
pub fn poll_idle(cx: &mut Context<'_>) -> Poll<()> {
    poll_until(|| COUNT.get() + BACKGROUND.get() == 0, cx)
}

fn poll_until(holds: impl Fn() -> bool, cx: &mut Context<'_>) -> Poll<()> {
    if holds() {
        return Poll::Ready(());
    }
    WAITING.with_borrow_mut(|waiting| {
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
    });
    Poll::Pending
}
