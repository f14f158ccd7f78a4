//! The side of a client: streams that we open, the heads of their responses, and the end that a server announces.
//!
//! Windows of streams bound the data that has arrived and was not taken; the window of the connection is given back at
//! once, so that a response nobody reads never stops the others. Bounded besides: interim heads, the bytes of a head
//! (each request says how many), and by the account of abuse every frame that brings no response forward.
//! Touches: nothing. RFC 9113 §5.1.2, §6.7, §6.8, §8.1, §8.7.

use super::{CONNECTION_WINDOW_BYTES, Connection, Failure, Gone, Leaving, Limits};
use crate::proto::h2::frame::{self, Code, PREFACE, STREAM_MAX, WINDOW_DEFAULT, kind, setting};
use crate::proto::h2::response::{Builder, Malformed};
use crate::proto::h2::stream::{Incoming, Reset, Stream};
use crate::proto::message::Method;

/// The window of a response: the most data of it that has arrived and was not taken.
pub const RESPONSE_WINDOW_BYTES: u32 = 128 * 1024;
/// The most interim heads of one response; an exchange with HTTP/1 allows as many.
const INTERIM_MAX: u32 = 32;
/// Points of abuse that a request pays back: its response may cost as many frames without use.
const OPEN_REFUND: u32 = 16;
/// The payload of a PING that asks whether the server is alive.
const HEALTH_PING: &[u8; 8] = b"alive?\0\0";

/// The state that only a client has.
#[derive(Debug, Default)]
pub(super) struct State {
    /// SETTINGS_MAX_CONCURRENT_STREAMS of the server; `None`: it has set no limit.
    streams_max: Option<u32>,
    /// The server has announced its end: the last stream that it serves, and why.
    leaving: Option<(u32, Code)>,
    /// A PING is on its way.
    is_pinging: bool,
}

/// How a stream begins.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// No body follows the head.
    pub ends: bool,
    /// The longest head of its response, as text.
    pub head_bytes_max: usize,
    /// The request is HEAD.
    pub is_of_head: bool,
}

impl Connection {
    /// The client's side of a new connection; its preface and SETTINGS wait to be sent.
    pub fn client(limits: Limits) -> Self {
        let settings = [
            (setting::ENABLE_PUSH, 0),
            (setting::INITIAL_WINDOW_SIZE, limits.stream_window),
            (setting::NO_RFC7540_PRIORITIES, 1),
        ];
        let mut output = PREFACE.to_vec();
        frame::put_settings(&settings, &mut output);
        frame::put_window_update(0, CONNECTION_WINDOW_BYTES - WINDOW_DEFAULT, &mut output);
        let mut connection = Self::with(limits, super::State::Frame, output);
        connection.client = Some(Box::default());
        connection.decoder.is_lenient = true;
        connection
    }

    /// True if another stream may be opened now.
    pub fn may_open(&self) -> bool {
        self.may_open_later() && self.streams.len() < self.streams_max()
    }

    /// How many streams may be open at a time, by the server's limit and ours.
    pub fn streams_max(&self) -> usize {
        let permitted = self.client.as_ref().and_then(|client| client.streams_max);
        permitted.unwrap_or(u32::MAX).min(self.limits.streams_max) as usize
    }

    /// True if another stream may be opened, at the latest when others have ended.
    pub fn may_open_later(&self) -> bool {
        let is_over = self.failure.is_some() || self.leaving != Leaving::No || self.last >= STREAM_MAX - 2;
        !is_over && self.client.as_ref().is_some_and(|client| client.leaving.is_none())
    }

    /// Opens a stream with a request's header block. Errors: no stream may be opened.
    pub fn open_stream(&mut self, block: &[u8], opening: Opening) -> Result<u32, Gone> {
        if !self.may_open() {
            return Err(Gone);
        }
        let Opening { ends, head_bytes_max, is_of_head } = opening;
        let id = if self.last == 0 { 1 } else { self.last + 2 };
        self.last = id;
        let bound = &mut self.limits.head;
        bound.head_bytes_max = bound.head_bytes_max.max(head_bytes_max);
        bound.line_bytes_max = bound.head_bytes_max;
        let mut stream = Box::new(Stream::new(id, self.peer_stream_window, self.limits.stream_window));
        stream.incoming = Some(Box::new(Incoming { head_bytes_max, is_of_head, ..Incoming::default() }));
        self.streams.push(stream);
        self.abuse.pay_back(OPEN_REFUND);
        self.send_block(id, block, ends)?;
        Ok(id)
    }

    /// A complete head of a response.
    pub(super) fn response(&mut self, id: u32, bytes: &[u8], ends: bool) -> Result<(), (Code, Failure)> {
        let index = self.index(id).ok();
        let incoming = index.and_then(|index| self.streams[index].incoming.as_ref());
        let (bytes_max, is_of_head) =
            incoming.map_or((0, false), |incoming| (incoming.head_bytes_max, incoming.is_of_head));
        let mut builder = Builder::new(bytes_max);
        let decoded = self.decoder.decode(bytes, &mut builder);
        decoded.map_err(|stop| (stop.code(), Failure::Violation(stop.as_str())))?;
        let built = builder.finish(if is_of_head { Method::Head } else { Method::Get });
        let Some(stream) = index.and_then(|index| self.streams.get_mut(index)) else { return Ok(()) };
        let Some(incoming) = &mut stream.incoming else { return Ok(()) };
        let fault = match built {
            Ok((response, declared)) => {
                let is_interim = response.head.status < 200;
                incoming.interim_count += u32::from(is_interim);
                match (is_interim, ends) {
                    (true, true) => Some("1xx that ends the response"),
                    (true, false) if incoming.interim_count > INTERIM_MAX => Some("too many 1xx"),
                    _ => {
                        incoming.heads.push_back(response);
                        if !is_interim {
                            incoming.has_head = true;
                            stream.declared = declared;
                        }
                        None
                    }
                }
            }
            Err(Malformed::TooBig) => {
                incoming.is_too_big = true;
                Some("too big header")
            }
            Err(Malformed::Rule(text)) => Some(text),
        };
        if let Some(text) = fault {
            stream.fault = Some(text);
            return self.stream_error(id, Code::PROTOCOL_ERROR);
        }
        if ends {
            // a response to HEAD declares the length of a body that does not follow
            stream.end();
        }
        stream.wake();
        Ok(())
    }

    /// The server resets a stream. What has arrived of its response remains.
    pub(super) fn reset_by_server(&mut self, id: u32, code: Code) {
        let Some(stream) = self.stream(id).filter(|stream| stream.reset.is_none()) else { return };
        if stream.is_remote_closed && code == Code::NO_ERROR && !stream.is_stopped {
            // the response is complete: only the rest of the request is not wanted (§8.1)
            (stream.is_stopped, stream.is_local_closed) = (true, true);
        } else {
            stream.reset = Some(Reset::ByPeer(code));
        }
        stream.wake();
    }

    /// The server sends GOAWAY: it has not begun streams above `last`, and serves no further ones.
    pub(super) fn server_leaves(&mut self, last: u32, code: Code) {
        let Some(client) = &mut self.client else { return };
        let last = client.leaving.map_or(last, |(known, _)| known.min(last));
        client.leaving = Some((last, code));
        for stream in self.streams.iter_mut().filter(|stream| stream.id > last) {
            stream.reset.get_or_insert(Reset::Unprocessed(code));
            stream.wake();
        }
    }

    /// The server says how many streams may be open at a time.
    pub(super) fn server_permits(&mut self, streams_max: u32) {
        if let Some(client) = &mut self.client {
            client.streams_max = Some(streams_max);
        }
    }

    /// The code with which the server has announced its end.
    pub fn server_left(&self) -> Option<Code> {
        self.client.as_ref()?.leaving.map(|(_, code)| code)
    }

    /// Asks the server whether it is alive, unless it has been asked.
    pub fn ping(&mut self) {
        if let Some(client) = &mut self.client
            && !std::mem::replace(&mut client.is_pinging, true)
        {
            frame::put(kind::PING, 0, 0, HEALTH_PING, &mut self.output);
        }
    }

    /// True if the server has been asked and has not answered.
    pub fn is_pinging(&self) -> bool {
        self.client.as_ref().is_some_and(|client| client.is_pinging)
    }

    pub(super) fn ping_answered(&mut self, payload: &[u8]) {
        if let Some(client) = &mut self.client {
            client.is_pinging &= payload != HEALTH_PING;
        }
    }

    /// The connection has ended: so have the streams whose responses are not complete.
    pub fn lose(&mut self) {
        self.leaving = Leaving::Final;
        for stream in self.streams.iter_mut() {
            if !stream.is_remote_closed {
                stream.reset.get_or_insert(Reset::Lost);
            }
            (stream.is_stopped, stream.is_local_closed) = (true, true);
            stream.wake();
        }
    }
}

const _: () = assert!(RESPONSE_WINDOW_BYTES < CONNECTION_WINDOW_BYTES);

#[cfg(test)]
mod tests;
