//! Time for tasks: a reusable timer, sleeping, timeouts, and racing two futures.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::runtime::executor::{now_ms, spawn, try_with, with};
use crate::runtime::waker::TaskId;
use crate::sys::pair::Pair;

/// The timer is not in the wheel.
const UNFILED: u32 = u32::MAX;

/// A deadline that can be set again and again.
///
/// Setting and cancelling it does not touch the wheel: the first wait files it there, and it stays filed until it is
/// dropped. A timer that is set repeatedly (a connection's, with each request) usually moves to a later time, and is
/// then re-filed only when the wheel comes to its old place. So a task may be woken for a deadline that no longer
/// applies; it checks, and waits on. nginx does the same (NGX_TIMER_LAZY_DELAY).
#[derive(Debug)]
pub struct Timer {
    deadline_ms: u64,
    key: u32,
}

impl Timer {
    pub const fn new() -> Self {
        Self { deadline_ms: u64::MAX, key: UNFILED }
    }

    /// Sets the deadline, on the clock of [`now_ms`].
    #[inline]
    pub fn set(&mut self, deadline_ms: u64) {
        self.deadline_ms = deadline_ms;
    }

    #[inline]
    pub fn cancel(&mut self) {
        self.deadline_ms = u64::MAX;
    }

    pub fn is_set(&self) -> bool {
        self.deadline_ms != u64::MAX
    }

    /// The milliseconds that are left; 0 once the deadline is reached, and for a timer that is not set.
    pub fn left_ms(&self) -> u64 {
        if self.is_set() { self.deadline_ms.saturating_sub(now_ms()) } else { 0 }
    }

    /// Ready once the deadline is reached; never for a timer that is not set.
    #[inline]
    pub fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.deadline_ms == u64::MAX { Poll::Pending } else { self.poll_set(cx) }
    }

    fn poll_set(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let waiter = TaskId::of(cx).bits();
        let is_reached = with(|current| {
            if self.deadline_ms <= current.now_ms() {
                return true;
            }
            let mut wheel = current.wheel.borrow_mut();
            if self.key == UNFILED {
                self.key = wheel.insert(self.deadline_ms, waiter);
            } else {
                wheel.update(self.key, self.deadline_ms, waiter);
            }
            false
        });
        if !is_reached {
            return Poll::Pending;
        }
        self.cancel();
        Poll::Ready(())
    }

    /// Removes it from the wheel.
    #[inline(never)]
    fn unfile(&mut self) {
        try_with(|current| current.wheel.borrow_mut().remove(self.key));
        self.key = UNFILED;
    }
}

impl Default for Timer {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Timer {
    #[inline]
    fn drop(&mut self) {
        // Most timers that are dropped were never waited for.
        if self.key != UNFILED {
            self.unfile();
        }
    }
}

/// Waits for `ms` milliseconds.
pub async fn sleep(ms: u64) {
    let mut timer = Timer::new();
    timer.set(now_ms().saturating_add(ms));
    poll_fn(|cx| timer.poll_expired(cx)).await;
}

/// The time given to [`timeout`] ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedOut;

/// Lets `future` run for at most `ms` milliseconds, counted from the first poll.
pub fn timeout<F: Future>(ms: u64, future: F) -> impl Future<Output = Result<F::Output, TimedOut>> {
    let mut left = Some(ms);
    Pair::new(future, Timer::new(), move |future: Pin<&mut F>, timer: Pin<&mut Timer>, cx| {
        poll_in_time(future, timer.get_mut(), &mut left, cx)
    })
}

/// Like [`timeout`], with a timer that is kept for the next call: see [`Timer`].
pub fn timeout_by<'a, F: Future>(
    timer: &'a mut Timer,
    ms: u64,
    future: F,
) -> impl Future<Output = Result<F::Output, TimedOut>> + use<'a, F> {
    let mut left = Some(ms);
    Pair::new(future, timer, move |future: Pin<&mut F>, timer: Pin<&mut &mut Timer>, cx| {
        poll_in_time(future, timer.get_mut(), &mut left, cx)
    })
}

#[inline]
fn poll_in_time<F: Future>(
    future: Pin<&mut F>,
    timer: &mut Timer,
    left: &mut Option<u64>,
    cx: &mut Context<'_>,
) -> Poll<Result<F::Output, TimedOut>> {
    if let Some(ms) = left.take() {
        timer.set(now_ms().saturating_add(ms));
    }
    if let Poll::Ready(output) = future.poll(cx) {
        timer.cancel();
        return Poll::Ready(Ok(output));
    }
    timer.poll_expired(cx).map(|()| Err(TimedOut))
}

/// The output of whichever future was ready first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Either<A, B> {
    First(A),
    Second(B),
}

/// Runs two futures in one task until one is ready, and drops the other. The first is polled first.
pub fn race<A: Future, B: Future>(first: A, second: B) -> impl Future<Output = Either<A::Output, B::Output>> {
    Pair::new(first, second, |first: Pin<&mut A>, second: Pin<&mut B>, cx| {
        if let Poll::Ready(output) = first.poll(cx) {
            return Poll::Ready(Either::First(output));
        }
        second.poll(cx).map(Either::Second)
    })
}

/// Lets all other ready tasks run first.
pub async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Ready once every task that is ready now has been polled.
pub async fn after_others() {
    let was_reached = Rc::new(Cell::new(false));
    let mut has_begun = false;
    poll_fn(move |cx| {
        if was_reached.get() {
            return Poll::Ready(());
        }
        if !std::mem::replace(&mut has_begun, true) {
            // It is the last in the queue of ready tasks.
            let (was_reached, waker) = (Rc::clone(&was_reached), cx.waker().clone());
            spawn(async move {
                was_reached.set(true);
                waker.wake();
            });
        }
        Poll::Pending
    })
    .await;
}

/// Number of timers in this loop's wheel.
pub fn timer_count() -> usize {
    with(|current| current.wheel.borrow().len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Runtime;

    #[test]
    fn a_task_can_wait_until_all_that_are_ready_have_been_polled() {
        Runtime::new().expect("a loop").block_on(async {
            let polled = Rc::new(Cell::new(0));
            for _ in 0..500 {
                let polled = Rc::clone(&polled);
                spawn(async move { polled.set(polled.get() + 1) });
            }
            after_others().await;
            assert_eq!(polled.get(), 500, "more than one turn has room for");
        });
    }
}
