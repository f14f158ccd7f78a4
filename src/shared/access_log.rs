//! Access logs: what `access_log` and `open_log_file_cache` say, and the line of a scope.
//!
//! Touches: the scope's variables, the log's writer; the file system where the name of a log has variables.
//! Behaviour: nginx.org, ngx_http_log_module and ngx_stream_log_module.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use crate::base::number::{parse_millis, parse_size};
use crate::config::{Diagnostic, Node, Span, params};
use crate::log::{self, access, named};
use crate::script::Scope;
use crate::script::file_path::FilePath;
use crate::script::value::{self, Script};
use crate::shared::Environment;
use crate::shared::log_format::Format;
use crate::sys::clock;

/// `buffer=` where only `gzip` was asked for; nginx's.
const GZIP_BUFFER_BYTES: usize = 64 * 1024;

/// The destination of a log's lines.
pub enum Sink<S> {
    File(access::File),
    /// The name depends on the scope.
    Named(FilePath<S>),
}

/// Finds the format that a line names, if it names one; the span is that of the name or of the line.
pub type FindFormat<S, X> = fn(Option<&str>, Span, &mut X) -> Result<Format<S>, Diagnostic>;

/// One `access_log`.
pub struct Log<S> {
    sink: Sink<S>,
    format: Format<S>,
    /// `if=`: nothing is written for an empty value or `0`.
    condition: Option<Script<S>>,
}

impl<S> Clone for Sink<S> {
    fn clone(&self) -> Self {
        match self {
            Self::File(file) => Self::File(*file),
            Self::Named(name) => Self::Named(name.clone()),
        }
    }
}

impl<S> Clone for Log<S> {
    fn clone(&self) -> Self {
        let Self { sink, format, condition } = self;
        Self { sink: sink.clone(), format: format.clone(), condition: condition.clone() }
    }
}

impl<S> fmt::Debug for Log<S> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Log").field("format", &self.format).finish_non_exhaustive()
    }
}

impl<S: Scope> Log<S> {
    /// A log with all that nginx has by default.
    pub fn plain(path: &str, format: Format<S>, cx: &impl Environment<Scope = S>) -> Result<Self, String> {
        let file = access::File::declare(path, cx.prefix(), access::Options::default(), cx.names())?;
        Ok(Self { sink: Sink::File(file), format, condition: None })
    }

    /// Reads an `access_log` that is not off. `find` gives the format of a name at its place, or at the directive's where
    /// there is no name.
    pub fn read<X: Environment<Scope = S>>(
        node: &Node,
        cx: &mut X,
        find: FindFormat<S, X>,
    ) -> Result<Self, Diagnostic> {
        let mut options = access::Options::default();
        let mut condition = None;
        let mut format = (None, node.span);
        for (at, word) in node.args.iter().enumerate().skip(1) {
            let invalid = || Diagnostic::error(word.span, format!("invalid parameter \"{}\"", word.text));
            match word.text.split_once('=') {
                None if at == 1 => format = (Some(&*word.text), word.span),
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
        let format = find(format.0, format.1, cx)?;
        Ok(Self { sink: Sink::read(node, options, cx)?, format, condition })
    }

    pub fn sink(&self) -> &Sink<S> {
        &self.sink
    }

    /// The line of a scope; `None`: the log's condition says that there is none.
    pub fn line(&self, scope: &mut S) -> Option<Vec<u8>> {
        if let Some(condition) = &self.condition
            && !value::is_true(&condition.to_vec(scope))
        {
            return None;
        }
        let mut line = Vec::with_capacity(256);
        self.format.render(scope, &mut line);
        line.push(b'\n');
        Some(line)
    }
}

impl<S: Scope> Sink<S> {
    fn read(
        node: &Node,
        options: access::Options,
        cx: &mut impl Environment<Scope = S>,
    ) -> Result<Self, Diagnostic> {
        let name = node.arg(0);
        let is_named = name.contains('$') && !name.starts_with("syslog:");
        if is_named && options != access::Options::default() {
            return Err(Diagnostic::error(node.arg_span(0), "buffered logs cannot have variables in name"));
        }
        if is_named {
            let path = cx.prefix().join(name).to_string_lossy().into_owned();
            return Ok(Self::Named(FilePath::compile(&path, node.arg_span(0), cx)?));
        }
        let file = access::File::declare(name, cx.prefix(), options, cx.names());
        Ok(Self::File(file.map_err(|why| Diagnostic::error(node.arg_span(0), why))?))
    }
}

/// Reads an `open_log_file_cache`; `None`: off.
pub fn read_cache(node: &Node) -> Result<Option<Arc<named::Cache>>, Diagnostic> {
    if node.args.len() == 1 && node.arg(0) == "off" {
        return Ok(None);
    }
    let mut limits = named::Limits { count_max: 0, inactive_ms: 10_000, uses_min: 1, valid_ms: 60_000 };
    for word in &node.args {
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
    if limits.count_max == 0 {
        let message = "\"open_log_file_cache\" must have \"max\" parameter";
        return Err(Diagnostic::error(node.span, message));
    }
    Ok(Some(Arc::new(named::Cache::new(limits))))
}

/// Appends a line to the log whose name depends on the scope. Nothing is written where a value, such as a user that nobody has
/// checked, leads out of the directory: a client would choose a file and much of the line.
pub fn append_named<S: Scope>(
    scope: &mut S,
    name: &FilePath<S>,
    cache: Option<&Arc<named::Cache>>,
    line: &[u8],
) {
    let name = match name.evaluate(scope) {
        Ok(name) => name,
        Err(name) => {
            let name = log::Text(&name);
            log::error!(
                scope.logger(),
                &*scope,
                "\"{name}\" leads out of its directory: the line is not logged"
            );
            return;
        }
    };
    let path = Path::new(OsStr::from_bytes(&name));
    let written = match cache {
        Some(cache) => cache.append(path, line, clock::monotonic_ms()),
        None => named::append(path, line),
    };
    if let Err(error) = written {
        let (name, cause) = (log::Text(&name), log::Cause(&error));
        log::error!(scope.logger(), &*scope, "writing to \"{name}\" failed {cause}");
    }
}
