//! Single values and signals between tasks of one loop.
//!
//! Wakers are called while no cell is borrowed. Bounded by the number of tasks that wait.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use crate::runtime::waiters::Waiters;

struct Shared<T> {
    value: Cell<Option<T>>,
    has_sender: Cell<bool>,
    has_receiver: Cell<bool>,
    waiting: Cell<Option<Waker>>,
}

/// The sending end of a [`oneshot`].
pub struct OnceSender<T>(Rc<Shared<T>>);

/// The receiving end of a [`oneshot`].
pub struct OnceReceiver<T>(Rc<Shared<T>>);

/// Creates a channel for one value from one task to another.
pub fn oneshot<T>() -> (OnceSender<T>, OnceReceiver<T>) {
    let shared = Rc::new(Shared {
        value: Cell::new(None),
        has_sender: Cell::new(true),
        has_receiver: Cell::new(true),
        waiting: Cell::new(None),
    });
    (OnceSender(shared.clone()), OnceReceiver(shared))
}

impl<T> OnceSender<T> {
    /// Sends the value. Returns it as the error when the receiver is gone.
    pub fn send(self, value: T) -> Result<(), T> {
        if !self.0.has_receiver.get() {
            return Err(value);
        }
        self.0.value.set(Some(value));
        Ok(()) // the receiver wakes as the sender goes
    }
}

impl<T> Drop for OnceSender<T> {
    fn drop(&mut self) {
        self.0.has_sender.set(false);
        if let Some(waker) = self.0.waiting.take() {
            waker.wake();
        }
    }
}

impl<T> OnceReceiver<T> {
    /// Waits for the value; `None` when the sender was dropped without sending one.
    pub async fn recv(self) -> Option<T> {
        poll_fn(|cx| match self.0.value.take() {
            None if self.0.has_sender.get() => {
                self.0.waiting.set(Some(cx.waker().clone()));
                Poll::Pending
            }
            value => Poll::Ready(value),
        })
        .await
    }
}

impl<T> Drop for OnceReceiver<T> {
    fn drop(&mut self) {
        self.0.has_receiver.set(false);
        drop(self.0.value.take());
    }
}

/// Wakes every task that is waiting when [`Notify::notify`] is called.
#[derive(Default)]
pub struct Notify {
    /// Number of signals so far.
    count: Cell<u64>,
    waiters: RefCell<Waiters>,
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
            self.waiters.borrow_mut().add(cx);
            Poll::Pending
        })
    }

    pub fn notify(&self) {
        self.count.set(self.count.get().wrapping_add(1));
        let waiters = self.waiters.borrow_mut().take();
        waiters.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Runtime, spawn, task_count, timeout};

    #[test]
    fn a_value_reaches_the_task_that_waits_unless_either_is_gone() {
        Runtime::new().unwrap().block_on(async {
            let (sender, receiver) = oneshot();
            spawn(async move { sender.send(4).unwrap() });
            assert_eq!(timeout(5000, receiver.recv()).await, Ok(Some(4)));
            let (sender, receiver) = oneshot();
            assert_eq!(sender.send(3), Ok(()));
            assert_eq!(timeout(5000, receiver.recv()).await, Ok(Some(3)), "it was sent before");
            let (sender, receiver) = oneshot::<u32>();
            spawn(async move { drop(sender) });
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
            while notify.waiters.borrow().count() < 10 {
                crate::runtime::yield_now().await;
            }
            notify.notify();
            timeout(5000, early).await.unwrap();
            assert!(timeout(1, notify.notified()).await.is_err());
            assert_eq!(task_count(), 1);
        });
    }
}
