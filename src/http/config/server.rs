//! Virtual servers: which server handles a host on an address.
//!
//! Pure: no I/O.
//! Behaviour: nginx.org, ngx_http_core_module (`listen`, `server_name`) and "Server names".

use crate::config::Span;
use crate::http::config::location::Location;
use crate::net::tls::server as tls;
use crate::script::regex::{GaveUp, Regex};
use crate::shared::server_names::ServerNames;
use crate::shm::counter::Slot;
use crate::sys::address::SockAddr;
use crate::sys::socket::ListenOptions;

/// One `server` block.
#[derive(Debug)]
pub struct Server {
    /// As written; the first one is `$server_name`.
    pub names: Box<[Box<str>]>,
    /// The first address that it listens on.
    pub address: Box<str>,
    /// Some location of it takes CONNECT.
    pub allows_connect: bool,
    /// The settings of the server outside any location.
    pub root: Location,
    /// `@name` locations.
    pub named: Box<[Location]>,
    /// Its counters; `None` if no slot was left.
    pub slot: Option<Slot>,
    /// Its side of TLS with clients; `None`: it has no certificate.
    pub tls: Option<tls::Server>,
    /// The port of its `listen` with `ssl`, 443 if there are several; `None`: it has none.
    pub https_port: Option<u16>,
    /// The path of the file that `acme_certificate` gives it.
    pub issued: Option<Box<str>>,
    pub span: Span,
}

impl Server {
    /// `$server_name`: the first name; for `.example.org` without the dot.
    pub fn name(&self) -> &str {
        self.names.first().map_or("", |name| name.strip_prefix('.').unwrap_or(name))
    }

    /// All its locations, itself included, except those of `if` and `limit_except`.
    pub fn locations(&self) -> Vec<&Location> {
        let mut all: Vec<&Location> = self.named.iter().chain([&self.root]).collect();
        let mut at = 0;
        while let Some(location) = all.get(at) {
            let nested = location.nested();
            all.extend(nested.into_iter().flat_map(|nested| nested.iter()));
            at += 1;
        }
        all
    }

    pub fn named(&self, name: &str) -> Option<&Location> {
        self.named.iter().find(|location| *location.name == *name)
    }
}

/// One address to listen on, and the servers that share it.
///
/// The master opens its sockets; a worker starts each connection with the `Listen` that accepted it, and
/// [`Listen::server_for`] selects the server by the host of a request.
#[derive(Debug)]
pub struct Listen {
    pub address: SockAddr,
    pub options: ListenOptions,
    /// The first `listen` with this address; `None`: the default of a server without `listen`.
    pub span: Option<Span>,
    /// Each connection starts with a header that names the client.
    pub proxy_protocol: bool,
    /// Clients speak TLS (`listen … ssl`).
    pub ssl: bool,
    /// Clients may speak HTTP/2 (`listen … http2`).
    pub http2: bool,
    /// Index of the server for hosts that match no name.
    pub default: usize,
    pub names: ServerNames,
}

impl Listen {
    pub fn new(address: SockAddr, options: ListenOptions, default: usize) -> Self {
        Self {
            address,
            options,
            span: None,
            proxy_protocol: false,
            ssl: false,
            http2: false,
            default,
            names: ServerNames::default(),
        }
    }

    /// The index of the server for a lower-case host, with the regular expression that matched.
    ///
    /// Errors: it is unknown whether an expression matches.
    pub fn server_for(&self, host: &[u8]) -> Result<(usize, Option<&Regex>), GaveUp> {
        Ok(self.names.find(host)?.unwrap_or((self.default, None)))
    }

    /// True if clients may speak HTTP/2 with this server here: it is the one that ALPN leads to, or without TLS the default
    /// server.
    pub fn takes_h2(&self, server: &Server) -> bool {
        self.http2 || server.root.confs.http2.is_on()
    }

    /// True if it listens on every address of this port: a connection's local address must then be asked for.
    pub fn is_wildcard(&self) -> bool {
        self.address.ip().is_some_and(|ip| ip.is_unspecified())
    }
}
