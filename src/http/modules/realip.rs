//! The client behind a trusted proxy (`set_real_ip_from`, `real_ip_header`, `real_ip_recursive`).
//!
//! Runs in the post-read and preaccess phases. Touches: the request's peer address, which the next request
//! resets to that of the connection.
//! Behaviour: nginx.org, ngx_http_realip_module.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use crate::config::directive::{custom, flag};
use crate::config::{Arity, Context, Diagnostic, Inherit, Node, Setting, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive};
use crate::http::request::Request;
use crate::http::scope::Variable;
use crate::http::verdict::Verdict;
use crate::script::variable::variable;
use crate::shared::connection::client_address;
use crate::shared::realip::Trusted;
use crate::sys::address::SockAddr;

/// The source of the client's address.
#[derive(Clone, Debug)]
enum Source {
    Field(Box<[u8]>),
    /// The header of the PROXY protocol.
    ProxyProtocol,
}

settings! {
    #[derive(Clone, Debug)]
    pub struct Conf {
        /// Proxies that are trusted to name the client.
        trusted: Trusted,
        header: Inherit<Source>,
        recursive: Setting<bool> = false,
    }
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("set_real_ip_from", Context::ANY, Arity::exactly(1), trust,
        "Sets an address, network, host name or unix: that is trusted to tell the client's address."),
    custom("real_ip_header", Context::ANY, Arity::exactly(1), header,
        "Sets the request field, or proxy_protocol, that tells the client's address.").default("X-Real-IP"),
    flag("real_ip_recursive", Context::ANY, |c| &mut c.recursive, "Skips trusted addresses in the field, back to the last one that is not trusted."),
];

#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    variable("realip_remote_addr", |r, _, out| client_address(socket_peer(r), out),
        "The address from which the connection came, before set_real_ip_from replaced it."),
    variable("realip_remote_port", |r, _, out| match socket_peer(r).port() { Some(port) => write!(out, "{port}").is_ok(), None => true, },
        "The port from which the connection came, before set_real_ip_from replaced it."),
];

impl BlockConf for Conf {
    fn acts(&self) -> bool {
        !self.trusted.is_empty()
    }
}

fn trust(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    conf.trusted.add(node, cx)
}

fn header(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let source = match node.arg(0) {
        "proxy_protocol" => Source::ProxyProtocol,
        name => Source::Field(name.as_bytes().into()),
    };
    conf.header.put(source, node)
}

/// Replaces the peer's address by that of the client that a trusted peer names, once per request.
pub fn find(request: &mut Request) -> Verdict {
    if !request.location.confs.realip.trusted.is_empty() && request.socket_peer.is_none() {
        replace_peer(request);
    }
    Verdict::Next
}

#[cold]
fn replace_peer(request: &mut Request) {
    let conf = &request.location.confs.realip;
    let peer = request.connection.peer.ip();
    let found = match conf.header.as_ref() {
        Some(Source::ProxyProtocol) => {
            let named = request.connection.proxy.as_ref().and_then(|header| header.addresses);
            named.map(|(source, _)| source).filter(|_| conf.trusted.contains(peer))
        }
        Some(Source::Field(name)) => conf.client(request, name, peer),
        None => conf.client(request, b"X-Real-IP", peer),
    };
    if let Some(client) = found {
        let socket_peer = std::mem::replace(&mut request.connection.peer, SockAddr::Inet(client));
        request.socket_peer = Some(Box::new(socket_peer));
    }
}

impl Conf {
    /// True if the field of this name tells the client's address.
    pub fn reads(&self, name: &[u8]) -> bool {
        let is_it = |field: &[u8]| !self.trusted.is_empty() && name.eq_ignore_ascii_case(field);
        matches!(self.header.as_ref(), Some(Source::Field(field)) if is_it(field))
    }

    fn client(&self, request: &Request, name: &[u8], peer: Option<IpAddr>) -> Option<SocketAddr> {
        request.forwarded_client(name, self.trusted.networks(), self.recursive.get(), peer)
    }
}

fn socket_peer(request: &Request) -> &SockAddr {
    request.socket_peer.as_deref().unwrap_or(&request.connection.peer)
}
