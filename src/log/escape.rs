//! Escaping of variables' values in `log_format`: `escape=default|json|none`.
//!
//! Truth: nginx.org, ngx_http_log_module, `log_format`; checked against nginx 1.22.

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// `default`: `"`, `\` and bytes below 0x20 or above 0x7E become `\xHH`.
///
/// The caller writes `-` for an absent value; here absent and empty look the same.
pub fn default(value: &[u8], out: &mut Vec<u8>) {
    copy_but(
        value,
        out,
        |byte| !(0x20..0x7f).contains(&byte) || byte == b'"' || byte == b'\\',
        |byte, out| {
            out.extend_from_slice(&[b'\\', b'x', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        },
    );
}

/// `json`: `"` and `\` get a backslash, control characters become `\n \r \t \b \f` or `\u00HH`; other bytes
/// stay.
pub fn json(value: &[u8], out: &mut Vec<u8>) {
    copy_but(
        value,
        out,
        |byte| byte < 0x20 || byte == b'"' || byte == b'\\',
        |byte, out| {
            let short = match byte {
                b'\n' => b'n',
                b'\r' => b'r',
                b'\t' => b't',
                0x08 => b'b',
                0x0c => b'f',
                b'"' | b'\\' => byte,
                _ => {
                    out.extend_from_slice(b"\\u00");
                    out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
                    return;
                }
            };
            out.extend_from_slice(&[b'\\', short]);
        },
    );
}

/// `none`: the bytes are copied unchanged.
pub fn none(value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(value);
}

/// Copies `value`, except that each byte for which `odd` is true is passed to `write`.
fn copy_but(value: &[u8], out: &mut Vec<u8>, odd: impl Fn(u8) -> bool, write: impl Fn(u8, &mut Vec<u8>)) {
    let mut rest = value;
    while let Some(at) = rest.iter().position(|&byte| odd(byte)) {
        out.extend_from_slice(&rest[..at]);
        write(rest[at], out);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_escapes_what_nginx_escapes() {
        let value = b"a\"b\\c\x01\n\r\t\x08\x0c \x7f\xc3\xbc/";
        let check = |escape: fn(&[u8], &mut Vec<u8>), expected: &[u8]| {
            let mut out = Vec::new();
            escape(value, &mut out);
            assert_eq!(out.escape_ascii().to_string(), expected.escape_ascii().to_string());
            escape(b"", &mut out);
            assert_eq!(out.len(), expected.len());
        };
        check(default, b"a\\x22b\\x5Cc\\x01\\x0A\\x0D\\x09\\x08\\x0C \\x7F\\xC3\\xBC/");
        check(json, b"a\\\"b\\\\c\\u0001\\n\\r\\t\\b\\f \x7f\xc3\xbc/");
        check(none, value);
    }
}
