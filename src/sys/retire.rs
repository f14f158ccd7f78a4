//! Listening sockets that are being retired, or are not in use yet: hidden from new clients, while handshakes
//! in progress still complete.
//!
//! Closing a listener resets the connections in its queue and every handshake in progress. A hidden one gets
//! no new handshakes: the kernel picks the next socket that matches (a wildcard's, or the successor's), or
//! refuses. Once no handshake is in progress and the queue is empty, the listener can be closed without
//! losing a client.
//! Truth: socket(7) SO_BINDTODEVICE, sock_diag(7).

#![allow(unsafe_code)]

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send};
use socket2::{Domain, SockRef, Socket, Type};

use crate::sys::socket;

/// asm-generic/socket.h; the libc crate does not have it. Since Linux 5.1, without privileges since 5.7.
const SO_BINDTOIFINDEX: i32 = 62;
/// Index of a network interface that does not exist: no packet comes from it.
const NOWHERE: i32 = i32::MAX;

/// Time that handshakes in progress at a retired listener get: a round trip, and one lost packet, which is
/// sent again after a second (RFC 6298 §2).
pub const HANDSHAKE_MS_MAX: u64 = 2_000;
/// The same if the kernel cannot tell whether there are such handshakes.
const HANDSHAKE_MS: u64 = 200;

/// Stops new clients from reaching a listener; those whose handshake has begun still arrive. Best effort.
pub fn retire(listener: BorrowedFd<'_>) {
    if is_unix(listener) {
        // On a unix socket there are no handshakes, and queued connections can still be accepted (unix(7)).
        socket::shut_listener(listener);
    } else {
        let _ = hide(listener);
    }
}

/// Whether these listeners, retired `for_ms` ago, can be closed: no handshake is in progress and the queues
/// are empty, or that has taken too long.
pub fn are_drained<'a>(listeners: impl Iterator<Item = BorrowedFd<'a>>, for_ms: u64) -> bool {
    let fds: Vec<BorrowedFd<'a>> = listeners.filter(|fd| !is_unix(*fd)).collect();
    let port = |fd: &BorrowedFd<'a>| socket::local_addr(fd).ok().and_then(|address| address.port());
    let ports: HashSet<u16> = fds.iter().filter_map(port).collect();
    if ports.is_empty() || for_ms >= HANDSHAKE_MS_MAX {
        return true;
    }
    // Before the queues are checked: a handshake that completes in between is then found in one of them.
    let is_half_open = half_open(&ports).map_or(for_ms < HANDSHAKE_MS, |count| count > 0);
    let mut fds: Vec<PollFd<'_>> = fds.into_iter().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    let is_waited_for = poll(&mut fds, PollTimeout::ZERO).is_ok_and(|count| count > 0);
    !is_half_open && !is_waited_for
}

fn is_unix(listener: BorrowedFd<'_>) -> bool {
    SockRef::from(&listener).domain().is_ok_and(|domain| domain == Domain::UNIX)
}

/// Hides a listener from new clients. No privilege is needed for a socket that was never hidden.
///
/// If the kernel cannot hide it, the clients' first packet is dropped instead, and they try again a second
/// later.
pub(super) fn hide(listener: BorrowedFd<'_>) -> io::Result<()> {
    set(listener, SO_BINDTOIFINDEX, NOWHERE).or_else(|_| drop_new(listener))
}

/// Makes a hidden listener visible to clients. Errors: the process lacks CAP_NET_RAW.
pub fn reveal(listener: BorrowedFd<'_>) -> io::Result<()> {
    set(listener, SO_BINDTOIFINDEX, 0)
}

/// Whether new clients no longer reach this listener.
pub fn is_hidden(listener: BorrowedFd<'_>) -> bool {
    get(listener, SO_BINDTOIFINDEX).is_ok_and(|index| index == NOWHERE) || has_filter(listener)
}

/// The note of [`leave`]: how much data makes a socket readable, which means nothing for datagrams (socket(7), SO_RCVLOWAT).
const LEFT: i32 = 2;

/// Notes on a socket of datagrams that only the workers that have connections there receive from it: no newer one will.
pub fn leave(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, libc::SO_RCVLOWAT, LEFT)
}

/// Whether a socket has the note of [`leave`].
pub fn is_left(socket: BorrowedFd<'_>) -> bool {
    get(socket, libc::SO_RCVLOWAT).is_ok_and(|value| value == LEFT)
}

/// Whether this process can open hidden listeners and reveal them later.
pub fn can_reveal() -> bool {
    let Ok(scratch) = Socket::new(Domain::IPV4, Type::STREAM.cloexec(), None) else { return false };
    let scratch = SockRef::from(&scratch);
    let fd = std::os::fd::AsFd::as_fd(&*scratch);
    set(fd, SO_BINDTOIFINDEX, NOWHERE).and_then(|()| reveal(fd)).is_ok()
}

/// Drops packets that open a new connection: SYN without ACK. Accepted connections inherit the filter, which
/// lets all of their packets pass.
fn drop_new(listener: BorrowedFd<'_>) -> io::Result<()> {
    const FLAGS_BYTE: u32 = 13; // of the TCP header (RFC 9293 §3.1)
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    let op = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut program = [
        op(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, FLAGS_BYTE),
        op(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, SYN | ACK),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, SYN),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the kernel copies the program during the call.
    let outcome = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if outcome == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn has_filter(listener: BorrowedFd<'_>) -> bool {
    let mut count: libc::socklen_t = 0;
    // SAFETY: with a length of zero the kernel writes only the number of instructions (socket(7)).
    let outcome = unsafe {
        let (level, name) = (libc::SOL_SOCKET, libc::SO_GET_FILTER);
        libc::getsockopt(listener.as_raw_fd(), level, name, std::ptr::null_mut(), &raw mut count)
    };
    outcome == 0 && count > 0
}

/// Counts the handshakes in progress at these local ports. Errors: the kernel does not tell.
fn half_open(ports: &HashSet<u16>) -> io::Result<usize> {
    const REQUEST_BYTES: usize = 16 + 56; // nlmsghdr, inet_diag_req_v2
    const BY_FAMILY: u16 = 20; // linux/sock_diag.h
    const SYN_RECV: u32 = 1 << 3; // include/net/tcp_states.h
    let flags = SockFlag::SOCK_CLOEXEC;
    let netlink = nix::sys::socket::socket(
        AddressFamily::Netlink,
        SockType::Raw,
        flags,
        SockProtocol::NetlinkSockDiag,
    )?;
    let mut found = 0;
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut request = [0u8; REQUEST_BYTES];
        request[..4].copy_from_slice(&(REQUEST_BYTES as u32).to_ne_bytes());
        request[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
        let dump = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
        request[6..8].copy_from_slice(&dump.to_ne_bytes());
        (request[16], request[17]) = (family as u8, libc::IPPROTO_TCP as u8);
        request[20..24].copy_from_slice(&SYN_RECV.to_ne_bytes());
        send(netlink.as_raw_fd(), &request, MsgFlags::empty())?;
        let mut buffer = vec![0u8; 32 * 1024];
        loop {
            // The kernel had answered when send() returned, so there is nothing to wait for.
            let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT)?;
            match count_ports(&buffer[..length], ports) {
                (count, false) => found += count,
                (count, true) => {
                    found += count;
                    break;
                }
            }
        }
    }
    Ok(found)
}

/// Counts the messages in one part of the answer whose local port is one of these; true if it is the last
/// part.
fn count_ports(mut bytes: &[u8], ports: &HashSet<u16>) -> (usize, bool) {
    const LOCAL_PORT: usize = 16 + 4; // after nlmsghdr: four bytes, then inet_diag_sockid
    const DONE: u16 = libc::NLMSG_DONE as u16;
    const ERROR: u16 = libc::NLMSG_ERROR as u16;
    let mut count = 0;
    while let Some((head, _)) = bytes.split_at_checked(16) {
        let length = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let kind = u16::from_ne_bytes([head[4], head[5]]);
        if matches!(kind, DONE | ERROR) || length < 16 {
            return (count, true);
        }
        if let Some(port) = bytes.get(LOCAL_PORT..LOCAL_PORT + 2) {
            count += usize::from(ports.contains(&u16::from_be_bytes([port[0], port[1]])));
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    (count, false)
}

fn set(fd: BorrowedFd<'_>, name: i32, value: i32) -> io::Result<()> {
    let length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the kernel reads one int from `value`, which outlives the call.
    let outcome = unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, name, (&raw const value).cast(), length)
    };
    if outcome == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn get(fd: BorrowedFd<'_>, name: i32) -> io::Result<i32> {
    let mut value = 0;
    let mut length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `value`.
    let outcome = unsafe {
        let (level, value) = (libc::SOL_SOCKET, (&raw mut value).cast());
        libc::getsockopt(fd.as_raw_fd(), level, name, value, &raw mut length)
    };
    if outcome == -1 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsFd;

    use super::*;
    use crate::sys::address::SockAddr;
    use crate::sys::socket::{ListenOptions, accept, listen, local_addr};

    fn listener(address: &str, options: &ListenOptions) -> (std::os::fd::OwnedFd, SockAddr) {
        let fd = listen(&SockAddr::Inet(address.parse().expect("an address")), options).expect("listens");
        let address = local_addr(&fd).expect("bound");
        (fd, address)
    }

    fn connect(address: &SockAddr) -> io::Result<TcpStream> {
        TcpStream::connect(("127.0.0.1", address.port().expect("TCP")))
    }

    #[test]
    fn a_socket_that_is_left_still_receives() {
        let (server, client) = (UdpSocket::bind("127.0.0.1:0"), UdpSocket::bind("127.0.0.1:0"));
        let (server, client) = (server.expect("a socket"), client.expect("a socket"));
        assert!(!is_left(server.as_fd()));
        leave(server.as_fd()).expect("a note");
        assert!(is_left(server.as_fd()));
        client.send_to(b"x", server.local_addr().expect("bound")).expect("sent");
        let mut ready = [PollFd::new(server.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut ready, PollTimeout::from(5000_u16)), Ok(1));
    }

    #[test]
    fn a_hidden_listener_leaves_its_clients_to_the_wildcard_and_keeps_those_it_has() {
        let options = ListenOptions::default();
        let (specific, address) = listener("127.0.0.1:0", &options);
        let wildcard = format!("0.0.0.0:{}", address.port().expect("TCP"));
        let (wildcard, _) = listener(&wildcard, &options);
        let _waits = connect(&address).expect("connects");
        assert!(!is_hidden(specific.as_fd()));
        hide(specific.as_fd()).expect("hides");
        assert!(is_hidden(specific.as_fd()));
        let _comes = connect(&address).expect("connects");
        assert!(accept(wildcard.as_fd()).is_ok(), "the new one");
        assert!(accept(specific.as_fd()).is_ok(), "the one before");
        hide(wildcard.as_fd()).expect("hides");
        let refused = connect(&address).expect_err("both are hidden");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        if can_reveal() {
            reveal(specific.as_fd()).expect("may");
            connect(&address).expect("connects");
        }
    }

    #[test]
    fn a_handshake_that_is_half_way_is_seen_and_ends_where_it_began() {
        // The kernel keeps a deferred connection half open until its first byte.
        let options = ListenOptions { deferred: true, ..ListenOptions::default() };
        let (socket, address) = listener("127.0.0.1:0", &options);
        let ports = HashSet::from([address.port().expect("TCP")]);
        assert_eq!(half_open(&ports).expect("the kernel tells"), 0);
        let mut client = connect(&address).expect("connects");
        assert_eq!(half_open(&ports).expect("the kernel tells"), 1);
        assert_eq!(half_open(&HashSet::new()).expect("the kernel tells"), 0);
        hide(socket.as_fd()).expect("hides");
        io::Write::write_all(&mut client, b"x").expect("sends");
        assert!(accept(socket.as_fd()).is_ok());
        assert_eq!(half_open(&ports).expect("the kernel tells"), 0);
    }

    #[test]
    fn the_filter_drops_new_clients_and_nothing_else() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = listener.local_addr().expect("bound");
        let mut before = TcpStream::connect(address).expect("connects");
        assert!(!has_filter(listener.as_fd()));
        drop_new(listener.as_fd()).expect("attaches");
        assert!(is_hidden(listener.as_fd()));
        let (mut accepted, _) = listener.accept().expect("it waited");
        io::Write::write_all(&mut before, b"x").expect("sends");
        io::Read::read_exact(&mut accepted, &mut [0]).expect("receives");
        let late = std::time::Duration::from_millis(200);
        assert_eq!(
            TcpStream::connect_timeout(&address, late).expect_err("dropped").kind(),
            io::ErrorKind::TimedOut
        );
    }
}
