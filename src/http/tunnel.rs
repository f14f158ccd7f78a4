//! A connection that has switched protocols: relays bytes in both directions until both sides are done.
//!
//! Touches: both sockets. Holds no buffer while nothing flows; of the request it keeps only what its log line
//! needs. It runs as a task of its own, so that the state of a client connection between requests is not kept
//! either. RFC 9110 §7.8.

use crate::http::Listen;
use crate::http::handshake;
use crate::http::modules::limit_conn;
use crate::http::request::Request;
use crate::http::request::parked::Parked;
use crate::http::request::parked::moved::Whereabouts;
use crate::http::request::termination::{How, Phase, Termination, Who};
use crate::http::service::Service;
use crate::http::upstream::conf::Conf;
use crate::http::upstream::switched::Switched;
use crate::log;
use crate::net::Transport;
use crate::net::handover::{NO_LISTENER, TunnelOf, TunnelState};
use crate::net::open;
use crate::net::tunnel::Tunneling;
use crate::net::tunnel::moved::{Arrived, Ended, Leaving, release};
use crate::runtime::relay::{self, RelayError};

/// A tunnel, and the request that asked for it.
///
/// The HTTP/1 connection starts [`run`] with it as a new task after the 101, and gives up its own transport
/// to that. Dropping it logs the request.
#[derive(Debug)]
pub struct Tunnel {
    service: Service,
    client: Transport,
    upstream: Switched,
    request: Parked,
    tunneling: Tunneling,
    open: open::Guard,
}

impl Tunnel {
    /// Begins a tunnel.
    pub fn new(
        service: Service,
        (client, open): (Transport, open::Guard),
        upstream: Switched,
        request: Parked,
    ) -> Self {
        open.client().lasts();
        let idle_ms = request.location().map_or(0, |at| at.passes().read_timeout_ms());
        Self { service, client, upstream, request, tunneling: Tunneling::new(idle_ms), open }
    }

    /// Gives the tunnel to a worker of the new generation. Returns it if it cannot move now.
    fn hand_over(mut self) -> Option<Self> {
        let Self { service, client, upstream, request, tunneling, .. } = &mut self;
        let leaving = Leaving {
            of: TunnelOf::Http,
            listen: request.listen().map_or(NO_LISTENER, |listen| service.listen_index(listen)),
            client,
            upstream: &upstream.transport,
            group: upstream.group_name(),
            peer: upstream.used.as_ref().map_or("", |used| &used.peer().name),
        };
        let Some((tunnel, memory)) = leaving.pack(tunneling, |out| request.save(out)) else {
            return Some(self);
        };
        let Self { service, client, upstream, request, open, .. } = self;
        let Switched { transport, place, used, .. } = upstream;
        request.forget();
        let fds = release([client, transport], memory);
        // Count it down here before another process can count it.
        drop((place, used, open));
        service.hand_over_tunnel(tunnel, fds);
        None
    }
}

/// Goes on with a tunnel that another process has begun. `None`: its state is damaged.
pub fn resume(service: Service, arrived: Arrived, listen: &'static Listen) -> Option<Tunnel> {
    let Arrived { client, upstream, tunneling, group, peer, own: TunnelState(own), open, place } = arrived;
    let upstreams = &service.worker().upstreams;
    let state = upstreams.named(&group);
    if let Some(info) = client.tls() {
        handshake::judge_again(info, service.config(), listen);
    }
    let at = Whereabouts {
        worker: service.worker(),
        listen,
        number: open.client().number(),
        probe: client.probe(),
        tls: client.tls().cloned(),
    };
    let (mut request, limited) = Parked::load(&own, at, state.as_deref())?;
    limit_conn::admit_again(&mut request, limited);
    let request = Parked::new(request);
    let used = upstreams.resume(&group, &peer).and_then(|mut course| course.take_connection());
    let upstream = Switched { transport: upstream, place, used, group: state };
    Some(Tunnel { service, client, upstream, request, tunneling: *tunneling, open })
}

/// Relays until both directions have ended, one was silent for `proxy_read_timeout`, or the worker must
/// leave. If a newer generation runs, the tunnel moves there.
///
/// A single future: apart from its sockets it is all that an idle tunnel costs. An `async` block, not an `async fn`,
/// whose future would keep the argument twice.
#[allow(clippy::manual_async_fn)]
pub fn run(mut tunnel: Tunnel) -> impl Future<Output = ()> {
    async move {
        let outcome = loop {
            let Tunnel { client, upstream, tunneling, .. } = &mut tunnel;
            match tunneling.run(client, &upstream.transport).await {
                Ended::Over(outcome) => break Some(outcome),
                Ended::Leaves => break None,
                Ended::MayMove => match tunnel.hand_over() {
                    Some(kept) => tunnel = kept,
                    None => return,
                },
            }
        };
        let Tunnel { client, upstream, request, tunneling, open, .. } = tunnel;
        end(request, outcome, tunneling.moved());
        drop((open, client, upstream));
    }
}

fn end(request: Parked, outcome: Option<Result<(u64, u64), RelayError>>, (sent, received): (u64, u64)) {
    let Some(mut request) = request.restore() else { return };
    count(&mut request, sent, received);
    match outcome {
        Some(Ok(_)) => request.is_complete = true,
        Some(Err(error)) => {
            request.termination = Some(reason(&error, request.passes()));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::request::parked;
    use crate::net::clients::Client;
    use crate::upstream::trace::Attempt;

    fn size_of_output<A, F>(_: fn(A) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_tunnel_fits_its_budget() {
        // All that a worker keeps for a tunnel whose ends are silent, besides its descriptors, the heads of the request
        // and the response, and about 200 bytes in the runtime's tables.
        let sizes = [size_of_output(run), parked::SIZE, size_of::<Attempt>(), size_of::<Client>()];
        assert!(sizes.iter().sum::<usize>() <= 640, "{sizes:?}");
    }
}
