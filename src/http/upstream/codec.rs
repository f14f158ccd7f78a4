//! The protocols to upstreams: encodes requests and decodes responses. No socket, no clock.
//!
//! An [`Encoder`] belongs to a request, whose bytes are the same for each peer that is tried. A [`Decoder`]
//! belongs to one exchange with one peer. Both are enums with a variant for each protocol, so that a protocol
//! is one file with its encoder, its decoder and their tests, and a table of directives (`conf.rs`).
//! Differences are expressed as questions that every protocol can answer: is this body framed, may the
//! connection be kept, how many bytes are raw. A protocol with several streams on one connection (gRPC,
//! HTTP/2) needs another [`super::carrier::Carrier`] instead. Touches: nothing.

use std::ops::Range;

use smallvec::SmallVec;

use crate::http::config::location::Location;
use crate::http::request::Request;
use crate::http::request::error::{Error, Kind};
use crate::http::upstream::protocol::Protocol;
use crate::http::upstream::target::Goal;
use crate::http::upstream::{cgi, fastcgi, h1, h2, memcached, scgi, uwsgi};
use crate::proto;
use crate::proto::head::ResponseHead;
use crate::proto::message::{BodyLength, Method, Version};
use crate::runtime::buffer::Buffer;

/// The pieces of a body inside one buffer.
pub type Pieces = SmallVec<[Range<usize>; 4]>;

/// Space that the head of a frame may need before its payload.
pub const FRAME_HEAD_BYTES: usize = 10;

/// How a request declares its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(u64),
    /// Of unknown length: sent piece by piece, each in a frame, with an explicit end.
    Framed,
}

/// The result of looking for a head in a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    Partial,
    /// The head of an interim response (1xx), of this many bytes. Another head follows.
    Interim(usize),
    /// The final head, of this many bytes.
    Complete(usize),
}

/// Encodes a request.
///
/// First the head, then the body: unframed if its length is declared, otherwise in frames
/// ([`Encoder::frame`], [`Encoder::seal`]), with [`Encoder::finish`] after the last one.
#[derive(Clone, Copy, Debug)]
pub enum Encoder {
    H1(h1::Encoder),
    /// Its bytes are a header block and data: the stream that carries them makes frames.
    H2(h2::Encoder),
    FastCgi(fastcgi::Encoder),
    Uwsgi,
    Scgi,
    Memcached,
    /// Nothing is said: its bytes are the client's.
    Tunnel,
}

impl Encoder {
    /// The encoder of the protocol that the location uses for upstreams.
    #[inline]
    pub fn of(location: &Location) -> Self {
        match location.protocol {
            Protocol::Http if location.confs.proxy.version() != Version::Http2 => {
                Self::H1(h1::Encoder::of(location))
            }
            Protocol::Http | Protocol::Grpc => Self::H2(h2::Encoder::of(location)),
            Protocol::FastCgi => Self::FastCgi(fastcgi::Encoder::of(location)),
            Protocol::Uwsgi => Self::Uwsgi,
            Protocol::Scgi => Self::Scgi,
            Protocol::Memcached => Self::Memcached,
            Protocol::Tunnel => Self::Tunnel,
        }
    }

    /// True if requests share connections, and have streams of them.
    pub fn has_streams(self) -> bool {
        matches!(self, Self::H2(_))
    }

    /// True if a body with this declaration is sent in frames.
    pub fn is_framed(self, framing: Framing) -> bool {
        match self {
            Self::H1(_) => framing == Framing::Framed,
            Self::FastCgi(_) | Self::H2(_) => framing != Framing::None,
            Self::Uwsgi | Self::Scgi | Self::Memcached | Self::Tunnel => false,
        }
    }

    /// True if a body of unknown length can be sent.
    pub fn has_frames(self) -> bool {
        match self {
            Self::H1(encoder) => encoder.has_frames(),
            Self::FastCgi(encoder) => encoder.has_frames(),
            Self::H2(_) => true,
            Self::Uwsgi | Self::Scgi | Self::Memcached | Self::Tunnel => false,
        }
    }

    /// True if the head has the length of a body that comes in frames, if it is known.
    pub fn tells_length(self) -> bool {
        match self {
            Self::FastCgi(_) => true,
            Self::H1(_) | Self::H2(_) | Self::Uwsgi | Self::Scgi | Self::Memcached | Self::Tunnel => false,
        }
    }

    /// Appends the head. Errors: 500 if a configured value evaluates to something that cannot be sent.
    pub fn head(
        self,
        request: &mut Request,
        goal: &Goal,
        framing: Framing,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        match self {
            Self::H1(encoder) => encoder.head(request, goal, framing, out),
            Self::H2(encoder) => encoder.head(request, goal, framing, out),
            Self::FastCgi(encoder) => encoder.head(request, framing, out),
            Self::Uwsgi => uwsgi::head(request, out),
            Self::Scgi => scgi::head(request, framing, out),
            Self::Memcached => memcached::head(request, out),
            Self::Tunnel => Ok(()),
        }
    }

    /// Maximum payload of a frame.
    pub fn frame_bytes_max(self) -> usize {
        match self {
            Self::H1(_) => h1::FRAME_BYTES_MAX,
            Self::H2(_) => h2::FRAME_BYTES_MAX,
            Self::FastCgi(_) => fastcgi::FRAME_BYTES_MAX,
            Self::Uwsgi | Self::Scgi | Self::Memcached | Self::Tunnel => usize::MAX,
        }
    }

    /// Appends frames with this payload, which must not be empty. Returns the position of what
    /// [`Encoder::payload`] finds it in.
    pub fn frame(self, payload: &[u8], out: &mut Vec<u8>) -> Range<usize> {
        match self {
            Self::H1(_) => h1::frame(payload, out),
            Self::FastCgi(_) => fastcgi::frame(payload, out),
            Self::H2(_) | Self::Uwsgi | Self::Scgi | Self::Memcached | Self::Tunnel => unframed(payload, out),
        }
    }

    /// The payload of what [`Encoder::frame`] has appended.
    pub fn payload(self, framed: Vec<u8>) -> Vec<u8> {
        match self {
            Self::H1(_) | Self::H2(_) | Self::Uwsgi | Self::Scgi | Self::Memcached | Self::Tunnel => framed,
            Self::FastCgi(_) => proto::fastcgi::contents(&framed),
        }
    }

    /// The head of a frame whose payload, of at most [`Encoder::frame_bytes_max`] bytes, is sent by itself and
    /// followed by nothing. `None`: bodies of known length have no frames.
    pub fn frame_head(self, payload_bytes: usize) -> Option<[u8; 8]> {
        match self {
            Self::H1(_) | Self::H2(_) | Self::Uwsgi | Self::Scgi | Self::Memcached | Self::Tunnel => None,
            Self::FastCgi(_) => Some(fastcgi::frame_head(payload_bytes)),
        }
    }

    /// Makes a frame of the bytes after the first [`FRAME_HEAD_BYTES`], of which there must be at least one.
    /// Returns the start of the frame.
    pub fn seal(self, bytes: &mut Vec<u8>) -> usize {
        match self {
            Self::H1(_) => h1::seal(bytes),
            Self::FastCgi(_) => fastcgi::seal(bytes),
            Self::H2(_) | Self::Uwsgi | Self::Scgi | Self::Memcached | Self::Tunnel => FRAME_HEAD_BYTES,
        }
    }

    /// Appends the end of a framed body.
    pub fn finish(self, out: &mut Vec<u8>) {
        match self {
            Self::H1(_) => h1::finish(out),
            Self::FastCgi(_) => fastcgi::finish(out),
            Self::H2(_) | Self::Uwsgi | Self::Scgi | Self::Memcached | Self::Tunnel => {}
        }
    }
}

/// A body without frames, for a protocol that has none.
fn unframed(payload: &[u8], out: &mut Vec<u8>) -> Range<usize> {
    let start = out.len();
    out.extend_from_slice(payload);
    start..out.len()
}

/// Decodes one response.
///
/// Call [`Decoder::head`] until a head is complete, then [`Decoder::begin_body`] once and [`Decoder::body`]
/// for all further bytes, until [`Decoder::is_done`]. Raw bytes may bypass the decoder: [`Decoder::raw_left`]
/// and [`Decoder::moved`]. Errors are final; the connection must not be kept afterwards.
#[derive(Debug)]
pub enum Decoder {
    H1(h1::Decoder),
    /// Of a stream, whose frames its connection has taken apart.
    H2(Box<h2::Decoder>),
    FastCgi(Box<fastcgi::Decoder>),
    /// Of an application behind uwsgi or SCGI.
    Cgi(Box<cgi::Decoder>),
    Memcached(Box<memcached::Decoder>),
}

/// The complaint about a body that is longer than its head says; the rest is dropped.
pub const TOO_MUCH: &str = "more data than specified in \"Content-Length\" header";

/// What a peer has sent besides its response, for the error log.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Notes {
    pub messages: Vec<Vec<u8>>,
    /// More followed, which was dropped: only this many bytes of a response's messages are logged.
    pub is_cut: Option<usize>,
    /// What was wrong, but harmed nothing.
    pub complaint: Option<&'static str>,
}

impl Decoder {
    /// The decoder for the response to a request that begins with these bytes of this encoder.
    #[inline]
    pub fn new(encoder: Encoder, request: &[u8]) -> Self {
        match encoder {
            Encoder::H1(encoder) => Self::H1(h1::Decoder::new(encoder)),
            Encoder::H2(_) => Self::H2(Box::default()),
            Encoder::FastCgi(encoder) => Self::FastCgi(Box::new(fastcgi::Decoder::new(encoder))),
            // a tunnel has no response to decode
            Encoder::Uwsgi | Encoder::Scgi | Encoder::Tunnel => Self::Cgi(Box::default()),
            Encoder::Memcached => Self::Memcached(Box::new(memcached::Decoder::new(request))),
        }
    }

    /// A second decoder for the body after a complete head, which may see the same bytes before this one.
    pub fn fork(&self, encoder: Encoder) -> Self {
        match self {
            Self::H1(_) | Self::Cgi(_) => Self::new(encoder, b""),
            Self::H2(decoder) => Self::H2(Box::new(decoder.fork())),
            Self::FastCgi(decoder) => Self::FastCgi(Box::new(decoder.fork())),
            Self::Memcached(decoder) => Self::Memcached(decoder.clone()),
        }
    }

    /// Looks for a head of at most `bytes_max` at the start of the buffer. A protocol that sends heads in
    /// records removes their framing from the buffer: `head` refers to contiguous bytes of it. The caller
    /// must remove an interim head from the buffer before the next call.
    #[inline]
    pub fn head(
        &mut self,
        buffer: &mut Buffer,
        bytes_max: usize,
        head: &mut ResponseHead,
    ) -> Result<Progress, Kind> {
        match self {
            Self::H1(decoder) => decoder.head(buffer.data(), bytes_max, head),
            Self::H2(decoder) => decoder.head(buffer.data(), bytes_max, head),
            Self::FastCgi(decoder) => decoder.head(buffer, bytes_max, head),
            Self::Cgi(decoder) => decoder.head(buffer.data(), bytes_max, head),
            Self::Memcached(decoder) => decoder.head(buffer.data(), head),
        }
    }

    /// Decides how the body after a complete head ends. `method`: the request's.
    ///
    /// Errors: framing that two recipients could interpret differently.
    #[inline]
    pub fn begin_body(
        &mut self,
        head: &ResponseHead,
        data: &[u8],
        method: Method,
    ) -> Result<BodyLength, Kind> {
        match self {
            Self::H1(decoder) => decoder.begin_body(head, data, method),
            Self::H2(decoder) => decoder.begin_body(head, data, method),
            Self::FastCgi(decoder) => {
                Ok(decoder.begin_body(cgi::body_length(head, data, method, BodyLength::Chunked)?))
            }
            Self::Cgi(decoder) => {
                Ok(decoder.begin_body(cgi::body_length(head, data, method, BodyLength::UntilClose)?))
            }
            Self::Memcached(decoder) => Ok(decoder.begin_body(head, method)),
        }
    }

    /// Finds the body's pieces in `data`. Returns how many bytes belong to the body and its framing; the next
    /// call starts with the rest. Trailer fields after the body are put into `trailers`, each line ended by
    /// CRLF.
    #[inline]
    pub fn body(&mut self, data: &[u8], pieces: &mut Pieces, trailers: &mut Vec<u8>) -> Result<usize, Kind> {
        match self {
            Self::H1(decoder) => decoder.body(data, pieces, trailers),
            Self::H2(decoder) => Ok(decoder.body(data, pieces, trailers)),
            Self::FastCgi(decoder) => decoder.body(data, pieces),
            Self::Cgi(decoder) => Ok(decoder.body(data, pieces)),
            Self::Memcached(decoder) => Ok(decoder.body(data, pieces)),
        }
    }

    /// True if nothing more belongs to this response.
    #[inline]
    pub fn is_done(&self) -> bool {
        match self {
            Self::H1(decoder) => decoder.is_done(),
            Self::H2(decoder) => decoder.is_done(),
            Self::FastCgi(decoder) => decoder.is_done(),
            Self::Cgi(decoder) => decoder.is_done(),
            Self::Memcached(decoder) => decoder.is_done(),
        }
    }

    /// True if the body is framed: finding its pieces takes work without any I/O.
    pub fn is_framed(&self) -> bool {
        match self {
            Self::H1(decoder) => decoder.is_framed(),
            Self::H2(decoder) => decoder.is_framed(),
            Self::FastCgi(_) => true,
            Self::Cgi(_) | Self::Memcached(_) => false,
        }
    }

    /// How many of the next bytes are payload only; `None`: unknown.
    pub fn raw_left(&self) -> Option<u64> {
        match self {
            Self::H1(decoder) => decoder.raw_left(),
            Self::H2(decoder) => decoder.raw_left(),
            Self::FastCgi(_) => None,
            Self::Cgi(decoder) => decoder.raw_left(),
            Self::Memcached(decoder) => decoder.raw_left(),
        }
    }

    /// Notes that this many raw bytes have bypassed this decoder.
    pub fn moved(&mut self, count: u64) {
        match self {
            Self::H1(decoder) => decoder.moved(count),
            Self::H2(decoder) => decoder.moved(count),
            Self::FastCgi(_) => {}
            Self::Cgi(decoder) => decoder.moved(count),
            Self::Memcached(decoder) => decoder.moved(count),
        }
    }

    /// Notes that the peer has closed its side. Trailers that have not been put into those of [`Decoder::body`] are put
    /// into `trailers`. Errors: it did so too early.
    pub fn closed(&mut self, trailers: &mut Vec<u8>) -> Result<(), Kind> {
        match self {
            Self::H1(decoder) => decoder.closed(),
            Self::H2(decoder) => decoder.closed(trailers),
            Self::FastCgi(decoder) => decoder.closed(),
            Self::Cgi(decoder) => decoder.closed(),
            Self::Memcached(decoder) => decoder.closed(),
        }
    }

    /// True if the connection may serve another request once this response is done.
    #[inline]
    pub fn may_keep(&self) -> bool {
        match self {
            Self::H1(decoder) => decoder.may_keep(),
            Self::FastCgi(decoder) => decoder.may_keep(),
            Self::H2(_) | Self::Cgi(_) => false,
            Self::Memcached(decoder) => decoder.may_keep(),
        }
    }

    /// Why the body will never be complete, although the connection is open: the peer has ended it early. What was
    /// decoded before is to be passed on all the same.
    #[inline]
    pub fn broken(&self) -> Option<Kind> {
        match self {
            Self::H1(_) | Self::H2(_) | Self::Cgi(_) | Self::Memcached(_) => None,
            Self::FastCgi(decoder) => decoder.broken(),
        }
    }

    /// What is to be logged of the bytes decoded so far. `is_all`: also what is incomplete, since no more follows.
    #[inline]
    pub fn notes(&mut self, is_all: bool) -> Option<Notes> {
        match self {
            Self::H1(_) | Self::H2(_) => None,
            Self::FastCgi(decoder) => decoder.notes(is_all),
            Self::Cgi(decoder) => decoder.notes(),
            Self::Memcached(decoder) => decoder.notes(),
        }
    }

    /// True if trailers may follow a body of known length.
    pub fn may_add_trailers(&self) -> bool {
        matches!(self, Self::H2(decoder) if decoder.has_more())
    }

    /// The flags of a value in memcached; 0 for other protocols.
    pub fn flags(&self) -> u32 {
        match self {
            Self::H1(_) | Self::H2(_) | Self::FastCgi(_) | Self::Cgi(_) => 0,
            Self::Memcached(decoder) => decoder.flags(),
        }
    }
}
