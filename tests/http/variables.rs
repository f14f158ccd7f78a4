//! Variables: those of a request, `set`, and `map` with its exact, wildcard and regex keys.

use crate::support::{Daemon, Origin, Setup, fetch, get};

const CONF: &str = r#"
http {
    map $arg_key $mapped {
        default     "other";
        ""          "empty";
        exact       "was exact";
        CASE        "was case";
        ~^re(.+)$   "regex $1";
        ~*^any      "any case";
        variable    "$host";
    }
    map $arg_host $by_name {
        hostnames;
        default        none;
        example.org    exact;
        *.example.org  leading;
        plain.example.com  plain;
        *.example.com  leading;
        www.*          trailing;
    }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        server_name named;
        set $own "server";
        location /request {
            return 200 "$request_method|$uri|$args|$request_uri|$scheme|$server_port|$server_protocol|$is_args";
        }
        location /headers { return 200 "$http_x_one|$http_user_agent|$http_missing|$content_length"; }
        location /arguments { return 200 "$arg_a|$arg_B|$arg_missing|$arg_"; }
        location /cookies { return 200 "$cookie_a|$cookie_b"; }
        location /names { return 200 "$host|$http_host|$server_name"; }
        location /addresses { return 200 "$remote_addr|$server_addr"; }
        location /set { set $own "location $uri"; set $joined "${own}!"; return 200 "$joined"; }
        location /inherited { return 200 "$own"; }
        location /map { return 200 "$mapped"; }
        location /by-host { return 200 "$by_name"; }
    }
}
"#;

#[test]
fn a_request_has_its_parts() {
    let daemon = Daemon::start(CONF);
    let port = daemon.port(0);
    let response = get(port, "/request/%41?x=1&y");
    assert_eq!(response.text(), format!("GET|/request/A|x=1&y|/request/%41?x=1&y|http|{port}|HTTP/1.1|?"));
    let response = fetch(
        port,
        "POST /headers HTTP/1.1\r\nHost: h\r\nX-One: 1\r\nUser-Agent: u\r\nContent-Length: 2\r\nConnection: close\r\n\r\nab",
    );
    assert_eq!(response.text(), "1|u||2");
    assert_eq!(get(port, "/arguments?=0&a=1&b=2&a=3").text(), "1|2||");
    let cookies = "GET /cookies HTTP/1.1\r\nHost: h\r\nCookie: a=1; b=two\r\nConnection: close\r\n\r\n";
    assert_eq!(fetch(port, cookies).text(), "1|two");
    let names = "GET /names HTTP/1.1\r\nHost: WWW.X:81\r\nConnection: close\r\n\r\n";
    assert_eq!(fetch(port, names).text(), "www.x|WWW.X:81|named");
    assert_eq!(get(port, "/addresses").text(), "127.0.0.1|127.0.0.1");
}

#[test]
fn set_gives_values_in_order() {
    let daemon = Daemon::start(CONF);
    assert_eq!(get(daemon.port(0), "/set").text(), "location /set!");
    assert_eq!(get(daemon.port(0), "/inherited").text(), "server");
}

#[test]
fn map_looks_for_exact_then_regex_then_default() {
    let daemon = Daemon::start(CONF);
    for (key, expected) in [
        ("exact", "was exact"),
        ("EXACT", "was exact"),
        ("case", "was case"),
        ("", "empty"),
        ("rest", "regex st"),
        ("Rest", "other"),
        ("ANYTHING", "any case"),
        ("variable", "localhost"),
        ("unknown", "other"),
    ] {
        assert_eq!(get(daemon.port(0), &format!("/map?key={key}")).text(), expected, "{key}");
    }
    assert_eq!(get(daemon.port(0), "/map").text(), "empty");
}

#[test]
fn map_of_host_names_knows_wildcards() {
    let daemon = Daemon::start(CONF);
    for (host, expected) in [
        ("example.org", "exact"),
        ("example.org.", "exact"),
        ("plain.example.com.", "plain"),
        ("a.example.org", "leading"),
        ("A.example.org.", "leading"),
        ("www.net", "trailing"),
        ("other", "none"),
    ] {
        assert_eq!(get(daemon.port(0), &format!("/by-host?host={host}")).text(), expected, "{host}");
    }
}

#[test]
fn the_request_s_port_is_the_client_s_own_word() {
    let daemon = Setup::new(
        "http { server { listen 127.0.0.1:%%PORT_0%%; location / { return 200 \"$host$is_request_port$request_port\"; } } }",
    )
    .start();
    for (line, host, expected) in [
        ("GET / HTTP/1.1", "h.test:8080", "h.test:8080"),
        ("GET / HTTP/1.1", "h.test", "h.test"),
        ("GET / HTTP/1.1", "[::1]:81", "[::1]:81"),
        ("GET / HTTP/1.1", "[::1]", "[::1]"),
        ("GET http://a.test:90/x HTTP/1.1", "h.test:8080", "a.test:90"),
        ("GET http://a.test/x:7 HTTP/1.1", "h.test:8080", "a.test"),
    ] {
        let response = fetch(daemon.port(0), &format!("{line}\r\nHost: {host}\r\n\r\n"));
        assert_eq!(response.text(), expected, "{line} {host}");
    }
}

#[test]
fn the_kernel_tells_of_the_connection() {
    let daemon = Setup::new(
        "http { server { listen 127.0.0.1:%%PORT_0%%; listen unix:%%DIR%%/u.sock; location / {
            return 200 \"$tcpinfo_rtt $tcpinfo_rttvar $tcpinfo_snd_cwnd $tcpinfo_rcv_space\"; } } }",
    )
    .start();
    let text = get(daemon.port(0), "/").text();
    let numbers: Vec<u32> = text.split(' ').map(|number| number.parse().expect(&text)).collect();
    assert!(numbers[0] > 0 && numbers[2] > 0 && numbers[3] > 1000, "{text}");
    let stream = std::os::unix::net::UnixStream::connect(daemon.path("u.sock")).expect("connects");
    use std::io::{Read, Write};
    let mut stream = stream;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("sends");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("reads");
    assert!(answer.ends_with("\r\n\r\n   "), "nothing to tell: {answer:?}");
}

#[test]
fn the_real_root_has_no_links_in_it() {
    let setup = Setup::new(
        "http { server { listen 127.0.0.1:%%PORT_0%%; root %%DIR%%/link;
            location / { return 200 \"$document_root $realpath_root\"; } } }",
    )
    .file("real/index.html", "x");
    std::os::unix::fs::symlink(setup.folder().join("real"), setup.folder().join("link")).expect("links");
    let daemon = setup.start();
    let real = std::fs::canonicalize(daemon.path("real")).expect("is there");
    let expected = format!("{} {}", daemon.path("link").display(), real.display());
    assert_eq!(get(daemon.port(0), "/").text(), expected);
}

#[test]
fn trailers_are_known_at_the_end() {
    let origin = Origin::replying(|_| {
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 5\r\nX-Sum: 6\r\n\r\n"
            .to_vec()
    });
    let daemon = Setup::new(
        "http { log_format t '$upstream_trailer_x_sum|$sent_trailer_x_own'; access_log %%DIR%%/t.log t;
         server { listen 127.0.0.1:%%PORT_0%%; add_trailer X-Own $status; location / { proxy_pass http://%%ORIGIN%%; } } }",
    )
    .set("ORIGIN", origin.address())
    .start();
    get(daemon.port(0), "/");
    assert_eq!(daemon.wait_line("t.log", "."), "5, 6|200");
}
