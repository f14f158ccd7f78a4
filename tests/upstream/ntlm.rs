//! `ntlm`: connections on which clients have authenticated serve these clients alone.

use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use pronghorn::base::base64;

use crate::control::ctl;
use crate::support::daemon::is_stand_in;
use crate::support::message::Response;
use crate::support::origin::ok;
use crate::support::{Client, Daemon, H2, Origin, Setup, deadline, wait_for};

const CONF: &str = r#"
worker_processes 1;
control unix:%%DIR%%/ctl;
http {
    upstream u { zone u 64k; %%SERVERS%% keepalive 1; ntlm; }
    upstream plain { %%SERVERS%% keepalive 1; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        proxy_set_header Connection "";
        proxy_http_version 1.1;
        location / { proxy_pass http://u; }
        location /other/ { proxy_pass http://u; }
        location /plain/ { proxy_pass http://plain/; }
    }
}
"#;

/// The challenge of a server: signature, type 2, no target, Unicode and NTLM, eight bytes.
fn challenge() -> String {
    let mut message = b"NTLMSSP\0\x02\0\0\0".to_vec();
    message.extend_from_slice(&[0, 0, 0, 0, 32, 0, 0, 0]);
    message.extend_from_slice(&0x0000_8201_u32.to_le_bytes());
    message.extend_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
    base64_text(&message)
}

fn base64_text(bytes: &[u8]) -> String {
    let mut text = Vec::new();
    base64::encode(bytes, &mut text);
    String::from_utf8(text).expect("ASCII")
}

/// The type of an NTLM message in a field.
fn kind(field: &str) -> Option<u8> {
    let bytes = base64::decode(field.split_once(' ')?.1.as_bytes())?;
    bytes.strip_prefix(b"NTLMSSP\0")?.first().copied()
}

/// An origin of which each connection has its own state, as IIS has: it answers with the number of the connection once a
/// client has authenticated there, in two steps.
fn origin() -> Origin {
    let connections = Arc::new(AtomicUsize::new(0));
    Origin::start(move |peer| {
        let number = connections.fetch_add(1, Ordering::SeqCst) + 1;
        let (mut is_challenged, mut is_known) = (false, false);
        while let Some(request) = peer.request() {
            let kind = request.header("authorization").and_then(kind);
            let refuse = |value: &str| {
                format!("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: {value}\r\nContent-Length: 0\r\n\r\n")
            };
            is_known |= kind == Some(3) && is_challenged;
            is_challenged = kind == Some(1);
            if is_challenged {
                peer.send(refuse(&format!("NTLM {}", challenge())));
            } else if is_known {
                peer.send(ok(number.to_string().as_bytes()));
            } else {
                peer.send(refuse("NTLM"));
            }
        }
    })
}

fn message(kind: u8) -> String {
    base64_text(&[b"NTLMSSP\0", &[kind, 0, 0, 0][..]].concat())
}

fn ask(client: &mut Client, path: &str, authorization: &str) -> Response {
    let field =
        if authorization.is_empty() { String::new() } else { format!("Authorization: {authorization}\r\n") };
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n{field}\r\n"));
    client.response()
}

/// Authenticates a client's connection, and returns the number of the origin's.
fn log_in(client: &mut Client, scheme: &str) -> String {
    assert_eq!(ask(client, "/", &format!("{scheme} {}", message(1))).status, 401);
    let answer = ask(client, "/", &format!("{scheme} {}", message(3)));
    assert_eq!(answer.status, 200, "the second step came to another connection");
    answer.text()
}

fn start(origins: &[&Origin]) -> Daemon {
    let servers: String = origins.iter().map(|origin| format!("server {};", origin.address())).collect();
    Setup::new(CONF).set("SERVERS", servers).start()
}

#[test]
fn each_client_has_the_connection_on_which_it_has_authenticated() {
    if is_stand_in() {
        return; // a part of the commercial nginx
    }
    let origin = origin();
    let daemon = start(&[&origin]);
    let mut clients: Vec<Client> = (0..5).map(|_| Client::connect(daemon.port(0))).collect();
    let schemes = ["NTLM", "Negotiate", "ntlm", "NEGOTIATE", "NTLM"];
    // More than the one that "keepalive" counts.
    let numbers: Vec<String> =
        clients.iter_mut().zip(schemes).map(|(client, scheme)| log_in(client, scheme)).collect();
    for round in 0..3 {
        for (client, number) in clients.iter_mut().zip(&numbers) {
            let path = ["/", "/other/", "/x?y"][round];
            let answer = ask(client, path, "");
            assert_eq!((answer.status, &answer.text()), (200, number), "round {round}");
        }
        assert_eq!(ask(&mut Client::connect(daemon.port(0)), "/", "").status, 401, "a stranger");
    }
    let mut distinct = numbers.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), numbers.len(), "{numbers:?}");
    // The strangers have one that nobody is bound to, and share it.
    assert_eq!(origin.accepted(), 6);
}

#[test]
fn a_bound_connection_ends_with_the_client() {
    if is_stand_in() {
        return;
    }
    let origin = origin();
    let daemon = start(&[&origin]);
    let (mut first, mut second) = (Client::connect(daemon.port(0)), Client::connect(daemon.port(0)));
    log_in(&mut first, "NTLM");
    let number = log_in(&mut second, "NTLM");
    drop(first);
    origin.wait_ended(1);
    assert_eq!(ask(&mut second, "/", "").text(), number, "the other client keeps its own");
    drop(second);
    origin.wait_ended(2);
}

/// A stream of HTTP/2 may be answered when its connection is gone already: nobody could use what it was bound to.
#[test]
fn a_connection_that_becomes_free_when_its_client_has_left_is_closed() {
    if is_stand_in() {
        return;
    }
    let (go, wait) = channel();
    let wait = Mutex::new(wait);
    let origin = Origin::start(move |peer| {
        peer.request();
        let _ = wait.lock().expect("not poisoned").recv_timeout(deadline());
        let _ = peer.try_send(&ok(b"late"));
        peer.request();
    });
    let conf = CONF.replace("listen 127", "http2 on; proxy_ignore_client_abort on; listen 127");
    let daemon = Setup::new(&conf).set("SERVERS", format!("server {};", origin.address())).start();
    let mut client = H2::connect(daemon.port(0));
    client.get("/", &[("authorization", &format!("NTLM {}", message(1)))]);
    origin.wait_requests(1);
    drop(client);
    wait_for("the client's connection to end", || {
        let (_, told, _) = ctl(&daemon, &["connections"]);
        (!told.contains("HTTP/2")).then_some(())
    });
    go.send(()).expect("the origin waits");
    origin.wait_ended(1);
}

#[test]
fn a_bound_client_goes_to_its_peer_and_starts_again_when_that_is_gone() {
    if is_stand_in() {
        return;
    }
    let (one, two) = (origin(), origin());
    let daemon = start(&[&one, &two]);
    let mut client = Client::connect(daemon.port(0));
    log_in(&mut client, "NTLM");
    let asked = |origin: &Origin| origin.requests().len();
    let (before_one, before_two) = (asked(&one), asked(&two));
    for _ in 0..6 {
        assert_eq!(ask(&mut client, "/", "").status, 200);
    }
    let (added_one, added_two) = (asked(&one) - before_one, asked(&two) - before_two);
    assert!(matches!((added_one, added_two), (6, 0) | (0, 6)), "{added_one} and {added_two}");

    // A reload leaves nothing of the connections, and the client is asked to authenticate once more.
    daemon.reload();
    wait_for("the new worker's answer", || (ask(&mut client, "/", "").status == 401).then_some(()));
    log_in(&mut client, "NTLM");
    assert_eq!(ask(&mut client, "/", "").status, 200);
}

#[test]
fn without_it_connections_are_shared() {
    let origin = origin();
    let daemon = match is_stand_in() {
        false => start(&[&origin]),
        true => return,
    };
    let mut client = Client::connect(daemon.port(0));
    assert_eq!(ask(&mut client, "/plain/", &format!("NTLM {}", message(1))).status, 401);
    assert_eq!(ask(&mut client, "/plain/", &format!("NTLM {}", message(3))).status, 200);
    let mut stranger = Client::connect(daemon.port(0));
    assert_eq!(ask(&mut stranger, "/plain/", "").status, 200, "this is why the directive exists");
}

#[test]
fn curl_authenticates() {
    if is_stand_in() {
        return;
    }
    let (one, two) = (origin(), origin());
    let daemon = start(&[&one, &two]);
    let url = format!("http://127.0.0.1:{}/", daemon.port(0));
    let output = Command::new("curl")
        .args(["-s", "--ntlm", "-u", "user:secret", "-w", "%{http_code} ", &url, &url, &url])
        .output()
        .expect("curl");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text.matches("200 ").count(), 3, "{text}");
}
