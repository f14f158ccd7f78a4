//! The server's side of HTTP/2 as a script: it reads requests frame by frame and writes whatever frames a test wants.

use std::collections::HashMap;

use loona_hpack::Decoder;

use super::h2::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, block, frame,
};
use super::wire::Wire;

/// A request of which the head has come.
#[derive(Clone, Debug, Default)]
pub struct Call {
    pub stream: u32,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Nothing follows.
    pub has_ended: bool,
    pub reset: Option<u32>,
}

impl Call {
    /// The value of a field; empty if it is absent.
    pub fn field(&self, name: &str) -> &str {
        let found = self.fields.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value)
    }

    pub fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|(known, _)| known == name)
    }

    pub fn path(&self) -> &str {
        self.field(":path")
    }
}

/// A connection that the daemon has opened.
pub struct H2Server<'a> {
    wire: &'a mut Wire,
    decoder: Decoder<'static>,
    pub calls: HashMap<u32, Call>,
    block: Vec<u8>,
    /// Streams whose heads have come and that [`H2Server::request`] has not returned.
    new: Vec<u32>,
    /// Room for data that the daemon has given: on the connection, and on streams.
    pub windows: HashMap<u32, i64>,
    /// The initial window of a stream.
    pub initial_window: i64,
    /// Gives the daemon room for all data that comes.
    pub is_generous: bool,
    /// PINGs are answered.
    pub answers_pings: bool,
    pub frames: Vec<Frame>,
}

impl<'a> H2Server<'a> {
    /// Reads the preface and sends SETTINGS with these parameters. `None`: the connection ended before.
    pub fn begin(wire: &'a mut Wire, settings: &[(u16, u32)]) -> Option<Self> {
        let preface = wire.try_exactly(24)?;
        assert_eq!(preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(number, value)| [&number.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        wire.send(frame(SETTINGS, 0, 0, &payload));
        Some(Self {
            wire,
            decoder: Decoder::new(),
            calls: HashMap::new(),
            block: Vec::new(),
            new: Vec::new(),
            windows: HashMap::from([(0, 65_535)]),
            initial_window: 65_535,
            is_generous: true,
            answers_pings: true,
            frames: Vec::new(),
        })
    }

    /// The next frame; `None` at the end of the connection.
    pub fn read(&mut self) -> Option<Frame> {
        let head = self.wire.try_exactly(9)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes(head[5..9].try_into().unwrap());
        let payload = self.wire.try_exactly(length)?;
        let frame = Frame { kind: head[3], flags: head[4], stream, payload };
        self.take(&frame);
        self.frames.push(frame.clone());
        Some(frame)
    }

    fn take(&mut self, frame: &Frame) {
        let word = || u32::from_be_bytes(frame.payload[..4].try_into().unwrap());
        match frame.kind {
            SETTINGS if frame.flags & ACK == 0 => {
                for entry in frame.payload.chunks(6) {
                    if entry[..2] == [0, 4] {
                        self.initial_window = i64::from(u32::from_be_bytes(entry[2..].try_into().unwrap()));
                    }
                }
                self.try_send(SETTINGS, ACK, 0, b"");
            }
            PING if frame.flags & ACK == 0 && self.answers_pings => {
                self.try_send(PING, ACK, 0, &frame.payload);
            }
            HEADERS | CONTINUATION => {
                self.block.extend_from_slice(&frame.payload);
                if frame.kind == HEADERS {
                    let call = self.calls.entry(frame.stream).or_default();
                    call.stream = frame.stream;
                    call.has_ended |= frame.flags & END_STREAM != 0;
                    self.windows.insert(frame.stream, self.initial_window);
                }
                if frame.flags & END_HEADERS != 0 {
                    let block = std::mem::take(&mut self.block);
                    let fields = self.decoder.decode(&block).expect("a header block");
                    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
                    let fields = fields.into_iter().map(|(name, value)| (text(name), text(value)));
                    self.calls.get_mut(&frame.stream).expect("HEADERS before").fields.extend(fields);
                    self.new.push(frame.stream);
                }
            }
            DATA => {
                let call = self.calls.get_mut(&frame.stream).expect("HEADERS before DATA");
                assert!(!call.has_ended, "DATA behind END_STREAM");
                call.body.extend_from_slice(&frame.payload);
                call.has_ended |= frame.flags & END_STREAM != 0;
                if self.is_generous && !frame.payload.is_empty() {
                    let room = (frame.payload.len() as u32).to_be_bytes();
                    self.try_send(WINDOW_UPDATE, 0, 0, &room);
                    self.try_send(WINDOW_UPDATE, 0, frame.stream, &room);
                }
            }
            RST_STREAM => {
                self.calls.get_mut(&frame.stream).expect("HEADERS before RST_STREAM").reset = Some(word())
            }
            WINDOW_UPDATE => *self.windows.entry(frame.stream).or_default() += i64::from(word()),
            _ => {}
        }
    }

    /// Reads until the next request has begun; `None` at the end of the connection.
    pub fn request(&mut self) -> Option<Call> {
        while self.new.is_empty() {
            self.read()?;
        }
        let stream = self.new.remove(0);
        Some(self.calls[&stream].clone())
    }

    /// Reads until the next request is complete.
    pub fn whole_request(&mut self) -> Option<Call> {
        let stream = self.request()?.stream;
        while !self.calls[&stream].has_ended && self.calls[&stream].reset.is_none() {
            self.read()?;
        }
        Some(self.calls[&stream].clone())
    }

    /// Reads until `done`; false: the connection ended before.
    pub fn read_until(&mut self, mut done: impl FnMut(&Self) -> bool) -> bool {
        while !done(self) {
            if self.read().is_none() {
                return false;
            }
        }
        true
    }

    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> &mut Self {
        self.try_send(kind, flags, stream, payload);
        self
    }

    /// False: the connection has ended.
    pub fn try_send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        self.wire.try_send(&frame(kind, flags, stream, payload)).is_ok()
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        let _ = self.wire.try_send(bytes);
    }

    /// Sends a head, or trailers.
    pub fn head(&mut self, stream: u32, fields: &[(&str, &str)], flags: u8) -> &mut Self {
        self.send(HEADERS, END_HEADERS | flags, stream, &block(fields))
    }

    /// Sends a whole response.
    pub fn answer(&mut self, stream: u32, fields: &[(&str, &str)], body: &[u8], trailers: &[(&str, &str)]) {
        let all = [&[(":status", "200")], fields].concat();
        self.head(stream, &all, 0);
        let parts: Vec<&[u8]> = body.chunks(16_384).collect();
        for (index, part) in parts.iter().enumerate() {
            while self.windows[&0] < part.len() as i64 || self.windows[&stream] < part.len() as i64 {
                if self.read().is_none() || self.calls[&stream].reset.is_some() {
                    return;
                }
            }
            let is_last = trailers.is_empty() && index + 1 == parts.len();
            self.data(stream, part, if is_last { END_STREAM } else { 0 });
        }
        if !trailers.is_empty() {
            self.head(stream, trailers, END_STREAM);
        } else if body.is_empty() {
            self.data(stream, b"", END_STREAM);
        }
    }

    pub fn data(&mut self, stream: u32, payload: &[u8], flags: u8) -> &mut Self {
        for window in [0, stream] {
            *self.windows.entry(window).or_default() -= payload.len() as i64;
        }
        self.send(DATA, flags, stream, payload)
    }

    pub fn reset(&mut self, stream: u32, code: u32) -> &mut Self {
        self.send(RST_STREAM, 0, stream, &code.to_be_bytes())
    }

    pub fn go_away(&mut self, last: u32, code: u32) -> &mut Self {
        self.send(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat())
    }
}
