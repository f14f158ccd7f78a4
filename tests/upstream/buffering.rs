//! Reading ahead of a slow client: the upstream is done early, and memory stays bounded.

use crate::support::{Client, Daemon, Origin, Setup, fetch, process, wait_for};

const CONF: &str = r#"
http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { proxy_pass http://%%ORIGIN%%; proxy_buffers 64 1m; }
        location /few { proxy_pass http://%%ORIGIN%%; }
        location /disk { proxy_pass http://%%ORIGIN%%; proxy_max_temp_file_size 100m; }
        location /small-disk { proxy_pass http://%%ORIGIN%%; proxy_max_temp_file_size 1m; }
        location /none { proxy_pass http://%%ORIGIN%%; proxy_buffering off; }
    }
}
"#;

/// More than all socket buffers on the way can hold.
const BYTES: usize = 40 * 1024 * 1024;

fn body() -> Vec<u8> {
    (0..BYTES).map(|at| (at % 253) as u8).collect()
}

/// Responds with one long chunk, and ends when it is sent.
fn start() -> (Origin, Daemon) {
    let origin = Origin::start(|peer| {
        if peer.request().is_some() {
            let head = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{BYTES:x}\r\n");
            let sent = peer.try_send(head.as_bytes()).and_then(|()| peer.try_send(&body()));
            let _ = sent.and_then(|()| peer.try_send(b"\r\n0\r\n\r\n"));
        }
    });
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).level("info").start();
    // Its worker is complete, with all its descriptors, once it has answered; this never reaches the origin.
    assert_eq!(fetch(daemon.port(0), "GET / HTTP/1.1\r\n\r\n").status, 400);
    (origin, daemon)
}

#[test]
fn the_upstream_is_done_before_a_slow_client_is() {
    let (origin, daemon) = start();
    let mut client = Client::connect(daemon.port(0));
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut response = client.response_head();
    origin.wait_ended(1); // the client has read the head and nothing more
    client.body_into(&mut response);
    assert!(response.body == body(), "{} bytes of {BYTES}", response.body.len());
    assert_eq!(client.get("/").status, 200, "the connection goes on");
}

#[test]
fn memory_is_what_the_buffers_allow() {
    for path in ["/few", "/none"] {
        let (origin, daemon) = start();
        let before = process::private_kib(daemon.worker());
        let mut client = Client::connect(daemon.port(0));
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let mut response = client.response_head();
        wait_for("the relay to stand still", || {
            let ticks = process::cpu_ticks(daemon.worker());
            std::thread::sleep(std::time::Duration::from_millis(100));
            (process::cpu_ticks(daemon.worker()) == ticks).then_some(())
        });
        let grown = process::private_kib(daemon.worker()).saturating_sub(before);
        assert!(grown < 1024, "{path}: {grown} KiB");
        assert_eq!(origin.ended(), 0, "{path}: the upstream waits for the client");
        client.body_into(&mut response);
        assert!(response.body == body(), "{path}: {} bytes of {BYTES}", response.body.len());
    }
}

#[test]
fn a_client_that_leaves_frees_what_waited_for_it() {
    let (origin, daemon) = start();
    let fds = process::fd_count(daemon.worker());
    let mut client = Client::connect(daemon.port(0));
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.response_head();
    origin.wait_ended(1);
    drop(client);
    wait_for("the connection to end", || (process::fd_count(daemon.worker()) <= fds).then_some(()));
}

#[test]
fn the_rest_waits_on_disk_where_that_is_asked_for() {
    let (origin, daemon) = start();
    let mut client = Client::connect(daemon.port(0));
    client.send("GET /disk HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut response = client.response_head();
    origin.wait_ended(1);
    let folder = daemon.path("proxy_temp");
    assert_eq!(std::fs::read_dir(&folder).expect("made at the start").count(), 0, "its file has no name");
    client.body_into(&mut response);
    assert!(response.body == body(), "{} bytes of {BYTES}", response.body.len());
    // Not all of it fits: the upstream waits for the client again, and nothing is lost.
    let response = client.get("/small-disk");
    assert!(response.body == body(), "{} bytes of {BYTES}", response.body.len());
}
