//! `proxy_socket_rcvbuf`, `proxy_socket_sndbuf` and those of the other families: the sizes of the kernel's buffers. The origin
//! asks `ss` for those of the connection that it has accepted.

use std::process::Command;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};

use crate::support::daemon::is_stand_in;
use crate::support::{Client, Origin, Setup, deadline};

const CONF: &str = r#"
http {
    proxy_socket_rcvbuf 20k; proxy_socket_sndbuf 21k;
    fastcgi_socket_rcvbuf 22k; fastcgi_socket_sndbuf 23k;
    uwsgi_socket_rcvbuf 24k; uwsgi_socket_sndbuf 25k;
    scgi_socket_rcvbuf 26k; scgi_socket_sndbuf 27k;
    grpc_socket_rcvbuf 28k; grpc_socket_sndbuf 29k;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /proxy { proxy_pass http://%%ORIGIN%%; }
        location /fastcgi { fastcgi_pass %%ORIGIN%%; }
        location /uwsgi { uwsgi_pass %%ORIGIN%%; }
        location /scgi { scgi_pass %%ORIGIN%%; }
        location /grpc { grpc_pass %%ORIGIN%%; }
        location /own { proxy_socket_sndbuf 40k; proxy_pass http://%%ORIGIN%%; }
        location /bound { proxy_bind $arg_b; proxy_pass http://%%ORIGIN%%; }
        location /free { proxy_socket_rcvbuf 0; proxy_socket_sndbuf 0; proxy_pass http://%%ORIGIN%%; }
    }
}
stream {
    server { listen 127.0.0.1:%%PORT_1%%; proxy_socket_rcvbuf 32k; proxy_socket_sndbuf 33k; proxy_pass %%ORIGIN%%; }
    server { listen 127.0.0.1:%%PORT_2%%; proxy_pass %%ORIGIN%%; }
}
"#;

/// The sizes of the daemon's buffers, receiving and sending, of each connection to the origin, which then ends.
fn observer() -> (Receiver<(usize, usize)>, Origin) {
    let (told, seen) = channel();
    let told = Mutex::new(told);
    let origin = Origin::start(move |peer| {
        peer.some(1);
        let port = peer.stream().peer_addr().expect("connected").port();
        let mut ss = Command::new("ss");
        let output = ss.args(["-H", "-t", "-n", "-m", &format!("sport = :{port}")]).output();
        let text = String::from_utf8_lossy(&output.expect("ss is installed").stdout).into_owned();
        let size = |name: &str| {
            let mut sizes = text.split([',', '(']).filter_map(|word| word.strip_prefix(name));
            sizes.find_map(|size| size.parse().ok()).unwrap_or_else(|| panic!("no {name} in {text:?}"))
        };
        let _ = told.lock().expect("not poisoned").send((size("rb"), size("tb")));
    });
    (seen, origin)
}

/// The kernel doubles a size (socket(7)).
const fn kib(receive: usize, send: usize) -> (usize, usize) {
    (2048 * receive, 2048 * send)
}

#[test]
fn each_family_sets_the_sizes_of_its_buffers() {
    let (seen, origin) = observer();
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).start();
    let seen = |index: usize, request: &str| {
        let mut client = Client::connect(daemon.port(index));
        client.send(request);
        seen.recv_timeout(deadline()).expect("the origin is asked")
    };
    for (path, expected) in [
        ("/proxy", kib(20, 21)),
        ("/fastcgi", kib(22, 23)),
        ("/uwsgi", kib(24, 25)),
        ("/scgi", kib(26, 27)),
        ("/grpc", kib(28, 29)),
        ("/own", kib(20, 40)),
        ("/bound?b=127.0.0.2", kib(20, 21)),
    ] {
        assert_eq!(seen(0, &format!("GET {path} HTTP/1.0\r\n\r\n")), expected, "{path}");
    }
    assert_eq!(seen(1, "x"), kib(32, 33));
    for (index, request) in [(0, "GET /free HTTP/1.0\r\n\r\n"), (2, "x")] {
        let (receive, send) = seen(index, request);
        assert!(receive > 100_000 && send > 40_000, "the kernel's own: {receive} {send}");
    }
}

#[test]
fn a_tunnel_has_them_too() {
    if is_stand_in() {
        return; // only the newest nginx has tunnels
    }
    let (seen, origin) = observer();
    let conf = "http { tunnel_socket_rcvbuf 34k; tunnel_socket_sndbuf 35k; server { listen 127.0.0.1:%%PORT_0%%; tunnel_pass %%ORIGIN%%; } }";
    let daemon = Setup::new(conf).set("ORIGIN", origin.address()).start();
    let mut client = Client::connect(daemon.port(0));
    client.send("CONNECT a.test:80 HTTP/1.1\r\nHost: a.test:80\r\n\r\nx");
    assert_eq!(seen.recv_timeout(deadline()), Ok(kib(34, 35)));
}
