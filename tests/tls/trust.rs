//! Files by which certificates are judged and that change on disk: CA certificates and lists of revoked ones, for clients
//! and for upstreams, are in force without a reload, and nothing that was allowed under the old ones goes on.

use std::sync::Arc;

use rcgen::SerialNumber;
use rustls::{ClientConfig, HandshakeKind, SupportedProtocolVersion, version};

use crate::support::daemon::is_stand_in;
use crate::support::tls::{Authority, Pair, TlsClient, client_config};
use crate::support::{Daemon, Setup, get, wait_for};

const CONF: &str = r#"
worker_processes 2;
http {
    ssl_certificate site.pem;
    ssl_certificate_key site.key;
    ssl_session_cache %%CACHE%%;
    ssl_session_tickets %%TICKETS%%;
    ssl_client_certificate clients.pem;
    ssl_crl revoked.pem;
    keepalive_timeout 60s;
    server {
        listen 127.0.0.1:%%PORT_0%% ssl;
        server_name site.test;
        ssl_verify_client on;
        location / { return 200 "$ssl_client_verify"; }
    }
    server {
        listen 127.0.0.1:%%PORT_1%%;
        location / { proxy_pass https://127.0.0.1:%%PORT_2%%; proxy_ssl_verify on; proxy_ssl_name site.test;
            proxy_ssl_trusted_certificate upstreams.pem; proxy_ssl_crl upstreams-revoked.pem; }
    }
    server { listen 127.0.0.1:%%PORT_2%% ssl; server_name site.test; location / { return 200 passed; } }
}
"#;

struct Site {
    daemon: Daemon,
    authority: Authority,
    clients: Authority,
}

impl Site {
    fn start(cache: &str, tickets: &str) -> Self {
        let (authority, clients) = (Authority::new("test"), Authority::new("clients"));
        let pair =
            authority.issue_with(&["site.test"], |params| params.serial_number = Some(SerialNumber::from(5)));
        let setup = Setup::new(CONF)
            .set("CACHE", cache)
            .set("TICKETS", tickets)
            .level("notice")
            .file("clients.pem", clients.certificate())
            .file("revoked.pem", clients.revoke(&[1]))
            .file("upstreams.pem", authority.certificate())
            .file("upstreams-revoked.pem", authority.revoke(&[1]))
            .file("site.pem", pair.certificate)
            .file("site.key", pair.key);
        Self { daemon: setup.start(), authority, clients }
    }

    /// A client of `clients` with this serial number.
    fn issue(&self, serial: u64) -> Pair {
        self.clients
            .issue_with(&["someone"], |params| params.serial_number = Some(SerialNumber::from(serial)))
    }

    fn config(&self, own: &Pair, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
        client_config(&self.authority, Some(own), &[version])
    }

    fn connect(&self, config: &Arc<ClientConfig>) -> TlsClient {
        TlsClient::connect(self.daemon.port(0), config, "site.test")
    }

    /// The status of a request on a connection of its own.
    fn status(&self, config: &Arc<ClientConfig>) -> u16 {
        self.connect(config).get("site.test", "/").status
    }

    /// Replaces a file as tools do, and waits until only new workers serve.
    fn replace(&self, name: &str, content: &str) {
        let before = self.daemon.workers_now();
        let next = self.daemon.path("next.pem");
        std::fs::write(&next, content).expect("written");
        std::fs::rename(&next, self.daemon.path(name)).expect("renamed");
        wait_for("new workers instead of the old ones", || {
            let now = self.daemon.workers_now();
            (now.len() == 2 && before.iter().all(|old| !now.contains(old))).then_some(())
        });
    }
}

#[test]
fn an_authority_that_is_replaced_admits_nobody_any_more() {
    if is_stand_in() {
        return; // nginx reads them at a reload only
    }
    for (cache, tickets) in [("none", "on"), ("shared:SSL:1m", "off")] {
        for version in [&version::TLS12, &version::TLS13] {
            let site = Site::start(cache, tickets);
            let config = site.config(&site.issue(7), version);
            assert_eq!(site.status(&config), 200);
            let mut again = site.connect(&config);
            assert_eq!(again.get("site.test", "/").status, 200);
            assert_eq!(again.tls.handshake_kind(), Some(HandshakeKind::Resumed), "{cache} {tickets}");
            let checksum = site.daemon.wait_log("generation 1 serves configuration");

            let others = Authority::new("others");
            site.replace("clients.pem", &others.certificate());
            // The session is not resumed, the certificate refused, and so is the one of the connection that is open.
            let mut late = site.connect(&config);
            assert_eq!(late.get("site.test", "/").status, 400);
            assert_eq!(late.tls.handshake_kind(), Some(HandshakeKind::Full), "{cache} {tickets}");
            assert_eq!(again.get("site.test", "/").status, 400);
            let other = client_config(&site.authority, Some(&others.issue(&["other"])), &[version]);
            // The list of revoked certificates is one of the former authority's.
            assert_eq!(site.status(&other), 400, "there is no list of this authority");
            site.replace("revoked.pem", &others.revoke(&[1]));
            assert_eq!(site.status(&other), 200);
            let now = site.daemon.wait_log("generation 3 serves configuration");
            let sum = |line: &str| line.rsplit(' ').next().map(str::to_owned);
            assert_eq!(sum(&checksum), sum(&now), "the same configuration");
            assert_eq!(site.daemon.complaints("error|crit|emerg"), Vec::<String>::new());
        }
    }
}

#[test]
fn a_client_that_is_revoked_while_it_is_connected_is_refused_from_then_on() {
    if is_stand_in() {
        return;
    }
    let site = Site::start("shared:SSL:1m", "on");
    let (bad, good) =
        (site.config(&site.issue(7), &version::TLS13), site.config(&site.issue(8), &version::TLS13));
    let (mut first, mut second) = (site.connect(&bad), site.connect(&good));
    assert_eq!([&mut first, &mut second].map(|client| client.get("site.test", "/").status), [200, 200]);
    site.replace("revoked.pem", &site.clients.revoke(&[7]));
    assert_eq!([&mut first, &mut second].map(|client| client.get("site.test", "/").status), [400, 200]);
    assert_eq!([&bad, &good].map(|config| site.status(config)), [400, 200]);
    let line = site.daemon.wait_log("has changed: new workers begin with it");
    assert!(line.contains("revoked.pem\""), "{line}");
}

#[test]
fn what_upstreams_are_judged_by_changes_too() {
    if is_stand_in() {
        return;
    }
    let site = Site::start("none", "on");
    let port = site.daemon.port(1);
    assert_eq!(get(port, "/").text(), "passed");
    site.replace("upstreams-revoked.pem", &site.authority.revoke(&[5]));
    assert_eq!(get(port, "/").status, 502, "the upstream's certificate is revoked");
    site.replace("upstreams-revoked.pem", &site.authority.revoke(&[1]));
    assert_eq!(get(port, "/").text(), "passed");
    site.replace("upstreams.pem", &Authority::new("others").certificate());
    assert_eq!(get(port, "/").status, 502, "its authority is not trusted any more");
}

#[test]
fn a_file_that_cannot_be_used_changes_nothing_and_is_told_once() {
    if is_stand_in() {
        return;
    }
    let site = Site::start("none", "on");
    let config = site.config(&site.issue(7), &version::TLS13);
    site.daemon.write("clients.pem", "-----BEGIN CERTIFICATE-----\nhalf of");
    let line = site.daemon.wait_log("the file's former contents stay in force");
    assert!(line.contains("[error]") && line.contains("clients.pem\""), "{line}");
    std::fs::remove_file(site.daemon.path("revoked.pem")).expect("it is there");
    site.daemon.wait_log("revoked.pem\" .*the file's former contents stay in force");
    assert_eq!(site.status(&config), 200);
    assert_eq!(site.daemon.log_count("serves configuration"), 1, "no worker was replaced");
    assert_eq!(site.daemon.log_count("former contents stay"), 2, "once for each");
}

#[test]
fn a_configuration_that_is_being_edited_is_not_used_with_the_file() {
    if is_stand_in() {
        return;
    }
    let site = Site::start("none", "on");
    let config = site.config(&site.issue(7), &version::TLS13);
    assert_eq!(site.status(&config), 200);
    site.daemon.rewrite(|text| text.replace("\"$ssl_client_verify\"", "unfinished"));
    site.daemon.write("revoked.pem", site.clients.revoke(&[7]));
    let line = site.daemon.wait_log("is not in use yet, since the configuration has changed too");
    assert!(line.contains("[warn]") && line.contains("revoked.pem\""), "{line}");
    assert_eq!(site.connect(&config).get("site.test", "/").body, b"SUCCESS");
    site.daemon.reload();
    assert_eq!(site.status(&config), 400);
    let good = site.config(&site.issue(8), &version::TLS13);
    assert_eq!(site.connect(&good).get("site.test", "/").body, b"unfinished");
}

#[test]
fn without_a_master_a_changed_file_is_told_and_the_former_one_counts() {
    if is_stand_in() {
        return;
    }
    let (authority, clients, others) =
        (Authority::new("test"), Authority::new("clients"), Authority::new("others"));
    let conf = r#"
        master_process off;
        http {
            server {
                listen 127.0.0.1:%%PORT_0%% ssl; server_name site.test;
                ssl_certificate site.pem; ssl_certificate_key site.key;
                ssl_verify_client on; ssl_client_certificate clients.pem;
                location / { return 200 "$ssl_client_verify"; }
            }
        }
    "#;
    let pair = authority.issue(&["site.test"]);
    let daemon = Setup::new(conf)
        .level("warn")
        .alone()
        .file("site.pem", pair.certificate)
        .file("site.key", pair.key)
        .file("clients.pem", clients.certificate())
        .start();
    let config = client_config(&authority, Some(&clients.issue(&["someone"])), rustls::ALL_VERSIONS);
    let ask = || TlsClient::connect(daemon.port(0), &config, "site.test").get("site.test", "/").status;
    assert_eq!(ask(), 200);
    daemon.write("clients.pem", "no certificate");
    daemon.wait_log("clients.pem.*until then the file's former contents stay in force");
    daemon.write("clients.pem", others.certificate());
    daemon.wait_log("clients.pem\" has changed: with \"master_process off\" it is used after a restart");
    assert_eq!(ask(), 200);
}
