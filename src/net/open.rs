//! The client connections that this worker holds, counted: for itself, and for all who look at the shared counters.
//!
//! The worker stops accepting at `worker_connections` and leaves once the count is zero.

use std::cell::{Cell, RefCell};
use std::task::{Context, Poll, Waker};

use crate::shm::counter::{self, Total};

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
    /// Requests that no connection waits for.
    static BACKGROUND: Cell<usize> = const { Cell::new(0) };
    /// Who waits for a connection to end; a handful at most.
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
        counter::leave(self.gauge);
        counter::enter(gauge);
        self.gauge = gauge;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        COUNT.set(COUNT.get() - 1);
        counter::leave(self.gauge);
        counter::leave(Total::Active);
        wake();
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

fn wake() {
    // Taken first: waking calls into the runtime.
    let waiting = WAITING.try_with(RefCell::take).unwrap_or_default();
    waiting.into_iter().for_each(Waker::wake);
}

pub fn count() -> usize {
    COUNT.get()
}

/// Ready when fewer than `limit` connections are open.
pub fn poll_below(limit: usize, cx: &mut Context<'_>) -> Poll<()> {
    poll_until(|| COUNT.get() < limit, cx)
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
