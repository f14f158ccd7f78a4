//! The rows of the directive tables: name, contexts, arity, setter, inheritance, and documentation.
//!
//! A row is generic over the module's settings in one block (`C`) and the compile context `X` of its language
//! part (main, http, stream). Everything except the setter is plain data, from which the manual,
//! did-you-mean, conversion and `-T` follow.

use std::fmt;

use crate::config::field::{Field, KeywordField};
use crate::config::{Diagnostic, Node};

/// A set of blocks in which a directive is allowed.
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
    /// Blocks that replace the location around them under a condition.
    pub const CONDITIONAL: Self = Self::LOCATION_IF.or(Self::LIMIT_EXCEPT);
    pub const UPSTREAM: Self = Self(1 << 8);
    pub const MATCH: Self = Self(1 << 9);
    /// `acme_issuer`.
    pub const ISSUER: Self = Self(1 << 10);
    /// `otel_exporter`.
    pub const EXPORTER: Self = Self(1 << 11);
    /// `oidc_provider`.
    pub const PROVIDER: Self = Self(1 << 12);
    pub const STREAM: Self = Self(1 << 16);
    pub const STREAM_SERVER: Self = Self(1 << 17);
    pub const STREAM_UPSTREAM: Self = Self(1 << 18);
    pub const STREAM_MATCH: Self = Self(1 << 19);
    pub const MAIL: Self = Self(1 << 20);
    pub const MAIL_SERVER: Self = Self(1 << 21);
    /// mail and its servers: the contexts of nearly all directives of that block.
    pub const IN_MAIL: Self = Self::MAIL.or(Self::MAIL_SERVER);
    /// stream and its servers: the contexts of most directives of that block.
    pub const IN_STREAM: Self = Self::STREAM.or(Self::STREAM_SERVER);
    /// http, server and location: the contexts of most directives.
    pub const ANY: Self = Self::HTTP.or(Self::SERVER).or(Self::LOCATION);

    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// nginx's names of the contexts in this set, outermost first.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        const NAMES: [(Context, &str); 19] = [
            (Context::MAIN, "main"),
            (Context::EVENTS, "events"),
            (Context::HTTP, "http"),
            (Context::UPSTREAM, "upstream"),
            (Context::MATCH, "match"),
            (Context::ISSUER, "acme_issuer"),
            (Context::EXPORTER, "otel_exporter"),
            (Context::PROVIDER, "oidc_provider"),
            (Context::SERVER, "server"),
            (Context::SERVER_IF, "if in server"),
            (Context::LOCATION, "location"),
            (Context::LOCATION_IF, "if in location"),
            (Context::LIMIT_EXCEPT, "limit_except"),
            (Context::STREAM, "stream"),
            (Context::STREAM_UPSTREAM, "upstream in stream"),
            (Context::STREAM_SERVER, "server in stream"),
            (Context::STREAM_MATCH, "match in stream"),
            (Context::MAIL, "mail"),
            (Context::MAIL_SERVER, "server in mail"),
        ];
        NAMES.into_iter().filter(move |(context, _)| self.contains(*context)).map(|(_, name)| name)
    }
}

/// Written as `http, server or location`.
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

/// The number of arguments that a directive takes, both ends included.
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

/// Written as `1 argument`, `1 to 3 arguments`, `at least 2 arguments`.
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

/// The type of a directive's arguments, and the field for the value. A slot finds the field in the settings;
/// the field has the default, if there is one ([`crate::config::Setting`]).
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
    /// One word, unchanged.
    Text(FieldOf<C, Box<str>>),
    /// One of the words of an enum.
    Keyword(fn(&mut C) -> &mut dyn KeywordField),
    /// A custom setter of the module; also for directives that may be repeated.
    Custom(fn(&mut C, &mut X, &Node) -> Result<(), Diagnostic>),
    /// A directive with a block; the setter compiles its content.
    Block(fn(&mut C, &mut X, &Node) -> Result<(), Diagnostic>),
    /// Parsed and checked as in nginx but without effect here, as the manual says.
    Accepted(Accepted),
}

/// Finds the field that a row sets.
pub type FieldOf<C, T> = fn(&mut C) -> &mut dyn Field<T>;

/// The blocks, other than the one that sets it, in which a directive's value applies. Lists are inherited as
/// a whole: a block that adds an item inherits none from the outer block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inherits {
    /// In every inner block that does not set it.
    Everywhere,
    /// The same, but the directive is part of a list of several directives, named after the first: setting
    /// one replaces them all.
    List(&'static str),
    /// Only in blocks that replace the one around them under a condition (an `if` in a location): for content
    /// handlers.
    Conditional,
    /// In no other block: steps that are executed where they are written.
    Nowhere,
}

/// The kinds of blocks that a directive opens, each by the kind of the outer block. Empty if its content is
/// data (`map`, `types`) or if it has none.
pub type Opens = &'static [(Context, Context)];

/// The check on the arguments of a directive without effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    Flag,
    Number,
    Size,
    Millis,
    /// A count and a size: `8 4k`.
    Buffers,
    Words,
    /// One of these words, checked with the message that nginx has for an enum.
    Keyword(&'static [&'static str]),
    /// One of these words; one that ends with `=` is a prefix of the argument.
    OneOf(&'static [&'static str]),
    /// Bytes, or this word.
    SizeOr(&'static str),
    /// Any words; the directive may be repeated in a block.
    List,
    /// Any words. The first is a name, which must be unique; the text is nginx's term for the named thing.
    Named(&'static str),
}

/// One row of a module's table.
pub struct Directive<C: 'static, X: 'static> {
    pub name: &'static str,
    pub contexts: Context,
    pub arity: Arity,
    pub kind: Kind<C, X>,
    /// The documentation: one sentence or more.
    pub doc: &'static str,
    /// The default in words, if no field has it.
    pub default: Option<&'static str>,
    /// `None`: as for the other rows of the module.
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

    /// States the default in words, for a row whose field does not have it: it is computed, or set by a
    /// custom setter.
    #[must_use]
    pub const fn default(mut self, words: &'static str) -> Self {
        self.default = Some(words);
        self
    }

    /// Sets a way of inheriting that differs from the rest of the module.
    #[must_use]
    pub const fn inherits(mut self, how: Inherits) -> Self {
        self.inherits = Some(how);
        self
    }

    /// Sets the kinds of blocks that the directive opens.
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
