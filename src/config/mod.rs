//! The configuration language: two spellings (nginx's and TOML), one tree, and tables that compile it.
//!
//! Knows no module: the meaning of a directive is in the tables of the rooms above (`docs/architecture.md`
//! §3). Reads files while parsing; touches nothing else.

pub mod absent;
mod comments;
pub mod convert;
pub mod diagnostic;
pub mod directive;
pub mod document;
pub mod dump;
pub mod effective;
pub mod field;
pub mod inherit;
pub mod lexer;
pub mod load;
pub mod needs;
pub mod params;
mod parse;
#[cfg(any(test, feature = "property"))]
pub mod property;
pub mod render;
pub mod rows;
pub mod table;
mod toml;
pub mod tree;

pub use diagnostic::{Diagnostic, Diagnostics, HasDiagnostics, Severity};
pub use directive::{Arity, Context, Directive, Inherits, Kind};
pub use dump::dump;
pub use effective::effective;
pub use field::Keyword;
pub(crate) use field::keywords;
pub(crate) use inherit::settings;
pub use inherit::{Inherit, Merge, Setting};
pub use load::{LoadOptions, load, load_text};
pub use render::render;
pub use rows::{Cell, Entry};
pub use table::{Module, RowInfo, Shape, Slot, Table};
pub use tree::{Block, FileId, Node, Place, Places, Source, Span, Text, Tree, Word};
