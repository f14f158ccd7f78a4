//! The configuration language: two spellings (nginx's and TOML), one tree, tables that compile it.
//!
//! Knows no module: what a directive means is in the tables of the rooms above
//! (`docs/architecture.md` §3). Reads files while parsing; touches nothing else.

pub mod diagnostic;
pub mod directive;
pub mod inherit;
pub mod tree;

pub use diagnostic::{Diagnostic, Diagnostics, Severity};
pub use directive::{Arity, Context, Directive, Kind};
pub use inherit::{Inherit, Merge};
pub use tree::{FileId, Node, Span, Tree, Word};
