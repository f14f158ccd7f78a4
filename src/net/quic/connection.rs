//! One QUIC connection: the part between the state machine of quinn-proto and the worker.
//!
//! Touches: the listener's socket, by its endpoint. Its owner polls it; nothing here waits. RFC 9000, RFC 9002.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn_proto::{ConnectionHandle, Event, VarInt};

use crate::net::quic::endpoint::{Endpoint, Mailbox};
use crate::net::quic::session::{Choose, choosing};
use crate::net::tls::Info;
use crate::runtime::{self, Timer};
use crate::sys::datagrams::{BURST_BYTES_MAX, SEGMENTS_MAX};

/// Datagrams that are handled, or sent, before other tasks get their turn.
const TURN_MAX: usize = 64;
/// About what it costs to handle a datagram, and to send one, in microseconds of the task's budget.
const DATAGRAM_COST: u32 = 5;
const SENT_COST: u32 = 2;

/// A connection. Dropping it forgets it at once; [`Connection::close`] tells the peer.
pub struct Connection {
    endpoint: Rc<Endpoint>,
    handle: ConnectionHandle,
    mailbox: Rc<Mailbox>,
    /// The protocol's state.
    pub state: Box<quinn_proto::Connection>,
    /// How the handshake's settings are chosen, until it is complete.
    choose: Option<Choose>,
    timer: Timer,
    peer: SocketAddr,
    local: Option<IpAddr>,
    /// The peer was told that the connection is closed.
    has_told: bool,
}

impl fmt::Debug for Connection {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Connection").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Connection {
    pub(super) fn new(
        endpoint: Rc<Endpoint>,
        (handle, mailbox): (ConnectionHandle, Rc<Mailbox>),
        state: quinn_proto::Connection,
        choose: Choose,
        (peer, local): (SocketAddr, Option<IpAddr>),
    ) -> Self {
        let (state, choose, timer) = (Box::new(state), Some(choose), Timer::new());
        Self { endpoint, handle, mailbox, state, choose, timer, peer, local, has_told: false }
    }

    /// The client's address when the connection began.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The address that the client has sent to, if the listener has several.
    pub fn local(&self) -> Option<IpAddr> {
        self.local
    }

    /// The result of the handshake; `None`: the client has not said enough.
    pub fn info(&self) -> Option<Info> {
        let data = self.state.crypto_session().handshake_data()?;
        data.downcast::<Info>().ok().map(|info| *info)
    }

    /// Takes what has arrived, and lets time pass. False: more waits, and other tasks should have their turn first.
    pub fn receive(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let mut count = 0;
        while count < TURN_MAX
            && let Some(event) = self.mailbox.take()
        {
            match &self.choose {
                Some(choose) => choosing(choose, || self.state.handle_event(event)),
                None => self.state.handle_event(event),
            }
            count += 1;
        }
        if self.choose.is_some() && !self.state.is_handshaking() {
            self.choose = None;
        }
        runtime::charge(count as u32 * DATAGRAM_COST);
        self.mailbox.wake_later(cx.waker());
        if self.state.poll_timeout().is_some_and(|timeout| timeout <= now) {
            self.state.handle_timeout(now);
        }
        self.mailbox.is_empty()
    }

    /// The next thing that has happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.state.poll()
    }

    /// Sends what there is to say. Ready when nothing is left; pending while the socket has no room, and when other tasks
    /// should have their turn first: the task is woken.
    pub fn poll_send(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<()> {
        self.exchange();
        let mut count = 0;
        loop {
            if self.endpoint.answers().poll_space(cx).is_pending() {
                return Poll::Pending;
            }
            if count >= TURN_MAX {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let burst_max = (BURST_BYTES_MAX / usize::from(self.state.current_mtu())).clamp(1, SEGMENTS_MAX);
            let sent = self.endpoint.send_with(|buffer| self.state.poll_transmit(now, burst_max, buffer));
            if sent == 0 {
                break;
            }
            self.has_told |= self.state.is_closed();
            runtime::charge(sent as u32 * SENT_COST);
            count += sent;
        }
        self.exchange();
        Poll::Ready(())
    }

    /// Gives back what a connection needs only while it is busy.
    pub fn slim(&self) {
        self.mailbox.slim();
    }

    /// True if the connection is closed and its peer was told, or does not listen any more.
    pub fn is_over(&self) -> bool {
        self.state.is_drained() || self.state.is_closed() && self.has_told
    }

    /// Exchanges connection IDs with the endpoint.
    fn exchange(&mut self) {
        while let Some(event) = self.state.poll_endpoint_events() {
            if event.is_drained() {
                continue; // when it is dropped
            }
            if let Some(event) = self.endpoint.exchange(self.handle, event) {
                self.state.handle_event(event);
            }
        }
    }

    /// Ready when [`Connection::receive`] has to be called for the time.
    pub fn poll_time(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<()> {
        let Some(timeout) = self.state.poll_timeout() else { return Poll::Pending };
        let left = timeout.saturating_duration_since(now);
        if left.is_zero() {
            return Poll::Ready(());
        }
        // Not earlier than it is due: the loop's clock has milliseconds.
        self.timer.set(runtime::now_ms() + (left + Duration::from_micros(999)).as_millis() as u64);
        self.timer.poll_expired(cx)
    }

    /// Closes the connection; the peer is told by the next [`Connection::poll_send`].
    pub fn close(&mut self, code: u64, reason: &'static str, now: Instant) {
        let code = VarInt::from_u64(code).unwrap_or(VarInt::MAX);
        self.state.close(now, code, Bytes::from_static(reason.as_bytes()));
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.endpoint.leave(self.handle, false);
        self.endpoint.answers().flush(); // the last one of a leaving worker is its end
    }
}
