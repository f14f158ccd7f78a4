//! Reads the body of a request from an HTTP/1 connection: its framing, and `100 Continue`.
//!
//! Touches: the client's connection. Waits for bytes only: timeouts are up to the body
//! (`http/request/body.rs`). Bounded: one buffer, refilled only when its decoded bytes have been consumed.
//! RFC 9112 §6, §7.1; RFC 9110 §10.1.1.

use std::io;
use std::ops::Range;
use std::task::{Context, Poll, ready};

use crate::http::h1::writer;
use crate::http::request::body::DECODED_BYTES;
use crate::http::request::error::{Error, Kind};
use crate::net::Transport;
use crate::proto::h1::chunked::Decoder;
use crate::proto::h1::length::BodyLength;
use crate::runtime;
use crate::runtime::buffer::Buffer;
use crate::sys::transfer::Pipe;

/// Size of a read from a client that sends a long body faster than it is read.
const LONG_READ_BYTES: usize = 64 * 1024;

#[derive(Debug)]
enum Framing {
    Length { left: u64 },
    Chunked(Box<Decoder>),
    Done,
}

/// The bytes of one request's body as they arrive, followed by those of the next request.
///
/// The body takes decoded bytes ([`Reader::data`]) and has more read if there are none: first
/// [`Reader::decode`], then [`Reader::poll_fill`]. Errors are the client's: 400 for invalid framing or a
/// premature end, 499 if the connection fails. The connection must be closed after any of them.
#[derive(Debug)]
pub struct Reader {
    framing: Framing,
    /// Bytes from the connection; taken from the pool when the first byte is due, returned at the end.
    buffer: Option<Buffer>,
    /// The decoded bytes inside `buffer.data()`.
    ready: Range<usize>,
    /// The last read filled its space: more data is available.
    is_fast: bool,
    /// The client waits for `100 Continue`.
    expects_continue: bool,
}

impl Reader {
    /// `rest` is what arrived after the head: the start of the body, and perhaps of the next request. A
    /// buffer for them has at least `buffer_size` bytes.
    #[inline(always)]
    pub fn new(declared: BodyLength, rest: &[u8], expects_continue: bool, buffer_size: usize) -> Self {
        let framing = match declared {
            BodyLength::Length(left) if left > 0 => Framing::Length { left },
            BodyLength::Chunked => Framing::Chunked(Box::default()),
            BodyLength::Length(_) | BodyLength::None | BodyLength::UntilClose => Framing::Done,
        };
        let buffer = (!rest.is_empty()).then(|| {
            let mut buffer = Buffer::take(rest.len().max(buffer_size.min(1024)));
            buffer.extend(rest);
            buffer
        });
        let expects_continue = expects_continue && rest.is_empty();
        Self { framing, buffer, ready: 0..0, is_fast: false, expects_continue }
    }

    /// True if the whole body has been read from the connection.
    #[inline]
    pub fn is_read(&self) -> bool {
        matches!(self.framing, Framing::Done)
    }

    /// The decoded bytes in memory.
    #[inline]
    pub fn data(&self) -> &[u8] {
        self.buffer.as_ref().and_then(|buffer| buffer.data().get(self.ready.clone())).unwrap_or(&[])
    }

    #[inline]
    pub fn has_data(&self) -> bool {
        !self.ready.is_empty()
    }

    pub fn consume(&mut self, count: usize) {
        debug_assert!(count <= self.ready.len());
        self.ready.start += count.min(self.ready.len());
    }

    /// Drops the previous decoded bytes, and decodes what is buffered. False: more must be read first, or the
    /// body has ended.
    pub fn decode(&mut self) -> Result<bool, Error> {
        let Some(buffer) = &mut self.buffer else { return Ok(false) };
        buffer.consume(self.ready.end);
        self.ready = 0..0;
        match &mut self.framing {
            Framing::Done => return Ok(false),
            Framing::Length { left } => {
                let count = (*left).min(buffer.data().len() as u64);
                *left -= count;
                if *left == 0 {
                    self.framing = Framing::Done;
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
                    self.framing = Framing::Done;
                }
            }
        }
        Ok(self.has_data() || self.is_read())
    }

    /// Reads once, to be decoded next. Ready with the number of raw bytes.
    pub fn poll_fill(
        &mut self,
        transport: &Transport,
        cx: &mut Context<'_>,
        buffer_size: usize,
    ) -> Poll<Result<usize, Error>> {
        self.send_continue(transport);
        let left = match self.framing {
            Framing::Length { left } => left,
            _ => u64::MAX,
        };
        let is_long = self.is_fast || left != u64::MAX;
        let wanted = if is_long { buffer_size.max(LONG_READ_BYTES) } else { buffer_size };
        let wanted = (wanted as u64).min(left.max(1)) as usize;
        let buffer = self.buffer.get_or_insert_with(|| Buffer::take(wanted));
        if buffer.data().is_empty() {
            buffer.clear();
            if buffer.capacity() < wanted {
                *buffer = Buffer::take(wanted); // the first buffer is as large as what arrived with the head
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
                    // decoding takes no I/O, and chunks may be single bytes
                    runtime::charge((count / DECODED_BYTES) as u32);
                }
                self.is_fast = count == room;
                Poll::Ready(Ok(count))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(Error::gone(error))),
            Poll::Pending => {
                if buffer.data().is_empty() {
                    self.buffer = None; // back to the pool: a client that pauses takes no memory
                }
                Poll::Pending
            }
        }
    }

    /// Sends the interim response that the client expects before it sends the body, once.
    pub fn send_continue(&mut self, transport: &Transport) {
        if std::mem::take(&mut self.expects_continue) {
            writer::write_continue(transport);
        }
    }

    /// Gives up the interim response, because it is too late for it.
    pub fn forget_continue(&mut self) {
        self.expects_continue = false;
    }

    /// How many bytes may be moved after [`Reader::data`]: the rest of a body of known length, if none of it
    /// is in memory.
    pub fn movable(&self) -> u64 {
        let is_drained = self.buffer.as_ref().is_none_or(|buffer| buffer.data().len() == self.ready.end);
        match self.framing {
            Framing::Length { left } if !self.has_data() && is_drained => left,
            _ => 0,
        }
    }

    /// Moves bytes from the socket into an empty pipe. Ready with their number; 0: nothing is
    /// [`Reader::movable`], or the socket is not plain.
    pub fn poll_move(
        &mut self,
        transport: &Transport,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
    ) -> Poll<Result<usize, Error>> {
        let (Framing::Length { left }, Some(io)) = (&mut self.framing, transport.plain()) else {
            return Poll::Ready(Ok(0));
        };
        (self.buffer, self.ready) = (None, 0..0);
        ready!(io.poll_budget(cx));
        ready!(io.poll_readable(cx)).map_err(Error::gone)?;
        match io.try_receive(|fd| pipe.fill(fd, *left)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !io.is_hung_up() => {
                let _ = io.poll_readable(cx); // no longer readable: the next event wakes
                Poll::Pending
            }
            // after a hang-up there are no more events: only the call reports the end
            Ok(0) => Poll::Ready(Err(Error::client(Kind::Cut))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Poll::Ready(Err(Error::client(Kind::Cut)))
            }
            Err(error) => Poll::Ready(Err(Error::gone(error))),
            Ok(count) => {
                *left -= (count as u64).min(*left);
                if *left == 0 {
                    self.framing = Framing::Done;
                }
                Poll::Ready(Ok(count))
            }
        }
    }

    /// The bytes after the body, which belong to the next request; call it only after the body has been read.
    /// Leaves an ended body.
    pub fn take_rest(&mut self) -> Option<Buffer> {
        let mut buffer = self.buffer.take()?;
        buffer.consume(self.ready.end);
        self.ready = 0..0;
        self.framing = Framing::Done;
        (!buffer.data().is_empty()).then_some(buffer)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::poll_fn;
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::rc::Rc;
    use std::task::ready;

    use super::*;
    use crate::net::transport::script::{Script, play};
    use crate::runtime::{Io, Runtime, TimedOut, spawn, timeout, yield_now};

    const CHUNKED: &[u8] = b"4;x=y\r\nWiki\r\n6\r\npedia \r\nE\r\nin \r\n\r\nchunks.\r\n0\r\nT: v\r\n\r\n";
    const DECODED: &[u8] = b"Wikipedia in \r\n\r\nchunks.";
    const NEXT: &[u8] = b"GET /next HTTP/1.1\r\n";

    /// Ready with false at the end of the body.
    fn poll_data(
        reader: &mut Reader,
        transport: &Transport,
        cx: &mut Context<'_>,
    ) -> Poll<Result<bool, Error>> {
        loop {
            if reader.has_data() {
                return Poll::Ready(Ok(true));
            }
            if reader.decode()? {
                continue;
            }
            if reader.is_read() {
                return Poll::Ready(Ok(false));
            }
            ready!(reader.poll_fill(transport, cx, 16 * 1024))?;
        }
    }

    /// Reads the body to its end, `bite` bytes at a time.
    async fn read(reader: &mut Reader, transport: &Transport, bite: usize) -> Result<Vec<u8>, Error> {
        let mut body = Vec::new();
        while poll_fn(|cx| poll_data(reader, transport, cx)).await? {
            let count = reader.data().len().min(bite);
            body.extend_from_slice(&reader.data()[..count]);
            reader.consume(count);
        }
        Ok(body)
    }

    fn run(test: impl AsyncFnOnce() + 'static) {
        Runtime::new().unwrap().block_on(async { test().await });
    }

    fn framings() -> [(BodyLength, &'static [u8]); 2] {
        [(BodyLength::Chunked, CHUNKED), (BodyLength::Length(DECODED.len() as u64), DECODED)]
    }

    fn left_behind(reader: &mut Reader, script: &Script) -> Vec<u8> {
        let rest = reader.take_rest().map_or_else(Vec::new, |rest| rest.data().to_vec());
        let unread = NEXT.len() - rest.len();
        assert_eq!(script.unread(), unread, "what is not in the buffer is on the connection");
        rest
    }

    #[test]
    fn a_body_is_the_same_however_it_is_cut() {
        run(async || {
            for (declared, text) in framings() {
                let whole = [text, NEXT].concat();
                for cut in 0..=text.len() {
                    // some of it came with the head, the rest in two pieces
                    let (with_head, later) = whole.split_at(cut / 2);
                    let (transport, script) = play();
                    script.sends_cut(later, cut - cut / 2);
                    let mut reader = Reader::new(declared, with_head, false, 4096);
                    let body = read(&mut reader, &transport, 3).await.unwrap();
                    assert!(body == DECODED && reader.is_read(), "{declared:?}, {cut}");
                    let rest = left_behind(&mut reader, &script);
                    assert!(NEXT.starts_with(&rest), "{declared:?}, {cut}");
                }
                let (transport, script) = play();
                script.drips(&whole);
                let mut reader = Reader::new(declared, b"", false, 4096);
                assert_eq!(read(&mut reader, &transport, usize::MAX).await.unwrap(), DECODED);
                assert!(
                    left_behind(&mut reader, &script).is_empty(),
                    "bytes that come alone are not read ahead"
                );
            }
        });
    }

    #[test]
    fn an_end_or_a_reset_before_the_body_s_end_is_an_error_wherever_it_comes() {
        run(async || {
            for (declared, text) in framings() {
                for cut in 0..text.len() {
                    let (transport, script) = play();
                    script.sends(&text[..cut]).ends();
                    let mut reader = Reader::new(declared, b"", false, 4096);
                    let error = read(&mut reader, &transport, 5).await.unwrap_err();
                    assert!(matches!((error.kind, error.status), (Kind::Cut, 400)), "{declared:?}, {cut}");
                    let (transport, script) = play();
                    script.sends(&text[..cut]).pauses().resets();
                    let mut reader = Reader::new(declared, b"", false, 4096);
                    let error = read(&mut reader, &transport, 5).await.unwrap_err();
                    assert!(
                        matches!((error.kind, error.status), (Kind::Lost(_), 499)),
                        "{declared:?}, {cut}"
                    );
                }
            }
        });
    }

    #[test]
    fn a_client_may_close_its_direction_behind_the_body() {
        run(async || {
            for (declared, text) in framings() {
                let (transport, script) = play();
                script.sends(text).ends();
                let mut reader = Reader::new(declared, b"", false, 4096);
                assert_eq!(read(&mut reader, &transport, 100).await.unwrap(), DECODED);
                assert!(reader.take_rest().is_none());
            }
        });
    }

    #[test]
    fn reading_that_was_given_up_goes_on_where_it_was() {
        run(async || {
            for (declared, text) in framings() {
                for cut in 1..text.len() {
                    let (transport, script) = play();
                    script.sends(&text[..cut]);
                    let mut reader = Reader::new(declared, b"", false, 4096);
                    let mut body = Vec::new();
                    // Dropped midway, with the bytes it had read.
                    let given_up = timeout(0, async {
                        while poll_fn(|cx| poll_data(&mut reader, &transport, cx)).await.unwrap() {
                            body.extend_from_slice(reader.data());
                            reader.consume(reader.data().len());
                        }
                    });
                    assert_eq!(given_up.await, Err(TimedOut));
                    script.sends(&text[cut..]);
                    body.extend(read(&mut reader, &transport, 100).await.unwrap());
                    assert_eq!(body, DECODED, "{declared:?}, {cut}");
                }
            }
        });
    }

    #[test]
    fn a_client_that_pauses_holds_no_buffer() {
        run(async || {
            let (transport, script) = play();
            script.sends(&DECODED[..5]);
            let mut reader = Reader::new(BodyLength::Length(DECODED.len() as u64), b"", false, 4096);
            assert!(timeout(0, read(&mut reader, &transport, 100)).await.is_err());
            assert!(reader.buffer.is_none());
            assert_eq!(reader.movable(), DECODED.len() as u64 - 5);
        });
    }

    #[test]
    fn chunks_that_cannot_be_understood_are_refused() {
        run(async || {
            let long = format!("1;{}\r\n", "x".repeat(10_000));
            for text in ["x\r\n", "1\r\nab\r\n", "1 \n", "-1\r\n", "11111111111111111\r\n", &long] {
                let (transport, script) = play();
                script.drips(text.as_bytes());
                let mut reader = Reader::new(BodyLength::Chunked, b"", false, 4096);
                let error = read(&mut reader, &transport, 100).await.unwrap_err();
                assert!(matches!(error.kind, Kind::BadChunks(_) | Kind::LongChunks), "{text}");
                assert_eq!(error.status, 400);
            }
        });
    }

    #[test]
    fn continue_is_said_once_and_only_to_a_client_that_waits_for_it() {
        run(async || {
            let said = b"HTTP/1.1 100 Continue\r\n\r\n";
            for (with_head, expects, expected) in
                [(&b""[..], true, &said[..]), (b"", false, b""), (b"Wi", true, b"")]
            {
                let (transport, script) = play();
                script.drips(&DECODED[with_head.len()..]);
                let length = BodyLength::Length(DECODED.len() as u64);
                let mut reader = Reader::new(length, with_head, expects, 4096);
                assert_eq!(read(&mut reader, &transport, 100).await.unwrap(), DECODED);
                reader.send_continue(&transport);
                assert_eq!(script.written(), expected);
            }
        });
    }

    #[test]
    fn continue_is_not_said_behind_the_final_response() {
        run(async || {
            let (transport, script) = play();
            script.drips(DECODED);
            let mut reader = Reader::new(BodyLength::Length(DECODED.len() as u64), b"", true, 4096);
            reader.forget_continue();
            assert_eq!(read(&mut reader, &transport, 100).await.unwrap(), DECODED);
            assert_eq!(script.written(), b"");
        });
    }

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
            yield_now().await; // the other one waits for a byte, which only epoll can report
            other.write_all(b"x").unwrap();
            let mut reader = Reader::new(BodyLength::Chunked, b"", false, 16 * 1024);
            let mut decoded = 0;
            while !is_served.get() {
                assert!(poll_fn(|cx| poll_data(&mut reader, &client, cx)).await.unwrap());
                decoded += reader.data().len();
                reader.consume(reader.data().len());
            }
            let read = decoded * "1\r\na\r\n".len();
            assert!(waiting > read + LONG_READ_BYTES, "{waiting} bytes are too few to tell");
            // the budget ends within the third read, and the last chunk of it is visited again
            assert!(read <= (16 + 64 + 64) * 1024 + 6, "{read} bytes in one turn");
        });
    }
}
