//! OCSP: staples from a responder (`ssl_stapling`), and the status of clients' certificates (`ssl_ocsp`).
//!
//! Method: the responder is the openssl command with an index of certificates, or a socket that speaks badly;
//! `openssl s_client -status` and curl look at what is stapled.

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use nix::sys::signal::Signal;
use rcgen::CustomExtension;
use rustls::client::Resumption;
use rustls::{ClientConfig, HandshakeKind};

use super::servers::{output, s_client};
use crate::support::daemon::send;
use crate::support::tls::{Authority, Pair, TlsClient, client_config};
use crate::support::{Daemon, Dns, H3, Setup, port, wait_for};

/// The state of a certificate in a responder's index, by its serial number.
#[derive(Clone, Copy, PartialEq)]
enum State {
    Good(u64),
    Revoked(u64),
}

/// `openssl ocsp` as the responder of an authority, which signs itself. It stops when dropped.
struct Responder {
    folder: tempfile::TempDir,
    port: u16,
    child: Option<Child>,
}

impl Responder {
    fn start(authority: &Authority, states: &[State]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("ca.pem"), authority.certificate()).expect("the folder is ours");
        std::fs::write(folder.path().join("ca.key"), authority.key()).expect("the folder is ours");
        let mut responder = Self { folder, port: port::free(), child: None };
        responder.set(states);
        responder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Starts it again with another index: a running one may answer once more by the old one.
    fn set(&mut self, states: &[State]) {
        self.stop();
        let line = |state: &State| match state {
            State::Good(serial) => format!("V\t491231235959Z\t\t{serial:04X}\tunknown\t/CN={serial}\n"),
            State::Revoked(serial) => {
                format!("R\t491231235959Z\t250101000000Z\t{serial:04X}\tunknown\t/CN={serial}\n")
            }
        };
        let index: String = states.iter().map(line).collect();
        std::fs::write(self.path("index"), index).expect("the folder is ours");
        // A process that another test has just forked may hold the socket with which the port was tested.
        self.child = Some(wait_for("the responder to listen", || self.spawn()));
    }

    /// `None`: it could not listen.
    fn spawn(&self) -> Option<Child> {
        let port = self.port.to_string();
        let mut child = Command::new("openssl")
            .args(["ocsp", "-index", "index", "-port", &port, "-ndays", "1"])
            .args(["-CA", "ca.pem", "-rsigner", "ca.pem", "-rkey", "ca.key"])
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl runs");
        let mut line = [0; 6];
        let listens = child.stdout.as_mut().expect("a pipe").read_exact(&mut line).is_ok();
        if listens && &line == b"ACCEPT" {
            return Some(child);
        }
        child.wait().expect("our child");
        None
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it runs");
            child.wait().expect("our child");
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The extension that names a responder (authority information access).
fn access(url: &str) -> CustomExtension {
    let length = |content: &[u8]| u8::try_from(content.len()).expect("short");
    let mut location = vec![0x06, 8, 0x2b, 6, 1, 5, 5, 7, 48, 1, 0x86, length(url.as_bytes())];
    location.extend_from_slice(url.as_bytes());
    let one = [&[0x30, length(&location)][..], &location].concat();
    let all = [&[0x30, length(&one)][..], &one].concat();
    CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 1], all)
}

/// A certificate with this serial number that names a responder, if there is a URL.
fn issue(authority: &Authority, name: &str, serial: u64, url: &str) -> Pair {
    authority.issue_with(&[name], |params| {
        params.serial_number = Some(serial.into());
        if !url.is_empty() {
            params.custom_extensions.push(access(url));
        }
    })
}

const STAPLING: &str = r#"
worker_processes %%WORKERS%%;
http {
    ssl_stapling on;
    ssl_trusted_certificate ca.pem;
    server {
        listen 127.0.0.1:%%PORT_0%% ssl;
        server_name a.test;
        ssl_certificate a.pem;
        ssl_certificate_key a.key;
        %%MORE%%
        return 200 ok;
    }
}
"#;

fn stapling(more: &str, authority: &Authority, pair: &Pair) -> Setup {
    let setup = Setup::new(STAPLING).set("MORE", more).file("ca.pem", authority.certificate());
    setup.file("a.pem", &pair.certificate).file("a.key", &pair.key)
}

/// With one worker.
fn start(more: &str, authority: &Authority, pair: &Pair) -> Daemon {
    stapling(more, authority, pair).set("WORKERS", 1).start()
}

/// The response that is stapled, as text.
fn staple(daemon: &Daemon) -> Option<String> {
    let shown = s_client(daemon.port(0), &["-status", "-servername", "a.test"]);
    assert!(shown.contains("OCSP response:"), "{shown}");
    shown.contains("OCSP Response Status: successful").then_some(shown)
}

fn wait_staple(daemon: &Daemon, serial: u64) {
    let serial = format!("Serial Number: {serial:04X}");
    wait_for("a staple", || {
        let shown = staple(daemon)?;
        (shown.contains(&serial) && shown.contains("Cert Status: good")).then_some(())
    });
}

#[test]
fn handshakes_staple_what_the_responder_says() {
    let authority = Authority::new("test");
    let responder = Responder::start(&authority, &[State::Good(0x1001)]);
    let mut pair = issue(&authority, "a.test", 0x1001, &responder.url());
    pair.certificate.push_str(&authority.certificate()); // curl looks for the issuer in the chain
    for more in ["", "ssl_stapling_verify on;"] {
        let daemon = start(more, &authority, &pair);
        assert_eq!(staple(&daemon), None, "the first handshake does not wait");
        wait_staple(&daemon, 0x1001);
        let (port, ca) = (daemon.port(0), daemon.path("ca.pem").display().to_string());
        for version in ["--tls-max=1.2", "--tlsv1.3"] {
            let version: Vec<&str> = version.split('=').collect();
            let resolve = format!("a.test:{port}:127.0.0.1");
            let url = format!("https://a.test:{port}/");
            let words = ["-sS", "--cert-status", "--cacert", &ca, "--resolve", &resolve, &url];
            assert_eq!(output("curl", &[&words[..], &version].concat()), "ok");
        }
        assert_eq!(daemon.complaints("warn|error|crit|alert|emerg"), Vec::<String>::new());
    }
}

#[test]
fn a_certificate_that_is_not_good_is_not_stapled() {
    let authority = Authority::new("test");
    let responder = Responder::start(&authority, &[State::Revoked(0x1001)]);
    for (serial, status) in [(0x1001, "revoked"), (0x1002, "unknown")] {
        let daemon = start("", &authority, &issue(&authority, "a.test", serial, &responder.url()));
        assert_eq!(staple(&daemon), None);
        let line = daemon.wait_log(r"\[error\].*certificate status");
        for words in [
            &format!(
                "certificate status \"{status}\" in the OCSP response while requesting certificate status"
            ),
            "responder: 127.0.0.1, peer: 127.0.0.1:",
            &format!("certificate: \"{}\"", daemon.path("a.pem").display()),
        ] {
            assert!(line.contains(words), "{words}: {line}");
        }
        assert_eq!(staple(&daemon), None);
        assert_eq!(daemon.log_count(r"\[error\]"), 1, "it is not asked again at once");
    }
}

#[test]
fn a_responder_that_is_down_holds_up_no_handshake() {
    let authority = Authority::new("test");
    let port = port::free();
    let pair = issue(&authority, "a.test", 0x1001, &format!("http://127.0.0.1:{port}"));
    let daemon = start("", &authority, &pair);
    assert_eq!(staple(&daemon), None);
    daemon.wait_log(
        r"\[error\].*connect\(\) failed \(111: Connection refused\) while requesting certificate status",
    );
    // One that accepts and says nothing.
    let listener = port::listen(Ipv4Addr::LOCALHOST, port);
    let daemon = start("", &authority, &pair);
    assert_eq!(staple(&daemon), None);
    let (mut silent, _) = listener.accept().expect("a connection");
    let mut head = [0; 4];
    silent.read_exact(&mut head).expect("a request");
    assert_eq!(&head, b"GET ");
    assert_eq!(staple(&daemon), None, "while the responder is asked");
}

#[test]
fn a_response_of_a_stranger_is_not_stapled_with_verification() {
    let (authority, stranger) = (Authority::new("test"), Authority::new("stranger"));
    let responder = Responder::start(&stranger, &[State::Good(0x1001)]);
    let pair = issue(&authority, "a.test", 0x1001, &responder.url());
    let daemon = start("ssl_stapling_verify on;", &authority, &pair);
    assert_eq!(staple(&daemon), None);
    // It is about another issuer, too, but its signer is looked at first.
    daemon.wait_log(r"\[error\].*OCSP_basic_verify\(\) failed \(root ca not trusted\)");
    let daemon = start("", &authority, &pair);
    assert_eq!(staple(&daemon), None);
    daemon.wait_log(r#"\[error\].*certificate status "unknown" in the OCSP response"#);
}

#[test]
fn a_newer_certificate_gets_a_response_of_its_own() {
    let authority = Authority::new("test");
    let responder = Responder::start(&authority, &[State::Good(0x1001), State::Good(0x1002)]);
    let daemon = start("", &authority, &issue(&authority, "a.test", 0x1001, &responder.url()));
    wait_staple(&daemon, 0x1001);
    let newer = issue(&authority, "a.test", 0x1002, &responder.url());
    daemon.write("a.key", &newer.key);
    daemon.write("a.pem", &newer.certificate);
    daemon.wait_log("has changed and is in use now");
    wait_staple(&daemon, 0x1002);
    assert_eq!(daemon.complaints("warn|error|crit|alert|emerg"), Vec::<String>::new());
    let without = issue(&authority, "a.test", 0x1003, "");
    daemon.write("a.key", &without.key);
    daemon.write("a.pem", &without.certificate);
    daemon
        .wait_log(r#"\[warn\].*"ssl_stapling" ignored, no OCSP responder URL in the certificate ".*a.pem""#);
    wait_for("the handshake without a staple", || staple(&daemon).is_none().then_some(()));
}

#[test]
fn workers_share_responses_and_later_ones_have_them_at_once() {
    let authority = Authority::new("test");
    let mut responder = Responder::start(&authority, &[State::Good(0x1001)]);
    let pair = issue(&authority, "a.test", 0x1001, &responder.url());
    let daemon = stapling("", &authority, &pair).set("WORKERS", 2).start();
    wait_staple(&daemon, 0x1001);
    responder.stop();
    for round in 0..2 {
        for _ in 0..10 {
            assert!(staple(&daemon).is_some(), "every worker, round {round}");
        }
        if round == 0 {
            daemon.reload();
        }
    }
    let old = daemon.workers();
    send(old[0], Signal::SIGKILL);
    wait_for("a new worker", || {
        let now = daemon.workers_now();
        (now.len() == 2 && !now.contains(&old[0])).then_some(())
    });
    for _ in 0..10 {
        assert!(staple(&daemon).is_some(), "the new worker too");
    }
    assert_eq!(daemon.log_count(r"\[error\]"), 0, "the responder is not asked again");
    let other = format!("ssl_stapling_responder http://127.0.0.1:{};", port::refusing());
    daemon.rewrite(|conf| conf.replace("ssl_certificate_key", &format!("{other} ssl_certificate_key")));
    daemon.reload();
    assert_eq!(staple(&daemon), None, "another responder has not answered");
    daemon.wait_log(r"\[error\].*connect\(\) failed");
}

#[test]
fn names_of_responders_are_asked_of_the_resolver() {
    let authority = Authority::new("test");
    let responder = Responder::start(&authority, &[State::Good(0x1001)]);
    let url = format!("http://ocsp.test:{}/", responder.port);
    let pair = issue(&authority, "a.test", 0x1001, "");
    let dns = Dns::knowing(&[("ocsp.test", "127.0.0.1")]);
    let with = |url: &str| {
        let more = format!("ssl_stapling_responder {url}; resolver {} ipv6=off;", dns.address());
        start(&more, &authority, &pair)
    };
    wait_staple(&with(&url), 0x1001);
    let daemon = with("http://gone.test/");
    assert_eq!(staple(&daemon), None);
    let line = daemon.wait_log(r"\[error\].*could not be resolved");
    assert!(line.contains("gone.test could not be resolved (3: Host not found)"), "{line}");
}

#[test]
fn a_certificate_that_cannot_be_asked_about_is_reported() {
    let (authority, other) = (Authority::new("test"), Authority::new("other"));
    let cases = [
        (&other, "", "", "issuer certificate not found for certificate"),
        (&authority, "", "", "no OCSP responder URL in the certificate"),
        (
            &authority,
            "https://ocsp.test/",
            "",
            r#"invalid URL prefix in OCSP responder "https://ocsp.test/" in the certificate"#,
        ),
        (
            &authority,
            "",
            "ssl_stapling_responder http://:80/;",
            r#"no host in OCSP responder ":80/" in the certificate"#,
        ),
    ];
    for (issuer, url, more, words) in cases {
        let pair = issue(issuer, "a.test", 0x1001, url);
        let setup = stapling(more, &authority, &pair).set("WORKERS", 1);
        let tested = setup.run(&["-t"]);
        let shown = String::from_utf8_lossy(&tested.stderr).into_owned();
        let name = setup.folder().join("a.pem").display().to_string();
        let expected = format!("[warn] \"ssl_stapling\" ignored, {words} \"{name}\"");
        assert!(shown.contains(&expected) && tested.status.success(), "{expected}: {shown}");
        let daemon = setup.start();
        assert_eq!(staple(&daemon), None);
    }
}

const CLIENTS: &str = r#"
worker_processes %%WORKERS%%;
http {
    ssl_certificate site.pem;
    ssl_certificate_key site.key;
    ssl_client_certificate clients.pem;
    ssl_verify_client on;
    ssl_verify_depth 2;
    ssl_session_cache shared:SSL:1m;
    ssl_ocsp on;
    keepalive_timeout 60s;
    add_header X-Verify $ssl_client_verify always;
    server {
        listen 127.0.0.1:%%PORT_0%% ssl;
        listen 127.0.0.1:%%PORT_0%% quic;
        server_name site.test;
        %%MORE%%
        location / { return 200 $pid; }
    }
}
"#;

/// A server that asks for its clients' status, and their authority with a responder.
struct Site {
    daemon: Daemon,
    authority: Authority,
    clients: Authority,
    responder: Responder,
}

impl Site {
    fn start(states: &[State], workers: usize, more: &str) -> Self {
        let (authority, clients) = (Authority::new("test"), Authority::new("clients"));
        let responder = Responder::start(&clients, states);
        let pair = authority.issue(&["site.test"]);
        let setup = Setup::new(CLIENTS)
            .set("WORKERS", workers)
            .set("MORE", more)
            .set("RESPONDER", responder.url())
            .file("clients.pem", clients.certificate())
            .file("site.pem", pair.certificate)
            .file("site.key", pair.key);
        Self { daemon: setup.start(), authority, clients, responder }
    }

    /// The settings of a client with this serial number.
    fn client(&self, serial: u64) -> Arc<ClientConfig> {
        self.client_with(&issue(&self.clients, "client.test", serial, &self.responder.url()))
    }

    fn client_with(&self, pair: &Pair) -> Arc<ClientConfig> {
        client_config(&self.authority, Some(pair), rustls::ALL_VERSIONS)
    }

    fn connect(&self, config: &Arc<ClientConfig>) -> TlsClient {
        TlsClient::connect(self.daemon.port(0), config, "site.test")
    }

    /// Status, and the value of `$ssl_client_verify`.
    fn ask(&self, config: &Arc<ClientConfig>) -> (u16, String) {
        verdict(&mut self.connect(config))
    }
}

fn verdict(client: &mut TlsClient) -> (u16, String) {
    let response = client.get("site.test", "/");
    (response.status, response.header("x-verify").unwrap_or_default().to_owned())
}

fn success() -> (u16, String) {
    (200, "SUCCESS".into())
}

fn failed(why: &str) -> (u16, String) {
    (400, format!("FAILED:{why}"))
}

const REQUEST_FAILED: &str = "certificate status request failed";

#[test]
fn clients_are_refused_by_what_their_responder_says() {
    let mut site = Site::start(&[State::Good(0x1001), State::Revoked(0x1002)], 1, "");
    let good = site.client(0x1001);
    assert_eq!(site.ask(&good), success());
    assert_eq!(site.ask(&site.client(0x1002)), failed("certificate revoked"));
    site.daemon
        .wait_log(r"\[info\].*client SSL certificate verify error: certificate revoked.*client: 127.0.0.1");
    assert_eq!(site.ask(&site.client(0x1003)), failed("certificate status unknown"));
    let without = site.client_with(&issue(&site.clients, "client.test", 0x1001, ""));
    assert_eq!(site.ask(&without), failed(REQUEST_FAILED));
    site.daemon.wait_log(
        r"\[error\].*\*\d+ no OCSP responder URL in certificate while requesting certificate status",
    );
    let strange = site.client_with(&issue(&site.clients, "client.test", 0x1001, "ftp://a.test/"));
    assert_eq!(site.ask(&strange), failed(REQUEST_FAILED));
    site.daemon.wait_log(r#"invalid URL prefix in OCSP responder "ftp://a.test/" in certificate"#);
    site.responder.stop();
    assert_eq!(site.ask(&good), failed(REQUEST_FAILED));
    site.daemon.wait_log(
        r"connect\(\) failed .* while requesting certificate status, responder: 127.0.0.1, peer: 127.0.0.1:",
    );
}

#[test]
fn requests_over_quic_wait_for_the_status() {
    let states = [State::Good(0x1001), State::Revoked(0x1002)];
    let site = Site::start(&states, 1, "");
    for (serial, expected) in [(0x1001, success()), (0x1002, failed("certificate revoked"))] {
        let mut tls = ClientConfig::clone(&site.client(serial));
        tls.alpn_protocols = vec![b"h3".to_vec()];
        let transport = quinn_proto::TransportConfig::default();
        let mut client = H3::begin(site.daemon.port(0), tls, "site.test", transport);
        client.until("a handshake", |client| client.is_connected);
        client.start();
        let answer = client.fetch("site.test", "/");
        assert_eq!((answer.status, answer.field("x-verify").unwrap_or_default().to_owned()), expected);
    }
}

#[test]
fn resumed_sessions_are_checked_too() {
    let mut site = Site::start(&[State::Good(0x1001)], 1, "");
    let client = site.client(0x1001);
    assert_eq!(site.ask(&client), success());
    let mut resumed = site.connect(&client);
    assert_eq!(
        (resumed.tls.handshake_kind(), verdict(&mut resumed)),
        (Some(HandshakeKind::Resumed), success())
    );
    site.responder.set(&[State::Revoked(0x1001)]);
    let mut resumed = site.connect(&client);
    assert_eq!(resumed.tls.handshake_kind(), Some(HandshakeKind::Resumed));
    assert_eq!(verdict(&mut resumed), failed("certificate revoked"));
}

#[test]
fn issuers_are_checked_unless_the_leaf_is_enough() {
    let states = [State::Good(0x1001), State::Revoked(0x2001)];
    for (word, expected) in [("on", failed("certificate revoked")), ("leaf", success())] {
        let site = Site::start(&states, 1, &format!("ssl_ocsp {word};"));
        let url = site.responder.url();
        let middle = site.clients.intermediate_with("middle", |params| {
            params.serial_number = Some(0x2001_u64.into());
            params.custom_extensions.push(access(&url));
        });
        let responder = Responder::start(&middle, &states);
        let mut pair = issue(&middle, "client.test", 0x1001, &responder.url());
        pair.certificate.push_str(&middle.certificate());
        assert_eq!(site.ask(&site.client_with(&pair)), expected, "{word}");
    }
}

#[test]
fn a_responder_of_the_configuration_is_asked_about_all() {
    let mut site = Site::start(&[State::Good(0x1001)], 1, "ssl_ocsp_responder %%RESPONDER%%;");
    let without = site.client_with(&issue(&site.clients, "client.test", 0x1001, "http://127.0.0.1:1/"));
    assert_eq!(site.ask(&without), success());
    site.responder.stop();
    assert_eq!(site.ask(&without), failed(REQUEST_FAILED));
}

#[test]
fn another_authority_cannot_answer() {
    let site = Site::start(&[], 1, "");
    let other = Responder::start(&Authority::new("clients"), &[State::Good(0x1001)]);
    let pair = issue(&site.clients, "client.test", 0x1001, &other.url());
    assert_eq!(site.ask(&site.client_with(&pair)), failed(REQUEST_FAILED));
    site.daemon.wait_log(r"\[error\].*OCSP_basic_verify\(\) failed \(signature failure\)");
}

#[test]
fn all_workers_know_a_cached_status() {
    let mut site = Site::start(&[State::Good(0x1001)], 2, "ssl_ocsp_cache shared:OCSP:64k;");
    let mut client = ClientConfig::clone(&site.client(0x1001));
    client.resumption = Resumption::disabled();
    let client = Arc::new(client);
    assert_eq!(site.ask(&client), success());
    site.responder.stop();
    let ask_all = || {
        let mut seen = std::collections::HashSet::new();
        wait_for("an answer of each worker", || {
            let response = site.connect(&client).get("site.test", "/");
            assert_eq!(response.status, 200, "without the responder");
            seen.insert(response.text().parse::<i32>().expect("a number"));
            site.daemon.workers_now().iter().all(|pid| seen.contains(pid)).then_some(())
        });
    };
    ask_all();
    let old = site.daemon.workers();
    send(old[0], Signal::SIGKILL);
    wait_for("a new worker", || {
        let now = site.daemon.workers_now();
        (now.len() == 2 && !now.contains(&old[0])).then_some(())
    });
    ask_all();
    site.daemon.reload();
    ask_all();
    assert_eq!(site.ask(&site.client(0x1002)), failed(REQUEST_FAILED), "another certificate");
}

#[test]
fn a_connection_that_moves_is_asked_about_again() {
    let mut site = Site::start(&[State::Good(0x1001)], 1, "");
    let client = site.client(0x1001);
    let mut kept = [site.connect(&client), site.connect(&client)];
    for connection in &mut kept {
        assert_eq!(verdict(connection), success());
    }
    site.daemon.reload();
    let [first, second] = &mut kept;
    assert_eq!(verdict(first), success());
    site.responder.set(&[State::Revoked(0x1001)]);
    assert_eq!(verdict(first), success(), "it has been asked about already");
    assert_eq!(verdict(second), failed("certificate revoked"));
}

#[test]
fn responders_that_speak_badly_are_bounded() {
    let site = Site::start(&[], 1, "client_header_timeout 1s;");
    let listener = port::listen(Ipv4Addr::LOCALHOST, port::free());
    let address = listener.local_addr().expect("an address");
    let client =
        site.client_with(&issue(&site.clients, "client.test", 0x1001, &format!("http://{address}/")));
    let long = "x".repeat(40_000);
    let cases = [
        ("HTTP/1.1 503 Busy\r\n\r\n".to_owned(), "OCSP responder sent status 503 instead of a response"),
        ("hello\r\n".to_owned(), "OCSP responder sent invalid response"),
        (
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n".to_owned(),
            "sent invalid \"Content-Type\" header",
        ),
        ("HTTP/1.1 200 OK\r\n\r\n<html>".to_owned(), "d2i_OCSP_RESPONSE\\(\\) failed"),
        (
            "HTTP/1.1 200 OK\r\n\r\n0\x03\n\x01\x06".to_owned(),
            "OCSP response not successful \\(6: unauthorized\\)",
        ),
        (format!("HTTP/1.1 200 OK\r\n\r\n{long}"), "OCSP responder sent a response of more than 32768 bytes"),
        (String::new(), "OCSP responder prematurely closed connection"),
    ];
    for (answer, words) in cases {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut connection, _) = listener.accept().expect("a connection");
                let _ = connection.read(&mut [0; 4096]);
                let _ = connection.write_all(answer.as_bytes());
            });
            assert_eq!(site.ask(&client), failed(REQUEST_FAILED), "{words}");
        });
        site.daemon.wait_log(&format!(r"\[error\].*{words}"));
    }
    // One that says nothing: the client waits no longer than for its own head.
    assert_eq!(site.ask(&client), failed(REQUEST_FAILED));
    site.daemon.wait_log(r"\[error\].*OCSP responders did not answer within 1000 ms");
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let cases = [
        ("ssl_ocsp yes;", r#"invalid value "yes""#),
        ("ssl_ocsp_cache on;", r#"invalid OCSP cache "on""#),
        ("ssl_ocsp_cache shared:a:1k;", r#"OCSP cache "shared:a:1k" is too small"#),
        (
            "ssl_verify_client optional_no_ca;",
            r#""ssl_ocsp" is incompatible with "ssl_verify_client optional_no_ca""#,
        ),
        (
            "ssl_ocsp_responder https://ocsp.test;",
            r#"invalid URL prefix in OCSP responder "https://ocsp.test" in "ssl_ocsp_responder""#,
        ),
    ];
    let authority = Authority::new("test");
    let pair = authority.issue(&["site.test"]);
    for (more, words) in cases {
        let setup = Setup::new(CLIENTS)
            .set("WORKERS", 1)
            .set("MORE", more)
            .file("clients.pem", authority.certificate())
            .file("site.pem", &pair.certificate)
            .file("site.key", &pair.key);
        let tested = setup.run(&["-t"]);
        let shown = String::from_utf8_lossy(&tested.stderr);
        assert!(shown.contains(words) && !tested.status.success(), "{words}: {shown}");
    }
}
