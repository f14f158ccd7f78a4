//! The body of a request: its maximum size, the time that its bytes may take, and the part of it that is
//! kept.
//!
//! Touches: the client's connection, through the reader of its protocol. Bounded: that reader's buffer, and
//! what is kept. RFC 9110 §6.4.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use crate::http::downstream::Downstream;
use crate::http::request::error::{During, Error, Kind, Limit};
use crate::http::temp_file::TempFile;
use crate::http::{h1, streams};
use crate::proto::message::BodyLength;
use crate::runtime::buffer::Buffer;
use crate::runtime::{self, Timer};
use crate::sys::transfer::Pipe;

/// Bytes of the smallest chunks that are decoded in a microsecond.
pub const DECODED_BYTES: usize = 128;

/// The source of a body: the protocol of the client's connection.
#[derive(Debug)]
pub enum Reader {
    /// No more bytes: there is no body, or all of it is in memory.
    Nothing,
    H1(h1::Reader),
    Stream(Box<streams::Reader>),
}

impl Reader {
    #[inline]
    fn is_read(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::H1(reader) => reader.is_read(),
            Self::Stream(reader) => reader.is_read(),
        }
    }

    #[inline]
    fn data(&self) -> &[u8] {
        match self {
            Self::Nothing => b"",
            Self::H1(reader) => reader.data(),
            Self::Stream(reader) => reader.data(),
        }
    }

    #[inline]
    fn has_data(&self) -> bool {
        match self {
            Self::Nothing => false,
            Self::H1(reader) => reader.has_data(),
            Self::Stream(reader) => reader.has_data(),
        }
    }

    fn consume(&mut self, count: usize) {
        match self {
            Self::Nothing => debug_assert!(count == 0),
            Self::H1(reader) => reader.consume(count),
            Self::Stream(reader) => reader.consume(count),
        }
    }

    #[inline]
    fn decode(&mut self) -> Result<bool, Error> {
        match self {
            Self::Nothing => Ok(false),
            Self::H1(reader) => reader.decode(),
            Self::Stream(reader) => Ok(reader.decode()),
        }
    }

    #[inline]
    fn poll_fill(
        &mut self,
        client: Downstream<'_>,
        cx: &mut Context<'_>,
        buffer_size: usize,
    ) -> Poll<Result<usize, Error>> {
        match (self, client) {
            (Self::H1(reader), Downstream::H1(transport)) => reader.poll_fill(transport, cx, buffer_size),
            (Self::Stream(reader), Downstream::H2(stream)) => reader.poll_fill(stream, cx),
            (Self::Stream(reader), Downstream::H3(stream)) => reader.poll_fill(stream, cx),
            _ => {
                Poll::Ready(Err(Error::client(Kind::Cut))) // there is nothing to read from
            }
        }
    }

    fn send_continue(&mut self, client: Downstream<'_>) {
        match (self, client) {
            (Self::H1(reader), Downstream::H1(transport)) => reader.send_continue(transport),
            (Self::Stream(reader), Downstream::H2(stream)) => reader.send_continue(stream),
            (Self::Stream(reader), Downstream::H3(stream)) => reader.send_continue(stream),
            _ => {}
        }
    }

    fn forget_continue(&mut self) {
        match self {
            Self::Nothing => {}
            Self::H1(reader) => reader.forget_continue(),
            Self::Stream(reader) => reader.forget_continue(),
        }
    }

    fn movable(&self) -> u64 {
        match self {
            Self::Nothing | Self::Stream(_) => 0,
            Self::H1(reader) => reader.movable(),
        }
    }

    fn poll_move(
        &mut self,
        client: Downstream<'_>,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
    ) -> Poll<Result<usize, Error>> {
        match (self, client) {
            (Self::H1(reader), Downstream::H1(transport)) => reader.poll_move(transport, cx, pipe),
            _ => Poll::Ready(Ok(0)),
        }
    }

    fn take_rest(&mut self) -> Option<Buffer> {
        match self {
            Self::Nothing | Self::Stream(_) => None,
            Self::H1(reader) => reader.take_rest(),
        }
    }
}

/// A request's body. Decoded bytes are in [`Body::data`]; [`Body::poll_data`] brings more.
///
/// It owns what is the same in every protocol: the limits of its size and of the time between two reads, the
/// part kept for another upstream, the file into which it was read. Its [`Reader`] knows the framing.
#[derive(Debug)]
pub struct Body {
    reader: Reader,
    declared: BodyLength,
    /// Decoded bytes that have arrived so far.
    received: u64,
    /// The part that was read for an upstream, kept for the next one and for `$request_body`; `None`: some of
    /// it is gone.
    kept: Option<Vec<u8>>,
    /// The whole body, if it was read into a file.
    file: Option<Rc<TempFile>>,
    /// `client_max_body_size`; 0: no limit.
    max: u64,
    /// It was too large, or invalid: none of it is passed on any more.
    is_refused: bool,
    /// The request goes on without what is not kept ([`Body::make_optional`]).
    is_optional: bool,
    /// It is read into a file that can be named, whatever its length.
    wants_file: bool,
    timeout_ms: u64,
    buffer_size: usize,
    timer: Timer,
    pace: Pace,
    ended_us: Option<u64>,
}

/// How to read a request's body.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum bytes of a body; 0: no limit.
    pub max: u64,
    /// Maximum time between two reads.
    pub timeout_ms: u64,
    pub buffer_size: usize,
    /// `None`: no minimum.
    pub min_rate: Option<MinRate>,
}

/// The minimum rate at which a client must send (`client_body_min_rate`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MinRate {
    pub bytes_per_s: u32,
    /// How long a client may be behind the rate.
    pub grace_ms: u32,
}

impl MinRate {
    /// How long this many bytes may take, beyond the grace.
    pub fn time_for_ms(self, bytes: u64) -> u64 {
        bytes.saturating_mul(1000) / u64::from(self.bytes_per_s.max(1))
    }
}

/// How far a client is behind its minimum rate.
///
/// Only time spent waiting for the client counts. Bytes earn time, up to the timeout between two reads: a
/// client that has sent much may pause for as long as any other.
#[derive(Debug)]
struct Pace {
    rate: Option<MinRate>,
    /// Milliseconds spent waiting, less those earned by bytes.
    behind_ms: i64,
    waiting_since_ms: u64,
}

impl Pace {
    /// How long to wait for the next bytes.
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
    /// A body that `reader` reads, as declared by its head.
    #[inline(always)]
    pub fn new(declared: BodyLength, reader: Reader, limits: Limits) -> Self {
        let Limits { max, timeout_ms, buffer_size, min_rate } = limits;
        Self {
            reader,
            declared,
            received: 0,
            kept: Some(Vec::new()),
            file: None,
            max,
            is_refused: false,
            is_optional: false,
            wants_file: false,
            timeout_ms,
            buffer_size,
            timer: Timer::new(),
            ended_us: None,
            pace: Pace { rate: min_rate, behind_ms: 0, waiting_since_ms: 0 },
        }
    }

    /// The body of a request without one.
    pub fn none() -> Self {
        let limits = Limits { max: 0, timeout_ms: 0, buffer_size: 0, min_rate: None };
        Self::new(BodyLength::None, Reader::Nothing, limits)
    }

    /// A body that no client has sent, in memory.
    pub fn of(bytes: Vec<u8>) -> Self {
        let length = bytes.len() as u64;
        let declared = BodyLength::Length(length);
        Self { declared, received: length, kept: Some(bytes), ..Self::none() }
    }

    /// A body that has been read already: the kept part of another one, in memory or in a file that both then
    /// share.
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

    /// The body of a request like this one but without a body.
    pub fn without(&self) -> Self {
        let limits =
            Limits { max: 0, timeout_ms: self.timeout_ms, buffer_size: self.buffer_size, min_rate: None };
        Self::new(BodyLength::None, Reader::Nothing, limits)
    }

    /// Sets how many bytes had arrived, for a body that is gone.
    pub fn set_received(&mut self, received: u64) {
        self.received = received;
    }

    /// The length declared by the head.
    pub fn declared(&self) -> BodyLength {
        self.declared
    }

    /// The length for consumers of the body: as the head declared it, and empty after the body was refused.
    pub fn offered(&self) -> BodyLength {
        match self.declared {
            BodyLength::Length(_) | BodyLength::Chunked if self.is_refused => BodyLength::Length(0),
            declared => declared,
        }
    }

    /// Sets how the body is read from now on. For a body of known length, the maximum is checked by
    /// [`Body::admit`].
    pub fn set_limits(&mut self, limits: Limits) {
        (self.timeout_ms, self.buffer_size) = (limits.timeout_ms, limits.buffer_size);
        self.pace.rate = limits.min_rate;
        if !matches!(self.declared, BodyLength::Length(_)) {
            self.max = limits.max;
        }
    }

    /// Sets the maximum length of the body, 0 for any, when a request enters a location.
    ///
    /// Errors: the length that it has already, as declared or, for a chunked body, as far as it has arrived.
    /// A refused body gives no error: it counts as empty.
    pub fn admit(&mut self, max: u64) -> Result<(), u64> {
        self.max = max;
        let length = match self.offered() {
            BodyLength::Length(length) => length,
            BodyLength::Chunked => self.received,
            BodyLength::None | BodyLength::UntilClose => 0,
        };
        if max > 0 && length > max { Err(length) } else { Ok(()) }
    }

    /// Discards the body, including bytes still to arrive: the connection closes after the response.
    pub fn refuse(&mut self) {
        (self.is_refused, self.kept, self.file) = (true, Some(Vec::new()), None);
    }

    /// True if consumers get no more of it.
    pub fn is_done(&self) -> bool {
        self.is_refused || (self.reader.is_read() && !self.reader.has_data())
    }

    /// True if every byte has been read from the socket.
    pub fn is_read(&self) -> bool {
        self.reader.is_read()
    }

    /// Decoded bytes that have arrived since the head.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The decoded bytes in memory.
    pub fn data(&self) -> &[u8] {
        self.reader.data()
    }

    pub fn consume(&mut self, count: usize) {
        self.reader.consume(count);
    }

    /// Ready with `true` if [`Body::data`] is not empty, with `false` at the end of the body.
    ///
    /// Errors: 400 for invalid framing or a premature end, 408 if the client pauses too long, 413 if the body
    /// exceeds the limit, 499 if the socket fails.
    pub fn poll_data(&mut self, client: Downstream<'_>, cx: &mut Context<'_>) -> Poll<Result<bool, Error>> {
        if self.is_refused {
            return Poll::Ready(Ok(false));
        }
        loop {
            if self.reader.has_data() {
                self.timer.cancel();
                return Poll::Ready(Ok(true));
            }
            if self.decode()? {
                self.check_size()?;
                continue;
            }
            if self.is_read() {
                self.reader.send_continue(client); // requested before an empty body; nginx sends it
                self.timer.cancel();
                return Poll::Ready(Ok(false));
            }
            ready!(self.poll_fill(client, cx))?;
        }
    }

    /// How many bytes may be moved after [`Body::data`], with [`Body::poll_move`]: the rest of a body of
    /// known length, if none of it is in memory.
    pub fn movable(&self) -> u64 {
        if self.is_refused { 0 } else { self.reader.movable() }
    }

    /// Moves bytes from the client's socket into an empty pipe. Ready with their number; 0: nothing of the
    /// body is [`Body::movable`], or the socket is not plain.
    ///
    /// Errors: as [`Body::poll_data`].
    pub fn poll_move(
        &mut self,
        client: Downstream<'_>,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
    ) -> Poll<Result<usize, Error>> {
        let was_read = self.is_read();
        let Poll::Ready(moved) = self.reader.poll_move(client, cx, pipe) else {
            return self.poll_patience(cx).map(Err);
        };
        let count = moved?;
        self.arrived(count);
        self.decoded(count, was_read);
        self.check_size()?;
        Poll::Ready(Ok(count))
    }

    pub async fn data_ready(&mut self, client: Downstream<'_>) -> Result<bool, Error> {
        poll_fn(|cx| self.poll_data(client, cx)).await
    }

    /// Returns consumed bytes, for the next consumer of the body; `None`: they are gone.
    pub fn keep(&mut self, kept: Option<Vec<u8>>) {
        self.kept = kept;
    }

    /// The whole body, if it is in memory (`$request_body`).
    pub fn kept(&self) -> &[u8] {
        self.kept.as_deref().filter(|_| self.is_done()).unwrap_or(b"")
    }

    /// The whole body, which has been read; `None`: it is longer than `client_body_buffer_size`.
    pub fn in_memory(&self) -> Option<&[u8]> {
        if self.file().is_some() {
            return None;
        }
        let kept = self.kept();
        Some(if kept.is_empty() { self.data() } else { kept })
    }

    /// Attaches the file into which the body was read, which stays until the request ends.
    pub fn attach(&mut self, file: TempFile) {
        self.file = Some(Rc::new(file));
    }

    /// Asks for the whole body, even an empty one, as a file that can be named, to be taken by [`Body::take_file`].
    pub fn want_file(&mut self) {
        self.wants_file = true;
    }

    pub fn wants_file(&self) -> bool {
        self.wants_file
    }

    /// The file, for its new owner. `None`: there is none.
    pub fn take_file(&mut self) -> Option<TempFile> {
        let file = self.file.take()?;
        // A copy of the request may still be sending it.
        Some(Rc::try_unwrap(file).unwrap_or_else(|shared| shared.unnamed()))
    }

    /// The whole body, if it was read into a file.
    pub fn file(&self) -> Option<&TempFile> {
        self.file.as_deref()
    }

    /// A page is shown instead of the request's own answer: whoever makes it gets the body if all of it is kept.
    pub fn make_optional(&mut self) {
        self.is_optional = true;
    }

    pub fn is_optional(&self) -> bool {
        self.is_optional
    }

    /// Takes the bytes that were returned.
    pub fn take_kept(&mut self) -> Option<Vec<u8>> {
        self.kept.as_mut().map(std::mem::take)
    }

    /// Drops the bytes that have arrived, without waiting for more, before a response that does not need the
    /// body. A client that waits for `100 Continue` gets it now, as from nginx.
    ///
    /// Errors: 400 for invalid framing of what has arrived.
    pub fn discard_arrived(&mut self, client: Downstream<'_>) -> Result<(), Error> {
        self.reader.send_continue(client);
        loop {
            self.consume(self.data().len());
            if !self.decode()? || self.is_read() {
                self.consume(self.data().len());
                return Ok(());
            }
        }
    }

    /// Called after the final response has been sent: a later `100 Continue` would be read as part of the
    /// next one.
    pub fn forget_continue(&mut self) {
        self.reader.forget_continue();
    }

    /// The bytes after the body, which belong to the next request; call it only after the body has been read.
    /// Leaves an ended body.
    pub fn take_rest(&mut self) -> Option<Buffer> {
        self.reader.take_rest()
    }

    /// Drops the consumed bytes and decodes buffered ones; false: more must be read first.
    fn decode(&mut self) -> Result<bool, Error> {
        let was_read = self.is_read();
        let has_come = self.reader.decode()?;
        if has_come {
            self.decoded(self.data().len(), was_read);
        }
        Ok(has_come)
    }

    fn decoded(&mut self, count: usize, was_read: bool) {
        self.received += count as u64;
        if !was_read && self.is_read() {
            self.ended_us = Some(runtime::now_us());
        }
    }

    /// The limit is checked where bytes are counted, whatever led the request here and however the body is
    /// framed.
    fn check_size(&self) -> Result<(), Error> {
        if self.max == 0 || self.received <= self.max {
            return Ok(());
        }
        Err(too_large(self.declared, self.received))
    }

    /// When its last byte arrived; `None`: there is no body, or more is to come.
    pub fn ended_us(&self) -> Option<u64> {
        self.ended_us
    }

    fn poll_fill(&mut self, client: Downstream<'_>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let Poll::Ready(filled) = self.reader.poll_fill(client, cx, self.buffer_size) else {
            return self.poll_patience(cx).map(Err);
        };
        self.arrived(filled?);
        Poll::Ready(Ok(()))
    }

    fn arrived(&mut self, count: usize) {
        self.pace.count(count, self.timer.is_set(), self.timeout_ms);
        self.timer.cancel();
    }

    /// Called while nothing arrives: ready when that has lasted too long.
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
}

#[cold]
fn too_large(declared: BodyLength, received: u64) -> Error {
    let is_chunked = declared == BodyLength::Chunked;
    Error::client(Kind::BodyTooLarge { is_chunked, bytes: received }).by(Limit::BodySize(received))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Transport;
    use crate::net::transport::script::{Script, play};
    use crate::runtime::Runtime;

    const CHUNKED: &[u8] = b"3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n";
    const LIMITS: Limits = Limits { max: 0, timeout_ms: 1000, buffer_size: 4096, min_rate: None };

    fn body(declared: BodyLength, with_head: &[u8], limits: Limits) -> Body {
        let reader = h1::Reader::new(declared, with_head, false, limits.buffer_size);
        Body::new(declared, Reader::H1(reader), limits)
    }

    async fn read(body: &mut Body, transport: &Transport) -> Result<Vec<u8>, Error> {
        let mut all = Vec::new();
        while body.data_ready(Downstream::H1(transport)).await? {
            all.extend_from_slice(body.data());
            body.consume(body.data().len());
        }
        Ok(all)
    }

    fn run(test: impl AsyncFnOnce(Transport, Script) + 'static) {
        Runtime::new().unwrap().block_on(async {
            let (transport, script) = play();
            test(transport, script).await;
        });
    }

    #[test]
    fn a_body_that_grows_past_its_limit_is_refused_wherever_it_is_cut() {
        for cut in 0..CHUNKED.len() {
            for (max, is_refused) in [(2, true), (5, true), (6, false), (0, false)] {
                run(async move |transport, script| {
                    script.sends_cut(CHUNKED, cut);
                    let mut body = body(BodyLength::Chunked, b"", Limits { max, ..LIMITS });
                    match read(&mut body, &transport).await {
                        Ok(all) => assert!(all == b"abcdef" && !is_refused, "{cut}, {max}"),
                        Err(error) => {
                            assert!(is_refused && error.status == 413, "{cut}, {max}");
                            let bytes = body.received();
                            assert!(bytes > max && error.told_limit() == Some(Limit::BodySize(bytes)));
                        }
                    }
                    assert_eq!(body.ended_us().is_some(), body.is_read());
                });
            }
        }
    }

    #[test]
    fn a_client_that_pauses_is_late_by_the_timeout_or_by_the_least_rate() {
        let rate = MinRate { bytes_per_s: 1000, grace_ms: 5 };
        for (limits, expected) in [
            (Limits { timeout_ms: 5, ..LIMITS }, Limit::BodyTimeout),
            (Limits { min_rate: Some(rate), ..LIMITS }, Limit::BodyRate),
        ] {
            run(async move |transport, script| {
                script.sends(&CHUNKED[..8]);
                let mut body = body(BodyLength::Chunked, b"", limits);
                let error = read(&mut body, &transport).await.unwrap_err();
                assert_eq!((error.status, error.told_limit()), (408, Some(expected)));
                assert_eq!(body.received(), 3);
            });
        }
    }

    #[test]
    fn a_refused_body_gives_nothing_and_one_of_nobody_does_not_wait() {
        run(async |transport, script| {
            script.sends(CHUNKED);
            let mut refused = body(BodyLength::Chunked, b"3\r\nxyz\r\n", LIMITS);
            refused.refuse();
            assert!(read(&mut refused, &transport).await.unwrap().is_empty());
            assert!(refused.is_done() && !refused.is_read() && refused.movable() == 0);
            assert_eq!(refused.offered(), BodyLength::Length(0));
            let mut nobody_s = body(BodyLength::Length(5), b"", LIMITS);
            assert!(nobody_s.data_ready(Downstream::Nobody).await.is_err());
        });
    }

    #[test]
    fn a_copy_is_read_already() {
        run(async |transport, _script| {
            let mut original = body(BodyLength::Length(3), b"abc", LIMITS);
            let kept = read(&mut original, &transport).await.unwrap();
            original.keep(Some(kept));
            let mut copy = Body::copy(&original);
            assert_eq!((copy.kept(), copy.received()), (&b"abc"[..], 3));
            assert_eq!(copy.declared(), BodyLength::Length(3));
            assert!(copy.is_done() && !copy.data_ready(Downstream::Nobody).await.unwrap());
            assert_eq!(Body::none().offered(), BodyLength::None);
        });
    }

    #[test]
    fn what_has_arrived_of_a_body_that_nobody_wants_is_checked() {
        run(async |transport, script| {
            let mut bad = body(BodyLength::Chunked, b"3\r\nabcX", LIMITS);
            assert_eq!(bad.discard_arrived(Downstream::Nobody).unwrap_err().status, 400);
            let mut unfinished = body(BodyLength::Chunked, &CHUNKED[..12], LIMITS);
            unfinished.discard_arrived(Downstream::Nobody).unwrap();
            assert!(!unfinished.is_read());
            script.sends(&CHUNKED[12..]);
            read(&mut unfinished, &transport).await.unwrap();
            assert!(unfinished.is_read() && unfinished.received() == 6);
            let mut whole = body(BodyLength::Chunked, &[CHUNKED, b"GET"].concat(), LIMITS);
            whole.discard_arrived(Downstream::Nobody).unwrap();
            assert!(whole.is_read());
            assert_eq!(whole.take_rest().unwrap().data(), b"GET");
        });
    }
}
