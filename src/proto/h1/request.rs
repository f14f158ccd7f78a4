//! Parses the heads of requests.
//!
//! Touches: nothing. The caller keeps the bytes; a head holds ranges of them. The parser is called again with more bytes
//! until the head is complete. RFC 9112 §2.2, §3, §5.

use crate::proto::h1::Error;
pub use crate::proto::h1::fields::Seen;
use crate::proto::h1::fields::{self, FirstLine, Rules};
use crate::proto::head::{Fields, RequestHead};
use crate::proto::header::{Field, Id, IdSet, tokens};
use crate::proto::message::{Method, Version};
use crate::sys::wide;

/// Limits on a client's request head, and how to treat unusual names.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum length of the request line and of each field (`large_client_header_buffers`).
    pub line_bytes_max: usize,
    pub head_bytes_max: usize,
    pub fields_max: usize,
    /// `ignore_invalid_headers`: drop fields with unusual characters in their names; when off they are kept
    /// and marked. Names that are not tokens are refused in any case.
    pub ignore_invalid: bool,
    /// `underscores_in_headers`.
    pub underscores: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            line_bytes_max: 8192,
            head_bytes_max: 4 * 8192, // large_client_header_buffers 4 8k
            fields_max: 1000,
            ignore_invalid: true,
            underscores: false,
        }
    }
}

impl Limits {
    fn rules(&self, crlf_only: bool) -> Rules {
        Rules {
            line_bytes_max: self.line_bytes_max,
            count_max: self.fields_max,
            ignore_odd: self.ignore_invalid,
            underscores: self.underscores,
            crlf_only,
        }
    }

    /// The error for an incomplete head that has filled its buffers.
    pub fn too_large(&self, data: &[u8]) -> Error {
        if memchr::memchr(b'\n', data).is_some() { Error::HeadTooLarge } else { Error::LineTooLong }
    }
}

/// The progress of a parse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More bytes are needed; call again from the beginning.
    Partial,
    /// The head's length in bytes.
    Complete(usize),
}

/// Parses the head at the start of `buf`, continuing after earlier calls with the same `seen`. There must be
/// no empty lines before the head.
pub fn parse_more(
    buf: &[u8],
    limits: &Limits,
    head: &mut RequestHead,
    seen: &mut Seen,
) -> Result<Progress, Error> {
    let rules = limits.rules(false);
    if buf.len() <= limits.head_bytes_max && !seen.wants_parse(buf, &rules, &mut head.fields) {
        return Ok(Progress::Partial);
    }
    let progress = parse(buf, limits, head)?;
    if progress == Progress::Partial {
        seen.is_partial(buf);
    }
    Ok(progress)
}

/// Number of bytes of empty lines at the start of `buf`, once something follows them or nothing else is
/// there.
pub fn empty_lines(buf: &[u8]) -> usize {
    skip_empty_lines(buf).unwrap_or(0)
}

/// Parses the head at the start of `buf`; skips empty lines before it.
pub fn parse(buf: &[u8], limits: &Limits, head: &mut RequestHead) -> Result<Progress, Error> {
    head.clear();
    let start = skip_empty_lines(buf)?;
    let rest = &buf[start..];
    let Some(line) = FirstLine::of(rest) else {
        let progress = check_begin(rest, limits)?;
        return if buf.len() > limits.head_bytes_max { Err(Error::HeadTooLarge) } else { Ok(progress) };
    };
    if line.length > limits.line_bytes_max {
        return Err(Error::LineTooLong);
    }
    request_line(rest, &line, start, head)?;
    // A proxy in front that ends lines with CRLF only would see one field where we see two.
    let rules = limits.rules(line.has_cr);
    let parsed = fields::parse(buf, start + line.length + 1, &rules, &mut head.fields)?;
    if parsed.unwrap_or(buf.len()) > limits.head_bytes_max {
        return Err(Error::HeadTooLarge);
    }
    let Some(end) = parsed else { return Ok(Progress::Partial) };
    check_unique(&head.fields)?;
    if head.fields.has(Id::Connection) {
        head.connection = head.fields.connection(buf)?;
    }
    if head.fields.has(Id::Upgrade) {
        drop_h2c(buf, head);
    }
    if !head.fields.has(Id::Host) && head.version >= Version::Http11 {
        return Err(Error::MissingHost);
    }
    Ok(Progress::Complete(end))
}

/// Removes an offer to upgrade to HTTP/2 (withdrawn by RFC 9113 §3.1): an upstream that accepted it would
/// bypass all our rules.
#[cold]
fn drop_h2c(buf: &[u8], head: &mut RequestHead) {
    let is_h2c =
        |value| tokens(value).any(|token| token.get(..3).is_some_and(|t| t.eq_ignore_ascii_case(b"h2c")));
    if head.fields.values(buf, Id::Upgrade).any(is_h2c) {
        head.fields.remove(Id::Upgrade);
        head.fields.remove(Id::Http2Settings);
    }
}

/// Fields that may have only one value for the whole request; otherwise readers of the first and of the last
/// would disagree. nginx's list, except for the lengths, which `length` checks with the framing.
const UNIQUE: IdSet = IdSet::of(&[
    Id::Host,
    Id::Expect,
    Id::Authorization,
    Id::ContentRange,
    Id::IfMatch,
    Id::IfNoneMatch,
    Id::IfModifiedSince,
    Id::IfUnmodifiedSince,
    Id::IfRange,
]);

/// Refuses a second field of a name that may have only one value.
#[inline]
pub(in crate::proto) fn check_unique(fields: &Fields) -> Result<(), Error> {
    if fields.repeated().meets(UNIQUE) { check_repeats(fields) } else { Ok(()) }
}

/// Refuses a second field of one of [`UNIQUE`].
#[cold]
fn check_repeats(fields: &[Field]) -> Result<(), Error> {
    let mut seen = IdSet::EMPTY;
    for id in fields.iter().filter_map(|field| field.id) {
        if !seen.insert(id) && UNIQUE.contains(id) {
            return Err(if id == Id::Host { Error::DuplicateHost } else { Error::DuplicateField });
        }
    }
    Ok(())
}

fn skip_empty_lines(buf: &[u8]) -> Result<usize, Error> {
    let mut at = 0;
    loop {
        match buf.get(at..) {
            Some([b'\n', ..]) => at += 1,
            Some([b'\r', b'\n', ..]) => at += 2,
            Some([b'\r', _, ..]) => return Err(Error::BareCr),
            _ => return Ok(at),
        }
    }
}

/// Checks the start of an incomplete request line, so that input that is obviously not HTTP is refused at
/// once.
fn check_begin(rest: &[u8], limits: &Limits) -> Result<Progress, Error> {
    if rest == b"\r" {
        return Ok(Progress::Partial);
    }
    if memchr::memchr(b'\r', rest).is_some_and(|at| at + 1 < rest.len()) {
        return Err(Error::BareCr);
    }
    let method_length = rest.iter().position(|byte| !is_method_byte(*byte));
    match method_length {
        Some(length) if length == 0 || rest[length] != b' ' => Err(Error::InvalidMethod),
        Some(length)
            if rest[length + 1..].iter().any(|byte| (*byte < b' ' && *byte != b'\r') || *byte == 0x7f) =>
        {
            Err(Error::InvalidRequestLine)
        }
        _ if rest.len() > limits.line_bytes_max => Err(Error::LineTooLong),
        _ => Ok(Progress::Partial),
    }
}

fn is_method_byte(byte: u8) -> bool {
    byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_')
}

/// `METHOD SP target SP HTTP/1.x`, with single spaces.
#[inline]
fn request_line(rest: &[u8], first: &FirstLine, start: usize, head: &mut RequestHead) -> Result<(), Error> {
    let line = first.text(rest);
    let (method, method_length) = match line {
        [b'G', b'E', b'T', b' ', ..] => (Method::Get, 3),
        _ => method(line)?,
    };
    let target_start = method_length + 1;
    // Search all available bytes: the blocks of a short line would have to be padded.
    let target_end = wide::find(rest, target_start, |block| block.equal(b' '))
        .filter(|end| *end < line.len())
        .ok_or(Error::InvalidRequestLine)?;
    let target = &line[target_start..target_end];
    if target.is_empty() || !first.is_clean && target.iter().any(u8::is_ascii_control) {
        return Err(Error::InvalidRequestLine);
    }
    head.version = match version(&line[target_end + 1..]) {
        // the preface of HTTP/2: refused for its target, as by nginx
        Err(Error::UnsupportedVersion) if target == b"*" && method != Method::Options => {
            return Err(Error::InvalidRequestLine);
        }
        version => version?,
    };
    head.method = method;
    head.method_range = start..start + method_length;
    head.target = start + target_start..start + target_end;
    Ok(())
}

/// The method at the start of a line, and its length.
fn method(line: &[u8]) -> Result<(Method, usize), Error> {
    let length = line.iter().position(|byte| !is_method_byte(*byte)).ok_or(Error::InvalidRequestLine)?;
    if length == 0 || line[length] != b' ' {
        return Err(Error::InvalidMethod);
    }
    Ok((Method::of(&line[..length]), length))
}

fn version(text: &[u8]) -> Result<Version, Error> {
    match text {
        b"HTTP/1.1" => Ok(Version::Http11),
        b"HTTP/1.0" => Ok(Version::Http10),
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'2'..=b'9'] => Ok(Version::Http11),
        [b'H', b'T', b'T', b'P', b'/', b'2'..=b'9', b'.', b'0'..=b'9'] => Err(Error::UnsupportedVersion),
        _ => Err(Error::InvalidVersion),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &[u8]) -> Result<Progress, Error> {
        parse(text, &Limits::default(), &mut RequestHead::default())
    }

    fn with_field(line: &str) -> Result<Progress, Error> {
        parsed(format!("GET / HTTP/1.1\r\nHost: h\r\n{line}\r\n\r\n").as_bytes())
    }

    #[test]
    fn reads_a_head_and_leaves_the_rest() {
        let text =
            b"\r\nPOST /a?b HTTP/1.1\r\nHost: h.test\r\nX-A: \t b c \t\r\nConnection: a, Close\r\n\r\nbody";
        let mut head = RequestHead::default();
        assert_eq!(parse(text, &Limits::default(), &mut head), Ok(Progress::Complete(text.len() - 4)));
        assert_eq!((head.method, head.version), (Method::Post, Version::Http11));
        assert_eq!(&text[head.target.clone()], b"/a?b");
        assert_eq!(&text[head.method_range.clone()], b"POST");
        assert_eq!(head.fields.value(text, Id::Host), Some(&b"h.test"[..]));
        assert_eq!(head.fields.pairs(text).nth(1), Some((&b"X-A"[..], &b"b c"[..])));
        let connection = &head.connection;
        assert!(connection.close && !connection.keep_alive && connection.ends_name(b"A", text));
    }

    #[test]
    fn every_cut_is_partial_and_the_whole_is_complete() {
        let text = b"GET /a HTTP/1.1\r\nHost: h\r\nA: b\r\n\r\n";
        for cut in 0..text.len() {
            assert_eq!(parsed(&text[..cut]), Ok(Progress::Partial), "{cut}");
        }
        assert_eq!(parsed(text), Ok(Progress::Complete(text.len())));
        assert_eq!(parsed(b"GET / HTTP/1.0\n\n"), Ok(Progress::Complete(16)));
    }

    #[test]
    fn refuses_bad_request_lines() {
        for (line, error) in [
            ("get / HTTP/1.1", Error::InvalidMethod),
            ("G(T / HTTP/1.1", Error::InvalidMethod),
            (" GET / HTTP/1.1", Error::InvalidMethod),
            ("/ HTTP/1.1", Error::InvalidMethod),
            ("GET\t/\tHTTP/1.1", Error::InvalidMethod),
            ("GET  / HTTP/1.1", Error::InvalidRequestLine),
            ("GET /", Error::InvalidRequestLine),
            ("GET", Error::InvalidRequestLine),
            ("GET / HTTP/1.1 ", Error::InvalidVersion),
            ("GET /a b HTTP/1.1", Error::InvalidVersion),
            ("GET / http/1.1", Error::InvalidVersion),
            ("GET / HTTP/1.10", Error::InvalidVersion),
            ("GET / HTTP/0.9", Error::InvalidVersion),
            ("GET / HTTP/2.0", Error::UnsupportedVersion),
            ("GET /\0 HTTP/1.1", Error::InvalidRequestLine),
            ("GET /\x7f HTTP/1.1", Error::InvalidRequestLine),
            ("GET /a\rb HTTP/1.1", Error::InvalidRequestLine),
            ("GET / HTTP/1.1\r", Error::InvalidVersion),
        ] {
            assert_eq!(parsed(format!("{line}\r\nHost: h\r\n\r\n").as_bytes()), Err(error), "{line:?}");
        }
        assert_eq!(parsed(b"\x16\x03\x01"), Err(Error::InvalidMethod));
        assert_eq!(parsed(b"\rGET"), Err(Error::BareCr));
    }

    #[test]
    fn refuses_bad_fields() {
        for (line, error) in [
            ("A : b", Error::InvalidFieldName),
            ("A\t: b", Error::InvalidFieldName),
            ("A b: c", Error::InvalidFieldName),
            ("A\0b: c", Error::InvalidFieldName),
            (": b", Error::InvalidFieldName),
            ("Abc", Error::InvalidFieldLine),
            ("A: b\r\n c", Error::FoldedField),
            (" A: b", Error::FoldedField),
            ("A: b\rc", Error::BareCr),
            ("A: b\r", Error::BareCr),
            ("A: b\0c", Error::InvalidFieldValue),
            ("A: \x0bc", Error::InvalidFieldValue),
            ("Host: h", Error::DuplicateHost),
            ("If-Match: a\r\nif-match: b", Error::DuplicateField),
            ("Authorization: a\r\nAuthorization: a", Error::DuplicateField),
            ("Expect: a\r\nA: b\r\nExpect: b", Error::DuplicateField),
        ] {
            assert_eq!(with_field(line), Err(error), "{line:?}");
        }
        assert_eq!(parsed(b"GET / HTTP/1.1\r\nA: b\r\n\r\n"), Err(Error::MissingHost));
    }

    #[test]
    fn names_that_are_no_token_are_refused_always() {
        for name in [
            "A(", "A)", "<A", "A>", "A@", "A,", "A;", "A\\", "\"A\"", "A/", "[A", "A]", "A?", "A=", "{", "}",
            "\u{e4}",
        ] {
            let text = format!("GET / HTTP/1.1\r\nHost: h\r\n{name}: b\r\n\r\n");
            for limits in [Limits::default(), Limits { ignore_invalid: false, ..Limits::default() }] {
                let verdict = parse(text.as_bytes(), &limits, &mut RequestHead::default());
                assert_eq!(verdict, Err(Error::InvalidFieldName), "{name}");
            }
        }
    }

    #[test]
    fn lines_end_as_the_first_one_does() {
        for text in [
            "GET / HTTP/1.1\r\nHost: h\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\nA: b\n\nGET /s HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\n\n",
        ] {
            assert_eq!(parsed(text.as_bytes()), Err(Error::BareLf), "{text:?}");
        }
        let text = "GET / HTTP/1.1\nHost: h\r\nA: b\n\n";
        assert_eq!(parsed(text.as_bytes()), Ok(Progress::Complete(text.len())));
        for text in ["GET / HTTP/1.1\rH", "GET /\r "] {
            assert_eq!(parsed(text.as_bytes()), Err(Error::BareCr), "{text:?}");
        }
    }

    #[test]
    fn an_offer_of_h2c_is_not_seen() {
        let text = b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: a, H2C\r\nHTTP2-Settings: x\r\nA: b\r\n\r\n";
        let mut head = RequestHead::default();
        assert!(parse(text, &Limits::default(), &mut head).is_ok());
        assert!(!head.fields.has(Id::Upgrade) && !head.fields.has(Id::Http2Settings));
        assert_eq!(head.fields.len(), 2);
        assert!(
            parse(b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: x\r\n\r\n", &Limits::default(), &mut head).is_ok()
        );
        assert!(head.fields.has(Id::Upgrade));
    }

    #[test]
    fn odd_names_are_left_out_or_marked() {
        let text = b"GET / HTTP/1.1\r\nHost: h\r\nA_b: c\r\nA.b: c\r\n\r\n";
        let mut head = RequestHead::default();
        assert!(parse(text, &Limits::default(), &mut head).is_ok());
        assert_eq!(head.fields.len(), 1);
        let limits = Limits { ignore_invalid: false, ..Limits::default() };
        assert!(parse(text, &limits, &mut head).is_ok());
        assert_eq!(head.fields.iter().map(|field| field.is_odd).collect::<Vec<_>>(), [false, true, true]);
        let limits = Limits { underscores: true, ..Limits::default() };
        assert!(parse(text, &limits, &mut head).is_ok());
        assert_eq!(head.fields.len(), 2);
    }

    #[test]
    fn names_that_cgi_takes_for_framing_are_left_out_always() {
        let text =
            b"GET / HTTP/1.1\r\nHost: h\r\nTransfer_Encoding: chunked\r\nContent_Length: 5\r\nA_b: c\r\n\r\n";
        let mut head = RequestHead::default();
        let limits = Limits { underscores: true, ignore_invalid: false, ..Limits::default() };
        assert!(parse(text, &limits, &mut head).is_ok());
        let names: Vec<&[u8]> = head.fields.pairs(text).map(|(name, _)| name).collect();
        assert_eq!(names, [&b"Host"[..], b"A_b"]);
    }

    #[test]
    fn a_head_in_pieces_is_the_head_as_a_whole() {
        for text in [
            &b"GET /a HTTP/1.1\r\nHost: h\r\nA: b\r\nConnection: x, close\r\n\r\nrest"[..],
            b"GET /a HTTP/1.0\n\n",
            b"GET /a HTTP/1.1\nHost: h\r\nA: b\n\n",
            b"GET /a HTTP/1.1\r\nHost: h\r\nA: b\n\n",
            b"GET /a HTTP/1.1\r\nHost: h\r\nA b: c\r\nB: c\r\n\r\n",
            b"GET /a HTTP/1.1\r\nHost: h\r\nA: b\0c\r\n\r\n",
            b"GET /a HTTP/1.1\r\nHost: h\r\n folded\r\n\r\n",
            b"GET /a\x01 HTTP/1.1\r\nHost: h\r\n\r\n",
            b"GET /a HTTP/1.1\rHost: h\r\n\r\n",
            b"get /a HTTP/1.1\r\n\r\n",
            b"GET /a HTTP/1.1\r\n\r\n",
        ] {
            let mut whole = RequestHead::default();
            let expected = parse(text, &Limits::default(), &mut whole);
            for step in 1..=3 {
                let (mut head, mut seen, mut at) = (RequestHead::default(), Seen::default(), 0);
                let verdict = loop {
                    at = text.len().min(at + step);
                    match parse_more(&text[..at], &Limits::default(), &mut head, &mut seen) {
                        Ok(Progress::Partial) => {
                            assert!(at < text.len(), "{:?}", text.escape_ascii().to_string())
                        }
                        verdict => break verdict,
                    }
                };
                assert_eq!(verdict, expected, "{}", text.escape_ascii());
                if verdict.is_ok() {
                    assert!(head.fields.pairs(text).eq(whole.fields.pairs(text)));
                    assert_eq!(
                        (head.target, head.connection),
                        (whole.target.clone(), whole.connection.clone())
                    );
                }
            }
        }
    }

    #[test]
    fn everything_has_its_maximum() {
        let long = "a".repeat(9000);
        assert_eq!(parsed(format!("GET /{long}").as_bytes()), Err(Error::LineTooLong));
        assert_eq!(parsed(format!("GET /{long} HTTP/1.1\r\n").as_bytes()), Err(Error::LineTooLong));
        assert_eq!(with_field(&format!("A: {long}")), Err(Error::HeadTooLarge));
        assert_eq!(with_field(&format!("{long}: a")), Err(Error::HeadTooLarge));
        assert_eq!(with_field(&"A: b\r\n".repeat(1001)), Err(Error::TooManyFields));
        assert_eq!(parsed(&b"\r\n".repeat(20_000)), Err(Error::HeadTooLarge));
    }
}
