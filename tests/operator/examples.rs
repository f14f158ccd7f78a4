//! `conf/examples/`: each configuration runs, with the test's addresses and folders in it, and does what its
//! comments say. The older ones are in `tests/http/configurations.rs`,
//! those of applications in `tests/applications/sites.rs`.

use crate::http::auth_jwt::{own_keys, sign};
use crate::http::auth_oidc::provider::{Browser, Provider, SECRET};
use crate::http::configurations::{ask, echo, example};
use crate::support::dns::{A, AAAA, NXDOMAIN, SRV};
use crate::support::origin::ok;
use crate::support::tls::{Authority, TlsClient, client_config, trusting};
use crate::support::{Acme, Client, Collector, Daemon, Dns, H3, Origin, Setup, fetch, get, wait_for};

use super::place::shipped;
use crate::http::mmdb::{Item, database};
use crate::http::toy;

/// The names of all tests here and there: an example without a test is not shipped.
const TESTED: &str = "acme balanced behind-proxy cache canary compression container control countries discovery django dns drupal failover \
                      files forward-proxy ftp grpc health-checks http3 images json-log jwt laravel legacy-pages limits mail maintenance media \
                      memcached mqtt nextcloud oidc otel overload phpmyadmin redirects shadow status sticky streams subpath tcp tls-intermediate \
                      tls-internal tls-modern tls-passthrough uploads vhosts webdav websocket wordpress";

#[test]
fn every_example_has_its_test() {
    let folder = std::fs::read_dir(shipped("conf/examples")).expect("it is shipped").flatten();
    let mut names: Vec<String> =
        folder.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    let tested: Vec<String> = TESTED.split_whitespace().map(|name| format!("{name}.conf")).collect();
    assert_eq!(names, tested);
}

fn send(daemon: &Daemon, request: &str) -> crate::support::Response {
    fetch(daemon.port(0), &format!("{request}\r\nConnection: close\r\n\r\n"))
}

#[test]
fn otel() {
    let collector = Collector::start();
    let app = Origin::replying(|request| ok(request.header("traceparent").unwrap_or("-").as_bytes()));
    let changes = [
        ("127.0.0.1:4317;", &*format!("{}; interval 20ms;", collector.address())),
        ("127.0.0.1:3000", &*app.address()),
        ("listen 80;", "listen 127.0.0.1:%%PORT_0%%;"),
    ];
    let daemon = example("otel.conf", &changes).start();
    let trace = "0af7651916cd43dd8448eb211c80319c";
    for (flags, path, is_traced) in [("01", "/a", true), ("01", "/health", false), ("01", "/b", true)] {
        let parent = format!("traceparent: 00-{trace}-b7ad6b7169203331-{flags}");
        let response = send(&daemon, &format!("GET {path} HTTP/1.1\r\nHost: a\r\nAccept: x/y\r\n{parent}"));
        if is_traced {
            let span = collector.wait_spans(if path == "/a" { 1 } else { 2 }).pop().expect("a span");
            assert_eq!(response.text(), format!("00-{trace}-{}-01", span.id));
            assert_eq!(
                (&*span.name, span.text("upstream.address")),
                (&*format!("GET {path}"), &*app.address())
            );
        }
    }
    let sampled =
        (0..200).filter(|_| send(&daemon, "GET /c HTTP/1.1\r\nHost: a").text().ends_with("-01")).count();
    assert!((1..80).contains(&sampled), "about a tenth: {sampled}");
    daemon.wait_line("logs/access.log", &format!("\"GET /a HTTP/1.1\" 200 .* {trace}$"));
    assert!(collector.wait_spans(2 + sampled).iter().all(|span| span.text("http.target") != "/health"));
    assert!(collector.exports()[0].resource.iter().any(|(key, _)| key == "deployment.environment"));
}

#[test]
fn failover() {
    let dying = Origin::start(|peer| {
        peer.request();
    });
    let good = echo("second");
    let changes = [
        ("10.0.0.1:3000", &*dying.address()),
        ("10.0.0.2:3000", &*good.address()),
        ("10.0.0.3:3000", "127.0.0.1:%%PORT_1%%"),
        ("listen 80;", "listen 127.0.0.1:%%PORT_0%%; listen 127.0.0.1:%%PORT_1%%;"),
    ];
    let daemon = example("failover.conf", &changes).start();
    for _ in 0..6 {
        assert_eq!(get(daemon.port(0), "/a").text(), "second /a localhost");
    }
    assert!(dying.accepted() >= 1, "it was asked, and the request went on");
    let port = daemon.port(0);
    let post = fetch(port, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi");
    assert_eq!(post.text(), "second / a");
}

#[test]
fn mail() {
    let server = crate::mail::pop3_server();
    let auth = crate::mail::knowing_me(server.port());
    let authority = Authority::new("ca");
    let pair = authority.issue(&["mail.example.com"]);
    let changes = [
        ("127.0.0.1:9000", &*auth.address()),
        ("/etc/ssl/certs/mail.example.com.pem", "server.crt"),
        ("/etc/ssl/private/mail.example.com.key", "server.key"),
        ("listen 143", "listen 127.0.0.1:%%PORT_0%%"),
        ("listen 993", "listen 127.0.0.1:%%PORT_1%%"),
        ("listen 995", "listen 127.0.0.1:%%PORT_2%%"),
        ("listen 587", "listen 127.0.0.1:%%PORT_3%%"),
    ];
    let setup = example("mail.conf", &changes);
    let daemon = setup.file("server.crt", &pair.certificate).file("server.key", &pair.key).start();
    let mut imap = Client::connect(daemon.port(0));
    imap.send("a CAPABILITY\r\nb LOGIN me secret\r\n");
    let said: Vec<String> = (0..4).map(|_| crate::mail::line(&mut imap)).collect();
    assert_eq!(said[1], "* CAPABILITY IMAP4rev1 UIDPLUS IDLE STARTTLS LOGINDISABLED");
    assert_eq!(said[3], "b BAD invalid command", "not without TLS");
    let mut smtp = Client::connect(daemon.port(3));
    smtp.send("EHLO me\r\n");
    let said: Vec<String> = (0..6).map(|_| crate::mail::line(&mut smtp)).collect();
    assert_eq!((&*said[2], &*said[5]), ("250-SIZE 20971520", "250 STARTTLS"));
    let mut pop3 = TlsClient::connect(daemon.port(2), &trusting(&authority), "mail.example.com");
    pop3.send("USER me\r\nPASS secret\r\n");
    let expected = "+OK POP3 ready\r\n+OK\r\n+OK welcome USER me\r\n";
    assert_eq!(pop3.exactly(expected.len()), expected.as_bytes());
    assert_eq!(auth.last().header("x-auth-key"), Some("change this"));
    let mut imaps = TlsClient::connect(daemon.port(1), &trusting(&authority), "mail.example.com");
    assert_eq!(imaps.exactly(18), b"* OK IMAP4 ready\r\n");
}

#[test]
fn compression() {
    let page = "<p>a page</p>".repeat(200);
    let text = page.clone();
    let application = Origin::replying(move |_| {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n";
        format!("{head}Content-Length: {}\r\n\r\n{text}", text.len()).into_bytes()
    });
    let gzip = |text: &str| {
        let mut out = Vec::new();
        let mut encoder = flate2::read::GzEncoder::new(text.as_bytes(), flate2::Compression::best());
        std::io::Read::read_to_end(&mut encoder, &mut out).expect("memory");
        out
    };
    let object = gzip("an object");
    let store = Origin::replying(move |_| {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Encoding: gzip\r\n";
        [format!("{head}Content-Length: {}\r\n\r\n", object.len()).as_bytes(), &object].concat()
    });
    let changes = [
        ("127.0.0.1:3000", &*application.address()),
        ("127.0.0.1:4000", &*store.address()),
        ("listen 80", "listen 127.0.0.1:%%PORT_0%%"),
    ];
    let setup = example("compression.conf", &changes);
    let setup = setup.file("site/public/assets/app.js", &page).file("site/public/assets/app.js.br", "brotli");
    let daemon = setup.file("site/public/assets/app.js.gz", gzip(&page)).start();
    let ask = |path: &str, accept: &str| {
        let answer =
            send(&daemon, &format!("GET {path} HTTP/1.1\r\nHost: a\r\nVia: a\r\nAccept-Encoding: {accept}"));
        let coding = answer.header("content-encoding").unwrap_or("none").to_owned();
        let text = match &*coding {
            "br" if path == "/" => {
                let mut text = String::new();
                let mut decoder = brotli::Decompressor::new(&answer.body[..], 4096);
                std::io::Read::read_to_string(&mut decoder, &mut text).expect("brotli");
                text
            }
            "gzip" => {
                let mut text = String::new();
                let mut decoder = flate2::read::GzDecoder::new(&answer.body[..]);
                std::io::Read::read_to_string(&mut decoder, &mut text).expect("gzip");
                text
            }
            _ => answer.text(),
        };
        (coding, text, answer.header("vary").is_some())
    };
    let is = |coding: &str, text: &str, varies| (coding.to_owned(), text.to_owned(), varies);
    assert_eq!(ask("/", "gzip, br"), is("br", &page, true));
    assert_eq!(ask("/", "gzip"), is("gzip", &page, true));
    assert_eq!(ask("/", "identity"), is("none", &page, true));
    assert_eq!(ask("/assets/app.js", "gzip, br"), is("br", "brotli", true));
    assert_eq!(ask("/assets/app.js", "gzip"), is("gzip", &page, true));
    assert_eq!(ask("/assets/app.js", "identity"), is("none", &page, true));
    assert_eq!(ask("/account/", "gzip, br"), is("none", &page, false));
    assert_eq!(ask("/objects/1", "identity"), is("none", "an object", true));
    assert_eq!(ask("/objects/1", "gzip"), is("gzip", "an object", true));
}

#[test]
fn discovery() {
    let (application, shop) = (echo("application"), echo("shop"));
    let shop_port = shop.port();
    let dns = Dns::start(move |query| match (&*query.name, query.kind) {
        ("_http._tcp.shop.example.org", SRV) => {
            query.reply(&[query.service(60, [1, 1, shop_port], "a.example.org")])
        }
        ("application.default.svc.cluster.local" | "a.example.org" | "blue.tenants.example.org", A) => {
            query.reply(&[query.a(60, "127.0.0.1")])
        }
        (_, AAAA) => query.reply(&[]),
        _ => query.fail(NXDOMAIN),
    });
    let changes = [
        ("10.96.0.10", &*dns.address()),
        (":8080", &*format!(":{}", application.port())),
        ("listen 80", "listen 127.0.0.1:%%PORT_0%%"),
    ];
    let daemon = example("discovery.conf", &changes).start();
    assert!(get(daemon.port(0), "/").text().starts_with("application /"));
    assert!(get(daemon.port(0), "/shop/").text().starts_with("shop /shop/"));
    assert!(get(daemon.port(0), "/tenant/blue/x").text().starts_with("application /tenant/blue/x"));
    assert_eq!(get(daemon.port(0), "/tenant/red/x").status, 502);
}

#[test]
fn cache() {
    let application = Origin::replying(|request| {
        let film: Vec<u8> = (0..2_500_000_u32).map(|at| (at / 1000) as u8).collect();
        match (&*request.target, request.header("range")) {
            ("/videos/film", Some(range)) => {
                let (first, last) =
                    range.strip_prefix("bytes=").and_then(|range| range.split_once('-')).expect("one");
                let (first, last): (usize, usize) =
                    (first.parse().expect("a number"), last.parse().expect("a number"));
                let part = &film[first..=last.min(film.len() - 1)];
                let head = format!(
                    "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {first}-{}/{}\r\nContent-Length: {}\r\n\r\n",
                    first + part.len() - 1,
                    film.len(),
                    part.len()
                );
                [head.as_bytes(), part].concat()
            }
            _ => ok(format!("{} {}", request.target, request.header("cookie").unwrap_or("-")).as_bytes()),
        }
    });
    let changes = [
        ("127.0.0.1:3000", &*application.address()),
        ("/etc/pronghorn/mime.types", "mime.types"),
        ("/var/cache/pronghorn/shop", "cache"),
        ("listen 80", "listen 127.0.0.1:%%PORT_0%%"),
    ];
    let daemon = example("cache.conf", &changes).start();
    let send = |request: &str| {
        let response = send(&daemon, &format!("{request} HTTP/1.1\r\nHost: shop.example.com"));
        (response.status, response.header("x-cache-status").unwrap_or("-").to_owned(), response.text())
    };
    let page = |status: &str| (200, status.to_owned(), "/a -".to_owned());
    assert_eq!(send("GET /a"), page("MISS"));
    assert_eq!(send("GET /a"), page("HIT"));
    let logged_in = fetch(
        daemon.port(0),
        "GET /a HTTP/1.1\r\nHost: shop.example.com\r\nCookie: session=1\r\nConnection: close\r\n\r\n",
    );
    assert_eq!((logged_in.header("x-cache-status"), &*logged_in.text()), (Some("BYPASS"), "/a session=1"));
    assert_eq!(send("GET /a"), page("HIT"), "that of the visitors");
    assert_eq!(send("PURGE /a").0, 204);
    assert_eq!(send("PURGE /a").0, 404);
    assert_eq!(send("GET /a"), page("MISS"));

    let asked = application.requests().len();
    let end = "GET /videos/film HTTP/1.1\r\nHost: shop.example.com\r\nRange: bytes=2400000-\r\nConnection: close\r\n\r\n";
    for _ in 0..2 {
        let response = fetch(daemon.port(0), end);
        assert_eq!((response.status, response.body.len()), (206, 100_000));
        assert_eq!(application.requests().len(), asked + 1, "the last slice alone, and once");
    }
}

#[test]
fn control() {
    let (first, second) = (echo("first"), echo("second"));
    let changes = [
        ("10.0.0.1:3000", &*first.address()),
        ("10.0.0.2:3000", &*second.address()),
        ("/run/pronghorn.sock", "%%DIR%%/ctl"),
        ("/var/lib/pronghorn/changes", "%%DIR%%/changes"),
        ("/var/lib/pronghorn/closed", "%%DIR%%/closed"),
        ("listen 80", "listen 127.0.0.1:%%PORT_0%%"),
        ("127.0.0.1:8081", "127.0.0.1:%%PORT_1%%"),
    ];
    let daemon = example("control.conf", &changes).start();
    let (code, _, err) = crate::control::ctl(&daemon, &["disable", "application", &first.address()]);
    assert_eq!(code, 0, "{err}");
    wait_for("no worker to ask the first one", || {
        (0..8).all(|_| get(daemon.port(0), "/").text().starts_with("second")).then_some(())
    });
    assert!(get(daemon.port(1), "/api/9/http/upstreams").text().contains(&first.address()));
    assert!(daemon.read("changes").contains("down"));
    let closed = |expected: u16| {
        wait_for("both workers to know the key", || {
            (0..8).all(|_| get(daemon.port(0), "/").status == expected).then_some(())
        });
    };
    assert_eq!(crate::control::ctl(&daemon, &["keyval", "set", "closed", "localhost", "yes"]).0, 0);
    closed(503);
    assert_eq!(crate::control::ctl(&daemon, &["keyval", "remove", "closed", "localhost"]).0, 0);
    closed(200);
    assert!(get(daemon.port(1), "/api/9/http/server_zones/site").text().contains("\"503\""));
}

#[test]
fn overload() {
    let broken = Origin::start(|peer| {
        while let Some(request) = peer.request() {
            // Searches get no answer, all else a bad one.
            if !request.target.starts_with("/search/") {
                peer.send("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n");
            }
        }
    });
    let (good, other) = (echo("good"), echo("good"));
    let changes = [
        ("10.0.0.1:3000", &*broken.address()),
        ("10.0.0.2:3000", &*good.address()),
        ("10.0.0.3:3000", &*other.address()),
        // A loaded machine makes any server slow for a moment.
        ("errors=20% latency=3 requests=20 interval=10s", "errors=20% requests=2 interval=100ms"),
        ("listen 80", "listen 127.0.0.1:%%PORT_0%%"),
    ];
    let daemon = example("overload.conf", &changes).start();
    for _ in 0..3 {
        assert_eq!(get(daemon.port(0), "/search/a").text(), "good /search/a localhost");
    }
    assert!(broken.accepted() >= 1, "it was asked");
    let ejected = format!("upstream server {} of \"application\" is ejected for 30 s", broken.address());
    wait_for("the ejection", || {
        get(daemon.port(0), "/a");
        daemon.log().contains(&ejected).then_some(())
    });
    assert!((0..6).all(|_| get(daemon.port(0), "/a").text() == "good /a localhost"));
}

#[test]
fn health_checks() {
    let says = |text: &'static str| {
        Origin::replying(move |_| {
            format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{text}",
                text.len()
            )
            .into_bytes()
        })
    };
    let (ready, busy, api) = (says("ready"), says("busy"), echo("api"));
    let redis = |answer: &'static str| {
        Origin::start(move |peer| {
            if peer.try_exactly(6).is_some_and(|question| question == b"PING\r\n") {
                let _ = peer.try_send(answer.as_bytes());
            }
        })
    };
    let (loading, loaded) =
        (redis("-LOADING Redis is loading the dataset in memory\r\n"), redis("+PONG\r\n"));
    let changes = [
        ("10.0.0.1:3000", &*ready.address()),
        ("10.0.0.2:3000", &*busy.address()),
        ("10.0.0.3:3000", "127.0.0.1:1"),
        ("10.0.1.1:5000", &*api.address()),
        ("10.0.1.2:5000", "127.0.0.1:1"),
        ("10.0.2.1:6379", &*loading.address()),
        ("10.0.2.2:6379", &*loaded.address()),
        ("listen 80", "listen 127.0.0.1:%%PORT_0%%"),
        ("listen 6379", "listen 127.0.0.1:%%PORT_1%%"),
    ];
    let daemon = example("health-checks.conf", &changes).start();
    busy.wait_requests(1);
    wait_for("the results of the first checks", || {
        let is_ready = (0..6).all(|_| get(daemon.port(0), "/").text() == "ready");
        is_ready.then_some(())
    });
    assert!(ready.requests().iter().any(|request| request.target == "/health"));
    let asked = || busy.requests().iter().filter(|request| request.target != "/health").count();
    let before = asked();
    assert!((0..6).all(|_| get(daemon.port(0), "/").text() == "ready"));
    assert_eq!(asked(), before, "it has failed its first check");
    wait_for("the other group", || get(daemon.port(0), "/api/").text().starts_with("api").then_some(()));
    assert!(get(daemon.port(0), "/reports/").text().starts_with("api /reports/"));
    wait_for("the server that has loaded its data", || {
        let mut client = Client::connect(daemon.port(1));
        client.send("PING\r\n");
        (client.some(64) == b"+PONG\r\n").then_some(())
    });
}

#[test]
fn streams() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let origin = Origin::start(move |peer| {
        let wait = wait.lock().expect("not poisoned");
        while let Some(request) = peer.head() {
            if request.target.starts_with("/v1/") {
                // The response begins before the question is complete.
                assert_eq!(peer.exactly(5), b"2\r\nhe");
            }
            peer.send(
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
            );
            for _ in 0..3 {
                peer.send("9\r\ndata: x\n\n\r\n");
                let _ = wait.recv_timeout(crate::support::deadline());
            }
            peer.send("0\r\n\r\n");
            if request.target.starts_with("/v1/") {
                return;
            }
        }
    });
    let changes = [("127.0.0.1:3000", &*origin.address()), ("listen 80", "listen 127.0.0.1:%%PORT_0%%")];
    let daemon = example("streams.conf", &changes).start();
    let mut client = Client::connect(daemon.port(0));
    client.send("GET /events HTTP/1.1\r\nHost: a\r\n\r\n");
    client.response_head();
    for _ in 0..3 {
        // Each event arrives before the next is written, and before the end.
        assert_eq!(client.exactly(14), b"9\r\ndata: x\n\n\r\n");
        go.send(()).expect("the origin waits");
    }
    assert_eq!(client.exactly(5), b"0\r\n\r\n");
    let mut client = Client::connect(daemon.port(0));
    client.send("POST /v1/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n");
    client.response_head();
    for _ in 0..3 {
        assert_eq!(client.exactly(14), b"9\r\ndata: x\n\n\r\n");
        go.send(()).expect("the origin waits");
    }
    assert_eq!(
        client.exactly(5),
        b"0\r\n\r\n",
        "all of it: a client that left would end the origin's script"
    );
}

#[test]
fn dns() {
    let knowing = |ip: &str| Dns::knowing(&[("example.com", ip)]);
    let (one, other) = (knowing("192.0.2.1"), knowing("192.0.2.2"));
    let changes = [
        ("10.0.0.53:53", &*one.address()),
        ("10.0.0.54:53", &*other.address()),
        ("listen 53 udp", "listen 127.0.0.1:%%PORT_0%% udp"),
        ("listen 53;", "listen 127.0.0.1:%%PORT_0%%;"),
    ];
    let daemon = example("dns.conf", &changes).start();
    // A question for the address of example.com (RFC 1035 §4).
    let question = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03com\x00\x00\x01\x00\x01";
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(std::time::Duration::from_secs(10))).expect("a timeout");
    for _ in 0..4 {
        socket.send_to(question, ("127.0.0.1", daemon.port(0))).expect("sent");
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).expect("an answer");
        assert!(buffer[..length].starts_with(b"\x12\x34"));
    }
    assert_eq!((one.queries().len(), other.queries().len()), (2, 2), "they take turns");
    let mut client = Client::connect(daemon.port(0));
    client.send([&(question.len() as u16).to_be_bytes()[..], question].concat());
    let length = client.exactly(2);
    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
    assert!(client.exactly(length).starts_with(b"\x12\x34"));
    drop(client);
    daemon.wait_line("logs/questions.log", r"UDP 200 \d+ \d+ \d\.\d+ ");
    daemon.wait_line("logs/questions.log", r"TCP 200 \d+ \d+ \d\.\d+ ");
}

#[test]
fn tcp() {
    let talk = |name: &'static str| {
        Origin::start(move |peer| {
            peer.send(name);
            peer.rest();
        })
    };
    let (standby, mail) =
        (talk("standby"), Origin::start(|peer| assert!(peer.line().starts_with(b"PROXY TCP4 "))));
    let (one, other) = (talk("game one"), talk("game two"));
    let changes = [
        ("10.0.0.1:5432", "127.0.0.1:1"),
        ("10.0.0.2:5432", &*standby.address()),
        ("10.0.0.11:7777", &*one.address()),
        ("10.0.0.12:7777", &*other.address()),
        ("10.0.0.21:25", &*mail.address()),
        ("10.0.0.0/8", "127.0.0.0/8"),
        ("listen 5432", "listen 127.0.0.1:%%PORT_0%%"),
        ("listen 25", "listen 127.0.0.1:%%PORT_1%%"),
        ("listen 7777", "listen 127.0.0.1:%%PORT_2%%"),
    ];
    let daemon = example("tcp.conf", &changes).start();
    let greeting = |port| String::from_utf8(Client::connect(port).some(16)).expect("text");
    assert_eq!(greeting(daemon.port(0)), "standby");
    let first = greeting(daemon.port(2));
    assert!((0..5).all(|_| greeting(daemon.port(2)) == first), "a client comes back to its server");
    Client::connect(daemon.port(1)).expect_end();
    daemon.wait_line("logs/sessions.log", r"TCP 200 \d+ 0 \d\.\d+ ");
}

#[test]
fn mqtt() {
    let broker = |name: &'static str| {
        Origin::start(move |peer| {
            let head = peer.exactly(2);
            peer.exactly(usize::from(head[1]));
            peer.send(name);
            peer.rest();
        })
    };
    let (one, other) = (broker("one"), broker("two"));
    let authority = Authority::new("ca");
    let own = authority.issue(&["mqtt.example.com"]);
    let changes = [
        ("10.0.0.1:1883", &*one.address()),
        ("10.0.0.2:1883", &*other.address()),
        ("10.0.0.0/8", "127.0.0.0/8"),
        ("listen 8883", "listen 127.0.0.1:%%PORT_0%%"),
        ("listen 1883", "listen 127.0.0.1:%%PORT_1%%"),
    ];
    let daemon = example("mqtt.conf", &changes)
        .file("mqtt.example.com.crt", &own.certificate)
        .file("mqtt.example.com.key", &own.key)
        .start();
    // CONNECT of MQTT 3.1.1 without user and password (§3.1).
    let connect = |id: &str| {
        let body = [&b"\0\x04MQTT\x04\x02\0\x3c\0"[..], &[id.len() as u8], id.as_bytes()].concat();
        [&[0x10, body.len() as u8][..], &body].concat()
    };
    let config = trusting(&authority);
    let mut brokers = std::collections::HashSet::new();
    for device in 0..20 {
        let id = format!("device-{device}");
        let mut plain = Client::connect(daemon.port(1));
        let broker = plain.send(connect(&id)).exactly(3);
        let mut secret = TlsClient::connect(daemon.port(0), &config, "mqtt.example.com");
        let again = secret.send(connect(&id)).some().expect("an answer");
        assert_eq!(broker, again, "{id} comes back to its broker");
        brokers.insert(broker);
    }
    assert_eq!(brokers.len(), 2);
    daemon.wait_line("logs/devices.log", "TCP 200 \"device-7\" ");
}

#[test]
fn ftp() {
    let origin = Origin::start(|peer| {
        peer.send("220 ready\r\n");
        assert_eq!(peer.line(), b"USER me");
        peer.send("331 password\r\n");
        assert_eq!(peer.line(), b"PASV");
        peer.send("227 (10,0,0,1,19,136)\r\n");
        assert_eq!(peer.line(), b"QUIT");
        peer.send("221 bye\r\n");
    });
    let own = Authority::new("ca").issue(&["ftp.example.com"]);
    let changes = [
        ("server 10.0.0.1:21;", &*format!("server {};", origin.address())),
        ("server 10.0.0.2:21;", ""),
        ("listen 21", "listen 127.0.0.1:%%PORT_0%%"),
    ];
    let daemon = example("ftp.conf", &changes)
        .file("ftp.example.com.crt", &own.certificate)
        .file("ftp.example.com.key", &own.key)
        .start();
    let mut client = Client::connect(daemon.port(0));
    let mut ask = |line: &str| {
        client.send(line);
        String::from_utf8(client.line()).expect("text")
    };
    assert_eq!((ask(""), ask("USER me\r\n")), ("220 ready".into(), "331 password".into()));
    let told = ask("PASV\r\n");
    let port = told.split([',', ')']).rev().nth(2).expect("two numbers");
    // 40000 is 156 times 256.
    assert!(told.starts_with("227 ") && (156..=160).contains(&port.parse().expect("a number")), "{told}");
    assert_eq!(ask("QUIT\r\n"), "221 bye");
    daemon.wait_line("logs/ftp.log", " 200 \"me\" 0 ");
}

#[test]
fn tls_passthrough() {
    let authority = Authority::new("ca");
    let [www, mail, own] =
        ["www.example.com", "mail.example.com", "redis.example.com"].map(|name| authority.issue(&[name]));
    let text = "stream {
        server { listen 127.0.0.1:%%PORT_0%% ssl proxy_protocol; ssl_certificate a.crt; ssl_certificate_key a.key; return www; }
        server { listen 127.0.0.1:%%PORT_1%% ssl proxy_protocol; ssl_certificate b.crt; ssl_certificate_key b.key; return mail; }
        server { listen 127.0.0.1:%%PORT_2%%; return redis; }
    }";
    let inner = Setup::new(text)
        .file("a.crt", &www.certificate)
        .file("a.key", &www.key)
        .file("b.crt", &mail.certificate)
        .file("b.key", &mail.key)
        .start();
    let changes = [
        ("10.0.0.1:443", &*format!("127.0.0.1:{}", inner.port(0))),
        ("10.0.0.2:443", &*format!("127.0.0.1:{}", inner.port(1))),
        ("127.0.0.1:6379", &*format!("127.0.0.1:{}", inner.port(2))),
        ("listen 443", "listen 127.0.0.1:%%PORT_0%%"),
        ("listen 6380", "listen 127.0.0.1:%%PORT_1%%"),
    ];
    let daemon = example("tls-passthrough.conf", &changes)
        .file("redis.example.com.crt", &own.certificate)
        .file("redis.example.com.key", &own.key)
        .start();
    let config = trusting(&authority);
    let ask = |port, name| TlsClient::connect(port, &config, name).rest();
    assert_eq!(ask(daemon.port(0), "www.example.com"), b"www");
    assert_eq!(ask(daemon.port(0), "mail.example.com"), b"mail");
    assert_eq!(ask(daemon.port(1), "redis.example.com"), b"redis");
}

#[test]
fn uploads() {
    let origin = Origin::start(|peer| {
        while let Some(request) = peer.head() {
            let length = request.length().expect("a length");
            if request.target.starts_with("/upload/") {
                assert_eq!(peer.exactly(4), b"1234");
                peer.send(ok(b"has begun"));
                return;
            }
            let body = peer.exactly(length);
            peer.send(ok(format!("{} of {}", body.len(), request.target).as_bytes()));
        }
    });
    let changes = [
        ("127.0.0.1:3000", &*origin.address()),
        ("listen 80", "listen 127.0.0.1:%%PORT_0%%"),
        ("uploads_temp", "%%DIR%%/uploads_temp"),
    ];
    let daemon = example("uploads.conf", &changes).start();
    let length = 2 * 1024 * 1024;
    let post = |path: &str| format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
    let mut client = Client::connect(daemon.port(0));
    client.send(post("/upload/film"));
    client.send("1234");
    assert_eq!(client.response().text(), "has begun", "the application has it already");
    let mut client = Client::connect(daemon.port(0));
    client.send(post("/forms/large"));
    client.send(vec![b'x'; length]);
    assert_eq!(client.response().text(), format!("{length} of /forms/large"));
    let mut client = Client::connect(daemon.port(0));
    client.send(post("/elsewhere"));
    assert_eq!(client.response().status, 413);
}

#[test]
fn webdav() {
    let changes = [
        ("listen 80", "listen 127.0.0.1:%%PORT_0%%"),
        ("site/uploads", "%%DIR%%/uploads"),
        ("site/files", "%%DIR%%/files"),
        ("passwords", "%%DIR%%/passwords"),
    ];
    let daemon = example("webdav.conf", &changes).file("passwords", "me:{PLAIN}secret\n").start();
    let put = |fields: &str| {
        let head = "PUT /a/b/file HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 4";
        fetch(daemon.port(0), &format!("{head}{fields}\r\n\r\ntext")).status
    };
    let password = "\r\nAuthorization: Basic bWU6c2VjcmV0";
    assert_eq!((put(""), put(password)), (401, 201));
    assert_eq!(get(daemon.port(0), "/a/b/file").text(), "text");
    let delete = |path: &str| send(&daemon, &format!("DELETE {path} HTTP/1.1\r\nHost: a{password}")).status;
    assert_eq!((delete("/a/"), delete("/a/b/")), (409, 204));
}

#[test]
fn maintenance() {
    let origin = echo("application");
    let changes = [
        ("127.0.0.1:3000", &*origin.address()),
        ("listen 80", "listen 127.0.0.1:%%PORT_0%%"),
        ("root maintenance", "root %%DIR%%/maintenance"),
        ("-f maintenance/on", "-f %%DIR%%/maintenance/on"),
    ];
    let daemon = example("maintenance.conf", &changes).file("maintenance/page.html", "<p>Soon</p>\n").start();
    assert_eq!(get(daemon.port(0), "/x").text(), "application /x localhost");
    daemon.write("maintenance/on", "");
    let closed = get(daemon.port(0), "/x");
    assert_eq!((closed.status, closed.text().as_str()), (503, "<p>Soon</p>\n"));
    assert_eq!(
        (closed.header("retry-after"), closed.header("content-type")),
        (Some("600"), Some("text/html"))
    );
    let preview = send(&daemon, "GET /x HTTP/1.1\r\nHost: a\r\nX-Preview: secret");
    assert_eq!(preview.text(), "application /x a");
    assert_eq!(get(daemon.port(0), "/health").text(), "ok\n");
    std::fs::remove_file(daemon.path("maintenance/on")).expect("it is ours");
    assert_eq!(get(daemon.port(0), "/x").status, 200);
}

#[test]
fn json_log() {
    let origin = echo("application");
    let changes = [
        ("127.0.0.1:3000", &*origin.address()),
        ("listen 80", "listen 127.0.0.1:%%PORT_0%%"),
        ("logs/access.json", "%%DIR%%/logs/access.json"),
    ];
    let daemon = example("json-log.conf", &changes).start();
    assert_eq!(get(daemon.port(0), "/health").status, 204);
    let sent = "GET /a?b=\"c\" HTTP/1.1\r\nHost: a\r\nUser-Agent: a \"quoted\" \\ agent";
    assert_eq!(send(&daemon, sent).status, 200);
    let line = daemon.wait_line("logs/access.json", "^\\{.*\\}$");
    let parsed: serde_json::Value =
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
    assert_eq!(parsed["uri"], "/a?b=\"c\"");
    assert_eq!(parsed["agent"], "a \"quoted\" \\ agent");
    assert_eq!((&parsed["status"], &parsed["upstream_status"]), (&200.into(), &"200".into()));
    assert_eq!(parsed["upstream"], origin.address());
    for name in ["seconds", "connection", "connection_requests", "request_bytes", "response_bytes"] {
        assert!(parsed[name].is_number(), "{name}: {line}");
    }
    assert_eq!(parsed["ended"], "ok");
    for name in ["upstream_connect_seconds", "upstream_header_seconds", "upstream_seconds"] {
        assert!(parsed[name].as_str().is_some_and(|text| text.parse::<f64>().is_ok()), "{name}: {line}");
    }
    assert_eq!(origin.last().header("x-request-id"), parsed["id"].as_str());
    assert!(!daemon.read("logs/access.json").contains("/health"));
}

#[test]
fn canary() {
    let (stable, canary) = (echo("stable"), echo("canary"));
    let changes = [
        ("127.0.0.1:3000", &*stable.address()),
        ("127.0.0.1:4000", &*canary.address()),
        ("listen 80", "listen 127.0.0.1:%%PORT_0%%"),
    ];
    let daemon = example("canary.conf", &changes).start();
    for (field, version) in [
        ("X-Version: canary", "canary"),
        ("X-Version: stable", "stable"),
        ("Cookie: a=b; version=canary", "canary"),
        ("Cookie: version=stable", "stable"),
        ("Cookie: version=canary\r\nX-Version: stable", "stable"),
    ] {
        let answer = send(&daemon, &format!("GET / HTTP/1.1\r\nHost: a\r\n{field}"));
        assert_eq!(answer.header("x-version"), Some(version), "{field}");
        assert!(answer.text().starts_with(version), "{field}");
        assert_eq!(answer.header("set-cookie"), Some(&*format!("version={version}; Path=/; Max-Age=86400")));
    }
    // Without a choice the address decides, always in the same way.
    let mut client = Client::connect(daemon.port(0));
    let mut versions: Vec<String> = (0..20)
        .map(|_| client.get("/").header("x-version").map(str::to_owned))
        .map(|version| version.expect("each answer says"))
        .collect();
    versions.dedup();
    assert!(versions == ["stable"] || versions == ["canary"], "{versions:?}");
    // If all clients get it, so does this one.
    daemon.rewrite(|text| text.replace("5% canary;", "99.99% canary;"));
    daemon.reload();
    assert_eq!(get(daemon.port(0), "/").header("x-version"), Some("canary"));
}

#[test]
fn redirects() {
    let origin = echo("application");
    let changes = [
        ("127.0.0.1:3000", &*origin.address()),
        ("listen      80;", "listen 127.0.0.1:%%PORT_0%%;"),
        ("listen      80 default_server", "listen 127.0.0.1:%%PORT_0%% default_server"),
    ];
    let daemon = example("redirects.conf", &changes).start();
    for (host, path, status, target) in [
        ("former.example", "/a/b?c=d", 308, "https://www.example.com/a/b?c=d"),
        ("example.com", "/x", 301, "http://www.example.com/x"),
        ("www.example.com", "/old/about.html", 301, "/about"),
        ("www.example.com", "/blog/12/hello?x=1", 301, "/articles/12-hello?x=1"),
        ("www.example.com", "/docs/a/b", 301, "https://docs.example.com/a/b"),
    ] {
        let answer = ask(&daemon, host, path);
        let location = answer.header("location").expect("it names a place");
        assert_eq!(answer.status, status, "{host}{path}");
        let is_it = if target.starts_with('/') { location.ends_with(target) } else { location == target };
        assert!(is_it, "{host}{path} to {location}");
    }
    assert_eq!(ask(&daemon, "www.example.com", "/new").text(), "application /new www.example.com");
}

#[test]
fn status() {
    let is_ill = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let theirs = is_ill.clone();
    let origin = Origin::replying(move |request| match request.target.as_str() {
        "/health" if theirs.load(std::sync::atomic::Ordering::Relaxed) => {
            b"HTTP/1.1 500 Ill\r\nContent-Length: 7\r\n\r\nsecrets".to_vec()
        }
        _ => ok(b"fine"),
    });
    let changes = [
        ("127.0.0.1:3000", &*origin.address()),
        ("listen 80", "listen 127.0.0.1:%%PORT_0%%"),
        ("127.0.0.1:8081", "127.0.0.1:%%PORT_1%%"),
    ];
    let daemon = example("status.conf", &changes).start();
    assert_eq!(get(daemon.port(0), "/").text(), "fine");
    assert_eq!(get(daemon.port(1), "/alive").text(), "alive\n");
    assert_eq!(get(daemon.port(1), "/ready").status, 200);
    is_ill.store(true, std::sync::atomic::Ordering::Relaxed);
    let ready = get(daemon.port(1), "/ready");
    assert_eq!(ready.status, 503);
    assert!(!ready.text().contains("secrets"), "{}", ready.text());
    assert!(get(daemon.port(1), "/status").text().starts_with("Active connections: "));
    wait_for("the first request's line", || daemon.read("logs/access.log").contains("GET / ").then_some(()));
    assert!(!daemon.read("logs/access.log").contains("/alive"));
}

#[test]
fn behind_proxy() {
    let origin = echo("application");
    let changes = [
        ("127.0.0.1:3000", &*origin.address()),
        ("listen         80 proxy_protocol", "listen 127.0.0.1:%%PORT_0%% proxy_protocol"),
        ("listen            8080", "listen 127.0.0.1:%%PORT_1%%"),
    ];
    let daemon = example("behind-proxy.conf", &changes).start();
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n";
    let protocol = "PROXY TCP4 203.0.113.7 192.0.2.1 40000 80\r\n";
    assert_eq!(fetch(daemon.port(0), &format!("{protocol}{request}\r\n")).status, 200);
    assert_eq!(origin.last().header("x-real-ip"), Some("203.0.113.7"));
    daemon.wait_line("logs/access.log", "^203.0.113.7 via 127.0.0.1 ");
    let mut plain = Client::connect(daemon.port(0));
    plain.send(format!("{request}\r\n"));
    assert_eq!(plain.head_or_end(), None, "who does not say so is not served there");
    // Addresses that the client itself has written before those of the trusted proxies are not believed.
    let forwarded = "X-Forwarded-For: 1.1.1.1, 203.0.113.9, 10.1.1.1\r\nX-Forwarded-Proto: https\r\n";
    assert_eq!(fetch(daemon.port(1), &format!("{request}{forwarded}\r\n")).status, 200);
    let last = origin.last();
    assert_eq!(
        (last.header("x-real-ip"), last.header("x-forwarded-proto")),
        (Some("203.0.113.9"), Some("https"))
    );
}

#[test]
fn countries() {
    let about = |continent, country| {
        let code = |name, code| Item::Map(vec![(name, Item::Text(code))]);
        Item::Map(vec![("continent", code("code", continent)), ("country", code("iso_code", country))])
    };
    let networks = [("10.1.0.0", 16, about("NA", "US")), ("10.2.0.0", 16, about("AS", "XX"))];
    let changes = [
        ("listen 80", "listen 127.0.0.1:%%PORT_0%%"),
        ("10.0.0.0/8", "127.0.0.1"),
        ("GeoLite2", "%%DIR%%/GeoLite2"),
    ];
    let daemon =
        example("countries.conf", &changes).file("GeoLite2-Country.mmdb", database(24, &networks)).start();
    for (client, status, location) in [
        ("10.1.2.3", 302, Some("https://shop-NA.example.com/a?b")),
        ("10.2.2.3", 451, None),
        ("192.0.2.1", 302, Some("https://shop-EU.example.com/a?b")),
    ] {
        let answer = send(&daemon, &format!("GET /a?b HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {client}"));
        assert_eq!((answer.status, answer.header("location")), (status, location), "{client}");
    }
}

#[test]
fn oidc() {
    let provider = Provider::start();
    let issuer = provider.state().issuer.clone();
    let application = Origin::replying(|request| {
        let [user, mail, admin] =
            ["x-user", "x-mail", "x-admin"].map(|name| request.header(name).unwrap_or("-"));
        ok(format!("{user} {mail} {admin}").as_bytes())
    });
    let authority = Authority::new("test");
    let pair = authority.issue(&["app.example.com"]);
    let secret = format!("client_secret \"{SECRET}\";");
    let changes = [
        ("listen 80;", "listen 127.0.0.1:%%PORT_0%%;"),
        ("listen 443 ssl;", "listen 127.0.0.1:%%PORT_1%% ssl;"),
        ("/etc/ssl/", ""),
        ("10.0.0.1:3000", &*application.address()),
        ("https://login.example.com/realms/main", &*issuer),
        ("client_id     app;", "client_id me;"),
        ("client_secret change-me;", &*secret),
    ];
    let daemon =
        example("oidc.conf", &changes).file("app.pem", &pair.certificate).file("app.key", &pair.key).start();
    provider.state().replace =
        vec![("\"roles\"".into(), "\"email\":\"j@x\",\"groups\":[\"a\",\"admins\"],\"r\"".into())];
    let get = |target: &str, cookies: &str| {
        let mut client = TlsClient::connect(daemon.port(1), &trusting(&authority), "app.example.com");
        client.send(format!(
            "GET {target} HTTP/1.1\r\nHost: app.example.com\r\nX-User: root\r\nCookie: {cookies}\r\n\r\n"
        ));
        client.response()
    };
    let cookie = |response: &crate::support::Response| {
        let line = response.header("set-cookie").expect("a cookie").to_owned();
        assert!(line.ends_with("; Path=/; HttpOnly; SameSite=Lax; Secure"), "{line}");
        line.split(';').next().expect("a pair").to_owned()
    };
    let first = get("/a?b", "");
    assert_eq!(first.status, 302, "{}", daemon.log());
    let (login, url) = (cookie(&first), first.header("location").expect("to the provider").to_owned());
    let back = Browser::default().ask(provider.port(), url.strip_prefix(&issuer).expect("its login"));
    let back = back.header("location").expect("back").to_owned();
    let returned = get(back.strip_prefix("https://app.example.com").expect("the application"), &login);
    assert_eq!((returned.status, returned.header("location")), (302, Some("/a?b")), "{}", daemon.log());
    let session = cookie(&returned);
    assert_eq!(get("/a?b", &session).text(), "joe j@x 1");
    assert_eq!(get("/health", "").status, 204);
    let out = get("/logout", &session);
    let url = out.header("location").expect("to the provider").to_owned();
    assert!(url.contains("post_logout_redirect_uri=https%3A%2F%2Fapp.example.com%2Fbye"), "{url}");
    assert_eq!(get("/a?b", &session).status, 302);
    assert_eq!(get("/bye", "").status, 200);
    let moved = send(&daemon, "GET /x HTTP/1.1\r\nHost: app.example.com");
    assert_eq!(moved.header("location"), Some("https://app.example.com/x"));
}

#[test]
fn jwt() {
    let keys = Origin::replying(|request| match request.target.as_str() {
        "/.well-known/jwks.json" => ok(own_keys().as_bytes()),
        _ => ok(b"not here"),
    });
    let orders = Origin::replying(|request| ok(request.header("x-user").unwrap_or("nobody").as_bytes()));
    let changes = [
        ("listen 80;", "listen 127.0.0.1:%%PORT_0%%;"),
        ("10.0.0.1:3000", &*orders.address()),
        ("10.0.0.2:3000", &*orders.address()),
        ("https://login.example.com/.well-known", &*format!("http://{}/.well-known", keys.address())),
        ("proxy_ssl_trusted_certificate /etc/ssl/certs/ca-certificates.crt;", ""),
    ];
    let daemon = example("jwt.conf", &changes).start();
    let ask = |path: &str, token: &str| {
        send(
            &daemon,
            &format!(
                "GET {path} HTTP/1.1\r\nHost: api.example.com\r\nX-User: root\r\nAuthorization: Bearer {token}"
            ),
        )
    };
    let reader =
        sign(r#"{"iss":"https://login.example.com","aud":["web","orders"],"sub":"ann","roles":["reader"]}"#);
    let writer =
        sign(r#"{"iss":"https://login.example.com","aud":"orders","sub":"joe","roles":["reader","writer"]}"#);
    let other = sign(r#"{"iss":"https://login.example.com","aud":"web","sub":"eve","roles":["writer"]}"#);
    for (path, token, status, text) in [
        ("/a", &reader, 200, Some("ann")),
        ("/a", &writer, 200, Some("joe")),
        ("/a", &other, 401, None),
        ("/admin/a", &reader, 403, None),
        ("/admin/a", &writer, 200, Some("joe")),
        ("/admin/a", &other, 401, None),
        ("/a", &"nonsense".to_owned(), 401, None),
    ] {
        let response = ask(path, token);
        assert_eq!(response.status, status, "{path} {token}");
        assert!(text.is_none_or(|text| response.text() == text), "{path} {token}");
    }
    assert_eq!(send(&daemon, "GET /health HTTP/1.1\r\nHost: api.example.com").status, 204);
    assert!(keys.requests().iter().all(|request| request.header("authorization").is_none()));
}

#[test]
fn forward_proxy() {
    let origin = Origin::start(|peer| {
        let heard = peer.exactly(5);
        peer.send(heard);
    });
    let dns = Dns::knowing(&[("target.test", "127.0.0.1")]);
    let changes = [
        ("listen 3128", "listen 127.0.0.1:%%PORT_0%%"),
        ("allow 10.0.0.0/8", "allow 127.0.0.0/8"),
        ("resolver 127.0.0.53", &*format!("resolver {}", dns.address())),
        ("~:443$", &*format!("~:{}$", origin.port())),
    ];
    let daemon = example("forward-proxy.conf", &changes).file("users", "me:{PLAIN}secret\n").start();
    let connect = |target: &str, fields: &str| {
        let mut client = Client::connect(daemon.port(0));
        client.send(format!("CONNECT {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
        let status = client.response_head().status;
        (client, status)
    };
    let (target, password) =
        (format!("target.test:{}", origin.port()), "Proxy-Authorization: Basic bWU6c2VjcmV0\r\n");
    assert_eq!(connect(&target, "").1, 407);
    assert_eq!(connect("target.test:1", password).1, 403);
    assert_eq!(connect(&origin.address(), password).1, 403);
    let (mut client, status) = connect(&target, password);
    assert_eq!(status, 200);
    client.send("hello");
    assert_eq!(client.exactly(5), b"hello");
}

#[test]
fn images() {
    let photo = {
        let mut out = Vec::new();
        let mut encoder = png::Encoder::new(&mut out, 1300, 13);
        encoder.set_color(png::ColorType::Rgb);
        let mut writer = encoder.write_header().expect("memory");
        writer.write_image_data(&vec![100; 1300 * 13 * 3]).expect("memory");
        writer.finish().expect("memory");
        out
    };
    let changes = [
        ("listen 80", "listen 127.0.0.1:%%PORT_0%%"),
        ("root   site", "root   %%DIR%%/site"),
        ("alias site", "alias %%DIR%%/site"),
        ("cache/thumbs", "%%DIR%%/thumbs"),
        ("unix:run/thumbs.sock", "unix:%%DIR%%/thumbs.sock"),
    ];
    let daemon = example("images.conf", &changes).file("site/photos/shoe.png", &photo).start();
    for (size, width) in [("small", 160), ("medium", 480), ("large", 1200)] {
        let thumb = ask(&daemon, "a", &format!("/thumbs/{size}/shoe.png"));
        assert_eq!((thumb.status, thumb.header("content-type")), (200, Some("image/png")), "{size}");
        assert_eq!(thumb.body[16..20], u32::to_be_bytes(width), "its width");
    }
    let told = ask(&daemon, "a", "/photos/shoe.png?size=1").text();
    assert_eq!(told, "{ \"img\" : { \"width\": 1300, \"height\": 13, \"type\": \"png\" } }\r\n");
    assert_eq!(ask(&daemon, "a", "/photos/shoe.png").body, photo);
    std::fs::remove_file(daemon.path("site/photos/shoe.png")).expect("it is there");
    assert_eq!(ask(&daemon, "a", "/thumbs/small/shoe.png").status, 200, "it is kept");
    for path in ["/thumbs/small/boot.png", "/thumbs/huge/shoe.png"] {
        assert_eq!(ask(&daemon, "a", path).status, 404, "{path}");
    }
}

#[test]
fn media() {
    let shape = toy::Shape::default();
    let changes = [("listen 80", "listen 127.0.0.1:%%PORT_0%%"), ("root   site", "root   %%DIR%%/site")];
    let daemon = example("media.conf", &changes)
        .file("site/films/one.mp4", toy::movie(&shape))
        .file("site/flash/one.flv", [b'x'; 1000])
        .start();
    let part = ask(&daemon, "a", "/films/one.mp4?start=2.5&end=6");
    assert_eq!(part.header("content-type"), Some("video/mp4"));
    assert!(toy::play(&part.body) == toy::expected(&shape, 2500, Some(6000), true));
    assert_eq!(ask(&daemon, "a", "/films/one.mp4").body, toy::movie(&shape));
    assert!(ask(&daemon, "a", "/flash/one.flv?start=990").body.ends_with(b"\0\0\0\0xxxxxxxxxx"));
}

#[test]
fn files() {
    let origin = echo("application");
    let changes = [
        ("127.0.0.1:3000", &*origin.address()),
        ("listen 80 default_server", "listen 127.0.0.1:%%PORT_0%% default_server"),
        ("listen      80", "listen 127.0.0.1:%%PORT_0%%"),
        ("site/public", "%%DIR%%/site/public"),
        ("site/page", "%%DIR%%/site/page"),
        ("site/files", "%%DIR%%/site/files"),
    ];
    let daemon = example("files.conf", &changes)
        .file("site/files/one.pdf", [b'x'; 20_000])
        .file("site/public/index.html", "home\n")
        .file("site/public/robots.txt", "robots\n")
        .file("site/public/assets/app-1a2b.js", "js\n")
        .file("site/public/.env", "secret\n")
        .file("site/page/index.html", "page\n")
        .file("site/page/app.js", "script\n")
        .start();
    let page = "page.example.com";
    for (host, path, status, body) in [
        ("a", "/", 200, "home\n"),
        ("a", "/robots.txt", 200, "robots\n"),
        ("a", "/orders/7?x=1", 200, "application /orders/7?x=1 a"),
        ("a", "/assets/app-1a2b.js", 200, "js\n"),
        (page, "/app.js", 200, "script\n"),
        (page, "/", 200, "page\n"),
        (page, "/deep/link", 200, "page\n"),
    ] {
        let answer = ask(&daemon, host, path);
        assert_eq!((answer.status, answer.text().as_str()), (status, body), "{host}{path}");
    }
    assert_eq!(ask(&daemon, "a", "/assets/none.js").status, 404);
    assert_eq!(ask(&daemon, "a", "/.env").status, 404);
    let asset = ask(&daemon, "a", "/assets/app-1a2b.js");
    assert_eq!(asset.all("cache-control"), ["max-age=31536000", "public, immutable"]);
    let deep = ask(&daemon, page, "/deep/link");
    assert_eq!(
        (deep.header("cache-control"), deep.header("content-type")),
        (Some("no-cache"), Some("text/html"))
    );
    let listed = ask(&daemon, "files.example.com", "/");
    assert!(listed.text().contains("<a href=\"one.pdf\">") && listed.text().contains(" 20K\r\n"));
    assert_eq!(ask(&daemon, "files.example.com", "/one.pdf").body.len(), 20_000);
    assert!(
        ask(&daemon, "files.example.com", "/list/")
            .text()
            .contains("\"name\":\"one.pdf\", \"type\":\"file\"")
    );
}

#[test]
fn subpath() {
    let wiki = Origin::replying(|request| {
        let location = if request.target == "/page" { "/login" } else { "http://127.0.0.1:3000/other" };
        format!(
            "HTTP/1.1 302 Found\r\nLocation: {location}\r\nSet-Cookie: id=1; Path=/; Domain=wiki.internal\r\nX-Path: {}\r\nContent-Length: 0\r\n\r\n",
            request.target
        )
        .into_bytes()
    });
    let shop = echo("shop");
    let address = format!("{}/;", wiki.address());
    let changes = [
        ("127.0.0.1:3000/;", &*address),
        ("127.0.0.1:4000", &*shop.address()),
        ("listen      80", "listen 127.0.0.1:%%PORT_0%%"),
    ];
    let daemon = example("subpath.conf", &changes).start();
    let page = ask(&daemon, "example.com", "/wiki/page");
    assert_eq!(page.header("x-path"), Some("/page"));
    let location = page.header("location").expect("it names a place");
    assert!(location.ends_with("/wiki/login"), "{location}");
    let cookie = page.header("set-cookie").expect("it has one").to_lowercase();
    for part in ["path=/wiki/", "domain=example.com", "httponly", "samesite=lax"] {
        assert!(cookie.contains(part), "{part} of {cookie}");
    }
    assert_eq!(wiki.last().header("x-forwarded-prefix"), Some("/wiki"));
    assert_eq!(ask(&daemon, "example.com", "/shop/cart").text(), "shop /shop/cart example.com");
    let root = ask(&daemon, "example.com", "/");
    assert!(root.status == 302 && root.header("location").is_some_and(|place| place.ends_with("/wiki/")));
}

#[test]
fn limits() {
    let (go, origin) = Origin::in_two_parts();
    let quick = echo("application");
    let changes = [
        ("127.0.0.1:3000", &*quick.address()),
        ("listen 80", "listen 127.0.0.1:%%PORT_0%%"),
        // The rates are low enough that the passing time does not matter.
        ("rate=20r/s", "rate=1r/m"),
        (
            "            limit_rate       1m;\n            proxy_pass       http://application",
            "            proxy_pass http://%%SLOW%%",
        ),
    ];
    let daemon = example("limits.conf", &changes).set("SLOW", origin.address()).start();
    let mut client = Client::connect(daemon.port(0));
    let statuses: Vec<u16> = (0..45).map(|_| client.get("/").status).collect();
    assert!(statuses[..41].iter().all(|status| *status == 200), "{statuses:?}");
    assert!(statuses[41..].iter().all(|status| *status == 429), "{statuses:?}");
    let mut held: Vec<Client> = (0..2).map(|_| Client::connect(daemon.port(0))).collect();
    for client in &mut held {
        client.send("GET /downloads/film HTTP/1.1\r\nHost: a\r\n\r\n");
        client.response_head();
    }
    assert_eq!(get(daemon.port(0), "/downloads/film").status, 429, "the third at a time");
    for _ in 0..2 {
        go.send(()).expect("the origin waits");
    }
    for client in &mut held {
        assert_eq!(client.exactly(10), b"first-last");
    }
    for method in ["GET", "DELETE"] {
        let answer = send(&daemon, &format!("{method} /admin/ HTTP/1.1\r\nHost: a"));
        assert_eq!(answer.status, 200, "{method} from this machine");
    }
}

#[test]
fn shadow() {
    let (old, new) = (echo("old"), echo("new"));
    let changes = [
        ("127.0.0.1:3000", &*old.address()),
        ("127.0.0.1:4000", &*new.address()),
        ("listen 80", "listen 127.0.0.1:%%PORT_0%%"),
        ("10%     new-version", "50% new-version"),
    ];
    let daemon = example("shadow.conf", &changes).start();
    for count in 0..100 {
        let post = format!(
            "POST /a?{count} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"
        );
        assert!(fetch(daemon.port(0), &post).text().starts_with(&format!("old /a?{count}")));
    }
    daemon.stop(nix::sys::signal::Signal::SIGQUIT);
    let copies = new.requests();
    assert!((1..100).contains(&copies.len()), "{} copies", copies.len());
    for copy in copies {
        assert_eq!((&*copy.method, &*copy.body, copy.header("x-shadow")), ("POST", &b"hi"[..], Some("1")));
        assert!(copy.target.starts_with("/a?"), "{}", copy.target);
    }
    assert_eq!(daemon.read("logs/shadow.log").lines().count(), 100);
}

#[test]
fn legacy_pages() {
    let origin = Origin::replying(|request| {
        if request.target == "/films/a" {
            let range = request.header("range").expect("a slice is asked for").to_owned();
            assert_eq!(range, "bytes=0-1048575");
            let head = "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-3/4\r\nContent-Length: 4";
            return format!("{head}\r\n\r\nfilm").into_bytes();
        }
        let page =
            b"<head></head>\xc1\xc2\xd7 http://old.example/a <!--#include virtual=\"/pages/part.html\" -->";
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n", page.len());
        [head.as_bytes(), page].concat()
    });
    let changes = [
        ("127.0.0.1:3000", &*origin.address()),
        ("listen 80", "listen 127.0.0.1:%%PORT_0%%"),
        ("/srv/new.example", "%%DIR%%/new"),
    ];
    let setup = example("legacy-pages.conf", &changes);
    let setup = setup.file("new/pages/head.html", "head ").file("new/pages/foot.html", " foot");
    let daemon = setup.file("new/pages/part.html", "часть").start();
    let response = get(daemon.port(0), "/");
    assert_eq!(response.header("content-type"), Some("text/html; charset=utf-8"));
    let link = "<link rel=\"stylesheet\" href=\"/pages/new.css\">";
    assert_eq!(response.text(), format!("head <head>{link}</head>абв https://new.example/a часть foot"));
    let film = get(daemon.port(0), "/films/a");
    assert_eq!((film.status, film.text()), (200, "film".into()));
}

#[test]
fn acme() {
    let origin = echo("application");
    let authority = Acme::start();
    let changes = [
        ("127.0.0.1:3000", &*origin.address()),
        ("listen 80;", "listen 127.0.0.1:%%PORT_0%%;"),
        ("listen 443 ssl;", "listen 127.0.0.1:%%PORT_1%% ssl;"),
        (
            "https://acme-v02.api.letsencrypt.org/directory;",
            &*format!("{}; ssl_trusted_certificate root.pem;", authority.uri()),
        ),
        ("/var/lib/pronghorn/letsencrypt", "%%DIR%%/letsencrypt"),
    ];
    let setup = example("acme.conf", &changes).file("root.pem", authority.root());
    authority.validates_at(setup.port(0), setup.port(1));
    let daemon = setup.start();
    let trusting = trusting(authority.authority());
    let mut client = wait_for("a certificate", || {
        TlsClient::try_connect(daemon.port(1), &trusting, "www.example.com").ok()
    });
    assert_eq!(client.get("www.example.com", "/a").text(), "application /a www.example.com");
    let moved = ask(&daemon, "example.com", "/a?b");
    assert_eq!((moved.status, moved.header("location")), (301, Some("https://example.com/a?b")));
}

#[test]
fn tls_modern() {
    let origin = echo("application");
    let authority = Authority::new("test");
    let pair = authority.issue(&["example.com"]);
    let changes = [
        ("127.0.0.1:3000", &*origin.address()),
        ("listen      80;", "listen 127.0.0.1:%%PORT_0%%;"),
        ("listen      443 ssl;", "listen 127.0.0.1:%%PORT_1%% ssl;"),
        ("listen               443 ssl default_server;", "listen 127.0.0.1:%%PORT_1%% ssl default_server;"),
    ];
    let setup = example("tls-modern.conf", &changes);
    let daemon = setup.file("tls/cert.pem", &pair.certificate).file("tls/key.pem", &pair.key).start();
    let moved = ask(&daemon, "example.com", "/a?b");
    let expected = format!("https://example.com:{}/a?b", daemon.port(1));
    assert_eq!((moved.status, moved.header("location")), (301, Some(&*expected)));
    let mut client = TlsClient::connect(daemon.port(1), &trusting(&authority), "example.com");
    let response = client.get("example.com", "/a");
    assert_eq!(response.text(), "application /a example.com");
    assert_eq!(response.header("strict-transport-security"), Some("max-age=86400"));
    assert_eq!(origin.last().header("x-forwarded-proto"), Some("https"));
    assert!(TlsClient::try_connect(daemon.port(1), &trusting(&authority), "other.com").is_err());
    let old = client_config(&authority, None, &[&rustls::version::TLS12]);
    let refused =
        TlsClient::try_connect(daemon.port(1), &old, "example.com").err().map(|error| error.to_string());
    assert!(refused.is_some_and(|error| error.contains("ProtocolVersion")));
}

#[test]
fn http3() {
    let origin = echo("application");
    let authority = Authority::new("test");
    let pair = authority.issue(&["example.com"]);
    let changes = [
        ("127.0.0.1:3000", &*origin.address()),
        ("listen      443 ssl;", "listen 127.0.0.1:%%PORT_0%% ssl;"),
        ("listen      443 quic;", "listen 127.0.0.1:%%PORT_0%% quic;"),
        ("logs/access.log", "access.log"),
    ];
    let setup = example("http3.conf", &changes);
    let daemon = setup.file("tls/cert.pem", &pair.certificate).file("tls/key.pem", &pair.key).start();
    let mut client = TlsClient::connect(daemon.port(0), &trusting(&authority), "example.com");
    let response = client.get("example.com", "/a");
    assert_eq!(response.header("alt-svc"), Some("h3=\":443\"; ma=86400"));
    let mut client = H3::connect(daemon.port(0), &authority, "example.com");
    let answer = client.fetch("example.com", "/b");
    assert_eq!(answer.text(), "application /b example.com");
    assert_eq!(origin.last().header("x-forwarded-proto"), Some("https"));
    daemon.wait_line("access.log", r#""GET /b HTTP/3.0" 200 HTTP/3.0$"#);
}

#[test]
fn tls_intermediate() {
    let authority = Authority::new("test");
    let changes = [
        ("listen      80 default_server;", "listen 127.0.0.1:%%PORT_0%% default_server;"),
        ("listen      443 ssl default_server;", "listen 127.0.0.1:%%PORT_1%% ssl default_server;"),
        ("listen      80;", "listen 127.0.0.1:%%PORT_0%%;"),
        ("listen      443 ssl;", "listen 127.0.0.1:%%PORT_1%% ssl;"),
    ];
    let mut setup = example("tls-intermediate.conf", &changes);
    let rsa = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).expect("a key");
    for (name, pair) in [
        ("ecdsa", authority.issue(&["example.com", "www.example.com"])),
        ("rsa", authority.issue_for(&rsa, &["example.com", "www.example.com"], |_| {})),
        ("shop", authority.issue(&["shop.example.com"])),
    ] {
        setup = setup.file(&format!("tls/{name}.pem"), pair.certificate);
        setup = setup.file(&format!("tls/{name}.key"), pair.key);
    }
    let daemon = setup.start();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = client_config(&authority, None, &[version]);
        for (name, text) in [("www.example.com", "main site\n"), ("shop.example.com", "shop\n")] {
            assert_eq!(TlsClient::connect(daemon.port(1), &config, name).get(name, "/").text(), text);
        }
        // It has a session now.
        TlsClient::connect(daemon.port(1), &config, "shop.example.com").get("shop.example.com", "/");
    }
    assert_eq!(ask(&daemon, "shop.example.com", "/").status, 308);
    daemon.wait_line("logs/access.log", "200 TLSv1.2 ECDHE-ECDSA-AES(128|256)-GCM-SHA(256|384) r$");
    daemon.wait_line("logs/access.log", "200 TLSv1.3 TLS_AES_256_GCM_SHA384 r$");
}

#[test]
fn tls_internal() {
    let origin = echo("service");
    let (own, clients) = (Authority::new("services"), Authority::new("clients"));
    let pair = own.issue(&["service.internal"]);
    let conf = r#"http { server { listen 127.0.0.1:%%PORT_0%% ssl; ssl_certificate own.pem; ssl_certificate_key own.key;
        ssl_verify_client on; ssl_client_certificate ca.pem; return 200 "backend $ssl_client_s_dn"; } }"#;
    let self_signed =
        rcgen::generate_simple_self_signed(["backend.internal".to_owned()]).expect("a certificate");
    let backend = crate::support::Setup::new(conf).file("own.pem", self_signed.cert.pem());
    let backend = backend.file("own.key", self_signed.signing_key.serialize_pem());
    let backend = backend.file("ca.pem", own.certificate()).start();
    let changes = [
        ("127.0.0.1:3000", &*origin.address()),
        ("listen     127.0.0.1:8080;", "listen 127.0.0.1:%%PORT_0%%;"),
        ("listen      8443 ssl;", "listen 127.0.0.1:%%PORT_1%% ssl;"),
        ("listen      8444 ssl;", "listen 127.0.0.1:%%PORT_2%% ssl;"),
        ("127.0.0.1:3443", &*format!("127.0.0.1:{}", backend.port(0))),
    ];
    let setup = example("tls-internal.conf", &changes)
        .file("tls/backend.pem", self_signed.cert.pem())
        .file("tls/clients-ca.pem", clients.certificate());
    let setup = setup.file("tls/clients-crl.pem", clients.revoke(&[7]));
    let daemon = setup.file("tls/service.pem", pair.certificate).file("tls/service.key", pair.key).start();
    let request = |pair: Option<&crate::support::tls::Pair>, method: &str| {
        let config = client_config(&own, pair, rustls::ALL_VERSIONS);
        let mut client = TlsClient::connect(daemon.port(1), &config, "service.internal");
        client.send(format!(
            "{method} / HTTP/1.1\r\nHost: service.internal\r\nX-Client-Subject: CN=root\r\n\r\n"
        ));
        client.response().status
    };
    assert_eq!(request(None, "GET"), 400);
    let reader = clients.issue(&["reader.internal"]);
    assert_eq!((request(Some(&reader), "GET"), request(Some(&reader), "DELETE")), (200, 403));
    assert_eq!(origin.last().header("x-client-subject"), Some("CN=reader.internal"));
    let escaped = origin.last().header("x-client-certificate").map(str::to_owned);
    assert!(escaped.is_some_and(|text| text.starts_with("-----BEGIN%20CERTIFICATE-----%0AMII")));
    assert_eq!(request(Some(&clients.issue(&["deploy.internal"])), "DELETE"), 200);
    let revoked = clients.issue_with(&["deploy.internal"], |params| params.serial_number = Some(7.into()));
    assert_eq!(request(Some(&revoked), "GET"), 400);
    assert_eq!(get(daemon.port(0), "/").text(), "ok\n");
    let config = client_config(&own, Some(&reader), rustls::ALL_VERSIONS);
    let mut client = TlsClient::connect(daemon.port(2), &config, "service.internal");
    assert_eq!(client.get("service.internal", "/").text(), "backend CN=service.internal");
    daemon.wait_line("logs/access.log", "\"CN=deploy.internal\" .*\"DELETE / HTTP/1.1\" 200");
}

#[test]
fn sticky() {
    let names = ["one", "two", "three", "four", "five", "six", "seven"];
    let origins = names.map(|name| {
        Origin::replying(move |request| {
            let session =
                if request.header("cookie").is_none() { "Set-Cookie: JSESSIONID=s1\r\n" } else { "" };
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{session}\r\n", name.len());
            format!("{head}{name}").into_bytes()
        })
    });
    let shipped =
        ["3001", "3002", "3003", "4001", "4002", "5001", "5002"].map(|port| format!("127.0.0.1:{port}"));
    let addresses = origins.each_ref().map(Origin::address);
    let mut changes: Vec<(&str, &str)> =
        shipped.iter().zip(&addresses).map(|(from, to)| (&**from, &**to)).collect();
    changes.push(("listen 80;", "listen 127.0.0.1:%%PORT_0%%;"));
    let daemon = example("sticky.conf", &changes).start();
    let ask =
        |path: &str, cookie: &str| send(&daemon, &format!("GET {path} HTTP/1.1\r\nHost: a\r\n{cookie}"));
    for _ in 0..4 {
        let first = ask("/", "X-New: 1");
        let set = first.all("set-cookie")[0].to_owned();
        assert!(set.starts_with(&format!("server={}; expires=", first.text())), "{set}");
        assert_ne!(first.text(), "three", "it drains");
        assert_eq!(ask("/", "Cookie: server=three").text(), "three");
        assert_eq!(ask("/", &format!("Cookie: {}", set.split(';').next().unwrap())).text(), first.text());
    }
    let made = ask("/backoffice/", "X-New: 1").text();
    let device = ask("/devices/", "X-New: 1").text();
    for _ in 0..4 {
        assert_eq!(ask("/backoffice/", "Cookie: JSESSIONID=s1").text(), made);
        assert_eq!(ask("/devices/", "X-New: 1").text(), device);
    }
}

#[test]
fn grpc() {
    use crate::support::h2::{self, DATA, END_STREAM, H2};
    let serve = |name: &'static str| {
        Origin::start(move |peer| {
            let Some(mut server) = crate::support::H2Server::begin(peer, &[]) else { return };
            while let Some(call) = server.whole_request() {
                let is_check = call.path() == "/grpc.health.v1.Health/Check";
                let body = if is_check { &b"\0\0\0\0\x02\x08\x01"[..] } else { name.as_bytes() };
                server.answer(call.stream, &[], body, &[("grpc-status", "0")]);
            }
        })
    };
    let (one, two) = (serve("one"), serve("two"));
    let changes = [
        ("127.0.0.1:50051", &*one.address()),
        ("127.0.0.1:50052", &*two.address()),
        ("127.0.0.1:50061", "127.0.0.1:1"),
        ("listen 80", "listen 127.0.0.1:%%PORT_0%%"),
        ("worker_processes auto", "worker_processes 1"),
    ];
    let daemon = example("grpc.conf", &changes).start();
    let mut client = H2::connect(daemon.port(0));
    let mut call = |path: &str| {
        let stream = client.open("POST", path, &[("te", "trailers")], 0);
        client.send(DATA, END_STREAM, stream, b"\0\0\0\0\0");
        let answer = client.answer(stream);
        (answer.text(), h2::fields(answer.blocks.last().expect("a block")))
    };
    let answers: Vec<String> = (0..4).map(|_| call("/helloworld.Greeter/SayHello").0).collect();
    assert!(
        answers.iter().any(|name| name == "one") && answers.iter().any(|name| name == "two"),
        "{answers:?}"
    );
    let (_, fields) = call("/billing.Billing/Pay");
    assert!(fields.contains(&"grpc-status: 14".to_owned()), "{fields:?}");
}
