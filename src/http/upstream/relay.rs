//! The body of a proxied response on its way to the client, and the tunnel after a 101.
//!
//! Touches: both sockets. Memory is one buffer while bytes are in hand and none while the upstream pauses, and
//! what `proxy_buffers` allows for a client that reads slowly: then the reading from the upstream stops. What has
//! arrived is sent at once.
//! A body that the upstream cuts never looks complete to the client (RFC 9112 §8).

use std::borrow::Cow;
use std::future::poll_fn;
use std::ops::Range;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use smallvec::SmallVec;

use crate::http::client::Client;
use crate::http::request::Request;
use crate::http::request::body::DECODED_BYTES;
use crate::http::request::error::{Call, During, Error, Kind, Limit};
use crate::http::response::Response;
use crate::http::response::body_file::Spill;
use crate::http::upstream::exchange::{Answer, Stop, Wait};
use crate::http::upstream::outgoing::Outgoing;
use crate::http::upstream::proxied::Head;
use crate::http::upstream::store::{self, Store};
use crate::net::pace::Pace;
use crate::proto::h1::chunked::Decoder;
use crate::proto::h1::length::BodyLength;
use crate::proto::head::ResponseHead;
use crate::proto::header::Id;
use crate::runtime::buffer::Buffer;
use crate::runtime::{self, Either, Io, Timer, race, relay};
use crate::upstream::GroupState;
use crate::upstream::pool::Connection;
use crate::upstream::trace::Action;

/// A body of at least this much more is moved inside the kernel.
const SPLICE_BYTES_MIN: u64 = 64 * 1024;

/// Bytes read at once.
const READ_BYTES: usize = 16 * 1024;

/// How much of the body is still to come, and how its end is told.
#[derive(Debug)]
enum Framing {
    Length { left: u64 },
    Chunked(Box<Decoder>),
    UntilClose,
    Done,
}

/// The pieces of a body inside one buffer.
type Pieces = SmallVec<[Range<usize>; 4]>;

impl Framing {
    fn new(length: BodyLength) -> Self {
        match length {
            BodyLength::None | BodyLength::Length(0) => Self::Done,
            BodyLength::Length(left) => Self::Length { left },
            BodyLength::Chunked => Self::Chunked(Box::default()),
            BodyLength::UntilClose => Self::UntilClose,
        }
    }

    fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// Finds the body's pieces in `data`; returns how many bytes of it belong to the body and its framing.
    /// Trailers behind the body are left in `trailers`.
    fn take(&mut self, data: &[u8], pieces: &mut Pieces, trailers: &mut Vec<u8>) -> Result<usize, Error> {
        pieces.clear();
        match self {
            Self::Done => Ok(0),
            Self::UntilClose => {
                pieces.push(0..data.len());
                Ok(data.len())
            }
            Self::Length { left } => {
                let count = data.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= count as u64;
                if *left == 0 {
                    *self = Self::Done;
                }
                pieces.push(0..count);
                Ok(count)
            }
            Self::Chunked(decoder) => {
                runtime::charge((data.len() / DECODED_BYTES) as u32);
                let mut at = 0;
                loop {
                    let step = decoder
                        .decode(&data[at..])
                        .map_err(|error| Error::upstream(Kind::BadChunks(error.as_str())))?;
                    if let Some(piece) = step.data {
                        pieces.push(at + piece.start..at + piece.end);
                    }
                    at += step.consumed;
                    if step.done {
                        trailers.extend_from_slice(decoder.trailers());
                        *self = Self::Done;
                        return Ok(at);
                    }
                    if at == data.len() || step.consumed == 0 {
                        return Ok(at);
                    }
                }
            }
        }
    }
}

/// Relays the body of an answer whose head the client is about to get, then keeps the connection if it can.
pub async fn body(
    request: &mut Request,
    client: &mut Client<'_>,
    group: &GroupState,
    answer: Answer,
    length: BodyLength,
    outgoing: &mut Outgoing,
) -> Result<(), Error> {
    let (pieces, head, head_length, rest) = begin(request, group, answer, length, outgoing)?;
    let data = head.buffer.data().get(head_length..).unwrap_or(b"");
    let Some((mut stream, used, may_keep)) = rest else {
        return write(request, client, data, &pieces, 0).await;
    };
    write(request, client, data, &pieces, stream.ahead).await?;
    if request.is_subrequest() && !client.wants_body() {
        return Ok(()); // what a mirror answers is not waited for
    }
    if store::is_wanted(request, head.head.status) {
        Box::pin(stream.store(request, data, &pieces)).await;
    }
    stream.buffer = keep(data.get(used..).unwrap_or(b""));
    shrink(request, head, head_length);
    // Boxed: few responses come in pieces, and all would carry the room for it.
    Box::pin(stream.relay(request, client, outgoing)).await?;
    let Stream { connection, buffer, ahead, spill, store, .. } = *stream;
    if buffer.is_none() && may_keep && length != BodyLength::UntilClose && outgoing.is_done() {
        group.give(connection);
    }
    if let Some(mut spill) = spill {
        Box::pin(drain(&mut spill, request, client, ahead)).await?;
    }
    if let Some(store) = store {
        Box::pin(store.complete(request)).await;
    }
    Ok(())
}

/// Sends what waits on disk.
async fn drain(
    spill: &mut Spill,
    request: &mut Request,
    client: &mut Client<'_>,
    ahead: usize,
) -> Result<(), Error> {
    while !spill.is_empty() {
        let data = spill.next().await.map_err(Error::ours)?;
        client.write_ahead(request, &data, ahead).await?;
    }
    Ok(())
}

/// What is there already of a body: its pieces behind the head, and, unless that is all of it, the stream that
/// brings the rest, the bytes used, and whether the connection may be kept.
#[allow(clippy::type_complexity, reason = "taken apart by its one caller")]
fn begin(
    request: &mut Request,
    group: &GroupState,
    answer: Answer,
    length: BodyLength,
    outgoing: &Outgoing,
) -> Result<(Pieces, Rc<Head>, usize, Option<(Box<Stream>, usize, bool)>), Error> {
    let Answer { connection, head, head_length } = answer;
    let mut framing = Framing::new(length);
    let data = head.buffer.data().get(head_length..).unwrap_or(b"");
    let mut pieces = Pieces::new();
    let mut trailers = Vec::new();
    let used = framing.take(data, &mut pieces, &mut trailers)?;
    pass_trailers(request, trailers);
    let may_keep = head.head.keep_alive() && request.location.proxy.is_http11();
    if framing.is_done() && !store::is_wanted(request, head.head.status) {
        // the whole response is here: the connection is free before the client has it
        if used == data.len() && may_keep && outgoing.is_done() {
            group.give(connection);
        }
        return Ok((pieces, head, head_length, None));
    }
    let wait = Wait::new(request.passes(), Timer::new());
    let mut pace = request.passes().pace(request);
    if let Some(pace) = &mut pace {
        pace.pass(data.len() as u64);
    }
    let conf = request.passes();
    let ahead =
        if request.proxied.buffering.unwrap_or(conf.is_buffering()) { conf.buffer_bytes() } else { 0 };
    let spill = conf.temp_path().filter(|_| ahead > 0 && conf.temp_file_bytes_max() > 0);
    let spill = spill.map(|place| Spill::new(place, conf.temp_file_bytes_max()));
    let (store, pause) = (None, Timer::new());
    let stream =
        Box::new(Stream { connection, framing, buffer: None, wait, ahead, pace, spill, store, pause });
    Ok((pieces, head, head_length, Some((stream, used, may_keep))))
}

/// Fields that must not stand behind a body: they frame it, route it, or are between two hops (RFC 9110 §6.5.1).
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

/// Keeps the trailers of an answer for variables, and for the client where `proxy_pass_trailers` says so.
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
        Decoder::pass_trailers(&lines, keeps, &mut request.response.trailers);
    }
    request.proxied.trailers = lines;
}

/// Bytes of unfinished framing, for the next read to be appended to.
fn keep(left: &[u8]) -> Option<Buffer> {
    (!left.is_empty()).then(|| {
        let mut buffer = Buffer::take(READ_BYTES);
        buffer.extend(left);
        buffer
    })
}

/// A long response keeps of its head what variables may ask for, not the whole buffer.
fn shrink(request: &mut Request, head: Rc<Head>, head_length: usize) {
    let mut buffer = Buffer::take(head_length);
    buffer.extend(head.buffer.data().get(..head_length).unwrap_or(b""));
    let fields: ResponseHead = head.head.clone();
    request.proxied.set_head(Rc::new(Head { buffer, head: fields }));
}

/// Sends the pieces of a body: as they lie when there is one, else joined, so that it is one write.
async fn write(
    request: &mut Request,
    client: &mut Client<'_>,
    data: &[u8],
    pieces: &Pieces,
    ahead: usize,
) -> Result<(), Error> {
    let data = joined(data, pieces);
    request.upstream.last().length += data.len() as u64;
    client.write_ahead(request, &data, ahead).await
}

/// The pieces behind one another.
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

/// A body that did not come whole with its head.
struct Stream {
    connection: Connection,
    framing: Framing,
    /// `None` while nothing is in hand.
    buffer: Option<Buffer>,
    wait: Wait,
    /// Bytes that may wait for a slower client.
    ahead: usize,
    /// `proxy_limit_rate`.
    pace: Option<Pace>,
    /// `proxy_max_temp_file_size`.
    spill: Option<Spill>,
    /// `proxy_store`.
    store: Option<Store>,
    /// Set while the upstream pauses and something is held back on its way.
    pause: Timer,
}

/// A pause of the upstream after which what filters hold back is let go: what comes in one piece is not cut.
const PAUSE_MS: u64 = 2;

impl Stream {
    /// Begins to keep the answer in a file.
    async fn store(&mut self, request: &mut Request, data: &[u8], pieces: &Pieces) {
        self.store = Store::begin(request).await;
        if let Some(store) = &mut self.store {
            store.append(request, &joined(data, pieces)).await;
        }
    }

    /// Relays to the end.
    async fn relay(
        &mut self,
        request: &mut Request,
        client: &mut Client<'_>,
        outgoing: &mut Outgoing,
    ) -> Result<(), Error> {
        let mut pieces = Pieces::new();
        request.upstream.action = Some(Action::ReadingBody);
        while !self.framing.is_done() {
            if let Some((left, sockets)) = self.spliceable(client, outgoing) {
                splice(request, client, sockets, left).await?;
                self.framing = Framing::Done;
                return Ok(());
            }
            let count = self.read(request, client, outgoing).await?;
            if count == 0 {
                return self.end(request);
            }
            request.upstream.last().received += count as u64;
            let Some(mut buffer) = self.buffer.take() else { continue };
            let mut trailers = Vec::new();
            let used = self.framing.take(buffer.data(), &mut pieces, &mut trailers)?;
            pass_trailers(request, trailers);
            if self.store.is_some() || self.spill.is_some() {
                Box::pin(self.pass(request, client, buffer.data(), &pieces)).await?;
            } else if !pieces.is_empty() {
                write(request, client, buffer.data(), &pieces, self.ahead).await?;
            }
            buffer.consume(used);
            if buffer.data().is_empty() {
                continue;
            }
            if !self.framing.is_done() {
                buffer.compact();
                if buffer.space().is_empty() {
                    return Err(Error::upstream(Kind::LongChunks));
                }
            }
            self.buffer = Some(buffer);
        }
        Ok(())
    }

    /// Passes pieces on where they go to a file as well, or wait in one.
    async fn pass(
        &mut self,
        request: &mut Request,
        client: &mut Client<'_>,
        data: &[u8],
        pieces: &Pieces,
    ) -> Result<(), Error> {
        // Joined: each write to a file is a job for another thread, and pieces may be of one byte.
        let data = &*joined(data, pieces);
        if data.is_empty() {
            return Ok(());
        }
        if let Some(store) = &mut self.store {
            store.append(request, data).await;
        }
        request.upstream.last().length += data.len() as u64;
        if let Some(spill) = &mut self.spill {
            let waits = !spill.is_empty() || client.pending() + data.len() > self.ahead;
            if waits && spill.append(request, data).await {
                return Ok(());
            }
            drain(spill, request, client, self.ahead).await?;
        }
        client.write_ahead(request, data, self.ahead).await
    }

    /// Something waits on disk, and there is room for it in memory.
    fn may_refill(&self, client: &Client<'_>) -> bool {
        let has_spilled = self.spill.as_ref().is_some_and(|spill| !spill.is_empty());
        has_spilled && client.pending() <= self.ahead / 2
    }

    async fn refill(&mut self, request: &mut Request, client: &mut Client<'_>) -> Result<(), Error> {
        let Some(spill) = &mut self.spill else { return Ok(()) };
        let data = spill.next().await.map_err(Error::ours)?;
        client.write_ahead(request, &data, self.ahead).await
    }

    /// The upstream closed its side: the end of a body without a length, the cut of any other.
    fn end(&mut self, request: &mut Request) -> Result<(), Error> {
        if matches!(self.framing, Framing::UntilClose) {
            self.framing = Framing::Done;
            return Ok(());
        }
        request.keep_alive = false;
        Err(Error::upstream(Kind::Cut))
    }

    async fn read(
        &mut self,
        request: &mut Request,
        client: &mut Client<'_>,
        outgoing: &mut Outgoing,
    ) -> Result<usize, Error> {
        let mut limit = match self.framing {
            Framing::Length { left } => usize::try_from(left).unwrap_or(usize::MAX),
            _ => usize::MAX,
        };
        if self.pace.is_some() {
            limit = limit.min(self.pause(request, client).await?);
        }
        loop {
            match poll_fn(|cx| self.poll_read(cx, request, client, outgoing, limit)).await {
                Ok(None) if self.may_refill(client) => Box::pin(self.refill(request, client)).await?,
                Ok(None) => Box::pin(client.let_go(request)).await?,
                Ok(Some(count)) => {
                    if let Some(pace) = &mut self.pace {
                        pace.pass(count as u64);
                    }
                    return Ok(count);
                }
                Err(Stop::Request(error)) => return Err(error),
                Err(Stop::Peer(failure)) => return Err(Error::upstream(failure.kind)),
            }
        }
    }

    /// Sends what waits and reads what has come. Ready with `None` when what waits on disk may be sent, or what is
    /// held back.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        request: &mut Request,
        client: &mut Client<'_>,
        outgoing: &mut Outgoing,
        limit: usize,
    ) -> Poll<Result<Option<usize>, Stop>> {
        if let Poll::Ready(Err(error)) = client.poll_flush(cx, request) {
            return Poll::Ready(Err(Stop::Request(error)));
        }
        if self.may_refill(client) {
            return Poll::Ready(Ok(None));
        }
        let (wait, held) = (&mut self.wait, &mut self.buffer);
        let mut buffer = held.take().unwrap_or_else(|| Buffer::take(READ_BYTES.min(limit)));
        let polled =
            wait.poll(cx, request, client.downstream(), outgoing, &self.connection.transport, &mut buffer);
        if !buffer.data().is_empty() {
            *held = Some(buffer); // else back to the pool: a pause holds no memory
        }
        if polled.is_ready() {
            self.pause.cancel();
        } else if client.holds() {
            return self.poll_pause(cx);
        }
        polled.map_ok(Some)
    }

    /// Ready when the upstream has paused for long enough to let go what is held back.
    fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<usize>, Stop>> {
        if !self.pause.is_set() {
            self.pause.set(runtime::now_ms() + PAUSE_MS);
        }
        ready!(self.pause.poll_expired(cx));
        self.pause.cancel();
        Poll::Ready(Ok(None))
    }

    /// Waits until `proxy_limit_rate` lets something be read, and says how much; what waits for the client goes out
    /// meanwhile.
    async fn pause(&mut self, request: &mut Request, client: &mut Client<'_>) -> Result<usize, Error> {
        let Some(pace) = &self.pace else { return Ok(usize::MAX) };
        let mut timer = Timer::new();
        poll_fn(|cx| {
            if let Poll::Ready(Err(error)) = client.poll_flush(cx, request) {
                return Poll::Ready(Err(error));
            }
            if !request.passes().ignore_client_abort() && client.downstream().poll_gone(cx).is_ready() {
                return Poll::Ready(Err(Error::left()));
            }
            pace.poll_wait(cx, &mut timer).map(|count| Ok(usize::try_from(count).unwrap_or(usize::MAX)))
        })
        .await
    }

    /// How much may be moved without a copy, and between which sockets: a long rest of known length that needs no
    /// framing, and nothing more to send to the upstream.
    fn spliceable<'s>(&'s self, client: &Client<'s>, outgoing: &Outgoing) -> Option<(u64, (&'s Io, &'s Io))> {
        let Framing::Length { left } = self.framing else { return None };
        let is_plain = self.pace.is_none() && self.spill.is_none() && self.store.is_none();
        let fits = left >= SPLICE_BYTES_MIN && self.buffer.is_none() && is_plain && outgoing.is_done();
        if !fits || client.raw_room().is_none_or(|room| room < left) {
            return None;
        }
        Some((left, (self.connection.transport.plain()?, client.downstream().plain()?)))
    }
}

/// Moves `left` bytes of a body between two sockets inside the kernel.
async fn splice(
    request: &mut Request,
    client: &mut Client<'_>,
    (source, target): (&Io, &Io),
    left: u64,
) -> Result<(), Error> {
    client.flush(request).await?;
    let conf = request.passes();
    let limits = relay::Limits {
        read_timeout_ms: conf.read_timeout_ms(),
        write_timeout_ms: request.location.core.send_timeout(),
    };
    // a client that leaves is noticed even while the upstream pauses
    let downstream = client.downstream();
    let gone = async {
        if conf.ignore_client_abort() {
            std::future::pending::<()>().await;
        }
        downstream.gone().await;
    };
    let mut gone = pin!(gone);
    let mut left = left;
    while left > 0 {
        let part = if client.is_paced() { left.min(client.pace().await?) } else { left };
        let moving = relay::splice(source, target, part, &limits);
        let (count, error) = match race(moving, gone.as_mut()).await {
            Either::First(Ok(count)) => (count, None),
            Either::First(Err(error)) => (error.moved, Some(relay_error(error))),
            Either::Second(()) => (0, Some(Error::left())),
        };
        left -= count;
        client.moved(request, count);
        let attempt = request.upstream.last();
        attempt.length += count;
        attempt.received += count;
        if let Some(error) = error {
            request.keep_alive = false;
            return Err(error);
        }
    }
    Ok(())
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

/// Sends the 101 and what has come already in both directions; the tunnel itself runs when the request's
/// memory is gone (`http/tunnel.rs`).
pub async fn begin_tunnel(
    request: &mut Request,
    client: &mut Client<'_>,
    response: Response,
    answer: Answer,
) -> Result<(), Error> {
    let Answer { connection, head, head_length } = answer;
    client.start_tunnel(request, response);
    let early = head.buffer.data().get(head_length..).unwrap_or(b"");
    client.write(request, early).await?;
    if let Some(rest) = request.body.take_rest() {
        let conf = request.passes();
        let written =
            crate::runtime::timeout(conf.send_timeout_ms(), connection.transport.write_all(rest.data()))
                .await;
        match written {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(Error::upstream(Kind::Failed(Call::Send, error))),
            Err(_) => return Err(Error::upstream(Kind::TimedOut)),
        }
    }
    request.upstream.last().received += early.len() as u64;
    shrink(request, head, head_length);
    request.proxied.set_tunnel(connection.transport, connection.place);
    Ok(())
}
