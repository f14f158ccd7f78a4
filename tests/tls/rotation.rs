//! Certificates that change on disk are used by every worker, without a reload and without a failed connection.
//!
//! Method: certificates of one authority take each other's place in the ways that tools do it; clients look at
//! which one they get, and from which worker.

use std::collections::HashSet;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use rcgen::date_time_ymd;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::servers::s_client;
use crate::support::daemon::send;
use crate::support::tls::{Authority, Pair, TlsClient, trusting};
use crate::support::{Daemon, Setup, get, wait_for};

const CONF: &str = r#"
worker_processes 3;
http {
    server { listen 127.0.0.1:%%PORT_0%% ssl; ssl_certificate a.pem; ssl_certificate_key a.key; location / { return 200 $pid; } }
    server { listen 127.0.0.1:%%PORT_1%% ssl; ssl_certificate a.pem; ssl_certificate_key a.key; location / { return 200 $pid; } }
}
"#;

/// The log line about a certificate that is taken.
const TAKEN: &str = r#"\[notice\].*certificate ".*" has changed and is in use now \(a\.test\), valid until"#;

struct Site {
    daemon: Daemon,
    authority: Authority,
    client: Arc<ClientConfig>,
}

impl Site {
    fn start(conf: &str) -> Self {
        let authority = Authority::new("test");
        let pair = authority.issue(&["a.test"]);
        let setup = Setup::new(conf).file("a.pem", &pair.certificate).file("a.key", &pair.key);
        let client = forgetful(&authority);
        Self { daemon: setup.start(), authority, client }
    }

    fn issue(&self) -> Pair {
        self.authority.issue(&["a.test"])
    }

    fn ask(&self, port: u16) -> (i32, CertificateDer<'static>) {
        ask(port, &self.client)
    }

    /// Waits until every worker answers with this certificate, at both ports.
    fn wait_for_all(&self, pair: &Pair) {
        let expected = der(pair);
        for port in [self.daemon.port(0), self.daemon.port(1)] {
            let mut seen = HashSet::new();
            wait_for("every worker to have the certificate", || {
                let (pid, certificate) = self.ask(port);
                if certificate == expected {
                    seen.insert(pid);
                } else {
                    assert!(!seen.contains(&pid), "worker {pid} has the old certificate again");
                }
                self.daemon.workers_now().iter().all(|pid| seen.contains(pid)).then_some(())
            });
        }
    }

    fn taken(&self) -> usize {
        self.daemon.log_count(TAKEN)
    }

    fn wait_taken(&self, count: usize) {
        wait_for("a certificate to be taken", || (self.taken() >= count).then_some(()));
    }
}

/// A client that resumes no session: a resumed one has the certificate of its first handshake.
fn forgetful(authority: &Authority) -> Arc<ClientConfig> {
    let mut config = ClientConfig::clone(&trusting(authority));
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// The process and the certificate that answer.
fn ask(port: u16, client: &Arc<ClientConfig>) -> (i32, CertificateDer<'static>) {
    let mut client = TlsClient::connect(port, client, "a.test");
    let pid = client.get("a.test", "/").text().parse().expect("a number");
    let chain = client.tls.peer_certificates().expect("certificates");
    (pid, chain[0].clone().into_owned())
}

fn der(pair: &Pair) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pair.certificate.as_bytes()).expect("a certificate")
}

/// Writes a file and renames it into place.
fn put(daemon: &Daemon, name: &str, content: &str) {
    daemon.write("fresh", content);
    std::fs::rename(daemon.path("fresh"), daemon.path(name)).expect("the folder is ours");
}

#[test]
fn every_worker_gets_a_changed_certificate_under_load() {
    let site = Site::start(CONF);
    let stop = AtomicBool::new(false);
    let served = AtomicUsize::new(0);
    let (ports, client) = ([site.daemon.port(0), site.daemon.port(1)], &site.client);
    std::thread::scope(|scope| {
        let load = || {
            let mut kept = TlsClient::connect(ports[1], client, "a.test");
            while !stop.load(Ordering::SeqCst) {
                ask(ports[0], client);
                assert_eq!(kept.get("a.test", "/").status, 200);
                served.fetch_add(1, Ordering::SeqCst);
            }
        };
        let clients: Vec<_> = (0..3).map(|_| scope.spawn(load)).collect();
        let workers = site.daemon.workers();
        for round in 1..=3 {
            let pair = site.issue();
            if round == 2 {
                // In place, and the certificate first.
                site.daemon.write("a.pem", &pair.certificate);
                site.daemon.write("a.key", &pair.key);
            } else {
                put(&site.daemon, "a.key", &pair.key);
                put(&site.daemon, "a.pem", &pair.certificate);
            }
            site.wait_for_all(&pair);
            assert_eq!(site.taken(), round);
        }
        assert_eq!(site.daemon.workers(), workers, "nobody was replaced");
        let before = served.load(Ordering::SeqCst);
        wait_for("more requests", || {
            let failed = clients.iter().any(|client| client.is_finished());
            (failed || served.load(Ordering::SeqCst) > before + 20).then_some(())
        });
        stop.store(true, Ordering::SeqCst);
        for client in clients {
            client.join().expect("no request fails");
        }
    });
    assert_eq!(site.daemon.complaints("warn|error|crit|alert|emerg"), Vec::<String>::new());
}

#[test]
fn a_key_that_comes_a_second_before_its_certificate_is_no_fault() {
    let site = Site::start(CONF);
    let pair = site.issue();
    put(&site.daemon, "a.key", &pair.key);
    // Time itself is the subject: the pair that does not fit is read meanwhile.
    std::thread::sleep(Duration::from_millis(1500));
    put(&site.daemon, "a.pem", &pair.certificate);
    site.wait_for_all(&pair);
    assert_eq!(site.daemon.complaints("warn|error"), Vec::<String>::new());
}

#[test]
fn a_pair_that_does_not_fit_is_reported_once_and_the_old_one_serves() {
    let site = Site::start(CONF);
    let (_, old) = site.ask(site.daemon.port(0));
    let pair = site.issue();
    put(&site.daemon, "a.pem", &pair.certificate);
    let fault = site.daemon.wait_log(r"\[error\].*cannot load certificate key");
    for word in ["a.key\"", "write a certificate and the key that belongs to it", "in force stays"] {
        assert!(fault.contains(word), "{fault}");
    }
    assert_eq!(site.ask(site.daemon.port(0)).1, old);
    put(&site.daemon, "a.key", &pair.key);
    site.wait_for_all(&pair);

    std::fs::remove_file(site.daemon.path("a.pem")).expect("the folder is ours");
    let fault = site.daemon.wait_log(r"\[error\].*cannot read certificate");
    assert!(fault.contains("a.pem\" (2: No such file or directory): put it back"), "{fault}");
    assert_eq!(site.ask(site.daemon.port(0)).1, der(&pair));
    let next = site.issue();
    put(&site.daemon, "a.pem", "no certificate");
    put(&site.daemon, "a.key", &next.key);
    put(&site.daemon, "a.pem", &next.certificate);
    site.wait_for_all(&next);
    assert_eq!(site.daemon.complaints("warn|error").len(), 2, "each fault once");
    assert!(!site.daemon.log().contains("BEGIN"), "no key in the log");
}

#[test]
fn workers_that_are_forked_later_have_the_newer_certificate() {
    let site = Site::start(CONF);
    let pair = site.issue();
    put(&site.daemon, "a.key", &pair.key);
    put(&site.daemon, "a.pem", &pair.certificate);
    site.wait_for_all(&pair);
    let old = site.daemon.workers();
    send(old[0], Signal::SIGKILL);
    wait_for("a new worker", || {
        let now = site.daemon.workers_now();
        (now.len() == 3 && !now.contains(&old[0])).then_some(())
    });
    site.wait_for_all(&pair);
    site.daemon.reload();
    site.wait_for_all(&pair);
    assert_eq!(site.taken(), 1);
    let next = site.issue();
    put(&site.daemon, "a.key", &next.key);
    put(&site.daemon, "a.pem", &next.certificate);
    site.wait_for_all(&next);
    assert_eq!(site.taken(), 2);
}

/// The configuration that comes back had been left alone while the files changed.
#[test]
fn a_reload_that_fails_does_not_bring_back_the_old_certificate() {
    let site = Site::start(&CONF.replacen(
        "worker_processes 3;",
        "worker_processes 3;\nworking_directory %%DIR%%;",
        1,
    ));
    let pair = site.issue();
    let folder = site.daemon.folder().display().to_string();
    site.daemon.rewrite(|text| {
        text.replacen(&format!("working_directory {folder};"), "working_directory /nonexistent/folder;", 1)
    });
    put(&site.daemon, "a.key", &pair.key);
    put(&site.daemon, "a.pem", &pair.certificate);
    site.daemon.signal(Signal::SIGHUP);
    site.daemon.wait_log("the previous one stays in force");
    site.wait_for_all(&pair);
}

/// certbot's `live` leads to the newest file of `archive`, Kubernetes' `..data` to the newest folder.
#[test]
fn links_that_are_switched_are_followed() {
    let authority = Authority::new("test");
    let setup = Setup::new(&CONF.replace("a.pem", "live/a.pem").replace("a.key", "live/a.key"));
    let pair = authority.issue(&["a.test"]);
    let setup = setup.file("archive/a1.pem", &pair.certificate).file("archive/a1.key", &pair.key);
    std::fs::create_dir(setup.folder().join("live")).expect("the folder is ours");
    for file in ["pem", "key"] {
        let link = setup.folder().join(format!("live/a.{file}"));
        symlink(format!("../archive/a1.{file}"), link).expect("the folder is ours");
    }
    let site = Site { daemon: setup.start(), client: forgetful(&authority), authority };
    let daemon = &site.daemon;
    let pair = site.issue();
    daemon.write("archive/a2.pem", &pair.certificate);
    daemon.write("archive/a2.key", &pair.key);
    for file in ["key", "pem"] {
        symlink(format!("../archive/a2.{file}"), daemon.path("fresh")).expect("the folder is ours");
        std::fs::rename(daemon.path("fresh"), daemon.path(&format!("live/a.{file}"))).expect("ours");
    }
    site.wait_for_all(&pair);

    // The file at the end of the link, which was watched only since then.
    let next = site.issue();
    daemon.write("archive/a2.pem", &next.certificate);
    daemon.write("archive/a2.key", &next.key);
    site.wait_for_all(&next);

    // Both files at once, by one link.
    let last = site.issue();
    daemon.write("v1/a.pem", &next.certificate);
    daemon.write("v1/a.key", &next.key);
    daemon.write("v2/a.pem", &last.certificate);
    daemon.write("v2/a.key", &last.key);
    symlink("v1", daemon.path("..data")).expect("the folder is ours");
    for file in ["key", "pem"] {
        symlink(format!("../..data/a.{file}"), daemon.path("fresh")).expect("the folder is ours");
        std::fs::rename(daemon.path("fresh"), daemon.path(&format!("live/a.{file}"))).expect("ours");
    }
    daemon.rewrite(|text| text + "# the same\n");
    daemon.reload();
    symlink("v2", daemon.path("fresh")).expect("the folder is ours");
    std::fs::rename(daemon.path("fresh"), daemon.path("..data")).expect("the folder is ours");
    site.wait_for_all(&last);
    assert_eq!(daemon.complaints("warn|error"), Vec::<String>::new());
}

#[test]
fn one_of_two_certificates_and_its_ocsp_response_change() {
    let conf = CONF.replace(
        "ssl_certificate a.pem; ssl_certificate_key a.key;",
        "ssl_stapling on; ssl_stapling_file ocsp.der; ssl_certificate a.pem; ssl_certificate_key a.key;
         ssl_certificate b.pem; ssl_certificate_key b.key;",
    );
    let authority = Authority::new("test");
    let pair = authority.issue(&["a.test"]);
    let ed25519 = || rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
    let other = authority.issue_for(&ed25519(), &["a.test"], |_| {});
    let successful = [0x30, 3, 0x0a, 1, 0];
    let setup = Setup::new(&conf).file("a.pem", &pair.certificate).file("a.key", &pair.key);
    let setup =
        setup.file("b.pem", &other.certificate).file("b.key", &other.key).file("ocsp.der", successful);
    let site = Site { daemon: setup.start(), client: forgetful(&authority), authority };
    let port = site.daemon.port(0);
    let shown = s_client(port, &["-status", "-sigalgs", "ECDSA+SHA256"]);
    assert!(shown.contains("OCSP Response Status: successful"), "{shown}");
    let shown = s_client(port, &["-status", "-sigalgs", "ed25519"]);
    assert!(shown.contains("OCSP response: no response sent"), "{shown}");

    let other = site.authority.issue_for(&ed25519(), &["a.test"], |_| {});
    put(&site.daemon, "b.key", &other.key);
    put(&site.daemon, "b.pem", &other.certificate);
    site.wait_taken(1);
    wait_for("the new certificate", || {
        let shown = s_client(port, &["-sigalgs", "ed25519"]);
        let line = other.certificate.lines().nth(2).expect("several lines");
        shown.contains(line).then_some(())
    });
    site.daemon.write("ocsp.der", [0x30, 3, 0x0a, 1, 6]);
    let fault = site.daemon.wait_log("no successful OCSP response");
    assert!(fault.contains("ocsp.der"), "{fault}");
    // One more byte, so that it is another response.
    site.daemon.write("ocsp.der", [0x30, 5, 0x0a, 1, 0, 0xa0, 0]);
    site.wait_taken(2);
}

#[test]
fn other_names_and_expired_certificates_are_told() {
    let site = Site::start(CONF);
    let (_, old) = site.ask(site.daemon.port(0));
    let expired = site.authority.issue_with(&["a.test"], |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    put(&site.daemon, "a.key", &expired.key);
    put(&site.daemon, "a.pem", &expired.certificate);
    let fault = site.daemon.wait_log("expired on 2021-01-01 00:00 UTC: renew it");
    assert!(fault.contains("[error]") && fault.contains("a.pem"), "{fault}");
    assert_eq!(site.ask(site.daemon.port(0)).1, old);
    let other = site.authority.issue(&["a.test", "b.test"]);
    put(&site.daemon, "a.key", &other.key);
    put(&site.daemon, "a.pem", &other.certificate);
    let names = site.daemon.wait_log(r"\[warn\].*has other names now");
    assert!(names.ends_with("a.test, b.test; before: a.test"), "{names}");
    site.wait_for_all(&other);
}

#[test]
fn certificates_that_expire_soon_are_told_at_the_start_and_in_tests() {
    let authority = Authority::new("test");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let pair = authority.issue_with(&["a.test"], |params| {
        params.not_after = date_time_ymd(1970, 1, 1) + now + Duration::from_secs(13 * 86_400 / 2);
    });
    let setup = Setup::new(CONF).file("a.pem", &pair.certificate).file("a.key", &pair.key);
    let line =
        r#"\[warn\].* certificate ".*/a\.pem" \(a\.test\) expires in 7 days, on 20[0-9-]+ [0-9:]+ UTC$"#;
    let tested = setup.run(&["-t", "--strict"]);
    let stderr = String::from_utf8_lossy(&tested.stderr).into_owned();
    let regex = regex::Regex::new(&format!("(?m){line}")).expect("valid");
    assert!(tested.status.success() && regex.is_match(&stderr), "{stderr}");
    let dump = setup.run(&["-T", "--effective"]);
    let text = String::from_utf8_lossy(&dump.stdout).into_owned();
    let has_remark =
        |line: &&str| line.contains("ssl_certificate a.pem; # ") && line.contains(", expires on 20");
    assert_eq!(text.lines().filter(has_remark).count(), 2, "{text}");
    let daemon = setup.start();
    daemon.wait_log(line);
    daemon.reload();
    assert_eq!(daemon.log_count(line), 2, "at the start and at the reload");
}

/// Upstreams see the newer certificate of a client, in HTTP and in streams.
#[test]
fn upstreams_are_shown_a_changed_certificate() {
    let conf = r#"
        http {
            server { listen 127.0.0.1:%%PORT_2%% ssl; ssl_certificate a.pem; ssl_certificate_key a.key; ssl_verify_client optional_no_ca;
                return 200 "$ssl_client_serial"; }
            server { listen 127.0.0.1:%%PORT_0%%; proxy_ssl_certificate own.pem; proxy_ssl_certificate_key own.key;
                location / { proxy_pass https://127.0.0.1:%%PORT_2%%; proxy_http_version 1.0; }
                location /kept { proxy_pass https://kept; proxy_http_version 1.1; proxy_set_header Connection ""; } }
            upstream kept { server 127.0.0.1:%%PORT_2%%; keepalive 1; }
        }
        stream {
            server { listen 127.0.0.1:%%PORT_1%%; proxy_pass 127.0.0.1:%%PORT_2%%; proxy_ssl on;
                proxy_ssl_certificate own.pem; proxy_ssl_certificate_key own.key; }
        }"#;
    let authority = Authority::new("test");
    let numbered = |serial: u64| {
        authority.issue_with(&["own.test"], |params| params.serial_number = Some(serial.into()))
    };
    let (server, first) = (authority.issue(&["a.test"]), numbered(0x51));
    let files = [("a.pem", server.certificate), ("a.key", server.key)];
    let own = [("own.pem", first.certificate), ("own.key", first.key)];
    let setup =
        files.into_iter().chain(own).fold(Setup::new(conf), |setup, (name, data)| setup.file(name, data));
    let daemon = setup.start();
    let seen = |port: u16, path: &str| get(port, path).text();
    let all = || [seen(daemon.port(0), "/"), seen(daemon.port(0), "/kept"), seen(daemon.port(1), "/")];
    assert_eq!(all(), ["51", "51", "51"]);
    let second = numbered(0x52);
    put(&daemon, "own.key", &second.key);
    put(&daemon, "own.pem", &second.certificate);
    wait_for("upstreams to see the newer certificate", || {
        let [fresh, _, stream] = all();
        (fresh == "52" && stream == "52").then_some(())
    });
    daemon.write("own.pem", "no certificate");
    daemon.wait_log("cannot load certificate \".*own.pem\".*until then the certificate in force stays");
    assert_eq!((seen(daemon.port(0), "/"), seen(daemon.port(1), "/")), ("52".into(), "52".into()));
}

#[test]
fn without_a_master_the_only_process_uses_a_changed_certificate() {
    let authority = Authority::new("test");
    let pair = authority.issue(&["a.test"]);
    let conf = CONF.replace("worker_processes 3;", "master_process off;");
    let setup =
        Setup::new(&conf).file("a.pem", &pair.certificate).file("a.key", &pair.key).level("notice").alone();
    let client = forgetful(&authority);
    let site = Site { daemon: setup.start(), authority, client };
    let port = site.daemon.port(0);
    let (pid, first) = site.ask(port);
    assert_eq!(first, der(&pair));
    let next = site.issue();
    site.daemon.write("a.key", &next.key);
    site.daemon.write("a.pem", &next.certificate);
    site.daemon.wait_log(TAKEN);
    assert_eq!(site.ask(port), (pid, der(&next)));
    assert_eq!(site.ask(site.daemon.port(1)).1, der(&next));
}
