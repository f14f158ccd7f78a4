//! FastCGI to upstreams: every `fastcgi_…` directive except `fastcgi_pass`, and the script that a URI names, in its
//! terms: `$fastcgi_script_name` and `$fastcgi_path_info`.
//!
//! Settings only. Those that other upstream protocols share are in `http/upstream/conf.rs`; the encoder and the
//! decoder are in `http/upstream/fastcgi.rs`. Touches: the request's URI.
//! Behaviour: nginx.org, ngx_http_fastcgi_module.

use std::sync::Arc;

use crate::config::inherit::replace;
use crate::config::{Diagnostic, Inherit, Node, Setting, Span, settings};
use crate::http::config::compile::Cx;
use crate::http::config::location::Kind;
use crate::http::modules::{BlockConf, Confs, Directive};
use crate::http::request::Request;
use crate::http::scope::Variable;
use crate::http::upstream::conf::{self, Family};
use crate::http::upstream::params::{self, Param};
use crate::http::upstream::protocol::Protocol;
use crate::http::upstream::rows::upstream_rows;
use crate::script::regex::Pattern;
use crate::script::variable::variable;

/// Fields of a response that are hidden from the client (nginx's list).
pub const HIDDEN: &[&str] = &[
    "Status",
    "X-Accel-Expires",
    "X-Accel-Redirect",
    "X-Accel-Limit-Rate",
    "X-Accel-Buffering",
    "X-Accel-Charset",
];

static FAMILY: Family = Family::of_applications("fastcgi_", HIDDEN);

settings! {
    /// The settings of one block: those of every family, and those specific to FastCGI.
    #[derive(Debug)]
    pub struct Conf {
        pub upstream: conf::Conf = &FAMILY,
        index: Inherit<Box<str>>,
        split: Inherit<Arc<Pattern>>,
        keep_conn: Setting<bool> = false,
        catch_stderr: Vec<Box<str>> => replace,
        params: Vec<Param> => replace,
    }
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = upstream_rows!("fastcgi_", Conf, upstream, [relay, whole], [
    custom("fastcgi_param", ANY, Arity::between(2, 3), |c, cx, node| params::push(&mut c.params, cx, node),
        "Sets a parameter of the request to the application. With if_not_empty it is sent only if its value is not empty."),
    text("fastcgi_index", ANY, |c: &mut Conf| &mut c.index, "Sets the file name that $fastcgi_script_name appends to a URI that ends with a slash."),
    custom("fastcgi_split_path_info", ANY, ONE, split_path_info,
        "Sets a regular expression whose two groups become $fastcgi_script_name and $fastcgi_path_info."),
    flag("fastcgi_keep_conn", ANY, |c| &mut c.keep_conn, "Asks the application to keep its connection open for further requests."),
    custom("fastcgi_catch_stderr", ANY, ONE, |c, _, node| conf::push(&mut c.catch_stderr, node),
        "Treats a response whose messages for the error log contain this text as invalid: another server is tried if fastcgi_next_upstream permits \
         invalid_header."),
    accepted("fastcgi_send_lowat", ANY, ONE, Accepted::Size, "Data is never held back to fill a packet.").default("0"),
]);

impl Conf {
    /// The parameters of requests.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    pub fn keeps_connections(&self) -> bool {
        self.keep_conn.get()
    }

    /// True if this message for the error log makes the response invalid.
    pub fn catches(&self, message: &[u8]) -> bool {
        self.catch_stderr.iter().any(|text| memchr::memmem::find(message, text.as_bytes()).is_some())
    }
}

#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    variable("fastcgi_script_name", |request, _, out| {
        let (script, _) = split(request);
        out.extend_from_slice(&script);
        if script.ends_with(b"/") {
            out.extend_from_slice(
                request.location.confs.fastcgi.index.as_ref().map_or(b"", |index| index.as_bytes()),
            );
        }
        true
    },
        "The path of the script: the first group of fastcgi_split_path_info, otherwise $uri; fastcgi_index is appended after a slash."),
    variable("fastcgi_path_info", |request, _, out| { out.extend_from_slice(&split(request).1); true },
        "The part of the path after the script: the second group of fastcgi_split_path_info."),
];

impl BlockConf for Conf {
    fn freeze(&mut self, cx: &mut Cx) {
        self.upstream.freeze(cx);
    }
}

/// Warns of a location that hands any file to the application: `/upload.jpg/x.php` is the script `x.php` below
/// `upload.jpg`, and PHP executes the upload if `cgi.fix_pathinfo` is on, as it is by default.
pub fn check(confs: &Confs, kind: &Kind, span: Span, cx: &mut Cx) {
    const TRAP: &str = "/upload.jpg/x.php";
    let Kind::Regex(regex) = kind else { return };
    let conf = &confs.fastcgi;
    let is_script = |param: &&Param| param.name() == "SCRIPT_FILENAME";
    let is_cut = |split: &Arc<Pattern>| matches!(split.captures(TRAP.as_bytes()), Ok(Some(groups)) if groups.get(1) != Some(&(0..TRAP.len())));
    if confs.proxy_pass.protocol() != Protocol::FastCgi
        || confs.try_files.acts()
        || confs.rewrite.has_conditions()
        || !conf.params.iter().rev().find(is_script).is_some_and(Param::follows_uri)
        || !regex.is_match(TRAP.as_bytes()).unwrap_or(false)
        || conf.split.as_ref().is_some_and(is_cut)
    {
        return;
    }
    let message = format!("\"{TRAP}\" is passed to the application as a script, whether it exists or not");
    cx.diagnostics.push(
        Diagnostic::warning(span, message)
            .help("an uploaded file may be executed as PHP: add \"try_files $fastcgi_script_name =404;\""),
    );
}

fn split_path_info(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let regex = Pattern::new(node.arg(0), false, node.arg_span(0))?;
    if regex.group_count() != 3 {
        let message = format!("pattern \"{}\" must have 2 captures", node.arg(0));
        return Err(Diagnostic::error(node.arg_span(0), message)
            .help("the script and what follows it: ^(.+\\.php)(/.*)$"));
    }
    conf.split.put(Arc::new(regex), node)
}

/// Splits the URI into the script's name and the rest. The captures of the request, such as `$1`, are left
/// alone.
fn split(request: &mut Request) -> (Vec<u8>, Vec<u8>) {
    let uri = request.uri.clone();
    let split = request.location.confs.fastcgi.split.as_ref();
    let groups = split.and_then(|regex| regex.search(request, &uri));
    match groups.as_deref() {
        Some([_, script, rest, ..]) => (uri[script.clone()].to_vec(), uri[rest.clone()].to_vec()),
        _ => (uri, Vec::new()),
    }
}
