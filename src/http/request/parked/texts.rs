//! Several texts in one piece of memory. One that occurs in those before it takes none: the path stands in the request
//! line, and most fields of a response in the head that came from the upstream.
//!
//! ```text
//! start, length of each text (LEB128) | the bytes
//! ```

use memchr::memmem;

/// `N` texts that do not change.
#[derive(Debug)]
pub struct Texts<const N: usize>(Box<[u8]>);

impl<const N: usize> Texts<N> {
    pub fn new(parts: [&[u8]; N]) -> Self {
        let (mut table, mut stored) = (Vec::with_capacity(4 * N), Vec::new());
        for part in parts {
            let start = memmem::find(&stored, part).unwrap_or_else(|| {
                stored.extend_from_slice(part);
                stored.len() - part.len()
            });
            put(&mut table, start);
            put(&mut table, part.len());
        }
        Self([table, stored].concat().into())
    }

    /// The texts as [`Texts::as_bytes`] has shown them. `None`: they are damaged.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let texts = Self(bytes.into());
        (0..N).all(|index| texts.find(index).is_some()).then_some(texts)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text of this number, which is less than `N`.
    pub fn get(&self, index: usize) -> &[u8] {
        self.find(index).unwrap_or_default()
    }

    fn find(&self, index: usize) -> Option<&[u8]> {
        let mut rest = &self.0[..];
        let mut found = None;
        for place in 0..N {
            let (start, length) = (take(&mut rest)?, take(&mut rest)?);
            if place == index {
                found = Some((start, length));
            }
        }
        let (start, length) = found?;
        rest.get(start..start.checked_add(length)?)
    }
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
    fn a_text_that_occurs_in_another_takes_no_memory() {
        let long = [b'x'; 300];
        let parts: [&[u8]; 5] = [b"GET /path HTTP/1.1\r\nHost: a\r\n", b"/path", b"", &long, b"a"];
        let texts = Texts::new(parts);
        for (index, part) in parts.iter().enumerate() {
            assert_eq!(texts.get(index), *part, "{index}");
        }
        let table = 2 * 5 + 1; // one length takes two bytes
        assert_eq!(texts.as_bytes().len(), parts[0].len() + long.len() + table);
        let copy = Texts::<5>::from_bytes(texts.as_bytes()).expect("it is whole");
        assert_eq!(copy.get(3), long);
    }

    #[test]
    fn damaged_bytes_are_refused() {
        let texts = Texts::new([b"some text", b"other"]);
        let bytes = texts.as_bytes();
        for length in 0..bytes.len() {
            assert!(Texts::<2>::from_bytes(&bytes[..length]).is_none(), "{length}");
        }
        for bytes in [&[0xFF; 40][..], &[0, 0x80, 0x80, 0x80, 0x80, 0x80, 0], &[200, 1, 200, 1, 0, 0]] {
            assert!(Texts::<2>::from_bytes(bytes).is_none(), "{bytes:?}");
        }
    }
}
