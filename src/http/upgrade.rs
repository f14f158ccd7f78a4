//! A connection that has switched protocols: bytes in both directions until both sides are done.
//!
//! Touches: both sockets. Holds no buffer while nothing flows; the request lives on in it only to be logged,
//! without the bytes of its head and body.
//! RFC 9110 §7.8.

use crate::http::modules::core;
use crate::http::request::Request;
use crate::http::termination::{How, Phase, Termination, Who};
use crate::log;
use crate::net::drain;
use crate::runtime::{Either, Io, race, relay};

/// The upstream's side of a tunnel, and the request that asked for it.
#[derive(Debug)]
pub struct Tunnel {
    upstream: Io,
    request: Box<Request>,
}

impl Tunnel {
    pub fn new(upstream: Io, request: Box<Request>) -> Self {
        Self { upstream, request }
    }
}

/// Relays until both directions have ended, one was silent for `proxy_read_timeout`, or the worker must go.
pub async fn run(client: &Io, tunnel: Tunnel) {
    let Tunnel { upstream, mut request } = tunnel;
    let idle_ms = request.location.proxy.read_timeout_ms();
    let tunnel = relay::tunnel(client, &upstream, idle_ms);
    let outcome = race(tunnel, drain::reached(drain::Mode::Now)).await;
    match outcome {
        Either::First(Ok((sent, received))) => {
            request.is_complete = true;
            count(&mut request, sent, received);
        }
        Either::First(Err(error)) => {
            request.termination = Some(reason(&error));
            count(&mut request, error.moved, 0);
            log::info!(core::error_log(&request), &request, "the upgraded connection ended: {}", error);
        }
        Either::Second(()) => {}
    }
    request.upstream.end_tunnel();
}

fn reason(error: &relay::RelayError) -> Termination {
    let who = match error.side {
        relay::Side::Source => Who::Client,
        relay::Side::Target => Who::Upstream,
    };
    match error.cause {
        // both were silent
        relay::Cause::TimedOut => {
            Termination::new(Who::Proxy, How::Timeout, Phase::Tunnel).by_directive("proxy_read_timeout")
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
