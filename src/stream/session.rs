//! One session: a client's connection from its acceptance to the line in the access log.
//!
//! Handlers and variables see it, but not the connection itself, which the pipeline owns. Dropping it runs the log
//! phase, however the session ended. Touches: the loop's clock.

use std::rc::Rc;

use crate::log;
use crate::net::tls::Info;
use crate::net::transport::Probe;
use crate::proto::proxy_protocol::Header;
use crate::runtime;
use crate::runtime::buffer::Buffer;
use crate::script::Values;
use crate::shm::gauges::{Held, Present};
use crate::stream::modules::{self, States};
use crate::stream::verdict::Verdict;
use crate::stream::{Config, Listen, Server, Worker};
use crate::sys::address::SockAddr;
use crate::upstream::Trace;

/// The state of a session.
#[derive(Debug)]
pub struct Session {
    pub worker: &'static Worker,
    pub listen: &'static Listen,
    pub server: &'static Server,
    pub number: u64,
    /// The client: the socket's peer, or the one that a trusted proxy names.
    pub peer: SockAddr,
    /// The socket's peer, if `peer` is another.
    pub socket_peer: Option<Box<SockAddr>>,
    /// The address that the client connected to.
    pub local: SockAddr,
    pub probe: Option<Probe>,
    /// The header of a proxy in front (`listen … proxy_protocol`).
    pub proxy: Option<Box<Header>>,
    /// The result of the client's TLS handshake.
    pub tls: Option<Rc<Info>>,
    pub values: Values,
    pub states: States,
    /// In terms of `runtime::now_us`.
    pub started_us: u64,
    /// The outcome; 0 while it is not known.
    pub status: u16,
    /// Bytes from the client, without the header of a proxy.
    pub received: u64,
    /// Bytes to the client.
    pub sent: u64,
    /// Bytes of the client that were read before anything was passed on.
    pub preread: Buffer,
    pub upstream: Trace,
    /// What is being done, for the error log.
    pub action: &'static str,
    /// Another process goes on with it, and will write its line in the log.
    pub is_moved: bool,
    /// Counts it among those in progress of its server.
    processing: Option<Held>,
    /// How often `pass` has handed the connection to another listener.
    pub hops: u8,
}

impl Session {
    pub fn new(
        worker: &'static Worker,
        listen: &'static Listen,
        number: u64,
        peer: SockAddr,
        local: SockAddr,
    ) -> Self {
        Self {
            worker,
            listen,
            server: &worker.config.servers[listen.default],
            number,
            peer,
            socket_peer: None,
            local,
            probe: None,
            proxy: None,
            tls: None,
            values: Values::default(),
            states: States::default(),
            started_us: runtime::now_us(),
            status: 0,
            received: 0,
            sent: 0,
            preread: Buffer::default(),
            upstream: Trace::default(),
            action: "initializing session",
            is_moved: false,
            processing: None,
            hops: 0,
        }
    }

    /// Counts it among the sessions in progress of its server.
    pub fn enter_server(&mut self) {
        self.processing = self.server.slot.map(|slot| slot.gauge(Present::Processing).hold());
    }

    pub fn is_udp(&self) -> bool {
        self.listen.address.is_datagram()
    }

    pub fn config(&self) -> &'static Config {
        self.worker.config
    }

    /// Goes on in the server of this name, if servers share the address.
    pub fn choose(&mut self, name: &[u8]) -> Verdict {
        match self.listen.names.find(name) {
            Ok(Some((index, regex))) => {
                self.server = &self.config().servers[index];
                self.enter_server();
                if let Some(regex) = regex {
                    regex.find(self, name);
                }
                Verdict::Next
            }
            Ok(None) => Verdict::Next,
            Err(_) => Verdict::Done(500),
        }
    }

    /// The client that the socket knows, whatever a proxy in front says.
    pub fn socket_peer(&self) -> &SockAddr {
        self.socket_peer.as_deref().unwrap_or(&self.peer)
    }

    /// Milliseconds since the session began.
    pub fn elapsed_ms(&self) -> u64 {
        runtime::now_us().saturating_sub(self.started_us) / 1000
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.is_moved {
            return;
        }
        if self.status == 0 {
            self.status = 200;
        }
        for step in modules::LOG_STEPS {
            step(self);
        }
    }
}

impl log::Context for Session {
    fn connection(&self) -> Option<u64> {
        Some(self.number)
    }

    fn action(&self) -> Option<&str> {
        Some(self.upstream.action().unwrap_or(self.action))
    }

    fn fields(&self, fields: &mut log::Fields<'_>) {
        match self.peer.ip() {
            Some(ip) if self.is_udp() => fields.plain("udp client", ip),
            Some(ip) => fields.plain("client", ip),
            None => fields.plain("client", "unix:"),
        };
        fields.plain("server", &self.listen.address);
        if let Some(name) = self.upstream.peer_name() {
            fields.quoted("upstream", name.as_bytes());
        }
        let (from, to) = self.upstream.attempts().last().map_or((0, 0), |last| (last.received, last.sent));
        fields.count("bytes from/to client", format_args!("{}/{}", self.received, self.sent));
        fields.count("bytes from/to upstream", format_args!("{from}/{to}"));
    }
}
