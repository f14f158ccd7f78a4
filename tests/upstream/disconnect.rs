//! Clients that leave: the connection to the origin ends too, and no descriptor or memory is leaked.

use std::time::Duration;

use crate::support::{Client, Daemon, Origin, Setup, process, wait_for};

const CONF: &str = r#"
http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { proxy_pass http://%%ORIGIN%%; proxy_buffering off; }
    }
}
"#;

/// An origin that sends a head and then an endless body.
fn endless() -> Origin {
    Origin::start(|peer| {
        if peer.request().is_none() {
            return;
        }
        peer.send("HTTP/1.1 200 OK\r\n\r\n");
        while peer.try_send(&[b'x'; 16 * 1024]).is_ok() {}
    })
}

fn start(origin: &Origin) -> Daemon {
    Setup::new(CONF).set("ORIGIN", origin.address()).level("info").start()
}

#[test]
fn a_client_that_leaves_in_the_answer_frees_the_origin() {
    let origin = endless();
    let daemon = start(&origin);
    for (index, with_reset) in [false, true].into_iter().enumerate() {
        let mut client = Client::connect(daemon.port(0));
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        client.response_head();
        client.exactly(100_000);
        if with_reset {
            client.reset_on_close();
        }
        drop(client);
        origin.wait_ended(index + 1);
    }
}

#[test]
fn a_client_that_leaves_before_the_answer_frees_the_origin() {
    let origin = Origin::start(|peer| {
        peer.request();
        peer.expect_end(); // the daemon closes although nothing was sent
    });
    let daemon = start(&origin);
    let mut client = Client::connect(daemon.port(0));
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    origin.wait_requests(1);
    drop(client);
    origin.wait_ended(1);
    daemon.wait_log("client prematurely closed connection");
}

#[test]
fn a_client_that_leaves_in_its_own_body_frees_the_origin() {
    let origin = Origin::start(|peer| {
        if peer.head().is_some() {
            peer.rest(); // returns when the daemon gives up on the client
        }
    });
    let conf = CONF.replace("proxy_buffering off;", "proxy_buffering off; proxy_request_buffering off;");
    let daemon = Setup::new(&conf).set("ORIGIN", origin.address()).level("info").start();
    let mut client = Client::connect(daemon.port(0));
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nsome");
    origin.wait_requests(1);
    drop(client);
    origin.wait_ended(1);
}

#[test]
fn two_hundred_abandoned_answers_leave_no_descriptor_behind() {
    let origin = endless();
    let daemon = start(&origin);
    let worker = daemon.worker();
    let visit = |count: usize| {
        let clients: Vec<Client> = (0..count)
            .map(|_| {
                let mut client = Client::connect(daemon.port(0));
                client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
                client.response_head();
                client
            })
            .collect();
        drop(clients);
    };
    visit(5);
    origin.wait_ended(5);
    let before = wait_for("a quiet worker", || {
        let first = process::fd_count(worker);
        std::thread::sleep(Duration::from_millis(20));
        (process::fd_count(worker) == first).then_some(first)
    });
    for round in 1..=4 {
        visit(50);
        origin.wait_ended(5 + round * 50);
    }
    wait_for("the descriptors to be closed", || (process::fd_count(worker) <= before).then_some(()));
}
