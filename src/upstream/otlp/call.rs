//! The call that hands a batch of spans to a collector: OTLP over gRPC, on the worker's own connections of HTTP/2.
//!
//! Touches: the collector's connection, which is a shared one of its group (`upstream/link.rs`) and stays open between two
//! calls. Bounded: the time of connecting and of a call, the head and the body of the response.
//! gRPC over HTTP/2; OTLP, "OTLP/gRPC".

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use crate::base::number::parse_u64;
use crate::log;
use crate::net::Transport;
use crate::net::connect::{self, Options};
use crate::net::tls::client::{self, Terms};
use crate::proto::h2::Code;
use crate::proto::h2::connection::{Connection, Failure, Gone, Opening};
use crate::proto::h2::response::Response;
use crate::proto::h2::stream::Reset;
use crate::proto::otlp;
use crate::runtime::{self, timeout};
use crate::upstream::GroupState;
use crate::upstream::link::{Opened, Stream};
use crate::upstream::otlp::Target;
use crate::upstream::peer::Peer;
use crate::upstream::pool::Tag;
use crate::upstream::session::{Outcome, Session};

/// How long connecting and the handshake may take.
const CONNECT_MS: u64 = 5000;
/// How long a call may take; OTLP's default.
const CALL_MS: u64 = 10_000;
/// The longest head of a response.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// The longest body of a response: a message about spans that were refused.
const BODY_BYTES_MAX: usize = 64 * 1024;
const FRAME_BYTES: usize = 16 * 1024;

/// Why a collector has not taken a batch.
#[derive(Debug)]
pub struct Refused {
    /// For the log.
    pub why: String,
    /// It would not take it at another time either.
    pub is_final: bool,
}

/// A failure after which the call may be made again.
fn failed(why: impl Into<String>) -> Refused {
    Refused { why: why.into(), is_final: false }
}

/// A worker's line to its collector.
#[derive(Debug)]
pub struct Line {
    target: &'static Target,
    group: Rc<GroupState>,
    /// A place in the connection for the next call: it keeps the connection open.
    next: Option<Stream>,
}

impl Line {
    pub fn new(target: &'static Target, group: Rc<GroupState>) -> Self {
        Self { target, group, next: None }
    }

    /// Forgets the connection.
    pub fn hang_up(&mut self) {
        self.next = None;
    }

    /// Hands over the spans, as encoded. Returns how many of them the collector has refused, if there are any, and why.
    pub async fn export(&mut self, spans: &[u8]) -> Result<Option<(u64, String)>, Refused> {
        let head = self.target.origin.head(spans.len());
        let opening = Opening { ends: false, head_bytes_max: HEAD_BYTES_MAX, is_of_head: false };
        let kept = self.next.take().filter(|stream| stream.open(&self.target.head, opening).is_ok());
        let stream = match kept {
            Some(stream) => stream,
            None => {
                let stream = self.connect().await?;
                stream
                    .open(&self.target.head, opening)
                    .map_err(|Gone| failed("the connection takes no call"))?;
                stream
            }
        };
        let Ok(outcome) = timeout(CALL_MS, exchange(&stream, [&head, spans])).await else {
            stream.suspect();
            return Err(failed(format!("no response within {} s", CALL_MS / 1000)));
        };
        self.next = stream.beside();
        judge(outcome?)
    }

    /// Opens a connection to one of the collectors, or joins one that is there.
    async fn connect(&self) -> Result<Stream, Refused> {
        let terms = self.target.terms.as_ref();
        let mut session = Session::new(&self.group, 0);
        let mut last = None;
        while let Some(peer) = session.pick(runtime::now_ms()) {
            if let Some(stream) = self.group.links.take(&peer, Tag::default(), terms) {
                return Ok(stream);
            }
            match Box::pin(self.open(&peer, terms)).await {
                Ok(opened) => return Ok(self.group.links.add(opened, &self.group.group)),
                Err(why) => last = Some(failed(format!("{why}, server {}", peer.name))),
            }
            session.finish(Outcome::Failed, runtime::now_ms());
            if session.tries_left() == 0 {
                break;
            }
        }
        Err(last.unwrap_or_else(|| failed("no server of it has an address, or all are down")))
    }

    async fn open(&self, peer: &Rc<Peer>, terms: Option<&Arc<Terms>>) -> Result<Opened, String> {
        let connected = connect::open(&peer.address, &Options::default(), CONNECT_MS).await;
        let (mut transport, place) = connected.map_err(|refusal| refusal.to_string())?;
        if let Some(terms) = terms {
            secure(&mut transport, terms, &self.target.endpoint).await?;
        }
        let (peer, terms) = (Rc::clone(peer), terms.map(Arc::clone));
        Ok(Opened { transport, place, peer, tag: Tag::default(), terms, is_single: false })
    }
}

/// Encrypts a new connection. Errors: the text for the log.
async fn secure(transport: &mut Transport, terms: &Terms, endpoint: &str) -> Result<(), String> {
    let Some(io) = transport.plain() else {
        return Err("TLS over a connection that is no socket".to_owned());
    };
    let made = timeout(CONNECT_MS, terms.client.connect(io, terms, endpoint)).await;
    let session = match made {
        Ok(Ok(session)) => session,
        Ok(Err(error)) => return Err(told(&error)),
        Err(_) => return Err("SSL handshake timed out".to_owned()),
    };
    transport.secure(*session);
    Ok(())
}

/// Why there is no encrypted connection, for the log.
fn told(error: &client::Error) -> String {
    if let Some(refused) = error.refused() {
        return format!("its certificate is refused ({}:{})", refused.refusal.number(), refused.refusal);
    }
    match error {
        client::Error::Name => "no certificate can have its name".to_owned(),
        client::Error::Handshake(error) => format!("SSL handshake failed: {error}"),
    }
}

/// What a collector has answered.
#[derive(Debug, Default)]
struct Answer {
    /// Of HTTP; 0: it has not come.
    status: u16,
    /// The head as text, then the trailers.
    fields: Vec<u8>,
    body: Vec<u8>,
}

/// Sends the parts of a message, and reads until the response ends, which may be before all is sent.
async fn exchange(stream: &Stream, parts: [&[u8]; 2]) -> Result<Answer, Refused> {
    let mut answer = Answer::default();
    let (mut part, mut at) = (0, 0);
    poll_fn(|cx| {
        while let Some(bytes) = parts.get(part) {
            let ends = part + 1 == parts.len();
            let sent =
                stream.with(|proto, id| proto.send_data(id, &bytes[at..], ends, FRAME_BYTES, cx.waker()));
            match sent {
                Ok(sent) if sent.is_done => (part, at) = (part + 1, 0),
                Ok(sent) => {
                    at += sent.count;
                    break;
                }
                Err(Gone) => part = parts.len(), // the response, or the lack of it, says why
            }
        }
        stream.ask(|proto, id| answer.read(proto, id, cx.waker()))
    })
    .await
    .map_err(|broken| failure(stream, broken))?;
    Ok(answer)
}

impl Answer {
    /// Takes what has come. Ready at the end of the response. Errors: it has none.
    fn read(&mut self, proto: &mut Connection, id: u32, waker: &Waker) -> Poll<Result<(), Broken>> {
        let data = proto.take_data(id);
        if self.body.len() + data.len() > BODY_BYTES_MAX {
            return Poll::Ready(Err(Broken::TooLong));
        }
        self.body.extend_from_slice(&data);
        proto.release(id, data.len());
        let Some(stream) = proto.stream(id) else { return Poll::Ready(Err(Broken::Lost)) };
        while let Some(Response { text, head }) = stream.take_head() {
            if head.status >= 200 {
                (self.status, self.fields) = (head.status, text);
            }
        }
        if let Some(reset) = stream.reset() {
            return Poll::Ready(Err(Broken::Reset(reset)));
        }
        if stream.fault().is_some() {
            return Poll::Ready(Err(Broken::Reset(Reset::ByUs(Code::PROTOCOL_ERROR))));
        }
        if stream.is_remote_closed() {
            self.fields.extend_from_slice(&stream.take_trailers());
            return Poll::Ready(Ok(()));
        }
        stream.wake_later(waker);
        Poll::Pending
    }

    /// The last field of this name in the trailers, or in the head.
    fn field(&self, name: &str) -> Option<&[u8]> {
        let lines = self.fields.split(|byte| *byte == b'\n');
        let mut values = lines.filter_map(|line| {
            let (own, value) = line.split_at_checked(name.len())?;
            let value = value.strip_prefix(b":").filter(|_| own.eq_ignore_ascii_case(name.as_bytes()));
            value.map(<[u8]>::trim_ascii)
        });
        values.next_back()
    }
}

/// What has ended a response before its end.
enum Broken {
    Reset(Reset),
    Lost,
    TooLong,
}

/// Why a call has no response.
fn failure(stream: &Stream, broken: Broken) -> Refused {
    let why = match (stream.failure(), broken) {
        (Some(Failure::Violation(text)), _) => format!("it sent {text}"),
        (Some(Failure::Abuse(act)), _) => format!("it sent too many {}", act.as_str()),
        (None, Broken::Reset(Reset::ByPeer(code))) => format!("it reset the call with code {}", code.0),
        (None, Broken::Reset(Reset::Unprocessed(code))) => format!("it is leaving, with code {}", code.0),
        (None, Broken::Reset(Reset::ByUs(_))) => "it sent frames that make no response".to_owned(),
        (None, Broken::Reset(Reset::Lost) | Broken::Lost) => "it closed the connection".to_owned(),
        (None, Broken::TooLong) => {
            let why = "its response is too long".to_owned();
            return Refused { why, is_final: true };
        }
    };
    failed(why)
}

/// Judges a complete response: `Ok` has how many spans were refused, if any were.
fn judge(answer: Answer) -> Result<Option<(u64, String)>, Refused> {
    if answer.status != 200 {
        let is_final = !matches!(answer.status, 429 | 502..=504);
        return Err(Refused { why: format!("it answered with status {}", answer.status), is_final });
    }
    let code = answer.field("grpc-status").and_then(parse_u64);
    match code {
        Some(0) => Ok(otlp::refused(&answer.body)),
        Some(code) => {
            let message = answer.field("grpc-message").unwrap_or(b"");
            let (name, message) = (otlp::status_name(code), log::Text(message));
            let why = format!("it answered with {code} ({name}) \"{message}\"");
            Err(Refused { why, is_final: !otlp::is_retryable(code) })
        }
        None => Err(failed("its response has no \"grpc-status\"")),
    }
}
