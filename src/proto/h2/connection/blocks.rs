//! Header blocks: requests, trailers, and those that are not wanted but have to be decoded.
//!
//! Bounded by `large_client_header_buffers`, and by the account of abuse for its frames. Touches: nothing.
//! RFC 9113 §4.3, §6.2, §6.10, §8.1.

use super::{
    BLOCK_OVERHEAD_BYTES, Block, Connection, Event, Failure, State, is_of_client, priority, violation, word,
};
use crate::proto::h2::abuse::Act;
use crate::proto::h2::frame::{self, Code, HEAD_BYTES, Head, STREAM_MAX, WINDOW_DEFAULT, flag, kind};
use crate::proto::h2::request::{Builder, Request, Stop, Unread};
use crate::proto::h2::stream::{Reset, Stream};
use crate::proto::message::BodyLength;

impl Connection {
    pub(super) fn headers(&mut self, head: Head, payload: &[u8]) -> Result<usize, (Code, Failure)> {
        if !is_of_client(head.stream) {
            return violation(Code::PROTOCOL_ERROR, "HEADERS frame with an incorrect stream");
        }
        let padded = usize::from(head.has(flag::PADDED));
        let before = padded + if head.has(flag::PRIORITY) { 5 } else { 0 };
        if head.length < before {
            return violation(Code::FRAME_SIZE_ERROR, "HEADERS frame with incorrect length");
        }
        let Some(prefix) = payload.get(..before) else { return Ok(0) };
        let padding = if padded == 1 { usize::from(prefix[0]) } else { 0 };
        if padding > head.length - before {
            return violation(Code::PROTOCOL_ERROR, "HEADERS frame with too long padding");
        }
        let ends = head.has(flag::END_STREAM);
        let depends_on_itself =
            head.has(flag::PRIORITY) && word(&prefix[padded..padded + 4]) & STREAM_MAX == head.stream;
        let fate = self.begin_block(head.stream, ends)?;
        if depends_on_itself {
            self.stream_error(head.stream, Code::PROTOCOL_ERROR)?;
            if let (Block::Request { .. }, Ok(index)) = (fate, self.index(head.stream)) {
                self.streams.remove(index); // no task serves it
            }
        }
        let fate = if depends_on_itself { Block::Unread } else { fate };
        self.block = Some((head.stream, fate));
        self.block_length = head.length as u32;
        let (left, ends_block) = (head.length - before - padding, head.has(flag::END_HEADERS));
        self.state = State::Fragment { left, padding, ends_block };
        if left == 0 {
            self.end_fragment(padding, ends_block)?;
        }
        Ok(HEAD_BYTES + before)
    }

    /// The fate of the block that begins on a stream.
    fn begin_block(&mut self, id: u32, ends: bool) -> Result<Block, (Code, Failure)> {
        if id > self.last && self.client.is_some() {
            return violation(Code::PROTOCOL_ERROR, "HEADERS frame for an idle stream");
        }
        if id > self.last {
            self.last = id;
            if id > self.last_served {
                return Ok(Block::Unread); // the GOAWAY has told it
            }
            if self.streams.len() >= self.limits.streams_max as usize {
                self.charge(Act::Refused)?;
                frame::put_reset(id, Code::REFUSED_STREAM, &mut self.output);
                self.remember_ended(id);
                return Ok(Block::Unread);
            }
            // A client that has not acknowledged a smaller window than the protocol's may not know it: as nginx.
            if !ends && !self.is_acknowledged && self.limits.stream_window < WINDOW_DEFAULT {
                frame::put_reset(id, Code::REFUSED_STREAM, &mut self.output);
                self.remember_ended(id);
                return Ok(Block::Unread);
            }
            self.streams.push(Box::new(Stream::new(id, self.peer_stream_window, self.limits.stream_window)));
            return Ok(Block::Request { ends });
        }
        if self.stream(id).is_some_and(|stream| stream.awaits_head()) {
            return Ok(Block::Response { ends });
        }
        match self.stream(id).map(|stream| (stream.reset, stream.is_remote_closed)) {
            Some((Some(Reset::ByUs(_) | Reset::Unprocessed(_) | Reset::Lost), _)) => Ok(Block::Unread),
            Some((Some(Reset::ByPeer(_)), _)) => {
                violation(Code::STREAM_CLOSED, "HEADERS frame for a stream that it has reset")
            }
            Some((None, true)) => {
                self.stream_error(id, Code::STREAM_CLOSED)?;
                Ok(Block::Unread)
            }
            Some((None, false)) if ends => Ok(Block::Trailers),
            Some((None, false)) => {
                self.stream_error(id, Code::PROTOCOL_ERROR)?;
                Ok(Block::Unread)
            }
            None if self.ended.contains(&id) => Ok(Block::Unread),
            None if self.client.is_some() => {
                self.charge(Act::Idle)?;
                Ok(Block::Unread)
            }
            None if id == self.last => {
                violation(Code::STREAM_CLOSED, "HEADERS frame for a stream that has ended")
            }
            None => violation(Code::PROTOCOL_ERROR, "HEADERS frame for a lower stream than before"),
        }
    }

    pub(super) fn continuation(&mut self, head: Head) -> Result<usize, (Code, Failure)> {
        if self.block.is_none() {
            return violation(Code::PROTOCOL_ERROR, "unexpected CONTINUATION frame");
        }
        self.charge(Act::Continuation)?;
        self.block_length += head.length as u32;
        let ends_block = head.has(flag::END_HEADERS);
        self.state = State::Fragment { left: head.length, padding: 0, ends_block };
        if head.length == 0 {
            self.end_fragment(0, ends_block)?;
        }
        Ok(HEAD_BYTES)
    }

    pub(super) fn fragment(&mut self, rest: &[u8]) -> Result<usize, (Code, Failure)> {
        let State::Fragment { left, padding, ends_block } = self.state else { return Ok(0) };
        let count = rest.len().min(left);
        if count == 0 {
            return Ok(0);
        }
        if self.block_bytes.len() + count > self.limits.head.head_bytes_max + BLOCK_OVERHEAD_BYTES {
            return violation(Code::ENHANCE_YOUR_CALM, Stop::LongHead.as_str());
        }
        if count == left && ends_block && self.block_bytes.is_empty() {
            // the usual case: a whole block at once
            self.decode(&rest[..count])?;
            self.after_block(padding);
            return Ok(count);
        }
        self.block_bytes.extend_from_slice(&rest[..count]);
        self.state = State::Fragment { left: left - count, padding, ends_block };
        if count == left {
            self.end_fragment(padding, ends_block)?;
        }
        Ok(count)
    }

    fn end_fragment(&mut self, padding: usize, ends_block: bool) -> Result<(), (Code, Failure)> {
        if ends_block {
            let bytes = std::mem::take(&mut self.block_bytes);
            self.decode(&bytes)?;
        }
        self.after_block(padding);
        Ok(())
    }

    fn after_block(&mut self, padding: usize) {
        self.state = if padding > 0 { State::Skip { left: padding } } else { State::Frame };
    }

    /// Decodes a complete block.
    fn decode(&mut self, bytes: &[u8]) -> Result<(), (Code, Failure)> {
        let Some((id, fate)) = self.block.take() else { return Ok(()) };
        let stopped = |stop: Stop| (stop.code(), Failure::Violation(stop.as_str()));
        if let Block::Request { ends } = fate {
            let mut builder = Builder::new(&self.limits.head, self.limits.offers_connect);
            self.decoder.decode(bytes, &mut builder).map_err(stopped)?;
            return self.open(id, builder.finish(ends), ends);
        }
        if let Block::Response { ends } = fate {
            return self.response(id, bytes, ends);
        }
        let mut unread = Unread::new(&self.limits.head);
        unread.keeps = fate == Block::Trailers && self.client.is_some();
        self.decoder.decode(bytes, &mut unread).map_err(stopped)?;
        if fate == Block::Trailers {
            if unread.is_malformed {
                return self.stream_error(id, Code::PROTOCOL_ERROR);
            }
            if let Some(stream) = self.stream(id) {
                if let Some(incoming) = &mut stream.incoming {
                    incoming.trailers = unread.lines;
                }
                stream.end();
                stream.wake();
            }
        }
        Ok(())
    }

    fn open(&mut self, id: u32, request: Request, ends: bool) -> Result<(), (Code, Failure)> {
        if request.malformed.is_some() {
            self.charge(Act::Malformed)?;
        }
        let priority = priority::of_request(&request);
        let declared = match request.length {
            BodyLength::Length(bytes) => Some(bytes),
            _ => None,
        };
        let Some(stream) = self.stream(id) else { return Ok(()) };
        (stream.declared, stream.is_remote_closed) = (declared, ends);
        if let Some(priority) = priority {
            stream.priority = priority;
        }
        self.events.push_back(Event { stream: id, request, ends, bytes: self.block_length });
        Ok(())
    }

    /// The block that is being read takes too long: its stream ends, the connection goes on. False: it was told so
    /// before, or there is none.
    pub fn give_up_head(&mut self, rest: &[u8]) -> bool {
        if self.failure.is_some() || matches!(self.state, State::Preface(_)) {
            return false;
        }
        let id = match self.block {
            Some((_, Block::Late)) => return false,
            Some((id, _)) => id,
            None => match rest.first_chunk::<HEAD_BYTES>().map(Head::parse) {
                Some(head) if head.kind == kind::HEADERS && is_of_client(head.stream) => head.stream,
                _ => return false,
            },
        };
        if self.block.is_none() {
            // its first bytes are still outside: what follows is a block of a stream that has ended
            if id <= self.last || id > self.last_served {
                return false;
            }
            self.last = id;
            self.remember_ended(id);
            frame::put_reset(id, Code::PROTOCOL_ERROR, &mut self.output);
            return true;
        }
        self.block = Some((id, Block::Late));
        if let Ok(index) = self.index(id) {
            self.streams.remove(index);
        }
        self.remember_ended(id);
        frame::put_reset(id, Code::PROTOCOL_ERROR, &mut self.output);
        true
    }
}
