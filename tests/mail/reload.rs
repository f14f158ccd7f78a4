//! Sessions of mail over a reload and a stop: those that have logged in move to the new worker, others finish logging in or are told.

use nix::sys::signal::Signal;

use super::{ask, greeted, knowing_me, pop3_server, setup_with, start};
use crate::support::tls::{Authority, TlsClient, trusting};
use crate::support::wire::End;
use crate::support::{Client, Daemon, Setup, process, wait_for};

fn log_in(client: &mut Client) {
    assert_eq!(ask(client, "USER me"), "+OK");
    assert_eq!(ask(client, "PASS secret"), "+OK welcome USER me");
}

fn wait_gone(pid: i32) {
    wait_for("the old worker to leave", || (!process::is_alive(pid)).then_some(()));
}

fn reload(daemon: &Daemon) {
    daemon.rewrite(|text| text + "\n# changed\n");
    daemon.signal(Signal::SIGHUP);
}

#[test]
fn a_session_that_has_logged_in_moves_to_the_new_worker() {
    let server = pop3_server();
    let auth = knowing_me(server.port());
    let daemon = start("pop3", &auth, "");
    let old = daemon.worker();
    let mut client = greeted(&daemon);
    log_in(&mut client);
    reload(&daemon);
    wait_gone(old);
    for text in ["STAT", "LIST"] {
        assert_eq!(ask(&mut client, text), format!("+ {text}"));
    }
    assert_eq!((server.accepted(), server.ended()), (1, 0), "it is one connection all the time");
    drop(client);
    server.wait_ended(1);
    daemon.wait_log(
        r#"proxied session done, client: 127.0.0.1, server: [^,]*, login: "me", upstream: 127.0.0.1"#,
    );
    assert!(daemon.complaints("error|alert|crit|emerg").is_empty());
}

#[test]
fn an_encrypted_session_moves_too() {
    let server = pop3_server();
    let auth = knowing_me(server.port());
    let authority = Authority::new("ca");
    let pair = authority.issue(&["mail.example.com"]);
    let conf = "mail {
        auth_http http://%%AUTH%%/auth; ssl_certificate server.crt; ssl_certificate_key server.key;
        server { listen 127.0.0.1:%%PORT_0%% ssl; protocol pop3; }
    }";
    let setup = Setup::new(conf).set("AUTH", auth.address());
    let daemon = setup.file("server.crt", &pair.certificate).file("server.key", &pair.key).start();
    let old = daemon.worker();
    let mut client = TlsClient::connect(daemon.port(0), &trusting(&authority), "mail.example.com");
    client.send("USER me\r\nPASS secret\r\n");
    let greeting = "+OK POP3 ready\r\n+OK\r\n+OK welcome USER me\r\n";
    assert_eq!(client.exactly(greeting.len()), greeting.as_bytes());
    reload(&daemon);
    wait_gone(old);
    client.send("STAT\r\n");
    assert_eq!(client.exactly(8), b"+ STAT\r\n");
}

#[test]
fn a_client_that_is_about_to_log_in_finishes_in_the_old_worker() {
    let server = pop3_server();
    let auth = knowing_me(server.port());
    let daemon = start("pop3", &auth, "");
    let old = daemon.worker();
    let mut client = greeted(&daemon);
    assert_eq!(ask(&mut client, "USER me"), "+OK");
    reload(&daemon);
    wait_for("the new worker", || (daemon.workers_now().iter().any(|pid| *pid != old)).then_some(()));
    assert_eq!(ask(&mut client, "PASS secret"), "+OK welcome USER me");
    wait_gone(old);
    assert_eq!(ask(&mut client, "STAT"), "+ STAT");
}

#[test]
fn a_stop_tells_those_that_wait_and_lets_the_others_finish() {
    let server = pop3_server();
    let auth = knowing_me(server.port());
    let daemon = start("pop3", &auth, "");
    let mut idle = greeted(&daemon);
    let mut busy = greeted(&daemon);
    log_in(&mut busy);
    daemon.signal(Signal::SIGQUIT);
    assert_eq!(idle.rest(), (b"-ERR server is shutting down\r\n".to_vec(), End::Closed));
    assert_eq!(ask(&mut busy, "STAT"), "+ STAT");
    drop(busy);
    assert!(daemon.wait_end().is_some_and(|status| status.success()));
}

#[test]
fn a_stop_ends_in_its_time() {
    let server = pop3_server();
    let auth = knowing_me(server.port());
    let daemon = setup_with("worker_shutdown_timeout 200ms;", "pop3", &auth, "").start();
    let mut half = greeted(&daemon);
    assert_eq!(ask(&mut half, "USER me"), "+OK");
    let mut busy = greeted(&daemon);
    log_in(&mut busy);
    daemon.signal(Signal::SIGQUIT);
    half.rest();
    assert_eq!(busy.expect_end(), End::Closed);
    assert!(daemon.wait_end().is_some_and(|status| status.success()));
}

#[test]
fn a_session_whose_listener_is_gone_goes_on() {
    let server = pop3_server();
    let auth = knowing_me(server.port());
    let conf = "mail { auth_http http://%%AUTH%%/auth;
        server { listen 127.0.0.1:%%PORT_0%%; protocol pop3; }
        server { listen 127.0.0.1:%%PORT_1%%; protocol pop3; }
    }";
    let daemon = Setup::new(conf).set("AUTH", auth.address()).start();
    let old = daemon.worker();
    let mut client = greeted(&daemon);
    log_in(&mut client);
    let gone = format!("listen 127.0.0.1:{}; protocol pop3;", daemon.port(0));
    daemon.rewrite(|text| text.replace(&format!("server {{ {gone} }}"), ""));
    daemon.signal(Signal::SIGHUP);
    wait_gone(old);
    assert_eq!(ask(&mut client, "STAT"), "+ STAT");
    assert!(Client::try_connect(daemon.port(0)).is_err());
}
