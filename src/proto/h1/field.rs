//! Lines and fields, as requests and responses share them (RFC 9112 §2.2, §5).

use smallvec::SmallVec;

use crate::proto::h1::Error;
use crate::proto::header::{Field, Id, is_token_byte};

/// The fields of one head; more than 24 spill to the heap.
pub type Fields = SmallVec<[Field; 24]>;

/// What to do with names that are no tokens.
#[derive(Clone, Copy, Debug)]
pub struct NameRules {
    /// Leave the field out instead of refusing the head (`ignore_invalid_headers`).
    pub ignore_invalid: bool,
    /// `_` is valid (`underscores_in_headers`).
    pub underscores: bool,
}

/// The line that begins at `start`: its end without CR LF, and where the next one begins. `None`: not complete.
///
/// Errors: a CR that no LF follows, or a zero byte: both end a line for some readers.
pub fn line(data: &[u8], start: usize) -> Result<Option<(usize, usize)>, Error> {
    let Some(length) = memchr::memchr(b'\n', &data[start..]) else {
        return Ok(None);
    };
    let next = start + length + 1;
    let mut end = start + length;
    if end > start && data[end - 1] == b'\r' {
        end -= 1;
    }
    if memchr::memchr2(b'\r', 0, &data[start..end]).is_some() {
        return Err(Error::BadField);
    }
    Ok(Some((end, next)))
}

/// Reads field lines from `start` to the empty line; where the body begins. `None`: not complete.
pub fn fields(data: &[u8], start: usize, rules: NameRules, out: &mut Fields) -> Result<Option<usize>, Error> {
    let mut at = start;
    loop {
        let Some((end, next)) = line(data, at)? else { return Ok(None) };
        if end == at {
            return Ok(Some(next));
        }
        if let Some(field) = field(data, at, end, rules)? {
            out.push(field);
        }
        at = next;
    }
}

/// One field line. `None`: its name is to be ignored.
fn field(data: &[u8], start: usize, end: usize, rules: NameRules) -> Result<Option<Field>, Error> {
    let bytes = &data[start..end];
    // A line that begins with white space (obs-fold, RFC 9112 §5.2) has a space in its name.
    let colon = memchr::memchr(b':', bytes).filter(|at| *at > 0).ok_or(Error::BadField)?;
    let (name, value) = (&bytes[..colon], &bytes[colon + 1..]);
    let mut is_valid = true;
    for &byte in name {
        if byte <= b' ' || byte == 0x7F {
            return Err(Error::BadField);
        }
        is_valid &= is_token_byte(byte) && (byte != b'_' || rules.underscores);
    }
    if value.iter().any(|byte| (*byte < b' ' && *byte != b'\t') || *byte == 0x7F) {
        return Err(Error::BadField);
    }
    if !is_valid {
        return if rules.ignore_invalid { Ok(None) } else { Err(Error::BadField) };
    }
    let is_space = |byte: &&u8| matches!(byte, b' ' | b'\t');
    let leading = value.iter().take_while(is_space).count();
    let trailing = value[leading..].iter().rev().take_while(is_space).count();
    let value_start = start + colon + 1 + leading;
    Ok(Some(Field::new(start..start + colon, value_start..end - trailing, Id::of(name))))
}
