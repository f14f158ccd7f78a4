//! Relaying large responses: complete, and in bounded memory however slow the reader is.

use std::sync::Mutex;
use std::time::Duration;

use crate::support::daemon::is_stand_in;
use crate::support::origin::Peer;
use crate::support::{Client, Daemon, Origin, Setup, deadline, process, wait_for};

const CONF: &str = r#"
http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { proxy_pass http://%%ORIGIN%%; proxy_http_version 1.1; proxy_max_temp_file_size 0; }
    }
}
"#;

const BYTES: u64 = 100 * 1024 * 1024;

fn piece(at: u64) -> Vec<u8> {
    (0..64 * 1024_u64).map(|index| ((at + index) % 251) as u8).collect()
}

/// Sends a patterned body of this length; stops when the daemon has gone.
fn send_body(peer: &mut Peer, length: u64) {
    peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"));
    let mut at = 0;
    while at < length {
        let mut bytes = piece(at);
        bytes.truncate((length - at) as usize);
        if peer.try_send(&bytes).is_err() {
            return;
        }
        at += bytes.len() as u64;
    }
}

fn large() -> Origin {
    Origin::start(|peer| {
        while let Some(request) = peer.request() {
            // Paths other than a length are not answered.
            if let Ok(length) = request.target[1..].parse() {
                send_body(peer, length);
            }
        }
    })
}

fn start(origin: &Origin) -> Daemon {
    Setup::new(CONF).set("ORIGIN", origin.address()).level("info").start()
}

#[test]
fn a_large_answer_arrives_complete_and_unchanged() {
    let origin = large();
    let daemon = start(&origin);
    let mut client = Client::connect(daemon.port(0));
    let pattern: Vec<u8> = (0..251 + 256 * 1024_u64).map(|place| (place % 251) as u8).collect();
    for length in [65_536_u64, 1_000_003, 20_000_000] {
        client.send(format!("GET /{length} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(client.response_head().length(), Some(length as usize));
        let mut at = 0;
        while at < length {
            let bytes = client.some(256 * 1024);
            assert!(!bytes.is_empty(), "ended after {at} of {length}");
            let expected = &pattern[(at % 251) as usize..][..bytes.len()];
            assert!(bytes == expected, "a byte was changed within {} after {at}", bytes.len());
            at += bytes.len() as u64;
        }
    }
}

#[test]
fn a_large_answer_is_whole_where_descriptors_have_run_out() {
    if is_stand_in() {
        return; // nginx uses no pipe
    }
    let origin = large();
    let daemon = start(&origin);
    let worker = daemon.worker();
    let mut client = Client::connect(daemon.port(0));
    // So that its connection to the origin is open already.
    client.send("GET /10 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().body.len(), 10);
    process::close_table(worker);
    client.send("GET /1000003 HTTP/1.1\r\nHost: a\r\n\r\n");
    let response = client.response();
    assert_eq!(response.body.len(), 1_000_003);
    assert!(
        response.body[..65_536] == piece(0) && response.body[65_536 * 15..] == piece(65_536 * 15)[..16_963]
    );
}

#[test]
fn slow_readers_cost_bounded_memory() {
    // Fifty clients ask for 100 MiB each and read 100 KB a second of it for a while.
    let origin = large();
    let daemon = start(&origin);
    let worker = daemon.worker();
    Client::connect(daemon.port(0)).get("/1000");
    let before = process::private_kib(worker);
    let mut clients: Vec<Client> = (0..50)
        .map(|_| {
            let mut client = Client::connect(daemon.port(0));
            client.send(format!("GET /{BYTES} HTTP/1.1\r\nHost: a\r\n\r\n"));
            assert_eq!(client.response_head().length(), Some(BYTES as usize));
            client
        })
        .collect();
    let mut most = 0;
    for _ in 0..20 {
        for client in &mut clients {
            assert!(!client.exactly(10_000).is_empty());
        }
        std::thread::sleep(Duration::from_millis(100)); // the readers' pace, not a synchronisation
        most = most.max(process::private_kib(worker));
    }
    let each = most.saturating_sub(before) / 50;
    assert!(each <= 64, "{each} KiB for each slow reader ({before} KiB before, {most} KiB at most)");
    drop(clients);
    origin.wait_ended(50);
    if !is_stand_in() {
        wait_for("the memory to come back", || (process::private_kib(worker) <= before + 4096).then_some(()));
    }
}

#[test]
fn a_reader_that_stops_stops_the_origin() {
    let origin = large();
    let daemon = start(&origin);
    let mut client = Client::connect(daemon.port(0));
    client.send(format!("GET /{BYTES} HTTP/1.1\r\nHost: a\r\n\r\n"));
    client.response_head();
    // The client does not read: the amount that the worker has taken from the origin stops growing, far below
    // the whole.
    let worker = daemon.worker();
    let mut last = 0;
    let memory = wait_for("a standstill", || {
        let now = process::cpu_ticks(worker);
        std::thread::sleep(Duration::from_millis(100));
        (std::mem::replace(&mut last, now) == now).then(|| process::private_kib(worker))
    });
    assert!(memory < 32 * 1024, "{memory} KiB");
    assert_eq!(client.exactly(1_000_000).len(), 1_000_000, "it goes on when the reader does");
}

#[test]
fn what_has_arrived_is_passed_on_while_the_origin_pauses() {
    let (seen, wait_seen) = std::sync::mpsc::channel();
    let wait_seen = Mutex::new(wait_seen);
    let origin = Origin::start(move |peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        for word in ["one", "two", "three"] {
            peer.send(format!("{:x}\r\n{word}\r\n", word.len()));
            // Send the next only when the client has this one.
            let seen = wait_seen.lock().expect("not poisoned").recv_timeout(deadline());
            seen.unwrap_or_else(|_| panic!("the client did not get {word:?}"));
        }
        peer.send("0\r\n\r\n");
    });
    // nginx holds them back unless buffering is off.
    let own = if is_stand_in() { None } else { Some("") };
    for settings in own.into_iter().chain(["proxy_buffering off;"]) {
        let conf = CONF.replace("proxy_max_temp_file_size 0;", settings);
        let daemon = Setup::new(&conf).set("ORIGIN", origin.address()).start();
        let mut client = Client::connect(daemon.port(0));
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        client.response_head();
        for word in ["one", "two", "three"] {
            assert_eq!(client.line(), format!("{:x}", word.len()).as_bytes());
            assert_eq!(client.line(), word.as_bytes());
            seen.send(()).expect("the origin waits");
        }
        assert_eq!(client.line(), b"0");
    }
}
