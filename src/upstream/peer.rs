//! One server of a group as configured, and the peers it resolves to, with their health.
//!
//! In a group with `zone` all workers share its peers' failures and connections, at places in shared memory
//! (`shm/peers.rs`). There is no lock, so a worker that dies leaves valid words behind. Parameters:
//! nginx.org, `server` of ngx_http_upstream_module.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::fence;

use crate::net::address::{Address, Host};
use crate::shm::counter::{self, Slot};
use crate::shm::peers::{self, Health, Place, Word};
use crate::sys::clock;
use crate::sys::names::Names;
use crate::upstream::balance::Time;
use crate::upstream::check::Checks;
use crate::upstream::load::{Load, LoadState, Loads};
use crate::upstream::outlier::{self, Tally};
use crate::upstream::sticky::Id;
use crate::upstream::succession::Succession;
use crate::upstream::timing::Timing;
use crate::upstream::waiting::Waiting;

/// Number of times that a worker tries to get the last free connection before it leaves it to the others.
const OPEN_TRIES: usize = 3;

/// The priority of `backup` servers.
pub const BACKUP: u32 = 1;

/// A `server` line of an `upstream` block, or the single server of `proxy_pass http://host`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// As written, for messages: `backend:8080`.
    pub name: Box<str>,
    pub host: Host,
    pub weight: i64,
    /// Failures within `fail_timeout` after which a peer is left out; 0: never.
    pub fails_max: u64,
    /// The window for `fails_max`, and the time for which the peer is then left out.
    pub fail_timeout_ms: u64,
    /// Maximum number of connections to one peer, not counting idle ones; 0: no limit.
    pub conns_max: i64,
    /// The peers of a priority are used while none of a lower number may be: 0 is the default, `backup` is
    /// [`BACKUP`].
    pub priority: u32,
    pub down: bool,
    /// `drain`: it gets only requests that are bound to it.
    pub drain: bool,
    /// The time in which the weight of a peer that comes back grows from 1 to what is configured; 0: at once.
    pub slow_start_ms: u64,
    /// `route`: the name by which a sticky session refers to it.
    pub route: Option<Box<str>>,
    /// The name is looked up while serving, by the group's resolver.
    pub resolve: bool,
    /// The service whose SRV records have the ports: `http` or `_http._tcp`. Only with `resolve`.
    pub service: Option<Box<str>>,
    /// The addresses of the name. Empty: it did not resolve yet, and the server is down until it does.
    pub addresses: Vec<Address>,
    /// Names the server in the control interface; unique in its group.
    pub id: u32,
    /// It was removed while serving: its position in the group is empty.
    pub is_removed: bool,
}

impl Server {
    /// A server with every parameter at its default; a name is not resolved yet.
    pub fn new(name: &str, host: Host) -> Self {
        let addresses = host.literal().into_iter().collect();
        Self {
            name: name.into(),
            host,
            weight: 1,
            fails_max: 1,
            fail_timeout_ms: 10_000,
            conns_max: 0,
            priority: 0,
            down: false,
            drain: false,
            slow_start_ms: 0,
            route: None,
            resolve: false,
            service: None,
            addresses,
            id: 0,
            is_removed: false,
        }
    }

    /// What is left of a server that was removed.
    #[must_use]
    pub fn removed(&self) -> Self {
        Self {
            is_removed: true,
            id: self.id,
            resolve: false,
            addresses: Vec::new(),
            ..Self::new(&self.name, self.host.clone())
        }
    }

    /// Takes the addresses of the name. False if it has none, as far as is known.
    pub fn resolve(&mut self, names: &Names) -> bool {
        match self.host.find(names) {
            Some(addresses) => self.addresses = addresses,
            None => return false,
        }
        true
    }
}

/// The slot and place in shared memory that count for one peer. Only the master assigns them, so a peer that
/// a worker makes while serving has none, nor does one for which none was left.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shared {
    /// Its counters: requests, statuses, bytes, times.
    pub slot: Option<Slot>,
    /// Its words for balancing: failures, connections in use, health.
    pub place: Option<Place>,
}

/// One address of a server, and its state while serving.
///
/// The state is this worker's, except that in a group with `zone` failures and connections are those of all
/// workers. Milliseconds are those of the monotonic clock, which all workers share. The session of a request
/// calls [`Peer::begin_turn`], then [`Peer::try_open`], and at the end of the turn [`Peer::fail`] or
/// [`Peer::succeed`].
#[derive(Debug)]
pub struct Peer {
    pub address: Address,
    /// The address as nginx prints it, for logs and `$upstream_addr`.
    pub name: Box<str>,
    /// The name of its server, without a port, or the path of its socket, for `$upstream_last_server_name`.
    pub server_name: Box<str>,
    /// Index of its line in [`crate::upstream::Group::servers`].
    pub server: usize,
    /// Equal for the peers of a group that have the same address.
    pub address_id: u32,
    /// Its counters in the whole process tree.
    pub shared: Shared,
    /// `None`: the group is not sticky.
    id: Option<Box<Id>>,
    /// The requests that wait for a peer of its group.
    pub(super) waiting: Option<Rc<Waiting>>,
    /// The group's rules for outliers.
    pub(super) outliers: Option<outlier::Rules>,
    is_shared: bool,
    /// The place where a prober writes its health, and its group's checks; `None`: it is not checked.
    checked: Option<(Place, Checks)>,
    /// The place where its agent's words are; `None`: it has no agent.
    advised: Option<Place>,
    weight: i64,
    fails_max: u64,
    fail_timeout_ms: u64,
    conns_max: i64,
    down: bool,
    drain: bool,
    slow_start_ms: u64,
    seat: RefCell<Seat>,
    timing: Timing,
    pub(super) succession: Succession,
    fails: Cell<u64>,
    /// Time of the last failure.
    failed_ms: Cell<u64>,
    /// Start of the current window, or time of the last failure.
    checked_ms: Cell<u64>,
    /// Time at which it came back; 0: its slow start is over.
    returned_ms: Cell<u64>,
    /// The present interval of `outliers`, its start, and the end of the last ejection with its repeats.
    tally: Cell<u64>,
    tally_ms: Cell<u64>,
    ejected_ms: Cell<u64>,
    ejections: Cell<u64>,
}

/// Where a peer's [`Load`] is: among those of its list.
#[derive(Debug)]
struct Seat {
    loads: Rc<Loads>,
    index: usize,
}

impl Seat {
    fn load(&self) -> Load<'_> {
        self.loads.get(self.index).expect("a seat is made with an index of its loads")
    }
}

impl Peer {
    /// `is_shared`: failures and connections count for all workers, at the place of `shared` if it has one.
    pub fn new(server: &Server, index: usize, address: Address, shared: Shared, is_shared: bool) -> Self {
        let load = LoadState::new(server.weight, shared.place.filter(|_| is_shared));
        let seat = Seat { loads: Rc::new(Loads::new([load].into_iter())), index: 0 };
        Self {
            name: address.to_string().into(),
            server_name: server.host.name().into(),
            address,
            server: index,
            address_id: 0,
            shared,
            id: None,
            waiting: None,
            outliers: None,
            is_shared: is_shared && shared.place.is_some(),
            checked: None,
            advised: None,
            weight: server.weight,
            fails_max: server.fails_max,
            fail_timeout_ms: server.fail_timeout_ms,
            conns_max: server.conns_max,
            down: server.down,
            drain: server.drain,
            slow_start_ms: server.slow_start_ms,
            seat: RefCell::new(seat),
            timing: Timing::default(),
            succession: Succession::default(),
            fails: Cell::new(0),
            failed_ms: Cell::new(0),
            checked_ms: Cell::new(0),
            returned_ms: Cell::new(0),
            tally: Cell::new(0),
            tally_ms: Cell::new(0),
            ejected_ms: Cell::new(0),
            ejections: Cell::new(0),
        }
    }

    /// The same peer, whose health a prober tells if its group has checks.
    #[must_use]
    pub(super) fn with_checks(self, checks: Option<Checks>) -> Self {
        Self { checked: self.shared.place.zip(checks), ..self }
    }

    /// The same peer, which heeds what its agent says if there is one.
    #[must_use]
    pub(super) fn with_agent(self, has_agent: bool) -> Self {
        let Some(place) = self.shared.place.filter(|_| has_agent) else { return self };
        let load = self.load().with_agent(place);
        let seat = Seat { loads: Rc::new(Loads::new([load].into_iter())), index: 0 };
        Self { advised: Some(place), seat: RefCell::new(seat), ..self }
    }

    /// A peer at another port of this one's address, for checks: it shares nothing with this one.
    pub(super) fn at_port(&self, server: &Server, address: SocketAddr, port: u16) -> Self {
        let address = Address::Inet(SocketAddr::new(address.ip(), port));
        Self::new(server, self.server, address, Shared::default(), false)
    }

    /// Gives the peer of a sticky group its id.
    #[must_use]
    pub(super) fn with_id(self, id: Id) -> Self {
        Self { id: Some(Box::new(id)), ..self }
    }

    /// The id by which clients are bound to it; `None`: the group is not sticky.
    pub fn id(&self) -> Option<&Id> {
        self.id.as_deref()
    }

    /// A copy of its load, for another list.
    pub(super) fn load(&self) -> LoadState {
        self.seat.borrow().load().state()
    }

    /// Moves its load to `loads`, where it has the number `index`.
    pub(super) fn sit(&self, loads: &Rc<Loads>, index: usize) {
        assert!(index < loads.len(), "a peer sits in its own list");
        self.seat.replace(Seat { loads: Rc::clone(loads), index });
        self.refresh();
    }

    /// Says to the list whether [`Peer::can_serve`] must be asked before the peer is used. Call it after every
    /// change that may make the answer false; until it is called again, the list asks, or does not.
    fn refresh(&self) {
        let is_asked = self.is_shared
            || self.checked.is_some()
            || self.advised.is_some()
            || self.down
            || self.drain
            || self.conns_max != 0
            || self.fails.get() != 0
            || self.returned_ms.get() != 0
            || self.ejected_ms.get() != 0;
        // All that can be against it changes at its place.
        let clear_suffices = self.is_shared
            && self.checked.is_none_or(|(_, checks)| !checks.is_mandatory)
            && self.advised.is_none()
            && !self.down
            && !self.drain
            && self.conns_max == 0
            && self.slow_start_ms == 0;
        let seat = self.seat.borrow();
        seat.loads.set_asked(seat.index, is_asked);
        seat.loads.set_clear_suffices(seat.index, clear_suffices);
    }

    /// True if it is what a server makes of one of its addresses at this weight.
    pub(super) fn is_of(&self, server: &Server, weight: i64) -> bool {
        let own = (self.weight, self.fails_max, self.fail_timeout_ms, self.conns_max, self.slow_start_ms);
        let wanted =
            (weight, server.fails_max, server.fail_timeout_ms, server.conns_max, server.slow_start_ms);
        let has_id = self.id.as_ref().is_none_or(|id| **id == Id::new(server.route.as_deref(), &self.name));
        own == wanted && (self.down, self.drain) == (server.down, server.drain) && has_id
    }

    /// In the scale of its group.
    pub(super) fn weight(&self) -> i64 {
        self.weight
    }

    /// True if it has left its group, or another peer has taken its place.
    pub(super) fn is_retired(&self) -> bool {
        self.succession.is_over()
    }

    /// True if its sessions may not go on (`proxy_session_drop`): it was removed, or has been taken out by an order, its
    /// agent or its checks.
    pub(super) fn is_lost(&self, now_ms: u64) -> bool {
        let is_lost = |peer: &Self| peer.is_retired() || peer.is_down() || !peer.is_healthy(now_ms);
        self.succession.latest().map_or_else(|| is_lost(self), |latest| is_lost(&latest))
    }

    /// True if it gets no requests at all: by its `server` line, by an operator's order, or by its agent's word.
    pub fn is_down(&self) -> bool {
        let is_out = |place: Place| {
            let advice = place.advice();
            advice.is_down || advice.is_in_maintenance || advice.percent == 0
        };
        self.down
            || self.common().is_some_and(|place| place.orders().down)
            || self.advised.is_some_and(is_out)
    }

    /// True if it gets only requests that are bound to it.
    pub fn is_draining(&self) -> bool {
        self.drain
            || self.common().is_some_and(|place| place.orders().drain)
            || self.advised.is_some_and(|place| place.advice().drains)
    }

    /// True unless its active checks say otherwise, or have still to say so where they are `mandatory`.
    pub fn is_healthy(&self, now_ms: u64) -> bool {
        let Some((place, checks)) = self.checked else { return true };
        !matches!(checks.shown(place, now_ms).0, Health::Unhealthy | Health::Checking)
    }

    /// Number of connections in use.
    pub fn conns(&self) -> i64 {
        self.seat.borrow().load().conns()
    }

    pub fn fails(&self) -> u64 {
        match self.common() {
            Some(place) => place.number(Word::Fails, u64::MAX),
            None => self.fails.get(),
        }
    }

    /// True while the peer is left out for its failures.
    pub fn is_failed(&self, now_ms: u64) -> bool {
        self.fails_max != 0
            && self.fails() >= self.fails_max
            && now_ms - self.past(Word::CheckedMs, &self.checked_ms, now_ms) <= self.fail_timeout_ms
    }

    pub fn is_full(&self) -> bool {
        self.conns_max != 0 && self.conns() >= self.conns_max
    }

    /// True if it may be given a new client's request now.
    #[inline]
    pub(super) fn is_usable(&self, now_ms: u64) -> bool {
        self.can_serve(now_ms) && !self.is_draining()
    }

    /// True if it may be given a request that is bound to it now.
    #[inline]
    pub(super) fn can_serve(&self, now_ms: u64) -> bool {
        let can_serve =
            self.has_room() && !self.is_failed(now_ms) && !self.is_ejected(now_ms) && self.is_healthy(now_ms);
        if can_serve && self.slow_start_ms != 0 {
            self.ramp(now_ms);
        }
        can_serve
    }

    /// True if nothing but its health and its failures can be against it.
    pub(super) fn has_room(&self) -> bool {
        !self.is_down() && !self.is_full()
    }

    /// Sets the part of its weight that its slow start permits now.
    fn ramp(&self, now_ms: u64) {
        let mut returned_ms = self.past(Word::ReturnedMs, &self.returned_ms, now_ms);
        // Written by the prober, also for a group without `zone`.
        for place in [self.checked.map(|(place, _)| place), self.advised].into_iter().flatten() {
            returned_ms = returned_ms.max(place.past_ms(Word::ReturnedMs, now_ms));
        }
        let seat = self.seat.borrow();
        let (load, elapsed_ms) = (seat.load(), now_ms - returned_ms);
        if returned_ms == 0 || elapsed_ms >= self.slow_start_ms {
            load.permit(self.weight);
            drop(seat);
            if self.returned_ms.replace(0) != 0 {
                self.refresh();
            }
        } else {
            let part = i128::from(self.weight) * i128::from(elapsed_ms) / i128::from(self.slow_start_ms);
            load.permit(part as i64);
        }
    }

    /// Begins a slow start.
    fn come_back(&self, at_ms: u64) {
        if self.slow_start_ms != 0 {
            self.set(Word::ReturnedMs, &self.returned_ms, at_ms.max(1));
        }
    }

    /// True while it is ejected as an outlier.
    pub fn is_ejected(&self, now_ms: u64) -> bool {
        let Some(rules) = self.outliers else { return false };
        let until_ms = match self.common() {
            // No worker can keep a peer out for longer than the rules permit.
            Some(place) => place.number(Word::EjectedMs, now_ms.saturating_add(rules.time_max_ms())),
            None => self.ejected_ms.get(),
        };
        if now_ms < until_ms {
            return true;
        }
        if until_ms != 0 {
            self.come_back(until_ms);
            self.set(Word::EjectedMs, &self.ejected_ms, 0);
            self.refresh();
        }
        false
    }

    /// Ejects it. Returns for how long, in milliseconds.
    pub(super) fn eject(&self, rules: outlier::Rules, now_ms: u64) -> u64 {
        let repeats = self.get(Word::Ejections, &self.ejections);
        let time_ms = rules.time_ms(repeats);
        let until_ms = now_ms.saturating_add(time_ms);
        self.set(Word::Ejections, &self.ejections, repeats.saturating_add(1));
        self.set(Word::EjectedMs, &self.ejected_ms, until_ms);
        self.refresh();
        time_ms
    }

    /// Notes that it has behaved well for an interval: the next ejection is shorter.
    pub(super) fn behave(&self) {
        let repeats = self.get(Word::Ejections, &self.ejections);
        if repeats > 0 {
            self.set(Word::Ejections, &self.ejections, repeats - 1);
        }
    }

    /// Counts a turn for `outliers`.
    pub(super) fn count_turn(&self, is_error: bool) {
        let one = Tally { requests: 1, errors: u32::from(is_error) }.to_word();
        match self.common() {
            Some(place) => _ = place.add_weight(Word::Tally, one.cast_signed()),
            None => self.tally.set(self.tally.get().wrapping_add(one)),
        }
    }

    /// The tally of an interval that is over; another one begins.
    pub(super) fn take_tally(&self, interval_ms: u64, now_ms: u64) -> Option<Tally> {
        let begun_ms = self.past(Word::TallyMs, &self.tally_ms, now_ms);
        if now_ms - begun_ms < interval_ms {
            return None;
        }
        self.set(Word::TallyMs, &self.tally_ms, now_ms);
        let tally = Tally::from_word(self.get(Word::Tally, &self.tally));
        self.set(Word::Tally, &self.tally, 0);
        Some(tally)
    }

    /// Its waiting requests; averages are asked for below.
    pub(super) fn timing(&self) -> &Timing {
        &self.timing
    }

    /// The average of a time, in microseconds.
    pub(super) fn average_us(&self, time: Time) -> u64 {
        match time {
            Time::Header | Time::Ewma => self.timing.head_us(self.common()),
            Time::LastByte => self.timing.response_us(self.common()),
        }
    }

    pub(super) fn peak_us(&self, now_ms: u64) -> u64 {
        self.timing.peak_us(self.common(), now_ms)
    }

    pub(super) fn note_head(&self, us: u64) {
        self.timing.average_head(self.common(), us);
    }

    pub(super) fn note_response(&self, us: u64) {
        self.timing.average_response(self.common(), us);
    }

    pub(super) fn note_peak(&self, us: u64, now_ms: u64) {
        self.timing.peak(self.common(), us, now_ms);
    }

    /// Number of times that its `fail_timeout` has passed since a turn last began a window. nginx counts whole
    /// seconds, so that a timeout of zero is one second long.
    pub(super) fn timeouts_alone(&self, now_ms: u64) -> u32 {
        let alone_ms = now_ms - self.past(Word::CheckedMs, &self.checked_ms, now_ms);
        if alone_ms <= self.fail_timeout_ms {
            return 0;
        }
        u32::try_from(alone_ms / self.fail_timeout_ms.saturating_add(1000)).unwrap_or(u32::MAX)
    }

    /// Begins a turn, and a new window of failures if the last one is over.
    pub(super) fn begin_turn(&self, now_ms: u64) {
        self.past(Word::FailedMs, &self.failed_ms, now_ms);
        if now_ms - self.past(Word::CheckedMs, &self.checked_ms, now_ms) > self.fail_timeout_ms {
            self.note_down(now_ms);
            self.set(Word::CheckedMs, &self.checked_ms, now_ms);
        }
    }

    /// Its checks say that it is out: the time for which it has been left out for its failures ends here.
    pub(super) fn end_failures(&self, now_ms: u64) {
        self.note_down(now_ms);
        self.forget_failures();
    }

    /// Counts the time for which it has been left out for its failures, before that state ends or begins anew.
    fn note_down(&self, now_ms: u64) {
        if let (Some(place), Some(slot)) = (self.common(), self.shared.slot) {
            slot.add(
                counter::Word::DOWN_MS,
                failed_for_ms(place, self.fails_max, self.fail_timeout_ms, now_ms),
            );
        }
    }

    /// Counts a connection in use until the guard is dropped.
    pub(super) fn open(self: &Rc<Self>) -> InUse {
        self.seat.borrow().load().add_conns(1);
        InUse { peer: Rc::clone(self), _counted: self.shared.place.map(Place::enter) }
    }

    /// Like [`Peer::open`]; `None` if another worker has meanwhile taken the last free connection of
    /// `max_conns`.
    pub(super) fn try_open(self: &Rc<Self>) -> Option<InUse> {
        let mut used = self.open();
        if self.conns_max == 0 || !self.is_shared {
            return Some(used);
        }
        for _ in 0..OPEN_TRIES {
            // Back off if the count is too high, so that the limit is never exceeded. Two workers may both do
            // so: try again.
            fence(SeqCst);
            if self.conns() <= self.conns_max {
                return Some(used);
            }
            drop(used);
            if self.is_full() {
                return None;
            }
            used = self.open();
        }
        None
    }

    /// Counts a failure. True if because of it the peer is now left out.
    pub(super) fn fail(&self, now_ms: u64) -> bool {
        let fails = self.fails().saturating_add(1);
        // It failed its first turn after a `fail_timeout`.
        let is_again =
            self.get(Word::FailedMs, &self.failed_ms) < self.get(Word::CheckedMs, &self.checked_ms);
        self.note_down(now_ms);
        self.set(Word::Fails, &self.fails, fails);
        self.set(Word::FailedMs, &self.failed_ms, now_ms);
        self.set(Word::CheckedMs, &self.checked_ms, now_ms);
        if let Some(slot) = self.shared.slot {
            slot.add(counter::Word::Failures, 1);
        }
        if self.fails_max == 0 {
            return false;
        }
        // Several requests may fail at the same time, and only the first of them takes it out.
        if let Some(slot) = self.shared.slot
            && (fails == self.fails_max || fails > self.fails_max && is_again)
        {
            slot.add(counter::Word::UNAVAILABLE, 1);
        }
        self.refresh();
        self.seat.borrow().load().lose(self.weight / i64::try_from(self.fails_max).unwrap_or(i64::MAX));
        fails >= self.fails_max
    }

    /// Notes a success: forgets failures older than the current window. Both times are in the past, or were
    /// corrected when the turn began.
    pub(super) fn succeed(&self) {
        let checked_ms = self.get(Word::CheckedMs, &self.checked_ms);
        if self.fails() != 0 && self.get(Word::FailedMs, &self.failed_ms) < checked_ms {
            if self.fails_max != 0 && self.fails() >= self.fails_max {
                self.note_down(clock::monotonic_ms());
                self.come_back(checked_ms);
            }
            self.forget_failures();
        }
    }

    pub(super) fn forget_failures(&self) {
        if self.fails() != 0 {
            self.set(Word::Fails, &self.fails, 0);
            self.refresh();
        }
    }

    /// The place that it shares with the other workers.
    fn common(&self) -> Option<Place> {
        self.shared.place.filter(|_| self.is_shared)
    }

    /// A time that must have passed, from this worker's state or the shared one.
    fn past(&self, word: Word, own: &Cell<u64>, now_ms: u64) -> u64 {
        match self.common() {
            Some(place) => place.past_ms(word, now_ms),
            None => own.get().min(now_ms),
        }
    }

    fn get(&self, word: Word, own: &Cell<u64>) -> u64 {
        self.common().map_or(own.get(), |place| place.number(word, u64::MAX))
    }

    fn set(&self, word: Word, own: &Cell<u64>, value: u64) {
        match self.common() {
            Some(place) => place.set_number(word, value),
            None => own.set(value),
        }
    }
}

/// The time for which a peer has been left out since its last failure, in milliseconds; 0: it is not.
pub fn failed_for_ms(place: Place, fails_max: u64, fail_timeout_ms: u64, now_ms: u64) -> u64 {
    let has_failed = fails_max != 0 && place.number(Word::Fails, u64::MAX) >= fails_max;
    let age_ms = now_ms - place.past_ms(Word::CheckedMs, now_ms);
    if has_failed { age_ms.min(fail_timeout_ms) } else { 0 }
}

/// One connection in use to a peer, counted while it lives.
#[derive(Debug)]
pub struct InUse {
    peer: Rc<Peer>,
    _counted: Option<peers::InUse>,
}

impl InUse {
    pub fn peer(&self) -> &Rc<Peer> {
        &self.peer
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        if let Some(waiting) = &self.peer.waiting {
            waiting.note_freed();
        }
        let seat = self.peer.seat.borrow();
        seat.loads.free(seat.index);
    }
}

#[cfg(test)]
mod tests;
