//! Dialogues as clients have them: each line, and what follows from it.

use super::*;
use crate::proto::sasl::{Method, Secret};

const SALT: &[u8] = b"<1.2@mail.example.com>";

fn terms(protocol: Protocol, allowed: &[Allowed], starttls: StartTls) -> Terms {
    let texts = match protocol {
        Protocol::Imap => imap::texts(&[], allowed),
        Protocol::Pop3 => pop3::texts(&[], allowed),
        Protocol::Smtp => smtp::texts("mail.example.com", &["SIZE 10".into()], allowed),
    };
    Terms { protocol, allowed: allowed.to_vec(), starttls, errors_max: 3, command_bytes_max: 200, texts }
}

/// One step as text: what is said, or what is decided.
fn shown(step: &Step) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace("\r\n", "|");
    match step {
        Step::More => "more".into(),
        Step::Say(said) => text(said),
        Step::Close(said) => format!("close {}", text(said)),
        Step::StartTls(said) => format!("tls {}", text(said)),
        Step::Login(credentials) => {
            let password = credentials.password.as_ref().map(|password| text(&password.0));
            format!("{} {} {password:?}", credentials.method.name(), text(&credentials.login))
        }
    }
}

/// The steps that follow from the lines, one after the other.
fn talk(terms: &Terms, is_tls: bool, lines: &[&str]) -> Vec<String> {
    let mut dialogue = Dialogue::new(terms.protocol, SALT.into());
    let say = |line: &&str| {
        let data = format!("{line}\r\n").into_bytes();
        let (used, step) = dialogue.next(&data, Here { terms, is_tls });
        assert_eq!(used, data.len(), "{line}");
        shown(&step)
    };
    lines.iter().map(say).collect()
}

#[test]
fn capabilities_depend_on_methods_and_on_tls() {
    let all =
        [Allowed::Plain, Allowed::Login, Allowed::Apop, Allowed::CramMd5, Allowed::External, Allowed::None];
    let cases = [
        (
            Protocol::Imap,
            "a CAPABILITY",
            [
                "* CAPABILITY IMAP4 IMAP4rev1 UIDPLUS AUTH=PLAIN AUTH=LOGIN AUTH=CRAM-MD5 AUTH=EXTERNAL|a OK completed|",
                "* CAPABILITY IMAP4 IMAP4rev1 UIDPLUS AUTH=PLAIN AUTH=LOGIN AUTH=CRAM-MD5 AUTH=EXTERNAL STARTTLS|a OK completed|",
                "* CAPABILITY IMAP4 IMAP4rev1 UIDPLUS STARTTLS LOGINDISABLED|a OK completed|",
            ],
        ),
        (
            Protocol::Pop3,
            "CAPA",
            [
                "+OK Capability list follows|TOP|USER|UIDL|SASL PLAIN LOGIN CRAM-MD5 EXTERNAL|.|",
                "+OK Capability list follows|TOP|USER|UIDL|SASL PLAIN LOGIN CRAM-MD5 EXTERNAL|STLS|.|",
                "+OK Capability list follows|TOP|UIDL|STLS|.|",
            ],
        ),
        (
            Protocol::Smtp,
            "EHLO me",
            [
                "250-mail.example.com|250-SIZE 10|250 AUTH PLAIN LOGIN CRAM-MD5 EXTERNAL|",
                "250-mail.example.com|250-SIZE 10|250-AUTH PLAIN LOGIN CRAM-MD5 EXTERNAL|250 STARTTLS|",
                "250-mail.example.com|250-SIZE 10|250 STARTTLS|",
            ],
        ),
    ];
    for (protocol, line, expected) in cases {
        for (starttls, expected) in [StartTls::Off, StartTls::On, StartTls::Only].into_iter().zip(expected) {
            let terms = terms(protocol, &all, starttls);
            assert_eq!(talk(&terms, false, &[line]), [expected], "{protocol:?} {starttls:?}");
        }
        let terms = terms(protocol, &all, StartTls::Only);
        assert_eq!(talk(&terms, true, &[line]), [expected[0]], "{protocol:?} once it is encrypted");
    }
    let none = terms(Protocol::Smtp, &[Allowed::None], StartTls::Off);
    assert_eq!(talk(&none, false, &["EHLO me"]), ["250-mail.example.com|250 SIZE 10|"]);
}

#[test]
fn greetings_have_a_salt_where_clients_need_one() {
    let greeting = |protocol, salt: &[u8]| {
        let greeting = Dialogue::new(protocol, salt.into()).greeting(&terms(protocol, &[], StartTls::Off));
        String::from_utf8(greeting).expect("text")
    };
    assert_eq!(greeting(Protocol::Pop3, SALT), "+OK POP3 ready <1.2@mail.example.com>\r\n");
    assert_eq!(greeting(Protocol::Pop3, b""), "+OK POP3 ready\r\n");
    assert_eq!(greeting(Protocol::Imap, SALT), "* OK IMAP4 ready\r\n");
    assert_eq!(greeting(Protocol::Smtp, SALT), "220 mail.example.com ESMTP ready\r\n");
}

#[test]
fn imap_logs_in() {
    let all = terms(Protocol::Imap, &[Allowed::Plain, Allowed::CramMd5, Allowed::External], StartTls::Off);
    let cases: [(&[&str], &[&str]); 8] = [
        (&["a LOGIN me secret"], &["plain me Some(\"secret\")"]),
        (&["a LOGIN", "a LOGIN \"\" x", "a LOGIN a b c"], &["a BAD invalid command|"; 3]),
        (&["a AUTHENTICATE PLAIN", "AG1lAHB3"], &["+ |", "plain me Some(\"pw\")"]),
        (&["a AUTHENTICATE PLAIN AG1lAHB3"], &["plain me Some(\"pw\")"]),
        (
            &["a AUTHENTICATE LOGIN", "bWU=", "cHc="],
            &["+ VXNlcm5hbWU6|", "+ UGFzc3dvcmQ6|", "plain me Some(\"pw\")"],
        ),
        (&["a AUTHENTICATE LOGIN bWU=", "*"], &["+ UGFzc3dvcmQ6|", "a BAD invalid command|"]),
        (&["a AUTHENTICATE EXTERNAL", "bWU="], &["+ VXNlcm5hbWU6|", "external me None"]),
        (
            &["a AUTHENTICATE", "a AUTHENTICATE SCRAM", "b NOOP"],
            &["a BAD invalid command|", "a BAD invalid command|", "b OK completed|"],
        ),
    ];
    for (lines, expected) in cases {
        assert_eq!(talk(&all, false, lines), expected, "{lines:?}");
    }
    let challenge = talk(&all, false, &["a AUTHENTICATE CRAM-MD5"]);
    assert_eq!(challenge, ["+ PDEuMkBtYWlsLmV4YW1wbGUuY29tPg==|"]);
    let few = terms(Protocol::Imap, &[Allowed::Plain], StartTls::Off);
    let lines = ["a AUTHENTICATE CRAM-MD5", "a AUTHENTICATE EXTERNAL", "a AUTHENTICATE EXTERNAL bWU="];
    assert_eq!(talk(&few, false, &lines), ["a BAD invalid command|"; 3]);
}

#[test]
fn pop3_logs_in() {
    let all = terms(Protocol::Pop3, &[Allowed::Plain, Allowed::Apop], StartTls::Off);
    let cases: [(&[&str], &[&str]); 7] = [
        (&["USER me", "PASS my secret"], &["+OK|", "plain me Some(\"my secret\")"]),
        (&["USER me", "NOOP", "PASS x"], &["+OK|", "+OK|", "plain me Some(\"x\")"]),
        (
            &["PASS x", "USER", "USER me", "USER you", "PASS x"],
            &[
                "-ERR invalid command|",
                "-ERR invalid command|",
                "+OK|",
                "-ERR invalid command|",
                "-ERR invalid command|",
            ],
        ),
        (&["APOP me 0123"], &["apop me Some(\"0123\")"]),
        (&["AUTH"], &["+OK methods supported:|PLAIN|.|"]),
        (&["AUTH PLAIN", "AG1lAHB3"], &["+ |", "plain me Some(\"pw\")"]),
        (&["USER me", "QUIT"], &["+OK|", "close +OK|"]),
    ];
    for (lines, expected) in cases {
        assert_eq!(talk(&all, false, lines), expected, "{lines:?}");
    }
    let few = terms(Protocol::Pop3, &[Allowed::Plain], StartTls::Off);
    assert_eq!(talk(&few, false, &["APOP me 0123"]), ["-ERR invalid command|"]);
}

#[test]
fn smtp_logs_in_or_needs_not() {
    let all = terms(Protocol::Smtp, &[Allowed::Plain, Allowed::None], StartTls::Off);
    let cases: [(&[&str], &[&str]); 6] = [
        (
            &["HELO me", "AUTH PLAIN", "AG1lAHB3"],
            &["250 mail.example.com|", "334 |", "plain me Some(\"pw\")"],
        ),
        (&["MAIL FROM:<a>", "RCPT TO:<b>"], &["250 2.0.0 OK|", "none  None"]),
        (
            &["RCPT TO:<b>", "MAIL", "MAIL FROM:<a>", "MAIL FROM:<a>"],
            &[
                "503 5.5.1 Bad sequence of commands|",
                "501 5.5.4 Invalid argument|",
                "250 2.0.0 OK|",
                "503 5.5.1 Bad sequence of commands|",
            ],
        ),
        (
            &["MAIL FROM:<a>", "RSET", "RCPT TO:<b>"],
            &["250 2.0.0 OK|", "250 2.0.0 OK|", "503 5.5.1 Bad sequence of commands|"],
        ),
        (&["HELO", "EHLO a b", "AUTH"], &["501 5.5.4 Invalid argument|"; 3]),
        (&["VRFY me", "QUIT"], &["500 5.5.1 Invalid command|", "close 221 2.0.0 Bye|"]),
    ];
    for (lines, expected) in cases {
        assert_eq!(talk(&all, false, lines), expected, "{lines:?}");
    }
    let few = terms(Protocol::Smtp, &[Allowed::Plain], StartTls::Off);
    assert_eq!(talk(&few, false, &["MAIL FROM:<a>"]), ["530 5.7.1 Authentication required|"]);
}

#[test]
fn nobody_logs_in_before_tls_where_it_is_required() {
    let all = [Allowed::Plain, Allowed::Apop, Allowed::CramMd5, Allowed::External, Allowed::None];
    let cases: [(Protocol, &[&str]); 3] = [
        (Protocol::Imap, &["a LOGIN me pw", "a AUTHENTICATE PLAIN AG1lAHB3", "a AUTHENTICATE LOGIN"]),
        (Protocol::Pop3, &["USER me", "APOP me 0123", "AUTH PLAIN AG1lAHB3", "AUTH"]),
        (Protocol::Smtp, &["AUTH PLAIN AG1lAHB3", "AUTH LOGIN", "MAIL FROM:<a>"]),
    ];
    for (protocol, lines) in cases {
        let terms = terms(protocol, &all, StartTls::Only);
        for line in lines {
            let [said] = &talk(&terms, false, &[line])[..] else { panic!("one step") };
            assert!(
                said.contains("BAD") || said.starts_with("-ERR") || said.starts_with('5'),
                "{line}: {said}"
            );
            assert!(!talk(&terms, true, &[line])[0].contains("invalid"), "{line} once it is encrypted");
        }
    }
}

#[test]
fn tls_begins_once_and_only_where_it_is_configured() {
    for (protocol, line) in
        [(Protocol::Imap, "a STARTTLS"), (Protocol::Pop3, "STLS"), (Protocol::Smtp, "STARTTLS")]
    {
        let begins = |starttls, is_tls| {
            talk(&terms(protocol, &[Allowed::Plain], starttls), is_tls, &[line])[0].starts_with("tls ")
        };
        assert!(begins(StartTls::On, false) && begins(StartTls::Only, false), "{protocol:?}");
        assert!(!begins(StartTls::On, true) && !begins(StartTls::Off, false), "{protocol:?}");
    }
}

#[test]
fn what_was_said_in_plain_is_forgotten() {
    let terms = terms(Protocol::Smtp, &[Allowed::Plain, Allowed::None], StartTls::On);
    let mut dialogue = Dialogue::new(Protocol::Smtp, SALT.into());
    let mut say = |text: &[u8], is_tls| shown(&dialogue.next(text, Here { terms: &terms, is_tls }).1);
    say(b"EHLO me\r\n", false);
    say(b"MAIL FROM:<a>\r\n", false);
    assert_eq!(say(b"STARTTLS\r\n", false), "tls 220 2.0.0 Start TLS|");
    dialogue.forget();
    let Dialogue::Smtp(smtp) = &dialogue else { panic!("it is SMTP") };
    assert_eq!(smtp.said, smtp::Said::default());
}

#[test]
fn too_many_errors_and_too_long_lines_end_it() {
    for (protocol, wrong) in [(Protocol::Imap, "a FOO"), (Protocol::Pop3, "FOO"), (Protocol::Smtp, "FOO")] {
        let terms = terms(protocol, &[Allowed::Plain], StartTls::Off);
        let said = talk(&terms, false, &[wrong; 3]);
        assert!(!said[1].starts_with("close") && said[2].starts_with("close"), "{said:?}");
        let mut dialogue = Dialogue::new(protocol, SALT.into());
        let here = Here { terms: &terms, is_tls: false };
        let (_, step) = dialogue.next(&[b'a'; 200], here);
        assert!(matches!(step, Step::Close(_)), "{step:?}");
        assert_eq!(dialogue.take_note(), Some(Note::TooLong));
    }
}

#[test]
fn a_refusal_is_in_the_protocol_s_form() {
    let said = |protocol, line: &[u8], code: Option<&[u8]>| {
        let terms = terms(protocol, &[Allowed::Plain], StartTls::Off);
        let mut dialogue = Dialogue::new(protocol, SALT.into());
        dialogue.next(line, Here { terms: &terms, is_tls: false });
        String::from_utf8(dialogue.refusal(b"go away", code)).expect("text")
    };
    assert_eq!(said(Protocol::Imap, b"x1 LOGIN a b\r\n", None), "x1 NO go away\r\n");
    assert_eq!(said(Protocol::Pop3, b"", None), "-ERR go away\r\n");
    assert_eq!(said(Protocol::Smtp, b"", None), "535 5.7.0 go away\r\n");
    assert_eq!(said(Protocol::Smtp, b"", Some(b"550 5.1.1")), "550 5.1.1 go away\r\n");
}

#[test]
fn credentials_are_the_client_s_bytes() {
    let terms = terms(Protocol::Imap, &[Allowed::Plain], StartTls::Off);
    let mut dialogue = Dialogue::new(Protocol::Imap, Box::default());
    let data = b"a LOGIN {3+}\r\n\r\n\x80 \"p \\\" w\"\r\n";
    let (used, step) = dialogue.next(data, Here { terms: &terms, is_tls: false });
    let credentials = Credentials {
        method: Method::Plain,
        login: b"\r\n\x80".to_vec(),
        password: Some(Secret::of(b"p \" w")),
    };
    assert_eq!((used, step), (data.len(), Step::Login(Box::new(credentials))));
}
