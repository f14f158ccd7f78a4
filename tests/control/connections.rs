//! The clients' connections: listed, ended, and found again where they hold an old generation.

use serde_json::Value;

use super::{control, ctl};
use crate::support::daemon::is_stand_in;
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
