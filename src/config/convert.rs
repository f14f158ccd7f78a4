//! A tree written in either spelling (`--convert`). Reading the result gives the same directives in the
//! same order; comments and layout are not kept, and neither is whether a word stood in quotes.
//!
//! Load with `keep_includes`, so that an included file stays a file of its own.

use std::collections::HashSet;
use std::fmt::Write;

use crate::config::{Node, Tree, Word};

const INDENT: &str = "    ";

/// The tree in nginx's spelling.
pub fn to_nginx(tree: &Tree) -> String {
    let mut out = String::new();
    nginx_block(&mut out, &tree.nodes, 0);
    out
}

/// The tree in TOML's spelling.
pub fn to_toml(tree: &Tree) -> String {
    let mut out = String::new();
    toml_block(&mut out, &tree.nodes, "");
    out
}

fn nginx_block(out: &mut String, nodes: &[Node], depth: usize) {
    for (index, node) in nodes.iter().enumerate() {
        if index > 0 && depth < 2 && node.block.is_some() {
            out.push('\n');
        }
        out.push_str(&INDENT.repeat(depth));
        nginx_word(out, &node.name.text);
        for arg in &node.args {
            out.push(' ');
            nginx_word(out, &arg.text);
        }
        match &node.block {
            None => out.push_str(";\n"),
            Some(children) if children.is_empty() => out.push_str(" {}\n"),
            Some(children) => {
                out.push_str(" {\n");
                nginx_block(out, children, depth + 1);
                out.push_str(&INDENT.repeat(depth));
                out.push_str("}\n");
            }
        }
    }
}

/// A word as nginx's lexer reads it back, in quotes only where it needs them.
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
            // a backslash stays one backslash unless what follows would make it an escape
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
            // a dollar behind a backslash begins no variable
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

/// A run of siblings that TOML can hold in one table: first keys, each once, then tables, each name once.
struct Segment<'a> {
    plain: Vec<&'a [Node]>,
    blocks: Vec<&'a [Node]>,
}

fn toml_block(out: &mut String, nodes: &[Node], path: &str) {
    for (index, segment) in segments(nodes).iter().enumerate() {
        let path = if index == 0 { path.to_owned() } else { join(path, "do") };
        if index > 0 {
            header(out, &path, true);
        }
        for run in &segment.plain {
            toml_plain(out, run);
        }
        for run in &segment.blocks {
            for node in *run {
                let path = join(&path, &toml_key(&node.name.text));
                header(out, &path, run.len() > 1);
                match &node.args[..] {
                    [] => {}
                    args => {
                        out.push_str("args = ");
                        toml_arguments(out, args);
                        out.push('\n');
                    }
                }
                toml_block(out, node.children(), &path);
            }
        }
    }
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

fn toml_plain(out: &mut String, run: &[Node]) {
    let _ = write!(out, "{} = ", toml_key(&run[0].name.text));
    if let [node] = run {
        toml_arguments(out, &node.args);
    } else {
        out.push_str("[\n");
        for node in run {
            let _ = writeln!(out, "{INDENT}[{}],", toml_values(&node.args));
        }
        out.push(']');
    }
    out.push('\n');
}

fn toml_arguments(out: &mut String, args: &[Word]) {
    match args {
        [one] => out.push_str(&toml_value(one)),
        several => {
            let _ = write!(out, "[{}]", toml_values(several));
        }
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

fn header(out: &mut String, path: &str, repeated: bool) {
    if !out.is_empty() {
        out.push('\n');
    }
    let (open, close) = if repeated { ("[[", "]]") } else { ("[", "]") };
    let _ = writeln!(out, "{open}{path}{close}");
}

#[cfg(test)]
mod tests;
