//! Tag, length and value of DER, for the few places where the exact bytes of an element matter.
//!
//! Touches: nothing. Truth: X.690 §8.1 and §10.1. Only definite lengths of at most four bytes and tags below 31.

/// Tag of SEQUENCE.
pub const SEQUENCE: u8 = 0x30;
/// Tag of INTEGER.
pub const INTEGER: u8 = 0x02;
/// Tag of BIT STRING.
pub const BIT_STRING: u8 = 0x03;

/// Tag of OCTET STRING.
pub const OCTET_STRING: u8 = 0x04;
/// Tag of OBJECT IDENTIFIER.
pub const OBJECT_IDENTIFIER: u8 = 0x06;
/// Tag of ENUMERATED.
pub const ENUMERATED: u8 = 0x0a;
/// Tag of GeneralizedTime.
pub const GENERALIZED_TIME: u8 = 0x18;

/// The tag of an explicit or constructed element that the context numbers.
pub const fn explicit(number: u8) -> u8 {
    0xa0 | number
}

/// Appends an element: its tag, its length, and the parts of its value.
pub fn write(tag: u8, parts: &[&[u8]], out: &mut Vec<u8>) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.push(tag);
    let digits = length.to_be_bytes();
    let digits = &digits[digits.iter().take_while(|digit| **digit == 0).count()..];
    match length {
        0..0x80 => out.push(length as u8),
        _ => {
            out.push(0x80 | digits.len() as u8);
            out.extend_from_slice(digits);
        }
    }
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// One element: its tag, its value, and all of its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Element<'a> {
    /// Identifier byte, with class and form.
    pub tag: u8,
    /// The value without tag and length.
    pub value: &'a [u8],
    /// Tag, length and value.
    pub whole: &'a [u8],
}

/// Takes the first element off `input`. None if it is no whole element; `input` is then unchanged.
pub fn take<'a>(input: &mut &'a [u8]) -> Option<Element<'a>> {
    let bytes: &'a [u8] = input;
    let (&tag, rest) = bytes.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    if tag & 0x1f == 0x1f {
        return None;
    }
    let mut length = usize::from(first & 0x7f);
    if first >= 0x80 {
        let (digits, after) = rest.split_at_checked(length).filter(|_| (1..=4).contains(&length))?;
        length = digits.iter().fold(0, |value, digit| value << 8 | usize::from(*digit));
        rest = after;
    }
    let (value, after) = rest.split_at_checked(length)?;
    let (whole, _) = bytes.split_at_checked(bytes.len() - after.len())?;
    *input = after;
    Some(Element { tag, value, whole })
}

/// Takes the first element, which must have this tag.
pub fn expect<'a>(input: &mut &'a [u8], tag: u8) -> Option<Element<'a>> {
    let mut rest = *input;
    let element = take(&mut rest).filter(|element| element.tag == tag)?;
    *input = rest;
    Some(element)
}

/// The bits of a BIT STRING that is a whole number of bytes.
pub fn whole_bits<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    match expect(input, BIT_STRING)?.value.split_first()? {
        (0, bits) => Some(bits),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_whole_elements_only() {
        let mut input: &[u8] = &[0x02, 0x01, 0x05, 0x30, 0x81, 0x01, 0xff, 0x00];
        let first = take(&mut input).expect("an INTEGER");
        assert_eq!((first.tag, first.value, first.whole), (INTEGER, &[5][..], &[2, 1, 5][..]));
        assert!(expect(&mut input, INTEGER).is_none());
        assert_eq!(expect(&mut input, SEQUENCE).expect("a SEQUENCE").value, [0xff]);
        assert!(take(&mut input).is_none());
        for bad in
            [&[0x30][..], &[0x30, 0x80, 0, 0], &[0x30, 0x02, 0], &[0x30, 0x85, 0, 0, 0, 0, 0], &[0x1f, 0]]
        {
            assert!(take(&mut &*bad).is_none(), "{bad:x?}");
        }
        for length in [0, 1, 127, 128, 255, 256, 65_535, 65_536] {
            let mut written = Vec::new();
            write(SEQUENCE, &[&vec![7; length / 2], &vec![7; length - length / 2]], &mut written);
            let mut input = &written[..];
            assert_eq!(take(&mut input).expect("an element").value, vec![7; length]);
            assert!(input.is_empty());
        }
        assert_eq!(whole_bits(&mut &[3, 2, 0, 7][..]), Some(&[7][..]));
        assert_eq!(whole_bits(&mut &[3, 2, 1, 7][..]), None);
    }
}
