//! Changes of generations: from the decision to read a configuration until its workers are ready, or are
//! given up.
//!
//! ```text
//! HUP → reading ─refused→ as before                         HUP during any of it: once more, after it
//!          └─open→ switching ─all are ready→ those before leave
//!                      └─not one can run→ the configuration before is in force again
//! ```

use std::collections::BTreeSet;

use crate::master::notice::Notice;
use crate::master::respawn::Vacancy;
use crate::master::roles::Role;
use crate::master::rules::State;
use crate::master::supervisor::{Action, Limits, Member, Phase, Supervisor, Switch, WorkerId};
use crate::worker::messages::ToWorker;

impl Supervisor {
    /// HUP: the configuration is read anew and gets workers; on any error nothing changes.
    pub(super) fn reload(&mut self, now_ms: u64) {
        if self.switch.is_some() {
            // Two reloads at once would leave the first one's workers half started.
            self.reload_is_wanted = true;
            self.give_up_hopeless(now_ms);
        } else if self.is_reading {
            self.reload_is_wanted = true;
        } else {
            self.is_reading = true;
            self.act(Action::Read);
        }
    }

    /// The reload that was asked for during another one.
    pub(super) fn reload_if_wanted(&mut self, now_ms: u64) {
        if std::mem::take(&mut self.reload_is_wanted) {
            self.reload(now_ms);
        }
    }

    /// Drops the configuration that is being read.
    pub(super) fn give_up_reading(&mut self) {
        if std::mem::take(&mut self.is_reading) {
            self.act(Action::GiveUpReading);
        }
    }

    /// The next configuration is open: its workers start while those before serve.
    pub(super) fn change_to(&mut self, limits: Limits) {
        self.is_reading = false;
        let previous = (self.generation, std::mem::replace(&mut self.limits, limits));
        self.start_generation(Some(previous));
    }

    /// Starts all workers of the configuration; those before are told to leave once these are ready.
    pub(super) fn start_generation(&mut self, previous: Option<(u64, Limits)>) {
        self.generation += 1;
        self.vacancies.clear();
        self.delays_ms.clear();
        self.switch = Some(Switch { previous });
        self.renewal_is_wanted = false; // every socket is looked at before the forks
        self.act(Action::Prepare);
        self.limits.places().filter(|place| place.role.is_awaited()).for_each(|place| self.fork(place));
    }

    /// True if living workers lack sockets that were opened anew: all are then replaced, with the same
    /// configuration. A configuration that is being read brings new workers anyway.
    pub(super) fn is_renewal_due(&self) -> bool {
        let is_free = self.switch.is_none() && !self.is_reading && self.phase == Phase::Serving;
        self.renewal_is_wanted && is_free
    }

    pub(super) fn is_ready(&mut self, worker: WorkerId, now_ms: u64) {
        let generation = self.generation;
        let Some(member) = self.member_mut(worker) else { return };
        if member.state == State::Starting {
            member.state = State::Ready;
        }
        let is_prober = member.place.role == Role::Prober;
        if member.generation == generation {
            let place = member.place;
            self.has_probed |= is_prober;
            self.take_back_loans(place);
            self.complete_switch(now_ms);
        }
    }

    /// Once all of this generation are ready, those before leave.
    pub(super) fn complete_switch(&mut self, now_ms: u64) {
        let is_own =
            |member: &&Member| member.generation == self.generation && member.place.role.is_awaited();
        let mut own = self.members.iter().filter(is_own).peekable();
        let is_complete = own.peek().is_some() && own.all(|member| member.state != State::Starting);
        if self.switch.take_if(|_| is_complete).is_none() {
            return;
        }
        self.act(Action::MovePidFile);
        // Before the old workers check which of their slots are being retired.
        self.act(Action::Settle);
        for index in 0..self.members.len() {
            if self.members[index].generation != self.generation {
                self.dismiss(index, &ToWorker::Drain, now_ms);
            }
        }
        self.end_oldest();
        self.first = None;
        self.act(Action::Serve);
        self.start_others();
        self.reload_if_wanted(now_ms);
    }

    /// Ends the oldest generations of those that finish their requests, if there are too many: each holds memory.
    fn end_oldest(&mut self) {
        let limit = self.limits.generations_max;
        let others = self.members.iter().map(|member| member.generation);
        let others: BTreeSet<u64> = others.filter(|generation| *generation != self.generation).collect();
        if limit == 0 || others.len() <= limit {
            return;
        }
        for generation in others.iter().take(others.len() - limit) {
            let of_it = self.members.iter_mut().filter(|member| member.generation == *generation);
            let ended: Vec<WorkerId> = of_it
                .filter_map(|member| (!std::mem::replace(&mut member.is_ended, true)).then_some(member.id))
                .collect();
            if !ended.is_empty() {
                self.act(Action::Tell(Notice::TooManyGenerations { generation: *generation, limit }));
                ended.into_iter().for_each(|worker| self.act(Action::Terminate(worker)));
            }
        }
    }

    /// Starts the processes that no change of generations waits for, each once the one before it has ended.
    pub(super) fn start_others(&mut self) {
        if self.switch.is_some() || self.phase != Phase::Serving {
            return;
        }
        for place in self.limits.places().filter(|place| !place.role.is_awaited()) {
            let is_there = self.members.iter().any(|member| member.place == place);
            if !is_there && !self.vacancies.iter().any(|vacancy| vacancy.place == place) {
                self.fork(place);
            }
        }
    }

    /// True when no worker of the first generation can run.
    pub(super) fn generation_has_failed(&self) -> bool {
        let is_first = self.switch.as_ref().is_some_and(|switch| switch.previous.is_none());
        let mut awaited = self.vacancies.iter().filter(|it| it.place.role.is_awaited()).peekable();
        let is_hopeless = awaited.peek().is_some() && awaited.all(|it| it.due_ms.is_none());
        is_first && is_hopeless && self.members.is_empty()
    }

    /// True if no worker of this generation lives, and the previous one could continue.
    fn is_deserted(&self) -> bool {
        let has_previous = self.switch.as_ref().is_some_and(|switch| switch.previous.is_some());
        let is_own = |member: &Member| member.generation == self.generation && member.place.role.is_awaited();
        has_previous && !self.members.iter().any(is_own)
    }

    /// Returns to the previous configuration if none of a reload's workers can run.
    pub(super) fn fall_back(&mut self, now_ms: u64) {
        let is_due = |vacancy: &Vacancy| vacancy.place.role.is_awaited() && vacancy.due_ms.is_some();
        if !self.is_deserted() || self.vacancies.iter().any(is_due) {
            return;
        }
        self.restore(now_ms);
        self.act(Action::Tell(Notice::FellBack));
        self.act(Action::TellRefused);
        self.reload_if_wanted(now_ms);
    }

    /// Gives up a reload whose workers have all died at birth if another reload is waiting for it.
    pub(super) fn give_up_hopeless(&mut self, now_ms: u64) {
        if self.is_deserted() && self.reload_is_wanted {
            self.restore(now_ms);
            self.reload_if_wanted(now_ms);
        }
    }

    /// Ends a change of generations without the new workers: the previous configuration is in force again,
    /// and those of its workers that have died meanwhile are replaced.
    fn restore(&mut self, now_ms: u64) {
        let Some((previous, limits)) = self.switch.take().and_then(|switch| switch.previous) else { return };
        self.vacancies.clear();
        self.limits = limits;
        let generation = self.generation;
        // Processes that the failed change did not wait for may be alive.
        for index in 0..self.members.len() {
            if self.members[index].generation == generation {
                self.dismiss(index, &ToWorker::Drain, now_ms);
            }
        }
        for member in self.members.iter_mut().filter(|member| member.generation == previous) {
            member.generation = generation;
        }
        self.act(Action::Restore);
        for place in self.limits.places().filter(|place| place.role.is_awaited()) {
            let mut members = self.members.iter();
            let is_there = members.any(|member| {
                member.place == place && member.generation == generation && !member.state.is_leaving()
            });
            if !is_there {
                self.fork(place);
            }
        }
        self.start_others();
    }
}
