//! Writes a response to an HTTP/1 connection: interim responses, the head, the framing of the body, pending
//! bytes.
//!
//! Touches: the client's connection. Callers bound the pending bytes; `send_timeout` runs while the
//! connection takes nothing. Every byte of HTTP/1 that a client gets is produced here. RFC 9112 §4, §6, §7.1;
//! RFC 9110 §15.2.

use std::io::IoSlice;
use std::task::{Context, Poll, ready};

use crate::http::h1::server_date::{self, Wanted};
use crate::http::request::error::{During, Error, Limit};
use crate::http::response::{self, Response};
use crate::net::Transport;
use crate::proto::field_text::{Lines, Text};
use crate::proto::h1::encode::{self, Head};
use crate::proto::header::Id;
use crate::runtime::{self, Timer, buffer, timeout};

/// Capacity for a usual head.
const HEAD_BYTES: usize = 512;

/// Up to this many body bytes are copied after their head, which is cheaper than a vectored write.
const JOINED_MAX: usize = 4096;

/// Up to this many of the last bytes of a body are copied before its end.
const LAST_MAX: usize = 32 * 1024;

/// How the end of the response's body is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// No response has been started.
    Idle,
    /// No body follows: HEAD, 204, 304.
    Bodiless,
    Length {
        left: u64,
    },
    Chunked,
    /// The end of the connection is the end of the body (HTTP/1.0).
    UntilClose,
    /// Cut off: no end may be written.
    Abandoned,
}

/// The facts, besides the response itself, that determine its head: its request, and the settings in force.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// The request was HEAD.
    pub is_head: bool,
    /// The client supports chunks, and the configuration allows them.
    pub may_chunk: bool,
    /// The connection may serve another request.
    pub keep_alive: bool,
    /// `Server` includes the version (`server_tokens`).
    pub tells_version: bool,
    /// The seconds for `Keep-Alive: timeout=`; `None`: no such field.
    pub keepalive_seconds: Option<u64>,
    /// `send_timeout`.
    pub timeout_ms: u64,
    /// Bytes of a frame of data, where there are frames (`http2_chunk_size`).
    pub frame_bytes: usize,
}

/// The result of starting a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Started {
    /// The connection may serve another request: it does not end with the body.
    pub keep_alive: bool,
    pub head_bytes: u64,
}

/// A response on its way to a connection.
///
/// A response begins with [`Writer::start`]; the parts of its body are framed, joined with pending bytes if
/// they are short, sent and settled, in this order, and [`Writer::end`] follows the last one. A response that
/// is given up midway is abandoned, and its connection closed.
#[derive(Debug)]
pub struct Writer {
    framing: Framing,
    /// Head, chunk heads and data that the connection has not taken yet.
    pending: Vec<u8>,
    timer: Timer,
    timeout_ms: u64,
}

impl Default for Writer {
    #[inline]
    fn default() -> Self {
        let (framing, timer) = (Framing::Idle, Timer::new());
        Self { framing, pending: buffer::scratch(), timer, timeout_ms: 60_000 }
    }
}

impl Writer {
    /// Decides how the body of `response` is framed, and writes its head, which is sent with the first bytes
    /// of the body.
    #[inline]
    pub fn start(&mut self, response: &mut Response, mut terms: Terms) -> Started {
        let framing = framing_of(response, &terms);
        terms.keep_alive &= framing != Framing::UntilClose;
        self.begin(response, &terms, framing, framing)
    }

    /// Writes the head of a 101, after which the connection is a tunnel (RFC 9110 §7.8).
    pub fn start_tunnel(&mut self, response: &Response, terms: &Terms) -> Started {
        self.begin(response, terms, Framing::UntilClose, Framing::Bodiless)
    }

    /// Writes the head, which declares `shown` as the framing; the body is sent with `framing`.
    #[inline]
    fn begin(&mut self, response: &Response, terms: &Terms, framing: Framing, shown: Framing) -> Started {
        (self.framing, self.timeout_ms) = (framing, terms.timeout_ms);
        let before = self.pending.len();
        render_head(response, terms, shown, &mut self.pending);
        Started { keep_alive: terms.keep_alive, head_bytes: (self.pending.len() - before) as u64 }
    }

    /// The number of bytes that wait for the connection.
    #[inline]
    pub fn pending_count(&self) -> usize {
        self.pending.len()
    }

    /// Takes the pending bytes behind the first `count` away, for [`Writer::append_pending`].
    pub fn cut_pending(&mut self, count: usize) -> Vec<u8> {
        self.pending.split_off(count.min(self.pending.len()))
    }

    pub fn append_pending(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// True if nothing follows the pending bytes and those about to be sent.
    #[inline]
    pub fn is_last(&self) -> bool {
        matches!(self.framing, Framing::Length { left: 0 } | Framing::Bodiless)
    }

    /// Ends the response here, without writing its end: pending bytes are dropped.
    pub fn abandon(&mut self) {
        self.framing = Framing::Abandoned;
        self.pending.clear();
    }

    /// True if trailer fields may follow the body.
    pub fn takes_trailers(&self) -> bool {
        self.framing == Framing::Chunked
    }

    #[inline]
    pub fn wants_body(&self) -> bool {
        !matches!(self.framing, Framing::Idle | Framing::Bodiless | Framing::Abandoned)
    }

    /// How many bytes may bypass this writer; `None`: each part of the body must be framed.
    pub fn raw_room(&self) -> Option<u64> {
        match self.framing {
            Framing::Length { left } => Some(left),
            Framing::UntilClose => Some(u64::MAX),
            _ => None,
        }
    }

    /// Counts bytes that bypassed it.
    pub fn moved(&mut self, count: u64) {
        if let Framing::Length { left } = &mut self.framing {
            *left = left.saturating_sub(count);
        }
    }

    /// The part of `data` that belongs to the body, and the framing to send after it; writes a chunk's head.
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

    /// Writes the end. False: the body is shorter than declared.
    #[inline]
    pub fn end(&mut self, trailers: &Lines) -> bool {
        match self.framing {
            Framing::Chunked => {
                encode::last_chunk_with(trailers, &mut self.pending);
                self.framing = Framing::Length { left: 0 };
            }
            Framing::Length { left } if left > 0 => return false,
            Framing::Abandoned | Framing::Idle => return false,
            _ => {}
        }
        true
    }

    /// Appends a few bytes to a head that is still pending. False: they must be sent separately.
    #[inline]
    pub fn join(&mut self, data: &[u8], tail: &[u8]) -> bool {
        let joins = !self.pending.is_empty() && data.len() <= JOINED_MAX;
        if joins {
            self.pending.extend_from_slice(data);
            self.pending.extend_from_slice(tail);
        }
        joins
    }

    /// Sends pending bytes, then `data` and its tail; `done` bytes of these have been sent already. Ready
    /// when at most `ahead` bytes are left.
    #[inline(always)]
    pub fn poll_send(
        &mut self,
        transport: &Transport,
        cx: &mut Context<'_>,
        (data, tail): (&[u8], &[u8]),
        ahead: usize,
        done: &mut usize,
    ) -> Poll<Result<(), Error>> {
        let head = self.pending.len();
        let total = head + data.len() + tail.len();
        loop {
            let first = self.pending.get(*done..).unwrap_or(&[]);
            let written = if *done == total {
                match transport.poll_flush(cx) {
                    Poll::Ready(Ok(())) => {
                        self.timer.cancel();
                        return Poll::Ready(Ok(()));
                    }
                    Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                    Poll::Pending => Poll::Pending,
                }
            } else if total == head {
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
                    if !self.timer.is_set() || transport.took_some() {
                        self.timer.set(runtime::now_ms() + self.timeout_ms);
                    }
                    // Without `ahead` the bytes that the transport holds back count as well: what follows may
                    // be the end of the connection.
                    if total - *done <= ahead && (ahead > 0 || *done < total) {
                        return Poll::Ready(Ok(()));
                    }
                    ready!(self.timer.poll_expired(cx));
                    let late = Error::client_timed_out(During::SendResponse, Limit::SendTimeout);
                    return Poll::Ready(Err(late));
                }
            }
        }
    }

    /// After [`Writer::poll_send`]: makes the unsent rest pending.
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

    /// Keeps the last bytes of a body, framed, to send them with the end. False: they are too many.
    #[inline]
    pub fn hold_last(&mut self, data: &[u8], tail: &[u8]) -> bool {
        let holds = data.len() <= LAST_MAX && self.pending.len() <= LAST_MAX;
        if holds {
            self.pending.extend_from_slice(data);
            self.pending.extend_from_slice(tail);
        }
        holds
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        buffer::recycle(std::mem::take(&mut self.pending));
    }
}

/// Asks a client that waits for it to send its body.
///
/// 25 bytes into an empty socket buffer; should they not fit, the client waits no longer than without them.
pub fn write_continue(transport: &Transport) {
    let _ = transport.try_write(b"HTTP/1.1 100 Continue\r\n\r\n");
}

/// Sends `103 Early Hints` (RFC 8297) with these fields, before the response itself has started.
///
/// Errors: 499 if the client has gone, 408 if it reads nothing for this long.
pub async fn write_early_hints(transport: &Transport, fields: &Lines, timeout_ms: u64) -> Result<(), Error> {
    let mut out = Vec::new();
    let mut head = Head::response(103, &Text::constant("Early Hints"), &mut out);
    head.lines(fields);
    head.end();
    match timeout(timeout_ms, transport.write_all(&out)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Error::gone(error)),
        Err(_) => Err(Error::client_timed_out(During::EarlyHints, Limit::SendTimeout)),
    }
}

/// The framing of a response's body. Trailers need chunks, so a length is dropped for them.
fn framing_of(response: &mut Response, terms: &Terms) -> Framing {
    if terms.is_head || response.is_bodiless() {
        return Framing::Bodiless;
    }
    if response.has_trailers && terms.may_chunk {
        response.content_length = None;
    }
    match response.content_length {
        Some(left) => Framing::Length { left },
        None if terms.may_chunk => Framing::Chunked,
        None => Framing::UntilClose,
    }
}

fn render_head(response: &Response, terms: &Terms, framing: Framing, out: &mut Vec<u8>) {
    out.reserve(
        HEAD_BYTES + usize::try_from(response.content_length.unwrap_or(0)).unwrap_or(0).min(JOINED_MAX),
    );
    let mut head = Head::response(response.status, &reason_of(response), out);
    // Fields of an upstream that `proxy_pass_header` passes on replace ours, even if it sent none.
    let wanted = Wanted {
        server: !response.omits.server && response.headers.get(Id::Server).is_none(),
        date: !response.omits.date && response.headers.get(Id::Date).is_none(),
        version: terms.tells_version,
    };
    server_date::write(wanted, &mut head);
    response.headers.render_first(Some(Id::ContentType), &mut head);
    if let Some(length) = response.content_length.filter(|_| response.status >= 200 && response.status != 204)
    {
        head.number(Id::ContentLength, length);
    }
    response.headers.render_first(response.first, &mut head);
    if framing == Framing::Chunked {
        head.constant("Transfer-Encoding: chunked\r\n");
    }
    match response.status {
        101 => head.constant("Connection: upgrade\r\n"),
        _ if terms.keep_alive => {
            head.constant("Connection: keep-alive\r\n");
            if let Some(seconds) = terms.keepalive_seconds {
                head.written_id(Id::KeepAlive, |out| {
                    out.extend_from_slice(b"timeout=");
                    out.extend_from_slice(itoa::Buffer::new().format(seconds).as_bytes());
                });
            }
        }
        _ => head.constant("Connection: close\r\n"),
    }
    response.headers.render_others([Some(Id::ContentType), response.first], &mut head);
    head.end();
}

fn reason_of(response: &Response) -> Text<'_> {
    if response.reason.is_empty() {
        Text::constant(response::reason(response.status))
    } else {
        Text::clean(&response.reason)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::http::request::error::Kind;
    use crate::net::transport::script::{Script, play};
    use crate::runtime::{Runtime, TimedOut, timeout, yield_now};

    const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";
    const BODY: &[u8] = b"a body of some length, longer than a line";

    /// A response whose head has been made and whose body will be framed like this.
    fn begun(framing: Framing) -> Writer {
        let mut writer = Writer::default();
        (writer.framing, writer.timeout_ms) = (framing, 20);
        writer.pending.extend_from_slice(HEAD);
        writer
    }

    /// Sends a part of the body, as a client of this writer does. Returns the number of bytes sent.
    async fn send(
        writer: &mut Writer,
        transport: &Transport,
        part: &[u8],
        ahead: usize,
    ) -> Result<usize, Error> {
        let (mut data, mut tail) = writer.frame(part);
        if writer.join(data, tail) {
            (data, tail) = (b"", b"");
        }
        let mut done = 0;
        let outcome = poll_fn(|cx| writer.poll_send(transport, cx, (data, tail), ahead, &mut done)).await;
        writer.settle(done, data, tail);
        outcome.map(|()| done)
    }

    /// Sends the whole response, its body in two parts.
    async fn respond(
        framing: Framing,
        cut: usize,
        script: &Script,
        transport: &Transport,
    ) -> (Vec<u8>, bool) {
        let mut writer = begun(framing);
        let (first, second) = BODY.split_at(cut);
        let mut count = send(&mut writer, transport, first, 0).await.unwrap();
        count += send(&mut writer, transport, second, 0).await.unwrap();
        let is_whole = writer.end(&Lines::default());
        count += send(&mut writer, transport, b"", 0).await.unwrap();
        assert_eq!(count, script.written().len(), "what has left is counted");
        (script.written(), is_whole)
    }

    fn chunked(cut: usize) -> Vec<u8> {
        let mut out = HEAD.to_vec();
        for part in [&BODY[..cut], &BODY[cut..]].iter().filter(|part| !part.is_empty()) {
            out.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
            out.extend_from_slice(part);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"0\r\n\r\n");
        out
    }

    fn run(test: impl AsyncFnOnce() + 'static) {
        Runtime::new().unwrap().block_on(async { test().await });
    }

    const TERMS: Terms = Terms {
        is_head: false,
        may_chunk: true,
        keep_alive: true,
        tells_version: false,
        keepalive_seconds: None,
        timeout_ms: 1000,
        frame_bytes: 8192,
    };

    fn response(status: u16, content_length: Option<u64>) -> Response {
        let mut response = Response { content_length, ..Response::with_type(status, b"text/plain") };
        response.omits.date = true;
        response
    }

    /// The head, the framing that follows, and whether the connection stays open.
    fn head_of(mut response: Response, terms: Terms) -> (String, Framing, bool) {
        let mut writer = Writer::default();
        let started = writer.start(&mut response, terms);
        assert_eq!(started.head_bytes, writer.pending.len() as u64);
        (String::from_utf8(writer.pending.clone()).unwrap(), writer.framing, started.keep_alive)
    }

    #[test]
    fn the_head_says_how_the_body_is_framed() {
        let old = Terms { may_chunk: false, ..TERMS };
        let head = Terms { is_head: true, ..TERMS };
        let server = "Server: pronghorn\r\nContent-Type: text/plain\r\n";
        let (goes_on, closes) = ("Connection: keep-alive\r\n\r\n", "Connection: close\r\n\r\n");
        let (length, chunked) = ("Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n");
        for (response, terms, framing, fields, end) in [
            (response(200, Some(5)), TERMS, Framing::Length { left: 5 }, length, goes_on),
            (response(200, None), TERMS, Framing::Chunked, chunked, goes_on),
            (response(200, None), old, Framing::UntilClose, "", closes),
            (response(200, Some(5)), old, Framing::Length { left: 5 }, length, goes_on),
            (response(200, Some(5)), head, Framing::Bodiless, length, goes_on),
            (response(204, Some(5)), TERMS, Framing::Bodiless, "", goes_on),
            (response(304, None), TERMS, Framing::Bodiless, "", goes_on),
            (
                response(200, Some(5)),
                Terms { keep_alive: false, ..TERMS },
                Framing::Length { left: 5 },
                length,
                closes,
            ),
            (
                Response { has_trailers: true, ..response(200, Some(5)) },
                TERMS,
                Framing::Chunked,
                chunked,
                goes_on,
            ),
            (
                Response { has_trailers: true, ..response(200, Some(5)) },
                old,
                Framing::Length { left: 5 },
                length,
                goes_on,
            ),
        ] {
            let status = response.status;
            let reason = response::reason(status);
            let expected = format!("HTTP/1.1 {status} {reason}\r\n{server}{fields}{end}");
            assert_eq!(head_of(response, terms), (expected, framing, end == goes_on), "{terms:?}");
        }
    }

    #[test]
    fn no_text_of_an_upstream_ends_a_line_of_the_head() {
        let mut response = response(200, Some(0));
        response.reason = b"Fine\r\nX-Injected: 1".to_vec();
        response.headers.push(b"X-Own", b"a\r\n\r\nb");
        let terms = Terms { tells_version: true, keepalive_seconds: Some(30), ..TERMS };
        let (head, ..) = head_of(response, terms);
        assert!(head.starts_with("HTTP/1.1 200 FineX-Injected: 1\r\nServer: pronghorn/"), "{head}");
        assert!(head.contains("\r\nKeep-Alive: timeout=30\r\nX-Own: ab\r\n\r\n"), "{head}");
        assert_eq!(head.matches("\r\n\r\n").count(), 1);
    }

    #[test]
    fn behind_a_101_everything_belongs_to_the_tunnel() {
        let mut writer = Writer::default();
        let mut response = response(101, None);
        response.omits.server = true;
        let started = writer.start_tunnel(&response, &TERMS);
        let expected =
            "HTTP/1.1 101 Switching Protocols\r\nContent-Type: text/plain\r\nConnection: upgrade\r\n\r\n";
        assert_eq!(String::from_utf8(writer.pending.clone()).unwrap(), expected);
        assert_eq!((started.keep_alive, writer.raw_room()), (true, Some(u64::MAX)));
    }

    #[test]
    fn the_same_bytes_leave_however_they_are_taken() {
        run(async || {
            let plain = [HEAD, BODY].concat();
            let left = BODY.len() as u64;
            for cut in 0..=BODY.len() {
                for (framing, expected) in [
                    (Framing::Length { left }, plain.clone()),
                    (Framing::UntilClose, plain.clone()),
                    (Framing::Chunked, chunked(cut)),
                    (Framing::Bodiless, HEAD.to_vec()),
                ] {
                    for (sips, at_once) in [(0, usize::MAX), (200, 1), (0, cut + 1), (3, cut + 9)] {
                        let (transport, script) = play();
                        script.sips(sips).takes(at_once).blocks();
                        let (written, is_whole) = respond(framing, cut, &script, &transport).await;
                        assert_eq!(written, expected, "{framing:?}, {cut}, {sips}");
                        assert!(is_whole);
                    }
                }
            }
        });
    }

    #[test]
    fn a_short_head_and_body_leave_in_one_write() {
        run(async || {
            let (transport, script) = play();
            let mut writer = begun(Framing::Length { left: BODY.len() as u64 });
            send(&mut writer, &transport, BODY, 0).await.unwrap();
            assert!(writer.end(&Lines::default()));
            assert_eq!((script.write_count(), writer.pending_count()), (1, 0));
            let long = vec![b'x'; 3 * JOINED_MAX];
            let mut writer = begun(Framing::UntilClose);
            send(&mut writer, &transport, &long, 0).await.unwrap();
            assert_eq!(script.write_count(), 2, "a long one is not copied, and leaves with its head too");
        });
    }

    #[test]
    fn a_body_is_never_longer_than_its_length_and_a_shorter_one_is_not_whole() {
        run(async || {
            let (transport, script) = play();
            let mut writer = begun(Framing::Length { left: 6 });
            send(&mut writer, &transport, BODY, 0).await.unwrap();
            assert_eq!(script.written(), [HEAD, b"a body"].concat());
            assert!(writer.end(&Lines::default()));
            let mut writer = begun(Framing::Length { left: 7 });
            send(&mut writer, &transport, b"a body", 0).await.unwrap();
            assert!(!writer.end(&Lines::default()));
            assert_eq!(writer.raw_room(), Some(1));
            writer.moved(1);
            assert!(writer.end(&Lines::default()));
        });
    }

    #[test]
    fn what_may_wait_waits_and_leaves_with_what_comes_next() {
        run(async || {
            for taken in 1..HEAD.len() + 30 {
                yield_now().await; // a new budget
                let (transport, script) = play();
                script.takes(taken).is_full();
                let mut writer = begun(Framing::Chunked);
                let done = send(&mut writer, &transport, &BODY[..20], 100).await.unwrap();
                let first = HEAD.len() + b"14\r\n\r\n".len() + 20;
                assert_eq!(done, taken.min(first));
                script.drains();
                send(&mut writer, &transport, &BODY[20..], 100).await.unwrap();
                assert!(writer.end(&Lines::default()));
                send(&mut writer, &transport, b"", 0).await.unwrap();
                assert_eq!(script.written(), chunked(20), "{taken}");
            }
        });
    }

    #[test]
    fn a_client_that_takes_nothing_is_late_and_one_that_is_lost_is_gone() {
        run(async || {
            for taken in [0, 1, HEAD.len(), HEAD.len() + 5] {
                let (transport, script) = play();
                script.takes(taken).is_full();
                let mut writer = begun(Framing::UntilClose);
                let error = send(&mut writer, &transport, BODY, 0).await.unwrap_err();
                assert!(matches!((&error.kind, error.status), (Kind::TimedOut, 408)), "{taken}");
                assert_eq!(error.told_limit(), Some(Limit::SendTimeout));
                let (transport, script) = play();
                script.takes(taken).resets();
                let mut writer = begun(Framing::UntilClose);
                let error = send(&mut writer, &transport, BODY, 0).await.unwrap_err();
                assert!(matches!((&error.kind, error.status), (Kind::Lost(_), 499)), "{taken}");
            }
        });
    }

    #[test]
    fn a_response_that_is_given_up_leaves_no_more_bytes() {
        run(async || {
            for taken in 1..HEAD.len() + BODY.len() {
                yield_now().await; // a new budget
                let (transport, script) = play();
                script.takes(taken).is_full();
                let mut writer = begun(Framing::Chunked);
                // Dropped in the middle of a write.
                let given_up = timeout(0, send(&mut writer, &transport, BODY, 0));
                assert!(matches!(given_up.await, Err(TimedOut)));
                writer.abandon();
                script.drains();
                assert!(!writer.end(&Lines::default()) && !writer.wants_body());
                send(&mut writer, &transport, b"more", 0).await.unwrap();
                assert_eq!(script.written().len(), taken);
            }
        });
    }

    #[test]
    fn early_hints_are_a_head_of_their_own() {
        run(async || {
            let mut fields = Lines::default();
            fields.push(Id::Link.into(), &Text::constant("</style.css>; rel=preload"));
            let (transport, script) = play();
            script.sips(500);
            write_early_hints(&transport, &fields, 1000).await.unwrap();
            let expected = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n";
            assert_eq!(script.written(), expected);
            script.drains();
            script.is_full();
            let error = write_early_hints(&transport, &fields, 5).await.unwrap_err();
            assert!(matches!((&error.kind, error.status), (Kind::TimedOut, 408)));
        });
    }
}
