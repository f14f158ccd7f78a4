//! The directive tree: the parsers of both spellings produce it, and the tables compile it.

use std::fmt;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use smallvec::SmallVec;

use crate::config::rows::{Entry, Rows};

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

/// A piece of text, usually a part of its source, with which it shares memory: the words of a large table
/// need no memory of their own.
#[derive(Clone)]
pub struct Text {
    whole: Arc<str>,
    start: u32,
    length: u32,
}

impl Text {
    /// A part of a source; empty if the range is outside.
    pub fn part(whole: &Arc<str>, range: Range<usize>) -> Self {
        let (start, length) = (range.start as u32, (range.end - range.start) as u32);
        Self { whole: whole.clone(), start, length }
    }
}

impl Deref for Text {
    type Target = str;
    fn deref(&self) -> &str {
        let start = self.start as usize;
        self.whole.get(start..start + self.length as usize).unwrap_or("")
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self { whole: text.into(), start: 0, length: text.len() as u32 }
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl From<&Text> for Box<str> {
    fn from(text: &Text) -> Self {
        (**text).into()
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Text {}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&**self, f)
    }
}

/// The name or one argument of a directive, unquoted and unescaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// The value: quotes and escapes are resolved; the `$` of variables is kept.
    pub text: Text,
    pub span: Span,
    /// It was written in quotes (in TOML: as a string), which distinguishes `""` and a quoted `off` where it
    /// matters.
    pub quoted: bool,
}

/// The arguments of a directive. Most have one or two.
pub type Words = SmallVec<[Word; 2]>;

/// One directive: `name args… ;` or `name args… { block }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub name: Word,
    pub args: Words,
    /// `None`: ended by `;`. `Some`: a block, possibly empty.
    pub block: Option<Block>,
    /// From the name to the `;` or the `{`.
    pub span: Span,
}

/// The content between `{` and `}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Block {
    Directives(Vec<Node>),
    /// The entries of a `map` or `geo` instead of directives. In a box: each directive has room for a block.
    Data(Box<Rows>),
}

impl Default for Block {
    fn default() -> Self {
        Self::Directives(Vec::new())
    }
}

impl FromIterator<Node> for Block {
    fn from_iter<I: IntoIterator<Item = Node>>(nodes: I) -> Self {
        Self::Directives(nodes.into_iter().collect())
    }
}

impl Block {
    pub fn push(&mut self, node: Node) {
        match self {
            Self::Directives(nodes) => nodes.push(node),
            Self::Data(rows) => rows.push_node(&node),
        }
    }

    /// The directives; none for data.
    pub fn into_nodes(self) -> Vec<Node> {
        match self {
            Self::Directives(nodes) => nodes,
            Self::Data(_) => Vec::new(),
        }
    }

    /// The same block without memory reserved for growing. `spare` gets that memory, if it is more than it has.
    #[must_use]
    pub fn fitted(self, spare: &mut Vec<Node>) -> Self {
        match self {
            Self::Directives(mut nodes) => {
                let mut exact = Vec::with_capacity(nodes.len());
                exact.append(&mut nodes);
                if nodes.capacity() > spare.capacity() {
                    *spare = nodes;
                }
                Self::Directives(exact)
            }
            Self::Data(mut rows) => {
                rows.shrink();
                Self::Data(rows)
            }
        }
    }
}

impl Node {
    /// The text of argument `index`, counted from 0. The table checks the arity before a setter runs, so up
    /// to the row's minimum the argument exists; past the last argument this is the empty string.
    pub fn arg(&self, index: usize) -> &str {
        self.args.get(index).map_or("", |word| &word.text)
    }

    /// The span of argument `index`, or the directive's if there is no such argument.
    pub fn arg_span(&self, index: usize) -> Span {
        self.args.get(index).map_or(self.span, |word| word.span)
    }

    /// The directives inside; none for a directive without a block.
    pub fn children(&self) -> &[Node] {
        match &self.block {
            Some(Block::Directives(nodes)) => nodes,
            _ => &[],
        }
    }

    /// The entries of a block of data, however they are stored.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        let rows = match &self.block {
            Some(Block::Data(rows)) => Some(&**rows),
            _ => None,
        };
        self.children().iter().map(Entry::of).chain(rows.into_iter().flat_map(Rows::iter))
    }
}

/// A file (or `-g` text, or the embedded default) as it was read.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// Absolute; for text that is not a file, a name such as `command line`.
    pub path: PathBuf,
    /// The text that spans refer to. Equal to the file byte for byte, except that a byte that is not UTF-8
    /// may be a SUB (0x1A).
    pub text: Arc<str>,
    /// The file's own bytes, if they differ from `text`.
    pub raw: Option<Box<[u8]>>,
}

impl Source {
    pub fn new(path: impl Into<PathBuf>, text: impl Into<Arc<str>>) -> Self {
        Self { path: path.into(), text: text.into(), raw: None }
    }

    /// The file's bytes as they were read.
    pub fn bytes(&self) -> &[u8] {
        self.raw.as_deref().unwrap_or(self.text.as_bytes())
    }
}

/// A whole configuration: the top-level directives and every source they came from.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    pub sources: Vec<Source>,
    pub nodes: Vec<Node>,
}

impl Tree {
    pub fn source(&self, file: FileId) -> Option<&Source> {
        self.sources.get(file.0 as usize)
    }

    /// The text of a span; empty if the span is not of this tree.
    pub fn text(&self, span: Span) -> &str {
        self.source(span.file)
            .and_then(|source| source.text.get(span.start as usize..span.end as usize))
            .unwrap_or("")
    }

    /// File, line and column of a span's start. For messages only: it counts lines from the file's beginning.
    pub fn place(&self, span: Span) -> Option<Place<'_>> {
        let source = self.source(span.file)?;
        let before = source.text.as_bytes().get(..span.start as usize)?;
        let line_start = memchr::memrchr(b'\n', before).map_or(0, |at| at + 1);
        let line = memchr::memchr_iter(b'\n', before).count() as u32 + 1;
        let column = String::from_utf8_lossy(&before[line_start..]).chars().count() as u32 + 1;
        Some(Place { path: &source.path, line, column })
    }

    /// The name and the content of each file.
    pub fn texts(&self) -> Vec<(String, String)> {
        let text = |source: &Source| (source.path.to_string_lossy().into_owned(), source.text.to_string());
        self.sources.iter().map(text).collect()
    }

    /// The start of each line of each source, to give `file:line` after the tree is gone.
    pub fn places(&self) -> Places {
        let file = |source: &Source| {
            let lines = memchr::memchr_iter(b'\n', source.text.as_bytes()).map(|at| at as u32 + 1);
            (source.path.clone(), lines.collect())
        };
        Places { files: self.sources.iter().map(file).collect() }
    }
}

/// The start of a span as people count: lines and columns (characters) from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    pub path: &'a Path,
    pub line: u32,
    pub column: u32,
}

/// The paths and line starts of a tree's sources: 4 bytes a line, all that is needed to name a span.
#[derive(Clone, Debug, Default)]
pub struct Places {
    files: Vec<(PathBuf, Box<[u32]>)>,
}

impl Places {
    /// The path and line (from 1) of a span's start.
    pub fn line(&self, span: Span) -> Option<(&Path, u32)> {
        let (path, starts) = self.files.get(span.file.0 as usize)?;
        Some((path, starts.partition_point(|&start| start <= span.start) as u32 + 1))
    }

    /// `path:line`, as nginx names a place; empty if the span is not of this configuration.
    pub fn name(&self, span: Span) -> String {
        self.line(span).map_or_else(String::new, |(path, line)| format!("{}:{line}", path.display()))
    }
}
