//! Directives that depend on the server that was chosen: `proxy_request_dynamic`, `proxy_allow_upstream` and
//! `proxy_bind_dynamic`, with `$upstream_last_addr` and `$upstream_last_server_name`.

use std::sync::{Arc, Mutex};

use crate::support::origin::ok;
use crate::support::{Client, Daemon, Origin, Setup, get};

const CONF: &str = r#"
http {
    client_max_body_size 0;
    map $upstream_last_addr $permitted { volatile; default 1; %%FIRST%% 0; }
    map $upstream_last_addr $source { volatile; default 127.0.0.2; %%FIRST%% 127.0.0.3; }
    map $upstream_last_addr $cached { default empty; %%FIRST%% first; }
    upstream pair { server %%FIRST%% max_fails=0; server %%SECOND%% backup; }
    log_format ends '$uri $status $upstream_addr $upstream_status $termination_reason';
    access_log %%DIR%%/access.log ends;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        proxy_next_upstream error http_503;
        proxy_set_header Host $upstream_last_server_name;
        proxy_set_header X-Address $upstream_last_addr;
        proxy_set_header X-Cached $cached;
        location / { proxy_pass http://pair; }
        location /anew { proxy_pass http://pair; proxy_request_dynamic on; }
        location /denied { proxy_pass http://pair; proxy_allow_upstream 1 $permitted; }
        location /other { proxy_pass http://pair; proxy_allow_upstream $permitted; proxy_next_upstream denied; }
        location /permitted { proxy_pass http://pair; proxy_allow_upstream yes $upstream_last_addr; }
        location /bound { proxy_pass http://pair; proxy_bind $source; }
        location /rebound { proxy_pass http://pair; proxy_bind $source; proxy_bind_dynamic on; }
    }
}
"#;

/// The addresses from which an origin was asked.
type Sources = Arc<Mutex<Vec<String>>>;

/// An origin that responds with this status.
fn origin(status: &'static str, sources: &Sources) -> Origin {
    let sources = Arc::clone(sources);
    Origin::start(move |peer| {
        let source = peer.stream().peer_addr().expect("connected").ip().to_string();
        while peer.request().is_some() {
            sources.lock().expect("not poisoned").push(source.clone());
            let text = String::from_utf8(ok(b"")).expect("a head");
            peer.send(text.replacen("200 OK", status, 1));
        }
    })
}

/// The daemon, with an origin that is busy, and another one, whose server has a name.
fn start() -> (Origin, Origin, Daemon) {
    start_noting(&Sources::default())
}

fn start_noting(sources: &Sources) -> (Origin, Origin, Daemon) {
    let (first, second) = (origin("503 Busy", sources), origin("200 OK", sources));
    let named = format!("localhost:{}", second.port());
    let setup = Setup::new(CONF).set("FIRST", first.address()).set("SECOND", named);
    let daemon = setup.start();
    (first, second, daemon)
}

#[test]
fn a_request_is_made_anew_for_each_server() {
    let (first, second, daemon) = start();
    for length in [0, 5, 17_000, 2_000_000] {
        let body = vec![b'x'; length];
        let mut client = Client::connect(daemon.port(0));
        client.send(format!("PUT /anew HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"));
        client.send(&body);
        assert_eq!(client.response().status, 200);
        let (asked, answered) = (first.last(), second.last());
        assert!(asked.body == body && answered.body == body, "{length}");
        assert_eq!(asked.header("host"), Some("127.0.0.1"));
        assert_eq!(answered.header("host"), Some("localhost"));
        assert_eq!(asked.header("x-address"), Some(&*first.address()));
        assert_eq!(answered.header("x-address"), Some(&*second.address()));
        assert_eq!(answered.header("x-cached"), Some("first"), "a map that is not volatile keeps its value");
    }
}

#[test]
fn otherwise_it_is_made_before_a_server_is_chosen() {
    let (first, second, daemon) = start();
    assert_eq!(get(daemon.port(0), "/").status, 200);
    for origin in [&first, &second] {
        let seen = origin.last();
        assert_eq!((seen.header("host"), seen.header("x-address")), (Some("pair"), None));
        assert_eq!(seen.header("x-cached"), Some("empty"));
    }
}

#[test]
fn a_server_that_is_denied_is_not_asked() {
    let (first, second, daemon) = start();
    assert_eq!(get(daemon.port(0), "/denied").status, 502);
    daemon.wait_log(r"\[error\] .* connection to upstream denied while connecting to upstream, .*/denied");
    let address = first.address();
    let line = daemon.wait_line("access.log", "/denied");
    assert_eq!(line, format!("/denied 502 {address} 502 proxy_error/connect/proxy_allow_upstream"));
    assert_eq!((first.accepted(), second.accepted()), (0, 0));

    assert_eq!(get(daemon.port(0), "/other").status, 200);
    let line = daemon.wait_line("access.log", "/other");
    assert_eq!(line, format!("/other 200 {address}, {} 502, 200 ok", second.address()));
    assert_eq!((first.accepted(), second.accepted()), (0, 1));

    assert_eq!(get(daemon.port(0), "/permitted").status, 200);
    assert_eq!(first.accepted(), 1);
}

#[test]
fn the_local_address_is_chosen_once_or_for_each_server() {
    let sources = Sources::default();
    let (_first, _second, daemon) = start_noting(&sources);
    for path in ["/bound", "/rebound"] {
        assert_eq!(get(daemon.port(0), path).status, 200, "{path}");
    }
    let expected = ["127.0.0.2", "127.0.0.2", "127.0.0.3", "127.0.0.2"];
    assert_eq!(*sources.lock().expect("not poisoned"), expected, "the busy server first, twice");
}
