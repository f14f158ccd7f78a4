//! The conversation of a health check with a server over a plain connection: `send` and `expect` of a `match` block.
//!
//! Reading the directives, and judging what a server has said so far; `upstream/talk.rs` does the talking.
//! Touches: nothing. Behaviour: nginx.org, `match` of ngx_stream_upstream_hc_module.

use crate::config::inherit::duplicate;
use crate::config::{Diagnostic, Node, Word};
use crate::script::Compile;
use crate::script::regex::{Pattern, Regex};
use crate::upstream::talk::{Expect, Talk};

/// The bytes that a check sends, and the answer that it expects.
#[derive(Debug, Default)]
pub struct Conversation {
    send: Option<Box<[u8]>>,
    expected: Option<Expected>,
}

#[derive(Debug)]
enum Expected {
    /// These bytes are among those that have come.
    Text(Box<[u8]>),
    Regex(Regex),
}

impl Conversation {
    /// The bytes to send; `None`: nothing is configured.
    pub fn sent(&self) -> Option<&[u8]> {
        self.send.as_deref()
    }

    /// The conversation as a check has it. `default`: what is sent if nothing is configured.
    pub fn talk<'a>(&'a self, default: &'a [u8]) -> Talk<'a> {
        let expect = self.expected.as_ref().map(|expected| expected as &dyn Expect);
        Talk { send: self.sent().unwrap_or(default), expect }
    }

    /// `send "bytes"`, with `\xHH` for any byte.
    pub fn set_send(&mut self, node: &Node) -> Result<(), Diagnostic> {
        if self.send.is_some() {
            return Err(duplicate(node));
        }
        self.send = Some(bytes(&node.args[0])?.into());
        Ok(())
    }

    /// `expect "bytes"`, `expect ~ "expression"`, or `expect ~* "expression"` in any case.
    pub fn set_expect(&mut self, node: &Node, cx: &mut impl Compile) -> Result<(), Diagnostic> {
        if self.expected.is_some() {
            return Err(duplicate(node));
        }
        self.expected = Some(match &*node.args {
            [value] => Expected::Text(bytes(value)?.into()),
            [operator, value] if matches!(&*operator.text, "~" | "~*") => {
                let pattern = Pattern::new(&value.text, &*operator.text == "~*", value.span)?;
                Expected::Regex(pattern.declare(cx.variables()))
            }
            _ => {
                let help = "write expect ~ \"expression\", or ~* to ignore case";
                return Err(Diagnostic::error(node.arg_span(0), "invalid operator").help(help));
            }
        });
        Ok(())
    }
}

impl Expect for Expected {
    /// A pattern that gives up does not match.
    fn is_met(&self, bytes: &[u8]) -> bool {
        match self {
            Self::Text(text) => memchr::memmem::find(bytes, text).is_some(),
            Self::Regex(regex) => regex.is_match(bytes).unwrap_or(false),
        }
    }
}

/// A text in which `\xHH` is the byte of that number, and `\r`, `\n` and `\t` are what they are elsewhere.
fn bytes(word: &Word) -> Result<Vec<u8>, Diagnostic> {
    let invalid = || {
        let message = format!("invalid escape in \"{}\"", word.text);
        Diagnostic::error(word.span, message).help("it is one of \\r, \\n, \\t, \\\\ and \\xHH")
    };
    let (mut out, mut rest) = (Vec::new(), word.text.as_bytes());
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'\\' {
            out.push(*byte);
            continue;
        }
        let (kind, after) = rest.split_first().ok_or_else(invalid)?;
        rest = after;
        out.push(match kind {
            b'r' => b'\r',
            b'n' => b'\n',
            b't' => b'\t',
            b'\\' => b'\\',
            b'x' => {
                let (digits, after) = rest.split_at_checked(2).ok_or_else(invalid)?;
                rest = after;
                let is_hex = digits.iter().all(u8::is_ascii_hexdigit);
                let digits = std::str::from_utf8(digits).ok().filter(|_| is_hex);
                digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).ok_or_else(invalid)?
            }
            _ => return Err(invalid()),
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::toy;

    fn read(text: &str) -> Result<Conversation, String> {
        let mut cx = toy::Cx::default();
        let mut found = Conversation::default();
        for node in &cx.read(text) {
            let set = match &*node.name.text {
                "send" => found.set_send(node),
                _ => found.set_expect(node, &mut cx),
            };
            set.map_err(|diagnostic| diagnostic.message)?;
        }
        Ok(found)
    }

    #[test]
    fn escapes_stand_for_single_bytes() {
        for (text, bytes) in [
            (r#"send "EHLO a\r\n";"#, &b"EHLO a\r\n"[..]),
            (r#"send "\x00\xff\x7F";"#, b"\x00\xff\x7f"),
            (r"send \x41\x4a;", b"AJ"),
            (r#"send "";"#, b""),
        ] {
            assert_eq!(read(text).expect(text).sent(), Some(bytes), "{text}");
        }
        assert_eq!(read("").expect("nothing").sent(), None);
    }

    #[test]
    fn an_answer_contains_a_text_or_matches_a_pattern() {
        for (text, said, expected) in [
            ("", &b""[..], true),
            ("expect PONG;", b"+PONG\r\n", true),
            ("expect PONG;", b"+PON", false),
            (r#"expect "\x00\x01";"#, b"a\x00\x01", true),
            ("expect ~ ^220.*welcome;", b"220 you are welcome", true),
            ("expect ~ ^220.*welcome;", b"220 you are WELCOME", false),
            ("expect ~* ^220.*welcome;", b"220 you are WELCOME", true),
            (r#"expect ~ "^\x00\xff";"#, b"\x00\xff", true),
        ] {
            let found = read(text).expect(text);
            let awaited = found.talk(b"").expect;
            assert_eq!(awaited.is_none_or(|awaited| awaited.is_met(said)), expected, "{text}");
            assert_eq!(awaited.is_some(), !text.is_empty());
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for (text, message) in [
            (r#"send "\x4";"#, r#"invalid escape in "\x4""#),
            (r#"send "\x+1";"#, r#"invalid escape in "\x+1""#),
            (r#"expect "\q";"#, r#"invalid escape in "\q""#),
            ("expect = a;", "invalid operator"),
            ("send a; send b;", "\"send\" directive is duplicate"),
            ("expect a; expect b;", "\"expect\" directive is duplicate"),
        ] {
            assert_eq!(read(text).expect_err(text), message);
        }
        assert!(read("expect ~ (;").is_err());
    }
}
