//! memcached's text protocol: asking for the value of a key, and the line that begins a reply.
//!
//! Touches: nothing. memcached, doc/protocol.txt, "Retrieval command".

use crate::base::number::parse_u64;

/// What follows a value.
pub const TRAILER: &[u8] = b"\r\nEND\r\n";

/// The longest line that can begin a reply.
const LINE_BYTES_MAX: usize = 4096;

/// The line that begins a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// More bytes are needed.
    Partial,
    /// The value follows the first `line_bytes`, with these flags and this length.
    Value { line_bytes: usize, flags: u32, length: u64 },
    /// There is no value of this key.
    Missing { line_bytes: usize },
}

/// The reason why a reply is refused. Its text follows `upstream sent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Neither of the two lines; the server may have said what is wrong.
    Response,
    /// The value of another key.
    Key,
    Flags,
    Length,
}

impl Error {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Response => "invalid response of memcached",
            Self::Key => "invalid key in response of memcached",
            Self::Flags => "invalid flags in response of memcached",
            Self::Length => "invalid length in response of memcached",
        }
    }
}

/// Escapes a key as nginx does: control characters, spaces and `%` would end it.
pub fn escape_key(key: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in key {
        if byte <= b' ' || byte == b'%' {
            out.extend_from_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        } else {
            out.push(byte);
        }
    }
}

/// Asks for the value of a key, which is escaped.
pub fn get(key: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"get ");
    out.extend_from_slice(key);
    out.extend_from_slice(b"\r\n");
}

/// The key in what [`get`] wrote.
pub fn asked_key(request: &[u8]) -> &[u8] {
    request.strip_prefix(b"get ").and_then(|rest| rest.strip_suffix(b"\r\n")).unwrap_or(b"")
}

/// Reads the line that begins the reply for this key: `VALUE key flags length`, or `END`.
pub fn reply(data: &[u8], key: &[u8]) -> Result<Reply, Error> {
    let Some(end) = memchr::memchr(b'\n', data) else {
        return if data.len() > LINE_BYTES_MAX { Err(Error::Response) } else { Ok(Reply::Partial) };
    };
    let line_bytes = end + 1;
    let line = data[..end].strip_suffix(b"\r").ok_or(Error::Response)?;
    if line == b"END" {
        return Ok(Reply::Missing { line_bytes });
    }
    let rest = line.strip_prefix(b"VALUE ").ok_or(Error::Response)?;
    let rest = rest.strip_prefix(key).and_then(|rest| rest.strip_prefix(b" ")).ok_or(Error::Key)?;
    let space = memchr::memchr(b' ', rest).ok_or(Error::Flags)?;
    let flags = parse_u64(&rest[..space]).and_then(|flags| u32::try_from(flags).ok()).ok_or(Error::Flags)?;
    // some servers add a number for comparing and swapping
    let length = rest[space + 1..].split(|byte| *byte == b' ').next().unwrap_or(b"");
    let length = parse_u64(length).filter(|length| *length <= i64::MAX as u64).ok_or(Error::Length)?;
    Ok(Reply::Value { line_bytes, flags, length })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_word() {
        let escaped = |key: &[u8]| {
            let mut out = Vec::new();
            escape_key(key, &mut out);
            out
        };
        assert_eq!(escaped(b"/a b%c\r\nget x\0\xff"), b"/a%20b%25c%0D%0Aget%20x%00\xff");
        let mut request = Vec::new();
        get(b"/a%20b", &mut request);
        assert_eq!(request, b"get /a%20b\r\n");
        assert_eq!(asked_key(&request), b"/a%20b");
    }

    #[test]
    fn a_reply_is_read_at_every_cut() {
        for (text, expected) in [
            ("VALUE /k 2 17\r\n", Reply::Value { line_bytes: 15, flags: 2, length: 17 }),
            ("VALUE /k 0 0 99\r\n", Reply::Value { line_bytes: 17, flags: 0, length: 0 }),
            ("END\r\n", Reply::Missing { line_bytes: 5 }),
        ] {
            for cut in 0..text.len() {
                assert_eq!(reply(&text.as_bytes()[..cut], b"/k"), Ok(Reply::Partial), "{text} cut at {cut}");
            }
            assert_eq!(reply([text.as_bytes(), b"more"].concat().as_slice(), b"/k"), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_reply_for_the_key_is_refused() {
        for (text, expected) in [
            ("ERROR\r\n", Error::Response),
            ("SERVER_ERROR out of memory\r\n", Error::Response),
            ("END\n", Error::Response),
            ("VALUE /k2 0 1\r\n", Error::Key),
            ("VALUE /other 0 1\r\n", Error::Key),
            ("VALUE /k\r\n", Error::Key),
            ("VALUE /k 0\r\n", Error::Flags),
            ("VALUE /k x 1\r\n", Error::Flags),
            ("VALUE /k 4294967296 1\r\n", Error::Flags),
            ("VALUE /k 0 -1\r\n", Error::Length),
            ("VALUE /k 0 \r\n", Error::Length),
            ("VALUE /k 0 9223372036854775808\r\n", Error::Length),
        ] {
            assert_eq!(reply(text.as_bytes(), b"/k"), Err(expected), "{text}");
        }
        assert_eq!(reply(&[b'x'; 5000], b"/k"), Err(Error::Response));
    }
}
