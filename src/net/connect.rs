//! Opening a connection to an upstream server.
//!
//! Waits only for the handshake, without a limit: the caller sets one (`runtime::timeout`). Dropping the
//! future closes the socket.

use std::io;

use crate::net::Transport;
use crate::net::address::Address;
use crate::runtime::Io;
use crate::sys::socket;

/// Options of a new connection.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The local address (`proxy_bind`); `None`: the kernel chooses.
    pub bind: Option<Address>,
    /// The local address need not belong to this machine (IP_TRANSPARENT; needs CAP_NET_RAW).
    pub is_transparent: bool,
    /// Send TCP keepalive probes while the connection lives (`proxy_socket_keepalive`).
    pub probes: bool,
}

/// Connects, with Nagle's algorithm off. Fails with the system call's error, such as connection refused.
pub async fn connect(address: &Address, options: &Options) -> io::Result<Transport> {
    // a unix socket has no local address to choose
    let bind = options.bind.as_ref().filter(|_| !address.is_unix());
    let (fd, in_progress) = socket::connect_nonblocking(address, bind, options.is_transparent)?;
    if options.probes && !address.is_unix() {
        socket::set_keepalive(&fd)?;
    }
    if !in_progress {
        return Ok(Io::register(fd)?.into());
    }
    let io = Io::connecting(fd)?;
    io.writable().await?;
    socket::take_error(io.as_fd())?;
    Ok(io.into())
}
