//! Names of upstreams are asked for by one process, for all workers: how often, what the workers are told, and what
//! remains when it dies. A scripted name server counts its questions.

use std::sync::{Arc, Mutex};

use nix::sys::signal::Signal;

use crate::support::daemon::{binary, is_stand_in, send};
use crate::support::dns::{A, Dns, NXDOMAIN, SERVFAIL};
use crate::support::{Daemon, Origin, Setup, get, wait_for};

const CONF: &str = r#"
worker_processes %%WORKERS%%;
http {
    %%RESOLVER%%
    resolver_timeout 1s;
    upstream group { server %%SERVER%%; %%MORE%% }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / {
            add_header X-Upstream $upstream_addr always;
            add_header X-Pid $pid always;
            proxy_pass http://group;
        }
    }
}
"#;

/// The present result for every name: addresses, or a failure.
type Zone = Arc<Mutex<Result<Vec<&'static str>, u16>>>;

fn zone(
    ttl_s: u32,
    now: Result<Vec<&'static str>, u16>,
) -> (Zone, impl Fn(&crate::support::dns::Query) -> Vec<crate::support::dns::Reply>) {
    let zone: Zone = Arc::new(Mutex::new(now));
    let theirs = Arc::clone(&zone);
    let script = move |query: &crate::support::dns::Query| match &*theirs.lock().unwrap() {
        Err(code) => query.fail(*code),
        Ok(_) if query.kind != A => query.reply(&[]),
        Ok(list) => query.reply(&list.iter().map(|ip| query.a(ttl_s, ip)).collect::<Vec<_>>()),
    };
    (zone, script)
}

fn setup(resolver: &str, server: &str, workers: usize, more: &str) -> Setup {
    let resolver = if resolver.is_empty() { String::new() } else { format!("resolver {resolver} ipv6=off;") };
    let setup = Setup::new(CONF).set("RESOLVER", resolver).set("SERVER", server).set("MORE", more);
    setup.set("WORKERS", workers).level("notice")
}

/// The address that each worker passes its next request to, once all of so many have answered.
fn goes_to(daemon: &Daemon, workers: usize) -> Vec<String> {
    let mut seen = std::collections::BTreeMap::new();
    for _ in 0..200 {
        let response = get(daemon.port(0), "/");
        let address = response.header("X-Upstream").unwrap_or("-").to_owned();
        seen.insert(response.header("X-Pid").unwrap_or("-").to_owned(), address);
        if seen.len() == workers {
            break;
        }
    }
    seen.into_values().collect()
}

#[test]
fn one_process_asks_for_all_workers() {
    let origin = Origin::saying("1");
    let (_zone, script) = zone(1, Ok(vec!["127.0.0.1"]));
    let dns = Dns::start(script);
    let daemon = setup(&dns.address(), &format!("www.test:{} resolve", origin.port()), 8, "").start();
    assert_eq!(goes_to(&daemon, 8), vec![origin.address(); 8]);
    assert_eq!(dns.asked("www.test", A), 1, "eight workers, one question");
    dns.wait_asked("www.test", A, 3);
    assert_eq!(daemon.probers_now().len(), 1);
}

#[test]
fn a_worker_that_starts_later_and_the_next_prober_know_the_addresses() {
    let origin = Origin::saying("1");
    let (zone, script) = zone(1, Ok(vec!["127.0.0.1"]));
    let dns = Dns::start(script);
    let daemon = setup(&dns.address(), &format!("www.test:{} resolve", origin.port()), 2, "").start();
    assert_eq!(goes_to(&daemon, 2), vec![origin.address(); 2]);
    *zone.lock().unwrap() = Err(SERVFAIL);
    let prober = daemon.prober();
    send(prober, Signal::SIGKILL);
    wait_for("another prober", || daemon.probers_now().iter().any(|pid| *pid != prober).then_some(()));
    let worker = daemon.workers()[0];
    send(worker, Signal::SIGKILL);
    wait_for("another worker", || {
        let workers = daemon.workers_now();
        (workers.len() == 2 && !workers.contains(&worker)).then_some(())
    });
    assert_eq!(goes_to(&daemon, 2), vec![origin.address(); 2]);
    daemon.wait_log(r"could not be resolved \(2: Server failure\), its addresses stay");
}

#[test]
fn a_failure_that_stays_is_logged_once() {
    let origin = Origin::saying("1");
    let (zone, script) = zone(1, Err(SERVFAIL));
    let dns = Dns::start(script);
    let server = format!("www.test:{} resolve", origin.port());
    let daemon = setup(&dns.address(), &server, 2, "").start();
    assert_eq!(get(daemon.port(0), "/").status, 502, "the first answer is a failure, and ends the wait");
    dns.wait_asked("www.test", A, 4);
    assert_eq!(daemon.log_count("could not be resolved"), 1);
    *zone.lock().unwrap() = Ok(vec!["127.0.0.1"]);
    wait_for("both workers to know", || (goes_to(&daemon, 2) == vec![origin.address(); 2]).then_some(()));
}

#[test]
fn peers_of_a_followed_name_are_checked() {
    let good = Origin::saying("good");
    let (zone, script) = zone(1, Ok(vec!["127.0.0.1", "127.0.0.9"]));
    let dns = Dns::start(script);
    let server = format!("www.test:{} resolve max_fails=0", good.port());
    let daemon = setup(&dns.address(), &server, 2, "health_check interval=50ms;").start();
    let line = daemon.wait_log("peer is unhealthy");
    assert!(line.contains(&format!("127.0.0.9:{}", good.port())), "{line}");
    assert_eq!(goes_to(&daemon, 2), vec![good.address(); 2]);
    assert!((0..6).all(|_| get(daemon.port(0), "/").text() == "good"));
    // A new address has its own checks.
    *zone.lock().unwrap() = Ok(vec!["127.0.0.1", "127.0.0.8"]);
    daemon.wait_log(&format!("peer is unhealthy.* of peer 127.0.0.8:{}", good.port()));
}

/// A daemon that sees another `/etc/resolv.conf`. `None`: this process may not arrange that.
fn with_resolv_conf(setup: Setup, dns: &Dns) -> Option<Setup> {
    let can_mount = std::process::Command::new("unshare").args(["--mount", "true"]).status();
    if is_stand_in() || !can_mount.is_ok_and(|status| status.success()) {
        return None;
    }
    let folder = setup.folder().display().to_string();
    let script = format!(
        "#!/bin/sh\nexec unshare --mount sh -c 'mount --bind {folder}/resolv.conf /etc/resolv.conf && exec \"$0\" \
         \"$@\"' '{}' \"$@\"\n",
        binary().display()
    );
    let wrapper = setup.folder().join("wrapper");
    let setup = setup.file("resolv.conf", format!("nameserver {}\n", dns.ip())).file("wrapper", script);
    std::fs::set_permissions(&wrapper, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("it is ours");
    Some(setup.program(&wrapper))
}

#[test]
fn without_a_resolver_the_name_servers_of_the_system_are_asked() {
    let origin = Origin::saying("1");
    let (here, script) = zone(1, Ok(vec!["127.0.0.1"]));
    let Some(dns) = Dns::for_the_system(script) else { return };
    let setup = setup("", &format!("www.test:{} resolve", origin.port()), 2, "");
    let Some(setup) = with_resolv_conf(setup, &dns) else { return };
    let daemon = setup.start();
    assert_eq!(goes_to(&daemon, 2), vec![origin.address(); 2]);
    // A name that vanishes keeps its addresses.
    *here.lock().unwrap() = Err(NXDOMAIN);
    daemon.wait_log(r"could not be resolved \(3: Host not found\), its addresses stay");
    assert_eq!(goes_to(&daemon, 2), vec![origin.address(); 2]);
    // The file changes: other name servers are asked.
    let (_there, script) = zone(1, Ok(vec!["127.0.0.7"]));
    let Some(other) = Dns::for_the_system(script) else { return };
    daemon.write("resolv.conf", format!("nameserver {}\n", other.ip()));
    daemon.wait_log(&format!("name servers of the system: {}", other.ip()));
    let expected = format!("127.0.0.7:{}", origin.port());
    wait_for("the other address", || goes_to(&daemon, 2).iter().all(|to| *to == expected).then_some(()));
}
