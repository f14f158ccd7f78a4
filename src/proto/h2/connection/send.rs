//! The sending side of a connection: heads, data within both windows, and the turns of streams that wait for room.
//!
//! Bytes of all streams meet in one output, which the connection's task writes at once. A stream may add data while the
//! output holds less than [`OUTPUT_BYTES_MAX`]; beyond that it waits in a queue, from which those with the highest
//! priority go first, and equals in turns.
//! Touches: nothing. RFC 9113 §5.2, §6.8; RFC 9218 §10.

use std::task::Waker;

use super::{BODY_WINDOW_BYTES, Connection, Leaving, REQUEST_REFUND};
use crate::proto::h2::frame::{self, Code, HEAD_BYTES, Head, STREAM_MAX, flag, kind};
use crate::proto::h2::stream::{Priority, Reset};

/// The output takes data up to this size; heads and control frames may follow.
pub const OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// The data that a stream adds in one turn while others wait.
const TURN_BYTES: usize = 16 * 1024;
/// Points of abuse that a frame of data pays back: its receiver answers it with two updates of windows.
const DATA_REFUND: u32 = 3;

/// The stream has been reset, or its connection is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

/// The result of adding data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// How much was taken.
    pub count: usize,
    /// Everything was, and with it the end of the stream if that was asked for. False: the task is woken when more may be
    /// sent.
    pub is_done: bool,
}

impl Connection {
    /// Adds a header block to the output. `ends`: nothing follows it.
    pub fn send_block(&mut self, id: u32, block: &[u8], ends: bool) -> Result<(), Gone> {
        // a client that asks for longer frames gets its head in one, as from nginx; servers need not be asked
        let payload_max = match self.client {
            Some(_) => self.peer_payload_max.min(frame::PAYLOAD_BYTES_MAX),
            None => self.peer_payload_max,
        };
        let stream = self.stream(id).ok_or(Gone)?;
        if stream.reset.is_some() || stream.is_local_closed {
            return Err(Gone);
        }
        stream.is_local_closed = ends;
        frame::put_block(id, block, ends, payload_max, &mut self.output);
        Ok(())
    }

    /// Adds data in frames of up to `frame_bytes`, as far as the windows and the output allow. `ends`: the stream ends
    /// with it.
    pub fn send_data(
        &mut self,
        id: u32,
        data: &[u8],
        ends: bool,
        frame_bytes: usize,
        waker: &Waker,
    ) -> Result<Sent, Gone> {
        let index = self.index(id).map_err(|_| Gone)?;
        if self.streams[index].reset.is_some() || self.streams[index].is_local_closed {
            return Err(Gone);
        }
        if data.is_empty() {
            if ends {
                Head { length: 0, kind: kind::DATA, flags: flag::END_STREAM, stream: id }
                    .write(&mut self.output);
                self.streams[index].is_local_closed = true;
            }
            return Ok(Sent { count: 0, is_done: true });
        }
        let window = self.send_window.min(self.streams[index].send_window).max(0) as usize;
        let mut pending = self.pending();
        let stream = &mut self.streams[index];
        let granted = std::mem::take(&mut stream.granted);
        let allowed = window.min(if self.queue.is_empty() { usize::MAX } else { granted });
        let frame_max = frame_bytes.min(self.peer_payload_max).max(1);
        let mut count = 0;
        while count < data.len().min(allowed) && pending < OUTPUT_BYTES_MAX {
            // whole frames: a full output never splits one
            let part = &data[count..data.len().min(allowed).min(count + frame_max)];
            count += part.len();
            let flags = if ends && count == data.len() { flag::END_STREAM } else { 0 };
            frame::put(kind::DATA, flags, id, part, &mut self.output);
            pending += HEAD_BYTES + part.len();
            self.abuse.pay_back(DATA_REFUND);
        }
        let is_done = count == data.len();
        self.send_window -= count as i64;
        stream.send_window -= count as i64;
        stream.is_local_closed = is_done && ends;
        if !is_done {
            stream.wake_later(waker);
            let waits_for_room = window > count;
            if waits_for_room && !stream.is_queued {
                stream.is_queued = true;
                self.queue.push_back(id);
            }
        }
        self.grant();
        Ok(Sent { count, is_done })
    }

    /// Ends a stream before its time.
    pub fn reset(&mut self, id: u32, code: Code) {
        frame::put_reset(id, code, &mut self.output);
        self.remember_ended(id);
        if let Some(stream) = self.stream(id)
            && stream.reset.is_none()
        {
            stream.reset = Some(Reset::ByUs(code));
            stream.wake();
            let unread = std::mem::take(&mut stream.received).len();
            self.owe_used(unread as u32);
        }
    }

    /// The task of a stream is done with it. A response that is not complete ends with `code`; a request whose rest is
    /// not wanted ends without an error.
    pub fn close(&mut self, id: u32, code: Code) {
        let Ok(index) = self.index(id) else { return };
        let stream = self.streams.remove(index);
        // A body that was read to its end is never released: nothing more is read.
        self.owe_used(stream.received.len() as u32 + stream.taken);
        if stream.reset.is_none() && self.client.is_some() {
            if !stream.is_local_closed || !stream.is_remote_closed {
                frame::put_reset(id, code, &mut self.output);
                self.remember_ended(id);
            }
        } else if stream.reset.is_none() {
            let is_whole = stream.is_local_closed;
            if !is_whole || !stream.is_remote_closed || code == Code::PROTOCOL_ERROR {
                let code = if is_whole && code != Code::PROTOCOL_ERROR { Code::NO_ERROR } else { code };
                frame::put_reset(id, code, &mut self.output);
                self.remember_ended(id);
            }
            if is_whole {
                self.abuse.pay_back(REQUEST_REFUND);
            }
        }
        if stream.is_queued {
            self.queue.retain(|queued| *queued != id);
        }
        self.grant();
    }

    /// The data of a stream that has arrived; empty if there is none. Call [`Connection::release`] once it has been used.
    pub fn take_data(&mut self, id: u32) -> Vec<u8> {
        let Some(stream) = self.stream(id) else { return Vec::new() };
        let data = std::mem::take(&mut stream.received);
        stream.taken += data.len() as u32;
        data
    }

    /// Data was used: the peer may send as much again. Once the stream is closed there is nothing to release.
    pub fn release(&mut self, id: u32, bytes: usize) {
        let Some(stream) = self.stream(id) else { return };
        let bytes = stream.taken.min(u32::try_from(bytes).unwrap_or(u32::MAX));
        stream.taken -= bytes;
        self.owe_used(bytes);
        let Some(stream) = self.stream(id) else { return };
        stream.owed += bytes;
        if stream.is_remote_closed || stream.reset.is_some() || stream.owed < stream.window_size / 2 {
            return;
        }
        let owed = std::mem::take(&mut stream.owed);
        stream.receive_window += i64::from(owed);
        frame::put_window_update(id, owed, &mut self.output);
    }

    /// The body of a stream is being read: its window grows from the one for bodies that nobody reads yet.
    pub fn open_window(&mut self, id: u32) {
        let Some(stream) = self.stream(id) else { return };
        let is_short = stream
            .declared
            .is_some_and(|left| i64::try_from(left).is_ok_and(|left| left <= stream.receive_window));
        if stream.window_size >= BODY_WINDOW_BYTES
            || stream.is_remote_closed
            || stream.reset.is_some()
            || is_short
        {
            return;
        }
        let more = BODY_WINDOW_BYTES - stream.window_size + std::mem::take(&mut stream.owed);
        stream.window_size = BODY_WINDOW_BYTES;
        stream.receive_window += i64::from(more);
        frame::put_window_update(id, more, &mut self.output);
    }

    /// The bytes that wait to be sent.
    pub fn output(&self) -> &[u8] {
        &self.output[self.sent..]
    }

    fn pending(&self) -> usize {
        self.output.len() - self.sent
    }

    /// The peer's connection has taken so many of them.
    pub fn sent(&mut self, count: usize) {
        self.sent = (self.sent + count).min(self.output.len());
        if self.sent == self.output.len() {
            self.output.clear();
            self.sent = 0;
            // what was granted and not used must not keep others waiting
            self.streams.iter_mut().for_each(|stream| stream.granted = 0);
        } else if self.sent > OUTPUT_BYTES_MAX {
            self.output.drain(..self.sent);
            self.sent = 0;
        }
        self.grant();
    }

    /// Gives spare memory back, while the connection waits.
    pub fn slim(&mut self) {
        if self.output.is_empty() {
            self.output = Vec::new();
        }
        if self.streams.is_empty() {
            self.streams = Vec::new();
            self.queue = Default::default();
            self.ended.shrink_to_fit();
        }
        if self.block.is_none() {
            self.block_bytes = Vec::new();
        }
        self.events.shrink_to_fit();
        self.decoder.slim();
    }

    /// Gives the room in the output to the streams whose turn it is.
    fn grant(&mut self) {
        if self.queue.is_empty() {
            return;
        }
        let granted: usize = self.streams.iter().map(|stream| stream.granted).sum();
        let mut room = OUTPUT_BYTES_MAX.saturating_sub(self.pending()).saturating_sub(granted);
        while room > 0 && self.send_window > 0 {
            let Some(id) = self.take_turn() else { return };
            let shares =
                self.first_rank().is_some_and(|next| self.rank(id).is_some_and(|own| next.0 <= own.0));
            let turn = if shares { TURN_BYTES.min(room) } else { room };
            let Some(stream) = self.stream(id) else { continue };
            (stream.is_queued, stream.granted) = (false, turn);
            stream.wake();
            room -= turn;
        }
    }

    /// The order of a stream in the queue: by urgency; of equals, those that are of use only as a whole go first and do
    /// not share, since the oldest one goes on.
    fn rank(&self, id: u32) -> Option<(u8, u32)> {
        let Priority { urgency, incremental } = self.streams.get(self.index(id).ok()?)?.priority;
        Some((urgency, if incremental { u32::MAX } else { id }))
    }

    fn first_rank(&self) -> Option<(u8, u32)> {
        self.queue.iter().filter_map(|id| self.rank(*id)).min()
    }

    /// Takes the next stream off the queue.
    fn take_turn(&mut self) -> Option<u32> {
        let ranks = self.queue.iter().enumerate().map(|(at, id)| (self.rank(*id), at));
        let (_, at) = ranks.min()?;
        self.queue.remove(at)
    }

    /// Wakes the streams that may be able to send again.
    pub(super) fn wake_writers(&mut self) {
        for stream in &mut self.streams {
            stream.wake();
        }
    }

    /// Begins to end the connection. The first GOAWAY names no stream, since requests may be on their way; the PING behind
    /// it comes back when they have all arrived.
    pub fn announce_leaving(&mut self) {
        if self.leaving == Leaving::No {
            self.leaving = Leaving::Announced;
            frame::put_go_away(STREAM_MAX, Code::NO_ERROR, &mut self.output);
            frame::put(kind::PING, 0, 0, super::LEAVING_PING, &mut self.output);
        }
    }

    /// True once no request can be on its way that the client sent before it knew that we leave.
    pub fn has_announced(&self) -> bool {
        self.is_ping_back
    }

    /// Ends the connection for further requests: the streams that have begun go on.
    pub fn leave(&mut self) {
        if self.leaving != Leaving::Final {
            self.leaving = Leaving::Final;
            self.last_served = self.last;
            frame::put_go_away(self.last, Code::NO_ERROR, &mut self.output);
        }
    }

    /// True if further requests are not served.
    pub fn is_leaving(&self) -> bool {
        self.leaving == Leaving::Final
    }

    /// Ends the connection with all its streams.
    pub fn end(&mut self, code: Code) {
        if self.failure.is_none() {
            self.end_with(code);
        }
    }
}

const _: () = assert!(TURN_BYTES + HEAD_BYTES < OUTPUT_BYTES_MAX);
