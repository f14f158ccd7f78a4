//! The stream of a request: a head, data, and perhaps trailers.
//!
//! Touches: nothing. RFC 9114 §4.1. What the field sections mean is up to `proto/h2/request.rs`, whose rules are the same.

use crate::proto::h2::request::{Builder, Stop, Unread};
use crate::proto::h3::frame::{Code, Fault, Frames, Next, is_forbidden, kind};
use crate::proto::h3::qpack;

/// A part of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// The field section of the head.
    Head(Vec<u8>),
    /// The next bytes of the input, so many of them, are data. The caller removes them.
    Data(usize),
    /// The field section of the trailers.
    Trailers(Vec<u8>),
    /// A section that is longer than any may be; it was skipped.
    Oversized,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Head,
    Body,
    /// The trailers have come: nothing may follow.
    Over,
}

/// One direction of a request's stream, as far as it has arrived.
#[derive(Debug, Default)]
pub struct Stream {
    frames: Frames,
    state: State,
    section: Vec<u8>,
    is_oversized: bool,
}

const UNEXPECTED: Fault = Fault::new(Code::FRAME_UNEXPECTED, "a frame that is not allowed there");

impl Stream {
    /// Reads on. `section_bytes_max`: the longest field section. `None`: more bytes are needed.
    ///
    /// Errors end the connection.
    pub fn next(&mut self, input: &mut &[u8], section_bytes_max: usize) -> Result<Option<Piece>, Fault> {
        loop {
            match self.frames.next(input) {
                Next::More => return Ok(None),
                Next::Begins { kind, length } => {
                    self.check(kind)?;
                    if kind == kind::HEADERS {
                        self.is_oversized = length > section_bytes_max as u64;
                        self.section.clear();
                        if length == 0 {
                            return Ok(Some(self.section_piece()));
                        }
                    }
                }
                Next::Payload { kind: kind::DATA, count, .. } => return Ok(Some(Piece::Data(count))),
                Next::Payload { kind, count, ends } => {
                    let (payload, rest) = input.split_at(count);
                    *input = rest;
                    if kind == kind::HEADERS {
                        if !self.is_oversized {
                            self.section.extend_from_slice(payload);
                        }
                        if ends {
                            return Ok(Some(self.section_piece()));
                        }
                    }
                }
            }
        }
    }

    /// The type of a frame decides whether it may come now.
    fn check(&self, kind: u64) -> Result<(), Fault> {
        match (kind, self.state) {
            (kind::HEADERS, State::Head | State::Body) | (kind::DATA, State::Body) => Ok(()),
            (
                kind::HEADERS
                | kind::DATA
                | kind::CANCEL_PUSH
                | kind::SETTINGS
                | kind::PUSH_PROMISE
                | kind::GOAWAY
                | kind::MAX_PUSH_ID,
                _,
            ) => Err(UNEXPECTED),
            (kind, _) if is_forbidden(kind) => Err(UNEXPECTED),
            _ => Ok(()),
        }
    }

    fn section_piece(&mut self) -> Piece {
        let section = std::mem::take(&mut self.section);
        if std::mem::take(&mut self.is_oversized) {
            self.state = if self.state == State::Head { State::Body } else { State::Over };
            return Piece::Oversized;
        }
        match self.state {
            State::Head => {
                self.state = State::Body;
                Piece::Head(section)
            }
            State::Body | State::Over => {
                self.state = State::Over;
                Piece::Trailers(section)
            }
        }
    }

    /// True if the head has arrived.
    pub fn has_head(&self) -> bool {
        self.state != State::Head
    }

    /// The stream has ended. Errors: in the middle of a frame.
    pub fn end(&self) -> Result<(), Fault> {
        match self.frames.is_between() {
            true => Ok(()),
            false => Err(Fault::new(Code::FRAME_ERROR, "an incomplete frame")),
        }
    }
}

impl qpack::Sink for Builder<'_> {
    type Stop = Stop;

    fn field(&mut self, name: &[u8], value: &[u8]) -> Result<(), Stop> {
        crate::proto::h2::hpack::Sink::field(self, name, value)
    }
}

impl qpack::Sink for Unread {
    type Stop = Stop;

    fn field(&mut self, name: &[u8], value: &[u8]) -> Result<(), Stop> {
        crate::proto::h2::hpack::Sink::field(self, name, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pieces of a stream that arrives in pieces of this size; data is joined.
    fn pieces(bytes: &[u8], step: usize) -> Result<Vec<(u8, Vec<u8>)>, Code> {
        let (mut stream, mut found) = (Stream::default(), Vec::<(u8, Vec<u8>)>::new());
        for mut input in bytes.chunks(step) {
            while let Some(piece) = stream.next(&mut input, 100).map_err(|fault| fault.code)? {
                match piece {
                    Piece::Head(section) => found.push((b'H', section)),
                    Piece::Trailers(section) => found.push((b'T', section)),
                    Piece::Oversized => found.push((b'O', Vec::new())),
                    Piece::Data(count) => {
                        let (data, rest) = input.split_at(count);
                        match found.last_mut() {
                            Some((b'D', joined)) => joined.extend_from_slice(data),
                            _ => found.push((b'D', data.to_vec())),
                        }
                        input = rest;
                    }
                }
            }
        }
        stream.end().map_err(|fault| fault.code)?;
        Ok(found)
    }

    #[test]
    fn a_request_is_the_same_however_it_is_cut() {
        let bytes = [
            0x21, 1, 9, 1, 2, b'a', b'b', 0, 1, b'x', 0x40, 0x42, 0, 0, 0, 0, 2, b'y', b'z', 1, 1, b't',
            0x21, 0,
        ];
        let expected = vec![(b'H', b"ab".to_vec()), (b'D', b"xyz".to_vec()), (b'T', b"t".to_vec())];
        for step in 1..=bytes.len() {
            assert_eq!(pieces(&bytes, step), Ok(expected.clone()), "{step}");
        }
        assert_eq!(pieces(&[1, 0], 1), Ok(vec![(b'H', vec![])]));
        let long = [&[1, 0x40, 101][..], &[7; 101], &[0, 1, b'x', 1, 0x40, 101], &[7; 101]].concat();
        let expected = vec![(b'O', vec![]), (b'D', b"x".to_vec()), (b'O', vec![])];
        assert_eq!((pieces(&long, 1), pieces(&long, 300)), (Ok(expected.clone()), Ok(expected)));
    }

    #[test]
    fn broken_rules_have_their_codes() {
        for (bytes, code) in [
            (&[0, 1, b'x'][..], Code::FRAME_UNEXPECTED),
            (&[1, 0, 1, 0, 1, 0], Code::FRAME_UNEXPECTED),
            (&[1, 0, 1, 0, 0, 1, b'x'], Code::FRAME_UNEXPECTED),
            (&[4, 0], Code::FRAME_UNEXPECTED),
            (&[1, 0, 4, 0], Code::FRAME_UNEXPECTED),
            (&[1, 0, 5, 0], Code::FRAME_UNEXPECTED),
            (&[1, 0, 3, 0], Code::FRAME_UNEXPECTED),
            (&[1, 0, 7, 0], Code::FRAME_UNEXPECTED),
            (&[1, 0, 0x0d, 0], Code::FRAME_UNEXPECTED),
            (&[1, 0, 2, 0], Code::FRAME_UNEXPECTED),
            (&[1, 0, 8, 0], Code::FRAME_UNEXPECTED),
            (&[1, 2, 0], Code::FRAME_ERROR),
            (&[1, 0, 0, 2, 0], Code::FRAME_ERROR),
            (&[1, 0, 0x40], Code::FRAME_ERROR),
        ] {
            assert_eq!(pieces(bytes, 1), Err(code), "{bytes:x?}");
            assert_eq!(pieces(bytes, 100), Err(code), "{bytes:x?}");
        }
    }
}
