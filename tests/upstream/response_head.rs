//! The parts of an upstream's response head that the client gets: cookies, internal redirects
//! (`X-Accel-Redirect`), repeated fields, and interim heads (`early_hints`). Scripted origins; the heads are
//! read as bytes.

use std::time::{Duration, Instant};

use crate::support::origin::ok;
use crate::support::{Client, Daemon, Origin, Setup, fetch, get};

const CONF: &str = r#"
http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /cookies {
            proxy_cookie_domain www.example.org .example.com;
            proxy_cookie_domain ~^(?<sub>.+)\.internal$ $sub.example.net;
            proxy_cookie_path /app/ /;
            proxy_cookie_path ~^/u/([^/]+)/(.*)$ /$2/$1;
            proxy_cookie_flags plain secure httponly samesite=lax;
            proxy_cookie_flags ~^SESS nohttponly;
            proxy_pass http://%%ORIGIN%%;
            location /cookies/inner { proxy_cookie_flags off; proxy_pass http://%%ORIGIN%%; }
            location /cookies/off {
                proxy_cookie_domain off; proxy_cookie_path off; proxy_cookie_flags off;
                proxy_pass http://%%ORIGIN%%;
            }
        }
        location /hints { early_hints $http_x_hints; proxy_hide_header X-Secret; proxy_pass http://%%ORIGIN%%; }
        location / { proxy_pass http://%%ORIGIN%%; }
        location /hidden { proxy_hide_header Set-Cookie; proxy_pass http://%%ORIGIN%%; }
        location /long { proxy_buffering off; proxy_buffers 64 1m; proxy_pass http://%%ORIGIN%%; }
        location /paced { proxy_pass http://%%ORIGIN%%; }
        location /unpaced { proxy_ignore_headers X-Accel-Limit-Rate; proxy_pass http://%%ORIGIN%%; }
        location /ignored {
            proxy_ignore_headers X-Accel-Redirect; proxy_pass_header X-Accel-Redirect;
            proxy_pass http://%%ORIGIN%%;
        }
        location /inside { return 200 "$request_method $uri $args"; }
        location @there { return 200 "$request_method named"; }
    }
}
"#;

fn start(origin: &Origin) -> Daemon {
    Setup::new(CONF).set("ORIGIN", origin.address()).level("info").start()
}

/// An origin whose head has the lines that the request lists in `X-Lines`, separated by `|`.
fn obedient() -> Origin {
    Origin::replying(|request| {
        let lines = request.header("x-lines").unwrap_or_default().replace('|', "\r\n");
        format!("HTTP/1.1 200 OK\r\n{lines}\r\nContent-Length: 2\r\n\r\nok").into_bytes()
    })
}

fn ask(daemon: &Daemon, path: &str, lines: &str) -> crate::support::message::Response {
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Lines: {lines}\r\n\r\n");
    fetch(daemon.port(0), &request)
}

fn cookie(daemon: &Daemon, path: &str, value: &str) -> String {
    let response = ask(daemon, path, &format!("Set-Cookie: {value}"));
    response.header("set-cookie").expect("the cookie is passed").to_owned()
}

#[test]
fn attributes_of_cookies_are_rewritten() {
    let origin = obedient();
    let daemon = start(&origin);
    let cases = [
        ("a=1; Domain=www.example.org", "a=1; Domain=example.com"),
        ("a=1; domain=.WWW.example.org; Path=/app/x", "a=1; domain=.example.com; Path=/x"),
        ("a=1;Domain=db.internal;Max-Age=5", "a=1; Domain=db.example.net; Max-Age=5"),
        ("a=1; Path=/u/joe/inbox; Secure", "a=1; Path=/inbox/joe; Secure"),
        ("a=1; Path=/other; Domain=example.org", "a=1; Path=/other; Domain=example.org"),
        ("a=1;  odd ;;x=", "a=1;  odd ;;x="),
        ("domain=www.example.org", "domain=www.example.org"),
        ("Domain; Domain=www.example.org", "Domain; Domain=www.example.org"),
        ("plain=x=y; httponly", "plain=x=y; httponly; Secure; SameSite=Lax"),
        ("PLAIN=x; SameSite=None; Secure", "PLAIN=x; SameSite=Lax; Secure; HttpOnly"),
        ("sessid=x; HttpOnly; Path=/app/", "sessid=x; Path=/"),
        ("a=; Domain=", "a=; Domain="),
    ];
    for (sent, expected) in cases {
        assert_eq!(cookie(&daemon, "/cookies", sent), expected);
    }
    assert_eq!(
        cookie(&daemon, "/cookies/inner", "plain=x; Domain=www.example.org"),
        "plain=x; Domain=example.com"
    );
    let all = "plain=x; Domain=www.example.org; Path=/app/";
    assert_eq!(cookie(&daemon, "/cookies/off", all), all);
    let two = ask(&daemon, "/cookies", "Set-Cookie: a=1; Path=/app/1|Set-Cookie: b=2; Path=/app/2");
    let values: Vec<_> =
        two.headers.iter().filter(|(name, _)| name == "Set-Cookie").map(|(_, value)| value).collect();
    assert_eq!(values, ["a=1; Path=/1", "b=2; Path=/2"]);
}

#[test]
fn an_upstream_names_the_location_that_answers() {
    let origin = obedient();
    let daemon = start(&origin);
    let lines = "X-Accel-Redirect: /inside/a%20b?c=d|Content-Type: text/blah|Set-Cookie: a=1|Set-Cookie: b=2|\
                 Content-Disposition: attachment|Something: else";
    let response = ask(&daemon, "/x", lines);
    assert_eq!(response.text(), "GET /inside/a b c=d");
    assert_eq!(response.header("content-type"), Some("text/blah"));
    assert_eq!(response.header("content-disposition"), Some("attachment"));
    assert_eq!(response.headers.iter().filter(|(name, _)| name == "Set-Cookie").count(), 2);
    assert_eq!(response.header("something"), None);
    let hidden = ask(&daemon, "/hidden", lines);
    assert_eq!(hidden.header("set-cookie"), None);
    assert_eq!(ask(&daemon, "/x", "X-Accel-Redirect: @there").text(), "GET named");
    assert_eq!(ask(&daemon, "/x", "X-Accel-Redirect: @nowhere").status, 500);
    for unsafe_target in ["..", "/inside/..", "/inside/.%2e/x", "/../inside", "//..//", "/%00"] {
        let response = ask(&daemon, "/x", &format!("X-Accel-Redirect: {unsafe_target}"));
        assert_eq!(response.status, 404, "{unsafe_target}");
    }
    let ignored = ask(&daemon, "/ignored", "X-Accel-Redirect: /inside");
    assert_eq!((ignored.text().as_str(), ignored.header("x-accel-redirect")), ("ok", Some("/inside")));
    let request = "POST /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 1\r\n\
                   X-Lines: X-Accel-Redirect: /inside\r\n\r\nx";
    assert_eq!(fetch(daemon.port(0), request).text(), "GET /inside ");
}

#[test]
fn a_field_that_stands_twice_is_passed_once() {
    let origin = obedient();
    let daemon = start(&origin);
    let lines = "Content-Type: a/b|Expires: 1|Content-Type: c/d|Expires: 2|Vary: a|Vary: b|X-Y: 1|X-Y: 2";
    let response = ask(&daemon, "/x", lines);
    let count = |name: &str| response.headers.iter().filter(|(known, _)| known == name).count();
    assert_eq!((count("Content-Type"), count("Expires"), count("Vary"), count("X-Y")), (1, 1, 2, 2));
    assert_eq!(response.header("content-type"), Some("a/b"));
    daemon.wait_log("upstream sent duplicate header line: \"Content-Type: c/d\", ignored");
}

#[test]
fn an_upstream_decides_whether_it_is_read_ahead() {
    const BYTES: usize = 40 * 1024 * 1024; // more than all socket buffers on the way can hold
    let origin = Origin::start(|peer| {
        peer.request();
        let head = "HTTP/1.1 200 OK\r\nX-Accel-Buffering: Yes\r\nTransfer-Encoding: chunked\r\n\r\n";
        let chunk = [format!("{BYTES:x}\r\n").as_bytes(), &vec![b'x'; BYTES], b"\r\n0\r\n\r\n"].concat();
        let _ = peer.try_send(head.as_bytes()).and_then(|()| peer.try_send(&chunk));
    });
    let daemon = start(&origin);
    let mut client = Client::connect(daemon.port(0));
    client.send("GET /long HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut response = client.response_head();
    assert_eq!(response.header("x-accel-buffering"), None);
    origin.wait_ended(1); // the client has read the head and nothing more
    client.body_into(&mut response);
    assert_eq!(response.body.len(), BYTES);
}

#[test]
fn an_upstream_decides_how_fast_its_answer_goes_out() {
    let origin = Origin::replying(|_| {
        let head = b"HTTP/1.1 200 OK\r\nX-Accel-Limit-Rate: 4000\r\nContent-Length: 12000\r\n\r\n";
        [&head[..], &[b'x'; 12_000]].concat()
    });
    let daemon = start(&origin);
    let begun = Instant::now();
    assert_eq!(get(daemon.port(0), "/unpaced").body.len(), 12_000);
    let fast = begun.elapsed();
    let begun = Instant::now();
    assert_eq!(get(daemon.port(0), "/paced").body.len(), 12_000);
    assert!(begun.elapsed() >= Duration::from_millis(1500) && fast < Duration::from_millis(1500), "{fast:?}");
}

const HINTS: &str =
    "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nConnection: x\r\nX-Secret: 1\r\n\r\n";

fn hinting() -> Origin {
    Origin::replying(|request| {
        let hints = if request.target.ends_with("twice") { HINTS.repeat(2) } else { HINTS.into() };
        [hints.as_bytes(), &ok(b"page")].concat()
    })
}

#[test]
fn early_hints_reach_the_client_where_they_are_wanted() {
    let origin = hinting();
    let daemon = start(&origin);
    let mut client = Client::connect(daemon.port(0));
    client.send("GET /hints HTTP/1.1\r\nHost: a\r\nX-Hints: yes\r\n\r\n");
    let head = client.response_head();
    assert_eq!((head.status, head.reason.as_str()), (103, "Early Hints"));
    let fields: Vec<_> = head.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    assert_eq!(fields, ["Link: </a.css>; rel=preload"]);
    assert_eq!(client.response().text(), "page");
    for unwanted in ["0", ""] {
        client.send(format!("GET /hints HTTP/1.1\r\nHost: a\r\nX-Hints: {unwanted}\r\n\r\n"));
        assert_eq!(client.response_head().status, 200);
        assert_eq!(client.exactly(4), b"page");
    }
    client.send("GET /hints/twice HTTP/1.1\r\nHost: a\r\nX-Hints: 1\r\n\r\n");
    assert_eq!((client.response_head().status, client.response_head().status), (103, 103));
    assert_eq!(client.response().text(), "page");
    assert_eq!(get(daemon.port(0), "/plain").status, 200, "not without the directive");
    let old = fetch(daemon.port(0), "GET /hints HTTP/1.0\r\nX-Hints: 1\r\n\r\n");
    assert_eq!((old.status, old.text().as_str()), (200, "page"), "HTTP/1.0 knows no interim answers");
}

#[test]
fn hints_without_an_answer_are_followed_by_a_502() {
    let origin = Origin::start(|peer| {
        peer.request();
        peer.send(HINTS);
    });
    let daemon = start(&origin);
    let mut client = Client::connect(daemon.port(0));
    client.send("GET /hints HTTP/1.1\r\nHost: a\r\nX-Hints: 1\r\n\r\n");
    assert_eq!(client.response_head().status, 103);
    assert_eq!(client.response().status, 502);
}

#[test]
fn directives_that_make_no_sense_are_refused() {
    for (line, expected) in [
        ("proxy_cookie_domain on;", "invalid parameter \"on\""),
        ("proxy_cookie_path off; proxy_cookie_path off;", "\"proxy_cookie_path\" directive is duplicate"),
        ("proxy_cookie_flags a secur;", "invalid parameter \"secur\""),
        (
            "proxy_redirect default; proxy_pass http://$host;",
            "cannot be used with \"proxy_pass\" directive with variables",
        ),
    ] {
        let conf = format!("http {{ server {{ listen 127.0.0.1:%%PORT_0%%; location / {{ {line} }} }} }}");
        let exit = Setup::new(&conf).try_start().err().expect("no start");
        assert!(exit.stderr.contains(expected), "{line}: {}", exit.stderr);
    }
}
