//! What carries one exchange with an upstream: a connection of its own, so far.
//!
//! The exchange and the relay speak to a [`Carrier`] and not to a connection. A stream of a connection that several
//! requests share (HTTP/2, gRPC) is to be its second variant, a stored answer that no connection brings its third.
//! Touches: the upstream's socket.

use std::io;
use std::task::{Context, Poll};

use crate::http::upstream::codec::Decoder;
use crate::net::Transport;
use crate::net::open::Place;
use crate::runtime::buffer::Buffer;
use crate::runtime::{Io, Timer};
use crate::upstream::GroupState;
use crate::upstream::pool::Connection;

/// One exchange's way to a peer, and what reads the answer out of its bytes.
///
/// It belongs to the exchange, then to the relay of the answer's body. Dropped, it closes the connection;
/// [`Carrier::keep`] gives it to the next request instead, [`Carrier::into_tunnel`] to both sides of a tunnel.
#[derive(Debug)]
pub enum Carrier {
    /// A connection that serves no other request meanwhile.
    Own { connection: Connection, decoder: Decoder },
}

impl Carrier {
    #[inline]
    pub fn decoder(&mut self) -> &mut Decoder {
        match self {
            Self::Own { decoder, .. } => decoder,
        }
    }

    /// The timer that its connection keeps from one request to the next.
    #[inline]
    pub fn take_timer(&mut self) -> Timer {
        match self {
            Self::Own { connection, .. } => connection.take_timer(),
        }
    }

    #[inline]
    pub fn keep_timer(&mut self, timer: Timer) {
        match self {
            Self::Own { connection, .. } => connection.timer = timer,
        }
    }

    /// What the request is written to.
    #[inline]
    pub fn transport(&self) -> &Transport {
        match self {
            Self::Own { connection, .. } => &connection.transport,
        }
    }

    /// Reads into the buffer. Ready with the bytes read, 0 at the end of what the peer sends.
    #[inline]
    pub fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut Buffer) -> Poll<io::Result<usize>> {
        match self {
            Self::Own { connection, .. } => {
                connection.transport.poll_read(cx, buffer.space()).map_ok(|count| {
                    buffer.filled(count);
                    count
                })
            }
        }
    }

    /// How many bytes of the body come through a plain socket as they are, and that socket: they may be moved inside the
    /// kernel, past the decoder ([`Decoder::moved`]).
    pub fn raw(&self) -> Option<(u64, &Io)> {
        match self {
            Self::Own { connection, decoder } => Some((decoder.raw_left()?, connection.transport.plain()?)),
        }
    }

    /// It served another request before: its peer may have closed it meanwhile.
    pub fn is_reused(&self) -> bool {
        match self {
            Self::Own { connection, .. } => connection.reused,
        }
    }

    /// The exchange is over. What can carry another one of the group is kept for it.
    #[inline]
    pub fn keep(self, group: &GroupState) {
        match self {
            Self::Own { connection, decoder } if decoder.may_keep() => {
                group.give(connection);
            }
            Self::Own { .. } => {}
        }
    }

    /// The connection, whose peer has switched protocols.
    pub fn into_tunnel(self) -> (Transport, Place) {
        match self {
            Self::Own { connection, .. } => (connection.transport, connection.place),
        }
    }
}
