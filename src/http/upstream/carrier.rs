//! The carrier of one exchange with an upstream: a connection of its own, or a stream of one that requests share.
//!
//! The exchange and the relay use a [`Carrier`] instead of a connection.
//! Touches: the upstream's socket.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use crate::http::request::error::Kind;
use crate::http::upstream::codec::Decoder;
use crate::http::upstream::h2::{self, Exchange};
use crate::net::Transport;
use crate::net::open::Place;
use crate::runtime::buffer::Buffer;
use crate::runtime::{Io, Timer};
use crate::upstream::GroupState;
use crate::upstream::link::Stream;
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
    /// A stream of HTTP/2.
    Stream { exchange: Rc<Exchange>, decoder: Decoder },
}

impl From<Stream> for Carrier {
    fn from(stream: Stream) -> Self {
        let exchange = Exchange::new(stream);
        let decoder = Decoder::H2(Box::new(h2::Decoder::new(Rc::clone(&exchange))));
        Self::Stream { exchange, decoder }
    }
}

impl Carrier {
    #[inline]
    pub fn decoder(&mut self) -> &mut Decoder {
        match self {
            Self::Own { decoder, .. } | Self::Stream { decoder, .. } => decoder,
        }
    }

    /// The timer that the connection keeps from one request to the next.
    #[inline]
    pub fn take_timer(&mut self) -> Timer {
        match self {
            Self::Own { connection, .. } => connection.take_timer(),
            Self::Stream { .. } => Timer::new(),
        }
    }

    #[inline]
    pub fn keep_timer(&mut self, timer: Timer) {
        if let Self::Own { connection, .. } = self {
            connection.timer = timer;
        }
    }

    /// The connection of its own; `None`: it has none.
    #[inline]
    pub fn transport(&self) -> Option<&Transport> {
        match self {
            Self::Own { connection, .. } => Some(&connection.transport),
            Self::Stream { .. } => None,
        }
    }

    /// The reason of an error of [`Carrier::poll_read`], in the terms of the protocol.
    #[cold]
    pub fn trouble(&self) -> Option<Kind> {
        match self {
            Self::Own { .. } => None,
            Self::Stream { exchange, .. } => exchange.trouble(),
        }
    }

    /// The peer has been silent for too long.
    #[cold]
    pub fn suspect(&self) {
        if let Self::Stream { exchange, .. } = self {
            exchange.stream().suspect();
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
            Self::Stream { exchange, .. } => exchange.poll_read(cx, held, capacity),
        }
    }

    /// How many bytes of the body arrive unframed on a plain socket, and that socket: they may be moved
    /// inside the kernel, bypassing the decoder ([`Decoder::moved`]).
    pub fn raw(&self) -> Option<(u64, &Io)> {
        match self {
            Self::Own { connection, decoder } => Some((decoder.raw_left()?, connection.transport.plain()?)),
            Self::Stream { .. } => None,
        }
    }

    /// True if it has served another request: its peer may have closed it meanwhile.
    pub fn is_reused(&self) -> bool {
        match self {
            Self::Own { connection, .. } => connection.reused,
            Self::Stream { exchange, .. } => exchange.stream().is_reused(),
        }
    }

    /// Ends the exchange of a request that has been sent and of a response that has been read. If the connection can serve
    /// another one, it is kept for its group.
    ///
    /// Otherwise, and if the peer has closed it already, it is reset: that takes a packet less than ending it, and the peer's
    /// kernel keeps nothing of it for a minute (TIME_WAIT). With a body it is ended: the peer may have closed its side alone, and
    /// still read.
    #[inline]
    pub fn keep(self, group: &GroupState, has_body: bool) {
        match self {
            Self::Own { connection, decoder } if decoder.may_keep() => {
                group.give(connection);
            }
            Self::Own { connection, .. } if !has_body && !connection.peer.address.is_unix() => {
                connection.transport.reset_if_ended();
            }
            Self::Own { .. } | Self::Stream { .. } => {} // what shares a connection keeps it
        }
    }

    /// The connection, after its peer has switched protocols; `None`: it is not for this request alone.
    pub fn into_tunnel(self) -> Option<(Transport, Place)> {
        match self {
            Self::Own { connection, .. } => Some((connection.transport, connection.place)),
            Self::Stream { .. } => None,
        }
    }
}
