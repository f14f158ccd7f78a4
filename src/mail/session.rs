//! One session: a client's connection from its acceptance to its end.
//!
//! The pipeline owns the connection itself. Dropping a session counts it, however it ended. Touches: the loop's clock, the counters in
//! shared memory at the end of the turn.

use std::rc::Rc;

use crate::log;
use crate::mail::{Config, Listen, Server};
use crate::net::tls::Info;
use crate::proto::proxy_protocol::Header;
use crate::runtime;
use crate::script::Values;
use crate::shm::behind::{self, Sign};
use crate::shm::counter::Word;
use crate::shm::detail::{End, Facts, Protocol};
use crate::shm::gauges::{Held, Present};
use crate::sys::address::SockAddr;

/// The state of a session.
#[derive(Debug)]
pub struct Session {
    pub config: &'static Config,
    pub listen: &'static Listen,
    pub server: &'static Server,
    pub number: u64,
    /// The client: the socket's peer, or the one that a trusted proxy names.
    pub peer: SockAddr,
    /// The address that the client connected to.
    pub local: SockAddr,
    /// The header of a proxy in front (`listen … proxy_protocol`).
    pub proxy: Option<Box<Header>>,
    /// The result of the client's TLS handshake.
    pub tls: Option<Rc<Info>>,
    /// TLS began on a plain connection.
    pub starttls: bool,
    /// The values that scripts would store, if mail had variables.
    pub values: Values,
    /// In terms of `runtime::now_us`.
    pub started_us: u64,
    /// The outcome, in HTTP's numbers: 200 if the client has logged in, 403 if it may not, 400 if it went wrong or away before that,
    /// 502 if its server or the authentication server failed, 500 for a fault of ours.
    pub status: u16,
    /// Bytes from the client and to it.
    pub received: u64,
    pub sent: u64,
    /// The name by which it wants to log in, or has.
    pub login: Box<[u8]>,
    /// The address of its server.
    pub upstream: Option<Box<str>>,
    /// The present activity, for the error log; empty: none.
    pub action: &'static str,
    /// Another process goes on with it, and will count it.
    pub is_moved: bool,
    /// Counts it among those in progress of its server.
    _processing: Option<Held>,
}

impl Session {
    pub fn new(
        config: &'static Config,
        listen: &'static Listen,
        number: u64,
        peer: SockAddr,
        local: SockAddr,
    ) -> Self {
        let server = &config.servers[listen.server];
        Self {
            config,
            listen,
            server,
            number,
            peer,
            local,
            proxy: None,
            tls: None,
            starttls: false,
            values: Values::default(),
            started_us: runtime::now_us(),
            status: 0,
            received: 0,
            sent: 0,
            login: Box::default(),
            upstream: None,
            action: "sending client greeting line",
            is_moved: false,
            _processing: server.slot.map(|slot| slot.gauge(Present::Processing).hold()),
        }
    }

    /// Milliseconds since the session began.
    pub fn elapsed_ms(&self) -> u64 {
        runtime::now_us().saturating_sub(self.started_us) / 1000
    }

    /// Adds one to a count of its server.
    pub fn add(&self, word: Word) {
        if let Some(slot) = self.server.slot {
            slot.add(word, 1);
        }
    }

    fn count(&self) {
        let Some(slot) = self.server.slot else { return };
        let status = if self.status == 0 { 400 } else { self.status };
        let end = match status {
            200 => End::OK,
            400 | 403 => End::CLIENT_ERROR,
            502 => End::UPSTREAM_ERROR,
            _ => End::PROXY_ERROR,
        };
        let others = [
            (Word::BytesIn, self.received),
            (Word::BytesOut, self.sent),
            (Word::ResponseUs, self.elapsed_ms() * 1000),
        ];
        behind::add(|counts| {
            counts.count(slot, status, &others, Sign::Add);
            counts.count_facts(slot, Facts::new(status, Protocol::Tcp, end), Sign::Add);
        });
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.is_moved {
            self.count();
        }
    }
}

impl log::Context for Session {
    fn connection(&self) -> Option<u64> {
        Some(self.number)
    }

    fn action(&self) -> Option<&str> {
        Some(self.action).filter(|action| !action.is_empty())
    }

    fn fields(&self, fields: &mut log::Fields<'_>) {
        let how = if self.starttls { " using starttls" } else { "" };
        match self.peer.ip() {
            Some(ip) => fields.plain("client", format_args!("{ip}{how}")),
            None => fields.plain("client", format_args!("unix:{how}")),
        };
        fields.plain("server", &self.listen.address);
        if !self.login.is_empty() {
            fields.quoted("login", &self.login);
        }
        if let Some(upstream) = &self.upstream {
            fields.plain("upstream", upstream);
        }
    }
}

/// The context of the lines about the beginning of a session, which name its ends themselves.
pub struct Plain<'a>(pub &'a Session);

impl log::Context for Plain<'_> {
    fn connection(&self) -> Option<u64> {
        Some(self.0.number)
    }
}
