//! The head of a request: request line and fields, as ranges of the caller's bytes (RFC 9112 §3, §5).

use std::ops::Range;

use crate::proto::h1::Error;
use crate::proto::h1::field::{self, Fields, NameRules};
use crate::proto::header::{self, Id, is_token_byte};
use crate::proto::message::{Method, Version};

/// Bounds and leniencies of a head.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the request line, and of one field (`large_client_header_buffers`).
    pub line_bytes_max: usize,
    pub head_bytes_max: usize,
    /// Leave out fields with invalid names instead of refusing the request (`ignore_invalid_headers`).
    pub ignore_invalid: bool,
    /// `underscores_in_headers`.
    pub underscores: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self { line_bytes_max: 8192, head_bytes_max: 4 * 8192, ignore_invalid: true, underscores: false }
    }
}

impl Limits {
    /// The error for a head that has outgrown its buffer: 414 while the request line is not complete.
    pub fn too_large(&self, data: &[u8]) -> Error {
        match memchr::memchr(b'\n', data) {
            Some(length) if length <= self.line_bytes_max => Error::HeadTooLarge,
            _ => Error::LineTooLong,
        }
    }
}

/// How far [`parse`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    Partial,
    /// The head's length; the body begins behind it.
    Complete(usize),
}

/// A parsed head: ranges of the bytes it was parsed from.
#[derive(Clone, Debug, Default)]
pub struct RequestHead {
    pub method: Method,
    pub method_range: Range<usize>,
    pub target: Range<usize>,
    pub version: Version,
    fields: Fields,
}

/// What the `Connection` fields say (RFC 9110 §7.6.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionOptions {
    pub close: bool,
    pub keep_alive: bool,
    pub upgrade: bool,
}

impl RequestHead {
    pub fn clear(&mut self) {
        (self.method, self.method_range, self.target, self.version) = Default::default();
        self.fields.clear();
    }

    /// The value of the first field of this id.
    pub fn get<'a>(&self, data: &'a [u8], id: Id) -> Option<&'a [u8]> {
        self.fields.iter().find(|field| field.id == Some(id)).map(|field| field.value(data))
    }

    /// The values of all fields of this id.
    pub fn all<'a>(&'a self, data: &'a [u8], id: Id) -> impl Iterator<Item = &'a [u8]> + 'a {
        self.fields.iter().filter(move |field| field.id == Some(id)).map(|field| field.value(data))
    }

    /// Names and values in the order received.
    pub fn iter<'a>(&'a self, data: &'a [u8]) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + 'a {
        self.fields.iter().map(|field| (field.name(data), field.value(data)))
    }

    pub fn fields(&self) -> &[header::Field] {
        &self.fields
    }

    pub fn connection(&self, data: &[u8]) -> ConnectionOptions {
        connection_options(self.all(data, Id::Connection))
    }
}

pub(super) fn connection_options<'a>(values: impl Iterator<Item = &'a [u8]>) -> ConnectionOptions {
    let mut options = ConnectionOptions::default();
    for item in values.flat_map(header::list) {
        options.close |= item.eq_ignore_ascii_case(b"close");
        options.keep_alive |= item.eq_ignore_ascii_case(b"keep-alive");
        options.upgrade |= item.eq_ignore_ascii_case(b"upgrade");
    }
    options
}

/// Parses the head at the beginning of `data`; called again from the start when more bytes have come.
///
/// Empty lines before the request line are skipped (RFC 9112 §2.2). Errors: see [`Error`]; the connection
/// cannot be used afterwards, since nobody knows where the next request begins.
pub fn parse(data: &[u8], limits: &Limits, head: &mut RequestHead) -> Result<Progress, Error> {
    head.clear();
    let start = skip_empty_lines(data)?;
    let Some((end, next)) = field::line(data, start).map_err(|_| Error::BadRequestLine)? else {
        return check_partial_line(&data[start..], limits);
    };
    if end - start > limits.line_bytes_max {
        return Err(Error::LineTooLong);
    }
    request_line(data, start, end, head)?;
    let rules = NameRules { ignore_invalid: limits.ignore_invalid, underscores: limits.underscores };
    match field::fields(data, next, rules, &mut head.fields)? {
        Some(length) if length - next > limits.head_bytes_max => Err(Error::HeadTooLarge),
        Some(length) => check_lines(data, next, length, limits).map(|()| Progress::Complete(length)),
        None if data.len() - next > limits.head_bytes_max => Err(Error::HeadTooLarge),
        None => Ok(Progress::Partial),
    }
}

/// One field must fit one buffer.
fn check_lines(data: &[u8], start: usize, end: usize, limits: &Limits) -> Result<(), Error> {
    if end - start <= limits.line_bytes_max {
        return Ok(());
    }
    let is_long = |line: &[u8]| line.len() > limits.line_bytes_max;
    if data[start..end].split(|byte| *byte == b'\n').any(is_long) { Err(Error::HeadTooLarge) } else { Ok(()) }
}

fn skip_empty_lines(data: &[u8]) -> Result<usize, Error> {
    let mut at = 0;
    loop {
        match data[at..] {
            [b'\n', ..] => at += 1,
            [b'\r', b'\n', ..] => at += 2,
            [b'\r'] | [] => return Ok(at),
            [b'\r', ..] => return Err(Error::BadRequestLine),
            _ => return Ok(at),
        }
    }
}

/// Refuses what cannot become a request line before its end has come, a TLS handshake for one.
fn check_partial_line(line: &[u8], limits: &Limits) -> Result<Progress, Error> {
    if line.len() > limits.line_bytes_max {
        return Err(Error::LineTooLong);
    }
    let method = line.iter().take_while(|byte| is_token_byte(**byte)).count();
    match line.get(method) {
        None => Ok(Progress::Partial),
        Some(b' ') if method > 0 => Ok(Progress::Partial),
        Some(_) => Err(Error::BadMethod),
    }
}

fn request_line(data: &[u8], start: usize, end: usize, head: &mut RequestHead) -> Result<(), Error> {
    let line = &data[start..end];
    let method_end = memchr::memchr(b' ', line).ok_or(Error::BadRequestLine)?;
    let method = &line[..method_end];
    if method.is_empty() || !method.iter().copied().all(is_token_byte) {
        return Err(Error::BadMethod);
    }
    let target_end =
        memchr::memrchr(b' ', line).filter(|at| *at > method_end).ok_or(Error::BadRequestLine)?;
    let target = &line[method_end + 1..target_end];
    if target.is_empty() || target.iter().any(|byte| *byte <= b' ' || *byte == 0x7F) {
        return Err(Error::BadTarget);
    }
    head.version = version(&line[target_end + 1..])?;
    head.method = Method::of(method);
    head.method_range = start..start + method_end;
    head.target = start + method_end + 1..start + target_end;
    Ok(())
}

fn version(text: &[u8]) -> Result<Version, Error> {
    match text.strip_prefix(b"HTTP/") {
        Some([b'1', b'.', b'0']) => Ok(Version::Http10),
        Some([b'1', b'.', b'1'..=b'9']) => Ok(Version::Http11),
        Some([b'0', b'.', b'0'..=b'9']) => Err(Error::BadVersion),
        Some([b'2'..=b'9', b'.', b'0'..=b'9']) => Err(Error::UnsupportedVersion),
        _ => Err(Error::BadVersion),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(text: &str) -> Result<Progress, Error> {
        parse(text.as_bytes(), &Limits::default(), &mut RequestHead::default())
    }

    #[test]
    fn reads_a_request() {
        let data =
            b"\r\nPOST /a?b HTTP/1.1\r\nHost: x\r\nX-Y:\t z \r\nconnection: Keep-Alive, close\r\n\r\nbody";
        let mut head = RequestHead::default();
        assert_eq!(parse(data, &Limits::default(), &mut head), Ok(Progress::Complete(data.len() - 4)));
        assert_eq!((head.method, head.version), (Method::Post, Version::Http11));
        assert_eq!(&data[head.target.clone()], b"/a?b");
        assert_eq!(head.get(data, Id::Host), Some(&b"x"[..]));
        assert_eq!(head.iter(data).nth(1), Some((&b"X-Y"[..], &b"z"[..])));
        let options = head.connection(data);
        assert!(options.close && options.keep_alive && !options.upgrade);
    }

    #[test]
    fn every_beginning_of_a_request_is_partial() {
        let data = b"GET /path HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n";
        for end in 0..data.len() {
            let progress = parse(&data[..end], &Limits::default(), &mut RequestHead::default());
            assert_eq!(progress, Ok(Progress::Partial), "{end}");
        }
    }

    #[test]
    fn refuses_what_two_readers_could_read_in_two_ways() {
        let cases = [
            ("GET  / HTTP/1.1\r\n\r\n", Error::BadTarget),
            ("GET / HTTP/1.1 \r\n\r\n", Error::BadTarget),
            ("GET /\r\n\r\n", Error::BadRequestLine),
            ("GET / HTTP/2.0\r\n\r\n", Error::UnsupportedVersion),
            ("GET / HTTP/1.10\r\n\r\n", Error::BadVersion),
            ("GET / http/1.1\r\n\r\n", Error::BadVersion),
            ("G@T / HTTP/1.1\r\n\r\n", Error::BadMethod),
            ("GET /\x01 HTTP/1.1\r\n\r\n", Error::BadTarget),
            ("\x16\x03\x01", Error::BadMethod),
            ("GET / HTTP/1.1\r\nA : b\r\n\r\n", Error::BadField),
            ("GET / HTTP/1.1\r\n A: b\r\n\r\n", Error::BadField),
            ("GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", Error::BadField),
            ("GET / HTTP/1.1\r\nA: b\rc\r\n\r\n", Error::BadField),
            ("GET / HTTP/1.1\r\nA: b\0c\r\n\r\n", Error::BadField),
            ("GET / HTTP/1.1\r\nA\r\n\r\n", Error::BadField),
            ("GET / HTTP/1.1\r\n: b\r\n\r\n", Error::BadField),
            ("GET / HTTP/1.1\rHost: a\r\n\r\n", Error::BadRequestLine),
        ];
        for (text, expected) in cases {
            assert_eq!(outcome(text), Err(expected), "{text:?}");
        }
    }

    #[test]
    fn names_that_are_no_tokens_are_left_out_or_refused() {
        let data = b"GET / HTTP/1.1\r\nA_B: 1\r\nC@D: 2\r\nE: 3\r\n\r\n";
        let mut head = RequestHead::default();
        parse(data, &Limits::default(), &mut head).unwrap();
        assert_eq!(head.iter(data).collect::<Vec<_>>(), [(&b"E"[..], &b"3"[..])]);
        let strict = Limits { ignore_invalid: false, underscores: true, ..Limits::default() };
        assert_eq!(parse(data, &strict, &mut head), Err(Error::BadField));
    }

    #[test]
    fn limits_hold() {
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(9000));
        assert_eq!(outcome(&long), Err(Error::LineTooLong));
        assert_eq!(outcome(&long[..8500]), Err(Error::LineTooLong));
        let field = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(9000));
        assert_eq!(outcome(&field), Err(Error::HeadTooLarge));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(6000));
        assert_eq!(outcome(&many), Err(Error::HeadTooLarge));
    }
}
