//! Sockets: listening, accepting, connecting, and the kernel's information about them.

#![allow(unsafe_code)]

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use nix::sys::stat::Mode;
use socket2::{Domain, Protocol, SockAddr as RawAddr, SockRef, Socket, Type};

use crate::sys::address::SockAddr;
use crate::sys::buffers::Buffers;
use crate::sys::{datagram, datagrams, retire};

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
    /// SO_KEEPALIVE, and the settings of the probes.
    pub keepalive: Option<Probes>,
    /// Multipath TCP (RFC 8684).
    pub multipath: bool,
    /// The permissions of a unix socket's file.
    pub mode: u32,
    /// Of UDP: workers that leave go on receiving, since datagrams belong to connections.
    pub has_connections: bool,
}

/// TCP keepalive probes (tcp(7)): when the first one is sent to a silent peer, and how often; `None`: the
/// system's setting.
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
            mode: 0o666,
            has_connections: false,
        }
    }
}

/// Unsent bytes that may wait in the kernel for a client, not counting those in flight.
///
/// Without this limit each client that does not read holds up to `net.ipv4.tcp_wmem` (4 MB), and
/// `send_timeout` starts only when that is full: a thousand such clients take all memory that the kernel has
/// for TCP.
const UNSENT_BYTES_MAX: i32 = 256 * 1024;

/// A client that has taken this much is reading. The limit is then lifted, since it costs a wake-up for each
/// piece.
pub const UNSENT_PROOF_BYTES: u64 = 1024 * 1024;

/// Lifts the limit on unsent bytes for this peer.
pub fn lift_unsent_limit(fd: BorrowedFd<'_>) {
    let _ = set_option(&SockRef::from(&fd), libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, 0);
}

/// Switches Nagle's algorithm off (TCP_NODELAY).
pub fn end_delays(fd: BorrowedFd<'_>) {
    let _ = SockRef::from(&fd).set_tcp_nodelay(true); // a connection that fails tells its next call
}

/// Opens a listening socket: with SO_REUSEPORT, non-blocking, closed on exec.
///
/// TCP_NODELAY is set here once; accepted sockets inherit it.
pub fn listen(address: &SockAddr, options: &ListenOptions) -> io::Result<OwnedFd> {
    let socket = bind(address, options)?;
    if !address.is_datagram() {
        SockRef::from(&socket).listen(options.backlog)?;
    }
    Ok(socket)
}

/// The same, hidden until [`retire::reveal`]: the socket is in a reuseport group of its own and gets no
/// connections.
pub fn listen_hidden(address: &SockAddr, options: &ListenOptions) -> io::Result<OwnedFd> {
    let socket = bind(address, options)?;
    retire::hide(socket.as_fd())?;
    if !address.is_datagram() {
        SockRef::from(&socket).listen(options.backlog)?;
    }
    Ok(socket)
}

fn bind(address: &SockAddr, options: &ListenOptions) -> io::Result<OwnedFd> {
    let (domain, protocol) = match address {
        SockAddr::Inet(inet) if options.multipath => (Domain::for_address(*inet), Some(Protocol::MPTCP)),
        SockAddr::Inet(inet) => (Domain::for_address(*inet), Some(Protocol::TCP)),
        SockAddr::Datagram(inet) => return datagram::bind(inet, options),
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
        bind_with(options.mode, &socket, &raw(address)?)?;
    } else {
        socket.bind(&raw(address)?)?;
    }
    Ok(socket.into())
}

/// Binds to a path with this mode.
///
/// When it is bound, the file gets the mode of the socket, less the umask. Changing the mode afterwards by
/// path would be a race: another file may have that name by then.
fn bind_with(mode: u32, socket: &Socket, address: &RawAddr) -> io::Result<()> {
    nix::sys::stat::fchmod(socket, Mode::from_bits_truncate(mode))?;
    let umask = nix::sys::stat::umask(Mode::empty());
    let bound = socket.bind(address);
    nix::sys::stat::umask(umask);
    bound
}

/// Sets all options of a listening socket, whatever it has now: those that are not configured become a new
/// socket's defaults.
///
/// Properties that are fixed when a socket is created are not changed; see [`Make`]. Errors: the first option
/// that the kernel refuses, with the name of its parameter; the others are set nevertheless.
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
    if !address.is_datagram() {
        note("backlog=", socket.listen(to.backlog));
    }
    note("rcvbuf=", change_buffer(&socket, Buffer::Receive, to.rcvbuf));
    note("sndbuf=", change_buffer(&socket, Buffer::Send, to.sndbuf));
    if address.is_datagram() {
        return outcome;
    }
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

/// Properties of a listening socket that are fixed when it is created: to change them, another socket must be
/// opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Make {
    /// An IPv6 socket that accepts IPv4 as well.
    pub is_dual_stack: bool,
    pub is_multipath: bool,
}

impl Make {
    /// The properties of a socket that `listen` would open.
    pub fn wanted(address: &SockAddr, options: &ListenOptions) -> Self {
        let is_ipv6 = address.ip().is_some_and(|ip| ip.is_ipv6());
        Self {
            is_dual_stack: is_ipv6 && address.ip().is_some_and(|ip| ip.is_unspecified()) && !options.ipv6only,
            is_multipath: options.multipath && matches!(address, SockAddr::Inet(_)),
        }
    }

    /// The properties of an existing socket.
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

/// asm-generic/socket.h, since Linux 5.14; the libc crate does not have it.
const SO_BUF_LOCK: i32 = 72;

/// Sets the size of a buffer; `None`: the system's default, which grows as needed.
fn change_buffer(socket: &SockRef<'_>, which: Buffer, bytes: Option<usize>) -> io::Result<()> {
    // SOCK_SNDBUF_LOCK and SOCK_RCVBUF_LOCK of include/net/sock.h: the size was set explicitly.
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
    // The option's value is the set of bits to keep.
    set_option(socket, libc::SOL_SOCKET, SO_BUF_LOCK, locked & !bit)
}

/// Reads a number from a `net.ipv4` sysctl, which applies to IPv6 too: the word at this place of the line.
fn system_value(name: &str, place: usize) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).ok()?;
    text.split_ascii_whitespace().nth(place)?.parse().ok()
}

/// Whether the kernel supports Multipath TCP sockets.
pub fn has_multipath() -> bool {
    Socket::new(Domain::IPV4, Type::STREAM.cloexec(), Some(Protocol::MPTCP)).is_ok()
}

/// Sets the options that differ. Accepted sockets inherit all of them.
pub(super) fn set_options(
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
    if address.is_datagram() {
        return Ok(());
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

/// Tests whether an address can be bound, and leaves nothing behind. Without SO_REUSEPORT, with which a
/// second program of the same user would share the address unnoticed. For a path, only checks that it could
/// be created and that no other kind of file is there.
pub fn probe(address: &SockAddr) -> io::Result<()> {
    let (inet, kind, protocol) = match address {
        SockAddr::Inet(inet) => (inet, Type::STREAM, Protocol::TCP),
        SockAddr::Datagram(inet) => (&**inet, Type::DGRAM, Protocol::UDP),
        SockAddr::Unix(_) => return address.path().map_or(Ok(()), probe_path),
    };
    let socket = Socket::new(Domain::for_address(*inet), kind.cloexec(), Some(protocol))?;
    // For UDP this would let two programs share the address.
    socket.set_reuse_address(kind == Type::STREAM)?;
    if inet.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&raw(address)?)
}

/// Stops listening, for all processes that share this socket; queued TCP connections are reset.
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
    // try_init requires; the descriptor that it returns is new and has no other owner.
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

/// Starts to connect. True if the connection is still in progress: the socket becomes writable when it is
/// decided. `is_transparent`: the local address may belong to another machine. `speaks_first`: the first data follows at once
/// and carries the last acknowledgement of TCP's handshake, which is no packet of its own then. Nagle's algorithm is on: see
/// [`end_delays`].
pub fn connect_nonblocking(
    address: &SockAddr,
    bind: Option<&SockAddr>,
    is_transparent: bool,
    speaks_first: bool,
    buffers: Buffers,
) -> io::Result<(OwnedFd, bool)> {
    let domain = match address {
        SockAddr::Inet(inet) => Domain::for_address(*inet),
        SockAddr::Datagram(inet) => Domain::for_address(**inet),
        SockAddr::Unix(_) => Domain::UNIX,
    };
    let kind = if address.is_datagram() { Type::DGRAM } else { Type::STREAM };
    let socket = Socket::new(domain, kind.nonblocking().cloexec(), None)?;
    if address.is_datagram() {
        datagrams::gather(&SockRef::from(&socket));
    }
    buffers.set(&SockRef::from(&socket));
    if let Some(local) = bind {
        if is_transparent {
            set_transparent(&socket, domain)?;
        }
        if matches!(local, SockAddr::Inet(inet) if inet.port() == 0) {
            // choose the port at connect, so that one port can serve many peers
            let _ = set_option(&SockRef::from(&socket), libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1);
        } else {
            socket.set_reuse_address(true)?;
        }
        socket.bind(&raw(local)?)?;
    }
    if speaks_first && matches!(address, SockAddr::Inet(_)) {
        let _ = socket.set_tcp_quickack(false); // without it there is one packet more
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

/// Opens a datagram socket for one peer; the kernel drops datagrams from others and picks a random local
/// port.
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

/// Writes several slices at once, like writev(2), but never waits and raises no SIGPIPE.
pub fn send_vectored(fd: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> nix::Result<usize> {
    // SAFETY: a msghdr of zeroes is valid. IoSlice has the layout of iovec (std); the kernel only reads the
    // slices, which outlive the call.
    let sent = unsafe {
        let mut header: libc::msghdr = std::mem::zeroed();
        header.msg_iov = slices.as_ptr().cast_mut().cast();
        header.msg_iovlen = slices.len() as _;
        libc::sendmsg(fd.as_raw_fd(), &raw const header, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
    };
    usize::try_from(sent).map_err(|_| nix::Error::last())
}

/// Reads into several slices at once, like readv(2), but never waits.
pub fn receive_vectored(fd: BorrowedFd<'_>, slices: &mut [IoSliceMut<'_>]) -> nix::Result<usize> {
    // SAFETY: a msghdr of zeroes is valid. IoSliceMut has the layout of iovec (std); the slices are borrowed
    // mutably until the call returns.
    let received = unsafe {
        let mut header: libc::msghdr = std::mem::zeroed();
        header.msg_iov = slices.as_mut_ptr().cast();
        header.msg_iovlen = slices.len() as _;
        libc::recvmsg(fd.as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT)
    };
    usize::try_from(received).map_err(|_| nix::Error::last())
}

/// Looks for damage to a listening socket: states that this program never causes, but any other process that
/// has the socket can. The words complete "the listening socket …".
pub fn damage(listener: BorrowedFd<'_>) -> Option<&'static str> {
    let socket = SockRef::from(&listener);
    let is_open = datagram::is_datagram(listener) || socket.is_listener().unwrap_or(false);
    if !is_open || is_half_closed(listener) {
        return Some("no longer listens");
    }
    // An eBPF filter cannot be read (EACCES); of a classic BPF filter we get the length.
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

/// Repairs a damaged listening socket in place, for all processes that have it; false if that was not
/// possible.
pub fn revive(listener: BorrowedFd<'_>, backlog: i32) -> bool {
    let socket = SockRef::from(&listener);
    if !datagram::is_datagram(listener) && !socket.is_listener().unwrap_or(true) {
        // A socket that was shut down twice stays marked as such, and each connection that it accepts would
        // start at end of file; disconnecting clears the mark.
        disconnect(listener);
        let _ = socket.listen(backlog);
    }
    let _ = set_option(&socket, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, 0);
    damage(listener).is_none()
}

/// Returns a socket to its state before it was connected or shut down (connect(2), AF_UNSPEC); it stays
/// bound.
fn disconnect(fd: BorrowedFd<'_>) {
    // SAFETY: an all-zero sockaddr is valid, its family is AF_UNSPEC (0); it outlives the call.
    unsafe {
        let nowhere: libc::sockaddr = std::mem::zeroed();
        let length = size_of_val(&nowhere) as libc::socklen_t;
        libc::connect(fd.as_raw_fd(), &raw const nowhere, length);
    }
}

/// Calls `ask` with a descriptor that is known by its number; `None` if the number cannot be one.
pub fn with_number<T>(fd: RawFd, ask: impl FnOnce(BorrowedFd<'_>) -> T) -> Option<T> {
    // SAFETY: the descriptor is only asked, and a number that is not open is an error.
    (fd >= 0).then(|| ask(unsafe { BorrowedFd::borrow_raw(fd) }))
}

/// The process and the user at the other end of a unix socket; `None` for other sockets.
pub fn peer_credentials(fd: RawFd) -> Option<(u32, u32)> {
    // SAFETY: the descriptor is only asked, and a number that is not open is an error.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let found = nix::sys::socket::getsockopt(&fd, nix::sys::socket::sockopt::PeerCredentials).ok()?;
    let pid = u32::try_from(found.pid()).ok().filter(|pid| *pid != 0)?;
    Some((pid, found.uid()))
}

/// Detects a unix socket that was shut down: it still counts as listening.
fn is_half_closed(listener: BorrowedFd<'_>) -> bool {
    let mut poll = libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: one pollfd, which outlives the call.
    unsafe { libc::poll(&raw mut poll, 1, 0) > 0 }
}

fn read_option(fd: BorrowedFd<'_>, name: i32, value: &mut [u8]) -> Option<usize> {
    let mut length = value.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into the value, which outlives the call.
    let outcome = unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, name, value.as_mut_ptr().cast(), &raw mut length)
    };
    (outcome == 0).then_some(length as usize)
}

/// The length of an option's value. `None` if it cannot be read.
fn option_length(fd: BorrowedFd<'_>, name: i32, room: libc::socklen_t) -> Option<usize> {
    let mut length = room;
    // SAFETY: with a null pointer the kernel writes only the length.
    let outcome = unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, name, std::ptr::null_mut(), &raw mut length)
    };
    (outcome == 0).then_some(length as usize)
}

/// Makes close(2) reset the connection, so that nothing of it stays in the kernel.
pub fn reset_on_close(fd: BorrowedFd<'_>) -> io::Result<()> {
    SockRef::from(&fd).set_linger(Some(std::time::Duration::ZERO))
}

/// Turns on the kernel's keepalive probes.
pub fn set_keepalive(fd: impl AsFd) -> io::Result<()> {
    SockRef::from(&fd.as_fd()).set_keepalive(true)
}

/// The outcome of a connect that was in progress; `Ok` if it is connected.
pub fn take_error(fd: BorrowedFd<'_>) -> io::Result<()> {
    SockRef::from(&fd).take_error()?.map_or(Ok(()), Err)
}

pub fn local_addr(fd: impl AsFd) -> io::Result<SockAddr> {
    SockRef::from(&fd.as_fd()).local_addr().map(|address| from_raw(&address))
}

pub fn peer_addr(fd: impl AsFd) -> io::Result<SockAddr> {
    SockRef::from(&fd.as_fd()).peer_addr().map(|address| from_raw(&address))
}

/// Makes calls that would wait fail with EAGAIN. The mode belongs to the open socket, which other processes
/// may share.
pub fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    SockRef::from(&fd).set_nonblocking(true)
}

/// True if calls that would wait fail with EAGAIN.
pub fn is_nonblocking(fd: BorrowedFd<'_>) -> bool {
    SockRef::from(&fd).nonblocking().unwrap_or(false)
}

/// Number of connections in a listener's queue (`tcpi_unacked` of a listening socket, tcp(7)).
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

/// Part of TCP_INFO of a connection (tcp(7)).
#[derive(Clone, Copy, Debug)]
pub struct TcpInfo {
    pub rtt_us: u32,
    pub rtt_variance_us: u32,
    /// In segments.
    pub congestion_window: u32,
    /// In bytes.
    pub receive_space: u32,
    /// The time for which sending has waited for the peer to read.
    pub window_limited_us: u64,
}

/// TCP_INFO of a descriptor; `None` if it is not a TCP connection.
pub fn tcp_info(fd: RawFd) -> Option<TcpInfo> {
    // SAFETY: an all-zero tcp_info is valid, and the kernel writes at most `length` bytes into it. The call
    // fails for a number that is not a socket.
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
            window_limited_us: info.tcpi_rwnd_limited,
        })
    }
}

/// Whether a socket can be in a reuseport group, within which connections can be steered.
pub fn is_steerable(fd: BorrowedFd<'_>) -> bool {
    local_addr(fd).is_ok_and(|address| !address.is_unix()) && SockRef::from(&fd).reuse_port().unwrap_or(false)
}

/// Restricts new connections to the sockets with these indexes in a reuseport group; each is chosen at
/// random.
///
/// `group` is any socket of the group. Indexes follow the order in which the sockets began to listen; only
/// the first 250 are used. Needs no privilege: it is a classic BPF program (socket(7),
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

/// asm-generic/socket.h; the libc crate does not have it.
const SO_DETACH_REUSEPORT_BPF: i32 = 68;
/// Has the same number as the option that attaches a filter.
const SO_GET_FILTER: i32 = libc::SO_ATTACH_FILTER;

pub(super) fn raw(address: &SockAddr) -> io::Result<RawAddr> {
    match address {
        SockAddr::Inet(inet) => Ok((*inet).into()),
        SockAddr::Datagram(inet) => Ok((**inet).into()),
        SockAddr::Unix(path) => RawAddr::unix(path),
    }
}

pub(super) fn from_raw(address: &RawAddr) -> SockAddr {
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

pub(super) fn set_option(fd: &SockRef<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: the kernel reads one int from `value`, which outlives the call.
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
mod tests;
