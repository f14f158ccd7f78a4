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
            proxy_read_timeout 2s;
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
    Setup::new(CONF).set("ORIGIN", origin.address()).level("info").start()
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
    let daemon = start(&origin);
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
    let daemon = Setup::new(conf).set("ORIGIN", origin.address()).level("info").start();
    let mut client = Client::connect(daemon.port(0));
    client.send(
        "GET /ch%61t?a=1&b=2 HTTP/1.1\r\nHost: B\r\nX: value\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n",
    );
    let id = client.response_head().header("x-id").map(str::to_owned);
    client.send("some bytes");
    drop(client);
    let line = daemon.wait_line("logs/all.log", "chat");
    let id = id.unwrap_or_else(|| line.rsplit('|').next().unwrap_or_default().to_owned());
    let expected = format!(
        "GET /ch%61t?a=1&b=2 HTTP/1.1|/chat|a=1&b=2|b|value|2|v|2-ch|101|echo|from the origin|101|{}|PASSED|1|{id}",
        origin.address()
    );
    assert_eq!(line.trim_end(), expected);
}
