//! Datagrams of a UDP socket that serves many clients: who sent one, and to which address.
//!
//! Truth: udp(7), ip(7) IP_PKTINFO, ipv6(7) IPV6_RECVPKTINFO.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, SockaddrStorage, recvmsg, sendmsg,
};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::sys::address::SockAddr;
use crate::sys::socket::{self, ListenOptions};

/// Opens a UDP socket that learns with each datagram to which address it was sent: a wildcard's answers must come from
/// there.
pub(super) fn bind(inet: &SocketAddr, options: &ListenOptions) -> io::Result<OwnedFd> {
    let kind = Type::DGRAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(*inet), kind, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if inet.is_ipv6() {
        socket.set_only_v6(options.ipv6only)?;
    }
    if inet.ip().is_unspecified() {
        let (level, name) = match inet.is_ipv6() {
            true => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
            false => (libc::IPPROTO_IP, libc::IP_PKTINFO),
        };
        socket::set_option(&SockRef::from(&socket), level, name, 1)?;
    }
    let address = SockAddr::Datagram(Box::new(*inet));
    socket::set_options(SockRef::from(&socket), &address, &ListenOptions::default(), options)?;
    socket.bind(&socket::raw(&address)?)?;
    Ok(socket.into())
}

/// The address of a listening socket, which is told from the kind of the socket as well.
pub fn listener_addr(fd: impl AsFd) -> io::Result<SockAddr> {
    let address = socket::local_addr(&fd)?;
    Ok(match address {
        SockAddr::Inet(inet) if is_datagram(fd.as_fd()) => SockAddr::Datagram(Box::new(inet)),
        address => address,
    })
}

/// True for a UDP socket.
pub fn is_datagram(fd: BorrowedFd<'_>) -> bool {
    SockRef::from(&fd).r#type().is_ok_and(|kind| kind == Type::DGRAM)
}

/// One datagram that has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    pub length: usize,
    /// `None`: there was no datagram, the socket was shut down.
    pub from: Option<SocketAddr>,
    /// The address that it was sent to, if the socket listens on all of them.
    pub to: Option<IpAddr>,
}

/// Receives one datagram; never waits. What does not fit into the buffer is lost.
pub fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> nix::Result<Received> {
    let mut control = nix::cmsg_space!(libc::in6_pktinfo);
    let mut slices = [IoSliceMut::new(buffer)];
    let message =
        recvmsg::<SockaddrStorage>(fd.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
    let to = message.cmsgs().ok().and_then(|mut all| {
        all.find_map(|one| match one {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                Some(IpAddr::V4(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr))))
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                Some(IpAddr::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr)))
            }
            _ => None,
        })
    });
    Ok(Received { length: message.bytes, from: message.address.as_ref().and_then(inet), to })
}

/// Sends one datagram to a client; never waits. `from`: the address that the client had sent to, if the socket listens
/// on all of them.
pub fn send(fd: BorrowedFd<'_>, bytes: &[u8], to: SocketAddr, from: Option<IpAddr>) -> nix::Result<()> {
    let slices = [IoSlice::new(bytes)];
    let to = SockaddrStorage::from(to);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let sent = match from {
        None => sendmsg(fd.as_raw_fd(), &slices, &[], flags, Some(&to)),
        Some(IpAddr::V4(ip)) => {
            let source = libc::in_addr { s_addr: u32::from(ip).to_be() };
            let nowhere = libc::in_addr { s_addr: 0 };
            let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: source, ipi_addr: nowhere };
            let control = [ControlMessage::Ipv4PacketInfo(&info)];
            sendmsg(fd.as_raw_fd(), &slices, &control, flags, Some(&to))
        }
        Some(IpAddr::V6(ip)) => {
            let source = libc::in6_addr { s6_addr: ip.octets() };
            let info = libc::in6_pktinfo { ipi6_addr: source, ipi6_ifindex: 0 };
            let control = [ControlMessage::Ipv6PacketInfo(&info)];
            sendmsg(fd.as_raw_fd(), &slices, &control, flags, Some(&to))
        }
    };
    sent.map(drop)
}

fn inet(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::from((v4.ip(), v4.port())));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6: &SockaddrIn6| SocketAddrV6::from(*v6).into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::socket::listen;
    use std::net::UdpSocket;

    #[test]
    fn an_answer_comes_from_the_address_that_was_asked() {
        let any = SockAddr::Datagram(Box::new("0.0.0.0:0".parse().expect("an address")));
        let server = listen(&any, &ListenOptions::default()).expect("a socket");
        let address = listener_addr(&server).expect("bound");
        assert!(address.is_datagram());
        let port = address.port().expect("a port");
        let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        client.connect(("127.0.0.77", port)).expect("connects");
        client.send(b"question").expect("sent");
        let mut buffer = [0; 64];
        let received = receive(server.as_fd(), &mut buffer).expect("a datagram");
        assert_eq!(&buffer[..received.length], b"question");
        assert_eq!(received.from, client.local_addr().ok());
        assert_eq!(received.to, Some(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 77))));
        assert_eq!(receive(server.as_fd(), &mut buffer), Err(nix::Error::EAGAIN));
        send(server.as_fd(), b"answer", received.from.expect("a client"), received.to).expect("sent");
        // The client is connected: it would not take a datagram from another address.
        let length = client.recv(&mut buffer).expect("an answer");
        assert_eq!(&buffer[..length], b"answer");
    }
}
