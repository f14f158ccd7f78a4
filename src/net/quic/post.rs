//! Datagrams of QUIC on their way between the processes of this server: one whose connection ID is that of another process
//! is passed on to it.
//!
//! That happens while an older worker finishes its connections after a reload, when a client's address has changed, and while
//! a worker is stuck. Each process receives at a port of its own on the loopback interface, which its lane tells; what comes
//! there is marked with a code that only these processes can make (HMAC), since other programs of the machine can send to it
//! too. What has no room is lost, as it could be on its way. Touches: one UDP socket, the process's lane.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;

use aws_lc_rs::hmac;
use socket2::SockRef;

use crate::base::frame::{Fields, put_vector16};
use crate::net::quic::Keys;
use crate::net::quic::endpoint::Way;
use crate::runtime::Io;
use crate::shm::lanes::{self, Lane};

/// The bytes of a code.
const CODE_BYTES: usize = 16;
/// The longest datagram that is passed on: those of QUIC are far shorter.
const BYTES_MAX: usize = 16 * 1024;
/// Bytes that the socket may hold; the kernel caps it at net.core.rmem_max.
const WAITING_BYTES: usize = 4 << 20;

/// A process's place for datagrams that others pass on.
#[derive(Debug)]
pub struct Post {
    pub io: Io,
    key: hmac::Key,
}

/// A datagram that was passed on.
#[derive(Debug, PartialEq, Eq)]
pub struct Passed<'a> {
    /// The address of its listener.
    pub listener: SocketAddr,
    pub way: Way,
    pub bytes: &'a [u8],
}

impl Post {
    /// Opens the socket, and tells the others where it is.
    pub fn open(keys: &Keys) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let _ = SockRef::from(&socket).set_recv_buffer_size(WAITING_BYTES);
        let port = socket.local_addr()?.port();
        let io = Io::register(OwnedFd::from(socket))?;
        lanes::tell_post(port);
        Ok(Self { io, key: hmac::Key::new(hmac::HMAC_SHA256, &keys.post) })
    }

    /// Passes a datagram on to the process of a lane. False: there is none.
    pub fn send(&self, lane: usize, passed: &Passed<'_>) -> bool {
        let Some(port) = Lane::of_number(lane).and_then(lanes::post) else { return false };
        if passed.bytes.len() > BYTES_MAX {
            return true;
        }
        let message = encode(&self.key, passed);
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let _ = self.io.try_send(|fd| {
            let to = nix::sys::socket::SockaddrStorage::from(to);
            let flags = nix::sys::socket::MsgFlags::MSG_DONTWAIT;
            nix::sys::socket::sendto(std::os::fd::AsRawFd::as_raw_fd(&fd), &message, &to, flags)
        });
        true
    }

    /// Reads what has been received. `None`: no process of this server has sent it.
    pub fn read<'a>(&self, message: &'a [u8]) -> Option<Passed<'a>> {
        decode(&self.key, message)
    }
}

fn encode(key: &hmac::Key, passed: &Passed<'_>) -> Vec<u8> {
    let mut message = vec![0; CODE_BYTES];
    let Way { from, to, mark } = passed.way;
    for text in
        [passed.listener.to_string(), from.to_string(), to.map(|ip| ip.to_string()).unwrap_or_default()]
    {
        put_vector16(&mut message, text.as_bytes());
    }
    message.push(mark);
    message.extend_from_slice(passed.bytes);
    let code = hmac::sign(key, &message[CODE_BYTES..]);
    message[..CODE_BYTES].copy_from_slice(&code.as_ref()[..CODE_BYTES]);
    message
}

fn decode<'a>(key: &hmac::Key, message: &'a [u8]) -> Option<Passed<'a>> {
    let (code, rest) = message.split_at_checked(CODE_BYTES)?;
    let expected = hmac::sign(key, rest);
    aws_lc_rs::constant_time::verify_slices_are_equal(code, &expected.as_ref()[..CODE_BYTES]).ok()?;
    let mut fields = Fields(rest);
    let mut text = || std::str::from_utf8(fields.vector16()?).ok();
    let (listener, from, to) = (text()?.parse().ok()?, text()?.parse().ok()?, text()?);
    let to = if to.is_empty() { None } else { Some(to.parse().ok()?) };
    let mark = fields.u8()?;
    Some(Passed { listener, way: Way { from, to, mark }, bytes: fields.rest() })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn a_datagram_arrives_as_it_was_and_only_from_our_own() {
        let key = |byte: u8| hmac::Key::new(hmac::HMAC_SHA256, &[byte; 32]);
        for to in [None, Some(IpAddr::from([10, 0, 0, 1])), Some("fe80::1".parse().expect("an address"))] {
            let listener = "[::]:443".parse().expect("an address");
            let way = Way { from: ([192, 0, 2, 1], 5).into(), to, mark: 2 };
            let passed = Passed { listener, way, bytes: b"packet" };
            let message = encode(&key(1), &passed);
            assert_eq!(decode(&key(1), &message).as_ref(), Some(&passed));
            assert_eq!(decode(&key(2), &message), None);
            for at in 0..message.len() {
                let mut other = message.clone();
                other[at] ^= 1;
                assert_eq!(decode(&key(1), &other), None, "{at}");
                assert_eq!(decode(&key(1), &message[..at]), None, "{at}");
            }
        }
    }
}
