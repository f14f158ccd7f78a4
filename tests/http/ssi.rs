//! Server side includes: commands, conditions, includes of files and of upstreams, and responses that cannot
//! be used.

use crate::support::daemon::is_stand_in;
use crate::support::{Client, Daemon, Origin, Setup, fetch, get};

const CONF: &str = r#"
http {
    log_format uri "$uri $status";
    access_log %%DIR%%/access.log uri;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        root %%DIR%%/pages;
        location / { ssi on; }
        location /plain/ { alias %%DIR%%/pages/; }
        location /silent/ { ssi on; ssi_silent_errors on; alias %%DIR%%/pages/; }
        location /dated/ { ssi on; ssi_last_modified on; alias %%DIR%%/pages/; }
        location /text { return 200 "text $arg_x"; }
        location /none { return 204; }
        location /proxied { ssi on; proxy_pass http://%%ORIGIN%%; }
        location /raw { proxy_pass http://%%ORIGIN%%; }
    }
}
"#;

fn start(pages: &[(&str, &str)]) -> (Origin, Daemon) {
    let origin = Origin::start(|peer| {
        while let Some(request) = peer.request() {
            match request.target.as_str() {
                "/raw/cut" => {
                    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
                    return;
                }
                "/raw/big" => peer.send(crate::support::origin::ok(&[b'x'; 100_000])),
                "/raw/upgrade" => peer.send("HTTP/1.1 101 Yes\r\nUpgrade: a\r\nConnection: upgrade\r\n\r\n"),
                _ => {
                    // A command in pieces of one byte.
                    peer.send(
                        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n",
                    );
                    for byte in b"a<!--#echo var=\"arg_x\" default='-->' -->b<!-- no --><!" {
                        peer.send([b"1\r\n", &[*byte][..], b"\r\n"].concat());
                    }
                    peer.send("0\r\n\r\n")
                }
            };
        }
    });
    let mut setup = Setup::new(CONF).set("ORIGIN", origin.address()).level("info");
    for (name, text) in pages {
        setup = setup.file(&format!("pages/{name}"), text);
    }
    (origin, setup.start())
}

/// The body of a page with this text.
fn page(text: &str, query: &str) -> String {
    let (_origin, daemon) = start(&[("a.html", text), ("b.html", "B<!--#echo var=\"args\" -->")]);
    let response = get(daemon.port(0), &format!("/a.html{query}"));
    assert_eq!(response.status, 200);
    response.text()
}

#[test]
fn values_and_conditions() {
    let pages = [
        ("<!--#echo var=\"arg_x\" -->", "&lt;1&gt;"),
        ("<!--#echo var=\"arg_x\" encoding=\"none\" -->", "<1>"),
        ("<!--#echo var=\"arg_x\" encoding=\"url\" -->", "%3C1%3E"),
        ("<!--#echo var=\"arg_none\" -->", "(none)"),
        ("<!--#echo var=\"arg_none\" default=\"no\" -->", "no"),
        ("<!--#set var=\"A\" value=\"$arg_y-${arg_y}\\$\" --><!--#echo var=\"a\" -->", "2-2$"),
        ("<!--#if expr=\"$arg_y\" -->y<!--#else -->n<!--#endif -->", "y"),
        (
            "<!--#if expr=\"$arg_y = 3\" -->3<!--#elif expr=\"$arg_y != 2\" -->no<!--#else -->2<!--#endif -->!",
            "2!",
        ),
        ("<!--#if expr=\"$arg_y = /^(.)$/\" --><!--#echo var=\"1\" --><!--#endif -->", "2"),
        ("<!--#if expr=\"$no\" --><!--#if expr=\"$arg_y\" -->a<!--#endif -->b<!--#endif -->c", "c"),
        ("<!--#config timefmt=\"%Y\" --><!--#if expr=\"$date_gmt = /^20..$/\" -->y<!--#endif -->", "y"),
        ("a <!-- b --> <!--# c", "a <!-- b --> <!--# c"),
    ];
    let files: Vec<(String, &str)> =
        pages.iter().enumerate().map(|(at, (text, _))| (format!("{at}.html"), *text)).collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), *text)).collect();
    let (_origin, daemon) = start(&files);
    for (at, (text, expected)) in pages.iter().enumerate() {
        // nginx has only one level of conditions
        if is_stand_in() && text.matches("#if").count() > 1 {
            continue;
        }
        assert_eq!(get(daemon.port(0), &format!("/{at}.html?x=<1>&y=2")).text(), *expected, "{text}");
    }
}

#[test]
fn includes_take_their_place_in_order() {
    let text = concat!(
        "1<!--#include virtual=\"/b.html?q\" -->2<!--#include virtual=\"/text?x=$arg_n\" -->3",
        "<!--#include virtual=\"/none\" -->4<!--#include virtual=\"/raw/big\" set=\"big\" -->",
    );
    let text = text.replace("<!--#include virtual=\"/raw/big\" set=\"big\" -->", "");
    assert_eq!(page(&text, "?n=7"), "1Bq2text 734");
    let kept = "<!--#include virtual=\"/text?x=5\" set=\"v\" --><!--#if expr=\"$v = /5/\" -->(<!--#echo var=\"v\" -->)<!--#endif -->";
    assert_eq!(page(kept, ""), "(text 5)");
    let stub = "<!--#block name=\"s\" -->S<!--#echo var=\"arg_n\" --><!--#endblock -->|<!--#include virtual=\"/none\" stub=\"s\" -->|<!--#include virtual=\"/text\" stub=\"s\" -->";
    assert_eq!(page(stub, "?n=1"), "|S1|text ");
    assert!(page("<!--#include virtual=\"/absent\" -->", "").contains("404 Not Found"));
}

#[test]
fn only_the_page_itself_is_logged_and_counted() {
    let (_origin, daemon) = start(&[("a.html", "<!--#include virtual=\"/text\" -->")]);
    assert_eq!(get(daemon.port(0), "/a.html").text(), "text ");
    assert_eq!(get(daemon.port(0), "/text").text(), "text ");
    daemon.wait_line("access.log", "^/text 200");
    assert_eq!(daemon.read("access.log"), "/a.html 200\n/text 200\n");
}

#[test]
fn heads_tell_neither_length_nor_date() {
    let (_origin, daemon) = start(&[("a.html", "a"), ("a.txt", "<!--#echo var=\"uri\" -->")]);
    for request in ["GET /a.html", "HEAD /a.html"] {
        let response =
            fetch(daemon.port(0), &format!("{request} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
        for name in ["content-length", "last-modified", "etag", "accept-ranges"] {
            assert_eq!(response.header(name), None, "{request}: {name}");
        }
    }
    assert!(get(daemon.port(0), "/dated/a.html").header("last-modified").is_some());
    let plain = get(daemon.port(0), "/a.txt");
    assert_eq!(plain.text(), "<!--#echo var=\"uri\" -->", "another type is left alone");
    assert!(plain.header("last-modified").is_some());
    let ranged = "GET /a.html HTTP/1.1\r\nHost: a\r\nRange: bytes=0-0\r\nConnection: close\r\n\r\n";
    assert_eq!(fetch(daemon.port(0), ranged).status, 200);
}

#[test]
fn commands_that_fail_say_so() {
    let error = "[an error occurred while processing the directive]";
    let (_origin, daemon) = start(&[
        ("a.html", "1<!--#wibble -->2<!--#echo -->3"),
        ("b.html", "<!--#config errmsg=\"oops\" --><!--#include virtual=\"/../x\" -->"),
        ("c.html", "<!--#else --><!--#endif -->"),
    ]);
    assert_eq!(get(daemon.port(0), "/a.html").text(), format!("1{error}2{error}3"));
    assert_eq!(get(daemon.port(0), "/silent/a.html").text(), "123");
    assert_eq!(get(daemon.port(0), "/b.html").text(), "oops");
    if !is_stand_in() {
        assert_eq!(get(daemon.port(0), "/c.html").text(), format!("{error}{error}"));
    }
    daemon.wait_log("invalid SSI command: \"wibble\"");
}

#[test]
fn a_page_that_includes_itself_ends() {
    let (_origin, daemon) = start(&[("a.html", "x<!--#include virtual=\"/a.html\" -->"), ("b.html", "b")]);
    let mut client = Client::connect(daemon.port(0));
    client.send("GET /a.html HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    client.rest();
    daemon.wait_log("subrequests cycle while processing \"/a.html\"");
    assert_eq!(get(daemon.port(0), "/b.html").text(), "b", "the worker goes on");
}

#[test]
fn a_command_may_come_in_single_bytes() {
    let (_origin, daemon) = start(&[]);
    assert_eq!(get(daemon.port(0), "/proxied?x=1").text(), "a1b<!-- no --><!");
    assert_eq!(get(daemon.port(0), "/proxied").text(), "a--&gt;b<!-- no --><!");
}

#[test]
fn an_include_that_breaks_off_cuts_the_page() {
    let (_origin, daemon) = start(&[
        ("cut.html", "a<!--#include virtual=\"/raw/cut\" -->b"),
        ("upgrade.html", "a<!--#include virtual=\"/raw/upgrade\" -->b"),
        ("kept.html", "a<!--#include virtual=\"/raw/big\" set=\"x\" -->b"),
    ]);
    for path in ["cut", "kept"] {
        let mut client = Client::connect(daemon.port(0));
        client.send(format!(
            "GET /{path}.html HTTP/1.1\r\nHost: a\r\nUpgrade: a\r\nConnection: upgrade\r\n\r\n"
        ));
        let (bytes, _) = client.rest();
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains("\r\n0\r\n\r\n"), "{path}: the end must not look whole: {text}");
    }
    // A response that cannot be used is replaced by an error page; nginx ends the connection.
    if !is_stand_in() {
        let page = "GET /upgrade.html HTTP/1.1\r\nHost: a\r\nUpgrade: a\r\nConnection: upgrade\r\n\r\n";
        let response = fetch(daemon.port(0), page);
        assert!(response.text().starts_with("a<html>") && response.text().contains("502 Bad Gateway"));
    }
}

#[test]
fn an_include_that_does_not_begin_at_the_root_lies_beside_its_page() {
    let page = "[<!--#include virtual=\"part.html?x=1\" -->][<!--#include file=\"/text?x=2\" -->]";
    let (_origin, daemon) = start(&[("deep down/page.html", page), ("deep down/part.html", "part")]);
    assert_eq!(get(daemon.port(0), "/deep%20down/page.html").text(), "[part][text 2]");
}

/// nginx keeps a request's body for the subrequests of its answer.
#[test]
fn the_includes_of_a_proxied_page_have_the_request_s_body() {
    let origin = Origin::replying(|request| {
        let page = match request.target.as_str() {
            "/page" => "[<!--#include virtual=\"/part\" -->]".to_owned(),
            _ => format!("{}:{}", request.method, String::from_utf8_lossy(&request.body)),
        };
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n";
        format!("{head}Content-Length: {}\r\n\r\n{page}", page.len()).into_bytes()
    });
    let conf = "http { server { listen 127.0.0.1:%%PORT_0%%; ssi on; client_body_temp_path %%DIR%%/bodies;
        location / { proxy_pass http://%%ORIGIN%%; }
        location /file/ { client_body_in_file_only clean; proxy_pass http://%%ORIGIN%%/; } } }";
    let daemon = Setup::new(conf).set("ORIGIN", origin.address()).start();
    for path in ["/page", "/file/page"] {
        let ask =
            format!("PUT {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody");
        assert_eq!(fetch(daemon.port(0), &ask).text(), "[GET:body]", "{path}");
    }
}

#[test]
fn how_much_of_an_answer_is_kept_says_the_location_that_answers() {
    let (_origin, daemon) = {
        let origin = Origin::saying(&"x".repeat(100));
        let conf = "http { server { listen 127.0.0.1:%%PORT_0%%; root %%DIR%%/pages;
            location / { ssi on; subrequest_output_buffer_size 10; }
            location /small { subrequest_output_buffer_size 99; proxy_pass http://%%ORIGIN%%; }
            location /large { subrequest_output_buffer_size 100; proxy_pass http://%%ORIGIN%%; } } }";
        let page = "<!--#include virtual=\"$args\" set=\"x\" -->[<!--#echo var=\"x\" -->]";
        let daemon = Setup::new(conf).set("ORIGIN", origin.address()).file("pages/a.html", page).start();
        (origin, daemon)
    };
    assert_eq!(get(daemon.port(0), "/a.html?/large").text(), format!("[{}]", "x".repeat(100)));
    let mut wire = Client::connect(daemon.port(0)).into_wire();
    wire.send("GET /a.html?/small HTTP/1.1\r\nHost: a\r\n\r\n");
    wire.rest();
    daemon.wait_log("too big subrequest response: more than 99 bytes");
}

/// Pages of includes from one origin.
fn including(origin: &Origin, page: &str) -> Daemon {
    let conf = "http { server { listen 127.0.0.1:%%PORT_0%%; root %%DIR%%/pages;
        location / { ssi on; }
        location /part/ { proxy_pass http://%%ORIGIN%%; } } }";
    Setup::new(conf).set("ORIGIN", origin.address()).file("pages/a.html", page).level("info").start()
}

/// The includes of these parts, with a number between them.
fn parts(count: usize) -> String {
    (0..count).map(|index| format!("{index}<!--#include virtual=\"/part/{index}\" -->")).collect()
}

/// An origin that answers in reverse order: it sends no response before all requests have arrived.
fn backwards(count: usize) -> Origin {
    use std::sync::{Condvar, Mutex};
    let (left, next) = (Mutex::new(count), Condvar::new());
    Origin::start(move |peer| {
        while let Some(request) = peer.request() {
            let index: usize = request.target.rsplit('/').next().unwrap().parse().unwrap();
            let guard = left.lock().unwrap();
            let (mut left, late) =
                next.wait_timeout_while(guard, crate::support::deadline(), |left| *left > index + 1).unwrap();
            assert!(!late.timed_out(), "all requests are there");
            *left = index;
            next.notify_all();
            drop(left);
            peer.send(crate::support::origin::ok(format!("[{index}]").repeat(20_000).as_bytes()));
        }
    })
}

#[test]
fn includes_are_asked_for_at_the_same_time_and_stand_in_their_order() {
    let origin = backwards(6);
    let daemon = including(&origin, &parts(6));
    let expected: String =
        (0..6).map(|index| format!("{index}{}", format!("[{index}]").repeat(20_000))).collect();
    assert!(get(daemon.port(0), "/a.html").text() == expected);
}

#[test]
fn a_page_may_have_more_includes_than_run_at_a_time() {
    let origin = Origin::replying(|request| crate::support::origin::ok(request.target.as_bytes()));
    let daemon = including(&origin, &parts(40));
    let expected: String = (0..40).map(|index| format!("{index}/part/{index}")).collect();
    let mut client = Client::connect(daemon.port(0));
    for _ in 0..3 {
        assert_eq!(client.get("/a.html").text(), expected);
    }
}

#[test]
fn an_include_that_was_begun_and_breaks_off_cuts_the_page() {
    let origin = Origin::start(|peer| {
        while let Some(request) = peer.request() {
            if request.target == "/part/2" {
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
                return;
            }
            peer.send(crate::support::origin::ok(b"ok"));
        }
    });
    let daemon = including(&origin, &parts(4));
    let mut wire = Client::connect(daemon.port(0)).into_wire();
    wire.send("GET /a.html HTTP/1.1\r\nHost: a\r\n\r\n");
    wire.response_head();
    let (body, _) = wire.rest();
    let body = String::from_utf8_lossy(&body).into_owned();
    assert!(!body.ends_with("0\r\n\r\n") && !body.contains("\r\n3\r\n"), "{body}");
    daemon.wait_log("the answer of the subrequest \"/part/2\" broke off");
}

#[test]
fn a_client_that_leaves_ends_all_includes() {
    let origin = Origin::start(|peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\n\r\nbegin");
        peer.rest(); // until the daemon gives up
    });
    let daemon = including(&origin, &parts(4));
    let mut wire = Client::connect(daemon.port(0)).into_wire();
    wire.send("GET /a.html HTTP/1.1\r\nHost: a\r\n\r\n");
    wire.response_head();
    origin.wait_requests(4);
    drop(wire);
    origin.wait_ended(4);
}

#[test]
fn what_follows_an_include_waits_for_it_where_it_says_so() {
    let page = "<!--#include virtual=\"/set.html\" wait=\"yes\" --><!--#echo var=\"x\" -->";
    let (_origin, daemon) = start(&[("a.html", page), ("set.html", "<!--#set var=\"x\" value=\"1\" -->")]);
    assert_eq!(get(daemon.port(0), "/a.html").text(), "1");
}
