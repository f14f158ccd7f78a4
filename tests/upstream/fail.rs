//! Origins that refuse, hang, or fail: 502, 504, the next server, `max_fails` and `fail_timeout`.

use std::time::{Duration, Instant};

use crate::support::origin::ok;
use crate::support::{Client, Daemon, Origin, Setup, get, port};

const CONF: &str = r#"
http {
    upstream two { server %%CLOSED%% max_fails=2 fail_timeout=1s; server %%GOOD%%; }
    upstream gone { server %%CLOSED%%; }
    upstream bad { server %%BAD%%; server %%GOOD%%; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        proxy_read_timeout 1s;
        location /two { proxy_pass http://two; }
        location /gone { proxy_pass http://gone; }
        location /silent { proxy_pass http://%%SILENT%%; }
        location /bad { proxy_next_upstream error timeout http_503; proxy_pass http://bad; }
        location /bad-off { proxy_next_upstream off; proxy_pass http://bad; }
        location /slow { proxy_pass http://%%SLOW%%; }
    }
}
"#;

struct Scene {
    good: Origin,
    bad: Origin,
    _silent: Origin,
    _slow: Origin,
    closed: u16,
    daemon: Daemon,
}

fn start() -> Scene {
    let good = Origin::saying("good");
    let bad = Origin::replying(|_| b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy".to_vec());
    let silent = Origin::start(|peer| while peer.request().is_some() {});
    let slow = Origin::start(|peer| {
        if peer.request().is_some() {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
            peer.request();
        }
    });
    let closed = port::free();
    let daemon = Setup::new(CONF)
        .set("CLOSED", format!("127.0.0.1:{closed}"))
        .set("GOOD", good.address())
        .set("BAD", bad.address())
        .set("SILENT", silent.address())
        .set("SLOW", slow.address())
        .level("info")
        .start();
    Scene { good, bad, _silent: silent, _slow: slow, closed, daemon }
}

#[test]
fn nobody_there_is_a_502() {
    let scene = start();
    let mut client = Client::connect(scene.daemon.port(0));
    let response = client.get("/gone");
    assert_eq!((response.status, response.reason.as_str()), (502, "Bad Gateway"));
    assert_eq!(client.get("/two").status, 200, "the client's connection goes on");
    let line = scene
        .daemon
        .wait_log("connect\\(\\) failed \\(111: Connection refused\\) while connecting to upstream");
    let upstream = format!("upstream: \"http://127.0.0.1:{}/gone\"", scene.closed);
    assert!(line.contains(&upstream) && line.contains("request: \"GET /gone HTTP/1.1\""), "{line}");
}

#[test]
fn a_silent_origin_is_a_504() {
    let scene = start();
    let began = Instant::now();
    assert_eq!(get(scene.daemon.port(0), "/silent").status, 504);
    assert!(began.elapsed() >= Duration::from_millis(900), "after {:?}", began.elapsed());
    scene.daemon.wait_log("upstream timed out .*while reading response header from upstream");
}

#[test]
fn an_origin_that_stops_in_the_middle_ends_the_answer() {
    let scene = start();
    let mut client = Client::connect(scene.daemon.port(0));
    client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response_head().length(), Some(10));
    let (bytes, _) = client.rest();
    assert!(b"half".starts_with(&bytes), "not more than came");
    scene.daemon.wait_log("upstream timed out .*while reading upstream");
}

#[test]
fn the_next_server_is_asked_and_the_failing_one_rests() {
    let scene = start();
    let mut client = Client::connect(scene.daemon.port(0));
    for _ in 0..12 {
        assert_eq!(client.get("/two").text(), "good");
    }
    assert_eq!(scene.good.requests().len(), 12);
    let refused = || scene.daemon.log_count("connect\\(\\) failed");
    assert_eq!(refused(), 2, "max_fails=2");

    // After fail_timeout it is tried again; now an origin listens there.
    let back = Origin::start_on(scene.closed, |peer| {
        while peer.request().is_some() {
            peer.send(ok(b"back"));
        }
    });
    crate::support::wait_for("the server to be tried again", || {
        (client.get("/two").text() == "back").then_some(())
    });
    assert_eq!(refused(), 2);
    drop(scene);
    drop(back);
}

#[test]
fn a_status_may_send_the_request_to_the_next_server() {
    let scene = start();
    let mut client = Client::connect(scene.daemon.port(0));
    for _ in 0..4 {
        assert_eq!(client.get("/bad").text(), "good");
    }
    assert!(!scene.bad.requests().is_empty(), "the failing one was asked first");

    let scene = start();
    let mut client = Client::connect(scene.daemon.port(0));
    let answers: Vec<u16> = (0..4).map(|_| client.get("/bad-off").status).collect();
    assert_eq!(answers.iter().filter(|&&status| status == 503).count(), 2, "{answers:?}");
}

#[test]
fn a_server_that_fails_more_than_others_is_ejected() {
    let bad = Origin::replying(|_| b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n".to_vec());
    let good = Origin::saying("good");
    let conf = "http {
        upstream mixed {
            zone mixed; server %%BAD%%; server %%GOOD%%;
            outlier_ejection errors=50% requests=5 interval=100ms time=1h;
        }
        server { listen 127.0.0.1:%%PORT_0%%; location / { proxy_pass http://mixed; } }
    }";
    let daemon = Setup::new(conf).set("BAD", bad.address()).set("GOOD", good.address()).start();
    let told = format!("upstream server {} of \"mixed\" is ejected for 3600 s", bad.address());
    crate::support::wait_for("the ejection", || {
        get(daemon.port(0), "/");
        daemon.log().contains(&told).then_some(())
    });
    let before = bad.requests().len();
    assert!((0..20).all(|_| get(daemon.port(0), "/").text() == "good"));
    assert_eq!(bad.requests().len(), before);
}

#[test]
fn a_group_may_fail_open() {
    let closed = port::free();
    let conf = format!(
        "http {{
            upstream open {{ server 127.0.0.1:{closed} fail_timeout=1h; server 127.0.0.1:{closed} fail_timeout=1h; fail_open on; }}
            server {{ listen 127.0.0.1:%%PORT_0%%; location / {{ proxy_pass http://open; }} }}
        }}"
    );
    let daemon = Setup::new(&conf).start();
    assert_eq!(get(daemon.port(0), "/").status, 502);
    let _back = Origin::start_on(closed, |peer| {
        while peer.request().is_some() {
            peer.send(ok(b"back"));
        }
    });
    assert_eq!(get(daemon.port(0), "/").text(), "back", "although both are left out for an hour");
}

#[test]
fn a_peer_that_breaks_its_answers_off_is_left_out() {
    if crate::support::daemon::is_stand_in() {
        return; // nginx does not count it
    }
    // A request whose response was cut off is repeated; one that cannot be decoded is not, without invalid_header.
    let broken = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", 10),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", 10),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nwhat\r\n", 9),
    ];
    for (answer, served) in broken {
        let bad = Origin::start(move |peer| {
            if peer.request().is_some() {
                peer.send_with_end(); // once a response has begun to arrive at the client it is not repeated
                peer.send(answer);
            }
        });
        let good = Origin::saying("good");
        let conf = "http {
            upstream mixed { server %%BAD%% fail_timeout=1h; server %%GOOD%%; }
            server { listen 127.0.0.1:%%PORT_0%%; location / { proxy_pass http://mixed; } }
        }";
        let daemon =
            Setup::new(conf).set("BAD", bad.address()).set("GOOD", good.address()).level("info").start();
        for _ in 0..10 {
            let mut client = Client::connect(daemon.port(0));
            client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            client.rest();
        }
        assert_eq!((bad.requests().len(), good.requests().len()), (1, served), "{answer}");
        daemon.wait_log("upstream server temporarily disabled");
    }
}

const PAIR: &str = "http {
    upstream pair { server %%FIRST%% fail_timeout=1h; server %%SECOND%% fail_timeout=1h; }
    server { listen 127.0.0.1:%%PORT_0%%; location / { proxy_pass http://pair; } }
}";

/// The time that a server in these tests is kept waiting for: longer than a client must be slow for to be blamed itself.
const HELD: Duration = Duration::from_millis(1500);

#[test]
fn a_server_that_does_not_wait_for_a_slow_upload_has_not_failed() {
    let impatient = || {
        Origin::start(|peer| {
            let Some(request) = peer.head() else { return };
            if request.method == "POST" {
                std::thread::sleep(HELD); // and it gives up
            } else {
                peer.send(ok(b"served"));
            }
        })
    };
    let (first, second) = (impatient(), impatient());
    let daemon = Setup::new(PAIR).set("FIRST", first.address()).set("SECOND", second.address()).start();
    let slow = [(); 2].map(|()| {
        let mut client = Client::connect(daemon.port(0));
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n");
        client.send("x".repeat(40_000));
        client
    });
    for mut client in slow {
        assert_eq!(client.response().status, 502);
    }
    assert_eq!([first.requests().len(), second.requests().len()], [1, 1]);
    assert_eq!([(); 2].map(|()| get(daemon.port(0), "/").text()), ["served", "served"]);
}

#[test]
fn a_server_that_does_not_wait_for_a_slow_download_has_not_failed() {
    let impatient = |framing: &'static str| {
        Origin::start(move |peer| {
            let Some(request) = peer.request() else { return };
            if request.target != "/long" {
                peer.send(ok(b"served"));
                return;
            }
            peer.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n"));
            let end = Instant::now() + HELD;
            let piece = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
            peer.stream().set_write_timeout(Some(HELD)).expect("a socket");
            while Instant::now() < end && peer.try_send(piece.as_bytes()).is_ok() {}
        })
    };
    for framing in ["Content-Length: 1000000000", "Transfer-Encoding: chunked"] {
        let (first, second) = (impatient(framing), impatient(framing));
        let daemon = Setup::new(PAIR).set("FIRST", first.address()).set("SECOND", second.address()).start();
        let slow = [(); 2].map(|()| {
            let mut client = Client::connect(daemon.port(0));
            client.send("GET /long HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            client
        });
        first.wait_ended(1);
        second.wait_ended(1);
        slow.into_iter().for_each(|mut client| _ = client.rest());
        daemon.wait_log("prematurely closed");
        assert_eq!([(); 2].map(|()| get(daemon.port(0), "/").text()), ["served", "served"], "{framing}");
    }
}
