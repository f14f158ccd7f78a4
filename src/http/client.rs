//! The way back to a client: the head of a response, and its body through the filters.
//!
//! Touches: the client's connection. Holds only the head: body bytes stay with their producer until the
//! connection has taken them, so a slow client stops the producer.

use std::future::poll_fn;
use std::task::{Context, Poll};

use crate::http::downstream::Downstream;
use crate::http::h1::writer::Terms;
use crate::http::modules::{self, counters, limit_rate};
use crate::http::nesting;
use crate::http::request::Request;
use crate::http::request::ahead::Sink;
use crate::http::request::error::Error;
use crate::http::response::Response;
use crate::http::response::filter::{Filters, Piece, Signal};
use crate::http::response::output::Output;
use crate::http::verdict::Reply;
use crate::net::drain;
use crate::proto::message::{Method, Version};
use crate::runtime;

/// How many bytes go through the filters at a time.
const FILTER_STEP_BYTES: usize = 16 * 1024;
/// The cost of a piece besides its bytes, and of a subrequest besides its I/O (`runtime::worked`).
const PIECE_WORK: u32 = 1;
const SUBREQUEST_WORK: u32 = 64;

/// A response on a connection, or a subrequest's part of one.
///
/// The code that produces a response (the pipeline, the relay of an upstream, the sender of files) writes
/// into it: [`Client::start`] once, then body bytes, then [`Client::finish`]. It runs head steps, filters and
/// coding, and the output frames and sends what comes out; each call waits until the connection has taken its
/// bytes. An error ends the response, and the connection must be closed.
#[derive(Debug)]
pub struct Client<'a> {
    downstream: Downstream<'a>,
    output: Output,
    /// The body passes through these first.
    filters: Option<Box<Filters>>,
    /// Belongs to a subrequest: its head is not sent, its body becomes part of the outer one.
    is_within: bool,
    has_started: bool,
    /// The head waits for a change to the whole.
    is_held: bool,
    /// The filters may hold bytes back.
    holds: bool,
}

impl<'a> Client<'a> {
    pub fn new(downstream: Downstream<'a>) -> Self {
        Self::with(downstream, Output::new(downstream), false)
    }

    /// The client of a subrequest: it continues the body that `outer` has started, until [`Client::resume`].
    pub fn within(outer: &mut Self) -> Self {
        let output = std::mem::take(&mut outer.output);
        Self { downstream: outer.downstream, output, ..Self::nobody() }
    }

    /// The client of a subrequest whose body is kept in memory, up to `max` bytes (0: none of it is kept) or
    /// as its location allows.
    pub fn memory(downstream: Downstream<'a>, max: Option<usize>) -> Self {
        Self { downstream, output: Output::memory(max), ..Self::nobody() }
    }

    /// For a request without a waiting client: neither head nor body is written.
    pub fn nobody() -> Self {
        Self::with(Downstream::Nobody, Output::nothing(), true)
    }

    #[inline]
    fn with(downstream: Downstream<'a>, output: Output, is_within: bool) -> Self {
        Self {
            downstream,
            output,
            filters: None,
            is_within,
            has_started: false,
            is_held: false,
            holds: false,
        }
    }

    /// For a subrequest that runs ahead of its turn.
    pub fn ahead(sink: Sink) -> Self {
        Self { output: Output::ahead(sink), ..Self::nobody() }
    }

    /// Continues after a subrequest has been answered into this body.
    pub fn resume(&mut self, mut inner: Self) {
        self.output = std::mem::take(&mut inner.output);
    }

    /// The body that [`Client::memory`] has kept.
    pub fn take_memory(&mut self) -> Vec<u8> {
        self.output.take_memory()
    }

    /// The client's connection; for relays that move bytes inside the kernel, after [`Client::flush`].
    pub fn downstream(&self) -> Downstream<'a> {
        self.downstream
    }

    /// True if it is that of a client's own request.
    pub fn is_outermost(&self) -> bool {
        !self.is_within
    }

    /// True if a response head has been made: no other status can be sent.
    pub fn has_started(&self) -> bool {
        self.has_started
    }

    /// Ends the response here; the rest is missing, and the connection must be closed.
    pub fn abandon(&mut self) {
        self.filters = None;
        self.output.abandon();
    }

    /// Runs the head filters, decides the framing and makes the head, which is sent with the first bytes of
    /// the body.
    ///
    /// Without `content_length` the body is chunked or, for HTTP/1.0, ends with the connection. An error page
    /// is sent with the status of the error.
    pub fn start(&mut self, request: &mut Request, mut response: Response) {
        if let Some(status) = request.error_page.status.filter(|&status| status != response.status) {
            response.status = status;
            response.reason.clear();
        }
        request.response = response;
        request.restore_kept();
        request.proxied.add_cookies(&mut request.response.headers);
        modules::run_heads(request);
        if request.response.is_current {
            request.response.leave_out_body();
        }
        self.filters = request.filters.take();
        if self.filters.is_some() && self.hold() {
            return; // the head waits for a change to the whole
        }
        self.begin(request);
    }

    /// Gives the body to a change that needs it as a whole. False: there is none.
    #[cold]
    fn hold(&mut self) -> bool {
        let whole = self.filters.as_deref_mut().and_then(Filters::take_whole);
        self.is_held = whole.is_some_and(|whole| self.output.hold(whole));
        self.is_held
    }

    /// Decides the framing and makes the head.
    #[inline]
    fn begin(&mut self, request: &mut Request) {
        self.has_started = true;
        request.answered_us = Some(runtime::now_us());
        if self.is_within {
            self.output.bound_memory(|| request.location.confs.http_core.subrequest_output_buffer_size());
            return;
        }
        // The worker may have been told to leave while the response was awaited (tests:
        // a_late_answer_after_quit_ends_the_connection).
        request.keep_alive &= drain::mode() < drain::Mode::Close;
        if request.method == Method::Head || request.response.is_bodiless() {
            (self.filters, request.coding) = (None, None); // their output would be discarded
        }
        let terms = terms(request);
        let started = self.output.start(&mut request.response, terms);
        (request.keep_alive, request.head_bytes_sent) = (started.keep_alive, started.head_bytes);
        if let Some(coding) = request.coding.take() {
            self.output.set_coding(coding);
        }
        if let Some(pace) = limit_rate::pace(request) {
            self.output.set_pace(pace, started.head_bytes);
        }
    }

    /// Sends the 101 head of an upgrade, made by the caller; afterwards the connection is a tunnel.
    pub fn start_tunnel(&mut self, request: &mut Request, response: Response) {
        request.response = response;
        request.proxied.add_cookies(&mut request.response.headers);
        modules::run_heads(request);
        self.has_started = true;
        let started = self.output.start_tunnel(&request.response, &terms(request));
        request.head_bytes_sent = started.head_bytes;
    }

    /// How many more body bytes may bypass [`Client::write`]; `None`: they must be framed or changed, or
    /// another process may own the socket too.
    pub fn raw_room(&self) -> Option<u64> {
        self.downstream.raw().filter(|_| self.filters.is_none()).and_then(|_| self.output.raw_room())
    }

    /// True if the body is changed on its way, or other responses become part of it.
    pub fn has_filters(&self) -> bool {
        self.filters.is_some()
    }

    /// False if no body follows the head: written bytes are dropped.
    pub fn wants_body(&self) -> bool {
        self.filters.is_some() || self.output.wants_body()
    }

    /// Counts body bytes that a relay moved to the socket itself.
    pub fn moved(&mut self, request: &mut Request, count: u64) {
        self.output.moved(count);
        request.bytes_sent += count;
    }

    /// How many bytes a relay may move now; waits for `limit_rate`. Needed only if [`Client::is_paced`].
    pub async fn pace(&mut self) -> Result<u64, Error> {
        self.output.pace(self.downstream).await
    }

    pub fn is_paced(&self) -> bool {
        self.output.is_paced()
    }

    /// Sends body bytes, after a pending head, in one system call if the socket takes it.
    ///
    /// Waits until the socket has taken everything. Errors: 499 if the client has gone, 408 if it read
    /// nothing for `send_timeout`.
    pub fn write<'b>(
        &'b mut self,
        request: &'b mut Request,
        data: &'b [u8],
    ) -> impl Future<Output = Result<(), Error>> + use<'a, 'b> {
        self.write_ahead(request, data, 0)
    }

    /// Like [`Client::write`], but up to `ahead` bytes that the socket does not take yet stay here; they are
    /// sent with the next ones, or by [`Client::poll_flush`].
    pub fn write_ahead<'b>(
        &'b mut self,
        request: &'b mut Request,
        data: &'b [u8],
        ahead: usize,
    ) -> impl Future<Output = Result<(), Error>> + use<'a, 'b> {
        let is_plain = self.filters.is_none() && !self.output.is_special();
        let (data, tail) = if is_plain { self.output.frame(data) } else { (data, &b""[..]) };
        self.send(request, data, tail, is_plain, ahead)
    }

    /// Bytes that wait for the socket.
    pub fn pending(&self) -> usize {
        self.output.pending_count()
    }

    /// Sends pending bytes; ready when none are left. Errors: as for [`Client::write`].
    pub fn poll_flush(&mut self, cx: &mut Context<'_>, request: &mut Request) -> Poll<Result<(), Error>> {
        self.output.poll_flush(self.downstream, cx, &mut request.bytes_sent)
    }

    /// Sends the head if it is pending.
    pub fn flush<'b>(
        &'b mut self,
        request: &'b mut Request,
    ) -> impl Future<Output = Result<(), Error>> + use<'a, 'b> {
        self.send(request, b"", b"", true, 0)
    }

    /// Ends the body. A body shorter than its declared length ends the connection: the client must see the cut.
    pub async fn finish(&mut self, request: &mut Request) -> Result<(), Error> {
        if self.filters.is_some() || self.output.is_coded() {
            Box::pin(self.end_changed(request)).await?;
        }
        let is_whole = if self.is_within {
            true
        } else {
            if self.output.takes_trailers() && request.response.has_trailers {
                for act in modules::TRAILER_STEPS {
                    act(request);
                }
            }
            self.output.end(&request.response.trailers)
        };
        request.keep_alive &= is_whole;
        // Usually the last bytes of the body have been sent, and the head with them.
        if self.output.pending_count() > 0 || !self.downstream.is_flushed() {
            self.send(request, b"", b"", true, 0).await?;
        }
        request.is_complete = is_whole;
        Ok(())
    }

    /// Ends what filters, a coding or a change to the whole have got.
    async fn end_changed(&mut self, request: &mut Request) -> Result<(), Error> {
        self.write_changed(request, b"", Signal::End).await?;
        if !self.is_held {
            return Ok(());
        }
        let body = self.output.finish_held(request, self.downstream).await?;
        self.output.take_held();
        self.begin_later(request);
        self.write_changed(request, &body, Signal::End).await
    }

    /// Makes the head that has waited for a change to the whole: the steps of the modules behind that, then the rest.
    fn begin_later(&mut self, request: &mut Request) {
        self.is_held = false;
        modules::run_later_heads(request);
        self.filters = request.filters.take();
        self.begin(request);
    }

    /// Makes the head as soon as the change to the whole needs no more of the body, which passes through further filters
    /// then.
    #[cold]
    async fn pass_held(&mut self, request: &mut Request, filters: &mut Filters) -> Result<(), Error> {
        let Some(mut whole) = self.output.take_held() else { return Ok(()) };
        let body = whole.begin(request);
        self.begin_later(request);
        Box::pin(self.write_changed(request, &body, Signal::More)).await?;
        if let Some(later) = self.filters.take() {
            filters.append(*later);
        }
        Ok(())
    }

    /// True if the head waits for a change to the whole.
    pub fn is_held(&self) -> bool {
        self.is_held
    }

    /// After an error: gives up a change to the whole, so that there can be another response. Returns that of the change,
    /// if it was its own error.
    #[cold]
    pub fn withdraw(&mut self, request: &mut Request) -> Option<Reply> {
        // The output of a subrequest may be held by the request around it.
        if !std::mem::take(&mut self.is_held) {
            return None;
        }
        self.filters = None;
        self.output.take_held()?.instead(request)
    }

    fn send<'b>(
        &'b mut self,
        request: &'b mut Request,
        mut data: &'b [u8],
        mut tail: &'static [u8],
        is_plain: bool,
        ahead: usize,
    ) -> impl Future<Output = Result<(), Error>> + use<'a, 'b> {
        if is_plain && self.output.join(data, tail) {
            (data, tail) = (b"", b"");
        }
        self.transmit(request, data, tail, is_plain, ahead)
    }

    async fn transmit(
        &mut self,
        request: &mut Request,
        data: &[u8],
        tail: &'static [u8],
        is_plain: bool,
        ahead: usize,
    ) -> Result<(), Error> {
        if !is_plain {
            return Box::pin(self.write_changed(request, data, Signal::More)).await;
        }
        if self.output.owes_head() {
            Box::pin(self.output.pace_head(self.downstream, &mut request.bytes_sent)).await?;
        }
        let mut done = 0;
        let count = self.output.pending_bytes() + data.len() + tail.len();
        let bytes_sent = request.bytes_sent + count as u64;
        // It may have been counted: the transport had taken everything, and held some of it back.
        let is_last = self.output.is_last() && !request.is_subrequest() && !request.is_counted;
        let outcome = poll_fn(|cx| {
            if is_last {
                counters::count_ahead(request, bytes_sent);
            }
            let sent = self.output.poll_send(self.downstream, cx, (data, tail), ahead, &mut done);
            if is_last && !(done == count && matches!(sent, Poll::Ready(Ok(())))) {
                counters::take_back(request, bytes_sent);
            }
            sent
        })
        .await;
        self.output.settle(done, data, tail);
        request.bytes_sent = self.downstream.advance(request.bytes_sent, done);
        outcome
    }

    /// True if the filters and the coding should release held-back bytes in a pause.
    pub fn holds(&self) -> bool {
        self.holds || self.output.holds()
    }

    /// Releases as many held-back bytes as possible.
    pub async fn let_go(&mut self, request: &mut Request) -> Result<(), Error> {
        self.write_changed(request, b"", Signal::Flush).await
    }

    /// Sends the output of the filters for `data`, piece by piece, at the allowed pace.
    async fn write_changed(
        &mut self,
        request: &mut Request,
        data: &[u8],
        signal: Signal,
    ) -> Result<(), Error> {
        // the end of a subrequest is not that of the response
        let outer = if signal == Signal::End && self.is_within { Signal::More } else { signal };
        let Some(mut filters) = self.filters.take() else {
            return self.output.emit(self.downstream, data, outer, &mut request.bytes_sent).await;
        };
        self.holds = signal == Signal::More;
        let plain = if self.output.is_coded() { Signal::More } else { outer };
        let mut rest = data;
        loop {
            // In steps: a filter processes its whole input in one go.
            let (step, later) = rest.split_at(rest.len().min(FILTER_STEP_BYTES));
            rest = later;
            let (signal, plain) =
                if rest.is_empty() { (signal, plain) } else { (Signal::More, Signal::More) };
            let pieces = filters.push(request, step, signal)?;
            runtime::worked(filters.work(step.len().max(bytes_of(&pieces)))).await;
            self.carry_out(request, &mut filters, pieces, plain).await?;
            if self.is_held && self.output.is_ready() {
                Box::pin(self.pass_held(request, &mut filters)).await?;
            }
            if rest.is_empty() {
                break;
            }
        }
        if self.output.is_coded() && outer != Signal::More {
            self.output.emit(self.downstream, b"", outer, &mut request.bytes_sent).await?;
        }
        if signal != Signal::End {
            self.filters = Some(filters);
        }
        Ok(())
    }

    /// Sends the output of the filters, and what they produce after waiting for it.
    async fn carry_out(
        &mut self,
        request: &mut Request,
        filters: &mut Filters,
        mut pieces: Vec<Piece>,
        signal: Signal,
    ) -> Result<(), Error> {
        loop {
            let mut begun = nesting::begin_others(request, &pieces).into_iter();
            for piece in pieces {
                match piece {
                    Piece::Bytes(bytes) => {
                        runtime::worked(PIECE_WORK).await;
                        self.output.emit(self.downstream, &bytes, signal, &mut request.bytes_sent).await?;
                    }
                    Piece::Subrequest(subrequest) => {
                        // A subrequest that is answered from memory does no I/O that would yield.
                        runtime::worked(SUBREQUEST_WORK).await;
                        if self.downstream.is_gone() {
                            return Err(Error::left());
                        }
                        match begun.next().flatten() {
                            Some(source) => {
                                while let Some(bytes) = source.read(self.downstream).await? {
                                    self.output
                                        .emit(self.downstream, &bytes, signal, &mut request.bytes_sent)
                                        .await?;
                                }
                            }
                            None => nesting::run(request, self, subrequest).await?,
                        }
                    }
                }
            }
            if !filters.waits() {
                return Ok(());
            }
            pieces = filters.push(request, b"", Signal::More)?;
            runtime::worked(filters.work(bytes_of(&pieces))).await;
        }
    }
}

/// Settings and facts, besides the response itself, that determine a response head.
fn terms(request: &Request) -> Terms {
    let core = &request.location.confs.http_core;
    Terms {
        is_head: request.method == Method::Head,
        may_chunk: request.version() >= Version::Http11 && core.chunked_transfer_encoding(),
        keep_alive: request.keep_alive,
        tells_version: core.server_tokens(),
        keepalive_seconds: core.keepalive_header(),
        timeout_ms: core.send_timeout_ms(),
        frame_bytes: request.location.confs.http2.chunk_size(),
    }
}

fn bytes_of(pieces: &[Piece]) -> usize {
    pieces.iter().map(|piece| if let Piece::Bytes(bytes) = piece { bytes.len() } else { 0 }).sum()
}

#[cfg(test)]
mod tests;
