//! `stub_status`: the numbers of all workers, across reloads and deaths.

use nix::sys::signal::Signal;

use crate::support::daemon::{is_stand_in, send};
use crate::support::{Client, Daemon, Setup, fetch, get, wait_for};

const CONF: &str = r#"
worker_processes 2;
http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { return 200 "here\n"; }
        location /status { stub_status; }
        location /numbers { return 200 "$connections_active $connections_reading $connections_writing $connections_waiting"; }
    }
}
"#;

/// Active, accepted, handled, requests, reading, writing, waiting.
fn numbers(page: &str) -> [u64; 7] {
    let words: Vec<u64> = page.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    words.try_into().expect("seven numbers")
}

fn status(daemon: &Daemon) -> [u64; 7] {
    numbers(&get(daemon.port(0), "/status").text())
}

#[test]
fn the_page_looks_as_monitoring_expects_it() {
    let daemon = Daemon::start(CONF);
    let response = get(daemon.port(0), "/status");
    assert_eq!((response.status, response.header("content-type")), (200, Some("text/plain")));
    let text = response.text();
    let lines: Vec<&str> = text.split('\n').collect();
    assert_eq!(lines[0], "Active connections: 1 ");
    assert_eq!(lines[1], "server accepts handled requests");
    assert!(
        lines[2].starts_with(' ') && lines[2].ends_with(' ') && lines[2].split(' ').count() == 5,
        "{text}"
    );
    assert_eq!(lines[3], "Reading: 0 Writing: 1 Waiting: 0 ");
    assert_eq!(lines[4..], [""]);
    let post = fetch(
        daemon.port(0),
        "POST /status HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    );
    assert_eq!(post.status, 405);
}

#[test]
fn connections_and_requests_of_all_workers_are_counted() {
    let daemon = Daemon::start(CONF);
    let before = status(&daemon);
    let mut clients: Vec<Client> = (0..20).map(|_| Client::connect(daemon.port(0))).collect();
    for client in &mut clients {
        assert_eq!(client.get("/").text(), "here\n");
        assert_eq!(client.get("/").text(), "here\n");
    }
    clients[0].send("GET / HT"); // is being read
    let after = wait_for("the half request to be noticed", || {
        let now = status(&daemon);
        // active, reading, writing, waiting; the connection of this query may outlive its response by a
        // moment
        ([now[0], now[4], now[5], now[6]] == [21, 1, 1, 19]).then_some(now)
    });
    let looks = after[1] - before[1] - 20; // our own
    assert_eq!(after[2] - before[2], 20 + looks, "handled");
    // the half request may be counted already: nginx counts requests when it begins to read them, and so may
    // we
    let requests = after[3] - before[3] - looks;
    assert!((40..=41).contains(&requests), "{requests} requests");
    wait_for("the same in variables", || {
        (get(daemon.port(0), "/numbers").text() == "21 1 1 19").then_some(())
    });
    drop(clients);
    wait_for("the connections to be gone", || (status(&daemon)[0] == 1).then_some(()));
}

#[test]
fn a_reload_keeps_the_numbers_and_a_dead_worker_s_connections_are_gone() {
    if is_stand_in() {
        return; // nginx keeps counting the connections of a killed worker
    }
    let daemon = Setup::new(&CONF.replace("worker_processes 2", "worker_processes 1")).start();
    let mut clients: Vec<Client> = (0..10).map(|_| Client::connect(daemon.port(0))).collect();
    for client in &mut clients {
        client.get("/");
    }
    let before = wait_for("them alone", || Some(status(&daemon)).filter(|now| now[0] == 11));
    daemon.reload();
    let after = wait_for("the connections in the new worker", || {
        let now = status(&daemon);
        (now[0] == 11 && now[6] == 10).then_some(now)
    });
    assert!(
        after[1] > before[1] && after[1] < before[1] + 10,
        "a connection is accepted once: {before:?} {after:?}"
    );
    assert!(after[3] > before[3]);
    let old = daemon.worker();
    send(old, Signal::SIGKILL);
    let end = wait_for("another worker", || {
        let now = status(&daemon);
        (now[0] == 1).then_some(now)
    });
    assert!(end[3] > after[3], "sums go on");
}
