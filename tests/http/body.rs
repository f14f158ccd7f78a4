//! Request and response bodies: Content-Length, chunked both ways, Expect, HTTP/1.0 clients, HEAD.

use std::time::Duration;

use crate::support::daemon::is_stand_in;
use crate::support::origin::ok;
use crate::support::wire::End;
use crate::support::{Client, Daemon, Origin, Setup};

const CONF: &str = r#"
http {
    client_max_body_size 10m;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { proxy_pass http://%%ORIGIN%%; proxy_http_version 1.1; }
        location /seen { add_header X-Body "[$request_body]"; proxy_pass http://%%ORIGIN%%; }
        location /unread { return 200 "[$request_body]"; }
        location /here { return 200 "here\n"; }
        location /gone { return 404; }
    }
}
"#;

fn start(origin: &Origin) -> Daemon {
    Setup::new(CONF).set("ORIGIN", origin.address()).level("info").start()
}

fn echo() -> Origin {
    Origin::replying(|request| ok(&request.body))
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 31 + index / 251) as u8).collect()
}

#[test]
fn a_body_with_a_length_comes_through() {
    let origin = echo();
    let daemon = start(&origin);
    let mut client = Client::connect(daemon.port(0));
    for length in [0, 1, 100, 9_000, 300_000] {
        let body = pattern(length);
        client.send(format!("POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"));
        client.send(&body);
        let response = client.response();
        assert_eq!(response.status, 200);
        assert!(response.body == body, "{length} bytes came back changed");
        assert!(origin.last().body == body);
    }
}

#[test]
fn a_chunked_request_comes_through() {
    let origin = echo();
    let daemon = start(&origin);
    let mut client = Client::connect(daemon.port(0));
    client.send("POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    let body = pattern(70_000);
    for piece in body.chunks(777) {
        client.send(format!("{:x};name=value\r\n", piece.len()));
        client.send(piece).send("\r\n");
    }
    client.send("0\r\nTrailer-Field: x\r\n\r\n");
    let response = client.response();
    assert_eq!(response.status, 200);
    assert!(response.body == body, "the body came back changed");
    assert_eq!(client.get("/next").status, 200, "the connection goes on behind the trailers");
}

#[test]
fn a_chunked_request_split_at_every_byte_comes_through() {
    let origin = echo();
    let daemon = start(&origin);
    let mut client = Client::connect(daemon.port(0));
    let bytes = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
    for byte in bytes.bytes() {
        client.send([byte]);
    }
    assert_eq!(client.response().text(), "hello world");
}

#[test]
fn a_chunked_response_is_chunked_for_http_1_1() {
    let origin = Origin::replying(|_| {
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n7\r\n, world\r\n0\r\n\r\n"
            .to_vec()
    });
    let daemon = start(&origin);
    let mut client = Client::connect(daemon.port(0));
    for _ in 0..2 {
        let response = client.get("/");
        assert_eq!(response.header("transfer-encoding"), Some("chunked"));
        assert_eq!(response.length(), None);
        assert_eq!(response.text(), "hello, world");
    }
}

#[test]
fn an_http_1_0_client_gets_no_chunks() {
    let origin = Origin::replying(|_| {
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_vec()
    });
    let daemon = start(&origin);
    let mut client = Client::connect(daemon.port(0));
    client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let response = client.response();
    assert_eq!(response.header("transfer-encoding"), None);
    assert!(response.closes(), "only the end tells how long it was");
    assert_eq!(response.text(), "hello");
}

#[test]
fn a_response_until_close_comes_through() {
    let origin = Origin::start(|peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\n\r\nas long as it lasts");
    });
    let daemon = start(&origin);
    let mut client = Client::connect(daemon.port(0));
    let response = client.get("/");
    assert_eq!(response.text(), "as long as it lasts");
    assert_eq!(client.get("/here").text(), "here\n", "the client's connection goes on");
}

#[test]
fn expect_100_continue_is_answered_before_the_body() {
    let origin = echo();
    let daemon = start(&origin);
    let mut client = Client::connect(daemon.port(0));
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.response_head().status, 100);
    client.send("hello");
    let response = client.response();
    assert_eq!((response.status, response.text().as_str()), (200, "hello"));
    // A client may ask even though no body follows.
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nExpect: 100-Continue\r\n\r\n");
    assert_eq!((client.response_head().status, client.response().status), (100, 200));
}

#[test]
fn expect_100_continue_is_answered_before_the_final_response_or_never() {
    let origin = echo();
    let daemon = start(&origin);
    let mut client = Client::connect(daemon.port(0));
    for (path, statuses) in [("/here", &[100, 200][..]), ("/gone", &[404])] {
        client.send(format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        ));
        for (index, &status) in statuses.iter().enumerate() {
            let is_final = index + 1 == statuses.len();
            let got = if is_final { client.response().status } else { client.response_head().status };
            assert_eq!(got, status, "{path}, as nginx answers");
        }
        // Whether it was told to or not, the client goes on with the body that it has announced.
        client.send("helloGET /here HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.response_head().status, 200, "{path}: nothing behind the final response");
        client = Client::connect(daemon.port(0));
    }
}

#[test]
fn an_unread_body_does_not_become_the_next_request() {
    let origin = echo();
    let daemon = start(&origin);
    let mut client = Client::connect(daemon.port(0));
    let inner = "GET /inner HTTP/1.1\r\nHost: a\r\n\r\n";
    client.send(format!("POST /here HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{inner}", inner.len()));
    assert_eq!(client.response().text(), "here\n");
    client.send("GET /after HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().status, 200);
    let seen: Vec<String> = origin.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(seen, ["/after"]);
}

#[test]
fn head_is_answered_without_a_body() {
    let origin = Origin::replying(|request| {
        let body = if request.method == "HEAD" { "" } else { "hello" };
        format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{body}").into_bytes()
    });
    let daemon = start(&origin);
    let mut client = Client::connect(daemon.port(0));
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    let response = client.response_head();
    assert_eq!((response.status, response.length()), (200, Some(5)));
    assert_eq!(client.get("/").text(), "hello");
    assert_eq!(origin.requests()[0].method, "HEAD");
}

#[test]
fn statuses_without_a_body_have_none() {
    let origin = Origin::replying(|request| {
        format!("HTTP/1.1 {} Without\r\nETag: \"x\"\r\n\r\n", &request.target[1..]).into_bytes()
    });
    let daemon = start(&origin);
    let mut client = Client::connect(daemon.port(0));
    for status in [204, 304] {
        let response = client.get(&format!("/{status}"));
        assert_eq!((response.status, response.header("etag")), (status, Some("\"x\"")));
        assert!(client.is_silent(Duration::from_millis(30)));
    }
}

#[test]
fn interim_responses_of_the_origin_are_not_taken_for_the_answer() {
    if is_stand_in() {
        return; // nginx 1.22 mistakes the interim response for the final one
    }
    let origin = Origin::replying(|_| {
        let mut bytes = b"HTTP/1.1 100 Continue\r\n\r\n".to_vec();
        bytes.extend(ok(b"final"));
        bytes
    });
    let daemon = start(&origin);
    let mut client = Client::connect(daemon.port(0));
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut response = client.response();
    if response.status == 100 {
        response = client.response();
    }
    assert_eq!((response.status, response.text().as_str()), (200, "final"));
}

#[test]
fn a_client_that_ends_its_half_still_gets_the_answer() {
    let origin = echo();
    let daemon = start(&origin);
    let mut client = Client::connect(daemon.port(0));
    client.send("GET /here HTTP/1.1\r\nHost: a\r\n\r\n");
    client.half_close();
    assert_eq!(client.response().text(), "here\n");
    assert_eq!(client.expect_end(), End::Closed);
}

#[test]
fn the_body_that_was_read_is_a_variable() {
    let origin = Origin::saying("x");
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).start();
    let mut client = Client::connect(daemon.port(0));
    client.send("POST /seen HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(client.response().header("x-body"), Some("[hello]"));
    client.send("POST /seen HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n");
    assert_eq!(client.response().header("x-body"), Some("[hello]"));
    client.send("GET /seen HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().header("x-body"), Some("[]"));
    client.send("POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(client.response().text(), "[]");
    assert_eq!(origin.requests().iter().filter(|request| request.body == b"hello").count(), 2);
}

#[test]
fn a_broken_body_is_refused_also_where_nobody_wants_it() {
    let origin = Origin::saying("x");
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).start();
    for path in ["/unread", "/"] {
        let mut client = Client::connect(daemon.port(0));
        client.send(format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nSEE-THIS\r\n0\r\n\r\n"
        ));
        let response = client.response();
        assert_eq!((response.status, response.closes()), (400, true), "{path}");
    }
    // A complete body is skipped, and the next request is found after it.
    let mut client = Client::connect(daemon.port(0));
    client
        .send("POST /unread HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n");
    client.send("GET /here HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((client.response().text().as_str(), client.response().text().as_str()), ("[]", "here\n"));
}
