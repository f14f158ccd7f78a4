//! `max_conns`: for all workers together if the upstream has a `zone`, otherwise for each worker.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};

use crate::support::deadline::{deadline, wait_for};
use crate::support::origin::ok;
use crate::support::{Client, Daemon, Origin, Setup};

const CONF: &str = r#"
worker_processes 4;
http {
    upstream shared { zone shared 64k; server %%ORIGIN%% max_conns=2; }
    upstream spread { zone spread 64k; server %%ORIGIN%% max_conns=1; server %%SECOND%% max_conns=1; }
    upstream least { zone least 64k; least_conn; server %%ORIGIN%% max_conns=1; server %%SECOND%% max_conns=1; }
    upstream key { zone key 64k; hash $uri; server %%ORIGIN%% max_conns=1; server %%SECOND%% max_conns=1; }
    upstream ring { zone ring 64k; hash $uri consistent; server %%ORIGIN%% max_conns=1; server %%SECOND%% max_conns=1; }
    upstream network { zone network 64k; ip_hash; server %%ORIGIN%% max_conns=1; server %%SECOND%% max_conns=1; }
    upstream any { zone any 64k; random; server %%ORIGIN%% max_conns=1; server %%SECOND%% max_conns=1; }
    upstream two { zone two 64k; random two; server %%ORIGIN%% max_conns=1; server %%SECOND%% max_conns=1; }
    upstream time { zone time 64k; least_time header; server %%ORIGIN%% max_conns=1; server %%SECOND%% max_conns=1; }
    upstream apart { server %%ORIGIN%% max_conns=1; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /shared { proxy_pass http://shared; }
        location /spread { proxy_pass http://spread; }
        location ~ ^/by/(\w+) { proxy_pass http://$1; }
        location /apart { proxy_pass http://apart; }
    }
}
"#;

/// An origin whose responses wait for [`Scene::release`], and that counts how many requests it held at once.
struct Held {
    origin: Origin,
    most: Arc<AtomicUsize>,
    release: Sender<()>,
}

fn held() -> Held {
    let (release, released) = channel::<()>();
    let (released, most) = (Mutex::new(released), Arc::new(AtomicUsize::new(0)));
    let (now, seen) = (AtomicUsize::new(0), most.clone());
    let origin = Origin::start(move |peer| {
        while peer.request().is_some() {
            seen.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let _ = released.lock().unwrap().recv_timeout(deadline());
            now.fetch_sub(1, Ordering::SeqCst);
            peer.send(ok(b"ok"));
        }
    });
    Held { origin, most, release }
}

fn start(first: &Held, second: &Held) -> Daemon {
    Setup::new(CONF)
        .set("ORIGIN", first.origin.address())
        .set("SECOND", second.origin.address())
        .level("warn")
        .start()
}

/// Sends a request on each of `count` connections, all before a response is read.
fn ask(daemon: &Daemon, path: &str, count: usize) -> Vec<Client> {
    let clients = (0..count).map(|_| Client::connect(daemon.port(0)));
    let mut clients: Vec<Client> = clients.collect();
    for client in &mut clients {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    }
    clients
}

/// Releases the held requests once all others were refused; returns how many were answered.
fn answered(daemon: &Daemon, mut clients: Vec<Client>, held: &[&Held], expected: usize) -> usize {
    let (refused, all) = (clients.len() - expected, held.len());
    let lines = || daemon.log_count("no live upstreams");
    wait_for("the others to be refused", || (lines() >= refused).then_some(()));
    for held in held {
        let arrived = || held.most.load(Ordering::SeqCst) >= expected / all;
        wait_for("all that are let through to arrive", || arrived().then_some(()));
    }
    for held in held {
        clients.iter().for_each(|_| held.release.send(()).unwrap());
    }
    let statuses: Vec<u16> = clients.iter_mut().map(|client| client.response().status).collect();
    assert!(statuses.iter().all(|status| matches!(status, 200 | 502)), "{statuses:?}");
    statuses.iter().filter(|&&status| status == 200).count()
}

#[test]
fn a_zone_counts_the_connections_of_all_workers() {
    let (first, second) = (held(), held());
    let daemon = start(&first, &second);
    let clients = ask(&daemon, "/shared", 24);
    assert_eq!(answered(&daemon, clients, &[&first], 2), 2);
    assert_eq!(first.most.load(Ordering::SeqCst), 2, "never more at once");
    assert_eq!(second.origin.accepted(), 0);
}

#[test]
fn a_full_server_leaves_requests_to_the_next() {
    let (first, second) = (held(), held());
    let daemon = start(&first, &second);
    let clients = ask(&daemon, "/spread", 16);
    assert_eq!(answered(&daemon, clients, &[&first, &second], 2), 2);
    assert_eq!((first.most.load(Ordering::SeqCst), second.most.load(Ordering::SeqCst)), (1, 1));
}

#[test]
fn every_balancer_keeps_the_cap_of_all_workers_together() {
    for method in ["least", "key", "ring", "network", "any", "two", "time"] {
        let (first, second) = (held(), held());
        let daemon = start(&first, &second);
        let clients = ask(&daemon, &format!("/by/{method}"), 16);
        assert_eq!(answered(&daemon, clients, &[&first, &second], 2), 2, "{method}");
        let most = [&first, &second].map(|held| held.most.load(Ordering::SeqCst));
        assert_eq!(most, [1, 1], "{method}");
    }
}

/// As in nginx a connection counts while a request uses it, not while it is kept.
#[test]
fn kept_connections_do_not_count() {
    let (first, second) = (held(), held());
    let daemon = start(&first, &second);
    // more than two workers keep one, once they have all started
    wait_for("a third kept connection", || {
        let mut client = Client::connect(daemon.port(0));
        client.send("GET /shared HTTP/1.1\r\nHost: a\r\n\r\n");
        first.release.send(()).unwrap();
        assert_eq!(client.response().status, 200);
        (first.origin.accepted() - first.origin.ended() > 2).then_some(())
    });
}

#[test]
fn without_a_zone_each_worker_counts_for_itself() {
    let (first, second) = (held(), held());
    let daemon = start(&first, &second);
    let mut clients = ask(&daemon, "/apart", 48);
    wait_for("some to be refused", || (daemon.log_count("no live upstreams") >= 44).then_some(()));
    clients.iter().for_each(|_| first.release.send(()).unwrap());
    let count =
        clients.iter_mut().filter_map(|client| (client.response().status == 200).then_some(())).count();
    assert!((1..=4).contains(&count), "{count} of four workers");
    assert!(first.most.load(Ordering::SeqCst) <= 4);
}
