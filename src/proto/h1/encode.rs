//! Writing HTTP/1.1: status lines, fields, chunks.
//!
//! Touches: nothing; appends to the caller's bytes. RFC 9112 §4, §5, §7.1.

/// `HTTP/1.1 200 OK\r\n`.
#[inline]
pub fn status_line(status: u16, reason: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
    out.push(b' ');
    out.extend_from_slice(reason);
    out.extend_from_slice(b"\r\n");
}

/// `name: value\r\n`. The value must hold no CR, LF or NUL.
#[inline]
pub fn field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    debug_assert!(memchr::memchr3(b'\r', b'\n', 0, value).is_none());
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

pub fn content_length(length: u64, out: &mut Vec<u8>) {
    field(b"Content-Length", itoa::Buffer::new().format(length).as_bytes(), out);
}

/// The size line of a chunk; its data and a CRLF follow. A chunk of 0 bytes would end the body.
pub fn chunk_head(length: u64, out: &mut Vec<u8>) {
    debug_assert!(length > 0);
    let digits = (u64::BITS - length.leading_zeros()).div_ceil(4).max(1);
    for digit in (0..digits).rev() {
        out.push(b"0123456789abcdef"[(length >> (digit * 4) & 15) as usize]);
    }
    out.extend_from_slice(b"\r\n");
}

/// The last chunk, without trailers.
pub fn last_chunk(out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n\r\n");
}

/// The last chunk and the trailers behind it: lines that each end with CRLF, or none.
pub fn last_chunk_with(trailers: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n");
    out.extend_from_slice(trailers);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_heads_and_chunks() {
        let mut out = Vec::new();
        status_line(200, b"OK", &mut out);
        content_length(10, &mut out);
        assert_eq!(out, b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n");
        for length in [1, 15, 16, 255, 4096, 65535, u64::MAX] {
            out.clear();
            chunk_head(length, &mut out);
            assert_eq!(out, format!("{length:x}\r\n").as_bytes());
        }
    }
}
