//! `https_redirect`: redirects, the exception for ACME, plain HTTP at the TLS port, Strict-Transport-Security.

use crate::support::tls::{Authority, TlsClient, trusting};
use crate::support::{Client, Daemon, Setup, fetch, get};

const CONF: &str = r#"
http {
    ssl_certificate site.pem;
    ssl_certificate_key site.key;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        listen 127.0.0.1:%%PORT_1%% ssl;
        server_name site.test;
        https_redirect %%WORDS%%;
        location / { return 200 "$scheme $request_uri"; }
        location /own { add_header Strict-Transport-Security "max-age=5" always; return 200 own; }
        location /missing { return 404; }
        location /slash { return 301 /there; }
    }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        listen 127.0.0.1:%%PORT_1%% ssl;
        server_name plain.test;
        return 200 "plain";
    }
}
"#;

fn start(words: &str) -> (Daemon, Authority) {
    let authority = Authority::new("test");
    let pair = authority.issue(&["site.test", "plain.test"]);
    let setup = Setup::new(CONF).set("WORDS", words);
    (setup.file("site.pem", &pair.certificate).file("site.key", &pair.key).start(), authority)
}

fn location(daemon: &Daemon, port: usize, head: &str) -> (u16, String) {
    let mut client = Client::connect(daemon.port(port));
    client.send(format!("{head}\r\nConnection: close\r\n\r\n"));
    let response = client.response_head();
    assert_eq!(response.header("strict-transport-security"), None, "RFC 6797 §7.2");
    (response.status, response.header("location").unwrap_or_default().to_owned())
}

#[test]
fn plain_requests_are_redirected_with_host_path_and_query() {
    let (daemon, _) = start("on");
    let port = daemon.port(1);
    for (head, status, url) in [
        ("GET /a%20b?x=1&y=%2f HTTP/1.1\r\nHost: site.test", 301, "site.test:PORT/a%20b?x=1&y=%2f"),
        ("HEAD / HTTP/1.1\r\nHost: SITE.test:80", 301, "site.test:PORT/"),
        ("DELETE /x HTTP/1.1\r\nHost: site.test", 308, "site.test:PORT/x"),
        ("GET //evil.test/ HTTP/1.1\r\nHost: site.test", 301, "site.test:PORT//evil.test/"),
        ("GET http://other.test/p?q HTTP/1.1\r\nHost: site.test", 301, "other.test:PORT/p?q"),
        ("GET /x HTTP/1.1\r\nHost: [::1]:8080", 301, "[::1]:PORT/x"),
        // An unknown name stays what it is: the default server was asked for it.
        ("GET /x HTTP/1.1\r\nHost: unknown.test.", 301, "unknown.test:PORT/x"),
        ("GET /x HTTP/1.0", 301, "site.test:PORT/x"),
        // The parameters of a path may hide another one; normalized, it is no challenge.
        (
            "GET /.well-known/acme-challenge/../../x HTTP/1.1\r\nHost: site.test",
            301,
            "site.test:PORT/.well-known/acme-challenge/../../x",
        ),
    ] {
        let expected = (status, format!("https://{}", url.replace("PORT", &port.to_string())));
        assert_eq!(location(&daemon, 0, head), expected, "{head}");
    }
}

#[test]
fn a_host_that_is_none_leads_nowhere() {
    let (daemon, _) = start("on");
    for host in [
        "good.test@evil.test",
        "good.test/evil.test",
        "evil.test\\good.test",
        "evil.test#good.test",
        "evil.test?good.test",
        "good.test:80@evil.test",
        "good.test evil.test",
        "<script>",
        "evil.test%0d%0aX: y\u{80}",
        "",
    ] {
        let (status, url) = location(&daemon, 0, &format!("GET / HTTP/1.1\r\nHost: {host}"));
        assert_eq!((status, url.as_str()), (400, ""), "{host:?}");
    }
}

#[test]
fn challenges_and_other_servers_are_answered_in_plain() {
    let (daemon, _) = start("on");
    let ask = |host: &str, path: &str| {
        fetch(daemon.port(0), &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
    };
    let challenge = ask("site.test", "/.well-known/acme-challenge/token");
    assert_eq!(challenge.text(), "http /.well-known/acme-challenge/token");
    assert_eq!(ask("plain.test", "/").text(), "plain");
}

#[test]
fn a_body_that_comes_along_does_not_become_a_request() {
    let (daemon, _) = start("on");
    let request = "POST /form HTTP/1.1\r\nHost: site.test\r\nContent-Length: 40\r\n\r\n\
                   GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n....";
    let response = fetch(daemon.port(0), request);
    assert_eq!(response.status, 308);
    assert!(!daemon.log().contains("/smuggled"));
}

#[test]
fn plain_http_at_the_tls_port_is_redirected_there() {
    let (daemon, _) = start("302");
    let expected = (302, format!("https://site.test:{}/x?y", daemon.port(1)));
    assert_eq!(location(&daemon, 1, "GET /x?y HTTP/1.1\r\nHost: site.test"), expected);
    let (status, _) = location(&daemon, 1, "GET /x HTTP/1.1\r\nHost: plain.test");
    assert_eq!(status, 400);
}

#[test]
fn responses_over_tls_ask_for_https_from_now_on() {
    let (daemon, authority) = start("on");
    let mut client = TlsClient::connect(daemon.port(1), &trusting(&authority), "site.test");
    let mut field = |host: &str, path: &str| {
        let response = client.get(host, path);
        response.all("strict-transport-security").join(" and ")
    };
    assert_eq!(field("site.test", "/"), "max-age=86400");
    assert_eq!(field("site.test", "/missing"), "max-age=86400");
    assert_eq!(field("site.test", "/own"), "max-age=5");
    assert_eq!(field("plain.test", "/"), "");
    let response = client.get("site.test", "/slash");
    let expected = format!("https://site.test:{}/there", daemon.port(1));
    assert_eq!(response.header("location"), Some(&*expected));
}

#[test]
fn parameters_set_the_field_and_the_port() {
    let (daemon, authority) = start("307 hsts=1y subdomains preload port=443");
    assert_eq!(
        location(&daemon, 0, "GET /x HTTP/1.1\r\nHost: site.test"),
        (307, "https://site.test/x".into())
    );
    let mut client = TlsClient::connect(daemon.port(1), &trusting(&authority), "site.test");
    let response = client.get("site.test", "/");
    let expected = "max-age=31536000; includeSubDomains; preload";
    assert_eq!(response.header("strict-transport-security"), Some(expected));
    let (daemon, authority) = start("on hsts=off");
    let mut client = TlsClient::connect(daemon.port(1), &trusting(&authority), "site.test");
    assert_eq!(client.get("site.test", "/").header("strict-transport-security"), None);
}

#[test]
fn off_changes_nothing() {
    let (daemon, authority) = start("off");
    assert_eq!(get(daemon.port(0), "/x").text(), "http /x");
    let mut client = TlsClient::connect(daemon.port(1), &trusting(&authority), "site.test");
    assert_eq!(client.get("site.test", "/").header("strict-transport-security"), None);
}

#[test]
fn mistakes_are_reported_with_what_to_write() {
    for (words, message) in [
        ("yes", "invalid value \"yes\""),
        ("on hsts=soon", "invalid parameter \"hsts=soon\""),
        ("on port=0", "invalid parameter \"port=0\""),
        ("on everywhere", "invalid parameter \"everywhere\""),
        ("on preload", "browsers do not preload a host without subdomains"),
        ("on hsts=off subdomains", "are parts of what hsts=off does not send"),
    ] {
        let authority = Authority::new("test");
        let pair = authority.issue(&["site.test"]);
        let setup = Setup::new(CONF).set("WORDS", words);
        let setup = setup.file("site.pem", &pair.certificate).file("site.key", &pair.key);
        let output = setup.run(&["-t"]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains(message), "{words}: {text}");
    }
    let conf = "http { server { listen 127.0.0.1:%%PORT_0%%; https_redirect on; } }";
    let output = Setup::new(conf).run(&["-t"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("needs a \"listen\" with \"ssl\" in the same server"), "{text}");
    let inherited = "http { https_redirect on; server { listen 127.0.0.1:%%PORT_0%%; return 200 a; } }";
    let daemon = Daemon::start(inherited);
    assert_eq!(get(daemon.port(0), "/").text(), "a");
}
