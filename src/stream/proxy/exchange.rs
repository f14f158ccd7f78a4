//! The datagrams of a session, in both directions, until it is over.
//!
//! One future. Touches: the upstream's socket, and the listening one.
//! Behaviour: nginx.org, ngx_stream_proxy_module (`proxy_requests`, `proxy_responses`, `proxy_timeout`).

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use crate::log;
use crate::net::drain;
use crate::net::pace::Pace;
use crate::runtime::{self, Io, Timer};
use crate::script::Scope;
use crate::stream::datagram::{BYTES_MAX, Client};
use crate::stream::modules::proxy::Conf;
use crate::stream::pipeline::Plain;
use crate::stream::proxy::Search;
use crate::stream::session::Session;
use crate::sys::socket;

/// How long a worker that stops waits for another answer.
const LEAVING_MS: u64 = 1_000;

/// What a session waits for.
enum Event {
    FromClient(Box<[u8]>),
    /// The bytes of an answer were sent on to the client; so many.
    FromUpstream(io::Result<usize>),
    TimedOut,
    /// The worker must leave.
    Leave,
}

struct Exchange<'a> {
    conf: &'static Conf,
    client: &'a mut Client,
    upload: Option<Pace>,
    download: Option<Pace>,
    /// For the paces.
    pause: Timer,
    idle: Timer,
    requests: u64,
    responses: u64,
    /// The worker stops.
    is_leaving: bool,
}

/// Relays datagrams until the session is over; returns its status.
pub async fn run(session: &mut Session, client: &mut Client) -> u16 {
    let conf: &'static Conf = &session.server.confs.proxy;
    let mut search = match Search::begin(session, None).await {
        Ok(search) => search,
        Err(status) => return status,
    };
    let (upload, download) = conf.paces(session);
    let first = std::mem::take(&mut session.preread);
    let mut exchange = Exchange {
        conf,
        client,
        upload,
        download,
        pause: Timer::default(),
        idle: Timer::default(),
        requests: 1,
        responses: 0,
        is_leaving: false,
    };
    pass(&mut exchange.upload, first.data().len());
    let (transport, place) = match search.connect(session).await {
        Ok(connected) => connected,
        Err(status) => return status,
    };
    let Some(io) = transport.plain() else { return 500 };
    let status = match exchange.forward(session, io, first.data()) {
        Ok(()) => {
            drop(first);
            exchange.run(session, io).await
        }
        Err(error) => exchange.failed(session, "send", &error),
    };
    // Nobody tells whether a datagram has arrived: the session does not go on elsewhere, the next one does.
    if status == 502 {
        search.fail(session);
    }
    session.upstream.last().status = status;
    session.upstream.end();
    drop(place);
    status
}

fn pass(pace: &mut Option<Pace>, bytes: usize) {
    if let Some(pace) = pace {
        pace.pass(bytes as u64);
    }
}

impl Exchange<'_> {
    /// The exchange, from the first datagram on; returns the status.
    async fn run(&mut self, session: &mut Session, io: &Io) -> u16 {
        self.idle.set(runtime::now_ms() + self.idle_ms());
        while !self.is_done() {
            match poll_fn(|cx| self.poll_event(io, cx)).await {
                Event::FromClient(bytes) => {
                    self.requests += 1;
                    session.received += bytes.len() as u64;
                    pass(&mut self.upload, bytes.len());
                    if let Err(error) = self.forward(session, io, &bytes) {
                        return self.failed(session, "send", &error);
                    }
                }
                Event::FromUpstream(Ok(count)) => {
                    self.responses += 1;
                    pass(&mut self.download, count);
                    session.sent += count as u64;
                    let attempt = session.upstream.last();
                    let started_us = attempt.started_us;
                    let spent_us = || runtime::now_us().saturating_sub(started_us);
                    attempt.header_us.get_or_insert_with(spent_us);
                    attempt.received += count as u64;
                    attempt.length += count as u64;
                }
                Event::FromUpstream(Err(error)) => return self.failed(session, "recv", &error),
                Event::TimedOut => return self.timed_out(session),
                Event::Leave => return 200,
            }
            self.idle.set(runtime::now_ms() + self.idle_ms());
        }
        self.tell(session, "done");
        200
    }

    fn idle_ms(&self) -> u64 {
        let most = if self.is_leaving { LEAVING_MS } else { u64::MAX };
        self.conf.timeout_ms().min(most)
    }

    fn failed(&self, session: &Session, call: &str, error: &io::Error) -> u16 {
        log::error!(session.logger(), session, "{call}() failed {}", log::Cause(error));
        502
    }

    /// Sends a datagram of the client to the peer.
    fn forward(&self, session: &mut Session, io: &Io, bytes: &[u8]) -> io::Result<()> {
        let sent = match io.try_write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0, // lost, as it could be on its way
            sent => sent?,
        };
        session.upstream.last().sent += sent as u64;
        Ok(())
    }

    /// True once all answers that are expected have come.
    fn is_done(&self) -> bool {
        let Some(responses) = self.conf.responses() else { return false };
        let wanted = self.conf.requests();
        (wanted == 0 || self.requests >= wanted) && self.responses >= responses.saturating_mul(self.requests)
    }

    fn timed_out(&self, session: &Session) -> u16 {
        let is_owed =
            self.conf.responses().is_some_and(|each| self.responses < each.saturating_mul(self.requests));
        if is_owed {
            log::error!(session.logger(), session, "upstream timed out (110: Connection timed out)");
            return 502;
        }
        self.tell(session, "timed out");
        200
    }

    fn tell(&self, session: &Session, what: &str) {
        let (requests, responses) = (self.requests, self.responses);
        let (received, sent) = (session.received, session.sent);
        let (from, to) = session.upstream.attempts().last().map_or((0, 0), |last| (last.received, last.sent));
        log::info!(
            session.logger(),
            &Plain(session),
            "udp {what}, packets from/to client:{requests}/{responses}, bytes from/to client:{received}/{sent}, bytes \
             from/to upstream:{from}/{to}"
        );
    }

    fn poll_event(&mut self, io: &Io, cx: &mut Context<'_>) -> Poll<Event> {
        if drain::mode() >= drain::Mode::Now {
            return Poll::Ready(Event::Leave);
        }
        if io.poll_budget(cx).is_pending() {
            return Poll::Pending;
        }
        if drain::mode() >= drain::Mode::Close && !self.is_leaving {
            // New datagrams of the client go elsewhere; only answers may still come.
            self.is_leaving = true;
            self.idle.set(runtime::now_ms() + self.idle_ms());
        }
        let Self { client, upload, download, pause, idle, .. } = self;
        let mut wait_ms = None;
        let mut may_pass = |pace: &Option<Pace>| match pace.as_ref().map(Pace::allowance) {
            Some(Err(ms)) => {
                wait_ms = Some(wait_ms.map_or(ms, |other: u64| other.min(ms)));
                false
            }
            _ => true,
        };
        let (is_up, is_down) = (may_pass(upload), may_pass(download));
        if is_up && let Poll::Ready(Some(bytes)) = client.inbox.poll_recv(cx) {
            return Poll::Ready(Event::FromClient(bytes));
        }
        while is_down && io.poll_readable(cx).is_ready() {
            match answer(io, client) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !io.is_hung_up() => {}
                outcome => return Poll::Ready(Event::FromUpstream(outcome)),
            }
        }
        if let Some(ms) = wait_ms {
            // While a direction is held back the session is not idle.
            pause.set(runtime::now_ms() + ms);
            if pause.poll_expired(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
            return Poll::Pending;
        }
        idle.poll_expired(cx).map(|()| Event::TimedOut)
    }
}

/// Receives one datagram of the peer and sends it to the client.
fn answer(io: &Io, client: &Client) -> io::Result<usize> {
    thread_local! {
        static SPACE: RefCell<Vec<u8>> = RefCell::new(vec![0; BYTES_MAX]);
    }
    SPACE.with_borrow_mut(|space| {
        let count = io.try_receive(|fd| socket::receive(fd, space))?;
        let _ = client.send(&space[..count]);
        Ok(count)
    })
}
