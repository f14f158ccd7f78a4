//! A worker that dies is replaced, and the others go on.

use nix::sys::signal::Signal;

use crate::support::daemon::send;
use crate::support::{Client, Setup, get, wait_for};

const CONF: &str = r#"
worker_processes 2;
http {
    server { listen 127.0.0.1:%%PORT_0%%; location / { return 200 "here\n"; } }
}
"#;

#[test]
fn a_killed_worker_is_replaced() {
    let daemon = Setup::new(CONF).start();
    let old = daemon.workers();
    send(old[0], Signal::SIGKILL);
    let now = wait_for("a new worker", || {
        let now = daemon.workers_now();
        (now.len() == 2 && !now.contains(&old[0])).then_some(now)
    });
    assert!(now.contains(&old[1]), "the other one stays");
    daemon.wait_log(&format!("worker process {} exited on signal 9", old[0]));
    for _ in 0..20 {
        assert_eq!(get(daemon.port(0), "/").text(), "here\n");
    }
}

#[test]
fn what_waits_in_a_dead_worker_s_queue_is_answered() {
    let daemon = Setup::new(&CONF.replace("worker_processes 2", "worker_processes 1")).start();
    let worker = daemon.worker();
    send(worker, Signal::SIGSTOP);
    let mut clients: Vec<Client> = (0..20).map(|_| Client::connect(daemon.port(0))).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    send(worker, Signal::SIGKILL);
    for client in &mut clients {
        assert_eq!(client.response().text(), "here\n");
    }
}

#[test]
fn workers_end_when_the_master_is_killed() {
    if crate::support::daemon::is_stand_in() {
        return; // nginx's stay
    }
    let daemon = Setup::new(CONF).start();
    let workers = daemon.workers();
    daemon.stop(Signal::SIGKILL);
    wait_for("the workers to end", || {
        workers.iter().all(|&pid| !crate::support::process::is_alive(pid)).then_some(())
    });
}
