//! The local address of connections to upstreams (`proxy_bind`).
//!
//! Touches: the scope's variables. Behaviour: nginx.org, `proxy_bind` of ngx_http_proxy_module and
//! ngx_stream_proxy_module.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::config::{Diagnostic, Node};
use crate::log;
use crate::net::Address;
use crate::script::value::{self, Script};
use crate::script::{Compile, Scope};

/// One `proxy_bind`.
pub enum Bind<S> {
    Off,
    Fixed {
        address: Address,
        is_transparent: bool,
    },
    /// Evaluated for each connection.
    Script {
        address: Script<S>,
        is_transparent: bool,
    },
}

impl<S> Clone for Bind<S> {
    fn clone(&self) -> Self {
        match self {
            Self::Off => Self::Off,
            Self::Fixed { address, is_transparent } => {
                Self::Fixed { address: address.clone(), is_transparent: *is_transparent }
            }
            Self::Script { address, is_transparent } => {
                Self::Script { address: address.clone(), is_transparent: *is_transparent }
            }
        }
    }
}

impl<S> fmt::Debug for Bind<S> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => out.write_str("Off"),
            Self::Fixed { address, .. } => out.debug_tuple("Fixed").field(address).finish(),
            Self::Script { address, .. } => out.debug_tuple("Script").field(address).finish(),
        }
    }
}

impl<S: Scope> Bind<S> {
    pub fn read(node: &Node, cx: &mut impl Compile<Scope = S>) -> Result<Self, Diagnostic> {
        let text = node.arg(0);
        let is_transparent = match node.arg(1) {
            "" => false,
            "transparent" => true,
            other => {
                return Err(Diagnostic::error(node.arg_span(1), format!("invalid parameter \"{other}\"")));
            }
        };
        if text == "off" && node.args.len() == 1 {
            return Ok(Self::Off);
        }
        if value::has_variables(text) {
            return Ok(Self::Script { address: Script::compile(&node.args[0], cx)?, is_transparent });
        }
        let invalid = || Diagnostic::error(node.arg_span(0), format!("invalid address \"{text}\""));
        Ok(Self::Fixed { address: parse_local(text).ok_or_else(invalid)?, is_transparent })
    }

    /// True if the address has variables.
    pub fn is_evaluated(&self) -> bool {
        matches!(self, Self::Script { .. })
    }

    /// True if the address need not belong to this machine.
    pub fn is_transparent(&self) -> bool {
        match self {
            Self::Off => false,
            Self::Fixed { is_transparent, .. } | Self::Script { is_transparent, .. } => *is_transparent,
        }
    }

    /// The address, if it is the same for all connections, and whether it is transparent.
    pub fn fixed(&self) -> (Option<Address>, bool) {
        let address = match self {
            Self::Fixed { address, .. } => Some(address.clone()),
            Self::Off | Self::Script { .. } => None,
        };
        (address, self.is_transparent())
    }

    /// The address of one connection, if it has variables. As in nginx, an empty value binds nothing; an invalid
    /// address is logged and binds nothing.
    pub fn evaluate(&self, scope: &mut S) -> Option<Address> {
        let Self::Script { address, .. } = self else { return None };
        let value = address.to_vec(scope);
        let parsed = std::str::from_utf8(&value).ok().and_then(parse_local);
        if parsed.is_none() && !value.is_empty() {
            let value = log::Text(&value);
            log::error!(scope.logger(), &*scope, "invalid local address \"{value}\"");
        }
        parsed
    }
}

/// Parses an address with an optional port; without one the kernel chooses it.
fn parse_local(text: &str) -> Option<Address> {
    let ip = || text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
    let address = text.parse().ok().or_else(|| Some(SocketAddr::new(ip()?, 0)));
    address.map(Address::Inet)
}
