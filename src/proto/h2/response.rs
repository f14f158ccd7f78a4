//! Makes a response's head of the fields of a header block.
//!
//! The head is written as text, as HTTP/1 would have it, with `HTTP/2.0` in its first line, so that everything behind
//! works on one form (see `request.rs`). Bounded by the longest head that its request allows; the rest of a longer one is
//! decoded for the table and dropped, so that other streams go on.
//! Touches: nothing. RFC 9113 §8.2, §8.3.2.

use crate::proto::h1::fields::is_token_byte;
use crate::proto::h1::length;
use crate::proto::h2::hpack;
use crate::proto::h2::request::{Stop, check_value};
use crate::proto::head::ResponseHead;
use crate::proto::header::{Field, Id};
use crate::proto::message::{BodyLength, Method, Version};

/// The most fields of a head.
const FIELDS_MAX: usize = 1000;
/// A block that decodes to more bytes than this many heads of the longest kind ends the connection.
const BOMB_FACTOR: usize = 16;

/// A head that has arrived.
#[derive(Debug, Default)]
pub struct Response {
    /// The bytes to which the head refers.
    pub text: Vec<u8>,
    pub head: ResponseHead,
}

/// Why a response cannot be used. The stream ends, the connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The head is longer than its request allows.
    TooBig,
    /// The text follows `sent`.
    Rule(&'static str),
}

/// Decides how the body of a response to a request of `method` is delimited: by its declared length, or by the end of its
/// stream alone. Errors: the text follows `sent`.
pub fn body_length(head: &ResponseHead, data: &[u8], method: Method) -> Result<BodyLength, &'static str> {
    match length::response(head, data, method).map_err(|error| error.as_str())? {
        BodyLength::UntilClose => Ok(BodyLength::Chunked),
        length => Ok(length),
    }
}

/// Takes the fields of a block in their order and makes the response's head.
#[derive(Debug)]
pub struct Builder {
    response: Response,
    bytes_max: usize,
    /// Decoded bytes until the block is taken for an attack.
    bytes_left: usize,
    malformed: Option<Malformed>,
}

impl Builder {
    /// `bytes_max`: the longest head, as text.
    pub fn new(bytes_max: usize) -> Self {
        let mut response = Response::default();
        response.head.version = Version::Http2;
        Self { response, bytes_max, bytes_left: bytes_max.saturating_mul(BOMB_FACTOR), malformed: None }
    }

    /// The head, and the length that it declares for its body; `None`: it declares none. `method`: that of the request.
    pub fn finish(mut self, method: Method) -> Result<(Response, Option<u64>), Malformed> {
        if self.malformed.is_none() && self.response.head.status == 0 {
            self.malformed = Some(Malformed::Rule("no :status header"));
        }
        if let Some(malformed) = self.malformed {
            return Err(malformed);
        }
        self.response.text.extend_from_slice(b"\r\n");
        let Response { text, head } = &self.response;
        let declared = match length::response(head, text, method) {
            Ok(BodyLength::Length(bytes)) => Some(bytes),
            Ok(_) => None,
            Err(error) => return Err(Malformed::Rule(error.as_str())),
        };
        Ok((self.response, declared))
    }

    fn take(&mut self, name: &[u8], value: &[u8]) -> Result<(), Malformed> {
        let rule = |text| Err(Malformed::Rule(text));
        if name.first() == Some(&b':') {
            return match (name, self.response.head.status) {
                (b":status", 0) => self.begin(value),
                (b":status", _) => rule("duplicate :status header"),
                _ => rule("unknown pseudo-header"),
            };
        }
        if self.response.head.status == 0 {
            return rule("no :status header before the others");
        }
        if self.response.head.fields.iter().count() >= FIELDS_MAX {
            return Err(Malformed::TooBig);
        }
        if name.iter().any(u8::is_ascii_uppercase) {
            return rule("header name with upper-case letters");
        }
        if name.is_empty() || !name.iter().all(|byte| is_token_byte(*byte)) {
            return rule("invalid header name");
        }
        if check_value(value).is_err() {
            return rule("invalid header value");
        }
        let id = Id::of(name);
        if matches!(
            id,
            Some(Id::Connection | Id::KeepAlive | Id::ProxyConnection | Id::TransferEncoding | Id::Upgrade)
        ) {
            return rule("header that is not allowed in HTTP/2");
        }
        let text = &mut self.response.text;
        let start = text.len();
        if start + name.len() + value.len() + 6 > self.bytes_max {
            return Err(Malformed::TooBig);
        }
        let Ok(name_length) = u16::try_from(name.len()) else { return Err(Malformed::TooBig) };
        text.extend_from_slice(name);
        text.extend_from_slice(b": ");
        text.extend_from_slice(value);
        text.extend_from_slice(b"\r\n");
        self.response.head.fields.push(Field {
            name_start: start as u32,
            value_start: (start + name.len() + 2) as u32,
            value_length: value.len() as u32,
            name_length,
            id,
            is_odd: false,
        });
        Ok(())
    }

    /// Writes the first line.
    fn begin(&mut self, status: &[u8]) -> Result<(), Malformed> {
        let digit = |byte: u8| u16::from(byte - b'0');
        let status = match status {
            [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'] => {
                digit(*a) * 100 + digit(*b) * 10 + digit(*c)
            }
            _ => return Err(Malformed::Rule("invalid :status header")),
        };
        if status == 101 {
            return Err(Malformed::Rule("status 101, which HTTP/2 does not have"));
        }
        let text = &mut self.response.text;
        text.extend_from_slice(b"HTTP/2.0 ");
        text.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
        self.response.head.status = status;
        self.response.head.reason = text.len()..text.len();
        text.extend_from_slice(b"\r\n");
        Ok(())
    }
}

impl hpack::Sink for Builder {
    type Stop = Stop;

    fn field(&mut self, name: &[u8], value: &[u8]) -> Result<(), Stop> {
        self.bytes_left = self.bytes_left.checked_sub(name.len() + value.len()).ok_or(Stop::LongHead)?;
        if self.malformed.is_none() {
            self.malformed = self.take(name, value).err();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::h2::hpack::Sink;

    fn built(max: usize, fields: &[(&str, &str)]) -> Result<(Response, Option<u64>), Malformed> {
        let mut builder = Builder::new(max);
        for (name, value) in fields {
            builder.field(name.as_bytes(), value.as_bytes()).expect("no bomb");
        }
        builder.finish(Method::Get)
    }

    #[test]
    fn a_head_is_what_http_1_would_have() {
        let (response, declared) =
            built(4096, &[(":status", "404"), ("content-length", "5"), ("x-a", "b c")]).expect("a head");
        assert_eq!(response.text, b"HTTP/2.0 404\r\ncontent-length: 5\r\nx-a: b c\r\n\r\n");
        assert_eq!((response.head.status, declared), (404, Some(5)));
        assert_eq!(response.head.fields.value(&response.text, Id::ContentLength), Some(&b"5"[..]));
        let field = response.head.fields.iter().last().expect("a field");
        assert_eq!((field.name(&response.text), field.value(&response.text)), (&b"x-a"[..], &b"b c"[..]));
        assert_eq!(built(64, &[(":status", "200")]).expect("a head").1, None);
        assert_eq!(built(64, &[(":status", "204"), ("content-length", "9")]).expect("a head").1, None);
        assert_eq!(built(64, &[(":status", "103"), ("link", "a")]).expect("a head").1, None);
    }

    #[test]
    fn what_breaks_a_rule_is_malformed() {
        let ok = (":status", "200");
        let cases: &[&[(&str, &str)]] = &[
            &[],
            &[("x", "y")],
            &[("x", "y"), ok],
            &[ok, ok],
            &[ok, (":path", "/")],
            &[(":status", "20")],
            &[(":status", "2000")],
            &[(":status", "099")],
            &[(":status", "abc")],
            &[(":status", "101")],
            &[ok, ("X", "y")],
            &[ok, ("", "y")],
            &[ok, ("a:b", "y")],
            &[ok, ("a b", "y")],
            &[ok, ("a\nb", "y")],
            &[ok, ("a", "y\r\nz: 1")],
            &[ok, ("a", "y\0")],
            &[ok, ("a", " y")],
            &[ok, ("connection", "close")],
            &[ok, ("transfer-encoding", "chunked")],
            &[ok, ("upgrade", "x")],
            &[ok, ("keep-alive", "x")],
            &[ok, ("proxy-connection", "x")],
            &[ok, ("content-length", "1"), ("content-length", "1")],
            &[ok, ("content-length", "-1")],
        ];
        for fields in cases {
            assert!(matches!(built(4096, fields), Err(Malformed::Rule(_))), "{fields:?}");
        }
    }

    #[test]
    fn a_long_head_is_dropped_and_a_bomb_ends_the_block() {
        let long = "x".repeat(100);
        assert_eq!(built(100, &[(":status", "200"), ("x-a", &long)]).err(), Some(Malformed::TooBig));
        let mut builder = Builder::new(100);
        let ended = (0..100).find(|_| builder.field(b"x-a", long.as_bytes()).is_err());
        assert_eq!(ended, Some(15));
        let many: Vec<(&str, &str)> =
            std::iter::once((":status", "200")).chain(std::iter::repeat_n(("a", ""), 1001)).collect();
        assert_eq!(built(1 << 20, &many).err(), Some(Malformed::TooBig));
    }
}
