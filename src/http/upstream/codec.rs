//! The protocols to upstreams: requests into bytes, and answers out of them. No socket, no clock.
//!
//! An [`Encoder`] belongs to a request, whose bytes are the same for each peer that is tried. A [`Decoder`] belongs to
//! one exchange with one peer. Both are enums with a variant for each protocol, so that a protocol is one file with its
//! encoder, its decoder and their tests, and its table of directives (`conf.rs`). What differs is asked here as a
//! question that every protocol can answer: is this body framed, may the connection be kept, how many bytes are raw.
//! What goes over several streams of one connection (gRPC, HTTP/2) is another [`super::carrier::Carrier`] instead.
//! Touches: nothing.

use std::ops::Range;

use smallvec::SmallVec;

use crate::http::config::location::Location;
use crate::http::request::Request;
use crate::http::request::error::{Error, Kind};
use crate::http::upstream::h1;
use crate::http::upstream::target::Goal;
use crate::proto::head::ResponseHead;
use crate::proto::message::{BodyLength, Method};
use crate::runtime::buffer::Buffer;

/// The pieces of a body inside one buffer.
pub type Pieces = SmallVec<[Range<usize>; 4]>;

/// Room that a frame's head may need in front of its payload.
pub const FRAME_HEAD_BYTES: usize = 10;

/// What a request says of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(u64),
    /// Its length is not known: it goes out piece by piece, each in a frame, and says where it ends.
    Framed,
}

/// What was found in the bytes of a response so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    Partial,
    /// The head of an interim response (1xx), of this many bytes. Another one follows.
    Interim(usize),
    /// The head of the answer, of this many bytes.
    Complete(usize),
}

/// Makes the bytes of a request.
///
/// The head first, then the body: as it is where its length is told, else in frames ([`Encoder::frame`],
/// [`Encoder::seal`]) and [`Encoder::finish`] behind the last one.
#[derive(Clone, Copy, Debug)]
pub enum Encoder {
    H1(h1::Encoder),
}

impl Encoder {
    /// That of the protocol which the location's requests are passed on with.
    pub fn of(location: &Location) -> Self {
        Self::H1(h1::Encoder::of(location))
    }

    /// A body that is announced like this goes out in frames.
    pub fn is_framed(self, framing: Framing) -> bool {
        match self {
            Self::H1(_) => framing == Framing::Framed,
        }
    }

    /// A body can be sent whose length is not known.
    pub fn has_frames(self) -> bool {
        match self {
            Self::H1(encoder) => encoder.has_frames(),
        }
    }

    /// Appends the head. Errors: 500 where a configured value has become something that cannot be sent.
    pub fn head(
        self,
        request: &mut Request,
        goal: &Goal,
        framing: Framing,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        match self {
            Self::H1(encoder) => encoder.head(request, goal, framing, out),
        }
    }

    /// The longest payload of a frame.
    pub fn frame_bytes_max(self) -> usize {
        match self {
            Self::H1(_) => h1::FRAME_BYTES_MAX,
        }
    }

    /// Appends one frame with this payload, which must not be empty. Returns the payload's place.
    pub fn frame(self, payload: &[u8], out: &mut Vec<u8>) -> Range<usize> {
        match self {
            Self::H1(_) => h1::frame(payload, out),
        }
    }

    /// Makes a frame of what `bytes` have behind their first [`FRAME_HEAD_BYTES`], which must not be nothing. Returns
    /// where the frame begins.
    pub fn seal(self, bytes: &mut Vec<u8>) -> usize {
        match self {
            Self::H1(_) => h1::seal(bytes),
        }
    }

    /// Appends the end of a framed body.
    pub fn finish(self, out: &mut Vec<u8>) {
        match self {
            Self::H1(_) => h1::finish(out),
        }
    }
}

/// Reads the bytes of one answer.
///
/// [`Decoder::head`] until a head is complete, then [`Decoder::begin_body`] once and [`Decoder::body`] with whatever
/// comes, until [`Decoder::is_done`]. Bytes may be passed by untouched while some are raw: [`Decoder::raw_left`] and
/// [`Decoder::moved`]. Errors are final, and the connection is then not kept.
#[derive(Debug)]
pub enum Decoder {
    H1(h1::Decoder),
}

impl Decoder {
    /// For the answer to a request of this encoder.
    #[inline]
    pub fn new(encoder: Encoder) -> Self {
        match encoder {
            Encoder::H1(encoder) => Self::H1(h1::Decoder::new(encoder)),
        }
    }

    /// Looks for a head at the beginning of the buffer, of at most `bytes_max`. A protocol that sends heads in records
    /// takes these out of the buffer: `head` has ranges of its bytes, which must lie behind one another. After an interim
    /// head its bytes must be gone from the buffer before the next call.
    #[inline]
    pub fn head(
        &mut self,
        buffer: &mut Buffer,
        bytes_max: usize,
        head: &mut ResponseHead,
    ) -> Result<Progress, Kind> {
        match self {
            Self::H1(decoder) => decoder.head(buffer.data(), bytes_max, head),
        }
    }

    /// Decides how the body behind a complete head ends. `method`: the request's.
    ///
    /// Errors: framing that two recipients could read differently.
    #[inline]
    pub fn begin_body(
        &mut self,
        head: &ResponseHead,
        data: &[u8],
        method: Method,
    ) -> Result<BodyLength, Kind> {
        match self {
            Self::H1(decoder) => decoder.begin_body(head, data, method),
        }
    }

    /// Finds the body's pieces in `data`. Returns how many bytes of it belong to the body and its framing; the next call
    /// begins with the others. Trailers behind the body are left in `trailers`, each line ended by CRLF.
    #[inline]
    pub fn body(&mut self, data: &[u8], pieces: &mut Pieces, trailers: &mut Vec<u8>) -> Result<usize, Kind> {
        match self {
            Self::H1(decoder) => decoder.body(data, pieces, trailers),
        }
    }

    /// Nothing more belongs to this answer.
    #[inline]
    pub fn is_done(&self) -> bool {
        match self {
            Self::H1(decoder) => decoder.is_done(),
        }
    }

    /// The body comes in frames: finding its pieces takes work that no I/O tells of.
    pub fn is_framed(&self) -> bool {
        match self {
            Self::H1(decoder) => decoder.is_framed(),
        }
    }

    /// How many bytes are the body's and nothing else's; `None`: that is not known.
    pub fn raw_left(&self) -> Option<u64> {
        match self {
            Self::H1(decoder) => decoder.raw_left(),
        }
    }

    /// So many raw bytes have gone past this decoder.
    pub fn moved(&mut self, count: u64) {
        match self {
            Self::H1(decoder) => decoder.moved(count),
        }
    }

    /// The peer has closed its side. Errors: it should not have yet.
    pub fn closed(&mut self) -> Result<(), Kind> {
        match self {
            Self::H1(decoder) => decoder.closed(),
        }
    }

    /// The connection may carry another request once this answer is done.
    #[inline]
    pub fn may_keep(&self) -> bool {
        match self {
            Self::H1(decoder) => decoder.may_keep(),
        }
    }
}
