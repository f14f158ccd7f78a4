//! A connection that has switched protocols: relays bytes in both directions until both sides are done.
//!
//! Touches: both sockets. Holds no buffer while nothing flows; of the request it keeps only what its log line
//! needs. It runs as a task of its own, so that the state of a client connection between requests is not kept
//! either. RFC 9110 §7.8.

use std::future::poll_fn;
use std::task::Poll;

use crate::http::request::Request;
use crate::http::request::parked::Parked;
use crate::http::request::termination::{How, Phase, Termination, Who};
use crate::http::upstream::conf::Conf;
use crate::log;
use crate::net::open::{self, Place};
use crate::net::tunnel::Tunneling;
use crate::net::{Transport, drain};
use crate::runtime::relay::{self, RelayError};

/// The upstream side of a tunnel, and the request that asked for it.
///
/// The HTTP/1 connection starts [`run`] with it as a new task after the 101, and gives up its own transport
/// to that. Dropping it logs the request.
#[derive(Debug)]
pub struct Tunnel {
    upstream: Transport,
    place: Place,
    request: Parked,
}

impl Tunnel {
    pub fn new((upstream, place): (Transport, Place), request: Box<Request>) -> Self {
        Self { upstream, place, request: Parked::new(request) }
    }
}

/// Relays until both directions have ended, one was silent for `proxy_read_timeout`, or the worker must
/// leave.
///
/// A single future: apart from its sockets it is all that an idle tunnel costs.
pub async fn run(client: Transport, open: open::Guard, tunnel: Tunnel) {
    let Tunnel { upstream, place, request } = tunnel;
    let mut tunneling = Tunneling::new(request.location().map_or(0, |at| at.passes().read_timeout_ms()));
    let outcome = poll_fn(|cx| match tunneling.poll(&client, &upstream, cx) {
        Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
        Poll::Pending if drain::mode() >= drain::Mode::Now => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    })
    .await;
    end(request, outcome);
    drop((open, place));
}

fn end(request: Parked, outcome: Option<Result<(u64, u64), RelayError>>) {
    let Some(mut request) = request.restore() else { return };
    match outcome {
        Some(Ok((sent, received))) => {
            request.is_complete = true;
            count(&mut request, sent, received);
        }
        Some(Err(error)) => {
            request.termination = Some(reason(&error, request.passes()));
            count(&mut request, error.moved, 0);
            log::info!(request.error_log(), &request, "the upgraded connection ended: {}", error.cause);
        }
        None => {}
    }
    request.upstream.end_tunnel();
}

fn reason(error: &relay::RelayError, passes: &Conf) -> Termination {
    let who = match error.side {
        relay::Side::Source => Who::Client,
        relay::Side::Target => Who::Upstream,
    };
    match error.cause {
        // both were silent
        relay::Cause::TimedOut => {
            Termination::new(Who::Proxy, How::Timeout, Phase::Tunnel).by(passes.directive("read_timeout"))
        }
        relay::Cause::Io(_) | relay::Cause::Eof => Termination::new(who, How::Abort, Phase::Tunnel),
    }
}

fn count(request: &mut Request, sent: u64, received: u64) {
    let attempt = request.upstream.last();
    attempt.sent += sent;
    attempt.received += received;
    attempt.length += received;
    request.bytes_sent += received;
}
