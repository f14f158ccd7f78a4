//! Responses of the origin that are not HTTP, or that two readers could split differently: 502, never
//! forwarded. Responses that end too early never look complete.

use crate::support::daemon::is_stand_in;
use crate::support::wire::End;
use crate::support::{Client, Daemon, Origin, Setup, get};

const CONF: &str = r#"
http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { proxy_pass http://%%ORIGIN%%; proxy_http_version 1.1; }
        location /plain { return 200 "plain"; }
    }
}
"#;

fn start(answer: &'static str) -> (Origin, Daemon) {
    let origin = Origin::start(move |peer| {
        if peer.request().is_some() {
            let _ = peer.try_send(answer.as_bytes());
        }
    });
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).level("info").start();
    (origin, daemon)
}

#[test]
fn what_cannot_be_cut_surely_is_a_502() {
    if is_stand_in() {
        return; // nginx 1.22 takes the last field, or HTTP/0.9
    }
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nX : a\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 20 OK\r\nContent-Length: 5\r\n\r\nhello",
        "no http at all",
        "",
    ] {
        let (_origin, daemon) = start(answer);
        let response = get(daemon.port(0), "/");
        assert_eq!(response.status, 502, "{answer:?} came through as {:?}", response.text());
    }
}

#[test]
fn an_answer_that_ends_inside_its_head_is_a_502() {
    let (_origin, daemon) = start("HTTP/1.1 200 OK\r\nContent-Len");
    assert_eq!(get(daemon.port(0), "/").status, 502);
    daemon.wait_log("upstream prematurely closed connection while reading response header from upstream");
}

#[test]
fn a_head_too_large_for_its_buffer_is_a_502() {
    let origin = Origin::replying(|_| {
        format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 0\r\n\r\n", "a".repeat(100_000)).into_bytes()
    });
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).level("info").start();
    assert_eq!(get(daemon.port(0), "/").status, 502);
    daemon.wait_log("upstream sent too big header.* while reading response header from upstream");
}

#[test]
fn a_body_that_ends_early_does_not_look_complete() {
    let (_origin, daemon) = start("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this");
    let mut client = Client::connect(daemon.port(0));
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response_head().length(), Some(100));
    let (bytes, end) = client.rest();
    assert!(b"only this".starts_with(&bytes), "{:?}", String::from_utf8_lossy(&bytes));
    assert!(matches!(end, End::Closed | End::Reset));
    daemon.wait_log("upstream prematurely closed connection while (reading upstream|sending to client)");
}

#[test]
fn chunks_that_end_early_do_not_look_complete() {
    let (_origin, daemon) =
        start("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n5\r\nwo");
    let mut client = Client::connect(daemon.port(0));
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response_head().status, 200);
    let (bytes, _) = client.rest();
    let text = String::from_utf8_lossy(&bytes);
    assert!(!text.contains("\r\n0\r\n") && !text.starts_with("0\r\n"), "{text:?} has a last chunk");
}

#[test]
fn invalid_chunks_of_the_origin_do_not_look_complete() {
    for line in ["xyz", "0x5", "5;a=\"", "5;a=\"b\\\"", "5 5", "ffffffffffffffff"] {
        if is_stand_in() && line.starts_with('5') {
            continue; // nginx 1.22 skips anything after the size
        }
        let origin = Origin::start(move |peer| {
            if peer.request().is_some() {
                let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                let _ = peer.try_send(format!("{head}5\r\nhello\r\n{line}\r\nhello\r\n0\r\n\r\n").as_bytes());
            }
        });
        let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).start();
        let mut client = Client::connect(daemon.port(0));
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let head =
            client.head_or_end().map(|head| String::from_utf8_lossy(&head).into_owned()).unwrap_or_default();
        if head.starts_with("HTTP/1.1 502") {
            continue;
        }
        let (bytes, _) = client.rest();
        let text = String::from_utf8_lossy(&bytes);
        assert!(
            !text.contains("\r\n0\r\n") && !text.starts_with("0\r\n"),
            "{line:?}: {text:?} has a last chunk"
        );
    }
}

#[test]
fn bytes_behind_an_answer_do_not_become_the_next_one() {
    let origin = Origin::start(|peer| {
        while peer.request().is_some() {
            let smuggled = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled";
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nright{smuggled}"));
        }
    });
    let conf = CONF.replace("http {", "http { upstream u { server %%ORIGIN%%; keepalive 4; }");
    let conf = conf.replace("http://%%ORIGIN%%;", "http://u; proxy_set_header Connection '';");
    let daemon = Setup::new(&conf).set("ORIGIN", origin.address()).start();
    for _ in 0..5 {
        assert_eq!(get(daemon.port(0), "/").text(), "right");
    }
}
