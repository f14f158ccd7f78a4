//! Frames of fixed-width fields, in which processes of one binary exchange messages.
//!
//! ```text
//! tag: u8 | zero: u8 | payload bytes: u16 | sequence: u32 | payload
//! ```
//! Pure data, little-endian. Each message has exactly one encoding: a reader must consume the payload to its
//! last byte, so that it accepts only the bytes that a writer would produce.

/// The largest count of bytes or requests: sums of a few such counts do not overflow.
const COUNT_MAX: u64 = 1 << 56;

/// Bytes before the payload.
pub const HEAD_BYTES: usize = 8;

/// Most frames are shorter.
const USUAL_BYTES: usize = 384;

/// A parsed frame; the payload has not been looked at yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    pub tag: u8,
    pub sequence: u32,
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// `None` unless `bytes` is exactly one frame.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let (tag, zero, length, sequence) = (fields.u8()?, fields.u8()?, fields.u16()?, fields.u32()?);
        let payload = fields.0;
        (zero == 0 && payload.len() == usize::from(length)).then_some(Self { tag, sequence, payload })
    }
}

/// Encodes a frame whose payload is appended by `write`.
///
/// # Panics
/// If the payload is longer than 65,535 bytes: each message has a bound far below that.
pub fn write(tag: u8, sequence: u32, write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(USUAL_BYTES);
    bytes.extend_from_slice(&[tag, 0, 0, 0]);
    bytes.extend_from_slice(&sequence.to_le_bytes());
    write(&mut bytes);
    let length = u16::try_from(bytes.len() - HEAD_BYTES).expect("payloads are bounded by their messages");
    bytes[2..4].copy_from_slice(&length.to_le_bytes());
    bytes
}

/// Appends bytes with their count, of 16 bits, in front: at most 65,535 of them.
pub fn put_vector16(out: &mut Vec<u8>, bytes: &[u8]) {
    let count = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&bytes[..usize::from(count)]);
}

/// Appends bytes with their count, of 32 bits, in front.
pub fn put_vector32(out: &mut Vec<u8>, bytes: &[u8]) {
    let count = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&bytes[..count as usize]);
}

/// Appends a number that may be missing.
pub fn put_option(out: &mut Vec<u8>, number: Option<u64>) {
    out.push(u8::from(number.is_some()));
    out.extend_from_slice(&number.unwrap_or(0).to_le_bytes());
}

/// Reads the fields of a payload one after the other. Each read returns `None` when too few bytes are left.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    fn chunk<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (chunk, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*chunk)
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.chunk().map(u8::from_le_bytes)
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.chunk().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.chunk().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.chunk().map(u64::from_le_bytes)
    }

    /// Bytes with their count, of 16 bits, in front.
    pub fn vector16(&mut self) -> Option<&'a [u8]> {
        let count = usize::from(self.u16()?);
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }

    /// Bytes with their count, of 32 bits, in front.
    pub fn vector32(&mut self) -> Option<&'a [u8]> {
        let count = usize::try_from(self.u32()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }

    /// A count that other counts are added to: `None` for one that no connection could have reached.
    pub fn count(&mut self) -> Option<u64> {
        self.u64().filter(|count| *count <= COUNT_MAX)
    }

    /// A number that may be missing.
    pub fn option(&mut self) -> Option<Option<u64>> {
        let is_some = self.flag()?;
        let number = self.u64()?;
        Some(is_some.then_some(number))
    }

    /// A byte that is 0 or 1.
    pub fn flag(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    pub fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.chunk()
    }

    /// All remaining bytes.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// `value`, if every byte was read.
    pub fn end<T>(self, value: T) -> Option<T> {
        self.0.is_empty().then_some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_as_it_was_written() {
        let bytes = write(7, 0x0102_0304, |payload| payload.extend_from_slice(b"abc"));
        let frame = Frame::parse(&bytes).expect("a frame");
        assert_eq!(frame, Frame { tag: 7, sequence: 0x0102_0304, payload: b"abc" });
    }

    #[test]
    fn a_part_of_a_frame_or_more_than_one_is_none() {
        let bytes = write(7, 1, |payload| payload.extend_from_slice(b"abc"));
        for length in 0..bytes.len() {
            assert_eq!(Frame::parse(&bytes[..length]), None, "{length}");
        }
        assert_eq!(Frame::parse(&[&bytes[..], b"x"].concat()), None);
        let mut other = bytes;
        other[1] = 1;
        assert_eq!(Frame::parse(&other), None, "a byte that must be zero");
    }

    #[test]
    fn fields_end_where_the_payload_ends() {
        let mut fields = Fields(&[1, 2, 0, 3, 0, 0, 0, 4]);
        assert_eq!((fields.u8(), fields.u16(), fields.u32()), (Some(1), Some(2), Some(3)));
        assert_eq!(fields.end(()), None);
        assert_eq!((fields.u16(), fields.flag(), fields.u8()), (None, None, None));
        assert_eq!(fields.end(()), Some(()));
    }
}
