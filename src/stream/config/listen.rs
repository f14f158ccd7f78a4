//! `listen`: the addresses of servers, and the parameters of their sockets.
//!
//! Touches: asks the kernel whether it supports Multipath TCP. Keeps nothing open.
//! Behaviour: nginx.org, ngx_stream_core_module (`listen`).

use std::collections::HashMap;

use crate::config::{Diagnostic, Node, Span, params};
use crate::net::address::parse_listen;
use crate::shared::listen::socket_parameter;
use crate::stream::config::compile::Cx;
use crate::stream::config::server::Listen;
use crate::sys::address::SockAddr;
use crate::sys::socket::ListenOptions;

/// One `listen` of a server.
#[derive(Debug)]
pub struct Draft {
    pub addresses: Vec<SockAddr>,
    options: ListenOptions,
    /// It sets socket options, not only the address.
    has_options: bool,
    proxy_protocol: bool,
    span: Span,
}

const NAMES: &[&str] = &[
    "bind",
    "reuseport",
    "backlog=",
    "rcvbuf=",
    "sndbuf=",
    "ipv6only=",
    "deferred",
    "fastopen=",
    "so_keepalive=",
    "setfib=",
    "accept_filter=",
    "multipath",
    "proxy_protocol",
];

/// The setter of the directive.
pub fn listen(_: &mut (), cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let text = node.arg(0);
    let refused = |what: &dyn std::fmt::Display| {
        Diagnostic::error(node.arg_span(0), format!("{what} in \"{text}\" of the \"listen\" directive"))
    };
    let addresses = parse_listen(text, 0, &cx.options.names).map_err(|bad| refused(&bad))?;
    if addresses.iter().any(|address| address.port() == Some(0)) {
        return Err(refused(&"no port"));
    }
    let mut draft = Draft {
        addresses,
        options: ListenOptions::default(),
        has_options: false,
        proxy_protocol: false,
        span: node.span,
    };
    for word in node.args.iter().skip(1) {
        match &*word.text {
            "proxy_protocol" => draft.proxy_protocol = true,
            _ => {
                let (addresses, options) = (&draft.addresses, &mut draft.options);
                if !socket_parameter(word, addresses, options, &mut cx.diagnostics)? {
                    return Err(params::invalid_parameter(word, NAMES));
                }
                draft.has_options = true;
            }
        }
    }
    let listens = cx
        .listens()
        .ok_or_else(|| Diagnostic::error(node.span, "\"listen\" directive is not allowed here"))?;
    let is_known = |new: &&SockAddr| listens.iter().any(|old| old.addresses.contains(new));
    if let Some(address) = draft.addresses.iter().find(is_known) {
        return Err(Diagnostic::error(node.span, format!("a duplicate listen {address}")));
    }
    listens.push(draft);
    Ok(())
}

/// The addresses of all servers, without duplicates.
#[derive(Default)]
pub struct Places {
    listens: Vec<Listen>,
    by_address: HashMap<SockAddr, usize>,
}

impl Places {
    /// Adds the addresses of a server.
    pub fn add(&mut self, server: usize, drafts: Vec<Draft>, cx: &mut Cx) {
        for draft in drafts {
            for address in &draft.addresses {
                if self.by_address.insert(address.clone(), self.listens.len()).is_some() {
                    let message = format!("duplicate \"{address}\" address and port pair");
                    let help = "each server of a stream block has addresses of its own";
                    cx.diagnostics.push(Diagnostic::error(draft.span, message).help(help));
                    continue;
                }
                self.listens.push(Listen {
                    address: address.clone(),
                    options: draft.options.clone(),
                    span: draft.span,
                    proxy_protocol: draft.proxy_protocol,
                    default: server,
                });
            }
        }
    }

    pub fn finish(self) -> Vec<Listen> {
        self.listens
    }
}
