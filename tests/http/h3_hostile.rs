//! HTTP/3 with clients that mean harm: broken rules with their codes, floods, clients that read nothing.

use std::time::Duration;

use crate::support::h3::{DATA, H3, HEADERS, frame, head};
use crate::support::tls::Authority;
use crate::support::{Daemon, Setup};

const CONF: &str = r#"
worker_processes 1;
http {
    access_log off;
    ssl_certificate %%DIR%%/a.crt;
    ssl_certificate_key %%DIR%%/a.key;
    server {
        listen 127.0.0.1:%%PORT_0%% quic;
        client_header_timeout 3s;
        send_timeout 1s;
        http3_abuse_limit 200;
        large_client_header_buffers 4 4k;
        location / { return 200 "ok\n"; }
        location /files/ { root %%DIR%%; }
        location /read { client_max_body_size 0; proxy_pass http://127.0.0.1:1; }
    }
}
"#;

fn start() -> (Daemon, Authority) {
    let authority = Authority::new("Test CA");
    let pair = authority.issue(&["a.test"]);
    let setup = Setup::new(CONF).level("info").file("a.crt", pair.certificate).file("a.key", pair.key);
    (setup.file("files/big", vec![b'x'; 8 << 20]).start(), authority)
}

#[test]
fn broken_rules_end_the_connection_with_their_codes() {
    let (daemon, authority) = start();
    let request = head("GET", "/", "a.test", &[]);
    let on_requests: &[(&[u8], u64)] = &[
        (&frame(DATA, b"x"), 0x105),
        (&frame(4, b""), 0x105),
        (&[&request[..], &frame(4, b"")].concat(), 0x105),
        (&frame(8, b""), 0x105),
        (&frame(HEADERS, b""), 0x200),
        (&frame(HEADERS, &[0, 0, 0xff, 0x24]), 0x200),
        (&[1], 0x106),
        (&[&request[..], &[0, 5, b'x']].concat(), 0x106),
    ];
    for (bytes, code) in on_requests {
        let mut client = H3::connect(daemon.port(0), &authority, "a.test");
        // the body has to be read to be judged
        let bytes = match bytes.starts_with(&request) {
            true => [&head("POST", "/read", "a.test", &[])[..], &bytes[request.len()..]].concat(),
            false => bytes.to_vec(),
        };
        client.open(&bytes, true);
        assert_eq!(client.closed(), *code, "{bytes:x?}");
    }
    let on_others: &[(&[u8], u64)] =
        &[(&[0, 4, 0], 0x103), (&[1, 0], 0x103), (&[2, 0x3f, 0xe2, 0x1f], 0x201), (&[3, 0x80], 0x202)];
    for (bytes, code) in on_others {
        let mut client = H3::connect(daemon.port(0), &authority, "a.test");
        client.uni(bytes);
        assert_eq!(client.closed(), *code, "{bytes:x?}");
    }
    let mut client = H3::connect(daemon.port(0), &authority, "a.test");
    let control = client.uni(&[2]);
    client.send(control, &[], true);
    assert_eq!(client.closed(), 0x104, "an end of the encoder's stream");
    let mut client = H3::connect(daemon.port(0), &authority, "a.test");
    assert_eq!(client.fetch("a.test", "/").text(), "ok\n");
    assert_eq!(daemon.complaints("error|crit|alert|emerg"), Vec::<String>::new());
}

#[test]
fn a_flood_of_given_up_requests_ends_its_connection() {
    let (daemon, authority) = start();
    let mut client = H3::connect(daemon.port(0), &authority, "a.test");
    for _ in 0..1000 {
        if client.lost.is_some() {
            break;
        }
        if client.connection.streams().remote_open_streams(quinn_proto::Dir::Bi) > 1000 {
            break;
        }
        let request = head("POST", "/", "a.test", &[]);
        let Some(id) = client.connection.streams().open(quinn_proto::Dir::Bi) else {
            client.go_on(Duration::from_millis(1));
            continue;
        };
        client.send(id, &request[..request.len() - 1], false);
        client.go_on(Duration::from_millis(1));
        client.reset(id, 0x10c);
    }
    assert_eq!(client.closed(), 0x107);
    daemon.wait_log("client makes too much work for nothing, at last by streams that it resets");
}

#[test]
fn sections_that_wait_for_instructions_are_few() {
    let (daemon, authority) = start();
    let mut client = H3::connect(daemon.port(0), &authority, "a.test");
    for _ in 0..17 {
        client.open(&frame(HEADERS, &[2, 0, 0x80]), true);
    }
    assert_eq!(client.closed(), 0x200);
    // Fewer wait for a time only.
    let mut client = H3::connect(daemon.port(0), &authority, "a.test");
    let id = client.open(&frame(HEADERS, &[2, 0, 0x80]), true);
    assert_eq!(client.answer(id).reset, Some(0x10b));
    assert_eq!(client.fetch("a.test", "/").text(), "ok\n");
}

#[test]
fn a_client_that_takes_nothing_holds_little_and_not_for_long() {
    let (daemon, authority) = start();
    let mut transport = quinn_proto::TransportConfig::default();
    transport.stream_receive_window(1000u32.into());
    let mut client = H3::begin(daemon.port(0), crate::support::h3::tls(&authority), "a.test", transport);
    client.until("a handshake", |client| client.is_connected);
    client.start();
    // Streams that are opened without a reader: their windows are used up at once.
    let id = client.connection.streams().open(quinn_proto::Dir::Bi).expect("a stream");
    client.send(id, &head("GET", "/files/big", "a.test", &[]), true);
    let line = daemon.wait_log("client timed out.*while sending to client");
    assert!(line.contains("/files/big"), "{line}");
    assert_eq!(client.fetch("a.test", "/").text(), "ok\n");
}

/// A head that needs an entry of the dynamic table that never comes.
fn blocked() -> Vec<u8> {
    frame(HEADERS, &[2, 0, 0x80])
}

#[test]
fn a_section_that_waits_is_forgotten_with_its_request() {
    let (daemon, authority) = start();
    let mut client = H3::connect(daemon.port(0), &authority, "a.test");
    for _ in 0..2 {
        let waiting: Vec<_> = (0..16).map(|_| client.open(&blocked(), false)).collect();
        assert_eq!(client.fetch("a.test", "/").text(), "ok\n");
        waiting.into_iter().for_each(|id| client.reset(id, 0x10c));
        assert_eq!(client.fetch("a.test", "/").text(), "ok\n");
    }
    assert_eq!(client.lost, None);
}

#[test]
fn each_head_has_its_own_time() {
    let (daemon, authority) = start();
    let mut client = H3::connect(daemon.port(0), &authority, "a.test");
    let request = head("GET", "/", "a.test", &[]);
    let (begin, end) = request.split_at(9);
    let first = client.open(begin, false);
    client.go_on(Duration::from_millis(1200));
    let second = client.open(begin, false);
    assert_eq!(client.answer(first).reset, Some(0x10b));
    client.send(second, end, true);
    assert_eq!(client.answer(second).text(), "ok\n");
}

#[test]
fn bytes_without_use_end_the_connection_when_they_are_too_many() {
    let (daemon, authority) = start();
    let tls = crate::support::h3::tls(&authority);
    let mut client = H3::begin(daemon.port(0), tls, "a.test", quinn_proto::TransportConfig::default());
    client.until("a handshake", |client| client.is_connected);
    let control = client.uni(&[0, 4, 0]);
    let unknown = frame(0x21, &vec![0; 1 << 20]);
    (0..7).for_each(|_| client.send(control, &unknown, false));
    assert_eq!(client.fetch("a.test", "/").text(), "ok\n");
    (0..2).for_each(|_| client.send(control, &unknown, false));
    assert_eq!(client.closed(), 0x107);
    daemon.wait_log("client sent far more bytes than its requests have");
}

#[test]
fn half_open_handshakes_make_clients_prove_their_addresses_and_the_oldest_give_way() {
    let conf = CONF.replacen("access_log off;", "access_log off; ssl_handshakes_max 4;", 1);
    let authority = Authority::new("Test CA");
    let pair = authority.issue(&["a.test"]);
    let setup = Setup::new(&conf).level("info").file("a.crt", pair.certificate).file("a.key", pair.key);
    let daemon = setup.start();
    let begin = || {
        let tls = crate::support::h3::tls(&authority);
        H3::begin(daemon.port(0), tls, "a.test", quinn_proto::TransportConfig::default())
    };
    let mut client = H3::connect(daemon.port(0), &authority, "a.test");
    assert_eq!(client.fetch("a.test", "/").text(), "ok\n");
    assert_eq!(daemon.log_count("must prove their addresses"), 0);
    // These send their first packets only.
    let _first = [begin(), begin()];
    // These prove their addresses, and say no more.
    let stalled = || {
        let mut client = begin();
        client.until("an answer", |client| !client.marks.is_empty());
        client
    };
    let mut others = vec![stalled()];
    daemon.wait_log("2 TLS handshakes are under way: clients of QUIC must prove their addresses first");
    others.extend((0..4).map(|_| stalled()));
    daemon.wait_log("4 TLS handshakes are under way, giving up the oldest");
    daemon.wait_log("SSL handshake failed: closed to make room for other connections");
    let mut fresh = H3::connect(daemon.port(0), &authority, "a.test");
    assert_eq!(fresh.fetch("a.test", "/").text(), "ok\n");
    assert_eq!(client.fetch("a.test", "/").text(), "ok\n");
}

#[test]
fn connections_that_only_wait_make_room_for_new_clients() {
    let conf = format!("events {{ worker_connections 16; }} {CONF}");
    let authority = Authority::new("Test CA");
    let pair = authority.issue(&["a.test"]);
    let setup = Setup::new(&conf).level("info").file("a.crt", pair.certificate).file("a.key", pair.key);
    let daemon = setup.start();
    let mut clients: Vec<H3> = (0..30)
        .map(|_| {
            let mut client = H3::connect(daemon.port(0), &authority, "a.test");
            assert_eq!(client.fetch("a.test", "/").text(), "ok\n");
            client
        })
        .collect();
    assert_eq!(clients[0].closed(), 0x100);
    assert_eq!(clients[29].fetch("a.test", "/").text(), "ok\n");
    daemon.wait_log("worker_connections are short: clients of QUIC must prove their addresses first");
    daemon.wait_log("16 worker_connections are not enough, reusing connections");
    assert_eq!(daemon.log_count("new QUIC clients are refused"), 0);
}
