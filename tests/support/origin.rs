//! A scripted origin server: for each connection a thread runs the test's closure over raw bytes.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::deadline::{deadline, wait_for};
use super::message::Request;
use super::port;
use super::wire::Wire;

type Script = dyn Fn(&mut Peer) + Send + Sync;

/// A server whose responses the test writes. If a script panics, dropping the server fails the test.
pub struct Origin {
    port: u16,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stopping: AtomicBool,
    accepted: AtomicUsize,
    ended: AtomicUsize,
    requests: Mutex<Vec<Request>>,
    failures: Mutex<Vec<String>>,
    streams: Mutex<HashMap<usize, TcpStream>>,
}

/// One connection from the daemon, passed to the script. It closes when the script returns.
pub struct Peer {
    wire: Wire,
    shared: Arc<Shared>,
    /// The number of connections before this one.
    pub index: usize,
}

impl Origin {
    /// Starts a server that runs `script` for each connection.
    pub fn start(script: impl Fn(&mut Peer) + Send + Sync + 'static) -> Self {
        Self::start_on(port::free(), script)
    }

    /// The same, on a port chosen by the test.
    pub fn start_on(port: u16, script: impl Fn(&mut Peer) + Send + Sync + 'static) -> Self {
        let listener = port::listen(Ipv4Addr::LOCALHOST, port);
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let script: Arc<Script> = Arc::new(script);
        let acceptor = std::thread::spawn(move || accept(&listener, &theirs, &script));
        Self { port, shared, acceptor: Some(acceptor) }
    }

    /// A server that sends the bytes from `reply` for each request of a connection, until the daemon closes
    /// it.
    pub fn replying(reply: impl Fn(&Request) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::start(move |peer| {
            while let Some(request) = peer.request() {
                if peer.try_send(&reply(&request)).is_err() {
                    return;
                }
            }
        })
    }

    /// A server that answers every request with 200 and this body.
    pub fn saying(body: &str) -> Self {
        let bytes = ok(body.as_bytes());
        Self::replying(move |_| bytes.clone())
    }

    /// A server of WebSockets at one path, for streams of HTTP/2 and HTTP/3: it says hello, sends back all that it gets, and says
    /// bye at the end. A request that does not ask for an upgrade is a failure.
    pub fn websocket(target: &'static str) -> Self {
        Self::start(move |peer| {
            let Some(request) = peer.head() else { return };
            let is_asked = request.header("upgrade") == Some("websocket")
                && request.header("connection") == Some("upgrade");
            assert!(
                is_asked && request.header("sec-websocket-key").is_some_and(|key| key.len() == 24),
                "{request:?}"
            );
            assert_eq!((&*request.method, &*request.target), ("GET", target));
            peer.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\nhello");
            loop {
                let bytes = peer.some(100_000);
                if bytes.is_empty() {
                    peer.send("bye");
                    return;
                }
                peer.send(bytes);
            }
        })
    }

    /// A server that sends back all that it gets, whatever the protocol.
    pub fn echo() -> Self {
        Self::start(|peer| {
            loop {
                let bytes = peer.some(64 * 1024);
                if bytes.is_empty() || peer.try_send(&bytes).is_err() {
                    return;
                }
            }
        })
    }

    /// A server whose response is `first-last`, the second half of which waits for the channel; one request
    /// per connection.
    pub fn in_two_parts() -> (Sender<()>, Self) {
        let (go, wait) = channel();
        let wait = Mutex::new(wait);
        let origin = Self::start(move |peer| {
            peer.request();
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst");
            let _ = wait.lock().expect("not poisoned").recv_timeout(deadline());
            let _ = peer.try_send(b"-last");
        });
        (go, origin)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The requests read so far, in the order in which they were complete.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().expect("not poisoned").clone()
    }

    /// The last request read; panics if there was none.
    pub fn last(&self) -> Request {
        self.requests().pop().expect("the origin was asked")
    }

    /// The number of accepted connections.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// The number of scripts that have returned.
    pub fn ended(&self) -> usize {
        self.shared.ended.load(Ordering::SeqCst)
    }

    /// Waits until `count` scripts have returned.
    pub fn wait_ended(&self, count: usize) {
        wait_for("the origin's connections to end", || (self.ended() >= count).then_some(()));
    }

    /// Waits until `count` requests have been read.
    pub fn wait_requests(&self, count: usize) {
        wait_for("the origin's requests", || (self.requests().len() >= count).then_some(()));
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        let failures = std::mem::take(&mut *self.shared.failures.lock().expect("not poisoned"));
        if !failures.is_empty() && !std::thread::panicking() {
            panic!("the origin's script failed: {}", failures.join("; "));
        }
    }
}

impl Peer {
    /// Reads one request and records it. `None` if the daemon closed the connection first.
    pub fn request(&mut self) -> Option<Request> {
        let request = self.wire.request()?;
        self.record(request.clone());
        Some(request)
    }

    /// Reads the head of a request and records it; leaves the body on the wire.
    pub fn head(&mut self) -> Option<Request> {
        let request = self.wire.request_head()?;
        self.record(request.clone());
        Some(request)
    }

    fn record(&self, request: Request) {
        self.shared.requests.lock().expect("not poisoned").push(request);
    }
}

impl std::ops::Deref for Peer {
    type Target = Wire;
    fn deref(&self) -> &Wire {
        &self.wire
    }
}

impl std::ops::DerefMut for Peer {
    fn deref_mut(&mut self) -> &mut Wire {
        &mut self.wire
    }
}

/// A 200 response with its length and this body.
pub fn ok(body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>, script: &Arc<Script>) {
    let mut threads = Vec::new();
    for stream in listener.incoming() {
        if shared.stopping.load(Ordering::SeqCst) {
            break;
        }
        let Ok(stream) = stream else { continue };
        let index = shared.accepted.fetch_add(1, Ordering::SeqCst);
        if let Ok(copy) = stream.try_clone() {
            shared.streams.lock().expect("not poisoned").insert(index, copy);
        }
        let (theirs, script) = (shared.clone(), script.clone());
        threads.push(std::thread::spawn(move || serve(stream, index, &theirs, &script)));
    }
    for stream in shared.streams.lock().expect("not poisoned").values() {
        let _ = stream.shutdown(Shutdown::Both);
    }
    for thread in threads {
        let _ = thread.join();
    }
}

fn serve(stream: TcpStream, index: usize, shared: &Arc<Shared>, script: &Arc<Script>) {
    let mut peer = Peer { wire: Wire::new(stream), shared: shared.clone(), index };
    let outcome = catch_unwind(AssertUnwindSafe(|| script(&mut peer)));
    // Drop the copy first, so that dropping the peer really closes the connection and sends FIN or RST.
    shared.streams.lock().expect("not poisoned").remove(&index);
    drop(peer);
    shared.ended.fetch_add(1, Ordering::SeqCst);
    if let Err(cause) = outcome
        && !shared.stopping.load(Ordering::SeqCst)
    {
        let text = cause.downcast_ref::<String>().cloned();
        let text = text.or_else(|| cause.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        shared.failures.lock().expect("not poisoned").push(text.unwrap_or_default());
    }
}
