//! `listen`: the addresses of mail servers, and the parameters of their sockets.
//!
//! Touches: asks the kernel whether it supports Multipath TCP. Keeps nothing open.
//! Behaviour: nginx.org, ngx_mail_core_module (`listen`).

use std::collections::HashSet;

use crate::config::{Diagnostic, Node, Span, params};
use crate::mail::config::compile::Cx;
use crate::mail::config::server::Listen;
use crate::net::address::parse_listen;
use crate::shared::listen::socket_parameter;
use crate::sys::address::SockAddr;
use crate::sys::socket::ListenOptions;

/// One `listen` of a server.
#[derive(Debug)]
pub struct Draft {
    pub addresses: Vec<SockAddr>,
    options: ListenOptions,
    proxy_protocol: bool,
    pub ssl: bool,
    pub span: Span,
}

const NAMES: &[&str] = &[
    "bind",
    "reuseport",
    "backlog=",
    "rcvbuf=",
    "sndbuf=",
    "ipv6only=",
    "so_keepalive=",
    "multipath",
    "proxy_protocol",
    "ssl",
];

/// The setter of the directive.
pub fn listen(_: &mut (), cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let text = node.arg(0);
    let refused = |what: &dyn std::fmt::Display| {
        Diagnostic::error(node.arg_span(0), format!("{what} in \"{text}\" of the \"listen\" directive"))
    };
    let mut addresses = parse_listen(text, 0, &cx.options.names).map_err(|bad| refused(&bad))?;
    if addresses.iter().any(|address| address.port() == Some(0)) {
        return Err(refused(&"no port"));
    }
    // A name may have the same address twice.
    let mut known = HashSet::new();
    addresses.retain(|address| known.insert(address.clone()));
    let (options, span) = (ListenOptions::default(), node.span);
    let mut draft = Draft { addresses, options, proxy_protocol: false, ssl: false, span };
    for word in node.args.iter().skip(1) {
        match &*word.text {
            "proxy_protocol" => draft.proxy_protocol = true,
            "ssl" => draft.ssl = true,
            _ => {
                let (addresses, options) = (&draft.addresses, &mut draft.options);
                if !socket_parameter(word, addresses, options, &mut cx.diagnostics)? {
                    return Err(params::invalid_parameter(word, NAMES));
                }
            }
        }
    }
    if let Some(server) = cx.servers.last_mut() {
        server.listens.push(draft);
    }
    Ok(())
}

/// The addresses of all servers. Each may be given once, as in nginx: there is no name that tells servers apart.
#[derive(Default)]
pub struct Places {
    pub listens: Vec<Listen>,
    known: HashSet<SockAddr>,
}

impl Places {
    /// Adds the addresses of a server.
    pub fn add(&mut self, server: usize, drafts: Vec<Draft>, cx: &mut Cx) {
        for Draft { addresses, options, proxy_protocol, ssl, span } in drafts {
            for address in addresses {
                if !self.known.insert(address.clone()) {
                    let message = format!("duplicate \"{address}\" address and port pair");
                    cx.diagnostics.push(Diagnostic::error(span, message));
                    continue;
                }
                let options = options.clone();
                self.listens.push(Listen { address, options, span, proxy_protocol, ssl, server });
            }
        }
    }
}
