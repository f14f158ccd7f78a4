//! The record of a request's way through its upstreams: each peer's turn, with its times and bytes.
//!
//! The protocol's exchange writes it; the access log, the counters and the error log read it. Knows no
//! protocol: the parts of a response that variables need are kept by the rooms above. Touches: the counters
//! in shared memory, the loop's clock.

use std::rc::Rc;

use crate::base::frame::{Fields, put_option, put_vector16};
use crate::base::number::MaybeU64;
use crate::runtime;
use crate::shm::behind::{self, Pending, Sign};
use crate::shm::counter::{Slot, Word};
use crate::shm::detail::{Detail, Facts};
use crate::upstream::peer::{Peer, Shared};
use crate::upstream::state::GroupState;

/// The current activity with an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Resolving,
    Connecting,
    /// Making the handshake of TLS.
    Handshaking,
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
            Self::Handshaking => "SSL handshaking to upstream",
            Self::Sending => "sending request to upstream",
            Self::ReadingHead => "reading response header from upstream",
            Self::ReadingBody => "reading upstream",
        }
    }
}

/// The name of a group in place of a peer's, behind a single pointer.
#[derive(Debug)]
struct GroupName(Box<str>);

/// One turn of one peer.
#[derive(Debug, Default)]
pub struct Attempt {
    peer: Option<Rc<Peer>>,
    /// The group's name, if no peer could be chosen.
    group: Option<Box<GroupName>>,
    /// It is the first after an internal redirect.
    pub is_new_pass: bool,
    pub status: u16,
    pub started_us: u64,
    /// This and the following times are microseconds since `started_us`. Zero for a kept connection.
    pub connect_us: MaybeU64,
    /// Time at which the whole request had been sent.
    pub sent_us: MaybeU64,
    pub header_us: MaybeU64,
    pub ended_us: MaybeU64,
    /// Bytes of the response's body.
    pub length: u64,
    pub received: u64,
    pub sent: u64,
    /// The longest time for which the response was not read because its client took no more.
    pub held_ms: u32,
}

impl Attempt {
    pub fn name(&self) -> &[u8] {
        match (&self.peer, &self.group) {
            (Some(peer), _) => peer.name.as_bytes(),
            (None, Some(group)) => group.0.as_bytes(),
            (None, None) => b"-",
        }
    }

    /// Notes that the response was not read for this long because its client took no more.
    pub fn note_held(&mut self, ms: u64) {
        self.held_ms = self.held_ms.max(u32::try_from(ms).unwrap_or(u32::MAX));
    }

    /// Adds the turn to its peer's counters.
    fn count(&self) {
        let Some(Shared { slot: Some(slot), place }) = self.peer.as_ref().map(|peer| peer.shared) else {
            return;
        };
        let time = (Word::ResponseUs, self.response_us());
        let others = [(Word::BytesIn, self.received), (Word::BytesOut, self.sent), time];
        behind::add(|counts| counts.count_peer(slot, place, self.status, &others, Sign::Add));
    }

    /// Time to the end of the turn, or until now.
    pub fn response_us(&self) -> u64 {
        self.ended_us.get().unwrap_or_else(runtime::now_us).saturating_sub(self.started_us)
    }
}

/// A request's way through its upstreams: the turns of all its passes, in order.
///
/// A pass begins with [`Trace::begin_pass`], a turn with [`Trace::begin`]. The exchange fills in the
/// [`Trace::last`] turn as it goes, and [`Trace::end`] adds it to its peer's counters. Once the request is
/// over, [`Trace::count`] adds it to those of the group that was used last.
#[derive(Debug, Default)]
pub struct Trace {
    attempts: Vec<Attempt>,
    /// The counters of the group that was used last.
    slot: Option<Slot>,
    pass_begins: bool,
    /// The current activity, for the error log: `connecting to upstream`.
    pub action: Option<Action>,
}

/// The part of a [`Trace`] that a tunnel keeps.
#[derive(Debug, Default)]
pub struct Parked {
    attempts: Vec<Attempt>,
    slot: Option<Slot>,
}

impl Trace {
    /// Begins a new pass of this request: the first, or one after an internal redirect.
    pub fn begin_pass(&mut self) {
        self.pass_begins = !self.attempts.is_empty();
    }

    /// Begins a turn of `peer`; `None` if no peer of `group` could be chosen.
    pub fn begin(&mut self, peer: Option<Rc<Peer>>, group: &GroupState) -> &mut Attempt {
        self.slot = group.group.slot;
        let group = peer.is_none().then(|| Box::new(GroupName(group.group.name.clone())));
        let is_new_pass = std::mem::take(&mut self.pass_begins);
        let started_us = runtime::now_us();
        if self.attempts.capacity() == 0 {
            self.attempts = Vec::with_capacity(1); // usually the first peer answers
        }
        self.attempts.push(Attempt { peer, group, is_new_pass, started_us, ..Attempt::default() });
        self.last()
    }

    /// Adds the turns of a course beside this one, of which the last is now the current one.
    pub fn add(&mut self, other: Self) {
        self.attempts.extend(other.attempts);
        self.action = other.action;
    }

    /// Adds the turns of a course beside this one, whose own turn stays the current one.
    pub fn add_before(&mut self, other: Self) {
        let at = self.attempts.len().saturating_sub(1);
        self.attempts.splice(at..at, other.attempts);
    }

    /// The current turn.
    #[inline]
    pub fn last(&mut self) -> &mut Attempt {
        if self.attempts.is_empty() {
            self.add_attempt();
        }
        let index = self.attempts.len() - 1;
        &mut self.attempts[index]
    }

    /// Adds a turn for facts that are noted before the first one.
    #[cold]
    fn add_attempt(&mut self) {
        self.attempts.push(Attempt::default());
    }

    /// Ends the current turn, and adds it to the counters. A second call does nothing.
    pub fn end(&mut self) {
        let attempt = self.last();
        if attempt.ended_us.get().is_none() {
            attempt.ended_us = runtime::now_us().into();
            attempt.count();
        }
    }

    /// Adds the request to its group's counters; `status` is the one sent to the client.
    pub fn count(&self, status: u16, facts: Facts, sign: Sign, counts: &mut Pending) {
        let (Some(slot), Some(attempt)) = (self.slot, self.attempts.last()) else { return };
        let retries = self.attempts.len() as u64 - 1;
        let others = [(Word::Retries, retries), (Word::ResponseUs, attempt.response_us())];
        counts.count(slot, status, &others, sign);
        counts.count_facts(slot, facts, sign);
    }

    /// The counters of the group that was used last.
    #[inline]
    pub fn slot(&self) -> Option<Slot> {
        self.slot
    }

    /// The further counts of the group that was used last.
    pub fn detail(&self) -> Option<Detail> {
        self.slot?.detail()
    }

    /// The turns so far.
    pub fn attempts(&self) -> &[Attempt] {
        &self.attempts
    }

    /// Writes a value for each turn, separated by `, `, or by ` : ` where an internal redirect has begun a new pass. False:
    /// there was no turn.
    pub fn put_each(&self, out: &mut Vec<u8>, value: impl Fn(&Attempt, &mut Vec<u8>)) -> bool {
        for (index, attempt) in self.attempts.iter().enumerate() {
            match (index, attempt.is_new_pass) {
                (0, _) => {}
                (_, true) => out.extend_from_slice(b" : "),
                (_, false) => out.extend_from_slice(b", "),
            }
            value(attempt, out);
        }
        !self.attempts.is_empty()
    }

    /// The peer's name, for messages.
    pub fn peer_name(&self) -> Option<&str> {
        let attempt = self.attempts.last()?;
        attempt.peer.as_ref().map(|peer| &*peer.name).or(attempt.group.as_ref().map(|group| &*group.0))
    }

    /// The name of the last peer's server, without a port.
    pub fn server_name(&self) -> Option<&str> {
        self.attempts.last()?.peer.as_ref().map(|peer| &*peer.server_name)
    }

    /// Appends the turns for another process.
    pub fn save(&self, out: &mut Vec<u8>) {
        save(&self.attempts, out);
    }

    /// Goes on with turns that [`Trace::save`] has written. The last one is in progress, with the peer of this name in
    /// `group`, if there still is one; the others have been counted.
    pub fn restore(fields: &mut Fields<'_>, group: Option<&GroupState>) -> Option<Self> {
        let parked = Parked::restore(fields, group)?;
        Some(Self { attempts: parked.attempts, slot: parked.slot, ..Self::default() })
    }

    /// Takes the turns and the group's counters out, for [`Trace::unpark`].
    pub fn park(&mut self) -> Parked {
        Parked { attempts: std::mem::take(&mut self.attempts), slot: self.slot.take() }
    }

    pub fn unpark(&mut self, parked: Parked) {
        (self.attempts, self.slot) = (parked.attempts, parked.slot);
    }

    /// The current activity, for the error log: `connecting to upstream`.
    pub fn action(&self) -> Option<&str> {
        self.action.map(Action::as_str)
    }

    /// Ends the turn when the tunnel is over.
    pub fn end_tunnel(&mut self) {
        self.last().ended_us = runtime::now_us().into();
    }
}

/// Writes a time in seconds, with milliseconds; `-` if there is none.
pub fn put_seconds(us: Option<u64>, out: &mut Vec<u8>) {
    let Some(milliseconds) = us.map(|us| us / 1000) else { return out.push(b'-') };
    let fraction = milliseconds % 1000;
    put_count(milliseconds / 1000, out);
    out.push(b'.');
    for divisor in [100, 10, 1] {
        out.push(b'0' + (fraction / divisor % 10) as u8);
    }
}

pub fn put_count(count: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(count).as_bytes());
}

impl Parked {
    /// See [`Trace::save`].
    pub fn save(&self, out: &mut Vec<u8>) {
        save(&self.attempts, out);
    }

    /// See [`Trace::restore`].
    pub fn restore(fields: &mut Fields<'_>, group: Option<&GroupState>) -> Option<Self> {
        let count = fields.u8()?;
        let mut attempts = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            attempts.push(Attempt::restore(fields)?);
        }
        if let (Some(group), Some(last)) = (group, attempts.last_mut()) {
            last.peer = group.set().all().find(|peer| peer.name.as_bytes() == last.name()).map(Rc::clone);
        }
        Some(Self { attempts, slot: group.and_then(|group| group.group.slot) })
    }
}

/// The most turns that are handed over with a tunnel: the last ones.
const SAVED_TURNS_MAX: usize = 16;

fn save(attempts: &[Attempt], out: &mut Vec<u8>) {
    let last = &attempts[attempts.len().saturating_sub(SAVED_TURNS_MAX)..];
    out.push(last.len() as u8);
    last.iter().for_each(|attempt| attempt.save(out));
}

impl Attempt {
    fn save(&self, out: &mut Vec<u8>) {
        put_vector16(out, self.name());
        out.push(u8::from(self.is_new_pass));
        out.extend_from_slice(&self.status.to_le_bytes());
        let ago_us = runtime::now_us().saturating_sub(self.started_us);
        out.extend_from_slice(&ago_us.to_le_bytes());
        for time_us in [self.connect_us, self.sent_us, self.header_us] {
            put_option(out, time_us.get());
        }
        put_option(out, self.ended_us.get().map(|ended_us| ended_us.saturating_sub(self.started_us)));
        for bytes in [self.length, self.received, self.sent] {
            out.extend_from_slice(&bytes.to_le_bytes());
        }
    }

    fn restore(fields: &mut Fields<'_>) -> Option<Self> {
        let name = std::str::from_utf8(fields.vector16()?).ok()?;
        let (is_new_pass, status) = (fields.flag()?, fields.u16().filter(|status| *status <= 999)?);
        let started_us = runtime::now_us().saturating_sub(fields.u64()?);
        let [connect_us, sent_us, header_us] =
            [fields.option()?, fields.option()?, fields.option()?].map(MaybeU64::from);
        let ended_us = fields.option()?.map(|us| started_us.saturating_add(us)).into();
        Some(Self {
            peer: None,
            group: Some(Box::new(GroupName(name.into()))),
            is_new_pass,
            status,
            started_us,
            connect_us,
            sent_us,
            header_us,
            ended_us,
            length: fields.count()?,
            received: fields.count()?,
            sent: fields.count()?,
            held_ms: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Runtime;
    use crate::shm::counter;
    use crate::shm::detail::{End, Protocol};
    use crate::upstream::balance::tests::peers;
    use crate::upstream::group::Group;
    use crate::upstream::peer::Server;
    use crate::upstream::state::tests::state;

    fn on_loop(test: impl FnOnce() + 'static) {
        Runtime::new().expect("a loop").block_on(async move { test() });
    }

    #[test]
    fn turns_of_a_second_pass_are_told_apart() {
        on_loop(|| {
            let (group, peers) = (state(Vec::new()), peers(2, |_, _| {}));
            let mut trace = Trace::default();
            trace.begin_pass();
            trace.begin(Some(peers[0].clone()), &group).status = 502;
            trace.begin(Some(peers[1].clone()), &group).status = 200;
            trace.begin_pass();
            trace.begin(None, &group).status = 502;
            let turns: Vec<_> = trace.attempts().iter().map(|turn| (turn.is_new_pass, turn.status)).collect();
            assert_eq!(turns, [(false, 502), (false, 200), (true, 502)]);
            let names: Vec<_> = trace.attempts().iter().map(|turn| turn.name().to_vec()).collect();
            assert_eq!(names, [&b"1.1.1.1:81"[..], b"1.1.1.1:82", b"test"], "no peer: the group");
            assert_eq!(trace.peer_name(), Some("test"));
        });
    }

    #[test]
    fn a_turn_is_counted_once_and_a_request_for_its_group() {
        on_loop(|| {
            let host = crate::net::address::parse_upstream("1.1.1.1", 80).unwrap();
            let server = Server::new("1.1.1.1", host);
            let group = Group::new("trace.counts", vec![server.clone()]);
            let shared = group.shared(0, &server.addresses[0]);
            let (peer_slot, slot) = (shared.slot.unwrap(), group.slot.unwrap());
            let shared = Shared { place: None, ..shared };
            let peer = Rc::new(Peer::new(&server, 0, server.addresses[0].clone(), shared, false));
            let state = GroupState::new(std::sync::Arc::new(group));
            let mut trace = Trace::default();
            for status in [502, 200] {
                trace.begin(Some(peer.clone()), &state);
                (trace.last().status, trace.last().received) = (status, 1000);
                trace.end();
                trace.end();
            }
            let facts = Facts::new(200, Protocol::Http11, End::OK);
            behind::add(|counts| trace.count(200, facts, Sign::Add, counts));
            behind::flush();
            let words = |slot: counter::Slot, words: [Word; 4]| words.map(|word| slot.get(word));
            let of_peer = words(peer_slot, [Word::Requests, Word::Status2xx, Word::Status5xx, Word::BytesIn]);
            assert_eq!(of_peer, [2, 1, 1, 2000]);
            let of_group = words(slot, [Word::Requests, Word::Status2xx, Word::Status5xx, Word::Retries]);
            assert_eq!(of_group, [1, 1, 0, 1]);
        });
    }

    #[test]
    fn what_a_tunnel_keeps_comes_back() {
        on_loop(|| {
            let (group, peers) = (state(Vec::new()), peers(1, |_, _| {}));
            let mut trace = Trace::default();
            trace.begin(Some(peers[0].clone()), &group).status = 101;
            let parked = trace.park();
            assert!(trace.attempts().is_empty());
            trace.unpark(parked);
            trace.end_tunnel();
            assert!(trace.attempts()[0].ended_us.get().is_some() && trace.attempts()[0].status == 101);
        });
    }
}
