//! What strangers, broken tools and slow readers do to the control socket: nothing is lost, and the master goes on.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use nix::sys::signal::Signal;
use serde_json::json;

use super::{control, servers};
use crate::support::daemon::is_stand_in;
use crate::support::{Daemon, Origin, Setup, get};

const CONF: &str = r#"
worker_processes 1;
control unix:%%DIR%%/ctl;
http {
    keyval_zone zone=k:1m;
    upstream u { zone u 64k; server %%ORIGIN%%; }
    server { listen 127.0.0.1:%%PORT_0%%; location / { proxy_pass http://u; } }
}
"#;

const SERVERS: &str = "/api/9/http/upstreams/u/servers";

fn start(origin: &Origin) -> Daemon {
    Setup::new(CONF).set("ORIGIN", origin.address()).level("notice").start()
}

/// The daemon answers operators and clients, and obeys signals.
fn assert_well(daemon: &Daemon) {
    assert_eq!(control(daemon, "GET", "/1", "").status, 200);
    assert_eq!(get(daemon.port(0), "/").text(), "one");
    daemon.reload();
    assert_eq!(control(daemon, "GET", "/1", "").status, 200);
}

#[test]
fn a_thousand_connections_and_half_a_request_on_each() {
    if is_stand_in() {
        return;
    }
    let one = Origin::saying("one");
    let daemon = start(&one);
    let connect = |_| {
        let mut stream = UnixStream::connect(daemon.path("ctl")).expect("room in the queue");
        stream.write_all(b"GET /1 HTTP/1.1\r\nHo").expect("room");
        stream
    };
    let clients: Vec<UnixStream> = (0..1000).map(connect).collect();
    assert_well(&daemon);
    drop(clients);
    assert_well(&daemon);
    daemon.stop(Signal::SIGTERM);
}

#[test]
fn bodies_that_are_too_long_or_too_deep() {
    if is_stand_in() {
        return;
    }
    let one = Origin::saying("one");
    let daemon = start(&one);
    let long = format!(r#"{{"server": "{}"}}"#, "1".repeat(10_000_000));
    assert_eq!(control(&daemon, "POST", SERVERS, &long).status, 413);
    let deep = "[".repeat(500_000);
    assert_eq!(control(&daemon, "POST", SERVERS, &deep).status, 415);
    let deep = format!("{}1{}", r#"{"a":"#.repeat(100_000), "}".repeat(100_000));
    assert_eq!(control(&daemon, "POST", SERVERS, &deep).status, 415);
    assert_well(&daemon);
}

#[test]
fn every_byte_in_a_name() {
    if is_stand_in() {
        return;
    }
    let one = Origin::saying("one");
    let daemon = start(&one);
    for byte in 0..=255u8 {
        let name = format!("127.0.0.1{}:8080", char::from(byte));
        let answer = control(&daemon, "POST", SERVERS, &json!({ "server": name }).to_string());
        let is_digit = byte.is_ascii_digit();
        assert_eq!(answer.status, if is_digit && byte <= b'9' { 201 } else { 400 }, "{name:?} {answer:?}");
        let path = format!("/api/9/http/upstreams/%{byte:02x}/servers/%{byte:02x}");
        assert!((400..500).contains(&control(&daemon, "GET", &path, "").status), "{path}");
    }
    assert_eq!(servers(&daemon, "u").len(), 11);
    assert_well(&daemon);
}

#[test]
fn a_reader_that_does_not_read() {
    if is_stand_in() {
        return;
    }
    let one = Origin::saying("one");
    let daemon = start(&one);
    let ask = |_| {
        let mut stream = UnixStream::connect(daemon.path("ctl")).expect("it listens");
        for _ in 0..200 {
            stream.write_all(b"GET /1/control/config HTTP/1.1\r\nHost: a\r\n\r\n").expect("room");
        }
        stream
    };
    let mut clients: Vec<UnixStream> = (0..20).map(ask).collect();
    assert_well(&daemon);
    let mut byte = [0; 12];
    clients[0].read_exact(&mut byte).expect("the answers are there");
    assert_eq!(&byte, b"HTTP/1.1 200");
}

#[test]
fn two_writers_at_once() {
    if is_stand_in() {
        return;
    }
    let one = Origin::saying("one");
    let daemon = start(&one);
    let path = daemon.path("ctl");
    let writer = |number: u16| {
        let path = path.clone();
        std::thread::spawn(move || {
            for index in 0..40 {
                let body = json!({ "server": format!("127.0.{number}.1:{}", 1000 + index) }).to_string();
                assert_eq!(super::ask(&path, "POST", SERVERS, &body).status, 201);
            }
        })
    };
    let writers: Vec<_> = (1..=2).map(writer).collect();
    writers.into_iter().for_each(|writer| writer.join().expect("every change is made"));
    let mut all = servers(&daemon, "u");
    assert_eq!(all.len(), 81);
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 81);
}

#[test]
fn key_values_with_any_byte_from_two_writers_and_bodies_that_are_no_pairs() {
    if is_stand_in() {
        return;
    }
    const ZONE: &str = "/api/9/http/keyvals/k";
    let one = Origin::saying("one");
    let daemon = start(&one);
    let long = format!(r#"{{"key": "{}"}}"#, "1".repeat(10_000_000));
    assert_eq!(control(&daemon, "POST", ZONE, &long).status, 413);
    let deep = format!("{}1{}", r#"{"a":"#.repeat(100_000), "}".repeat(100_000));
    assert_eq!(control(&daemon, "POST", ZONE, &deep).status, 415);
    assert_eq!(control(&daemon, "POST", ZONE, r#"{"a": {"b": {"c": "d"}}}"#).status, 400);
    assert_eq!(control(&daemon, "POST", ZONE, "{\"\u{fffd}").status, 415);

    let path = daemon.path("ctl");
    let writer = |half: u8| {
        let path = path.clone();
        std::thread::spawn(move || {
            for byte in (0..=127).map(|byte| byte + half * 128) {
                let key = format!("k{}", char::from(byte));
                let body = json!({ key: char::from(byte).to_string() }).to_string();
                assert_eq!(super::ask(&path, "POST", ZONE, &body).status, 201, "{byte}");
            }
        })
    };
    let writers: Vec<_> = (0..2).map(writer).collect();
    writers.into_iter().for_each(|writer| writer.join().expect("every change is made"));
    let all = control(&daemon, "GET", ZONE, "").json();
    assert_eq!(all.as_object().map(|all| all.len()), Some(256));
    for byte in 0..=255u8 {
        let (key, value) = (format!("k{}", char::from(byte)), char::from(byte).to_string());
        let escaped: String = key.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let found = control(&daemon, "GET", &format!("{ZONE}?key={escaped}"), "");
        assert_eq!(found.json(), json!({ key: value }), "{byte}");
    }
    for byte in (1..=255u8).filter(|byte| *byte != b'k') {
        let path = format!("/api/9/http/keyvals/%{byte:02x}");
        assert!((400..500).contains(&control(&daemon, "DELETE", &path, "").status), "{path}");
    }
    assert_well(&daemon);
}
