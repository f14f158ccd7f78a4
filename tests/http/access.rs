//! `allow`, `deny`, `satisfy` and `limit_except`.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use crate::support::daemon::is_stand_in;
use crate::support::{Client, Daemon, Setup, get};

const CONF: &str = r#"
http {
    deny 127.0.0.9;
    server {
        listen 127.0.0.1:%%PORT_1%%;
        listen unix:%%DIR%%/socket;
        location / { return 200 "backend $request_method"; }
        location /unix-only { root %%DIR%%; allow unix:; deny all; }
        location /no-unix { root %%DIR%%; deny unix:; }
    }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        root %%DIR%%;
        location /open { }
        location /closed { deny all; }
        location /first { allow 127.0.0.1; deny all; }
        location /order { deny all; allow all; }
        location /network { deny 127.0.0.0/8; }
        location /others { allow 10.0.0.0/8; allow 2001:db8::/32; allow unix:; deny all; }
        location /none { deny 10.0.0.0/8; deny ::1; }
        location /any { satisfy any; deny all; }
        location /any-allowed { satisfy any; allow all; }
        location /realip { set_real_ip_from 127.0.0.1; real_ip_header X-Real-IP; allow 192.0.2.1; deny all; }
        location /page { deny all; error_page 403 =200 /why; }
        location /why { return 200 "why"; }
        location /methods {
            proxy_pass http://127.0.0.1:%%PORT_1%%;
            limit_except GET { deny all; }
        }
        location /posts {
            proxy_pass http://127.0.0.1:%%PORT_1%%;
            limit_except post { allow 10.0.0.1; deny all; }
        }
        location /elsewhere {
            proxy_pass http://127.0.0.1:1;
            limit_except GET { proxy_pass http://127.0.0.1:%%PORT_1%%; }
        }
    }
}
"#;

fn start() -> Daemon {
    Setup::new(CONF).file("ok", "ok").start()
}

fn status(daemon: &Daemon, method: &str, path: &str) -> u16 {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: a\r\nX-Real-IP: 192.0.2.1\r\nX-Forwarded-For: 10.0.0.1\r\n\
         Content-Length: 0\r\nConnection: close\r\n\r\n"
    );
    let mut client = Client::connect(daemon.port(0));
    client.send(request);
    client.response_head().status
}

#[test]
fn the_first_rule_that_fits_decides() {
    let daemon = start();
    for (path, expected) in [
        ("/open", 404),
        ("/closed", 403),
        ("/first", 404),
        ("/order", 403),
        ("/network", 403),
        ("/others", 403),
        ("/none", 404),
        ("/any", 403),
        ("/any-allowed", 404),
        ("/realip", 404),
        ("/page", 200),
    ] {
        assert_eq!(status(&daemon, "GET", path), expected, "{path}");
    }
    daemon.wait_log(r#"access forbidden by rule, client: 127.0.0.1, .*request: "GET /closed"#);
    if !is_stand_in() {
        daemon.wait_log(r#"access forbidden by rule.*GET /closed.*, rule: \S+pronghorn\.conf:\d+"#);
    }
    assert_eq!(get(daemon.port(0), "/realip").status, 403, "nobody says who it is");
}

#[test]
fn unix_sockets_are_clients_of_their_own() {
    let daemon = start();
    let ask = |path: &str| {
        let mut stream = UnixStream::connect(daemon.path("socket")).expect("the daemon listens");
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").expect("it takes a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    assert_eq!([ask("/unix-only"), ask("/no-unix")], ["404", "403"]);
    assert_eq!(
        [get(daemon.port(1), "/unix-only").status, get(daemon.port(1), "/no-unix").status],
        [403, 404]
    );
}

#[test]
fn limit_except_is_for_all_other_methods() {
    let daemon = start();
    let methods = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "WIBBLE"];
    let statuses = |path| methods.map(|method| status(&daemon, method, path));
    assert_eq!(statuses("/methods"), [200, 200, 403, 403, 403, 403, 403]);
    assert_eq!(statuses("/posts"), [403, 403, 200, 403, 403, 403, 403]);
    assert_eq!([status(&daemon, "POST", "/elsewhere"), status(&daemon, "GET", "/elsewhere")], [200, 502]);
}

#[test]
fn wrong_rules_are_named() {
    let cases = [
        ("allow nobody;", "invalid parameter \"nobody\""),
        ("deny 10.0.0.0/33;", "invalid parameter \"10.0.0.0/33\""),
        ("satisfy some;", "invalid value \"some\""),
        ("limit_except WIBBLE { deny all; }", "invalid method \"WIBBLE\""),
        ("limit_except GET { } limit_except POST { }", "\"limit_except\" directive is duplicate"),
        ("limit_except GET { root /x; }", "\"root\" directive is not allowed here"),
    ];
    for (rule, expected) in cases {
        let conf = format!("http {{ server {{ listen 127.0.0.1:%%PORT_0%%; location / {{ {rule} }} }} }}");
        let Err(exit) = Setup::new(&conf).try_start() else { panic!("{rule}: it started") };
        assert!(exit.stderr.contains(expected), "{rule}: {}", exit.stderr);
    }
    let conf = "http { server { listen 127.0.0.1:%%PORT_0%%; allow 10.0.0.1/8; } }";
    let daemon = Daemon::start(conf);
    assert_eq!(get(daemon.port(0), "/").status, 404);
    let output = daemon.run(&["-t", "-c", "pronghorn.conf"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("low address bits of 10.0.0.1/8 are meaningless"), "{text}");
}
