//! HUP reopens every log by its path, as rotation by `mv` and HUP expects; the old workers keep the old files
//! to the end.

use std::fs;

use nix::sys::signal::Signal;

use crate::support::{Client, Daemon, Origin, Setup, get, wait_for};

const CONF: &str = r#"
worker_processes 2;
http {
    log_format path $uri;
    access_log logs/access.log path;
    error_log logs/http.log debug;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { return 200; }
        location /missing { root %%DIR%%; }
        location /slow { proxy_pass http://127.0.0.1:%%ORIGIN%%; }
    }
}
"#;

/// Waits until a log has these lines, no more and no less.
fn expect_lines(daemon: &Daemon, name: &str, expected: &[&str]) {
    let mut found = String::new();
    wait_for(&format!("{expected:?} in {name}"), || {
        found = daemon.read(name);
        (found.lines().collect::<Vec<_>>() == expected).then_some(())
    });
}

#[test]
fn a_log_that_was_moved_away_is_followed_by_a_new_one() {
    let (go, origin) = Origin::in_two_parts();
    let daemon = Setup::new(CONF).set("ORIGIN", origin.port()).start();
    get(daemon.port(0), "/one");
    expect_lines(&daemon, "logs/access.log", &["/one"]);
    let mut slow = Client::connect(daemon.port(0));
    slow.send("GET /slow HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    slow.response_head();
    let old = daemon.workers();
    for name in ["access.log", "http.log"] {
        let path = daemon.path("logs").join(name);
        fs::rename(&path, path.with_extension("log.1")).expect("it is there");
    }
    daemon.signal(Signal::SIGHUP);
    wait_for("new workers beside the one that is not done", || {
        let is_new = |pid: &i32| !old.contains(pid);
        (daemon.workers_now().iter().filter(|pid| is_new(pid)).count() == 2).then_some(())
    });
    // Both: an old worker that was not told yet still accepts, and writes to the old file.
    wait_for("the old workers to stop accepting", || {
        (daemon.log_count("gracefully shutting down") == old.len()).then_some(())
    });
    get(daemon.port(0), "/two");
    get(daemon.port(0), "/missing");
    expect_lines(&daemon, "logs/access.log", &["/two", "/missing"]);
    daemon.wait_line("logs/http.log", "/missing\" failed");
    go.send(()).expect("the origin waits");
    slow.rest();
    expect_lines(&daemon, "logs/access.log.1", &["/one", "/slow"]);
}

#[test]
fn the_logs_of_a_folder_that_was_made_anew_are_new() {
    let daemon = Setup::new(CONF).set("ORIGIN", 1).start();
    get(daemon.port(0), "/one");
    expect_lines(&daemon, "logs/access.log", &["/one"]);
    fs::remove_dir_all(daemon.path("logs")).expect("it is there");
    fs::create_dir(daemon.path("logs")).expect("it is gone");
    daemon.reload();
    get(daemon.port(0), "/two");
    expect_lines(&daemon, "logs/access.log", &["/two"]);
}

#[test]
fn a_log_that_cannot_be_opened_refuses_the_reload_and_loses_no_line() {
    let daemon = Setup::new(CONF).set("ORIGIN", 1).start();
    fs::rename(daemon.path("logs/access.log"), daemon.path("logs/access.log.1")).expect("it is there");
    fs::create_dir(daemon.path("logs/access.log")).expect("the name is free");
    let workers = daemon.workers();
    daemon.signal(Signal::SIGHUP);
    daemon.wait_log(r#"\[emerg\].*/logs/access.log" failed \(21: Is a directory\)"#);
    get(daemon.port(0), "/one");
    expect_lines(&daemon, "logs/access.log.1", &["/one"]);
    assert_eq!(daemon.workers(), workers);
    fs::remove_dir(daemon.path("logs/access.log")).expect("it is empty");
    daemon.reload();
    get(daemon.port(0), "/two");
    expect_lines(&daemon, "logs/access.log", &["/two"]);
    expect_lines(&daemon, "logs/access.log.1", &["/one"]);
}

#[test]
fn the_parameters_of_a_reload_that_is_refused_are_not_those_of_the_next_worker() {
    let daemon = Setup::new(CONF).set("ORIGIN", 1).start();
    let before = daemon.read("pronghorn.conf");
    daemon.rewrite(|text| {
        let text = text.replace("access.log path;", "access.log path buffer=1m;");
        text.replace("error_log logs/http.log", "error_log nowhere/http.log")
    });
    daemon.signal(Signal::SIGHUP);
    daemon.wait_log(r#"\[emerg\].*/nowhere/http.log" failed"#);
    daemon.rewrite(|_| before);
    let old = daemon.workers();
    for pid in &old {
        crate::support::daemon::send(*pid, Signal::SIGKILL);
    }
    wait_for("their successors", || daemon.workers_now().iter().all(|pid| !old.contains(pid)).then_some(()));
    get(daemon.port(0), "/one");
    expect_lines(&daemon, "logs/access.log", &["/one"]);
}
