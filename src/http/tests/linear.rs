//! The cost of a message is linear in its length: every parser and every lookup of a request gets its worst
//! input, and when the input doubles the instructions must not triple.
//!
//! Instructions are counted, not time, so a busy machine changes nothing: the test runs itself under
//! valgrind's callgrind, which counts everything that the code does. Without valgrind the cases run
//! uncounted; `PRONGHORN_NEED_VALGRIND` makes that a failure (`.ci/run` sets it).
//!
//! Most cases go through the whole service in this process: a real connection, real phases, an origin on a
//! thread. Heads that arrive byte by byte, and formats other than HTTP, are passed to their parsers directly.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{config, serve};
use crate::base::wildcard::NameTable;
use crate::http::{Config, Hooks, Service};
use crate::proto::dns;
use crate::proto::h1::chunked::Decoder;
use crate::proto::h1::request::{self, Limits, Seen};
use crate::proto::h1::response;
use crate::proto::head::{RequestHead, ResponseHead};
use crate::proto::proxy_protocol;
use crate::runtime::{self, Runtime};
use crate::sys::address::SockAddr;
use crate::sys::valgrind;

const SIZES: [usize; 3] = [2000, 4000, 8000];
/// The size of an input whose cost is subtracted first: the fixed cost of a message.
const BASE: usize = 16;
/// Tolerance, since allocations and hash tables grow in steps.
const SLACK: u64 = 20_000;

#[test]
fn the_cost_of_a_message_is_linear_in_its_bytes() {
    if valgrind::is_running() {
        return run_all();
    }
    let Some(valgrind) = find_valgrind() else {
        assert!(std::env::var_os("PRONGHORN_NEED_VALGRIND").is_none(), "no valgrind");
        eprintln!("nothing is counted: there is no valgrind");
        return run_all();
    };
    let mut counts = Counts::new();
    let mut faults = String::new();
    // A peer's timing can add a turn of the loop to one case, and now and then a worker sums up what it has counted. Neither
    // meets the same case each time, if they come in another order: the least count holds.
    for attempt in 0..3 {
        count_all(&valgrind, attempt, &mut counts);
        assert!(counts.len() > 50, "not all cases were counted: {:?}", counts.keys());
        faults = judge(&counts);
        if faults.is_empty() {
            break;
        }
    }
    assert!(faults.is_empty(), "more than linear:\n{faults}");
}

/// The variable that tells the counted process how many have run before.
const ATTEMPT: &str = "PRONGHORN_LINEAR_ATTEMPT";

/// Runs all cases in a process that is counted.
fn count_all(valgrind: &Path, attempt: usize, counts: &mut Counts) {
    let folder = tempfile::tempdir().expect("a folder");
    let own_name = "http::tests::linear::the_cost_of_a_message_is_linear_in_its_bytes";
    let output = Command::new(valgrind)
        .args(["--tool=callgrind", "--dump-line=no", "--combine-dumps=no"])
        .arg(format!("--callgrind-out-file={}", folder.path().join("out").display()))
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", own_name, "--nocapture", "--test-threads=1"])
        .env(ATTEMPT, attempt.to_string())
        .output()
        .expect("valgrind runs");
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    read_counts(folder.path(), counts);
}

fn find_valgrind() -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join("valgrind")).find(|file| file.is_file())
}

/// Instructions by case and size.
type Counts = BTreeMap<String, BTreeMap<usize, u64>>;

/// Adds the counts of a run; of several for the same case and size the least stays.
fn read_counts(folder: &Path, counts: &mut Counts) {
    for entry in std::fs::read_dir(folder).expect("the folder of counts") {
        let text = std::fs::read_to_string(entry.expect("an entry").path()).expect("text");
        let after = |start: &str| text.lines().find_map(|line| line.strip_prefix(start)).map(str::trim);
        let Some(name) = after("desc: Trigger: Client Request: ") else { continue };
        let Some((case, size)) = name.rsplit_once('=') else { continue };
        let total = after("totals: ").or_else(|| after("summary: ")).expect("a total");
        let sizes = counts.entry(case.to_owned()).or_default();
        let total: u64 = total.parse().expect("a number");
        let least = sizes.entry(size.parse().expect("a size")).or_insert(total);
        *least = total.min(*least);
    }
}

/// The cases whose cost grows faster than their input.
fn judge(counts: &Counts) -> String {
    let mut faults = String::new();
    for (case, sizes) in counts {
        let base = sizes[&BASE];
        let of = |size: &usize| sizes[size].saturating_sub(base);
        for pair in SIZES.windows(2) {
            let (few, many) = (of(&pair[0]), of(&pair[1]));
            if many > few * 3 + SLACK {
                let _ = writeln!(
                    faults,
                    "{case}: {few} instructions for {} bytes, {many} for {}",
                    pair[0], pair[1]
                );
            }
        }
    }
    faults
}

fn run_all() {
    parsers();
    requests();
    answers();
    byte_by_byte();
}

/// Counts an operation at all sizes, after a first run that does not count, because tables are built on first
/// use.
fn measure<T>(case: &str, mut make: impl FnMut(usize) -> T, mut run: impl FnMut(T)) {
    // counted too, so that earlier work of other threads is not attributed to the first size
    valgrind::count("first", || run(make(BASE)));
    for size in SIZES.iter().chain([&BASE]) {
        let input = make(*size);
        valgrind::count(&format!("{case}={size}"), || run(input));
    }
}

/// Repeats `part` as often as it fits into `size` bytes.
fn filled(part: &str, size: usize) -> String {
    part.repeat(size / part.len())
}

fn parsers() {
    let limits =
        Limits { line_bytes_max: 1 << 20, head_bytes_max: 1 << 20, fields_max: 100_000, ..Limits::default() };
    type Make = fn(usize) -> String;
    let heads: [(&str, Make); 7] = [
        ("request line", |size| format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "a".repeat(size))),
        ("one long field", |size| format!("GET / HTTP/1.1\r\nHost: h\r\nA: {}\r\n\r\n", "a".repeat(size))),
        ("one long name", |size| format!("GET / HTTP/1.1\r\nHost: h\r\n{}: b\r\n\r\n", "a".repeat(size))),
        ("many fields", |size| format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", filled("a:\r\n", size))),
        ("many lines of LF", |size| format!("GET / HTTP/1.1\nHost: h\n{}\n", filled("a:\n", size))),
        ("empty lines", |size| format!("{}GET / HTTP/1.1\r\nHost: h\r\n\r\n", filled("\r\n", size))),
        ("upgrades", |size| format!("GET / HTTP/1.1\r\nHost: h\r\nUpgrade: {}\r\n\r\n", filled("a,", size))),
    ];
    for (name, make) in heads {
        for step in [usize::MAX, 1] {
            let name = format!("head, {name}, {}", if step == 1 { "byte by byte" } else { "at once" });
            if name == "head, empty lines, byte by byte" {
                continue; // the connection drops them, see below
            }
            measure(&name, make, |text| {
                let (mut head, mut seen, mut at) = (RequestHead::default(), Seen::default(), 0);
                while at < text.len() {
                    at = at.saturating_add(step).min(text.len());
                    request::parse_more(&text.as_bytes()[..at], &limits, &mut head, &mut seen)
                        .expect("a head");
                }
            });
        }
    }
    let answers: [(&str, Make); 2] = [
        ("many fields", |size| format!("HTTP/1.1 200 OK\r\n{}\r\n", filled("a:\r\n", size))),
        ("one long field", |size| format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "a".repeat(size))),
    ];
    for (name, make) in answers {
        for step in [usize::MAX, 1] {
            let name = format!("answer, {name}, {}", if step == 1 { "byte by byte" } else { "at once" });
            measure(
                &name,
                |size| make(size.min(3900)),
                |text| {
                    let (mut head, mut seen, mut at) = (ResponseHead::default(), Seen::default(), 0);
                    while at < text.len() {
                        at = at.saturating_add(step).min(text.len());
                        response::parse_more(&text.as_bytes()[..at], 1 << 20, &mut head, &mut seen)
                            .expect("a head");
                    }
                },
            );
        }
    }
    let bodies: [(&str, Make); 3] = [
        ("chunks of a byte", |size| format!("{}0\r\n\r\n", filled("1\r\na\r\n", size))),
        ("chunk extensions", |size| format!("{}0\r\n\r\n", filled("1;a=\"b\";c\r\na\r\n", size))),
        ("trailers", |size| format!("0\r\n{}\r\n", filled(&format!("a:{}\r\n", "b".repeat(80)), size))),
    ];
    for (name, make) in bodies {
        for step in [usize::MAX, 1] {
            let name = format!("{name}, {}", if step == 1 { "byte by byte" } else { "at once" });
            measure(&name, make, |text| {
                let mut decoder = Decoder::default();
                for piece in text.as_bytes().chunks(step.min(text.len())) {
                    let mut at = 0;
                    while at < piece.len() {
                        at += decoder.decode(&piece[at..]).expect("a body").consumed;
                    }
                }
                assert!(decoder.is_done());
            });
        }
    }
    let tlvs = |size: usize| {
        let mut data = b"\r\n\r\n\0\r\nQUIT\n\x21\x11".to_vec();
        // a header has at most 4 KiB
        let rest = [&[127, 0, 0, 1, 127, 0, 0, 1, 0, 1, 0, 2][..], &b"\xe0\0\0".repeat(size / 6)].concat();
        data.extend_from_slice(&(rest.len() as u16).to_be_bytes());
        data.extend_from_slice(&rest);
        data
    };
    measure("PROXY header, many TLVs", tlvs, |data| {
        let (header, _) = proxy_protocol::parse(&data).expect("a header").expect("whole");
        let mut out = Vec::new();
        assert!(!header.write_tlv(proxy_protocol::Tlv::of("0x05").expect("a number"), &mut out));
    });
    measure("name server's answer, aliases with pointers", dns_answer, |message| {
        let name = dns::Name::new(b"a.test").expect("a name");
        let _ = dns::read_answer(&message, 7, &name, dns::Kind::A);
    });
    let mut names = NameTable::default();
    for (value, name) in ["*.a.test", "*.a", "a.a.a.*", "b.*", "www.test"].into_iter().enumerate() {
        names.insert(name, value).expect("names differ");
    }
    let deep = vec!["a"; 4000].join(".");
    names.insert(&format!("*.{deep}"), 9).expect("another one");
    names.insert(&format!("{deep}.*"), 10).expect("another one");
    for (name, label) in [("labels", "a."), ("dots", "."), ("other labels", "b.")] {
        measure(
            &format!("wildcards, {name}"),
            |size| filled(label, size),
            |host| {
                let _ = names.lookup(host.as_bytes());
            },
        );
    }
}

/// A response whose records are aliases, each with a name that points into the previous one.
fn dns_answer(size: usize) -> Vec<u8> {
    let count = size / 14;
    let mut message = vec![0, 7, 0x81, 0x80, 0, 1];
    message.extend_from_slice(&(count as u16).to_be_bytes());
    message.extend_from_slice(&[0, 0, 0, 0, 1, b'a', 4, b't', b'e', b's', b't', 0, 0, 1, 0, 1]);
    message[0..2].copy_from_slice(&7u16.to_be_bytes());
    let mut before = 12u16;
    for _ in 0..count {
        message.extend_from_slice(&[0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, 4]);
        let here = message.len() as u16;
        message.extend_from_slice(&[1, b'b']);
        message.extend_from_slice(&(0xc000 | before).to_be_bytes());
        before = here;
    }
    message
}

/// Locations that use every kind of lookup for a request; their names are those of [`REQUESTS`].
const CONF: &str = r#"http { access_log off; error_log stderr emerg; large_client_header_buffers 8 16k; max_headers 100000;
    map $http_x_host $mapped { hostnames; *.example.com a; www.example.* b; ~^(a+\.)+$ c; default ""; }
    map $http_accept_language $language { default en; ~*^de de; "~(^|,)\s*fr" fr; }
    charset_map koi8-r utf-8 { E4 C3A4; }
    geo $remote_addr $geo { default 0; 10.0.0.0/8 1; proxy 127.0.0.0/8; proxy_recursive; }
    server { listen 127.0.0.1:0 default_server; server_name *.example.com www.example.* ~^(?<sub>[^.]+)\.test$;
        location /host { return 200 $host; }
        location /arg { return 200 "$arg_x"; }
        location /cookie { return 200 "$cookie_x"; }
        location /field { return 200 "$http_x_field"; }
        location /map { return 200 "$mapped $language"; }
        location /referer { valid_referers none blocked server_names *.example.com example.* ~a\.b; return 200 "$invalid_referer"; }
        location /secure { secure_link $arg_md5,$arg_expires; secure_link_md5 "$uri secret"; return 200 "$secure_link"; }
        location ~ ^/captures(/[^/]*)*$ { return 200 "$1"; }
        location ~ ^/rewrite { rewrite ^/rewrite/(.*)/(.*)$ /rewritten/$2/$1 break; return 200 "$uri"; }
        location /user { return 200 "$remote_user"; }
        location /realip { set_real_ip_from 127.0.0.0/8; real_ip_header X-Forwarded-For; real_ip_recursive on;
            proxy_pass http://%%ORIGIN%%; }
        location /proxy { proxy_pass http://%%ORIGIN%%; }
        location /set { proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-A $http_x_field;
            proxy_pass http://%%ORIGIN%%/other/; }
        location /cookies { proxy_cookie_path / /x; proxy_cookie_domain a b; proxy_cookie_flags ~. secure samesite=lax;
            proxy_pass http://%%ORIGIN%%; }
        location /gzip { gzip on; gzip_min_length 1; gzip_types *; gzip_proxied any; gzip_vary on; proxy_pass http://%%ORIGIN%%; }
        location /gunzip { gunzip on; proxy_pass http://%%ORIGIN%%; }
        location /sub { sub_filter aaaaaaab x; sub_filter ab y; sub_filter_once off; sub_filter_types *; proxy_pass http://%%ORIGIN%%; }
        location /charset { charset utf-8; source_charset koi8-r; charset_types *; proxy_pass http://%%ORIGIN%%; }
        location /hints { early_hints 1; proxy_pass http://%%ORIGIN%%; }
        location /file { userid on; userid_name x; expires 1h; root %%DIR%%; }
        location /slice { slice 1k; proxy_set_header Range $slice_range; proxy_pass http://%%ORIGIN%%; }
    } }"#;

/// The head of a request for a path, with additional lines.
fn get(target: &str, lines: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{lines}\r\n")
}

type Build = fn(usize) -> String;

/// Requests that grow.
const REQUESTS: &[(&str, Build)] = &[
    ("host, labels", |size| {
        format!("GET /host HTTP/1.1\r\nConnection: close\r\nHost: {}a\r\n\r\n", filled("a.", size))
    }),
    ("target, host", |size| {
        format!("GET http://{}a/host HTTP/1.1\r\nConnection: close\r\nHost: h\r\n\r\n", filled("a.", size))
    }),
    ("path, escapes", |size| get(&format!("/arg/{}", filled("%61", size)), "")),
    ("path, dots", |size| get(&format!("/arg/{}", filled("./", size)), "")),
    ("path, up and down", |size| get(&format!("/arg/{}", filled("a/../", size)), "")),
    ("path, deep and up", |size| {
        get(&format!("/arg/{}{}", filled("a/", size / 3), filled("../", size / 2)), "")
    }),
    ("path, slashes", |size| get(&format!("/arg/{}", "/".repeat(size)), "")),
    ("arguments", |size| get(&format!("/arg?{}", filled("a&", size)), "")),
    ("arguments, near", |size| get(&format!("/arg?{}", filled("x&", size)), "")),
    ("cookies", |size| get("/cookie", &format!("Cookie: {}\r\n", filled("a;", size)))),
    ("cookies, near", |size| get("/cookie", &format!("Cookie: {}\r\n", filled(" x ;", size)))),
    ("cookie lines", |size| get("/cookie", &filled("Cookie: a=b\r\n", size))),
    ("fields, of one name", |size| get("/field", &filled("X-Field: b\r\n", size))),
    ("fields, of others", |size| get("/field", &filled("X-Fielc: b\r\n", size))),
    ("map, labels", |size| get("/map", &format!("X-Host: {}\r\n", filled("a.", size)))),
    ("map, languages", |size| get("/map", &format!("Accept-Language: {}\r\n", filled("en, ", size)))),
    ("referer", |size| get("/referer", &format!("Referer: http://a/{}\r\n", filled("a.", size)))),
    ("secure link", |size| {
        get(&format!("/secure/{}?md5={}", "a".repeat(size / 2), "b".repeat(size / 2)), "")
    }),
    ("captures", |size| get(&format!("/captures{}", filled("/a", size)), "")),
    ("rewrite", |size| get(&format!("/rewrite{}", filled("/a", size)), "")),
    ("user", |size| get("/user", &format!("Authorization: Basic {}\r\n", filled("YWFh", size)))),
    ("real ip", |size| get("/realip", &format!("X-Forwarded-For: {}\r\n", filled("127.0.0.1, ", size)))),
    ("real ip, lines", |size| get("/realip", &filled("X-Forwarded-For: 127.0.0.1\r\n", size))),
    ("real ip, commas", |size| get("/realip", &format!("X-Forwarded-For: 1.1.1.1{}\r\n", ",".repeat(size)))),
    ("proxied, fields", |size| get("/proxy", &filled("a: b\r\n", size))),
    ("proxied, options", |size| {
        get("/proxy", &format!("Connection: {}x\r\n{}", filled(",", size / 2), filled("b: c\r\n", size / 2)))
    }),
    ("proxied, tokens", |size| {
        get("/proxy", &format!("Connection: {}x\r\n{}", filled("x,", size / 2), filled("x: c\r\n", size / 2)))
    }),
    ("proxied, path", |size| get(&format!("/set/{}?{}", filled("%20", size / 2), "a".repeat(size / 2)), "")),
    ("proxied, list", |size| get("/set", &filled("X-Forwarded-For: a\r\n", size))),
    ("accepted codings", |size| get("/gzip", &format!("Accept-Encoding: {}\r\n", filled("a;q=0.5,", size)))),
    ("accepted codings, near", |size| {
        get("/gzip", &format!("Accept-Encoding: {}\r\n", filled("gzi ", size)))
    }),
    ("accepted coding lines", |size| get("/gzip", &filled("Accept-Encoding: br\r\n", size))),
    ("range set", |size| get("/file", &format!("Range: bytes=0-0{}\r\n", filled(",0-0", size)))),
    ("range set, spaces", |size| get("/file", &format!("Range: bytes={}0-0\r\n", filled(" ,", size)))),
    ("if-none-match", |size| get("/file", &format!("If-None-Match: \"a\"{}\r\n", filled(",\"b\"", size)))),
    ("if-match", |size| get("/file", &format!("If-Match: \"a\"{}\r\n", filled(",\"b\"", size)))),
    ("upgrade", |size| get("/proxy", &format!("Upgrade: {}\r\n", filled("h2,", size)))),
    ("user cookie", |size| get("/file", &format!("Cookie: {}\r\n", filled("x=a;", size)))),
    ("chunked request", |size| {
        format!(
            "POST /proxy HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
            filled("1\r\na\r\n", size)
        )
    }),
];

/// Growing responses of an origin, and the location through which they come.
const ANSWERS: &[(&str, &str, Build)] = &[
    ("fields", "/proxy", |size| answer(&filled("a: b\r\n", size.min(5900)), "ok")),
    ("options", "/proxy", |size| {
        answer(&format!("Connection: {}x\r\n{}", ",".repeat(size / 2), filled("b: c\r\n", size / 2)), "ok")
    }),
    ("tokens", "/proxy", |size| {
        answer(&format!("Connection: {}x\r\n{}", filled("x,", size / 2), filled("x: c\r\n", size / 2)), "ok")
    }),
    ("cookies", "/cookies", |size| answer(&filled("Set-Cookie: a=b; path=/; domain=a\r\n", size), "ok")),
    ("cookie attributes", "/cookies", |size| {
        answer(&format!("Set-Cookie: a=b{}\r\n", filled("; a", size)), "ok")
    }),
    ("cookie paths", "/cookies", |size| {
        answer(&format!("Set-Cookie: a=b{}\r\n", filled("; path=/", size)), "ok")
    }),
    ("vary", "/gzip", |size| answer(&format!("Vary: {}\r\n", filled("a,", size)), "ok")),
    ("refresh", "/proxy", |size| answer(&format!("Refresh: {}\r\n", filled("url", size)), "ok")),
    ("hints", "/hints", |size| {
        format!("HTTP/1.1 103 Early Hints\r\n{}\r\n{}", filled("Link: <a>\r\n", size), answer("", "ok"))
    }),
    ("near matches", "/sub", |size| answer("", &filled("aaaaaaa", size))),
    ("charset", "/charset", |size| answer("Content-Type: text/plain\r\n", &"\u{e4}".repeat(size / 2))),
    ("chunks", "/proxy", |size| {
        format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
            filled("1\r\na\r\n", size)
        )
    }),
    ("trailers", "/proxy", |size| {
        format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{}\r\n",
            filled(
                "a: bcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnop\r\n",
                size
            )
        )
    }),
    ("redirect inside", "/proxy", |size| {
        answer(&format!("X-Accel-Redirect: /arg/{}\r\n", filled("%61/../", size)), "")
    }),
];

fn answer(lines: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{lines}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// The head of a message that `stream` delivers, and the bytes after it.
fn read_head(stream: &mut TcpStream, data: &mut Vec<u8>) -> Option<Vec<u8>> {
    loop {
        if let Some(at) = memchr::memmem::find(data, b"\r\n\r\n") {
            let rest = data.split_off(at + 4);
            return Some(std::mem::replace(data, rest));
        }
        let mut piece = [0; 16 * 1024];
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return None,
            Ok(count) => data.extend_from_slice(&piece[..count]),
        }
    }
}

/// An origin that answers each request with `next`; it does not read request bodies to their end.
fn origin(next: Arc<Mutex<Vec<u8>>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, next) = (stream.expect("a connection"), Arc::clone(&next));
            std::thread::spawn(move || {
                let mut data = Vec::new();
                while read_head(&mut stream, &mut data).is_some() {
                    let bytes = next.lock().expect("not poisoned").clone();
                    if stream.write_all(&bytes).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// A request and its origin's response, of a given size.
type Pair = Box<dyn Fn(usize) -> (String, String) + Send>;

/// Serves [`CONF`] and counts each of these requests; `next`: the origin's response for a case and size.
fn exchange_all(mut cases: Vec<(String, Pair)>) {
    let attempt: usize = std::env::var(ATTEMPT).map_or(0, |text| text.parse().expect("a number"));
    let count = cases.len();
    cases.rotate_left(attempt * 5 % count);
    let next = Arc::new(Mutex::new(Vec::new()));
    let origin = origin(Arc::clone(&next));
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("file"), "x".repeat(20_000)).expect("a file");
    let text = CONF.replace("%%ORIGIN%%", &origin.to_string());
    let text = text.replace("%%DIR%%", folder.path().to_str().expect("text"));
    serve(&text, move |address| {
        for (name, build) in cases {
            measure(&name, &build, |(request, answer)| {
                *next.lock().expect("not poisoned") = answer.into_bytes();
                let mut stream = TcpStream::connect(address).expect("a connection");
                stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
                stream.write_all(request.as_bytes()).expect("sent");
                let mut answer = Vec::new();
                let _ = stream.read_to_end(&mut answer);
                assert!(answer.starts_with(b"HTTP/1.1 "), "{name}: {}", answer.escape_ascii());
            });
        }
    });
}

fn requests() {
    let cases = REQUESTS.iter().map(|(name, build)| {
        let make = |size| (build(size), answer("", "ok"));
        (format!("request, {name}"), Box::new(make) as Pair)
    });
    exchange_all(cases.collect());
}

fn answers() {
    let cases = ANSWERS.iter().map(|(name, path, build)| {
        let make = |size| (get(path, "Accept-Encoding: gzip\r\n"), build(size));
        (format!("answer, {name}"), Box::new(make) as Pair)
    });
    exchange_all(cases.collect());
}

/// A head whose bytes reach the connection one at a time.
fn byte_by_byte() {
    let text = "http { access_log off; large_client_header_buffers 8 16k; max_headers 100000;
        server { listen 127.0.0.1:1; return 200 ok; } }";
    let config: &'static Config = Box::leak(Box::new(config(text)));
    let mut runtime = Runtime::new().expect("an epoll instance");
    let hooks = Hooks { hand_over: Box::new(|fd, _| Err(fd)), hand_over_tunnel: Box::new(|_, _| {}) };
    let service = Service::new(config, hooks);
    let builds: [(&str, Build); 3] = [
        ("fields", |size| get("/", &filled("a:\r\n", size / 4))),
        ("a line", |size| get(&format!("/{}", "a".repeat(size / 4)), "")),
        ("empty lines", |size| filled("\r\n", size / 4) + &get("/", "")),
    ];
    for (name, build) in builds {
        measure(&format!("connection, {name}, byte by byte"), build, |head| {
            runtime.block_on(async move {
                let (mut ours, theirs) = UnixStream::pair().expect("a pair");
                theirs.set_nonblocking(true).expect("a socket");
                service.open(theirs.into(), SockAddr::Unix("".into()), 0);
                for byte in head.as_bytes() {
                    ours.write_all(&[*byte]).expect("room");
                    runtime::yield_now().await; // the connection's turn
                    runtime::yield_now().await;
                }
                ours.set_nonblocking(true).expect("a socket");
                let mut answer = [0; 200];
                let count = loop {
                    match ours.read(&mut answer) {
                        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                            runtime::sleep(1).await
                        }
                        read => break read.expect("an answer"),
                    }
                };
                assert!(answer[..count].starts_with(b"HTTP/1.1 200 "), "{}", answer[..count].escape_ascii());
            });
        });
    }
}
