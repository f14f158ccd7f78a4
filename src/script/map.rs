//! Variables made from others by a table (`map`).
//!
//! Touches: the scope's variables.
//! Behaviour: nginx.org, ngx_http_map_module.

use std::borrow::Cow;

use crate::base::byte_table::ByteTable;
use crate::base::foreign;
use crate::base::wildcard::NameTable;
use crate::config::{Cell, Diagnostic, Entry, Node};
use crate::script::regex::hint::Ends;
use crate::script::regex::{Pattern, Regex};
use crate::script::value::{Script, has_variables};
use crate::script::{Compile, Scope, nested};

/// One `map` block: the definition of the variable that it makes.
pub struct Map<S> {
    name: Box<str>,
    source: Script<S>,
    /// Values by lower-case key; nginx compares without regard to case.
    exact: ByteTable,
    /// With `hostnames`: `*.example.com` and `www.example.*`.
    wildcards: Option<NameTable<u32>>,
    regexes: Vec<(Regex, u32)>,
    default: Option<u32>,
    /// Each text that a value is written as, once; with the index of its script, or `PLAIN`.
    values: ByteTable,
    /// Those with variables.
    scripts: Vec<Script<S>>,
    /// The slot that keeps the value; `None` for a volatile map.
    slot: Option<usize>,
}

/// A longer value is not repeated while a cycle of variables ends.
const CYCLE_BYTES_MAX: usize = 1024;

/// A value without variables.
const PLAIN: u32 = u32::MAX;

impl<S: Scope> Map<S> {
    /// Reads a block `map SOURCE $name { ENTRIES }`. What is wrong in an entry is told, and the others are read.
    pub fn read(node: &Node, cx: &mut impl Compile<Scope = S>) -> Result<Self, Diagnostic> {
        let source = Script::compile(&node.args[0], cx)?;
        let has = |word: &str| node.entries().any(|entry| entry.name.text == word && entry.args.is_empty());
        let (hostnames, volatile) = (has("hostnames"), has("volatile"));
        let slot = (!volatile).then(|| cx.variables().new_slot());
        let mut map = Self {
            name: node.arg(1).trim_start_matches('$').into(),
            source,
            exact: ByteTable::default(),
            wildcards: hostnames.then(NameTable::default),
            regexes: Vec::new(),
            default: None,
            values: ByteTable::default(),
            scripts: Vec::new(),
            slot,
        };
        for entry in node.entries() {
            if let Err(diagnostic) = map.add(cx, &entry) {
                cx.diagnostics().push(diagnostic);
            }
        }
        map.exact.shrink();
        map.values.shrink();
        Ok(map)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Appends the value: kept by the scope unless the map is volatile.
    pub(super) fn evaluate(&'static self, scope: &mut S, out: &mut Vec<u8>) -> bool {
        if let Some(kept) = self.slot.and_then(|slot| scope.slot(slot)) {
            // Two references on each level of a cycle would double the value on the way out: 2^50 bytes.
            if kept.len() <= CYCLE_BYTES_MAX || !scope.values().leaves_cycle() {
                out.extend_from_slice(kept);
            }
            return true;
        }
        let value = nested(scope, &self.name, |scope| self.look_up(scope));
        out.extend_from_slice(&value);
        if let Some(slot) = self.slot {
            scope.set_slot(slot, value);
        }
        true
    }

    fn add(&mut self, cx: &mut impl Compile<Scope = S>, entry: &Entry<'_>) -> Result<(), Diagnostic> {
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
            let regex = Pattern::new(pattern, caseless, entry.name.span)?.declare(cx.variables());
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
    fn target(&mut self, word: &Cell<'_>, cx: &mut impl Compile<Scope = S>) -> Result<u32, Diagnostic> {
        let text = &*foreign::bytes(word.text);
        if let Some((number, _)) = self.values.get(text) {
            return Ok(number);
        }
        let mut script = PLAIN;
        if has_variables(word.text) {
            script = self.scripts.len() as u32;
            self.scripts.push(Script::compile_text(word.text, word.span, cx)?);
        }
        Ok(self.values.insert(text, script).unwrap_or_else(|there| there))
    }

    fn look_up(&'static self, scope: &mut S) -> Cow<'static, [u8]> {
        let source = self.source.to_vec(scope);
        let lower = lower(&source);
        let key = match self.wildcards {
            Some(_) => lower.strip_suffix(b".").unwrap_or(&lower), // a host may end with a dot
            None => &lower,
        };
        let mut found = self.exact.get(key).map(|(_, target)| target);
        if found.is_none()
            && let Some(names) = &self.wildcards
        {
            found = names.lookup(key).copied();
        }
        if found.is_none() && !self.regexes.is_empty() {
            found = self.match_regexes(&source, scope);
        }
        match found.or(self.default) {
            Some(target) => self.value(target, scope),
            None => Cow::Borrowed(b""),
        }
    }

    /// The target of the first regular expression that matches; its groups are kept.
    fn match_regexes(&self, source: &[u8], scope: &mut S) -> Option<u32> {
        let ends = Ends::of(source);
        let mut may_match = self.regexes.iter().filter(|(regex, _)| regex.hint().admits(&ends));
        may_match.find(|(regex, _)| regex.find(scope, source).is_some()).map(|(_, target)| *target)
    }

    fn value(&'static self, target: u32, scope: &mut S) -> Cow<'static, [u8]> {
        let text = self.values.key(target);
        match self.values.value(target) {
            PLAIN => Cow::Borrowed(text),
            script => Cow::Owned(self.scripts[script as usize].to_vec(scope)),
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
