//! `proxy_force_ranges` and `max_ranges`: ranges of responses whose upstream does not support them.

use crate::support::{Client, Daemon, Origin, Setup, fetch};

const CONF: &str = r#"
http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { proxy_pass http://%%ORIGIN%%; proxy_force_ranges on; }
        location /plain { proxy_pass http://%%ORIGIN%%; }
        location /none { proxy_pass http://%%ORIGIN%%; proxy_force_ranges on; max_ranges 0; }
        location /file { root %%DIR%%; }
        location /file-none { max_ranges 0; alias %%DIR%%/file; }
    }
}
"#;

const DATE: &str = "Mon, 28 Sep 1970 06:00:00 GMT";

fn start() -> (Origin, Daemon) {
    let origin = Origin::replying(|request| {
        let body: Vec<u8> = (0..100_000).map(|at| (at % 251) as u8).collect();
        let head = match request.target.as_str() {
            "/gone" => "HTTP/1.1 404 No\r\n".to_owned(),
            _ => format!("HTTP/1.1 200 OK\r\nETag: \"x\"\r\nLast-Modified: {DATE}\r\n"),
        };
        [format!("{head}Content-Length: {}\r\n\r\n", body.len()).as_bytes(), &body].concat()
    });
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).file("file", "0123456789").start();
    (origin, daemon)
}

fn range(daemon: &Daemon, path: &str, fields: &str) -> (u16, Option<String>, usize) {
    let response = fetch(
        daemon.port(0),
        &format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n"),
    );
    let first = response.header("content-range").map(str::to_owned);
    if let Some(start) = first
        .as_deref()
        .and_then(|text| text.strip_prefix("bytes ")?.split('-').next()?.parse::<usize>().ok())
        && path == "/"
    {
        let expected: Vec<u8> = (start..start + response.body.len()).map(|at| (at % 251) as u8).collect();
        assert!(response.body == expected, "{fields}");
    }
    (response.status, first, response.body.len())
}

#[test]
fn a_part_is_cut_out_of_an_answer() {
    let (_origin, daemon) = start();
    let whole = (200, None, 100_000);
    let part = |text: &str, length| (206, Some(text.to_owned()), length);
    for (fields, expected) in [
        ("", whole.clone()),
        ("Range: bytes=0-0\r\n", part("bytes 0-0/100000", 1)),
        ("Range: bytes=70000-\r\n", part("bytes 70000-99999/100000", 30_000)),
        ("Range: bytes=-5\r\n", part("bytes 99995-99999/100000", 5)),
        ("Range: bytes=0-999999\r\n", part("bytes 0-99999/100000", 100_000)),
        // Two parts of two bytes, each with its head; but nothing can be sent before it has come.
        ("Range: bytes=1-2,4-5\r\n", (206, None, 154)),
        ("Range: bytes=4-5,1-2\r\n", whole.clone()),
        ("Range: rows=1-2\r\n", whole.clone()),
        ("Range: bytes=1-2\r\nIf-Range: \"x\"\r\n", part("bytes 1-2/100000", 2)),
        ("Range: bytes=1-2\r\nIf-Range: \"y\"\r\n", whole.clone()),
        ("Range: bytes=1-2\r\nIf-Range: Mon, 28 Sep 1970 06:00:00 GMT\r\n", part("bytes 1-2/100000", 2)),
        ("Range: bytes=1-2\r\nIf-Range: Mon, 28 Sep 1970 06:00:01 GMT\r\n", whole.clone()),
    ] {
        assert_eq!(range(&daemon, "/", fields), expected, "{fields}");
    }
    for fields in ["Range: bytes=100000-\r\n", "Range: bytes=9-1\r\n", "Range: bytes=x\r\n"] {
        let (status, text, _) = range(&daemon, "/", fields);
        assert_eq!((status, text.as_deref()), (416, Some("bytes */100000")), "{fields}");
    }
    let head = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nRange: bytes=100000-\r\n\r\n";
    let response = fetch(daemon.port(0), head);
    assert!(response.text().contains("416 Requested Range Not Satisfiable"));
    assert_eq!((response.header("etag"), response.header("content-type")), (None, Some("text/html")));
    for path in ["/plain", "/none"] {
        assert_eq!(range(&daemon, path, "Range: bytes=1-2\r\n"), whole, "{path}");
    }
    assert_eq!(range(&daemon, "/gone", "Range: bytes=1-2\r\n"), (404, None, 100_000));
}

#[test]
fn the_connection_goes_on_behind_a_part() {
    let (_origin, daemon) = start();
    let mut client = Client::connect(daemon.port(0));
    for _ in 0..3 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\nRange: bytes=5-6\r\n\r\n");
        let response = client.response();
        assert_eq!((response.status, &*response.body), (206, &[5_u8, 6][..]));
    }
}

#[test]
fn files_have_parts_unless_told_otherwise() {
    let (_origin, daemon) = start();
    assert_eq!(range(&daemon, "/file", "Range: bytes=2-3\r\n"), (206, Some("bytes 2-3/10".to_owned()), 2));
    assert_eq!(range(&daemon, "/file-none", "Range: bytes=2-3\r\n"), (200, None, 10));
}
