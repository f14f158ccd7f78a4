//! Requests that may not come over their connection: 400 and 497 for plain HTTP, 421, 495 and 496.

use super::servers::s_client;
use crate::support::tls::{Authority, Pair, TlsClient, client_config};
use crate::support::{Daemon, Setup, fetch};

const CONF: &str = r#"
http {
    ssl_certificate site.pem;
    ssl_certificate_key site.key;
    ssl_client_certificate ca.pem;
    server {
        listen 127.0.0.1:%%PORT_0%% ssl;
        server_name site.test;
        %%MORE%%
        location / { return 200 "$ssl_client_verify"; }
        location /algorithm { return 200 $ssl_client_sigalg; }
        location = /page { internal; return 200 "page $status"; }
    }
    server { listen 127.0.0.1:%%PORT_0%% ssl; server_name open.test; return 200 "open $ssl_client_verify"; }
}
"#;

struct Site {
    daemon: Daemon,
    authority: Authority,
}

impl Site {
    fn start(more: &str) -> Self {
        Self::start_with(more, |_| Vec::new())
    }

    fn start_with(more: &str, files: impl FnOnce(&Authority) -> Vec<(&'static str, String)>) -> Self {
        let authority = Authority::new("test");
        let pair = authority.issue(&["site.test", "open.test"]);
        let mut setup = Setup::new(CONF).set("MORE", more).file("ca.pem", authority.certificate());
        for (name, content) in files(&authority) {
            setup = setup.file(name, content);
        }
        let daemon = setup.file("site.pem", pair.certificate).file("site.key", pair.key).start();
        Self { daemon, authority }
    }

    /// Status and text for this certificate, with TLS 1.2 and 1.3 alike.
    fn ask(&self, own: Option<&Pair>) -> (u16, String) {
        let answers = [&rustls::version::TLS12, &rustls::version::TLS13].map(|version| {
            let config = client_config(&self.authority, own, &[version]);
            let response =
                TlsClient::connect(self.daemon.port(0), &config, "site.test").get("site.test", "/");
            let text = response.text();
            let title = text.split("<title>").nth(1).and_then(|rest| rest.split("</title>").next());
            (response.status, title.map_or_else(|| text.clone(), str::to_owned))
        });
        let [first, second] = answers;
        assert_eq!(first, second, "TLS 1.2 and 1.3");
        first
    }
}

const NO_CERTIFICATE: &str = "400 No required SSL certificate was sent";
const WRONG_CERTIFICATE: &str = "400 The SSL certificate error";

#[test]
fn plain_http_is_told_that_tls_is_spoken() {
    let site = Site::start("");
    let response = fetch(site.daemon.port(0), "GET / HTTP/1.1\r\nHost: site.test\r\n\r\n");
    assert_eq!(response.status, 400);
    assert!(response.text().contains("The plain HTTP request was sent to HTTPS port"));
    assert!(response.closes());
    site.daemon.wait_log("client sent plain HTTP request to HTTPS port");
    let site = Site::start("error_page 497 =302 https://site.test$request_uri;");
    let response = fetch(site.daemon.port(0), "GET /x?y HTTP/1.1\r\nHost: site.test\r\n\r\n");
    assert_eq!((response.status, response.header("location")), (302, Some("https://site.test/x?y")));
}

#[test]
fn a_certificate_is_required_where_clients_are_verified() {
    let site = Site::start("ssl_verify_client on;");
    let stranger = Authority::new("stranger").issue(&["client.test"]);
    assert_eq!(site.ask(None), (400, NO_CERTIFICATE.into()));
    assert_eq!(site.ask(Some(&site.authority.issue(&["client.test"]))), (200, "SUCCESS".into()));
    assert_eq!(site.ask(Some(&stranger)), (400, WRONG_CERTIFICATE.into()));
    site.daemon.wait_log("client sent no required SSL certificate");
    site.daemon.wait_log(r"client SSL certificate verify error: \((20|21):unable to ");
}

#[test]
fn an_optional_certificate_is_checked_if_there_is_one() {
    let site = Site::start("ssl_verify_client optional;");
    let stranger = Authority::new("stranger").issue(&["client.test"]);
    assert_eq!(site.ask(None), (200, "NONE".into()));
    assert_eq!(site.ask(Some(&site.authority.issue(&["client.test"]))), (200, "SUCCESS".into()));
    assert_eq!(site.ask(Some(&stranger)), (400, WRONG_CERTIFICATE.into()));
    let expired = site.authority.issue_with(&["client.test"], |params| {
        params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    });
    assert_eq!(site.ask(Some(&expired)), (400, WRONG_CERTIFICATE.into()));
    site.daemon.wait_log(r"client SSL certificate verify error: \(10:certificate has expired\)");
}

#[test]
fn without_an_authority_the_result_is_only_told() {
    let site = Site::start("ssl_verify_client optional_no_ca;");
    let stranger = Authority::new("stranger").issue(&["client.test"]);
    assert_eq!(site.ask(None), (200, "NONE".into()));
    let (status, text) = site.ask(Some(&stranger));
    assert!(status == 200 && text.starts_with("FAILED:unable to "), "{status} {text}");
}

#[test]
fn a_long_chain_is_refused_by_its_depth() {
    for (depth, status) in [(1, 400), (2, 200)] {
        let site = Site::start(&format!("ssl_verify_client on; ssl_verify_depth {depth};"));
        let first = site.authority.intermediate("first");
        let second = first.intermediate("second");
        let mut pair = second.issue(&["client.test"]);
        pair.certificate = [pair.certificate, second.certificate(), first.certificate()].concat();
        assert_eq!(site.ask(Some(&pair)).0, status, "depth {depth}");
    }
}

#[test]
fn revoked_certificates_are_refused() {
    let site = Site::start_with("ssl_verify_client on; ssl_crl revoked.pem;", |ca| {
        vec![("revoked.pem", ca.revoke(&[66]))]
    });
    let with = |serial: u64| {
        site.authority.issue_with(&["client.test"], |params| params.serial_number = Some(serial.into()))
    };
    assert_eq!(site.ask(Some(&with(65))), (200, "SUCCESS".into()));
    assert_eq!(site.ask(Some(&with(66))), (400, WRONG_CERTIFICATE.into()));
    site.daemon.wait_log(r"verify error: \(23:certificate revoked\)");
}

#[test]
fn error_pages_apply_to_refusals() {
    let site = Site::start("ssl_verify_client on; error_page 495 496 = /page;");
    assert_eq!(site.ask(None).0, 200);
}

#[test]
fn a_connection_for_another_name_does_not_get_behind_a_verified_one() {
    let site = Site::start("ssl_verify_client on;");
    let own = site.authority.issue(&["client.test"]);
    let config = client_config(&site.authority, Some(&own), rustls::ALL_VERSIONS);
    // The connection was made for a server that verifies nobody.
    let mut client = TlsClient::connect(site.daemon.port(0), &config, "open.test");
    assert_eq!(client.get("open.test", "/").text(), "open NONE");
    assert_eq!(client.get("site.test", "/").status, 421);
    let text = client_config(&site.authority, Some(&own), &[&rustls::version::TLS13]);
    let mut client = TlsClient::connect(site.daemon.port(0), &text, "site.test");
    assert_eq!(client.get("site.test", "/algorithm").text(), "ecdsa_secp256r1_sha256");
    // The other way round nothing is to be protected.
    let mut client = TlsClient::connect(site.daemon.port(0), &config, "site.test");
    assert_eq!(client.get("site.test", "/").status, 200);
    assert_eq!(client.get("open.test", "/").status, 200);
}

#[test]
fn authorities_are_named_once() {
    let twice = |ca: &Authority| vec![("twice.pem", ca.certificate().repeat(2))];
    let site = Site::start_with("ssl_verify_client on; ssl_client_certificate twice.pem;", twice);
    let shown = s_client(site.daemon.port(0), &["-servername", "site.test"]);
    let names = shown.split("Acceptable client certificate CA names\n").nth(1).expect("a list");
    let names: Vec<&str> = names.lines().take_while(|line| line.starts_with("CN")).collect();
    assert_eq!(names, ["CN = test"]);
}
