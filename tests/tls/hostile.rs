//! Clients that break off, stall, flood or send what is no TLS: each is answered or dropped in bounded time and
//! memory, and the next client is served.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use super::servers::s_client;
use crate::support::tls::{Authority, TlsClient, connect_tcp, trusting};
use crate::support::{Daemon, Setup, get, wait_for};

const CONF: &str = r#"
http {
    ssl_certificate site.pem;
    ssl_certificate_key site.key;
    keepalive_timeout 2s;
    %%MORE%%
    server { listen 127.0.0.1:%%PORT_0%% ssl; server_name site.test; return 200 "fine"; }
}
"#;

fn start(more: &str) -> (Daemon, Arc<ClientConfig>) {
    let authority = Authority::new("test");
    let pair = authority.issue(&["site.test"]);
    let setup = Setup::new(CONF).set("MORE", more).file("site.pem", pair.certificate);
    (setup.file("site.key", pair.key).start(), trusting(&authority))
}

fn is_fine(daemon: &Daemon, config: &Arc<ClientConfig>) {
    let mut client = TlsClient::connect(daemon.port(0), config, "site.test");
    assert_eq!(client.get("site.test", "/").text(), "fine");
    let complaints = daemon.complaints("error|crit|alert|emerg");
    assert!(complaints.is_empty(), "{complaints:?}");
}

/// The first flight of a client for this name.
fn hello(config: &Arc<ClientConfig>, name: &str) -> (ClientConnection, Vec<u8>) {
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let mut tls = ClientConnection::new(Arc::clone(config), name).expect("settings");
    let mut bytes = Vec::new();
    tls.write_tls(&mut bytes).expect("a vector takes it");
    (tls, bytes)
}

/// What comes until the end of the connection.
fn rest(mut socket: &TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = socket.read_to_end(&mut bytes); // a reset ends it too
    bytes
}

#[test]
fn handshakes_that_end_anywhere_are_dropped() {
    let (daemon, config) = start("");
    let (_, first) = hello(&config, "site.test");
    for length in [0, 1, 4, 5, 6, 9, 40, first.len() / 2, first.len() - 1, first.len()] {
        let mut socket = connect_tcp(daemon.port(0));
        socket.write_all(&first[..length]).expect("a socket");
        socket.shutdown(Shutdown::Write).expect("a socket");
        rest(&socket);
    }
    // The second flight, too: all of its bytes but the last ones.
    for missing in [1, 10, 70] {
        let (mut tls, first) = hello(&config, "site.test");
        let mut socket = connect_tcp(daemon.port(0));
        socket.write_all(&first).expect("a socket");
        while tls.is_handshaking() {
            tls.read_tls(&mut socket).expect("the server's flight");
            tls.process_new_packets().expect("it is well formed");
        }
        let mut second = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut second).expect("a vector takes it");
        }
        socket.write_all(&second[..second.len() - missing]).expect("a socket");
        socket.shutdown(Shutdown::Write).expect("a socket");
        rest(&socket);
    }
    daemon.wait_log("peer closed connection in SSL handshake");
    is_fine(&daemon, &config);
}

#[test]
fn a_hello_may_come_byte_by_byte() {
    let (daemon, config) = start("");
    let (mut tls, first) = hello(&config, "site.test");
    let mut socket = connect_tcp(daemon.port(0));
    socket.set_nodelay(true).expect("a socket");
    for byte in first {
        socket.write_all(&[byte]).expect("a socket");
    }
    while tls.is_handshaking() {
        tls.complete_io(&mut socket).expect("a handshake");
    }
}

#[test]
fn what_is_no_tls_is_refused() {
    let (daemon, config) = start("");
    let garbage: Vec<Vec<u8>> = vec![
        vec![0; 100],
        vec![0xff; 5000],
        vec![22, 3, 1, 255, 255, 1],
        [&[22, 3, 1, 0, 5, 1, 0, 0, 1, 0][..], &[7; 50]].concat(),
        vec![22, 3, 1, 0, 0],
        [22, 3, 1, 0, 0].repeat(20),
        vec![21, 3, 3, 0, 2, 1, 0],
        vec![20, 3, 3, 0, 1, 1],
        vec![23, 3, 3, 0, 20].into_iter().chain([9; 20]).collect(),
        vec![0x80, 0x2e, 1, 3, 1, 0, 21, 0, 0, 0, 16], // SSLv2
        vec![22, 2, 0, 0, 1, 1],
        vec![22, 3, 3, 0, 4, 2, 0, 0, 0], // a ServerHello
    ];
    for bytes in garbage {
        let mut socket = connect_tcp(daemon.port(0));
        socket.write_all(&bytes).expect("a socket");
        socket.shutdown(Shutdown::Write).expect("a socket");
        let answer = rest(&socket);
        let is_answer = answer.is_empty() || answer[0] == 21 || answer.starts_with(b"HTTP/1.1 400 ");
        assert!(is_answer, "{bytes:?}: {:?}", String::from_utf8_lossy(&answer));
    }
    is_fine(&daemon, &config);
}

#[test]
fn names_of_any_length_are_survived() {
    let (daemon, config) = start("");
    let (_, first) = hello(&config, "site.test");
    let at = first.windows(9).position(|part| part == b"site.test").expect("the name");
    for length in [0, 256, 10_000] {
        // The name and all lengths around it: of the list, the extension, the extensions, message and record.
        let mut bytes = first.clone();
        bytes.splice(at..at + 9, vec![b'a'; length]);
        let grown = |bytes: &mut Vec<u8>, at: usize, count: usize| {
            let old = bytes[at..at + count].iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            let new = (old + length - 9).to_be_bytes();
            bytes[at..at + count].copy_from_slice(&new[8 - count..]);
        };
        let session = 5 + 4 + 34;
        let suites = session + 1 + usize::from(first[session]);
        let methods = suites + 2 + (usize::from(first[suites]) << 8 | usize::from(first[suites + 1]));
        let extensions = methods + 1 + usize::from(first[methods]);
        for (place, count) in [(3, 2), (6, 3), (extensions, 2), (at - 7, 2), (at - 5, 2), (at - 2, 2)] {
            grown(&mut bytes, place, count);
        }
        let mut socket = connect_tcp(daemon.port(0));
        socket.write_all(&bytes).expect("a socket");
        let mut head = [0; 1];
        socket.read_exact(&mut head).expect("an answer");
        assert!(matches!(head[0], 21 | 22), "an alert, or the default server's flight");
    }
    is_fine(&daemon, &config);
}

#[test]
fn a_client_that_stalls_is_dropped_in_time() {
    let (daemon, config) = start("ssl_handshake_timeout 300ms;");
    let (_, first) = hello(&config, "site.test");
    for length in [1, 100, first.len()] {
        let began = Instant::now();
        let mut socket = connect_tcp(daemon.port(0));
        socket.write_all(&first[..length]).expect("a socket");
        rest(&socket);
        assert!(began.elapsed() >= Duration::from_millis(250), "{length}");
    }
    daemon.wait_log("client timed out while SSL handshaking");
    is_fine(&daemon, &config);
}

#[test]
fn handshakes_under_way_are_bounded() {
    let (daemon, config) = start("ssl_handshakes_max 8;");
    let stalled: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut socket = connect_tcp(daemon.port(0));
            socket.write_all(&[22, 3, 1, 2]).expect("a socket");
            socket
        })
        .collect();
    daemon.wait_log("8 TLS handshakes are under way, giving up the oldest: raise \"ssl_handshakes_max\"");
    // The oldest have gone, and a client that does not stall is served.
    rest(&stalled[0]);
    is_fine(&daemon, &config);
    let given_up = || daemon.log_count("closed to make room for other connections");
    wait_for("twelve to be given up", || (given_up() >= 12).then_some(()));
}

#[test]
fn bytes_that_are_no_request_do_not_keep_a_connection() {
    let (daemon, config) = start("client_header_timeout 1s;");
    let mut client = TlsClient::connect(daemon.port(0), &config, "site.test");
    assert_eq!(client.get("site.test", "/").text(), "fine");
    // The header of a record, and then a byte of it each 100 ms: longer than keepalive_timeout.
    let began = Instant::now();
    let mut record = vec![23, 3, 3, 0x40, 0];
    while began.elapsed() < Duration::from_secs(60) {
        if client.socket.write_all(&record).is_err() {
            break;
        }
        record = vec![1];
        std::thread::sleep(Duration::from_millis(100)); // the client's pace, not a wait for an event
    }
    // A loaded machine is slow; without a limit it would be kept for as long as bytes come.
    assert!(began.elapsed() < Duration::from_secs(50), "it was kept for {:?}", began.elapsed());
    is_fine(&daemon, &config);
}

#[test]
fn renegotiation_is_refused_and_key_updates_are_followed() {
    let (daemon, config) = start("");
    let talk = |words: &[&str], typed: &[&str]| {
        use std::process::{Command, Stdio};
        let address = format!("127.0.0.1:{}", daemon.port(0));
        let mut child = Command::new("openssl")
            .args(["s_client", "-connect", &address, "-servername", "site.test"])
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("openssl is installed");
        let mut input = child.stdin.take().expect("a pipe");
        let mut told = BufReader::new(child.stderr.take().expect("a pipe")).lines().map_while(Result::ok);
        let typed: Vec<String> = typed.iter().map(|text| (*text).to_owned()).collect();
        let writer = std::thread::spawn(move || {
            for text in typed {
                if input.write_all(text.as_bytes()).is_err() {
                    break;
                }
                // A command has a read of its own: the next one comes when this one has been obeyed.
                if text.len() == 2 {
                    told.find(|line| matches!(&**line, "KEYUPDATE" | "RENEGOTIATING"));
                }
            }
            // Without input the client would end before the answer has come.
            told.for_each(drop);
        });
        let mut text = String::new();
        child.stdout.take().expect("a pipe").read_to_string(&mut text).expect("text");
        writer.join().expect("it writes");
        child.wait().expect("it ends");
        text
    };
    let request = "GET / HTTP/1.1\r\nHost: site.test\r\nConnection: close\r\n\r\n";
    let answer = talk(&["-tls1_3"], &["K\n", "k\n", "K\n", request]);
    assert!(answer.contains("fine"), "{answer}");
    // Refused with a warning: this client then gives up, and its connection ends.
    let answer = talk(&["-tls1_2"], &["R\n", request]);
    assert!(!answer.contains("Renegotiation is NOT supported"), "{answer}");
    is_fine(&daemon, &config);
}

#[test]
fn floods_of_warnings_end_the_connection() {
    let (daemon, _) = start("");
    // Alerts need the keys, so this flood comes before there are any.
    let mut socket = connect_tcp(daemon.port(0));
    let (_, first) = hello(&trusting(&Authority::new("other")), "site.test");
    socket.write_all(&first).expect("a socket");
    let flood = [21, 3, 3, 0, 2, 1, 90].repeat(20_000);
    let _ = socket.write_all(&flood);
    let _ = socket.shutdown(Shutdown::Write);
    rest(&socket);
    daemon.wait_log("SSL handshak(e failed|ing)");
    let shown = s_client(daemon.port(0), &[]);
    assert!(shown.contains("CN = site.test"), "{shown}");
}

/// The owner of a file below `/proc/PID`: root, unless the process may be looked into by its own user.
fn owner_of_memory(conf: &str, is_tls: bool) -> u32 {
    let mut setup = Setup::new(conf);
    if is_tls {
        let pair = Authority::new("test").issue(&["site.test"]);
        setup = setup.file("site.pem", pair.certificate).file("site.key", pair.key);
    }
    if nix::unistd::geteuid().is_root() {
        let drop = "setpriv --reuid=65534 --regid=65534 --clear-groups --";
        setup = setup.prelude(&format!("chmod -R a+rwX .; exec {drop} \"$@\";"));
    }
    let daemon = setup.start();
    // A worker that answers, here with 404 or 400, has done all that it does at its start.
    get(daemon.port(0), "/");
    let file = std::fs::metadata(format!("/proc/{}/environ", daemon.worker())).expect("it lives");
    std::os::unix::fs::MetadataExt::uid(&file)
}

#[test]
fn the_memory_of_workers_with_keys_is_hidden() {
    const PLAIN: &str = "http { server { listen 127.0.0.1:%%PORT_0%%; } }";
    const TLS: &str = "http { server { listen 127.0.0.1:%%PORT_0%% ssl; ssl_certificate site.pem; ssl_certificate_key site.key; } }";
    assert_ne!(owner_of_memory(PLAIN, false), 0);
    assert_eq!(owner_of_memory(TLS, true), 0);
    assert_ne!(owner_of_memory(&format!("worker_rlimit_core 1m;\n{TLS}"), true), 0, "core files are wanted");
}

#[test]
fn handshakes_that_wait_give_way_when_a_worker_is_full() {
    let authority = Authority::new("test");
    let pair = authority.issue(&["site.test"]);
    let conf = format!("worker_processes 1;\nevents {{ worker_connections 32; }}\n{CONF}");
    let setup = Setup::new(&conf).set("MORE", "").file("site.pem", pair.certificate);
    let daemon = setup.file("site.key", pair.key).start();
    let stalled: Vec<TcpStream> = (0..60)
        .map(|_| {
            let mut socket = connect_tcp(daemon.port(0));
            socket.write_all(&[22, 3, 1, 2]).expect("a socket");
            socket
        })
        .collect();
    is_fine(&daemon, &trusting(&authority));
    daemon.wait_log("32 worker_connections are not enough, reusing connections");
    rest(&stalled[0]);
}
