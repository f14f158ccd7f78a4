//! Bytes that are no UTF-8, carried in text as characters that nobody writes.
//!
//! Configurations of the time before UTF-8 have locations, texts and expressions in Latin-1, KOI8-R or GBK. Each byte of
//! theirs from 0x80 on is one of the last 128 characters of Unicode's last private plane while the configuration is
//! text, and a byte again where text becomes what requests are compared with or answered by.
//! Pure data.

use std::borrow::Cow;

/// The character for byte 0.
const FIRST: u32 = 0x10ff00;
/// The beginning of all these characters in UTF-8: U+10FF80 to U+10FFFF.
const LEAD: [u8; 2] = [0xf4, 0x8f];

/// The character that stands for a byte that is no text.
pub fn char_of(byte: u8) -> char {
    char::from_u32(FIRST + u32::from(byte)).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The byte that a character stands for.
pub fn byte_of(char: char) -> Option<u8> {
    u8::try_from(u32::from(char).checked_sub(FIRST)?).ok().filter(|byte| *byte >= 0x80)
}

/// Whether a text has such characters: most have none.
fn is_among(text: &str) -> bool {
    memchr::memmem::find(text.as_bytes(), &LEAD).is_some()
}

/// The bytes that a text means.
pub fn bytes(text: &str) -> Cow<'_, [u8]> {
    if !is_among(text) {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut out = Vec::with_capacity(text.len());
    for char in text.chars() {
        match byte_of(char) {
            Some(byte) => out.push(byte),
            None => out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Cow::Owned(out)
}

/// The text with `\\xe9` for each of these bytes, as expressions and messages write them.
pub fn escaped(text: &str) -> Cow<'_, str> {
    if !is_among(text) {
        return Cow::Borrowed(text);
    }
    let escape = |char: char| match byte_of(char) {
        Some(byte) => format!("\\x{byte:02x}"),
        None => char.to_string(),
    };
    Cow::Owned(text.chars().map(escape).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_comes_back() {
        for byte in 0x80..=0xff {
            let text = format!("a{}é", char_of(byte));
            assert_eq!(*bytes(&text), [b"a", &[byte][..], "é".as_bytes()].concat());
            assert_eq!(escaped(&text), format!("a\\x{byte:02x}é"));
        }
        assert!(
            matches!(bytes("aé\u{10fe00}"), Cow::Borrowed(_))
                || bytes("aé\u{10fe00}") == "aé\u{10fe00}".as_bytes()
        );
        assert_eq!(byte_of('é'), None);
    }
}
