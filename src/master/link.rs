//! The link between two masters during an upgrade: its messages, and the versions of the programs at its
//! ends.
//!
//! Each end begins with `Hello`, which names the version of these messages. A master does not talk to one of another
//! version: it keeps the link only to see when that one ends. No worker has either end.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use crate::base::frame::{self, Fields, Frame};
use crate::log;
use crate::net::handover::{Handover, MovedSession, MovedTunnel};
use crate::shm::lanes::{LANES, Lane};
use crate::sys::msg;
use crate::worker::messages::{
    BYTES_MAX, put_inet, read_handover, read_session, read_tunnel, take_inet, write_handover, write_session,
    write_tunnel,
};

/// The version of the link's messages and of `PRONGHORN_FDS`. It changes with the meaning of any of them.
pub const VERSION: u32 = 6;

/// Maximum number of messages read in one turn of the master's loop.
const A_TURN_MAX: usize = 256;

/// A set of lanes, one bit for each.
pub type LaneSet = [u8; LANES / 8];

/// A message between two masters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The first message of each. `lanes` are those of the shared memory that the receiver may give to its
    /// workers.
    Hello { version: u32, lanes: Box<LaneSet> },
    /// An idle connection. Its descriptor comes with the message; the connection's own address determines the
    /// listener.
    HandOver(Handover),
    /// A tunnel. Its descriptors come with the message.
    Tunnel(MovedTunnel),
    /// A session of datagrams, with the address of its listener. Its upstream's socket comes with the message.
    Session(SocketAddr, MovedSession),
    /// The sender's workers do not receive datagrams any more, and their sessions were sent before: the receiver's
    /// workers receive them.
    Released,
    /// The lanes of all workers that this master has now, and their processes.
    Workers(Vec<(Lane, i32)>),
    /// From the newer master: its prober checks the servers of upstreams, or does so no more.
    Probing(bool),
}

/// Bytes of a worker in a message.
const WORKER_BYTES: usize = 6;

const _: () = assert!(frame::HEAD_BYTES + LANES * WORKER_BYTES <= BYTES_MAX);

impl Message {
    pub fn to_bytes(&self) -> Vec<u8> {
        let sequence = 0; // the link is a socket of two masters only, which trust each other
        match self {
            Self::Hello { version, lanes } => frame::write(b'V', sequence, |out| {
                out.extend_from_slice(&version.to_le_bytes());
                out.extend_from_slice(&**lanes);
            }),
            Self::HandOver(handover) => frame::write(b'H', sequence, |out| write_handover(handover, out)),
            Self::Tunnel(tunnel) => frame::write(b'T', sequence, |out| write_tunnel(tunnel, out)),
            Self::Session(address, session) => frame::write(b'S', sequence, |out| {
                put_inet(out, address);
                write_session(session, out);
            }),
            Self::Released => frame::write(b'R', sequence, |_| {}),
            Self::Workers(workers) => frame::write(b'W', sequence, |out| {
                for (lane, pid) in workers.iter().take(LANES) {
                    out.extend_from_slice(&(lane.number() as u16).to_le_bytes());
                    out.extend_from_slice(&pid.to_le_bytes());
                }
            }),
            Self::Probing(is_on) => frame::write(b'P', sequence, |out| out.push(u8::from(*is_on))),
        }
    }

    /// The number of descriptors that come with it.
    fn fd_count(&self) -> usize {
        match self {
            Self::HandOver(_) | Self::Session(..) => 1,
            Self::Tunnel(tunnel) => tunnel.fd_count(),
            Self::Hello { .. } | Self::Released | Self::Workers(_) | Self::Probing(_) => 0,
        }
    }

    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let Frame { tag, payload, .. } = Frame::parse(bytes)?;
        let mut fields = Fields(payload);
        match tag {
            b'V' => {
                let (version, lanes) = (fields.u32()?, Box::new(fields.bytes()?));
                fields.end(Self::Hello { version, lanes })
            }
            b'H' => read_handover(fields).map(Self::HandOver),
            b'T' => read_tunnel(fields).map(Self::Tunnel),
            b'S' => {
                let address = take_inet(&mut fields)?;
                read_session(fields).map(|session| Self::Session(address, session))
            }
            b'R' => fields.end(Self::Released),
            b'W' => {
                let (workers, rest) = fields.rest().as_chunks::<WORKER_BYTES>();
                let worker = |bytes: &[u8; WORKER_BYTES]| {
                    let mut fields = Fields(bytes);
                    let lane = Lane::of_number(usize::from(fields.u16()?))?;
                    let pid = i32::try_from(fields.u32()?).ok()?;
                    Some((lane, pid))
                };
                let workers: Option<Vec<_>> = workers.iter().map(worker).collect();
                workers.filter(|_| rest.is_empty()).map(Self::Workers)
            }
            b'P' => {
                let is_on = fields.u8()?;
                (is_on <= 1).then(|| fields.end(Self::Probing(is_on == 1))).flatten()
            }
            _ => None,
        }
    }
}

/// Our end of the link to the other master.
#[derive(Debug)]
pub struct Link {
    pub fd: OwnedFd,
    /// The other master has said hello in our version.
    speaks: bool,
    /// We know that the other master speaks another version.
    is_refused: bool,
}

impl Link {
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd, speaks: false, is_refused: false }
    }

    /// Reads the hello that the older master sent before it executed this program. `None`: it speaks another
    /// version, so that nothing it has named can be relied upon except the descriptors.
    pub fn meet(&mut self) -> Option<Box<LaneSet>> {
        let mut buffer = [0; BYTES_MAX];
        let length = msg::receive(self.fd.as_fd(), &mut buffer).map_or(0, |message| message.length);
        // There is no message: the older master's version does not send one.
        match Message::from_bytes(&buffer[..length]) {
            Some(Message::Hello { version: VERSION, lanes }) => {
                self.speaks = true;
                Some(lanes)
            }
            _ => None,
        }
    }

    /// True if the other master has said hello in our version.
    pub fn speaks(&self) -> bool {
        self.speaks
    }

    fn refuse(&mut self) {
        self.speaks = false;
        if !std::mem::replace(&mut self.is_refused, true) {
            log::error!(
                log::process(),
                &(),
                "the other master speaks another version of the link than {VERSION}: no connection is handed over \
                 between the two, each serves its own to their end"
            );
        }
    }

    /// False if the other master has not kept up, is gone, or speaks another version.
    pub fn send(&self, message: &Message, fds: &[OwnedFd]) -> bool {
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let may_send = self.speaks || matches!(message, Message::Hello { .. });
        may_send && msg::send(self.fd.as_fd(), &message.to_bytes(), &fds).is_ok()
    }

    /// Appends the messages that have come; false if the other master is gone.
    pub fn receive(&mut self, found: &mut Vec<(Message, Vec<OwnedFd>)>) -> bool {
        let mut buffer = [0; BYTES_MAX];
        for _ in 0..A_TURN_MAX {
            let received = match msg::receive(self.fd.as_fd(), &mut buffer) {
                Ok(received) if received.length == 0 => return false,
                Ok(received) => received,
                // It has ended with messages of ours unread; those that it had sent still arrive (unix(7)).
                Err(nix::Error::ECONNRESET) => continue,
                Err(error) => return error == nix::Error::EAGAIN,
            };
            match Message::from_bytes(&buffer[..received.length]) {
                Some(Message::Hello { version: VERSION, .. }) => self.speaks = !self.is_refused,
                Some(message) if self.speaks && received.fds.len() <= message.fd_count() => {
                    found.push((message, received.fds));
                }
                _ => self.refuse(),
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::handover::{TlsState, TunnelOf, TunnelState};

    fn workers() -> Message {
        let lane = |number| Lane::of_number(number).expect("a lane");
        Message::Workers(vec![(lane(1), 100), (lane(LANES - 1), i32::MAX)])
    }

    fn hello(version: u32) -> Message {
        Message::Hello { version, lanes: Box::new([0x5a; LANES / 8]) }
    }

    #[test]
    fn messages_survive_the_journey() {
        let handover = Handover {
            listen: 0,
            requests: 1,
            idle_ms_left: 2,
            opened_ms_ago: 3,
            number: 4,
            proxy: Box::default(),
            tls: TlsState::default(),
        };
        let tunnel = MovedTunnel { listen: 1, of: TunnelOf::Http, state: TunnelState::default() };
        let client = ([192, 0, 2, 1], 5353).into();
        let session = MovedSession { listen: 2, client, state: TunnelState::default() };
        let session = Message::Session(([0, 0, 0, 0], 53).into(), session);
        let probing = Message::Probing(true);
        let others = [Message::Tunnel(tunnel), session, workers(), Message::Workers(Vec::new()), probing];
        for message in [hello(VERSION), Message::HandOver(handover)].into_iter().chain(others) {
            let bytes = message.to_bytes();
            assert_eq!(Message::from_bytes(&bytes), Some(message));
            assert_eq!(Message::from_bytes(&[&bytes[..], b"x"].concat()), None);
        }
        assert_eq!(Message::from_bytes(&Message::Released.to_bytes()), Some(Message::Released));
        let all = (0..LANES).filter_map(Lane::of_number).map(|lane| (lane, i32::MAX)).collect();
        assert!(Message::Workers(all).to_bytes().len() <= BYTES_MAX);
    }

    #[test]
    fn a_master_that_ends_with_something_unread_has_still_sent_what_it_sent() {
        let (ours, theirs) = msg::pair().expect("a pair");
        let (mut ours, theirs) = (Link::new(ours), Link::new(theirs));
        assert!(theirs.send(&hello(VERSION), &[]));
        assert!(ours.meet().is_some());
        assert!(ours.send(&workers(), &[]));
        assert!(msg::send(theirs.fd.as_fd(), &workers().to_bytes(), &[]).is_ok());
        drop(theirs);
        let mut found = Vec::new();
        assert!(!ours.receive(&mut found), "it is gone");
        assert_eq!(found.into_iter().map(|(message, _)| message).collect::<Vec<_>>(), [workers()]);
    }

    #[test]
    fn another_version_is_not_talked_to() {
        for first in
            [hello(VERSION + 1).to_bytes(), workers().to_bytes(), b"H127.0.0.1:80\n1\n2\n3\n4\n".to_vec()]
        {
            let (ours, theirs) = msg::pair().expect("a pair");
            let mut ours = Link::new(ours);
            for bytes in [first, workers().to_bytes()] {
                msg::send(theirs.as_fd(), &bytes, &[]).expect("sent");
            }
            let mut found = Vec::new();
            assert!(ours.receive(&mut found), "it is still there");
            assert!(found.is_empty() && !ours.send(&workers(), &[]));
        }
    }
}
