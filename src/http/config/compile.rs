//! The `http` block: from the tree to immutable settings.
//!
//! The structural directives (`server`, `location`, `listen`, `server_name`) are here; all others are in the
//! modules' tables. Opens nothing.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use crate::config::directive::{block, custom};
use crate::config::{Arity, Context, Diagnostic, Diagnostics, HasDiagnostics, Node, Span};
use crate::http::Config;
use crate::http::config::listen::{self, Places};
use crate::http::config::location::{Kind, LimitExcept, Location, LocationId, Locations, Nameless};
use crate::http::config::passes::{self, Passes};
use crate::http::config::server::Server;
use crate::http::modules::rewrite::traps::{self, IfSettings};
use crate::http::modules::{self, Confs, Directive, Partial, table};
use crate::http::request::body_file;
use crate::http::scope::Registry;
use crate::http::upstream::failover;
use crate::log::Logger;
use crate::proto::message::Method;
use crate::script::regex::Pattern;
use crate::shm::counter::{self, Slot};
use crate::sys::names::Names;
use crate::upstream::groups;

/// Input to the compilation from outside the `http` block.
#[derive(Clone, Debug)]
pub struct CompileOptions {
    /// The base of relative paths of logs, roots and temporary files.
    pub prefix: PathBuf,
    /// The base of relative paths of files that belong to the configuration: the directory of the main file.
    pub folder: PathBuf,
    /// The main block's log, in force where no `error_log` is set.
    pub error_log: Logger,
    /// The addresses of names, and the names that still need a lookup.
    pub names: Rc<Names>,
    /// `-t`: nothing is created.
    pub test_only: bool,
}

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
    /// Log formats, declared once for the whole `http` block.
    pub log: modules::access_log::Formats,
    pub limit_req: modules::limit_req::Zones,
    pub limit_conn: modules::limit_conn::Zones,
    /// Named groups of peers, referenced and declared in any order.
    pub upstreams: groups::Draft,
    /// Directories for temporary files, without duplicates.
    folders: Vec<PathBuf>,
    /// True if some `proxy_bind` is `transparent`.
    pub is_transparent: bool,
    /// True if some `proxy_pass` has variables.
    pub has_passes_of_variables: bool,
    /// True if request bodies may go to files somewhere.
    pub body_files: bool,
    /// The longest `keepalive_timeout` so far, starting with the default.
    pub keepalive_ms_max: u64,
    /// True if no log is configured and the prefix has no directory for one.
    pub is_unlogged: bool,
    servers: Vec<ServerDraft>,
    /// The servers and locations being read, innermost last.
    open: Vec<Open>,
    block_count: u32,
    location_count: u32,
    pub passes: Passes,
}

/// The contents of a block being read, apart from its settings.
#[derive(Default)]
struct Open {
    /// Distinguishes blocks.
    serial: u32,
    locations: Vec<LocationDraft>,
    nameless: NamelessDraft,
}

/// Blocks that replace their location's settings under a condition.
#[derive(Default)]
struct NamelessDraft {
    ifs: Vec<IfSettings>,
    limit_except: Option<(Box<[Method]>, Partial, Span)>,
}

impl HasDiagnostics for Cx {
    fn diagnostics(&mut self) -> &mut Diagnostics {
        &mut self.diagnostics
    }
}

impl Cx {
    fn location_id(&mut self) -> LocationId {
        self.location_count += 1;
        LocationId(self.location_count)
    }

    pub(crate) fn new(options: &CompileOptions) -> Self {
        Self {
            options: options.clone(),
            variables: Registry::new(modules::VARIABLES),
            defaults: Arc::default(),
            diagnostics: Diagnostics::default(),
            log: Default::default(),
            limit_req: Default::default(),
            limit_conn: Default::default(),
            upstreams: Default::default(),
            folders: Vec::new(),
            body_files: false,
            keepalive_ms_max: modules::core::KEEPALIVE_MS,
            is_unlogged: false,
            is_transparent: false,
            has_passes_of_variables: false,
            servers: Vec::new(),
            open: Vec::new(),
            block_count: 0,
            location_count: 0,
            passes: Passes::default(),
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

    /// Reads the directives of an inner block into settings of their own.
    pub fn block(&mut self, node: &Node, context: Context) -> Partial {
        let mut partial = Partial::default();
        table().apply_all(node.children(), context, &mut partial, self);
        partial
    }

    fn open_block(&mut self) {
        self.block_count += 1;
        self.open.push(Open { serial: self.block_count, ..Open::default() });
    }

    /// The server and the locations being read, outermost first.
    pub fn open_blocks(&self) -> Vec<u32> {
        self.open.iter().map(|open| open.serial).collect()
    }

    /// The number of the server being read.
    pub fn server_number(&self) -> usize {
        self.servers.len().saturating_sub(1)
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

struct ServerDraft {
    partial: Partial,
    listens: Vec<listen::Draft>,
    names: Vec<(Box<str>, Span)>,
    locations: Vec<LocationDraft>,
    span: Span,
}

struct LocationDraft {
    kind: Kind,
    name: Box<str>,
    partial: Partial,
    inside: Open,
    span: Span,
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

/// Compiles the `http` block. Use the result only if `out` has no errors.
pub fn compile(http_block: &Node, options: &CompileOptions, out: &mut Diagnostics) -> Config {
    let mut cx = Cx::new(options);
    let mut partial = cx.block(http_block, Context::HTTP);
    modules::access_log::add_default(&mut partial, http_block.name.span, &mut cx);
    let defaults = cx.defaults.clone();
    let root = Confs::complete(partial, &defaults, &mut cx);
    let mut servers = Vec::new();
    let mut places = Places::default();
    for (index, draft) in std::mem::take(&mut cx.servers).into_iter().enumerate() {
        let ServerDraft { partial, listens, names, locations, span } = draft;
        let confs = Confs::complete(partial, &root, &mut cx);
        let slot = server_slot(&names, &listens, options);
        places.add(index, listens, &names, span, &mut cx);
        servers.push(build_server(confs, names, locations, slot, span, &mut cx));
    }
    let (listens, sharing) = places.finish(&mut cx);
    let common = groups::Common {
        resolver: root.resolver.settings().cloned(),
        resolver_timeout_ms: root.resolver.timeout_ms(),
        log: options.error_log,
    };
    let upstreams = std::mem::take(&mut cx.upstreams);
    let upstreams = upstreams.finish(&common, &options.names, &mut cx.diagnostics);
    passes::check(&listens, &sharing, &upstreams, &mut cx);
    let limit_req = modules::limit_req::open(&mut cx);
    let limit_conn = modules::limit_conn::open(&mut cx);
    let Cx {
        variables,
        mut diagnostics,
        body_files,
        keepalive_ms_max,
        is_unlogged,
        is_transparent,
        has_passes_of_variables,
        mut folders,
        ..
    } = cx;
    let variables = variables.freeze(modules::rewrite::warn_uninitialized, &mut diagnostics);
    let sockets = if has_passes_of_variables { sockets(http_block) } else { HashSet::new() };
    let client_body_temp_path = body_file::default_folder(&options.prefix);
    if (body_files || variables.is_used("request_body_file")) && root.request_body.temp_path().is_none() {
        folders.push(client_body_temp_path.path.clone());
    }
    let has_default_folder = root.request_body.temp_path().is_none();
    let wanted_folder = (has_default_folder && failover::may_need_files(&servers, &upstreams))
        .then(|| client_body_temp_path.path.clone())
        .filter(|path| !folders.contains(path));
    out.append(diagnostics);
    Config {
        listens,
        keepalive_ms_max,
        servers,
        root,
        variables,
        limit_req,
        limit_conn,
        upstreams,
        sockets,
        durations: if options.test_only { Default::default() } else { modules::counters::Durations::find() },
        prefix: options.prefix.clone(),
        places: crate::config::Places::default(),
        is_transparent,
        is_unlogged,
        folders,
        wanted_folder,
        client_body_temp_path,
    }
}

/// Directives whose words become values of variables, or the URL of a `proxy_pass`.
const GIVE_VALUES: &[&str] = &["map", "set", "geo", "split_clients", "proxy_pass"];

/// The paths after each `unix:` in the values that a block gives to variables.
fn sockets(block: &Node) -> HashSet<PathBuf> {
    let mut found = HashSet::new();
    let mut add = |text: &str| {
        for rest in text.split("unix:").skip(1) {
            let end = rest.find([':', '$']).unwrap_or(rest.len());
            // a path that continues with a variable is not known here
            if end > 0 && !rest[end..].starts_with('$') {
                found.insert(PathBuf::from(&rest[..end]));
            }
        }
    };
    let mut open = vec![block];
    while let Some(node) = open.pop() {
        if GIVE_VALUES.contains(&&*node.name.text) {
            node.args.iter().for_each(|word| add(&word.text));
            for entry in node.entries() {
                entry.args.iter().for_each(|word| add(word.text));
            }
        }
        open.extend(node.children());
    }
    found
}

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
    if let Some(warning) = partial.core.as_mut().and_then(|core| core.place_alias(&kind, name)) {
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
    let mut names = Vec::with_capacity(node.args.len());
    for word in &node.args {
        let text = &*word.text;
        let is_wild = text.starts_with("*.") && text.len() > 2;
        if text.starts_with('*') && !is_wild || text == "." {
            let message = format!("server name \"{text}\" is invalid");
            let help = "\"*.example.com\" and \".example.com\" stand for all names below one";
            return Err(Diagnostic::error(word.span, message).help(help));
        }
        if text == "~" {
            return Err(Diagnostic::error(word.span, format!("empty regex in server name \"{text}\"")));
        }
        if text.contains('/') {
            let message = format!("server name \"{text}\" has suspicious symbols");
            cx.diagnostics.push(Diagnostic::warning(word.span, message));
        }
        let name: Box<str> = match text.strip_prefix('~') {
            Some(_) => text.into(),
            None if text.eq_ignore_ascii_case("$hostname") => modules::core::hostname().into(),
            None => text.to_ascii_lowercase().into(),
        };
        names.push((name, word.span));
    }
    if let Some(server) = cx.servers.last_mut() {
        server.names.extend(names);
    }
    Ok(())
}

/// The counters of the server with this name on its first address, by which a reload finds them again.
fn server_slot(
    names: &[(Box<str>, Span)],
    listens: &[listen::Draft],
    options: &CompileOptions,
) -> Option<Slot> {
    let name = names.first().map_or("", |(name, _)| name);
    let address = listens.first().and_then(|listen| listen.addresses.first());
    let address = address.map_or_else(|| "*:80".to_owned(), ToString::to_string);
    if options.test_only { None } else { counter::slot(counter::Kind::Server, &format!("{address} {name}")) }
}

fn build_server(
    confs: Confs,
    names: Vec<(Box<str>, Span)>,
    drafts: Vec<LocationDraft>,
    slot: Option<Slot>,
    span: Span,
    cx: &mut Cx,
) -> Server {
    let (named, other): (Vec<_>, Vec<_>) =
        drafts.into_iter().partition(|draft| matches!(draft.kind, Kind::Named));
    let named: Vec<Location> = named.into_iter().map(|draft| build_location(draft, &confs, cx)).collect();
    for (at, location) in named.iter().enumerate() {
        if named[..at].iter().any(|earlier| earlier.name == location.name) {
            let message = format!("duplicate location \"{}\"", location.name);
            let warning = Diagnostic::warning(location.span, message);
            cx.diagnostics.push(warning.help("the first one of this name applies, this one is never used"));
        }
    }
    let nested = build_locations(other, &confs, cx);
    let root = Location::new(cx.location_id(), (Kind::Server, "", span), confs, nested);
    let names = names.into_iter().map(|(name, _)| name).collect();
    Server { names, root, named: named.into(), slot, span }
}

fn build_locations(drafts: Vec<LocationDraft>, outer: &Confs, cx: &mut Cx) -> Locations {
    let list = drafts.into_iter().map(|draft| build_location(draft, outer, cx)).collect();
    Locations::new(list).unwrap_or_else(|error| {
        cx.diagnostics.push(duplicate(&error.name, error.span));
        Locations::default()
    })
}

fn build_location(draft: LocationDraft, outer: &Confs, cx: &mut Cx) -> Location {
    let LocationDraft { kind, name, partial, inside, span } = draft;
    let confs = Confs::complete(partial, outer, cx);
    check_nesting(&kind, &name, &inside.locations, cx);
    modules::proxy_pass::check(&confs.proxy_pass, &confs.proxy, &kind, cx);
    traps::check(&confs, &inside.nameless.ifs, cx);
    let mut nameless = |partial: Partial, span| {
        if let Some(own) = &partial.proxy_pass {
            modules::proxy_pass::check(own, &confs.proxy, &Kind::Named, cx);
        }
        let confs = Confs::complete_nameless(partial, &confs, cx);
        Location::new(cx.location_id(), (kind.clone(), &name, span), confs, Locations::default())
    };
    let ifs = inside.nameless.ifs.into_iter().map(|draft| nameless(draft.partial, draft.span)).collect();
    let limit_except = inside
        .nameless
        .limit_except
        .map(|(methods, partial, span)| LimitExcept { methods, location: nameless(partial, span) });
    let nested = build_locations(inside.locations, &confs, cx);
    let redirects_to_slash = name.ends_with('/') && confs.proxy_pass.is_set();
    let mut location = Location::new(cx.location_id(), (kind, &name, span), confs, nested)
        .with(Nameless { ifs, limit_except });
    location.redirects_to_slash = redirects_to_slash;
    location
}

fn check_nesting(outer: &Kind, outer_name: &str, nested: &[LocationDraft], cx: &mut Cx) {
    for draft in nested {
        let message = match (outer, &draft.kind) {
            (Kind::Exact, _) => {
                format!("location \"{}\" cannot be inside the exact location \"{outer_name}\"", draft.name)
            }
            (Kind::Named, _) => {
                format!("location \"{}\" cannot be inside the named location \"{outer_name}\"", draft.name)
            }
            (_, Kind::Named) => format!("named location \"{}\" can be on the server level only", draft.name),
            // nginx compares the text of an expression too: one that does not start with the outer name never
            // matches
            (
                Kind::Prefix | Kind::PrefixFinal | Kind::Regex(_),
                Kind::Prefix | Kind::PrefixFinal | Kind::Exact,
            ) if !draft.name.starts_with(outer_name) => {
                format!("location \"{}\" is outside location \"{outer_name}\"", draft.name)
            }
            _ => continue,
        };
        cx.diagnostics.push(Diagnostic::error(draft.span, message));
    }
}

fn duplicate(name: &str, span: Span) -> Diagnostic {
    Diagnostic::error(span, format!("duplicate location \"{name}\""))
}
