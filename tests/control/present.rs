//! Present numbers in nginx Plus' API: requests in progress, kept connections, requests that wait, servers that were removed
//! and still work, and the time of the last choice. They are sums over workers, and those of a killed worker go with it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::control;
use super::zones::plus;
use crate::support::daemon::{is_stand_in, send};
use crate::support::dns::{A, Dns};
use crate::support::origin::ok;
use crate::support::{Origin, Setup, deadline, get, wait_for};

const CONF: &str = r#"
worker_processes 2;
control unix:%%DIR%%/ctl;
http {
    upstream u { zone u 64k; server %%ORIGIN%%; keepalive 8; }
    upstream narrow { zone narrow 64k; server %%ORIGIN%% max_conns=1; queue 20 timeout=600s; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        status_zone site;
        location / { proxy_read_timeout 600s; proxy_pass http://u; }
        location /narrow { proxy_read_timeout 600s; proxy_pass http://narrow; }
    }
}
stream {
    upstream echo { server %%ECHO%%; }
    server { listen 127.0.0.1:%%PORT_1%%; status_zone tunnels; proxy_pass echo; }
}
"#;

const CLIENTS: usize = 12;

/// A client that has sent this.
fn client(port: u16, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    stream.set_read_timeout(Some(deadline())).expect("a socket takes a timeout");
    stream.write_all(text.as_bytes()).expect("it reads");
    stream
}

/// True if nothing has arrived, not even the end of the connection.
fn is_waiting(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).expect("a socket");
    let peeked = stream.peek(&mut [0]);
    stream.set_nonblocking(false).expect("a socket");
    peeked.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

#[test]
fn present_numbers_are_right_over_workers_and_after_some_were_killed() {
    if is_stand_in() {
        return;
    }
    let (release, held) = channel::<()>();
    let held = Mutex::new(held);
    let origin = Origin::replying(move |request| {
        if request.target.contains("hold") {
            let _ = held.lock().expect("not poisoned").recv();
        }
        ok(b"done")
    });
    let echo = Origin::echo();
    let setup = Setup::new(CONF).set("ORIGIN", origin.address()).set("ECHO", echo.address());
    let daemon = setup.level("emerg").start();
    let is = |path: &str, wanted: &dyn Fn(&Value) -> bool| {
        wait_for(path, || Some(plus(&daemon, path)).filter(|now| wanted(now)))
    };
    let peer = plus(&daemon, "http/upstreams/u")["peers"][0].clone();
    assert_eq!(peer.get("selected"), None, "{peer}");

    // Kept connections: as many as the origin sees.
    (0..CLIENTS).for_each(|_| assert_eq!(get(daemon.port(0), "/").status, 200));
    let open = || json!(origin.accepted() - origin.ended());
    assert!(open() != json!(0));
    let u = is("http/upstreams/u", &|now| now["keepalive"] == open());
    let selected = u["peers"][0]["selected"].as_str().expect("a time").to_owned();
    assert!(
        selected.starts_with("20") && selected.len() == "2026-11-21T06:31:12.345+00:00".len(),
        "{selected}"
    );

    // Requests and sessions in progress.
    let seen = origin.requests().len();
    let clients: Vec<TcpStream> =
        (0..CLIENTS).map(|_| client(daemon.port(0), "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
    origin.wait_requests(seen + CLIENTS);
    is("http/server_zones/site", &|now| now["processing"] == CLIENTS);
    let later = is("http/upstreams/u", &|now| now["keepalive"] == 0);
    assert!(later["peers"][0]["selected"].as_str() > Some(&selected), "{later}");
    let mut tunnels: Vec<TcpStream> = (0..CLIENTS).map(|_| client(daemon.port(1), "hello")).collect();
    tunnels.iter_mut().for_each(|tunnel| tunnel.read_exact(&mut [0; 5]).expect("an echo"));
    is("stream/server_zones/tunnels", &|now| now["processing"] == CLIENTS);

    // Requests that wait for the only connection of a peer.
    let waiting: Vec<TcpStream> = (0..CLIENTS)
        .map(|_| client(daemon.port(0), "GET /narrow/hold HTTP/1.1\r\nHost: a\r\n\r\n"))
        .collect();
    is("http/upstreams/narrow", &|now| now["queue"]["size"] == CLIENTS - 1);

    // A server that was removed and still works; it counts no more once it is back.
    let servers = "/api/9/http/upstreams/u/servers";
    assert_eq!(plus(&daemon, "http/upstreams/u")["zombies"], 0);
    assert_eq!(control(&daemon, "DELETE", &format!("{servers}/0"), "").status, 200);
    is("http/upstreams/u", &|now| now["zombies"] == 1);
    let body = json!({ "server": origin.address() }).to_string();
    assert_eq!(control(&daemon, "POST", servers, &body).status, 201);
    is("http/upstreams/u", &|now| now["zombies"] == 0);
    assert_eq!(control(&daemon, "DELETE", &format!("{servers}/1"), "").status, 200);
    is("http/upstreams/u", &|now| now["zombies"] == 1);

    // What a killed worker had goes with it.
    let all = || clients.iter().chain(&waiting).filter(|stream| is_waiting(stream)).count();
    let workers = daemon.workers();
    send(workers[0], Signal::SIGKILL);
    wait_for("the workers", || Some(daemon.workers_now()).filter(|now| now.len() == 2 && *now != workers));
    is("http/server_zones/site", &|now| now["processing"] == all());
    let sessions = || tunnels.iter().filter(|stream| is_waiting(stream)).count();
    is("stream/server_zones/tunnels", &|now| now["processing"] == sessions());
    send(workers[1], Signal::SIGKILL);
    is("http/server_zones/site", &|now| now["processing"] == 0);
    is("stream/server_zones/tunnels", &|now| now["processing"] == 0);
    is("http/upstreams/narrow", &|now| now["queue"]["size"] == 0);
    is("http/upstreams/u", &|now| now["zombies"] == 0);
    drop(release);
}

#[test]
fn addresses_that_a_name_has_lost_are_zombies_while_they_answer() {
    if is_stand_in() {
        return;
    }
    const CONF: &str = r#"
worker_processes 2;
control unix:%%DIR%%/ctl;
http {
    resolver %%RESOLVER%% valid=1s;
    upstream u { zone u 64k; server www.test:%%ORIGIN%% resolve; }
    server { listen 127.0.0.1:%%PORT_0%%; location / { proxy_pass http://u; } }
}
"#;
    let (release, held) = channel::<()>();
    let held = Mutex::new(held);
    let origin = Origin::replying(move |_| {
        let _ = held.lock().expect("not poisoned").recv();
        ok(b"done")
    });
    let now = Arc::new(Mutex::new("127.0.0.1"));
    let theirs = Arc::clone(&now);
    let dns = Dns::start(move |query| match query.kind {
        A => query.reply(&[query.a(1, *theirs.lock().expect("not poisoned"))]),
        _ => query.reply(&[]),
    });
    let setup = Setup::new(CONF).set("ORIGIN", origin.port()).set("RESOLVER", dns.address());
    let daemon = setup.level("emerg").start();
    let is = |address: &str, zombies: u64| {
        wait_for(&format!("{zombies} zombies, and {address}"), || {
            let u = plus(&daemon, "http/upstreams/u");
            let is_there = u["peers"].as_array().expect("a list").iter().any(|peer| {
                peer["server"].as_str().is_some_and(|name| name.starts_with(&format!("{address}:")))
            });
            (is_there && u["zombies"] == zombies).then_some(())
        });
    };
    is("127.0.0.1", 0);
    let mut client = client(daemon.port(0), "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    origin.wait_requests(1);
    *now.lock().expect("not poisoned") = "127.0.0.2";
    is("127.0.0.2", 1);
    *now.lock().expect("not poisoned") = "127.0.0.1";
    is("127.0.0.1", 0); // it is back
    *now.lock().expect("not poisoned") = "127.0.0.2";
    is("127.0.0.2", 1);
    drop(release);
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer");
    assert!(answer.ends_with("done"), "{answer}");
    is("127.0.0.2", 0);
}

#[test]
fn the_addresses_of_a_name_have_counters_over_reloads_and_changes() {
    if is_stand_in() {
        return;
    }
    const CONF: &str = r#"
        worker_processes 1;
        control unix:%%DIR%%/ctl;
        http {
            resolver %%DNS%% ipv6=off valid=1s;
            upstream zoned { zone zoned 64k; server www.test:%%ORIGIN_PORT%% resolve; }
            upstream alone { server www.test:%%ORIGIN_PORT%% resolve; }
            server { listen 127.0.0.1:%%PORT_0%%;
                location /zoned { proxy_pass http://zoned; } location /alone { proxy_pass http://alone; } }
        }
    "#;
    let origin = Origin::saying("hello");
    let port = origin.port();
    let now = Arc::new(Mutex::new("127.0.0.1"));
    let theirs = Arc::clone(&now);
    let dns = Dns::start(move |query| query.reply(&[query.a(1, *theirs.lock().expect("not poisoned"))]));
    let lead_to = |address| *now.lock().expect("not poisoned") = address;
    let daemon = Setup::new(CONF).set("DNS", dns.address()).set("ORIGIN_PORT", port).level("crit").start();
    let served = |group: &str| {
        let peers = plus(&daemon, &format!("http/upstreams/{group}"))["peers"].clone();
        let peers = peers.as_array().cloned().unwrap_or_default();
        let of = |peer: &Value| {
            (peer["server"].clone(), peer["requests"].clone(), peer["responses"]["2xx"].clone())
        };
        peers.iter().map(of).collect::<Vec<_>>()
    };
    let ask = |group: &str| get(daemon.port(0), &format!("/{group}")).status;
    let has = |group: &str, address: &str, count: u64| {
        let peer = (json!(format!("{address}:{port}")), json!(count), json!(count));
        wait_for(&format!("{count} requests to {address}"), || {
            (served(group) == [peer.clone()]).then_some(())
        });
    };
    for group in ["zoned", "alone"] {
        wait_for("an address", || (ask(group) == 200).then_some(()));
        has(group, "127.0.0.1", 1);
        assert_eq!(ask(group), 200);
        has(group, "127.0.0.1", 2);
    }
    lead_to("127.0.0.9");
    ["zoned", "alone"].into_iter().for_each(|group| has(group, "127.0.0.9", 0));
    lead_to("127.0.0.1");
    ["zoned", "alone"].into_iter().for_each(|group| has(group, "127.0.0.1", 2));
    assert_eq!(control(&daemon, "PATCH", "/1/control/config", "").status, 200);
    ["zoned", "alone"].into_iter().for_each(|group| has(group, "127.0.0.1", 2));
    assert_eq!(ask("alone"), 200);
    has("alone", "127.0.0.1", 3);
}
