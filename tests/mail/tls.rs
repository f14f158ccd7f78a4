//! TLS to clients of mail: from the start, by STARTTLS, required, with certificates; and nothing said in plain survives it.

use super::{answer, ask, greeted, knowing_me, line, pop3_server, setup};
use crate::support::tls::{Authority, TlsClient, client_config, trusting};
use crate::support::wire::End;
use crate::support::{Client, Daemon, Origin, Setup};

fn with_pair(setup: Setup, authority: &Authority) -> Setup {
    let pair = authority.issue(&["mail.example.com"]);
    let setup = setup.file("server.crt", &pair.certificate).file("server.key", &pair.key);
    setup.file("ca.crt", authority.certificate())
}

fn start(protocol: &str, auth: &Origin, more: &str, authority: &Authority) -> Daemon {
    let more = format!("ssl_certificate server.crt; ssl_certificate_key server.key; {more}");
    with_pair(setup(protocol, auth, &more), authority).start()
}

/// The next line over TLS.
fn tls_line(client: &mut TlsClient) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.extend(client.exactly(1));
    }
    String::from_utf8(line).expect("text").trim_end().into()
}

fn tls_ask(client: &mut TlsClient, command: &str) -> String {
    client.send(format!("{command}\r\n"));
    tls_line(client)
}

/// Sends a STARTTLS command, and makes the handshake.
fn upgrade(mut client: Client, command: &str, authority: &Authority) -> (String, TlsClient) {
    let said = ask(&mut client, command);
    let socket = client.stream().try_clone().expect("a descriptor");
    (said, TlsClient::try_over(socket, &trusting(authority), "mail.example.com").expect("a handshake"))
}

#[test]
fn a_plain_connection_becomes_an_encrypted_one() {
    let server = pop3_server();
    let auth = knowing_me(server.port());
    let authority = Authority::new("ca");
    let daemon = start("pop3", &auth, "starttls on;", &authority);
    let mut client = greeted(&daemon);
    assert_eq!(ask(&mut client, "CAPA"), "+OK Capability list follows");
    let listed: Vec<String> = (0..6).map(|_| line(&mut client)).collect();
    assert_eq!(listed[4..], ["STLS", "."]);
    let (said, mut client) = upgrade(client, "STLS", &authority);
    assert_eq!(said, "+OK");
    client.send("CAPA\r\n");
    let listed: Vec<String> = (0..6).map(|_| tls_line(&mut client)).collect();
    assert_eq!(listed[4..], ["SASL PLAIN LOGIN", "."], "no STLS any more");
    assert_eq!(tls_ask(&mut client, "STLS"), "-ERR invalid command");
    assert_eq!(tls_ask(&mut client, "USER me"), "+OK");
    assert_eq!(tls_ask(&mut client, "PASS secret"), "+OK welcome USER me");
    assert_eq!(tls_ask(&mut client, "STAT"), "+ STAT");
    let question = auth.last();
    assert_eq!(
        (question.header("auth-ssl"), question.header("auth-ssl-protocol")),
        (Some("on"), Some("TLSv1.3"))
    );
    assert!(question.header("auth-ssl-cipher").is_some_and(|name| name.starts_with("TLS_")));
    assert_eq!(question.header("auth-ssl-verify"), None);
    daemon.wait_log(r#"client logged in, client: 127.0.0.1 using starttls, server: "#);
}

#[test]
fn nobody_logs_in_without_tls_where_it_is_required() {
    let server = pop3_server();
    let auth = knowing_me(server.port());
    let authority = Authority::new("ca");
    for (protocol, command, refused, upgrade_by) in [
        ("pop3", "USER me", "-ERR invalid command", "STLS"),
        ("imap", "a LOGIN me secret", "a BAD invalid command", "a STARTTLS"),
        ("smtp", "AUTH PLAIN AG1lAHNlY3JldA==", "500 5.5.1 Invalid command", "STARTTLS"),
    ] {
        let daemon = start(protocol, &auth, "starttls only;", &authority);
        let mut client = greeted(&daemon);
        assert_eq!(ask(&mut client, command), refused);
        let (_, mut client) = upgrade(client, upgrade_by, &authority);
        assert_ne!(tls_ask(&mut client, command), refused, "{protocol}");
    }
    assert!(auth.requests().iter().all(|question| question.header("auth-ssl") == Some("on")));
}

/// CVE-2011-0411 and its like: commands that somebody has added in plain behind STARTTLS must not run under TLS.
#[test]
fn nothing_that_came_in_plain_is_taken_for_something_said_under_tls() {
    let auth = Origin::replying(|_| answer("Auth-Status: never\n"));
    let authority = Authority::new("ca");
    for (protocol, command, injected, probe, expected) in [
        ("pop3", "STLS", "USER evil\r\nPASS evil\r\n", "NOOP", "+OK"),
        ("imap", "a STARTTLS", "b LOGIN evil evil\r\n", "c NOOP", "c OK completed"),
        ("smtp", "STARTTLS", "EHLO evil\r\nAUTH PLAIN AGV2aWwAZXZpbA==\r\n", "NOOP", "250 2.0.0 OK"),
    ] {
        let daemon = start(protocol, &auth, "starttls on;", &authority);
        let client = greeted(&daemon);
        // In one piece with the command, so that all of it has arrived before the handshake.
        let all = format!("{command}\r\n{injected}");
        let (_, mut client) = upgrade(client, all.trim_end(), &authority);
        assert_eq!(
            tls_ask(&mut client, probe),
            expected,
            "{protocol}: the first reply is to the first command under TLS"
        );
    }
    assert!(auth.requests().is_empty(), "nobody has logged in");
}

#[test]
fn bytes_in_plain_that_come_during_the_handshake_end_it() {
    let auth = Origin::replying(|_| answer("Auth-Status: never\n"));
    let authority = Authority::new("ca");
    let daemon = start("pop3", &auth, "starttls on;", &authority);
    let mut client = greeted(&daemon);
    assert_eq!(ask(&mut client, "STLS"), "+OK");
    client.send("USER evil\r\nPASS evil\r\n");
    client.rest();
    daemon.wait_log("SSL handshake failed: the client does not speak TLS while in starttls state, client: 127.0.0.1 using starttls");
    assert!(auth.requests().is_empty());
}

#[test]
fn tls_from_the_start_has_the_protocol_s_name_in_alpn() {
    let server = pop3_server();
    let auth = knowing_me(server.port());
    let authority = Authority::new("ca");
    let conf = "mail {
        auth_http http://%%AUTH%%/auth;
        ssl_certificate server.crt; ssl_certificate_key server.key;
        server { listen 127.0.0.1:%%PORT_0%% ssl; protocol pop3; }
    }";
    let daemon = with_pair(Setup::new(conf).set("AUTH", auth.address()), &authority).start();
    let config = |protocols: &[&str]| {
        let mut config = (*trusting(&authority)).clone();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        std::sync::Arc::new(config)
    };
    for protocols in [&[][..], &["pop3"], &["imap", "pop3"]] {
        let mut client = TlsClient::connect(daemon.port(0), &config(protocols), "mail.example.com");
        assert_eq!(tls_line(&mut client), "+OK POP3 ready", "{protocols:?}");
        client.send("USER me\r\nPASS secret\r\nSTAT\r\n");
        let said: Vec<String> = (0..3).map(|_| tls_line(&mut client)).collect();
        assert_eq!(said, ["+OK", "+OK welcome USER me", "+ STAT"]);
    }
    assert!(TlsClient::try_connect(daemon.port(0), &config(&["http/1.1"]), "mail.example.com").is_err());
}

#[test]
fn certificates_of_clients_are_judged_and_told() {
    let auth = Origin::replying(|question| {
        let verdict = question.header("auth-ssl-verify").unwrap_or("-");
        let subject = question.header("auth-ssl-subject").unwrap_or("-");
        let pem = question
            .header("auth-ssl-cert")
            .is_some_and(|pem| pem.starts_with("-----BEGIN%20CERTIFICATE-----%0A"));
        answer(&format!("Auth-Status: {verdict} {subject} {pem}\n"))
    });
    let (authority, other) = (Authority::new("ca"), Authority::new("other"));
    let conf = "mail {
        auth_http http://%%AUTH%%/auth; auth_http_pass_client_cert on;
        ssl_certificate server.crt; ssl_certificate_key server.key; ssl_client_certificate ca.crt;
        server { listen 127.0.0.1:%%PORT_0%% ssl; protocol imap; ssl_verify_client %%MODE%%; }
    }";
    let said = |mode: &str, issuer: Option<&Authority>| {
        let setup = Setup::new(conf).set("AUTH", auth.address()).set("MODE", mode);
        let daemon = with_pair(setup, &authority).start();
        let pair = issuer.map(|issuer| issuer.issue(&["client.example.com"]));
        let config = client_config(&authority, pair.as_ref(), rustls::ALL_VERSIONS);
        let mut client = TlsClient::connect(daemon.port(0), &config, "mail.example.com");
        let first = tls_line(&mut client);
        if first.starts_with("* OK") { tls_ask(&mut client, "a LOGIN me x") } else { first }
    };
    assert_eq!(said("on", None), "* BYE No required SSL certificate");
    assert_eq!(said("on", Some(&other)), "* BYE SSL certificate error");
    assert_eq!(said("optional", None), "a NO NONE - false");
    let good = said("on", Some(&authority));
    assert!(good.starts_with("a NO SUCCESS ") && good.ends_with(" true"), "{good}");
    let unknown = said("optional_no_ca", Some(&other));
    assert!(unknown.starts_with("a NO FAILED:"), "{unknown}");
}

#[test]
fn a_handshake_that_stops_is_given_up() {
    let auth = Origin::replying(|_| answer("Auth-Status: never\n"));
    let authority = Authority::new("ca");
    let daemon = start("pop3", &auth, "starttls on; timeout 300ms;", &authority);
    let mut client = greeted(&daemon);
    assert_eq!(ask(&mut client, "STLS"), "+OK");
    assert_eq!(client.expect_end(), End::Closed);
    daemon.wait_log("client timed out .* while in starttls state");
}
