//! The protocol of mail proxies and their authentication server (`auth_http`): a question as an HTTP/1.0 request, and the answer in
//! the fields of a response.
//!
//! Touches: nothing; values in, bytes out and back. Truth: nginx.org, ngx_mail_auth_http_module, "Protocol".

use std::net::{IpAddr, SocketAddr};

use crate::proto::line::{Lines, Next};
use crate::proto::sasl::Secret;

/// The longest head of an answer.
pub const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// The decision about a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It may go to this server.
    Pass(Pass),
    /// It gets this text.
    Refuse {
        text: Box<[u8]>,
        /// SMTP's code, if the answer has one.
        code: Option<Box<[u8]>>,
    },
    /// The question is to be asked again.
    Wait,
}

/// A client that may log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pass {
    pub server: SocketAddr,
    /// The name and the password for the server, if they are others than the client's.
    pub login: Option<Box<[u8]>>,
    pub password: Option<Secret>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub decision: Decision,
    /// How long to wait before the client hears of it (`Auth-Wait`).
    pub wait_s: u64,
}

/// Why there is no answer; displays in nginx's words, to be put after the name of the authentication server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    Malformed,
    TooLong,
    /// Neither `Auth-Server` and `Auth-Port` nor a refusal.
    NoServer,
    Server(Box<[u8]>),
    Port(Box<[u8]>),
}

/// The fields of an answer as they come.
#[derive(Default)]
struct Fields<'a> {
    status: Option<&'a [u8]>,
    server: &'a [u8],
    port: &'a [u8],
    login: Option<&'a [u8]>,
    password: Option<&'a [u8]>,
    code: Option<&'a [u8]>,
    wait_s: u64,
}

/// True once an answer's head has its end. `at` is the first byte that has not been looked at, and moves on with each
/// call, so that an answer that arrives byte by byte is not read again for each.
pub fn has_end(data: &[u8], at: &mut usize) -> bool {
    while let Next::Line { text, whole } = Lines::default().next(&data[*at..], usize::MAX) {
        *at += whole;
        if text == 0 {
            return true;
        }
    }
    false
}

/// Parses an answer. `Ok(None)`: its head is not complete. Its status line means nothing, and neither does its body.
pub fn parse(data: &[u8]) -> Result<Option<Answer>, Fault> {
    let (mut fields, mut at) = (Fields::default(), 0);
    loop {
        let Next::Line { text, whole } = Lines::default().next(&data[at..], usize::MAX) else {
            return if data.len() >= ANSWER_BYTES_MAX { Err(Fault::TooLong) } else { Ok(None) };
        };
        let line = &data[at..at + text];
        let is_first = at == 0;
        at += whole;
        if line.is_empty() {
            return fields.answer().map(Some);
        }
        if !(is_first && line.starts_with(b"HTTP/")) {
            fields.add(line)?;
        }
    }
}

impl<'a> Fields<'a> {
    fn add(&mut self, line: &'a [u8]) -> Result<(), Fault> {
        let end = memchr::memchr(b':', line).ok_or(Fault::Malformed)?;
        let (name, value) = (&line[..end], line[end + 1..].trim_ascii());
        let is_named = |wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
        if name.is_empty()
            || !name.iter().all(u8::is_ascii_graphic)
            || memchr::memchr2(b'\r', 0, value).is_some()
        {
            return Err(Fault::Malformed);
        }
        if is_named("Auth-Status") {
            self.status = Some(value);
        } else if is_named("Auth-Server") {
            self.server = value;
        } else if is_named("Auth-Port") {
            self.port = value;
        } else if is_named("Auth-User") {
            self.login = Some(value);
        } else if is_named("Auth-Pass") {
            self.password = Some(value);
        } else if is_named("Auth-Error-Code") {
            self.code = Some(value);
        } else if is_named("Auth-Wait") {
            self.wait_s = number(value).unwrap_or(self.wait_s);
        }
        Ok(())
    }

    fn answer(self) -> Result<Answer, Fault> {
        let decision = match self.status {
            Some(b"WAIT") => Decision::Wait,
            Some(b"OK") | None => Decision::Pass(self.pass()?),
            Some(text) => {
                let code = self.code.filter(|code| !code.is_empty()).map(Into::into);
                Decision::Refuse { text: text.into(), code }
            }
        };
        Ok(Answer { decision, wait_s: self.wait_s })
    }

    fn pass(&self) -> Result<Pass, Fault> {
        if self.server.is_empty() || self.port.is_empty() {
            return Err(Fault::NoServer);
        }
        let text = std::str::from_utf8(self.server).unwrap_or_default();
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        let ip = bare.parse::<IpAddr>().map_err(|_| Fault::Server(self.server.into()))?;
        let port = number(self.port).and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
        let port = port.ok_or_else(|| Fault::Port(self.port.into()))?;
        Ok(Pass {
            server: SocketAddr::new(ip, port),
            login: self.login.map(Into::into),
            password: self.password.map(Secret::of),
        })
    }
}

/// Digits only.
fn number(text: &[u8]) -> Option<u64> {
    let is_number = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| is_number)?.parse().ok()
}

/// Appends a value in which no byte can end the line, or be taken for a space: such bytes are written as `%XX`.
pub fn write_escaped(value: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in value {
        match byte {
            ..=b' ' | b'%' => {
                let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
                out.extend_from_slice(&[b'%', DIGITS[high], DIGITS[low]]);
            }
            _ => out.push(*byte),
        }
    }
}

/// A question that is being written.
pub struct Question(Vec<u8>);

impl Question {
    /// Begins a request for this URI.
    pub fn new(uri: &str, host: &str) -> Self {
        let mut question = Self(Vec::with_capacity(512));
        for part in ["GET ", uri, " HTTP/1.0\r\nHost: ", host, "\r\n"] {
            question.0.extend_from_slice(part.as_bytes());
        }
        question
    }

    /// Adds a field whose value has no end of line in it.
    pub fn field(&mut self, name: &str, value: impl AsRef<[u8]>) {
        self.begin(name);
        self.0.extend_from_slice(value.as_ref());
        self.0.extend_from_slice(b"\r\n");
    }

    /// Adds a field unless its value is empty.
    pub fn field_if_any(&mut self, name: &str, value: impl AsRef<[u8]>) {
        if !value.as_ref().is_empty() {
            self.field(name, value);
        }
    }

    /// Adds a field whose value a client has chosen.
    pub fn escaped(&mut self, name: &str, value: &[u8]) {
        self.begin(name);
        write_escaped(value, &mut self.0);
        self.0.extend_from_slice(b"\r\n");
    }

    fn begin(&mut self, name: &str) {
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b": ");
    }

    /// The whole request.
    pub fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(b"\r\n");
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> Result<Option<Answer>, Fault> {
        let whole = text.replace('\n', "\r\n");
        let parsed = parse(whole.as_bytes());
        assert_eq!(parse(text.as_bytes()), parsed, "bare ends of lines are the same");
        let mut looked_at = 0;
        for cut in 0..whole.len() {
            // Its head may have ended before the last byte: a body follows, and is not read.
            let is_complete = !matches!(parse(&whole.as_bytes()[..cut]), Ok(None));
            if has_end(&whole.as_bytes()[..cut], &mut looked_at) {
                assert!(is_complete, "cut at {cut}");
                break;
            }
            assert!(!matches!(parse(&whole.as_bytes()[..cut]), Ok(Some(_))), "cut at {cut}");
        }
        parsed
    }

    fn passed(server: &str, login: Option<&str>, password: Option<&str>) -> Decision {
        let server = server.parse().expect("an address");
        let (login, password) =
            (login.map(|it| it.as_bytes().into()), password.map(|it| Secret::of(it.as_bytes())));
        Decision::Pass(Pass { server, login, password })
    }

    fn refused(text: &str, code: Option<&str>) -> Decision {
        Decision::Refuse { text: text.as_bytes().into(), code: code.map(|code| code.as_bytes().into()) }
    }

    #[test]
    fn answers_pass_refuse_or_wait() {
        let cases = [
            (
                "HTTP/1.0 200 OK\nAuth-Status: OK\nAuth-Server: 10.0.0.1\nAuth-Port: 143\n\n",
                passed("10.0.0.1:143", None, None),
                0,
            ),
            (
                "HTTP/1.1 204 No\nauth-status:OK\nAUTH-SERVER:  ::1 \nauth-port: 25\nAuth-User: you\nAuth-Pass: s p\n\n",
                passed("[::1]:25", Some("you"), Some("s p")),
                0,
            ),
            ("Auth-Server: [::1]\nAuth-Port: 1\nAuth-Wait: x\n\n", passed("[::1]:1", None, None), 0),
            (
                "HTTP/1.0 200 OK\nAuth-Status: Invalid login\nAuth-Wait: 3\n\n",
                refused("Invalid login", None),
                3,
            ),
            ("Auth-Status: no\nAuth-Error-Code: 550 5.1.1\n\n", refused("no", Some("550 5.1.1")), 0),
            ("Auth-Status: no\nAuth-Error-Code:\n\n", refused("no", None), 0),
            ("Auth-Status:\nAuth-Server: 10.0.0.1\nAuth-Port: 143\n\n", refused("", None), 0),
            ("Auth-Status: WAIT\nAuth-Wait: 1\n\n", Decision::Wait, 1),
            ("Date: now\nX_Odd!: yes\nAuth-Status: no\n\n", refused("no", None), 0),
        ];
        for (text, decision, wait_s) in cases {
            assert_eq!(answer(text), Ok(Some(Answer { decision, wait_s })), "{text}");
        }
    }

    #[test]
    fn what_is_no_answer_is_told() {
        let cases = [
            ("HTTP/1.0 500 Error\n\n", Fault::NoServer),
            ("Auth-Status: OK\nAuth-Server: 10.0.0.1\n\n", Fault::NoServer),
            (
                "Auth-Server: mail.example.com\nAuth-Port: 25\n\n",
                Fault::Server(b"mail.example.com".as_slice().into()),
            ),
            ("Auth-Server: 10.0.0.1\nAuth-Port: 0\n\n", Fault::Port(b"0".as_slice().into())),
            ("Auth-Server: 10.0.0.1\nAuth-Port: 65536\n\n", Fault::Port(b"65536".as_slice().into())),
            ("Auth-Server: 10.0.0.1\nAuth-Port: +25\n\n", Fault::Port(b"+25".as_slice().into())),
            ("garbage\n\n", Fault::Malformed),
            (": x\n\n", Fault::Malformed),
            ("a b: x\n\n", Fault::Malformed),
            ("Auth-Status: a\0b\n\n", Fault::Malformed),
        ];
        for (text, fault) in cases {
            assert_eq!(answer(text), Err(fault), "{text}");
        }
        assert_eq!(parse(b"Auth-Status: a\rAuth-Server: b\n\n"), Err(Fault::Malformed));
        let endless = vec![b'x'; ANSWER_BYTES_MAX];
        assert_eq!((parse(&endless[1..]), parse(&endless)), (Ok(None), Err(Fault::TooLong)));
    }

    #[test]
    fn a_question_has_no_line_of_the_client_s() {
        let mut question = Question::new("/auth", "localhost");
        question.field("Auth-Method", "plain");
        question.escaped("Auth-User", b"me and 50%\r\nAuth-Pass: \xc3\x7f");
        question.field_if_any("Client-Host", "");
        let expected = "GET /auth HTTP/1.0\r\nHost: localhost\r\nAuth-Method: plain\r\n\
             Auth-User: me%20and%2050%25%0D%0AAuth-Pass:%20";
        let text = question.end();
        assert_eq!(text, [expected.as_bytes(), b"\xc3\x7f\r\n\r\n"].concat());
    }
}
