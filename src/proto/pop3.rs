//! POP3 until a client has logged in: its commands, and the replies of the server behind.
//!
//! Touches: nothing; one line in, its parts out. Truth: RFC 1939, RFC 2449 (CAPA), RFC 2595 (STLS), RFC 5034 (AUTH). What is a
//! command and what is not is as in nginx.

use smallvec::SmallVec;

use crate::proto::line::is_broken;

/// The most words after a command.
const ARGUMENTS_MAX: usize = 3;

/// The longest line of a client before it has logged in: room for the base64 of long passwords. nginx has 128 bytes.
pub const LINE_BYTES_MAX: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    User,
    Pass,
    Apop,
    Auth,
    Capa,
    Noop,
    Quit,
    Stls,
}

const COMMANDS: [(&[u8], Command); 8] = [
    (b"USER", Command::User),
    (b"PASS", Command::Pass),
    (b"APOP", Command::Apop),
    (b"AUTH", Command::Auth),
    (b"CAPA", Command::Capa),
    (b"NOOP", Command::Noop),
    (b"QUIT", Command::Quit),
    (b"STLS", Command::Stls),
];

/// A client's command and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    pub command: Command,
    pub arguments: SmallVec<[&'a [u8]; ARGUMENTS_MAX]>,
}

/// Parses a line without its end. `None`: it is no command.
pub fn parse(line: &[u8]) -> Option<Line<'_>> {
    if is_broken(line) {
        return None;
    }
    let (word, rest) = match memchr::memchr(b' ', line) {
        Some(end) => (&line[..end], &line[end + 1..]),
        None => (line, &[][..]),
    };
    let found = COMMANDS.iter().find(|(name, _)| word.eq_ignore_ascii_case(name));
    let command = found.map(|(_, command)| *command)?;
    let mut arguments = SmallVec::new();
    if matches!(command, Command::User | Command::Pass) {
        // Names and passwords may have spaces.
        let start = rest.iter().position(|byte| *byte != b' ');
        arguments.extend(start.map(|start| &rest[start..]));
    } else {
        for word in rest.split(|byte| *byte == b' ').filter(|word| !word.is_empty()) {
            if arguments.len() == ARGUMENTS_MAX {
                return None;
            }
            arguments.push(word);
        }
    }
    Some(Line { command, arguments })
}

/// True if a server's reply is a good one.
pub fn is_good(line: &[u8]) -> bool {
    line.starts_with(b"+OK")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A command and its arguments.
    type Expected<'a> = Option<(Command, &'a [&'a [u8]])>;

    #[test]
    fn commands_and_their_arguments() {
        let cases: [(&[u8], Expected<'_>); 14] = [
            (b"QUIT", Some((Command::Quit, &[]))),
            (b"quit", Some((Command::Quit, &[]))),
            (b"USER me@example.com", Some((Command::User, &[b"me@example.com"]))),
            (b"USER  me and you ", Some((Command::User, &[b"me and you "]))),
            (b"PASS a b  c", Some((Command::Pass, &[b"a b  c"]))),
            (b"PASS ", Some((Command::Pass, &[]))),
            (b"APOP me  digest ", Some((Command::Apop, &[b"me", b"digest"]))),
            (b"AUTH PLAIN AGEAYg==", Some((Command::Auth, &[b"PLAIN", b"AGEAYg=="]))),
            (b"AUTH 1 2 3", Some((Command::Auth, &[b"1", b"2", b"3"]))),
            (b"AUTH 1 2 3 4", None),
            (b"", None),
            (b" QUIT", None),
            (b"RETR 1", None),
            (b"USER a\rPASS b", None),
        ];
        for (line, expected) in cases {
            let found = parse(line);
            let shown = found.as_ref().map(|line| (line.command, &line.arguments[..]));
            assert_eq!(shown, expected, "{:?}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn replies_are_good_or_not() {
        assert!(is_good(b"+OK") && is_good(b"+OK ready <1@x>"));
        assert!(!is_good(b"+O") && !is_good(b"-ERR no") && !is_good(b"+ ") && !is_good(b""));
    }
}
