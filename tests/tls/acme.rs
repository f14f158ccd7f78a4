//! Certificates from an authority that speaks ACME: asked for, used and renewed without a reload.
//!
//! The authority (`support/acme.rs`) runs in the test and checks the protocol; that no rule of it was broken is checked
//! at the end of each test.

use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nix::sys::signal::Signal;
use rustls::ClientConfig;
use rustls::client::Resumption;

use crate::support::acme::Trouble;
use crate::support::daemon::send;
use crate::support::tls::{TlsClient, trusting};
use crate::support::{Acme, Daemon, Setup, fetch, get, wait_for};

/// Two workers with a plain address and one with TLS.
pub const CONF: &str = r#"
worker_processes 2;
http {
    acme_issuer test {
        uri %%URI%%;
        contact admin@a.test;
        ssl_trusted_certificate root.pem;
        state_path %%DIR%%/state;
        accept_terms_of_service;
        %%ISSUER%%
    }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        server_name %%NAMES%%;
        return 301 https://$host$request_uri;
    }
    server {
        listen 127.0.0.1:%%PORT_1%% ssl;
        server_name %%NAMES%%;
        acme_certificate test %%WANTED%%;
        ssl_certificate $acme_certificate;
        ssl_certificate_key $acme_certificate_key;
        location / { return 200 $pid; }
    }
}
"#;

pub fn setup_with(acme: &Acme, conf: &str, issuer: &str, wanted: &str) -> Setup {
    let setup = Setup::new(conf).set("URI", acme.uri()).set("ISSUER", issuer).set("WANTED", wanted);
    let setup = setup.set("NAMES", "a.test b.test").file("root.pem", acme.root());
    acme.validates_at(setup.port(0), setup.port(1));
    setup
}

pub fn setup(acme: &Acme) -> Setup {
    setup_with(acme, CONF, "", "")
}

/// A client that resumes no session: a resumed one has the certificate of its first handshake.
pub fn client(acme: &Acme) -> Arc<ClientConfig> {
    let mut config = ClientConfig::clone(&trusting(acme.authority()));
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// The serial number of the certificate that a client gets, and the process that answers.
pub fn ask(port: u16, client: &Arc<ClientConfig>, name: &str) -> Asked {
    let mut client = TlsClient::try_connect(port, client, name).ok()?;
    let pid = client.get(name, "/").text().parse().expect("a number");
    let chain = client.tls.peer_certificates().expect("certificates");
    let (_, found) = x509_parser::parse_x509_certificate(&chain[0]).expect("a certificate");
    Some((found.tbs_certificate.raw_serial().to_vec(), pid))
}

pub fn wait_certificate(daemon: &Daemon, client: &Arc<ClientConfig>) -> Vec<u8> {
    wait_for("a certificate", || ask(daemon.port(1), client, "a.test")).0
}

/// Waits until all workers have another certificate than this one, which is good meanwhile.
pub fn wait_other(daemon: &Daemon, client: &Arc<ClientConfig>, old: &[u8]) {
    wait_another(daemon, client, old, |asked| Some(asked.expect("a handshake")));
}

/// The same where this one may end before.
pub fn wait_other_after(daemon: &Daemon, client: &Arc<ClientConfig>, old: &[u8]) {
    wait_another(daemon, client, old, |asked| asked);
}

type Asked = Option<(Vec<u8>, i32)>;

fn wait_another(daemon: &Daemon, client: &Arc<ClientConfig>, old: &[u8], judge: fn(Asked) -> Asked) {
    let mut seen = HashSet::new();
    wait_for("another certificate in all workers", || {
        let (serial, pid) = judge(ask(daemon.port(1), client, "a.test"))?;
        if serial != old {
            seen.insert(pid);
        }
        daemon.workers_now().iter().all(|pid| seen.contains(pid)).then_some(())
    });
}

pub fn wait_obtained(daemon: &Daemon, count: usize) {
    wait_for("certificates", || (daemon.log_count("gave a certificate for") >= count).then_some(()));
}

#[test]
fn a_server_gets_its_first_certificate_by_http() {
    let acme = Acme::start();
    let daemon = setup(&acme).start();
    let client = client(&acme);
    wait_certificate(&daemon, &client);
    for name in ["a.test", "b.test"] {
        assert!(ask(daemon.port(1), &client, name).is_some());
    }
    daemon
        .wait_log(r#"\[notice\].*acme: issuer "test" gave a certificate for a\.test, b\.test, valid until"#);
    assert_eq!((acme.orders(), acme.issued()), (1, 1));
    assert_eq!(acme.accounts()[0]["contact"][0], "mailto:admin@a.test");
    // Nobody else answers for a token, and the table is empty again.
    let other = "GET /.well-known/acme-challenge/token-1_0 HTTP/1.1\r\nHost: a.test\r\n\r\n";
    assert_eq!(fetch(daemon.port(0), other).status, 301);
    for entry in std::fs::read_dir(daemon.path("state")).expect("a folder").flatten() {
        let mode = entry.metadata().expect("a file").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", entry.file_name());
    }
    let mode = std::fs::metadata(daemon.path("state")).expect("a folder").permissions().mode() & 0o777;
    assert_eq!(mode, 0o700);
}

#[test]
fn a_server_gets_its_first_certificate_by_tls() {
    let acme = Acme::start();
    let daemon = setup_with(&acme, CONF, "challenge tls-alpn-01;", "").start();
    wait_certificate(&daemon, &client(&acme));
    assert_eq!(acme.issued(), 1);
    assert_eq!(acme.asked("/chal/1/0/http-01"), 0);
}

#[test]
fn handshakes_are_refused_until_the_certificate_is_there() {
    let acme = Acme::start();
    acme.trouble(Trouble::Broken);
    let daemon = setup(&acme).start();
    daemon.wait_log(
        r"\[error\].*acme: .*gave no certificate for a\.test, b\.test: .*status 500; next attempt in 60 s",
    );
    let refused = TlsClient::try_connect(daemon.port(1), &client(&acme), "a.test").err().expect("refused");
    assert!(refused.to_string().contains("UnrecognisedName"), "{refused}");
    assert_eq!(get(daemon.port(0), "/").status, 301);
    assert_eq!(daemon.complaints("alert|emerg|crit"), Vec::<String>::new());
}

#[test]
fn a_certificate_is_renewed_without_a_reload_while_clients_connect() {
    let acme = Acme::start();
    acme.lifetime_s(15);
    let daemon = setup(&acme).start();
    let client = client(&acme);
    let first = wait_certificate(&daemon, &client);
    let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let port = daemon.port(1);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                ask(port, &client, "a.test").expect("a handshake");
                served.fetch_add(1, Ordering::SeqCst);
            }
        });
        acme.lifetime_s(10_000);
        wait_other(&daemon, &client, &first);
        stop.store(true, Ordering::SeqCst);
    });
    assert!(served.load(Ordering::SeqCst) > 0);
    assert_eq!((acme.orders(), acme.accounts().len()), (2, 1));
    assert_eq!(daemon.log_count(r"start worker process \d"), 2, "no reload");
}

#[test]
fn a_restart_and_a_reload_ask_for_nothing() {
    let acme = Acme::start();
    let daemon = setup(&acme).start();
    let client = client(&acme);
    let first = wait_certificate(&daemon, &client);
    wait_obtained(&daemon, 1);
    daemon.reload();
    let keeper = daemon.keeper();
    assert_eq!(ask(daemon.port(1), &client, "a.test").expect("a handshake").0, first);
    send(keeper, Signal::SIGKILL);
    wait_for("another keeper", || (daemon.keepers_now().first().copied()? != keeper).then_some(()));
    assert_eq!((acme.orders(), acme.accounts().len()), (1, 1));
}
