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
