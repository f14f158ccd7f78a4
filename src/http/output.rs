//! The bytes of one response on their way to the socket: framing, what waits, the pace.
//!
//! Touches: the client's socket. What waits is bounded by whoever writes; `send_timeout` runs while the socket
//! takes nothing. A subrequest writes into the output of the response that it is part of.
//! RFC 9112 §6, §7.1.

use std::future::poll_fn;
use std::io::IoSlice;
use std::task::{Context, Poll, ready};

use crate::http::error::{Error, Limit};
use crate::http::pace::Pace;
use crate::proto::h1::encode;
use crate::runtime::{self, Io, Timer, buffer};

/// Body bytes up to this many are copied behind their head: cheaper than to hand the kernel a list.
pub const JOINED_MAX: usize = 4096;

/// How the end of the response's body is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// Nothing was started.
    #[default]
    Idle,
    /// No body follows: HEAD, 204, 304.
    Bodiless,
    Length {
        left: u64,
    },
    Chunked,
    /// The end of the connection ends it (HTTP/1.0).
    UntilClose,
    /// Cut: no end may be written.
    Abandoned,
}

/// What few responses have.
#[derive(Debug)]
enum Special {
    /// `limit_rate`.
    Pace(Pace),
    /// Nothing is sent: the body is kept, up to so many bytes.
    Memory { kept: Vec<u8>, max: usize },
}

/// The way of one response to its socket.
#[derive(Debug, Default)]
pub struct Output {
    framing: Framing,
    /// Head, chunk heads and what was written ahead: the socket has not taken them yet.
    pending: Vec<u8>,
    timer: Timer,
    timeout_ms: u64,
    special: Option<Box<Special>>,
}

impl Output {
    #[inline]
    pub fn new() -> Self {
        let (timer, special) = (Timer::new(), None);
        Self { framing: Framing::Idle, pending: buffer::scratch(), timer, timeout_ms: 60_000, special }
    }

    pub fn memory(max: usize) -> Self {
        let mut output = Self::default();
        output.special = Some(Box::new(Special::Memory { kept: Vec::new(), max }));
        output
    }

    #[inline]
    pub fn begin(&mut self, framing: Framing, timeout_ms: u64) {
        (self.framing, self.timeout_ms) = (framing, timeout_ms);
    }

    pub fn set_pace(&mut self, pace: Pace) {
        self.special = Some(Box::new(Special::Pace(pace)));
    }

    /// What [`Output::memory`] has kept.
    pub fn take_memory(&mut self) -> Vec<u8> {
        match self.special.as_deref_mut() {
            Some(Special::Memory { kept, .. }) => std::mem::take(kept),
            _ => Vec::new(),
        }
    }

    /// Where a head is rendered to.
    pub fn pending(&mut self) -> &mut Vec<u8> {
        &mut self.pending
    }

    pub fn pending_count(&self) -> usize {
        self.pending.len()
    }

    pub fn abandon(&mut self) {
        self.framing = Framing::Abandoned;
        self.pending.clear();
    }

    pub fn is_chunked(&self) -> bool {
        self.framing == Framing::Chunked
    }

    /// Not every byte goes straight to the socket: [`Output::emit`] must be used.
    #[inline]
    pub fn is_special(&self) -> bool {
        self.special.is_some()
    }

    pub fn is_paced(&self) -> bool {
        matches!(self.special.as_deref(), Some(Special::Pace(_)))
    }

    /// The bytes that may leave now; waits until there are some. Errors: the client has gone meanwhile.
    pub async fn pace(&self, io: &Io) -> Result<u64, Error> {
        let Some(Special::Pace(pace)) = self.special.as_deref() else { return Ok(u64::MAX) };
        let mut timer = Timer::new();
        poll_fn(|cx| {
            if let Poll::Ready(count) = pace.poll_wait(cx, &mut timer) {
                return Poll::Ready(Ok(count));
            }
            ready!(io.poll_hangup(cx));
            Poll::Ready(Err(Error::client(499, "client prematurely closed connection")))
        })
        .await
    }

    pub fn wants_body(&self) -> bool {
        self.special.is_some()
            || !matches!(self.framing, Framing::Idle | Framing::Bodiless | Framing::Abandoned)
    }

    pub fn raw_room(&self) -> Option<u64> {
        match (self.framing, self.special.as_deref()) {
            (_, Some(Special::Memory { .. })) => None,
            (Framing::Length { left }, _) => Some(left),
            (Framing::UntilClose, _) => Some(u64::MAX),
            _ => None,
        }
    }

    pub fn moved(&mut self, count: u64) {
        if let Framing::Length { left } = &mut self.framing {
            *left = left.saturating_sub(count);
        }
        if let Some(Special::Pace(pace)) = self.special.as_deref_mut() {
            pace.pass(count);
        }
    }

    /// The part of `data` that belongs to the body, and what must follow it; a chunk's head is written here.
    #[inline]
    pub fn frame<'b>(&mut self, data: &'b [u8]) -> (&'b [u8], &'static [u8]) {
        match &mut self.framing {
            Framing::Bodiless | Framing::Abandoned | Framing::Idle => (&data[..0], b""),
            Framing::Length { left } => {
                let count = data.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= count as u64;
                (&data[..count], b"")
            }
            Framing::Chunked if !data.is_empty() => {
                encode::chunk_head(data.len() as u64, &mut self.pending);
                (data, b"\r\n")
            }
            Framing::UntilClose | Framing::Chunked => (data, b""),
        }
    }

    /// Writes the end; false when the body is shorter than it was said to be.
    #[inline]
    pub fn end(&mut self, trailers: &[u8]) -> bool {
        match self.framing {
            Framing::Chunked => encode::last_chunk_with(trailers, &mut self.pending),
            Framing::Length { left } if left > 0 => return false,
            Framing::Abandoned | Framing::Idle => return false,
            _ => {}
        }
        true
    }

    /// Puts few bytes behind a head that still waits; false: they must be sent as they lie.
    #[inline]
    pub fn join(&mut self, data: &[u8], tail: &[u8]) -> bool {
        let joins = !self.pending.is_empty() && data.len() <= JOINED_MAX;
        if joins {
            self.pending.extend_from_slice(data);
            self.pending.extend_from_slice(tail);
        }
        joins
    }

    /// Sends what waits and then `data` and its tail, of all of which `done` bytes are sent already. Ready when
    /// no more than `ahead` bytes are left.
    #[inline(always)]
    pub fn poll_send(
        &mut self,
        io: &Io,
        cx: &mut Context<'_>,
        (data, tail): (&[u8], &[u8]),
        ahead: usize,
        done: &mut usize,
    ) -> Poll<Result<(), Error>> {
        let head = self.pending.len();
        let total = head + data.len() + tail.len();
        while *done < total {
            let first = self.pending.get(*done..).unwrap_or(&[]);
            let written = if total == head {
                io.poll_write(cx, first)
            } else {
                let slices = [
                    IoSlice::new(first),
                    IoSlice::new(&data[done.saturating_sub(head).min(data.len())..]),
                    IoSlice::new(&tail[done.saturating_sub(head + data.len()).min(tail.len())..]),
                ];
                io.poll_write_vectored(cx, &slices)
            };
            match written {
                Poll::Ready(Ok(count)) => {
                    *done += count;
                    self.timer.cancel();
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Error::gone(&error))),
                Poll::Pending => {
                    if !self.timer.is_set() {
                        self.timer.set(runtime::now_ms() + self.timeout_ms);
                    }
                    if total - *done <= ahead {
                        return Poll::Ready(Ok(()));
                    }
                    ready!(self.timer.poll_expired(cx));
                    let cause = "client timed out (110: Connection timed out) while sending to client";
                    return Poll::Ready(Err(Error::client(408, cause).by(Limit::SendTimeout)));
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// After [`Output::poll_send`]: what was not sent waits.
    #[inline(always)]
    pub fn settle(&mut self, done: usize, data: &[u8], tail: &[u8]) {
        let head = self.pending.len();
        if done == head + data.len() + tail.len() {
            self.pending.clear();
            return;
        }
        self.pending.drain(..done.min(head));
        self.pending.extend_from_slice(&data[done.saturating_sub(head).min(data.len())..]);
        self.pending.extend_from_slice(&tail[done.saturating_sub(head + data.len()).min(tail.len())..]);
    }

    /// Sends what waits, counting into `sent`; ready when nothing waits.
    pub fn poll_flush(&mut self, io: &Io, cx: &mut Context<'_>, sent: &mut u64) -> Poll<Result<(), Error>> {
        let mut done = 0;
        let polled = self.poll_send(io, cx, (b"", b""), 0, &mut done);
        self.settle(done, b"", b"");
        *sent += done as u64;
        polled
    }

    /// Frames and sends all of `data` at the pace that is allowed, or keeps it where nothing is sent.
    pub async fn emit(&mut self, io: &Io, mut data: &[u8], sent: &mut u64) -> Result<(), Error> {
        if let Some(Special::Memory { kept, max }) = self.special.as_deref_mut() {
            if *max == 0 {
                return Ok(()); // only the status is asked for
            }
            if kept.len() + data.len() > *max {
                let cause = format!("too big subrequest response: more than {max} bytes");
                return Err(Error::ours(cause).by(Limit::SubrequestSize));
            }
            kept.extend_from_slice(data);
            return Ok(());
        }
        while !data.is_empty() {
            let room = self.pace(io).await?;
            let (part, rest) = data.split_at(data.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
            data = rest;
            if let Some(Special::Pace(pace)) = self.special.as_deref_mut() {
                pace.pass(part.len() as u64);
            }
            let (mut part, mut tail) = self.frame(part);
            if self.join(part, tail) {
                (part, tail) = (b"", b"");
            }
            let mut done = 0;
            let outcome = poll_fn(|cx| self.poll_send(io, cx, (part, tail), 0, &mut done)).await;
            self.settle(done, part, tail);
            *sent += done as u64;
            outcome?;
        }
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        buffer::recycle(std::mem::take(&mut self.pending));
    }
}
