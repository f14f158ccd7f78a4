//! The servers of a `stream` block, and the addresses that they listen on.
//!
//! Pure: no I/O. Behaviour: nginx.org, ngx_stream_core_module (`listen`, `server`).

use crate::config::Span;
use crate::net::tls::server as tls;
use crate::shared::server_names::ServerNames;
use crate::shm::counter::Slot;
use crate::stream::modules::Confs;
use crate::sys::address::SockAddr;
use crate::sys::socket::ListenOptions;

/// What a server does with a connection, by the directive that was given last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// `proxy_pass`
    Proxy,
    /// `return`
    Return,
    /// `pass`
    Pass,
}

/// One `server` block.
#[derive(Debug)]
pub struct Server {
    /// As written; the first one is `$server_name`.
    pub names: Box<[Box<str>]>,
    /// The first address that it listens on.
    pub address: Box<str>,
    pub confs: Confs,
    /// `None`: it closes its connections.
    pub content: Option<Content>,
    /// Its side of TLS with clients; `None`: it has no certificate.
    pub tls: Option<tls::Server>,
    /// Its counters; `None` if no slot was left.
    pub slot: Option<Slot>,
    pub span: Span,
}

impl Server {
    /// A server that listens nowhere and has these settings.
    pub fn without_clients(confs: Confs) -> Self {
        Self {
            names: Box::default(),
            address: Box::default(),
            confs,
            content: None,
            tls: None,
            slot: None,
            span: Span::default(),
        }
    }

    /// `$server_name`: the first name; for `.example.org` without the dot.
    pub fn name(&self) -> &str {
        self.names.first().map_or("", |name| name.strip_prefix('.').unwrap_or(name))
    }
}

/// One address to listen on, and the servers that share it.
///
/// The master opens its sockets; a worker starts each session with the `Listen` that accepted its connection, and with the
/// address's default server. A TLS client may choose another one by the name that it asks for.
#[derive(Debug)]
pub struct Listen {
    pub address: SockAddr,
    pub options: ListenOptions,
    /// The first `listen` with this address.
    pub span: Span,
    /// Each connection starts with a header that names the client.
    pub proxy_protocol: bool,
    /// Clients speak TLS (`listen … ssl`).
    pub ssl: bool,
    /// Index of the server for names that match no other.
    pub default: usize,
    pub names: ServerNames,
}

impl Listen {
    /// True if it listens on every address of this port: a connection's local address must then be asked for.
    pub fn is_wildcard(&self) -> bool {
        self.address.ip().is_some_and(|ip| ip.is_unspecified())
    }
}
