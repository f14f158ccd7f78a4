//! Heads and chunks as bytes (RFC 9112 §4, §7.1).

/// Appends a status line. An empty reason leaves the space that the grammar asks for.
pub fn status_line(status: u16, reason: &[u8], out: &mut Vec<u8>) {
    if status == 200 && reason == b"OK" {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
    out.push(b' ');
    out.extend_from_slice(reason);
    out.extend_from_slice(b"\r\n");
}

/// Appends a whole Content-Length field.
pub fn content_length(length: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"Content-Length: ");
    out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends a field line. The value must hold no line end.
pub fn field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends the line before a chunk's data; CR LF follows the data.
pub fn chunk_head(length: u64, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let digits = (u64::BITS - (length | 1).leading_zeros()).div_ceil(4);
    for digit in (0..digits).rev() {
        out.push(HEX[(length >> (digit * 4)) as usize & 15]);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the end of a chunked body without trailers.
pub fn last_chunk(out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_sizes_are_hexadecimal() {
        for length in [0, 1, 15, 16, 255, 4096, 0xDEAD_BEEF, u64::MAX] {
            let mut out = Vec::new();
            chunk_head(length, &mut out);
            assert_eq!(out, format!("{length:x}\r\n").into_bytes());
        }
    }

    #[test]
    fn a_status_without_a_reason_keeps_its_space() {
        let mut out = Vec::new();
        status_line(299, b"", &mut out);
        assert_eq!(out, b"HTTP/1.1 299 \r\n");
    }
}
