//! Requests and bodies over TLS: keep-alive, pipelining, sizes, slow readers, Expect, tunnels, the PROXY protocol.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;

use super::servers::output;
use crate::support::tls::{Authority, TlsClient, client_config, connect_tcp, trusting};
use crate::support::{Daemon, Origin, Setup, process, wait_for};

const CONF: &str = r#"
worker_processes 1;
http {
    ssl_certificate site.pem;
    ssl_certificate_key site.key;
    access_log %%DIR%%/access.log;
    client_max_body_size 200m;
    server {
        listen 127.0.0.1:%%PORT_0%% ssl;
        listen 127.0.0.1:%%PORT_1%% ssl proxy_protocol;
        listen 127.0.0.1:%%PORT_2%% ssl sndbuf=16k;
        send_timeout %%SEND%%;
        server_name site.test;
        root %%DIR%%;
        location = /number { return 200 "$connection_requests"; }
        location = /proxied { return 200 "$proxy_protocol_addr $scheme"; }
        location / { }
        location /app/ {
            proxy_pass http://%%ORIGIN%%;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $http_connection;
            proxy_request_buffering off;
        }
    }
}
"#;

fn start(origin: &Origin) -> (Daemon, Arc<ClientConfig>, Authority) {
    start_with(origin, "60s")
}

fn start_with(origin: &Origin, send_timeout: &str) -> (Daemon, Arc<ClientConfig>, Authority) {
    let authority = Authority::new("test");
    let pair = authority.issue(&["site.test"]);
    let setup = Setup::new(CONF)
        .set("ORIGIN", origin.address())
        .set("SEND", send_timeout)
        .level("info")
        .file("ca.pem", authority.certificate());
    let daemon = setup.file("site.pem", pair.certificate).file("site.key", pair.key).start();
    (daemon, trusting(&authority), authority)
}

/// Bytes that do not repeat soon.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(length).collect()
}

#[test]
fn a_connection_serves_many_requests_also_pipelined() {
    let (daemon, config, _) = start(&Origin::saying("x"));
    let mut client = TlsClient::connect(daemon.port(0), &config, "site.test");
    for number in 1..=20 {
        assert_eq!(client.get("site.test", "/number").text(), number.to_string());
    }
    client.send("GET /number HTTP/1.1\r\nHost: site.test\r\n\r\n".repeat(50));
    for number in 21..=70 {
        assert_eq!(client.response().text(), number.to_string());
    }
}

#[test]
fn large_bodies_arrive_unchanged_in_both_directions() {
    const LENGTH: usize = 100 << 20;
    let (sender, received) = std::sync::mpsc::channel();
    let origin = Origin::start(move |peer| {
        let Some(request) = peer.request() else { return };
        let sum = checksum(&request.body);
        sender.send((request.body.len(), sum)).expect("the test waits");
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    let (daemon, _, _) = start(&origin);
    let data = noise(LENGTH);
    daemon.write("large", &data);
    let expected = (LENGTH, checksum(&data));
    drop(data);
    let (ca, port) = (daemon.path("ca.pem").display().to_string(), daemon.port(0));
    let resolve = format!("site.test:{port}:127.0.0.1");
    let file = daemon.path("large").display().to_string();
    let got = daemon.path("got").display().to_string();
    for version in ["1.2", "1.3"] {
        let words = ["-sS", "--fail", "--cacert", &ca, "--resolve", &resolve, "--tls-max", version];
        let url = format!("https://site.test:{port}/large");
        output("curl", &[&words[..], &["-o", &got, &url]].concat());
        let got = std::fs::read(&got).expect("curl has written it");
        assert_eq!((got.len(), checksum(&got)), expected, "down, TLS {version}");
        let url = format!("https://site.test:{port}/app/up");
        let answer = output("curl", &[&words[..], &["-T", &file, &url]].concat());
        assert_eq!(answer, "ok");
        assert_eq!(received.recv().expect("an upload"), expected, "up, TLS {version}");
    }
}

#[test]
fn proxied_bodies_arrive_unchanged_and_a_cut_one_does_not_look_complete() {
    const LENGTH: usize = 5_000_000;
    let origin = Origin::start(|peer| {
        while let Some(request) = peer.request() {
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n"));
            let is_cut = request.target == "/app/cut";
            peer.send(&noise(LENGTH)[..if is_cut { LENGTH / 2 } else { LENGTH }]);
            if is_cut {
                return;
            }
        }
    });
    let (daemon, config, _) = start(&origin);
    let mut client = TlsClient::connect(daemon.port(0), &config, "site.test");
    for _ in 0..3 {
        let answer = client.get("site.test", "/app/whole");
        assert_eq!((answer.body.len(), checksum(&answer.body)), (LENGTH, checksum(&noise(LENGTH))));
    }
    client.send("GET /app/cut HTTP/1.1\r\nHost: site.test\r\n\r\n");
    client.response_head();
    assert!(client.rest() == noise(LENGTH)[..LENGTH / 2]);
    daemon.wait_log("upstream prematurely closed connection");
}

/// FNV-1a over words.
fn checksum(data: &[u8]) -> u64 {
    data.chunks(8).fold(0xcbf2_9ce4_8422_2325, |sum, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        (sum ^ u64::from_le_bytes(word)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[test]
fn readers_that_stop_cost_a_bounded_amount_of_memory() {
    let (daemon, config, _) = start(&Origin::saying("x"));
    daemon.write("large", noise(64 << 20));
    let mut clients: Vec<TlsClient> =
        (0..20).map(|_| TlsClient::connect(daemon.port(0), &config, "site.test")).collect();
    let before = process::private_kib(daemon.worker());
    for client in &mut clients {
        client.send("GET /large HTTP/1.1\r\nHost: site.test\r\nConnection: close\r\n\r\n");
        client.response_head();
    }
    wait_for_rest(&daemon); // then it has filled all buffers
    let grown = process::private_kib(daemon.worker()).saturating_sub(before);
    assert!(grown < 20 * 512, "{grown} KiB for 20 clients");
    // The end is not cut off for who reads late.
    let mut client = clients.pop().expect("there are 20");
    assert_eq!(client.exactly(64 << 20).len(), 64 << 20);
    assert!(client.rest().is_empty());
}

/// Connects with a small receive buffer, and asks for a file without reading the answer.
fn lazy(daemon: &Daemon, config: &Arc<ClientConfig>, path: &str) -> TlsClient {
    lazy_request(
        daemon,
        config,
        &format!("GET {path} HTTP/1.1\r\nHost: site.test\r\nConnection: close\r\n\r\n"),
    )
}

fn lazy_request(daemon: &Daemon, config: &Arc<ClientConfig>, request: &str) -> TlsClient {
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrIn, connect, setsockopt, socket, sockopt::RcvBuf,
    };
    use std::os::fd::AsRawFd;
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    setsockopt(&fd, RcvBuf, &8192).expect("an option");
    connect(fd.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, daemon.port(2))).expect("the daemon listens");
    let mut client = TlsClient::try_over(fd.into(), config, "site.test").expect("a handshake");
    client.send(request);
    client
}

fn wait_for_rest(daemon: &Daemon) {
    wait_for("the worker to rest", || {
        let before = process::cpu_ticks(daemon.worker());
        std::thread::sleep(Duration::from_millis(200));
        (process::cpu_ticks(daemon.worker()) == before).then_some(())
    });
}

#[test]
fn the_end_is_not_cut_off_for_a_client_that_reads_late() {
    let (daemon, config, _) = start(&Origin::saying("x"));
    // Some of these ends wait in the connection's buffer, behind full sockets.
    let mut clients: Vec<(usize, TlsClient)> = (1..40)
        .map(|index| {
            let length = index * 7000;
            daemon.write(&format!("file{index}"), noise(length));
            (length, lazy(&daemon, &config, &format!("/file{index}")))
        })
        .collect();
    wait_for_rest(&daemon);
    for (length, client) in &mut clients {
        let response = client.response();
        assert_eq!(response.body.len(), *length);
        assert!(client.rest().is_empty());
    }
}

#[test]
fn a_client_that_does_not_read_the_end_is_dropped_in_time() {
    let (daemon, config, _) = start_with(&Origin::saying("x"), "500ms");
    let clients: Vec<TlsClient> = (1..40)
        .map(|index| {
            daemon.write(&format!("file{index}"), noise(index * 7000));
            lazy(&daemon, &config, &format!("/file{index}"))
        })
        .collect();
    wait_for("every connection to end", || {
        let lines = daemon.read("access.log").lines().count();
        (lines == clients.len()).then_some(())
    });
    daemon.wait_log("client timed out");
}

#[test]
fn a_client_that_waits_for_100_continue_gets_it() {
    let origin = Origin::replying(|request| crate::support::origin::ok(&request.body));
    let (daemon, config, _) = start(&origin);
    let mut client = TlsClient::connect(daemon.port(0), &config, "site.test");
    client
        .send("POST /app/ HTTP/1.1\r\nHost: site.test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.response_head().status, 100);
    client.send("body");
    assert_eq!(client.response().text(), "body");
}

#[test]
fn tunnels_carry_bytes_both_ways_until_both_ends_close() {
    let origin = Origin::start(|peer| {
        if peer.head().is_none() {
            return;
        }
        peer.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nhello ");
        loop {
            let some = peer.some(65_536);
            if some.is_empty() {
                break;
            }
            peer.send(&some);
        }
    });
    let (daemon, config, _) = start(&origin);
    let mut client = TlsClient::connect(daemon.port(0), &config, "site.test");
    // Bytes behind the head come along.
    client
        .send("GET /app/ HTTP/1.1\r\nHost: site.test\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nearly ");
    assert_eq!(client.response_head().status, 101);
    assert_eq!(client.exactly(12), b"hello early ");
    let data = noise(3 << 20);
    let mut got = Vec::new();
    for part in data.chunks(100_000) {
        client.send(part);
        got.extend(client.exactly(part.len()));
    }
    assert!(got == data);
    client.tls.send_close_notify();
    let _ = client.tls.complete_io(&mut client.socket);
    assert!(client.rest().is_empty());
}

#[test]
fn the_end_of_a_tunnel_is_not_cut_off() {
    let length =
        |target: &str| target.rsplit('/').next().and_then(|text| text.parse::<usize>().ok()).unwrap_or(0);
    let origin = Origin::start(move |peer| {
        let Some(request) = peer.head() else { return };
        peer.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
        peer.send(noise(length(&request.target)));
    });
    let (daemon, config, _) = start(&origin);
    let mut clients: Vec<(usize, TlsClient)> = (1..40)
        .map(|index| {
            let length = index * 7000;
            let upgrade = format!(
                "/app/{length} HTTP/1.1\r\nUpgrade: echo\r\nHost: site.test\r\nConnection: upgrade\r\n\r\n"
            );
            let mut client = lazy_request(&daemon, &config, &format!("GET {upgrade}"));
            client.tls.send_close_notify();
            client.tls.write_tls(&mut client.socket).expect("a socket");
            (length, client)
        })
        .collect();
    wait_for_rest(&daemon);
    for (length, client) in &mut clients {
        assert_eq!(client.response_head().status, 101);
        assert_eq!(client.rest().len(), *length);
    }
}

#[test]
fn the_proxy_header_comes_before_tls() {
    let (daemon, config, _) = start(&Origin::saying("x"));
    let mut socket = connect_tcp(daemon.port(1));
    socket.write_all(b"PROXY TCP4 192.0.2.7 192.0.2.8 1234 443\r\n").expect("a socket");
    let mut client = TlsClient::try_over(socket, &config, "site.test").expect("a handshake");
    assert_eq!(client.get("site.test", "/proxied").text(), "192.0.2.7 https");
    assert!(TlsClient::try_connect(daemon.port(1), &config, "site.test").is_err(), "without it");
}

#[test]
fn a_client_that_has_closed_its_side_gets_its_answer() {
    let origin = Origin::saying("late");
    let (daemon, _, authority) = start(&origin);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = client_config(&authority, None, &[version]);
        let mut client = TlsClient::connect(daemon.port(0), &config, "site.test");
        client.send("GET /app/ HTTP/1.1\r\nHost: site.test\r\nConnection: close\r\n\r\n");
        client.tls.send_close_notify();
        let _ = client.tls.write_tls(&mut client.socket);
        let response = client.response();
        assert_eq!(response.text(), "late");
    }
}

#[test]
fn a_reload_loses_no_request() {
    let (go, origin) = Origin::in_two_parts();
    let (daemon, config, _) = start(&origin);
    let mut idle = TlsClient::connect(daemon.port(0), &config, "site.test");
    assert_eq!(idle.get("site.test", "/number").text(), "1");
    let mut busy = TlsClient::connect(daemon.port(0), &config, "site.test");
    busy.send("GET /app/ HTTP/1.1\r\nHost: site.test\r\n\r\n");
    let response = busy.response_head();
    let old = daemon.worker();
    daemon.signal(nix::sys::signal::Signal::SIGHUP);
    go.send(()).expect("the origin waits");
    assert_eq!(busy.exactly(response.length().expect("a length")), b"first-last");
    wait_for("the old worker to end", || (!process::is_alive(old)).then_some(()));
    // The idle connection has moved, or its end was announced.
    let _ = idle.try_send(b"GET /number HTTP/1.1\r\nHost: site.test\r\n\r\n");
    let answer = idle.some().expect("no broken record");
    assert!(answer.is_empty() || answer.ends_with(b"\r\n\r\n2"), "{}", String::from_utf8_lossy(&answer));
    let mut next = TlsClient::connect(daemon.port(0), &config, "site.test");
    assert_eq!(next.get("site.test", "/number").text(), "1");
}

#[test]
fn a_peer_with_openssl_sees_the_end_announced() {
    let (daemon, _, _) = start(&Origin::saying("x"));
    let address = format!("127.0.0.1:{}", daemon.port(0));
    let mut child = Command::new("openssl")
        .args(["s_client", "-connect", &address, "-servername", "site.test", "-quiet"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl is installed");
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(b"GET /number HTTP/1.1\r\nHost: site.test\r\nConnection: close\r\n\r\n").expect("a pipe");
    let mut text = String::new();
    child.stdout.take().expect("a pipe").read_to_string(&mut text).expect("text");
    let mut errors = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut errors).expect("text");
    drop(input);
    child.wait().expect("it ends");
    assert!(text.ends_with("\r\n\r\n1"), "{text}");
    assert!(!errors.contains("unexpected eof"), "{errors}");
}
