//! Sends to the client: heads, data and ends of responses.
//!
//! Touches: the QUIC connection. A frame of data is as long as the data that there is, though the stream may take less of it
//! at first: the rest of the frame is what the task brings next. Packets of streams take turns whatever their frames are, so
//! short frames would help nobody. RFC 9114 §4.1, §7.2.

use std::task::Waker;

use quinn_proto::WriteError;

use crate::http::h3::State;
use crate::http::h3::state::{Request, code, stream_id};
use crate::http::streams::{Gone, Sent};
use crate::proto::h3::Code;
use crate::proto::h3::frame::{self, kind};

impl State {
    /// Writes to a stream as much as it takes.
    fn write(&mut self, id: u64, bytes: &[u8]) -> Result<usize, Gone> {
        match self.quic.state.send_stream(stream_id(id)).write(bytes) {
            Ok(count) => Ok(count),
            Err(WriteError::Blocked) => Ok(0),
            Err(WriteError::Stopped(_) | WriteError::ClosedStream) => Err(Gone),
        }
    }

    fn open_request(&mut self, id: u64) -> Result<&mut Request, Gone> {
        match self.streams.get_mut(&id) {
            Some(request) if !request.is_gone && !request.is_finished => Ok(request),
            _ => Err(Gone),
        }
    }

    /// Sends heads of frames and sections that wait, and the end behind them. True: nothing is left.
    fn flush(&mut self, id: u64) -> Result<bool, Gone> {
        let mut out = std::mem::take(&mut self.open_request(id)?.out);
        let mut sent = 0;
        while sent < out.len() {
            match self.write(id, &out[sent..])? {
                0 => break,
                count => sent += count,
            }
        }
        out.drain(..sent);
        let is_empty = out.is_empty();
        let request = self.open_request(id)?;
        request.out = out;
        if is_empty && request.is_last && request.frame_left == 0 {
            request.is_finished = true;
            let _ = self.quic.state.send_stream(stream_id(id)).finish();
        }
        Ok(is_empty)
    }

    pub(super) fn send_block(&mut self, id: u64, block: &[u8], ends: bool) -> Result<(), Gone> {
        let request = self.open_request(id)?;
        frame::put_head(kind::HEADERS, block.len(), &mut request.out);
        request.out.extend_from_slice(block);
        request.is_last = ends;
        self.flush(id).map(|_| ())
    }

    pub(super) fn send_data(
        &mut self,
        id: u64,
        data: &[u8],
        ends: bool,
        waker: &Waker,
    ) -> Result<Sent, Gone> {
        let mut count = 0;
        loop {
            if !self.flush(id)? {
                break;
            }
            let left = data.len() - count;
            let request = self.open_request(id)?;
            if left == 0 {
                request.is_last |= ends;
                self.flush(id)?;
                return Ok(Sent { count, is_done: true });
            }
            if request.frame_left == 0 {
                request.frame_left = left;
                frame::put_head(kind::DATA, request.frame_left, &mut request.out);
                continue;
            }
            let most = request.frame_left.min(left);
            let taken = self.write(id, &data[count..count + most])?;
            if taken == 0 {
                break;
            }
            count += taken;
            self.open_request(id)?.frame_left -= taken;
        }
        self.open_request(id)?.writer = Some(waker.clone());
        Ok(Sent { count, is_done: false })
    }

    /// A stream has room again.
    pub(super) fn writable(&mut self, id: u64) {
        let _ = self.flush(id); // its task is told, too
        if let Some(writer) = self.streams.get_mut(&id).and_then(|request| request.writer.take()) {
            writer.wake();
        }
        let Some(at) = self.tails.iter().position(|(tail, _)| *tail == id) else { return };
        let (_, mut bytes) = self.tails.swap_remove(at);
        while !bytes.is_empty() {
            match self.write(id, &bytes) {
                Ok(0) => return self.tails.push((id, bytes)),
                Ok(count) => drop(bytes.drain(..count)),
                Err(Gone) => return,
            }
        }
        let _ = self.quic.state.send_stream(stream_id(id)).finish();
    }

    /// A request has been answered, or given up: the stream ends, with this error if its response is not complete.
    pub(super) fn close(&mut self, id: u64, why: Code) {
        let Some(request) = self.streams.remove(&id) else { return };
        if !request.has_begun {
            self.heads.remove(&id);
        }
        if request.blocked.is_some() {
            self.blocked_count = self.blocked_count.saturating_sub(1);
        }
        if self.is_closed() {
            return;
        }
        if !request.is_remote_closed {
            self.peer.decoder.cancel(id); // sections may still come that nobody will read (RFC 9204 §4.4.2)
        }
        let is_complete = request.is_finished || request.is_last && request.frame_left == 0;
        let mut stream = self.quic.state.send_stream(stream_id(id));
        if request.is_gone || !is_complete {
            let _ = stream.reset(code(if request.is_gone { Code::REQUEST_CANCELLED } else { why }));
        } else if !request.is_finished {
            self.tails.push((id, request.out));
        }
        if !request.is_remote_closed {
            let why = if is_complete { Code::NO_ERROR } else { why };
            let _ = self.quic.state.recv_stream(stream_id(id)).stop(code(why));
        }
    }
}
