//! The access log: formats compiled once, one line per request.
//!
//! Runs in the log phase. Touches: the request's variables, the log's writer.
//! Behaviour: nginx.org, ngx_http_log_module.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use crate::base::foreign;
use crate::base::number::{parse_millis, parse_size};
use crate::config::directive::{custom, flag};
use crate::config::inherit::{duplicate, replace};
use crate::config::{Arity, Context, Diagnostic, Inherit, Merge, Node, Span, params};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive, Partial, core};
use crate::http::request::Request;
use crate::http::request::termination;
use crate::http::scope::{Script, Variable};
use crate::log::{self, access, escape, named};
use crate::runtime;
use crate::script::Scope;
use crate::script::value::variable_name;
use crate::script::variable::{VariableId, variable};
use crate::sys::clock;

/// `buffer=` where only `gzip` was asked for; nginx's.
const GZIP_BUFFER_BYTES: usize = 64 * 1024;

const COMBINED: &str = "$remote_addr - $remote_user [$time_local] \"$request\" $status $body_bytes_sent \
                        \"$http_referer\" \"$http_user_agent\"";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escape {
    Default,
    Json,
    None,
}

#[derive(Clone, Debug)]
enum Part {
    Text(Box<[u8]>),
    Variable(VariableId),
}

/// A `log_format`.
#[derive(Clone, Debug)]
struct Format {
    parts: Box<[Part]>,
    escape: Escape,
}

/// The formats of the `http` block by name.
#[derive(Debug, Default)]
pub struct Shared {
    formats: HashMap<Box<str>, Format>,
}

/// Where a log's lines go.
#[derive(Clone, Debug)]
enum Sink {
    File(access::File),
    /// The name depends on the request.
    Named(Script),
}

#[derive(Clone, Debug)]
struct Log {
    sink: Sink,
    format: Format,
    /// `if=`: nothing is written for an empty value or `0`.
    condition: Option<Script>,
}

#[derive(Clone, Debug, Default)]
pub struct Conf {
    logs: Vec<Log>,
    off: bool,
    /// `open_log_file_cache`; `None` inside: off.
    cache: Inherit<Option<Arc<named::Cache>>>,
    log_subrequest: Inherit<bool>,
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("log_format", Context::HTTP, Arity::at_least(2), log_format, "Declares a format of access log lines."),
    custom("access_log", Context::ANY.or(Context::LOCATION_IF).or(Context::LIMIT_EXCEPT), Arity::at_least(1), access_log,
        "Where requests are logged and in which format, or off; logs/access.log combined, or off where the prefix has no folder logs."),
    custom("open_log_file_cache", Context::ANY, Arity::between(1, 4), open_log_file_cache,
        "Keeps log files with variables in their names open: max, inactive, min_uses and valid, or off; off."),
    flag("log_subrequest", Context::ANY, |conf| &mut conf.log_subrequest, "Logs subrequests too, such as those of an SSI include; off."),
];

#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    variable("termination_reason", |request, _, out| { termination::write(request, out); true },
        "Who ended the request, in which phase, by which limit: see below."),
    variable("request_head_time", |r, _, out| seconds(Some(r.headed_us), r.started_us, out),
        "From the first byte of the request's head to its last, in seconds."),
    variable("request_body_time", |r, _, out| seconds(r.body.ended_us(), r.headed_us, out),
        "From the end of the request's head to the end of its body, in seconds."),
    variable("response_wait_time", |r, _, out| seconds(r.answered_us, r.started_us, out),
        "From the first byte of the request to the head of the answer, in seconds."),
    variable("response_send_time", |r, _, out| {
        let now_us = runtime::now_us();
        r.answered_us.is_some_and(|answered_us| seconds(Some(now_us), answered_us, out))
    },
        "From the head of the answer to now, in the log to its last byte; in seconds."),
];

/// The time from one moment to another; no value where the other one has not come.
fn seconds(until_us: Option<u64>, from_us: u64, out: &mut Vec<u8>) -> bool {
    let Some(ms) = until_us.map(|until_us| until_us.saturating_sub(from_us) / 1000) else { return false };
    write!(out, "{}.{:03}", ms / 1000, ms % 1000).is_ok()
}

impl Merge for Conf {
    fn merge(&mut self, outer: &Self) {
        self.cache.merge(&outer.cache);
        self.log_subrequest.merge(&outer.log_subrequest);
        if !self.off {
            replace(&mut self.logs, &outer.logs);
            self.off = self.logs.is_empty() && outer.off;
        }
    }
}

impl BlockConf for Conf {}

fn log_format(_: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let name = node.arg(0);
    if name == "combined" || cx.log.formats.contains_key(name) {
        return Err(Diagnostic::error(node.arg_span(0), format!("duplicate \"log_format\" name \"{name}\"")));
    }
    let mut escape = Escape::Default;
    let mut texts = &node.args[1..];
    if let Some(kind) = texts[0].text.strip_prefix("escape=") {
        escape = match kind {
            "default" => Escape::Default,
            "json" => Escape::Json,
            "none" => Escape::None,
            _ => {
                return Err(Diagnostic::error(
                    texts[0].span,
                    format!("unknown log format escaping \"{kind}\""),
                )
                .help("one of default, json and none"));
            }
        };
        texts = &texts[1..];
    }
    let mut parts = Vec::new();
    for word in texts {
        compile(&word.text, word.span, cx, &mut parts)?;
    }
    cx.log.formats.insert(name.into(), Format { parts: parts.into(), escape });
    Ok(())
}

/// Like a script, but the parts stay apart: values are escaped, text is not.
fn compile(text: &str, span: Span, cx: &mut Cx, parts: &mut Vec<Part>) -> Result<(), Diagnostic> {
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        if at > 0 {
            parts.push(Part::Text(foreign::bytes(&rest[..at]).into()));
        }
        let (name, after) = variable_name(&rest[at + 1..], span)?;
        parts.push(Part::Variable(cx.variables.reference(name, span)));
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(Part::Text(foreign::bytes(rest).into()));
    }
    Ok(())
}

fn access_log(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    if node.arg(0) == "off" {
        if node.args.len() > 1 {
            return Err(Diagnostic::error(
                node.arg_span(1),
                format!("invalid parameter \"{}\"", node.arg(1)),
            ));
        }
        conf.off = true;
        return Ok(());
    }
    let mut options = access::Options::default();
    let mut condition = None;
    let mut format_name = "combined";
    let mut format_span = node.span;
    for (at, word) in node.args.iter().enumerate().skip(1) {
        let invalid = || Diagnostic::error(word.span, format!("invalid parameter \"{}\"", word.text));
        match word.text.split_once('=') {
            None if at == 1 => (format_name, format_span) = (&word.text, word.span),
            Some(("buffer", value)) => {
                options.buffer = Some(parse_size(value).ok_or_else(invalid)? as usize);
            }
            Some(("flush", value)) => options.flush_ms = Some(parse_millis(value).ok_or_else(invalid)?),
            Some(("if", value)) => condition = Some(Script::compile_text(value, word.span, cx)?),
            None if &*word.text == "gzip" => options.gzip = Some(1), // nginx's default: speed
            Some(("gzip", value)) => {
                let level = value.parse().ok().filter(|level| (1..=9).contains(level));
                options.gzip = Some(level.ok_or_else(invalid)?);
            }
            _ => return Err(invalid()),
        }
    }
    if options.gzip.is_some() {
        options.buffer.get_or_insert(GZIP_BUFFER_BYTES);
    }
    if options.flush_ms.is_some() && options.buffer.is_none() {
        let message = format!("no buffer is defined for access_log \"{}\"", node.arg(0));
        return Err(Diagnostic::error(node.span, message).help("flush= goes with buffer=SIZE"));
    }
    let format = find_format(format_name, format_span, cx)?;
    let is_named = node.arg(0).contains('$') && !node.arg(0).starts_with("syslog:");
    if is_named && options != access::Options::default() {
        return Err(Diagnostic::error(node.arg_span(0), "buffered logs cannot have variables in name"));
    }
    let sink = if is_named {
        let path = cx.path(node.arg(0)).to_string_lossy().into_owned();
        Sink::Named(Script::compile_text(&path, node.arg_span(0), cx)?)
    } else {
        let file = access::File::declare(node.arg(0), &cx.options.prefix, options, &cx.options.names);
        Sink::File(file.map_err(|why| Diagnostic::error(node.arg_span(0), why))?)
    };
    conf.logs.push(Log { sink, format, condition });
    Ok(())
}

fn open_log_file_cache(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let mut limits = named::Limits { count_max: 0, inactive_ms: 10_000, uses_min: 1, valid_ms: 60_000 };
    let is_off = node.args.len() == 1 && node.arg(0) == "off";
    for word in node.args.iter().filter(|_| !is_off) {
        let invalid = || params::invalid_parameter(word, &["max=", "inactive=", "min_uses=", "valid="]);
        let (name, value) = word.text.split_once('=').ok_or_else(invalid)?;
        match name {
            "max" => limits.count_max = value.parse().ok().filter(|&max| max > 0).ok_or_else(invalid)?,
            "inactive" => limits.inactive_ms = parse_millis(value).ok_or_else(invalid)?,
            "min_uses" => limits.uses_min = value.parse().ok().filter(|&min| min > 0).ok_or_else(invalid)?,
            "valid" => limits.valid_ms = parse_millis(value).ok_or_else(invalid)?,
            _ => return Err(invalid()),
        }
    }
    if !is_off && limits.count_max == 0 {
        let message = "\"open_log_file_cache\" must have \"max\" parameter";
        return Err(Diagnostic::error(node.span, message));
    }
    if !conf.cache.set((!is_off).then(|| Arc::new(named::Cache::new(limits))), node.span) {
        return Err(duplicate(node));
    }
    Ok(())
}

/// nginx's own log where the `http` block says nothing about one.
pub fn add_default(http: &mut Partial, span: Span, cx: &mut Cx) {
    let conf = http.access_log.get_or_insert_default();
    if conf.off || !conf.logs.is_empty() {
        return;
    }
    if !cx.options.prefix.join("logs").is_dir() {
        cx.is_unlogged = true;
        return;
    }
    let file = access::File::declare(
        "logs/access.log",
        &cx.options.prefix,
        access::Options::default(),
        &cx.options.names,
    );
    match (file, find_format("combined", span, cx)) {
        (Ok(file), Ok(format)) => conf.logs.push(Log { sink: Sink::File(file), format, condition: None }),
        (Err(why), _) => cx.diagnostics.push(Diagnostic::error(span, why)),
        (_, Err(diagnostic)) => cx.diagnostics.push(diagnostic),
    }
}

fn find_format(name: &str, span: Span, cx: &mut Cx) -> Result<Format, Diagnostic> {
    if let Some(format) = cx.log.formats.get(name) {
        return Ok(format.clone());
    }
    if name == "combined" {
        let mut parts = Vec::new();
        compile(COMBINED, span, cx, &mut parts)?;
        let format = Format { parts: parts.into(), escape: Escape::Default };
        cx.log.formats.insert(name.into(), format.clone());
        return Ok(format);
    }
    let diagnostic = Diagnostic::error(span, format!("unknown log format \"{name}\""));
    let near = cx.log.formats.keys().find(|known| strsim::damerau_levenshtein(known, name) <= 2);
    Err(match near {
        Some(near) => diagnostic.help(format!("did you mean \"{near}\"?")),
        None => diagnostic.help("declare it with \"log_format\" before this line"),
    })
}

/// Writes the request's line to every log of its location.
pub fn write(request: &mut Request) {
    let location = request.location;
    let conf = &location.access_log;
    if conf.off || (request.is_subrequest() && !conf.log_subrequest.get(false)) {
        return;
    }
    for log in &conf.logs {
        if let Some(condition) = &log.condition {
            let value = condition.to_vec(request);
            if value.is_empty() || value == b"0" {
                continue;
            }
        }
        let mut line = Vec::with_capacity(256);
        render(&log.format, request, &mut line);
        line.push(b'\n');
        match &log.sink {
            Sink::File(file) => file.write_line(&line),
            Sink::Named(name) => {
                write_named(request, name, conf.cache.as_ref().and_then(Option::as_ref), &line)
            }
        }
    }
}

/// Appends a line to the log that the request names. Where its root directory is missing there is none: names made
/// of what clients send must not fill the disk.
fn write_named(request: &mut Request, name: &'static Script, cache: Option<&Arc<named::Cache>>, line: &[u8]) {
    let mut root = Vec::new();
    core::document_root(request, &mut root);
    if let Err(error) = std::fs::metadata(Path::new(OsStr::from_bytes(&root))) {
        let root = log::Text(&root);
        log::error!(
            core::error_log(request),
            &*request,
            "testing \"{root}\" existence failed {}",
            log::Cause(&error)
        );
        return;
    }
    let name = name.to_vec(request);
    let path = Path::new(OsStr::from_bytes(&name));
    let written = match cache {
        Some(cache) => cache.append(path, line, clock::monotonic_ms()),
        None => named::append(path, line),
    };
    if let Err(error) = written {
        let name = log::Text(&name);
        log::error!(
            core::error_log(request),
            &*request,
            "writing to \"{name}\" failed {}",
            log::Cause(&error)
        );
    }
}

fn render(format: &'static Format, request: &mut Request, line: &mut Vec<u8>) {
    let mut value = Vec::new();
    for part in &format.parts {
        match part {
            Part::Text(text) => line.extend_from_slice(text),
            Part::Variable(id) => {
                value.clear();
                let found = request.variable(*id, &mut value);
                match format.escape {
                    Escape::Default if !found => line.push(b'-'),
                    Escape::Default => escape::default(&value, line),
                    Escape::Json => escape::json(&value, line),
                    Escape::None => line.extend_from_slice(&value),
                }
            }
        }
    }
}
