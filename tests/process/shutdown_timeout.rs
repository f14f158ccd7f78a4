//! Workers that do not leave by themselves: `worker_shutdown_timeout` for a graceful stop,
//! `fast_stop_timeout` for TERM, and the fate of a worker that ignores both.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::daemon::{is_stand_in, send};
use crate::support::{Client, Daemon, Origin, Setup, get, process, wait_for};

const CONF: &str = r#"
worker_processes 1;
worker_shutdown_timeout %%TIMEOUT%%;
http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { return 200 "here\n"; }
        location /proxied {
            proxy_pass http://%%ORIGIN%%;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
        }
    }
}
"#;

const ASK: &str = "GET /proxied HTTP/1.1\r\nHost: a\r\n\r\n";
const ASK_TUNNEL: &str = "GET /proxied HTTP/1.1\r\nHost: a\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n";

/// Responds with the start of a long body, or with a tunnel, and then sends nothing until the connection
/// ends.
fn endless() -> Origin {
    Origin::start(|peer| {
        let Some(request) = peer.request() else { return };
        let head = match request.header("upgrade") {
            Some(_) => {
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\nfirst"
            }
            None => "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nfirst",
        };
        peer.send(head);
        peer.rest();
    })
}

fn start(origin: &Origin, timeout: &str) -> Daemon {
    let setup = Setup::new(CONF).set("ORIGIN", origin.address()).set("TIMEOUT", timeout);
    setup.level("notice").start()
}

/// A client whose response has begun and never ends.
fn busy(daemon: &Daemon, ask: &str) -> Client {
    let mut client = Client::connect(daemon.port(0));
    client.send(ask);
    client.response_head();
    assert_eq!(client.exactly(5), b"first");
    client
}

#[test]
fn a_reload_cuts_responses_after_the_timeout_and_moves_tunnels() {
    let origin = endless();
    let daemon = start(&origin, "300ms");
    let (mut response, mut tunnel) = (busy(&daemon, ASK), busy(&daemon, ASK_TUNNEL));
    let began = Instant::now();
    daemon.signal(Signal::SIGHUP);
    daemon.wait_log("gracefully shutting down");
    let told = Instant::now();
    assert_eq!(response.rest().0.len(), 0, "nothing more came");
    assert!(began.elapsed() >= Duration::from_millis(295), "not before its time: {:?}", told.elapsed());
    wait_for("the new worker alone", || (daemon.workers_now().len() == 1).then_some(()));
    assert_eq!(daemon.log_count("is killed"), 0, "it left by itself");
    assert_eq!(get(daemon.port(0), "/").text(), "here\n");
    assert!(tunnel.is_silent(Duration::from_millis(50)), "it goes on in the new worker");
}

#[test]
fn a_worker_tells_how_many_connections_could_not_move() {
    let origin = endless();
    let daemon = start(&origin, "1h");
    let responses = [busy(&daemon, ASK), busy(&daemon, ASK)];
    daemon.signal(Signal::SIGHUP);
    daemon.wait_log(
        "2 connections cannot move to the new workers now and go on in this one; \"worker_shutdown_timeout\" closes them \
         3600 s after the reload",
    );
    drop(responses);
    wait_for("the new worker alone", || (daemon.workers_now().len() == 1).then_some(()));
}

#[test]
fn quit_cuts_responses_and_tunnels_after_the_timeout() {
    let origin = endless();
    let daemon = start(&origin, "300ms");
    let (mut response, mut tunnel) = (busy(&daemon, ASK), busy(&daemon, ASK_TUNNEL));
    let began = Instant::now();
    daemon.signal(Signal::SIGQUIT);
    response.rest();
    tunnel.rest();
    assert!(began.elapsed() >= Duration::from_millis(295), "not before its time");
    assert_eq!(daemon.wait_end().and_then(|status| status.code()), Some(0));
    assert_eq!(daemon.log_count("is killed"), 0, "it left by itself");
}

#[test]
fn a_reload_kills_a_stopped_worker_after_the_timeout() {
    if is_stand_in() {
        return; // nginx waits for it for ever
    }
    let daemon = start(&endless(), "200ms");
    let old = daemon.worker();
    send(old, Signal::SIGSTOP);
    daemon.signal(Signal::SIGHUP);
    wait_for("the new worker alone", || {
        let now = daemon.workers_now();
        (now.len() == 1 && now[0] != old).then_some(())
    });
    daemon.wait_log(&format!("worker process {old} has not left in time and is killed"));
    assert_eq!(get(daemon.port(0), "/").text(), "here\n");
    daemon.reload();
}

#[test]
fn quit_kills_a_stopped_worker_after_the_timeout() {
    if is_stand_in() {
        return; // nginx waits for it for ever
    }
    let daemon = start(&endless(), "200ms");
    let worker = daemon.worker();
    send(worker, Signal::SIGSTOP);
    assert_eq!(daemon.stop(Signal::SIGQUIT).and_then(|status| status.code()), Some(0));
    daemon.wait_log(&format!("worker process {worker} has not left in time and is killed"));
    assert!(!process::is_alive(worker) && !process::is_listening(daemon.port(0)));
}

#[test]
fn a_leaving_worker_keeps_to_the_timeout_it_was_started_with() {
    let origin = endless();
    let daemon = start(&origin, "60s");
    let old = daemon.worker();
    let mut client = busy(&daemon, ASK);
    daemon.rewrite(|text| text.replace("worker_shutdown_timeout 60s", "worker_shutdown_timeout 100ms"));
    daemon.signal(Signal::SIGHUP);
    daemon.wait_log("gracefully shutting down");
    // The new limit, and the second after it when such a worker would be killed.
    assert!(client.is_silent(Duration::from_millis(1_500)), "{}", daemon.log());
    assert!(process::is_alive(old));
    drop(client);
    wait_for("the old worker to end", || (!process::is_alive(old)).then_some(()));
}

#[test]
fn term_kills_a_stopped_worker_within_fast_stop_timeout() {
    let mut conf = CONF.to_owned();
    if !is_stand_in() {
        conf = format!("fast_stop_timeout 300ms;\n{conf}");
    }
    let daemon = Setup::new(&conf).set("ORIGIN", "127.0.0.1:1").set("TIMEOUT", "60s").start();
    let worker = daemon.worker();
    send(worker, Signal::SIGSTOP);
    wait_for("the worker to stop", || (process::state(worker) == Some('T')).then_some(()));
    assert_eq!(daemon.stop(Signal::SIGTERM).and_then(|status| status.code()), Some(0));
    assert!(!process::is_alive(worker));
    daemon.wait_log(&format!("worker process {worker} exited on signal 9"));
    assert!(!daemon.path("pronghorn.pid").exists());
}

#[test]
fn term_kills_a_stopped_worker_that_was_already_leaving() {
    let origin = endless();
    let daemon = start(&origin, "60s");
    let worker = daemon.worker();
    let _client = busy(&daemon, ASK);
    send(worker, Signal::SIGSTOP);
    daemon.signal(Signal::SIGQUIT);
    daemon.wait_log("SIGQUIT\\) received");
    assert_eq!(daemon.stop(Signal::SIGTERM).and_then(|status| status.code()), Some(0));
    assert!(!process::is_alive(worker));
}
