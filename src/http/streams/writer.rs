//! Writes a response to a stream: interim responses, the head, data, trailers.
//!
//! Touches: the state that the streams of a connection share. Callers bound the pending bytes; `send_timeout` runs while
//! nothing of them is taken: the client's windows are closed, or its connection takes nothing. RFC 9113 §8.1, §8.3.2; RFC 9114 §4.1, §4.3.2.

use std::cell::RefCell;
use std::task::{Context, Poll, ready};

use crate::http::h1::writer::{Started, Terms};
use crate::http::request::error::{During, Error, Limit};
use crate::http::response::Response;
use crate::http::streams::{Carrier, Gone};
use crate::log;
use crate::proto::field_text::Lines;
use crate::proto::h2::hpack;
use crate::proto::h3::qpack;
use crate::proto::header::Id;
use crate::runtime::{self, Timer};
use crate::sys::clock;

/// Capacity for a usual head.
const HEAD_BYTES: usize = 256;
/// Up to this many bytes are copied behind a pending head, or kept to leave with the end.
const JOINED_MAX: usize = 4096;
const LAST_MAX: usize = 32 * 1024;

/// How the end of the body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// No response has been started.
    Idle,
    /// No body follows.
    Bodiless,
    Length {
        left: u64,
    },
    /// It ends when its producer says so.
    Open,
    /// The bytes behind the head are no body, and end elsewhere.
    Tunnel,
    /// Cut off: no end may be written.
    Abandoned,
}

/// How heads are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// RFC 7541.
    Hpack,
    /// RFC 9204.
    Qpack,
}

impl Compression {
    fn put_status(self, status: u16, out: &mut Vec<u8>) {
        match self {
            Self::Hpack => hpack::put_status(status, out),
            Self::Qpack => {
                out.extend_from_slice(&qpack::PREFIX);
                qpack::put_status(status, out);
            }
        }
    }

    fn put_field(self, id: Option<Id>, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::Hpack => hpack::put_field(id, name, value, out),
            Self::Qpack => qpack::put_field(id, name, value, out),
        }
    }

    /// Begins a section without a status.
    fn begin(self, out: &mut Vec<u8>) {
        match self {
            Self::Hpack => {}
            Self::Qpack => out.extend_from_slice(&qpack::PREFIX),
        }
    }
}

/// A response on its way to a stream; used as that of HTTP/1 (`http/h1/writer.rs`).
#[derive(Debug)]
pub struct Writer {
    compression: Compression,
    framing: Framing,
    /// The head, then data that the stream has not taken yet.
    pending: Vec<u8>,
    /// So many of the pending bytes are the head.
    head_bytes: usize,
    trailers: Vec<u8>,
    /// Trailers may follow, so the length does not end the body.
    has_trailers: bool,
    /// Nothing follows what is pending, or about to be sent.
    is_last: bool,
    /// The end has been handed on.
    has_ended: bool,
    timer: Timer,
    timeout_ms: u64,
    frame_bytes: usize,
}

impl Writer {
    pub fn new(compression: Compression) -> Self {
        Self {
            compression,
            framing: Framing::Idle,
            pending: Vec::new(),
            head_bytes: 0,
            trailers: Vec::new(),
            has_trailers: false,
            is_last: false,
            has_ended: false,
            timer: Timer::new(),
            timeout_ms: 60_000,
            frame_bytes: JOINED_MAX,
        }
    }
}

impl Writer {
    /// Writes the head, which is sent with the first bytes of the body.
    pub fn start(&mut self, response: &Response, terms: &Terms) -> Started {
        (self.timeout_ms, self.frame_bytes) = (terms.timeout_ms, terms.frame_bytes);
        self.has_trailers = response.has_trailers;
        self.framing = match response.content_length {
            _ if terms.is_head || response.is_bodiless() => Framing::Bodiless,
            Some(left) => Framing::Length { left },
            None => Framing::Open,
        };
        self.is_last = self.framing == Framing::Bodiless
            || self.framing == (Framing::Length { left: 0 }) && !self.has_trailers;
        render_head(self.compression, response, terms, &mut self.pending);
        self.head_bytes = self.pending.len();
        Started { keep_alive: terms.keep_alive, head_bytes: self.head_bytes as u64 }
    }

    /// Writes the head that opens a tunnel: what is 101 in HTTP/1.1 is 200 here (RFC 8441 §5).
    pub fn start_tunnel(&mut self, response: &Response, terms: &Terms) -> Started {
        (self.timeout_ms, self.frame_bytes) = (terms.timeout_ms, terms.frame_bytes);
        self.framing = Framing::Tunnel;
        let mut opened = Response { status: 200, content_length: None, ..response.clone() };
        opened.headers.remove_name(b"sec-websocket-accept");
        render_head(self.compression, &opened, terms, &mut self.pending);
        self.head_bytes = self.pending.len();
        Started { keep_alive: terms.keep_alive, head_bytes: self.head_bytes as u64 }
    }

    /// The number of bytes that wait for the stream.
    pub fn pending_bytes(&self) -> usize {
        self.pending.len()
    }

    /// The same; the end counts as one.
    pub fn pending_count(&self) -> usize {
        self.pending.len() + usize::from(self.is_last && !self.has_ended)
    }

    /// True if nothing follows the pending bytes and those about to be sent.
    #[inline]
    pub fn is_last(&self) -> bool {
        self.is_last
    }

    /// Ends the response here, without its end: pending bytes are dropped.
    pub fn abandon(&mut self) {
        self.framing = Framing::Abandoned;
        self.pending.clear();
        (self.head_bytes, self.is_last) = (0, false);
    }

    pub fn takes_trailers(&self) -> bool {
        self.wants_body()
    }

    pub fn wants_body(&self) -> bool {
        !matches!(self.framing, Framing::Idle | Framing::Bodiless | Framing::Abandoned)
    }

    /// The part of `data` that belongs to the body.
    pub fn frame<'b>(&mut self, data: &'b [u8]) -> &'b [u8] {
        match &mut self.framing {
            Framing::Bodiless | Framing::Abandoned | Framing::Idle => &data[..0],
            Framing::Length { left } => {
                let count = data.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= count as u64;
                self.is_last |= *left == 0 && !self.has_trailers;
                &data[..count]
            }
            Framing::Open | Framing::Tunnel => data,
        }
    }

    /// Writes the end. False: the body is shorter than declared.
    pub fn end(&mut self, trailers: &Lines) -> bool {
        match self.framing {
            Framing::Length { left } if left > 0 => return false,
            Framing::Abandoned | Framing::Idle => return false,
            Framing::Tunnel => return true,
            _ => {}
        }
        if !self.is_last && !trailers.is_empty() {
            self.compression.begin(&mut self.trailers);
            put_lines(self.compression, trailers, &mut self.trailers);
        }
        self.is_last = true;
        true
    }

    /// Appends a few bytes to a head that is still pending. False: they must be sent separately.
    pub fn join(&mut self, data: &[u8]) -> bool {
        let joins = !self.pending.is_empty() && data.len() <= JOINED_MAX;
        if joins {
            self.pending.extend_from_slice(data);
        }
        joins
    }

    /// Keeps the last bytes of a body to send them with the end. False: they are too many.
    pub fn hold_last(&mut self, data: &[u8]) -> bool {
        let holds = data.len() <= LAST_MAX && self.pending.len() <= LAST_MAX;
        if holds {
            self.pending.extend_from_slice(data);
        }
        holds
    }

    /// Hands pending bytes on, then `data`; `done` bytes of these have been handed on already. Ready when at most `ahead`
    /// bytes are left.
    pub fn poll_send(
        &mut self,
        stream: &impl Carrier,
        cx: &mut Context<'_>,
        data: &[u8],
        ahead: usize,
        done: &mut usize,
    ) -> Poll<Result<(), Error>> {
        let total = self.pending.len() + data.len();
        let before = *done;
        let outcome = self.hand_on(stream, cx, data, done);
        if *done > before {
            self.timer.cancel();
            // framing and copying; the connection's task does the I/O
            runtime::charge(1 + ((*done - before) / 4096) as u32);
        }
        match outcome {
            Err(Gone) => return Poll::Ready(Err(Error::left())),
            Ok(true) => {
                self.timer.cancel();
                return Poll::Ready(Ok(()));
            }
            Ok(false) => {}
        }
        if !self.timer.is_set() {
            self.timer.set(runtime::now_ms() + self.timeout_ms);
        }
        if total - *done <= ahead && ahead > 0 {
            return Poll::Ready(Ok(()));
        }
        ready!(self.timer.poll_expired(cx));
        Poll::Ready(Err(Error::client_timed_out(During::SendResponse, Limit::SendTimeout)))
    }

    /// True if everything was taken, the end included.
    fn hand_on(
        &mut self,
        stream: &impl Carrier,
        cx: &mut Context<'_>,
        data: &[u8],
        done: &mut usize,
    ) -> Result<bool, Gone> {
        let (head_bytes, held) = (self.head_bytes, self.pending.len());
        let total = held + data.len();
        let ends = self.is_last && self.trailers.is_empty();
        stream.write(|sheet| {
            if *done < head_bytes {
                let is_whole = ends && total == head_bytes;
                sheet.send_block(&self.pending[..head_bytes], is_whole)?;
                self.has_ended |= is_whole;
                *done = head_bytes;
            }
            if *done < held {
                let ends = ends && data.is_empty();
                let sent = sheet.send_data(&self.pending[*done..], ends, self.frame_bytes, cx.waker())?;
                *done += sent.count;
                if !sent.is_done {
                    return Ok(false);
                }
                self.has_ended |= ends;
            }
            if *done < total {
                let sent = sheet.send_data(&data[*done - held..], ends, self.frame_bytes, cx.waker())?;
                *done += sent.count;
                if !sent.is_done {
                    return Ok(false);
                }
                self.has_ended |= ends;
            }
            if self.is_last && !self.has_ended {
                if self.trailers.is_empty() {
                    sheet.send_data(b"", true, self.frame_bytes, cx.waker())?;
                } else {
                    sheet.send_block(&self.trailers, true)?;
                }
                self.has_ended = true;
            }
            Ok(true)
        })
    }

    /// After [`Writer::poll_send`]: makes the rest pending.
    pub fn settle(&mut self, done: usize, data: &[u8]) {
        let held = self.pending.len();
        self.head_bytes = self.head_bytes.saturating_sub(done);
        if done == held + data.len() {
            self.pending.clear();
            return;
        }
        self.pending.drain(..done.min(held));
        self.pending.extend_from_slice(&data[done.saturating_sub(held).min(data.len())..]);
    }
}

/// Asks a client that waits for it to send its body.
pub fn send_continue<C: Carrier>(stream: &C) {
    send_interim(stream, 100, |_| {}).unwrap_or(());
}

/// Sends `103 Early Hints` (RFC 8297) with these fields. Errors: 499 if the client has gone.
pub fn send_early_hints<C: Carrier>(stream: &C, fields: &Lines) -> Result<(), Error> {
    send_interim(stream, 103, |block| put_lines(C::COMPRESSION, fields, block)).map_err(|Gone| Error::left())
}

fn send_interim<C: Carrier>(stream: &C, status: u16, fields: impl FnOnce(&mut Vec<u8>)) -> Result<(), Gone> {
    let mut block = Vec::new();
    C::COMPRESSION.put_status(status, &mut block);
    fields(&mut block);
    stream.write(|sheet| sheet.send_block(&block, false))
}

fn render_head(compression: Compression, response: &Response, terms: &Terms, out: &mut Vec<u8>) {
    out.reserve(HEAD_BYTES);
    compression.put_status(response.status, out);
    let headers = &response.headers;
    // Fields of an upstream that `proxy_pass_header` passes on replace ours, even if it sent none.
    if !response.omits.server && headers.get(Id::Server).is_none() {
        let name = if terms.tells_version { SERVER_FULL } else { SERVER_SHORT };
        compression.put_field(Some(Id::Server), b"server", name.as_bytes(), out);
    }
    if !response.omits.date && headers.get(Id::Date).is_none() {
        put_date(compression, out);
    }
    if let Some(length) = response.content_length.filter(|_| response.status >= 200 && response.status != 204)
    {
        let mut digits = itoa::Buffer::new();
        compression.put_field(
            Some(Id::ContentLength),
            b"content-length",
            digits.format(length).as_bytes(),
            out,
        );
    }
    for (id, name, value) in headers.iter() {
        if !is_of_connection(id) {
            compression.put_field(id, name, value, out);
        }
    }
}

/// The value of `Server` with and without `server_tokens`.
const SERVER_FULL: &str = concat!("pronghorn/", env!("CARGO_PKG_VERSION"));
const SERVER_SHORT: &str = "pronghorn";

thread_local! {
    /// The field `date` of this second, in each coding.
    static DATE: RefCell<[(i64, Vec<u8>); 2]> =
        const { RefCell::new([(i64::MIN, Vec::new()), (i64::MIN, Vec::new())]) };
}

fn put_date(compression: Compression, out: &mut Vec<u8>) {
    let seconds = clock::wall_seconds();
    DATE.with_borrow_mut(|fields| {
        let (made, field) = &mut fields[compression as usize];
        if *made != seconds {
            let mut date = Vec::new();
            log::format::http_date(seconds, &mut date);
            field.clear();
            compression.put_field(Some(Id::Date), b"date", &date, field);
            *made = seconds;
        }
        out.extend_from_slice(field);
    });
}

/// True for fields that streams do not have (RFC 9113 §8.2.2, RFC 9114 §4.2).
fn is_of_connection(id: Option<Id>) -> bool {
    matches!(
        id,
        Some(Id::Connection | Id::KeepAlive | Id::ProxyConnection | Id::TransferEncoding | Id::Upgrade)
    )
}

/// Writes the fields of whole lines.
fn put_lines(compression: Compression, lines: &Lines, out: &mut Vec<u8>) {
    for line in lines.as_bytes().split(|byte| *byte == b'\n') {
        let Some(colon) = memchr::memchr(b':', line) else { continue };
        let id = Id::of(&line[..colon]);
        if !is_of_connection(id) {
            compression.put_field(id, &line[..colon], line[colon + 1..].trim_ascii(), out);
        }
    }
}
