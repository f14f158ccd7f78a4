//! The master's side of one worker: its process, its socket, what it accepts from.

use std::os::fd::{AsFd, OwnedFd};

use crate::http::Handover;
use crate::master::respawn::Loan;
use crate::shm::lanes::Lane;
use crate::sys::msg;
use crate::worker::control::{BYTES_MAX, SlotIndex, ToMaster, ToWorker};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Starting,
    Ready,
    /// It was told to leave.
    Leaving,
}

/// A worker that does not move.
#[derive(Debug)]
pub struct Stuck {
    pub since_ms: u64,
    /// Who accepts from its slots meanwhile.
    pub helper: Option<Loan>,
}

#[derive(Debug)]
pub struct Worker {
    pub pid: i32,
    pub number: usize,
    pub generation: u64,
    pub lane: Lane,
    pub control: OwnedFd,
    /// The worker's own end, kept so that what a dead worker has not read is not lost.
    pub far_end: OwnedFd,
    pub state: State,
    pub born_ms: u64,
    /// How long it may take to leave, by the configuration it has.
    pub shutdown_ms: Option<u64>,
    /// When a worker that was told to leave is killed.
    pub leave_by_ms: Option<u64>,
    /// It has told that it accepts no more.
    pub has_closed: bool,
    /// The slots it accepts from by its number: indexes of the list that every worker of its generation has.
    pub leased: Vec<SlotIndex>,
    /// When it was asked for a sign of life that has not come yet.
    pub asked_ms: Option<u64>,
    pub stuck: Option<Stuck>,
}

impl Worker {
    /// False: its socket is full or gone.
    pub fn send(&self, message: &ToWorker) -> bool {
        msg::send(self.control.as_fd(), &message.to_bytes(), &[]).is_ok()
    }

    pub fn adopt(&self, connection: &Connection) -> bool {
        let bytes = ToWorker::Adopt(connection.handover.clone()).to_bytes();
        msg::send(self.control.as_fd(), &bytes, &[connection.fd.as_fd()]).is_ok()
    }

    /// Takes a new connection, or one of another worker.
    pub fn can_take(&self, generation: u64) -> bool {
        self.generation == generation && self.state == State::Ready && self.stuck.is_none()
    }

    /// Connections that were sent to it and that it will not read any more.
    pub fn unread(&self) -> Vec<Connection> {
        let mut found = Vec::new();
        while let Some((bytes, fd)) = receive(&self.far_end) {
            if let (Some(ToWorker::Adopt(handover)), Some(fd)) = (ToWorker::from_bytes(&bytes), fd) {
                found.push(Connection { handover, fd, is_from_link: false });
            }
        }
        found
    }
}

/// An idle connection between two workers.
#[derive(Debug)]
pub struct Connection {
    pub handover: Handover,
    pub fd: OwnedFd,
    /// It came from the other master, so it does not go back there.
    pub is_from_link: bool,
}

/// One message, `None` when there is none now or the other side is gone.
pub fn receive(fd: &OwnedFd) -> Option<(Vec<u8>, Option<OwnedFd>)> {
    let mut buffer = [0; BYTES_MAX];
    match msg::receive(fd.as_fd(), &mut buffer) {
        Ok(msg::Message { length: 0, .. }) | Err(_) => None,
        Ok(mut message) => Some((buffer[..message.length].to_vec(), only(&mut message))),
    }
}

/// The descriptor of a message that may carry one. More than one, or a message that was cut, carries none.
fn only(message: &mut msg::Message) -> Option<OwnedFd> {
    let is_whole = message.fds.len() == 1 && !message.is_cut && !message.has_lost_fds;
    message.fds.pop().filter(|_| is_whole)
}

/// The other master's end: what came, and whether it is still there.
#[derive(Debug)]
pub struct Link {
    pub fd: OwnedFd,
}

impl Link {
    pub fn send(&self, message: &ToMaster, fd: Option<&OwnedFd>) -> bool {
        let fds: Vec<_> = fd.iter().map(|fd| fd.as_fd()).collect();
        msg::send(self.fd.as_fd(), &message.to_bytes(), &fds).is_ok()
    }

    /// False when the other master is gone.
    pub fn receive(&self, found: &mut Vec<(ToMaster, Option<OwnedFd>)>) -> bool {
        let mut buffer = [0; BYTES_MAX];
        loop {
            match msg::receive(self.fd.as_fd(), &mut buffer) {
                Ok(msg::Message { length: 0, .. }) => return false,
                Ok(mut received) => {
                    if let Some(message) = ToMaster::from_bytes(&buffer[..received.length]) {
                        found.push((message, only(&mut received)));
                    }
                }
                // It has ended with a message of ours unread; what it had sent is here all the same (unix(7)).
                Err(nix::Error::ECONNRESET) => {}
                Err(error) => return error == nix::Error::EAGAIN,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_that_ends_with_something_unread_has_still_sent_what_it_sent() {
        let (ours, theirs) = msg::pair().expect("a pair");
        let (ours, theirs) = (Link { fd: ours }, Link { fd: theirs });
        assert!(ours.send(&ToMaster::Ready, None));
        assert!(theirs.send(&ToMaster::Pong, None) && theirs.send(&ToMaster::Closed, None));
        drop(theirs);
        let mut found = Vec::new();
        assert!(!ours.receive(&mut found), "it is gone");
        let messages: Vec<ToMaster> = found.into_iter().map(|(message, _)| message).collect();
        assert_eq!(messages, [ToMaster::Pong, ToMaster::Closed]);
    }
}
