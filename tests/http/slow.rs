//! Clients that are slow, on purpose or not: which connections are ended, when, and what is logged.
//!
//! Rates and times are set so that each test reaches its limit within seconds.

use std::time::{Duration, Instant};

use crate::support::daemon::is_stand_in;
use crate::support::wire::End;
use crate::support::{Client, Daemon, Origin, Setup, deadline, wait_for};

const CONF: &str = r#"
http {
    client_max_body_size 10m;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        client_header_min_rate 1k 1s;
        client_body_min_rate 1k 1s;
        location / { proxy_pass http://%%ORIGIN%%; }
        location /reset { client_body_min_rate 1k 500ms; reset_timedout_connection on; proxy_pass http://%%ORIGIN%%; }
        location /off { client_body_min_rate off; proxy_pass http://%%ORIGIN%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_1%%;
        client_header_timeout 1s;
        client_body_timeout 1s;
        location / { proxy_pass http://%%ORIGIN%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_2%%;
        client_max_body_size 10;
        large_client_header_buffers 2 1k;
        max_headers 5;
        client_header_timeout 1s;
        reset_timedout_connection on;
        location / { proxy_pass http://%%ORIGIN%%; }
        location /hangup { return 444; }
        location /big { proxy_buffer_size 1k; proxy_pass http://%%ORIGIN%%; }
    }
}
"#;

fn start() -> (Origin, Daemon) {
    let origin = Origin::replying(|request| {
        let filler = if request.target == "/big" { "x".repeat(5000) } else { String::new() };
        format!("HTTP/1.1 200 OK\r\nX: {filler}\r\nContent-Length: 0\r\n\r\n").into_bytes()
    });
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).level("info").start();
    (origin, daemon)
}

/// Sends `piece` every 100 ms until a response or the end comes; returns the time that it took.
fn drip(client: &mut Client, first: &str, piece: &str) -> Duration {
    client.send(first);
    let began = Instant::now();
    while client.is_silent(Duration::from_millis(100)) {
        assert!(began.elapsed() < deadline(), "nobody ends it");
        let _ = client.try_send(piece.as_bytes());
    }
    began.elapsed()
}

const POST: &str = " HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n";

#[test]
fn a_head_that_drips_is_ended() {
    if is_stand_in() {
        return;
    }
    let (_origin, daemon) = start();
    let mut client = Client::connect(daemon.port(0));
    let took = drip(&mut client, "GET / HTTP/1.1\r\n", "A: b\r\n");
    assert_eq!(client.response().status, 408);
    client.expect_end();
    assert!(took >= Duration::from_millis(900), "{took:?}");
    daemon.wait_log(
        "client timed out \\(110: Connection timed out\\) while reading client request headers \
         \\(\"client_header_min_rate\" is 1024 bytes/s after 1s at .*pronghorn.conf:\\d+\\)",
    );
}

#[test]
fn a_head_that_comes_in_pieces_is_answered() {
    let (_origin, daemon) = start();
    let mut client = Client::connect(daemon.port(0));
    let head =
        format!("GET / HTTP/1.1\r\nHost: a\r\nA: {}\r\nB: {}\r\n\r\n", "x".repeat(3000), "y".repeat(3000));
    for piece in head.as_bytes().chunks(700) {
        assert!(client.is_silent(Duration::from_millis(20)));
        client.send(piece);
    }
    assert_eq!(client.response().status, 200);
    assert_eq!(client.get("/").status, 200);
}

#[test]
fn a_body_that_drips_is_ended() {
    if is_stand_in() {
        return;
    }
    let (_origin, daemon) = start();
    let mut client = Client::connect(daemon.port(0));
    let took = drip(&mut client, &format!("POST /{POST}"), "x");
    assert_eq!(client.response().status, 408);
    client.expect_end();
    assert!(took >= Duration::from_millis(900), "{took:?}");
    daemon.wait_log(
        "while reading client request body \\(\"client_body_min_rate\" is 1024 bytes/s after 1s at .*pronghorn.conf:\\d+\\)",
    );
    let mut client = Client::connect(daemon.port(0));
    drip(&mut client, &format!("POST /reset{POST}"), "x");
    assert_eq!(client.rest().1, End::Reset);
}

#[test]
fn a_body_that_moves_steadily_lives() {
    let (origin, daemon) = start();
    for target in ["/", "/off"] {
        let mut client = Client::connect(daemon.port(0));
        let count = 30; // three seconds, three times the grace, just above the rate
        client.send(format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", count * 150));
        for _ in 0..count {
            assert!(client.is_silent(Duration::from_millis(100)), "{target}: {:?}", client.rest());
            client.send([b'x'; 150]);
        }
        assert_eq!(client.response().status, 200);
        assert_eq!(origin.last().body.len(), count * 150);
    }
}

#[test]
fn what_has_come_earns_a_pause() {
    let (_origin, daemon) = start();
    let mut client = Client::connect(daemon.port(0));
    let body = vec![b'x'; 8000];
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8001\r\n\r\n");
    assert!(client.is_silent(Duration::from_millis(100)));
    client.send(&body);
    assert!(client.is_silent(Duration::from_millis(2500)), "twice the grace, but seven seconds were earned");
    client.send("x");
    assert_eq!(client.response().status, 200);
}

#[test]
fn who_pauses_is_ended_and_the_log_names_the_directive() {
    let (_origin, daemon) = start();
    let place = |name: &str, value: &str| {
        if is_stand_in() {
            String::new()
        } else {
            format!(" \\(\"{name}\" is {value} at .*pronghorn.conf:\\d+")
        }
    };
    let mut client = Client::connect(daemon.port(1));
    client.send("GET / HTTP/1.1\r\nHos");
    client.rest();
    daemon.wait_log(&format!("while reading client request headers{}", place("client_header_timeout", "1s")));
    let mut client = Client::connect(daemon.port(1));
    client.send(format!("POST /{POST}"));
    assert_eq!(client.response().status, 408);
    daemon.wait_log(&format!("while reading client request body{}", place("client_body_timeout", "1s")));
}

#[test]
fn sizes_that_decide_are_named() {
    if is_stand_in() {
        return;
    }
    let (_origin, daemon) = start();
    let ask = |request: &str| crate::support::fetch(daemon.port(2), request).status;
    assert_eq!(ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n"), 413);
    daemon.wait_log(
        "\\[error\\].*client intended to send too large body: 11 bytes \\(\"client_max_body_size\" is 10 at .*:\\d+, 11 is needed\\)",
    );
    assert_eq!(
        ask(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n14\r\n01234567890123456789\r\n0\r\n\r\n"
        ),
        413
    );
    daemon.wait_log(
        "\\[error\\].*client intended to send too large chunked body: 20 bytes \\(.*20 is needed\\)",
    );
    assert_eq!(ask(&format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(2000))), 414);
    daemon.wait_log("too long URI \\(\"large_client_header_buffers\" is 2 of 1024 bytes at .*:\\d+\\)");
    assert_eq!(ask(&format!("GET / HTTP/1.1\r\nHost: a\r\nA: {}\r\n\r\n", "x".repeat(2000))), 400);
    daemon.wait_log("too large header \\(\"large_client_header_buffers\" is 2 of 1024 bytes at .*:\\d+\\)");
    assert_eq!(ask(&format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(9))), 400);
    daemon.wait_log("too many headers \\(\"max_headers\" is 5 at .*:\\d+\\)");
    assert_eq!(ask("GET /big HTTP/1.1\r\nHost: a\r\n\r\n"), 502);
    daemon.wait_log("upstream sent too big header \\(\"proxy_buffer_size\" is 1024 at .*:\\d+\\) while reading response header");
}

#[test]
fn timed_out_connections_are_reset_where_that_is_wanted() {
    let (_origin, daemon) = start();
    let mut client = Client::connect(daemon.port(2));
    client.send("GET / HTTP/1.1\r\nHos");
    assert_eq!(client.expect_end(), End::Reset);
    let mut client = Client::connect(daemon.port(2));
    client.send("GET /hangup HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.expect_end(), End::Reset);
}

/// The number of bytes in the kernel's send queues for the clients of a port.
fn send_queue(port: u16) -> usize {
    let output = std::process::Command::new("ss").args(["-H", "-t", "-n", "state", "established"]).output();
    let text = String::from_utf8_lossy(&output.expect("ss is installed").stdout).into_owned();
    let rows = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row.get(2).is_some_and(|local| local.ends_with(&format!(":{port}"))))
        .filter_map(|row| row[1].parse::<usize>().ok())
        .sum()
}

#[test]
fn who_does_not_read_is_reset() {
    const CONF: &str = r#"
http {
    server { listen 127.0.0.1:%%PORT_0%%; send_timeout 1s; location / { proxy_pass http://%%ORIGIN%%; } }
}
"#;
    if is_stand_in() {
        return; // nginx closes, and the kernel keeps sending for minutes
    }
    let origin = Origin::replying(|_| crate::support::origin::ok(&vec![b'x'; 20_000_000]));
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).level("info").start();
    let mut client = Client::connect(daemon.port(0));
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    // Nor does the kernel hold much for it: unsent bytes are bounded.
    let log = "client timed out .* while sending to client \\(\"send_timeout\" is 1s at .*:\\d+\\)";
    let mut most = 0;
    wait_for("the end of a client that does not read", || {
        most = most.max(send_queue(daemon.port(0)));
        (daemon.log_count(log) > 0).then_some(())
    });
    assert!((100_000..1_500_000).contains(&most), "{most} bytes in the kernel");
    assert_eq!(client.rest().1, End::Reset);
}
