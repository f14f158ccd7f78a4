//! The words between server and client until the client has logged in.
//!
//! A value: the client's bytes go in, replies and decisions come out. The pipeline reads, sends, and asks the authentication server.
//! Touches: nothing. Behaviour: nginx.org, ngx_mail_imap_module, ngx_mail_pop3_module, ngx_mail_smtp_module.
//!
//! ```text
//!            ┌───────────────── refused ─────────────────┐
//! Command ◄──┴─ reply ── AUTH … ► Name ► Password ► ─── Login
//!    │ └─ USER ► Pass ─────────────────────────────────►│
//!    └─ AUTH PLAIN | CRAM-MD5 | EXTERNAL ► the answer ──┘
//! ```

pub mod imap;
pub mod pop3;
pub mod smtp;

use std::fmt;

use crate::mail::protocol::{Allowed, Protocol};
use crate::proto::line::{Lines, Next};
use crate::proto::sasl::{self, Credentials, Fault, Mechanism};
pub use crate::shared::starttls::StartTls;

/// The replies of a server that depend on its configuration.
#[derive(Clone, Debug, Default)]
pub struct Texts {
    /// Without the salt of POP3.
    pub greeting: Box<[u8]>,
    /// The reply to HELO.
    pub helo: Box<[u8]>,
    /// Its capabilities: without TLS to switch to, with it, and while logging in requires it.
    pub capabilities: Box<[u8]>,
    pub capabilities_starttls: Box<[u8]>,
    pub capabilities_only: Box<[u8]>,
    /// The reply to POP3's AUTH without a mechanism.
    pub mechanisms: Box<[u8]>,
}

/// The terms of a server.
#[derive(Clone, Debug)]
pub struct Terms {
    pub protocol: Protocol,
    pub allowed: Vec<Allowed>,
    pub starttls: StartTls,
    /// `max_errors`
    pub errors_max: u64,
    /// The longest command.
    pub command_bytes_max: usize,
    pub texts: Texts,
}

impl Terms {
    pub fn allows(&self, method: Allowed) -> bool {
        self.allowed.contains(&method)
    }

    /// True if clients may get a challenge.
    pub fn needs_salt(&self) -> bool {
        self.allows(Allowed::Apop) || self.allows(Allowed::CramMd5)
    }
}

/// The terms for one connection.
#[derive(Clone, Copy, Debug)]
pub struct Here<'a> {
    pub terms: &'a Terms,
    pub is_tls: bool,
}

impl Here<'_> {
    /// Nobody may log in before the connection is encrypted.
    fn must_encrypt(&self) -> bool {
        !self.is_tls && self.terms.starttls == StartTls::Only
    }

    fn can_start_tls(&self) -> bool {
        !self.is_tls && self.terms.starttls != StartTls::Off
    }

    /// The list of what the server can do.
    fn capabilities(&self) -> &[u8] {
        let texts = &self.terms.texts;
        match self.terms.starttls {
            StartTls::On if !self.is_tls => &texts.capabilities_starttls,
            StartTls::Only if !self.is_tls => &texts.capabilities_only,
            _ => &texts.capabilities,
        }
    }
}

/// The step that follows from a client's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    More,
    /// To be sent; then the dialogue goes on.
    Say(Vec<u8>),
    /// To be sent; then the connection ends.
    Close(Vec<u8>),
    /// The authentication server is asked.
    Login(Box<Credentials>),
    /// To be sent in plain; then the handshake begins. What the client has sent before it is forgotten.
    StartTls(Vec<u8>),
}

/// A note about a client for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    Fault(Fault),
    TooLong,
    TooManyErrors,
    /// MAIL without a login.
    Rejected,
}

impl fmt::Display for Note {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(fault) => fault.fmt(out),
            Self::TooLong => out.write_str("client sent too long command"),
            Self::TooManyErrors => out.write_str("client sent too many invalid commands"),
            Self::Rejected => out.write_str("client was rejected: it has sent mail without logging in"),
        }
    }
}

/// The meaning of a client's next line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Awaited {
    #[default]
    Command,
    /// The password for this name (POP3).
    Pass(Vec<u8>),
    LoginName,
    LoginPassword(Vec<u8>),
    Plain,
    CramMd5,
    External,
}

/// The reply to a command that is refused.
struct Invalid;

/// The state of a dialogue that all protocols have.
#[derive(Debug, Default)]
struct Common {
    awaited: Awaited,
    errors: u64,
    salt: Box<[u8]>,
    note: Option<Note>,
}

/// The outcome of a step in logging in by SASL.
enum Sasl {
    /// The text after the protocol's sign for a challenge.
    Challenge(Vec<u8>),
    Done(Credentials),
}

impl Sasl {
    /// The step that follows, where a challenge begins with this sign.
    fn step(self, sign: &[u8]) -> Step {
        match self {
            Self::Challenge(text) => Step::Say(line(&[sign, &text])),
            Self::Done(credentials) => Step::Login(Box::new(credentials)),
        }
    }
}

/// A dialogue in which each command is one line: POP3 and SMTP.
trait Lined {
    /// The reply to what is no command, or is refused.
    const INVALID: &'static [u8];
    /// The sign of a challenge.
    const CHALLENGE: &'static [u8];

    fn common(&mut self) -> &mut Common;
    fn lines(&mut self) -> &mut Lines;

    /// The step that follows from a line; `None`: it is no command.
    fn command(&mut self, line: &[u8], here: Here<'_>) -> Option<Result<Step, Invalid>>;

    /// Takes the line at the front of the client's bytes; returns how many are done with.
    fn next(&mut self, data: &[u8], here: Here<'_>) -> (usize, Step) {
        let (text, whole) = match self.lines().next(data, here.terms.command_bytes_max) {
            Next::Line { text, whole } => (&data[..text], whole),
            Next::More => return (0, Step::More),
            Next::TooLong => {
                self.common().note = Some(Note::TooLong);
                return (0, Step::Close(Self::INVALID.to_vec()));
            }
        };
        let step = if self.common().awaits_answer() {
            self.common().answer(text).map(|sasl| sasl.step(Self::CHALLENGE))
        } else if let Some(step) = self.command(text, here) {
            step
        } else if self.common().is_too_wrong(here) {
            Ok(Step::Close(Self::INVALID.to_vec()))
        } else {
            Err(Invalid)
        };
        let step = step.unwrap_or_else(|Invalid| {
            self.common().awaited = Awaited::Command;
            Step::Say(Self::INVALID.to_vec())
        });
        (whole, step)
    }
}

impl Common {
    /// Counts a line that is no command. True: there were too many.
    fn is_too_wrong(&mut self, here: Here<'_>) -> bool {
        self.awaited = Awaited::Command;
        self.errors += 1;
        let is_too_wrong = self.errors >= here.terms.errors_max;
        if is_too_wrong {
            self.note = Some(Note::TooManyErrors);
        }
        is_too_wrong
    }

    fn noted<T>(&mut self, outcome: Result<T, Fault>) -> Result<T, Invalid> {
        outcome.map_err(|fault| {
            self.note = Some(Note::Fault(fault));
            Invalid
        })
    }

    /// AUTH or AUTHENTICATE with at least one argument.
    fn authenticate(&mut self, arguments: &[&[u8]], here: Here<'_>) -> Result<Sasl, Invalid> {
        let (mechanism, initial) = match arguments {
            _ if here.must_encrypt() => return Err(Invalid),
            [mechanism] => (mechanism, None),
            [mechanism, initial] => (mechanism, Some(*initial)),
            _ => return Err(Invalid),
        };
        let (awaited, challenge) = match (Mechanism::of(mechanism).ok_or(Invalid)?, initial) {
            (Mechanism::Plain, Some(initial)) => return self.noted(sasl::plain(initial)).map(Sasl::Done),
            (Mechanism::Plain, None) => (Awaited::Plain, Vec::new()),
            (Mechanism::Login, None) => (Awaited::LoginName, sasl::ASK_NAME.into()),
            (Mechanism::Login, Some(initial)) => {
                let name = self.noted(sasl::login_name(initial))?;
                (Awaited::LoginPassword(name), sasl::ASK_PASSWORD.into())
            }
            (Mechanism::CramMd5, None) if here.terms.allows(Allowed::CramMd5) => {
                let mut challenge = Vec::new();
                crate::base::base64::encode(&self.salt, &mut challenge);
                (Awaited::CramMd5, challenge)
            }
            (Mechanism::External, initial) if here.terms.allows(Allowed::External) => match initial {
                Some(initial) => return self.noted(sasl::external(initial)).map(Sasl::Done),
                None => (Awaited::External, sasl::ASK_NAME.into()),
            },
            (Mechanism::CramMd5 | Mechanism::External, _) => return Err(Invalid),
        };
        self.awaited = awaited;
        Ok(Sasl::Challenge(challenge))
    }

    /// The answer to a challenge.
    fn answer(&mut self, line: &[u8]) -> Result<Sasl, Invalid> {
        // More words are ignored, as in nginx.
        let word = line.split(|byte| *byte == b' ').next().unwrap_or_default();
        let outcome = match std::mem::take(&mut self.awaited) {
            Awaited::LoginName => {
                let name = self.noted(sasl::login_name(word))?;
                self.awaited = Awaited::LoginPassword(name);
                return Ok(Sasl::Challenge(sasl::ASK_PASSWORD.into()));
            }
            Awaited::LoginPassword(login) => sasl::login_password(word).map(|password| Credentials {
                method: sasl::Method::Plain,
                login,
                password: Some(password),
            }),
            Awaited::Plain => sasl::plain(word),
            Awaited::CramMd5 => sasl::cram_md5(word),
            Awaited::External => sasl::external(word),
            Awaited::Command | Awaited::Pass(_) => return Err(Invalid),
        };
        self.noted(outcome).map(Sasl::Done)
    }

    /// True if the next line is the answer to a challenge.
    fn awaits_answer(&self) -> bool {
        !matches!(self.awaited, Awaited::Command | Awaited::Pass(_))
    }
}

/// A dialogue in one of the protocols.
#[derive(Debug)]
pub enum Dialogue {
    Imap(imap::Dialogue),
    Pop3(pop3::Dialogue),
    Smtp(smtp::Dialogue),
}

impl Dialogue {
    /// `salt`: the challenge of APOP and CRAM-MD5; empty if the server allows neither.
    pub fn new(protocol: Protocol, salt: Box<[u8]>) -> Self {
        match protocol {
            Protocol::Imap => Self::Imap(imap::Dialogue::new(salt)),
            Protocol::Pop3 => Self::Pop3(pop3::Dialogue::new(salt)),
            Protocol::Smtp => Self::Smtp(smtp::Dialogue::new(salt)),
        }
    }

    fn common(&self) -> &Common {
        match self {
            Self::Imap(dialogue) => &dialogue.common,
            Self::Pop3(dialogue) => &dialogue.common,
            Self::Smtp(dialogue) => &dialogue.common,
        }
    }

    fn common_mut(&mut self) -> &mut Common {
        match self {
            Self::Imap(dialogue) => &mut dialogue.common,
            Self::Pop3(dialogue) => &mut dialogue.common,
            Self::Smtp(dialogue) => &mut dialogue.common,
        }
    }

    /// The first words of the server.
    pub fn greeting(&self, terms: &Terms) -> Vec<u8> {
        match self {
            Self::Imap(_) | Self::Smtp(_) => terms.texts.greeting.to_vec(),
            Self::Pop3(dialogue) => dialogue.greeting(terms),
        }
    }

    /// Takes what is at the front of the client's bytes; returns how many are done with.
    pub fn next(&mut self, data: &[u8], here: Here<'_>) -> (usize, Step) {
        match self {
            Self::Imap(dialogue) => dialogue.next(data, here),
            Self::Pop3(dialogue) => dialogue.next(data, here),
            Self::Smtp(dialogue) => dialogue.next(data, here),
        }
    }

    /// The note about the last step for the log.
    pub fn take_note(&mut self) -> Option<Note> {
        self.common_mut().note.take()
    }

    /// The challenge of APOP and CRAM-MD5.
    pub fn salt(&self) -> &[u8] {
        &self.common().salt
    }

    /// True if the client is in the middle of logging in.
    pub fn is_under_way(&self) -> bool {
        self.common().awaited != Awaited::Command
    }

    /// The reply to a client that may not log in; it may try again.
    pub fn refusal(&self, text: &[u8], code: Option<&[u8]>) -> Vec<u8> {
        match self {
            Self::Imap(dialogue) => [dialogue.tag(), b" NO ", text, b"\r\n"].concat(),
            Self::Pop3(_) => [b"-ERR ", text, b"\r\n"].concat(),
            Self::Smtp(_) => [code.unwrap_or(b"535 5.7.0"), b" ", text, b"\r\n"].concat(),
        }
    }

    /// The connection is encrypted: what was learned before does not count.
    pub fn forget(&mut self) {
        match self {
            Self::Imap(dialogue) => dialogue.forget(),
            Self::Pop3(dialogue) => dialogue.forget(),
            Self::Smtp(dialogue) => dialogue.forget(),
        }
    }
}

/// A line with its end.
fn line(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = parts.concat();
    out.extend_from_slice(b"\r\n");
    out
}

#[cfg(test)]
mod tests;
