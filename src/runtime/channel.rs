//! Queues and signals between tasks of one loop.
//!
//! Wakers are called while no cell is borrowed. Everything is bounded: a queue by its own maximum, the others
//! by the number of tasks that wait.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

struct Shared<T> {
    values: RefCell<VecDeque<T>>,
    max: usize,
    senders: Cell<usize>,
    is_open: Cell<bool>,
    receiver: RefCell<Option<Waker>>,
}

impl<T> Shared<T> {
    fn wake(&self) {
        let waker = self.receiver.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The sending end of a queue.
pub struct Sender<T>(Rc<Shared<T>>);

/// The receiving end of a queue.
pub struct Receiver<T>(Rc<Shared<T>>);

/// Creates a queue of at most `max` values, from many senders to one receiver.
pub fn queue<T>(max: usize) -> (Sender<T>, Receiver<T>) {
    let shared = Rc::new(Shared {
        values: RefCell::default(),
        max,
        senders: Cell::new(1),
        is_open: Cell::new(true),
        receiver: RefCell::default(),
    });
    (Sender(shared.clone()), Receiver(shared))
}

impl<T> Sender<T> {
    /// Adds a value. Returns it as the error when the queue is full or its receiver is gone.
    pub fn push(&self, value: T) -> Result<(), T> {
        if !self.0.is_open.get() || self.0.values.borrow().len() >= self.0.max {
            return Err(value);
        }
        self.0.values.borrow_mut().push_back(value);
        self.0.wake();
        Ok(())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.senders.set(self.0.senders.get() + 1);
        Self(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.senders.set(self.0.senders.get() - 1);
        if self.0.senders.get() == 0 {
            self.0.wake();
        }
    }
}

impl<T> Receiver<T> {
    /// Waits for the next value; `None` when all senders are gone and the queue is empty.
    pub async fn recv(&mut self) -> Option<T> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        if let Some(value) = self.try_recv() {
            return Poll::Ready(Some(value));
        }
        if self.0.senders.get() == 0 {
            return Poll::Ready(None);
        }
        *self.0.receiver.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }

    pub fn try_recv(&mut self) -> Option<T> {
        self.0.values.borrow_mut().pop_front()
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.0.is_open.set(false);
        let left = self.0.values.take(); // dropped while the cell is free: a value may own a sender
        drop(left);
    }
}

/// The sending end of a [`oneshot`].
pub struct OnceSender<T>(Sender<T>);

/// The receiving end of a [`oneshot`].
pub struct OnceReceiver<T>(Receiver<T>);

/// Creates a channel for one value from one task to another.
pub fn oneshot<T>() -> (OnceSender<T>, OnceReceiver<T>) {
    let (sender, receiver) = queue(1);
    (OnceSender(sender), OnceReceiver(receiver))
}

impl<T> OnceSender<T> {
    /// Sends the value. Returns it as the error when the receiver is gone.
    pub fn send(self, value: T) -> Result<(), T> {
        self.0.push(value)
    }
}

impl<T> OnceReceiver<T> {
    /// Waits for the value; `None` when the sender was dropped without sending one.
    pub async fn recv(mut self) -> Option<T> {
        self.0.recv().await
    }
}

/// Wakes every task that is waiting when [`Notify::notify`] is called.
#[derive(Default)]
pub struct Notify {
    /// Number of signals so far.
    count: Cell<u64>,
    waiters: RefCell<Vec<Waker>>,
}

impl std::fmt::Debug for Notify {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Notify after {}", self.count.get())
    }
}

impl Notify {
    pub fn new() -> Self {
        Self::default()
    }

    /// Ready at the first [`Notify::notify`] after this call (not after the first poll).
    pub fn notified(&self) -> impl Future<Output = ()> + '_ {
        let seen = self.count.get();
        poll_fn(move |cx| {
            if self.count.get() != seen {
                return Poll::Ready(());
            }
            let mut waiters = self.waiters.borrow_mut();
            if !waiters.iter().any(|waiter| waiter.will_wake(cx.waker())) {
                waiters.push(cx.waker().clone());
            }
            Poll::Pending
        })
    }

    pub fn notify(&self) {
        self.count.set(self.count.get().wrapping_add(1));
        for waiter in self.waiters.take() {
            waiter.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Runtime, spawn, task_count, timeout};

    #[test]
    fn a_queue_keeps_order_and_refuses_what_is_too_much() {
        Runtime::new().unwrap().block_on(async {
            let (sender, mut receiver) = queue(2);
            assert_eq!((sender.push(1), sender.push(2), sender.push(3)), (Ok(()), Ok(()), Err(3)));
            assert_eq!((receiver.recv().await, receiver.recv().await), (Some(1), Some(2)));
            let second = sender.clone();
            spawn(async move { second.push(4).unwrap() });
            drop(sender);
            assert_eq!(timeout(5000, receiver.recv()).await, Ok(Some(4)));
            assert_eq!(timeout(5000, receiver.recv()).await, Ok(None));
            let (sender, receiver) = oneshot();
            drop(receiver);
            assert_eq!(sender.send(5), Err(5));
        });
    }

    #[test]
    fn a_signal_reaches_all_who_wait_and_none_who_come_later() {
        Runtime::new().unwrap().block_on(async {
            let notify = Rc::new(Notify::new());
            for _ in 0..10 {
                let notify = notify.clone();
                spawn(async move { notify.notified().await });
            }
            let early = notify.notified();
            while notify.waiters.borrow().len() < 10 {
                crate::runtime::yield_now().await;
            }
            notify.notify();
            timeout(5000, early).await.unwrap();
            assert!(timeout(1, notify.notified()).await.is_err());
            assert_eq!(task_count(), 1);
        });
    }
}
