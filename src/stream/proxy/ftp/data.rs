//! Data connections: the port that a client connects to, both connections of a transfer, and the bytes between them.
//!
//! A transfer has one direction. The end of its source is its end; that of the other side is passed on and means nothing. Any other
//! end resets both connections, so that nobody takes a part for the whole: sockets are set to be reset first, and are told to
//! end in order when all bytes have come. A worker that is killed resets them too.
//!
//! Each connection takes one of the worker's places, a listener the one of its connection. Touches: the sockets.

use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use crate::log::{self, Cause};
use crate::net::address::Address;
use crate::net::connect;
use crate::net::open::Place;
use crate::net::pace::Pace;
use crate::net::tls::client::Terms;
use crate::net::tls::handshake::{self, Choice};
use crate::net::tunnel::Tunneling;
use crate::net::{Transport, room};
use crate::proto::client_hello::ClientHello;
use crate::proto::ftp::Direction;
use crate::proto::ftp::address::plain;
use crate::runtime::buffer::Buffer;
use crate::runtime::relay::{Cause as Why, RelayError};
use crate::runtime::{Acceptor, Io, timeout, yield_now};
use crate::script::Scope;
use crate::shared::tls::handshakes::judge;
use crate::shared::tls::outgoing;
use crate::stream::handshake::admit;
use crate::stream::modules::proxy::PREFIX;
use crate::stream::session::Session;
use crate::sys::address::SockAddr;
use crate::sys::{random, single, socket};

/// The most ports that are tried for one listener.
const TRIES_MAX: u64 = 4096;
/// Ports that are tried before other tasks have their turn: some 200 µs.
const TRIES_OF_A_TURN: u64 = 64;

/// A port that waits for the client's connection.
pub struct Listening {
    acceptor: Acceptor,
    place: Place,
    pub port: u16,
}

/// The client's end of the next data connection.
pub enum ClientEnd {
    Listening(Listening),
    /// The client listens there.
    At(SocketAddr),
}

/// The next data connection, as both sides have agreed on.
pub struct Agreed {
    pub client: ClientEnd,
    /// Where the server listens.
    pub server: SocketAddr,
}

/// Opens a port for the client at this address, whatever its port. `None`: there is none, and the log says why.
pub async fn listen(
    session: &Session,
    at: SocketAddr,
    ports: Option<RangeInclusive<u16>>,
) -> Option<Listening> {
    let log = session.logger();
    let Some(place) = room::for_upstream().await else {
        let limit = room::limit();
        log::error!(
            log,
            session,
            "{limit} worker_connections are not enough for a data connection: raise \"worker_connections\""
        );
        return None;
    };
    let mut opened = open_port(at, ports.clone()).await;
    if let Err(error) = &opened
        && room::is_shortage(error)
        && Box::pin(room::free_descriptors(error)).await
    {
        opened = open_port(at, ports.clone()).await;
    }
    let registered = opened.and_then(|fd| {
        let port = socket::local_addr(&fd)?.port().unwrap_or(0);
        Ok((Acceptor::register(fd)?, port))
    });
    match registered {
        Ok((acceptor, port)) => {
            // Clients connect before they send the command: until that comes nobody accepts, and the loop would not rest.
            acceptor.pause();
            Some(Listening { acceptor, place, port })
        }
        Err(error) if error.raw_os_error() == Some(nix::libc::EADDRINUSE) => {
            let shown = ports.map_or_else(String::new, |ports| format!("{}-{} ", ports.start(), ports.end()));
            log::error!(
                log,
                session,
                "all ports {shown}for data connections are in use: widen \"ftp_data_ports\""
            );
            None
        }
        Err(error) if room::is_shortage(&error) => {
            let remedy = room::remedy(error.raw_os_error().unwrap_or(0));
            log::error!(log, session, "no socket for a data connection {}: {remedy}", Cause(&error));
            None
        }
        Err(error) => {
            log::error!(log, session, "cannot listen on {} for a data connection {}", at.ip(), Cause(&error));
            None
        }
    }
}

/// Listens on one of the ports. They are tried from a random one on: nobody else should know the next (RFC 2577 §8). When most
/// are in use a client could have a worker try thousands with each PASV, so others have their turn in between.
async fn open_port(at: SocketAddr, ports: Option<RangeInclusive<u16>>) -> io::Result<OwnedFd> {
    let Some(ports) = ports else { return single::listen(with_port(at, 0)) };
    let (first, count) = (*ports.start(), u64::from(ports.end() - ports.start()) + 1);
    let begin = random::number() % count;
    let mut outcome = Err(io::Error::from_raw_os_error(nix::libc::EADDRINUSE));
    for step in 0..count.min(TRIES_MAX) {
        let port = first + ((begin + step) % count) as u16;
        outcome = single::listen(with_port(at, port));
        match &outcome {
            Err(error) if error.raw_os_error() == Some(nix::libc::EADDRINUSE) => {}
            _ => break,
        }
        if step % TRIES_OF_A_TURN == TRIES_OF_A_TURN - 1 {
            yield_now().await;
        }
    }
    outcome
}

/// Both connections of a transfer.
pub struct Pair {
    pub client: Transport,
    pub server: Transport,
    _places: (Place, Place),
}

impl Pair {
    /// Closes both connections, over which nothing has come.
    pub fn close(self) {
        self.client.finish_on_close();
        self.server.finish_on_close();
    }
}

/// Opens both connections. `None`: one of them cannot be had in time, and the log says why.
pub async fn open(
    session: &Session,
    agreed: Agreed,
    own: SocketAddr,
    options: &connect::Options,
    limit_ms: u64,
) -> Option<Pair> {
    let log = session.logger();
    let client = match agreed.client {
        ClientEnd::Listening(listening) => timeout(limit_ms, accept(session, listening)).await.ok().flatten(),
        ClientEnd::At(address) => {
            let bind = Some(Address::Inet(with_port(own, 0)));
            let options = connect::Options { bind, ..connect::Options::default() };
            let opened = connect::open(&Address::Inet(address), &options, limit_ms).await;
            opened.inspect_err(|why| log::info!(log, session, "data connection to client: {why}")).ok()
        }
    };
    let Some((client, place)) = client else {
        log::info!(log, session, "client opened no data connection within \"ftp_data_timeout\"");
        return None;
    };
    let opened = connect::open(&Address::Inet(agreed.server), options, limit_ms).await;
    match opened {
        Ok((server, other)) => {
            client.reset_unless_finished();
            server.reset_unless_finished();
            Some(Pair { client, server, _places: (place, other) })
        }
        Err(refusal) => {
            log::error!(log, session, "data connection to upstream {}: {refusal}", agreed.server);
            None
        }
    }
}

/// Accepts one connection from the client's own address.
async fn accept(session: &Session, listening: Listening) -> Option<(Transport, Place)> {
    let expected = session.peer.inet().map(|peer| plain(*peer).ip());
    if let Err(error) = listening.acceptor.resume() {
        log::error!(session.logger(), session, "no data connection can be awaited {}", Cause(&error));
        return None;
    }
    loop {
        let (fd, from) = match listening.acceptor.accept().await {
            Ok(accepted) => accepted,
            Err(error) if room::is_shortage(&error) && Box::pin(room::free_descriptors(&error)).await => {
                continue;
            }
            Err(error) => {
                log::error!(
                    session.logger(),
                    session,
                    "accept() failed for a data connection {}",
                    Cause(&error)
                );
                return None;
            }
        };
        if from.inet().map(|from| plain(*from).ip()) != expected || expected.is_none() {
            let _ = socket::reset_on_close(fd.as_fd());
            log::warn!(
                session.logger(),
                session,
                "data connection from {from}, which is not the client: closed"
            );
            continue;
        }
        return Some((Io::register(fd).ok()?.into(), listening.place));
    }
}

/// Encrypts a data connection of the client. False: it cannot be, and the log says why.
pub async fn secure_client(session: &Session, transport: &mut Transport, limit_ms: u64) -> bool {
    let Some(tls) = &session.server.tls else { return false };
    let Some(io) = transport.plain() else { return false };
    let choose = |hello: &ClientHello| {
        let config = Arc::clone(tls.config(hello, false));
        Some(Choice { config, record_bytes: tls.record_bytes(), chosen: () })
    };
    let log = session.logger();
    let secured = match timeout(limit_ms, handshake::accept(io, Buffer::default(), choose)).await {
        Ok(Ok(handshake::Accepted::Session(secured, ()))) => secured,
        Ok(Ok(handshake::Accepted::Plain(_))) => {
            log::info!(
                log,
                session,
                "SSL handshake of a data connection failed: the client does not speak TLS"
            );
            return false;
        }
        Ok(Err(error)) => {
            log::info!(log, session, "SSL handshake of a data connection failed: {error}");
            return false;
        }
        Err(_) => {
            log::info!(log, session, "SSL handshake of a data connection timed out");
            return false;
        }
    };
    let info = Rc::clone(&secured.info);
    transport.secure(*secured);
    judge(&info, tls);
    if admit(session, &info).is_err() {
        return false;
    }
    // It must be the client of the control connection, as far as that has shown who it is (RFC 4217 §13).
    let of_control = session.tls.as_ref().map(|tls| &tls.peer_chain);
    let is_same = of_control.is_none_or(|chain| chain.first() == info.peer_chain.first());
    if !is_same {
        log::warn!(
            log,
            session,
            "data connection with another client certificate than the control connection"
        );
    }
    is_same
}

/// Encrypts a data connection to the server. False: it cannot be, and the log says why.
pub async fn secure_server(
    session: &Session,
    transport: &mut Transport,
    terms: &Arc<Terms>,
    place: &str,
    limit_ms: u64,
) -> bool {
    let layer = session.server.confs.proxy.layer();
    match outgoing::secure(layer, transport, terms, (PREFIX, place), limit_ms).await {
        Ok(()) => true,
        Err(outgoing::Failure::Ours(why) | outgoing::Failure::Peer(why)) => {
            log::error!(session.logger(), session, "data connection to upstream: {why}");
            false
        }
        Err(outgoing::Failure::TimedOut) => {
            log::error!(
                session.logger(),
                session,
                "SSL handshake of a data connection to upstream timed out"
            );
            false
        }
    }
}

/// The bytes of a transfer on their way.
pub struct Flow {
    pub pair: Pair,
    tunneling: Tunneling,
    direction: Direction,
    /// The end of the source has been passed on.
    is_ending: bool,
    is_complete: bool,
}

impl Flow {
    /// `paces`: the rates from the client, and to it.
    pub fn new(pair: Pair, direction: Direction, idle_ms: u64, paces: (Option<Pace>, Option<Pace>)) -> Self {
        let is_upload = direction == Direction::Upload;
        let tunneling = Tunneling::new(idle_ms).paced(paces.0, paces.1).holding_end(is_upload);
        Self { pair, tunneling, direction, is_ending: false, is_complete: false }
    }

    /// Ready when the transfer is over: true if everything has arrived.
    pub fn poll(&mut self, session: &Session, cx: &mut Context<'_>) -> Poll<bool> {
        let Self { pair: Pair { client, server, .. }, tunneling, direction, .. } = self;
        let polled = tunneling.poll(client, server, cx);
        let (is_through, source, target) = match direction {
            Direction::Upload => (tunneling.a_is_through(), &*client, &*server),
            Direction::Download => (tunneling.b_is_through(), &*server, &*client),
        };
        let log = session.logger();
        match polled {
            Poll::Ready(Err(RelayError { cause: Why::TimedOut, .. })) => {
                log::info!(log, session, "data connection timed out (110: Connection timed out)");
                return Poll::Ready(false);
            }
            Poll::Ready(Err(RelayError { cause, .. })) => {
                log::info!(log, session, "data connection broke off: {cause}");
                return Poll::Ready(false);
            }
            Poll::Ready(Ok(_)) | Poll::Pending if is_through => {}
            Poll::Ready(Ok(_)) => return Poll::Ready(false),
            Poll::Pending => return Poll::Pending,
        }
        if !self.is_ending {
            // Only now: an end that is passed on cannot be taken back.
            if source.was_cut() {
                log::warn!(
                    log,
                    session,
                    "data connection ended without the end of its TLS: the transfer is incomplete"
                );
                return Poll::Ready(false);
            }
            self.is_ending = true;
            let _ = target.shutdown();
        }
        self.is_complete = ready!(target.poll_flush(cx)).is_ok();
        Poll::Ready(self.is_complete)
    }

    /// Ends both connections; returns the bytes received from the client and sent to it, and those sent to the server and received
    /// from it.
    pub fn end(self) -> [u64; 4] {
        let ((up, down), (forth, back)) = (self.tunneling.received(), self.tunneling.moved());
        [up, back, forth, down]
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        for transport in [&self.pair.client, &self.pair.server] {
            match self.is_complete {
                true => transport.finish_on_close(),
                false => transport.reset_on_close(),
            }
        }
    }
}

/// The address of a connection's end, without a detour over IPv6.
pub fn inet(address: Option<SockAddr>) -> Option<SocketAddr> {
    address.as_ref().and_then(SockAddr::inet).map(|address| plain(*address))
}

/// The address with another port. One that is local to a link stays on it.
pub fn with_port(mut address: SocketAddr, port: u16) -> SocketAddr {
    address.set_port(port);
    address
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;
    use crate::runtime::{Runtime, spawn};

    #[test]
    fn others_have_their_turn_while_ports_are_tried() {
        let (ip, ports) = (Ipv4Addr::new(127, 0, 71, 9), 20_000..=20_299);
        let taken = ports.clone().map(|port| TcpListener::bind((ip, port)));
        let taken: Vec<TcpListener> = taken.collect::<io::Result<_>>().expect("nobody else has the address");
        Runtime::new().expect("a loop").block_on(async move {
            let turns = Rc::new(Cell::new(0));
            let theirs = Rc::clone(&turns);
            spawn(async move {
                for _ in 0..10 {
                    theirs.set(theirs.get() + 1);
                    yield_now().await;
                }
            });
            let error = open_port((ip, 0).into(), Some(ports)).await.expect_err("all are taken");
            assert_eq!(error.raw_os_error(), Some(nix::libc::EADDRINUSE));
            assert!(turns.get() >= taken.len() as u64 / TRIES_OF_A_TURN, "{}", turns.get());
        });
    }
}
