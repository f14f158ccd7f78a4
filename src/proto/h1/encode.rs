//! Writes HTTP/1.1: heads, field lines, chunks.
//!
//! Everything that goes into a head has a type that was checked when it was made (`proto/field_text.rs`).
//! Touches: nothing; appends to the caller's bytes. RFC 9112 §3, §4, §5, §7.1.

use std::ops::Range;

use crate::proto::field_text::{Label, Line, Lines, Text, Token, is_break, push_field};
use crate::proto::h1::fields::has_break;
use crate::proto::header::{Field, Id};

/// A head being written. All parts of a head go through its methods; it is complete after [`Head::end`].
#[derive(Debug)]
pub struct Head<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Head<'a> {
    /// Writes `HTTP/1.1 200 OK\r\n`.
    #[inline]
    pub fn response(status: u16, reason: &Text<'_>, out: &'a mut Vec<u8>) -> Self {
        if status == 200 && &*reason.0 == b"OK" {
            out.extend_from_slice(b"HTTP/1.1 200 OK\r\n"); // the most frequent one: a third of the instructions
            return Self { out };
        }
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
        out.push(b' ');
        out.extend_from_slice(&reason.0);
        out.extend_from_slice(b"\r\n");
        Self { out }
    }

    /// Writes `GET /path HTTP/1.1\r\n`; also returns the range of the target in `out`. `write` appends the
    /// target. Spaces and control characters in it, which would end it, are escaped; an empty target becomes
    /// `/`.
    #[inline]
    pub fn request(
        method: Token<'_>,
        is_http11: bool,
        out: &'a mut Vec<u8>,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> (Self, Range<usize>) {
        out.extend_from_slice(method.0);
        out.push(b' ');
        let start = out.len();
        write(out);
        if out.len() == start {
            out.push(b'/');
        }
        escape_breaks(out, start);
        let target = start..out.len();
        out.extend_from_slice(if is_http11 { b" HTTP/1.1\r\n" } else { b" HTTP/1.0\r\n" });
        (Self { out }, target)
    }

    /// The bytes written so far.
    pub fn as_bytes(&self) -> &[u8] {
        self.out
    }

    /// Appends lines that are constants of the program.
    #[inline]
    pub fn constant(&mut self, lines: &'static str) {
        self.out.extend_from_slice(lines.as_bytes());
    }

    #[inline]
    pub fn line(&mut self, line: Line<'_>) {
        self.out.extend_from_slice(line.0);
    }

    #[inline]
    pub fn lines(&mut self, lines: &Lines) {
        self.out.extend_from_slice(&lines.0);
    }

    /// Appends a field of a parsed head; `data` is the head's bytes.
    #[inline]
    pub fn parsed(&mut self, field: &Field, data: &[u8]) {
        match field.line(data) {
            Some(line) => self.line(line),
            None => push_field(field.name(data), field.value(data), self.out),
        }
    }

    pub fn number(&mut self, name: Id, value: u64) {
        push_field(name.name().as_bytes(), itoa::Buffer::new().format(value).as_bytes(), self.out);
    }

    /// Appends a field with the value that `write` appends, without bytes that would end its line. An empty
    /// value leaves the field out.
    #[inline]
    pub fn written(&mut self, label: &Label, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.out.len();
        self.out.extend_from_slice(&label.0);
        self.value(start, write);
    }

    /// The same for a known field.
    #[inline]
    pub fn written_id(&mut self, name: Id, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.out.len();
        self.out.extend_from_slice(name.name().as_bytes());
        self.out.extend_from_slice(b": ");
        self.value(start, write);
    }

    #[inline]
    fn value(&mut self, line_start: usize, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.out.len();
        write(self.out);
        if has_break(&self.out[start..]) {
            let clean: Vec<u8> = self.out[start..].iter().copied().filter(|byte| !is_break(*byte)).collect();
            self.out.truncate(start);
            self.out.extend_from_slice(&clean);
        }
        if self.out.len() == start {
            self.out.truncate(line_start);
        } else {
            self.out.extend_from_slice(b"\r\n");
        }
    }

    /// Appends the empty line after the fields.
    #[inline]
    pub fn end(self) {
        self.out.extend_from_slice(b"\r\n");
    }
}

/// Escapes spaces and control characters, which would end a request line; variables may contain them.
fn escape_breaks(out: &mut Vec<u8>, start: usize) {
    let breaks = |byte: &u8| *byte <= b' ' || *byte == 0x7f;
    if !out[start..].iter().any(breaks) {
        return;
    }
    let raw = out.split_off(start);
    for byte in raw {
        if breaks(&byte) {
            const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
            out.extend_from_slice(&[b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        } else {
            out.push(byte);
        }
    }
}

/// Appends the size line of a chunk; its data and a CRLF follow. `length` is not 0, which would end the body.
pub fn chunk_head(length: u64, out: &mut Vec<u8>) {
    debug_assert!(length > 0);
    let digits = (u64::BITS - length.leading_zeros()).div_ceil(4).max(1);
    for digit in (0..digits).rev() {
        out.push(b"0123456789abcdef"[(length >> (digit * 4) & 15) as usize]);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the last chunk, without trailers.
pub fn last_chunk(out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n\r\n");
}

/// Appends the last chunk and the trailers.
pub fn last_chunk_with(trailers: &Lines, out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n");
    out.extend_from_slice(&trailers.0);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_heads_and_chunks() {
        let mut out = Vec::new();
        let mut head = Head::response(200, &Text::clean(b"OK"), &mut out);
        head.number(Id::ContentLength, 10);
        head.end();
        assert_eq!(out, b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n");
        for length in [1, 15, 16, 255, 4096, 65535, u64::MAX] {
            out.clear();
            chunk_head(length, &mut out);
            assert_eq!(out, format!("{length:x}\r\n").as_bytes());
        }
    }

    #[test]
    fn nothing_ends_a_line_but_its_end() {
        for bad in [&b""[..], b"GET /", b"A\r\nB", b"A:", b"\xff", b"A\0", b"(a)"] {
            assert_eq!(Token::new(bad), None, "{}", bad.escape_ascii());
        }
        let bad = b"a\r\nX: y\n\r\n\0 b";
        let mut out = Vec::new();
        let method = Token::new(b"X-Y_z").expect("a token");
        let (mut head, target) = Head::request(method, true, &mut out, |out| out.extend_from_slice(bad));
        assert_eq!(&head.as_bytes()[target], b"a%0D%0AX:%20y%0A%0D%0A%00%20b");
        head.written(&Label::new("X-A").expect("a name"), |out| out.extend_from_slice(bad));
        head.written_id(Id::Host, |out| out.extend_from_slice(b"\r\n"));
        let mut lines = Lines::default();
        lines.push(Id::Via.into(), &Text::clean(bad));
        head.lines(&lines);
        head.end();
        assert_eq!(
            out,
            b"X-Y_z a%0D%0AX:%20y%0A%0D%0A%00%20b HTTP/1.1\r\nX-A: aX: y b\r\nVia: aX: y b\r\n\r\n"
        );
        assert_eq!(
            Head::response(200, &Text::clean(bad), &mut Vec::new()).as_bytes(),
            b"HTTP/1.1 200 aX: y b\r\n"
        );
    }
}
