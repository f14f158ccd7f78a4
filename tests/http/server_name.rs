//! `server_name` and `default_server`: exact names, wildcards, regular expressions, and the server for all
//! others.

use crate::support::{Daemon, fetch};

const CONF: &str = r#"
http {
    server { listen 127.0.0.1:%%PORT_0%%; server_name first; return 200 "first"; }
    server { listen 127.0.0.1:%%PORT_0%% default_server; server_name _; return 200 "default"; }
    server { listen 127.0.0.1:%%PORT_0%%; server_name example.org; return 200 "exact"; }
    server { listen 127.0.0.1:%%PORT_0%%; server_name *.example.org; return 200 "leading $server_name"; }
    server { listen 127.0.0.1:%%PORT_0%%; server_name *.deep.example.org; return 200 "longer"; }
    server { listen 127.0.0.1:%%PORT_0%%; server_name www.*; return 200 "trailing"; }
    server { listen 127.0.0.1:%%PORT_0%%; server_name .both.example; return 200 "both $server_name"; }
    server { listen 127.0.0.1:%%PORT_0%%; server_name ~^(?<user>[a-z]+)\.users\.net$; return 200 "user $user"; }
    server { listen 127.0.0.1:%%PORT_0%%; server_name ~^.+\.users\.net$; return 200 "other user"; }
    server { listen 127.0.0.1:%%PORT_0%%; server_name ~^(?<part>[a-z]+)\Q.quoted.net\E$; return 200 "quoted $part"; }
    server { listen 127.0.0.1:%%PORT_0%%; server_name ""; return 200 "none"; }
    server { listen 127.0.0.1:%%PORT_1%%; server_name one; return 200 "one"; }
    server { listen 127.0.0.1:%%PORT_1%%; server_name two; return 200 "two"; }
}
"#;

fn ask(port: u16, host: &str) -> String {
    fetch(port, &format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).text()
}

#[test]
fn the_host_chooses_the_server() {
    let daemon = Daemon::start(CONF);
    for (host, expected) in [
        ("first", "first"),
        ("example.org", "exact"),
        ("EXAMPLE.org", "exact"),
        ("example.org:8080", "exact"),
        ("example.org.", "exact"),
        ("a.example.org", "leading *.example.org"),
        ("a.b.example.org", "leading *.example.org"),
        ("a.deep.example.org", "longer"),
        ("www.example.org", "leading *.example.org"),
        ("www.example.com", "trailing"),
        ("a.quoted.net", "quoted a"),
        ("a.quotedxnet", "default"),
        ("both.example", "both both.example"),
        ("x.both.example", "both both.example"),
        ("xboth.example", "default"),
        ("joe.users.net", "user joe"),
        ("joe7.users.net", "other user"),
        ("users.net", "default"),
        ("unknown", "default"),
        ("127.0.0.1", "default"),
    ] {
        assert_eq!(ask(daemon.port(0), host), expected, "{host}");
    }
}

#[test]
fn the_first_server_of_an_address_is_its_default() {
    let daemon = Daemon::start(CONF);
    assert_eq!(ask(daemon.port(1), "two"), "two");
    assert_eq!(ask(daemon.port(1), "unknown"), "one");
    assert_eq!(ask(daemon.port(1), "example.org"), "one", "names of another address do not count");
}

#[test]
fn a_request_without_host_is_for_the_empty_name() {
    let daemon = Daemon::start(CONF);
    assert_eq!(fetch(daemon.port(0), "GET / HTTP/1.0\r\n\r\n").text(), "none");
    assert_eq!(
        fetch(daemon.port(0), "GET http://first/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").text(),
        "first"
    );
}
