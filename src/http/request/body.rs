//! The body of a request: what its framing says is still to come, and the bytes that have come.
//!
//! Touches: the client's socket. Bounded: one buffer, refilled only when it was consumed.
//! RFC 9112 §6, §7.1.

use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use crate::http::downstream::Downstream;
use crate::http::request::error::{During, Error, Kind, Limit};
use crate::http::temp_file::TempFile;
use crate::proto::h1::chunked::Decoder;
use crate::proto::h1::length::BodyLength;
use crate::runtime::buffer::Buffer;
use crate::runtime::{self, Io, Timer};
use crate::sys::transfer::Pipe;

/// Bytes of one read from a client that sends a long body faster than it is read.
const LONG_READ_BYTES: usize = 64 * 1024;

/// Bytes of the smallest chunks that are decoded in a microsecond.
pub const DECODED_BYTES: usize = 128;

#[derive(Debug)]
enum Framing {
    Length { left: u64 },
    Chunked(Box<Decoder>),
    Done,
}

/// A request's body. Decoded bytes are in [`Body::data`]; [`Body::poll_data`] brings more.
#[derive(Debug)]
pub struct Body {
    framing: Framing,
    declared: BodyLength,
    /// Bytes from the socket; taken from the pool when the first byte is due, given back at the end.
    buffer: Option<Buffer>,
    /// The decoded bytes inside `buffer.data()`.
    ready: Range<usize>,
    /// Decoded bytes that came so far.
    received: u64,
    /// What was read for an upstream, for the next one and for `$request_body`; `None`: some of it is gone.
    kept: Option<Vec<u8>>,
    /// The whole body, where it was read into a file.
    file: Option<Rc<TempFile>>,
    /// The last read filled its room: more is there than it had.
    is_fast: bool,
    /// The client waits for `100 Continue`.
    expects_continue: bool,
    /// `client_max_body_size`; 0: no limit.
    max: u64,
    /// It was too large, or broken: nobody gets any more of it.
    is_refused: bool,
    timeout_ms: u64,
    buffer_size: usize,
    timer: Timer,
    pace: Pace,
    ended_us: Option<u64>,
}

/// How a request's body is read.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a body; 0: no limit.
    pub max: u64,
    /// Between two reads.
    pub timeout_ms: u64,
    pub buffer_size: usize,
    /// `None`: as slow as the client likes.
    pub min_rate: Option<MinRate>,
}

/// The least rate at which a client may send (`client_body_min_rate`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MinRate {
    pub bytes_per_s: u32,
    /// Time that a client may be behind the rate.
    pub grace_ms: u32,
}

impl MinRate {
    /// How long as many bytes may take beyond the grace.
    pub fn time_for_ms(self, bytes: u64) -> u64 {
        bytes.saturating_mul(1000) / u64::from(self.bytes_per_s.max(1))
    }
}

/// How far a client is behind its least rate.
///
/// Only time in which we wait for it counts. Bytes earn time, up to the timeout between two reads: who has sent
/// much may pause as long as anybody.
#[derive(Debug)]
struct Pace {
    rate: Option<MinRate>,
    /// Milliseconds waited, less those that the bytes have earned.
    behind_ms: i64,
    waiting_since_ms: u64,
}

impl Pace {
    /// How long the next bytes may be waited for.
    fn patience_ms(&self, timeout_ms: u64) -> u64 {
        let left = |rate: MinRate| i64::from(rate.grace_ms).saturating_sub(self.behind_ms).max(0) as u64;
        self.rate.map_or(timeout_ms, |rate| left(rate).min(timeout_ms))
    }

    fn count(&mut self, bytes: usize, has_waited: bool, timeout_ms: u64) {
        let Some(rate) = self.rate else { return };
        if has_waited {
            self.behind_ms += runtime::now_ms().saturating_sub(self.waiting_since_ms) as i64;
        }
        let ahead_max = timeout_ms.min(i64::MAX as u64) as i64;
        self.behind_ms = (self.behind_ms - rate.time_for_ms(bytes as u64) as i64).max(-ahead_max);
    }
}

impl Body {
    /// `rest` are the bytes that came behind the head: the body's begin and perhaps the next request.
    pub fn new(declared: BodyLength, rest: &[u8], expects_continue: bool, limits: Limits) -> Self {
        let framing = match declared {
            BodyLength::Length(left) if left > 0 => Framing::Length { left },
            BodyLength::Chunked => Framing::Chunked(Box::default()),
            BodyLength::Length(_) | BodyLength::None | BodyLength::UntilClose => Framing::Done,
        };
        let buffer = (!rest.is_empty()).then(|| {
            let mut buffer = Buffer::take(rest.len().max(limits.buffer_size.min(1024)));
            buffer.extend(rest);
            buffer
        });
        let expects_continue = expects_continue && rest.is_empty();
        let Limits { max, timeout_ms, buffer_size, min_rate } = limits;
        let timer = Timer::new();
        Self {
            framing,
            declared,
            buffer,
            ready: 0..0,
            received: 0,
            kept: Some(Vec::new()),
            file: None,
            is_fast: false,
            expects_continue,
            max,
            is_refused: false,
            timeout_ms,
            buffer_size,
            timer,
            ended_us: None,
            pace: Pace { rate: min_rate, behind_ms: 0, waiting_since_ms: 0 },
        }
    }

    /// A body that is read already: what was kept of another one, in memory or in a file, which both have then.
    pub fn copy(other: &Self) -> Self {
        let mut body = other.without();
        let kept = other.kept().to_vec();
        let length = other.file().map_or(kept.len() as u64, TempFile::len);
        if length > 0 {
            body.declared = BodyLength::Length(length);
        }
        (body.received, body.kept, body.file) = (length, Some(kept), other.file.clone());
        body
    }

    /// The body of a request like this one's that has none.
    pub fn without(&self) -> Self {
        let limits =
            Limits { max: 0, timeout_ms: self.timeout_ms, buffer_size: self.buffer_size, min_rate: None };
        Self::new(BodyLength::None, b"", false, limits)
    }

    /// So many bytes had come, of a body that is gone.
    pub fn set_received(&mut self, received: u64) {
        self.received = received;
    }

    /// How the head declared the body.
    pub fn declared(&self) -> BodyLength {
        self.declared
    }

    /// How the body is framed for whoever wants it: as the head declared it, and empty once it was refused.
    pub fn offered(&self) -> BodyLength {
        match self.declared {
            BodyLength::Length(_) | BodyLength::Chunked if self.is_refused => BodyLength::Length(0),
            declared => declared,
        }
    }

    /// How the body is read from now on. The `max` of a body of known length is that of [`Body::admit`].
    pub fn set_limits(&mut self, limits: Limits) {
        (self.timeout_ms, self.buffer_size) = (limits.timeout_ms, limits.buffer_size);
        self.pace.rate = limits.min_rate;
        if !matches!(self.declared, BodyLength::Length(_)) {
            self.max = limits.max;
        }
    }

    /// Sets the most bytes that the body may have, 0 for any number, where a request comes to a location.
    ///
    /// Errors: the length that it has already, as declared or, of a chunked body, as far as it has come. Not of one
    /// that was refused: there is none any more.
    pub fn admit(&mut self, max: u64) -> Result<(), u64> {
        self.max = max;
        let length = match self.offered() {
            BodyLength::Length(length) => length,
            BodyLength::Chunked => self.received,
            BodyLength::None | BodyLength::UntilClose => 0,
        };
        if max > 0 && length > max { Err(length) } else { Ok(()) }
    }

    /// Nobody gets what has come of the body, or is still to come: the connection closes behind the answer.
    pub fn refuse(&mut self) {
        (self.is_refused, self.kept, self.file) = (true, Some(Vec::new()), None);
    }

    /// Nothing more of it is to come for whoever wants it.
    pub fn is_done(&self) -> bool {
        self.is_refused || (matches!(self.framing, Framing::Done) && self.ready.is_empty())
    }

    /// Every byte has been read from the socket.
    pub fn is_read(&self) -> bool {
        matches!(self.framing, Framing::Done)
    }

    /// Decoded bytes that have arrived since the head.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The decoded bytes at hand.
    pub fn data(&self) -> &[u8] {
        self.buffer.as_ref().and_then(|buffer| buffer.data().get(self.ready.clone())).unwrap_or(&[])
    }

    pub fn consume(&mut self, count: usize) {
        debug_assert!(count <= self.ready.len());
        self.ready.start += count.min(self.ready.len());
    }

    /// Ready with `true` when [`Body::data`] is not empty, with `false` at the end of the body.
    ///
    /// Errors: 400 for bad framing or an early end, 408 when the client pauses too long, 413 when the body
    /// grows past the limit, 499 when the socket fails.
    pub fn poll_data(&mut self, client: Downstream<'_>, cx: &mut Context<'_>) -> Poll<Result<bool, Error>> {
        if self.is_refused {
            return Poll::Ready(Ok(false));
        }
        loop {
            if !self.ready.is_empty() {
                self.timer.cancel();
                return Poll::Ready(Ok(true));
            }
            if self.decode()? {
                self.check_size()?;
                continue;
            }
            if self.is_read() {
                self.send_continue(client); // asked for in front of an empty body; nginx obliges
                self.timer.cancel();
                return Poll::Ready(Ok(false));
            }
            ready!(self.poll_fill(client, cx))?;
        }
    }

    /// How many bytes may be moved past [`Body::data`], with [`Body::poll_move`]: what is left of a body of known
    /// length, once nothing of it is in memory.
    pub fn movable(&self) -> u64 {
        match self.framing {
            Framing::Length { left } if self.ready.is_empty() && self.is_drained() && !self.is_refused => {
                left
            }
            _ => 0,
        }
    }

    /// Moves bytes from the socket into an empty pipe. Ready with their count, which is never 0.
    ///
    /// Errors: as [`Body::poll_data`].
    pub fn poll_move(
        &mut self,
        io: &Io,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
    ) -> Poll<Result<usize, Error>> {
        (self.buffer, self.ready) = (None, 0..0);
        let Framing::Length { left } = &mut self.framing else { return Poll::Ready(Ok(0)) };
        ready!(io.poll_budget(cx));
        if io.poll_readable(cx).is_ready() {
            match io.try_receive(|fd| pipe.fill(fd, *left)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !io.is_hung_up() => {
                    let _ = io.poll_readable(cx); // not any more: the next event wakes
                }
                // after a hang-up no event comes any more: the call alone tells the end
                Ok(0) => return Poll::Ready(Err(Error::client(Kind::Cut))),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Poll::Ready(Err(Error::client(Kind::Cut)));
                }
                Err(error) => return Poll::Ready(Err(Error::gone(error))),
                Ok(count) => {
                    *left -= (count as u64).min(*left);
                    let is_end = *left == 0;
                    self.received += count as u64;
                    self.arrived(count);
                    if is_end {
                        self.end();
                    }
                    self.check_size()?;
                    return Poll::Ready(Ok(count));
                }
            }
        }
        self.poll_patience(cx).map(Err)
    }

    pub async fn data_ready(&mut self, client: Downstream<'_>) -> Result<bool, Error> {
        poll_fn(|cx| self.poll_data(client, cx)).await
    }

    /// Puts back what was consumed, for whoever passes the body on next; `None`: that cannot be done any more.
    pub fn keep(&mut self, kept: Option<Vec<u8>>) {
        self.kept = kept;
    }

    /// The whole body, when it is in memory (`$request_body`).
    pub fn kept(&self) -> &[u8] {
        self.kept.as_deref().filter(|_| self.is_done()).unwrap_or(b"")
    }

    /// The body was read into this file, and stays there until the request ends.
    pub fn attach(&mut self, file: TempFile) {
        self.file = Some(Rc::new(file));
    }

    /// The whole body, when it was read into a file.
    pub fn file(&self) -> Option<&TempFile> {
        self.file.as_deref()
    }

    /// Takes what was put back.
    pub fn take_kept(&mut self) -> Option<Vec<u8>> {
        self.kept.as_mut().map(std::mem::take)
    }

    /// Drops what has arrived already, without waiting for more: nobody here wants the body.
    ///
    /// Errors: 400 for bad framing of what has arrived.
    pub fn discard_arrived(&mut self) -> Result<(), Error> {
        loop {
            self.ready.start = self.ready.end;
            if !self.decode()? || self.is_read() {
                self.ready.start = self.ready.end;
                return Ok(());
            }
        }
    }

    /// The bytes behind the body, which belong to the next request; only once the body was read. Leaves an ended
    /// body behind.
    pub fn take_rest(&mut self) -> Option<Buffer> {
        let mut buffer = self.buffer.take()?;
        buffer.consume(self.ready.end);
        self.ready = 0..0;
        self.framing = Framing::Done;
        (!buffer.data().is_empty()).then_some(buffer)
    }

    /// Drops what was consumed and decodes what is buffered; false when more must be read first.
    fn decode(&mut self) -> Result<bool, Error> {
        let Some(buffer) = &mut self.buffer else { return Ok(false) };
        buffer.consume(self.ready.end);
        self.ready = 0..0;
        match &mut self.framing {
            Framing::Done => return Ok(false),
            Framing::Length { left } => {
                let count = (*left).min(buffer.data().len() as u64);
                *left -= count;
                if *left == 0 {
                    self.end();
                }
                self.ready = 0..count as usize;
            }
            Framing::Chunked(decoder) => {
                let step = decoder
                    .decode(buffer.data())
                    .map_err(|error| Error::client(Kind::BadChunks(error.as_str())))?;
                match step.data {
                    Some(data) => self.ready = data,
                    None => buffer.consume(step.consumed),
                }
                if step.done {
                    self.end();
                }
            }
        }
        self.received += self.ready.len() as u64;
        Ok(!self.ready.is_empty() || matches!(self.framing, Framing::Done))
    }

    /// The limit holds where bytes are counted, whatever led the request here and however the body is framed.
    fn check_size(&self) -> Result<(), Error> {
        if self.max == 0 || self.received <= self.max {
            return Ok(());
        }
        Err(too_large(self.declared, self.received))
    }

    fn end(&mut self) {
        self.framing = Framing::Done;
        self.ended_us = Some(runtime::now_us());
    }

    /// When its last byte came; `None`: there was none, or more is to come.
    pub fn ended_us(&self) -> Option<u64> {
        self.ended_us
    }

    fn send_continue(&mut self, client: Downstream<'_>) {
        if let Downstream::H1(transport) = client
            && self.expects_continue
        {
            self.expects_continue = false;
            // 25 bytes into an empty socket buffer; should they not fit, the client waits no longer than without.
            let _ = transport.try_write(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
    }

    fn poll_fill(&mut self, client: Downstream<'_>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let Downstream::H1(transport) = client else { return Poll::Pending };
        self.send_continue(client);
        let size = self.buffer_size;
        let left = match self.framing {
            Framing::Length { left } => left,
            _ => u64::MAX,
        };
        let wanted = if self.is_fast || left != u64::MAX { size.max(LONG_READ_BYTES) } else { size };
        let wanted = (wanted as u64).min(left.max(1)) as usize;
        let buffer = self.buffer.get_or_insert_with(|| Buffer::take(wanted));
        if buffer.data().is_empty() {
            buffer.clear();
            if buffer.capacity() < wanted {
                *buffer = Buffer::take(wanted); // the first one is as large as what came with the head
            }
        } else if buffer.space().is_empty() {
            buffer.compact();
        }
        if buffer.space().is_empty() {
            return Poll::Ready(Err(Error::client(Kind::LongChunks)));
        }
        // Never past the end of a body of known length: the rest belongs to the next request.
        let room = (buffer.space().len() as u64).min(left) as usize;
        match transport.poll_read(cx, &mut buffer.space()[..room]) {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(Error::client(Kind::Cut))),
            Poll::Ready(Ok(count)) => {
                buffer.filled(count);
                if left == u64::MAX {
                    // decoding them takes no I/O: chunks may be of one byte
                    runtime::charge((count / DECODED_BYTES) as u32);
                }
                self.is_fast = count == room;
                self.arrived(count);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(Error::gone(error))),
            Poll::Pending => {
                if buffer.data().is_empty() {
                    self.buffer = None; // back to the pool: a client that pauses holds no memory
                }
                self.poll_patience(cx).map(Err)
            }
        }
    }

    fn arrived(&mut self, count: usize) {
        self.pace.count(count, self.timer.is_set(), self.timeout_ms);
        self.timer.cancel();
    }

    /// Nothing has come. Ready when that has lasted for too long.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        let patience_ms = self.pace.patience_ms(self.timeout_ms);
        if !self.timer.is_set() {
            self.pace.waiting_since_ms = runtime::now_ms();
            self.timer.set(runtime::now_ms() + patience_ms);
        }
        ready!(self.timer.poll_expired(cx));
        let limit = if patience_ms < self.timeout_ms { Limit::BodyRate } else { Limit::BodyTimeout };
        Poll::Ready(Error::client_timed_out(During::RequestBody, limit))
    }

    /// Nothing that was read waits to be decoded.
    fn is_drained(&self) -> bool {
        self.buffer.as_ref().is_none_or(|buffer| buffer.data().len() == self.ready.end)
    }
}

#[cold]
fn too_large(declared: BodyLength, received: u64) -> Error {
    let is_chunked = declared == BodyLength::Chunked;
    Error::client(Kind::BodyTooLarge { is_chunked, bytes: received }).by(Limit::BodySize(received))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::net::Transport;
    use crate::runtime::{Runtime, spawn, yield_now};

    fn pair() -> (Transport, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        (Io::register(ours.into()).unwrap().into(), theirs)
    }

    #[test]
    fn chunks_of_one_byte_are_decoded_in_turns_with_the_others() {
        Runtime::new().unwrap().block_on(async {
            let (client, mut sender) = pair();
            nix::sys::socket::setsockopt(&sender, nix::sys::socket::sockopt::SndBuf, &(4 << 20)).unwrap();
            let chunks = "1\r\na\r\n".repeat(10_000);
            let mut waiting = 0;
            while let Ok(count) = sender.write(chunks.as_bytes()) {
                waiting += count;
            }
            let (io, mut other) = pair();
            let is_served = Rc::new(Cell::new(false));
            let served = is_served.clone();
            spawn(async move {
                poll_fn(|cx| io.poll_read(cx, &mut [0])).await.unwrap();
                served.set(true);
            });
            yield_now().await; // the other one waits for a byte, of which only epoll can tell
            other.write_all(b"x").unwrap();
            let limits = Limits { max: 0, timeout_ms: 5000, buffer_size: 16 * 1024, min_rate: None };
            let mut body = Body::new(BodyLength::Chunked, b"", false, limits);
            let mut decoded = 0;
            while !is_served.get() {
                assert!(body.data_ready(Downstream::H1(&client)).await.unwrap());
                decoded += body.data().len();
                body.consume(body.data().len());
            }
            let read = decoded * "1\r\na\r\n".len();
            assert!(waiting > read + LONG_READ_BYTES, "{waiting} bytes are too few to tell");
            // the budget ends inside the third read, and the last chunk of it is met once more
            assert!(read <= (16 + 64 + 64) * 1024 + 6, "{read} bytes in one turn");
        });
    }
}
