//! The frames of HTTP/3: types, error codes, and the parser of a stream of frames.
//!
//! Touches: nothing. RFC 9114 §7 and §8.1; RFC 9204 §6.

use std::fmt;

use crate::proto::h3::integer;

/// The types of frames (§7.2).
pub mod kind {
    pub const DATA: u64 = 0;
    pub const HEADERS: u64 = 1;
    pub const CANCEL_PUSH: u64 = 3;
    pub const SETTINGS: u64 = 4;
    pub const PUSH_PROMISE: u64 = 5;
    pub const GOAWAY: u64 = 7;
    pub const MAX_PUSH_ID: u64 = 0xd;
}

/// The types of unidirectional streams (§6.2, RFC 9204 §4.2).
pub mod stream {
    pub const CONTROL: u64 = 0;
    pub const PUSH: u64 = 1;
    pub const ENCODER: u64 = 2;
    pub const DECODER: u64 = 3;
}

/// The parameters of SETTINGS (§7.2.4.1, RFC 9204 §5, RFC 9220 §3).
pub mod setting {
    pub const QPACK_MAX_TABLE_CAPACITY: u64 = 1;
    pub const QPACK_BLOCKED_STREAMS: u64 = 7;
    pub const ENABLE_CONNECT_PROTOCOL: u64 = 8;
}

/// True for the types of HTTP/2 frames that must never be sent (§7.2.8).
pub fn is_forbidden(kind: u64) -> bool {
    matches!(kind, 2 | 6 | 8 | 9)
}

/// An error code of a connection or a stream (§8.1, RFC 9204 §6).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code(pub u64);

impl Code {
    pub const NO_ERROR: Self = Self(0x100);
    pub const GENERAL_PROTOCOL_ERROR: Self = Self(0x101);
    pub const INTERNAL_ERROR: Self = Self(0x102);
    pub const STREAM_CREATION_ERROR: Self = Self(0x103);
    pub const CLOSED_CRITICAL_STREAM: Self = Self(0x104);
    pub const FRAME_UNEXPECTED: Self = Self(0x105);
    pub const FRAME_ERROR: Self = Self(0x106);
    pub const EXCESSIVE_LOAD: Self = Self(0x107);
    pub const ID_ERROR: Self = Self(0x108);
    pub const SETTINGS_ERROR: Self = Self(0x109);
    pub const MISSING_SETTINGS: Self = Self(0x10a);
    pub const REQUEST_REJECTED: Self = Self(0x10b);
    pub const REQUEST_CANCELLED: Self = Self(0x10c);
    pub const REQUEST_INCOMPLETE: Self = Self(0x10d);
    pub const MESSAGE_ERROR: Self = Self(0x10e);
    pub const DECOMPRESSION_FAILED: Self = Self(0x200);
    pub const ENCODER_STREAM_ERROR: Self = Self(0x201);
    pub const DECODER_STREAM_ERROR: Self = Self(0x202);
}

impl fmt::Debug for Code {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:#x}", self.0)
    }
}

/// Why a connection ends: the code for the peer, and the text for the log, which follows `client sent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub code: Code,
    pub text: &'static str,
}

impl Fault {
    pub const fn new(code: Code, text: &'static str) -> Self {
        Self { code, text }
    }
}

/// The most bytes of a frame's head: its type and its length.
pub const HEAD_BYTES_MAX: usize = 2 * integer::BYTES_MAX;

/// Writes a frame's head.
pub fn put_head(kind: u64, length: usize, out: &mut Vec<u8>) {
    integer::put(kind, out);
    integer::put(length as u64, out);
}

/// The frames of one stream, as far as their bytes have arrived.
///
/// Heads may be cut anywhere: the few bytes of a head that is not complete are kept here. Payloads stay with the caller.
#[derive(Debug, Default)]
pub struct Frames {
    head: [u8; HEAD_BYTES_MAX],
    held: u8,
    /// The frame that has begun.
    kind: u64,
    /// Its payload that has not come yet.
    left: u64,
}

/// The next item of a stream of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// A frame begins; its payload has this length.
    Begins { kind: u64, length: u64 },
    /// So many bytes of the input belong to the payload of a frame of this type. `ends`: they are its last ones.
    Payload { kind: u64, count: usize, ends: bool },
    /// More bytes are needed.
    More,
}

impl Frames {
    /// Looks at the next bytes of the stream, and removes those of a head. The caller removes those of a payload.
    pub fn next(&mut self, input: &mut &[u8]) -> Next {
        if self.left > 0 {
            let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(input.len());
            if count == 0 {
                return Next::More;
            }
            self.left -= count as u64;
            return Next::Payload { kind: self.kind, count, ends: self.left == 0 };
        }
        loop {
            let held = &self.head[..usize::from(self.held)];
            if let Some((kind, first)) = integer::read(held)
                && let Some((length, _)) = integer::read(&held[first..])
            {
                (self.kind, self.left, self.held) = (kind, length, 0);
                return Next::Begins { kind, length };
            }
            let Some((byte, rest)) = input.split_first() else { return Next::More };
            self.head[usize::from(self.held)] = *byte; // a head is complete after as many bytes as there is room for
            self.held += 1;
            *input = rest;
        }
    }

    /// True between two frames: a stream may end here.
    pub fn is_between(&self) -> bool {
        self.held == 0 && self.left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The frames of a stream that arrives in pieces of this size: types, declared lengths and payloads.
    fn frames(bytes: &[u8], step: usize) -> (Vec<(u64, u64, Vec<u8>)>, bool) {
        let (mut parser, mut found) = (Frames::default(), Vec::<(u64, u64, Vec<u8>)>::new());
        for mut piece in bytes.chunks(step) {
            loop {
                match parser.next(&mut piece) {
                    Next::Begins { kind, length } => found.push((kind, length, Vec::new())),
                    Next::Payload { kind, count, ends } => {
                        let last = found.last_mut().expect("it has begun");
                        assert_eq!(last.0, kind);
                        last.2.extend_from_slice(&piece[..count]);
                        assert_eq!(ends, last.2.len() as u64 == last.1);
                        piece = &piece[count..];
                    }
                    Next::More => break,
                }
            }
            assert!(piece.is_empty());
        }
        (found, parser.is_between())
    }

    #[test]
    fn frames_are_the_same_however_they_are_cut() {
        let mut bytes = vec![1, 3, b'a', b'b', b'c', 0, 0];
        bytes.extend([0xc0, 0, 0, 0, 0, 0, 0, 0x21, 0x40, 2, b'x', b'y']);
        put_head(kind::DATA, 70, &mut bytes);
        bytes.extend([7; 70]);
        let expected =
            vec![(1, 3, b"abc".to_vec()), (0, 0, vec![]), (0x21, 2, b"xy".to_vec()), (0, 70, vec![7; 70])];
        for step in 1..=bytes.len() {
            assert_eq!(frames(&bytes, step), (expected.clone(), true), "{step}");
        }
        assert!(!frames(&bytes[..bytes.len() - 1], 5).1);
        assert!(!frames(&bytes[..6], 6).1);
    }
}
