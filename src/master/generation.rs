//! Changes of generations: from the decision to read a configuration to the day its workers are ready, or are given up.
//!
//! ```text
//! HUP → reading ─refused→ as before                         HUP during any of it: once more, after it
//!          └─open→ switching ─all are ready→ those before leave
//!                      └─not one can run→ the configuration before is in force again
//! ```

use crate::master::notice::Notice;
use crate::master::rules::State;
use crate::master::supervisor::{Action, Limits, Phase, Supervisor, Switch, WorkerId};
use crate::worker::messages::ToWorker;

impl Supervisor {
    /// HUP: the configuration is read anew and gets workers; on any error nothing changes.
    pub(super) fn reload(&mut self) {
        if self.switch.is_some() {
            // Two reloads at once would leave the first one's workers half started.
            self.reload_is_wanted = true;
            self.give_up_hopeless();
        } else if self.is_reading {
            self.reload_is_wanted = true;
        } else {
            self.is_reading = true;
            self.act(Action::Read);
        }
    }

    /// The reload that was asked for during another one.
    pub(super) fn reload_if_wanted(&mut self) {
        if std::mem::take(&mut self.reload_is_wanted) {
            self.reload();
        }
    }

    /// The configuration that is being read is of no use any more.
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
        (0..self.limits.worker_count).for_each(|number| self.fork(number));
    }

    /// Living workers lack sockets that were opened anew: all are replaced, with the configuration as it is. One that is
    /// being read brings new workers anyway.
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
        if member.generation == generation {
            let number = member.number;
            self.take_back_loans(number);
            self.complete_switch(now_ms);
        }
    }

    /// Once all of this generation are ready, those before leave.
    pub(super) fn complete_switch(&mut self, now_ms: u64) {
        let mut own = self.members.iter().filter(|member| member.generation == self.generation).peekable();
        let is_complete = own.peek().is_some() && own.all(|member| member.state != State::Starting);
        if self.switch.take_if(|_| is_complete).is_none() {
            return;
        }
        self.act(Action::MovePidFile);
        // Before the old workers look which of their slots are about to go.
        self.act(Action::Settle);
        for index in 0..self.members.len() {
            if self.members[index].generation != self.generation {
                self.dismiss(index, &ToWorker::Drain, now_ms);
            }
        }
        self.first = None;
        self.act(Action::Serve);
        self.reload_if_wanted();
    }

    /// True when no worker of the first generation can run.
    pub(super) fn generation_has_failed(&self) -> bool {
        let is_first = self.switch.as_ref().is_some_and(|switch| switch.previous.is_none());
        let is_hopeless = !self.vacancies.is_empty() && self.vacancies.iter().all(|it| it.due_ms.is_none());
        is_first && is_hopeless && self.members.is_empty()
    }

    /// No worker of this generation lives, and another one could go on.
    fn is_deserted(&self) -> bool {
        let has_previous = self.switch.as_ref().is_some_and(|switch| switch.previous.is_some());
        has_previous && self.members.iter().all(|member| member.generation != self.generation)
    }

    /// None of a reload's workers can run: the configuration before goes on.
    pub(super) fn fall_back(&mut self) {
        if !self.is_deserted() || self.vacancies.iter().any(|vacancy| vacancy.due_ms.is_some()) {
            return;
        }
        self.restore();
        self.act(Action::Tell(Notice::FellBack));
        self.act(Action::TellRefused);
        self.reload_if_wanted();
    }

    /// A reload is asked for, and all workers of the one under way have died as soon as they were born: it is not
    /// waited for.
    pub(super) fn give_up_hopeless(&mut self) {
        if self.is_deserted() && self.reload_is_wanted {
            self.restore();
            self.reload_if_wanted();
        }
    }

    /// Ends a change of generations without the new workers: the configuration before is in force again, and its workers
    /// that have died meanwhile are replaced.
    fn restore(&mut self) {
        let Some((previous, limits)) = self.switch.take().and_then(|switch| switch.previous) else { return };
        self.vacancies.clear();
        self.limits = limits;
        let generation = self.generation;
        for member in self.members.iter_mut().filter(|member| member.generation == previous) {
            member.generation = generation;
        }
        self.act(Action::Restore);
        for number in 0..self.limits.worker_count {
            let mut members = self.members.iter();
            let is_there = members.any(|member| {
                member.number == number && member.generation == generation && !member.state.is_leaving()
            });
            if !is_there {
                self.fork(number);
            }
        }
    }
}
