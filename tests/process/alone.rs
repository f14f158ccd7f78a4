//! `master_process off`: a single process that serves, and its handling of signals.

use nix::sys::signal::Signal;

use crate::support::daemon::is_stand_in;
use crate::support::wire::End;
use crate::support::{Client, Daemon, Origin, Setup, deadline, get, process, wait_for};

const CONF: &str = r#"
master_process off;
http {
    access_log %%DIR%%/logs/access.log;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { return 200 "here\n"; }
        location /proxied { proxy_pass http://%%ORIGIN%%; }
    }
}
"#;

fn start(origin: &str) -> Daemon {
    Setup::new(CONF).set("ORIGIN", origin).level("notice").alone().start()
}

fn busy(daemon: &Daemon) -> Client {
    let mut busy = Client::connect(daemon.port(0));
    busy.send("GET /proxied HTTP/1.1\r\nHost: a\r\n\r\n");
    busy.response_head();
    busy
}

fn ended(daemon: &Daemon) {
    assert_eq!(daemon.wait_end().and_then(|status| status.code()), Some(0));
    for name in ["pronghorn.pid", "pronghorn.pid.lock"] {
        assert!(is_stand_in() || !daemon.path(name).exists(), "{name}");
    }
}

#[test]
fn quit_finishes_requests_and_refuses_new_clients() {
    let (go, origin) = Origin::in_two_parts();
    let daemon = start(&origin.address());
    let mut idle = Client::connect(daemon.port(0));
    idle.get("/");
    let mut busy = busy(&daemon);
    daemon.signal(Signal::SIGQUIT);
    if !is_stand_in() {
        assert_eq!(idle.expect_end(), End::Closed);
        wait_for("the address to be given up", || (!process::is_listening(daemon.port(0))).then_some(()));
        go.send(()).expect("the origin waits");
        assert_eq!(busy.exactly(10), b"first-last");
        assert_eq!(busy.expect_end(), End::Closed);
    }
    drop(go);
    ended(&daemon);
}

#[test]
fn term_and_int_stop_at_once_even_with_requests() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let (go, origin) = Origin::in_two_parts();
        let daemon = start(&origin.address());
        let mut busy = busy(&daemon);
        daemon.signal(signal);
        ended(&daemon);
        assert_eq!(busy.rest().0, b"first");
        drop(go);
    }
}

#[test]
fn usr1_reopens_the_logs() {
    let daemon = start("127.0.0.1:1");
    get(daemon.port(0), "/one");
    daemon.wait_line("logs/access.log", "GET /one");
    std::fs::rename(daemon.path("logs/access.log"), daemon.path("logs/access.log.1")).expect("it is there");
    std::fs::rename(daemon.path("error.log"), daemon.path("error.log.1")).expect("it is there");
    daemon.signal(Signal::SIGUSR1);
    wait_for("the new files", || {
        let there = daemon.path("logs/access.log").exists() && daemon.path("error.log").exists();
        there.then_some(())
    });
    get(daemon.port(0), "/two");
    daemon.wait_line("logs/access.log", "GET /two");
    assert!(daemon.read("logs/access.log.1").contains("GET /one"));
}

#[test]
fn a_reload_and_an_upgrade_are_refused_in_the_log() {
    if is_stand_in() {
        return; // nginx reloads even so
    }
    let daemon = start("127.0.0.1:1");
    let mut client = Client::connect(daemon.port(0));
    assert_eq!(client.get("/").text(), "here\n");
    daemon.rewrite(|text| text.replace("here", "there"));
    daemon.signal(Signal::SIGHUP);
    daemon.wait_log("signal 1 \\(SIGHUP\\) is ignored.*master_process");
    daemon.signal(Signal::SIGUSR2);
    daemon.wait_log("signal 12 \\(SIGUSR2\\) is ignored.*master_process");
    assert_eq!(client.get("/").text(), "here\n");
    assert_eq!(daemon.read("pronghorn.pid"), format!("{}\n", daemon.pid()));
}

#[test]
fn winch_ends_it_gracefully() {
    if is_stand_in() {
        return;
    }
    let daemon = start("127.0.0.1:1");
    // It listens before it handles signals, and the system ignores this one until then.
    wait_for("the pid file", || {
        (daemon.read("pronghorn.pid").trim().parse() == Ok(daemon.pid())).then_some(())
    });
    daemon.signal(Signal::SIGWINCH);
    ended(&daemon);
}

#[test]
fn an_end_is_obeyed_as_soon_as_there_is_a_pid_file() {
    if is_stand_in() {
        return;
    }
    for attempt in 0..20 {
        let daemon = Setup::new(CONF).set("ORIGIN", "127.0.0.1:1").level("notice").alone().spawn();
        let end = std::time::Instant::now() + deadline();
        while daemon.read("pronghorn.pid").trim().parse() != Ok(daemon.pid()) {
            assert!(std::time::Instant::now() < end, "no pid file");
            std::hint::spin_loop(); // a sleep would miss the moment
        }
        daemon.signal(if attempt % 2 == 0 { Signal::SIGTERM } else { Signal::SIGQUIT });
        ended(&daemon);
    }
}

#[test]
fn in_the_background_it_ends_as_in_the_foreground() {
    let setup = Setup::new(CONF).set("ORIGIN", "127.0.0.1:1").level("notice").alone();
    let daemon = setup.in_background().start();
    assert_eq!(get(daemon.port(0), "/").text(), "here\n");
    daemon.stop(Signal::SIGQUIT);
    assert!(is_stand_in() || !daemon.path("pronghorn.pid").exists());
}

/// The first process of a container inherits every orphan; here, a child of the shell that became the daemon.
#[test]
fn children_that_end_are_collected() {
    let setup = Setup::new(CONF).set("ORIGIN", "127.0.0.1:1").file("running", "").alone();
    let daemon = setup.prelude("while [ -e running ]; do sleep 0.02; done & ").start();
    assert_eq!(process::children(daemon.pid()).len(), 1);
    std::fs::remove_file(daemon.path("running")).expect("it is there");
    wait_for("the child to be collected", || process::children(daemon.pid()).is_empty().then_some(()));
    assert_eq!(get(daemon.port(0), "/").text(), "here\n");
}
