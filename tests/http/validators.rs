//! The fields of a 304, the precedence of conditions, and the requests that have ranges (RFC 9110 §13 to
//! §15.4.5).
//!
//! A 304 has the validators and the `Vary` of the 200 for the same request without its conditions: each test
//! asks for both and compares them.

use crate::support::daemon::is_stand_in;
use crate::support::{Client, Daemon, Origin, Response, Setup, fetch};

const CONF: &str = r#"
http {
    gzip_vary on;
    gzip_min_length 100;
    map $sent_http_content_type $by_type { default ""; ~text/ text; }
    upstream u { server %%ORIGIN%%; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        root %%DIR%%/files;
        location /gzip/ { gzip on; gzip_types *; }
        location /brotli/ { brotli on; brotli_types *; brotli_min_length 100; }
        location /zstd/ { zstd on; zstd_types *; zstd_min_length 100; }
        location /static/ { gzip_static on; }
        location /sub/ { sub_filter a b; sub_filter_types *; }
        location /sub-kept/ { sub_filter a b; sub_filter_types *; sub_filter_last_modified on; }
        location /ssi/ { ssi on; ssi_types *; }
        location /add/ { add_after_body /plain/small; addition_types *; }
        location /by-type/ { add_header X-Type $by_type; expires 1h; }
        location /plain/ { }
        location /off/ { if_modified_since off; }
        location /text { return 200 "some text"; }
        location /proxied { gzip on; gzip_types *; gzip_min_length 1; gzip_proxied any; proxy_pass http://u; }
    }
}
"#;

const FOLDERS: &[&str] =
    &["gzip", "brotli", "zstd", "static", "sub", "sub-kept", "ssi", "add", "by-type", "plain", "off"];

fn start() -> (Daemon, Origin) {
    // A backend with a tag, which it confirms whatever the client has.
    let origin = Origin::replying(|request| {
        if request.header("if-none-match").is_some() {
            return b"HTTP/1.1 304 Not Modified\r\nETag: \"u\"\r\n\r\n".to_vec();
        }
        let body = "text ".repeat(100);
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nETag: \"u\"\r\n";
        format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    });
    let mut setup = Setup::new(CONF).set("ORIGIN", origin.address());
    for folder in FOLDERS {
        setup = setup.file(&format!("files/{folder}/page.txt"), "a page of a text. ".repeat(50));
        setup = setup.file(&format!("files/{folder}/small"), "a");
    }
    (setup.file("files/static/page.txt.gz", "as if it were gzip").start(), origin)
}

fn ask(daemon: &Daemon, path: &str, fields: &str) -> Response {
    asked_by("GET", daemon, path, fields)
}

fn asked_by(method: &str, daemon: &Daemon, path: &str, fields: &str) -> Response {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n");
    fetch(daemon.port(0), &request)
}

/// The fields that a 304 shares with the corresponding 200.
fn shared(response: &Response) -> Vec<(&'static str, Vec<String>)> {
    let names = ["etag", "last-modified", "vary", "cache-control", "expires", "x-type", "content-location"];
    // The time of `Expires` moves on between two answers.
    let value =
        |name: &str, value: &str| if name == "expires" { "a time".to_owned() } else { value.to_owned() };
    let all = |name| response.all(name).into_iter().map(|one| value(name, one)).collect();
    names.map(|name| (name, all(name))).into()
}

#[test]
fn a_304_has_the_fields_of_the_200() {
    if is_stand_in() {
        return;
    }
    let (daemon, _origin) = start();
    for accepted in ["", "Accept-Encoding: gzip\r\n", "Accept-Encoding: gzip, br, zstd\r\n"] {
        for folder in FOLDERS {
            for name in ["page.txt", "small"] {
                let path = format!("/{folder}/{name}");
                let whole = ask(&daemon, &path, accepted);
                assert_eq!(whole.status, 200, "{path}");
                let current = ask(&daemon, &path, &format!("{accepted}If-None-Match: *\r\n"));
                assert_eq!(current.status, 304, "{path} {accepted}");
                assert_eq!(shared(&current), shared(&whole), "{path} {accepted}");
                for gone in ["content-type", "content-length", "content-encoding", "accept-ranges"] {
                    assert_eq!(current.header(gone), None, "{gone} of {path}");
                }
                if let Some(tag) = whole.header("etag") {
                    let again = ask(&daemon, &path, &format!("{accepted}If-None-Match: {tag}\r\n"));
                    assert_eq!((again.status, again.header("etag")), (304, Some(tag)), "{path} {accepted}");
                }
            }
        }
    }
    assert_eq!(
        ask(&daemon, "/gzip/page.txt", "Accept-Encoding: gzip\r\nIf-None-Match: *\r\n").header("vary"),
        Some("Accept-Encoding")
    );
}

#[test]
fn an_upstream_s_304_confirms_the_tag_that_the_client_was_given() {
    let (daemon, _origin) = start();
    let given = ask(&daemon, "/proxied", "Accept-Encoding: gzip\r\n");
    assert_eq!(given.header("etag"), Some("W/\"u\""));
    for (list, tag) in [
        ("W/\"u\"", "W/\"u\""),
        ("\"v\", W/\"u\"", "W/\"u\""),
        ("\"u\"", "\"u\""),
        ("W/\"u\", \"u\"", "\"u\""),
        ("*", "\"u\""),
    ] {
        let current =
            ask(&daemon, "/proxied", &format!("Accept-Encoding: gzip\r\nIf-None-Match: {list}\r\n"));
        assert_eq!((current.status, current.header("etag")), (304, Some(tag)), "{list}");
    }
}

#[test]
fn tags_count_before_dates() {
    let (daemon, _origin) = start();
    let whole = ask(&daemon, "/plain/page.txt", "");
    let tag = whole.header("etag").expect("a file has one").to_owned();
    let date = whole.header("last-modified").expect("a file has one").to_owned();
    let old = "Thu, 01 Jan 1970 00:00:00 GMT";
    let cases: &[(&str, String, u16)] = &[
        ("the tag decides", format!("If-None-Match: {tag}\r\nIf-Modified-Since: {old}\r\n"), 304),
        ("the tag decides", format!("If-None-Match: \"x\"\r\nIf-Modified-Since: {date}\r\n"), 200),
        ("the tag decides", format!("If-Match: {tag}\r\nIf-Unmodified-Since: {old}\r\n"), 200),
        ("the tag decides", format!("If-Match: \"x\"\r\nIf-Unmodified-Since: {date}\r\n"), 412),
        ("strong comparison", format!("If-Match: W/{tag}\r\n"), 412),
        ("weak comparison", format!("If-None-Match: W/{tag}\r\n"), 304),
        ("no date", "If-Unmodified-Since: yesterday\r\n".into(), 200),
        ("no date", "If-Modified-Since: yesterday\r\n".into(), 200),
        ("no date beside a tag", format!("If-None-Match: {tag}\r\nIf-Modified-Since: yesterday\r\n"), 304),
        ("changed since", format!("If-Unmodified-Since: {old}\r\n"), 412),
        ("first 412, then 304", format!("If-Match: \"x\"\r\nIf-None-Match: {tag}\r\n"), 412),
        ("both hold", format!("If-Match: {tag}\r\nIf-None-Match: {tag}\r\n"), 304),
    ];
    for (why, fields, status) in cases {
        assert_eq!(ask(&daemon, "/plain/page.txt", fields).status, *status, "{why}: {fields}");
    }
    let fields = format!("If-None-Match: {tag}\r\nIf-Modified-Since: {date}\r\n");
    assert_eq!(ask(&daemon, "/off/page.txt", &fields).status, 200, "`if_modified_since off`");
    // A text has no date to compare with.
    assert_eq!(ask(&daemon, "/text", &format!("If-Unmodified-Since: {old}\r\n")).status, 200);
    assert_eq!(ask(&daemon, "/text", "If-None-Match: *\r\n").status, 304);
    assert_eq!(asked_by("POST", &daemon, "/text", "Content-Length: 0\r\nIf-None-Match: *\r\n").status, 412);
    assert_eq!(
        asked_by("POST", &daemon, "/text", &format!("Content-Length: 0\r\nIf-Modified-Since: {date}\r\n"))
            .status,
        200
    );
}

#[test]
fn only_get_has_ranges_and_only_strong_tags_join_them() {
    let (daemon, _origin) = start();
    let whole = ask(&daemon, "/plain/page.txt", "");
    let tag = whole.header("etag").expect("a file has one").to_owned();
    let part = |fields: &str| ask(&daemon, "/plain/page.txt", &format!("Range: bytes=0-3\r\n{fields}"));
    assert_eq!(part("").status, 206);
    assert_eq!(part(&format!("If-Range: {tag}\r\n")).status, 206);
    assert_eq!(part(&format!("If-Range: W/{tag}\r\n")).status, 200);
    assert_eq!(part(&format!("If-None-Match: {tag}\r\n")).status, 304, "conditions come first");
    assert_eq!(part("If-Match: \"x\"\r\n").status, 412);
    let head = |range: &str| {
        let mut client = Client::connect(daemon.port(0)).into_wire();
        client
            .send(format!("HEAD /plain/page.txt HTTP/1.1\r\nHost: a\r\nRange: {range}\r\n\r\n"))
            .response_head()
    };
    assert_eq!(head("bytes=100000-").status, 200);
    let head = head("bytes=0-3");
    assert_eq!((head.status, head.header("content-length")), (200, whole.header("content-length")));
    assert_eq!(head.header("accept-ranges"), Some("bytes"));
}
