//! Certificates whose names depend on the client (`ssl_certificate` with variables).

use rustls::HandshakeKind;

use crate::support::Setup;
use crate::support::tls::{Authority, TlsClient, trusting};

const CONF: &str = r#"
http {
    map $ssl_server_name $site { a.test a; b.test b; default missing; }
    ssl_session_cache shared:SSL:1m;
    server {
        listen 127.0.0.1:%%PORT_0%% ssl;
        ssl_certificate $site.pem;
        ssl_certificate_key $site.key;
        location / { return 200 "$ssl_server_name $ssl_session_reused"; }
    }
    server {
        listen 127.0.0.1:%%PORT_1%% ssl;
        ssl_certificate b.pem;
        ssl_certificate_key b.key;
        location / { return 200 "$ssl_server_name $ssl_session_reused"; }
    }
}
"#;

#[test]
fn each_name_gets_its_certificate_and_one_without_a_file_none() {
    let authority = Authority::new("test");
    let (a, b) = (authority.issue(&["a.test"]), authority.issue(&["b.test"]));
    let setup = Setup::new(CONF).file("a.pem", a.certificate).file("a.key", a.key);
    let daemon = setup.file("b.pem", b.certificate).file("b.key", b.key).start();
    let config = trusting(&authority);
    for name in ["a.test", "b.test"] {
        for reused in [".", "r"] {
            let mut client = TlsClient::connect(daemon.port(0), &config, name);
            assert_eq!(client.get(name, "/").body, format!("{name} {reused}").into_bytes());
        }
    }
    assert!(TlsClient::try_connect(daemon.port(0), &config, "c.test").is_err());
    daemon
        .wait_log(r#"\[error\] .*cannot load certificate ".*/missing.pem" \(2: No such file or directory\)"#);
    // A session belongs to the server that made it, by its certificate too.
    let mut other = TlsClient::connect(daemon.port(1), &config, "b.test");
    assert_eq!(other.tls.handshake_kind(), Some(HandshakeKind::Full));
    assert_eq!(other.get("b.test", "/").body, b"b.test .");
    // A file that is replaced is served by the next handshake.
    let renewed = authority.issue(&["a.test"]);
    daemon.write("a.pem", &renewed.certificate);
    daemon.write("a.key", &renewed.key);
    let fresh = trusting(&authority);
    let client = TlsClient::connect(daemon.port(0), &fresh, "a.test");
    let shown = client.tls.peer_certificates().expect("certificates")[0].to_vec();
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    assert_eq!(shown, CertificateDer::from_pem_slice(renewed.certificate.as_bytes()).expect("PEM").to_vec());
}
