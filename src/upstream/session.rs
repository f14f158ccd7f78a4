//! The course of one request through the peers of a group: the peers tried, the next one, and the tries left.
//!
//! The order is nginx's: the primary peers as the group's balancer picks them (`upstream/balance/`), then the
//! backups; a group with a single peer always uses that one. Decides without waiting: the time is an
//! argument.
//! Behaviour: nginx's ngx_http_upstream_round_robin.c.

use std::rc::Rc;

use crate::upstream::balance::{Cursor, Eligible, Method, Time, Tried};
use crate::upstream::fault::Fault;
use crate::upstream::outlier::{self, Others};
use crate::upstream::peer::{InUse, Peer};
use crate::upstream::state::{GroupState, List, Set};
use crate::upstream::sticky::Bound;

/// The outcome of a peer's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It responded, or nothing is known against it.
    Good,
    /// It is to blame: counts towards `max_fails`.
    Failed,
    /// Its response sends the request to another peer, but it is healthy (403, 404).
    Next,
}

impl From<Fault> for Outcome {
    fn from(fault: Fault) -> Self {
        if fault.is_failure() { Self::Failed } else { Self::Next }
    }
}

/// A peer that has been ejected as an outlier.
#[derive(Debug)]
pub struct Ejection {
    pub peer: Rc<Peer>,
    pub reason: outlier::Reason,
    pub time_ms: u64,
}

/// One request's course through a group.
///
/// Made when the request is about to be passed on. [`Session::pick`] begins a turn and returns its peer,
/// [`Session::finish`] ends it. A session keeps the set of peers with which it began, even if names change
/// meanwhile, and counts the connection of the current turn. Dropping it ends that turn as good: the request
/// was answered, or the client gave up.
#[derive(Debug)]
pub struct Session {
    set: Rc<Set>,
    /// The peers tried, of the current level.
    tried: Tried,
    /// Index of the level in use: the peers of those before it are used up.
    level: usize,
    current: Option<InUse>,
    tries_left: u32,
    cursor: Cursor,
    /// No peer is well, and the group is to use them nevertheless (`fail_open`).
    is_open: bool,
    /// The current turn has shown an error that does not end it.
    has_error: bool,
    /// The last peer that was ejected as an outlier.
    ejection: Option<Ejection>,
    /// The beginning of the current turn.
    begun_ms: u64,
    /// The beginning of the current turn, if it counts among the waiting requests of its peer.
    waits_since_ms: Option<u64>,
    /// The peer to use before any that the balancer chooses.
    bound: Option<Box<Bound>>,
}

/// The end of a course that lasts for long: all there is left to do is to count its connection.
#[derive(Debug)]
pub struct Resting {
    set: Rc<Set>,
    used: Option<InUse>,
}

impl Resting {
    /// The name of the group.
    pub fn group_name(&self) -> &str {
        &self.set.group.name
    }

    /// As [`Session::has_lost_peer`].
    pub fn has_lost_peer(&self, now_ms: u64) -> bool {
        self.used.as_ref().is_some_and(|used| used.peer().is_lost(now_ms))
    }
}

impl Session {
    /// `tries_max` is `proxy_next_upstream_tries`; 0: as many as there are peers.
    #[inline(always)] // so that it is built in place
    pub fn new(group: &GroupState, tries_max: u32) -> Self {
        let set = group.set();
        let tries = if tries_max == 0 { set.tries } else { set.tries.min(tries_max) };
        let tried = Tried::new(set.largest_level());
        Self {
            set,
            tried,
            level: 0,
            current: None,
            tries_left: tries,
            cursor: Cursor::default(),
            is_open: false,
            has_error: false,
            ejection: None,
            begun_ms: 0,
            waits_since_ms: None,
            bound: None,
        }
    }

    /// A course in the turn of the peer with this name, which began in another process. `None`: there is no such peer now.
    ///
    /// The connection exists already, so it is counted even if the peer takes no more of them.
    pub fn resume(group: &GroupState, peer: &str, now_ms: u64) -> Option<Self> {
        let mut session = Self::new(group, 1);
        let peer = session.set.all().find(|own| *own.name == *peer).map(Rc::clone)?;
        session.current = Some(peer.open());
        session.begun_ms = now_ms;
        Some(session)
    }

    /// The name of the group.
    pub fn group_name(&self) -> &str {
        &self.set.group.name
    }

    /// Ends the current turn as good, and leaves its connection to a tunnel, which counts it until its end.
    pub fn take_connection(&mut self) -> Option<InUse> {
        self.stop_waiting();
        let used = self.current.take()?;
        if !self.set.is_single() {
            used.peer().succeed();
        }
        Some(used)
    }

    /// True if the peer of the current turn was removed from the group, or is out for good as far as is known: by an order,
    /// its agent, or its checks.
    pub fn has_lost_peer(&self, now_ms: u64) -> bool {
        self.current.as_ref().is_some_and(|used| used.peer().is_lost(now_ms))
    }

    /// Ends the current turn as good, and leaves its connection to a record that is much smaller than this one. `None`: the
    /// balancer is to hear how the turn goes on.
    pub fn rest(&mut self) -> Option<Resting> {
        if self.is_timed() || self.set.group.outliers.is_some() {
            return None;
        }
        Some(Resting { set: Rc::clone(&self.set), used: self.take_connection() })
    }

    /// A course of one turn with a peer that this one has not tried, beside its current turn.
    #[must_use]
    pub fn beside(&self) -> Self {
        Self {
            set: Rc::clone(&self.set),
            tried: self.tried.clone(),
            level: self.level,
            current: None,
            tries_left: 1,
            cursor: self.cursor.clone(),
            is_open: self.is_open,
            has_error: false,
            ejection: None,
            begun_ms: 0,
            waits_since_ms: None,
            bound: None,
        }
    }

    /// Goes on with the current turn of a course that began [beside](Session::beside) this one, whose own turn has
    /// ended.
    pub fn take_over(&mut self, mut other: Self) {
        debug_assert!(self.current.is_none(), "the turn before this one has not ended");
        self.current = other.current.take();
        (self.begun_ms, self.has_error) = (other.begun_ms, other.has_error);
        self.waits_since_ms = other.waits_since_ms.take();
        self.go_on_from(&other);
    }

    /// Counts the failed turn of a course that began [beside](Session::beside) this one, whose own turn goes on.
    pub fn learn_from(&mut self, other: &Self) {
        self.tries_left = self.tries_left.saturating_sub(1);
        self.go_on_from(other);
    }

    /// Chooses the next peer as if the turns of the other course were its own.
    fn go_on_from(&mut self, other: &Self) {
        (self.tried, self.level, self.cursor) = (other.tried.clone(), other.level, other.cursor.clone());
    }

    /// Sets the key by which the group's balancer chooses: the value of `hash`, or the client's address for
    /// `ip_hash`.
    #[must_use]
    pub fn with_key(mut self, key: Box<[u8]>) -> Self {
        self.cursor = Cursor::new(key);
        self
    }

    /// Sets the peer that the request is bound to (`sticky`). It is used if it can serve and belongs to the
    /// level in use, even while it drains; otherwise the balancer chooses, which is not told of bound requests.
    /// If several peers have that id, each has its turn before the balancer is asked.
    #[must_use]
    pub fn prefer(mut self, bound: Bound) -> Self {
        self.bound = Some(Box::new(bound));
        self
    }

    /// Begins the next turn: picks a peer and counts its connection. `None` if no peer that may be used is
    /// left.
    pub fn pick(&mut self, now_ms: u64) -> Option<Rc<Peer>> {
        debug_assert!(self.current.is_none(), "the turn before this one has not ended");
        loop {
            let picked = self.pick_from_levels(now_ms);
            let peer = match picked {
                None if self.set.group.fails_open && !self.is_open => {
                    self.start_over();
                    self.is_open = true;
                    self.pick_from_levels(now_ms)?
                }
                picked => picked?,
            };
            if !self.is_open && self.ejects(&peer, now_ms) {
                continue;
            }
            self.current = peer.try_open();
            if self.current.is_some() {
                (self.begun_ms, self.has_error) = (now_ms, false);
                if let Some(place) = peer.shared.place {
                    place.note_chosen(now_ms);
                }
                if self.method().counts_waiting() {
                    peer.timing().begin_waiting(now_ms);
                    self.waits_since_ms = Some(now_ms);
                }
                return Some(peer);
            }
            // Another worker was faster. If there are several peers, this one now counts as tried.
            if self.set.is_single() {
                return None;
            }
        }
    }

    /// Picks from the first level that has a peer.
    fn pick_from_levels(&mut self, now_ms: u64) -> Option<Rc<Peer>> {
        let mut picked = self.pick_from_level(now_ms);
        while picked.is_none() && self.level + 1 < self.set.levels.len() {
            self.level += 1;
            self.tried.clear();
            self.cursor.restart();
            picked = self.pick_from_level(now_ms);
        }
        picked
    }

    /// Judges a peer whose interval is over by the group's rules for outliers. True if it is ejected.
    #[inline]
    fn ejects(&mut self, peer: &Rc<Peer>, now_ms: u64) -> bool {
        match self.set.group.outliers {
            Some(rules) if !self.set.is_single() => self.judge(rules, peer, now_ms),
            _ => false,
        }
    }

    fn judge(&mut self, rules: outlier::Rules, peer: &Rc<Peer>, now_ms: u64) -> bool {
        let Some(tally) = peer.take_tally(rules.interval_ms, now_ms) else { return false };
        let Some(list) = self.set.levels.get(self.level) else { return false };
        let others = || list.peers.iter().filter(|other| !Rc::ptr_eq(other, peer));
        let times = match rules.latency_x100 {
            Some(_) => others().map(|other| other.average_us(Time::Header)).filter(|us| *us > 0).collect(),
            None => Vec::new(),
        };
        let all = Others {
            count: others().count(),
            ejected: others().filter(|other| other.is_ejected(now_ms)).count(),
            median_us: outlier::median_us(times),
        };
        let Some(reason) = rules.judge(tally, peer.average_us(Time::Header), all) else {
            if tally.requests >= rules.requests_min {
                peer.behave();
            }
            return false;
        };
        // Not the last one that can serve: others may be down, failed, unhealthy or full.
        if !others().any(|other| other.is_usable(now_ms)) {
            return false;
        }
        let time_ms = peer.eject(rules, now_ms);
        self.ejection = Some(Ejection { peer: Rc::clone(peer), reason, time_ms });
        true
    }

    /// The peer that the last pick has ejected as an outlier, for the log.
    pub fn take_ejection(&mut self) -> Option<Ejection> {
        self.ejection.take()
    }

    /// Notes that the current peer's response is an error, even if the client gets it: it counts for outliers.
    pub fn note_error(&mut self) {
        self.has_error = true;
    }

    /// Forgets which peers have been tried.
    fn start_over(&mut self) {
        self.tried.clear();
        self.cursor.restart();
        (self.level, self.is_open) = (0, false);
    }

    /// The peers of the level in use that have been tried.
    pub fn tried_peers(&self) -> Vec<Rc<Peer>> {
        let list = self.set.levels.get(self.level).filter(|_| self.tried.has_any());
        let peers = list.into_iter().flat_map(|list| list.peers.iter().enumerate());
        peers.filter(|(index, _)| self.tried.has(*index)).map(|(_, peer)| Rc::clone(peer)).collect()
    }

    /// Begins to choose again after a wait: among the peers of the group as it is now, except these.
    pub fn look_again(&mut self, group: &GroupState, except: &[Rc<Peer>]) {
        let set = group.set();
        if !Rc::ptr_eq(&set, &self.set) {
            self.tried = Tried::new(set.largest_level());
            self.set = set;
        }
        self.start_over();
        let Some(list) = self.set.levels.first() else { return };
        for (index, own) in list.peers.iter().enumerate() {
            if except.iter().any(|peer| Rc::ptr_eq(own, peer)) {
                self.tried.add(index);
            }
        }
    }

    /// Ends the turn of the current peer. True if because of this failure it is now left out.
    pub fn finish(&mut self, outcome: Outcome, now_ms: u64) -> bool {
        self.stop_waiting();
        let Some(used) = self.current.take() else { return false };
        let peer = used.peer();
        if self.set.is_single() {
            // A single peer is never left out: there would be none.
            peer.forget_failures();
            self.tries_left = 0;
            return false;
        }
        self.tries_left = self.tries_left.saturating_sub(1);
        if self.set.group.outliers.is_some() {
            peer.count_turn(outcome == Outcome::Failed || self.has_error);
        }
        match outcome {
            Outcome::Failed => peer.fail(now_ms),
            Outcome::Good | Outcome::Next => {
                peer.succeed();
                false
            }
        }
    }

    /// The current peer has accepted a connection, which may be open for long: it counts as well again at once.
    ///
    /// For protocols that do not know whether a peer answers well.
    pub fn note_connected(&mut self) {
        if let Some(used) = self.current.as_ref().filter(|_| !self.set.is_single()) {
            used.peer().succeed();
        }
    }

    /// Ends the turn of a peer that broke off its response: this counts against it like a fault before its
    /// head. True if because of this failure it is now left out.
    ///
    /// Call it before the session is dropped, which would end the turn as good. No other peer is tried, since
    /// the client has the head. nginx does not count such failures, and so keeps losing a share of all
    /// responses to one broken peer.
    pub fn fail_late(&mut self, now_ms: u64) -> bool {
        self.finish(Outcome::Failed, now_ms)
    }

    /// Counts a failure of the current peer, whose turn goes on. True if because of it the peer is now left out.
    ///
    /// For responses that the client gets although they tell that the peer is not well.
    pub fn blame(&mut self, now_ms: u64) -> bool {
        let peer = self.current.as_ref().map(InUse::peer);
        peer.is_some_and(|peer| !self.set.is_single() && peer.fail(now_ms))
    }

    /// True if the balancer compares times: [`Session::note_head`] and [`Session::note_end`] are needed.
    #[inline]
    pub fn is_timed(&self) -> bool {
        self.method().time().is_some() || self.compares_latency()
    }

    fn compares_latency(&self) -> bool {
        self.set.group.outliers.is_some_and(|rules| rules.latency_x100.is_some())
    }

    /// The head of a response that is not refused has arrived, `head_us` after the turn began.
    pub fn note_head(&mut self, head_us: u64, now_ms: u64) {
        let Some(used) = &self.current else { return };
        let Some(time) = self.method().time() else {
            return used.peer().note_head(head_us); // for outliers
        };
        match time {
            Time::Ewma => used.peer().note_peak(head_us, now_ms),
            Time::Header if self.waits_since_ms.is_some() => used.peer().note_head(head_us),
            Time::Header | Time::LastByte => return,
        }
        self.stop_waiting();
    }

    /// A response has gone well up to its end, `response_us` after the turn began. `head_us`: when its head
    /// had arrived.
    pub fn note_end(&mut self, head_us: u64, response_us: u64) {
        let (Some(time), Some(used)) = (self.method().time(), &self.current) else { return };
        let is_noted = time == Time::Ewma || time == Time::Header && self.method().counts_waiting();
        if !is_noted {
            used.peer().note_head(head_us);
        }
        used.peer().note_response(response_us);
    }

    #[inline]
    fn method(&self) -> Method {
        self.set.group.method
    }

    /// The current turn no longer counts among the waiting requests of its peer.
    #[inline]
    fn stop_waiting(&mut self) {
        if let (Some(begun_ms), Some(used)) = (self.waits_since_ms.take(), &self.current) {
            used.peer().timing().end_waiting(begun_ms);
        }
    }

    /// Number of turns left after the current one has ended.
    pub fn tries_left(&self) -> u32 {
        self.tries_left
    }

    fn pick_from_level(&mut self, now_ms: u64) -> Option<Rc<Peer>> {
        let list = self.set.levels.get(self.level)?;
        let bound = self.bound.as_deref().and_then(|bound| self.find(bound, list, now_ms));
        if let ([only], true) = (&*list.peers, self.set.is_single()) {
            let can_serve = only.has_room() && (self.is_open || only.is_healthy(now_ms));
            let is_usable = bound.is_some() || (can_serve && !only.is_draining());
            return is_usable.then(|| Rc::clone(only));
        }
        let index = match bound {
            Some(index) => index,
            None => {
                let eligible = Eligible::new(list, &self.tried, now_ms).opened(self.is_open);
                self.set.group.method.pick(&eligible, &mut self.cursor)?
            }
        };
        let peer = Rc::clone(list.peers.get(index)?);
        self.tried.add(index);
        peer.begin_turn(now_ms);
        Some(peer)
    }

    /// The peer that the request is bound to, if it can serve.
    #[cold]
    fn find(&self, bound: &Bound, list: &List, now_ms: u64) -> Option<usize> {
        let mut peers = list.peers.iter().enumerate();
        let found =
            peers.find(|(index, peer)| !self.tried.has(*index) && bound.is(peer) && peer.can_serve(now_ms));
        found.map(|(index, _)| index)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Cancelled or done: nothing counts against the peer, so the time does not matter.
        self.finish(Outcome::Good, 0);
    }
}

#[cfg(test)]
mod tests;
