//! FastCGI to upstreams: requests into records, responses out of them.
//!
//! Touches: only the request whose head is encoded, and the error log for what applications say there. Bounded: a
//! response head by `fastcgi_buffer_size`, messages by [`MESSAGE_BYTES_MAX`] a response; records by themselves
//! take no memory. FastCGI specification 1.0; RFC 3875 §6; nginx.org, ngx_http_fastcgi_module.

use std::ops::Range;

use crate::http::config::location::Location;
use crate::http::request::Request;
use crate::http::request::error::{Error, Kind};
use crate::http::upstream::codec::{FRAME_HEAD_BYTES, Framing, Notes, Pieces, Progress, TOO_MUCH};
use crate::http::upstream::params;
use crate::proto::cgi::{self, Progress as Parsed, Seen};
use crate::proto::fastcgi::{self, CONTENT_BYTES_MAX, HEADER_BYTES, Outcome, Params, Records, Step, Type};
use crate::proto::head::ResponseHead;
use crate::proto::message::BodyLength;
use crate::runtime::buffer::Buffer;

/// Maximum bytes of messages that one response may add to the error log.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// See [`super::codec::Encoder`].
#[derive(Clone, Copy, Debug)]
pub struct Encoder {
    /// `fastcgi_keep_conn`
    keeps: bool,
    /// Bodies of unknown length are passed on as they come: the configuration says that the application needs no
    /// length.
    streams: bool,
}

impl Encoder {
    pub fn of(location: &Location) -> Self {
        let conf = &location.confs.fastcgi;
        Self { keeps: conf.keeps_connections(), streams: conf.upstream.request_buffering() == Some(false) }
    }

    pub fn has_frames(self) -> bool {
        self.streams
    }

    /// Errors: 500 for a parameter that does not fit into a record.
    pub fn head(self, request: &mut Request, framing: Framing, out: &mut Vec<u8>) -> Result<(), Error> {
        fastcgi::begin_request(self.keeps, out);
        let params = request.location.confs.fastcgi.params();
        let mut pairs = Params::begin(out);
        params::write(request, params, &mut pairs);
        pairs.end().map_err(|why| params::unsendable(&why))?;
        if framing == Framing::None {
            finish(out);
        }
        Ok(())
    }
}

/// The largest payload of a record.
pub const FRAME_BYTES_MAX: usize = CONTENT_BYTES_MAX;

/// Records with this payload, and their place.
pub fn frame(payload: &[u8], out: &mut Vec<u8>) -> Range<usize> {
    let start = out.len();
    fastcgi::stream(Type::Stdin, payload, out);
    start..out.len()
}

/// Makes a record of a payload that is already in place.
pub fn seal(bytes: &mut [u8]) -> usize {
    let start = FRAME_HEAD_BYTES - HEADER_BYTES;
    let length = bytes.len().saturating_sub(FRAME_HEAD_BYTES);
    bytes[start..FRAME_HEAD_BYTES].copy_from_slice(&frame_head(length));
    start
}

/// The header of a record with this payload.
pub fn frame_head(payload_bytes: usize) -> [u8; HEADER_BYTES] {
    fastcgi::header(Type::Stdin, payload_bytes)
}

/// The end of the body.
pub fn finish(out: &mut Vec<u8>) {
    fastcgi::end_stream(Type::Stdin, out);
}

/// See [`super::codec::Decoder`].
#[derive(Debug)]
pub struct Decoder {
    records: Records,
    seen: Seen,
    /// How many of the next bytes are already without framing: what came in the buffer of the head.
    plain: usize,
    body: Body,
    /// The application has ended the request, and the record that says so is complete.
    is_ended: bool,
    /// It ended the request before its body was complete: the words for the log.
    broken: Option<&'static str>,
    keeps: bool,
    notes: Option<Box<Messages>>,
}

/// The rest of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    Head,
    /// Nothing is expected; what comes is dropped.
    None,
    Length(u64),
    /// It ends with the request.
    Unknown,
    /// The end of the connection came when the body was complete.
    Closed,
}

/// What an application says for the error log.
#[derive(Debug, Default)]
struct Messages {
    complete: Vec<Vec<u8>>,
    /// The record in progress.
    partial: Vec<u8>,
    /// Bytes of all messages so far.
    bytes: usize,
    /// There were more; `is_told`: the log says so.
    has_overflown: bool,
    is_told: bool,
    has_extra: bool,
}

impl Decoder {
    pub fn new(encoder: Encoder) -> Self {
        Self {
            records: Records::default(),
            seen: Seen::default(),
            plain: 0,
            body: Body::Head,
            is_ended: false,
            broken: None,
            keeps: encoder.keeps,
            notes: None,
        }
    }

    /// The same state, to look ahead; what it finds for the log is dropped.
    pub fn fork(&self) -> Self {
        let Self { records, seen, plain, body, is_ended, broken, keeps, notes: _ } = self;
        Self {
            records: records.clone(),
            seen: *seen,
            plain: *plain,
            body: *body,
            is_ended: *is_ended,
            broken: *broken,
            keeps: *keeps,
            notes: None,
        }
    }

    pub fn head(
        &mut self,
        buffer: &mut Buffer,
        bytes_max: usize,
        head: &mut ResponseHead,
    ) -> Result<Progress, Kind> {
        let outcome = self.unwrap(buffer)?;
        match cgi::parse_more(buffer.data(), bytes_max, head, &mut self.seen) {
            Ok(Parsed::Complete(length)) => {
                self.plain -= length;
                return Ok(Progress::Complete(length));
            }
            Ok(Parsed::Partial) => {}
            Err(error) if error.is_too_large() => return Err(Kind::HeadTooBig),
            Err(error) => return Err(Kind::BadHead(error.as_str())),
        }
        match outcome {
            Some(Outcome::Overloaded) => Err(Kind::Refused("it is overloaded (FCGI_OVERLOADED)")),
            Some(Outcome::CannotMultiplex) => Err(Kind::Refused("it is busy (FCGI_CANT_MPX_CONN)")),
            Some(Outcome::UnknownRole) => Err(Kind::Refused("it is not a responder (FCGI_UNKNOWN_ROLE)")),
            _ if self.records.is_stdout_ended() => Err(Kind::EndedEarly("FastCGI stdout")),
            Some(Outcome::Complete) => Err(Kind::EndedEarly("FastCGI request")),
            None => {
                buffer.compact();
                Ok(Progress::Partial)
            }
        }
    }

    /// Removes the framing from what has arrived: afterwards the buffer begins with the response and contains
    /// nothing else. Returns how the request ended, if it did.
    fn unwrap(&mut self, buffer: &mut Buffer) -> Result<Option<Outcome>, Kind> {
        let (mut outcome, mut start) = (None, 0);
        let mut at = self.plain;
        let data = buffer.data_mut();
        while at < data.len() && !self.is_ended {
            let (count, step) = self.records.step(&data[at..]).map_err(refused)?;
            match step {
                Step::Stdout(piece) if self.plain == 0 => {
                    // The first part stays where it is.
                    start = at + piece.start;
                    self.plain = piece.len();
                }
                Step::Stdout(piece) => {
                    let end = start + self.plain;
                    data.copy_within(at + piece.start..at + piece.end, end);
                    self.plain += piece.len();
                }
                Step::Stderr { piece, is_last } => self.note(&data[at..][piece], is_last),
                Step::End(how) => {
                    self.is_ended = true;
                    outcome = Some(how);
                }
                Step::StdoutEnd | Step::Nothing => {}
            }
            at += count;
        }
        if at < data.len() {
            self.keeps = false; // bytes after the end
        }
        buffer.consume(start);
        buffer.truncate(self.plain);
        Ok(outcome)
    }

    pub fn begin_body(&mut self, length: BodyLength) -> BodyLength {
        self.body = match length {
            BodyLength::None => Body::None,
            BodyLength::Length(length) => Body::Length(length),
            BodyLength::Chunked | BodyLength::UntilClose => Body::Unknown,
        };
        length
    }

    pub fn body(&mut self, data: &[u8], pieces: &mut Pieces) -> Result<usize, Kind> {
        pieces.clear();
        if self.body == Body::Head {
            return Ok(0);
        }
        let mut at = self.plain.min(data.len());
        self.plain -= at;
        self.take(0..at, pieces);
        while at < data.len() && !self.is_ended {
            let (count, step) = self.records.step(&data[at..]).map_err(refused)?;
            match step {
                Step::Stdout(piece) => self.take(at + piece.start..at + piece.end, pieces),
                Step::Stderr { piece, is_last } => self.note(&data[at..][piece], is_last),
                Step::End(_) => self.is_ended = true,
                Step::StdoutEnd | Step::Nothing => {}
            }
            at += count;
        }
        let is_short = matches!(self.body, Body::Length(1..)) && self.plain == 0;
        self.broken = match is_short {
            true if self.records.is_stdout_ended() => Some("FastCGI stdout"),
            true if self.is_ended => Some("FastCGI request"),
            _ => None,
        };
        Ok(at)
    }

    /// Adds a part of the output to the body, as far as it belongs to it.
    fn take(&mut self, piece: Range<usize>, pieces: &mut Pieces) {
        let allowed = match &mut self.body {
            Body::Unknown => piece.len(),
            Body::Length(left) => {
                let count = piece.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= count as u64;
                count
            }
            Body::Head | Body::None | Body::Closed => 0,
        };
        if allowed > 0 {
            pieces.push(piece.start..piece.start + allowed);
        }
        if allowed < piece.len() && matches!(self.body, Body::Length(_)) {
            self.notes.get_or_insert_default().has_extra = true;
        }
    }

    pub fn is_done(&self) -> bool {
        match self.body {
            Body::Head => false,
            Body::None | Body::Closed => true,
            Body::Length(_) | Body::Unknown => self.is_ended && self.plain == 0 && self.broken.is_none(),
        }
    }

    pub fn broken(&self) -> Option<Kind> {
        self.broken.map(Kind::EndedEarly)
    }

    pub fn closed(&mut self) -> Result<(), Kind> {
        match self.body {
            Body::None | Body::Closed => Ok(()),
            // The application has sent all that it announced, and left without a word.
            Body::Length(0) => {
                self.body = Body::Closed;
                Ok(())
            }
            Body::Unknown if self.is_ended => Ok(()),
            Body::Head | Body::Length(_) | Body::Unknown => Err(Kind::Cut),
        }
    }

    pub fn may_keep(&self) -> bool {
        self.keeps && self.is_ended && self.plain == 0 && self.broken.is_none()
    }

    /// Takes a part of a message.
    #[cold]
    fn note(&mut self, piece: &[u8], is_last: bool) {
        let notes = self.notes.get_or_insert_default();
        let room = MESSAGE_BYTES_MAX.saturating_sub(notes.bytes);
        let taken = piece.len().min(room);
        notes.has_overflown |= taken < piece.len() && !notes.is_told;
        notes.is_told |= notes.has_overflown;
        notes.bytes += taken;
        notes.partial.extend_from_slice(&piece[..taken]);
        if is_last && !notes.partial.is_empty() {
            notes.complete.push(std::mem::take(&mut notes.partial));
        }
    }

    /// What is to be logged now; `is_all`: also the message whose record is incomplete.
    pub fn notes(&mut self, is_all: bool) -> Option<Notes> {
        let notes = self.notes.as_mut()?;
        if is_all && !notes.partial.is_empty() {
            notes.complete.push(std::mem::take(&mut notes.partial));
        }
        let is_cut = std::mem::take(&mut notes.has_overflown).then_some(MESSAGE_BYTES_MAX);
        let complaint = std::mem::take(&mut notes.has_extra).then_some(TOO_MUCH);
        let messages = std::mem::take(&mut notes.complete);
        let has_any = complaint.is_some() || is_cut.is_some() || !messages.is_empty();
        has_any.then_some(Notes { messages, is_cut, complaint })
    }
}

fn refused(error: fastcgi::Error) -> Kind {
    Kind::BadHead(error.as_str())
}

#[cfg(test)]
mod tests;
