//! POP3: commands, APOP, and the login at the client's server.

use super::{answer, ask, greeted, knowing_me, line, pop3_server, start};
use crate::support::wire::End;
use crate::support::{Client, Origin};

#[test]
fn a_client_logs_in_and_talks_with_its_server() {
    let server = pop3_server();
    let auth = knowing_me(server.port());
    let daemon = start("pop3", &auth, "");
    let mut client = Client::connect(daemon.port(0));
    assert_eq!(line(&mut client), "+OK POP3 ready");
    assert_eq!(ask(&mut client, "CAPA"), "+OK Capability list follows");
    let listed: Vec<String> = (0..5).map(|_| line(&mut client)).collect();
    assert_eq!(listed, ["TOP", "USER", "UIDL", "SASL PLAIN LOGIN", "."]);
    assert_eq!(ask(&mut client, "USER me"), "+OK");
    assert_eq!(ask(&mut client, "PASS secret"), "+OK welcome USER me");
    assert_eq!(ask(&mut client, "STAT"), "+ STAT");
    drop(client);
    server.wait_ended(1);
    assert_eq!(auth.last().header("auth-protocol"), Some("pop3"));
}

#[test]
fn other_ways_to_log_in() {
    let server = pop3_server();
    let auth = knowing_me(server.port());
    let daemon = start("pop3", &auth, "pop3_auth plain;");
    for commands in [&["AUTH PLAIN AG1lAHNlY3JldA=="][..], &["AUTH LOGIN", "bWU=", "c2VjcmV0"]] {
        let mut client = greeted(&daemon);
        let said: Vec<String> = commands.iter().map(|command| ask(&mut client, command)).collect();
        assert_eq!(said.last().map(String::as_str), Some("+OK welcome USER me"), "{commands:?}");
    }
    let mut client = greeted(&daemon);
    assert_eq!(ask(&mut client, "APOP me 0123"), "-ERR invalid command", "it is not allowed");
    assert_eq!(ask(&mut client, "USER me"), "+OK");
    assert_eq!(ask(&mut client, "PASS wrong"), "-ERR Invalid login or password");
    assert_eq!(ask(&mut client, "QUIT"), "+OK");
    assert_eq!(client.expect_end(), End::Closed);
}

#[test]
fn apop_has_the_salt_of_the_greeting() {
    let server = pop3_server();
    let port = server.port();
    let auth = Origin::replying(move |question| {
        let salt = question.header("auth-salt").unwrap_or_default();
        let (method, digest) = (question.header("auth-method"), question.header("auth-pass"));
        assert_eq!((method, digest), (Some("apop"), Some("00112233")));
        let fields =
            format!("Auth-Status: OK\nAuth-Server: 127.0.0.1\nAuth-Port: {port}\nAuth-Pass: secret\n");
        answer(&format!("{fields}Auth-User: you{}\n", salt.len()))
    });
    let daemon = start("pop3", &auth, "pop3_auth apop;");
    let mut client = Client::connect(daemon.port(0));
    let greeting = line(&mut client);
    let salt = greeting.strip_prefix("+OK POP3 ready ").expect("a salt");
    assert!(salt.starts_with('<') && salt.ends_with("@mail.example.com>"), "{salt}");
    let length = salt.len();
    assert_eq!(ask(&mut client, "APOP me 00112233"), format!("+OK welcome USER you{length}"));
    assert_eq!(auth.last().header("auth-salt"), Some(salt));
    let mut other = Client::connect(daemon.port(0));
    assert_ne!(line(&mut other), greeting, "each connection has its own");
}
