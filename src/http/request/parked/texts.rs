//! Several texts in one piece of memory. A text, or a line of one, that occurs in those before it takes none: the path
//! stands in the request line, and most fields of a response in the head that came from the upstream.
//!
//! ```text
//! for each text: the number of its pieces, then start and length of each (LEB128) | the bytes
//! ```

use memchr::memmem;

/// Lines shorter than this are stored: their place would take as much.
const LINE_BYTES_MIN: usize = 8;

/// `N` texts that do not change.
#[derive(Debug)]
pub struct Texts<const N: usize>(Box<[u8]>);

impl<const N: usize> Texts<N> {
    pub fn new(parts: [&[u8]; N]) -> Self {
        let (mut table, mut stored) = (Vec::with_capacity(4 * N), Vec::new());
        for part in parts {
            let pieces = pieces(part, &mut stored);
            put(&mut table, pieces.len());
            for (start, length) in pieces {
                put(&mut table, start);
                put(&mut table, length);
            }
        }
        Self([table, stored].concat().into())
    }

    /// The texts as [`Texts::as_bytes`] has shown them. `None`: they are damaged, or one is longer than `max`, since many
    /// pieces can refer to the same bytes.
    pub fn from_bytes(bytes: &[u8], max: usize) -> Option<Self> {
        let texts = Self(bytes.into());
        (0..N).all(|index| texts.find(index, max).is_some()).then_some(texts)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text of this number, which is less than `N`.
    pub fn get(&self, index: usize) -> Vec<u8> {
        self.find(index, usize::MAX).unwrap_or_default()
    }

    fn find(&self, index: usize, max: usize) -> Option<Vec<u8>> {
        let mut stored = &self.0[..];
        let mut places = Vec::new();
        for part in 0..N {
            for _ in 0..take(&mut stored)? {
                let place = (take(&mut stored)?, take(&mut stored)?);
                if part == index {
                    places.push(place);
                }
            }
        }
        let mut text = Vec::new();
        for (start, length) in places {
            let piece = stored.get(start..start.checked_add(length)?)?;
            if piece.len() > max - text.len() {
                return None;
            }
            text.extend_from_slice(piece);
        }
        Some(text)
    }
}

/// Finds the pieces of a text among the bytes stored before, and adds those that are missing.
fn pieces(text: &[u8], stored: &mut Vec<u8>) -> Vec<(usize, usize)> {
    if let Some(start) = memmem::find(stored, text) {
        return vec![(start, text.len())];
    }
    let mut pieces: Vec<(usize, usize)> = Vec::new();
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let known = (line.len() >= LINE_BYTES_MIN).then(|| memmem::find(stored, line)).flatten();
        let start = known.unwrap_or_else(|| {
            stored.extend_from_slice(line);
            stored.len() - line.len()
        });
        match pieces.last_mut() {
            Some((first, length)) if *first + *length == start => *length += line.len(),
            _ => pieces.push((start, line.len())),
        }
    }
    pieces
}

fn put(out: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take(bytes: &mut &[u8]) -> Option<usize> {
    let mut number = 0;
    for shift in [0, 7, 14, 21, 28] {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= usize::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_occurs_before_takes_no_memory() {
        let long = [b'x'; 300];
        let parts: [&[u8]; 6] = [
            b"GET /path HTTP/1.1\r\nHost: a\r\n",
            b"/path",
            b"",
            &long,
            b"a",
            b"Other: b\r\nGET /path HTTP/1.1\r\nLast: c\r\n",
        ];
        let texts = Texts::new(parts);
        for (index, part) in parts.iter().enumerate() {
            assert_eq!(texts.get(index), *part, "{index}");
        }
        let new_lines = b"Other: b\r\nLast: c\r\n".len();
        let length = texts.as_bytes().len();
        assert!(length <= parts[0].len() + long.len() + new_lines + 32, "{length}");
        let copy = Texts::<6>::from_bytes(texts.as_bytes(), 300).expect("it is whole");
        assert_eq!(copy.get(3), long);
        assert!(Texts::<6>::from_bytes(texts.as_bytes(), 299).is_none(), "too long");
    }

    #[test]
    fn damaged_bytes_are_refused() {
        let texts = Texts::new([b"some text", b"other"]);
        let bytes = texts.as_bytes();
        for length in 0..bytes.len() {
            assert!(Texts::<2>::from_bytes(&bytes[..length], 100).is_none(), "{length}");
        }
        for bytes in [&[0xFF; 40][..], &[1, 0x80, 0x80, 0x80, 0x80, 0x80, 0], &[1, 200, 1, 200, 1, 0]] {
            assert!(Texts::<2>::from_bytes(bytes, 100).is_none(), "{bytes:?}");
        }
    }
}
