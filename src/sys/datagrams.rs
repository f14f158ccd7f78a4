//! Many datagrams a system call, and bursts of equal ones as one message.
//!
//! A burst is what the kernel has put together of one sender's datagrams of equal length (UDP_GRO), or what it is to
//! take apart again (UDP_SEGMENT). Borders are exact: all datagrams of a burst have the length of the first one, except
//! that the last may be shorter. Truth: recvmmsg(2), sendmmsg(2), udp(7), cmsg(3).

#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::sys::socket::MsgFlags;
use smallvec::SmallVec;
use socket2::SockRef;

use crate::sys::socket;

/// The most messages of one system call.
pub const MESSAGES_MAX: usize = 32;

/// The longest message: a datagram (RFC 768), or a burst.
pub const BYTES_MAX: usize = 65_535;

/// From one message's space to that of the next. A power of two would let all short messages begin in the same set of
/// the processor's cache.
const STRIDE_BYTES: usize = 65_536 + 9 * 64;

/// The most datagrams of a burst (UDP_MAX_SEGMENTS of older kernels).
pub const SEGMENTS_MAX: usize = 64;

/// The longest burst to be sent: it has to fit into one IP packet with its heads.
pub const BURST_BYTES_MAX: usize = 65_000;

/// Words for the control messages of one message: the address asked, the length of a burst's datagrams, and the mark.
const CONTROL_WORDS: usize = 11;

/// The two bits of an IP header that routers mark instead of dropping packets (ECN, RFC 3168 §5); 0: the packet is not part of
/// that.
pub type Mark = u8;
const MARK_BITS: u8 = 3;

/// Has the kernel tell the mark of each datagram that this socket receives.
pub fn read_marks(socket: &SockRef<'_>) {
    // A socket of IPv6 receives both kinds if it takes IPv4 too; one of IPv4 refuses the second option.
    let _ = socket::set_option(socket, libc::IPPROTO_IP, libc::IP_RECVTOS, 1);
    let _ = socket::set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1);
}

/// Lets the kernel put bursts together for this socket, if it can.
pub fn gather(socket: &SockRef<'_>) {
    let _ = socket::set_option(socket, libc::SOL_UDP, libc::UDP_GRO, 1);
}

/// One message that has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received<'a> {
    pub bytes: &'a [u8],
    /// `None`: the socket is connected, or there was no datagram, since the socket was shut down.
    pub from: Option<SocketAddr>,
    /// The address that it was sent to, if the socket listens on all of them.
    pub to: Option<IpAddr>,
    /// The mark of all its datagrams, if the socket [reads marks](read_marks).
    pub mark: Mark,
    /// The length of each datagram but the last, if this is a burst.
    segment: Option<usize>,
    /// Bytes are missing at the end.
    pub is_cut: bool,
}

impl<'a> Received<'a> {
    /// The datagrams; an empty one too.
    pub fn datagrams(self) -> impl Iterator<Item = &'a [u8]> {
        let whole = self.bytes.is_empty().then_some(self.bytes);
        let segment = self.segment.filter(|segment| *segment > 0).unwrap_or(BYTES_MAX);
        whole.into_iter().chain(self.bytes.chunks(segment))
    }
}

/// The space into which messages are received: 2 MiB of addresses, of which only what is used takes memory.
pub struct Receiver {
    space: Box<[MaybeUninit<u8>]>,
    names: Vec<libc::sockaddr_storage>,
    controls: Vec<[u64; CONTROL_WORDS]>,
    slices: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

impl Default for Receiver {
    fn default() -> Self {
        // SAFETY: all of these are valid as zeroes: no address, no buffer, no flags.
        let (name, slice, header) = unsafe {
            (
                MaybeUninit::<libc::sockaddr_storage>::zeroed().assume_init(),
                MaybeUninit::<libc::iovec>::zeroed().assume_init(),
                MaybeUninit::<libc::mmsghdr>::zeroed().assume_init(),
            )
        };
        Self {
            space: Box::new_uninit_slice(MESSAGES_MAX * STRIDE_BYTES),
            names: vec![name; MESSAGES_MAX],
            controls: vec![[0; CONTROL_WORDS]; MESSAGES_MAX],
            slices: vec![slice; MESSAGES_MAX],
            headers: vec![header; MESSAGES_MAX],
        }
    }
}

impl Receiver {
    /// Receives at most `max` messages; never waits. Fewer than `max`: no more had come.
    pub fn receive(&mut self, fd: BorrowedFd<'_>, max: usize) -> nix::Result<usize> {
        let max = max.min(MESSAGES_MAX);
        for index in 0..max {
            let bytes = &mut self.space[index * STRIDE_BYTES..][..BYTES_MAX];
            self.slices[index] = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: BYTES_MAX };
            let header = &mut self.headers[index].msg_hdr;
            header.msg_name = (&raw mut self.names[index]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = &raw mut self.slices[index];
            header.msg_iovlen = 1;
            header.msg_control = self.controls[index].as_mut_ptr().cast();
            header.msg_controllen = size_of::<[u64; CONTROL_WORDS]>() as _;
            header.msg_flags = 0;
        }
        let none = std::ptr::null_mut();
        // SAFETY: `max` headers point to addresses, bytes and control space with their true sizes, all of which are this
        // value's own and outlive the call; the kernel writes only inside them.
        let count = unsafe {
            let headers = self.headers.as_mut_ptr();
            libc::recvmmsg(fd.as_raw_fd(), headers, max as libc::c_uint, libc::MSG_DONTWAIT, none)
        };
        usize::try_from(count).map_err(|_| nix::Error::last())
    }

    /// One of the messages of the last call.
    pub fn message(&self, index: usize) -> Received<'_> {
        let libc::mmsghdr { msg_hdr: header, msg_len } = &self.headers[index];
        let length = (*msg_len as usize).min(BYTES_MAX);
        let bytes = &self.space[index * STRIDE_BYTES..][..length];
        // SAFETY: the kernel has written these bytes, as many as it says.
        let bytes = unsafe { bytes.assume_init_ref() };
        let mut received = Received {
            bytes,
            from: if header.msg_namelen == 0 { None } else { inet(&self.names[index]) },
            to: None,
            mark: 0,
            segment: None,
            is_cut: header.msg_flags & libc::MSG_TRUNC != 0,
        };
        // SAFETY: recvmmsg filled the header, so its control space holds whole control messages, one after the other, up
        // to its length. CMSG_FIRSTHDR and CMSG_NXTHDR stay inside and return null at the end (cmsg(3)).
        let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
        while !next.is_null() {
            // SAFETY: not null, so a header inside the control space with its data, whose type the kernel's documents say.
            unsafe {
                let data = libc::CMSG_DATA(next);
                match ((*next).cmsg_level, (*next).cmsg_type) {
                    (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                        let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                        received.to = Some(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)).into());
                    }
                    (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                        let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                        received.to = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
                    }
                    (libc::IPPROTO_IP, libc::IP_TOS) => {
                        received.mark = data.read() & MARK_BITS; // one byte, ip(7)
                    }
                    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                        received.mark = data.cast::<libc::c_int>().read_unaligned() as u8 & MARK_BITS;
                    }
                    (libc::SOL_UDP, libc::UDP_GRO) => {
                        let length = data.cast::<libc::c_int>().read_unaligned();
                        received.segment = usize::try_from(length).ok();
                    }
                    _ => {}
                }
                next = libc::CMSG_NXTHDR(header, next);
            }
        }
        received
    }
}

fn inet(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let name = &raw const *name;
    // SAFETY: the storage is large enough and aligned for every kind of address, and the family tells which it is.
    unsafe {
        match i32::from((*name).ss_family) {
            libc::AF_INET => {
                let v4 = *name.cast::<libc::sockaddr_in>();
                let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
                Some((ip, u16::from_be(v4.sin_port)).into())
            }
            libc::AF_INET6 => {
                let v6 = *name.cast::<libc::sockaddr_in6>();
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                let port = u16::from_be(v6.sin6_port);
                Some(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}

/// The destination of a datagram, if the socket is not connected: the client, and the address that it had sent to.
pub type Route = Option<(SocketAddr, Option<IpAddr>)>;

/// One message on its way out.
#[derive(Clone, Copy, Debug)]
struct Message<'a> {
    bytes: &'a [u8],
    route: Route,
    mark: Mark,
    /// The length of each datagram but the last, if this is a burst.
    segment: Option<u16>,
    /// The number of datagrams.
    count: usize,
}

/// Datagrams that wait to be sent, one behind the other in one piece of memory.
#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    heads: Vec<Head>,
    /// Datagrams, and their bytes, that have been sent.
    sent: (usize, usize),
}

#[derive(Clone, Copy, Debug)]
struct Head {
    /// Where the datagram's bytes end.
    end: usize,
    route: Route,
    mark: Mark,
}

impl Outbox {
    /// Adds a datagram.
    pub fn push(&mut self, bytes: &[u8], route: Route) {
        self.push_marked(bytes, route, 0);
    }

    /// Adds a datagram that has this mark. Marks need a route.
    pub fn push_marked(&mut self, bytes: &[u8], route: Route, mark: Mark) {
        self.bytes.extend_from_slice(bytes);
        self.heads.push(Head { end: self.bytes.len(), route, mark });
    }

    /// The number of datagrams.
    pub fn count(&self) -> usize {
        self.heads.len() - self.sent.0
    }

    /// The bytes of all datagrams.
    pub fn bytes(&self) -> usize {
        self.bytes.len() - self.sent.1
    }

    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// The first datagram.
    pub fn first(&self) -> Option<(&[u8], Route)> {
        let head = self.heads.get(self.sent.0)?;
        Some((&self.bytes[self.sent.1..head.end], head.route))
    }

    /// The datagrams, without where they go.
    pub fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        let mut begin = self.sent.1;
        self.heads[self.sent.0..].iter().map(move |head| {
            let bytes = &self.bytes[begin..head.end];
            begin = head.end;
            bytes
        })
    }

    /// Removes the first datagrams; once there is none its memory is given back, or kept for the next ones.
    pub fn skip(&mut self, count: usize, keeps_memory: bool) {
        let index = self.sent.0.saturating_add(count).min(self.heads.len());
        let end = index.checked_sub(1).map_or(0, |last| self.heads[last].end);
        self.sent = (index, end);
        if !self.is_empty() {
            return;
        }
        if !keeps_memory {
            *self = Self::default();
        }
        self.bytes.clear();
        self.heads.clear();
        self.sent = (0, 0);
    }

    /// Sends as many datagrams as one system call takes, and returns their number; never waits. They stay until they are
    /// [skipped](Self::skip). Errors are those of the first datagram.
    ///
    /// `burst_max`: the longest datagrams that may be sent in bursts. It is lowered if the kernel or the path to the
    /// receiver refuses.
    pub fn send(&self, fd: BorrowedFd<'_>, burst_max: &mut usize) -> nix::Result<usize> {
        loop {
            let mut messages = SmallVec::<[Message<'_>; MESSAGES_MAX]>::new();
            let mut at = self.sent;
            while messages.len() < MESSAGES_MAX
                && let Some(message) = self.message(at, *burst_max)
            {
                at = (at.0 + message.count, at.1 + message.bytes.len());
                messages.push(message);
            }
            let sent = match messages.len() {
                0 => return Ok(0),
                1 if messages[0].segment.is_none() && messages[0].route.is_none() => {
                    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                    nix::sys::socket::send(fd.as_raw_fd(), messages[0].bytes, flags).map(|_| 1)
                }
                1 => send::<1>(fd, &messages),
                2..=4 => send::<4>(fd, &messages),
                _ => send::<MESSAGES_MAX>(fd, &messages),
            };
            match sent {
                Ok(count) => return Ok(messages[..count].iter().map(|message| message.count).sum()),
                Err(nix::Error::EINTR) => {}
                Err(error) => match messages[0].segment {
                    Some(segment) if is_of_bursts(error) => *burst_max = usize::from(segment) - 1,
                    _ => return Err(error),
                },
            }
        }
    }

    /// The message that begins with a datagram: as many of equal length as a burst can have.
    fn message(&self, (index, begin): (usize, usize), burst_max: usize) -> Option<Message<'_>> {
        let Head { mut end, route, mark } = *self.heads.get(index)?;
        let length = end - begin;
        let mut count = 1;
        if length > 0 && length <= burst_max {
            for head in self.heads[index + 1..].iter().take(SEGMENTS_MAX - 1) {
                let next = head.end - end;
                let goes_along = head.route == route && head.mark == mark;
                if !goes_along || next > length || next == 0 || head.end - begin > BURST_BYTES_MAX {
                    break;
                }
                (count, end) = (count + 1, head.end);
                if next < length {
                    break;
                }
            }
        }
        let segment = u16::try_from(length).ok().filter(|_| count > 1);
        Some(Message { bytes: &self.bytes[begin..end], route, mark, segment, count })
    }
}

/// Sends one burst, of at most [`SEGMENTS_MAX`] datagrams and [`BURST_BYTES_MAX`] bytes, from where it lies; never waits. All
/// datagrams but the last have the length `segment`.
///
/// Errors: also those for which the datagrams may still pass one by one.
pub fn send_burst(
    fd: BorrowedFd<'_>,
    bytes: &[u8],
    segment: u16,
    route: Route,
    mark: Mark,
) -> nix::Result<()> {
    let count = bytes.len().div_ceil(usize::from(segment.max(1)));
    let message = Message { bytes, route, mark, segment: Some(segment).filter(|_| count > 1), count };
    loop {
        match send::<1>(fd, &[message]) {
            Ok(_) => return Ok(()),
            Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// True if datagrams may pass one by one although a burst of them does not: its datagrams are longer than the path's
/// packets, or the device does not make checksums.
fn is_of_bursts(error: nix::Error) -> bool {
    use nix::errno::Errno::{EINVAL, EIO, EMSGSIZE, ENOPROTOOPT, EOPNOTSUPP};
    matches!(error, EINVAL | EIO | EMSGSIZE | ENOPROTOOPT | EOPNOTSUPP)
}

/// Sends messages, at most `N`; returns how many the kernel took.
fn send<const N: usize>(fd: BorrowedFd<'_>, messages: &[Message<'_>]) -> nix::Result<usize> {
    // SAFETY: all of these are valid as zeroes.
    let (mut names, mut slices, mut headers) = unsafe {
        (
            MaybeUninit::<[libc::sockaddr_in6; N]>::zeroed().assume_init(),
            MaybeUninit::<[libc::iovec; N]>::zeroed().assume_init(),
            MaybeUninit::<[libc::mmsghdr; N]>::zeroed().assume_init(),
        )
    };
    let mut controls = [[0_u64; CONTROL_WORDS]; N];
    let messages = &messages[..messages.len().min(N)];
    for (index, message) in messages.iter().enumerate() {
        slices[index] =
            libc::iovec { iov_base: message.bytes.as_ptr().cast_mut().cast(), iov_len: message.bytes.len() };
        let header = &mut headers[index].msg_hdr;
        header.msg_iov = &raw mut slices[index];
        header.msg_iovlen = 1;
        if let Some((to, _)) = message.route {
            header.msg_name = (&raw mut names[index]).cast();
            header.msg_namelen = write_name(to, &mut names[index]);
        }
        let control = &mut controls[index];
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = write_control(message, control) as _;
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: as many headers as messages point to addresses, bytes and control messages with their true sizes, which
    // outlive the call; the kernel reads them, and writes only the lengths in the headers.
    let count = unsafe {
        libc::sendmmsg(fd.as_raw_fd(), headers.as_mut_ptr(), messages.len() as libc::c_uint, flags)
    };
    usize::try_from(count).map_err(|_| nix::Error::last())
}

/// Writes an address where any internet address fits, and returns its length.
fn write_name(to: SocketAddr, name: &mut libc::sockaddr_in6) -> libc::socklen_t {
    match to {
        SocketAddr::V4(v4) => {
            let address = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from(*v4.ip()).to_be() },
                sin_zero: [0; 8],
            };
            // SAFETY: an IPv4 address is shorter than an IPv6 one and needs no larger alignment.
            unsafe { (&raw mut *name).cast::<libc::sockaddr_in>().write(address) };
            size_of::<libc::sockaddr_in>() as libc::socklen_t
        }
        SocketAddr::V6(v6) => {
            *name = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            size_of::<libc::sockaddr_in6>() as libc::socklen_t
        }
    }
}

/// Writes the control messages of a message, and returns their length.
fn write_control(message: &Message<'_>, control: &mut [u64; CONTROL_WORDS]) -> usize {
    let mut written = 0;
    match message.route.and_then(|(_, from)| from) {
        None => {}
        Some(IpAddr::V4(ip)) => {
            let source = libc::in_addr { s_addr: u32::from(ip).to_be() };
            let nowhere = libc::in_addr { s_addr: 0 };
            let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: source, ipi_addr: nowhere };
            append(control, &mut written, (libc::IPPROTO_IP, libc::IP_PKTINFO), info);
        }
        Some(IpAddr::V6(ip)) => {
            let source = libc::in6_addr { s6_addr: ip.octets() };
            let info = libc::in6_pktinfo { ipi6_addr: source, ipi6_ifindex: 0 };
            append(control, &mut written, (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO), info);
        }
    }
    if let Some((to, _)) = message.route.filter(|_| message.mark != 0) {
        let kind = match to.ip().to_canonical() {
            IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TOS),
            IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
        };
        append(control, &mut written, kind, libc::c_int::from(message.mark & MARK_BITS));
    }
    if let Some(segment) = message.segment {
        append(control, &mut written, (libc::SOL_UDP, libc::UDP_SEGMENT), segment);
    }
    written
}

/// Appends one control message. All that are sent fit by far: the longest has 20 bytes.
fn append<T: Copy>(
    control: &mut [u64; CONTROL_WORDS],
    written: &mut usize,
    (level, kind): (i32, i32),
    value: T,
) {
    // SAFETY: arithmetic only.
    let (length, space) = unsafe {
        let size = size_of::<T>() as libc::c_uint;
        (libc::CMSG_LEN(size) as usize, libc::CMSG_SPACE(size) as usize)
    };
    assert!(*written + space <= size_of_val(control), "room for each control message");
    // SAFETY: the assertion keeps the message inside the space; all messages before it had lengths that keep the next one
    // aligned (CMSG_SPACE), and so is the space itself.
    unsafe {
        let header = control.as_mut_ptr().byte_add(*written).cast::<libc::cmsghdr>();
        (*header).cmsg_len = length as _;
        (*header).cmsg_level = level;
        (*header).cmsg_type = kind;
        libc::CMSG_DATA(header).cast::<T>().write_unaligned(value);
    }
    *written += space;
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use super::*;
    use crate::sys::address::SockAddr;
    use crate::sys::datagram;
    use crate::sys::socket::{ListenOptions, listen};

    fn server(address: &str) -> (std::os::fd::OwnedFd, u16) {
        let any = SockAddr::Datagram(Box::new(address.parse().expect("an address")));
        let server = listen(&any, &ListenOptions::default()).expect("a socket");
        let port = datagram::listener_addr(&server).expect("bound").port().expect("a port");
        (server, port)
    }

    fn client(to: (&str, u16)) -> UdpSocket {
        let any = if to.0.contains(':') { "[::1]:0" } else { "127.0.0.1:0" };
        let client = UdpSocket::bind(any).expect("a socket");
        client.connect(to).expect("connects");
        client
    }

    /// The datagrams that have arrived, each with its sender and the address that it was sent to.
    fn take(
        receiver: &mut Receiver,
        fd: BorrowedFd<'_>,
    ) -> Vec<(Vec<u8>, Option<SocketAddr>, Option<IpAddr>)> {
        let mut all = Vec::new();
        loop {
            match receiver.receive(fd, MESSAGES_MAX) {
                Ok(count) => {
                    for message in (0..count).map(|index| receiver.message(index)) {
                        assert!(!message.is_cut);
                        all.extend(
                            message.datagrams().map(|bytes| (bytes.to_vec(), message.from, message.to)),
                        );
                    }
                }
                Err(error) => {
                    assert_eq!(error, nix::Error::EAGAIN);
                    return all;
                }
            }
        }
    }

    /// Sends everything; returns the number of system calls.
    fn send_all(outbox: &mut Outbox, fd: BorrowedFd<'_>, burst_max: &mut usize) -> usize {
        let mut calls = 0;
        while !outbox.is_empty() {
            let count = outbox.send(fd, burst_max).expect("sent");
            outbox.skip(count, true);
            calls += 1;
        }
        calls
    }

    #[test]
    fn datagrams_keep_their_bounds_whatever_their_order() {
        let (server, port) = server("127.0.0.1:0");
        let client = client(("127.0.0.1", port));
        let lengths = [10, 10, 10, 3, 0, 0, 7, 7, 8, 8, 7, 1_400, 1_400, 1_400, 9, 30_000, 30_000, 30_000, 1];
        let mut outbox = Outbox::default();
        let mut wanted = Vec::new();
        for (index, length) in lengths.into_iter().enumerate() {
            let bytes = vec![index as u8; length];
            outbox.push(&bytes, None);
            wanted.push(bytes);
        }
        assert_eq!((outbox.count(), outbox.bytes()), (lengths.len(), lengths.iter().sum()));
        assert_eq!(outbox.datagrams().collect::<Vec<_>>(), wanted);
        for mut burst_max in [BYTES_MAX, 20, 0] {
            let mut copy = Outbox::default();
            wanted.iter().for_each(|bytes| copy.push(bytes, None));
            send_all(&mut copy, client.as_fd(), &mut burst_max);
            let all = take(&mut Receiver::default(), server.as_fd());
            assert!(all.iter().all(|(_, from, to)| *from == client.local_addr().ok() && to.is_none()));
            assert!(all.into_iter().map(|(bytes, ..)| bytes).eq(wanted.iter().cloned()), "{burst_max}");
        }
    }

    #[test]
    fn many_datagrams_take_few_calls() {
        let (server, port) = server("127.0.0.1:0");
        let client = client(("127.0.0.1", port));
        let mut outbox = Outbox::default();
        (0..60_u8).for_each(|index| outbox.push(&[index; 100], None));
        let calls = send_all(&mut outbox, client.as_fd(), &mut 1_000);
        assert!(calls <= 2, "{calls} calls");
        let all = take(&mut Receiver::default(), server.as_fd());
        assert!(all.iter().map(|(bytes, ..)| bytes.clone()).eq((0..60_u8).map(|index| vec![index; 100])));
    }

    #[test]
    fn answers_to_several_clients_come_from_the_addresses_that_were_asked() {
        for (any, hosts) in
            [("0.0.0.0:0", ["127.0.0.77", "127.0.0.78"].as_slice()), ("[::]:0", ["::1"].as_slice())]
        {
            let (server, port) = server(any);
            let clients: Vec<UdpSocket> = hosts.iter().map(|host| client((host, port))).collect();
            clients.iter().for_each(|client| client.send(b"question").map(drop).expect("sent"));
            let mut outbox = Outbox::default();
            for (_, from, to) in take(&mut Receiver::default(), server.as_fd()) {
                assert!(hosts.iter().any(|host| host.parse().ok() == to), "{to:?}");
                outbox.push(b"first", from.map(|from| (from, to)));
                outbox.push(b"other", from.map(|from| (from, to)));
            }
            assert_eq!(send_all(&mut outbox, server.as_fd(), &mut 1_000), 1);
            for client in &clients {
                // The clients are connected: they would not take a datagram from another address.
                let mut buffer = [0; 64];
                for text in ["first", "other"] {
                    let length = client.recv(&mut buffer).expect("an answer");
                    assert_eq!(&buffer[..length], text.as_bytes());
                }
            }
        }
    }

    #[test]
    fn marks_arrive_as_they_were_sent_and_do_not_mix() {
        for (any, host) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1"), ("0.0.0.0:0", "127.0.0.1")] {
            let (server, port) = server(any);
            read_marks(&SockRef::from(&server));
            let client = client((host, port));
            read_marks(&SockRef::from(&client));
            let to = client.local_addr().expect("bound");
            let mut outbox = Outbox::default();
            let marks = [2, 2, 1, 0, 0, 3, 2];
            marks.iter().for_each(|mark| outbox.push_marked(b"datagram", Some((to, None)), *mark));
            send_all(&mut outbox, server.as_fd(), &mut 1_000);
            let (mut receiver, mut found) = (Receiver::default(), Vec::new());
            while let Ok(count) = receiver.receive(client.as_fd(), MESSAGES_MAX) {
                for message in (0..count).map(|index| receiver.message(index)) {
                    found.extend(message.datagrams().map(|bytes| (bytes == b"datagram", message.mark)));
                }
            }
            assert_eq!(found, marks.map(|mark| (true, mark)), "{any}");
        }
    }

    #[test]
    fn a_burst_that_is_refused_is_sent_one_by_one() {
        // Without checksums, which not every device makes, there are no bursts.
        let (server, port) = server("127.0.0.1:0");
        let client = client(("127.0.0.1", port));
        let socket = SockRef::from(&client);
        socket::set_option(&socket, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).expect("an option");
        let mut outbox = Outbox::default();
        (0..5).for_each(|_| outbox.push(b"one of five", None));
        let mut burst_max = BYTES_MAX;
        send_all(&mut outbox, client.as_fd(), &mut burst_max);
        assert_eq!(burst_max, b"one of five".len() - 1);
        assert_eq!(take(&mut Receiver::default(), server.as_fd()).len(), 5);
    }

    #[test]
    fn errors_are_those_of_the_first_datagram() {
        let (server, port) = server("127.0.0.1:0");
        let client = client(("127.0.0.1", port));
        let mut outbox = Outbox::default();
        outbox.push(b"good", None);
        outbox.push(&vec![0; BYTES_MAX], None); // no packet is that long
        outbox.push(b"also good", None);
        let mut burst_max = BYTES_MAX;
        assert_eq!(outbox.send(client.as_fd(), &mut burst_max), Ok(1));
        outbox.skip(1, false);
        assert_eq!(outbox.send(client.as_fd(), &mut burst_max), Err(nix::Error::EMSGSIZE));
        outbox.skip(1, false);
        assert_eq!(outbox.send(client.as_fd(), &mut burst_max), Ok(1));
        outbox.skip(1, false);
        assert!(outbox.is_empty() && outbox.first().is_none());
        let all = take(&mut Receiver::default(), server.as_fd());
        assert!(all.into_iter().map(|(bytes, ..)| bytes).eq([b"good".to_vec(), b"also good".to_vec()]));
    }

    #[test]
    fn a_socket_that_was_shut_down_has_no_sender() {
        let (server, port) = server("127.0.0.1:0");
        let _client = client(("127.0.0.1", port));
        // It is not connected, so the call says that it fails; it shuts the socket down all the same.
        let _ = SockRef::from(&server).shutdown(std::net::Shutdown::Read);
        let mut receiver = Receiver::default();
        match receiver.receive(server.as_fd(), 1) {
            Ok(1) => assert_eq!((receiver.message(0).from, receiver.message(0).bytes.len()), (None, 0)),
            other => assert_eq!(other, Err(nix::Error::EAGAIN)),
        }
    }
}
