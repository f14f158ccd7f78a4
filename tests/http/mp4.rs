//! `mp4`: parts of films, played and compared sample by sample; broken files; ranges of parts; the rate.

use std::time::Instant;

use crate::http::toy::{self, Shape};
use crate::support::daemon::is_stand_in;
use crate::support::{Client, Daemon, Response, Setup, fetch, wait_for};

const CONF: &str = r#"
http {
    types { video/mp4 mp4; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        root %%DIR%%/site;
        location / { mp4; }
        location /keys/ { mp4; alias %%DIR%%/site/; mp4_start_key_frame on; }
        location /plain/ { alias %%DIR%%/site/; }
        location /copied/ { mp4; alias %%DIR%%/site/; sendfile off; }
        location /tight/ { mp4; alias %%DIR%%/site/; mp4_max_buffer_size 1k; mp4_buffer_size 1k; }
        location /page/ { mp4; alias %%DIR%%/site/; error_page 416 /front.mp4; }
    }
}
"#;

fn front() -> Shape {
    Shape::default()
}

fn back() -> Shape {
    Shape { is_index_first: false, has_wide_offsets: true, chunk_samples: [7, 40], ..Shape::default() }
}

fn start() -> Daemon {
    let front = toy::movie(&front());
    Setup::new(CONF)
        .file("site/front.mp4", &front)
        .file("site/back.mp4", toy::movie(&back()))
        .file("site/cut.mp4", &front[..front.len() / 9])
        .file("site/text.mp4", "this is no film at all")
        .file("site/folder/index.html", "")
        .start()
}

fn ask(daemon: &Daemon, line: &str, fields: &str) -> Response {
    let request = format!("{line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n");
    fetch(daemon.port(0), &request)
}

fn get(daemon: &Daemon, path: &str) -> Response {
    ask(daemon, &format!("GET {path}"), "")
}

#[test]
fn a_part_is_a_film_of_its_own() {
    let daemon = start();
    for (name, shape) in [("front.mp4", front()), ("back.mp4", back())] {
        for folder in ["", "copied/", "keys/"] {
            for (args, start_ms, end_ms) in [
                ("start=3.21", 3210, None),
                ("start=3.21&end=6", 3210, Some(6000)),
                ("end=4.4", 0, Some(4400)),
                ("START=9.5&x=y&end=100", 9500, Some(100_000)),
            ] {
                let response = get(&daemon, &format!("/{folder}{name}?{args}"));
                assert_eq!((response.status, response.header("content-type")), (200, Some("video/mp4")));
                assert_eq!(response.length(), Some(response.body.len()));
                assert!(response.header("last-modified").is_some() && response.header("etag").is_some());
                let expected = toy::expected(&shape, start_ms, end_ms, folder == "keys/");
                assert!(toy::play(&response.body) == expected, "{folder}{name} {args}");
            }
        }
    }
}

#[test]
fn without_a_part_the_file_is_sent_as_it_is() {
    let daemon = start();
    let (front, back) = (toy::movie(&front()), toy::movie(&self::back()));
    for (path, body) in [
        ("/front.mp4", &front),
        ("/front.mp4?start=0", &front),
        ("/front.mp4?start=x", &front),
        ("/back.mp4", &back),
        ("/plain/back.mp4?start=5", &back),
        ("/tight/front.mp4?start=0", &front),
    ] {
        assert!(get(&daemon, path).body == *body, "{path}");
    }
    // the index comes first, so that a player can begin with the first bytes
    let moved = get(&daemon, "/back.mp4?start=0").body;
    assert!(moved != back && toy::play(&moved) == toy::play(&back));
    assert_eq!(&moved[32..36], b"moov");
}

#[test]
fn ranges_are_those_of_the_part() {
    let daemon = start();
    for path in ["/back.mp4?start=2&end=7", "/copied/back.mp4?start=2&end=7"] {
        let whole = get(&daemon, path);
        assert_eq!(whole.header("accept-ranges"), Some("bytes"));
        let (size, index) =
            (whole.body.len(), whole.body.windows(4).position(|text| text == b"mdat").unwrap() + 4);
        for (range, start, end) in [
            ("0-9".to_string(), 0, 10),
            ("40-".to_string(), 40, size),
            ("-100".to_string(), size - 100, size),
            (format!("{}-{}", index - 20, index + 19), index - 20, index + 20),
            (format!("{}-{}", index, index), index, index + 1),
            (format!("{}-{}", index - 1, index - 1), index - 1, index),
        ] {
            let part = ask(&daemon, &format!("GET {path}"), &format!("Range: bytes={range}\r\n"));
            let shown = format!("bytes {start}-{}/{size}", end - 1);
            assert_eq!((part.status, part.header("content-range")), (206, Some(&*shown)));
            assert!(part.body == whole.body[start..end], "{path} {range}");
        }
        // several ranges of a part are not worth their trouble
        let several = ask(&daemon, &format!("GET {path}"), "Range: bytes=0-1,5-6\r\n");
        assert_eq!((several.status, several.body == whole.body), (200, true));
        let field = format!("Range: bytes={size}-\r\n");
        assert_eq!(ask(&daemon, &format!("GET {path}"), &field).status, 416);
        let etag = format!("If-None-Match: {}\r\n", whole.header("etag").unwrap());
        assert_eq!(ask(&daemon, &format!("GET {path}"), &etag).status, 304);
    }
    let several = ask(&daemon, "GET /front.mp4", "Range: bytes=0-1,5-6\r\n");
    assert_eq!(several.status, 206, "of the file itself");
    if !is_stand_in() {
        let whole = get(&daemon, "/page/back.mp4?start=2");
        let field = format!("Range: bytes={}-\r\n", whole.body.len());
        assert_eq!(ask(&daemon, "GET /page/back.mp4?start=2", &field).status, 416);
    }
}

#[test]
fn a_connection_goes_on_behind_parts_and_heads() {
    let daemon = start();
    let mut client = Client::connect(daemon.port(0));
    let length = get(&daemon, "/back.mp4?start=5").body.len();
    for _ in 0..2 {
        client.send("HEAD /back.mp4?start=5 HTTP/1.1\r\nHost: a\r\n\r\n");
        let head = client.response_head();
        assert_eq!((head.status, head.length()), (200, Some(length)));
        client.send("GET /back.mp4?start=5 HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.response().body.len(), length);
    }
}

#[test]
fn broken_files_and_missing_parts_are_errors_in_the_log() {
    let daemon = start();
    for (path, message) in [
        ("/cut.mp4?start=1", "mp4 atom"),
        ("/text.mp4?start=1", "mp4 atom too large"),
        ("/front.mp4?start=11", "start time exceeds"),
        ("/front.mp4?start=10", "no mp4 trak atoms were found"),
        ("/tight/front.mp4?start=1", "you may want to increase mp4_max_buffer_size"),
    ] {
        let before = daemon.log_count(message);
        assert_eq!(get(&daemon, path).status, 500, "{path}");
        assert_eq!(daemon.log_count(message), before + 1, "{path}");
    }
    assert_eq!(get(&daemon, "/none.mp4?start=1").status, 404);
    assert_eq!(get(&daemon, "/folder?start=1").status, 301);
    assert_eq!(ask(&daemon, "POST /front.mp4?start=1", "Content-Length: 0\r\n").status, 405);
    assert_eq!(get(&daemon, "/text.mp4").body, b"this is no film at all");
}

#[test]
fn a_film_is_sent_as_fast_as_it_is_played() {
    // ten seconds of film; one of them at once, and the others at five times the speed, those of a second at once
    let conf = "http { server { listen 127.0.0.1:%%PORT_0%%; root %%DIR%%; add_header X-Rate $limit_rate;
        location / { mp4; mp4_limit_rate 5; mp4_limit_rate_after 1s; }
        location /usual/ { mp4; mp4_limit_rate on; alias %%DIR%%/; }
        location /set/ { mp4; mp4_limit_rate on; alias %%DIR%%/; set $limit_rate 7m; }
        location /fast/ { mp4; alias %%DIR%%/; } } }";
    let shape = Shape { is_index_first: false, ..front() };
    let daemon = Setup::new(conf).file("film.mp4", toy::movie(&shape)).file("text.mp4", "no film").start();
    for (path, seconds, thousandths) in [
        ("/film.mp4", 10, 5000),
        ("/film.mp4?start=0", 10, 5000),
        ("/usual/film.mp4", 10, 1100),
        ("/usual/film.mp4?start=8", 2, 1100),
        ("/usual/film.mp4?start=3&end=7", 4, 1100),
    ] {
        let began = Instant::now();
        let response = get(&daemon, path);
        assert_eq!(response.status, 200, "{path}");
        let rate = response.body.len() / seconds * thousandths / 1000;
        assert_eq!(response.header("x-rate"), Some(&*rate.to_string()), "{path}");
        if thousandths == 5000 {
            assert!(began.elapsed().as_millis() > 400, "{path}: {:?}", began.elapsed());
        }
    }
    assert_eq!(get(&daemon, "/set/film.mp4").header("x-rate"), Some("7340032"));
    assert_eq!(get(&daemon, "/fast/film.mp4").header("x-rate"), Some("0"));
    assert_eq!(get(&daemon, "/usual/text.mp4").header("x-rate"), Some("0"));
}

#[test]
fn indexes_are_drawn_from_the_budget() {
    if is_stand_in() {
        return;
    }
    let conf = "worker_memory_budget 16k; http { server { listen 127.0.0.1:%%PORT_0%%; root %%DIR%%; location / { mp4; }
        location /drawn { return 200 $memory_drawn; } } }";
    let long = Shape { seconds: 100, ..front() };
    let daemon =
        Setup::new(conf).file("short.mp4", toy::movie(&front())).file("long.mp4", toy::movie(&long)).start();
    assert_eq!(get(&daemon, "/long.mp4?start=1").status, 503);
    daemon.wait_log("a part of .*long.mp4\" with an index of .* bytes is not sent");
    assert_eq!(get(&daemon, "/long.mp4?start=95").status, 200, "its end has a short one");
    assert_eq!(get(&daemon, "/long.mp4").status, 200);
    assert_eq!(get(&daemon, "/short.mp4?start=1").status, 200);
    wait_for("all of it to be given back", || (get(&daemon, "/drawn").text() == "0").then_some(()));
}

#[test]
fn a_rate_must_be_a_number() {
    for value in ["0", "fast", "-1", "1,5", ""] {
        let conf = format!("http {{ mp4_limit_rate \"{value}\"; }}");
        let output = Setup::new(&conf).run(&["-t"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("invalid value of \"mp4_limit_rate\""), "{value}: {said}");
    }
}
