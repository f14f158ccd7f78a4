//! The access log: formats compiled once, one line per request.
//!
//! Runs in the log phase. Touches: the request's variables, the log's writer.
//! Behaviour: nginx.org, ngx_http_log_module.

use std::collections::HashMap;

use crate::base::number::{parse_millis, parse_size};
use crate::config::directive::{Accepted, accepted, custom};
use crate::config::inherit::replace;
use crate::config::{Arity, Context, Diagnostic, Merge, Node, Span};
use crate::http::compile::Cx;
use crate::http::modules::{BlockConf, Directive, Partial};
use crate::http::request::Request;
use crate::http::script::Script;
use crate::http::variable::{Variable, VariableId};
use crate::log::{access, escape};

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

#[derive(Clone, Debug)]
struct Log {
    file: access::File,
    format: Format,
    /// `if=`: nothing is written for an empty value or `0`.
    condition: Option<Script>,
}

#[derive(Clone, Debug, Default)]
pub struct Conf {
    logs: Vec<Log>,
    off: bool,
}

pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("log_format", Context::HTTP, Arity::at_least(2), log_format, "Declares a format of access log lines."),
    custom(
        "access_log",
        Context::ANY.or(Context::LOCATION_IF).or(Context::LIMIT_EXCEPT),
        Arity::at_least(1),
        access_log,
        "Where requests are logged and in which format, or off; logs/access.log combined.",
    ),
    accepted("open_log_file_cache", Context::ANY, Arity::at_least(1), Accepted::Words, "Log files stay open; off."),
];

pub static VARIABLES: &[Variable] = &[];

impl Merge for Conf {
    fn merge(&mut self, outer: &Self) {
        if !self.off {
            replace(&mut self.logs, &outer.logs);
            self.off = self.logs.is_empty() && outer.off;
        }
    }
}

impl BlockConf for Conf {}

fn log_format(_: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let name = node.arg(0);
    if cx.log.formats.contains_key(name) {
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
                return Err(Diagnostic::error(texts[0].span, format!("unknown log format escaping \"{kind}\""))
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
            parts.push(Part::Text(rest.as_bytes()[..at].into()));
        }
        let (name, after) = crate::http::script::variable_name(&rest[at + 1..], span)?;
        parts.push(Part::Variable(cx.variables.reference(name, span)));
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.as_bytes().into()));
    }
    Ok(())
}

fn access_log(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    if node.arg(0) == "off" {
        if node.args.len() > 1 {
            return Err(Diagnostic::error(node.arg_span(1), format!("invalid parameter \"{}\"", node.arg(1))));
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
            None if &*word.text == "gzip" => return Err(not_yet(word.span, "gzip")),
            Some(("gzip", _)) => return Err(not_yet(word.span, "gzip")),
            _ => return Err(invalid()),
        }
    }
    if options.flush_ms.is_some() && options.buffer.is_none() {
        let message = format!("no buffer is defined for access_log \"{}\"", node.arg(0));
        return Err(Diagnostic::error(node.span, message).help("flush= goes with buffer=SIZE"));
    }
    if node.arg(0).contains('$') {
        return Err(Diagnostic::error(node.arg_span(0), "variables in the path of \"access_log\" are not supported yet"));
    }
    let format = find_format(format_name, format_span, cx)?;
    let file = access::File::declare(node.arg(0), &cx.options.prefix, options)
        .map_err(|why| Diagnostic::error(node.arg_span(0), why))?;
    conf.logs.push(Log { file, format, condition });
    Ok(())
}

/// nginx's own log where the `http` block says nothing about one.
pub fn add_default(http: &mut Partial, span: Span, cx: &mut Cx) {
    let conf = http.access_log.get_or_insert_default();
    if conf.off || !conf.logs.is_empty() {
        return;
    }
    let file = access::File::declare("logs/access.log", &cx.options.prefix, access::Options::default());
    match (file, find_format("combined", span, cx)) {
        (Ok(file), Ok(format)) => conf.logs.push(Log { file, format, condition: None }),
        (Err(why), _) => cx.diagnostics.push(Diagnostic::error(span, why)),
        (_, Err(diagnostic)) => cx.diagnostics.push(diagnostic),
    }
}

fn not_yet(span: Span, what: &str) -> Diagnostic {
    Diagnostic::error(span, format!("the \"{what}\" parameter of \"access_log\" is not supported yet"))
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
    if conf.off {
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
        log.file.write_line(&line);
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
