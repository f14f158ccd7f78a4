//! `$upstream_cache_status`, and what is asked of the origin: misses, hits, bypasses, uses, methods, conditions, ranges.

use super::{answer, ask, ask_with, numbering, start, status, storable, stored, wait_stored};
use crate::support::{Client, Daemon, Origin, Response, fetch, get};

#[test]
fn an_answer_is_stored_under_the_digest_of_its_key() {
    let origin = storable();
    let daemon = start(&origin, "");
    assert_eq!(ask(&daemon, "/one"), ("MISS".into(), "/one 1".into()));
    wait_stored(&daemon, 1);
    assert_eq!(ask(&daemon, "/one"), ("HIT".into(), "/one 1".into()));
    // echo -n /one | md5sum, and the levels from its end
    let path = daemon.path("cache/e/08/c836a9fe66e2d1ec0e4db7c93890d08e");
    assert_eq!(stored(&daemon), std::slice::from_ref(&path));
    let file = std::fs::read(path).expect("it is there");
    let text = String::from_utf8_lossy(&file);
    assert!(text.contains("\nKEY: /one\nHTTP/1.1 200 OK\r\nX-Accel-Expires: 3600\r\n"), "{text}");
    assert!(text.ends_with("\r\n\r\n/one 1"), "{text}");
    assert_eq!(origin.requests().len(), 1);
    assert_eq!(ask(&daemon, "/one?a"), ("MISS".into(), "/one?a 1".into()), "another key");
}

#[test]
fn hits_are_served_on_kept_connections_and_while_the_origin_is_away() {
    let origin = storable();
    let daemon = start(&origin, "");
    let mut client = Client::connect(daemon.port(0));
    client.get("/one");
    wait_stored(&daemon, 1);
    drop(origin);
    for _ in 0..3 {
        let hit = client.get("/one");
        assert_eq!((hit.status, status(&hit), hit.text()), (200, "HIT", "/one 1".into()));
    }
    assert_eq!(client.get("/two").status, 502);
}

#[test]
fn a_bypass_asks_the_origin_and_stores_its_answer() {
    let origin = storable();
    let server = "proxy_cache_key $uri; proxy_cache_bypass $arg_bypass; proxy_no_cache $arg_out;";
    let daemon = start(&origin, server);
    let ask = |path: &str| ask(&daemon, path).0;
    assert_eq!(ask("/p?out=1"), "MISS");
    assert_eq!(ask("/p?bypass=1"), "BYPASS");
    wait_stored(&daemon, 1);
    assert_eq!(get(daemon.port(0), "/p").text(), "/p?bypass=1 1");
    assert_eq!(ask("/p?bypass=1&out=1"), "BYPASS");
    assert_eq!(get(daemon.port(0), "/p").text(), "/p?bypass=1 1", "the answer before");
    assert_eq!(ask("/p?bypass=0"), "HIT");
}

#[test]
fn only_keys_in_demand_are_stored() {
    let origin = storable();
    let daemon = start(&origin, "proxy_cache_min_uses 3;");
    for (count, expected) in [(1, "MISS"), (2, "MISS"), (3, "MISS"), (3, "HIT"), (3, "HIT")] {
        assert_eq!(ask(&daemon, "/p"), (expected.into(), format!("/p {count}")));
        wait_stored(&daemon, usize::from(count == 3));
    }
    assert_eq!(origin.requests().len(), 3);
}

#[test]
fn a_head_request_fetches_the_whole_answer() {
    let origin = storable();
    let daemon = start(&origin, "");
    let first = head(&daemon, "/p");
    assert_eq!((status(&first), first.length()), ("MISS", Some(4)));
    wait_stored(&daemon, 1);
    assert_eq!(origin.last().method, "GET");
    assert_eq!(ask(&daemon, "/p"), ("HIT".into(), "/p 1".into()));
    let second = head(&daemon, "/p");
    assert_eq!((status(&second), second.length()), ("HIT", Some(4)));
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn heads_that_are_stored_apart_keep_the_length_of_the_body_they_describe() {
    let origin = storable();
    let server = "proxy_cache_convert_head off; proxy_cache_key $request_method$request_uri;";
    let daemon = start(&origin, server);
    for expected in ["MISS", "HIT"] {
        let response = head(&daemon, "/p");
        assert_eq!((status(&response), response.length()), (expected, Some(4)));
        wait_stored(&daemon, 1);
    }
    assert_eq!(origin.last().method, "HEAD");
    assert_eq!(ask(&daemon, "/p"), ("MISS".into(), "/p 2".into()));
}

fn head(daemon: &Daemon, path: &str) -> Response {
    let mut client = Client::connect(daemon.port(0));
    client.send(format!("HEAD {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
    let response = client.response_head();
    client.expect_end();
    response
}

#[test]
fn other_methods_are_neither_served_nor_stored() {
    let origin = storable();
    let daemon = start(&origin, "");
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let request =
            format!("{method} /p HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        let response = fetch(daemon.port(0), &request);
        assert_eq!((response.status, status(&response)), (200, "-"), "{method}");
    }
    assert_eq!(ask(&daemon, "/p").0, "MISS");
    assert_eq!(origin.requests().len(), 5);
}

const TEXT: &str = "0123456789";

fn with_validators() -> (Origin, Daemon) {
    let origin = Origin::replying(|request| {
        let fields = "X-Accel-Expires: 3600\r\nETag: \"tag\"\r\nAccept-Ranges: bytes\r\n\
                      Last-Modified: Thu, 02 Jan 2020 03:04:05 GMT\r\n";
        answer(fields, TEXT, request)
    });
    let daemon = start(&origin, "");
    (origin, daemon)
}

#[test]
fn conditions_are_answered_by_the_cache() {
    let (origin, daemon) = with_validators();
    for expected in ["MISS", "HIT"] {
        for condition in ["If-None-Match: \"tag\"", "If-Modified-Since: Thu, 02 Jan 2020 03:04:05 GMT"] {
            let response = ask_with(&daemon, &format!("/{}", &condition[..8]), &format!("{condition}\r\n"));
            assert_eq!((response.status, status(&response)), (304, expected), "{condition}");
            assert_eq!(response.header("etag"), Some("\"tag\""));
        }
        wait_stored(&daemon, 2);
    }
    let other = ask_with(&daemon, "/If-None-", "If-None-Match: \"other\"\r\n");
    assert_eq!((other.status, status(&other), other.text()), (200, "HIT", TEXT.into()));
    for request in origin.requests() {
        let names = request.names();
        assert!(
            !names.iter().any(|name| name.starts_with("if-")),
            "the origin is asked for the whole: {names:?}"
        );
    }
    assert_eq!(origin.requests().len(), 2);
}

#[test]
fn ranges_are_cut_out_of_the_whole() {
    let (origin, daemon) = with_validators();
    for (expected, range, part, shown) in [
        ("MISS", "bytes=2-3", "23", "bytes 2-3/10"),
        ("HIT", "bytes=2-3", "23", "bytes 2-3/10"),
        ("HIT", "bytes=-1", "9", "bytes 9-9/10"),
        ("HIT", "bytes=0-", TEXT, "bytes 0-9/10"),
    ] {
        let response = ask_with(&daemon, "/p", &format!("Range: {range}\r\n"));
        assert_eq!((response.status, status(&response)), (206, expected), "{range}");
        assert_eq!((response.text().as_str(), response.header("content-range")), (part, Some(shown)));
        wait_stored(&daemon, 1);
    }
    let several = ask_with(&daemon, "/p", "Range: bytes=0-0,2-2\r\n");
    assert_eq!((several.status, status(&several)), (206, "HIT"));
    assert!(several.text().contains("Content-Range: bytes 2-2/10"), "{}", several.text());
    let beyond = ask_with(&daemon, "/p", "Range: bytes=10-\r\n");
    assert_eq!((beyond.status, beyond.header("content-range")), (416, Some("bytes */10")));
    let changed = ask_with(&daemon, "/p", "Range: bytes=2-3\r\nIf-Range: \"other\"\r\n");
    assert_eq!((changed.status, changed.text()), (200, TEXT.into()));
    assert_eq!(origin.requests().len(), 1);
    assert_eq!(origin.last().header("range"), None);
}

#[test]
fn a_chunked_answer_is_stored_decoded() {
    let origin = Origin::replying(|_| {
        b"HTTP/1.1 200 OK\r\nX-Accel-Expires: 3600\r\nTransfer-Encoding: chunked\r\n\r\n\
          3\r\none\r\n5;x=y\r\n-next\r\n0\r\nTrailer: x\r\n\r\n"
            .to_vec()
    });
    let daemon = start(&origin, "proxy_http_version 1.1;");
    for expected in ["MISS", "HIT"] {
        let response = get(daemon.port(0), "/p");
        assert_eq!((status(&response), response.text()), (expected, "one-next".into()));
        wait_stored(&daemon, 1);
    }
    let file = std::fs::read(&stored(&daemon)[0]).expect("it is there");
    assert!(file.ends_with(b"\r\n\r\none-next"), "{}", String::from_utf8_lossy(&file));
}

#[test]
fn errors_of_our_own_are_remembered_if_they_are_named() {
    let origin = Origin::start(|peer| {
        peer.request();
    });
    let daemon = start(&origin, "proxy_cache_valid 502 1h;");
    for expected in ["MISS", "HIT"] {
        let response = get(daemon.port(0), "/p");
        assert_eq!((response.status, status(&response)), (502, expected));
    }
    assert_eq!(origin.requests().len(), 1);
    assert!(stored(&daemon).is_empty(), "there is nothing to store");
}

#[test]
fn fields_are_hidden_when_they_are_served_as_when_they_are_stored() {
    let origin = numbering(|_, _| {
        "X-Accel-Expires: 3600\r\nX-Secret: 1\r\nX-Shown: 2\r\nServer: origin\r\nLocation: http://127.0.0.1:1/x\r\n".into()
    });
    let daemon = start(&origin, "proxy_hide_header X-Secret; proxy_redirect http://127.0.0.1:1/ /here/;");
    for expected in ["MISS", "HIT"] {
        let response = get(daemon.port(0), "/p");
        assert_eq!(status(&response), expected);
        let names = ["x-secret", "x-accel-expires", "x-shown"].map(|name| response.header(name));
        assert_eq!(names, [None, None, Some("2")]);
        assert_ne!(response.header("server"), Some("origin"));
        assert!(
            response.header("location").is_some_and(|to| to.ends_with("/here/x")),
            "{:?}",
            response.headers
        );
        wait_stored(&daemon, 1);
    }
}
