//! Workers that end: collected, replaced at once, or later where they die as soon as they are born.

use std::collections::HashSet;

use crate::log;
use crate::master::rules::{LEFT_MAX, State};
use crate::master::{Master, Phase};
use crate::shm::{counter, lanes, named};
use crate::sys::process::{self, Ended};
use crate::sys::{clock, signal, terminal};
use crate::upstream::known;
use crate::worker::messages::{SLOTS_MAX, SlotIndex, ToWorker};

/// A worker that lived no longer than that has died of its own start.
const YOUNG_MS: u64 = 150;
/// The same for one that broke a rule: whatever took it over may take over the next one as soon, and the one after.
const YOUNG_CONDEMNED_MS: u64 = 60_000;
const DELAY_MIN_MS: u64 = 100;
const DELAY_MAX_MS: u64 = 30_000;
/// A worker that cannot run as configured ends with this code (nginx's too).
const FATAL: i32 = 2;

/// The place of a worker that is gone.
pub struct Vacancy {
    pub number: usize,
    pub leased: Vec<SlotIndex>,
    /// When to try again; `None`: never, until the next reload.
    pub due_ms: Option<u64>,
    /// Who accepts from its slots meanwhile.
    pub loan: Option<Loan>,
}

/// Slots that a worker accepts from for another one.
#[derive(Clone, Debug)]
pub struct Loan {
    pub pid: i32,
    /// Those it had not leased itself.
    pub slots: Vec<SlotIndex>,
}

/// Why a place became vacant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Ended {
        after_ms: u64,
    },
    /// It broke a rule and was killed.
    Condemned {
        after_ms: u64,
    },
    /// It asked for it after a panic, and leaves.
    Replaced {
        after_ms: u64,
    },
    Fatal,
    NotForked,
}

/// Failures of the workers of a first start. Once there was one that could serve, the master goes on trying for ever;
/// before that whoever starts it should hear why nothing comes of it.
#[derive(Debug, Default)]
pub struct FirstStart {
    failures: usize,
    why: String,
}

/// Failures of each place before a first start in which no worker lives is over: one may be chance.
const FIRST_FAILURES: usize = 2;

impl Master {
    /// A worker of a first start could not be forked, or ended before it could serve.
    pub(super) fn note_first_failure(&mut self, why: impl FnOnce() -> String) {
        if let Some(first) = &mut self.first {
            first.failures += 1;
            first.why = why();
        }
    }

    /// No worker of the first start lives, and each place has been tried often enough. Tells why.
    pub(super) fn first_start_has_failed(&self) -> bool {
        let Some(first) = &self.first else { return false };
        let count = self.settings().worker_processes();
        if !self.workers.is_empty() || self.vacancies.len() < count || first.failures < count * FIRST_FAILURES
        {
            return false;
        }
        let why = &first.why;
        log::emerg!(log::process(), &(), "not one worker process can run: {why}");
        let is_told = log::process().entries().iter().any(|(target, _)| *target == log::Target::stderr());
        if !is_told && !log::has_stderr() {
            terminal::tell(format_args!("pronghorn: [emerg] not one worker process can run: {why}"));
        }
        true
    }

    /// Collects every child that has ended.
    pub(super) fn reap(&mut self) {
        while let Some((pid, ended)) = process::reap() {
            if let Some(reading) = &mut self.reading {
                reading.lookup.note_reaped(pid);
            }
            if self.successor.as_ref().is_some_and(|successor| successor.pid == pid) {
                tell("new binary process", pid, ended);
                self.successor_ended();
            } else if let Some(index) = self.workers.iter().position(|worker| worker.pid == pid) {
                tell("worker process", pid, ended);
                self.worker_ended(index, ended);
            }
        }
    }

    fn worker_ended(&mut self, index: usize, ended: Ended) {
        // What it had still sent, however many connections wait here already: nobody can read it later.
        let now_ms = clock::monotonic_ms();
        for _ in 0..LEFT_MAX {
            if self.workers[index].is_condemned || !self.hear(index, now_ms) {
                break;
            }
        }
        let worker = self.workers.remove(index);
        self.give_lane(worker.lane);
        self.pending.extend(worker.unread());
        // Its words outlive one that ended as it should.
        let is_trusted = !worker.is_condemned && matches!(ended, Ended::Exited(0));
        known::end(worker.pid, is_trusted);
        for stuck in [worker.stuck, worker.full].into_iter().flatten() {
            self.release_helper(stuck);
            self.steer();
        }
        self.shut_removed();
        self.sweep_counters();
        let is_expected = worker.state.is_leaving() || worker.generation != self.generation;
        if is_expected || self.phase != Phase::Serving {
            return;
        }
        let after_ms = clock::monotonic_ms().saturating_sub(worker.born_ms);
        let pid = worker.pid;
        self.note_first_failure(|| match ended {
            Ended::Exited(code) => {
                format!("worker process {pid} exited with code {code} as soon as it was born")
            }
            Ended::Signaled { number, .. } => {
                format!("worker process {pid} exited on signal {number} as soon as it was born")
            }
        });
        // Only its start tells whether it can run: one that has served and ends with this code has another reason.
        if worker.is_condemned {
            self.vacate(worker.number, worker.leased, Cause::Condemned { after_ms });
        } else if ended == Ended::Exited(FATAL) && worker.state == State::Starting {
            let pid = worker.pid;
            log::alert!(
                log::process(),
                &(),
                "worker process {pid} exited with fatal code {FATAL} and cannot be respawned"
            );
            self.vacate(worker.number, worker.leased, Cause::Fatal);
        } else {
            self.vacate(worker.number, worker.leased, Cause::Ended { after_ms });
        }
        self.fill_vacancies(clock::monotonic_ms());
        self.complete_switch();
        self.fall_back();
        self.give_up_hopeless();
    }

    /// Frees the counters that only older configurations have named, once nobody can count in them any more.
    pub(super) fn sweep_counters(&mut self) {
        let is_alone = self.elder.is_none() && self.successor.is_none() && self.switch.is_none();
        if is_alone && self.workers.iter().all(|worker| worker.generation == self.generation) {
            counter::sweep(&self.cycle.config.slots().collect());
            named::sweep(&self.cycle.config.zones().collect());
            if self.cleared_generation != self.generation {
                self.cleared_generation = self.generation;
                lanes::clear(self.lanes.free());
            }
        }
    }

    /// Notes that a place is vacant and when it is filled; until then a sibling accepts from its slots.
    pub(super) fn vacate(&mut self, number: usize, leased: Vec<SlotIndex>, cause: Cause) {
        let now_ms = clock::monotonic_ms();
        let delay = self.delays_ms.entry(number).or_insert(0);
        let due_ms = match cause {
            Cause::Fatal => None,
            Cause::Ended { after_ms } | Cause::Replaced { after_ms } if after_ms >= YOUNG_MS => {
                *delay = 0;
                Some(now_ms)
            }
            Cause::Condemned { after_ms } if after_ms >= YOUNG_CONDEMNED_MS => {
                *delay = 0;
                Some(now_ms)
            }
            Cause::Ended { .. } | Cause::Replaced { .. } | Cause::Condemned { .. } | Cause::NotForked => {
                let wait_ms = std::mem::replace(delay, (*delay * 2).clamp(DELAY_MIN_MS, DELAY_MAX_MS));
                // The first one to die young is replaced at once: that may have been chance. A fork that
                // failed has its reasons still.
                Some(now_ms + if cause == Cause::NotForked { wait_ms.max(DELAY_MIN_MS) } else { wait_ms })
            }
        };
        if let Some(wait_ms) = due_ms.map(|due_ms| due_ms - now_ms).filter(|wait_ms| *wait_ms > 0) {
            let what = match cause {
                Cause::Condemned { .. } => "was killed soon after it was born",
                Cause::Replaced { .. } => "asked to be replaced as soon as it was born",
                Cause::NotForked => "could not be forked",
                _ => "died as soon as it was born",
            };
            log::alert!(log::process(), &(), "worker {number} {what}, the next one starts in {wait_ms} ms");
        }
        let loan = if due_ms == Some(now_ms) { None } else { self.lend(&leased) };
        self.vacancies.push(Vacancy { number, leased, due_ms, loan });
    }

    /// Starts the workers whose time has come, and sees that nobody's slots are orphaned.
    pub(super) fn fill_vacancies(&mut self, now_ms: u64) {
        let is_due = |vacancy: &mut Vacancy| vacancy.due_ms.is_some_and(|due_ms| due_ms <= now_ms);
        let due: Vec<Vacancy> = self.vacancies.extract_if(.., is_due).collect();
        if !due.is_empty() {
            self.check_slots();
        }
        for vacancy in due {
            let number = vacancy.number;
            self.spawn(number);
            // The loan ends when the new worker is ready.
            if let Some(loan) = vacancy.loan {
                self.loans.push((number, loan));
            }
        }
        self.renew_if_wanted();
        for index in 0..self.vacancies.len() {
            let vacancy = &self.vacancies[index];
            if !vacancy.loan.as_ref().is_some_and(|loan| self.can_lend(loan.pid)) {
                let leased = self.vacancies[index].leased.clone();
                self.vacancies[index].loan = self.lend(&leased);
            }
        }
    }

    pub(super) fn take_back_loans(&mut self, number: usize) {
        let ended: Vec<_> = self.loans.extract_if(.., |(place, _)| *place == number).collect();
        for (_, loan) in ended {
            self.take_back(&loan);
        }
    }

    /// Lets the least burdened sibling accept from these slots too, one with room if there is one.
    pub(super) fn lend(&mut self, slots: &[SlotIndex]) -> Option<Loan> {
        let generation = self.generation;
        let siblings = self.workers.iter_mut().filter(|worker| worker.can_take(generation));
        let sibling = siblings.min_by_key(|worker| (worker.full.is_some(), worker.leased.len()))?;
        let own: HashSet<SlotIndex> = sibling.leased.iter().copied().collect();
        let lent: Vec<SlotIndex> = slots.iter().copied().filter(|slot| !own.contains(slot)).collect();
        let is_told = parts(&lent).all(|part| sibling.send(&ToWorker::Lease(part)));
        is_told.then_some(Loan { pid: sibling.pid, slots: lent })
    }

    pub(super) fn can_lend(&self, pid: i32) -> bool {
        self.workers.iter().any(|worker| worker.pid == pid && worker.can_take(self.generation))
    }

    pub(super) fn take_back(&mut self, loan: &Loan) {
        if let Some(helper) = self.workers.iter_mut().find(|worker| worker.pid == loan.pid) {
            for part in parts(&loan.slots) {
                helper.send(&ToWorker::Release(part));
            }
        }
    }

    /// A worker asks to be replaced: it leaves, and the next one takes its place.
    pub(super) fn replace(&mut self, index: usize) {
        let worker = &self.workers[index];
        if worker.generation != self.generation || worker.state.is_leaving() {
            return;
        }
        let (number, pid, leased) = (worker.number, worker.pid, worker.leased.clone());
        let now_ms = clock::monotonic_ms();
        let after_ms = now_ms.saturating_sub(worker.born_ms);
        log::notice!(log::process(), &(), "worker process {pid} is replaced");
        self.dismiss(index, &ToWorker::Drain);
        if self.phase == Phase::Serving {
            // One that panics as soon as it serves is replaced ever later, as one that dies.
            self.vacate(number, leased, Cause::Replaced { after_ms });
            self.fill_vacancies(now_ms);
        }
    }

    /// When the next worker is to be killed that has not left in time.
    pub(super) fn next_kill_ms(&self) -> Option<u64> {
        let stopping = match self.phase {
            Phase::Stopping { kill_ms } => Some(kill_ms),
            _ => None,
        };
        self.workers.iter().filter_map(|worker| worker.leave_by_ms).chain(stopping).min()
    }

    pub(super) fn kill_late(&mut self, now_ms: u64) {
        let all_from = match self.phase {
            Phase::Stopping { kill_ms } => kill_ms,
            _ => u64::MAX,
        };
        for worker in &mut self.workers {
            if now_ms >= worker.leave_by_ms.unwrap_or(u64::MAX).min(all_from) {
                let pid = worker.pid;
                log::alert!(log::process(), &(), "worker process {pid} has not left in time and is killed");
                let _ = signal::send(pid, nix::libc::SIGKILL);
                worker.leave_by_ms = None;
            }
        }
        if let Phase::Stopping { kill_ms } = &mut self.phase
            && now_ms >= *kill_ms
        {
            *kill_ms = now_ms + 1000;
        }
    }
}

fn tell(what: &str, pid: i32, ended: Ended) {
    match ended {
        Ended::Exited(code) => log::notice!(log::process(), &(), "{what} {pid} exited with code {code}"),
        Ended::Signaled { number, core } => {
            let core = if core { " (core dumped)" } else { "" };
            log::alert!(log::process(), &(), "{what} {pid} exited on signal {number}{core}");
        }
    }
}

/// As many slots as one message can hold.
fn parts(slots: &[SlotIndex]) -> impl Iterator<Item = Vec<SlotIndex>> {
    slots.chunks(SLOTS_MAX).map(<[SlotIndex]>::to_vec)
}
