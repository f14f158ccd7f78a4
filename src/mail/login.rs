//! Logging a client in at its server: what is sent, and which replies let it go on.
//!
//! A value: replies go in, commands come out. Touches: nothing. Behaviour: nginx.org, ngx_mail_proxy_module.

use std::collections::VecDeque;

use crate::base::base64;
use crate::mail::dialogue::smtp::Said;
use crate::proto::imap::{self, Awaited};
use crate::proto::line::{Lines, Next};
use crate::proto::sasl::{Credentials, Method, Secret};
use crate::proto::{pop3, smtp};

/// A reply that lets the login go on.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    Pop3,
    ImapGreeting,
    ImapPermission,
    ImapEnd(Box<[u8]>),
    /// One of these codes; none: any.
    Smtp(&'static [u16]),
}

/// A turn: the reply that is waited for, and what is sent then.
#[derive(Debug)]
struct Turn {
    wanted: Wanted,
    /// `None`: the client is logged in.
    sends: Option<Secret>,
    /// The present activity, for the log.
    action: &'static str,
}

/// The rest of a login.
#[derive(Debug)]
pub struct Login {
    turns: VecDeque<Turn>,
    /// The server's last words for the client; `None`: as they came.
    welcome: Option<&'static [u8]>,
}

/// The step that follows from a server's bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    More,
    /// To be sent, once so many bytes are done with.
    Send {
        used: usize,
        bytes: Secret,
        action: &'static str,
    },
    /// The client is logged in; it gets this, and whatever comes next.
    Done {
        used: usize,
        welcome: Vec<u8>,
    },
    /// The server refuses; its reply has so many bytes.
    Refused(usize),
    TooLong,
}

/// A name or password that cannot be sent to the server: it has bytes that would end the line, and begin another command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsendable;

/// The facts about a client of SMTP that its server gets.
pub struct Facts<'a> {
    /// Our name for HELO.
    pub server_name: &'a str,
    pub said: &'a Said,
    /// `xclient`: the client's address and name.
    pub xclient: Option<(&'a str, &'a str)>,
    /// `proxy_smtp_auth`
    pub authenticates: bool,
}

fn command(parts: &[&[u8]]) -> Option<Secret> {
    let mut secret = Secret::default();
    parts.iter().for_each(|part| secret.0.extend_from_slice(part));
    secret.0.extend_from_slice(b"\r\n");
    Some(secret)
}

fn is_line(text: &[u8]) -> bool {
    !text.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0))
}

fn password(credentials: &Credentials) -> &[u8] {
    credentials.password.as_ref().map_or(&[], |password| &password.0)
}

impl Login {
    /// POP3: USER and PASS.
    pub fn pop3(credentials: &Credentials) -> Result<Self, Unsendable> {
        let (login, password) = (&credentials.login[..], password(credentials));
        if !is_line(login) || !is_line(password) {
            return Err(Unsendable);
        }
        let turn = |sends, action| Turn { wanted: Wanted::Pop3, sends, action };
        let turns = [
            turn(command(&[b"USER ", login]), "sending user name to upstream"),
            turn(command(&[b"PASS ", password]), "sending password to upstream"),
            turn(None, ""),
        ];
        Ok(Self { turns: turns.into(), welcome: None })
    }

    /// IMAP: LOGIN with literals, which may have any bytes. The tag is the client's, so that it can get the last reply.
    pub fn imap(credentials: &Credentials, tag: &[u8]) -> Self {
        let (login, password) = (&credentials.login[..], password(credentials));
        let turn = |wanted, sends, action| Turn { wanted, sends, action };
        let length = |text: &[u8]| format!("{{{}}}", text.len()).into_bytes();
        let turns = [
            turn(
                Wanted::ImapGreeting,
                command(&[tag, b" LOGIN ", &length(login)]),
                "sending LOGIN command to upstream",
            ),
            turn(
                Wanted::ImapPermission,
                command(&[login, b" ", &length(password)]),
                "sending user name to upstream",
            ),
            turn(Wanted::ImapPermission, command(&[password]), "sending password to upstream"),
            turn(Wanted::ImapEnd(tag.into()), None, ""),
        ];
        Self { turns: turns.into(), welcome: None }
    }

    /// SMTP: HELO or EHLO, XCLIENT, and AUTH or the client's MAIL and RCPT.
    pub fn smtp(credentials: &Credentials, facts: &Facts<'_>) -> Result<Self, Unsendable> {
        let Facts { server_name, said, xclient, authenticates } = facts;
        let is_open = credentials.method == Method::None;
        let mut turns = VecDeque::new();
        let mut wanted: &[u16] = &[220];
        let mut send = |sends, action, next: &'static [u16]| {
            let wanted = Wanted::Smtp(std::mem::replace(&mut wanted, next));
            turns.push_back(Turn { wanted, sends, action });
        };
        let hello = |is_esmtp| if is_esmtp { &b"EHLO "[..] } else { b"HELO " };
        let is_esmtp = said.is_esmtp || xclient.is_some();
        send(command(&[hello(is_esmtp), server_name.as_bytes()]), "sending HELO/EHLO to upstream", &[250]);
        if let Some((address, host)) = xclient {
            let family = if address.contains(':') && !address.starts_with("unix:") { "IPV6:" } else { "" };
            let mut line = format!("XCLIENT ADDR={family}{address}").into_bytes();
            if !credentials.login.is_empty() && !authenticates {
                line.extend_from_slice(b" LOGIN=");
                smtp::write_xtext(&credentials.login, &mut line);
            }
            line.extend_from_slice(b" NAME=");
            line.extend_from_slice(host.as_bytes());
            send(command(&[&line]), "sending XCLIENT to upstream", &[220, 250]);
            if !said.helo.is_empty() {
                let line = command(&[hello(said.is_esmtp), &said.helo]);
                send(line, "sending client HELO/EHLO to upstream", &[250]);
            }
        }
        if is_open {
            send(command(&[&said.from]), "sending MAIL FROM to upstream", &[250]);
            send(command(&[&said.to]), "sending RCPT TO to upstream", &[]);
        } else if *authenticates {
            let (login, password) = (&credentials.login[..], password(credentials));
            if login.contains(&0) || password.contains(&0) {
                return Err(Unsendable);
            }
            let plain = Secret::of(&[b"\0", login, b"\0", password].concat());
            let mut line = Secret::of(b"AUTH PLAIN ");
            base64::encode(&plain.0, &mut line.0);
            send(command(&[&line.0]), "sending AUTH to upstream", &[235]);
        }
        send(None, "", &[]);
        let welcome = (!is_open).then_some(&b"235 2.0.0 OK\r\n"[..]);
        Ok(Self { turns, welcome })
    }

    /// Takes what is at the front of the server's bytes. A reply may have `max` bytes.
    pub fn next(&mut self, data: &[u8], max: usize) -> Step {
        let Some(turn) = self.turns.front() else { return Step::More };
        let length = match judge(&turn.wanted, data, max) {
            Judged::More => return Step::More,
            Judged::TooLong => return Step::TooLong,
            Judged::Bad(length) => return Step::Refused(length),
            Judged::Good(length) => length,
        };
        let Some(Turn { sends, action, .. }) = self.turns.pop_front() else { return Step::More };
        match (sends, self.welcome) {
            (Some(bytes), _) => Step::Send { used: length, bytes, action },
            (None, Some(welcome)) => Step::Done { used: length, welcome: welcome.to_vec() },
            (None, None) => Step::Done { used: length, welcome: data[..length].to_vec() },
        }
    }
}

enum Judged {
    More,
    TooLong,
    Good(usize),
    Bad(usize),
}

fn judge(wanted: &Wanted, data: &[u8], max: usize) -> Judged {
    let awaited = match wanted {
        Wanted::Pop3 => {
            return match Lines::default().next(data, max) {
                Next::More => Judged::More,
                Next::TooLong => Judged::TooLong,
                Next::Line { text, whole } if pop3::is_good(&data[..text]) => Judged::Good(whole),
                Next::Line { whole, .. } => Judged::Bad(whole),
            };
        }
        Wanted::Smtp(codes) => {
            return match smtp::reply(data, max) {
                smtp::Reply::More => Judged::More,
                smtp::Reply::TooLong => Judged::TooLong,
                smtp::Reply::Whole { code, length } if codes.is_empty() || codes.contains(&code) => {
                    Judged::Good(length)
                }
                smtp::Reply::Whole { length, .. } => Judged::Bad(length),
            };
        }
        Wanted::ImapGreeting => Awaited::Greeting,
        Wanted::ImapPermission => Awaited::Permission,
        Wanted::ImapEnd(tag) => Awaited::End(tag),
    };
    match imap::reply(data, awaited, max) {
        imap::Reply::More => Judged::More,
        imap::Reply::TooLong => Judged::TooLong,
        imap::Reply::Good(length) => Judged::Good(length),
        imap::Reply::Bad(length) => Judged::Bad(length),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays the replies of a server; returns what it gets, and how it ends.
    fn play(mut login: Login, replies: &[&str]) -> Vec<String> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace("\r\n", "|").replace('\0', "0");
        let mut said = Vec::new();
        for reply in replies {
            let data = format!("{reply}\r\n");
            for cut in 0..data.len() {
                assert_eq!(login.next(&data.as_bytes()[..cut], 200), Step::More, "{reply} cut at {cut}");
            }
            said.push(match login.next(data.as_bytes(), 200) {
                Step::More => "more".into(),
                Step::Send { used, bytes, .. } => {
                    assert_eq!(used, data.len());
                    text(&bytes.0)
                }
                Step::Done { welcome, .. } => format!("done {}", text(&welcome)),
                Step::Refused(length) => format!("refused {}", text(&data.as_bytes()[..length])),
                Step::TooLong => "too long".into(),
            });
        }
        said
    }

    fn me() -> Credentials {
        Credentials::plain(b"me", b"pass word")
    }

    #[test]
    fn pop3_has_two_commands() {
        let login = || Login::pop3(&me()).expect("it can be sent");
        assert_eq!(
            play(login(), &["+OK hello", "+OK", "+OK 3 messages"]),
            ["USER me|", "PASS pass word|", "done +OK 3 messages|"]
        );
        assert_eq!(play(login(), &["+OK", "+OK", "-ERR no"])[2], "refused -ERR no|");
        for (name, password) in [(&b"me\r\nDELE 1"[..], &b"x"[..]), (b"me", b"x\nDELE 1"), (b"m\0e", b"x")] {
            assert_eq!(Login::pop3(&Credentials::plain(name, password)).err(), Some(Unsendable));
        }
    }

    #[test]
    fn imap_sends_literals_under_the_client_s_tag() {
        let login = || Login::imap(&me(), b"a1");
        assert_eq!(
            play(login(), &["* OK hello", "+ go", "+ go", "a1 OK welcome"]),
            ["a1 LOGIN {2}|", "me {9}|", "pass word|", "done a1 OK welcome|"]
        );
        assert_eq!(play(login(), &["* BYE"]), ["refused * BYE|"]);
        let any = Login::imap(&Credentials::plain(b"m\r\ne", b"\0"), b"a1");
        assert_eq!(play(any, &["* OK", "+", "+"]), ["a1 LOGIN {4}|", "m|e {1}|", "0|"]);
    }

    #[test]
    fn smtp_says_who_the_client_is() {
        let said = Said { helo: b"client".as_slice().into(), is_esmtp: true, ..Said::default() };
        let facts = |xclient, authenticates| Facts { server_name: "us", said: &said, xclient, authenticates };
        let login = |facts| Login::smtp(&me(), &facts).expect("it can be sent");
        assert_eq!(
            play(login(facts(None, false)), &["220 hi", "250 ok"]),
            ["EHLO us|", "done 235 2.0.0 OK|"]
        );
        assert_eq!(
            play(
                login(facts(Some(("10.0.0.1", "[UNAVAILABLE]")), false)),
                &["220 hi", "250 ok", "220 hi", "250 ok"]
            ),
            [
                "EHLO us|",
                "XCLIENT ADDR=10.0.0.1 LOGIN=me NAME=[UNAVAILABLE]|",
                "EHLO client|",
                "done 235 2.0.0 OK|"
            ]
        );
        assert_eq!(
            play(
                login(facts(Some(("::1", "c.example")), true)),
                &["220 hi", "250 ok", "220 hi", "250 ok", "235 in"]
            ),
            [
                "EHLO us|",
                "XCLIENT ADDR=IPV6:::1 NAME=c.example|",
                "EHLO client|",
                "AUTH PLAIN AG1lAHBhc3Mgd29yZA==|",
                "done 235 2.0.0 OK|",
            ]
        );
        assert_eq!(play(login(facts(None, true)), &["220 hi", "250 ok", "535 no"])[2], "refused 535 no|");
        let zero = Login::smtp(&Credentials::plain(b"m", b"\0"), &facts(None, true));
        assert_eq!(zero.err(), Some(Unsendable));
    }

    #[test]
    fn smtp_passes_mail_on_that_nobody_has_logged_in_for() {
        let said = Said {
            from: b"MAIL FROM:<a> SIZE=1".as_slice().into(),
            to: b"RCPT TO:<b>".as_slice().into(),
            ..Said::default()
        };
        let none = Credentials { method: Method::None, login: Vec::new(), password: None };
        let facts = |xclient| Facts { server_name: "us", said: &said, xclient, authenticates: true };
        let login = |xclient| Login::smtp(&none, &facts(xclient)).expect("it can be sent");
        assert_eq!(
            play(login(None), &["220 hi", "250 ok", "250 ok", "550 unknown"]),
            ["HELO us|", "MAIL FROM:<a> SIZE=1|", "RCPT TO:<b>|", "done 550 unknown|"]
        );
        assert_eq!(
            play(login(Some(("unix:", "x"))), &["220 hi", "250 ok", "250 ok", "250 ok", "250 ok"]),
            [
                "EHLO us|",
                "XCLIENT ADDR=unix: NAME=x|",
                "MAIL FROM:<a> SIZE=1|",
                "RCPT TO:<b>|",
                "done 250 ok|"
            ]
        );
    }

    #[test]
    fn an_endless_reply_is_too_long() {
        let mut login = Login::imap(&me(), b"a1");
        assert_eq!(login.next(&[b'x'; 200], 200), Step::TooLong);
    }
}
