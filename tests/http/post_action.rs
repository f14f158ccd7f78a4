//! `post_action`: the request goes on after its response. The upstream of the action records what it is asked.

use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};

use crate::support::h2::RST_STREAM;
use crate::support::origin::ok;
use crate::support::wire::End;
use crate::support::{Client, Daemon, H2, Origin, Setup, deadline};

const CONF: &str = r#"
http {
    http2 on;
    log_format all '$uri $status $body_bytes_sent "$request_completion" $upstream_status';
    access_log %%DIR%%/access.log all;
    error_page 404 /missing;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { post_action @done; return 200 hello; }
        location /closed { post_action @done; return 444; }
        location /error { post_action @done; return 404; }
        location /passed { post_action @done; proxy_pass http://%%ORIGIN%%; }
        location /path { post_action /after; proxy_pass http://%%ORIGIN%%; }
        location /held { post_action @held; return 200 hello; }
        location /dead { post_action @dead; return 200 hello; }
        location /unknown { post_action @unknown; return 200 hello; }
        location /refused { post_action @refused; return 200 hello; }
        location /set { set $mine main; post_action @set; return 200 hello; }
        location = /missing { post_action @done; internal; return 404 "not here"; }
        location = /after { internal; proxy_pass http://%%ACTION%%; }
        location @done {
            proxy_method POST;
            proxy_set_body "";
            proxy_pass http://%%ACTION%%/done?uri=$uri&args=$args&status=$status&sent=$body_bytes_sent&whole=$request_completion;
        }
        location @held { proxy_pass http://%%ACTION%%; }
        location @dead { proxy_pass http://127.0.0.1:1; }
        location @refused { access_log %%DIR%%/refused.log all; return 444; }
        location @set { proxy_pass http://%%ACTION%%/set?mine=$mine; }
    }
    server {
        listen 127.0.0.1:%%PORT_1%%;
        post_action @all;
        location / { return 200 hello; }
        location @all { proxy_pass http://%%ACTION%%; }
    }
}
"#;

struct Site {
    daemon: Daemon,
    /// Answers `passed` to every request but `/passed/never`, whose responses break off.
    origin: Origin,
    action: Origin,
    /// Lets the action at `/held` be answered.
    go: Sender<()>,
}

fn start() -> Site {
    let (go, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let origin = Origin::start(|peer| {
        while let Some(request) = peer.request() {
            if request.target.starts_with("/passed/never") {
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
                peer.rest();
                return;
            }
            peer.send(ok(b"passed"));
        }
    });
    let action = Origin::replying(move |request| {
        if request.target == "/held" {
            let _ = wait.lock().expect("not poisoned").recv_timeout(deadline());
        }
        b"HTTP/1.1 202 Accepted\r\nContent-Length: 6\r\nSet-Cookie: a=b\r\n\r\nunseen".to_vec()
    });
    let setup = Setup::new(CONF).set("ORIGIN", origin.address()).set("ACTION", action.address());
    Site { daemon: setup.level("info").start(), origin, action, go }
}

#[test]
fn a_request_goes_on_after_its_response() {
    let site = start();
    let mut client = Client::connect(site.daemon.port(0));
    for (path, text, asked, line) in [
        ("/a?x=1", "hello", "/done?uri=/a&args=x=1&status=200&sent=5&whole=OK", "^/a 202 5 \"OK\" 202$"),
        ("/set", "hello", "/set?mine=main", "^/set 202 5 \"OK\" 202$"),
        (
            "/passed/whole",
            "passed",
            "/done?uri=/passed/whole&args=&status=200&sent=6&whole=OK",
            "^/passed/whole 202 6 \"OK\" 200 : 202$",
        ),
        // the status of an error stays
        (
            "/error",
            "not here",
            "/done?uri=/missing&args=&status=404&sent=8&whole=OK",
            "^/missing 404 8 \"OK\" 202$",
        ),
    ] {
        let answer = client.get(path);
        assert_eq!((&*answer.text(), answer.header("set-cookie")), (text, None), "{path}");
        site.daemon.wait_line("access.log", line);
        assert_eq!(site.action.last().target, asked);
    }
    assert_eq!(site.action.requests().len(), 4, "once for each");
}

#[test]
fn a_connection_that_is_closed_without_a_response_has_no_action() {
    let site = start();
    let mut client = Client::connect(site.daemon.port(0));
    client.send("GET /closed HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(client.rest(), (Vec::new(), End::Closed));
    site.daemon.wait_line("access.log", "^/closed 444 0 ");
    assert_eq!(Client::connect(site.daemon.port(0)).get("/a").text(), "hello");
    site.daemon.wait_line("access.log", "^/a 202 5 ");
    let asked: Vec<String> = site.action.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(asked, ["/done?uri=/a&args=&status=200&sent=5&whole=OK"]);
}

#[test]
fn a_path_takes_the_place_of_the_request_s() {
    let site = start();
    let mut client = Client::connect(site.daemon.port(0));
    client.send("POST /path?x=1 HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody");
    assert_eq!(client.response().text(), "passed");
    site.daemon.wait_line("access.log", "^/after 202 6 \"OK\" 200 : 202$");
    let asked = site.action.last();
    assert_eq!((&*asked.method, &*asked.target, &asked.body[..]), ("POST", "/after", &b""[..]));
    assert_eq!(site.origin.last().body, b"body");
    // the connection goes on behind a body that nothing has read
    client.send("POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody");
    assert_eq!(client.response().text(), "hello");
    assert_eq!(client.get("/c").text(), "hello");
}

#[test]
fn the_response_does_not_wait_for_the_action_but_the_next_request_does() {
    let site = start();
    let mut client = Client::connect(site.daemon.port(0));
    assert_eq!(client.get("/held").text(), "hello");
    site.action.wait_requests(1);
    client.send("GET /next HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(client.is_silent(std::time::Duration::from_millis(50)));
    site.go.send(()).expect("the origin waits");
    assert_eq!(client.response().text(), "hello");
}

#[test]
fn a_client_that_leaves_does_not_stop_it() {
    let site = start();
    let mut client = Client::connect(site.daemon.port(0));
    client.send("GET /passed/never HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(client.response_head().length(), Some(100));
    client.exactly(4);
    drop(client);
    site.action.wait_requests(1);
    let asked = "/done?uri=/passed/never&args=&status=200&sent=4&whole=";
    assert_eq!(site.action.last().target, asked);
    site.daemon.wait_line("access.log", "^/passed/never 202 4 \"\" 200 : 202$");

    let mut client = H2::connect(site.daemon.port(0));
    let stream = client.get("/passed/never", &[]);
    client.read_until("the head", |client| {
        client.answers.get(&stream).is_some_and(|answer| answer.body.len() == 4)
    });
    client.send(RST_STREAM, 0, stream, &[0, 0, 0, 8]);
    site.action.wait_requests(2);
    assert_eq!(site.action.last().target, asked);
}

#[test]
fn an_action_that_fails_is_nothing_to_the_client() {
    let site = start();
    let mut client = Client::connect(site.daemon.port(0));
    for (path, log) in [
        ("/dead", "connect\\(\\) failed"),
        ("/unknown", "could not find named location \"@unknown\""),
        ("/refused", ""),
    ] {
        assert_eq!(client.get(path).text(), "hello", "{path}");
        site.daemon.wait_log(log);
    }
    assert_eq!(client.get("/").text(), "hello", "the connection goes on");
    site.daemon.wait_line("refused.log", "^/refused 444 5 \"OK\" -$");
}

#[test]
fn an_action_has_no_action() {
    let site = start();
    let mut client = Client::connect(site.daemon.port(1));
    for count in 1..=3 {
        assert_eq!(client.get("/").text(), "hello");
        site.action.wait_requests(count);
    }
    client.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    assert_eq!(client.response().text(), "hello");
    assert_eq!(client.expect_end(), End::Closed);
    assert_eq!(site.action.requests().len(), 4);
}
