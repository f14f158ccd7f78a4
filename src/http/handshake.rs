//! The TLS handshake of a client: which virtual server makes it, and which requests it permits.
//!
//! Runs before the first request of a connection whose listener has `ssl`. Touches: the client's connection.
//! Behaviour: nginx.org, ngx_http_ssl_module; RFC 9110 §7.4 and §15.5.20 (421).

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use crate::http::config::server::{Listen, Server};
use crate::http::modules::https_redirect;
use crate::http::request::body::Body;
use crate::http::request::{Connection, Request};
use crate::http::{Config, Worker, h3};
use crate::log;
use crate::net::acme::challenges;
use crate::net::handover::TlsState;
use crate::net::lookup::Lookup;
use crate::net::newcomer::Newcomer;
use crate::net::tls::certificate::Certificate;
use crate::net::tls::handshake::{self, Accepted, Choice, Error};
use crate::net::tls::moved::Moved;
use crate::net::tls::ocsp::stapling;
use crate::net::tls::server;
use crate::net::tls::{Info, Session};
use crate::net::transport::Probe;
use crate::net::{Transport, room};
use crate::proto::client_hello::ClientHello;
use crate::runtime::buffer::Buffer;
use crate::runtime::{self, Either, race, timeout};
use crate::shared::tls::handshakes::{self, Place, ask_status, judge};

/// Records of a handshake after which nothing is said.
const CHALLENGE_RECORD_BYTES: usize = 4096;

/// The result of [`secure`].
pub enum Outcome {
    /// The transport is encrypted now.
    Secured,
    /// The client does not speak TLS; its first bytes.
    Plain(Buffer),
    /// The connection is over.
    Over,
}

/// Makes the handshake. `first`: bytes of the client that have been read already.
///
/// The server is the one with the name that the client asks for. If it has no certificate, the default server
/// of the address makes the handshake, as in nginx.
pub async fn secure(
    transport: &mut Transport,
    first: Buffer,
    worker: &'static Worker,
    listen: &'static Listen,
    client: &Newcomer<'_>,
) -> Outcome {
    let (config, probe) = (worker.config, transport.probe());
    let default = &config.servers[listen.default];
    let counted = Cell::new(default.slot);
    let choose = |hello: &ClientHello| {
        if let Some(config) = challenge(hello) {
            return Some(Choice { config, record_bytes: CHALLENGE_RECORD_BYTES, chosen: None });
        }
        let (asked, server, tls) = server_of(hello, config, listen)?;
        counted.set(server.slot);
        let takes_h2 = listen.takes_h2(asked);
        let config = match server.root.confs.ssl.is_dynamic() {
            false => Arc::clone(tls.config(hello, takes_h2)),
            true => {
                let loaded = load_for(hello, server, worker, (listen, client), probe)?;
                tls.config_with(loaded, hello, takes_h2)
            }
        };
        stapling::refresh(tls.certificates(), || lookup(worker, server));
        Some(Choice { config, record_bytes: tls.record_bytes(), chosen: Some((server, tls)) })
    };
    let core = &default.root.confs.http_core;
    let limit_ms = default.root.confs.ssl.handshake_timeout_ms();
    let limit_ms = limit_ms.unwrap_or_else(|| core.client_header_timeout_ms());
    let place = Place::take(config.root.ssl.handshakes_max(), core.log());
    let outcome = match transport.plain() {
        Some(io) => {
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
    handshakes::count(&outcome, counted.get());
    match outcome {
        Ok(Accepted::Session(session, None)) => {
            log::info!(core.log(), client, "an authority has checked a name (tls-alpn-01)");
            transport.secure(*session);
            Outcome::Over
        }
        Ok(Accepted::Session(session, Some((server, tls)))) => {
            let info = Rc::clone(&session.info);
            transport.secure(*session);
            if let Some(path) = judge(&info, tls) {
                let (lookup, log) = (lookup(worker, server), server.root.confs.http_core.log());
                Box::pin(ask_status(&info, tls, &path, (&lookup, log), client, limit_ms)).await;
            }
            handshakes::count_verdict(&info, server.root.confs.ssl.client_mode(), server.slot);
            Outcome::Secured
        }
        Ok(Accepted::Plain(first)) => Outcome::Plain(first),
        Err(Error::Closed) => {
            log::info!(core.log(), client, "peer closed connection in SSL handshake");
            Outcome::Over
        }
        Err(Error::Io(error)) if error.kind() == io::ErrorKind::TimedOut => {
            log::info!(core.log(), client, "client timed out");
            Outcome::Over
        }
        Err(error) => {
            log::info!(core.log(), client, "SSL handshake failed: {error}");
            Outcome::Over
        }
    }
}

/// The settings for an authority that checks a name of ours; `None`: the client is no authority, or we have asked for
/// no such check.
fn challenge(hello: &ClientHello) -> Option<Arc<rustls::ServerConfig>> {
    let mut protocols = hello.protocols();
    if protocols.next() != Some(challenges::ALPN) || protocols.next().is_some() {
        return None;
    }
    server::challenge_config(challenges::certificate(&hello.server_name)?).ok()
}

/// The server that a client asks for, and the one that makes the handshake for it. `None`: it is refused.
fn server_of(
    hello: &ClientHello,
    config: &'static Config,
    listen: &Listen,
) -> Option<(&'static Server, &'static Server, &'static server::Server)> {
    let found = listen.server_for(hello.server_name.as_bytes());
    let asked = &config.servers[found.map_or(listen.default, |(index, _)| index)];
    if asked.root.confs.ssl.rejects_handshakes() {
        return None;
    }
    match &asked.tls {
        Some(tls) if tls.certificates().is_pending() => None,
        Some(tls) => Some((asked, asked, tls)),
        None => {
            let default = &config.servers[listen.default];
            Some((asked, default, default.tls.as_ref()?))
        }
    }
}

/// Chooses the settings of a handshake of QUIC, as [`secure`] does. `None`: the client is refused.
pub fn quic_config(
    hello: &ClientHello,
    worker: &'static Worker,
    listen: &'static Listen,
    client: &Newcomer<'_>,
) -> Option<Arc<rustls::ServerConfig>> {
    let (_, server, tls) = server_of(hello, worker.config, listen)?;
    stapling::refresh(tls.certificates(), || lookup(worker, server));
    match server.root.confs.ssl.is_dynamic() {
        false => tls.quic_config(hello, h3::ALPN).map(Arc::clone),
        true => {
            let loaded = load_for(hello, server, worker, (listen, client), None)?;
            tls.quic_config_with(loaded, hello, h3::ALPN)
        }
    }
}

/// Judges the client of a handshake that is complete, or resumed. Returns the path that responders have to be asked about
/// before its first request ([`ask_about`]).
pub fn judge_first(info: &Info, config: &'static Config, listen: &Listen) -> Option<server::Path> {
    let (server, tls) = resumed_by(info, config, listen)?;
    let path = judge(info, tls);
    if path.is_none() {
        handshakes::count_verdict(info, server.root.confs.ssl.client_mode(), server.slot);
    }
    path
}

/// Asks the responders about a client's certificate.
pub async fn ask_about(
    info: &Info,
    path: &server::Path,
    worker: &'static Worker,
    listen: &Listen,
    client: &Newcomer<'_>,
) {
    let Some((server, tls)) = resumed_by(info, worker.config, listen) else { return };
    let core = &server.root.confs.http_core;
    let (lookup, limit_ms) = (lookup(worker, server), core.client_header_timeout_ms());
    ask_status(info, tls, path, (&lookup, core.log()), client, limit_ms).await;
    handshakes::count_verdict(info, server.root.confs.ssl.client_mode(), server.slot);
}

/// Counts a handshake of QUIC that is complete.
pub fn count_made(info: &Info, config: &'static Config, listen: &Listen) {
    handshakes::count_made(info, resumed_by(info, config, listen).and_then(|(server, _)| server.slot));
}

/// How names are looked up for this server.
fn lookup(worker: &Worker, server: &Server) -> Lookup {
    handshakes::lookup(&server.root.confs.resolver, &worker.resolvers)
}

/// Asks the responders again for a connection that was continued by [`resume`]: its client must be good by
/// this configuration.
pub async fn ask_status_again(
    transport: &Transport,
    worker: &'static Worker,
    listen: &'static Listen,
    client: &Newcomer<'_>,
) {
    let Some(info) = transport.tls() else { return };
    let default = &worker.config.servers[listen.default];
    let Some((server, tls)) = resumed_by(info, worker.config, listen) else { return };
    if let Some(path) = judge(info, tls) {
        let limit_ms = default.root.confs.http_core.client_header_timeout_ms();
        let (lookup, log) = (lookup(worker, server), server.root.confs.http_core.log());
        ask_status(info, tls, &path, (&lookup, log), client, limit_ms).await;
    }
}

/// The server that has made the handshake of a connection, in this configuration.
fn resumed_by(
    info: &Info,
    config: &'static Config,
    listen: &Listen,
) -> Option<(&'static Server, &'static server::Server)> {
    let found = listen.server_for(info.server_name().as_bytes());
    let own = &config.servers[found.map_or(listen.default, |(index, _)| index)];
    let default = &config.servers[listen.default];
    [own, default].into_iter().find_map(|server| Some((server, server.tls.as_ref()?)))
}

/// Loads the certificates whose names depend on the client: variables are evaluated as in a request that has
/// nothing but its connection. The files are read in the loop, as in nginx.
fn load_for(
    hello: &ClientHello,
    server: &'static Server,
    worker: &'static Worker,
    (listen, client): (&'static Listen, &Newcomer<'_>),
    probe: Option<Probe>,
) -> Option<Vec<Certificate>> {
    let connection = Connection {
        number: client.number,
        probe,
        peer: client.peer.clone(),
        proxy: None,
        tls: Some(Rc::new(Info::offered(hello.clone()))),
        local: listen.address.clone(),
        listen,
        requests: 0,
        opened_ms: runtime::now_ms(),
        is_pipelined: false,
    };
    let mut request =
        Request::new(worker, server, || connection, Buffer::default(), Box::default(), Body::none);
    let loaded = server.root.confs.ssl.load_for(&mut request, &worker.config.folder);
    request.is_parked = true; // nobody asked for anything: nothing to log
    loaded.map_err(|error| log::error!(request.error_log(), client, "{error}")).ok()
}

/// Goes on with the TLS of a connection from a worker of an older generation. False: it cannot be continued,
/// or the listener asks for something else now.
///
/// That worker is not trusted: the client's certificate is judged by this configuration. Responders are asked
/// by [`ask_status_again`], before the next request; until then the certificate has no good status.
pub fn resume(
    transport: &mut Transport,
    state: &TlsState,
    config: &'static Config,
    listen: &'static Listen,
) -> bool {
    if !listen.ssl || state.0.is_empty() {
        return listen.ssl != state.0.is_empty();
    }
    let Some(moved) = Moved::from_bytes(&state.0) else { return false };
    let Some((_, tls)) = resumed_by(&moved.info, config, listen) else { return false };
    judge(&moved.info, tls);
    transport.secure(Session::moved(moved));
    true
}

/// Judges the client of a tunnel from a worker of an older generation by this configuration, for its line in the log.
pub fn judge_again(info: &Info, config: &'static Config, listen: &'static Listen) {
    if let Some((_, tls)) = resumed_by(info, config, listen) {
        judge(info, tls);
    }
}

/// The status of the refusal of a request that may not come over this connection; `None`: it may.
///
/// 497: it is plain where TLS is spoken. 421: the connection was made for another server, and this one asks
/// for client certificates. 495 and 496: the client's certificate is not valid, or there is none.
pub fn refusal(request: &Request, is_plain_instead: bool) -> Option<u16> {
    if is_plain_instead {
        if https_redirect::applies(request) {
            return None; // it will be redirected
        }
        log::info!(request.error_log(), request, "client sent plain HTTP request to HTTPS port");
        return Some(497);
    }
    let info = request.connection.tls.as_deref()?;
    let mode = request.server.root.confs.ssl.client_mode()?;
    let verdict = info.verdict.get();
    let name = info.server_name();
    let is_other_name = !name.is_empty() && name.as_bytes() != &*request.host;
    // nginx compares the names only; without SNI it lets a certificate pass that another server has checked.
    if is_other_name || request.server.tls.as_ref().is_some_and(|tls| tls.trust_id() != verdict.trust_id) {
        log::info!(
            request.error_log(),
            request,
            "client attempted to request the server name different from the one that was negotiated"
        );
        return Some(421);
    }
    if info.peer_chain.is_empty() {
        if !mode.refuses_none() {
            return None;
        }
        log::info!(request.error_log(), request, "client sent no required SSL certificate");
        return Some(496);
    }
    if mode.refuses(verdict.outcome) {
        if let Err(refusal) = verdict.outcome {
            log::info!(
                request.error_log(),
                request,
                "client SSL certificate verify error: ({}:{refusal})",
                refusal.number()
            );
        }
        return Some(495);
    }
    if let Err(denial) = verdict.status {
        log::info!(request.error_log(), request, "client SSL certificate verify error: {denial}");
        return Some(495);
    }
    None
}
