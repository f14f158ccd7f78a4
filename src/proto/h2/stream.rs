//! One stream of a connection: its state, its two windows, and the data that waits to be read.
//!
//! Touches: nothing. RFC 9113 §5.

use std::collections::VecDeque;
use std::task::Waker;

use crate::proto::h2::frame::Code;
use crate::proto::h2::response::Response;

/// How a stream ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    ByPeer(Code),
    ByUs(Code),
    /// To a client: its server leaves, by GOAWAY with this code, and has not begun the request.
    Unprocessed(Code),
    /// To a client: the connection ended before the response did.
    Lost,
}

/// The precedence of a response (RFC 9218 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Priority {
    /// 0 to 7; lower ones go first.
    pub urgency: u8,
    /// The response is of use in parts, so it shares the connection with its equals.
    pub incremental: bool,
}

impl Default for Priority {
    /// For peers that say nothing: urgency 3, and all responses share, as equals.
    fn default() -> Self {
        Self { urgency: 3, incremental: true }
    }
}

/// A stream that has begun and that its user has not closed yet.
#[derive(Debug)]
pub struct Stream {
    pub(super) id: u32,
    /// What the peer allows us to send; negative after it has shrunk its windows (§6.9.2).
    pub(super) send_window: i64,
    /// What we allow the peer to send.
    pub(super) receive_window: i64,
    /// The window to keep open for the peer.
    pub(super) window_size: u32,
    /// Bytes that were read and for which the peer has not been given room again.
    pub(super) owed: u32,
    /// Bytes that its user has taken and not released.
    pub(super) taken: u32,
    /// Data that has arrived and was not taken.
    pub(super) received: Vec<u8>,
    /// The bytes of the body that are still to come, if `content-length` declares them.
    pub(super) declared: Option<u64>,
    /// The peer has ended its direction.
    pub(super) is_remote_closed: bool,
    /// We have ended ours.
    pub(super) is_local_closed: bool,
    pub(super) reset: Option<Reset>,
    /// The body contradicts its declared length; to a client also: the response is malformed.
    pub(super) fault: Option<&'static str>,
    pub(super) priority: Priority,
    /// It waits in the queue for room in the output.
    pub(super) is_queued: bool,
    /// The bytes that it may add, since it was its turn in the queue.
    pub(super) granted: usize,
    /// The task that serves it.
    pub(super) waker: Option<Waker>,
    /// To a client: the rest of the request is not wanted.
    pub(super) is_stopped: bool,
    /// To a client: the response.
    pub(super) incoming: Option<Box<Incoming>>,
}

/// A response on its way to a client.
#[derive(Debug, Default)]
pub struct Incoming {
    /// Heads that have arrived and were not taken: interim ones, then the final one.
    pub(super) heads: VecDeque<Response>,
    /// How many interim heads have come.
    pub(super) interim_count: u32,
    /// The final head has come.
    pub(super) has_head: bool,
    /// The longest head.
    pub(super) head_bytes_max: usize,
    /// No body may follow its head: the request was HEAD.
    pub(super) is_of_head: bool,
    /// The head is longer than that.
    pub(super) is_too_big: bool,
    /// Trailers, each line ended by CRLF.
    pub(super) trailers: Vec<u8>,
}

impl Stream {
    pub(super) fn new(id: u32, send_window: u32, receive_window: u32) -> Self {
        Self {
            id,
            send_window: i64::from(send_window),
            receive_window: i64::from(receive_window),
            window_size: receive_window,
            owed: 0,
            taken: 0,
            received: Vec::new(),
            declared: None,
            is_remote_closed: false,
            is_local_closed: false,
            reset: None,
            fault: None,
            priority: Priority::default(),
            is_queued: false,
            granted: 0,
            waker: None,
            is_stopped: false,
            incoming: None,
        }
    }

    /// Data of the peer that has arrived and was not taken.
    pub fn has_data(&self) -> bool {
        !self.received.is_empty()
    }

    /// True once the peer has ended its direction; data may still wait.
    pub fn is_remote_closed(&self) -> bool {
        self.is_remote_closed
    }

    pub fn is_local_closed(&self) -> bool {
        self.is_local_closed
    }

    pub fn reset(&self) -> Option<Reset> {
        self.reset
    }

    /// How the body contradicts its declared length, or what is wrong with a response; follows `sent`.
    pub fn fault(&self) -> Option<&'static str> {
        self.fault
    }

    /// True if the response of this stream has no final head yet.
    pub(super) fn awaits_head(&self) -> bool {
        let awaits = self.incoming.as_ref().is_some_and(|incoming| !incoming.has_head);
        awaits && self.reset.is_none() && !self.is_remote_closed
    }

    /// True if a head has arrived and was not taken.
    pub fn has_head(&self) -> bool {
        self.incoming.as_ref().is_some_and(|incoming| !incoming.heads.is_empty())
    }

    /// The next head that has arrived.
    pub fn take_head(&mut self) -> Option<Response> {
        self.incoming.as_mut()?.heads.pop_front()
    }

    /// The trailers of the response, each line ended by CRLF.
    pub fn take_trailers(&mut self) -> Vec<u8> {
        self.incoming.as_mut().map(|incoming| std::mem::take(&mut incoming.trailers)).unwrap_or_default()
    }

    /// True if trailers have arrived and were not taken.
    pub fn has_trailers(&self) -> bool {
        self.incoming.as_ref().is_some_and(|incoming| !incoming.trailers.is_empty())
    }

    /// True if the peer has ended its direction as it should, and everything but trailers was taken.
    pub fn is_read(&self) -> bool {
        self.is_remote_closed && self.received.is_empty() && self.reset.is_none() && self.fault.is_none()
    }

    /// True if the peer does not want the rest of the request, or cannot take it any more.
    pub fn is_stopped(&self) -> bool {
        self.is_stopped
    }

    /// True if the head of the response is longer than it may be.
    pub fn is_head_too_big(&self) -> bool {
        self.incoming.as_ref().is_some_and(|incoming| incoming.is_too_big)
    }

    /// Notes the task to wake when something changes.
    pub fn wake_later(&mut self, waker: &Waker) {
        if !self.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            self.waker = Some(waker.clone());
        }
    }

    pub(super) fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Counts data of the body against its declared length. False: it is not passed on.
    pub(super) fn count(&mut self, bytes: u64) -> bool {
        let Some(left) = &mut self.declared else { return self.fault.is_none() };
        match left.checked_sub(bytes) {
            Some(rest) => *left = rest,
            None => self.fault = Some("a body longer than its \"content-length\""),
        }
        self.fault.is_none()
    }

    /// The peer has ended its direction.
    pub(super) fn end(&mut self) {
        self.is_remote_closed = true;
        if self.declared.is_some_and(|left| left > 0) {
            self.fault.get_or_insert("a body shorter than its \"content-length\"");
        }
    }
}
