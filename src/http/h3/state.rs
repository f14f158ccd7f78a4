//! The state of an HTTP/3 connection: its requests, the client's unidirectional streams, and ours.
//!
//! Touches: the QUIC connection. Nothing here waits: tasks that wait for a stream are woken. Bounded: what arrives and what
//! waits to be sent, by the connection's windows; sections that wait for compression, by [`qpack::BLOCKED_MAX`]; the bytes
//! of a head, by `large_client_header_buffers`. RFC 9114; RFC 9204.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::task::Waker;

use bytes::Bytes;
use quinn_proto::{ConnectionError, Dir, Event as QuicEvent, StreamEvent, StreamId, VarInt};

use crate::net::quic;

use crate::proto::h2::abuse::{Abuse, Act};
use crate::proto::h2::request::Request as Arrived;
use crate::proto::h3::frame::{Fault, stream as kind};
use crate::proto::h3::{Code, HeadLimits, Peer, integer, peer, qpack, request};
use crate::runtime;

/// The limits of a connection.
#[derive(Debug)]
pub struct Limits {
    pub head: HeadLimits,
    /// `http3_abuse_limit`.
    pub abuse_max: u32,
    /// `http3_extended_connect`.
    pub takes_connect: bool,
}

/// A request that has arrived.
#[derive(Debug)]
pub struct Event {
    pub stream: u64,
    pub request: Arrived,
    /// No body follows.
    pub ends: bool,
    /// The length of its head on the wire.
    pub bytes: u32,
}

/// A request's stream.
#[derive(Default)]
pub(super) struct Request {
    pub(super) parser: request::Stream,
    /// Bytes that were taken from the stream and not looked at.
    pub(super) input: Bytes,
    /// The section of a head, or of trailers, that waits for compression.
    pub(super) blocked: Option<Vec<u8>>,
    /// The head has been handed on to a task.
    pub(super) has_begun: bool,
    /// All of it has arrived.
    pub(super) is_remote_closed: bool,
    /// The client has given it up, or the connection is gone.
    pub(super) is_gone: bool,
    pub(super) declared: Option<u64>,
    pub(super) received: u64,
    /// The fault of the body; follows `sent`.
    pub(super) fault: Option<&'static str>,
    /// Heads of frames and whole sections that the stream has not taken yet.
    pub(super) out: Vec<u8>,
    /// So many bytes of the DATA frame that has begun are missing.
    pub(super) frame_left: usize,
    /// Nothing follows what is in `out`.
    pub(super) is_last: bool,
    /// The end has been handed on.
    pub(super) is_finished: bool,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
}

impl Request {
    pub(super) fn wake(&mut self) {
        self.reader.take().into_iter().chain(self.writer.take()).for_each(Waker::wake);
    }
}

/// One of our unidirectional streams.
#[derive(Default)]
struct Own {
    id: Option<StreamId>,
    waiting: Vec<u8>,
}

/// The bytes of a client's streams beyond which they have to be of use. As nginx's limit, which is written as an eighth.
const FREE_BYTES: u64 = 8 << 20;
/// So many bytes may come for one of a request's head or body: frames and streams of unknown types, empty frames, and
/// instructions for compression are read, but bring no request forward.
const BYTES_OF_USE: u64 = 8;

/// The bytes of a client's streams.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traffic {
    /// All that were read.
    pub(super) total: u64,
    /// Those of heads, as they are after decompression, and of bodies.
    pub(super) useful: u64,
}

impl Traffic {
    fn is_flood(self) -> bool {
        self.total > self.useful.saturating_mul(BYTES_OF_USE).saturating_add(FREE_BYTES)
    }
}

/// The most bytes that wait for a client to take them from one of our unidirectional streams.
const OWN_BYTES_MAX: usize = 64 * 1024;

/// See the module.
pub struct State {
    pub quic: quic::Connection,
    pub(super) limits: Rc<Limits>,
    pub(super) peer: Peer,
    /// Keeps no memory when it is empty, and is searched several times for each packet.
    pub(super) streams: BTreeMap<u64, Box<Request>>,
    /// Streams whose heads are not complete, with the time at which they began. They begin in the order of their numbers,
    /// so the first one is the oldest; one whose head comes at once is never here.
    pub(super) heads: BTreeMap<u64, u64>,
    pub(super) traffic: Traffic,
    /// The last bytes of responses whose requests have ended.
    pub(super) tails: Vec<(u64, Vec<u8>)>,
    requests: VecDeque<Event>,
    pub(super) blocked_count: usize,
    control: Own,
    decoder: Own,
    /// The stream after the last one that was accepted.
    next: u64,
    /// Requests from this stream on are not served.
    goaway: Option<u64>,
    has_announced: bool,
    fault: Option<Fault>,
    lost: Option<ConnectionError>,
    is_connected: bool,
    abuse: Abuse,
    abuse_act: Option<Act>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("State").field("streams", &self.streams.len()).finish_non_exhaustive()
    }
}

pub(super) fn stream_id(id: u64) -> StreamId {
    VarInt::from_u64(id).unwrap_or(VarInt::MAX).into()
}

pub(super) fn code(code: Code) -> VarInt {
    VarInt::from_u64(code.0).unwrap_or(VarInt::MAX)
}

/// The number of a stream of the client.
fn number(id: StreamId) -> u64 {
    VarInt::from(id).into_inner()
}

impl State {
    pub fn new(quic: quic::Connection, limits: Limits) -> Self {
        let mut control = Own::default();
        peer::put_control_start(limits.takes_connect, &mut control.waiting);
        let abuse = Abuse::new(limits.abuse_max);
        Self {
            quic,
            peer: Peer::new(limits.head.line_bytes_max),
            limits: Rc::new(limits),
            streams: BTreeMap::new(),
            heads: BTreeMap::new(),
            traffic: Traffic::default(),
            tails: Vec::new(),
            requests: VecDeque::new(),
            blocked_count: 0,
            control,
            decoder: Own::default(),
            next: 0,
            goaway: None,
            has_announced: false,
            fault: None,
            lost: None,
            is_connected: false,
            abuse,
            abuse_act: None,
        }
    }

    /// True once the handshake is complete.
    pub fn is_connected(&self) -> bool {
        self.is_connected
    }

    /// Why the connection is gone.
    pub fn lost(&self) -> Option<&ConnectionError> {
        self.lost.as_ref()
    }

    /// The error of the client for which we end the connection.
    pub fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// The thing that the client has done too often, if the connection ends for it.
    pub fn abuse(&self) -> Option<Act> {
        self.abuse_act
    }

    /// The next request.
    pub fn next_request(&mut self) -> Option<Event> {
        self.requests.pop_front()
    }

    /// True if a request waits for its task.
    pub fn has_requests(&self) -> bool {
        !self.requests.is_empty()
    }

    /// Gives up the requests whose heads are not complete though they began at this time or before.
    pub fn give_up_heads(&mut self, began_ms: u64) {
        while let Some((&id, &since_ms)) = self.heads.first_key_value()
            && since_ms <= began_ms
        {
            self.heads.remove(&id);
            self.close(id, Code::REQUEST_REJECTED);
            self.charge(Act::Malformed);
        }
    }

    /// The number of requests that have begun to arrive, or are being answered.
    pub fn stream_count(&self) -> usize {
        self.streams.len()
    }

    /// The beginning of the oldest request whose head is not complete.
    pub fn oldest_head_ms(&self) -> Option<u64> {
        self.heads.first_key_value().map(|(_, since_ms)| *since_ms)
    }

    /// True if the client has acknowledged everything that is about requests.
    pub fn is_flushed(&mut self) -> bool {
        let own = [&self.control, &self.decoder].into_iter().filter(|own| own.id.is_some()).count();
        self.tails.is_empty() && self.quic.state.streams().send_streams() <= own
    }

    /// Handles what has happened. Called by the connection's task after it has received.
    pub fn handle(&mut self) {
        while let Some(event) = self.quic.poll_event() {
            match event {
                QuicEvent::Connected => self.is_connected = true,
                QuicEvent::ConnectionLost { reason } => {
                    self.lost = Some(reason);
                    self.leave_streams();
                }
                QuicEvent::Stream(event) => {
                    if let Err(fault) = self.stream_event(event) {
                        self.fail(fault);
                    }
                }
                QuicEvent::HandshakeDataReady
                | QuicEvent::DatagramReceived
                | QuicEvent::DatagramsUnblocked => {}
            }
        }
        if self.traffic.is_flood() {
            self.fail(Fault::new(Code::EXCESSIVE_LOAD, "far more bytes than its requests have"));
        }
        self.send_own();
    }

    fn stream_event(&mut self, event: StreamEvent) -> Result<(), Fault> {
        match event {
            StreamEvent::Opened { dir: Dir::Bi } => {
                while let Some(id) = self.quic.state.streams().accept(Dir::Bi) {
                    self.open(number(id))?;
                }
                Ok(())
            }
            StreamEvent::Opened { dir: Dir::Uni } => {
                while let Some(id) = self.quic.state.streams().accept(Dir::Uni) {
                    self.read_uni(id)?;
                }
                Ok(())
            }
            StreamEvent::Readable { id } if id.dir() == Dir::Uni => self.read_uni(id),
            StreamEvent::Readable { id } => self.readable(number(id)),
            StreamEvent::Writable { id } => {
                self.writable(number(id));
                Ok(())
            }
            StreamEvent::Stopped { id, .. } => {
                self.give_up(number(id));
                Ok(())
            }
            StreamEvent::Finished { .. } | StreamEvent::Available { .. } => Ok(()),
        }
    }

    /// A stream of the client begins.
    fn open(&mut self, id: u64) -> Result<(), Fault> {
        self.next = self.next.max(id + 4);
        if self.goaway.is_some_and(|first| id >= first) || self.fault.is_some() {
            let _ = self.quic.state.send_stream(stream_id(id)).reset(code(Code::REQUEST_REJECTED));
            let _ = self.quic.state.recv_stream(stream_id(id)).stop(code(Code::REQUEST_REJECTED));
            return Ok(());
        }
        self.streams.insert(id, Box::default());
        self.readable(id)?;
        if self.streams.get(&id).is_some_and(|request| !request.has_begun) {
            self.heads.insert(id, runtime::now_ms());
        }
        Ok(())
    }

    /// The client has given up a request.
    pub(super) fn give_up(&mut self, id: u64) {
        let Some(request) = self.streams.get_mut(&id) else {
            self.tails.retain(|(tail, _)| *tail != id);
            return;
        };
        if request.is_gone {
            return;
        }
        request.is_gone = true;
        request.wake();
        let has_begun = request.has_begun;
        if !has_begun {
            self.close(id, Code::REQUEST_CANCELLED);
        }
        self.charge(Act::Reset);
    }

    pub(super) fn charge(&mut self, act: Act) {
        if !self.abuse.charge(act, runtime::now_ms()) && self.fault.is_none() {
            self.abuse_act = Some(act);
            self.fail(Fault::new(Code::EXCESSIVE_LOAD, "too many useless requests"));
        }
    }

    /// A request was served.
    pub fn pay_back(&mut self) {
        self.abuse.pay_back(1);
    }

    /// Ends the connection for an error of the client.
    pub(super) fn fail(&mut self, fault: Fault) {
        if self.fault.is_none() && self.lost.is_none() {
            self.fault = Some(fault);
            self.quic.close(fault.code.0, "stream error", std::time::Instant::now()); // nginx's words
            self.leave_streams();
        }
    }

    /// Ends the connection without an error.
    pub fn end(&mut self) {
        if self.fault.is_none() && self.lost.is_none() {
            self.quic.close(Code::NO_ERROR.0, "", std::time::Instant::now());
            self.leave_streams();
        }
    }

    /// No stream will go on.
    fn leave_streams(&mut self) {
        self.requests.clear();
        self.tails.clear();
        self.heads.clear();
        for request in self.streams.values_mut() {
            request.is_gone = true;
            request.wake();
        }
        self.streams.retain(|_, request| request.has_begun);
    }

    /// Gives back what a connection needs only while it has requests.
    pub fn slim(&mut self) {
        self.quic.slim();
        self.requests = VecDeque::new();
        for own in [&mut self.control, &mut self.decoder] {
            own.waiting.shrink_to_fit();
        }
        if self.tails.is_empty() {
            self.tails = Vec::new();
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lost.is_some() || self.fault.is_some()
    }

    /// Hands a request on to its task.
    pub(super) fn arrived(&mut self, event: Event) {
        self.requests.push_back(event);
    }

    /// Tells the client that we will leave, before any request is refused for it (RFC 9114 §5.2).
    pub fn announce_leaving(&mut self) {
        if !std::mem::replace(&mut self.has_announced, true) {
            peer::put_goaway(integer::MAX - 3, &mut self.control.waiting);
            self.send_own();
        }
    }

    /// Serves no further requests than those that have begun to arrive.
    pub fn leave(&mut self) {
        if self.goaway.is_none() {
            self.goaway = Some(self.next);
            peer::put_goaway(self.next, &mut self.control.waiting);
            self.send_own();
        }
    }

    pub fn is_leaving(&self) -> bool {
        self.goaway.is_some()
    }

    /// Sends on our unidirectional streams, which are opened when there is something to say.
    pub(super) fn send_own(&mut self) {
        if self.is_closed() {
            return;
        }
        if self.peer.decoder.has_output() {
            if self.decoder.id.is_none() && self.decoder.waiting.is_empty() {
                integer::put(kind::DECODER, &mut self.decoder.waiting);
            }
            self.decoder.waiting.extend(self.peer.decoder.take_output());
        }
        for own in [&mut self.control, &mut self.decoder] {
            if own.waiting.is_empty() {
                continue;
            }
            let state = &mut self.quic.state;
            own.id = own.id.or_else(|| state.streams().open(Dir::Uni));
            let Some(id) = own.id else { continue };
            while let Ok(count) = state.send_stream(id).write(&own.waiting)
                && count > 0
            {
                own.waiting.drain(..count);
            }
        }
        if self.control.waiting.len().max(self.decoder.waiting.len()) > OWN_BYTES_MAX {
            self.fail(Fault::new(Code::EXCESSIVE_LOAD, "no room for instructions"));
        }
    }

    pub(super) fn may_block(&mut self) -> Result<(), Fault> {
        if self.blocked_count >= qpack::BLOCKED_MAX {
            return Err(Fault::new(Code::DECOMPRESSION_FAILED, "too many streams that wait for compression"));
        }
        self.blocked_count += 1;
        Ok(())
    }
}
