//! Values that an inner block inherits from the outer one when it does not set them (nginx's merge).

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
    /// Sets the value in this block. False, and nothing changed, when it is already set here
    /// (nginx: "directive is duplicate").
    #[must_use]
    pub fn set(&mut self, value: T, span: Span) -> bool {
        if self.0.is_some() {
            return false;
        }
        self.0 = Some((value, span));
        true
    }

    /// The same for a directive that may stand once in a block. Errors: it stands there already.
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

    /// Where the value in force was written; `None` for a default.
    pub fn span(&self) -> Option<Span> {
        self.0.as_ref().map(|(_, span)| *span)
    }

    pub fn or<'a>(&'a self, default: &'a T) -> &'a T {
        self.as_ref().unwrap_or(default)
    }
}

impl<T: Copy> Inherit<T> {
    /// The value in force, or the directive's default.
    pub fn get(&self, default: T) -> T {
        self.0.as_ref().map_or(default, |(value, _)| *value)
    }
}

impl<T: Clone> Inherit<T> {
    /// Takes the outer block's value where this block has none.
    pub fn merge(&mut self, outer: &Self) {
        if self.0.is_none() {
            self.0.clone_from(&outer.0);
        }
    }
}

/// `"x" directive is duplicate`: what a setter says to a directive that may stand once in a block.
pub fn duplicate(node: &Node) -> Diagnostic {
    Diagnostic::error(node.name.span, format!("\"{}\" directive is duplicate", node.name.text))
}

/// A module's settings in one block, completed from the block around it. Called once per block, outermost first.
pub trait Merge {
    fn merge(&mut self, outer: &Self);
}

/// A list directive (`add_header`, `proxy_set_header`): a block that sets any of it replaces the whole list.
pub fn replace<T: Clone>(own: &mut Vec<T>, outer: &[T]) {
    if own.is_empty() {
        own.extend_from_slice(outer);
    }
}
