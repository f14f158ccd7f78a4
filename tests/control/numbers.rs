//! The numbers of TLS, of health checks and of queues, and latencies: each test brings about what is counted, and compares.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rcgen::{SerialNumber, date_time_ymd};
use serde_json::{Value, json};

use super::zones::plus;
use super::{control, with_certificate};
use crate::process::upgrade::upgrade;
use crate::support::daemon::{is_stand_in, send};
use crate::support::origin::ok;
use crate::support::tls::{Authority, TlsClient, client_config, trusting};
use crate::support::{Client, Daemon, Origin, Setup, get, port, process, wait_for};

/// The document once it is as expected: counts are written at the end of a turn.
fn wait_plus(daemon: &Daemon, path: &str, is_it: impl Fn(&Value) -> bool) -> Value {
    wait_for(path, || Some(plus(daemon, path)).filter(|now| is_it(now)))
}

#[test]
fn each_server_counts_its_handshakes_and_the_clients_that_it_refuses() {
    if is_stand_in() {
        return;
    }
    const CONF: &str = r#"
        worker_processes 1;
        control unix:%%DIR%%/ctl;
        http {
            ssl_certificate chain.pem; ssl_certificate_key key.pem;
            server { listen 127.0.0.1:%%PORT_0%% ssl; server_name one.test; status_zone one.test; location / { return 200 x; } }
            server {
                listen 127.0.0.1:%%PORT_1%% ssl; server_name two.test; status_zone two.test; location / { return 200 x; }
                ssl_verify_client on; ssl_client_certificate ca.pem; ssl_crl crl.pem;
            }
            server {
                listen 127.0.0.1:%%PORT_2%%; server_name plain.test; status_zone plain.test;
                location / { proxy_pass https://127.0.0.1:%%PORT_0%%; proxy_ssl_name other.test; proxy_ssl_verify on;
                    proxy_ssl_trusted_certificate ca.pem; }
            }
        }
    "#;
    let (authority, setup) = with_certificate(Setup::new(CONF), "localhost");
    let setup = setup.file("ca.pem", authority.certificate()).file("crl.pem", authority.revoke(&[7]));
    let daemon = setup.level("crit").start();
    let stranger = Authority::new("another one");
    assert!(TlsClient::try_connect(daemon.port(0), &trusting(&stranger), "localhost").is_err());
    TlsClient::connect(daemon.port(0), &trusting(&authority), "localhost").get("localhost", "/");
    assert_eq!(get(daemon.port(2), "/").status, 502);

    let revoked =
        authority.issue_with(&["revoked"], |params| params.serial_number = Some(SerialNumber::from(7)));
    let expired = authority.issue_with(&["expired"], |params| params.not_after = date_time_ymd(2020, 1, 1));
    let (good, foreign) = (authority.issue(&["good"]), stranger.issue(&["foreign"]));
    let clients = [
        (Some(&good), 200),
        (None, 400),
        (Some(&revoked), 400),
        (Some(&expired), 400),
        (Some(&foreign), 400),
    ];
    for (own, expected) in clients {
        let config = client_config(&authority, own, rustls::ALL_VERSIONS);
        let answer = TlsClient::connect(daemon.port(1), &config, "localhost").get("localhost", "/");
        assert_eq!(answer.status, expected);
    }
    let ssl = wait_plus(&daemon, "ssl", |ssl| ssl["verify_failures"]["other"] == 1);
    assert_eq!(
        ssl["verify_failures"],
        json!({ "no_cert": 1, "expired_cert": 1, "revoked_cert": 1, "hostname_mismatch": 1, "other": 1 })
    );
    let zones = plus(&daemon, "http/server_zones");
    assert_eq!(
        zones["two.test"]["ssl"],
        json!({ "handshakes": 5, "handshakes_failed": 0, "session_reuses": 0 })
    );
    let one = &zones["one.test"]["ssl"];
    // The peer that asked for another name ends the handshake after or before we count it as made.
    let made = |key: &str| one[key].as_u64().expect("a number");
    assert_eq!(made("handshakes") + made("handshakes_failed"), 3, "{one}");
    assert!(made("handshakes_failed") >= 1, "{one}");
    assert_eq!(
        zones["plain.test"]["ssl"],
        json!({ "handshakes": 0, "handshakes_failed": 0, "session_reuses": 0 })
    );
    let status = control(&daemon, "GET", "/pronghorn/status", "").json();
    let zones = status["zones"].as_array().expect("a list");
    let two = zones.iter().find(|zone| zone["name"] == "two.test").expect("two.test");
    assert_eq!(two["tls_clients_refused"], 4, "{two}");
    assert_eq!(plus(&daemon, "license"), json!({ "eval": false }));
}

#[test]
fn checks_and_the_time_out_of_service_are_shown() {
    if is_stand_in() {
        return;
    }
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    let is_ill = Arc::new(AtomicBool::new(false));
    let ill = Arc::clone(&is_ill);
    let origin = Origin::replying(move |_| match ill.load(Ordering::SeqCst) {
        true => b"HTTP/1.1 503 Ill\r\nContent-Length: 3\r\n\r\nill".to_vec(),
        false => ok(b"well"),
    });
    const CONF: &str = r#"
        worker_processes 2;
        control unix:%%DIR%%/ctl;
        http {
            upstream app { zone app 64k; server %%ORIGIN%%; }
            server { listen 127.0.0.1:%%PORT_0%%; location / { proxy_pass http://app; health_check interval=50ms; } }
        }
    "#;
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).level("notice").start();
    let peer = |is_it: &dyn Fn(&Value) -> bool| {
        wait_plus(&daemon, "http/upstreams/app", |found| is_it(&found["peers"][0]))["peers"][0].clone()
    };
    let well = peer(&|peer| peer["health_checks"]["checks"].as_u64() >= Some(2));
    assert_eq!(
        (
            &well["health_checks"]["fails"],
            &well["health_checks"]["unhealthy"],
            &well["health_checks"]["last_passed"]
        ),
        (&json!(0), &json!(0), &json!(true)),
        "{well}"
    );
    assert_eq!((&well["downtime"], well.get("downstart")), (&json!(0), None), "{well}");
    is_ill.store(true, Ordering::SeqCst);
    let down = peer(&|peer| peer["state"] == "unhealthy" && peer["downtime"].as_u64() > Some(0));
    assert_eq!(
        (&down["health_checks"]["unhealthy"], &down["health_checks"]["last_passed"]),
        (&json!(1), &json!(false))
    );
    assert!(down["downstart"].as_str().is_some_and(|time| time.starts_with("20")), "{down}");
    let longer = peer(&|peer| peer["downtime"].as_u64() > down["downtime"].as_u64());
    assert_eq!(longer["health_checks"]["unhealthy"], 1);
    // A reload begins no new time, and loses none.
    assert_eq!(control(&daemon, "PATCH", "/1/control/config", "").status, 200);
    peer(&|peer| peer["downtime"].as_u64() > longer["downtime"].as_u64());
    is_ill.store(false, Ordering::SeqCst);
    let up = peer(&|peer| peer["state"] == "up");
    assert!(up["downtime"].as_u64() > longer["downtime"].as_u64() && up.get("downstart").is_none(), "{up}");
    let checks = up["health_checks"]["checks"].as_u64();
    let later = peer(&|peer| peer["health_checks"]["checks"].as_u64() > checks);
    assert_eq!(
        (&later["downtime"], &later["health_checks"]["unhealthy"]),
        (&up["downtime"], &json!(1)),
        "{later}"
    );
}

#[test]
fn a_peer_that_fails_is_out_for_its_fail_timeout() {
    if is_stand_in() {
        return;
    }
    const CONF: &str = r#"
        worker_processes 1;
        control unix:%%DIR%%/ctl;
        http {
            upstream app { zone app 64k; server 127.0.0.1:%%DEAD%% fail_timeout=300ms; server %%ORIGIN%%; }
            server { listen 127.0.0.1:%%PORT_0%%; location / { proxy_pass http://app; } }
        }
    "#;
    let origin = Origin::saying("well");
    let daemon =
        Setup::new(CONF).set("ORIGIN", origin.address()).set("DEAD", port::refusing()).level("crit").start();
    // Each request is answered, whichever peer it tries first.
    let ask_until = |fails: u64| {
        wait_for("the failure", || {
            assert_eq!(get(daemon.port(0), "/").text(), "well");
            (plus(&daemon, "http/upstreams/app")["peers"][0]["fails"] == fails).then_some(())
        });
    };
    ask_until(1);
    let peer = |is_it: &dyn Fn(&Value) -> bool| {
        wait_plus(&daemon, "http/upstreams/app", |found| is_it(&found["peers"][0]))["peers"][0].clone()
    };
    let back = peer(&|peer| peer["state"] == "up" && peer["fails"] == 1);
    assert_eq!(back["downtime"], 300, "{back}");
    ask_until(2);
    let again = peer(&|peer| peer["state"] == "up" && peer["fails"] == 2);
    let downtime = again["downtime"].as_u64().expect("a number");
    // The attempt itself may have taken some milliseconds, for which it was out too.
    assert!((600..=900).contains(&downtime), "{again}");
}

#[test]
fn a_queue_shows_its_places_and_those_whom_it_turned_away() {
    if is_stand_in() {
        return;
    }
    const CONF: &str = r#"
        worker_processes 2;
        control unix:%%DIR%%/ctl;
        http {
            upstream u { zone u 64k; server %%ORIGIN%% max_conns=1; queue 1 timeout=100ms; }
            upstream free { server %%ORIGIN%%; }
            server { listen 127.0.0.1:%%PORT_0%%; location / { proxy_pass http://u; } }
        }
    "#;
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let receiver = std::sync::Mutex::new(receiver);
    let origin = Origin::replying(move |_| {
        let _ = receiver.lock().expect("not poisoned").recv();
        ok(b"done")
    });
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).level("error").start();
    let mut first = Client::connect(daemon.port(0));
    first.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    origin.wait_requests(1);
    let group = plus(&daemon, "http/upstreams/u");
    assert_eq!(group["queue"], json!({ "size": 0, "max_size": 2, "overflows": 0 }));
    assert_eq!(plus(&daemon, "http/upstreams/free").get("queue"), None);
    // One place in each of two workers: of many that come at once most are turned away.
    let mut others: Vec<Client> = (0..12).map(|_| Client::connect(daemon.port(0))).collect();
    for client in &mut others {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    others.iter_mut().for_each(|client| assert_eq!(client.response().status, 502));
    let overflows = plus(&daemon, "http/upstreams/u")["queue"]["overflows"].as_u64().expect("a number");
    assert!(overflows >= 1, "two places for twelve requests");
    assert_eq!(daemon.log_count("the \"queue\" of upstream \"u\" is full") as u64, overflows);
    sender.send(()).expect("it waits");
    assert_eq!(first.response().text(), "done");
}

#[test]
fn a_resolver_counts_its_lookups_and_their_ends() {
    if is_stand_in() {
        return;
    }
    const CONF: &str = r#"
        worker_processes 1;
        control unix:%%DIR%%/ctl;
        http {
            resolver %%DNS%% ipv6=off status_zone=names;
            resolver_timeout 300ms;
            upstream followed { zone followed 64k; server svc.test service=http resolve; resolver %%DNS%% ipv6=off status_zone=services; }
            server { listen 127.0.0.1:%%PORT_0%%; location / { set $name $arg_name; proxy_pass http://$name:%%ORIGIN_PORT%%; }
                location /followed { proxy_pass http://followed; } }
        }
        stream { resolver %%DNS%% ipv6=off status_zone=names;
            server { listen 127.0.0.1:%%PORT_1%%; set $name www.test; proxy_pass $name:%%ORIGIN_PORT%%; } }
    "#;
    use crate::support::dns::{Dns, FORMERR, NXDOMAIN, REFUSED, SERVFAIL};
    let origin = Origin::saying("hello");
    let port = origin.port();
    let dns = Dns::start(move |query| match &*query.name {
        "www.test" => query.reply(&[query.a(60, "127.0.0.1")]),
        "none.test" => query.fail(NXDOMAIN),
        "broken.test" => query.fail(SERVFAIL),
        "odd.test" => query.fail(FORMERR),
        "closed.test" => query.fail(REFUSED),
        "late.test" => Vec::new(),
        _ => query.reply(&[query.service(60, [0, 1, port], "www.test")]),
    });
    let daemon = Setup::new(CONF).set("DNS", dns.address()).set("ORIGIN_PORT", port).level("crit").start();
    let ask = |name: &str| get(daemon.port(0), &format!("/?name={name}")).status;
    // The second one comes from the cache.
    assert_eq!([ask("www.test"), ask("www.test")], [200, 200]);
    for name in ["none.test", "broken.test", "odd.test", "closed.test", "late.test"] {
        assert_eq!(ask(name), 502, "{name}");
    }
    let names = |found: u64| {
        json!({
            "requests": { "name": 5 + found, "srv": 0, "addr": 0 },
            "responses": {
                "noerror": found, "formerr": 1, "servfail": 1, "nxdomain": 1, "notimp": 0, "refused": 1, "timedout": 1,
                "unknown": 0,
            },
        })
    };
    // A lookup for which nobody waits ends when its next question is due.
    wait_plus(&daemon, "resolvers/names", |found| *found == names(1));
    wait_for("the service", || (get(daemon.port(0), "/followed").status == 200).then_some(()));
    let services = plus(&daemon, "resolvers/services");
    assert_eq!(
        (&services["requests"], &services["responses"]["noerror"]),
        (&json!({ "name": 1, "srv": 1, "addr": 0 }), &json!(2))
    );
    // The same name is one zone in streams, and after a reload.
    assert_eq!(control(&daemon, "PATCH", "/1/control/config", "").status, 200);
    assert_eq!(get(daemon.port(1), "/").text(), "hello");
    wait_plus(&daemon, "resolvers", |all| all["names"] == names(2));
    let status = control(&daemon, "GET", "/pronghorn/status", "").json();
    let resolvers = status["resolvers"].as_array().expect("a list");
    let names = resolvers.iter().find(|one| one["name"] == "names").expect("its zone");
    assert_eq!((&names["names"], &names["found"], &names["timed_out"]), (&json!(7), &json!(2), &json!(1)));
    let none = control(&daemon, "GET", "/api/9/resolvers/none", "");
    assert_eq!((none.status, none.code().as_str()), (404, "ResolverZoneNotFound"));
}

/// Half of a bucket's width and the clock's tick: latencies have sixteen buckets for each power of two.
const BUCKET: f64 = 1.0 / 16.0;

#[test]
fn latencies_equal_those_that_a_client_measures_over_a_reload_an_upgrade_and_a_killed_worker() {
    if is_stand_in() {
        return;
    }
    const CONF: &str = r#"
        worker_processes 2;
        control unix:%%DIR%%/ctl;
        http {
            keepalive_requests 100000000;
            upstream u { zone u 64k; server %%ORIGIN%%; }
            server { listen 127.0.0.1:%%PORT_0%%; server_name one.test; status_zone site; location / { proxy_pass http://u; } }
        }
    "#;
    const SLOW: Duration = Duration::from_millis(300);
    let origin = Origin::replying(|request| {
        if request.target == "/slow" {
            std::thread::sleep(SLOW); // it is what is measured
        }
        ok(b"twelve bytes")
    });
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).level("crit").in_background().start();
    let mut measured = Vec::new();
    let mut load = |daemon: &Daemon| {
        for number in 0..20 {
            let path = if number % 4 == 3 { "/slow" } else { "/" };
            let since = Instant::now();
            assert_eq!(get(daemon.port(0), path).status, 200);
            measured.push(since.elapsed().as_secs_f64());
        }
    };
    load(&daemon);
    assert_eq!(control(&daemon, "PATCH", "/1/control/config", "").status, 200);
    load(&daemon);
    wait_plus(&daemon, "http/server_zones/site", |site| site["requests"] == 40);
    let before = daemon.workers_now();
    send(before[0], Signal::SIGKILL);
    wait_for("another worker", || {
        let now = daemon.workers_now();
        (now.len() == 2 && !now.contains(&before[0])).then_some(())
    });
    load(&daemon);
    let old = daemon.pid();
    let new = upgrade(&daemon);
    load(&daemon);
    send(old, Signal::SIGQUIT);
    wait_for("the old master to end", || (!process::is_alive(old)).then_some(()));
    daemon.follow(new);
    load(&daemon);
    let site = wait_plus(&daemon, "http/server_zones/site", |site| site["requests"] == 100);
    assert_eq!(site["responses"]["codes"], json!({ "200": 100 }));
    let status = control(&daemon, "GET", "/pronghorn/status", "").json();
    let zones = status["zones"].as_array().expect("a list");
    let zone = zones.iter().find(|zone| zone["name"] == "site").expect("the zone");
    let upstreams = status["upstreams"].as_array().expect("a list");
    let upstream = upstreams.iter().find(|one| one["name"] == "u").expect("u");
    measured.sort_by(f64::total_cmp);
    for times in [&zone["latency"]["duration"], &upstream["latency"]["response"]] {
        assert_eq!(times["count"], 100, "{times}");
        let told = |key: &str| times[key].as_f64().expect("seconds");
        // A quarter is slow. The daemon has a part of what the client has measured.
        assert!(told("p50") <= measured[50] * (1.0 + BUCKET) + 0.001, "{times} {measured:?}");
        for (key, rank) in [("p90", 90), ("p99", 99)] {
            let (least, most) = (SLOW.as_secs_f64() * (1.0 - BUCKET), measured[rank] * (1.0 + BUCKET));
            assert!((least..=most).contains(&told(key)), "{key}: {times}, not in {least}..{most}");
        }
    }
}
