//! TLS to upstreams (`proxy_ssl_…`): a real nginx, `openssl s_server`, or a script is the upstream.
//!
//! Certificates are made for each test. The log's words are nginx's.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use rcgen::{SerialNumber, date_time_ymd};

use crate::support::tls::{Authority, Pair, self_signed};
use crate::support::{Client, Daemon, Origin, Response, Setup, fetch, get, wait_for};

const NGINX: &str = "/usr/sbin/nginx";

/// An nginx with servers that have these certificates, in this order, and these directives.
fn nginx(pairs: &[&Pair], directives: &str) -> Daemon {
    nginx_with(pairs, directives, &[])
}

fn nginx_with(pairs: &[&Pair], directives: &str, files: &[(&str, &str)]) -> Daemon {
    let mut text = String::from("http { access_log off; client_max_body_size 0;\n");
    for index in 0..pairs.len() {
        text.push_str(&format!(
            "server {{ listen 127.0.0.1:%%PORT_{index}%% ssl; ssl_certificate %%DIR%%/{index}.crt; \
             ssl_certificate_key %%DIR%%/{index}.key; {directives} }}\n"
        ));
    }
    let mut setup = Setup::new(&(text + "}"));
    for (index, pair) in pairs.iter().enumerate() {
        setup =
            setup.file(&format!("{index}.crt"), &pair.certificate).file(&format!("{index}.key"), &pair.key);
    }
    for (name, content) in files {
        setup = setup.file(name, content);
    }
    setup.program(Path::new(NGINX)).level("info").start()
}

/// Our daemon with one server.
fn proxy(server: &str, ports: &[u16], files: &[(&str, &str)]) -> Daemon {
    let text = format!(
        "http {{ proxy_ssl_session_reuse off; log_format times '$status $upstream_connect_time $upstream_status'; \
         access_log %%DIR%%/times.log times;\n{server} }}"
    );
    let text = if server.contains("listen") {
        text
    } else {
        text.replace(server, &format!("server {{ listen 127.0.0.1:%%PORT_0%%; {server} }}"))
    };
    let mut setup = Setup::new(&text).level("info");
    for (index, port) in ports.iter().enumerate() {
        setup = setup.set(&format!("UP_{index}"), format!("127.0.0.1:{port}"));
        setup = setup.set(&format!("UP_PORT_{index}"), port.to_string());
    }
    for (name, content) in files {
        setup = setup.file(name, content);
    }
    setup.start()
}

fn text(response: &Response) -> (u16, String) {
    (response.status, response.text())
}

const SAY: &str = "location / { return 200 \
    \"$ssl_server_name|$ssl_protocol|$ssl_session_reused|$ssl_client_s_dn|$connection|$ssl_alpn_protocol\"; }";

/// One of the values of [`SAY`].
fn said(response: &Response, index: usize) -> String {
    assert_eq!(response.status, 200, "{}", response.text());
    response.text().split('|').nth(index).unwrap().to_owned()
}

#[test]
fn a_certificate_is_checked_against_the_trusted_ones() {
    let (ca, other) = (Authority::new("CA"), Authority::new("Other CA"));
    let between = ca.intermediate("Intermediate");
    let expired = ca.issue_with(&["up.test"], |params| params.not_after = date_time_ymd(2021, 1, 1));
    let numbered = ca.issue_with(&["up.test"], |params| params.serial_number = Some(SerialNumber::from(77)));
    let mut deep = between.issue(&["up.test"]);
    deep.certificate.push_str(&between.certificate());
    let pairs = [&ca.issue(&["up.test"]), &expired, &self_signed("up.test"), &numbered, &deep];
    let upstream = nginx(&pairs, SAY);
    let ports: Vec<u16> = (0..pairs.len()).map(|index| upstream.port(index)).collect();
    let daemon = proxy(
        "proxy_ssl_verify on; proxy_ssl_name up.test; proxy_ssl_trusted_certificate %%DIR%%/ca.pem;
         location /good { proxy_pass https://%%UP_0%%; }
         location /off { proxy_pass https://%%UP_2%%; proxy_ssl_verify off; proxy_ssl_name other.test; }
         location /name { proxy_pass https://%%UP_0%%; proxy_ssl_name other.test; }
         location /address { proxy_pass https://%%UP_0%%; proxy_ssl_name $proxy_host; }
         location /port { proxy_pass https://%%UP_0%%; proxy_ssl_name $arg_n:443; }
         location /unknown { proxy_pass https://%%UP_0%%; proxy_ssl_trusted_certificate %%DIR%%/other.pem; }
         location /expired { proxy_pass https://%%UP_1%%; }
         location /self { proxy_pass https://%%UP_2%%; }
         location /pinned { proxy_pass https://%%UP_2%%; proxy_ssl_trusted_certificate %%DIR%%/self.pem; }
         location /revoked { proxy_pass https://%%UP_3%%; proxy_ssl_crl %%DIR%%/ca.crl; }
         location /unrevoked { proxy_pass https://%%UP_0%%; proxy_ssl_crl %%DIR%%/ca.crl; }
         location /deep { proxy_pass https://%%UP_4%%; proxy_ssl_verify_depth 1; }
         location /deeper { proxy_pass https://%%UP_4%%; proxy_ssl_verify_depth 0; }",
        &ports,
        &[
            ("ca.pem", &ca.certificate()),
            ("other.pem", &other.certificate()),
            ("self.pem", &pairs[2].certificate),
            ("ca.crl", &ca.revoke(&[77])),
        ],
    );
    for path in ["/good", "/off", "/port?n=up.test", "/pinned", "/unrevoked", "/deep"] {
        assert_eq!(get(daemon.port(0), path).status, 200, "{path}\n{}", daemon.log());
    }
    for (path, words) in [
        ("/name", "upstream SSL certificate does not match \"other.test\""),
        ("/address", "upstream SSL certificate does not match \"127.0.0.1\""),
        ("/port?n=x.test", "upstream SSL certificate does not match \"x.test\""),
        ("/port", "upstream SSL certificate does not match \"\""),
        ("/unknown", r"upstream SSL certificate verify error: \(2\d:unable to "),
        ("/expired", r"upstream SSL certificate verify error: \(10:certificate has expired\)"),
        ("/self", r"upstream SSL certificate verify error: \(18:self-signed certificate\)"),
        ("/revoked", r"upstream SSL certificate verify error: \(23:certificate revoked\)"),
        ("/deeper", r"upstream SSL certificate verify error: \(22:certificate chain too long\)"),
    ] {
        assert_eq!(get(daemon.port(0), path).status, 502, "{path}");
        let path = regex::escape(path);
        daemon.wait_log(&format!(
            "{words}.* while SSL handshaking to upstream, .*request: \"GET {path} .*upstream: \"https://127"
        ));
    }
    assert_eq!(daemon.log_count("panicked"), 0);
}

#[test]
fn tls12_and_tls13_sessions_are_resumed_if_that_is_on() {
    // By tickets, by IDs, and by those of our own server.
    let cases = [("on", "shared:s:1m", true), ("off", "shared:s:1m", true), ("off", "builtin", false)];
    for (protocol, (tickets, cache, is_nginx)) in
        ["TLSv1.2", "TLSv1.3"].into_iter().flat_map(|protocol| cases.map(|case| (protocol, case)))
    {
        let server = format!(
            "http {{ access_log off; server {{ listen 127.0.0.1:%%PORT_0%% ssl; ssl_certificate %%DIR%%/up.crt; \
             ssl_certificate_key %%DIR%%/up.key; ssl_protocols {protocol}; ssl_session_tickets {tickets}; \
             ssl_session_cache {cache}; keepalive_timeout 0; {SAY} }} }}"
        );
        let pair = self_signed("up.test");
        let setup = Setup::new(&server).file("up.crt", &pair.certificate).file("up.key", &pair.key);
        let upstream = if is_nginx { setup.program(Path::new(NGINX)).level("info") } else { setup }.start();
        let daemon = proxy(
            "location /off { proxy_pass https://%%UP_0%%; }
             location /on { proxy_pass https://%%UP_0%%; proxy_ssl_session_reuse on; }
             location /other { proxy_pass https://%%UP_0%%; proxy_ssl_session_reuse on; proxy_ssl_server_name on; }",
            &[upstream.port(0)],
            &[],
        );
        let mut reused = |path: &str| {
            let response = get(daemon.port(0), path);
            assert_eq!(said(&response, 1), protocol);
            said(&response, 2)
        };
        let seen: Vec<String> =
            ["/off", "/off", "/on", "/on", "/on", "/other", "/other"].map(&mut reused).into();
        assert_eq!(seen, [".", ".", ".", "r", "r", ".", "r"], "{protocol} {tickets} {cache}");
    }
}

#[test]
fn the_name_is_sent_only_if_that_is_on() {
    let upstream = nginx(&[&self_signed("up.test")], SAY);
    let daemon = proxy(
        "upstream named.test { server %%UP_0%%; keepalive 4; }
         upstream chosen { server localhost:%%UP_PORT_0%%; }
         server { listen 127.0.0.1:%%PORT_0%%;
            location /off { proxy_pass https://named.test; }
            location /on { proxy_pass https://named.test; proxy_ssl_server_name on; }
            location /own { proxy_pass https://named.test; proxy_ssl_server_name on; proxy_ssl_name $arg_n; }
            location /address { proxy_pass https://%%UP_0%%; proxy_ssl_server_name on; }
            location /chosen { proxy_pass https://chosen; proxy_ssl_server_name on;
                proxy_ssl_name $upstream_last_server_name; }
            location /alpn { proxy_pass https://named.test; proxy_ssl_alpn h3 http/1.1; }
            location /asked { proxy_pass https://named.test; proxy_ssl_alpn $arg_one $arg_two; proxy_http_version 1.1;
                proxy_set_header Connection \"\"; }
            location /script { proxy_pass https://$arg_up; proxy_ssl_server_name on; }
         }",
        &[upstream.port(0)],
        &[],
    );
    let address = format!("/script?up=127.0.0.1:{}", upstream.port(0));
    for (path, name) in [
        ("/off", ""),
        ("/on", "named.test"),
        ("/own?n=other.test:8443", "other.test"),
        ("/own?n=", ""),
        ("/own?n=with_underscore", "with_underscore"),
        ("/address", ""),
        ("/script?up=named.test", "named.test"),
        ("/chosen", "localhost"),
        (&*address, ""),
    ] {
        assert_eq!(said(&get(daemon.port(0), path), 0), name, "{path}");
    }
    assert_eq!(said(&get(daemon.port(0), "/off"), 5), "", "no ALPN");
    assert_eq!(said(&get(daemon.port(0), "/alpn"), 5), "http/1.1");
    // A kept connection serves only requests that would have offered the same.
    let long = format!("/asked?one={}&two=http/1.0", "x".repeat(256));
    for (path, protocol) in [
        ("/asked?one=http/1.1", "http/1.1"),
        ("/asked?one=http/1.0&two=http/1.1", "http/1.1"),
        ("/asked?two=http/1.0", "http/1.0"),
        ("/asked", ""),
        (&*long, "http/1.0"),
    ] {
        assert_eq!(said(&get(daemon.port(0), path), 5), protocol, "{path}");
    }
    assert_eq!(get(daemon.port(0), "/own?n=no%20name").status, 200, "sent to no one");
}

#[test]
fn a_client_certificate_is_shown_to_upstreams_that_ask() {
    let ca = Authority::new("CA");
    let upstream = nginx_with(
        &[&self_signed("up.test")],
        &format!("keepalive_timeout 0; ssl_client_certificate %%DIR%%/ca.pem; ssl_verify_client on; {SAY}"),
        &[("ca.pem", &ca.certificate())],
    );
    let (one, two) = (ca.issue(&["one.test"]), ca.issue(&["two.test"]));
    let daemon = proxy(
        "proxy_ssl_certificate one.crt; proxy_ssl_certificate_key one.key;
         location /fixed { proxy_pass https://%%UP_0%%; }
         location /none { proxy_pass https://%%UP_0%%; proxy_ssl_certificate ''; }
         location /script { proxy_pass https://%%UP_0%%; proxy_ssl_certificate $arg_c.crt; proxy_ssl_certificate_key $arg_c.key; }
         location /cached { proxy_pass https://%%UP_0%%; proxy_ssl_certificate $arg_c.crt; proxy_ssl_certificate_key $arg_c.key;
                            proxy_ssl_certificate_cache max=1; }",
        &[upstream.port(0)],
        &[
            ("one.crt", &one.certificate),
            ("one.key", &one.key),
            ("two.crt", &two.certificate),
            ("two.key", &two.key),
        ],
    );
    for (path, name) in [
        ("/fixed", "CN=one.test"),
        ("/script?c=one", "CN=one.test"),
        ("/script?c=two", "CN=two.test"),
        ("/cached?c=one", "CN=one.test"),
        ("/cached?c=two", "CN=two.test"),
        ("/cached?c=one", "CN=one.test"),
    ] {
        assert_eq!(said(&get(daemon.port(0), path), 3), name, "{path}");
    }
    assert_eq!(get(daemon.port(0), "/none").status, 400, "nginx asks for one");
    assert_eq!(get(daemon.port(0), "/script?c=three").status, 500);
    daemon.wait_log(r#"cannot load certificate "[^"]*three.crt""#);
    // A file that is gone matters only where it is read again.
    std::fs::write(daemon.path("one.crt"), "").unwrap();
    assert_eq!(get(daemon.port(0), "/script?c=one").status, 500);
    assert_eq!(said(&get(daemon.port(0), "/cached?c=one"), 3), "CN=one.test");
}

/// `ssl_password_file` excludes only those keys from the cache that are encrypted.
#[test]
fn keys_that_need_a_password_are_read_each_time_and_others_are_cached() {
    let ca = Authority::new("CA");
    let upstream = nginx_with(
        &[&self_signed("up.test")],
        &format!("keepalive_timeout 0; ssl_client_certificate %%DIR%%/ca.pem; ssl_verify_client on; {SAY}"),
        &[("ca.pem", &ca.certificate())],
    );
    let [plain, newer, secret] = ["plain.test", "newer.test", "secret.test"].map(|name| ca.issue(&[name]));
    let daemon = proxy(
        "proxy_ssl_password_file password; proxy_ssl_certificate_cache max=10 valid=1h inactive=1h;
         proxy_ssl_certificate $arg_c.crt; proxy_ssl_certificate_key $arg_c.key;
         location / { proxy_pass https://%%UP_0%%; }",
        &[upstream.port(0)],
        &[
            ("password", "secret\n"),
            ("a.crt", &secret.certificate),
            ("plain.key", &secret.key),
            ("b.crt", &plain.certificate),
            ("b.key", &plain.key),
        ],
    );
    let words = ["pkcs8", "-topk8", "-v2", "aes-128-cbc", "-passout", "pass:secret"];
    let made = Command::new("openssl")
        .args(words)
        .args([Path::new("-in"), &daemon.path("plain.key"), Path::new("-out"), &daemon.path("a.key")])
        .status();
    assert!(made.expect("openssl runs").success());
    let shown = |name: &str| said(&get(daemon.port(0), &format!("/?c={name}")), 3);
    assert_eq!((shown("a"), shown("b")), ("CN=secret.test".to_owned(), "CN=plain.test".to_owned()));
    for (end, text) in [("crt", &newer.certificate), ("key", &newer.key)] {
        daemon.write(&format!("a.{end}"), text);
        daemon.write(&format!("b.{end}"), text);
    }
    assert_eq!((shown("a"), shown("b")), ("CN=newer.test".to_owned(), "CN=plain.test".to_owned()));
    daemon.write("a.key", "gone");
    assert_eq!(shown("a"), "CN=newer.test", "the one without a password is kept");
}

#[test]
fn a_peer_that_fails_in_the_handshake_is_told_and_another_one_is_tried() {
    let good = nginx(&[&self_signed("up.test")], SAY);
    let old = nginx(&[&self_signed("up.test")], &format!("ssl_protocols TLSv1.3; {SAY}"));
    let closing = Origin::start(|peer| drop(peer.some(16)));
    let cutting = Origin::start(|peer| {
        peer.some(16);
        peer.send([22, 3, 3, 0, 100, 2]);
    });
    let plain = Origin::start(|peer| {
        peer.some(16);
        peer.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        peer.rest();
    });
    let silent = Origin::start(|peer| drop(peer.rest()));
    let daemon = proxy(
        "upstream both { server %%UP_1%% max_fails=0; server %%UP_0%% backup; }
         server { listen 127.0.0.1:%%PORT_0%%;
            location /closing { proxy_pass https://%%UP_1%%; }
            location /cutting { proxy_pass https://%%UP_2%%; }
            location /plain { proxy_pass https://%%UP_3%%; }
            location /silent { proxy_pass https://%%UP_4%%; proxy_connect_timeout 300ms; }
            location /old { proxy_pass https://%%UP_5%%; proxy_ssl_protocols TLSv1.2; }
            location /both { proxy_pass https://both; }
            location /alone { proxy_pass https://both; proxy_next_upstream off; }
         }",
        &[good.port(0), closing.port(), cutting.port(), plain.port(), silent.port(), old.port(0)],
        &[],
    );
    for (path, status, words) in [
        ("/closing", 502, "peer closed connection in SSL handshake"),
        ("/cutting", 502, "peer closed connection in SSL handshake"),
        ("/plain", 502, r"SSL_do_handshake\(\) failed \(SSL: .*http://"),
        ("/old", 502, r"SSL_do_handshake\(\) failed \(SSL: .*proxy_ssl_protocols"),
        ("/alone", 502, "peer closed connection in SSL handshake"),
    ] {
        assert_eq!(get(daemon.port(0), path).status, status, "{path}");
        daemon.wait_log(&format!("{words}.* while SSL handshaking to upstream.*GET {path} "));
    }
    let started = Instant::now();
    assert_eq!(get(daemon.port(0), "/silent").status, 504);
    assert!(started.elapsed().as_millis() >= 300);
    daemon.wait_log("upstream timed out .* while SSL handshaking to upstream");
    assert_eq!(get(daemon.port(0), "/both").status, 200);
    assert_eq!(daemon.log_count("panicked"), 0);
}

#[test]
fn kept_connections_serve_only_requests_with_the_same_settings() {
    let upstream = nginx(&[&self_signed("up.test")], SAY);
    let daemon = proxy(
        "upstream u { server %%UP_0%%; keepalive 10; }
         proxy_http_version 1.1; proxy_set_header Connection '';
         server { listen 127.0.0.1:%%PORT_0%%;
            location /a { proxy_pass https://u; }
            location /same { proxy_pass https://u; }
            location /checked { proxy_pass https://u; proxy_ssl_verify on; proxy_ssl_name up.test;
                                proxy_ssl_trusted_certificate up.pem; }
            location /named { proxy_pass https://u; proxy_ssl_server_name on; proxy_ssl_name $arg_n; }
         }",
        &[upstream.port(0)],
        &[("up.pem", &std::fs::read_to_string(upstream.path("0.crt")).unwrap())],
    );
    let connection = |path: &str| said(&get(daemon.port(0), path), 4);
    let first = connection("/a");
    assert_eq!([connection("/a"), connection("/same")], [first.clone(), first.clone()]);
    let checked = connection("/checked");
    assert_ne!(checked, first, "its certificate was not checked");
    assert_eq!(connection("/checked"), checked);
    let named = connection("/named?n=x");
    assert!(named != first && named != checked);
    assert_eq!(connection("/named?n=x"), named);
    assert_ne!(connection("/named?n=y"), named);
    assert_eq!(connection("/a"), first);
}

#[test]
fn long_bodies_arrive_unchanged_in_both_directions() {
    let origin = Origin::replying(|request| {
        let mut answer =
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", request.body.len()).into_bytes();
        answer.extend_from_slice(&request.body);
        answer
    });
    let upstream = nginx(
        &[&self_signed("up.test")],
        &format!("location / {{ proxy_pass http://{}; proxy_http_version 1.1; }}", origin.address()),
    );
    let daemon = proxy(
        "client_max_body_size 0;
         location /stream { proxy_pass https://%%UP_0%%; proxy_request_buffering off; proxy_http_version 1.1; }
         location /file { proxy_pass https://%%UP_0%%; proxy_request_buffering on; }",
        &[upstream.port(0)],
        &[],
    );
    for path in ["/stream", "/file"] {
        for length in [1, 16 * 1024 + 1, 64 * 1024, 3 * 1024 * 1024] {
            let body: Vec<u8> = (0..length).map(|at: usize| (at * 31 / 7 % 251) as u8).collect();
            let mut client = Client::connect(daemon.port(0));
            client.send(format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"));
            client.send(&body);
            let response = client.response();
            assert_eq!(response.status, 200, "{path} {length}");
            assert!(response.body == body, "{path} {length}");
        }
        let (mut client, piece) = (Client::connect(daemon.port(0)), vec![b'x'; 0x10000]);
        client.send(format!("POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"));
        for _ in 0..8 {
            client.send("10000\r\n").send(&piece).send("\r\n");
        }
        client.send("0\r\n\r\n");
        assert_eq!(client.response().body.len(), 8 * 0x10000, "{path}");
    }
}

#[test]
fn a_tunnel_goes_through_tls() {
    let origin = Origin::start(|peer| {
        peer.request().unwrap();
        peer.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n");
        loop {
            let bytes = peer.some(16 * 1024);
            if bytes.is_empty() || peer.try_send(&bytes).is_err() {
                return;
            }
        }
    });
    let pass = "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;";
    let upstream = nginx(
        &[&self_signed("up.test")],
        &format!("location / {{ proxy_pass http://{}; {pass} }}", origin.address()),
    );
    let daemon =
        proxy(&format!("location / {{ proxy_pass https://%%UP_0%%; {pass} }}"), &[upstream.port(0)], &[]);
    let mut client = Client::connect(daemon.port(0));
    client.send("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n");
    assert_eq!(client.response_head().status, 101);
    for length in [1, 5, 1_000, 60_000] {
        let bytes: Vec<u8> = (0..length).map(|at: usize| at as u8).collect();
        client.send(&bytes);
        assert!(client.exactly(length) == bytes, "{length}");
    }
    client.half_close();
    client.expect_end();
}

#[test]
fn a_body_that_ends_with_the_connection_is_complete_without_a_farewell() {
    // The upstream's process is killed in the middle: no close_notify is sent, as nginx also accepts.
    let origin = Origin::start(|peer| {
        peer.request();
        peer.send("HTTP/1.0 200 OK\r\n\r\nall of it");
    });
    let upstream = nginx(
        &[&self_signed("up.test")],
        &format!("location / {{ proxy_pass http://{}; }}", origin.address()),
    );
    let daemon = proxy("location / { proxy_pass https://%%UP_0%%; }", &[upstream.port(0)], &[]);
    let response = fetch(daemon.port(0), "GET / HTTP/1.0\r\n\r\n");
    assert_eq!(text(&response), (200, "all of it".to_owned()));
}

#[test]
fn https_has_a_port_of_its_own() {
    let upstream = nginx(&[&self_signed("up.test")], "location / { return 200 \"$http_host\"; }");
    let daemon = proxy(
        "upstream u { server %%UP_0%%; }
         server { listen 127.0.0.1:%%PORT_0%%; add_header Seen $proxy_host,$proxy_port always;
            location /block { proxy_pass https://u; }
            location /port { proxy_pass https://%%UP_0%%; }
            location /default { proxy_pass https://127.0.0.7; proxy_connect_timeout 1s; }
            location /plain { proxy_pass http://127.0.0.7; proxy_connect_timeout 1s; }
            location /script { proxy_pass $arg_s://u; }
         }",
        &[upstream.port(0)],
        &[],
    );
    let seen = |path: &str| get(daemon.port(0), path).header("seen").unwrap().to_owned();
    assert_eq!(text(&get(daemon.port(0), "/block")), (200, "u".into()));
    assert_eq!(text(&get(daemon.port(0), "/script?s=https")), (200, "u".into()));
    assert_eq!(get(daemon.port(0), "/script?s=http").status, 400, "plain HTTP to that port");
    assert_eq!((seen("/block"), seen("/script?s=https")), ("u,443".into(), "u,443".into()));
    let port = upstream.port(0);
    assert_eq!(seen("/port"), format!("127.0.0.1:{port},{port}"));
    assert_eq!((seen("/default"), seen("/plain")), ("127.0.0.7,443".into(), "127.0.0.7,80".into()));
    daemon.wait_log("upstream: \"https://127.0.0.7:443/default\"");
    daemon.wait_log("upstream: \"http://127.0.0.7:80/plain\"");
}

#[test]
fn a_key_log_has_the_secrets_of_each_connection() {
    let upstream = nginx(&[&self_signed("up.test")], &format!("ssl_protocols TLSv1.2 TLSv1.3; {SAY}"));
    let daemon = proxy(
        "location /a { proxy_pass https://%%UP_0%%; proxy_ssl_key_log keys.log; proxy_ssl_protocols TLSv1.2; }
         location /b { proxy_pass https://%%UP_0%%; proxy_ssl_key_log keys.log; }",
        &[upstream.port(0)],
        &[],
    );
    assert_eq!((get(daemon.port(0), "/a").status, get(daemon.port(0), "/b").status), (200, 200));
    let keys = daemon.read("keys.log");
    for label in ["CLIENT_RANDOM ", "CLIENT_TRAFFIC_SECRET_0 ", "SERVER_HANDSHAKE_TRAFFIC_SECRET "] {
        assert!(keys.lines().any(|line| line.starts_with(label)), "{label}: {keys}");
    }
}

#[test]
fn openssl_s_server_sees_the_settings_and_its_tickets() {
    // OpenSSL's server tells what it has agreed to.
    let port = crate::support::port::free();
    let folder = tempfile::tempdir().unwrap();
    let pair = self_signed("up.test");
    std::fs::write(folder.path().join("pair.pem"), pair.certificate + &pair.key).unwrap();
    let mut server = Command::new("openssl")
        .args(["s_server", "-www", "-cert", "pair.pem", "-accept", &port.to_string()])
        .current_dir(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("a server that listens", || crate::support::process::is_listening(port).then_some(()));
    let daemon = proxy(
        "location /plain { proxy_pass https://%%UP_0%%/; proxy_ssl_session_reuse on; }
         location /old { proxy_pass https://%%UP_0%%/; proxy_ssl_session_reuse on; proxy_ssl_protocols TLSv1.2;
                         proxy_ssl_ciphers ECDHE-ECDSA-AES128-GCM-SHA256; }
         location /suite { proxy_pass https://%%UP_0%%/; proxy_ssl_conf_command Ciphersuites TLS_CHACHA20_POLY1305_SHA256; }",
        &[port],
        &[],
    );
    for (path, words) in [
        ("/plain", "New, TLSv1.3"),
        ("/plain", "Reused, TLSv1.3"),
        ("/old", "New, TLSv1.2, Cipher is ECDHE-ECDSA-AES128-GCM-SHA256"),
        ("/old", "Reused, TLSv1.2"),
        ("/suite", "Cipher is TLS_CHACHA20_POLY1305_SHA256"),
    ] {
        let response = get(daemon.port(0), path);
        assert!(response.status == 200 && response.text().contains(words), "{path}: {}", response.text());
    }
    server.kill().unwrap();
    server.wait().unwrap();
}
