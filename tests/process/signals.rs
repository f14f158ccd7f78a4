//! TERM, QUIT and USR1: stopping at once, stopping gracefully, reopening logs.

use nix::sys::signal::Signal;

use crate::support::wire::End;
use crate::support::{Client, Origin, Setup, deadline, get, wait_for};

const CONF: &str = r#"
worker_processes 2;
http {
    access_log %%DIR%%/logs/access.log;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { return 200 "here\n"; }
        location /proxied { proxy_pass http://%%ORIGIN%%; }
    }
}
"#;

#[test]
fn quit_finishes_requests_and_closes_idle_connections() {
    let (go, origin) = Origin::in_two_parts();
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).start();
    let mut idle = Client::connect(daemon.port(0));
    idle.get("/");
    let mut busy = Client::connect(daemon.port(0));
    busy.send("GET /proxied HTTP/1.1\r\nHost: a\r\n\r\n");
    busy.response_head();
    daemon.signal(Signal::SIGQUIT);
    assert_eq!(idle.expect_end(), End::Closed);
    wait_for("the address to be given up", || {
        (!crate::support::process::is_listening(daemon.port(0))).then_some(())
    });
    go.send(()).expect("the origin waits");
    assert_eq!(busy.exactly(10), b"first-last");
    assert_eq!(busy.expect_end(), End::Closed);
    assert_eq!(daemon.wait_end().and_then(|status| status.code()), Some(0));
    assert!(!daemon.path("pronghorn.pid").exists());
}

#[test]
fn a_late_answer_after_quit_ends_the_connection() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let origin = Origin::start(move |peer| {
        peer.request();
        let _ = wait.lock().expect("not poisoned").recv_timeout(deadline());
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate");
    });
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).start();
    let mut idle = Client::connect(daemon.port(0));
    idle.get("/");
    let mut busy = Client::connect(daemon.port(0));
    busy.send("GET /proxied HTTP/1.1\r\nHost: a\r\n\r\n");
    origin.wait_requests(1);
    daemon.signal(Signal::SIGQUIT);
    daemon.wait_log("gracefully shutting down");
    assert_eq!(idle.expect_end(), End::Closed);
    wait_for("the address to be given up", || {
        (!crate::support::process::is_listening(daemon.port(0))).then_some(())
    });
    go.send(()).expect("the origin waits");
    let response = busy.response();
    assert_eq!((response.text().as_str(), response.header("connection")), ("late", Some("close")));
    assert_eq!(busy.expect_end(), End::Closed);
    assert_eq!(daemon.wait_end().and_then(|status| status.code()), Some(0));
}

#[test]
fn term_stops_at_once_even_with_requests() {
    let origin = Origin::start(|peer| {
        peer.request();
        peer.rest();
    });
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).start();
    let mut busy = Client::connect(daemon.port(0));
    busy.send("GET /proxied HTTP/1.1\r\nHost: a\r\n\r\n");
    origin.wait_requests(1);
    assert_eq!(daemon.stop(Signal::SIGTERM).and_then(|status| status.code()), Some(0));
    busy.rest();
    assert!(!daemon.path("pronghorn.pid").exists());
}

#[test]
fn usr1_reopens_the_logs() {
    let daemon = Setup::new(CONF).set("ORIGIN", "127.0.0.1:1").start();
    get(daemon.port(0), "/one");
    daemon.wait_line("logs/access.log", "GET /one");
    std::fs::rename(daemon.path("logs/access.log"), daemon.path("logs/access.log.1")).expect("it is there");
    std::fs::rename(daemon.path("error.log"), daemon.path("error.log.1")).expect("it is there");
    daemon.signal(Signal::SIGUSR1);
    wait_for("the new files", || {
        // Every worker writes to the new file: ask until both logs exist again and receive lines.
        get(daemon.port(0), "/two");
        let here = daemon.read("logs/access.log").contains("GET /two") && daemon.path("error.log").exists();
        here.then_some(())
    });
    assert!(daemon.read("logs/access.log.1").contains("GET /one"));
}

#[test]
fn the_command_line_sends_signals() {
    let daemon = Setup::new(CONF).set("ORIGIN", "127.0.0.1:1").start();
    let old = daemon.workers();
    let output = daemon.run(&["-s", "reload"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    wait_for("new workers", || daemon.workers_now().iter().all(|pid| !old.contains(pid)).then_some(()));
    let output = daemon.run(&["-s", "quit"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(daemon.wait_end().and_then(|status| status.code()), Some(0));
    let output = daemon.run(&["-s", "stop"]);
    assert_eq!(output.status.code(), Some(1), "nobody is there");
}
