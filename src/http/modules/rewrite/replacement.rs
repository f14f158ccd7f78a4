//! `rewrite`: a regular expression and the replacement of the path.
//!
//! Touches: the request's path, arguments and captures.
//! Behaviour: nginx.org, `rewrite` of ngx_http_rewrite_module. Captures that go into arguments or a redirect
//! are escaped if the client escaped anything in its path; a redirect is then unescaped up to its `?`.

use super::Flow;
use crate::base::number::hex_digit;
use crate::config::{Diagnostic, Node, Span, params};
use crate::http::config::compile::Cx;
use crate::http::request::Request;
use crate::http::scope::Script;
use crate::http::verdict::Reply;
use crate::log;
use crate::script::regex::{Pattern, Regex};

/// One `rewrite`.
#[derive(Debug)]
pub struct Rewrite {
    /// As written, for the log.
    pattern: Box<str>,
    regex: Regex,
    /// The new path, or the whole URL of a redirect.
    path: Script,
    /// The text after the first `?`, unless it is a redirect.
    args: Option<Script>,
    /// The text contains a `?`, so further arguments are added after `&`.
    has_args: bool,
    /// The request's own arguments are appended.
    adds_args: bool,
    then: Then,
    span: Span,
}

/// The action after a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    NextStep,
    Last,
    Break,
    Redirect(u16),
}

impl Rewrite {
    pub fn compile(node: &Node, cx: &mut Cx) -> Result<Self, Diagnostic> {
        let (pattern, replacement) = (&node.args[0], &node.args[1]);
        if replacement.text.is_empty() {
            return Err(Diagnostic::error(replacement.span, "empty replacement"));
        }
        let regex = Pattern::new(&pattern.text, false, pattern.span)?.declare(&mut cx.variables);
        let text = replacement.text.strip_suffix('?').unwrap_or(&replacement.text);
        let is_url = ["http://", "https://", "$scheme"].iter().any(|start| text.starts_with(start));
        let mut then = if is_url { Then::Redirect(302) } else { Then::NextStep };
        if let Some(word) = node.args.get(2) {
            then = match &*word.text {
                "redirect" => Then::Redirect(302),
                "permanent" => Then::Redirect(301),
                "last" if !is_url => Then::Last,
                "break" if !is_url => Then::Break,
                "last" | "break" => then,
                _ => {
                    return Err(params::invalid_parameter(word, &["last", "break", "redirect", "permanent"]));
                }
            };
        }
        let is_redirect = matches!(then, Then::Redirect(_));
        let (path, args) = match text.split_once('?') {
            Some((path, args)) if !is_redirect => (path, Some(args)),
            _ => (text, None),
        };
        Ok(Self {
            pattern: (&pattern.text).into(),
            regex,
            path: Script::compile_text(path, replacement.span, cx)?,
            args: args.map(|args| Script::compile_text(args, replacement.span, cx)).transpose()?,
            has_args: text.contains('?'),
            adds_args: text.len() == replacement.text.len(),
            then,
            span: node.span,
        })
    }

    /// True if a match leaves the location.
    pub fn leaves(&self) -> bool {
        matches!(self.then, Then::Last | Then::Redirect(_))
    }

    /// Matches and replaces; `None` if it does not match.
    pub(super) fn run(&'static self, request: &mut Request) -> Option<Flow> {
        let subject = std::mem::take(&mut request.uri);
        let groups = self.regex.search(request, &subject);
        log_match(request, &self.pattern, &subject, groups.is_some());
        match &groups {
            Some(groups) => self.regex.keep(request, &subject, groups),
            None => request.values.captures.clear(),
        }
        request.uri = subject;
        groups?;
        request.route.is_internal = true;
        request.route.rewriting = request.route.rewriting.replaced();
        if let Then::Redirect(status) = self.then {
            return Some(Flow::Done(self.redirect(status, request)));
        }
        request.route.led_by = Some(self.span);
        request.route.rewriting = request.route.rewriting.rewritten(self.then == Then::Break);
        self.replace(request);
        if request.uri.is_empty() {
            log::error!(request.error_log(), &*request, "the rewritten URI has a zero length");
            return Some(Flow::Done(Reply::Status(500)));
        }
        Some(if self.then == Then::NextStep { Flow::Next } else { Flow::End })
    }

    fn replace(&'static self, request: &mut Request) {
        let mut path = Vec::new();
        self.path.evaluate(request, &mut path);
        match &self.args {
            Some(script) => {
                let mut args = Vec::new();
                if is_escaped(request) {
                    script.evaluate_escaped(request, &mut args);
                } else {
                    script.evaluate(request, &mut args);
                }
                if self.adds_args && !request.args.is_empty() {
                    args.push(b'&');
                    args.extend_from_slice(&request.args);
                }
                request.args = args;
            }
            None if self.adds_args => {}
            None => request.args.clear(),
        }
        request.uri = path;
        let (uri, args) = (log::Text(&request.uri), log::Text(&request.args));
        if request.location.confs.rewrite_log.is_logged() {
            log::notice!(request.error_log(), &*request, "rewritten data: \"{}\", args: \"{}\"", uri, args);
        } else {
            log::debug!(request.error_log(), &*request, "rewritten data: \"{}\", args: \"{}\"", uri, args);
        }
    }

    fn redirect(&'static self, status: u16, request: &mut Request) -> Reply {
        let mut url = Vec::new();
        if is_escaped(request) {
            self.path.evaluate_escaped(request, &mut url);
        } else {
            self.path.evaluate(request, &mut url);
        }
        let mut url = unescape_path(&url);
        if self.adds_args && !request.args.is_empty() {
            url.push(if self.has_args { b'&' } else { b'?' });
            url.extend_from_slice(&request.args);
        }
        let text = log::Text(&url);
        if request.location.confs.rewrite_log.is_logged() {
            log::notice!(request.error_log(), &*request, "rewritten redirect: \"{}\"", text);
        } else {
            log::debug!(request.error_log(), &*request, "rewritten redirect: \"{}\"", text);
        }
        Reply::Redirect(status, url)
    }
}

/// True if the client escaped anything in the path, or wrote a plus: captures of it are then escaped too.
pub fn is_escaped(request: &Request) -> bool {
    let target = request.target();
    let path = &target[..memchr::memchr(b'?', target).unwrap_or(target.len())];
    memchr::memchr2(b'%', b'+', path).is_some()
}

pub fn log_match(request: &Request, pattern: &str, subject: &[u8], is_match: bool) {
    let (verb, subject) = (if is_match { "matches" } else { "does not match" }, log::Text(subject));
    if request.location.confs.rewrite_log.is_logged() {
        log::notice!(request.error_log(), request, "\"{}\" {} \"{}\"", pattern, verb, subject);
    } else {
        log::debug!(request.error_log(), request, "\"{}\" {} \"{}\"", pattern, verb, subject);
    }
}

/// Decodes, up to the first `?`, escapes that are not needed in a URL.
fn unescape_path(url: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(url.len());
    let mut rest = url;
    while let Some((&byte, after)) = rest.split_first() {
        if byte == b'?' {
            out.extend_from_slice(rest);
            break;
        }
        let decoded = match after {
            [high, low, ..] if byte == b'%' => {
                hex_digit(*high).zip(hex_digit(*low)).map(|(high, low)| high << 4 | low)
            }
            _ => None,
        };
        match decoded {
            Some(plain) if plain > b'%' && plain < 0x7f => {
                out.push(plain);
                rest = &after[2..];
                if plain == b'?' {
                    out.extend_from_slice(rest);
                    break;
                }
            }
            _ => {
                out.push(byte);
                rest = after;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_keeps_escapes_that_it_needs() {
        let cases = [
            ("/a%41b", "/aAb"),
            ("/%0d%0a%20%25", "/%0d%0a%20%25"),
            ("/a?%41", "/a?%41"),
            ("/a%3f%41", "/a?%41"),
            ("/%", "/%"),
            ("/%4", "/%4"),
            ("/%zz%41", "/%zzA"),
            ("/%7f%80", "/%7f%80"),
        ];
        for (url, expected) in cases {
            assert_eq!(unescape_path(url.as_bytes()), expected.as_bytes(), "{url}");
        }
    }
}
