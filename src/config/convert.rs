//! Writes a tree in either spelling (`--convert`). Reading the result gives the same directives in the same
//! order, with their comments; layout is not kept, nor whether a word was in quotes.
//!
//! Load the tree with `keep_includes`, so that an included file remains a separate file.

use std::collections::HashSet;
use std::fmt::Write;

use crate::config::comments::{Comments, Place};
use crate::config::{Node, Tree, Word};

const INDENT: &str = "    ";

/// Writes the tree in nginx's spelling.
pub fn to_nginx(tree: &Tree) -> String {
    let mut writer = Writer { out: String::new(), comments: Comments::of(tree) };
    writer.begin();
    writer.nginx_block(&tree.nodes, 0);
    writer.end();
    writer.out
}

/// Writes the tree in TOML.
pub fn to_toml(tree: &Tree) -> String {
    let mut writer = Writer { out: String::new(), comments: Comments::of(tree) };
    writer.begin();
    writer.toml_block(&tree.nodes, "");
    writer.end();
    writer.out
}

struct Writer {
    out: String,
    comments: Comments,
}

impl Writer {
    fn nginx_block(&mut self, nodes: &[Node], depth: usize) {
        for (index, node) in nodes.iter().enumerate() {
            if index > 0 && depth < 2 && node.block.is_some() {
                self.out.push('\n');
            }
            let at = node.span.start;
            self.lines(Place::Before(at), depth);
            self.out.push_str(&INDENT.repeat(depth));
            nginx_word(&mut self.out, &node.name.text);
            for arg in &node.args {
                self.out.push(' ');
                nginx_word(&mut self.out, &arg.text);
            }
            if node.block.is_none() {
                self.out.push(';');
                self.line_end(Place::Beside(at));
                self.lines(Place::After(at), depth);
                continue;
            }
            self.out.push_str(" {");
            let head_end = self.out.len();
            self.line_end(Place::Beside(at));
            self.nginx_block(node.children(), depth + 1);
            self.lines(Place::End(at), depth + 1);
            if self.out.len() == head_end + 1 {
                self.out.pop(); // an empty block is `{}`
            } else {
                self.out.push_str(&INDENT.repeat(depth));
            }
            self.out.push('}');
            self.line_end(Place::Closing(at));
        }
    }

    fn toml_block(&mut self, nodes: &[Node], path: &str) {
        for (index, segment) in segments(nodes).iter().enumerate() {
            let path = if index == 0 { path.to_owned() } else { join(path, "do") };
            if index > 0 {
                self.blank_line();
                let _ = writeln!(self.out, "[[{path}]]");
            }
            for run in &segment.plain {
                self.toml_plain(run);
            }
            for run in &segment.blocks {
                for node in *run {
                    self.toml_table(node, &join(&path, &toml_key(&node.name.text)), run.len() > 1);
                }
            }
        }
    }

    fn toml_table(&mut self, node: &Node, path: &str, repeated: bool) {
        let at = node.span.start;
        self.blank_line();
        self.lines(Place::Before(at), 0);
        let (open, close) = if repeated { ("[[", "]]") } else { ("[", "]") };
        let _ = write!(self.out, "{open}{path}{close}");
        self.line_end(Place::Beside(at));
        if !node.args.is_empty() {
            let _ = writeln!(self.out, "args = {}", toml_arguments(&node.args));
        }
        self.toml_block(node.children(), path);
        self.lines(Place::End(at), 0);
        self.lines(Place::Closing(at), 0);
    }

    fn toml_plain(&mut self, run: &[Node]) {
        self.lines(Place::Before(run[0].span.start), 0);
        let _ = write!(self.out, "{} = ", toml_key(&run[0].name.text));
        if let [node] = run {
            self.out.push_str(&toml_arguments(&node.args));
            self.line_end(Place::Beside(node.span.start));
            self.lines(Place::After(node.span.start), 0);
            return;
        }
        self.out.push_str("[\n");
        for node in run {
            self.lines(Place::Before(node.span.start), 1);
            let _ = write!(self.out, "{INDENT}[{}],", toml_values(&node.args));
            self.line_end(Place::Beside(node.span.start));
            self.lines(Place::After(node.span.start), 1);
        }
        self.out.push_str("]\n");
    }

    /// Writes the comments of a place, each on its own line.
    fn lines(&mut self, place: Place, depth: usize) {
        for comment in self.comments.take(place) {
            let _ = writeln!(self.out, "{}{comment}", INDENT.repeat(depth));
        }
    }

    /// Ends a line, including the comments on it.
    fn line_end(&mut self, place: Place) {
        for comment in self.comments.take(place) {
            let _ = write!(self.out, " {comment}");
        }
        self.out.push('\n');
    }

    fn blank_line(&mut self) {
        if !self.out.is_empty() && !self.out.ends_with("\n\n") {
            self.out.push('\n');
        }
    }

    /// Writes the comments at the top of the file, set apart from the rest.
    fn begin(&mut self) {
        self.lines(Place::Top, 0);
        self.blank_line();
    }

    /// Writes all remaining comments at the end, set apart from the rest.
    fn end(&mut self) {
        let comments = self.comments.rest();
        if comments.is_empty() {
            self.out.truncate(self.out.trim_end_matches('\n').len() + 1);
            return;
        }
        self.blank_line();
        for comment in comments {
            let _ = writeln!(self.out, "{comment}");
        }
    }
}

/// Writes a word so that nginx's lexer reads it back, with quotes only if it needs them.
pub fn nginx_word(out: &mut String, word: &str) {
    let quote = if word.contains('"') && !word.contains('\'') { '\'' } else { '"' };
    let quoted = needs_quotes(word);
    if quoted {
        out.push(quote);
    }
    let mut chars = word.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            char if char == quote => {
                out.push('\\');
                out.push(char);
            }
            // a backslash need not be doubled unless the next character would make it an escape
            '\\' => match chars.peek() {
                Some('"' | '\'' | '\\' | 't' | 'r' | 'n' | '\t' | '\r' | '\n') | None => out.push_str("\\\\"),
                Some(_) => out.push('\\'),
            },
            char => out.push(char),
        }
    }
    if quoted {
        out.push(quote);
    }
}

fn needs_quotes(word: &str) -> bool {
    let mut before = [' '; 2];
    for char in word.chars() {
        let special = match char {
            // a dollar after a backslash does not begin a variable
            '{' => before[1] != '$' || before[0] == '\\',
            ' ' | '\t' | '\r' | '\n' | ';' | '"' | '\'' | '\u{feff}' => true,
            _ => false,
        };
        if special {
            return true;
        }
        before = [before[1], char];
    }
    word.is_empty() || word.starts_with(['#', '}'])
}

/// A run of siblings that fits into one TOML table: first keys, each once, then tables, each name once.
struct Segment<'a> {
    plain: Vec<&'a [Node]>,
    blocks: Vec<&'a [Node]>,
}

fn segments(nodes: &[Node]) -> Vec<Segment<'_>> {
    let mut segments = vec![Segment { plain: Vec::new(), blocks: Vec::new() }];
    let mut names: HashSet<&str> = HashSet::new();
    let same = |one: &Node, next: &Node| {
        one.name.text == next.name.text && one.block.is_some() == next.block.is_some()
    };
    for run in nodes.chunk_by(same) {
        let name = &*run[0].name.text;
        let is_block = run[0].block.is_some();
        let last = segments.last().expect("there is a first segment");
        if names.contains(name) || (!is_block && !last.blocks.is_empty()) {
            segments.push(Segment { plain: Vec::new(), blocks: Vec::new() });
            names.clear();
        }
        names.insert(name);
        let last = segments.last_mut().expect("there is a first segment");
        if is_block { last.blocks.push(run) } else { last.plain.push(run) }
    }
    segments
}

fn toml_arguments(args: &[Word]) -> String {
    match args {
        [one] => toml_value(one),
        several => format!("[{}]", toml_values(several)),
    }
}

fn toml_values(args: &[Word]) -> String {
    args.iter().map(toml_value).collect::<Vec<_>>().join(", ")
}

fn toml_value(word: &Word) -> String {
    let text = &*word.text;
    let is_number = text.parse::<i64>().is_ok_and(|number| number >= 0 && number.to_string() == text);
    match text {
        "on" if !word.quoted => "true".into(),
        "off" if !word.quoted => "false".into(),
        _ if is_number && !word.quoted => text.into(),
        _ => toml_string(text),
    }
}

fn toml_key(name: &str) -> String {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if name == "args" || name == "do" || name.starts_with('\\') {
        toml_string(&format!("\\{name}"))
    } else if !name.is_empty() && name.bytes().all(is_bare) {
        name.into()
    } else {
        toml_string(name)
    }
}

fn toml_string(text: &str) -> String {
    let is_literal = !text.contains(|char: char| char == '\'' || char.is_control());
    if is_literal && text.contains(['\\', '"']) {
        return format!("'{text}'");
    }
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for char in text.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            char if char.is_control() => {
                let _ = write!(out, "\\u{:04X}", char as u32);
            }
            char => out.push(char),
        }
    }
    out.push('"');
    out
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

#[cfg(test)]
mod comment_tests;
#[cfg(test)]
mod tests;
