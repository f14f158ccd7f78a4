//! Requests in accept queues when the worker is told to leave: none is lost.
//!
//! A stopped worker does not accept. Its queue fills, the signal arrives, and then the worker continues.

use nix::sys::signal::Signal;

use super::upgrade::{upgrade, workers_of};
use crate::support::daemon::{is_stand_in, send};
use crate::support::wire::End;
use crate::support::{Client, Daemon, Setup, get, port, process, wait_for};

const CONF: &str = r#"
worker_processes %%WORKERS%%;
worker_watchdog 60s;
http {
    server { listen 127.0.0.1:%%PORT_0%%; location / { return 200 "here\n"; } }
    # more
}
"#;

fn setup(workers: usize) -> Setup {
    Setup::new(CONF).set("WORKERS", workers).level("notice")
}

fn stop(workers: &[i32]) {
    for &worker in workers {
        send(worker, Signal::SIGSTOP);
        wait_for("a worker to stop", || (process::state(worker) == Some('T')).then_some(()));
    }
}

fn go_on(workers: &[i32]) {
    workers.iter().for_each(|&worker| send(worker, Signal::SIGCONT));
}

/// Clients that have sent their request.
fn waiting(port: u16) -> Vec<Client> {
    let mut clients: Vec<Client> = (0..30).map(|_| Client::connect(port)).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    }
    clients
}

fn all_answered(clients: Vec<Client>) {
    for mut client in clients {
        assert_eq!(client.response().text(), "here\n");
        assert_eq!(client.expect_end(), End::Closed);
    }
}

#[test]
fn quit_answers_what_waits() {
    if is_stand_in() {
        return; // nginx resets it
    }
    for workers in [1, 2] {
        let daemon = setup(workers).start();
        let stopped = daemon.workers();
        stop(&stopped);
        let clients = waiting(daemon.port(0));
        quit_answers(&daemon, &stopped, clients);
    }
}

/// Quits while these workers are stopped; checks that the clients are answered and the daemon ends properly.
fn quit_answers(daemon: &Daemon, stopped: &[i32], clients: Vec<Client>) {
    daemon.signal(Signal::SIGQUIT);
    daemon.wait_log("SIGQUIT\\) received");
    go_on(stopped);
    all_answered(clients);
    assert_eq!(daemon.wait_end().and_then(|status| status.code()), Some(0));
}

#[test]
fn quit_answers_what_waits_for_one_stopped_worker_of_two() {
    if is_stand_in() {
        return;
    }
    for is_noticed in [false, true] {
        let daemon = setup(2).start();
        let stopped = daemon.workers()[..1].to_vec();
        stop(&stopped);
        let clients = waiting(daemon.port(0));
        if is_noticed {
            daemon.wait_log(&format!("worker process {}.* is stuck", stopped[0]));
        }
        quit_answers(&daemon, &stopped, clients);
    }
}

#[test]
fn a_connection_without_a_request_does_not_hold_up_quit() {
    let daemon = setup(1).start();
    let stopped = daemon.workers();
    stop(&stopped);
    let mut silent = Client::connect(daemon.port(0));
    daemon.signal(Signal::SIGQUIT);
    daemon.wait_log("SIGQUIT\\) received");
    go_on(&stopped);
    silent.expect_end();
    assert_eq!(daemon.wait_end().and_then(|status| status.code()), Some(0));
}

#[test]
fn a_reload_answers_what_waits_without_the_stopped_worker() {
    if is_stand_in() {
        return;
    }
    for workers in [1, 2] {
        let daemon = setup(workers).start();
        let stopped = daemon.workers();
        stop(&stopped);
        let clients = waiting(daemon.port(0));
        daemon.signal(Signal::SIGHUP);
        all_answered(clients);
        go_on(&stopped);
        wait_for("the old workers to end", || {
            stopped.iter().all(|&pid| !process::is_alive(pid)).then_some(())
        });
        all_answered(waiting(daemon.port(0)));
    }
}

#[test]
fn a_reload_answers_what_waits_at_an_address_it_removes() {
    if is_stand_in() {
        return;
    }
    let more = port::free();
    let server = format!("server {{ listen 127.0.0.1:{more}; location / {{ return 200 \"here\\n\"; }} }}");
    let daemon = setup(2).start();
    daemon.rewrite(|text| text.replace("# more", &server));
    daemon.reload();
    assert_eq!(get(more, "/").text(), "here\n");
    let stopped = daemon.workers();
    stop(&stopped);
    let clients = waiting(more);
    daemon.rewrite(|text| text.replace(&server, "# more"));
    daemon.signal(Signal::SIGHUP);
    wait_for("the new workers", || (daemon.workers_now().len() == 4).then_some(()));
    all_answered(waiting(daemon.port(0)));
    go_on(&stopped);
    all_answered(clients);
    wait_for("the address to be given up", || (!process::is_listening(more)).then_some(()));
}

fn drained(daemon: &Daemon) {
    wait_for("the workers to end", || daemon.workers_now().is_empty().then_some(()));
}

#[test]
fn winch_answers_what_waits_and_what_comes_later_waits_for_hup() {
    if is_stand_in() {
        return;
    }
    let daemon = setup(2).start();
    let stopped = daemon.workers();
    stop(&stopped);
    let clients = waiting(daemon.port(0));
    daemon.signal(Signal::SIGWINCH);
    daemon.wait_log("SIGWINCH\\) received");
    go_on(&stopped);
    all_answered(clients);
    drained(&daemon);
    let clients = waiting(daemon.port(0));
    daemon.signal(Signal::SIGHUP);
    all_answered(clients);
}

#[test]
fn quit_after_winch_ends_it() {
    let daemon = setup(2).in_background().start();
    daemon.signal(Signal::SIGWINCH);
    drained(&daemon);
    daemon.stop(Signal::SIGQUIT);
    assert!(!process::is_listening(daemon.port(0)) && !daemon.path("pronghorn.pid").exists());
}

#[test]
fn an_upgrade_answers_what_waits_for_the_old_workers() {
    if is_stand_in() {
        return;
    }
    let daemon = setup(2).in_background().start();
    let old = daemon.pid();
    let stopped = daemon.workers();
    stop(&stopped);
    let before = waiting(daemon.port(0));
    let new = upgrade(&daemon);
    send(old, Signal::SIGQUIT);
    let after = waiting(daemon.port(0));
    all_answered(before);
    all_answered(after);
    go_on(&stopped);
    wait_for("the old master to end", || (!process::is_alive(old)).then_some(()));
    daemon.follow(new);
    assert_eq!(workers_of(new, 0).len(), 2);
    all_answered(waiting(daemon.port(0)));
}
