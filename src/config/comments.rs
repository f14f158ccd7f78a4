//! The comments of a configuration, for the writers of [`crate::config::convert`].
//!
//! The tree holds no comments: they are read from the text once more, and each is assigned to a directive.
//! The text is known to be free of errors. Touches: the tree. A directive is identified by the offset at
//! which it starts.

use std::collections::HashMap;

use crate::config::lexer::{Lexer, Token};
use crate::config::{Node, Tree};

/// The place of a comment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// The first lines of the file, if a blank line follows them.
    Top,
    /// On a line of its own above a directive.
    Before(u32),
    /// On the same line after a directive; for a block, after its `{` or its header.
    Beside(u32),
    /// On a line of its own below a directive without a block.
    After(u32),
    /// At the end of a directive's block.
    End(u32),
    /// After the `}` of a directive.
    Closing(u32),
    EndOfFile,
}

/// Comments by place; each is handed out once. They begin with `#` and contain no control characters except
/// tabs.
#[derive(Debug, Default)]
pub(super) struct Comments {
    /// With the offset of each, for [`Comments::rest`].
    places: HashMap<Place, Vec<(usize, String)>>,
    top_end: usize,
}

impl Comments {
    /// The comments of a tree of one file. None for several files, since a file included twice is in the tree
    /// twice.
    pub(super) fn of(tree: &Tree) -> Self {
        let mut comments = Self::default();
        if let [source] = &tree.sources[..] {
            comments.top_end = top_end(&source.text);
            if source.path.extension().is_some_and(|name| name == "toml") {
                comments.read_toml(&source.text, tree);
            } else {
                comments.read_nginx(&source.text);
            }
        }
        comments
    }

    /// Takes the comments at `place`, in the order of the text.
    pub(super) fn take(&mut self, place: Place) -> Vec<String> {
        let notes = self.places.remove(&place).unwrap_or_default();
        notes.into_iter().map(|(_, text)| text).collect()
    }

    /// Takes the remaining comments, in the order of the text.
    pub(super) fn rest(&mut self) -> Vec<String> {
        let mut notes: Vec<_> = self.places.drain().flat_map(|(_, notes)| notes).collect();
        notes.sort_unstable();
        notes.into_iter().map(|(_, text)| text).collect()
    }

    fn add(&mut self, place: Place, text: &str, start: usize, end: usize) {
        // two comments on one line would merge: move the second one
        let place = match place {
            _ if start < self.top_end => Place::Top,
            Place::Beside(node) if self.places.contains_key(&place) => Place::Before(node),
            Place::Closing(node) if self.places.contains_key(&place) => Place::End(node),
            place => place,
        };
        self.places.entry(place).or_default().push((start, clean(&text[start..end])));
    }

    fn read_nginx(&mut self, text: &str) {
        let mut lexer = Lexer::new(text);
        // comments on lines of their own, until the next token shows their place
        let mut waiting: Vec<(usize, usize)> = Vec::new();
        let mut directive = None;
        let mut open = Vec::new();
        let mut behind = None;
        loop {
            let from = lexer.at();
            let Ok(token) = lexer.token() else { return };
            let start = match token {
                Token::Word { start, .. } => start,
                Token::Semicolon(at) | Token::Open(at) | Token::Close(at) => at,
                Token::End => text.len(),
            };
            for (at, end) in comments_of_blank(text, from, start) {
                let is_first_line = memchr::memchr(b'\n', &text.as_bytes()[from..at]).is_none();
                match (directive, behind) {
                    (Some(node), _) => self.add(Place::Before(node), text, at, end),
                    (None, Some(place)) if is_first_line => self.add(place, text, at, end),
                    _ => waiting.push((at, end)),
                }
            }
            let offset = start as u32;
            let place = match token {
                Token::Word { .. } => Place::Before(*directive.get_or_insert(offset)),
                Token::Close(_) => Place::End(open.pop().unwrap_or(offset)),
                Token::Semicolon(_) | Token::Open(_) | Token::End => Place::EndOfFile,
            };
            for (at, end) in waiting.drain(..) {
                self.add(place, text, at, end);
            }
            behind = match (token, place) {
                (Token::Close(_), Place::End(node)) => Some(Place::Closing(node)),
                (Token::Word { .. }, _) => None,
                (Token::End, _) => return,
                _ => {
                    let node = directive.take().unwrap_or(offset);
                    if matches!(token, Token::Open(_)) {
                        open.push(node);
                    }
                    Some(Place::Beside(node))
                }
            };
        }
    }

    fn read_toml(&mut self, text: &str, tree: &Tree) {
        let known = Known::of(tree, text);
        let notes = toml_comments(text);
        for group in notes.chunk_by(|one, next| {
            one.is_alone && next.is_alone && line_start(text, next.start) == one.end + 1
        }) {
            let place = known.place(group);
            for note in group {
                self.add(place, text, note.start, note.end);
            }
        }
    }
}

/// The end of the comments at the start of a text if a blank line follows them, else 0.
fn top_end(text: &str) -> usize {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let content = line.trim_start_matches('\u{feff}').trim();
        if !content.starts_with('#') {
            return if content.is_empty() { at } else { 0 };
        }
        at += line.len();
    }
    0
}

/// The comments in `from..to`, which otherwise holds only white space.
fn comments_of_blank(text: &str, from: usize, to: usize) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut at = from;
    while let Some(start) = memchr::memchr(b'#', &text.as_bytes()[at..to]).map(|count| at + count) {
        let end = line_end(text, start);
        found.push((start, end));
        at = end;
    }
    found
}

/// A comment in a TOML text.
struct Note {
    start: usize,
    /// The end of its line.
    end: usize,
    /// Nothing precedes it on its line.
    is_alone: bool,
    /// The first character after it that is neither white space nor part of a comment.
    next: Option<u8>,
}

/// All comments: everything from a `#` outside of strings to the end of its line.
fn toml_comments(text: &str) -> Vec<Note> {
    let bytes = text.as_bytes();
    let mut notes: Vec<Note> = Vec::new();
    let (mut at, mut answered) = (0, 0);
    while let Some(&byte) = bytes.get(at) {
        if byte == b'#' {
            let end = line_end(text, at);
            let is_alone = text[line_start(text, at)..at].trim_matches([' ', '\t', '\u{feff}']).is_empty();
            notes.push(Note { start: at, end, is_alone, next: None });
            at = end;
            continue;
        }
        if !byte.is_ascii_whitespace() {
            notes[answered..].iter_mut().for_each(|note| note.next = Some(byte));
            answered = notes.len();
        }
        at += if matches!(byte, b'"' | b'\'') { string_length(&bytes[at..]) } else { 1 };
    }
    notes
}

/// The length of the string at the start of `bytes`, including its quotes.
fn string_length(bytes: &[u8]) -> usize {
    let quote = bytes[0];
    let is_long = bytes.starts_with(&[quote; 3]);
    let mut at = if is_long { 3 } else { 1 };
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'\\' if quote == b'"' => at += 2,
            _ if byte != quote => at += 1,
            _ if !is_long => return at + 1,
            _ if bytes[at..].starts_with(&[quote; 3]) => {
                // up to two quotes may precede the closing three
                let count = bytes[at..].iter().take(5).take_while(|byte| **byte == quote).count();
                return at + count;
            }
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The directives of a TOML text, sorted by their start.
struct Known<'a> {
    text: &'a str,
    nodes: Vec<At>,
}

struct At {
    start: usize,
    end: usize,
    /// The position in the tree: a block comes before its content.
    rank: usize,
    is_block: bool,
}

impl<'a> Known<'a> {
    fn of(tree: &Tree, text: &'a str) -> Self {
        let mut nodes = Vec::new();
        collect(&tree.nodes, &mut nodes);
        nodes.sort_unstable_by_key(|node| (node.start, node.rank));
        Self { text, nodes }
    }

    /// The place of a group of comments on adjacent lines.
    fn place(&self, group: &[Note]) -> Place {
        let [first, .., last] = group else { return self.place_of_one(&group[0]) };
        self.place_of_lines(first, last)
    }

    fn place_of_one(&self, note: &Note) -> Place {
        if note.is_alone {
            return self.place_of_lines(note, note);
        }
        let line = line_start(self.text, note.start);
        let Some(previous) = self.previous(note.start) else { return self.before_next(note.start) };
        let code = self.text[line..note.start].trim_start();
        if previous.surrounds(note) {
            Place::Before(previous.start as u32)
        } else if previous.start >= line {
            let on_line = self.between(line, note.start).iter();
            let outermost = on_line.min_by_key(|node| node.rank).unwrap_or(previous);
            Place::Beside(outermost.start as u32)
        } else if !previous.is_block && previous.end >= line {
            Place::Beside(previous.start as u32)
        } else if code.starts_with(']') || code.starts_with('}') {
            self.after(previous)
        } else if previous.is_block && code.starts_with("args") {
            Place::Before(previous.start as u32)
        } else {
            self.before_next(note.start)
        }
    }

    /// Comments directly below a directive but separated from the next one belong to the directive above
    /// them.
    fn place_of_lines(&self, first: &Note, last: &Note) -> Place {
        let Some(previous) = self.previous(first.start) else { return self.before_next(first.start) };
        if previous.surrounds(first) {
            return Place::Before(previous.start as u32);
        }
        let above = self.text[..line_start(self.text, first.start)].lines().next_back().unwrap_or("");
        let below = self.text[last.end..].lines().nth(1).unwrap_or("");
        let is_below = !above.trim().is_empty() && below.trim().is_empty();
        if is_below || matches!(last.next, Some(b']' | b'}')) {
            self.after(previous)
        } else {
            self.before_next(last.start)
        }
    }

    fn previous(&self, at: usize) -> Option<&At> {
        self.nodes[..self.nodes.partition_point(|node| node.start <= at)].last()
    }

    fn before_next(&self, at: usize) -> Place {
        let next = self.nodes.partition_point(|node| node.start <= at);
        let Some(first) = self.nodes.get(next) else { return Place::EndOfFile };
        // the header of a table may name outer blocks that have no header of their own
        let on_line = self.between(first.start, line_end(self.text, first.start)).iter();
        Place::Before(on_line.min_by_key(|node| node.rank).unwrap_or(first).start as u32)
    }

    fn after(&self, previous: &At) -> Place {
        if !previous.is_block {
            return Place::After(previous.start as u32);
        }
        let line = line_start(self.text, previous.start);
        let on_line = self.between(line, previous.start + 1).iter();
        let innermost = on_line.max_by_key(|node| node.rank).unwrap_or(previous);
        Place::End(innermost.start as u32)
    }

    /// The directives that start in `from..to`.
    fn between(&self, from: usize, to: usize) -> &[At] {
        let place = |at| self.nodes.partition_point(|node| node.start < at);
        &self.nodes[place(from)..place(to).max(place(from))]
    }
}

impl At {
    /// True if the comment is between the words of this directive.
    fn surrounds(&self, note: &Note) -> bool {
        !self.is_block && note.start < self.end
    }
}

fn collect(nodes: &[Node], out: &mut Vec<At>) {
    for node in nodes {
        let (start, end) = (node.span.start as usize, node.span.end as usize);
        out.push(At { start, end, rank: out.len(), is_block: node.block.is_some() });
        collect(node.children(), out);
    }
}

fn line_start(text: &str, at: usize) -> usize {
    memchr::memrchr(b'\n', &text.as_bytes()[..at]).map_or(0, |end| end + 1)
}

fn line_end(text: &str, at: usize) -> usize {
    memchr::memchr(b'\n', &text.as_bytes()[at..]).map_or(text.len(), |count| at + count)
}

/// A comment that both spellings accept: TOML allows no control characters, and a byte that was not UTF-8 (a
/// SUB in the text) is shown as such.
fn clean(comment: &str) -> String {
    let plain = |char: char| match char {
        '\u{1a}' => '\u{fffd}',
        char if char.is_control() && char != '\t' => ' ',
        char => char,
    };
    let text: String = comment.chars().map(plain).collect();
    text.trim_end().to_owned()
}
