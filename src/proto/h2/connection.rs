//! One connection of HTTP/2, from either side, as a value: bytes and the time in, requests or responses and bytes out.
//!
//! [`Connection::handle`] takes what has arrived, in pieces of any size; DATA and header blocks are used as they come, so
//! that no frame has to be complete. To a server, new requests are events ([`Connection::next_request`]); whatever happens
//! to a stream that has begun changes its [`Stream`] and wakes its task. The sending side is in `connection/send.rs`, and
//! what only a client does in `connection/client.rs`.
//!
//! Bounded, each by a name in [`Limits`] or here: the streams, the data of each that has arrived and of all together, a
//! header block, what waits to be sent, and the work that a peer may cause for nothing (`abuse.rs`).
//! Touches: nothing. RFC 9113; RFC 9218 §7 (PRIORITY_UPDATE).

mod blocks;
mod client;
mod priority;
mod send;

use std::collections::VecDeque;

pub use client::{Opening, RESPONSE_WINDOW_BYTES};
pub use send::{Gone, OUTPUT_BYTES_MAX, Sent};

use crate::proto::h1::request::Limits as HeadLimits;
use crate::proto::h2::abuse::{Abuse, Act};
use crate::proto::h2::frame::{
    self, Code, HEAD_BYTES, Head, PAYLOAD_BYTES_MAX, PREFACE, STREAM_MAX, WINDOW_DEFAULT, WINDOW_MAX, flag,
    kind, setting,
};
use crate::proto::h2::hpack::Decoder;
use crate::proto::h2::request::Request;
use crate::proto::h2::stream::{Reset, Stream};

/// The longest payload of a frame that has to arrive as a whole: SETTINGS with 64 parameters. Longer ones of these types
/// are refused.
const WHOLE_BYTES_MAX: usize = 64 * 6;
/// Bytes of a header block beyond those of its fields: what encodes them.
const BLOCK_OVERHEAD_BYTES: usize = 4096;
/// How many streams that we have reset are remembered: frames for them may be on their way.
const ENDED_MAX: usize = 64;
/// The window of a stream whose body is being read.
pub const BODY_WINDOW_BYTES: u32 = 128 * 1024;
/// The window of a connection: the most data of all its streams together that has arrived and was not read.
pub const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// Points of abuse that a request which has been answered pays back.
const REQUEST_REFUND: u32 = 4;

/// The bounds of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// `http2_max_concurrent_streams`.
    pub streams_max: u32,
    /// The window of a stream before its body is read (`http2_body_preread_size`).
    pub stream_window: u32,
    /// `large_client_header_buffers`, `max_headers` and the rules for names.
    pub head: HeadLimits,
    /// `http2_abuse_limit`.
    pub abuse_max: u32,
    /// Extended CONNECT is offered (RFC 8441).
    pub offers_connect: bool,
}

impl Limits {
    /// The longest frame that clients may send: the protocol's default, unless a single field may be longer than that, in
    /// which case a whole head may come in one frame. Nothing is kept of a frame but what its stream or its head may hold.
    fn frame_bytes_max(&self) -> usize {
        match self.head.line_bytes_max > PAYLOAD_BYTES_MAX {
            true => self.head.head_bytes_max.clamp(PAYLOAD_BYTES_MAX, frame::PAYLOAD_LIMIT as usize),
            false => PAYLOAD_BYTES_MAX,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams_max: 128,
            stream_window: 65_536,
            head: HeadLimits::default(),
            abuse_max: 1000,
            offers_connect: false,
        }
    }
}

/// A request that has begun.
#[derive(Debug)]
pub struct Event {
    pub stream: u32,
    pub request: Request,
    /// No body follows.
    pub ends: bool,
    /// The length of its header block, with padding.
    pub bytes: u32,
}

/// Why a connection ends by our decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The peer broke a rule; the text follows `client sent` or `upstream sent`.
    Violation(&'static str),
    /// It made too much work for nothing, at last by this (`http2_abuse_limit`).
    Abuse(Act),
}

/// What is being read.
#[derive(Clone, Copy, Debug)]
enum State {
    /// The client's preface; so many bytes of it have come.
    Preface(u8),
    /// A frame's head, or a frame that has to be whole.
    Frame,
    Data {
        stream: u32,
        left: usize,
        padding: usize,
        ends: bool,
    },
    Fragment {
        left: usize,
        padding: usize,
        ends_block: bool,
    },
    Skip {
        left: usize,
    },
}

/// What becomes of a header block that is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    Request {
        ends: bool,
    },
    /// To a client: the head of a response, or of an interim one.
    Response {
        ends: bool,
    },
    Trailers,
    /// The stream is refused, or has ended.
    Unread,
    /// Its client took too long.
    Late,
}

/// A stage of the connection's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    No,
    /// The first GOAWAY is sent: the client should open no more streams, but those on their way are served.
    Announced,
    /// Streams above the number in the last GOAWAY are not served.
    Final,
}

#[derive(Debug)]
pub struct Connection {
    limits: Limits,
    state: State,
    /// The peer's first SETTINGS have come; like nginx we do not insist on them.
    has_settings: bool,
    /// The peer has acknowledged our SETTINGS.
    is_acknowledged: bool,
    decoder: Decoder,
    /// The stream and the fate of the block that is being read.
    block: Option<(u32, Block)>,
    block_bytes: Vec<u8>,
    /// The payloads of its frames.
    block_length: u32,
    /// By number. Boxed, since a new one moves those behind it.
    #[expect(clippy::vec_box, reason = "a vacant place is a word")]
    streams: Vec<Box<Stream>>,
    /// Streams that we have reset lately.
    ended: VecDeque<u32>,
    /// The highest stream that the peer has opened.
    last: u32,
    /// The last stream that we serve, once that is decided.
    last_served: u32,
    leaving: Leaving,
    failure: Option<Failure>,
    events: VecDeque<Event>,
    abuse: Abuse,
    now_ms: u64,
    /// What we allow the peer to send on all streams together, and what it has not been given room for again.
    receive_window: i64,
    owed: u32,
    /// What the peer allows us.
    send_window: i64,
    peer_stream_window: u32,
    peer_payload_max: usize,
    /// Bytes for the peer; those before `sent` are gone.
    output: Vec<u8>,
    sent: usize,
    /// Streams that wait for room in the output.
    queue: VecDeque<u32>,
    /// The peer has acknowledged the PING that followed the first GOAWAY.
    is_ping_back: bool,
    /// The state of a client; `None`: this is the side of a server.
    client: Option<Box<client::State>>,
}

/// The payload of the PING after the first GOAWAY.
const LEAVING_PING: &[u8; 8] = b"leaving\0";

impl Connection {
    /// A connection whose client has sent nothing yet; our SETTINGS wait to be sent.
    pub fn new(limits: Limits) -> Self {
        let mut settings = vec![
            (setting::MAX_CONCURRENT_STREAMS, limits.streams_max),
            (setting::INITIAL_WINDOW_SIZE, limits.stream_window),
            (setting::MAX_HEADER_LIST_SIZE, u32::try_from(limits.head.head_bytes_max).unwrap_or(u32::MAX)),
            (setting::NO_RFC7540_PRIORITIES, 1),
        ];
        if limits.frame_bytes_max() > PAYLOAD_BYTES_MAX {
            settings.push((setting::MAX_FRAME_SIZE, limits.frame_bytes_max() as u32));
        }
        if limits.offers_connect {
            settings.push((setting::ENABLE_CONNECT_PROTOCOL, 1));
        }
        let mut output = Vec::with_capacity(HEAD_BYTES * 3 + 40);
        frame::put_settings(&settings, &mut output);
        frame::put_window_update(0, CONNECTION_WINDOW_BYTES - WINDOW_DEFAULT, &mut output);
        Self::with(limits, State::Preface(0), output)
    }

    fn with(limits: Limits, state: State, output: Vec<u8>) -> Self {
        Self {
            state,
            has_settings: false,
            is_acknowledged: false,
            decoder: Decoder::default(),
            block: None,
            block_bytes: Vec::new(),
            block_length: 0,
            streams: Vec::new(),
            ended: VecDeque::new(),
            last: 0,
            last_served: STREAM_MAX,
            leaving: Leaving::No,
            failure: None,
            events: VecDeque::new(),
            abuse: Abuse::new(limits.abuse_max),
            now_ms: 0,
            receive_window: i64::from(CONNECTION_WINDOW_BYTES),
            owed: 0,
            send_window: i64::from(WINDOW_DEFAULT),
            peer_stream_window: WINDOW_DEFAULT,
            peer_payload_max: PAYLOAD_BYTES_MAX,
            output,
            sent: 0,
            queue: VecDeque::new(),
            is_ping_back: false,
            client: None,
            limits,
        }
    }

    /// Takes bytes of the peer. Returns how many it has used; the rest, less than a short frame, must be given again
    /// with more behind it. After a failure it uses everything, and does nothing.
    pub fn handle(&mut self, input: &[u8], now_ms: u64) -> usize {
        self.now_ms = now_ms;
        let mut at = 0;
        while self.failure.is_none() {
            let rest = &input[at..];
            let used = match self.state {
                State::Preface(seen) => self.preface(usize::from(seen), rest),
                State::Frame => self.frame(rest),
                State::Data { .. } => self.data_part(rest),
                State::Fragment { .. } => self.fragment(rest),
                State::Skip { left } => self.skip(left, rest),
            };
            match used {
                Ok(0) => return at,
                Ok(used) => at += used,
                Err((code, failure)) => self.fail(code, failure),
            }
        }
        input.len()
    }

    /// The next request that has arrived.
    pub fn next_request(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Why the connection must end; GOAWAY is in the output.
    pub fn failure(&self) -> Option<Failure> {
        self.failure
    }

    /// The number of streams that have begun and are not closed.
    pub fn stream_count(&self) -> usize {
        self.streams.len()
    }

    /// True while a header block, or the preface, is incomplete.
    pub fn is_inside_head(&self) -> bool {
        self.block.is_some() || matches!(self.state, State::Preface(_))
    }

    /// True if these bytes, which [`Connection::handle`] has left, begin a header block.
    pub fn is_head(rest: &[u8]) -> bool {
        rest.get(3) == Some(&kind::HEADERS)
    }

    pub fn stream(&mut self, id: u32) -> Option<&mut Stream> {
        let index = self.index(id).ok()?;
        self.streams.get_mut(index).map(|stream| &mut **stream)
    }

    fn index(&self, id: u32) -> Result<usize, usize> {
        self.streams.binary_search_by_key(&id, |stream| stream.id)
    }

    /// The longest payload that the peer may send.
    fn payload_max(&self) -> usize {
        match self.client {
            Some(_) => PAYLOAD_BYTES_MAX,
            None => self.limits.frame_bytes_max(),
        }
    }

    fn preface(&mut self, seen: usize, rest: &[u8]) -> Result<usize, (Code, Failure)> {
        let count = rest.len().min(PREFACE.len() - seen);
        if rest[..count] != PREFACE[seen..seen + count] {
            return violation(Code::PROTOCOL_ERROR, "invalid connection preface");
        }
        self.state =
            if seen + count == PREFACE.len() { State::Frame } else { State::Preface((seen + count) as u8) };
        Ok(count)
    }

    fn skip(&mut self, left: usize, rest: &[u8]) -> Result<usize, (Code, Failure)> {
        let count = rest.len().min(left);
        self.state = if count == left { State::Frame } else { State::Skip { left: left - count } };
        Ok(count)
    }

    fn frame(&mut self, rest: &[u8]) -> Result<usize, (Code, Failure)> {
        let Some((head, payload)) = rest.split_first_chunk::<HEAD_BYTES>() else { return Ok(0) };
        if !self.has_settings && self.client.is_some() && rest.starts_with(b"HTTP/1.") {
            return violation(Code::PROTOCOL_ERROR, "a response in HTTP/1, not HTTP/2");
        }
        let head = Head::parse(head);
        if head.length > self.payload_max() {
            return violation(Code::FRAME_SIZE_ERROR, "too large frame");
        }
        if let Some((stream, _)) = self.block
            && (head.kind != kind::CONTINUATION || head.stream != stream)
        {
            return violation(Code::PROTOCOL_ERROR, "unexpected frame inside a header block");
        }
        match head.kind {
            kind::DATA => return self.data(head, payload),
            kind::HEADERS => return self.headers(head, payload),
            kind::CONTINUATION => return self.continuation(head),
            kind::PUSH_PROMISE => return violation(Code::PROTOCOL_ERROR, "PUSH_PROMISE frame"),
            kind::GOAWAY => {
                if head.stream != 0 {
                    return violation(Code::PROTOCOL_ERROR, "GOAWAY frame for a stream");
                }
                if head.length < 8 {
                    return violation(Code::FRAME_SIZE_ERROR, "GOAWAY frame with incorrect length");
                }
                if self.client.is_some() {
                    let Some(facts) = payload.first_chunk::<8>() else { return Ok(0) };
                    self.server_leaves(word(facts) & STREAM_MAX, Code(word(&facts[4..])));
                }
            }
            kind::PRIORITY | kind::RST_STREAM | kind::SETTINGS | kind::PING | kind::WINDOW_UPDATE => {
                check_length(head)?;
                let Some(payload) = payload.get(..head.length) else { return Ok(0) };
                self.whole(head, payload)?;
                return Ok(HEAD_BYTES + head.length);
            }
            kind::PRIORITY_UPDATE if (4..=WHOLE_BYTES_MAX).contains(&head.length) => {
                let Some(payload) = payload.get(..head.length) else { return Ok(0) };
                self.priority_update(head, payload)?;
                return Ok(HEAD_BYTES + head.length);
            }
            kind::PRIORITY_UPDATE if head.length < 4 => {
                return violation(Code::FRAME_SIZE_ERROR, "PRIORITY_UPDATE frame with incorrect length");
            }
            _ => {}
        }
        self.charge(Act::Idle)?;
        self.state = State::Skip { left: head.length };
        if head.length == 0 {
            self.state = State::Frame;
        }
        Ok(HEAD_BYTES)
    }

    /// A frame that has arrived as a whole.
    fn whole(&mut self, head: Head, payload: &[u8]) -> Result<(), (Code, Failure)> {
        match head.kind {
            kind::PRIORITY => {
                self.charge(Act::Priority)?;
                if payload.len() != 5 {
                    return self.stream_error(head.stream, Code::FRAME_SIZE_ERROR);
                }
                let depends_on =
                    u32::from_be_bytes([payload[0], payload[1], payload[2], payload[3]]) & STREAM_MAX;
                if depends_on == head.stream {
                    return self.stream_error(head.stream, Code::PROTOCOL_ERROR);
                }
                Ok(()) // RFC 9113 §5.3: only its syntax is left
            }
            kind::RST_STREAM => self.reset_by_peer(head.stream, word(payload)),
            kind::SETTINGS if head.has(flag::ACK) => {
                self.charge(Act::Idle)?;
                self.is_acknowledged = true;
                Ok(())
            }
            kind::SETTINGS => self.settings(payload),
            kind::PING if head.has(flag::ACK) => {
                self.is_ping_back |= payload == LEAVING_PING && self.leaving == Leaving::Announced;
                self.ping_answered(payload);
                self.charge(Act::Idle)
            }
            kind::PING => {
                self.charge(Act::Ping)?;
                frame::put(kind::PING, flag::ACK, 0, payload, &mut self.output);
                Ok(())
            }
            _ => self.window_update(head.stream, word(payload) & STREAM_MAX),
        }
    }

    fn data(&mut self, head: Head, payload: &[u8]) -> Result<usize, (Code, Failure)> {
        if head.stream == 0 {
            return violation(Code::PROTOCOL_ERROR, "DATA frame for no stream");
        }
        let (padding, before) = match head.has(flag::PADDED) {
            false => (0, 0),
            true if head.length == 0 => {
                return violation(Code::FRAME_SIZE_ERROR, "padded DATA frame without length");
            }
            true => match payload.first() {
                None => return Ok(0),
                Some(padding) if usize::from(*padding) >= head.length => {
                    return violation(Code::PROTOCOL_ERROR, "DATA frame with too long padding");
                }
                Some(padding) => (usize::from(*padding), 1),
            },
        };
        let left = head.length - before - padding;
        self.receive_window -= head.length as i64;
        if self.receive_window < 0 {
            return violation(Code::FLOW_CONTROL_ERROR, "more DATA than the window of the connection allows");
        }
        if head.stream > self.last || !is_of_client(head.stream) {
            return violation(Code::PROTOCOL_ERROR, "DATA frame for an idle stream");
        }
        let ends = head.has(flag::END_STREAM);
        if left == 0 && !ends {
            self.charge(Act::EmptyData)?;
        }
        let is_known = self.ended.contains(&head.stream);
        let used = HEAD_BYTES + before;
        let Some(stream) = self.stream(head.stream).filter(|stream| stream.reset.is_none()) else {
            self.owe(head.length as u32);
            self.state =
                if head.length > before { State::Skip { left: head.length - before } } else { State::Frame };
            if !is_known {
                self.charge(Act::Idle)?;
                // a server may not have seen yet that its stream was closed, however long ago that was
                if self.client.is_none() {
                    self.stream_error(head.stream, Code::STREAM_CLOSED)?;
                }
            }
            return Ok(used);
        };
        stream.receive_window -= head.length as i64;
        let fault = match stream.is_remote_closed {
            true => Some(Code::STREAM_CLOSED),
            false if stream.awaits_head() => {
                stream.fault = Some("DATA before the head of the response");
                Some(Code::PROTOCOL_ERROR)
            }
            false => (stream.receive_window < 0).then_some(Code::FLOW_CONTROL_ERROR),
        };
        if fault.is_none() {
            let unused = (before + padding) as u32;
            stream.owed += unused;
            stream.count(left as u64);
            self.owe(unused);
        }
        if let Some(code) = fault {
            self.owe(head.length as u32);
            self.state =
                if head.length > before { State::Skip { left: head.length - before } } else { State::Frame };
            self.stream_error(head.stream, code)?;
            return Ok(used);
        }
        self.state = State::Data { stream: head.stream, left, padding, ends };
        if left == 0 {
            self.data_end(head.stream, padding, ends);
        }
        Ok(used)
    }

    fn data_part(&mut self, rest: &[u8]) -> Result<usize, (Code, Failure)> {
        let State::Data { stream: id, left, padding, ends } = self.state else { return Ok(0) };
        let count = rest.len().min(left);
        if count == 0 {
            return Ok(0);
        }
        let is_client = self.client.is_some();
        match self.stream(id) {
            Some(stream) if stream.reset.is_none() && stream.fault.is_none() => {
                stream.received.extend_from_slice(&rest[..count]);
                stream.wake();
                if is_client {
                    self.owe(count as u32);
                }
            }
            _ => self.owe(count as u32),
        }
        self.state = State::Data { stream: id, left: left - count, padding, ends };
        if count == left {
            self.data_end(id, padding, ends);
        }
        Ok(count)
    }

    fn data_end(&mut self, id: u32, padding: usize, ends: bool) {
        self.state = if padding > 0 { State::Skip { left: padding } } else { State::Frame };
        if let Some(stream) = self.stream(id) {
            if ends {
                stream.end();
            }
            if ends || stream.fault.is_some() {
                stream.wake();
            }
        }
    }

    fn reset_by_peer(&mut self, id: u32, code: u32) -> Result<(), (Code, Failure)> {
        if id > self.last || !is_of_client(id) {
            return violation(Code::PROTOCOL_ERROR, "RST_STREAM frame for an idle stream");
        }
        if self.client.is_some() {
            self.reset_by_server(id, Code(code));
            return self.charge(Act::Idle);
        }
        match self.stream(id) {
            Some(stream) if stream.reset.is_none() => {
                stream.reset = Some(Reset::ByPeer(Code(code)));
                stream.wake();
                let unread = std::mem::take(&mut stream.received).len();
                let is_early = !stream.is_local_closed;
                self.owe(unread as u32);
                self.charge(if is_early { Act::Reset } else { Act::Idle })
            }
            _ => self.charge(Act::Idle),
        }
    }

    fn settings(&mut self, payload: &[u8]) -> Result<(), (Code, Failure)> {
        if self.has_settings {
            self.charge(Act::Settings)?;
        }
        self.has_settings = true;
        for entry in payload.as_chunks::<6>().0 {
            let (number, value) = (u16::from_be_bytes([entry[0], entry[1]]), word(&entry[2..]));
            match number {
                setting::ENABLE_PUSH if value > u32::from(self.client.is_none()) => {
                    return violation(
                        Code::PROTOCOL_ERROR,
                        "SETTINGS frame with incorrect ENABLE_PUSH value",
                    );
                }
                setting::INITIAL_WINDOW_SIZE => {
                    if value > WINDOW_MAX {
                        let message = "SETTINGS frame with incorrect INITIAL_WINDOW_SIZE value";
                        return violation(Code::FLOW_CONTROL_ERROR, message);
                    }
                    self.resize_windows(value)?;
                }
                setting::MAX_FRAME_SIZE => {
                    if !(PAYLOAD_BYTES_MAX as u32..=frame::PAYLOAD_LIMIT).contains(&value) {
                        let message = "SETTINGS frame with incorrect MAX_FRAME_SIZE value";
                        return violation(Code::PROTOCOL_ERROR, message);
                    }
                    self.peer_payload_max = value as usize;
                }
                setting::MAX_CONCURRENT_STREAMS => self.server_permits(value),
                _ => {}
            }
        }
        frame::put(kind::SETTINGS, flag::ACK, 0, b"", &mut self.output);
        self.wake_writers();
        Ok(())
    }

    /// The peer's initial window changes, and with it the windows of all streams (§6.9.2).
    fn resize_windows(&mut self, size: u32) -> Result<(), (Code, Failure)> {
        let change = i64::from(size) - i64::from(self.peer_stream_window);
        self.peer_stream_window = size;
        for stream in &mut self.streams {
            stream.send_window += change;
            if stream.send_window > i64::from(WINDOW_MAX) {
                return violation(Code::FLOW_CONTROL_ERROR, "SETTINGS frame that makes a window too large");
            }
        }
        Ok(())
    }

    fn window_update(&mut self, id: u32, bytes: u32) -> Result<(), (Code, Failure)> {
        self.charge(Act::WindowUpdate)?;
        if id == 0 {
            if bytes == 0 {
                return violation(Code::PROTOCOL_ERROR, "WINDOW_UPDATE frame without an increment");
            }
            self.send_window += i64::from(bytes);
            if self.send_window > i64::from(WINDOW_MAX) {
                return violation(
                    Code::FLOW_CONTROL_ERROR,
                    "WINDOW_UPDATE frame that makes the window too large",
                );
            }
            self.wake_writers();
            return Ok(());
        }
        if id > self.last || !is_of_client(id) {
            return violation(Code::PROTOCOL_ERROR, "WINDOW_UPDATE frame for an idle stream");
        }
        let Some(stream) = self.stream(id).filter(|stream| stream.reset.is_none()) else { return Ok(()) };
        stream.send_window += i64::from(bytes);
        if bytes == 0 {
            return self.stream_error(id, Code::PROTOCOL_ERROR);
        }
        if stream.send_window > i64::from(WINDOW_MAX) {
            return self.stream_error(id, Code::FLOW_CONTROL_ERROR);
        }
        stream.wake();
        Ok(())
    }

    fn charge(&mut self, act: Act) -> Result<(), (Code, Failure)> {
        if self.abuse.charge(act, self.now_ms) {
            return Ok(());
        }
        Err((Code::ENHANCE_YOUR_CALM, Failure::Abuse(act)))
    }

    /// The peer has broken a rule on one stream, which ends.
    fn stream_error(&mut self, id: u32, code: Code) -> Result<(), (Code, Failure)> {
        self.reset(id, code);
        self.charge(Act::StreamError)
    }

    fn remember_ended(&mut self, id: u32) {
        if self.ended.len() == ENDED_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back(id);
    }

    /// Data was used, or dropped: the peer gets room for it again on the connection. To a client that happens when data
    /// arrives, so that a stream that nobody reads never stops the others; each of them is bounded by its own window.
    fn owe_used(&mut self, bytes: u32) {
        if self.client.is_none() {
            self.owe(bytes);
        }
    }

    /// The peer gets room for these bytes again on the connection.
    fn owe(&mut self, bytes: u32) {
        self.owed += bytes;
        if self.owed >= CONNECTION_WINDOW_BYTES / 2 {
            frame::put_window_update(0, self.owed, &mut self.output);
            self.receive_window += i64::from(std::mem::take(&mut self.owed));
        }
    }

    /// Ends the connection: nothing is read any more, and all streams are reset without a word.
    fn fail(&mut self, code: Code, failure: Failure) {
        self.failure = Some(failure);
        self.end_with(code);
    }

    fn end_with(&mut self, code: Code) {
        self.leaving = Leaving::Final;
        self.last_served = self.last_served.min(self.last);
        // a server opens no streams: its client has served none
        let last = if self.client.is_some() { 0 } else { self.last_served };
        frame::put_go_away(last, code, &mut self.output);
        let is_client = self.client.is_some();
        for stream in self.streams.iter_mut().filter(|stream| !(is_client && stream.is_remote_closed)) {
            stream.reset.get_or_insert(Reset::ByUs(code));
            stream.received = Vec::new();
            stream.wake();
        }
    }
}

/// The lengths and streams that frames of these types may have.
fn check_length(head: Head) -> Result<(), (Code, Failure)> {
    let is_of_connection = matches!(head.kind, kind::SETTINGS | kind::PING);
    if is_of_connection != (head.stream == 0) && head.kind != kind::WINDOW_UPDATE {
        return violation(Code::PROTOCOL_ERROR, "frame with an incorrect stream");
    }
    let is_right = match head.kind {
        kind::PRIORITY => head.length <= WHOLE_BYTES_MAX, // a wrong length is an error of the stream
        kind::PING => head.length == 8,
        kind::SETTINGS if head.has(flag::ACK) => head.length == 0,
        kind::SETTINGS if head.length > WHOLE_BYTES_MAX => {
            return violation(Code::ENHANCE_YOUR_CALM, "SETTINGS frame with more than 64 parameters");
        }
        kind::SETTINGS => head.length.is_multiple_of(6),
        _ => head.length == 4,
    };
    if is_right { Ok(()) } else { violation(Code::FRAME_SIZE_ERROR, "frame with incorrect length") }
}

/// True for the numbers of streams that clients open (§5.1.1).
fn is_of_client(stream: u32) -> bool {
    !stream.is_multiple_of(2)
}

fn violation<T>(code: Code, message: &'static str) -> Result<T, (Code, Failure)> {
    Err((code, Failure::Violation(message)))
}

fn word(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests;
