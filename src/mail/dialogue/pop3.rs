//! The dialogue in POP3.
//!
//! Pure. Behaviour: nginx.org, ngx_mail_pop3_module.

use super::{Awaited, Common, Here, Invalid, Lined, Step, Terms, Texts, line};
use crate::mail::protocol::{Allowed, mechanisms};
use crate::proto::line::Lines;
use crate::proto::pop3::{self, Command};
use crate::proto::sasl::{Credentials, Method, Secret};

const CAPABILITIES: [&str; 3] = ["TOP", "USER", "UIDL"];

/// The texts of a server with these capabilities, or the usual ones.
pub fn texts(capabilities: &[Box<str>], allowed: &[Allowed]) -> Texts {
    let usual = CAPABILITIES.iter().copied().filter(|_| capabilities.is_empty());
    let words: Vec<&str> = usual.chain(capabilities.iter().map(|word| &**word)).collect();
    let lines = |keep: fn(&&&str) -> bool| {
        words.iter().filter(keep).map(|word| format!("{word}\r\n")).collect::<String>()
    };
    let methods: String = mechanisms(allowed).map(|name| format!(" {name}")).collect();
    let text = |all: &str| format!("+OK Capability list follows\r\n{all}.\r\n").into_bytes().into();
    let all = lines(|_| true) + "SASL" + &methods + "\r\n";
    let listed: String = mechanisms(allowed).map(|name| format!("{name}\r\n")).collect();
    Texts {
        greeting: b"+OK POP3 ready\r\n".as_slice().into(),
        capabilities: text(&all),
        capabilities_starttls: text(&(all + "STLS\r\n")),
        capabilities_only: text(&(lines(|word| !word.eq_ignore_ascii_case("USER")) + "STLS\r\n")),
        mechanisms: format!("+OK methods supported:\r\n{listed}.\r\n").into_bytes().into(),
        helo: Box::default(),
    }
}

#[derive(Debug)]
pub struct Dialogue {
    pub(super) common: Common,
    lines: Lines,
}

impl Lined for Dialogue {
    const INVALID: &'static [u8] = b"-ERR invalid command\r\n";
    const CHALLENGE: &'static [u8] = b"+ ";

    fn common(&mut self) -> &mut Common {
        &mut self.common
    }

    fn lines(&mut self) -> &mut Lines {
        &mut self.lines
    }

    fn command(&mut self, line: &[u8], here: Here<'_>) -> Option<Result<Step, Invalid>> {
        Some(self.obey(&pop3::parse(line)?, here))
    }
}

impl Dialogue {
    pub fn new(salt: Box<[u8]>) -> Self {
        Self { common: Common { salt, ..Common::default() }, lines: Lines::default() }
    }

    pub(super) fn greeting(&self, terms: &Terms) -> Vec<u8> {
        let greeting = &terms.texts.greeting;
        match greeting.strip_suffix(b"\r\n") {
            Some(text) if !self.common.salt.is_empty() => line(&[text, b" ", &self.common.salt]),
            _ => greeting.to_vec(),
        }
    }

    pub(super) fn forget(&mut self) {
        self.lines = Lines::default();
        self.common.awaited = Awaited::Command;
    }

    fn obey(&mut self, command: &pop3::Line<'_>, here: Here<'_>) -> Result<Step, Invalid> {
        let texts = &here.terms.texts;
        let ok = || b"+OK\r\n".to_vec();
        let login = match std::mem::take(&mut self.common.awaited) {
            Awaited::Pass(login) => Some(login),
            _ => None,
        };
        match (command.command, &command.arguments[..], login) {
            (Command::Quit, ..) => Ok(Step::Close(ok())),
            (Command::Noop | Command::Capa, _, Some(login)) => {
                self.common.awaited = Awaited::Pass(login);
                let is_noop = command.command == Command::Noop;
                Ok(Step::Say(if is_noop { ok() } else { texts.capabilities.to_vec() }))
            }
            (Command::Pass, [password], Some(login)) => {
                Ok(Step::Login(Box::new(Credentials::plain(&login, password))))
            }
            (_, _, Some(_)) => Err(Invalid),
            (Command::Noop, ..) => Ok(Step::Say(ok())),
            (Command::Capa, ..) => Ok(Step::Say(here.capabilities().to_vec())),
            (Command::Stls, ..) if here.can_start_tls() => Ok(Step::StartTls(ok())),
            (Command::User, [login], None) if !here.must_encrypt() => {
                self.common.awaited = Awaited::Pass(login.to_vec());
                Ok(Step::Say(ok()))
            }
            (Command::Apop, [login, digest], None) if self.allows_apop(here) => {
                let (login, password) = (login.to_vec(), Some(Secret::of(digest)));
                Ok(Step::Login(Box::new(Credentials { method: Method::Apop, login, password })))
            }
            (Command::Auth, _, _) if here.must_encrypt() => Err(Invalid),
            (Command::Auth, [], _) => Ok(Step::Say(texts.mechanisms.to_vec())),
            (Command::Auth, arguments, _) => {
                self.common.authenticate(arguments, here).map(|sasl| sasl.step(Self::CHALLENGE))
            }
            (Command::User | Command::Pass | Command::Apop | Command::Stls, ..) => Err(Invalid),
        }
    }

    fn allows_apop(&self, here: Here<'_>) -> bool {
        here.terms.allows(Allowed::Apop) && !here.must_encrypt()
    }
}
