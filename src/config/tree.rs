//! The directive tree: what both spellings parse to, and what the tables compile.

use std::path::PathBuf;

/// Index of a source in [`Tree::sources`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u32);

/// A place in a source: byte offsets, `end` exclusive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    pub file: FileId,
    pub start: u32,
    pub end: u32,
}

/// One argument (or the name) of a directive, unquoted and unescaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// As meant: quotes and escapes are resolved; `$` of variables is kept.
    pub text: Box<str>,
    pub span: Span,
    /// Stood in quotes (TOML: a string), so that `""` and `off` in quotes can be told apart where it matters.
    pub quoted: bool,
}

/// One directive: `name args… ;` or `name args… { block }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub name: Word,
    pub args: Vec<Word>,
    /// `None`: ended by `;`. `Some`: a block, possibly empty.
    pub block: Option<Vec<Node>>,
    /// From the name to the `;` or the `{`.
    pub span: Span,
}

impl Node {
    /// The text of argument `index`, counted from 0. Arity is checked by the table before a setter runs,
    /// so within the row's minimum this is always the argument; past it, the empty string.
    pub fn arg(&self, index: usize) -> &str {
        self.args.get(index).map_or("", |word| &word.text)
    }

    /// The span of argument `index`, or the directive's where there is no such argument.
    pub fn arg_span(&self, index: usize) -> Span {
        self.args.get(index).map_or(self.span, |word| word.span)
    }

    /// The directives inside, none for a directive without a block.
    pub fn children(&self) -> &[Node] {
        self.block.as_deref().unwrap_or(&[])
    }
}

/// A file (or `-g` text, or the embedded default) as it was read.
#[derive(Clone, Debug)]
pub struct Source {
    /// Absolute; for text that is no file, a name such as `command line`.
    pub path: PathBuf,
    pub text: String,
}

/// A whole configuration: the top-level directives and every source they came from.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    pub sources: Vec<Source>,
    pub nodes: Vec<Node>,
}
