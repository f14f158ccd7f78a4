//! `$termination_reason` and the times of a request's phases, for each way in which a request can end.

use std::time::Duration;

use crate::support::{Client, Daemon, Origin, Setup, fetch, get};

const CONF: &str = r#"
http {
    log_format reason '$request_uri|$status|$termination_reason|$request_completion';
    log_format times '$uri|$request_head_time|$request_body_time|$upstream_connect_time|$upstream_send_time|$upstream_header_time|$response_wait_time|$response_send_time|$request_time';
    access_log %%DIR%%/reason.log reason;
    access_log %%DIR%%/times.log times;
    client_header_timeout 300ms;
    client_body_timeout 300ms;
    send_timeout 300ms;
    lingering_close off;
    upstream dead { server 127.0.0.1:%%DEAD%% max_fails=1; server 127.0.0.2:%%DEAD%% max_fails=1; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        proxy_read_timeout 300ms;
        proxy_connect_timeout 300ms;
        proxy_buffer_size 1k;
        error_page 599 /unused;
        location / { proxy_pass http://%%ORIGIN%%; }
        location /local { return 200 x; }
        location /hangup { return 444; }
        location /missing { root %%DIR%%/nowhere; }
        location /small { client_max_body_size 10; proxy_pass http://%%ORIGIN%%; }
        location /refused { proxy_pass http://127.0.0.1:%%DEAD%%; }
        location /dead { proxy_pass http://dead; }
        location /unresolved { set $name nowhere.invalid; proxy_pass http://$name; }
        location /again {
            proxy_pass http://127.0.0.1:%%DEAD%%;
            error_page 502 = @fallback;
        }
        location @fallback { proxy_pass http://%%ORIGIN%%; }
    }
}
"#;

fn origin() -> Origin {
    Origin::start(|peer| {
        while let Some(request) = peer.head() {
            match request.target.split('?').next().unwrap() {
                "/silent" => return drop(peer.head()), // until the daemon closes
                "/closes" => return,
                "/nonsense" => peer.send("nonsense\r\n\r\n"),
                "/wide" => peer.send(format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(2000))),
                "/breaks" => {
                    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
                    return;
                }
                "/pauses" => {
                    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
                    return drop(peer.head());
                }
                "/chunks" => peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n"),
                "/endless" => {
                    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
                    while peer.try_send(&[b'x'; 65536]).is_ok() {}
                    return;
                }
                _ => peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
            };
        }
    })
}

fn start(origin: &Origin) -> Daemon {
    let dead = crate::support::port::refusing();
    Setup::new(CONF).set("ORIGIN", origin.address()).set("DEAD", dead).start()
}

/// Checks that the log line for `uri` ends with this.
fn expect(daemon: &Daemon, uri: &str, expected: &str) {
    let line = daemon.wait_line("reason.log", &format!("(?m)^{}\\|", regex::escape(uri)));
    let line = line.lines().find(|line| line.starts_with(&format!("{uri}|"))).unwrap_or(&line).to_owned();
    assert_eq!(line, format!("{uri}|{expected}"));
}

#[test]
fn a_request_that_was_answered_is_ok_whatever_the_status() {
    let origin = origin();
    let daemon = start(&origin);
    for (uri, expected) in
        [("/fine", "200|ok|OK"), ("/local", "200|ok|OK"), ("/missing", "404|ok|OK"), ("/again", "200|ok|OK")]
    {
        get(daemon.port(0), uri);
        expect(&daemon, uri, expected);
    }
}

#[test]
fn the_upstream_s_failures_name_their_phase_and_limit() {
    let origin = origin();
    let daemon = start(&origin);
    for (uri, expected) in [
        ("/refused", "502|upstream_error/connect|OK"),
        ("/unresolved", "502|upstream_error/resolve|OK"),
        ("/silent", "504|upstream_timeout/response_head/proxy_read_timeout|OK"),
        ("/closes", "502|upstream_abort/response_head|OK"),
        ("/nonsense", "502|upstream_error/response_head|OK"),
        ("/wide", "502|upstream_limit/response_head/proxy_buffer_size|OK"),
        ("/breaks", "200|upstream_abort/response_body|"),
        ("/pauses", "200|upstream_timeout/response_body/proxy_read_timeout|"),
        ("/chunks", "200|upstream_error/response_body|"),
        ("/dead", "502|upstream_error/connect|OK"),
        ("/dead?2", "502|upstream_down/connect|OK"),
    ] {
        let mut wire = Client::connect(daemon.port(0)).into_wire();
        wire.send(format!("GET {uri} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")).rest();
        expect(&daemon, uri, expected);
    }
}

#[test]
fn the_client_s_failures_name_their_phase_and_limit() {
    let origin = origin();
    let daemon = start(&origin);
    let port = daemon.port(0);

    let mut wire = Client::connect(port).into_wire();
    wire.send("POST /slow-body HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhalf");
    wire.rest();
    expect(&daemon, "/slow-body", "408|client_timeout/request_body/client_body_timeout|OK");

    let mut wire = Client::connect(port).into_wire();
    wire.send("POST /cut-body HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhalf");
    drop(wire);
    expect(&daemon, "/cut-body", "400|client_abort/request_body|OK");

    fetch(port, "POST /small HTTP/1.1\r\nHost: h\r\nContent-Length: 11\r\n\r\n12345678901");
    expect(&daemon, "/small", "413|client_limit/request_body/client_max_body_size|OK");
    fetch(
        port,
        "POST /small?2 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n12345678901\r\n0\r\n\r\n",
    );
    expect(&daemon, "/small?2", "413|client_limit/request_body/client_max_body_size|OK");
    fetch(port, "POST /bad-chunk HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n");
    expect(&daemon, "/bad-chunk", "400|client_error/request_body|OK");

    let mut wire = Client::connect(port).into_wire();
    wire.send("GET /silent HTTP/1.1\r\nHost: h\r\n\r\n");
    origin.wait_requests(1);
    drop(wire);
    expect(&daemon, "/silent", "499|client_abort/response_head|");

    let mut wire = Client::connect(port).into_wire();
    wire.send("GET /endless HTTP/1.1\r\nHost: h\r\n\r\n");
    expect(&daemon, "/endless", "200|client_timeout/send_response/send_timeout|");
    drop(wire);

    let mut wire = Client::connect(port).into_wire();
    wire.send("GET /hangup HTTP/1.1\r\nHost: h\r\n\r\n").expect_end();
    expect(&daemon, "/hangup", "444|proxy_abort/process/return|");
}

#[test]
fn heads_that_never_become_requests_have_a_reason_too() {
    let origin = origin();
    let daemon = start(&origin);
    let port = daemon.port(0);
    for (bytes, expected) in [
        ("GET / HTTP/1.1\r\nHo", "|408|client_timeout/request_head/client_header_timeout|"),
        ("nonsense\r\n\r\n", "|400|client_error/request_head|"),
        (
            &format!("GET /{} HTTP/1.1\r\n", "x".repeat(9000)),
            "|414|client_limit/request_head/large_client_header_buffers|",
        ),
    ] {
        let mut wire = Client::connect(port).into_wire();
        wire.send(bytes);
        wire.rest();
        daemon.wait_line("reason.log", &regex::escape(expected));
    }
    let mut wire = Client::connect(port).into_wire();
    wire.send("GET / HTTP/1.1\r\nHo");
    drop(wire);
    daemon.wait_line("reason.log", r"\|400\|client_abort/request_head\|");
}

#[test]
fn the_phases_have_their_times() {
    let origin = Origin::start(|peer| {
        while let Some(_request) = peer.request() {
            std::thread::sleep(Duration::from_millis(120)); // the time that is measured
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha");
            std::thread::sleep(Duration::from_millis(120));
            peer.send("lf");
        }
    });
    let daemon = start(&origin);
    let mut wire = Client::connect(daemon.port(0)).into_wire();
    wire.send("POST /timed HTTP/1.1\r\nHost: h\r\n");
    std::thread::sleep(Duration::from_millis(120));
    wire.send("Content-Length: 4\r\n\r\nha");
    std::thread::sleep(Duration::from_millis(120));
    wire.send("lf");
    assert_eq!(wire.response().text(), "half");
    let text = daemon.wait_line("times.log", "^/timed");
    let times: Vec<f64> = text.trim().split('|').skip(1).map(|time| time.parse().expect(&text)).collect();
    let [head, body, connect, send, header, wait, sending, whole] = times[..] else { panic!("{text}") };
    let long = |time: f64| (0.1..0.24).contains(&time);
    assert!(long(head) && long(body) && long(header) && long(sending), "{text}");
    assert!(connect < 0.1 && send < 0.1, "{text}");
    assert!(wait >= 0.3 && whole >= wait + 0.1, "{text}");

    get(daemon.port(0), "/local");
    let line = daemon.wait_line("times.log", "^/local");
    let fields: Vec<&str> = line.trim().split('|').collect();
    assert_eq!((fields[2], fields[3], fields[4]), ("-", "-", "-"), "{line}: nothing to measure");
}

#[test]
fn what_a_limit_refuses_names_it() {
    let daemon = Setup::new(
        "http { limit_req_zone $uri zone=z:64k rate=1r/m; log_format r '$status|$termination_reason'; access_log %%DIR%%/r.log r;
         server { listen 127.0.0.1:%%PORT_0%%; location / { limit_req zone=z; root %%DIR%%; } } }",
    )
    .file("page", "x")
    .start();
    assert_eq!(get(daemon.port(0), "/page").status, 200);
    assert_eq!(get(daemon.port(0), "/page").status, 503);
    daemon.wait_line("r.log", r"^200\|ok$");
    daemon.wait_line("r.log", r"^503\|proxy_limit/process/limit_req$");
}

#[test]
fn a_worker_that_leaves_says_what_it_has_cut_off() {
    let origin = origin();
    let daemon = Setup::new(
        "worker_shutdown_timeout 100ms;
         http { log_format r '$uri|$termination_reason'; access_log %%DIR%%/r.log r;
         server { listen 127.0.0.1:%%PORT_0%%; location / { proxy_pass http://%%ORIGIN%%; } } }",
    )
    .set("ORIGIN", origin.address())
    .start();
    let mut wire = Client::connect(daemon.port(0)).into_wire();
    wire.send("GET /silent HTTP/1.1\r\nHost: h\r\n\r\n");
    origin.wait_requests(1);
    daemon.stop(nix::sys::signal::Signal::SIGQUIT);
    daemon.wait_line("r.log", r"^/silent\|proxy_abort/response_head$");
}
