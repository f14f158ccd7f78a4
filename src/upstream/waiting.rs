//! Requests that wait until a peer of their group may be used: `queue`.
//!
//! They are served in the order in which they came. The first one looks again whenever a connection of the group
//! ends in this worker, and several times a second, since other workers and the end of a `fail_timeout` free peers
//! too. Each worker has its own queue. Behaviour: nginx.org, `queue` of ngx_http_upstream_module.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::runtime::{self, Timer};
use crate::shm::counter::Slot;
use crate::shm::gauges::{Gauge, Held, Present};

/// How often the first request looks for a peer if this worker frees none.
const LOOK_MS: u64 = 20;

/// A compiled `queue`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Maximum number of requests that wait in one worker.
    pub max: usize,
    pub timeout_ms: u64,
}

/// The queue of one group in one worker.
#[derive(Debug, Default)]
pub struct Waiting {
    entries: RefCell<VecDeque<Entry>>,
    next: Cell<u64>,
    /// Counts the connections that have ended, and the requests that have left.
    freed: Cell<u64>,
    /// Tells everybody how many wait; `None`: the group is not counted.
    gauge: Option<Gauge>,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    /// The request's task, once it waits.
    waker: Option<Waker>,
}

/// A place in the queue, given up when it is dropped.
#[derive(Debug)]
pub struct Ticket {
    waiting: Rc<Waiting>,
    number: u64,
    seen: u64,
    timer: Timer,
    _counted: Option<Held>,
}

impl Waiting {
    /// `slot`: the counters of its group.
    pub fn new(slot: Option<Slot>) -> Self {
        Self { gauge: slot.map(|slot| slot.gauge(Present::Waiting)), ..Self::default() }
    }

    pub fn is_empty(&self) -> bool {
        self.entries.borrow().is_empty()
    }

    /// Joins the queue; `None` if `max` requests wait already.
    pub fn enter(self: &Rc<Self>, max: usize) -> Option<Ticket> {
        let mut entries = self.entries.borrow_mut();
        if entries.len() >= max {
            return None;
        }
        let number = self.next.replace(self.next.get() + 1);
        entries.push_back(Entry { number, waker: None });
        let (seen, timer, _counted) = (self.freed.get(), Timer::new(), self.gauge.map(Gauge::hold));
        Some(Ticket { waiting: Rc::clone(self), number, seen, timer, _counted })
    }

    /// Notes that a connection to a peer has ended: the first request looks again.
    #[inline]
    pub fn note_freed(&self) {
        self.freed.set(self.freed.get() + 1);
        let waker = self.entries.borrow_mut().front_mut().and_then(|first| first.waker.take());
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Ticket {
    /// Waits until it is this request's turn to look for a peer. Call it again if there was none.
    pub async fn turn(&mut self) {
        poll_fn(|cx| self.poll_turn(cx)).await;
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let freed = self.waiting.freed.get();
        let mut entries = self.waiting.entries.borrow_mut();
        let is_first = entries.front().is_some_and(|first| first.number == self.number);
        if is_first {
            if std::mem::replace(&mut self.seen, freed) != freed {
                self.timer.cancel();
                return Poll::Ready(());
            }
            if !self.timer.is_set() {
                self.timer.set(runtime::now_ms() + LOOK_MS);
            }
            if self.timer.poll_expired(cx).is_ready() {
                return Poll::Ready(());
            }
        }
        // Numbers rise from front to back.
        let index = entries.partition_point(|entry| entry.number < self.number);
        if let Some(entry) = entries.get_mut(index) {
            entry.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut entries = self.waiting.entries.borrow_mut();
        let index = entries.partition_point(|entry| entry.number < self.number);
        entries.remove(index);
        drop(entries);
        self.waiting.note_freed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Runtime, sleep};

    fn on_loop(test: impl AsyncFnOnce() + 'static) {
        Runtime::new().expect("a loop").block_on(async move { test().await });
    }

    #[test]
    fn requests_have_their_turn_in_order() {
        on_loop(async || {
            let waiting = Rc::<Waiting>::default();
            let order = Rc::<RefCell<Vec<u32>>>::default();
            for number in 0..5 {
                let mut ticket = waiting.enter(5).expect("room");
                let order = Rc::clone(&order);
                runtime::spawn(async move {
                    ticket.turn().await;
                    order.borrow_mut().push(number);
                });
            }
            assert!(waiting.enter(5).is_none(), "full");
            while !waiting.is_empty() {
                waiting.note_freed();
                sleep(1).await;
            }
            assert_eq!(*order.borrow(), [0, 1, 2, 3, 4]);
        });
    }

    #[test]
    fn the_first_looks_again_even_if_nothing_is_freed_here() {
        on_loop(async || {
            let waiting = Rc::<Waiting>::default();
            let mut ticket = waiting.enter(1).expect("room");
            for _ in 0..3 {
                ticket.turn().await;
            }
        });
    }

    #[test]
    fn whoever_leaves_hands_the_turn_on() {
        on_loop(async || {
            let waiting = Rc::<Waiting>::default();
            let (first, middle) = (waiting.enter(3).expect("room"), waiting.enter(3).expect("room"));
            let mut last = waiting.enter(3).expect("room");
            let has_come = Rc::<Cell<bool>>::default();
            let told = Rc::clone(&has_come);
            runtime::spawn(async move {
                last.turn().await;
                told.set(true);
            });
            drop(middle);
            sleep(LOOK_MS * 2).await;
            assert!(!has_come.get(), "the first one is still there");
            drop(first);
            sleep(LOOK_MS * 2).await;
            assert!(has_come.get() && waiting.is_empty());
        });
    }
}
