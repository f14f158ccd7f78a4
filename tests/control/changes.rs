//! Upstreams that change while they serve: nginx Plus' API, and how long a change lasts.

use nix::sys::signal::Signal;
use serde_json::json;

use super::{control, servers};
use crate::process::upgrade::upgrade;
use crate::support::daemon::{is_stand_in, send};
use crate::support::load::Load;
use crate::support::{Daemon, Origin, Setup, get, process, wait_for};

const CONF: &str = r#"
worker_processes 2;
control unix:%%DIR%%/ctl;
control_state %%DIR%%/state;
http {
    keepalive_requests 100000000;
    upstream u { zone u 64k; server %%ORIGIN%%; }
    upstream alone { server 127.0.0.1:1; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { proxy_pass http://u; }
        location /alone { proxy_pass http://alone; }
        location /api { api; }
        location /write { api write=on; allow 127.0.0.1; deny all; }
    }
}
"#;

const SERVERS: &str = "/api/9/http/upstreams/u/servers";

fn start(origin: &Origin) -> Daemon {
    Setup::new(CONF).set("ORIGIN", origin.address()).level("notice").start()
}

fn add(daemon: &Daemon, address: &str) -> u64 {
    let body = json!({ "server": address }).to_string();
    let answer = control(daemon, "POST", SERVERS, &body);
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()["id"].as_u64().expect("an id")
}

#[test]
fn a_server_with_a_name_keeps_its_addresses_when_it_is_changed() {
    if is_stand_in() {
        return;
    }
    let origin = Origin::saying("one");
    let conf = CONF.replace("server %%ORIGIN%%;", "server localhost:%%PORT%% max_fails=0;");
    let daemon = Setup::new(&conf).set("PORT", origin.port()).level("notice").start();
    let answer = control(&daemon, "PATCH", &format!("{SERVERS}/0"), r#"{"weight": 5}"#);
    assert_eq!((answer.status, &answer.json()["weight"]), (200, &json!(5)));
    let weights = || {
        let peers = control(&daemon, "GET", "/api/9/http/upstreams/u", "").json()["peers"].clone();
        let peers = peers.as_array().cloned().unwrap_or_default();
        peers.iter().map(|peer| peer["weight"].as_u64()).collect::<Vec<_>>()
    };
    wait_for("the new weight", || {
        let weights = weights();
        (!weights.is_empty() && weights.iter().all(|weight| *weight == Some(5))).then_some(())
    });
    (0..8).for_each(|_| assert_eq!(get(daemon.port(0), "/").text(), "one"));
}

#[test]
fn a_server_is_added_changed_and_removed() {
    if is_stand_in() {
        return;
    }
    let (one, two) = (Origin::saying("one"), Origin::saying("two"));
    let daemon = start(&one);
    let body =
        json!({ "server": two.address(), "weight": 4, "max_fails": 2, "fail_timeout": "3s", "max_conns": 9 });
    let answer = control(&daemon, "POST", SERVERS, &body.to_string());
    assert_eq!(answer.status, 201, "{answer:?}");
    assert!(answer.head.contains("Location: /api/9/http/upstreams/u/servers/1\r\n"), "{answer:?}");
    let expected = json!({
        "id": 1, "server": two.address(), "weight": 4, "max_conns": 9, "max_fails": 2, "fail_timeout": "3s",
        "slow_start": "0s", "route": "", "backup": false, "down": false,
    });
    assert_eq!(answer.json(), expected);
    assert_eq!(control(&daemon, "GET", &format!("{SERVERS}/1"), "").json(), expected);
    let texts =
        |count: usize| -> Vec<String> { (0..count).map(|_| get(daemon.port(0), "/").text()).collect() };
    wait_for("the new server to be asked by both workers", || {
        texts(10).contains(&"two".to_owned()).then_some(())
    });

    let path = format!("{SERVERS}/0");
    let answer = control(&daemon, "PATCH", &path, r#"{"down": true}"#);
    assert_eq!((answer.status, &answer.json()["down"]), (200, &json!(true)));
    wait_for("no worker to ask the first one", || texts(10).iter().all(|text| text == "two").then_some(()));
    let answer = control(&daemon, "PATCH", &path, r#"{"down": false, "weight": 2}"#);
    assert_eq!((answer.status, &answer.json()["weight"]), (200, &json!(2)));
    wait_for("the first one to be back", || texts(10).contains(&"one".to_owned()).then_some(()));

    let answer = control(&daemon, "DELETE", &path, "");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json(), json!([expected]), "those that are left");
    wait_for("the first one to be gone", || texts(10).iter().all(|text| text == "two").then_some(()));
    assert_eq!(control(&daemon, "GET", &path, "").code(), "UpstreamServerNotFound");
}

#[test]
fn nothing_fails_while_servers_come_and_go() {
    if is_stand_in() {
        return;
    }
    let (one, two) = (Origin::saying("x"), Origin::saying("x"));
    let daemon = start(&one);
    let load = Load::start(daemon.port(0), 4);
    load.wait(50);
    for round in 0..40 {
        let id = add(&daemon, &two.address());
        let path = format!("{SERVERS}/{id}");
        if round % 4 == 0 {
            load.wait(5);
        }
        assert_eq!(control(&daemon, "PATCH", &path, r#"{"drain": true}"#).status, 200);
        assert_eq!(control(&daemon, "PATCH", &path, r#"{"drain": false, "weight": 7}"#).status, 200);
        assert_eq!(control(&daemon, "DELETE", &path, "").status, 200);
    }
    load.finish();
    assert!(!two.requests().is_empty());
    assert_eq!(servers(&daemon, "u"), [one.address()]);
    let forbidden = daemon.complaints("error|crit|alert|emerg");
    assert!(forbidden.is_empty(), "{forbidden:?}");
}

#[test]
fn changes_outlive_a_reload_an_upgrade_and_a_restart() {
    if is_stand_in() {
        return;
    }
    let (one, two, three) = (Origin::saying("one"), Origin::saying("two"), Origin::saying("three"));
    let setup = Setup::new(CONF).set("ORIGIN", one.address()).level("notice").in_background();
    let daemon = setup.start();
    add(&daemon, &two.address());
    let gone = add(&daemon, &three.address());
    assert_eq!(control(&daemon, "PATCH", &format!("{SERVERS}/0"), r#"{"down": true}"#).status, 200);
    assert_eq!(control(&daemon, "DELETE", &format!("{SERVERS}/{gone}"), "").status, 200);
    let is_kept = |daemon: &Daemon| {
        assert_eq!(servers(daemon, "u"), [one.address(), two.address()]);
        for _ in 0..6 {
            assert_eq!(get(daemon.port(0), "/").text(), "two");
        }
    };
    is_kept(&daemon);
    assert_eq!(control(&daemon, "PATCH", "/1/control/config", "").status, 200);
    is_kept(&daemon);
    // A worker that is forked later has them too.
    daemon.workers_now().into_iter().for_each(|pid| send(pid, Signal::SIGKILL));
    wait_for("new workers", || (daemon.workers_now().len() == 2).then_some(()));
    is_kept(&daemon);

    let old = daemon.pid();
    let new = upgrade(&daemon);
    let during = control(&daemon, "POST", SERVERS, &json!({ "server": three.address() }).to_string());
    assert_eq!(during.status, 409, "{during:?}");
    send(old, Signal::SIGQUIT);
    wait_for("the old master to end", || (!process::is_alive(old)).then_some(()));
    daemon.follow(new);
    is_kept(&daemon);
    add(&daemon, &three.address());
    assert_eq!(servers(&daemon, "u"), [one.address(), two.address(), three.address()]);

    let state = daemon.read("state");
    assert!(state.lines().all(|line| line.starts_with("{\"upstream\":\"u\"")), "{state}");
    daemon.stop(Signal::SIGQUIT);
    let again = daemon.run(&[]);
    assert!(again.status.success(), "{again:?}");
    let pid: i32 = daemon.read("pronghorn.pid").trim().parse().expect("a pid");
    daemon.follow(pid);
    assert_eq!(servers(&daemon, "u"), [one.address(), two.address(), three.address()]);
}

#[test]
fn a_change_after_an_upgrade_that_was_undone_outlives_a_restart() {
    if is_stand_in() {
        return;
    }
    let (one, two) = (Origin::saying("one"), Origin::saying("two"));
    let daemon = Setup::new(CONF).set("ORIGIN", one.address()).level("notice").in_background().start();
    let new = upgrade(&daemon);
    send(new, Signal::SIGQUIT);
    wait_for("the new master to end", || (!process::is_alive(new)).then_some(()));
    let body = json!({ "server": two.address() }).to_string();
    wait_for("the old master to notice", || {
        (control(&daemon, "POST", SERVERS, &body).status == 201).then_some(())
    });
    assert!(daemon.read("state").contains(&two.address()), "{}", daemon.read("state"));
}

#[test]
fn a_damaged_state_file_is_kept_and_its_good_lines_count() {
    if is_stand_in() {
        return;
    }
    let (one, two) = (Origin::saying("one"), Origin::saying("two"));
    let good = format!(r#"{{"upstream":"u","change":"add","server":"{}"}}"#, two.address());
    let text = format!("{good}\nnonsense\n");
    let setup = Setup::new(CONF).set("ORIGIN", one.address()).level("notice").file("state", &text);
    let daemon = setup.start();
    assert_eq!(servers(&daemon, "u"), [one.address(), two.address()]);
    assert_eq!(daemon.read("state.old"), text);
    assert_eq!(daemon.read("state"), format!("{good}\n"));
    assert!(daemon.log().contains("line 2 of the state file"), "{}", daemon.log());
}

#[test]
fn a_reload_forgets_what_the_configuration_contradicts() {
    if is_stand_in() {
        return;
    }
    let (one, two) = (Origin::saying("one"), Origin::saying("two"));
    let daemon = start(&one);
    add(&daemon, &two.address());
    // The server is in the configuration now, and the change is moot.
    daemon.rewrite(|text| {
        text.replace("zone u 64k;", &format!("zone u 64k; server {} weight=2;", two.address()))
    });
    let answer = control(&daemon, "PATCH", "/1/control/config", "");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(daemon.log().contains("is forgotten: the configuration has this server"), "{}", daemon.log());
    assert_eq!(servers(&daemon, "u"), [two.address(), one.address()]);
    assert_eq!(daemon.read("state"), "");
}

#[test]
fn a_change_that_cannot_be_kept_is_refused() {
    if is_stand_in() {
        return;
    }
    let (one, two) = (Origin::saying("one"), Origin::saying("two"));
    let conf = CONF.replace("%%DIR%%/state", "%%DIR%%/folder/state");
    let daemon = Setup::new(&conf).set("ORIGIN", one.address()).level("notice").start();
    let body = json!({ "server": two.address() }).to_string();
    let answer = control(&daemon, "POST", SERVERS, &body);
    assert_eq!(answer.status, 507, "{answer:?}");
    assert!(answer.text.contains("folder/state"), "{answer:?}");
    assert_eq!(servers(&daemon, "u"), [one.address()]);
    std::fs::create_dir(daemon.path("folder")).expect("a folder");
    assert_eq!(control(&daemon, "POST", SERVERS, &body).status, 201);
    assert_eq!(servers(&daemon, "u").len(), 2);
}

#[test]
fn what_is_wrong_is_refused_with_its_reason() {
    if is_stand_in() {
        return;
    }
    let one = Origin::saying("one");
    let daemon = start(&one);
    let long = format!(r#"{{"server": "{}"}}"#, "a".repeat(2000));
    // An order that is cut would be another one, or none, which costs the process its life.
    let long_routes = [
        format!(r#"{{"server": "127.0.0.1:80", "route": "{}"}}"#, "a".repeat(2000)),
        format!(r#"{{"server": "127.0.0.1:80", "route": "x{}"}}"#, "\u{e4}".repeat(2000)),
        format!(r#"{{"route": "{}"}}"#, "\u{e4}".repeat(2000)),
    ];
    for (method, path, body, status, code) in [
        ("POST", SERVERS, "", 415, "JsonError"),
        ("POST", SERVERS, "[]", 415, "JsonError"),
        ("POST", SERVERS, r#"{"weight": 1}"#, 400, "UpstreamConfFormatError"),
        ("POST", SERVERS, r#"{"server": "127.0.0.1:99999"}"#, 400, "UpstreamConfFormatError"),
        ("POST", SERVERS, r#"{"server": "name.test:80"}"#, 400, "UpstreamConfFormatError"),
        ("POST", SERVERS, r#"{"server": "127.0.0.1:80; }"}"#, 400, "UpstreamConfFormatError"),
        ("POST", SERVERS, r#"{"server": "127.0.0.1:80 down"}"#, 400, "UpstreamConfFormatError"),
        ("POST", SERVERS, r#"{"server": "127.0.0.1:80", "weight": 0}"#, 400, "UpstreamConfFormatError"),
        ("POST", SERVERS, r#"{"server": "127.0.0.1:80", "weight": -1}"#, 400, "UpstreamConfFormatError"),
        ("POST", SERVERS, r#"{"server": "127.0.0.1:80", "wieght": 1}"#, 400, "UpstreamConfFormatError"),
        ("POST", SERVERS, r#"{"server": "127.0.0.1:80", "route": "a b"}"#, 400, "UpstreamConfFormatError"),
        ("POST", SERVERS, &long, 400, "UpstreamConfFormatError"),
        (
            "POST",
            SERVERS,
            r#"{"server": "127.0.0.1:80", "route": "a backup"}"#,
            400,
            "UpstreamConfFormatError",
        ),
        ("POST", SERVERS, &long_routes[0], 400, "UpstreamConfFormatError"),
        ("POST", SERVERS, &long_routes[1], 400, "UpstreamConfFormatError"),
        ("PATCH", &format!("{SERVERS}/0"), &long_routes[2], 400, "UpstreamConfFormatError"),
        ("POST", "/api/9/http/upstreams/none/servers", "{}", 404, "UpstreamNotFound"),
        ("PATCH", &format!("{SERVERS}/7"), "{}", 404, "UpstreamServerNotFound"),
        ("PATCH", &format!("{SERVERS}/x"), "{}", 400, "UpstreamBadServerId"),
        ("PATCH", &format!("{SERVERS}/0"), r#"{"server": "127.0.0.2:80"}"#, 400, "UpstreamConfFormatError"),
        ("PATCH", &format!("{SERVERS}/0"), r#"{"slow_start": "5s"}"#, 400, "UpstreamConfFormatError"),
        ("DELETE", &format!("{SERVERS}/7"), "", 404, "UpstreamServerNotFound"),
        ("PUT", SERVERS, "{}", 405, "MethodDisabled"),
        ("GET", "/api/10", "", 404, "UnknownVersion"),
        ("GET", "/api/9/nothing", "", 404, "PathNotFound"),
    ] {
        let answer = control(&daemon, method, path, body);
        assert_eq!((answer.status, &*answer.code()), (status, code), "{method} {path} {body} {answer:?}");
    }
    assert_eq!(servers(&daemon, "u"), [one.address()]);
    assert_eq!(get(daemon.port(0), "/").text(), "one");
}

#[test]
fn a_location_serves_the_same_and_writes_only_if_it_may() {
    if is_stand_in() {
        return;
    }
    let (one, two) = (Origin::saying("one"), Origin::saying("two"));
    let daemon = start(&one);
    let send = |method: &str, path: &str, body: &str| {
        let mut client = crate::support::Client::connect(daemon.port(0));
        let length = body.len();
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}"));
        client.response()
    };
    let json = |text: String| serde_json::from_str::<serde_json::Value>(&text).expect("JSON");
    let body = json!({ "server": two.address() }).to_string();
    assert_eq!(send("POST", "/api/9/http/upstreams/u/servers", &body).status, 405);
    assert_eq!(send("POST", "/write/9/http/upstreams/u/servers", &body).status, 201);
    let shown = json(send("GET", "/api/9/http/upstreams/u/servers", "").text());
    assert_eq!(shown.as_array().expect("a list").len(), 2, "{shown}");
    let filtered = json(send("GET", "/api/9/nginx?fields=version,build", "").text());
    assert_eq!(filtered, json!({ "version": env!("CARGO_PKG_VERSION"), "build": "pronghorn" }));
    assert!(json(send("GET", "/api/", "").text()).as_array().expect("a list").contains(&json!(9)));
    assert_eq!(send("DELETE", "/write/9/http/upstreams/u/servers/1", "").status, 200);
    assert_eq!(servers(&daemon, "u"), [one.address()]);
}

/// The rules of the location let the operator's browser in: no page of another site may use that.
#[test]
fn a_browser_changes_nothing_for_another_site() {
    let (one, two) = (Origin::saying("one"), Origin::saying("two"));
    let daemon = start(&one);
    let body = json!({ "server": two.address() }).to_string();
    let post = |fields: &str| {
        let length = body.len();
        let head =
            "POST /write/9/http/upstreams/u/servers HTTP/1.1\r\nHost: Api.test:81\r\nConnection: close\r\n";
        let head = format!("{head}Content-Type: text/plain\r\nContent-Length: {length}\r\n{fields}\r\n");
        crate::support::fetch(daemon.port(0), &(head + &body))
    };
    for fields in [
        "Origin: http://evil.test\r\n",
        "Origin: http://api.test\r\n",
        "Origin: http://api.test:8081\r\n",
        "Origin: http://api.test.evil.test:81\r\n",
        "Origin: null\r\n",
        "Sec-Fetch-Site: cross-site\r\n",
        "Sec-Fetch-Site: same-site\r\nOrigin: http://api.test:81\r\n",
    ] {
        let refused = post(fields);
        assert_eq!(refused.status, 403, "{fields}");
        assert!(refused.text().contains(r#""code":"CrossSite""#), "{}", refused.text());
    }
    daemon.wait_log("change refused: a page of another site had a browser send this");
    for fields in [
        "Origin: http://api.test:81\r\n",
        "Sec-Fetch-Site: none\r\n",
        // A proxy on the way may have replaced Host.
        "Origin: https://public.test\r\nSec-Fetch-Site: same-origin\r\n",
    ] {
        assert_eq!(post(fields).status, 201, "{fields}");
    }
    let read = "GET /write/9/http/upstreams HTTP/1.1\r\nHost: a\r\nOrigin: http://evil.test\r\nConnection: close\r\n\r\n";
    assert_eq!(crate::support::fetch(daemon.port(0), read).status, 200);
}

#[test]
fn a_group_without_a_zone_changes_too() {
    if is_stand_in() {
        return;
    }
    let (one, two) = (Origin::saying("one"), Origin::saying("two"));
    let daemon = start(&one);
    let path = "/api/9/http/upstreams/alone/servers";
    assert_eq!(control(&daemon, "POST", path, &json!({ "server": two.address() }).to_string()).status, 201);
    assert_eq!(control(&daemon, "DELETE", &format!("{path}/0"), "").status, 200);
    wait_for("both workers to know", || {
        (0..8).all(|_| get(daemon.port(0), "/alone").text() == "two").then_some(())
    });
    // The last server may go as well.
    assert_eq!(control(&daemon, "DELETE", &format!("{path}/1"), "").status, 200);
    wait_for("both workers to know", || {
        (0..8).all(|_| get(daemon.port(0), "/alone").status == 502).then_some(())
    });
    assert_eq!(control(&daemon, "POST", path, r#"{"server": "127.0.0.1:1"}"#).status, 201, "it comes back");
    assert_eq!(control(&daemon, "GET", &format!("{path}/0"), "").status, 404, "as another one");
}

#[test]
fn streams_have_the_same() {
    if is_stand_in() {
        return;
    }
    let (one, two) = (Origin::saying("one"), Origin::saying("two"));
    let conf = r#"
worker_processes 2;
control unix:%%DIR%%/ctl;
stream {
    upstream u { zone u 64k; server %%ORIGIN%%; }
    server { listen 127.0.0.1:%%PORT_0%%; proxy_pass u; }
}
"#;
    let daemon = Setup::new(conf).set("ORIGIN", one.address()).level("notice").start();
    assert_eq!(get(daemon.port(0), "/").text(), "one");
    let path = "/api/9/stream/upstreams/u/servers";
    let answer = control(&daemon, "POST", path, &json!({ "server": two.address() }).to_string());
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(control(&daemon, "DELETE", &format!("{path}/0"), "").status, 200);
    wait_for("both workers to know", || {
        (0..8).all(|_| get(daemon.port(0), "/").text() == "two").then_some(())
    });
    assert_eq!(
        control(&daemon, "POST", path, r#"{"server": "127.0.0.1"}"#).code(),
        "UpstreamConfFormatError"
    );
    assert_eq!(control(&daemon, "POST", "/api/9/http/upstreams/u/servers", "{}").code(), "UpstreamNotFound");
    assert_eq!(control(&daemon, "PATCH", "/1/control/config", "").status, 200);
    assert_eq!(get(daemon.port(0), "/").text(), "two", "over a reload");
    let peers = control(&daemon, "GET", "/api/9/stream/upstreams/u", "").json();
    assert!(peers["peers"][0]["connections"].as_u64() >= Some(8), "{peers}");
    let zones = control(&daemon, "GET", "/api/9/stream/server_zones", "").json();
    assert_eq!(zones.as_object().map(serde_json::Map::len), Some(1), "{zones}");
    let (code, out, _) = super::ctl(&daemon, &["list"]);
    assert!(code == 0 && out.contains("stream/u") && out.contains(&two.address()), "{out}");
    let (code, _, err) = super::ctl(&daemon, &["set", "stream/u", &two.address(), "max_conns=3"]);
    assert_eq!(code, 0, "{err}");
    assert!(super::ctl(&daemon, &["diff"]).1.contains("+ upstream stream/u: server"));
}
