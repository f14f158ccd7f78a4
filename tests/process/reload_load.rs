//! Reloads under load: addresses that stay answer every request, whatever else changes.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::daemon::is_stand_in;
use crate::support::{Client, Daemon, Load, Origin, Setup, get, port, process, wait_for};

const CONF: &str = r#"
worker_processes 2;
http {
    keepalive_timeout 60s;
    keepalive_requests 100000000;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { return 200 "version 0\n"; }
    }
    # more
}
"#;

fn start() -> Daemon {
    Setup::new(CONF).level("notice").start()
}

/// The number of the generation in a worker's title.
fn generation(worker: i32) -> String {
    let title = process::title(worker);
    title.split("generation ").nth(1).unwrap_or(&title).to_owned()
}

/// Waits until exactly `count` workers of one generation are left.
fn settled(daemon: &Daemon, count: usize) -> Vec<i32> {
    wait_for("workers of one generation", || {
        let now = daemon.workers_now();
        let is_one = now.iter().all(|&pid| generation(pid) == generation(now[0]));
        (now.len() == count && is_one && !generation(now[0]).contains("shutting down")).then_some(now)
    })
}

#[test]
fn an_address_that_goes_and_comes_again_disturbs_no_other() {
    let more = port::free();
    let server = format!("server {{ listen 127.0.0.1:{more}; return 200 more; }}");
    let daemon = start();
    let load = Load::start(daemon.port(0), 6);
    for _ in 0..5 {
        daemon.rewrite(|text| text.replace("# more", &server));
        daemon.reload();
        for _ in 0..10 {
            assert_eq!(get(more, "/").text(), "more");
        }
        load.wait(20);
        daemon.rewrite(|text| text.replace(&server, "# more"));
        daemon.reload();
        wait_for("the address to be given up", || (!process::is_listening(more)).then_some(()));
        load.wait(20);
    }
    load.finish();
}

/// The old worker still has the sockets of the address; that must not prevent opening it again.
#[test]
fn an_address_comes_again_while_an_old_worker_still_serves_on_it() {
    let origin = Origin::start(|peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst");
        peer.rest();
    });
    let more = port::free();
    let server = format!(
        "server {{ listen 127.0.0.1:{more}; location / {{ proxy_pass http://{}; }} \
         location /here {{ return 200 more; }} }}",
        origin.address()
    );
    let daemon = start();
    daemon.rewrite(|text| text.replace("# more", &server));
    daemon.reload();
    let mut busy = Client::connect(more);
    busy.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    busy.response_head();
    assert_eq!(busy.exactly(5), b"first");

    daemon.rewrite(|text| text.replace(&server, "# more"));
    daemon.signal(Signal::SIGHUP);
    wait_for("the address to be given up", || (!process::is_listening(more)).then_some(()));
    daemon.rewrite(|text| text.replace("# more", &server));
    daemon.signal(Signal::SIGHUP);
    wait_for("the address to be there again", || process::is_listening(more).then_some(()));
    for _ in 0..10 {
        assert_eq!(get(more, "/here").text(), "more");
    }
    assert_eq!(daemon.log_count("emerg"), 0, "{}", daemon.log());
    drop(busy);
    settled(&daemon, 2);
}

#[test]
fn fewer_workers_and_more_again_fail_no_request() {
    let daemon =
        Setup::new(&CONF.replace("worker_processes 2", "worker_processes 8")).level("notice").start();
    let load = Load::start(daemon.port(0), 8);
    let mut from = 8;
    for count in [2, 8, 1, 16, 3, 8, 2, 8] {
        daemon.rewrite(|text| {
            text.replace(&format!("worker_processes {from};"), &format!("worker_processes {count};"))
        });
        daemon.reload();
        load.wait(50);
        settled(&daemon, count);
        from = count;
    }
    load.finish();
}

fn write_version(daemon: &Daemon, version: usize) {
    daemon.rewrite(|text| {
        let at = text.find("version ").expect("it has a version") + "version ".len();
        let end = at + text[at..].find('\\').expect("its end");
        format!("{}{version}{}", &text[..at], &text[end..])
    });
}

fn storm(daemon: &Daemon, first: usize, pause: Option<Duration>) {
    for version in first..first + 50 {
        write_version(daemon, version);
        daemon.signal(Signal::SIGHUP);
        if let Some(pause) = pause {
            std::thread::sleep(pause); // the rate itself is under test
        }
    }
    let last = format!("version {}\n", first + 49);
    wait_for("the last configuration", || (get(daemon.port(0), "/").text() == last).then_some(()));
    settled(daemon, 2);
    for _ in 0..20 {
        assert_eq!(get(daemon.port(0), "/").text(), last);
    }
}

#[test]
fn a_storm_of_reloads_fails_no_request_and_leaves_nothing_behind() {
    let daemon = start();
    storm(&daemon, 100, Some(Duration::from_millis(5)));
    let (fds, memory) = (process::fd_count(daemon.pid()), process::private_kib(daemon.pid()));
    let load = Load::start(daemon.port(0), 4);
    for round in 0..3 {
        storm(&daemon, 200 + round * 100, None);
        storm(&daemon, 250 + round * 100, Some(Duration::from_millis(5)));
        load.wait(20);
    }
    load.finish();
    wait_for("the master's descriptors to be closed", || {
        (process::fd_count(daemon.pid()) <= fds).then_some(())
    });
    if !is_stand_in() {
        let grown = process::private_kib(daemon.pid()).saturating_sub(memory);
        assert!(grown <= 512, "{grown} KiB more after 300 reloads");
        let bad = "is killed|exited on signal|exited with code [1-9]|\\[(alert|crit|emerg)\\]";
        assert_eq!(daemon.log_count(bad), 0, "{}", daemon.wait_log(bad));
    }
}
