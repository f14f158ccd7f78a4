//! Texts replaced in responses: our own, files, upstreams in any pieces, and subrequests.

use crate::support::{Client, Daemon, Origin, Setup, fetch, get};

const CONF: &str = r#"
http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        root %%DIR%%/pages;
        sub_filter_types text/plain;
        sub_filter foo bar;
        location /once { return 200 $arg_b; }
        location /many { sub_filter_once off; return 200 $arg_b; }
        location /several {
            sub_filter_once off;
            sub_filter abcd 1;
            sub_filter ab 2;
            sub_filter X '';
            sub_filter "<b>" "<i>$arg_v</i>";
            return 200 $arg_b;
        }
        location /each-once { sub_filter a 1; sub_filter ab 2; sub_filter b 3; return 200 $arg_b; }
        location /variables {
            sub_filter_once off;
            sub_filter '$arg_x' 'x($arg_x)';
            sub_filter '$arg_y' y;
            return 200 $arg_b;
        }
        location /any { sub_filter_types *; default_type a/b; return 200 foo; }
        location /other { default_type a/b; return 200 foo; }
        location /files/ { alias %%DIR%%/pages/; }
        location /dated/ { sub_filter_last_modified on; alias %%DIR%%/pages/; }
        location /pages/ { ssi on; alias %%DIR%%/pages/; }
        location /pages/part { sub_filter o 0; return 200 "foo"; }
        location /proxied { sub_filter_once off; sub_filter needle pin; sub_filter "$arg_long" long; proxy_pass http://%%ORIGIN%%; }
    }
}
"#;

fn start(origin: &Origin) -> Daemon {
    let page = "foo<!--#include virtual=\"/pages/part\" -->foo";
    Setup::new(CONF)
        .set("ORIGIN", origin.address())
        .file("pages/a.html", "a foo, a foo")
        .file("pages/page.html", page)
        .start()
}

#[test]
fn texts_are_replaced_as_nginx_does() {
    let daemon = start(&Origin::saying(""));
    let answers = [
        ("/once?b=a-foofoo", "a-barfoo"),
        ("/once?b=FOO", "bar"),
        ("/many?b=foofofoo", "barfobar"),
        ("/many?b=fofo", "fofo"),
        ("/many?b=", ""),
        ("/several?b=abcdabcabXabXX", "12c22"),
        ("/several?v=v&b=c<B>y", "c<i>v</i>y"),
        ("/each-once?b=abab", "132"),
        ("/each-once?b=aabbab", "123ab"),
        ("/variables?x=a&y=bb&b=abbAcbB", "x(a)yx(a)cy"),
        ("/variables?y=z&b=az", "ay"),
        ("/variables?b=az", "az"),
        ("/any", "bar"),
        ("/other", "foo"),
        ("/files/a.html", "a bar, a foo"),
    ];
    for (path, expected) in answers {
        assert_eq!(get(daemon.port(0), path).text(), expected, "{path}");
    }
}

#[test]
fn a_changed_answer_does_not_say_when_it_was_modified_nor_how_long_it_is() {
    let daemon = start(&Origin::saying(""));
    let response = get(daemon.port(0), "/files/a.html");
    assert_eq!(response.header("last-modified"), None);
    assert_eq!(response.header("etag"), None);
    assert_eq!(response.header("accept-ranges"), None);
    assert_eq!(response.header("content-length"), None);
    let response = get(daemon.port(0), "/dated/a.html");
    assert!(response.header("last-modified").is_some());
    assert!(response.header("etag").unwrap().starts_with("W/\""));
    let head = fetch(daemon.port(0), "HEAD /files/a.html HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!((head.status, head.text()), (200, String::new()));
}

#[test]
fn an_included_page_is_changed_by_its_own_location() {
    let daemon = start(&Origin::saying(""));
    assert_eq!(get(daemon.port(0), "/pages/page.html").text(), "barf0ofoo");
}

#[test]
fn a_match_may_come_in_pieces_of_one_byte() {
    let origin = Origin::start(|peer| {
        while peer.request().is_some() {
            peer.send("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n");
            for byte in b"needlneedleneedl" {
                peer.send([b"1\r\n", &[*byte][..], b"\r\n"].concat());
            }
            peer.send("0\r\n\r\n");
        }
    });
    let daemon = start(&origin);
    assert_eq!(get(daemon.port(0), "/proxied").text(), "needlpinneedl");
    let long = "needle".repeat(50);
    assert_eq!(
        get(daemon.port(0), &format!("/proxied?long={long}")).text(),
        "needlpinneedl",
        "longer than the body"
    );
    let mut client = Client::connect(daemon.port(0));
    for _ in 0..2 {
        assert_eq!(client.get("/proxied").text(), "needlpinneedl", "the connection goes on");
    }
}

/// While the upstream pauses, only the bytes that may be the start of a match are held back.
#[test]
fn what_cannot_become_a_match_leaves_when_the_upstream_pauses() {
    let (go, pause) = std::sync::mpsc::channel::<()>();
    let pause = std::sync::Mutex::new(pause);
    let origin = Origin::start(move |peer| {
        peer.request();
        peer.send(
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabne\r\n",
        );
        pause.lock().unwrap().recv().unwrap();
        peer.send("4\r\nedle\r\n0\r\n\r\n");
    });
    let daemon = start(&origin);
    let mut wire = Client::connect(daemon.port(0)).into_wire();
    wire.send("GET /proxied HTTP/1.1\r\nHost: a\r\n\r\n");
    wire.response_head();
    assert_eq!(wire.exactly(7), b"2\r\nab\r\n");
    go.send(()).unwrap();
    assert_eq!(wire.exactly(13), b"3\r\npin\r\n0\r\n\r\n");
}

#[test]
fn a_client_that_leaves_ends_the_exchange() {
    let origin = Origin::start(|peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n");
        while peer.try_send("a needle in a haystack ".repeat(100).as_bytes()).is_ok() {}
    });
    let daemon = start(&origin);
    let mut wire = Client::connect(daemon.port(0)).into_wire();
    wire.send("GET /proxied HTTP/1.1\r\nHost: a\r\n\r\n");
    wire.response_head();
    drop(wire);
    origin.wait_ended(1);
}

#[test]
fn an_empty_text_is_refused() {
    let exit = Setup::new("http { server { listen 127.0.0.1:%%PORT_0%%; sub_filter '' x; } }").try_start();
    let log = exit.err().expect("refused").stderr;
    assert!(log.contains("empty search pattern"), "{log}");
}
