//! Turns of a worker's requests at changing an image: one at a time, in the order in which they came.
//!
//! An image takes so much memory while it is decoded that the next one waits as what it came as.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::Poll;

use crate::runtime::waiters::Waiters;

thread_local! {
    static IS_TAKEN: Cell<bool> = const { Cell::new(false) };
    static WAITERS: RefCell<Waiters> = const { RefCell::new(Waiters::new()) };
}

/// The right to change an image; dropping it passes it on.
#[derive(Debug)]
pub struct Turn(());

/// Waits for this request's turn.
pub async fn turn() -> Turn {
    poll_fn(|cx| {
        if IS_TAKEN.replace(true) {
            WAITERS.with_borrow_mut(|waiters| waiters.add(cx));
            return Poll::Pending;
        }
        Poll::Ready(Turn(()))
    })
    .await
}

impl Drop for Turn {
    fn drop(&mut self) {
        IS_TAKEN.set(false);
        let waiting = WAITERS.with_borrow_mut(Waiters::take);
        waiting.into_iter().for_each(|waker| waker.wake());
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::runtime::{Runtime, sleep, spawn, timeout};

    #[test]
    fn one_at_a_time_in_order_and_those_who_leave_hold_up_nobody() {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let seen_by_all = Rc::clone(&seen);
        Runtime::new().unwrap().block_on(async move {
            let first = turn().await;
            for number in 0..20 {
                let seen = Rc::clone(&seen_by_all);
                spawn(async move {
                    let wait = if number % 3 == 0 { 5 } else { 60_000 };
                    let Ok(turn) = timeout(wait, turn()).await else { return };
                    seen.borrow_mut().push(number);
                    sleep(1).await;
                    drop(turn);
                });
            }
            sleep(20).await;
            drop(first);
            while seen_by_all.borrow().len() < 13 {
                sleep(1).await;
            }
        });
        let expected: Vec<i32> = (0..20).filter(|number| number % 3 != 0).collect();
        assert_eq!(*seen.borrow(), expected);
    }
}
