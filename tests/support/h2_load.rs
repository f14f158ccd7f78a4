//! Clients of HTTP/2 that never pause while a test does something to the daemon: short requests, slow downloads and calls
//! of all kinds that gRPC has. None may fail.
//!
//! They are of the `h2` crate, and do what RFC 9113 asks of a client: they answer PING, open a new connection after
//! GOAWAY, and send a request again that the daemon has refused (REFUSED_STREAM) or has not begun (a stream above the last
//! one of GOAWAY). Anything else that goes wrong is a failure.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use h2::client::SendRequest;
use h2::{Ping, Reason, RecvStream, SendStream, client, server};
use hyper::body::Bytes;
use hyper::{HeaderMap, Request, Response};
use tokio::net::TcpStream;

use super::deadline::{deadline, wait_at_most, wait_for};
use super::tasks::{listen, runtime, whole};

/// What a client does again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A response of the daemon itself, and one of the server behind it.
    Short,
    Download,
    Unary,
    /// The server sends many messages.
    Stream,
    /// The client sends many messages.
    Collect,
    /// Each message is answered before the next is sent.
    Chat,
}

pub const KINDS: [Kind; 6] =
    [Kind::Short, Kind::Download, Kind::Unary, Kind::Stream, Kind::Collect, Kind::Chat];

/// Tasks of each kind, on a connection for each kind.
const TASKS: usize = 4;
/// Messages of a call that has many.
const MESSAGES: usize = 20;
/// How often a request that was not begun is sent again.
const TRIES: usize = 5;

/// The sizes of what is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The length of `/download`.
    pub download_bytes: usize,
    /// How long a call of many messages takes.
    pub call: Duration,
}

#[derive(Debug, Default)]
struct Counts {
    served: [AtomicUsize; KINDS.len()],
    /// Requests that were sent again, as they should be.
    repeated: AtomicUsize,
    connections: AtomicUsize,
    pings: AtomicUsize,
    longest_ms: AtomicUsize,
}

/// The clients, on a thread of their own.
pub struct H2Load {
    stop: Arc<AtomicBool>,
    counts: Arc<Counts>,
    thread: JoinHandle<Vec<String>>,
}

impl H2Load {
    pub fn start(port: u16, plan: Plan) -> Self {
        let (stop, counts) = (Arc::new(AtomicBool::new(false)), Arc::new(Counts::default()));
        let thread = std::thread::spawn({
            let (stop, counts) = (Arc::clone(&stop), Arc::clone(&counts));
            move || runtime().block_on(run(port, plan, stop, counts))
        });
        Self { stop, counts, thread }
    }

    pub fn served(&self, kind: Kind) -> usize {
        self.counts.served[kind as usize].load(Ordering::SeqCst)
    }

    /// Waits until so many more short requests have been answered, or a client has failed.
    pub fn wait(&self, more: usize) {
        let before = self.served(Kind::Short);
        wait_for("short requests", || {
            (self.thread.is_finished() || self.served(Kind::Short) >= before + more).then_some(())
        });
    }

    /// Waits until each kind has been served once more.
    pub fn wait_all(&self) {
        let before = KINDS.map(|kind| self.served(kind));
        let has_all = || KINDS.iter().zip(before).all(|(&kind, before)| self.served(kind) > before);
        wait_for("requests of all kinds", || (self.thread.is_finished() || has_all()).then_some(()));
    }

    /// Ends the clients with what they have begun; panics if anything has failed. Returns the figures as a line.
    pub fn finish(self) -> String {
        self.stop.store(true, Ordering::SeqCst);
        wait_at_most(deadline() * 2, || self.thread.is_finished().then_some(())).expect("the clients end");
        let failures = self.thread.join().expect("a client's panic is caught");
        assert!(failures.is_empty(), "{} failures: {failures:#?}", failures.len());
        let counts = &self.counts;
        let served =
            KINDS.map(|kind| format!("{kind:?} {}", counts.served[kind as usize].load(Ordering::SeqCst)));
        let number = |count: &AtomicUsize| count.load(Ordering::SeqCst);
        format!(
            "{}; {} connections, {} requests repeated, {} PINGs answered, longest short request {} ms",
            served.join(", "),
            number(&counts.connections),
            number(&counts.repeated),
            number(&counts.pings),
            number(&counts.longest_ms),
        )
    }
}

/// Runs all clients until `stop`; the failures.
async fn run(port: u16, plan: Plan, stop: Arc<AtomicBool>, counts: Arc<Counts>) -> Vec<String> {
    let mut tasks = Vec::new();
    for kind in KINDS {
        let session = Arc::new(Session { port, counts: Arc::clone(&counts), current: Default::default() });
        for _ in 0..TASKS {
            let (session, stop) = (Arc::clone(&session), Arc::clone(&stop));
            tasks.push(tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let begin = Instant::now();
                    let outcome = session.repeat(kind, plan).await;
                    if outcome.is_err() {
                        stop.store(true, Ordering::SeqCst);
                        return outcome;
                    }
                    session.counts.served[kind as usize].fetch_add(1, Ordering::SeqCst);
                    if kind == Kind::Short {
                        let took_ms = begin.elapsed().as_millis() as usize;
                        session.counts.longest_ms.fetch_max(took_ms, Ordering::SeqCst);
                    }
                }
                Ok(())
            }));
        }
    }
    let mut failures = Vec::new();
    for task in tasks {
        match task.await {
            Ok(outcome) => failures.extend(outcome.err()),
            Err(panic) => failures.push(panic.to_string()),
        }
    }
    failures
}

/// The connection that requests of one kind share, and its successors.
struct Session {
    port: u16,
    counts: Arc<Counts>,
    current: std::sync::Mutex<Option<SendRequest<Bytes>>>,
}

/// A call that has not been answered as it should be.
enum Fault {
    /// The daemon has not begun it.
    Unbegun,
    Failed(String),
}

impl From<h2::Error> for Fault {
    fn from(error: h2::Error) -> Self {
        let is_refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
        let is_above_last =
            error.is_go_away() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR);
        match is_refused || is_above_last {
            true => Self::Unbegun,
            false => Self::Failed(format!("{error:?}")),
        }
    }
}

fn expect(is_so: bool, what: impl FnOnce() -> String) -> Result<(), Fault> {
    if is_so { Ok(()) } else { Err(Fault::Failed(what())) }
}

impl Session {
    /// Does it once, again if the daemon has not begun it.
    async fn repeat(&self, kind: Kind, plan: Plan) -> Result<(), String> {
        for _ in 0..TRIES {
            match self.once(kind, plan).await {
                Ok(()) => return Ok(()),
                Err(Fault::Unbegun) => self.counts.repeated.fetch_add(1, Ordering::SeqCst),
                Err(Fault::Failed(cause)) => return Err(format!("{kind:?}: {cause}")),
            };
        }
        Err(format!("{kind:?}: not begun {TRIES} times"))
    }

    /// A connection that takes a request: the one that is open, or a new one after GOAWAY.
    async fn ready(&self) -> Result<SendRequest<Bytes>, Fault> {
        let current = self.current.lock().expect("no panic").clone();
        if let Some(current) = current
            && let Ok(ready) = current.ready().await
        {
            return Ok(ready);
        }
        let failed = |error: &dyn std::fmt::Debug| Fault::Failed(format!("no connection: {error:?}"));
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.map_err(|error| failed(&error))?;
        let (client, mut connection) = client::handshake(stream).await.map_err(|error| failed(&error))?;
        self.counts.connections.fetch_add(1, Ordering::SeqCst);
        let (mut pings, counts) = (connection.ping_pong().expect("taken once"), Arc::clone(&self.counts));
        tokio::spawn(connection);
        tokio::spawn(async move {
            while pings.ping(Ping::opaque()).await.is_ok() {
                counts.pings.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(100)).await; // their rate
            }
        });
        let ready = client.ready().await?;
        *self.current.lock().expect("no panic") = Some(ready.clone());
        Ok(ready)
    }

    async fn once(&self, kind: Kind, plan: Plan) -> Result<(), Fault> {
        let each = Bytes::from_static(b"\0\0\0\0\x07message");
        match kind {
            Kind::Short => {
                for (path, body) in [("/", &b""[..]), ("/proxied", b"sent back")] {
                    let (response, _) = self.ask(path, plan, Some(body)).await?;
                    let (body, _) = finished(response.await?).await?;
                    let expected = if path == "/" { &b"here\n"[..] } else { b"sent back" };
                    expect(body == expected, || format!("{path}: {}", String::from_utf8_lossy(&body)))?;
                }
                Ok(())
            }
            Kind::Download => {
                let (response, _) = self.ask("/download", plan, Some(b"")).await?;
                let (body, _) = finished(response.await?).await?;
                expect(body.len() == plan.download_bytes, || format!("{} bytes", body.len()))
            }
            Kind::Unary => {
                let (response, _) = self.ask("/svc/Unary", plan, Some(&each)).await?;
                let (body, trailers) = finished(response.await?).await?;
                expect(body == each, || format!("{} bytes", body.len()))?;
                succeeded(trailers)
            }
            Kind::Stream => {
                let (response, _) = self.ask("/svc/Stream", plan, Some(&each)).await?;
                let (body, trailers) = finished(response.await?).await?;
                expect(body == each.repeat(MESSAGES), || format!("{} bytes", body.len()))?;
                succeeded(trailers)
            }
            Kind::Collect => {
                let (response, mut send) = self.ask("/svc/Collect", plan, None).await?;
                for _ in 0..MESSAGES {
                    send.send_data(each.clone(), false)?;
                    tokio::time::sleep(plan.call / MESSAGES as u32).await; // the length of the call
                }
                send.send_data(Bytes::new(), true)?;
                let (body, trailers) = finished(response.await?).await?;
                let expected = (each.len() * MESSAGES).to_string();
                expect(body == expected.as_bytes(), || format!("{} bytes", body.len()))?;
                succeeded(trailers)
            }
            Kind::Chat => {
                let (response, mut send) = self.ask("/svc/Chat", plan, None).await?;
                let mut body = response.await?.into_body();
                for _ in 0..MESSAGES {
                    send.send_data(each.clone(), false)?;
                    let mut got = 0;
                    while got < each.len() {
                        let part =
                            body.data().await.ok_or_else(|| Fault::Failed("an end too early".into()))??;
                        body.flow_control().release_capacity(part.len())?;
                        got += part.len();
                    }
                    tokio::time::sleep(plan.call / MESSAGES as u32).await; // the length of the call
                }
                send.send_data(Bytes::new(), true)?;
                let (rest, trailers) = whole(body).await?;
                expect(rest.is_empty(), || format!("{} bytes more", rest.len()))?;
                succeeded(trailers)
            }
        }
    }

    /// Sends the head of a request, and its body if that is given.
    async fn ask(
        &self,
        path: &str,
        plan: Plan,
        body: Option<&[u8]>,
    ) -> Result<(client::ResponseFuture, SendStream<Bytes>), Fault> {
        let pause_ms = (plan.call / MESSAGES as u32).as_millis().to_string();
        let method = if path == "/download" { "GET" } else { "POST" };
        let request = Request::builder().method(method).uri(format!("http://a.test{path}"));
        let request = request.header("te", "trailers");
        let request = request.header("x-pause-ms", pause_ms).body(()).expect("a request");
        let mut ready = self.ready().await?;
        let (response, mut send) = ready.send_request(request, body.is_some_and(<[u8]>::is_empty))?;
        if let Some(body) = body
            && !body.is_empty()
        {
            send.send_data(Bytes::copy_from_slice(body), true)?;
        }
        Ok((response, send))
    }
}

async fn finished(response: Response<RecvStream>) -> Result<(Vec<u8>, Option<HeaderMap>), Fault> {
    let status = response.status();
    expect(status == 200, || format!("status {status}"))?;
    Ok(whole(response.into_body()).await?)
}

fn succeeded(trailers: Option<HeaderMap>) -> Result<(), Fault> {
    let status = trailers.as_ref().and_then(|trailers| trailers.get("grpc-status"));
    expect(status.is_some_and(|status| status == "0"), || format!("trailers {trailers:?}"))
}

/// A server for the calls of all kinds, behind the daemon.
pub fn origin() -> SocketAddr {
    listen(|stream| async {
        let Ok(mut connection) = server::handshake(stream).await else { return };
        while let Some(Ok((request, respond))) = connection.accept().await {
            tokio::spawn(async move {
                let _ = answer(request, respond).await; // the client notices
            });
        }
    })
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: server::SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let pause_ms = request.headers().get("x-pause-ms").and_then(|value| value.to_str().ok()?.parse().ok());
    let pause = Duration::from_millis(pause_ms.unwrap_or(0));
    let path = request.uri().path().to_owned();
    let mut body = request.into_body();
    if path == "/svc/Chat" {
        let mut send = respond.send_response(Response::new(()), false)?;
        while let Some(part) = body.data().await {
            let part = part?;
            body.flow_control().release_capacity(part.len())?;
            send.send_data(part, false)?;
        }
        return end(send);
    }
    let (body, _) = whole(body).await?;
    let mut send = respond.send_response(Response::new(()), false)?;
    match path.as_str() {
        "/svc/Stream" => {
            for _ in 0..MESSAGES {
                send.send_data(body.clone().into(), false)?;
                tokio::time::sleep(pause).await; // the length of the call
            }
        }
        "/svc/Collect" => send.send_data(body.len().to_string().into(), false)?,
        _ => send.send_data(body.into(), false)?,
    }
    end(send)
}

fn end(mut send: SendStream<Bytes>) -> Result<(), h2::Error> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().expect("a value"));
    send.send_trailers(trailers)
}
