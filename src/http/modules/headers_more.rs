//! Fields of requests and responses that the configuration sets, replaces or removes: `more_set_headers` and
//! its kin.
//!
//! A third-party module of nginx that many sites use, built in. Response fields are changed before
//! `add_header` adds its own, whatever the status; request fields at the end of the rewrite phase. Touches:
//! the fields, `$host`.
//! Behaviour: github.com/openresty/headers-more-nginx-module, README.

use std::sync::Arc;

use crate::config::directive::custom;
use crate::config::{Arity, Context, Diagnostic, Node, Word, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive};
use crate::http::request::Request;
use crate::http::response::redirect;
use crate::http::scope::{Script, Variable};
use crate::http::verdict::Verdict;
use crate::log;
use crate::proto::header::Id;
use crate::proto::uri;

settings! {
    /// The directives of one block, after those of the outer blocks.
    #[derive(Debug)]
    pub struct Conf {
        output: Vec<Arc<Command>> => before,
        input: Vec<Arc<Command>> => before,
    }
}

/// One directive.
#[derive(Debug, Default)]
struct Command {
    fields: Vec<Field>,
    /// Only responses with these statuses; empty: all.
    statuses: Vec<u16>,
    /// Only messages of these types; empty: all.
    types: Vec<Box<[u8]>>,
}

/// One field that a directive names.
#[derive(Debug)]
struct Field {
    name: Box<str>,
    id: Option<Id>,
    /// The name ends with `*` and matches all names that begin with the rest.
    is_pattern: bool,
    /// `None` removes the field, as an empty value does.
    value: Option<Script>,
    /// `-a`: adds another field of this name.
    is_added: bool,
    /// `-r`: applies only if the request has the field.
    is_replaced: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Input,
    Output,
}

const ANYWHERE: Context = Context::ANY.or(Context::LOCATION_IF);
const SOME: Arity = Arity::at_least(1);

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("more_set_headers", ANYWHERE, SOME, |c, cx, node| add(&mut c.output, cx, node, Direction::Output),
        "Sets response fields, 'Name: value', replacing existing ones. An empty value removes the field. With -s '404 500' applies to these statuses only, \
         with -t 'text/html' to these media types only; with -a adds instead of replacing. Directives of outer blocks run first."),
    custom("more_clear_headers", ANYWHERE, SOME, |c, cx, node| add(&mut c.output, cx, node, Direction::Output),
        "Removes response fields. A name may end with *. The options -s and -t are those of more_set_headers."),
    custom("more_set_input_headers", ANYWHERE, SOME, |c, cx, node| add(&mut c.input, cx, node, Direction::Input),
        "Sets request fields, 'Name: value', after the rewrites. An empty value removes the field. With -r applies only if the request has the field, with \
         -t 'text/html' only to requests with bodies of these media types."),
    custom("more_clear_input_headers", ANYWHERE, SOME, |c, cx, node| add(&mut c.input, cx, node, Direction::Input),
        "Removes request fields. A name may end with *. The option -t is that of more_set_input_headers."),
];

pub static VARIABLES: &[Variable] = &[];

/// Outer commands run first.
fn before(own: &mut Vec<Arc<Command>>, outer: &[Arc<Command>]) {
    own.splice(0..0, outer.iter().cloned());
}

impl BlockConf for Conf {
    fn acts(&self) -> bool {
        !self.output.is_empty() || !self.input.is_empty()
    }
}

/// Fields that frame a response: the server writes them itself.
const FRAMING: [&str; 4] = ["Connection", "Content-Length", "Keep-Alive", "Transfer-Encoding"];

/// Fields that can occur only once.
const SINGLE: [&str; 14] = [
    "Server",
    "Date",
    "Content-Encoding",
    "Location",
    "Refresh",
    "Last-Modified",
    "Content-Range",
    "Accept-Ranges",
    "WWW-Authenticate",
    "Expires",
    "E-Tag",
    "Content-Length",
    "Content-Type",
    "Cache-Control",
];

fn add(
    list: &mut Vec<Arc<Command>>,
    cx: &mut Cx,
    node: &Node,
    direction: Direction,
) -> Result<(), Diagnostic> {
    let directive = &node.name.text;
    let clears = directive.starts_with("more_clear_");
    let refused = |word: &Word, why: String| Diagnostic::error(word.span, format!("{directive}: {why}"));
    let mut command = Command::default();
    let (mut adds, mut replaces) = (false, false);
    let mut words = node.args.iter();
    while let Some(word) = words.next() {
        let option = match &*word.text {
            "" => continue,
            text if !text.starts_with('-') => {
                let field = field(word, clears, cx)?;
                command.fields.extend(field);
                continue;
            }
            option => option,
        };
        let mut argument =
            || words.next().ok_or_else(|| refused(word, format!("option {option} takes an argument.")));
        match option {
            "-t" => {
                let types = argument()?.text.split(|char: char| char.is_ascii_whitespace() || char == ';');
                command
                    .types
                    .extend(types.filter(|kind| !kind.is_empty()).map(|kind| kind.as_bytes().into()));
            }
            "-s" if direction == Direction::Output => {
                let word = argument()?;
                for status in word.text.split_ascii_whitespace() {
                    let number = status.parse().map_err(|_| {
                        let digit = status.chars().find(|char| !char.is_ascii_digit()).unwrap_or('9');
                        refused(
                            word,
                            format!(
                                "invalid digit \"{digit}\" found in the status code list \"{}\"",
                                word.text
                            ),
                        )
                    })?;
                    command.statuses.push(number);
                }
            }
            "-a" if &**directive == "more_set_headers" => adds = true,
            "-r" if &**directive == "more_set_input_headers" => replaces = true,
            _ => {
                let known = match (direction, clears) {
                    (Direction::Output, false) => "-s, -t and -a",
                    (Direction::Output, true) => "-s and -t",
                    (Direction::Input, false) => "-t and -r",
                    (Direction::Input, true) => "-t",
                };
                let why = format!("invalid option name: \"{option}\"");
                return Err(refused(word, why).help(format!("there are {known}")));
            }
        }
    }
    for field in &mut command.fields {
        if adds && SINGLE.iter().any(|name| name.eq_ignore_ascii_case(&field.name)) {
            let message = format!("{directive}: can not append builtin headers \"{}\"", field.name);
            return Err(Diagnostic::error(node.span, message));
        }
        (field.is_added, field.is_replaced) = (adds, replaces);
        if direction == Direction::Output && !is_ours(field) {
            let message =
                format!("\"{}\" is set by the server itself, this line does not change it", field.name);
            cx.diagnostics.push(Diagnostic::warning(node.span, message));
        }
    }
    if direction == Direction::Output {
        command.fields.retain(is_ours);
    }
    list.push(Arc::new(command));
    Ok(())
}

/// True if the configuration may change the field. Framing fields follow from the body; a response without
/// its length is sent chunked.
fn is_ours(field: &Field) -> bool {
    let is_length = field.id == Some(Id::ContentLength) && field.value.is_none();
    is_length || !FRAMING.iter().any(|name| name.eq_ignore_ascii_case(&field.name))
}

/// Reads `Name: value`, `Name:` or `Name`.
fn field(word: &Word, clears: bool, cx: &mut Cx) -> Result<Option<Field>, Diagnostic> {
    let is_end = |char: char| char == ':' || char.is_ascii_whitespace();
    let text = word.text.trim_ascii_start();
    let (name, rest) = text.split_at(text.find(is_end).unwrap_or(text.len()));
    let value = rest.trim_start_matches(is_end);
    let is_pattern = name.ends_with('*');
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_token) {
        let message = format!("\"{name}\" is not a valid header name");
        return Err(Diagnostic::error(word.span, message).help("a field is written 'Name: value'"));
    }
    if name == "*" {
        return Err(Diagnostic::error(word.span, "wildcard key too short: *"));
    }
    let value =
        if clears || value.is_empty() { None } else { Some(Script::compile_text(value, word.span, cx)?) };
    if is_pattern && value.is_some() {
        let message = format!("\"{name}\" is a pattern, and names no field that could be set");
        cx.diagnostics.push(Diagnostic::warning(word.span, message).help("a \"*\" can only remove fields"));
        return Ok(None);
    }
    let id = Id::of(name.as_bytes());
    Ok(Some(Field { name: name.into(), id, is_pattern, value, is_added: false, is_replaced: false }))
}

impl Field {
    fn means(&self, name: &[u8]) -> bool {
        let own = self.name.as_bytes();
        match self.is_pattern {
            true => name
                .get(..own.len() - 1)
                .is_some_and(|start| start.eq_ignore_ascii_case(&own[..own.len() - 1])),
            false => name.eq_ignore_ascii_case(own),
        }
    }

    fn value(&self, request: &mut Request) -> Vec<u8> {
        let mut value = self.value.as_ref().map_or_else(Vec::new, |script| script.to_vec(request));
        value.retain(|byte| !matches!(byte, b'\r' | b'\n' | 0));
        value
    }
}

/// True if the content type is one of these.
fn is_of(types: &[Box<[u8]>], content_type: Option<&[u8]>) -> bool {
    types.is_empty() || content_type.is_some_and(|plain| types.iter().any(|kind| **kind == *plain))
}

/// A type without its parameters.
fn plain(content_type: &[u8]) -> &[u8] {
    content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii_end()
}

/// Changes the request's fields, at the end of the rewrite phase.
pub fn rewrite(request: &mut Request) -> Verdict {
    let conf: &'static Conf = &request.location.confs.headers_more;
    for command in &conf.input {
        if !is_of(&command.types, request.header(Id::ContentType)) {
            continue;
        }
        for field in &command.fields {
            let value = field.value(request);
            if field.id == Some(Id::Host) {
                match uri::authority(&value) {
                    Ok(host) => request.host = host.into(),
                    Err(_) if value.is_empty() => request.host = uri::Host::default(),
                    Err(_) => {
                        let value = log::Text(&value);
                        log::error!(
                            request.error_log(),
                            &*request,
                            "\"{value}\" of more_set_input_headers is not a valid host"
                        );
                        continue;
                    }
                }
            }
            request.set_field(|name| field.means(name), field.name.as_bytes(), &value, field.is_replaced);
        }
    }
    Verdict::Next
}

/// Changes the response's fields.
pub fn head(request: &mut Request) {
    let conf: &'static Conf = &request.location.confs.headers_more;
    for command in &conf.output {
        let response = &request.response;
        let is_meant = command.statuses.is_empty() || command.statuses.contains(&response.status);
        if !is_meant || !is_of(&command.types, response.headers.get(Id::ContentType).map(plain)) {
            continue;
        }
        for field in &command.fields {
            set(field, request);
        }
    }
}

fn set(field: &Field, request: &mut Request) {
    let mut value = field.value(request);
    if field.id == Some(Id::Location) {
        value = redirect::absolute(request, &value).unwrap_or(value);
    }
    let response = &mut request.response;
    if value.is_empty() && !field.is_added {
        // A pattern matches added fields, not those that every response has.
        let is_type = |name: &[u8]| name.eq_ignore_ascii_case(b"Content-Type");
        response.headers.remove_where(|name| field.means(name) && !(field.is_pattern && is_type(name)));
        response.first = response.first.filter(|id| !field.means(id.name().as_bytes()));
        match field.id {
            Some(Id::Server) => response.omits.server = true,
            Some(Id::Date) => response.omits.date = true,
            Some(Id::ContentLength) => response.content_length = None,
            Some(Id::AcceptRanges) => response.allows_ranges = false,
            _ => {}
        }
    } else if field.is_added {
        if !value.is_empty() {
            response.headers.push_with(field.id, field.name.as_bytes(), &value);
        }
    } else {
        response.headers.put(|name| field.means(name), field.id, field.name.as_bytes(), &value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_means_names_that_begin_with_it() {
        let field = |name: &str| Field {
            name: name.into(),
            id: None,
            is_pattern: name.ends_with('*'),
            value: None,
            is_added: false,
            is_replaced: false,
        };
        for (pattern, name, means) in [
            ("X-*", "x-a", true),
            ("X-*", "X-", true),
            ("X-*", "X", false),
            ("X-*", "Y-a", false),
            ("X-A", "x-a", true),
            ("X-A", "x-ab", false),
        ] {
            assert_eq!(field(pattern).means(name.as_bytes()), means, "{pattern} {name}");
        }
    }

    #[test]
    fn types_are_compared_without_parameters() {
        let types: Vec<Box<[u8]>> = vec![b"text/html"[..].into()];
        assert!(is_of(&types, Some(b"text/html")) && is_of(&types, Some(plain(b"text/html; charset=x"))));
        assert!(!is_of(&types, Some(b"text/plain")) && !is_of(&types, None) && is_of(&[], None));
    }
}
