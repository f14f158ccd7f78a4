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
        let mut classes = 0;
        let name_length = rest.iter().position(|byte| {
            let class = CLASS[usize::from(*byte)];
            classes |= class;
            class == INVALID
        });
        let Some(name_length) = name_length else {
            return if rest.len() > rules.line_bytes_max { Err(Error::HeadTooLarge) } else { Ok(None) };
        };
        if rest[name_length] != b':' || name_length == 0 {
            let ends = matches!(rest[name_length], b'\n' | b'\r');
            return Err(if ends { Error::InvalidFieldLine } else { Error::InvalidFieldName });
        }
        let value_at = name_length + 1;
        let Some(line_length) = memchr::memchr(b'\n', &rest[value_at..]).map(|length| value_at + length)
        else {
            check_value(rest[value_at..].strip_suffix(b"\r").unwrap_or(&rest[value_at..]))?;
            return if rest.len() > rules.line_bytes_max { Err(Error::HeadTooLarge) } else { Ok(None) };
        };
        if line_length > rules.line_bytes_max {
            return Err(Error::HeadTooLarge);
        }
        let raw = &rest[value_at..line_length];
        let raw = raw.strip_suffix(b"\r").unwrap_or(raw);
        check_value(raw)?;
        seen_count += 1;
        if seen_count > rules.count_max {
            return Err(Error::TooManyFields);
        }
        let is_odd = classes & (TOKEN | ODD) != 0 || classes & UNDERSCORE != 0 && !rules.underscores;
        if classes & ODD != 0 && !rules.ignore_invalid {
            return Err(Error::InvalidFieldName);
        }
        if !(is_odd && rules.ignore_odd) {
            let leading = raw.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
            let trailing =
                raw[leading..].iter().rev().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
            fields.push(Field {
                name_start: place(at)?,
                value_start: place(at + value_at + leading)?,
                value_length: place(raw.len() - leading - trailing)?,
                name_length: u16::try_from(name_length).map_err(|_| Error::HeadTooLarge)?,
                id: Id::of(&rest[..name_length]),
                is_odd,
            });
        }
        at += line_length + 1;
    }
}

/// Refuses control characters other than tab (RFC 9110 §5.5).
pub(super) fn check_value(value: &[u8]) -> Result<(), Error> {
    let (words, rest) = value.as_chunks::<8>();
    if words.iter().all(|word| !may_hold_control(*word))
        && rest.iter().all(|byte| *byte >= b' ' && *byte != 0x7f)
    {
        return Ok(());
    }
    match value.iter().find(|byte| **byte < b' ' && **byte != b'\t' || **byte == 0x7f) {
        None => Ok(()),
        Some(b'\r') => Err(Error::BareCr),
        Some(_) => Err(Error::InvalidFieldValue),
    }
}

/// Eight bytes at once; never misses a control character, may name a tab.
fn may_hold_control(word: [u8; 8]) -> bool {
    const ONES: u64 = u64::MAX / 255;
    const HIGHS: u64 = ONES << 7;
    let word = u64::from_ne_bytes(word);
    let below = word.wrapping_sub(ONES * 0x20) & !word & HIGHS;
    let delete = word ^ (ONES * 0x7f);
    (below | (delete.wrapping_sub(ONES) & !delete & HIGHS)) != 0
}

fn place(at: usize) -> Result<u32, Error> {
    u32::try_from(at).map_err(|_| Error::HeadTooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

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
