//! The challenges of ACME: the keeper of certificates tells them, the master passes them on to every process.
//!
//! The keeper hears of its own challenge once it is in the sockets of all others: their loops read that before any
//! connection which comes later. A process that is forked afterwards inherits the table. Touches: the control sockets.

use crate::log;
use crate::master::Master;
use crate::master::roles::Role;
use crate::master::rules::{Fault, Kind};
use crate::master::seat::Worker;
use crate::master::supervisor::{Event, WorkerId};
use crate::net::acme::challenges::{self, CHALLENGES_MAX, Challenge};
use crate::worker::messages::ToWorker;

impl Master {
    /// Passes a challenge on. The rules have judged it.
    pub(super) fn pass_challenge(&mut self, from: WorkerId, challenge: Challenge) {
        if !challenges::apply(&challenge) {
            let what = "too many challenges of ACME at one time: one is not answered";
            log::error!(log::process(), &(), "{what}");
        }
        let others = self.workers.iter_mut().filter(|worker| worker.role != Role::Keeper);
        others.for_each(|worker| worker.order_challenge(&challenge));
        if let Some(keeper) = self.workers.iter_mut().find(|worker| worker.id == from) {
            keeper.challenges.push_back(challenge);
            // A process that reads nothing, perhaps since this one has stopped it, must not fill the master's memory. The next
            // keeper begins with a removal of all.
            if keeper.challenges.len() > CHALLENGES_MAX {
                return self.happen(Event::BrokeRule(from, Fault::TooOften(Kind::Challenge)));
            }
        }
        self.confirm_challenges();
    }

    /// Tells the keeper which of its challenges are in the sockets of all others.
    pub(super) fn confirm_challenges(&mut self) {
        if self.workers.iter().all(|worker| worker.challenges.is_empty()) {
            return;
        }
        let is_untold =
            |worker: &Worker| worker.unsent.iter().any(|message| matches!(message, ToWorker::Challenge(_)));
        if self.workers.iter().any(is_untold) {
            return;
        }
        for keeper in &mut self.workers {
            while let Some(challenge) = keeper.challenges.pop_front() {
                keeper.order(ToWorker::Challenge(challenge));
            }
        }
    }
}
