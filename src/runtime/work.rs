//! The budget of a poll, for work other than I/O operations: encoding, decoding, searching, copying.
//!
//! A loop whose number of iterations a peer decides charges its work here, and yields once the budget is
//! spent. A unit is about a microsecond; a poll has about a thousand (`executor.rs`). The cost of a step is
//! estimated from its bytes; the estimate need only be of the right order.

use std::task::{Context, Poll};

use crate::runtime::executor::with;
use crate::runtime::yield_now;

/// Charges work that was done to the task being polled. False if the budget is spent: the task should yield
/// before it does more.
pub fn charge(work: u32) -> bool {
    with(|current| current.charge(work))
}

/// Bytes that an I/O operation may move at its basic charge.
pub(super) const TRANSFER_BYTES: usize = 64 * 1024;
/// Bytes that the kernel copies in a microsecond.
const COPIED_BYTES: usize = 4096;

/// Charges an I/O operation for the bytes it moved beyond [`TRANSFER_BYTES`].
#[cold]
pub(super) fn transferred(count: usize) {
    charge((count.saturating_sub(TRANSFER_BYTES) / COPIED_BYTES) as u32);
}

/// Charges work, and lets the other tasks run first if the budget is spent.
pub async fn worked(work: u32) {
    if !charge(work) {
        yield_now().await;
    }
}

/// Pending if the budget of this poll is spent; the task is then polled again in the next turn.
pub fn poll_budget(cx: &mut Context<'_>) -> Poll<()> {
    if charge(0) {
        return Poll::Ready(());
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::rc::Rc;

    use super::*;
    use crate::runtime::{Io, POLL_WORK, Runtime, spawn};

    fn pair() -> (Io, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Io::register(ours.into()).unwrap(), theirs)
    }

    type Events = Rc<RefCell<Vec<&'static str>>>;

    /// Repeats `step` in one task while another waits for a byte that a first task sends. Returns the events
    /// in their order. Only epoll can report the byte.
    fn beside_a_waiting_task<F: Future<Output = ()>>(
        step: impl FnMut(Events) -> F + 'static,
    ) -> Vec<&'static str> {
        Runtime::new().unwrap().block_on(async move {
            let events = Events::default();
            let (io, mut other) = pair();
            let waiting = events.clone();
            spawn(async move {
                io.read(&mut [0]).await.unwrap();
                waiting.borrow_mut().push("byte");
            });
            yield_now().await; // the other task waits now
            let (busy, mut step) = (events.clone(), step);
            spawn(async move {
                other.write_all(b"x").unwrap();
                for _ in 0..1000 {
                    step(busy.clone()).await;
                }
                busy.borrow_mut().push("end");
            });
            while events.borrow().last() != Some(&"end") {
                yield_now().await;
            }
            events.take()
        })
    }

    fn steps_before_the_byte(events: &[&str]) -> usize {
        events.iter().position(|event| *event == "byte").expect("it was read")
    }

    #[test]
    fn work_without_io_yields_to_what_epoll_reports() {
        let events = beside_a_waiting_task(|events| async move {
            events.borrow_mut().push("step");
            worked(POLL_WORK / 10 + 1).await;
        });
        assert_eq!(events.len(), 1002);
        // one poll's worth, then epoll is asked before the busy task continues
        assert_eq!(steps_before_the_byte(&events), 10);
    }

    #[test]
    fn io_operations_are_counted_against_the_same_budget() {
        let events = beside_a_waiting_task(|events| async move {
            events.borrow_mut().push("step");
            let (io, _other) = pair();
            io.write(b"x").await.unwrap();
            charge(POLL_WORK / 32);
        });
        assert_eq!(steps_before_the_byte(&events), 17); // 32 half used, and the one that found nothing left
    }

    #[test]
    fn a_task_that_wakes_itself_is_polled_once_a_turn() {
        let events = beside_a_waiting_task(|events| async move {
            events.borrow_mut().push("step");
            yield_now().await;
        });
        assert_eq!(steps_before_the_byte(&events), 1);
    }

    #[test]
    fn two_tasks_that_wake_each_other_do_not_keep_the_turn() {
        let events = beside_a_waiting_task(|events| async move {
            events.borrow_mut().push("step");
            let (sender, receiver) = crate::runtime::channel::oneshot();
            spawn(async move {
                charge(POLL_WORK);
                let _ = sender.send(());
            });
            receiver.recv().await;
        });
        assert!(steps_before_the_byte(&events) <= 64, "{}", steps_before_the_byte(&events));
    }

    #[test]
    fn an_operation_that_moves_much_is_charged_for_it() {
        Runtime::new().unwrap().block_on(async {
            yield_now().await; // to get a fresh budget
            transferred(TRANSFER_BYTES + (POLL_WORK as usize - 1) * COPIED_BYTES);
            assert!(charge(0));
            transferred(TRANSFER_BYTES + COPIED_BYTES);
            assert!(!charge(0));
            yield_now().await;
            assert!(charge(0));
        });
    }
}
