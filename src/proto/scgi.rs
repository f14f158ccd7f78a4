//! The head of an SCGI request: a netstring of names and values, each ended by a null byte.
//!
//! Touches: nothing. Specification of SCGI (python.ca/scgi/protocol.txt).

use crate::proto::cgi::{Pairs, Unsendable};

/// The headers of a request.
pub struct Headers<'a> {
    out: &'a mut Vec<u8>,
    /// Where the netstring begins: room for its length, and then its content.
    start: usize,
    refused: Option<Unsendable>,
}

/// Room for a length and its colon.
const LENGTH_BYTES: usize = 21;

impl<'a> Headers<'a> {
    /// The length of the body comes first, and is always there.
    pub fn begin(body_bytes: u64, out: &'a mut Vec<u8>) -> Self {
        let start = out.len();
        out.resize(start + LENGTH_BYTES, b'0');
        let mut headers = Self { out, start, refused: None };
        headers.push(b"CONTENT_LENGTH", true, |out| {
            out.extend_from_slice(itoa::Buffer::new().format(body_bytes).as_bytes());
        });
        headers
    }

    /// Completes the netstring. Errors: a name or a value contains a null byte.
    pub fn end(self) -> Result<(), Unsendable> {
        if let Some(why) = self.refused {
            return Err(why);
        }
        let content = self.start + LENGTH_BYTES;
        let mut length = itoa::Buffer::new();
        let length = length.format(self.out.len() - content).as_bytes();
        self.out.splice(self.start..content, length.iter().copied().chain(*b":"));
        self.out.push(b',');
        Ok(())
    }
}

impl Pairs for Headers<'_> {
    fn push(&mut self, name: &[u8], keeps_empty: bool, value: impl FnOnce(&mut Vec<u8>)) {
        let start = self.out.len();
        self.out.extend_from_slice(name);
        self.out.push(0);
        let value_start = self.out.len();
        value(self.out);
        let value = &self.out[value_start..];
        if value.is_empty() && !keeps_empty {
            return self.out.truncate(start);
        }
        if name.contains(&0) || memchr::memchr(0, value).is_some() {
            self.refused.get_or_insert(Unsendable::Null { name: name.into() });
        }
        self.out.push(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(body_bytes: u64, pairs: &[(&str, &str)]) -> Result<Vec<u8>, Unsendable> {
        let mut out = b"before ".to_vec();
        let mut headers = Headers::begin(body_bytes, &mut out);
        for (name, value) in pairs {
            headers.push(name.as_bytes(), true, |out| out.extend_from_slice(value.as_bytes()));
        }
        headers.push(b"NOT", false, |_| {});
        headers.end().map(|()| out)
    }

    #[test]
    fn headers_are_a_netstring() {
        // the example of the specification
        let found = head(27, &[("SCGI", "1"), ("REQUEST_METHOD", "POST"), ("REQUEST_URI", "/deepthought")]);
        let expected =
            "before 70:CONTENT_LENGTH\x0027\0SCGI\x001\0REQUEST_METHOD\0POST\0REQUEST_URI\0/deepthought\0,";
        assert_eq!(found.unwrap(), expected.as_bytes());
        assert_eq!(head(0, &[("A", "")]).unwrap(), b"before 20:CONTENT_LENGTH\x000\0A\0\0,");
        let long = head(0, &[("A", &"x".repeat(100_000))]).unwrap();
        assert!(long.starts_with(b"before 100020:CONTENT_LENGTH\0"));
    }

    #[test]
    fn a_null_byte_is_refused() {
        let why = Unsendable::Null { name: b"A"[..].into() };
        assert_eq!(head(0, &[("A", "b\0CONTENT_LENGTH\x007")]), Err(why));
        assert!(head(0, &[("A\0B", "c")]).is_err());
    }
}
