//! A worker's memory stays flat under many requests, and a burst leaves nothing behind.

use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier, Mutex};

use crate::support::origin::ok;
use crate::support::{Client, Origin, Setup, process, wait_for};

const CONF: &str = r#"
http {
    upstream u { server %%ORIGIN%%; keepalive 8; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        keepalive_requests 1000000;
        location / { proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection ""; }
    }
}
"#;

#[test]
fn memory_is_flat_over_twenty_thousand_requests() {
    let origin = Origin::saying(&"x".repeat(1_000));
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).level("notice").start();
    let worker = daemon.worker();
    let mut client = Client::connect(daemon.port(0));
    let mut ask = |count: usize| {
        for _ in 0..count {
            assert_eq!(client.get("/some/path?with=arguments").status, 200);
        }
    };
    ask(2_000);
    let before = process::private_kib(worker);
    ask(18_000);
    let after = process::private_kib(worker);
    assert!(after <= before + 256, "{before} KiB grew to {after} KiB");
}

/// Buffers of bodies go to the worker's pool, which keeps up to 2 MiB for the next requests.
#[test]
fn a_worker_at_rest_gives_back_the_memory_of_a_burst() {
    const UPLOADS: usize = 24;
    let all_here = Arc::new(Barrier::new(UPLOADS + 1));
    let (go, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let here = all_here.clone();
    let origin = Origin::start(move |peer| {
        peer.request();
        here.wait();
        let _ = wait.lock().expect("not poisoned").recv();
        peer.send(ok(b"stored"));
    });
    let conf = r#"
http {
    client_body_buffer_size 64k;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { proxy_pass http://%%ORIGIN%%; }
        location /alive { return 200; }
    }
}
"#;
    let daemon = Setup::new(conf).set("ORIGIN", origin.address()).start();
    let worker = daemon.worker();
    let upload =
        format!("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n{}", "x".repeat(60_000));
    let mut clients: Vec<Client> = (0..UPLOADS)
        .map(|_| {
            let mut client = Client::connect(daemon.port(0));
            client.send(&upload);
            client
        })
        .collect();
    all_here.wait();
    let busy = process::private_kib(worker);
    drop(go);
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
    // The connections are still open: only what was kept for more of the same goes.
    wait_for("the memory to be given back", || {
        (process::private_kib(worker) + UPLOADS as u64 * 48 <= busy).then_some(())
    });
    assert_eq!(clients[0].get("/alive").status, 200);
}
