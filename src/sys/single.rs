//! Sockets of short life with one purpose: a listener for one connection, urgent bytes, an end that is orderly after all.
//!
//! Touches: the sockets. Truth: tcp(7), socket(7).

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::MsgFlags;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Connections of strangers that wait to be closed must not keep the awaited one out.
const BACKLOG: i32 = 8;

/// Opens a listening socket for a single connection, in this process only: no other socket listens at its port. Port 0: the
/// kernel chooses. Errors: EADDRINUSE and the like.
pub fn listen(address: SocketAddr) -> io::Result<OwnedFd> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    // Connections that have ended at this port do not matter.
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Makes close(2) send what is unsent, and then the end, whatever was set before.
pub fn finish_on_close(fd: BorrowedFd<'_>) -> io::Result<()> {
    SockRef::from(&fd).set_linger(None)
}

/// Sends bytes of which the last one is urgent. Errors: EAGAIN, as for any other bytes.
pub fn send_urgent(fd: BorrowedFd<'_>, bytes: &[u8]) -> nix::Result<usize> {
    let flags = MsgFlags::MSG_OOB | MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    nix::sys::socket::send(fd.as_raw_fd(), bytes, flags)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use super::*;
    use crate::sys::socket::reset_on_close;

    #[test]
    fn nobody_else_listens_at_its_port() {
        let first = TcpListener::from(listen("127.0.0.1:0".parse().expect("an address")).expect("a port"));
        let address = first.local_addr().expect("it is bound");
        let second = listen(address).expect_err("the port is in use");
        assert_eq!(second.raw_os_error(), Some(nix::libc::EADDRINUSE));
    }

    #[test]
    fn an_end_can_become_orderly_again() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("it is bound");
        for is_orderly in [true, false] {
            let mut client = TcpStream::connect(address).expect("it listens");
            let (mut server, _) = listener.accept().expect("a connection");
            reset_on_close(server.as_fd()).expect("a socket");
            if is_orderly {
                finish_on_close(server.as_fd()).expect("a socket");
                server.write_all(b"all").expect("it is open");
            }
            drop(server);
            let mut got = Vec::new();
            assert_eq!(
                (client.read_to_end(&mut got).is_ok(), got.len()),
                (is_orderly, 3 * usize::from(is_orderly))
            );
        }
    }
}
