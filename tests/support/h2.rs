//! A client of HTTP/2 that writes frames as bytes and reads those that come.

use std::collections::HashMap;

use super::wire::{End, Wire};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// A frame as received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The error code of RST_STREAM or GOAWAY.
    pub fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// Writes a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header block of literals without Huffman code and without indexing.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    let text = |out: &mut Vec<u8>, text: &str| {
        match text.len() {
            length @ 0..=126 => out.push(length as u8),
            length => {
                out.push(127);
                let mut rest = length - 127;
                while rest >= 128 {
                    out.push(rest as u8 | 128);
                    rest >>= 7;
                }
                out.push(rest as u8);
            }
        }
        out.extend_from_slice(text.as_bytes());
    };
    for (name, value) in fields {
        out.push(0);
        text(&mut out, name);
        text(&mut out, value);
    }
    out
}

pub fn request(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let head = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "localhost")];
    block(&[&head[..], more].concat())
}

/// What a stream was answered with.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The status in the first final head.
    pub status: u16,
    pub blocks: Vec<Vec<u8>>,
    pub body: Vec<u8>,
    pub is_complete: bool,
    /// The code of RST_STREAM.
    pub reset: Option<u32>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A connection after the preface.
pub struct H2 {
    pub wire: Wire,
    pub answers: HashMap<u32, Answer>,
    /// GOAWAY frames: the last stream and the code.
    pub goodbyes: Vec<(u32, u32)>,
    pub frames: Vec<Frame>,
    next: u32,
    /// It gives room for all data at once.
    is_greedy: bool,
}

impl H2 {
    pub fn connect(port: u16) -> Self {
        Self::with_settings(port, &[0, 4, 0x7f, 0, 0, 0])
    }

    /// The same, unless the connection is refused or ends at once.
    pub fn try_connect(port: u16) -> Option<Self> {
        let mut wire = super::Client::try_connect(port).ok()?.into_wire();
        let settings = frame(SETTINGS, 0, 0, &[0, 4, 0x7f, 0, 0, 0]);
        let window = frame(WINDOW_UPDATE, 0, 0, &0x7000_0000u32.to_be_bytes());
        wire.try_send(&[&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &settings, &window].concat()).ok()?;
        let (answers, goodbyes, frames) = Default::default();
        Some(Self { wire, answers, goodbyes, frames, next: 1, is_greedy: true })
    }

    /// With these SETTINGS; windows are as given there, and grow only by what a test sends.
    pub fn with_settings(port: u16, settings: &[u8]) -> Self {
        let mut wire = super::Client::connect(port).into_wire();
        wire.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").send(frame(SETTINGS, 0, 0, settings));
        let is_greedy = settings.starts_with(&[0, 4, 0x7f]);
        if is_greedy {
            wire.send(frame(WINDOW_UPDATE, 0, 0, &0x7000_0000u32.to_be_bytes()));
        }
        let (answers, goodbyes, frames) = Default::default();
        Self { wire, answers, goodbyes, frames, next: 1, is_greedy }
    }

    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> &mut Self {
        self.wire.send(frame(kind, flags, stream, payload));
        self
    }

    /// Begins a request without a body; returns its stream.
    pub fn get(&mut self, path: &str, more: &[(&str, &str)]) -> u32 {
        self.open("GET", path, more, END_STREAM)
    }

    /// Begins a request; `flags` besides END_HEADERS.
    pub fn open(&mut self, method: &str, path: &str, more: &[(&str, &str)], flags: u8) -> u32 {
        let stream = self.next;
        self.next += 2;
        self.send(HEADERS, END_HEADERS | flags, stream, &request(method, path, more));
        stream
    }

    /// The next frame; `None` at the end. Acknowledges SETTINGS and notes what comes for streams.
    pub fn read(&mut self) -> Option<Frame> {
        let head = self.wire.try_exactly(9)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes(head[5..9].try_into().unwrap());
        let payload = self.wire.try_exactly(length)?;
        let frame = Frame { kind: head[3], flags: head[4], stream, payload };
        match frame.kind {
            SETTINGS if frame.flags & ACK == 0 => {
                drop(self.wire.try_send(&super::h2::frame(SETTINGS, ACK, 0, b"")))
            }
            GOAWAY => {
                let last = u32::from_be_bytes(frame.payload[..4].try_into().unwrap());
                self.goodbyes.push((last, frame.code()));
            }
            HEADERS | DATA | RST_STREAM | CONTINUATION => {
                let answer = self.answers.entry(stream).or_default();
                match frame.kind {
                    HEADERS | CONTINUATION => {
                        let status = status_of(&frame.payload);
                        if answer.status < 200 && frame.kind == HEADERS {
                            answer.status = status;
                        }
                        answer.blocks.push(frame.payload.clone());
                    }
                    DATA => answer.body.extend_from_slice(&frame.payload),
                    _ => answer.reset = Some(frame.code()),
                }
                answer.is_complete |= frame.kind != RST_STREAM && frame.flags & END_STREAM != 0;
            }
            _ => {}
        }
        self.frames.push(frame.clone());
        Some(frame)
    }

    /// Reads until `done`; fails at the end of the connection.
    pub fn read_until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        while !done(self) {
            assert!(self.read().is_some(), "the connection ends before {what}");
        }
    }

    /// The answer of a stream, once it has ended.
    pub fn answer(&mut self, stream: u32) -> Answer {
        self.read_until("an answer", |h2| {
            h2.answers.get(&stream).is_some_and(|answer| answer.is_complete || answer.reset.is_some())
        });
        self.answers[&stream].clone()
    }

    /// Reads to the end of the connection.
    pub fn drain(&mut self) {
        while self.read().is_some() {}
    }

    /// Waits until everything that was sent has been handled.
    pub fn sync(&mut self) {
        self.send(PING, 0, 0, b"sync sync");
    }
}

/// The status at the front of a header block.
fn status_of(block: &[u8]) -> u16 {
    match block {
        [first @ 0x88..=0x8e, ..] => [200, 204, 206, 304, 400, 404, 500][usize::from(first - 0x88)],
        [0x08, length, text @ ..] if length & 128 == 0 => {
            std::str::from_utf8(&text[..usize::from(*length)]).unwrap().parse().unwrap()
        }
        [0x08, length, text @ ..] => digits(&text[..usize::from(length & 127)]),
        _ => 0,
    }
}

/// Three digits in Huffman code (RFC 7541, appendix B).
fn digits(code: &[u8]) -> u16 {
    let bits: String = code.iter().map(|byte| format!("{byte:08b}")).collect();
    let (mut number, mut at) = (0, 0);
    for _ in 0..3 {
        let (digit, length) = match &bits[at..] {
            rest if rest.starts_with("00000") => (0, 5),
            rest if rest.starts_with("00001") => (1, 5),
            rest if rest.starts_with("00010") => (2, 5),
            rest => (u16::from_str_radix(&rest[..6], 2).unwrap() - 0b011001 + 3, 6),
        };
        number = number * 10 + digit;
        at += length;
    }
    number
}

/// The fields of a header block that refers to no dynamic table, as `name: value`.
pub fn fields(block: &[u8]) -> Vec<String> {
    let decoded = loona_hpack::Decoder::new().decode(block).expect("a header block");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    decoded.iter().map(|(name, value)| format!("{}: {}", text(name), text(value))).collect()
}
