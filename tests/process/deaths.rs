//! Processes killed at bad moments: again and again, during a reload, while they hand connections over, and
//! the master itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::daemon::{is_stand_in, send};
use crate::support::wire::End;
use crate::support::{Client, Daemon, Origin, Setup, get, process, wait_for};

const CONF: &str = r#"
worker_processes %%WORKERS%%;
http {
    keepalive_timeout 60s;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { return 200 "here\n"; }
        location /proxied { proxy_pass http://%%ORIGIN%%; }
    }
}
"#;

fn start(workers: usize) -> Daemon {
    Setup::new(CONF).set("WORKERS", workers).set("ORIGIN", "127.0.0.1:1").level("notice").start()
}

/// Kills every child of a master, with some exceptions, as soon as it appears, until told to stop.
struct Killer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Killer {
    fn start(master: i32, spared: Vec<i32>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let theirs = stop.clone();
        let thread = std::thread::spawn(move || {
            while !theirs.load(Ordering::SeqCst) {
                let children = process::children(master).into_iter();
                children.filter(|pid| !spared.contains(pid)).for_each(|pid| send(pid, Signal::SIGKILL));
                std::thread::yield_now();
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Killer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

#[test]
fn a_worker_that_dies_young_is_started_ever_later_and_its_sibling_takes_its_connections() {
    if is_stand_in() {
        return; // nginx restarts it without a delay
    }
    let daemon = start(2);
    let spared = daemon.workers()[0];
    let killer = Killer::start(daemon.pid(), vec![spared]);
    for wait_ms in [100, 200, 400, 800, 1600] {
        daemon.wait_log(&format!("died as soon as it was born, the next one starts in {wait_ms} ms"));
    }
    drop(killer);
    let started = daemon.log_count("start worker process \\d");
    // Half of them arrive at the dead worker's socket.
    for _ in 0..16 {
        assert_eq!(get(daemon.port(0), "/").text(), "here\n");
    }
    assert_eq!(daemon.log_count("start worker process \\d"), started, "they were not left waiting");
    wait_for("another worker", || (daemon.workers_now().len() == 2).then_some(()));
    assert!(daemon.workers_now().contains(&spared));
    for _ in 0..16 {
        assert_eq!(get(daemon.port(0), "/").text(), "here\n");
    }
}

#[test]
fn the_only_worker_comes_back_when_the_killing_stops() {
    if is_stand_in() {
        return;
    }
    let daemon = start(1);
    let killer = Killer::start(daemon.pid(), Vec::new());
    daemon.wait_log("the next one starts in 400 ms");
    drop(killer);
    let mut clients: Vec<Client> = (0..20).map(|_| Client::connect(daemon.port(0))).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    for client in &mut clients {
        assert_eq!(client.response().text(), "here\n");
    }
}

#[test]
fn a_reload_and_an_end_do_not_wait_for_a_worker_that_dies_young() {
    if is_stand_in() {
        return;
    }
    let daemon = start(1);
    let killer = Killer::start(daemon.pid(), Vec::new());
    daemon.wait_log("the next one starts in 1600 ms");
    drop(killer);
    daemon.signal(Signal::SIGHUP);
    assert_eq!(get(daemon.port(0), "/").text(), "here\n");

    let killer = Killer::start(daemon.pid(), Vec::new());
    wait_for("the next long pause", || (daemon.log_count("starts in 1600 ms") == 2).then_some(()));
    drop(killer);
    assert_eq!(daemon.stop(Signal::SIGQUIT).and_then(|status| status.code()), Some(0));
}

/// The new workers of a reload keep dying; the old ones serve, and the next reload need not wait.
#[test]
fn a_reload_whose_workers_die_young_is_replaced_by_the_next() {
    if is_stand_in() {
        return;
    }
    let daemon = start(2);
    let old = daemon.workers();
    daemon.rewrite(|text| text.replace("worker_processes 2", "worker_processes 6"));
    let killer = Killer::start(daemon.pid(), old.clone());
    daemon.signal(Signal::SIGHUP);
    let mut answered = 0;
    for round in 0..80 {
        if round == 40 {
            daemon.wait_log("the next one starts in 400 ms");
        }
        // A worker that is killed may have accepted a connection. None may be left waiting while the old ones
        // run.
        let mut client = Client::connect(daemon.port(0));
        let sent = client.try_send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        if sent.is_ok() && client.is_silent(Duration::from_secs(2)) {
            daemon.wait_log("gracefully shutting down"); // the killer was late once, and the old workers have left
            return;
        }
        answered += usize::from(client.head_or_end().is_some());
    }
    assert!(answered >= 40, "most come to a worker that lives: {answered} of 80");
    drop(killer);
    daemon.rewrite(|text| text.replace("here", "there").replace("worker_processes 6", "worker_processes 3"));
    daemon.signal(Signal::SIGHUP);
    wait_for("the new workers alone", || {
        let now = daemon.workers_now();
        (now.len() == 3 && !now.iter().any(|pid| old.contains(pid))).then_some(())
    });
    for _ in 0..20 {
        assert_eq!(get(daemon.port(0), "/").text(), "there\n");
    }
}

#[test]
fn workers_killed_during_reloads_are_replaced_and_the_last_configuration_serves() {
    let daemon = start(3);
    daemon.reload();
    let fds = process::fd_count(daemon.pid());
    for round in 0..20 {
        daemon.rewrite(|text| {
            let at = text.find("return 200 \"").expect("its answer") + "return 200 \"".len();
            let end = at + text[at..].find('\\').expect("its end");
            format!("{}round {round}{}", &text[..at], &text[end..])
        });
        let old = daemon.workers();
        daemon.signal(Signal::SIGHUP);
        send(old[round % old.len()], Signal::SIGKILL);
        if round % 2 == 0 {
            let fresh =
                wait_for("a new worker", || daemon.workers_now().into_iter().find(|pid| !old.contains(pid)));
            send(fresh, Signal::SIGKILL);
        }
        wait_for("three new workers", || {
            let now = daemon.workers_now();
            (now.len() == 3 && !now.iter().any(|pid| old.contains(pid))).then_some(())
        });
        let text = format!("round {round}\n");
        // The killed worker may have had this request; later ones are answered.
        wait_for("the new configuration", || (get(daemon.port(0), "/").text() == text).then_some(()));
    }
    for _ in 0..20 {
        assert_eq!(get(daemon.port(0), "/").text(), "round 19\n");
    }
    wait_for("the master's descriptors", || (process::fd_count(daemon.pid()) <= fds).then_some(()));
}

#[test]
fn a_worker_killed_while_it_hands_over_loses_nobody_else_s_connections() {
    if is_stand_in() {
        return; // nginx hands nothing over
    }
    const COUNT: usize = 400;
    let conf = CONF.replace("http {", "events { worker_connections 1000; }\nhttp {");
    let daemon = Setup::new(&conf).set("WORKERS", 1).set("ORIGIN", "127.0.0.1:1").level("notice").start();
    daemon.reload();
    let fds = process::fd_count(daemon.pid());
    for _ in 0..5 {
        let mut clients: Vec<Client> = (0..COUNT).map(|_| Client::connect(daemon.port(0))).collect();
        clients.iter_mut().for_each(|client| assert_eq!(client.get("/").status, 200));
        let worker = daemon.worker();
        let before = daemon.log_count("gracefully shutting down");
        daemon.signal(Signal::SIGHUP);
        wait_for("the begin", || (daemon.log_count("gracefully shutting down") > before).then_some(()));
        // So that some are still on their way when it dies.
        send(daemon.pid(), Signal::SIGSTOP);
        wait_for("some to have left it", || (process::fd_count(worker) < COUNT - 50).then_some(()));
        send(worker, Signal::SIGKILL);
        send(daemon.pid(), Signal::SIGCONT);
        wait_for("the other worker alone", || (!daemon.workers_now().contains(&worker)).then_some(()));
        let mut lost = 0;
        for client in &mut clients {
            // A close counts as an answer too, since a worker takes unsent bytes with it. Silence does not.
            let sent = client.try_send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            match sent.ok().and_then(|()| client.head_or_end()) {
                Some(head) => {
                    assert!(head.starts_with(b"HTTP/1.1 200 "));
                    assert_eq!(client.exactly(5), b"here\n");
                }
                None => lost += 1,
            }
        }
        assert!(lost < COUNT, "some were handed over");
        drop(clients);
        assert_eq!(get(daemon.port(0), "/").text(), "here\n");
    }
    wait_for("the master's descriptors", || (process::fd_count(daemon.pid()) <= fds).then_some(()));
}

#[test]
fn a_killed_master_s_workers_finish_their_requests_and_end() {
    if is_stand_in() {
        return; // nginx's stay
    }
    let (go, origin) = Origin::in_two_parts();
    let daemon = Setup::new(CONF).set("WORKERS", 2).set("ORIGIN", origin.address()).start();
    let mut idle = Client::connect(daemon.port(0));
    idle.get("/");
    let mut busy = Client::connect(daemon.port(0));
    busy.send("GET /proxied HTTP/1.1\r\nHost: a\r\n\r\n");
    busy.response_head();
    let workers = daemon.workers();
    daemon.stop(Signal::SIGKILL);
    assert_eq!(idle.expect_end(), End::Closed);
    assert!(workers.iter().any(|&pid| process::is_alive(pid)), "one has work yet");
    go.send(()).expect("the origin waits");
    assert_eq!(busy.exactly(10), b"first-last");
    assert_eq!(busy.expect_end(), End::Closed);
    wait_for("the workers to end", || workers.iter().all(|&pid| !process::is_alive(pid)).then_some(()));
    wait_for("the address to be free", || (!process::is_listening(daemon.port(0))).then_some(()));
}
