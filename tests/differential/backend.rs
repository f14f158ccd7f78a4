//! The backends that both daemons share: they record what they receive; their responses are in the file of
//! cases.

use std::sync::{Arc, Mutex};

use crate::answer;
use crate::case::{Reply, Script};
use crate::support::fastcgi::{Call, end, record};
use crate::support::message::Request;
use crate::support::origin::{Origin, Peer};
use crate::support::{packets, port, wait_for};

pub struct Backends {
    pub a: Origin,
    pub b: Origin,
    /// Applications, each with the name of its protocol in the cases.
    pub applications: Vec<(&'static str, Origin)>,
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
        let applications = APPLICATIONS.iter().map(|(name, call)| {
            let (received, replies, call) = (received.clone(), replies.clone(), *call);
            (*name, Origin::start(move |peer| answer_calls(peer, (name, call), &received, &replies)))
        });
        let applications = applications.collect();
        Self { a: start("a"), b: start("b"), applications, dead: port::refusing(), received }
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

/// Reads a request to an application: its parameters and its body. `None`: the connection ended.
type ReadCall = fn(&mut Peer) -> Option<Incoming>;

/// A request to an application.
struct Incoming {
    params: Vec<(String, String)>,
    body: Vec<u8>,
    /// FastCGI: whether to keep the connection.
    keeps: Option<bool>,
}

/// The protocols of applications, by their names in the cases.
const APPLICATIONS: &[(&str, ReadCall)] = &[
    ("FASTCGI", |peer| {
        let Call { params, body, keeps, .. } = Call::read(peer)?;
        Some(Incoming { params, body, keeps: Some(keeps) })
    }),
    ("UWSGI", |peer| {
        let (modifiers, mut params) = packets::uwsgi(peer)?;
        let length = packets::value(&params, "CONTENT_LENGTH").and_then(|length| length.parse().ok());
        let body = peer.exactly(length.unwrap_or(0));
        params.insert(0, ("modifiers".into(), format!("{modifiers:?}")));
        Some(Incoming { params, body, keeps: None })
    }),
    ("SCGI", |peer| {
        let params = packets::scgi(peer)?;
        let length = packets::value(&params, "CONTENT_LENGTH").and_then(|length| length.parse().ok());
        let body = peer.exactly(length.unwrap_or(0));
        Some(Incoming { params, body, keeps: None })
    }),
];

/// Answers the requests of one connection: with the reply for the first parameter whose value has one, otherwise with
/// that value.
fn answer_calls(
    peer: &mut Peer,
    (name, read): (&str, ReadCall),
    received: &Received,
    replies: &[(String, Vec<u8>, bool)],
) {
    while let Some(Incoming { params, body, keeps }) = read(peer) {
        let mut lines = vec![format!("application {name}:")];
        for (name, value) in &params {
            lines.extend(answer::shown(format!("{name}={value}").as_bytes()));
        }
        lines.extend(answer::shown(&body));
        received.lock().expect("not poisoned").push(lines);
        let uri =
            params.iter().find(|(name, _)| name == "REQUEST_URI").map_or("", |(_, value)| value.as_str());
        let scripted = replies.iter().find(|(path, _, _)| uri.contains(path.as_str()));
        let bytes = match scripted {
            Some((_, bytes, _)) => bytes.clone(),
            None => format!("Content-Type: text/plain\r\n\r\n{uri}\n").into_bytes(),
        };
        let bytes = match keeps {
            Some(_) => [record(6, &bytes, 0), record(6, b"", 0), end(0)].concat(),
            None => bytes,
        };
        if peer.try_send(&bytes).is_err() || keeps != Some(true) {
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
