//! Many connections at once, idle ones, and the behaviour at the limit.

use std::time::{Duration, Instant};

use crate::support::{Client, Daemon, Origin, Setup, get, process, wait_for};

const CONF: &str = r#"
worker_processes 2;
worker_rlimit_nofile 8192;
events { worker_connections 4096; }
http {
    keepalive_timeout 60s;
    upstream u { server %%ORIGIN%%; keepalive 8; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection ""; }
        location /here { return 200 "here\n"; }
    }
}
"#;

fn start(origin: &Origin) -> Daemon {
    Setup::new(CONF).set("ORIGIN", origin.address()).level("notice").start()
}

#[test]
fn a_thousand_connections_are_served_at_once() {
    let origin = Origin::saying("x");
    let daemon = start(&origin);
    let mut clients: Vec<Client> = (0..1_000).map(|_| Client::connect(daemon.port(0))).collect();
    for round in 0..3 {
        for client in &mut clients {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        }
        for (index, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.response().text(), "x", "client {index}, round {round}");
        }
    }
    assert_eq!(origin.requests().len(), 3_000);
}

#[test]
fn idle_connections_cost_little_memory_and_no_time() {
    let origin = Origin::saying("x");
    let conf = CONF.replace("worker_processes 2;", "worker_processes 1;");
    let daemon = Setup::new(&conf).set("ORIGIN", origin.address()).level("notice").start();
    let worker = daemon.worker();
    get(daemon.port(0), "/here");
    let count = 2_000;
    // Once beforehand, so that the worker's tables have grown.
    let visit = || -> Vec<Client> {
        let mut clients: Vec<Client> = (0..count).map(|_| Client::connect(daemon.port(0))).collect();
        clients.iter_mut().for_each(|client| assert_eq!(client.get("/here").status, 200));
        clients
    };
    let before = process::private_kib(worker);
    let mut clients = visit();
    let each = process::private_kib(worker).saturating_sub(before) * 1024 / count;
    let ticks = process::cpu_ticks(worker);
    let began = Instant::now();
    assert!(clients[0].is_silent(Duration::from_secs(1)));
    let used = process::cpu_ticks(worker) - ticks;
    assert!(used <= 1, "{used} ticks in {:?} for nothing", began.elapsed());
    // Tables and allocator included; the size of the idle future itself is tested in its file.
    assert!(each <= 2_048, "{each} bytes for each idle connection");
    let last = clients.len() - 1;
    assert_eq!(clients[last].get("/here").status, 200, "they still work");
}

#[test]
fn at_the_limit_others_wait_instead_of_failing() {
    let conf = r#"
worker_processes 1;
events { worker_connections 32; }
http {
    server { listen 127.0.0.1:%%PORT_0%%; location / { return 200 "here\n"; } }
}
"#;
    if crate::support::daemon::is_stand_in() {
        return; // nginx closes idle ones or refuses
    }
    let daemon = Setup::new(conf).level("notice").start();
    let ask = || {
        let mut client = Client::connect(daemon.port(0));
        client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        client
    };
    let mut clients: Vec<Client> = (0..64).map(|_| ask()).collect();
    for client in &mut clients {
        assert_eq!(client.response().text(), "here\n");
    }
}

#[test]
fn the_limit_is_told_with_its_remedy() {
    if crate::support::daemon::is_stand_in() {
        return;
    }
    let conf = r#"
worker_processes 1;
events { worker_connections 16; }
http {
    server { listen 127.0.0.1:%%PORT_0%%; location / { return 200 "here\n"; } }
}
"#;
    let daemon = Setup::new(conf).level("notice").start();
    let clients: Vec<Client> = (0..40).map(|_| Client::connect(daemon.port(0))).collect();
    let line = daemon.wait_log("worker_connections");
    assert!(line.contains("16"), "{line}");
    drop(clients);
    assert_eq!(get(daemon.port(0), "/").text(), "here\n");
}

#[test]
fn descriptors_come_back_after_many_connections() {
    let origin = Origin::saying("x");
    let conf = CONF.replace("worker_processes 2;", "worker_processes 1;");
    let daemon = Setup::new(&conf).set("ORIGIN", origin.address()).level("notice").start();
    let worker = daemon.worker();
    for _ in 0..20 {
        assert_eq!(get(daemon.port(0), "/").status, 200);
    }
    let before = process::fd_count(worker);
    for _ in 0..10 {
        let mut clients: Vec<Client> = (0..50).map(|_| Client::connect(daemon.port(0))).collect();
        clients.iter_mut().for_each(|client| assert_eq!(client.get("/").status, 200));
    }
    // Up to eight kept-alive connections to the origin may stay.
    wait_for("the descriptors to be closed", || (process::fd_count(worker) <= before + 8).then_some(()));
}
