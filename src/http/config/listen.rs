//! `listen`: addresses, the parameters of their sockets, and which servers share them.
//!
//! Touches: asks the kernel whether it supports Multipath TCP. Keeps nothing open.
//! Behaviour: nginx.org, ngx_http_core_module (`listen`).

use std::collections::HashMap;

use crate::config::{Diagnostic, Node, Span, params};
use crate::http::config::compile::Cx;
use crate::http::config::server::Listen;
use crate::net::address::parse_listen;
use crate::shared::listen::socket_parameter;
use crate::shared::server_names;
use crate::sys::address::SockAddr;
use crate::sys::socket::ListenOptions;

/// One `listen` of a server.
#[derive(Debug)]
pub struct Draft {
    pub addresses: Vec<SockAddr>,
    options: ListenOptions,
    /// It sets socket options, not only the address.
    has_options: bool,
    is_default: bool,
    proxy_protocol: bool,
    ssl: bool,
    http2: bool,
    /// A port of QUIC, which is one of UDP.
    is_datagram: bool,
    span: Span,
    /// The default of a server without `listen`.
    is_implied: bool,
}

impl Draft {
    fn new(addresses: Vec<SockAddr>, span: Span) -> Self {
        Self {
            addresses,
            options: ListenOptions::default(),
            has_options: false,
            is_default: false,
            proxy_protocol: false,
            ssl: false,
            http2: false,
            is_datagram: false,
            span,
            is_implied: false,
        }
    }
}

/// The setter of the directive.
pub fn listen(_: &mut (), cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let text = node.arg(0);
    let addresses = parse_listen(text, 80, &cx.options.names).map_err(|bad| {
        Diagnostic::error(node.arg_span(0), format!("{bad} in \"{text}\" of the \"listen\" directive"))
    })?;
    let mut draft = Draft::new(addresses, node.span);
    for index in 1..node.args.len() {
        parameter(&mut draft, cx, node, index)?;
    }
    let listens = cx
        .listens()
        .ok_or_else(|| Diagnostic::error(node.span, "\"listen\" directive is not allowed here"))?;
    check_quic(&draft, node)?;
    let is_same = |new: &&SockAddr, old: &Draft| old.addresses.contains(new);
    let repeated = draft.addresses.iter().find(|new| listens.iter().any(|old| is_same(new, old)));
    if let Some(address) = repeated {
        return Err(Diagnostic::error(node.span, format!("a duplicate listen {address}")));
    }
    listens.push(draft);
    Ok(())
}

/// nginx's messages for parameters that TCP alone has.
fn check_quic(draft: &Draft, node: &Node) -> Result<(), Diagnostic> {
    if !draft.is_datagram {
        return Ok(());
    }
    for (name, is_set) in
        [("ssl", draft.ssl), ("http2", draft.http2), ("proxy_protocol", draft.proxy_protocol)]
    {
        if is_set {
            let message = format!("\"{name}\" parameter is incompatible with \"quic\"");
            return Err(Diagnostic::error(node.span, message));
        }
    }
    Ok(())
}

const NAMES: &[&str] = &[
    "default_server",
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
    "http2",
    "quic",
];

fn parameter(draft: &mut Draft, cx: &mut Cx, node: &Node, index: usize) -> Result<(), Diagnostic> {
    let text = node.arg(index);
    let span = node.arg_span(index);
    let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
    draft.has_options |= !matches!(
        name,
        "default_server" | "default" | "proxy_protocol" | "ssl" | "quic" | "http2" | "http3" | "spdy"
    );
    match (name, value) {
        ("default_server" | "default", None) => draft.is_default = true,
        ("proxy_protocol", None) => draft.proxy_protocol = true,
        ("ssl", None) => draft.ssl = true,
        ("http2", None) => {
            draft.http2 = true;
            let message =
                "the \"listen ... http2\" directive is deprecated, use the \"http2\" directive instead";
            cx.diagnostics.push(Diagnostic::warning(span, message));
        }
        ("spdy", None) => {
            let message =
                "invalid parameter \"spdy\": ngx_http_spdy_module was superseded by ngx_http_v2_module";
            cx.diagnostics
                .push(Diagnostic::warning(span, message).help("write \"http2 on\" into the server"));
        }
        ("quic", None) => {
            draft.is_datagram = true;
            draft.options.has_connections = true;
            for address in &mut draft.addresses {
                let Some(inet) = address.inet().copied() else {
                    return Err(Diagnostic::error(span, "\"quic\" needs an address with a port, not a path"));
                };
                *address = SockAddr::Datagram(Box::new(inet));
            }
        }
        ("http3", None) => {
            let message =
                "the \"listen ... http3\" directive is deprecated, use the \"quic\" parameter instead";
            return Err(Diagnostic::error(span, message));
        }
        _ => {
            let (addresses, options) = (&draft.addresses, &mut draft.options);
            if !socket_parameter(&node.args[index], addresses, options, &mut cx.diagnostics)? {
                return Err(params::invalid_parameter(&node.args[index], NAMES));
            }
        }
    }
    Ok(())
}

/// The addresses of all servers, without duplicates.
#[derive(Default)]
pub struct Places {
    listens: Vec<Listen>,
    /// By address: errors in the names there, and the servers that share it.
    held: Vec<Vec<Diagnostic>>,
    servers: Vec<Vec<usize>>,
    by_address: HashMap<SockAddr, usize>,
    explicit_default: HashMap<usize, Span>,
    options_from: HashMap<usize, Span>,
}

impl Places {
    /// Adds the addresses of a server; the default is port 80.
    pub fn add(
        &mut self,
        server: usize,
        mut drafts: Vec<Draft>,
        names: &[(Box<str>, Span)],
        span: Span,
        cx: &mut Cx,
    ) {
        if drafts.is_empty() {
            let addresses = parse_listen("*:80", 80, &cx.options.names).unwrap_or_default();
            drafts.push(Draft { is_implied: true, ..Draft::new(addresses, span) });
        }
        for draft in drafts {
            for address in &draft.addresses {
                let index = self.place(address, &draft, server);
                if draft.has_options && self.options_from.insert(index, draft.span).is_some() {
                    let message = format!("duplicate listen options for {address}");
                    let help = "give the options of an address in one \"listen\" only";
                    cx.diagnostics.push(Diagnostic::error(draft.span, message).help(help));
                }
                if draft.is_default && self.explicit_default.insert(index, draft.span).is_some() {
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
            self.listens.push(Listen::new(address.clone(), draft.options.clone(), server));
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
        listen.ssl |= draft.ssl || draft.is_datagram;
        listen.http2 |= draft.http2;
        listen.span = listen.span.or((!draft.is_implied).then_some(draft.span));
        index
    }

    /// The addresses, and the servers of each. Errors in names are reported only if servers share an address:
    /// nginx does not look at names otherwise.
    pub fn finish(self, cx: &mut Cx) -> (Vec<Listen>, Vec<Vec<usize>>) {
        for (held, servers) in self.held.into_iter().zip(&self.servers) {
            server_names::report(held, servers.len() > 1, cx);
        }
        (self.listens, self.servers)
    }
}
