//! Watches the workers: one that does not move gets no new connections, and a sibling accepts what waits for it. One
//! that is full is treated alike (`master/full.rs`).
//!
//! ```text
//! moving ─no answer to a ping for 450 ms→ stuck ─answers→ moving
//!                                            └─worker_watchdog→ killed, replaced
//! starting ─worker_watchdog→ killed, replaced
//! ```
//! A worker is asked when its heartbeat says that it has been in one turn for long, or while connections wait in its
//! queues: one that sleeps for want of work, or that has paused at its limit, is never taken for stuck. Every worker can
//! write every heartbeat, so that word decides about the question only, never about the answer.

use std::collections::HashSet;
use std::os::fd::AsFd;

use crate::log;
use crate::master::Master;
use crate::master::rules::State;
use crate::master::seat::{Asked, Stuck, Worker};
use crate::shm::heartbeat::{self, Heartbeat};
use crate::sys::{process, signal, socket};
use crate::worker::messages::SlotIndex;

/// How often the master looks, and how often while a worker has not answered.
const LOOK_MS: u64 = 250;
const LOOK_AGAIN_MS: u64 = 50;
/// How often while nobody does anything; a connection that comes ends that at once.
const QUIET_LOOK_MS: u64 = 10_000;
/// Looks that must find nobody at work first.
const QUIET_LOOKS: u32 = 4;
/// A worker that has been in one turn for so long is asked for a sign of life: longer than turns are (5 ms), and short, for
/// only the answer counts, and clients wait meanwhile.
const LONG_TURN_MS: u64 = 20;
/// Without an answer for that long a worker is stuck.
const STUCK_MS: u64 = 450;

impl Master {
    pub(super) fn next_look_ms(&self) -> u64 {
        let is_asking = self.workers.iter().any(|worker| worker.asked.is_some() && worker.stuck.is_none());
        let after_ms = match is_asking {
            true => LOOK_AGAIN_MS,
            false if self.is_quiet() => QUIET_LOOK_MS,
            false => LOOK_MS,
        };
        self.looked_ms + after_ms
    }

    /// All workers have been asleep for a while, and nothing waits for any of them.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet_looks >= QUIET_LOOKS
    }

    fn note_signs(&mut self) {
        let mut signs: u64 = 0;
        let mut is_quiet = self.switch.is_none();
        for worker in &self.workers {
            let beat = heartbeat::read(worker.lane);
            signs =
                signs.wrapping_mul(31).wrapping_add(beat.since_ms).wrapping_add(u64::from(beat.pid) << 20);
            let is_asleep = beat.state == heartbeat::State::Asleep;
            is_quiet &=
                is_asleep && worker.asked.is_none() && worker.stuck.is_none() && worker.full.is_none();
        }
        is_quiet &= std::mem::replace(&mut self.last_signs, signs) == signs;
        self.quiet_looks = if is_quiet { self.quiet_looks.saturating_add(1) } else { 0 };
    }

    pub(super) fn is_being_helped(&self, worker: &Worker) -> bool {
        let helper = worker.stuck.as_ref().and_then(|stuck| stuck.helper.as_ref());
        helper.is_some_and(|loan| self.can_lend(loan.pid))
    }

    /// One look at every worker of this generation.
    pub(super) fn look(&mut self, now_ms: u64) {
        self.note_signs();
        for index in 0..self.workers.len() {
            let worker = &self.workers[index];
            let limit_ms = self.settings().worker_watchdog_ms();
            if worker.state == State::Starting && limit_ms > 0 && now_ms >= worker.born_ms + limit_ms {
                // A change of generations waits for it, and a reload behind that.
                let (pid, state) = (worker.pid, process::state(worker.pid));
                log::alert!(
                    log::process(),
                    &(),
                    "worker process {pid} has not started in {limit_ms} ms, it is killed and replaced; its state is \
                     {state}"
                );
                let _ = signal::send(pid, nix::libc::SIGKILL);
            }
            if worker.generation != self.generation || worker.state != State::Ready {
                continue;
            }
            match &worker.stuck {
                None => {
                    if let Some(silent_ms) = self.silence(index, now_ms) {
                        self.rescue(index, now_ms, silent_ms);
                    } else {
                        self.relieve(index, now_ms);
                    }
                }
                Some(stuck) => {
                    let limit = self.settings().worker_watchdog_ms();
                    if limit > 0 && now_ms - stuck.since_ms >= limit {
                        let pid = worker.pid;
                        log::alert!(
                            log::process(),
                            &(),
                            "worker process {pid} was stuck for {limit} ms, it is killed and replaced"
                        );
                        let _ = signal::send(pid, nix::libc::SIGKILL);
                    } else {
                        self.workers[index].ask(now_ms);
                        self.assign_helper(index);
                    }
                }
            }
        }
    }

    /// For how long the worker has given no sign of life, once that is too long.
    fn silence(&mut self, index: usize, now_ms: u64) -> Option<u64> {
        let worker = &self.workers[index];
        if let Some(Asked { since_ms, .. }) = worker.asked {
            // A socket that is full is one that nobody reads: that counts as silence too.
            self.workers[index].ask(now_ms);
            return Some(now_ms.saturating_sub(since_ms)).filter(|silent_ms| *silent_ms >= STUCK_MS);
        }
        let beat = heartbeat::read(worker.lane);
        let is_long_awake =
            beat.state == heartbeat::State::Awake && now_ms.saturating_sub(beat.since_ms) >= LONG_TURN_MS;
        if is_long_awake || self.has_queue(worker) {
            self.workers[index].ask(now_ms);
        }
        None
    }

    fn has_queue(&self, worker: &Worker) -> bool {
        let slots = self.listed_slots();
        let own = worker.leased.iter().filter_map(|index| slots.get(*index as usize));
        own.into_iter().any(|fd| socket::accept_backlog(*fd) > 0)
    }

    fn rescue(&mut self, index: usize, now_ms: u64, silent_ms: u64) {
        self.end_relief(index);
        let worker = &mut self.workers[index];
        let since_ms = now_ms - silent_ms;
        worker.stuck = Some(Stuck { since_ms, helper: None });
        let (pid, number, beat) = (worker.pid, worker.number, heartbeat::read(worker.lane));
        let (state, place) = (process::state(pid), place(&beat));
        log::alert!(
            log::process(),
            &(),
            "worker process {pid} (worker {number}) is stuck: no answer for {silent_ms} ms {place}; its state is {state}; \
             its siblings take its new connections"
        );
        self.steer();
        self.assign_helper(index);
    }

    /// Lets a sibling accept from the slots of a stuck worker, unless a living one does already.
    fn assign_helper(&mut self, index: usize) {
        let Some(Stuck { helper, .. }) = &self.workers[index].stuck else { return };
        if helper.as_ref().is_some_and(|loan| self.can_lend(loan.pid)) {
            return;
        }
        let leased = self.workers[index].leased.clone();
        let helper = self.lend(&leased);
        if let Some(stuck) = &mut self.workers[index].stuck {
            stuck.helper = helper;
        }
    }

    /// An answer to a ping has come.
    pub(super) fn has_moved(&mut self, index: usize) {
        let worker = &mut self.workers[index];
        worker.asked = None;
        let Some(stuck) = worker.stuck.take() else { return };
        let (pid, now_ms) = (worker.pid, crate::sys::clock::monotonic_ms());
        let after_ms = now_ms.saturating_sub(stuck.since_ms);
        log::warn!(
            log::process(),
            &(),
            "worker process {pid} moves again after {after_ms} ms, it takes its connections back"
        );
        self.release_helper(stuck);
        self.steer();
    }

    /// Takes back what a helper was lent.
    pub(super) fn release_helper(&mut self, stuck: Stuck) {
        if let Some(loan) = stuck.helper {
            self.take_back(&loan);
        }
    }

    /// Tells the kernel which slots of each address may get connections.
    pub(super) fn steer(&mut self) {
        let generation = self.generation;
        // While generations change those before accept: it is their slots that count.
        let served = |address: &_, count| match &self.switch {
            Some(switch) => switch.served_count(address).unwrap_or(count),
            None => count,
        };
        let slots_of = |is_one: &dyn Fn(&Worker) -> bool| -> HashSet<SlotIndex> {
            let own = self.workers.iter().filter(|worker| worker.generation == generation && is_one(worker));
            own.flat_map(|worker| worker.leased.iter().copied()).collect()
        };
        let stuck = slots_of(&|worker| worker.stuck.is_some());
        let open = slots_of(&|worker| worker.stuck.is_none() && worker.full.is_none());
        let full = &slots_of(&|worker| worker.full.is_some()) - &open;
        let workers = self.settings().worker_processes();
        // Another master steers the same sockets.
        let knows_steering = self.knows_steering && self.elder.is_none() && self.successor.is_none();
        let mut first = 0;
        for listen in self.listeners() {
            let Some(group) = self.slots.group(&listen.address) else { continue };
            let count = group.fds.len();
            let served = served(&listen.address, count);
            let without = |closed: &dyn Fn(SlotIndex) -> bool| -> Vec<u32> {
                let slots = 0..served as SlotIndex;
                slots.filter(|slot| !closed(first as SlotIndex + slot)).collect()
            };
            let mut live = without(&|slot| stuck.contains(&slot) || full.contains(&slot));
            if live.is_empty() {
                live = without(&|slot| stuck.contains(&slot)); // all are full: each keeps its share
            }
            first += count;
            // Those that a change of generations is about to open are nobody's yet either.
            let is_all =
                (live.len() == count && (self.switch.is_none() || workers <= count)) || group.is_reordered;
            let any = group.fds[0].as_fd();
            if !socket::is_steerable(any) {
                continue;
            }
            let was_steered = group.is_steered.replace(!live.is_empty() && !is_all);
            let outcome = if group.is_steered.get() {
                socket::steer(any, &live)
            } else {
                // An error: there is no program.
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
            if let Err(error) = outcome {
                let address = &group.address;
                log::warn!(
                    log::process(),
                    &(),
                    "connections to {address} cannot be steered {}",
                    log::Cause(&error)
                );
            }
        }
    }
}

/// Where a worker is, as far as its own words tell.
fn place(beat: &Heartbeat) -> String {
    let place = match beat.state {
        heartbeat::State::Starting => "while starting",
        heartbeat::State::Awake => "within one turn of its loop",
        heartbeat::State::Asleep => "between two turns of its loop",
    };
    match beat.last_event {
        0 => place.into(),
        connection => format!("{place}, after a request on connection *{connection}"),
    }
}
