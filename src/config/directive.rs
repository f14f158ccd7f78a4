//! The rows of the directive tables: name, contexts, arity, setter, how it inherits, and one line of documentation.
//!
//! A row is generic over the module's `C` (its settings in one block) and the compile context `X` of the
//! language part it belongs to (main, http, stream). Everything that is not the setter is plain data, so
//! the manual, did-you-mean, conversion and `-T` follow from the row.

use std::fmt;

use crate::config::field::{Field, KeywordField};
use crate::config::{Diagnostic, Node};

/// The set of blocks in which a directive may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context(pub u32);

impl Context {
    pub const MAIN: Self = Self(1);
    pub const EVENTS: Self = Self(1 << 1);
    pub const HTTP: Self = Self(1 << 2);
    pub const SERVER: Self = Self(1 << 3);
    pub const LOCATION: Self = Self(1 << 4);
    /// `if` inside a `server`.
    pub const SERVER_IF: Self = Self(1 << 5);
    /// `if` inside a `location`.
    pub const LOCATION_IF: Self = Self(1 << 6);
    pub const LIMIT_EXCEPT: Self = Self(1 << 7);
    /// Blocks that stand for the location around them under a condition.
    pub const CONDITIONAL: Self = Self::LOCATION_IF.or(Self::LIMIT_EXCEPT);
    pub const UPSTREAM: Self = Self(1 << 8);
    /// http, server and location: where most directives may stand.
    pub const ANY: Self = Self::HTTP.or(Self::SERVER).or(Self::LOCATION);

    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The contexts of this set by nginx's names, outermost first.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        const NAMES: [(Context, &str); 9] = [
            (Context::MAIN, "main"),
            (Context::EVENTS, "events"),
            (Context::HTTP, "http"),
            (Context::UPSTREAM, "upstream"),
            (Context::SERVER, "server"),
            (Context::SERVER_IF, "if in server"),
            (Context::LOCATION, "location"),
            (Context::LOCATION_IF, "if in location"),
            (Context::LIMIT_EXCEPT, "limit_except"),
        ];
        NAMES.into_iter().filter(move |(context, _)| self.contains(*context)).map(|(_, name)| name)
    }
}

/// `http, server or location`.
impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.names().collect();
        match &names[..] {
            [] => f.write_str("no block"),
            [one] => f.write_str(one),
            [first @ .., last] => write!(f, "{} or {last}", first.join(", ")),
        }
    }
}

/// How many arguments a directive takes, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arity {
    pub min: u8,
    pub max: u8,
}

impl Arity {
    /// No upper limit.
    pub const MANY: u8 = u8::MAX;

    pub const fn exactly(count: u8) -> Self {
        Self { min: count, max: count }
    }

    pub const fn between(min: u8, max: u8) -> Self {
        Self { min, max }
    }

    pub const fn at_least(min: u8) -> Self {
        Self { min, max: Self::MANY }
    }

    pub const fn accepts(self, count: usize) -> bool {
        count >= self.min as usize && (self.max == Self::MANY || count <= self.max as usize)
    }
}

/// `1 argument`, `1 to 3 arguments`, `at least 2 arguments`.
impl fmt::Display for Arity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |count| if count == 1 { "" } else { "s" };
        match (self.min, self.max) {
            (0, 0) => f.write_str("no arguments"),
            (0, Self::MANY) => f.write_str("any number of arguments"),
            (min, Self::MANY) => write!(f, "at least {min} argument{}", plural(min)),
            (min, max) if min == max => write!(f, "{min} argument{}", plural(min)),
            (min, max) => write!(f, "{min} to {max} arguments"),
        }
    }
}

/// What a directive's arguments mean and where the value goes. A slot names the field of the settings; the field has
/// the default, if there is one ([`crate::config::Setting`]).
pub enum Kind<C: 'static, X: 'static> {
    /// `on` or `off`.
    Flag(FieldOf<C, bool>),
    /// A whole number in a range.
    Number { min: u64, max: u64, slot: FieldOf<C, u64> },
    /// Bytes: `8k`, `1m`, `1g`.
    Size(FieldOf<C, u64>),
    /// Milliseconds: `1h 30m`, `30s`, `500ms`; a bare number is seconds.
    Millis(FieldOf<C, u64>),
    /// A count and a size of buffers, neither of them zero: `8 4k`.
    Buffers(FieldOf<C, (u64, u64)>),
    /// One word as it stands.
    Text(FieldOf<C, Box<str>>),
    /// One of the words of an enum.
    Keyword(fn(&mut C) -> &mut dyn KeywordField),
    /// A setter of the module's own; also for repeated directives.
    Custom(fn(&mut C, &mut X, &Node) -> Result<(), Diagnostic>),
    /// A directive with a block; the setter compiles what is inside.
    Block(fn(&mut C, &mut X, &Node) -> Result<(), Diagnostic>),
    /// Parsed and checked like nginx, without effect here; the manual says so.
    Accepted(Accepted),
}

/// Finds the field that a row sets.
pub type FieldOf<C, T> = fn(&mut C) -> &mut dyn Field<T>;

/// Where else a directive's value holds than in the block that sets it. Lists are inherited as a whole: a block that
/// sets any of it has none of the outer block's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inherits {
    /// In every block below that does not set it.
    Everywhere,
    /// The same, and this name belongs to one list with others, which is called like the first of them:
    /// to set one is to set all.
    List(&'static str),
    /// In blocks that stand for the one around them under a condition (an `if` in a location), not in others:
    /// what answers a request.
    Conditional,
    /// Nowhere: steps that are carried out where they are written.
    Nowhere,
}

/// The kinds of blocks that a directive opens, each by the kind of block around it. Empty where its content is data
/// (`map`, `types`) or where it has none.
pub type Opens = &'static [(Context, Context)];

/// How the arguments of a directive without effect are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    Flag,
    Number,
    Size,
    Millis,
    /// A count and a size: `8 4k`.
    Buffers,
    Words,
    /// One of these words, for which nginx has an enum and its message.
    Keyword(&'static [&'static str]),
    /// One of these words, which begin the argument where they end with `=`.
    OneOf(&'static [&'static str]),
    /// Bytes, or this word.
    SizeOr(&'static str),
    /// Any words; the directive may stand more than once in a block.
    List,
    /// Any words, of which the first is a name that stands once; with nginx's word for what it names.
    Named(&'static str),
}

/// One row of a module's table.
pub struct Directive<C: 'static, X: 'static> {
    pub name: &'static str,
    pub contexts: Context,
    pub arity: Arity,
    pub kind: Kind<C, X>,
    /// One sentence or more.
    pub doc: &'static str,
    /// The default in words, where no field can tell it.
    pub default: Option<&'static str>,
    /// `None`: like the other rows of the module.
    pub inherits: Option<Inherits>,
    pub opens: Opens,
}

impl<C, X> Directive<C, X> {
    const fn new(
        name: &'static str,
        contexts: Context,
        arity: Arity,
        kind: Kind<C, X>,
        doc: &'static str,
    ) -> Self {
        Self { name, contexts, arity, kind, doc, default: None, inherits: None, opens: &[] }
    }

    /// The default in words, of a row whose field cannot tell it: it is computed, or has a setter of its own.
    #[must_use]
    pub const fn default(mut self, words: &'static str) -> Self {
        self.default = Some(words);
        self
    }

    /// Says that this row is not inherited like the others of its module.
    #[must_use]
    pub const fn inherits(mut self, how: Inherits) -> Self {
        self.inherits = Some(how);
        self
    }

    /// Says which kinds of blocks it opens.
    #[must_use]
    pub const fn opens(mut self, blocks: Opens) -> Self {
        self.opens = blocks;
        self
    }
}

pub const fn flag<C, X>(
    name: &'static str,
    contexts: Context,
    slot: FieldOf<C, bool>,
    doc: &'static str,
) -> Directive<C, X> {
    Directive::new(name, contexts, Arity::exactly(1), Kind::Flag(slot), doc)
}

pub const fn number<C, X>(
    name: &'static str,
    contexts: Context,
    range: (u64, u64),
    slot: FieldOf<C, u64>,
    doc: &'static str,
) -> Directive<C, X> {
    let kind = Kind::Number { min: range.0, max: range.1, slot };
    Directive::new(name, contexts, Arity::exactly(1), kind, doc)
}

pub const fn size<C, X>(
    name: &'static str,
    contexts: Context,
    slot: FieldOf<C, u64>,
    doc: &'static str,
) -> Directive<C, X> {
    Directive::new(name, contexts, Arity::exactly(1), Kind::Size(slot), doc)
}

pub const fn millis<C, X>(
    name: &'static str,
    contexts: Context,
    slot: FieldOf<C, u64>,
    doc: &'static str,
) -> Directive<C, X> {
    Directive::new(name, contexts, Arity::exactly(1), Kind::Millis(slot), doc)
}

pub const fn text<C, X>(
    name: &'static str,
    contexts: Context,
    slot: FieldOf<C, Box<str>>,
    doc: &'static str,
) -> Directive<C, X> {
    Directive::new(name, contexts, Arity::exactly(1), Kind::Text(slot), doc)
}

/// A count and a size.
pub const fn buffers<C, X>(
    name: &'static str,
    contexts: Context,
    slot: FieldOf<C, (u64, u64)>,
    doc: &'static str,
) -> Directive<C, X> {
    Directive::new(name, contexts, Arity::exactly(2), Kind::Buffers(slot), doc)
}

/// One of the words of an enum ([`crate::config::Keyword`]).
pub const fn one_of<C, X>(
    name: &'static str,
    contexts: Context,
    slot: fn(&mut C) -> &mut dyn KeywordField,
    doc: &'static str,
) -> Directive<C, X> {
    Directive::new(name, contexts, Arity::exactly(1), Kind::Keyword(slot), doc)
}

pub const fn custom<C, X>(
    name: &'static str,
    contexts: Context,
    arity: Arity,
    set: fn(&mut C, &mut X, &Node) -> Result<(), Diagnostic>,
    doc: &'static str,
) -> Directive<C, X> {
    Directive::new(name, contexts, arity, Kind::Custom(set), doc)
}

pub const fn block<C, X>(
    name: &'static str,
    contexts: Context,
    arity: Arity,
    set: fn(&mut C, &mut X, &Node) -> Result<(), Diagnostic>,
    doc: &'static str,
) -> Directive<C, X> {
    Directive::new(name, contexts, arity, Kind::Block(set), doc)
}

pub const fn accepted<C, X>(
    name: &'static str,
    contexts: Context,
    arity: Arity,
    check: Accepted,
    doc: &'static str,
) -> Directive<C, X> {
    Directive::new(name, contexts, arity, Kind::Accepted(check), doc)
}
