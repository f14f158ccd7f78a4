//! `Range` on files: one part, several parts, unsatisfiable ones, and requests for too many.

use crate::support::daemon::is_stand_in;
use crate::support::{Client, Daemon, Response, Setup, fetch};

const CONF: &str = r#"
http {
    types { text/plain txt; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        root %%DIR%%/site;
        location / { }
        location /copied/ { sendfile off; alias %%DIR%%/site/; output_buffers 1 4k; }
        location /three/ { max_ranges 3; alias %%DIR%%/site/; }
        location /none/ { max_ranges 0; alias %%DIR%%/site/; }
        location /page/ { alias %%DIR%%/site/; error_page 416 /small.txt; }
        location /dated/ { alias %%DIR%%/site/; add_header Last-Modified "Mon, 28 Sep 1970 06:00:00 GMT"; }
        location /undated/ { alias %%DIR%%/site/; add_header Last-Modified ""; }
    }
}
"#;

fn big() -> Vec<u8> {
    (0..400_000_u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn start() -> Daemon {
    Setup::new(CONF)
        .file("site/small.txt", "0123456789")
        .file("site/empty.txt", "")
        .file("site/middle.txt", [b'm'; 400])
        .file("site/big.txt", big())
        .start()
}

fn ask(daemon: &Daemon, path: &str, fields: &str) -> Response {
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n");
    fetch(daemon.port(0), &request)
}

/// The parts of a multipart body, as head and bytes.
fn parts(response: &Response) -> Vec<(String, Vec<u8>)> {
    let kind = response.header("content-type").expect("a type");
    let boundary = kind.strip_prefix("multipart/byteranges; boundary=").expect("several parts");
    assert!(boundary.len() == 20 && boundary.bytes().all(|byte| byte.is_ascii_digit()), "{boundary}");
    let mut rest = &response.body[..];
    let (opening, closing) = (format!("\r\n--{boundary}\r\n"), format!("\r\n--{boundary}--\r\n"));
    let mut found = Vec::new();
    while let Some(part) = rest.strip_prefix(opening.as_bytes()) {
        let at = find(part, b"\r\n\r\n").expect("a head");
        let head = String::from_utf8(part[..at].to_vec()).expect("text");
        let body = &part[at + 4..];
        let end = find(body, format!("\r\n--{boundary}").as_bytes()).expect("an end");
        found.push((head, body[..end].to_vec()));
        rest = &body[end..];
    }
    assert_eq!(rest, closing.as_bytes());
    found
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

#[test]
fn one_range_is_a_part_of_the_file() {
    let daemon = start();
    for path in ["/big.txt", "/copied/big.txt"] {
        for (range, start, end) in [
            ("0-0", 0, 1),
            ("5-9", 5, 10),
            ("399999-", 399_999, 400_000),
            ("-70000", 330_000, 400_000),
            ("100-300099", 100, 300_100),
            ("1-999999999", 1, 400_000),
        ] {
            let response = ask(&daemon, path, &format!("Range: bytes={range}\r\n"));
            let shown = format!("bytes {start}-{}/400000", end - 1);
            assert_eq!((response.status, response.header("content-range")), (206, Some(&*shown)), "{path}");
            assert!(response.body == big()[start..end], "{path} {range}");
            assert_eq!(response.header("accept-ranges"), None);
        }
    }
    assert_eq!(ask(&daemon, "/big.txt", "").header("accept-ranges"), Some("bytes"));
}

#[test]
fn several_ranges_are_several_parts() {
    let daemon = start();
    for path in ["/big.txt", "/copied/big.txt"] {
        let response = ask(&daemon, path, "Range: bytes=0-1, 200000-299999,-3,100-101\r\n");
        assert_eq!((response.status, response.header("content-range")), (206, None));
        assert_eq!(response.length(), Some(response.body.len()));
        let all = [(0, 2), (200_000, 300_000), (399_997, 400_000), (100, 102)];
        let parts = parts(&response);
        assert_eq!(parts.len(), all.len());
        for ((head, body), (start, end)) in parts.into_iter().zip(all) {
            let range = format!("Content-Range: bytes {start}-{}/400000", end - 1);
            assert_eq!(head, format!("Content-Type: text/plain\r\n{range}"));
            assert!(body == big()[start..end], "{path} {start}");
        }
    }
    let small = ask(&daemon, "/small.txt", "Range: bytes=1-2,2-3\r\n");
    assert_eq!(parts(&small).iter().map(|(_, body)| &body[..]).collect::<Vec<_>>(), [b"12", b"23"]);
}

#[test]
fn the_connection_goes_on_behind_parts_and_heads() {
    let daemon = start();
    let mut client = Client::connect(daemon.port(0));
    for (path, length) in [("/big.txt", 400_000), ("/small.txt", 10)] {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\nRange: bytes=1-2,4-5\r\n\r\n"));
        assert_eq!(parts(&client.response()).len(), 2);
        // Only GET has ranges (RFC 9110 §14.2).
        for range in ["1-2,4-5", "5000000-"] {
            client.send(format!("HEAD {path} HTTP/1.1\r\nHost: a\r\nRange: bytes={range}\r\n\r\n"));
            let head = client.response_head();
            assert_eq!((head.status, head.length()), (200, Some(length)), "{path} {range}");
        }
    }
    assert_eq!(client.get("/small.txt").text(), "0123456789");
}

#[test]
fn what_cannot_be_had_is_refused_with_a_page() {
    let daemon = start();
    for range in ["10-", "-0", "7-3", "x", "1-2,y", "99999999999999999999-"] {
        let response = ask(&daemon, "/small.txt", &format!("Range: bytes={range}\r\n"));
        assert_eq!((response.status, response.header("content-range")), (416, Some("bytes */10")), "{range}");
        assert!(response.text().contains("416 Requested Range Not Satisfiable"), "{range}");
        assert_eq!((response.header("etag"), response.header("last-modified")), (None, None));
    }
    let response = ask(&daemon, "/page/small.txt", "Range: bytes=10-\r\n");
    assert_eq!((response.status, response.text().as_str()), (416, "0123456789"));
    assert_eq!(response.header("content-range"), Some("bytes */10"));
}

#[test]
fn the_whole_is_sent_where_parts_make_no_sense() {
    let daemon = start();
    for (path, range, length) in [
        ("/empty.txt", "bytes=0-", 0),
        ("/empty.txt", "bytes=-5", 0),
        ("/small.txt", "rows=1-2", 10),
        ("/small.txt", "bytes=", 10),
        ("/small.txt", "bytes=0-7,2-9", 10),
        ("/three/small.txt", "bytes=0-0,1-1,2-2,3-3", 10),
        ("/none/small.txt", "bytes=0-0", 10),
    ] {
        let response = ask(&daemon, path, &format!("Range: {range}\r\n"));
        assert_eq!((response.status, response.body.len()), (200, length), "{path} {range}");
    }
    assert_eq!(ask(&daemon, "/none/small.txt", "").header("accept-ranges"), None);
    assert_eq!(ask(&daemon, "/three/small.txt", "Range: bytes=0-0,1-1,2-2\r\n").status, 206);
}

#[test]
fn a_range_is_of_what_if_range_says() {
    let daemon = start();
    let date = "Mon, 28 Sep 1970 06:00:00 GMT";
    let first = ask(&daemon, "/small.txt", "");
    let (etag, modified) = (first.header("etag").unwrap(), first.header("last-modified").unwrap());
    for (path, validator, expected) in [
        ("/small.txt", etag, 206),
        ("/small.txt", modified, 206),
        ("/small.txt", "\"other\"", 200),
        ("/small.txt", date, 200),
        ("/small.txt", "nonsense", 200),
        ("/dated/small.txt", date, 206),
        ("/dated/small.txt", modified, 200),
        ("/undated/small.txt", date, 200),
        ("/undated/small.txt", "nonsense", 200),
        ("/undated/small.txt", etag, 206),
    ] {
        let fields = format!("Range: bytes=0-1\r\nIf-Range: {validator}\r\n");
        assert_eq!(ask(&daemon, path, &fields).status, expected, "{path} {validator}");
    }
}

#[test]
fn many_small_parts_do_not_make_an_answer_longer_than_the_file() {
    if is_stand_in() {
        return; // nginx sends each of them
    }
    let daemon = start();
    let many = |count: usize| vec!["0-0"; count].join(",");
    let response = ask(&daemon, "/big.txt", &format!("Range: bytes={}\r\n", many(1900)));
    assert_eq!((response.status, parts(&response).len()), (206, 1900), "still shorter");
    assert_eq!(parts(&ask(&daemon, "/middle.txt", &format!("Range: bytes={}\r\n", many(30)))).len(), 30);
    let response = ask(&daemon, "/middle.txt", &format!("Range: bytes={}\r\n", many(40)));
    assert_eq!((response.status, response.body.len()), (200, 400));
}

const CONVERTED: &str = r#"
http {
    types { text/plain txt; }
    default_type text/plain;
    charset_map koi8-r windows-1251 { 41 61; 42 62; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { root %%DIR%%/site; }
        location /recoded/ { alias %%DIR%%/site/; charset windows-1251; source_charset koi8-r; charset_types *; }
        location /passed/ { proxy_pass http://127.0.0.1:%%PORT_0%%/; proxy_force_ranges on; proxy_set_header Range ""; }
        location /stub { add_header Content-Range stub; return 200 0123456789; }
    }
}
"#;

/// A filter that keeps the length, or an upstream: the parts are cut out of the body as it passes.
#[test]
fn several_parts_of_a_body_that_is_no_file() {
    let mut text = big();
    text.iter_mut().for_each(|byte| *byte = *byte % 60 + b'B');
    text[..4].copy_from_slice(b"ABBA");
    let recoded: Vec<u8> =
        text.iter().map(|byte| if b"AB".contains(byte) { byte + 0x20 } else { *byte }).collect();
    let daemon = Setup::new(CONVERTED).file("site/big.txt", &text).start();
    for (path, body) in
        [("/recoded/big.txt", &recoded), ("/passed/big.txt", &text), ("/passed/recoded/big.txt", &recoded)]
    {
        let response = ask(&daemon, path, "Range: bytes=0-3, 5-70000,70001-70001,399990-\r\n");
        assert_eq!((response.status, response.header("content-range")), (206, None), "{path}");
        assert_eq!(response.header("content-length"), Some(&*response.body.len().to_string()), "{path}");
        let bodies: Vec<Vec<u8>> = parts(&response).into_iter().map(|(_, body)| body).collect();
        let expected = [0..4, 5..70_001, 70_001..70_002, 399_990..400_000].map(|range| body[range].to_vec());
        assert!(bodies == expected, "{path}");
        // They cannot be sent before they have come.
        let response = ask(&daemon, path, "Range: bytes=10-19,0-3\r\n");
        assert_eq!((response.status, response.body.len()), (200, body.len()), "{path}");
    }
}

#[test]
fn an_upstreams_content_range_does_not_stay() {
    let daemon = Setup::new(CONVERTED).start();
    for (range, status, expected) in
        [("0-2", 206, Some("bytes 0-2/10")), ("0-2,4-", 206, None), ("1000-", 416, Some("bytes */10"))]
    {
        let response = ask(&daemon, "/passed/stub", &format!("Range: bytes={range}\r\n"));
        assert_eq!((response.status, response.header("content-range")), (status, expected), "{range}");
    }
}
