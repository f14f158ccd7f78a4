//! The bytes by which a balancer chooses a peer: the key of `hash`, the client's network for `ip_hash`.
//!
//! The balancers are `upstream/balance/`. Touches: the scope's variables. Behaviour: nginx.org, ngx_http_upstream_module
//! and ngx_stream_upstream_module.

use std::fmt;

use crate::script::Scope;
use crate::script::value::Script;
use crate::sys::address::SockAddr;
use crate::upstream::Session;

/// The source of the key of an `upstream` block's balancer.
#[derive(Default)]
pub enum Key<S> {
    #[default]
    None,
    /// The client's network (`ip_hash`): the first three octets of IPv4, all sixteen of IPv6.
    Address,
    /// `hash`.
    Script(Script<S>),
}

impl<S> fmt::Debug for Key<S> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => out.write_str("None"),
            Self::Address => out.write_str("Address"),
            Self::Script(script) => out.debug_tuple("Script").field(script).finish(),
        }
    }
}

impl<S: Scope> Key<S> {
    /// Gives the key of this scope to its course through a group.
    pub fn give(&self, scope: &mut S, session: Session) -> Session {
        match self {
            Self::None => session,
            Self::Address => session.with_key(network(scope.peer()).into()),
            Self::Script(script) => session.with_key(script.to_vec(scope).into()),
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
