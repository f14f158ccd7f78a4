//! The client behind a trusted proxy (`set_real_ip_from`), as the PROXY header names it.
//!
//! Runs in the post-accept phase. Touches: the session's peer address.
//! Behaviour: nginx.org, ngx_stream_realip_module.

use std::io::Write;

use crate::config::directive::custom;
use crate::config::{Arity, Context, Diagnostic, Node, settings};
use crate::script::variable::variable;
use crate::shared::connection::client_address;
use crate::shared::realip::Trusted;
use crate::stream::config::compile::Cx;
use crate::stream::modules::{BlockConf, Directive};
use crate::stream::scope::Variable;
use crate::stream::session::Session;
use crate::stream::verdict::Verdict;
use crate::sys::address::SockAddr;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        /// Proxies that are trusted to name the client.
        trusted: Trusted,
    }
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("set_real_ip_from", Context::IN_STREAM, Arity::exactly(1), trust,
        "Sets an address, network, host name or unix: whose PROXY header is trusted to tell the client's address."),
];

#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    variable("realip_remote_addr", |s, _, out| client_address(s.socket_peer(), out),
        "The address from which the connection came, before set_real_ip_from replaced it."),
    variable("realip_remote_port", |s, _, out| match s.socket_peer().port() { Some(port) => write!(out, "{port}").is_ok(), None => true, },
        "The port from which the connection came, before set_real_ip_from replaced it."),
];

impl BlockConf for Conf {}

fn trust(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    conf.trusted.add(node, cx)
}

/// Replaces the peer's address by that of the client that a trusted peer names.
pub fn find(session: &mut Session) -> Verdict {
    let trusted = &session.server.confs.realip.trusted;
    let named = session.proxy.as_ref().and_then(|header| header.addresses);
    if let Some((client, _)) = named
        && trusted.contains(session.peer.ip())
    {
        let socket_peer = std::mem::replace(&mut session.peer, SockAddr::Inet(client));
        session.socket_peer = Some(Box::new(socket_peer));
    }
    Verdict::Next
}
