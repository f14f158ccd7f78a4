//! Hop-by-hop fields (RFC 9110 §7.6.1): those that `Connection` names end here, in requests, interim
//! responses, responses and trailers; end-to-end fields do not, even if they are named. Scripted origins;
//! heads are read as text.

use crate::support::{Origin, Setup, fetch};

const CONF: &str = r#"
http {
    underscores_in_headers on;
    ignore_invalid_headers off;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { proxy_pass http://%%ORIGIN%%; }
        location /hints { early_hints 1; proxy_pass http://%%ORIGIN%%; }
        location /trailers { proxy_pass_trailers on; proxy_pass http://%%ORIGIN%%; }
        location /proxied {
            set_real_ip_from 127.0.0.1; real_ip_header My-Client; proxy_pass http://%%ORIGIN%%;
        }
    }
}
"#;

/// Sends a request with these lines through `path`, and returns the names of the fields that the origin
/// received.
fn forwarded(path: &str, lines: &str) -> Vec<String> {
    let origin = Origin::saying("ok");
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).start();
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
    assert_eq!(fetch(daemon.port(0), &request).status, 200);
    origin.requests()[0].names()
}

#[test]
fn every_connection_line_of_a_request_counts() {
    let lines = "Connection: close\r\nX-Secret: 1\r\nconnection: foo , X-Secret\r\nX-Kept: 2\r\nFoo: 3\r\nTE: trailers\r\n";
    assert_eq!(forwarded("/", lines), ["host", "x-kept"]);
}

#[test]
fn a_client_cannot_take_away_what_a_proxy_has_set() {
    let lines = "X-Forwarded-For: 192.0.2.1\r\nX-Client-Cert: none\r\nX-Real-IP: 192.0.2.1\r\nForwarded: for=a\r\n\
                 Authorization: Basic x\r\nCookie: a=b\r\nCache-Control: no-cache\r\nRange: bytes=0-1\r\nMy-Client: 192.0.2.1\r\n\
                 X-Secret: 1\r\nConnection: close, X-Forwarded-For, X-Client-Cert, X-Real-IP, Forwarded, Authorization, Cookie, \
                 Cache-Control, Range, Host, X-Secret, My-Client\r\n";
    let kept = [
        "host",
        "x-forwarded-for",
        "x-client-cert",
        "x-real-ip",
        "forwarded",
        "authorization",
        "cookie",
        "cache-control",
        "range",
    ];
    assert_eq!(forwarded("/", lines), kept);
    assert_eq!(forwarded("/proxied", lines)[9..], ["my-client"], "the field of real_ip_header");
}

#[test]
fn spellings_that_a_backend_takes_for_framing_never_pass() {
    let lines = "Transfer_Encoding: chunked\r\nContent_Length: 5\r\nKeep.Alive: 1\r\nX_Own: 1\r\nConnection: close\r\n";
    assert_eq!(forwarded("/", lines), ["host", "x_own"]);
}

#[test]
fn more_options_than_anybody_has_are_refused() {
    let origin = Origin::saying("ok");
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).level("info").start();
    let with = |count| {
        let options = vec!["x"; count].join(",");
        fetch(daemon.port(0), &format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close,{options}\r\n\r\n"))
            .status
    };
    assert_eq!((with(63), with(64)), (200, 400));
    daemon.wait_log(r#"client sent more than 64 options in "Connection""#);
}

/// An origin that writes these bytes before each response `tail`.
fn answering(head: &'static str) -> Origin {
    Origin::replying(move |_| head.as_bytes().to_vec())
}

#[test]
fn every_connection_line_of_an_answer_counts() {
    let origin = answering(
        "HTTP/1.1 200 OK\r\nConnection: X-A\r\nConnection: X-B, Content-Type\r\nX-A: 1\r\nX-B: 2\r\nX-C: 3\r\nTE: x\r\n\
         Content-Type: a/b\r\nContent-Length: 2\r\n\r\nok",
    );
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).start();
    let response = fetch(daemon.port(0), "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    for (name, value) in
        [("x-a", None), ("x-b", None), ("te", None), ("x-c", Some("3")), ("content-type", Some("a/b"))]
    {
        assert_eq!(response.header(name), value, "{name}");
    }
    let options = vec!["x"; 65].join(",");
    let origin = Origin::replying(move |_| {
        format!("HTTP/1.1 200 OK\r\nConnection: {options}\r\nContent-Length: 2\r\n\r\nok").into_bytes()
    });
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).start();
    assert_eq!(fetch(daemon.port(0), "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").status, 502);
}

#[test]
fn interim_answers_and_trailers_obey_too() {
    let origin = Origin::replying(|request| {
        match &*request.target {
        "/hints" => b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\nConnection: close, X-Foo\r\nX-Foo: 1\r\nTE: x\r\n\r\n\
                      HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
            .to_vec(),
        _ => b"HTTP/1.1 200 OK\r\nConnection: X-Foo\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Foo: 1\r\n\
               TE: x\r\nContent_Length: 7\r\nX-Sum: 2\r\n\r\n"
            .to_vec(),
    }
    });
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).start();
    let mut client = crate::support::Client::connect(daemon.port(0));
    client.send("GET /hints HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let (all, _) = client.rest();
    assert!(
        all.starts_with(b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\nHTTP/1.1 200 OK\r\n"),
        "{}",
        all.escape_ascii()
    );
    let response = fetch(daemon.port(0), "GET /trailers HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(response.trailers, [("X-Sum".to_owned(), "2".to_owned())]);
}
