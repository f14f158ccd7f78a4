//! Signals, and the order that each gives to the master (pronghorn(8), SIGNALS).

use nix::libc::{SIGCHLD, SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGSYS, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};

use crate::log;
use crate::master::Master;
use crate::master::supervisor::{Event, Order};
use crate::net::tls::key_log;
use crate::sys::signal;
use crate::worker::messages::ToWorker;

pub const HANDLED: &[i32] =
    &[SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2, SIGWINCH, SIGCHLD, SIGPIPE, SIGSYS];

impl Master {
    pub(super) fn heed_signals(&mut self) {
        let Some(signals) = &mut self.signals else { return };
        let mut received = signals.take();
        // Of several at once an exit counts first, and children are reaped before new ones are made.
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
        let order = match number {
            SIGCHLD => return self.reap(),
            SIGTERM | SIGINT => Order::Stop,
            SIGQUIT => Order::Leave,
            SIGWINCH => Order::Drain,
            SIGHUP => Order::Reload,
            SIGUSR1 => Order::Reopen,
            SIGUSR2 => Order::Upgrade,
            _ => return,
        };
        let is_followed = self.elder.is_some() || self.successor.is_some();
        self.happen(Event::Ordered { order, is_followed });
    }

    pub(super) fn reopen_logs(&mut self) {
        let owner = self.cycle.config.owner();
        let outcomes = [log::reopen(owner), key_log::reopen(owner)];
        for error in outcomes.into_iter().filter_map(Result::err).flatten() {
            log::emerg!(log::process(), &(), "{error}");
        }
        for worker in &mut self.workers {
            worker.order(ToWorker::Reopen);
        }
    }
}
