//! UDP sockets that serve many clients, and which socket of a group gets a client's datagrams.
//!
//! Truth: udp(7), ip(7) IP_PKTINFO, ipv6(7) IPV6_RECVPKTINFO.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::libc;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::sys::address::SockAddr;
use crate::sys::buffers::Buffers;
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

/// True for a UDP socket, or a unix one of datagrams, that is connected to a peer; `None`: it is another kind of descriptor.
pub fn is_connected(fd: BorrowedFd<'_>) -> Option<bool> {
    is_datagram(fd).then(|| SockRef::from(&fd).peer_addr().is_ok())
}

/// Opens a unix socket of datagrams for one peer. The kernel names it (unix(7), autobind), so that the peer can answer.
pub fn connect_unix(peer: &SockAddr, buffers: Buffers) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::UNIX, Type::DGRAM.nonblocking().cloexec(), None)?;
    buffers.set(&SockRef::from(&socket));
    socket.bind(&socket2::SockAddr::unix("")?)?;
    socket.connect(&socket::raw(peer)?)?;
    Ok(socket.into())
}

/// The socket, of as many as a group has, that gets the datagrams of a client: [`steer`] makes the kernel agree.
///
/// The hash is ours, since the kernel's has a secret: a session that moves to another process must be where its client's
/// datagrams arrive. An attacker who chooses addresses can fill one socket; the sockets' queues bound that.
pub fn slot_of(client: SocketAddr, count: usize) -> usize {
    let words = match client.ip().to_canonical() {
        IpAddr::V4(ip) => [0, 0, 0, ip.to_bits()],
        IpAddr::V6(ip) => std::array::from_fn(|index| (ip.to_bits() >> (96 - 32 * index)) as u32),
    };
    let mut hash = u32::from(client.port());
    for word in words {
        hash = (hash ^ word).wrapping_mul(HASH_FACTOR);
    }
    hash ^= hash >> 16;
    hash as usize % count.max(1)
}

/// 2^32 divided by the golden ratio: it spreads neighbouring addresses and ports (Knuth, The Art of Computer
/// Programming, 6.4).
const HASH_FACTOR: u32 = 0x9E37_79B1;

/// Distributes the clients of a reuseport group to its first `count` sockets, in the order in which they were bound, as
/// [`slot_of`] has it.
///
/// `group` is any socket of the group. Needs no privilege: it is a classic BPF program (socket(7),
/// SO_ATTACH_REUSEPORT_CBPF), which reads the client from the packet's heads. Options of IPv4 are skipped; a packet of IPv6
/// with further heads has another hash than its client.
pub fn steer(group: BorrowedFd<'_>, count: usize) -> io::Result<()> {
    use libc::{
        BPF_A, BPF_ABS, BPF_ALU, BPF_AND, BPF_B, BPF_H, BPF_IND, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_LSH,
        BPF_MISC, BPF_MOD, BPF_MUL, BPF_RET, BPF_RSH, BPF_TAX, BPF_W, BPF_X, BPF_XOR,
    };
    let count = u32::try_from(count.max(1)).map_err(|_| io::ErrorKind::InvalidInput)?;
    let op = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let jump =
        |k: u32, jt: u8, jf: u8| libc::sock_filter { code: (BPF_JMP | BPF_JEQ | BPF_K) as u16, jt, jf, k };
    let net = |offset: u32| (libc::SKF_NET_OFF as u32).wrapping_add(offset);
    // X is the hash so far, A the next word.
    let mix = [
        op(BPF_ALU | BPF_XOR | BPF_X, 0),
        op(BPF_ALU | BPF_MUL | BPF_K, HASH_FACTOR),
        op(BPF_MISC | BPF_TAX, 0),
    ];
    let words = |offsets: &[u32]| -> Vec<libc::sock_filter> {
        offsets
            .iter()
            .flat_map(|offset| [op(BPF_LD | BPF_W | BPF_ABS, net(*offset))].into_iter().chain(mix))
            .collect()
    };
    let v6 =
        [vec![op(BPF_LD | BPF_H | BPF_ABS, net(40)), op(BPF_MISC | BPF_TAX, 0)], words(&[8, 12, 16, 20])]
            .concat();
    let nothing: Vec<_> = (0..3).flat_map(|_| [op(BPF_LD, 0)].into_iter().chain(mix)).collect();
    let v4 = [
        vec![
            op(BPF_LD | BPF_B | BPF_ABS, net(0)),
            op(BPF_ALU | BPF_AND | BPF_K, 15),
            op(BPF_ALU | BPF_LSH | BPF_K, 2),
            op(BPF_MISC | BPF_TAX, 0),
            op(BPF_LD | BPF_H | BPF_IND, net(0)),
            op(BPF_MISC | BPF_TAX, 0),
        ],
        nothing,
        words(&[12]),
        vec![op(BPF_JMP | libc::BPF_JA, v6.len() as u32)],
    ]
    .concat();
    let mut program = vec![
        op(BPF_LD | BPF_B | BPF_ABS, net(0)),
        op(BPF_ALU | BPF_RSH | BPF_K, 4),
        jump(4, 0, v4.len() as u8),
    ];
    program.extend(v4);
    program.extend(v6);
    // Both ways end with the hash in A and X.
    program.extend([
        op(BPF_ALU | BPF_RSH | BPF_K, 16),
        op(BPF_ALU | BPF_XOR | BPF_X, 0),
        op(BPF_ALU | BPF_MOD | BPF_K, count),
        op(BPF_RET | BPF_A, 0),
    ]);
    let length = program.len() as u16;
    let program = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    // The kernel copies the program during the call.
    Ok(nix::sys::socket::setsockopt(&group, nix::sys::socket::sockopt::AttachReusePortCbpf, &program)?)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;
    use crate::sys::datagrams::Receiver;
    use crate::sys::socket::listen;

    fn group(address: &str, count: usize) -> (Vec<OwnedFd>, u16) {
        let any = SockAddr::Datagram(Box::new(address.parse().expect("an address")));
        let first = listen(&any, &ListenOptions::default()).expect("a socket");
        let port = listener_addr(&first).expect("bound").port().expect("a port");
        let mut own: SocketAddr = address.parse().expect("an address");
        own.set_port(port);
        let own = SockAddr::Datagram(Box::new(own));
        let options = ListenOptions { ipv6only: false, ..ListenOptions::default() };
        let others = (1..count).map(|_| listen(&own, &options).expect("a socket"));
        (std::iter::once(first).chain(others).collect(), port)
    }

    /// The socket of the group at which a datagram has arrived.
    fn arrival(group: &[OwnedFd]) -> Option<(usize, SocketAddr)> {
        let mut receiver = Receiver::default();
        group.iter().enumerate().find_map(|(index, fd)| {
            let count = receiver.receive(fd.as_fd(), 1).ok()?;
            (count == 1).then(|| Some((index, receiver.message(0).from?)))?
        })
    }

    #[test]
    fn the_kernel_and_the_program_agree_about_the_socket_of_a_client() {
        for (address, hosts) in
            [("127.0.0.1:0", &["127.0.0.1"][..]), ("0.0.0.0:0", &["127.0.0.1"]), ("[::1]:0", &["::1"])]
        {
            let (group, port) = group(address, 5);
            let mut counts = [0; 5];
            for count in [5, 3, 1] {
                steer(group[0].as_fd(), count).expect("attached");
                for _ in 0..60 {
                    let bound = if address.starts_with('[') { "[::1]:0" } else { "127.0.0.1:0" };
                    let client = UdpSocket::bind(bound).expect("a socket");
                    client.send_to(b"x", (hosts[0], port)).expect("sent");
                    let wanted = slot_of(client.local_addr().expect("bound"), count);
                    let (arrived, from) = arrival(&group).expect("it has come");
                    assert_eq!((arrived, Some(from)), (wanted, client.local_addr().ok()), "{address}");
                    counts[arrived] += 1;
                }
            }
            assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
        }
    }

    #[test]
    fn neighbouring_clients_are_spread() {
        for count in [2, 3, 4, 7, 64] {
            let mut counts = vec![0_usize; count];
            for host in 0..64_u8 {
                for port in 40_000..40_064 {
                    counts[slot_of(([10, 0, 0, host], port).into(), count)] += 1;
                }
            }
            let mean = 64 * 64 / count;
            assert!(counts.iter().all(|it| *it > mean / 2 && *it < mean * 2), "{count}: {counts:?}");
        }
        assert_eq!(slot_of(([1, 2, 3, 4], 5).into(), 0), 0);
        let mapped = "[::ffff:1.2.3.4]:5".parse().expect("an address");
        assert_eq!(slot_of(mapped, 1_000), slot_of(([1, 2, 3, 4], 5).into(), 1_000));
    }
}
