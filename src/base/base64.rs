//! Base64 as nginx reads and writes it: the standard alphabet, with or without padding, stray bits ignored.
//!
//! Touches: nothing. RFC 4648 §4. Written here because nginx's decoder accepts what the crates refuse: text
//! after the first `=`, missing padding, and stray bits in the last byte. A client that nginx lets in must
//! get in here.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Decodes up to the first `=`. `None`: a byte outside the alphabet, or a length that no encoder produces.
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let text = &text[..memchr::memchr(b'=', text).unwrap_or(text.len())];
    decode_with(text, |byte| match byte {
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    })
}

/// Decodes base64url without padding (RFC 4648 §5, RFC 7515 §2), strictly. `None`: a byte outside the alphabet, a `=`, or a
/// length that no encoder produces.
pub fn decode_url(text: &[u8]) -> Option<Vec<u8>> {
    decode_with(text, |byte| match byte {
        b'-' => Some(62),
        b'_' => Some(63),
        _ => None,
    })
}

#[inline]
fn decode_with(text: &[u8], special: impl Fn(u8) -> Option<u8>) -> Option<Vec<u8>> {
    if text.len() % 4 == 1 {
        return None;
    }
    let mut out = Vec::with_capacity(text.len() / 4 * 3 + 2);
    let (mut bits, mut count) = (0u32, 0);
    for &byte in text {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            other => special(other)?,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    Some(out)
}

/// The form in base64url without padding (RFC 4648 §5, RFC 7515 §2).
pub fn encode_url(bytes: &[u8]) -> String {
    let mut out = Vec::with_capacity(bytes.len().div_ceil(3) * 4);
    encode(bytes, &mut out);
    let letters = out.into_iter().filter(|byte| *byte != b'=');
    letters
        .map(|byte| match byte {
            b'+' => '-',
            b'/' => '_',
            other => char::from(other),
        })
        .collect()
}

/// Appends the encoded form of `bytes`, with padding.
pub fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    for chunk in bytes.chunks(3) {
        let at = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for index in 0..4 {
            let letter = ALPHABET[(bits >> (18 - 6 * index) & 63) as usize];
            out.push(if index > chunk.len() { b'=' } else { letter });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_goes_there_and_back() {
        let cases = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("\u{fb}\u{ff}", "w7vDvw==")];
        for (plain, encoded) in cases {
            let mut out = Vec::new();
            encode(plain.as_bytes(), &mut out);
            assert_eq!(out, encoded.as_bytes());
            assert_eq!(decode(encoded.as_bytes()).as_deref(), Some(plain.as_bytes()));
            assert_eq!(decode(encoded.trim_end_matches('=').as_bytes()).as_deref(), Some(plain.as_bytes()));
        }
    }

    #[test]
    fn what_no_encoder_makes_is_refused() {
        for text in ["Z", "Zm9vZ", "Zm9 ", "Zm9_", "Zm\0v"] {
            assert_eq!(decode(text.as_bytes()), None, "{text}");
        }
        for text in ["Z", "Zm9vZ", "Zm9 ", "Zm9+", "Zm8=", "Zm9v="] {
            assert_eq!(decode_url(text.as_bytes()), None, "{text}");
        }
        assert_eq!(decode_url(b"-_8").as_deref(), Some(&[0xfb, 0xff][..]));
        assert_eq!(encode_url(&[0xfb, 0xff]), "-_8");
        assert_eq!(decode(b"Zm9v=\xff").as_deref(), Some(&b"foo"[..]), "bytes after the padding are ignored");
    }
}
