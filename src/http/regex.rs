//! Regular expressions as PCRE users write them: the linear engine, and a backtracking one with a step
//! limit for look-around and back-references.

use std::ops::Range;

use smallvec::SmallVec;

use crate::config::{Diagnostic, Span};
use crate::http::variable::Registry;

/// Steps of the backtracking engine before a match is given up; nginx's PCRE has 10 million.
const BACKTRACK_LIMIT: usize = 1_000_000;

#[derive(Clone, Debug)]
enum Engine {
    Linear(Box<regex::bytes::Regex>),
    Backtracking(Box<fancy_regex::Regex>),
}

/// A compiled pattern.
#[derive(Clone, Debug)]
pub struct Regex {
    engine: Engine,
    names: Vec<(Box<str>, usize)>,
    /// Where a request keeps each named group: slot and group.
    slots: Vec<(usize, usize)>,
}

/// The ranges of the groups, the whole match first; a group that took no part is `0..0`.
pub type Groups = SmallVec<[Range<usize>; 4]>;

impl Regex {
    /// Compiles a pattern at `span`. Errors: what is wrong with the pattern, in one line.
    pub fn new(pattern: &str, caseless: bool, span: Span) -> Result<Self, Diagnostic> {
        let ours = pcre_to_rust(pattern);
        let built = regex::bytes::RegexBuilder::new(&ours).case_insensitive(caseless).unicode(false).build();
        let engine = match built {
            Ok(linear) => Engine::Linear(Box::new(linear)),
            Err(first) => {
                let flags = if caseless { "(?i)" } else { "" };
                match fancy_regex::RegexBuilder::new(&format!("{flags}{ours}"))
                    .backtrack_limit(BACKTRACK_LIMIT)
                    .build()
                {
                    Ok(backtracking) => Engine::Backtracking(Box::new(backtracking)),
                    Err(_) => return Err(refused(pattern, &first, span)),
                }
            }
        };
        let names = match &engine {
            Engine::Linear(regex) => named(regex.capture_names()),
            Engine::Backtracking(regex) => named(regex.capture_names()),
        };
        Ok(Self { engine, names, slots: Vec::new() })
    }

    /// The named groups and their indexes.
    pub fn names(&self) -> &[(Box<str>, usize)] {
        &self.names
    }

    /// Makes the named groups variables.
    #[must_use]
    pub fn declare(mut self, variables: &mut Registry) -> Self {
        self.slots = self.names.iter().map(|(name, group)| (variables.slot(name), *group)).collect();
        self
    }

    /// The slots of the named groups, with the group each keeps.
    pub fn slots(&self) -> &[(usize, usize)] {
        &self.slots
    }

    pub fn is_match(&self, subject: &[u8]) -> bool {
        match &self.engine {
            Engine::Linear(regex) => regex.is_match(subject),
            Engine::Backtracking(_) => self.captures(subject).is_some(),
        }
    }

    /// Matches and gives the groups. A subject that is no UTF-8 never matches a backtracking pattern.
    pub fn captures(&self, subject: &[u8]) -> Option<Groups> {
        match &self.engine {
            Engine::Linear(regex) => {
                let found = regex.captures(subject)?;
                Some(found.iter().map(|group| group.map_or(0..0, |group| group.range())).collect())
            }
            Engine::Backtracking(regex) => {
                let found = regex.captures(std::str::from_utf8(subject).ok()?).ok()??;
                Some(found.iter().map(|group| group.map_or(0..0, |group| group.range())).collect())
            }
        }
    }
}

fn named<'a>(names: impl Iterator<Item = Option<&'a str>>) -> Vec<(Box<str>, usize)> {
    names.enumerate().filter_map(|(index, name)| Some((name?.into(), index))).collect()
}

/// PCRE accepts an escaped slash and other needless escapes; the linear engine refuses some of them. Neither engine
/// knows `\Q…\E`.
fn pcre_to_rust(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut chars = pattern.chars();
    while let Some(char) = chars.next() {
        if char != '\\' {
            out.push(char);
            continue;
        }
        match chars.next() {
            // The engine knows no escape for these letters' neighbours; a literal is a literal.
            Some(next) if !next.is_ascii_alphanumeric() && !next.is_ascii_punctuation() => out.push(next),
            Some('Z') => out.push_str("\\z"),
            Some('Q') => {
                let quoted = chars.as_str();
                let (literal, rest) = quoted.split_once("\\E").unwrap_or((quoted, ""));
                out.push_str(&regex::escape(literal));
                chars = rest.chars();
            }
            // PCRE ignores an end without a beginning.
            Some('E') => {}
            Some(next) => {
                out.push('\\');
                out.push(next);
            }
            None => out.push('\\'),
        }
    }
    out
}

fn refused(pattern: &str, error: &regex::Error, span: Span) -> Diagnostic {
    let text = error.to_string();
    let why = text.lines().rev().find_map(|line| line.strip_prefix("error: ")).unwrap_or(&text);
    Diagnostic::error(span, format!("invalid regular expression \"{pattern}\": {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(pattern: &str) -> Regex {
        Regex::new(pattern, false, Span::default()).expect("a valid pattern")
    }

    #[test]
    fn both_engines_capture() {
        let linear = compile(r"^/u/(?<name>[a-z]+)\.php$");
        assert_eq!(linear.names(), [("name".into(), 1)]);
        assert_eq!(linear.captures(b"/u/bob.php").unwrap()[1], 3..6);
        let backtracking = compile(r"^/(?!private)(\w+)$");
        assert!(backtracking.is_match(b"/open"));
        assert!(!backtracking.is_match(b"/private"));
    }

    #[test]
    fn quoted_text_is_literal() {
        let cases: [(&str, &[u8], bool); 6] = [
            (r"^\Qa.b\E$", b"a.b", true),
            (r"^\Qa.b\E$", b"axb", false),
            (r"^(?<x>[a-z]+)\Q.[c\E\d$", b"ab.[c7", true),
            (r"^\Qto the end+", b"to the end+", true),
            (r"^a\Eb$", b"ab", true),
            (r"^(?!x)\Q(y\E", b"(y", true),
        ];
        for (pattern, subject, expected) in cases {
            assert_eq!(compile(pattern).is_match(subject), expected, "{pattern}");
        }
    }

    #[test]
    fn a_hostile_pattern_gives_up_instead_of_hanging() {
        let hostile = compile(r"^(?=(a+)+b)(a+)+$");
        assert!(!hostile.is_match("a".repeat(40).as_bytes()));
    }

    #[test]
    fn a_pattern_nobody_can_run_is_a_diagnostic() {
        let error = Regex::new("(unclosed", false, Span::default()).unwrap_err();
        assert!(error.message.contains("(unclosed"), "{}", error.message);
    }
}
