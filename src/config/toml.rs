//! Parses the TOML spelling: tables to directives (`docs/architecture.md` §3).
//!
//! `key = v` is one argument (true and false are on and off); `key = [a, b]` several; `key = [[..], [..]]` a
//! repeated directive. A table is a block, with its arguments under `args`; an array of tables is a repeated
//! block. A `[[….do]]` block holds directives that take its place, for orders that keys cannot express. A
//! backslash at the front of a key is removed: `"\\args"` is a directive named `args`. Directives keep the
//! order of the text.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeArray, DeString, DeTable, DeValue};

use crate::config::load::Loader;
use crate::config::parse::DEPTH_MAX;
use crate::config::tree::Words;
use crate::config::{Block, Diagnostic, FileId, Node, Span, Text, Word};

/// Parses all of `text`, the source `file`, inside `depth` blocks.
pub(super) fn parse(loader: &mut Loader, file: FileId, text: &str, depth: usize) -> Vec<Node> {
    if loader.has_foreign(file) {
        // TOML requires UTF-8 in comments too
        loader.check_bytes(Span { file, start: 0, end: u32::MAX });
        return Vec::new();
    }
    let (table, mut errors) = DeTable::parse_recoverable(text);
    errors.sort_by_key(|error| error.span().map_or(0, |span| span.start));
    for error in &errors {
        let span = to_span(file, text, &error.span().unwrap_or(0..0));
        loader.syntax(Diagnostic::error(span, error.message()));
        if loader.gave_up() {
            return Vec::new();
        }
    }
    let mut reader = Reader { loader, file, text, depth };
    let mut nodes = Vec::new();
    reader.block(table.get_ref(), &mut nodes);
    nodes
}

struct Reader<'a> {
    loader: &'a mut Loader,
    file: FileId,
    text: &'a str,
    depth: usize,
}

/// A directive whose value was not examined yet, so that the directives of a block can be sorted first.
struct Entry<'a, 'i> {
    key: &'a str,
    key_range: Range<usize>,
    start: usize,
    value: Value<'a, 'i>,
}

enum Value<'a, 'i> {
    Scalar(&'a Spanned<DeValue<'i>>),
    Arguments(&'a Spanned<DeValue<'i>>, &'a DeArray<'i>),
    Block(&'a Spanned<DeValue<'i>>, &'a DeTable<'i>),
}

impl Reader<'_> {
    fn block(&mut self, table: &DeTable<'_>, out: &mut Vec<Node>) {
        self.directives(table.iter(), out);
    }

    fn directives<'a, 'i: 'a>(
        &mut self,
        pairs: impl Iterator<Item = (&'a Spanned<DeString<'i>>, &'a Spanned<DeValue<'i>>)>,
        out: &mut Vec<Node>,
    ) {
        let mut entries = Vec::new();
        for (key, value) in pairs {
            self.entries(key.get_ref(), key.span(), value, &mut entries);
        }
        entries.sort_by_key(|entry| entry.start);
        for entry in entries {
            if self.loader.gave_up() {
                return;
            }
            self.entry(&entry, out);
        }
    }

    /// Adds the directives that one key stands for.
    fn entries<'a, 'i>(
        &mut self,
        key: &'a str,
        key_range: Range<usize>,
        value: &'a Spanned<DeValue<'i>>,
        out: &mut Vec<Entry<'a, 'i>>,
    ) {
        let mut add = |start, value| out.push(Entry { key, key_range: key_range.clone(), start, value });
        match value.get_ref() {
            DeValue::Table(table) => add(value.span().start, Value::Block(value, table)),
            DeValue::Array(array) if array.iter().any(|item| is_compound(item.get_ref())) => {
                for item in array.iter() {
                    match item.get_ref() {
                        DeValue::Table(table) => add(item.span().start, Value::Block(item, table)),
                        DeValue::Array(array) => add(item.span().start, Value::Arguments(item, array)),
                        _ => {
                            let message = format!("\"{key}\" mixes arguments and repeated directives");
                            let help = "write [a, b] for one directive or [[a, b], [c]] for two";
                            let span = self.span(&item.span());
                            self.loader.syntax(Diagnostic::error(span, message).help(help));
                        }
                    }
                }
            }
            DeValue::Array(array) => add(key_range.start, Value::Arguments(value, array)),
            _ => add(key_range.start, Value::Scalar(value)),
        }
    }

    fn entry(&mut self, entry: &Entry<'_, '_>, out: &mut Vec<Node>) {
        if entry.key == "do" {
            return match &entry.value {
                Value::Block(_, table) => self.block(table, out),
                Value::Scalar(value) | Value::Arguments(value, _) => {
                    let help = "write [[….do]] and the directives below it";
                    self.refuse(value, "\"do\" is a block of directives", help);
                }
            };
        }
        let name = Word {
            text: entry.key.strip_prefix('\\').unwrap_or(entry.key).into(),
            span: self.span(&entry.key_range),
            quoted: false,
        };
        self.check_word(&name);
        let (whole, args, block) = match &entry.value {
            Value::Scalar(value) => (value.span(), self.words(&[*value]), None),
            Value::Arguments(value, array) => {
                (value.span(), self.words(&array.iter().collect::<Vec<_>>()), None)
            }
            Value::Block(value, table) => {
                let Some((args, children)) = self.inside(value, table) else { return };
                (value.span(), args, Some(Block::Directives(children)))
            }
        };
        // a repeated directive or block is at its own value, perhaps far from the key
        let start = if entry.start == entry.key_range.start { entry.start } else { whole.start };
        let node = Node { name, args, block, span: self.span(&(start..whole.end)) };
        if &*node.name.text == "include" && node.block.is_none() && !self.loader.keeps_includes() {
            let mut content = Block::default();
            self.loader.include(&node, self.depth, &mut content);
            out.append(&mut content.into_nodes());
        } else {
            out.push(node);
        }
    }

    /// The arguments and directives of a block.
    fn inside(&mut self, value: &Spanned<DeValue<'_>>, table: &DeTable<'_>) -> Option<(Words, Vec<Node>)> {
        if self.depth >= DEPTH_MAX {
            self.refuse(value, &format!("blocks are nested more than {DEPTH_MAX} deep"), "");
            return None;
        }
        let is_args = |key: &Spanned<DeString<'_>>| key.get_ref() == "args";
        let args = match table.iter().find(|(key, _)| is_args(key)).map(|(_, value)| value) {
            None => Words::new(),
            Some(value) => match value.get_ref() {
                DeValue::Array(array) => self.words(&array.iter().collect::<Vec<_>>()),
                _ => self.words(&[value]),
            },
        };
        self.depth += 1;
        let mut children = Vec::new();
        self.directives(table.iter().filter(|(key, _)| !is_args(key)), &mut children);
        self.depth -= 1;
        Some((args, children))
    }

    fn words(&mut self, values: &[&Spanned<DeValue<'_>>]) -> Words {
        let mut words = Words::with_capacity(values.len());
        for value in values {
            let range = value.span();
            let text: Text = match value.get_ref() {
                DeValue::String(text) => text.as_ref().into(),
                DeValue::Boolean(on) => if *on { "on" } else { "off" }.into(),
                DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str().into(),
                // keep the text as written: we do not want TOML's value
                DeValue::Integer(_) | DeValue::Float(_) | DeValue::Datetime(_) => {
                    self.text.get(range.clone()).unwrap_or("").into()
                }
                DeValue::Array(_) | DeValue::Table(_) => {
                    self.refuse(value, "an argument is a string, a number, true or false", "");
                    continue;
                }
            };
            let quoted = matches!(value.get_ref(), DeValue::String(_));
            let word = Word { text, span: self.span(&range), quoted };
            self.check_word(&word);
            words.push(word);
        }
        words
    }

    fn check_word(&mut self, word: &Word) {
        if word.text.contains('\0') {
            let message = "a directive cannot contain a NUL character";
            self.loader.syntax(Diagnostic::error(word.span, message));
        }
    }

    fn span(&self, range: &Range<usize>) -> Span {
        to_span(self.file, self.text, range)
    }

    fn refuse(&mut self, value: &Spanned<DeValue<'_>>, message: &str, help: &str) {
        let mut diagnostic = Diagnostic::error(self.span(&value.span()), message);
        diagnostic.help = (!help.is_empty()).then(|| help.into());
        self.loader.syntax(diagnostic);
    }
}

fn is_compound(value: &DeValue<'_>) -> bool {
    matches!(value, DeValue::Array(_) | DeValue::Table(_))
}

/// Ranges of valid values are on character boundaries, but those recovered from an error may not be.
fn to_span(file: FileId, text: &str, range: &Range<usize>) -> Span {
    let start = text.floor_char_boundary(range.start);
    let end = text.floor_char_boundary(range.end.max(start));
    Span { file, start: start as u32, end: end as u32 }
}
