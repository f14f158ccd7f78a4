//! Reading the `mail` block: what setters share, and the structural directives.
//!
//! `server`, `listen` and `protocol` are here; everything else is in the modules' tables. What is read becomes settings in
//! `assemble.rs`. Opens nothing.

use crate::config::directive::{block, custom};
use crate::config::inherit::duplicate;
use crate::config::{Arity, Context, Diagnostic, Diagnostics, HasDiagnostics, Node, Span};
use crate::mail::config::listen;
use crate::mail::modules::{Directive, Drafts, Partial, table};
use crate::mail::protocol::Protocol;
use crate::mail::scope::Registry;
use crate::net::tls::watch::Pairs;
use crate::shared::CompileOptions;
use crate::shared::status_zone::Zones;
use crate::shared::tls::files;

/// The state that setters share while a `mail` block is read.
///
/// Every setter of a row gets it, together with the settings of its block. Setters report faults in `diagnostics` and
/// continue, so that all faults of a file are found in one pass.
pub struct Cx {
    pub options: CompileOptions,
    /// There are none; names of certificates are compiled with it.
    pub variables: Registry,
    pub diagnostics: Diagnostics,
    /// The modules' drafts for the whole `mail` block.
    pub drafts: Drafts,
    /// The counts of resolvers.
    pub(in crate::mail) zones: Zones,
    pub(super) servers: Vec<ServerDraft>,
    /// Certificates and settings of TLS that were loaded already.
    pub(in crate::mail) tls_files: files::Loaded,
    /// The certificates of servers, to be watched for changes.
    pub(in crate::mail) pairs: Pairs,
}

pub(super) struct ServerDraft {
    pub(super) partial: Partial,
    pub(super) listens: Vec<listen::Draft>,
    pub(super) protocol: Option<Protocol>,
    /// The server is complete as far as it can be read: what is missing is not in a line that was refused.
    pub(super) is_whole: bool,
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
            variables: Registry::new(&[]),
            diagnostics: Diagnostics::default(),
            drafts: Drafts::default(),
            zones: Zones::default(),
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
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<()>] = &[
    block("server", Context::MAIL, Arity::exactly(0), server, "Declares a server for the clients of one mail protocol.")
        .opens(&[(Context::MAIL, Context::MAIL_SERVER)]),
    custom("listen", Context::MAIL_SERVER, Arity::at_least(1), listen::listen,
        "Sets an address, a port, a range of ports or a unix: path to listen on, and the socket's parameters: backlog=, rcvbuf=, sndbuf=, so_keepalive=, \
         ipv6only=, reuseport, bind, multipath, proxy_protocol, ssl. An address belongs to one server."),
    custom("protocol", Context::MAIL_SERVER, Arity::exactly(1), protocol,
        "Sets the protocol of the server's clients: imap, pop3 or smtp.").default("by the port: 143 and 993, 110 and 995, or 25, 465 and 587"),
];

fn server(_: &mut (), cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let span = node.name.span;
    let partial = Partial::default();
    cx.servers.push(ServerDraft { partial, listens: Vec::new(), protocol: None, is_whole: false, span });
    cx.diagnostics.1.block = Some(span);
    let before = cx.diagnostics.error_count();
    let partial = cx.block(node, Context::MAIL_SERVER);
    cx.diagnostics.1.block = None;
    let is_whole = cx.diagnostics.error_count() == before;
    let Some(draft) = cx.servers.last_mut() else { return Ok(()) };
    (draft.partial, draft.is_whole) = (partial, is_whole);
    if is_whole && draft.listens.is_empty() {
        let message = "no \"listen\" is defined for server";
        return Err(Diagnostic::error(span, message).help("write an address to listen on: listen 143;"));
    }
    Ok(())
}

fn protocol(_: &mut (), cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let text = node.arg(0);
    let found = Protocol::of_name(text).ok_or_else(|| {
        let message = format!("unknown protocol \"{text}\"");
        Diagnostic::error(node.arg_span(0), message).help("one of imap, pop3, smtp")
    })?;
    match cx.servers.last_mut() {
        Some(server) if server.protocol.is_some() => Err(duplicate(node)),
        Some(server) => {
            server.protocol = Some(found);
            Ok(())
        }
        None => Ok(()),
    }
}
