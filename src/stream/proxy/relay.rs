//! The relay of a session: bytes in both directions, until it is over.
//!
//! One future, which holds no buffer while nothing flows. Touches: both sockets.
//! Behaviour: nginx.org, ngx_stream_proxy_module (`proxy_timeout`, `proxy_half_close`, rates).

use std::future::poll_fn;
use std::task::Poll;

use crate::log;
use crate::net::tunnel::Tunneling;
use crate::net::{Transport, drain};
use crate::runtime;
use crate::runtime::relay::{Cause, RelayError, Side};
use crate::script::Scope;
use crate::stream::modules::proxy::Conf;
use crate::stream::pipeline::Plain;
use crate::stream::proxy::Upstream;
use crate::stream::session::Session;

/// Relays until the session is over: both sides have ended (or one, without `proxy_half_close`), neither has sent
/// anything for `proxy_timeout`, or the worker must leave.
pub async fn run(session: &mut Session, client: Transport, upstream: Upstream) {
    let Upstream { transport, place, mut course, by_connect } = upstream;
    let conf: &'static Conf = &session.server.confs.proxy;
    let mut tunneling = begin(session, conf);
    let mut waits = course.is_timed() && !by_connect;
    let started_us = session.upstream.last().started_us;
    let outcome = poll_fn(|cx| {
        let polled = tunneling.poll(&client, &transport, cx);
        if waits && let Some(answered_us) = tunneling.answered_us() {
            waits = false;
            course.note_head(answered_us.saturating_sub(started_us), runtime::now_ms());
        }
        match polled {
            Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
            Poll::Pending if drain::mode() >= drain::Mode::Now => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
    count(session, &tunneling);
    tell(session, &outcome, &tunneling);
    session.status = 200;
    if let Some(Err(RelayError { side, cause: Cause::Io(error), .. })) = &outcome
        && error.raw_os_error() == Some(nix::libc::ECONNRESET)
    {
        // A reset is passed on: the other side must not take what it has got for all there was.
        match side {
            Side::Source => transport.reset_on_close(),
            Side::Target => client.reset_on_close(),
        }
    } else {
        [&client, &transport].into_iter().filter(|side| side.tls().is_some()).for_each(|side| {
            let _ = side.shutdown();
        });
    }
    if course.is_timed() {
        let attempt = session.upstream.last();
        let first_us = if by_connect { attempt.connect_us } else { attempt.header_us };
        if let Some(first_us) = first_us {
            course.note_end(first_us, attempt.response_us());
        }
    }
    session.upstream.end();
    drop((place, course));
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
    attempt.header_us = tunneling.answered_us().map(|us| us.saturating_sub(started_us));
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
