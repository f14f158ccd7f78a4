//! HTTP/2 with clients: requests side by side, bodies, what is malformed, how connections end, and the attacks of the
//! field by name.

use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::h2::{
    self, ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, H2, HEADERS, PING, RST_STREAM,
    WINDOW_UPDATE, block, frame,
};
use crate::support::origin::ok;
use crate::support::tls::Authority;
use crate::support::{Client, Daemon, Origin, Setup, get, wait_for};

const CONF: &str = r#"
worker_processes 1;
http {
    log_format h2 '$request $status $http2 $server_protocol $request_completion';
    access_log %%DIR%%/access.log h2;
    http2 on;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { return 200 "$request_method $uri $host $http_cookie|$http2|$server_protocol\n"; }
        location /empty { return 204; }
        location /few { keepalive_timeout 0; return 200 "last\n"; }
        location /up/ { proxy_pass http://%%ORIGIN%%; proxy_http_version 1.1; }
        location /files/ { root %%DIR%%; }
    }
    server { listen 127.0.0.1:%%PORT_0%%; server_name off.test; http2 off; location / { return 200 "off\n"; } }
    server {
        listen 127.0.0.1:%%PORT_1%%;
        keepalive_requests 2;
        client_header_timeout 1s;
        location / { return 200 "$connection_requests\n"; }
    }
    server {
        listen 127.0.0.1:%%PORT_2%%;
        http2_max_concurrent_streams 2;
        location /up/ { proxy_pass http://%%ORIGIN%%; }
    }
}
"#;

const BIG: usize = 700_000;

fn big() -> Vec<u8> {
    (0..BIG).map(|at| (at % 251) as u8).collect()
}

/// An origin that returns bodies, and the daemon in front of it.
fn start() -> (Daemon, Origin) {
    let origin = Origin::replying(|request| {
        if request.target.contains("slow") {
            std::thread::sleep(Duration::from_millis(200));
        }
        ok(&request.body)
    });
    let setup = Setup::new(CONF).set("ORIGIN", origin.address()).level("info").file("files/big", big());
    (setup.start(), origin)
}

#[test]
fn requests_are_answered_side_by_side() {
    let (daemon, _origin) = start();
    let mut client = H2::connect(daemon.port(0));
    let slow = client.get("/up/slow", &[]);
    let quick = client.get("/a?b", &[("cookie", "a=1"), ("cookie", "b=2")]);
    let file = client.get("/files/big", &[]);
    let head = client.open("HEAD", "/files/big", &[], END_STREAM);
    let empty = client.get("/empty", &[]);
    assert_eq!(client.answer(quick).text(), "GET /a localhost a=1; b=2|h2c|HTTP/2.0\n");
    assert!(!client.answers.contains_key(&slow), "the quick one does not wait for the slow one");
    assert_eq!(client.answer(file).body, big());
    let head = client.answer(head);
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(client.answer(empty).status, 204);
    assert_eq!(client.answer(slow).status, 200);
    daemon.wait_line("access.log", r"GET /a\?b HTTP/2.0 200 h2c HTTP/2.0 OK");
    // HTTP/1.1 on the same address
    assert_eq!(get(daemon.port(0), "/b").text(), "GET /b localhost ||HTTP/1.1\n");
}

#[test]
fn bodies_come_with_a_length_or_without_and_grow_past_any_window() {
    let (daemon, origin) = start();
    let mut client = H2::connect(daemon.port(0));
    let body = &big()[..300_000];
    for length in [Some(body.len().to_string()), None] {
        let more: Vec<(&str, &str)> = length.iter().map(|length| ("content-length", &**length)).collect();
        let stream = client.open("POST", "/up/echo", &more, 0);
        let (mut room, mut of_connection) = (65_535, 1_048_576);
        for (index, part) in body.chunks(16_384).enumerate() {
            while room < part.len() || of_connection < part.len() {
                let update = client.read().expect("room for more");
                if update.kind == WINDOW_UPDATE {
                    let more = u32::from_be_bytes(update.payload.try_into().unwrap()) as usize;
                    *if update.stream == 0 { &mut of_connection } else { &mut room } += more;
                }
            }
            (room, of_connection) = (room - part.len(), of_connection - part.len());
            let is_last = (index + 1) * 16_384 >= body.len();
            client.send(DATA, if is_last { END_STREAM } else { 0 }, stream, part);
        }
        let answer = client.answer(stream);
        assert_eq!((answer.status, answer.body.len()), (200, body.len()));
        assert!(answer.body == body);
        assert_eq!(origin.last().body, body);
    }
    // trailers end a body too
    let stream = client.open("POST", "/up/echo", &[], 0);
    client.send(DATA, 0, stream, b"hello");
    client.send(HEADERS, END_HEADERS | END_STREAM, stream, &block(&[("x-checksum", "1")]));
    assert_eq!(client.answer(stream).text(), "hello");
    // a client that waits is told to go on
    let stream = client.open("POST", "/up/echo", &[("expect", "100-continue")], 0);
    client.read_until("100", |client| client.answers.get(&stream).is_some_and(|answer| answer.status == 100));
    client.send(DATA, END_STREAM, stream, b"so be it");
    assert_eq!(client.answer(stream).text(), "so be it");
}

/// Downgrade: what could become something else in HTTP/1 does not reach the upstream.
#[test]
fn smuggling_ends_here() {
    let (daemon, origin) = start();
    let hidden = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
    let cases: Vec<(Vec<(&str, &str)>, &str)> = vec![
        (vec![("content-length", "0")], hidden),
        (vec![("content-length", "3")], hidden),
        (vec![("content-length", "50")], "short"),
        (vec![("content-length", "5"), ("content-length", "0")], "hello"),
        (vec![("transfer-encoding", "chunked")], hidden),
        (vec![("x", "y\r\ntransfer-encoding: chunked")], hidden),
        (vec![("x: y\r\ntransfer-encoding", "chunked")], hidden),
        (vec![("transfer-encoding ", "chunked")], hidden),
        (vec![("connection", "close, x-forwarded-for")], ""),
        (vec![("upgrade", "h2c")], ""),
        (vec![("host", "evil.test")], ""),
    ];
    for (fields, body) in cases {
        let mut client = H2::connect(daemon.port(0));
        let stream = client.open("POST", "/up/x", &fields, 0);
        client.send(DATA, END_STREAM, stream, body.as_bytes());
        let answer = client.answer(stream);
        assert_eq!(answer.status, 400, "{fields:?}");
        client.read_until("RST_STREAM", |client| client.answers[&stream].reset.is_some());
        assert_eq!(client.answers[&stream].reset, Some(1), "{fields:?}");
        // the connection goes on
        let stream = client.get("/after", &[]);
        assert_eq!(client.answer(stream).status, 200);
    }
    assert!(origin.requests().iter().all(|request| request.target != "/smuggled"));
    let mut client = H2::connect(daemon.port(0));
    let whole = client.open("POST", "/up/x", &[("content-length", "2")], 0);
    client.send(DATA, END_STREAM, whole, b"ok");
    assert_eq!(client.answer(whole).text(), "ok");
    assert_eq!(origin.last().header("transfer-encoding"), None);
}

#[test]
fn a_connection_ends_as_the_settings_say() {
    let (daemon, _origin) = start();
    let mut client = H2::connect(daemon.port(1));
    let first = client.get("/", &[]);
    assert_eq!(client.answer(first).text(), "1\n");
    assert!(client.goodbyes.is_empty());
    let last = client.get("/", &[]);
    assert_eq!(client.answer(last).text(), "2\n");
    client.drain();
    assert_eq!(client.goodbyes, [(last, 0)]);
    let mut client = H2::connect(daemon.port(0));
    let last = client.get("/few", &[]);
    assert_eq!(client.answer(last).text(), "last\n");
    client.drain();
    assert_eq!(client.goodbyes, [(last, 0)]);
}

#[test]
fn streams_beyond_the_limit_are_refused_and_may_come_again() {
    let (daemon, _origin) = start();
    let mut client = H2::connect(daemon.port(2));
    let slow = client.get("/up/slow", &[]);
    let late = client.open("POST", "/up/x", &[], 0);
    let refused = client.get("/", &[]);
    assert_eq!(client.answer(refused).reset, Some(7));
    assert_eq!(client.answer(slow).status, 200);
    client.send(DATA, END_STREAM, late, b"x");
    assert_eq!(client.answer(late).text(), "x");
}

/// The connection was made for a server that speaks HTTP/2; its requests may name another one, which does not.
#[test]
fn a_server_without_http_2_is_not_reached_over_it() {
    let (daemon, _origin) = start();
    let mut client = H2::connect(daemon.port(0));
    let head = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "off.test")];
    client.send(HEADERS, END_HEADERS | END_STREAM, 1, &block(&head));
    assert_eq!(client.answer(1).status, 421);
    daemon.wait_log("for which the negotiated protocol is disabled.*off\\.test");
    client.send(HEADERS, END_HEADERS | END_STREAM, 3, &h2::request("GET", "/", &[]));
    assert_eq!(client.answer(3).status, 200);
    let mut client = Client::connect(daemon.port(0));
    client.send("GET / HTTP/1.1\r\nHost: off.test\r\n\r\n");
    assert_eq!(client.response().text(), "off\n");
}

#[test]
fn a_head_that_stops_ends_its_stream_only() {
    let (daemon, _origin) = start();
    let mut client = H2::connect(daemon.port(1));
    client.read_until("SETTINGS", |client| client.frames.iter().any(|frame| frame.kind == h2::SETTINGS));
    let head = frame(HEADERS, END_HEADERS | END_STREAM, 1, &h2::request("GET", "/", &[]));
    client.wire.send(&head[..20]);
    client.read_until("RST_STREAM", |client| {
        client.answers.get(&1).is_some_and(|answer| answer.reset == Some(1))
    });
    client.wire.send(&head[20..]);
    client.send(PING, 0, 0, b"still on");
    client.read_until("PING", |client| {
        client.frames.iter().any(|frame| frame.kind == PING && frame.flags == ACK)
    });
    assert_eq!(client.answers[&1].status, 0);
}

/// A reload and a stop announce themselves, and what is under way is finished.
#[test]
fn leaving_loses_no_request() {
    let (daemon, _origin) = start();
    for signal in [Signal::SIGHUP, Signal::SIGQUIT] {
        let mut client = H2::connect(daemon.port(0));
        let slow = client.get("/up/slow", &[]);
        let stalled = client.open("POST", "/up/x", &[], 0);
        client.send(DATA, 0, stalled, b"half ");
        let quick = client.get("/", &[]);
        client.answer(quick);
        daemon.signal(signal);
        client.read_until("GOAWAY", |client| !client.goodbyes.is_empty());
        assert_eq!(client.goodbyes[0], (0x7fff_ffff, 0), "the first one names no stream");
        let on_its_way = client.get("/", &[]);
        assert_eq!(client.answer(on_its_way).status, 200);
        let ping = client.frames.iter().find(|frame| frame.kind == PING).map(|frame| frame.payload.clone());
        if ping.is_none() {
            client.read_until("PING", |client| client.frames.iter().any(|frame| frame.kind == PING));
        }
        let ping = client.frames.iter().find(|frame| frame.kind == PING).unwrap().payload.clone();
        client.send(PING, ACK, 0, &ping);
        client.read_until("the second GOAWAY", |client| client.goodbyes.len() == 2);
        assert_eq!(client.goodbyes[1], (on_its_way, 0));
        client.send(DATA, END_STREAM, stalled, b"and half");
        assert_eq!(client.answer(stalled).text(), "half and half");
        assert_eq!(client.answer(slow).status, 200);
        client.drain();
    }
}

/// Each attack by its public name (`docs/security.md`): the connection ends, its reason is in the log, the upstream gets
/// no more requests than streams are allowed, and others are served.
#[test]
fn attacks_end_their_connection() {
    let (daemon, origin) = start();
    let head =
        |stream: u32, flags| frame(HEADERS, END_HEADERS | flags, stream, &h2::request("POST", "/up/x", &[]));
    type Attack<'a> = (&'a str, Box<dyn Fn(u32) -> Vec<u8> + 'a>);
    let attacks: Vec<Attack<'_>> = vec![
        (
            "rapid reset, CVE-2023-44487",
            Box::new(|turn| {
                [head(1 + 2 * turn, END_STREAM), frame(RST_STREAM, 0, 1 + 2 * turn, &[0, 0, 0, 8])].concat()
            }),
        ),
        (
            "MadeYouReset, CVE-2025-8671",
            Box::new(|turn| [head(1 + 2 * turn, 0), frame(WINDOW_UPDATE, 0, 1 + 2 * turn, &[0; 4])].concat()),
        ),
        (
            "CONTINUATION flood, CVE-2024-27316",
            Box::new(|turn| match turn {
                0 => frame(HEADERS, END_STREAM, 1, &h2::request("GET", "/", &[])),
                _ => frame(CONTINUATION, 0, 1, b""),
            }),
        ),
        ("PING flood, CVE-2019-9512", Box::new(|_| frame(PING, 0, 0, &[0; 8]))),
        ("SETTINGS flood, CVE-2019-9515", Box::new(|_| frame(h2::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]))),
        (
            "empty frames, CVE-2019-9518",
            Box::new(|turn| if turn == 0 { head(1, 0) } else { frame(DATA, 0, 1, b"") }),
        ),
    ];
    for (name, turn_of) in attacks {
        let mut client = H2::connect(daemon.port(0));
        for turn in 0..2000 {
            if client.wire.try_send(&turn_of(turn)).is_err() {
                break;
            }
        }
        client.drain();
        let (_, code) = *client.goodbyes.last().unwrap_or_else(|| panic!("{name}: GOAWAY"));
        assert_eq!(code, 11, "{name}");
        assert_eq!(get(daemon.port(0), "/").status, 200, "{name}: others are served");
    }
    let asked = origin.requests().len();
    assert!(asked <= 2 * 128, "{asked} requests of abusers reached the upstream");
    assert_eq!(daemon.log_count("raise \"http2_abuse_limit\" \\(1000\\)"), 6);
    assert_eq!(daemon.complaints("error|crit|alert|emerg"), Vec::<String>::new());
}

#[test]
fn a_client_that_does_not_read_holds_little() {
    let (daemon, _origin) = start();
    let mut client = H2::with_settings(daemon.port(0), &[0, 4, 0, 0, 0, 0]);
    let streams: Vec<u32> = (0..100).map(|_| client.get("/files/big", &[])).collect();
    client.read_until("heads", |client| client.answers.len() == streams.len());
    assert!(client.answers.values().all(|answer| answer.body.is_empty()));
    // windows open one by one
    client.send(WINDOW_UPDATE, 0, streams[7], &10u32.to_be_bytes());
    client.read_until("data", |client| client.answers[&streams[7]].body.len() == 10);
    drop(client);
    wait_for("requests of a client that is gone", || {
        (daemon.read("access.log").lines().filter(|line| line.contains("/files/big")).count() == 100)
            .then_some(())
    });
}

/// Independent clients, over TLS by ALPN and in the clear.
#[test]
fn curl_and_nghttp_are_served() {
    let authority = Authority::new("test");
    let pair = authority.issue(&["site.test"]);
    let origin = Origin::replying(|request| ok(&request.body));
    let setup = Setup::new(
        r#"
worker_processes 1;
http {
    ssl_certificate site.pem;
    ssl_certificate_key site.key;
    server {
        listen 127.0.0.1:%%PORT_0%% ssl;
        server_name site.test;
        http2 on;
        client_max_body_size 0;
        location / { root %%DIR%%/files; }
        location /up/ { proxy_pass http://%%ORIGIN%%; }
        location /what { return 200 "$http2 $ssl_alpn_protocol $server_protocol"; }
    }
    server {
        listen 127.0.0.1:%%PORT_1%% ssl;
        server_name old.test;
        location /what { return 200 "$http2 $ssl_alpn_protocol $server_protocol"; }
    }
}
"#,
    );
    let setup = setup.set("ORIGIN", origin.address()).file("files/big", big());
    let daemon = setup.file("site.pem", pair.certificate).file("site.key", pair.key).start();
    let curl = |words: &[&str]| {
        let output = Command::new("curl")
            .args(["-sk", "--http2", "--max-time", "20"])
            .args(words)
            .output()
            .expect("curl");
        assert!(output.status.success(), "{output:?}");
        output.stdout
    };
    let url = |path: &str| format!("https://127.0.0.1:{}{path}", daemon.port(0));
    assert_eq!(curl(&[&url("/what")]), b"h2 h2 HTTP/2.0");
    assert_eq!(curl(&[&format!("https://127.0.0.1:{}/what", daemon.port(1))]), b" http/1.1 HTTP/1.1");
    assert_eq!(curl(&["--http1.1", &url("/what")]), b" http/1.1 HTTP/1.1");
    assert!(curl(&[&url("/big")]) == big());
    let file = format!("@{}", daemon.path("files/big").display());
    assert!(curl(&["--data-binary", &file, &url("/up/echo")]) == big());
    // ten at a time, on one connection
    let range = format!("{}?[1-30]", url("/big"));
    assert_eq!(curl(&["--parallel", "--parallel-max", "10", &range]).len(), 30 * BIG);
    let nghttp =
        Command::new("nghttp").args(["-n", "-m", "20", "-s", &url("/big")]).output().expect("nghttp");
    let text = String::from_utf8_lossy(&nghttp.stdout).into_owned();
    assert_eq!(text.lines().filter(|line| line.contains(" 200 ")).count(), 20, "{text}");
}

#[test]
fn what_is_no_preface_is_http_1() {
    let (daemon, _origin) = start();
    for start in ["PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", "PRI * HTTP/2.0\r\nHost: a\r\n\r\n"] {
        let mut client = Client::connect(daemon.port(0)).into_wire();
        client.send(start);
        assert_eq!(client.response().status, 400, "{start:?}");
    }
    let mut client = Client::connect(daemon.port(0)).into_wire();
    client.send("PRI");
    client.send("NT / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().status, 200);
    let mut client = H2::connect(daemon.port(0));
    client.send(0x42, 0xff, 0, b"unknown");
    let stream = client.get("/", &[]);
    assert_eq!(client.answer(stream).status, 200);
    client.send(DATA, 0, 0, b"x");
    client.read_until("GOAWAY", |client| client.frames.iter().any(|frame| frame.kind == GOAWAY));
    assert_eq!(client.goodbyes, [(stream, 1)]);
}

/// RFC 8441: for the upstream a WebSocket in a stream is one over HTTP/1.1.
#[test]
fn a_websocket_goes_through_a_stream() {
    let origin = Origin::websocket("/chat");
    let conf = r#"
worker_processes 1;
http {
    http2 on;
    http2_extended_connect on;
    access_log %%DIR%%/access.log;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { return 200 "no tunnel"; }
        location /chat {
            proxy_pass http://%%ORIGIN%%;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection upgrade;
        }
    }
}
"#;
    let daemon = Setup::new(conf).set("ORIGIN", origin.address()).start();
    let mut client = H2::connect(daemon.port(0));
    let stream = client.open("CONNECT", "/chat", &[], 0);
    assert_eq!(client.answer(stream).status, 405, "without :protocol");
    let head = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":path", "/chat"),
        (":authority", "localhost"),
        ("sec-websocket-version", "13"),
    ];
    client.send(HEADERS, END_HEADERS, 3, &block(&head));
    let body_is = |text: &'static [u8]| {
        move |client: &H2| client.answers.get(&3).is_some_and(|answer| answer.body == text)
    };
    client.read_until("the tunnel", body_is(b"hello"));
    assert_eq!(client.answers[&3].status, 200);
    let offers = client
        .frames
        .iter()
        .any(|frame| frame.kind == h2::SETTINGS && frame.payload.ends_with(&[0, 8, 0, 0, 0, 1]));
    assert!(offers, "SETTINGS_ENABLE_CONNECT_PROTOCOL");
    client.send(DATA, 0, 3, b" world");
    client.read_until("an echo", body_is(b"hello world"));
    // longer than the windows, in both directions
    let long = vec![b'x'; 16_384];
    for _ in 0..20 {
        client.send(DATA, 0, 3, &long);
        let length = client.answers[&3].body.len() + long.len();
        client.read_until("all of it", |client| client.answers[&3].body.len() == length);
    }
    client.send(DATA, END_STREAM, 3, b"");
    let answer = client.answer(3);
    assert!(answer.is_complete && answer.body.ends_with(b"bye"));
    daemon.wait_line("access.log", r#""GET /chat HTTP/2.0" 101 "#);
    drop(client);
}
