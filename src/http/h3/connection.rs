//! The life of an HTTP/3 connection.
//!
//! One task takes datagrams, sends, and watches the time; requests are tasks of their own, which share the state with it.
//! Touches: the client's connection. RFC 9114; nginx.org, ngx_http_v3_module, and of ngx_http_core_module `keepalive_*`,
//! `client_header_timeout`.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use quinn_proto::ConnectionError;

use crate::base::in_place::pinned;
use crate::http::client::Client;
use crate::http::config::server::{Listen, Server};
use crate::http::downstream::Downstream;
use crate::http::h3::state::{Event, State};
use crate::http::h3::stream::{Shared, Stream};
use crate::http::handshake;
use crate::http::modules::http_core;
use crate::http::pipeline;
use crate::http::request::Request;
use crate::http::streams::{Beginning, Facts, tunnel};
use crate::http::{Service, h3};
use crate::log::{self, access};
use crate::net::newcomer::Newcomer;
use crate::net::quic;
use crate::net::tls::Info;
use crate::net::{clients, drain, open, room, tls};
use crate::proto::h3::Code;
use crate::runtime::{self, Timer};
use crate::shared::tls::handshakes;
use crate::shm::counter::{self, Total};
use crate::shm::heartbeat;
use crate::sys::address::SockAddr;

/// How long requests are still served after the first GOAWAY.
const GRACE_MS: u64 = 1000;

/// The facts about the client's certificate.
#[derive(Debug)]
enum Judged {
    /// The handshake is not far enough.
    Not,
    /// Responders are being asked; requests wait.
    Asking,
    Done,
}

/// One connection; [`serve`] owns it for its whole life.
pub struct Conn {
    shared: Rc<Shared>,
    facts: Rc<Facts>,
    open: open::Guard,
    timer: Timer,
    tls: Option<Rc<tls::Info>>,
    judged: Judged,
    /// The responders have answered.
    answer: Rc<Cell<bool>>,
    /// The handshake's place among those of the worker, until it is complete.
    place: Option<handshakes::Place>,
    has_given_way: bool,
    is_counted: bool,
    requests: u64,
    /// When the wait began that may end the connection: for the next request, for it to know that we leave.
    idle_ms: Option<u64>,
    announced_ms: Option<u64>,
    /// When the client is asked next whether it is still there, while requests wait for something else.
    ping_ms: u64,
}

impl Conn {
    pub fn new(
        quic: quic::Connection,
        service: Service,
        listen: &'static Listen,
        (number, local): (u64, SockAddr),
        open: open::Guard,
    ) -> Self {
        let server = &service.config().servers[listen.default];
        let confs = &server.root.confs;
        let limits = h3::state::Limits {
            head: confs.http_core.field_limits(),
            abuse_max: confs.http3.abuse_limit(),
            takes_connect: confs.http3.takes_connect(),
        };
        let facts = Facts {
            service,
            listen,
            number,
            probe: None,
            peer: SockAddr::Inet(quic.peer()),
            proxy: None,
            tls: None,
            local,
            opened_ms: runtime::now_ms(),
        };
        let place =
            handshakes::Place::take(service.config().root.ssl.handshakes_max(), confs.http_core.log());
        Self {
            shared: Shared::new(State::new(quic, limits)),
            facts: Rc::new(facts),
            open,
            timer: Timer::new(),
            tls: None,
            judged: Judged::Not,
            answer: Rc::default(),
            place: Some(place),
            has_given_way: false,
            is_counted: false,
            requests: 0,
            idle_ms: None,
            announced_ms: None,
            ping_ms: 0,
        }
    }

    fn server(&self) -> &'static Server {
        &self.facts.service.config().servers[self.facts.listen.default]
    }

    fn core(&self) -> &'static http_core::Conf {
        &self.server().root.confs.http_core
    }

    /// Ready when nothing of the connection is left.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.shared.wake_later(cx.waker());
        loop {
            let now = Instant::now();
            let is_all = {
                let mut state = self.shared.state.borrow_mut();
                let is_all = state.quic.receive(cx, now);
                state.handle();
                let is_ended = self.open.client().poll_ended(cx).is_ready();
                if is_ended || drain::mode() >= drain::Mode::Now {
                    state.end();
                }
                is_all
            };
            self.secure();
            self.has_given_way = self.place.as_ref().is_some_and(|place| place.poll_gives_way(cx).is_ready());
            if self.has_given_way {
                // Its client is not told: nobody would listen to most of these packets.
                return Poll::Ready(());
            }
            self.begin_requests();
            self.keep_promises();
            let is_sent = self.shared.state.borrow_mut().quic.poll_send(cx, now).is_ready();
            if self.is_gone() {
                return Poll::Ready(());
            }
            if !is_all {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if is_sent && self.is_over() {
                self.shared.state.borrow_mut().end();
                continue;
            }
            if self.shared.state.borrow_mut().quic.poll_time(cx, now).is_ready() {
                continue;
            }
            if self.poll_limits(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// True once the client knows that the connection is closed, or will not get to know.
    fn is_gone(&self) -> bool {
        let state = self.shared.state.borrow();
        match state.lost() {
            Some(ConnectionError::LocallyClosed) | None => {}
            // nobody listens to an answer any more
            Some(_) => return true,
        }
        // One close is sent; packets that come later are answered by a stateless reset.
        state.quic.is_over()
    }

    /// Takes over what the handshake has led to.
    fn secure(&mut self) {
        let state = self.shared.state.borrow();
        let is_connected = state.is_connected();
        if is_connected && !self.is_counted {
            self.is_counted = true;
            self.place = None;
            let info = state.quic.info();
            drop(state);
            if let Some(early) = self.tls.take() {
                early.is_early.set(false);
            }
            let Some(info) = info.map(Rc::new) else { return };
            handshake::count_made(&info, self.facts.service.config(), self.facts.listen);
            self.judge(info);
        } else if self.tls.is_none() && !is_connected && state.has_requests() {
            // Early data: there is a session, and with it the client's certificate.
            let info = state.quic.info();
            drop(state);
            if let Some(info) = info {
                self.judge(Rc::new(info));
            }
        }
        if matches!(self.judged, Judged::Asking) && self.answer.get() {
            self.judged = Judged::Done;
        }
    }

    /// Judges the client's certificate, and has responders asked if it must be.
    fn judge(&mut self, info: Rc<Info>) {
        let facts = Rc::clone(&self.facts);
        self.tls = Some(Rc::clone(&info));
        self.judged = Judged::Done;
        let (worker, listen) = (facts.service.worker(), facts.listen);
        if let Some(path) = handshake::judge_first(&info, worker.config, listen) {
            self.judged = Judged::Asking;
            let (answer, shared) = (Rc::clone(&self.answer), Rc::clone(&self.shared));
            runtime::spawn(async move {
                let client = newcomer(&facts, "SSL handshaking");
                handshake::ask_about(&info, &path, worker, listen, &client).await;
                answer.set(true);
                shared.wake();
            });
        }
    }

    /// Starts the requests that have arrived.
    fn begin_requests(&mut self) {
        while matches!(self.judged, Judged::Done) {
            let Some(event) = self.shared.state.borrow_mut().next_request() else { break };
            self.begin(event);
        }
    }

    /// Starts a request's task.
    fn begin(&mut self, event: Event) {
        let Some(tls) = self.tls.clone() else { return };
        self.requests += 1;
        self.open.client().asks_once_more();
        if self.requests == 1 || self.idle_ms.is_some() {
            self.open.turn(Total::Writing);
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
        runtime::spawn(answer(stream, Rc::clone(&self.facts), tls, event, self.requests));
    }

    /// The demands of a reload, a stop, or the limits of the settings.
    fn keep_promises(&mut self) {
        let mut state = self.shared.state.borrow_mut();
        if state.is_leaving() {
            return;
        }
        if self.shared.is_last.get() {
            state.leave();
        } else if drain::mode() > drain::Mode::Serving && self.announced_ms.is_none() {
            self.announced_ms = Some(runtime::now_ms());
            // Without requests the client would not send one within the time of grace.
            match state.is_connected() && state.stream_count() > 0 {
                true => state.announce_leaving(),
                false => state.leave(),
            }
        }
    }

    /// True if nothing more is to be done but closing.
    fn is_over(&self) -> bool {
        let mut state = self.shared.state.borrow_mut();
        state.is_leaving() && state.stream_count() == 0 && state.is_flushed()
    }

    fn is_idle(&self) -> bool {
        self.shared.state.borrow().stream_count() == 0
    }

    /// Waits for whichever time comes first. Ready: it has come, and its consequence was drawn.
    fn poll_limits(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let now_ms = runtime::now_ms();
        let core = self.core();
        let is_connected = self.shared.state.borrow().is_connected();
        if self.is_idle() {
            if self.idle_ms.is_none() {
                self.idle_ms = Some(now_ms);
                self.open.turn(Total::Waiting);
                self.shared.state.borrow_mut().slim();
            }
        } else {
            self.idle_ms = None;
        }
        let ping_after_ms = (core.keepalive_timeout_ms() / 2).max(1000);
        if self.idle_ms.is_some() || self.ping_ms == 0 {
            self.ping_ms = now_ms + ping_after_ms;
        }
        let keepalive_ms = match self.shared.keepalive_ms.get() {
            _ if !is_connected => self.server().root.confs.ssl.handshake_timeout_ms(),
            _ if self.requests == 0 => None,
            Some(ms) => Some(ms),
            None => Some(core.keepalive_timeout_ms()),
        };
        let keepalive_ms = keepalive_ms.unwrap_or_else(|| core.client_header_timeout_ms());
        let head_timeout_ms = room::shorten(core.client_header_timeout_ms());
        let head = self.shared.state.borrow().oldest_head_ms().map(|since| since + head_timeout_ms);
        let idle = self.idle_ms.map(|since| since + room::shorten(keepalive_ms));
        let is_leaving = self.shared.state.borrow().is_leaving();
        let idle = if is_leaving { None } else { idle };
        let grace = self.announced_ms.filter(|_| !is_leaving).map(|since| since + GRACE_MS);
        let ping = self.idle_ms.is_none().then_some(self.ping_ms);
        let Some(first) = [head, idle, grace, ping].into_iter().flatten().min() else {
            return Poll::Pending;
        };
        if first > now_ms {
            self.timer.set(first);
            std::task::ready!(self.timer.poll_expired(cx));
        }
        let mut state = self.shared.state.borrow_mut();
        if ping == Some(first) {
            self.ping_ms = now_ms + ping_after_ms;
            state.quic.state.ping();
        } else if head == Some(first) {
            state.give_up_heads(first - head_timeout_ms);
        } else if idle == Some(first) {
            // As nginx: there is nobody to whom a GOAWAY would tell more.
            state.end();
        } else {
            state.leave();
        }
        Poll::Ready(())
    }

    /// Logs why the connection has ended, and counts a handshake that has failed.
    fn report(&self) {
        let state = self.shared.state.borrow();
        let who = newcomer(&self.facts, "processing HTTP/3 connection");
        let log = self.core().log();
        match (state.fault(), state.abuse()) {
            (_, Some(act)) => {
                let max = self.server().root.confs.http3.abuse_limit();
                log::warn!(
                    log,
                    &who,
                    "client makes too much work for nothing, at last by {act}: raise \"http3_abuse_limit\" ({max}) if it \
                     is not an attack"
                );
            }
            (Some(fault), None) => log::info!(log, &who, "client sent {}", fault.text),
            (None, None) => {}
        }
        if !self.is_counted {
            handshakes::count_failed(self.server().slot);
            let who = newcomer(&self.facts, "SSL handshaking");
            match state.lost() {
                None if self.has_given_way => {
                    log::info!(log, &who, "SSL handshake failed: closed to make room for other connections");
                }
                Some(ConnectionError::TimedOut) | None => log::info!(log, &who, "client timed out"),
                Some(error) => log::info!(log, &who, "SSL handshake failed: {error}"),
            }
        } else if let Some(
            error @ (ConnectionError::TransportError(_) | ConnectionError::ConnectionClosed(_)),
        ) = state.lost()
        {
            log::info!(log, &who, "QUIC connection ended: {error}");
        }
    }
}

fn newcomer<'f>(facts: &'f Facts, action: &'static str) -> Newcomer<'f> {
    Newcomer { number: facts.number, peer: &facts.peer, listener: &facts.listen.address, action }
}

/// Serves a connection until it ends.
pub async fn serve(mut conn: Conn) {
    conn.open.client().speaks(clients::Protocol::Http3);
    poll_fn(|cx| conn.poll(cx)).await;
    conn.report();
    conn.shared.state.borrow_mut().end(); // the streams that are left end
    access::flush_turn();
}

/// Answers the request of a stream.
async fn answer(stream: Stream, facts: Rc<Facts>, tls: Rc<tls::Info>, event: Event, number: u64) {
    if stream.is_gone() {
        return; // it was given up before it began: nothing is done for it
    }
    let rest = (event.ends, event.bytes, number);
    let takes_h3 = |request: &Request| request.server.root.confs.http3.is_on();
    let Beginning { mut request, entry, is_tunnel, is_malformed } =
        facts.begin(Some(tls), event.request, rest, takes_h3);
    if is_malformed {
        stream.ends_with(Code::MESSAGE_ERROR);
    }
    let mut client = Client::new(Downstream::H3(&stream));
    let outcome = pinned(|| pipeline::handle(&mut request, &mut client, entry)).await;
    if let Some(upstream) = request.proxied.take_tunnel() {
        if outcome.is_ok() && is_tunnel {
            Box::pin(tunnel::run(&stream, upstream, &mut request)).await;
        }
        return;
    }
    let core = &request.location.confs.http_core;
    let is_body_late = request.error_page.status == Some(408) && !request.body.is_read();
    if is_body_late || stream.is_faulty() || outcome.is_err_and(|error| error.status == 400) {
        stream.ends_with(Code::MESSAGE_ERROR);
    }
    stream.shared().state.borrow_mut().pay_back();
    stream.shared().request_ended(core.keepalive_timeout_ms());
}
