//! Lines of text protocols: where one ends, however many bytes arrive at a time.
//!
//! Touches: nothing. A line ends with LF; a CR before it is not part of the line (RFC 5321 §2.3.8 asks for CRLF, but peers send
//! bare LF too, and nginx takes it).

/// The next line of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Its end has not arrived.
    More,
    /// It has more than `max` bytes, or as many without an end.
    TooLong,
    Line {
        /// The bytes without the end of the line.
        text: usize,
        /// The bytes with it.
        whole: usize,
    },
}

/// Finds ends of lines, and remembers how far it has looked, so that a line that drips in is not searched from its start with
/// each byte.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lines {
    searched: usize,
}

impl Lines {
    /// The line at the front of `data`. Between two calls bytes may only be appended, unless the result was a line: then the next
    /// call is about what follows it.
    pub fn next(&mut self, data: &[u8], max: usize) -> Next {
        let searched = self.searched.min(data.len());
        let Some(found) = memchr::memchr(b'\n', &data[searched..]) else {
            self.searched = data.len();
            return if data.len() >= max { Next::TooLong } else { Next::More };
        };
        self.searched = 0;
        let end = searched + found;
        if end >= max {
            return Next::TooLong;
        }
        let text = if data[..end].ends_with(b"\r") { end - 1 } else { end };
        Next::Line { text, whole: end + 1 }
    }
}

/// True for bytes that no command has within a line: they could end it for the next reader, or the whole text.
pub fn is_broken(line: &[u8]) -> bool {
    memchr::memchr2(b'\r', b'\0', line).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_with_lf_and_may_have_a_cr_before_it() {
        let cases: [(&[u8], Next); 9] = [
            (b"", Next::More),
            (b"QUIT", Next::More),
            (b"QUIT\r", Next::More),
            (b"QUIT\r\n", Next::Line { text: 4, whole: 6 }),
            (b"QUIT\nNOOP\r\n", Next::Line { text: 4, whole: 5 }),
            (b"\n", Next::Line { text: 0, whole: 1 }),
            (b"0123456789", Next::TooLong),
            (b"012345678\n", Next::Line { text: 9, whole: 10 }),
            (b"0123456789\n", Next::TooLong),
        ];
        for (data, expected) in cases {
            assert_eq!(Lines::default().next(data, 10), expected, "{data:?}");
        }
    }

    #[test]
    fn pieces_are_the_same_as_the_whole() {
        let data = b"USER someone\r\nPASS x\r\n";
        for cut in 0..14 {
            let mut lines = Lines::default();
            assert_eq!(lines.next(&data[..cut], 100), Next::More, "{cut}");
            assert_eq!(lines.next(data, 100), Next::Line { text: 12, whole: 14 });
            assert_eq!(lines.next(&data[14..], 100), Next::Line { text: 6, whole: 8 });
        }
    }

    #[test]
    fn bytes_that_end_a_line_elsewhere_are_seen() {
        assert!(is_broken(b"USER a\rDELE 1") && is_broken(b"USER a\0"));
        assert!(!is_broken(b"USER \xc3\xa4\t"));
    }
}
