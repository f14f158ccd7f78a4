//! The relay of a session: bytes in both directions, until it is over.
//!
//! One future, which holds no buffer while nothing flows. Touches: both sockets.
//! Behaviour: nginx.org, ngx_stream_proxy_module (`proxy_timeout`, `proxy_half_close`, rates).

use std::future::poll_fn;
use std::task::{Context, Poll};

use crate::log;
use crate::net::Transport;
use crate::net::handover::TunnelOf;
use crate::net::open::Guard;
use crate::net::transport::Probe;
use crate::net::tunnel::Tunneling;
use crate::net::tunnel::moved::{Ended, Leaving, release};
use crate::runtime;
use crate::runtime::relay::{Cause, RelayError, Side};
use crate::script::Scope;
use crate::stream::modules::proxy::Conf;
use crate::stream::moved;
use crate::stream::pipeline::{self, Plain};
use crate::stream::proxy::{Course, Upstream, must_drop};
use crate::stream::service::Service;
use crate::stream::session::Session;

/// A session that relays.
#[derive(Debug)]
pub struct Relaying {
    service: Service,
    session: Box<Session>,
    client: Transport,
    upstream: Upstream,
    tunneling: Box<Tunneling>,
    open: Guard,
    /// The balancer has heard when the first byte came.
    has_told: bool,
}

impl Relaying {
    /// Begins to relay.
    pub fn begin(
        service: Service,
        mut session: Box<Session>,
        client: Transport,
        upstream: Upstream,
        open: Guard,
    ) -> Self {
        let conf: &'static Conf = &session.server.confs.proxy;
        let tunneling = begin(&mut session, conf);
        Self { service, session, client, upstream, tunneling, open, has_told: false }
    }

    /// Goes on with a session that another process has begun.
    pub fn resume(
        service: Service,
        session: Box<Session>,
        (client, upstream): (Transport, Upstream),
        tunneling: Box<Tunneling>,
        open: Guard,
    ) -> Self {
        let has_told = tunneling.answered_us().is_some();
        Self { service, session, client, upstream, tunneling, open, has_told }
    }

    /// The number of the client's socket.
    pub fn descriptor(&self) -> Option<i32> {
        self.client.probe().map(Probe::descriptor)
    }

    /// Relays until something ends it, or it may move to another process. `has_waited` as for [`Tunneling::poll_run`].
    fn poll(&mut self, has_waited: &mut bool, cx: &mut Context<'_>) -> Poll<Ended> {
        let Upstream { transport, course, by_connect, .. } = &mut self.upstream;
        // A session of a group that is gone has none.
        if must_drop(&self.session, || course.as_ref().is_none_or(Course::has_lost_peer)) {
            return Poll::Ready(Ended::Leaves);
        }
        let polled = self.tunneling.poll_run(&self.client, transport, has_waited, cx);
        if !self.has_told
            && let Some(answered_us) = self.tunneling.answered_us()
        {
            self.has_told = true;
            let started_us = self.session.upstream.last().started_us;
            if let Some(course) = course.as_mut().filter(|_| !*by_connect).and_then(Course::timed) {
                course.note_head(answered_us.saturating_sub(started_us), runtime::now_ms());
            }
        }
        polled
    }

    /// Gives the session to a worker of the new generation. Returns it if it cannot move now.
    fn hand_over(mut self) -> Option<Self> {
        let Self { service, session, client, upstream, tunneling, .. } = &mut self;
        let leaving = Leaving {
            of: TunnelOf::Stream,
            listen: service.listen_index(session.listen),
            client,
            upstream: &upstream.transport,
            group: upstream.course.as_ref().map_or("", Course::group_name),
            peer: session.upstream.peer_name().unwrap_or_default(),
        };
        let Some((tunnel, memory)) = leaving.pack(tunneling, |out| moved::save(session, out)) else {
            return Some(self);
        };
        let Self { service, mut session, client, upstream, open, .. } = self;
        let Upstream { transport, place, course, .. } = upstream;
        session.is_moved = true;
        let fds = release([client, transport], memory);
        // Count it down here before another process can count it.
        drop((session, place, course, open));
        service.hand_over(tunnel, fds);
        None
    }

    /// Logs, and closes both connections.
    fn end(self, outcome: Option<Result<(u64, u64), RelayError>>) {
        let Self { mut session, client, upstream, tunneling, open, .. } = self;
        let Upstream { transport, place, mut course, by_connect } = upstream;
        count(&mut session, &tunneling);
        tell(&session, &outcome, &tunneling);
        session.status = 200;
        if let Some(Err(RelayError { side, cause: Cause::Io(error), .. })) = &outcome
            && error.raw_os_error() == Some(nix::libc::ECONNRESET)
        {
            // A reset is passed on: the other side must not take what it has got for all there was.
            match side {
                Side::Source => transport.reset_on_close(),
                Side::Target => client.reset_on_close(),
            }
        }
        if let Some(course) = &mut course {
            course.note_end(&mut session, by_connect);
        }
        session.upstream.end();
        drop((place, course));
        // Before the connections are closed, encrypted ones with their alert.
        pipeline::end(session);
        drop((client, transport, open));
    }
}

/// Relays until the session is over: both sides have ended (or one, without `proxy_half_close`), neither has sent
/// anything for `proxy_timeout`, or the worker must leave. If a newer generation runs, the session moves there.
///
/// An `async` block, not an `async fn`: the future of the latter would keep its argument twice.
#[allow(clippy::manual_async_fn)]
pub fn run(mut relaying: Relaying) -> impl Future<Output = ()> {
    async move {
        let outcome = loop {
            let mut has_waited = false;
            match poll_fn(|cx| relaying.poll(&mut has_waited, cx)).await {
                Ended::Over(outcome) => break Some(outcome),
                Ended::Leaves => break None,
                Ended::MayMove => match relaying.hand_over() {
                    Some(kept) => relaying = kept,
                    None => return,
                },
            }
        };
        relaying.end(outcome);
    }
}

/// The tunnel of a session, with the bytes that were read ahead.
fn begin(session: &mut Session, conf: &'static Conf) -> Box<Tunneling> {
    let (upload, download) = conf.paces(session);
    let mut tunneling = Tunneling::new(conf.timeout_ms()).paced(upload, download);
    if !conf.half_close() {
        tunneling = tunneling.ending_together();
    }
    Box::new(tunneling.beginning_with(std::mem::take(&mut session.preread)))
}

fn count(session: &mut Session, tunneling: &Tunneling) {
    let (forth, back) = tunneling.received();
    session.received = session.received.max(forth);
    session.sent += tunneling.moved().1;
    let attempt = session.upstream.last();
    attempt.sent += tunneling.moved().0;
    attempt.received += back;
    attempt.length += back;
    let started_us = attempt.started_us;
    attempt.header_us = tunneling.answered_us().map(|us| us.saturating_sub(started_us)).into();
}

/// Logs how the session ended.
fn tell(session: &Session, outcome: &Option<Result<(u64, u64), RelayError>>, tunneling: &Tunneling) {
    let log = session.logger();
    let who = match outcome {
        None => return,
        Some(Ok(_)) if tunneling.a_has_ended() => "client",
        Some(Ok(_)) => "upstream",
        Some(Err(error)) => {
            match &error.cause {
                Cause::TimedOut => {
                    log::info!(log, session, "connection timed out (110: Connection timed out)");
                    return;
                }
                Cause::Io(error) => {
                    log::info!(log, session, "the connection broke off {}", log::Cause(error))
                }
                Cause::Eof => {}
            }
            if error.side == Side::Source { "client" } else { "upstream" }
        }
    };
    let (from, to) = session.upstream.attempts().last().map_or((0, 0), |last| (last.received, last.sent));
    let (received, sent) = (session.received, session.sent);
    log::info!(
        log,
        &Plain(session),
        "{who} disconnected, bytes from/to client:{received}/{sent}, bytes from/to upstream:{from}/{to}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::clients::Client;
    use crate::upstream::trace::Attempt;

    fn size_of_output<A, F>(_: fn(A) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_session_fits_its_budget() {
        // All that a worker keeps for a session whose ends are silent, besides its descriptors and about 200 bytes in the
        // runtime's tables.
        let sizes = [
            size_of_output(run),
            size_of::<Session>(),
            size_of::<Tunneling>(),
            size_of::<Attempt>(),
            size_of::<Client>(),
        ];
        assert!(sizes.iter().sum::<usize>() <= 840, "{sizes:?}");
    }
}
