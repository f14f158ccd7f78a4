//! `memcached_pass`: memcached itself, and scripted servers.

use std::process::Command;

use crate::support::origin::Peer;
use crate::support::program::{Program, find};
use crate::support::{Origin, Setup, Wire, fetch, get, port, process, wait_for};

const CONF: &str = r#"
http {
    types { text/css css; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        error_page 404 = @missing;
        location / { set $memcached_key $uri$is_args$args; memcached_pass %%APP%%; }
        location /plain { error_page 405 /x; set $memcached_key $uri; memcached_pass cache; }
        location /zipped { memcached_gzip_flag 2; gunzip on; set $memcached_key $uri; memcached_pass %%APP%%; }
        location /none { set $memcached_key ''; memcached_pass %%APP%%; }
        location @missing { return 200 fallback; }
    }
    upstream cache { server %%APP%%; keepalive 4; }
}
"#;

/// A memcached on a port of its own; `None` where it is not installed.
fn start() -> Option<(Program, u16)> {
    let memcached = find(&["memcached"])?;
    let own = port::free();
    let mut command = Command::new(memcached);
    command.args(["-l", "127.0.0.1", "-U", "0", "-u", "nobody", "-p"]).arg(own.to_string());
    let mut program = Program::start(&mut command);
    wait_for("memcached", || (process::is_listening(own) || program.has_ended()).then_some(()));
    assert!(!program.has_ended(), "memcached does not start");
    Some((program, own))
}

fn store(port: u16, key: &str, flags: u32, value: &[u8]) {
    let mut wire = Wire::new(std::net::TcpStream::connect(("127.0.0.1", port)).expect("memcached listens"));
    wire.send(format!("set {key} {flags} 0 {}\r\n", value.len())).send(value).send("\r\n");
    assert_eq!(wire.line(), b"STORED");
}

#[test]
fn values_are_responses() {
    let Some((_memcached, own)) = start() else { return };
    let big = vec![b'v'; 500_000];
    store(own, "/a.css", 0, b"body { }");
    store(own, "/with%20space?x=1", 0, b"spaced");
    store(own, "/plain", 0, b"plain");
    store(own, "/empty", 0, b"");
    store(own, "/big", 0, &big);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, b"unpacked").expect("into memory");
    store(own, "/zipped", 2, &gzip.finish().expect("into memory"));
    let daemon = Setup::new(CONF).set("APP", format!("127.0.0.1:{own}")).start();
    let port = daemon.port(0);
    let css = get(port, "/a.css");
    assert_eq!(
        (css.status, &*css.text(), css.header("content-type"), css.length()),
        (200, "body { }", Some("text/css"), Some(8))
    );
    assert_eq!(get(port, "/with%20space?x=1").text(), "spaced");
    assert_eq!((get(port, "/empty").status, get(port, "/empty").length()), (200, Some(0)));
    assert!(get(port, "/big").body == big);
    assert_eq!(get(port, "/zipped").text(), "unpacked");
    assert_eq!(get(port, "/missing").text(), "fallback");
    let range = fetch(port, "GET /a.css HTTP/1.1\r\nHost: h\r\nRange: bytes=0-3\r\n\r\n");
    assert_eq!((range.status, &*range.text()), (206, "body"));
    assert_eq!(fetch(port, "POST /a.css HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx").status, 405);
    assert_eq!(get(port, "/none").status, 500);
    daemon.wait_log("the \"\\$memcached_key\" variable is not set");
    for _ in 0..5 {
        assert_eq!(get(port, "/plain").text(), "plain");
    }
    daemon.wait_log("key: \"/missing\" was not found by memcached");
}

/// Reads one line of a request.
fn line(peer: &mut Peer) -> Option<String> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let byte = peer.some(1);
        if byte.is_empty() {
            return None;
        }
        line.extend(byte);
    }
    Some(String::from_utf8(line).expect("text"))
}

#[test]
fn a_server_that_breaks_the_rules_is_left_for_another() {
    let bad = Origin::start(|peer| {
        while let Some(line) = line(peer) {
            let reply = match line.as_str() {
                "get /error\r\n" => "SERVER_ERROR out of memory\r\n",
                "get /key\r\n" => "VALUE /other 0 1\r\nx\r\nEND\r\n",
                "get /flags\r\n" => "VALUE /flags x 1\r\nx\r\nEND\r\n",
                "get /length\r\n" => "VALUE /length 0 -1\r\nx\r\nEND\r\n",
                "get /missing\r\n" => "END\r\n",
                "get /trailer\r\n" => "VALUE /trailer 0 4\r\nbody\r\nNOT\r\n",
                _ => return,
            };
            peer.send(reply);
        }
    });
    let good = Origin::start(|peer| {
        while let Some(line) = line(peer) {
            let key = line.trim_end().strip_prefix("get ").expect("a request").to_owned();
            peer.send(format!("VALUE {key} 0 4\r\ngood\r\nEND\r\n"));
        }
    });
    let text = "http { upstream u { server %%BAD%% max_fails=0; server %%GOOD%% backup; }
        server { listen 127.0.0.1:%%PORT_0%%; set $memcached_key $uri; memcached_next_upstream error timeout invalid_response not_found;
        location / { memcached_pass u; } location ~ ^/one(/.*)$ { set $memcached_key $1; memcached_next_upstream off; memcached_pass u; } } }";
    let daemon = Setup::new(text).set("BAD", bad.address()).set("GOOD", good.address()).start();
    let port = daemon.port(0);
    for path in ["/error", "/key", "/flags", "/length", "/missing", "/closed"] {
        assert_eq!((get(port, path).status, get(port, path).text()), (200, "good".to_owned()), "{path}");
    }
    assert_eq!(get(port, "/trailer").text(), "body");
    daemon.wait_log("upstream sent invalid trailer of memcached");
    for (path, status) in [("/one/error", 502), ("/one/key", 502), ("/one/missing", 404)] {
        assert_eq!(get(port, path).status, status, "{path}");
    }
    assert!(daemon.log().contains(&format!("upstream: \"memcached://{}\"", bad.address())));
}

#[test]
fn a_location_without_a_key_is_refused() {
    let errors = |conf: &str| {
        let text = format!("http {{ server {{ listen 127.0.0.1:%%PORT_0%%; {conf} }} }}");
        String::from_utf8_lossy(&Setup::new(&text).run(&["-t"]).stderr).into_owned()
    };
    assert!(
        errors("location / { memcached_pass 127.0.0.1:9; }").contains("unknown \"memcached_key\" variable")
    );
    assert!(
        errors("location / { set $memcached_key a; memcached_pass b; }")
            .contains("no port in upstream \"b\"")
    );
    assert!(errors("memcached_next_upstream http_500x;").contains("invalid value \"http_500x\""));
}
