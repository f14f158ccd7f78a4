//! Kept-alive connections to origins: reused and bounded; a stale one costs no request.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use crate::support::daemon::is_stand_in;
use crate::support::deadline::deadline;
use crate::support::origin::ok;
use crate::support::wire::End;
use crate::support::{Client, Origin, Setup, get, wait_for};

const CONF: &str = r#"
http {
    upstream u { server %%ORIGIN%%; keepalive 4; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection ""; }
    }
}
"#;

#[test]
fn one_connection_serves_many_requests() {
    let origin = Origin::saying("x");
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).start();
    for _ in 0..20 {
        assert_eq!(get(daemon.port(0), "/").status, 200, "each from a new client");
    }
    assert_eq!((origin.accepted(), origin.requests().len()), (1, 20));
    assert_eq!(origin.last().version, "HTTP/1.1");
}

#[test]
fn an_origin_that_says_close_is_not_asked_on_it_again() {
    let origin = Origin::start(|peer| {
        if peer.request().is_some() {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx");
        }
    });
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).start();
    let mut client = Client::connect(daemon.port(0));
    for _ in 0..5 {
        assert_eq!(client.get("/").text(), "x");
    }
    assert_eq!(origin.accepted(), 5);
}

#[test]
fn a_connection_that_the_origin_closed_while_idle_costs_no_request() {
    let origin = Origin::start(|peer| {
        if peer.request().is_some() {
            peer.send(ok(b"x"));
        }
    });
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).start();
    let mut client = Client::connect(daemon.port(0));
    for number in 1..=30 {
        assert_eq!(client.get("/").status, 200, "request {number}");
    }
    assert_eq!(origin.requests().len(), 30);
}

#[test]
fn a_connection_that_dies_under_the_request_is_retried() {
    // The second request on a connection is read and answered with an RST: the race of a stale connection.
    let died = Arc::new(AtomicUsize::new(0));
    let counter = died.clone();
    let origin = Origin::start(move |peer| {
        if peer.request().is_none() {
            return;
        }
        peer.send(ok(b"x"));
        if peer.head_or_end().is_some() {
            counter.fetch_add(1, Ordering::SeqCst);
            peer.reset_on_close();
        }
    });
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).start();
    let mut client = Client::connect(daemon.port(0));
    for number in 1..=10 {
        let response = client.get("/");
        assert_eq!((response.status, response.text().as_str()), (200, "x"), "request {number}");
    }
    assert!(died.load(Ordering::SeqCst) >= 5, "connections did die: {died:?}");
}

#[test]
fn a_post_is_not_sent_twice() {
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = taken.clone();
    let origin = Origin::start(move |peer| {
        while let Some(request) = peer.request() {
            if request.method == "POST" {
                counter.fetch_add(1, Ordering::SeqCst);
                peer.reset_on_close();
                return;
            }
            peer.send(ok(b"x"));
        }
    });
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).start();
    let mut client = Client::connect(daemon.port(0));
    assert_eq!(client.get("/").status, 200);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
    assert_eq!(client.response().status, 502);
    assert_eq!(taken.load(Ordering::SeqCst), 1);
}

#[test]
fn no_more_idle_connections_are_kept_than_told() {
    let origin = Origin::start(|peer| {
        while peer.head().is_some() {
            peer.send(ok(b"x"));
        }
    });
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).start();
    // Twelve at once: the origin responds to all after the twelfth head has arrived.
    let mut clients: Vec<Client> = (0..12).map(|_| Client::connect(daemon.port(0))).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
    let most = 4;
    wait_for("the surplus to be closed", || (origin.accepted() - origin.ended() <= most).then_some(()));
}

#[test]
fn without_the_connection_field_the_origin_keeps_it_too_by_default() {
    // nginx sends `Connection: close` by default; keeping the connection is pronghorn's default.
    let origin = Origin::saying("x");
    let conf = r#"
http { server { listen 127.0.0.1:%%PORT_0%%; location / { proxy_pass http://%%ORIGIN%%; } } }
"#;
    let daemon = Setup::new(conf).set("ORIGIN", origin.address()).start();
    for _ in 0..3 {
        assert_eq!(get(daemon.port(0), "/").status, 200);
    }
    if !crate::support::daemon::is_stand_in() {
        assert_eq!(origin.accepted(), 1, "one connection for all");
    }
}

/// How a connection that is not kept ends: the server's answer comes in one packet with its end, if it closes its side.
fn end_of(request: &str, answer: &'static str, closes: bool) -> End {
    let (ends, ended) = mpsc::channel();
    let origin = Origin::start(move |peer| {
        if peer.request().is_none() {
            return;
        }
        if closes {
            peer.send_with_end();
        }
        peer.send(answer);
        if closes {
            peer.half_close();
        }
        ends.send(peer.expect_end()).expect("the test waits");
    });
    let conf =
        r#"http { server { listen 127.0.0.1:%%PORT_0%%; location / { proxy_pass http://%%ORIGIN%%; } } }"#;
    let daemon = Setup::new(conf).set("ORIGIN", origin.address()).start();
    let mut client = Client::connect(daemon.port(0));
    client.send(request);
    assert_eq!(client.response().text(), "text");
    ended.recv_timeout(deadline()).expect("the connection ends")
}

#[test]
fn a_connection_that_its_server_has_closed_is_reset_unless_the_server_may_still_read() {
    if is_stand_in() {
        return; // nginx ends it
    }
    const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
    const LAST: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\ntext";
    for (request, answer, closes, end) in [
        (GET, LAST, true, End::Reset),
        (GET, "HTTP/1.0 200 OK\r\n\r\ntext", true, End::Reset),
        (POST, LAST, true, End::Closed),
        (GET, LAST, false, End::Closed),
    ] {
        assert_eq!(end_of(request, answer, closes), end, "{request:?} {answer:?} {closes}");
    }
}
