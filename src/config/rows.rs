//! The content of a block of data: rows of words, of which a `map` or a `geo` may have a hundred thousand.
//! They are stored compactly, without an allocation per row.
//!
//! Pure data. A parser fills it for the blocks that it is told hold data ([`crate::config::LoadOptions`]).

use smallvec::SmallVec;

use crate::config::{FileId, Node, Span, Word};

/// Rows in their order, possibly from several files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    rows: Vec<Row>,
    words: Vec<Place>,
    /// The values of all words, concatenated.
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    file: FileId,
    /// The offset of its `;`.
    end: u32,
    /// The end of its words among all words; they begin at the end of the previous row's.
    words_end: u32,
}

/// A word's position in its file, and the end of its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    start: u32,
    end: u32,
    text_end: u32,
}

/// One row, or a directive used as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    pub name: Cell<'a>,
    pub args: SmallVec<[Cell<'a>; 1]>,
    /// From the name to the `;`.
    pub span: Span,
}

/// One word of a row, unquoted and unescaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell<'a> {
    pub text: &'a str,
    pub span: Span,
}

impl Rows {
    /// Appends a word to the current row.
    pub fn push_word(&mut self, text: &str, start: u32, end: u32) {
        self.text.push_str(text);
        self.words.push(Place { start, end, text_end: self.text.len() as u32 });
    }

    /// Ends the current row; the total text of all rows must stay within 32 bits.
    pub fn end_row(&mut self, file: FileId, end: u32) {
        self.rows.push(Row { file, end, words_end: self.words.len() as u32 });
    }

    /// True if no more text fits.
    pub fn is_full(&self) -> bool {
        self.text.len() > (u32::MAX / 2) as usize
    }

    pub fn push_node(&mut self, node: &Node) {
        for word in std::iter::once(&node.name).chain(&node.args) {
            self.push_word(&word.text, word.span.start, word.span.end);
        }
        self.end_row(node.span.file, node.span.end);
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub fn shrink(&mut self) {
        self.rows.shrink_to_fit();
        self.words.shrink_to_fit();
        self.text.shrink_to_fit();
    }

    /// Skips rows without words; a parser makes none.
    pub fn iter(&self) -> impl Iterator<Item = Entry<'_>> {
        let mut words_start = 0;
        let mut text_start = 0;
        self.rows.iter().filter_map(move |row| {
            let places = &self.words[words_start..row.words_end as usize];
            words_start = row.words_end as usize;
            let mut texts = places.iter().map(|place| {
                let text = &self.text[text_start..place.text_end as usize];
                text_start = place.text_end as usize;
                Cell { text, span: Span { file: row.file, start: place.start, end: place.end } }
            });
            let name = texts.next()?;
            let span = Span { end: row.end, ..name.span };
            Some(Entry { name, args: texts.collect(), span })
        })
    }
}

impl<'a> Entry<'a> {
    pub fn of(node: &'a Node) -> Self {
        let args = node.args.iter().map(Cell::of).collect();
        Self { name: Cell::of(&node.name), args, span: node.span }
    }
}

impl<'a> Cell<'a> {
    pub fn of(word: &'a Word) -> Self {
        Self { text: &word.text, span: word.span }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Block, LoadOptions, load_text};

    /// The names, arguments and positions of the entries in the first block.
    fn entries(
        name: &str,
        text: &str,
        data_blocks: &'static [&'static str],
    ) -> Vec<(String, Vec<String>, Span)> {
        let (tree, out) = load_text(name, text, &LoadOptions { data_blocks, ..LoadOptions::default() });
        assert!(out.0.is_empty(), "{:?}", out.0);
        let block = &tree.nodes[0];
        assert_eq!(
            matches!(block.block, Some(Block::Data(_))),
            data_blocks.contains(&"map") && name == "t.conf"
        );
        let args = |entry: &Entry<'_>| entry.args.iter().map(|arg| arg.text.to_owned()).collect();
        block.entries().map(|entry| (entry.name.text.to_owned(), args(&entry), entry.span)).collect()
    }

    #[test]
    fn rows_are_what_directives_would_be() {
        let text = "map $a $b {\n a 1; # no\n \"b c\" '\\'';\n volatile;\n\n ~^x{2}$ \"${a}y\" z;}";
        let text = text.replace("~^x{2}$", "\"~^x{2}$\"");
        let rows = entries("t.conf", &text, &["map"]);
        assert_eq!(rows, entries("t.conf", &text, &[]));
        assert_eq!(rows.len(), 4);
        assert_eq!((&*rows[1].0, &*rows[1].1), ("b c", &["'".to_owned()][..]));
        assert_eq!(&text[rows[0].2.start as usize..rows[0].2.end as usize], "a 1");
    }
}
