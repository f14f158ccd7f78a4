//! Files that have encoded copies: which clients get which, and the head.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::support::daemon::is_stand_in;
use crate::support::{Client, Daemon, Response, Setup, fetch};

const CONF: &str = r#"
http {
    types { text/html html; text/plain txt; }
    gzip_http_version 1.0;
    root %%DIR%%/pages;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        gzip_static on;
        location /vary/ { gzip_vary on; alias %%DIR%%/pages/; }
        location /always/ { gzip_static always; gzip_vary on; alias %%DIR%%/pages/; }
        location /plain/ { gzip_static always; gunzip on; alias %%DIR%%/pages/; }
        location /off/ { gzip_static off; alias %%DIR%%/pages/; }
        location /proxied/ { gzip_proxied any; alias %%DIR%%/pages/; }
        location /error/ { error_page 404 /page.html; }
        location /again/ { gzip on; gzip_types *; alias %%DIR%%/pages/; }
    }
    %%OURS%%
}
"#;

/// With the codings for which nginx has no directives.
const OURS: &str = "server {
        listen 127.0.0.1:%%PORT_1%%;
        location / { gzip_static on; brotli_static on; zstd_static on; }
        location /always/ { gzip_static always; brotli_static on; alias %%DIR%%/pages/; }
    }";

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
    encoder.write_all(text.as_bytes()).expect("memory");
    encoder.finish().expect("memory")
}

fn start() -> Daemon {
    let conf = CONF.replace("%%OURS%%", if is_stand_in() { "" } else { OURS });
    let setup = Setup::new(&conf).level("info");
    let setup =
        setup.file("pages/page.html", "the page").file("pages/page.html.gz", gzip("the page, encoded"));
    let setup = setup.file("pages/page.html.br", "as br").file("pages/page.html.zst", "as zstd");
    let setup = setup
        .file("pages/text.txt", "only a text that is long enough")
        .file("pages/only.html.gz", gzip("only"));
    setup.file("pages/folder.gz/x", "").file("pages/folder/index.html.gz", gzip("index")).start()
}

fn ask(daemon: &Daemon, path: &str, fields: &str) -> Response {
    let lines: String =
        fields.split('|').filter(|line| !line.is_empty()).map(|line| format!("{line}\r\n")).collect();
    fetch(daemon.port(0), &format!("GET {path} HTTP/1.1\r\nHost: a\r\n{lines}Connection: close\r\n\r\n"))
}

const GZIP: &str = "Accept-Encoding: gzip";

#[test]
fn the_file_beside_is_sent_to_those_who_accept_it() {
    let daemon = start();
    let coded = gzip("the page, encoded");
    let response = ask(&daemon, "/page.html", GZIP);
    assert_eq!((response.status, response.header("content-encoding")), (200, Some("gzip")));
    assert_eq!((response.header("content-type"), response.length()), (Some("text/html"), Some(coded.len())));
    assert_eq!(response.header("vary"), None);
    assert!(response.header("etag").is_some_and(|tag| !tag.starts_with("W/")));
    assert!(response.body == coded);
    assert_eq!(ask(&daemon, "/page.html", "").text(), "the page");
    assert_eq!(ask(&daemon, "/page.html", "Accept-Encoding: gzip;q=0").text(), "the page");
    assert_eq!(ask(&daemon, "/page.html", "Accept-Encoding: gzip|Via: a").text(), "the page");
    assert!(ask(&daemon, "/proxied/page.html", "Accept-Encoding: gzip|Via: a").body == coded);
    assert_eq!(ask(&daemon, "/off/page.html", GZIP).text(), "the page");
    // there is no encoded copy
    assert_eq!(ask(&daemon, "/text.txt", GZIP).text(), "only a text that is long enough");
    assert_eq!(ask(&daemon, "/again/text.txt", GZIP).header("content-encoding"), Some("gzip"));
    // there is only the encoded copy
    assert!(ask(&daemon, "/only.html", GZIP).body == gzip("only"));
    assert_eq!(ask(&daemon, "/only.html", "").status, 404);
    // a folder is not an encoded copy
    assert_eq!(ask(&daemon, "/folder", GZIP).status, 301);
    let error = ask(&daemon, "/error/x", GZIP);
    assert_eq!((error.status, error.header("content-encoding")), (404, Some("gzip")));
    assert!(error.body == coded);
}

#[test]
fn heads_parts_and_conditions_are_those_of_the_encoded_file() {
    let daemon = start();
    let coded = gzip("the page, encoded");
    let head = "HEAD /page.html HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n";
    let mut client = Client::connect(daemon.port(0));
    let response = client.send(head).response_head();
    assert_eq!((response.header("content-encoding"), response.length()), (Some("gzip"), Some(coded.len())));
    assert_eq!(client.get("/page.html").text(), "the page");
    let part = ask(&daemon, "/page.html", "Accept-Encoding: gzip|Range: bytes=2-5");
    if !is_stand_in() {
        // nginx 1.22 has no ranges of these
        assert_eq!((part.status, part.header("content-encoding")), (206, Some("gzip")));
        assert_eq!(part.body, coded[2..6]);
    }
    let tag = ask(&daemon, "/page.html", GZIP).header("etag").expect("it has one").to_owned();
    assert_ne!(ask(&daemon, "/page.html", "").header("etag"), Some(&*tag));
    let same = ask(&daemon, "/page.html", &format!("Accept-Encoding: gzip|If-None-Match: {tag}"));
    assert_eq!((same.status, same.header("content-encoding")), (304, None));
    assert_eq!(ask(&daemon, "/page.html", &format!("If-None-Match: {tag}")).status, 200);
    let post = fetch(daemon.port(0), "POST /page.html HTTP/1.0\r\nAccept-Encoding: gzip\r\n\r\n");
    assert_eq!(post.status, 405);
}

#[test]
fn vary_is_said_to_both() {
    let daemon = start();
    for (path, fields, expected) in [
        ("/vary/page.html", GZIP, Some("Accept-Encoding")),
        ("/vary/page.html", "", Some("Accept-Encoding")),
        ("/vary/text.txt", GZIP, None),
        ("/page.html", "", None),
        ("/always/page.html", "", None),
    ] {
        assert_eq!(ask(&daemon, path, fields).header("vary"), expected, "{path} {fields}");
    }
    assert!(ask(&daemon, "/always/page.html", "").body == gzip("the page, encoded"));
    // with gunzip the encoded file alone is enough
    assert_eq!(ask(&daemon, "/plain/only.html", "").text(), "only");
    assert!(ask(&daemon, "/plain/only.html", GZIP).body == gzip("only"));
}

#[test]
fn of_several_the_best_liked_is_sent() {
    if is_stand_in() {
        return;
    }
    let daemon = start();
    let body = |path: &str, accept: &str| {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nAccept-Encoding: {accept}\r\nConnection: close\r\n\r\n"
        );
        let response = fetch(daemon.port(1), &request);
        (response.header("content-encoding").unwrap_or("-").to_owned(), response.text())
    };
    let is = |coding: &str, text: &str| (coding.to_owned(), text.to_owned());
    assert_eq!(body("/page.html", "gzip, br, zstd"), is("zstd", "as zstd"));
    assert_eq!(body("/page.html", "gzip, br, zstd;q=0.5"), is("br", "as br"));
    assert_eq!(body("/page.html", "gzip;q=0.1, br;q=0, zstd;q=0").0, "gzip");
    assert_eq!(body("/page.html", "deflate"), is("-", "the page"));
    assert_eq!(body("/only.html", "gzip, br, zstd").0, "gzip");
    assert_eq!(body("/always/page.html", "gzip, br"), is("br", "as br"));
    assert_eq!(body("/always/page.html", "deflate").0, "gzip");
}
