//! What each signal asks of the master (pronghorn(8), SIGNALS).

use nix::libc::{SIGCHLD, SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGSYS, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};

use crate::log;
use crate::master::{Master, Phase};
use crate::sys::{clock, signal};
use crate::worker::messages::ToWorker;

pub const HANDLED: &[i32] =
    &[SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2, SIGWINCH, SIGCHLD, SIGPIPE, SIGSYS];

impl Master {
    pub(super) fn heed_signals(&mut self) {
        let Some(signals) = &mut self.signals else { return };
        let mut received = signals.take();
        // Of several at once the end counts first, and children are collected before new ones are made.
        received.sort_by_key(|signal| match signal.number {
            SIGTERM | SIGINT => 0,
            SIGQUIT => 1,
            SIGCHLD => 2,
            _ => 3,
        });
        for signal in received {
            let from = signal.sender.map_or(String::new(), |pid| format!(" from {pid}"));
            let what = match signal.number {
                SIGTERM | SIGINT => ", exiting",
                SIGQUIT => ", shutting down",
                SIGHUP => ", reconfiguring",
                SIGUSR1 => ", reopening logs",
                SIGUSR2 => ", changing binary",
                SIGWINCH => ", stop accepting connections",
                _ => "",
            };
            let (number, name) = (signal.number, signal::name(signal.number));
            log::notice!(log::process(), &(), "signal {number} ({name}) received{from}{what}");
            self.heed(number);
        }
    }

    fn heed(&mut self, number: i32) {
        match number {
            SIGCHLD => self.reap(),
            SIGTERM | SIGINT => self.stop(),
            SIGQUIT if matches!(self.phase, Phase::Serving | Phase::Drained) => {
                self.tell_leaving();
                self.dismiss_all(Phase::Leaving);
            }
            SIGWINCH if self.phase == Phase::Serving => self.dismiss_all(Phase::Drained),
            SIGHUP => self.heed_hup(),
            SIGUSR1 => self.reopen_logs(),
            SIGUSR2 if matches!(self.phase, Phase::Serving | Phase::Drained) => self.upgrade(),
            _ => {}
        }
    }

    fn heed_hup(&mut self) {
        match self.phase {
            Phase::Serving => self.reload(),
            // nginx: the workers of an upgrade that is taken back start with the configuration they had.
            Phase::Drained => {
                self.phase = Phase::Serving;
                log::notice!(log::process(), &(), "start worker processes");
                self.start_generation(None);
            }
            Phase::Leaving | Phase::Stopping { .. } => {}
        }
    }

    fn stop(&mut self) {
        if matches!(self.phase, Phase::Stopping { .. }) {
            return;
        }
        self.tell_leaving();
        self.phase = Phase::Stopping { kill_ms: clock::monotonic_ms() + self.settings().fast_stop_ms() };
        self.give_up_reading();
        self.vacancies.clear();
        self.switch = None;
        for worker in &self.workers {
            let _ = signal::send(worker.pid, SIGTERM);
        }
    }

    fn reopen_logs(&mut self) {
        for error in log::reopen(self.cycle.config.owner()).err().unwrap_or_default() {
            log::emerg!(log::process(), &(), "{error}");
        }
        self.tell_all(&ToWorker::Reopen);
    }
}
