//! QUIC over reloads, and between workers: connections stay with the worker that has them, whatever socket their packets
//! arrive at.

use std::cell::RefCell;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::process::listen_changes::without_net_raw;
use crate::process::upgrade;
use crate::support::daemon::send;
use crate::support::origin::ok;
use crate::support::tls::Authority;
use crate::support::{Daemon, H3, Origin, Setup, deadline, process, wait_for};

const CONF: &str = r#"
worker_processes %%WORKERS%%;
http {
    access_log off;
    ssl_certificate %%DIR%%/a.crt;
    ssl_certificate_key %%DIR%%/a.key;
    server {
        listen 127.0.0.1:%%PORT_0%% quic;
        location / { return 200 "$pid\n"; }
        location /up/ { proxy_pass http://%%ORIGIN%%; }
        location /files/ { root %%DIR%%; }
    }
}
"#;

fn big() -> Vec<u8> {
    (0..3_000_000).map(|at| (at % 251) as u8).collect()
}

fn start(workers: usize) -> (Daemon, Origin, Authority) {
    let origin = Origin::replying(|request| {
        if request.target.contains("slow") {
            std::thread::sleep(Duration::from_millis(700));
        }
        ok(&request.body)
    });
    let authority = Authority::new("Test CA");
    let pair = authority.issue(&["a.test"]);
    let setup = Setup::new(CONF).set("ORIGIN", origin.address()).set("WORKERS", workers).level("info");
    let setup = setup.file("a.crt", pair.certificate).file("a.key", pair.key).file("files/big", big());
    (setup.in_background().start(), origin, authority)
}

fn pid(client: &mut H3) -> i32 {
    client.fetch("a.test", "/").text().trim().parse().expect("a number")
}

#[test]
fn a_reload_lets_requests_end_and_new_clients_reach_new_workers() {
    let (daemon, _origin, authority) = start(2);
    let mut clients: Vec<H3> = (0..8).map(|_| H3::connect(daemon.port(0), &authority, "a.test")).collect();
    let mut idle = H3::connect(daemon.port(0), &authority, "a.test");
    let old: Vec<i32> = clients.iter_mut().map(pid).collect();
    pid(&mut idle);
    let slow: Vec<_> = clients.iter_mut().map(|client| client.get("a.test", "/up/slow")).collect();
    let files: Vec<_> = clients.iter_mut().map(|client| client.get("a.test", "/files/big")).collect();
    for (client, file) in clients.iter_mut().zip(&files) {
        client.until("a part", |client| !client.answers[file].body.is_empty());
    }
    daemon.signal(Signal::SIGHUP);
    daemon.wait_log("generation 2 serves configuration");
    let mut fresh = H3::connect(daemon.port(0), &authority, "a.test");
    assert!(!old.contains(&pid(&mut fresh)));
    for ((client, slow), file) in clients.iter_mut().zip(&slow).zip(&files) {
        assert!(client.answer(*file).body == big());
        assert_eq!(client.answer(*slow).status, 200);
    }
    for client in &mut clients {
        assert_eq!(client.closed(), 0x100);
        assert!(!client.goaways().is_empty());
    }
    assert_eq!(idle.closed(), 0x100);
    wait_for("the old workers' end", || {
        let now = daemon.workers_now();
        (now.len() == 2 && now.iter().all(|pid| !old.contains(pid))).then_some(())
    });
    assert!(!old.contains(&pid(&mut fresh)));
    assert_eq!(daemon.complaints("error|crit|alert|emerg"), Vec::<String>::new());
}

#[test]
fn an_upgrade_lets_requests_end_too() {
    let (daemon, _origin, authority) = start(2);
    let mut client = H3::connect(daemon.port(0), &authority, "a.test");
    let first = pid(&mut client);
    let (slow, file) = (client.get("a.test", "/up/slow"), client.get("a.test", "/files/big"));
    client.until("a part", |client| !client.answers[&file].body.is_empty());
    let old = daemon.pid();
    let new = upgrade::upgrade(&daemon);
    send(old, Signal::SIGWINCH);
    assert_eq!(client.answer(slow).status, 200);
    assert!(client.answer(file).body == big());
    assert_eq!(client.closed(), 0x100);
    wait_for("the old workers to end", || upgrade::workers_of(old, new).is_empty().then_some(()));
    let mut fresh = H3::connect(daemon.port(0), &authority, "a.test");
    assert_ne!(pid(&mut fresh), first);
    send(old, Signal::SIGQUIT);
    wait_for("the old master to end", || (!process::is_alive(old)).then_some(()));
    daemon.follow(new);
    assert_eq!(fresh.fetch("a.test", "/").status, 200);
}

#[test]
fn a_client_that_moves_stays_with_its_worker() {
    let (daemon, _origin, authority) = start(4);
    let mut client = H3::connect(daemon.port(0), &authority, "a.test");
    let first = pid(&mut client);
    // Each new port leads to a socket of its own choice: some of them to other workers.
    for _ in 0..12 {
        client.rebind();
        assert_eq!(pid(&mut client), first);
    }
}

#[test]
fn a_client_of_a_dead_worker_is_told_so() {
    let (daemon, _origin, authority) = start(1);
    let mut client = H3::connect(daemon.port(0), &authority, "a.test");
    let first = pid(&mut client);
    send(first, Signal::SIGKILL);
    wait_for("another worker", || {
        let now = daemon.workers_now();
        (now.len() == 1 && !now.contains(&first)).then_some(())
    });
    client.get("a.test", "/");
    client.until("the end", |client| client.lost.is_some());
    assert_eq!(client.lost, Some(quinn_proto::ConnectionError::Reset));
    let mut client = H3::connect(daemon.port(0), &authority, "a.test");
    assert_ne!(pid(&mut client), first);
}

#[test]
fn connections_of_an_address_that_a_reload_removes_end_as_they_should() {
    let origin = Origin::replying(|request| {
        std::thread::sleep(Duration::from_millis(700));
        ok(&request.body)
    });
    let authority = Authority::new("Test CA");
    let pair = authority.issue(&["a.test"]);
    let other = "server { listen 127.0.0.1:%%PORT_1%% quic; location / { return 200 x; } }";
    let conf = CONF.replacen("http {", &format!("http {{ {other}"), 1);
    let setup = Setup::new(&conf).set("ORIGIN", origin.address()).set("WORKERS", 2).level("info");
    let setup = setup.file("a.crt", pair.certificate).file("a.key", pair.key).file("files/big", big());
    let daemon = setup.in_background().start();
    let old = daemon.workers();
    let mut clients: Vec<H3> = (0..4).map(|_| H3::connect(daemon.port(0), &authority, "a.test")).collect();
    let mut idle = H3::connect(daemon.port(0), &authority, "a.test");
    pid(&mut idle);
    let slow: Vec<_> = clients.iter_mut().map(|client| client.get("a.test", "/up/slow")).collect();
    let files: Vec<_> = clients.iter_mut().map(|client| client.get("a.test", "/files/big")).collect();
    for (client, file) in clients.iter_mut().zip(&files) {
        client.until("a part", |client| !client.answers[file].body.is_empty());
    }
    let address = |index| format!("127.0.0.1:{} quic", daemon.port(index));
    daemon.rewrite(|conf| conf.replace(&address(0), &address(1)));
    daemon.signal(Signal::SIGHUP);
    daemon.wait_log("generation 2 serves configuration");
    for ((client, slow), file) in clients.iter_mut().zip(&slow).zip(&files) {
        assert!(client.answer(*file).body == big());
        assert_eq!(client.answer(*slow).status, 200);
    }
    clients.iter_mut().for_each(|client| assert_eq!(client.closed(), 0x100));
    assert_eq!(idle.closed(), 0x100);
    wait_for("the old workers' end", || {
        let now = daemon.workers_now();
        (now.len() == 2 && now.iter().all(|pid| !old.contains(pid))).then_some(())
    });
    std::net::UdpSocket::bind(("127.0.0.1", daemon.port(0))).expect("nobody has the address");
    assert_eq!(H3::connect(daemon.port(1), &authority, "a.test").fetch("a.test", "/").text(), "x");
    assert_eq!(daemon.complaints("error|crit|alert|emerg"), Vec::<String>::new());
}

#[test]
fn an_address_that_comes_back_takes_new_clients_while_an_old_worker_ends() {
    comes_back(2, |setup| setup);
}

/// The kernel gives the sockets of the old worker new clients, too, if those of the new ones could not be hidden at first.
#[test]
fn an_address_that_comes_back_takes_new_clients_without_privileges_too() {
    comes_back(1, |setup| {
        let program = without_net_raw(setup.folder());
        setup.program(&program)
    });
}

fn comes_back(workers: usize, change: impl FnOnce(Setup) -> Setup) {
    let (go, wait) = channel();
    let wait = Mutex::new(wait);
    let origin = Origin::replying(move |_| {
        let _ = wait.lock().expect("not poisoned").recv_timeout(deadline());
        ok(b"late")
    });
    let authority = Authority::new("Test CA");
    let pair = authority.issue(&["a.test"]);
    let other = "server { listen 127.0.0.1:%%PORT_1%% quic; location / { return 200 x; } }";
    let conf = CONF.replacen("http {", &format!("http {{ {other}"), 1);
    let setup = Setup::new(&conf).set("ORIGIN", origin.address()).set("WORKERS", workers).level("info");
    let daemon =
        change(setup.file("a.crt", pair.certificate).file("a.key", pair.key)).in_background().start();
    let mut client = H3::connect(daemon.port(0), &authority, "a.test");
    let old = pid(&mut client);
    let slow = client.get("a.test", "/up/slow");
    client.until("the request to arrive", |_| origin.requests().len() == 1);
    let address = |index| format!("127.0.0.1:{} quic", daemon.port(index));
    let original = RefCell::new(String::new());
    daemon.rewrite(|conf| {
        original.replace(conf.clone());
        conf.replace(&address(0), &address(1))
    });
    daemon.signal(Signal::SIGHUP);
    daemon.wait_log("generation 2 serves configuration");
    daemon.rewrite(|_| original.take());
    daemon.signal(Signal::SIGHUP);
    daemon.wait_log("generation 3 serves configuration");
    for _ in 0..16 {
        let mut fresh = H3::connect(daemon.port(0), &authority, "a.test");
        assert_ne!(pid(&mut fresh), old);
    }
    assert!(process::is_alive(old));
    go.send(()).expect("the origin waits");
    assert_eq!(client.answer(slow).status, 200);
    assert_eq!(daemon.complaints("error|crit|alert|emerg"), Vec::<String>::new());
}
