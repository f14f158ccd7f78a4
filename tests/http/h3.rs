//! HTTP/3 with clients: requests side by side, bodies, what is malformed, how connections end.

use std::time::Duration;

use nix::sys::signal::Signal;
use quinn_proto::TransportConfig;

use crate::support::h3::{self, DATA, H3, HEADERS, frame, head, section};
use crate::support::origin::ok;
use crate::support::tls::{Authority, client_config};
use crate::support::{Daemon, Origin, Setup, wait_for};

const CONF: &str = r#"
worker_processes 1;
http {
    log_format h3 '$request $status $http3 $server_protocol $ssl_protocol $request_completion';
    access_log %%DIR%%/access.log h3;
    ssl_certificate %%DIR%%/a.crt;
    ssl_certificate_key %%DIR%%/a.key;
    server {
        listen 127.0.0.1:%%PORT_0%% quic;
        server_name a.test;
        http3_stream_buffer_size 64k;
        location / { return 200 "$request_method $uri $host $http_cookie|$http3|$server_protocol|$ssl_server_name\n"; }
        location /empty { return 204; }
        location /up/ { client_max_body_size 8m; proxy_pass http://%%ORIGIN%%; proxy_http_version 1.1; }
        location /files/ { root %%DIR%%; }
        location /from { return 200 "$remote_addr:$remote_port"; }
    }
    server {
        listen 127.0.0.1:%%PORT_0%% quic;
        server_name b.test;
        ssl_certificate %%DIR%%/b.crt;
        ssl_certificate_key %%DIR%%/b.key;
        location / { return 200 "b $ssl_server_name\n"; }
    }
    server { listen 127.0.0.1:%%PORT_0%% quic; server_name off.test; http3 off; location / { return 200 "off\n"; } }
    server { listen 127.0.0.1:%%PORT_0%% quic; server_name no.test; ssl_reject_handshake on; }
    server {
        listen 127.0.0.1:%%PORT_1%% quic;
        keepalive_requests 2;
        quic_retry on;
        location / { return 200 "$connection_requests\n"; }
        location /last { keepalive_timeout 0; return 200 "last\n"; }
    }
    server {
        listen 127.0.0.1:%%PORT_2%% quic;
        http3_max_concurrent_streams 2;
        ssl_verify_client on;
        ssl_client_certificate %%DIR%%/ca.crt;
        location / { return 200 "$ssl_client_verify $ssl_client_s_dn\n"; }
    }
    server {
        listen 127.0.0.1:%%PORT_3%% quic;
        listen 127.0.0.1:%%PORT_3%% ssl;
        ssl_early_data on;
        ssl_session_cache shared:TLS:1m;
        add_header Alt-Svc 'h3=":%%PORT_3%%"; ma=60';
        location / { return 200 "$ssl_early_data|$ssl_session_reused\n"; }
    }
}
"#;

const BIG: usize = 1_500_000;

fn big() -> Vec<u8> {
    (0..BIG).map(|at| (at % 251) as u8).collect()
}

/// An origin that returns bodies, and the daemon in front of it.
fn start() -> (Daemon, Origin, Authority) {
    let origin = Origin::replying(|request| {
        if request.target.contains("slow") {
            std::thread::sleep(Duration::from_millis(200));
        }
        ok(&request.body)
    });
    let authority = Authority::new("Test CA");
    let (a, b) = (authority.issue(&["a.test", "off.test"]), authority.issue(&["b.test"]));
    let setup = Setup::new(CONF).set("ORIGIN", origin.address()).level("info").file("files/big", big());
    let setup = setup
        .file("a.crt", a.certificate)
        .file("a.key", a.key)
        .file("b.crt", b.certificate)
        .file("b.key", b.key)
        .file("ca.crt", authority.certificate());
    (setup.start(), origin, authority)
}

#[test]
fn requests_are_answered_side_by_side() {
    let (daemon, _origin, authority) = start();
    let mut client = H3::connect(daemon.port(0), &authority, "a.test");
    let slow = client.get("a.test", "/up/slow");
    let quick = client.open(&head("GET", "/a?b", "a.test", &[("cookie", "a=1"), ("cookie", "b=2")]), true);
    let file = client.get("a.test", "/files/big");
    let without = client.open(&head("HEAD", "/files/big", "a.test", &[]), true);
    let empty = client.get("a.test", "/empty");
    assert_eq!(client.answer(quick).text(), "GET /a a.test a=1; b=2|h3|HTTP/3.0|a.test\n");
    assert!(!client.answers[&slow].is_over(), "the quick one does not wait for the slow one");
    assert_eq!(client.answer(file).body, big());
    let without = client.answer(without);
    let length = BIG.to_string();
    assert_eq!(
        (without.status, without.field("content-length"), without.body.len()),
        (200, Some(&*length), 0)
    );
    let empty = client.answer(empty);
    assert_eq!((empty.status, empty.field("content-length")), (204, None));
    assert_eq!(client.answer(slow).status, 200);
    daemon.wait_line("access.log", r"GET /a\?b HTTP/3.0 200 h3 HTTP/3.0 TLSv1.3 OK");
    assert_eq!(daemon.complaints("warn|error|crit|alert|emerg"), Vec::<String>::new());
}

#[test]
fn bodies_of_requests_arrive_whole_however_they_are_cut() {
    let (daemon, _origin, authority) = start();
    let mut client = H3::connect(daemon.port(0), &authority, "a.test");
    let body = big();
    let id = client.open(&head("POST", "/up/echo", "a.test", &[]), false);
    for piece in body.chunks(70_001) {
        client.send(id, &frame(DATA, piece), false);
    }
    client.send(id, &frame(HEADERS, &section(&[("x-trailer", "1")])), true);
    assert!(client.answer(id).body == body);
    let length = body.len().to_string();
    let mut bytes = head("PUT", "/up/echo", "a.test", &[("content-length", &length)]);
    bytes.extend(frame(0x21, b"grease"));
    bytes.extend(frame(DATA, &body));
    let id = client.open(&bytes, true);
    assert!(client.answer(id).body == body);
    // A client that waits for 100 gets it.
    let id = client.open(
        &head("POST", "/up/echo", "a.test", &[("expect", "100-continue"), ("content-length", "2")]),
        false,
    );
    client.until("100", |client| !client.answers[&id].interim.is_empty());
    client.send(id, &frame(DATA, b"ok"), true);
    let answer = client.answer(id);
    assert_eq!((answer.text(), answer.interim), ("ok".to_owned(), vec![100]));
}

#[test]
fn the_name_leads_to_its_server_and_certificate() {
    let (daemon, _origin, authority) = start();
    let mut client = H3::connect(daemon.port(0), &authority, "b.test");
    assert_eq!(client.fetch("b.test", "/").text(), "b b.test\n");
    assert_eq!(client.fetch("off.test", "/").status, 421);
    let mut refused = H3::begin(daemon.port(0), h3::tls(&authority), "no.test", TransportConfig::default());
    assert_eq!(refused.closed(), 0x100 + 112, "unrecognized_name");
    let mut other = h3::tls(&authority);
    other.alpn_protocols = vec![b"hq-interop".to_vec()];
    let mut refused = H3::begin(daemon.port(0), other, "a.test", TransportConfig::default());
    assert_eq!(refused.closed(), 0x100 + 120, "no_application_protocol");
}

#[test]
fn malformed_requests_end_alone() {
    let (daemon, _origin, authority) = start();
    let mut client = H3::connect(daemon.port(0), &authority, "a.test");
    let pseudo = |skip: &str| -> Vec<(&'static str, &'static str)> {
        [(":method", "GET"), (":scheme", "https"), (":authority", "a.test"), (":path", "/")]
            .into_iter()
            .filter(|(name, _)| *name != skip)
            .collect()
    };
    for skip in [":method", ":scheme", ":authority", ":path"] {
        let id = client.open(&frame(HEADERS, &section(&pseudo(skip))), true);
        assert_eq!(client.answer(id).status, 400, "{skip}");
    }
    for field in [("X-Upper", "a"), ("connection", "close"), ("te", "gzip"), (":late", "a"), ("a b", "c")] {
        let id = client.open(&head("GET", "/", "a.test", &[field]), true);
        assert_eq!(client.answer(id).status, 400, "{field:?}");
    }
    for (declared, sent) in [("5", "1234"), ("3", "1234")] {
        let mut bytes = head("POST", "/up/echo", "a.test", &[("content-length", declared)]);
        bytes.extend(frame(DATA, sent.as_bytes()));
        let id = client.open(&bytes, true);
        let answer = client.answer(id);
        assert!(answer.status == 400 || answer.reset == Some(0x10e), "{declared}: {answer:?}");
    }
    assert_eq!(client.fetch("a.test", "/").status, 200);
    let id = client.open(&head("GET", "/", "a.test", &[("x", &"y".repeat(40_000))]), true);
    assert_eq!(client.answer(id).status, 400, "too large");
    assert_eq!(client.fetch("a.test", "/").status, 200, "the connection goes on");
}

#[test]
fn a_connection_ends_after_its_last_request_with_goaway() {
    let (daemon, _origin, authority) = start();
    let mut client = H3::connect(daemon.port(1), &authority, "a.test");
    assert_eq!(client.fetch("a.test", "/").text(), "1\n");
    assert_eq!(client.fetch("a.test", "/").text(), "2\n");
    assert_eq!(client.closed(), 0x100);
    assert_eq!(client.goaways(), [8]);
    let mut client = H3::connect(daemon.port(1), &authority, "a.test");
    assert_eq!(client.fetch("a.test", "/last").text(), "last\n");
    assert_eq!((client.closed(), client.goaways()), (0x100, vec![4]));
}

#[test]
fn clients_certificates_are_checked() {
    let (daemon, _origin, authority) = start();
    let mut client = H3::connect(daemon.port(2), &authority, "a.test");
    assert_eq!(client.fetch("a.test", "/").status, 400, "no certificate");
    let pair = authority.issue(&["client"]);
    let config = client_config(&authority, Some(&pair), &[&rustls::version::TLS13]);
    let mut tls = rustls::ClientConfig::clone(&config);
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let mut client = H3::begin(daemon.port(2), tls, "a.test", TransportConfig::default());
    client.until("a handshake", |client| client.is_connected);
    client.start();
    assert_eq!(client.fetch("a.test", "/").text(), "SUCCESS CN=client\n");
}

#[test]
fn early_data_is_answered_once_and_sessions_resume() {
    let (daemon, _origin, authority) = start();
    let tls = h3::tls(&authority);
    let connect = || {
        let mut client = H3::begin(daemon.port(3), tls.clone(), "a.test", TransportConfig::default());
        let is_early = client.connection.has_0rtt();
        let early = is_early.then(|| {
            client.start();
            let id = client.get("a.test", "/");
            client.early_answer(id)
        });
        client.until("a handshake", |client| client.is_connected);
        (client, early)
    };
    let (mut first, early) = connect();
    assert!(early.is_none());
    first.start();
    let answer = first.fetch("a.test", "/");
    assert_eq!(answer.text(), "|.\n");
    assert_eq!(answer.field("alt-svc"), Some(&*format!("h3=\":{}\"; ma=60", daemon.port(3))));
    first.go_on(Duration::from_millis(50)); // tickets come behind the handshake
    let (mut second, early) = connect();
    let early = early.expect("a ticket");
    assert!(second.connection.accepted_0rtt());
    assert_eq!(early.text(), "1|r\n");
    assert_eq!(second.fetch("a.test", "/").text(), "|r\n");
}

#[test]
fn a_client_that_moves_keeps_its_connection() {
    let (daemon, _origin, authority) = start();
    let mut client = H3::connect(daemon.port(0), &authority, "a.test");
    let from = client.fetch("a.test", "/from").text();
    let file = client.get("a.test", "/files/big");
    client.until("a part", |client| !client.answers[&file].body.is_empty());
    client.rebind();
    assert!(client.answer(file).body == big());
    // The address that has been proved: the client could claim any other in its next packet.
    assert_eq!(client.fetch("a.test", "/from").text(), from);
}

#[test]
fn marks_of_routers_are_read_and_sent() {
    let (daemon, _origin, authority) = start();
    let mut client = H3::connect(daemon.port(0), &authority, "a.test");
    assert!(client.fetch("a.test", "/files/big").body == big());
    assert_eq!(client.fetch("a.test", "/").status, 200);
    // A peer that reports marks wrongly, or not, gets no more marked packets (RFC 9000 §13.4.2).
    assert_eq!((client.sent_mark, client.marks.last()), (2, Some(&2)), "ECT(0)");
}

#[test]
fn a_stop_waits_for_requests() {
    let (daemon, _origin, authority) = start();
    let mut client = H3::connect(daemon.port(0), &authority, "a.test");
    let mut idle = H3::connect(daemon.port(0), &authority, "a.test");
    assert_eq!(idle.fetch("a.test", "/").status, 200);
    let slow = client.get("a.test", "/up/slow");
    let file = client.get("a.test", "/files/big");
    client.until("a part", |client| !client.answers[&file].body.is_empty());
    daemon.signal(Signal::SIGQUIT);
    assert_eq!(client.answer(slow).status, 200);
    assert!(client.answer(file).body == big());
    assert_eq!(client.closed(), 0x100);
    assert_eq!(idle.closed(), 0x100);
    assert!(daemon.wait_end().is_some_and(|status| status.success()));
    assert_eq!(daemon.complaints("error|crit|alert|emerg"), Vec::<String>::new());
}

/// RFC 9220: for the upstream a WebSocket in a stream is one over HTTP/1.1.
#[test]
fn a_websocket_goes_through_a_stream() {
    let origin = Origin::websocket("/chat");
    let conf = r#"
worker_processes 1;
http {
    access_log %%DIR%%/access.log;
    ssl_certificate %%DIR%%/a.crt;
    ssl_certificate_key %%DIR%%/a.key;
    http3_extended_connect on;
    server {
        listen 127.0.0.1:%%PORT_0%% quic;
        location / { return 200 "no tunnel"; }
        location /chat {
            proxy_pass http://%%ORIGIN%%;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection upgrade;
        }
    }
    server {
        listen 127.0.0.1:%%PORT_1%% quic;
        http3_extended_connect off;
        location / { return 200 "no tunnel"; }
    }
}
"#;
    let authority = Authority::new("Test CA");
    let pair = authority.issue(&["a.test"]);
    let setup = Setup::new(conf).set("ORIGIN", origin.address()).level("info");
    let daemon = setup.file("a.crt", pair.certificate).file("a.key", pair.key).start();
    let offers =
        |client: &H3| client.uni.values().any(|bytes| bytes.starts_with(&[0, 4]) && bytes.ends_with(&[8, 1]));

    let mut client = H3::connect(daemon.port(1), &authority, "a.test");
    let id = client.open(&h3::websocket("/chat", "a.test"), false);
    assert_eq!(client.answer(id).status, 400);
    assert!(!offers(&client));

    let mut client = H3::connect(daemon.port(0), &authority, "a.test");
    let id = client.open(&h3::websocket("/", "a.test"), false);
    assert_eq!(client.answer(id).text(), "no tunnel");
    assert!(offers(&client), "SETTINGS_ENABLE_CONNECT_PROTOCOL: {:?}", client.uni);
    let id = client.open(&h3::websocket("/chat", "a.test"), false);
    client.until("the tunnel", |client| client.answers[&id].body == b"hello");
    assert_eq!(client.answers[&id].status, 200);
    client.send(id, &frame(DATA, b" world"), false);
    client.until("an echo", |client| client.answers[&id].body == b"hello world");
    // longer than the windows, in both directions
    let long = big();
    client.send(id, &frame(DATA, &long), false);
    client.until("all of it", |client| client.answers[&id].body.len() == 11 + long.len());
    assert!(client.answers[&id].body.ends_with(&long));
    client.send(id, &[], true);
    let answer = client.answer(id);
    assert!(answer.is_whole && answer.body.ends_with(b"bye"));
    daemon.wait_line("access.log", r#""GET /chat HTTP/3.0" 101 "#);

    // A client that gives it up ends the upstream's connection, too.
    let id = client.open(&h3::websocket("/chat", "a.test"), false);
    client.until("the tunnel", |client| client.answers[&id].body == b"hello");
    client.reset(id, 0x10c);
    let ended = || daemon.read("access.log").matches("\"GET /chat HTTP/3.0\" 101 ").count();
    wait_for("its line in the log", || (ended() == 2).then_some(()));
    assert_eq!(client.fetch("a.test", "/").text(), "no tunnel");
    assert_eq!(daemon.complaints("error|crit|alert|emerg"), Vec::<String>::new());
}
