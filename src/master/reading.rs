//! A configuration on its way from the files into service: read, opened, put in force, announced.

use crate::cycle::{Compiled, Config, Draft, Loaded};
use crate::log;
use crate::master::pid::PidFile;
use crate::master::slots::Group;
use crate::master::supervisor::{Event, Limits};
use crate::master::{Master, notify, opening};
use crate::shm::{counter, lanes, named, peers};
use crate::sys::lookup::Lookup;
use crate::sys::terminal;
use crate::upstream::known;

/// A reload that waits for the names of its configuration.
pub struct Reading {
    pub draft: Box<Draft>,
    pub lookup: Lookup,
}

/// What a configuration says of processes.
pub fn limits(config: &Config) -> Limits {
    let settings = &config.settings;
    Limits {
        has_prober: config.has_probes(),
        has_cache_manager: config.caches().next().is_some(),
        has_controller: config.control.is_some(),
        has_keeper: config.acme().is_some(),
        worker_count: settings.worker_processes(),
        watchdog_ms: settings.worker_watchdog_ms(),
        shutdown_ms: settings.worker_shutdown_timeout_ms(),
        fast_stop_ms: settings.fast_stop_ms(),
        generations_max: settings.generations_max(),
    }
}

impl Master {
    /// Reads the configuration again. `None`: it waits for its names.
    pub(super) fn read(&mut self) -> Option<Event> {
        notify::reloading();
        self.go_on_reading(Draft::read(&self.start.source, false))
    }

    /// Compiles what was read. If names must be looked up, the master continues its work meanwhile.
    fn go_on_reading(&mut self, draft: Draft) -> Option<Event> {
        match draft.compile() {
            Compiled::Done(loaded) => Some(self.open_next(*loaded)),
            Compiled::Asks(draft, lookup) => {
                self.reading = Some(Reading { draft, lookup });
                None
            }
        }
    }

    /// Takes over the results of looking up the configuration's names.
    pub(super) fn hear_names(&mut self) {
        let Some(Reading { mut draft, lookup }) = self.reading.take_if(|reading| reading.lookup.hear())
        else {
            return;
        };
        draft.learn(lookup.finish());
        if let Some(event) = self.go_on_reading(*draft) {
            self.happen(event);
        }
    }

    /// Opens a configuration in addition to the one in force, and puts it in force.
    fn open_next(&mut self, loaded: Loaded) -> Event {
        if let Some(names) = self.refreshing.take()
            && loaded.config.as_ref().is_some_and(|next| next.checksum != self.cycle.config.checksum)
        {
            log::warn!(
                log::process(),
                &(),
                "{names} is not in use yet, since the configuration has changed too: reload to use both"
            );
            notify::refused();
            return Event::Refused;
        }
        // A socket lent by a service manager cannot be opened anew, so take it back if its address is wanted
        // again.
        let lent: Vec<_> = self.removed.iter_mut().filter_map(Group::split_lent).collect();
        lent.into_iter().for_each(|group| self.slots.add(group));
        self.slots.note_leaving(&self.removed);
        if self.supervisor.is_settled() {
            self.slots.forget_left();
        }
        let Some(mut next) = opening::next(loaded, &mut self.slots, &self.cycle.config) else {
            let removed = self.slots.remove_others(self.cycle.config.listeners());
            self.retire(removed);
            notify::refused();
            self.orders.is_refused();
            return Event::Refused;
        };
        self.orders.carry_over(&mut next.config);
        self.previous = Some(Box::new(std::mem::replace(&mut self.cycle, next)));
        log::set_process(self.settings().error_log());
        self.watch_certificates(false);
        Event::Opened(limits(&self.cycle.config))
    }

    /// Drops the configuration that is being read.
    pub(super) fn give_up_reading(&mut self) {
        self.reading = None;
        self.refreshing = None;
        log::notice!(log::process(), &(), "the configuration that was being read is given up");
        notify::refused();
        self.orders.is_refused();
    }

    /// Announces that all workers of this generation are ready and the previous ones leave.
    pub(super) fn announce(&mut self) {
        self.shut_removed();
        known::retain(&self.roster.names.values().map(|name| name.key.clone()).collect());
        self.steer();
        // The previous workers may all have died meanwhile. The first generation has none.
        if self.supervisor.generation() > 1 {
            self.sweep_counters();
        }
        let (generation, checksum) = (self.supervisor.generation(), self.cycle.config.checksum);
        log::notice!(log::process(), &(), "generation {generation} serves configuration {checksum:08x}");
        let state = self.settings().control_state(&self.cycle.config.prefix);
        self.orders.is_in_force(state);
        notify::ready();
        if let Some(starter) = self.starter.take() {
            starter.ready();
        }
        let is_demo = self.start.source.embedded.is_some_and(|embedded| embedded.is_demo);
        if is_demo && self.supervisor.generation() == 1 {
            self.print_addresses();
        }
    }

    fn print_addresses(&self) {
        let urls: Vec<String> =
            self.listeners().iter().map(|listen| format!("http://{}/", listen.address)).collect();
        terminal::show(format_args!("pronghorn serves its demonstration; Ctrl-C stops it."));
        for url in &urls {
            terminal::show(format_args!("  {url}"));
        }
        if let Some(url) = urls.first() {
            terminal::show(format_args!("Try: curl {url}"));
        }
    }

    /// Frees the counters that only older configurations have named, once no worker can count in them any more.
    pub(super) fn sweep_counters(&mut self) {
        let is_alone = self.elder.is_none() && self.successor.is_none();
        if is_alone && self.supervisor.is_settled() {
            let (slots, places) = known::in_use(self.supervisor.generation());
            counter::sweep(&self.cycle.config.slots().chain(slots).collect());
            peers::sweep(&self.cycle.config.peers().chain(places).collect());
            named::sweep(&self.cycle.config.zones().map(|zone| zone.name).collect());
            if self.cleared_generation != self.supervisor.generation() {
                self.cleared_generation = self.supervisor.generation();
                lanes::clear(self.lanes.free());
            }
        }
    }

    /// Moves the pid file to where this configuration wants it.
    pub(super) fn move_pid_file(&mut self) {
        let Some(path) = self.cycle.pid_path(&self.start.source) else { return };
        if self.pid_file.as_ref().is_none_or(|file| file.path() == path) {
            return;
        }
        let moved = PidFile::claim(&path).and_then(|file| match file.write() {
            Ok(()) => Ok(file),
            Err(error) => Err(format!("writing \"{}\" failed {}", path.display(), log::Cause(&error))),
        });
        match moved {
            Ok(file) => {
                if let Some(old) = self.pid_file.replace(file) {
                    old.remove(false);
                }
            }
            Err(why) => log::emerg!(log::process(), &(), "{why}, the pid file stays where it was"),
        }
    }
}
