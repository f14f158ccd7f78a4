//! Waiting for time: a timer that is set again and again, sleeping, deadlines, the first of two.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::runtime::executor::{now_ms, try_with, with};
use crate::runtime::waker::TaskId;
use crate::sys::pair::Pair;

/// Not filed in the wheel.
const UNFILED: u32 = u32::MAX;

/// A deadline that is filed in the wheel only while somebody waits for it.
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
    pub fn set(&mut self, deadline_ms: u64) {
        self.unfile();
        self.deadline_ms = deadline_ms;
    }

    pub fn cancel(&mut self) {
        self.unfile();
        self.deadline_ms = u64::MAX;
    }

    pub fn is_set(&self) -> bool {
        self.deadline_ms != u64::MAX
    }

    /// Ready when the deadline is reached; never for a timer that is not set.
    pub fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.deadline_ms == u64::MAX {
            return Poll::Pending;
        }
        if self.deadline_ms <= now_ms() {
            self.cancel();
            return Poll::Ready(());
        }
        let waiter = TaskId::of(cx).bits();
        with(|current| {
            let mut wheel = current.wheel.borrow_mut();
            if self.key == UNFILED {
                self.key = wheel.insert(self.deadline_ms, waiter);
            } else {
                wheel.set_waiter(self.key, waiter);
            }
        });
        Poll::Pending
    }

    fn unfile(&mut self) {
        if self.key != UNFILED {
            try_with(|current| current.wheel.borrow_mut().remove(self.key));
            self.key = UNFILED;
        }
    }
}

impl Default for Timer {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.unfile();
    }
}

/// Waits for `ms` milliseconds.
pub async fn sleep(ms: u64) {
    let mut timer = Timer::new();
    timer.set(now_ms().saturating_add(ms));
    poll_fn(|cx| timer.poll_expired(cx)).await;
}

/// The time given to [`timeout`] was over first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedOut;

/// Lets `future` run for at most `ms` milliseconds, counted from the first poll.
pub fn timeout<F: Future>(ms: u64, future: F) -> impl Future<Output = Result<F::Output, TimedOut>> {
    let mut left = Some(ms);
    Pair::new(future, Timer::new(), move |future: Pin<&mut F>, mut timer: Pin<&mut Timer>, cx| {
        if let Some(ms) = left.take() {
            timer.as_mut().get_mut().set(now_ms().saturating_add(ms));
        }
        if let Poll::Ready(output) = future.poll(cx) {
            timer.cancel();
            return Poll::Ready(Ok(output));
        }
        timer.poll_expired(cx).map(|()| Err(TimedOut))
    })
}

/// Which of two futures was ready first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Either<A, B> {
    First(A),
    Second(B),
}

/// Runs two futures in one task until one is ready; the other is dropped with the race. The first one is asked
/// first.
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

/// Timers that are filed in this loop's wheel.
pub fn timer_count() -> usize {
    with(|current| current.wheel.borrow().len())
}
