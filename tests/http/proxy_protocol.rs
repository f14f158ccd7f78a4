//! `listen … proxy_protocol`: the header before the first request, its variables, and which senders are
//! trusted (`realip`).
//!
//! A scripted client speaks both versions of the header, whole and in pieces.

use crate::support::daemon::is_stand_in;
use crate::support::{Client, Daemon, Setup, fetch};

const CONF: &str = r#"
http {
    log_format pp "$remote_addr|$realip_remote_addr";
    server {
        listen 127.0.0.1:%%PORT_0%% proxy_protocol;
        client_header_timeout 1s;
        set_real_ip_from 127.0.0.0/8;
        real_ip_header proxy_protocol;
        location / {
            return 200 "$proxy_protocol_addr|$proxy_protocol_port|$proxy_protocol_server_addr|$proxy_protocol_server_port|$remote_addr|$remote_port|$realip_remote_addr|$pipe";
        }
        location /tlv { return 200 "$proxy_protocol_tlv_alpn|$proxy_protocol_tlv_0x01|$proxy_protocol_tlv_ssl_verify|$proxy_protocol_tlv_ssl_cn|$proxy_protocol_tlv_netns"; }
    }
    server {
        listen 127.0.0.1:%%PORT_1%%;
        set_real_ip_from 127.0.0.1;
        set_real_ip_from 10.0.0.0/8;
        location / { return 200 "$remote_addr|$remote_port|$realip_remote_addr"; }
        add_header X-Client $remote_addr always;
        location /recursive { real_ip_header X-Forwarded-For; real_ip_recursive on;  }
        location /last { real_ip_header X-Forwarded-For;  }
        location /untrusted { set_real_ip_from 192.0.2.0/24;  }
        location /unix { set_real_ip_from unix:;  }
        location /name { set_real_ip_from localhost;  }
    }
}
"#;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

fn start() -> Daemon {
    Setup::new(CONF).level("info").start()
}

fn version_2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length, rest].concat()
}

#[test]
fn both_versions_tell_the_addresses() {
    let daemon = start();
    let v4 = [192, 0, 2, 1, 192, 0, 2, 2, 0, 123, 22, 46];
    let told = "192.0.2.1|123|192.0.2.2|5678|192.0.2.1|123|127.0.0.1|.";
    for header in [b"PROXY TCP4 192.0.2.1 192.0.2.2 123 5678\r\n".to_vec(), version_2(0x21, 0x11, &v4)] {
        let mut client = Client::connect(daemon.port(0));
        client.send([&header[..], GET.as_bytes()].concat());
        assert_eq!(client.response().text(), told);
    }
    let mut client = Client::connect(daemon.port(0));
    client.send(format!("PROXY TCP6 2001:DB8::1 ::2 123 5678\r\n{GET}"));
    assert_eq!(client.response().text(), "2001:db8::1|123|::2|5678|2001:db8::1|123|127.0.0.1|.");
}

#[test]
fn a_header_that_speaks_of_nobody_leaves_the_socket_s_addresses() {
    let daemon = start();
    for header in [b"PROXY UNKNOWN\r\n".to_vec(), version_2(0x20, 0, b""), version_2(0x21, 0, &[7; 9])] {
        let mut client = Client::connect(daemon.port(0));
        client.send([&header[..], GET.as_bytes()].concat());
        let text = client.response().text();
        assert!(text.starts_with("||||127.0.0.1|"), "{text}");
    }
}

#[test]
fn it_holds_for_the_whole_connection_and_may_come_in_pieces() {
    let daemon = start();
    let mut client = Client::connect(daemon.port(0));
    for piece in ["PRO", "XY TCP4 192.0.2.1 192.0.2", ".2 123 5678\r", "\nGET / HT"] {
        client.send(piece);
    }
    client.send("TP/1.1\r\nHost: a\r\n\r\n");
    assert!(client.response().text().starts_with("192.0.2.1|123|"));
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(client.response().text().starts_with("192.0.2.1|123|"));
}

#[test]
fn it_moves_with_an_idle_connection_to_the_next_generation() {
    if is_stand_in() {
        return; // nginx closes idle connections
    }
    let daemon = start();
    let mut client = Client::connect(daemon.port(0));
    client.send("PROXY TCP4 192.0.2.1 192.0.2.2 123 5678\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let first = client.response().text();
    daemon.reload();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().text(), first);
}

#[test]
fn tlvs_are_variables() {
    if is_stand_in() {
        return; // nginx 1.22 has none
    }
    let daemon = start();
    let ssl = [&[0x20, 0, 12, 1, 0, 0, 0, 5, 0x22, 0, 4][..], b"a.bc"].concat();
    let tlvs = [&[192, 0, 2, 1, 192, 0, 2, 2, 0, 123, 22, 46, 1, 0, 2][..], b"h2", &ssl].concat();
    let mut client = Client::connect(daemon.port(0));
    client.send(version_2(0x21, 0x11, &tlvs));
    client.send("GET /tlv HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().text(), "h2|h2|5|a.bc|");
}

#[test]
fn a_wrong_header_ends_the_connection() {
    let daemon = start();
    let none: [&[u8]; 4] = [
        GET.as_bytes(),
        b"PROXY TCP4 192.0.2.1\r\n",
        b"PROXY TCP4 ::1 ::1 1 2\r\n",
        &version_2(0x31, 0x11, &[0; 12]),
    ];
    for bytes in none {
        let mut client = Client::connect(daemon.port(0));
        client.send(bytes);
        client.expect_end();
    }
    daemon.wait_log("broken header: \"GET / HTTP/1.1\" while reading PROXY protocol, client: 127.0.0.1, server: 127.0.0.1:");
    daemon.wait_log("unknown PROXY protocol version: 3 while reading PROXY protocol");
}

#[test]
fn who_does_not_send_it_is_not_waited_for() {
    let daemon = start();
    let mut client = Client::connect(daemon.port(0));
    client.send("PROXY TCP4 ");
    if is_stand_in() {
        return; // nginx accepts only a header that comes in one piece
    }
    client.expect_end();
    daemon.wait_log(r"client timed out \(110: Connection timed out\) while reading PROXY protocol");
}

#[test]
fn only_trusted_peers_name_the_client() {
    let daemon = start();
    let text = |path: &str, field: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{field}\r\n\r\n");
        let response = fetch(daemon.port(1), &request);
        // `return` answers before the location's own settings are applied, as in nginx.
        if path == "/" { response.text() } else { response.header("X-Client").unwrap_or_default().to_owned() }
    };
    assert_eq!(text("/", "X-Real-IP: 192.0.2.1"), "192.0.2.1||127.0.0.1");
    assert_eq!(text("/", "X-Real-IP: 192.0.2.1:77"), "192.0.2.1|77|127.0.0.1");
    assert!(text("/", "X-Real-IP: nobody").starts_with("127.0.0.1|"));
    assert_eq!(text("/last", "X-Forwarded-For: 192.0.2.1, 10.0.0.1"), "10.0.0.1");
    assert_eq!(text("/recursive", "X-Forwarded-For: 198.51.100.1, 192.0.2.1, 10.0.0.1"), "192.0.2.1");
    assert_eq!(text("/recursive", "X-Forwarded-For: 10.0.0.2\r\nX-Forwarded-For: 10.0.0.1"), "10.0.0.2");
    assert_eq!(text("/recursive", "X-Forwarded-For: 192.0.2.1, nobody, 10.0.0.1"), "10.0.0.1");
    assert_eq!(text("/name", "X-Real-IP: 2001:db8::1"), "2001:db8::1");
    assert_eq!(text("/untrusted", "A: b"), "127.0.0.1");
    assert_eq!(text("/unix", "A: b"), "127.0.0.1");
}

#[test]
fn a_connection_s_next_request_is_judged_anew() {
    let daemon = start();
    let mut client = Client::connect(daemon.port(1));
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Real-IP: 192.0.2.1\r\n\r\n");
    assert_eq!(client.response().text(), "192.0.2.1||127.0.0.1");
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(client.response().text().starts_with("127.0.0.1|"));
}

#[test]
fn a_reload_that_asks_for_it_asks_new_connections_only() {
    if is_stand_in() {
        return; // nginx closes idle connections
    }
    let daemon = start();
    let mut old = Client::connect(daemon.port(1));
    assert_eq!(old.get("/").status, 200);
    let listen = format!("listen 127.0.0.1:{}", daemon.port(1));
    daemon.rewrite(|text| text.replace(&format!("{listen};"), &format!("{listen} proxy_protocol;")));
    daemon.reload();
    assert_eq!(old.get("/").status, 200);
    let mut new = Client::connect(daemon.port(1));
    new.send(GET);
    new.expect_end();
    let mut new = Client::connect(daemon.port(1));
    new.send(format!("PROXY TCP4 192.0.2.1 192.0.2.2 123 5678\r\n{GET}"));
    assert_eq!(new.response().status, 200);
}
