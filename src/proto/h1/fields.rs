//! Parses the field lines of a head or of trailers.
//!
//! Touches: nothing. RFC 9112 §5; nginx.org, `ignore_invalid_headers`, `underscores_in_headers`.

use crate::proto::h1::Error;
use crate::proto::head::Fields;
use crate::proto::header::{Field, HIGHS, Id, ONES};
use crate::sys::wide::{self, Block};

/// The first line of a head.
pub(super) struct FirstLine {
    /// Its length without the LF, but with a CR before it.
    pub length: usize,
    pub has_cr: bool,
    /// It has no control character other than these two.
    pub is_clean: bool,
}

impl FirstLine {
    /// `None` if the end of the line has not arrived.
    #[inline]
    pub(super) fn of(rest: &[u8]) -> Option<Self> {
        let end = wide::find(rest, 0, Block::controls)?;
        // Usually the first control character is the end of the line.
        match rest.get(end..) {
            Some([b'\r', b'\n', ..]) => Some(Self { length: end + 1, has_cr: true, is_clean: true }),
            Some([b'\n', ..]) => Some(Self { length: end, has_cr: false, is_clean: true }),
            _ => {
                let length = end + memchr::memchr(b'\n', &rest[end..])?;
                Some(Self { length, has_cr: rest[..length].ends_with(b"\r"), is_clean: false })
            }
        }
    }

    /// The line without its terminator.
    #[inline]
    pub(super) fn text<'a>(&self, rest: &'a [u8]) -> &'a [u8] {
        rest.get(..self.length - usize::from(self.has_cr)).unwrap_or_default()
    }
}

/// The rules for field lines.
#[derive(Clone, Copy, Debug)]
pub(in crate::proto) struct Rules {
    pub line_bytes_max: usize,
    pub count_max: usize,
    /// Drop fields whose names have characters other than letters, digits and `-`.
    pub ignore_odd: bool,
    /// Accept `_` in names.
    pub underscores: bool,
    /// Every line must end with CRLF.
    pub crlf_only: bool,
}

/// True for a byte that may be part of a token (RFC 9110 §5.6.2).
pub(in crate::proto) fn is_token_byte(byte: u8) -> bool {
    CLASS[usize::from(byte)] != INVALID
}

/// The part of an incomplete head that was already examined, so that a head that arrives in pieces costs time
/// linear in its bytes, however it is cut. Starts as the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Number of bytes at the last call; 0: none.
    pub bytes: usize,
    /// Start of the last line, which was incomplete.
    pub line: usize,
}

impl Seen {
    /// True if a head must now be parsed from its beginning: it may be complete, or it has an error for the
    /// parser to report. False: more bytes are needed.
    pub(in crate::proto) fn wants_parse(&mut self, buf: &[u8], rules: &Rules, scratch: &mut Fields) -> bool {
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

    /// Notes that the head was parsed from its beginning and is incomplete.
    pub(in crate::proto) fn is_partial(&mut self, buf: &[u8]) {
        self.bytes = buf.len();
        self.line = memchr::memrchr(b'\n', buf).map_or(0, |last| last + 1);
    }
}

const INVALID: u8 = 8; // not allowed in a name: the line is refused
const PLAIN: u8 = 1; // letters, digits, `-`
const UNDERSCORE: u8 = 2;
const TOKEN: u8 = 4; // the other characters of a token
const CLASS: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut classes = [INVALID; 256]; // controls, separators, bytes beyond ASCII
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

/// Parses field lines from `at` to the empty line that ends them. Returns the position after it, or `None` if
/// more bytes are needed. Lines may end with a lone LF, as in nginx, unless the rules forbid it.
pub(in crate::proto) fn parse(
    buf: &[u8],
    mut at: usize,
    rules: &Rules,
    fields: &mut Fields,
) -> Result<Option<usize>, Error> {
    if u32::try_from(buf.len()).is_err() {
        return Err(Error::HeadTooLarge); // positions are 32 bits wide
    }
    fields.make_room();
    let (after, mut seen_count) = usual_fields(buf, at, rules, fields);
    at = after;
    while let Some(rest) = buf.get(at..) {
        if rest.first().is_none_or(|byte| *byte <= b' ')
            && let Some(end) = end_of_fields(rest, rules)
        {
            return end.map(|length| length.map(|length| at + length));
        }
        // A known name needs no check of its characters.
        let (name_length, class, id) = match Id::of_line(rest) {
            Some((length, id)) => (length, Class::Proper, Some(id)),
            None => match unknown_name(rest, rules)? {
                Some((length, class)) => (length, class, None),
                None => return incomplete(rest, rules),
            },
        };
        let value = match usual_value(buf, at, name_length) {
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

/// Parses field lines as long as they are in the usual form, with known names, which takes far fewer checks than the rest.
/// Returns the position of the first other line, and the number of fields before it.
#[inline(always)]
fn usual_fields(buf: &[u8], mut at: usize, rules: &Rules, fields: &mut Fields) -> (usize, usize) {
    let mut count = 0;
    while count < rules.count_max
        && let Some(line) = buf.get(at..)
        && let Some((name_length, id)) = Id::of_whole_line(line)
        && let Some(value) = usual_value(buf, at, name_length)
        && value.line_length <= rules.line_bytes_max
    {
        fields.push_known(id, at, name_length, value.length);
        count += 1;
        at += value.line_length + 1;
    }
    (at, count)
}

fn incomplete(rest: &[u8], rules: &Rules) -> Result<Option<usize>, Error> {
    if rest.len() > rules.line_bytes_max { Err(Error::HeadTooLarge) } else { Ok(None) }
}

/// A field's value, without the spaces and tabs around it, and the end of its line. Positions count from the first byte
/// of the line.
struct Value {
    start: usize,
    length: usize,
    /// Length without the LF, but with a CR before it.
    line_length: usize,
    has_cr: bool,
}

/// The value of a line in the usual form: after a colon and one space, not empty, and before CRLF. Finding it takes half
/// as many checks as [`any_value`], which finds these values and all others. The line begins at `at`: in the last lines of
/// a head a search that knows what precedes needs no copy.
#[inline(always)]
fn usual_value(buf: &[u8], at: usize, name_length: usize) -> Option<Value> {
    let start = at + name_length + 2;
    let end = wide::find(buf, start, Block::controls)?;
    let value = buf.get(start..end)?;
    let is_usual = buf[start - 1] == b' '
        && *value.first()? > b' '
        && *value.last()? > b' '
        && buf[end..].first_chunk() == Some(b"\r\n");
    is_usual.then_some(Value {
        start: name_length + 2,
        length: value.len(),
        line_length: end + 1 - at,
        has_cr: true,
    })
}

/// The value of any line; `None` if the line is incomplete. Fails on a control character other than tab (RFC 9110 §5.5),
/// and on a CR without LF.
#[inline(never)]
fn any_value(line: &[u8], name_length: usize) -> Result<Option<Value>, Error> {
    let Some((end, line_length)) = value_end(line, name_length + 1)? else { return Ok(None) };
    // Of the characters that are trimmed, only spaces and tabs can be in a value.
    let from_start = line.get(name_length + 1..end).unwrap_or_default().trim_ascii_start();
    let (start, length) = (end - from_start.len(), from_start.trim_ascii_end().len());
    Ok(Some(Value { start, length, line_length, has_cr: line_length > end }))
}

/// Classifies a line that does not begin with a visible character: the length of the empty line that ends the fields,
/// an error, or that more bytes are needed. `None`: treat it as a field line.
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

/// The treatment of a field according to its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Proper,
    /// Kept, and marked.
    Odd,
    Ignored,
}

/// The length and class of the name at the start of a line, which is not a known one; `None` if it is incomplete.
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

/// The reason why a line cannot begin with a name; no error if the name may only be incomplete.
#[cold]
fn unfinished_name(line: &[u8]) -> Result<(), Error> {
    match line.iter().find(|byte| CLASS[usize::from(**byte)] == INVALID) {
        None => Ok(()),
        Some(b'\n' | b'\r') => Err(Error::InvalidFieldLine),
        Some(_) => Err(Error::InvalidFieldName),
    }
}

/// What becomes of a field according to its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proto) enum Treatment {
    Keep,
    /// Kept, and marked: the name has unusual characters.
    Mark,
    Ignore,
}

/// Judges a name that is not a known one, by the rules for HTTP/1. Fails if it is not a token.
pub(in crate::proto) fn treatment(
    name: &[u8],
    ignore_odd: bool,
    underscores: bool,
) -> Result<Treatment, Error> {
    let classes = name.iter().fold(0, |classes, byte| classes | CLASS[usize::from(*byte)]);
    if name.is_empty() || classes & INVALID != 0 {
        return Err(Error::InvalidFieldName);
    }
    let rules = Rules { line_bytes_max: 0, count_max: 0, ignore_odd, underscores, crlf_only: true };
    Ok(match class_of(name, classes, &rules) {
        Class::Proper => Treatment::Keep,
        Class::Odd => Treatment::Mark,
        Class::Ignored => Treatment::Ignore,
    })
}

/// Classifies a name; `classes` are those of its characters.
fn class_of(name: &[u8], classes: u8, rules: &Rules) -> Class {
    let is_odd = classes & TOKEN != 0 || classes & UNDERSCORE != 0 && !rules.underscores;
    // With `underscores` a name may have one, but not if it could be mistaken for a field of our framing.
    let is_mimicked = classes & (TOKEN | UNDERSCORE) != 0 && Id::is_mimicked(name);
    match is_odd {
        _ if is_mimicked => Class::Ignored,
        true if rules.ignore_odd => Class::Ignored,
        true => Class::Odd,
        false => Class::Proper,
    }
}

/// The ends of the value that begins at `at` and of its line (without the LF); `None` if the line is incomplete.
/// Fails on a control character other than tab (RFC 9110 §5.5), and on a CR without LF.
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
pub(in crate::proto) fn check_value(value: &[u8]) -> Result<(), Error> {
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

/// True if the text has a byte that would end a line or a head: CR, LF or NUL. Usually it has no control
/// character at all.
#[inline]
pub(in crate::proto) fn has_break(text: &[u8]) -> bool {
    let has_control = match (text.as_chunks::<8>().0, text.last_chunk::<8>()) {
        // The last word overlaps the one before it.
        (words, Some(last)) => words.iter().chain([last]).any(|word| controls(*word) != 0),
        _ => text.iter().any(|byte| *byte < b' '),
    };
    has_control && memchr::memchr3(b'\r', b'\n', 0, text).is_some()
}

/// Finds control characters (including tabs) in eight bytes at once: sets the high bit of each. Exact for the
/// lowest one, and zero if there is none; a borrow may flag other bytes above it.
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
