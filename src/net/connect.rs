//! Opening a connection to an upstream server.
//!
//! Waits only for the handshake, without a limit: the caller sets one (`runtime::timeout`). Dropping the
//! future closes the socket.

use std::fmt;
use std::io;
use std::os::fd::AsFd;

use crate::log::Cause;
use crate::net::address::Address;
use crate::net::open::Place;
use crate::net::{Transport, room};
use crate::runtime::{Io, timeout};
use crate::sys::buffers::Buffers;
use crate::sys::{datagram, socket};

/// Options of a new connection.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The local address (`proxy_bind`); `None`: the kernel chooses.
    pub bind: Option<Address>,
    /// The local address need not belong to this machine (IP_TRANSPARENT; needs CAP_NET_RAW).
    pub is_transparent: bool,
    /// Send TCP keepalive probes while the connection lives (`proxy_socket_keepalive`).
    pub probes: bool,
    /// Open a UDP socket.
    pub is_datagram: bool,
    /// We send as soon as we are connected, and the peer waits for that.
    pub speaks_first: bool,
    /// The sizes of the socket's buffers (`proxy_socket_rcvbuf`, `proxy_socket_sndbuf`).
    pub buffers: Buffers,
}

/// Why there is no connection.
#[derive(Debug)]
pub enum Refusal {
    /// All places of the worker are in use, and no connection gives way.
    NoPlace,
    /// No descriptor can be had.
    Shortage(io::Error),
    Failed(io::Error),
    TimedOut,
}

impl Refusal {
    /// True if the worker lacks room, so that another address would not help.
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::NoPlace | Self::Shortage(_))
    }
}

/// The text for the log if the worker lacks room, with what to change.
impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPlace => {
                let limit = room::limit();
                write!(
                    out,
                    "{limit} worker_connections are not enough while connecting to upstream: raise \
                     \"worker_connections\" or \"worker_rlimit_nofile\""
                )
            }
            Self::Shortage(error) => {
                let remedy = room::remedy(error.raw_os_error().unwrap_or(0));
                write!(out, "socket() failed {} while connecting to upstream: {remedy}", Cause(error))
            }
            Self::Failed(error) => write!(out, "connect() failed {}", Cause(error)),
            Self::TimedOut => out.write_str("upstream timed out (110: Connection timed out)"),
        }
    }
}

/// Connects within a time, in a place among the worker's connections. Where places or descriptors are short, waiting
/// connections give way.
pub async fn open(
    address: &Address,
    options: &Options,
    timeout_ms: u64,
) -> Result<(Transport, Place), Refusal> {
    let Some(place) = room::for_upstream().await else { return Err(Refusal::NoPlace) };
    let mut connected = timeout(timeout_ms, connect(address, options)).await;
    if let Ok(Err(error)) = &connected
        && room::is_shortage(error)
        && Box::pin(room::free_descriptors(error)).await
    {
        connected = Box::pin(timeout(timeout_ms, connect(address, options))).await;
    }
    match connected {
        Ok(Ok(transport)) => Ok((transport, place)),
        Ok(Err(error)) if room::is_shortage(&error) => Err(Refusal::Shortage(error)),
        Ok(Err(error)) => Err(Refusal::Failed(error)),
        Err(_) => Err(Refusal::TimedOut),
    }
}

/// Connects. Nagle's algorithm is switched off before it could delay anything. Fails with the system call's error, such as connection refused.
pub async fn connect(address: &Address, options: &Options) -> io::Result<Transport> {
    if options.is_datagram && address.is_unix() {
        return Ok(Io::register(datagram::connect_unix(address, options.buffers)?)?.into());
    }
    let inet = match address {
        Address::Inet(inet) if options.is_datagram => Some(Address::Datagram(Box::new(*inet))),
        _ => None,
    };
    let address = inet.as_ref().unwrap_or(address);
    // a unix socket has no local address to choose
    let bind = options.bind.as_ref().filter(|_| !address.is_unix());
    let (fd, in_progress) = socket::connect_nonblocking(
        address,
        bind,
        options.is_transparent,
        options.speaks_first,
        options.buffers,
    )?;
    if options.probes && matches!(address, Address::Inet(_)) {
        socket::set_keepalive(&fd)?;
    }
    let is_tcp = matches!(address, Address::Inet(_));
    if !in_progress {
        if is_tcp {
            socket::end_delays(fd.as_fd());
        }
        return Ok(Io::register(fd)?.into());
    }
    let io = Io::connecting(fd, is_tcp)?;
    io.writable().await?;
    // A failure comes with an error event; without one there is nothing to ask the kernel for.
    if io.is_hung_up() {
        socket::take_error(io.as_fd())?;
    }
    Ok(io.into())
}
