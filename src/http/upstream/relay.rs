//! Relays the body of a proxied response to the client, and starts the tunnel after a 101.
//!
//! Touches: both sockets. Memory is one buffer while bytes are being processed, none while the upstream
//! pauses, and at most `proxy_buffers` for a client that reads slowly: then reading from the upstream stops.
//! Data that has arrived is sent at once. A body that the upstream cuts off never looks complete to the
//! client (RFC 9112 §8).

use std::borrow::Cow;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use crate::http::client::Client;
use crate::http::modules::counters;
use crate::http::request::Request;
use crate::http::request::body::DECODED_BYTES;
use crate::http::request::error::{Call, During, Error, Kind, Limit, Side};
use crate::http::response::Response;
use crate::http::response::body_file::Spill;
use crate::http::upstream::Pass;
use crate::http::upstream::cache::Fill;
use crate::http::upstream::carrier::Carrier;
use crate::http::upstream::codec::{Decoder, Pieces};
use crate::http::upstream::exchange::{Answer, Stop, Wait};
use crate::http::upstream::proxied::Head;
use crate::http::upstream::store::{self, Store};
use crate::http::upstream::switched::Switched;
use crate::http::upstream::{h1, notes};
use crate::log;
use crate::net::pace::Pace;
use crate::net::transport::{Probe, Raw};
use crate::proto::head::ResponseHead;
use crate::proto::header::Id;
use crate::runtime::buffer::Buffer;
use crate::runtime::{self, Either, Io, Timer, race, relay};
use crate::shared::connection::Connected;
use crate::upstream::trace::Action;

/// A remaining body of at least this length is moved inside the kernel, or read into the client's records.
const SPLICE_BYTES_MIN: u64 = 64 * 1024;

/// Size of a read.
const READ_BYTES: usize = 16 * 1024;
/// The same for a client with TLS once that was not enough: four records, their overhead included, leave in one
/// write, where a plain client's bytes would be spliced.
const LONG_READ_BYTES: usize = 65_280;

impl<'c> Pass<'_, 'c> {
    /// Relays the body of a response whose head is about to be sent to the client, then keeps the connection
    /// if possible.
    pub(super) async fn relay(&mut self, answer: Answer) -> Result<(), Error> {
        let mut pieces = Pieces::new();
        let Begun { head, head_length, rest } = self.begin_relay(answer, &mut pieces)?;
        let data = head.buffer.data().get(head_length..).unwrap_or(b"");
        let Some((mut stream, used)) = rest else {
            self.has_arrived();
            let data = joined(data, &pieces);
            if let Some(fill) = self.take_fill() {
                Box::pin(self.store_whole(fill, &data)).await;
            }
            // Pinned where it is made: the future of a whole response is not copied.
            return pin!(self.write(&data, 0)).await;
        };
        if let Some(mut fill) = self.take_fill() {
            fill.append(self.request, &joined(data, &pieces)).await;
            stream.fill = Some(fill);
        }
        let written = self.write(&joined(data, &pieces), stream.ahead).await;
        stream.client_is_lost(written)?;
        if self.request.is_subrequest() && !self.client.wants_body() && stream.fill.is_none() {
            return Ok(()); // the response of a mirror is not awaited
        }
        if store::is_wanted(self.request, head.head.status) {
            Box::pin(stream.store(self.request, data, &pieces)).await;
        }
        stream.buffer = keep(data.get(used..).unwrap_or(b""));
        shrink(self.request, head, head_length);
        // Boxed: few responses arrive in pieces, and all would carry the space for it.
        Box::pin(stream.relay(self)).await?;
        let Stream { carrier, buffer, ahead, spill, taps, mut fill, lost, .. } = *stream;
        if buffer.is_none() && self.outgoing.is_done() {
            carrier.keep(&self.goal.group, self.outgoing.has_body());
        }
        for tap in taps {
            Box::pin(tap.complete(self.request)).await;
        }
        if let (Some(fill), Some(course)) = (&mut fill, &self.course) {
            Box::pin(fill.complete(self.request, course)).await;
        }
        if let Some(error) = lost {
            return Err(error);
        }
        if let Some(mut spill) = spill {
            Box::pin(self.drain(&mut spill, ahead)).await?;
        }
        if let Some(fill) = fill.as_mut().filter(|fill| fill.is_read()) {
            Box::pin(self.drain_fill(fill, ahead)).await?;
        }
        Ok(())
    }

    /// Decodes the part of a body that has arrived already: its pieces after the head.
    fn begin_relay(&mut self, answer: Answer, pieces: &mut Pieces) -> Result<Begun, Error> {
        let Answer { mut carrier, head, head_length } = answer;
        let request = &mut *self.request;
        let data = head.buffer.data().get(head_length..).unwrap_or(b"");
        let used = decode(carrier.decoder(), data, pieces, request)?;
        if carrier.decoder().is_done() && !store::is_wanted(request, head.head.status) {
            // the whole response has arrived: the connection is free before the client has got it
            if used == data.len() && self.outgoing.is_done() {
                carrier.keep(&self.goal.group, self.outgoing.has_body());
            }
            return Ok(Begun { head, head_length, rest: None });
        }
        let conf = request.passes();
        let mut pace = conf.pace(request);
        if let Some(pace) = &mut pace {
            pace.pass(data.len() as u64);
        }
        let is_ahead = request.proxied.buffering.unwrap_or(conf.is_buffering());
        let ahead = if is_ahead { conf.buffer_bytes() } else { 0 };
        let spill = conf.temp_path().filter(|_| ahead > 0 && conf.temp_file_bytes_max() > 0);
        let spill = spill.map(|place| Spill::new(place, conf.temp_file_bytes_max()));
        let (wait, taps, pause) = (Wait::new(conf, Timer::new()), Vec::new(), Timer::new());
        let stream = Box::new(Stream {
            carrier,
            buffer: None,
            wait,
            read_bytes: READ_BYTES,
            ahead,
            pace,
            spill,
            taps,
            fill: None,
            lost: None,
            pause,
            read_ms: runtime::now_ms(),
            drip: Drip::default(),
        });
        Ok(Begun { head, head_length, rest: Some((stream, used)) })
    }

    fn take_fill(&mut self) -> Option<Box<Fill>> {
        self.course.as_mut().and_then(|course| course.fill.take())
    }

    /// Stores a response that has arrived completely, before its client gets it: its next request may be for the same.
    async fn store_whole(&mut self, mut fill: Box<Fill>, data: &[u8]) {
        fill.append(self.request, data).await;
        if let Some(course) = &self.course {
            fill.complete(self.request, course).await;
        }
    }

    /// The last bytes of the response have arrived, and the client does not have them yet: the peer's turn is counted, and
    /// a session learned, before the client can know.
    fn has_arrived(&mut self) {
        self.request.upstream.end();
        if let Some(binding) = &mut self.binding {
            binding.ended(self.request);
        }
    }

    /// Counts a failure of the server that sends this body.
    #[cold]
    fn tell_drip(&mut self, drip: &Drip) {
        let (request, seconds) = (&*self.request, drip.waited_ms / 1000);
        log::warn!(
            request.error_log(),
            request,
            "upstream sent {} bytes of its response in {seconds} s, which counts as a failure",
            drip.bytes
        );
        self.note_failure();
    }

    /// Sends bytes of a body. Not `async`: its future would be moved twice.
    fn write<'b>(
        &'b mut self,
        data: &'b [u8],
        ahead: usize,
    ) -> impl Future<Output = Result<(), Error>> + use<'b, 'c> {
        self.request.upstream.last().length += data.len() as u64;
        self.client.write_ahead(self.request, data, ahead)
    }

    /// Sends what waits on disk.
    async fn drain(&mut self, spill: &mut Spill, ahead: usize) -> Result<(), Error> {
        while !spill.is_empty() {
            let data = spill.next().await.map_err(Error::ours)?;
            self.client.write_ahead(self.request, &data, ahead).await?;
        }
        Ok(())
    }

    /// Sends what the client has not got yet of a response that is being stored.
    async fn drain_fill(&mut self, fill: &mut Fill, ahead: usize) -> Result<(), Error> {
        while fill.is_read() {
            let data = fill.next().await.map_err(Error::ours)?;
            self.client.write_ahead(self.request, &data, ahead).await?;
        }
        Ok(())
    }

    /// Sends the 101 and the data that has arrived in both directions; the tunnel itself runs after the
    /// request's memory has been freed (`http/tunnel.rs`).
    pub(super) async fn begin_tunnel(&mut self, response: Response, answer: Answer) -> Result<(), Error> {
        let Answer { carrier, head, head_length } = answer;
        let request = &mut *self.request;
        let Some(transport) = carrier.transport() else {
            return Err(Error::upstream(Kind::UnaskedSwitch)); // no stream has a response with 101
        };
        self.client.start_tunnel(request, response);
        let early = head.buffer.data().get(head_length..).unwrap_or(b"");
        self.client.write(request, early).await?;
        if let Some(rest) = request.body.take_rest() {
            let written =
                runtime::timeout(request.passes().send_timeout_ms(), transport.write_all(rest.data()));
            match written.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(Error::upstream(Kind::Failed(Call::Send, error))),
                Err(_) => return Err(Error::upstream(Kind::TimedOut)),
            }
        }
        request.upstream.last().received += early.len() as u64;
        shrink(request, head, head_length);
        if let Some((transport, place)) = carrier.into_tunnel() {
            let group = Some(Rc::clone(&self.goal.group));
            let used = self.session.take_connection();
            request.proxied.set_tunnel(Switched { transport, place, used, group });
        }
        Ok(())
    }
}

/// The part of a response that has arrived with its head.
struct Begun {
    head: Rc<Head>,
    head_length: usize,
    /// The carrier of the rest, and how many bytes after the head have been processed; `None` if that is all.
    rest: Option<(Box<Stream>, usize)>,
}

/// Finds the pieces of a body in the bytes that have arrived, and keeps trailers. Returns how many bytes have
/// been processed.
fn decode(
    decoder: &mut Decoder,
    data: &[u8],
    pieces: &mut Pieces,
    request: &mut Request,
) -> Result<usize, Error> {
    if decoder.is_framed() {
        runtime::charge((data.len() / DECODED_BYTES) as u32);
    }
    let mut trailers = Vec::new();
    let decoded = decoder.body(data, pieces, &mut trailers);
    if let Some(notes) = decoder.notes(decoded.is_err()) {
        // the response has begun: an error that the application reports now changes nothing
        let _ = notes::tell(request, &notes);
    }
    let used = decoded.map_err(Error::upstream)?;
    pass_trailers(request, trailers);
    Ok(used)
}

/// Fields that must not occur in trailers: framing, routing and hop-by-hop fields (RFC 9110 §6.5.1).
const NO_TRAILERS: &[Id] = &[
    Id::Connection,
    Id::ContentEncoding,
    Id::ContentLength,
    Id::ContentRange,
    Id::ContentType,
    Id::Host,
    Id::KeepAlive,
    Id::ProxyConnection,
    Id::Te,
    Id::Trailer,
    Id::TransferEncoding,
    Id::Upgrade,
];

/// Keeps the trailers of a response for variables and, with `proxy_pass_trailers`, for the client.
fn pass_trailers(request: &mut Request, lines: Vec<u8>) {
    if lines.is_empty() {
        return;
    }
    let conf = request.passes();
    if request.response.has_trailers && conf.pass_trailers() {
        let head = request.proxied.head();
        let keeps = |name: &[u8]| {
            let id = Id::of(name);
            let ends_here = id.is_some_and(|id| NO_TRAILERS.contains(&id))
                || head.is_some_and(|kept| kept.head.connection.ends_name(name, kept.buffer.data()));
            !ends_here && !conf.hides(id, name)
        };
        h1::pass_trailers(&lines, keeps, &mut request.response.trailers);
    }
    request.proxied.trailers = lines;
}

/// Incomplete framing, to which the next read is appended.
fn keep(left: &[u8]) -> Option<Buffer> {
    (!left.is_empty()).then(|| {
        let mut buffer = Buffer::take(READ_BYTES);
        buffer.extend(left);
        buffer
    })
}

/// During a long response only the part of the head that variables may need is kept, not the whole buffer.
fn shrink(request: &mut Request, head: Rc<Head>, head_length: usize) {
    let mut buffer = Buffer::take(head_length);
    buffer.extend(head.buffer.data().get(..head_length).unwrap_or(b""));
    let fields: ResponseHead = head.head.clone();
    request.proxied.set_head(Rc::new(Head { buffer, head: fields }));
}

/// The pieces as one, so that they take one write: a single one in place, several copied.
fn joined<'a>(data: &'a [u8], pieces: &Pieces) -> Cow<'a, [u8]> {
    match pieces.as_slice() {
        [] => Cow::Borrowed(b""),
        [piece] => Cow::Borrowed(&data[piece.clone()]),
        several => {
            let mut joined = Vec::with_capacity(data.len());
            several.iter().for_each(|piece| joined.extend_from_slice(&data[piece.clone()]));
            Cow::Owned(joined)
        }
    }
}

/// A body that did not arrive completely with its head.
struct Stream {
    carrier: Carrier,
    /// `None` while no bytes are being processed.
    buffer: Option<Buffer>,
    wait: Wait,
    /// Maximum bytes of the next read.
    read_bytes: usize,
    /// Maximum bytes that may wait for a slower client.
    ahead: usize,
    /// `proxy_limit_rate`.
    pace: Option<Pace>,
    /// `proxy_max_temp_file_size`.
    spill: Option<Spill>,
    /// The taps, which get copies of the body.
    taps: Vec<Tap>,
    /// The response on its way into the cache; its file also serves a slow client.
    fill: Option<Box<Fill>>,
    /// The error of a client that has left: the response is stored all the same.
    lost: Option<Error>,
    /// Runs while the upstream pauses and something is held back.
    pause: Timer,
    /// The time of the last read, or of the head.
    read_ms: u64,
    drip: Drip,
}

/// The rate in bytes a second below which a body of known length drips: its server counts as failed, although no
/// read has timed out. The client gets the response nevertheless.
const DRIP_BYTES_PER_S: u64 = 100;

/// How fast a body of known length has arrived, in the time that was spent waiting for it.
#[derive(Debug, Default)]
struct Drip {
    waited_ms: u64,
    bytes: u64,
    /// It has just been found to drip.
    has_begun: bool,
    is_told: bool,
}

impl Drip {
    /// `read_timeout_ms` is the time that it must have dripped for.
    fn count(&mut self, waited_ms: u64, bytes: u64, read_timeout_ms: u64) {
        self.waited_ms += waited_ms;
        self.bytes += bytes;
        let is_dripping =
            self.waited_ms >= read_timeout_ms && self.bytes < self.waited_ms * DRIP_BYTES_PER_S / 1000;
        self.has_begun = is_dripping && !std::mem::replace(&mut self.is_told, true);
    }
}

/// A copy of a body on its way to the client. A tap can delay the body only for the time of its own writing,
/// and cannot end it.
///
/// The file that waits for a slow client (`Spill`) is not a tap: bytes go there instead of to the client. Nor
/// is the pause of codings, which is a matter of time.
enum Tap {
    /// `proxy_store`.
    Store(Store),
}

impl Tap {
    async fn append(&mut self, request: &Request, data: &[u8]) {
        match self {
            Self::Store(store) => store.append(request, data).await,
        }
    }

    /// The body is complete.
    async fn complete(self, request: &Request) {
        match self {
            Self::Store(store) => store.complete(request).await,
        }
    }
}

/// The pause of the upstream after which filters must release held bytes; data that arrives together is not
/// split.
const PAUSE_MS: u64 = 2;

impl Stream {
    /// Starts to store the response in a file.
    async fn store(&mut self, request: &mut Request, data: &[u8], pieces: &Pieces) {
        if let Some(mut store) = Store::begin(request).await {
            store.append(request, &joined(data, pieces)).await;
            self.taps.push(Tap::Store(store));
        }
    }

    /// Notes the error of a client that has left while its response is being stored. Errors: any other one.
    fn client_is_lost(&mut self, outcome: Result<(), Error>) -> Result<(), Error> {
        match outcome {
            Err(error) if error.side == Side::Client && self.fill.is_some() => {
                self.lost = Some(error);
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// Relays the rest of the body.
    async fn relay(&mut self, pass: &mut Pass<'_, '_>) -> Result<(), Error> {
        let mut pieces = Pieces::new();
        pass.request.upstream.action = Some(Action::ReadingBody);
        while !self.carrier.decoder().is_done() {
            if let Some(kind) = self.carrier.decoder().broken() {
                return Err(Error::upstream(kind));
            }
            if let Some((left, sockets)) = self.spliceable(pass) {
                self.note_held(pass);
                splice(pass, sockets, left).await?;
                self.carrier.decoder().moved(left);
                return Ok(());
            }
            let count = self.read(pass).await?;
            if count == 0 {
                return self.end(pass.request);
            }
            pass.request.upstream.last().received += count as u64;
            if std::mem::take(&mut self.drip.has_begun) {
                pass.tell_drip(&self.drip);
            }
            let Some(mut buffer) = self.buffer.take() else { continue };
            let used = decode(self.carrier.decoder(), buffer.data(), &mut pieces, pass.request)?;
            if self.carrier.decoder().is_done() {
                pass.has_arrived();
            }
            if !self.taps.is_empty() || self.spill.is_some() || self.fill.is_some() {
                Box::pin(self.pass_on(pass, buffer.data(), &pieces)).await?;
            } else if !pieces.is_empty() {
                pass.write(&joined(buffer.data(), &pieces), self.ahead).await?;
            }
            buffer.consume(used);
            if buffer.data().is_empty() {
                continue;
            }
            if !self.carrier.decoder().is_done() {
                buffer.compact();
                if buffer.space().is_empty() {
                    return Err(Error::upstream(Kind::LongChunks));
                }
            }
            self.buffer = Some(buffer);
        }
        Ok(())
    }

    /// Passes pieces on if they also go to a file, or wait in one.
    async fn pass_on(&mut self, pass: &mut Pass<'_, '_>, data: &[u8], pieces: &Pieces) -> Result<(), Error> {
        // Joined: each write to a file is a job for another thread, and pieces may be single bytes.
        let data = &*joined(data, pieces);
        if data.is_empty() {
            return Ok(());
        }
        for tap in &mut self.taps {
            tap.append(pass.request, data).await;
        }
        pass.request.upstream.last().length += data.len() as u64;
        if self.fill.is_some() {
            return self.store_and_pass_on(pass, data).await;
        }
        if let Some(spill) = &mut self.spill {
            let waits = !spill.is_empty() || pass.client.pending() + data.len() > self.ahead;
            if waits && spill.append(pass.request, data).await {
                return Ok(());
            }
            pass.drain(spill, self.ahead).await?;
        }
        pass.client.write_ahead(pass.request, data, self.ahead).await
    }

    /// Stores a part of the body, the last one completely, and passes it on. A client that is too slow gets it from the
    /// file later: neither the upstream nor those who wait for the stored response wait for it.
    async fn store_and_pass_on(&mut self, pass: &mut Pass<'_, '_>, data: &[u8]) -> Result<(), Error> {
        let Some(mut fill) = self.fill.take() else { return Ok(()) };
        fill.append(pass.request, data).await;
        if let Some(course) = &mut pass.course {
            course.keep_lock(runtime::now_ms());
            if self.carrier.decoder().is_done() {
                fill.complete(pass.request, course).await;
            } else if fill.is_over() {
                course.is_storable = false; // the disk has failed: nothing is left to do without the client
                if let Some(error) = self.lost.take() {
                    return Err(error);
                }
            }
        }
        let is_lost = self.lost.is_some();
        let sent = if is_lost || fill.is_read() && !fill.is_over() {
            Ok(())
        } else if fill.is_read() {
            // the disk has failed, or the response is complete
            pass.drain_fill(&mut fill, self.ahead).await
        } else {
            let waits = pass.client.pending() + data.len() > self.ahead && !fill.is_over();
            match waits && fill.begin_read(pass.request, data.len()).await {
                true => Ok(()),
                false => pass.client.write_ahead(pass.request, data, self.ahead).await,
            }
        };
        self.fill = Some(fill);
        self.client_is_lost(sent)
    }

    /// True if data waits on disk and there is room for it in memory.
    fn may_refill(&self, client: &Client<'_>) -> bool {
        let has_spilled = self.spill.as_ref().is_some_and(|spill| !spill.is_empty())
            || self.lost.is_none() && self.fill.as_ref().is_some_and(|fill| fill.is_read());
        has_spilled && client.pending() <= self.ahead / 2
    }

    async fn refill(&mut self, pass: &mut Pass<'_, '_>) -> Result<(), Error> {
        if let Some(mut fill) = self.fill.take() {
            let data = fill.next().await.map_err(Error::ours);
            self.fill = Some(fill);
            let sent = pass.client.write_ahead(pass.request, &data?, self.ahead).await;
            return self.client_is_lost(sent);
        }
        let Some(spill) = &mut self.spill else { return Ok(()) };
        let data = spill.next().await.map_err(Error::ours)?;
        pass.client.write_ahead(pass.request, &data, self.ahead).await
    }

    /// The upstream closed its side: this ends a body without a length, and cuts off any other.
    fn end(&mut self, request: &mut Request) -> Result<(), Error> {
        let mut trailers = Vec::new();
        let closed = self.carrier.decoder().closed(&mut trailers);
        pass_trailers(request, trailers);
        closed.map_err(|kind| {
            request.keep_alive = false;
            Error::upstream(kind)
        })
    }

    /// Notes for how long nothing has been read, which is up to the client.
    fn note_held(&self, pass: &mut Pass<'_, '_>) {
        pass.request.upstream.last().note_held(runtime::now_ms().saturating_sub(self.read_ms));
    }

    async fn read(&mut self, pass: &mut Pass<'_, '_>) -> Result<usize, Error> {
        let left = self.carrier.decoder().raw_left();
        let asked_ms = runtime::now_ms();
        let mut limit = left.map_or(usize::MAX, |left| usize::try_from(left).unwrap_or(usize::MAX));
        if self.pace.is_some() {
            limit = limit.min(self.pause(pass).await?);
        }
        self.note_held(pass);
        loop {
            match poll_fn(|cx| self.poll_read(cx, pass, limit)).await {
                Ok(None) if self.may_refill(pass.client) => Box::pin(self.refill(pass)).await?,
                Ok(None) => Box::pin(pass.client.let_go(pass.request)).await?,
                Ok(Some(count)) => {
                    self.read_ms = runtime::now_ms();
                    if let Some(pace) = &mut self.pace {
                        pace.pass(count as u64);
                    } else if left.is_some() && pass.client.pending() == 0 {
                        let waited_ms = self.read_ms.saturating_sub(asked_ms);
                        self.drip.count(waited_ms, count as u64, pass.request.passes().read_timeout_ms());
                    }
                    return Ok(count);
                }
                Err(Stop::Request(error)) => return Err(error),
                Err(Stop::Peer(failure)) => return Err(Error::upstream(failure.kind)),
            }
        }
    }

    /// Sends what waits and reads what has arrived. Ready with `None` if data on disk, or held-back data, may
    /// be sent.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        pass: &mut Pass<'_, '_>,
        limit: usize,
    ) -> Poll<Result<Option<usize>, Stop>> {
        if self.lost.is_none()
            && let Poll::Ready(Err(error)) = pass.client.poll_flush(cx, pass.request)
            && let Err(error) = self.client_is_lost(Err(error))
        {
            return Poll::Ready(Err(Stop::Request(error)));
        }
        if self.may_refill(pass.client) {
            return Poll::Ready(Ok(None));
        }
        let wanted = self.read_bytes.min(limit);
        let polled = self.wait.poll(cx, pass, &self.carrier, &mut self.buffer, wanted);
        if let Poll::Ready(Ok(count)) = &polled {
            let is_encrypted = pass.request.connection.tls.is_some();
            self.read_bytes =
                if is_encrypted && *count == wanted { LONG_READ_BYTES } else { self.read_bytes };
        }
        if polled.is_ready() {
            self.pause.cancel();
        } else if self.lost.is_none() && pass.client.holds() {
            return self.poll_pause(cx);
        }
        polled.map_ok(Some)
    }

    /// Ready when the upstream has paused long enough to release held-back data.
    fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<usize>, Stop>> {
        if !self.pause.is_set() {
            self.pause.set(runtime::now_ms() + PAUSE_MS);
        }
        ready!(self.pause.poll_expired(cx));
        self.pause.cancel();
        Poll::Ready(Ok(None))
    }

    /// Waits until `proxy_limit_rate` allows a read, and returns how much; meanwhile sends what waits for the
    /// client.
    async fn pause(&mut self, pass: &mut Pass<'_, '_>) -> Result<usize, Error> {
        let Some(pace) = &self.pace else { return Ok(usize::MAX) };
        let mut timer = Timer::new();
        poll_fn(|cx| {
            if let Poll::Ready(Err(error)) = pass.client.poll_flush(cx, pass.request) {
                return Poll::Ready(Err(error));
            }
            if pass.heeds_client() && pass.client.downstream().poll_gone(cx).is_ready() {
                return Poll::Ready(Err(Error::left()));
            }
            pace.poll_wait(cx, &mut timer).map(|count| Ok(usize::try_from(count).unwrap_or(usize::MAX)))
        })
        .await
    }

    /// How much may be moved without a copy, and between which sockets: a long remaining body of known length
    /// that needs no framing, while nothing is left to send to the upstream.
    fn spliceable<'s, 'c>(&'s self, pass: &Pass<'_, 'c>) -> Option<(u64, (&'s Io, Raw<'c>))> {
        let (left, source) = self.carrier.raw()?;
        let is_plain =
            self.pace.is_none() && self.spill.is_none() && self.taps.is_empty() && self.fill.is_none();
        let fits = left >= SPLICE_BYTES_MIN && self.buffer.is_none() && is_plain && pass.outgoing.is_done();
        if !fits || pass.client.raw_room().is_none_or(|room| room < left) {
            return None;
        }
        Some((left, (source, pass.client.downstream().raw()?)))
    }
}

/// Moves `left` bytes of a body from one connection to the other: inside the kernel, or into the client's records.
async fn splice(pass: &mut Pass<'_, '_>, (source, target): (&Io, Raw<'_>), left: u64) -> Result<(), Error> {
    pass.client.flush(pass.request).await?;
    let conf = pass.request.passes();
    let limits = relay::Limits {
        read_timeout_ms: conf.read_timeout_ms(),
        write_timeout_ms: pass.request.location.confs.http_core.send_timeout_ms(),
    };
    // notices that the client leaves even while the upstream pauses
    let downstream = pass.client.downstream();
    let gone = async {
        if conf.ignore_client_abort() {
            std::future::pending::<()>().await;
        }
        downstream.gone().await;
    };
    let mut gone = pin!(gone);
    let mut left = left;
    while left > 0 {
        let mut part = left;
        if pass.client.is_paced() {
            let asked_ms = runtime::now_ms();
            part = left.min(pass.client.pace().await?);
            pass.request.upstream.last().note_held(runtime::now_ms().saturating_sub(asked_ms));
        }
        let mut counting = Counting::new(pass, part, left);
        let moving = target.splice(source, part, &limits, |is_near| counting.at_end(is_near));
        let (count, error) = match race(moving, gone.as_mut()).await {
            Either::First(Ok(count)) => (count, None),
            Either::First(Err(error)) => (error.moved, Some(relay_error(error))),
            Either::Second(()) => (0, Some(Error::left())),
        };
        left -= count;
        counting.end(count);
        if let Some(error) = error {
            pass.request.keep_alive = false;
            if error.side == Side::Upstream
                && let Some(info) = pass.request.probe().and_then(Probe::tcp_info)
            {
                pass.request.upstream.last().note_held(info.window_limited_us / 1000);
            }
            return Err(error);
        }
    }
    Ok(())
}

/// The counting of a part of a body that bypasses [`Client::write`].
///
/// A client that has its whole response must find it counted, in the numbers of its server and of the peer, even if this
/// worker is killed in the next moment.
struct Counting<'p, 'r, 'c> {
    pass: &'p mut Pass<'r, 'c>,
    part: u64,
    /// The body ends with this part.
    is_last: bool,
    /// So does the client's response, which has not been counted.
    ends_response: bool,
    /// The peer has sent the whole part.
    is_received: bool,
}

impl<'p, 'r, 'c> Counting<'p, 'r, 'c> {
    /// `left` is the length of the rest of the body.
    fn new(pass: &'p mut Pass<'r, 'c>, part: u64, left: u64) -> Self {
        let is_last = part == left;
        let is_countable = !pass.request.is_subrequest() && !pass.request.is_counted;
        let ends_response = is_last && is_countable && pass.client.raw_room() == Some(left);
        Self { pass, part, is_last, ends_response, is_received: false }
    }

    fn receive(&mut self, count: u64) {
        let attempt = self.pass.request.upstream.last();
        attempt.length += count;
        attempt.received += count;
    }

    /// Before the last bytes may be handed on, and after that failed; see [`relay::splice`].
    fn at_end(&mut self, is_near: bool) {
        if self.is_last && !std::mem::replace(&mut self.is_received, true) {
            self.receive(self.part);
            self.pass.has_arrived();
        }
        if self.ends_response {
            let bytes = self.pass.request.bytes_sent + self.part;
            match is_near {
                true => counters::count_ahead(self.pass.request, bytes),
                false => counters::take_back(self.pass.request, bytes),
            }
        }
    }

    /// After the transfer of `count` bytes.
    fn end(mut self, count: u64) {
        if !self.is_received {
            self.receive(count);
        }
        self.pass.client.moved(self.pass.request, count);
    }
}

fn relay_error(error: relay::RelayError) -> Error {
    use relay::{Cause, Side};
    match (error.side, error.cause) {
        (Side::Target, Cause::Io(cause)) => Error::gone(cause),
        (Side::Target, Cause::TimedOut) => Error::client_timed_out(During::SendResponse, Limit::SendTimeout),
        (_, Cause::Eof) => Error::upstream(Kind::Cut),
        (Side::Source, Cause::TimedOut) => Error::upstream(Kind::TimedOut),
        (Side::Source, Cause::Io(cause)) => Error::upstream(Kind::Failed(Call::Recv, cause)),
    }
}

#[cfg(test)]
mod tests;
