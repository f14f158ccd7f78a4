//! Upgrade: after a 101 the connection is a tunnel in both directions, and the end of one side is passed to
//! the other.

use std::time::Duration;

use crate::support::wire::End;
use crate::support::{Client, Daemon, Origin, Setup, process, wait_for};

const CONF: &str = r#"
http {
    log_format connection '$status $sent_http_connection';
    access_log %%DIR%%/logs/connection.log connection;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / {
            proxy_pass http://%%ORIGIN%%;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
            proxy_read_timeout %%IDLE%%;
        }
    }
}
"#;

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n";

fn echo() -> Origin {
    Origin::start(|peer| {
        let Some(request) = peer.request() else { return };
        assert_eq!(request.header("upgrade"), Some("echo"));
        peer.send(SWITCH);
        loop {
            let bytes = peer.some(16 * 1024);
            if bytes.is_empty() || peer.try_send(&bytes).is_err() {
                return;
            }
        }
    })
}

fn start(origin: &Origin) -> Daemon {
    start_with(origin, "1m")
}

/// With this time for a tunnel without traffic.
fn start_with(origin: &Origin, idle: &str) -> Daemon {
    Setup::new(CONF).set("ORIGIN", origin.address()).set("IDLE", idle).level("info").start()
}

fn upgraded(daemon: &Daemon) -> Client {
    let mut client = Client::connect(daemon.port(0));
    client.send(ASK);
    let response = client.response_head();
    assert_eq!((response.status, response.header("upgrade")), (101, Some("echo")));
    client
}

#[test]
fn bytes_go_both_ways() {
    let origin = echo();
    let daemon = start(&origin);
    let mut client = upgraded(&daemon);
    for length in [1, 5, 1_000, 60_000] {
        let bytes: Vec<u8> = (0..length).map(|index| (index * 7) as u8).collect();
        client.send(&bytes);
        assert!(client.exactly(length) == bytes, "{length} bytes came back changed");
    }
}

#[test]
fn bytes_behind_the_heads_are_not_lost() {
    let origin = Origin::start(|peer| {
        peer.request();
        peer.send(format!("{SWITCH}early"));
        let heard = peer.exactly(5);
        peer.send(heard);
    });
    let daemon = start(&origin);
    let mut client = Client::connect(daemon.port(0));
    client.send(format!("{ASK}hello"));
    assert_eq!(client.response_head().status, 101);
    assert_eq!(client.exactly(10), b"earlyhello");
}

#[test]
fn the_end_of_one_side_ends_the_other() {
    let origin = echo();
    let daemon = start(&origin);
    let client = upgraded(&daemon);
    drop(client);
    origin.wait_ended(1);

    let origin = Origin::start(|peer| {
        peer.request();
        peer.send(format!("{SWITCH}bye"));
    });
    let daemon = start(&origin);
    let mut client = upgraded(&daemon);
    assert_eq!(client.exactly(3), b"bye");
    assert_eq!(client.expect_end(), End::Closed);
}

#[test]
fn an_idle_tunnel_ends_after_its_timeout() {
    let origin = echo();
    let daemon = start_with(&origin, "2s");
    let mut client = upgraded(&daemon);
    assert!(client.is_silent(Duration::from_millis(500)), "not before");
    client.expect_end();
    origin.wait_ended(1);
}

#[test]
fn a_refused_upgrade_is_an_ordinary_answer() {
    let origin =
        Origin::replying(|_| b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno".to_vec());
    let daemon = start(&origin);
    let mut client = Client::connect(daemon.port(0));
    client.send(ASK);
    let response = client.response();
    assert_eq!((response.status, response.text().as_str()), (426, "no"));
}

#[test]
fn many_tunnels_leave_no_descriptor_behind() {
    let origin = echo();
    let daemon = start(&origin);
    drop(upgraded(&daemon));
    origin.wait_ended(1);
    let worker = daemon.worker();
    let mut before = 0;
    wait_for("the descriptors to settle", || {
        let now = process::fd_count(worker);
        std::mem::replace(&mut before, now).eq(&now).then_some(())
    });
    let clients: Vec<Client> = (0..100).map(|_| upgraded(&daemon)).collect();
    assert!(process::fd_count(worker) >= before + 200);
    drop(clients);
    wait_for("the descriptors of 100 tunnels", || (process::fd_count(worker) <= before).then_some(()));
}

#[test]
fn the_log_tells_that_the_connection_was_upgraded() {
    let origin = echo();
    let daemon = start(&origin);
    let client = upgraded(&daemon);
    drop(client);
    assert_eq!(daemon.wait_line("logs/connection.log", "101"), "101 upgrade");
}

#[test]
fn its_line_in_the_log_knows_all_of_the_request() {
    let conf = r#"
    http {
        map $http_x $mapped { ~^(?<part>.) $part; }
        limit_conn_zone $server_port zone=z:1m;
        log_format all '$request|$uri|$args|$host|$http_x|$arg_b|$mapped|$kept|$status|$sent_http_upgrade'
            '|$upstream_http_y|$upstream_status|$upstream_addr|$limit_conn_status|$connection_requests|$request_id';
        access_log %%DIR%%/logs/all.log all;
        server {
            listen 127.0.0.1:%%PORT_0%%;
            server_name a b;
            location ~ ^/(ch)at {
                set $kept "$arg_b-$1";
                limit_conn z 100;
                add_header X-Id $request_id;
                proxy_pass http://%%ORIGIN%%;
                proxy_set_header Upgrade $http_upgrade;
                proxy_set_header Connection "upgrade";
            }
        }
    }"#;
    let origin = Origin::start(|peer| {
        peer.request();
        peer.send(SWITCH.replace("\r\n\r\n", "\r\nY: from the origin\r\n\r\n"));
        peer.rest();
    });
    for is_moved in [false, true] {
        let daemon = Setup::new(conf).set("ORIGIN", origin.address()).level("info").start();
        let mut client = Client::connect(daemon.port(0));
        client.send(
        "GET /ch%61t?a=1&b=2 HTTP/1.1\r\nHost: B\r\nX: value\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n",
    );
        let id = client.response_head().header("x-id").map(str::to_owned);
        client.send("some bytes");
        if is_moved {
            daemon.reload();
        }
        drop(client);
        let line = daemon.wait_line("logs/all.log", "chat");
        let id = id.unwrap_or_else(|| line.rsplit('|').next().unwrap_or_default().to_owned());
        let expected = format!(
            "GET /ch%61t?a=1&b=2 HTTP/1.1|/chat|a=1&b=2|b|value|2|v|2-ch|101|echo|from the origin|101|{}|PASSED|1|{id}",
            origin.address()
        );
        assert_eq!(line.trim_end(), expected);
    }
}

#[test]
fn tunnels_move_to_the_new_workers() {
    let origin = echo();
    let daemon = start(&origin);
    daemon.rewrite(|text| text.replace("proxy_read_timeout 2s", "proxy_read_timeout 1h"));
    daemon.reload();
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(upgraded(&daemon));
        daemon.reload();
        for client in &mut clients {
            client.send("ping");
            assert_eq!(client.exactly(4), b"ping");
        }
    }
    assert_eq!(origin.accepted(), 3);
    drop(clients);
    origin.wait_ended(3);
}

/// A message that the client does not read waits in buffers, pipes and sockets.
#[test]
fn bytes_on_their_way_move_too() {
    const LENGTH: usize = 16 * 1024 * 1024;
    let bytes: Vec<u8> = (0..LENGTH).map(|index| (index * 31 % 251) as u8).collect();
    let sent = bytes.clone();
    let origin = Origin::start(move |peer| {
        peer.request();
        peer.send(SWITCH);
        peer.send(&sent);
    });
    let daemon = start(&origin);
    let mut client = upgraded(&daemon);
    assert!(client.exactly(1000) == bytes[..1000]);
    daemon.reload();
    daemon.reload();
    assert!(client.exactly(LENGTH - 1000) == bytes[1000..], "the bytes were changed");
    client.expect_end();
}

#[test]
fn limits_count_tunnels_until_their_end() {
    let origin = echo();
    let conf = r#"
    worker_processes 2;
    http {
        limit_conn_zone $server_port zone=z:1m;
        upstream app { zone app 64k; server %%ORIGIN%% max_conns=1; }
        server {
            listen 127.0.0.1:%%PORT_0%%;
            proxy_pass_header X;
            location /limited { limit_conn z 1; limit_conn_status 429; root %%DIR%%; }
            location / {
                limit_conn z 10;
                proxy_pass http://app;
                proxy_set_header Upgrade $http_upgrade;
                proxy_set_header Connection "upgrade";
            }
        }
    }"#;
    let daemon = Setup::new(conf).set("ORIGIN", origin.address()).level("info").start();
    let mut client = upgraded(&daemon);
    for is_moved in [false, true] {
        if is_moved {
            daemon.reload();
        }
        // Once it is answered a worker has it.
        client.send("ping");
        assert_eq!(client.exactly(4), b"ping");
        let ask = |path: &str| crate::support::get(daemon.port(0), path).status;
        assert_eq!((ask("/other"), ask("/limited")), (502, 429), "after a reload: {is_moved}");
    }
    drop(client);
    origin.wait_ended(1);
    wait_for("its places", || (crate::support::get(daemon.port(0), "/limited").status == 404).then_some(()));
    drop(upgraded(&daemon));
}

#[test]
fn an_encrypted_tunnel_moves_with_its_keys() {
    use crate::support::tls::{Authority, TlsClient, trusting};
    let origin = echo();
    let conf = r#"
    http {
        log_format all '$status $ssl_protocol $ssl_server_name $uri $bytes_sent';
        server {
            listen 127.0.0.1:%%PORT_0%% ssl;
            access_log %%DIR%%/logs/all.log all;
            ssl_certificate a.crt; ssl_certificate_key a.key;
            location /chat {
                proxy_pass http://%%ORIGIN%%;
                proxy_set_header Upgrade $http_upgrade;
                proxy_set_header Connection "upgrade";
            }
        }
    }"#;
    let authority = Authority::new("ca");
    let pair = authority.issue(&["a.test"]);
    let setup = Setup::new(conf).set("ORIGIN", origin.address());
    let daemon = setup.file("a.crt", &pair.certificate).file("a.key", &pair.key).start();
    let mut client = TlsClient::connect(daemon.port(0), &trusting(&authority), "a.test");
    client.send(ASK);
    let response = client.response_head();
    assert_eq!(response.status, 101);
    for text in ["one", "two", "three"] {
        client.send(text);
        assert_eq!(client.exactly(text.len()), text.as_bytes());
        daemon.reload();
    }
    drop(client);
    let line = daemon.wait_line("logs/all.log", "101");
    assert!(line.starts_with("101 TLSv1.3 a.test /chat "), "{line}");
}
