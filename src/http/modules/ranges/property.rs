//! Properties that hold for any `Range`: checked by a fuzz target and, on fewer bytes, by a test.

use super::{Wanted, parse};
use crate::http::modules::ranges::Parts;

/// The first eight bytes are the size of the body, the next one is the maximum of ranges, the rest is the
/// field's value.
pub fn reads_range(data: &[u8]) {
    let Some((size, rest)) = data.split_first_chunk::<8>() else { return };
    let Some((max, value)) = rest.split_first() else { return };
    let (size, max) = (u64::from_le_bytes(*size) >> 1, usize::from(*max)); // sizes of files are signed
    let Wanted::Parts(ranges) = parse(value, size, max) else { return };
    assert!(!ranges.is_empty() && ranges.len() <= max);
    assert!(ranges.iter().all(|range| range.start < range.end && range.end <= size), "within the body");
    let inside: u64 = ranges.iter().map(|range| range.end - range.start).sum();
    assert!(inside <= size, "no more than the whole");
    let count = ranges.len();
    let parts = Parts::new(ranges, size, b"text/plain");
    let around: usize = (0..count).map(|index| parts.head(index).len()).sum();
    assert_eq!(parts.length(), inside + (around + parts.tail().len()) as u64);
    assert_eq!(parts.content_range().is_some(), count == 1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_as_range() {
        const PIECES: [&[u8]; 12] = [
            b"0",
            b"1",
            b"9",
            b"-",
            b",",
            b" ",
            b"5-",
            b"-7",
            b"18446744073709551615",
            b"3-12",
            b"a",
            b"\xff",
        ];
        bolero::check!().with_type::<(u64, u8, Vec<u8>)>().for_each(|(size, max, bytes)| {
            let value = bytes.iter().flat_map(|byte| PIECES[usize::from(*byte) % PIECES.len()]).copied();
            let value: Vec<u8> = b"bytes=".iter().copied().chain(value).collect();
            for size in [*size, size % 40] {
                reads_range(&[&size.to_le_bytes()[..], &[*max], &value].concat());
                reads_range(&[&size.to_le_bytes()[..], &[*max], bytes].concat());
            }
        });
    }
}
