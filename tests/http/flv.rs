//! `flv`: films from a byte on, after a header.

use crate::support::{Client, Daemon, Response, Setup, fetch};

const HEADER: &[u8] = b"FLV\x01\x05\0\0\0\x09\0\0\0\0";

fn film() -> Vec<u8> {
    (0..70_000_u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn start() -> Daemon {
    let conf = "http { types { video/x-flv flv; } server { listen 127.0.0.1:%%PORT_0%%; root %%DIR%%/site;
        location / { flv; } location /inner/ { flv; alias %%DIR%%/site/; if ($arg_x) { set $y 1; }
        location /inner/plain/ { alias %%DIR%%/site/; } } } }";
    Setup::new(conf).file("site/film.flv", film()).start()
}

fn ask(daemon: &Daemon, line: &str, fields: &str) -> Response {
    let request = format!("{line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n");
    fetch(daemon.port(0), &request)
}

#[test]
fn a_film_begins_at_the_wished_byte() {
    let daemon = start();
    for (args, start) in [
        ("?start=100", Some(100)),
        ("?x=1&START=69999", Some(69_999)),
        ("", None),
        ("?start=0", None),
        ("?start=70000", None),
        ("?start=99999999999999999999", None),
        ("?start=-1", None),
        ("?start=1.5", None),
        ("?start=", None),
    ] {
        for path in ["/film.flv", "/inner/film.flv"] {
            let response = ask(&daemon, &format!("GET {path}{args}"), "");
            assert_eq!((response.status, response.header("content-type")), (200, Some("video/x-flv")));
            let expected = match start {
                Some(start) => [HEADER, &film()[start..]].concat(),
                None => film(),
            };
            assert!(response.body == expected, "{path}{args}");
        }
    }
    // an "if" has the location's content, a location inside has its own
    assert_eq!(ask(&daemon, "GET /inner/film.flv?start=69990&x=1", "").body.len(), 23);
    assert_eq!(ask(&daemon, "GET /inner/plain/film.flv?start=69990", "").body.len(), 70_000);
}

#[test]
fn ranges_are_those_of_the_part() {
    let daemon = start();
    let whole = [HEADER, &film()[100..]].concat();
    for (range, start, end) in
        [("0-2", 0, 3), ("5-40", 5, 41), ("13-", 13, whole.len()), ("-3", whole.len() - 3, whole.len())]
    {
        let response = ask(&daemon, "GET /film.flv?start=100", &format!("Range: bytes={range}\r\n"));
        let shown = format!("bytes {start}-{}/{}", end - 1, whole.len());
        assert_eq!((response.status, response.header("content-range")), (206, Some(&*shown)));
        assert!(response.body == whole[start..end], "{range}");
    }
    assert_eq!(ask(&daemon, "POST /film.flv", "Content-Length: 0\r\n").status, 405);
    let mut client = Client::connect(daemon.port(0));
    client.send("HEAD /film.flv?start=100 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response_head().length(), Some(whole.len()));
    assert_eq!(ask(&daemon, "GET /none.flv?start=100", "").status, 404);
}
