//! The head of a response, as an upstream sends it (RFC 9112 §4, §5).

use std::ops::Range;

use crate::proto::h1::Error;
use crate::proto::h1::field::{self, Fields, NameRules};
use crate::proto::h1::request::{ConnectionOptions, Progress, connection_options};
use crate::proto::header::{Field, Id};
use crate::proto::message::Version;

/// A parsed head: ranges of the bytes it was parsed from.
#[derive(Clone, Debug, Default)]
pub struct ResponseHead {
    pub status: u16,
    pub reason: Range<usize>,
    pub version: Version,
    fields: Fields,
}

impl ResponseHead {
    pub fn clear(&mut self) {
        (self.status, self.reason, self.version) = Default::default();
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

    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    pub fn connection(&self, data: &[u8]) -> ConnectionOptions {
        connection_options(self.all(data, Id::Connection))
    }
}

/// Parses the head at the beginning of `data`; called again from the start when more bytes have come.
///
/// `head_bytes_max`: the most bytes a head may have. Errors: anything that is no HTTP/1 response; fields with
/// names that are no tokens are refused, since a client could read them in another way.
pub fn parse(data: &[u8], head_bytes_max: usize, head: &mut ResponseHead) -> Result<Progress, Error> {
    head.clear();
    let Some((end, next)) = field::line(data, 0).map_err(|_| Error::BadStatusLine)? else {
        return check_partial_line(data, head_bytes_max);
    };
    status_line(&data[..end], head)?;
    let rules = NameRules { ignore_invalid: false, underscores: true };
    match field::fields(data, next, rules, &mut head.fields)? {
        Some(length) if length > head_bytes_max => Err(Error::HeadTooLarge),
        Some(length) => Ok(Progress::Complete(length)),
        None if data.len() >= head_bytes_max => Err(Error::HeadTooLarge),
        None => Ok(Progress::Partial),
    }
}

fn check_partial_line(data: &[u8], head_bytes_max: usize) -> Result<Progress, Error> {
    let begin = b"HTTP/1.";
    let common = begin.len().min(data.len());
    if data[..common] != begin[..common] {
        return Err(Error::BadStatusLine);
    }
    if data.len() >= head_bytes_max { Err(Error::HeadTooLarge) } else { Ok(Progress::Partial) }
}

fn status_line(line: &[u8], head: &mut ResponseHead) -> Result<(), Error> {
    let (version, rest) = line.split_at_checked(9).ok_or(Error::BadStatusLine)?;
    head.version = match version {
        b"HTTP/1.0 " => Version::Http10,
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1'..=b'9', b' '] => Version::Http11,
        _ => return Err(Error::BadStatusLine),
    };
    let (digits, rest) = rest.split_at_checked(3).ok_or(Error::BadStatusLine)?;
    if !digits.iter().all(u8::is_ascii_digit) || digits[0] == b'0' {
        return Err(Error::BadStatusLine);
    }
    head.status = digits.iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0'));
    match rest {
        [] => head.reason = line.len()..line.len(),
        [b' ', reason @ ..] if reason.iter().all(|byte| *byte >= b' ' || *byte == b'\t') => {
            head.reason = line.len() - reason.len()..line.len();
        }
        _ => return Err(Error::BadStatusLine),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(text: &str) -> Result<Progress, Error> {
        parse(text.as_bytes(), 4096, &mut ResponseHead::default())
    }

    #[test]
    fn reads_a_response() {
        let data = b"HTTP/1.1 404 Not Here\r\nContent-Length: 3\r\nX: y\r\n\r\nabc";
        let mut head = ResponseHead::default();
        assert_eq!(parse(data, 4096, &mut head), Ok(Progress::Complete(data.len() - 3)));
        assert_eq!((head.status, &data[head.reason.clone()]), (404, &b"Not Here"[..]));
        assert_eq!(head.get(data, Id::ContentLength), Some(&b"3"[..]));
        for end in 0..data.len() - 3 {
            assert_eq!(parse(&data[..end], 4096, &mut head), Ok(Progress::Partial), "{end}");
        }
    }

    #[test]
    fn accepts_what_servers_really_send() {
        for text in [
            "HTTP/1.1 200\r\n\r\n",
            "HTTP/1.1 200 \r\n\r\n",
            "HTTP/1.0 200 OK\n\n",
            "HTTP/1.1 299 x\ty\r\nA_b:\r\n\r\n",
        ] {
            assert!(matches!(outcome(text), Ok(Progress::Complete(_))), "{text:?}");
        }
    }

    #[test]
    fn refuses_what_is_no_response() {
        let cases = [
            ("<html>", Error::BadStatusLine),
            ("HTTP/2 200\r\n\r\n", Error::BadStatusLine),
            ("HTTP/1.1 20\r\n\r\n", Error::BadStatusLine),
            ("HTTP/1.1 2000\r\n\r\n", Error::BadStatusLine),
            ("HTTP/1.1  200 OK\r\n\r\n", Error::BadStatusLine),
            ("HTTP/1.1 099 OK\r\n\r\n", Error::BadStatusLine),
            ("HTTP/1.1 200 OK\r\nA : b\r\n\r\n", Error::BadField),
            ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", Error::BadField),
            ("HTTP/1.1 200 OK\r\nA: b\rX: y\r\n\r\n", Error::BadField),
        ];
        for (text, expected) in cases {
            assert_eq!(outcome(text), Err(expected), "{text:?}");
        }
        let large = format!("HTTP/1.1 200 OK\r\nA: {}", "a".repeat(5000));
        assert_eq!(outcome(&large), Err(Error::HeadTooLarge));
    }
}
