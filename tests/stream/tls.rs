//! TLS in streams: terminated (`listen … ssl`), made towards upstreams (`proxy_ssl`), and passed through by the name that a
//! client asks for (`ssl_preread`). The clients are rustls' and OpenSSL's.

use std::process::{Command, Stdio};

use crate::support::tls::{Authority, TlsClient, client_config, trusting};
use crate::support::{Client, Daemon, Origin, Setup};

/// Certificates for these names, as files `NAME.crt` and `NAME.key`.
fn with_pairs(mut setup: Setup, authority: &Authority, names: &[&str]) -> Setup {
    for name in names {
        let pair = authority.issue(&[name]);
        setup = setup.file(&format!("{name}.crt"), &pair.certificate).file(&format!("{name}.key"), &pair.key);
    }
    setup.file("ca.crt", authority.certificate())
}

/// All that the daemon says over TLS.
fn said(client: &mut TlsClient) -> String {
    let mut all = Vec::new();
    while let Ok(bytes) = client.some() {
        if bytes.is_empty() {
            break;
        }
        all.extend(bytes);
    }
    String::from_utf8(all).expect("text")
}

#[test]
fn tls_is_terminated_in_front_of_plain_tcp() {
    const LENGTH: usize = 3_000_000;
    let bytes: Vec<u8> = (0..LENGTH).map(|index| (index * 7 % 253) as u8).collect();
    let sent = bytes.clone();
    let origin = Origin::start(move |peer| {
        assert_eq!(peer.exactly(8), b"question");
        peer.send(&sent);
    });
    let conf = "stream {
        log_format tls '$ssl_protocol $ssl_server_name $ssl_alpn_protocol $status $bytes_received/$bytes_sent';
        access_log %%DIR%%/tls.log tls;
        server {
            listen 127.0.0.1:%%PORT_0%% ssl;
            ssl_certificate a.test.crt; ssl_certificate_key a.test.key;
            proxy_pass %%ORIGIN%%;
        }
    }";
    let authority = Authority::new("ca");
    let daemon =
        with_pairs(Setup::new(conf).set("ORIGIN", origin.address()), &authority, &["a.test"]).start();
    let mut client = TlsClient::connect(daemon.port(0), &trusting(&authority), "a.test");
    client.send("question");
    let mut got = Vec::new();
    while got.len() < LENGTH {
        let more = client.some().expect("the daemon sends");
        assert!(!more.is_empty(), "it ended after {} bytes", got.len());
        got.extend(more);
    }
    assert!(got == bytes, "the bytes were changed");
    let line = daemon.wait_line("tls.log", "TLS");
    assert_eq!(line, format!("TLSv1.3 a.test - 200 8/{LENGTH}"));
}

#[test]
fn the_name_chooses_the_server_and_its_certificate() {
    let conf = r#"stream {
        ssl_certificate a.test.crt; ssl_certificate_key a.test.key;
        server { listen 127.0.0.1:%%PORT_0%% ssl; return "default $ssl_server_name"; }
        server { listen 127.0.0.1:%%PORT_0%% ssl; server_name *.b.test; return "b $server_name";
                 ssl_certificate x.b.test.crt; ssl_certificate_key x.b.test.key; }
        server { listen 127.0.0.1:%%PORT_0%% ssl; server_name "~^(?<first>\w+)\.c\.test$"; return "c $first"; }
        server { listen 127.0.0.1:%%PORT_0%% ssl; server_name no.test; ssl_reject_handshake on; return x; }
    }"#;
    let authority = Authority::new("ca");
    let daemon = with_pairs(Setup::new(conf), &authority, &["a.test", "x.b.test"]).start();
    let config = trusting(&authority);
    let ask = |name: &str| said(&mut TlsClient::connect(daemon.port(0), &config, name));
    assert_eq!(ask("a.test"), "default a.test");
    assert_eq!(ask("x.b.test"), "b *.b.test");
    assert!(TlsClient::try_connect(daemon.port(0), &config, "no.test").is_err());
    // The certificate of this name is the default server's.
    let mut lenient = Command::new("openssl");
    let address = format!("127.0.0.1:{}", daemon.port(0));
    let lenient = lenient.args(["s_client", "-quiet", "-connect", &address, "-servername", "left.c.test"]);
    let output = lenient.stdin(Stdio::null()).output().expect("openssl is there");
    assert!(String::from_utf8_lossy(&output.stdout).contains("c left"), "{output:?}");
}

#[test]
fn protocols_and_certificates_of_clients_are_checked() {
    let conf = r#"stream {
        log_format tls '$ssl_client_verify $ssl_alpn_protocol $status';
        access_log %%DIR%%/tls.log tls;
        server {
            listen 127.0.0.1:%%PORT_0%% ssl;
            ssl_certificate a.test.crt; ssl_certificate_key a.test.key;
            ssl_verify_client on; ssl_client_certificate ca.crt;
            return "$ssl_client_s_dn $ssl_client_verify";
        }
        server {
            listen 127.0.0.1:%%PORT_1%% ssl;
            ssl_certificate a.test.crt; ssl_certificate_key a.test.key;
            ssl_alpn first second;
            return "$ssl_alpn_protocol";
        }
    }"#;
    let authority = Authority::new("ca");
    let setup = with_pairs(Setup::new(conf).level("info"), &authority, &["a.test"]);
    let daemon = setup.start();
    let own = authority.issue(&["client.test"]);
    let known = client_config(&authority, Some(&own), rustls::ALL_VERSIONS);
    let told = said(&mut TlsClient::connect(daemon.port(0), &known, "a.test"));
    assert!(told.ends_with(" SUCCESS"), "{told}");
    let mut nobody = TlsClient::connect(daemon.port(0), &trusting(&authority), "a.test");
    assert_eq!(said(&mut nobody), "");
    daemon.wait_log("client sent no required SSL certificate while SSL handshaking");
    daemon.wait_line("tls.log", "NONE - 500");

    let offering = |protocols: &[&str]| {
        let mut config = rustls::ClientConfig::clone(&trusting(&authority));
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        config.into()
    };
    let port = daemon.port(1);
    assert_eq!(said(&mut TlsClient::connect(port, &offering(&["other", "second"]), "a.test")), "second");
    assert_eq!(said(&mut TlsClient::connect(port, &offering(&[]), "a.test")), "");
    assert!(TlsClient::try_connect(port, &offering(&["other"]), "a.test").is_err());
}

#[test]
fn tls_is_made_to_upstreams_whose_certificates_are_checked() {
    let conf = r#"stream {
        log_format status '$server_port $status';
        access_log %%DIR%%/status.log status;
        server { listen 127.0.0.1:%%PORT_2%% ssl; ssl_certificate a.test.crt; ssl_certificate_key a.test.key;
                 ssl_verify_client optional; ssl_client_certificate ca.crt; return "$ssl_server_name $ssl_client_verify"; }
        proxy_ssl on; proxy_ssl_verify on; proxy_ssl_trusted_certificate ca.crt; proxy_pass_ 1;
        server { listen 127.0.0.1:%%PORT_0%%; proxy_pass 127.0.0.1:%%PORT_2%%; proxy_ssl_name a.test; proxy_ssl_server_name on;
                 proxy_ssl_certificate a.test.crt; proxy_ssl_certificate_key a.test.key; }
        server { listen 127.0.0.1:%%PORT_1%%; proxy_pass 127.0.0.1:%%PORT_2%%; proxy_ssl_name b.test; }
    }"#
    .replace(" proxy_pass_ 1;", "");
    let authority = Authority::new("ca");
    let daemon = with_pairs(Setup::new(&conf).level("info"), &authority, &["a.test"]).start();
    assert_eq!(Client::connect(daemon.port(0)).rest().0, b"a.test SUCCESS");
    assert_eq!(Client::connect(daemon.port(1)).rest().0, b"");
    daemon.wait_log("upstream SSL certificate does not match \"b.test\".* while SSL handshaking to upstream");
    daemon.wait_line("status.log", &format!("^{} 502", daemon.port(1)));
}

/// The version is told even if nothing else of the first message can be used.
#[test]
fn the_version_of_an_old_or_malformed_hello_is_told() {
    let conf = r#"stream { server { listen 127.0.0.1:%%PORT_0%%; ssl_preread on; preread_timeout 60s;
        return "$ssl_preread_protocol [$ssl_preread_server_name]"; } }"#;
    let daemon = Setup::new(conf).start();
    let said = |pieces: &[&[u8]]| {
        let mut client = Client::connect(daemon.port(0));
        pieces.iter().for_each(|piece| {
            client.send(piece);
        });
        String::from_utf8(client.rest().0).expect("text")
    };
    // The length of the extension leads beyond the end of the message.
    let body = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0, 0, 7, 0, 43, 0, 7, 2, 0x7f, 0x1c]].concat();
    let message = [&[1, 0, 0, body.len() as u8][..], &body].concat();
    let record = [&[22, 3, 1, 0, message.len() as u8][..], &message].concat();
    assert_eq!(said(&[&record]), "TLSv1.3 []");
    assert_eq!(said(&[&record[..20], &record[20..]]), "TLSv1.3 []");
    let old = b"\x80\x1c\x01\x00\x02\x00\x03\x00\x00\x00\x10\x01\x00\x80";
    assert_eq!(said(&[old]), "SSLv2 []");
    assert_eq!(said(&[&old[..3], &old[3..]]), "SSLv2 []");
    assert_eq!(said(&[b"\x80\x1c\x01\x03\x01\x00\x03"]), "TLSv1 []");
    for other in
        [&b"GE"[..], b"\x80\x1c\x02", b"\xff\xff\xff\xff\xff", b"\x16\x03\x01\x00\x04\x02\x00\x00\x00"]
    {
        assert_eq!(said(&[other]), " []", "{other:?}");
    }
}

/// A TLS client reaches the server that it names, through a daemon that has no key.
#[test]
fn tls_is_passed_through_by_name() {
    let authority = Authority::new("ca");
    let inner = r#"stream {
        server { listen 127.0.0.1:%%PORT_0%% ssl; ssl_certificate a.test.crt; ssl_certificate_key a.test.key; return a; }
        server { listen 127.0.0.1:%%PORT_1%% ssl; ssl_certificate b.test.crt; ssl_certificate_key b.test.key; return b; }
        server { listen 127.0.0.1:%%PORT_2%%; return plain; }
    }"#;
    let inner = with_pairs(Setup::new(inner), &authority, &["a.test", "b.test"]).start();
    let outer = r#"stream {
        log_format seen '$ssl_preread_server_name $ssl_preread_protocol $ssl_preread_alpn_protocols';
        access_log %%DIR%%/seen.log seen;
        map $ssl_preread_server_name $target { a.test 127.0.0.1:%%A%%; b.test 127.0.0.1:%%B%%; default 127.0.0.1:%%PLAIN%%; }
        server { listen 127.0.0.1:%%PORT_0%%; ssl_preread on; proxy_pass $target; preread_timeout 1s; }
    }"#;
    let ports = [("A", inner.port(0)), ("B", inner.port(1)), ("PLAIN", inner.port(2))];
    let outer = ports.iter().fold(Setup::new(outer), |setup, (name, port)| setup.set(name, port)).start();
    let config = trusting(&authority);
    for (name, text) in [("a.test", "a"), ("b.test", "b")] {
        assert_eq!(said(&mut TlsClient::connect(outer.port(0), &config, name)), text);
        outer.wait_line("seen.log", &format!("^{name} TLSv1.3 $"));
    }
    let mut plain = Client::connect(outer.port(0));
    plain.send("this is no TLS");
    assert_eq!(plain.rest().0, b"plain");
    // A message that does not end, and one that comes byte by byte.
    let mut slow = Client::connect(outer.port(0));
    slow.send(b"\x16\x03\x01\x02\x00\x01");
    assert_eq!(slow.rest().0, b"", "preread_timeout");
}

#[test]
fn what_is_no_handshake_ends_the_session() {
    let conf = "stream {
        server { listen 127.0.0.1:%%PORT_0%% ssl; ssl_certificate a.test.crt; ssl_certificate_key a.test.key; return a;
                 ssl_handshake_timeout 300ms; }
        server { listen 127.0.0.1:%%PORT_1%%; ssl_preread on; preread_buffer_size 64; return x; }
    }";
    let daemon = with_pairs(Setup::new(conf).level("info"), &Authority::new("ca"), &["a.test"]).start();
    let mut plain = Client::connect(daemon.port(0));
    plain.send("GET / HTTP/1.1\r\n\r\n");
    plain.expect_end();
    daemon.wait_log("SSL handshake failed: the client does not speak TLS");
    Client::connect(daemon.port(0)).expect_end();
    daemon.wait_log("SSL handshake timed out");
    let mut long = Client::connect(daemon.port(1));
    long.send([&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"[..], &[0; 100]].concat());
    long.expect_end();
    daemon.wait_log("preread buffer full: raise \"preread_buffer_size\"");
}

#[test]
fn a_listener_with_ssl_needs_a_certificate() {
    let tested = Setup::new("stream { server { listen 127.0.0.1:1 ssl; return x; } }").run(&["-t"]);
    let told = String::from_utf8_lossy(&tested.stderr);
    assert!(
        told.contains("no \"ssl_certificate\" is defined for the \"listen ... ssl\" directive"),
        "{told}"
    );
}

/// A certificate that changes on disk is used without a reload, like those of http.
#[test]
fn a_newer_certificate_is_used() {
    let conf = "stream {
        server { listen 127.0.0.1:%%PORT_0%% ssl; ssl_certificate a.test.crt; ssl_certificate_key a.test.key; return a; }
    }";
    let (first, second) = (Authority::new("one"), Authority::new("two"));
    let daemon: Daemon = with_pairs(Setup::new(conf), &first, &["a.test"]).start();
    assert_eq!(said(&mut TlsClient::connect(daemon.port(0), &trusting(&first), "a.test")), "a");
    let pair = second.issue(&["a.test"]);
    daemon.write("a.test.key", &pair.key);
    daemon.write("a.test.crt", &pair.certificate);
    let config = trusting(&second);
    let told = crate::support::wait_for("the new certificate", || {
        TlsClient::try_connect(daemon.port(0), &config, "a.test").ok().map(|mut client| said(&mut client))
    });
    assert_eq!(told, "a");
}
