//! The servers of a `mail` block, and the addresses that they listen on.
//!
//! Pure: no I/O. Behaviour: nginx.org, ngx_mail_core_module (`listen`, `server`).

use crate::config::Span;
use crate::mail::dialogue::Terms;
use crate::mail::modules::Confs;
use crate::net::tls::server as tls;
use crate::shm::counter::Slot;
use crate::sys::address::SockAddr;
use crate::sys::socket::ListenOptions;

/// One `server` block.
#[derive(Debug)]
pub struct Server {
    /// `server_name`
    pub name: Box<str>,
    /// Its first address.
    pub address: Box<str>,
    pub confs: Confs,
    pub terms: Terms,
    /// Its side of TLS with clients; `None`: none of them can use it.
    pub tls: Option<tls::Server>,
    /// Its counters; `None` if no slot was left.
    pub slot: Option<Slot>,
    pub span: Span,
}

/// One address to listen on. An address belongs to one server.
#[derive(Debug)]
pub struct Listen {
    pub address: SockAddr,
    pub options: ListenOptions,
    pub span: Span,
    /// Each connection starts with a header that names the client.
    pub proxy_protocol: bool,
    /// Clients speak TLS from the start (`listen … ssl`).
    pub ssl: bool,
    /// Index of its server.
    pub server: usize,
}

impl Listen {
    /// True if it listens on every address of this port: a connection's local address must then be asked for.
    pub fn is_wildcard(&self) -> bool {
        self.address.ip().is_some_and(|ip| ip.is_unspecified())
    }
}
