//! Messages of a worker to its master that are not sent yet, with the connections on their way to the new generation.
//!
//! The control task sends them in their order. During a reload thousands of connections may follow each other, and that
//! task has its turn after all of theirs: they are then sent from here, so that the master and the new workers go on
//! meanwhile, and few messages wait in memory. Touches: the socket to the master.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Waker};

use crate::runtime::Io;
use crate::sys::msg;
use crate::worker::messages::{Learned, ToMaster};

/// The number of waiting messages from which on they are sent at once. Fewer wait for the control task, which costs the
/// connection that has caused one nothing.
const AT_ONCE_FROM: usize = 16;

/// A message, and the descriptors that travel with it.
pub type Mail = (ToMaster, Vec<OwnedFd>);

/// The messages of a worker that wait; see the module.
pub struct Outbox {
    /// The socket to the master, which the control task reads too.
    pub io: Io,
    /// The sequence number of the last message that was sent.
    sent: Cell<u32>,
    waiting: RefCell<VecDeque<Mail>>,
    /// The control task, once it waits.
    sender: Cell<Option<Waker>>,
}

impl fmt::Debug for Outbox {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Outbox")
    }
}

impl Outbox {
    pub fn new(io: Io) -> Self {
        Self { io, sent: Cell::new(0), waiting: RefCell::default(), sender: Cell::new(None) }
    }

    /// Adds a message, which is sent soon.
    pub fn push(&self, message: ToMaster, fds: Vec<OwnedFd>) {
        self.waiting.borrow_mut().push_back((message, fds));
        if self.waiting.borrow().len() < AT_ONCE_FROM || self.send() {
            self.wake_sender();
        }
    }

    /// Adds news about a name, replacing those about the same name that were not sent yet.
    pub fn push_learned(&self, learned: Learned) {
        put_learned(&mut self.waiting.borrow_mut(), learned);
        self.wake_sender();
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    /// Removes the next news about a name.
    pub fn take_learned(&self) -> Option<Learned> {
        let mut waiting = self.waiting.borrow_mut();
        let index = waiting.iter().position(|(message, _)| matches!(message, ToMaster::Learned(_)))?;
        match waiting.remove(index) {
            Some((ToMaster::Learned(learned), _)) => Some(learned),
            _ => None,
        }
    }

    /// Sends what waits, and has the task woken when something is added. False: the master cannot take it all now; the
    /// task is woken once it can, unless too many descriptors are on their way (unix(7)), of which no event tells.
    pub fn poll_send(&self, cx: &mut Context<'_>) -> bool {
        self.sender.set(Some(cx.waker().clone()));
        let is_sent = self.send();
        if !is_sent {
            let _ = self.io.or_wait_write(cx, Err(io::ErrorKind::WouldBlock.into()));
        }
        is_sent
    }

    /// Sends what waits; false if some is left.
    fn send(&self) -> bool {
        loop {
            // A separate statement, so that the cell is free again when the message is put back.
            let next = self.waiting.borrow_mut().pop_front();
            let Some((message, owned)) = next else { return true };
            let bytes = message.to_bytes(self.sent.get().wrapping_add(1));
            let fds: Vec<_> = owned.iter().map(AsFd::as_fd).collect();
            let sent =
                self.io.try_write_with(bytes.len(), |to| msg::send(to, &bytes, &fds).map(|()| bytes.len()));
            drop(fds);
            match sent {
                Ok(_) => self.sent.set(self.sent.get().wrapping_add(1)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.waiting.borrow_mut().push_front((message, owned));
                    return false;
                }
                // Without a master no worker can take the connection over: it closes.
                Err(_) => {}
            }
        }
    }

    fn wake_sender(&self) {
        if let Some(sender) = self.sender.take() {
            sender.wake_by_ref();
            self.sender.set(Some(sender));
        }
    }
}

/// Puts news about a name into the outbox, replacing unsent news about the same name: while the master is
/// busy, one message waits for each name, not one for each change.
fn put_learned(waiting: &mut VecDeque<Mail>, learned: Learned) {
    let is_it = |old: &Learned| (old.group, old.server) == (learned.group, learned.server);
    let unsent = waiting.iter_mut().find_map(|(message, _)| match message {
        ToMaster::Learned(old) if is_it(old) => Some(old),
        _ => None,
    });
    match unsent {
        Some(old) => *old = learned,
        None => waiting.push_back((ToMaster::Learned(learned), Vec::new())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::known::Spot;

    #[test]
    fn news_of_one_name_waits_in_one_message() {
        let learned = |group, server, port| {
            let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
            Learned { group, server, spots: vec![Spot::from(crate::net::Address::Inet(address))] }
        };
        let mut outbox = VecDeque::from([(ToMaster::Ready, Vec::new())]);
        for (group, server, port) in [(0, 0, 1), (0, 1, 2), (1, 0, 3), (0, 0, 4), (0, 0, 5)] {
            put_learned(&mut outbox, learned(group, server, port));
        }
        let left: Vec<ToMaster> = outbox.into_iter().map(|(message, _)| message).collect();
        let news =
            [(0, 0, 5), (0, 1, 2), (1, 0, 3)].map(|(group, server, port)| learned(group, server, port));
        assert_eq!(left[0], ToMaster::Ready);
        assert_eq!(left[1..], news.map(ToMaster::Learned));
    }
}
