//! The messages that a worker, or the prober, may send to the master, and how often.
//!
//! A worker may be hostile: an attacker's code may run in it. One table says, for each state of a worker and
//! each kind of message, whether it is allowed and within which bounds; a [`Ledger`] for each worker keeps
//! count. The judgment is a function of plain values: no socket, no clock. A worker that breaks a rule is
//! killed; no honest one does, however slow the master or late the message.
//!
//! ```text
//! Starting ─Ready→ Serving ─Drain→ Draining        each ─Quit→ Quitting (from Draining it stays Draining)
//! ```

use std::collections::HashSet;
use std::fmt;

use crate::master::roles::Role;
use crate::net::acme::challenges;
use crate::net::clients::ROWS_MAX;
use crate::net::handover::{NO_LISTENER, STATE_BYTES_MAX};
use crate::shared::control::{Allowed, ORDERS_MAX};
use crate::worker::messages::{BYTES_MAX, Listed, ToMaster};

/// Maximum number of messages read from one worker in one turn of the master's loop.
pub const A_TURN_MAX: usize = 64;
/// Maximum number of messages still read from a worker that has ended: more than its socket's buffer holds.
/// Another process may have its end of the socket and go on writing.
pub const LEFT_MAX: usize = 1024;
/// Connections that a worker may hand over in addition to `worker_connections`: those that were on their way
/// to it, and those in its queues that it accepts when it is told to leave.
const HANDED_OVER_SPARE: u64 = 4096;
/// Questions about its connections that a worker may have to answer at one time.
const QUESTIONS_MAX: usize = 8;
/// Names that may be reported at once in addition to one for each followed name: those that wait in the
/// socket's buffer while the master is busy.
const LEARNED_SPARE: u64 = 512;
/// Challenges that may be told each second: an order has a hundred, each told and taken back, and takes longer.
const CHALLENGES_A_SECOND: u64 = 200;
/// Those that may be told at once: they wait in the socket's buffer while the master is busy.
const CHALLENGES_SPARE: u64 = 1000;

/// The state of a worker, according to the messages sent to it and received from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Starting,
    Ready,
    /// It was told to leave, and hands its idle connections over.
    Draining,
    /// It was told to leave, and closes its idle connections.
    Quitting,
}

impl State {
    pub fn is_leaving(self) -> bool {
        matches!(self, Self::Draining | Self::Quitting)
    }
}

/// The kinds of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Ready,
    HandOver,
    /// A tunnel with its state.
    Tunnel,
    /// A tunnel whose state is in memory of its own.
    LargeTunnel,
    /// A session of datagrams.
    Session,
    Replace,
    Pong,
    Closed,
    Learned,
    Listed,
    Order,
    Challenge,
}

impl Kind {
    fn of(message: &ToMaster) -> Self {
        match message {
            ToMaster::Ready => Self::Ready,
            ToMaster::HandOver(_) => Self::HandOver,
            ToMaster::HandOverTunnel(tunnel) if tunnel.state.0.is_empty() => Self::LargeTunnel,
            ToMaster::HandOverTunnel(_) => Self::Tunnel,
            ToMaster::HandOverSession(_) => Self::Session,
            ToMaster::Replace => Self::Replace,
            ToMaster::Pong(_) => Self::Pong,
            ToMaster::Closed => Self::Closed,
            ToMaster::Learned(_) => Self::Learned,
            ToMaster::Listed(_) => Self::Listed,
            ToMaster::Order(..) => Self::Order,
            ToMaster::Challenge(_) => Self::Challenge,
        }
    }
}

/// The maximum frequency of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// Once in the worker's life, in any state.
    Once,
    /// Once for each ping, with its number.
    APing,
    /// As often as the worker can hold connections. While many wait, the master does not read the worker's
    /// messages.
    AConnection,
    /// Once a second for each followed name: the prober looks names up no more often.
    ANameAndSecond,
    /// While it is asked for its connections, until the last of them.
    AQuestion,
    /// As long as fewer than [`ORDERS_MAX`] are unanswered.
    AnAnswer,
    /// [`CHALLENGES_A_SECOND`] times a second, and [`CHALLENGES_SPARE`] at once.
    AChallenge,
}

/// The conditions for a message that is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    pub budget: Budget,
    /// The number of descriptors that come with it.
    pub fds: usize,
}

/// The table: the terms on which a process of this role, in this state, may send such a message; `None`: it may not.
pub fn terms(role: Role, state: State, kind: Kind) -> Option<Terms> {
    use State::{Draining, Quitting, Ready, Starting};
    let on = |budget, fds| Some(Terms { budget, fds });
    match (kind, state) {
        // It has no connections, and accepts none.
        (Kind::HandOver | Kind::Tunnel | Kind::LargeTunnel | Kind::Session | Kind::Closed, _)
            if matches!(role, Role::Prober | Role::CacheManager | Role::Keeper) =>
        {
            None
        }
        // The connections of operators do not move.
        (Kind::HandOver | Kind::Tunnel | Kind::LargeTunnel | Kind::Session, _)
            if role == Role::Controller =>
        {
            None
        }
        // The prober asks for all workers.
        (Kind::Learned, _) if role != Role::Prober => None,
        (Kind::Listed, _) if role != Role::Worker => None,
        (Kind::Listed, Ready | Draining | Quitting) => on(Budget::AQuestion, 0),
        (Kind::Listed, Starting) => None,
        // The keeper of certificates speaks with the authorities.
        (Kind::Challenge, _) if role != Role::Keeper => None,
        (Kind::Challenge, Ready | Draining | Quitting) => on(Budget::AChallenge, 0),
        (Kind::Challenge, Starting) => None,
        // Nobody gives orders through these.
        (Kind::Order, _) if matches!(role, Role::Prober | Role::CacheManager | Role::Keeper) => None,
        (Kind::Order, Ready | Draining | Quitting) => on(Budget::AnAnswer, 0),
        (Kind::Order, Starting) => None,
        // The first message of each worker. One that was told to leave while it started sends it later.
        (Kind::Ready, Starting | Draining | Quitting) => on(Budget::Once, 0),
        (Kind::Ready, Ready) => None,
        (Kind::HandOver, Draining) => on(Budget::AConnection, 1),
        // The client's connection and the upstream's; then the memory.
        (Kind::Tunnel, Draining) => on(Budget::AConnection, 2),
        (Kind::LargeTunnel, Draining) => on(Budget::AConnection, 3),
        // The upstream's socket.
        (Kind::Session, Draining) => on(Budget::AConnection, 1),
        (Kind::HandOver | Kind::Tunnel | Kind::LargeTunnel | Kind::Session, Starting | Ready | Quitting) => {
            None
        }
        // It may have panicked just before it was told to leave.
        (Kind::Replace, Ready | Draining | Quitting) => on(Budget::Once, 0),
        (Kind::Replace, Starting) => None,
        (Kind::Pong, Ready | Draining | Quitting) => on(Budget::APing, 0),
        (Kind::Pong, Starting) => None,
        (Kind::Closed, Draining | Quitting) => on(Budget::Once, 0),
        (Kind::Closed, Starting | Ready) => None,
        (Kind::Learned, Ready | Draining | Quitting) => on(Budget::ANameAndSecond, 0),
        (Kind::Learned, Starting) => None,
    }
}

/// The parts of a generation's configuration that its workers' messages can refer to.
#[derive(Debug, Default)]
pub struct Facts {
    /// Number of listeners.
    pub listen_count: usize,
    /// `worker_connections`.
    pub connections_max: u64,
    /// Servers whose names are followed: index of the group, index of the server.
    pub followed: HashSet<(u32, u32)>,
    /// The orders that the clients of workers may give.
    pub allowed: Allowed,
    /// The names of handshakes by which authorities may check what they are asked for.
    pub asked_names: HashSet<Box<str>>,
}

/// A message as received, before any of it is trusted.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    pub bytes: &'a [u8],
    pub fd_count: usize,
    /// It was longer than [`BYTES_MAX`].
    pub is_cut: bool,
    /// The master had no room for its descriptors.
    pub has_lost_fds: bool,
}

/// The rule that a worker has broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It has shut the socket down, or sent an empty message.
    Ended,
    TooLong,
    Malformed,
    /// Expected, received.
    Sequence(u32, u32),
    /// The message is not allowed in this state.
    NotNow(Role, Kind, State),
    /// Descriptors that must come with it, and that came.
    Descriptors(Kind, usize, usize),
    TooOften(Kind),
    /// A pong for a ping that was not sent, or was answered already.
    NotAsked,
    UnknownListener(u32),
    UnknownServer(u32, u32),
    /// Nothing that an authority asks for looks like this, or nothing is asked for this name.
    NoChallenge,
    /// No location lets clients give orders that need this.
    NotEntitled(Allowed),
    /// The descriptor is not a connection but this.
    NoConnection(&'static str),
    /// The memory of a tunnel's state can still be changed, or is larger than allowed.
    OpenMemory,
    /// The connection has another address than the listener.
    OtherAddress,
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended => write!(out, "it must not shut it down or send empty messages"),
            Self::TooLong => write!(out, "messages have at most {BYTES_MAX} bytes"),
            Self::Malformed => write!(out, "a message is no message"),
            Self::Sequence(expected, got) => write!(out, "message {got} came where {expected} is next"),
            Self::NotNow(role, kind, state) => {
                let role = format!("{role:?}").to_lowercase();
                write!(out, "{kind:?} must not come from a {role} that is {state:?}")
            }
            Self::Descriptors(kind, expected, got) => {
                write!(out, "{kind:?} brings {expected} descriptors, it came with {got}")
            }
            Self::TooOften(kind) => write!(out, "{kind:?} came too often"),
            Self::NotAsked => write!(out, "Pong came without a ping"),
            Self::UnknownListener(index) => write!(out, "there is no listener {index}"),
            Self::UnknownServer(group, server) => {
                write!(out, "there is no server {server} with a followed name in group {group}")
            }
            Self::NotEntitled(needed) => {
                let directive = if *needed == Allowed::Changes { "api write=on" } else { "api" };
                write!(out, "Order came, and no location has \"{directive}\"")
            }
            Self::NoChallenge => write!(out, "Challenge came with what no authority asks for"),
            Self::NoConnection(what) => {
                write!(out, "HandOver brings connections, it came with {what}")
            }
            Self::OpenMemory => {
                write!(out, "a tunnel's state is in sealed memory of at most {STATE_BYTES_MAX} bytes")
            }
            Self::OtherAddress => write!(out, "HandOver came with a connection of another address"),
        }
    }
}

/// The account of one worker.
#[derive(Debug, Default)]
pub struct Ledger {
    /// The sequence number of its last message.
    last: u32,
    said: Said,
    /// The ping that has not been answered yet.
    ping: Option<u32>,
    handed_over: u64,
    /// The number of names it may still report, in thousandths, and the time of that number.
    learned: Option<(u64, u64)>,
    /// The number of challenges it may still tell, in thousandths, and the time of that number.
    challenges: Option<(u64, u64)>,
    /// Orders that were not answered yet.
    orders: usize,
    /// The questions about its connections, each with the rows that may still come.
    questions: Vec<(u32, usize)>,
}

/// Messages that are allowed once.
#[derive(Debug, Default)]
struct Said {
    ready: bool,
    replace: bool,
    closed: bool,
}

impl Ledger {
    /// Notes that it is about to be pinged.
    pub fn ask(&mut self, ping: u32) {
        self.ping = Some(ping);
    }

    /// Notes that one of its orders is answered.
    pub fn answer(&mut self) {
        self.orders = self.orders.saturating_sub(1);
    }

    /// Notes that it is about to be asked for its connections. False: too many questions wait for it.
    pub fn question(&mut self, query: u32) -> bool {
        let has_room = self.questions.len() < QUESTIONS_MAX;
        if has_room {
            self.questions.push((query, ROWS_MAX));
        }
        has_room
    }

    /// Judges a message. `Ok(None)`: it breaks no rule but cannot be used.
    pub fn judge(
        &mut self,
        role: Role,
        state: State,
        facts: &Facts,
        received: Received<'_>,
        now_ms: u64,
    ) -> Result<Option<ToMaster>, Fault> {
        if received.is_cut {
            return Err(Fault::TooLong);
        }
        if received.bytes.is_empty() {
            return Err(Fault::Ended);
        }
        let (sequence, message) = ToMaster::from_bytes(received.bytes).ok_or(Fault::Malformed)?;
        let next = self.last.wrapping_add(1);
        if sequence != next {
            return Err(Fault::Sequence(next, sequence));
        }
        self.last = sequence;
        let kind = Kind::of(&message);
        let terms = terms(role, state, kind).ok_or(Fault::NotNow(role, kind, state))?;
        if received.fd_count != terms.fds && !(received.has_lost_fds && received.fd_count < terms.fds) {
            return Err(Fault::Descriptors(kind, terms.fds, received.fd_count));
        }
        self.spend(terms.budget, &message, facts, now_ms)?;
        match &message {
            ToMaster::HandOver(handover) if handover.listen as usize >= facts.listen_count => {
                Err(Fault::UnknownListener(handover.listen))
            }
            ToMaster::HandOverTunnel(tunnel)
                if tunnel.listen as usize >= facts.listen_count && tunnel.listen != NO_LISTENER =>
            {
                Err(Fault::UnknownListener(tunnel.listen))
            }
            ToMaster::HandOverSession(session) if session.listen as usize >= facts.listen_count => {
                Err(Fault::UnknownListener(session.listen))
            }
            ToMaster::Learned(learned) if !facts.followed.contains(&(learned.group, learned.server)) => {
                Err(Fault::UnknownServer(learned.group, learned.server))
            }
            ToMaster::Challenge(challenge)
                if !challenge.is_plausible()
                    || challenge.kind == challenges::Kind::Tls
                        && !challenge.answer.is_empty()
                        && !facts.asked_names.contains(&challenge.name) =>
            {
                Err(Fault::NoChallenge)
            }
            ToMaster::Order(_, order) if role == Role::Worker && facts.allowed < order.order().needs() => {
                Err(Fault::NotEntitled(order.order().needs()))
            }
            _ => Ok((received.fd_count == terms.fds).then_some(message)),
        }
    }

    fn spend(&mut self, budget: Budget, message: &ToMaster, facts: &Facts, now_ms: u64) -> Result<(), Fault> {
        let kind = Kind::of(message);
        let is_within = match budget {
            Budget::Once => {
                let said = match kind {
                    Kind::Ready => &mut self.said.ready,
                    Kind::Replace => &mut self.said.replace,
                    _ => &mut self.said.closed,
                };
                !std::mem::replace(said, true)
            }
            Budget::APing => {
                let is_asked = matches!(message, ToMaster::Pong(ping) if self.ping == Some(*ping));
                self.ping = None;
                return if is_asked { Ok(()) } else { Err(Fault::NotAsked) };
            }
            Budget::AConnection => {
                self.handed_over += 1;
                self.handed_over <= facts.connections_max.saturating_add(HANDED_OVER_SPARE)
            }
            Budget::ANameAndSecond => self.may_learn(facts, now_ms),
            Budget::AChallenge => {
                let rate = (CHALLENGES_A_SECOND, CHALLENGES_SPARE);
                spend_token(&mut self.challenges, rate, now_ms)
            }
            Budget::AQuestion => matches!(message, ToMaster::Listed(listed) if self.hears(listed)),
            Budget::AnAnswer => {
                self.orders += 1;
                self.orders <= ORDERS_MAX
            }
        };
        if is_within { Ok(()) } else { Err(Fault::TooOften(kind)) }
    }

    fn hears(&mut self, listed: &Listed) -> bool {
        let Some(at) = self.questions.iter().position(|(query, _)| *query == listed.query) else {
            return false;
        };
        let left = &mut self.questions[at].1;
        let is_within = listed.rows.len() <= *left && (listed.is_last || !listed.rows.is_empty());
        *left = left.saturating_sub(listed.rows.len());
        if listed.is_last {
            self.questions.swap_remove(at);
        }
        is_within
    }

    /// A bucket that starts full, and gains one token a second for each followed name.
    fn may_learn(&mut self, facts: &Facts, now_ms: u64) -> bool {
        let names = facts.followed.len() as u64;
        spend_token(&mut self.learned, (names, 2 * names + LEARNED_SPARE), now_ms)
    }
}

/// Takes a token out of a bucket that starts full. `rate`: the tokens that it gains a second, and those of a full one.
fn spend_token(bucket: &mut Option<(u64, u64)>, rate: (u64, u64), now_ms: u64) -> bool {
    let full = rate.1 * 1000;
    let (left, at_ms) = bucket.unwrap_or((full, now_ms));
    let left = left.saturating_add(now_ms.saturating_sub(at_ms).saturating_mul(rate.0)).min(full);
    let is_within = left >= 1000;
    *bucket = Some((if is_within { left - 1000 } else { left }, now_ms.max(at_ms)));
    is_within
}

/// Properties that hold for any bytes and descriptors, for the fuzz target `control` and the test here.
#[cfg(any(test, feature = "property"))]
pub mod property {
    use std::collections::HashSet;
    use std::os::fd::AsFd;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::{Allowed, Facts, Ledger, Received, State};
    use crate::master::roles::Role;
    use crate::sys::msg;
    use crate::worker::messages::{self, BYTES_MAX};

    /// A descriptor that is open for longer stays open.
    const END_MS: u16 = 10_000;

    /// Sends all bytes but the first over a control socket, with as many descriptors as the first byte says,
    /// and judges the message in every state.
    ///
    /// # Panics
    /// If a descriptor of the message stays open, or the system provides no sockets.
    pub fn leaves_nothing(input: &[u8]) {
        let Some((count, bytes)) = input.split_first() else { return };
        messages::property::one_form_each(bytes);
        let (ours, theirs) = msg::pair().expect("two sockets");
        // As long as a copy from the message is open, the watched end does not see the end of its peer.
        let (watched, carried) = msg::pair().expect("two sockets");
        let fds = vec![carried.as_fd(); usize::from(*count).min(253)];
        if msg::send(theirs.as_fd(), bytes, &fds).is_err() {
            return;
        }
        drop(fds);
        drop(carried);
        let mut buffer = [0; BYTES_MAX];
        let message = msg::receive(ours.as_fd(), &mut buffer).expect("it was sent");
        let received = Received {
            bytes: &buffer[..message.length],
            fd_count: message.fds.len(),
            is_cut: message.is_cut,
            has_lost_fds: message.has_lost_fds,
        };
        let facts = Facts {
            listen_count: 2,
            connections_max: 10,
            followed: HashSet::from([(0, 0)]),
            allowed: Allowed::Changes,
            ..Facts::default()
        };
        for state in [State::Starting, State::Ready, State::Draining, State::Quitting] {
            if let Ok(Some(_)) = Ledger::default().judge(Role::Worker, state, &facts, received, 0) {
                assert!(received.fd_count <= 3, "no message has more");
            }
        }
        drop(message);
        // A process that another thread forks has copies, until it executes its program.
        let mut end = [PollFd::new(watched.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut end, PollTimeout::from(END_MS));
        let left = msg::receive(watched.as_fd(), &mut buffer).map(|message| message.length);
        assert_eq!(left, Ok(0), "a descriptor stays open");
    }
}

#[cfg(test)]
mod tests;
