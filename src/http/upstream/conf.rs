//! The settings that all upstream protocols share: those of `proxy_…`, and of every similar family of
//! directives.
//!
//! nginx has these directives once for each protocol (`proxy_`, `fastcgi_`, `uwsgi_`, `scgi_`, `grpc_`). Here
//! a family is a prefix: `upstream_rows!` (`rows.rs`) gives its table the rows, and its settings contain a [`Conf`].
//! Code that passes a request on asks [`Request::passes`] for the settings in force and never names a family;
//! messages get the full name of a directive from [`Conf::directive`].
//! Behaviour: nginx.org, ngx_http_proxy_module; unlike nginx, nothing is written to disk unless the
//! configuration asks for it.

use std::sync::{Arc, OnceLock};

use crate::config::inherit::{Initial, replace};
use crate::config::{Diagnostic, Inherit, Merge, Node, Setting, Span, params, settings};
use crate::http::config::compile::Cx;
use crate::http::config::location::Location;
use crate::http::modules::limit_rate;
use crate::http::request::Request;
use crate::http::response::Omits;
use crate::http::scope::Script;
use crate::http::temp_file::TempPath;
use crate::http::upstream::cache::conf as cache;
use crate::http::upstream::name::{Name, Prefix};
use crate::http::upstream::protocol::Protocol;
use crate::http::upstream::store::Place;
use crate::http::upstream::tls;
use crate::net::connect;
use crate::net::pace::Pace;
use crate::proto::header::Id;
use crate::script::value;
use crate::shared::bind::Bind;
use crate::sys::buffers::Buffers;
use crate::upstream::Faults;

/// The words of `proxy_ignore_headers`.
const IGNORABLE: &[&str] = &[
    "X-Accel-Redirect",
    "X-Accel-Expires",
    "X-Accel-Limit-Rate",
    "X-Accel-Buffering",
    "X-Accel-Charset",
    "Expires",
    "Cache-Control",
    "Set-Cookie",
    "Vary",
];

/// The new value of a `Location`, a `Refresh` or a `Set-Cookie`, if a family's directives change it. The last
/// argument is set to the field that must be sent first, if the new value requires that.
pub type Rewrite = fn(&mut Request, Option<Id>, &[u8], &mut Option<Id>) -> Option<Vec<u8>>;

/// A family of directives, for one upstream protocol.
#[derive(Debug)]
pub struct Family {
    /// The prefix of its directives, such as `proxy_`.
    prefix: Prefix,
    /// Response fields that are hidden from the client by default.
    pub hidden: &'static [&'static str],
    rewrite: Option<Rewrite>,
    /// Bodies of requests are read completely first, unless the configuration says otherwise: an application serves
    /// few requests at a time, and a client that sends slowly must not occupy it.
    reads_bodies: bool,
    /// The peers are caches: they are asked by keys, and their responses have no fields.
    is_of_caches: bool,
    /// Nothing is buffered in either direction, and trailers are passed on.
    is_of_streams: bool,
    /// Nothing is asked of its peers but to be connected.
    only_connects: bool,
    /// The values in force where none of its directives is set.
    frozen: OnceLock<Frozen>,
}

impl Family {
    pub const fn new(
        prefix: &'static str,
        hidden: &'static [&'static str],
        rewrite: Option<Rewrite>,
    ) -> Self {
        Self::with(prefix, hidden, rewrite, (false, false))
    }

    /// A family of applications.
    pub const fn of_applications(prefix: &'static str, hidden: &'static [&'static str]) -> Self {
        Self::with(prefix, hidden, None, (true, false))
    }

    /// A family of caches.
    pub const fn of_caches(prefix: &'static str) -> Self {
        Self::with(prefix, &[], None, (false, true))
    }

    /// A family whose both sides may send at any time.
    pub const fn of_streams(prefix: &'static str, hidden: &'static [&'static str]) -> Self {
        let mut family = Self::with(prefix, hidden, None, (false, false));
        family.is_of_streams = true;
        family
    }

    /// The family of tunnels: streams of which one end is only connected.
    pub const fn of_tunnels(prefix: &'static str) -> Self {
        let mut family = Self::of_streams(prefix, &[]);
        family.only_connects = true;
        family
    }

    const fn with(
        prefix: &'static str,
        hidden: &'static [&'static str],
        rewrite: Option<Rewrite>,
        (reads_bodies, is_of_caches): (bool, bool),
    ) -> Self {
        let prefix = Prefix(prefix);
        let frozen = OnceLock::new();
        let (is_of_streams, only_connects) = (false, false);
        Self { prefix, hidden, rewrite, reads_bodies, is_of_caches, is_of_streams, only_connects, frozen }
    }
}

/// The settings of one block that every family has.
///
/// A family's own settings contain one, and merge and freeze it with theirs. The rows made by
/// `upstream_rows!` set its fields; all other code uses the getters.
#[derive(Debug)]
pub struct Conf {
    family: &'static Family,
    /// Set by the rows.
    pub set: Settings,
    /// Used if files are needed and `proxy_temp_path` is not set.
    default_path: Option<TempPath>,
    frozen: Option<Arc<Frozen>>,
}

settings! {
    /// The values of the directives.
    #[derive(Debug)]
    pub struct Settings {
        pub hide: Vec<Box<str>> => replace,
        pub pass: Vec<Box<str>> => replace,
        pub ignore: Vec<Box<str>> => replace,
        pub next: Inherit<Faults>,
        pub next_tries: Setting<u64> = 0,
        pub next_timeout: Setting<u64> = 0,
        bind: Inherit<Bind<Request>>,
        pub bind_dynamic: Setting<bool> = false,
        pub request_dynamic: Setting<bool> = false,
        /// A connection is permitted if all of them are neither empty nor 0.
        pub allow: Vec<Script> => replace,
        pub timeout_total: Setting<u64> = 0,
        /// 0: never.
        pub hedge_after: Setting<u64> = 0,
        /// Maximum length of a response head. The default is larger than nginx's buffer; a configured value
        /// is the exact limit.
        pub buffer_size: Setting<u64> = 64 * 1024,
        pub request_buffering: Inherit<bool>,
        pub connect_timeout: Setting<u64> = 60_000,
        pub send_timeout: Setting<u64> = 60_000,
        pub read_timeout: Setting<u64> = 60_000,
        pub pass_trailers: Setting<bool> = false,
        pub force_ranges: Setting<bool> = false,
        pub intercept_errors: Setting<bool> = false,
        pub ignore_client_abort: Setting<bool> = false,
        pub socket_keepalive: Setting<bool> = false,
        pub socket_rcvbuf: Setting<u64> = 0,
        pub socket_sndbuf: Setting<u64> = 0,
        pub pass_request_headers: Setting<bool> = true,
        pub pass_request_body: Setting<bool> = true,
        pub buffering: Setting<bool> = true,
        /// nginx's eight pages.
        buffers: Setting<(u64, u64)> = (8, 4096),
        pub limit_rate: Inherit<Script>,
        /// Maximum size of a temporary file; 0: none.
        pub temp_file_max: Setting<u64> = 0,
        temp_path: Inherit<TempPath>,
        pub store: Inherit<Place>,
        pub store_access: Setting<u32> = 0o600,
        /// `proxy_set_body`, if the family has it.
        pub own_body: Inherit<Script>,
        /// The directives of the response cache.
        pub cache: cache::Settings,
        /// The directives of TLS.
        pub tls: tls::Settings,
    }
}

impl Initial<&'static Family> for Conf {
    fn initial(family: &'static Family) -> Self {
        Self::of(family)
    }
}

/// Values computed once from the lists of a block.
#[derive(Debug)]
struct Frozen {
    hidden: Names,
    /// Which standard fields to leave out, because they are not hidden.
    omits: Omits,
    /// Fields of the upstream that have no effect.
    ignored: Names,
    connect: connect::Options,
    /// Something of a request depends on the peer that was chosen for it (`suit.rs`).
    depends_on_peer: bool,
}

/// A set of field names, known ones by id.
#[derive(Clone, Debug, Default)]
pub struct Names {
    ids: Vec<bool>,
    others: Vec<Box<[u8]>>,
}

impl Names {
    pub fn insert(&mut self, name: &str) {
        match Id::of(name.as_bytes()) {
            Some(id) => {
                let index = id as usize;
                if self.ids.len() <= index {
                    self.ids.resize(index + 1, false);
                }
                self.ids[index] = true;
            }
            None => self.others.push(name.as_bytes().into()),
        }
    }

    pub fn remove(&mut self, name: &str) {
        match Id::of(name.as_bytes()) {
            Some(id) => {
                if let Some(known) = self.ids.get_mut(id as usize) {
                    *known = false;
                }
            }
            None => self.others.retain(|other| !other.eq_ignore_ascii_case(name.as_bytes())),
        }
    }

    #[inline]
    pub fn contains(&self, id: Option<Id>, name: &[u8]) -> bool {
        match id {
            Some(id) => self.ids.get(id as usize).is_some_and(|known| *known),
            None => self.others.iter().any(|other| other.eq_ignore_ascii_case(name)),
        }
    }
}

impl Location {
    /// The settings of the family that passes its requests to upstreams.
    #[inline]
    pub fn passes(&self) -> &Conf {
        match self.protocol {
            Protocol::Http => &self.confs.proxy.upstream,
            other => self.passes_to(other),
        }
    }

    /// Those of an application: not inlined, so that asking for the usual ones stays short.
    #[cold]
    fn passes_to(&self, protocol: Protocol) -> &Conf {
        match protocol {
            Protocol::Http => &self.confs.proxy.upstream,
            Protocol::FastCgi => &self.confs.fastcgi.upstream,
            Protocol::Uwsgi => &self.confs.uwsgi.upstream,
            Protocol::Scgi => &self.confs.scgi.upstream,
            Protocol::Memcached => &self.confs.memcached.upstream,
            Protocol::Grpc => &self.confs.grpc.upstream,
            Protocol::Tunnel => &self.confs.tunnel.upstream,
        }
    }
}

impl Request {
    /// The settings of the family that handles this location's requests.
    #[inline]
    pub fn passes(&self) -> &'static Conf {
        self.location.passes()
    }
}

impl Conf {
    /// The settings of a block without any directive.
    pub fn of(family: &'static Family) -> Self {
        let mut set = Settings::default();
        if family.is_of_caches {
            set.pass_request_body = Setting::new(false);
            set.force_ranges = Setting::new(true);
        }
        if family.reads_bodies {
            // an application is told the method by a parameter
            set.cache.convert_head = Setting::new(false);
        }
        if family.is_of_streams {
            set.buffering = Setting::new(false);
            set.pass_trailers = Setting::new(true);
        }
        Self { family, set, default_path: None, frozen: None }
    }

    /// The full name of a directive that every family has: `proxy_read_timeout` for `read_timeout`.
    pub fn directive(&self, name: &'static str) -> Name {
        self.prefix().directive(name)
    }

    /// What the names of the family's directives begin with.
    pub fn prefix(&self) -> Prefix {
        self.family.prefix
    }

    /// True if a field of the upstream is hidden from the client.
    #[inline]
    pub fn hides(&self, id: Option<Id>, name: &[u8]) -> bool {
        self.frozen().hidden.contains(id, name)
    }

    /// The standard fields that come from the upstream instead of from us.
    #[inline]
    pub fn omits(&self) -> Omits {
        self.frozen().omits
    }

    /// True if a field of the upstream is to have no effect.
    pub fn ignores(&self, id: Id) -> bool {
        self.frozen().ignored.contains(Some(id), b"")
    }

    /// The new value of a field that the family's directives change.
    pub fn rewritten(
        &self,
        request: &mut Request,
        id: Option<Id>,
        value: &[u8],
        first: &mut Option<Id>,
    ) -> Option<Vec<u8>> {
        self.family.rewrite.and_then(|rewrite| rewrite(request, id, value, first))
    }

    /// The body to send instead of the client's.
    pub fn own_body(&self) -> Option<&Script> {
        self.set.own_body.as_ref()
    }

    pub fn connect_options(&self) -> &connect::Options {
        &self.frozen().connect
    }

    /// True if the local address has variables, so that each request has its own.
    pub fn has_own_local(&self) -> bool {
        self.set.bind.as_ref().is_some_and(Bind::is_evaluated)
    }

    /// The connect options of one request if `proxy_bind` has variables.
    #[inline]
    pub fn own_options(&self, request: &mut Request) -> Option<Box<connect::Options>> {
        self.has_own_local().then(|| self.evaluate_local(request))
    }

    #[cold]
    fn evaluate_local(&self, request: &mut Request) -> Box<connect::Options> {
        let own = self.set.bind.as_ref().and_then(|bind| bind.evaluate(request));
        Box::new(connect::Options { bind: own, ..self.connect_options().clone() })
    }

    /// True if something of a request depends on the peer that was chosen for it.
    #[inline]
    pub fn depends_on_peer(&self) -> bool {
        self.frozen().depends_on_peer
    }

    /// True if the name for TLS has variables, which may be those of the peer that was chosen.
    pub fn names_depend_on_peer(&self) -> bool {
        self.set.tls.name.as_ref().is_some_and(|name| name.as_text().is_none())
    }

    /// True if a connection to the peer that was chosen last is permitted.
    pub fn allows(&self, request: &mut Request) -> bool {
        self.set.allow.iter().all(|condition| value::is_true(&condition.to_vec(request)))
    }

    pub fn next(&self) -> Faults {
        self.set.next.get(Faults::default())
    }

    pub fn next_tries(&self) -> u32 {
        self.set.next_tries.get() as u32
    }

    pub fn next_timeout_ms(&self) -> u64 {
        self.set.next_timeout.get()
    }

    /// The time after which a second server is asked too; 0: never.
    #[inline]
    pub fn hedge_after_ms(&self) -> u64 {
        self.set.hedge_after.get()
    }

    /// Maximum length of a response head.
    pub fn head_bytes_max(&self) -> usize {
        self.set.buffer_size.get() as usize
    }

    /// Where that was set.
    pub fn buffer_size_span(&self) -> Option<Span> {
        self.set.buffer_size.span()
    }

    /// `proxy_request_buffering`, if it is set, or the family reads bodies completely, or not at all, by default.
    pub fn request_buffering(&self) -> Option<bool> {
        let of_family = match (self.family.reads_bodies, self.family.is_of_streams) {
            (true, _) => Some(true),
            (false, true) => Some(false),
            (false, false) => None,
        };
        self.set.request_buffering.as_ref().copied().or(of_family)
    }

    pub fn connect_timeout_ms(&self) -> u64 {
        self.set.connect_timeout.get()
    }

    pub fn send_timeout_ms(&self) -> u64 {
        self.set.send_timeout.get()
    }

    pub fn read_timeout_ms(&self) -> u64 {
        self.set.read_timeout.get()
    }

    /// Maximum time of a request from its first upstream to the end of the response; 0: unlimited.
    pub fn timeout_total_ms(&self) -> u64 {
        self.set.timeout_total.get()
    }

    /// Where that was set.
    pub fn timeout_total_span(&self) -> Option<Span> {
        self.set.timeout_total.span()
    }

    pub fn pass_trailers(&self) -> bool {
        self.set.pass_trailers.get()
    }

    /// True if ranges are cut out of responses that do not offer them.
    #[inline]
    pub fn force_ranges(&self) -> bool {
        self.set.force_ranges.get()
    }

    pub fn intercept_errors(&self) -> bool {
        self.set.intercept_errors.get()
    }

    pub fn ignore_client_abort(&self) -> bool {
        self.set.ignore_client_abort.get()
    }

    pub fn pass_request_headers(&self) -> bool {
        self.set.pass_request_headers.get()
    }

    pub fn pass_request_body(&self) -> bool {
        self.set.pass_request_body.get()
    }

    /// True if responses are read ahead of a slower client.
    pub fn is_buffering(&self) -> bool {
        self.set.buffering.get()
    }

    /// Maximum bytes to read ahead of the client.
    pub fn buffer_bytes(&self) -> usize {
        let (count, size) = self.set.buffers.get();
        usize::try_from(count.saturating_mul(size)).unwrap_or(usize::MAX)
    }

    /// The directory of temporary files; `None`: nothing in this block needs them.
    pub fn temp_path(&self) -> Option<&TempPath> {
        self.set.temp_path.as_ref().or(self.default_path.as_ref())
    }

    /// Maximum bytes that may wait in a temporary file; 0: none.
    pub fn temp_file_bytes_max(&self) -> u64 {
        self.set.temp_file_max.get()
    }

    /// Where to store responses as files, if at all.
    pub fn store(&self) -> Option<&Place> {
        self.set.store.as_ref().filter(|place| !matches!(place, Place::Off))
    }

    /// The mode of these files.
    pub fn store_mode(&self) -> u32 {
        self.set.store_access.get()
    }

    /// The rate at which to read a response from an upstream; `None`: unlimited.
    pub fn pace(&'static self, request: &mut Request) -> Option<Pace> {
        let script = self.set.limit_rate.as_ref()?;
        Pace::new(limit_rate::evaluate(Some(script), request), 0)
    }

    fn frozen(&self) -> &Frozen {
        match &self.frozen {
            Some(frozen) => frozen,
            None => self.family.frozen.get_or_init(|| freeze(&Self::of(self.family))),
        }
    }

    /// Reports what a cache cannot do without, or together with.
    fn check_cache(&self, cx: &mut Cx) {
        let (Some(_), Some(span)) = (self.set.cache.place(), self.set.cache.place_span()) else { return };
        let directive = self.directive("cache");
        if self.store().is_some() {
            let message = format!("\"{directive}\" is incompatible with \"{}\"", self.directive("store"));
            cx.diagnostics.push(Diagnostic::error(span, message).help("write off for one of them"));
        }
        if self.lacks_cache_key() {
            let key = self.directive("cache_key");
            let message = format!("no \"{key}\" for \"{directive}\": nothing is cached here");
            let help = format!("write {key} $scheme$request_method$host$request_uri;");
            cx.diagnostics.push(Diagnostic::warning(span, message).help(help));
        }
    }

    /// True if nothing tells responses in a cache apart: there is no URL that an application is asked for. nginx would serve
    /// one response to all requests.
    pub fn lacks_cache_key(&self) -> bool {
        self.family.reads_bodies && self.set.cache.key().is_none()
    }

    /// Called once per block after merging.
    pub fn freeze(&mut self, cx: &mut Cx) {
        let stores = self.store().is_some() || self.set.cache.place().is_some();
        let needs_files = self.temp_file_bytes_max() > 0 || stores;
        if needs_files && !self.set.temp_path.is_set() {
            let path = cx.path(&format!("{}temp", self.family.prefix.0));
            cx.need_folder(&path);
            self.default_path = Some(TempPath::plain(path));
        }
        self.check_cache(cx);
        cx.body_files |= self.request_buffering() == Some(true);
        self.frozen = Some(Arc::new(freeze(self)));
    }
}

impl Merge for Conf {
    fn merge(&mut self, outer: &Self) {
        let Self { family: _, set, default_path: _, frozen: _ } = self;
        set.merge(&outer.set);
    }
}

fn freeze(conf: &Conf) -> Frozen {
    let mut hidden = Names::default();
    let own = conf.set.hide.iter().map(|name| &**name);
    conf.family.hidden.iter().copied().chain(own).for_each(|name| hidden.insert(name));
    conf.set.pass.iter().for_each(|name| hidden.remove(name));
    let passes = |id: Id| !hidden.contains(Some(id), b"");
    // Those of an application are always passed on, and ours are sent if it has none.
    let is_chosen = |id: Id, name: &str| conf.family.hidden.contains(&name) && passes(id);
    let omits = Omits { server: is_chosen(Id::Server, "Server"), date: is_chosen(Id::Date, "Date") };
    let mut ignored = Names::default();
    conf.set.ignore.iter().for_each(|name| ignored.insert(name));
    let (bind, is_transparent) = conf.set.bind.as_ref().map_or((None, false), Bind::fixed);
    let probes = conf.set.socket_keepalive.get();
    let buffers = Buffers::new(conf.set.socket_rcvbuf.get(), conf.set.socket_sndbuf.get());
    // Every protocol begins with a request, or with TLS; in a tunnel the server may be the first.
    let speaks_first = !conf.family.only_connects;
    let connect =
        connect::Options { bind, is_transparent, probes, is_datagram: false, speaks_first, buffers };
    let is_rebound = conf.set.bind_dynamic.get() && conf.has_own_local();
    let is_made_anew = conf.set.request_dynamic.get() || conf.names_depend_on_peer();
    let depends_on_peer =
        is_rebound || is_made_anew || !conf.set.allow.is_empty() || conf.family.only_connects;
    Frozen { hidden, omits, ignored, connect, depends_on_peer }
}

/// Adds a field's name to a list.
pub fn push(list: &mut Vec<Box<str>>, node: &Node) -> Result<(), Diagnostic> {
    list.push(node.arg(0).into());
    Ok(())
}

pub fn ignore_headers(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    for (index, word) in node.args.iter().enumerate() {
        if !IGNORABLE.iter().any(|name| name.eq_ignore_ascii_case(&word.text)) {
            let message = format!("invalid value \"{}\"", word.text);
            return Err(
                Diagnostic::error(word.span, message).help(format!("one of {}", IGNORABLE.join(", ")))
            );
        }
        if conf.set.ignore.iter().any(|name| name.eq_ignore_ascii_case(&word.text)) {
            cx.diagnostics.push(params::duplicate_value(node, index));
        }
        conf.set.ignore.push((&word.text).into());
    }
    Ok(())
}

/// Several directives of a block form one list.
pub fn next_upstream(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let mut all = conf.set.next.as_ref().copied();
    for index in 0..node.args.len() {
        // nginx accepts this word for its cache; it means nothing without one
        if node.arg(index) == "updating" {
            continue;
        }
        let word = match node.arg(index) {
            "invalid_response" if conf.family.is_of_caches => "invalid_header",
            "not_found" if conf.family.is_of_caches => "http_404",
            word => word,
        };
        let faults = Faults::parse(std::iter::once(word)).map_err(|_| {
            Diagnostic::error(node.arg_span(index), format!("invalid value \"{}\"", node.arg(index)))
        })?;
        if all.is_some_and(|all| all.contains(faults)) && node.arg(index) != "off" {
            cx.diagnostics.push(params::duplicate_value(node, index));
        }
        all = Some(all.map_or(faults, |all| all.and(faults)));
    }
    conf.set.next = Inherit::default();
    conf.set.next.put(all.unwrap_or_default(), node)
}

pub fn bind(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let bind = Bind::read(node, cx)?;
    cx.is_transparent |= bind.is_transparent();
    conf.set.bind.put(bind, node)
}

/// The conditions for a connection to a peer.
pub fn allow(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    cache::conditions(&mut conf.set.allow, cx, node)
}

pub fn temp_path(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    conf.set.temp_path.put(cx.temp_path(node)?, node)
}

pub fn buffers(conf: &mut Conf, node: &Node) -> Result<(), Diagnostic> {
    let buffers = params::buffers(node)?;
    if buffers.0 < 2 {
        let message = format!("there must be at least 2 \"{}\"", node.name.text);
        return Err(Diagnostic::error(node.arg_span(0), message));
    }
    conf.set.buffers.put(buffers, node)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::table::{Module, Slot, Table};
    use crate::config::{Context, Directive, Inherits, LoadOptions, RowInfo, load_text};
    use crate::http::CompileOptions;
    use crate::http::modules;
    use crate::http::upstream::rows::upstream_rows;
    use crate::log::Logger;
    use crate::shared::tls::upstream_rows::Secures;

    settings! {
        /// A second family, like that of another protocol: settings of its own, and the shared ones.
        struct Toy {
            script: Setting<bool> = false,
            upstream: Conf = &FAMILY,
        }
    }

    impl Secures for Toy {
        type Scope = Request;

        fn tls(&mut self) -> &mut tls::Settings {
            &mut self.upstream.set.tls
        }
    }

    static FAMILY: Family = Family::new("toy_", &["X-Toy"], None);

    static ROWS: &[Directive<Toy, Cx>] = upstream_rows!(
        "toy_",
        Toy,
        upstream,
        [relay, streamed, http, tls],
        [flag("toy_script", Context::ANY, |c: &mut Toy| &mut c.script, "Its own.")]
    );

    static SLOT: Slot<Toy, Toy, Cx> =
        Slot { name: "toy", rows: ROWS, conf: |toy| toy, inherits: Inherits::Everywhere };

    fn options() -> CompileOptions {
        CompileOptions {
            prefix: Path::new("/srv").into(),
            folder: Path::new("/srv").into(),
            error_log: Logger::none(),
            names: Default::default(),
            test_only: true,
        }
    }

    /// The settings that a text of directives yields, and its diagnostics.
    fn compiled(text: &str) -> (Toy, Vec<String>) {
        let (tree, out) = load_text("toy.conf", text, &LoadOptions::default());
        assert!(!out.has_errors(), "{:?}", out.0);
        let mut cx = Cx::new(&options());
        let mut toy = Toy::default();
        Table::new(vec![&SLOT]).apply_all(&tree.nodes, Context::LOCATION, &mut toy, &mut cx);
        toy.upstream.freeze(&mut cx);
        (toy, cx.diagnostics.0.iter().map(|found| found.message.clone()).collect())
    }

    #[test]
    fn a_second_prefix_makes_a_second_table() {
        let (toy, found) = compiled(
            "toy_script on; toy_read_timeout 5s; toy_connect_timeout 1s; toy_buffers 4 8k; toy_buffering off;\n\
             toy_next_upstream error http_503; toy_hide_header X-Own; toy_pass_header X-Toy; toy_store on;\n\
             toy_ignore_headers X-Accel-Buffering; toy_bind 127.0.0.1; toy_timeout_total 9s;",
        );
        assert_eq!(found, [""; 0]);
        let conf = &toy.upstream;
        assert!(toy.script.get() && !conf.is_buffering());
        assert_eq!(
            (conf.read_timeout_ms(), conf.connect_timeout_ms(), conf.send_timeout_ms()),
            (5000, 1000, 60_000)
        );
        assert_eq!((conf.buffer_bytes(), conf.timeout_total_ms()), (4 * 8192, 9000));
        assert!(conf.next().permits(crate::upstream::Fault::Status(503), false));
        assert!(conf.hides(None, b"x-own") && !conf.hides(None, b"X-Toy"));
        assert!(conf.ignores(Id::XAccelBuffering) && !conf.ignores(Id::XAccelRedirect));
        assert_eq!(conf.connect_options().bind, "127.0.0.1:0".parse().ok().map(crate::net::Address::Inet));
        assert!(conf.temp_path().is_some_and(|temp| temp.path == Path::new("/srv/toy_temp")));
        assert_eq!(conf.directive("read_timeout").to_string(), "toy_read_timeout");
    }

    #[test]
    fn what_is_not_set_is_the_family_s_own() {
        let (toy, _) = compiled("");
        assert!(toy.upstream.hides(None, b"X-Toy") && Conf::of(&FAMILY).hides(None, b"x-toy"));
        assert!(toy.upstream.temp_path().is_none(), "no file is needed");
        assert_eq!(toy.upstream.head_bytes_max(), 64 * 1024);
    }

    #[test]
    fn what_is_wrong_is_told_with_the_family_s_name() {
        for (text, expected) in [
            ("toy_buffers 1 8k;", "there must be at least 2 \"toy_buffers\""),
            ("toy_bind nowhere;", "invalid address \"nowhere\""),
            ("toy_bind 127.0.0.1 opaque;", "invalid parameter \"opaque\""),
            ("toy_next_upstream error http_418;", "invalid value \"http_418\""),
            ("toy_ignore_headers X-Toy;", "invalid value \"X-Toy\""),
            ("toy_read_timeout 1s; toy_read_timeout 2s;", "\"toy_read_timeout\" directive is duplicate"),
            ("toy_store_access user:x;", "invalid value \"user:x\""),
        ] {
            assert_eq!(compiled(text).1, [expected], "{text}");
        }
    }

    #[test]
    fn every_family_has_the_same_rows_as_proxy() {
        let rest = |rows: &[RowInfo], prefix: &str| -> Vec<String> {
            rows.iter().filter_map(|row| Some(row.name.strip_prefix(prefix)?.to_owned())).collect()
        };
        let proxy: Vec<RowInfo> = modules::table().rows().cloned().collect();
        let (proxy, toy) = (rest(&proxy, "proxy_"), rest(&SLOT.rows(), "toy_"));
        assert_eq!(toy.len(), ROWS.len());
        for name in toy.iter().filter(|name| *name != "script") {
            assert!(proxy.contains(name), "{name}");
        }
        for row in SLOT.rows() {
            assert!(!row.doc.contains("proxy_"), "{}", row.name);
        }
        // the names that messages use
        for name in ["connect_timeout", "send_timeout", "read_timeout", "buffer_size", "timeout_total"] {
            assert!(toy.iter().any(|row| row == name), "{name}");
        }
    }
}
