//! The datagrams of a session, in both directions, until it is over.
//!
//! One future. Touches: the upstream's socket, and the listening one.
//! Behaviour: nginx.org, ngx_stream_proxy_module (`proxy_requests`, `proxy_responses`, `proxy_timeout`).

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use crate::log;
use crate::net::drain;
use crate::net::pace::Pace;
use crate::runtime::{self, Io, Timer};
use crate::script::Scope;
use crate::stream::datagram::{Client, with_receiver};
use crate::stream::modules::proxy::Conf;
use crate::stream::pipeline::Plain;
use crate::stream::proxy::Search;
use crate::stream::session::Session;
use crate::sys::datagrams::BYTES_MAX;

/// How long a worker that stops waits for another answer.
const LEAVING_MS: u64 = 1_000;

/// Messages of the peer that are received at once.
const ANSWERS_MAX: usize = 8;

/// Datagrams in one direction, and their bytes.
#[derive(Clone, Copy, Default)]
struct Passed {
    count: u64,
    bytes: u64,
}

/// What a session waits for.
enum Event {
    /// Datagrams of the client wait.
    FromClient,
    /// Answers are on their way to the client.
    FromUpstream(io::Result<Passed>),
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
    /// The longest datagrams that leave for the peer in bursts.
    burst_max: usize,
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
        burst_max: BYTES_MAX,
        is_leaving: false,
    };
    pass(&mut exchange.upload, first.data().len() as u64);
    let (transport, place) = match search.connect(session).await {
        Ok(connected) => connected,
        Err(status) => return status,
    };
    let Some(io) = transport.plain() else { return 500 };
    let status = match lost_if_full(io.try_write(first.data())) {
        Ok(sent) => {
            session.upstream.last().sent += sent as u64;
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

/// If the kernel has no room for a datagram, it is lost, as it could be on its way.
fn lost_if_full(sent: io::Result<usize>) -> io::Result<usize> {
    match sent {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        sent => sent,
    }
}

fn pass(pace: &mut Option<Pace>, bytes: u64) {
    if let Some(pace) = pace {
        pace.pass(bytes);
    }
}

impl Exchange<'_> {
    /// The exchange, from the first datagram on; returns the status.
    async fn run(&mut self, session: &mut Session, io: &Io) -> u16 {
        self.idle.set(runtime::now_ms() + self.idle_ms());
        while !self.is_done() {
            match poll_fn(|cx| self.poll_event(io, cx)).await {
                Event::FromClient => {
                    if let Err(error) = self.forward(session, io) {
                        return self.failed(session, "send", &error);
                    }
                }
                Event::FromUpstream(Ok(Passed { count, bytes })) => {
                    self.responses += count;
                    pass(&mut self.download, bytes);
                    session.sent += bytes;
                    let attempt = session.upstream.last();
                    let started_us = attempt.started_us;
                    let spent_us = || runtime::now_us().saturating_sub(started_us);
                    attempt.header_us.get_or_insert_with(spent_us);
                    attempt.received += bytes;
                    attempt.length += bytes;
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

    /// Sends the client's datagrams that wait to the peer; one of them if there is a rate.
    fn forward(&mut self, session: &mut Session, io: &Io) -> io::Result<()> {
        let Self { client, upload, requests, burst_max, .. } = self;
        client.inbox.take(|waiting| {
            while let Some((first, _)) = waiting.first() {
                let sent = match upload {
                    None => io.try_send(|fd| waiting.send(fd, burst_max)),
                    Some(_) => io.try_write(first).map(|_| 1),
                };
                let (count, is_lost) = match sent {
                    Ok(count) => (count, false),
                    // No room: they are lost, as they could be on their way.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => (waiting.count(), true),
                    Err(error) => return Err(error),
                };
                let bytes = waiting.datagrams().take(count).map(|bytes| bytes.len() as u64).sum();
                *requests += count as u64;
                session.received += bytes;
                if !is_lost {
                    session.upstream.last().sent += bytes;
                }
                waiting.skip(count, false);
                if upload.is_some() {
                    pass(upload, bytes);
                    break;
                }
            }
            Ok(())
        })
    }

    /// Receives datagrams of the peer and sends them to the client, up to the last one that is expected.
    fn answer(&self, io: &Io) -> io::Result<Passed> {
        let max = if self.download.is_some() { 1 } else { ANSWERS_MAX };
        let wanted = self.answers_left().unwrap_or(u64::MAX);
        with_receiver(|receiver| {
            let count = io.try_receive_many(max, |fd| receiver.receive(fd, max))?;
            let mut passed = Passed::default();
            let messages = (0..count).map(|index| receiver.message(index)).filter(|message| !message.is_cut);
            for bytes in messages.flat_map(|message| message.datagrams()) {
                if passed.count == wanted {
                    break;
                }
                self.client.send(bytes);
                passed.count += 1;
                passed.bytes += bytes.len() as u64;
            }
            Ok(passed)
        })
    }

    /// The number of answers after which the session is over; `None`: none is the last one.
    fn answers_left(&self) -> Option<u64> {
        let responses = self.conf.responses()?;
        let wanted = self.conf.requests();
        let is_last = wanted == 0 || self.requests >= wanted;
        is_last.then(|| responses.saturating_mul(self.requests).saturating_sub(self.responses))
    }

    /// True once all answers that are expected have come.
    fn is_done(&self) -> bool {
        self.answers_left() == Some(0)
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
        let Self { client, upload, download, .. } = self;
        let mut wait_ms = None;
        let mut may_pass = |pace: &Option<Pace>| match pace.as_ref().map(Pace::allowance) {
            Some(Err(ms)) => {
                wait_ms = Some(wait_ms.map_or(ms, |other: u64| other.min(ms)));
                false
            }
            _ => true,
        };
        let (is_up, is_down) = (may_pass(upload), may_pass(download));
        if is_up && client.inbox.poll_some(cx).is_ready() {
            return Poll::Ready(Event::FromClient);
        }
        while is_down && io.poll_readable(cx).is_ready() {
            match self.answer(io) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !io.is_hung_up() => {}
                outcome => return Poll::Ready(Event::FromUpstream(outcome)),
            }
        }
        if let Some(ms) = wait_ms {
            // While a direction is held back the session is not idle.
            self.pause.set(runtime::now_ms() + ms);
            if self.pause.poll_expired(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
            return Poll::Pending;
        }
        self.idle.poll_expired(cx).map(|()| Event::TimedOut)
    }
}
