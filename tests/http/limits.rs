//! Limits on clients: the sizes of heads and bodies, and the time they may take.

use std::time::{Duration, Instant};

use crate::support::daemon::is_stand_in;
use crate::support::{Client, Daemon, Origin, Setup};

const CONF: &str = r#"
http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        client_header_buffer_size 1k;
        large_client_header_buffers 2 4k;
        client_max_body_size 1k;
        location / { proxy_pass http://%%ORIGIN%%; }
        location /unlimited { client_max_body_size 0; proxy_pass http://%%ORIGIN%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_1%%;
        client_header_timeout 1s;
        client_body_timeout 1s;
        location / { proxy_pass http://%%ORIGIN%%; }
    }
}
"#;

fn start() -> (Origin, Daemon) {
    let origin = Origin::saying("reached\n");
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).start();
    (origin, daemon)
}

#[test]
fn a_line_may_fill_a_large_buffer() {
    let (origin, daemon) = start();
    let mut client = Client::connect(daemon.port(0));
    let path = format!("/{}", "a".repeat(3_900));
    assert_eq!(client.get(&path).status, 200);
    assert_eq!(origin.last().target, path);
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Long: {}\r\n\r\n", "b".repeat(3_900)));
    assert_eq!(client.response().status, 200);
    assert_eq!(origin.last().header("x-long").map(str::len), Some(3_900));
}

#[test]
fn a_request_line_that_is_too_long_gets_414() {
    let (origin, daemon) = start();
    let mut client = Client::connect(daemon.port(0));
    client.send(format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(5_000)));
    assert_eq!(client.response().status, 414);
    client.expect_end();
    assert_eq!(origin.accepted(), 0);
}

#[test]
fn fields_that_are_too_long_get_400() {
    let (origin, daemon) = start();
    let one = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "a".repeat(5_000));
    let many =
        format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", format!("X: {}\r\n", "a".repeat(200)).repeat(60));
    for request in [one, many] {
        let mut client = Client::connect(daemon.port(0));
        let _ = client.try_send(request.as_bytes());
        let response = client.response();
        assert_eq!(response.status, 400);
        assert!(response.text().contains("Request Header Or Cookie Too Large"), "{}", response.text());
        client.expect_end();
    }
    assert_eq!(origin.accepted(), 0);
}

#[test]
fn a_body_that_is_too_long_gets_413() {
    let (origin, daemon) = start();
    let mut client = Client::connect(daemon.port(0));
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1025\r\n\r\n");
    assert_eq!(client.response().status, 413, "before any of the body");
    assert_eq!(origin.accepted(), 0);

    let mut client = Client::connect(daemon.port(0));
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    let _ = client.try_send(format!("800\r\n{}\r\n0\r\n\r\n", "x".repeat(2_048)).as_bytes());
    assert_eq!(client.response().status, 413);
    assert!(origin.requests().is_empty());

    let mut client = Client::connect(daemon.port(0));
    client.send(format!(
        "POST /unlimited HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n{}",
        "x".repeat(5_000)
    ));
    assert_eq!(client.response().status, 200);
    assert_eq!(origin.last().body.len(), 5_000);
}

const LED: &str = r#"
http {
    client_max_body_size 10;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        rewrite ^/by-server$ /app last;
        location /app { proxy_pass http://%%ORIGIN%%; }
        location /by-rewrite { client_max_body_size 1m; rewrite ^ /app last; }
        location /by-if { client_max_body_size 1m; if ($request_method = POST) { rewrite ^ /app last; } }
        location /by-try-files { client_max_body_size 1m; try_files /none /app; }
        location /by-error-page { client_max_body_size 1m; error_page 404 = /app; return 404; }
        location /by-upstream { client_max_body_size 1m; proxy_pass http://%%LEADS%%; }
        location /unread { client_max_body_size 1m; rewrite ^ /streamed last; }
        location /streamed { proxy_request_buffering off; proxy_pass http://%%ORIGIN%%; }
        location /shown { error_page 413 = /page; proxy_pass http://%%ORIGIN%%; }
        location /page { proxy_pass http://%%ORIGIN%%; }
    }
}
"#;

#[test]
fn the_limit_of_a_body_holds_wherever_a_request_is_led() {
    let leads = Origin::replying(|_| {
        b"HTTP/1.1 200 OK\r\nX-Accel-Redirect: /app\r\nContent-Length: 0\r\n\r\n".to_vec()
    });
    let origin = Origin::saying("reached\n");
    let setup = Setup::new(LED).set("ORIGIN", origin.address()).set("LEADS", leads.address());
    let daemon = setup.start();
    let post = |path: &str, body: &str| {
        let mut client = Client::connect(daemon.port(0));
        let length = body.len();
        client.send(format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}"));
        client.response().status
    };
    let chunked = |path: &str| {
        let mut client = Client::connect(daemon.port(0));
        let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        client.send(format!("{head}14\r\n{}\r\n0\r\n\r\n", "x".repeat(20)));
        client.response().status
    };
    let paths = ["server", "rewrite", "if", "try-files", "error-page", "upstream"];
    let paths = paths.map(|how| format!("/by-{how}"));
    for path in paths.iter().map(String::as_str).chain(["/app", "/unread"]) {
        assert_eq!((post(path, &"x".repeat(20)), post(path, "short")), (413, 200), "{path}");
        assert!(path == "/unread" || chunked(path) == 413, "{path}");
    }
    assert!(origin.requests().iter().all(|request| request.body == b"short"));

    let seen = origin.requests().len();
    assert_eq!(post("/shown", &"x".repeat(20)), 200, "the page for a 413 is not refused again");
    assert_eq!(chunked("/shown"), 200);
    let pages = origin.requests().split_off(seen);
    let pages: Vec<_> = pages.iter().map(|page| (page.method.as_str(), page.body.len())).collect();
    assert_eq!(pages, [("GET", 0), ("GET", 0)]);
}

#[test]
fn a_client_that_sends_nothing_is_let_go() {
    let (_origin, daemon) = start();
    let mut client = Client::connect(daemon.port(1));
    let began = Instant::now();
    client.expect_end();
    assert!(began.elapsed() >= Duration::from_millis(900), "after {:?}", began.elapsed());
}

#[test]
fn a_head_that_does_not_end_is_let_go_with_408() {
    let (origin, daemon) = start();
    let mut client = Client::connect(daemon.port(1));
    client.send("GET / HTTP/1.1\r\nHost: a\r\n");
    let began = Instant::now();
    // nginx closes without a response; a 408 is as good (RFC 9110 §15.5.9).
    let (bytes, _) = client.rest();
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 408"), "{text}");
    assert!(began.elapsed() >= Duration::from_millis(900), "after {:?}", began.elapsed());
    assert_eq!(origin.accepted(), 0);
    daemon.wait_log("client timed out .*while reading client request headers");
}

#[test]
fn a_body_that_does_not_end_is_let_go() {
    let (origin, daemon) = start();
    let mut client = Client::connect(daemon.port(1));
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nsome");
    let began = Instant::now();
    let (bytes, _) = client.rest();
    assert!(began.elapsed() >= Duration::from_millis(900), "after {:?}", began.elapsed());
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 408"), "{text}");
    assert!(origin.requests().is_empty());
}

#[test]
fn max_headers_bounds_the_number_of_fields() {
    if is_stand_in() {
        return; // newer than nginx 1.22
    }
    let daemon = Daemon::start(
        "http { server { listen 127.0.0.1:%%PORT_0%%; max_headers 5; location / { return 200 here; } } }",
    );
    for (count, status) in [(4, 200), (5, 400)] {
        let mut client = Client::connect(daemon.port(0));
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(count)));
        assert_eq!(client.response().status, status, "{count} beside Host");
    }
}
