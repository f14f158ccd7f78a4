//! Decoding gzip for clients that do not accept it: whole, in pieces, in many members, and broken streams.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::support::daemon::is_stand_in;
use crate::support::{Client, Daemon, Origin, Response, Setup, fetch, get};

const CONF: &str = r#"
http {
    log_format sent "$uri $status $body_bytes_sent";
    access_log %%DIR%%/access.log sent;
    types { text/html html; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        gzip_vary on;
        gunzip on;
        location / { proxy_pass http://%%ORIGIN%%; }
        location /off/ { gunzip off; gzip_vary off; proxy_pass http://%%ORIGIN%%/; }
        location /again/ { gzip on; proxy_pass http://%%ORIGIN%%/; }
        location /replaced/ { sub_filter one two; sub_filter_once off; proxy_pass http://%%ORIGIN%%/; }
        location /ssi/ { ssi on; gzip on; proxy_set_header Accept-Encoding gzip; proxy_pass http://%%ORIGIN%%/; }
    }
}
"#;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

fn page() -> Vec<u8> {
    b"one and one is two\n".repeat(5_000)
}

const BOMB_BYTES: usize = 40_000_000;

fn start() -> (Origin, Daemon) {
    let bomb = gzip(&vec![0; BOMB_BYTES]);
    let origin = Origin::start(move |peer| {
        while let Some(request) = peer.request() {
            let whole = |body: &[u8]| {
                let head =
                    "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Encoding: gzip\r\nETag: \"a\"\r\n";
                [format!("{head}Content-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
            };
            let chunked = |pieces: &mut dyn Iterator<Item = &[u8]>| {
                let mut out = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Encoding: GZIP\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
                for piece in pieces {
                    out.extend(format!("{:x}\r\n", piece.len()).bytes());
                    out.extend_from_slice(&[piece, b"\r\n"].concat());
                }
                [&out[..], b"0\r\n\r\n"].concat()
            };
            let coded = gzip(&page());
            let answer = match request.target.as_str() {
                "/page" => whole(&coded),
                "/bytes" => chunked(&mut gzip(b"byte by byte").chunks(1)),
                "/members" => chunked(&mut [gzip(b"a"), gzip(b""), gzip(&page())].concat().chunks(1_000)),
                "/bomb" => whole(&bomb),
                "/cut" => whole(&coded[..coded.len() - 5]),
                "/rubbish" => whole(&[&coded[..], b"rubbish"].concat()),
                "/not" => whole(&page()),
                "/sum" => {
                    let mut wrong = coded;
                    let at = wrong.len() - 8;
                    wrong[at] ^= 1;
                    whole(&wrong)
                }
                "/empty" => whole(b""),
                "/part" => {
                    let head = "HTTP/1.1 206 Partial Content\r\nContent-Encoding: gzip\r\nContent-Range: bytes 0-9/200";
                    [format!("{head}\r\nContent-Length: 10\r\n\r\n").as_bytes(), &coded[..10]].concat()
                }
                "/include" => {
                    whole(&gzip(b"(<!--#include virtual=\"/page\" -->|<!--#include virtual=\"/bytes\" -->)"))
                }
                other => panic!("{other} was asked for"),
            };
            if peer.try_send(&answer).is_err() {
                return;
            }
        }
    });
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).level("info").start();
    (origin, daemon)
}

fn accepting(daemon: &Daemon, path: &str) -> Response {
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n");
    fetch(daemon.port(0), &request)
}

#[test]
fn those_who_do_not_accept_it_get_the_text() {
    let (_origin, daemon) = start();
    let plain = get(daemon.port(0), "/page");
    assert_eq!((plain.header("content-encoding"), plain.length()), (None, None));
    assert_eq!((plain.header("etag"), plain.header("vary")), (Some("W/\"a\""), Some("Accept-Encoding")));
    assert!(plain.body == page());
    let coded = accepting(&daemon, "/page");
    assert_eq!(
        (coded.header("content-encoding"), coded.header("vary")),
        (Some("gzip"), Some("Accept-Encoding"))
    );
    assert!(coded.body == gzip(&page()));
    assert!(get(daemon.port(0), "/off/page").body == gzip(&page()));
    assert_eq!(get(daemon.port(0), "/off/page").header("vary"), None);
    assert_eq!(get(daemon.port(0), "/bytes").text(), "byte by byte");
    assert!(get(daemon.port(0), "/members").body == [b"a", &page()[..]].concat());
    assert!(get(daemon.port(0), "/again/page").body == page());
    // a filter cannot read an encoded body, nor is it encoded twice
    assert!(accepting(&daemon, "/again/page").body == gzip(&page()));
    assert!(get(daemon.port(0), "/replaced/page").text().starts_with("two and two is two\n"));
    let mut client = Client::connect(daemon.port(0));
    let head = client.send("HEAD /page HTTP/1.1\r\nHost: a\r\n\r\n").response_head();
    assert_eq!((head.header("content-encoding"), head.length()), (None, None));
    assert_eq!(client.get("/bytes").text(), "byte by byte");
}

#[test]
fn parts_of_a_page_are_always_decoded() {
    let (_origin, daemon) = start();
    let expected = [b"(", &page()[..], b"|byte by byte)"].concat();
    assert!(get(daemon.port(0), "/ssi/include").body == expected);
}

#[test]
fn broken_streams_cut_the_answer() {
    let (_origin, daemon) = start();
    for path in ["/cut", "/rubbish", "/not", "/sum"] {
        let mut wire = Client::connect(daemon.port(0)).into_wire();
        wire.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let (rest, _) = wire.rest();
        assert!(!rest.ends_with(b"0\r\n\r\n"), "{path}: the end would say that all is there");
        daemon.wait_log(&format!(r"inflate\(\) (failed|returned).*GET {path} "));
        daemon.wait_line("access.log", &format!("^{path} 200 "));
    }
    if !is_stand_in() {
        assert_eq!(get(daemon.port(0), "/empty").text(), "", "nginx has no end for it");
        let part = get(daemon.port(0), "/part");
        assert_eq!((part.header("content-encoding"), &*part.body), (Some("gzip"), &gzip(&page())[..10]));
    }
    assert_eq!(get(daemon.port(0), "/bytes").text(), "byte by byte");
}

#[test]
fn a_bomb_is_streamed() {
    let (_origin, daemon) = start();
    // the client reads slowly at first: what it does not read is not decoded either
    let mut wire = Client::connect(daemon.port(0)).into_wire();
    let head = wire.send("GET /bomb HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").response_head();
    assert_eq!(head.header("content-encoding"), None);
    wire.exactly(100_000);
    let peak = peak_kib(daemon.worker());
    let (rest, _) = wire.rest();
    assert!(rest.ends_with(b"0\r\n\r\n"));
    assert!(rest.len() + 100_000 > BOMB_BYTES);
    let after = peak_kib(daemon.worker());
    assert!(after < peak + 8 * 1024, "the worker grew from {peak} to {after} KiB");
}

/// The peak memory of a process.
fn peak_kib(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("Linux tells it");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("KiB")
}
