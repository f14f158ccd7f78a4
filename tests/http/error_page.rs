//! `error_page`: other pages for statuses, other statuses, redirects, named locations, what the origin sends.

use crate::support::{Origin, Setup, get};

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
    // Nobody listens on port 1: the daemon is told so by the absence of a server for it.
    CONF.to_owned()
}

#[test]
fn pages_statuses_and_redirects() {
    let origin =
        Origin::replying(|_| b"HTTP/1.1 404 Gone Away\r\nContent-Length: 7\r\n\r\norigin\n".to_vec());
    let closed = crate::support::port::free();
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
