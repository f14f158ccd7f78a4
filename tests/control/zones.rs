//! `status_zone`, and the numbers that status, Prometheus and nginx Plus' API show of zones, upstreams and limits.
//!
//! Each test sends a known load, and compares.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{control, with_certificate};
use crate::process::upgrade::upgrade;
use crate::support::daemon::{is_stand_in, send};
use crate::support::load::Load;
use crate::support::{Client, Daemon, Origin, Setup, fetch, get, process, wait_for};

const CONF: &str = r#"
worker_processes 2;
control unix:%%DIR%%/ctl;
http {
    keepalive_requests 100000000;
    limit_req_zone $uri zone=rate:1m rate=1r/m;
    limit_conn_zone $uri zone=conns:1m;
    upstream u { zone u 64k; server %%ORIGIN%%; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        server_name one.test;
        status_zone site;
        location / { proxy_pass http://u; }
        location /api { status_zone docs; location /api/old { return 410; } location /api/off { status_zone off; return 200; } return 204; }
        location /gone { proxy_pass http://127.0.0.1:1; }
        location /rate { limit_req zone=rate; proxy_pass http://u; }
        location /conns { limit_conn conns 1; proxy_pass http://u; }
        location /cut { return 444; }
    }
    server { listen 127.0.0.1:%%PORT_1%%; server_name two.test; status_zone site; location / { return 301 /; } }
    server { listen 127.0.0.1:%%PORT_2%%; server_name plain.test; location / { return 200; } location /metrics { status prometheus; } }
}
stream {
    server { listen 127.0.0.1:%%PORT_3%%; status_zone texts; return hello; }
}
"#;

fn start(origin: &Origin) -> Daemon {
    Setup::new(CONF).set("ORIGIN", origin.address()).level("crit").start()
}

pub fn plus(daemon: &Daemon, path: &str) -> Value {
    let answer = control(daemon, "GET", &format!("/api/9/{path}"), "");
    assert_eq!(answer.status, 200, "{path} {answer:?}");
    answer.json()
}

/// The document, once its `requests` are this many: counts are written at the end of a turn.
fn counted(daemon: &Daemon, path: &str, requests: u64) -> Value {
    wait_for("the counts", || {
        let now = plus(daemon, path);
        (now["requests"] == requests).then_some(now)
    })
}

#[test]
fn zones_count_statuses_protocols_and_ends() {
    if is_stand_in() {
        return;
    }
    let origin = Origin::saying("twelve bytes");
    let daemon = start(&origin);
    for (path, count) in [("/", 5), ("/api/new", 3), ("/api/old", 2), ("/api/off", 1), ("/gone", 2)] {
        (0..count).for_each(|_| drop(get(daemon.port(0), path)));
    }
    fetch(daemon.port(0), "GET / HTTP/1.0\r\n\r\n");
    get(daemon.port(1), "/");
    let mut cut = Client::connect(daemon.port(0)).into_wire();
    cut.send("GET /cut HTTP/1.1\r\nHost: a\r\n\r\n");
    cut.rest();
    get(daemon.port(2), "/");

    let site = counted(&daemon, "http/server_zones/site", 16);
    let expected = json!({
        "1xx": 0, "2xx": 10, "3xx": 1, "4xx": 2, "5xx": 2, "total": 15,
        "codes": { "200": 7, "204": 3, "301": 1, "410": 2, "502": 2 },
    });
    assert_eq!((&site["responses"], &site["discarded"]), (&expected, &json!(1)), "{site}");
    assert!(site["received"].as_u64() > Some(16 * 18) && site["sent"].as_u64() > Some(6 * 12), "{site}");
    let docs = plus(&daemon, "http/location_zones");
    assert_eq!(docs.as_object().map(|all| all.len()), Some(1), "{docs}");
    assert_eq!(
        (&docs["docs"]["requests"], &docs["docs"]["responses"]["codes"]),
        (&json!(5), &json!({ "204": 3, "410": 2 }))
    );
    let plain = control(&daemon, "GET", "/api/9/http/server_zones/plain.test", "");
    assert_eq!((plain.status, plain.code().as_str()), (404, "ServerZoneNotFound"), "it has no zone");
    let none = control(&daemon, "GET", "/api/9/http/location_zones/none", "");
    assert_eq!((none.status, none.code().as_str()), (404, "LocationZoneNotFound"));

    let status = control(&daemon, "GET", "/pronghorn/status", "").json();
    let zones = status["zones"].as_array().expect("a list");
    let site = zones.iter().find(|zone| zone["name"] == "site").expect("the zone");
    assert_eq!(site["place"], "server");
    assert_eq!(site["protocols"], json!({ "HTTP/1.0": 1, "HTTP/1.1": 15 }));
    assert_eq!(site["ends"]["upstream_error"], 2, "{site}");
    assert_eq!(site["ends"].as_object().expect("ends").values().filter_map(Value::as_u64).sum::<u64>(), 16);
    assert_eq!(site["latency"]["duration"]["count"], 16);
    let servers = status["servers"].as_array().expect("a list");
    assert_eq!(servers.iter().find(|one| one["name"] == "plain.test").expect("it is counted")["requests"], 1);
    let upstream = &status["upstreams"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|one| one["name"] == "u")
        .expect("u")
        .clone();
    assert_eq!(upstream["statuses"], json!({ "200": 6 }));
    assert_eq!(upstream["latency"]["response"]["count"], 6);
}

#[test]
fn counts_equal_the_load_over_a_reload_an_upgrade_and_a_killed_worker() {
    if is_stand_in() {
        return;
    }
    let origin = Origin::saying("twelve bytes");
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).level("crit").in_background().start();
    let load = |during: &dyn Fn(&Load)| {
        let load = Load::start(daemon.port(0), 4);
        load.wait(50);
        during(&load);
        load.finish() as u64
    };
    let sent = load(&|load| {
        assert_eq!(control(&daemon, "PATCH", "/1/control/config", "").status, 200);
        load.wait(50);
    });
    counted(&daemon, "http/server_zones/site", sent);
    // A worker that is killed at rest has counted everything.
    let before = daemon.workers_now();
    send(before[0], Signal::SIGKILL);
    wait_for("another worker", || {
        let now = daemon.workers_now();
        (now.len() == 2 && !now.contains(&before[0])).then_some(())
    });
    let old = daemon.pid();
    let sent = sent
        + load(&|load| {
            let new = upgrade(&daemon);
            load.wait(50);
            send(old, Signal::SIGQUIT);
            wait_for("the old master to end", || (!process::is_alive(old)).then_some(()));
            daemon.follow(new);
            load.wait(50);
        });
    let site = counted(&daemon, "http/server_zones/site", sent);
    assert_eq!(site["responses"]["codes"], json!({ "200": sent }));
    let upstream = control(&daemon, "GET", "/pronghorn/status", "").json();
    let upstream = upstream["upstreams"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|one| one["name"] == "u")
        .expect("u")
        .clone();
    assert_eq!(
        (&upstream["requests"], &upstream["latency"]["response"]["count"]),
        (&json!(sent), &json!(sent))
    );
}

#[test]
fn bytes_equal_those_that_a_client_sent_and_received() {
    if is_stand_in() {
        return;
    }
    let origin = Origin::saying("x");
    let daemon = start(&origin);
    let request = "GET /some/path HTTP/1.1\r\nHost: a\r\n\r\n";
    let last = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 7\r\n\r\nseven b";
    let mut wire = Client::connect(daemon.port(1)).into_wire();
    wire.send(format!("{}{last}", request.repeat(20)));
    let received = wire.rest().0.len();
    let site = counted(&daemon, "http/server_zones/site", 21);
    assert_eq!(site["sent"], received);
    assert_eq!(site["received"], request.len() * 20 + last.len());
}

#[test]
fn limits_streams_and_slabs_have_their_numbers() {
    if is_stand_in() {
        return;
    }
    let origin = Origin::saying("x");
    let daemon = start(&origin);
    let statuses: Vec<u16> = (0..3).map(|_| get(daemon.port(0), "/rate").status).collect();
    assert_eq!(statuses, [200, 503, 503]);
    get(daemon.port(0), "/conns");
    wait_for("the limits' counts", || {
        let rate =
            json!({ "passed": 1, "delayed": 0, "rejected": 2, "delayed_dry_run": 0, "rejected_dry_run": 0 });
        let conns = json!({ "passed": 1, "rejected": 0, "rejected_dry_run": 0 });
        let is_so = plus(&daemon, "http/limit_reqs") == json!({ "rate": rate })
            && plus(&daemon, "http/limit_conns/conns") == conns;
        is_so.then_some(())
    });
    let slabs = plus(&daemon, "slabs");
    let pages = &slabs["rate"]["pages"];
    assert!(pages["used"].as_u64() > Some(0) && pages["free"].as_u64() > Some(0), "{slabs}");
    let mut text = String::new();
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", daemon.port(3))).expect("it listens");
    stream.read_to_string(&mut text).expect("a text");
    wait_for("the session's count", || {
        let zone = plus(&daemon, "stream/server_zones/texts");
        (zone["connections"] == 1 && zone["sessions"]["2xx"] == 1 && zone["sent"] == 5).then_some(())
    });
}

#[test]
fn handshakes_are_counted() {
    if is_stand_in() {
        return;
    }
    use crate::support::tls::{Authority, TlsClient, trusting};
    const CONF: &str = r#"
        worker_processes 1;
        control unix:%%DIR%%/ctl;
        http { server {
            listen 127.0.0.1:%%PORT_0%% ssl; ssl_certificate chain.pem; ssl_certificate_key key.pem;
            location / { return 200 x; }
        } }
    "#;
    let (authority, setup) = with_certificate(Setup::new(CONF), "localhost");
    let daemon = setup.level("crit").start();
    let good = trusting(&authority);
    for _ in 0..2 {
        TlsClient::connect(daemon.port(0), &good, "localhost").get("localhost", "/");
    }
    let bad = trusting(&Authority::new("another one"));
    assert!(TlsClient::try_connect(daemon.port(0), &bad, "localhost").is_err());
    wait_for("the counts", || {
        let ssl = plus(&daemon, "ssl");
        (ssl["handshakes"] == 2 && ssl["handshakes_failed"] == 1 && ssl["peer_rejected_cert"] == 1)
            .then_some(())
    });
}

#[test]
fn promtool_finds_nothing() {
    let has_promtool =
        Command::new("promtool").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if is_stand_in() || has_promtool.is_err() {
        return;
    }
    let origin = Origin::saying("x");
    let daemon = start(&origin);
    get(daemon.port(0), "/");
    get(daemon.port(0), "/api/old");
    counted(&daemon, "http/server_zones/site", 2);
    let text = get(daemon.port(2), "/metrics").text();
    assert!(
        text.contains(
            "pronghorn_zone_responses_by_status_total{place=\"location\",zone=\"docs\",status=\"410\"} 1\n"
        ),
        "{text}"
    );
    assert!(
        text.contains("pronghorn_upstream_response_duration_seconds_count{upstream=\"u\"} 1\n"),
        "{text}"
    );
    let mut check = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it is there");
    check.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("it reads");
    let found = check.wait_with_output().expect("it ends");
    assert!(found.status.success() && found.stdout.is_empty() && found.stderr.is_empty(), "{found:?}");
}

#[test]
fn caches_have_the_results_of_their_lookups() {
    if is_stand_in() {
        return;
    }
    const CONF: &str = "
        worker_processes 2;
        control unix:%%DIR%%/ctl;
        http {
            proxy_cache_path %%DIR%%/cache keys_zone=pages:64k max_size=1m;
            server {
                listen 127.0.0.1:%%PORT_0%%;
                proxy_cache pages;
                proxy_cache_valid 1h;
                proxy_cache_bypass $arg_bypass;
                location / { proxy_pass http://%%ORIGIN%%; }
            }
        }";
    let origin = Origin::saying("0123456789");
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).level("info").start();
    daemon.wait_log("loaded 0 files");
    let stored = |status: &str, count: u64| {
        let written =
            || (plus(&daemon, "http/caches/pages")[status]["responses_written"] == count).then_some(());
        wait_for("a response to be stored", written);
    };
    get(daemon.port(0), "/");
    stored("miss", 1);
    for _ in 0..3 {
        assert_eq!(get(daemon.port(0), "/").text(), "0123456789");
    }
    get(daemon.port(0), "/?bypass=1");
    stored("bypass", 1);
    let (none, one) = (
        json!({ "responses": 0, "bytes": 0 }),
        |responses: u64, bytes: u64| json!({ "responses": responses, "bytes": bytes, "responses_written": responses, "bytes_written": bytes }),
    );
    let expected = json!({
        "size": 8192, "max_size": 1 << 20, "cold": false,
        "hit": { "responses": 3, "bytes": 30 }, "stale": none, "updating": none, "revalidated": none,
        "miss": one(1, 10), "expired": one(0, 0), "bypass": one(1, 10),
    });
    wait_for("the counts", || (plus(&daemon, "http/caches") == json!({ "pages": expected })).then_some(()));
    daemon.reload();
    assert_eq!(plus(&daemon, "http/caches/pages"), expected, "a reload forgets nothing");
    assert!(plus(&daemon, "slabs/pages")["pages"]["used"].as_u64() > Some(0));
    assert_eq!(control(&daemon, "GET", "/api/9/http/caches/none", "").status, 404);
}
