//! Upstream groups of a stream: balancers, peers that fail, limits, names.

use std::collections::BTreeMap;

use crate::support::{Client, Daemon, Origin, Setup, port, wait_for};

/// An origin that tells its port to each client, and waits for the client's end.
fn teller() -> Origin {
    Origin::start(|peer| {
        let own = peer.stream().local_addr().expect("connected").port();
        peer.send(format!("{own};"));
        peer.rest();
    })
}

fn two() -> (Origin, Origin) {
    (teller(), teller())
}

fn start(block: &str, servers: &[&Origin], parameters: &str) -> Daemon {
    let lines: String = servers.iter().map(|it| format!("server {} {parameters};\n", it.address())).collect();
    let conf = "stream {
        log_format peers '$upstream_addr $status';
        access_log %%DIR%%/peers.log peers;
        upstream app { %%BLOCK%% %%SERVERS%% }
        server { listen 127.0.0.1:%%PORT_0%%; proxy_pass app; }
    }";
    Setup::new(conf).set("BLOCK", block).set("SERVERS", lines).level("info").start()
}

/// The port that a client was told, and the client, whose session is open.
fn ask(daemon: &Daemon) -> (u16, Client) {
    let mut client = Client::connect(daemon.port(0));
    let mut digits = Vec::new();
    loop {
        match client.exactly(1)[0] {
            b';' => break,
            digit => digits.push(digit),
        }
    }
    (String::from_utf8(digits).expect("digits").parse().expect("a port"), client)
}

fn spread(daemon: &Daemon, count: usize) -> BTreeMap<u16, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..count {
        *counts.entry(ask(daemon).0).or_default() += 1;
    }
    counts
}

#[test]
fn sessions_take_turns() {
    let (one, other) = two();
    let daemon = start("", &[&one, &other], "");
    assert_eq!(spread(&daemon, 10).into_values().collect::<Vec<_>>(), [5, 5]);
}

#[test]
fn open_sessions_count_for_least_conn_and_max_conns() {
    let (one, other) = two();
    let daemon = start("least_conn;", &[&one, &other], "");
    let (first, held) = ask(&daemon);
    for _ in 0..5 {
        let (next, client) = ask(&daemon);
        assert_ne!(next, first, "the first server has a session");
        drop(client);
        let ended = if next == one.port() { &one } else { &other };
        wait_for("its session to end", || (ended.ended() == ended.accepted()).then_some(()));
    }
    drop(held);

    let daemon = start("", &[&one, &other], "max_conns=1");
    let (a, b) = (ask(&daemon), ask(&daemon));
    assert_ne!(a.0, b.0);
    Client::connect(daemon.port(0)).expect_end();
    daemon.wait_log("no live upstreams while connecting to upstream, .*upstream: \"app\"");
    assert_eq!(daemon.wait_line("peers.log", "502"), "app 502");
}

#[test]
fn a_key_leads_to_one_server() {
    let (one, other) = two();
    for block in ["hash $remote_addr;", "hash $remote_addr consistent;", "ip_hash;"] {
        let daemon = start(block, &[&one, &other], "");
        assert_eq!(spread(&daemon, 6).len(), 1, "{block}");
    }
}

#[test]
fn the_next_server_is_tried_and_a_dead_one_left_out() {
    let (dead, alive) = (port::refusing(), teller());
    let conf = "stream {
        log_format peers '$upstream_addr';
        access_log %%DIR%%/peers.log peers;
        upstream app { server 127.0.0.1:%%DEAD%% weight=5; server %%ORIGIN%%; }
        server { listen 127.0.0.1:%%PORT_0%%; proxy_pass app; }
    }";
    let daemon = Setup::new(conf).set("DEAD", dead).set("ORIGIN", alive.address()).start();
    assert_eq!(spread(&daemon, 3), [(alive.port(), 3)].into());
    daemon.wait_log("upstream server temporarily disabled while connecting to upstream");
    let both = format!("127.0.0.1:{dead}, {}", alive.address());
    let lines = wait_for("three lines", || {
        let lines: Vec<String> = daemon.read("peers.log").lines().map(str::to_owned).collect();
        (lines.len() == 3).then_some(lines)
    });
    assert_eq!(lines, [both, alive.address(), alive.address()]);
}

#[test]
fn no_other_server_is_tried_where_that_is_off_or_too_often() {
    let (dead, alive) = (port::refusing(), teller());
    for more in ["proxy_next_upstream off;", "proxy_next_upstream_tries 1;"] {
        let conf = "stream {
            upstream app { server 127.0.0.1:%%DEAD%% max_fails=0 weight=5; server %%ORIGIN%%; }
            server { listen 127.0.0.1:%%PORT_0%%; proxy_pass app; %%MORE%% }
        }";
        let setup = Setup::new(conf).set("DEAD", dead).set("ORIGIN", alive.address()).set("MORE", more);
        let daemon = setup.start();
        assert_eq!(Client::connect(daemon.port(0)).rest().0, b"", "{more}");
    }
}

#[test]
fn variables_choose_the_destination() {
    let (one, other) = two();
    let conf = "stream {
        map $server_port $target { %%PORT_0%% %%ONE%%; %%PORT_1%% app; %%PORT_2%% nowhere; default unix:/run/no.sock; }
        upstream app { server %%OTHER%%; }
        log_format status $status;
        access_log %%DIR%%/status.log status;
        server { listen 127.0.0.1:%%PORT_0%%; listen 127.0.0.1:%%PORT_1%%; listen 127.0.0.1:%%PORT_2%%; proxy_pass $target; }
        server { listen 127.0.0.1:%%PORT_3%% proxy_protocol; proxy_pass unix:$proxy_protocol_addr; }
    }";
    let daemon = Setup::new(conf).set("ONE", one.address()).set("OTHER", other.address()).start();
    let first = |port| {
        let mut client = Client::connect(port);
        let told = client.some(16);
        String::from_utf8(told).expect("a port")
    };
    assert_eq!(first(daemon.port(0)), format!("{};", one.port()));
    assert_eq!(first(daemon.port(1)), format!("{};", other.port()));
    Client::connect(daemon.port(2)).expect_end();
    daemon.wait_log("no port in upstream \"nowhere\"");
    daemon.wait_line("status.log", "^500");
}

#[test]
fn what_is_wrong_with_a_configuration_is_said() {
    for (text, message) in [
        ("server { return x; }", "no \"listen\" is defined for server"),
        ("server { listen 127.0.0.1:1; proxy_pass app; }", "no port in upstream \"app\""),
        ("server { listen 127.0.0.1:1; proxy_pass 127.0.0.1; }", "no port in upstream \"127.0.0.1\""),
        ("upstream app { server 127.0.0.1; }", "no port in upstream \"127.0.0.1\""),
        ("upstream app { }", "no servers are inside upstream"),
        ("server { listen 127.0.0.1; return x; }", "no port in \"127.0.0.1\" of the \"listen\" directive"),
        ("server { listen 127.0.0.1:1; return x; access_log /tmp/x; }", "log format is not specified"),
        (
            "server { listen 127.0.0.1:1; return x; location / { } }",
            "\"location\" directive is not allowed here",
        ),
        ("server { listen 127.0.0.1:1; return x; proxy_upload_rate fast; }", "invalid value \"fast\""),
        ("server { listen 127.0.0.1:1; return $nothing; }", "unknown \"nothing\" variable"),
        ("upstream app { server 127.0.0.1:1; least_time header; }", "invalid value \"header\""),
    ] {
        let tested = Setup::new(&format!("stream {{ {text} }}")).run(&["-t"]);
        let told = String::from_utf8_lossy(&tested.stderr);
        assert!(!tested.status.success() && told.contains(message), "{text}: {told}");
    }
    let both = "http { access_log off; server { listen 127.0.0.1:%%PORT_0%%; } }
                stream { server { listen 127.0.0.1:%%PORT_0%%; return x; } }";
    let tested = Setup::new(both).run(&["-t"]);
    let told = String::from_utf8_lossy(&tested.stderr);
    assert!(!tested.status.success() && told.contains("address and port pair"), "{told}");
}

#[test]
fn a_client_comes_back_to_its_server() {
    let origins = [teller(), teller(), teller()];
    let conf = "stream {
        upstream app { %%SERVERS%% sticky source zone=clients:32k; }
        upstream networks { %%SERVERS%% sticky source zone=networks:32k prefix4=24; }
        server { listen 127.0.0.1:%%PORT_0%% proxy_protocol; set_real_ip_from 127.0.0.1; proxy_pass app; }
        server { listen 127.0.0.1:%%PORT_1%% proxy_protocol; set_real_ip_from 127.0.0.1; proxy_pass networks; }
    }
    http { upstream app { server 127.0.0.1:1; sticky source zone=clients:32k; } }";
    let servers: String =
        origins.iter().map(|origin| format!("server {} max_fails=0;\n", origin.address())).collect();
    let daemon = Setup::new(conf).set("SERVERS", servers).start();
    let ask = |server: usize, client: &str| {
        let mut connection = Client::connect(daemon.port(server));
        connection.send(format!("PROXY TCP4 {client} 127.0.0.1 1000 80\r\n"));
        let mut told = Vec::new();
        while !told.ends_with(b";") {
            told.extend(connection.exactly(1));
        }
        String::from_utf8(told).expect("digits")
    };
    let clients: Vec<String> = (1..=8).map(|number| format!("10.0.{number}.1")).collect();
    let before: Vec<String> = clients.iter().map(|client| ask(0, client)).collect();
    assert!(before.iter().any(|server| *server != before[0]), "not all at one: {before:?}");
    let again = || clients.iter().map(|client| ask(0, client)).collect::<Vec<_>>();
    assert_eq!(again(), before);
    daemon.reload();
    assert_eq!(again(), before, "a reload forgets nobody");
    assert_eq!(
        ask(1, "10.0.1.1").repeat(4),
        (2..6).map(|end| ask(1, &format!("10.0.1.{end}"))).collect::<String>()
    );

    // The clients of a server that is gone move, all others stay.
    let gone = origins[0].address();
    daemon.rewrite(|conf| conf.replace(&format!("server {gone} max_fails=0;"), ""));
    daemon.reload();
    let gone = format!("{};", gone.rsplit(':').next().expect("a port"));
    let moved = again();
    for (now, then) in moved.iter().zip(&before) {
        assert!(*now == *then || *then == gone, "{now} instead of {then}");
        assert_ne!(*now, gone);
    }
    assert_eq!(again(), moved);
}

#[test]
fn clients_of_a_stream_have_no_cookies() {
    for (sticky, message) in [
        ("cookie id", "clients are known by their address only"),
        ("source timeout=1m", "\"zone\" parameter is not specified"),
        ("source zone=a:32k; sticky source zone=b:32k", "\"sticky\""),
    ] {
        let conf = format!("stream {{ upstream app {{ server 127.0.0.1:1; sticky {sticky}; }} }}");
        let output = Setup::new(&conf).run(&["-t"]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && text.contains(message), "{sticky}: {text}");
    }
}
