//! The TLS handshake of a client, from the start or after STARTTLS, and whether the client is let in.
//!
//! Touches: the client's connection. Behaviour: nginx.org, ngx_mail_ssl_module.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use crate::log;
use crate::mail::protocol::Farewell;
use crate::mail::service::Service;
use crate::mail::session::Session;
use crate::net::newcomer::Newcomer;
use crate::net::tls::handshake::{self, Accepted, Choice, Error};
use crate::net::tls::ocsp::stapling;
use crate::net::{Transport, room};
use crate::proto::client_hello::ClientHello;
use crate::runtime::buffer::Buffer;
use crate::runtime::{Either, race, timeout};
use crate::script::Scope;
use crate::shared::tls::handshakes::{self, Place, ask_status, judge, lookup};
use crate::sys::address::SockAddr;

/// Makes the handshake, and checks the client's certificate. `first`: what the client has sent already, none of it in plain.
///
/// Errors: the last words to the client, over the encrypted connection; `None`: there is none, and the log says why.
pub async fn secure(
    service: Service,
    session: &mut Session,
    transport: &mut Transport,
    first: Buffer,
) -> Result<(), Option<Farewell>> {
    session.action = if session.starttls { "in starttls state" } else { "SSL handshaking" };
    let conf = &session.server.confs;
    let limit_ms = conf.ssl.handshake_timeout_ms().unwrap_or(conf.core.timeout_ms());
    let Some(tls) = &session.server.tls else { return Err(Some(Farewell::InternalError)) };
    let place = Place::take(session.config.handshakes_max, session.logger());
    let outcome = match transport.plain() {
        Some(io) => {
            let choose = |hello: &ClientHello| {
                if conf.ssl.rejects_handshakes() {
                    return None;
                }
                let resolver = || lookup(&conf.resolver.servers, service.resolvers());
                stapling::refresh(tls.certificates(), resolver);
                let config = Arc::clone(tls.config(hello, false));
                Some(Choice { config, record_bytes: tls.record_bytes(), chosen: () })
            };
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
    let log = session.logger();
    match outcome {
        Ok(Accepted::Session(secured, ())) => {
            session.tls = Some(Rc::clone(&secured.info));
            transport.secure(*secured);
        }
        Ok(Accepted::Plain(_)) => {
            log::info!(log, &*session, "SSL handshake failed: the client does not speak TLS");
            return Err(None);
        }
        Err(Error::Closed) => {
            log::info!(log, &*session, "peer closed connection in SSL handshake");
            return Err(None);
        }
        Err(Error::Io(error)) if error.kind() == io::ErrorKind::TimedOut => {
            log::info!(log, &*session, "client timed out (110: Connection timed out)");
            return Err(None);
        }
        Err(error) => {
            log::info!(log, &*session, "SSL handshake failed: {error}");
            return Err(None);
        }
    }
    let Some(info) = session.tls.clone() else { return Err(None) };
    if let Some(path) = judge(&info, tls) {
        let found = lookup(&conf.resolver.servers, service.resolvers());
        let peer: SockAddr = session.peer.clone();
        let (number, listener) = (session.number, &session.listen.address);
        let who = Newcomer { number, peer: &peer, listener, action: "SSL handshaking" };
        Box::pin(ask_status(&info, tls, &path, (&found, log), &who, limit_ms)).await;
    }
    handshakes::count_verdict(&info, conf.ssl.client_mode(), session.server.slot);
    admit(session).map_err(Some)
}

/// Refuses a client whose certificate is not good, or missing.
fn admit(session: &Session) -> Result<(), Farewell> {
    let (Some(mode), Some(info)) = (session.server.confs.ssl.client_mode(), &session.tls) else {
        return Ok(());
    };
    let (log, verdict) = (session.logger(), info.verdict.get());
    if info.peer_chain.is_empty() {
        if !mode.refuses_none() {
            return Ok(());
        }
        log::info!(log, session, "client sent no required SSL certificate");
        return Err(Farewell::NoCertificate);
    }
    if mode.refuses(verdict.outcome) {
        if let Err(refusal) = verdict.outcome {
            let number = refusal.number();
            log::info!(log, session, "client SSL certificate verify error: ({number}:{refusal})");
        }
        return Err(Farewell::BadCertificate);
    }
    if let Err(denial) = verdict.status {
        log::info!(log, session, "client SSL certificate verify error: {denial}");
        return Err(Farewell::BadCertificate);
    }
    Ok(())
}
