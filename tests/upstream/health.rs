//! `health_check`: who is asked, how often, and what becomes of those that fail. The backends are scripted; each
//! test waits for the log line about a change of health, or for the requests that a backend has got.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::process::upgrade::upgrade;
use crate::support::daemon::send;
use crate::support::deadline::wait_for;
use crate::support::origin::ok;
use crate::support::tls::Authority;
use crate::support::{Daemon, Origin, Setup, get, port, process};

/// A backend that says its name, or 503 while it is told to be ill.
struct Backend {
    origin: Origin,
    is_ill: Arc<AtomicBool>,
    checks: Arc<AtomicUsize>,
}

impl Backend {
    fn named(name: &'static str) -> Self {
        let (is_ill, checks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (ill, count) = (Arc::clone(&is_ill), Arc::clone(&checks));
        let origin = Origin::replying(move |request| {
            let is_check = request.header("User-Agent") == Some("pronghorn (health check)");
            count.fetch_add(usize::from(is_check), Ordering::SeqCst);
            match ill.load(Ordering::SeqCst) {
                true => b"HTTP/1.1 503 Ill\r\nContent-Length: 3\r\n\r\nill".to_vec(),
                false => ok(name.as_bytes()),
            }
        });
        Self { origin, is_ill, checks }
    }

    fn is_ill(&self, ill: bool) {
        self.is_ill.store(ill, Ordering::SeqCst);
    }

    /// The number of checks so far.
    fn checked(&self) -> usize {
        self.checks.load(Ordering::SeqCst)
    }
}

/// The bodies of so many answers.
fn bodies(daemon: &Daemon, count: usize) -> Vec<String> {
    (0..count).map(|_| get(daemon.port(0), "/").text()).collect()
}

fn start(workers: usize, check: &str, backends: &[&Backend]) -> Daemon {
    let servers: String =
        backends.iter().map(|backend| format!("server {};", backend.origin.address())).collect();
    let conf = format!(
        "worker_processes {workers}; http {{ upstream app {{ {servers} }} server {{ listen 127.0.0.1:%%PORT_0%%; \
         location / {{ proxy_pass http://app; {check} }} }} \
         match welcome {{ status 200-299; header Content-Length ~ [0-9]; body ~ ^one; }} }}"
    );
    Setup::new(&conf).level("info").start()
}

#[test]
fn an_unhealthy_server_gets_no_requests_until_it_is_healthy_again() {
    let (one, two) = (Backend::named("one"), Backend::named("two"));
    two.is_ill(true);
    let daemon = start(2, "health_check interval=50ms fails=2 passes=2;", &[&one, &two]);
    let peer = two.origin.address();
    let line = daemon.wait_log("peer is unhealthy");
    let expected = format!(
        "peer is unhealthy while checking status code, health check \"\" of peer {peer} in upstream \"app\": 503"
    );
    assert!(line.contains("[warn]") && line.contains(&expected), "{line}");
    assert!(two.checked() >= 2);
    assert_eq!(bodies(&daemon, 8), ["one"; 8]);
    two.is_ill(false);
    daemon.wait_log("peer is healthy while checking response, health check \"\" of peer");
    assert!(bodies(&daemon, 8).contains(&"two".to_owned()));
    assert_eq!(daemon.log_count("peer is (un)?healthy"), 2, "each change is logged once");
}

#[test]
fn a_server_that_refuses_connections_is_unhealthy() {
    let one = Backend::named("one");
    let conf = "http { upstream app { server %%GOOD%%; server %%CLOSED%%; health_check interval=50ms; }
        server { listen 127.0.0.1:%%PORT_0%%; location / { proxy_pass http://app; } } }";
    let closed = format!("127.0.0.1:{}", port::refusing());
    let daemon =
        Setup::new(conf).set("GOOD", one.origin.address()).set("CLOSED", closed).level("info").start();
    daemon.wait_log("peer is unhealthy while connecting to upstream.*connect\\(\\) failed \\(111");
    assert_eq!(bodies(&daemon, 6), ["one"; 6]);
    assert_eq!(daemon.log_count("temporarily disabled"), 0, "no request has found out");
    assert!(one.checked() > 0);
}

#[test]
fn a_check_has_the_settings_of_its_location() {
    let one = Backend::named("one");
    let other = Backend::named("other");
    let check = format!(
        "proxy_set_header Host check.example; proxy_set_header X-Check $proxy_host,$uri,$arg_a; \
         health_check interval=50ms uri=/health%20y?a=b port={};",
        other.origin.port()
    );
    let daemon = start(1, &check, &[&one]);
    other.origin.wait_requests(2);
    let request = other.origin.last();
    assert_eq!((request.method.as_str(), request.target.as_str()), ("GET", "/health%20y?a=b"));
    assert_eq!(request.header("Host"), Some("check.example"));
    assert_eq!(request.header("X-Check"), Some("app,/health y,b"));
    assert_eq!(request.header("User-Agent"), Some("pronghorn (health check)"));
    assert_eq!((one.checked(), bodies(&daemon, 1)), (0, vec!["one".to_owned()]));
}

#[test]
fn a_match_block_decides() {
    let (one, two) = (Backend::named("one"), Backend::named("two"));
    let daemon = start(1, "health_check interval=50ms match=welcome keepalive_time=60s;", &[&one, &two]);
    let line = daemon.wait_log("peer is unhealthy while checking response body, health check \"welcome\"");
    assert!(line.contains(&two.origin.address()), "{line}");
    assert_eq!(bodies(&daemon, 6), ["one"; 6]);
    let (before, accepted) = (one.checked(), one.origin.accepted());
    wait_for("more checks", || (one.checked() > before + 3).then_some(()));
    assert_eq!(one.origin.accepted(), accepted, "its connection is kept");
}

/// Checks that a backend gets in 1.2 seconds.
fn rate(workers: usize) -> usize {
    let one = Backend::named("one");
    let daemon = start(workers, "health_check interval=100ms;", &[&one]);
    wait_for("all workers", || (daemon.workers_now().len() == workers).then_some(()));
    one.origin.wait_requests(1);
    let (before, began) = (one.checked(), Instant::now());
    wait_for("the time to pass", || (began.elapsed() >= Duration::from_millis(1200)).then_some(()));
    one.checked() - before
}

#[test]
fn the_number_of_checks_does_not_depend_on_the_number_of_workers() {
    let (alone, many) = (rate(1), rate(8));
    // On a loaded machine there may be fewer.
    assert!((3..=13).contains(&alone) && (3..=13).contains(&many), "{alone} {many}");
}

#[test]
fn no_request_goes_to_a_server_before_its_mandatory_check() {
    let one = Backend::named("one");
    one.is_ill(true);
    let daemon = start(2, "health_check interval=50ms mandatory;", &[&one]);
    assert_eq!(get(daemon.port(0), "/").status, 502);
    daemon.wait_log("no live upstreams");
    assert!(one.origin.requests().iter().all(|request| request.header("User-Agent").is_some()));
    one.is_ill(false);
    daemon.wait_log("peer is healthy");
    assert_eq!(bodies(&daemon, 1), ["one"]);
}

#[test]
fn after_a_reload_no_request_goes_to_a_server_before_its_mandatory_check() {
    let (one, two) = (Backend::named("one"), Backend::named("two"));
    let daemon = start(2, "health_check interval=50ms mandatory;", &[&one]);
    wait_for("the first check", || (get(daemon.port(0), "/").status == 200).then_some(()));
    // The next prober starts when this one has ended, which it does only when it goes on.
    let (prober, old) = (daemon.prober(), daemon.workers_now());
    send(prober, Signal::SIGSTOP);
    let further = format!("upstream app {{ server {};", two.origin.address());
    daemon.rewrite(|text| text.replace("upstream app {", &further));
    daemon.signal(Signal::SIGHUP);
    wait_for("the new workers alone", || {
        let now = daemon.workers_now();
        (now.len() == 2 && now.iter().all(|pid| !old.contains(pid))).then_some(())
    });
    let asked = |backend: &Backend| backend.origin.requests().len() - backend.checked();
    let before = asked(&one);
    for _ in 0..8 {
        assert_eq!(get(daemon.port(0), "/").status, 502);
    }
    assert_eq!((asked(&one), asked(&two)), (before, 0));
    send(prober, Signal::SIGCONT);
    wait_for("the checks of the new configuration", || {
        let answered = bodies(&daemon, 4);
        (answered.contains(&"one".to_owned()) && answered.contains(&"two".to_owned())).then_some(())
    });
}

#[test]
fn a_prober_that_is_killed_is_replaced_and_no_client_notices() {
    let (one, two) = (Backend::named("one"), Backend::named("two"));
    two.is_ill(true);
    let daemon = start(2, "health_check interval=100ms;", &[&one, &two]);
    daemon.wait_log("peer is unhealthy");
    for _ in 0..3 {
        let prober = daemon.prober();
        send(prober, Signal::SIGKILL);
        wait_for("another prober", || daemon.probers_now().iter().any(|pid| *pid != prober).then_some(()));
        assert_eq!(bodies(&daemon, 4), ["one"; 4]);
    }
    let before = two.checked();
    wait_for("checks to go on", || (two.checked() > before + 2).then_some(()));
    assert_eq!(daemon.log_count("peer is unhealthy"), 1, "what was known stays known");
    two.is_ill(false);
    daemon.wait_log("peer is healthy");
}

#[test]
fn a_reload_keeps_what_is_known_and_has_one_prober() {
    let (one, two) = (Backend::named("one"), Backend::named("two"));
    two.is_ill(true);
    let daemon = start(2, "health_check interval=100ms;", &[&one, &two]);
    daemon.wait_log("peer is unhealthy");
    let before = daemon.prober();
    daemon.reload();
    let after = wait_for("the next prober", || Some(daemon.prober()).filter(|pid| *pid != before));
    assert_eq!(bodies(&daemon, 4), ["one"; 4]);
    assert!(process::is_alive(after) && !process::is_alive(before));
    // Without checks nobody is unhealthy, and there is no prober.
    daemon.rewrite(|text| text.replace("health_check interval=100ms;", ""));
    daemon.reload();
    wait_for("no prober", || daemon.probers_now().is_empty().then_some(()));
    wait_for("the other server", || bodies(&daemon, 2).contains(&"ill".to_owned()).then_some(()));
}

#[test]
fn checks_of_groups_and_of_https_locations_speak_tls() {
    let authority = Authority::new("ca");
    let pair = authority.issue(&["app.test"]);
    let plain = Origin::start(|peer| {
        let _ = peer.try_send(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        peer.rest();
    });
    let conf = r#"http {
        match named { status 204; header X-Name = app.test; }
        match http { send "GET / HTTP/1.0\r\n\r\n"; expect ~* "^http/1.1 200"; }
        server { listen 127.0.0.1:%%PORT_1%% ssl; ssl_certificate a.crt; ssl_certificate_key a.key;
                 location / { return 200 secure; }
                 location /health { add_header X-Name $ssl_server_name; return 204; } }
        proxy_ssl_verify on; proxy_ssl_trusted_certificate ca.crt; proxy_ssl_name app.test; proxy_ssl_server_name on;
        upstream one { server 127.0.0.1:%%PORT_1%%; server %%PLAIN%%; health_check interval=50ms ssl uri=/health match=named; }
        upstream two { server 127.0.0.1:%%PORT_1%%; server %%PLAIN%%; health_check interval=50ms ssl type=tcp match=http; }
        upstream three { server 127.0.0.1:%%PORT_1%%; server %%PLAIN%%; }
        server { listen 127.0.0.1:%%PORT_0%%; location / { proxy_pass https://one; }
                 location /two { proxy_pass https://two; }
                 location /three { proxy_pass https://three; health_check interval=50ms type=tcp match=http; } }
    }"#;
    let setup = Setup::new(conf).set("PLAIN", plain.address()).file("ca.crt", authority.certificate());
    let setup = setup.file("a.crt", &pair.certificate).file("a.key", &pair.key);
    let daemon = setup.level("info").start();
    for group in ["one", "two", "three"] {
        let peer = plain.address();
        let line =
            daemon.wait_log(&format!("peer is unhealthy while .* of peer {peer} in upstream \"{group}\""));
        assert!(line.contains("while SSL handshaking to upstream"), "{line}");
    }
    for path in ["/", "/two", "/three"] {
        assert!((0..4).all(|_| get(daemon.port(0), path).text() == "secure"), "{path}");
    }
    assert_eq!(daemon.log_count("peer is unhealthy"), 3);
    let refused = "http { server { location / { proxy_pass http://127.0.0.1:1; health_check ssl; } } }";
    let output = Setup::new(refused).run(&["-t"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("takes \"ssl\" from the URL of its upstream"));
}

/// The targets of the checks so far.
fn targets(backend: &Backend) -> Vec<String> {
    backend.origin.requests().into_iter().map(|request| request.target).collect()
}

#[test]
fn one_of_two_masters_checks_during_an_upgrade() {
    let one = Backend::named("one");
    let conf = format!(
        "http {{ upstream app {{ server {}; health_check interval=50ms uri=/old; }} server {{ listen \
         127.0.0.1:%%PORT_0%%; location / {{ proxy_pass http://app; }} }} }}",
        one.origin.address()
    );
    let daemon = Setup::new(&conf).level("info").in_background().start();
    one.origin.wait_requests(2);
    daemon.rewrite(|text| text.replace("/old", "/new"));
    let new = upgrade(&daemon);
    let of_old = daemon.wait_log("checks of prober process \\d+ pause: those of the new binary have begun");
    assert!(of_old.contains("[notice]"), "{of_old}");
    // One that had begun may still end.
    let count = |wanted: &str| targets(&one).iter().filter(|target| *target == wanted).count();
    let rests = |wanted: &str, other: &str| {
        let (before, began) = (count(wanted), count(other));
        wait_for("checks by the other master", || (count(other) > began + 6).then_some(()));
        count(wanted) <= before + 1
    };
    assert!(rests("/old", "/new"));
    // A change of health that the new binary's prober finds is kept when the old one goes on.
    one.is_ill(true);
    daemon.wait_log("peer is unhealthy");
    send(new, Signal::SIGKILL);
    daemon.wait_log("checks of prober process \\d+ go on");
    let before = count("/old");
    wait_for("checks by the old master", || (count("/old") > before + 3).then_some(()));
    assert_eq!(get(daemon.port(0), "/").status, 502);
    assert_eq!(daemon.log_count("peer is unhealthy"), 1);
    one.is_ill(false);
    daemon.wait_log("peer is healthy");
    assert_eq!(bodies(&daemon, 2), ["one"; 2]);
}

#[test]
fn without_a_master_the_only_process_checks() {
    let (one, two) = (Backend::named("one"), Backend::named("two"));
    two.is_ill(true);
    let conf = "http { upstream app { server %%ONE%%; server %%TWO%%; health_check interval=50ms; }
        server { listen 127.0.0.1:%%PORT_0%%; location / { proxy_pass http://app; } } }";
    let daemon = Setup::new(conf).set("ONE", one.origin.address()).set("TWO", two.origin.address());
    let daemon = daemon.level("info").alone().start();
    daemon.wait_log("peer is unhealthy");
    assert_eq!(bodies(&daemon, 6), ["one"; 6]);
}

#[test]
fn a_group_that_fails_open_uses_all_its_servers_when_all_are_unhealthy() {
    let (one, two) = (Backend::named("one"), Backend::named("two"));
    let conf =
        "http { upstream app { server %%ONE%%; server %%TWO%%; health_check interval=50ms; fail_open on; }
        server { listen 127.0.0.1:%%PORT_0%%; location / { proxy_pass http://app; } } }";
    let setup = Setup::new(conf).set("ONE", one.origin.address()).set("TWO", two.origin.address());
    let daemon = setup.level("info").start();
    two.is_ill(true);
    daemon.wait_log("peer is unhealthy");
    assert_eq!(bodies(&daemon, 6), ["one"; 6], "one is healthy");
    one.is_ill(true);
    daemon.wait_log("all peers of upstream \"app\" are unhealthy: all are used");
    wait_for("both to be used", || (bodies(&daemon, 4) == ["ill"; 4]).then_some(()));
    daemon.reload();
    wait_for("the next prober to know", || (daemon.log_count("all are used") == 2).then_some(()));
    one.is_ill(false);
    daemon.wait_log("not all peers of upstream \"app\" are unhealthy any more");
    assert_eq!(bodies(&daemon, 6), ["one"; 6]);
}

#[test]
fn a_check_over_tcp_connects_and_may_talk() {
    let one = Backend::named("one");
    // It says something else than what is expected.
    let rude = Origin::start(|peer| {
        let _ = peer.try_send(b"220 go away\r\n");
    });
    let polite = Origin::start(|peer| {
        let _ = peer.try_send(b"220 welcome\r\n");
    });
    let conf = "http {
        upstream plain { server %%ONE%%; server %%CLOSED%%; health_check type=tcp interval=50ms; }
        upstream talk { server %%RUDE%%; server %%POLITE%%; health_check type=tcp interval=50ms match=smtp; }
        match smtp { send \"EHLO a\\r\\n\"; expect ~ ^220.*welcome; }
        server { listen 127.0.0.1:%%PORT_0%%; location / { proxy_pass http://plain; } } }";
    let setup = Setup::new(conf).set("ONE", one.origin.address()).set("RUDE", rude.address());
    let setup =
        setup.set("POLITE", polite.address()).set("CLOSED", format!("127.0.0.1:{}", port::refusing()));
    let daemon = setup.level("info").start();
    daemon.wait_log("peer is unhealthy while connecting to upstream.* upstream \"plain\"");
    let line = daemon.wait_log("peer is unhealthy while .* upstream \"talk\"");
    assert!(line.contains(&rude.address()) && line.contains("\"smtp\""), "{line}");
    assert_eq!(bodies(&daemon, 4), ["one"; 4]);
    assert_eq!(daemon.log_count("peer is unhealthy"), 2);
}

#[test]
fn an_agent_tells_how_its_server_is() {
    let (one, two) = (Backend::named("one"), Backend::named("two"));
    let line = Arc::new(std::sync::Mutex::new("up 100%\n"));
    let said = Arc::clone(&line);
    // Both servers have the same address, so one agent answers for both; the other group has none.
    let agent = Origin::start(move |peer| {
        let _ = peer.try_send(said.lock().unwrap().as_bytes());
    });
    let conf = "http {
        upstream app { server %%ONE%%; server 127.0.0.2:1 backup; agent_check port=%%AGENT%% interval=50ms; }
        upstream other { server %%TWO%%; }
        server { listen 127.0.0.1:%%PORT_0%%; location / { error_page 502 = @other; proxy_pass http://app; }
            location @other { proxy_pass http://other; } } }";
    let setup = Setup::new(conf).set("ONE", one.origin.address()).set("TWO", two.origin.address());
    let daemon = setup.set("AGENT", agent.port()).level("info").start();
    assert_eq!(bodies(&daemon, 2), ["one"; 2]);
    for (now, expected) in [
        ("down # backup runs\n", "two"),
        ("up\n", "one"),
        ("drain\n", "two"),
        ("ready\n", "one"),
        ("0%\n", "two"),
        ("100%\n", "one"),
    ] {
        *line.lock().unwrap() = now;
        wait_for(now, || (bodies(&daemon, 1) == [expected]).then_some(()));
    }
    let logged = daemon.wait_log("agent of peer .* says: down 100%");
    assert!(
        logged.contains(&format!("agent of peer {} in upstream \"app\"", one.origin.address())),
        "{logged}"
    );
    daemon.wait_log("agent of peer 127.0.0.2:1 .* does not answer while connecting to upstream");
}

/// Sends requests one after the other, whatever becomes of them, until it is told to stop.
fn client(port: u16, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
    use std::io::{Read, Write};
    std::thread::spawn(move || {
        while !stop.load(Ordering::SeqCst) {
            let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", port)) else { continue };
            let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
            let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            let _ = stream.read_to_end(&mut Vec::new());
        }
    })
}

#[test]
fn workers_that_are_killed_under_load_leave_true_counts_and_checks_go_on() {
    const CONNS_MAX: usize = 3;
    const AGE: Duration = Duration::from_millis(250);
    let holds = Arc::new(AtomicBool::new(false));
    let checks = Arc::new(AtomicUsize::new(0));
    let (held, counted) = (Arc::clone(&holds), Arc::clone(&checks));
    let origin = Origin::replying(move |request| {
        if request.header("User-Agent").is_some() {
            counted.fetch_add(1, Ordering::SeqCst);
        } else {
            wait_for("the requests to be let go", || (!held.load(Ordering::SeqCst)).then_some(()));
        }
        ok(b"one")
    });
    let conf = format!(
        "worker_processes 4; http {{ upstream app {{ zone app 64k; server {0} max_conns={CONNS_MAX} max_fails=0; \
         server 127.0.0.1:1 down; health_check interval=50ms; }} server {{ listen 127.0.0.1:%%PORT_0%%; location / \
         {{ proxy_pass http://app; }} location /status {{ stub_status; }} }} }}",
        origin.address()
    );
    let daemon = Setup::new(&conf).level("notice").start();
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..6).map(|_| client(daemon.port(0), Arc::clone(&stop))).collect();
    let mut seed = u64::from(std::process::id());
    let mut seen: HashMap<i32, Instant> = HashMap::new();
    for _ in 0..200 {
        // One that dies younger is replaced ever later.
        let workers = wait_for("workers of some age", || {
            let workers = daemon.workers_now();
            seen.retain(|pid, _| workers.contains(pid));
            let is_old = |pid: &i32| seen.entry(*pid).or_insert_with(Instant::now).elapsed() >= AGE;
            let old: Vec<i32> = workers.into_iter().filter(is_old).collect();
            std::thread::sleep(Duration::from_millis(20));
            (old.len() >= 3).then_some(old)
        });
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        send(workers[(seed >> 33) as usize % workers.len()], Signal::SIGKILL);
    }
    stop.store(true, Ordering::SeqCst);
    clients.into_iter().for_each(|client| client.join().expect("it ends"));
    let before = checks.load(Ordering::SeqCst);
    wait_for("checks to go on", || (checks.load(Ordering::SeqCst) > before + 2).then_some(()));
    wait_for("the connections to be counted", || {
        get(daemon.port(0), "/status").text().starts_with("Active connections: 1 ").then_some(())
    });
    // As many requests as are allowed fit, and not one more.
    holds.store(true, Ordering::SeqCst);
    let requests = origin.requests().len();
    let ports = daemon.port(0);
    let waiting: Vec<_> =
        (0..CONNS_MAX).map(|_| std::thread::spawn(move || get(ports, "/").status)).collect();
    wait_for("all of them to arrive", || {
        let all = origin.requests();
        let own = all[requests..].iter().filter(|request| request.header("User-Agent").is_none()).count();
        (own == CONNS_MAX).then_some(())
    });
    assert_eq!(get(daemon.port(0), "/").status, 502);
    holds.store(false, Ordering::SeqCst);
    assert!(waiting.into_iter().all(|request| request.join().expect("it ends") == 200));
    assert_eq!(daemon.probers_now().len(), 1);
}
