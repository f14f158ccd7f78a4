//! HTTP/2 to upstreams, for `proxy_http_version 2` and `grpc_pass`: requests as header blocks, and a stream as the
//! exchange reads it.
//!
//! Touches: the request whose head is encoded; the state of a shared connection (`upstream/link.rs`). Bounded: a head by
//! `…_buffer_size`, data by the window of its stream, which opens again when data was used.
//! RFC 9113 §8.1, §8.3.1, §8.2.2; nginx.org, ngx_http_grpc_module.

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::http::config::location::Location;
use crate::http::request::Request;
use crate::http::request::error::{Call, Error, Kind};
use crate::http::scope::Script;
use crate::http::upstream::cache::state::Fetch;
use crate::http::upstream::codec::{Framing, Pieces, Progress};
use crate::http::upstream::protocol::Protocol;
use crate::http::upstream::set_header::Sent;
use crate::http::upstream::target::Goal;
use crate::http::upstream::{h1, outgoing};
use crate::proto::field_text::Label;
use crate::proto::h2::connection::{Failure, Opening};
use crate::proto::h2::stream::Reset;
use crate::proto::h2::{Code, hpack, response};
use crate::proto::head::ResponseHead;
use crate::proto::header::Id;
use crate::proto::message::{BodyLength, Method};
use crate::runtime::buffer::Buffer;
use crate::upstream::link::{Lost, Stream};

/// See [`super::codec::Encoder`].
#[derive(Clone, Copy, Debug)]
pub struct Encoder {
    is_grpc: bool,
}

impl Encoder {
    pub fn of(location: &Location) -> Self {
        Self { is_grpc: location.protocol == Protocol::Grpc }
    }

    /// Writes the header block of a request. Errors: 500 if `proxy_method` evaluates to an invalid method.
    pub fn head(
        self,
        request: &mut Request,
        goal: &Goal,
        framing: Framing,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let confs = &request.location.confs;
        let sent: &'static Sent = if self.is_grpc { confs.grpc.sent() } else { confs.proxy.sent() };
        let method = confs.proxy.method().filter(|_| !self.is_grpc);
        h1::with_method(request, method, |token| match token {
            b"GET" => hpack::put_indexed(hpack::METHOD_GET, out),
            b"POST" => hpack::put_indexed(hpack::METHOD_POST, out),
            other => hpack::put_named(hpack::METHOD_GET, other, out),
        })?;
        hpack::put_indexed(if goal.terms.is_some() { hpack::SCHEME_HTTPS } else { hpack::SCHEME_HTTP }, out);
        let mut value = Vec::with_capacity(128);
        outgoing::write_target(request, goal, &mut value);
        match &value[..] {
            b"/" => hpack::put_indexed(hpack::PATH, out),
            path => hpack::put_named(hpack::PATH, path, out),
        }
        request.proxied.uri = h1::other_uri(&value, request.target());
        put_authority(request, sent.host.as_ref(), goal, &mut value, out);
        for (label, script) in &sent.lines {
            value.clear();
            script.evaluate(request, &mut value);
            put_line(label, &mut value, out);
        }
        if let Framing::Length(length) = framing {
            put(Id::ContentLength, itoa::Buffer::new().format(length).as_bytes(), out);
        }
        if request.passes().pass_request_headers() {
            put_fields(request, sent, out);
        }
        for (id, value) in request.fetch().into_iter().flat_map(Fetch::validators) {
            if !sent.sets(id) {
                put(id, value, out);
            }
        }
        Ok(())
    }
}

/// Writes the authority: the `Host` that is set, or the server's name if it is empty.
fn put_authority(
    request: &mut Request,
    host: Option<&Script>,
    goal: &Goal,
    value: &mut Vec<u8>,
    out: &mut Vec<u8>,
) {
    value.clear();
    if let Some(host) = host {
        host.evaluate(request, value);
        clean(value);
    }
    if value.is_empty() {
        goal.write_host(value);
    }
    hpack::put_named(hpack::AUTHORITY, value, out);
}

/// Removes what must not be in a value (RFC 9113 §8.2.1).
fn clean(value: &mut Vec<u8>) {
    value.retain(|byte| !matches!(byte, b'\r' | b'\n' | 0));
    let trimmed = value.trim_ascii();
    if trimmed.len() < value.len() {
        *value = trimmed.to_vec();
    }
}

fn put(id: Id, value: &[u8], out: &mut Vec<u8>) {
    hpack::put_field(Some(id), id.name().as_bytes(), value, out);
}

/// Writes a field that the configuration sets, unless it is empty or one that HTTP/2 does not have.
fn put_line(label: &Label, value: &mut Vec<u8>, out: &mut Vec<u8>) {
    clean(value);
    let id = Id::of(label.name());
    let is_wrong = match id {
        Some(Id::Te) => value != b"trailers",
        Some(Id::Connection | Id::KeepAlive | Id::ProxyConnection | Id::TransferEncoding | Id::Upgrade) => {
            true
        }
        _ => value.is_empty(),
    };
    if !is_wrong {
        hpack::put_field(id, label.name(), value, out);
    }
}

/// Writes the client's own fields, except hop-by-hop ones.
fn put_fields(request: &Request, sent: &Sent, out: &mut Vec<u8>) {
    let data = request.input.data();
    let (fields, connection) = (&request.head.fields, &request.head.connection);
    let replaced = sent.replaced(request.fetch().is_some());
    for field in fields.iter() {
        let name = field.name(data);
        if field.id == Some(Id::Te) && takes_trailers(field.value(data)) && !sent.sets(Id::Te) {
            put(Id::Te, b"trailers", out);
            continue;
        }
        if replaced.contains(field.id, name)
            || connection.ends(field, data) && !request.location.confs.realip.reads(name)
        {
            continue;
        }
        hpack::put_field(field.id, name, field.value(data), out);
    }
}

/// True if `TE` accepts trailers.
fn takes_trailers(value: &[u8]) -> bool {
    value.split(|byte| *byte == b',').any(|coding| {
        let name = coding.split(|byte| *byte == b';').next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(b"trailers")
    })
}

/// The maximum of a frame of data, and of what is collected of a body for one.
pub const FRAME_BYTES_MAX: usize = 16 * 1024;

/// A frame's payload: the connection makes the frame.
pub fn frame(payload: &[u8], out: &mut Vec<u8>) -> Range<usize> {
    let start = out.len();
    out.extend_from_slice(payload);
    start..out.len()
}

/// A stream of a shared connection as an exchange and the relay of its response use it.
#[derive(Debug)]
pub struct Exchange {
    stream: Stream,
    /// The head whose text was read last, and which the decoder has not taken.
    head: RefCell<Option<ResponseHead>>,
    /// Data that was taken from the stream; what is before `at` was read.
    chunk: RefCell<Vec<u8>>,
    at: Cell<usize>,
    /// Bytes that were read and may have been used by now.
    read: Cell<usize>,
}

impl Exchange {
    pub fn new(stream: Stream) -> Rc<Self> {
        let (head, chunk) = (RefCell::new(None), RefCell::new(Vec::new()));
        Rc::new(Self { stream, head, chunk, at: Cell::new(0), read: Cell::new(0) })
    }

    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Opens the stream with a header block.
    pub fn open(&self, request: &Request, block: &[u8], ends: bool) -> io::Result<()> {
        let head_bytes_max = request.passes().head_bytes_max();
        let is_of_head = request.upstream_method() == Method::Head;
        let opened = self.stream.open(block, Opening { ends, head_bytes_max, is_of_head });
        opened.map_err(|_| io::ErrorKind::NotConnected.into())
    }

    /// Reads the text of the next head, with the data that has come behind it, or data alone. Ready with the number of
    /// bytes, 0 at the end of the response. Errors: see [`Exchange::trouble`].
    pub fn poll_read(
        &self,
        cx: &mut Context<'_>,
        held: &mut Option<Buffer>,
        capacity: usize,
    ) -> Poll<io::Result<usize>> {
        let used = self.read.take();
        if used > 0 {
            self.stream.with(|proto, id| proto.release(id, used));
        }
        let before = held.as_ref().map_or(0, |buffer| buffer.data().len());
        if self.at.get() == self.chunk.borrow().len() {
            let polled = self.stream.ask(|proto, id| {
                let Some(stream) = proto.stream(id) else { return Poll::Ready(None) };
                if let Some(response) = stream.take_head() {
                    let is_final = response.head.status >= 200;
                    let data = if is_final { proto.take_data(id) } else { Vec::new() };
                    return Poll::Ready(Some((Some(response), data)));
                }
                if stream.has_data() {
                    return Poll::Ready(Some((None, proto.take_data(id))));
                }
                if stream.reset().is_some() || stream.fault().is_some() {
                    return Poll::Ready(None);
                }
                if stream.is_remote_closed() {
                    return Poll::Ready(Some((None, Vec::new())));
                }
                stream.wake_later(cx.waker());
                Poll::Pending
            });
            let Poll::Ready(found) = polled else { return Poll::Pending };
            let Some((response, data)) = found else {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            };
            self.chunk.replace(data);
            self.at.set(0);
            if let Some(response) = response {
                let buffer = held.get_or_insert_with(|| Buffer::take(capacity.max(response.text.len())));
                buffer.extend(&response.text);
                self.head.replace(Some(response.head));
            }
        }
        let chunk = self.chunk.borrow();
        let left = &chunk[self.at.get()..];
        if !left.is_empty() {
            let buffer = held.get_or_insert_with(|| Buffer::take(capacity.max(1)));
            let room = buffer.space().len().min(capacity.max(1));
            let part = &left[..left.len().min(room)];
            buffer.extend(part);
            self.at.set(self.at.get() + part.len());
            self.read.set(part.len());
        }
        drop(chunk);
        if self.at.get() == self.chunk.borrow().len() {
            self.chunk.take();
            self.at.set(0);
        }
        Poll::Ready(Ok(held.as_ref().map_or(0, |buffer| buffer.data().len()) - before))
    }

    /// True if the response has ended behind what was read.
    fn has_ended(&self) -> bool {
        self.chunk.borrow().is_empty()
            && self.stream.ask(|proto, id| proto.stream(id).is_some_and(|stream| stream.is_read()))
    }

    /// The same, and there are no trailers.
    fn has_ended_plainly(&self) -> bool {
        self.has_ended()
            && self.stream.ask(|proto, id| proto.stream(id).is_some_and(|stream| !stream.has_trailers()))
    }

    fn take_trailers(&self) -> Vec<u8> {
        self.stream.ask(|proto, id| proto.stream(id).map(|stream| stream.take_trailers()).unwrap_or_default())
    }

    /// True if the peer has closed its side and does not want the rest of the request.
    pub fn is_stopped(&self) -> bool {
        self.stream.ask(|proto, id| proto.stream(id).is_some_and(|stream| stream.is_stopped()))
    }

    /// The fault that ended the exchange; `None`: there is none.
    pub fn trouble(&self) -> Option<Kind> {
        let kind = self.stream.ask(|proto, id| {
            let Some(stream) = proto.stream(id) else { return Some(Kind::Unprocessed) };
            if stream.is_head_too_big() {
                return Some(Kind::HeadTooBig);
            }
            if let Some(fault) = stream.fault() {
                return Some(Kind::BadHead(fault));
            }
            Some(match stream.reset()? {
                Reset::ByPeer(Code::REFUSED_STREAM) | Reset::Unprocessed(Code::NO_ERROR) => Kind::Unprocessed,
                Reset::Unprocessed(code) => Kind::GoAway(code),
                Reset::ByPeer(code) => Kind::Reset(code),
                Reset::ByUs(Code::FLOW_CONTROL_ERROR) => {
                    Kind::BadHead("more data than the window of its stream allows")
                }
                Reset::ByUs(Code::STREAM_CLOSED) => Kind::BadHead("frames behind the end of its response"),
                Reset::ByUs(_) => Kind::BadHead("frames that make no response"),
                Reset::Lost => Kind::Cut,
            })
        });
        match (self.stream.failure(), self.stream.lost()) {
            _ if kind.is_none() => None,
            (Some(Failure::Violation(what)), _) => Some(Kind::BadHead(what)),
            (Some(Failure::Abuse(act)), _) => Some(Kind::Flood(act.as_str())),
            (None, Some(Lost::Failed(errno))) if matches!(kind, Some(Kind::Cut)) => {
                Some(Kind::Failed(Call::Recv, io::Error::from_raw_os_error(errno)))
            }
            (None, Some(Lost::Silent)) => Some(Kind::TimedOut),
            _ => kind,
        }
    }
}

/// See [`super::codec::Decoder`].
#[derive(Debug, Default)]
pub struct Decoder {
    /// `None`: one that was made without an exchange, which has no response.
    exchange: Option<Rc<Exchange>>,
    /// The bytes that are to come, if the head declares them.
    left: Option<u64>,
    head_length: usize,
    /// The head has been decoded, and says that there is a body.
    has_body: bool,
    has_more: bool,
    has_ended: bool,
    /// It looks ahead: the trailers are for the other one.
    is_fork: bool,
}

impl Decoder {
    pub fn new(exchange: Rc<Exchange>) -> Self {
        Self { exchange: Some(exchange), ..Self::default() }
    }

    pub fn fork(&self) -> Self {
        Self { exchange: self.exchange.clone(), is_fork: true, ..Self::default() }
    }

    /// The head that was read last, and that the buffer begins with.
    pub fn head(&mut self, data: &[u8], bytes_max: usize, head: &mut ResponseHead) -> Result<Progress, Kind> {
        let taken = self.exchange.as_ref().and_then(|exchange| exchange.head.take());
        let Some(taken) = taken else { return Ok(Progress::Partial) };
        *head = taken;
        // the text ends with an empty line, and has no other
        let length = memchr::memmem::find(data, b"\r\n\r\n").map_or(data.len(), |at| at + 4);
        if length > bytes_max {
            return Err(Kind::HeadTooBig);
        }
        self.head_length = length;
        Ok(if head.status < 200 { Progress::Interim(length) } else { Progress::Complete(length) })
    }

    pub fn begin_body(
        &mut self,
        head: &ResponseHead,
        data: &[u8],
        method: Method,
    ) -> Result<BodyLength, Kind> {
        let length = response::body_length(head, data, method).map_err(Kind::BadHead)?;
        let is_whole = self.exchange.as_ref().is_some_and(|exchange| exchange.has_ended_plainly());
        self.has_more = !is_whole;
        let is_bare = is_whole && length == BodyLength::Chunked && data.len() == self.head_length;
        let length = if is_bare { BodyLength::Length(0) } else { length };
        (self.has_body, self.left) = match length {
            BodyLength::Length(bytes) => (bytes > 0, Some(bytes)),
            BodyLength::Chunked | BodyLength::UntilClose => (true, None),
            BodyLength::None => (false, None),
        };
        Ok(length)
    }

    pub fn body(&mut self, data: &[u8], pieces: &mut Pieces, trailers: &mut Vec<u8>) -> usize {
        pieces.clear();
        // what follows a head that has no body is dropped, as by nginx
        if !data.is_empty() && self.has_body {
            pieces.push(0..data.len());
            self.moved(data.len() as u64);
        }
        if self.exchange.as_ref().is_some_and(|exchange| exchange.has_ended()) {
            self.end(trailers);
        }
        data.len()
    }

    fn end(&mut self, trailers: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.has_ended, true)
            && !self.is_fork
            && let Some(exchange) = &self.exchange
        {
            trailers.extend_from_slice(&exchange.take_trailers());
        }
    }

    pub fn is_done(&self) -> bool {
        self.has_ended
    }

    /// True if something may follow what had arrived with the head: data, or trailers.
    pub fn has_more(&self) -> bool {
        self.has_more
    }

    /// True if the end of the body is not known from its length.
    pub fn is_framed(&self) -> bool {
        self.has_body && self.left.is_none()
    }

    pub fn raw_left(&self) -> Option<u64> {
        self.left.filter(|left| *left > 0)
    }

    pub fn moved(&mut self, count: u64) {
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(count);
        }
    }

    /// Nothing more follows: the stream has ended.
    pub fn closed(&mut self, trailers: &mut Vec<u8>) -> Result<(), Kind> {
        match &self.exchange {
            Some(exchange) if self.has_ended || exchange.has_ended() => {
                self.end(trailers);
                Ok(())
            }
            _ => Err(Kind::Cut),
        }
    }
}
