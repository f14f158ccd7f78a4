//! A client of HTTP/3 that a test drives by hand: quinn-proto's state machine on a blocking socket, and frames written byte
//! by byte. Only answers are read with pronghorn's codec, which has the examples of the standard for tests of its own.

use std::collections::{BTreeMap, VecDeque};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use pronghorn::proto::h3::qpack::{self, Decoder};
use pronghorn::proto::h3::request::{Piece, Stream};
use pronghorn::sys::datagrams::{MESSAGES_MAX, Outbox, Receiver, read_marks};
use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::{
    ClientConfig, Connection, ConnectionError, ConnectionHandle, DatagramEvent, Dir, EcnCodepoint, Endpoint,
    EndpointConfig, Event, ReadError, StreamEvent, StreamId, TransportConfig, VarInt,
};

use socket2::SockRef;

use super::deadline::deadline;
use super::tls::{Authority, client_config};

/// The outcome of a request.
#[derive(Debug, Default)]
pub struct Answer {
    pub status: u16,
    /// Interim responses' statuses.
    pub interim: Vec<u16>,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// The response is complete.
    pub is_whole: bool,
    /// The code of RESET_STREAM.
    pub reset: Option<u64>,
    /// The code of STOP_SENDING.
    pub stopped: Option<u64>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    pub fn is_over(&self) -> bool {
        self.is_whole || self.reset.is_some()
    }
}

#[derive(Default)]
struct Fields(Vec<(String, String)>);

impl qpack::Sink for Fields {
    type Stop = ();

    fn field(&mut self, name: &[u8], value: &[u8]) -> Result<(), ()> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        self.0.push((text(name), text(value)));
        Ok(())
    }
}

/// A client and its connection.
pub struct H3 {
    socket: UdpSocket,
    endpoint: Endpoint,
    handle: ConnectionHandle,
    pub connection: Connection,
    parsers: BTreeMap<StreamId, Stream>,
    pub answers: BTreeMap<StreamId, Answer>,
    /// The bytes of the server's unidirectional streams.
    pub uni: BTreeMap<StreamId, Vec<u8>>,
    pub is_connected: bool,
    pub lost: Option<ConnectionError>,
    unsent: VecDeque<(StreamId, Vec<u8>, bool)>,
    receiver: Option<Receiver>,
    /// The marks (ECN) of the datagrams that have arrived, and of the last one that was sent.
    pub marks: Vec<u8>,
    pub sent_mark: u8,
    /// Nothing is sent.
    is_held: bool,
}

/// A socket that tells marks.
fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    read_marks(&SockRef::from(&socket));
    socket
}

/// rustls' settings of a client that trusts this authority, for ALPN h3.
pub fn tls(authority: &Authority) -> rustls::ClientConfig {
    let mut config = rustls::ClientConfig::clone(&client_config(authority, None, &[&rustls::version::TLS13]));
    config.alpn_protocols = vec![b"h3".to_vec()];
    config.enable_early_data = true;
    config
}

/// A string with a length of `prefix` bits behind `first`, without Huffman code.
fn put_string(text: &[u8], prefix: u32, first: u8, out: &mut Vec<u8>) {
    let most = (1 << prefix) - 1;
    if text.len() < most {
        out.push(first | text.len() as u8);
    } else {
        out.push(first | most as u8);
        let mut rest = text.len() - most;
        while rest >= 128 {
            out.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        out.push(rest as u8);
    }
    out.extend_from_slice(text);
}

/// A frame: type, length in four bytes, payload.
pub fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32 | 0x8000_0000).to_be_bytes();
    [&[kind], &length[..], payload].concat()
}

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;

/// A field section of literals.
pub fn section(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = vec![0, 0];
    for (name, value) in fields {
        put_string(name.as_bytes(), 3, 0x20, &mut out);
        put_string(value.as_bytes(), 7, 0, &mut out);
    }
    out
}

/// The head of a request.
pub fn head(method: &str, path: &str, host: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    let pseudo = [(":method", method), (":scheme", "https"), (":authority", host), (":path", path)];
    frame(HEADERS, &section(&[&pseudo, fields].concat()))
}

/// The head of a request for a WebSocket (RFC 9220).
pub fn websocket(path: &str, host: &str) -> Vec<u8> {
    let fields = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":path", path),
        (":authority", host),
        ("sec-websocket-version", "13"),
    ];
    frame(HEADERS, &section(&fields))
}

impl H3 {
    /// Connects to 127.0.0.1 and waits for the handshake.
    pub fn connect(port: u16, authority: &Authority, name: &str) -> Self {
        let mut client = Self::begin(port, tls(authority), name, TransportConfig::default());
        client.until("a handshake", |client| client.is_connected || client.lost.is_some());
        assert_eq!(client.lost, None);
        client.start();
        client
    }

    /// Sends the first packet.
    pub fn begin(port: u16, tls: rustls::ClientConfig, name: &str, transport: TransportConfig) -> Self {
        let socket = socket();
        let mut endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, true, None);
        let crypto = QuicClientConfig::try_from(tls).expect("TLS 1.3");
        let mut config = ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::new(transport));
        let server = SocketAddr::from(([127, 0, 0, 1], port));
        let (handle, connection) =
            endpoint.connect(Instant::now(), config, server, name).expect("a connection");
        let mut client = Self {
            socket,
            endpoint,
            handle,
            connection,
            parsers: BTreeMap::new(),
            answers: BTreeMap::new(),
            uni: BTreeMap::new(),
            is_connected: false,
            lost: None,
            unsent: VecDeque::new(),
            receiver: Some(Receiver::default()),
            marks: Vec::new(),
            sent_mark: 0,
            is_held: false,
        };
        client.transmit();
        client
    }

    /// Opens the control stream.
    pub fn start(&mut self) {
        self.uni(&[0, 4, 0]);
    }

    /// Opens a unidirectional stream with these bytes.
    pub fn uni(&mut self, bytes: &[u8]) -> StreamId {
        let id = self.connection.streams().open(Dir::Uni).expect("a stream");
        self.send(id, bytes, false);
        id
    }

    /// Opens a request's stream with these bytes.
    pub fn open(&mut self, bytes: &[u8], ends: bool) -> StreamId {
        let id = self.connection.streams().open(Dir::Bi).expect("a stream");
        self.answers.insert(id, Answer::default());
        self.parsers.insert(id, Stream::default());
        self.send(id, bytes, ends);
        id
    }

    pub fn get(&mut self, host: &str, path: &str) -> StreamId {
        self.open(&head("GET", path, host, &[]), true)
    }

    /// Sends a request and waits for its response.
    pub fn fetch(&mut self, host: &str, path: &str) -> Answer {
        let id = self.get(host, path);
        self.answer(id)
    }

    /// Sends bytes on a stream, as its windows permit.
    pub fn send(&mut self, id: StreamId, bytes: &[u8], ends: bool) {
        self.unsent.push_back((id, bytes.to_vec(), ends));
        self.write();
        self.transmit();
    }

    pub fn reset(&mut self, id: StreamId, code: u32) {
        let _ = self.connection.send_stream(id).reset(VarInt::from_u32(code));
        self.transmit();
    }

    pub fn stop(&mut self, id: StreamId, code: u32) {
        let _ = self.connection.recv_stream(id).stop(VarInt::from_u32(code));
        self.transmit();
    }

    /// Waits for the end of a response.
    pub fn answer(&mut self, id: StreamId) -> Answer {
        self.until("a response", |client| client.lost.is_some() || client.answers[&id].is_over());
        assert!(self.answers[&id].is_over(), "the connection ended: {:?}", self.lost);
        self.answers.remove(&id).expect("it was asked for")
    }

    /// The same for a request in early data. The handshake's last flight is held back until the server has answered:
    /// a server that reads it together with the request is right to call the request's data early no longer.
    pub fn early_answer(&mut self, id: StreamId) -> Answer {
        self.write();
        self.transmit();
        self.is_held = true;
        let answer = self.answer(id);
        self.is_held = false;
        answer
    }

    /// Waits for the end of the connection; the code of the server's CONNECTION_CLOSE, of HTTP/3 or of QUIC.
    pub fn closed(&mut self) -> u64 {
        self.until("the end of the connection", |client| client.lost.is_some());
        match self.lost.clone() {
            Some(ConnectionError::ApplicationClosed(close)) => close.error_code.into_inner(),
            Some(ConnectionError::ConnectionClosed(close)) => close.error_code.into(),
            other => panic!("the connection ended otherwise: {other:?}"),
        }
    }

    /// The identifiers of GOAWAY frames so far.
    pub fn goaways(&self) -> Vec<u64> {
        use pronghorn::proto::h3::frame::{Frames, Next};
        let mut found = Vec::new();
        for bytes in self.uni.values().filter(|bytes| bytes.first() == Some(&0)) {
            let (mut rest, mut frames) = (&bytes[1..], Frames::default());
            loop {
                match frames.next(&mut rest) {
                    Next::Begins { .. } => {}
                    Next::Payload { kind, count, .. } => {
                        if kind == 7 {
                            let number = pronghorn::proto::h3::integer::read(&rest[..count]);
                            found.extend(number.map(|(number, _)| number));
                        }
                        rest = &rest[count..];
                    }
                    Next::More => break,
                }
            }
        }
        found
    }

    /// Moves the client to another port, as a router might.
    pub fn rebind(&mut self) {
        self.socket = socket();
        self.connection.local_address_changed();
        self.connection.ping();
        self.transmit();
    }

    /// Goes on until something is true.
    pub fn until(&mut self, what: &str, mut is_true: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + deadline();
        while !is_true(self) {
            assert!(Instant::now() < end, "waited in vain for {what}");
            self.turn();
        }
    }

    /// Goes on for a time, in which nothing is waited for.
    pub fn go_on(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.turn();
        }
    }

    fn turn(&mut self) {
        self.write();
        self.transmit();
        let now = Instant::now();
        let timeout = self.connection.poll_timeout().map(|timeout| timeout.saturating_duration_since(now));
        let wait = timeout.unwrap_or(deadline()).clamp(Duration::from_millis(1), Duration::from_millis(20));
        let mut ready = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        let wait = PollTimeout::try_from(wait).expect("a short wait");
        let _ = nix::poll::poll(&mut ready, wait);
        let mut receiver = self.receiver.take().expect("it is given back");
        while let Ok(count @ 1..) = receiver.receive(self.socket.as_fd(), MESSAGES_MAX) {
            for message in (0..count).map(|index| receiver.message(index)) {
                let Some(from) = message.from else { continue };
                message.datagrams().for_each(|bytes| self.receive(from, message.mark, bytes));
            }
        }
        self.receiver = Some(receiver);
        let now = Instant::now();
        if self.connection.poll_timeout().is_some_and(|timeout| timeout <= now) {
            self.connection.handle_timeout(now);
        }
        self.events();
        self.transmit();
    }

    fn receive(&mut self, from: SocketAddr, mark: u8, bytes: &[u8]) {
        self.marks.push(mark);
        let mut answer = Vec::new();
        let (mark, data) = (EcnCodepoint::from_bits(mark), BytesMut::from(bytes));
        match self.endpoint.handle(Instant::now(), from, None, mark, data, &mut answer) {
            Some(DatagramEvent::ConnectionEvent(handle, event)) if handle == self.handle => {
                self.connection.handle_event(event);
                self.events(); // a stateless reset behind a close would hide it
            }
            Some(DatagramEvent::Response(transmit)) => {
                let _ = self.socket.send_to(&answer[..transmit.size], transmit.destination);
            }
            _ => {}
        }
    }

    fn transmit(&mut self) {
        if self.is_held {
            return;
        }
        while let Some(event) = self.connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(self.handle, event) {
                self.connection.handle_event(event);
            }
        }
        let mut buffer = Vec::new();
        while let Some(transmit) = self.connection.poll_transmit(Instant::now(), 1, &mut buffer) {
            self.sent_mark = transmit.ecn.map_or(0, |mark| mark as u8);
            let mut outbox = Outbox::default();
            let route = Some((transmit.destination, None));
            outbox.push_marked(&buffer[..transmit.size], route, self.sent_mark);
            let _ = outbox.send(self.socket.as_fd(), &mut 0);
            buffer.clear();
        }
    }

    fn write(&mut self) {
        for _ in 0..self.unsent.len() {
            let Some((id, mut bytes, ends)) = self.unsent.pop_front() else { return };
            let mut stream = self.connection.send_stream(id);
            let mut is_open = true;
            while !bytes.is_empty() {
                match stream.write(&bytes) {
                    Ok(count) => drop(bytes.drain(..count)),
                    Err(quinn_proto::WriteError::Blocked) => break,
                    Err(_) => {
                        is_open = false;
                        break;
                    }
                }
            }
            match bytes.is_empty() {
                true if ends => drop(stream.finish()),
                true => {}
                false if is_open => self.unsent.push_back((id, bytes, ends)),
                false => {}
            }
        }
    }

    fn events(&mut self) {
        while let Some(event) = self.connection.poll() {
            match event {
                Event::Connected => self.is_connected = true,
                Event::ConnectionLost { reason } => _ = self.lost.get_or_insert(reason),
                Event::Stream(StreamEvent::Opened { dir: Dir::Uni }) => {
                    while let Some(id) = self.connection.streams().accept(Dir::Uni) {
                        self.uni.insert(id, Vec::new());
                        self.read(id);
                    }
                }
                Event::Stream(StreamEvent::Readable { id }) => self.read(id),
                Event::Stream(StreamEvent::Stopped { id, error_code }) => {
                    if let Some(answer) = self.answers.get_mut(&id) {
                        answer.stopped = Some(error_code.into_inner());
                    }
                }
                _ => {}
            }
        }
    }

    fn read(&mut self, id: StreamId) {
        let mut stream = self.connection.recv_stream(id);
        let Ok(mut chunks) = stream.read(true) else { return };
        loop {
            match chunks.next(usize::MAX) {
                Ok(Some(chunk)) => match self.uni.get_mut(&id) {
                    Some(bytes) => bytes.extend_from_slice(&chunk.bytes),
                    None => take(&mut self.parsers, &mut self.answers, id, &chunk.bytes),
                },
                Ok(None) => {
                    self.answers.entry(id).and_modify(|answer| answer.is_whole = true);
                    break;
                }
                Err(ReadError::Reset(code)) => {
                    self.answers.entry(id).and_modify(|answer| answer.reset = Some(code.into_inner()));
                    break;
                }
                Err(ReadError::Blocked) => break,
            }
        }
        let _ = chunks.finalize();
    }
}

/// Adds bytes of a response.
fn take(
    parsers: &mut BTreeMap<StreamId, Stream>,
    answers: &mut BTreeMap<StreamId, Answer>,
    id: StreamId,
    mut bytes: &[u8],
) {
    let (Some(parser), Some(answer)) = (parsers.get_mut(&id), answers.get_mut(&id)) else { return };
    while let Some(piece) = parser.next(&mut bytes, 1 << 20).expect("frames") {
        match piece {
            Piece::Data(count) => {
                let (data, rest) = bytes.split_at(count);
                answer.body.extend_from_slice(data);
                bytes = rest;
            }
            Piece::Oversized => panic!("a section of a megabyte"),
            Piece::Head(section) | Piece::Trailers(section) => {
                let mut fields = Fields::default();
                Decoder::default().decode(0, &section, &mut fields).expect("a section");
                let status = fields.0.iter().position(|(name, _)| name == ":status");
                match status.map(|at| fields.0.remove(at).1.parse().expect("a number")) {
                    Some(status @ 100..200) => {
                        answer.interim.push(status);
                        *parser = Stream::default(); // the head is still to come
                    }
                    Some(status) => (answer.status, answer.fields) = (status, fields.0),
                    None => answer.trailers = fields.0,
                }
            }
        }
    }
}
