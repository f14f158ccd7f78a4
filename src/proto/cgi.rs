//! The Common Gateway Interface, as FastCGI, uwsgi and SCGI use it: the fields that begin a response, and the
//! variables that a request's fields become.
//!
//! Touches: nothing. The caller keeps the bytes. RFC 3875 §4.1.18, §6.

use crate::base::number::parse_u64;
use crate::proto::h1::Error;
pub use crate::proto::h1::fields::Seen;
use crate::proto::h1::fields::{self, Rules};
pub use crate::proto::h1::request::Progress;
use crate::proto::h1::response;
use crate::proto::head::ResponseHead;
use crate::proto::header::Id;
use crate::proto::message::{BodyLength, Method};

const FIELDS_MAX: usize = 1000;

/// The longest body accepted: the range of a file offset.
const LENGTH_MAX: u64 = i64::MAX as u64;

/// What the variables of request fields begin with.
pub const FIELD_PREFIX: &[u8] = b"HTTP_";

/// Takes the parameters of a request one by one, in the encoding of its protocol.
///
/// A parameter that the protocol cannot express is noted, and reported when all have been written.
pub trait Pairs {
    /// Appends a parameter; `value` writes its value. Without `keeps_empty` one with an empty value is left out.
    fn push(&mut self, name: &[u8], keeps_empty: bool, value: impl FnOnce(&mut Vec<u8>));
}

/// The reason why the parameters of a request cannot be sent. Its `Display` is the message for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unsendable {
    /// One parameter of this name and total size; the protocol allows `max`.
    TooLong { name: Box<[u8]>, bytes: usize, max: usize },
    /// All parameters together.
    TooMany { bytes: usize, max: usize },
    /// A null byte, which ends names and values, in the parameter of this name.
    Null { name: Box<[u8]> },
}

/// The name of the variable for a request field: `HTTP_X_REAL_IP` for `X-Real-IP`.
pub fn variable_name(field: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(FIELD_PREFIX);
    out.extend(field.iter().copied().map(variable_byte));
}

/// True if this field becomes that variable.
pub fn is_variable_of(variable: &[u8], field: &[u8]) -> bool {
    let same = |(one, other): (&u8, &u8)| *one == variable_byte(*other);
    // Most fields differ in length already.
    variable.len() == FIELD_PREFIX.len() + field.len()
        && variable.strip_prefix(FIELD_PREFIX).is_some_and(|rest| rest.iter().zip(field).all(same))
}

fn variable_byte(byte: u8) -> u8 {
    if byte == b'-' { b'_' } else { byte.to_ascii_uppercase() }
}

/// Parses the fields at the start of `buf`, continuing after earlier calls with the same `seen`.
///
/// The status is that of the `Status` field, 302 for a response that has only a `Location`, otherwise 200.
/// Errors: also a `Status` below 200, which could not be the final one.
pub fn parse_more(
    buf: &[u8],
    head_bytes_max: usize,
    head: &mut ResponseHead,
    seen: &mut Seen,
) -> Result<Progress, Error> {
    let rules = Rules {
        line_bytes_max: head_bytes_max,
        count_max: FIELDS_MAX,
        ignore_odd: false,
        underscores: true,
        crlf_only: false,
    };
    if buf.len() <= head_bytes_max && !seen.wants_parse(buf, &rules, &mut head.fields) {
        return Ok(Progress::Partial);
    }
    head.clear();
    let parsed = fields::parse(buf, 0, &rules, &mut head.fields)?;
    if parsed.unwrap_or(buf.len()) > head_bytes_max {
        return Err(Error::HeadTooLarge);
    }
    let Some(end) = parsed else {
        seen.is_partial(buf);
        return Ok(Progress::Partial);
    };
    if head.fields.has(Id::Connection) {
        head.connection = head.fields.connection(buf)?;
    }
    head.status = match head.fields.iter().find(|field| field.id == Some(Id::Status)) {
        Some(field) => {
            let value = field.value(buf);
            let (status, reason_length) = status(value).ok_or(Error::InvalidStatusLine)?;
            let value_end = field.value_start as usize + value.len();
            head.reason = value_end - reason_length..value_end;
            status
        }
        None if head.fields.has(Id::Location) => 302,
        None => 200,
    };
    Ok(Progress::Complete(end))
}

/// Parses a head that begins with HTTP's status line, or else as [`parse_more`] does: applications behind uwsgi and SCGI
/// send either. Errors: also a status below 200.
pub fn parse_any(
    buf: &[u8],
    head_bytes_max: usize,
    head: &mut ResponseHead,
    seen: &mut Seen,
) -> Result<Progress, Error> {
    const START: &[u8] = b"HTTP/";
    let known = buf.len().min(START.len());
    if buf[..known] != START[..known] {
        return parse_more(buf, head_bytes_max, head, seen);
    }
    if known < START.len() {
        return Ok(Progress::Partial);
    }
    let progress = response::parse_more(buf, head_bytes_max, head, seen)?;
    if matches!(progress, Progress::Complete(_)) && head.status < 200 {
        return Err(Error::InvalidStatusLine);
    }
    Ok(progress)
}

/// `3DIGIT [SP reason]`: the status, and the length of the reason.
fn status(value: &[u8]) -> Option<(u16, usize)> {
    match value {
        [a @ b'2'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', rest @ ..] if matches!(rest, [] | [b' ', ..]) => {
            let digit = |byte: &u8| u16::from(byte - b'0');
            Some((digit(a) * 100 + digit(b) * 10 + digit(c), rest.len().saturating_sub(1)))
        }
        _ => None,
    }
}

/// Decides how the body of the response to a request of `method` is delimited; `otherwise` applies if its head
/// has no length. `Transfer-Encoding` has no meaning in CGI.
///
/// Errors: an invalid length, or several.
pub fn body_length(
    head: &ResponseHead,
    data: &[u8],
    method: Method,
    otherwise: BodyLength,
) -> Result<BodyLength, Error> {
    let mut lengths = head.fields.values(data, Id::ContentLength);
    let length = match lengths.next() {
        Some(digits) => {
            let length = parse_u64(digits).filter(|length| *length <= LENGTH_MAX);
            BodyLength::Length(length.ok_or(Error::InvalidContentLength)?)
        }
        None => otherwise,
    };
    if lengths.next().is_some() {
        return Err(Error::DuplicateContentLength);
    }
    let is_bodiless = method == Method::Head || matches!(head.status, 204 | 304);
    Ok(if is_bodiless { BodyLength::None } else { length })
}

impl std::fmt::Display for Unsendable {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
        match self {
            Self::TooLong { name, bytes, max } => {
                write!(out, "the parameter \"{}\" has {bytes} bytes, at most {max} can be sent", shown(name))
            }
            Self::TooMany { bytes, max } => {
                write!(out, "the parameters have {bytes} bytes, at most {max} can be sent")
            }
            Self::Null { name } => {
                write!(out, "the parameter \"{}\" contains a null byte, which cannot be sent", shown(name))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<(u16, String, usize), Error> {
        let mut head = ResponseHead::default();
        match parse_more(text.as_bytes(), 4096, &mut head, &mut Seen::default())? {
            Progress::Complete(length) => Ok((head.status, text[head.reason].to_owned(), length)),
            Progress::Partial => Ok((0, String::new(), 0)),
        }
    }

    #[test]
    fn the_status_is_a_field() {
        for (text, expected) in [
            ("Status: 404 Not Found\r\nA: b\r\n\r\n", (404, "Not Found")),
            ("A: b\nStatus: 201\n\n", (201, "")),
            ("status:500 \r\n\r\n", (500, "")),
            ("Location: /x\r\n\r\n", (302, "")),
            ("Status: 200 OK\r\nLocation: /x\r\n\r\n", (200, "OK")),
            ("Content-Type: text/html\r\n\r\n", (200, "")),
            ("\r\n", (200, "")),
        ] {
            let (status, reason, length) = parsed(text).unwrap();
            assert_eq!(((status, &*reason), length), (expected, text.len()), "{text}");
        }
        for text in [
            "Status: 99\n\n",
            "Status: 20\n\n",
            "Status: abc\n\n",
            "Status: 2000\n\n",
            "Status:\n\n",
            "Status: 100 Continue\n\n",
            "Status: 101 Switching Protocols\n\n",
        ] {
            assert_eq!(parsed(text), Err(Error::InvalidStatusLine), "{text}");
        }
        for text in ["HTTP/1.1 200 OK\r\n\r\n", "A b\r\n\r\n", "A: b\r\n c\r\n\r\n", "A: b\0\r\n\r\n"] {
            assert!(parsed(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_head_comes_in_any_pieces() {
        let text = b"Status: 404 Not Found\r\nContent-Type: text/html\nX: y\r\n\r\nbody";
        let end = text.len() - 4;
        let (mut head, mut seen) = (ResponseHead::default(), Seen::default());
        for cut in 0..end {
            let progress = parse_more(&text[..cut], 4096, &mut head, &mut seen);
            assert_eq!(progress, Ok(Progress::Partial), "{cut}");
        }
        assert_eq!(parse_more(text, 4096, &mut head, &mut seen), Ok(Progress::Complete(end)));
        assert_eq!((head.status, head.fields.len()), (404, 3));
        let long = format!("X: {}\r\n\r\n", "x".repeat(100));
        let parse = |text: &str, max| {
            parse_more(text.as_bytes(), max, &mut ResponseHead::default(), &mut Seen::default())
        };
        assert!(parse(&long, long.len()).is_ok());
        assert_eq!(parse(&long, long.len() - 1), Err(Error::HeadTooLarge));
        assert_eq!(parse(&long[..60], 50), Err(Error::HeadTooLarge));
    }

    #[test]
    fn a_body_has_one_length_or_ends_as_the_protocol_says() {
        let length = |text: &str, method| {
            let mut head = ResponseHead::default();
            parse_more(text.as_bytes(), 4096, &mut head, &mut Seen::default()).unwrap();
            body_length(&head, text.as_bytes(), method, BodyLength::Chunked)
        };
        let get = Method::Get;
        assert_eq!(length("A: b\n\n", get), Ok(BodyLength::Chunked));
        assert_eq!(
            length("Transfer-Encoding: chunked\nContent-Length: 3\n\n", get),
            Ok(BodyLength::Length(3))
        );
        assert_eq!(length("Content-Length: 3\n\n", Method::Head), Ok(BodyLength::None));
        assert_eq!(length("Status: 304 Not Modified\nContent-Length: 3\n\n", get), Ok(BodyLength::None));
        assert_eq!(length("Content-Length: -3\n\n", get), Err(Error::InvalidContentLength));
        assert_eq!(
            length("Content-Length: 3\nContent-Length: 3\n\n", get),
            Err(Error::DuplicateContentLength)
        );
    }

    #[test]
    fn a_field_becomes_a_variable() {
        let mut name = Vec::new();
        for (field, expected) in
            [("X-Real-IP", "HTTP_X_REAL_IP"), ("a_b.c", "HTTP_A_B.C"), ("Host", "HTTP_HOST")]
        {
            variable_name(field.as_bytes(), &mut name);
            assert_eq!(name, expected.as_bytes());
            assert!(is_variable_of(expected.as_bytes(), field.as_bytes()));
        }
        assert!(!is_variable_of(b"HTTP_HOST", b"Hos") && !is_variable_of(b"HOST", b"Host"));
    }
}
