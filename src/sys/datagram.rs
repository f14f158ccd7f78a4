//! UDP sockets that serve many clients.
//!
//! Truth: udp(7), ip(7) IP_PKTINFO, ipv6(7) IPV6_RECVPKTINFO.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::libc;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::sys::address::SockAddr;
use crate::sys::datagrams;
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
    datagrams::gather(&SockRef::from(&socket));
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
