//! Writes the manual's section on directives from the rows (mdoc, for `man/pronghorn.conf.5`).

use std::fmt::Write;

use crate::config::{Arity, RowInfo, Shape};

/// The line width up to which mandoc(1) does not complain.
const WIDTH_MAX: usize = 80;

/// One `.It` per row, sorted by name: syntax, contexts, default, description.
pub fn directives<'a>(rows: impl IntoIterator<Item = &'a RowInfo>) -> String {
    let mut rows: Vec<&RowInfo> = rows.into_iter().collect();
    rows.sort_by_key(|row| (row.name, row.contexts.0));
    let mut out = String::from(".Bl -tag -width Ds\n");
    for row in rows {
        entry(&mut out, row);
    }
    out.push_str(".El\n");
    out
}

fn entry(out: &mut String, row: &RowInfo) {
    let _ = write!(out, ".It Ic {}{}", escape(row.name), syntax(row));
    out.push_str(if row.shape == Shape::Block { " Brq ...\n" } else { "\n" });
    let contexts: Vec<&str> = row.contexts.names().collect();
    let _ = writeln!(out, "{}", filled(&format!("Context: {}.", contexts.join(", "))));
    if let Some(default) = &row.default {
        let _ = writeln!(out, "{}", filled(&format!("Default: {}.", escape(default))));
    }
    let _ = writeln!(out, ".br\n{}", line(row.doc));
    if let Shape::Number { min, max } = row.shape {
        let _ = match max {
            u64::MAX if min == 0 => Ok(()),
            u64::MAX => writeln!(out, "At least {min}."),
            max => writeln!(out, "From {min} to {max}."),
        };
    }
    if matches!(row.shape, Shape::Accepted(_)) {
        out.push_str("Accepted so that nginx configurations can be read; has no effect.\n");
    }
}

/// The arguments as macros of the `.It` line.
fn syntax(row: &RowInfo) -> String {
    use crate::config::directive::Accepted;
    match row.shape {
        Shape::Flag | Shape::Accepted(Accepted::Flag) => " Cm on | off".into(),
        Shape::Number { .. } | Shape::Accepted(Accepted::Number) => " Ar number".into(),
        Shape::Size | Shape::Accepted(Accepted::Size) => " Ar size".into(),
        Shape::Millis | Shape::Accepted(Accepted::Millis) => " Ar time".into(),
        Shape::Text => " Ar string".into(),
        Shape::Keyword(words) => {
            let words: Vec<String> = words.iter().map(|word| escape(word)).collect();
            format!(" Cm {}", words.join(" | "))
        }
        Shape::Accepted(Accepted::OneOf(words) | Accepted::Keyword(words)) => {
            let words: Vec<String> = words.iter().map(|word| escape(word)).collect();
            format!(" Cm {}", words.join(" | "))
        }
        Shape::Accepted(Accepted::SizeOr(word)) => format!(" Ar size | Cm {word}"),
        Shape::Buffers | Shape::Accepted(Accepted::Buffers) => " Ar number size".into(),
        Shape::Custom
        | Shape::Block
        | Shape::Accepted(Accepted::Words | Accepted::List | Accepted::Named(_)) => arguments(row.arity),
    }
}

fn arguments(arity: Arity) -> String {
    match (arity.min, arity.max) {
        (_, 0) => String::new(),
        (0, 1) => " Op Ar argument".into(),
        (0, _) => " Op Ar argument ...".into(),
        (1, 1) => " Ar argument".into(),
        (_, _) => " Ar argument ...".into(),
    }
}

/// Puts each sentence on a line of its own.
pub fn line(text: &str) -> String {
    let begins = |rest: &str| rest.starts_with(|char: char| char.is_ascii_uppercase());
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.match_indices(". ").map(|(at, _)| at + 2).find(|at| begins(&rest[*at..])) {
        let _ = writeln!(out, "{}", filled(&escape(rest[..at].trim_end())));
        rest = &rest[at..];
    }
    let end = if rest.ends_with(['.', '!', '?']) { "" } else { "." };
    out + &filled(&(escape(rest) + end))
}

/// Wraps text to lines that fit a terminal. `escape` has protected words that must not begin a line.
fn filled(text: &str) -> String {
    let mut out = String::new();
    let mut width = 0;
    for word in text.split(' ') {
        let is_full = width > 0 && width + 1 + word.len() > WIDTH_MAX;
        if width > 0 {
            out.push(if is_full { '\n' } else { ' ' });
        }
        out.push_str(word);
        width = if is_full || width == 0 { word.len() } else { width + 1 + word.len() };
    }
    out
}

/// Escapes text so that troff prints it unchanged, also at the start of a line and as a macro's argument.
fn escape(text: &str) -> String {
    let words = text.split(' ').map(|word| {
        let mut plain = word.replace('\\', "\\e").replace('"', "\\(dq").replace('-', "\\-");
        let is_macro = word.len() == 2 && word.starts_with(|char: char| char.is_ascii_uppercase());
        if is_macro || word.starts_with(['.', '\'']) || word == "|" {
            plain.insert_str(0, "\\&");
        }
        plain
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::directive::Accepted;
    use crate::config::{Context, Inherits};

    fn row(name: &'static str, shape: Shape, arity: Arity, doc: &'static str) -> RowInfo {
        let (doc, default) = doc.split_once(" = ").map_or((doc, None), |(doc, default)| (doc, Some(default)));
        let (contexts, inherits, default) = (Context::ANY, Inherits::Everywhere, default.map(Into::into));
        RowInfo { name, module: "m", contexts, arity, shape, doc, default, inherits, opens: &[] }
    }

    #[test]
    fn long_sentences_are_cut_between_words() {
        let text = format!("{} {} .c", "a".repeat(70), "b".repeat(12));
        assert_eq!(line(&text), format!("{}\n{} \\&.c.", "a".repeat(70), "b".repeat(12)));
        assert_eq!(filled(&"x".repeat(100)), "x".repeat(100), "a word is never cut");
    }

    #[test]
    fn rows_become_entries_in_the_order_of_names() {
        let rows = [
            row("types", Shape::Block, Arity::exactly(0), "Types of files by their ends."),
            row("status", Shape::Number { min: 400, max: 599 }, Arity::exactly(1), "Status. = 503"),
            row("hash", Shape::Accepted(Accepted::Size), Arity::exactly(1), "Size of \\a table"),
            row(
                "satisfy",
                Shape::Keyword(&["all", "any"]),
                Arity::exactly(1),
                "Who may pass. Not; a default. = all",
            ),
            row("add", Shape::Custom, Arity::between(0, 3), ".It adds"),
        ];
        let expected = "\
.Bl -tag -width Ds
.It Ic add Op Ar argument ...
Context: http, server, location.
.br
\\&.It adds.
.It Ic hash Ar size
Context: http, server, location.
.br
Size of \\ea table.
Accepted so that nginx configurations can be read; has no effect.
.It Ic satisfy Cm all | any
Context: http, server, location.
Default: all.
.br
Who may pass.
Not; a default.
.It Ic status Ar number
Context: http, server, location.
Default: 503.
.br
Status.
From 400 to 599.
.It Ic types Brq ...
Context: http, server, location.
.br
Types of files by their ends.
.El
";
        assert_eq!(directives(&rows), expected);
    }
}
