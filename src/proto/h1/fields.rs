//! The field lines of a head or of trailers.
//!
//! Touches: nothing. RFC 9112 §5; nginx.org, `ignore_invalid_headers`, `underscores_in_headers`.

use crate::proto::h1::Error;
use crate::proto::head::Fields;
use crate::proto::header::{Field, HIGHS, Id, ONES};
use crate::sys::wide::{self, Block};

/// The line that a head begins with.
pub(super) struct FirstLine {
    /// Without its LF, but with a CR before it.
    pub length: usize,
    pub has_cr: bool,
    /// No control character is in it but these two.
    pub is_clean: bool,
}

impl FirstLine {
    /// `None`: its end has not come.
    #[inline]
    pub(super) fn of(rest: &[u8]) -> Option<Self> {
        let end = wide::find(rest, 0, Block::controls)?;
        // Mostly the first control character is its end.
        match rest.get(end..) {
            Some([b'\r', b'\n', ..]) => Some(Self { length: end + 1, has_cr: true, is_clean: true }),
            Some([b'\n', ..]) => Some(Self { length: end, has_cr: false, is_clean: true }),
            _ => {
                let length = end + memchr::memchr(b'\n', &rest[end..])?;
                Some(Self { length, has_cr: rest[..length].ends_with(b"\r"), is_clean: false })
            }
        }
    }

    /// The line without what ends it.
    #[inline]
    pub(super) fn text<'a>(&self, rest: &'a [u8]) -> &'a [u8] {
        rest.get(..self.length - usize::from(self.has_cr)).unwrap_or_default()
    }
}

/// How field lines are judged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub line_bytes_max: usize,
    pub count_max: usize,
    /// Names of other than letters, digits and `-` are left out.
    pub ignore_odd: bool,
    /// `_` belongs to a proper name.
    pub underscores: bool,
    /// Each line must end with CRLF.
    pub crlf_only: bool,
}

/// Whether a byte may stand in a token (RFC 9110 §5.6.2).
pub(super) fn is_token_byte(byte: u8) -> bool {
    CLASS[usize::from(byte)] != INVALID
}

/// How far a head was looked at that comes in pieces, so that what has been judged is not judged again with each piece:
/// the cost of a head is linear in its bytes however they come. Begins as its default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Bytes of the head that were there the last time; 0: none.
    pub bytes: usize,
    /// Where the last line begins, which was not whole.
    pub line: usize,
}

impl Seen {
    /// Whether a head of which more has come must be parsed from its beginning: it may be whole, or it has a fault that
    /// the parser shall tell. Else more must come.
    pub(super) fn wants_parse(&mut self, buf: &[u8], rules: &Rules, scratch: &mut Fields) -> bool {
        let (before, line) = (self.bytes, self.line);
        let Some(new) = buf.get(before..).filter(|_| before > 0) else { return true };
        self.bytes = buf.len();
        let Some(last) = memchr::memrchr(b'\n', new) else {
            // No line has ended.
            let is_control = |byte: &u8| (*byte < b' ' && !matches!(byte, b'\t' | b'\r')) || *byte == 0x7f;
            return buf.len().saturating_sub(line) > rules.line_bytes_max || new.iter().any(is_control);
        };
        self.line = before + last + 1;
        if line == 0 {
            return true; // the first line has ended
        }
        scratch.clear();
        !matches!(parse(buf, line, rules, scratch), Ok(None))
    }

    /// The head was parsed from its beginning, and is not whole.
    pub(super) fn is_partial(&mut self, buf: &[u8]) {
        self.bytes = buf.len();
        self.line = memchr::memrchr(b'\n', buf).map_or(0, |last| last + 1);
    }
}

const INVALID: u8 = 8; // no part of a name: the line is refused
const PLAIN: u8 = 1; // letters, digits, `-`
const UNDERSCORE: u8 = 2;
const TOKEN: u8 = 4; // the other characters of a token
const CLASS: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut classes = [INVALID; 256]; // controls, separators, bytes past ASCII
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = match byte as u8 {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' => PLAIN,
            b'_' => UNDERSCORE,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'.' | b'^' | b'`' | b'|' | b'~' => {
                TOKEN
            }
            _ => INVALID,
        };
        byte += 1;
    }
    classes
}

/// Reads field lines from `at` to the empty line that ends them: where the bytes behind it begin, or `None`
/// when more must come. Lines may end with a lone LF, as nginx has it, unless the rules say otherwise.
pub(super) fn parse(
    buf: &[u8],
    mut at: usize,
    rules: &Rules,
    fields: &mut Fields,
) -> Result<Option<usize>, Error> {
    if u32::try_from(buf.len()).is_err() {
        return Err(Error::HeadTooLarge); // places are 32 bits wide
    }
    fields.make_room();
    let mut seen_count = 0usize;
    while let Some(rest) = buf.get(at..) {
        if rest.first().is_none_or(|byte| *byte <= b' ')
            && let Some(end) = end_of_fields(rest, rules)
        {
            return end.map(|length| length.map(|length| at + length));
        }
        // A known name needs no look at its characters.
        let (name_length, class, id) = match Id::of_line(rest) {
            Some((length, id)) => (length, Class::Proper, Some(id)),
            None => match unknown_name(rest, rules)? {
                Some((length, class)) => (length, class, None),
                None => return incomplete(rest, rules),
            },
        };
        let value = match usual_value(rest, name_length) {
            Some(value) => value,
            None => match any_value(rest, name_length)? {
                Some(value) => value,
                None => return incomplete(rest, rules),
            },
        };
        seen_count += 1;
        if value.line_length > rules.line_bytes_max {
            return Err(Error::HeadTooLarge);
        }
        if seen_count > rules.count_max {
            return Err(Error::TooManyFields);
        }
        if !value.has_cr && rules.crlf_only {
            return Err(Error::BareLf);
        }
        if class != Class::Ignored {
            fields.push(Field {
                name_start: at as u32,
                value_start: (at + value.start) as u32,
                value_length: value.length as u32,
                name_length: u16::try_from(name_length).map_err(|_| Error::HeadTooLarge)?,
                id,
                is_odd: class == Class::Odd,
            });
        }
        at += value.line_length + 1;
    }
    Ok(None)
}

fn incomplete(rest: &[u8], rules: &Rules) -> Result<Option<usize>, Error> {
    if rest.len() > rules.line_bytes_max { Err(Error::HeadTooLarge) } else { Ok(None) }
}

/// A field's value, without the spaces and tabs around it, and the end of its line. Places count from the first byte of
/// the line.
struct Value {
    start: usize,
    length: usize,
    /// Without its LF, but with a CR before it.
    line_length: usize,
    has_cr: bool,
}

/// The value of a line as nearly all are written: behind a colon and one space, not empty, before CRLF. It is found with
/// few questions, half of those of [`any_value`], which finds the same, and all others.
#[inline(always)]
fn usual_value(line: &[u8], name_length: usize) -> Option<Value> {
    let start = name_length + 2;
    let end = wide::find(line, start, Block::controls)?;
    let value = line.get(start..end)?;
    let is_usual = line[name_length + 1] == b' '
        && *value.first()? > b' '
        && *value.last()? > b' '
        && line[end..].first_chunk() == Some(b"\r\n");
    is_usual.then_some(Value { start, length: value.len(), line_length: end + 1, has_cr: true })
}

/// `None`: the line has not come whole. Errors: a control character other than tab (RFC 9110 §5.5), a CR that no LF
/// follows.
#[inline(never)]
fn any_value(line: &[u8], name_length: usize) -> Result<Option<Value>, Error> {
    let Some((end, line_length)) = value_end(line, name_length + 1)? else { return Ok(None) };
    // Of what is trimmed a value has nothing but spaces and tabs.
    let from_start = line.get(name_length + 1..end).unwrap_or_default().trim_ascii_start();
    let (start, length) = (end - from_start.len(), from_start.trim_ascii_end().len());
    Ok(Some(Value { start, length, line_length, has_cr: line_length > end }))
}

/// What a line means that begins with no visible character: the length of the empty line that ends the fields, a fault,
/// or that more must come. `None`: it is a field line, for better or worse.
#[inline]
fn end_of_fields(rest: &[u8], rules: &Rules) -> Option<Result<Option<usize>, Error>> {
    Some(match rest {
        [b'\r', b'\n', ..] => Ok(Some(2)),
        [] | [b'\r'] => Ok(None),
        [b'\n', ..] if rules.crlf_only => Err(Error::BareLf),
        [b'\n', ..] => Ok(Some(1)),
        [b'\r', ..] => Err(Error::BareCr),
        [b' ' | b'\t', ..] => Err(Error::FoldedField),
        _ => return None,
    })
}

/// What becomes of a field because of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Proper,
    /// Kept, and marked.
    Odd,
    Ignored,
}

/// The length of the name that a line begins with, which is no known one, and its class; `None`: it is not whole yet.
#[inline(never)]
fn unknown_name(line: &[u8], rules: &Rules) -> Result<Option<(usize, Class)>, Error> {
    let Some(length) = wide::find(line, 0, |block| block.equal(b':')) else {
        return unfinished_name(line).map(|()| None);
    };
    let name = &line[..length];
    let classes = name.iter().fold(0, |classes, byte| classes | CLASS[usize::from(*byte)]);
    if length == 0 || classes & INVALID != 0 {
        return unfinished_name(line).and(Err(Error::InvalidFieldName));
    }
    Ok(Some((length, class_of(name, classes, rules))))
}

/// Tells why a line cannot begin with a name; no error where more of the name may come.
#[cold]
fn unfinished_name(line: &[u8]) -> Result<(), Error> {
    match line.iter().find(|byte| CLASS[usize::from(**byte)] == INVALID) {
        None => Ok(()),
        Some(b'\n' | b'\r') => Err(Error::InvalidFieldLine),
        Some(_) => Err(Error::InvalidFieldName),
    }
}

/// `classes`: those of the name's characters.
fn class_of(name: &[u8], classes: u8, rules: &Rules) -> Class {
    let is_odd = classes & TOKEN != 0 || classes & UNDERSCORE != 0 && !rules.underscores;
    // A name with an underscore is proper where the rules say so, but never one that others take for our framing.
    let is_mimicked = classes & (TOKEN | UNDERSCORE) != 0 && Id::is_mimicked(name);
    match is_odd {
        _ if is_mimicked => Class::Ignored,
        true if rules.ignore_odd => Class::Ignored,
        true => Class::Odd,
        false => Class::Proper,
    }
}

/// Where the value that begins at `at` and its line (without the LF) end; `None` when the line is not whole yet.
/// Errors: a control character other than tab (RFC 9110 §5.5), a CR that no LF follows.
fn value_end(line: &[u8], mut at: usize) -> Result<Option<(usize, usize)>, Error> {
    loop {
        let Some(end) = wide::find(line, at, Block::controls) else { return Ok(None) };
        match line.get(end..) {
            Some([b'\r', b'\n', ..]) => return Ok(Some((end, end + 1))),
            Some([b'\n', ..]) => return Ok(Some((end, end))),
            Some([b'\t', ..]) => at = end + 1,
            Some([b'\r']) => return Ok(None),
            Some([b'\r', ..]) => return Err(Error::BareCr),
            _ => return Err(Error::InvalidFieldValue),
        }
    }
}

/// Refuses control characters other than tab (RFC 9110 §5.5).
pub(super) fn check_value(value: &[u8]) -> Result<(), Error> {
    let (words, rest) = value.as_chunks::<8>();
    if words.iter().all(|word| controls(*word) == 0) && rest.iter().all(|byte| *byte >= b' ' && *byte != 0x7f)
    {
        return Ok(());
    }
    match value.iter().find(|byte| **byte < b' ' && **byte != b'\t' || **byte == 0x7f) {
        None => Ok(()),
        Some(b'\r') => Err(Error::BareCr),
        Some(_) => Err(Error::InvalidFieldValue),
    }
}

/// Whether a byte would end a line or a head: CR, LF or NUL. Text of a head mostly has no control character at all.
#[inline]
pub(super) fn has_break(text: &[u8]) -> bool {
    let has_control = match (text.as_chunks::<8>().0, text.last_chunk::<8>()) {
        // The last word overlaps the one before it.
        (words, Some(last)) => words.iter().chain([last]).any(|word| controls(*word) != 0),
        _ => text.iter().any(|byte| *byte < b' '),
    };
    has_control && memchr::memchr3(b'\r', b'\n', 0, text).is_some()
}

/// Eight bytes at once: the high bit of each that is a control character, a tab too. Exact for the lowest one, and
/// zero if there is none; a borrow may flag innocent bytes above it.
fn controls(word: [u8; 8]) -> u64 {
    let word = u64::from_le_bytes(word);
    let below = word.wrapping_sub(ONES * 0x20) & !word;
    let delete = word ^ (ONES * 0x7f);
    (below | (delete.wrapping_sub(ONES) & !delete)) & HIGHS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_ends_at_its_line_wherever_that_is() {
        for length in 0..20 {
            let value = vec![b'a'; length];
            let with = |end: &[u8]| value_end(&[&value[..], end, b"next: line"].concat(), 0);
            assert_eq!(with(b"\r\n"), Ok(Some((length, length + 1))));
            assert_eq!(with(b"\n"), Ok(Some((length, length))));
            assert_eq!(with(b"\r"), Err(Error::BareCr));
            assert_eq!(with(b"\tb\xff\r\n"), Ok(Some((length + 3, length + 4))));
            for byte in (0..32).filter(|byte| !b"\t\r\n".contains(byte)).chain([127]) {
                assert_eq!(with(&[byte]), Err(Error::InvalidFieldValue), "{byte} behind {length}");
            }
            assert_eq!(value_end(&[&value[..], b"\r"].concat(), 0), Ok(None));
            assert_eq!(value_end(&value, 0), Ok(None));
        }
    }

    #[test]
    fn finds_every_break_at_every_place() {
        for length in 0..20 {
            for at in 0..length {
                for byte in 0..=255u8 {
                    let mut text = vec![b'a'; length];
                    text[at] = byte;
                    assert_eq!(
                        has_break(&text),
                        matches!(byte, b'\r' | b'\n' | 0),
                        "{byte} at {at} of {length}"
                    );
                }
            }
        }
        assert!(!has_break(b"") && has_break(b"\t\t\t\t\t\t\t\t\t\r\t\t"));
    }

    #[test]
    fn finds_every_control_character_at_every_place() {
        for length in 1..20 {
            for at in 0..length {
                for byte in 0..=255u8 {
                    let mut value = vec![b'a'; length];
                    value[at] = byte;
                    let is_bad = byte < 32 && byte != b'\t' || byte == 127;
                    assert_eq!(check_value(&value).is_err(), is_bad, "{byte} at {at} of {length}");
                }
            }
        }
    }
}
