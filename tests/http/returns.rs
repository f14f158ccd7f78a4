//! `return`: statuses, texts, redirects, and variables in them.

use crate::support::{Client, Daemon, fetch, get};

const CONF: &str = r#"
http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        server_name named other;
        location /text { return 200 "text with $arg_x and $host\n"; }
        location /typed { default_type text/css; return 200 "typed"; }
        location /json { default_type application/json; return 200 '{"a": 1}'; }
        location /empty { return 200 ""; }
        location /created { return 201; }
        location /found { return 302 /x; }
        location /login { return 401; }
        location /no-text { return 503 ""; }
        location /no-content { return 204 "text"; }
        location /plain-to-tls { return 497; }
        location /spoken { return 444 "spoken"; }
        location /whole { return 200 "$request_uri"; }
        location /gone { return 410; }
        location /forbidden { return 403 "mine"; }
        location /moved { return 301 /new; }
        location /moved-query { return 302 /new?$args; }
        location /absolute { return 307 https://example.org$request_uri; }
        location /bare { return http://example.org/bare; }
        location /relative { absolute_redirect off; return 308 /new; }
        location /named { server_name_in_redirect on; return 301 /new; }
        location /portless { port_in_redirect off; return 301 /new; }
        location /no-status { return 444; }
    }
}
"#;

#[test]
fn texts_have_a_length_and_a_type() {
    let daemon = Daemon::start(CONF);
    let response = get(daemon.port(0), "/text?x=7");
    assert_eq!((response.status, response.text().as_str()), (200, "text with 7 and localhost\n"));
    assert_eq!(response.header("content-type"), Some("text/plain"));
    assert_eq!(response.length(), Some(response.body.len()));
    assert_eq!(get(daemon.port(0), "/typed").header("content-type"), Some("text/css"));
    assert_eq!(get(daemon.port(0), "/json").header("content-type"), Some("application/json"));
    let response = get(daemon.port(0), "/empty");
    assert_eq!((response.status, response.length()), (200, Some(0)));
    assert_eq!(get(daemon.port(0), "/forbidden").text(), "mine");
}

#[test]
fn every_response_says_when_and_who() {
    let daemon = Daemon::start(CONF);
    let response = get(daemon.port(0), "/text");
    assert!(response.header("server").is_some());
    let date = response.header("date").expect("a Date");
    assert!(date.ends_with(" GMT") && date.len() == 29, "{date}");
}

#[test]
fn statuses_have_a_page() {
    let daemon = Daemon::start(CONF);
    let response = get(daemon.port(0), "/gone");
    assert_eq!((response.status, response.reason.as_str()), (410, "Gone"));
    assert_eq!(response.header("content-type"), Some("text/html"));
    assert!(response.text().contains("410 Gone"), "{}", response.text());
    assert_eq!(get(daemon.port(0), "/created").status, 201);
    assert!(get(daemon.port(0), "/found").text().contains("<h1>302 Found</h1>"));
    assert!(get(daemon.port(0), "/login").text().contains("<title>401 Authorization Required</title>"));
    assert_eq!(get(daemon.port(0), "/created").header("content-type"), Some("text/plain"));
    let response = get(daemon.port(0), "/plain-to-tls");
    assert_eq!((response.status, response.reason.as_str()), (400, "Bad Request"));
    assert!(response.text().contains("<title>400 The plain HTTP request was sent to HTTPS port</title>"));
    assert_eq!(get(daemon.port(0), "/spoken").text(), "spoken", "444 with a text is a status like others");
    assert!(get(daemon.port(0), "/no-text").text().contains("503 Service"), "an empty text is none");
    let response = get(daemon.port(0), "/no-content");
    assert_eq!((response.status, response.header("content-type"), response.body.len()), (204, None, 0));
}

#[test]
fn the_request_uri_begins_with_the_path() {
    let daemon = Daemon::start(CONF);
    for target in ["/whole/%41?a", "http://asked.test/whole/%41?a"] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: asked.test\r\nConnection: close\r\n\r\n");
        assert_eq!(fetch(daemon.port(0), &request).text(), "/whole/%41?a", "{target}");
    }
}

#[test]
fn redirects_have_a_location() {
    let daemon = Daemon::start(CONF);
    let port = daemon.port(0);
    for (path, status, location) in [
        ("/moved", 301, format!("http://localhost:{port}/new")),
        ("/moved-query?a=b&c", 302, format!("http://localhost:{port}/new?a=b&c")),
        ("/absolute?q", 307, "https://example.org/absolute?q".into()),
        ("/bare", 302, "http://example.org/bare".into()),
        ("/relative", 308, "/new".into()),
    ] {
        let response = get(port, path);
        assert_eq!(
            (response.status, response.header("location")),
            (status, Some(location.as_str())),
            "{path}"
        );
    }
}

#[test]
fn a_redirect_names_the_host_that_was_asked_for() {
    let daemon = Daemon::start(CONF);
    let port = daemon.port(0);
    for (path, host, location) in [
        ("/moved", "Host: asked\r\n", format!("http://asked:{port}/new")),
        ("/moved", "", format!("http://127.0.0.1:{port}/new")),
        ("/named", "Host: asked\r\n", format!("http://named:{port}/new")),
        ("/portless", "Host: asked\r\n", "http://asked/new".into()),
    ] {
        let response = fetch(port, &format!("GET {path} HTTP/1.0\r\n{host}\r\n"));
        assert_eq!(response.header("location"), Some(location.as_str()), "{path} {host}");
    }
}

#[test]
fn status_444_closes_without_a_word() {
    let daemon = Daemon::start(CONF);
    let mut client = Client::connect(daemon.port(0));
    client.send("GET /no-status HTTP/1.1\r\nHost: localhost\r\n\r\n");
    client.expect_end();
}

const SILENT: &str = r#"
http {
    limit_req_zone $server_port zone=z:1m rate=1r/m;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /tried { try_files /none =444; }
        location /tried-499 { try_files /none =499; }
        location /counted { limit_req zone=z; limit_req_status 444; try_files /none =404; }
        location /paged { error_page 444 = /said; try_files /none =444; }
        location /said { return 200 "said"; }
        location /denied { error_page 403 = /drop; deny all; }
        location /drop { return 444 ""; }
        location /asked { auth_request /drop; try_files /none =404; }
        location /interim { try_files /none =100; }
    }
}
"#;

#[test]
fn a_status_that_drops_a_client_gets_no_answer_whatever_names_it() {
    let daemon = Daemon::start(SILENT);
    assert_eq!(get(daemon.port(0), "/counted").status, 404);
    for path in ["/counted", "/tried", "/tried-499", "/paged", "/denied", "/drop", "/asked", "/interim"] {
        let mut client = Client::connect(daemon.port(0));
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        client.expect_end();
    }
}
