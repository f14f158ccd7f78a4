//! SMTP until a client has logged in: its commands, and the replies of the server behind.
//!
//! Touches: nothing; one line in, its parts out. Truth: RFC 5321, RFC 3207 (STARTTLS), RFC 4954 (AUTH), and Postfix' XCLIENT. What
//! is a command and what is not is as in nginx.

use smallvec::SmallVec;

use crate::proto::line::{Lines, Next, is_broken};

/// The most words after a command.
const ARGUMENTS_MAX: usize = 11;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Helo,
    Ehlo,
    Auth,
    Mail,
    Rcpt,
    Rset,
    Noop,
    Quit,
    StartTls,
    /// Commands that are known, and refused before a login.
    Other,
}

const COMMANDS: [(&[u8], Command); 12] = [
    (b"HELO", Command::Helo),
    (b"EHLO", Command::Ehlo),
    (b"AUTH", Command::Auth),
    (b"MAIL", Command::Mail),
    (b"RCPT", Command::Rcpt),
    (b"RSET", Command::Rset),
    (b"NOOP", Command::Noop),
    (b"QUIT", Command::Quit),
    (b"STARTTLS", Command::StartTls),
    (b"VRFY", Command::Other),
    (b"EXPN", Command::Other),
    (b"HELP", Command::Other),
];

/// A client's command and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    pub command: Command,
    pub arguments: SmallVec<[&'a [u8]; 4]>,
    /// The line up to the end of its last argument.
    pub text: &'a [u8],
}

/// Parses a line without its end. `None`: it is no command.
pub fn parse(line: &[u8]) -> Option<Line<'_>> {
    if is_broken(line) {
        return None;
    }
    let end = line.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1);
    let text = &line[..end];
    let mut words = text.split(|byte| *byte == b' ');
    let word = words.next()?;
    let found = COMMANDS.iter().find(|(name, _)| word.eq_ignore_ascii_case(name));
    let command = found.map(|(_, command)| *command)?;
    let mut arguments = SmallVec::new();
    for word in words.filter(|word| !word.is_empty()) {
        if arguments.len() == ARGUMENTS_MAX {
            return None;
        }
        arguments.push(word);
    }
    Some(Line { command, arguments, text })
}

/// A server's reply, which may have several lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    More,
    TooLong,
    /// Its code, and the length of all its lines. A line that does not begin with a code gives the code 0.
    Whole {
        code: u16,
        length: usize,
    },
}

/// The reply at the front of `data`; a last line has no `-` after its code.
pub fn reply(data: &[u8], max: usize) -> Reply {
    let mut length = 0;
    loop {
        let Next::Line { text, whole } = Lines::default().next(&data[length..], usize::MAX) else {
            return if data.len() >= max { Reply::TooLong } else { Reply::More };
        };
        let line = &data[length..length + text];
        length += whole;
        let code = line.first_chunk::<3>().filter(|code| code.iter().all(u8::is_ascii_digit));
        let code =
            code.map_or(0, |code| code.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0')));
        if code == 0 || line.get(3) != Some(&b'-') {
            return Reply::Whole { code, length };
        }
    }
}

/// Appends a text in which all bytes are written as `+XX` that an xtext may not have (RFC 3461 §4).
pub fn write_xtext(text: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text {
        match byte {
            b'+' | b'=' | ..=b' ' | 0x7f.. => {
                let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
                out.extend_from_slice(&[b'+', DIGITS[high], DIGITS[low]]);
            }
            _ => out.push(*byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A command, its arguments, and its text.
    type Expected<'a> = Option<(Command, &'a [&'a [u8]], &'a [u8])>;

    #[test]
    fn commands_and_their_arguments() {
        let cases: [(&[u8], Expected<'_>); 11] = [
            (b"EHLO example.com", Some((Command::Ehlo, &[b"example.com"], b"EHLO example.com"))),
            (b"ehlo  a ", Some((Command::Ehlo, &[b"a"], b"ehlo  a"))),
            (
                b"MAIL FROM:<a@b> SIZE=1 ",
                Some((Command::Mail, &[b"FROM:<a@b>", b"SIZE=1"], b"MAIL FROM:<a@b> SIZE=1")),
            ),
            (b"STARTTLS", Some((Command::StartTls, &[], b"STARTTLS"))),
            (b"VRFY me", Some((Command::Other, &[b"me"], b"VRFY me"))),
            (b"DATA", None),
            (b"", None),
            (b" QUIT", None),
            (b"MAIL FROM:<a>\rRCPT TO:<b>", None),
            (b"HELO a\0b", None),
            (b"HELO 1 2 3 4 5 6 7 8 9 10 11 12", None),
        ];
        for (line, expected) in cases {
            let found = parse(line);
            let shown = found.as_ref().map(|line| (line.command, &line.arguments[..], line.text));
            assert_eq!(shown, expected, "{:?}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn a_reply_ends_with_a_line_without_a_dash() {
        let whole = |code, length| Reply::Whole { code, length };
        let cases: [(&[u8], Reply); 9] = [
            (b"", Reply::More),
            (b"220 ready", Reply::More),
            (b"220 ready\r\n", whole(220, 11)),
            (b"250-a\r\n250-b\r\n250", Reply::More),
            (b"250-a\r\n250 b\r\nmore", whole(250, 14)),
            (b"250\r\n", whole(250, 5)),
            (b"garbage\r\n", whole(0, 9)),
            (b"25", Reply::More),
            (b"250-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", Reply::TooLong),
        ];
        for (data, expected) in cases {
            assert_eq!(reply(data, 60), expected, "{:?}", String::from_utf8_lossy(data));
        }
    }

    #[test]
    fn an_xtext_has_no_byte_with_a_meaning() {
        let mut out = Vec::new();
        write_xtext(b"me+you=x y\r\n\xc3~!", &mut out);
        assert_eq!(out, b"me+2Byou+3Dx+20y+0D+0A+C3~!");
    }
}
