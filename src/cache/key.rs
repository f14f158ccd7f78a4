//! A cache key with the two checksums by which a stored response is found and checked.
//!
//! Touches: nothing. Behaviour: nginx, whose files are named by the MD5 digest of the key and hold its CRC-32.

use md5::{Digest, Md5};

use crate::base::checksum::crc32;

/// The key of a stored response: the text of `proxy_cache_key`, and checksums of it.
///
/// The MD5 digest is the file's name. It is no protection against keys that are made to collide: the text itself is in
/// the file too, and is compared ([`crate::cache::entry::parse`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    text: Vec<u8>,
    digest: [u8; 16],
    crc32: u32,
}

impl Key {
    pub fn new(text: Vec<u8>) -> Self {
        let (digest, crc32) = (Md5::digest(&text).into(), crc32(0, &text));
        Self { text, digest, crc32 }
    }

    /// The value of `proxy_cache_key`.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// The MD5 digest of the text.
    pub fn digest(&self) -> &[u8; 16] {
        &self.digest
    }

    /// The CRC-32 of the text, as in gzip.
    pub fn crc32(&self) -> u32 {
        self.crc32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_the_usual_ones() {
        let key = Key::new(b"123456789".to_vec());
        assert_eq!(key.crc32(), 0xcbf4_3926); // the check value of CRC-32/ISO-HDLC
        assert_eq!(u128::from_be_bytes(*key.digest()), 0x25f9_e794_323b_4538_85f5_181f_1b62_4d0b); // md5sum
        assert_eq!(key.text(), b"123456789");
        assert_eq!(Key::new(Vec::new()).crc32(), 0);
    }
}
