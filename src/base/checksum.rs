//! CRC-32 as gzip and nginx have it.

use crc32fast::Hasher;

/// The checksum of bytes that follow others whose checksum is `before`; 0: they are the first.
#[inline]
pub fn crc32(before: u32, bytes: &[u8]) -> u32 {
    let mut hasher = Hasher::new_with_initial(before);
    hasher.update(bytes);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::crc32;

    #[test]
    fn the_standard_check_value_whole_and_in_parts() {
        assert_eq!(crc32(0, b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(crc32(0, b"1234"), b"56789"), 0xcbf4_3926);
        assert_eq!(crc32(7, b""), 7);
    }
}
