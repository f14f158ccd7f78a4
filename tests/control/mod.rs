//! The control socket, the API that it speaks, and `pronghorn ctl`.

mod changes;
mod connections;
mod ctl;
pub mod disk;
mod exporter;
mod hostile;
mod keyvals;
mod killed;
mod killed_at_once;
mod numbers;
mod present;
mod reload;
mod socket;
mod state;
mod top;
mod zones;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;

use crate::support::message::Response;
use crate::support::tls::Authority;
use crate::support::{Daemon, Setup, deadline, wait_for};

/// An authority, and the setup with a certificate of it for this name in `chain.pem` and `key.pem`.
pub fn with_certificate(setup: Setup, name: &str) -> (Authority, Setup) {
    let authority = Authority::new("an authority");
    let pair = authority.issue(&[name]);
    (authority, setup.file("chain.pem", &pair.certificate).file("key.pem", &pair.key))
}

/// An answer of the control socket.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The code of an error.
    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// Sends one request to the control socket.
pub fn ask(socket: &Path, method: &str, path: &str, body: &str) -> Answer {
    wait_for("the control socket", || {
        UnixStream::connect(socket).ok().map(|stream| exchange(stream, method, path, body))
    })
}

fn exchange(mut stream: UnixStream, method: &str, path: &str, body: &str) -> Answer {
    stream.set_read_timeout(Some(deadline())).expect("a socket takes a timeout");
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("it reads");
    let _ = stream.write_all(body.as_bytes()); // a request may be refused before it is read
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    let status = Response::parse(&bytes[..end]).status;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Answer { status, head: text(&bytes[..end]), text: text(&bytes[end..]) }
}

/// Sends one request to the control socket of a daemon, which is `ctl` in its folder.
pub fn control(daemon: &Daemon, method: &str, path: &str, body: &str) -> Answer {
    ask(&daemon.path("ctl"), method, path, body)
}

/// The addresses of an upstream's servers.
pub fn servers(daemon: &Daemon, upstream: &str) -> Vec<String> {
    let answer = control(daemon, "GET", &format!("/api/9/http/upstreams/{upstream}/servers"), "");
    let all = answer.json();
    all.as_array()
        .expect("a list")
        .iter()
        .map(|server| server["server"].as_str().expect("a name").to_owned())
        .collect()
}

/// Runs `pronghorn ctl` and returns its exit code, standard output and standard error.
pub fn ctl(daemon: &Daemon, words: &[&str]) -> (i32, String, String) {
    let output = daemon.run(&[&["ctl"], words].concat());
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}
