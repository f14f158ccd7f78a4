//! `proxy_cache_lock`: of several requests for a key that is not stored, one asks the origin.

use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};

use nix::sys::signal::Signal;

use super::{answer, ask, setup, start, status, wait_stored};
use crate::support::daemon::send;
use crate::support::{Client, Daemon, Origin, deadline, get, wait_for};

/// An origin whose answers wait for what the test sends: a body, or "" to close the connection without an answer.
fn held(fields: &'static str) -> (Sender<&'static str>, Origin) {
    let (go, wait) = channel();
    let wait = Mutex::new(wait);
    let origin = Origin::start(move |peer| {
        while let Some(request) = peer.request() {
            let body = wait.lock().expect("not poisoned").recv_timeout(deadline()).unwrap_or("");
            if body.is_empty() || peer.try_send(&answer(fields, body, &request)).is_err() {
                return;
            }
        }
    });
    (go, origin)
}

const FRESH: &str = "X-Accel-Expires: 3600\r\n";

fn begin(daemon: &Daemon) -> Client {
    let mut client = Client::connect(daemon.port(0));
    client.send("GET /p HTTP/1.1\r\nHost: localhost\r\n\r\n");
    client
}

#[test]
fn one_of_many_asks_the_origin() {
    let (go, origin) = held(FRESH);
    let server = "proxy_cache_lock on; proxy_cache_lock_timeout 1h; location /none { return 404; }";
    let daemon = start(&origin, server);
    let mut first = begin(&daemon);
    origin.wait_requests(1);
    let others: Vec<Client> = (0..8).map(|_| begin(&daemon)).collect();
    // the worker answers this one after it has seen the others
    assert_eq!(get(daemon.port(0), "/none").status, 404);
    go.send("body").expect("the origin waits");
    let response = first.response();
    assert_eq!((status(&response), response.text()), ("MISS", "body".into()));
    for mut client in others {
        let response = client.response();
        assert_eq!((status(&response), response.text()), ("HIT", "body".into()));
    }
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn several_workers_share_the_lock() {
    let (go, origin) = held(FRESH);
    let daemon = setup(&origin, "proxy_cache_lock on; proxy_cache_lock_timeout 1h;").start();
    daemon.rewrite(|conf| conf.replace("worker_processes 1;", "worker_processes 2;"));
    daemon.reload();
    let mut clients: Vec<Client> = (0..16).map(|_| begin(&daemon)).collect();
    origin.wait_requests(1);
    go.send("body").expect("the origin waits");
    let texts: Vec<String> = clients.iter_mut().map(|client| client.response().text()).collect();
    assert!(texts.iter().all(|text| text == "body"), "{texts:?}");
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn without_a_lock_each_asks() {
    let (go, origin) = held(FRESH);
    let daemon = start(&origin, "");
    let mut clients = [begin(&daemon), begin(&daemon)];
    origin.wait_requests(2);
    for _ in 0..2 {
        go.send("body").expect("the origin waits");
    }
    for client in &mut clients {
        assert_eq!(status(&client.response()), "MISS");
    }
}

#[test]
fn a_lock_that_takes_too_long_is_passed_by() {
    for server in [
        "proxy_cache_lock on; proxy_cache_lock_timeout 1ms;",
        "proxy_cache_lock on; proxy_cache_lock_age 1ms; proxy_cache_lock_timeout 1h;",
    ] {
        let (go, origin) = held(FRESH);
        let daemon = start(&origin, server);
        let mut first = begin(&daemon);
        origin.wait_requests(1);
        let mut second = begin(&daemon);
        origin.wait_requests(2);
        for _ in 0..2 {
            go.send("body").expect("the origin waits");
        }
        assert_eq!(status(&first.response()), "MISS", "{server}");
        assert_eq!(status(&second.response()), "MISS", "{server}");
        wait_stored(&daemon, 1);
    }
}

#[test]
fn an_answer_that_is_not_stored_frees_the_lock() {
    let (go, origin) = held("Cache-Control: no-store\r\n");
    let daemon = start(&origin, "proxy_cache_lock on; proxy_cache_lock_timeout 1h;");
    let mut first = begin(&daemon);
    origin.wait_requests(1);
    let mut second = begin(&daemon);
    go.send("one").expect("the origin waits");
    assert_eq!(first.response().text(), "one");
    origin.wait_requests(2);
    go.send("two").expect("the origin waits");
    assert_eq!(second.response().text(), "two");
}

#[test]
fn a_failure_frees_the_lock() {
    let (go, origin) = held(FRESH);
    let daemon = start(&origin, "proxy_cache_lock on; proxy_cache_lock_timeout 1h;");
    let mut first = begin(&daemon);
    origin.wait_requests(1);
    let mut second = begin(&daemon);
    go.send("").expect("the origin waits");
    assert_eq!(first.response().status, 502);
    origin.wait_requests(2);
    go.send("body").expect("the origin waits");
    let response = second.response();
    assert_eq!((status(&response), response.text()), ("MISS", "body".into()));
    wait_stored(&daemon, 1);
    assert_eq!(ask(&daemon, "/p"), ("HIT".into(), "body".into()));
}

#[test]
fn the_lock_of_a_killed_worker_does_not_outlive_its_age() {
    let (go, origin) = held(FRESH);
    let server = "proxy_cache_lock on; proxy_cache_lock_age 1s; proxy_cache_lock_timeout 1h;";
    let daemon = start(&origin, server);
    let _first = begin(&daemon);
    origin.wait_requests(1);
    let worker = daemon.worker();
    send(worker, Signal::SIGKILL);
    wait_for("another worker", || {
        let now = daemon.workers_now();
        (!now.is_empty() && !now.contains(&worker)).then_some(())
    });
    let mut second = begin(&daemon);
    origin.wait_requests(2);
    for _ in 0..2 {
        go.send("body").expect("the origin waits");
    }
    assert_eq!(second.response().text(), "body");
    wait_stored(&daemon, 1);
    assert_eq!(ask(&daemon, "/p"), ("HIT".into(), "body".into()));
}
