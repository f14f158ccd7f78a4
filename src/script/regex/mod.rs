//! Regular expressions as PCRE users write them: the linear engine, and a backtracking one with a step
//! limit for look-around and back-references.
//!
//! A [`Pattern`] is compiled text. A [`Regex`] is one whose named groups are variables of a configuration. Touches: the
//! registry while compiling; the scope's slots and captures, and its log where a match is given up.

mod dialect;
pub mod hint;

use std::ops::Range;

use regex_automata::meta;
use regex_automata::util::primitives::NonMaxUsize;
use smallvec::{SmallVec, smallvec};

use crate::base::foreign;
use crate::config::{Diagnostic, Span};
use crate::log;
use crate::script::Scope;
use crate::script::registry::Registry;
use hint::{Ends, Hint};

/// Steps of the backtracking engine before a match is given up: some tens of milliseconds. nginx's PCRE has 10 million.
pub const BACKTRACK_LIMIT: usize = 1_000_000;

/// The memory that a compiled pattern may take; as in the regex crate.
const COMPILED_BYTES_MAX: usize = 10 * 1024 * 1024;

#[derive(Clone, Debug)]
enum Engine {
    Linear(Box<meta::Regex>),
    Backtracking(Box<fancy_regex::Regex>),
}

/// A compiled pattern: all that is needed to match, and the names that its groups have.
#[derive(Clone, Debug)]
pub struct Pattern {
    engine: Engine,
    hint: Hint,
    group_count: usize,
    names: Vec<(Box<str>, usize)>,
    span: Span,
}

/// A pattern whose named groups are variables. Made by [`Pattern::declare`], so that they cannot be forgotten.
#[derive(Clone, Debug)]
pub struct Regex {
    pattern: Pattern,
    /// The slot of each named group: slot and group.
    slots: Vec<(usize, usize)>,
}

/// The ranges of the groups, the whole match first; a group that took no part is `0..0`.
pub type Groups = SmallVec<[Range<usize>; 4]>;

/// The backtracking engine has come to its limit: whether the pattern matches is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GaveUp {
    /// The pattern in the configuration.
    pub span: Span,
}

impl Pattern {
    /// Compiles a pattern at `span`. Errors: what is wrong with the pattern, in one line.
    pub fn new(pattern: &str, caseless: bool, span: Span) -> Result<Self, Diagnostic> {
        Self::within(pattern, caseless, span, COMPILED_BYTES_MAX)
    }

    /// Like [`Pattern::new`], for a pattern that may take no more than `bytes_max` when it is compiled.
    pub fn within(pattern: &str, caseless: bool, span: Span, bytes_max: usize) -> Result<Self, Diagnostic> {
        let pattern = &*foreign::escaped(pattern);
        let refused =
            |why: &str| Diagnostic::error(span, format!("invalid regular expression \"{pattern}\": {why}"));
        let ours = dialect::translate(pattern).map_err(|error| refused(&error.why).help(error.help))?;
        let mut hint = Hint::default();
        let (engine, names, group_count) = if ours.backtracks {
            let regex =
                backtracking(&ours, caseless, bytes_max).map_err(|error| refused(&without_place(&error)))?;
            let (names, count) = (named(regex.capture_names()), regex.captures_len());
            (Engine::Backtracking(Box::new(regex)), names, count)
        } else {
            let mut parser = regex_syntax::ParserBuilder::new();
            parser.unicode(ours.is_utf).utf8(false).case_insensitive(caseless);
            let hir = parser.build().parse(&ours.text).map_err(|error| refused(&kind(&error)))?;
            hint = Hint::of(&hir);
            let config = meta::Config::new().utf8_empty(false).nfa_size_limit(Some(bytes_max));
            let regex = meta::Builder::new().configure(config).build_from_hir(&hir);
            let regex = regex
                .map_err(|_| refused("it would take too much memory").help("count up to lower numbers"))?;
            let names = named(regex.group_info().pattern_names(Default::default()));
            let count = regex.captures_len();
            (Engine::Linear(Box::new(regex)), names, count)
        };
        Ok(Self { engine, hint, group_count, names, span })
    }

    /// The named groups and their indexes.
    pub fn names(&self) -> &[(Box<str>, usize)] {
        &self.names
    }

    /// The number of groups, the whole match included.
    pub fn group_count(&self) -> usize {
        self.group_count
    }

    /// Makes the named groups variables.
    pub fn declare<S: Scope>(self, variables: &mut Registry<S>) -> Regex {
        let slots = self.names.iter().map(|(name, group)| (variables.slot(name), *group)).collect();
        Regex { pattern: self, slots }
    }

    /// Matches for a scope. A pattern that gives up matches nothing, and fails what the scope is about.
    pub fn search<S: Scope>(&self, scope: &mut S, subject: &[u8]) -> Option<Groups> {
        match self.captures(subject) {
            Ok(groups) => groups,
            Err(error) => {
                give_up(scope, error);
                None
            }
        }
    }

    /// The memory that it takes; unknown for a backtracking pattern, which counts as half a page.
    pub fn bytes(&self) -> usize {
        match &self.engine {
            Engine::Linear(regex) => regex.memory_usage(),
            Engine::Backtracking(_) => 2048,
        }
    }

    /// A cheap test that rules out most subjects that do not match.
    pub fn hint(&self) -> Hint {
        self.hint
    }

    pub fn is_match(&self, subject: &[u8]) -> Result<bool, GaveUp> {
        match &self.engine {
            Engine::Linear(regex) => Ok(self.hint.admits(&Ends::of(subject)) && regex.is_match(subject)),
            Engine::Backtracking(regex) => regex.is_match(subject).map_err(|_| self.gave_up()),
        }
    }

    /// Matches and gives the groups.
    pub fn captures(&self, subject: &[u8]) -> Result<Option<Groups>, GaveUp> {
        match &self.engine {
            Engine::Linear(regex) if self.hint.admits(&Ends::of(subject)) => Ok(self.linear(regex, subject)),
            Engine::Linear(_) => Ok(None),
            Engine::Backtracking(regex) => {
                let found = regex.captures(subject).map_err(|_| self.gave_up())?;
                Ok(found.map(|found| {
                    found.iter().map(|group| group.map_or(0..0, |group| group.range())).collect()
                }))
            }
        }
    }

    fn linear(&self, regex: &meta::Regex, subject: &[u8]) -> Option<Groups> {
        if self.group_count == 1 {
            return regex.find(subject).map(|found| smallvec![found.range()]);
        }
        let mut slots: SmallVec<[Option<NonMaxUsize>; 8]> = smallvec![None; self.group_count * 2];
        regex.search_slots(&regex_automata::Input::new(subject), &mut slots)?;
        let range = |group: &[Option<NonMaxUsize>]| match group {
            [Some(start), Some(end)] => start.get()..end.get(),
            _ => 0..0,
        };
        Some(slots.chunks(2).map(range).collect())
    }

    fn gave_up(&self) -> GaveUp {
        GaveUp { span: self.span }
    }
}

impl Regex {
    pub fn hint(&self) -> Hint {
        self.pattern.hint
    }

    pub fn is_match(&self, subject: &[u8]) -> Result<bool, GaveUp> {
        self.pattern.is_match(subject)
    }

    /// Matches and gives the groups.
    pub fn captures(&self, subject: &[u8]) -> Result<Option<Groups>, GaveUp> {
        self.pattern.captures(subject)
    }

    /// Like [`Pattern::search`].
    pub fn search<S: Scope>(&self, scope: &mut S, subject: &[u8]) -> Option<Groups> {
        self.pattern.search(scope, subject)
    }

    /// Matches for a scope, which keeps the groups of a match.
    pub fn find<S: Scope>(&self, scope: &mut S, subject: &[u8]) -> Option<Groups> {
        let groups = self.search(scope, subject)?;
        self.keep(scope, subject, &groups);
        Some(groups)
    }

    /// Keeps all groups of a match, numbered and named.
    pub fn keep<S: Scope>(&self, scope: &mut S, subject: &[u8], groups: &Groups) {
        scope.values_mut().captures.set(subject, groups.iter().cloned());
        self.keep_named(scope, subject, groups);
    }

    /// Keeps the named groups of a match.
    pub fn keep_named<S: Scope>(&self, scope: &mut S, subject: &[u8], groups: &Groups) {
        for (slot, index) in &self.slots {
            let value = groups.get(*index).and_then(|range| subject.get(range.clone())).unwrap_or(b"");
            scope.set_slot(*slot, value.to_vec());
        }
    }
}

/// Logs that an expression gave up, and notes it in the scope's values.
#[cold]
pub fn give_up<S: Scope>(scope: &mut S, error: GaveUp) {
    let place = scope.places().name(error.span);
    log::error!(
        scope.logger(),
        &*scope,
        "the regular expression in {place} gave up after {BACKTRACK_LIMIT} steps"
    );
    scope.values_mut().gave_up = true;
}

fn backtracking(
    ours: &dialect::Translated,
    caseless: bool,
    bytes_max: usize,
) -> Result<fancy_regex::Regex, fancy_regex::Error> {
    let mode = if ours.is_utf { fancy_regex::BytesMode::UnicodeBytes } else { fancy_regex::BytesMode::Ascii };
    let mut builder = fancy_regex::RegexBuilder::new(&ours.text);
    builder.bytes_mode(mode).unicode_mode(ours.is_utf).case_insensitive(caseless);
    builder.backtrack_limit(BACKTRACK_LIMIT).delegate_size_limit(bytes_max).build()
}

fn named<'a>(names: impl Iterator<Item = Option<&'a str>>) -> Vec<(Box<str>, usize)> {
    names.enumerate().filter_map(|(index, name)| Some((name?.into(), index))).collect()
}

/// The error in one line, without the pattern.
fn kind(error: &regex_syntax::Error) -> String {
    match error {
        regex_syntax::Error::Parse(error) => error.kind().to_string(),
        regex_syntax::Error::Translate(error) => error.kind().to_string(),
        other => other.to_string().lines().last().unwrap_or_default().to_owned(),
    }
}

fn without_place(error: &fancy_regex::Error) -> String {
    let text = match error {
        fancy_regex::Error::ParseError(_, error) => error.to_string(),
        fancy_regex::Error::CompileError(error) => error.to_string(),
        other => other.to_string(),
    };
    text.lines().last().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
