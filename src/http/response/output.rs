//! The bytes of one response on their way to the socket: framing, what waits, the pace.
//!
//! Touches: the client's socket. What waits is bounded by whoever writes; `send_timeout` runs while the socket
//! takes nothing. A subrequest writes into the output of the response that it is part of.
//! RFC 9112 §6, §7.1.

use std::future::poll_fn;
use std::io::IoSlice;
use std::task::{Context, Poll, ready};

use crate::http::downstream::Downstream;
use crate::http::request::ahead::Sink;
use crate::http::request::error::{During, Error, Limit};
use crate::http::response::filter::{Coding, Signal};
use crate::net::budget::Share;
use crate::net::pace::Pace;
use crate::proto::h1::encode::{self, Lines};
use crate::runtime::{self, Timer, buffer};

/// Body bytes up to this many are copied behind their head: cheaper than to hand the kernel a list.
pub const JOINED_MAX: usize = 4096;

/// The last bytes of a body, up to this many, are copied in front of its end.
const LAST_MAX: usize = 32 * 1024;

/// Bytes that are copied in a microsecond.
const COPIED_BYTES: usize = 4096;

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
#[derive(Debug, Default)]
struct Special {
    /// `limit_rate`.
    pace: Option<Pace>,
    /// Nothing is sent: the body is kept.
    memory: Option<Memory>,
    /// Nothing is sent: another task takes it.
    ahead: Option<Sink>,
    coding: Option<Box<dyn Coding>>,
    /// The coding may hold bytes back.
    holds: bool,
}

impl Special {
    /// Bytes must not go past it.
    fn changes(&self) -> bool {
        self.memory.is_some() || self.ahead.is_some() || self.coding.is_some()
    }
}

/// A body that is kept, up to so many bytes.
#[derive(Debug)]
struct Memory {
    kept: Vec<u8>,
    max: Option<usize>,
    /// Counts what is kept.
    share: Share,
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

    /// Nobody gets a byte, and none is kept.
    pub fn nothing() -> Self {
        let mut output = Self::default();
        output.framing = Framing::Bodiless;
        output
    }

    /// The body is kept, up to `max` bytes, or as [`Output::bound_memory`] says.
    pub fn memory(max: Option<usize>) -> Self {
        let mut output = Self::default();
        output.special.get_or_insert_default().memory =
            Some(Memory { kept: Vec::new(), max, share: Share::default() });
        output
    }

    /// The body is handed over to the task that it becomes a part of.
    pub fn ahead(sink: Sink) -> Self {
        let mut output = Self::default();
        output.special.get_or_insert_default().ahead = Some(sink);
        output
    }

    #[inline]
    pub fn begin(&mut self, framing: Framing, timeout_ms: u64) {
        (self.framing, self.timeout_ms) = (framing, timeout_ms);
    }

    pub fn set_pace(&mut self, pace: Pace) {
        self.special.get_or_insert_default().pace = Some(pace);
    }

    /// Everything that is emitted goes through this first.
    pub fn set_coding(&mut self, coding: Box<dyn Coding>) {
        self.special.get_or_insert_default().coding = Some(coding);
    }

    pub fn is_coded(&self) -> bool {
        self.special.as_deref().is_some_and(|special| special.coding.is_some())
    }

    /// A coding may hold bytes back, which [`Signal::Flush`] lets go.
    pub fn holds(&self) -> bool {
        self.special.as_deref().is_some_and(|special| special.holds)
    }

    /// Says how much is kept where nobody has said so before.
    #[cold]
    pub fn bound_memory(&mut self, max: impl FnOnce() -> usize) {
        if let Some(memory) = self.special.as_deref_mut().and_then(|special| special.memory.as_mut()) {
            memory.max.get_or_insert_with(max);
        }
    }

    /// What [`Output::memory`] has kept.
    pub fn take_memory(&mut self) -> Vec<u8> {
        let memory = self.special.as_deref_mut().and_then(|special| special.memory.take());
        memory.map_or_else(Vec::new, |memory| memory.kept)
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
        self.special.as_deref().is_some_and(|special| special.pace.is_some())
    }

    /// The bytes that may leave now; waits until there are some. Errors: the client has gone meanwhile.
    pub async fn pace(&self, client: Downstream<'_>) -> Result<u64, Error> {
        let Some(pace) = self.special.as_deref().and_then(|special| special.pace.as_ref()) else {
            return Ok(u64::MAX);
        };
        let mut timer = Timer::new();
        poll_fn(|cx| {
            if let Poll::Ready(count) = pace.poll_wait(cx, &mut timer) {
                return Poll::Ready(Ok(count));
            }
            ready!(client.poll_gone(cx));
            Poll::Ready(Err(Error::left()))
        })
        .await
    }

    pub fn wants_body(&self) -> bool {
        self.special.is_some()
            || !matches!(self.framing, Framing::Idle | Framing::Bodiless | Framing::Abandoned)
    }

    pub fn raw_room(&self) -> Option<u64> {
        if self.special.as_deref().is_some_and(Special::changes) {
            return None;
        }
        match self.framing {
            Framing::Length { left } => Some(left),
            Framing::UntilClose => Some(u64::MAX),
            _ => None,
        }
    }

    pub fn moved(&mut self, count: u64) {
        if let Framing::Length { left } = &mut self.framing {
            *left = left.saturating_sub(count);
        }
        self.pass(count);
    }

    /// Counts bytes that leave against what may leave.
    fn pass(&mut self, count: u64) {
        if let Some(pace) = self.special.as_deref_mut().and_then(|special| special.pace.as_mut()) {
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
    pub fn end(&mut self, trailers: &Lines) -> bool {
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
        client: Downstream<'_>,
        cx: &mut Context<'_>,
        (data, tail): (&[u8], &[u8]),
        ahead: usize,
        done: &mut usize,
    ) -> Poll<Result<(), Error>> {
        let Downstream::H1(transport) = client else { return Poll::Ready(Ok(())) };
        let head = self.pending.len();
        let total = head + data.len() + tail.len();
        while *done < total {
            let first = self.pending.get(*done..).unwrap_or(&[]);
            let written = if total == head {
                transport.poll_write(cx, first)
            } else {
                let slices = [
                    IoSlice::new(first),
                    IoSlice::new(&data[done.saturating_sub(head).min(data.len())..]),
                    IoSlice::new(&tail[done.saturating_sub(head + data.len()).min(tail.len())..]),
                ];
                transport.poll_write_vectored(cx, &slices)
            };
            match written {
                Poll::Ready(Ok(count)) => {
                    *done += count;
                    self.timer.cancel();
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Error::gone(error))),
                Poll::Pending => {
                    if !self.timer.is_set() {
                        self.timer.set(runtime::now_ms() + self.timeout_ms);
                    }
                    if total - *done <= ahead {
                        return Poll::Ready(Ok(()));
                    }
                    ready!(self.timer.poll_expired(cx));
                    let late = Error::client_timed_out(During::SendResponse, Limit::SendTimeout);
                    return Poll::Ready(Err(late));
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
    pub fn poll_flush(
        &mut self,
        client: Downstream<'_>,
        cx: &mut Context<'_>,
        sent: &mut u64,
    ) -> Poll<Result<(), Error>> {
        let mut done = 0;
        let polled = self.poll_send(client, cx, (b"", b""), 0, &mut done);
        self.settle(done, b"", b"");
        *sent = client.advance(*sent, done);
        polled
    }

    /// Encodes, frames and sends all of `data` at the pace that is allowed, or keeps it where nothing is sent.
    /// The last of a body may be left for [`Output::end`], to leave with it.
    pub async fn emit(
        &mut self,
        client: Downstream<'_>,
        data: &[u8],
        signal: Signal,
        sent: &mut u64,
    ) -> Result<(), Error> {
        let Some(special) = self.special.as_deref_mut() else {
            return self.emit_plain(client, data, signal, sent).await;
        };
        if let Some(Memory { kept, max, share }) = &mut special.memory {
            let max = max.unwrap_or(0);
            if max == 0 {
                runtime::worked(1).await;
                return Ok(()); // only the status is asked for
            }
            if kept.len() + data.len() > max {
                let cause = format!("too big subrequest response: more than {max} bytes");
                return Err(Error::ours(cause).by(Limit::SubrequestSize));
            }
            share.add(data.len());
            kept.extend_from_slice(data);
            runtime::worked(1 + (data.len() / COPIED_BYTES) as u32).await;
            return Ok(());
        }
        if let Some(sink) = &special.ahead {
            return sink.write(data).await;
        }
        if special.coding.is_none() {
            return self.emit_plain(client, data, signal, sent).await;
        }
        let mut coded = buffer::scratch();
        let outcome = self.emit_coded(client, data, signal, &mut coded, sent).await;
        buffer::recycle(coded);
        outcome
    }

    /// Encodes and sends, so many bytes at a time that the others need not wait: a step that is too long is made on
    /// another thread.
    async fn emit_coded(
        &mut self,
        client: Downstream<'_>,
        mut data: &[u8],
        signal: Signal,
        coded: &mut Vec<u8>,
        sent: &mut u64,
    ) -> Result<(), Error> {
        loop {
            let Some(special) = self.special.as_deref_mut() else { return Ok(()) };
            let Some(coding) = &mut special.coding else { return Ok(()) };
            let (step, rest) = data.split_at(data.len().min(coding.step_bytes()));
            data = rest;
            let signal = if rest.is_empty() { signal } else { Signal::More };
            special.holds = signal == Signal::More && (special.holds || !step.is_empty());
            let work = coding.work(step.len(), signal);
            if work > runtime::POLL_WORK {
                coding.push_elsewhere(step, signal, coded).await?;
            } else {
                coding.push(step, signal, coded)?;
                runtime::worked(work).await;
            }
            if signal == Signal::End {
                special.coding = None;
            }
            self.emit_plain(client, coded, signal, sent).await?;
            coded.clear();
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    async fn emit_plain(
        &mut self,
        client: Downstream<'_>,
        mut data: &[u8],
        signal: Signal,
        sent: &mut u64,
    ) -> Result<(), Error> {
        while !data.is_empty() {
            let room = self.pace(client).await?;
            let (part, rest) = data.split_at(data.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
            data = rest;
            self.pass(part.len() as u64);
            let (mut part, mut tail) = self.frame(part);
            if signal == Signal::End && part.len() <= LAST_MAX && self.pending.len() <= LAST_MAX {
                self.pending.extend_from_slice(part);
                self.pending.extend_from_slice(tail);
                continue;
            }
            if self.join(part, tail) {
                (part, tail) = (b"", b"");
            }
            let mut done = 0;
            let outcome = poll_fn(|cx| self.poll_send(client, cx, (part, tail), 0, &mut done)).await;
            self.settle(done, part, tail);
            *sent = client.advance(*sent, done);
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
