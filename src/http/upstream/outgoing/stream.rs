//! A request on its way to an upstream over a stream of HTTP/2: its head, its body within the windows, its end.
//!
//! Touches: the state of a shared connection, the client's socket for the body. Bounded: as much of a streamed body as
//! [`REPEATED_BYTES_MAX`] is kept, so that a peer which refuses the request can be replaced; a part beyond that is taken
//! from the client only when the one before it has left.

use std::task::{Context, Poll, ready};

use super::{Outgoing, Rest, SendFault};
use crate::http::downstream::Downstream;
use crate::http::request::Request;
use crate::http::request::error::Error;
use crate::http::upstream::h2::{Exchange, FRAME_BYTES_MAX};

/// How much of a streamed body is kept for another try, with the head before it.
const REPEATED_BYTES_MAX: usize = 16 * 1024;
/// Size of a part of a file.
const FILE_BYTES: usize = 32 * 1024;

impl Outgoing {
    /// Hands on what is available, reading the client's body on the way. Ready when everything has been handed on, with
    /// the end of the stream.
    pub fn poll_stream(
        &mut self,
        cx: &mut Context<'_>,
        exchange: &Exchange,
        request: &mut Request,
        client: Downstream<'_>,
    ) -> Poll<Result<(), SendFault>> {
        if !exchange.stream().is_open() {
            self.waits_for_upstream = true;
            let ends = self.head_bytes == self.bytes.len() && self.rest == Rest::Nothing;
            let block = self.bytes.get(..self.head_bytes).unwrap_or_default();
            exchange.open(request, block, ends).map_err(SendFault::Upstream)?;
            (self.at, self.needs_end) = (self.head_bytes, !ends);
            self.sent += self.head_bytes as u64;
        }
        loop {
            self.waits_for_upstream = true;
            if exchange.is_stopped() {
                self.stop();
                return Poll::Ready(Ok(()));
            }
            if self.is_done() {
                return Poll::Ready(Ok(()));
            }
            if !self.piece.0.is_empty() || self.at < self.bytes.len() || self.rest == Rest::Nothing {
                ready!(self.poll_hand_on(cx, exchange)).map_err(SendFault::Upstream)?;
            }
            if self.is_done() {
                return Poll::Ready(Ok(()));
            }
            match self.rest {
                Rest::FramedFile => self.read_file(request).map_err(SendFault::Client)?,
                _ => ready!(self.poll_piece(cx, request, client)).map_err(SendFault::Client)?,
            }
        }
    }

    /// Hands on what is in memory. Ready when all of it is.
    fn poll_hand_on(&mut self, cx: &mut Context<'_>, exchange: &Exchange) -> Poll<std::io::Result<()>> {
        let is_file = self.rest == Rest::FramedFile && self.at == self.bytes.len();
        let is_last = self.rest == Rest::Nothing || is_file && self.file_left.is_empty();
        let data = match is_file {
            true => self.piece.0.get(self.piece.1..),
            false => self.bytes.get(self.at..),
        };
        let data = data.unwrap_or_default();
        let send = |proto: &mut crate::proto::h2::Connection, id| {
            proto.send_data(id, data, is_last, FRAME_BYTES_MAX, cx.waker())
        };
        let sent = exchange.stream().with(send).map_err(|_| std::io::ErrorKind::ConnectionReset)?;
        self.sent += sent.count as u64;
        if is_file {
            self.piece.1 += sent.count;
        } else {
            self.at += sent.count;
        }
        if !sent.is_done {
            return Poll::Pending;
        }
        self.piece.0.clear();
        self.needs_end &= !is_last;
        Poll::Ready(Ok(()))
    }

    /// The peer does not want the rest.
    fn stop(&mut self) {
        self.is_stopped = true;
        self.piece.0.clear();
    }

    /// Reads the next part of the body's file.
    fn read_file(&mut self, request: &Request) -> Result<(), Error> {
        let lost = || Error::ours("the file of the request body was truncated");
        let file = request.body.file().ok_or_else(lost)?;
        let left = self.file_left.end - self.file_left.start;
        let (piece, sent) = &mut self.piece;
        piece.resize(FILE_BYTES.min(usize::try_from(left).unwrap_or(usize::MAX)), 0);
        *sent = 0;
        let offset = i64::try_from(self.file_left.start).map_err(|_| lost())?;
        let count = nix::sys::uio::pread(file.as_fd(), piece, offset).unwrap_or(0);
        piece.truncate(count);
        self.file_left.start += count as u64;
        if count == 0 { Err(lost()) } else { Ok(()) }
    }

    /// Takes what is available of the client's body, and its end.
    fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
        request: &mut Request,
        client: Downstream<'_>,
    ) -> Poll<Result<(), Error>> {
        let body = &mut request.body;
        self.waits_for_upstream = false;
        let mut polled = Poll::Ready(Ok(ready!(body.poll_data(client, cx))?));
        self.waits_for_upstream = true;
        let mut room = FRAME_BYTES_MAX;
        while let Poll::Ready(Ok(true)) = polled
            && room > 0
        {
            let data = body.data();
            let count = data.len().min(room);
            if self.is_spent || self.bytes.len() + count > REPEATED_BYTES_MAX + self.head_bytes {
                if self.at == self.bytes.len() {
                    self.bytes.clear();
                    self.at = 0;
                }
                self.is_spent = true;
            }
            self.bytes.extend_from_slice(&data[..count]);
            room -= count;
            body.consume(count);
            polled = body.poll_data(client, cx);
        }
        if let Some(kept) = &mut self.kept
            && !self.is_spent
        {
            kept.end = self.bytes.len();
        }
        match polled {
            Poll::Ready(Ok(false)) => self.rest = Rest::Nothing,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Ready(Ok(true)) | Poll::Pending => {}
        }
        Poll::Ready(Ok(()))
    }
}
