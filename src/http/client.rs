//! The way back to an HTTP/1.1 client: head, framing and body of one response.
//!
//! Touches: the client's socket. Holds no more than the head: body bytes stay with whoever produced them
//! until the socket has taken them, so a slow client stops its producer.
//! RFC 9112 §4, §6, §7.1.

use std::future::poll_fn;
use std::io::IoSlice;
use std::task::{Poll, ready};

use crate::http::error::Error;
use crate::http::modules;
use crate::http::request::Request;
use crate::http::response::{self, Response};
use crate::log;
use crate::net::drain;
use crate::proto::h1::encode;
use crate::proto::header::Id;
use crate::proto::message::Version;
use crate::runtime::{self, Io, Timer, buffer};
use crate::sys::clock;

/// `Server` of a response with and without `server_tokens`.
const SERVER_FULL: &str = concat!("Server: pronghorn/", env!("CARGO_PKG_VERSION"), "\r\n");
const SERVER_SHORT: &str = "Server: pronghorn\r\n";

/// The fields that nginx writes before all others, in its order.
const FIRST_BEFORE_LENGTH: [Id; 1] = [Id::ContentType];
const FIRST_AFTER_LENGTH: [Id; 2] = [Id::LastModified, Id::Location];

/// Room for a usual head.
const HEAD_BYTES: usize = 512;

/// Body bytes up to this many are copied behind their head: cheaper than to hand the kernel a list.
const JOINED_MAX: usize = 4096;

/// How the end of the response's body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// Nothing was started.
    Idle,
    /// No body follows: HEAD, 204, 304.
    Bodiless,
    Length {
        left: u64,
    },
    Chunked,
    /// The end of the connection ends it (HTTP/1.0).
    UntilClose,
    /// Cut: no end may be written.
    Abandoned,
}

/// One response on one connection.
#[derive(Debug)]
pub struct Client<'a> {
    io: &'a Io,
    framing: Framing,
    /// Head and chunk heads that the socket has not taken yet.
    pending: Vec<u8>,
    timer: Timer,
    timeout_ms: u64,
}

impl<'a> Client<'a> {
    pub fn new(io: &'a Io) -> Self {
        Self {
            io,
            framing: Framing::Idle,
            pending: buffer::scratch(),
            timer: Timer::new(),
            timeout_ms: 60_000,
        }
    }

    /// The client's socket; for relays that move bytes inside the kernel, after [`Client::flush`].
    pub fn io(&self) -> &'a Io {
        self.io
    }

    /// A response head was made: no other status can be sent.
    pub fn has_started(&self) -> bool {
        self.framing != Framing::Idle
    }

    /// Ends the response here; what is missing stays missing, and the connection must be closed.
    pub fn abandon(&mut self) {
        self.framing = Framing::Abandoned;
        self.pending.clear();
    }

    /// Runs the head filters, decides the framing and makes the head; it leaves with the first bytes of the body.
    ///
    /// Without `content_length` the body is chunked, or ends with the connection for HTTP/1.0.
    /// An error page goes out with the status it stands for.
    pub fn start(&mut self, request: &mut Request, mut response: Response) {
        if let Some(status) = request.error_status.filter(|&status| status != response.status) {
            response.status = status;
            response.reason.clear();
        }
        request.response = response;
        request.restore_kept();
        for act in modules::HEAD {
            act(request);
        }
        // The worker may have been told to leave while the answer was awaited (tests: a_late_answer_after_quit_ends_the_connection).
        request.keep_alive &= drain::mode() < drain::Mode::Close;
        self.timeout_ms = request.location.core.send_timeout();
        self.framing = if request.is_head() || request.response.is_bodiless() {
            Framing::Bodiless
        } else if let Some(length) = request.response.content_length {
            Framing::Length { left: length }
        } else if request.version() >= Version::Http11 && request.location.core.chunked_transfer_encoding() {
            Framing::Chunked
        } else {
            request.keep_alive = false;
            Framing::UntilClose
        };
        let before = self.pending.len();
        render_head(request, self.framing, &mut self.pending);
        request.head_bytes_sent = (self.pending.len() - before) as u64;
    }

    /// The 101 head of an upgrade, made by the caller; afterwards the connection is a tunnel.
    pub fn start_tunnel(&mut self, request: &mut Request, response: Response) {
        request.response = response;
        for act in modules::HEAD {
            act(request);
        }
        self.framing = Framing::UntilClose;
        self.timeout_ms = request.location.core.send_timeout();
        let before = self.pending.len();
        render_head(request, Framing::Bodiless, &mut self.pending);
        request.head_bytes_sent = (self.pending.len() - before) as u64;
    }

    /// How many more body bytes may be moved past [`Client::write`]: `None` when they must be framed.
    pub fn raw_room(&self) -> Option<u64> {
        match self.framing {
            Framing::Length { left } => Some(left),
            Framing::UntilClose => Some(u64::MAX),
            _ => None,
        }
    }

    /// Counts body bytes that a relay has moved to the socket itself.
    pub fn moved(&mut self, request: &mut Request, count: u64) {
        if let Framing::Length { left } = &mut self.framing {
            *left = left.saturating_sub(count);
        }
        request.bytes_sent += count;
    }

    /// Sends body bytes, the head before them, all in one system call when the socket takes it.
    ///
    /// Waits until the socket has taken everything. Errors: 499 when the client has gone, 408 when it took
    /// nothing for `send_timeout`.
    pub fn write<'b>(
        &'b mut self,
        request: &'b mut Request,
        data: &'b [u8],
    ) -> impl Future<Output = Result<(), Error>> + use<'a, 'b> {
        let mut tail: &'static [u8] = b"";
        let data = match &mut self.framing {
            Framing::Bodiless | Framing::Abandoned | Framing::Idle => &data[..0],
            Framing::Length { left } => {
                let count = data.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= count as u64;
                &data[..count]
            }
            Framing::UntilClose => data,
            Framing::Chunked if data.is_empty() => data,
            Framing::Chunked => {
                encode::chunk_head(data.len() as u64, &mut self.pending);
                tail = b"\r\n";
                data
            }
        };
        self.send(request, data, tail)
    }

    /// Sends the head if it is still here.
    pub fn flush<'b>(
        &'b mut self,
        request: &'b mut Request,
    ) -> impl Future<Output = Result<(), Error>> + use<'a, 'b> {
        self.send(request, b"", b"")
    }

    /// Ends the body. A body shorter than its declared length ends the connection: the client must see the cut.
    pub async fn finish(&mut self, request: &mut Request) -> Result<(), Error> {
        let mut is_whole = true;
        match self.framing {
            Framing::Chunked => encode::last_chunk(&mut self.pending),
            Framing::Length { left } if left > 0 => is_whole = false,
            Framing::Abandoned | Framing::Idle => is_whole = false,
            _ => {}
        }
        request.keep_alive &= is_whole;
        self.send(request, b"", b"").await?;
        request.is_complete = is_whole;
        Ok(())
    }

    fn send<'b>(
        &'b mut self,
        request: &'b mut Request,
        mut data: &'b [u8],
        mut tail: &'static [u8],
    ) -> impl Future<Output = Result<(), Error>> + use<'a, 'b> {
        if !self.pending.is_empty() && data.len() <= JOINED_MAX {
            self.pending.extend_from_slice(data);
            self.pending.extend_from_slice(tail);
            (data, tail) = (b"", b"");
        }
        self.transmit(request, data, tail)
    }

    async fn transmit(&mut self, request: &mut Request, data: &[u8], tail: &[u8]) -> Result<(), Error> {
        let mut done = 0;
        let outcome = poll_fn(|cx| {
            let head = self.pending.len();
            let total = head + data.len() + tail.len();
            while done < total {
                let first = self.pending.get(done..).unwrap_or(&[]);
                let written = if total == head {
                    self.io.poll_write(cx, first)
                } else {
                    let slices = [
                        IoSlice::new(first),
                        IoSlice::new(&data[done.saturating_sub(head).min(data.len())..]),
                        IoSlice::new(&tail[done.saturating_sub(head + data.len()).min(tail.len())..]),
                    ];
                    self.io.poll_write_vectored(cx, &slices)
                };
                match written {
                    Poll::Ready(Ok(count)) => {
                        done += count;
                        self.timer.cancel();
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(Error::gone(&error))),
                    Poll::Pending => {
                        if !self.timer.is_set() {
                            self.timer.set(runtime::now_ms() + self.timeout_ms);
                        }
                        ready!(self.timer.poll_expired(cx));
                        let cause = "client timed out (110: Connection timed out) while sending to client";
                        return Poll::Ready(Err(Error::client(408, cause)));
                    }
                }
            }
            Poll::Ready(Ok(()))
        })
        .await;
        request.bytes_sent += done as u64;
        self.pending.clear();
        outcome
    }
}

impl Drop for Client<'_> {
    fn drop(&mut self) {
        buffer::recycle(std::mem::take(&mut self.pending));
    }
}

fn render_head(request: &Request, framing: Framing, out: &mut Vec<u8>) {
    let response = &request.response;
    let core = &request.location.core;
    out.reserve(
        HEAD_BYTES + usize::try_from(response.content_length.unwrap_or(0)).unwrap_or(0).min(JOINED_MAX),
    );
    encode::status_line(response.status, reason_of(response), out);
    // Those of an upstream that `proxy_pass_header` lets through stand instead of ours.
    if response.headers.get(Id::Server).is_none() {
        out.extend_from_slice(if core.server_tokens() { SERVER_FULL } else { SERVER_SHORT }.as_bytes());
    }
    if response.headers.get(Id::Date).is_none() {
        out.extend_from_slice(b"Date: ");
        log::format::http_date(clock::wall_seconds(), out);
        out.extend_from_slice(b"\r\n");
    }
    response.headers.render_only(&FIRST_BEFORE_LENGTH, out);
    if let Some(length) = response.content_length.filter(|_| response.status >= 200 && response.status != 204)
    {
        encode::content_length(length, out);
    }
    response.headers.render_only(&FIRST_AFTER_LENGTH, out);
    if framing == Framing::Chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    match response.status {
        101 => out.extend_from_slice(b"Connection: upgrade\r\n"),
        _ if request.keep_alive => {
            out.extend_from_slice(b"Connection: keep-alive\r\n");
            if let Some(seconds) = core.keepalive_header() {
                out.extend_from_slice(b"Keep-Alive: timeout=");
                out.extend_from_slice(itoa::Buffer::new().format(seconds).as_bytes());
                out.extend_from_slice(b"\r\n");
            }
        }
        _ => out.extend_from_slice(b"Connection: close\r\n"),
    }
    response.headers.render_except(&[Id::ContentType, Id::LastModified, Id::Location], out);
    out.extend_from_slice(b"\r\n");
}

fn reason_of(response: &Response) -> &[u8] {
    if response.reason.is_empty() { response::reason(response.status).as_bytes() } else { &response.reason }
}
