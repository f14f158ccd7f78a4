//! Connections that keep their worker as busy as they can: others still get their turn.
//!
//! One worker. No times are measured: another client's requests must be answered before the busy one is done.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use crate::support::daemon::is_stand_in;
use crate::support::{Client, Daemon, Origin, Setup, get, wait_for};

const CONF: &str = r#"
worker_processes 1;
worker_watchdog 2s;
http {
    default_type text/plain;
    gzip_types *; brotli_types *; zstd_types *; sub_filter_types *; charset_types *; ssi_types *;
    charset_map koi8-r utf-8 { 80 E282AC; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location = /small { return 200 small; }
        location = /longest { return 200 $longest_turn; }
        location /gzip { gzip on; alias %%DIR%%/sparse; }
        location /brotli { brotli on; alias %%DIR%%/text; }
        location /brotli11 { brotli on; brotli_comp_level 11; alias %%DIR%%/text; }
        location /zstd { zstd on; alias %%DIR%%/text; }
        location /zstd12 { zstd on; zstd_comp_level 12; alias %%DIR%%/text; }
        location /sub { sub_filter a AA; sub_filter_once off; alias %%DIR%%/text; }
        location /charset { charset utf-8; source_charset koi8-r; alias %%DIR%%/text; }
        location /ssi { ssi on; alias %%DIR%%/text; }
        location /proxied { gzip on; sub_filter a AA; sub_filter_once off; proxy_pass http://%%ORIGIN%%; }
    }
}
"#;

/// The size of a file of zeros: encoding it takes longer than answering a few other requests.
const SPARSE_BYTES: u64 = 512 << 20;
const TEXT_BYTES: usize = 48 << 20;

fn start() -> (Origin, Daemon) {
    let origin = Origin::start(|peer| {
        let Some(_) = peer.head() else { return };
        peer.send("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n");
        let chunks = "1\r\na\r\n".repeat(100_000);
        while peer.try_send(chunks.as_bytes()).is_ok() {}
    });
    // letters in random order, which compress badly, so that output comes soon
    let mut state = 1_u64;
    let letter = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        b"acgt"[(state >> 60) as usize & 3]
    };
    let text: Vec<u8> = std::iter::repeat_with(letter).take(TEXT_BYTES).collect();
    let setup = Setup::new(CONF).set("ORIGIN", origin.address()).file("text", text).file("sparse", "");
    let sparse = std::fs::OpenOptions::new().write(true).open(setup.folder().join("sparse")).unwrap();
    sparse.set_len(SPARSE_BYTES).unwrap();
    (origin, setup.start())
}

/// A client that reads a response as fast as it comes.
struct Download {
    received: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
    stream: TcpStream,
}

impl Download {
    fn start(port: u16, path: &str, coding: &str) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        write!(
            &stream,
            "GET {path} HTTP/1.1\r\nHost: a\r\nAccept-Encoding: {coding}\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let (received, is_over) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (count, over, mut reader) = (received.clone(), is_over.clone(), stream.try_clone().unwrap());
        let thread = thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(bytes @ 1..) = reader.read(&mut buffer) {
                count.fetch_add(bytes as u64, Ordering::SeqCst);
            }
            over.store(true, Ordering::SeqCst);
        });
        let download = Self { received, is_over, thread, stream };
        wait_for("the download's first bytes", || (download.received() > 0).then_some(()));
        download
    }

    fn received(&self) -> u64 {
        self.received.load(Ordering::SeqCst)
    }

    fn stop(self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        self.thread.join().unwrap();
    }
}

#[test]
fn others_are_answered_while_a_file_is_encoded_or_changed() {
    if is_stand_in() {
        return;
    }
    let (_origin, daemon) = start();
    let kinds = [
        ("/gzip", "gzip"),
        ("/brotli", "br"),
        ("/brotli11", "br"),
        ("/zstd", "zstd"),
        ("/zstd12", "zstd"),
        ("/sub", "identity"),
        ("/charset", "identity"),
        ("/ssi", "identity"),
        ("/proxied", "gzip"),
        ("/proxied", "identity"),
    ];
    let worker = daemon.worker();
    for (path, coding) in kinds {
        let mut other = Client::connect(daemon.port(0));
        assert_eq!(other.get("/small").text(), "small");
        let download = Download::start(daemon.port(0), path, coding);
        for _ in 0..3 {
            assert_eq!(other.get("/small").text(), "small", "beside {path}");
        }
        assert!(!download.is_over.load(Ordering::SeqCst), "{path} was done first");
        download.stop();
    }
    assert_eq!(daemon.worker(), worker);
}

#[test]
fn a_worker_that_encodes_for_longer_than_the_watchdog_allows_is_not_stuck() {
    if is_stand_in() {
        return;
    }
    let (_origin, daemon) = start();
    let worker = daemon.worker();
    // an endless response, for as long as the watchdog would need to kill a worker that never returns to its
    // loop
    let download = Download::start(daemon.port(0), "/proxied", "identity");
    let ticks = crate::support::process::cpu_ticks(worker);
    wait_for("three seconds of work", || {
        (crate::support::process::cpu_ticks(worker) >= ticks + 300).then_some(())
    });
    assert_eq!(get(daemon.port(0), "/small").text(), "small");
    assert_eq!((daemon.worker(), daemon.log_count("is killed")), (worker, 0));
    download.stop();
}

#[test]
fn the_longest_turn_is_told() {
    if is_stand_in() {
        return;
    }
    let (_origin, daemon) = start();
    let text = get(daemon.port(0), "/longest").text();
    let (seconds, thousandths) = text.split_once('.').expect("seconds with a fraction");
    assert!(seconds.parse::<u64>().is_ok() && thousandths.len() == 3, "{text}");
}
