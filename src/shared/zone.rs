//! Shared memory zones as the directives of limits name them: `KEY zone=name:size`, declared once, used anywhere.
//!
//! A use may come before its declaration. Touches: memory by name in shared memory, once all is read.
//! Wording of the errors: nginx's ngx_http_limit_req_module.

use std::collections::HashMap;
use std::ops::Deref;
use std::{fmt, io};

use crate::base::number::parse_size;
use crate::config::{Diagnostic, Diagnostics, Node, Span, Word, params};
use crate::log;
use crate::script::Scope;
use crate::script::value::Script;
use crate::shared::Environment;
use crate::shm::behind::{self, Sign};
use crate::shm::counter::{self, Slot};
use crate::shm::named::{self, Used};

/// nginx's least: eight pages.
const BYTES_MIN: u64 = 32 * 1024;

/// A zone as it was declared. `D` is what only its kind of limit has, such as a rate.
pub struct Declared<S, D> {
    name: Box<str>,
    key: Script<S>,
    key_text: Box<str>,
    bytes: usize,
    detail: D,
    span: Span,
}

/// A zone that is used, or declared, or both.
struct Draft<S, D> {
    name: Box<str>,
    declared: Option<Declared<S, D>>,
    used: Option<Span>,
}

/// The zones of one kind of limit while the configuration is read.
pub struct Zones<S, D = ()> {
    by_name: HashMap<Box<str>, usize>,
    list: Vec<Draft<S, D>>,
}

/// A zone with its memory `T`.
pub struct Zone<S, T, D = ()> {
    pub name: Box<str>,
    pub key: Script<S>,
    /// The name of its memory.
    pub id: u64,
    pub bytes: usize,
    /// `None` with `-t`, where nothing is served.
    pub memory: Option<T>,
    pub detail: D,
    /// Counts what became of scopes; `None` with `-t`, or if no room was left.
    pub slot: Option<Slot>,
}

/// The zones of one kind of limit, by index.
#[derive(Debug)]
pub struct Table<S, T, D = ()>(Vec<Zone<S, T, D>>);

/// The outcome for a scope at a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Passed,
    Delayed,
    Rejected,
    DelayedDryRun,
    RejectedDryRun,
}

/// A zone as status pages show it.
#[derive(Clone, Debug)]
pub struct Shown {
    pub name: Box<str>,
    /// The name of its memory.
    pub id: u64,
    slot: Option<Slot>,
}

impl Shown {
    pub fn count(&self, fate: Fate) -> u64 {
        self.slot.map_or(0, |slot| slot.get(fate.word()))
    }
}

impl Fate {
    /// The word of the slot that counts it: those of statuses, of which a limit has none.
    fn word(self) -> counter::Word {
        match self {
            Self::Passed => counter::Word::Status1xx,
            Self::Delayed => counter::Word::Status2xx,
            Self::Rejected => counter::Word::Status3xx,
            Self::DelayedDryRun => counter::Word::Status4xx,
            Self::RejectedDryRun => counter::Word::Status5xx,
        }
    }
}

impl<S, T, D: fmt::Debug> fmt::Debug for Zone<S, T, D> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Zone")
            .field("name", &self.name)
            .field("detail", &self.detail)
            .finish_non_exhaustive()
    }
}

impl<S: Scope, T, D> Zone<S, T, D> {
    /// Counts what became of a scope.
    pub fn count(&self, fate: Fate) {
        if let Some(slot) = self.slot {
            behind::add(|counts| counts.count(slot, 0, &[(fate.word(), 1)], Sign::Add));
        }
    }

    /// Its memory.
    pub fn used(&self) -> Used {
        Used { name: self.id, bytes: self.bytes }
    }

    pub fn shown(&self) -> Shown {
        Shown { name: self.name.clone(), id: self.id, slot: self.slot }
    }

    /// The value of the key; `None` if the zone does not count this scope: the value is empty, or has more than
    /// `bytes_max` bytes, which is logged.
    pub fn key_of(&self, scope: &mut S, bytes_max: usize) -> Option<Vec<u8>> {
        let value = self.key.to_vec(scope);
        if value.len() > bytes_max {
            let name = &self.name;
            let what = format_args!(
                "the value of the key is more than {bytes_max} bytes, the request is not limited by zone"
            );
            log::error!(scope.logger(), &*scope, "{} \"{}\"", what, name);
            return None;
        }
        (!value.is_empty()).then_some(value)
    }
}

impl<S: Scope, T, D> Table<S, T, D> {
    /// The zones as status pages show them.
    pub fn shown(&self) -> impl Iterator<Item = Shown> {
        self.0.iter().map(Zone::shown)
    }

    /// The slots of the zones' counters.
    pub fn slots(&self) -> impl Iterator<Item = Slot> {
        self.0.iter().filter_map(|zone| zone.slot)
    }

    /// The zones' memory.
    pub fn used(&self) -> impl Iterator<Item = Used> {
        self.0.iter().map(Zone::used)
    }
}

impl<S, T, D> Deref for Table<S, T, D> {
    type Target = [Zone<S, T, D>];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<S: Scope, D> Declared<S, D> {
    /// Of a directive whose first argument is the key. `zone` is what [`parameter`] has read.
    pub fn new(node: &Node, key: Script<S>, (name, bytes): (&str, usize), detail: D) -> Self {
        Self { name: name.into(), key, key_text: node.arg(0).into(), bytes, detail, span: node.span }
    }

    pub fn name(&self) -> &str {
        &self.name
    }
}

impl<S, D> Default for Zones<S, D> {
    fn default() -> Self {
        Self { by_name: HashMap::new(), list: Vec::new() }
    }
}

impl<S: Scope, D> Zones<S, D> {
    /// The index of the zone of this name, which may be declared later.
    pub fn reference(&mut self, name: &str, span: Span) -> usize {
        let index = self.entry(name);
        self.list[index].used.get_or_insert(span);
        index
    }

    /// Adds what `node` declares. Errors: there is a zone of this name.
    pub fn declare(&mut self, declared: Declared<S, D>, node: &Node) -> Result<(), Diagnostic> {
        let index = self.entry(&declared.name);
        let there = &mut self.list[index].declared;
        if let Some(Declared { name, key_text, .. }) = there {
            let directive = &node.name.text;
            let message = format!("{directive} \"{name}\" is already bound to key \"{key_text}\"");
            return Err(Diagnostic::error(node.span, message));
        }
        *there = Some(declared);
        Ok(())
    }

    pub fn is_declared(&self, name: &str) -> bool {
        self.by_name.get(name).is_some_and(|&index| self.list[index].declared.is_some())
    }

    /// Maps the memory of all zones when everything is read; those that are only used are reported. `kind` names the limit.
    pub fn open<T, X: Environment>(
        self,
        kind: &str,
        cx: &mut X,
        open: fn(u64, usize) -> io::Result<T>,
    ) -> Table<S, T, D> {
        let declared = self.complete(X::BLOCK, kind, cx.diagnostics());
        let is_test = cx.is_test() || cx.diagnostics().has_errors();
        let map = |declared: Declared<S, D>| {
            let Declared { name, key, key_text, bytes, detail, span } = declared;
            // The same after a reload unless something that matters has changed.
            let id = named::name(&format!("{kind} {name} {bytes} {key_text}"));
            let memory = (!is_test).then(|| open(id, bytes)).transpose().unwrap_or_else(|error| {
                let message = format!("no memory for the zone \"{name}\" {}", log::Cause(&error));
                cx.diagnostics().push(Diagnostic::error(span, message));
                None
            });
            let slot = (!is_test)
                .then(|| counter::slot(counter::Kind::Limit, &format!("{} {kind} {name}", X::BLOCK)));
            Zone { name, key, id, bytes, memory, detail, slot: slot.flatten() }
        };
        Table(declared.into_iter().map(map).collect())
    }

    /// All zones by index.
    fn complete(self, block: &str, kind: &str, out: &mut Diagnostics) -> Vec<Declared<S, D>> {
        let complete = self.list.into_iter().filter_map(|Draft { name, declared, used }| {
            if let (None, Some(span)) = (&declared, used) {
                let message = format!("zero size shared memory zone \"{name}\"");
                let help = format!("declare it in \"{block}\": {kind}_zone … zone={name}:10m …;");
                out.push(Diagnostic::error(span, message).help(help));
            }
            declared
        });
        complete.collect()
    }

    fn entry(&mut self, name: &str) -> usize {
        if let Some(&index) = self.by_name.get(name) {
            return index;
        }
        self.list.push(Draft { name: name.into(), declared: None, used: None });
        self.by_name.insert(name.into(), self.list.len() - 1);
        self.list.len() - 1
    }
}

/// The value of `zone=name:size`; `None` for another parameter.
pub fn parameter(word: &Word) -> Option<Result<(&str, usize), Diagnostic>> {
    let value = params::value(word, "zone")?;
    let invalid = || {
        let diagnostic = Diagnostic::error(word.span, format!("invalid zone size \"{}\"", word.text));
        diagnostic.help("write zone=NAME:SIZE, such as zone=clients:10m")
    };
    let parsed = value.split_once(':').and_then(|(name, size)| Some((name, parse_size(size)?)));
    Some(match parsed {
        Some((_, bytes)) if bytes < BYTES_MIN => {
            let diagnostic = Diagnostic::error(word.span, format!("zone \"{}\" is too small", word.text));
            Err(diagnostic.help("a zone has 32k or more"))
        }
        Some((name, bytes)) if !name.is_empty() => {
            usize::try_from(bytes).map(|b| (name, b)).map_err(|_| invalid())
        }
        _ => Err(invalid()),
    })
}

/// `"x" must have "zone" parameter`.
pub fn missing(directive: &Word) -> Diagnostic {
    Diagnostic::error(directive.span, format!("\"{}\" must have \"zone\" parameter", directive.text))
}

/// Another kind of limit has a zone of this name.
pub fn other_use(name: &str, node: &Node) -> Diagnostic {
    let message = format!("the shared memory zone \"{name}\" is already declared for a different use");
    Diagnostic::error(node.span, message)
}
