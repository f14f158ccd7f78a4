//! `valid_referers`: each rule, inheritance, and invalid lines; each result here is also nginx 1.22's.

use crate::support::{Daemon, Setup, fetch, get};

const CONF: &str = r#"
http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        server_name own.test *.wild.test ~^re\d\.test$;
        valid_referers none blocked server_names *.example.com www.example.* example.org/galleries/ ~\.google\.;
        location / { return 200 "[$invalid_referer]"; }
        location /inner { valid_referers example.net; return 200 "[$invalid_referer]"; }
        location /refused { if ($invalid_referer) { return 403; } return 204; }
    }
    server {
        listen 127.0.0.1:%%PORT_1%%;
        return 200 "[$invalid_referer]";
    }
}
"#;

fn ask(port: u16, path: &str, referer: &str) -> String {
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: own.test\r\nReferer: {referer}\r\nConnection: close\r\n\r\n");
    let response = fetch(port, &request);
    if response.status == 200 { response.text() } else { response.status.to_string() }
}

#[test]
fn each_rule_lets_its_own_in() {
    let daemon = Daemon::start(CONF);
    let port = daemon.port(0);
    assert_eq!(get(port, "/").text(), "[]", "none");
    for (referer, expected) in [
        ("xxxxxxxxxxxxxxxxx", "[]"),
        ("http://x", "[]"),
        ("http://own.test/", "[]"),
        ("HTTPS://OWN.test:8443/x", "[]"),
        ("http://a.wild.test/", "[]"),
        ("http://wild.test/", "[1]"),
        ("http://re7.test/x", "[]"),
        ("http://rex.test/x", "[1]"),
        ("http://a.example.com/", "[]"),
        ("http://example.com/", "[1]"),
        ("http://www.example.xyz/", "[]"),
        ("http://example.org/galleries/1", "[]"),
        ("http://example.org:80/galleries/1", "[]"),
        ("http://example.org/other", "[1]"),
        ("http://example.org", "[1]"),
        ("http://www.google.test/", "[]"),
        ("http://foreign.test/?www.google.test", "[]"),
        ("http://foreign.test/", "[1]"),
    ] {
        assert_eq!(ask(port, "/", referer), expected, "{referer}");
    }
    assert_eq!(ask(port, "/", &format!("http://{}.own.test/", "a".repeat(300))), "[1]");
    assert_eq!(ask(port, "/refused", "http://foreign.test/"), "403");
    assert_eq!(ask(port, "/refused", "http://own.test/"), "204");
    assert_eq!(ask(port, "/inner", "http://own.test/"), "[1]");
    assert_eq!(ask(port, "/inner", "http://example.net/"), "[]");
    assert_eq!(get(port, "/inner").text(), "[1]");
    assert_eq!(ask(daemon.port(1), "/", "http://foreign.test/"), "[]", "nothing is asked for");
}

#[test]
fn a_list_without_hosts_is_an_error() {
    let conf = "http { server { listen 127.0.0.1:%%PORT_0%%; location / { valid_referers none blocked; } } }";
    let exit = Setup::new(conf).try_start().err().expect("it does not start");
    assert!(exit.stderr.contains("without any valid referer"), "{exit:?}");
}
