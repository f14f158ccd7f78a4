//! Variables made from others by a table (`map`).
//!
//! Touches: the request's variables; a map file while the configuration is read.
//! Behaviour: nginx.org, ngx_http_map_module.

use std::borrow::Cow;

use crate::base::byte_table::ByteTable;
use crate::base::foreign;
use crate::base::wildcard::NameTable;
use crate::config::directive::{Accepted, accepted, block};
use crate::config::{Arity, Cell, Context, Diagnostic, Entry, Merge, Node};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive};
use crate::http::request::Request;
use crate::http::scope::{Script, Variable};
use crate::script::regex::hint::Ends;
use crate::script::regex::{Pattern, Regex};
use crate::script::variable::{Argument, Definition};
use crate::script::{Scope, nested, value};

/// One `map` block.
#[derive(Debug)]
pub struct Map {
    name: Box<str>,
    source: Script,
    /// Values by lower-case key; nginx compares without regard to case.
    exact: ByteTable,
    /// With `hostnames`: `*.example.com` and `www.example.*`.
    wildcards: Option<NameTable<u32>>,
    regexes: Vec<(Regex, u32)>,
    default: Option<u32>,
    /// Each text that a value is written as, once; with the index of its script, or `PLAIN`.
    values: ByteTable,
    /// Those with variables.
    scripts: Vec<Script>,
    /// Where a request keeps the value; `None` for a volatile map.
    slot: Option<usize>,
}

/// A value without variables.
const PLAIN: u32 = u32::MAX;

#[derive(Debug, Default)]
pub struct Conf {}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    block("map", Context::HTTP, Arity::exactly(2), map, "Makes a variable whose value depends on another."),
    accepted("map_hash_max_size", Context::HTTP, Arity::exactly(1), Accepted::Number, "Tables grow as needed."),
    accepted("map_hash_bucket_size", Context::HTTP, Arity::exactly(1), Accepted::Number, "Tables grow as needed."),
];

pub static VARIABLES: &[Variable] = &[];

impl Merge for Conf {
    fn merge(&mut self, _: &Self) {}
}

impl BlockConf for Conf {}

fn map(_: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let source = Script::compile(&node.args[0], cx)?;
    let has = |word: &str| node.entries().any(|entry| entry.name.text == word && entry.args.is_empty());
    let (hostnames, volatile) = (has("hostnames"), has("volatile"));
    let slot = (!volatile).then(|| cx.variables.new_slot());
    let wildcards = hostnames.then(NameTable::default);
    let mut map = Map {
        name: node.arg(1).trim_start_matches('$').into(),
        source,
        exact: ByteTable::default(),
        wildcards,
        regexes: Vec::new(),
        default: None,
        values: ByteTable::default(),
        scripts: Vec::new(),
        slot,
    };
    for entry in node.entries() {
        if let Err(diagnostic) = map.add(cx, &entry) {
            cx.diagnostics.push(diagnostic);
        }
    }
    map.exact.shrink();
    map.values.shrink();
    let index = cx.maps.len();
    if let Some(name) = node.arg(1).strip_prefix('$') {
        cx.note_map(name, (0..map.values.len() as u32).map(|number| map.values.key(number)));
    }
    cx.maps.push(map);
    cx.variables.declare(&node.args[1], Definition::Module(value, Argument::index(index)))
}

impl Map {
    fn add(&mut self, cx: &mut Cx, entry: &Entry<'_>) -> Result<(), Diagnostic> {
        let key = entry.name.text;
        if entry.args.is_empty() && matches!(key, "hostnames" | "volatile") {
            return Ok(());
        }
        let [word] = &*entry.args else {
            return Err(Diagnostic::error(entry.span, "invalid number of the map parameters")
                .help("an entry is a value, a space, and what the variable becomes"));
        };
        let target = self.target(word, cx)?;
        if key == "default" {
            if self.default.replace(target).is_some() {
                return Err(Diagnostic::error(entry.span, "duplicate default map parameter"));
            }
            return Ok(());
        }
        let key = key.strip_prefix('\\').unwrap_or(key);
        if let Some(pattern) = entry.name.text.strip_prefix('~') {
            let (pattern, caseless) = pattern.strip_prefix('*').map_or((pattern, false), |rest| (rest, true));
            let regex = Pattern::new(pattern, caseless, entry.name.span)?.declare(&mut cx.variables);
            self.regexes.push((regex, target));
            return Ok(());
        }
        let key = foreign::bytes(key);
        let key = lower(&key);
        if let Some(names) = self.wildcards.as_mut().filter(|_| is_wildcard(&key)) {
            let name = String::from_utf8_lossy(&key);
            return names.insert(&name, target).map_err(|_| conflict(&entry.name));
        }
        self.exact.insert(&key, target).map(drop).map_err(|_| conflict(&entry.name))
    }

    /// The number of a value.
    fn target(&mut self, word: &Cell<'_>, cx: &mut Cx) -> Result<u32, Diagnostic> {
        let text = &*foreign::bytes(word.text);
        if let Some((number, _)) = self.values.get(text) {
            return Ok(number);
        }
        let mut script = PLAIN;
        if value::has_variables(word.text) {
            script = self.scripts.len() as u32;
            self.scripts.push(Script::compile_text(word.text, word.span, cx)?);
        }
        Ok(self.values.insert(text, script).unwrap_or_else(|there| there))
    }

    fn value(&'static self, target: u32, request: &mut Request) -> Cow<'static, [u8]> {
        let text = self.values.key(target);
        match self.values.value(target) {
            PLAIN => Cow::Borrowed(text),
            script => Cow::Owned(self.scripts[script as usize].to_vec(request)),
        }
    }
}

/// In lower case, without a copy where it is so already.
fn lower(text: &[u8]) -> Cow<'_, [u8]> {
    match text.iter().any(u8::is_ascii_uppercase) {
        true => Cow::Owned(text.to_ascii_lowercase()),
        false => Cow::Borrowed(text),
    }
}

fn is_wildcard(key: &[u8]) -> bool {
    key.starts_with(b"*.") || key.starts_with(b".") || key.ends_with(b".*")
}

fn conflict(name: &Cell<'_>) -> Diagnostic {
    Diagnostic::error(name.span, format!("conflicting parameter \"{}\"", name.text))
}

/// The value of a map variable: kept for the request unless the map is volatile.
fn value(request: &mut Request, argument: &Argument, out: &mut Vec<u8>) -> bool {
    let config = request.config;
    let Some(map) = config.maps.get(argument.index) else { return false };
    if let Some(kept) = map.slot.and_then(|slot| request.slot(slot)) {
        out.extend_from_slice(kept);
        return true;
    }
    let value = nested(request, &map.name, |request| look_up(map, request));
    out.extend_from_slice(&value);
    if let Some(slot) = map.slot {
        request.set_slot(slot, value);
    }
    true
}

fn look_up(map: &'static Map, request: &mut Request) -> Cow<'static, [u8]> {
    let source = map.source.to_vec(request);
    let lower = lower(&source);
    let key = match map.wildcards {
        Some(_) => lower.strip_suffix(b".").unwrap_or(&lower), // a host may end with a dot
        None => &lower,
    };
    let mut found = map.exact.get(key).map(|(_, target)| target);
    if found.is_none()
        && let Some(names) = &map.wildcards
    {
        found = names.lookup(key).copied();
    }
    if found.is_none() {
        let ends = Ends::of(&source);
        for (regex, target) in map.regexes.iter().filter(|(regex, _)| regex.hint().admits(&ends)) {
            if regex.find(request, &source).is_some() {
                found = Some(*target);
                break;
            }
        }
    }
    match found.or(map.default) {
        Some(target) => map.value(target, request),
        None => Cow::Borrowed(b""),
    }
}
