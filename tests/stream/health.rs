//! `health_check` in streams: which servers are left out, what is said to them, and what a reload, a dead prober and an
//! upgrade leave of it. Each test waits for the log line about a change of health, or for what a server has got.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::daemon::send;
use crate::support::tls::Authority;
use crate::support::{Client, Daemon, Origin, Setup, get, port, process, wait_for};

/// A server that says its name to each client, and `ready` or `ill` to those that say `how are you?`.
struct Server {
    origin: Origin,
    is_ill: Arc<AtomicBool>,
    questions: Arc<AtomicUsize>,
}

impl Server {
    fn named(name: &'static str) -> Self {
        let (is_ill, questions) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (ill, count) = (Arc::clone(&is_ill), Arc::clone(&questions));
        let origin = Origin::start(move |peer| {
            if peer.try_send(format!("{name};").as_bytes()).is_err() {
                return;
            }
            if peer.try_exactly(12).is_some_and(|question| question == b"how are you?") {
                count.fetch_add(1, Ordering::SeqCst);
                let state = if ill.load(Ordering::SeqCst) { "ill" } else { "ready" };
                let _ = peer.try_send(format!("I am {state}\r\n").as_bytes());
            }
        });
        Self { origin, is_ill, questions }
    }

    fn is_ill(&self, ill: bool) {
        self.is_ill.store(ill, Ordering::SeqCst);
    }

    /// How often it was asked.
    fn asked(&self) -> usize {
        self.questions.load(Ordering::SeqCst)
    }
}

const MATCH: &str = r#"match asked { send "how\x20are you?"; expect ~* "i am READY"; }"#;

/// The name that the next client is told; empty: none.
fn name(daemon: &Daemon) -> String {
    let mut client = Client::connect(daemon.port(0));
    let mut told = Vec::new();
    while let Some(byte) = client.try_exactly(1) {
        if byte == b";" {
            break;
        }
        told.extend(byte);
    }
    String::from_utf8(told).expect("a name")
}

fn names(daemon: &Daemon, count: usize) -> Vec<String> {
    (0..count).map(|_| name(daemon)).collect()
}

/// The states of the servers as the API shows them.
fn states(daemon: &Daemon) -> Vec<String> {
    let shown = get(daemon.port(1), "/api/9/stream/upstreams/app").text();
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    let peers = shown["peers"].as_array().expect("peers");
    peers.iter().map(|peer| peer["state"].as_str().expect("a state").to_owned()).collect()
}

/// A daemon of two workers whose check is written in the server, and whose API is at the second port.
fn start(check: &str, servers: &[&Server]) -> Daemon {
    let lines: String = servers.iter().map(|it| format!("server {};", it.origin.address())).collect();
    let conf = format!(
        "worker_processes 2;
        stream {{ upstream app {{ {lines} }} {MATCH}
            server {{ listen 127.0.0.1:%%PORT_0%%; proxy_pass app; {check} }} }}
        http {{ access_log off; server {{ listen 127.0.0.1:%%PORT_1%%; location /api {{ api; }} }} }}"
    );
    Setup::new(&conf).level("info").start()
}

#[test]
fn an_unhealthy_server_gets_no_clients_until_it_is_healthy_again() {
    let (one, two) = (Server::named("one"), Server::named("two"));
    two.is_ill(true);
    let check = "health_check interval=50ms fails=2 passes=2 match=asked; health_check_timeout 300ms;";
    let daemon = start(check, &[&one, &two]);
    let line = daemon.wait_log("peer is unhealthy");
    let expected = format!(
        "peer is unhealthy while reading from upstream, health check \"asked\" of peer {} in upstream \"app\": ",
        two.origin.address()
    );
    assert!(line.contains("[warn]") && line.contains(&expected), "{line}");
    assert!(two.asked() >= 2);
    assert_eq!(names(&daemon, 8), ["one"; 8]);
    assert_eq!(states(&daemon), ["up", "unhealthy"]);
    two.is_ill(false);
    daemon.wait_log("peer is healthy while reading from upstream, health check \"asked\" of peer");
    assert!(names(&daemon, 8).contains(&"two".to_owned()));
    assert_eq!(states(&daemon), ["up", "up"]);
    assert_eq!(daemon.log_count("peer is (un)?healthy"), 2, "each change is logged once");
    assert_eq!(daemon.probers_now().len(), 1);
}

#[test]
fn a_server_that_refuses_connections_is_unhealthy_until_it_listens() {
    let one = Server::named("one");
    let closed = port::free();
    let conf =
        "stream { upstream app { server %%GOOD%%; server 127.0.0.1:%%CLOSED%%; health_check interval=50ms; }
        server { listen 127.0.0.1:%%PORT_0%%; proxy_pass app; } }";
    let daemon =
        Setup::new(conf).set("GOOD", one.origin.address()).set("CLOSED", closed).level("info").start();
    daemon.wait_log("peer is unhealthy while connecting to upstream.*Connection refused");
    assert_eq!(names(&daemon, 6), ["one"; 6]);
    assert_eq!(daemon.log_count("temporarily disabled"), 0, "no client has found out");
    let _open = Origin::start_on(closed, |peer| {
        let _ = peer.try_send(b"two;");
        peer.rest();
    });
    daemon.wait_log("peer is healthy while connecting to upstream");
    assert!(names(&daemon, 6).contains(&"two".to_owned()));
}

#[test]
fn a_check_goes_to_the_port_it_names_and_a_text_must_be_in_the_answer() {
    let one = Server::named("one");
    let asked = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&asked);
    let monitor = Origin::start(move |peer| {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n") {
            match peer.try_exactly(1) {
                Some(byte) => bytes.extend(byte),
                None => return,
            }
        }
        heard.lock().unwrap().push(bytes);
        let _ = peer.try_send(b"-LOADING not yet\r\n");
    });
    let conf = r#"stream {
        match redis { send "PING\x0d\x0a"; expect "+PONG"; }
        upstream app { server %%ONE%%; health_check port=%%MONITOR%% interval=50ms match=redis; }
        server { listen 127.0.0.1:%%PORT_0%%; proxy_pass app; } }"#;
    let setup = Setup::new(conf).set("ONE", one.origin.address()).set("MONITOR", monitor.port());
    let daemon = setup.level("info").start();
    let line = daemon.wait_log("peer is unhealthy while reading from upstream");
    assert!(line.contains("what is expected is not among 18 bytes"), "{line}");
    assert_eq!(asked.lock().unwrap()[0], b"PING\r\n");
    Client::connect(daemon.port(0)).expect_end();
    daemon.wait_log("no live upstreams");
    assert_eq!(one.origin.accepted(), 0, "neither a client nor a check");
}

#[test]
fn no_client_goes_to_a_server_before_its_mandatory_check() {
    let one = Server::named("one");
    one.is_ill(true);
    let check = "health_check interval=50ms match=asked mandatory persistent; health_check_timeout 200ms;";
    let daemon = start(check, &[&one]);
    assert_eq!(name(&daemon), "");
    daemon.wait_log("no live upstreams");
    assert!(["checking", "unhealthy"].contains(&&*states(&daemon)[0]));
    one.is_ill(false);
    daemon.wait_log("peer is healthy");
    assert_eq!(name(&daemon), "one");
    // What is persistent needs no new first check: the next one is an hour away.
    daemon.rewrite(|text| text.replace("interval=50ms", "interval=1h"));
    daemon.reload();
    assert_eq!((name(&daemon), states(&daemon)), ("one".to_owned(), vec!["up".to_owned()]));
    daemon.rewrite(|text| text.replace(" persistent", " jitter=1h"));
    daemon.reload();
    wait_for("the first check to count again", || (states(&daemon) == ["checking"]).then_some(()));
    assert_eq!(name(&daemon), "");
}

#[test]
fn a_prober_that_is_killed_is_replaced_and_a_reload_keeps_what_is_known() {
    let (one, two) = (Server::named("one"), Server::named("two"));
    two.is_ill(true);
    let check = "health_check interval=100ms match=asked; health_check_timeout 300ms;";
    let daemon = start(check, &[&one, &two]);
    daemon.wait_log("peer is unhealthy");
    for _ in 0..2 {
        let prober = daemon.prober();
        send(prober, Signal::SIGKILL);
        wait_for("another prober", || daemon.probers_now().iter().any(|pid| *pid != prober).then_some(()));
        assert_eq!(names(&daemon, 4), ["one"; 4]);
    }
    let before = daemon.prober();
    daemon.reload();
    let after = wait_for("the next prober", || Some(daemon.prober()).filter(|pid| *pid != before));
    assert!(process::is_alive(after) && !process::is_alive(before));
    assert_eq!(
        (names(&daemon, 4), states(&daemon)),
        (vec!["one".to_owned(); 4], ["up", "unhealthy"].map(Into::into).into())
    );
    let before = two.asked();
    wait_for("checks to go on", || (two.asked() > before + 2).then_some(()));
    assert_eq!(daemon.log_count("peer is unhealthy"), 1, "what was known stays known");
    two.is_ill(false);
    daemon.wait_log("peer is healthy");
    // Without checks nobody is unhealthy, and there is no prober.
    daemon.rewrite(|text| text.replace("health_check interval=100ms match=asked;", ""));
    daemon.reload();
    wait_for("no prober", || daemon.probers_now().is_empty().then_some(()));
}

#[test]
fn checks_speak_tls_where_sessions_do() {
    let authority = Authority::new("ca");
    let pair = authority.issue(&["app.test"]);
    // The servers are our own: one has the certificate that is asked for, the other one speaks no TLS.
    let plain = Server::named("plain");
    let conf = r#"stream {
        match greeting { send "hello"; expect ~ "^\Qgood day\E$"; }
        server { listen 127.0.0.1:%%PORT_2%% ssl; ssl_certificate a.crt; ssl_certificate_key a.key; return "good day"; }
        upstream one { server 127.0.0.1:%%PORT_2%%; server %%PLAIN%%; }
        upstream two { server 127.0.0.1:%%PORT_2%%; }
        upstream three { server 127.0.0.1:%%PORT_2%%; server %%PLAIN%%; health_check interval=50ms ssl match=greeting; }
        health_check_timeout 2s;
        proxy_ssl_verify on; proxy_ssl_trusted_certificate ca.crt; proxy_ssl_name app.test;
        server { listen 127.0.0.1:%%PORT_0%%; proxy_pass one; proxy_ssl on;
                 health_check interval=50ms match=greeting mandatory; }
        server { listen 127.0.0.1:%%PORT_1%%; proxy_pass two; proxy_ssl on; proxy_ssl_name other.test;
                 health_check interval=50ms match=greeting; }
    }"#;
    let setup = Setup::new(conf).set("PLAIN", plain.origin.address()).file("ca.crt", authority.certificate());
    let setup = setup.file("a.crt", &pair.certificate).file("a.key", &pair.key);
    let daemon = setup.level("info").start();
    let of = |group: &str, server: &str| {
        format!(
            "peer is unhealthy while SSL handshaking to upstream, .* of peer {server} in upstream \"{group}\": "
        )
    };
    let secure = format!("127.0.0.1:{}", daemon.port(2));
    daemon.wait_log(&of("one", &plain.origin.address()));
    daemon.wait_log(&of("three", &plain.origin.address()));
    let line = daemon.wait_log(&of("two", &secure));
    assert!(line.contains("upstream SSL certificate does not match \"other.test\""), "{line}");
    daemon.wait_log(&format!("peer is healthy while .* of peer {secure} in upstream \"one\""));
    for _ in 0..3 {
        assert_eq!(Client::connect(daemon.port(0)).rest().0, b"good day");
    }
    Client::connect(daemon.port(1)).expect_end();
    assert_eq!(daemon.log_count("peer is unhealthy"), 3);
}

/// A server of datagrams: what it gets, and what it answers with, if anything.
fn answering(answer: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static) -> (u16, Arc<Mutex<Vec<Vec<u8>>>>) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let port = socket.local_addr().expect("bound").port();
    let got = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&got);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            heard.lock().unwrap().push(buffer[..length].to_vec());
            if let Some(answer) = answer(&buffer[..length]) {
                let _ = socket.send_to(&answer, from);
            }
        }
    });
    (port, got)
}

#[test]
fn a_datagram_is_answered_as_expected_or_at_least_not_refused() {
    let (good, got) = answering(|bytes| (bytes == b"\x00\xffping").then(|| b"\x01pong".to_vec()));
    let (bad, _) = answering(|_| Some(b"\x02pong".to_vec()));
    let (silent, heard) = answering(|_| None);
    let closed = port::refusing();
    let conf = r#"stream {
        match ping { send "\x00\xffping"; expect "\x01pong"; }
        upstream talk { server 127.0.0.1:%%GOOD%%; server 127.0.0.1:%%BAD%%; }
        upstream quiet { server 127.0.0.1:%%SILENT%%; server 127.0.0.1:%%CLOSED%%; }
        health_check_timeout 250ms;
        server { listen 127.0.0.1:%%PORT_0%% udp; proxy_pass talk; health_check interval=50ms udp match=ping mandatory; }
        server { listen 127.0.0.1:%%PORT_1%% udp; proxy_pass quiet; health_check interval=50ms udp mandatory; }
    }"#;
    let setup =
        Setup::new(conf).set("GOOD", good).set("BAD", bad).set("SILENT", silent).set("CLOSED", closed);
    let daemon = setup.level("info").start();
    let line = daemon.wait_log(&format!("peer is unhealthy while .* of peer 127.0.0.1:{bad} "));
    assert!(
        line.contains("while reading from upstream") && line.contains("not done within 250 ms"),
        "{line}"
    );
    let line = daemon.wait_log(&format!("peer is unhealthy while .* of peer 127.0.0.1:{closed} "));
    assert!(line.contains("while reading from upstream") && line.contains("refused"), "{line}");
    assert_eq!(got.lock().unwrap()[0], b"\x00\xffping");
    wait_for("two checks of the silent server", || (heard.lock().unwrap().len() > 1).then_some(()));
    assert_eq!(heard.lock().unwrap()[0], b"pronghorn (health check)");
    // Clients reach the good server only, every time.
    let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    client.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    client.connect(("127.0.0.1", daemon.port(0))).expect("connects");
    for _ in 0..4 {
        client.send(b"\x00\xffping").expect("sent");
        let mut buffer = [0; 16];
        let length = client.recv(&mut buffer).expect("an answer");
        assert_eq!(&buffer[..length], b"\x01pong");
    }
    assert_eq!(daemon.log_count("peer is unhealthy"), 2);
}

#[test]
fn a_check_sends_the_header_of_a_proxy_where_sessions_do() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let got = Arc::clone(&heard);
    let origin = Origin::start(move |peer| {
        let line = peer.line();
        got.lock().unwrap().push(String::from_utf8_lossy(&line).trim_end().to_owned());
        let question = peer.try_exactly(12);
        let _ = peer.try_send(question.map_or(b"?", |_| b"I am ready"));
    });
    let conf = format!(
        "stream {{ {MATCH} server {{ listen 127.0.0.1:%%PORT_0%%; proxy_pass %%ORIGIN%%; proxy_protocol on;
            health_check interval=50ms match=asked mandatory; }} }}"
    );
    let daemon = Setup::new(&conf).set("ORIGIN", origin.address()).level("info").start();
    wait_for("a check", || (!heard.lock().unwrap().is_empty()).then_some(()));
    assert_eq!(heard.lock().unwrap()[0], "PROXY UNKNOWN");
    let mut client = wait_for("a healthy server", || {
        let mut client = Client::connect(daemon.port(0));
        client.send("how are you?");
        (client.some(16) == b"I am ready").then_some(client)
    });
    client.expect_end();
    assert!(heard.lock().unwrap().iter().any(|line| line.starts_with("PROXY TCP4 127.0.0.1 ")));
    assert_eq!(daemon.log_count("peer is unhealthy"), 0);
}

#[test]
fn agents_and_fail_open_work_for_sessions() {
    let (one, two) = (Server::named("one"), Server::named("two"));
    let line = Arc::new(Mutex::new("up\n"));
    let said = Arc::clone(&line);
    let agent = Origin::start(move |peer| {
        let _ = peer.try_send(said.lock().unwrap().as_bytes());
    });
    let conf = format!(
        "stream {{ {MATCH} health_check_timeout 300ms;
            upstream app {{ server %%ONE%%; server %%TWO%% backup; agent_check port=%%AGENT%% interval=50ms; }}
            upstream open {{ server %%ONE%%; server %%TWO%%; fail_open on; health_check interval=50ms match=asked; }}
            server {{ listen 127.0.0.1:%%PORT_0%%; proxy_pass app; }}
            server {{ listen 127.0.0.1:%%PORT_1%%; proxy_pass open; }} }}"
    );
    let setup = Setup::new(&conf).set("ONE", one.origin.address()).set("TWO", two.origin.address());
    let daemon = setup.set("AGENT", agent.port()).level("info").start();
    // Both servers have one agent: with it down nobody is left.
    for (now, expected) in [("down\n", ""), ("up\n", "one"), ("drain\n", ""), ("ready\n", "one")] {
        *line.lock().unwrap() = now;
        wait_for(now, || (name(&daemon) == expected).then_some(()));
    }
    daemon.wait_log("agent of peer .* in upstream \"app\" says: down 100%");
    one.is_ill(true);
    two.is_ill(true);
    daemon.wait_log("all peers of upstream \"open\" are unhealthy: all are used");
    let mut client = Client::connect(daemon.port(1));
    assert!([&b"one;"[..], b"two;"].contains(&&*client.exactly(4)));
}

#[test]
fn without_a_master_the_only_process_checks() {
    let (one, two) = (Server::named("one"), Server::named("two"));
    two.is_ill(true);
    let conf = format!(
        "stream {{ {MATCH} health_check_timeout 300ms;
            upstream app {{ server %%ONE%%; server %%TWO%%; health_check interval=50ms match=asked; }}
            server {{ listen 127.0.0.1:%%PORT_0%%; proxy_pass app; }} }}"
    );
    let setup = Setup::new(&conf).set("ONE", one.origin.address()).set("TWO", two.origin.address());
    let daemon = setup.level("info").alone().start();
    daemon.wait_log("peer is unhealthy");
    assert_eq!(names(&daemon, 6), ["one"; 6]);
}

#[test]
fn a_server_that_never_stops_talking_is_read_to_a_limit() {
    let endless = Origin::start(|peer| while peer.try_send(&[b'x'; 4096]).is_ok() {});
    let conf = "stream { match end { expect end; }
        upstream app { server %%ORIGIN%%; health_check interval=1h match=end; }
        server { listen 127.0.0.1:%%PORT_0%%; proxy_pass app; } }";
    let daemon = Setup::new(conf).set("ORIGIN", endless.address()).level("info").start();
    daemon.wait_log("peer is unhealthy while reading .*what is expected is not among 16384 bytes");
    endless.wait_ended(1);
}

#[test]
fn what_is_wrong_with_a_check_is_said() {
    let server = |text: &str| format!("server {{ listen 127.0.0.1:1; {text} }}");
    let group = |text: &str| format!("upstream a {{ server 127.0.0.1:2; {text} }}");
    for (text, message) in [
        (server("proxy_pass 127.0.0.1:2; health_check uri=/;"), "invalid parameter \"uri=/\""),
        (server("proxy_pass 127.0.0.1:2; health_check match=a;"), "\"match\" block \"a\" is not defined"),
        (server("proxy_pass 127.0.0.1:2; health_check persistent;"), "\"persistent\" requires \"mandatory\""),
        (server("proxy_pass 127.0.0.1:2; health_check ssl;"), "takes \"ssl\" from \"proxy_ssl\""),
        (
            server("proxy_pass 127.0.0.1:2; health_check; health_check;"),
            "\"health_check\" directive is duplicate",
        ),
        (
            server("proxy_pass $remote_addr:2; health_check;"),
            "cannot be used with \"proxy_pass\" directive with variables",
        ),
        (server("return a; health_check;"), "without \"proxy_pass\" has nothing to check"),
        (group("health_check udp ssl;"), "with \"udp\" cannot have \"ssl\""),
        (group("health_check interval=0;"), "invalid parameter \"interval=0\""),
        (group("agent_check;"), "invalid number of arguments"),
        (group("agent_check interval=1s;"), "must have the \"port\" parameter"),
        ("match a { } match a { }".into(), "duplicate match \"a\""),
        ("match a { status 200; }".into(), "\"status\" directive is not allowed here"),
        (r#"match a { send "\xg0"; }"#.into(), "invalid escape in"),
        ("match a { expect ~ (; }".into(), "invalid regular expression"),
        ("health_check_timeout x;".into(), "\"health_check_timeout\" directive invalid value"),
        ("health_check;".into(), "\"health_check\" directive is not allowed here"),
    ] {
        let output = Setup::new(&format!("stream {{ {text} }}")).run(&["-t"]);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && told.contains(message), "{text}: {told}");
        assert!(told.contains("pronghorn.conf:"), "{told}");
    }
}
