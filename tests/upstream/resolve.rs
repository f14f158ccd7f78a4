//! `server NAME resolve`: peers follow their name without a reload, in every worker; and `service=`.
//!
//! A scripted name server whose answers the test changes; origins on several loopback addresses share a port.

use std::sync::{Arc, Mutex};

use nix::sys::signal::Signal;

use crate::support::daemon::send;
use crate::support::dns::{A, AAAA, Dns, NXDOMAIN, SERVFAIL, SRV};
use crate::support::process::is_alive;
use crate::support::{Daemon, Origin, Setup, get, port as ports, wait_for};

const CONF: &str = r#"
worker_processes %%WORKERS%%;
http {
    resolver %%RESOLVER%% valid=1s;
    resolver_timeout 1s;
    upstream group {
        server %%SERVER%%;
    }
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

/// The present result for the name: addresses, or a failure.
type Zone = Arc<Mutex<Result<Vec<String>, u16>>>;

fn zone(addresses: &[&str]) -> (Zone, Dns) {
    let zone: Zone = Arc::new(Mutex::new(Err(SERVFAIL)));
    set(&zone, Ok(addresses));
    let theirs = zone.clone();
    let dns = Dns::start(move |query| match &*theirs.lock().unwrap() {
        Err(code) => query.fail(*code),
        Ok(_) if query.kind != A => query.reply(&[]),
        Ok(list) => query.reply(&list.iter().map(|ip| query.a(1, ip)).collect::<Vec<_>>()),
    });
    (zone, dns)
}

fn set(zone: &Zone, now: Result<&[&str], u16>) {
    *zone.lock().unwrap() = now.map(|list| list.iter().map(|&ip| ip.to_owned()).collect());
}

fn start(dns: &Dns, server: &str, workers: usize) -> Daemon {
    Setup::new(CONF).set("RESOLVER", dns.address()).set("SERVER", server).set("WORKERS", workers).start()
}

/// The address that a request was passed to; `status` if it was passed nowhere.
fn goes_to(daemon: &Daemon) -> String {
    let response = get(daemon.port(0), "/");
    match response.header("X-Upstream") {
        Some(address) if response.status == 200 => address.rsplit_once(':').unwrap().0.to_owned(),
        _ => response.status.to_string(),
    }
}

/// An origin on 127.0.0.2, in addition to one on 127.0.0.1 at the same port.
struct Second {
    _thread: std::thread::JoinHandle<()>,
}

impl Second {
    fn start(port: u16) -> Self {
        let listener = ports::listen([127, 0, 0, 2].into(), port);
        let thread = std::thread::spawn(move || {
            use std::io::{Read, Write};
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let _ = stream.read(&mut [0; 4096]);
                let _ =
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\n2");
            }
        });
        Self { _thread: thread }
    }
}

#[test]
fn a_name_is_followed_without_a_reload() {
    let origin = Origin::saying("1");
    let _second = Second::start(origin.port());
    let (zone, dns) = zone(&["127.0.0.1"]);
    let daemon = start(&dns, &format!("www.test:{} resolve", origin.port()), 2);
    assert_eq!(goes_to(&daemon), "127.0.0.1", "the first request waits for the first answer");

    set(&zone, Ok(&["127.0.0.2"]));
    wait_for("both workers to go elsewhere", || {
        (0..20).all(|_| goes_to(&daemon) == "127.0.0.2").then_some(())
    });
    origin.wait_ended(origin.accepted()); // kept connections to an address that is gone are closed
    set(&zone, Ok(&["127.0.0.1", "127.0.0.2"]));
    wait_for("both addresses in turn", || {
        let seen: std::collections::HashSet<String> = (0..8).map(|_| goes_to(&daemon)).collect();
        (seen.len() == 2).then_some(())
    });
    let pids: Vec<i32> = daemon.workers();
    assert_eq!(pids.len(), 2, "nobody was restarted");
}

#[test]
fn a_failure_changes_nothing_and_a_name_that_is_gone_takes_the_peers_away() {
    let origin = Origin::saying("1");
    let (zone, dns) = zone(&["127.0.0.1"]);
    let daemon = start(&dns, &format!("www.test:{} resolve", origin.port()), 1);
    assert_eq!(goes_to(&daemon), "127.0.0.1");

    set(&zone, Err(SERVFAIL));
    daemon.wait_log(r"could not be resolved \(2: Server failure\), its addresses stay");
    assert_eq!(goes_to(&daemon), "127.0.0.1");
    set(&zone, Err(NXDOMAIN));
    daemon.wait_log(r"could not be resolved \(3: Host not found\), it counts as down");
    wait_for("the worker to learn it", || (goes_to(&daemon) == "502").then_some(()));
    set(&zone, Ok(&["127.0.0.1"]));
    wait_for("the name to be back", || (goes_to(&daemon) == "127.0.0.1").then_some(()));
    assert_eq!(origin.accepted(), 2, "kept connections go with their peers only");
}

#[test]
fn workers_that_come_later_know_what_those_before_have_learned() {
    let origin = Origin::saying("1");
    let (zone, dns) = zone(&["127.0.0.1"]);
    let daemon = start(&dns, &format!("www.test:{} resolve", origin.port()), 1);
    assert_eq!(goes_to(&daemon), "127.0.0.1");
    set(&zone, Err(SERVFAIL));

    daemon.reload();
    assert_eq!(goes_to(&daemon), "127.0.0.1", "after a reload");
    let worker = daemon.worker();
    send(worker, Signal::SIGKILL);
    wait_for("the worker to be gone", || (!is_alive(worker)).then_some(()));
    assert_eq!(goes_to(&daemon), "127.0.0.1", "after a crash");
    // If the next configuration has another port, that one is used.
    let other = Origin::saying("other");
    let (from, to) = (origin.port().to_string(), other.port().to_string());
    daemon.rewrite(|conf| conf.replace(&from, &to));
    daemon.reload();
    assert_eq!(get(daemon.port(0), "/").text(), "other");
}

#[test]
fn a_server_whose_name_never_resolves_is_down_beside_the_others() {
    let origin = Origin::saying("1");
    let (_zone, dns) = zone(&[]);
    let server = format!("none.test:81 resolve; server 127.0.0.1:{}", origin.port());
    let daemon = start(&dns, &server, 1);
    for _ in 0..4 {
        assert_eq!(goes_to(&daemon), "127.0.0.1");
    }
    daemon.wait_log("\"none.test:81\" of \"group\" could not be resolved");
}

#[test]
fn service_records_give_ports_weights_and_backups() {
    let (heavy, light, spare) = (Origin::saying("heavy"), Origin::saying("light"), Origin::saying("spare"));
    let ports = [heavy.port(), light.port(), spare.port()];
    let dns = Dns::start(move |query| match (&*query.name, query.kind) {
        ("_http._tcp.www.test", SRV) => query.reply(&[
            query.service(60, [1, 3, ports[0]], "a.test"),
            query.service(60, [1, 1, ports[1]], "a.test"),
            query.service(60, [2, 9, ports[2]], "b.test"),
        ]),
        ("a.test" | "b.test", A) => query.reply(&[query.a(60, "127.0.0.1")]),
        (_, AAAA) => query.reply(&[]),
        _ => query.fail(NXDOMAIN),
    });
    let daemon = start(&dns, "www.test service=http resolve", 1);
    let mut counts = std::collections::HashMap::new();
    for _ in 0..8 {
        *counts.entry(get(daemon.port(0), "/").text()).or_insert(0) += 1;
    }
    assert_eq!((counts.get("heavy"), counts.get("light"), counts.get("spare")), (Some(&6), Some(&2), None));
    drop((heavy, light));
    assert_eq!(get(daemon.port(0), "/").text(), "spare", "the second priority is a backup");
}

#[test]
fn mistakes_are_named() {
    for (server, message) in [
        ("resolver 127.0.0.1; server a.test service=http;", "requires \"resolve\" parameter"),
        ("resolver 127.0.0.1; server a.test:80 resolve service=http;", "may not have port"),
        ("resolver 127.0.0.1; resolver 127.0.0.1; server a.test resolve;", "directive is duplicate"),
        ("resolver_timeout x; server 127.0.0.1;", "\"resolver_timeout\" directive invalid value"),
    ] {
        let conf = format!("http {{ upstream u {{ {server} }} server {{ listen 127.0.0.1:%%PORT_0%%; }} }}");
        let output = Setup::new(&conf).run(&["-t"]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(message), "{server}: {text}");
    }
    let conf = "http { upstream u { server 127.0.0.1 resolve; } server { listen 127.0.0.1:%%PORT_0%%; } }";
    let output = Setup::new(conf).run(&["-t"]);
    assert!(output.status.success(), "an address needs no resolver: {output:?}");
}
