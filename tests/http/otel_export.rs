//! Spans on their way to the collector: whatever that does, no request waits, the memory is bounded, and a worker that leaves
//! sends what it has first.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::process::upgrade::upgrade;
use crate::support::daemon::send;
use crate::support::otlp::{Collector, Reply};
use crate::support::{Client, Daemon, Load, Origin, Setup, get, port, wait_for};

const CONF: &str = r#"
worker_processes 1;
http {
    access_log off;
    keepalive_requests 100000;
    otel_exporter { endpoint 127.0.0.1:%%COLLECTOR%%; %%RULES%% }
    otel_trace on;
    server { listen 127.0.0.1:%%PORT_0%%; location / { return 200 "$otel_span_id"; } location /file { root %%DIR%%; } }
}
"#;

fn setup(port: u16, rules: &str) -> Setup {
    Setup::new(CONF).set("COLLECTOR", port).set("RULES", rules).level("info")
}

/// Makes requests on one connection, and returns the ids of their spans.
fn ids(daemon: &Daemon, count: usize) -> HashSet<String> {
    let mut client = Client::connect(daemon.port(0));
    let all: HashSet<String> = (0..count).map(|_| client.get("/").text()).collect();
    assert_eq!(all.len(), count);
    all
}

fn seen(collector: &Collector) -> HashSet<String> {
    let spans = collector.spans();
    let ids: HashSet<String> = spans.iter().map(|span| span.id.clone()).collect();
    assert_eq!(ids.len(), spans.len(), "no span comes twice");
    ids
}

#[test]
fn ten_thousand_spans_arrive_once_in_batches() {
    let collector = Collector::start();
    let daemon = setup(collector.port(), "interval 2s; batch_size 300; batch_count 40;").start();
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let port = daemon.port(0);
            std::thread::spawn(move || {
                let mut client = Client::connect(port);
                (0..2500).map(|_| client.get("/").text()).collect::<HashSet<String>>()
            })
        })
        .collect();
    let asked: HashSet<String> =
        clients.into_iter().flat_map(|client| client.join().expect("served")).collect();
    assert_eq!(asked.len(), 10_000);
    collector.wait_spans(10_000);
    assert_eq!(seen(&collector), asked);
    let exports = collector.exports();
    assert!(exports.iter().all(|export| (1..=300).contains(&export.spans.len())));
    assert!(exports.iter().filter(|export| export.spans.len() == 300).count() > 20, "{}", exports.len());
    assert_eq!(collector.connections(), 1);
    assert_eq!(daemon.complaints("warn|error|crit|alert|emerg"), Vec::<String>::new());
}

#[test]
fn a_batch_is_full_by_its_bytes_too() {
    let collector = Collector::start();
    let conf = CONF.replace("location / {", "otel_span_attr long $arg_a$arg_a$arg_a$arg_a; location / {");
    let setup = Setup::new(&conf).set("COLLECTOR", collector.port());
    let daemon = setup.set("RULES", "interval 1h; batch_size 100000; batch_count 8;").start();
    let mut client = Client::connect(daemon.port(0));
    let long = format!("/?a={}", "x".repeat(4000));
    (0..400).for_each(|_| _ = client.get(&long));
    collector.wait_spans(200);
    let bytes: Vec<usize> = collector.exports().iter().map(|export| export.message_bytes).collect();
    assert!(bytes.iter().all(|bytes| (3 << 20..4 << 20).contains(bytes)), "{bytes:?}");
    let span = collector.spans().remove(0);
    assert_eq!(span.text("long").len(), 8192, "a text is cut");
    assert_eq!(span.text("http.target").len(), long.len());
}

#[test]
fn a_collector_that_is_absent_costs_requests_nothing() {
    let port = port::free();
    let daemon = setup(port, "interval 10ms; batch_size 5; batch_count 2;").start();
    let started = Instant::now();
    ids(&daemon, 100);
    assert!(started.elapsed() < Duration::from_secs(10));
    daemon.wait_log(&format!(
        r#"\[warn\].* OTel dropped spans: \d+, since all 2 batches wait for "127.0.0.1:{port}"; raise "batch_count""#
    ));
    daemon.wait_log(r"\[error\].* OTel export failure: connect\(\) failed \(111: Connection refused\)");
    daemon.wait_log(r"\[error\].* OTel lost spans: 5, as the collector does not take them");
    let collector = Collector::start_on(port, |_| Reply::Ok, None);
    wait_for("a span", || {
        get(daemon.port(0), "/");
        (!collector.spans().is_empty()).then_some(())
    });
    assert_eq!(daemon.complaints("crit|alert|emerg"), Vec::<String>::new());
}

#[test]
fn spans_beyond_the_batches_are_dropped_and_told() {
    let collector = Collector::replying(|_| Reply::Hang);
    let daemon = setup(collector.port(), "interval 10ms; batch_size 10; batch_count 3;").start();
    ids(&daemon, 10);
    collector.wait_calls(1);
    ids(&daemon, 60);
    let told = daemon.wait_log(r"OTel dropped spans: \d+, since all 3 batches wait");
    assert!(told.contains("or \"batch_size\" in \"otel_exporter\", or trace fewer requests"), "{told}");
    assert_eq!(collector.calls(), 1, "one after the other");
    assert!(daemon.log_count("OTel dropped spans") <= 3, "it is told once a second");
}

#[test]
fn errors_are_tried_again_if_that_may_help() {
    for (reply, calls, told) in [
        (Reply::Status(14), 3, r#"OTel export failure: it answered with 14 \(UNAVAILABLE\) "no%20room""#),
        (Reply::LateStatus(8), 3, r#"OTel export failure: it answered with 8 \(RESOURCE_EXHAUSTED\) """#),
        (Reply::Status(3), 1, r"OTel export failure: it answered with 3 \(INVALID_ARGUMENT\)"),
        (Reply::LateStatus(16), 1, r"OTel export failure: it answered with 16 \(UNAUTHENTICATED\)"),
        (Reply::Http(503), 3, "OTel export failure: it answered with status 503"),
        (Reply::Http(404), 1, "OTel export failure: it answered with status 404"),
        (Reply::Reset, 3, "OTel export failure: it reset the call with code 11"),
        (Reply::NoStatus, 3, "OTel export failure: its response has no \"grpc-status\""),
        (Reply::Partial(3), 1, r#"\[warn\].*OTel collector "127.0.0.1:\d+" has refused 3 spans: "full""#),
        (Reply::Flood, 1, "OTel export failure: its response is too long"),
    ] {
        let collector = Collector::replying(move |index| if index < calls { reply } else { Reply::Ok });
        let daemon = setup(collector.port(), "interval 10ms;").start();
        get(daemon.port(0), "/");
        daemon.wait_log(told);
        assert_eq!(collector.calls(), calls, "{reply:?}");
        let last = get(daemon.port(0), "/").text();
        wait_for("the next span", || collector.spans().iter().any(|span| span.id == last).then_some(()));
        assert_eq!(daemon.complaints("crit|alert|emerg"), Vec::<String>::new());
    }
}

#[test]
fn a_call_that_breaks_off_is_made_again() {
    let collector = Collector::replying(|index| match index {
        0 | 2 => Reply::Close,
        4 => Reply::Reset,
        5 => Reply::LateStatus(14),
        _ => Reply::Ok,
    });
    let daemon = setup(collector.port(), "interval 10ms; batch_size 20;").start();
    let mut asked = ids(&daemon, 20);
    collector.wait_spans(20);
    asked.extend(ids(&daemon, 20));
    collector.wait_spans(40);
    asked.extend(ids(&daemon, 20));
    collector.wait_spans(60);
    assert_eq!(seen(&collector), asked);
    assert_eq!(daemon.complaints("warn|error|crit|alert|emerg"), Vec::<String>::new());
}

#[test]
fn a_worker_that_leaves_sends_what_it_has() {
    let collector = Collector::start();
    let conf = CONF.replace("worker_processes 1", "worker_processes 2");
    let setup = Setup::new(&conf).set("COLLECTOR", collector.port()).set("RULES", "interval 1h;");
    let daemon = setup.in_background().start();
    let mut asked = ids(&daemon, 7);
    assert!(collector.spans().is_empty(), "its batch gathers");
    daemon.reload();
    assert_eq!(seen(&collector), asked, "all have arrived before the old worker is gone");
    asked.extend(ids(&daemon, 5));

    let old = daemon.pid();
    let new = upgrade(&daemon);
    send(old, Signal::SIGQUIT);
    collector.wait_spans(12);
    assert_eq!(seen(&collector), asked);
    daemon.follow(new);
    asked.extend(ids(&daemon, 3));
    daemon.stop(Signal::SIGQUIT);
    assert_eq!(seen(&collector), asked);
}

#[test]
fn reloads_under_load_lose_no_span() {
    let collector = Collector::start();
    let conf = CONF.replace("worker_processes 1", "worker_processes 2");
    let setup = Setup::new(&conf).set("COLLECTOR", collector.port());
    let daemon = setup.set("RULES", "interval 100ms; batch_count 1000;").level("info").start();
    let load = Load::start(daemon.port(0), 4);
    for _ in 0..3 {
        load.wait(200);
        daemon.reload();
    }
    let count = load.finish();
    collector.wait_spans(count);
    daemon.stop(Signal::SIGQUIT);
    assert_eq!(seen(&collector).len(), count);
    assert_eq!(daemon.complaints("error|crit|alert|emerg"), Vec::<String>::new());
}

#[test]
fn one_batch_is_one_batch() {
    let collector = Collector::replying(|_| Reply::Hang);
    let daemon = setup(collector.port(), "interval 1ms; batch_size 10; batch_count 1;").start();
    ids(&daemon, 1);
    collector.wait_calls(1);
    ids(&daemon, 3);
    daemon.wait_log("OTel dropped spans: 1, since all 1 batches wait");
}

#[test]
fn a_request_that_outlasts_the_reload_sends_its_span_too() {
    let collector = Collector::start();
    let setup = setup(collector.port(), "interval 1h;");
    let daemon = setup.file("file", vec![b'x'; 30_000_000]).start();
    let mut client = Client::connect(daemon.port(0));
    client.send("GET /file HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(client.response_head().status, 200);
    ids(&daemon, 2);
    let old = daemon.workers();
    daemon.signal(Signal::SIGHUP);
    collector.wait_spans(2);
    assert!(daemon.workers_now().iter().any(|pid| old.contains(pid)), "its client is served still");
    let (rest, _) = client.rest();
    assert_eq!(rest.len(), 30_000_000);
    let span = collector.wait_spans(3).remove(2);
    assert_eq!(
        (span.text("http.target"), span.integer("http.response_content_length")),
        ("/file", Some(30_000_000))
    );
}

#[test]
fn a_leaving_worker_does_not_wait_for_a_dead_collector_for_long() {
    let hangs = Collector::replying(|_| Reply::Hang);
    for port in [hangs.port(), port::refusing()] {
        let daemon = setup(port, "interval 1h;").start();
        ids(&daemon, 4);
        let started = Instant::now();
        daemon.signal(Signal::SIGQUIT);
        daemon.wait_log("OTel lost spans: 4, as ");
        daemon.wait_end();
        assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    }
}

/// As nginx's, such a worker sends nothing more; here the log has the number, tunnels that ended at that moment included.
#[test]
fn a_worker_that_is_terminated_tells_how_many_spans_it_had() {
    let (gathers, hangs) = (Collector::start(), Collector::replying(|_| Reply::Hang));
    for (collector, rules) in [(&gathers, "interval 1h;"), (&hangs, "interval 1ms; batch_count 2;")] {
        let origin = Origin::websocket("/chat");
        let location = format!(
            "location /chat {{ proxy_pass http://{}; proxy_http_version 1.1; \
             proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; }} }}\n}}",
            origin.address()
        );
        let conf =
            CONF.trim_end().strip_suffix("}\n}").expect("the ends of both blocks").to_owned() + &location;
        let daemon =
            Setup::new(&conf).set("COLLECTOR", collector.port()).set("RULES", rules).level("info").start();
        let mut tunnel = Client::connect(daemon.port(0));
        tunnel.send(
            "GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        );
        assert_eq!(tunnel.response_head().status, 101);
        ids(&daemon, 1);
        if rules.contains("1ms") {
            collector.wait_calls(1); // one batch is on its way
        }
        ids(&daemon, 3);
        daemon.stop(Signal::SIGTERM);
        let told = daemon.complaints("error|crit|alert|emerg");
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("OTel lost spans: 5, as this worker ends at once"), "{told:?}");
    }
    assert!(gathers.spans().is_empty());
}

#[test]
fn a_shutdown_timeout_ends_the_wait_for_the_collector() {
    let hangs = Collector::replying(|_| Reply::Hang);
    let conf = CONF.replace("worker_processes 1;", "worker_processes 1; worker_shutdown_timeout 100ms;");
    let daemon =
        Setup::new(&conf).set("COLLECTOR", hangs.port()).set("RULES", "interval 1h;").level("info").start();
    ids(&daemon, 4);
    daemon.stop(Signal::SIGQUIT);
    daemon.wait_log("OTel lost spans: 4, as this worker ends at once");
}

#[test]
fn a_worker_without_spans_leaves_at_once() {
    let hangs = Collector::replying(|_| Reply::Hang);
    let daemon = setup(hangs.port(), "interval 1h;").start();
    daemon.stop(Signal::SIGQUIT);
    assert_eq!((hangs.connections(), daemon.log_count("OTel")), (0, 0));
}
