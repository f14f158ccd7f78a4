//! Byte searches, sixteen bytes at a time, with a bit mask of matches as the result.
//!
//! Touches: nothing. On x86_64 a search takes two instructions that every such processor has (SSE2);
//! elsewhere two words of eight bytes do the same. `memchr` is faster in long texts, but most delimiters in a
//! head are found within the next sixteen bytes, where the call alone would cost more than the search here.

/// Bytes that are searched together.
pub const BYTES: usize = 16;

/// Sixteen bytes to search. Bit `n` of each mask is for byte `n`.
#[derive(Clone, Copy)]
pub struct Block(imp::Vector);

impl Block {
    #[inline(always)]
    pub fn new(bytes: &[u8; BYTES]) -> Self {
        Self(imp::load(bytes))
    }

    /// The mask of bytes that equal this one.
    #[inline(always)]
    pub fn equal(self, byte: u8) -> u32 {
        imp::equal(self.0, byte)
    }

    /// The mask of control characters: below the space, or DEL.
    #[inline(always)]
    pub fn controls(self) -> u32 {
        imp::controls(self.0)
    }
}

/// Searches up to sixteen bytes of `text` from `at` on. Returns their mask, in which bits beyond the end are
/// zero, and the start of the next block; `None` if there are no bytes left.
#[inline(always)]
pub fn ask(text: &[u8], at: usize, which: impl Fn(Block) -> u32) -> Option<(u32, usize)> {
    let rest = text.get(at..)?;
    if let Some(block) = rest.first_chunk() {
        return Some((which(Block::new(block)), at + BYTES));
    }
    if rest.is_empty() {
        return None;
    }
    Some((ask_end(text, rest, which), text.len()))
}

/// The same for fewer than sixteen bytes: the last sixteen of the text are loaded, or zeros are appended if
/// the text is shorter than that.
#[inline]
fn ask_end(text: &[u8], rest: &[u8], which: impl Fn(Block) -> u32) -> u32 {
    let missing = BYTES - rest.len();
    if let Some(block) = text.last_chunk() {
        return which(Block::new(block)) >> missing;
    }
    let mut padded = [0; BYTES];
    padded[..rest.len()].copy_from_slice(rest);
    which(Block::new(&padded)) & (u32::from(u16::MAX) >> missing)
}

/// The index of the first match from `at` on.
#[inline(always)]
pub fn find(text: &[u8], mut at: usize, which: impl Fn(Block) -> u32) -> Option<usize> {
    while let Some((mask, next)) = ask(text, at, &which) {
        if mask != 0 {
            return Some(at + mask.trailing_zeros() as usize);
        }
        at = next;
    }
    None
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "no compiler finds these instructions by itself")]
mod imp {
    use std::arch::x86_64::{
        __m128i, _mm_cmpeq_epi8, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set_epi64x, _mm_set1_epi8,
    };

    pub(super) type Vector = __m128i;

    #[inline(always)]
    pub(super) fn load(bytes: &[u8; 16]) -> Vector {
        let word = u128::from_le_bytes(*bytes);
        // SAFETY: every x86_64 processor has SSE2.
        unsafe { _mm_set_epi64x((word >> 64) as i64, word as i64) } // compiles to one load
    }

    #[inline(always)]
    pub(super) fn equal(vector: Vector, byte: u8) -> u32 {
        // SAFETY: every x86_64 processor has SSE2.
        unsafe { _mm_movemask_epi8(_mm_cmpeq_epi8(vector, _mm_set1_epi8(byte as i8))) as u32 }
    }

    #[inline(always)]
    pub(super) fn controls(vector: Vector) -> u32 {
        // SAFETY: every x86_64 processor has SSE2.
        unsafe {
            let below = _mm_cmpeq_epi8(_mm_min_epu8(vector, _mm_set1_epi8(0x1f)), vector);
            let delete = _mm_cmpeq_epi8(vector, _mm_set1_epi8(0x7f));
            _mm_movemask_epi8(_mm_or_si128(below, delete)) as u32
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
use words as imp;

/// The same with words of eight bytes.
#[cfg(any(test, not(target_arch = "x86_64")))]
mod words {
    pub(super) type Vector = [u64; 2];

    const ONES: u64 = u64::MAX / 255;
    const HIGHS: u64 = ONES << 7;

    pub(super) fn load(bytes: &[u8; 16]) -> Vector {
        let (words, _) = bytes.as_chunks::<8>();
        [0, 1].map(|index| u64::from_le_bytes(words[index]))
    }

    pub(super) fn equal(vector: Vector, byte: u8) -> u32 {
        mask(vector.map(|word| zeros(word ^ (ONES * u64::from(byte)))))
    }

    pub(super) fn controls(vector: Vector) -> u32 {
        mask(vector.map(|word| zeros(word & (ONES * 0xe0)) | zeros(word ^ (ONES * 0x7f))))
    }

    /// Sets the high bit of each byte that is zero, and no other bit.
    fn zeros(word: u64) -> u64 {
        !(((word & !HIGHS) + !HIGHS) | word) & HIGHS
    }

    /// Gathers the high bits of sixteen bytes into a mask.
    fn mask(highs: Vector) -> u32 {
        let [low, high] = highs.map(|word| ((word >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u32);
        low | high << 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_has_its_bit_with_vectors_and_with_words() {
        for byte in 0..=255u8 {
            for at in 0..BYTES {
                for others in [b'a', b' ', 0x80, 0xff, byte.wrapping_add(1), byte.wrapping_sub(1)] {
                    let mut bytes = [others; BYTES];
                    bytes[at] = byte;
                    let mask = |is_meant: &dyn Fn(u8) -> bool| -> u32 {
                        bytes.iter().enumerate().map(|(n, byte)| u32::from(is_meant(*byte)) << n).sum()
                    };
                    let (equal, controls) =
                        (mask(&|other| other == byte), mask(&|byte| byte.is_ascii_control()));
                    let block = Block::new(&bytes);
                    assert_eq!((block.equal(byte), block.controls()), (equal, controls), "{bytes:?}");
                    let of_words = words::load(&bytes);
                    let asked = (words::equal(of_words, byte), words::controls(of_words));
                    assert_eq!(asked, (equal, controls), "{bytes:?}");
                }
            }
        }
    }

    #[test]
    fn finds_what_a_simple_search_finds_at_every_length() {
        for length in 0..50 {
            for at in 0..length {
                let mut text = vec![b'.'; length];
                text[at] = b':';
                for from in 0..=length + 1 {
                    let simple = text.iter().skip(from).position(|byte| *byte == b':').map(|n| from + n);
                    assert_eq!(find(&text, from, |block| block.equal(b':')), simple, "{length} {at} {from}");
                    // The zeros that pad a short text must not be found.
                    assert_eq!(find(&text, from, |block| block.equal(0)), None);
                }
            }
        }
    }
}
