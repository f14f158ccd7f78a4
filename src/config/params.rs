//! Parses the values of arguments, with nginx's diagnostics.
//!
//! Sizes, times, numbers, `on|off`, and `name=value` parameters. Each function takes the directive and the
//! argument's index, so that the caret points at the wrong word.

use strsim::damerau_levenshtein;

use crate::base::number;
use crate::config::{Diagnostic, Node, Word};

/// Parses argument `index` as bytes: `8k`, `1m`, `1g`.
pub fn size(node: &Node, index: usize) -> Result<u64, Diagnostic> {
    number::parse_size(node.arg(index)).ok_or_else(|| {
        invalid(node, index, "value").help("a size is a number of bytes, or ends in k, m or g: 8k, 1m")
    })
}

/// Parses the arguments as a number and a size of buffers, `8 4k`; neither may be zero.
pub fn buffers(node: &Node) -> Result<(u64, u64), Diagnostic> {
    let count = number::parse_u64(node.arg(0).as_bytes()).filter(|count| (1..=1 << 20).contains(count));
    let count = count
        .ok_or_else(|| invalid(node, 0, "value").help("a number of buffers, and the size of one: 8 4k"))?;
    match size(node, 1)? {
        0 => Err(invalid(node, 1, "value")),
        size => Ok((count, size)),
    }
}

/// Parses argument `index` as milliseconds: `30s`, `1h 30m`; a bare number is seconds.
pub fn millis(node: &Node, index: usize) -> Result<u64, Diagnostic> {
    number::parse_millis(node.arg(index)).ok_or_else(|| {
        invalid(node, index, "value").help("a time is seconds, or numbers with units: 500ms, 30s, 1h 30m")
    })
}

/// Parses argument `index` as a whole number from `min` to `max`.
pub fn number(node: &Node, index: usize, min: u64, max: u64) -> Result<u64, Diagnostic> {
    let value =
        number::parse_u64(node.arg(index).as_bytes()).ok_or_else(|| invalid(node, index, "number"))?;
    if (min..=max).contains(&value) {
        return Ok(value);
    }
    let message = if max == u64::MAX {
        format!("value must be equal to or greater than {min}")
    } else {
        format!("value must be between {min} and {max}")
    };
    let name = &node.name.text;
    let help = match max {
        u64::MAX => format!("\"{name}\" is a number from {min}"),
        max => format!("\"{name}\" is a number from {min} to {max}"),
    };
    Err(Diagnostic::error(node.arg_span(index), message).help(help))
}

/// Parses argument `index` as `on` or `off`, in any case.
pub fn flag(node: &Node, index: usize) -> Result<bool, Diagnostic> {
    let text = node.arg(index);
    if text.eq_ignore_ascii_case("on") {
        return Ok(true);
    }
    if text.eq_ignore_ascii_case("off") {
        return Ok(false);
    }
    let name = &node.name.text;
    let message = format!("invalid value \"{text}\" in \"{name}\" directive, it must be \"on\" or \"off\"");
    Err(Diagnostic::error(node.arg_span(index), message))
}

/// The index, among `words`, of argument `index`.
pub fn keyword(node: &Node, index: usize, words: &[&str]) -> Result<usize, Diagnostic> {
    let text = node.arg(index);
    words.iter().position(|word| *word == text).ok_or_else(|| invalid_value(node, index, words))
}

/// `invalid value "x"`, with the most similar word or all of them.
pub fn invalid_value(node: &Node, index: usize, words: &[&str]) -> Diagnostic {
    let text = node.arg(index);
    let help = match closest(text, words.iter().copied()) {
        Some(word) => format!("did you mean \"{word}\"?"),
        None => format!("one of: {}", words.join(", ")),
    };
    Diagnostic::error(node.arg_span(index), format!("invalid value \"{text}\"")).help(help)
}

/// `duplicate value "x"`: a warning that a list has the word already.
pub fn duplicate_value(node: &Node, index: usize) -> Diagnostic {
    Diagnostic::warning(node.arg_span(index), format!("duplicate value \"{}\"", node.arg(index)))
}

/// `invalid parameter "x"`, as nginx reports for `name=value` arguments.
pub fn invalid_parameter(word: &Word, names: &[&str]) -> Diagnostic {
    let diagnostic = Diagnostic::error(word.span, format!("invalid parameter \"{}\"", word.text));
    let (name, value) = word.text.split_once('=').map_or((&*word.text, false), |(name, _)| (name, true));
    let bare = |known: &&str| known.trim_end_matches('=').to_owned();
    if let Some(known) = names.iter().find(|known| bare(known) == name) {
        return match (known.ends_with('='), value) {
            (true, false) => diagnostic.help(format!("\"{name}\" needs a value: {name}=…")),
            (false, true) => diagnostic.help(format!("\"{name}\" takes no value")),
            _ => diagnostic,
        };
    }
    match closest(name, names.iter().map(|known| known.trim_end_matches('='))) {
        Some(known) => diagnostic.help(format!("did you mean \"{known}\"?")),
        None => diagnostic,
    }
}

/// The value of a word `name=value`; `None` if the name is another one.
pub fn value<'a>(word: &'a Word, name: &str) -> Option<&'a str> {
    word.text.strip_prefix(name)?.strip_prefix('=')
}

/// The candidate that a mistyped word most likely means: at most every third letter may be wrong; `-` equals
/// `_`, and case is ignored.
pub fn closest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    const WORD_BYTES_MAX: usize = 64; // the distance costs the product of the lengths
    if word.is_empty() || word.len() > WORD_BYTES_MAX {
        return None;
    }
    let plain = |text: &str| text.to_lowercase().replace('-', "_");
    let word = plain(word);
    let limit = word.chars().count().max(3) / 3;
    candidates
        .filter(|candidate| candidate.len().abs_diff(word.len()) <= 2 * limit)
        .map(|candidate| (damerau_levenshtein(&word, &plain(candidate)), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, candidate)| (*distance, candidate.len().abs_diff(word.len())))
        .map(|(_, candidate)| candidate)
}

fn invalid(node: &Node, index: usize, what: &str) -> Diagnostic {
    let message = format!("\"{}\" directive invalid {what}", node.name.text);
    Diagnostic::error(node.arg_span(index), message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closest_finds_typing_errors_only() {
        let names = ["limit_req", "limit_req_status", "listen", "location"];
        let find = |word| closest(word, names.into_iter());
        assert_eq!(find("limit_req_staus"), Some("limit_req_status"));
        assert_eq!(find("Limit-Req"), Some("limit_req"));
        assert_eq!(find("lisetn"), Some("listen"));
        assert_eq!(find("upstream"), None);
        assert_eq!(find(""), None);
    }
}
