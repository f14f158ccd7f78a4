//! Vacant places: filled at once, or with a delay if workers die as soon as they are born.

use std::collections::HashSet;

use crate::master::notice::Notice;
use crate::master::roles::Place;
use crate::master::rules::State;
use crate::master::supervisor::{Action, Phase, Stuck, Supervisor, WorkerId};
use crate::sys::process::Ended;
use crate::worker::messages::{SLOTS_MAX, SlotIndex, ToWorker};

/// A place whose process is gone.
#[derive(Debug)]
pub struct Vacancy {
    pub place: Place,
    pub leased: Vec<SlotIndex>,
    /// Time of the next attempt; `None`: not before the next reload.
    pub due_ms: Option<u64>,
    /// The worker that accepts from its slots meanwhile.
    pub loan: Option<Loan>,
}

/// Slots that a worker accepts from for another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loan {
    pub helper: WorkerId,
    /// The slots that it had not leased itself.
    pub slots: Vec<SlotIndex>,
}

/// The reason why a place became vacant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Ended {
        after_ms: u64,
    },
    /// It broke a rule and was killed.
    Condemned {
        after_ms: u64,
    },
    /// It asked to be replaced after a panic, and is leaving.
    Replaced {
        after_ms: u64,
    },
    Fatal,
    NotForked,
}

/// Failures of the workers of a first start. After one of them could serve, the master keeps trying for ever;
/// before that, the starter must learn why the daemon does not come up.
#[derive(Debug, Default)]
pub struct FirstStart {
    failures: usize,
    why: String,
}

/// Failures of each place after which a first start without a living worker is given up: one may be chance.
const FIRST_FAILURES: usize = 2;

impl Supervisor {
    /// Notes that a worker of a first start could not be forked, or ended before it could serve.
    fn note_first_failure(&mut self, why: impl FnOnce() -> String) {
        if let Some(first) = &mut self.first {
            first.failures += 1;
            first.why = why();
        }
    }

    /// The reason why the first start has failed: no worker lives, and each place has been tried often
    /// enough.
    pub(super) fn first_start_failure(&self) -> Option<String> {
        let first = self.first.as_ref()?;
        let count = self.limits.places().filter(|place| place.role.is_awaited()).count();
        let is_over = self.members.is_empty()
            && self.vacancies.len() >= count
            && first.failures >= count * FIRST_FAILURES;
        is_over.then(|| first.why.clone())
    }

    pub(super) fn not_forked(&mut self, worker: WorkerId, leased: Vec<SlotIndex>, why: String, now_ms: u64) {
        let Some(index) = self.index(worker) else { return };
        let member = self.members.remove(index);
        self.note_first_failure(|| why);
        self.vacate(member.place, leased, Cause::NotForked, now_ms);
    }

    pub(super) fn worker_ended(&mut self, worker: WorkerId, ended: Ended, now_ms: u64) {
        let Some(index) = self.index(worker) else { return };
        let member = self.members.remove(index);
        for stuck in [member.stuck, member.full].into_iter().flatten() {
            self.release_helper(stuck);
            self.act(Action::Steer);
        }
        self.act(Action::ShutRemoved);
        self.act(Action::Sweep);
        let is_expected = member.state.is_leaving() || member.generation != self.generation;
        if is_expected || self.phase != Phase::Serving {
            self.start_others();
            return;
        }
        let (pid, role) = (member.pid, member.place.role);
        let after_ms = now_ms.saturating_sub(member.born_ms);
        self.note_first_failure(|| match ended {
            Ended::Exited(code) => {
                format!("{} {pid} exited with code {code} as soon as it was born", role.title())
            }
            Ended::Signaled { number, .. } => {
                format!("{} {pid} exited on signal {number} as soon as it was born", role.title())
            }
        });
        // The code is fatal only during its start: a worker that has served ends with it for another reason.
        let respawn = member.place.role.respawn();
        let fatal_code = match ended {
            Ended::Exited(code) if member.state == State::Starting && respawn.is_fatal(code) => Some(code),
            Ended::Exited(_) | Ended::Signaled { .. } => None,
        };
        let cause = match fatal_code {
            _ if member.is_condemned => Cause::Condemned { after_ms },
            Some(code) => {
                self.act(Action::Tell(Notice::Fatal { pid, role, code }));
                Cause::Fatal
            }
            None => Cause::Ended { after_ms },
        };
        self.vacate(member.place, member.leased, cause, now_ms);
        self.fill_vacancies(now_ms);
        self.complete_switch(now_ms);
        self.fall_back(now_ms);
        self.give_up_hopeless(now_ms);
    }

    /// Notes that a place is vacant, and when it will be filled; until then a sibling accepts from its slots.
    fn vacate(&mut self, place: Place, leased: Vec<SlotIndex>, cause: Cause, now_ms: u64) {
        let delay_ms = self.delays_ms.entry(place).or_insert(0);
        let wait_ms = place.role.respawn().wait_ms(cause, delay_ms);
        if let Some(wait_ms) = wait_ms.filter(|wait_ms| *wait_ms > 0) {
            self.act(Action::Tell(Notice::DiedYoung { place, cause, wait_ms }));
        }
        let needs_loan = wait_ms != Some(0) && place.role.accepts();
        let loan = if needs_loan { self.lend(&leased) } else { None };
        self.vacancies.push(Vacancy { place, leased, due_ms: wait_ms.map(|ms| now_ms + ms), loan });
    }

    /// Starts the workers that are due, and lends slots that no worker accepts from.
    pub(super) fn fill_vacancies(&mut self, now_ms: u64) {
        let is_due = |vacancy: &mut Vacancy| vacancy.due_ms.is_some_and(|due_ms| due_ms <= now_ms);
        let due: Vec<Vacancy> = self.vacancies.extract_if(.., is_due).collect();
        if due.iter().any(|vacancy| vacancy.place.role.accepts()) {
            self.act(Action::CheckSockets);
        }
        for vacancy in due {
            self.fork(vacancy.place);
            // The loan ends when the new worker is ready.
            if let Some(loan) = vacancy.loan {
                self.loans.push((vacancy.place, loan));
            }
        }
        if self.is_renewal_due() {
            self.start_generation(None);
        }
        for index in 0..self.vacancies.len() {
            let vacancy = &self.vacancies[index];
            let is_lent = vacancy.loan.as_ref().is_some_and(|loan| self.can_lend(loan.helper));
            if !is_lent && vacancy.place.role.accepts() {
                let leased = self.vacancies[index].leased.clone();
                self.vacancies[index].loan = self.lend(&leased);
            }
        }
    }

    pub(super) fn take_back_loans(&mut self, place: Place) {
        let ended: Vec<_> = self.loans.extract_if(.., |(borrower, _)| *borrower == place).collect();
        for (_, loan) in ended {
            self.take_back(&loan);
        }
    }

    /// Lets the least burdened sibling accept from these slots too, one with room if there is one.
    pub(super) fn lend(&mut self, slots: &[SlotIndex]) -> Option<Loan> {
        let generation = self.generation;
        let siblings = self.members.iter().filter(|member| member.can_take(generation));
        let sibling = siblings.min_by_key(|member| (member.full.is_some(), member.leased.len()))?;
        let own: HashSet<SlotIndex> = sibling.leased.iter().copied().collect();
        let slots: Vec<SlotIndex> = slots.iter().copied().filter(|slot| !own.contains(slot)).collect();
        let loan = Loan { helper: sibling.id, slots };
        self.act(Action::Lend { helper: loan.helper, slots: loan.slots.clone() });
        Some(loan)
    }

    pub(super) fn can_lend(&self, worker: WorkerId) -> bool {
        self.member(worker).is_some_and(|member| member.can_take(self.generation))
    }

    /// Forgets a loan that could not be sent: no worker accepts from these slots.
    pub(super) fn forget_loan(&mut self, helper: WorkerId, slots: &[SlotIndex]) {
        let is_it = |loan: &mut Loan| loan.helper == helper && loan.slots == slots;
        for vacancy in &mut self.vacancies {
            vacancy.loan.take_if(is_it);
        }
        self.loans.retain_mut(|(_, loan)| !is_it(loan));
        let helped = self.members.iter_mut().flat_map(|member| [&mut member.stuck, &mut member.full]);
        for stuck in helped.flatten() {
            stuck.helper.take_if(is_it);
        }
    }

    pub(super) fn take_back(&mut self, loan: &Loan) {
        if self.member(loan.helper).is_some() {
            for part in parts(&loan.slots) {
                self.act(Action::Send(loan.helper, ToWorker::Release(part)));
            }
        }
    }

    /// Takes back the slots that were lent to a helper.
    pub(super) fn release_helper(&mut self, stuck: Stuck) {
        if let Some(loan) = stuck.helper {
            self.take_back(&loan);
        }
    }

    /// Replaces a worker at its own request: it leaves, and a new one takes its place.
    pub(super) fn replace(&mut self, worker: WorkerId, now_ms: u64) {
        let Some(index) = self.index(worker) else { return };
        let member = &self.members[index];
        if member.generation != self.generation || member.state.is_leaving() {
            return;
        }
        let (place, pid, leased) = (member.place, member.pid, member.leased.clone());
        let after_ms = now_ms.saturating_sub(member.born_ms);
        self.act(Action::Tell(Notice::Replaced { pid, role: place.role }));
        self.dismiss(index, &ToWorker::Drain, now_ms);
        if self.phase == Phase::Serving {
            // A worker that panics as soon as it serves is replaced with growing delays, like one that dies.
            self.vacate(place, leased, Cause::Replaced { after_ms }, now_ms);
            self.fill_vacancies(now_ms);
        }
    }
}

/// Splits slots into lists that fit into one message.
pub fn parts(slots: &[SlotIndex]) -> impl Iterator<Item = Vec<SlotIndex>> {
    slots.chunks(SLOTS_MAX).map(<[SlotIndex]>::to_vec)
}
