//! The context of a message: `*CONN` before it, ` while ACTION` and `, client: …, server: …` after it.
//!
//! Connections and requests implement `Context`; it is asked only if the level is enabled. Bytes from the
//! network must go through `Fields::quoted` or `Text`, so that they cannot forge a line or a field.

use std::fmt::{self, Write};
use std::io;

/// The subject of a message: a connection, a request, an upstream, or `()` for none.
pub trait Context {
    /// The connection's number, shown as `*N`.
    fn connection(&self) -> Option<u64> {
        None
    }

    /// The action in progress, shown as ` while ACTION` after the message.
    fn action(&self) -> Option<&str> {
        None
    }

    /// Appends the trailing fields in nginx's order: client, server, request, upstream, host.
    fn fields(&self, _fields: &mut Fields<'_>) {}
}

impl Context for () {}

impl<T: Context> Context for Box<T> {
    fn connection(&self) -> Option<u64> {
        (**self).connection()
    }

    fn action(&self) -> Option<&str> {
        (**self).action()
    }

    fn fields(&self, fields: &mut Fields<'_>) {
        (**self).fields(fields);
    }
}

/// Collects the trailing fields of one line.
pub struct Fields<'a> {
    out: &'a mut dyn Write,
}

impl<'a> Fields<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> Fields<'a> {
        Fields { out }
    }

    /// Appends `, name: value`, for values that we made ourselves (addresses, numbers).
    pub fn plain(&mut self, name: &str, value: impl fmt::Display) -> &mut Self {
        // Writing to memory does not fail.
        let _ = write!(self.out, ", {name}: {value}");
        self
    }

    /// Appends `, name:value`, which is how nginx writes counts of bytes.
    pub fn count(&mut self, name: &str, value: impl fmt::Display) -> &mut Self {
        let _ = write!(self.out, ", {name}:{value}");
        self
    }

    /// Appends `, name: "value"`, for bytes that a peer chose.
    pub fn quoted(&mut self, name: &str, value: &[u8]) -> &mut Self {
        let _ = write!(self.out, ", {name}: \"{}\"", Text(value));
        self
    }
}

/// Foreign bytes inside a message: control characters, `"`, `\` and invalid UTF-8 are shown as `\xHH`.
#[derive(Clone, Copy)]
pub struct Text<'a>(pub &'a [u8]);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for piece in chunk.valid().split_inclusive(needs_escape) {
                let last = piece.chars().next_back().filter(|&c| needs_escape(c));
                let Some(last) = last else {
                    f.write_str(piece)?;
                    continue;
                };
                f.write_str(&piece[..piece.len() - last.len_utf8()])?;
                let mut bytes = [0; 4];
                for byte in last.encode_utf8(&mut bytes).bytes() {
                    write!(f, "\\x{byte:02X}")?;
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02X}")?;
            }
        }
        Ok(())
    }
}

/// Control characters include U+0080 to U+009F, which terminals interpret as escape sequences.
fn needs_escape(c: char) -> bool {
    c.is_control() || c == '"' || c == '\\'
}

/// A system error in nginx's form: `(111: Connection refused)`.
pub struct Cause<'a>(pub &'a io::Error);

impl fmt::Display for Cause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.raw_os_error() {
            Some(number) => {
                let text = self.0.to_string();
                let text = text.split(" (os error").next().unwrap_or_default();
                write!(f, "({number}: {text})")
            }
            None => write!(f, "({})", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_a_peer_cannot_forge_a_field_or_a_line() {
        let cases: &[(&[u8], &str)] = &[
            (b"GET / HTTP/1.1", "GET / HTTP/1.1"),
            (b"GET /\", host: \"x\n", "GET /\\x22, host: \\x22x\\x0A"),
            (b"a\\b\0\x7f", "a\\x5Cb\\x00\\x7F"),
            ("grüße".as_bytes(), "grüße"),
            (b"\xff\xfeok", "\\xFF\\xFEok"),
            ("\u{9b}31m".as_bytes(), "\\xC2\\x9B31m"),
            (b"", ""),
        ];
        for (bytes, expected) in cases {
            assert_eq!(Text(bytes).to_string(), *expected);
        }
    }

    #[test]
    fn fields_are_appended_in_order() {
        let mut out = String::new();
        Fields::new(&mut out).plain("client", "1.2.3.4").quoted("request", b"GET /");
        assert_eq!(out, ", client: 1.2.3.4, request: \"GET /\"");
    }

    #[test]
    fn causes_look_like_nginx() {
        assert_eq!(Cause(&io::Error::from_raw_os_error(111)).to_string(), "(111: Connection refused)");
        assert_eq!(Cause(&io::Error::other("odd")).to_string(), "(odd)");
    }
}
