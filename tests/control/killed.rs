//! Counts after workers were killed under load: each request whose response has arrived is counted exactly once.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nix::sys::signal::Signal;

use super::zones::plus;
use crate::support::daemon::{is_stand_in, send};
use crate::support::message::Response;
use crate::support::{Origin, Setup, deadline, wait_for};

const CONF: &str = r#"
worker_processes 2;
control unix:%%DIR%%/ctl;
http {
    keepalive_requests 100000000;
    upstream u { zone u 64k; server %%ORIGIN%%; keepalive 8; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        status_zone site;
        location / { proxy_pass http://u; }
        location /docs { status_zone docs; return 204; }
        location /gone { return 410; }
    }
}
"#;

const CLIENTS: usize = 4;
const KILLS: usize = 20;
/// No response is longer.
const RESPONSE_BYTES_MAX: u64 = 1024;

/// Reads a response without a body, or with one of a known length. Returns its status and its bytes; `None`: the connection ended before.
fn response(stream: &mut TcpStream) -> Option<(u16, u64)> {
    let (mut bytes, mut some) = (Vec::new(), [0; 4096]);
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
        for path in ["/", "/docs", "/gone"].into_iter().cycle() {
            if stop.load(Ordering::SeqCst) {
                break;
            }
            let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
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

#[test]
fn requests_that_were_answered_are_counted_once_whichever_worker_was_killed() {
    if is_stand_in() {
        return;
    }
    let origin = Origin::saying("twelve bytes");
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).level("emerg").start();
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
    // A request whose response was lost on its way may be counted too: it had been answered.
    let is_so = |counted: &serde_json::Value, got: u64, spare: u64| {
        (got..=got + spare).contains(&counted.as_u64().unwrap_or(0))
    };
    wait_for("the counts", || {
        let site = plus(&daemon, "http/server_zones/site");
        let docs = plus(&daemon, "http/location_zones/docs")["responses"]["codes"].clone();
        let peer = plus(&daemon, "http/upstreams/u")["peers"][0]["responses"]["codes"].clone();
        let of = |counted: &serde_json::Value, status: u16| {
            is_so(&counted[status.to_string()], all.statuses[&status], all.unanswered)
        };
        let is_all = [200, 204, 410].into_iter().all(|status| of(&site["responses"]["codes"], status));
        let has_sent = is_so(&site["sent"], all.bytes, all.unanswered * RESPONSE_BYTES_MAX);
        (is_all && has_sent && of(&docs, 204) && of(&peer, 200)).then_some(())
    });
}
