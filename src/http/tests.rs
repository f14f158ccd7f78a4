//! The service in one process: a real listener, real sockets, the configuration compiled from text.

mod linear;
pub(super) mod stage;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use crate::config::{self, Diagnostics};
use crate::http::compile;
use crate::http::request::Request;
use crate::http::{CompileOptions, Config, Hooks, Service, Worker, property};
use crate::log::Logger;
use crate::runtime::{self, Acceptor, Runtime, race};
use crate::shm::counter::{self, Kind, Word};
use crate::shm::histogram::Histogram;
use crate::sys::socket;

/// Compiles the `http` block of a text; panics with the diagnostics.
pub(in crate::http) fn config(text: &str) -> Config {
    let options = config::load::LoadOptions::default();
    let (tree, mut out) = config::load::load_text("test.conf", text, &options);
    let http = tree.nodes.iter().find(|node| &*node.name.text == "http").expect("an http block");
    let options = CompileOptions {
        prefix: std::env::temp_dir(),
        folder: std::env::temp_dir(),
        error_log: Logger::none(),
        names: Default::default(),
        test_only: false,
    };
    let compiled = compile(http, &options, &mut out);
    assert!(!out.has_errors(), "{:?}", out.0);
    compiled
}

#[test]
fn keys_of_tickets_get_out_of_date_wherever_the_certificate_comes_from() {
    let made = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).unwrap();
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let encrypted = |directives: &str| {
        format!(
            "http {{ server {{ listen 127.0.0.1:1 ssl; ssl_certificate \"data:{certificate}\"; \
             ssl_certificate_key \"data:{key}\"; {directives} }} }}"
        )
    };
    assert!(config(&encrypted("")).tables.tidy());
    assert!(!config(&encrypted("ssl_session_tickets off;")).tables.tidy());
    assert!(!config("http { server { listen 127.0.0.1:1; } }").tables.tidy());
}

/// Calls `act` with a request for a target of the first server of a configuration, inside a runtime.
pub(in crate::http) fn with_request(text: &str, target: &str, act: fn(&mut Request)) {
    let config: &'static Config = Box::leak(Box::new(config(text)));
    let target = target.to_owned();
    Runtime::new().unwrap().block_on(async move {
        let worker: &'static Worker = Box::leak(Box::new(Worker::new(config)));
        let mut request = property::request(worker, &target).expect("a request");
        act(&mut request)
    })
}

pub(in crate::http) fn findings(text: &str) -> Diagnostics {
    let options = config::load::LoadOptions::default();
    let (tree, mut out) = config::load::load_text("test.conf", text, &options);
    let options = CompileOptions {
        prefix: Path::new("/").into(),
        folder: Path::new("/").into(),
        error_log: Logger::none(),
        names: Default::default(),
        test_only: false,
    };
    compile(&tree.nodes[0], &options, &mut out);
    out
}

/// Serves `text` (its `127.0.0.1:0` becomes a free port) while `client` runs on another thread.
fn serve<T: Send + 'static>(text: &str, client: impl FnOnce(SocketAddr) -> T + Send + 'static) -> T {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config: &'static Config =
        Box::leak(Box::new(config(&text.replace("127.0.0.1:0", &free.to_string()))));
    let mut runtime = Runtime::new().unwrap();
    runtime.block_on(async move {
        let listen = socket::listen(&config.listens[0].address, &config.listens[0].options).unwrap();
        let address = *socket::local_addr(&listen).unwrap().inet().unwrap();
        let acceptor = Acceptor::register(listen).unwrap();
        let service = Service::new(
            config,
            Hooks { hand_over: Box::new(|fd, _| Err(fd)), hand_over_tunnel: Box::new(|_, _| {}) },
        );
        let accepting = async {
            loop {
                let (fd, peer) = acceptor.accept().await.unwrap();
                service.open(fd, peer, 0);
            }
        };
        match race(runtime::blocking::run(runtime::blocking::Lane::Files, move || client(address)), accepting)
            .await
        {
            runtime::Either::First(result) => result,
            runtime::Either::Second(never) => never,
        }
    })
}

fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn answers_pipelined_requests_and_closes_when_asked() {
    let text =
        "http { access_log off; server { listen 127.0.0.1:0; location / { return 200 \"hi $uri\"; } } }";
    let answer = serve(text, |address| {
        exchange(
            address,
            "GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b%20c HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        )
    });
    let bodies: Vec<&str> = answer.split("\r\n\r\n").skip(1).collect();
    assert!(bodies[0].starts_with("hi /aHTTP/1.1 200 OK\r\n"), "{answer}");
    assert_eq!(bodies[1], "hi /b c");
    assert!(
        answer.contains("Connection: keep-alive\r\n") && answer.contains("Connection: close\r\n"),
        "{answer}"
    );
}

#[test]
fn proxies_to_itself() {
    let text = "http { access_log off; upstream u { server 127.0.0.1:1; server 127.0.0.1:2 backup; } server { listen 127.0.0.1:0;
        location / { proxy_pass http://127.0.0.1:0/inner/; }
        location /inner/ { return 201 \"inner $request_uri $http_x_a\"; } } }";
    let answer = serve(text, |address| {
        exchange(address, "GET /a?b HTTP/1.1\r\nHost: x\r\nX-A: 1\r\nConnection: close\r\n\r\n")
    });
    assert!(answer.starts_with("HTTP/1.1 201 Created\r\n"), "{answer}");
    assert!(answer.ends_with("inner /inner/a?b 1"), "{answer}");
}

#[test]
fn refuses_ambiguous_requests() {
    let text = "http { access_log off; server { listen 127.0.0.1:0; return 200 ok; } }";
    let answer = serve(text, |address| {
        exchange(
            address,
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        )
    });
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
}

#[test]
fn every_error_of_a_block_is_found_at_once() {
    let out = findings(
        "http { server { listen 80; location / { return 99999; } location /x { set y 1; } location /x { retrun 200; } \
         error_page /x; add_header A $nobody; } }",
    );
    let messages: Vec<&str> = out.0.iter().map(|diagnostic| &*diagnostic.message).collect();
    for expected in [
        "invalid return code \"99999\"",
        "invalid variable name \"y\"",
        "unknown directive \"retrun\"",
        "duplicate location \"/x\"",
        "unknown \"nobody\" variable",
    ] {
        assert!(messages.iter().any(|message| message.contains(expected)), "{expected}: {messages:?}");
    }
}

#[test]
fn every_request_is_counted_and_timed() {
    let text = "http { access_log off; upstream counted { server 127.0.0.1:1; server 127.0.0.1:0 backup; }
        server { listen 127.0.0.1:0; server_name counted.test;
        location / { proxy_pass http://counted/inner; }
        location /inner { return 201 12345; } location /missing { return 404; } } }";
    let before: Vec<_> = DURATIONS.iter().map(|name| histogram(name).snapshot()).collect();
    let (name, length) = serve(text, |address| {
        let ask = |path: &str| {
            exchange(
                address,
                &format!("GET {path} HTTP/1.1\r\nHost: counted.test\r\nConnection: close\r\n\r\n"),
            )
        };
        let length = ask("/a").len() + ask("/b").len() + ask("/missing").len();
        (format!("{address} counted.test"), length as u64)
    });
    crate::shm::behind::flush(); // at the end of a turn, in a worker
    let words = |kind, name: &str, words: &[Word]| {
        let slot = counter::slot(kind, name).expect("room");
        words.iter().map(|word| slot.get(*word)).collect::<Vec<_>>()
    };
    let server = words(Kind::Server, &name, &[Word::Requests, Word::Status2xx, Word::Status4xx]);
    assert_eq!(server, [5, 4, 1], "three of the client, two of its own as an upstream");
    let bytes = words(Kind::Server, &name, &[Word::BytesIn, Word::BytesOut]);
    assert!(bytes[0] > 0 && bytes[1] > length, "{bytes:?} of {length}");
    let upstream = words(Kind::Upstream, "counted", &[Word::Requests, Word::Status2xx, Word::Retries]);
    assert_eq!((upstream[0], upstream[1]), (2, 2));
    assert!(upstream[2] >= 1, "the first server refuses: {upstream:?}");
    for (name, before) in DURATIONS.iter().zip(&before) {
        let new = histogram(name).snapshot().since(before);
        assert!(new.count() >= 1, "{name}");
        assert!(new.quantile(1.0).is_some_and(|us| us < 10_000_000), "{name}");
    }
}

const DURATIONS: [&str; 4] = ["request", "upstream connect", "upstream header", "upstream response"];

fn histogram(name: &str) -> Histogram {
    crate::shm::histogram::named(name).expect("room")
}
