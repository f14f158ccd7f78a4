//! The variables of one configuration: names become ids while it is read, and definitions when all is read.
//!
//! Pure data. A name may be used before it is defined. Wording of the errors: nginx's ngx_http_variables.c.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use crate::base::frame::{Fields, put_vector16, put_vector32};
use crate::config::{Diagnostic, Diagnostics, Span, Word, absent};
use crate::script::variable::{Argument, Change, Definition, Setter, Uninitialized, Variable, VariableId};
use crate::script::{Scope, Slots};

/// The variables of all modules of a language part, module by module.
pub type Modules<S> = &'static [&'static [Variable<S>]];

struct Entry<S: 'static> {
    name: Box<str>,
    definition: Option<Definition<S>>,
    /// The slot for the value that `set` or a capture gives it.
    slot: Option<usize>,
    /// `set` gives the value: to ask for it before that is worth a warning.
    is_set: bool,
    /// Its first use; an undefined variable is reported there.
    span: Option<Span>,
}

/// The variables of a configuration that is being read: used ones and defined ones.
///
/// Directives ask for ids and slots, in any order; [`Registry::freeze`] resolves what no directive has defined to the
/// modules' variables, and reports the names that are left.
pub struct Registry<S: 'static> {
    modules: Modules<S>,
    entries: Vec<Entry<S>>,
    by_name: HashMap<Box<str>, u32>,
    slot_count: usize,
}

/// The place where a directive such as `set` puts a value.
pub enum Target<S> {
    Slot(usize),
    /// The variable is a module's, which knows what a new value means.
    By(Setter<S>),
}

impl<S> Clone for Target<S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for Target<S> {}

impl<S: Scope> Target<S> {
    pub fn put(&self, scope: &mut S, value: Vec<u8>) {
        match self {
            Self::Slot(index) => scope.set_slot(*index, value),
            Self::By(setter) => setter(scope, value),
        }
    }
}

impl<S> fmt::Debug for Target<S> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slot(index) => out.debug_tuple("Slot").field(index).finish(),
            Self::By(_) => out.write_str("By"),
        }
    }
}

impl<S: Scope> Registry<S> {
    pub fn new(modules: Modules<S>) -> Self {
        Self { modules, entries: Vec::new(), by_name: HashMap::new(), slot_count: 0 }
    }

    /// The id of a variable that is used at `span`; it may be defined later.
    pub fn reference(&mut self, name: &str, span: Span) -> VariableId {
        let id = self.entry(name);
        self.entries[id.0 as usize].span.get_or_insert(span);
        id
    }

    /// Defines (or redefines, as `map` may) the variable that a directive names with the word `$name`. Errors: no name, or
    /// one that a module keeps for itself.
    pub fn declare(&mut self, word: &Word, definition: Definition<S>) -> Result<(), Diagnostic> {
        let id = self.entry(self.declared_name(word)?);
        self.entries[id.0 as usize].definition = Some(definition);
        Ok(())
    }

    /// The name that a directive gives to a variable, without its `$`. Errors: those of [`Registry::declare`].
    pub fn declared_name<'a>(&self, word: &'a Word) -> Result<&'a str, Diagnostic> {
        let Some(name) = word.text.strip_prefix('$').filter(|name| !name.is_empty()) else {
            let message = format!("invalid variable name \"{}\"", word.text);
            let help = format!("a variable's name begins with \"$\": ${}", word.text);
            return Err(Diagnostic::error(word.span, message).help(help));
        };
        match self.module(name).map(|found| &found.change) {
            Some(Change::Never) => {
                let message = format!("the duplicate \"{name}\" variable");
                Err(Diagnostic::error(word.span, message).help("this name is built in: take another one"))
            }
            _ => Ok(name),
        }
    }

    /// A slot in every scope for the value of `name`; the same slot when it is asked for again.
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

    /// A slot without a name.
    pub fn new_slot(&mut self) -> usize {
        self.slot_count += 1;
        self.slot_count - 1
    }

    /// The place where a directive puts the value of the variable `$name`. Errors: those of [`Registry::declare`].
    pub fn target(&mut self, word: &Word) -> Result<Target<S>, Diagnostic> {
        let name = self.declared_name(word)?;
        match self.module(name).map(|found| &found.change) {
            Some(Change::By(setter)) => Ok(Target::By(*setter)),
            _ => Ok(Target::Slot(self.slot(name))),
        }
    }

    /// The same for `set`: to use the variable before that is worth a warning.
    pub fn set_target(&mut self, word: &Word) -> Result<Target<S>, Diagnostic> {
        let target = self.target(word)?;
        if matches!(target, Target::Slot(_)) {
            let id = self.entry(self.declared_name(word)?);
            self.entries[id.0 as usize].is_set = true;
        }
        Ok(target)
    }

    /// Resolves what is left to the modules' variables; reports names that are not defined anywhere. `warn` logs the use of a
    /// variable that no `set` has given a value yet.
    pub fn freeze(self, warn: Uninitialized<S>, out: &mut Diagnostics) -> Variables<S> {
        let modules = self.modules;
        let list = self.entries.into_iter().map(|entry| {
            let Entry { name, definition, slot, is_set, span } = entry;
            let declared = || find(modules, &name).map(|found| found.definition(&name));
            let plain = match (definition.or_else(declared), slot) {
                (Some(definition), _) => definition,
                (None, Some(slot)) if is_set => Definition::Uninitialized { name, slot, warn },
                (None, Some(_)) => Definition::Nothing,
                (None, None) => {
                    if let Some(span) = span {
                        out.push(unknown(&name, span, modules));
                    }
                    Definition::Nothing
                }
            };
            match slot {
                Some(index) => Definition::Slot { index, otherwise: Box::new(plain) },
                None => plain,
            }
        });
        let list = list.collect();
        Variables { modules, by_name: self.by_name, list, slot_count: self.slot_count }
    }

    /// The variable of exactly this name that a module declares.
    fn module(&self, name: &str) -> Option<&'static Variable<S>> {
        let mut all = self.modules.iter().flat_map(|list| list.iter());
        all.find(|variable| !variable.prefix && variable.name.eq_ignore_ascii_case(name))
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
            definition: None,
            slot: None,
            is_set: false,
            span: None,
        });
        self.by_name.insert(name.into(), id);
        VariableId(id)
    }
}

/// The variables that a configuration uses, ready to evaluate.
pub struct Variables<S: 'static> {
    modules: Modules<S>,
    /// For names that come from elsewhere than the configuration.
    by_name: HashMap<Box<str>, u32>,
    list: Box<[Definition<S>]>,
    slot_count: usize,
}

impl<S: Scope> Variables<S> {
    #[inline]
    pub fn get(&self, id: VariableId) -> &Definition<S> {
        &self.list[id.0 as usize]
    }

    /// True when anything uses the variable of this lower-case name.
    pub fn is_used(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// The variables that have a slot: their names and the numbers of the slots.
    fn slots(&self) -> impl Iterator<Item = (&str, usize)> {
        self.by_name.iter().filter_map(|(name, id)| match self.list.get(*id as usize) {
            Some(Definition::Slot { index, .. }) => Some((&**name, *index)),
            _ => None,
        })
    }

    /// The number of slots of a scope.
    pub fn slot_count(&self) -> usize {
        self.slot_count
    }
}

impl<S> fmt::Debug for Variables<S> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Variables").field("by_name", &self.by_name).finish_non_exhaustive()
    }
}

/// Appends the value of a variable that is asked for by its name, as a page may; false: it has none, or there is no such
/// variable.
pub fn by_name<S: Scope>(scope: &mut S, name: &str, out: &mut Vec<u8>) -> bool {
    let variables = scope.variables();
    let name = &*lower(name);
    if let Some(id) = variables.by_name.get(name) {
        return scope.variable(VariableId(*id), out);
    }
    let Some(found) = find(variables.modules, name) else { return false };
    let rest = if found.prefix { &name[found.name.len()..] } else { "" };
    (found.get)(scope, &Argument { name: rest.into() }, out)
}

/// Appends stored values, with the names of their variables, for another process, whose configuration may be another
/// one.
pub fn save_slots<S: Scope>(variables: &Variables<S>, slots: &Slots, out: &mut Vec<u8>) {
    let stored: Vec<(&str, &[u8])> = match slots.is_empty() {
        true => Vec::new(),
        false => {
            let value = |index: usize| slots.get(index)?.as_deref();
            variables.slots().filter_map(|(name, index)| Some((name, value(index)?))).collect()
        }
    };
    out.extend_from_slice(&(stored.len() as u32).to_le_bytes());
    for (name, value) in stored {
        put_vector16(out, name.as_bytes());
        put_vector32(out, value);
    }
}

/// The values that [`save_slots`] has written, where this configuration has a place for them. `None`: the bytes are
/// something else.
pub fn restore_slots<S: Scope>(variables: &Variables<S>, fields: &mut Fields<'_>) -> Option<Slots> {
    let mut slots = Slots::new();
    for _ in 0..fields.u32()? {
        let (name, value) = (fields.vector16()?, fields.vector32()?);
        let id = std::str::from_utf8(name).ok().and_then(|name| variables.by_name.get(name));
        if let Some(Definition::Slot { index, .. }) = id.and_then(|id| variables.list.get(*id as usize)) {
            slots.resize(variables.slot_count, None);
            slots[*index] = Some(value.to_vec().into());
        }
    }
    Some(slots)
}

fn find<S>(modules: Modules<S>, name: &str) -> Option<&'static Variable<S>> {
    modules.iter().flat_map(|list| list.iter()).find(|variable| variable.matches(name))
}

fn lower(name: &str) -> Cow<'_, str> {
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        name.to_ascii_lowercase().into()
    } else {
        name.into()
    }
}

fn unknown<S>(name: &str, span: Span, modules: Modules<S>) -> Diagnostic {
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
