//! `status`: the numbers of all workers as JSON, as Prometheus' text, and as a page.

use serde_json::Value;

use crate::support::{Client, Daemon, Origin, Setup, fetch, get, wait_for};

const CONF: &str = r#"
worker_processes 2;
http {
    upstream pair { zone pair; server %%GOOD%% weight=3; server 127.0.0.1:1 down; server 127.0.0.1:2 backup; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        server_name counted.test;
        location / { proxy_pass http://pair; }
        location /missing { return 404; }
    }
    server {
        listen 127.0.0.1:%%PORT_1%%;
        server_name "status.test";
        location /status { status; }
        location /json { status json; }
        location /metrics { status prometheus; }
        location /page { status page; }
    }
}
"#;

fn start(good: &Origin) -> Daemon {
    Setup::new(CONF).set("GOOD", good.address()).start()
}

fn json(daemon: &Daemon) -> Value {
    let response = get(daemon.port(1), "/json");
    assert_eq!(response.header("content-type"), Some("application/json"));
    serde_json::from_str(&response.text()).expect("JSON")
}

fn find<'a>(list: &'a Value, name: &str) -> &'a Value {
    let all = list.as_array().expect("a list");
    all.iter().find(|one| one["name"] == name).unwrap_or_else(|| panic!("{name} in {list}"))
}

/// Asks until the counts, which are written at the end of a turn, are there.
fn counted(daemon: &Daemon, requests: u64) -> Value {
    wait_for("the counts", || {
        let now = json(daemon);
        (find(&now["servers"], "counted.test")["requests"] == requests).then_some(now)
    })
}

#[test]
fn the_numbers_are_those_of_the_load_over_a_reload_and_a_dead_worker() {
    let good = Origin::saying("twelve bytes");
    let daemon = start(&good);
    for index in 0..30 {
        let path = if index % 3 == 0 { "/missing" } else { "/" };
        get(daemon.port(0), path);
    }
    let check = |now: &Value| {
        let server = find(&now["servers"], "counted.test");
        assert_eq!((&server["responses_2xx"], &server["responses_4xx"]), (&20.into(), &10.into()));
        let upstream = find(&now["upstreams"], "pair");
        assert_eq!((&upstream["requests"], &upstream["retries"]), (&20.into(), &0.into()));
        let peer = find(&upstream["peers"], &good.address());
        assert_eq!(
            (&peer["requests"], &peer["weight"], &peer["state"]),
            (&20.into(), &3.into(), &"up".into())
        );
        assert!(
            peer["received_bytes"].as_u64() > Some(20 * 12) && peer["response_seconds"].as_f64() > Some(0.0)
        );
        let down = find(&upstream["peers"], "127.0.0.1:1");
        assert_eq!((&down["state"], &down["backup"]), (&"down".into(), &false.into()));
        assert_eq!(find(&upstream["peers"], "127.0.0.1:2")["backup"], true);
        assert!(now["latency"]["request"]["count"].as_u64() >= Some(30));
    };
    let now = counted(&daemon, 30);
    check(&now);
    assert_eq!(now["workers"].as_array().map(Vec::len), Some(2));
    let generation = now["workers"][0]["generation"].as_u64().expect("a number");

    let pid = now["workers"][0]["pid"].as_i64().expect("a pid") as i32;
    assert!(daemon.workers().contains(&pid));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
        .expect("it lives");
    wait_for("another worker", || {
        (daemon.workers_now().len() == 2 && !daemon.workers_now().contains(&pid)).then_some(())
    });
    check(&counted(&daemon, 30));

    daemon.signal(nix::sys::signal::Signal::SIGHUP);
    wait_for("the next generation", || {
        let now = json(&daemon);
        let all =
            now["workers"].as_array()?.iter().all(|worker| worker["generation"].as_u64() > Some(generation));
        all.then_some(())
    });
    check(&counted(&daemon, 30));
}

#[test]
fn prometheus_gets_its_text() {
    let good = Origin::saying("good");
    let daemon = start(&good);
    get(daemon.port(0), "/");
    counted(&daemon, 1);
    let response = get(daemon.port(1), "/metrics");
    assert_eq!(response.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = response.text();
    let peer = format!(
        "pronghorn_upstream_peer_requests_total{{upstream=\"pair\",peer=\"{}\"}} 1\n",
        good.address()
    );
    assert!(text.contains(&peer), "{text}");
    assert!(text.contains("pronghorn_request_duration_seconds_bucket{le=\"+Inf\"} "), "{text}");
    let mut seen = std::collections::HashSet::new();
    let mut typed = String::new();
    for line in text.lines() {
        if let Some(of) = line.strip_prefix("# TYPE ") {
            typed = of.split(' ').next().expect("a name").to_owned();
            continue;
        }
        if line.starts_with('#') {
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').expect("a value");
        assert!(sample.starts_with(&typed), "{line} under {typed}");
        assert!(value.parse::<f64>().is_ok(), "{line}");
        assert!(seen.insert(sample.to_owned()), "{sample} twice");
    }
}

#[test]
fn the_form_follows_the_query_and_what_the_client_accepts() {
    let good = Origin::saying("good");
    let daemon = start(&good);
    let kind = |path: &str, accept: &str| {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
        let response = fetch(daemon.port(1), &request);
        assert_eq!(response.header("cache-control"), Some("no-store"));
        let kind = response.header("content-type").expect("a type");
        kind.split(';').next().expect("a type").to_owned()
    };
    let browser = "text/html,application/xhtml+xml,*/*;q=0.8";
    assert_eq!(kind("/status", browser), "text/html");
    assert_eq!(kind("/status?format=json", browser), "application/json");
    assert_eq!(kind("/status?x=1&format=prometheus", browser), "text/plain");
    assert_eq!(
        kind("/status", "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"),
        "text/plain"
    );
    assert_eq!(kind("/status?format=what", "*/*"), "application/json");
    assert_eq!(kind("/page?format=json", "*/*"), "text/html", "the configuration decides");
    let mut client = Client::connect(daemon.port(1));
    client.send("POST /status HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.response().status, 405);
}

#[test]
fn the_page_needs_nothing_from_elsewhere() {
    let good = Origin::saying("good");
    let daemon = start(&good);
    let page = get(daemon.port(1), "/page").text();
    let outside = page.replace("http://www.w3.org/2000/svg", "");
    assert!(page.starts_with("<!doctype html>") && !outside.contains("//"), "no address of another site");
}

/// The page in a browser, if there is one: it runs its script, which asks for the numbers, and shows them without an error.
#[test]
fn a_browser_shows_each_upstream_with_the_states_of_its_peers() {
    use std::process::{Command, Stdio};
    let browser = || Command::new("chromium");
    let has_browser = browser().arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if crate::support::daemon::is_stand_in() || has_browser.is_err() {
        return;
    }
    let conf = r#"
http {
    upstream app { zone app 64k; server %%ORIGIN%%; server 127.0.0.1:1 down; server 127.0.0.1:2 backup; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { proxy_pass http://app; }
        location /status { status; }
    }
}
mail { auth_http 127.0.0.1:1; server_name mail.test; server { listen 127.0.0.1:%%PORT_1%%; protocol imap; } }
"#;
    let origin = Origin::saying("x");
    let daemon = Setup::new(conf).set("ORIGIN", origin.address()).level("crit").start();
    assert_eq!(get(daemon.port(0), "/").text(), "x");
    let mut mail = Client::connect(daemon.port(1));
    assert_eq!(mail.line(), b"* OK IMAP4 ready");
    let server = format!("mail.test 127.0.0.1:{}</td><td>imap</td><td>1</td><td>0</td>", daemon.port(1));
    let output = browser()
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"])
        .args([
            "--virtual-time-budget=6000",
            &format!("--user-data-dir={}", daemon.path("browser").display()),
        ])
        .arg(format!("http://127.0.0.1:{}/status", daemon.port(0)))
        .output()
        .expect("it runs");
    let (page, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    for part in [
        "Upstream app",
        ">2 of 3 up<",
        &*origin.address(),
        ">down<",
        "127.0.0.1:2 (backup)",
        "requests / s",
        &*server,
        "polyline",
    ] {
        assert!(page.contains(part), "{part}: {page}\n{log}");
    }
    assert!(!log.contains("Uncaught") && page.contains("role=\"status\"></span>"), "{page}\n{log}");
}
