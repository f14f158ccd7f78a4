//! `client_body_early_read`: the body is there before the first rewrite rule and the choice of a location.

use crate::support::daemon::is_stand_in;
use crate::support::h2::{DATA, END_STREAM};
use crate::support::origin::ok;
use crate::support::wire::End;
use crate::support::{Client, Daemon, H2, Origin, Setup};

const CONF: &str = r#"
http {
    keepalive_timeout 0;
    log_format early '$status $request_uri';
    access_log %%DIR%%/early.log early;
    map $http_content_type $is_json { application/json 1; }
    map $request_body $method { ~"method":"(\w+)" $1; }
    client_body_early_read $is_json $arg_early;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        http2 on;
        client_max_body_size 600;
        client_body_buffer_size 256;
        add_header X-File "$request_body_file" always;
        error_page 413 /large;
        rewrite ^/rpc$ /rpc/$method last;
        location / { keepalive_timeout 60s; return 200 "[$request_body]"; }
        location /rpc/ { keepalive_timeout 60s; return 200 "$uri [$request_body]"; }
        location /rpc/pass { keepalive_timeout 60s; client_max_body_size 0; proxy_pass http://%%ORIGIN%%; }
        location /small { client_max_body_size 10; return 200 small; }
        location = /large { internal; return 413 "too large"; }
    }
    server {
        listen 127.0.0.1:%%PORT_1%%;
        client_body_early_read 0 "";
        return 200 "[$request_body]";
    }
    server {
        listen 127.0.0.1:%%PORT_2%%;
        client_body_timeout 100ms;
        return 200 "[$request_body]";
    }
}
"#;

fn start(origin: &Origin) -> Option<Daemon> {
    // the directive is newer than any packaged nginx
    (!is_stand_in()).then(|| Setup::new(CONF).set("ORIGIN", origin.address()).level("info").start())
}

fn post(path: &str, kind: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: h\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

fn chunked(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    )
}

const JSON: &str = "application/json";
const BODY: &str = r#"{"method":"add"}"#;

#[test]
fn rewrites_and_locations_may_depend_on_the_body() {
    let origin = Origin::replying(|request| ok(&request.body));
    let Some(daemon) = start(&origin) else { return };
    let mut client = Client::connect(daemon.port(0));
    // the location's keepalive_timeout decides, not the server's
    for _ in 0..2 {
        client.send(post("/rpc", JSON, BODY));
        assert_eq!(client.response().text(), format!("/rpc/add [{BODY}]"));
        client.send(chunked("/rpc", BODY));
        assert_eq!(client.response().text(), format!("/rpc/add [{BODY}]"));
        client.send(post("/rpc", JSON, r#"{"method":"pass"}"#));
        assert_eq!(client.response().text(), r#"{"method":"pass"}"#, "an upstream gets it");
    }
    client.send(post("/rpc", "text/plain", BODY));
    assert_eq!(client.response().text(), "/rpc/ []", "no condition holds");
    client.send(post("/x?early=1", "text/plain", "second"));
    assert_eq!(client.response().text(), "[second]", "one condition is enough");
    client.send("GET /x?early=1 HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(client.response().text(), "[]");
    let mut client = Client::connect(daemon.port(1));
    client.send(post("/", JSON, BODY));
    assert_eq!(client.response().text(), "[]", "the server's conditions replace the outer ones");
}

#[test]
fn a_client_that_waits_for_permission_gets_it() {
    let origin = Origin::echo();
    let Some(daemon) = start(&origin) else { return };
    let mut client = Client::connect(daemon.port(0));
    client.send(format!(
        "POST /rpc HTTP/1.1\r\nHost: h\r\nContent-Type: {JSON}\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        BODY.len()
    ));
    assert_eq!(client.response_head().status, 100);
    client.send(BODY);
    assert_eq!(client.response().text(), format!("/rpc/add [{BODY}]"));
}

#[test]
fn a_long_body_is_in_a_file_and_a_longer_one_is_refused() {
    let origin = Origin::replying(|request| ok(&request.body));
    let Some(daemon) = start(&origin) else { return };
    let long = format!("{}{}", r#"{"method":"pass"}"#, " ".repeat(500));
    let mut client = Client::connect(daemon.port(0));
    client.send(post("/x", JSON, &long));
    let answer = client.response();
    assert_eq!(answer.text(), "[]", "a body in a file is in no variable");
    assert!(answer.header("x-file").is_some_and(|path| path.contains("client_body_temp")), "{answer:?}");
    client.send(post("/rpc/pass", JSON, &long));
    assert_eq!(client.response().text(), long);
    for request in [post("/rpc/pass", JSON, &"a".repeat(601)), chunked("/rpc/pass", &"a".repeat(601))] {
        // the server's limit counts, though the location has none
        let mut client = Client::connect(daemon.port(0));
        client.send(request);
        let answer = client.response();
        assert_eq!((answer.status, &*answer.text()), (413, "too large"));
    }
    daemon.wait_log("client intended to send too large body: 601 bytes");
    for request in [post("/small", JSON, &"a".repeat(11)), chunked("/small", &"a".repeat(11))] {
        let mut client = Client::connect(daemon.port(0));
        client.send(request);
        assert_eq!(client.response().status, 413, "the location's limit counts as well");
    }
}

#[test]
fn a_client_that_sends_nothing_is_not_waited_for() {
    let origin = Origin::echo();
    let Some(daemon) = start(&origin) else { return };
    let mut client = Client::connect(daemon.port(2));
    client
        .send(format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Type: {JSON}\r\nContent-Length: 9\r\n\r\nhalf"));
    assert_eq!(client.response().status, 408);
    assert_eq!(client.expect_end(), End::Closed);
    daemon.wait_line("early.log", "^408 /$");
    let mut client = Client::connect(daemon.port(2));
    client.send(format!(
        "POST /left HTTP/1.1\r\nHost: h\r\nContent-Type: {JSON}\r\nContent-Length: 9\r\n\r\nhalf"
    ));
    drop(client);
    daemon.wait_line("early.log", "^4(00|99) /left$");
}

#[test]
fn streams_of_http_2_have_it_too() {
    let origin = Origin::echo();
    let Some(daemon) = start(&origin) else { return };
    let mut client = H2::connect(daemon.port(0));
    let stream = client.open("POST", "/rpc", &[("content-type", JSON)], 0);
    client.send(DATA, 0, stream, &BODY.as_bytes()[..5]);
    client.send(DATA, END_STREAM, stream, &BODY.as_bytes()[5..]);
    assert_eq!(client.answer(stream).text(), format!("/rpc/add [{BODY}]"));
}

#[test]
fn it_is_a_server_s() {
    if is_stand_in() {
        return;
    }
    let conf = "http { server { listen 127.0.0.1:%%PORT_0%%; location / { client_body_early_read 1; } } }";
    let output = Setup::new(conf).run(&["-t"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("\"client_body_early_read\" directive is not allowed here"), "{said}");
}
