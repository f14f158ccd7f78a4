//! The datagrams of one client that wait for its session.
//!
//! Bounded: a session that is behind loses datagrams, as a socket does. Touches: nothing.

use std::cell::{Cell, RefCell};
use std::task::{Context, Poll, Waker};

use crate::sys::datagrams::Outbox;

/// Datagrams of one client that may wait for its session: more than one turn receives.
const COUNT_MAX: usize = 128;

/// The bytes of these datagrams: about as many as a socket holds (`net.core.rmem_default`).
const WAITING_BYTES_MAX: usize = 256 * 1024;

/// One session's datagrams, in their order.
#[derive(Debug, Default)]
pub struct Inbox {
    waiting: RefCell<Outbox>,
    session: RefCell<Option<Waker>>,
    /// Datagrams were lost since the session took some the last time.
    is_full: Cell<bool>,
}

/// Why a datagram was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// It is the first one that is lost since the session was behind.
    First,
    Again,
}

impl Inbox {
    /// Adds a datagram.
    pub fn push(&self, bytes: &[u8]) -> Result<(), Full> {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.count() >= COUNT_MAX || waiting.bytes() + bytes.len() > WAITING_BYTES_MAX {
            return Err(if self.is_full.replace(true) { Full::Again } else { Full::First });
        }
        waiting.push(bytes, None);
        drop(waiting);
        let session = self.session.borrow_mut().take();
        if let Some(session) = session {
            session.wake();
        }
        Ok(())
    }

    /// Ready when a datagram waits.
    pub fn poll_some(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.waiting.borrow().is_empty() {
            return Poll::Ready(());
        }
        *self.session.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Lets the session send or take what waits. An empty one keeps no memory.
    pub fn take<T>(&self, take: impl FnOnce(&mut Outbox) -> T) -> T {
        self.is_full.set(false);
        take(&mut self.waiting.borrow_mut())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_count_and_bytes_are_bounded_and_the_first_loss_is_known() {
        let inbox = Inbox::default();
        (0..COUNT_MAX).for_each(|_| assert_eq!(inbox.push(b"x"), Ok(())));
        assert_eq!((inbox.push(b"x"), inbox.push(b"x")), (Err(Full::First), Err(Full::Again)));
        inbox.take(|waiting| waiting.skip(2, false));
        assert_eq!(inbox.push(b""), Ok(()));
        inbox.take(|waiting| waiting.skip(usize::MAX, false));
        let largest = vec![0; 65_507];
        let fits = WAITING_BYTES_MAX / largest.len();
        (0..fits).for_each(|_| assert_eq!(inbox.push(&largest), Ok(())));
        assert_eq!(inbox.push(&largest), Err(Full::First));
    }
}
