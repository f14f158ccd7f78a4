//! The addresses of names that the prober has found: remembered for processes that are forked later, and passed on to
//! those that are alive.
//!
//! Touches: counters and places in shared memory, which only the master assigns; the control sockets of the workers.

use std::collections::BTreeSet;

use crate::log;
use crate::master::Master;
use crate::upstream::known;
use crate::worker::messages::{Learned, ToWorker};

impl Master {
    /// Records the addresses of a name that the prober has reported. Its message was judged already.
    pub(super) fn learn(&mut self, index: usize, learned: &Learned) {
        let prober = &self.workers[index];
        let Some(name) = prober.roster.names.get(&(learned.group, learned.server)).cloned() else { return };
        let pid = prober.pid;
        let mut spots = learned.spots.clone();
        known::place(&name.key, &name.group, name.is_placed, &mut spots);
        if !known::remember(&name.key, &spots, pid, self.supervisor.generation()) {
            return;
        }
        // Workers of other generations have other indexes for the same name.
        for worker in &mut self.workers {
            worker.news.extend(worker.roster.named(&name.key));
        }
        let addresses: Vec<String> = spots.iter().take(8).map(|spot| spot.address.to_string()).collect();
        let more = if spots.len() > addresses.len() { ", …" } else { "" };
        log::notice!(
            log::process(),
            &(),
            "prober process {pid}: \"{}\" leads to {} addresses now: {}{more}",
            name.key,
            spots.len(),
            addresses.join(", ")
        );
    }

    /// Tells the workers and the prober what is new; one whose socket is full is told later.
    pub(super) fn send_names(&mut self) {
        for worker in &mut self.workers {
            let mut news = std::mem::take(&mut worker.news);
            while let Some((group, server)) = news.pop_first() {
                let name = worker.roster.names.get(&(group, server));
                let Some(spots) = name.and_then(|name| known::recall(&name.key)) else { continue };
                if !worker.send(&ToWorker::Learned(Learned { group, server, spots })) {
                    news.insert((group, server));
                    break;
                }
            }
            worker.news = news;
        }
    }

    /// True if some process could not be told yet.
    pub(super) fn has_unsent_names(&self) -> bool {
        self.workers.iter().map(|worker| &worker.news).any(|news| !BTreeSet::is_empty(news))
    }
}
