//! Changes the cookies of an upstream: `proxy_cookie_domain`, `proxy_cookie_path`, `proxy_cookie_flags`.
//!
//! A `Set-Cookie` is parsed into the cookie and its attributes (RFC 6265 §4.1.1); if no rule changes it, it
//! passes unchanged. The first matching rule of each directive applies. Touches: the request's variables.
//! Behaviour: nginx.org, ngx_http_proxy_module.

use std::borrow::Cow;

use crate::config::inherit::{duplicate, replace};
use crate::config::{Diagnostic, Node, settings};
use crate::http::config::compile::Cx;
use crate::http::request::Request;
use crate::http::scope::Script;
use crate::log;
use crate::script::regex::{Pattern, Regex};
use crate::script::value;

settings! {
    /// The rules of one block.
    #[derive(Clone, Debug)]
    pub struct Cookies {
        domains: Vec<Rule> => replace,
        paths: Vec<Rule> => replace,
        flags: Vec<Flags> => replace,
    }
}

/// A rule for an attribute's value.
#[derive(Clone, Debug)]
enum Rule {
    Off,
    /// A whole domain, or the start of a path.
    Text {
        from: Script,
        to: Script,
    },
    Regex {
        from: Regex,
        to: Script,
    },
}

/// A rule for the flags of cookies by name.
#[derive(Clone, Debug)]
enum Flags {
    Off,
    Text { name: Script, words: Vec<Script> },
    Regex { name: Regex, words: Vec<Script> },
}

/// The words of `proxy_cookie_flags`: the attribute, and its value; `None` removes the attribute.
const WORDS: &[(&str, &str, Option<&str>)] = &[
    ("secure", "Secure", Some("")),
    ("nosecure", "Secure", None),
    ("httponly", "HttpOnly", Some("")),
    ("nohttponly", "HttpOnly", None),
    ("samesite=strict", "SameSite", Some("Strict")),
    ("samesite=lax", "SameSite", Some("Lax")),
    ("samesite=none", "SameSite", Some("None")),
    ("nosamesite", "SameSite", None),
];

/// The attributes, in the order in which missing ones are added.
const FLAGS: [&str; 3] = ["Secure", "HttpOnly", "SameSite"];

/// `name=value`, or `name` alone.
struct Attribute<'a> {
    name: Cow<'a, [u8]>,
    value: Option<Cow<'a, [u8]>>,
}

impl Cookies {
    /// True if no rule can change a cookie.
    pub fn is_empty(&self) -> bool {
        let is_off = |rules: &[Rule]| matches!(rules, [] | [Rule::Off]);
        is_off(&self.domains) && is_off(&self.paths) && matches!(self.flags[..], [] | [Flags::Off])
    }

    /// The value of a `Set-Cookie` for the client; `None`: unchanged.
    pub fn rewrite(&'static self, request: &mut Request, field: &[u8]) -> Option<Vec<u8>> {
        let mut attributes: Vec<Attribute<'_>> =
            field.split(|&byte| byte == b';').map(Attribute::read).collect();
        attributes.first().filter(|cookie| cookie.value.is_some())?;
        let mut is_changed = false;
        for attribute in attributes.iter_mut().skip(1) {
            let rules = match &*attribute.name {
                name if name.eq_ignore_ascii_case(b"domain") => &self.domains,
                name if name.eq_ignore_ascii_case(b"path") => &self.paths,
                _ => continue,
            };
            let is_domain = attribute.name.eq_ignore_ascii_case(b"domain");
            let Some(value) = &attribute.value else { continue };
            if let Some(new) = rules.iter().find_map(|rule| rule.apply(request, value, is_domain)) {
                attribute.value = Some(Cow::Owned(new));
                is_changed = true;
            }
        }
        is_changed |= self.set_flags(request, &mut attributes);
        is_changed.then(|| join(&attributes))
    }

    fn set_flags(&'static self, request: &mut Request, attributes: &mut Vec<Attribute<'_>>) -> bool {
        let Some(cookie) = attributes.first() else { return false };
        let words = self.flags.iter().find_map(|rule| rule.words(request, &cookie.name));
        let mut wanted = [None; FLAGS.len()];
        for word in words.unwrap_or_default() {
            let word = word.to_vec(request);
            match WORDS.iter().find(|(known, ..)| word.eq_ignore_ascii_case(known.as_bytes())) {
                Some((_, flag, value)) => {
                    let index = FLAGS.iter().position(|known| known == flag);
                    index.iter().for_each(|&index| wanted[index] = Some(*value));
                }
                None if word.is_empty() => {}
                None => {
                    let word = log::Text(&word);
                    log::error!(request.error_log(), &*request, "invalid proxy_cookie_flags flag \"{word}\"");
                }
            }
        }
        let mut is_changed = false;
        for (name, wanted) in FLAGS.iter().zip(wanted) {
            let Some(wanted) = wanted else { continue };
            is_changed = true;
            let is_it = |attribute: &Attribute<'_>| attribute.name.eq_ignore_ascii_case(name.as_bytes());
            let place = attributes.iter().skip(1).position(is_it).map(|index| index + 1);
            let value = wanted.filter(|text| !text.is_empty()).map(|text| Cow::Borrowed(text.as_bytes()));
            match (wanted, place) {
                (Some(_), Some(index)) => attributes[index].value = value,
                (Some(_), None) => attributes.push(Attribute { name: Cow::Borrowed(name.as_bytes()), value }),
                (None, Some(index)) => drop(attributes.remove(index)),
                (None, None) => {}
            }
        }
        is_changed
    }
}

impl Rule {
    /// The new value, if the rule matches. A dot before the domain stays.
    fn apply(&'static self, request: &mut Request, value: &[u8], is_domain: bool) -> Option<Vec<u8>> {
        match self {
            Self::Off => None,
            Self::Text { from, to } if is_domain => {
                let from = from.to_vec(request);
                let (dot, domain) = value.split_at(usize::from(value.starts_with(b".")));
                domain.eq_ignore_ascii_case(&from).then(|| [dot, &to.to_vec(request)].concat())
            }
            Self::Text { from, to } => {
                let rest = value.strip_prefix(&*from.to_vec(request))?;
                Some([&to.to_vec(request), rest].concat())
            }
            Self::Regex { from, to } => {
                from.find(request, value)?;
                Some(to.to_vec(request))
            }
        }
    }
}

impl Flags {
    fn words(&'static self, request: &mut Request, cookie: &[u8]) -> Option<&'static [Script]> {
        match self {
            Self::Off => None,
            Self::Text { name, words } => cookie.eq_ignore_ascii_case(&name.to_vec(request)).then_some(words),
            Self::Regex { name, words } => {
                name.find(request, cookie)?;
                Some(words)
            }
        }
    }
}

impl<'a> Attribute<'a> {
    fn read(text: &'a [u8]) -> Self {
        let (name, value) = match memchr::memchr(b'=', text) {
            Some(at) => (&text[..at], Some(text[at + 1..].trim_ascii())),
            None => (text, None),
        };
        Self { name: Cow::Borrowed(name.trim_ascii()), value: value.map(Cow::Borrowed) }
    }
}

fn join(attributes: &[Attribute<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for attribute in attributes {
        if !out.is_empty() {
            out.extend_from_slice(b"; ");
        }
        out.extend_from_slice(&attribute.name);
        if let Some(value) = &attribute.value {
            out.push(b'=');
            out.extend_from_slice(value);
        }
    }
    out
}

/// `proxy_cookie_domain`
pub fn domain(cookies: &mut Cookies, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    rule(&mut cookies.domains, cx, node, true)
}

/// `proxy_cookie_path`
pub fn path(cookies: &mut Cookies, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    rule(&mut cookies.paths, cx, node, false)
}

fn rule(rules: &mut Vec<Rule>, cx: &mut Cx, node: &Node, is_domain: bool) -> Result<(), Diagnostic> {
    if matches!(rules[..], [Rule::Off, ..]) || (is_off(node)? && !rules.is_empty()) {
        return Err(duplicate(node));
    }
    if node.args.len() == 1 {
        rules.push(Rule::Off);
        return Ok(());
    }
    let span = node.arg_span(1);
    let without_dot = |text: &'_ str| text.strip_prefix('.').filter(|_| is_domain).unwrap_or(text).to_owned();
    let to = Script::compile_text(&without_dot(node.arg(1)), span, cx)?;
    rules.push(match pattern(node, cx, is_domain)? {
        Some(from) => Rule::Regex { from, to },
        None => {
            Rule::Text { from: Script::compile_text(&without_dot(node.arg(0)), node.arg_span(0), cx)?, to }
        }
    });
    Ok(())
}

/// `proxy_cookie_flags`
pub fn flags(cookies: &mut Cookies, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    if matches!(cookies.flags[..], [Flags::Off, ..]) || (is_off(node)? && !cookies.flags.is_empty()) {
        return Err(duplicate(node));
    }
    if node.args.len() == 1 {
        cookies.flags.push(Flags::Off);
        return Ok(());
    }
    let mut words = Vec::new();
    for word in &node.args[1..] {
        let is_known = |(known, ..): &(&str, &str, Option<&str>)| word.text.eq_ignore_ascii_case(known);
        if !value::has_variables(&word.text) && !WORDS.iter().any(is_known) {
            let known: Vec<&str> = WORDS.iter().map(|(known, ..)| *known).collect();
            return Err(Diagnostic::error(word.span, format!("invalid parameter \"{}\"", word.text))
                .help(format!("one of {}", known.join(", "))));
        }
        words.push(Script::compile(word, cx)?);
    }
    cookies.flags.push(match pattern(node, cx, true)? {
        Some(name) => Flags::Regex { name, words },
        None => Flags::Text { name: Script::compile(&node.args[0], cx)?, words },
    });
    Ok(())
}

/// The regular expression of a first argument that begins with `~`, or with `~*` if case is to be ignored.
fn pattern(node: &Node, cx: &mut Cx, is_caseless: bool) -> Result<Option<Regex>, Diagnostic> {
    let Some(pattern) = node.arg(0).strip_prefix('~') else { return Ok(None) };
    let (pattern, is_caseless) = match pattern.strip_prefix('*') {
        Some(pattern) if !is_caseless => (pattern, true),
        _ => (pattern, is_caseless),
    };
    Ok(Some(Pattern::new(pattern, is_caseless, node.arg_span(0))?.declare(&mut cx.variables)))
}

/// True for `off`. Errors: any other single argument.
fn is_off(node: &Node) -> Result<bool, Diagnostic> {
    match (node.args.len(), node.arg(0)) {
        (1, "off") => Ok(true),
        (1, other) => Err(Diagnostic::error(node.arg_span(0), format!("invalid parameter \"{other}\""))),
        _ => Ok(false),
    }
}
