//! `listen`: the addresses of servers, and the parameters of their sockets.
//!
//! Touches: asks the kernel whether it supports Multipath TCP. Keeps nothing open.
//! Behaviour: nginx.org, ngx_stream_core_module (`listen`).

use std::collections::{HashMap, HashSet};

use crate::config::{Diagnostic, Node, Span, params};
use crate::net::address::parse_listen;
use crate::shared::listen::socket_parameter;
use crate::shared::server_names::{self, ServerNames};
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
    ssl: bool,
    is_default: bool,
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
    "ssl",
    "udp",
    "default_server",
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
        ssl: false,
        is_default: false,
        span: node.span,
    };
    let mut is_udp = false;
    for word in node.args.iter().skip(1) {
        match &*word.text {
            "udp" => is_udp = true,
            "proxy_protocol" => draft.proxy_protocol = true,
            "ssl" => draft.ssl = true,
            "default_server" | "default" => draft.is_default = true,
            _ => {
                let (addresses, options) = (&draft.addresses, &mut draft.options);
                if !socket_parameter(word, addresses, options, &mut cx.diagnostics)? {
                    return Err(params::invalid_parameter(word, NAMES));
                }
                draft.has_options = true;
            }
        }
    }
    if is_udp {
        draft.make_udp(node)?;
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

/// Parameters of connections, which UDP has none of.
const NOT_UDP: &[&str] = &[
    "ssl",
    "backlog",
    "proxy_protocol",
    "so_keepalive",
    "deferred",
    "fastopen",
    "accept_filter",
    "multipath",
];

impl Draft {
    fn make_udp(&mut self, node: &Node) -> Result<(), Diagnostic> {
        for word in node.args.iter().skip(1) {
            let name = word.text.split('=').next().unwrap_or_default();
            if NOT_UDP.contains(&name) {
                let message = format!("\"{name}\" parameter is incompatible with \"udp\"");
                return Err(Diagnostic::error(word.span, message));
            }
        }
        for address in &mut self.addresses {
            match address {
                SockAddr::Inet(inet) => *address = SockAddr::Datagram(Box::new(*inet)),
                _ => {
                    let message = format!("\"udp\" is not possible for {address}");
                    return Err(Diagnostic::error(node.span, message));
                }
            }
        }
        Ok(())
    }
}

/// The addresses of all servers, without duplicates.
#[derive(Default)]
pub struct Places {
    listens: Vec<Listen>,
    /// By address: errors in the names there, and the servers that share it.
    held: Vec<Vec<Diagnostic>>,
    servers: Vec<Vec<usize>>,
    by_address: HashMap<SockAddr, usize>,
    explicit_default: HashSet<usize>,
    with_options: HashSet<usize>,
}

impl Places {
    /// Adds the addresses of a server.
    pub fn add(
        &mut self,
        server: usize,
        drafts: Vec<Draft>,
        (names, span): (&[(Box<str>, Span)], Span),
        cx: &mut Cx,
    ) {
        for draft in drafts {
            for address in &draft.addresses {
                let index = self.place(address, &draft, server);
                if draft.has_options && !self.with_options.insert(index) {
                    let message = format!("duplicate listen options for {address}");
                    let help = "give the options of an address in one \"listen\" only";
                    cx.diagnostics.push(Diagnostic::error(draft.span, message).help(help));
                }
                if draft.is_default && !self.explicit_default.insert(index) {
                    let message = format!("a duplicate default server for {address}");
                    cx.diagnostics.push(Diagnostic::error(draft.span, message));
                }
                let held = self.listens[index].names.add_all((server, names, span), address, cx);
                self.held[index].extend(held);
            }
        }
    }

    /// The index of an address, to which another `listen` is applied.
    fn place(&mut self, address: &SockAddr, draft: &Draft, server: usize) -> usize {
        let index = *self.by_address.entry(address.clone()).or_insert_with(|| {
            self.listens.push(Listen {
                address: address.clone(),
                options: draft.options.clone(),
                span: draft.span,
                proxy_protocol: false,
                ssl: false,
                default: server,
                names: ServerNames::default(),
            });
            self.held.push(Vec::new());
            self.servers.push(Vec::new());
            self.listens.len() - 1
        });
        self.servers[index].push(server);
        let listen = &mut self.listens[index];
        if draft.has_options {
            listen.options = draft.options.clone();
        }
        if draft.is_default {
            listen.default = server;
        }
        listen.proxy_protocol |= draft.proxy_protocol;
        listen.ssl |= draft.ssl;
        index
    }

    /// The addresses, and the servers of each.
    pub fn finish(self, cx: &mut Cx) -> (Vec<Listen>, Vec<Vec<usize>>) {
        for (held, servers) in self.held.into_iter().zip(&self.servers) {
            server_names::report(held, servers.len() > 1, cx);
        }
        (self.listens, self.servers)
    }
}
