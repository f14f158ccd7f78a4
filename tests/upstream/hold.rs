//! Short responses that a server breaks off: another server is asked, and the client does not notice.

use std::time::Duration;

use crate::support::{Client, Daemon, Origin, Setup, get};

const CONF: &str = r#"
http {
    upstream pair { server %%BAD%% max_fails=0; server %%GOOD%% backup; }
    upstream alone { server %%BAD%% max_fails=0; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        proxy_read_timeout 300ms;
        location /pair { proxy_pass http://pair/; }
        location /alone { proxy_pass http://alone/; }
        location /streamed { proxy_buffering off; proxy_pass http://pair/; }
        location /off { proxy_next_upstream off; proxy_pass http://pair/; }
    }
}
"#;

/// A daemon with a server whose every response is `bad`, and a good one behind it.
fn start(bad: &'static [&'static str]) -> (Daemon, Origin, Origin) {
    let bad = Origin::start(move |peer| {
        if peer.request().is_some() {
            for (index, part) in bad.iter().enumerate() {
                if index > 0 {
                    std::thread::sleep(Duration::from_millis(20));
                }
                if peer.try_send(part.as_bytes()).is_err() {
                    return;
                }
            }
        }
    });
    let good = Origin::saying("good");
    let daemon = Setup::new(CONF).set("BAD", bad.address()).set("GOOD", good.address()).start();
    (daemon, bad, good)
}

/// What a client gets before its connection is closed.
fn all(daemon: &Daemon, method: &str, path: &str) -> String {
    let mut client = Client::connect(daemon.port(0));
    client.send(format!(
        "{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    ));
    String::from_utf8(client.rest().0).expect("text")
}

const CUT: &[&[&str]] = &[
    &["HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"],
    &["HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"],
    &["HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", "half", "more"],
    &["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1f4\r\nhalf"],
    &["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"],
];

#[test]
fn a_response_that_is_broken_off_is_replaced() {
    for parts in CUT {
        let (daemon, bad, good) = start(parts);
        let response = get(daemon.port(0), "/pair");
        assert_eq!((response.status, response.text().as_str()), (200, "good"), "{parts:?}");
        assert_eq!((bad.requests().len(), good.requests().len()), (1, 1), "{parts:?}");
        let log = daemon.log();
        assert!(log.contains("upstream prematurely closed connection while reading"), "{log}");
    }
}

#[test]
fn a_response_that_drips_is_replaced_when_the_time_for_a_read_is_over() {
    let bad = Origin::start(|peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
        while peer.try_send(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let good = Origin::saying("good");
    let daemon = Setup::new(CONF).set("BAD", bad.address()).set("GOOD", good.address()).start();
    assert_eq!(get(daemon.port(0), "/pair").text(), "good");
    let log = daemon.log();
    assert!(log.contains("upstream timed out"), "{log}");
}

#[test]
fn nothing_is_held_where_no_other_server_could_be_asked() {
    let (daemon, bad, good) = start(CUT[1]);
    for (method, path) in [("GET", "/alone"), ("GET", "/streamed"), ("GET", "/off"), ("POST", "/pair")] {
        let seen = all(&daemon, method, path);
        assert!(seen.contains("200 OK") && seen.ends_with("\r\n\r\nhalf"), "{method} {path}: {seen}");
    }
    assert_eq!((bad.requests().len(), good.requests().len()), (4, 0));
}

#[test]
fn a_response_in_pieces_arrives_whole_and_its_connection_is_kept() {
    let slow = Origin::start(|peer| {
        while peer.request().is_some() {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst");
            std::thread::sleep(Duration::from_millis(30));
            if peer.try_send(b"-last").is_err() {
                return;
            }
        }
    });
    let good = Origin::saying("good");
    let daemon = Setup::new(CONF).set("BAD", slow.address()).set("GOOD", good.address()).start();
    let mut client = Client::connect(daemon.port(0));
    for _ in 0..3 {
        assert_eq!(client.get("/pair").text(), "first-last");
    }
    assert_eq!((slow.accepted(), slow.requests().len(), good.requests().len()), (1, 3, 0));
}

#[test]
fn a_long_response_is_passed_on_at_once() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let long = Origin::start(move |peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nfirst");
        let _ = wait.lock().expect("not poisoned").recv_timeout(crate::support::deadline::deadline());
        let _ = peer.try_send(&vec![b'x'; 100_000 - 5]);
    });
    let good = Origin::saying("good");
    let daemon = Setup::new(CONF).set("BAD", long.address()).set("GOOD", good.address()).start();
    let mut client = Client::connect(daemon.port(0));
    client.send("GET /pair HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    client.response_head();
    assert_eq!(client.exactly(5), b"first");
    go.send(()).expect("the server waits");
    assert!(client.rest().0.ends_with(b"xxx"));
}

const BLAMED: &str = r#"
http {
    upstream pair { server %%BAD%% fail_timeout=1h; server %%GOOD%%; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        proxy_read_timeout 300ms;
        proxy_next_upstream error timeout http_500;
        location / { proxy_pass http://pair; }
    }
}
"#;

#[test]
fn a_request_that_may_not_be_repeated_still_tells_who_fails() {
    let dripping = Origin::start(|peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
        while peer.try_send(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let broken = Origin::replying(|_| b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops".to_vec());
    for (bad, told) in [(dripping, "which counts as a failure"), (broken, "")] {
        let good = Origin::saying("good");
        let daemon =
            Setup::new(BLAMED).set("BAD", bad.address()).set("GOOD", good.address()).level("info").start();
        let mut client = Client::connect(daemon.port(0));
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
        client.response_head();
        daemon.wait_log("upstream server temporarily disabled");
        assert!(daemon.log().contains(told), "{}", daemon.log());
        for _ in 0..4 {
            assert!(all(&daemon, "POST", "/").ends_with("good"));
        }
        assert_eq!((bad.requests().len(), good.requests().len()), (1, 4));
    }
}
