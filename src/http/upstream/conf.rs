//! The settings that all upstream protocols share: those of `proxy_…`, and of every similar family of
//! directives.
//!
//! nginx has these directives once for each protocol (`proxy_`, `fastcgi_`, `uwsgi_`, `scgi_`, `grpc_`). Here
//! a family is a prefix: [`upstream_rows!`] gives its table the rows, and its settings contain a [`Conf`].
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
use crate::http::upstream::name::{Name, Prefix};
use crate::http::upstream::store::Place;
use crate::http::upstream::tls;
use crate::net::connect;
use crate::net::pace::Pace;
use crate::proto::header::Id;
use crate::shared::bind::Bind;
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
    /// The values in force where none of its directives is set.
    frozen: OnceLock<Frozen>,
}

impl Family {
    pub const fn new(
        prefix: &'static str,
        hidden: &'static [&'static str],
        rewrite: Option<Rewrite>,
    ) -> Self {
        Self { prefix: Prefix(prefix), hidden, rewrite, frozen: OnceLock::new() }
    }
}

/// The settings of one block that every family has.
///
/// A family's own settings contain one, and merge and freeze it with theirs. The rows made by
/// [`upstream_rows!`] set its fields; all other code uses the getters.
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
        pub intercept_errors: Setting<bool> = false,
        pub ignore_client_abort: Setting<bool> = false,
        pub socket_keepalive: Setting<bool> = false,
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
}

/// A set of field names, known ones by id.
#[derive(Debug, Default)]
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
    /// The settings of the family that passes its requests to upstreams; so far there is only one.
    #[inline]
    pub fn passes(&self) -> &Conf {
        &self.confs.proxy.upstream
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
        Self { family, set: Settings::default(), default_path: None, frozen: None }
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
    pub fn own_options(&self, request: &mut Request) -> connect::Options {
        let own = self.set.bind.as_ref().and_then(|bind| bind.evaluate(request));
        connect::Options { bind: own, ..self.connect_options().clone() }
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

    /// `proxy_request_buffering`, if it is set.
    pub fn request_buffering(&self) -> Option<bool> {
        self.set.request_buffering.as_ref().copied()
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

    /// Called once per block after merging.
    pub fn freeze(&mut self, cx: &mut Cx) {
        let needs_files = self.temp_file_bytes_max() > 0 || self.store().is_some();
        if needs_files && !self.set.temp_path.is_set() {
            let path = cx.path(&format!("{}temp", self.family.prefix.0));
            cx.need_folder(&path);
            self.default_path = Some(TempPath::plain(path));
        }
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

/// The table of one family: its own rows, and the shared rows with its prefix.
///
/// `upstream_rows!("fastcgi_", Conf, upstream, [own rows])`, where `upstream` is the field of the family's
/// settings (`Conf`) that contains the [`Conf`] of this file. It is a macro because a row is a constant: the
/// compiler joins its name and text, and the manual, the diagnostics and the conversion read it like any
/// other row.
macro_rules! upstream_rows {
    ($prefix:literal, $conf:ty, $field:ident, [$($own:expr),* $(,)?]) => {{
        use $crate::config::directive::{Accepted, accepted, custom, flag, millis, number, size, text};
        use $crate::config::{Arity, Context};
        use $crate::http::config::tls_files::{Words, add_words, certificate_cache};
        use $crate::http::upstream::{conf, store, tls};
        const ANY: Context = Context::ANY;
        const ONE: Arity = Arity::exactly(1);
        const MANY: Arity = Arity::at_least(1);
        &[
            $($own,)*
            custom(concat!($prefix, "hide_header"), ANY, ONE, |c, _, node| conf::push(&mut c.$field.set.hide, node),
                "Hides a response field from the client."),
            custom(concat!($prefix, "pass_header"), ANY, ONE, |c, _, node| conf::push(&mut c.$field.set.pass, node),
                "Passes a response field to the client that is hidden by default. With Server and Date the client gets the upstream's field, or none."),
            custom(concat!($prefix, "ignore_headers"), ANY, MANY, |c, cx, node| conf::ignore_headers(&mut c.$field, cx, node),
                "Names response fields that are passed on but have no effect."),
            custom(concat!($prefix, "next_upstream"), ANY, MANY, |c: &mut $conf, cx, node| conf::next_upstream(&mut c.$field, cx, node),
                "Selects the faults after which another server is tried.").default("error timeout"),
            number(concat!($prefix, "next_upstream_tries"), ANY, (0, u32::MAX as u64), |c| &mut c.$field.set.next_tries,
                "Limits how many servers are tried for one request; 0 tries all."),
            millis(concat!($prefix, "next_upstream_timeout"), ANY, |c| &mut c.$field.set.next_timeout,
                "Limits the time during which another server may be tried; 0 sets no limit."),
            custom(concat!($prefix, "bind"), ANY, Arity::between(1, 2), |c: &mut $conf, cx, node| conf::bind(&mut c.$field, cx, node),
                "Sets the local address of connections to upstreams, with an optional port. With transparent it may be any address, such as \
                 $remote_addr.").default("off"),
            size(concat!($prefix, "buffer_size"), ANY, |c| &mut c.$field.set.buffer_size, "Limits the size of a response head."),
            flag(concat!($prefix, "request_buffering"), ANY, |c| &mut c.$field.set.request_buffering, concat!(
                "Reads the request body before choosing an upstream: all of it (on), or nothing (off). If this is not set, reads up to \
                 client_body_buffer_size, and all of a body that may have to be sent to another server (", $prefix, "next_upstream) or to the proxied \
                 location of an error_page.")),
            millis(concat!($prefix, "connect_timeout"), ANY, |c| &mut c.$field.set.connect_timeout, "Limits the time for connecting to an upstream."),
            millis(concat!($prefix, "send_timeout"), ANY, |c| &mut c.$field.set.send_timeout, "Limits the time between two writes to the upstream."),
            millis(concat!($prefix, "read_timeout"), ANY, |c| &mut c.$field.set.read_timeout,
                "Limits the time between two reads from the upstream, and that for the whole of a short response whose server could still be replaced."),
            millis(concat!($prefix, "hedge_after"), ANY, |c| &mut c.$field.set.hedge_after,
                "Sends GET, HEAD and OPTIONS requests without a body to a second server too if the first one has not answered by then; the first \
                response is used. At most a tenth of the requests to a group are sent twice, and none to a group with sticky. 0: never."),
            millis(concat!($prefix, "timeout_total"), ANY, |c| &mut c.$field.set.timeout_total,
                "Limits the time from choosing the first upstream to the end of the response, over all tries; 0 sets no limit."),
            flag(concat!($prefix, "pass_trailers"), ANY, |c| &mut c.$field.set.pass_trailers,
                "Passes the trailer fields of a chunked response on to HTTP/1.1 clients."),
            flag(concat!($prefix, "intercept_errors"), ANY, |c| &mut c.$field.set.intercept_errors,
                "Sends responses with status 300 and above through error_page."),
            flag(concat!($prefix, "ignore_client_abort"), ANY, |c| &mut c.$field.set.ignore_client_abort,
                "Keeps waiting for the upstream's response after the client has closed its connection."),
            flag(concat!($prefix, "socket_keepalive"), ANY, |c| &mut c.$field.set.socket_keepalive, "Sends TCP keepalive probes to upstreams."),
            flag(concat!($prefix, "pass_request_headers"), ANY, |c| &mut c.$field.set.pass_request_headers,
                "Passes on the header fields of the client's request."),
            flag(concat!($prefix, "pass_request_body"), ANY, |c| &mut c.$field.set.pass_request_body, "Passes on the body of the client's request."),
            flag(concat!($prefix, "buffering"), ANY, |c| &mut c.$field.set.buffering,
                concat!("Reads responses ahead of a slower client, as far as ", $prefix, "buffers. While ", $prefix, "next_upstream permits \
                another server, a response of at most 16k is passed on once it is complete, so that one that breaks off can be replaced.")),
            custom(concat!($prefix, "buffers"), ANY, Arity::exactly(2), |c: &mut $conf, _, node| conf::buffers(&mut c.$field, node),
                "Sets the number and size of buffers; their product limits how much is read ahead.").default("8 4k"),
            size(concat!($prefix, "max_temp_file_size"), ANY, |c| &mut c.$field.set.temp_file_max,
                "Limits how much of a response may wait in a temporary file when the buffers are full; 0 disables such files."),
            custom(concat!($prefix, "limit_rate"), ANY, ONE,
                |c: &mut $conf, cx, node| $crate::http::modules::limit_rate::size(&mut c.$field.set.limit_rate, cx, node),
                "Limits the rate at which one response is read from an upstream, in bytes a second; 0 sets no limit.").default("0"),
            custom(concat!($prefix, "temp_path"), ANY, Arity::between(1, 4), |c: &mut $conf, cx, node| conf::temp_path(&mut c.$field, cx, node),
                "Sets the directory for temporary files of responses, and up to three levels of subdirectories.")
                .default(concat!($prefix, "temp")),
            custom(concat!($prefix, "store"), ANY, ONE, |c: &mut $conf, cx, node| store::place(&mut c.$field.set.store, cx, node),
                "Stores responses with status 200 as files: on (below root), or under a path with variables.").default("off"),
            custom(concat!($prefix, "store_access"), ANY, Arity::between(1, 3), |c: &mut $conf, _, node| store::access(&mut c.$field.set.store_access, node),
                "Sets who may read and write these files: user:rw group:r all:r.").default("user:rw"),
            flag(concat!($prefix, "ssl_session_reuse"), ANY, |c| &mut c.$field.set.tls.session_reuse, "Resumes TLS sessions with upstreams."),
            custom(concat!($prefix, "ssl_protocols"), ANY, MANY, |c: &mut $conf, _, node| c.$field.set.tls.protocols.put(Words::of(node), node),
                "Enables these versions of TLS to upstreams: TLSv1.2 and TLSv1.3. Older ones are not available.").default("TLSv1.2 TLSv1.3"),
            text(concat!($prefix, "ssl_ciphers"), ANY, |c: &mut $conf| &mut c.$field.set.tls.ciphers,
                "Sets the cipher suites of TLS 1.2 to upstreams in OpenSSL's notation. There are six: ECDHE with ECDSA or RSA, and AES-128-GCM, \
                 AES-256-GCM or ChaCha20-Poly1305.").default("DEFAULT"),
            custom(concat!($prefix, "ssl_conf_command"), ANY, Arity::exactly(2), |c: &mut $conf, _, node| add_words(&mut c.$field.set.tls.conf_commands, node),
                "Sets what OpenSSL's configuration command of this name sets; commands that mean nothing here are reported and ignored."),
            custom(concat!($prefix, "ssl_name"), ANY, ONE, |c: &mut $conf, cx, node| tls::script(&mut c.$field.set.tls.name, cx, node), concat!(
                "Sets the name that the upstream's certificate must be for, and that is sent with ", $prefix, "ssl_server_name.")).default("$proxy_host"),
            flag(concat!($prefix, "ssl_server_name"), ANY, |c| &mut c.$field.set.tls.server_name,
                "Sends the name to upstreams in the handshake (SNI), for servers that choose their certificate by it."),
            flag(concat!($prefix, "ssl_verify"), ANY, |c| &mut c.$field.set.tls.verify, concat!(
                "Checks upstreams' certificates with ", $prefix, "ssl_trusted_certificate; one that is refused is answered with 502.")),
            number(concat!($prefix, "ssl_verify_depth"), ANY, (0, 100), |c| &mut c.$field.set.tls.verify_depth,
                "Limits how many intermediate certificates an upstream's chain may have."),
            text(concat!($prefix, "ssl_trusted_certificate"), ANY, |c: &mut $conf| &mut c.$field.set.tls.trusted_certificate,
                "Names a file with the CA certificates that upstreams' certificates are checked with. A copy of an upstream's own certificate in it is \
                 accepted too."),
            text(concat!($prefix, "ssl_crl"), ANY, |c: &mut $conf| &mut c.$field.set.tls.crl,
                "Names a file with lists of revoked certificates, which upstreams' certificates are checked with."),
            custom(concat!($prefix, "ssl_certificate"), ANY, ONE, |c: &mut $conf, cx, node| tls::script(&mut c.$field.set.tls.certificate, cx, node),
                "Names a file with our certificate for upstreams that ask for one, in PEM; an empty value means none. With variables it is loaded while \
                 serving."),
            custom(concat!($prefix, "ssl_certificate_key"), ANY, ONE, |c: &mut $conf, cx, node| tls::script(&mut c.$field.set.tls.certificate_key, cx, node),
                "Names the file with the private key of that certificate."),
            custom(concat!($prefix, "ssl_certificate_cache"), ANY, Arity::between(1, 3), |c: &mut $conf, _, node|
                c.$field.set.tls.certificate_cache.put(certificate_cache(node)?, node),
                "Keeps certificates whose names have variables: at most max= certificates and keys, until they have not been used for inactive= \
                 (10s). They are read again after valid= (60s). With off, each new connection reads them.").default("off"),
            text(concat!($prefix, "ssl_password_file"), ANY, |c: &mut $conf| &mut c.$field.set.tls.password_file,
                "Names a file with the passwords of encrypted private keys, one a line; they are tried in turn."),
            text(concat!($prefix, "ssl_key_log"), ANY, |c: &mut $conf| &mut c.$field.set.tls.key_log,
                "Names a file that the secrets of connections to upstreams are written to, for debugging with a packet analyzer. Anyone who reads it can \
                 decrypt them."),
            custom(concat!($prefix, "ssl_alpn"), ANY, MANY, |c: &mut $conf, _, node| tls::alpn(&mut c.$field.set.tls.alpn, node),
                "Offers these protocols to upstreams by ALPN; without it the extension is not sent."),
            accepted(concat!($prefix, "busy_buffers_size"), ANY, ONE, Accepted::Size, "Data is always sent as soon as it arrives."),
            accepted(concat!($prefix, "temp_file_write_size"), ANY, ONE, Accepted::Size, "Temporary files are written one buffer at a time."),
            accepted(concat!($prefix, "send_lowat"), ANY, ONE, Accepted::Size, "Data is never held back to fill a packet.").default("0"),
        ]
    }};
}
pub(crate) use upstream_rows;

fn freeze(conf: &Conf) -> Frozen {
    let mut hidden = Names::default();
    let own = conf.set.hide.iter().map(|name| &**name);
    conf.family.hidden.iter().copied().chain(own).for_each(|name| hidden.insert(name));
    conf.set.pass.iter().for_each(|name| hidden.remove(name));
    let passes = |id: Id| !hidden.contains(Some(id), b"");
    let omits = Omits { server: passes(Id::Server), date: passes(Id::Date) };
    let mut ignored = Names::default();
    conf.set.ignore.iter().for_each(|name| ignored.insert(name));
    let (bind, is_transparent) = conf.set.bind.as_ref().map_or((None, false), Bind::fixed);
    let connect = connect::Options { bind, is_transparent, probes: conf.set.socket_keepalive.get() };
    Frozen { hidden, omits, ignored, connect }
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
        let faults = Faults::parse(std::iter::once(node.arg(index))).map_err(|_| {
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
    use crate::log::Logger;

    settings! {
        /// A second family, like that of another protocol: settings of its own, and the shared ones.
        struct Toy {
            script: Setting<bool> = false,
            upstream: Conf = &FAMILY,
        }
    }

    static FAMILY: Family = Family::new("toy_", &["X-Toy"], None);

    static ROWS: &[Directive<Toy, Cx>] = upstream_rows!(
        "toy_",
        Toy,
        upstream,
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
