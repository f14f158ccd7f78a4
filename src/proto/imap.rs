//! IMAP until a client has logged in: its commands with their quoted strings and literals, and the replies of the server behind.
//!
//! Touches: nothing; bytes in, commands out. Truth: RFC 9051 (and RFC 3501), RFC 7888 (literals that need no permission). What is a
//! command and what is not is as in nginx.
//!
//! ```text
//! line ─ complete ──────────────► Command
//!   │ └─ malformed ─────────────► Invalid
//!   └─── ends with {n} or {n+} ─► literal of n bytes ─► the rest of the line, which may end so again
//! ```

use crate::proto::line::{Lines, Next, is_broken};
use crate::proto::sasl::Secret;

/// The longest tag of a command.
pub const TAG_BYTES_MAX: usize = 32;
/// The most arguments of a command.
const ARGUMENTS_MAX: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Authenticate,
    Capability,
    Login,
    Logout,
    Noop,
    StartTls,
}

const COMMANDS: [(&[u8], Command); 6] = [
    (b"AUTHENTICATE", Command::Authenticate),
    (b"CAPABILITY", Command::Capability),
    (b"LOGIN", Command::Login),
    (b"LOGOUT", Command::Logout),
    (b"NOOP", Command::Noop),
    (b"STARTTLS", Command::StartTls),
];

/// A whole command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub tag: Box<[u8]>,
    pub command: Command,
    pub arguments: Vec<Secret>,
}

/// The kind of the bytes at the front.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    More,
    /// The client waits for permission to send a literal.
    Literal,
    Command(Line),
    Invalid {
        /// `None`: the line has none that could be repeated.
        tag: Option<Box<[u8]>>,
        /// A literal follows that the client does not wait for: where the next command begins is unknown.
        is_out_of_step: bool,
    },
    /// It has, or is going to have, more bytes than there may be.
    TooLong {
        tag: Option<Box<[u8]>>,
    },
}

/// A command whose last line has not arrived.
#[derive(Debug)]
struct Partial {
    line: Line,
    /// The bytes that were consumed.
    bytes: usize,
    /// The length of the literal that comes next.
    literal: Option<usize>,
}

/// Parses a client's commands, one after the other.
#[derive(Debug, Default)]
pub struct Reader {
    lines: Lines,
    partial: Option<Box<Partial>>,
}

/// How a line ends.
enum Ending {
    Complete,
    Literal { length: usize, waits: bool },
}

impl Reader {
    /// Parses what is at the front of `data`; returns how many bytes are done with. A command may have `max` bytes.
    pub fn parse(&mut self, data: &[u8], max: usize) -> (usize, Parsed) {
        let mut used = 0;
        loop {
            let rest = &data[used..];
            let before = self.partial.as_ref().map_or(0, |partial| partial.bytes);
            if let Some(partial) = &mut self.partial
                && let Some(length) = partial.literal
            {
                let Some(literal) = rest.get(..length) else { return (used, Parsed::More) };
                partial.line.arguments.push(Secret::of(literal));
                partial.literal = None;
                partial.bytes += length;
                used += length;
                continue;
            }
            let (text, whole) = match self.lines.next(rest, max.saturating_sub(before)) {
                Next::Line { text, whole } => (&rest[..text], whole),
                Next::More => return (used, Parsed::More),
                Next::TooLong => return (used, self.too_long(rest)),
            };
            used += whole;
            let bytes = before + whole;
            let parsed = match self.partial.take() {
                None => begin(text),
                Some(mut partial) => match arguments(text, &mut partial.line.arguments, true) {
                    Some(ending) => Ok((partial.line, ending)),
                    None => Err(Some(partial.line.tag)),
                },
            };
            match parsed {
                Ok((line, Ending::Complete)) => return (used, Parsed::Command(line)),
                Ok((line, Ending::Literal { length, .. })) if length >= max.saturating_sub(bytes) => {
                    return (used, Parsed::TooLong { tag: Some(line.tag) });
                }
                Ok((line, Ending::Literal { length, waits })) => {
                    self.partial = Some(Box::new(Partial { line, bytes, literal: Some(length) }));
                    if waits {
                        return (used, Parsed::Literal);
                    }
                }
                Err(tag) => {
                    return (used, Parsed::Invalid { tag, is_out_of_step: text.ends_with(b"+}") });
                }
            }
        }
    }

    /// The answer to a challenge at the front of `data`, which is a line of its own. The `Err` is what [`Reader::parse`] would say.
    pub fn answer<'a>(&mut self, data: &'a [u8], max: usize) -> (usize, Result<&'a [u8], Parsed>) {
        match self.lines.next(data, max) {
            Next::Line { text, whole } => (whole, Ok(&data[..text])),
            Next::More => (0, Err(Parsed::More)),
            Next::TooLong => (0, Err(Parsed::TooLong { tag: None })),
        }
    }

    fn too_long(&mut self, line: &[u8]) -> Parsed {
        let tag = match self.partial.take() {
            Some(partial) => Some(partial.line.tag),
            None => split_tag(line).map(|(tag, _)| tag.into()),
        };
        Parsed::TooLong { tag }
    }

    /// Forgets everything that has arrived.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

/// The first line of a command. The error: its tag, if it has one.
fn begin(text: &[u8]) -> Result<(Line, Ending), Option<Box<[u8]>>> {
    let Some((tag, rest)) = split_tag(text) else { return Err(None) };
    let tag: Box<[u8]> = tag.into();
    if is_broken(text) {
        return Err(Some(tag));
    }
    let rest = skip_spaces(rest);
    let end = memchr::memchr(b' ', rest).unwrap_or(rest.len());
    let found = COMMANDS.iter().find(|(name, _)| rest[..end].eq_ignore_ascii_case(name));
    let Some((_, command)) = found else { return Err(Some(tag)) };
    let mut line = Line { tag, command: *command, arguments: Vec::new() };
    match arguments(&rest[end..], &mut line.arguments, false) {
        Some(ending) => Ok((line, ending)),
        None => Err(Some(line.tag)),
    }
}

/// The tag at the beginning of a line, and what follows it.
fn split_tag(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let (tag, rest) = line.split_at(memchr::memchr(b' ', line)?);
    let is_tag = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    (!tag.is_empty() && tag.len() <= TAG_BYTES_MAX && tag.iter().all(is_tag)).then_some((tag, rest))
}

fn skip_spaces(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|byte| *byte != b' ').unwrap_or(text.len());
    &text[start..]
}

/// Adds the arguments of a line, or of what follows a literal in it. `None`: it is malformed.
fn arguments(text: &[u8], out: &mut Vec<Secret>, follows_literal: bool) -> Option<Ending> {
    if is_broken(text) || follows_literal && !text.is_empty() && text[0] != b' ' {
        return None;
    }
    let mut rest = skip_spaces(text);
    while let Some(first) = rest.first() {
        if out.len() == ARGUMENTS_MAX {
            return None;
        }
        match first {
            b'"' => {
                let (value, after) = quoted(&rest[1..])?;
                out.push(value);
                rest = after;
            }
            b'{' => {
                let inside = rest[1..].strip_suffix(b"}")?;
                let digits = inside.strip_suffix(b"+").unwrap_or(inside);
                let digit = |sum: usize, byte: &u8| {
                    let digit = byte.is_ascii_digit().then(|| usize::from(byte - b'0'))?;
                    Some(sum.saturating_mul(10).saturating_add(digit))
                };
                let length = digits.iter().try_fold(0, digit).filter(|_| !digits.is_empty())?;
                return Some(Ending::Literal { length, waits: digits.len() == inside.len() });
            }
            _ => {
                let end = memchr::memchr(b' ', rest).unwrap_or(rest.len());
                out.push(Secret::of(&rest[..end]));
                rest = &rest[end..];
            }
        }
        rest = skip_spaces(rest);
    }
    Some(Ending::Complete)
}

/// The value of a quoted string after its first quote, and what follows the last one.
fn quoted(text: &[u8]) -> Option<(Secret, &[u8])> {
    let mut value = Secret::default();
    let mut bytes = text.iter().enumerate();
    while let Some((index, byte)) = bytes.next() {
        match byte {
            b'"' => return Some((value, &text[index + 1..])),
            b'\\' => value.0.push(*bytes.next()?.1),
            _ => value.0.push(*byte),
        }
    }
    None
}

/// The reply of a server that is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited<'a> {
    Greeting,
    /// Permission to send a literal.
    Permission,
    /// The end of the command with this tag.
    End(&'a [u8]),
}

/// A server's reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    More,
    TooLong,
    /// With the length of all its lines. What is not tagged may come before what is awaited, such as CAPABILITY.
    Good(usize),
    Bad(usize),
}

/// The reply at the front of `data`.
pub fn reply(data: &[u8], awaited: Awaited<'_>, max: usize) -> Reply {
    let mut length = 0;
    loop {
        let Next::Line { text, whole } = Lines::default().next(&data[length..], usize::MAX) else {
            return if data.len() >= max { Reply::TooLong } else { Reply::More };
        };
        let line = &data[length..length + text];
        length += whole;
        let word = |prefix: &[u8], rest: &[u8]| {
            let word = line.strip_prefix(prefix)?;
            Some(word.get(..rest.len()).is_some_and(|word| word.eq_ignore_ascii_case(rest)))
        };
        let is_good = match awaited {
            Awaited::Greeting => word(b"* ", b"OK").unwrap_or(false),
            Awaited::Permission => line.starts_with(b"+"),
            Awaited::End(tag) => {
                let rest = line.strip_prefix(tag).and_then(|rest| rest.strip_prefix(b" "));
                rest.is_some_and(|rest| rest.get(..2).is_some_and(|word| word.eq_ignore_ascii_case(b"OK")))
            }
        };
        if is_good {
            return Reply::Good(length);
        }
        let goes_on =
            awaited != Awaited::Greeting && line.starts_with(b"* ") && word(b"* ", b"BYE") != Some(true);
        if !goes_on {
            return Reply::Bad(length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 100;

    fn shown(parsed: &Parsed) -> String {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match parsed {
            Parsed::More => "more".into(),
            Parsed::Literal => "literal".into(),
            Parsed::Command(line) => {
                let arguments: Vec<String> =
                    line.arguments.iter().map(|argument| text(&argument.0)).collect();
                format!("{} {:?} {arguments:?}", text(&line.tag), line.command)
            }
            Parsed::Invalid { tag, is_out_of_step } => {
                let tag = tag.as_deref().map_or("*".into(), text);
                format!("{tag} invalid{}", if *is_out_of_step { " and out of step" } else { "" })
            }
            Parsed::TooLong { tag } => format!("{} too long", tag.as_deref().map_or("*".into(), text)),
        }
    }

    /// All that a client's bytes mean, if the client gets its permissions.
    fn all(data: &[u8]) -> Vec<String> {
        let (mut reader, mut at, mut found) = (Reader::default(), 0, Vec::new());
        loop {
            let (used, parsed) = reader.parse(&data[at..], MAX);
            at += used;
            found.push(shown(&parsed));
            if matches!(parsed, Parsed::More | Parsed::TooLong { .. }) {
                return found;
            }
        }
    }

    #[test]
    fn commands_and_their_arguments() {
        let cases: [(&[u8], &str); 22] = [
            (b"a1 NOOP\r\n", "a1 Noop []"),
            (b"a1 noop\n", "a1 Noop []"),
            (b"a.b-c_1  LOGOUT \r\n", "a.b-c_1 Logout []"),
            (b"a LOGIN me secret\r\n", "a Login [\"me\", \"secret\"]"),
            (b"a LOGIN  me   secret  \r\n", "a Login [\"me\", \"secret\"]"),
            (b"a LOGIN \"me and\" \"se\\\"cr\\\\et\"\r\n", "a Login [\"me and\", \"se\\\"cr\\\\et\"]"),
            (b"a LOGIN \"\" \"\"\r\n", "a Login [\"\", \"\"]"),
            (b"a LOGIN m\"e s{1}t\r\n", "a Login [\"m\\\"e\", \"s{1}t\"]"),
            (b"a LOGIN 1 2 3\r\n", "a Login [\"1\", \"2\", \"3\"]"),
            (b"a LOGIN 1 2 3 4\r\n", "a invalid"),
            (b"a LOGIN \"me\r\n", "a invalid"),
            (b"a LOGIN \"me\\\r\n", "a invalid"),
            (b"a LOGIN {x}\r\n", "a invalid"),
            (b"a LOGIN {}\r\n", "a invalid"),
            (b"a SELECT inbox\r\n", "a invalid"),
            (b"a\r\n", "* invalid"),
            (b"\r\n", "* invalid"),
            (b" NOOP\r\n", "* invalid"),
            (b"a* NOOP\r\n", "* invalid"),
            (b"0123456789012345678901234567890123 NOOP\r\n", "* invalid"),
            (b"a LOGIN me\r b\r\n", "a invalid"),
            (b"a LOGIN m\0e b\r\n", "a invalid"),
        ];
        for (data, expected) in cases {
            assert_eq!(all(data), [expected, "more"], "{:?}", String::from_utf8_lossy(data));
        }
        let longest = [b'a'; TAG_BYTES_MAX];
        let line = [&longest[..], b" NOOP\r\n"].concat();
        assert_eq!(all(&line)[0], format!("{} Noop []", String::from_utf8_lossy(&longest)));
    }

    #[test]
    fn literals_hold_any_bytes() {
        let cases: [(&[u8], &[&str]); 9] = [
            (
                b"a LOGIN {2}\r\nme {3}\r\ns\r\n\r\n",
                &["literal", "literal", "a Login [\"me\", \"s\\r\\n\"]", "more"],
            ),
            (
                b"a LOGIN {2+}\r\nme {3+}\r\nabc\r\nb NOOP\r\n",
                &["a Login [\"me\", \"abc\"]", "b Noop []", "more"],
            ),
            (b"a LOGIN {2+}\r\nme \"x y\"\r\n", &["a Login [\"me\", \"x y\"]", "more"]),
            (b"a LOGIN {0}\r\n {0+}\r\n\r\n", &["literal", "a Login [\"\", \"\"]", "more"]),
            (b"a LOGIN {2+}\r\nmex\r\n", &["a invalid", "more"]),
            (b"a LOGIN {2}\r\nm", &["literal", "more"]),
            (b"a FOO {10+}\r\n", &["a invalid and out of step", "more"]),
            (b"a LOGIN {99999999999999999999999}\r\n", &["a too long"]),
            (b"a LOGIN {90}\r\n", &["a too long"]),
        ];
        for (data, expected) in cases {
            assert_eq!(all(data), expected, "{:?}", String::from_utf8_lossy(data));
        }
    }

    #[test]
    fn a_command_without_an_end_is_too_long() {
        assert_eq!(all(&[b'a'; MAX - 1]), ["more"]);
        assert_eq!(all(&[b'a'; MAX]), ["* too long"]);
        assert_eq!(all(&[b"a LOGIN ", &[b'x'; MAX][..]].concat()), ["a too long"]);
        let mut data = b"a LOGIN {2+}\r\nme ".to_vec();
        data.resize(MAX, b'x');
        assert_eq!(all(&data), ["a too long"], "literals count");
    }

    /// However the bytes are cut, the commands are the same.
    #[test]
    fn pieces_are_the_same_as_the_whole() {
        let data = b"a LOGIN {2}\r\nme \"x\"\r\nb FOO\r\nc LOGIN {1+}\r\n\n {1+}\r\n\r\r\nd NOOP\r\n";
        let whole = all(data);
        for cut in 0..data.len() {
            let (mut reader, mut at, mut found) = (Reader::default(), 0, Vec::new());
            for end in [cut, data.len()] {
                loop {
                    let (used, parsed) = reader.parse(&data[at..end], MAX);
                    at += used;
                    if parsed == Parsed::More {
                        break;
                    }
                    found.push(shown(&parsed));
                }
            }
            found.push("more".into());
            assert_eq!(found, whole, "cut at {cut}");
        }
    }

    #[test]
    fn an_answer_is_a_line_as_it_is() {
        let mut reader = Reader::default();
        assert_eq!(reader.answer(b"AG1lAHB3", MAX), (0, Err(Parsed::More)));
        assert_eq!(reader.answer(b"AG1lAHB3\r\nrest", MAX), (10, Ok(&b"AG1lAHB3"[..])));
        assert_eq!(reader.answer(&[b'x'; MAX], MAX), (0, Err(Parsed::TooLong { tag: None })));
    }

    #[test]
    fn replies_of_a_server() {
        let cases: [(Awaited<'_>, &[u8], Reply); 16] = [
            (Awaited::Greeting, b"* OK ready\r\n", Reply::Good(12)),
            (Awaited::Greeting, b"* OK read", Reply::More),
            (Awaited::Greeting, b"* BYE\r\n", Reply::Bad(7)),
            (Awaited::Greeting, b"+OK POP3\r\n", Reply::Bad(10)),
            (Awaited::Permission, b"+ go\r\n", Reply::Good(6)),
            (Awaited::Permission, b"* CAPABILITY X\r\n+ go\r\n", Reply::Good(22)),
            (Awaited::Permission, b"* BYE\r\n", Reply::Bad(7)),
            (Awaited::Permission, b"a NO\r\n", Reply::Bad(6)),
            (Awaited::End(b"a"), b"a OK\r\n", Reply::Good(6)),
            (Awaited::End(b"a"), b"* CAPABILITY X\r\na OK in\r\n", Reply::Good(25)),
            (Awaited::End(b"a"), b"* CAPABILITY X\r\n", Reply::More),
            (Awaited::End(b"a"), b"ab OK\r\n", Reply::Bad(7)),
            (Awaited::End(b"a"), b"* CAPABILITY X\r\na NO no\r\n", Reply::Bad(25)),
            (Awaited::End(b"a"), b"* BYE\r\n", Reply::Bad(7)),
            (Awaited::End(b"a"), b"\r\n", Reply::Bad(2)),
            (Awaited::End(b"a"), &[b'*'; MAX], Reply::TooLong),
        ];
        for (awaited, data, expected) in cases {
            assert_eq!(reply(data, awaited, MAX), expected, "{:?}", String::from_utf8_lossy(data));
        }
    }
}
