//! `add_header`: its statuses, `always`, inheritance as a whole, variables.

use crate::support::daemon::is_stand_in;
use crate::support::{Origin, Setup, fetch, get};

const CONF: &str = r#"
http {
    add_header X-Level http;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /inherited { return 200 "x"; }
        location /own { add_header X-Own "a $uri"; add_header X-Twice 1; add_header X-Twice 2; return 200 "x"; }
        location /missing { add_header X-Plain p; add_header X-Always a always; return 404; }
        location /moved { add_header X-Plain p; return 302 /x; }
        location /none { add_header X-None $arg_none; return 200 "x"; }
        location /once { add_header ETag '"own"'; add_header last-modified "Mon, 28 Sep 1970 06:00:00 GMT"; proxy_pass http://%%ORIGIN%%; }
        location /never { add_header ETag ""; add_header Last-Modified $arg_none; proxy_pass http://%%ORIGIN%%; }
        location /proxied { add_header X-Proxied yes; proxy_pass http://%%ORIGIN%%; }
    }
}
"#;

#[test]
fn fields_are_added_where_they_should_be() {
    let origin = Origin::replying(|_| {
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nX-Origin: o\r\nETag: \"origin\"\r\nLast-Modified: Sat, 21 Nov 2026 09:00:00 GMT\r\n\r\nx".to_vec()
    });
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).start();
    let port = daemon.port(0);

    assert_eq!(get(port, "/inherited").header("x-level"), Some("http"));

    let response = get(port, "/own");
    assert_eq!(response.header("x-own"), Some("a /own"));
    assert_eq!(response.all("x-twice"), ["1", "2"]);
    assert_eq!(response.header("x-level"), None, "its own replace those from above");

    let response = get(port, "/missing");
    assert_eq!((response.header("x-plain"), response.header("x-always")), (None, Some("a")));

    assert_eq!(get(port, "/moved").header("x-plain"), Some("p"));
    assert_eq!(get(port, "/none").header("x-none"), None, "an empty value adds nothing");

    let response = get(port, "/proxied");
    assert_eq!((response.header("x-proxied"), response.header("x-origin")), (Some("yes"), Some("o")));

    let response = get(port, "/once");
    assert_eq!(response.all("etag"), ["\"own\""], "an ETag is replaced, not added");
    assert_eq!(response.all("last-modified"), ["Mon, 28 Sep 1970 06:00:00 GMT"]);
    let response = get(port, "/never");
    assert_eq!((response.header("etag"), response.header("last-modified")), (None, None));
}

const RULES: &str = r#"
http {
    add_header A http;
    add_trailer T http;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        add_header A server;
        add_trailer T server;
        location /on { add_header_inherit on; add_header B own; return 200 "x"; }
        location /merge { add_header_inherit merge; add_trailer_inherit merge; add_header A own; add_trailer T own; return 200 "x"; }
        location /off { add_header_inherit off; add_trailer_inherit off; return 200 "x"; }
    }
    server {
        listen 127.0.0.1:%%PORT_1%%;
        add_header_inherit merge;
        add_header A server;
        location / {
            add_header A location;
            location /in { add_header A inner; return 200 "x"; }
        }
        location /off { add_header_inherit off; add_header A off; location /off/in { return 200 "x"; } }
        location /off/twice { add_header_inherit off; return 200 "x"; }
    }
}
"#;

#[test]
fn blocks_have_the_fields_of_the_outer_ones_as_they_wish() {
    if is_stand_in() {
        return; // nginx has it since 1.29.3
    }
    let daemon = Setup::new(RULES).start();
    let of = |port: usize, path: &str, name: &str| {
        let response = get(daemon.port(port), path);
        response.all(name).join(" ")
    };
    assert_eq!((of(0, "/on", "a"), of(0, "/on", "b")), (String::new(), "own".into()));
    assert_eq!(of(0, "/merge", "a"), "own server");
    assert_eq!(of(0, "/off", "a"), "");
    assert_eq!(of(1, "/in", "a"), "inner location server http");
    assert_eq!(of(1, "/off/twice", "a"), "");
    assert_eq!(of(1, "/off/in", "a"), "", "the rule is inherited too");
    let response = get(daemon.port(0), "/merge");
    assert_eq!(response.trailers, [("T".into(), "own".into()), ("T".into(), "server".into())]);
}

const TRAILERS: &str = r#"
http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        add_trailer X-Sent $body_bytes_sent;
        add_trailer X-Always $status always;
        location / { proxy_pass http://%%ORIGIN%%; proxy_http_version 1.1; }
        location /text { return 200 "text"; }
        location /missing { return 404; }
    }
}
"#;

#[test]
fn trailers_follow_bodies_in_chunks() {
    let origin = Origin::replying(|_| crate::support::origin::ok(&[b'x'; 200_000]));
    let daemon = Setup::new(TRAILERS).set("ORIGIN", origin.address()).start();
    for (path, length, status) in [("/", 200_000, 200), ("/text", 4, 200)] {
        let response = get(daemon.port(0), path);
        assert_eq!((response.status, response.body.len()), (status, length));
        assert_eq!(response.header("transfer-encoding"), Some("chunked"));
        let names: Vec<&str> = response.trailers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["X-Sent", "X-Always"], "{path}");
        assert_eq!(response.trailers[1].1, "200");
        assert_ne!(response.trailers[0].1, "0", "it is known at the end");
    }
    let missing = get(daemon.port(0), "/missing");
    assert_eq!(missing.trailers, [("X-Always".to_owned(), "404".to_owned())]);
    let old = fetch(daemon.port(0), "GET /text HTTP/1.0\r\nHost: a\r\n\r\n");
    assert_eq!((old.header("transfer-encoding"), old.text()), (None, "text".into()));
}

const EXPIRES: &str = r#"
http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /off { expires off; return 200 "x"; }
        location /epoch { expires epoch; return 200 "x"; }
        location /max { expires max; return 200 "x"; }
        location /day { expires 1d; return 200 "x"; }
        location /past { expires -1; return 200 "x"; }
        location /at { expires @15h30m; return 200 "x"; }
        location /var { expires $arg_e; return 200 "x"; }
        location /modified { expires modified +1h; proxy_pass http://%%ORIGIN%%; }
        location /missing { expires 1d; return 404; }
        location /file { root %%DIR%%; etag off; if_modified_since before; }
        location /exact { alias %%DIR%%/file; }
        location /never { alias %%DIR%%/file; if_modified_since off; }
    }
}
"#;

#[test]
fn expires_says_how_long_an_answer_is_fresh() {
    let origin = Origin::replying(|_| {
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nExpires: 0\r\nCache-Control: private\r\nCache-Control: a\r\n\
          Last-Modified: Mon, 28 Sep 1970 06:00:00 GMT\r\n\r\nx".to_vec()
    });
    let daemon = Setup::new(EXPIRES).file("file", "x").set("ORIGIN", origin.address()).start();
    let of = |path: &str| {
        let response = get(daemon.port(0), path);
        (response.header("expires").unwrap_or("").to_owned(), response.all("cache-control").join(" "))
    };
    let is_both = |path: &str, expires: &str, control: &str| {
        assert_eq!(of(path), (expires.into(), control.into()), "{path}")
    };
    is_both("/off", "", "");
    is_both("/epoch", "Thu, 01 Jan 1970 00:00:01 GMT", "no-cache");
    is_both("/max", "Thu, 31 Dec 2037 23:55:55 GMT", "max-age=315360000");
    is_both("/missing", "", "");
    is_both("/modified", "Mon, 28 Sep 1970 07:00:00 GMT", "no-cache");
    assert_eq!(of("/day").1, "max-age=86400");
    assert_eq!(of("/past").1, "no-cache");
    assert!(of("/at").0.ends_with(":30:00 GMT") && of("/at").1.starts_with("max-age="), "{:?}", of("/at"));
    is_both("/var?e=max", "Thu, 31 Dec 2037 23:55:55 GMT", "max-age=315360000");
    is_both("/var?e=soon", "", "");
    is_both("/var", "", "");
}

#[test]
fn files_are_not_sent_again_to_who_has_them() {
    let origin = Origin::saying("x");
    let daemon = Setup::new(EXPIRES).file("file", "x").set("ORIGIN", origin.address()).start();
    let status = |path: &str, date: &str| {
        fetch(
            daemon.port(0),
            &format!(
                "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nIf-Modified-Since: {date}\r\n\r\n"
            ),
        )
        .status
    };
    let file = get(daemon.port(0), "/file");
    let (own, later) =
        (file.header("last-modified").expect("a file has it").to_owned(), "Thu, 31 Dec 2037 23:55:55 GMT");
    assert_eq!(file.header("etag"), None);
    assert!(get(daemon.port(0), "/exact").header("etag").is_some());
    assert_eq!((status("/file", &own), status("/file", later)), (304, 304));
    assert_eq!((status("/exact", &own), status("/exact", later)), (304, 200));
    assert_eq!((status("/never", &own), status("/never", later)), (200, 200));
}
