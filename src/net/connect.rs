//! Opening a connection to an upstream server.
//!
//! Waits for the handshake only; how long is the caller's matter (`runtime::timeout`). Dropping the future
//! closes the socket.

use std::io;

use crate::net::Transport;
use crate::net::address::Address;
use crate::runtime::Io;
use crate::sys::socket;

/// How a connection is opened.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The local address (`proxy_bind`); `None`: the kernel's choice.
    pub bind: Option<Address>,
    /// The local address may be any, not only one of this machine (IP_TRANSPARENT; needs CAP_NET_RAW).
    pub is_transparent: bool,
    /// TCP keepalive probes while the connection lives (`proxy_socket_keepalive`).
    pub probes: bool,
}

/// Connects, without Nagle's delay. Errors: the system call's, such as connection refused.
pub async fn connect(address: &Address, options: &Options) -> io::Result<Transport> {
    // a unix socket has no local address that could be chosen
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
