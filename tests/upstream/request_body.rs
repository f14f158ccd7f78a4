//! Request bodies before an upstream is chosen: `proxy_request_buffering`, `client_body_in_file_only`,
//! `client_body_buffer_size`, `$request_body_file`. Clients and origins are scripted; the daemon's folder is
//! inspected.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::support::daemon::is_stand_in;
use crate::support::deadline::{deadline, wait_for};
use crate::support::origin::ok;
use crate::support::wire::End;
use crate::support::{Client, Daemon, Origin, Setup, port};

const CONF: &str = r#"
http {
    client_max_body_size 10m;
    client_body_timeout 2s;
    client_body_temp_path bodies 1 2;
    log_format bodies "$status [$request_body_file]";
    access_log logs/bodies.log bodies;
    upstream two { server %%FIRST%%; server %%ORIGIN%%; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        proxy_set_header X-File $request_body_file;
        location /kept { client_body_in_file_only on; proxy_pass http://%%ORIGIN%%; }
        location /clean { client_body_in_file_only clean; proxy_pass http://%%ORIGIN%%; }
        location /file { client_body_in_file_only clean; proxy_pass_request_body off; proxy_pass http://%%ORIGIN%%; }
        location /whole {
            proxy_request_buffering on;
            client_body_buffer_size 2000;
            proxy_next_upstream error timeout http_500;
            add_header X-Body "[$request_body]";
            proxy_pass http://two;
        }
        location /old { proxy_http_version 1.0; client_body_buffer_size 100; proxy_pass http://%%ORIGIN%%; }
        location /streams { proxy_pass http://two; }
        location /plain { proxy_pass http://%%ORIGIN%%; }
        location /stuck { client_max_body_size 100m; proxy_send_timeout 500ms; proxy_pass http://%%ORIGIN%%; }
        location /off { proxy_request_buffering off; proxy_pass http://%%ORIGIN%%; }
    }
}
"#;

fn start(origin: &Origin) -> Daemon {
    start_with(origin, format!("127.0.0.1:{}", port::refusing()))
}

fn start_with(origin: &Origin, first: String) -> Daemon {
    Setup::new(CONF).set("ORIGIN", origin.address()).set("FIRST", first).level("info").start()
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 31 + index / 251) as u8).collect()
}

/// The files below a folder of the daemon, at any depth.
fn files(daemon: &Daemon, folder: &str) -> Vec<PathBuf> {
    let mut open = vec![daemon.path(folder)];
    let mut found = Vec::new();
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).expect("the folder is there") {
            let path = entry.expect("can be listed").path();
            if path.is_dir() { open.push(path) } else { found.push(path) }
        }
    }
    found
}

fn post(client: &mut Client, path: &str, body: &[u8]) -> crate::support::message::Response {
    client.send(format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len()));
    client.send(body);
    client.response()
}

#[test]
fn a_body_in_a_file_stays_or_goes_with_its_request() {
    let seen = std::sync::Arc::new(Mutex::new(Vec::new()));
    let theirs = seen.clone();
    let origin = Origin::replying(move |request| {
        let file = request.header("x-file").unwrap_or_default().to_owned();
        let content = std::fs::read(&file).unwrap_or_default();
        theirs.lock().unwrap().push((file, content));
        ok(&request.body)
    });
    let daemon = start(&origin);
    let mut client = Client::connect(daemon.port(0));
    for length in [1, 5_000, 300_000] {
        let body = pattern(length);
        let before = files(&daemon, "bodies").len();
        assert!(post(&mut client, "/kept", &body).body == body);
        let (file, content) = seen.lock().unwrap().pop().expect("the origin was asked");
        assert!(content == body, "the file is whole before the origin is asked");
        assert_eq!(files(&daemon, "bodies").len(), before + 1);
        let digits = file.rsplit('/').next().unwrap().to_owned();
        let (level1, level2) = (&digits[9..], &digits[7..9]);
        assert!(file.ends_with(&format!("/bodies/{level1}/{level2}/{digits}")), "{file}");

        assert!(post(&mut client, "/clean", &body).body == body);
        let (_, content) = seen.lock().unwrap().pop().expect("the origin was asked");
        assert!(content == body, "an application can read the file while it answers");
        assert!(post(&mut client, "/file", &body).body.is_empty(), "the body itself is not passed");
        let (_, content) = seen.lock().unwrap().pop().expect("the origin was asked");
        assert!(content == body);
        wait_for("the files to go", || (files(&daemon, "bodies").len() == before + 1).then_some(()));
    }
    daemon.wait_line("logs/bodies.log", r"200 \[/.*/bodies/./../.*\]");
    assert!(daemon.complaints("warn|error|crit|alert").is_empty());
}

#[test]
fn a_body_that_is_longer_than_the_buffer_goes_to_a_file() {
    let origin = Origin::replying(|request| ok(&request.body));
    let daemon = start(&origin);
    let mut client = Client::connect(daemon.port(0));
    for (length, in_file) in [(0, false), (1999, false), (2000, false), (2001, true), (70_000, true)] {
        let body = vec![b'x'; length];
        for is_chunked in [false, true] {
            let response = if is_chunked {
                client.send("POST /whole HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
                for piece in body.chunks(700) {
                    client.send(format!("{:x}\r\n", piece.len())).send(piece).send("\r\n");
                }
                client.send("0\r\n\r\n");
                client.response()
            } else {
                post(&mut client, "/whole", &body)
            };
            assert!(response.body == body, "{length} bytes came back changed");
            let request = origin.last();
            assert_eq!(request.length(), Some(length), "the length is known now");
            assert_eq!(request.header("x-file").is_some(), in_file, "{length}");
            let shown = response.header("x-body").unwrap_or_default();
            assert_eq!(
                shown.len(),
                if in_file { 2 } else { length + 2 },
                "$request_body is what is in memory"
            );
        }
    }
    assert_eq!(files(&daemon, "bodies"), Vec::<PathBuf>::new(), "the files have no names");
}

#[test]
fn a_body_that_was_sent_can_be_sent_to_the_next_server() {
    let (seen, heard) = channel();
    let first = Origin::start(move |peer| {
        let request = peer.request().expect("a request");
        seen.send(request.body.len()).unwrap();
        peer.send("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n");
        peer.request();
    });
    let origin = Origin::replying(|request| ok(&request.body));
    let daemon = start_with(&origin, first.address());
    let mut client = Client::connect(daemon.port(0));
    let body = pattern(1_000_000);
    let head = format!("PUT /whole HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
    client.send(head).send(&body[..600_000]);
    assert!(
        heard.recv_timeout(Duration::from_millis(100)).is_err(),
        "nobody is asked before the body is here"
    );
    client.send(&body[600_000..]);
    assert!(client.response().body == body);
    assert_eq!(heard.recv_timeout(deadline()), Ok(body.len()), "the first got all of it too");
    assert_eq!(origin.accepted(), 1);
}

#[test]
fn a_server_of_http_1_0_gets_the_length_of_a_chunked_body() {
    let origin = Origin::start(|peer| {
        let request = peer.request().expect("a request");
        peer.send(ok(format!("{} {}", request.version, request.body.len()).as_bytes()));
    });
    let daemon = start(&origin);
    let mut client = Client::connect(daemon.port(0));
    client.send("POST /old HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send("80\r\n").send([b'x'; 128]).send("\r\n80\r\n").send([b'y'; 128]).send("\r\n0\r\n\r\n");
    assert_eq!(client.response().text(), "HTTP/1.0 256");
}

#[test]
fn a_client_that_leaves_leaves_no_file() {
    let origin = Origin::replying(|request| ok(&request.body));
    let daemon = start(&origin);
    for path in ["/kept", "/clean", "/whole"] {
        let mut client = Client::connect(daemon.port(0));
        client.send(format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n"));
        client.send(pattern(200_000));
        drop(client);
    }
    wait_for("three lines", || (daemon.read("logs/bodies.log").lines().count() == 3).then_some(()));
    assert_eq!(files(&daemon, "bodies"), Vec::<PathBuf>::new());
    assert_eq!(origin.accepted(), 0);
}

#[test]
fn a_body_that_breaks_its_framing_or_grows_too_large_leaves_no_file() {
    let origin = Origin::replying(|request| ok(&request.body));
    let daemon = start(&origin);
    let mut client = Client::connect(daemon.port(0));
    client.send("POST /kept HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send("20000\r\n").send(pattern(0x20000)).send("no end\r\n");
    assert_eq!(client.response().status, 400);
    let body = pattern(0xa0_0001); // before the head is sent: it takes a loaded machine seconds
    let mut client = Client::connect(daemon.port(0));
    client.send("POST /kept HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\na00001\r\n");
    let _ = client.try_send(&body);
    assert_eq!(client.response().status, 413);
    assert_eq!(files(&daemon, "bodies"), Vec::<PathBuf>::new());
    assert_eq!(origin.accepted(), 0);
}

#[test]
fn a_disk_that_takes_no_more_is_a_500_and_the_worker_goes_on() {
    if is_stand_in() {
        return; // nginx's worker would be killed by SIGXFSZ
    }
    let origin = Origin::replying(|request| ok(&request.body));
    let daemon = start(&origin);
    let worker = daemon.worker();
    let limit = Command::new("prlimit").args(["--pid", &worker.to_string(), "--fsize=100000"]).status();
    assert!(limit.expect("util-linux is here").success());
    let mut client = Client::connect(daemon.port(0));
    client.send("POST /kept HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n");
    let _ = client.try_send(&pattern(500_000));
    assert_eq!(client.response().status, 500);
    let line = daemon.wait_log(r"write\(\) .* failed \(27: File too large\)");
    assert!(line.contains("/bodies/") && line.contains("request: \"POST /kept HTTP/1.1\""), "{line}");
    let mut client = Client::connect(daemon.port(0));
    assert_eq!(post(&mut client, "/kept", b"small").text(), "small");
    assert_eq!(daemon.worker(), worker);
    assert_eq!(files(&daemon, "bodies").len(), 1, "only the file of the request that went well");
}

#[test]
fn an_answer_that_comes_before_the_body_was_sent_is_passed_on() {
    let origin = Origin::start(|peer| {
        peer.head().expect("a request");
        peer.send("HTTP/1.1 403 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno");
    });
    let daemon = start(&origin);
    for path in ["/kept", "/off"] {
        let mut client = Client::connect(daemon.port(0));
        client.send(format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 8000000\r\n\r\n"));
        if path == "/kept" {
            client.send(pattern(8_000_000));
        }
        let response = client.response();
        assert_eq!((response.status, response.text().as_str()), (403, "no"), "{path}");
    }
}

#[test]
fn the_client_is_told_to_go_on_before_an_upstream_is_asked_or_by_it() {
    let origin = Origin::replying(|request| ok(&request.body));
    let daemon = start(&origin);
    for path in ["/whole", "/off", "/kept"] {
        let mut client = Client::connect(daemon.port(0));
        client.send(format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
        ));
        assert_eq!(client.response_head().status, 100, "{path}");
        client.send("body");
        assert_eq!(client.response().text(), "body");
        assert_eq!(origin.last().header("expect"), None);
    }
}

#[test]
fn an_unbuffered_body_reaches_the_upstream_piece_by_piece() {
    let origin = Origin::start(|peer| {
        peer.head().expect("a request");
        assert_eq!(peer.exactly(5), b"first");
        peer.send("HTTP/1.1 103 Go\r\n\r\n");
        assert_eq!(peer.exactly(4), b"last");
        peer.send(ok(b"both"));
    });
    let daemon = start(&origin);
    let mut client = Client::connect(daemon.port(0));
    client.send("POST /off HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nfirst");
    origin.wait_requests(1);
    client.send("last");
    assert_eq!(client.response().text(), "both");
    assert_eq!(files(&daemon, "bodies"), Vec::<PathBuf>::new());
}

#[test]
fn a_long_body_streams_whole_and_not_a_byte_more() {
    let origin = Origin::replying(|request| ok(&request.body));
    let daemon = start(&origin);
    let body = pattern(3_000_000);
    for path in ["/off", "/plain"] {
        let mut client = Client::connect(daemon.port(0));
        client.send(format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n"));
        let mut pipelined = body[1_500_000..].to_vec();
        pipelined.extend_from_slice(
            format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nnext").as_bytes(),
        );
        client.send(&body[..700_000]);
        client.send(&body[700_000..1_500_000]).send(&pipelined);
        assert!(client.response().body == body, "{path}: the body came back changed");
        assert_eq!(client.response().text(), "next");
    }
    assert_eq!(files(&daemon, "bodies"), Vec::<PathBuf>::new());
}

#[test]
fn a_body_that_streams_goes_to_the_next_server_while_nothing_of_it_was_sent() {
    let origin = Origin::replying(|request| ok(&request.body));
    let daemon = start(&origin);
    let body = pattern(600_000);
    for is_chunked in [false, true, false, true] {
        let mut client = Client::connect(daemon.port(0));
        let head = if is_chunked { "Transfer-Encoding: chunked" } else { "Content-Length: 600000" };
        client.send(format!("POST /streams HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n"));
        if is_chunked {
            for piece in body.chunks(50_000) {
                client.send(format!("{:x}\r\n", piece.len())).send(piece).send("\r\n");
            }
            client.send("0\r\n\r\n");
        } else {
            client.send(&body);
        }
        let response = client.response();
        assert_eq!(response.status, 200);
        assert!(response.body == body, "the body came back changed");
    }
    daemon.wait_log("connect\\(\\) failed \\(111: Connection refused\\) while connecting to upstream");
}

#[test]
fn a_client_that_leaves_inside_a_long_body_leaves_no_connection() {
    let origin = Origin::start(|peer| {
        peer.head();
        peer.rest();
    });
    let daemon = start(&origin);
    for half_closes in [false, true] {
        let mut client = Client::connect(daemon.port(0));
        client
            .send("POST /off HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000\r\n\r\n")
            .send(pattern(3_000_000));
        if half_closes {
            client.half_close();
            client.rest();
        }
        drop(client);
        origin.wait_ended(1 + usize::from(half_closes));
    }
    wait_for("two lines", || (daemon.read("logs/bodies.log").lines().count() == 2).then_some(()));
}

#[test]
fn an_upstream_that_takes_nothing_of_a_long_body_times_out() {
    let (stop, stopped) = channel::<()>();
    let stopped = Mutex::new(stopped);
    let origin = Origin::start(move |peer| {
        peer.head();
        let _ = stopped.lock().unwrap().recv_timeout(deadline());
    });
    let daemon = start(&origin);
    let mut client = Client::connect(daemon.port(0));
    client.send("POST /stuck HTTP/1.1\r\nHost: a\r\nContent-Length: 90000000\r\n\r\n");
    let mut writer = client.stream().try_clone().expect("a second handle");
    let sending =
        std::thread::spawn(move || std::io::Write::write_all(&mut writer, &vec![b'x'; 90_000_000]).is_ok());
    assert_eq!(client.response().status, 504);
    stop.send(()).unwrap();
    drop(client);
    let _ = sending.join();
}

#[test]
fn a_slow_client_times_out_inside_a_file() {
    let origin = Origin::replying(|request| ok(&request.body));
    let daemon = start(&origin);
    let mut client = Client::connect(daemon.port(0));
    client.send("POST /kept HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n").send(pattern(50_000));
    assert_eq!(client.response().status, 408);
    assert_ne!(client.expect_end(), End::Reset);
    assert_eq!(files(&daemon, "bodies"), Vec::<PathBuf>::new());
}

#[test]
fn a_folder_that_cannot_be_made_stops_the_start_and_is_named() {
    let conf = "http { client_body_temp_path missing/deep; server { listen 127.0.0.1:%%PORT_0%%; } }";
    let exit = Setup::new(conf).try_start().err().expect("no start");
    let expected = "missing/deep\" failed (2: No such file or directory) in ";
    assert!(exit.stderr.contains("mkdir() \"") && exit.stderr.contains(expected), "{}", exit.stderr);
}
