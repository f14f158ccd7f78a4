//! Requests that two readers could split differently, or that are not HTTP at all: they are refused, and no
//! part of them reaches the origin (RFC 9112 §2.2, §3, §5, §6; RFC 9110 §7.2).
//!
//! Each case is sent to a proxied location with a second request behind it. It must be answered with the
//! given status, the connection must close, and the origin must not have received anything.

use crate::support::{Client, Daemon, Origin, Setup, daemon::is_stand_in, fetch};

const CONF: &str = r#"
http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { proxy_pass http://%%ORIGIN%%; }
    }
}
"#;

fn start() -> (Origin, Daemon) {
    let origin = Origin::saying("reached\n");
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).level("info").start();
    (origin, daemon)
}

/// Sends each request with another one behind it, and checks the status, the end, and that the origin
/// received nothing.
fn refuses(cases: &[(&str, u16)]) {
    let (origin, daemon) = start();
    for (bytes, status) in cases {
        let mut client = Client::connect(daemon.port(0));
        client.send(bytes);
        let _ = client.try_send(b"GET /behind HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let response = client.response();
        assert_eq!(response.status, *status, "{bytes:?}");
        client.expect_end();
        let seen: Vec<String> = origin.requests().into_iter().map(|request| request.target).collect();
        assert!(seen.is_empty(), "{bytes:?} let the origin see {seen:?}");
    }
    // The check itself would notice a request that does get through.
    fetch(daemon.port(0), "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn ambiguous_lengths_are_refused() {
    refuses(&[
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
            400,
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 6\r\n\r\nhello", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\nhello", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5x\r\n\r\nhello", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\nhello", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\nhello", 400),
        ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
    ]);
}

#[test]
fn several_transfer_encodings_are_refused() {
    if is_stand_in() {
        return; // nginx 1.22 takes the last one
    }
    let (origin, daemon) = start();
    for field in ["chunked\r\nTransfer-Encoding: identity", "identity\r\nTransfer-Encoding: chunked"] {
        let mut client = Client::connect(daemon.port(0));
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {field}\r\n\r\n0\r\n\r\n"));
        let status = client.response().status;
        assert!(matches!(status, 400 | 501), "{field:?} got {status}");
        client.expect_end();
    }
    assert_eq!(origin.accepted(), 0);
}

#[test]
fn a_second_field_where_one_decides_is_refused() {
    let names = ["If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range"];
    let others = ["Expect", "Authorization", "Content-Range"];
    let requests: Vec<String> = names
        .iter()
        .chain(&others[..if is_stand_in() { 2 } else { 3 }]) // nginx 1.22 does not check the last one
        .map(|name| format!("GET / HTTP/1.1\r\nHost: a\r\n{name}: a\r\nX: y\r\n{name}: b\r\n\r\n"))
        .collect();
    let cases: Vec<(&str, u16)> = requests.iter().map(|request| (request.as_str(), 400)).collect();
    refuses(&cases);
}

#[test]
fn malformed_heads_are_refused() {
    refuses(&[
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\n folded: x\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\rb: c\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX y: z\r\n\r\n", 400),
        ("GET / HTTP/1.1x\r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        ("GET / HTTX/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /../.. HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n", 400),
    ]);
}

#[test]
fn what_nginx_lets_pass_is_refused_too() {
    if is_stand_in() {
        return;
    }
    refuses(&[
        ("GET /\r\n\r\n", 400),                                      // HTTP/0.9
        ("GET / HTTP/1.1\r\nHost: a\r\n: empty\r\n\r\n", 400),       // no name
        ("GET / HTTP/1.1\r\nHost: a\r\nno colon here\r\n\r\n", 400), // no colon
    ]);
    // Names that are not tokens: one reader may take them for Transfer-Encoding and another not.
    let names = "() <> @ , ; \\ \" / [ ] ? = { } Transfer\u{ad}Encoding \u{e4}";
    let requests: Vec<String> = names
        .split(' ')
        .map(|name| format!("GET / HTTP/1.1\r\nHost: a\r\nx{name}: chunked\r\n\r\n"))
        .collect();
    let cases: Vec<(&str, u16)> = requests.iter().map(|request| (request.as_str(), 400)).collect();
    refuses(&cases);
}

#[test]
fn a_line_feed_hides_no_request_in_a_value() {
    if is_stand_in() {
        return;
    }
    refuses(&[
        ("GET /a HTTP/1.1\r\nHost: a\r\nA: b\n\nGET /hidden HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /a HTTP/1.1\r\nHost: a\r\nA: b\nC: d\r\n\r\n", 400),
        ("GET /a HTTP/1.1\r\nHost: a\r\n\n", 400),
        ("GET /a HTTP/1.1\rHost: a\r\r", 400),
    ]);
}

#[test]
fn a_head_of_line_feeds_alone_is_taken_and_rewritten() {
    let (origin, daemon) = start();
    assert_eq!(fetch(daemon.port(0), "GET /a HTTP/1.1\nHost: a\nA: b\nConnection: close\n\n").status, 200);
    assert_eq!(origin.last().header("A"), Some("b"));
}

#[test]
fn a_quoted_chunk_extension_ends_on_its_line() {
    if is_stand_in() {
        return;
    }
    let (origin, daemon) = start();
    for (line, status) in [("5;a=\"", 400), ("5;a=\"b\\\"", 400), ("5;a=\"b\\\" c\";d", 200)] {
        let request = format!(
            "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n{line}\r\nhello\r\n0\r\n\r\n"
        );
        assert_eq!(fetch(daemon.port(0), &request).status, status, "{line:?}");
    }
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn an_offer_of_http_2_is_not_passed_on() {
    let origin = Origin::saying("reached\n");
    let conf = CONF.replace(
        "location / {",
        "location / { proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection Upgrade;",
    );
    let daemon = Setup::new(&conf).set("ORIGIN", origin.address()).start();
    if is_stand_in() {
        return;
    }
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\n\
                   HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n";
    assert_eq!(fetch(daemon.port(0), request).status, 200);
    let seen = origin.last();
    assert_eq!((seen.header("Upgrade"), seen.header("HTTP2-Settings")), (None, None));
}

#[test]
fn malformed_chunks_are_refused() {
    let (origin, daemon) = start();
    let chunks = [
        "xyz\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5 5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    ];
    for body in chunks {
        if body.starts_with("5 5") && is_stand_in() {
            continue; // nginx skips anything after the size
        }
        let mut client = Client::connect(daemon.port(0));
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}"));
        assert_eq!(client.response().status, 400, "{body:?}");
        client.expect_end();
    }
    assert!(origin.requests().is_empty(), "no complete request reached the origin");
}

#[test]
fn connect_and_trace_are_not_for_a_reverse_proxy() {
    let (origin, daemon) = start();
    for request in [
        "CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n",
        "TRACE / HTTP/1.1\r\nHost: example.org\r\n\r\n",
    ] {
        let status = fetch(daemon.port(0), request).status;
        assert!(matches!(status, 400 | 405), "{request:?} got {status}");
    }
    assert_eq!(origin.accepted(), 0);
}

#[test]
fn the_absolute_form_names_the_host() {
    let (origin, daemon) = start();
    let request = "GET http://named.example/path?x=1 HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n";
    assert_eq!(fetch(daemon.port(0), request).status, 200);
    assert_eq!(origin.last().target, "/path?x=1");
    for (target, sent) in [("http://named.example?q", "/?q"), ("http://named.example", "/")] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n");
        assert_eq!(fetch(daemon.port(0), &request).status, 200);
        assert_eq!(origin.last().target, sent);
    }
}
