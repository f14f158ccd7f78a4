//! The backends that both daemons share: they record what they receive; their responses are in the file of
//! cases.

use std::sync::{Arc, Mutex};

use crate::answer;
use crate::case::{Reply, Script};
use crate::support::message::Request;
use crate::support::origin::{Origin, Peer};
use crate::support::{port, wait_for};

pub struct Backends {
    pub a: Origin,
    pub b: Origin,
    /// A port on which no process listens.
    pub dead: u16,
    received: Received,
}

/// Requests as text, in the order in which they were complete.
type Received = Arc<Mutex<Vec<Vec<String>>>>;

impl Backends {
    pub fn start(script: &Script) -> Self {
        let received = Received::default();
        let copies = |reply: &Reply| (reply.path.clone(), reply.bytes.clone(), reply.closes);
        let replies: Vec<(String, Vec<u8>, bool)> = script.replies.iter().map(copies).collect();
        let replies = Arc::new(replies);
        let start = |name: &'static str| {
            let (received, replies) = (received.clone(), replies.clone());
            Origin::start(move |peer| serve(peer, name, &received, &replies))
        };
        Self { a: start("a"), b: start("b"), dead: port::free(), received }
    }

    /// The requests received since the last call, once there are at least this many.
    pub fn take(&self, count: usize) -> Vec<Vec<String>> {
        wait_for("requests at the backends", || {
            (self.received.lock().expect("not poisoned").len() >= count).then_some(())
        });
        std::mem::take(&mut *self.received.lock().expect("not poisoned"))
    }
}

fn serve(peer: &mut Peer, name: &str, received: &Received, replies: &[(String, Vec<u8>, bool)]) {
    while let Some(head) = peer.head_or_end() {
        let mut lines = vec![format!("backend {name}:")];
        lines.extend(head_lines(&head));
        if lines[1].split(' ').count() != 3 {
            received.lock().expect("not poisoned").push(lines);
            return;
        }
        let mut request = Request::parse(&head);
        peer.request_body(&mut request);
        lines.extend(answer::shown(&request.body));
        received.lock().expect("not poisoned").push(lines);
        let scripted = replies.iter().find(|(path, _, _)| request.target.contains(path.as_str()));
        let (bytes, closes) = match scripted {
            Some((_, bytes, closes)) => (bytes.clone(), *closes),
            None => (plain(name, &request), false),
        };
        let bytes = if request.method == "HEAD" { head_of(&bytes) } else { &bytes };
        if peer.try_send(bytes).is_err() || closes {
            return;
        }
    }
}

/// The lines of a head. nginx sends `Host` here first, and after the fields of `proxy_set_header`; and since
/// 1.29.7 it keeps connections to backends as we do, without announcing it.
fn head_lines(head: &[u8]) -> Vec<String> {
    let mut lines = answer::shown(head);
    lines.retain(|line| line != "Connection: close");
    if let Some(at) = lines.iter().position(|line| line.starts_with("Host: ")) {
        lines[1..=at].rotate_right(1);
    }
    lines
}

fn plain(name: &str, request: &Request) -> Vec<u8> {
    let body = format!("{name}: {} {}\n", request.method, request.target);
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

/// A response without its body; interim responses before it are kept.
fn head_of(bytes: &[u8]) -> &[u8] {
    let mut end = 0;
    loop {
        let is_interim = bytes[end..].starts_with(b"HTTP/1.1 1");
        let Some(at) = bytes[end..].windows(4).position(|four| four == b"\r\n\r\n") else { return bytes };
        end += at + 4;
        if !is_interim {
            return &bytes[..end];
        }
    }
}
