//! The dialogue in SMTP.
//!
//! Pure. Behaviour: nginx.org, ngx_mail_smtp_module. What a client has said before STARTTLS is forgotten (RFC 3207 §4.2).

use super::{Awaited, Common, Here, Invalid, Lined, Note, Step, Texts};
use crate::mail::protocol::{Allowed, mechanisms};
use crate::proto::line::Lines;
use crate::proto::sasl::{Credentials, Method};
use crate::proto::smtp::{self, Command};

const OK: &[u8] = b"250 2.0.0 OK\r\n";
const INVALID_ARGUMENT: &[u8] = b"501 5.5.4 Invalid argument\r\n";
const BAD_SEQUENCE: &[u8] = b"503 5.5.1 Bad sequence of commands\r\n";
/// RFC 3207 §4. nginx takes MAIL without STARTTLS where it is required.
const MUST_ENCRYPT: &[u8] = b"530 5.7.0 Must issue a STARTTLS command first\r\n";
/// To a client that speaks before the greeting.
pub const BAD_PIPELINING: &[u8] = b"503 5.5.0 Improper use of SMTP command pipelining\r\n";

/// The texts of a server of this name.
pub fn texts(server_name: &str, capabilities: &[Box<str>], allowed: &[Allowed]) -> Texts {
    let reply = |lines: &[String]| {
        let mut out = String::new();
        for (index, line) in lines.iter().enumerate() {
            let sign = if index + 1 == lines.len() { ' ' } else { '-' };
            out += &format!("250{sign}{line}\r\n");
        }
        out.into_bytes().into_boxed_slice()
    };
    let mut lines = vec![server_name.to_owned()];
    lines.extend(capabilities.iter().map(|word| word.to_string()));
    let starttls = || "STARTTLS".to_owned();
    let only: Vec<String> = lines.iter().cloned().chain([starttls()]).collect();
    let methods: String = mechanisms(allowed).map(|name| format!(" {name}")).collect();
    if !methods.is_empty() {
        lines.push(format!("AUTH{methods}"));
    }
    let both: Vec<String> = lines.iter().cloned().chain([starttls()]).collect();
    Texts {
        greeting: format!("220 {server_name} ESMTP ready\r\n").into_bytes().into(),
        helo: format!("250 {server_name}\r\n").into_bytes().into(),
        capabilities: reply(&lines),
        capabilities_starttls: reply(&both),
        capabilities_only: reply(&only),
        mechanisms: Box::default(),
    }
}

/// A client's words about itself and its mail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// The name in HELO or EHLO; empty: it has sent neither.
    pub helo: Box<[u8]>,
    /// It was EHLO.
    pub is_esmtp: bool,
    /// The whole commands MAIL and RCPT; empty: not sent.
    pub from: Box<[u8]>,
    pub to: Box<[u8]>,
}

#[derive(Debug)]
pub struct Dialogue {
    pub(super) common: Common,
    lines: Lines,
    pub said: Said,
}

impl Lined for Dialogue {
    const INVALID: &'static [u8] = b"500 5.5.1 Invalid command\r\n";
    const CHALLENGE: &'static [u8] = b"334 ";

    fn common(&mut self) -> &mut Common {
        &mut self.common
    }

    fn lines(&mut self) -> &mut Lines {
        &mut self.lines
    }

    fn command(&mut self, line: &[u8], here: Here<'_>) -> Option<Result<Step, Invalid>> {
        Some(self.obey(&smtp::parse(line)?, here))
    }
}

impl Dialogue {
    pub fn new(salt: Box<[u8]>) -> Self {
        let common = Common { salt, ..Common::default() };
        Self { common, lines: Lines::default(), said: Said::default() }
    }

    pub(super) fn forget(&mut self) {
        self.lines = Lines::default();
        self.said = Said::default();
        self.common.awaited = Awaited::Command;
    }

    fn obey(&mut self, command: &smtp::Line<'_>, here: Here<'_>) -> Result<Step, Invalid> {
        let say = |text: &[u8]| Ok(Step::Say(text.to_vec()));
        match (command.command, &command.arguments[..]) {
            (Command::Quit, _) => Ok(Step::Close(b"221 2.0.0 Bye\r\n".to_vec())),
            (Command::Noop, _) => say(OK),
            (Command::Rset, _) => {
                (self.said.from, self.said.to) = Default::default();
                say(OK)
            }
            (Command::Helo | Command::Ehlo, [name]) => {
                let is_esmtp = command.command == Command::Ehlo;
                self.said = Said { helo: (*name).into(), is_esmtp, ..Said::default() };
                say(if is_esmtp { here.capabilities() } else { &here.terms.texts.helo })
            }
            (Command::Helo | Command::Ehlo, _) => say(INVALID_ARGUMENT),
            (Command::StartTls, _) if here.can_start_tls() => {
                Ok(Step::StartTls(b"220 2.0.0 Start TLS\r\n".to_vec()))
            }
            (Command::Auth, _) if here.must_encrypt() => Err(Invalid),
            (Command::Auth, []) => say(INVALID_ARGUMENT),
            (Command::Auth, arguments) => {
                self.common.authenticate(arguments, here).map(|sasl| sasl.step(Self::CHALLENGE))
            }
            (Command::Mail, arguments) => say(self.mail(command.text, arguments.is_empty(), here)),
            (Command::Rcpt, _) if self.said.from.is_empty() => say(BAD_SEQUENCE),
            (Command::Rcpt, []) => say(INVALID_ARGUMENT),
            (Command::Rcpt, _) => {
                self.said.to = command.text.into();
                let none = Credentials { method: Method::None, login: Vec::new(), password: None };
                Ok(Step::Login(Box::new(none)))
            }
            (Command::StartTls | Command::Other, _) => Err(Invalid),
        }
    }

    fn mail(&mut self, text: &[u8], is_bare: bool, here: Here<'_>) -> &'static [u8] {
        if here.must_encrypt() {
            return MUST_ENCRYPT;
        }
        if !here.terms.allows(Allowed::None) {
            self.common.note = Some(Note::Rejected);
            return b"530 5.7.1 Authentication required\r\n";
        }
        if !self.said.from.is_empty() {
            return BAD_SEQUENCE;
        }
        if is_bare {
            return INVALID_ARGUMENT;
        }
        self.said.from = text.into();
        OK
    }
}
