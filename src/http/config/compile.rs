//! Reading the `http` block: what setters share, and the structural directives.
//!
//! `server`, `location`, `listen` and `server_name` are here; everything else is in the modules' tables. What is read
//! becomes settings in `assemble.rs`. Opens nothing.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::directive::{block, custom};
use crate::config::{Arity, Context, Diagnostic, Diagnostics, HasDiagnostics, Node, Span};
use crate::http::config::listen;
use crate::http::config::location::{Kind, LocationId};
use crate::http::config::passes::Passes;
use crate::http::config::tls_files::Loaded;
use crate::http::modules::{self, Confs, Directive, Drafts, Partial, table};
use crate::http::scope::Registry;
use crate::http::temp_file::TempPath;
use crate::net::tls::watch::Pairs;
use crate::proto::message::Method;
use crate::script::regex::Pattern;
use crate::shared::{CompileOptions, server_names};
use crate::upstream::groups;

/// The state that setters share while an `http` block is read.
///
/// Every setter of a row gets it, together with the settings of its block. It collects what belongs to the
/// whole configuration: variables, formats, zones, upstream groups, directories to make. Setters report
/// faults in `diagnostics` and continue, so that all faults of a file are found in one pass.
pub struct Cx {
    pub options: CompileOptions,
    pub variables: Registry,
    /// The settings that all blocks without directives of a module share.
    pub(in crate::http) defaults: Arc<Confs>,
    pub diagnostics: Diagnostics,
    /// The modules' drafts for the whole `http` block.
    pub drafts: Drafts,
    /// Named groups of peers, referenced and declared in any order.
    pub upstreams: groups::Draft,
    /// Directories for temporary files, without duplicates.
    pub(super) folders: Vec<PathBuf>,
    /// Those that directives name, and where.
    pub temp_paths: Vec<(PathBuf, Span)>,
    /// True if some `proxy_bind` is `transparent`.
    pub is_transparent: bool,
    /// The numbers of the servers that have a `tunnel_pass`.
    pub(super) tunnel_servers: HashSet<usize>,
    /// True if some `proxy_pass` has variables.
    pub has_passes_of_variables: bool,
    /// True if request bodies may go to files somewhere.
    pub body_files: bool,
    /// The longest `keepalive_timeout` so far, starting with the default.
    pub keepalive_ms_max: u64,
    /// True if no log is configured and the prefix has no directory for one.
    pub is_unlogged: bool,
    pub(super) servers: Vec<ServerDraft>,
    /// The servers and locations being read, innermost last.
    open: Vec<Open>,
    location_count: u32,
    pub passes: Passes,
    /// Certificates and settings of TLS that were loaded already.
    pub tls_files: Loaded,
    /// The certificates of servers, to be watched for changes.
    pub pairs: Pairs,
}

/// The contents of a block being read, apart from its settings.
#[derive(Default)]
pub(super) struct Open {
    pub(super) locations: Vec<LocationDraft>,
    pub(super) nameless: NamelessDraft,
}

/// The settings of an `if`; its steps belong to its location.
pub struct IfSettings {
    pub partial: Partial,
    pub span: Span,
    /// It ends with a response: nothing after it applies to the same request.
    pub ends: bool,
}

/// Blocks that replace their location's settings under a condition.
#[derive(Default)]
pub(super) struct NamelessDraft {
    pub(super) ifs: Vec<IfSettings>,
    pub(super) limit_except: Option<(Box<[Method]>, Partial, Span)>,
}

impl HasDiagnostics for Cx {
    fn diagnostics(&mut self) -> &mut Diagnostics {
        &mut self.diagnostics
    }
}

impl Cx {
    /// An id for the next location that is made.
    pub(super) fn location_id(&mut self) -> LocationId {
        self.location_count += 1;
        LocationId(self.location_count)
    }

    pub(crate) fn new(options: &CompileOptions) -> Self {
        let defaults = Arc::<Confs>::default();
        Self {
            options: options.clone(),
            variables: Registry::new(modules::VARIABLES),
            diagnostics: Diagnostics::default(),
            drafts: Drafts::default(),
            upstreams: Default::default(),
            folders: Vec::new(),
            temp_paths: Vec::new(),
            body_files: false,
            keepalive_ms_max: defaults.http_core.keepalive_timeout_ms(),
            defaults,
            is_unlogged: false,
            is_transparent: false,
            has_passes_of_variables: false,
            tunnel_servers: HashSet::new(),
            servers: Vec::new(),
            open: Vec::new(),
            location_count: 0,
            passes: Passes::default(),
            tls_files: Loaded::default(),
            pairs: Pairs::default(),
        }
    }

    /// The `listen` directives read so far in the current server.
    pub fn listens(&mut self) -> Option<&mut Vec<listen::Draft>> {
        self.servers.last_mut().map(|server| &mut server.listens)
    }

    /// Resolves a path relative to the prefix, as nginx does for logs, roots and temporary files.
    pub fn path(&self, text: &str) -> PathBuf {
        self.options.prefix.join(text)
    }

    /// Registers a directory for temporary files, to be made when the configuration is opened.
    pub fn need_folder(&mut self, path: &Path) {
        if !self.folders.iter().any(|known| known == path) {
            self.folders.push(path.to_owned());
        }
    }

    /// Reads `path [level1 [level2 [level3]]]`, and registers the directory to be made when the configuration
    /// is opened.
    pub fn temp_path(&mut self, node: &Node) -> Result<TempPath, Diagnostic> {
        let place = TempPath::read(node, self.path(node.arg(0)))?;
        self.need_folder(&place.path);
        self.temp_paths.push((place.path.clone(), node.arg_span(0)));
        Ok(place)
    }

    /// Reads the directives of an inner block into settings of their own.
    pub fn block(&mut self, node: &Node, context: Context) -> Partial {
        let mut partial = Partial::default();
        table().apply_all(node.children(), context, &mut partial, self);
        partial
    }

    fn open_block(&mut self) {
        self.open.push(Open::default());
    }

    /// The number of the server being read.
    pub fn server_number(&self) -> usize {
        self.servers.len().saturating_sub(1)
    }

    /// Notes a `tunnel_pass` in the server that is being read.
    pub fn note_tunnel(&mut self) {
        self.tunnel_servers.insert(self.server_number());
    }

    /// True if the block being read is a location (or an `if` in one), false if it is a server.
    pub fn is_in_location(&self) -> bool {
        self.open.len() > 1
    }

    /// Adds the settings of an `if` to the location being read, and returns their index there.
    ///
    /// `ends`: its steps always end with a response.
    pub fn add_if(&mut self, partial: Partial, span: Span, ends: bool) -> usize {
        let Some(open) = self.open.last_mut() else { return 0 };
        open.nameless.ifs.push(IfSettings { partial, span, ends });
        open.nameless.ifs.len() - 1
    }

    /// Adds the settings for all methods except `methods` to the location being read. False: it has such
    /// settings already.
    pub fn add_limit_except(&mut self, methods: Box<[Method]>, partial: Partial, span: Span) -> bool {
        let Some(open) = self.open.last_mut() else { return false };
        open.nameless.limit_except.replace((methods, partial, span)).is_none()
    }
}

pub(super) struct ServerDraft {
    pub(super) partial: Partial,
    pub(super) listens: Vec<listen::Draft>,
    pub(super) names: Vec<(Box<str>, Span)>,
    pub(super) locations: Vec<LocationDraft>,
    pub(super) span: Span,
}

pub(super) struct LocationDraft {
    pub(super) kind: Kind,
    pub(super) name: Box<str>,
    pub(super) partial: Partial,
    pub(super) inside: Open,
    pub(super) span: Span,
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<()>] = &[
    block("server", Context::HTTP, Arity::exactly(0), server, "Declares a virtual server.").opens(&[(Context::HTTP, Context::SERVER)]),
    block("location", Context::SERVER.or(Context::LOCATION), Arity::between(1, 2), location,
        "Holds settings for the URIs that match.").opens(&[(Context::SERVER, Context::LOCATION), (Context::LOCATION, Context::LOCATION)]),
    custom("listen", Context::SERVER, Arity::at_least(1), listen::listen,
        "Sets an address, a port or a unix: path to listen on, and the socket's parameters: default_server, backlog=, rcvbuf=, sndbuf=, so_keepalive=, \
         fastopen=, deferred, ipv6only=, reuseport, bind, multipath, proxy_protocol.").default("*:80"),
    custom("server_name", Context::SERVER, Arity::at_least(1), server_name, "Sets the names of the server: exact, *.wildcard, wildcard.*, ~regex."),
];

fn server(_: &mut (), cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let draft = ServerDraft {
        partial: Partial::default(),
        listens: Vec::new(),
        names: Vec::new(),
        locations: Vec::new(),
        span: node.name.span,
    };
    cx.servers.push(draft);
    cx.open_block();
    cx.diagnostics.1.block = Some(node.name.span);
    let partial = cx.block(node, Context::SERVER);
    cx.diagnostics.1.block = None;
    let locations = cx.open.pop().unwrap_or_default().locations;
    if let Some(draft) = cx.servers.last_mut() {
        draft.partial = partial;
        draft.locations = locations;
    }
    Ok(())
}

fn location(_: &mut (), cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let (kind, name) = location_kind(node, cx)?;
    cx.open_block();
    let mut partial = cx.block(node, Context::LOCATION);
    if let Some(warning) = partial.http_core.as_mut().and_then(|core| core.place_alias(&kind, name)) {
        cx.diagnostics.push(warning);
    }
    let inside = cx.open.pop().unwrap_or_default();
    let draft = LocationDraft { kind, name: name.into(), partial, inside, span: node.span };
    match cx.open.last_mut() {
        Some(outer) => outer.locations.push(draft),
        None => return Err(Diagnostic::error(node.span, "\"location\" directive is not allowed here")),
    }
    Ok(())
}

/// The modifier and the name; nginx also accepts both in one word (`location ~\.php$`).
fn location_kind<'a>(node: &'a Node, cx: &mut Cx) -> Result<(Kind, &'a str), Diagnostic> {
    let (modifier, name) = if node.args.len() == 2 {
        (node.arg(0), node.arg(1))
    } else {
        let text = node.arg(0);
        let modifier =
            ["=", "^~", "~*", "~"].into_iter().find(|modifier| text.starts_with(modifier)).unwrap_or("");
        (modifier, &text[modifier.len()..])
    };
    let span = node.arg_span(node.args.len() - 1);
    let kind = match modifier {
        "" if name.starts_with('@') => Kind::Named,
        "" => Kind::Prefix,
        "=" => Kind::Exact,
        "^~" => Kind::PrefixFinal,
        "~" => Kind::Regex(Pattern::new(name, false, span)?.declare(&mut cx.variables)),
        "~*" => Kind::Regex(Pattern::new(name, true, span)?.declare(&mut cx.variables)),
        other => {
            let message = format!("invalid location modifier \"{other}\"");
            return Err(
                Diagnostic::error(node.arg_span(0), message).help("only =, ^~, ~ or ~* may precede the name")
            );
        }
    };
    Ok((kind, name))
}

fn server_name(_: &mut (), cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let names = server_names::read(node, cx)?;
    if let Some(server) = cx.servers.last_mut() {
        server.names.extend(names);
    }
    Ok(())
}
