//! `proxy_session_drop`: sessions whose server is gone.

use std::net::UdpSocket;

use serde_json::json;

use crate::control::control;
use crate::support::deadline::deadline;
use crate::support::{Client, Daemon, Origin, Setup, get, wait_for};

const CONF: &str = r#"
worker_processes 1;
control unix:%%DIR%%/ctl;
stream {
    upstream u { zone u 64k; server %%ORIGIN%%; }
    upstream d { zone d 64k; server %%FIRST%%; }
    server { listen 127.0.0.1:%%PORT_0%%; proxy_pass u; proxy_session_drop on; }
    server { listen 127.0.0.1:%%PORT_1%%; proxy_pass u; }
    server { listen 127.0.0.1:%%PORT_2%% udp; proxy_pass d; proxy_session_drop on; }
}
"#;

const TCP: &str = "/api/9/stream/upstreams/u/servers";
const UDP: &str = "/api/9/stream/upstreams/d/servers";

/// A server of datagrams that answers with this name. Returns its address.
fn answering(name: &'static str) -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let address = socket.local_addr().expect("bound").to_string();
    std::thread::spawn(move || {
        while let Ok((_, from)) = socket.recv_from(&mut [0; 64]) {
            let _ = socket.send_to(name.as_bytes(), from);
        }
    });
    address
}

fn start(origin: &Origin) -> Daemon {
    let setup = Setup::new(CONF).set("ORIGIN", origin.address()).set("FIRST", answering("first"));
    setup.level("info").start()
}

/// Waits until new sessions get this server.
fn wait_for_server(daemon: &Daemon, name: &str) {
    wait_for(name, || (get(daemon.port(1), "/").text() == name).then_some(()));
}

#[test]
fn a_session_whose_server_was_removed_ends_with_the_next_bytes() {
    let (one, two) = (Origin::saying("one"), Origin::saying("two"));
    let daemon = start(&one);
    let [mut dropped, mut kept] = [0, 1].map(|port| Client::connect(daemon.port(port)));
    for client in [&mut dropped, &mut kept] {
        assert_eq!(client.get("/").text(), "one");
    }
    assert_eq!(control(&daemon, "POST", TCP, &json!({ "server": two.address() }).to_string()).status, 201);
    assert_eq!(control(&daemon, "DELETE", &format!("{TCP}/0"), "").status, 200);
    wait_for_server(&daemon, "two");
    assert_eq!(kept.get("/").text(), "one", "nobody has asked for its end");
    let _ = dropped.try_send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(dropped.try_exactly(1), None);
    daemon.wait_log(
        r#"the session ends, since its server was removed or is unavailable \("proxy_session_drop"\)"#,
    );
}

#[test]
fn a_session_whose_server_is_put_down_ends_and_one_whose_server_drains_goes_on() {
    let one = Origin::saying("one");
    let daemon = start(&one);
    let mut client = Client::connect(daemon.port(0));
    assert_eq!(client.get("/").text(), "one");
    assert_eq!(control(&daemon, "PATCH", &format!("{TCP}/0"), r#"{"drain": true}"#).status, 200);
    assert_eq!(client.get("/").text(), "one");
    assert_eq!(control(&daemon, "PATCH", &format!("{TCP}/0"), r#"{"down": true}"#).status, 200);
    wait_for("the end of the session", || {
        let sent = client.try_send(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
        (sent.is_err() || client.head_or_end().is_none()).then_some(())
    });
}

#[test]
fn datagrams_go_to_another_server() {
    let origin = Origin::saying("one");
    let daemon = start(&origin);
    let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    client.connect(("127.0.0.1", daemon.port(2))).expect("connects");
    let ask = || {
        let mut bytes = [0; 64];
        client.send(b"?").expect("sent");
        client.recv(&mut bytes).ok().map(|length| String::from_utf8_lossy(&bytes[..length]).into_owned())
    };
    client.set_read_timeout(Some(deadline())).expect("a timeout");
    assert_eq!(ask().as_deref(), Some("first"));
    let second = json!({ "server": answering("second") }).to_string();
    assert_eq!(control(&daemon, "POST", UDP, &second).status, 201);
    assert_eq!(ask().as_deref(), Some("first"), "its session goes on");
    assert_eq!(control(&daemon, "DELETE", &format!("{UDP}/0"), "").status, 200);
    // The datagram that ends the session is lost.
    client.set_read_timeout(Some(std::time::Duration::from_millis(100))).expect("a timeout");
    wait_for("the other server", || (ask().as_deref() == Some("second")).then_some(()));
}
