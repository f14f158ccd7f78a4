//! The core of HTTP: timeouts, buffers, roots, types, error pages, and the variables that every module may
//! use.
//!
//! Touches: the request. Behaviour: nginx.org, ngx_http_core_module.

mod keepalive;
mod min_rate;
mod variables;

use keepalive::Browsers;
pub use variables::{VARIABLES, cookie_value, document_root, logged_status, request_id, request_port};

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::base::foreign;
use crate::base::path::steps_up;
use crate::config::directive::{
    Accepted, accepted, block, buffers, custom, flag, millis, number, one_of, size, text,
};
use crate::config::inherit::replace;
use crate::config::{
    Arity, Context, Diagnostic, Inherit, Inherits, Node, Setting, Span, keywords, params, settings,
};
use crate::http::config::compile::Cx;
use crate::http::config::location::Kind;
use crate::http::modules::{BlockConf, Directive};
use crate::http::request::Request;
use crate::http::request::body::MinRate;
use crate::http::scope::Script;
use crate::log::Logger;
use crate::proto::h1::request::Limits;
use crate::script::value;
use crate::shared::error_log;

/// The default of `keepalive_timeout`.
const KEEPALIVE_MS: u64 = 75_000;

/// One status of an `error_page` and the page for it.
#[derive(Clone, Debug)]
pub struct ErrorPage {
    statuses: Box<[u16]>,
    /// `=code`: the status of the response; `Some(0)` for a lone `=`, which takes the status of the page.
    pub status: Option<u16>,
    pub target: Script,
    /// The target if it is a named location; its name has no variables.
    pub name: Option<Box<str>>,
}

impl ErrorPage {
    pub fn statuses(&self) -> &[u16] {
        &self.statuses
    }
}

/// The directory in which files are looked up.
#[derive(Clone, Debug)]
pub struct Root {
    pub path: Script,
    /// The matched part of the URI is replaced (`alias`) instead of kept (`root`).
    pub is_alias: bool,
    /// How many bytes of the URI an `alias` replaces, which is the length of its location's name; `None`: all
    /// of it.
    pub replaced: Option<usize>,
    /// How many `..` the configured path itself contains; what a request adds must not contain any.
    pub steps_up: usize,
}

impl Root {
    /// Appends the directory. If variables yield a relative path or nothing, the path is relative to the
    /// prefix, as in nginx: it must not be the directory in which the server was started, or `/`.
    pub fn evaluate(&self, request: &mut Request, out: &mut Vec<u8>) {
        let start = out.len();
        self.path.evaluate(request, out);
        if out.get(start) != Some(&b'/') {
            let mut prefix = request.config.prefix.as_os_str().as_bytes().to_vec();
            if prefix.last() != Some(&b'/') {
                prefix.push(b'/');
            }
            out.splice(start..start, prefix);
        }
    }
}

settings! {
    #[derive(Clone, Debug)]
    pub struct Conf {
        pub(in crate::http) client_header_timeout: Setting<u64> = 60_000,
        pub(in crate::http) client_header_min_rate: Setting<Option<MinRate>> = Some(min_rate::HEADER_MIN_RATE),
        pub(in crate::http) client_body_min_rate: Setting<Option<MinRate>> = Some(min_rate::BODY_MIN_RATE),
        client_header_buffer_size: Setting<u64> = 1024,
        pub(in crate::http) large_client_header_buffers: Setting<(u64, u64)> = (4, 8192),
        pub(in crate::http) max_headers: Setting<u64> = 1000,
        pub(in crate::http) client_body_timeout: Setting<u64> = 60_000,
        client_body_buffer_size: Setting<u64> = 16 * 1024,
        pub(in crate::http) client_max_body_size: Setting<u64> = 1024 * 1024,
        pub(in crate::http) send_timeout: Setting<u64> = 60_000,
        subrequest_output_buffer_size: Setting<u64> = 4096,
        keepalive_timeout: Setting<(u64, Option<u64>)> = (KEEPALIVE_MS, None),
        keepalive_requests: Setting<u64> = 1000,
        keepalive_time: Setting<u64> = 3_600_000,
        keepalive_min_timeout: Setting<u64> = 0,
        reset_timedout_connection: Setting<bool> = false,
        keepalive_disable: Inherit<Browsers>,
        lingering_close: Setting<Linger> = Linger::On,
        lingering_time: Setting<u64> = 30_000,
        lingering_timeout: Setting<u64> = 5_000,
        chunked_transfer_encoding: Setting<bool> = true,
        merge_slashes: Setting<bool> = true,
        ignore_invalid_headers: Setting<bool> = true,
        underscores_in_headers: Setting<bool> = false,
        server_tokens: Setting<ServerTokens> = ServerTokens::On,
        pub(in crate::http) absolute_redirect: Setting<bool> = true,
        pub(in crate::http) server_name_in_redirect: Setting<bool> = false,
        pub(in crate::http) port_in_redirect: Setting<bool> = true,
        recursive_error_pages: Setting<bool> = false,
        internal: Setting<bool> = false,
        log_not_found: Setting<bool> = true,
        etag: Setting<bool> = true,
        msie_padding: Setting<bool> = true,
        msie_refresh: Setting<bool> = false,
        if_modified_since: Setting<IfModifiedSince> = IfModifiedSince::Exact,
        default_type: Setting<Box<str>> = "text/plain".into(),
        types: Inherit<Arc<HashMap<Box<str>, Box<str>>>>,
        root: Inherit<Root>,
        error_pages: Vec<ErrorPage> => replace,
        error_log: error_log::Conf,
    }
}

/// When to read on after the last response of a connection (`lingering_close`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Linger {
    Off,
    /// If part of a request is unread.
    On,
    Always,
}
keywords!(Linger { "off" => Off, "on" => On, "always" => Always });

/// How much responses say about the program (`server_tokens`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ServerTokens {
    Off,
    On,
    /// The same as `On`: a build has no name of its own.
    Build,
}
keywords!(ServerTokens { "off" => Off, "on" => On, "build" => Build });

/// Which times in `If-Modified-Since` are answered with 304.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IfModifiedSince {
    Off,
    /// Exactly the file's time.
    Exact,
    /// The file's time and later ones.
    Before,
}
keywords!(IfModifiedSince { "off" => Off, "exact" => Exact, "before" => Before });

/// `root` and `alias` replace an inherited directory of either kind.
const ROOT: Inherits = Inherits::List("root");

const IN_LOCATION: Context = Context::ANY.or(Context::LOCATION_IF);
const HTTP_SERVER: Context = Context::HTTP.or(Context::SERVER);

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    millis("client_header_timeout", HTTP_SERVER, |c| &mut c.client_header_timeout, "Limits the time for receiving the whole request head."),
    custom("client_header_min_rate", HTTP_SERVER, Arity::between(1, 2), header_min_rate,
        "Sets the minimum rate, in bytes a second, at which a request head must arrive, and the time by which it may fall behind; off sets no minimum.")
        .default("100 20s"),
    custom("client_body_min_rate", Context::ANY, Arity::between(1, 2), body_min_rate,
        "Sets the minimum rate, in bytes a second, at which a request body must arrive while it is being read, and the time by which it may fall behind. \
         Data that has arrived earns time, up to client_body_timeout; off sets no minimum, which is the default for grpc_pass.").default("500 10s"),
    size("client_header_buffer_size", HTTP_SERVER, |c| &mut c.client_header_buffer_size, "Sets the size of the first buffer for a request head."),
    buffers("large_client_header_buffers", HTTP_SERVER, |c| &mut c.large_client_header_buffers,
        "Sets the number and size of the buffers for a large request head: each line must fit one buffer, and the whole head all of them."),
    number("max_headers", HTTP_SERVER, (1, u32::MAX as u64), |c| &mut c.max_headers, "Limits the number of fields in a request head."),
    millis("client_body_timeout", Context::ANY, |c| &mut c.client_body_timeout, "Limits the time between two reads of a request body."),
    size("client_body_buffer_size", Context::ANY, |c| &mut c.client_body_buffer_size, "Sets the size of the buffer for a request body."),
    size("client_max_body_size", Context::ANY, |c| &mut c.client_max_body_size, "Limits the size of a request body; 0 sets no limit."),
    millis("send_timeout", Context::ANY, |c| &mut c.send_timeout, "Limits the time between two writes to the client."),
    custom("keepalive_timeout", Context::ANY, Arity::between(1, 2), keepalive_timeout,
        "Sets how long an idle connection is kept open and, as an optional second argument, the value of the Keep-Alive field.").default("75s"),
    number("keepalive_requests", Context::ANY, (0, u32::MAX as u64), |c| &mut c.keepalive_requests, "Limits the number of requests on one connection."),
    millis("keepalive_time", Context::ANY, |c| &mut c.keepalive_time, "Sets the age after which a connection is closed at the end of its request."),
    millis("keepalive_min_timeout", Context::ANY, |c| &mut c.keepalive_min_timeout,
        "Keeps an idle connection open for at least this time when a worker exits gracefully."),
    custom("keepalive_disable", Context::ANY, Arity::between(1, 2), keepalive_disable,
        "Closes the connections of misbehaving browsers after a request: msie6 after a POST, safari on macOS; none disables this.").default("msie6"),
    one_of("lingering_close", Context::ANY, |c| &mut c.lingering_close,
        "Reads on after the last response, so that a reset does not destroy the response on its way."),
    millis("lingering_time", Context::ANY, |c| &mut c.lingering_time, "Limits the total time of a lingering close."),
    millis("lingering_timeout", Context::ANY, |c| &mut c.lingering_timeout, "Limits the time between two reads of a lingering close."),
    flag("chunked_transfer_encoding", Context::ANY, |c| &mut c.chunked_transfer_encoding, "Allows chunked responses."),
    flag("merge_slashes", HTTP_SERVER, |c| &mut c.merge_slashes, "Merges adjacent slashes in the URI into one."),
    flag("ignore_invalid_headers", HTTP_SERVER, |c| &mut c.ignore_invalid_headers, "Ignores header fields with invalid names."),
    flag("underscores_in_headers", HTTP_SERVER, |c| &mut c.underscores_in_headers, "Accepts header names that contain underscores."),
    one_of("server_tokens", Context::ANY, |c| &mut c.server_tokens, "Shows the version in the Server field and on error pages."),
    flag("absolute_redirect", Context::ANY, |c| &mut c.absolute_redirect, "Makes redirects absolute."),
    flag("server_name_in_redirect", Context::ANY, |c| &mut c.server_name_in_redirect, "Uses the first name of the server in absolute redirects."),
    flag("port_in_redirect", Context::ANY, |c| &mut c.port_in_redirect, "Includes the port in absolute redirects."),
    flag("recursive_error_pages", IN_LOCATION, |c| &mut c.recursive_error_pages, "Allows error_page to apply while an error page is being served."),
    custom("internal", Context::LOCATION, Arity::exactly(0), internal, "Allows internal requests only; all others get 404."),
    text("default_type", Context::ANY, |c| &mut c.default_type, "Sets the media type of files whose name does not tell one."),
    block("types", Context::ANY, Arity::exactly(0), types, "Maps file name extensions to media types."),
    custom("root", IN_LOCATION, Arity::exactly(1), root, "Sets the directory from which files are served.").default("html").inherits(ROOT),
    custom("alias", Context::LOCATION, Arity::exactly(1), alias, "Replaces the part of the URI that matches the location with a path.").inherits(ROOT),
    custom("error_page", IN_LOCATION, Arity::at_least(2), error_page,
        "Sets the URI that is shown for the given statuses; =code changes the status of the response."),
    custom("error_log", Context::ANY, Arity::at_least(1), set_error_log,
        "Sets where errors are logged, and from which level on. Several directives log to several places."),
    accepted("tcp_nodelay", Context::ANY, Arity::exactly(1), Accepted::Flag, "Data is never held back to fill a packet.").default("on"),
    accepted("tcp_nopush", Context::ANY, Arity::exactly(1), Accepted::Flag,
        "A response head is always sent together with the first bytes of its body.").default("off"),
    accepted("aio", Context::ANY, Arity::exactly(1), Accepted::OneOf(&["off", "on", "threads", "threads="]),
        "Threads read files that are not in the page cache, whatever the argument is.").default("off"),
    accepted("directio", Context::ANY, Arity::exactly(1), Accepted::SizeOr("off"), "Files are always read through the page cache.").default("off"),
    accepted("server_names_hash_max_size", Context::HTTP, Arity::exactly(1), Accepted::Number, "Tables grow as needed."),
    accepted("server_names_hash_bucket_size", Context::HTTP, Arity::exactly(1), Accepted::Number, "Tables grow as needed."),
    accepted("types_hash_max_size", Context::ANY, Arity::exactly(1), Accepted::Number, "Tables grow as needed."),
    accepted("types_hash_bucket_size", Context::ANY, Arity::exactly(1), Accepted::Number, "Tables grow as needed."),
    accepted("variables_hash_max_size", Context::HTTP, Arity::exactly(1), Accepted::Number, "Tables grow as needed."),
    accepted("variables_hash_bucket_size", Context::HTTP, Arity::exactly(1), Accepted::Number, "Tables grow as needed."),
    accepted("connection_pool_size", HTTP_SERVER, Arity::exactly(1), Accepted::Size, "Memory is taken as needed."),
    accepted("request_pool_size", HTTP_SERVER, Arity::exactly(1), Accepted::Size, "Memory is taken as needed."),
    accepted("postpone_output", Context::ANY, Arity::exactly(1), Accepted::Size, "Output is sent as soon as it is ready."),
    accepted("aio_write", Context::ANY, Arity::exactly(1), Accepted::Flag, "A pool of threads writes temporary files.").default("off"),
    accepted("directio_alignment", Context::ANY, Arity::exactly(1), Accepted::Size, "Files are always read through the page cache.").default("512"),
    accepted("read_ahead", Context::ANY, Arity::exactly(1), Accepted::Size, "Read-ahead is left to the kernel.").default("0"),
    accepted("send_lowat", Context::ANY, Arity::exactly(1), Accepted::Size, "Data is never held back to fill a packet.").default("0"),
    size("subrequest_output_buffer_size", Context::ANY, |c| &mut c.subrequest_output_buffer_size,
        "Limits how much of a subrequest's response is kept in memory."),
    flag("reset_timedout_connection", Context::ANY, |c| &mut c.reset_timedout_connection,
        "Resets connections that time out or that return 444 closes, so that the kernel keeps no state for them. A connection whose client has read \
         nothing for send_timeout is always reset."),
    flag("msie_padding", Context::ANY, |c| &mut c.msie_padding, "Pads error pages so that Internet Explorer and Chrome show them."),
    flag("msie_refresh", Context::ANY, |c| &mut c.msie_refresh, "Redirects Internet Explorer with a page that refreshes itself instead of a redirect."),
    flag("log_not_found", Context::ANY, |c| &mut c.log_not_found, "Logs requests for files that do not exist."),
    flag("etag", Context::ANY, |c| &mut c.etag, "Adds an ETag, made from the time and size of the file, to responses with static files."),
    one_of("if_modified_since", Context::ANY, |c| &mut c.if_modified_since,
        "Selects when If-Modified-Since is answered with 304: never (off), if it is exactly the time of the file (exact), or if it is that time or a later \
         one (before)."),
];

impl BlockConf for Conf {}

impl Conf {
    pub fn client_header_timeout_ms(&self) -> u64 {
        self.client_header_timeout.get()
    }

    pub fn client_header_buffer_size(&self) -> usize {
        self.client_header_buffer_size.get() as usize
    }

    /// Maximum length of a request head.
    pub fn head_bytes_max(&self) -> usize {
        let (count, size) = self.large_client_header_buffers.get();
        ((count * size) as usize).max(self.client_header_buffer_size())
    }

    pub fn head_limits(&self) -> Limits {
        let (_, line) = self.large_client_header_buffers.get();
        Limits {
            line_bytes_max: (line as usize).max(self.client_header_buffer_size()),
            head_bytes_max: self.head_bytes_max(),
            ignore_invalid: self.ignore_invalid_headers.get(),
            underscores: self.underscores_in_headers.get(),
            fields_max: self.max_headers.get() as usize,
        }
    }

    /// The limits for a head that does not come as text: it is never in the buffers, so only the large ones count.
    pub fn field_limits(&self) -> Limits {
        let (count, size) = self.large_client_header_buffers.get();
        Limits {
            line_bytes_max: size as usize,
            head_bytes_max: (count * size) as usize,
            ..self.head_limits()
        }
    }

    pub fn client_body_timeout_ms(&self) -> u64 {
        self.client_body_timeout.get()
    }

    pub fn client_body_buffer_size(&self) -> usize {
        self.client_body_buffer_size.get() as usize
    }

    pub fn client_max_body_size(&self) -> u64 {
        self.client_max_body_size.get()
    }

    pub fn subrequest_output_buffer_size(&self) -> usize {
        self.subrequest_output_buffer_size.get() as usize
    }

    pub fn send_timeout_ms(&self) -> u64 {
        self.send_timeout.get()
    }

    pub fn keepalive_timeout_ms(&self) -> u64 {
        self.keepalive_timeout.get().0
    }

    /// The seconds for the `Keep-Alive` field, if it is sent.
    pub fn keepalive_header(&self) -> Option<u64> {
        self.keepalive_timeout.get().1
    }

    pub fn keepalive_requests(&self) -> u64 {
        self.keepalive_requests.get()
    }

    pub fn keepalive_time_ms(&self) -> u64 {
        self.keepalive_time.get()
    }

    /// How long an idle connection stays open while the worker is exiting.
    pub fn keepalive_min_timeout_ms(&self) -> u64 {
        self.keepalive_min_timeout.get()
    }

    pub fn resets_timed_out(&self) -> bool {
        self.reset_timedout_connection.get()
    }

    pub fn lingering_close(&self) -> bool {
        self.lingering_close.get() != Linger::Off
    }

    /// True if even a connection with nothing left to read lingers.
    pub fn lingers_always(&self) -> bool {
        self.lingering_close.get() == Linger::Always
    }

    pub fn lingering_time_ms(&self) -> u64 {
        self.lingering_time.get()
    }

    pub fn lingering_timeout_ms(&self) -> u64 {
        self.lingering_timeout.get()
    }

    pub fn chunked_transfer_encoding(&self) -> bool {
        self.chunked_transfer_encoding.get()
    }

    pub fn merge_slashes(&self) -> bool {
        self.merge_slashes.get()
    }

    pub fn server_tokens(&self) -> bool {
        self.server_tokens.get() != ServerTokens::Off
    }

    pub fn recursive_error_pages(&self) -> bool {
        self.recursive_error_pages.get()
    }

    pub fn is_internal(&self) -> bool {
        self.internal.get()
    }

    pub fn msie_padding(&self) -> bool {
        self.msie_padding.get()
    }

    pub fn msie_refresh(&self) -> bool {
        self.msie_refresh.get()
    }

    pub fn etag(&self) -> bool {
        self.etag.get()
    }

    /// True if a client whose copy dates from `date` need not get what was modified at `modified`.
    pub fn is_current(&self, modified: i64, date: i64) -> bool {
        match self.if_modified_since.get() {
            IfModifiedSince::Off => false,
            IfModifiedSince::Exact => modified == date,
            IfModifiedSince::Before => modified <= date,
        }
    }

    /// `if_modified_since off`.
    pub fn is_always_modified(&self) -> bool {
        self.if_modified_since.get() == IfModifiedSince::Off
    }

    pub fn log_not_found(&self) -> bool {
        self.log_not_found.get()
    }

    /// Tells an `alias` how much of the URI its location stands for. Returns a warning if the combination
    /// exposes files outside the directory.
    pub fn place_alias(&mut self, kind: &Kind, name: &str) -> Option<Diagnostic> {
        let span = self.root.span()?;
        let root = self.root.as_mut().filter(|root| root.is_alias)?;
        root.replaced = (!matches!(kind, Kind::Regex(_))).then_some(foreign::bytes(name).len());
        let is_open = matches!(kind, Kind::Prefix | Kind::PrefixFinal) && !name.ends_with('/');
        let path = root.path.as_text().unwrap_or(b"");
        (is_open && path.ends_with(b"/")).then(|| {
            let message = format!(
                "\"{name}../\" would lead out of the directory of this \"alias\", and is answered with 404"
            );
            Diagnostic::warning(span, message).help(format!("end both with a slash: location {name}/"))
        })
    }

    pub fn root(&self) -> Option<&Root> {
        self.root.as_ref()
    }

    pub fn error_pages(&self) -> &[ErrorPage] {
        &self.error_pages
    }

    /// The page for a status. If several apply, the first in the file wins.
    pub fn error_page(&self, status: u16) -> Option<&ErrorPage> {
        self.error_pages.iter().find(|page| page.statuses.contains(&status))
    }

    /// The media type of a file, by the extension of its name; a name like `.css` has no extension.
    pub fn type_of(&self, path: &[u8]) -> Option<&str> {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        let dot = memchr::memrchr(b'.', name).filter(|dot| *dot > 0)?;
        let extension = std::str::from_utf8(&name[dot + 1..]).ok()?.to_ascii_lowercase();
        match self.types.as_ref() {
            Some(types) => types.get(extension.as_str()).map(|kind| &**kind),
            None => match extension.as_str() {
                "html" => Some("text/html"),
                "gif" => Some("image/gif"),
                "jpg" => Some("image/jpeg"),
                _ => None,
            },
        }
    }

    /// The error log in force.
    pub fn log(&self) -> Logger {
        self.error_log.log()
    }

    /// Browsers whose connections are not kept.
    pub fn unkept_browsers(&self) -> Browsers {
        self.keepalive_disable.get(Browsers::DEFAULT)
    }

    pub fn default_type(&self) -> &str {
        self.default_type.value()
    }
}

fn keepalive_timeout(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let timeout = params::millis(node, 0)?;
    cx.keepalive_ms_max = cx.keepalive_ms_max.max(timeout);
    let header = node.args.get(1).map(|_| params::millis(node, 1)).transpose()?.map(|ms| ms / 1000);
    conf.keepalive_timeout.put((timeout, header), node)
}

fn keepalive_disable(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let _ = conf.keepalive_disable.set(Browsers::default(), node.span);
    match conf.keepalive_disable.as_mut() {
        Some(browsers) => browsers.add(node, &mut cx.diagnostics),
        None => Ok(()),
    }
}

fn header_min_rate(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let rate = min_rate::read_min_rate(node, min_rate::HEADER_MIN_RATE)?;
    conf.client_header_min_rate.put(rate, node)
}

fn body_min_rate(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let rate = min_rate::read_min_rate(node, min_rate::BODY_MIN_RATE)?;
    conf.client_body_min_rate.put(rate, node)
}

fn internal(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    conf.internal.put(true, node)
}

/// Several blocks of one level form one table; the last entry for an extension wins.
fn types(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let _ = conf.types.set(Arc::default(), node.span);
    let map = conf.types.as_mut().and_then(Arc::get_mut).expect("a block that is being read shares nothing");
    let mut same: Option<Diagnostic> = None;
    let mut same_count = 0;
    for entry in node.children() {
        let kind = &entry.name.text;
        for extension in &entry.args {
            let key: Box<str> = extension.text.to_ascii_lowercase().into();
            let Some(previous) = map.insert(key, kind.into()) else { continue };
            let message = format!(
                "duplicate extension \"{}\", content type: \"{kind}\", previous content type: \"{previous}\"",
                extension.text
            );
            let warning = Diagnostic::warning(extension.span, message);
            if *previous != **kind {
                cx.diagnostics.push(warning.help("the later line applies"));
            } else {
                same_count += 1;
                same.get_or_insert(warning);
            }
        }
    }
    // Including a list twice changes nothing: a single warning is enough.
    if let Some(warning) = same {
        cx.diagnostics.push(match same_count {
            1 => warning,
            count => {
                warning.help(format!("{count} extensions of this block are repeated with the type they had"))
            }
        });
    }
    Ok(())
}

fn root(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    set_root(conf, cx, node, false)
}

fn alias(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    set_root(conf, cx, node, true)
}

fn set_root(conf: &mut Conf, cx: &mut Cx, node: &Node, is_alias: bool) -> Result<(), Diagnostic> {
    let text = node.arg(0);
    for name in ["document_root", "realpath_root"] {
        if value::names(text).any(|used| used == name) {
            let message =
                format!("the ${name} variable cannot be used in the \"{}\" directive", node.name.text);
            return Err(
                Diagnostic::error(node.arg_span(0), message).help("its value is derived from this directive")
            );
        }
    }
    let absolute = if text.starts_with('$') { PathBuf::from(text) } else { cx.path(text) };
    let mut text = absolute.to_string_lossy().into_owned();
    if !is_alias {
        text.truncate(text.trim_end_matches('/').len());
    }
    let path = Script::compile_text(&text, node.arg_span(0), cx)?;
    let steps_up = steps_up(text.as_bytes());
    if !conf.root.set(Root { path, is_alias, replaced: Some(0), steps_up }, node.span) {
        let message = match conf.root.as_ref() {
            Some(first) if first.is_alias != is_alias => {
                format!(
                    "\"{}\" directive is duplicate, \"{}\" directive was specified earlier",
                    node.name.text,
                    if is_alias { "root" } else { "alias" }
                )
            }
            _ => format!("\"{}\" directive is duplicate", node.name.text),
        };
        return Err(Diagnostic::error(node.span, message));
    }
    Ok(())
}

fn error_page(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let (target, mut rest) =
        node.args.split_last().ok_or_else(|| Diagnostic::error(node.span, "no arguments"))?;
    let mut status = None;
    if let Some((last, before)) = rest.split_last()
        && let Some(code) = last.text.strip_prefix('=')
    {
        status = Some(if code.is_empty() { 0 } else { status_code(code, last.span)? });
        rest = before;
    }
    let mut statuses = Vec::new();
    for word in rest {
        let code = status_code(&word.text, word.span)?;
        if !(300..=599).contains(&code) || code == 499 {
            let message = format!("value \"{code}\" must be between 300 and 599");
            return Err(Diagnostic::error(word.span, message));
        }
        statuses.push(code);
    }
    if statuses.is_empty() {
        let message = format!("invalid value \"{}\"", target.text);
        return Err(Diagnostic::error(target.span, message)
            .help("statuses come before the URI: error_page 502 504 /50x.html;"));
    }
    let is_name = target.text.starts_with('@') && !value::has_variables(&target.text);
    let name = is_name.then(|| (&target.text).into());
    let target = Script::compile(target, cx)?;
    conf.error_pages.push(ErrorPage { statuses: statuses.into(), status, target, name });
    Ok(())
}

fn set_error_log(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    conf.error_log.add(node, cx)
}

fn status_code(text: &str, span: Span) -> Result<u16, Diagnostic> {
    text.parse().map_err(|_| {
        Diagnostic::error(span, format!("invalid value \"{text}\""))
            .help("a status is a number from 300 to 599")
    })
}
