//! `scgi_pass`: an application in Python's standard library, and scripted ones.

use std::process::Command;

use crate::support::daemon::is_stand_in;
use crate::support::packets;
use crate::support::program::{Program, find, wait_socket};
use crate::support::{Client, Origin, Setup, fetch, get};

const APP: &str = r#"
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen(16)
while True:
    peer, _ = listener.accept()
    data = peer.makefile('rb')
    length = b''
    while not length.endswith(b':'):
        byte = data.read(1)
        if not byte:
            break
        length += byte
    if not length:
        continue
    words = data.read(int(length[:-1])).split(b'\0')
    assert data.read(1) == b','
    env = dict(zip(words[0::2], words[1::2]))
    body = data.read(int(env[b'CONTENT_LENGTH']))
    lines = b''.join(name + b'=' + value + b'\n' for name, value in sorted(env.items()))
    peer.sendall(b'Status: 200 Fine\r\nContent-Type: text/plain\r\n\r\n' + lines + b'body=%d' % len(body))
    data.close()
    peer.close()
"#;

#[test]
fn an_application_in_python_answers() {
    let Some(python) = find(&["python3"]) else { return };
    let text = "http { client_body_buffer_size 1k; server { listen 127.0.0.1:%%PORT_0%%;
        location / { include scgi_params; scgi_param EMPTY ''; scgi_param NOT '' if_not_empty; scgi_pass unix:%%DIR%%/app.sock; } } }";
    let shipped =
        std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/conf/scgi_params")).expect("it is shipped");
    let setup = Setup::new(text).file("scgi_params", shipped).file("app.py", APP);
    let folder = setup.folder().to_owned();
    let mut program =
        Program::start(Command::new(python).arg(folder.join("app.py")).arg(folder.join("app.sock")));
    wait_socket(&folder.join("app.sock"), &mut program);
    let daemon = setup.start();
    let _program = program;
    let port = daemon.port(0);
    let page = get(port, "/a%20b?c=d");
    assert_eq!((page.status, &*page.reason, page.header("content-type")), (200, "Fine", Some("text/plain")));
    let text = page.text();
    for line in [
        "CONTENT_LENGTH=0",
        "SCGI=1",
        "REQUEST_METHOD=GET",
        "REQUEST_URI=/a%20b?c=d",
        "DOCUMENT_URI=/a b",
        "QUERY_STRING=c=d",
        "EMPTY=",
        "HTTP_HOST=localhost",
        "body=0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
    assert!(!text.contains("NOT="));
    for length in [1, 1000, 400_000] {
        let mut client = Client::connect(port);
        client
            .send(format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n"))
            .send(vec![b'b'; length]);
        let text = client.response().text();
        assert!(
            text.starts_with(&format!("CONTENT_LENGTH={length}\n"))
                && text.ends_with(&format!("body={length}"))
        );
        let mut client = Client::connect(port);
        client
            .send(format!("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n"));
        client.send(vec![b'b'; length]).send("\r\n0\r\n\r\n");
        let text = client.response().text();
        assert!(
            text.starts_with(&format!("CONTENT_LENGTH={length}\n"))
                && text.ends_with(&format!("body={length}"))
        );
    }
}

#[test]
fn the_next_application_is_asked_after_a_fault() {
    let bad = Origin::start(|peer| {
        let Some(headers) = packets::scgi(peer) else { return };
        peer.send(match packets::value(&headers, "U").expect("a parameter") {
            "/status" => "Status: 503 Busy\r\n\r\n",
            "/head" => "what is this\r\n\r\n",
            _ => "",
        });
    });
    let good = Origin::start(|peer| {
        if packets::scgi(peer).is_some() {
            peer.send("\r\ngood");
        }
    });
    let text = "http { upstream u { server %%BAD%% max_fails=0; server %%GOOD%% backup; } scgi_param U $uri;
        server { listen 127.0.0.1:%%PORT_0%%; scgi_next_upstream error invalid_header http_503; location / { scgi_pass u; } } }";
    let daemon = Setup::new(text).set("BAD", bad.address()).set("GOOD", good.address()).start();
    for path in ["/closed", "/status", "/head"] {
        let answer = get(daemon.port(0), path);
        assert_eq!((answer.status, &*answer.text()), (200, "good"), "{path}");
    }
    assert!(daemon.log().contains(&format!("upstream: \"scgi://{}\"", bad.address())));
}

#[test]
fn a_null_byte_in_a_parameter_is_refused() {
    let app = Origin::start(|_| {});
    let text = "http { server { listen 127.0.0.1:%%PORT_0%%; location / { scgi_param A $request_body; scgi_pass %%APP%%; } } }";
    let daemon = Setup::new(text).set("APP", app.address()).start();
    let request = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\na\0b\0c";
    assert_eq!(fetch(daemon.port(0), request).status, 500);
    daemon.wait_log("the parameter \"A\" contains a null byte, which cannot be sent");
    assert_eq!(app.accepted(), 0);
}

#[test]
fn without_a_key_nothing_is_cached() {
    let app = Origin::start(|peer| {
        let Some(pairs) = packets::scgi(peer) else { return };
        let uri = packets::value(&pairs, "U").unwrap_or_default();
        peer.send(format!("Cache-Control: max-age=60\r\n\r\n{uri}"));
    });
    let text = "http { scgi_cache_path %%DIR%%/c keys_zone=c:64k; scgi_param U $uri; scgi_cache c;
        server { listen 127.0.0.1:%%PORT_0%%; location / { scgi_pass %%APP%%; }
            location /keyed/ { scgi_cache_key $uri; scgi_pass %%APP%%; } } }";
    let daemon = Setup::new(text).set("APP", app.address()).level("warn").start();
    daemon.wait_log("no \"scgi_cache_key\" for \"scgi_cache\"");
    if !is_stand_in() {
        // nginx answers all of them with the first response
        for path in ["/a", "/b", "/a"] {
            assert_eq!(get(daemon.port(0), path).text(), path);
        }
        assert_eq!(app.accepted(), 3);
    }
    let before = app.accepted();
    for _ in 0..2 {
        assert_eq!(get(daemon.port(0), "/keyed/a").text(), "/keyed/a");
    }
    assert_eq!(app.accepted(), before + 1);
}
