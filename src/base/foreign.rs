//! Bytes that are not UTF-8, carried in text as private-use characters.
//!
//! Configurations from before UTF-8 have locations, texts and expressions in Latin-1, KOI8-R or GBK. While
//! the configuration is handled as text, each of their bytes from 0x80 on is one of the last 128 characters
//! of Unicode's last private-use plane. It becomes a byte again when the text is compiled into something that
//! requests are compared with or answered with.
//! Pure data.

use std::borrow::Cow;

/// The character for byte 0.
const FIRST: u32 = 0x10ff00;
/// The first bytes of all these characters (U+10FF80 to U+10FFFF) in UTF-8.
const LEAD: [u8; 2] = [0xf4, 0x8f];

/// The character that represents a byte.
pub fn char_of(byte: u8) -> char {
    char::from_u32(FIRST + u32::from(byte)).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The byte that a character represents; `None` for an ordinary character.
pub fn byte_of(char: char) -> Option<u8> {
    u8::try_from(u32::from(char).checked_sub(FIRST)?).ok().filter(|byte| *byte >= 0x80)
}

/// Quick check for such characters: most texts have none. May be true for a neighbour of theirs.
fn is_among(text: &str) -> bool {
    memchr::memmem::find(text.as_bytes(), &LEAD).is_some()
}

/// The text as bytes, the original ones restored.
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

/// The text with `\\xe9` for each such byte, the form that expressions and messages use.
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
