//! The field lines of a head or of trailers.
//!
//! Touches: nothing. RFC 9112 §5; nginx.org, `ignore_invalid_headers`, `underscores_in_headers`.

use smallvec::SmallVec;

use crate::proto::h1::Error;
use crate::proto::header::{Field, Id};

/// Fields of a head; most heads need no memory of their own for them.
pub type Fields = SmallVec<[Field; 24]>;

/// How field lines are judged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub line_bytes_max: usize,
    pub count_max: usize,
    /// Names of other than letters, digits and `-` are left out.
    pub ignore_odd: bool,
    /// `_` belongs to a proper name.
    pub underscores: bool,
    /// Names that are no token are left out too, instead of refused.
    pub ignore_invalid: bool,
}

/// A one, and a high bit, in each byte of a word.
const ONES: u64 = u64::MAX / 255;
const HIGHS: u64 = ONES << 7;

const INVALID: u8 = 0; // no part of any line: the line is refused
const PLAIN: u8 = 1; // letters, digits, `-`
const UNDERSCORE: u8 = 2;
const TOKEN: u8 = 4; // the other characters of a token
const ODD: u8 = 8; // separators and bytes past ASCII
const CLASS: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut classes = [ODD; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = match byte as u8 {
            0..=b' ' | 0x7f | b':' => INVALID,
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' => PLAIN,
            b'_' => UNDERSCORE,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'.' | b'^' | b'`' | b'|' | b'~' => {
                TOKEN
            }
            _ => ODD,
        };
        byte += 1;
    }
    classes
}

/// Reads field lines from `at` to the empty line that ends them: where the bytes behind it begin, or `None`
/// when more must come. Lines may end with a lone LF, as nginx has it.
pub(super) fn parse(
    buf: &[u8],
    mut at: usize,
    rules: &Rules,
    fields: &mut Fields,
) -> Result<Option<usize>, Error> {
    let mut seen_count = 0usize;
    loop {
        match buf.get(at..) {
            None | Some([] | [b'\r']) => return Ok(None),
            Some([b'\n', ..]) => return Ok(Some(at + 1)),
            Some([b'\r', b'\n', ..]) => return Ok(Some(at + 2)),
            Some([b'\r', ..]) => return Err(Error::BareCr),
            Some([b' ' | b'\t', ..]) => return Err(Error::FoldedField),
            Some(_) => {}
        }
        let rest = &buf[at..];
        let known = known_name(rest);
        let (mut name_length, mut classes) = known.map_or((0, 0), |(length, _)| (length, PLAIN));
        while known.is_none() {
            let Some(byte) = rest.get(name_length) else {
                return if rest.len() > rules.line_bytes_max { Err(Error::HeadTooLarge) } else { Ok(None) };
            };
            match CLASS[usize::from(*byte)] {
                INVALID => break,
                class => classes |= class,
            }
            name_length += 1;
        }
        if rest[name_length] != b':' || name_length == 0 {
            let ends = matches!(rest[name_length], b'\n' | b'\r');
            return Err(if ends { Error::InvalidFieldLine } else { Error::InvalidFieldName });
        }
        let value_at = name_length + 1;
        let Some((value_end, line_length)) = value_end(rest, value_at)? else {
            return if rest.len() > rules.line_bytes_max { Err(Error::HeadTooLarge) } else { Ok(None) };
        };
        if line_length > rules.line_bytes_max {
            return Err(Error::HeadTooLarge);
        }
        seen_count += 1;
        if seen_count > rules.count_max {
            return Err(Error::TooManyFields);
        }
        let is_odd = classes & (TOKEN | ODD) != 0 || classes & UNDERSCORE != 0 && !rules.underscores;
        if classes & ODD != 0 && !rules.ignore_invalid {
            return Err(Error::InvalidFieldName);
        }
        if !(is_odd && rules.ignore_odd) {
            let (mut start, mut end) = (value_at, value_end);
            while start < end && matches!(rest[start], b' ' | b'\t') {
                start += 1;
            }
            while start < end && matches!(rest[end - 1], b' ' | b'\t') {
                end -= 1;
            }
            fields.push(Field {
                name_start: place(at)?,
                value_start: place(at + start)?,
                value_length: place(end - start)?,
                name_length: u16::try_from(name_length).map_err(|_| Error::HeadTooLarge)?,
                id: known.map(|(_, id)| id).or_else(|| Id::of(&rest[..name_length])),
                is_odd,
            });
        }
        at += line_length + 1;
    }
}

/// The length and the id of a known name that a line begins with: such a name needs no look at its characters.
/// `None` also for one that the end of the bytes is too near to.
fn known_name(line: &[u8]) -> Option<(usize, Id)> {
    let mut at = 0;
    while at < 24 {
        let word = u64::from_le_bytes(*line.get(at..)?.first_chunk()?) ^ (ONES * b':' as u64);
        let colons = word.wrapping_sub(ONES) & !word & HIGHS;
        if colons != 0 {
            let length = at + colons.trailing_zeros() as usize / 8;
            return Some((length, Id::of(&line[..length])?));
        }
        at += 8;
    }
    None
}

/// Where the value that begins at `at` and its line (without the LF) end; `None` when the line is not whole yet.
/// Errors: a control character other than tab (RFC 9110 §5.5), a CR that no LF follows.
fn value_end(line: &[u8], mut at: usize) -> Result<Option<(usize, usize)>, Error> {
    loop {
        while let Some(word) = line.get(at..).and_then(<[u8]>::first_chunk) {
            match controls(*word) {
                0 => at += 8,
                flagged => {
                    // The lowest byte that is flagged is one for sure.
                    at += flagged.trailing_zeros() as usize / 8;
                    break;
                }
            }
        }
        let Some(byte) = line.get(at) else { return Ok(None) };
        match byte {
            b'\n' => return Ok(Some((at, at))),
            b'\r' => {
                return match line.get(at + 1) {
                    Some(b'\n') => Ok(Some((at, at + 1))),
                    Some(_) => Err(Error::BareCr),
                    None => Ok(None),
                };
            }
            b'\t' | b' '..=0x7e | 0x80.. => at += 1,
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

/// Eight bytes at once: the high bit of each that is a control character, a tab too. Exact for the lowest one, and
/// zero if there is none; a borrow may flag innocent bytes above it.
fn controls(word: [u8; 8]) -> u64 {
    let word = u64::from_le_bytes(word);
    let below = word.wrapping_sub(ONES * 0x20) & !word;
    let delete = word ^ (ONES * 0x7f);
    (below | (delete.wrapping_sub(ONES) & !delete)) & HIGHS
}

fn place(at: usize) -> Result<u32, Error> {
    u32::try_from(at).map_err(|_| Error::HeadTooLarge)
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
