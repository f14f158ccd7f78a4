//! `limit_req`: rates, bursts, delays, and the memory that workers, reloads and crashes share.
//!
//! Rates are slow (one request a minute), so that no test depends on the speed of the machine; delays are
//! waited for.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::daemon::is_stand_in;
use crate::support::{Client, Daemon, Setup, get, wait_for};

const CONF: &str = r#"
http {
    limit_req_zone $arg_key zone=slow:1m rate=1r/m;
    limit_req_zone $arg_key zone=burst:1m rate=1r/m;
    limit_req_zone $arg_key zone=wait:1m rate=4r/s;
    limit_req_zone $arg_a zone=a:1m rate=1r/m;
    limit_req_zone $arg_b zone=b:1m rate=1r/m;
    limit_req_zone $arg_key zone=dry:1m rate=1r/m;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        add_header X-Limit $limit_req_status always;
        location /slow { limit_req zone=slow; limit_req_status 429; try 200; }
        location /burst { limit_req zone=burst burst=3 nodelay; try 200; }
        location /wait { limit_req zone=wait burst=5; try 200; }
        location /free { limit_req zone=wait burst=5 delay=4; try 200; }
        location /both { limit_req zone=a burst=1 nodelay; limit_req zone=b; try 200; }
        location /dry { limit_req zone=dry; limit_req_dry_run on; limit_req_log_level warn; try 200; }
        location /level { limit_req zone=slow; limit_req_log_level info; try 200; }
        location /unlimited { try 200; }
    }
}
"#;

/// `return` comes before the limits, so the response is a file.
fn setup(conf: &str) -> Setup {
    Setup::new(&conf.replace("try 200;", "root %%DIR%%; rewrite ^ /ok break;")).file("ok", "ok")
}

fn start() -> Daemon {
    setup(CONF).start()
}

fn statuses(daemon: &Daemon, paths: &[&str]) -> Vec<u16> {
    paths.iter().map(|path| get(daemon.port(0), path).status).collect()
}

#[test]
fn the_second_request_of_a_minute_is_rejected() {
    let daemon = start();
    let response = get(daemon.port(0), "/slow?key=1");
    assert_eq!((response.status, response.header("x-limit")), (200, Some("PASSED")));
    let response = get(daemon.port(0), "/slow?key=1");
    assert_eq!((response.status, response.header("x-limit")), (429, Some("REJECTED")));
    assert_eq!(
        statuses(&daemon, &["/slow?key=2", "/slow", "/slow?key=", "/slow"]),
        [200; 4],
        "no key, no limit"
    );
    assert_eq!(get(daemon.port(0), "/unlimited").header("x-limit"), None);
    daemon.wait_log(r#"\[error\].*limiting requests, excess: (0\.9\d\d|1\.000) by zone "slow", client: 127"#);
    if !is_stand_in() {
        daemon.wait_log(r#"limiting requests.*, rule: \S+pronghorn\.conf:\d+"#);
    }
}

#[test]
fn a_burst_passes_and_what_follows_is_rejected() {
    let daemon = start();
    let paths = ["/burst?key=x"; 6];
    assert_eq!(statuses(&daemon, &paths), [200, 200, 200, 200, 503, 503]);
}

#[test]
fn requests_within_the_burst_wait_for_their_turn() {
    let daemon = start();
    assert_eq!(get(daemon.port(0), "/wait?key=x").status, 200);
    let began = Instant::now();
    let response = get(daemon.port(0), "/wait?key=x");
    assert_eq!((response.status, response.header("x-limit")), (200, Some("DELAYED")));
    assert!(began.elapsed() > Duration::from_millis(100), "{:?}", began.elapsed());
    daemon.wait_log(r#"\[warn\].*delaying request, excess: [01]\.\d+, by zone "wait", client"#);
    assert_eq!(get(daemon.port(0), "/free?key=y").header("x-limit"), Some("PASSED"));
    assert_eq!(get(daemon.port(0), "/free?key=y").header("x-limit"), Some("PASSED"));
}

#[test]
fn a_worker_serves_others_while_a_request_waits() {
    let daemon = start();
    let mut waiting: Vec<Client> = (0..4).map(|_| Client::connect(daemon.port(0))).collect();
    for client in &mut waiting {
        client.send("GET /wait?key=z HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    daemon.wait_log("delaying request");
    assert_eq!(get(daemon.port(0), "/unlimited").status, 200);
    let delayed = waiting.iter_mut().map(|client| client.response());
    let delayed: Vec<u16> = delayed.map(|response| response.status).collect();
    assert_eq!(delayed, [200; 4]);
}

#[test]
fn a_client_that_leaves_while_it_waits_is_let_go() {
    let daemon = start();
    get(daemon.port(0), "/wait?key=leaves");
    let mut client = Client::connect(daemon.port(0));
    client.send("GET /wait?key=leaves HTTP/1.1\r\nHost: a\r\n\r\n");
    daemon.wait_log("delaying request");
    drop(client);
    daemon.wait_log("client prematurely closed connection");
    assert_eq!(get(daemon.port(0), "/unlimited").status, 200);
}

#[test]
fn a_request_is_counted_nowhere_when_one_of_its_rules_rejects_it() {
    let daemon = start();
    let all = ["/both?a=1&b=1", "/both?a=1&b=1", "/both?a=1&b=1", "/both?a=1&b=2", "/both?a=1&b=3"];
    // b rejects the second and third, which a does not count; a rejects the last, which b does not count
    assert_eq!(statuses(&daemon, &all), [200, 503, 503, 200, 503]);
    assert_eq!(
        statuses(&daemon, &["/both?a=2&b=3", "/both?b=4", "/both?b=4", "/both"]),
        [200, 200, 503, 200]
    );
}

#[test]
fn a_dry_run_only_tells() {
    let daemon = start();
    let seen = |path| get(daemon.port(0), path).header("x-limit").unwrap_or("-").to_owned();
    assert_eq!([seen("/dry?key=1"), seen("/dry?key=1")], ["PASSED", "REJECTED_DRY_RUN"]);
    daemon.wait_log(r#"\[warn\].*limiting requests, dry run, excess"#);
    assert_eq!(statuses(&daemon, &["/level?key=l", "/level?key=l"]), [200, 503]);
    daemon.wait_log(r#"\[info\].*limiting requests, excess"#);
}

#[test]
fn hostile_keys_do_no_harm() {
    let daemon = setup(
        r#"
http {
    large_client_header_buffers 4 256k;
    limit_req_zone $http_x_key zone=keys:32k rate=1r/m;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { limit_req zone=keys; try 200; }
    }
}
"#,
    )
    .start();
    let status = |key: &str| {
        let mut client = Client::connect(daemon.port(0));
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Key: {key}\r\nConnection: close\r\n\r\n"));
        client.response().status
    };
    let long = "k".repeat(65_535);
    assert_eq!([status(""), status("")], [200; 2], "no key, no limit");
    assert_eq!([status(&format!("{long}x")), status(&format!("{long}x"))], [200; 2]);
    if !is_stand_in() {
        assert_eq!([status(&long), status(&long)], [200, 503], "nginx has no room for such a key in 32k");
    }
    daemon.wait_log("is more than 65535 bytes");
    assert_eq!([status("\u{7f}"), status("ü"), status("ü")][1..], [200, 503]);
}

#[test]
fn a_full_zone_forgets_its_oldest_keys() {
    let daemon = setup(
        r#"
http {
    limit_req_zone $arg_key zone=small:32k rate=1r/m;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        keepalive_requests 100000;
        location / { limit_req zone=small; try 200; }
    }
}
"#,
    )
    .level("crit")
    .start();
    let mut client = Client::connect(daemon.port(0));
    assert_eq!(client.get("/?key=first").status, 200);
    assert_eq!(client.get("/?key=first").status, 503);
    for n in 0..8000 {
        assert_eq!(client.get(&format!("/?key=other-{n}")).status, 200, "a new key is never rejected");
    }
    assert_eq!(client.get("/?key=other-7999").status, 503, "the newest is known");
    assert_eq!(client.get("/?key=first").status, 200, "the oldest is not");
}

const SHARED: &str = r#"
worker_processes 2;
http {
    limit_req_zone $arg_key zone=shared:1m rate=1r/m;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        add_header X-Worker $pid always;
        location / { limit_req zone=shared burst=4 nodelay; try 200; }
    }
}
"#;

#[test]
fn workers_share_a_zone() {
    let daemon = setup(SHARED).start();
    daemon.workers();
    // The kernel gives connections to either worker: use many keys, and check that the same number passes for
    // each.
    let mut workers = std::collections::HashSet::new();
    for key in 0..8 {
        let path = format!("/?key={key}");
        let responses: Vec<_> = (0..8).map(|_| get(daemon.port(0), &path)).collect();
        workers.extend(responses.iter().filter_map(|r| r.header("x-worker").map(str::to_owned)));
        let statuses: Vec<u16> = responses.iter().map(|response| response.status).collect();
        assert_eq!(statuses, [200, 200, 200, 200, 200, 503, 503, 503], "{key}");
    }
    assert_eq!(workers.len(), 2);
}

#[test]
fn a_reload_and_a_crash_keep_what_was_counted() {
    let daemon = setup(SHARED).start();
    let use_up = |key: &str| (0..6).map(|_| get(daemon.port(0), &format!("/?key={key}")).status).sum::<u16>();
    assert_eq!(use_up("a"), 5 * 200 + 503);
    daemon.reload();
    assert_eq!(get(daemon.port(0), "/?key=a").status, 503, "known after a reload");
    assert_eq!(use_up("b"), 5 * 200 + 503);
    let before = daemon.workers();
    before.iter().for_each(|pid| crate::support::daemon::send(*pid, Signal::SIGKILL));
    wait_for("other workers", || {
        let now = daemon.workers_now();
        (now.len() == before.len() && now.iter().all(|pid| !before.contains(pid))).then_some(())
    });
    assert_eq!(statuses(&daemon, &["/?key=b", "/?key=a", "/?key=c"]), [503, 503, 200], "known after a crash");
    if is_stand_in() {
        return; // it refuses to reload with another key
    }
    daemon.rewrite(|text| text.replace("limit_req_zone $arg_key", "limit_req_zone $arg_other"));
    daemon.reload();
    assert_eq!(get(daemon.port(0), "/?other=a").status, 200, "another key is another zone");
}

#[test]
fn what_is_wrong_is_said_in_nginx_s_words() {
    let cases = [
        ("limit_req_zone $a zone=z:1m rate=0r/s;", "", "invalid rate \"rate=0r/s\""),
        ("limit_req_zone $a zone=z:1k rate=1r/s;", "", "zone \"zone=z:1k\" is too small"),
        ("limit_req_zone $a zone=z rate=1r/s;", "", "invalid zone size \"zone=z\""),
        ("limit_req_zone $a rate=1r/s sync;", "", "\"limit_req_zone\" must have \"zone\" parameter"),
        ("limit_req_zone $a zone=z:1m rate=1r/s sink;", "", "invalid parameter \"sink\""),
        ("", "limit_req zone=nobody;", "zero size shared memory zone \"nobody\""),
        (
            "limit_req_zone $a zone=z:1m rate=1r/s;",
            "limit_req zone=z burst=x;",
            "invalid burst value \"burst=x\"",
        ),
        ("limit_req_zone $a zone=z:1m rate=1r/s;", "limit_req zone=z; limit_req zone=z;", "is duplicate"),
        (
            "limit_req_zone $a zone=z:1m rate=1r/s; limit_req_zone $b zone=z:1m rate=1r/s;",
            "",
            "limit_req_zone \"z\" is already bound to key \"$a\"",
        ),
    ];
    for (zone, rule, expected) in cases {
        let zone = zone.replace("$a", "$arg_a").replace("$b", "$arg_b");
        let conf = format!("http {{ {zone} server {{ listen 127.0.0.1:%%PORT_0%%; {rule} }} }}");
        let Err(exit) = Setup::new(&conf).try_start() else { panic!("{zone} {rule}: it started") };
        let expected = expected.replace("$a", "$arg_a");
        assert!(exit.stderr.contains(&expected), "{zone} {rule}: {}", exit.stderr);
    }
}

#[test]
fn a_binary_upgrade_keeps_what_was_counted() {
    if is_stand_in() {
        return; // nginx starts from zero
    }
    let conf = SHARED.replace("burst=4 nodelay", "");
    let daemon = setup(&conf).in_background().start();
    assert_eq!(statuses(&daemon, &["/?key=a", "/?key=a"]), [200, 503]);
    let old = daemon.pid();
    daemon.signal(Signal::SIGUSR2);
    let new = wait_for("a new master with workers", || {
        let new: i32 = daemon.read("pronghorn.pid").trim().parse().ok()?;
        (new != old && crate::support::process::children(new).len() >= 2).then_some(new)
    });
    crate::support::daemon::send(old, Signal::SIGQUIT);
    wait_for("the old master to end", || (!crate::support::process::is_alive(old)).then_some(()));
    daemon.follow(new);
    assert_eq!(statuses(&daemon, &["/?key=a", "/?key=b"]), [503, 200], "the new binary has the zone");
    daemon.reload();
    assert_eq!(statuses(&daemon, &["/?key=a", "/?key=b"]), [503, 503], "and keeps it");
    daemon.stop(Signal::SIGQUIT);
}

/// A client that is refused all the time must not start anew because others pass by, however many they are.
#[test]
fn who_is_refused_stays_known_in_a_small_zone() {
    let daemon = setup(
        r#"
http {
    limit_req_zone $arg_key zone=small:32k rate=1r/m;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        keepalive_requests 1000000;
        limit_req_log_level info;
        location / { limit_req zone=small burst=5 nodelay; try 200; }
    }
}
"#,
    )
    .start();
    let mut client = Client::connect(daemon.port(0));
    let passed = (0..10).filter(|_| client.get("/?key=greedy").status == 200).count();
    assert_eq!(passed, 6);
    // 2040 keys fit.
    for n in 0..4000 {
        assert_eq!(client.get(&format!("/?key={n}")).status, 200);
        if n % 8 == 0 {
            assert_eq!(client.get("/?key=greedy").status, 503, "after {n} others");
        }
    }
    assert_eq!(daemon.log_count("is too small"), 0, "nobody was forgotten who matters");
    // Now each of them counts.
    for n in 0..3000 {
        client.get(&format!("/?key=again{n}"));
        client.get(&format!("/?key=again{n}"));
    }
    daemon.wait_log(
        r#"\[warn\].*zone "small" is too small: .* give "limit_req_zone" more than zone=small:32k.*pronghorn\.conf:\d+"#,
    );
    assert_eq!(daemon.log_count("is too small"), 1, "once a minute");
}
