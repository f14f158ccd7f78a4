//! nginx's spelling: tokens to directives.
//!
//! Reports every error of a text, not the first: after each one it goes on where the directive it is in
//! most likely ends. Reads no file itself; `include` goes through the [`Loader`].
//! Wording of the errors: nginx's `ngx_conf_parse` and `ngx_conf_read_token`.

use std::borrow::Cow;
use std::sync::Arc;

use crate::config::lexer::{Error, Lexer, Token};
use crate::config::load::Loader;
use crate::config::{Diagnostic, FileId, Node, Span, Text, Word};

/// How deep blocks may nest, included files counted in. nginx has no limit but its stack.
pub const DEPTH_MAX: usize = 100;

/// Parses the whole of `text`, the source `file`, whose blocks are already `depth` deep.
pub(super) fn parse(loader: &mut Loader, file: FileId, text: &Arc<str>, depth: usize) -> Vec<Node> {
    let parser = Parser {
        lexer: Lexer::new(text),
        text,
        file,
        depth,
        words: Vec::new(),
        nodes: Vec::new(),
        open: Vec::new(),
        loader,
    };
    parser.run()
}

/// A block whose `}` has not come yet.
struct Open {
    /// `None` for a block that a wrong text opened; it is dropped when it ends.
    node: Option<Node>,
    /// The siblings before it.
    before: Vec<Node>,
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    text: &'a Arc<str>,
    file: FileId,
    depth: usize,
    /// The directive being read.
    words: Vec<Word>,
    /// The block being read.
    nodes: Vec<Node>,
    open: Vec<Open>,
    loader: &'a mut Loader,
}

impl Parser<'_> {
    fn run(mut self) -> Vec<Node> {
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
        self.nodes
    }

    fn word(&mut self, start: usize, end: usize, quoted: bool) {
        let span = self.span(start, end);
        self.loader.check_bytes(span);
        let text = match self.lexer.meaning(start, end, quoted) {
            Cow::Borrowed(_) if quoted => Text::part(self.text, start + 1..end - 1),
            Cow::Borrowed(_) => Text::part(self.text, start..end),
            Cow::Owned(text) => text.into(),
        };
        self.words.push(Word { text, span, quoted });
    }

    fn semicolon(&mut self, at: usize) {
        if let Some(node) = self.take_directive(at) {
            self.add(node);
        } else {
            self.unexpected(at, at + 1, None);
        }
    }

    fn open(&mut self, at: usize) {
        let node = self.take_directive(at);
        if node.is_none() {
            self.unexpected(at, at + 1, Some("a block needs a directive's name before it".into()));
        }
        if self.depth + self.open.len() >= DEPTH_MAX {
            let message = format!("blocks are nested more than {DEPTH_MAX} deep");
            self.loader.syntax(Diagnostic::error(self.span(at, at + 1), message));
            self.loader.give_up();
            return;
        }
        let before = std::mem::take(&mut self.nodes);
        self.open.push(Open { node, before });
    }

    fn close(&mut self, at: usize) {
        let help = match self.words.last() {
            // nginx names the line of the brace; the semicolon is missing before it
            Some(last) => Some(format!("\";\" is missing after \"{}\"", abridge(&last.text))),
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
                format!("\";\" is missing after \"{}\"", abridge(&last.text))
            }
            (_, Some((name, line))) => format!("the \"{name}\" block of line {line} is not closed"),
            _ => return,
        };
        self.loader.syntax(Diagnostic::error(self.span(at, at), message).help(help));
        if let Some(node) = self.take_directive(at) {
            self.add(node);
        }
    }

    /// The text from a lone quote to the end of its line is given up; the next line is read as usual.
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

    /// A quoted word over several lines that ends badly most likely lacks its own closing quote.
    fn after_quote(&mut self, start: usize, end: usize) {
        let next = self.text[end..].chars().next().map_or(0, char::len_utf8);
        let over_lines = memchr::memchr(b'\n', &self.text.as_bytes()[start..end]).is_some();
        let help = if over_lines {
            format!("the quote of line {} ends here; is its closing quote missing?", self.line(start))
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

    /// Gives the directive up that `start` is in, keeping count of a block that its line opens.
    fn recover_after_line(&mut self, start: usize) {
        self.words.clear();
        self.lexer.skip_line(start);
        if self.text[start..self.lexer.at()].trim_end().ends_with('{') {
            let before = std::mem::take(&mut self.nodes);
            self.open.push(Open { node: None, before });
        }
    }

    /// The words read so far as a directive that ends at `at`.
    fn take_directive(&mut self, at: usize) -> Option<Node> {
        let mut words = self.words.drain(..);
        let name = words.next()?;
        let args = words.collect();
        let span = Span { start: name.span.start, end: at as u32, file: self.file };
        Some(Node { name, args, block: None, span })
    }

    fn add(&mut self, node: Node) {
        if &*node.name.text == "include" && !self.loader.keeps_includes() {
            self.loader.include(&node, self.depth + self.open.len(), &mut self.nodes);
        } else {
            self.nodes.push(node);
        }
    }

    fn finish_block(&mut self) {
        let Some(open) = self.open.pop() else { return };
        let mut children = std::mem::replace(&mut self.nodes, open.before);
        if let Some(mut node) = open.node {
            children.shrink_to_fit();
            node.block = Some(children);
            self.nodes.push(node);
        }
    }

    fn innermost(&self) -> Option<(String, usize)> {
        let name = &self.open.iter().rev().find_map(|open| open.node.as_ref())?.name;
        Some((abridge(&name.text), self.line(name.span.start as usize)))
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

/// A word for a message: one line, not longer than a line.
fn abridge(word: &str) -> String {
    let mut short: String = word.chars().take(40).flat_map(char::escape_debug).collect();
    if short.len() < word.len() && word.chars().nth(40).is_some() {
        short.push('…');
    }
    short
}
