//! The listening sockets during a change of generations: opened, repaired, steered, and shut down when no
//! longer needed.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::rc::Rc;

use crate::cycle::Cycle;
use crate::log;
use crate::master::slots::{Group, Mended, Repair};
use crate::master::{Master, slots};
use crate::sys::address::SockAddr;
use crate::sys::{alloc, clock, socket};
use crate::worker::messages::SlotIndex;

/// The way back from a change of generations in progress.
pub struct Change {
    /// The configuration to return to if none of the new workers can run.
    previous: Option<Box<Cycle>>,
    /// The number of slots of each address that the old workers accept from. New connections go only to those
    /// until the new workers are ready.
    served: HashMap<SockAddr, usize>,
}

impl Change {
    /// The number of slots of an address, the first ones, that some worker accepts from now.
    fn served_count(&self, address: &SockAddr) -> Option<usize> {
        self.served.get(address).copied()
    }
}

impl Master {
    /// Prepares the sockets for the next generation. Its forks follow.
    pub(super) fn prepare(&mut self) {
        self.roster = Rc::new(self.roster());
        self.cycle.config.forget_health(false);
        let previous = self.previous.take();
        let slot_counts = self.slots.groups().map(|group| (group.address.clone(), group.fds.len()));
        let served = slot_counts.filter(|_| previous.is_some()).collect();
        self.change = Some(Change { previous, served });
        // Before there are more slots, which no worker accepts from yet. All workers are new, so they get any
        // replaced ones.
        self.check_slots();
        let count = self.settings().worker_processes();
        for complaint in self.slots.change(self.cycle.config.listeners()) {
            log::warn!(log::process(), &(), "{complaint}");
        }
        self.slots.grow(self.cycle.config.listeners(), count);
        if !self.do_others_receive() {
            self.receive_everywhere();
        }
        alloc::trim();
    }

    /// Checks that the listening sockets are as they were opened, since every worker has them all. True if
    /// some were opened anew, which living workers do not have.
    pub(super) fn check_slots(&mut self) -> bool {
        let mut are_new = false;
        for Mended { address, damage, repair } in self.slots.mend(self.cycle.config.listeners()) {
            let what = match repair {
                Repair::InPlace => "it is put right",
                Repair::Anew => "another one is opened, and new workers are started",
                Repair::Failed => "it could not be put right, restart the server",
            };
            are_new |= repair == Repair::Anew;
            log::alert!(
                log::process(),
                &(),
                "a listening socket of {address} {damage}: a worker must have changed it; {what}"
            );
        }
        self.steer();
        self.knows_steering = true;
        are_new
    }

    /// Tells the kernel which slots of each address may get connections.
    pub(super) fn steer(&mut self) {
        // While generations change the old workers accept, so their slots count.
        let served =
            |address: &_, count| match self.change.as_ref().filter(|_| self.supervisor.is_switching()) {
                Some(change) => change.served_count(address).unwrap_or(count),
                None => count,
            };
        let (stuck, full) = self.supervisor.closed_slots();
        let workers = self.settings().worker_processes();
        // Another master steers the same sockets.
        let knows_steering = self.knows_steering && self.elder.is_none() && self.successor.is_none();
        let mut first = 0;
        for listener in self.listeners() {
            let Some(group) = self.slots.group(&listener.address) else { continue };
            let count = group.fds.len();
            if listener.address.is_datagram() {
                report(&listener.address, Self::steer_datagrams(group));
                first += count;
                continue;
            }
            let served = served(&listener.address, count);
            let without = |closed: &dyn Fn(SlotIndex) -> bool| -> Vec<u32> {
                let slots = 0..served as SlotIndex;
                slots.filter(|slot| !closed(first as SlotIndex + slot)).collect()
            };
            let mut live = without(&|slot| stuck.contains(&slot) || full.contains(&slot));
            if live.is_empty() {
                live = without(&|slot| stuck.contains(&slot)); // all are full: each keeps its share
            }
            first += count;
            // No worker accepts yet from the slots that a change of generations is about to open.
            let is_all = (live.len() == count && (!self.supervisor.is_switching() || workers <= count))
                || group.is_reordered;
            let any = group.fds[0].as_fd();
            if !socket::is_steerable(any) {
                continue;
            }
            let was_steered = group.is_steered.replace(!live.is_empty() && !is_all);
            let outcome = if group.is_steered.get() {
                socket::steer(any, &live)
            } else {
                // An error means that there is no program.
                if socket::unsteer(any).is_ok() && !was_steered && knows_steering {
                    let address = &group.address;
                    log::alert!(
                        log::process(),
                        &(),
                        "a program that is not the master's chose which listening sockets of {address} get connections: \
                         a worker must have attached it; it is taken away"
                    );
                }
                Ok(())
            };
            report(&group.address, outcome);
        }
    }

    /// Makes clients reach exactly the sockets of this configuration: there is no way back.
    pub(super) fn settle_slots(&mut self) {
        self.settled_ms = clock::monotonic_ms();
        // In this order, so that an address always has sockets.
        self.slots.reveal();
        let mut removed = self.slots.take_displaced();
        removed.extend(self.slots.remove_others(self.cycle.config.listeners()));
        self.retire(removed);
        self.change = None;
        if !self.other_receives {
            // The old workers are about to be told to stop receiving, and may be gone before this function returns: what
            // comes from then on must wait where the workers that get their sessions will receive it.
            self.receive_everywhere();
        }
    }

    /// Stops new clients from reaching these sockets; [`shut_removed`](Self::shut_removed) shuts them down.
    pub(super) fn retire(&mut self, mut groups: Vec<Group>) {
        // These are closed here. The workers that have connections there keep theirs as long as they need them.
        let slots = &mut self.slots;
        groups.extract_if(.., |group| group.has_connections()).for_each(|group| slots.leave(&group));
        if !groups.is_empty() {
            self.retired_ms = clock::monotonic_ms();
            groups.iter().for_each(Group::retire);
            self.removed.extend(groups);
        }
        self.shut_removed();
    }

    /// Shuts removed addresses down, as soon as no worker accepts from them or no client is on its way to
    /// them.
    pub(super) fn shut_removed(&mut self) {
        if self.removed.is_empty() {
            return;
        }
        let waited_ms = clock::monotonic_ms().saturating_sub(self.retired_ms);
        if !self.supervisor.is_somebody_closing() || slots::are_drained(&self.removed, waited_ms) {
            slots::shut(&std::mem::take(&mut self.removed));
        }
    }

    /// Puts the previous configuration back in force, with the sockets it had.
    pub(super) fn restore(&mut self) {
        let Some(mut change) = self.change.take() else { return };
        let Some(previous) = change.previous.take() else { return };
        let mut removed = self.slots.put_displaced_back();
        for group in self.slots.groups_mut() {
            // The queues of the sockets for the new workers are empty: no connection was steered there.
            group.fds.truncate(change.served_count(&group.address).unwrap_or(group.fds.len()));
        }
        self.cycle = *previous;
        self.orders.is_undone();
        self.roster = Rc::new(self.roster());
        removed.extend(self.slots.remove_others(self.cycle.config.listeners()));
        self.retire(removed);
        for complaint in self.slots.change(self.cycle.config.listeners()) {
            log::warn!(log::process(), &(), "{complaint}");
        }
        log::set_process(self.settings().error_log());
        self.watch_certificates(true);
        self.steer();
    }
}

/// Logs that the kernel does not take a steering program.
fn report(address: &SockAddr, outcome: std::io::Result<()>) {
    if let Err(error) = outcome {
        log::warn!(log::process(), &(), "connections to {address} cannot be steered {}", log::Cause(&error));
    }
}
