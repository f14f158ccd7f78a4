//! Parses nginx's spelling: tokens to directives.
//!
//! Reports every error in a text, not only the first: after each one it continues where the current directive
//! most likely ends. Reads no file itself; `include` goes through the [`Loader`]. Wording of the errors:
//! nginx's `ngx_conf_parse` and `ngx_conf_read_token`.

use std::borrow::Cow;
use std::sync::Arc;

use crate::config::lexer::{Error, Lexer, Token};
use crate::config::load::Loader;
use crate::config::{Block, Diagnostic, FileId, Node, Span, Text, Word};

/// Maximum depth of nested blocks, counted across included files. nginx's only limit is its stack.
pub const DEPTH_MAX: usize = 100;

/// Parses all of `text`, the source `file`, inside `depth` blocks. Returns `content` with the directives
/// added.
pub(super) fn parse(
    loader: &mut Loader,
    file: FileId,
    text: &Arc<str>,
    depth: usize,
    content: Block,
) -> Block {
    let parser = Parser {
        lexer: Lexer::new(text),
        text,
        file,
        depth,
        words: Vec::new(),
        content,
        spare: Vec::new(),
        open: Vec::new(),
        loader,
    };
    parser.run()
}

/// A block whose `}` has not been read yet.
struct Open {
    /// `None` for a block opened by erroneous text; it is dropped when it ends.
    node: Option<Node>,
    /// The siblings before it.
    before: Block,
}

/// A word as it is written.
#[derive(Clone, Copy)]
struct Written {
    start: usize,
    end: usize,
    quoted: bool,
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    text: &'a Arc<str>,
    file: FileId,
    depth: usize,
    /// The words of the directive being read.
    words: Vec<Written>,
    /// The content of the block being read.
    content: Block,
    /// Memory for the content of the next block.
    spare: Vec<Node>,
    open: Vec<Open>,
    loader: &'a mut Loader,
}

impl Parser<'_> {
    fn run(mut self) -> Block {
        while !self.loader.gave_up() {
            match self.lexer.token() {
                Ok(Token::Word { start, end, quoted }) => self.word(start, end, quoted),
                Ok(Token::Semicolon(at)) => self.semicolon(at),
                Ok(Token::Open(at)) => self.open(at),
                Ok(Token::Close(at)) => self.close(at),
                Ok(Token::End) => {
                    self.end(!self.words.is_empty());
                    break;
                }
                Err(Error::OpenWord { start }) => {
                    self.word(start, self.text.len(), false);
                    self.end(true);
                    break;
                }
                Err(Error::OpenQuote { start }) => self.open_quote(start),
                Err(Error::AfterQuote { start, end }) => self.after_quote(start, end),
            }
        }
        while !self.open.is_empty() {
            self.finish_block();
        }
        self.content
    }

    fn word(&mut self, start: usize, end: usize, quoted: bool) {
        let span = self.span(start, end);
        self.loader.check_bytes(span);
        self.words.push(Written { start, end, quoted });
    }

    fn semicolon(&mut self, at: usize) {
        if self.is_row() {
            self.row(at);
        } else if let Some(node) = self.take_directive(at) {
            self.add(node);
        } else {
            self.unexpected(at, at + 1, None);
        }
    }

    /// True if the words are an entry of a block of data rather than an `include`.
    fn is_row(&self) -> bool {
        let Some(first) = self.words.first() else { return false };
        matches!(self.content, Block::Data(_)) && &self.text[first.start..first.end] != "include"
    }

    fn row(&mut self, at: usize) {
        let Block::Data(rows) = &mut self.content else { return };
        for word in self.words.drain(..) {
            let text = self.lexer.meaning(word.start, word.end, word.quoted);
            rows.push_word(&text, word.start as u32, word.end as u32);
        }
        rows.end_row(self.file, at as u32);
        if rows.is_full() {
            let message = "the entries of this block are longer than 2 GiB";
            self.loader.syntax(Diagnostic::error(self.span(at, at), message));
            self.loader.give_up();
        }
    }

    fn open(&mut self, at: usize) {
        let mut node = self.take_directive(at);
        if node.is_none() {
            self.unexpected(at, at + 1, Some("a block needs a directive's name before it".into()));
        } else if matches!(self.content, Block::Data(_)) {
            self.unexpected(at, at + 1, Some("an entry has no block".into()));
            node = None;
        }
        if let Some(lua) = node.take_if(|node| node.name.text.ends_with("_by_lua_block")) {
            return self.lua(lua);
        }
        if self.depth + self.open.len() >= DEPTH_MAX {
            let message = format!("blocks are nested more than {DEPTH_MAX} deep");
            self.loader.syntax(Diagnostic::error(self.span(at, at + 1), message));
            self.loader.give_up();
            return;
        }
        let is_data = node.as_ref().is_some_and(|node| self.loader.is_data(&node.name.text));
        let content = if is_data {
            Block::Data(Box::default())
        } else {
            Block::Directives(std::mem::take(&mut self.spare))
        };
        let before = std::mem::replace(&mut self.content, content);
        self.open.push(Open { node, before });
    }

    /// Skips the content of an OpenResty block.
    fn lua(&mut self, mut node: Node) {
        if !self.lexer.skip_lua() {
            let at = self.text.len();
            let help = format!(
                "the \"{}\" block on line {} is not closed",
                abridge(&node.name.text),
                self.line(node.name.span.start as usize)
            );
            let message = "unexpected end of file, expecting \"}\"";
            self.loader.syntax(Diagnostic::error(self.span(at, at), message).help(help));
        } else if self.loader.keeps_includes() {
            let message = format!("the Lua in \"{}\" cannot be converted", node.name.text);
            self.loader.syntax(Diagnostic::error(node.name.span, message).help("remove this block"));
        }
        node.block = Some(Block::default());
        self.content.push(node);
    }

    fn close(&mut self, at: usize) {
        let help = match self.words.last() {
            // nginx reports the line of the brace; the semicolon is missing before it
            Some(last) => Some(format!("\";\" is missing after \"{}\"", self.abridged(*last))),
            None if self.open.is_empty() => Some("no block is open here".into()),
            None => None,
        };
        if help.is_some() {
            self.unexpected(at, at + 1, help);
        }
        if let Some(node) = self.take_directive(at) {
            self.add(node);
        }
        if !self.open.is_empty() {
            self.finish_block();
        }
    }

    fn end(&mut self, within_directive: bool) {
        let at = self.text.len();
        let message = if self.loader.is_command_line(self.file) {
            "unexpected end of parameter, expecting \";\""
        } else if within_directive {
            "unexpected end of file, expecting \";\" or \"}\""
        } else {
            "unexpected end of file, expecting \"}\""
        };
        let help = match (self.words.last(), self.innermost()) {
            (Some(last), _) if within_directive => {
                format!("\";\" is missing after \"{}\"", self.abridged(*last))
            }
            (_, Some((name, line))) => format!("the \"{name}\" block on line {line} is not closed"),
            _ => return,
        };
        self.loader.syntax(Diagnostic::error(self.span(at, at), message).help(help));
        if let Some(node) = self.take_directive(at) {
            self.add(node);
        }
    }

    /// Skips the text from a quote that is never closed to the end of its line, and continues on the next
    /// line.
    fn open_quote(&mut self, start: usize) {
        let message = if self.loader.is_command_line(self.file) {
            "unexpected end of parameter, expecting \";\""
        } else {
            "unexpected end of file, expecting \";\" or \"}\""
        };
        let diagnostic = Diagnostic::error(self.span(start, start + 1), message);
        self.loader.syntax(diagnostic.help("this quote is never closed"));
        self.recover_after_line(start);
    }

    /// If a quoted word spans several lines and ends badly, its own closing quote is most likely missing.
    fn after_quote(&mut self, start: usize, end: usize) {
        let next = self.text[end..].chars().next().map_or(0, char::len_utf8);
        let over_lines = memchr::memchr(b'\n', &self.text.as_bytes()[start..end]).is_some();
        let help = if over_lines {
            format!("the quote opened on line {} ends here; is its closing quote missing?", self.line(start))
        } else {
            "a space or \";\" is missing after the quoted word".into()
        };
        self.unexpected(end, end + next, Some(help));
        if over_lines {
            self.recover_after_line(start);
        } else {
            self.word(start, end, true);
        }
    }

    /// Gives up the directive that contains `start`, but counts a block that its line opens.
    fn recover_after_line(&mut self, start: usize) {
        self.words.clear();
        self.lexer.skip_line(start);
        if self.text[start..self.lexer.at()].trim_end().ends_with('{') {
            let before = std::mem::take(&mut self.content);
            self.open.push(Open { node: None, before });
        }
    }

    /// Makes a directive of the words read so far; it ends at `at`.
    fn take_directive(&mut self, at: usize) -> Option<Node> {
        let (file, lexer, text) = (self.file, &self.lexer, self.text);
        let mut words = self.words.drain(..).map(|Written { start, end, quoted }| Word {
            text: match lexer.meaning(start, end, quoted) {
                Cow::Borrowed(_) if quoted => Text::part(text, start + 1..end - 1),
                Cow::Borrowed(_) => Text::part(text, start..end),
                Cow::Owned(meant) => meant.into(),
            },
            span: Span { file, start: start as u32, end: end as u32 },
            quoted,
        });
        let name = words.next()?;
        let args = words.collect();
        let span = Span { start: name.span.start, end: at as u32, file: self.file };
        Some(Node { name, args, block: None, span })
    }

    fn add(&mut self, node: Node) {
        if &*node.name.text == "include" && !self.loader.keeps_includes() {
            self.loader.include(&node, self.depth + self.open.len(), &mut self.content);
        } else {
            self.content.push(node);
        }
    }

    fn finish_block(&mut self) {
        let Some(open) = self.open.pop() else { return };
        let content = std::mem::replace(&mut self.content, open.before);
        if let Some(mut node) = open.node {
            node.block = Some(content.fitted(&mut self.spare));
            self.content.push(node);
        }
    }

    fn innermost(&self) -> Option<(String, usize)> {
        let name = &self.open.iter().rev().find_map(|open| open.node.as_ref())?.name;
        Some((abridge(&name.text), self.line(name.span.start as usize)))
    }

    fn abridged(&self, word: Written) -> String {
        abridge(&self.lexer.meaning(word.start, word.end, word.quoted))
    }

    fn unexpected(&mut self, start: usize, end: usize, help: Option<String>) {
        let message = format!("unexpected \"{}\"", self.text[start..end].escape_debug());
        let mut diagnostic = Diagnostic::error(self.span(start, end), message);
        diagnostic.help = help;
        self.loader.syntax(diagnostic);
    }

    fn span(&self, start: usize, end: usize) -> Span {
        Span { file: self.file, start: start as u32, end: end as u32 }
    }

    fn line(&self, at: usize) -> usize {
        memchr::memchr_iter(b'\n', &self.text.as_bytes()[..at]).count() + 1
    }
}

/// Shortens a word for a message, to one line of limited length.
fn abridge(word: &str) -> String {
    let mut short: String = word.chars().take(40).flat_map(char::escape_debug).collect();
    if short.len() < word.len() && word.chars().nth(40).is_some() {
        short.push('…');
    }
    short
}
