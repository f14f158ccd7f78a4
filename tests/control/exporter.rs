//! The exporter for nginx Plus that Debian packages (`prometheus-nginx-exporter`) reads our API, unchanged, and shows what
//! a known load has done.
//!
//! Each of its samples is compared; those that are not expected by name must be 0.

use std::collections::BTreeMap;
use std::process::Command;

use super::zones::plus;
use super::{control, with_certificate};
use crate::support::daemon::is_stand_in;
use crate::support::origin::ok;
use crate::support::program::{Program, find};
use crate::support::tls::{Authority, TlsClient, trusting};
use crate::support::{Client, Daemon, Origin, Setup, get, port, process, wait_for};

const CONF: &str = r#"
worker_processes 1;
control unix:%%DIR%%/ctl;
http {
    limit_req_zone $uri zone=rate:1m rate=1r/m;
    limit_req_zone $uri zone=even:1m rate=2r/s;
    limit_req_zone $uri zone=tried:1m rate=1r/m;
    limit_conn_zone $uri zone=conns:1m;
    upstream u {
        zone u 64k;
        server 127.0.0.1:%%DEAD%% fail_timeout=1h;
        server %%ORIGIN%% max_conns=7;
        keepalive 4;
    }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        status_zone site;
        location / { proxy_pass http://u; }
        location /docs { status_zone docs; return 204; }
        location /rate { limit_req zone=rate; proxy_pass http://u; }
        location /even { limit_req zone=even burst=1; proxy_pass http://u; }
        location /tried { limit_req zone=tried; limit_req_dry_run on; proxy_pass http://u; }
        location /conns { limit_conn conns 1; proxy_pass http://u; }
        location /cut { return 444; }
    }
    server {
        listen 127.0.0.1:%%PORT_1%% ssl; ssl_certificate chain.pem; ssl_certificate_key key.pem;
        status_zone secure;
        location / { return 200 x; }
    }
    server { listen 127.0.0.1:%%PORT_2%%; status_zone admin; location /api { api; } }
    server { listen 127.0.0.1:%%PORT_3%%; server_name nowhere.test; return 204; }
}
stream {
    limit_conn_zone $server_port zone=ports:1m;
    upstream s { zone s 64k; server %%GREETER%%; }
    upstream lost { zone lost 64k; server 127.0.0.1:%%DEAD%%; }
    server { listen 127.0.0.1:%%PORT_4%%; status_zone texts; limit_conn ports 5; return hello; }
    server { listen 127.0.0.1:%%PORT_5%%; status_zone closed; deny all; return never; }
    server { listen 127.0.0.1:%%PORT_6%%; status_zone relay; proxy_pass s; }
    server { listen 127.0.0.1:%%PORT_7%%; status_zone void; proxy_pass lost; }
}
"#;

/// Numbers of what is in progress.
const IN_PROGRESS: &[&str] = &["server_zone_processing", "stream_server_zone_processing"];

/// The samples of the exporter, by name and labels, without its prefix.
type Samples = BTreeMap<String, f64>;

fn scrape(exporter: u16) -> Samples {
    let text = get(exporter, "/metrics").text();
    let lines = text.lines().filter_map(|line| line.strip_prefix("nginxplus_")?.rsplit_once(' '));
    lines.map(|(name, value)| (name.to_owned(), value.parse().expect("a number"))).collect()
}

/// Starts the exporter, which reads the API at `scraped`.
fn start_exporter(scraped: u16) -> Option<(Program, u16)> {
    let program = find(&["prometheus-nginx-exporter"])?;
    let port = port::free();
    let mut command = Command::new(program);
    command.args(["-nginx.plus", "-nginx.scrape-uri", &format!("http://127.0.0.1:{scraped}/api")]);
    command.args(["-web.listen-address", &format!("127.0.0.1:{port}")]);
    let mut exporter = Program::start(&mut command);
    wait_for("the exporter", || (process::is_listening(port) || exporter.has_ended()).then_some(()));
    assert!(!exporter.has_ended(), "it does not start");
    Some((exporter, port))
}

/// Sends a request and returns the number of bytes of its response.
fn bytes_of(port: u16, path: &str) -> usize {
    let mut wire = Client::connect(port).into_wire();
    wire.send(request(path));
    wire.rest().0.len()
}

fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
}

/// The load that both halves of the test send.
struct Sent {
    received: usize,
    sent: usize,
}

/// Sends one request for each path to the first server.
fn send(daemon: &Daemon, paths: &[&str], total: &mut Sent) {
    for path in paths {
        total.received += request(path).len();
        total.sent += bytes_of(daemon.port(0), path);
    }
}

struct Expected(Samples);

impl Expected {
    fn set(&mut self, name: &str, value: usize) -> &mut Self {
        self.0.insert(name.to_owned(), value as f64);
        self
    }
}

/// Compares the samples with what is expected, once they are so: counts are written at the end of a turn.
fn compare(exporter: u16, expected: &Expected, others: &[&str]) -> Samples {
    let mut last = String::new();
    let is_other = |name: &str| {
        let family = name.split('{').next().unwrap_or_default();
        others.contains(&family) || name.contains("=\"admin\"")
    };
    let differences = |samples: &Samples| {
        let missing = expected.0.keys().filter(|name| !samples.contains_key(*name));
        let wrong = samples.iter().filter(|(name, value)| {
            !is_other(name) && **value != expected.0.get(*name).copied().unwrap_or_default()
        });
        let wrong = wrong.map(|(name, value)| format!("{name} is {value}"));
        missing.map(|name| format!("{name} is missing")).chain(wrong).collect::<Vec<_>>().join("\n")
    };
    let found = crate::support::deadline::wait_at_most(crate::support::deadline(), || {
        let samples = scrape(exporter);
        last = differences(&samples);
        last.is_empty().then_some(samples)
    });
    found.unwrap_or_else(|| panic!("the exporter shows something else:\n{last}\nexpected: {:#?}", expected.0))
}

#[test]
fn the_exporter_for_nginx_plus_shows_what_was_sent_over_a_reload() {
    if is_stand_in() {
        return;
    }
    let origin = Origin::replying(|request| match &*request.target {
        "/teapot" => b"HTTP/1.1 418 Teapot\r\nContent-Length: 3\r\n\r\ntea".to_vec(),
        _ => ok(b"twelve bytes"),
    });
    let greeter = Origin::start(|peer| {
        if peer.request().is_some() {
            peer.send(ok(b"good day"));
        }
    });
    let dead = port::refusing();
    let (authority, setup) = with_certificate(Setup::new(CONF), "localhost");
    let setup = setup.set("ORIGIN", origin.address()).set("GREETER", greeter.address()).set("DEAD", dead);
    let daemon = setup.level("crit").start();
    let Some((_exporter, exporter)) = start_exporter(daemon.port(2)) else { return };

    let mut site = Sent { received: 0, sent: 0 };
    // The first request finds the dead server first.
    send(&daemon, &["/", "/", "/", "/teapot", "/docs", "/docs", "/cut"], &mut site);
    send(&daemon, &["/rate", "/rate", "/even", "/even", "/tried", "/tried", "/conns"], &mut site);
    let before = site.sent;
    send(&daemon, &["/docs"], &mut site);
    let docs = site.sent - before;
    let client = trusting(&authority);
    for _ in 0..2 {
        TlsClient::connect(daemon.port(1), &client, "localhost").get("localhost", "/");
    }
    let stranger = trusting(&Authority::new("another one"));
    assert!(TlsClient::try_connect(daemon.port(1), &stranger, "localhost").is_err());
    get(daemon.port(3), "/");
    let session = |port: u16, bytes: &str| {
        let mut wire = Client::connect(port).into_wire();
        let _ = wire.try_send(bytes.as_bytes());
        wire.rest().0.len()
    };
    assert_eq!(session(daemon.port(4), ""), 5);
    assert_eq!(session(daemon.port(4), ""), 5);
    assert_eq!(session(daemon.port(5), ""), 0);
    assert_eq!(session(daemon.port(7), ""), 0);
    let asked = request("/");
    let relayed = session(daemon.port(6), &asked);

    let (dead, good, greeter) = (format!("127.0.0.1:{dead}"), origin.address(), greeter.address());
    let secure = plus(&daemon, "http/server_zones/secure");
    let number = |value: &serde_json::Value| value.as_u64().expect("a number") as usize;
    let codes = |server: &str, code: u16| {
        format!("upstream_server_responses_codes{{code=\"{code}\",server=\"{server}\",upstream=\"u\"}}")
    };
    let mut expected = Expected(Samples::new());
    // The proxied ones: three, the teapot, one within the rate, both even ones, both tried ones, and one counted.
    let proxied = 4 + 1 + 2 + 2 + 1;
    let of_good = |name: &str| format!("upstream_server_{name}{{server=\"{good}\",upstream=\"u\"}}");
    expected
        .set("up", 1)
        .set("ssl_handshakes", 2)
        .set("ssl_handshakes_failed", 1)
        .set("ssl_session_reuses", 1)
        .set("server_zone_requests{server_zone=\"site\"}", 15)
        .set("server_zone_responses{code=\"2xx\",server_zone=\"site\"}", proxied - 1 + 3)
        .set("server_zone_responses{code=\"4xx\",server_zone=\"site\"}", 1)
        .set("server_zone_responses{code=\"5xx\",server_zone=\"site\"}", 1)
        .set("server_zone_responses_codes{code=\"200\",server_zone=\"site\"}", proxied - 1)
        .set("server_zone_responses_codes{code=\"204\",server_zone=\"site\"}", 3)
        .set("server_zone_responses_codes{code=\"503\",server_zone=\"site\"}", 1)
        .set("server_zone_discarded{server_zone=\"site\"}", 1)
        .set("server_zone_received{server_zone=\"site\"}", site.received)
        .set("server_zone_sent{server_zone=\"site\"}", site.sent)
        .set("server_zone_requests{server_zone=\"secure\"}", 2)
        .set("server_zone_responses{code=\"2xx\",server_zone=\"secure\"}", 2)
        .set("server_zone_responses_codes{code=\"200\",server_zone=\"secure\"}", 2)
        .set("server_zone_received{server_zone=\"secure\"}", number(&secure["received"]))
        .set("server_zone_sent{server_zone=\"secure\"}", number(&secure["sent"]))
        .set("server_zone_ssl_handshakes{server_zone=\"secure\"}", 2)
        .set("server_zone_ssl_handshakes_failed{server_zone=\"secure\"}", 1)
        .set("server_zone_ssl_session_reuses{server_zone=\"secure\"}", 1)
        .set("location_zone_requests{location_zone=\"docs\"}", 3)
        .set("location_zone_responses{code=\"2xx\",location_zone=\"docs\"}", 3)
        .set("location_zone_responses_codes{code=\"204\",location_zone=\"docs\"}", 3)
        .set("location_zone_received{location_zone=\"docs\"}", 3 * request("/docs").len())
        .set("location_zone_sent{location_zone=\"docs\"}", 3 * docs)
        .set("limit_request_passed{zone=\"rate\"}", 1)
        .set("limit_request_rejected{zone=\"rate\"}", 1)
        .set("limit_request_passed{zone=\"even\"}", 1)
        .set("limit_request_delayed{zone=\"even\"}", 1)
        .set("limit_request_passed{zone=\"tried\"}", 1)
        .set("limit_request_rejected_dry_run{zone=\"tried\"}", 1)
        .set("limit_connection_passed{zone=\"conns\"}", 1)
        .set("stream_limit_connection_passed{zone=\"ports\"}", 2)
        .set(&format!("upstream_server_state{{server=\"{dead}\",upstream=\"u\"}}"), 4)
        .set(&format!("upstream_server_requests{{server=\"{dead}\",upstream=\"u\"}}"), 1)
        .set(&format!("upstream_server_responses{{code=\"5xx\",server=\"{dead}\",upstream=\"u\"}}"), 1)
        .set(&format!("upstream_server_fails{{server=\"{dead}\",upstream=\"u\"}}"), 1)
        .set(&format!("upstream_server_unavail{{server=\"{dead}\",upstream=\"u\"}}"), 1)
        .set(&codes(&dead, 502), 1)
        .set(&codes(&good, 200), proxied - 1)
        .set(&of_good("state"), 1)
        .set(&of_good("limit"), 7)
        .set(&of_good("requests"), proxied)
        .set(
            &format!("upstream_server_responses{{code=\"2xx\",server=\"{good}\",upstream=\"u\"}}"),
            proxied - 1,
        )
        .set(&format!("upstream_server_responses{{code=\"4xx\",server=\"{good}\",upstream=\"u\"}}"), 1)
        .set(
            &of_good("received"),
            (proxied - 1) * ok(b"twelve bytes").len()
                + b"HTTP/1.1 418 Teapot\r\nContent-Length: 3\r\n\r\ntea".len(),
        )
        .set("stream_server_zone_connections{server_zone=\"texts\"}", 2)
        .set("stream_server_zone_sessions{code=\"2xx\",server_zone=\"texts\"}", 2)
        .set("stream_server_zone_sent{server_zone=\"texts\"}", 10)
        .set("stream_server_zone_connections{server_zone=\"closed\"}", 1)
        .set("stream_server_zone_sessions{code=\"4xx\",server_zone=\"closed\"}", 1)
        .set("stream_server_zone_connections{server_zone=\"void\"}", 1)
        .set("stream_server_zone_sessions{code=\"5xx\",server_zone=\"void\"}", 1)
        .set("stream_server_zone_connections{server_zone=\"relay\"}", 1)
        .set("stream_server_zone_sessions{code=\"2xx\",server_zone=\"relay\"}", 1)
        .set("stream_server_zone_received{server_zone=\"relay\"}", asked.len())
        .set("stream_server_zone_sent{server_zone=\"relay\"}", relayed)
        .set(&format!("stream_upstream_server_state{{server=\"{greeter}\",upstream=\"s\"}}"), 1)
        .set(&format!("stream_upstream_server_connections{{server=\"{greeter}\",upstream=\"s\"}}"), 1)
        .set(&format!("stream_upstream_server_received{{server=\"{greeter}\",upstream=\"s\"}}"), relayed)
        .set(&format!("stream_upstream_server_sent{{server=\"{greeter}\",upstream=\"s\"}}"), asked.len())
        // A single server is never left out.
        .set(&format!("stream_upstream_server_state{{server=\"{dead}\",upstream=\"lost\"}}"), 1)
        .set(&format!("stream_upstream_server_connections{{server=\"{dead}\",upstream=\"lost\"}}"), 1);
    // The exporter's own requests are among these, and times are what they are.
    const OTHERS: &[&str] = &[
        "connections_accepted",
        "connections_active",
        "connections_idle",
        "http_requests_total",
        "http_requests_current",
        "upstream_server_header_time",
        "upstream_server_response_time",
        "upstream_server_sent",
        "stream_upstream_server_connect_time",
        "stream_upstream_server_first_byte_time",
        "stream_upstream_server_response_time",
    ];
    let first = compare(exporter, &expected, OTHERS);
    assert!(
        first["connections_accepted"] >= 15.0 + 3.0 + 1.0 && first["http_requests_total"] >= 15.0 + 2.0 + 1.0
    );
    assert!(first["http_requests_current"] >= 1.0 && first["connections_active"] >= 1.0, "it asks");
    let of = |family: &str| {
        let is_it = move |name: &str| name.split('{').next() == Some(family);
        first.iter().filter(move |(name, _)| is_it(name)).map(|(_, value)| *value).sum::<f64>()
    };
    assert_eq!(first["server_zone_processing{server_zone=\"admin\"}"], 1.0, "it asks");
    assert_eq!(IN_PROGRESS.iter().map(|family| of(family)).sum::<f64>(), 1.0, "and nobody else");

    assert_eq!(control(&daemon, "PATCH", "/1/control/config", "").status, 200);
    send(&daemon, &["/"; 5], &mut site);
    send(&daemon, &["/rate", "/rate"], &mut site);
    expected
        .set("server_zone_requests{server_zone=\"site\"}", 22)
        .set("server_zone_responses{code=\"2xx\",server_zone=\"site\"}", proxied - 1 + 3 + 5)
        .set("server_zone_responses{code=\"5xx\",server_zone=\"site\"}", 3)
        .set("server_zone_responses_codes{code=\"200\",server_zone=\"site\"}", proxied - 1 + 5)
        .set("server_zone_responses_codes{code=\"503\",server_zone=\"site\"}", 3)
        .set("server_zone_received{server_zone=\"site\"}", site.received)
        .set("server_zone_sent{server_zone=\"site\"}", site.sent)
        .set("limit_request_rejected{zone=\"rate\"}", 3)
        .set(&of_good("requests"), proxied + 5)
        .set(&codes(&good, 200), proxied - 1 + 5)
        .set(
            &format!("upstream_server_responses{{code=\"2xx\",server=\"{good}\",upstream=\"u\"}}"),
            proxied - 1 + 5,
        )
        .set(
            &of_good("received"),
            (proxied + 4) * ok(b"twelve bytes").len()
                + b"HTTP/1.1 418 Teapot\r\nContent-Length: 3\r\n\r\ntea".len(),
        );
    let second = compare(exporter, &expected, OTHERS);
    assert!(second["http_requests_total"] > first["http_requests_total"]);
}
