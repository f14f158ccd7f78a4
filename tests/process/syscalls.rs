//! The system calls of a proxied keep-alive request: one read and one write on each side, and a share of an
//! `epoll_wait`.
//!
//! Sixteen clients take turns while strace counts the worker's calls. Without strace, or without the right to
//! trace, the test says so and passes; `.ci/run` installs it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use crate::support::daemon::{is_stand_in, send};
use crate::support::{Client, Origin, Setup};

const CONF: &str = r#"
worker_processes 1;
http {
    access_log off;
    keepalive_requests 1000000;
    upstream u { server %%ORIGIN%%; keepalive 32; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection ""; }
    }
}
"#;

const CLIENTS: usize = 16;
const ROUNDS: usize = 100;

#[test]
fn a_kept_alive_request_takes_four_calls_and_a_share_of_epoll() {
    let origin = Origin::saying(&"x".repeat(1_024));
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).level("notice").start();
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::connect(daemon.port(0))).collect();
    let mut rounds = |count: usize| {
        for _ in 0..count {
            for client in &mut clients {
                client.send("GET /path HTTP/1.1\r\nHost: localhost\r\nUser-Agent: test\r\n\r\n");
            }
            for client in &mut clients {
                assert_eq!(client.response().status, 200);
            }
        }
    };
    rounds(5); // now the connections to the origin are open and buffers allocated
    let Some(calls) = counted(daemon.worker(), &daemon.path("strace"), || rounds(ROUNDS)) else { return };
    let requests = (CLIENTS * ROUNDS) as f64;
    let all = calls.values().sum::<u64>() as f64 / requests;
    let waits = calls.iter().filter(|(name, _)| name.starts_with("epoll_") && name.contains("wait"));
    let waits = waits.map(|(_, count)| count).sum::<u64>() as f64 / requests;
    println!("{all:.2} calls for each request, {waits:.2} of them epoll_wait: {calls:?}");
    if is_stand_in() {
        return;
    }
    assert!(all - waits <= 4.05, "{:.2} calls beside epoll_wait: {calls:?}", all - waits);
    assert!(all <= 5.0, "{all:.2} calls: {calls:?}");
}

const FILES: &str = r#"
worker_processes 1;
http {
    access_log off;
    keepalive_requests 1000000;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { root %%SOURCE%%; sendfile on; }
        location /new/ { alias %%DIR%%/; sendfile on; }
        location /off/ { open_file_cache off; alias %%SOURCE%%/; sendfile on; }
    }
}
"#;

#[test]
fn a_small_file_that_stays_as_it_is_takes_three_calls_and_a_share_of_epoll() {
    let source = env!("CARGO_MANIFEST_DIR");
    let daemon = Setup::new(FILES).set("SOURCE", source).level("notice").start();
    std::fs::copy(format!("{source}/Cargo.toml"), daemon.path("Cargo.toml")).expect("the folder is ours");
    let content = std::fs::read(format!("{source}/Cargo.toml")).expect("it is there");
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::connect(daemon.port(0))).collect();
    for (path, calls_max) in [("/Cargo.toml", 3.05), ("/new/Cargo.toml", 4.05), ("/off/Cargo.toml", 7.05)] {
        let mut rounds = |count: usize| {
            for _ in 0..count {
                for client in &mut clients {
                    client.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
                }
                for client in &mut clients {
                    assert!(client.response().body == content);
                }
            }
        };
        rounds(2);
        let Some(calls) = counted(daemon.worker(), &daemon.path("strace"), || rounds(ROUNDS)) else { return };
        let waits = calls.iter().filter(|(name, _)| name.starts_with("epoll_") && name.contains("wait"));
        let others = calls.values().sum::<u64>() - waits.map(|(_, count)| count).sum::<u64>();
        let others = others as f64 / (CLIENTS * ROUNDS) as f64;
        println!("{others:.2} calls for each request: {calls:?}");
        assert!(is_stand_in() || others <= calls_max, "{others:.2} calls beside epoll_wait: {calls:?}");
    }
}

/// Runs `work` while strace counts the process's calls; `None` if that is not possible.
pub fn counted(pid: i32, summary: &std::path::Path, work: impl FnOnce()) -> Option<BTreeMap<String, u64>> {
    let mut command = Command::new("strace");
    command.args(["-c", "-f", "-U", "name,calls", "-o"]).arg(summary).args(["-p", &pid.to_string()]);
    let mut strace = match command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn() {
        Ok(strace) => strace,
        Err(error) => {
            println!("not counted: strace cannot be run: {error}");
            return None;
        }
    };
    let mut lines = BufReader::new(strace.stderr.take().expect("piped")).lines();
    let first = lines.next().and_then(Result::ok).unwrap_or_default();
    if !first.contains("attached") {
        println!("not counted: strace says {first:?}");
        let _ = strace.kill();
        let _ = strace.wait();
        return None;
    }
    work();
    send(strace.id() as i32, Signal::SIGINT);
    let _ = strace.wait();
    let text = std::fs::read_to_string(summary).unwrap_or_default();
    let mut calls = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if let (Some(name), Some(Ok(count))) = (words.next(), words.next().map(str::parse::<u64>))
            && name != "total"
        {
            calls.insert(name.to_owned(), count);
        }
    }
    assert!(!calls.is_empty(), "strace has counted something:\n{text}");
    Some(calls)
}
