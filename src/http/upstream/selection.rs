//! The parts of a request by which an upstream group chooses a peer for it: the key of `hash`, the client's address.
//!
//! The group itself knows no protocol; its balancers get bytes (`upstream/balance/`). Touches: the request's
//! variables. Behaviour: nginx.org, ngx_http_upstream_module.

use crate::http::Config;
use crate::http::request::Request;
use crate::http::scope::Script;
use crate::http::upstream::sticky::{Binding, Sticky};
use crate::script::Scope;
use crate::sys::address::SockAddr;
use crate::upstream::{GroupState, Session};

/// The part of an `upstream` block that needs a request.
#[derive(Debug, Default)]
pub struct Selection {
    pub key: Key,
    pub sticky: Option<Sticky>,
}

/// The source of the key by which a balancer chooses.
#[derive(Debug, Default)]
pub enum Key {
    #[default]
    None,
    /// The client's network (`ip_hash`): the first three octets of IPv4, all sixteen of IPv6.
    Address,
    /// `hash`.
    Script(Script),
}

impl Selection {
    /// True if the group needs nothing of the request.
    pub fn is_empty(&self) -> bool {
        matches!(self.key, Key::None) && self.sticky.is_none()
    }
}

/// Begins a request's course through a group; for a sticky one, with what binds the request to a peer.
pub fn session(request: &mut Request, group: &GroupState) -> (Session, Option<Box<Binding>>) {
    let session = Session::new(group, request.passes().next_tries());
    let config: &'static Config = request.config;
    let Some(selection) = config.tables.upstream.selection(&group.group) else { return (session, None) };
    begin(request, selection, session)
}

#[cold]
fn begin(
    request: &mut Request,
    selection: &'static Selection,
    session: Session,
) -> (Session, Option<Box<Binding>>) {
    let session = match &selection.key {
        Key::None => session,
        Key::Address => session.with_key(network(request.peer()).into()),
        Key::Script(script) => session.with_key(script.to_vec(request).into()),
    };
    match &selection.sticky {
        None => (session, None),
        Some(sticky) => {
            let (session, binding) = sticky.begin(request, session);
            (session, Some(binding))
        }
    }
}

/// The network of a client: as nginx's `ip_hash` has it, three zeroes for a unix socket.
fn network(client: &SockAddr) -> Vec<u8> {
    match client.ip() {
        Some(std::net::IpAddr::V4(ip)) => ip.octets()[..3].to_vec(),
        Some(std::net::IpAddr::V6(ip)) => ip.octets().to_vec(),
        None => vec![0; 3],
    }
}
