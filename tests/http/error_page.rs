//! `error_page`: other pages for statuses, other statuses, redirects, named locations, responses of the
//! origin.

use crate::support::daemon::is_stand_in;
use crate::support::{Client, Origin, Setup, fetch, get};

const CONF: &str = r#"
http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        error_page 404 /404.html;
        error_page 500 502 504 =503 /sorry;
        error_page 403 https://example.org/login;
        error_page 405 =301 https://example.org/moved;
        error_page 410 =200 @named;

        location = /404.html { internal; return 200 "not here: $request_uri\n"; }
        location = /sorry { return 200 "sorry\n"; }
        location @named { return 202 "named\n"; }
        location /internal { internal; return 200 "never\n"; }
        location /missing { return 404; }
        location /broken { return 500; }
        location /refused { proxy_pass http://127.0.0.1:%%PORT_1%%; }
        location /forbidden { return 403; }
        location /method { return 405; }
        location /gone { return 410; }
        location /own { error_page 404 =402 /sorry; return 404; }
        location /loop { error_page 404 /loop/again; return 404; }
        location /passed/ { proxy_pass http://%%ORIGIN%%; }
        location /intercepted/ { proxy_intercept_errors on; proxy_pass http://%%ORIGIN%%; }
    }
    server { listen 127.0.0.1:%%PORT_2%%; location / { return 200 "x"; } }
}
"#;

fn conf() -> String {
    // No process listens on port 1, since the daemon has no server for it.
    CONF.to_owned()
}

#[test]
fn pages_statuses_and_redirects() {
    let origin =
        Origin::replying(|_| b"HTTP/1.1 404 Gone Away\r\nContent-Length: 7\r\n\r\norigin\n".to_vec());
    let closed = crate::support::port::refusing();
    let text = conf().replace("%%PORT_1%%", &closed.to_string()).replace("%%PORT_2%%", "%%PORT_1%%");
    let daemon = Setup::new(&text).set("ORIGIN", origin.address()).start();
    let port = daemon.port(0);
    for (path, status, body) in [
        ("/missing", 404, "not here: /missing\n"),
        ("/broken", 503, "sorry\n"),
        ("/refused", 503, "sorry\n"),
        ("/gone", 200, "named\n"),
        ("/own", 402, "sorry\n"),
        ("/internal", 404, "not here: /internal\n"),
        ("/404.html", 404, "not here: /404.html\n"),
        ("/passed/x", 404, "origin\n"),
        ("/intercepted/x", 404, "not here: /intercepted/x\n"),
    ] {
        let response = get(port, path);
        assert_eq!((response.status, response.text().as_str()), (status, body), "{path}");
    }
    let response = get(port, "/forbidden");
    assert_eq!((response.status, response.header("location")), (302, Some("https://example.org/login")));
    let response = get(port, "/method");
    assert_eq!((response.status, response.header("location")), (301, Some("https://example.org/moved")));
    assert_eq!(get(port, "/loop").status, 404, "an error in an error page gets the plain page");
}

const CHAIN: &str = r#"
http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        root %%DIR%%/site;
        recursive_error_pages off;
        location /a { error_page 404 = /b; return 404; }
        location /b { error_page 403 /c; return 403; }
        location /c { return 200 "c\n"; }
        location /asked { error_page 404 /args; error_page 500 /args?own; return 404; }
        location /asked/own { error_page 404 /args?own; return 404; }
        location /args { return 200 "[$args]"; }
        location /fails { error_page 500 /b; return 500; }
        location /recursive { recursive_error_pages on; error_page 500 /b; return 500; }
        location /text { error_page 500 /c; return 500; }
        location /self { error_page 404 = /self; return 404; }
        location /moved { error_page 302 /c; return 302 /elsewhere; }
        location /moved-away { error_page 302 =301 http://example.org/; return 302 /elsewhere; }
        location /moved-twice { error_page 302 /again; return 302 /elsewhere; }
        location /again { return 307 /there; }
        location /to-folder { error_page 302 /folder; return 302 /elsewhere; }
        location /folder { error_page 301 /c; }
    }
}
"#;

#[test]
fn a_file_for_an_error_goes_out_whole() {
    let conf = r#"
    http {
        server {
            listen 127.0.0.1:%%PORT_0%%;
            root %%DIR%%/site;
            error_page 404 /404.html;
            error_page 410 =200 /404.html;
            location /missing { return 404; }
            location /gone { return 410; }
        }
    }
    "#;
    let daemon = Setup::new(conf).file("site/404.html", "<p>not here</p>\n").start();
    let ask = |path: &str, header: &str| {
        fetch(
            daemon.port(0),
            &format!("GET {path} HTTP/1.1\r\nHost: a\r\n{header}\r\nConnection: close\r\n\r\n"),
        )
    };
    // A client's conditions and ranges concern the page that is missing, not the error page.
    for header in [
        "Range: bytes=0-1",
        "If-None-Match: *",
        "If-Match: \"x\"",
        "If-Unmodified-Since: Fri, 01 Jan 2010 00:00:00 GMT",
    ] {
        let response = ask("/missing", header);
        assert_eq!((response.status, response.text().as_str()), (404, "<p>not here</p>\n"), "{header}");
        for absent in ["accept-ranges", "content-range", "last-modified"] {
            assert_eq!(response.header(absent), None, "{header}");
        }
    }
    assert_eq!(
        ask("/gone", "Range: bytes=0-1").text(),
        "<p",
        "a page that is sent with 200 is a file as any"
    );
}

#[test]
fn the_connection_ends_after_a_fault_of_ours_as_without_a_page() {
    let conf = r#"
    http {
        server {
            listen 127.0.0.1:%%PORT_0%%;
            error_page 404 500 /page;
            location /page { return 200 "page"; }
            location /missing { return 404; }
            location /broken { return 500; }
        }
    }
    "#;
    let daemon = Setup::new(conf).start();
    let mut client = Client::connect(daemon.port(0));
    assert_eq!(client.get("/missing").header("connection"), Some("keep-alive"));
    assert_eq!(client.get("/broken").header("connection"), Some("close"));
}

#[test]
fn an_error_page_has_its_own_arguments() {
    let daemon = Setup::new(CHAIN).start();
    assert_eq!(get(daemon.port(0), "/asked?x=1").text(), "[]");
    assert_eq!(get(daemon.port(0), "/asked/own?x=1").text(), "[own]");
}

#[test]
fn an_intercepted_401_still_asks_for_credentials() {
    let origin = Origin::replying(|_| {
        b"HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=a\r\nWWW-Authenticate: Other\r\nX: y\r\nContent-Length: 2\r\n\r\nno"
            .to_vec()
    });
    let conf = r#"
    http {
        server {
            listen 127.0.0.1:%%PORT_0%%;
            proxy_intercept_errors on;
            error_page 401 /login;
            location / { proxy_pass http://%%ORIGIN%%; }
            location = /login { return 200 "log in\n"; }
        }
    }
    "#;
    let daemon = Setup::new(conf).set("ORIGIN", origin.address()).start();
    let response = get(daemon.port(0), "/");
    assert_eq!((response.status, response.text().as_str()), (401, "log in\n"));
    let challenges = if is_stand_in() { 1 } else { 2 }; // nginx 1.22 passes one on
    assert_eq!(response.all("www-authenticate"), ["Basic realm=a", "Other"][..challenges]);
    assert_eq!(response.header("x"), None);
}

#[test]
fn an_error_page_that_fails_shows_its_own_status() {
    let daemon = Setup::new(CHAIN).file("site/folder/index.html", "folder").start();
    for (path, status, location) in [
        ("/a", 403, None),
        ("/fails", 403, None),
        ("/asked?x=1", 404, None),
        ("/recursive", 403, None),
        ("/text", 500, None),
        ("/self", 404, None),
        ("/moved", 302, Some("/elsewhere")),
        ("/moved-away", 301, Some("http://example.org/")),
        ("/moved-twice", 307, Some("/there")),
        ("/to-folder", 301, Some("/folder/")),
        ("/folder", 301, Some("/folder/")),
    ] {
        let response = get(daemon.port(0), path);
        let authority = format!("http://localhost:{}", daemon.port(0));
        let given = response.header("location").map(|given| given.replace(&authority, ""));
        assert_eq!((response.status, given.as_deref()), (status, location), "{path}");
    }
}

const AGAIN: &str = r#"
http {
    upstream gone { server 127.0.0.1:%%CLOSED%%; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        client_max_body_size 1m;
        location / { error_page 502 = @other; proxy_pass http://gone; }
        location /busy { proxy_intercept_errors on; error_page 503 = @other; proxy_pass http://%%BUSY%%; }
        location /as-get { error_page 502 = /plain; proxy_pass http://gone; }
        location /own { proxy_set_body own; error_page 502 = @other; proxy_pass http://gone; }
        location /plain { proxy_pass http://%%ORIGIN%%; }
        location @other { proxy_pass http://%%ORIGIN%%; }
    }
}
"#;

#[test]
fn a_named_location_gets_the_body_that_another_upstream_did_not_take() {
    let origin = Origin::saying("other");
    let busy = Origin::replying(|_| b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n".to_vec());
    let daemon = Setup::new(AGAIN)
        .set("ORIGIN", origin.address())
        .set("BUSY", busy.address())
        .set("CLOSED", crate::support::port::refusing())
        .start();
    let mut client = Client::connect(daemon.port(0));
    for (path, length) in [("/", 5), ("/busy", 5), ("/own", 5), ("/", 0), ("/", 12_000)] {
        let body = "x".repeat(length);
        client.send(format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}"));
        assert_eq!(client.response().text(), "other", "{path} {length}");
        let seen = origin.last();
        assert_eq!((seen.method.as_str(), seen.body == body.as_bytes()), ("POST", true), "{path} {length}");
    }
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
    assert_eq!((client.response().status, origin.last().body.as_slice()), (200, &b"hello"[..]));
    client.send("POST /as-get HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!((client.response().status, origin.last().method.as_str()), (200, "GET"));
    assert_eq!(origin.last().body, b"hello", "as nginx");
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nend");
    assert_eq!((client.response().status, origin.last().body.as_slice()), (200, &b"end"[..]));
}

#[test]
fn old_browsers_get_pages_that_they_show() {
    const CONF: &str = r#"
http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { return 404; }
        location /off { msie_padding off; return 404; }
        location /moved { msie_refresh on; return 302 "http://b.test/a b"; }
        location /page { msie_refresh on; error_page 404 http://b.test/; return 404; }
    }
}
"#;
    let daemon = Setup::new(CONF).start();
    let ask = |path: &str, name: &str| {
        crate::support::fetch(
            daemon.port(0),
            &format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nUser-Agent: {name}\r\n\r\n"),
        )
    };
    let plain = ask("/", "curl").body.len();
    for name in ["Mozilla/4.0 (compatible; MSIE 7.0)", "Mozilla/5.0 Chrome/140.0"] {
        assert!(ask("/", name).body.len() >= 512, "{name}");
        assert_eq!(ask("/off", name).body.len(), plain, "{name}");
    }
    let refresh = ask("/moved", "Mozilla/4.0 (compatible; MSIE 7.0)");
    assert_eq!((refresh.status, refresh.header("location")), (200, None));
    assert!(refresh.text().contains("URL=http://b.test/a%20b\""), "{}", refresh.text());
    assert_eq!(ask("/page", "MSIE 7.0 x").status, 200);
    for name in ["curl", "MSIE 7.0 Opera"] {
        assert_eq!(ask("/moved", name).status, 302, "{name}");
    }
}

const EARLY: &str = r#"
http {
    large_client_header_buffers 2 2k;
    log_format who '$server_name $status $request_method $request_uri $http_user_agent';
    access_log %%DIR%%/who.log who;
    server {
        listen 127.0.0.1:%%PORT_0%% default_server;
        server_name default;
        error_page 400 414 494 /page;
        location = /page { internal; return 200 "default $status"; }
    }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        server_name named;
        error_page 400 =403 /page;
        error_page 494 = @page;
        location = /page { internal; return 200 "named"; }
        location @page { proxy_pass http://%%ORIGIN%%; }
    }
    server { listen 127.0.0.1:%%PORT_0%%; server_name ""; error_page 400 /page; location = /page { return 200 "nameless"; } }
}
"#;

#[test]
fn a_refused_head_has_the_error_page_of_its_server() {
    let origin = Origin::saying("proxied");
    let daemon = Setup::new(EARLY).set("ORIGIN", origin.address()).start();
    let long = "u".repeat(3_000);
    let many = format!("X-A: {}\r\n", "u".repeat(900)).repeat(9);
    let cases = [
        (format!("GET /{long}{long} HTTP/1.1\r\nHost: named\r\n\r\n"), 414, "default 414"),
        ("get / HTTP/1.1\r\nHost: named\r\n\r\n".to_owned(), 400, "default 400"),
        ("GET /%zz HTTP/1.1\r\nHost: named\r\n\r\n".to_owned(), 400, "default 400"),
        ("GET /a HTTP/1.1\r\nBad Name: x\r\nHost: named\r\n\r\n".to_owned(), 400, "default 400"),
        ("GET /a HTTP/1.1\r\nHost: named\r\nUser-Agent: t\r\nBad Name: x\r\n\r\n".to_owned(), 403, "named"),
        ("GET /a HTTP/1.1\r\nUser-Agent: t\r\n\r\n".to_owned(), 400, "nameless"),
        (format!("PUT /a HTTP/1.1\r\nHost: named\r\nUser-Agent: t\r\nX: {long}\r\n\r\n"), 200, "proxied"),
    ];
    let in_pieces = format!("GET /b HTTP/1.1\r\nHost: named\r\nUser-Agent: t\r\n{many}\r\n");
    for (request, status, text) in cases.into_iter().chain([(in_pieces, 200, "proxied")]) {
        let mut client = Client::connect(daemon.port(0));
        client.send(&request);
        let response = client.response();
        assert_eq!((response.status, response.text().as_str()), (status, text), "{request}");
        assert_eq!(response.header("connection"), Some("close"));
    }
    assert_eq!(origin.last().method, "GET");
    for line in
        ["^named 200 GET /b t$", "^default 400 GET - -$", "^named 403 GET /a t$", "^named 200 PUT /a t$"]
    {
        daemon.wait_line("who.log", line);
    }
}

const BODIES: &str = r#"
http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        error_page 404 = /page;
        location /page { proxy_pass http://%%ORIGIN%%; }
        location /own { return 404; }
        location /theirs { proxy_intercept_errors on; proxy_pass http://%%MISSES%%; }
    }
}
"#;

#[test]
fn a_proxied_page_gets_the_body_whoever_found_the_error() {
    let origin = Origin::saying("page");
    let misses = Origin::replying(|_| b"HTTP/1.1 404 Gone\r\nContent-Length: 0\r\n\r\n".to_vec());
    let daemon = Setup::new(BODIES).set("ORIGIN", origin.address()).set("MISSES", misses.address()).start();
    for path in ["/own", "/theirs"] {
        let mut client = Client::connect(daemon.port(0));
        client.send(format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"));
        assert_eq!(client.response().text(), "page", "{path}");
        let asked = origin.last();
        assert_eq!((asked.method.as_str(), asked.target.as_str()), ("GET", "/page"), "{path}");
        assert_eq!(asked.body, b"hello", "{path}");
    }
}
