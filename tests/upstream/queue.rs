//! `queue` and `retry_budget`: requests that wait for a server, and those that may go to another one.

use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};

use crate::support::deadline::deadline;
use crate::support::origin::ok;
use crate::support::{Client, Daemon, Origin, Setup, get, wait_for};

/// A server that answers each request when the channel has a word.
fn on_demand() -> (Sender<()>, Origin) {
    let (go, wait) = channel();
    let wait = Mutex::new(wait);
    let origin = Origin::start(move |peer| {
        while let Some(request) = peer.request() {
            if wait.lock().expect("not poisoned").recv_timeout(deadline()).is_err() {
                return;
            }
            if peer.try_send(&ok(request.target.as_bytes())).is_err() {
                return;
            }
        }
    });
    (go, origin)
}

fn start(origin: &Origin, parameters: &str, queue: &str) -> Daemon {
    let conf = format!(
        "http {{ upstream u {{ server %%ORIGIN%% {parameters}; {queue} }}
         access_log %%DIR%%/access.log;
         server {{ listen 127.0.0.1:%%PORT_0%%; location / {{ proxy_pass http://u; }} }} }}"
    );
    Setup::new(&conf).set("ORIGIN", origin.address()).level("info").start()
}

fn ask(daemon: &Daemon, path: &str) -> Client {
    let mut client = Client::connect(daemon.port(0));
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    client
}

#[test]
fn requests_beyond_max_conns_wait_in_order() {
    let (go, origin) = on_demand();
    let daemon = start(&origin, "max_conns=1", "queue 10;");
    let mut clients = Vec::new();
    for number in 0..4 {
        clients.push(ask(&daemon, &format!("/{number}")));
        if number == 0 {
            origin.wait_requests(1);
        } else {
            std::thread::sleep(std::time::Duration::from_millis(30)); // so that they come in this order
        }
    }
    assert_eq!(origin.requests().len(), 1);
    for (number, client) in clients.iter_mut().enumerate() {
        go.send(()).expect("it waits");
        assert_eq!(client.response().text(), format!("/{number}"));
    }
    let targets: Vec<_> = origin.requests().iter().map(|request| request.target.clone()).collect();
    assert_eq!(targets, ["/0", "/1", "/2", "/3"]);
}

#[test]
fn a_full_queue_and_a_long_wait_are_502() {
    let (go, origin) = on_demand();
    let daemon = start(&origin, "max_conns=1", "queue 1 timeout=300ms;");
    let mut first = ask(&daemon, "/first");
    origin.wait_requests(1);
    let mut second = ask(&daemon, "/second");
    let statuses = [get(daemon.port(0), "/third").status, second.response().status];
    assert_eq!(statuses, [502, 502]);
    daemon.wait_log("the \"queue\" of upstream \"u\" is full");
    daemon.wait_log("the \"queue\" of upstream \"u\" has been waited in for too long");
    go.send(()).expect("it waits");
    assert_eq!(first.response().text(), "/first");
    let mut again = ask(&daemon, "/again");
    go.send(()).expect("it waits");
    assert_eq!(again.response().text(), "/again", "the place is free");
}

#[test]
fn a_client_that_leaves_gives_its_place_up() {
    let (go, origin) = on_demand();
    let daemon = start(&origin, "max_conns=1", "queue 1;");
    let mut first = ask(&daemon, "/first");
    origin.wait_requests(1);
    drop(ask(&daemon, "/left"));
    daemon.wait_line("access.log", "/left HTTP/1.1\" 499");
    let mut third = ask(&daemon, "/third");
    for client in [&mut first, &mut third] {
        go.send(()).expect("it waits");
        assert_eq!(client.response().status, 200);
    }
}

#[test]
fn a_server_that_comes_back_gets_those_who_wait() {
    let port = crate::support::port::free();
    let conf = format!(
        "http {{ upstream u {{ server 127.0.0.1:{port} fail_timeout=300ms; server 127.0.0.1:{port} fail_timeout=300ms; queue 9; }}
         server {{ listen 127.0.0.1:%%PORT_0%%; location / {{ proxy_pass http://u; }} }} }}"
    );
    let daemon = Setup::new(&conf).start();
    assert_eq!(get(daemon.port(0), "/").status, 502, "both were tried");
    let mut waits = ask(&daemon, "/waits");
    let origin = Origin::start_on(port, |peer| {
        while peer.request().is_some() {
            peer.send(ok(b"back"));
        }
    });
    assert_eq!(waits.response().text(), "back");
    drop(origin);
}

#[test]
fn repeated_requests_are_a_share_of_all() {
    let good = Origin::saying("good");
    let closed = crate::support::port::refusing();
    let conf = format!(
        "http {{ upstream u {{ server 127.0.0.1:{closed} max_fails=0; server %%GOOD%%; retry_budget 20% min=0; }}
         server {{ listen 127.0.0.1:%%PORT_0%%; location / {{ proxy_pass http://u; }} }} }}"
    );
    let daemon = Setup::new(&conf).set("GOOD", good.address()).start();
    let statuses: Vec<u16> = (0..40).map(|_| get(daemon.port(0), "/").status).collect();
    let failed = statuses.iter().filter(|status| **status == 502).count();
    let repeated = daemon.log_count("Connection refused") - failed;
    assert!(
        (6..=8).contains(&repeated),
        "a fifth of 40, as far as they had been earned: {repeated}, {statuses:?}"
    );
    assert_eq!(good.requests().len(), 40 - failed);
    wait_for("the warning", || daemon.log().contains("\"retry_budget\" permits no more").then_some(()));
}

#[test]
fn a_server_that_is_added_gets_those_who_wait() {
    let ((go, origin), added) = (on_demand(), Origin::saying("added"));
    let conf = "http { upstream u { zone u 64k; server %%ORIGIN%% max_conns=1; queue 10; }
         server { listen 127.0.0.1:%%PORT_0%%; location / { proxy_pass http://u; }
                  location /api { api write=on; allow 127.0.0.1; deny all; } } }";
    let daemon = Setup::new(conf).set("ORIGIN", origin.address()).level("info").start();
    let mut first = ask(&daemon, "/first");
    origin.wait_requests(1);
    let mut waits = ask(&daemon, "/waits");
    std::thread::sleep(std::time::Duration::from_millis(30)); // so that it waits
    let body = format!(r#"{{"server":"{}"}}"#, added.address());
    let mut api = Client::connect(daemon.port(0));
    api.send(format!(
        "POST /api/9/http/upstreams/u/servers HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    assert_eq!(api.response().status, 201);
    assert_eq!(waits.response().text(), "added");
    go.send(()).expect("it waits");
    assert_eq!(first.response().text(), "/first");
}

#[test]
fn a_server_that_has_refused_a_request_does_not_get_it_again() {
    let (go, origin) = on_demand();
    let busy = Origin::replying(|_| b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n".to_vec());
    let conf = "http { upstream u { server %%BUSY%% max_fails=0; server %%ORIGIN%% max_fails=0 max_conns=1; queue 10; }
         proxy_next_upstream error http_503;
         server { listen 127.0.0.1:%%PORT_0%%; location / { proxy_pass http://u; } } }";
    let daemon = Setup::new(conf).set("BUSY", busy.address()).set("ORIGIN", origin.address()).start();
    let mut first = ask(&daemon, "/first");
    origin.wait_requests(1);
    let mut second = ask(&daemon, "/second");
    busy.wait_requests(2);
    std::thread::sleep(std::time::Duration::from_millis(50)); // more than the queue's longest pause
    for (client, text) in [(&mut first, "/first"), (&mut second, "/second")] {
        go.send(()).expect("it waits");
        assert_eq!(client.response().text(), text);
    }
    assert_eq!(busy.requests().len(), 2);
}
