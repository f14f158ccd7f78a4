//! The beginning of a connection, before its first request: the header of a proxy in front, and TLS.
//!
//! Touches: the client's connection.

use std::rc::Rc;

use super::{Conn, Held, linger};
use crate::http::config::server::Listen;
use crate::http::handshake;
use crate::http::request::error::{Error, Kind};
use crate::log::{self, access};
use crate::net::newcomer::Newcomer;
use crate::net::{Transport, proxy_header, room};
use crate::runtime::buffer::Buffer;
use crate::runtime::timeout;

/// The state of a connection's TLS: required by its listener, made, or missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Security {
    /// `listen` without `ssl`.
    Plain,
    /// The client's handshake is to come.
    Handshake,
    /// The connection came from another worker, and the status of its client's certificate is unknown.
    Status,
    Tls,
    /// The client speaks plain HTTP where TLS is spoken: it learns that, and nothing else.
    PlainInstead,
}

impl Security {
    pub(super) fn new(listen: &Listen) -> Self {
        if listen.ssl { Self::Handshake } else { Self::Plain }
    }

    /// Of a connection that came from another worker.
    pub(super) fn of_adopted(transport: &Transport) -> Self {
        match transport.tls() {
            None => Self::Plain,
            Some(info) if info.verdict.get().status.is_err() => Self::Status,
            Some(_) => Self::Tls,
        }
    }
}

impl Conn {
    /// Begins with bytes of the client that have been read already.
    #[must_use]
    pub(in crate::http) fn with_ahead(mut self, ahead: Buffer) -> Self {
        if !ahead.data().is_empty() {
            self.held = Held::Ahead(ahead);
        }
        self
    }
}

/// Reads the PROXY header before the first request; false: the connection is over.
pub(super) async fn read_proxy_header(conn: &mut Conn) -> bool {
    let core = &conn.default_server().root.confs.http_core;
    let (buffer_size, wait_ms) = (core.client_header_buffer_size(), core.client_header_timeout_ms());
    let (number, peer, listener) = (conn.number, &conn.peer, &conn.listen.address);
    let who = Newcomer { number, peer, listener, action: "reading PROXY protocol" };
    let read = proxy_header::read(&conn.transport, buffer_size, core.log(), &who);
    match timeout(room::shorten(wait_ms), read).await {
        Ok(Some((header, rest))) => {
            conn.transport.unlist();
            conn.proxy = Some(Rc::new(header));
            conn.held = if rest.data().is_empty() { Held::Nothing } else { Held::Ahead(rest) };
            true
        }
        Ok(None) => false,
        Err(_) => {
            log::info!(core.log(), &who, "{}", Error::client(Kind::TimedOut));
            false
        }
    }
}

/// Makes the handshake that the listener requires; false: the connection is over.
pub(super) async fn secure(conn: &mut Conn) -> bool {
    let first = match std::mem::take(&mut conn.held) {
        Held::Ahead(first) => first,
        Held::Nothing | Held::Head(_) => Buffer::default(),
    };
    let (number, peer, listener) = (conn.number, &conn.peer, &conn.listen.address);
    let who = Newcomer { number, peer, listener, action: "SSL handshaking" };
    let outcome =
        handshake::secure(&mut conn.transport, first, conn.service.worker(), conn.listen, &who).await;
    conn.transport.unlist();
    match outcome {
        handshake::Outcome::Secured => conn.security = Security::Tls,
        handshake::Outcome::Plain(first) => {
            conn.security = Security::PlainInstead;
            conn.held = Held::Ahead(first);
        }
        handshake::Outcome::Over => return false,
    }
    true
}

/// Asks for the status of the client's certificate before the next request.
pub(super) async fn check_status(conn: &mut Conn) {
    let (number, peer, listener) = (conn.number, &conn.peer, &conn.listen.address);
    let who = Newcomer { number, peer, listener, action: "SSL handshaking" };
    handshake::ask_status_again(&conn.transport, conn.service.worker(), conn.listen, &who).await;
    conn.security = Security::Tls;
}

/// Ends a connection whose client has not finished its handshake. What it still has to send for that would be
/// answered with a reset, which could destroy the response.
pub(super) async fn close_early(conn: &Conn) {
    access::flush_turn();
    linger(conn, &conn.default_server().root.confs.http_core).await;
}
