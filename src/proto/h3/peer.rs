//! A client's unidirectional streams: settings, frames that are about the connection, and the instructions
//! of field compression.
//!
//! Touches: nothing. RFC 9114 §6.2 and §7.2; RFC 9204 §4.2.

use smallvec::SmallVec;

use crate::proto::h3::frame::{Code, Fault, Frames, Next, is_forbidden, kind, setting, stream};
use crate::proto::h3::{integer, qpack};

/// The longest payload of SETTINGS, and of the frames with one number, that is read.
const PAYLOAD_BYTES_MAX: usize = 1024;

const SECOND_CRITICAL: Fault = Fault::new(Code::STREAM_CREATION_ERROR, "a second stream of one type");
const CLOSED_CRITICAL: Fault =
    Fault::new(Code::CLOSED_CRITICAL_STREAM, "the end of a stream that must stay open");
const UNEXPECTED: Fault =
    Fault::new(Code::FRAME_UNEXPECTED, "a frame on the control stream that is not allowed there");

/// A unidirectional stream, by its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Uni {
    Control,
    Encoder,
    Decoder,
    /// Of a type that is not known: its data is of no interest.
    Other,
    /// The type has not come yet.
    Unknown,
}

/// The result of a stream's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fed {
    Nothing,
    /// The dynamic table has got entries: sections that wait for them may be decoded.
    Inserted,
    /// The rest of the stream is not wanted.
    Unwanted,
}

/// The client's side of a connection, apart from its requests.
#[derive(Debug, Default)]
pub struct Peer {
    streams: SmallVec<[(u64, Uni); 3]>,
    /// The start of a stream's type, or of an instruction for our encoder, whose end has not come yet.
    type_rest: SmallVec<[(u64, Vec<u8>); 1]>,
    instruction_rest: Vec<u8>,
    frames: Frames,
    payload: Vec<u8>,
    has_settings: bool,
    /// The last GOAWAY and MAX_PUSH_ID.
    goaway: Option<u64>,
    push_max: Option<u64>,
    pub decoder: qpack::Decoder,
}

impl Peer {
    /// `field_bytes_max`: see [`qpack::Decoder::new`].
    pub fn new(field_bytes_max: usize) -> Self {
        Self { decoder: qpack::Decoder::new(field_bytes_max), ..Self::default() }
    }

    /// Takes bytes of a unidirectional stream of the client. Errors end the connection.
    pub fn feed(&mut self, id: u64, bytes: &[u8]) -> Result<Fed, Fault> {
        match self.streams.iter().find(|(stream, _)| *stream == id).map(|(_, uni)| *uni) {
            None => {
                self.streams.push((id, Uni::Unknown));
                self.begin(id, bytes)
            }
            Some(Uni::Unknown) => self.begin(id, bytes),
            Some(uni) => self.go_on(uni, bytes),
        }
    }

    /// Reads a stream's type.
    fn begin(&mut self, id: u64, bytes: &[u8]) -> Result<Fed, Fault> {
        let at = self.type_rest.iter().position(|(stream, _)| *stream == id);
        let mut all = at.map(|at| self.type_rest.remove(at).1).unwrap_or_default();
        all.extend_from_slice(bytes);
        let Some((kind, length)) = integer::read(&all) else {
            self.type_rest.push((id, all));
            return Ok(Fed::Nothing);
        };
        let uni = match kind {
            stream::CONTROL => Uni::Control,
            stream::ENCODER => Uni::Encoder,
            stream::DECODER => Uni::Decoder,
            stream::PUSH => return Err(Fault::new(Code::STREAM_CREATION_ERROR, "a push stream")),
            _ => Uni::Other,
        };
        if uni != Uni::Other && self.streams.iter().any(|(_, other)| *other == uni) {
            return Err(SECOND_CRITICAL);
        }
        self.streams.iter_mut().filter(|(stream, _)| *stream == id).for_each(|stream| stream.1 = uni);
        self.go_on(uni, &all[length..])
    }

    fn go_on(&mut self, uni: Uni, bytes: &[u8]) -> Result<Fed, Fault> {
        match uni {
            Uni::Control => self.control(bytes).map(|()| Fed::Nothing),
            Uni::Encoder => match self.decoder.feed(bytes)? {
                true => Ok(Fed::Inserted),
                false => Ok(Fed::Nothing),
            },
            Uni::Decoder => {
                qpack::check_decoder_stream(&mut self.instruction_rest, bytes).map(|()| Fed::Nothing)
            }
            Uni::Other => Ok(Fed::Unwanted),
            Uni::Unknown => Ok(Fed::Nothing),
        }
    }

    /// Notes the end of a stream, whether regular or by a reset.
    pub fn ended(&mut self, id: u64) -> Result<(), Fault> {
        let found = self.streams.iter().position(|(stream, _)| *stream == id);
        let uni = found.map(|at| self.streams.remove(at).1);
        self.type_rest.retain(|(stream, _)| *stream != id);
        match uni {
            Some(Uni::Control | Uni::Encoder | Uni::Decoder) => Err(CLOSED_CRITICAL),
            Some(Uni::Other | Uni::Unknown) | None => Ok(()),
        }
    }

    fn control(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        loop {
            match self.frames.next(&mut bytes) {
                Next::More => return Ok(()),
                Next::Begins { kind, length } => {
                    self.check(kind, length)?;
                    self.payload.clear();
                    if length == 0 {
                        self.whole(kind)?;
                    }
                }
                Next::Payload { kind, count, ends } => {
                    let (payload, rest) = bytes.split_at(count);
                    if is_read(kind) {
                        self.payload.extend_from_slice(payload);
                    }
                    bytes = rest;
                    if ends {
                        self.whole(kind)?;
                    }
                }
            }
        }
    }

    /// Judges a frame by its type.
    fn check(&self, kind: u64, length: u64) -> Result<(), Fault> {
        match kind {
            kind::SETTINGS if self.has_settings => {
                Err(Fault::new(Code::FRAME_UNEXPECTED, "a second SETTINGS frame"))
            }
            kind::SETTINGS => Ok(()),
            _ if !self.has_settings => {
                Err(Fault::new(Code::MISSING_SETTINGS, "another frame before SETTINGS"))
            }
            kind::DATA | kind::HEADERS | kind::PUSH_PROMISE => Err(UNEXPECTED),
            kind if is_forbidden(kind) => Err(UNEXPECTED),
            _ => Ok(()),
        }?;
        if is_read(kind) && length > PAYLOAD_BYTES_MAX as u64 {
            return Err(Fault::new(Code::EXCESSIVE_LOAD, "a very long control frame"));
        }
        Ok(())
    }

    /// A frame is complete.
    fn whole(&mut self, kind: u64) -> Result<(), Fault> {
        match kind {
            kind::SETTINGS => {
                self.has_settings = true;
                check_settings(&self.payload)
            }
            kind::GOAWAY => {
                let id = number(&self.payload)?;
                if self.goaway.is_some_and(|before| id > before) {
                    return Err(Fault::new(Code::ID_ERROR, "GOAWAY with a larger identifier"));
                }
                self.goaway = Some(id);
                Ok(())
            }
            kind::MAX_PUSH_ID => {
                let id = number(&self.payload)?;
                if self.push_max.is_some_and(|before| id < before) {
                    return Err(Fault::new(Code::ID_ERROR, "MAX_PUSH_ID with a smaller identifier"));
                }
                self.push_max = Some(id);
                Ok(())
            }
            kind::CANCEL_PUSH => {
                // We promise nothing, so there is nothing to cancel (§7.2.3).
                number(&self.payload)?;
                Err(Fault::new(Code::ID_ERROR, "CANCEL_PUSH of something that was not promised"))
            }
            _ => Ok(()),
        }
    }
}

/// True for the frames whose payload is looked at.
fn is_read(kind: u64) -> bool {
    matches!(kind, kind::SETTINGS | kind::GOAWAY | kind::MAX_PUSH_ID | kind::CANCEL_PUSH)
}

/// The number that is a frame's whole payload.
fn number(payload: &[u8]) -> Result<u64, Fault> {
    match integer::read(payload) {
        Some((number, length)) if length == payload.len() => Ok(number),
        _ => Err(Fault::new(Code::FRAME_ERROR, "a control frame with incorrect length")),
    }
}

/// Checks SETTINGS (§7.2.4). None of the client's values matters: we push nothing, and our encoder uses no table.
fn check_settings(mut payload: &[u8]) -> Result<(), Fault> {
    let mut seen = SmallVec::<[u64; 8]>::new();
    while !payload.is_empty() {
        let mut next = || -> Option<u64> {
            let (number, length) = integer::read(payload)?;
            payload = &payload[length..];
            Some(number)
        };
        let (Some(name), Some(_)) = (next(), next()) else {
            return Err(Fault::new(Code::FRAME_ERROR, "SETTINGS with incorrect length"));
        };
        // §7.2.4.1: those of HTTP/2 are reserved.
        if matches!(name, 0 | 2..=5) || seen.contains(&name) {
            return Err(Fault::new(Code::SETTINGS_ERROR, "invalid settings"));
        }
        seen.push(name);
    }
    Ok(())
}

/// The start of our control stream: its type and our SETTINGS. `takes_connect`: extended CONNECT is offered.
pub fn put_control_start(takes_connect: bool, out: &mut Vec<u8>) {
    use crate::proto::h3::frame::put_head;

    let mut settings = Vec::new();
    for (name, value) in [
        (setting::QPACK_MAX_TABLE_CAPACITY, qpack::TABLE_BYTES_MAX),
        (setting::QPACK_BLOCKED_STREAMS, qpack::BLOCKED_MAX),
        (setting::ENABLE_CONNECT_PROTOCOL, 1),
    ] {
        if name == setting::ENABLE_CONNECT_PROTOCOL && !takes_connect {
            continue;
        }
        integer::put(name, &mut settings);
        integer::put(value as u64, &mut settings);
    }
    integer::put(stream::CONTROL, out);
    put_head(kind::SETTINGS, settings.len(), out);
    out.extend_from_slice(&settings);
}

/// Writes GOAWAY: requests on streams from this one on are not served (§5.2).
pub fn put_goaway(first_unserved: u64, out: &mut Vec<u8>) {
    use crate::proto::h3::frame::put_head;

    let mut id = Vec::new();
    integer::put(first_unserved, &mut id);
    put_head(kind::GOAWAY, id.len(), out);
    out.extend_from_slice(&id);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The results of a client's streams, each given with the number of its stream, in pieces of this size.
    fn outcome(streams: &[(u64, &[u8])], step: usize) -> Result<Fed, Code> {
        let mut peer = Peer::default();
        let mut last = Ok(Fed::Nothing);
        for (id, bytes) in streams {
            for piece in bytes.chunks(step) {
                last = peer.feed(*id, piece).map_err(|fault| fault.code);
                last?;
            }
        }
        last
    }

    #[test]
    fn good_streams_are_taken_however_they_are_cut() {
        let control =
            [0, 4, 6, 1, 0x40, 100, 7, 0x40, 9, 0x0d, 1, 5, 0x0d, 1, 6, 7, 1, 9, 7, 1, 8, 0x21, 2, 9, 9];
        for step in 1..=control.len() {
            assert_eq!(outcome(&[(2, &control)], step), Ok(Fed::Nothing), "{step}");
        }
        assert_eq!(outcome(&[(2, &[0, 4, 0]), (6, &[2]), (10, &[3])], 9), Ok(Fed::Nothing));
        assert_eq!(outcome(&[(6, &[2, 0x3f, 0xbd, 1, 0xc0, 1, b'a'])], 99), Ok(Fed::Inserted));
        assert_eq!(outcome(&[(6, &[0x40, 0x54, 1, 2, 3])], 1), Ok(Fed::Unwanted));
    }

    #[test]
    fn broken_rules_have_their_codes() {
        type Streams<'a> = &'a [(u64, &'a [u8])];
        let cases: &[(Streams<'_>, Code)] = &[
            (&[(2, &[0, 7, 1, 0])], Code::MISSING_SETTINGS),
            (&[(2, &[0, 0x21, 0])], Code::MISSING_SETTINGS),
            (&[(2, &[0, 4, 0, 4, 0])], Code::FRAME_UNEXPECTED),
            (&[(2, &[0, 4, 0, 0, 1])], Code::FRAME_UNEXPECTED),
            (&[(2, &[0, 4, 0, 1, 1])], Code::FRAME_UNEXPECTED),
            (&[(2, &[0, 4, 0, 5, 1])], Code::FRAME_UNEXPECTED),
            (&[(2, &[0, 4, 0, 6, 1])], Code::FRAME_UNEXPECTED),
            (&[(2, &[0, 4, 1, 1])], Code::FRAME_ERROR),
            (&[(2, &[0, 4, 2, 2, 1])], Code::SETTINGS_ERROR),
            (&[(2, &[0, 4, 4, 1, 1, 1, 2])], Code::SETTINGS_ERROR),
            (&[(2, &[0, 4, 0x50, 0])], Code::EXCESSIVE_LOAD),
            (&[(2, &[0, 4, 0, 7, 1, 4, 7, 1, 5])], Code::ID_ERROR),
            (&[(2, &[0, 4, 0, 0x0d, 1, 4, 0x0d, 1, 3])], Code::ID_ERROR),
            (&[(2, &[0, 4, 0, 3, 1, 0])], Code::ID_ERROR),
            (&[(2, &[0, 4, 0, 7, 2, 0, 0])], Code::FRAME_ERROR),
            (&[(2, &[0, 4, 0, 7, 0])], Code::FRAME_ERROR),
            (&[(2, &[0, 4, 0]), (6, &[0])], Code::STREAM_CREATION_ERROR),
            (&[(2, &[2]), (6, &[2])], Code::STREAM_CREATION_ERROR),
            (&[(2, &[3]), (6, &[3])], Code::STREAM_CREATION_ERROR),
            (&[(2, &[1, 0])], Code::STREAM_CREATION_ERROR),
            (&[(2, &[3, 0x80])], Code::DECODER_STREAM_ERROR),
            (&[(2, &[2, 0xc0, 0, 0])], Code::ENCODER_STREAM_ERROR),
        ];
        for (streams, code) in cases {
            for step in [1, 2, 100] {
                assert_eq!(outcome(streams, step), Err(*code), "{streams:x?}");
            }
        }
    }

    #[test]
    fn only_streams_that_must_stay_open_may_not_end() {
        for (first, is_fault) in [(0, true), (2, true), (3, true), (0x21, false)] {
            let mut peer = Peer::default();
            peer.feed(2, &[first]).expect("a type");
            assert_eq!(peer.ended(2).is_err(), is_fault, "{first}");
            assert_eq!(peer.ended(6), Ok(()));
        }
        let mut peer = Peer::default();
        peer.feed(2, &[0x40]).expect("half a type");
        assert_eq!(peer.ended(2), Ok(()));
        assert!(peer.type_rest.is_empty() && peer.streams.is_empty());
    }

    #[test]
    fn our_own_start_is_what_a_client_may_send() {
        for takes_connect in [false, true] {
            let mut start = Vec::new();
            put_control_start(takes_connect, &mut start);
            assert_eq!(start.ends_with(&[8, 1]), takes_connect);
            put_goaway(400, &mut start);
            assert_eq!(Peer::default().feed(3, &start), Ok(Fed::Nothing));
        }
    }
}
