//! Binary upgrades at bad moments: under load, with both masters told to stop, with signals that cross.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nix::sys::signal::Signal;

use super::upgrade::{upgrade, upgraded, workers_of};
use crate::support::daemon::{is_stand_in, send};
use crate::support::h2::{H2, WINDOW_UPDATE};
use crate::support::{Client, Daemon, Load, Setup, get, process, wait_for};

const CONF: &str = r#"
worker_processes 2;
events { worker_connections 1000; }
http {
    keepalive_timeout 60s;
    keepalive_requests 100000000;
    server { listen 127.0.0.1:%%PORT_0%%; location / { return 200 "here\n"; } }
}
"#;

fn start() -> Daemon {
    Setup::new(CONF).level("notice").in_background().start()
}

fn wait_gone(pid: i32) {
    wait_for("a master to end", || (!process::is_alive(pid)).then_some(()));
}

#[test]
fn an_upgrade_under_load_fails_no_request() {
    let daemon = start();
    let load = Load::start(daemon.port(0), 8);
    for round in 0..4 {
        let old = daemon.pid();
        let new = upgrade(&daemon);
        load.wait(50);
        if round % 2 == 0 {
            send(old, Signal::SIGWINCH);
            wait_for("the old workers to end", || workers_of(old, new).is_empty().then_some(()));
            load.wait(50);
        }
        send(old, Signal::SIGQUIT);
        wait_gone(old);
        daemon.follow(new);
        load.wait(50);
    }
    load.finish();
}

/// Streams of HTTP/2 under way are finished by the old workers; their clients go to the new ones afterwards.
#[test]
fn upgrades_and_reloads_fail_no_stream() {
    const BODY: usize = 300_000;
    let conf = CONF
        .replace("location /", "http2 on; location /big { alias %%DIR%%/big; } location /")
        .replace("keepalive_timeout", "http2_max_concurrent_streams 16; keepalive_timeout");
    let daemon = Setup::new(&conf).level("notice").in_background().file("big", vec![b'x'; BODY]).start();
    let (port, stop, served) = (daemon.port(0), AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    let mut client = H2::connect(port);
                    while client.goodbyes.is_empty() && !stop.load(Ordering::SeqCst) {
                        let streams: Vec<u32> = (0..8).map(|_| client.get("/", &[])).collect();
                        for stream in streams {
                            let answer = client.answer(stream);
                            assert_eq!((answer.status, answer.text().as_str()), (200, "here\n"));
                            served.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                }
            });
        }
        let wait = |more: usize| {
            let now = served.load(Ordering::SeqCst);
            wait_for("requests", || (served.load(Ordering::SeqCst) >= now + more).then_some(()));
        };
        // A download of which nothing may be sent yet.
        let begin = || {
            let mut client = H2::with_settings(port, &[0, 4, 0, 0, 0, 0]);
            let stream = client.get("/big", &[]);
            client.read_until("a head", |client| client.answers.contains_key(&stream));
            (client, stream)
        };
        let finish = |(mut client, stream): (H2, u32)| {
            let room = (BODY as u32).to_be_bytes();
            client.send(WINDOW_UPDATE, 0, stream, &room).send(WINDOW_UPDATE, 0, 0, &room);
            assert_eq!(client.answer(stream).body.len(), BODY);
        };
        for _ in 0..3 {
            let download = begin();
            let count = daemon.log_count("signal 1 .*reconfiguring");
            daemon.signal(Signal::SIGHUP);
            wait_for("a reload", || (daemon.log_count("signal 1 .*reconfiguring") > count).then_some(()));
            wait(100);
            finish(download);
            let (download, old) = (begin(), daemon.pid());
            let new = upgrade(&daemon);
            wait(100);
            send(old, Signal::SIGQUIT);
            wait(100);
            finish(download);
            wait_gone(old);
            daemon.follow(new);
        }
        stop.store(true, Ordering::SeqCst);
    });
    assert_eq!(daemon.complaints("error|crit|alert|emerg"), Vec::<String>::new());
}

#[test]
fn an_upgrade_that_is_taken_back_under_load_fails_no_request() {
    let daemon = start();
    let old = daemon.pid();
    let load = Load::start(daemon.port(0), 8);
    for round in 0..4 {
        let new = upgrade(&daemon);
        load.wait(50);
        if round % 2 == 0 {
            send(old, Signal::SIGWINCH);
            wait_for("the old workers to end", || workers_of(old, new).is_empty().then_some(()));
            load.wait(50);
            send(old, Signal::SIGHUP);
            wait_for("the old workers' return", || (workers_of(old, new).len() == 2).then_some(()));
        }
        send(new, Signal::SIGQUIT);
        wait_gone(new);
        load.wait(50);
        wait_for("the pid file to come back", || {
            (daemon.read("pronghorn.pid") == format!("{old}\n")).then_some(())
        });
    }
    load.finish();
}

#[test]
fn both_masters_end_when_both_are_told_to() {
    for turn in 0..6 {
        let daemon = start();
        let old = daemon.pid();
        let mut clients: Vec<Client> = (0..200).map(|_| Client::connect(daemon.port(0))).collect();
        clients.iter_mut().for_each(|client| assert_eq!(client.get("/").status, 200));
        let new = upgrade(&daemon);
        if turn % 3 == 0 {
            send(old, Signal::SIGWINCH);
        }
        let pair = if turn % 2 == 0 { [old, new] } else { [new, old] };
        pair.iter().for_each(|&pid| send(pid, Signal::SIGQUIT));
        wait_gone(old);
        wait_gone(new);
        for name in ["pronghorn.pid", "pronghorn.pid.oldbin"] {
            assert!(!daemon.path(name).exists(), "{name}, turn {turn}");
        }
        for client in &mut clients {
            client.expect_end();
        }
        wait_for("the address", || (!process::is_listening(daemon.port(0))).then_some(()));
    }
}

#[test]
fn the_old_master_may_be_stopped_at_any_moment_of_an_upgrade() {
    if is_stand_in() {
        return;
    }
    for turn in 0..6 {
        let daemon = start();
        let old = daemon.pid();
        daemon.signal(Signal::SIGUSR2);
        match turn {
            0 | 1 => drop(daemon.wait_log("start new binary process")),
            2 | 3 => {
                wait_for("the new pid file", || {
                    let new: i32 = daemon.read("pronghorn.pid").trim().parse().ok()?;
                    (new != old).then_some(())
                });
            }
            _ => drop(upgraded(&daemon)),
        }
        send(old, if turn % 2 == 0 { Signal::SIGTERM } else { Signal::SIGQUIT });
        wait_gone(old);
        let new = wait_for("the new master", || {
            let new: i32 = daemon.read("pronghorn.pid").trim().parse().ok()?;
            (new != old && workers_of(new, 0).len() == 2).then_some(new)
        });
        daemon.follow(new);
        assert!(!daemon.path("pronghorn.pid.oldbin").exists(), "turn {turn}");
        for _ in 0..10 {
            assert_eq!(get(daemon.port(0), "/").text(), "here\n");
        }
        // It is now a master like any other: it reloads, and ends without a trace.
        daemon.reload();
        daemon.stop(Signal::SIGQUIT);
        for name in ["pronghorn.pid", "pronghorn.pid.lock"] {
            assert!(!daemon.path(name).exists(), "{name}, turn {turn}");
        }
    }
}

#[test]
fn reloads_of_both_masters_during_an_upgrade_fail_no_request() {
    let daemon = start();
    let old = daemon.pid();
    let load = Load::start(daemon.port(0), 6);
    daemon.signal(Signal::SIGHUP);
    let new = upgrade(&daemon);
    for _ in 0..5 {
        send(old, Signal::SIGHUP);
        send(new, Signal::SIGHUP);
        load.wait(20);
    }
    let settled = |master: i32, other: i32| {
        let workers = workers_of(master, other);
        let leaving = workers.iter().any(|&pid| process::title(pid).contains("shutting down"));
        (workers.len() == 2 && !leaving).then_some(())
    };
    wait_for("two workers of the old one", || settled(old, new));
    wait_for("two workers of the new one", || settled(new, 0));
    send(old, Signal::SIGQUIT);
    wait_gone(old);
    daemon.follow(new);
    load.wait(50);
    load.finish();
}
