//! The access log: formats compiled once, one line per request.
//!
//! Runs in the log phase. Touches: the request's variables, the log's writer. Formats and logs are in
//! `shared/log_format.rs` and `shared/access_log.rs`; this file decides which requests are logged, and adds
//! nginx's default log.
//! Behaviour: nginx.org, ngx_http_log_module.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use crate::config::directive::{custom, flag};
use crate::config::inherit::{replace, together};
use crate::config::{Arity, Context, Diagnostic, Inherit, Node, Setting, Span, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive, Partial, http_core};
use crate::http::request::{Request, termination};
use crate::http::scope::Variable;
use crate::log::{self, named};
use crate::runtime;
use crate::script::variable::variable;
use crate::shared::access_log::Sink;
use crate::shared::{access_log, log_format};

const COMBINED: &str = "$remote_addr - $remote_user [$time_local] \"$request\" $status $body_bytes_sent \
                        \"$http_referer\" \"$http_user_agent\"";

/// The formats of the `http` block by name.
pub type Formats = log_format::Formats<Request>;
type Format = log_format::Format<Request>;
type Log = access_log::Log<Request>;

settings! {
    #[derive(Clone, Debug)]
    pub struct Conf {
        logs: Vec<Log> => together,
        off: bool => together,
        /// `open_log_file_cache`; the inner `None` means off.
        cache: Inherit<Option<Arc<named::Cache>>>,
        log_subrequest: Setting<bool> = false,
    }
    then inherit_logs
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("log_format", Context::HTTP, Arity::at_least(2), log_format, "Declares a format of access log lines."),
    custom("access_log", Context::ANY.or(Context::LOCATION_IF).or(Context::LIMIT_EXCEPT), Arity::at_least(1), access_log,
        "Sets where requests are logged, and in which format; off disables the log.")
        .default("logs/access.log combined, or off if the prefix has no logs directory"),
    custom("open_log_file_cache", Context::ANY, Arity::between(1, 4), open_log_file_cache,
        "Keeps log files whose names contain variables open, with the parameters max=, inactive=, min_uses= and valid=; off disables this.").default("off"),
    flag("log_subrequest", Context::ANY, |conf| &mut conf.log_subrequest, "Logs subrequests too, such as those of SSI includes."),
];

#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    variable("termination_reason", |request, _, out| { termination::write(request, out); true },
        "Which side ended the request, in which phase, and by which limit; see below."),
    variable("request_head_time", |r, _, out| seconds(Some(r.headed_us), r.started_us, out),
        "The time from the first byte of the request head to its last, in seconds."),
    variable("request_body_time", |r, _, out| seconds(r.body.ended_us(), r.headed_us, out),
        "The time from the end of the request head to the end of the request body, in seconds."),
    variable("response_wait_time", |r, _, out| seconds(r.answered_us, r.started_us, out),
        "The time from the first byte of the request to the head of the response, in seconds."),
    variable("response_send_time", |r, _, out| {
        let now_us = runtime::now_us();
        r.answered_us.is_some_and(|answered_us| seconds(Some(now_us), answered_us, out))
    },
        "The time since the head of the response, in seconds; in the log, up to its last byte."),
];

/// Writes the time between two moments. There is no value if the later one has not come yet.
fn seconds(until_us: Option<u64>, from_us: u64, out: &mut Vec<u8>) -> bool {
    let Some(ms) = until_us.map(|until_us| until_us.saturating_sub(from_us) / 1000) else { return false };
    write!(out, "{}.{:03}", ms / 1000, ms % 1000).is_ok()
}

impl BlockConf for Conf {}

/// `access_log off` inherits no log, and inner blocks inherit the `off`.
fn inherit_logs(conf: &mut Conf, outer: &Conf) {
    if !conf.off {
        replace(&mut conf.logs, &outer.logs);
        conf.off = conf.logs.is_empty() && outer.off;
    }
}

fn log_format(_: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    cx.drafts.access_log.refuse_known(node, &["combined"])?;
    let format = Format::read(node, cx)?;
    cx.drafts.access_log.insert(node.arg(0), format);
    Ok(())
}

fn access_log(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    if node.arg(0) != "off" {
        conf.logs.push(Log::read(node, cx, find_format)?);
        return Ok(());
    }
    if node.args.len() > 1 {
        let message = format!("invalid parameter \"{}\"", node.arg(1));
        return Err(Diagnostic::error(node.arg_span(1), message));
    }
    conf.off = true;
    Ok(())
}

fn open_log_file_cache(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    conf.cache.put(access_log::read_cache(node)?, node)
}

/// Adds nginx's default log to an `http` block that configures none.
pub fn add_default(http: &mut Partial, span: Span, cx: &mut Cx) {
    let conf = http.access_log.get_or_insert_default();
    if conf.off || !conf.logs.is_empty() {
        return;
    }
    if !cx.options.prefix.join("logs").is_dir() {
        cx.is_unlogged = true;
        return;
    }
    match find_format(None, span, cx).map(|format| Log::plain("logs/access.log", format, cx)) {
        Ok(Ok(log)) => conf.logs.push(log),
        Ok(Err(why)) => cx.diagnostics.push(Diagnostic::error(span, why)),
        Err(diagnostic) => cx.diagnostics.push(diagnostic),
    }
}

/// Finds the format that a log names, otherwise nginx's own, which is compiled on its first use.
fn find_format(name: Option<&str>, span: Span, cx: &mut Cx) -> Result<Format, Diagnostic> {
    let name = name.unwrap_or("combined");
    if name == "combined" && cx.drafts.access_log.get(name).is_none() {
        let format = Format::compile(COMBINED, span, cx)?;
        cx.drafts.access_log.insert(name, format);
    }
    cx.drafts.access_log.find(name, span)
}

/// Writes the request's line to every log of its location.
pub fn write(request: &mut Request) {
    let location = request.location;
    let conf = &location.confs.access_log;
    if conf.off || (request.is_subrequest() && !conf.log_subrequest.get()) {
        return;
    }
    for log in &conf.logs {
        let Some(line) = log.line(request) else { continue };
        match log.sink() {
            Sink::File(file) => file.write_line(&line),
            Sink::Named(name) if has_root(request) => {
                let cache = conf.cache.as_ref().and_then(Option::as_ref);
                access_log::append_named(request, name, cache, &line);
            }
            Sink::Named(_) => {}
        }
    }
}

/// True if the request's root directory exists. If it is missing, a log whose name has variables is not
/// written: names built from client input must not fill the disk (nginx does the same).
fn has_root(request: &mut Request) -> bool {
    let mut root = Vec::new();
    http_core::document_root(request, &mut root);
    let Err(error) = std::fs::metadata(Path::new(OsStr::from_bytes(&root))) else { return true };
    let (root, cause) = (log::Text(&root), log::Cause(&error));
    log::error!(request.error_log(), &*request, "testing \"{root}\" existence failed {cause}");
    false
}
