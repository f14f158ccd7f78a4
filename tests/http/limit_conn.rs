//! `limit_conn`: the number of requests of one key that are served at the same time, in all workers.
//!
//! A backend that responds only when told to holds requests for as long as a test needs them.

use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};

use nix::sys::signal::Signal;

use crate::support::daemon::is_stand_in;
use crate::support::{Client, Daemon, Origin, Setup, deadline, get, origin, wait_for};

const CONF: &str = r#"
worker_processes %%WORKERS%%;
http {
    limit_conn_zone $arg_key zone=one:1m;
    limit_conn_zone $arg_key zone=two:1m;
    limit_conn_zone $http_x_key zone=long:1m;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        add_header X-Limit $limit_conn_status always;
        add_header X-Worker $pid always;
        location /held { limit_conn one 2; proxy_pass http://%%ORIGIN%%; }
        location /one { limit_conn one 1; limit_conn_status 429; limit_conn_log_level notice; }
        location /three { limit_conn one 3; }
        location /both { limit_conn two 1; limit_conn one 1; }
        location /two { limit_conn two 1; }
        location /dry { limit_conn one 1; limit_conn_dry_run on; }
        location /long { limit_conn long 1; }
        location /free { }
    }
}
"#;

/// A backend that responds once for each message.
fn patient() -> (Sender<()>, Origin) {
    let (tell, told) = mpsc::channel();
    let told = Arc::new(Mutex::new(told));
    let origin = Origin::start(move |peer| {
        while peer.request().is_some() {
            // If a test fails its backend is left behind; it must not wait longer than the deadline.
            let _ = told.lock().map(|told| told.recv_timeout(deadline()));
            peer.send(origin::ok(b"late"));
        }
    });
    (tell, origin)
}

fn start(origin: &Origin, workers: usize) -> Daemon {
    Setup::new(CONF).set("ORIGIN", origin.address()).set("WORKERS", workers).start()
}

/// Sends requests that the backend receives and holds.
fn hold(daemon: &Daemon, origin: &Origin, key: &str, count: usize) -> Vec<Client> {
    let before = origin.requests().len();
    let hold = |_| {
        let mut client = Client::connect(daemon.port(0));
        client.send(format!("GET /held?key={key} HTTP/1.1\r\nHost: a\r\n\r\n"));
        client
    };
    let clients = (0..count).map(hold).collect();
    origin.wait_requests(before + count);
    clients
}

fn limit(daemon: &Daemon, path: &str) -> (u16, String) {
    let response = get(daemon.port(0), path);
    (response.status, response.header("x-limit").unwrap_or("-").to_owned())
}

fn is(status: u16, limit: &str) -> (u16, String) {
    (status, limit.to_owned())
}

#[test]
fn more_than_the_limit_are_rejected_until_one_has_ended() {
    let (tell, origin) = patient();
    let daemon = start(&origin, 1);
    let mut held = hold(&daemon, &origin, "k", 2);
    assert_eq!(limit(&daemon, "/held?key=k"), is(503, "REJECTED"));
    assert_eq!(limit(&daemon, "/one?key=k"), is(429, "REJECTED"), "one zone, whatever the location");
    assert_eq!(limit(&daemon, "/three?key=k"), is(404, "PASSED"));
    assert_eq!(limit(&daemon, "/one?key=other"), is(404, "PASSED"));
    assert_eq!(limit(&daemon, "/one"), is(404, "-"), "no key, no limit");
    assert_eq!(limit(&daemon, "/free?key=k"), is(404, "-"));
    assert_eq!(limit(&daemon, "/dry?key=k"), is(404, "REJECTED_DRY_RUN"));
    daemon.wait_log(r#"\[error\].*limiting connections by zone "one", client: 127"#);
    daemon.wait_log(r#"\[notice\].*limiting connections by zone "one", client"#);
    daemon.wait_log(r#"limiting connections, dry run, by zone "one", client"#);
    if !is_stand_in() {
        daemon.wait_log(r#"limiting connections.*, rule: \S+pronghorn\.conf:\d+"#);
    }
    tell.send(()).and_then(|()| tell.send(())).expect("the backend listens");
    let statuses: Vec<u16> = held.iter_mut().map(|client| client.response().status).collect();
    assert_eq!(statuses, [200, 200]);
    wait_for("what was held to be free", || (limit(&daemon, "/one?key=k").0 == 404).then_some(()));
}

#[test]
fn who_is_rejected_by_one_rule_holds_nothing_of_the_others() {
    let (tell, origin) = patient();
    let daemon = start(&origin, 1);
    let _held = hold(&daemon, &origin, "k", 1);
    for _ in 0..3 {
        assert_eq!(limit(&daemon, "/both?key=k").0, 503);
        assert_eq!(limit(&daemon, "/two?key=k").0, 404);
    }
    drop(tell);
}

#[test]
fn a_client_that_leaves_gives_back_what_it_held() {
    let (tell, origin) = patient();
    let daemon = start(&origin, 1);
    drop(hold(&daemon, &origin, "k", 2));
    wait_for("what was held to be free", || (limit(&daemon, "/one?key=k").0 == 404).then_some(()));
    drop(tell);
}

#[test]
fn workers_share_a_zone_and_a_dead_one_holds_nothing() {
    let (tell, origin) = patient();
    let daemon = start(&origin, 2);
    let before = daemon.workers();
    let held = hold(&daemon, &origin, "k", 2);
    for _ in 0..16 {
        assert_eq!(limit(&daemon, "/held?key=k").0, 503, "in whatever worker");
    }
    if is_stand_in() {
        return; // its dead workers hold their counts for ever
    }
    before.iter().for_each(|pid| crate::support::daemon::send(*pid, Signal::SIGKILL));
    wait_for("other workers", || {
        let now = daemon.workers_now();
        (now.len() == 2 && now.iter().all(|pid| !before.contains(pid))).then_some(())
    });
    wait_for("what was held to be free", || (limit(&daemon, "/one?key=k").0 == 404).then_some(()));
    drop((held, tell));
}

#[test]
fn a_reload_counts_what_the_older_workers_hold() {
    let (tell, origin) = patient();
    let daemon = start(&origin, 1);
    let mut held = hold(&daemon, &origin, "k", 2);
    // The old worker stays for as long as it holds requests.
    let old = daemon.workers();
    daemon.signal(Signal::SIGHUP);
    wait_for("a new worker to serve", || {
        let response = get(daemon.port(0), "/three?key=new");
        (!old.iter().any(|pid| response.header("x-worker") == Some(&pid.to_string()))).then_some(())
    });
    assert_eq!(limit(&daemon, "/held?key=k"), is(503, "REJECTED"));
    tell.send(()).and_then(|()| tell.send(())).expect("the backend listens");
    held.iter_mut().for_each(|client| assert_eq!(client.response().status, 200));
    wait_for("what was held to be free", || (limit(&daemon, "/one?key=k").0 == 404).then_some(()));
}

#[test]
fn long_keys_are_not_limited_and_empty_ones_are_none() {
    let (tell, origin) = patient();
    let daemon = start(&origin, 1);
    for (length, expected) in [(0, "-"), (255, "PASSED"), (256, "-"), (4000, "-")] {
        let key = "x".repeat(length);
        let mut client = Client::connect(daemon.port(0));
        client.send(format!("GET /long HTTP/1.1\r\nHost: a\r\nX-Key: {key}\r\nConnection: close\r\n\r\n"));
        let response = client.response();
        assert_eq!((response.status, response.header("x-limit").unwrap_or("-")), (404, expected), "{length}");
    }
    daemon.wait_log("is more than 255 bytes");
    drop(tell);
}

#[test]
fn what_is_wrong_is_said_in_nginx_s_words() {
    let cases = [
        ("limit_conn_zone $arg_a zone=z:1k;", "", "zone \"zone=z:1k\" is too small"),
        ("limit_conn_zone $arg_a zone=z;", "", "invalid zone size \"zone=z\""),
        ("limit_conn_zone $arg_a zine=z;", "", "invalid parameter \"zine=z\""),
        ("limit_conn_zone $arg_a zone=z:1m;", "limit_conn z 0;", "invalid number of connections \"0\""),
        ("limit_conn_zone $arg_a zone=z:1m;", "limit_conn z 65536;", "connection limit must be less 65536"),
        ("limit_conn_zone $arg_a zone=z:1m;", "limit_conn z 1; limit_conn z 2;", "is duplicate"),
        ("", "limit_conn nobody 1;", "zero size shared memory zone \"nobody\""),
        (
            "limit_conn_zone $arg_a zone=z:1m; limit_req_zone $arg_a zone=z:1m rate=1r/s;",
            "",
            "the shared memory zone \"z\" is already declared for a different use",
        ),
    ];
    for (zone, rule, expected) in cases {
        let conf = format!("http {{ {zone} server {{ listen 127.0.0.1:%%PORT_0%%; {rule} }} }}");
        let Err(exit) = Setup::new(&conf).try_start() else { panic!("{zone} {rule}: it started") };
        assert!(exit.stderr.contains(expected), "{zone} {rule}: {}", exit.stderr);
    }
}
