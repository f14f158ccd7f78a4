//! The clients' connections: listed, ended, and found again where they hold an old generation.

use serde_json::Value;

use super::{control, ctl};
use crate::support::daemon::is_stand_in;
use crate::support::h2::{DATA, END_HEADERS, GOAWAY, H2, HEADERS, block};
use crate::support::h3::H3;
use crate::support::process::is_alive;
use crate::support::tls::Authority;
use crate::support::{Client, Daemon, Origin, Setup, wait_for};

const CONF: &str = r#"
worker_processes 2;
control unix:%%DIR%%/ctl;
http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { return 200 x; }
        location /slow { proxy_pass http://%%ORIGIN%%; }
    }
}
stream { server { listen 127.0.0.1:%%PORT_1%%; proxy_pass %%ORIGIN%%; } }
"#;

fn list(daemon: &Daemon) -> Vec<Value> {
    let answer = control(daemon, "GET", "/pronghorn/connections", "");
    assert_eq!(answer.status, 200, "{answer:?}");
    let found = answer.json();
    let all = found["connections"].as_array().expect("a list").clone();
    assert_eq!(
        (all.len() as u64, &found["silent"]),
        (found["total"].as_u64().expect("a number"), &serde_json::json!([]))
    );
    all
}

/// Waits for a connection of which this holds.
fn find(daemon: &Daemon, is_it: impl Fn(&Value) -> bool) -> Value {
    wait_for("the connection", || list(daemon).into_iter().find(|one| is_it(one)))
}

fn has_port(one: &Value, port: u16) -> bool {
    one["client"].as_str().is_some_and(|client| client.ends_with(&format!(":{port}")))
}

#[test]
fn each_connection_is_shown_with_its_request_and_can_be_ended() {
    if is_stand_in() {
        return;
    }
    let origin = Origin::start(|peer| while peer.request().is_some() {});
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).level("notice").start();
    let mut idle = Client::connect(daemon.port(0));
    idle.get("/");
    idle.get("/");
    let mut busy = Client::connect(daemon.port(0)).into_wire();
    busy.send("GET /slow?a=b HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut raw = std::net::TcpStream::connect(("127.0.0.1", daemon.port(1))).expect("it listens");

    let one = find(&daemon, |one| one["requests"] == 2);
    assert_eq!(
        (&one["state"], &one["protocol"], &one["request"]),
        (&"waiting".into(), &"HTTP/1".into(), &"".into())
    );
    assert_eq!(one["server"], format!("127.0.0.1:{}", daemon.port(0)));
    assert!(daemon.workers().contains(&(one["pid"].as_i64().expect("a pid") as i32)));
    let one = find(&daemon, |one| one["request"] == "GET /slow?a=b");
    assert_eq!((&one["state"], &one["leaving"]), (&"answering".into(), &false.into()));
    let stream = find(&daemon, |one| one["protocol"] == "TCP");
    assert!(has_port(&stream, raw.local_addr().expect("an address").port()), "{stream}");

    let id = one["id"].as_str().expect("an id");
    let (code, out, err) = ctl(&daemon, &["end", id]);
    assert_eq!((code, out), (0, format!("connection {id} is ended\n")), "{err}");
    busy.rest();
    let id = stream["id"].as_str().expect("an id");
    assert!(id.contains("-s"), "{id}");
    assert_eq!(ctl(&daemon, &["end", id]).0, 0);
    std::io::Read::read_to_end(&mut raw, &mut Vec::new()).expect("the end");
    wait_for("both to be gone", || (list(&daemon).len() == 1).then_some(()));
    for (id, why) in [
        (id, "no such connection"),
        ("1-1", "no such worker"),
        ("x", "no such connection"),
        ("-", "no such connection"),
    ] {
        let (code, _, err) = ctl(&daemon, &["end", id]);
        assert!(code == 1 && err.contains(why), "{id}: {code} {err}");
    }
    let (_, out, _) = ctl(&daemon, &["connections"]);
    assert!(out.starts_with("ID ") && out.contains("waiting") && out.lines().count() == 2, "{out}");
    let forbidden = daemon.complaints("error|crit|alert|emerg");
    assert!(forbidden.is_empty(), "{forbidden:?}");
}

#[test]
fn an_old_generation_is_held_by_connections_that_can_be_ended() {
    if is_stand_in() {
        return;
    }
    let origin = Origin::start(|peer| while peer.request().is_some() {});
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).level("notice").start();
    let old = daemon.workers();
    let mut busy = Client::connect(daemon.port(0)).into_wire();
    busy.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    find(&daemon, |one| one["request"] == "GET /slow");
    assert_eq!(control(&daemon, "PATCH", "/1/control/config", "").status, 200);
    let one = find(&daemon, |one| one["leaving"] == true);
    assert!(old.contains(&(one["pid"].as_i64().expect("a pid") as i32)));
    let (_, out, _) = ctl(&daemon, &["connections", "old"]);
    assert!(out.contains("(leaving)") && out.contains("GET /slow") && out.lines().count() == 2, "{out}");
    assert_eq!(ctl(&daemon, &["end", one["id"].as_str().expect("an id")]).0, 0);
    busy.rest();
    wait_for("the old generation to end", || {
        let now = daemon.workers_now();
        (!now.iter().any(|pid| old.contains(pid))).then_some(())
    });
}

#[test]
fn a_stopped_worker_is_named_and_the_others_are_listed() {
    if is_stand_in() {
        return;
    }
    use crate::support::daemon::send;
    use nix::sys::signal::Signal;
    let origin = Origin::start(|peer| while peer.request().is_some() {});
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).level("notice").start();
    daemon.wait_log("generation 1 serves"); // one that is not ready is not asked
    let stopped = daemon.workers()[0];
    send(stopped, Signal::SIGSTOP);
    let found = control(&daemon, "GET", "/pronghorn/connections", "").json();
    assert_eq!(found["silent"], serde_json::json!([stopped]));
    send(stopped, Signal::SIGCONT);
    wait_for("it to answer again", || {
        let found = control(&daemon, "GET", "/pronghorn/connections", "").json();
        (found["silent"] == serde_json::json!([])).then_some(())
    });
    let forbidden = daemon.complaints("error|crit|alert|emerg");
    assert!(forbidden.is_empty(), "{forbidden:?}");
}

/// A WebSocket in a stream of HTTP/2 stays in the old worker: it goes on there, is named, and ends with the time of the old
/// configuration, or when an operator ends its connection.
#[test]
fn a_websocket_in_a_stream_holds_an_old_generation_and_is_named_and_bounded() {
    if is_stand_in() {
        return;
    }
    let origin = Origin::start(|peer| {
        if peer.head().is_some() {
            peer.send(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
            );
        }
        loop {
            let bytes = peer.some(100_000);
            if bytes.is_empty() {
                return;
            }
            peer.send(bytes);
        }
    });
    let conf = r#"
        worker_processes 1;
        worker_shutdown_timeout %%TIMEOUT%%;
        control unix:%%DIR%%/ctl;
        http {
            http2 on;
            http2_extended_connect on;
            server {
                listen 127.0.0.1:%%PORT_0%%;
                location / {
                    proxy_pass http://%%ORIGIN%%;
                    proxy_set_header Upgrade $http_upgrade;
                    proxy_set_header Connection upgrade;
                }
            }
        }
    "#;
    for timeout in ["600s", "1s"] {
        let setup = Setup::new(conf).set("ORIGIN", origin.address()).set("TIMEOUT", timeout);
        let daemon = setup.level("notice").start();
        let old = daemon.worker();
        let mut client = H2::connect(daemon.port(0));
        let head = [
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "http"),
            (":path", "/chat"),
            (":authority", "localhost"),
            ("sec-websocket-version", "13"),
        ];
        client.send(HEADERS, END_HEADERS, 1, &block(&head));
        let echoes = |client: &mut H2, word: &'static [u8]| {
            client.send(DATA, 0, 1, word);
            let is_there =
                |client: &H2| client.answers.get(&1).is_some_and(|answer| answer.body.ends_with(word));
            client.read_until("an echo", is_there);
        };
        echoes(&mut client, b"before");
        assert_eq!(control(&daemon, "PATCH", "/1/control/config", "").status, 200);
        if timeout == "600s" {
            let one = find(&daemon, |one| one["leaving"] == true);
            assert_eq!((&one["pid"], &one["protocol"]), (&old.into(), &"HTTP/2".into()), "{one}");
            client.read_until("GOAWAY", |client| client.frames.iter().any(|frame| frame.kind == GOAWAY));
            echoes(&mut client, b"after");
            let (_, out, _) = ctl(&daemon, &["connections", "old"]);
            assert!(out.contains("(leaving)") && out.contains("HTTP/2") && out.lines().count() == 2, "{out}");
            assert!(is_alive(old), "it is held");
            assert_eq!(ctl(&daemon, &["end", one["id"].as_str().expect("an id")]).0, 0);
        } else {
            daemon.wait_log("worker_shutdown_timeout: 1 connection is closed");
        }
        wait_for("the end of the old worker", || (!is_alive(old)).then_some(()));
        assert!(list(&daemon).is_empty());
    }
}

#[test]
fn a_connection_of_quic_is_shown_and_can_be_ended() {
    if is_stand_in() {
        return;
    }
    let conf = r#"
        worker_processes 1;
        control unix:%%DIR%%/ctl;
        http {
            ssl_certificate %%DIR%%/a.crt;
            ssl_certificate_key %%DIR%%/a.key;
            server { listen 127.0.0.1:%%PORT_0%% quic; location / { return 200 x; } }
        }
    "#;
    let authority = Authority::new("Test CA");
    let pair = authority.issue(&["a.test"]);
    let setup = Setup::new(conf).level("notice");
    let daemon = setup.file("a.crt", pair.certificate).file("a.key", pair.key).start();
    let mut client = H3::connect(daemon.port(0), &authority, "a.test");
    assert_eq!(client.fetch("a.test", "/").text(), "x");
    let one = find(&daemon, |one| one["protocol"] == "HTTP/3");
    assert_eq!((&one["requests"], &one["state"]), (&1.into(), &"waiting".into()), "{one}");
    assert!(one["client"].as_str().is_some_and(|client| client.starts_with("127.0.0.1:")), "{one}");
    assert_eq!(ctl(&daemon, &["end", one["id"].as_str().expect("an id")]).0, 0);
    assert_eq!(client.closed(), 0x100);
    wait_for("the end", || list(&daemon).is_empty().then_some(()));
}
