//! A stream that has become a tunnel: a WebSocket over HTTP/2 or HTTP/3.
//!
//! For the upstream it is the upgrade of HTTP/1.1. Touches: the state that the streams of a connection share, and the
//! upstream's socket. Holds what one read returns in each direction: data of the client waits in its stream's window.
//! RFC 8441, RFC 9220.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use crate::base::base64;
use crate::http::request::Request;
use crate::http::request::termination::{How, Phase, Termination, Who};
use crate::http::streams::Carrier;
use crate::http::upstream::switched::Switched;
use crate::log;
use crate::net::{Transport, drain};
use crate::proto::header::Id;
use crate::runtime::buffer::Buffer;
use crate::runtime::{self, Timer};
use crate::sys::random;

/// Size of a read from the upstream.
const READ_BYTES: usize = 16 * 1024;
/// The longest frame of data for the client.
const FRAME_BYTES: usize = 16 * 1024;

/// Adds the fields with which a client of HTTP/1.1 asks for this protocol. Its key proves nothing here, since the client
/// has none that could be checked.
pub fn ask(request: &mut Request, protocol: &[u8]) {
    request.set_field(|name| name.eq_ignore_ascii_case(b"upgrade"), b"Upgrade", protocol, false);
    let mut key = Vec::new();
    base64::encode(&[random::number().to_ne_bytes(), random::number().to_ne_bytes()].concat(), &mut key);
    let is_key = |name: &[u8]| name.eq_ignore_ascii_case(b"sec-websocket-key");
    if protocol.eq_ignore_ascii_case(b"websocket") {
        request.set_field(is_key, b"Sec-WebSocket-Key", &key, false);
    }
    debug_assert!(request.header(Id::Upgrade).is_some());
}

/// Why a tunnel ends before both directions have.
enum Cut {
    /// The client has reset its stream, or is gone.
    Client,
    Upstream(io::Error),
    Silence,
}

/// The two directions of a tunnel.
struct Tunnel<'a, C> {
    stream: &'a C,
    upstream: Transport,
    /// Data of the client, of which `written` bytes have been passed on.
    up: Vec<u8>,
    written: usize,
    /// The client's direction ends behind `up`.
    is_last: bool,
    /// Data of the upstream.
    down: Buffer,
    has_client_ended: bool,
    has_upstream_ended: bool,
    sent: u64,
    received: u64,
    timer: Timer,
    timeout_ms: u64,
}

/// Relays until both directions have ended, one of them breaks, neither has moved for `proxy_read_timeout`, or the worker
/// must leave.
pub async fn run(stream: &impl Carrier, side: Box<Switched>, request: &mut Request) {
    let Switched { transport: upstream, place, used, .. } = *side;
    let mut tunnel = Tunnel {
        stream,
        upstream,
        up: Vec::new(),
        written: 0,
        is_last: false,
        down: Buffer::default(),
        has_client_ended: false,
        has_upstream_ended: false,
        sent: 0,
        received: 0,
        timer: Timer::new(),
        timeout_ms: request.passes().read_timeout_ms(),
    };
    let outcome = poll_fn(|cx| match tunnel.poll(cx) {
        Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
        Poll::Pending if drain::mode() >= drain::Mode::Now => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    })
    .await;
    let attempt = request.upstream.last();
    attempt.sent += tunnel.sent;
    attempt.received += tunnel.received;
    attempt.length += tunnel.received;
    request.bytes_sent += tunnel.received;
    match outcome {
        Some(Ok(())) => request.is_complete = true,
        Some(Err(cut)) => {
            let (who, how) = match cut {
                Cut::Client => (Who::Client, How::Abort),
                Cut::Upstream(_) => (Who::Upstream, How::Abort),
                Cut::Silence => (Who::Proxy, How::Timeout),
            };
            request.is_complete = false;
            request.termination = Some(Termination::new(who, how, Phase::Tunnel));
            if let Cut::Upstream(error) = cut {
                log::info!(request.error_log(), &*request, "the tunnel of a stream ended: {error}");
            }
        }
        None => {}
    }
    request.upstream.end_tunnel();
    drop((place, used));
}

impl<C: Carrier> Tunnel<'_, C> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cut>> {
        loop {
            if !self.is_over() && self.stream.poll_gone(cx).is_ready() {
                return Poll::Ready(Err(Cut::Client));
            }
            let has_moved = match (self.poll_up(cx), self.poll_down(cx)) {
                (Err(cut), _) | (_, Err(cut)) => return Poll::Ready(Err(cut)),
                (Ok(up), Ok(down)) => up || down,
            };
            // Bytes that the transport holds back have been counted as sent, but are lost when it is dropped.
            let flushed = self.upstream.poll_flush(cx);
            if let Poll::Ready(Err(error)) = flushed {
                return Poll::Ready(Err(Cut::Upstream(error)));
            }
            if self.is_over() && flushed.is_ready() {
                return Poll::Ready(Ok(()));
            }
            if !has_moved && !self.upstream.took_some() {
                break;
            }
            self.timer.cancel();
        }
        if !self.timer.is_set() {
            self.timer.set(runtime::now_ms() + self.timeout_ms);
        }
        self.timer.poll_expired(cx).map(|()| Err(Cut::Silence))
    }

    /// Both directions have ended.
    fn is_over(&self) -> bool {
        self.has_client_ended && self.has_upstream_ended
    }

    /// From the client to the upstream. True: something has moved.
    fn poll_up(&mut self, cx: &mut Context<'_>) -> Result<bool, Cut> {
        if self.has_client_ended {
            return Ok(false);
        }
        if self.written == self.up.len() {
            let used = std::mem::take(&mut self.up).len();
            self.written = 0;
            match self.stream.poll_take((used, false), cx) {
                Poll::Ready(Ok((data, is_last))) => (self.up, self.is_last) = (data, is_last),
                Poll::Ready(Err(_)) => return Err(Cut::Client),
                Poll::Pending => return Ok(false),
            }
            if self.up.is_empty() {
                if self.is_last {
                    self.has_client_ended = true;
                    self.upstream.shutdown().map_err(Cut::Upstream)?;
                }
                return Ok(self.is_last);
            }
        }
        match self.upstream.poll_write(cx, &self.up[self.written..]) {
            Poll::Ready(Ok(count)) => {
                self.written += count;
                self.sent += count as u64;
                Ok(true)
            }
            Poll::Ready(Err(error)) => Err(Cut::Upstream(error)),
            Poll::Pending => Ok(false),
        }
    }

    /// From the upstream to the client. True: something has moved.
    fn poll_down(&mut self, cx: &mut Context<'_>) -> Result<bool, Cut> {
        if self.has_upstream_ended {
            return Ok(false);
        }
        let mut has_moved = false;
        if self.down.data().is_empty() {
            match self.upstream.poll_readable(cx) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Err(error)) => return Err(Cut::Upstream(error)),
                Poll::Ready(Ok(())) => {}
            }
            let mut buffer = Buffer::take(READ_BYTES);
            match self.upstream.poll_read(cx, buffer.space()) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Err(error)) => return Err(Cut::Upstream(error)),
                Poll::Ready(Ok(0)) => {
                    self.has_upstream_ended = true;
                    let ended =
                        self.stream.write(|sheet| sheet.send_data(b"", true, FRAME_BYTES, cx.waker()));
                    return ended.map(|_| true).map_err(|_| Cut::Client);
                }
                Poll::Ready(Ok(count)) => {
                    buffer.filled(count);
                    self.received += count as u64;
                    self.down = buffer;
                    has_moved = true;
                }
            }
        }
        let data = self.down.data();
        let sent = self.stream.write(|sheet| sheet.send_data(data, false, FRAME_BYTES, cx.waker()));
        let sent = sent.map_err(|_| Cut::Client)?;
        self.down.consume(sent.count);
        if self.down.data().is_empty() {
            self.down = Buffer::default(); // back to the pool
        }
        Ok(has_moved || sent.count > 0)
    }
}
