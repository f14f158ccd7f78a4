//! Traces (`otel_trace` and its kind): which requests have a span, what it says, and the fields that the upstream sees.
//!
//! The collector decodes what comes by code of its own (`support/otlp.rs`), which the first test feeds with vectors that were
//! written by hand.

use std::collections::HashSet;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::otlp::{Collector, Reply, Span, Value, decode};
use crate::support::tls::Authority;
use crate::support::{Client, Daemon, H2, H3, Origin, Setup, deadline, fetch, get};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// A server with `%%BODY%%`, whose spans go to a collector at once.
fn setup(collector: &Collector, body: &str) -> Setup {
    let conf = r#"
worker_processes 1;
http {
    access_log off;
    otel_exporter { endpoint %%COLLECTOR%%; interval 20ms; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        %%BODY%%
    }
}
"#;
    Setup::new(&conf.replace("%%BODY%%", body)).set("COLLECTOR", collector.address())
}

fn request(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{fields}Connection: close\r\n\r\n")
}

fn texts(span: &Span) -> Vec<(String, String)> {
    let shown = |value: &Value| match value {
        Value::Text(text) => text.clone(),
        Value::Integer(number) => format!("#{number}"),
        Value::List(list) => format!("{list:?}"),
    };
    span.attributes.iter().map(|(key, value)| (key.clone(), shown(value))).collect()
}

#[test]
fn the_decoder_reads_vectors_made_by_hand() {
    // resource_spans { resource { attributes { key: "a" value { string_value: "b" } } }
    //   scope_spans { scope { name: "n" version: "v" }
    //     spans { trace_id: 1*16 span_id: 2*8 name: "x" kind: 2 start: 1 end: 2
    //       attributes { key: "k" value { int_value: 300 } } status { code: 2 } flags: 1 } } }
    let span = [
        &[0x0a, 16][..],
        &[1; 16],
        &[0x12, 8],
        &[2; 8],
        b"\x2a\x01x\x30\x02",
        &[0x39, 1, 0, 0, 0, 0, 0, 0, 0, 0x41, 2, 0, 0, 0, 0, 0, 0, 0],
        b"\x4a\x08\x0a\x01k\x12\x03\x18\xac\x02",
        b"\x7a\x02\x18\x02",
        &[0x85, 1, 1, 0, 0, 0],
    ]
    .concat();
    let scope = [&b"\x0a\x06\x0a\x01n\x12\x01v\x12"[..], &[span.len() as u8], &span].concat();
    let resource = b"\x0a\x0a\x0a\x08\x0a\x01a\x12\x03\x0a\x01b";
    let inner = [&resource[..], b"\x12", &[scope.len() as u8], &scope].concat();
    assert!(inner.len() < 128);
    let message = [&[0x0a, inner.len() as u8][..], &inner].concat();
    let export = decode(&message).expect("a message");
    assert_eq!(export.resource, [("a".to_owned(), Value::Text("b".to_owned()))]);
    assert_eq!(export.scope, ("n".to_owned(), "v".to_owned()));
    let expected = Span {
        trace: "01".repeat(16),
        id: "02".repeat(8),
        name: "x".into(),
        kind: 2,
        start_ns: 1,
        end_ns: 2,
        attributes: vec![("k".into(), Value::Integer(300))],
        status: 2,
        flags: 1,
        ..Span::default()
    };
    assert_eq!(export.spans, [expected]);
    let broken = |at: usize, byte: u8| {
        let mut broken = message.clone();
        broken[at] = byte;
        decode(&broken)
    };
    let at = |part: &[u8]| message.windows(part.len()).position(|window| window == part).expect("there");
    assert!(broken(at(b"\x0a\x01k") + 2, 0xff).is_err(), "a key that is no UTF-8");
    assert!(broken(at(&[0x0a, 16, 1]) + 1, 15).is_err(), "an id of another length");
    assert!(broken(at(b"\x7a\x02"), 0x7b).is_err(), "another wire type");
    assert!(broken(1, 127).is_err(), "a length beyond the end");
}

#[test]
fn a_span_says_what_nginx_s_does() {
    let collector = Collector::start();
    let body = r#"
        server_name shop.test;
        otel_trace on;
        location /here { return 200 "hello"; }
        location ~ ^/re+gex { return 404; }
        location /broken { return 503; }
        location /dead { proxy_pass http://127.0.0.1:1; }
    "#;
    let daemon = setup(&collector, body).level("info").start();
    let before = SystemTime::now().duration_since(UNIX_EPOCH).expect("now").as_nanos() as u64;
    let mut client = Client::connect(daemon.port(0));
    let port = client.stream().local_addr().expect("bound").port();
    client.send("POST /here?a=%20b HTTP/1.1\r\nHost: shop.test\r\nUser-Agent: probe/1\r\nContent-Length: 3\r\n\r\nabc");
    assert_eq!(client.response().text(), "hello");
    let span = collector.wait_spans(1).remove(0);
    let (own, port) = (format!("#{}", daemon.port(0)), format!("#{port}"));
    let expected = [
        ("http.method", "POST"),
        ("http.target", "/here?a=%20b"),
        ("http.route", "/here"),
        ("http.scheme", "http"),
        ("http.flavor", "1.1"),
        ("http.user_agent", "probe/1"),
        ("http.request_content_length", "#3"),
        ("http.response_content_length", "#5"),
        ("http.status_code", "#200"),
        ("net.host.name", "shop.test"),
        ("net.host.port", &own),
        ("net.sock.peer.addr", "127.0.0.1"),
        ("net.sock.peer.port", &port),
    ];
    assert_eq!(texts(&span), expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    assert_eq!((&*span.name, span.kind, span.status, &*span.parent, &*span.state), ("/here", 2, 0, "", ""));
    assert_eq!((span.trace.len(), span.id.len()), (32, 16));
    let after = SystemTime::now().duration_since(UNIX_EPOCH).expect("now").as_nanos() as u64;
    let slack = 50_000_000; // clocks that are read once a turn
    assert!(before <= span.start_ns + slack && span.start_ns <= span.end_ns && span.end_ns <= after + slack);
    let export = collector.exports().remove(0);
    assert_eq!(
        export.resource,
        [("service.name".to_owned(), Value::Text("unknown_service:nginx".to_owned()))]
    );
    assert_eq!(export.scope.0, "pronghorn");
    assert_eq!(export.fields[":authority"], collector.address());
    assert!(export.fields["user-agent"].starts_with("pronghorn/"));

    for (index, (path, status, route, is_error)) in [
        ("/regex", 404, "^/re+gex", 0),
        ("/broken", 503, "/broken", 2),
        ("/dead", 502, "/dead", 2),
        ("/nowhere", 404, "", 0),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(get(daemon.port(0), path).status, status);
        let span = collector.wait_spans(index + 2).remove(index + 1);
        assert_eq!(span.integer("http.status_code"), Some(status.into()), "{path}");
        assert_eq!((span.text("http.route"), &*span.name, span.status), (route, route, is_error), "{path}");
        assert_eq!(span.attribute("http.user_agent"), None);
    }
    assert_eq!(collector.connections(), 1, "it stays open");
    let ids: HashSet<String> = collector.spans().into_iter().map(|span| span.id).collect();
    assert_eq!(ids.len(), 5);
}

#[test]
fn names_attributes_and_the_resource_are_configured() {
    let collector = Collector::start();
    let conf = r#"
worker_processes 1;
http {
    access_log off;
    otel_service_name shop;
    otel_resource_attr deployment.environment test;
    otel_resource_attr service.name not-this;
    otel_exporter { endpoint http://%%COLLECTOR%%; interval 20ms; header X-Token "my secret"; header x-other 2; }
    otel_trace on;
    otel_span_attr outer 1;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        otel_span_name "$request_method $uri";
        location / { return 200; }
        location /own {
            otel_span_name own;
            otel_span_attr own.text "$arg_a-$status";
            otel_span_attr http.request.header.host $host;
            otel_span_attr http.response.header.x $sent_http_x;
            add_header X here;
            return 204;
        }
    }
}
"#;
    let daemon = Setup::new(conf).set("COLLECTOR", collector.address()).start();
    get(daemon.port(0), "/a");
    get(daemon.port(0), "/own?a=b");
    let spans = collector.wait_spans(2);
    assert_eq!((&*spans[0].name, spans[0].text("outer")), ("GET /a", "1"));
    assert_eq!(spans[1].name, "own");
    let list = |text: &str| Some(Value::List(vec![Value::Text(text.to_owned())]));
    assert_eq!(spans[1].text("own.text"), "b-204");
    assert_eq!(spans[1].attribute("http.request.header.host").cloned(), list("localhost"));
    assert_eq!(spans[1].attribute("http.response.header.x").cloned(), list("here"));
    assert_eq!(spans[1].attribute("outer"), None, "the inner ones replace the outer ones");
    let export = collector.exports().remove(0);
    let resource: Vec<_> = export.resource.iter().map(|(key, value)| (&**key, value.clone())).collect();
    let text = |text: &str| Value::Text(text.to_owned());
    assert_eq!(resource, [("deployment.environment", text("test")), ("service.name", text("shop"))]);
    assert_eq!((&*export.fields["x-token"], &*export.fields["x-other"]), ("my secret", "2"));
}

#[test]
fn a_variable_decides_which_requests_are_traced() {
    let collector = Collector::start();
    let conf = r#"
worker_processes 1;
http {
    access_log off;
    otel_exporter { endpoint %%COLLECTOR%%; interval 20ms; }
    split_clients "$otel_trace_id" $some { 30% on; * off; }
    map $arg_t $asked { yes on; one 1; default off; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /some { otel_trace $some; return 200 "$otel_trace_id $some"; }
        location /asked { otel_trace $asked; return 200; }
        location /off { otel_trace off; return 200; }
        location /none { return 200; }
        location /last { otel_trace on; return 200; }
    }
}
"#;
    let daemon = Setup::new(conf).set("COLLECTOR", collector.address()).start();
    let mut client = Client::connect(daemon.port(0));
    let (mut traced, mut other) = (HashSet::new(), 0);
    for _ in 0..300 {
        let text = client.get("/some").text();
        let (trace, is_on) = text.split_once(' ').expect("two");
        match is_on {
            "on" => assert!(traced.insert(trace.to_owned())),
            _ => other += 1,
        }
    }
    assert!(traced.len() > 30 && other > 100, "{} and {other}", traced.len());
    for path in ["/asked?t=yes", "/asked?t=one", "/asked?t=no", "/asked", "/off", "/none", "/last"] {
        client.get(path);
    }
    let spans = collector.wait_spans(traced.len() + 3);
    let targets: Vec<&str> =
        spans.iter().map(|span| span.text("http.target")).filter(|target| *target != "/some").collect();
    assert_eq!(targets, ["/asked?t=yes", "/asked?t=one", "/last"]);
    let seen: HashSet<String> =
        spans.iter().filter(|span| span.name == "/some").map(|span| span.trace.clone()).collect();
    assert_eq!(seen, traced);
}

#[test]
fn requests_without_a_trace_never_reach_the_collector() {
    let collector = Collector::start();
    let body =
        r#"location /none { return 200 "$otel_span_id"; } location /on { otel_trace on; return 200; }"#;
    let daemon = setup(&collector, body).start();
    assert_eq!(get(daemon.port(0), "/none").text().len(), 16);
    get(daemon.port(0), "/on");
    assert_eq!(collector.wait_spans(1).remove(0).name, "/on");
    assert_eq!((collector.connections(), collector.calls()), (1, 1));
}

#[test]
fn the_fields_of_a_trace_are_extracted_and_injected() {
    let collector = Collector::start();
    let origin = Origin::replying(|request| {
        let all = |name: &str| {
            let values: Vec<&str> = request
                .headers
                .iter()
                .filter(|(own, _)| own.eq_ignore_ascii_case(name))
                .map(|(_, value)| &**value)
                .collect();
            values.join("+")
        };
        crate::support::origin::ok(format!("{}|{}", all("traceparent"), all("tracestate")).as_bytes())
    });
    let place = |name: &str, context: &str, trace: &str| {
        format!(
            "location /{name} {{ otel_trace {trace}; {context} add_header X-Ids \
             $otel_trace_id,$otel_span_id,$otel_parent_id,$otel_parent_sampled; proxy_pass http://{}; }}\n",
            origin.address()
        )
    };
    let body = [
        place("extract", "otel_trace_context extract;", "on"),
        place("inject", "otel_trace_context inject;", "on"),
        place("propagate", "otel_trace_context propagate;", "on"),
        place("ignore", "otel_trace_context ignore;", "on"),
        place("default", "", "on"),
        place("untraced", "otel_trace_context propagate;", "off"),
    ]
    .concat();
    let daemon = setup(&collector, &body).start();
    let sent = format!("00-{TRACE}-{PARENT}-01");
    let fields = format!("traceparent: {sent}\r\nTraceState: a=1, b=2\r\ntracestate: c=3\r\n");
    let both = |parent: &str, state: &str| format!("{parent}|{state}");
    let own_state = "a=1, b=2+c=3";
    let mut count = 0;
    for (name, extracts, injects, is_traced) in [
        ("extract", true, false, true),
        ("inject", false, true, true),
        ("propagate", true, true, true),
        ("ignore", false, false, true),
        ("default", false, false, true),
        ("untraced", true, true, false),
    ] {
        let response = fetch(daemon.port(0), &request(&format!("/{name}"), &fields));
        let seen = response.text();
        let ids: Vec<String> = response.header("x-ids").expect("ids").split(',').map(str::to_owned).collect();
        let [trace, span_id, parent, parent_sampled] = &ids[..] else { panic!("{ids:?}") };
        assert_eq!(
            (trace == TRACE, parent == PARENT, parent_sampled == "1"),
            (extracts, extracts, extracts),
            "{name}"
        );
        let flags = if is_traced { "01" } else { "00" };
        let expected = match injects {
            true => both(&format!("00-{trace}-{span_id}-{flags}"), if extracts { "a=1,b=2,c=3" } else { "" }),
            false => both(&sent, own_state),
        };
        assert_eq!(seen, expected, "{name}");
        if is_traced {
            count += 1;
            let span = collector.wait_spans(count).remove(count - 1);
            assert_eq!((&span.trace, &span.id), (trace, span_id), "{name}");
            assert_eq!(span.parent, if extracts { PARENT } else { "" });
            assert_eq!(span.state, if extracts { "a=1,b=2,c=3" } else { "" });
        }
    }
}

#[test]
fn a_malformed_parent_begins_a_new_trace() {
    let collector = Collector::start();
    let origin = Origin::replying(|request| {
        let field = |name| request.header(name).unwrap_or("-").to_owned();
        crate::support::origin::ok(format!("{}|{}", field("traceparent"), field("tracestate")).as_bytes())
    });
    let body = format!(
        "otel_trace on; otel_trace_context propagate; location / {{ proxy_pass http://{}; }}",
        origin.address()
    );
    let daemon = setup(&collector, &body).start();
    let good = format!("00-{TRACE}-{PARENT}-01");
    let state = "tracestate: a=1\r\n";
    let cases = [
        (format!("traceparent: {good}\r\n{state}"), true, "a=1"),
        (format!("traceparent: {good}\r\ntracestate: A=1\r\n"), true, "-"),
        (format!("traceparent: {good}\r\ntracestate: a=1,b\r\n"), true, "-"),
        (format!("traceparent: 01-{TRACE}-{PARENT}-ff-later\r\n{state}"), true, "a=1"),
        (format!("traceparent: {}\r\n{state}", good.to_uppercase()), false, "-"),
        (format!("traceparent: ff-{TRACE}-{PARENT}-01\r\n{state}"), false, "-"),
        (format!("traceparent: 00-{}-{PARENT}-01\r\n{state}", "0".repeat(32)), false, "-"),
        (format!("traceparent: 00-{TRACE}-{}-01\r\n{state}", "0".repeat(16)), false, "-"),
        (format!("traceparent: {good}x\r\n{state}"), false, "-"),
        (format!("traceparent: {good}\r\ntraceparent: {good}\r\n{state}"), false, "-"),
        (format!("traceparent: \r\n{state}"), false, "-"),
        (state.to_owned(), false, "-"),
    ];
    for (index, (fields, is_kept, state)) in cases.into_iter().enumerate() {
        let seen = fetch(daemon.port(0), &request("/", &fields)).text();
        let span = collector.wait_spans(index + 1).remove(index);
        assert_eq!(span.trace == TRACE, is_kept, "{fields}");
        assert_eq!(span.parent, if is_kept { PARENT } else { "" }, "{fields}");
        assert_eq!(span.state, if state == "-" { "" } else { state }, "{fields}");
        assert_eq!(seen, format!("00-{}-{}-01|{state}", span.trace, span.id), "{fields}");
        assert_ne!(span.id, PARENT);
    }
}

#[test]
fn every_byte_makes_a_valid_span_and_no_further_field() {
    let collector = Collector::start();
    let origin = Origin::replying(|request| {
        let shown: Vec<String> =
            request.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        crate::support::origin::ok(shown.join("\n").as_bytes())
    });
    let body = format!(
        "otel_trace on; otel_trace_context propagate; otel_span_name $arg_n; otel_span_attr raw $http_x; \
         otel_span_attr path $uri; otel_span_attr http.request.header.x $http_x; location / {{ proxy_pass http://{}; }}",
        origin.address()
    );
    let daemon = setup(&collector, &body).start();
    for byte in 0..=255u8 {
        let mut client = Client::connect(daemon.port(0));
        let parent = format!("traceparent: 00-{TRACE}-{PARENT}-01\r\n");
        let mut bytes = format!("GET /%{byte:02x}%ff?n=").into_bytes();
        if byte.is_ascii_graphic() && byte != b'#' {
            bytes.push(byte);
        }
        bytes.extend_from_slice(b" HTTP/1.1\r\nHost: a\r\nX: ");
        let is_field_byte = !matches!(byte, b'\r' | b'\n' | 0);
        if is_field_byte {
            bytes.extend_from_slice(&[b'<', byte, byte, b'>']);
        }
        bytes.extend_from_slice(format!("\r\n{parent}tracestate: a=1").as_bytes());
        if is_field_byte {
            bytes.push(byte);
        }
        bytes.extend_from_slice(b",b=2\r\nConnection: close\r\n\r\n");
        client.send(bytes);
        let response = client.response();
        if response.status == 200 {
            let text = response.text();
            let states: Vec<&str> =
                text.lines().filter(|line| line.to_ascii_lowercase().starts_with("tracestate")).collect();
            assert!(states.len() <= 1, "{byte}: {text}");
            assert!(states.iter().all(|line| line.bytes().all(|byte| matches!(byte, b' '..=b'~'))), "{text}");
        }
    }
    // The collector fails the test if a text is no UTF-8.
    assert_eq!(get(daemon.port(0), "/end?n=end").status, 200);
    crate::support::wait_for("the last span", || {
        collector.spans().iter().any(|span| span.name == "end").then_some(())
    });
    let spans = collector.spans();
    let cut = spans
        .iter()
        .find(|span| span.text("path").starts_with('/') && span.text("raw") == "<\u{fffd}\u{fffd}>");
    assert!(cut.is_some(), "bytes that are no UTF-8 are replaced");
    assert!(spans.len() > 128, "{}", spans.len());
}

#[test]
fn subrequests_and_redirects_make_no_spans_of_their_own() {
    let collector = Collector::start();
    let conf = r#"
worker_processes 1;
http {
    access_log off;
    otel_exporter { endpoint %%COLLECTOR%%; interval 20ms; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        otel_trace on;
        location /auth { auth_request /check; empty_gif; }
        location /check { internal; return 204; }
        location /mirrored { mirror /check; empty_gif; }
        location /page { ssi on; ssi_types text/plain; default_type text/plain;
            return 200 '<!--#include virtual="/inner" -->'; }
        location /inner { return 200 "$otel_trace_id $otel_span_id"; }
        location /old { rewrite ^/old /new last; }
        location /new { return 200; }
        location /failing { error_page 404 = /new; return 404; }
        location /off { otel_trace off; rewrite ^ /new last; }
    }
    server {
        listen 127.0.0.1:%%PORT_1%%;
        rewrite ^/a /b;
        location /b { otel_trace on; return 200; }
    }
}
"#;
    let daemon = Setup::new(conf).set("COLLECTOR", collector.address()).start();
    get(daemon.port(0), "/off");
    let mut count = 0;
    for (path, route) in [
        ("/auth", "/auth"),
        ("/mirrored", "/mirrored"),
        ("/page", "/page"),
        ("/old", "/new"),
        ("/failing", "/new"),
    ] {
        let response = get(daemon.port(0), path);
        assert_eq!(response.status, 200);
        count += 1;
        let spans = collector.wait_spans(count);
        assert_eq!(spans.len(), count, "{path}: {spans:?}");
        let span = &spans[count - 1];
        assert_eq!((span.text("http.target"), span.text("http.route")), (path, route));
        if path == "/page" {
            assert_eq!(response.text(), format!("{} {}", span.trace, span.id), "a subrequest shares them");
        }
    }
    get(daemon.port(1), "/a");
    assert_eq!(
        collector.wait_spans(count + 1)[count].text("http.route"),
        "/b",
        "a rewrite of the server decides nothing"
    );
}

#[test]
fn a_client_that_leaves_has_a_span_too() {
    let collector = Collector::start();
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let held = Origin::start(move |peer| {
        peer.request();
        let _ = wait.lock().expect("no panic").recv_timeout(deadline());
    });
    let body = format!(
        "otel_trace on; location / {{ proxy_pass http://{0}; }} location /auth {{ auth_request /check; empty_gif; }} \
         location /check {{ internal; proxy_pass http://{0}; }}",
        held.address()
    );
    let daemon = setup(&collector, &body).start();
    for (index, path) in ["/gone", "/auth"].into_iter().enumerate() {
        let mut client = Client::connect(daemon.port(0));
        client.send(request(path, ""));
        held.wait_requests(index + 1);
        drop(client);
        let span = collector.wait_spans(index + 1).remove(index);
        assert_eq!(span.text("http.target"), path);
    }
    drop(release);
}

#[test]
fn http_2_and_3_are_traced_too() {
    let collector = Collector::start();
    let authority = Authority::new("otel");
    let pair = authority.issue(&["a.test"]);
    let body = r#"
        listen 127.0.0.1:%%PORT_0%% quic;
        listen 127.0.0.1:%%PORT_1%%;
        http2 on;
        ssl_certificate %%DIR%%/a.crt;
        ssl_certificate_key %%DIR%%/a.key;
        otel_trace on;
        otel_trace_context extract;
        location / { return 200 "here"; }
    "#;
    let setup = setup(&collector, body).file("a.crt", pair.certificate).file("a.key", pair.key);
    let daemon = setup.start();
    let parent = format!("00-{TRACE}-{PARENT}-01");
    let mut client = H2::connect(daemon.port(1));
    let stream = client.get("/two", &[("traceparent", &parent), ("tracestate", "a=1")]);
    assert_eq!(client.answer(stream).text(), "here");
    let span = collector.wait_spans(1).remove(0);
    assert_eq!(
        (span.text("http.flavor"), span.text("http.scheme"), span.text("http.target")),
        ("2.0", "http", "/two")
    );
    assert_eq!((&*span.trace, &*span.parent, &*span.state), (TRACE, PARENT, "a=1"));
    let mut client = H3::connect(daemon.port(0), &authority, "a.test");
    assert_eq!(client.fetch("a.test", "/three").text(), "here");
    let span = collector.wait_spans(2).remove(1);
    assert_eq!(
        (span.text("http.flavor"), span.text("http.scheme"), span.text("net.host.name")),
        ("3.0", "https", "a.test")
    );
}

#[test]
fn a_tunnel_has_its_span_at_its_end_in_whichever_worker() {
    let collector = Collector::start();
    let origin = Origin::websocket("/chat");
    let body = format!(
        "otel_trace on; otel_trace_context propagate; location / {{ proxy_pass http://{}; proxy_http_version 1.1; \
         proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; }}",
        origin.address()
    );
    let daemon = setup(&collector, &body).level("info").start();
    let open = || {
        let mut client = Client::connect(daemon.port(0));
        client.send(format!(
            "GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\ntraceparent: 00-{TRACE}-{PARENT}-01\r\n\r\n"
        ));
        let head = client.response_head();
        assert_eq!(head.status, 101);
        assert_eq!(client.exactly(5), b"hello");
        client
    };
    let check = |span: &Span| {
        assert_eq!((&*span.trace, &*span.parent), (TRACE, PARENT));
        assert_eq!((span.text("http.target"), span.integer("http.status_code")), ("/chat", Some(101)));
    };
    let (mut stays, mut moves) = (open(), open());
    stays.half_close();
    assert_eq!(stays.exactly(3), b"bye");
    drop(stays);
    check(&collector.wait_spans(1)[0]);
    daemon.reload();
    moves.send("still").exactly(5);
    assert_eq!(collector.spans().len(), 1, "it goes on");
    moves.half_close();
    drop(moves);
    let span = collector.wait_spans(2).remove(1);
    check(&span);
    assert!(span.end_ns > span.start_ns);
}

#[test]
fn a_collector_with_tls_is_verified() {
    let (authority, other) = (Authority::new("collectors"), Authority::new("others"));
    let tls = crate::support::otlp::tls(&authority.issue(&["localhost"]));
    let collector = Collector::start_on(crate::support::port::free(), |_| Reply::Ok, Some(tls));
    let conf = r#"
worker_processes 1;
http {
    access_log off;
    otel_exporter { endpoint https://%%NAME%%:%%COLLECTOR%%; interval 20ms; trusted_certificate ca.crt; }
    otel_trace on;
    server { listen 127.0.0.1:%%PORT_0%%; location / { return 200; } }
}
"#;
    let start = |name: &str, trusted: &Authority| {
        let setup = Setup::new(conf).set("COLLECTOR", collector.port()).set("NAME", name);
        setup.file("ca.crt", trusted.certificate()).level("info").start()
    };
    let daemon = start("localhost", &authority);
    get(daemon.port(0), "/");
    collector.wait_spans(1);
    get(daemon.port(0), "/");
    collector.wait_spans(2);
    assert_eq!(collector.exports()[0].fields[":scheme"], "https");
    drop(daemon);
    for (name, trusted, why) in [
        ("localhost", &other, "its certificate is refused"),
        ("127.0.0.1", &authority, "its certificate is refused"),
    ] {
        let daemon = start(name, trusted);
        get(daemon.port(0), "/");
        daemon.wait_log(&format!("OTel export failure: {why}"));
    }
    assert_eq!(collector.spans().len(), 2);
}

#[test]
fn an_endpoint_may_be_a_group_or_a_name() {
    let (dead, collector) = (crate::support::port::refusing(), Collector::start());
    for (upstream, endpoint) in [
        (
            format!("upstream collectors {{ server 127.0.0.1:{dead}; server {}; }}", collector.address()),
            "collectors".to_owned(),
        ),
        (String::new(), format!("localhost:{}", collector.port())),
        (String::new(), format!("HTTP://{}", collector.address())),
    ] {
        let before = collector.spans().len();
        let conf = format!(
            "worker_processes 1; http {{ access_log off; {upstream} otel_exporter {{ endpoint {endpoint}; interval 10ms; }} \
             server {{ listen 127.0.0.1:%%PORT_0%%; otel_trace on; location / {{ return 200; }} }} }}"
        );
        let daemon = Daemon::start(&conf);
        (0..3).for_each(|_| _ = get(daemon.port(0), "/"));
        collector.wait_spans(before + 3);
    }
}

#[test]
fn mistakes_in_the_configuration_are_told() {
    let server = "server { listen 127.0.0.1:%%PORT_0%%; %%IN_SERVER%% location / { return 200; } }";
    for (http, inner, expected) in [
        ("", "otel_trace on;", "\"otel_exporter\" block is missing"),
        ("", "otel_trace $arg_a;", "\"otel_exporter\" block is missing"),
        ("otel_exporter { interval 5s; }", "", "\"otel_exporter\" requires \"endpoint\""),
        ("otel_exporter { endpoint a.invalid/path; }", "", "invalid host in endpoint"),
        ("otel_exporter { endpoint https://; }", "", "no host in endpoint"),
        ("otel_exporter { endpoint :4317; }", "", "no host in endpoint"),
        ("otel_exporter { endpoint 127.0.0.1:99999; }", "", "invalid port in endpoint"),
        ("otel_exporter { endpoint 127.0.0.1:1; endpoint 127.0.0.1:2; }", "", "duplicate"),
        ("otel_exporter { endpoint 127.0.0.1:1; } otel_exporter { endpoint 127.0.0.1:1; }", "", "duplicate"),
        ("otel_exporter { endpoint 127.0.0.1:1; header \"a b\" c; }", "", "invalid header name"),
        ("otel_exporter { endpoint 127.0.0.1:1; header grpc-timeout 1S; }", "", "invalid header name"),
        ("otel_exporter { endpoint 127.0.0.1:1; header a \"b\\nc\"; }", "", "invalid header value"),
        ("otel_exporter { endpoint 127.0.0.1:1; header a; }", "", "invalid number of arguments"),
        ("otel_exporter { endpoint 127.0.0.1:1; batch_size 0; }", "", "batch_size"),
        ("otel_exporter { endpoint 127.0.0.1:1; batches 0; }", "", "unknown directive \"batches\""),
        ("otel_exporter { endpoint https://127.0.0.1:1; trusted_certificate none.crt; }", "", "none.crt"),
        ("", "otel_trace_context all;", "otel_trace_context"),
        ("", "otel_service_name a;", "otel_service_name"),
        ("otel_service_name a; otel_service_name b;", "", "duplicate"),
    ] {
        let conf = format!("http {{ {http} {} }}", server.replace("%%IN_SERVER%%", inner));
        let Err(exit) = Setup::new(&conf).try_start() else { panic!("{http} {inner}") };
        let told = format!("{}{}", exit.stderr, exit.log);
        assert!(told.contains(expected), "{http} {inner}: {told}");
    }
    for endpoint in ["[::1]:4317", "unix:/nowhere", "http://localhost", "https://127.0.0.1:1"] {
        let exporter = format!("otel_exporter {{ endpoint {endpoint}; }}");
        let conf = format!("http {{ {exporter} {} }}", server.replace("%%IN_SERVER%%", "otel_trace on;"));
        let daemon = Daemon::start(&conf);
        assert_eq!(get(daemon.port(0), "/").status, 200);
    }
    // What does nothing needs no exporter.
    let daemon = Daemon::start(&format!(
        "http {{ {} }}",
        server.replace("%%IN_SERVER%%", "otel_trace off; otel_span_name x;")
    ));
    assert_eq!(get(daemon.port(0), "/").status, 200);
}
