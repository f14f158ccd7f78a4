//! Connections and sessions that outlive the worker that made them: over a reload, to another worker, over an upgrade.

use std::sync::Arc;

use nix::sys::signal::Signal;
use rustls::{ClientConfig, HandshakeKind, SupportedProtocolVersion, version};

use crate::support::daemon::send;
use crate::support::tls::{Authority, TlsClient, client_config};
use crate::support::{Daemon, Setup, process, wait_for};

const CONF: &str = r#"
worker_processes 2;
http {
    ssl_certificate site.pem;
    ssl_certificate_key site.key;
    ssl_session_cache %%CACHE%%;
    ssl_session_tickets %%TICKETS%%;
    ssl_client_certificate clients.pem;
    ssl_verify_client optional;
    keepalive_timeout 60s;
    server {
        listen 127.0.0.1:%%PORT_0%% ssl;
        server_name site.test;
        location / { return 200 "$pid $connection_requests $ssl_server_name $ssl_client_verify $ssl_client_s_dn"; }
    }
}
"#;

struct Site {
    daemon: Daemon,
    authority: Authority,
    clients: Authority,
}

fn start(cache: &str, tickets: &str) -> Site {
    let (authority, clients) = (Authority::new("test"), Authority::new("clients"));
    let pair = authority.issue(&["site.test"]);
    let setup = Setup::new(CONF)
        .set("CACHE", cache)
        .set("TICKETS", tickets)
        .file("clients.pem", clients.certificate())
        .file("site.pem", pair.certificate)
        .file("site.key", pair.key);
    Site { daemon: setup.start(), authority, clients }
}

impl Site {
    fn config(&self, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
        let own = self.clients.issue(&["someone"]);
        client_config(&self.authority, Some(&own), &[version])
    }

    fn connect(&self, config: &Arc<ClientConfig>) -> TlsClient {
        TlsClient::connect(self.daemon.port(0), config, "site.test")
    }
}

/// The worker that answered, and the rest of the answer.
fn ask(client: &mut TlsClient) -> (i32, String) {
    let body = String::from_utf8(client.get("site.test", "/").body).expect("text");
    let (pid, rest) = body.split_once(' ').expect("a number first");
    (pid.parse().expect("a number"), rest.to_owned())
}

const VERSIONS: [&SupportedProtocolVersion; 2] = [&version::TLS12, &version::TLS13];

#[test]
fn kept_connections_move_to_the_next_generation() {
    let site = start("none", "on");
    for version in VERSIONS {
        let config = site.config(version);
        let mut clients: Vec<TlsClient> = (0..8).map(|_| site.connect(&config)).collect();
        let mut pids: Vec<i32> = clients.iter_mut().map(|client| ask(client).0).collect();
        for round in 2..5 {
            site.daemon.reload();
            for (client, pid) in clients.iter_mut().zip(&mut pids) {
                let (now, rest) = ask(client);
                assert_ne!(now, *pid, "the worker of the earlier generation");
                // All that the handshake has found out goes with the connection.
                assert_eq!(rest, format!("{round} site.test SUCCESS CN=someone"));
                *pid = now;
            }
            if version == &version::TLS13 {
                clients[0].tls.refresh_traffic_keys().expect("TLS 1.3");
                ask(&mut clients[0]);
                clients.remove(0);
                pids.remove(0);
            }
        }
    }
    assert_eq!(site.daemon.complaints("warn|error|crit|alert|emerg"), Vec::<String>::new());
}

#[test]
fn a_reload_that_trusts_others_does_not_trust_a_moved_connection() {
    let site = start("none", "on");
    let config = site.config(&version::TLS13);
    let mut client = site.connect(&config);
    assert!(ask(&mut client).1.contains("SUCCESS"));
    site.daemon.write("clients.pem", Authority::new("others").certificate());
    site.daemon.reload();
    let response = client.get("site.test", "/");
    assert_eq!(response.status, 400, "{:?}", String::from_utf8_lossy(&response.body));
}

#[test]
fn sessions_resume_at_every_worker_and_after_a_reload() {
    for (cache, tickets) in
        [("none", "on"), ("shared:SSL:1m", "off"), ("builtin", "off"), ("builtin:100", "off")]
    {
        let site = start(cache, tickets);
        for version in VERSIONS {
            let config = site.config(version);
            ask(&mut site.connect(&config));
            let mut pids = std::collections::BTreeSet::new();
            for round in 0..40 {
                if round == 20 {
                    site.daemon.reload();
                }
                let mut client = site.connect(&config);
                assert_eq!(client.tls.handshake_kind(), Some(HandshakeKind::Resumed), "{cache} {version:?}");
                let (pid, rest) = ask(&mut client);
                assert!(rest.ends_with("site.test SUCCESS CN=someone"), "{rest}");
                pids.insert(pid);
            }
            assert!(pids.len() > 2, "two workers before the reload or after it");
        }
        assert_eq!(site.daemon.complaints("warn|error|crit|alert|emerg"), Vec::<String>::new());
    }
}

#[test]
fn sessions_resume_and_connections_live_on_after_an_upgrade() {
    let site = start("shared:SSL:1m", "on");
    let config = site.config(&version::TLS13);
    let mut kept = site.connect(&config);
    let (before, _) = ask(&mut kept);
    let old = site.daemon.pid();
    site.daemon.signal(Signal::SIGUSR2);
    let new = wait_for("the new master", || {
        let pid = site.daemon.read("pronghorn.pid").trim().parse::<i32>().ok()?;
        (pid != old && !process::children(pid).is_empty()).then_some(pid)
    });
    send(old, Signal::SIGWINCH);
    wait_for("a new worker to answer", || (ask(&mut kept).0 != before).then_some(()));
    let client = site.connect(&config);
    assert_eq!(client.tls.handshake_kind(), Some(HandshakeKind::Resumed));
    send(old, Signal::SIGQUIT);
    wait_for("the old master to end", || (!process::is_alive(old)).then_some(()));
    site.daemon.follow(new);
}
