//! Scripts: variables, values made of them, regular expressions and the groups they capture.
//!
//! Knows no protocol. A language part (`http`, `stream`) says what its variables are asked of by implementing
//! [`Scope`], and what its directives are read into by implementing [`Compile`]; the types here are generic over the first,
//! the functions that read a configuration over the second. A part fixes `S` once, so that nothing is looked up at run time.
//! Touches: the scope's values and logger. Behaviour: nginx's ngx_http_script.c, ngx_http_variables.c and their twins of
//! `stream`, which are near copies of each other.

pub mod captures;
pub mod file_path;
pub mod geo;
pub mod geoip2;
pub mod keyval;
pub mod map;
pub mod regex;
pub mod registry;
pub mod split_clients;
#[cfg(test)]
pub mod toy;
pub mod value;
pub mod variable;

use std::borrow::Cow;
use std::net::IpAddr;

use crate::base::network::Network;
use crate::config::{HasDiagnostics, Places};
use crate::log::{self, Logger};
use crate::script::captures::Captures;
use crate::script::registry::{Registry, Variables};
use crate::script::variable::VariableId;
use crate::sys::address::SockAddr;

/// The thing that variables are about: an HTTP request, a stream session.
///
/// It owns [`Values`], which the code here reads and writes through [`Scope::values`] and [`Scope::values_mut`]; no other
/// room needs to know what they hold. As a [`log::Context`] it is named in the messages about its own values.
pub trait Scope: log::Context + Sized + 'static {
    /// Proxies in front have a way of their own to name a client, as with `X-Forwarded-For`, which `geo` may trust.
    const HAS_NAMED_CLIENTS: bool = false;

    /// All variables of the configuration in force.
    fn variables(&self) -> &'static Variables<Self>;

    fn values(&self) -> &Values;

    fn values_mut(&mut self) -> &mut Values;

    /// The client's address: the socket's peer, or the one that a trusted proxy names.
    fn peer(&self) -> &SockAddr;

    /// The error log in force.
    fn logger(&self) -> Logger;

    /// The lines of the configuration's files, to name directives by.
    fn places(&self) -> &'static Places;

    /// The client that the proxy at the address `peer` names in that way, where it is one of those that are trusted.
    fn named_client(
        &self,
        _trusted: &[Network],
        _is_recursive: bool,
        _peer: Option<IpAddr>,
    ) -> Option<IpAddr> {
        None
    }

    /// Appends the value of a variable; false when it has none.
    #[inline]
    fn variable(&mut self, id: VariableId, out: &mut Vec<u8>) -> bool {
        self.variables().get(id).evaluate(self, out)
    }

    /// The value that was stored in a slot.
    #[inline]
    fn slot(&self, index: usize) -> Option<&[u8]> {
        self.values().slots.get(index)?.as_deref()
    }

    /// Stores a value in a slot. The first one of a scope makes room for all.
    fn set_slot(&mut self, index: usize, value: impl Into<Cow<'static, [u8]>>) {
        let count = self.variables().slot_count();
        let slots = &mut self.values_mut().slots;
        if slots.is_empty() {
            slots.resize(count, None);
        }
        if let Some(slot) = slots.get_mut(index) {
            *slot = Some(value.into());
        }
    }
}

/// The compile context of a language part: what all its setters share while a configuration is read.
pub trait Compile: HasDiagnostics {
    type Scope: Scope;

    fn variables(&mut self) -> &mut Registry<Self::Scope>;
}

/// The slots of a scope, by the numbers that the registry has given out.
pub type Slots = Vec<Option<Cow<'static, [u8]>>>;

/// The values that a scope keeps for as long as it lives.
#[derive(Debug, Default)]
pub struct Values {
    /// `$1` to `$9`.
    pub captures: Captures,
    /// A regular expression has come to its limit: it is not known whether it matches. The code that runs
    /// the scope's phases fails the scope, and clears the flag.
    pub gave_up: bool,
    /// The values of `set`, `map` and named groups; empty until the first of them.
    slots: Slots,
    /// Variables that are made out of others just now ([`nested`]).
    nesting: u8,
}

impl Values {
    /// A cycle of variables was met, and not all that led to it has ended.
    pub fn leaves_cycle(&self) -> bool {
        self.nesting == NESTING_BROKEN
    }

    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// All stored values, for [`Values::set_slots`] of another scope of the same configuration.
    pub fn take_slots(&mut self) -> Slots {
        std::mem::take(&mut self.slots)
    }

    pub fn set_slots(&mut self, slots: Slots) {
        self.slots = slots;
    }
}

/// The depth to which variables may be made out of each other; nginx's limit.
const NESTING_MAX: u8 = 100;
/// A cycle was met: nothing is evaluated before all that led to it has ended.
const NESTING_BROKEN: u8 = u8::MAX;

/// Evaluates what the value of the variable `name` is made of: other variables, whose values may be made so in turn.
///
/// Every getter that evaluates a [`Script`](value::Script) does it in here, so that variables which lead back to
/// themselves end: with a line in the log, and without a value. `R::default()` stands for what was not evaluated.
pub fn nested<S: Scope, R: Default>(scope: &mut S, name: &str, evaluate: impl FnOnce(&mut S) -> R) -> R {
    let nesting = scope.values().nesting;
    if nesting >= NESTING_MAX {
        if nesting != NESTING_BROKEN {
            log::error!(scope.logger(), &*scope, "cycle while evaluating variable \"{name}\"");
            scope.values_mut().nesting = NESTING_BROKEN;
        }
        return R::default();
    }
    scope.values_mut().nesting += 1;
    let value = evaluate(scope);
    // on the way out of a cycle only the outermost one clears the way: with two references each there are 2^100 ways in
    let values = scope.values_mut();
    if values.nesting != NESTING_BROKEN || nesting == 0 {
        values.nesting = nesting;
    }
    value
}

#[cfg(test)]
mod tests;
