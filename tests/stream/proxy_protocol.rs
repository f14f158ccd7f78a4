//! The PROXY protocol of a stream, in both directions, and the client that it names (`set_real_ip_from`).

use crate::support::{Client, Daemon, Origin, Setup};

const SHOWS: &str = r#"
stream {
    log_format status $status;
    access_log %%DIR%%/status.log status;
    server {
        listen 127.0.0.1:%%PORT_0%% proxy_protocol;
        set_real_ip_from 127.0.0.0/8;
        return "$remote_addr:$remote_port $realip_remote_addr $proxy_protocol_addr:$proxy_protocol_port $proxy_protocol_server_addr:$proxy_protocol_server_port $proxy_protocol_tlv_authority";
    }
    server {
        listen 127.0.0.1:%%PORT_1%% proxy_protocol;
        return "$remote_addr $proxy_protocol_addr";
    }
}
"#;

fn said(port: u16, header: &[u8]) -> String {
    let mut client = Client::connect(port);
    client.send(header);
    String::from_utf8(client.rest().0).expect("text")
}

#[test]
fn a_trusted_header_names_the_client() {
    let daemon = Daemon::start(SHOWS);
    let line = b"PROXY TCP4 192.0.2.1 192.0.2.2 123 5678\r\n";
    assert_eq!(said(daemon.port(0), line), "192.0.2.1:123 127.0.0.1 192.0.2.1:123 192.0.2.2:5678 ");
    assert_eq!(said(daemon.port(1), line), "127.0.0.1 192.0.2.1", "nobody is trusted");
    let mut binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x14".to_vec();
    binary.extend([192, 0, 2, 7, 192, 0, 2, 8, 0, 9, 0, 10]);
    binary.extend(b"\x02\0\x05a.org");
    assert_eq!(said(daemon.port(0), &binary), "192.0.2.7:9 127.0.0.1 192.0.2.7:9 192.0.2.8:10 a.org");
}

#[test]
fn no_header_is_no_client() {
    let daemon = Daemon::start(SHOWS);
    for broken in [&b"GET / HTTP/1.1\r\n"[..], b"PROXY TCP4 a b 1 2\r\n", b"PROXY INVALID"] {
        let mut client = Client::connect(daemon.port(0));
        client.send(broken);
        client.expect_end();
    }
    daemon.wait_line("status.log", "^400");
    daemon.wait_log("broken header: \"PROXY INVALID\" while reading PROXY protocol");
}

#[test]
fn upstreams_get_the_header_before_anything_else() {
    for (more, expected) in [
        ("proxy_protocol on;", true),
        ("proxy_protocol on; proxy_protocol_version 2;", false),
        ("proxy_protocol v2;", false),
        ("proxy_protocol v2; proxy_protocol_version 1;", false),
    ] {
        let origin = Origin::start(move |peer| {
            if expected {
                let line = peer.line();
                let text = String::from_utf8(line).expect("a line");
                assert!(text.starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 "), "{text}");
            } else {
                let head = peer.exactly(28);
                assert_eq!(head[..16], *b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c");
                assert_eq!(head[16..24], [127, 0, 0, 1, 127, 0, 0, 1]);
            }
            assert_eq!(peer.exactly(5), b"hello");
            peer.send("done");
        });
        let conf = "stream { server { listen 127.0.0.1:%%PORT_0%%; proxy_pass %%ORIGIN%%; %%MORE%% } }";
        let daemon = Setup::new(conf).set("ORIGIN", origin.address()).set("MORE", more).start();
        let mut client = Client::connect(daemon.port(0));
        client.send("hello");
        assert_eq!(client.rest().0, b"done", "{more}");
    }
}

#[test]
fn what_we_send_we_understand() {
    let conf = r#"
        stream {
            server { listen 127.0.0.1:%%PORT_0%%; proxy_pass 127.0.0.1:%%PORT_1%%; proxy_protocol on; }
            server { listen 127.0.0.1:%%PORT_1%% proxy_protocol; set_real_ip_from 127.0.0.1; proxy_pass 127.0.0.1:%%PORT_2%%;
                     proxy_protocol on; proxy_protocol_version 2; }
            server { listen 127.0.0.1:%%PORT_2%% proxy_protocol; return $proxy_protocol_port:$proxy_protocol_server_port; }
        }"#;
    let daemon = Daemon::start(conf);
    let mut client = Client::connect(daemon.port(0));
    let own = client.stream().local_addr().expect("connected").port();
    let told = String::from_utf8(client.rest().0).expect("text");
    assert_eq!(told, format!("{own}:{}", daemon.port(1)));
}
