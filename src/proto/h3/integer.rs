//! The integers of QUIC and HTTP/3: one, two, four or eight bytes, of which the first two bits say how many.
//!
//! Touches: nothing. RFC 9000 §16.

/// The largest number.
pub const MAX: u64 = (1 << 62) - 1;
/// The most bytes of a number.
pub const BYTES_MAX: usize = 8;

/// Reads a number from the start of `data`; returns it with its length. `None`: more bytes are needed.
pub fn read(data: &[u8]) -> Option<(u64, usize)> {
    let first = *data.first()?;
    let length = 1 << (first >> 6);
    let bytes = data.get(..length)?;
    let value = bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
    Some((value & (u64::MAX >> 2 >> (64 - 8 * length)), length))
}

/// Appends a number, which is at most [`MAX`], in its shortest form.
pub fn put(value: u64, out: &mut Vec<u8>) {
    debug_assert!(value <= MAX);
    match value {
        0..=0x3f => out.push(value as u8),
        0x40..=0x3fff => out.extend_from_slice(&(value as u16 | 0x4000).to_be_bytes()),
        0x4000..=0x3fff_ffff => out.extend_from_slice(&(value as u32 | 0x8000_0000).to_be_bytes()),
        _ => out.extend_from_slice(&(value & MAX | 0xc000_0000_0000_0000).to_be_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_standard() {
        // RFC 9000 §A.1
        for (bytes, expected) in [
            (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c][..], 151_288_809_941_952_652),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
            (&[0x40, 0x25], 37),
        ] {
            assert_eq!(read(bytes), Some((expected, bytes.len())));
            (0..bytes.len()).for_each(|cut| assert_eq!(read(&bytes[..cut]), None));
        }
    }

    #[test]
    fn the_shortest_form_is_written_and_read_back() {
        for (value, length) in
            [(0, 1), (63, 1), (64, 2), (16_383, 2), (16_384, 4), (0x3fff_ffff, 4), (0x4000_0000, 8), (MAX, 8)]
        {
            let mut bytes = Vec::new();
            put(value, &mut bytes);
            assert_eq!((bytes.len(), read(&bytes)), (length, Some((value, length))));
        }
    }
}
