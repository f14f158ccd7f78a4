//! Texts added before and after a response: its types, the sources of the texts, and the order among other
//! filters.

use crate::support::{Client, Daemon, Origin, Setup, fetch, get};

const CONF: &str = r#"
http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        root %%DIR%%/pages;
        add_after_body /after;
        location /body.html { add_before_body /before; return 200 body; }
        location /after.html { return 200 body; }
        location /none.html { add_after_body ""; return 200 body; }
        location /plain { return 200 body; }
        location /typed { addition_types text/plain; return 200 body; }
        location /any { addition_types *; types { } default_type ""; return 200 body; }
        location /empty.html { add_before_body /before; return 200; }
        location /accepted.html { return 202 body; }
        location /self.html { add_before_body /self.html; add_after_body /self.html; return 200 self; }
        location /lost.html { add_before_body /nowhere; return 200 body; }
        location /dead.html { add_after_body /dead; return 200 body; }
        location /cut.html { add_after_body /proxied/cut; return 200 body; }
        location /changed.html { sub_filter foo bar; sub_filter_once off; sub_filter afterX no; return 200 fofoo-after; }
        location /half.html { sub_filter bodyX no; return 200 body; }
        location /file.html { add_before_body /before; add_after_body /proxied/ok; }
        location /proxied.html { add_before_body /before; proxy_pass http://%%ORIGIN%%/proxied; }
        location /before { default_type text/html; return 200 before; }
        location /after { default_type text/html; return 200 after; }
        location /dead { proxy_pass http://127.0.0.1:1; }
        location /proxied/ { proxy_pass http://%%ORIGIN%%; }
    }
}
"#;

fn start() -> (Origin, Daemon) {
    let origin = Origin::start(|peer| {
        while let Some(request) = peer.request() {
            match request.target.as_str() {
                "/proxied/cut" => {
                    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
                    return;
                }
                "/proxied" => peer.send(
                    "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 7\r\nETag: \"1\"\r\n\r\nproxied",
                ),
                _ => peer.send(crate::support::origin::ok(b"ok")),
            };
        }
    });
    let page = "x".repeat(100_000);
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).file("pages/file.html", page).start();
    (origin, daemon)
}

#[test]
fn answers_stand_before_and_behind_an_answer() {
    let (_origin, daemon) = start();
    let answers = [
        ("/body.html", "beforebodyafter"),
        ("/after.html", "bodyafter"),
        ("/none.html", "body"),
        ("/plain", "body"),
        ("/typed", "bodyafter"),
        ("/any", "bodyafter"),
        ("/empty.html", "beforeafter"),
        ("/accepted.html", "body"),
        ("/self.html", "selfselfself"),
        ("/proxied.html", "beforeproxiedafter"),
        ("/changed.html", "fobar-afterafter"),
        ("/half.html", "bodyafter"),
    ];
    for (path, expected) in answers {
        assert_eq!(get(daemon.port(0), path).text(), expected, "{path}");
    }
    let file = get(daemon.port(0), "/file.html").text();
    assert_eq!(file, format!("before{}ok", "x".repeat(100_000)));
}

#[test]
fn the_head_knows_that_the_body_is_another() {
    let (_origin, daemon) = start();
    let response = get(daemon.port(0), "/proxied.html");
    assert_eq!(response.header("etag"), Some("W/\"1\""));
    assert_eq!(response.header("content-length"), None);
    let head = fetch(daemon.port(0), "HEAD /file.html HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!((head.status, head.text()), (200, String::new()));
    let old = fetch(daemon.port(0), "GET /body.html HTTP/1.0\r\n\r\n");
    assert_eq!((old.text(), old.header("transfer-encoding")), ("beforebodyafter".into(), None));
    let mut client = Client::connect(daemon.port(0));
    for _ in 0..3 {
        assert_eq!(client.get("/body.html").text(), "beforebodyafter", "the connection goes on");
    }
}

#[test]
fn an_addition_that_fails_shows_its_page_and_one_that_breaks_off_cuts_the_answer() {
    let (_origin, daemon) = start();
    let lost = get(daemon.port(0), "/lost.html").text();
    assert!(
        lost.starts_with("<html>") && lost.contains("404 Not Found") && lost.ends_with("bodyafter"),
        "{lost}"
    );
    let dead = get(daemon.port(0), "/dead.html").text();
    assert!(dead.starts_with("body<html>") && dead.contains("502 Bad Gateway"), "{dead}");
    let mut wire = Client::connect(daemon.port(0)).into_wire();
    wire.send("GET /cut.html HTTP/1.1\r\nHost: a\r\n\r\n");
    wire.response_head();
    let (rest, _) = wire.rest();
    assert!(!rest.ends_with(b"0\r\n\r\n"), "{}", String::from_utf8_lossy(&rest));
}
