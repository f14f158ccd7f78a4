//! gzip, brotli and Zstandard: which clients get them, the head, and that every response decodes to the
//! original. Decoded by another implementation than the daemon's, as far as there is one.

use std::io::Read;
use std::sync::Mutex;
use std::sync::mpsc::channel;

use crate::support::daemon::is_stand_in;
use crate::support::wire::Wire;
use crate::support::{Client, Daemon, Origin, Response, Setup, fetch, get};

const CONF: &str = r#"
http {
    log_format ratio "$uri $gzip_ratio $status";
    access_log %%DIR%%/access.log ratio;
    types { text/html html; text/plain txt; application/json json; }
    gzip on;
    gzip_http_version 1.0;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        root %%DIR%%/pages;
        gzip_vary on;
        location /none/ { gzip off; alias %%DIR%%/pages/; }
        location /json/ { gzip_types application/json; alias %%DIR%%/pages/; }
        location /any/ { gzip_types *; alias %%DIR%%/pages/; }
        location /long/ { gzip_min_length 100k; alias %%DIR%%/pages/; }
        location /late/ { gzip_http_version 1.1; alias %%DIR%%/pages/; }
        location /deny/ { deny all; }
        location /moved/ { return 302 /elsewhere; }
        location /disabled/ { gzip_disable "msie6" "odd.*agent"; alias %%DIR%%/pages/; }
        location /proxied/any/ { gzip_proxied any; proxy_pass http://%%ORIGIN%%/; }
        location /proxied/expired/ { gzip_proxied expired; proxy_pass http://%%ORIGIN%%/; }
        location /proxied/cache/ { gzip_proxied no-cache no-store private; proxy_pass http://%%ORIGIN%%/; }
        location /proxied/no/ { gzip_proxied no_last_modified no_etag; proxy_pass http://%%ORIGIN%%/; }
        location /proxied/auth/ { gzip_proxied auth expired; proxy_pass http://%%ORIGIN%%/; }
        location /origin/ { gzip_types *; gzip_min_length 0; proxy_pass http://%%ORIGIN%%/; }
        location /ssi/ { ssi on; alias %%DIR%%/pages/; }
        location ~ ^/level/(.)$ { default_type text/html; gzip_comp_level 9; gzip_window 512; gzip_hash 512; alias %%DIR%%/pages/page.html; }
    }
}
"#;

fn page(count: usize) -> Vec<u8> {
    let line =
        |n: u64| format!("<li class=\"item-{}\">{}</li>\n", n % 64, n.wrapping_mul(2_654_435_761) % 99_991);
    (0..).flat_map(|n| line(n).into_bytes()).take(count).collect()
}

fn start(origin: &Origin) -> Daemon {
    let setup = Setup::new(CONF).set("ORIGIN", origin.address()).level("info");
    let setup = setup.file("pages/page.html", page(65_536)).file("pages/data.json", page(500));
    let setup = setup.file("pages/small.html", "0123456789").file("pages/text.txt", page(500));
    let include = "<!--#include virtual=\"/page.html\" -->|<!--#include virtual=\"/origin/slow\" -->.";
    setup.file("pages/all.html", format!("({include}){include}")).start()
}

/// An origin whose paths determine the response.
fn answering() -> Origin {
    Origin::replying(|request| {
        let field = match request.target.trim_start_matches('/') {
            "plain" => "X-A: b",
            "coded" => "Content-Encoding: br",
            "vary" => "Vary: Cookie",
            "varies" => "Vary: Cookie, accept-encoding",
            "star" => "Vary: *",
            "past" => "Expires: Thu, 01 Jan 1970 00:00:01 GMT",
            "future" => "Expires: Thu, 01 Jan 2099 00:00:01 GMT",
            "never" => "Expires: 0",
            "private" => "Cache-Control: max-age=3, PRIVATE",
            "public" => "Cache-Control: public",
            "modified" => "Last-Modified: Thu, 01 Jan 1970 00:00:01 GMT",
            "tag" => "ETag: \"a\"",
            "weak" => "ETag: W/\"a\"",
            "empty" => return b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n".to_vec(),
            "partial" => return [&b"HTTP/1.1 206 Partial Content\r\nContent-Type: text/html\r\nContent-Range: bytes 0-99/200\r\nContent-Length: 100\r\n\r\n"[..], &page(100)].concat(),
            "slow" => return b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nslow\r\n3\r\nly.\r\n0\r\n\r\n".to_vec(),
            other => panic!("{other} was asked for"),
        };
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n{field}\r\nContent-Length: 1000\r\n\r\n");
        [head.as_bytes(), &page(1000)].concat()
    })
}

fn ask(daemon: &Daemon, path: &str, fields: &str) -> Response {
    let lines: String =
        fields.split('|').filter(|line| !line.is_empty()).map(|line| format!("{line}\r\n")).collect();
    fetch(daemon.port(0), &format!("GET {path} HTTP/1.1\r\nHost: a\r\n{lines}Connection: close\r\n\r\n"))
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    flate2::read::GzDecoder::new(bytes).read_to_end(&mut out).expect("it is gzip");
    out
}

#[test]
fn pages_are_encoded_and_decode_to_themselves() {
    let origin = answering();
    let daemon = start(&origin);
    for path in ["/page.html", "/level/9"] {
        let plain = get(daemon.port(0), path);
        assert_eq!((plain.body.len(), plain.header("vary")), (65_536, Some("Accept-Encoding")));
        assert_eq!((plain.length(), plain.header("accept-ranges")), (Some(65_536), Some("bytes")));
        let coded = ask(&daemon, path, "Accept-Encoding: gzip");
        assert_eq!(coded.header("content-encoding"), Some("gzip"));
        assert_eq!((coded.length(), coded.header("accept-ranges")), (None, None));
        assert_eq!(coded.header("last-modified"), plain.header("last-modified"));
        let tag = plain.header("etag").expect("it has one");
        assert_eq!(coded.header("etag"), Some(&*format!("W/{tag}")));
        assert_eq!(coded.header("vary"), Some("Accept-Encoding"));
        assert!(coded.body.len() < 30_000);
        assert_eq!(gunzip(&coded.body), plain.body);
    }
    // the head for HEAD is that for GET
    let request = "HEAD /page.html HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n";
    let mut client = Client::connect(daemon.port(0));
    let head = client.send(request).response_head();
    assert_eq!((head.header("content-encoding"), head.length()), (Some("gzip"), None));
    assert_eq!(client.get("/page.html").body.len(), 65_536, "the connection goes on");
    // not a part: the whole is encoded
    let whole = ask(&daemon, "/page.html", "Accept-Encoding: gzip|Range: bytes=0-9");
    assert_eq!((whole.status, gunzip(&whole.body).len()), (200, 65_536));
    // an old client understands no chunks
    let old = fetch(daemon.port(0), "GET /page.html HTTP/1.0\r\nAccept-Encoding: gzip\r\n\r\n");
    assert_eq!((old.header("transfer-encoding"), gunzip(&old.body).len()), (None, 65_536));
    daemon.wait_line("access.log", r"^/page\.html \d\.\d\d 200$");
    daemon.wait_line("access.log", r"^/page\.html - 200$");
}

#[test]
fn who_gets_it() {
    let origin = answering();
    let daemon = start(&origin);
    let coded = |path: &str, fields: &str| {
        let response = ask(&daemon, path, fields);
        match response.header("content-encoding") {
            Some("gzip") => !gunzip(&response.body).is_empty(),
            _ => false,
        }
    };
    let gzip = "Accept-Encoding: gzip";
    let cases: &[(&str, &str, bool)] = &[
        ("/page.html", "Accept-Encoding: deflate, gzip;q=0.5", true),
        ("/page.html", "Accept-Encoding: gzip;q=0", false),
        ("/page.html", "Accept-Encoding: *", false),
        ("/page.html", "Accept-Encoding: xgzip, gzipx", false),
        ("/page.html", "", false),
        ("/none/page.html", gzip, false),
        ("/data.json", gzip, false),
        ("/json/data.json", gzip, true),
        ("/json/page.html", gzip, true),
        ("/json/text.txt", gzip, false),
        ("/any/text.txt", gzip, true),
        ("/small.html", gzip, false),
        ("/long/page.html", gzip, false),
        ("/absent", gzip, true),
        ("/deny/", gzip, true),
        ("/moved/", gzip, false),
        ("/disabled/page.html", gzip, true),
        ("/disabled/page.html", "Accept-Encoding: gzip|User-Agent: curl", true),
        ("/disabled/page.html", "Accept-Encoding: gzip|User-Agent: some ODD agent", false),
        ("/disabled/page.html", "Accept-Encoding: gzip|User-Agent: x MSIE 6.0; y", false),
        ("/disabled/page.html", "Accept-Encoding: gzip|User-Agent: x MSIE 6.0; SV1", true),
        ("/page.html", "Accept-Encoding: gzip|Via: a", false),
        ("/origin/plain", gzip, true),
        ("/origin/partial", gzip, false),
        ("/proxied/any/future", "Accept-Encoding: gzip|Via: a", true),
        ("/proxied/expired/past", "Accept-Encoding: gzip|Via: a", true),
        ("/proxied/expired/future", "Accept-Encoding: gzip|Via: a", false),
        ("/proxied/expired/future", gzip, true),
        ("/proxied/expired/never", "Accept-Encoding: gzip|Via: a", false),
        ("/proxied/expired/plain", "Accept-Encoding: gzip|Via: a", true),
        ("/proxied/expired/public", "Accept-Encoding: gzip|Via: a", false),
        ("/proxied/cache/private", "Accept-Encoding: gzip|Via: a", true),
        ("/proxied/cache/public", "Accept-Encoding: gzip|Via: a", false),
        ("/proxied/cache/past", "Accept-Encoding: gzip|Via: a", false),
        ("/proxied/no/modified", "Accept-Encoding: gzip|Via: a", false),
        ("/proxied/no/tag", "Accept-Encoding: gzip|Via: a", false),
        ("/proxied/no/plain", "Accept-Encoding: gzip|Via: a", true),
        ("/proxied/auth/future", "Accept-Encoding: gzip|Via: a|Authorization: b", true),
        ("/proxied/auth/future", "Accept-Encoding: gzip|Via: a", false),
    ];
    for (path, fields, expected) in cases {
        assert_eq!(coded(path, fields), *expected, "{path} {fields}");
    }
    let old =
        |path: &str| fetch(daemon.port(0), &format!("GET {path} HTTP/1.0\r\nAccept-Encoding: gzip\r\n\r\n"));
    assert_eq!(old("/late/page.html").header("content-encoding"), None);
    assert_eq!(old("/page.html").header("content-encoding"), Some("gzip"));
}

#[test]
fn an_upstreams_fields_are_kept_or_changed() {
    let origin = answering();
    let daemon = start(&origin);
    let gzip = "Accept-Encoding: gzip";
    let already = ask(&daemon, "/origin/coded", gzip);
    assert_eq!((already.header("content-encoding"), &*already.body), (Some("br"), &*page(1000)));
    assert_eq!(ask(&daemon, "/origin/tag", gzip).header("etag"), Some("W/\"a\""));
    assert_eq!(ask(&daemon, "/origin/weak", gzip).header("etag"), Some("W/\"a\""));
    let empty = ask(&daemon, "/origin/empty", gzip);
    assert_eq!((empty.status, gunzip(&empty.body)), (200, Vec::new()));
    if is_stand_in() {
        return; // nginx repeats an upstream's Vary
    }
    assert_eq!(ask(&daemon, "/origin/vary", "").all("vary"), ["Accept-Encoding", "Cookie"]);
    assert_eq!(ask(&daemon, "/origin/varies", gzip).all("vary"), ["Cookie, accept-encoding"]);
    assert_eq!(ask(&daemon, "/origin/star", gzip).all("vary"), ["*"]);
}

#[test]
fn a_page_made_of_subrequests_is_one_stream() {
    let origin = answering();
    let daemon = start(&origin);
    let part = [&page(65_536)[..], b"|slowly.."].concat();
    let expected = [b"(", &part[..], b")", &part[..]].concat();
    let coded = ask(&daemon, "/ssi/all.html", "Accept-Encoding: gzip");
    assert_eq!(coded.header("content-encoding"), Some("gzip"));
    assert_eq!(gunzip(&coded.body), expected);
    assert_eq!(ask(&daemon, "/ssi/all.html", "").body, expected);
}

/// One chunk of a chunked body; empty at its end.
fn chunk(wire: &mut Wire) -> Vec<u8> {
    let line = String::from_utf8(wire.line()).expect("a size");
    let size = usize::from_str_radix(&line, 16).expect("a size");
    let bytes = wire.exactly(size);
    assert_eq!(wire.exactly(2), b"\r\n");
    bytes
}

#[test]
fn events_arrive_one_by_one() {
    let (go, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let origin = Origin::start(move |peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
        for number in 0..5 {
            let event = format!("data: {number}\n\n");
            peer.send(format!("{:x}\r\n{event}\r\n", event.len()));
            let _ = wait.lock().expect("not poisoned").recv_timeout(std::time::Duration::from_secs(20));
        }
        let _ = peer.try_send(b"0\r\n\r\n");
    });
    let conf = r#"
    http { server { listen 127.0.0.1:%%PORT_0%%; proxy_buffering off;
        location / { gzip on; brotli on; zstd on; gzip_types *; brotli_types *; zstd_types *; proxy_pass http://%%ORIGIN%%; }
    } }"#;
    if is_stand_in() {
        return; // nginx buffers what it encodes
    }
    let daemon = Setup::new(conf).set("ORIGIN", origin.address()).start();
    for coding in ["gzip", "br", "zstd"] {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: {coding}\r\n\r\n");
        let mut wire = Client::connect(daemon.port(0)).into_wire();
        let head = wire.send(&request).response_head();
        assert_eq!(head.header("content-encoding"), Some(coding));
        let mut coded = Vec::new();
        for number in 0..5 {
            let so_far: String = (0..=number).map(|number| format!("data: {number}\n\n")).collect();
            while readable(coding, &coded) != so_far {
                let piece = chunk(&mut wire);
                assert!(!piece.is_empty(), "it ended with {:?}", readable(coding, &coded));
                coded.extend_from_slice(&piece);
            }
            go.send(()).expect("the origin waits");
        }
        loop {
            let piece = chunk(&mut wire);
            if piece.is_empty() {
                break;
            }
            coded.extend_from_slice(&piece);
        }
        assert_eq!(readable(coding, &coded).len(), 5 * "data: 0\n\n".len());
    }
}

/// The decodable part of a stream that may go on.
fn readable(coding: &str, bytes: &[u8]) -> String {
    let mut out = Vec::new();
    let _cut = match coding {
        "gzip" => flate2::read::GzDecoder::new(bytes).read_to_end(&mut out),
        "br" => brotli::Decompressor::new(bytes, 4096).read_to_end(&mut out),
        _ => {
            let mut context = zstd_safe::DCtx::create();
            let mut room = vec![0; 4096];
            let mut output = zstd_safe::OutBuffer::around(&mut room[..]);
            let mut input = zstd_safe::InBuffer::around(bytes);
            context.decompress_stream(&mut output, &mut input).expect("it is zstd");
            out.extend_from_slice(output.as_slice());
            Ok(0)
        }
    };
    String::from_utf8(out).expect("text")
}

#[test]
fn the_best_liked_coding_is_taken() {
    if is_stand_in() {
        return;
    }
    let conf = r#"
    http { types { text/html html; } root %%DIR%%/pages;
        server { listen 127.0.0.1:%%PORT_0%%; gzip_vary on;
            location / { gzip on; brotli on; zstd on; }
            location /two/ { alias %%DIR%%/pages/; gzip on; brotli on; }
            location /level/ { alias %%DIR%%/pages/; brotli on; brotli_comp_level 11; brotli_window 1k; brotli_min_length 60k; }
            location /fine/ { alias %%DIR%%/pages/; zstd on; zstd_comp_level 19; zstd_min_length 1m; }
        } }"#;
    let daemon = Setup::new(conf).file("pages/page.html", page(65_536)).start();
    let cases: &[(&str, &str, Option<&str>)] = &[
        ("/", "gzip, deflate, br, zstd", Some("zstd")),
        ("/", "gzip, br", Some("br")),
        ("/", "gzip;q=1, br;q=0.9, zstd;q=0.5", Some("gzip")),
        ("/", "gzip;q=0.5, br;q=0.9, zstd;q=0", Some("br")),
        ("/", "deflate", None),
        ("/two/", "zstd, gzip", Some("gzip")),
        ("/two/", "gzip, br", Some("br")),
        ("/level/", "br", Some("br")),
        ("/level/", "gzip", None),
        ("/fine/", "zstd", None),
    ];
    for (folder, accept, expected) in cases {
        let response = ask(&daemon, &format!("{folder}page.html"), &format!("Accept-Encoding: {accept}"));
        assert_eq!(response.header("content-encoding"), *expected, "{folder} {accept}");
        let body = match expected {
            Some("gzip") => gunzip(&response.body),
            Some("br") => {
                let mut out = Vec::new();
                brotli::Decompressor::new(&response.body[..], 4096)
                    .read_to_end(&mut out)
                    .expect("it is brotli");
                out
            }
            Some(_) => {
                let mut out = Vec::with_capacity(100_000);
                zstd_safe::decompress(&mut out, &response.body[..]).expect("it is zstd");
                out
            }
            None => response.body.clone(),
        };
        assert!(body == page(65_536), "{folder} {accept}");
        // a response too short for this location is so for every client
        assert_eq!(response.header("vary").is_some(), *folder != "/fine/", "{folder} {accept}");
    }
}

#[test]
fn long_bodies_in_chunks_and_clients_that_leave() {
    const BYTES: usize = 10 * 1024 * 1024;
    let origin = Origin::start(|peer| {
        while peer.request().is_some() {
            peer.send("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n");
            for piece in page(BYTES).chunks(100_003) {
                let head = format!("{:x}\r\n", piece.len());
                if peer.try_send(&[head.as_bytes(), piece, b"\r\n"].concat()).is_err() {
                    return;
                }
            }
            peer.send("0\r\n\r\n");
        }
    });
    let conf = r#"
    http { log_format ended "$status $gzip_ratio"; access_log %%DIR%%/access.log ended;
        server { listen 127.0.0.1:%%PORT_0%%; location / { gzip on; proxy_pass http://%%ORIGIN%%; } } }"#;
    let daemon = Setup::new(conf).set("ORIGIN", origin.address()).start();
    let request = "GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n";
    let coded = fetch(daemon.port(0), request);
    assert!(gunzip(&coded.body) == page(BYTES));
    daemon.wait_line("access.log", r"^200 \d+\.\d\d$");
    let mut leaving = Client::connect(daemon.port(0)).into_wire();
    leaving.send(request).exactly(1000);
    drop(leaving);
    daemon.wait_line("access.log", "^200 -$");
    assert!(gunzip(&fetch(daemon.port(0), request).body) == page(BYTES), "and the next one is whole");
}

#[test]
fn a_slow_pace_is_that_of_the_encoded_bytes() {
    let conf = r#"
    http { types { text/html html; } root %%DIR%%/pages;
        server { listen 127.0.0.1:%%PORT_0%%; location / { gzip on; gzip_comp_level 9; limit_rate 4k; } } }"#;
    let daemon = Setup::new(conf).file("pages/page.html", page(65_536)).start();
    let began = std::time::Instant::now();
    let request = "GET /page.html HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n";
    let coded = fetch(daemon.port(0), request);
    assert!(gunzip(&coded.body) == page(65_536));
    // the bytes of the first second go at once
    let seconds = began.elapsed().as_secs_f64();
    let expected = (coded.body.len() as f64 / 4096.0) - 1.0;
    assert!(expected > 0.4 && seconds > expected * 0.9, "{} bytes in {seconds} s", coded.body.len());
    assert!(seconds < 14.0, "plain it would take fifteen");
}

#[test]
fn an_upstream_that_breaks_off_leaves_no_whole_stream() {
    let origin = Origin::start(|peer| {
        peer.request();
        peer.send(
            [&b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5000\r\n\r\n"[..], &page(4000)]
                .concat(),
        );
    });
    let daemon = start(&origin);
    let mut wire = Client::connect(daemon.port(0)).into_wire();
    let head =
        wire.send("GET /origin/x HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n").response_head();
    assert_eq!(head.header("content-encoding"), Some("gzip"));
    let (rest, _) = wire.rest();
    assert!(!rest.ends_with(b"0\r\n\r\n"), "the end would say that all is there");
    assert_eq!(fetch(daemon.port(0), "GET /small.html HTTP/1.0\r\n\r\n").text(), "0123456789");
}
