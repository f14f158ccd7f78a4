//! The kind of a descriptor that another process has sent, which may be hostile.
//!
//! Touches: the descriptor, which it only asks.

use std::os::fd::BorrowedFd;

use socket2::{Domain, SockRef, Type};

use crate::sys::address::SockAddr;
use crate::sys::socket;

/// The kind of a descriptor that another process has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nature {
    /// Not a client's connection. The words name it, with an article.
    Other(&'static str),
    /// A stream socket that was never connected, or whose connection was reset.
    Unconnected,
    /// A stream socket with this local address whose connection has ended in both directions. It has no peer any more,
    /// but may have bytes that have not been read.
    Ended(SockAddr),
    /// A connected stream socket with this local address.
    Connected(SockAddr),
}

/// Determines the kind of a descriptor. Never waits, and changes nothing.
pub fn of(fd: BorrowedFd<'_>) -> Nature {
    let socket_ref = SockRef::from(&fd);
    match socket_ref.r#type() {
        Ok(Type::STREAM) => {}
        Ok(_) => return Nature::Other("a socket of another kind"),
        Err(_) => return Nature::Other("a descriptor that is not a socket"),
    }
    // The address says the family too: a reload may bring tens of thousands of connections.
    let Ok(local) = socket_ref.local_addr() else { return Nature::Unconnected };
    let family = Domain::from(i32::from(local.family()));
    if ![Domain::IPV4, Domain::IPV6, Domain::UNIX].contains(&family) {
        return Nature::Other("a socket of another kind");
    }
    let local = socket::from_raw(&local);
    if socket_ref.peer_addr().is_ok() {
        return Nature::Connected(local); // a listening socket has no peer
    }
    if socket_ref.is_listener().unwrap_or(true) {
        return Nature::Other("a listening socket");
    }
    match local.inet() {
        Some(inet) if inet.port() != 0 => Nature::Ended(local),
        _ => Nature::Unconnected,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use socket2::Socket;

    use super::*;

    #[test]
    fn a_connection_that_has_ended_keeps_its_local_address() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut client = TcpStream::connect(address).expect("a connection");
        let (accepted, _) = listener.accept().expect("a connection");
        let local = SockAddr::Inet(address);
        assert_eq!(of(accepted.as_fd()), Nature::Connected(local.clone()));
        accepted.shutdown(Shutdown::Write).expect("it was open");
        client.write_all(b"last").expect("its other direction is open");
        drop(client);
        assert_eq!(of(accepted.as_fd()), Nature::Ended(local));
        let mut left = String::new();
        (&accepted).read_to_string(&mut left).expect("it ended in order");
        assert_eq!(left, "last");
        let fresh = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        assert_eq!(of(fresh.as_fd()), Nature::Unconnected);
    }
}
