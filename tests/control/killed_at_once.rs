//! A worker that dies in the first system call after the one that has handed on the last bytes of a response: the request
//! is counted nevertheless, exactly once, and so is the peer's turn.
//!
//! The worker is traced, so that it makes one call after the other, and is killed as soon as its client has everything.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::with_certificate;
use super::zones::plus;
use crate::support::daemon::is_stand_in;
use crate::support::message::Response;
use crate::support::tls::{TlsClient, connect_tcp, trusting};
use crate::support::{Daemon, Origin, Setup, wait_for};

const CONF: &str = "
worker_processes 1;
control unix:%%DIR%%/ctl;
http {
    ssl_certificate chain.pem;
    ssl_certificate_key key.pem;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        listen 127.0.0.1:%%PORT_1%% ssl;
        status_zone site;
        location / { proxy_pass http://peer; }
        location /file { root %%DIR%%; }
        location /gone { return 410; }
    }
    upstream peer { zone peer 64k; server %%ORIGIN%%; keepalive 8; }
}
";

/// Long enough for sendfile(2) and splice(2), and longer than what a socket takes at once.
const LONG_BYTES: usize = 6_000_000;

/// Each of these has a status of its own.
const CASES: [(&str, u16); 4] = [("/gone", 410), ("/file", 206), ("/short", 200), ("/long", 203)];

/// A client's side of a connection, which gives the bytes that have arrived.
trait Arrived {
    fn arrived(&mut self) -> Vec<u8>;
}

/// `None`: nothing has arrived.
fn now<T>(outcome: std::io::Result<T>) -> Option<T> {
    match outcome {
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        outcome => Some(outcome.expect("the connection lives")),
    }
}

impl Arrived for TcpStream {
    fn arrived(&mut self) -> Vec<u8> {
        let (mut all, mut some) = (Vec::new(), [0; 65_536]);
        while let Some(count) = now(self.read(&mut some)).filter(|count| *count > 0) {
            all.extend_from_slice(&some[..count]);
        }
        all
    }
}

impl Arrived for TlsClient {
    fn arrived(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(some) = now(self.some()).filter(|some| !some.is_empty()) {
            all.extend(some);
        }
        all
    }
}

/// True once these are all bytes of a response with a length.
fn is_whole(bytes: &[u8]) -> bool {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let length = Response::parse(&bytes[..end + 4]).length().expect("a length");
    bytes.len() == end + 4 + length
}

/// Stops a process, which this thread traces from now on. False in a container that forbids it.
#[must_use]
fn stops(pid: Pid) -> bool {
    match ptrace::seize(pid, ptrace::Options::PTRACE_O_TRACESYSGOOD) {
        Err(nix::Error::EPERM) => return false,
        outcome => outcome.expect("a process that nobody traces"),
    }
    ptrace::interrupt(pid).expect("a traced process");
    waitpid(pid, Some(WaitPidFlag::__WALL)).expect("a traced process");
    true
}

/// Lets a stopped process go on from one system call to the next, and kills it once `is_over` is true between two.
fn kill_once(pid: Pid, mut is_over: impl FnMut() -> bool) {
    let mut signal = None;
    while !is_over() {
        ptrace::syscall(pid, signal).expect("a stopped process");
        signal = match waitpid(pid, Some(WaitPidFlag::__WALL)).expect("a traced process") {
            WaitStatus::Stopped(_, signal) => Some(signal),
            WaitStatus::PtraceSyscall(_) | WaitStatus::PtraceEvent(..) => None,
            other => panic!("the worker was to go on, but {other:?}"),
        };
    }
    ptrace::kill(pid).expect("a stopped process");
    waitpid(pid, Some(WaitPidFlag::__WALL)).expect("a traced process");
}

/// The worker, once it is another one than `before`.
fn worker(daemon: &Daemon, before: Option<Pid>) -> Pid {
    wait_for("a worker", || match daemon.workers_now()[..] {
        [pid] if before != Some(Pid::from_raw(pid)) => Some(Pid::from_raw(pid)),
        _ => None,
    })
}

#[test]
fn a_response_that_has_arrived_is_counted_although_its_worker_dies_at_once() {
    if is_stand_in() {
        return;
    }
    let origin = Origin::replying(|request| {
        let (status, length) = if request.target == "/long" { (203, LONG_BYTES) } else { (200, 12) };
        let head = format!("HTTP/1.1 {status} Yes\r\nContent-Length: {length}\r\n\r\n");
        [head.as_bytes(), &vec![b'x'; length]].concat()
    });
    let (authority, setup) = with_certificate(Setup::new(CONF), "a.test");
    let setup = setup.set("ORIGIN", origin.address()).file("file", vec![b'x'; LONG_BYTES]);
    let daemon = setup.level("emerg").start();
    let first = worker(&daemon, None);
    if !stops(first) {
        return;
    }
    ptrace::detach(first, None).expect("a stopped process");
    let trusting = trusting(&authority);
    let mut before = None;
    for round in 1..=2 {
        for (path, status) in CASES {
            let pid = worker(&daemon, before);
            let request = format!("GET {path} HTTP/1.1\r\nHost: a.test\r\nRange: bytes=1-\r\n\r\n");
            let mut client: Box<dyn Arrived> = if round == 1 {
                let mut client = connect_tcp(daemon.port(0));
                assert!(stops(pid));
                client.write_all(request.as_bytes()).expect("the kernel takes it");
                client.set_nonblocking(true).expect("a socket");
                Box::new(client)
            } else {
                let mut client = TlsClient::connect(daemon.port(1), &trusting, "a.test");
                assert!(stops(pid));
                client.send(&request).socket.set_nonblocking(true).expect("a socket");
                Box::new(client)
            };
            let mut bytes = Vec::new();
            kill_once(pid, || {
                bytes.extend(client.arrived());
                is_whole(&bytes)
            });
            before = Some(pid);
            wait_for(&format!("request {round} for {path} to be counted"), || {
                let codes = plus(&daemon, "http/server_zones/site")["responses"]["codes"].clone();
                let peer = plus(&daemon, "http/upstreams/peer")["peers"][0]["responses"]["codes"].clone();
                let is_proxied = matches!(status, 200 | 203);
                let status = status.to_string();
                (codes[&status] == round && (!is_proxied || peer[&status] == round)).then_some(())
            });
        }
    }
    let site = plus(&daemon, "http/server_zones/site");
    assert_eq!((&site["requests"], &site["processing"]), (&8.into(), &0.into()), "each of them once");
}
