//! Variables: names become indexes while compiling, values are made when something asks for them.
//!
//! Touches: the request. A module's variables stand in its `VARIABLES`; `set`, `map` and named captures add
//! slots, whose values a request keeps.
//! Behaviour: nginx.org, "Alphabetical index of variables".

use std::borrow::Cow;
use std::collections::HashMap;

use crate::config::{Diagnostic, Diagnostics, Span, Word, absent};
use crate::http::modules::{self, core};
use crate::http::request::Request;
use crate::log;

/// The variable that makes files of bodies too long for memory.
const REQUEST_BODY_FILE: &str = "request_body_file";

/// Index of a variable in [`Variables`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VariableId(u32);

/// What a variable's getter is told beside the request.
#[derive(Clone, Debug, Default)]
pub struct Argument {
    /// The rest of a prefix variable's name: `user_agent` of `$http_user_agent`.
    pub name: Box<str>,
    /// The slot in the request, or the index of the map.
    pub index: usize,
    /// What makes the value while nothing was stored in the slot.
    fallback: Option<Box<(Getter, Argument)>>,
}

impl Argument {
    /// For a getter that looks something up by its index.
    pub fn index(index: usize) -> Self {
        Self { index, ..Self::default() }
    }
}

/// Appends the value to `out`; false: the variable has no value now (`-` in the access log).
pub type Getter = fn(&mut Request, &Argument, &mut Vec<u8>) -> bool;

/// Does what a new value of a module's variable means.
pub type Setter = fn(&mut Request, Vec<u8>);

/// Whether the configuration may give a module's variable another value.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    Never,
    /// The new value is kept for the request and hides the module's.
    Kept,
    /// `set` changes the request itself.
    By(Setter),
}

/// One variable that a module declares.
pub struct Variable {
    /// The whole name, or for prefix variables its beginning with the underscore.
    pub name: &'static str,
    pub prefix: bool,
    pub get: Getter,
    pub change: Change,
}

pub const fn variable(name: &'static str, get: Getter) -> Variable {
    Variable { name, prefix: false, get, change: Change::Never }
}

/// A family of variables with a common beginning: `arg_`, `http_`, `cookie_`.
pub const fn prefix(name: &'static str, get: Getter) -> Variable {
    Variable { name, prefix: true, get, change: Change::Kept }
}

/// A variable that `set`, `map` and their kind may give another value.
pub const fn changeable(name: &'static str, get: Getter, change: Change) -> Variable {
    Variable { name, prefix: false, get, change }
}

#[derive(Clone, Debug)]
struct Entry {
    name: Box<str>,
    get: Option<Getter>,
    argument: Argument,
    /// Where a request keeps the value that `set` or a capture gives it.
    slot: Option<usize>,
    /// `set` gives the value: to ask for it before that is worth a warning.
    is_set: bool,
    /// Where it was used first; an undefined one is reported there.
    span: Option<Span>,
}

/// The variables of one configuration: used ones and defined ones.
#[derive(Debug, Default)]
pub struct Registry {
    entries: Vec<Entry>,
    by_name: HashMap<Box<str>, u32>,
    slot_count: usize,
}

impl Registry {
    /// The id of a variable that is used at `span`; it may be defined later.
    pub fn reference(&mut self, name: &str, span: Span) -> VariableId {
        let id = self.entry(name);
        self.entries[id.0 as usize].span.get_or_insert(span);
        id
    }

    /// Defines (or redefines, as `map` may) a variable by its getter.
    pub fn define(&mut self, name: &str, get: Getter, argument: Argument) -> VariableId {
        let id = self.entry(name);
        let entry = &mut self.entries[id.0 as usize];
        entry.get = Some(get);
        entry.argument = argument;
        id
    }

    /// Like [`Registry::define`] for the word `$name` of a directive. Errors: no name, or one that a module keeps for
    /// itself.
    pub fn declare(&mut self, word: &Word, get: Getter, argument: Argument) -> Result<(), Diagnostic> {
        let name = declared_name(word)?;
        self.define(name, get, argument);
        Ok(())
    }

    /// A slot in every request for the value of `name`; the same slot when it is asked for again.
    ///
    /// While nothing is stored there the variable is what it would be otherwise.
    pub fn slot(&mut self, name: &str) -> usize {
        let id = self.entry(name);
        if let Some(slot) = self.entries[id.0 as usize].slot {
            return slot;
        }
        let slot = self.new_slot();
        self.entries[id.0 as usize].slot = Some(slot);
        slot
    }

    /// The slot for the variable of a `set`, whose word is `$name`. Errors: those of [`Registry::declare`].
    pub fn set_slot(&mut self, word: &Word) -> Result<usize, Diagnostic> {
        let name = declared_name(word)?;
        let slot = self.slot(name);
        let id = self.entry(name);
        self.entries[id.0 as usize].is_set = true;
        Ok(slot)
    }

    /// A slot without a name.
    pub fn new_slot(&mut self) -> usize {
        self.slot_count += 1;
        self.slot_count - 1
    }

    /// Resolves what is left to the modules' variables; reports names that nobody defines.
    pub fn freeze(mut self, modules: &[&'static [Variable]], out: &mut Diagnostics) -> Variables {
        for entry in self.entries.iter_mut().filter(|entry| entry.get.is_none()) {
            let found = modules.iter().flat_map(|list| list.iter()).find(|v| v.matches(&entry.name));
            match (found, entry.span) {
                (Some(found), _) => {
                    entry.get = Some(found.get);
                    if entry.name.len() == found.name.len() && found.prefix {
                        entry.get = Some(nothing); // a bare `$arg_` names no argument
                    } else if found.prefix {
                        entry.argument.name = entry.name[found.name.len()..].to_ascii_lowercase().into();
                    }
                }
                (None, _) if entry.is_set => {
                    entry.get = Some(modules::rewrite::uninitialized);
                    entry.argument.name = entry.name.clone();
                    entry.argument.index = entry.slot.unwrap_or_default();
                }
                (None, _) if entry.slot.is_some() => entry.get = Some(nothing),
                (None, Some(span)) => out.push(unknown(&entry.name, span, modules)),
                (None, None) => {}
            }
        }
        let has_request_body = self.by_name.contains_key("request_body");
        let has_request_body_file = self.by_name.contains_key(REQUEST_BODY_FILE);
        let list = self.entries.into_iter().map(|entry| {
            let plain = (entry.get.unwrap_or(nothing as Getter), entry.argument);
            match entry.slot {
                Some(index) => (
                    stored as Getter,
                    Argument { index, fallback: Some(Box::new(plain)), ..Argument::default() },
                ),
                None => plain,
            }
        });
        let by_name = self.by_name;
        Variables {
            by_name,
            list: list.collect(),
            slot_count: self.slot_count,
            has_request_body,
            has_request_body_file,
        }
    }

    /// Names of variables have no case, as in nginx.
    fn entry(&mut self, name: &str) -> VariableId {
        let name = &*lower(name);
        if let Some(&id) = self.by_name.get(name) {
            return VariableId(id);
        }
        let id = self.entries.len() as u32;
        self.entries.push(Entry {
            name: name.into(),
            get: None,
            argument: Argument::default(),
            slot: None,
            is_set: false,
            span: None,
        });
        self.by_name.insert(name.into(), id);
        VariableId(id)
    }
}

fn lower(name: &str) -> Cow<'_, str> {
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        name.to_ascii_lowercase().into()
    } else {
        name.into()
    }
}

impl Variable {
    fn matches(&self, name: &str) -> bool {
        if self.prefix { name.starts_with(self.name) } else { name == self.name }
    }
}

/// Appends the value of a variable that is asked for by its name; false: it has none, or there is no such variable.
pub fn by_name(request: &mut Request, name: &str, out: &mut Vec<u8>) -> bool {
    let name = &*lower(name);
    if let Some(id) = request.config.variables.by_name.get(name) {
        return request.variable(VariableId(*id), out);
    }
    let Some(found) = modules::VARIABLES.iter().flat_map(|list| list.iter()).find(|v| v.matches(name)) else {
        return false;
    };
    let rest = if found.prefix { &name[found.name.len()..] } else { "" };
    (found.get)(request, &Argument { name: rest.into(), ..Argument::default() }, out)
}

/// The variables that a configuration uses, ready to evaluate.
#[derive(Debug, Default)]
pub struct Variables {
    /// For names that come with requests.
    by_name: HashMap<Box<str>, u32>,
    list: Box<[(Getter, Argument)]>,
    slot_count: usize,
    has_request_body: bool,
    has_request_body_file: bool,
}

impl Variables {
    pub fn get(&self, id: VariableId) -> (Getter, &Argument) {
        let (get, argument) = &self.list[id.0 as usize];
        (*get, argument)
    }

    /// Something asks for `$request_body`: bodies that were read are kept.
    pub fn has_request_body(&self) -> bool {
        self.has_request_body
    }

    /// Something asks for `$request_body_file`: bodies that are too long for memory go to files.
    pub fn has_request_body_file(&self) -> bool {
        self.has_request_body_file
    }

    /// How many values a request may have to keep.
    pub fn slot_count(&self) -> usize {
        self.slot_count
    }
}

fn unknown(name: &str, span: Span, modules: &[&'static [Variable]]) -> Diagnostic {
    let known = modules.iter().flat_map(|list| list.iter()).filter(|v| !v.prefix).map(|v| v.name);
    let best = known
        .map(|known| (strsim::damerau_levenshtein(known, name), known))
        .filter(|(distance, known)| *distance <= 1 + known.len() / 4)
        .min();
    let diagnostic = Diagnostic::error(span, format!("unknown \"{name}\" variable"));
    if let Some(feature) = absent::feature_of_variable(name) {
        return diagnostic.help(format!("it comes with {}: {}", feature.name, feature.help));
    }
    match best {
        Some((_, known)) => diagnostic.help(format!("did you mean \"${known}\"?")),
        None => diagnostic,
    }
}

/// The name that a directive gives to a variable, without its `$`.
pub fn declared_name(word: &Word) -> Result<&str, Diagnostic> {
    let Some(name) = word.text.strip_prefix('$').filter(|name| !name.is_empty()) else {
        let message = format!("invalid variable name \"{}\"", word.text);
        let help = format!("a variable's name begins with \"$\": ${}", word.text);
        return Err(Diagnostic::error(word.span, message).help(help));
    };
    match modules::variable_named(name).map(|found| found.change) {
        Some(Change::Never) => {
            let message = format!("the duplicate \"{name}\" variable");
            Err(Diagnostic::error(word.span, message).help("this name is built in: take another one"))
        }
        _ => Ok(name),
    }
}

/// How many variables may be made out of each other; nginx's limit.
const NESTING_MAX: u8 = 100;
/// A cycle was met: nothing is evaluated before all that led to it has ended.
const NESTING_BROKEN: u8 = u8::MAX;

/// Evaluates what the value of the variable `name` is made of: other variables, whose values may be made so in turn.
///
/// Every getter that evaluates a [`Script`](crate::http::script::Script) does it in here, so that variables which lead
/// back to themselves end: with a line in the log, and without a value. `R::default()` stands for what was not evaluated.
pub fn nested<R: Default>(request: &mut Request, name: &str, evaluate: impl FnOnce(&mut Request) -> R) -> R {
    let nesting = request.nesting;
    if nesting >= NESTING_MAX {
        if nesting != NESTING_BROKEN {
            log::error!(core::error_log(request), &*request, "cycle while evaluating variable \"{name}\"");
            request.nesting = NESTING_BROKEN;
        }
        return R::default();
    }
    request.nesting += 1;
    let value = evaluate(request);
    // on the way out of a cycle only the outermost one clears the way: with two references each there are 2^100 ways in
    if request.nesting != NESTING_BROKEN || nesting == 0 {
        request.nesting = nesting;
    }
    value
}

/// The value that `set` or a capture has put into the request, else what the variable is without it.
fn stored(request: &mut Request, argument: &Argument, out: &mut Vec<u8>) -> bool {
    if let Some(value) = request.slot(argument.index) {
        out.extend_from_slice(value);
        return true;
    }
    match &argument.fallback {
        Some(plain) => plain.0(request, &plain.1, out),
        None => false,
    }
}

/// The values of a trailer among field lines, joined. `name` spells it with underscores.
pub fn trailer(lines: &[u8], name: &str, out: &mut Vec<u8>) -> bool {
    let spelled = |byte: &u8| if *byte == b'-' { b'_' } else { byte.to_ascii_lowercase() };
    let mut found = false;
    for line in lines.split(|&byte| byte == b'\n') {
        let Some(colon) = memchr::memchr(b':', line) else { continue };
        if line[..colon].iter().map(spelled).eq(name.bytes()) {
            if std::mem::replace(&mut found, true) {
                out.extend_from_slice(b", ");
            }
            out.extend_from_slice(line[colon + 1..].trim_ascii());
        }
    }
    found
}

fn nothing(_: &mut Request, _: &Argument, _: &mut Vec<u8>) -> bool {
    false
}
