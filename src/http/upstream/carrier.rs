//! The carrier of one exchange with an upstream; so far always a connection of its own.
//!
//! The exchange and the relay use a [`Carrier`] instead of a connection. A stream of a shared connection
//! (HTTP/2, gRPC) is to be its second variant, a stored response its third. Touches: the upstream's socket.

use std::io;
use std::task::{Context, Poll, ready};

use crate::http::upstream::codec::Decoder;
use crate::net::Transport;
use crate::net::open::Place;
use crate::runtime::buffer::Buffer;
use crate::runtime::{Io, Timer};
use crate::upstream::GroupState;
use crate::upstream::pool::Connection;

/// An exchange's connection to a peer, and the decoder of the response.
///
/// It belongs to the exchange, then to the relay of the response's body. Dropping it closes the connection;
/// [`Carrier::keep`] leaves it to the next request instead, [`Carrier::into_tunnel`] to both sides of a
/// tunnel.
#[derive(Debug)]
pub enum Carrier {
    /// A connection that serves no other request meanwhile.
    Own { connection: Box<Connection>, decoder: Decoder },
}

impl Carrier {
    #[inline]
    pub fn decoder(&mut self) -> &mut Decoder {
        match self {
            Self::Own { decoder, .. } => decoder,
        }
    }

    /// The timer that the connection keeps from one request to the next.
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

    /// The connection to which the request is written.
    #[inline]
    pub fn transport(&self) -> &Transport {
        match self {
            Self::Own { connection, .. } => &connection.transport,
        }
    }

    /// Reads into the buffer in `held`, or into a new one of `capacity`. Ready with the number of bytes read, 0 at
    /// the end of the peer's data.
    ///
    /// Takes a buffer only if there may be data, and leaves no empty one: waiting for a response takes no memory.
    #[inline]
    pub fn poll_read(
        &self,
        cx: &mut Context<'_>,
        held: &mut Option<Buffer>,
        capacity: usize,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Own { connection, .. } => {
                if held.is_none() {
                    ready!(connection.transport.poll_readable(cx))?;
                }
                let buffer = held.get_or_insert_with(|| Buffer::take(capacity));
                let polled = connection.transport.poll_read(cx, buffer.space());
                if let Poll::Ready(Ok(count)) = polled {
                    buffer.filled(count);
                }
                if buffer.data().is_empty() {
                    *held = None;
                }
                polled
            }
        }
    }

    /// How many bytes of the body arrive unframed on a plain socket, and that socket: they may be moved
    /// inside the kernel, bypassing the decoder ([`Decoder::moved`]).
    pub fn raw(&self) -> Option<(u64, &Io)> {
        match self {
            Self::Own { connection, decoder } => Some((decoder.raw_left()?, connection.transport.plain()?)),
        }
    }

    /// True if it has served another request: its peer may have closed it meanwhile.
    pub fn is_reused(&self) -> bool {
        match self {
            Self::Own { connection, .. } => connection.reused,
        }
    }

    /// Ends the exchange. If the connection can serve another one, it is kept for its group.
    #[inline]
    pub fn keep(self, group: &GroupState) {
        match self {
            Self::Own { connection, decoder } if decoder.may_keep() => {
                group.give(connection);
            }
            Self::Own { .. } => {}
        }
    }

    /// The connection, after its peer has switched protocols.
    pub fn into_tunnel(self) -> (Transport, Place) {
        match self {
            Self::Own { connection, .. } => (connection.transport, connection.place),
        }
    }
}
