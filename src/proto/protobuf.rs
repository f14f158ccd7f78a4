//! The wire format of Protocol Buffers: tags, numbers and lengths, in both directions.
//!
//! Enough for the few messages of gRPC that are spoken here; a code generator would bring a build step and a value for
//! each field. Pure. protobuf.dev, Encoding.

/// Wire type 0: a number of up to ten bytes.
pub const NUMBER: u32 = 0;
/// Wire type 1: eight bytes, the lowest first.
pub const FIXED64: u32 = 1;
/// Wire type 2: a length and as many bytes.
pub const BYTES: u32 = 2;
/// Wire type 5: four bytes, the lowest first.
pub const FIXED32: u32 = 5;

/// Writes a number in groups of seven bits, the lowest first.
#[inline]
pub fn put_number(value: u64, out: &mut Vec<u8>) {
    let mut rest = value;
    while rest >= 128 {
        out.push(rest as u8 | 128);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// How many bytes [`put_number`] writes.
pub fn number_length(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Writes a field that is a number.
pub fn put_number_field(field: u32, value: u64, out: &mut Vec<u8>) {
    put_number(u64::from(field << 3 | NUMBER), out);
    put_number(value, out);
}

/// Writes a field of eight bytes.
pub fn put_fixed64(field: u32, value: u64, out: &mut Vec<u8>) {
    put_number(u64::from(field << 3 | FIXED64), out);
    out.extend_from_slice(&value.to_le_bytes());
}

/// Writes a field of four bytes.
pub fn put_fixed32(field: u32, value: u32, out: &mut Vec<u8>) {
    put_number(u64::from(field << 3 | FIXED32), out);
    out.extend_from_slice(&value.to_le_bytes());
}

/// Writes a field that is bytes, a text or a message.
pub fn put_bytes(field: u32, bytes: &[u8], out: &mut Vec<u8>) {
    put_head(field, bytes.len(), out);
    out.extend_from_slice(bytes);
}

/// Writes the tag and the length of a field whose bytes follow.
pub fn put_head(field: u32, length: usize, out: &mut Vec<u8>) {
    put_number(u64::from(field << 3 | BYTES), out);
    put_number(length as u64, out);
}

/// Writes a field whose content is written by `write`: the length comes before it, so the content is moved if its length
/// takes more than a byte.
pub fn put_message(field: u32, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    put_number(u64::from(field << 3 | BYTES), out);
    let length_at = out.len();
    out.push(0);
    let start = out.len();
    write(out);
    let length = out.len() - start;
    if length < 128 {
        out[length_at] = length as u8;
        return;
    }
    let further = number_length(length as u64) - 1;
    out.resize(out.len() + further, 0);
    out.copy_within(start..start + length, start + further);
    let mut rest = length;
    for byte in &mut out[length_at..start + further] {
        *byte = rest as u8 | 128;
        rest >>= 7;
    }
    out[start + further - 1] &= 127;
}

/// A field that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    pub number: u64,
    pub value: Value<'a>,
}

/// Its value, by its wire type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    Number(u64),
    Fixed64([u8; 8]),
    Bytes(&'a [u8]),
    Fixed32([u8; 4]),
}

/// Reads the next field. `None`: there is none, or `rest`, which is then not empty, is malformed.
pub fn take_field<'a>(rest: &mut &'a [u8]) -> Option<Field<'a>> {
    let mut at = *rest;
    let tag = take_number(&mut at)?;
    let value = match tag & 7 {
        0 => Value::Number(take_number(&mut at)?),
        1 => {
            let (bytes, left) = at.split_first_chunk::<8>()?;
            at = left;
            Value::Fixed64(*bytes)
        }
        2 => {
            let length = usize::try_from(take_number(&mut at)?).ok()?;
            let (bytes, left) = at.split_at_checked(length)?;
            at = left;
            Value::Bytes(bytes)
        }
        5 => {
            let (bytes, left) = at.split_first_chunk::<4>()?;
            at = left;
            Value::Fixed32(*bytes)
        }
        _ => return None,
    };
    *rest = at;
    Some(Field { number: tag >> 3, value })
}

/// Reads a number of up to ten bytes.
pub fn take_number(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, left) = rest.split_first()?;
        *rest = left;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_seven_bits_a_byte() {
        for (value, expected) in [
            (0, &[0][..]),
            (1, &[1]),
            (127, &[127]),
            (128, &[0x80, 1]),
            (150, &[0x96, 1]),
            (16_383, &[0xff, 0x7f]),
            (16_384, &[0x80, 0x80, 1]),
            (u64::MAX, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
        ] {
            let mut out = Vec::new();
            put_number(value, &mut out);
            assert_eq!((&out[..], number_length(value)), (expected, expected.len()), "{value}");
            let mut rest = &out[..];
            assert_eq!((take_number(&mut rest), rest.len()), (Some(value), 0));
            assert_eq!(take_number(&mut &out[..out.len() - 1]), None, "it is cut off");
        }
        assert_eq!(take_number(&mut &[0xff; 11][..]), None, "it is too long");
    }

    #[test]
    fn a_message_has_its_length_before_it() {
        for length in [0, 1, 127, 128, 129, 16_383, 16_384, 3_000_000] {
            let content: Vec<u8> = (0..length).map(|at| at as u8).collect();
            let (mut at_once, mut written) = (vec![7], vec![7]);
            put_bytes(9, &content, &mut at_once);
            put_message(9, &mut written, |out| out.extend_from_slice(&content));
            assert_eq!(at_once, written, "{length}");
            let mut rest = &written[1..];
            assert_eq!(take_field(&mut rest), Some(Field { number: 9, value: Value::Bytes(&content) }));
            assert!(rest.is_empty());
        }
    }

    #[test]
    fn fields_are_read_and_malformed_ones_are_none() {
        let bytes = [0x08, 0x96, 1, 0x11, 1, 0, 0, 0, 0, 0, 0, 0, 0x1a, 2, b'h', b'i', 0x25, 9, 0, 0, 0];
        let mut rest = &bytes[..];
        let mut fields = Vec::new();
        while let Some(field) = take_field(&mut rest) {
            fields.push((field.number, field.value));
        }
        assert!(rest.is_empty());
        assert_eq!(
            fields,
            [
                (1, Value::Number(150)),
                (2, Value::Fixed64([1, 0, 0, 0, 0, 0, 0, 0])),
                (3, Value::Bytes(b"hi")),
                (4, Value::Fixed32([9, 0, 0, 0])),
            ]
        );
        for wrong in [
            &[0x1a, 3, 1, 2][..],
            &[0x11, 1],
            &[0x25, 1],
            &[0x0b],
            &[0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
        ] {
            let mut rest = wrong;
            assert_eq!((take_field(&mut rest), rest), (None, wrong));
        }
    }
}
