//! The course of a session, read top to bottom: the header of a proxy in front, the phases, the content.
//!
//! Touches: the client's connection. Everything before the relay is boxed and gone once bytes flow, so that an open
//! session costs its relay only. Behaviour: nginx.org, "Stream Processing" (ngx_stream_processing).

use std::io;
use std::sync::Arc;

use crate::log::{self, access};
use crate::net::newcomer::Newcomer;
use crate::net::tls::client::Terms;
use crate::net::{Transport, drain, open, proxy_header, room};
use crate::runtime::buffer::Buffer;
use crate::runtime::{self, Either, race, timeout};
use crate::script::Scope;
use crate::shm::counter::Total;
use crate::stream::config::server::Content;
use crate::stream::handshake::{self, Chooses};
use crate::stream::modules::{self, Phase};
use crate::stream::proxy;
use crate::stream::proxy::ftp;
use crate::stream::proxy::relay::{self, Relaying};
use crate::stream::service::{Passed, Service};
use crate::stream::session::Session;
use crate::stream::verdict::Verdict;
use crate::sys::address::SockAddr;

/// How often a connection may be passed from listener to listener.
const HOPS_MAX: u8 = 10;

/// The longest that the text of `return` may take to be sent to a client that does not read.
const RETURN_MS: u64 = 60_000;

/// What is left to do once the phases are over.
enum Next {
    /// Nothing: the session is over.
    End,
    /// Nothing but to end the connection in an orderly way.
    Said,
    Relay(Box<proxy::Upstream>),
    Ftp(Box<proxy::Upstream>, Option<Arc<Terms>>),
    Pass(SockAddr),
}

/// Runs a session to its end.
pub async fn serve(
    service: Service,
    mut transport: Transport,
    mut session: Box<Session>,
    mut open: open::Guard,
) {
    open.turn(Total::Writing);
    let next = Box::pin(prepare(&mut session, &mut transport)).await;
    match next {
        Next::End => {}
        Next::Relay(upstream) => {
            // A task of its own: what has led here takes no memory while bytes flow.
            runtime::spawn(relay::run(Relaying::begin(service, session, transport, *upstream, open)));
            return;
        }
        Next::Ftp(upstream, terms) => {
            runtime::spawn(ftp::run(session, transport, *upstream, terms, open));
            return;
        }
        Next::Pass(address) => pass(service, &mut session, transport, &address),
        Next::Said => {
            end(session);
            let _ = transport.shutdown();
            return discard(&transport);
        }
    }
    end(session);
}

/// Ends a session before its connection is closed: a client that sees the close must already find its line in the log.
pub fn end(session: Box<Session>) {
    // A process that ends leaves its sockets open until the log is written; only TLS says goodbye before.
    let can_wait = drain::mode() >= drain::Mode::Now && session.tls.is_none();
    drop(session);
    if !can_wait {
        access::flush_turn();
    }
}

async fn prepare(session: &mut Session, transport: &mut Transport) -> Next {
    log::info!(
        session.logger(),
        &Plain(session),
        "client {} connected to {}",
        Shown(session.socket_peer()),
        session.local
    );
    if session.listen.proxy_protocol
        && let Err(status) = Box::pin(read_proxy_header(session, transport)).await
    {
        session.status = status;
        return Next::End;
    }
    for phase in [Phase::PostAccept, Phase::Preaccess, Phase::Access] {
        if let Err(status) = run(session, phase) {
            session.status = status;
            return Next::End;
        }
    }
    if session.listen.ssl
        && let Err(status) = Box::pin(handshake::secure(session, transport, Chooses::Server)).await
    {
        session.status = status;
        return Next::End;
    }
    if let Err(status) = preread(session, transport).await {
        session.status = status;
        return Next::End;
    }
    let name = session.server.names.first().map_or("", |name| name);
    log::debug!(session.logger(), &*session, "using server \"{name}\"");
    content(session, transport).await
}

/// Runs the handlers of a phase. Errors: the status with which one of them ends the session.
fn run(session: &mut Session, phase: Phase) -> Result<(), u16> {
    for (_, handler) in modules::HANDLERS.iter().filter(|(of, _)| *of == phase) {
        if let Verdict::Done(status) = decide(session, *handler)? {
            return Err(status);
        }
    }
    Ok(())
}

/// The verdict of a handler; the error is the status of a session whose variables could not be evaluated.
pub fn decide(session: &mut Session, handler: modules::Handler) -> Result<Verdict, u16> {
    let verdict = handler(session);
    if std::mem::take(&mut session.values.gave_up) { Err(500) } else { Ok(verdict) }
}

async fn read_proxy_header(session: &mut Session, transport: &Transport) -> Result<(), u16> {
    let core = &session.server.confs.core;
    let (log, wait_ms) = (core.log(), core.proxy_protocol_timeout_ms());
    let who = Newcomer {
        number: session.number,
        peer: &session.peer,
        listener: &session.listen.address,
        action: "reading PROXY protocol",
    };
    let read = proxy_header::read(transport, HEADER_BYTES, log, &who);
    match timeout(room::shorten(wait_ms), read).await {
        Ok(Some((header, rest))) => {
            transport.unlist();
            session.received += rest.data().len() as u64;
            session.preread = rest;
            session.proxy = Some(Box::new(header));
            Ok(())
        }
        Ok(None) if transport.is_gone() => Err(200),
        Ok(None) => Err(400),
        Err(_) => {
            log::info!(log, &who, "client timed out");
            Err(200)
        }
    }
}

/// The buffer for a PROXY header: more than most have.
const HEADER_BYTES: usize = 512;

/// Lets the handlers decide on the client's first bytes. Most have decided before there are any.
async fn preread(session: &mut Session, transport: &Transport) -> Result<(), u16> {
    for (_, handler) in modules::HANDLERS.iter().filter(|(phase, _)| *phase == Phase::Preread) {
        match decide(session, *handler)? {
            Verdict::Next => {}
            Verdict::Done(status) => return Err(status),
            Verdict::More => Box::pin(read_ahead(session, transport, *handler)).await?,
        }
    }
    Ok(())
}

/// Reads the client's first bytes for as long as a handler needs more of them.
async fn read_ahead(
    session: &mut Session,
    transport: &Transport,
    handler: modules::Handler,
) -> Result<(), u16> {
    let core = &session.server.confs.core;
    let deciding = async {
        loop {
            let held = session.preread.data().len();
            let usual = core.preread_bytes_max();
            let most = session.server.confs.mqtt.message_bytes_max().map_or(usual, |most| most.max(usual));
            if held >= most {
                log::error!(
                    session.logger(),
                    &*session,
                    "preread buffer full: raise \"preread_buffer_size\""
                );
                return Err(400);
            }
            session.preread.grow(if held < usual { usual } else { (2 * held).min(most) });
            let room = most - held;
            let space = session.preread.space();
            let room = room.min(space.len());
            transport.readable().await.map_err(|_| 200u16)?;
            match transport.try_read(&mut session.preread.space()[..room]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Ok(0) | Err(_) => return Err(200),
                Ok(count) => {
                    session.preread.filled(count);
                    session.received += count as u64;
                }
            }
            match decide(session, handler)? {
                Verdict::Next => return Ok(()),
                Verdict::Done(status) => return Err(status),
                Verdict::More => {}
            }
        }
    };
    match timeout(core.preread_timeout_ms(), deciding).await {
        Ok(decided) => decided,
        Err(_) => {
            log::info!(session.logger(), &*session, "client timed out");
            Err(200)
        }
    }
}

async fn content(session: &mut Session, transport: &Transport) -> Next {
    match session.server.content {
        Some(Content::Proxy) => match Box::pin(proxy::connect(session, transport)).await {
            Ok((upstream, terms)) if session.server.confs.ftp.is_on() => return Next::Ftp(upstream, terms),
            Ok((upstream, _)) => return Next::Relay(upstream),
            Err(status) => session.status = status,
        },
        Some(Content::Return) => {
            let text = session.server.confs.return_text.text().map(|text| text.to_vec(session));
            let text = text.unwrap_or_default();
            session.status = 200;
            session.action = "sending text to client";
            let sent = Box::pin(timeout(RETURN_MS, transport.write_all(&text))).await;
            if let Ok(Ok(())) = sent {
                session.sent += text.len() as u64;
            }
            return Next::Said;
        }
        Some(Content::Pass) => match modules::pass::target(session) {
            Some(address) => return Next::Pass(address),
            None => session.status = 500,
        },
        None => session.status = 500,
    }
    Next::End
}

/// Reads what a client has sent: closing a socket with unread bytes resets the connection, which could destroy the text
/// on its way.
fn discard(transport: &Transport) {
    let mut buffer = Buffer::take(16 * 1024);
    while matches!(transport.try_read(buffer.space()), Ok(1..)) {
        if transport.is_gone() {
            return;
        }
    }
}

fn pass(service: Service, session: &mut Session, transport: Transport, address: &SockAddr) {
    if session.hops >= HOPS_MAX {
        log::error!(
            session.logger(),
            &*session,
            "\"pass\" leads in a circle: {HOPS_MAX} listeners were passed"
        );
        session.status = 500;
        return;
    }
    session.status = 200;
    let passed = Passed {
        transport,
        peer: session.peer.clone(),
        ahead: std::mem::take(&mut session.preread),
        hops: session.hops + 1,
    };
    if service.pass(passed, address).is_err() {
        log::error!(session.logger(), &*session, "port not found for \"{address}\"");
        session.status = 500;
    }
}

/// Waits for `future`, but not longer than the client is there, if it has a connection. `None`: it has gone.
pub async fn patiently<T>(transport: Option<&Transport>, future: impl Future<Output = T>) -> Option<T> {
    let Some(transport) = transport else { return Some(future.await) };
    match race(future, transport.gone()).await {
        Either::First(value) => Some(value),
        Either::Second(()) => None,
    }
}

/// The context of the lines about the beginning and the end of a session, which name its ends themselves.
pub struct Plain<'a>(pub &'a Session);

impl log::Context for Plain<'_> {
    fn connection(&self) -> Option<u64> {
        Some(self.0.number)
    }
}

/// An address in such a line.
struct Shown<'a>(&'a SockAddr);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_unix() { out.write_str("unix:") } else { self.0.fmt(out) }
    }
}
