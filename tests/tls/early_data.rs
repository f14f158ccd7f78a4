//! Early data (`ssl_early_data`): it is answered before the handshake is complete, once, and marked.
//!
//! A client in memory holds its Finished back, so that every answer it gets was sent without it; OpenSSL and
//! GnuTLS stand for other clients.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;

use crate::support::tls::{Authority, TlsClient, client_config, connect_tcp};
use crate::support::{Daemon, Origin, Setup, wait_for};

const CONF: &str = r#"
worker_processes 2;
http {
    ssl_certificate site.pem;
    ssl_certificate_key site.key;
    ssl_session_cache shared:early:1m;
    ssl_early_data on;
    log_format early '$uri early=$ssl_early_data reused=$ssl_session_reused';
    access_log %%DIR%%/access.log early;
    server {
        listen 127.0.0.1:%%PORT_0%% ssl;
        server_name site.test;
        location / { return 200 "early=$ssl_early_data reused=$ssl_session_reused"; }
        location /app/ {
            proxy_pass http://%%ORIGIN%%;
            proxy_set_header Early-Data $ssl_early_data;
        }
    }
}
"#;

const BODY_BYTES: usize = 3_000_000;

/// Refuses what may be a copy; otherwise a long answer, or the body of the request.
fn origin() -> Origin {
    Origin::replying(|request| match (request.target.as_str(), request.header("early-data")) {
        ("/app/once", Some("1")) => b"HTTP/1.1 425 Too Early\r\nContent-Length: 0\r\n\r\n".to_vec(),
        ("/app/long", early) => {
            let mut answer =
                format!("HTTP/1.1 200 OK\r\nX-Early: {early:?}\r\nContent-Length: {BODY_BYTES}\r\n\r\n")
                    .into_bytes();
            answer.extend((0..BODY_BYTES).map(|at| (at % 251) as u8));
            answer
        }
        _ => crate::support::origin::ok(&request.body),
    })
}

fn start() -> (Daemon, Arc<ClientConfig>, Origin) {
    let authority = Authority::new("test");
    let pair = authority.issue(&["site.test"]);
    let origin = origin();
    let setup = Setup::new(CONF).set("ORIGIN", origin.address()).level("info");
    let daemon = setup.file("site.pem", pair.certificate).file("site.key", pair.key).start();
    (daemon, resuming(&authority), origin)
}

fn resuming(authority: &Authority) -> Arc<ClientConfig> {
    let mut config = ClientConfig::clone(&client_config(authority, None, &[&rustls::version::TLS13]));
    config.resumption = Resumption::in_memory_sessions(8);
    config.enable_early_data = true;
    Arc::new(config)
}

/// A client that has a ticket.
fn ticketed(daemon: &Daemon, config: &Arc<ClientConfig>) {
    let answer = TlsClient::connect(daemon.port(0), config, "site.test").get("site.test", "/");
    assert_eq!(answer.text(), "early= reused=.");
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: site.test\r\n\r\n")
}

/// Sends early data and nothing else: whatever follows waits in the client.
fn early(daemon: &Daemon, config: &Arc<ClientConfig>, data: &str) -> (TlsClient, Vec<u8>) {
    let name = ServerName::try_from("site.test").expect("a name");
    let mut tls = rustls::ClientConnection::new(Arc::clone(config), name).expect("settings");
    tls.early_data().expect("there is a ticket").write_all(data.as_bytes()).expect("room");
    let mut sent = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut sent).expect("memory");
    }
    let mut socket = connect_tcp(daemon.port(0));
    socket.write_all(&sent).expect("the daemon reads");
    (TlsClient::over(tls, socket), sent)
}

/// Reads up to `count` bytes of data without writing anything.
fn silently(client: &mut TlsClient, count: usize) -> Vec<u8> {
    let mut got = Vec::new();
    while got.len() < count {
        let mut some = [0; 65_536];
        match client.tls.reader().read(&mut some) {
            Ok(0) => break,
            Ok(count) => got.extend_from_slice(&some[..count]),
            Err(_) => {
                let count = client.tls.read_tls(&mut client.socket).expect("an answer in time");
                client.tls.process_new_packets().expect("the daemon speaks TLS");
                if count == 0 {
                    break;
                }
            }
        }
    }
    got
}

fn answered(client: &mut TlsClient, end: &str) -> String {
    let mut got = String::new();
    while !got.ends_with(end) {
        let more = silently(client, 1);
        assert!(!more.is_empty(), "the connection ends after {got:?}");
        got += &String::from_utf8_lossy(&more);
    }
    got
}

#[test]
fn a_request_is_answered_before_the_client_has_finished_and_the_next_one_after() {
    let (daemon, config, _origin) = start();
    ticketed(&daemon, &config);
    let (mut client, _) = early(&daemon, &config, &get("/"));
    answered(&mut client, "early=1 reused=r");
    // Now the client's Finished leaves, and a request behind it.
    assert_eq!(client.get("site.test", "/").text(), "early= reused=r");
    assert!(client.tls.is_early_data_accepted());
    // The connection is like any other: it moves to the next generation.
    let worker = daemon.workers();
    daemon.reload();
    wait_for("the old workers to end", || {
        daemon.workers_now().iter().all(|pid| !worker.contains(pid)).then_some(())
    });
    assert_eq!(client.get("site.test", "/").text(), "early= reused=r");
    daemon.wait_line("access.log", "/ early=1 reused=r");
}

#[test]
fn several_requests_and_parts_of_one_come_in_early_data() {
    let (daemon, config, _origin) = start();
    ticketed(&daemon, &config);
    let two = get("/") + &get("/");
    let (mut client, _) = early(&daemon, &config, &two);
    let text = answered(&mut client, "early=1 reused=r");
    let text =
        if text.matches("early=1").count() == 2 { text } else { text + &answered(&mut client, "reused=r") };
    assert_eq!(text.matches("early=1").count(), 2, "{text}");
    drop(client);
    // The rest of this one comes behind the handshake.
    TlsClient::connect(daemon.port(0), &resumed(&config), "site.test").get("site.test", "/");
    let (mut client, _) =
        early(&daemon, &config, "POST /app/echo HTTP/1.1\r\nHost: site.test\r\nContent-Length: 6\r\n\r\nabc");
    client.send("def");
    let answer = client.response();
    assert_eq!((answer.status, answer.text().as_str()), (200, "abcdef"));
}

/// The same settings: a connection with them fetches new tickets.
fn resumed(config: &Arc<ClientConfig>) -> Arc<ClientConfig> {
    let mut fresh = ClientConfig::clone(config);
    fresh.enable_early_data = false;
    Arc::new(fresh)
}

#[test]
fn a_long_answer_goes_on_when_the_handshake_is_complete() {
    let (daemon, config, _origin) = start();
    for before in [1000, 100_000, 1_000_000, usize::MAX] {
        TlsClient::connect(daemon.port(0), &resumed(&config), "site.test").get("site.test", "/");
        let (mut client, _) = early(&daemon, &config, &get("/app/long"));
        let mut got = silently(&mut client, before.min(BODY_BYTES));
        assert!(String::from_utf8_lossy(&got[..200]).contains("X-Early: Some(\"1\")"));
        client.send(get("/")); // and the Finished
        while !got.ends_with(b"early= reused=r") {
            got.extend(client.some().expect("the rest"));
        }
        let head = got.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
        let body = &got[head..head + BODY_BYTES];
        assert!(body.iter().enumerate().all(|(at, byte)| *byte == (at % 251) as u8), "after {before}");
    }
}

#[test]
fn a_recorded_request_is_handled_once() {
    let (daemon, config, _origin) = start();
    ticketed(&daemon, &config);
    let (mut client, recorded) = early(&daemon, &config, &get("/recorded"));
    answered(&mut client, "early=1 reused=r");
    for _ in 0..4 {
        let mut socket = connect_tcp(daemon.port(0));
        socket.write_all(&recorded).expect("the daemon reads");
        socket.shutdown(std::net::Shutdown::Write).expect("a socket");
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer); // a ServerHello that nobody can answer
    }
    client.send(get("/last"));
    client.response();
    daemon.wait_line("access.log", "/last");
    assert_eq!(daemon.read("access.log").matches("/recorded").count(), 1);
}

#[test]
fn a_backend_may_refuse_what_may_be_a_copy() {
    let (daemon, config, _origin) = start();
    ticketed(&daemon, &config);
    let (mut client, _) = early(&daemon, &config, &get("/app/once"));
    assert!(answered(&mut client, "\r\n\r\n").starts_with("HTTP/1.1 425 Too Early\r\n"));
    assert_eq!(client.get("site.test", "/app/once").status, 200);
}

#[test]
fn a_client_that_finishes_wrongly_or_not_at_all_is_dropped() {
    let (daemon, config, _origin) = start();
    for end in [&b"\x17\x03\x03\x00\x20aaaaaaaabbbbbbbbccccccccdddddddd"[..], b""] {
        TlsClient::connect(daemon.port(0), &resumed(&config), "site.test").get("site.test", "/");
        let (mut client, _) = early(&daemon, &config, &get("/"));
        answered(&mut client, "early=1 reused=r");
        client.socket.write_all(end).expect("the daemon reads");
        client.socket.shutdown(std::net::Shutdown::Write).expect("a socket");
        let mut rest = Vec::new();
        let _ = client.socket.read_to_end(&mut rest);
        assert!(rest.len() < 100, "an alert at most");
    }
    assert_eq!(daemon.log_count("panicked"), 0);
    ticketed(&daemon, &resuming_anew(&config));
}

/// Without a ticket.
fn resuming_anew(config: &Arc<ClientConfig>) -> Arc<ClientConfig> {
    let mut fresh = ClientConfig::clone(config);
    fresh.resumption = Resumption::in_memory_sessions(8);
    Arc::new(fresh)
}

/// Runs a client program that ends with its connection.
fn client(program: &str, words: &[&str], input: &str) -> String {
    let mut child = Command::new(program)
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let mut stdin = child.stdin.take().expect("a pipe");
    let _ = stdin.write_all(input.as_bytes());
    let mut text = String::new();
    child.stdout.take().expect("a pipe").read_to_string(&mut text).expect("text");
    drop(stdin);
    child.wait().expect("it ends");
    text
}

#[test]
fn openssl_and_gnutls_get_their_answers_early() {
    let (daemon, _, _origin) = start();
    let close = "GET / HTTP/1.1\r\nHost: site.test\r\nConnection: close\r\n\r\n";
    let session = daemon.path("session").display().to_string();
    daemon.write("early.txt", close);
    let file = daemon.path("early.txt").display().to_string();
    let address = format!("127.0.0.1:{}", daemon.port(0));
    let connect = ["s_client", "-connect", &address, "-servername", "site.test"];
    client("openssl", &[&connect[..], &["-sess_out", &session]].concat(), close);
    let text = client("openssl", &[&connect[..], &["-sess_in", &session, "-early_data", &file]].concat(), "");
    assert!(text.contains("Early data was accepted") && text.contains("early=1 reused=r"), "{text}");
    let port = daemon.port(0).to_string();
    let words = [
        "--insecure",
        "--resume",
        "--waitresumption",
        "--earlydata",
        &file,
        "--sni-hostname",
        "site.test",
        "-p",
        &port,
        "127.0.0.1",
    ];
    let text = client("gnutls-cli", &words, "");
    assert!(text.contains("early=1 reused=r"), "{text}");
}
