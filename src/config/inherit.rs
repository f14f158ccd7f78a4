//! Values that an inner block inherits from the outer one unless it sets them (nginx's merge).
//!
//! [`Inherit`] holds a value that may be absent, [`Setting`] one that has a default. [`settings!`] declares a
//! module's settings, each with its type, its default and its inheritance, so that each of these is written
//! once and none can be forgotten.

use crate::config::{Diagnostic, Node, Span};

/// A directive's value in one block: unset, or set at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inherit<T>(Option<(T, Span)>);

impl<T> Default for Inherit<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Inherit<T> {
    /// Sets the value in this block. False if it is already set here (nginx: "directive is duplicate"); then
    /// nothing changes.
    #[must_use]
    pub fn set(&mut self, value: T, span: Span) -> bool {
        if self.0.is_some() {
            return false;
        }
        self.0 = Some((value, span));
        true
    }

    /// The same for a directive that is allowed once per block. Fails if it is set already.
    pub fn put(&mut self, value: T, node: &Node) -> Result<(), Diagnostic> {
        if self.set(value, node.span) { Ok(()) } else { Err(duplicate(node)) }
    }

    pub fn as_ref(&self) -> Option<&T> {
        self.0.as_ref().map(|(value, _)| value)
    }

    pub fn as_mut(&mut self) -> Option<&mut T> {
        self.0.as_mut().map(|(value, _)| value)
    }

    pub fn is_set(&self) -> bool {
        self.0.is_some()
    }

    /// The place where the effective value was written; `None` for a default.
    pub fn span(&self) -> Option<Span> {
        self.0.as_ref().map(|(_, span)| *span)
    }

    pub fn or<'a>(&'a self, default: &'a T) -> &'a T {
        self.as_ref().unwrap_or(default)
    }
}

impl<T: Copy> Inherit<T> {
    /// The effective value, or the given default.
    pub fn get(&self, default: T) -> T {
        self.0.as_ref().map_or(default, |(value, _)| *value)
    }
}

/// Takes the outer block's value if this block has none.
impl<T: Clone> Merge for Inherit<T> {
    fn merge(&mut self, outer: &Self) {
        if self.0.is_none() {
            self.0.clone_from(&outer.0);
        }
    }
}

/// A directive's value in one block: set at a place, or the default.
///
/// The default is written only where the field is declared, `Setting::new(60_000)`; the manual takes it from
/// the field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting<T> {
    value: T,
    /// `None`: the value is the default.
    span: Option<Span>,
}

impl<T> Setting<T> {
    pub const fn new(default: T) -> Self {
        Self { value: default, span: None }
    }

    /// Sets the value in this block. False if it is already set here (nginx: "directive is duplicate"); then
    /// nothing changes.
    #[must_use]
    pub fn set(&mut self, value: T, span: Span) -> bool {
        if self.is_set() {
            return false;
        }
        *self = Self { value, span: Some(span) };
        true
    }

    /// The same for a directive that is allowed once per block. Fails if it is set already.
    pub fn put(&mut self, value: T, node: &Node) -> Result<(), Diagnostic> {
        if self.set(value, node.span) { Ok(()) } else { Err(duplicate(node)) }
    }

    /// The effective value.
    #[inline]
    pub fn value(&self) -> &T {
        &self.value
    }

    pub fn is_set(&self) -> bool {
        self.span.is_some()
    }

    /// The place where the effective value was written; `None` for a default.
    pub fn span(&self) -> Option<Span> {
        self.span
    }
}

impl<T: Copy> Setting<T> {
    /// The effective value.
    #[inline]
    pub fn get(&self) -> T {
        self.value
    }
}

/// Takes the outer block's value if this block has none.
impl<T: Clone> Merge for Setting<T> {
    fn merge(&mut self, outer: &Self) {
        if !self.is_set() {
            self.clone_from(outer);
        }
    }
}

/// `"x" directive is duplicate`: the error for a second directive where only one is allowed per block.
pub fn duplicate(node: &Node) -> Diagnostic {
    Diagnostic::error(node.name.span, format!("\"{}\" directive is duplicate", node.name.text))
}

/// Completes a block's settings from the block around it. Called once per block, outermost first.
pub trait Merge {
    fn merge(&mut self, outer: &Self);
}

/// Inherits a list directive (`add_header`, `proxy_set_header`): a block that sets any item replaces the
/// whole list.
pub fn replace<T: Clone>(own: &mut Vec<T>, outer: &[T]) {
    if own.is_empty() {
        own.extend_from_slice(outer);
    }
}

/// A field with an initial value, which `= value` in [`settings!`] sets.
pub trait Initial<T> {
    fn initial(value: T) -> Self;
}

impl<T> Initial<T> for Setting<T> {
    fn initial(default: T) -> Self {
        Self::new(default)
    }
}

/// For a field that is not inherited: the block's own content, or a value computed from other fields.
pub fn own<T>(_: &mut T, _: &T) {}

/// For a field that is inherited together with others, by the function after `then`.
pub fn together<T>(_: &mut T, _: &T) {}

/// Declares a module's settings in one block, with `Default` and [`Merge`]. Each field is written once:
///
/// ```text
/// level: Setting<u64> = 6,                  a default; inherited
/// types: MediaTypes,                        its own `Default` and `Merge`
/// fields: Vec<Field> => replace,            inherited as this function says
/// search: Option<Arc<Search>> => own,       not inherited
/// ```
///
/// A struct may have one parameter, the scope of its scripts: `pub struct Settings<S> {`.
///
/// If inheriting must look at several fields at once, `then function` follows the struct. The function is
/// called last, with the block's settings and the outer ones.
macro_rules! settings {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident $(<$scope:ident>)? {
            $($(#[$about:meta])* $access:vis $field:ident: $type:ty $(= $default:expr)? $(=> $inherit:path)?),* $(,)?
        }
        $(then $then:path)?
    ) => {
        $(#[$meta])*
        $vis struct $name $(<$scope>)? {
            $($(#[$about])* $access $field: $type,)*
        }

        impl $(<$scope>)? Default for $name $(<$scope>)? {
            fn default() -> Self {
                Self { $($field: $crate::config::settings!(@default $($default)?),)* }
            }
        }

        impl $(<$scope>)? $crate::config::Merge for $name $(<$scope>)? {
            fn merge(&mut self, outer: &Self) {
                let _ = outer;
                $($crate::config::settings!(@merge (&mut self.$field, &outer.$field) $($inherit)?);)*
                $($then(self, outer);)?
            }
        }
    };
    (@default) => { Default::default() };
    (@default $default:expr) => { $crate::config::inherit::Initial::initial($default) };
    (@merge ($own:expr, $outer:expr)) => { $crate::config::Merge::merge($own, $outer) };
    (@merge ($own:expr, $outer:expr) $inherit:path) => { $inherit($own, $outer) };
}
pub(crate) use settings;

#[cfg(test)]
mod tests {
    use super::*;

    settings! {
        #[derive(Clone, Debug, PartialEq)]
        struct Conf {
            timeout_ms: Setting<u64> = 60_000,
            name: Inherit<Box<str>>,
            fields: Vec<u8> => replace,
            /// Computed.
            count: usize => own,
            is_off: bool => together,
        }
        then switch_off
    }

    /// Anything that is off in the outer block is off in an inner one without fields of its own.
    fn switch_off(conf: &mut Conf, outer: &Conf) {
        conf.is_off |= outer.is_off && conf.fields == outer.fields;
    }

    fn at(start: u32) -> Span {
        Span { start, ..Span::default() }
    }

    #[test]
    fn a_block_has_the_defaults_until_something_is_set() {
        let mut conf = Conf::default();
        assert_eq!((conf.timeout_ms.get(), conf.timeout_ms.span()), (60_000, None));
        assert_eq!((conf.name.as_ref(), conf.count), (None, 0));
        assert!(conf.timeout_ms.set(0, at(1)));
        assert!(!conf.timeout_ms.set(5, at(2)), "once in a block");
        assert_eq!((conf.timeout_ms.get(), conf.timeout_ms.span()), (0, Some(at(1))));
    }

    #[test]
    fn an_inner_block_takes_what_it_does_not_set() {
        let mut outer = Conf { fields: vec![1, 2], count: 3, is_off: true, ..Conf::default() };
        assert!(outer.timeout_ms.set(5, at(1)) && outer.name.set("outer".into(), at(2)));

        let mut empty = Conf::default();
        empty.merge(&outer);
        assert_eq!(empty, Conf { count: 0, ..outer.clone() }, "all but what is its own");

        let mut inner = Conf { fields: vec![3], ..Conf::default() };
        assert!(inner.timeout_ms.set(60_000, at(3)), "the default, but written down");
        inner.merge(&outer);
        assert_eq!((inner.timeout_ms.get(), inner.timeout_ms.span()), (60_000, Some(at(3))));
        assert_eq!((&*inner.fields, inner.name.span(), inner.is_off), (&[3][..], Some(at(2)), false));
    }

    #[test]
    fn a_default_further_out_is_still_a_default() {
        let mut inner = Conf::default();
        inner.merge(&Conf::default());
        assert!(!inner.timeout_ms.is_set() && inner.timeout_ms.get() == 60_000);
        assert!(inner.timeout_ms.set(1, at(1)));
    }
}
