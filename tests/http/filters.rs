//! All body filters in one location, in nginx's order: gunzip, additions, texts, charset, includes, gzip.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

use crate::support::{Client, Daemon, Origin, Response, Setup, fetch, get};

const CONF: &str = r#"
http {
    charset_map koi8-r utf-8 { C1 D0B0; C2 D0B1; C3 D0B2; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        root %%DIR%%/pages;
        gzip on;
        gzip_min_length 0;
        location /all.html {
            gunzip on;
            add_before_body /before;
            add_after_body /after;
            sub_filter_once off;
            sub_filter before BEFORE;
            sub_filter $arg_old $arg_new;
            charset utf-8;
            source_charset koi8-r;
            ssi on;
            proxy_pass http://%%ORIGIN%%;
        }
        location /before { source_charset koi8-r; alias %%DIR%%/pages/before.html; default_type text/html; }
        location /after { add_after_body /before; default_type text/html; return 200 "after"; }
        location /include { ssi on; sub_filter text TEXT; default_type text/html; return 200 "<text><!--#include virtual=\"/deep\" -->"; }
        location /deep { default_type text/html; return 200 "text"; }
        location /file.html { sub_filter a b; }
        location /closed.html { chunked_transfer_encoding off; sub_filter a b; }
    }
}
"#;

/// The page is in KOI8-R: C1, C2 and C3 are а, б and в.
fn page() -> Vec<u8> {
    [b"[\xc1 <!--#include virtual=\"/include\" -->", &[b'x'; 40_000][..], b" old-\xc2]before"].concat()
}

fn expected() -> String {
    format!("б-before[а <TEXT>text{} new-б]BEFOREafter", "x".repeat(40_000))
}

fn start(is_gzipped: bool, piece: usize) -> (Origin, Daemon) {
    let origin = Origin::start(move |peer| {
        while peer.request().is_some() {
            let mut body = page();
            let mut head =
                "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n".to_owned();
            if is_gzipped {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
                encoder.write_all(&body).unwrap();
                body = encoder.finish().unwrap();
                head.push_str("Content-Encoding: gzip\r\n");
            }
            peer.send(head + "\r\n");
            for part in body.chunks(piece) {
                let chunk = [format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat();
                if peer.try_send(&chunk).is_err() {
                    return;
                }
            }
            peer.send("0\r\n\r\n");
        }
    });
    let setup = Setup::new(CONF).set("ORIGIN", origin.address()).level("info");
    let setup = setup.file("pages/before.html", b"\xc2-before").file("pages/file.html", "abcabc");
    (origin, setup.file("pages/closed.html", "abcabc").start())
}

fn decoded(response: &Response) -> String {
    let mut text = String::new();
    assert_eq!(response.header("content-encoding"), Some("gzip"));
    GzDecoder::new(&response.body[..]).read_to_string(&mut text).expect("gzip of text");
    text
}

#[test]
fn filters_follow_one_another_as_in_nginx() {
    for (is_gzipped, piece) in [(false, 8000), (true, 8000), (true, 7)] {
        let (_origin, daemon) = start(is_gzipped, piece);
        let mut client = Client::connect(daemon.port(0));
        for _ in 0..2 {
            let response = client.get("/all.html?old=old&new=new");
            assert_eq!(response.header("content-type"), Some("text/html; charset=utf-8"));
            assert_eq!(response.header("content-encoding"), None);
            assert!(response.text() == expected(), "{is_gzipped} {piece}: {}", response.text());
        }
    }
}

#[test]
fn a_coding_holds_the_answers_of_all_subrequests() {
    let (_origin, daemon) = start(false, 1000);
    let ask = "GET /all.html?old=old&new=new HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n";
    let response = fetch(daemon.port(0), ask);
    assert!(decoded(&response) == expected(), "{}", decoded(&response));
}

#[test]
fn pieces_of_one_byte_make_the_same() {
    let (_origin, daemon) = start(false, 1);
    let response = get(daemon.port(0), "/all.html?old=old&new=new");
    assert!(response.text() == expected(), "{}", response.text());
}

#[test]
fn a_client_that_leaves_ends_all_of_it() {
    let (origin, daemon) = start(false, 1);
    let mut wire = Client::connect(daemon.port(0)).into_wire();
    wire.send("GET /all.html?old=old&new=new HTTP/1.1\r\nHost: a\r\n\r\n");
    wire.response_head();
    drop(wire);
    origin.wait_ended(1);
    let response = get(daemon.port(0), "/all.html?old=old&new=new");
    assert!(response.text() == expected());
}

#[test]
fn what_is_changed_has_no_parts_and_may_end_with_the_connection() {
    let (_origin, daemon) = start(false, 1000);
    let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\nRange: bytes=1-2\r\n\r\n");
    let mut wire = Client::connect(daemon.port(0)).into_wire();
    wire.send(ask("/file.html"));
    let response = wire.response();
    assert_eq!((response.status, response.text()), (200, "bbcabc".into()));
    wire.send(ask("/closed.html"));
    let head = wire.response_head();
    assert_eq!(head.header("connection"), Some("close"));
    assert_eq!((head.header("transfer-encoding"), head.length()), (None, None));
    assert_eq!(wire.rest().0, b"bbcabc");
}
