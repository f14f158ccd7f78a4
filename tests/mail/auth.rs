//! Questions to the authentication server, and what becomes of its answers.

use super::{answer, ask, greeted, line, pass_to, pop3_server, setup, start};
use crate::support::wire::End;
use crate::support::{Client, Origin, Setup};

fn log_in(client: &mut Client) -> String {
    assert_eq!(ask(client, "USER me"), "+OK");
    ask(client, "PASS secret")
}

#[test]
fn fields_of_the_configuration_and_of_a_proxy_in_front_are_added() {
    let server = pop3_server();
    let port = server.port();
    let auth = Origin::replying(move |_| pass_to(port));
    let conf = "mail {
        auth_http %%AUTH%%;
        auth_http_header X-Key outer;
        auth_http_header X-Other outer;
        server {
            listen 127.0.0.1:%%PORT_0%% proxy_protocol; protocol pop3;
            auth_http_header X-Key inner;
            set_real_ip_from 127.0.0.0/8;
            proxy_protocol on;
        }
    }";
    let daemon = Setup::new(conf).set("AUTH", auth.address()).start();
    let mut client = Client::connect(daemon.port(0));
    client.send("PROXY TCP4 192.0.2.1 192.0.2.2 123 5678\r\n");
    assert_eq!(line(&mut client), "+OK POP3 ready");
    client.send("USER me\r\nPASS secret\r\n");
    assert_eq!(line(&mut client), "+OK");
    // The server takes the header for a name: it shows that the header is first.
    assert_eq!(line(&mut client), "-ERR internal server error");
    let question = auth.last();
    let values =
        ["client-ip", "proxy-protocol-addr", "proxy-protocol-port", "proxy-protocol-server-addr", "x-key"];
    let values = values.map(|name| question.header(name).unwrap_or("-"));
    assert_eq!(values, ["192.0.2.1", "192.0.2.1", "123", "192.0.2.2", "inner"]);
    assert_eq!((question.header("x-other"), &*question.target), (None, "/"), "a list replaces the outer one");
}

#[test]
fn a_proxy_header_comes_before_everything_else() {
    let server = Origin::start(|peer| {
        let header = super::next_line(peer).expect("a line");
        peer.send("+OK\r\n");
        super::next_line(peer);
        peer.send("+OK\r\n");
        super::next_line(peer);
        peer.send(format!("+OK {header}\r\n"));
        peer.rest();
    });
    let port = server.port();
    let auth = Origin::replying(move |_| pass_to(port));
    let daemon = start("pop3", &auth, "proxy_protocol on;");
    let mut client = greeted(&daemon);
    let said = log_in(&mut client);
    let ports = format!("{} {}", client.stream().local_addr().expect("an address").port(), daemon.port(0));
    assert_eq!(said, format!("+OK PROXY TCP4 127.0.0.1 127.0.0.1 {ports}"));
}

#[test]
fn a_name_cannot_add_a_field() {
    let auth = Origin::replying(|_| answer("Auth-Status: no\n"));
    let daemon = start("imap", &auth, "");
    let mut client = greeted(&daemon);
    client.send("a LOGIN {20+}\r\nme\r\nAuth-User: admin x%\r\n");
    assert_eq!(line(&mut client), "a NO no");
    let question = auth.last();
    assert_eq!(question.header("auth-user"), Some("me%0D%0AAuth-User:%20admin"));
    assert_eq!(question.header("auth-pass"), Some("x%25"));
    assert_eq!(question.all("auth-user"), 1);
}

trait Count {
    fn all(&self, name: &str) -> usize;
}

impl Count for crate::support::Request {
    fn all(&self, name: &str) -> usize {
        self.names().iter().filter(|other| *other == name).count()
    }
}

#[test]
fn the_authentication_server_may_change_name_and_password() {
    let server = pop3_server();
    let port = server.port();
    let auth = Origin::replying(move |_| {
        let to = format!("Auth-Server: 127.0.0.1\nAuth-Port: {port}\n");
        answer(&format!("Auth-Status: OK\n{to}Auth-User: someone else\nAuth-Pass: secret\n"))
    });
    let daemon = start("pop3", &auth, "");
    let mut client = greeted(&daemon);
    assert_eq!(ask(&mut client, "USER me"), "+OK");
    assert_eq!(ask(&mut client, "PASS wrong"), "+OK welcome USER someone else");
    daemon.wait_log(r#"client logged in, client: 127.0.0.1, server: [^,]*, login: "someone else""#);
}

#[test]
fn a_server_that_asks_for_patience_is_asked_again() {
    let server = pop3_server();
    let port = server.port();
    let count = std::sync::atomic::AtomicUsize::new(0);
    let auth = Origin::replying(move |_| match count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
        0 => answer("Auth-Status: WAIT\nAuth-Wait: 1\n"),
        1 => answer("Auth-Status: WAIT\n"),
        _ => pass_to(port),
    });
    let daemon = start("pop3", &auth, "");
    let mut client = greeted(&daemon);
    assert_eq!(log_in(&mut client), "+OK welcome USER me");
    let attempts: Vec<_> =
        auth.requests().iter().map(|it| it.header("auth-login-attempt").map(str::to_owned)).collect();
    assert_eq!(attempts, vec![Some("1".to_owned()); 3]);
}

/// The client hears of an internal error, whatever went wrong, and the log says what.
#[test]
fn answers_that_make_no_sense_end_the_session() {
    let cases: [(&str, &str); 8] = [
        ("Auth-Status: OK\n", "did not send server or port"),
        (
            "Auth-Status: OK\nAuth-Server: localhost\nAuth-Port: 1\n",
            "sent invalid server address:\"localhost\"",
        ),
        ("Auth-Status: OK\nAuth-Server: 127.0.0.1\nAuth-Port: x\n", "sent invalid server port:\"x\""),
        ("garbage\n", "sent invalid header in response"),
        ("LONG", "sent too long response"),
        ("CLOSE", "closed connection before its answer was complete"),
        ("HANG", r"timed out \(110: Connection timed out\)"),
        ("REFUSED", r"connect\(\) failed \(111: Connection refused\)"),
    ];
    for (text, logged) in cases {
        let auth = Origin::start(move |peer| {
            peer.request();
            match text {
                "LONG" => _ = peer.try_send(&[b'x'; 100_000]),
                "CLOSE" => _ = peer.try_send(b"HTTP/1.0 200 OK\r\nAuth-Status: OK\r\nAuth-Ser"),
                "HANG" => _ = peer.rest(),
                _ => _ = peer.try_send(&answer(text)),
            }
        });
        let setup = setup("pop3", &auth, "auth_http_timeout 200ms;");
        if text == "REFUSED" {
            drop(auth);
        }
        let daemon = setup.start();
        let mut client = greeted(&daemon);
        assert_eq!(log_in(&mut client), "-ERR internal server error", "{text}");
        assert_eq!(client.expect_end(), End::Closed);
        daemon.wait_log(logged);
    }
}

#[test]
fn the_second_address_is_tried_if_the_first_cannot_be_reached() {
    let auth = Origin::replying(|_| answer("Auth-Status: here I am\n"));
    // "localhost" may be ::1 and 127.0.0.1; the server listens on the second only.
    let daemon = {
        let conf =
            "mail { auth_http localhost:%%AUTH%%/x; server { listen 127.0.0.1:%%PORT_0%%; protocol pop3; } }";
        Setup::new(conf).set("AUTH", auth.port()).start()
    };
    let mut client = greeted(&daemon);
    assert_eq!(log_in(&mut client), "-ERR here I am");
    assert_eq!(auth.last().header("host"), Some("localhost"));
}

#[test]
fn servers_that_cannot_be_reached_or_hang_are_internal_errors() {
    let silent = Origin::start(|peer| _ = peer.rest());
    let leaving = Origin::start(|peer| peer.send("+OK\r\n").half_close());
    let endless = Origin::start(|peer| while peer.try_send(&[b'x'; 1000]).is_ok() {});
    let cases = [
        (
            1,
            r"connect\(\) failed \(111: Connection refused\) while connecting to upstream, .*, upstream: 127.0.0.1:1",
        ),
        (
            silent.port(),
            r"upstream timed out \(110: Connection timed out\) while reading response from upstream",
        ),
        (leaving.port(), "upstream closed connection while reading response from upstream"),
        (endless.port(), "upstream sent too long response line"),
    ];
    for (port, logged) in cases {
        let auth = Origin::replying(move |_| pass_to(port));
        let daemon = start("pop3", &auth, "timeout 500ms;");
        let mut client = greeted(&daemon);
        assert_eq!(log_in(&mut client), "-ERR internal server error");
        daemon.wait_log(logged);
    }
}

#[test]
fn a_unix_socket_may_be_the_authentication_server() {
    use std::io::{Read, Write};
    let conf = "mail { auth_http http://unix:%%DIR%%/auth.sock:/who; server { listen 127.0.0.1:%%PORT_0%%; protocol pop3; } }";
    let setup = Setup::new(conf);
    let listener =
        std::os::unix::net::UnixListener::bind(setup.folder().join("auth.sock")).expect("a socket");
    let asked = std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().expect("a question");
        let mut text = Vec::new();
        let mut piece = [0; 1024];
        while !text.ends_with(b"\r\n\r\n") {
            let count = peer.read(&mut piece).expect("bytes");
            text.extend_from_slice(&piece[..count]);
        }
        peer.write_all(&answer("Auth-Status: by a socket\n")).expect("it reads");
        String::from_utf8(text).expect("text")
    });
    let daemon = setup.start();
    let mut client = greeted(&daemon);
    assert_eq!(log_in(&mut client), "-ERR by a socket");
    assert!(asked.join().expect("no panic").starts_with("GET /who HTTP/1.0\r\nHost: localhost\r\n"));
}
