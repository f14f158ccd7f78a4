//! The parts of a 206: a single one as it is, several as a multipart/byteranges body.
//!
//! Pure data; the sender of the body writes [`Parts::head`] before each range and [`Parts::tail`] after the
//! last. RFC 9110 §14.6; the boundary has nginx's form, twenty digits.

use std::cell::Cell;
use std::ops::Range;

use crate::sys::random;

/// Non-empty ranges of a representation of `size` bytes, in the order of the response.
#[derive(Debug)]
pub struct Parts {
    ranges: Vec<Range<u64>>,
    size: u64,
    /// The content type of the whole.
    content_type: Box<[u8]>,
    boundary: u64,
}

thread_local! {
    static BOUNDARY: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Consecutive numbers from a random start, so that a file cannot contain the next one by design.
fn next_boundary() -> u64 {
    let next = BOUNDARY.get().unwrap_or_else(random::number).wrapping_add(1);
    BOUNDARY.set(Some(next));
    next
}

impl Parts {
    pub fn new(ranges: Vec<Range<u64>>, size: u64, content_type: &[u8]) -> Self {
        let boundary = if ranges.len() > 1 { next_boundary() } else { 0 };
        Self { ranges, size, content_type: content_type.into(), boundary }
    }

    pub fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }

    pub fn count(&self) -> usize {
        self.ranges.len()
    }

    /// `Content-Range` of a single part.
    pub fn content_range(&self) -> Option<String> {
        match &self.ranges[..] {
            [only] => Some(self.range_text(only)),
            _ => None,
        }
    }

    /// `Content-Type` of several.
    pub fn content_type(&self) -> String {
        format!("multipart/byteranges; boundary={:020}", self.boundary)
    }

    /// The length of the whole response body.
    pub fn length(&self) -> u64 {
        let around: usize = (0..self.count()).map(|index| self.head(index).len()).sum();
        let inside: u64 = self.ranges.iter().map(|range| range.end - range.start).sum();
        inside + (around + self.tail().len()) as u64
    }

    /// The text before the bytes of a range.
    pub fn head(&self, index: usize) -> Vec<u8> {
        let mut head = Vec::new();
        let Some(range) = self.ranges.get(index).filter(|_| self.count() > 1) else { return head };
        head.extend_from_slice(format!("\r\n--{:020}\r\n", self.boundary).as_bytes());
        if !self.content_type.is_empty() {
            head.extend_from_slice(b"Content-Type: ");
            head.extend_from_slice(&self.content_type);
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(format!("Content-Range: {}\r\n\r\n", self.range_text(range)).as_bytes());
        head
    }

    /// The text after the last range.
    pub fn tail(&self) -> Vec<u8> {
        match self.count() {
            0 | 1 => Vec::new(),
            _ => format!("\r\n--{:020}--\r\n", self.boundary).into_bytes(),
        }
    }

    fn range_text(&self, range: &Range<u64>) -> String {
        format!("bytes {}-{}/{}", range.start, range.end - 1, self.size)
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "lists of one range are meant")]
mod tests {
    use super::*;

    #[test]
    fn one_part_has_nothing_around_it() {
        let parts = Parts::new(vec![2..5], 10, b"text/plain");
        assert_eq!(parts.content_range().as_deref(), Some("bytes 2-4/10"));
        assert_eq!((parts.head(0), parts.tail(), parts.length()), (vec![], vec![], 3));
    }

    #[test]
    fn several_are_set_apart_by_a_boundary_of_twenty_digits() {
        let parts = Parts::new(vec![1..3, 5..7], 10, b"text/plain");
        let kind = parts.content_type();
        let boundary = kind.strip_prefix("multipart/byteranges; boundary=").unwrap();
        assert_eq!((boundary.len(), parts.content_range()), (20, None));
        let head = String::from_utf8(parts.head(1)).unwrap();
        let expected =
            format!("\r\n--{boundary}\r\nContent-Type: text/plain\r\nContent-Range: bytes 5-6/10\r\n\r\n");
        assert_eq!(head, expected);
        assert_eq!(String::from_utf8(parts.tail()).unwrap(), format!("\r\n--{boundary}--\r\n"));
        let bytes = parts.head(0).len() + 2 + parts.head(1).len() + 2 + parts.tail().len();
        assert_eq!(parts.length(), bytes as u64);
        let next = Parts::new(vec![1..3, 5..7], 10, b"");
        assert_ne!(next.content_type(), kind);
        assert!(next.head(0).ends_with(b"\r\nContent-Range: bytes 1-2/10\r\n\r\n"));
    }
}
