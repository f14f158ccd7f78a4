//! `limit_rate` and related directives: never faster than allowed, and a client that leaves is dropped.

use std::time::{Duration, Instant};

use crate::support::{Client, Daemon, Origin, Setup, get};

const CONF: &str = r#"
http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        limit_rate 100k;
        location /file { alias %%DIR%%/file; }
        location /after { limit_rate_after 150k; alias %%DIR%%/file; }
        location /free { limit_rate 0; alias %%DIR%%/file; }
        location /slow { limit_rate 1; alias %%DIR%%/file; }
        location /query { limit_rate $arg_rate; alias %%DIR%%/file; }
        location /set { limit_rate 0; set $limit_rate 100k; alias %%DIR%%/file; }
        location /proxied { proxy_pass http://%%ORIGIN%%; }
        location /upstream { limit_rate 0; proxy_limit_rate 100k; proxy_pass http://%%ORIGIN%%; }
        location /head { limit_rate 10k; add_header X-Long "%%LONG%%"; alias %%DIR%%/short; }
        location /unpaced { limit_rate 0; proxy_pass http://%%ORIGIN%%; }
    }
}
"#;

/// Two seconds' worth; the first second's bytes go at once.
const BYTES: usize = 200 * 1024;

fn body() -> Vec<u8> {
    (0..BYTES).map(|at| (at % 251) as u8).collect()
}

fn start() -> (Origin, Daemon) {
    let origin = Origin::replying(|request| {
        let body = body();
        if request.target.contains("chunked") {
            let head = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n", body.len());
            return [head.as_bytes(), &body, b"\r\n0\r\n\r\n"].concat();
        }
        crate::support::origin::ok(&body)
    });
    let setup = Setup::new(CONF).set("ORIGIN", origin.address()).set("LONG", "x".repeat(20 * 1024));
    let daemon = setup.file("file", body()).file("short", "short").level("info").start();
    (origin, daemon)
}

#[test]
fn nothing_is_faster_than_its_rate() {
    let (_origin, daemon) = start();
    let port = daemon.port(0);
    for path in [
        "/file",
        "/query?rate=100k",
        "/set",
        "/proxied",
        "/proxied/chunked",
        "/upstream",
        "/upstream/chunked",
    ] {
        let began = Instant::now();
        let response = get(port, path);
        assert!(response.body == body(), "{path}: {} bytes of {BYTES}", response.body.len());
        assert!(began.elapsed() >= Duration::from_millis(850), "{path} after {:?}", began.elapsed());
    }
    for path in ["/free", "/query", "/after", "/unpaced"] {
        assert!(get(port, path).body == body(), "{path}");
    }
}

/// The head of two seconds' worth does not leave at once, whether a body follows or not.
#[test]
fn the_head_is_paced_too() {
    let (_origin, daemon) = start();
    for (method, body) in [("GET", "short"), ("HEAD", "")] {
        let mut client = Client::connect(daemon.port(0));
        let began = Instant::now();
        client.send(format!("{method} /head HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
        let head = client.head_or_end().expect("a head");
        assert!(began.elapsed() >= Duration::from_millis(850), "{method} after {:?}", began.elapsed());
        assert!(head.len() > 20 * 1024, "{method}: {} bytes", head.len());
        assert_eq!(client.rest().0, body.as_bytes(), "{method}");
    }
}

#[test]
fn a_client_that_leaves_is_not_waited_for() {
    let (_origin, daemon) = start();
    let mut client = Client::connect(daemon.port(0));
    client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.exactly(1), b"H");
    drop(client);
    daemon.wait_log("client prematurely closed connection.*GET /slow");
}
