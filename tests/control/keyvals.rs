//! Key-value zones: variables that operators set, through nginx Plus' API and `pronghorn ctl`.
//!
//! Each test changes pairs at the control socket of a real daemon, and asks its workers what the variable is.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{control, ctl};
use crate::process::upgrade::upgrade;
use crate::support::daemon::{is_stand_in, send};
use crate::support::{Daemon, Setup, get, process, wait_for};

const CONF: &str = r#"
worker_processes 2;
control unix:%%DIR%%/ctl;
http {
    keyval $arg_k $early zone=one;
    keyval_zone zone=one:32k state=%%DIR%%/one.state;
    keyval_zone zone=short:32k timeout=1h;
    keyval_zone zone=nets:1m type=ip;
    keyval_zone zone=paths:1m type=prefix state=paths.state;
    keyval $arg_k $short zone=short;
    keyval $arg_k $net zone=nets;
    keyval $arg_k $path zone=paths;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location = /one { return 200 "<$early>"; }
        location = /short { return 200 "<$short>"; }
        location = /net { return 200 "<$net>"; }
        location = /path { return 200 "<$path>"; }
        location /api { api; }
        location /write { api write=on; allow 127.0.0.1; deny all; }
    }
}
stream {
    keyval_zone zone=one:32k;
    keyval $remote_addr $text zone=one;
    server { listen 127.0.0.1:%%PORT_1%%; return "<$text>"; }
}
"#;

const ONE: &str = "/api/9/http/keyvals/one";

fn start() -> Daemon {
    Setup::new(CONF).level("info").start()
}

fn ask(daemon: &Daemon, method: &str, path: &str, body: &Value) -> (u16, String) {
    let answer = control(daemon, method, path, &body.to_string());
    let code = if answer.text.is_empty() { String::new() } else { answer.code() };
    (answer.status, code)
}

fn value(daemon: &Daemon, path: &str, key: &str) -> String {
    get(daemon.port(0), &format!("{path}?k={key}")).text()
}

/// Waits until both workers have answered with this value for some time.
fn is_value(daemon: &Daemon, path: &str, key: &str, expected: &str) {
    wait_for("all workers to know the value", || {
        (0..8).all(|_| value(daemon, path, key) == expected).then_some(())
    });
}

#[test]
fn pairs_are_added_changed_and_removed() {
    if is_stand_in() {
        return;
    }
    let daemon = start();
    assert_eq!(value(&daemon, "/one", "a"), "<>");
    assert_eq!(ask(&daemon, "POST", ONE, &json!({ "a": "1", "b": "2 \u{e9}\0" })), (201, String::new()));
    is_value(&daemon, "/one", "a", "<1>");
    assert_eq!(control(&daemon, "GET", ONE, "").json(), json!({ "a": "1", "b": "2 \u{e9}\0" }));
    assert_eq!(control(&daemon, "GET", &format!("{ONE}?key=%61"), "").json(), json!({ "a": "1" }));
    assert_eq!(ask(&daemon, "PATCH", ONE, &json!({ "a": "3" })), (204, String::new()));
    is_value(&daemon, "/one", "a", "<3>");
    assert_eq!(ask(&daemon, "PATCH", ONE, &json!({ "b": null })), (204, String::new()));
    assert_eq!(control(&daemon, "GET", ONE, "").json(), json!({ "a": "3" }));
    assert_eq!(ask(&daemon, "POST", ONE, &json!({ "c": "4" })), (201, String::new()));
    let all = control(&daemon, "GET", "/api/9/http/keyvals", "").json();
    assert_eq!(all, json!({ "one": { "a": "3", "c": "4" }, "short": {}, "nets": {}, "paths": {} }));
    let names = control(&daemon, "GET", "/api/9/http/keyvals?fields=", "").json();
    assert_eq!(names, json!(["one", "short", "nets", "paths"]));
    assert_eq!(ask(&daemon, "DELETE", ONE, &json!(null)), (204, String::new()));
    is_value(&daemon, "/one", "a", "<>");
    assert_eq!(control(&daemon, "GET", ONE, "").json(), json!({}));
}

#[test]
fn refusals_have_the_codes_of_nginx_plus() {
    if is_stand_in() {
        return;
    }
    let daemon = start();
    let one = |method, body: Value| ask(&daemon, method, ONE, &body);
    let error = |status: u16, code: &str| (status, code.to_owned());
    assert_eq!(one("POST", json!({ "a": "1" })), (201, String::new()));
    assert_eq!(one("POST", json!({ "a": "1" })), error(409, "KeyvalKeyExists"));
    let format = error(400, "KeyvalFormatError");
    for (method, body) in [
        ("POST", json!({})),
        ("POST", json!([])),
        ("POST", json!({ "b": "1", "c": "2" })),
        ("POST", json!({ "b": 1 })),
        ("POST", json!({ "b": null })),
        ("POST", json!({ "b": { "value": "1", "expire": 1000 } })),
        ("POST", json!({ "b": { "value": "1", "expire": -1 } })),
        ("POST", json!({ "b": { "value": "1", "color": "red" } })),
        ("POST", json!({ "b".repeat(1025): "1" })),
        ("POST", json!({ "b": "1".repeat(8193) })),
        ("PATCH", json!({})),
        ("PATCH", json!({ "a": "1", "b": "2" })),
        ("PATCH", json!({ "a": {} })),
        ("PATCH", json!({ "a": { "expire": 1000 } })),
    ] {
        assert_eq!(one(method, body.clone()), format, "{method} {body}");
    }
    assert_eq!(one("PATCH", json!({ "b": "1" })), error(404, "KeyvalKeyNotFound"));
    assert_eq!(one("PATCH", json!({ "b": null })), error(404, "KeyvalKeyNotFound"));
    assert_eq!(control(&daemon, "GET", &format!("{ONE}?key=b"), "").code(), "KeyvalKeyNotFound");
    let answer = control(&daemon, "POST", ONE, "{");
    assert_eq!((answer.status, answer.code()), error(415, "JsonError"));
    let two = "/api/9/http/keyvals/two";
    for method in ["POST", "PATCH", "DELETE", "GET"] {
        assert_eq!(ask(&daemon, method, two, &json!({ "a": "1" })), error(404, "KeyvalNotFound"), "{method}");
    }
    let many: Value =
        (0..100).map(|n| (format!("k{n}"), json!("x".repeat(200)))).collect::<serde_json::Map<_, _>>().into();
    assert_eq!(ask(&daemon, "DELETE", ONE, &json!(null)).0, 204);
    assert_eq!(one("POST", many), error(413, "RequestEntityTooLarge"));
    let nets = "/api/9/http/keyvals/nets";
    assert_eq!(ask(&daemon, "POST", nets, &json!({ "ten": "1" })), format);
    assert_eq!(ask(&daemon, "POST", nets, &json!({ "10.0.0.0/8": "1" })).0, 201);
    assert_eq!(ask(&daemon, "POST", nets, &json!({ "10.1.0.0/8": "1" })), error(409, "KeyvalKeyExists"));
    let forbidden = daemon.complaints("error|crit|alert|emerg");
    assert!(forbidden.is_empty(), "{forbidden:?}");
}

#[test]
fn a_full_zone_refuses_and_says_what_to_change() {
    if is_stand_in() {
        return;
    }
    let daemon = start();
    let mut count = 0;
    let refused = loop {
        let answer = ask(&daemon, "POST", ONE, &json!({ format!("k{count}"): "x".repeat(500) }));
        if answer.0 != 201 {
            break answer;
        }
        count += 1;
        assert!(count < 1000, "the zone has 32k");
    };
    assert_eq!(refused, (507, "InsufficientStorage".to_owned()));
    assert!(daemon.log().contains("keyval zone \"one\" is full"), "{}", daemon.log());
    assert_eq!(control(&daemon, "GET", ONE, "").json().as_object().expect("pairs").len(), count);
    // Room that is given back is used again.
    assert_eq!(ask(&daemon, "PATCH", ONE, &json!({ "k0": null })).0, 204);
    assert_eq!(ask(&daemon, "POST", ONE, &json!({ "again": "x".repeat(500) })).0, 201);
}

#[test]
fn keys_match_as_the_type_of_their_zone_says() {
    if is_stand_in() {
        return;
    }
    let daemon = start();
    let pairs = json!({ "10.0.0.0/8": "wide", "10.1.0.0/16": "narrow", "2001:db8::/32": "six" });
    assert_eq!(ask(&daemon, "POST", "/api/9/http/keyvals/nets", &pairs).0, 201);
    for (key, expected) in
        [("10.1.2.3", "narrow"), ("10.2.2.3", "wide"), ("11.0.0.1", ""), ("2001:db8::7", "six"), ("x", "")]
    {
        is_value(&daemon, "/net", key, &format!("<{expected}>"));
    }
    let pairs = json!({ "/": "root", "/app": "app", "/app/admin": "admin" });
    assert_eq!(ask(&daemon, "POST", "/api/9/http/keyvals/paths", &pairs).0, 201);
    for (key, expected) in [("/app/admin/x", "admin"), ("/app/x", "app"), ("/x", "root"), ("x", "")] {
        is_value(&daemon, "/path", key, &format!("<{expected}>"));
    }
    assert_eq!(ask(&daemon, "POST", "/api/9/stream/keyvals/one", &json!({ "127.0.0.1": "home" })).0, 201);
    wait_for("both workers' sessions to have the text", || {
        let text = || {
            let mut text = String::new();
            let mut stream = std::net::TcpStream::connect(("127.0.0.1", daemon.port(1))).expect("it listens");
            std::io::Read::read_to_string(&mut stream, &mut text).expect("a text");
            text
        };
        (0..8).all(|_| text() == "<home>").then_some(())
    });
    assert_eq!(
        control(&daemon, "GET", ONE, "").json(),
        json!({}),
        "the http zone of the same name is another one"
    );
}

#[test]
fn pairs_go_after_their_time() {
    if is_stand_in() {
        return;
    }
    let daemon = start();
    let short = "/api/9/http/keyvals/short";
    let pairs = json!({ "long": "1", "soon": { "value": "2", "expire": 300 }, "changed": { "value": "3", "expire": 300 } });
    assert_eq!(ask(&daemon, "POST", short, &pairs).0, 201);
    assert_eq!(ask(&daemon, "PATCH", short, &json!({ "changed": { "expire": 3_600_000 } })).0, 204);
    is_value(&daemon, "/short", "soon", "<>");
    is_value(&daemon, "/short", "changed", "<3>");
    is_value(&daemon, "/short", "long", "<1>");
    assert_eq!(control(&daemon, "GET", short, "").json(), json!({ "long": "1", "changed": "3" }));
    assert_eq!(ask(&daemon, "PATCH", short, &json!({ "soon": "4" })).1, "KeyvalKeyNotFound");
    assert_eq!(ask(&daemon, "POST", short, &json!({ "soon": "4" })).0, 201);
}

#[test]
fn pairs_outlive_a_reload_an_upgrade_and_a_restart() {
    if is_stand_in() {
        return;
    }
    let daemon = Setup::new(CONF).level("notice").in_background().start();
    let (short, paths) = ("/api/9/http/keyvals/short", "/api/9/http/keyvals/paths");
    assert_eq!(ask(&daemon, "POST", ONE, &json!({ "a": "1", "b": "2", "c": "3" })).0, 201);
    assert_eq!(ask(&daemon, "PATCH", ONE, &json!({ "b": null })).0, 204);
    assert_eq!(ask(&daemon, "POST", short, &json!({ "a": "memory" })).0, 201);
    assert_eq!(ask(&daemon, "POST", paths, &json!({ "/": "root" })).0, 201);
    let is_kept = |daemon: &Daemon| {
        for (path, key, expected) in
            [("/one", "a", "<1>"), ("/one", "b", "<>"), ("/one", "c", "<3>"), ("/path", "/x", "<root>")]
        {
            is_value(daemon, path, key, expected);
        }
    };
    is_kept(&daemon);
    assert_eq!(control(&daemon, "PATCH", "/1/control/config", "").status, 200);
    is_kept(&daemon);
    is_value(&daemon, "/short", "a", "<memory>");
    // A worker that is forked later has them too.
    daemon.workers_now().into_iter().for_each(|pid| send(pid, Signal::SIGKILL));
    wait_for("new workers", || (daemon.workers_now().len() == 2).then_some(()));
    is_kept(&daemon);

    let old = daemon.pid();
    let new = upgrade(&daemon);
    assert_eq!(ask(&daemon, "PATCH", ONE, &json!({ "a": "x" })), (409, "Conflict".to_owned()));
    send(old, Signal::SIGQUIT);
    wait_for("the old master to end", || (!process::is_alive(old)).then_some(()));
    daemon.follow(new);
    is_kept(&daemon);
    is_value(&daemon, "/short", "a", "<memory>");
    wait_for("the new master to notice", || {
        (ask(&daemon, "POST", ONE, &json!({ "d": "4" })).0 == 201).then_some(())
    });

    daemon.stop(Signal::SIGQUIT);
    let again = daemon.run(&[]);
    assert!(again.status.success(), "{again:?}");
    let pid: i32 = daemon.read("pronghorn.pid").trim().parse().expect("a pid");
    daemon.follow(pid);
    is_kept(&daemon);
    is_value(&daemon, "/one", "d", "<4>");
    is_value(&daemon, "/short", "a", "<>");
}

#[test]
fn a_damaged_state_file_is_kept_and_its_good_lines_count() {
    if is_stand_in() {
        return;
    }
    let text = "{\"key\":\"a\",\"value\":\"1\"}\nnonsense\n{\"key\":\"b\",\"value\":\"2\"}\n{\"key\":\"c\",\"value\":\"3\",\"expires_ms\":1000}\n";
    let daemon = Setup::new(CONF).level("notice").file("one.state", text).start();
    assert_eq!(control(&daemon, "GET", ONE, "").json(), json!({ "a": "1", "b": "2" }));
    assert_eq!(daemon.read("one.state.old"), text);
    assert!(daemon.log().contains("line 2 of the state file"), "{}", daemon.log());
    assert_eq!(ask(&daemon, "POST", ONE, &json!({ "d": "4" })).0, 201);
    assert_eq!(daemon.read("one.state").lines().count(), 3);
}

#[test]
fn a_state_file_that_cannot_be_written_refuses_the_change() {
    if is_stand_in() {
        return;
    }
    let daemon = Setup::new(CONF).level("notice").start();
    assert_eq!(ask(&daemon, "POST", ONE, &json!({ "a": "1" })).0, 201);
    daemon.rewrite(|text| {
        text.replace("%%DIR%%/one.state", "/dev/full").replace("one.state", "none/one.state")
    });
    assert_eq!(control(&daemon, "PATCH", "/1/control/config", "").status, 200);
    assert_eq!(ask(&daemon, "PATCH", ONE, &json!({ "a": "2" })), (507, "InsufficientStorage".to_owned()));
    assert_eq!(control(&daemon, "GET", ONE, "").json(), json!({ "a": "1" }));
    assert!(daemon.log().contains("a change of keyval zone \"one\" is refused"), "{}", daemon.log());
}

#[test]
fn the_api_of_a_location_reads_and_with_write_changes() {
    if is_stand_in() {
        return;
    }
    let daemon = start();
    let ask = |method: &str, path: &str, body: &str| {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let mut client = crate::support::Client::connect(daemon.port(0));
        client.send(request.as_bytes());
        client.response().status
    };
    assert_eq!(ask("POST", "/api/9/http/keyvals/one", r#"{"a": "1"}"#), 405);
    assert_eq!(ask("POST", "/write/9/http/keyvals/one", r#"{"a": "1"}"#), 201);
    is_value(&daemon, "/one", "a", "<1>");
    let found = get(daemon.port(0), "/api/9/http/keyvals/one?key=a").text();
    assert_eq!(serde_json::from_str::<Value>(&found).expect("JSON"), json!({ "a": "1" }));
}

#[test]
fn ctl_shows_and_changes_pairs() {
    if is_stand_in() {
        return;
    }
    let daemon = start();
    let run = |words: &[&str]| {
        let (code, out, err) = ctl(&daemon, &[&["keyval"], words].concat());
        assert_eq!(code, 0, "{words:?} {out} {err}");
        out
    };
    assert_eq!(run(&["set", "one", "a b", "1"]), "key \"a b\" is set\n");
    assert_eq!(run(&["get", "one", "a b"]), "1\n");
    run(&["set", "one", "a b", "2"]);
    run(&["set", "short", "s", "3", "expire=1h"]);
    run(&["set", "stream/one", "127.0.0.1", "4"]);
    assert_eq!(
        run(&["list"]),
        "ZONE        KEY        VALUE\none         a b        2\nshort       s          3\nstream/one  127.0.0.1  4\n"
    );
    run(&["remove", "one", "a b"]);
    run(&["clear", "short"]);
    assert_eq!(run(&["list", "one"]), "ZONE  KEY  VALUE\n");
    for (words, code, text) in [
        (&["keyval", "remove", "one", "x"][..], 1, "keyval key not found"),
        (&["keyval", "set", "one", "x", "1", "expire=1s"], 1, "keyval timeout is not enabled"),
        (&["keyval", "list", "none"], 1, "keyval not found"),
        (&["keyval", "set", "one", "x", "1", "exp=1s"], 2, "invalid parameter"),
        (&["keyval"], 2, "keyval list"),
    ] {
        let (found, out, err) = ctl(&daemon, words);
        assert!(found == code && err.contains(text) && out.is_empty(), "{words:?}: {found} {out} {err}");
    }
}
