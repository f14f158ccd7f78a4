//! Counts after workers were killed under load: each request whose response has arrived, and each session whose end has,
//! is counted exactly once. The same for responses that their clients take late.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nix::sys::signal::Signal;
use socket2::{Domain, Socket, Type};

use super::with_certificate;
use super::zones::plus;
use crate::support::daemon::{is_stand_in, send};
use crate::support::h2::{self, END_STREAM};
use crate::support::message::Response;
use crate::support::tls::{TlsClient, trusting};
use crate::support::{H2, Origin, Setup, deadline, wait_for};

const CONF: &str = r#"
worker_processes 2;
control unix:%%DIR%%/ctl;
http {
    keepalive_requests 100000000;
    upstream u { zone u 64k; server %%ORIGIN%%; keepalive 8; }
    upstream long { zone long 64k; server %%LONG%%; keepalive 8; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        http2 on;
        status_zone site;
        location / { proxy_pass http://u; }
        location /docs { status_zone docs; return 204; }
        location /gone { return 410; }
        location /file { root %%DIR%%; }
        location /long { proxy_pass http://long; }
    }
}
"#;

const CLIENTS: usize = 4;
const KILLS: usize = 12;
/// No response is longer.
const RESPONSE_BYTES_MAX: u64 = 256 * 1024;
/// Long enough for splice(2). Its status is not that of others.
const LONG_BYTES: usize = 200_000;
/// Long enough for sendfile(2). A part of the file is asked for, so that its status is not that of others.
const FILE_BYTES: usize = 20_000;

/// Reads a response without a body, or with one of a known length. Returns its status and its bytes; `None`: the connection ended before.
fn response(stream: &mut TcpStream) -> Option<(u16, u64)> {
    let (mut bytes, mut some) = (Vec::new(), [0; 65_536]);
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = Response::parse(&bytes[..end + 4]);
            let length = head.header("content-length").map_or(0, |length| length.parse().expect("a number"));
            if bytes.len() == end + 4 + length {
                return Some((head.status, bytes.len() as u64));
            }
        }
        match stream.read(&mut some) {
            Ok(count) if count > 0 => bytes.extend_from_slice(&some[..count]),
            _ => return None,
        }
    }
}

/// What clients have got.
#[derive(Default)]
struct Got {
    /// The responses by status, and their bytes.
    statuses: BTreeMap<u16, u64>,
    bytes: u64,
    /// The requests that had no response.
    unanswered: u64,
}

/// Sends requests on one connection after the other until it is told to stop.
fn client(port: u16, stop: &AtomicBool, answered: &AtomicUsize) -> Got {
    let mut got = Got::default();
    while !stop.load(Ordering::SeqCst) {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { continue };
        stream.set_read_timeout(Some(deadline())).expect("a socket takes a timeout");
        for path in ["/", "/docs", "/gone", "/file", "/long"].into_iter().cycle() {
            if stop.load(Ordering::SeqCst) {
                break;
            }
            let range = if path == "/file" { "Range: bytes=1-\r\n" } else { "" };
            let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n{range}\r\n");
            let answer = stream.write_all(request.as_bytes()).ok().and_then(|()| response(&mut stream));
            let Some((status, bytes)) = answer else {
                got.unanswered += 1;
                break;
            };
            *got.statuses.entry(status).or_default() += 1;
            got.bytes += bytes;
            answered.fetch_add(1, Ordering::SeqCst);
        }
    }
    got
}

/// The same over HTTP/2, one request after the other: a connection is asked again while nothing else is on its way.
fn client_of_h2(port: u16, stop: &AtomicBool, answered: &AtomicUsize) -> Got {
    let mut got = Got::default();
    while !stop.load(Ordering::SeqCst) {
        let Some(mut h2) = H2::try_connect(port) else { continue };
        for (number, path) in ["/", "/docs", "/gone"].into_iter().cycle().enumerate() {
            if stop.load(Ordering::SeqCst) {
                break;
            }
            let stream = 2 * number as u32 + 1;
            let asked =
                h2::frame(h2::HEADERS, h2::END_HEADERS | END_STREAM, stream, &h2::request("GET", path, &[]));
            let is_over = |h2: &H2| h2.answers.get(&stream).is_some_and(|answer| answer.is_complete);
            let is_answered = h2.wire.try_send(&asked).is_ok()
                && loop {
                    if is_over(&h2) {
                        break true;
                    }
                    if h2.read().is_none() {
                        break false;
                    }
                };
            if !is_answered {
                got.unanswered += 1;
                break;
            }
            // A head of HTTP/2 has another size: bytes are compared for HTTP/1.1 only.
            *got.statuses.entry(h2.answers[&stream].status).or_default() += 1;
            h2.answers.remove(&stream);
            h2.frames.clear();
            answered.fetch_add(1, Ordering::SeqCst);
        }
    }
    got
}

#[test]
fn requests_that_were_answered_are_counted_once_whichever_worker_was_killed() {
    are_counted_once(client, true);
}

#[test]
fn streams_that_were_answered_are_counted_once_whichever_worker_was_killed() {
    are_counted_once(client_of_h2, false);
}

fn are_counted_once(client: fn(u16, &AtomicBool, &AtomicUsize) -> Got, has_bytes: bool) {
    if is_stand_in() {
        return;
    }
    let origin = Origin::saying("twelve bytes");
    let long = Origin::replying(|_| {
        let body = "x".repeat(LONG_BYTES);
        format!("HTTP/1.1 203 Also\r\nContent-Length: {LONG_BYTES}\r\n\r\n{body}").into_bytes()
    });
    let setup = Setup::new(CONF).set("ORIGIN", origin.address()).set("LONG", long.address()).level("emerg");
    let daemon = setup.file("file", vec![b'x'; FILE_BYTES]).start();
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (port, stop, answered) = (daemon.port(0), Arc::clone(&stop), Arc::clone(&answered));
            std::thread::spawn(move || client(port, &stop, &answered))
        })
        .collect();
    for kill in 0..KILLS {
        let before = answered.load(Ordering::SeqCst);
        wait_for("requests", || (answered.load(Ordering::SeqCst) >= before + 100).then_some(()));
        let workers = wait_for("both workers", || Some(daemon.workers_now()).filter(|all| all.len() == 2));
        send(workers[kill % 2], Signal::SIGKILL);
    }
    stop.store(true, Ordering::SeqCst);
    let mut all = Got::default();
    for client in clients {
        let got = client.join().expect("it ends");
        got.statuses
            .into_iter()
            .for_each(|(status, count)| *all.statuses.entry(status).or_default() += count);
        all.bytes += got.bytes;
        all.unanswered += got.unanswered;
    }
    assert_eq!(all.statuses.len(), if has_bytes { 5 } else { 3 }, "{:?}", all.statuses);
    // A request whose response was lost on its way may be counted too: it had been answered.
    let is_so = |counted: &serde_json::Value, got: u64, spare: u64| {
        (got..=got + spare).contains(&counted.as_u64().unwrap_or(0))
    };
    wait_for("the counts", || {
        let site = plus(&daemon, "http/server_zones/site");
        let docs = plus(&daemon, "http/location_zones/docs")["responses"]["codes"].clone();
        let peer = plus(&daemon, "http/upstreams/u")["peers"][0]["responses"]["codes"].clone();
        let long = plus(&daemon, "http/upstreams/long")["peers"][0]["responses"]["codes"].clone();
        let of = |counted: &serde_json::Value, status: u16| {
            is_so(&counted[status.to_string()], all.statuses[&status], all.unanswered)
        };
        let is_all = all.statuses.keys().all(|status| of(&site["responses"]["codes"], *status));
        let has_sent = !has_bytes || is_so(&site["sent"], all.bytes, all.unanswered * RESPONSE_BYTES_MAX);
        (is_all && has_sent && of(&docs, 204) && of(&peer, 200) && (!has_bytes || of(&long, 203)))
            .then_some(())
    });
}

const SESSIONS: &str = r#"
worker_processes 2;
control unix:%%DIR%%/ctl;
stream {
    ssl_certificate chain.pem;
    ssl_certificate_key key.pem;
    server {
        listen 127.0.0.1:%%PORT_0%% ssl;
        status_zone relayed;
        proxy_pass %%ORIGIN%%;
    }
    server {
        listen 127.0.0.1:%%PORT_1%% ssl;
        status_zone half;
        proxy_half_close on;
        proxy_pass %%ORIGIN%%;
    }
    server {
        listen 127.0.0.1:%%PORT_2%% ssl;
        status_zone said;
        return "said";
    }
}
"#;

/// The connection of a killed worker ends too, so only TLS tells that a session has come to its own end.
#[test]
fn sessions_whose_end_has_arrived_are_counted_whichever_worker_was_killed() {
    if is_stand_in() {
        return;
    }
    let origin = Origin::start(|peer| _ = peer.try_send(b"all that there is"));
    let (authority, setup) = with_certificate(Setup::new(SESSIONS), "a.test");
    let daemon = setup.set("ORIGIN", origin.address()).level("emerg").start();
    let trusting = trusting(&authority);
    let (stop, ended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..3)
        .map(|number| {
            let (port, trusting) = (daemon.port(number), Arc::clone(&trusting));
            let (stop, ended) = (Arc::clone(&stop), Arc::clone(&ended));
            std::thread::spawn(move || {
                let (mut whole, mut cut) = (0, 0);
                while !stop.load(Ordering::SeqCst) {
                    let Ok(mut client) = TlsClient::try_connect(port, &trusting, "a.test") else {
                        cut += 1;
                        continue;
                    };
                    if number == 1 {
                        client.tls.send_close_notify();
                        let _ = client.tls.write_tls(&mut client.socket);
                        let _ = client.socket.shutdown(std::net::Shutdown::Write);
                    }
                    match client.ends_well() {
                        true => whole += 1,
                        false => cut += 1,
                    }
                    ended.fetch_add(1, Ordering::SeqCst);
                }
                (whole, cut)
            })
        })
        .collect();
    for kill in 0..KILLS {
        let before = ended.load(Ordering::SeqCst);
        wait_for("sessions", || (ended.load(Ordering::SeqCst) >= before + 15).then_some(()));
        let workers = wait_for("both workers", || Some(daemon.workers_now()).filter(|all| all.len() == 2));
        send(workers[kill % 2], Signal::SIGKILL);
    }
    stop.store(true, Ordering::SeqCst);
    for (client, zone) in clients.into_iter().zip(["relayed", "half", "said"]) {
        let (whole, cut): (u64, u64) = client.join().expect("it ends");
        assert!(whole > 0, "{zone}");
        wait_for(&format!("{whole} sessions of {zone}, and at most {cut} more"), || {
            let counted = plus(&daemon, &format!("stream/server_zones/{zone}"))["sessions"]["total"].as_u64();
            counted.filter(|counted| (whole..=whole + cut).contains(counted))
        });
    }
}

/// What a client has not taken may wait in the transport, as records that are sealed already: then the response has been
/// handed on, and must not be counted once more when it leaves.
#[test]
fn responses_that_are_taken_late_are_counted_once() {
    if is_stand_in() {
        return;
    }
    const CONF: &str = "
        worker_processes 1;
        control unix:%%DIR%%/ctl;
        http {
            ssl_certificate chain.pem;
            ssl_certificate_key key.pem;
            server {
                listen 127.0.0.1:%%PORT_0%% ssl sndbuf=4k;
                status_zone site;
                location / { proxy_pass http://%%ORIGIN%%; }
            }
        }";
    let origin = Origin::replying(|request| {
        let length = request.target.trim_start_matches('/').parse().expect("a number");
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        [head.as_bytes(), &vec![b'x'; length]].concat()
    });
    let (authority, setup) = with_certificate(Setup::new(CONF), "a.test");
    let daemon = setup.set("ORIGIN", origin.address()).level("emerg").start();
    let trusting = trusting(&authority);
    let lengths: Vec<usize> = (1..=12).map(|step| step * 5_000).collect(); // not so long that they would be spliced
    let mut clients: Vec<(usize, TlsClient)> = Vec::new();
    for length in &lengths {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a small buffer");
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], daemon.port(0)));
        socket.connect(&address.into()).expect("the daemon listens");
        let mut client = TlsClient::try_over(socket.into(), &trusting, "a.test").expect("a handshake");
        client.send(format!("GET /{length} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
        clients.push((*length, client));
    }
    origin.wait_requests(lengths.len());
    for (length, client) in &mut clients {
        assert_eq!(client.response().body.len(), *length);
    }
    wait_for("the requests to end", || {
        let site = plus(&daemon, "http/server_zones/site");
        (site["processing"] == 0 && site["requests"].as_u64() >= Some(lengths.len() as u64)).then_some(())
    });
    assert_eq!(plus(&daemon, "http/server_zones/site")["requests"], lengths.len());
}
