//! The cost of reading and writing HTTP/1.1: `cargo bench --bench codec` prints nanoseconds per operation.

use std::hint::black_box;
use std::time::Instant;

use pronghorn::base::path::{Escape, escape_uri, normalize_uri};
use pronghorn::proto::h1::chunked::Decoder;
use pronghorn::proto::h1::request::{self, Limits};
use pronghorn::proto::h1::{encode, length, response};
use pronghorn::proto::head::{RequestHead, ResponseHead};
use pronghorn::proto::message::Method;
use pronghorn::proto::uri;

const ROUNDS: u32 = 1_000_000;

/// The request of a load generator.
const SHORT: &[u8] = b"GET /index.html HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n\r\n";

/// Eight fields of curl with a few options.
const CURL: &[u8] = b"GET /api/v1/items?page=2&sort=name HTTP/1.1\r\n\
    Host: api.example.test:8000\r\n\
    User-Agent: curl/7.88.1\r\n\
    Accept: application/json\r\n\
    Accept-Encoding: deflate, gzip, br, zstd\r\n\
    Authorization: Bearer 0123456789abcdef0123456789abcdef\r\n\
    X-Request-Id: 7d444840-9dc0-11d1-b245-5ffdce74fad2\r\n\
    Cache-Control: no-cache\r\n\
    Connection: keep-alive\r\n\r\n";

/// Eight fields of a browser; they are longer.
const BROWSER: &[u8] = b"GET /articles/2026/11/a-long-title-of-an-article HTTP/1.1\r\n\
    Host: www.example.test\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
    Accept-Language: en-GB,en;q=0.7,de;q=0.3\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Referer: https://www.example.test/articles/2026/11/\r\n\
    Cookie: session=7d4448409dc011d1b2455ffdce74fad2; theme=dark; consent=1; last_seen=1795247117\r\n\
    Upgrade-Insecure-Requests: 1\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Server: nginx/1.22.1\r\n\
    Date: Sat, 21 Nov 2026 09:05:17 GMT\r\n\
    Content-Type: text/html; charset=utf-8\r\n\
    Content-Length: 15243\r\n\
    Last-Modified: Fri, 20 Nov 2026 17:12:03 GMT\r\n\
    Connection: keep-alive\r\n\
    ETag: \"6560a3f3-3b8b\"\r\n\
    Accept-Ranges: bytes\r\n\r\n";

fn measure(name: &str, mut operation: impl FnMut()) {
    for _ in 0..ROUNDS / 10 {
        operation();
    }
    let began = Instant::now();
    for _ in 0..ROUNDS {
        operation();
    }
    println!("{name:<44} {:>8.1} ns", began.elapsed().as_nanos() as f64 / f64::from(ROUNDS));
}

fn main() {
    let limits = Limits::default();
    let mut head = RequestHead::default();
    for (name, text) in [("2 lines", SHORT), ("8 fields of curl", CURL), ("8 fields of a browser", BROWSER)] {
        measure(&format!("request head, {name} ({} bytes)", text.len()), || {
            black_box(request::parse(black_box(text), &limits, &mut head)).expect("valid");
        });
    }
    let head = head_of(CURL);
    measure("its framing, target and host, curl", || request_meaning(&head, black_box(CURL)));

    let mut head = ResponseHead::default();
    measure(&format!("response head, 8 fields ({} bytes)", RESPONSE.len()), || {
        black_box(response::parse(black_box(RESPONSE), 4096, &mut head)).expect("valid");
        black_box(length::response(&head, RESPONSE, Method::Get)).expect("valid");
    });

    let mut out = Vec::with_capacity(4096);
    measure("chunk head of 16 KiB", || {
        out.clear();
        encode::chunk_head(black_box(16384), &mut out);
        black_box(&out);
    });
    out.clear();
    encode::chunk_head(1024, &mut out);
    out.resize(out.len() + 1024, b'x');
    out.extend_from_slice(b"\r\n");
    encode::last_chunk(&mut out);
    measure("decode a body of one chunk of 1 KiB", || {
        let (mut decoder, mut at) = (Decoder::default(), 0);
        while !decoder.is_done() {
            at += decoder.decode(black_box(&out[at..])).expect("valid").consumed;
        }
    });

    let mut path = Vec::with_capacity(4096);
    for (name, raw) in [
        ("plain", &b"/articles/2026/11/a-long-title-of-an-article?page=2"[..]),
        ("with %XX, // and ..", b"/articles//2026/%31%31/x/../a%20long%20title?page=2"),
    ] {
        measure(&format!("normalize a URI, {name} ({} bytes)", raw.len()), || {
            black_box(normalize_uri(black_box(raw), true, &mut path)).expect("valid");
        });
    }
    let mut escaped = Vec::with_capacity(4096);
    measure(&format!("escape a path ({} bytes)", path.len()), || {
        escaped.clear();
        escape_uri(black_box(&path), Escape::Uri, &mut escaped);
        black_box(&escaped);
    });
}

fn head_of(text: &[u8]) -> RequestHead {
    let mut head = RequestHead::default();
    request::parse(text, &Limits::default(), &mut head).expect("valid");
    head
}

fn request_meaning(head: &RequestHead, data: &[u8]) {
    black_box(length::request(head, data)).expect("valid");
    let target = uri::parse(head.method, &data[head.target.clone()]).expect("valid");
    black_box(uri::host(head, data, Some(&target))).expect("valid");
}
