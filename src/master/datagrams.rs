//! UDP during a change of generations, or of masters: the sessions move first, then the new workers receive.
//!
//! ```text
//! panic     the worker is told to leave and its successor starts at once, without receiving; then as in a reload
//! reload    new workers are ready → old ones are told to leave: each stops receiving, hands its sessions over, says
//!           Closed → the sessions are sent on → Receive to each new worker
//! upgrade   the same, with the link in between: the master that leaves sends its sessions, then Released
//! ```
//! Meanwhile the clients' datagrams wait in the sockets, which both generations have. If the new workers received at once,
//! they would begin new sessions for clients that have one. Touches: control sockets, the link, steering programs.

use std::ops::Range;
use std::os::fd::AsFd;

use crate::log;
use crate::master::Master;
use crate::master::link::Message;
use crate::master::roles::Role;
use crate::master::seat::{Cargo, Connection, Worker};
use crate::master::slots::Group;
use crate::master::supervisor::{Former, Phase, WorkerId};
use crate::net::handover::MovedSession;
use crate::net::listener::Listener;
use crate::sys::{clock, datagram};
use crate::worker::messages::{SlotIndex, ToWorker};

/// After this time the new workers receive although an old one has not handed its sessions over.
const HANDOVER_MS: u64 = 5_000;

/// The same if the old ones were stuck when they were told to leave: on a machine with too much to do they go on within
/// this time, and one that never does should not keep everybody's datagrams waiting.
const STUCK_MS: u64 = 2_000;

/// Interval of looking whether the sessions have been handed over.
pub const LOOK_MS: u64 = 5;

impl Master {
    /// True if workers of an earlier generation, or of another master, may receive datagrams.
    pub(super) fn do_others_receive(&self) -> bool {
        self.other_receives || self.supervisor.former_ones() != Former::Gone
    }

    /// True if workers wait for the sessions of earlier ones.
    pub(super) fn is_receiving_due(&self) -> bool {
        let is_serving = self.supervisor.phase() == Phase::Serving && !self.supervisor.is_switching();
        is_serving && !self.other_receives && self.workers.iter().any(|worker| self.is_held(worker))
    }

    /// True if a worker does not receive yet, and will.
    fn is_held(&self, worker: &Worker) -> bool {
        worker.role == Role::Worker && !worker.receives && self.supervisor.is_of_generation(worker.id)
    }

    /// True if sessions wait here for their next worker.
    pub(super) fn has_sessions(&self) -> bool {
        self.pending.iter().any(|it| matches!(it.cargo, Cargo::Session(_)))
    }

    /// Lets the workers of this generation receive, once they have the sessions of those before.
    pub(super) fn let_receive(&mut self) {
        if !self.is_receiving_due() {
            return;
        }
        let wait_ms = match self.supervisor.former_ones() {
            Former::Moving => HANDOVER_MS,
            _ if self.has_sessions() => HANDOVER_MS,
            Former::Stuck => STUCK_MS,
            Former::Gone => 0,
        };
        if clock::monotonic_ms() < self.settled_ms + wait_ms {
            return;
        }
        self.receive_everywhere();
        let held: Vec<WorkerId> =
            self.workers.iter().filter(|worker| self.is_held(worker)).map(|worker| worker.id).collect();
        for worker in self.workers.iter_mut().filter(|worker| held.contains(&worker.id)) {
            worker.order(ToWorker::Receive);
            worker.receives = true;
        }
    }

    /// Distributes the clients of UDP to all sockets, those that were opened for additional workers too.
    pub(super) fn receive_everywhere(&mut self) {
        for group in self.slots.groups().filter(|group| group.address.is_datagram()) {
            group.receiving_count.set(group.fds.len());
        }
        self.steer();
    }

    /// Tells the other master that its workers receive datagrams from now on.
    pub(super) fn release(&mut self) {
        if self.other_receives || matches!(self.supervisor.phase(), Phase::Serving | Phase::Stopping { .. }) {
            return;
        }
        if self.has_sessions() || self.supervisor.is_somebody_receiving() {
            return;
        }
        self.other_receives = self.link().is_some_and(|link| link.send(&Message::Released, &[]));
    }

    /// Tells the kernel which sockets of an address get the datagrams of which clients. While a worker is stuck, another
    /// one receives from its sockets, so they stay where they are.
    pub(super) fn steer_datagrams(group: &Group) -> std::io::Result<()> {
        let count = group.receiving_count.get().min(group.fds.len());
        group.fds.first().map_or(Ok(()), |any| datagram::steer(any.as_fd(), count))
    }

    /// The slots of each listener, in the order of the configuration.
    pub(super) fn spans(&self) -> Vec<Range<usize>> {
        let mut first = 0;
        let span = |listener: &Listener| {
            let begin = first;
            first += self.slots.group(&listener.address).map_or(0, |group| group.fds.len());
            begin..first
        };
        self.listeners().iter().map(span).collect()
    }

    /// The slot at which a client's datagrams arrive, once all workers receive. `span`: the slots of the listener.
    pub(super) fn slot_of(span: &Range<usize>, session: &MovedSession) -> Option<SlotIndex> {
        let slot = span.start + datagram::slot_of(session.client, span.len());
        SlotIndex::try_from(slot).ok().filter(|_| !span.is_empty())
    }

    /// True if a session waits for the worker that is about to have its client's slot.
    pub(super) fn is_receiver_coming(&self, slot: Option<SlotIndex>) -> bool {
        let now_ms = clock::monotonic_ms();
        let is_late = now_ms >= self.settled_ms + HANDOVER_MS;
        self.supervisor.is_switching()
            || !is_late && slot.is_some_and(|slot| self.supervisor.is_lessee_coming(slot, now_ms))
    }

    /// Reports a session whose address is no longer configured.
    pub(super) fn end_session(connection: &Connection, session: &MovedSession) {
        let address = connection.address.as_ref().map(ToString::to_string).unwrap_or_default();
        let client = session.client;
        log::info!(
            log::process(),
            &(),
            "the session of udp client {client} ends: {address} is not configured any more"
        );
    }
}
