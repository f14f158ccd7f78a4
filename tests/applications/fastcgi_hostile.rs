//! Applications that break the rules of FastCGI: what the client gets, and what the log says.

use crate::support::fastcgi::{Call, end, out, record, said, whole};
use crate::support::{Client, Daemon, Origin, Setup, get};

/// An application that sends these bytes for each request and closes the connection.
fn start(bytes: Vec<u8>, directives: &str) -> (Origin, Daemon) {
    let app = Origin::start(move |peer| {
        if Call::read(peer).is_some() {
            let _ = peer.try_send(&bytes);
        }
    });
    let text = format!(
        "http {{ server {{ listen 127.0.0.1:%%PORT_0%%; location / {{ fastcgi_pass %%APP%%; {directives} }} }} }}"
    );
    let daemon = Setup::new(&text).set("APP", app.address()).start();
    (app, daemon)
}

#[test]
fn a_response_that_is_none_is_a_502_with_its_reason() {
    for (bytes, reason) in [
        (vec![], "upstream prematurely closed connection"),
        (b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), "upstream sent unsupported FastCGI protocol version"),
        (record(9, b"", 0), "upstream sent invalid FastCGI record type"),
        (vec![1, 6, 0, 7, 0, 0, 0, 0], "upstream sent unexpected FastCGI request id"),
        (whole("no head at all"), "upstream sent invalid header name"),
        (whole("Content-Type: text/html\r\n"), "upstream prematurely closed FastCGI stdout"),
        (whole(""), "upstream prematurely closed FastCGI stdout"),
        (end(0), "upstream prematurely closed FastCGI request"),
        (end(1), "upstream refused the request: it is busy .FCGI_CANT_MPX_CONN."),
        (end(2), "upstream refused the request: it is overloaded .FCGI_OVERLOADED."),
        (whole("Status: nothing\r\n\r\n"), "upstream sent invalid status line"),
        (whole("Status: 101 Switching\r\nUpgrade: x\r\n\r\n"), "upstream sent invalid status line"),
        (whole("A b\r\n\r\n"), "upstream sent invalid header name"),
        (whole("A: b\r\n folded\r\n\r\n"), "upstream sent a header folded over several lines"),
        (whole("Content-Length: x\r\n\r\n"), "upstream sent invalid \"Content-Length\" header"),
        (
            whole("Content-Length: 1\r\nContent-Length: 2\r\n\r\n"),
            "upstream sent duplicate \"Content-Length\" header",
        ),
        (
            whole(&format!("A: {}\r\n\r\n", "x".repeat(5000))),
            "upstream sent too big header .\"fastcgi_buffer_size\" is 4096 at .*",
        ),
    ] {
        let (_app, daemon) = start(bytes.clone(), "fastcgi_buffer_size 4k;");
        assert_eq!(get(daemon.port(0), "/").status, 502, "{reason}");
        daemon.wait_log(&format!("{reason} while reading response header from upstream"));
    }
}

#[test]
fn a_flood_of_messages_is_cut_and_the_response_comes_nevertheless() {
    let flood: Vec<u8> = (0..200).flat_map(|n| said(&format!("{n} {}", "x".repeat(1000)))).collect();
    let bytes = [flood.clone(), out("A: b\r\n\r\nfirst "), flood, whole("last")].concat();
    let (_app, daemon) = start(bytes, "");
    assert_eq!(get(daemon.port(0), "/").text(), "first last");
    let log = daemon.wait_log("the other messages of this response are dropped, 65536 bytes were logged");
    assert!(daemon.log().len() < 300_000, "{log}");
}

#[test]
fn a_body_of_another_length_than_announced_never_looks_complete() {
    let (_app, daemon) = start(whole("Content-Length: 4\r\n\r\nbodyguard"), "");
    assert_eq!(get(daemon.port(0), "/").text(), "body");
    daemon.wait_log("upstream sent more data than specified in \"Content-Length\" header");
    for records in [
        whole("Content-Length: 40000\r\n\r\nhalf"),
        [out("Content-Length: 40000\r\n\r\nhalf"), end(0)].concat(),
        out("Content-Length: 40000\r\n\r\nhalf"),
    ] {
        let (_app, daemon) = start(records, "fastcgi_next_upstream off; fastcgi_buffering off;");
        let mut client = Client::connect(daemon.port(0));
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(client.response_head().length(), Some(40_000));
        assert_eq!(client.rest().0, b"half");
    }
    // without a length the last chunk is missing
    let (_app, daemon) = start(out("A: b\r\n\r\nhalf"), "fastcgi_next_upstream off; fastcgi_buffering off;");
    let mut client = Client::connect(daemon.port(0));
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(client.response_head().status, 200);
    assert_eq!(client.rest().0, b"4\r\nhalf\r\n");
    daemon.wait_log("upstream prematurely closed connection while reading upstream");
}

#[test]
fn a_kept_connection_that_dies_costs_no_request() {
    let app = Origin::start(|peer| {
        Call::read(peer).expect("a request");
        peer.send(whole("\r\nok"));
        if peer.index == 0 {
            // closed when the second request arrives
            peer.some(1);
            peer.reset_on_close();
        }
    });
    let text = "http { server { listen 127.0.0.1:%%PORT_0%%; fastcgi_keep_conn on; location / { fastcgi_pass %%APP%%; } } }";
    let daemon = Setup::new(text).set("APP", app.address()).start();
    for _ in 0..3 {
        let answer = get(daemon.port(0), "/");
        assert_eq!((answer.status, &*answer.text()), (200, "ok"));
    }
}

#[test]
fn bytes_after_the_end_spoil_the_connection() {
    let app = Origin::start(|peer| {
        while let Some(call) = Call::read(peer) {
            let extra = if call.param("HTTP_EXTRA").is_some() { &b"\x01\x06"[..] } else { b"" };
            if peer.try_send(&[whole("\r\nok"), extra.to_vec()].concat()).is_err() {
                return;
            }
        }
    });
    let text = "http { server { listen 127.0.0.1:%%PORT_0%%; fastcgi_keep_conn on; location / { fastcgi_pass %%APP%%; } } }";
    let daemon = Setup::new(text).set("APP", app.address()).start();
    let mut client = Client::connect(daemon.port(0));
    for count in 1..=3 {
        client.send("GET / HTTP/1.1\r\nHost: h\r\nExtra: 1\r\n\r\n");
        assert_eq!(client.response().text(), "ok");
        app.wait_ended(count);
    }
    assert_eq!(app.accepted(), 3);
}
