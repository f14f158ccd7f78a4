//! A client's commands (RFC 959 §4.1 and §5.3, RFC 2228 §3, RFC 2428, RFC 3659).
//!
//! Touches: nothing. A line is a verb and, behind one space, an argument that may have spaces of its own. Telnet's signals stand
//! before the verb: an urgent ABOR comes as IAC IP IAC DM ABOR (RFC 959 §4.1.3).

use crate::proto::line::is_broken;

/// "Interpret as command", which begins each signal of Telnet (RFC 854).
pub const IAC: u8 = 255;
/// Data mark: the end of Telnet's Synch.
pub const DM: u8 = 242;
/// Interrupt process.
pub const IP: u8 = 244;

/// From here on bytes are Telnet's, and begin no verb.
const TELNET_MIN: u8 = 240;

/// The direction of a transfer, as the client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Download,
    Upload,
}

/// A command that a gateway has to tell from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    User,
    Pass,
    Acct,
    /// Asks for protection of the control connection.
    Auth,
    Pbsz,
    Prot,
    /// Asks for an end of that protection.
    Ccc,
    /// Commands that are sealed in another way than by TLS: ADAT, MIC, CONF, ENC.
    Sealed,
    Pasv,
    Epsv,
    Port,
    Eprt,
    /// Ways to agree on a data connection that we do not follow: LPSV, LPRT, SPSV, CPSV, SSCN.
    Foreign,
    /// A command that moves data over a connection of its own.
    Transfer(Direction),
    Abor,
    Stat,
    Quit,
    Rein,
    Feat,
    Mode,
    /// Commands that tell the server nothing about a user: NOOP, HELP, SYST, OPTS, HOST, LANG, CLNT.
    Harmless,
    Other,
}

const VERBS: [(&[u8], Verb); 40] = [
    (b"USER", Verb::User),
    (b"PASS", Verb::Pass),
    (b"ACCT", Verb::Acct),
    (b"AUTH", Verb::Auth),
    (b"PBSZ", Verb::Pbsz),
    (b"PROT", Verb::Prot),
    (b"CCC", Verb::Ccc),
    (b"ADAT", Verb::Sealed),
    (b"MIC", Verb::Sealed),
    (b"CONF", Verb::Sealed),
    (b"ENC", Verb::Sealed),
    (b"PASV", Verb::Pasv),
    (b"P@SW", Verb::Pasv), // servers take it for PASV; it was meant to pass firewalls
    (b"EPSV", Verb::Epsv),
    (b"PORT", Verb::Port),
    (b"EPRT", Verb::Eprt),
    (b"LPSV", Verb::Foreign),
    (b"LPRT", Verb::Foreign),
    (b"SPSV", Verb::Foreign),
    (b"CPSV", Verb::Foreign),
    (b"SSCN", Verb::Foreign),
    (b"RETR", Verb::Transfer(Direction::Download)),
    (b"LIST", Verb::Transfer(Direction::Download)),
    (b"NLST", Verb::Transfer(Direction::Download)),
    (b"MLSD", Verb::Transfer(Direction::Download)),
    (b"STOR", Verb::Transfer(Direction::Upload)),
    (b"STOU", Verb::Transfer(Direction::Upload)),
    (b"APPE", Verb::Transfer(Direction::Upload)),
    (b"ABOR", Verb::Abor),
    (b"STAT", Verb::Stat),
    (b"QUIT", Verb::Quit),
    (b"REIN", Verb::Rein),
    (b"FEAT", Verb::Feat),
    (b"MODE", Verb::Mode),
    (b"NOOP", Verb::Harmless),
    (b"HELP", Verb::Harmless),
    (b"SYST", Verb::Harmless),
    (b"OPTS", Verb::Harmless),
    (b"HOST", Verb::Harmless),
    (b"CLNT", Verb::Harmless),
];

/// A command of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    pub verb: Verb,
    /// Behind the first space; empty if there is none.
    pub argument: &'a [u8],
    /// The command without Telnet's signals.
    pub text: &'a [u8],
    /// Telnet's signals stand before it.
    pub is_signalled: bool,
}

/// Parses a line without its end. `None`: it is no command: it is empty, has bytes that end a line for some readers, or begins
/// with something else than a verb. Servers that skip blanks and signals before a verb, or end it at a tab, would find another
/// command in such a line than we do.
pub fn parse(line: &[u8]) -> Option<Line<'_>> {
    let signals = line.iter().take_while(|byte| **byte >= TELNET_MIN).count();
    let text = &line[signals..];
    if text.is_empty() || is_broken(text) {
        return None;
    }
    let (word, argument) = match memchr::memchr(b' ', text) {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, &text[text.len()..]),
    };
    if word.is_empty() || !word.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'@') {
        return None;
    }
    let found = VERBS.iter().find(|(name, _)| word.eq_ignore_ascii_case(name));
    let verb = found.map_or(Verb::Other, |(_, verb)| *verb);
    Some(Line { verb, argument, text, is_signalled: signals > 0 })
}

impl Line<'_> {
    /// True for commands that a client may send while a transfer is in progress (RFC 959 §4.1.3).
    pub fn is_urgent(&self) -> bool {
        matches!(self.verb, Verb::Abor | Verb::Stat | Verb::Quit)
    }

    /// True for commands that carry a secret, which no log may show.
    pub fn is_secret(&self) -> bool {
        matches!(self.verb, Verb::Pass | Verb::Acct | Verb::Sealed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_a_verb_and_the_rest_of_its_line() {
        type Parts = Option<(Verb, &'static [u8])>;
        let cases: [(&[u8], Parts); 17] = [
            (b"USER anonymous", Some((Verb::User, b"anonymous"))),
            (b"pass  two words ", Some((Verb::Pass, b" two words "))),
            (b"Retr a b", Some((Verb::Transfer(Direction::Download), b"a b"))),
            (b"STOU", Some((Verb::Transfer(Direction::Upload), b""))),
            (b"P@SW", Some((Verb::Pasv, b""))),
            (b"SITE CHMOD 600 a", Some((Verb::Other, b"CHMOD 600 a"))),
            (b"RETRACT", Some((Verb::Other, b""))),
            (b"XSHA256 a", Some((Verb::Other, b"a"))),
            (b" RETR a", None),
            (b"\tRETR a", None),
            (b"PORT\t10,0,0,1,19,136", None),
            (b"PO\xff\xf1RT 10,0,0,1,19,136", None),
            (b"\x80PORT 10,0,0,1,19,136", None),
            (b"", None),
            (b"\xff\xf4\xff\xf2", None),
            (b"RETR a\rDELE b", None),
            (b"RETR a\0b", None),
        ];
        for (line, expected) in cases {
            let found = parse(line).map(|line| (line.verb, line.argument));
            assert_eq!(found, expected, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn signals_of_telnet_stand_before_an_urgent_command() {
        for line in [&b"\xff\xf4\xff\xf2ABOR"[..], b"\xff\xf4\xf2ABOR", b"\xf2abor"] {
            let parsed = parse(line).expect("a command");
            assert!(parsed.is_signalled && parsed.is_urgent() && parsed.text.eq_ignore_ascii_case(b"ABOR"));
        }
        let name = parse(b"RETR \xff\xff").expect("a command");
        assert_eq!((name.argument, name.is_signalled), (&b"\xff\xff"[..], false), "a name is left as it is");
    }

    #[test]
    fn secrets_are_known() {
        for (line, expected) in [("PASS x", true), ("acct x", true), ("ADAT x", true), ("USER x", false)] {
            assert_eq!(parse(line.as_bytes()).expect("a command").is_secret(), expected, "{line}");
        }
    }
}
