//! `userid`: the cookie that is set, the one that comes back, and invalid ones.

use std::collections::HashSet;

use crate::support::{Daemon, Response, fetch, get};

const CONF: &str = r#"
worker_processes %%WORKERS%%;
http {
    map $arg_reset $uid_reset { 1 1; log log; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        userid on;
        add_header X-Got $uid_got;
        add_header X-Set $uid_set;
        location / { return 200 ok; }
        location /all {
            userid_name id; userid_domain example.org; userid_path /all; userid_expires 1h;
            userid_flags secure httponly samesite=lax; userid_p3p "policyref=x"; userid_service 258;
            return 200 ok;
        }
        location /marked { userid_mark x; return 200 ok; }
        location /for-ever { userid_expires max; return 200 ok; }
        location /one { userid v1; return 200 ok; }
        location /log { userid log; return 200 ok; }
        location /off { userid off; return 200 ok; }
        location /error { return 404; }
    }
}
"#;

fn start(workers: usize) -> Daemon {
    crate::support::Setup::new(CONF).set("WORKERS", workers).start()
}

fn ask(daemon: &Daemon, path: &str, cookie: &str) -> Response {
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\nConnection: close\r\n\r\n");
    fetch(daemon.port(0), &request)
}

/// The cookie that a browser would send back.
fn cookie(response: &Response) -> String {
    let line = response.header("set-cookie").unwrap_or_default();
    line.split(';').next().unwrap_or_default().to_owned()
}

#[test]
fn a_new_client_gets_a_cookie_and_keeps_it() {
    let daemon = start(1);
    let first = get(daemon.port(0), "/");
    let line = first.header("set-cookie").expect("a cookie").to_owned();
    assert!(line.starts_with("uid=") && line.ends_with("==; path=/"), "{line}");
    assert_eq!(cookie(&first).len(), "uid=".len() + 24);
    let set = first.header("x-set").expect("the variable").to_owned();
    assert!(set.starts_with("uid=0100007F"), "the server's address: {set}");
    assert_eq!(first.header("x-got"), None);
    let second = ask(&daemon, "/", &format!("a=b; {}; c", cookie(&first)));
    assert_eq!((second.header("x-got"), second.header("x-set")), (Some(&*set), None));
    assert_eq!(second.header("set-cookie"), None);
    assert_eq!(ask(&daemon, "/log", &cookie(&first)).header("x-got"), Some(&*set));
    assert_eq!(ask(&daemon, "/off", &cookie(&first)).header("x-got"), None);
    assert_eq!(get(daemon.port(0), "/log").header("set-cookie"), None);
    assert!(get(daemon.port(0), "/error").header("set-cookie").is_some());
}

#[test]
fn every_attribute_goes_along() {
    let daemon = start(1);
    let response = get(daemon.port(0), "/all");
    let line = response.header("set-cookie").expect("a cookie").to_owned();
    let parts: Vec<&str> = line.split("; ").collect();
    assert!(parts[0].starts_with("id="), "{line}");
    assert!(parts[1].starts_with("expires=") && parts[1].ends_with(" GMT"), "{line}");
    assert_eq!(parts[2..], ["domain=example.org", "path=/all", "secure", "httponly", "samesite=lax"]);
    assert_eq!(response.header("p3p"), Some("policyref=x"));
    assert!(response.header("x-set").is_some_and(|set| set.starts_with("id=02010000")));
    let line = get(daemon.port(0), "/for-ever").header("set-cookie").map(str::to_owned);
    assert!(line.is_some_and(|line| line.ends_with("; expires=Thu, 31-Dec-37 23:55:55 GMT; path=/")));
    assert!(get(daemon.port(0), "/one").header("x-set").is_some_and(|set| set.starts_with("uid=00000000")));
}

#[test]
fn marks_and_resets_send_a_cookie_anew() {
    let daemon = start(1);
    let plain = cookie(&get(daemon.port(0), "/"));
    let marked = ask(&daemon, "/marked", &plain);
    assert_eq!(cookie(&marked), format!("{}x=", &plain[..plain.len() - 2]), "the same value, marked");
    assert_eq!(ask(&daemon, "/marked", &cookie(&marked)).header("set-cookie"), None);
    let reset = ask(&daemon, "/?reset=1", &plain);
    assert!(reset.header("set-cookie").is_some() && cookie(&reset) != plain);
    ask(&daemon, "/?reset=log", &plain);
    daemon.wait_log(r#"userid cookie "uid=[0-9A-F]{32}" was reset"#);
}

#[test]
fn bad_cookies_are_replaced() {
    let daemon = start(1);
    for (value, complaint) in [
        ("short", "client sent too short userid cookie \".*short\""),
        ("!!!!!!!!!!!!!!!!!!!!!!!!", "client sent invalid userid cookie"),
        ("", ""),
    ] {
        let response = ask(&daemon, "/", &format!("uid={value}"));
        assert!(response.header("set-cookie").is_some(), "{value}");
        assert_eq!(response.header("x-got"), None, "{value}");
        if !value.is_empty() {
            daemon.wait_log(complaint);
        }
    }
    let long = "A".repeat(4000);
    assert!(ask(&daemon, "/", &format!("uid={long}")).header("set-cookie").is_some(), "zeroes are no value");
    assert!(ask(&daemon, "/", "other=1").header("set-cookie").is_some());
}

#[test]
fn no_two_clients_get_the_same() {
    let daemon = start(2);
    let all: HashSet<String> = (0..200).map(|_| cookie(&get(daemon.port(0), "/"))).collect();
    assert_eq!(all.len(), 200);
}
