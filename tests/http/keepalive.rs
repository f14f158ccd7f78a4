//! Kept-alive connections: when they stay open, when they end, and pipelined requests.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::daemon::is_stand_in;
use crate::support::wire::End;
use crate::support::{Client, Daemon, Setup};

const CONF: &str = r#"
http {
    log_format header '$sent_http_connection $sent_http_keep_alive';
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { return 200 "$uri\n"; }
        location /empty { return 204; }
        location /few { keepalive_requests 2; return 200 "few\n"; }
        location /safari { keepalive_disable safari; return 200 "safari\n"; }
        location /none { keepalive_disable none; return 200 "none\n"; }
        location /header { keepalive_timeout 10s 9s; access_log %%DIR%%/logs/header.log header; return 200 "$uri\n"; }
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

#[test]
fn keepalive_disable_closes_the_connections_of_old_browsers() {
    let daemon = Daemon::start(CONF);
    let (old, mac) = ("Mozilla/4.0 (compatible; MSIE 6.0; Windows NT 5.1)", "Mac OS X Safari/7534.48.3");
    for (method, path, browser, closes) in [
        ("POST", "/", old, true),
        ("GET", "/", old, false),
        ("POST", "/none", old, false),
        ("GET", "/", mac, false),
        ("GET", "/safari", mac, true),
        ("POST", "/safari", old, false),
    ] {
        let mut client = Client::connect(daemon.port(0));
        client.send(format!(
            "{method} {path} HTTP/1.1\r\nHost: a\r\nUser-Agent: {browser}\r\nContent-Length: 0\r\n\r\n"
        ));
        assert_eq!(client.response().closes(), closes, "{method} {path} {browser}");
    }
}

#[test]
fn the_log_tells_what_was_said_of_the_connection() {
    if crate::support::daemon::is_stand_in() {
        return; // nginx no longer has it when it logs
    }
    let daemon = Daemon::start(CONF);
    let mut client = Client::connect(daemon.port(0));
    assert_eq!(client.get("/header").header("keep-alive"), Some("timeout=9"));
    assert_eq!(daemon.wait_line("logs/header.log", "keep-alive"), "keep-alive timeout=9");
    client.send("GET /header HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(client.response().header("keep-alive"), None);
    assert_eq!(daemon.wait_line("logs/header.log", "close"), "close -");
}

#[test]
fn keepalive_min_timeout_lets_a_request_on_its_way_be_answered() {
    if is_stand_in() {
        return; // nginx has it since 1.27.4
    }
    const CONF: &str = r#"
http {
    server { listen 127.0.0.1:%%PORT_0%%; location / { return 200 "x"; } location /min { keepalive_min_timeout 20s; return 200 "x"; } }
}
"#;
    let daemon = Setup::new(CONF).start();
    let (mut plain, mut patient) = (Client::connect(daemon.port(0)), Client::connect(daemon.port(0)));
    assert_eq!(plain.get("/").status, 200);
    assert_eq!(patient.get("/min").status, 200);
    daemon.signal(Signal::SIGQUIT);
    plain.expect_end();
    let last = patient.get("/min");
    assert_eq!((last.status, last.closes()), (200, true));
    patient.expect_end();
    daemon.wait_end();
}

#[test]
fn lingering_close_always_waits_for_what_the_client_still_sends() {
    const CONF: &str = r#"
http {
    lingering_timeout 20s;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { lingering_close always; return 200 "x"; }
        location /on { return 200 "x"; }
    }
}
"#;
    let daemon = Setup::new(CONF).start();
    let ask = |target: &str| {
        let mut client = Client::connect(daemon.port(0));
        client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
        assert_eq!(client.response().status, 200);
        client
    };
    let mut on = ask("/on");
    on.expect_end();
    // The server has closed its direction but still reads, so that our bytes cause no reset.
    let mut always = ask("/");
    assert_eq!(always.expect_end(), End::Closed);
    for _ in 0..20 {
        always.send("more");
    }
    assert_eq!(always.rest().1, End::Closed);
}
