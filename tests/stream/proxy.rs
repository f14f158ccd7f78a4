//! `proxy_pass` of a stream: bytes in both directions, ends and resets that are carried through, timeouts and rates.

use std::time::{Duration, Instant};

use crate::support::wire::End;
use crate::support::{Client, Daemon, Origin, Setup, port, wait_for};

const CONF: &str = r#"
stream {
    log_format session '$status $bytes_received/$bytes_sent $upstream_bytes_sent/$upstream_bytes_received $upstream_addr';
    access_log %%DIR%%/session.log session;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        proxy_pass %%ORIGIN%%;
        %%MORE%%
    }
}
"#;

fn start(origin: &Origin, more: &str) -> Daemon {
    Setup::new(CONF).set("ORIGIN", origin.address()).set("MORE", more).level("info").start()
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 31 % 251) as u8).collect()
}

#[test]
fn bytes_go_both_ways_and_are_counted() {
    let origin = Origin::echo();
    let daemon = start(&origin, "");
    let mut client = Client::connect(daemon.port(0));
    let mut sum = 0;
    for length in [1, 5, 1_000, 60_000] {
        let bytes = pattern(length);
        client.send(&bytes);
        assert!(client.exactly(length) == bytes, "{length} bytes came back changed");
        sum += length;
    }
    drop(client);
    let line = daemon.wait_line("session.log", r"\d+/\d+");
    assert_eq!(line, format!("200 {sum}/{sum} {sum}/{sum} {}", origin.address()));
    daemon.wait_log(&format!("client disconnected, bytes from/to client:{sum}/{sum}"));
}

/// Long enough for pipes to be used, both ways at the same time, with a reader that pauses.
#[test]
fn many_bytes_arrive_as_they_were() {
    const LENGTH: usize = 24 * 1024 * 1024;
    let origin = Origin::start(|peer| {
        let got = peer.exactly(LENGTH);
        assert!(got == pattern(LENGTH), "what the origin got was changed");
        peer.send(&got);
    });
    let daemon = start(&origin, "");
    let mut client = Client::connect(daemon.port(0));
    client.send(pattern(LENGTH));
    assert!(client.exactly(LENGTH) == pattern(LENGTH), "what the client got was changed");
    assert_eq!(client.expect_end(), End::Closed);
    let line = daemon.wait_line("session.log", r"\d+/\d+");
    assert_eq!(line, format!("200 {LENGTH}/{LENGTH} {LENGTH}/{LENGTH} {}", origin.address()));
}

#[test]
fn the_first_end_ends_the_session() {
    let origin = Origin::start(|peer| {
        peer.exactly(4);
        peer.send("bye");
    });
    let daemon = start(&origin, "");
    let mut client = Client::connect(daemon.port(0));
    client.send("ping");
    assert_eq!(client.exactly(3), b"bye");
    assert_eq!(client.expect_end(), End::Closed);
    daemon.wait_log("upstream disconnected, bytes from/to client:4/3, bytes from/to upstream:3/4");

    let origin = Origin::start(|peer| assert_eq!(peer.rest().0, b"ping"));
    let daemon = start(&origin, "");
    let mut client = Client::connect(daemon.port(0));
    client.send("ping").half_close();
    assert_eq!(client.expect_end(), End::Closed, "without proxy_half_close there is no answer");
    origin.wait_ended(1);
}

#[test]
fn with_half_close_an_answer_follows_the_end_of_the_question() {
    let origin = Origin::start(|peer| {
        let (question, end) = peer.rest();
        assert_eq!((&question[..], end), (&b"question"[..], End::Closed));
        peer.send("answer");
    });
    let daemon = start(&origin, "proxy_half_close on;");
    let mut client = Client::connect(daemon.port(0));
    client.send("question").half_close();
    assert_eq!(client.rest(), (b"answer".to_vec(), End::Closed));
}

#[test]
fn a_reset_is_carried_through() {
    let origin = Origin::start(|peer| {
        peer.send("some");
        peer.exactly(2);
        peer.reset_on_close();
    });
    let daemon = start(&origin, "");
    let mut client = Client::connect(daemon.port(0));
    assert_eq!(client.exactly(4), b"some");
    client.send("ok");
    assert_eq!(client.expect_end(), End::Reset);

    let origin = Origin::start(|peer| {
        peer.send("some");
        assert_eq!(peer.rest().1, End::Reset);
    });
    let daemon = start(&origin, "");
    let mut client = Client::connect(daemon.port(0));
    assert_eq!(client.exactly(4), b"some");
    client.reset_on_close();
    drop(client);
    origin.wait_ended(1);
}

#[test]
fn a_silent_session_ends_after_its_timeout() {
    let origin = Origin::echo();
    let daemon = start(&origin, "proxy_timeout 300ms;");
    let mut client = Client::connect(daemon.port(0));
    client.send("x");
    assert_eq!(client.exactly(1), b"x");
    assert_eq!(client.expect_end(), End::Closed);
    origin.wait_ended(1);
    daemon.wait_log("connection timed out");
    assert!(daemon.wait_line("session.log", "^200").starts_with("200 1/1 "));
}

#[test]
fn a_rate_limits_each_direction() {
    let origin = Origin::echo();
    let daemon = start(&origin, "proxy_upload_rate 1000; proxy_download_rate $rate; set $rate 2k;");
    let mut client = Client::connect(daemon.port(0));
    let begun = Instant::now();
    client.send(pattern(3000));
    assert_eq!(client.exactly(3000), pattern(3000));
    assert!(begun.elapsed() >= Duration::from_millis(1900), "the third second's bytes came after two");
}

#[test]
fn a_server_that_cannot_be_reached_is_a_502() {
    let nobody = port::refusing();
    let conf = CONF.replace("%%ORIGIN%%", &format!("127.0.0.1:{nobody}"));
    let daemon = Setup::new(&conf).set("MORE", "").level("info").start();
    let mut client = Client::connect(daemon.port(0));
    client.send("lost");
    client.expect_end();
    assert_eq!(daemon.wait_line("session.log", "^502"), format!("502 0/0 0/0 127.0.0.1:{nobody}"));
    daemon.wait_log(r"connect\(\) failed \(111: Connection refused\) while connecting to upstream, client: 127.0.0.1, server: ");
}

#[test]
fn unix_sockets_serve_both_sides() {
    let conf = r"
        stream {
            server { listen unix:%%DIR%%/inner.sock; return from:$server_addr; }
            server { listen 127.0.0.1:%%PORT_0%%; proxy_pass unix:%%DIR%%/inner.sock; }
        }";
    let daemon = Daemon::start(conf);
    let mut client = Client::connect(daemon.port(0));
    let path = daemon.path("inner.sock");
    assert_eq!(String::from_utf8(client.rest().0).unwrap(), format!("from:unix:{}", path.display()));
}

#[test]
fn every_port_of_a_range_is_served() {
    // Ports of a range must follow each other: look for three that are free.
    let first = wait_for("three free ports in a row", || {
        let first = port::free();
        let are_free = (1..3).all(|more| std::net::TcpListener::bind(("127.0.0.1", first + more)).is_ok());
        are_free.then_some(first)
    });
    let conf =
        format!("stream {{ server {{ listen 127.0.0.1:{first}-{}; return $server_port; }} }}", first + 2);
    let _daemon = Daemon::start(&conf);
    for port in first..first + 3 {
        assert_eq!(Client::connect(port).rest().0, port.to_string().as_bytes());
    }
}

/// A session keeps nothing but its sockets and a small future while nothing flows.
#[test]
fn idle_sessions_end_with_their_clients_and_leave_nothing() {
    let origin = Origin::echo();
    let daemon = start(&origin, "");
    let worker = daemon.worker();
    // The first session leaves what a worker opens once.
    let mut first = Client::connect(daemon.port(0));
    first.send("x");
    assert_eq!(first.exactly(1), b"x");
    drop(first);
    origin.wait_ended(1);
    let mut before = 0;
    wait_for("the descriptors to settle", || {
        let now = crate::support::process::fd_count(worker);
        std::mem::replace(&mut before, now).eq(&now).then_some(())
    });
    let clients: Vec<Client> = (0..50)
        .map(|_| {
            let mut client = Client::connect(daemon.port(0));
            client.send("x");
            assert_eq!(client.exactly(1), b"x");
            client
        })
        .collect();
    drop(clients);
    origin.wait_ended(51);
    wait_for("all descriptors to be closed", || {
        (crate::support::process::fd_count(worker) <= before).then_some(())
    });
    assert_eq!(daemon.complaints("warn|error|crit|alert|emerg"), [""; 0]);
}

#[test]
fn the_local_address_is_chosen_once_or_for_each_server() {
    for (dynamic, expected) in [("off", "127.0.0.2"), ("on", "127.0.0.3")] {
        let origin = Origin::start(|peer| {
            let source = peer.stream().peer_addr().expect("connected").ip().to_string();
            peer.send(source);
        });
        let conf = "stream {
            map $upstream_last_server_name $source { volatile; default 127.0.0.2; localhost 127.0.0.3; }
            upstream app { server localhost:%%ORIGIN%%; }
            server { listen 127.0.0.1:%%PORT_0%%; proxy_pass app; proxy_bind $source; proxy_bind_dynamic %%DYNAMIC%%; }
        }";
        let daemon = Setup::new(conf).set("ORIGIN", origin.port()).set("DYNAMIC", dynamic).start();
        let (bytes, _) = Client::connect(daemon.port(0)).rest();
        assert_eq!(String::from_utf8_lossy(&bytes), expected, "proxy_bind_dynamic {dynamic}");
    }
}
