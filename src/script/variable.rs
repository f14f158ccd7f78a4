//! Variables as modules declare them, and what the value of one is made of once everything is read.
//!
//! Touches: the scope. A module's variables are the rows of its `VARIABLES`, with the line of documentation that the manual
//! prints. Behaviour: nginx.org, "Alphabetical index of variables".

use std::fmt;

use crate::script::Scope;
use crate::script::geo::Geo;
use crate::script::geoip2::Geoip2;
use crate::script::keyval::Keyval;
use crate::script::map::Map;
use crate::script::split_clients::Split;

/// Index of a variable in [`Variables`](super::registry::Variables).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VariableId(pub(super) u32);

/// A getter's argument, besides the scope.
#[derive(Clone, Debug, Default)]
pub struct Argument {
    /// The rest of a prefix variable's name: `user_agent` of `$http_user_agent`.
    pub name: Box<str>,
}

/// Appends the value to `out`; false: the variable has no value now (`-` in the access log).
pub type Getter<S> = fn(&mut S, &Argument, &mut Vec<u8>) -> bool;

/// Does what a new value of a module's variable means.
pub type Setter<S> = fn(&mut S, Vec<u8>);

/// Logs that a variable is used before any `set` has given it a value.
pub type Uninitialized<S> = fn(&S, &str);

/// How the configuration may give a module's variable another value.
pub enum Change<S> {
    Never,
    /// The new value is kept for the scope's life and hides the module's.
    Kept,
    /// `set` changes the scope itself.
    By(Setter<S>),
}

/// One variable that a module declares.
pub struct Variable<S: 'static> {
    /// The whole name, or for prefix variables its beginning with the underscore.
    pub name: &'static str,
    pub prefix: bool,
    pub get: Getter<S>,
    pub change: Change<S>,
    /// One line for the manual: what it holds.
    pub doc: &'static str,
}

pub const fn variable<S>(name: &'static str, get: Getter<S>, doc: &'static str) -> Variable<S> {
    Variable { name, prefix: false, get, change: Change::Never, doc }
}

/// A family of variables with a common beginning: `arg_`, `http_`, `cookie_`.
pub const fn prefix<S>(name: &'static str, get: Getter<S>, doc: &'static str) -> Variable<S> {
    Variable { name, prefix: true, get, change: Change::Kept, doc }
}

/// A variable that `set`, `map` and their kind may hide behind a value of their own.
pub const fn replaceable<S>(name: &'static str, get: Getter<S>, doc: &'static str) -> Variable<S> {
    Variable { name, prefix: false, get, change: Change::Kept, doc }
}

/// A variable that `set`, `map` and their kind may give another value.
pub const fn changeable<S>(
    name: &'static str,
    get: Getter<S>,
    change: Change<S>,
    doc: &'static str,
) -> Variable<S> {
    Variable { name, prefix: false, get, change, doc }
}

impl<S> Variable<S> {
    /// True for the variable of this name, and for the family that has one of this name.
    pub(super) fn matches(&self, name: &str) -> bool {
        if self.prefix { name.starts_with(self.name) } else { name == self.name }
    }

    /// The variable of this name, which [`Variable::matches`].
    pub(super) fn definition(&self, name: &str) -> Definition<S> {
        match &name[self.name.len()..] {
            "" if self.prefix => Definition::Nothing, // a bare `$arg_` names no argument
            rest => {
                let name = rest.to_ascii_lowercase().into();
                Definition::Module(self.get, Argument { name })
            }
        }
    }
}

/// The source of a variable's value.
///
/// The blocks that make variables (`map`, `geo`, `geoip2`, `split_clients`, `keyval`) are kinds of definitions, so that a value is found
/// without asking any other table than that of the variables.
pub enum Definition<S: 'static> {
    /// A module's getter.
    Module(Getter<S>, Argument),
    /// The value that `set` or a captured group has stored, else that of the definition behind it.
    Slot {
        index: usize,
        otherwise: Box<Definition<S>>,
    },
    Map(Box<Map<S>>),
    Geo(Box<Geo<S>>),
    Geoip2(Box<Geoip2<S>>),
    Split(Box<Split<S>>),
    Keyval(Box<Keyval<S>>),
    /// Some `set` gives it a value, and none has yet: empty, which is worth a warning.
    Uninitialized {
        name: Box<str>,
        slot: usize,
        warn: Uninitialized<S>,
    },
    /// Never anything.
    Nothing,
}

impl<S: Scope> Definition<S> {
    /// Appends the value; false: there is none now.
    #[inline]
    pub fn evaluate(&'static self, scope: &mut S, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Module(get, argument) => get(scope, argument, out),
            other => other.evaluate_own(scope, out),
        }
    }

    /// The same for what no module defines.
    fn evaluate_own(&'static self, scope: &mut S, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Module(get, argument) => get(scope, argument, out),
            Self::Slot { index, otherwise } => match scope.slot(*index) {
                Some(value) => {
                    out.extend_from_slice(value);
                    true
                }
                None => otherwise.evaluate(scope, out),
            },
            Self::Map(map) => map.evaluate(scope, out),
            Self::Geo(geo) => geo.evaluate(scope, out),
            Self::Geoip2(geoip2) => geoip2.evaluate(scope, out),
            Self::Split(split) => split.evaluate(scope, out),
            Self::Keyval(keyval) => keyval.evaluate(scope, out),
            Self::Uninitialized { name, slot, warn } => {
                warn(scope, name);
                scope.set_slot(*slot, Vec::new()); // one warning is enough
                true
            }
            Self::Nothing => false,
        }
    }
}

impl<S: Scope> fmt::Debug for Definition<S> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Module(_, argument) => out.debug_tuple("Module").field(argument).finish(),
            Self::Slot { index, otherwise } => out.debug_tuple("Slot").field(index).field(otherwise).finish(),
            Self::Map(map) => out.debug_tuple("Map").field(&map.name()).finish(),
            Self::Geo(geo) => out.debug_tuple("Geo").field(&geo.name()).finish(),
            Self::Geoip2(geoip2) => out.debug_tuple("Geoip2").field(&geoip2.name()).finish(),
            Self::Split(split) => out.debug_tuple("Split").field(&split.name()).finish(),
            Self::Keyval(keyval) => out.debug_tuple("Keyval").field(&keyval.name()).finish(),
            Self::Uninitialized { name, .. } => out.debug_tuple("Uninitialized").field(name).finish(),
            Self::Nothing => out.write_str("Nothing"),
        }
    }
}

/// Appends the value of a variable; false if it has none.
pub fn put(value: Option<&str>, out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(value.unwrap_or_default().as_bytes());
    value.is_some()
}
