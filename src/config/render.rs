//! Renders diagnostics as text: nginx's line, the place, the source line with a caret, the help.
//!
//! Not a library's, because the first line must be exactly what nginx prints: tools look for it.

use std::fmt::Write;
use std::path::Path;

use crate::base::foreign;
use crate::config::load::COMMAND_LINE;
use crate::config::{Diagnostic, Diagnostics, Severity, Span, Tree};

/// Maximum number of characters shown of a source line; a longer line is cut around the caret.
const LINE_CHARS_MAX: usize = 120;
const TAB: &str = "    ";

/// Renders all diagnostics, each with its source line; ends with a newline unless there are none.
pub fn render(diagnostics: &Diagnostics, tree: &Tree, color: bool) -> String {
    let mut out = String::new();
    for diagnostic in &diagnostics.0 {
        one(&mut out, diagnostic, tree, &Paint { color });
    }
    out
}

/// One diagnostic as nginx prints it, without level and newline: `message in path:line`.
pub fn line(diagnostic: &Diagnostic, tree: &Tree) -> String {
    let message = clean(&diagnostic.message);
    match diagnostic.span.and_then(|span| tree.place(span)) {
        Some(place) if place.path == Path::new(COMMAND_LINE) => format!("{message} in {COMMAND_LINE}"),
        Some(place) => format!("{message} in {}:{}", place.path.display(), place.line),
        None => message,
    }
}

/// True if diagnostics written to this file should have colours: it is a terminal that shows them.
pub fn wants_color(file: &impl std::io::IsTerminal) -> bool {
    file.is_terminal()
        && std::env::var_os("NO_COLOR").is_none()
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

struct Paint {
    color: bool,
}

impl Paint {
    fn wrap(&self, code: &str, text: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn severity(&self, severity: Severity, text: &str) -> String {
        match severity {
            Severity::Error => self.wrap("1;31", text),
            Severity::Warning => self.wrap("1;33", text),
        }
    }

    fn frame(&self, text: &str) -> String {
        self.wrap("1;34", text)
    }
}

fn one(out: &mut String, diagnostic: &Diagnostic, tree: &Tree, paint: &Paint) {
    let level = match diagnostic.severity {
        Severity::Error => "[emerg]",
        Severity::Warning => "[warn]",
    };
    let level = paint.severity(diagnostic.severity, level);
    let _ = writeln!(out, "pronghorn: {level} {}", line(diagnostic, tree));
    let help = diagnostic.help.as_deref().map(clean).unwrap_or_default();
    let excerpt = diagnostic.span.and_then(|span| Some((tree.place(span)?, excerpt(tree, span)?)));
    let Some((place, excerpt)) = excerpt else {
        if !help.is_empty() {
            let _ = writeln!(out, "   {} {help}", paint.frame("="));
        }
        return;
    };
    let number = place.line.to_string();
    let margin = " ".repeat(number.len());
    let path = place.path.display();
    let _ = writeln!(out, " {} {path}:{}:{}", paint.frame("-->"), place.line, place.column);
    let _ = writeln!(out, "{} {}", paint.frame(&format!("{number} |")), excerpt.text);
    let caret = paint.severity(diagnostic.severity, &"^".repeat(excerpt.caret_width));
    let indent = " ".repeat(excerpt.caret_at);
    let _ = writeln!(out, "{} {indent}{caret} {help}", paint.frame(&format!("{margin} |")));
    let end = out.trim_end_matches([' ', '\n']).len();
    out.truncate(end);
    out.push('\n');
}

struct Excerpt {
    text: String,
    caret_at: usize,
    caret_width: usize,
}

/// The line of the span's start, made fit for display: tabs expanded, control characters replaced, cut to
/// length.
fn excerpt(tree: &Tree, span: Span) -> Option<Excerpt> {
    let text = &tree.source(span.file)?.text;
    let start = span.start as usize;
    let line_start = text.get(..start)?.rfind('\n').map_or(0, |at| at + 1);
    let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
    let end = (span.end as usize).clamp(start, line_end);
    let line_text = &text[line_start..line_end];
    let before = shown(&text[line_start..start]);
    let marked = shown(text.get(start..end)?.trim_end());
    let whole = shown(line_text.trim_end());
    let caret_at = before.chars().count();
    let caret_width = marked.chars().count().max(1);
    if whole.chars().count() <= LINE_CHARS_MAX {
        return Some(Excerpt { text: whole, caret_at, caret_width });
    }
    let first = caret_at.saturating_sub(LINE_CHARS_MAX / 3);
    let mut text: String = whole.chars().skip(first).take(LINE_CHARS_MAX).collect();
    let dots = if first > 0 { "… " } else { "" };
    text.insert_str(0, dots);
    if whole.chars().count() > first + LINE_CHARS_MAX {
        text.push_str(" …");
    }
    let caret_at = caret_at - first + dots.chars().count();
    Some(Excerpt { text, caret_at, caret_width: caret_width.min(LINE_CHARS_MAX - LINE_CHARS_MAX / 3) })
}

fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '\t' => out.push_str(TAB),
            '\u{feff}' => {}
            char if foreign::byte_of(char).is_some() => out.push('\u{fffd}'),
            char if char.is_control() => out.push('\u{fffd}'),
            char => out.push(char),
        }
    }
    out
}

/// A message on one line, without control characters, which a terminal would act on.
fn clean(text: &str) -> String {
    let text = &*foreign::escaped(text);
    let escape = |char: char| char.is_control();
    if !text.contains(escape) {
        return text.to_owned();
    }
    text.chars()
        .flat_map(|char| {
            let escaped = char.is_control().then(|| char.escape_default());
            let plain = (!char.is_control()).then_some(char);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::needs::Needs;
    use crate::config::{LoadOptions, load_text};

    fn at(text: &str, marked: &str, message: &str) -> String {
        let (tree, _) = load_text("conf/site.conf", text, &LoadOptions::default());
        let start = text.find(marked).expect("marked text") as u32;
        let end = start + marked.len() as u32;
        let span = Span { start, end, ..Span::default() };
        let found =
            Diagnostics(vec![Diagnostic::error(span, message).help("why not \"b\"?")], Needs::default());
        render(&found, &tree, false)
    }

    #[test]
    fn an_error_shows_nginx_line_place_caret_and_help() {
        let text = format!("{}    limit_req_staus 429;\n", "\n".repeat(13));
        assert_eq!(
            at(&text, "limit_req_staus", "unknown directive \"limit_req_staus\""),
            "pronghorn: [emerg] unknown directive \"limit_req_staus\" in conf/site.conf:14
 --> conf/site.conf:14:5
14 |     limit_req_staus 429;
   |     ^^^^^^^^^^^^^^^ why not \"b\"?
"
        );
    }

    #[test]
    fn odd_lines_are_fit_to_be_shown() {
        let tabs = at("\ta\u{1b}é x;\r\n", "x", "m");
        assert!(tabs.contains("1 |     a\u{fffd}é x;\n  |         ^ why"), "{tabs}");
        let over_lines = at("a 'b\nc';", "'b\nc'", "m");
        assert!(over_lines.contains("1 | a 'b\n  |   ^^ why"), "{over_lines}");
        let long = at(&format!("a {} x{};", "y".repeat(500), "z".repeat(500)), "xz", "m\n\u{1b}");
        assert!(long.lines().all(|line| line.chars().count() < 140), "{long}");
        assert!(long.contains(" … ") || long.contains("| … "), "{long}");
        assert!(long.starts_with("pronghorn: [emerg] m\\n\\u{1b} in "), "{long}");
    }

    #[test]
    fn findings_without_a_place_are_one_line() {
        let found =
            Diagnostics(vec![Diagnostic::global("no \"events\" section in configuration")], Needs::default());
        let text = render(&found, &Tree::default(), false);
        assert_eq!(text, "pronghorn: [emerg] no \"events\" section in configuration\n");
        let text = render(&found, &Tree::default(), true);
        assert!(text.contains("\u{1b}[1;31m[emerg]\u{1b}[0m"));
    }

    #[test]
    fn command_line_text_is_named_as_nginx_does() {
        let options = LoadOptions { globals: vec!["}".into()], ..LoadOptions::default() };
        let (tree, found) = load_text("t", "", &options);
        assert_eq!(line(&found.0[0], &tree), "unexpected \"}\" in command line");
    }
}
