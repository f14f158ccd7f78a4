//! The lexer of nginx's configuration language.
//!
//! Sans I/O: text in, tokens with byte offsets out. Follows nginx's rules: a word ends at white space, `;` or
//! `{`; `{` directly after `$` belongs to the word (`${name}`); `}` and `#` are special only at the start of
//! a word; a quoted word must be followed by white space, `;`, `{` or `)`; a backslash takes away the special
//! meaning of the next character, and is itself removed only before `"`, `'`, `\`, and in `\t`, `\r`, `\n`.

use std::borrow::Cow;

/// A token and its position; offsets count the bytes of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// `start..end` includes the quotes.
    Word {
        start: usize,
        end: usize,
        quoted: bool,
    },
    Semicolon(usize),
    Open(usize),
    Close(usize),
    End,
}

/// An error in the text. The lexer can continue after any of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// A closing quote is followed by something other than space, `;`, `{` or `)`. `start..end` is the quoted
    /// word; the offending character is at `end`.
    AfterQuote { start: usize, end: usize },
    /// A quote that never closes.
    OpenQuote { start: usize },
    /// The text ends within a word.
    OpenWord { start: usize },
}

/// The bytes at which a word may end, or which change the meaning of the next byte.
const MARKS: [bool; 256] = {
    let mut marks = [false; 256];
    let mut index = 0;
    while index < b" \t\r\n;{\\$".len() {
        marks[b" \t\r\n;{\\$"[index] as usize] = true;
        index += 1;
    }
    marks
};

/// Reads one text from front to back.
pub struct Lexer<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Lexer<'a> {
    /// Skips a byte order mark at the start.
    pub fn new(text: &'a str) -> Self {
        let at = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        Self { text, bytes: text.as_bytes(), at }
    }

    /// The offset at which the next token is looked for.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Continues on the line after the one with `offset`, to recover from an error.
    pub fn skip_line(&mut self, offset: usize) {
        let rest = self.bytes.get(offset..).unwrap_or(&[]);
        self.at = memchr::memchr(b'\n', rest).map_or(self.bytes.len(), |at| offset + at + 1);
    }

    /// Continues after the `}` that ends a block of Lua, which is not in this language. False if it never
    /// ends.
    ///
    /// Braces in strings, long brackets and comments do not count (Lua 5.1 manual, §2.1).
    pub fn skip_lua(&mut self) -> bool {
        let mut depth = 1;
        while let Some(&byte) = self.bytes.get(self.at) {
            let next = self.bytes.get(self.at + 1);
            self.at += match (byte, next) {
                (b'-', Some(b'-')) => match self.long_bracket(self.at + 2) {
                    Some(length) => 2 + length,
                    None => {
                        self.skip_line(self.at);
                        continue;
                    }
                },
                (b'[', Some(b'[' | b'=')) => self.long_bracket(self.at).unwrap_or(1),
                (b'"' | b'\'', _) => self.lua_string(byte),
                _ => 1,
            };
            match byte {
                b'{' => depth += 1,
                b'}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return true;
            }
        }
        self.at = self.bytes.len();
        false
    }

    /// The length of `[[ … ]]` or `[==[ … ]==]` at `start`; `None` if there is none.
    fn long_bracket(&self, start: usize) -> Option<usize> {
        let rest = self.bytes.get(start..)?;
        let level = rest.strip_prefix(b"[")?.iter().take_while(|byte| **byte == b'=').count();
        (rest.get(level + 1) == Some(&b'[')).then_some(())?;
        let end = [b"]", &vec![b'='; level][..], b"]"].concat();
        let length = memchr::memmem::find(rest, &end).map_or(rest.len(), |at| at + end.len());
        Some(length)
    }

    /// The length of the quoted Lua string that begins here; it ends at the end of its line at the latest.
    fn lua_string(&self, quote: u8) -> usize {
        let rest = &self.bytes[self.at..];
        let mut at = 1;
        while let Some(&byte) = rest.get(at) {
            at += if byte == b'\\' { 2 } else { 1 };
            if byte == quote || byte == b'\n' {
                break;
            }
        }
        at.min(rest.len())
    }

    pub fn token(&mut self) -> Result<Token, Error> {
        self.skip_blank();
        let start = self.at;
        let Some(&first) = self.bytes.get(start) else { return Ok(Token::End) };
        match first {
            b';' => Ok(self.punctuation(Token::Semicolon(start))),
            b'{' => Ok(self.punctuation(Token::Open(start))),
            b'}' => Ok(self.punctuation(Token::Close(start))),
            b'"' | b'\'' => self.quoted(first),
            _ => self.plain(),
        }
    }

    /// The value of a word: without its quotes, escapes resolved.
    pub fn meaning(&self, start: usize, end: usize, quoted: bool) -> Cow<'a, str> {
        let inside = if quoted { start + 1..end - 1 } else { start..end };
        unescape(&self.text[inside])
    }

    fn punctuation(&mut self, token: Token) -> Token {
        self.at += 1;
        token
    }

    fn skip_blank(&mut self) {
        while let Some(&byte) = self.bytes.get(self.at) {
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' => self.at += 1,
                b'#' => self.skip_line(self.at),
                _ => return,
            }
        }
    }

    fn quoted(&mut self, quote: u8) -> Result<Token, Error> {
        let start = self.at;
        let mut at = start + 1;
        let end = loop {
            let rest = self.bytes.get(at..).unwrap_or(&[]);
            match memchr::memchr2(quote, b'\\', rest) {
                None => {
                    self.at = self.bytes.len();
                    return Err(Error::OpenQuote { start });
                }
                Some(found) if rest[found] == b'\\' => at += found + 2,
                Some(found) => break at + found + 1,
            }
        };
        self.at = end;
        match self.bytes.get(end) {
            None | Some(b' ' | b'\t' | b'\r' | b'\n' | b';' | b'{' | b')') => {
                Ok(Token::Word { start, end, quoted: true })
            }
            Some(_) => Err(Error::AfterQuote { start, end }),
        }
    }

    fn plain(&mut self) -> Result<Token, Error> {
        let start = self.at;
        let mut at = start;
        loop {
            let rest = self.bytes.get(at..).unwrap_or(&[]);
            let Some(found) = rest.iter().position(|byte| MARKS[usize::from(*byte)]) else { break };
            at += found;
            match self.bytes[at] {
                b'$' if self.bytes.get(at + 1) == Some(&b'{') => at += 2,
                b'$' => at += 1,
                b'\\' => at += 2,
                _ => {
                    self.at = at;
                    return Ok(Token::Word { start, end: at, quoted: false });
                }
            }
        }
        self.at = self.bytes.len();
        Err(Error::OpenWord { start })
    }
}

fn unescape(word: &str) -> Cow<'_, str> {
    if memchr::memchr(b'\\', word.as_bytes()).is_none() {
        return Cow::Borrowed(word);
    }
    let mut out = String::with_capacity(word.len());
    let mut rest = word;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let (meant, length) = match rest.as_bytes().get(at + 1) {
            Some(b'"') => ('"', 2),
            Some(b'\'') => ('\'', 2),
            Some(b'\\') => ('\\', 2),
            Some(b't') => ('\t', 2),
            Some(b'r') => ('\r', 2),
            Some(b'n') => ('\n', 2),
            _ => ('\\', 1),
        };
        out.push(meant);
        rest = &rest[at + length..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        let mut lexer = Lexer::new(text);
        let mut out = Vec::new();
        loop {
            match lexer.token() {
                Ok(Token::Word { start, end, quoted }) => {
                    out.push(lexer.meaning(start, end, quoted).into_owned());
                }
                Ok(Token::Semicolon(_)) => out.push(";".into()),
                Ok(Token::Open(_)) => out.push("{".into()),
                Ok(Token::Close(_)) => out.push("}".into()),
                Ok(Token::End) => return out,
                Err(error) => out.push(format!("{error:?}")),
            }
        }
    }

    #[test]
    fn lua_ends_at_its_own_brace() {
        for text in [
            "} x;",
            "local t = { a = 'x}', b = \"{\\\"{\" } ngx.say(\"it's\") } x;",
            "-- it's { here\n} x;",
            "--[[ { \n { ]] a = [[ } ]] b = [==[ ]] } ]==] } x;",
            "a = t[ [[}]] ] c = a[1] } x;",
            "s = 'no end\n} x;",
        ] {
            let mut lexer = Lexer::new(text);
            assert!(lexer.skip_lua(), "{text}");
            assert_eq!(text[lexer.at()..], *" x;", "{text}");
        }
        for text in ["", "{ }", "'}", "[[ }", "--[[ }", "'\\"] {
            let mut lexer = Lexer::new(text);
            assert!(!lexer.skip_lua(), "{text}");
            assert_eq!(lexer.token(), Ok(Token::End));
        }
    }

    #[test]
    fn words_end_as_in_nginx() {
        let cases: &[(&str, &[&str])] = &[
            ("listen 80;", &["listen", "80", ";"]),
            ("\u{feff}events{}", &["events", "{", "}"]),
            ("a\r\n\tb ;# c;\nd;", &["a", "b", ";", "d", ";"]),
            ("set $a ${b}c;", &["set", "$a", "${b}c", ";"]),
            ("set $a{", &["set", "$a", "{"]),
            ("a x#y b}c ;", &["a", "x#y", "b}c", ";"]),
            ("a 'x;{' \"y # \";", &["a", "x;{", "y # ", ";"]),
            ("if ($a = \"b\") {", &["if", "($a", "=", "b", ")", "{"]),
            ("a it's;", &["a", "it's", ";"]),
            (r"a \; \{x \ y;", &["a", r"\;", r"\{x", r"\ y", ";"]),
            (r#"a "\"\'\\\t\r\n\.\d" '\'';"#, &["a", "\"'\\\t\r\n\\.\\d", "'", ";"]),
            ("\"\" '';", &["", "", ";"]),
            ("é \"ü\\é\";", &["é", "ü\\é", ";"]),
            ("a \\", &["a", "OpenWord { start: 2 }"]),
            ("a b", &["a", "OpenWord { start: 2 }"]),
            ("a \"b", &["a", "OpenQuote { start: 2 }"]),
            ("a \"b\\", &["a", "OpenQuote { start: 2 }"]),
            ("a 'b'c;", &["a", "AfterQuote { start: 2, end: 5 }", "c", ";"]),
        ];
        for (text, expected) in cases {
            assert_eq!(words(text), *expected, "{text}");
        }
    }
}
