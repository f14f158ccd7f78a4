//! The life of an HTTP/2 connection.
//!
//! One task reads, writes and watches the time; requests are tasks of their own, which share the protocol's state with it.
//! An idle connection keeps that state without its buffers.
//! Touches: the client's connection. RFC 9113; nginx.org, ngx_http_v2_module, and of ngx_http_core_module `keepalive_*`,
//! `client_header_timeout`, `send_timeout`, `lingering_*`.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use crate::base::in_place::pinned;
use crate::http::Service;
use crate::http::client::Client;
use crate::http::config::server::{Listen, Server};
use crate::http::downstream::Downstream;
use crate::http::h2::stream::{Shared, Stream};
use crate::http::modules::http_core;
use crate::http::pipeline;
use crate::http::request::Request;
use crate::http::streams::{Beginning, Facts, tunnel};
use crate::log::{self, access};
use crate::net::linger::linger;
use crate::net::newcomer::Newcomer;
use crate::net::{Transport, clients, drain, open, room};
use crate::proto::h2::connection::Failure;
use crate::proto::h2::{Code, Connection, Event, Limits};
use crate::proto::proxy_protocol;
use crate::runtime::buffer::Buffer;
use crate::runtime::{self, Timer, Waiting};
use crate::shm::counter::{self, Total};
use crate::shm::heartbeat;
use crate::sys::address::SockAddr;

/// Size of a read.
const READ_BYTES: usize = 16 * 1024;
/// How long requests are still served after the first GOAWAY, unless the client shows earlier that it has seen it.
const GRACE_MS: u64 = 1000;
/// How long the rest of a header block may take after its stream was given up.
const LATE_MS: u64 = 10_000;
/// How long a connection that was ended for an error is read from, so that its client gets the reason.
const ERROR_LINGER_MS: u64 = 1000;

/// A client's connection that turns out to speak HTTP/2.
pub struct Begun {
    pub transport: Transport,
    pub service: Service,
    pub listen: &'static Listen,
    pub peer: SockAddr,
    pub number: u64,
    pub opened_ms: u64,
    pub proxy: Option<Rc<proxy_protocol::Header>>,
    pub open: open::Guard,
    /// Bytes that have arrived already.
    pub first: Buffer,
}

/// One connection; [`serve`] owns it for its whole life.
pub struct Conn {
    transport: Transport,
    shared: Rc<Shared>,
    facts: Rc<Facts>,
    open: open::Guard,
    /// Bytes that have arrived and are less than a frame.
    rest: Buffer,
    timer: Timer,
    requests: u64,
    /// When the wait began that may end the connection: for the next request, for the rest of a header block, for the
    /// client to take bytes, for it to know that we leave.
    idle_ms: Option<u64>,
    head_ms: Option<u64>,
    stuck_ms: Option<u64>,
    announced_ms: Option<u64>,
    /// Bytes that the transport has taken.
    sent: u64,
}

/// How a connection ends.
enum End {
    /// At once: the client is gone, or too slow.
    Drop,
    /// All that was to be said has been said.
    Said,
}

impl Conn {
    pub fn new(begun: Begun) -> Self {
        let Begun { transport, service, listen, peer, number, opened_ms, proxy, open, first } = begun;
        open.client().speaks(clients::Protocol::Http2);
        let local = if listen.is_wildcard() {
            transport.local_addr().unwrap_or_else(|| listen.address.clone())
        } else {
            listen.address.clone()
        };
        let server = &service.config().servers[listen.default];
        let conf = &server.root.confs.http2;
        let limits = Limits {
            streams_max: conf.max_concurrent_streams(),
            stream_window: conf.body_preread_size(),
            head: server.root.confs.http_core.field_limits(),
            abuse_max: conf.abuse_limit(),
            offers_connect: conf.takes_connect(),
        };
        let (probe, tls) = (transport.probe(), transport.tls().cloned());
        let facts = Facts { service, listen, number, probe, peer, proxy, tls, local, opened_ms };
        Self {
            transport,
            shared: Shared::new(Connection::new(limits)),
            facts: Rc::new(facts),
            open,
            rest: first,
            timer: Timer::new(),
            requests: 0,
            idle_ms: None,
            head_ms: None,
            stuck_ms: None,
            announced_ms: None,
            sent: 0,
        }
    }

    fn server(&self) -> &'static Server {
        let facts = &self.facts;
        &facts.service.config().servers[facts.listen.default]
    }

    fn core(&self) -> &'static http_core::Conf {
        &self.server().root.confs.http_core
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.shared.wake_later(cx.waker());
        if !self.rest.data().is_empty() && self.requests == 0 && self.sent == 0 {
            self.take(Buffer::default()); // what came before the first read
        }
        loop {
            if drain::mode() >= drain::Mode::Now {
                self.shared.state.borrow_mut().end(Code::NO_ERROR);
                let _ = self.poll_output(cx);
                return Poll::Ready(End::Said);
            }
            self.keep_promises();
            let is_written = match self.poll_output(cx) {
                Poll::Ready(Ok(())) => true,
                Poll::Ready(Err(_)) => return Poll::Ready(End::Drop),
                Poll::Pending => false,
            };
            if is_written && self.is_over() {
                return Poll::Ready(End::Said);
            }
            match self.poll_input(cx, is_written) {
                Poll::Ready(Ok(true)) => continue,
                Poll::Ready(Ok(false) | Err(_)) => return Poll::Ready(End::Drop),
                Poll::Pending => {}
            }
            if self.transport.is_asked() && self.is_idle() {
                self.shared.state.borrow_mut().leave();
                continue;
            }
            if self.poll_time(cx, is_written).is_pending() {
                return Poll::Pending;
            }
            if self.stuck_ms.is_some() {
                return Poll::Ready(End::Drop);
            }
        }
    }

    /// What a reload, a stop, or the limits of the settings ask for.
    fn keep_promises(&mut self) {
        let mut proto = self.shared.state.borrow_mut();
        if proto.is_leaving() {
            return;
        }
        if self.shared.is_last.get() {
            proto.leave();
        } else if drain::mode() > drain::Mode::Serving {
            if self.announced_ms.is_none() {
                self.announced_ms = Some(runtime::now_ms());
                proto.announce_leaving();
            }
            if proto.has_announced() {
                proto.leave();
            }
        }
    }

    fn is_over(&self) -> bool {
        let proto = self.shared.state.borrow();
        proto.output().is_empty()
            && (proto.failure().is_some() || proto.is_leaving() && proto.stream_count() == 0)
    }

    fn is_idle(&self) -> bool {
        let proto = self.shared.state.borrow();
        proto.stream_count() == 0
            && !proto.is_inside_head()
            && self.rest.data().is_empty()
            && proto.output().is_empty()
    }

    /// Writes what waits. Ready when nothing is left.
    fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut proto = self.shared.state.borrow_mut();
            let written = if proto.output().is_empty() {
                ready!(self.transport.poll_flush(cx))?;
                self.stuck_ms = None;
                return Poll::Ready(Ok(()));
            } else {
                self.transport.poll_write(cx, proto.output())
            };
            let Poll::Ready(written) = written else {
                if self.stuck_ms.is_none() || self.transport.took_some() {
                    self.stuck_ms = Some(runtime::now_ms());
                }
                return Poll::Pending;
            };
            let count = written?;
            self.stuck_ms = None;
            self.sent = self.transport.advance(self.sent, count);
            proto.sent(count);
        }
    }

    /// Reads once. Ready with false at the end.
    fn poll_input(&mut self, cx: &mut Context<'_>, is_written: bool) -> Poll<io::Result<bool>> {
        if self.shared.state.borrow().failure().is_some() {
            return Poll::Pending;
        }
        // A connection in the list of those that wait has no waiting writer.
        if is_written && self.is_idle() {
            ready!(self.transport.poll_waiting(Waiting::Idle, cx))?;
        } else {
            ready!(self.transport.poll_readable(cx))?;
        }
        ready!(self.transport.poll_budget(cx));
        let mut buffer = Buffer::take(READ_BYTES);
        let kept = self.rest.data().len();
        buffer.extend(self.rest.data());
        match self.transport.poll_read(cx, &mut buffer.space()[..READ_BYTES - kept]) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(0)) => Poll::Ready(Ok(false)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(count)) => {
                buffer.filled(count);
                self.take(buffer);
                Poll::Ready(Ok(true))
            }
        }
    }

    /// Hands bytes to the protocol, and starts the requests that they bring. An empty buffer: those that are kept.
    fn take(&mut self, buffer: Buffer) {
        let mut buffer = if buffer.capacity() == 0 { std::mem::take(&mut self.rest) } else { buffer };
        let now_ms = runtime::now_ms();
        let used = self.shared.state.borrow_mut().handle(buffer.data(), now_ms);
        buffer.consume(used);
        self.rest = if buffer.data().is_empty() { Buffer::default() } else { Buffer::exactly(buffer.data()) };
        loop {
            let Some(event) = self.shared.state.borrow_mut().next_request() else { break };
            self.begin(event);
        }
        let is_inside = self.shared.state.borrow().is_inside_head() || Connection::is_head(self.rest.data());
        self.head_ms = if is_inside { self.head_ms.or(Some(now_ms)) } else { None };
        self.report();
    }

    /// Starts a request's task.
    fn begin(&mut self, event: Event) {
        self.requests += 1;
        self.open.client().asks_once_more();
        if self.requests == 1 || self.idle_ms.is_some() {
            self.open.turn(Total::Writing);
            self.transport.unlist();
        }
        self.idle_ms = None;
        counter::add(Total::Requests, 1);
        heartbeat::event(self.facts.number);
        let core = self.core();
        let age_ms = runtime::now_ms().saturating_sub(self.facts.opened_ms);
        let stream = Stream::new(Rc::clone(&self.shared), event.stream);
        if self.requests >= core.keepalive_requests() || age_ms >= core.keepalive_time_ms() {
            self.shared.state.borrow_mut().leave();
        }
        runtime::spawn(answer(stream, Rc::clone(&self.facts), event, self.requests));
    }

    /// Logs why the connection ends.
    fn report(&self) {
        let Some(failure) = self.shared.state.borrow().failure() else { return };
        let facts = &self.facts;
        let (number, peer, listener) = (facts.number, &facts.peer, &facts.listen.address);
        let who = Newcomer { number, peer, listener, action: "processing HTTP/2 connection" };
        match failure {
            Failure::Violation(what) => log::info!(self.core().log(), &who, "client sent {what}"),
            Failure::Abuse(act) => {
                let max = self.server().root.confs.http2.abuse_limit();
                log::warn!(
                    self.core().log(),
                    &who,
                    "client makes too much work for nothing, at last by {act}: raise \"http2_abuse_limit\" ({max}) if it \
                     is not an attack"
                );
            }
        }
    }

    /// Waits for whichever time comes first. Ready: it has come, and its consequence was drawn, except for a client that
    /// takes nothing.
    fn poll_time(&mut self, cx: &mut Context<'_>, is_written: bool) -> Poll<()> {
        let now_ms = runtime::now_ms();
        let core = self.core();
        let is_idle = self.is_idle();
        if is_idle && is_written && self.idle_ms.is_none() {
            self.idle_ms = Some(now_ms);
            self.open.turn(Total::Waiting);
            self.shared.state.borrow_mut().slim();
        } else if !is_idle {
            self.idle_ms = None;
        }
        let keepalive_ms = match self.shared.keepalive_ms.get() {
            _ if self.requests == 0 => core.client_header_timeout_ms(),
            Some(ms) => ms,
            None => core.keepalive_timeout_ms(),
        };
        let stuck = self.stuck_ms.map(|since| since + core.send_timeout_ms());
        let head = self.head_ms.map(|since| since + room::shorten(core.client_header_timeout_ms()));
        let idle = self.idle_ms.map(|since| since + room::shorten(keepalive_ms));
        let is_leaving = self.shared.state.borrow().is_leaving();
        let grace = self.announced_ms.filter(|_| !is_leaving).map(|since| since + GRACE_MS);
        let Some(first) = [stuck, head, idle, grace].into_iter().flatten().min() else {
            return Poll::Pending;
        };
        if first > now_ms {
            self.timer.set(first);
            ready!(self.timer.poll_expired(cx));
        }
        if stuck == Some(first) {
            return Poll::Ready(());
        }
        self.stuck_ms = None;
        let mut proto = self.shared.state.borrow_mut();
        if head == Some(first) {
            if proto.give_up_head(self.rest.data()) {
                self.head_ms = Some(now_ms + LATE_MS);
            } else {
                self.head_ms = None;
                proto.end(Code::NO_ERROR);
                proto.leave();
            }
        } else {
            proto.leave();
        }
        Poll::Ready(())
    }
}

/// Serves a connection until it ends.
pub async fn serve(mut conn: Conn) {
    let end = poll_fn(|cx| conn.poll(cx)).await;
    conn.shared.state.borrow_mut().end(Code::NO_ERROR); // the streams that are left end
    access::flush_turn();
    let core = conn.core();
    match end {
        End::Drop => {
            if conn.stuck_ms.is_some() {
                conn.transport.reset_on_close();
            }
        }
        End::Said if core.lingering_close() => {
            let is_error = conn.shared.state.borrow().failure().is_some();
            let time_ms = core.lingering_time_ms();
            let time_ms = if is_error { time_ms.min(ERROR_LINGER_MS) } else { time_ms };
            let Conn { transport, open, .. } = conn;
            Box::pin(linger(&transport, &open, core.lingering_timeout_ms(), time_ms)).await;
        }
        End::Said => {}
    }
}

/// Answers the request of a stream.
async fn answer(stream: Stream, facts: Rc<Facts>, event: Event, number: u64) {
    if stream.is_gone() {
        return; // it was given up before it began: nothing is done for it
    }
    let (tls, rest) = (facts.tls.clone(), (event.ends, event.bytes, number));
    let takes_h2 = |request: &Request| facts.listen.takes_h2(request.server);
    let Beginning { mut request, entry, is_tunnel, is_malformed } =
        facts.begin(tls, event.request, rest, takes_h2);
    if is_malformed {
        stream.ends_with(Code::PROTOCOL_ERROR);
    }
    let mut client = Client::new(Downstream::H2(&stream));
    let outcome = pinned(|| pipeline::handle(&mut request, &mut client, entry)).await;
    if let Some(upstream) = request.proxied.take_tunnel() {
        if outcome.is_ok() && is_tunnel {
            Box::pin(tunnel::run(&stream, upstream, &mut request)).await;
        }
        return;
    }
    let core = &request.location.confs.http_core;
    let is_body_late = request.error_page.status == Some(408) && !request.body.is_read();
    let is_faulty = stream.ask(|proto, id| proto.stream(id).is_some_and(|stream| stream.fault().is_some()));
    if is_body_late || is_faulty || outcome.is_err_and(|error| error.status == 400) {
        stream.ends_with(Code::PROTOCOL_ERROR);
    }
    stream.shared().request_ended(core.keepalive_timeout_ms());
}
