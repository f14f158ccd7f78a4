//! The TLS handshake of a client: which server makes it, and whether the client is let in.
//!
//! Touches: the client's connection. Behaviour: nginx.org, ngx_stream_ssl_module.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use crate::log;
use crate::net::newcomer::Newcomer;
use crate::net::tls::handshake::{self, Accepted, Choice, Error};
use crate::net::tls::ocsp::stapling;
use crate::net::tls::{Info, server};
use crate::net::{Transport, room};
use crate::proto::client_hello::ClientHello;
use crate::runtime::{Either, race, timeout};
use crate::script::Scope;
use crate::shared::tls::handshakes::{self, Place, ask_status, judge, lookup};
use crate::stream::config::server::Server;
use crate::stream::session::Session;
use crate::stream::verdict::Verdict;
use crate::sys::address::SockAddr;

/// The default of `ssl_handshake_timeout`.
const TIMEOUT_MS: u64 = 60_000;

/// The use of the name that a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chooses {
    /// It chooses among the servers of the listener.
    Server,
    /// The session has begun in its server, and stays there.
    Nothing,
}

/// Makes the handshake, and checks the client's certificate. Errors: the status with which the session ends.
pub async fn secure(session: &mut Session, transport: &mut Transport, chooses: Chooses) -> Result<(), u16> {
    session.action = "SSL handshaking";
    let default = session.server;
    let limit_ms = default.confs.ssl.handshake_timeout_ms().unwrap_or(TIMEOUT_MS);
    let first = std::mem::take(&mut session.preread);
    let place = Place::take(session.config().handshakes_max, session.logger());
    let outcome = match transport.plain() {
        Some(io) => {
            let choose = |hello: &ClientHello| choose(session, default, hello, chooses);
            let accepted = timeout(room::shorten(limit_ms), handshake::accept(io, first, choose));
            match race(accepted, place.gives_way()).await {
                Either::First(Ok(accepted)) => accepted,
                Either::First(Err(_)) => Err(Error::Io(io::ErrorKind::TimedOut.into())),
                Either::Second(()) => Err(Error::GaveWay),
            }
        }
        None => Err(Error::Closed),
    };
    drop(place);
    handshakes::count(&outcome, session.server.slot);
    let (log, number) = (session.logger(), session.number);
    let tls = match outcome {
        Ok(Accepted::Session(secured, tls)) => {
            session.tls = Some(Rc::clone(&secured.info));
            transport.secure(*secured);
            tls
        }
        Ok(Accepted::Plain(_)) => {
            log::info!(log, &*session, "SSL handshake failed: the client does not speak TLS");
            return Err(500);
        }
        Err(Error::Closed) => {
            log::info!(log, &*session, "peer closed connection in SSL handshake");
            return Err(500);
        }
        Err(Error::Io(error)) if error.kind() == io::ErrorKind::TimedOut => {
            log::info!(log, &*session, "SSL handshake timed out");
            return Err(500);
        }
        Err(error) => {
            log::info!(log, &*session, "SSL handshake failed: {error}");
            return Err(500);
        }
    };
    let Some(info) = session.tls.clone() else { return Err(500) };
    if let Some(path) = judge(&info, tls) {
        let found = lookup(&session.server.confs.resolver, &session.worker.resolvers);
        let peer: SockAddr = session.peer.clone();
        let who =
            Newcomer { number, peer: &peer, listener: &session.listen.address, action: "SSL handshaking" };
        Box::pin(ask_status(&info, tls, &path, (&found, log), &who, limit_ms)).await;
    }
    handshakes::count_verdict(&info, session.server.confs.ssl.client_mode(), session.server.slot);
    admit(session, &info)?;
    session.action = "initializing session";
    Ok(())
}

/// The settings for a client that has spoken, whose name chooses the session's server.
fn choose(
    session: &mut Session,
    default: &'static Server,
    hello: &ClientHello,
    chooses: Chooses,
) -> Option<Choice<&'static server::Server>> {
    if chooses == Chooses::Server && session.choose(hello.server_name.as_bytes()) != Verdict::Next {
        return None;
    }
    let chosen = session.server;
    if chosen.confs.ssl.rejects_handshakes() {
        return None;
    }
    let (own, tls) = match &chosen.tls {
        Some(tls) => (chosen, tls),
        None => (default, default.tls.as_ref()?),
    };
    let config = match own.confs.ssl.is_dynamic() {
        false => Arc::clone(tls.config(hello, false)),
        true => {
            session.tls = Some(Rc::new(Info::offered(hello.clone())));
            let folder = &session.config().folder;
            let loaded = own.confs.ssl.load_for(session, folder);
            session.tls = None;
            let loaded = loaded.map_err(|error| log::error!(session.logger(), &*session, "{error}"));
            tls.config_with(loaded.ok()?, hello, false)
        }
    };
    let worker = session.worker;
    stapling::refresh(tls.certificates(), || lookup(&own.confs.resolver, &worker.resolvers));
    Some(Choice { config, record_bytes: tls.record_bytes(), chosen: tls })
}

/// Refuses a client whose certificate is not good, or missing.
pub fn admit(session: &Session, info: &Info) -> Result<(), u16> {
    let Some(mode) = session.server.confs.ssl.client_mode() else { return Ok(()) };
    let (log, verdict) = (session.logger(), info.verdict.get());
    if info.peer_chain.is_empty() {
        if !mode.refuses_none() {
            return Ok(());
        }
        log::info!(log, session, "client sent no required SSL certificate");
        return Err(500);
    }
    if mode.refuses(verdict.outcome) {
        if let Err(refusal) = verdict.outcome {
            let number = refusal.number();
            log::info!(log, session, "client SSL certificate verify error: ({number}:{refusal})");
        }
        return Err(500);
    }
    if let Err(denial) = verdict.status {
        log::info!(log, session, "client SSL certificate verify error: {denial}");
        return Err(500);
    }
    Ok(())
}
