//! The latency of events: from the upstream's write to the client's read, through the daemon with default
//! settings.
//!
//! Starts the daemon on free ports of 127.0.0.1. Sends events as an event stream (until close, and chunked)
//! and as a token stream (chunks of a few bytes), one every few milliseconds, to clients one after the other
//! and at once. Prints the median, the 99th percentile and the worst; the goal is 5 ms. Run: `cargo bench
//! --bench stream`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

const EVENTS: usize = 300;
const PAUSE: Duration = Duration::from_millis(5);
const CLIENTS: usize = 32;

/// Nanoseconds on one clock for all threads.
fn now() -> u128 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos()
}

struct Daemon {
    child: Child,
    folder: std::path::PathBuf,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn start(origin: u16) -> (Daemon, u16) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let folder = std::env::temp_dir().join(format!("pronghorn-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let conf = format!(
        "daemon off; pid {0}/pid; error_log {0}/error.log;\nevents {{}}\nhttp {{ access_log off;\n\
         server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://127.0.0.1:{origin}; }} }} }}\n",
        folder.display()
    );
    std::fs::write(folder.join("pronghorn.conf"), conf).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_pronghorn"))
        .arg("-c")
        .arg(folder.join("pronghorn.conf"))
        .arg("-e")
        .arg(folder.join("error.log"))
        .stdin(Stdio::null())
        .spawn()
        .expect("the daemon starts");
    let daemon = Daemon { child, folder };
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        std::thread::sleep(Duration::from_millis(5));
    }
    (daemon, port)
}

/// An upstream whose events contain the time at which they were written.
fn origin() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
    port
}

fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut lines = BufReader::new(stream.try_clone()?);
    let mut request = String::new();
    lines.read_line(&mut request)?;
    let mut line = String::new();
    while lines.read_line(&mut line)? > 2 {
        line.clear();
    }
    let in_chunks = !request.contains("/close");
    let framing = if in_chunks { "Transfer-Encoding: chunked\r\n" } else { "Connection: close\r\n" };
    let kind = if request.contains("/tokens") { "application/json" } else { "text/event-stream" };
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n{framing}\r\n")?;
    for _ in 0..EVENTS {
        std::thread::sleep(PAUSE);
        let event = match request.contains("/tokens") {
            true => format!("{}\n", now()),
            false => format!("event: tick\ndata: {}\n\n", now()),
        };
        match in_chunks {
            true => write!(stream, "{:x}\r\n{event}\r\n", event.len())?,
            false => write!(stream, "{event}")?,
        }
    }
    if in_chunks {
        write!(stream, "0\r\n\r\n")?;
    }
    Ok(())
}

/// The delays of all events that a client received, in nanoseconds.
fn read(port: u16, path: &str) -> Vec<u128> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n").unwrap();
    let (mut delays, mut held, mut buffer) = (Vec::new(), Vec::new(), [0; 4096]);
    loop {
        let count = stream.read(&mut buffer).unwrap();
        let at = now();
        if count == 0 {
            return delays;
        }
        held.extend_from_slice(&buffer[..count]);
        while let Some(end) = held.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = held.drain(..=end).collect();
            let text = String::from_utf8_lossy(&line);
            let number = text.trim().trim_start_matches("data: ");
            // Shorter numbers are chunk sizes.
            if number.len() > 6
                && let Ok(sent) = number.parse::<u128>()
            {
                delays.push(at.saturating_sub(sent));
            }
        }
    }
}

fn report(what: &str, mut delays: Vec<u128>, expected: usize) {
    assert_eq!(delays.len(), expected, "{what}: every event arrives");
    delays.sort_unstable();
    let at = |share: usize| delays[(delays.len() - 1) * share / 1000] as f64 / 1e6;
    let verdict = if at(990) <= 5.0 { "" } else { "  over 5 ms" };
    println!(
        "{what:40} median {:6.3} ms  p99 {:6.3} ms  worst {:6.3} ms{verdict}",
        at(500),
        at(990),
        at(1000)
    );
}

fn main() {
    now();
    let (_daemon, port) = start(origin());
    for path in ["/events", "/events/close", "/tokens"] {
        report(path, read(port, path), EVENTS);
        let readers: Vec<_> = (0..CLIENTS).map(|_| std::thread::spawn(move || read(port, path))).collect();
        let all = readers.into_iter().flat_map(|reader| reader.join().unwrap()).collect();
        report(&format!("{path}, {CLIENTS} at once"), all, EVENTS * CLIENTS);
    }
}
