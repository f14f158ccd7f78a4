//! Receives from the client: heads, bodies, settings.
//!
//! Touches: the QUIC connection. RFC 9114 §4.1, §6.2; RFC 9204 §2.2.1.

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Buf;
use quinn_proto::{ReadError, StreamId};

use crate::http::h3::State;
use crate::http::h3::state::{Event, code, stream_id};
use crate::http::request::error::{Error, Kind};
use crate::proto::h2::abuse::Act;
use crate::proto::h2::request::{Builder, Stop, Unread};
use crate::proto::h3::Code;
use crate::proto::h3::frame::Fault;
use crate::proto::h3::peer::Fed;
use crate::proto::h3::qpack::Failed;
use crate::proto::h3::request::Piece;
use crate::proto::message::{BodyLength, Version};

/// The most bytes that are taken from a stream at a time.
const CHUNK_BYTES_MAX: usize = 16 * 1024;

/// The result of reading from a stream.
enum Read {
    Bytes(bytes::Bytes),
    End,
    Blocked,
    /// The client has given it up.
    Reset,
}

/// The outcome of a section.
enum Section {
    Taken,
    Blocked(Vec<u8>),
}

impl State {
    fn read(&mut self, id: StreamId) -> Read {
        let mut stream = self.quic.state.recv_stream(id);
        let Ok(mut chunks) = stream.read(true) else { return Read::End };
        let read = match chunks.next(CHUNK_BYTES_MAX) {
            Ok(Some(chunk)) => Read::Bytes(chunk.bytes),
            Ok(None) => Read::End,
            Err(ReadError::Blocked) => Read::Blocked,
            Err(ReadError::Reset(_)) => Read::Reset,
        };
        let _ = chunks.finalize(); // the connection's task sends, whatever there is
        if let Read::Bytes(bytes) = &read {
            self.traffic.total += bytes.len() as u64;
        }
        read
    }

    /// Reads a unidirectional stream of the client.
    pub(super) fn read_uni(&mut self, id: StreamId) -> Result<(), Fault> {
        let number = quinn_proto::VarInt::from(id).into_inner();
        loop {
            match self.read(id) {
                Read::Bytes(bytes) => match self.peer.feed(number, &bytes)? {
                    Fed::Nothing => {}
                    Fed::Inserted => self.unblock()?,
                    Fed::Unwanted => {
                        let _ = self.quic.state.recv_stream(id).stop(code(Code::STREAM_CREATION_ERROR));
                        return self.peer.ended(number);
                    }
                },
                Read::End | Read::Reset => return self.peer.ended(number),
                Read::Blocked => return Ok(()),
            }
        }
    }

    /// A request's stream has something to read.
    pub(super) fn readable(&mut self, id: u64) -> Result<(), Fault> {
        let Some(request) = self.streams.get_mut(&id) else { return Ok(()) };
        match (request.has_begun, &request.blocked) {
            (true, _) => {
                if !request.is_remote_closed && self.is_reset(id) {
                    self.give_up(id);
                } else if let Some(reader) = self.streams.get_mut(&id).and_then(|it| it.reader.take()) {
                    reader.wake();
                }
                Ok(())
            }
            (false, Some(_)) => {
                if self.is_reset(id) {
                    self.give_up(id);
                }
                Ok(())
            }
            (false, None) => self.read_head(id),
        }
    }

    /// True if the client has reset its side of a stream. What it has sent before counts no more.
    fn is_reset(&mut self, id: u64) -> bool {
        matches!(self.quic.state.recv_stream(stream_id(id)).received_reset(), Ok(Some(_)))
    }

    fn read_head(&mut self, id: u64) -> Result<(), Fault> {
        loop {
            let section_max = self.limits.head.head_bytes_max;
            let Some(request) = self.streams.get_mut(&id) else { return Ok(()) };
            let mut input = &request.input[..];
            let piece = request.parser.next(&mut input, section_max)?;
            let left = input.len();
            request.input.advance(request.input.len() - left);
            let section = match piece {
                Some(Piece::Head(section)) => Some(Some(section)),
                Some(Piece::Oversized) => Some(None),
                Some(Piece::Data(_) | Piece::Trailers(_)) | None => None,
            };
            if let Some(section) = section {
                return match self.head(id, section)? {
                    Section::Taken => Ok(()),
                    Section::Blocked(section) => {
                        self.may_block()?;
                        self.streams.entry(id).and_modify(|request| request.blocked = Some(section));
                        Ok(())
                    }
                };
            }
            match self.read(stream_id(id)) {
                Read::Bytes(bytes) => self.streams.entry(id).and_modify(|request| request.input = bytes),
                Read::Blocked => return Ok(()),
                Read::Reset => {
                    self.give_up(id);
                    return Ok(());
                }
                Read::End => {
                    self.streams.get(&id).map_or(Ok(()), |request| request.parser.end())?;
                    self.charge(Act::Malformed);
                    self.close(id, Code::REQUEST_INCOMPLETE);
                    return Ok(());
                }
            };
        }
    }

    /// Decodes a head, and hands the request on.
    ///
    /// `section`: `None` if it is too long.
    fn head(&mut self, id: u64, section: Option<Vec<u8>>) -> Result<Section, Fault> {
        let limits = Rc::clone(&self.limits);
        let mut builder = Builder::of_version(Version::Http3, &limits.head, limits.takes_connect);
        let decoded = match &section {
            Some(section) => self.peer.decoder.decode(id, section, &mut builder),
            None => Err(Failed::Stopped(Stop::LongHead)),
        };
        match decoded {
            Ok(()) => {}
            Err(Failed::Blocked) => return Ok(Section::Blocked(section.unwrap_or_default())),
            Err(Failed::Stopped(_)) => {
                // No state of the compression is lost: only this request ends.
                builder.refuse_size();
            }
            Err(failed) => return Err(fault(failed)),
        }
        let ends = self.has_ended(id)?;
        let arrived = builder.finish(ends);
        let is_malformed = arrived.malformed.is_some();
        self.traffic.useful += arrived.text.len() as u64;
        self.heads.remove(&id);
        let Some(request) = self.streams.get_mut(&id) else { return Ok(Section::Taken) };
        request.has_begun = true;
        if let BodyLength::Length(bytes) = arrived.length {
            request.declared = Some(bytes);
        }
        let bytes = u32::try_from(section.map_or(0, |section| section.len())).unwrap_or(u32::MAX);
        self.arrived(Event { stream: id, request: arrived, ends, bytes });
        if is_malformed {
            self.charge(Act::Malformed);
        }
        Ok(Section::Taken)
    }

    /// True if nothing follows the head.
    fn has_ended(&mut self, id: u64) -> Result<bool, Fault> {
        let Some(request) = self.streams.get(&id) else { return Ok(false) };
        if !request.input.is_empty() {
            return Ok(false);
        }
        match self.read(stream_id(id)) {
            Read::Bytes(bytes) => {
                self.streams.entry(id).and_modify(|request| request.input = bytes);
                Ok(false)
            }
            Read::End => {
                self.streams.entry(id).and_modify(|request| request.is_remote_closed = true);
                Ok(true)
            }
            Read::Reset => {
                self.give_up(id);
                Ok(true)
            }
            Read::Blocked => Ok(false),
        }
    }

    /// Tries sections again that have waited for compression.
    fn unblock(&mut self) -> Result<(), Fault> {
        let waiting: Vec<u64> =
            self.streams.iter().filter(|(_, it)| it.blocked.is_some()).map(|(id, _)| *id).collect();
        for id in waiting {
            let Some(request) = self.streams.get_mut(&id) else { continue };
            if request.has_begun {
                // Trailers: the task that reads tries them again.
                if let Some(reader) = request.reader.take() {
                    reader.wake();
                }
                continue;
            }
            let Some(section) = request.blocked.take() else { continue };
            match self.head(id, Some(section))? {
                Section::Taken => self.blocked_count = self.blocked_count.saturating_sub(1),
                Section::Blocked(section) => {
                    self.streams.entry(id).and_modify(|request| request.blocked = Some(section));
                }
            }
        }
        Ok(())
    }

    /// Takes data of a body. Ready with true at its end.
    pub(super) fn poll_body(
        &mut self,
        id: u64,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Vec<u8>, bool), Error>> {
        let mut data = Vec::new();
        match self.take_body(id, &mut data) {
            Ok(true) => Poll::Ready(Ok((data, true))),
            Ok(false) if !data.is_empty() => Poll::Ready(Ok((data, false))),
            Ok(false) => {
                if let Some(request) = self.streams.get_mut(&id) {
                    request.reader = Some(cx.waker().clone());
                }
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    fn take_body(&mut self, id: u64, data: &mut Vec<u8>) -> Result<bool, Error> {
        let section_max = self.limits.head.head_bytes_max;
        loop {
            let request = self.streams.get_mut(&id).filter(|request| !request.is_gone);
            let Some(request) = request else { return Err(Error::left()) };
            if let Some(fault) = request.fault {
                return Err(Error::client(Kind::BadBody(fault)));
            }
            if let Some(section) = request.blocked.take() {
                self.blocked_count = self.blocked_count.saturating_sub(1);
                if !self.take_trailers(id, section)? {
                    return Ok(false);
                }
                continue;
            }
            if data.len() >= CHUNK_BYTES_MAX {
                return Ok(false);
            }
            if !request.input.is_empty() {
                let mut input = &request.input[..];
                let piece = request.parser.next(&mut input, section_max);
                let left = input.len();
                request.input.advance(request.input.len() - left);
                match piece {
                    Ok(None) => {}
                    Ok(Some(Piece::Data(count))) => {
                        data.extend_from_slice(&request.input[..count]);
                        request.input.advance(count);
                        request.received += count as u64;
                        self.traffic.useful += count as u64;
                        if request.declared.is_some_and(|declared| request.received > declared) {
                            request.fault = Some("a body longer than its \"content-length\"");
                        }
                    }
                    Ok(Some(Piece::Oversized)) => request.fault = Some("too large trailers"),
                    Ok(Some(Piece::Head(section) | Piece::Trailers(section))) => {
                        if !self.take_trailers(id, section)? {
                            return Ok(false);
                        }
                    }
                    Err(fault) => return Err(self.failed(fault)),
                }
                continue;
            }
            if request.is_remote_closed {
                if request.declared.is_some_and(|declared| request.received < declared) {
                    request.fault = Some("a body shorter than its \"content-length\"");
                    continue;
                }
                return Ok(true);
            }
            match self.read(stream_id(id)) {
                Read::Bytes(bytes) => {
                    self.streams.entry(id).and_modify(|request| request.input = bytes);
                }
                Read::Blocked => return Ok(false),
                Read::Reset => {
                    self.give_up(id);
                    return Err(Error::left());
                }
                Read::End => {
                    let ended = self.streams.get(&id).map_or(Ok(()), |request| request.parser.end());
                    if let Err(fault) = ended {
                        return Err(self.failed(fault));
                    }
                    self.streams.entry(id).and_modify(|request| request.is_remote_closed = true);
                }
            }
        }
    }

    /// Checks trailers, which nobody asks for. False: they wait for compression.
    fn take_trailers(&mut self, id: u64, section: Vec<u8>) -> Result<bool, Error> {
        let mut fields = Unread::new(&self.limits.head);
        match self.peer.decoder.decode(id, &section, &mut fields) {
            Ok(()) => {}
            Err(Failed::Blocked) => {
                self.may_block().map_err(|fault| self.failed(fault))?;
                self.streams.entry(id).and_modify(|request| request.blocked = Some(section));
                return Ok(false);
            }
            Err(failed) => return Err(self.failed(fault(failed))),
        }
        if fields.is_malformed {
            self.streams.entry(id).and_modify(|request| request.fault = Some("invalid trailers"));
        }
        Ok(true)
    }

    fn failed(&mut self, fault: Fault) -> Error {
        self.fail(fault);
        Error::client(Kind::BadBody(fault.text))
    }
}

fn fault(failed: Failed<Stop>) -> Fault {
    match failed {
        Failed::Stopped(stop) => Fault::new(Code::EXCESSIVE_LOAD, stop.as_str()),
        Failed::Invalid | Failed::Blocked => {
            Fault::new(Code::DECOMPRESSION_FAILED, "a field section that cannot be decoded")
        }
    }
}
