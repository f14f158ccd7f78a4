//! IMAP: commands with quoted strings and literals, ways to log in, pipelining, and the login at the client's server.

use super::{answer, ask, echo_lines, greeted, knowing_me, line, next_line, start};
use crate::support::wire::End;
use crate::support::{Client, Origin};

/// A server that takes LOGIN with two literals; it tells what it has got in its reply.
pub fn imap_server() -> Origin {
    Origin::start(|peer| {
        peer.send("* OK backend\r\n");
        let mut parts = Vec::new();
        for _ in 0..2 {
            let Some(line) = next_line(peer) else { return };
            let length = line.rsplit(['{', '}']).nth(1).and_then(|digits| digits.parse().ok());
            let (before, length): (_, usize) =
                (line.split(" {").next().map(str::to_owned), length.expect("a literal"));
            peer.send("+ go on\r\n");
            parts.extend(before.filter(|before| !before.is_empty()));
            parts.push(String::from_utf8_lossy(&peer.exactly(length)).into_owned());
        }
        next_line(peer);
        let [command, name, password] = &parts[..] else { panic!("{parts:?}") };
        let tag = command.split(' ').next().unwrap_or_default();
        if password == "wrong" {
            peer.send(format!("{tag} NO backend says no\r\n"));
            return;
        }
        peer.send(format!("* CAPABILITY IMAP4 X-NAME={name}\r\n{tag} OK welcome {command} {password}\r\n"));
        echo_lines(peer);
    })
}

#[test]
fn a_client_logs_in_and_talks_with_its_server() {
    let server = imap_server();
    let auth = knowing_me(server.port());
    let daemon = start("imap", &auth, "");
    let mut client = Client::connect(daemon.port(0));
    assert_eq!(line(&mut client), "* OK IMAP4 ready");
    assert_eq!(ask(&mut client, "a0 CAPABILITY"), "* CAPABILITY IMAP4 IMAP4rev1 UIDPLUS AUTH=PLAIN");
    assert_eq!(line(&mut client), "a0 OK completed");
    assert_eq!(ask(&mut client, "a1 LOGIN me secret"), "* CAPABILITY IMAP4 X-NAME=me");
    assert_eq!(line(&mut client), "a1 OK welcome a1 LOGIN secret");
    assert_eq!(ask(&mut client, "a2 SELECT inbox"), "+ a2 SELECT inbox");
    drop(client);
    server.wait_ended(1);
    daemon.wait_log(
        r#"client logged in, client: 127.0.0.1, server: 127.0.0.1:\d+, login: "me", upstream: 127.0.0.1:\d+"#,
    );
    daemon.wait_log("proxied session done, client: ");
    let question = auth.last();
    assert_eq!((&*question.target, &*question.version), ("/auth", "HTTP/1.0"));
    let expected =
        ["host", "auth-method", "auth-user", "auth-pass", "auth-protocol", "auth-login-attempt", "client-ip"];
    assert_eq!(question.names(), expected);
    let values: Vec<_> = expected.iter().filter_map(|name| question.header(name)).collect();
    assert_eq!(values, ["127.0.0.1", "plain", "me", "secret", "imap", "1", "127.0.0.1"]);
}

/// Every way to say it leads to the same login, also byte by byte.
#[test]
fn names_and_passwords_may_be_said_in_many_ways() {
    let server = imap_server();
    let auth = knowing_me(server.port());
    let daemon = start("imap", &auth, "imap_auth plain login external;");
    let logins: [&[&str]; 7] = [
        &["a LOGIN \"me\" \"secret\"\r\n"],
        &["a LOGIN {2}\r\n", "me {6}\r\n", "secret\r\n"],
        &["a LOGIN {2+}\r\nme {6+}\r\nsecret\r\n"],
        &["a AUTHENTICATE PLAIN AG1lAHNlY3JldA==\r\n"],
        &["a AUTHENTICATE PLAIN\r\n", "AG1lAHNlY3JldA==\r\n"],
        &["a AUTHENTICATE LOGIN\r\n", "bWU=\r\n", "c2VjcmV0\r\n"],
        &["a authenticate login bWU=\n", "c2VjcmV0\n"],
    ];
    for parts in logins {
        for is_slow in [false, true] {
            let mut client = greeted(&daemon);
            for (index, part) in parts.iter().enumerate() {
                let pieces = if is_slow { part.as_bytes().chunks(1) } else { part.as_bytes().chunks(1000) };
                pieces.for_each(|piece| _ = client.send(piece));
                if index + 1 < parts.len() {
                    assert!(line(&mut client).starts_with('+'), "{part}");
                }
            }
            assert_eq!(line(&mut client), "* CAPABILITY IMAP4 X-NAME=me", "{parts:?}");
            assert_eq!(line(&mut client), "a OK welcome a LOGIN secret");
        }
    }
}

#[test]
fn a_refused_client_may_try_again() {
    let server = imap_server();
    let auth = knowing_me(server.port());
    let daemon = start("imap", &auth, "");
    let mut client = greeted(&daemon);
    assert_eq!(ask(&mut client, "a1 LOGIN me wrong"), "a1 NO Invalid login or password");
    assert_eq!(auth.last().header("auth-login-attempt"), Some("1"));
    assert_eq!(ask(&mut client, "a2 LOGIN me secret"), "* CAPABILITY IMAP4 X-NAME=me");
    assert_eq!(auth.last().header("auth-login-attempt"), Some("2"));
    daemon.wait_log(r#"client login failed: "Invalid login or password" while in http auth state, client: "#);
}

#[test]
fn without_a_wait_a_refusal_ends_the_connection() {
    let auth = Origin::replying(|_| answer("Auth-Status: go away\n"));
    let daemon = start("imap", &auth, "");
    let mut client = greeted(&daemon);
    assert_eq!(ask(&mut client, "x9 LOGIN me secret"), "x9 NO go away");
    assert_eq!(client.expect_end(), End::Closed);
}

#[test]
fn what_follows_a_login_goes_to_the_server() {
    let server = imap_server();
    let auth = knowing_me(server.port());
    let daemon = start("imap", &auth, "");
    let mut client = greeted(&daemon);
    client.send("a1 NOOP\r\na2 LOGIN me secret\r\na3 SELECT x\r\na4 LOG");
    assert_eq!(line(&mut client), "a1 OK completed");
    line(&mut client);
    assert_eq!(line(&mut client), "a2 OK welcome a2 LOGIN secret");
    assert_eq!(line(&mut client), "+ a3 SELECT x");
    assert_eq!(ask(&mut client, "OUT"), "+ a4 LOGOUT");
}

#[test]
fn the_reply_of_a_server_that_refuses_is_passed_on_if_configured() {
    let server = imap_server();
    let port = server.port();
    let auth = Origin::replying(move |_| super::pass_to(port));
    for (more, expected) in
        [("", "* BAD internal server error"), ("proxy_pass_error_message on;", "a NO backend says no")]
    {
        let daemon = start("imap", &auth, more);
        let mut client = greeted(&daemon);
        assert_eq!(ask(&mut client, "a LOGIN me wrong"), expected);
        assert_eq!(client.expect_end(), End::Closed);
        daemon.wait_log(r#"upstream sent invalid response: "a NO backend says no""#);
    }
}

#[test]
fn cram_md5_needs_the_password_of_the_authentication_server() {
    let server = imap_server();
    let port = server.port();
    let auth = Origin::replying(move |question| {
        let is_right = question.header("auth-method") == Some("cram-md5")
            && question.header("auth-salt").is_some_and(|salt| salt.ends_with("@mail.example.com>"))
            && question.header("auth-pass") == Some("0123456789abcdef0123456789abcdef");
        let password = if question.header("auth-user") == Some("me") { "Auth-Pass: real\n" } else { "" };
        match is_right {
            true => {
                answer(&format!("Auth-Status: OK\nAuth-Server: 127.0.0.1\nAuth-Port: {port}\n{password}"))
            }
            false => answer("Auth-Status: no\n"),
        }
    });
    let daemon = start("imap", &auth, "imap_auth cram-md5;");
    let mut client = greeted(&daemon);
    let challenge = ask(&mut client, "a AUTHENTICATE CRAM-MD5");
    assert!(challenge.starts_with("+ PD"), "{challenge}");
    // "me 0123456789abcdef0123456789abcdef"
    ask(&mut client, "bWUgMDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=");
    assert_eq!(line(&mut client), "a OK welcome a LOGIN real");
    let mut client = greeted(&daemon);
    ask(&mut client, "a AUTHENTICATE CRAM-MD5");
    // "me2 0123456789abcdef0123456789abcdef": its password is not known
    let said = ask(&mut client, "bWUyIDAxMjM0NTY3ODlhYmNkZWYwMTIzNDU2Nzg5YWJjZGVm");
    assert_eq!(said, "* BAD internal server error");
    daemon.wait_log("auth http server 127.0.0.1:[0-9]+ did not send password");
}
