//! The conditions of `if`: a variable alone, compared or matched, or a test of a file.
//!
//! Touches: the request's variables and captures; one `stat` for a test of a file. The texts of errors are
//! those of nginx's `ngx_http_rewrite_if_condition`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Run, replacement};
use crate::config::{Diagnostic, Node, Span, Word};
use crate::http::config::compile::Cx;
use crate::http::modules::open_file_cache;
use crate::http::request::Request;
use crate::http::scope::Script;
use crate::log;
use crate::script::regex::{Pattern, Regex};
use crate::script::value;

/// The test that an `if` makes.
#[derive(Debug)]
pub struct Condition {
    /// The variable, or the path.
    subject: Script,
    test: Test,
    is_negated: bool,
}

#[derive(Debug)]
enum Test {
    /// Neither empty nor `0`.
    True,
    Equals(Script),
    Matches {
        pattern: Box<str>,
        regex: Regex,
    },
    File(Kind),
}

/// The required kind of file.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Plain,
    Directory,
    Any,
    Executable,
}

impl Condition {
    /// Parses the words between `(` and `)`, which may be joined to their neighbours or separate.
    pub fn compile(node: &Node, cx: &mut Cx) -> Result<Self, Diagnostic> {
        let words = between_brackets(node)?;
        let Some(first) = words.first() else {
            let last = node.args.len() - 1;
            return Err(Diagnostic::error(node.arg_span(last), "invalid condition \")\"").help(HELP));
        };
        if first.text.len() > 1 && first.text.starts_with('$') {
            return Self::of_variable(&words, cx);
        }
        let (is_negated, test) = match first.text.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, &*first.text),
        };
        let kind = match test {
            "-f" => Kind::Plain,
            "-d" => Kind::Directory,
            "-e" => Kind::Any,
            "-x" => Kind::Executable,
            _ => return Err(invalid(first)),
        };
        let [_, path] = &words[..] else { return Err(invalid(first)) };
        Ok(Self { subject: Script::compile(path, cx)?, test: Test::File(kind), is_negated })
    }

    fn of_variable(words: &[Word], cx: &mut Cx) -> Result<Self, Diagnostic> {
        if words.len() != 1 && words.len() != 3 {
            return Err(invalid(&words[0]));
        }
        let subject = Script::variable(&words[0], cx);
        let [_, operator, value] = words else {
            return Ok(Self { subject, test: Test::True, is_negated: false });
        };
        let is_negated = operator.text.starts_with('!');
        let test = match &*operator.text {
            "=" | "!=" => Test::Equals(Script::compile(value, cx)?),
            "~" | "~*" | "!~" | "!~*" => {
                let is_caseless = operator.text.ends_with('*');
                let regex = Pattern::new(&value.text, is_caseless, value.span)?.declare(&mut cx.variables);
                Test::Matches { pattern: (&value.text).into(), regex }
            }
            other => {
                let diagnostic =
                    Diagnostic::error(operator.span, format!("unexpected \"{other}\" in condition"));
                return Err(diagnostic.help("a variable is compared with =, !=, ~, ~*, !~ or !~*"));
            }
        };
        Ok(Self { subject, test, is_negated })
    }

    pub(super) fn holds(&'static self, run: &Run, request: &mut Request) -> bool {
        let subject = run.value(&self.subject, request);
        let holds = match &self.test {
            Test::True => value::is_true(&subject),
            Test::Equals(value) => run.value(value, request) == subject,
            Test::Matches { pattern, regex } => matches(pattern, regex, &subject, request),
            Test::File(kind) => leads_to(*kind, &subject, request),
        };
        holds != self.is_negated
    }
}

/// Matches and stores the captures; earlier captures are lost even if it does not match.
fn matches(pattern: &str, regex: &'static Regex, subject: &[u8], request: &mut Request) -> bool {
    let groups = regex.search(request, subject);
    replacement::log_match(request, pattern, subject, groups.is_some());
    match groups {
        Some(groups) => {
            regex.keep(request, subject, &groups);
            true
        }
        None => {
            request.values.captures.clear();
            false
        }
    }
}

fn leads_to(kind: Kind, path: &[u8], request: &mut Request) -> bool {
    let mode = match open_file_cache::mode_without_links(request, path) {
        Some(mode) => mode.map_err(std::io::Error::from),
        None => std::fs::metadata(Path::new(OsStr::from_bytes(path))).map(|metadata| metadata.mode()),
    };
    match mode {
        Ok(mode) => match kind {
            Kind::Plain => mode & libc::S_IFMT == libc::S_IFREG,
            Kind::Directory => mode & libc::S_IFMT == libc::S_IFDIR,
            Kind::Any => true,
            Kind::Executable => mode & 0o100 != 0,
        },
        Err(error) => {
            // ENOENT, ENOTDIR and ENAMETOOLONG mean that the file does not exist.
            if !matches!(error.raw_os_error(), Some(2 | 20 | 36)) {
                let (path, cause) = (log::Text(path), log::Cause(&error));
                log::error!(request.error_log(), &*request, "stat() \"{}\" failed {}", path, cause);
            }
            false
        }
    }
}

/// The condition's words without the surrounding parentheses, whichever of them were quoted.
fn between_brackets(node: &Node) -> Result<Vec<Word>, Diagnostic> {
    let mut words = node.args.to_vec();
    if let Some(first) = words.first_mut() {
        first.text = first.text.strip_prefix('(').ok_or_else(|| invalid(first))?.into();
        first.span = Span { start: first.span.start + 1, ..first.span };
        if first.text.is_empty() {
            words.remove(0);
        }
    }
    if let Some(last) = words.last_mut() {
        last.text = last.text.strip_suffix(')').ok_or_else(|| invalid(last))?.into();
        if last.text.is_empty() {
            words.pop();
        }
    }
    Ok(words)
}

fn invalid(word: &Word) -> Diagnostic {
    Diagnostic::error(word.span, format!("invalid condition \"{}\"", word.text)).help(HELP)
}

const HELP: &str = "write ($variable), ($variable = text), ($variable ~ expression) or (-f path)";
