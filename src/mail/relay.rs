//! The relay of a session that has logged in: bytes in both directions, until it is over.
//!
//! One future, which holds no buffer while nothing flows. Touches: both sockets. Behaviour: nginx.org, ngx_mail_proxy_module
//! (`proxy_timeout`).

use std::future::poll_fn;
use std::task::{Context, Poll};

use crate::base::frame::{Fields, put_vector16};
use crate::log;
use crate::mail::Listen;
use crate::mail::service::Service;
use crate::mail::session::Session;
use crate::mail::upstream::Upstream;
use crate::net::handover::{TunnelOf, TunnelState, load_address, save_address};
use crate::net::open::{Guard, Place};
use crate::net::transport::{Probe, Transport};
use crate::net::tunnel::Tunneling;
use crate::net::tunnel::moved::{Arrived, Ended, Leaving, release};
use crate::runtime;
use crate::runtime::buffer::Buffer;
use crate::runtime::relay::{Cause, RelayError};
use crate::script::Scope;
use crate::shm::counter::Word;
use crate::sys::address::SockAddr;

/// A session that relays.
#[derive(Debug)]
pub struct Relaying {
    service: Service,
    session: Box<Session>,
    client: Transport,
    upstream: Transport,
    place: Place,
    tunneling: Box<Tunneling>,
    open: Guard,
}

impl Relaying {
    /// Begins to relay. `rest`: what the client has sent beyond its login.
    pub fn begin(
        service: Service,
        mut session: Box<Session>,
        client: Transport,
        upstream: Upstream,
        rest: Buffer,
        open: Guard,
    ) -> Self {
        session.status = 200;
        session.add(Word::LOGINS);
        session.action = "";
        log::info!(session.logger(), &*session, "client logged in");
        session.action = "proxying";
        session.received -= (rest.data().len() as u64).min(session.received); // the tunnel counts them
        let Upstream { transport, place, welcome } = upstream;
        let timeout_ms = session.server.confs.proxy.timeout_ms();
        let tunneling = Tunneling::new(timeout_ms).ending_together().beginning_with(rest);
        let tunneling = Box::new(tunneling.answering_with(Buffer::of(welcome)));
        Self { service, session, client, upstream: transport, place, tunneling, open }
    }

    /// The number of the client's socket.
    pub fn descriptor(&self) -> Option<i32> {
        self.client.probe().map(Probe::descriptor)
    }

    fn poll(&mut self, has_waited: &mut bool, cx: &mut Context<'_>) -> Poll<Ended> {
        self.tunneling.poll_run(&self.client, &self.upstream, has_waited, cx)
    }

    /// Gives the session to a worker of the new generation. Returns it if it cannot move now.
    fn hand_over(mut self) -> Option<Self> {
        let Self { service, session, client, upstream, tunneling, .. } = &mut self;
        let leaving = Leaving {
            of: TunnelOf::Mail,
            listen: service.listen_index(session.listen),
            client,
            upstream,
            group: "",
            peer: session.upstream.as_deref().unwrap_or_default(),
        };
        let Some((tunnel, memory)) = leaving.pack(tunneling, |out| save(session, out)) else {
            return Some(self);
        };
        let Self { service, mut session, client, upstream, place, open, .. } = self;
        session.is_moved = true;
        let fds = release([client, upstream], memory);
        // Count it down here before another process can count it.
        drop((session, place, open));
        service.hand_over(tunnel, fds);
        None
    }

    /// Logs, and closes both connections.
    fn end(self, outcome: Option<Result<(u64, u64), RelayError>>) {
        let Self { mut session, client, upstream, place, tunneling, open, .. } = self;
        let (forth, back) = (tunneling.received().0, tunneling.moved().1);
        session.received += forth;
        session.sent += back;
        let log = session.logger();
        match outcome {
            None => log::info!(log, &session, "shutdown timeout"),
            Some(Err(RelayError { cause: Cause::TimedOut, .. })) => {
                let who = if tunneling.a_has_ended() { "upstream" } else { "client" };
                log::info!(log, &session, "{who} timed out (110: Connection timed out)");
            }
            Some(Err(RelayError { cause, .. })) => {
                log::info!(log, &session, "the connection broke off: {cause}");
                session.action = "";
                log::info!(log, &session, "proxied session done");
            }
            Some(Ok(_)) => {
                session.action = "";
                log::info!(log, &session, "proxied session done");
            }
        }
        // Before the connections are closed, encrypted ones with their alert.
        drop((session, place));
        drop((client, upstream, open));
    }
}

/// Relays until the session is over: one side has ended and its bytes have reached the other, neither has sent anything for
/// `proxy_timeout`, or the worker must leave. If a newer generation runs, the session moves there.
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

/// Appends what another worker needs of a session.
fn save(session: &Session, out: &mut Vec<u8>) {
    let ago_us = runtime::now_us().saturating_sub(session.started_us);
    for number in [ago_us, session.received, session.sent] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.push(u8::from(session.starttls));
    save_address(Some(&session.peer), out);
    save_address(Some(&session.local), out);
    let login = &session.login[..session.login.len().min(usize::from(u16::MAX))];
    put_vector16(out, login);
}

/// Makes the session of a tunnel that has arrived. `None`: its state is damaged.
pub fn resume(service: Service, arrived: Arrived, listen: &'static Listen) -> Option<Relaying> {
    let Arrived { client, upstream, tunneling, peer, own: TunnelState(own), open, place, .. } = arrived;
    let mut fields = Fields(&own);
    let (ago_us, received, sent) = (fields.u64()?, fields.count()?, fields.count()?);
    let starttls = fields.flag()?;
    let from = load_address(&mut fields)?.unwrap_or_else(|| SockAddr::Unix(Default::default()));
    let local = load_address(&mut fields)?.unwrap_or_else(|| listen.address.clone());
    let login = fields.vector16()?;
    let number = open.client().number();
    open.client().speaks(service.config().servers[listen.server].terms.protocol.of_clients());
    let mut session = Box::new(Session::new(service.config(), listen, number, from, local));
    session.is_moved = true; // until it is complete
    if !fields.0.is_empty() {
        // All of `vector16` was taken: what is left is something else.
        return None;
    }
    session.login = login.into();
    session.started_us = runtime::now_us().saturating_sub(ago_us);
    (session.received, session.sent, session.starttls) = (received, sent, starttls);
    session.tls = client.tls().map(std::rc::Rc::clone);
    session.upstream = Some(peer);
    (session.status, session.action) = (200, "proxying");
    session.is_moved = false;
    Some(Relaying { service, session, client, upstream, place, tunneling, open })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::clients::Client;

    fn size_of_output<A, F>(_: fn(A) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_session_fits_its_budget() {
        // All that a worker keeps for a session whose ends are silent, besides its descriptors, its name and its server's
        // address, and about 200 bytes in the runtime's tables.
        let sizes = [size_of_output(run), size_of::<Session>(), size_of::<Tunneling>(), size_of::<Client>()];
        assert!(sizes.iter().sum::<usize>() <= 896, "{sizes:?}");
    }
}
