//! The dialogue in IMAP.
//!
//! Pure. Behaviour: nginx.org, ngx_mail_imap_module.

use super::{Common, Here, Invalid, Note, Step, Texts, line};
use crate::mail::protocol::{Allowed, mechanisms};
use crate::proto::imap::{Command, Line, Parsed, Reader};
use crate::proto::sasl::Credentials;

/// The sign of a challenge.
const CHALLENGE: &[u8] = b"+ ";
const CAPABILITIES: [&str; 3] = ["IMAP4", "IMAP4rev1", "UIDPLUS"];

/// The texts of a server with these capabilities, or the usual ones.
pub fn texts(capabilities: &[Box<str>], allowed: &[Allowed]) -> Texts {
    let mut begin = "* CAPABILITY".to_owned();
    let usual = CAPABILITIES.iter().copied().filter(|_| capabilities.is_empty());
    for word in usual.chain(capabilities.iter().map(|word| &**word)) {
        begin = begin + " " + word;
    }
    let methods: String = mechanisms(allowed).map(|name| format!(" AUTH={name}")).collect();
    let text = |end: &str| format!("{begin}{end}\r\n").into_bytes().into();
    Texts {
        greeting: b"* OK IMAP4 ready\r\n".as_slice().into(),
        capabilities: text(&methods),
        capabilities_starttls: text(&(methods.clone() + " STARTTLS")),
        capabilities_only: text(" STARTTLS LOGINDISABLED"),
        ..Texts::default()
    }
}

#[derive(Debug)]
pub struct Dialogue {
    pub(super) common: Common,
    reader: Reader,
    /// Of the command in progress; `*` without one.
    tag: Box<[u8]>,
}

impl Dialogue {
    pub fn new(salt: Box<[u8]>) -> Self {
        let common = Common { salt, ..Common::default() };
        Self { common, reader: Reader::default(), tag: b"*".as_slice().into() }
    }

    /// The tag of the command in progress.
    pub fn tag(&self) -> &[u8] {
        &self.tag
    }

    pub(super) fn forget(&mut self) {
        self.reader.reset();
        self.common.awaited = Default::default();
    }

    pub(super) fn next(&mut self, data: &[u8], here: Here<'_>) -> (usize, Step) {
        let max = here.terms.command_bytes_max;
        if self.common.awaits_answer() {
            let (used, answer) = self.reader.answer(data, max);
            let step = match answer {
                Ok(answer) => self.common.answer(answer).map(|sasl| sasl.step(CHALLENGE)),
                Err(Parsed::More) => return (used, Step::More),
                Err(_) => return (used, self.too_long()),
            };
            return (used, step.unwrap_or_else(|Invalid| self.invalid()));
        }
        let (used, parsed) = self.reader.parse(data, max);
        let step = match parsed {
            Parsed::More => Step::More,
            Parsed::Literal => Step::Say(b"+ OK\r\n".to_vec()),
            Parsed::Command(line) => {
                self.tag = line.tag.clone();
                self.command(&line, here).unwrap_or_else(|Invalid| self.invalid())
            }
            Parsed::Invalid { tag, is_out_of_step } => {
                self.tag = tag.unwrap_or_else(|| b"*".as_slice().into());
                let is_too_wrong = self.common.is_too_wrong(here);
                match self.invalid() {
                    Step::Say(text) if is_too_wrong || is_out_of_step => Step::Close(text),
                    step => step,
                }
            }
            Parsed::TooLong { tag } => {
                self.tag = tag.unwrap_or_else(|| b"*".as_slice().into());
                self.too_long()
            }
        };
        (used, step)
    }

    fn command(&mut self, command: &Line, here: Here<'_>) -> Result<Step, Invalid> {
        let tag = &*command.tag;
        let completed = |before: &[u8]| line(&[before, tag, b" OK completed"]);
        match command.command {
            Command::Noop => Ok(Step::Say(completed(b""))),
            Command::Capability => Ok(Step::Say(completed(here.capabilities()))),
            Command::Logout => Ok(Step::Close(completed(b"* BYE\r\n"))),
            Command::StartTls if here.can_start_tls() => Ok(Step::StartTls(completed(b""))),
            Command::StartTls => Err(Invalid),
            Command::Login => match &command.arguments[..] {
                [login, password] if !login.0.is_empty() && !here.must_encrypt() => {
                    Ok(Step::Login(Box::new(Credentials::plain(&login.0, &password.0))))
                }
                _ => Err(Invalid),
            },
            Command::Authenticate => {
                let arguments: Vec<&[u8]> =
                    command.arguments.iter().map(|argument| &argument.0[..]).collect();
                self.common.authenticate(&arguments, here).map(|sasl| sasl.step(CHALLENGE))
            }
        }
    }

    fn invalid(&mut self) -> Step {
        self.common.awaited = Default::default();
        Step::Say(line(&[&self.tag, b" BAD invalid command"]))
    }

    fn too_long(&mut self) -> Step {
        self.common.note = Some(Note::TooLong);
        Step::Close(line(&[&self.tag, b" BAD invalid command"]))
    }
}
