//! The place of a stuck worker in the program, for the error log.
//!
//! A worker that has not answered a ping for a while is asked where it is (`sys/whereabouts.rs`), before it counts as
//! stuck: so its answer is there when that is logged. One that answers later gets a line of its own, since the master
//! never waits.

use crate::log;
use crate::master::Master;
use crate::master::notice::Notice;
use crate::master::supervisor::WorkerId;
use crate::shm;
use crate::sys::whereabouts;

impl Master {
    /// Asks a worker where it is.
    pub(super) fn locate(&mut self, id: WorkerId) {
        let Some(worker) = self.worker_mut(id) else { return };
        if let Some(report) = shm::whereabouts::words(worker.lane) {
            // If it is gone, its end is noticed elsewhere.
            let _ = whereabouts::ask(worker.pid, report);
        }
    }

    /// Logs a notice, with the place of a worker that it says is stuck.
    pub(super) fn tell(&mut self, notice: &Notice) {
        let place = match notice {
            Notice::Stuck { pid, .. } => {
                let worker = self.workers.iter_mut().find(|worker| worker.pid == *pid);
                worker.and_then(|worker| {
                    let told = shm::whereabouts::told(worker.lane);
                    worker.is_sought = told.is_none();
                    told
                })
            }
            Notice::MovesAgain { pid, .. } => {
                let mut worker = self.workers.iter_mut().filter(|worker| worker.pid == *pid);
                worker.by_ref().for_each(|worker| worker.is_sought = false);
                None
            }
            _ => None,
        };
        notice.tell(place.as_deref());
    }

    /// Logs the places of stuck workers that have answered meanwhile.
    pub(super) fn tell_places(&mut self) {
        for worker in self.workers.iter_mut().filter(|worker| worker.is_sought) {
            if let Some(place) = shm::whereabouts::told(worker.lane) {
                worker.is_sought = false;
                let (title, pid) = (worker.role.title(), worker.pid);
                log::alert!(log::process(), &(), "{title} {pid} is in {place}");
            }
        }
    }
}
