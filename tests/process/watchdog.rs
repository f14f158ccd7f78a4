//! A stuck worker: it is named in the log, relieved of new connections, and taken back or replaced.

use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;

use nix::sys::signal::Signal;

use crate::support::daemon::{is_stand_in, send};
use crate::support::{Setup, deadline, get, wait_for};

const CONF: &str = r#"
worker_processes 2;
worker_watchdog %%WATCHDOG%%;
http {
    server { listen 127.0.0.1:%%PORT_0%%; location / { return 200 "here\n"; } }
}
"#;

#[test]
fn a_stopped_worker_is_named_and_the_others_serve() {
    if is_stand_in() {
        return; // nginx has no watchdog
    }
    let daemon = Setup::new(CONF).set("WATCHDOG", "60s").level("notice").start();
    let workers = daemon.workers();
    daemon.wait_log("generation 1 serves"); // one that is not ready is not asked for signs of life
    send(workers[0], Signal::SIGSTOP);
    // Connections come, so its queue fills; the sibling answers each of them.
    for _ in 0..20 {
        assert_eq!(get(daemon.port(0), "/").text(), "here\n");
    }
    let line = daemon.wait_log("stuck");
    assert!(line.contains(&workers[0].to_string()), "{line}");
    send(workers[0], Signal::SIGCONT);
    daemon.wait_log(&format!("{}.*(moves|back|again|recovered)", workers[0]));
    assert_eq!(daemon.workers(), workers, "the same workers");
    for _ in 0..20 {
        assert_eq!(get(daemon.port(0), "/").text(), "here\n");
    }
}

#[test]
fn a_worker_that_stays_stuck_is_replaced() {
    if is_stand_in() {
        return;
    }
    let daemon = Setup::new(CONF).set("WATCHDOG", "1s").level("notice").start();
    let workers = daemon.workers();
    send(workers[0], Signal::SIGSTOP);
    for _ in 0..20 {
        assert_eq!(get(daemon.port(0), "/").text(), "here\n");
    }
    wait_for("another worker in its place", || {
        let now = daemon.workers_now();
        (now.len() == 2 && !now.contains(&workers[0]) && now.contains(&workers[1])).then_some(())
    });
    for _ in 0..20 {
        assert_eq!(get(daemon.port(0), "/").text(), "here\n");
    }
}

/// It is not ready, so no ping waits for its answer; but the reload waits for it, and the next reload behind
/// that one.
#[test]
fn a_worker_that_is_stopped_while_it_starts_does_not_hold_up_reloads() {
    if is_stand_in() {
        return;
    }
    let daemon = Setup::new(CONF).set("WATCHDOG", "1s").level("notice").start();
    let old = daemon.workers();
    daemon.signal(Signal::SIGHUP);
    let end = std::time::Instant::now() + deadline();
    let stopped = loop {
        let fresh = daemon.workers_now().into_iter().find(|pid| !old.contains(pid));
        if let Some(fresh) = fresh {
            send(fresh, Signal::SIGSTOP); // as early as possible: in the middle of its start
            break fresh;
        }
        assert!(std::time::Instant::now() < end, "no new worker");
    };
    daemon.rewrite(|text| text.replace("here", "there"));
    daemon.signal(Signal::SIGHUP);
    // If the stop came too late the worker was ready, and the reload did not wait for it.
    wait_for("the old workers to end", || {
        daemon.workers_now().iter().all(|pid| !old.contains(pid)).then_some(())
    });
    wait_for("the next configuration", || (get(daemon.port(0), "/").text() == "there\n").then_some(()));
    send(stopped, Signal::SIGCONT);
}

/// A request that evaluates many expressions, each of which gives up after some milliseconds, keeps a worker in one turn
/// for seconds.
#[test]
fn the_log_says_where_a_stuck_worker_is() {
    if is_stand_in() {
        return;
    }
    const MAPS: usize = if cfg!(debug_assertions) { 10 } else { 60 }; // 24 ms each if optimized, otherwise ten times that
    let map = |index| format!("map $arg_m $m{index} {{ \"~^.*?((a+)+(?!c{index}))+\\1$\" x; default -; }}\n");
    let maps: String = (0..MAPS).map(map).collect();
    let values: String = (0..MAPS).map(|index| format!("$m{index}")).collect();
    let conf = format!(
        "worker_processes 1;\nworker_watchdog 60s;\nhttp {{\n{maps}server {{ listen 127.0.0.1:%%PORT_0%%;\n\
         location /slow {{ return 200 \"{values}\"; }} location / {{ return 200 here; }} }} }}\n"
    );
    let daemon = Setup::new(&conf).level("notice").start();
    let port = daemon.port(0);
    let worker = daemon.worker();
    let slow = std::thread::spawn(move || get(port, &format!("/slow?m={}b", "a".repeat(400))).status);
    let line = daemon.wait_log(&format!("worker process {worker}.* in .*pronghorn::script::"));
    assert!(line.contains(" < ") && line.contains("regex"), "{line}");
    assert!(!line.contains("whereabouts"), "only what was interrupted: {line}");
    assert_eq!(daemon.log_count("is stuck"), 1, "{line}");
    // It was interrupted and goes on: the request is answered, and so are others.
    daemon.wait_log(&format!("worker process {worker} responds again"));
    slow.join().expect("answered");
    assert_eq!(get(port, "/").text(), "here");
    assert_eq!(daemon.worker(), worker, "the same worker");
}

/// The signal that asks a stuck worker where it is ends the write in which it is stuck.
#[test]
fn a_line_in_which_a_worker_is_stuck_is_written_when_there_is_room() {
    if is_stand_in() {
        return;
    }
    let conf = "worker_processes 1;\nworker_watchdog 60s;\nhttp { server { listen 127.0.0.1:%%PORT_0%%; root %%DIR%%;\n\
                location /missing { error_log stderr; } location / { return 200 here; } } }\n";
    let setup = Setup::new(conf).level("notice").prelude("exec 2>pipe;");
    let path = setup.folder().join("pipe");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let mut options = std::fs::File::options();
    options.read(true).write(true).custom_flags(nix::libc::O_NONBLOCK);
    let mut pipe = options.open(path).expect("opens");
    let daemon = setup.start();
    while pipe.write(&[b'x'; 4096]).is_ok() {}
    while pipe.write(b"x").is_ok() {}
    let port = daemon.port(0);
    let slow = std::thread::spawn(move || get(port, "/missing").status);
    daemon.wait_log(&format!("worker process {}.* is stuck", daemon.worker()));
    let (mut told, mut some) = (String::new(), [0; 4096]);
    wait_for("the line", || {
        while let Ok(count @ 1..) = pipe.read(&mut some) {
            told.push_str(&String::from_utf8_lossy(&some[..count]));
        }
        told.contains("/missing\" failed (2").then_some(())
    });
    assert_eq!(slow.join().expect("answered"), 404);
    assert!(!told.contains("were lost"), "{}", told.trim_start_matches('x'));
}
