//! Variables made from others by a table (`map`).
//!
//! Touches: the request's variables; a map file while the configuration is read.
//! Behaviour: nginx.org, ngx_http_map_module.

use std::collections::HashMap;

use crate::base::wildcard::NameTable;
use crate::config::directive::{Accepted, accepted, block};
use crate::config::{Arity, Context, Diagnostic, Merge, Node, Word};
use crate::http::compile::Cx;
use crate::http::modules::{BlockConf, Directive};
use crate::http::regex::Regex;
use crate::http::request::Request;
use crate::http::script::Script;
use crate::http::variable::{Argument, Variable};

/// One `map` block.
#[derive(Debug)]
pub struct Map {
    source: Script,
    /// Values by lower-case key; nginx compares without regard to case.
    exact: HashMap<Box<[u8]>, u32>,
    /// With `hostnames`: `*.example.com` and `www.example.*`.
    wildcards: Option<NameTable<u32>>,
    regexes: Vec<(Regex, u32)>,
    default: Option<u32>,
    values: Vec<Script>,
    /// Where a request keeps the value; `None` for a volatile map.
    slot: Option<usize>,
}

#[derive(Debug, Default)]
pub struct Conf {}

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
    let hostnames = node.children().iter().any(|entry| &*entry.name.text == "hostnames" && entry.args.is_empty());
    let volatile = node.children().iter().any(|entry| &*entry.name.text == "volatile" && entry.args.is_empty());
    let slot = (!volatile).then(|| cx.variables.new_slot());
    let wildcards = hostnames.then(NameTable::default);
    let mut map =
        Map { source, exact: HashMap::new(), wildcards, regexes: Vec::new(), default: None, values: Vec::new(), slot };
    let mut by_text: HashMap<Box<str>, u32> = HashMap::new();
    for entry in node.children() {
        if let Err(diagnostic) = add(&mut map, &mut by_text, cx, entry) {
            cx.diagnostics.push(diagnostic);
        }
    }
    let index = cx.maps.len();
    cx.maps.push(map);
    cx.variables.declare(&node.args[1], value, Argument::index(index))
}

fn add(map: &mut Map, by_text: &mut HashMap<Box<str>, u32>, cx: &mut Cx, entry: &Node) -> Result<(), Diagnostic> {
    let key = &*entry.name.text;
    if entry.args.is_empty() && matches!(key, "hostnames" | "volatile") {
        return Ok(());
    }
    let [word] = &*entry.args else {
        return Err(Diagnostic::error(entry.span, "invalid number of the map parameters")
            .help("an entry is a value, a space, and what the variable becomes"));
    };
    let target = match by_text.get(&word.text) {
        Some(&index) => index,
        None => {
            let value = Script::compile(word, cx)?;
            map.values.push(value);
            let index = (map.values.len() - 1) as u32;
            by_text.insert(word.text.clone(), index);
            index
        }
    };
    if key == "default" {
        if map.default.replace(target).is_some() {
            return Err(Diagnostic::error(entry.span, "duplicate default map parameter"));
        }
        return Ok(());
    }
    let key = key.strip_prefix('\\').unwrap_or(key);
    if let Some(pattern) = entry.name.text.strip_prefix('~') {
        let (pattern, caseless) = pattern.strip_prefix('*').map_or((pattern, false), |rest| (rest, true));
        let regex = Regex::new(pattern, caseless, entry.name.span)?.declare(&mut cx.variables);
        map.regexes.push((regex, target));
        return Ok(());
    }
    if let Some(names) = map.wildcards.as_mut().filter(|_| is_wildcard(key)) {
        return names.insert(&key.to_ascii_lowercase(), target).map_err(|_| conflict(&entry.name));
    }
    if map.exact.insert(key.to_ascii_lowercase().into_bytes().into(), target).is_some() {
        return Err(conflict(&entry.name));
    }
    Ok(())
}

fn is_wildcard(key: &str) -> bool {
    key.starts_with("*.") || key.starts_with('.') || key.ends_with(".*")
}

fn conflict(name: &Word) -> Diagnostic {
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
    let value = look_up(map, request);
    out.extend_from_slice(&value);
    if let Some(slot) = map.slot {
        request.set_slot(slot, value);
    }
    true
}

fn look_up(map: &'static Map, request: &mut Request) -> Vec<u8> {
    let source = map.source.to_vec(request);
    let lower = source.to_ascii_lowercase();
    let key = match map.wildcards {
        Some(_) => lower.strip_suffix(b".").unwrap_or(&lower), // a host may end with a dot
        None => &lower,
    };
    let mut found = map.exact.get(key).copied();
    if found.is_none() && let Some(names) = &map.wildcards {
        found = names.lookup(key).copied();
    }
    if found.is_none() {
        for (regex, target) in &map.regexes {
            if let Some(groups) = regex.captures(&source) {
                super::core::store_regex_groups(request, regex, &source, &groups);
                found = Some(*target);
                break;
            }
        }
    }
    match found.or(map.default) {
        Some(index) => map.values[index as usize].to_vec(request),
        None => Vec::new(),
    }
}
