//! The record of a request's way through its upstreams: each attempt, its times and its bytes.
//!
//! The exchange writes it, the access log, the counters and the error log read it. Touches: the counters.

use std::rc::Rc;

use smallvec::SmallVec;

use crate::net::Transport;
use crate::net::open::Place;
use crate::proto::h1::response::ResponseHead;
use crate::runtime;
use crate::runtime::buffer::Buffer;
use crate::shm::behind;
use crate::shm::counter::{Slot, Word};
use crate::upstream::GroupState;
use crate::upstream::peer::Peer;

/// An upstream's response head, kept for `$upstream_http_…`.
#[derive(Debug, Default)]
pub struct Head {
    /// Begins with the head's bytes.
    pub buffer: Buffer,
    pub head: ResponseHead,
}

/// What an upstream is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Resolving,
    Connecting,
    Sending,
    ReadingHead,
    ReadingBody,
}

impl Action {
    /// nginx's words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resolving => "resolving upstream",
            Self::Connecting => "connecting to upstream",
            Self::Sending => "sending request to upstream",
            Self::ReadingHead => "reading response header from upstream",
            Self::ReadingBody => "reading upstream",
        }
    }
}

/// One turn of one peer.
#[derive(Debug, Default)]
pub struct Attempt {
    peer: Option<Rc<Peer>>,
    /// The group's name, when no peer could be chosen.
    group: Option<Box<str>>,
    /// Follows an internal redirect.
    pub is_new_pass: bool,
    pub status: u16,
    pub started_us: u64,
    /// From here on: microseconds since `started_us`. Zero for a kept connection.
    pub connect_us: Option<u64>,
    /// The request was sent whole.
    pub sent_us: Option<u64>,
    pub header_us: Option<u64>,
    pub ended_us: Option<u64>,
    /// Bytes of the response's body.
    pub length: u64,
    pub received: u64,
    pub sent: u64,
}

impl Attempt {
    pub fn name(&self) -> &[u8] {
        match (&self.peer, &self.group) {
            (Some(peer), _) => peer.name.as_bytes(),
            (None, Some(group)) => group.as_bytes(),
            (None, None) => b"-",
        }
    }

    /// Adds the turn to its peer's counters.
    fn count(&self) {
        let Some(slot) = self.peer.as_ref().and_then(|peer| peer.shared.slot) else { return };
        let time = (Word::ResponseUs, self.response_us());
        behind::count(
            slot,
            self.status,
            &[(Word::BytesIn, self.received), (Word::BytesOut, self.sent), time],
        );
    }

    /// To the end of the turn, or until now.
    pub fn response_us(&self) -> u64 {
        self.ended_us.unwrap_or_else(runtime::now_us).saturating_sub(self.started_us)
    }
}

/// A request's way through its upstreams, for the log and for the tunnel that may follow.
#[derive(Debug, Default)]
pub struct Trace {
    attempts: SmallVec<[Attempt; 1]>,
    /// The counters of the group that was asked last.
    slot: Option<Slot>,
    pass_begins: bool,
    head: Option<Rc<Head>>,
    /// Lines behind the body of the last answer, each ended by CRLF.
    pub trailers: Vec<u8>,
    tunnel: Option<(Transport, Place)>,
    /// `X-Accel-Buffering: yes` or `no`, unless it is ignored.
    pub buffering: Option<bool>,
    /// `$proxy_host` and `$proxy_port`, where `proxy_pass` has variables.
    pub host: Option<(Vec<u8>, Vec<u8>)>,
    /// What is under way, for the error log: `connecting to upstream`.
    pub action: Option<Action>,
    /// The URL for the error log.
    pub uri: Vec<u8>,
}

/// What a tunnel keeps of a [`Trace`].
#[derive(Debug, Default)]
pub struct Parked {
    attempts: SmallVec<[Attempt; 1]>,
    slot: Option<Slot>,
}

impl Trace {
    /// A new pass of this request (the first, or after an internal redirect) begins.
    pub fn begin_pass(&mut self) {
        self.pass_begins = !self.attempts.is_empty();
        self.buffering = None;
        self.trailers.clear();
        self.head = None;
    }

    /// Adds the turn of `peer`; `None`: there was no peer to choose in `group`.
    pub fn begin(&mut self, peer: Option<Rc<Peer>>, group: &GroupState) -> &mut Attempt {
        self.slot = group.group.slot;
        let group = peer.is_none().then(|| group.group.name.clone());
        let is_new_pass = std::mem::take(&mut self.pass_begins);
        let started_us = runtime::now_us();
        self.attempts.push(Attempt { peer, group, is_new_pass, started_us, ..Attempt::default() });
        self.last()
    }

    /// The turn under way.
    pub fn last(&mut self) -> &mut Attempt {
        if self.attempts.is_empty() {
            self.attempts.push(Attempt::default());
        }
        let index = self.attempts.len() - 1;
        &mut self.attempts[index]
    }

    /// The turn under way is over, and counted. The second call does nothing.
    pub fn end(&mut self) {
        let attempt = self.last();
        if attempt.ended_us.is_none() {
            attempt.ended_us = Some(runtime::now_us());
            attempt.count();
        }
    }

    /// Adds the request to the counters of its group; `status`: what the client got.
    pub fn count(&self, status: u16) {
        let (Some(slot), Some(attempt)) = (self.slot, self.attempts.last()) else { return };
        let retries = self.attempts.len() as u64 - 1;
        behind::count(slot, status, &[(Word::Retries, retries), (Word::ResponseUs, attempt.response_us())]);
    }

    /// The turns so far.
    pub fn attempts(&self) -> &[Attempt] {
        &self.attempts
    }

    /// The peer's name, for messages.
    pub fn peer_name(&self) -> Option<&str> {
        let attempt = self.attempts.last()?;
        attempt.peer.as_ref().map(|peer| &*peer.name).or(attempt.group.as_deref())
    }

    pub fn set_head(&mut self, head: Rc<Head>) {
        self.head = Some(head);
    }

    /// The turns and the group's counters, for [`Trace::unpark`].
    pub fn park(&mut self) -> Parked {
        Parked { attempts: std::mem::take(&mut self.attempts), slot: self.slot.take() }
    }

    pub fn unpark(&mut self, parked: Parked) {
        (self.attempts, self.slot) = (parked.attempts, parked.slot);
    }

    pub fn take_head(&mut self) -> Option<Rc<Head>> {
        self.head.take()
    }

    pub fn head(&self) -> Option<&Head> {
        self.head.as_deref()
    }

    /// What is under way, for the error log: `connecting to upstream`.
    pub fn action(&self) -> Option<&str> {
        self.action.map(Action::as_str)
    }

    /// `http://127.0.0.1:8080/uri`, for the error log, while something is under way.
    pub fn url(&self) -> Option<String> {
        self.action?;
        let uri = String::from_utf8_lossy(&self.uri);
        self.peer_name().map(|name| {
            if name.starts_with("unix:") {
                format!("http://{name}:{uri}")
            } else {
                format!("http://{name}{uri}")
            }
        })
    }

    /// The tunnel is over, and with it the turn.
    pub fn end_tunnel(&mut self) {
        self.last().ended_us = Some(runtime::now_us());
    }

    pub fn set_tunnel(&mut self, transport: Transport, place: Place) {
        self.tunnel = Some((transport, place));
    }

    /// The connection to the upstream that has switched protocols.
    pub fn take_tunnel(&mut self) -> Option<(Transport, Place)> {
        self.tunnel.take()
    }
}
