//! Kept-alive connections: when they stay open, when they end, and pipelined requests.

use std::time::Duration;

use crate::support::wire::End;
use crate::support::{Client, Daemon};

const CONF: &str = r#"
http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { return 200 "$uri\n"; }
        location /empty { return 204; }
        location /few { keepalive_requests 2; return 200 "few\n"; }
        location /never { keepalive_timeout 0; return 200 "never\n"; }
    }
    server {
        listen 127.0.0.1:%%PORT_1%%;
        keepalive_timeout 1s;
        location / { return 200 "short\n"; }
    }
}
"#;

#[test]
fn a_connection_answers_many_requests() {
    let daemon = Daemon::start(CONF);
    let mut client = Client::connect(daemon.port(0));
    for path in ["/a", "/b", "/c"] {
        let response = client.get(path);
        assert_eq!((response.status, response.text()), (200, format!("{path}\n")));
        assert_eq!(response.header("connection"), Some("keep-alive"));
    }
    assert!(client.is_silent(Duration::from_millis(50)), "the connection stays open");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let daemon = Daemon::start(CONF);
    let mut client = Client::connect(daemon.port(0));
    let mut bytes = String::new();
    for number in 0..20 {
        bytes.push_str(&format!("GET /{number} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    }
    client.send(&bytes);
    for number in 0..20 {
        assert_eq!(client.response().text(), format!("/{number}\n"));
    }
}

#[test]
fn requests_split_at_every_byte_are_answered() {
    let daemon = Daemon::start(CONF);
    let mut client = Client::connect(daemon.port(0));
    for byte in b"GET /split HTTP/1.1\r\nHost: localhost\r\n\r\n" {
        client.send([*byte]);
    }
    assert_eq!(client.response().text(), "/split\n");
}

#[test]
fn connection_close_ends_it() {
    let daemon = Daemon::start(CONF);
    let mut client = Client::connect(daemon.port(0));
    client.send("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let response = client.response();
    assert!(response.closes());
    assert_eq!(client.expect_end(), End::Closed);
}

#[test]
fn http_1_0_ends_unless_it_asks_to_stay() {
    let daemon = Daemon::start(CONF);
    let mut client = Client::connect(daemon.port(0));
    client.send("GET /old HTTP/1.0\r\n\r\n");
    let response = client.response();
    assert_eq!((response.text().as_str(), response.closes()), ("/old\n", true));
    assert_eq!(client.expect_end(), End::Closed);

    let mut client = Client::connect(daemon.port(0));
    for _ in 0..2 {
        client.send("GET /old HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        let response = client.response();
        assert_eq!(response.text(), "/old\n");
        assert_eq!(response.header("connection"), Some("keep-alive"));
    }
}

#[test]
fn keepalive_requests_bounds_a_connection() {
    let daemon = Daemon::start(CONF);
    let mut client = Client::connect(daemon.port(0));
    assert!(!client.get("/few").closes());
    assert!(client.get("/few").closes(), "the second is the last");
    assert_eq!(client.expect_end(), End::Closed);
}

#[test]
fn keepalive_timeout_zero_closes_after_the_answer() {
    let daemon = Daemon::start(CONF);
    let mut client = Client::connect(daemon.port(0));
    assert!(client.get("/never").closes());
    assert_eq!(client.expect_end(), End::Closed);
}

#[test]
fn an_idle_connection_is_closed_after_keepalive_timeout() {
    let daemon = Daemon::start(CONF);
    let mut client = Client::connect(daemon.port(1));
    client.get("/");
    let began = std::time::Instant::now();
    assert_eq!(client.expect_end(), End::Closed);
    let waited = began.elapsed();
    assert!(waited >= Duration::from_millis(900), "too early: {waited:?}");
}

#[test]
fn a_204_has_no_body_and_the_connection_goes_on() {
    let daemon = Daemon::start(CONF);
    let mut client = Client::connect(daemon.port(0));
    let response = client.get("/empty");
    assert_eq!((response.status, response.length()), (204, None));
    assert_eq!(client.get("/next").text(), "/next\n");
}

#[test]
fn head_gets_the_length_without_the_body() {
    let daemon = Daemon::start(CONF);
    let mut client = Client::connect(daemon.port(0));
    client.send("HEAD /1234 HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let response = client.response_head();
    assert_eq!((response.status, response.length()), (200, Some(6)));
    assert_eq!(client.get("/next").text(), "/next\n");
}

#[test]
fn an_empty_line_before_a_request_is_ignored() {
    let daemon = Daemon::start(CONF);
    let mut client = Client::connect(daemon.port(0));
    client.send("\r\nGET /a HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(client.response().text(), "/a\n");
}
