//! `proxy_pass_trailers`: fields after a chunked response.

use crate::support::daemon::is_stand_in;
use crate::support::{Client, Daemon, Origin, Setup};

const CONF: &str = r#"
http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { proxy_pass http://%%ORIGIN%%; proxy_pass_trailers on; proxy_hide_header X-Hidden; }
        location /off { proxy_pass http://%%ORIGIN%%; }
    }
}
"#;

const HEAD: &str =
    "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n";

fn start() -> (Origin, Daemon) {
    let origin = Origin::replying(|request| {
        let trailers = match request.target.as_str() {
            "/none" => "\r\n",
            "/bad" => "X-Sum 7\r\n\r\n",
            _ => {
                "X-Sum: 7\r\nContent-Length: 3\r\nX-Hidden: h\r\nTransfer-Encoding: chunked\r\nHost: x\r\nX-More: 8\r\n\r\n"
            }
        };
        format!("{HEAD}{trailers}").into_bytes()
    });
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).level("info").start();
    (origin, daemon)
}

/// The lines after the last chunk.
fn trailers(client: &mut Client, path: &str, version: &str) -> Vec<String> {
    client.send(format!("GET {path} HTTP/{version}\r\nHost: a\r\nConnection: keep-alive\r\n\r\n"));
    let response = client.response_head();
    assert_eq!(response.status, 200);
    for line in ["4", "body", "0"] {
        assert_eq!(client.line(), line.as_bytes());
    }
    let mut lines = Vec::new();
    loop {
        match String::from_utf8(client.line()).expect("text") {
            line if line.is_empty() => return lines,
            line => lines.push(line),
        }
    }
}

#[test]
fn trailers_pass_where_they_may() {
    if is_stand_in() {
        return; // newer than the stand-in
    }
    let (_origin, daemon) = start();
    let mut client = Client::connect(daemon.port(0));
    for _ in 0..2 {
        assert_eq!(trailers(&mut client, "/", "1.1"), ["X-Sum: 7", "X-More: 8"]);
        assert!(trailers(&mut client, "/off", "1.1").is_empty());
        assert!(trailers(&mut client, "/none", "1.1").is_empty());
    }
}

#[test]
fn a_client_of_http10_gets_the_body_alone() {
    let (_origin, daemon) = start();
    let mut client = Client::connect(daemon.port(0));
    client.send("GET /off HTTP/1.0\r\nHost: a\r\n\r\n");
    client.response_head();
    assert_eq!(client.rest().0, b"body");
    if !is_stand_in() {
        let mut client = Client::connect(daemon.port(0));
        client.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
        client.response_head();
        assert_eq!(client.rest().0, b"body");
    }
}

#[test]
fn broken_trailers_cut_the_answer() {
    if is_stand_in() {
        return;
    }
    let (_origin, daemon) = start();
    let mut client = Client::connect(daemon.port(0));
    client.send("GET /bad HTTP/1.1\r\nHost: a\r\n\r\n");
    let (bytes, _) = client.rest();
    let text = String::from_utf8_lossy(&bytes);
    assert!(!text.contains("0\r\n\r\n") && !text.contains("X-Sum 7"), "{text}");
}
