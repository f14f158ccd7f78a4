//! Workers that can take no more connections: their siblings get those that come.
//!
//! ```text
//! with room ─its word in shared memory says "full"→ relieved ─the word is gone, a second later at least→ with room
//! ```
//! A worker says so when all its places are taken by connections that do not give way, or when it has no descriptors
//! (`worker/accept.rs`), and takes it back once a sixteenth of its places is free. New connections are then steered
//! away from it, and a sibling with room accepts what waits in its queues. Where all are full, all keep what they have.
//! The word is a hint: a worker that lies gives its share away, or keeps one that it does not serve.

use crate::log;
use crate::master::Master;
use crate::master::seat::{Stuck, Worker};
use crate::shm::heartbeat;

/// A worker stays relieved for that long at least, so that one at its limit does not turn the steering on and off.
const RELIEVED_MIN_MS: u64 = 1000;

impl Master {
    /// Looks whether a worker that moves has room.
    pub(super) fn relieve(&mut self, index: usize, now_ms: u64) {
        if self.settings().worker_processes() < 2 {
            return; // nobody else could take them
        }
        let worker = &mut self.workers[index];
        let is_full = heartbeat::read(worker.lane).is_full;
        let (pid, number) = (worker.pid, worker.number);
        match &worker.full {
            None if is_full => {
                worker.full = Some(Stuck { since_ms: now_ms, helper: None });
                log::warn!(
                    log::process(),
                    &(),
                    "worker process {pid} (worker {number}) can take no more connections, siblings with room take those \
                     that come"
                );
                self.steer();
            }
            Some(full) if !is_full && now_ms >= full.since_ms + RELIEVED_MIN_MS => {
                if let Some(full) = worker.full.take() {
                    self.release_helper(full);
                }
                log::notice!(
                    log::process(),
                    &(),
                    "worker process {pid} has room again, it takes its connections back"
                );
                self.steer();
            }
            _ => {}
        }
        self.assign_relief(index);
    }

    /// Lets a sibling with room accept from the slots of a full worker, unless one does already.
    fn assign_relief(&mut self, index: usize) {
        let Some(full) = &mut self.workers[index].full else { return };
        let helper = full.helper.take();
        let generation = self.generation;
        let has_room = |worker: &Worker| worker.can_take(generation) && worker.full.is_none();
        if let Some(loan) = helper {
            if self.workers.iter().any(|worker| worker.pid == loan.pid && has_room(worker)) {
                if let Some(full) = &mut self.workers[index].full {
                    full.helper = Some(loan);
                }
                return;
            }
            self.take_back(&loan);
        }
        if self.workers.iter().any(has_room) {
            let leased = self.workers[index].leased.clone();
            let helper = self.lend(&leased);
            if let Some(full) = &mut self.workers[index].full {
                full.helper = helper;
            }
        }
    }

    /// Ends the relief of a worker that leaves, ends, or stops moving.
    pub(super) fn end_relief(&mut self, index: usize) {
        if let Some(full) = self.workers[index].full.take() {
            self.release_helper(full);
        }
    }
}
