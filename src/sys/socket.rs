//! Sockets: listening, accepting, connecting and what the kernel says about them.

#![allow(unsafe_code)]

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use nix::sys::stat::Mode;
use socket2::{Domain, Protocol, SockAddr as RawAddr, SockRef, Socket, Type};

use crate::sys::address::SockAddr;
use crate::sys::retire;

/// The parameters of a listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    pub backlog: i32,
    pub rcvbuf: Option<usize>,
    pub sndbuf: Option<usize>,
    pub ipv6only: bool,
    /// TCP_DEFER_ACCEPT.
    pub deferred: bool,
    /// TCP_FASTOPEN queue length.
    pub fastopen: Option<i32>,
    /// SO_KEEPALIVE and how the kernel probes.
    pub keepalive: Option<Probes>,
    /// Multipath TCP (RFC 8684).
    pub multipath: bool,
}

/// When and how often the kernel asks a silent peer whether it is there (tcp(7)); `None`: as the system is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Probes {
    pub idle_s: Option<u32>,
    pub interval_s: Option<u32>,
    pub count: Option<u32>,
}

impl Default for ListenOptions {
    fn default() -> Self {
        // nginx's backlog on Linux; the kernel caps it at net.core.somaxconn.
        Self {
            backlog: 511,
            rcvbuf: None,
            sndbuf: None,
            ipv6only: true,
            deferred: false,
            fastopen: None,
            keepalive: None,
            multipath: false,
        }
    }
}

/// Bytes that may wait in the kernel for a client beyond what is on its way to it.
///
/// Without it each client that does not read holds up to `net.ipv4.tcp_wmem` (4 MB), and `send_timeout` begins when
/// that is full: a thousand of them take the memory of the whole network. What is in flight is not counted.
const UNSENT_BYTES_MAX: i32 = 256 * 1024;

/// A client that has taken so much does read: the limit is lifted, for it costs a wake for each piece.
pub const UNSENT_PROOF_BYTES: u64 = 1024 * 1024;

/// Lets the kernel keep as much for this peer as it likes.
pub fn lift_unsent_limit(fd: BorrowedFd<'_>) {
    let _ = set_option(&SockRef::from(&fd), libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, 0);
}

/// Opens a listening socket: SO_REUSEPORT always, non-blocking, closed on exec.
///
/// TCP_NODELAY is set here once; accepted sockets inherit it.
pub fn listen(address: &SockAddr, options: &ListenOptions) -> io::Result<OwnedFd> {
    let socket = bind(address, options)?;
    SockRef::from(&socket).listen(options.backlog)?;
    Ok(socket)
}

/// The same, hidden until [`retire::reveal`]: of a group of its own, which gets no connections yet.
pub fn listen_hidden(address: &SockAddr, options: &ListenOptions) -> io::Result<OwnedFd> {
    let socket = bind(address, options)?;
    retire::hide(socket.as_fd())?;
    SockRef::from(&socket).listen(options.backlog)?;
    Ok(socket)
}

fn bind(address: &SockAddr, options: &ListenOptions) -> io::Result<OwnedFd> {
    let (domain, protocol) = match address {
        SockAddr::Inet(inet) if options.multipath => (Domain::for_address(*inet), Some(Protocol::MPTCP)),
        SockAddr::Inet(inet) => (Domain::for_address(*inet), Some(Protocol::TCP)),
        SockAddr::Unix(_) => (Domain::UNIX, None),
    };
    let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), protocol)?;
    if let SockAddr::Inet(inet) = address {
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_tcp_nodelay(true)?;
        if inet.is_ipv6() {
            socket.set_only_v6(options.ipv6only)?;
        }
    }
    if !address.is_unix() {
        let socket = SockRef::from(&socket);
        set_option(&socket, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, UNSENT_BYTES_MAX)?;
    }
    set_options(SockRef::from(&socket), address, &ListenOptions::default(), options)?;
    if address.path().is_some() {
        bind_for_all(&socket, &raw(address)?)?;
    } else {
        socket.bind(&raw(address)?)?;
    }
    Ok(socket.into())
}

/// Binds to a path on which every user can connect (0666): any local client may be one of ours.
///
/// The file gets the mode of the socket when it is bound, less the umask. To change it afterwards by its path would
/// change whatever has that name by then.
fn bind_for_all(socket: &Socket, address: &RawAddr) -> io::Result<()> {
    nix::sys::stat::fchmod(socket, Mode::from_bits_truncate(0o666))?;
    let umask = nix::sys::stat::umask(Mode::empty());
    let bound = socket.bind(address);
    nix::sys::stat::umask(umask);
    bound
}

/// Gives a listening socket these options, whatever it has: those that are not written become what a new socket has.
///
/// Not among them: what a socket is from its beginning, see [`Make`]. Errors: the first option that the kernel
/// refuses, by the name of its parameter; the others are set all the same.
pub fn change(
    listener: BorrowedFd<'_>,
    address: &SockAddr,
    to: &ListenOptions,
) -> Result<(), (&'static str, io::Error)> {
    let socket = SockRef::from(&listener);
    let mut outcome = Ok(());
    let mut note = |name, result: io::Result<()>| {
        if let (Ok(()), Err(error)) = (&outcome, result) {
            outcome = Err((name, error));
        }
    };
    note("backlog=", socket.listen(to.backlog));
    note("rcvbuf=", change_buffer(&socket, Buffer::Receive, to.rcvbuf));
    note("sndbuf=", change_buffer(&socket, Buffer::Send, to.sndbuf));
    note("so_keepalive=", socket.set_keepalive(to.keepalive.is_some()));
    if address.is_unix() {
        return outcome;
    }
    let tcp = |name, value: i32| set_option(&socket, libc::IPPROTO_TCP, name, value);
    let probes = to.keepalive.unwrap_or_default();
    for (name, value, system) in [
        (libc::TCP_KEEPIDLE, probes.idle_s, "tcp_keepalive_time"),
        (libc::TCP_KEEPINTVL, probes.interval_s, "tcp_keepalive_intvl"),
        (libc::TCP_KEEPCNT, probes.count, "tcp_keepalive_probes"),
    ] {
        let written = value.map(|value| i32::try_from(value).unwrap_or(i32::MAX));
        if let Some(value) = written.or_else(|| system_value(system, 0)) {
            note("so_keepalive=", tcp(name, value));
        }
    }
    note("deferred", tcp(libc::TCP_DEFER_ACCEPT, i32::from(to.deferred)));
    note("fastopen=", tcp(libc::TCP_FASTOPEN, to.fastopen.unwrap_or(0)));
    outcome
}

/// What a listening socket is from its beginning: no option changes it, only another socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Make {
    /// It takes IPv4 too, in IPv6 form.
    pub is_dual_stack: bool,
    pub is_multipath: bool,
}

impl Make {
    /// Of the sockets that `listen` makes.
    pub fn wanted(address: &SockAddr, options: &ListenOptions) -> Self {
        let is_ipv6 = address.ip().is_some_and(|ip| ip.is_ipv6());
        Self {
            is_dual_stack: is_ipv6 && address.ip().is_some_and(|ip| ip.is_unspecified()) && !options.ipv6only,
            is_multipath: options.multipath && !address.is_unix(),
        }
    }

    /// Of a socket that is there.
    pub fn of(listener: BorrowedFd<'_>) -> Self {
        let socket = SockRef::from(&listener);
        let is_ipv6 = local_addr(listener).is_ok_and(|address| address.ip().is_some_and(|ip| ip.is_ipv6()));
        Self {
            is_dual_stack: is_ipv6 && socket.only_v6().is_ok_and(|only| !only),
            is_multipath: socket.protocol().is_ok_and(|protocol| protocol == Some(Protocol::MPTCP)),
        }
    }
}

#[derive(Clone, Copy)]
enum Buffer {
    Receive,
    Send,
}

/// asm-generic/socket.h, since Linux 5.14; the libc crate does not name it.
const SO_BUF_LOCK: i32 = 72;

/// Sets the size of a buffer; `None`: the system's, which grows as it is needed.
fn change_buffer(socket: &SockRef<'_>, which: Buffer, bytes: Option<usize>) -> io::Result<()> {
    // SOCK_SNDBUF_LOCK and SOCK_RCVBUF_LOCK of include/net/sock.h: somebody has set the size.
    let (bit, system) = match which {
        Buffer::Send => (1, "tcp_wmem"),
        Buffer::Receive => (2, "tcp_rmem"),
    };
    let set = |bytes| match which {
        Buffer::Send => socket.set_send_buffer_size(bytes),
        Buffer::Receive => socket.set_recv_buffer_size(bytes),
    };
    if let Some(bytes) = bytes {
        return set(bytes);
    }
    let default = system_value(system, 1).and_then(|bytes| usize::try_from(bytes).ok());
    let size = match which {
        Buffer::Send => socket.send_buffer_size()?,
        Buffer::Receive => socket.recv_buffer_size()?,
    };
    let locked = match option(socket, libc::SOL_SOCKET, SO_BUF_LOCK) {
        Ok(locked) if locked & bit == 0 => return Ok(()),
        Ok(locked) => locked,
        Err(_) if default == Some(size) => return Ok(()),
        Err(error) => return Err(error),
    };
    if let Some(bytes) = default {
        set(bytes / 2)?; // the kernel doubles it (socket(7))
    }
    // It takes the bits that shall stay.
    set_option(socket, libc::SOL_SOCKET, SO_BUF_LOCK, locked & !bit)
}

/// A number of `net.ipv4`'s settings, which IPv6 obeys too: the word at this place of the line.
fn system_value(name: &str, place: usize) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).ok()?;
    text.split_ascii_whitespace().nth(place)?.parse().ok()
}

/// Whether the kernel makes sockets of Multipath TCP.
pub fn has_multipath() -> bool {
    Socket::new(Domain::IPV4, Type::STREAM.cloexec(), Some(Protocol::MPTCP)).is_ok()
}

/// Sets what differs. Accepted sockets inherit all of it.
fn set_options(
    socket: SockRef<'_>,
    address: &SockAddr,
    from: &ListenOptions,
    to: &ListenOptions,
) -> io::Result<()> {
    if let Some(bytes) = to.rcvbuf.filter(|_| from.rcvbuf != to.rcvbuf) {
        socket.set_recv_buffer_size(bytes)?;
    }
    if let Some(bytes) = to.sndbuf.filter(|_| from.sndbuf != to.sndbuf) {
        socket.set_send_buffer_size(bytes)?;
    }
    if from.keepalive != to.keepalive {
        socket.set_keepalive(to.keepalive.is_some())?;
    }
    if address.is_unix() {
        return Ok(());
    }
    let tcp = |name, value: i32| set_option(&socket, libc::IPPROTO_TCP, name, value);
    if let Some(probes) = to.keepalive.filter(|_| from.keepalive != to.keepalive) {
        let values = [
            (libc::TCP_KEEPIDLE, probes.idle_s),
            (libc::TCP_KEEPINTVL, probes.interval_s),
            (libc::TCP_KEEPCNT, probes.count),
        ];
        for (name, value) in values {
            value.map_or(Ok(()), |value| tcp(name, i32::try_from(value).unwrap_or(i32::MAX)))?;
        }
    }
    if from.deferred != to.deferred {
        tcp(libc::TCP_DEFER_ACCEPT, i32::from(to.deferred))?;
    }
    if from.fastopen != to.fastopen {
        tcp(libc::TCP_FASTOPEN, to.fastopen.unwrap_or(0))?;
    }
    Ok(())
}

/// Tries whether an address can be bound, without SO_REUSEPORT: that would let a second program of the same user
/// share the address unnoticed. Nothing listens, nothing stays. A path is not touched: whether it could be made, and
/// that nothing but a socket is there, is all that is asked.
pub fn probe(address: &SockAddr) -> io::Result<()> {
    let SockAddr::Inet(inet) = address else {
        return address.path().map_or(Ok(()), probe_path);
    };
    let socket = Socket::new(Domain::for_address(*inet), Type::STREAM.cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if inet.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&raw(address)?)
}

/// Ends listening for all processes that share this socket; what waits in its queue is reset.
pub fn shut_listener(listener: BorrowedFd<'_>) {
    let _ = SockRef::from(&listener).shutdown(std::net::Shutdown::Read);
}

fn probe_path(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => Err(io::Error::from_raw_os_error(libc::EEXIST)),
        _ => crate::sys::process::may_write(path.parent().unwrap_or(path)),
    }
}

/// Accepts one connection, non-blocking and closed on exec.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<(OwnedFd, SockAddr)> {
    // SAFETY: accept4 writes at most `length` bytes of an address into the storage and updates the length, as
    // try_init asks for; a descriptor that it returns is new and ours alone.
    let (fd, peer) = unsafe {
        RawAddr::try_init(|storage, length| {
            let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
            match libc::accept4(listener.as_raw_fd(), storage.cast(), length, flags) {
                -1 => Err(io::Error::last_os_error()),
                fd => Ok(OwnedFd::from_raw_fd(fd)),
            }
        })?
    };
    Ok((fd, from_raw(&peer)))
}

/// Begins to connect; true when the connection is still being made and the socket becomes writable then.
/// `is_transparent`: the local address may be one of another machine.
pub fn connect_nonblocking(
    address: &SockAddr,
    bind: Option<&SockAddr>,
    is_transparent: bool,
) -> io::Result<(OwnedFd, bool)> {
    let domain = match address {
        SockAddr::Inet(inet) => Domain::for_address(*inet),
        SockAddr::Unix(_) => Domain::UNIX,
    };
    let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), None)?;
    if matches!(address, SockAddr::Inet(_)) {
        socket.set_tcp_nodelay(true)?;
    }
    if let Some(local) = bind {
        if is_transparent {
            set_transparent(&socket, domain)?;
        }
        if matches!(local, SockAddr::Inet(inet) if inet.port() == 0) {
            // the port is chosen with the peer in view, so that one is enough for many peers
            let _ = set_option(&SockRef::from(&socket), libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1);
        } else {
            socket.set_reuse_address(true)?;
        }
        socket.bind(&raw(local)?)?;
    }
    match socket.connect(&raw(address)?) {
        Ok(()) => Ok((socket.into(), false)),
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok((socket.into(), true)),
        Err(error) => Err(error),
    }
}

fn set_transparent(socket: &Socket, domain: Domain) -> io::Result<()> {
    let (level, name) = match domain {
        Domain::IPV6 => (libc::SOL_IPV6, libc::IPV6_TRANSPARENT),
        _ => (libc::SOL_IP, libc::IP_TRANSPARENT),
    };
    set_option(&SockRef::from(socket), level, name, 1)
}

/// A datagram socket for one peer: what others send to it the kernel drops. Its port is the kernel's random choice.
pub fn connect_datagram(address: &SockAddr) -> io::Result<OwnedFd> {
    let SockAddr::Inet(inet) = address else { return Err(io::ErrorKind::Unsupported.into()) };
    let socket =
        Socket::new(Domain::for_address(*inet), Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
    socket.connect(&raw(address)?)?;
    Ok(socket.into())
}

/// Receives one datagram.
pub fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> nix::Result<usize> {
    nix::sys::socket::recv(fd.as_raw_fd(), buffer, nix::sys::socket::MsgFlags::empty())
}

/// Writes several pieces at once, as writev(2); never waits, and no signal tells that the peer has gone.
pub fn send_vectored(fd: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> nix::Result<usize> {
    // SAFETY: a msghdr of zeroes is valid. IoSlice has the layout of iovec (std), and the kernel reads the pieces, which
    // outlive the call, and writes nothing.
    let sent = unsafe {
        let mut header: libc::msghdr = std::mem::zeroed();
        header.msg_iov = slices.as_ptr().cast_mut().cast();
        header.msg_iovlen = slices.len() as _;
        libc::sendmsg(fd.as_raw_fd(), &raw const header, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
    };
    usize::try_from(sent).map_err(|_| nix::Error::last())
}

/// What is wrong with a listening socket that this program never does to one: any process that has it could. The words
/// complete "the listening socket …".
pub fn damage(listener: BorrowedFd<'_>) -> Option<&'static str> {
    let socket = SockRef::from(&listener);
    if !socket.is_listener().unwrap_or(false) || is_half_closed(listener) {
        return Some("does not listen any more");
    }
    // A filter of eBPF cannot be read (EACCES), one of classic BPF tells its length.
    if option_length(listener, SO_GET_FILTER, 0).is_none_or(|length| length > 0) {
        return Some("has a filter");
    }
    let mut is_locked = [0; 4];
    if read_option(listener, libc::SO_LOCK_FILTER, &mut is_locked).is_some() && is_locked != [0; 4] {
        return Some("has a lock on its filters");
    }
    let mut device = [0; libc::IFNAMSIZ];
    if read_option(listener, libc::SO_BINDTODEVICE, &mut device).is_some_and(|length| length > 0) {
        return Some("is bound to a device");
    }
    None
}

/// Undoes the damage to a listening socket in place, for all processes that have it; false: that was not possible.
pub fn revive(listener: BorrowedFd<'_>, backlog: i32) -> bool {
    let socket = SockRef::from(&listener);
    if !socket.is_listener().unwrap_or(true) {
        // A socket that was shut down twice keeps that mark, and each connection that it accepts would begin with its end.
        disconnect(listener);
        let _ = socket.listen(backlog);
    }
    let _ = set_option(&socket, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, 0);
    damage(listener).is_none()
}

/// Takes a socket back to where it was before it was connected or shut down (connect(2), AF_UNSPEC); it stays bound.
fn disconnect(fd: BorrowedFd<'_>) {
    // SAFETY: an all-zero sockaddr is valid, its family is AF_UNSPEC (0); it lives through the call.
    unsafe {
        let nowhere: libc::sockaddr = std::mem::zeroed();
        let length = size_of_val(&nowhere) as libc::socklen_t;
        libc::connect(fd.as_raw_fd(), &raw const nowhere, length);
    }
}

/// A unix socket that was shut down still counts as listening.
fn is_half_closed(listener: BorrowedFd<'_>) -> bool {
    let mut poll = libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: one pollfd, which lives through the call.
    unsafe { libc::poll(&raw mut poll, 1, 0) > 0 }
}

fn read_option(fd: BorrowedFd<'_>, name: i32, value: &mut [u8]) -> Option<usize> {
    let mut length = value.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into the value, which lives through the call.
    let outcome = unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, name, value.as_mut_ptr().cast(), &raw mut length)
    };
    (outcome == 0).then_some(length as usize)
}

/// The length that an option would have. `None`: it cannot be read.
fn option_length(fd: BorrowedFd<'_>, name: i32, room: libc::socklen_t) -> Option<usize> {
    let mut length = room;
    // SAFETY: with no room the kernel writes the length only.
    let outcome = unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, name, std::ptr::null_mut(), &raw mut length)
    };
    (outcome == 0).then_some(length as usize)
}

/// Makes the close of a connection a reset: nothing of it stays in the kernel.
pub fn reset_on_close(fd: BorrowedFd<'_>) -> io::Result<()> {
    SockRef::from(&fd).set_linger(Some(std::time::Duration::ZERO))
}

/// Turns on the kernel's keepalive probes.
pub fn set_keepalive(fd: impl AsFd) -> io::Result<()> {
    SockRef::from(&fd.as_fd()).set_keepalive(true)
}

/// The error that a connect in progress has come to; `Ok` when it is connected.
pub fn take_error(fd: BorrowedFd<'_>) -> io::Result<()> {
    SockRef::from(&fd).take_error()?.map_or(Ok(()), Err)
}

pub fn local_addr(fd: impl AsFd) -> io::Result<SockAddr> {
    SockRef::from(&fd.as_fd()).local_addr().map(|address| from_raw(&address))
}

pub fn peer_addr(fd: impl AsFd) -> io::Result<SockAddr> {
    SockRef::from(&fd.as_fd()).peer_addr().map(|address| from_raw(&address))
}

/// Has calls on a socket that would wait fail with EAGAIN. The mode belongs to the open socket, which other processes may
/// have too.
pub fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    SockRef::from(&fd).set_nonblocking(true)
}

/// What a descriptor is that another process has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nature {
    /// No socket, or none of a kind that a client's connection can be: the words tell what.
    Other(&'static str),
    /// A stream socket whose peer is gone, or that never had one.
    Unconnected,
    /// A connected stream socket with this address on our side.
    Connected(SockAddr),
}

/// Looks what a descriptor is. Never waits, and changes nothing.
pub fn nature(fd: BorrowedFd<'_>) -> Nature {
    let socket = SockRef::from(&fd);
    let is_stream = match socket.r#type() {
        Ok(kind) => kind == Type::STREAM,
        Err(_) => return Nature::Other("no socket"),
    };
    let is_family = socket.domain().is_ok_and(|it| [Domain::IPV4, Domain::IPV6, Domain::UNIX].contains(&it));
    if !is_stream || !is_family {
        return Nature::Other("no stream socket");
    }
    if socket.is_listener().unwrap_or(true) {
        return Nature::Other("a listening socket");
    }
    match (socket.peer_addr(), local_addr(fd)) {
        (Ok(_), Ok(local)) => Nature::Connected(local),
        _ => Nature::Unconnected,
    }
}

/// Connections that wait in a listener's queue (`tcpi_unacked` of a listening socket, tcp(7)).
pub fn accept_backlog(listener: BorrowedFd<'_>) -> u32 {
    // SAFETY: an all-zero tcp_info is valid, and the kernel writes at most `length` bytes into it.
    unsafe {
        let mut info: libc::tcp_info = std::mem::zeroed();
        let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
        let fd = listener.as_raw_fd();
        match libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut length)
        {
            0 => info.tcpi_unacked,
            _ => 0,
        }
    }
}

/// What tcp(7) tells of a connection.
#[derive(Clone, Copy, Debug)]
pub struct TcpInfo {
    pub rtt_us: u32,
    pub rtt_variance_us: u32,
    /// In segments.
    pub congestion_window: u32,
    /// In bytes.
    pub receive_space: u32,
}

/// `None` where it is no TCP connection.
pub fn tcp_info(fd: RawFd) -> Option<TcpInfo> {
    // SAFETY: an all-zero tcp_info is valid, and the kernel writes at most `length` bytes into it; a number that is no
    // socket is an error of the call.
    unsafe {
        let mut info: libc::tcp_info = std::mem::zeroed();
        let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
        let told =
            libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut length);
        (told == 0).then_some(TcpInfo {
            rtt_us: info.tcpi_rtt,
            rtt_variance_us: info.tcpi_rttvar,
            congestion_window: info.tcpi_snd_cwnd,
            receive_space: info.tcpi_rcv_space,
        })
    }
}

/// Whether a socket may have siblings on its address, among which connections can be steered.
pub fn is_steerable(fd: BorrowedFd<'_>) -> bool {
    local_addr(fd).is_ok_and(|address| !address.is_unix()) && SockRef::from(&fd).reuse_port().unwrap_or(false)
}

/// Lets only the sockets with these indexes of a reuseport group get new connections, at random.
///
/// `group`: any socket of the group. An index counts the group's sockets in the order in which they began to
/// listen. Of more than 250 the first 250 count. Needs no privilege: a classic BPF program (socket(7),
/// SO_ATTACH_REUSEPORT_CBPF).
pub fn steer(group: BorrowedFd<'_>, indexes: &[u32]) -> io::Result<()> {
    let indexes = &indexes[..indexes.len().min(250)]; // a jump skips 255 instructions at most
    let count = indexes.len() as u32;
    if count == 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let op = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let random = (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM) as u32;
    let mut program = vec![
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, random),
        op(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, 0, 0, count),
    ];
    for (turn, index) in indexes.iter().enumerate() {
        program.push(op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, turn as u32));
        program.push(op(libc::BPF_RET | libc::BPF_K, 0, 0, *index));
    }
    program.push(op(libc::BPF_RET | libc::BPF_K, 0, 0, indexes[0]));
    let length = program.len() as u16;
    let program = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    // The kernel copies the program during the call.
    Ok(nix::sys::socket::setsockopt(&group, nix::sys::socket::sockopt::AttachReusePortCbpf, &program)?)
}

/// Lets the kernel choose among all sockets of the group again.
pub fn unsteer(group: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the option takes one int, whose value does not matter.
    let outcome = unsafe {
        let zero: i32 = 0;
        let length = size_of::<i32>() as libc::socklen_t;
        libc::setsockopt(
            group.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_DETACH_REUSEPORT_BPF,
            (&raw const zero).cast(),
            length,
        )
    };
    if outcome == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// asm-generic/socket.h; the libc crate does not name it.
const SO_DETACH_REUSEPORT_BPF: i32 = 68;
/// The same number as the option that attaches one.
const SO_GET_FILTER: i32 = libc::SO_ATTACH_FILTER;

fn raw(address: &SockAddr) -> io::Result<RawAddr> {
    match address {
        SockAddr::Inet(inet) => Ok((*inet).into()),
        SockAddr::Unix(path) => RawAddr::unix(path),
    }
}

fn from_raw(address: &RawAddr) -> SockAddr {
    match address.as_socket() {
        Some(inet) => SockAddr::Inet(inet),
        None => match (address.as_pathname(), address.as_abstract_namespace()) {
            (Some(path), _) => SockAddr::Unix(path.into()),
            (None, Some(name)) => SockAddr::from_unix_name(&[b"\0", name].concat()),
            (None, None) => SockAddr::from_unix_name(b""),
        },
    }
}

fn option(fd: &SockRef<'_>, level: i32, name: i32) -> io::Result<i32> {
    let mut value = 0;
    let mut length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `value`.
    let outcome =
        unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut length) };
    if outcome == -1 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

fn set_option(fd: &SockRef<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: the kernel reads one int from `value`, which lives through the call.
    let outcome = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    if outcome == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel says of a listening socket, beside its address.
    fn facts(fd: &OwnedFd) -> Vec<(&'static str, i32)> {
        let socket = SockRef::from(fd);
        let tcp = |name| option(&socket, libc::IPPROTO_TCP, name).expect("TCP has it");
        let own = |name| option(&socket, libc::SOL_SOCKET, name).expect("the kernel has it");
        let keepalive = own(libc::SO_KEEPALIVE);
        // Without SO_KEEPALIVE the rest is of no account.
        let probes = |name| if keepalive == 1 { tcp(name) } else { 0 };
        let locked = own(SO_BUF_LOCK);
        // A size that nobody has set is the kernel's to change.
        let size = |name, bit| if locked & bit != 0 { own(name) } else { 0 };
        vec![
            ("rcvbuf", size(libc::SO_RCVBUF, 2)),
            ("sndbuf", size(libc::SO_SNDBUF, 1)),
            ("keepalive", keepalive),
            ("idle", probes(libc::TCP_KEEPIDLE)),
            ("interval", probes(libc::TCP_KEEPINTVL)),
            ("count", probes(libc::TCP_KEEPCNT)),
            ("deferred", i32::from(tcp(libc::TCP_DEFER_ACCEPT) > 0)),
            ("fastopen", tcp(libc::TCP_FASTOPEN)),
            ("multipath", i32::from(Make::of(fd.as_fd()).is_multipath)),
        ]
    }

    #[test]
    fn a_socket_that_changes_is_as_one_that_is_made_so() {
        let address = SockAddr::Inet(([127, 0, 0, 1], 0).into());
        let plain = ListenOptions::default;
        let some = |idle_s, interval_s, count| Some(Probes { idle_s, interval_s, count });
        let all = [
            plain(),
            ListenOptions { backlog: 7, ..plain() },
            ListenOptions { rcvbuf: Some(32 * 1024), ..plain() },
            ListenOptions { rcvbuf: Some(64 * 1024), sndbuf: Some(48 * 1024), ..plain() },
            ListenOptions { sndbuf: Some(96 * 1024), deferred: true, ..plain() },
            ListenOptions { fastopen: Some(9), keepalive: some(None, None, None), ..plain() },
            ListenOptions { fastopen: Some(11), keepalive: some(Some(77), None, Some(3)), ..plain() },
            ListenOptions { keepalive: some(None, Some(5), None), deferred: true, ..plain() },
        ];
        for from in &all {
            for to in &all {
                let changed = listen(&address, from).expect("listens");
                change(changed.as_fd(), &address, to).expect("changes");
                let fresh = listen(&address, to).expect("listens");
                assert_eq!(facts(&changed), facts(&fresh), "from {from:?} to {to:?}");
            }
        }
    }

    #[test]
    fn a_socket_says_what_no_option_changes() {
        let address = SockAddr::Inet("[::]:0".parse().expect("an address"));
        for (ipv6only, multipath) in [(true, false), (false, false), (true, has_multipath())] {
            let options = ListenOptions { ipv6only, multipath, ..ListenOptions::default() };
            let socket = listen(&address, &options).expect("listens");
            assert_eq!(Make::of(socket.as_fd()), Make::wanted(&address, &options), "{options:?}");
        }
    }
}
