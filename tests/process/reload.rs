//! HUP: the new configuration is used, no request and no connection is lost.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;

use crate::support::daemon::is_stand_in;
use crate::support::wire::End;
use crate::support::{Client, Load, Origin, Setup, get, wait_for};

const CONF: &str = r#"
worker_processes 2;
http {
    keepalive_timeout 60s;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        keepalive_requests 1000000;
        location / { return 200 "version 1\n"; }
        location /proxied { proxy_pass http://%%ORIGIN%%; }
    }
}
"#;

#[test]
fn the_new_configuration_is_used() {
    let daemon = Setup::new(CONF).set("ORIGIN", "127.0.0.1:1").start();
    assert_eq!(get(daemon.port(0), "/").text(), "version 1\n");
    let pid = daemon.pid();
    daemon.rewrite(|text| text.replace("version 1", "version 2"));
    daemon.reload();
    assert_eq!(get(daemon.port(0), "/").text(), "version 2\n");
    assert_eq!(daemon.pid(), pid);
    daemon.wait_log("signal 1 \\(SIGHUP\\) received from \\d+, reconfiguring");
}

#[test]
fn an_idle_connection_lives_on_in_a_new_worker() {
    if is_stand_in() {
        return; // nginx closes it
    }
    let daemon = Setup::new(CONF).set("ORIGIN", "127.0.0.1:1").start();
    let mut clients: Vec<Client> = (0..50).map(|_| Client::connect(daemon.port(0))).collect();
    for client in &mut clients {
        assert_eq!(client.get("/").text(), "version 1\n");
    }
    for version in 2..5 {
        daemon
            .rewrite(|text| text.replace(&format!("version {}", version - 1), &format!("version {version}")));
        daemon.reload();
        for client in &mut clients {
            assert_eq!(client.get("/").text(), format!("version {version}\n"));
        }
    }
}

/// More than the sockets between the processes can hold, so that the old worker has to wait for the master.
#[test]
fn many_idle_connections_live_on_too() {
    if is_stand_in() {
        return; // nginx closes them
    }
    const COUNT: u64 = 1_500;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    if hard < COUNT + 200 {
        eprintln!("{hard} descriptors are too few for this test");
        return;
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("the soft limit may be raised");
    let conf = CONF.replace("worker_processes 2;", "worker_processes 1; events { worker_connections 2000; }");
    let daemon = Setup::new(&conf).set("ORIGIN", "127.0.0.1:1").start();
    let mut clients: Vec<Client> = (0..COUNT).map(|_| Client::connect(daemon.port(0))).collect();
    for client in &mut clients {
        assert_eq!(client.get("/").text(), "version 1\n");
    }
    daemon.rewrite(|text| text.replace("version 1", "version 2"));
    daemon.reload();
    for client in &mut clients {
        assert_eq!(client.get("/").text(), "version 2\n");
    }
    daemon.wait_log("gracefully shutting down");
    assert_eq!(daemon.log_count("exited with code [^0]"), 0);
}

#[test]
fn a_request_in_flight_is_finished_by_the_old_worker() {
    let (go, origin) = Origin::in_two_parts();
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).start();
    let old = daemon.workers();
    let mut client = Client::connect(daemon.port(0));
    client.send("GET /proxied HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response_head().status, 200);
    daemon.signal(Signal::SIGHUP);
    wait_for("new workers beside the old one", || {
        let now = daemon.workers_now();
        (now.iter().filter(|pid| !old.contains(pid)).count() == 2).then_some(())
    });
    go.send(()).expect("the origin waits");
    assert_eq!(client.exactly(10), b"first-last");
    if is_stand_in() {
        assert_eq!(client.expect_end(), End::Closed);
    } else {
        assert_eq!(client.get("/").text(), "version 1\n", "and then it is handed over");
    }
    wait_for("the old workers to end", || {
        daemon.workers_now().iter().all(|pid| !old.contains(pid)).then_some(())
    });
}

#[test]
fn reloads_under_load_fail_no_request() {
    let daemon = Setup::new(CONF).set("ORIGIN", "127.0.0.1:1").level("notice").start();
    let load = Load::start(daemon.port(0), 8);
    for _ in 0..10 {
        daemon.reload();
        load.wait(20);
    }
    load.finish();
}

#[test]
fn addresses_come_and_go() {
    let conf = CONF.replace("http {", "http {\n    # more\n");
    let daemon = Setup::new(&conf).set("ORIGIN", "127.0.0.1:1").start();
    let more = crate::support::port::free();
    daemon.rewrite(|text| {
        text.replace("# more", &format!("server {{ listen 127.0.0.1:{more}; return 200 more; }} # more"))
    });
    daemon.reload();
    assert_eq!(get(more, "/").text(), "more");
    daemon
        .rewrite(|text| text.replace(&format!("server {{ listen 127.0.0.1:{more}; return 200 more; }}"), ""));
    daemon.reload();
    wait_for("the address to be given up", || (!crate::support::process::is_listening(more)).then_some(()));
    assert_eq!(get(daemon.port(0), "/").text(), "version 1\n");
}
