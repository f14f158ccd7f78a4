//! Sends one response to its client: content coding, pace, and the writer of the protocol.
//!
//! Touches: the client's connection, through the writer of its protocol. Its callers bound how much waits. A
//! subrequest writes into the output of the response that it is part of.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use crate::http::downstream::Downstream;
use crate::http::h1::writer::{Started, Terms};
use crate::http::request::Request;
use crate::http::request::ahead::Sink;
use crate::http::request::error::{Error, Limit};
use crate::http::response::Response;
use crate::http::response::coded::Coding;
use crate::http::response::filter::Signal;
use crate::http::response::whole::{self, Need, Whole};
use crate::http::{h1, streams};
use crate::net::budget::Share;
use crate::net::pace::Pace;
use crate::proto::field_text::Lines;
use crate::runtime::{self, Timer, buffer};

/// Bytes that are copied in a microsecond.
const COPIED_BYTES: usize = 4096;
/// So much of the last part of a body leaves with the end, if the part is too long to be kept for that.
const KEPT_BYTES: usize = 4096;

/// The destination of a response: the protocol of the connection, or a substitute.
#[derive(Debug, Default)]
enum Writer {
    /// Discards the response.
    #[default]
    Nobody,
    H1(h1::Writer),
    Stream(Box<streams::Writer>),
    /// Keeps the body in memory.
    Memory(Box<Memory>),
    /// Passes the body to the task whose response it becomes part of.
    Ahead(Sink),
    /// Gives the body to a change that needs it as a whole.
    Held(Box<Held>),
}

/// A response whose head waits for a change to its whole body.
#[derive(Debug)]
struct Held {
    whole: Box<dyn Whole>,
    /// The change needs no more: the head may go.
    is_ready: bool,
    /// Where the result goes.
    output: Output,
}

/// A body in memory, up to a maximum length.
#[derive(Debug)]
struct Memory {
    kept: Vec<u8>,
    /// `None`: the maximum has not been set yet.
    max: Option<usize>,
    /// Accounts for the kept bytes.
    share: Share,
}

/// Rarely used parts of an output, boxed to keep `Output` small.
#[derive(Debug, Default)]
struct Special {
    /// `limit_rate`.
    pace: Option<Pace>,
    /// Bytes of the head that have not passed the pace yet.
    head_left: u64,
    coding: Option<Box<dyn Coding>>,
    /// The coding may hold bytes back.
    holds: bool,
}

/// The output of one response: content coding and pace, which are the same in every protocol, and the writer
/// that frames and sends the result.
#[derive(Debug, Default)]
pub struct Output {
    writer: Writer,
    special: Option<Box<Special>>,
}

impl Output {
    /// The output to a client.
    #[inline]
    pub fn new(client: Downstream<'_>) -> Self {
        Self::with(match client {
            Downstream::H1(_) => Writer::H1(h1::Writer::default()),
            Downstream::H2(_) => Writer::Stream(Box::new(streams::Writer::new(streams::Compression::Hpack))),
            Downstream::H3(_) => Writer::Stream(Box::new(streams::Writer::new(streams::Compression::Qpack))),
            Downstream::Nobody => Writer::Nobody,
        })
    }

    #[inline]
    fn with(writer: Writer) -> Self {
        Self { writer, special: None }
    }

    /// Discards the response.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// Keeps the body, up to `max` bytes, or as set later by [`Output::bound_memory`].
    pub fn memory(max: Option<usize>) -> Self {
        Self::with(Writer::Memory(Box::new(Memory { kept: Vec::new(), max, share: Share::default() })))
    }

    /// Passes the body to the task whose response it becomes part of.
    pub fn ahead(sink: Sink) -> Self {
        Self::with(Writer::Ahead(sink))
    }

    /// Writes the head of `response`, which is sent with the first bytes of the body.
    #[inline]
    pub fn start(&mut self, response: &mut Response, terms: Terms) -> Started {
        match &mut self.writer {
            Writer::H1(writer) => writer.start(response, terms),
            Writer::Stream(writer) => writer.start(response, &terms),
            Writer::Nobody | Writer::Memory(_) | Writer::Ahead(_) | Writer::Held(_) => Self::headless(&terms),
        }
    }

    /// Writes the head of a 101, after which the connection is a tunnel.
    pub fn start_tunnel(&mut self, response: &Response, terms: &Terms) -> Started {
        match &mut self.writer {
            Writer::H1(writer) => writer.start_tunnel(response, terms),
            Writer::Stream(writer) => writer.start_tunnel(response, terms),
            Writer::Nobody | Writer::Memory(_) | Writer::Ahead(_) | Writer::Held(_) => Self::headless(terms),
        }
    }

    fn headless(terms: &Terms) -> Started {
        Started { keep_alive: terms.keep_alive, head_bytes: 0 }
    }

    /// Sets the pace of a response whose head, of `head_bytes`, is pending. As in nginx the head counts and, in HTTP/1,
    /// leaves in parts if the rate is low.
    pub fn set_pace(&mut self, mut pace: Pace, head_bytes: u64) {
        let special = self.special.get_or_insert_default();
        match &self.writer {
            Writer::H1(_) => special.head_left = head_bytes,
            _ => pace.pass(head_bytes),
        }
        special.pace = Some(pace);
    }

    /// True if [`Output::pace_head`] must come before anything is sent.
    #[inline]
    pub fn owes_head(&self) -> bool {
        self.special.as_deref().is_some_and(|special| special.head_left > 0)
    }

    /// Sends the pending head at the allowed pace. Its last part stays pending and leaves with the bytes that follow.
    pub async fn pace_head(&mut self, client: Downstream<'_>, sent: &mut u64) -> Result<(), Error> {
        while self.owes_head() {
            let room = self.pace(client).await?;
            let Some(special) = self.special.as_deref_mut() else { break };
            let part = room.min(special.head_left);
            special.head_left -= part;
            let is_last = special.head_left == 0;
            self.pass(part);
            if is_last {
                break;
            }
            let Writer::H1(writer) = &mut self.writer else { break };
            let later = writer.cut_pending(usize::try_from(part).unwrap_or(usize::MAX));
            let outcome = poll_fn(|cx| self.poll_flush(client, cx, sent)).await;
            if let Writer::H1(writer) = &mut self.writer {
                writer.append_pending(&later);
            }
            outcome?;
        }
        Ok(())
    }

    /// Encodes everything that is emitted from now on.
    pub fn set_coding(&mut self, coding: Box<dyn Coding>) {
        self.special.get_or_insert_default().coding = Some(coding);
    }

    pub fn is_coded(&self) -> bool {
        self.special.as_deref().is_some_and(|special| special.coding.is_some())
    }

    /// True if a coding may hold bytes back, which [`Signal::Flush`] releases.
    pub fn holds(&self) -> bool {
        self.special.as_deref().is_some_and(|special| special.holds)
    }

    /// Sets the maximum to keep, unless it is set already.
    #[cold]
    pub fn bound_memory(&mut self, max: impl FnOnce() -> usize) {
        if let Writer::Memory(memory) = &mut self.writer {
            memory.max.get_or_insert_with(max);
        }
    }

    /// The body that [`Output::memory`] has kept.
    pub fn take_memory(&mut self) -> Vec<u8> {
        match std::mem::take(&mut self.writer) {
            Writer::Memory(memory) => memory.kept,
            other => {
                self.writer = other;
                Vec::new()
            }
        }
    }

    /// Gives the body to this change from now on, until [`Output::take_held`]. False: nobody gets the response.
    pub fn hold(&mut self, whole: Box<dyn Whole>) -> bool {
        if matches!(self.writer, Writer::Nobody) {
            return false;
        }
        let output = std::mem::take(self);
        self.writer = Writer::Held(Box::new(Held { whole, is_ready: false, output }));
        true
    }

    /// True if the change needs no more of the body.
    pub fn is_ready(&self) -> bool {
        matches!(&self.writer, Writer::Held(held) if held.is_ready)
    }

    /// Lets the change make its result.
    pub async fn finish_held(
        &mut self,
        request: &mut Request,
        client: Downstream<'_>,
    ) -> Result<Vec<u8>, Error> {
        match &mut self.writer {
            Writer::Held(held) => held.whole.finish(request, client).await,
            _ => Ok(Vec::new()),
        }
    }

    /// Takes the change out: the body goes to the client again.
    pub fn take_held(&mut self) -> Option<Box<dyn Whole>> {
        match std::mem::take(&mut self.writer) {
            Writer::Held(held) => {
                *self = held.output;
                Some(held.whole)
            }
            other => {
                self.writer = other;
                None
            }
        }
    }

    /// The number of bytes that wait for the client.
    #[inline]
    pub fn pending_bytes(&self) -> usize {
        match &self.writer {
            Writer::H1(writer) => writer.pending_count(),
            Writer::Stream(writer) => writer.pending_bytes(),
            Writer::Nobody | Writer::Memory(_) | Writer::Ahead(_) | Writer::Held(_) => 0,
        }
    }

    /// The same; an end that takes no bytes counts as one.
    pub fn pending_count(&self) -> usize {
        match &self.writer {
            Writer::H1(writer) => writer.pending_count(),
            Writer::Stream(writer) => writer.pending_count(),
            Writer::Nobody | Writer::Memory(_) | Writer::Ahead(_) | Writer::Held(_) => 0,
        }
    }

    /// True if the next bytes that leave are known to be the last ones.
    #[inline]
    pub fn is_last(&self) -> bool {
        match &self.writer {
            Writer::H1(writer) => writer.is_last(),
            Writer::Stream(writer) => writer.is_last(),
            Writer::Nobody | Writer::Memory(_) | Writer::Ahead(_) | Writer::Held(_) => false,
        }
    }

    pub fn abandon(&mut self) {
        match &mut self.writer {
            Writer::H1(writer) => writer.abandon(),
            Writer::Stream(writer) => writer.abandon(),
            Writer::Nobody | Writer::Memory(_) | Writer::Ahead(_) | Writer::Held(_) => {}
        }
    }

    /// True if trailer fields may follow the body.
    pub fn takes_trailers(&self) -> bool {
        match &self.writer {
            Writer::H1(writer) => writer.takes_trailers(),
            Writer::Stream(writer) => writer.takes_trailers(),
            Writer::Nobody | Writer::Memory(_) | Writer::Ahead(_) | Writer::Held(_) => false,
        }
    }

    /// True if some bytes must not go straight to the connection, so that [`Output::emit`] is needed.
    #[inline]
    pub fn is_special(&self) -> bool {
        self.special.is_some()
            || matches!(self.writer, Writer::Memory(_) | Writer::Ahead(_) | Writer::Held(_))
    }

    pub fn is_paced(&self) -> bool {
        self.special.as_deref().is_some_and(|special| special.pace.is_some())
    }

    /// Waits until bytes may be sent, and returns how many. Errors: the client has gone meanwhile.
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
        match &self.writer {
            Writer::H1(writer) => self.special.is_some() || writer.wants_body(),
            Writer::Stream(writer) => self.special.is_some() || writer.wants_body(),
            Writer::Memory(_) | Writer::Ahead(_) | Writer::Held(_) => true,
            Writer::Nobody => false,
        }
    }

    /// How many bytes may bypass the output; `None`: they must be framed or encoded.
    pub fn raw_room(&self) -> Option<u64> {
        match &self.writer {
            Writer::H1(writer) if !self.is_coded() => writer.raw_room(),
            _ => None,
        }
    }

    /// Counts bytes that bypassed it.
    pub fn moved(&mut self, count: u64) {
        if let Writer::H1(writer) = &mut self.writer {
            writer.moved(count);
        }
        self.pass(count);
    }

    /// Counts bytes against what the pace allows.
    fn pass(&mut self, count: u64) {
        if let Some(pace) = self.special.as_deref_mut().and_then(|special| special.pace.as_mut()) {
            pace.pass(count);
        }
    }

    /// The part of `data` that belongs to the body, and the framing to send after it.
    #[inline]
    pub fn frame<'b>(&mut self, data: &'b [u8]) -> (&'b [u8], &'static [u8]) {
        match &mut self.writer {
            Writer::H1(writer) => writer.frame(data),
            Writer::Stream(writer) => (writer.frame(data), b""),
            Writer::Nobody | Writer::Memory(_) | Writer::Ahead(_) | Writer::Held(_) => (&data[..0], b""),
        }
    }

    /// Writes the end. False: the body is shorter than declared.
    #[inline]
    pub fn end(&mut self, trailers: &Lines) -> bool {
        match &mut self.writer {
            Writer::H1(writer) => writer.end(trailers),
            Writer::Stream(writer) => writer.end(trailers),
            Writer::Nobody | Writer::Memory(_) | Writer::Ahead(_) | Writer::Held(_) => false,
        }
    }

    /// Appends a few bytes to a head that is still pending. False: they must be sent separately.
    #[inline]
    pub fn join(&mut self, data: &[u8], tail: &[u8]) -> bool {
        match &mut self.writer {
            Writer::H1(writer) => writer.join(data, tail),
            Writer::Stream(writer) => writer.join(data),
            Writer::Nobody | Writer::Memory(_) | Writer::Ahead(_) | Writer::Held(_) => false,
        }
    }

    /// Sends pending bytes, then `data` and its tail; `done` bytes of these have been sent already. Ready
    /// when at most `ahead` bytes are left.
    #[inline(always)]
    pub fn poll_send(
        &mut self,
        client: Downstream<'_>,
        cx: &mut Context<'_>,
        body: (&[u8], &[u8]),
        ahead: usize,
        done: &mut usize,
    ) -> Poll<Result<(), Error>> {
        match (&mut self.writer, client) {
            (Writer::H1(writer), Downstream::H1(transport)) => {
                writer.poll_send(transport, cx, body, ahead, done)
            }
            (Writer::Stream(writer), Downstream::H2(stream)) => {
                writer.poll_send(stream, cx, body.0, ahead, done)
            }
            (Writer::Stream(writer), Downstream::H3(stream)) => {
                writer.poll_send(stream, cx, body.0, ahead, done)
            }
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Keeps the last bytes of a body to send them with the end. False: they are too many.
    fn hold_last(&mut self, data: &[u8], tail: &[u8]) -> bool {
        match &mut self.writer {
            Writer::H1(writer) => writer.hold_last(data, tail),
            Writer::Stream(writer) => writer.hold_last(data),
            Writer::Nobody | Writer::Memory(_) | Writer::Ahead(_) | Writer::Held(_) => false,
        }
    }

    /// After [`Output::poll_send`]: makes the unsent rest pending.
    #[inline(always)]
    pub fn settle(&mut self, done: usize, data: &[u8], tail: &[u8]) {
        match &mut self.writer {
            Writer::H1(writer) => writer.settle(done, data, tail),
            Writer::Stream(writer) => writer.settle(done, data),
            Writer::Nobody | Writer::Memory(_) | Writer::Ahead(_) | Writer::Held(_) => {}
        }
    }

    /// Sends pending bytes, counting them in `sent`; ready when none are left.
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

    /// Encodes, frames and sends all of `data` at the allowed pace, or keeps it if nothing is sent. The last
    /// part of a body may be left for [`Output::end`], to be sent with the end.
    pub async fn emit(
        &mut self,
        client: Downstream<'_>,
        data: &[u8],
        signal: Signal,
        sent: &mut u64,
    ) -> Result<(), Error> {
        match &mut self.writer {
            Writer::H1(_) | Writer::Stream(_) => {}
            Writer::Nobody => return Ok(()),
            Writer::Memory(memory) => return memory.keep(data).await,
            Writer::Ahead(sink) => return sink.write(data).await,
            Writer::Held(held) => return held.take(data).await,
        }
        if !self.is_coded() {
            return self.emit_plain(client, data, signal, sent).await;
        }
        let mut coded = buffer::scratch();
        let outcome = self.emit_coded(client, data, signal, &mut coded, sent).await;
        buffer::recycle(coded);
        outcome
    }

    /// Encodes and sends in steps, so that others need not wait; steps that are too long run on another
    /// thread.
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
        if self.owes_head() {
            self.pace_head(client, sent).await?;
        }
        while !data.is_empty() {
            let room = self.pace(client).await?;
            let (part, rest) = data.split_at(data.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
            data = rest;
            self.pass(part.len() as u64);
            let (mut part, mut tail) = self.frame(part);
            // The last bytes are left for `Client::finish`, which counts the request before it sends them.
            let is_last = self.is_last() && tail.is_empty();
            if (signal == Signal::End || is_last) && self.hold_last(part, tail) {
                continue;
            }
            let mut kept = &b""[..];
            if is_last {
                (part, kept) = part.split_at(part.len().saturating_sub(KEPT_BYTES));
            }
            if self.join(part, tail) {
                (part, tail) = (b"", b"");
            }
            let mut done = 0;
            let outcome = poll_fn(|cx| self.poll_send(client, cx, (part, tail), 0, &mut done)).await;
            self.settle(done, part, tail);
            *sent = client.advance(*sent, done);
            outcome?;
            self.hold_last(kept, b"");
        }
        Ok(())
    }
}

impl Held {
    async fn take(&mut self, data: &[u8]) -> Result<(), Error> {
        match self.whole.push(data) {
            Need::More => {}
            Need::Nothing => self.is_ready = true,
            Need::Stop => return Err(whole::stopped()),
        }
        runtime::worked(1 + (data.len() / COPIED_BYTES) as u32).await;
        Ok(())
    }
}

impl Memory {
    async fn keep(&mut self, data: &[u8]) -> Result<(), Error> {
        let max = self.max.unwrap_or(0);
        if max == 0 {
            runtime::worked(1).await;
            return Ok(()); // only the status is wanted
        }
        if self.kept.len() + data.len() > max {
            let cause = format!("too big subrequest response: more than {max} bytes");
            return Err(Error::ours(cause).by(Limit::SubrequestSize));
        }
        self.share.add(data.len());
        self.kept.extend_from_slice(data);
        runtime::worked(1 + (data.len() / COPIED_BYTES) as u32).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use super::*;
    use crate::http::request::ahead;
    use crate::net::transport::script::play;
    use crate::runtime::{Runtime, spawn};

    const TERMS: Terms = Terms {
        is_head: false,
        may_chunk: true,
        keep_alive: true,
        tells_version: false,
        keepalive_seconds: None,
        timeout_ms: 1000,
        frame_bytes: 8192,
    };

    /// Writes each byte twice, and an end.
    #[derive(Debug)]
    struct Twice;

    impl Coding for Twice {
        fn push(&mut self, data: &[u8], signal: Signal, out: &mut Vec<u8>) -> Result<(), Error> {
            data.iter().for_each(|byte| out.extend_from_slice(&[*byte, *byte]));
            if signal == Signal::End {
                out.push(b'.');
            }
            Ok(())
        }

        fn step_bytes(&self) -> usize {
            2
        }

        fn work(&self, _bytes: usize, _signal: Signal) -> u32 {
            1
        }

        fn push_elsewhere<'a>(
            &'a mut self,
            data: &'a [u8],
            signal: Signal,
            out: &'a mut Vec<u8>,
        ) -> Pin<Box<dyn Future<Output = Result<(), Error>> + 'a>> {
            Box::pin(async move { self.push(data, signal, out) })
        }
    }

    fn run(test: impl AsyncFnOnce() + 'static) {
        Runtime::new().unwrap().block_on(async { test().await });
    }

    /// The body inside its chunks.
    fn decoded(written: &[u8]) -> String {
        let at = memchr::memmem::find(written, b"\r\n\r\n").unwrap() + 4;
        let mut lines = std::str::from_utf8(&written[at..]).unwrap().split("\r\n");
        let mut body = String::new();
        while let Some(length) = lines.next().filter(|length| *length != "0") {
            let data = lines.next().unwrap();
            assert_eq!(usize::from_str_radix(length, 16).unwrap(), data.len());
            body.push_str(data);
        }
        body
    }

    #[test]
    fn a_coded_body_leaves_whole_however_it_comes_and_is_taken() {
        run(async || {
            for cut in 0..=6 {
                let (transport, script) = play();
                script.sips(cut * 40);
                let client = Downstream::H1(&transport);
                let mut output = Output::new(client);
                let mut response = Response::new(200);
                assert!(output.start(&mut response, TERMS).keep_alive);
                output.set_coding(Box::new(Twice));
                assert!(output.raw_room().is_none() && output.is_special());
                let mut sent = 0;
                output.emit(client, &b"abcdef"[..cut], Signal::More, &mut sent).await.unwrap();
                assert_eq!(output.holds(), cut > 0);
                output.emit(client, &b"abcdef"[cut..], Signal::More, &mut sent).await.unwrap();
                output.emit(client, b"", Signal::End, &mut sent).await.unwrap();
                assert!(output.end(&Lines::default()) && !output.is_coded());
                poll_fn(|cx| output.poll_flush(client, cx, &mut sent)).await.unwrap();
                assert_eq!(decoded(&script.written()), "aabbccddeeff.", "{cut}");
                assert_eq!(sent, script.written().len() as u64);
            }
        });
    }

    #[test]
    fn what_is_kept_is_bounded() {
        run(async || {
            let mut sent = 0;
            let client = Downstream::Nobody;
            let mut output = Output::memory(Some(5));
            output.emit(client, b"abc", Signal::More, &mut sent).await.unwrap();
            output.emit(client, b"de", Signal::More, &mut sent).await.unwrap();
            let error = output.emit(client, b"f", Signal::More, &mut sent).await.unwrap_err();
            assert_eq!(error.limit, Some(Limit::SubrequestSize));
            assert_eq!((output.take_memory(), sent), (b"abcde".to_vec(), 0));
            let mut status_only = Output::memory(Some(0));
            status_only.emit(client, b"dropped", Signal::End, &mut sent).await.unwrap();
            assert!(status_only.take_memory().is_empty());
            let mut bounded_later = Output::memory(None);
            bounded_later.bound_memory(|| 1);
            assert!(bounded_later.emit(client, b"ab", Signal::End, &mut sent).await.is_err());
        });
    }

    #[test]
    fn nobody_gets_nothing_and_another_task_gets_all() {
        run(async || {
            let mut sent = 0;
            let mut nobody = Output::nothing();
            assert!(!nobody.wants_body() && nobody.frame(b"x") == (&b""[..], &b""[..]));
            nobody.emit(Downstream::Nobody, b"x", Signal::End, &mut sent).await.unwrap();
            let (sink, source) = ahead::pipe();
            let mut output = Output::ahead(sink.clone());
            assert!(output.wants_body() && output.raw_room().is_none());
            spawn(async move {
                let mut sent = 0;
                output.emit(Downstream::Nobody, &[b'x'; 100_000], Signal::End, &mut sent).await.unwrap();
                sink.end(Ok(()));
            });
            let mut count = 0;
            while let Some(bytes) = source.read(Downstream::Nobody).await.unwrap() {
                count += bytes.len();
            }
            assert_eq!(count, 100_000);
        });
    }
}
