//! SMTP: logging in, mail without a login, XCLIENT and AUTH at the client's server, the greeting's delay, and clients' names.

use std::time::{Duration, Instant};

use super::{answer, ask, echo_lines, greeted, knowing_me, line, next_line, pass_to, start};
use crate::support::dns::{A, NXDOMAIN, wire};
use crate::support::wire::End;
use crate::support::{Client, Dns, Origin};

/// A server that takes everything until DATA, and tells each command in its reply.
fn smtp_server() -> Origin {
    Origin::start(|peer| {
        peer.send("220 backend ready\r\n");
        while let Some(line) = next_line(peer) {
            let code = match line.split(' ').next().unwrap_or_default() {
                "EHLO" => "250-backend\r\n250",
                "XCLIENT" => "220",
                "AUTH" if line.ends_with("AG1lAHdyb25n") => "535",
                "AUTH" => "235",
                "DATA" => {
                    peer.send("354 go\r\n");
                    return echo_lines(peer);
                }
                _ => "250",
            };
            peer.send(format!("{code} {line}\r\n"));
        }
    })
}

/// All commands that a server has got, as it tells them with the last one.
fn passing(port: u16) -> Origin {
    Origin::replying(move |_| pass_to(port))
}

#[test]
fn a_client_logs_in_and_talks_with_its_server() {
    let server = smtp_server();
    let auth = knowing_me(server.port());
    let daemon = start("smtp", &auth, "smtp_capabilities \"SIZE 1000\" 8BITMIME;");
    let mut client = Client::connect(daemon.port(0));
    assert_eq!(line(&mut client), "220 mail.example.com ESMTP ready");
    assert_eq!(ask(&mut client, "EHLO client"), "250-mail.example.com");
    let listed: Vec<String> = (0..3).map(|_| line(&mut client)).collect();
    assert_eq!(listed, ["250-SIZE 1000", "250-8BITMIME", "250 AUTH PLAIN LOGIN"]);
    assert_eq!(ask(&mut client, "MAIL FROM:<a@b>"), "530 5.7.1 Authentication required");
    assert_eq!(ask(&mut client, "AUTH PLAIN AG1lAHdyb25n"), "535 5.7.0 Invalid login or password");
    assert_eq!(ask(&mut client, "AUTH PLAIN AG1lAHNlY3JldA=="), "235 2.0.0 OK");
    assert_eq!(ask(&mut client, "MAIL FROM:<a@b>"), "250 MAIL FROM:<a@b>");
    drop(client);
    server.wait_ended(1);
    let question = auth.last();
    assert_eq!(question.header("auth-protocol"), Some("smtp"));
    assert_eq!(question.header("client-host"), Some("[UNAVAILABLE]"));
    assert_eq!(question.header("auth-smtp-to"), None);
}

/// A server that notes the commands until it has got `last`, and tells all of them in its reply to the next one.
fn noting_server() -> Origin {
    Origin::start(|peer| {
        peer.send("220 backend\r\n");
        let mut noted: Vec<String> = Vec::new();
        while let Some(line) = next_line(peer) {
            let code = if line.starts_with("AUTH") { 235 } else { 250 };
            if line == "TELL" {
                peer.send(format!("250 {}\r\n", noted.join("|")));
                continue;
            }
            peer.send(format!("{code} ok\r\n"));
            noted.push(line);
        }
    })
}

#[test]
fn the_server_is_told_who_the_client_is() {
    let server = noting_server();
    let auth = passing(server.port());
    let cases = [
        (
            "xclient on;",
            "EHLO me",
            "EHLO mail.example.com|XCLIENT ADDR=127.0.0.1 LOGIN=me NAME=[UNAVAILABLE]|EHLO me",
        ),
        ("xclient on;", "NOOP", "EHLO mail.example.com|XCLIENT ADDR=127.0.0.1 LOGIN=me NAME=[UNAVAILABLE]"),
        ("xclient off;", "EHLO me", "EHLO mail.example.com"),
        ("xclient off;", "HELO me", "HELO mail.example.com"),
        ("xclient off; proxy_smtp_auth on;", "EHLO me", "EHLO mail.example.com|AUTH PLAIN AG1lAHNlY3JldA=="),
        (
            "proxy_smtp_auth on;",
            "HELO me",
            "EHLO mail.example.com|XCLIENT ADDR=127.0.0.1 NAME=[UNAVAILABLE]|HELO me|AUTH PLAIN AG1lAHNlY3JldA==",
        ),
    ];
    for (more, hello, expected) in cases {
        let daemon = start("smtp", &auth, more);
        let mut client = greeted(&daemon);
        client.send(format!("{hello}\r\nAUTH PLAIN AG1lAHNlY3JldA==\r\nTELL\r\n"));
        let mut said = line(&mut client);
        while !said.starts_with("235") {
            said = line(&mut client);
        }
        assert_eq!(line(&mut client), format!("250 {expected}"), "{more}");
    }
}

#[test]
fn mail_without_a_login_is_judged_by_its_sender_and_recipient() {
    let server = noting_server();
    let port = server.port();
    let auth = Origin::replying(move |question| {
        let said = |name| question.header(name).unwrap_or("-").to_owned();
        let all = ["auth-method", "auth-smtp-helo", "auth-smtp-from", "auth-smtp-to"].map(said);
        assert_eq!(all[..3], ["none", "client", "MAIL FROM:<a@b> SIZE=5"]);
        if all[3] == "RCPT TO:<good@b>" {
            pass_to(port)
        } else {
            answer("Auth-Status: no such user\nAuth-Error-Code: 550 5.1.1\nAuth-Wait: 1\n")
        }
    });
    let daemon = start("smtp", &auth, "smtp_auth none; xclient off;");
    let mut client = greeted(&daemon);
    client.send("EHLO client\r\n");
    assert_eq!(line(&mut client), "250 mail.example.com");
    assert_eq!(ask(&mut client, "RCPT TO:<good@b>"), "503 5.5.1 Bad sequence of commands");
    assert_eq!(ask(&mut client, "MAIL FROM:<a@b> SIZE=5"), "250 2.0.0 OK");
    assert_eq!(ask(&mut client, "RCPT TO:<bad@b>"), "550 5.1.1 no such user");
    client.send("RCPT TO:<good@b>\r\nRCPT TO:<more@b>\r\nTELL\r\n");
    assert_eq!([line(&mut client), line(&mut client)], ["250 ok", "250 ok"]);
    let noted = "EHLO mail.example.com|MAIL FROM:<a@b> SIZE=5|RCPT TO:<good@b>|RCPT TO:<more@b>";
    assert_eq!(line(&mut client), format!("250 {noted}"));
}

#[test]
fn a_client_that_does_not_wait_for_the_greeting_is_rejected() {
    let auth = passing(1);
    let daemon = start("smtp", &auth, "smtp_greeting_delay 300ms;");
    let mut client = Client::connect(daemon.port(0));
    client.send("EHLO me\r\n");
    assert_eq!(line(&mut client), "503 5.5.0 Improper use of SMTP command pipelining");
    assert_eq!(client.expect_end(), End::Closed);
    daemon.wait_log("client was rejected before greeting");
    let begin = Instant::now();
    let mut client = greeted(&daemon);
    assert!(begin.elapsed() >= Duration::from_millis(290));
    assert_eq!(ask(&mut client, "HELO me"), "250 mail.example.com");
}

/// The kind and the data of the record for a name and a kind of question.
type Script = fn(&str, u16) -> Option<(u16, Vec<u8>)>;

#[test]
fn the_name_of_a_client_must_lead_back_to_it() {
    const PTR: u16 = 12;
    let client_host = |script: Script| {
        let dns = Dns::start(move |query| match script(&query.name, query.kind) {
            Some((kind, data)) => query.reply(&[crate::support::dns::record(&query.name, kind, 60, &data)]),
            None => query.fail(NXDOMAIN),
        });
        let auth = passing(1);
        let daemon =
            start("smtp", &auth, &format!("resolver {} ipv6=off; resolver_timeout 5s;", dns.address()));
        let mut client = greeted(&daemon);
        ask(&mut client, "AUTH PLAIN AG1lAHNlY3JldA==");
        assert_eq!(dns.asked("1.0.0.127.in-addr.arpa", PTR), 1);
        auth.last().header("client-host").expect("it is told").to_owned()
    };
    let found = client_host(|name, kind| match (name, kind) {
        ("1.0.0.127.in-addr.arpa", PTR) => Some((PTR, wire("host.example.com"))),
        ("host.example.com", A) => Some((A, vec![127, 0, 0, 1])),
        _ => None,
    });
    assert_eq!(found, "host.example.com");
    let forged = client_host(|name, kind| match (name, kind) {
        ("1.0.0.127.in-addr.arpa", PTR) => Some((PTR, wire("bank.example.com"))),
        ("bank.example.com", A) => Some((A, vec![10, 0, 0, 1])),
        _ => None,
    });
    assert_eq!(forged, "[UNAVAILABLE]");
    let strange = client_host(|_, kind| (kind == PTR).then(|| (PTR, wire("a_b.example.com"))));
    assert_eq!(strange, "[TEMPUNAVAIL]");
    assert_eq!(client_host(|_, _| None), "[UNAVAILABLE]");
}
