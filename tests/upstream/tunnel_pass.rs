//! `tunnel_pass`: CONNECT through a forward proxy; who may use it, what is refused, and a reload.

use crate::support::wire::End;
use crate::support::{Client, Daemon, Dns, Origin, Setup, fetch, port, wait_for};

const CONF: &str = r#"
http {
    resolver %%DNS%%;
    resolver_timeout 5s;
    log_format tunnel '$request_method $host $request_port $status $upstream_addr $upstream_status $bytes_sent';
    access_log %%DIR%%/tunnel.log tunnel;
    upstream backend { server %%ORIGIN%%; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        root %%DIR%%/site;
        location / {
            if ($request_method = CONNECT) {
                tunnel_pass;
                error_page 502 504 /failed.txt;
                break;
            }
        }
        location /failed.txt { }
    }
    server {
        listen 127.0.0.1:%%PORT_1%%;
        tunnel_pass backend;
        auth_basic "closed proxy";
        auth_basic_user_file users;
    }
    server {
        listen 127.0.0.1:%%PORT_2%%;
        location / { proxy_pass http://backend; }
    }
    server {
        listen 127.0.0.1:%%PORT_3%%;
        location / { proxy_pass http://backend; }
        location /tunnel { tunnel_pass; }
    }
    server {
        listen 127.0.0.1:%%PORT_4%%;
        tunnel_pass;
        deny all;
    }
}
"#;

fn echo() -> Origin {
    Origin::start(|peer| {
        loop {
            let bytes = peer.some(16 * 1024);
            if bytes.is_empty() || peer.try_send(&bytes).is_err() {
                return;
            }
        }
    })
}

fn start(origin: &Origin) -> Daemon {
    let dns = Dns::knowing(&[("target.test", "127.0.0.1")]);
    let daemon = Setup::new(CONF)
        .set("ORIGIN", origin.address())
        .set("DNS", dns.address())
        .file("site/failed.txt", "failed")
        .file("site/index.html", "page")
        .file("users", "me:{PLAIN}secret\n")
        .level("info")
        .start();
    std::mem::forget(dns); // it answers until the test ends
    daemon
}

fn connect(daemon: &Daemon, port: usize, target: &str, fields: &str) -> Client {
    let mut client = Client::connect(daemon.port(port));
    client.send(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{fields}\r\n"));
    client
}

fn refusal(daemon: &Daemon, port: usize, target: &str) -> u16 {
    connect(daemon, port, target, "").response_head().status
}

#[test]
fn bytes_go_both_ways() {
    let origin = echo();
    let daemon = start(&origin);
    for target in [origin.address(), format!("target.test:{}", origin.port())] {
        let mut client = connect(&daemon, 0, &target, "");
        let head = client.response_head();
        assert_eq!((head.status, head.length(), head.header("transfer-encoding")), (200, None, None));
        for length in [1, 1_000, 60_000] {
            let bytes: Vec<u8> = (0..length).map(|index| (index * 7) as u8).collect();
            client.send(&bytes);
            assert!(client.exactly(length) == bytes, "{length} bytes came back changed");
        }
        drop(client);
        let (host, port) = target.split_once(':').unwrap();
        daemon.wait_line("tunnel.log", &format!("^CONNECT {host} {port} 200 127.0.0.1:{port} 200 6"));
    }
    origin.wait_ended(2);
}

/// What a client has sent behind the head was meant for the other end of the tunnel.
#[test]
fn bytes_behind_a_refused_head_are_no_request() {
    let origin = echo();
    let daemon = start(&origin);
    let target = format!("127.0.0.1:{}", port::free());
    for (index, target, status) in
        [(0, &*target, 502), (1, "target.test:80", 407), (2, "target.test:80", 405)]
    {
        let mut client = connect(&daemon, index, target, "");
        client.send("GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
        let head = client.response();
        assert_eq!((head.status, head.header("connection")), (status, Some("close")), "{head:?}");
        assert_eq!(client.expect_end(), End::Closed);
    }
    daemon.stop(nix::sys::signal::Signal::SIGTERM);
    let log = daemon.read("tunnel.log");
    assert_eq!(log.lines().count(), 3, "{log}");
}

#[test]
fn bytes_behind_the_head_are_not_lost() {
    let origin = echo();
    let daemon = start(&origin);
    let mut client = Client::connect(daemon.port(0));
    let target = origin.address();
    client.send(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\nearly"));
    assert_eq!(client.response_head().status, 200);
    assert_eq!(client.exactly(5), b"early");
}

#[test]
fn the_end_of_the_server_is_passed_on() {
    let origin = Origin::start(|peer| {
        peer.send("bye");
    });
    let daemon = start(&origin);
    let mut client = connect(&daemon, 0, &origin.address(), "");
    assert_eq!(client.response_head().status, 200);
    assert_eq!(client.exactly(3), b"bye");
    assert_eq!(client.expect_end(), End::Closed);
}

#[test]
fn other_targets_and_requests_are_refused() {
    let origin = echo();
    let daemon = start(&origin);
    for target in [
        "target.test",
        "target.test:",
        ":80",
        ":",
        "target.test:65536",
        "target.test:x",
        "target.test:80/",
        "target.test:80?",
        "target.test:80#",
        "me:secret@target.test:80",
        "http://target.test:80",
        "/",
        "*",
    ] {
        assert_eq!(refusal(&daemon, 0, target), 400, "{target}");
    }
    // what a name may not become: a socket of this machine
    assert!(refusal(&daemon, 0, "unix:80") >= 500);
    let target = origin.address();
    let send = |port: usize, head: &str| {
        let mut client = Client::connect(daemon.port(port));
        client.send(head);
        client.response_head().status
    };
    assert_eq!(send(0, &format!("CONNECT {target} HTTP/1.0\r\nHost: a\r\n\r\n")), 405);
    assert_eq!(send(0, &format!("CONNECT {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")), 400);
    assert_eq!(
        send(0, &format!("CONNECT {target} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")),
        400
    );
    assert_eq!(send(0, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"), 200, "a page");
    assert_eq!(send(3, "GET /tunnel HTTP/1.1\r\nHost: a\r\n\r\n"), 405);
    // a server without the directive, and a location with another one in a server that has it
    assert_eq!(refusal(&daemon, 2, &target), 405);
    assert_eq!(refusal(&daemon, 3, &target), 405);
    assert_eq!(refusal(&daemon, 4, &target), 403);
    assert_eq!(origin.accepted(), 0);
}

#[test]
fn a_server_that_cannot_be_reached_is_an_error() {
    let origin = echo();
    let daemon = start(&origin);
    let closed = port::refusing();
    let mut client = connect(&daemon, 0, &format!("127.0.0.1:{closed}"), "");
    let answer = client.response();
    assert_eq!((answer.status, answer.text().as_str()), (502, "failed"));
    daemon.wait_log(&format!("connect\\(\\) failed .*upstream: \"tunnel://127.0.0.1:{closed}\""));
    assert_eq!(refusal(&daemon, 0, "unknown.test:80"), 502);
}

#[test]
fn a_proxy_asks_for_a_password_of_its_own() {
    let origin = echo();
    let daemon = start(&origin);
    let refused = connect(&daemon, 1, "any.test:1", "Authorization: Basic bWU6c2VjcmV0\r\n").response();
    assert_eq!((refused.status, refused.header("www-authenticate")), (407, None));
    assert_eq!(refused.header("proxy-authenticate"), Some("Basic realm=\"closed proxy\""));
    let mut client = connect(&daemon, 1, "any.test:1", "Proxy-Authorization: Basic bWU6c2VjcmV0\r\n");
    assert_eq!(client.response_head().status, 200);
    client.send("hello");
    assert_eq!(client.exactly(5), b"hello");
    // as for any other request where the server has the directive
    let ordinary = fetch(daemon.port(1), "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!((ordinary.status, ordinary.header("proxy-authenticate")), (401, None));
}

#[test]
fn a_reload_moves_tunnels() {
    let origin = echo();
    let daemon = start(&origin);
    let before = daemon.worker();
    let mut client = connect(&daemon, 0, &origin.address(), "");
    assert_eq!(client.response_head().status, 200);
    client.send("one");
    assert_eq!(client.exactly(3), b"one");
    daemon.reload();
    wait_for("the old worker to leave", || (!daemon.workers_now().contains(&before)).then_some(()));
    client.send("two");
    assert_eq!(client.exactly(3), b"two");
    assert_eq!(origin.accepted(), 1, "the connection is the same");
    drop(client);
    origin.wait_ended(1);
    daemon.wait_line("tunnel.log", "^CONNECT 127.0.0.1 .* 200");
}

#[test]
fn an_open_proxy_is_a_warning() {
    let warned = |rules: &str| {
        let conf = format!("http {{ server {{ listen 127.0.0.1:%%PORT_0%%; {rules} }} }}");
        let said = Setup::new(&conf).run(&["-t"]);
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(said.contains("syntax is ok"), "{said}");
        said.contains("every client may reach whatever this machine reaches")
    };
    for (rules, expected) in [
        ("tunnel_pass;", true),
        ("location / { if ($request_method = CONNECT) { tunnel_pass; } }", true),
        ("tunnel_pass $host:443;", true),
        ("tunnel_pass; allow 10.0.0.0/8; deny all;", false),
        ("tunnel_pass; auth_basic x; auth_basic_user_file y;", false),
        ("tunnel_pass 127.0.0.1:443;", false),
    ] {
        assert_eq!(warned(rules), expected, "{rules}");
    }
}
