//! Copies of requests: their content, that no client waits for them, and that they survive the end of a
//! worker.

use std::sync::Mutex;
use std::sync::mpsc::channel;

use nix::sys::signal::Signal;

use crate::support::daemon::is_stand_in;
use crate::support::{Client, Daemon, Origin, Setup, fetch, get, wait_for};

const CONF: &str = r#"
worker_processes 1;
events { worker_connections 2048; }
http {
    log_format uri "$uri $status $request_method";
    access_log %%DIR%%/access.log uri;
    client_max_body_size 0;
    client_body_buffer_size 1k;
    client_body_temp_path %%DIR%%/bodies;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /proxied { mirror /mirror; proxy_pass http://%%ORIGIN%%; }
        location /bodiless { mirror /mirror; mirror_request_body off; proxy_pass http://%%ORIGIN%%; }
        location /off { mirror off; return 200 "here"; }
        location /two { mirror /mirror; mirror /mirror/other; proxy_pass http://%%ORIGIN%%; }
        location /dead { mirror /nobody; mirror /nowhere; proxy_pass http://%%ORIGIN%%; }
        location /asks { auth_request /off; mirror /mirror; proxy_pass http://%%ORIGIN%%; }
        location /mirror {
            internal;
            mirror /mirror/again;
            log_subrequest on;
            proxy_pass http://%%MIRROR%%;
            proxy_set_header X-From $request_uri;
        }
        location /nobody { internal; log_subrequest on; proxy_pass http://127.0.0.1:1; }
    }
}
"#;

fn start(origin: &Origin, mirror: &Origin) -> Daemon {
    let setup = Setup::new(CONF).set("ORIGIN", origin.address()).set("MIRROR", mirror.address());
    setup.level("info").start()
}

fn post(daemon: &Daemon, path: &str, body: &str) -> String {
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: a\r\nX-Own: 1\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    fetch(daemon.port(0), &(head + body)).text()
}

#[test]
fn a_copy_has_all_that_the_request_has() {
    let (origin, mirror) = (Origin::saying("origin"), Origin::saying("mirror"));
    let daemon = start(&origin, &mirror);
    let long = "0123456789".repeat(50_000);
    for (body, count) in [("short", 1), (&*long, 2)] {
        assert_eq!(post(&daemon, "/proxied?a=%20b", body), "origin");
        mirror.wait_requests(count);
        let copy = mirror.last();
        assert_eq!((&*copy.method, &*copy.target), ("POST", "/mirror?a=%20b"));
        assert_eq!(copy.header("x-own"), Some("1"));
        assert_eq!(copy.header("x-from"), Some("/proxied?a=%20b"));
        assert!(copy.body == body.as_bytes(), "{} bytes", copy.body.len());
        assert!(origin.last().body == body.as_bytes());
    }
    let chunked = "PUT /proxied HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    assert_eq!(fetch(daemon.port(0), chunked).text(), "origin");
    mirror.wait_requests(3);
    assert_eq!((&*mirror.last().method, &*mirror.last().body), ("PUT", &b"abc"[..]));
}

#[test]
fn a_copy_may_go_without_the_body() {
    let (origin, mirror) = (Origin::saying("origin"), Origin::saying("mirror"));
    let daemon = start(&origin, &mirror);
    // The copy is sent before the body has arrived.
    let mut wire = Client::connect(daemon.port(0)).into_wire();
    wire.send("POST /bodiless HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n");
    if !is_stand_in() {
        mirror.wait_requests(1);
        assert_eq!((&*mirror.last().method, mirror.last().length()), ("POST", None));
    }
    wire.send("abc");
    assert_eq!(wire.response().text(), "origin");
    assert_eq!(origin.last().body, b"abc");
}

#[test]
fn each_mirror_is_asked_and_none_of_a_copy() {
    let (origin, mirror) = (Origin::saying("origin"), Origin::saying("mirror"));
    let daemon = start(&origin, &mirror);
    assert_eq!(get(daemon.port(0), "/off").text(), "here");
    assert_eq!(get(daemon.port(0), "/two").text(), "origin");
    mirror.wait_requests(2);
    let mut targets: Vec<String> = mirror.requests().into_iter().map(|request| request.target).collect();
    targets.sort();
    assert_eq!(targets, ["/mirror", "/mirror/other"]);
    assert_eq!(get(daemon.port(0), "/asks").text(), "origin");
    mirror.wait_requests(3);
    daemon.stop(Signal::SIGQUIT);
    assert_eq!(mirror.requests().len(), 3);
    let log = daemon.read("access.log");
    assert_eq!(log.matches("/mirror 200 GET\n").count(), 2, "{log}");
}

#[test]
fn a_mirror_that_is_dead_or_missing_harms_nobody() {
    let (origin, mirror) = (Origin::saying("origin"), Origin::saying("mirror"));
    let daemon = start(&origin, &mirror);
    let mut client = Client::connect(daemon.port(0));
    for _ in 0..3 {
        assert_eq!(client.get("/dead").text(), "origin");
    }
    wait_for("the mirrors' lines", || {
        (daemon.read("access.log").matches("/nobody 502 GET").count() == 3).then_some(())
    });
}

#[test]
fn a_slow_mirror_delays_nobody_and_is_not_lost_when_the_worker_leaves() {
    let (go, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let mirror = Origin::start(move |peer| {
        while peer.request().is_some() {
            wait.lock().unwrap().recv().unwrap();
            peer.send(crate::support::origin::ok(b"late"));
        }
    });
    let origin = Origin::saying("origin");
    let daemon = start(&origin, &mirror);
    let mut client = Client::connect(daemon.port(0));
    for _ in 0..2 {
        assert_eq!(client.get("/proxied").text(), "origin", "on the same connection, while the mirrors wait");
    }
    drop(client);
    mirror.wait_requests(1);
    daemon.signal(Signal::SIGQUIT);
    daemon.wait_log("gracefully shutting down");
    go.send(()).unwrap();
    go.send(()).unwrap();
    assert!(daemon.wait_end().is_some_and(|status| status.success()));
    assert_eq!(daemon.read("access.log").matches("/mirror 200 GET\n").count(), 2);
    assert_eq!(mirror.requests().len(), 2);
}

#[test]
fn what_a_mirror_sends_without_end_is_not_waited_for() {
    let mirror = Origin::start(|peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\n\r\nbegin");
        while peer.try_send(&[b'x'; 10_000]).is_ok() {}
    });
    let origin = Origin::saying("origin");
    let daemon = start(&origin, &mirror);
    assert_eq!(get(daemon.port(0), "/proxied").text(), "origin");
    mirror.wait_ended(1);
    wait_for("the mirror's line", || daemon.read("access.log").contains("/mirror 200 GET").then_some(()));
}

#[test]
fn a_connection_to_a_mirror_is_kept() {
    let (origin, mirror) = (Origin::saying("origin"), Origin::saying("mirror"));
    let daemon = start(&origin, &mirror);
    for count in 1..=4 {
        assert_eq!(post(&daemon, "/proxied", "x"), "origin");
        wait_for("the mirror's line", || {
            (daemon.read("access.log").matches("/mirror 200 POST").count() == count).then_some(())
        });
    }
    if !is_stand_in() {
        assert_eq!(mirror.accepted(), 1);
    }
}

#[test]
fn no_more_copies_are_under_way_than_a_worker_may_have() {
    if is_stand_in() {
        return;
    }
    let (go, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let mirror = Origin::start(move |peer| {
        peer.request();
        if peer.index == 0 {
            let _ = wait.lock().unwrap().recv();
        } else {
            peer.rest();
        }
    });
    let origin = Origin::saying("origin");
    let daemon = start(&origin, &mirror);
    let mut client = Client::connect(daemon.port(0));
    for _ in 0..515 {
        assert_eq!(client.get("/proxied").text(), "origin");
    }
    daemon.wait_log("\"/mirror\" is not requested: 512 copies of requests are already in progress");
    assert_eq!(daemon.log_count("is not requested"), 3);
    drop(go);
    daemon.stop(Signal::SIGTERM);
}
