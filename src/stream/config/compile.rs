//! Reading the `stream` block: what setters share, and the structural directives.
//!
//! `server`, `listen` and `server_name` are here; everything else is in the modules' tables. What is read becomes
//! settings in `assemble.rs`. Opens nothing.

use std::sync::Arc;

use crate::config::directive::{block, custom};
use crate::config::{Arity, Context, Diagnostic, Diagnostics, HasDiagnostics, Node, Span};
use crate::net::tls::watch::Pairs;
use crate::shared::tls::files;
use crate::shared::{CompileOptions, server_names};
use crate::stream::config::listen;
use crate::stream::config::server::Content;
use crate::stream::modules::{self, Confs, Directive, Drafts, Partial, table};
use crate::stream::scope::Registry;
use crate::upstream::groups;

/// The state that setters share while a `stream` block is read.
///
/// Every setter of a row gets it, together with the settings of its block. Setters report faults in `diagnostics` and
/// continue, so that all faults of a file are found in one pass.
pub struct Cx {
    pub options: CompileOptions,
    pub variables: Registry,
    /// The settings that all blocks without directives of a module share.
    pub(in crate::stream) defaults: Arc<Confs>,
    pub diagnostics: Diagnostics,
    /// The modules' drafts for the whole `stream` block.
    pub drafts: Drafts,
    /// Named groups of peers, referenced and declared in any order.
    pub upstreams: groups::Draft,
    /// True if some `proxy_bind` is `transparent`.
    pub is_transparent: bool,
    /// True if some `proxy_pass` has variables.
    pub has_passes_of_variables: bool,
    pub(super) servers: Vec<ServerDraft>,
    /// Certificates and settings of TLS that were loaded already.
    pub(in crate::stream) tls_files: files::Loaded,
    /// The certificates of servers, to be watched for changes.
    pub(in crate::stream) pairs: Pairs,
}

pub(super) struct ServerDraft {
    pub(super) partial: Partial,
    pub(super) listens: Vec<listen::Draft>,
    pub(super) names: Vec<(Box<str>, Span)>,
    pub(super) content: Option<Content>,
    pub(super) span: Span,
}

impl HasDiagnostics for Cx {
    fn diagnostics(&mut self) -> &mut Diagnostics {
        &mut self.diagnostics
    }
}

impl Cx {
    pub(crate) fn new(options: &CompileOptions) -> Self {
        Self {
            options: options.clone(),
            variables: Registry::new(modules::VARIABLES),
            defaults: Arc::default(),
            diagnostics: Diagnostics::default(),
            drafts: Drafts::default(),
            upstreams: groups::Draft::of("stream"),
            is_transparent: false,
            has_passes_of_variables: false,
            servers: Vec::new(),
            tls_files: files::Loaded::default(),
            pairs: Pairs::default(),
        }
    }

    /// Reads the directives of an inner block into settings of their own.
    pub fn block(&mut self, node: &Node, context: Context) -> Partial {
        let mut partial = Partial::default();
        table().apply_all(node.children(), context, &mut partial, self);
        partial
    }

    /// Sets what the server being read does with connections; the last directive that says so counts, as in nginx.
    pub fn set_content(&mut self, content: Content) {
        if let Some(server) = self.servers.last_mut() {
            server.content = Some(content);
        }
    }

    /// The `listen` directives read so far in the current server.
    pub(super) fn listens(&mut self) -> Option<&mut Vec<listen::Draft>> {
        self.servers.last_mut().map(|server| &mut server.listens)
    }
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<()>] = &[
    block("server", Context::STREAM, Arity::exactly(0), server, "Declares a server that passes connections on.")
        .opens(&[(Context::STREAM, Context::STREAM_SERVER)]),
    custom("listen", Context::STREAM_SERVER, Arity::at_least(1), listen::listen,
        "Sets an address, a port, a range of ports (8000-8010) or a unix: path to listen on, and the socket's parameters: backlog=, rcvbuf=, sndbuf=, \
         so_keepalive=, fastopen=, deferred, ipv6only=, reuseport, bind, multipath, proxy_protocol, ssl, default_server. Servers that share an address are \
         told apart by the name that a TLS client asks for."),
    custom("server_name", Context::STREAM_SERVER, Arity::at_least(1), server_name,
        "Sets the names of the server: exact, *.wildcard, wildcard.*, ~regex. TLS clients are told apart by them (listen … ssl, or ssl_preread)."),
];

fn server(_: &mut (), cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    cx.servers.push(ServerDraft {
        partial: Partial::default(),
        listens: Vec::new(),
        names: Vec::new(),
        content: None,
        span: node.name.span,
    });
    cx.diagnostics.1.block = Some(node.name.span);
    let before = cx.diagnostics.error_count();
    let partial = cx.block(node, Context::STREAM_SERVER);
    cx.diagnostics.1.block = None;
    let Some(draft) = cx.servers.last_mut() else { return Ok(()) };
    draft.partial = partial;
    if cx.diagnostics.error_count() > before {
        return Ok(()); // what is missing may be in a line that was refused
    }
    if draft.listens.is_empty() {
        let message = "no \"listen\" is defined for server";
        return Err(
            Diagnostic::error(node.name.span, message).help("write an address to listen on: listen 5432;")
        );
    }
    if draft.content.is_none() {
        let message = "no handler for server: its connections are closed";
        let help = "write where they go: \"proxy_pass\", \"return\" or \"pass\"";
        cx.diagnostics.push(Diagnostic::warning(node.name.span, message).help(help));
    }
    Ok(())
}

fn server_name(_: &mut (), cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let names = server_names::read(node, cx)?;
    if let Some(server) = cx.servers.last_mut() {
        server.names.extend(names);
    }
    Ok(())
}
