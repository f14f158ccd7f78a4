//! Responses fetched in slices: the whole, parts of it, and upstreams that send something else than they
//! announced.

use crate::support::wire::End;
use crate::support::{Client, Daemon, Origin, Setup, fetch, get};

const CONF: &str = r#"
http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        slice 4;
        location / { proxy_pass http://%%ORIGIN%%; proxy_set_header Range $slice_range; }
        location /max/ { max_ranges 0; proxy_pass http://%%ORIGIN%%/; proxy_set_header Range $slice_range; }
        location /plain { proxy_pass http://%%ORIGIN%%; proxy_set_header Range ""; }
        location ~ ^/moved/(.*)$ { proxy_pass http://%%ORIGIN%%/$1; proxy_set_header Range $slice_range; }
        location /fallback { error_page 418 = @slices; return 418; }
        location @slices { rewrite ^ /ten break; proxy_pass http://%%ORIGIN%%; proxy_set_header Range $slice_range; }
        location /off { slice 0; return 200 "[$slice_range]"; }
        location /here/ { alias %%DIR%%/; add_header X-Slice $slice_range; }
    }
}
"#;

const BODY: &str = "0123456789";

/// Serves the requested parts of [`BODY`]; the path selects a fault in the third slice.
fn origin() -> Origin {
    Origin::replying(|request| {
        let range = request.header("range").and_then(|range| range.strip_prefix("bytes="));
        let Some((first, last)) = range.and_then(|range| range.split_once('-')) else {
            return crate::support::origin::ok(BODY.as_bytes());
        };
        let first: usize = first.parse().unwrap();
        let end = (last.parse::<usize>().unwrap() + 1).min(BODY.len());
        if first >= BODY.len() {
            return b"HTTP/1.1 416 No\r\nContent-Range: bytes */10\r\nContent-Length: 0\r\n\r\n".to_vec();
        }
        let (mut etag, mut shown, is_late) = ("\"a\"", format!("bytes {first}-{}/10", end - 1), first == 8);
        match request.target.as_str() {
            "/etag" if is_late => etag = "\"b\"",
            "/status" if is_late => return crate::support::origin::ok(b"89"),
            "/range" if is_late => shown = "bytes 7-8/10".into(),
            "/unknown" => shown = format!("bytes {first}-{}/*", end - 1),
            "/none" => shown = String::new(),
            "/whole" => return crate::support::origin::ok(BODY.as_bytes()),
            _ => {}
        }
        let part = &BODY[first..end];
        let head = "HTTP/1.1 206 Partial Content\r\nAccept-Ranges: bytes";
        let length = part.len();
        format!("{head}\r\nETag: {etag}\r\nContent-Range: {shown}\r\nContent-Length: {length}\r\n\r\n{part}")
            .into_bytes()
    })
}

fn start(origin: &Origin) -> Daemon {
    Setup::new(CONF).set("ORIGIN", origin.address()).file("file", "file").start()
}

fn ranged(daemon: &Daemon, path: &str, range: &str) -> crate::support::Response {
    fetch(
        daemon.port(0),
        &format!("GET {path} HTTP/1.1\r\nHost: a\r\nRange: {range}\r\nConnection: close\r\n\r\n"),
    )
}

fn asked(origin: &Origin) -> Vec<String> {
    origin.requests().iter().map(|request| request.header("range").unwrap_or("-").into()).collect()
}

#[test]
fn an_answer_is_put_together_from_its_slices() {
    let origin = origin();
    let daemon = start(&origin);
    let mut client = Client::connect(daemon.port(0));
    let response = client.get("/ten");
    assert_eq!((response.status, response.text()), (200, BODY.into()));
    assert_eq!(response.length(), Some(10));
    assert_eq!(response.all("accept-ranges"), ["bytes"]);
    assert_eq!(response.header("content-range"), None);
    assert_eq!(asked(&origin), ["bytes=0-3", "bytes=4-7", "bytes=8-11"]);
    for path in ["/fallback", "/moved/ten", "/whole", "/plain", "/max/ten"] {
        assert_eq!(client.get(path).text(), BODY, "{path}");
    }
    assert_eq!(client.get("/off").text(), "[]");
    assert_eq!(client.get("/here/file").text(), "file");
    assert_eq!(client.get("/ten").text(), BODY, "the connection goes on");
}

#[test]
fn only_the_slices_of_a_part_are_fetched() {
    let origin = origin();
    let daemon = start(&origin);
    let cases: &[(&str, &str, &str, &[&str])] = &[
        ("bytes=5-6", "56", "bytes 5-6/10", &["bytes=4-7"]),
        ("bytes=3-4", "34", "bytes 3-4/10", &["bytes=0-3", "bytes=4-7"]),
        ("bytes=6-", "6789", "bytes 6-9/10", &["bytes=4-7", "bytes=8-11"]),
        ("bytes=-1", "9", "bytes 9-9/10", &["bytes=0-3", "bytes=8-11"]),
        ("bytes=0-0", "0", "bytes 0-0/10", &["bytes=0-3"]),
    ];
    for (range, body, shown, slices) in cases {
        let before = origin.requests().len();
        let response = ranged(&daemon, "/ten", range);
        assert_eq!((response.status, response.text()), (206, (*body).into()), "{range}");
        assert_eq!(response.header("content-range"), Some(*shown));
        assert_eq!(response.header("accept-ranges"), None);
        assert_eq!(asked(&origin)[before..], **slices, "{range}");
    }
}

#[test]
fn ranges_that_cannot_be_had_and_those_that_are_not_served() {
    let origin = origin();
    let daemon = start(&origin);
    let behind = ranged(&daemon, "/ten", "bytes=20-");
    assert_eq!((behind.status, behind.header("content-range")), (416, Some("bytes */10")));
    let late = ranged(&daemon, "/ten", "bytes=10-");
    assert_eq!((late.status, late.header("content-range")), (416, Some("bytes */10")));
    for range in ["bytes=1-2,4-5", "lines=1-2"] {
        let response = ranged(&daemon, "/ten", range);
        assert_eq!((response.status, response.text()), (200, BODY.into()), "{range}");
    }
    let response = ranged(&daemon, "/max/ten", "bytes=5-6");
    assert_eq!((response.status, response.text()), (200, BODY.into()), "max_ranges 0");
    let ask =
        "GET /ten HTTP/1.1\r\nHost: a\r\nRange: bytes=5-6\r\nIf-Range: \"z\"\r\nConnection: close\r\n\r\n";
    assert_eq!(fetch(daemon.port(0), ask).text(), BODY);
}

#[test]
fn slices_of_different_things_are_not_put_together() {
    let origin = origin();
    let daemon = start(&origin);
    let cut = [
        ("/etag", "etag mismatch in slice response"),
        ("/status", "unexpected status code 200 in slice response"),
        ("/range", "unexpected range in slice response: 7-9"),
    ];
    for (path, why) in cut {
        let mut wire = Client::connect(daemon.port(0)).into_wire();
        wire.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(wire.response_head().length(), Some(10));
        let (body, end) = wire.rest();
        assert_eq!((&*body, end), (&b"01234567"[..], End::Closed), "{path}");
        daemon.wait_log(why);
    }
    for (path, why) in
        [("/unknown", "no complete length in slice response"), ("/none", "invalid range in slice response")]
    {
        let response = get(daemon.port(0), path);
        assert_eq!((response.status, response.text()), (502, String::new()));
        daemon.wait_log(why);
    }
}
