//! A collector of OpenTelemetry: it takes the calls of OTLP/gRPC with the `h2` crate, and decodes what comes by a decoder
//! of its own, written from the wire format of Protocol Buffers and from opentelemetry-proto.
//!
//! The decoder is strict: a field that no exporter of ours should write, or a text that is no UTF-8, fails the test.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::server::SendResponse;
use hyper::header::{HeaderMap, HeaderValue};
use hyper::{Request, Response};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;

use super::deadline::wait_for;
use super::tls::Pair;
use super::{port, tasks};

/// A span as it came.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Span {
    pub trace: String,
    pub id: String,
    /// Empty if there is none.
    pub parent: String,
    pub state: String,
    pub name: String,
    pub kind: u64,
    pub start_ns: u64,
    pub end_ns: u64,
    pub attributes: Vec<(String, Value)>,
    pub status: u64,
    pub flags: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Text(String),
    Integer(u64),
    List(Vec<Value>),
}

impl Span {
    /// The text of an attribute; empty if it is absent, or is none.
    pub fn text(&self, key: &str) -> &str {
        match self.attribute(key) {
            Some(Value::Text(text)) => text,
            _ => "",
        }
    }

    pub fn integer(&self, key: &str) -> Option<u64> {
        match self.attribute(key)? {
            Value::Integer(value) => Some(*value),
            _ => None,
        }
    }

    pub fn attribute(&self, key: &str) -> Option<&Value> {
        self.attributes.iter().find(|(own, _)| own == key).map(|(_, value)| value)
    }
}

/// One call.
#[derive(Clone, Debug, Default)]
pub struct Export {
    /// The fields of its head.
    pub fields: BTreeMap<String, String>,
    pub resource: Vec<(String, Value)>,
    /// The name and version of the program.
    pub scope: (String, String),
    pub spans: Vec<Span>,
    pub message_bytes: usize,
}

/// How a call is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    Ok,
    /// A gRPC status other than 0, in the head of a response without a body.
    Status(u16),
    /// The same in trailers.
    LateStatus(u16),
    Http(u16),
    /// So many spans are refused.
    Partial(u64),
    NoStatus,
    Reset,
    /// The connection ends before the call is read.
    Close,
    /// Nothing is answered.
    Hang,
    /// The answer is endless.
    Flood,
}

#[derive(Default)]
struct Shared {
    exports: Mutex<Vec<Export>>,
    failures: Mutex<Vec<String>>,
    calls: AtomicUsize,
    connections: AtomicUsize,
}

pub struct Collector {
    port: u16,
    shared: Arc<Shared>,
    running: Option<(tokio::sync::oneshot::Sender<()>, std::thread::JoinHandle<()>)>,
}

type Replies = Arc<dyn Fn(usize) -> Reply + Send + Sync>;

impl Collector {
    /// Takes all calls.
    pub fn start() -> Self {
        Self::replying(|_| Reply::Ok)
    }

    /// `reply` gets the number of calls before this one.
    pub fn replying(reply: impl Fn(usize) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_on(port::free(), reply, None)
    }

    /// The same on a port that the test has chosen, and with TLS.
    pub fn start_on(
        port: u16,
        reply: impl Fn(usize) -> Reply + Send + Sync + 'static,
        tls: Option<Arc<rustls::ServerConfig>>,
    ) -> Self {
        let listener = port::listen(Ipv4Addr::LOCALHOST, port);
        listener.set_nonblocking(true).expect("set");
        let shared = Arc::new(Shared::default());
        let (theirs, reply): (_, Replies) = (shared.clone(), Arc::new(reply));
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let accept = async move {
            let listener = TcpListener::from_std(listener).expect("a listener");
            while let Ok((stream, _)) = listener.accept().await {
                theirs.connections.fetch_add(1, Ordering::SeqCst);
                let (shared, reply, tls) = (theirs.clone(), reply.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, shared, reply).await,
                        Some(tls) => {
                            let accepted = tokio_rustls::TlsAcceptor::from(tls).accept(stream).await;
                            if let Ok(stream) = accepted {
                                serve(stream, shared, reply).await;
                            }
                        }
                    }
                });
            }
        };
        let thread = std::thread::spawn(move || {
            // its connections end with the loop
            tasks::runtime().block_on(async move {
                tokio::spawn(accept);
                let _ = stopped.await;
            });
        });
        Self { port, shared, running: Some((stop, thread)) }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The number of calls whose heads have come.
    pub fn calls(&self) -> usize {
        self.shared.calls.load(Ordering::SeqCst)
    }

    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// The calls that were taken.
    pub fn exports(&self) -> Vec<Export> {
        let failures = self.shared.failures.lock().expect("no panic").clone();
        assert!(failures.is_empty(), "{failures:?}");
        self.shared.exports.lock().expect("no panic").clone()
    }

    /// All spans so far.
    pub fn spans(&self) -> Vec<Span> {
        self.exports().into_iter().flat_map(|export| export.spans).collect()
    }

    /// Waits until there are so many spans, and returns them all.
    pub fn wait_spans(&self, count: usize) -> Vec<Span> {
        wait_for(&format!("{count} spans"), || Some(self.spans()).filter(|spans| spans.len() >= count))
    }

    pub fn wait_calls(&self, count: usize) {
        wait_for(&format!("{count} calls"), || (self.calls() >= count).then_some(()));
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            let _ = stop.send(());
            let _ = thread.join();
        }
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    shared: Arc<Shared>,
    reply: Replies,
) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        let reply = reply(shared.calls.fetch_add(1, Ordering::SeqCst));
        if reply == Reply::Close {
            return;
        }
        let shared = shared.clone();
        tokio::spawn(async move {
            if let Err(why) = answer(request, respond, reply, &shared).await {
                shared.failures.lock().expect("no panic").push(why);
            }
        });
    }
}

async fn answer(
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    reply: Reply,
    shared: &Shared,
) -> Result<(), String> {
    let (head, body) = request.into_parts();
    let mut fields: BTreeMap<String, String> = head
        .headers
        .iter()
        .map(|(name, value)| {
            (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        })
        .collect();
    fields.insert(":method".into(), head.method.to_string());
    fields.insert(":path".into(), head.uri.path().to_owned());
    fields.insert(":scheme".into(), head.uri.scheme_str().unwrap_or("").to_owned());
    fields.insert(":authority".into(), head.uri.authority().map(ToString::to_string).unwrap_or_default());
    let plain = |status: u16| Response::builder().status(status).header("content-type", "application/grpc");
    let whole = match reply {
        Reply::Hang => return std::future::pending().await,
        Reply::Reset => {
            respond.send_reset(h2::Reason::ENHANCE_YOUR_CALM);
            return Ok(());
        }
        Reply::Http(status) => {
            let _ = respond.send_response(plain(status).body(()).expect("a head"), true);
            return Ok(());
        }
        Reply::Status(code) => {
            let head = plain(200).header("grpc-status", code).header("grpc-message", "no%20room");
            let _ = respond.send_response(head.body(()).expect("a head"), true);
            return Ok(());
        }
        Reply::Flood => {
            let Ok(mut body) = respond.send_response(plain(200).body(()).expect("a head"), false) else {
                return Ok(());
            };
            while body.send_data(Bytes::from(vec![7; 65_536]), false).is_ok() {
                tokio::task::yield_now().await;
            }
            return Ok(());
        }
        Reply::Ok | Reply::LateStatus(_) | Reply::Partial(_) | Reply::NoStatus | Reply::Close => {
            tasks::whole(body).await
        }
    };
    let Ok((message, _)) = whole else { return Ok(()) }; // the daemon is gone
    let export = export(fields, &message)?;
    let mut status = Some(0);
    let body = match reply {
        Reply::LateStatus(code) => {
            status = Some(code);
            vec![0; 5]
        }
        Reply::Partial(count) => {
            shared.exports.lock().expect("no panic").push(export);
            let part = [&[8, count as u8, 0x12, 4][..], b"full"].concat();
            let message = [&[0x0a, part.len() as u8][..], &part].concat();
            [&[0, 0, 0, 0, message.len() as u8][..], &message].concat()
        }
        _ => {
            status = status.filter(|_| reply != Reply::NoStatus);
            shared.exports.lock().expect("no panic").push(export);
            vec![0; 5]
        }
    };
    let Ok(mut out) = respond.send_response(plain(200).body(()).expect("a head"), false) else {
        return Ok(());
    };
    let _ = out.send_data(body.into(), false);
    let mut trailers = HeaderMap::new();
    if let Some(status) = status {
        trailers.insert("grpc-status", HeaderValue::from(status));
    }
    let _ = out.send_trailers(trailers);
    Ok(())
}

fn export(fields: BTreeMap<String, String>, message: &[u8]) -> Result<Export, String> {
    for (name, expected) in [
        (":method", "POST"),
        (":path", "/opentelemetry.proto.collector.trace.v1.TraceService/Export"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        if fields.get(name).map(String::as_str) != Some(expected) {
            return Err(format!("{name} of {fields:?}"));
        }
    }
    let (head, rest) = message.split_at_checked(5).ok_or("no message")?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if head[0] != 0 || length != rest.len() {
        return Err(format!("{head:?} before {} bytes", rest.len()));
    }
    Ok(Export { fields, message_bytes: message.len(), ..decode(rest)? })
}

/// The parts of a message by their numbers.
fn parts(mut rest: &[u8]) -> Result<Vec<(u64, Part<'_>)>, String> {
    let mut all = Vec::new();
    while !rest.is_empty() {
        let tag = number(&mut rest)?;
        let mut take = |count: usize| {
            let (bytes, left) =
                rest.split_at_checked(count).ok_or_else(|| format!("{count} bytes are missing"))?;
            rest = left;
            Ok::<_, String>(bytes)
        };
        let part = match tag % 8 {
            0 => Part::Number(number(&mut rest)?),
            1 => Part::Number(u64::from_le_bytes(take(8)?.try_into().expect("eight"))),
            2 => {
                let count = number(&mut rest)? as usize;
                let (bytes, left) = rest.split_at_checked(count).ok_or("a part is cut off")?;
                rest = left;
                Part::Bytes(bytes)
            }
            5 => Part::Number(u32::from_le_bytes(take(4)?.try_into().expect("four")).into()),
            other => return Err(format!("wire type {other}")),
        };
        all.push((tag / 8, part));
    }
    Ok(all)
}

#[derive(Clone, Copy, Debug)]
enum Part<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn number(rest: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0u64;
    for index in 0..10 {
        let (&byte, left) = rest.split_first().ok_or("a number is cut off")?;
        *rest = left;
        value += u64::from(byte % 128) << (7 * index);
        if byte < 128 {
            return Ok(value);
        }
    }
    Err("an endless number".to_owned())
}

fn text(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|error| format!("a text that is no UTF-8: {error}"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An `ExportTraceServiceRequest`.
pub fn decode(message: &[u8]) -> Result<Export, String> {
    let mut export = Export::default();
    for (number, part) in parts(message)? {
        let (1, Part::Bytes(resource_spans)) = (number, part) else {
            return Err(format!("request: {number}"));
        };
        for (number, part) in parts(resource_spans)? {
            match (number, part) {
                (1, Part::Bytes(resource)) => {
                    for (number, part) in parts(resource)? {
                        let (1, Part::Bytes(pair)) = (number, part) else {
                            return Err(format!("resource: {number}"));
                        };
                        export.resource.push(key_value(pair)?);
                    }
                }
                (2, Part::Bytes(scope_spans)) => {
                    for (number, part) in parts(scope_spans)? {
                        match (number, part) {
                            (1, Part::Bytes(scope)) => export.scope = scope_of(scope)?,
                            (2, Part::Bytes(own)) => export.spans.push(span(own)?),
                            (number, part) => return Err(format!("scope spans: {number} {part:?}")),
                        }
                    }
                }
                (number, part) => return Err(format!("resource spans: {number} {part:?}")),
            }
        }
    }
    Ok(export)
}

fn scope_of(bytes: &[u8]) -> Result<(String, String), String> {
    let mut scope = (String::new(), String::new());
    for (number, part) in parts(bytes)? {
        match (number, part) {
            (1, Part::Bytes(name)) => scope.0 = text(name)?,
            (2, Part::Bytes(version)) => scope.1 = text(version)?,
            (number, part) => return Err(format!("scope: {number} {part:?}")),
        }
    }
    Ok(scope)
}

fn span(bytes: &[u8]) -> Result<Span, String> {
    let mut span = Span::default();
    let sized =
        |bytes: &[u8], count| (bytes.len() == count).then(|| hex(bytes)).ok_or("an id of another length");
    for (number, part) in parts(bytes)? {
        match (number, part) {
            (1, Part::Bytes(id)) => span.trace = sized(id, 16)?,
            (2, Part::Bytes(id)) => span.id = sized(id, 8)?,
            (3, Part::Bytes(state)) => span.state = text(state)?,
            (4, Part::Bytes(id)) => span.parent = sized(id, 8)?,
            (5, Part::Bytes(name)) => span.name = text(name)?,
            (6, Part::Number(kind)) => span.kind = kind,
            (7, Part::Number(time)) => span.start_ns = time,
            (8, Part::Number(time)) => span.end_ns = time,
            (9, Part::Bytes(pair)) => span.attributes.push(key_value(pair)?),
            (15, Part::Bytes(status)) => {
                for (number, part) in parts(status)? {
                    let (3, Part::Number(code)) = (number, part) else {
                        return Err(format!("status: {number}"));
                    };
                    span.status = code;
                }
            }
            (16, Part::Number(flags)) => span.flags = flags as u32,
            (number, part) => return Err(format!("span: {number} {part:?}")),
        }
    }
    Ok(span)
}

fn key_value(bytes: &[u8]) -> Result<(String, Value), String> {
    let (mut key, mut value) = (None, None);
    for (number, part) in parts(bytes)? {
        match (number, part) {
            (1, Part::Bytes(bytes)) => key = Some(text(bytes)?),
            (2, Part::Bytes(bytes)) => value = Some(any_value(bytes)?),
            (number, part) => return Err(format!("attribute: {number} {part:?}")),
        }
    }
    Ok((key.ok_or("no key")?, value.ok_or("no value")?))
}

fn any_value(bytes: &[u8]) -> Result<Value, String> {
    let parts_of = parts(bytes)?;
    let [(number, part)] = parts_of[..] else { return Err(format!("{} values", parts_of.len())) };
    match (number, part) {
        (1, Part::Bytes(bytes)) => text(bytes).map(Value::Text),
        (3, Part::Number(value)) => Ok(Value::Integer(value)),
        (5, Part::Bytes(list)) => {
            let elements = parts(list)?.into_iter().map(|(number, part)| match (number, part) {
                (1, Part::Bytes(element)) => any_value(element),
                (number, part) => Err(format!("list: {number} {part:?}")),
            });
            elements.collect::<Result<_, _>>().map(Value::List)
        }
        (number, part) => Err(format!("value: {number} {part:?}")),
    }
}

/// The terms of a collector with TLS, for [`Collector::start_on`].
pub fn tls(pair: &Pair) -> Arc<rustls::ServerConfig> {
    let chain = vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).expect("PEM")];
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("PEM");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a pair");
    tls.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(tls)
}
