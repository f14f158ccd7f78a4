//! The datagrams of a session, in both directions, until it is over.
//!
//! One future. Touches: the upstream's socket, and the listening one.
//! Behaviour: nginx.org, ngx_stream_proxy_module (`proxy_requests`, `proxy_responses`, `proxy_timeout`).

use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};

use crate::base::frame::{Fields, put_vector16};
use crate::log;
use crate::net::datagram::with_receiver;
use crate::net::drain;
use crate::net::handover::INLINE_BYTES_MAX;
use crate::net::open::Place;
use crate::net::pace::Pace;
use crate::net::transport::Transport;
use crate::runtime::{self, Io, Timer};
use crate::script::Scope;
use crate::stream::Listen;
use crate::stream::datagram::Client;
use crate::stream::datagram::inbox::Inbox;
use crate::stream::modules::proxy::Conf;
use crate::stream::moved::{self, ClientSide};
use crate::stream::pipeline::Plain;
use crate::stream::proxy::{Search, must_drop};
use crate::stream::service::Service;
use crate::stream::session::Session;
use crate::sys::datagrams::BYTES_MAX;
use crate::upstream;

/// How long a worker that stops waits for another answer.
const LEAVING_MS: u64 = 1_000;

/// The longest state of a session that moves; the rest of the message is its client's.
const STATE_BYTES_MAX: usize = INLINE_BYTES_MAX - 128;

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
    /// A newer generation runs.
    MayMove,
    /// The worker must leave.
    Leave,
}

/// The end of an exchange in this worker.
pub enum Outcome {
    /// With the session's status.
    Over(u16),
    /// Another worker goes on with it: its state, and the peer's socket.
    Moves(Vec<u8>, OwnedFd),
}

/// The connection to the peer that serves a session.
struct Upstream {
    transport: Transport,
    place: Place,
    /// `None`: the group of a session that has come from another process is not configured any more.
    course: Option<upstream::Session>,
}

/// Why an exchange does not go on here.
enum Ended {
    Over(u16),
    /// A newer generation runs: another worker can have it.
    MayMove,
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

/// Relays datagrams until the session is over, or moves to another worker.
pub async fn run(session: &mut Session, client: &mut Client) -> Outcome {
    let conf: &'static Conf = &session.server.confs.proxy;
    let mut search = match Search::begin(session, None).await {
        Ok(search) => search,
        Err(status) => return Outcome::Over(status),
    };
    let (mut upload, download) = conf.paces(session);
    let first = std::mem::take(&mut session.preread);
    pass(&mut upload, first.data().len() as u64);
    let (transport, place) = match search.connect(session).await {
        Ok(connected) => connected,
        Err(status) => return Outcome::Over(status),
    };
    let peer = session.upstream.peer_name().unwrap_or_default();
    let mut exchange = Exchange::new(conf, client, (upload, download), peer);
    exchange.requests = 1;
    let upstream = Upstream { transport, place, course: Some(search.into_course()) };
    let sent = match upstream.transport.plain() {
        Some(io) => lost_if_full(io.try_write(first.data())),
        None => return Outcome::Over(500),
    };
    drop(first);
    match sent {
        Ok(sent) => {
            session.upstream.last().sent += sent as u64;
            exchange.idle.set(runtime::now_ms() + exchange.idle_ms());
            exchange.complete(session, upstream).await
        }
        Err(error) => {
            let status = exchange.failed(session, "send", &error);
            end(session, upstream, status)
        }
    }
}

/// Notes the end of an exchange.
fn end(session: &mut Session, upstream: Upstream, status: u16) -> Outcome {
    // Nobody tells whether a datagram has arrived: the session does not go on elsewhere, the next one does.
    if let (502, Some(mut course)) = (status, upstream.course) {
        super::fail(&mut course, session);
    }
    session.upstream.last().status = status;
    session.upstream.end();
    drop(upstream.place);
    Outcome::Over(status)
}

/// A session of an older worker with its exchange.
pub struct Resumed {
    session: Box<Session>,
    upstream: Upstream,
    paces: (Option<Pace>, Option<Pace>),
    requests: u64,
    responses: u64,
    idle_left_ms: u64,
    waiting: Vec<Box<[u8]>>,
}

/// The bytes of the client's datagrams that move with a session. There are some only if a rate holds them back; more are
/// lost, as they could be on their way.
const MOVED_BYTES_MAX: usize = 4 * 1024;

impl Resumed {
    /// Restores what [`Exchange::save`] has written, for the session with this number.
    pub fn restore(
        service: Service,
        listen: &'static Listen,
        number: u64,
        mut fields: Fields<'_>,
        fd: OwnedFd,
    ) -> Option<Self> {
        let (requests, responses, idle_left_ms) = (fields.count()?, fields.count()?, fields.u64()?);
        let mut pace = || {
            Some(match fields.flag()? {
                true => Some(Pace::restore(&mut fields)?),
                false => None,
            })
        };
        let paces = (pace()?, pace()?);
        let count = fields.u16()?;
        let mut waiting = Vec::new();
        for _ in 0..count {
            waiting.push(fields.vector16()?.into());
        }
        let mut name = || std::str::from_utf8(fields.vector16()?).ok();
        let (group, peer) = (name()?, name()?);
        let client = ClientSide { number, probe: None, tls: None };
        let (mut session, group) = moved::restore(service, listen, client, group, fields.rest())?;
        let Ok(io) = Io::register(fd) else {
            session.is_moved = true; // it has no line in the log
            return None;
        };
        let now_ms = runtime::now_ms();
        let course = group.as_deref().and_then(|group| upstream::Session::resume(group, peer, now_ms));
        let upstream = Upstream { transport: io.into(), place: Place::new(), course };
        Some(Self { session, upstream, paces, requests, responses, idle_left_ms, waiting })
    }

    /// Gives back the datagrams that waited: they are few, and fit.
    pub fn give_waiting(&mut self, inbox: &Inbox) {
        for bytes in std::mem::take(&mut self.waiting) {
            let _ = inbox.push(&bytes);
        }
    }

    /// Goes on with the exchange.
    pub async fn run(self, client: &mut Client) -> (Box<Session>, Outcome) {
        let Self { mut session, upstream, paces, requests, responses, idle_left_ms, .. } = self;
        let conf: &'static Conf = &session.server.confs.proxy;
        let peer = session.upstream.peer_name().unwrap_or_default();
        let mut exchange = Exchange::new(conf, client, paces, peer);
        (exchange.requests, exchange.responses) = (requests, responses);
        exchange.idle.set(runtime::now_ms() + idle_left_ms.min(exchange.idle_ms()));
        let outcome = Box::pin(exchange.complete(&mut session, upstream)).await;
        (session, outcome)
    }
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

impl<'a> Exchange<'a> {
    fn new(
        conf: &'static Conf,
        client: &'a mut Client,
        (upload, download): (Option<Pace>, Option<Pace>),
        upstream: &str,
    ) -> Self {
        // A unix socket would take a burst for one datagram.
        let burst_max = if upstream.starts_with("unix:") { 0 } else { BYTES_MAX };
        Self {
            conf,
            client,
            upload,
            download,
            pause: Timer::default(),
            idle: Timer::default(),
            requests: 0,
            responses: 0,
            burst_max,
            is_leaving: false,
        }
    }

    /// The exchange until it is over, or moves.
    async fn complete(&mut self, session: &mut Session, upstream: Upstream) -> Outcome {
        loop {
            let Some(io) = upstream.transport.plain() else { return end(session, upstream, 500) };
            let course = upstream.course.as_ref();
            let has_lost_peer = || course.is_none_or(|course| course.has_lost_peer(runtime::now_ms()));
            match self.run(session, io, has_lost_peer).await {
                Ended::Over(status) => return end(session, upstream, status),
                Ended::MayMove => {}
            }
            let state = self.save(session, upstream.course.as_ref());
            if state.len() <= STATE_BYTES_MAX {
                let Upstream { transport, place, course } = upstream;
                drop((place, course));
                return match transport.release() {
                    Some(fd) => Outcome::Moves(state, fd),
                    None => Outcome::Over(500),
                };
            }
            // Only answers may still come.
            self.leave();
        }
    }

    /// The state for another worker.
    fn save(&self, session: &Session, course: Option<&upstream::Session>) -> Vec<u8> {
        let mut out = Vec::new();
        for number in [self.requests, self.responses, self.idle.left_ms()] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for pace in [&self.upload, &self.download] {
            out.push(u8::from(pace.is_some()));
            pace.iter().for_each(|pace| pace.save(&mut out));
        }
        self.client.inbox.take(|waiting| {
            let mut room = MOVED_BYTES_MAX;
            let fits = |bytes: &&[u8]| {
                let left = room.checked_sub(bytes.len());
                room = left.unwrap_or(0);
                left.is_some()
            };
            let moved: Vec<&[u8]> = waiting.datagrams().take_while(fits).collect();
            out.extend_from_slice(&(moved.len() as u16).to_le_bytes());
            moved.into_iter().for_each(|bytes| put_vector16(&mut out, bytes));
        });
        put_vector16(&mut out, course.map_or("", upstream::Session::group_name).as_bytes());
        put_vector16(&mut out, session.upstream.peer_name().unwrap_or_default().as_bytes());
        moved::save(session, &mut out);
        out
    }

    fn leave(&mut self) {
        self.is_leaving = true;
        self.idle.set(runtime::now_ms() + self.idle_ms());
    }

    /// Exchanges datagrams.
    async fn run(&mut self, session: &mut Session, io: &Io, has_lost_peer: impl Fn() -> bool) -> Ended {
        while !self.is_done() {
            let event = poll_fn(|cx| self.poll_event(session, io, cx)).await;
            if must_drop(session, &has_lost_peer) {
                return Ended::Over(200);
            }
            match event {
                Event::FromClient => {
                    if let Err(error) = self.forward(session, io) {
                        return Ended::Over(self.failed(session, "send", &error));
                    }
                }
                Event::FromUpstream(Ok(Passed { count, bytes })) => {
                    self.responses += count;
                    pass(&mut self.download, bytes);
                    session.sent += bytes;
                    let attempt = session.upstream.last();
                    if attempt.header_us.get().is_none() {
                        attempt.header_us = runtime::now_us().saturating_sub(attempt.started_us).into();
                    }
                    attempt.received += bytes;
                    attempt.length += bytes;
                }
                Event::FromUpstream(Err(error)) => {
                    return Ended::Over(self.failed(session, "recv", &error));
                }
                Event::TimedOut => return Ended::Over(self.timed_out(session)),
                Event::MayMove => return Ended::MayMove,
                Event::Leave => return Ended::Over(200),
            }
            self.idle.set(runtime::now_ms() + self.idle_ms());
        }
        self.tell(session, "done");
        Ended::Over(200)
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
                let count = match sent {
                    Ok(count) => count,
                    // They wait until there is room.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                };
                let bytes = waiting.datagrams().take(count).map(|bytes| bytes.len() as u64).sum();
                *requests += count as u64;
                session.received += bytes;
                session.upstream.last().sent += bytes;
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
    fn answer(&self, session: &Session, io: &Io) -> io::Result<Passed> {
        let max = if self.download.is_some() { 1 } else { ANSWERS_MAX };
        let wanted = self.answers_left().unwrap_or(u64::MAX);
        with_receiver(|receiver| {
            let count = io.try_receive_many(max, |fd| receiver.receive(fd, max))?;
            let mut passed = Passed::default();
            for message in (0..count).map(|index| receiver.message(index)) {
                if message.is_cut {
                    let what = "an answer that is too long for a datagram is dropped";
                    log::info!(session.logger(), session, "{what}");
                    continue;
                }
                for bytes in message.datagrams() {
                    if passed.count == wanted {
                        return Ok(passed);
                    }
                    self.client.send(bytes);
                    passed.count += 1;
                    passed.bytes += bytes.len() as u64;
                }
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

    fn poll_event(&mut self, session: &Session, io: &Io, cx: &mut Context<'_>) -> Poll<Event> {
        if drain::mode() >= drain::Mode::Now {
            return Poll::Ready(Event::Leave);
        }
        if io.poll_budget(cx).is_pending() {
            return Poll::Pending;
        }
        match drain::mode() {
            drain::Mode::HandOver if !self.is_leaving => return Poll::Ready(Event::MayMove),
            // New datagrams of the client go elsewhere; only answers may still come.
            drain::Mode::Close | drain::Mode::Now if !self.is_leaving => self.leave(),
            _ => {}
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
        if is_up && client.inbox.poll_some(cx).is_ready() && io.poll_writable(cx).is_ready() {
            return Poll::Ready(Event::FromClient);
        }
        while is_down && io.poll_readable(cx).is_ready() {
            match self.answer(session, io) {
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
