//! The size of an image, from the bytes in which its format has it.
//!
//! Pure data, linear in the bytes. Nothing is decoded, so damage behind these bytes is not seen.

use crate::base::image::Format;

/// The size of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub width: u32,
    pub height: u32,
    /// More than a twentieth of a JPEG is application data (EXIF, XMP), which a change removes.
    pub is_padded: bool,
}

impl Size {
    /// Reads the size of a whole image. `None`: its head is damaged or cut off.
    pub fn of(format: Format, bytes: &[u8]) -> Option<Self> {
        let plain = |width, height| Self { width, height, is_padded: false };
        let size = match format {
            Format::Jpeg => jpeg(bytes)?,
            Format::Gif => plain(little(bytes.get(6..8)?), little(bytes.get(8..10)?)),
            Format::Png => {
                let side = |at| Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
                plain(side(16)?, side(20)?)
            }
            Format::Webp => {
                let (width, height) = webp(bytes)?;
                plain(width, height)
            }
        };
        (size.width > 0 && size.height > 0).then_some(size)
    }

    pub fn pixels(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }
}

/// A number of up to four bytes, the lowest first.
fn little(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u32::from(*byte))
}

/// Reads the frame's size, and how much application data there is, from the segments before the first scan
/// (ITU T.81, B.1.1).
fn jpeg(bytes: &[u8]) -> Option<Size> {
    const SCAN: u8 = 0xda;
    let (mut size, mut data_bytes) = (None, 0);
    let mut at = 2;
    while let Some(&[mark, kind, high, low]) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        if mark != 0xff || kind == 0xff {
            at += 1;
            continue;
        }
        let length = usize::from(u16::from_be_bytes([high, low]));
        match kind {
            0xc0..=0xc3 | 0xc9..=0xcb if size.is_none() => {
                let side = |at| Some(u32::from(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?)));
                size = Some((side(at + 7)?, side(at + 5)?));
            }
            // those behind the first, which has the density of the pixels
            0xe1..=0xef => data_bytes += length,
            SCAN => break,
            _ => {}
        }
        at += 1 + length.max(1);
    }
    let (width, height) = size?;
    Some(Size { width, height, is_padded: bytes.len() / 20 < data_bytes })
}

/// RFC 9649 §2.5 to §2.7.
fn webp(bytes: &[u8]) -> Option<(u32, u32)> {
    let head: &[u8; 30] = bytes.first_chunk()?;
    match &head[12..16] {
        b"VP8X" => Some((little(&head[24..27]) + 1, little(&head[27..30]) + 1)),
        kind => frame(kind, &head[20..]),
    }
}

/// The size of a frame: RFC 6386 §9.1, RFC 9649 §3.4. `None`: it is none, or damaged.
fn frame(kind: &[u8], data: &[u8]) -> Option<(u32, u32)> {
    match (kind, data) {
        // a key frame, with its start code
        (b"VP8 ", [tag, _, _, 0x9d, 0x01, 0x2a, a, b, c, d, ..]) if tag & 1 == 0 => {
            Some((little(&[*a, *b]) & 0x3fff, little(&[*c, *d]) & 0x3fff))
        }
        (b"VP8L", [0x2f, a, b, c, d, ..]) => {
            let sides = little(&[*a, *b, *c, *d]);
            Some(((sides & 0x3fff) + 1, (sides >> 14 & 0x3fff) + 1))
        }
        _ => None,
    }
}

/// True if all frames of a WebP that is no animation have the size that its head says: a decoder takes memory for a frame
/// before it compares.
pub fn has_equal_frames(bytes: &[u8], size: (u32, u32)) -> bool {
    let mut at = 12;
    while let Some((head, data)) = bytes.get(at..).and_then(<[u8]>::split_first_chunk::<8>) {
        if head.starts_with(b"VP8") && head[3] != b'X' && frame(&head[..4], data) != Some(size) {
            return false;
        }
        let length = little(&head[4..]) as usize;
        at = at.saturating_add(8 + length + length % 2);
    }
    true
}
