//! A generation: the workers of one configuration, from their forks to the day the next one is ready.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::rc::Rc;

use crate::cycle::{Compiled, Cycle, Draft, Loaded};
use crate::log;
use crate::master::pid::PidFile;
use crate::master::respawn::Cause;
use crate::master::rules::{Ledger, State};
use crate::master::seat::{Roster, Worker};
use crate::master::slots::{Group, Mended, Repair};
use crate::master::upgrade::OtherWorkers;
use crate::master::{Master, Phase, notify, opening, slots};
use crate::net::listener::Listener;
use crate::shm::lanes;
use crate::sys::address::SockAddr;
use crate::sys::lookup::Lookup;
use crate::sys::process::{self, Forked};
use crate::sys::signal::{Blocked, Signals};
use crate::sys::{alloc, clock, msg, signal, socket, terminal};
use crate::upstream::known;
use crate::worker::messages::{SlotIndex, ToWorker};
use crate::worker::{self, Seat, Slot};

/// A reload that waits for the names of its configuration.
pub struct Reading {
    pub draft: Box<Draft>,
    pub lookup: Lookup,
}

/// A change of generations under way: the new one starts while the old one serves.
pub struct Switch {
    /// What goes on when not one of the new workers can run: the cycle before and its number.
    pub previous: Option<Box<(Cycle, u64)>>,
    /// How many slots of each address the workers before accept from. New connections stay with those until the
    /// new workers are ready.
    served: HashMap<SockAddr, usize>,
}

impl Switch {
    /// The first slots of an address, which have somebody who accepts from them now.
    pub fn served_count(&self, address: &SockAddr) -> Option<usize> {
        self.served.get(address).copied()
    }
}

impl Master {
    /// HUP: reads the configuration anew and starts workers for it; on any error nothing changes.
    pub(super) fn reload(&mut self) {
        if self.switch.is_some() {
            // Two reloads at once would leave the first one's workers half started.
            self.reload_is_wanted = true;
            self.give_up_hopeless();
            return;
        }
        if self.reading.is_some() {
            self.reload_is_wanted = true;
            return;
        }
        notify::reloading();
        self.go_on_reading(Draft::read(&self.start.source, false));
    }

    /// Compiles what was read. Names in it are looked up while the master does what it always does.
    fn go_on_reading(&mut self, draft: Draft) {
        match draft.compile() {
            Compiled::Done(loaded) => self.change_to(*loaded),
            Compiled::Asks(draft, lookup) => self.reading = Some(Reading { draft, lookup }),
        }
    }

    /// Takes what was found out about the names of the configuration that is being read.
    pub(super) fn hear_names(&mut self) {
        let Some(Reading { mut draft, lookup }) = self.reading.take_if(|reading| reading.lookup.hear())
        else {
            return;
        };
        draft.learn(lookup.finish());
        self.go_on_reading(*draft);
    }

    /// Opens a configuration beside the one in force and starts workers for it.
    fn change_to(&mut self, loaded: Loaded) {
        // What a service manager has lent of addresses on their way out cannot be opened anew, if it is wanted again.
        let lent: Vec<_> = self.removed.iter_mut().filter_map(Group::split_lent).collect();
        lent.into_iter().for_each(|group| self.slots.add(group));
        self.slots.note_leaving(&self.removed);
        let Some(next) = opening::next(loaded, &mut self.slots, &self.cycle.config) else {
            let removed = self.slots.remove_others(self.cycle.config.listeners());
            self.retire(removed);
            notify::refused();
            self.reload_if_wanted();
            return;
        };
        let previous = std::mem::replace(&mut self.cycle, next);
        log::set_process(self.settings().error_log());
        self.start_generation(Some(Box::new((previous, self.generation))));
    }

    /// The configuration that is being read is of no use any more.
    pub(super) fn give_up_reading(&mut self) {
        if self.reading.take().is_some() {
            log::notice!(log::process(), &(), "the configuration that was being read is given up");
            notify::refused();
        }
    }

    /// Starts all workers of the cycle; those before are told to leave once these are ready.
    pub(super) fn start_generation(&mut self, previous: Option<Box<(Cycle, u64)>>) {
        self.generation += 1;
        self.roster = Rc::new(self.roster());
        self.vacancies.clear();
        self.delays_ms.clear();
        let slot_counts = self.slots.groups().map(|group| (group.address.clone(), group.fds.len()));
        let served = slot_counts.filter(|_| previous.is_some()).collect();
        self.switch = Some(Switch { previous, served });
        let count = self.settings().worker_processes();
        // Before there are more slots: nobody accepts from those yet.
        self.check_slots();
        self.renewal_is_wanted = false;
        for complaint in self.slots.change(self.cycle.config.listeners()) {
            log::warn!(log::process(), &(), "{complaint}");
        }
        self.slots.grow(self.cycle.config.listeners(), count);
        alloc::trim();
        for number in 0..count {
            self.spawn(number);
        }
    }

    /// Looks whether the listening sockets are as they were opened. Every worker has them all.
    pub(super) fn check_slots(&mut self) {
        for Mended { address, damage, repair } in self.slots.mend(self.cycle.config.listeners()) {
            let what = match repair {
                Repair::InPlace => "it is put right",
                Repair::Anew => "another one is opened, and new workers are started",
                Repair::Failed => "it could not be put right, restart the server",
            };
            self.renewal_is_wanted |= repair == Repair::Anew;
            log::alert!(
                log::process(),
                &(),
                "a listening socket of {address} {damage}: a worker must have changed it; {what}"
            );
        }
        self.steer();
        self.knows_steering = true;
    }

    /// Living workers lack sockets that were opened anew: all are replaced, with the configuration as it is.
    pub(super) fn renew_if_wanted(&mut self) {
        if self.renewal_is_wanted && self.switch.is_none() && self.phase == Phase::Serving {
            self.start_generation(None);
        }
    }

    /// Forks one worker of this generation; a failure leaves its place vacant for a while.
    pub(super) fn spawn(&mut self, number: usize) {
        let leased = self.leases(number);
        let mut call = "socketpair()";
        let outcome = (|| {
            let (control, far_end) = msg::pair()?;
            call = "fork()";
            let _blocked = Blocked::new()?;
            let lane = self.lanes.take().ok_or_else(|| std::io::Error::other("too many workers live"))?;
            lanes::prepare(lane, number as u32, self.generation);
            match process::fork().inspect_err(|_| self.give_lane(lane))? {
                Forked::Parent { child } => Ok((child, lane, control, far_end)),
                Forked::Child => {
                    drop(control);
                    // First of all: until then a signal for this process would reach the master's socket.
                    drop(self.signals.take());
                    lanes::enter(lane);
                    let seat = self.become_seat(number, far_end, leased.clone());
                    // Signals stay blocked until the worker can heed them.
                    let code = self.serve(seat);
                    std::process::exit(code);
                }
            }
        })();
        match outcome {
            Ok((pid, lane, control, far_end)) => {
                log::notice!(log::process(), &(), "start worker process {pid}");
                self.workers.push(Worker {
                    pid,
                    number,
                    generation: self.generation,
                    roster: Rc::clone(&self.roster),
                    lane,
                    control,
                    far_end,
                    state: State::Starting,
                    ledger: Ledger::default(),
                    is_condemned: false,
                    sent: 0,
                    born_ms: clock::monotonic_ms(),
                    shutdown_ms: self.settings().worker_shutdown_timeout_ms(),
                    leave_by_ms: None,
                    has_closed: false,
                    leased,
                    asked: None,
                    stuck: None,
                    full: None,
                });
            }
            Err(error) => {
                let why = format!("{call} failed while spawning a worker process {}", log::Cause(&error));
                log::alert!(log::process(), &(), "{why}");
                let remedy = match error.raw_os_error() {
                    Some(nix::libc::EAGAIN) => {
                        ": raise the limit of processes (ulimit -u, pids.max of the container)"
                    }
                    Some(nix::libc::EMFILE) => ": raise the limit of open files (ulimit -n)",
                    _ => "",
                };
                self.note_first_failure(|| format!("{why}{remedy}"));
                self.vacate(number, leased, Cause::NotForked);
            }
        }
    }

    /// What the messages of this generation's workers can name.
    fn roster(&self) -> Roster {
        let addresses = self.listeners().iter().map(|listen| listen.address.clone()).collect();
        let servers = self.cycle.config.followed_servers();
        let index = |index| u32::try_from(index).unwrap_or(u32::MAX);
        let names = servers.map(|(group, server, name)| ((index(group), index(server)), name)).collect();
        let is_dual_stack =
            |listen: &&Listener| socket::Make::wanted(&listen.address, &listen.options).is_dual_stack;
        let ports = self.listeners().iter().filter(is_dual_stack).filter_map(|listen| listen.address.port());
        let roster = Roster::new(addresses, names, self.settings().worker_connections() as u64);
        roster.with_dual_stack(ports)
    }

    /// The worker of this lane is gone.
    pub(super) fn give_lane(&mut self, lane: lanes::Lane) {
        lanes::give(lane);
        self.lanes.give(lane);
    }

    /// `master_process off`: serves in this process.
    pub(super) fn serve_alone(&mut self) -> i32 {
        let leased = self.leases(0);
        let prepared = msg::pair().and_then(|pair| Ok((pair, Blocked::new()?)));
        let ((_master_end, far_end), _blocked) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                let why = format!("socketpair() failed {}", log::Cause(&error));
                log::emerg!(log::process(), &(), "{why}");
                terminal::tell(format_args!("pronghorn: [emerg] {why}"));
                return 1;
            }
        };
        let starter = self.starter.take();
        // What has come already comes again when there is somebody to heed it.
        for signal in self.signals.take().iter_mut().flat_map(Signals::take) {
            let _ = signal::send(process::pid(), signal.number);
        }
        let pid_file = self.pid_file.take();
        let paths = std::mem::take(&mut self.slots);
        let copies = paths.try_clone();
        let slots = self.seat_slots(copies);
        let leaves_terminal = false; // the starter is told here, before it serves
        let is_alone = true;
        let seat =
            Seat { number: 0, generation: 1, control: far_end, slots, leased, leaves_terminal, is_alone };
        if let Some(starter) = starter {
            starter.ready();
        }
        notify::ready();
        let code = self.serve(seat);
        paths.unlink();
        if let Some(file) = pid_file {
            file.remove(false);
        }
        code
    }

    /// In a child: keeps what a worker needs of everything the master has open.
    fn become_seat(&mut self, number: usize, control: std::os::fd::OwnedFd, leased: Vec<SlotIndex>) -> Seat {
        self.workers.clear();
        self.pending.clear();
        self.removed.clear();
        self.reading = None;
        self.pid_file = None;
        self.elder = None;
        self.successor = None;
        let leaves_terminal = self.starter.take().is_some();
        self.switch = None;
        self.others = OtherWorkers::default();
        let slots = std::mem::take(&mut self.slots);
        let slots = self.seat_slots(slots);
        // All else goes, whatever it is and however the master came by it: a worker begins with what is on this list.
        let mut keep: Vec<RawFd> = slots.iter().map(|slot| slot.fd.as_raw_fd()).collect();
        keep.push(control.as_raw_fd());
        keep.extend(log::descriptors());
        keep.extend(crate::shm::descriptors());
        process::close_others(&keep);
        let is_alone = false;
        Seat { number, generation: self.generation, control, slots, leased, leaves_terminal, is_alone }
    }

    /// The list that leases count in: address by address, slot by slot.
    fn seat_slots(&self, mut slots: slots::Slots) -> Vec<Slot> {
        let mut list = Vec::new();
        for (listen, Listener { address, .. }) in self.listeners().iter().enumerate() {
            let Some(group) = slots.group_mut(address) else { continue };
            let lent_count = group.lent_count;
            let slot = |(index, fd)| Slot { listen, fd, is_lent: index < lent_count };
            list.extend(group.fds.drain(..).enumerate().map(slot));
        }
        list
    }

    fn serve(&mut self, seat: Seat) -> i32 {
        process::set_environment(&self.environment());
        log::format::read_zone();
        worker::run(std::mem::take(&mut self.cycle.config), seat)
    }

    /// nginx's policy: nothing of the environment but TZ, and what `env` says.
    fn environment(&self) -> Vec<(std::ffi::OsString, std::ffi::OsString)> {
        let listed = self.settings().environment.iter().map(|(name, value)| (&**name, value.as_deref()));
        let kept = |(name, value): (&str, Option<&str>)| {
            let value = value.map(Into::into).or_else(|| std::env::var_os(name))?;
            Some((name.into(), value))
        };
        [("TZ", None), ("RUST_BACKTRACE", None)].into_iter().chain(listed).filter_map(kept).collect()
    }

    /// The slots that worker `number` accepts from: every `workers`-th of each address, and never none.
    fn leases(&self, number: usize) -> Vec<SlotIndex> {
        let workers = self.settings().worker_processes().max(1);
        let mut leased = Vec::new();
        let mut first = 0;
        for listen in self.listeners() {
            let count = self.slots.group(&listen.address).map_or(0, |group| group.fds.len());
            let is_mine = |slot: &usize| slot % workers == number || number % count == *slot;
            leased.extend((0..count).filter(is_mine).map(|slot| (first + slot) as SlotIndex));
            first += count;
        }
        leased
    }

    /// The list that leases count in.
    pub(super) fn listed_slots(&self) -> Vec<BorrowedFd<'_>> {
        let groups = self.listeners().iter().filter_map(|listen| self.slots.group(&listen.address));
        groups.flat_map(|group| &group.fds).map(AsFd::as_fd).collect()
    }

    pub(super) fn worker_is_ready(&mut self, index: usize) {
        let worker = &mut self.workers[index];
        if worker.state == State::Starting {
            worker.state = State::Ready;
        }
        let number = worker.number;
        if worker.generation == self.generation {
            self.take_back_loans(number);
            self.complete_switch();
        }
    }

    /// Once all of this generation are ready, those before leave.
    pub(super) fn complete_switch(&mut self) {
        let mut own = self.workers.iter().filter(|worker| worker.generation == self.generation).peekable();
        let is_complete = own.peek().is_some() && own.all(|worker| worker.state != State::Starting);
        let Some(switch) = self.switch.take_if(|_| is_complete) else { return };
        if let Some(path) = self.cycle.pid_path(&self.start.source)
            && self.pid_file.as_ref().is_some_and(|file| file.path() != path)
        {
            self.move_pid_file(&path);
        }
        // Before the old workers look which of their slots are about to go.
        self.settle_slots();
        for index in 0..self.workers.len() {
            if self.workers[index].generation != self.generation {
                self.dismiss(index, &ToWorker::Drain);
            }
        }
        self.shut_removed();
        known::retain(&self.roster.names.values().cloned().collect());
        drop(switch);
        self.steer();
        // Those before may all have died meanwhile.
        self.sweep_counters();
        self.serves();
        self.reload_if_wanted();
        self.renew_if_wanted();
    }

    /// The reload that was asked for during a change of generations.
    fn reload_if_wanted(&mut self) {
        if std::mem::take(&mut self.reload_is_wanted) {
            self.reload();
        }
    }

    /// Tells everybody who waits for it that this generation serves.
    fn serves(&mut self) {
        self.first = None;
        notify::ready();
        if let Some(starter) = self.starter.take() {
            starter.ready();
        }
        if self.start.source.embedded.is_some() && self.generation == 1 {
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

    /// True when no worker of the first generation can run.
    pub(super) fn generation_has_failed(&self) -> bool {
        let is_first = self.switch.as_ref().is_some_and(|switch| switch.previous.is_none());
        let is_hopeless = !self.vacancies.is_empty() && self.vacancies.iter().all(|it| it.due_ms.is_none());
        is_first && is_hopeless && self.workers.is_empty()
    }

    /// None of a reload's workers can run: the configuration before goes on.
    pub(super) fn fall_back(&mut self) {
        let generation = self.generation;
        let is_dead = !self.workers.iter().any(|worker| worker.generation == generation)
            && self.vacancies.iter().all(|vacancy| vacancy.due_ms.is_none());
        let has_previous = self.switch.as_ref().is_some_and(|switch| switch.previous.is_some());
        if !is_dead || !has_previous {
            return;
        }
        self.restore();
        log::emerg!(
            log::process(),
            &(),
            "not one worker can run with the new configuration, the one before stays in force"
        );
        notify::refused();
        self.reload_if_wanted();
    }

    /// A reload is asked for, and all workers of the one under way have died as soon as they were born: it is not
    /// waited for.
    pub(super) fn give_up_hopeless(&mut self) {
        let is_under_way = self.workers.iter().any(|worker| worker.generation == self.generation);
        let has_previous = self.switch.as_ref().is_some_and(|switch| switch.previous.is_some());
        if is_under_way || !has_previous || !self.reload_is_wanted {
            return;
        }
        self.restore();
        self.reload_if_wanted();
    }

    /// Ends a change of generations without the new workers: the configuration before is in force again.
    fn restore(&mut self) {
        let Some(mut switch) = self.switch.take() else { return };
        let Some(previous) = switch.previous.take() else { return };
        self.vacancies.clear();
        let mut removed = self.slots.put_displaced_back();
        let generation = self.generation;
        let served = |group: &slots::Group| switch.served_count(&group.address);
        for group in self.slots.groups_mut() {
            // Nothing waits in those that were opened for the new workers: no connection was steered there.
            group.fds.truncate(served(group).unwrap_or(group.fds.len()));
        }
        let (cycle, previous_generation) = *previous;
        self.cycle = cycle;
        self.roster = Rc::new(self.roster());
        for worker in self.workers.iter_mut().filter(|worker| worker.generation == previous_generation) {
            worker.generation = generation;
        }
        removed.extend(self.slots.remove_others(self.cycle.config.listeners()));
        self.retire(removed);
        for complaint in self.slots.change(self.cycle.config.listeners()) {
            log::warn!(log::process(), &(), "{complaint}");
        }
        log::set_process(self.settings().error_log());
        self.steer();
        // Those of the configuration before that have died meanwhile.
        for number in 0..self.settings().worker_processes() {
            let is_it = |worker: &Worker| {
                worker.number == number && worker.generation == generation && !worker.state.is_leaving()
            };
            if !self.workers.iter().any(is_it) {
                self.spawn(number);
            }
        }
    }

    /// Tells a worker to leave.
    pub(super) fn dismiss(&mut self, index: usize, how: &ToWorker) {
        let worker = &mut self.workers[index];
        let helped = [worker.stuck.take(), worker.full.take()];
        if !worker.state.is_leaving() || *how == ToWorker::Quit {
            worker.send(how);
        }
        if !worker.state.is_leaving() {
            worker.state = if *how == ToWorker::Quit { State::Quitting } else { State::Draining };
            // The worker heeds the limit itself; one that cannot is killed a moment later.
            worker.leave_by_ms = worker.shutdown_ms.map(|ms| clock::monotonic_ms() + ms + 1000);
        }
        for stuck in helped.into_iter().flatten() {
            self.release_helper(stuck);
        }
    }

    /// The sockets of this configuration are those that clients find, and no others.
    fn settle_slots(&mut self) {
        // In this order: there is no moment in which an address has neither.
        self.slots.reveal();
        let mut removed = self.slots.take_displaced();
        removed.extend(self.slots.remove_others(self.cycle.config.listeners()));
        self.retire(removed);
    }

    /// Lets no new client come to these sockets; [`shut_removed`](Self::shut_removed) ends them.
    fn retire(&mut self, groups: Vec<Group>) {
        if !groups.is_empty() {
            self.retired_ms = clock::monotonic_ms();
            groups.iter().for_each(Group::retire);
            self.removed.extend(groups);
        }
        self.shut_removed();
    }

    /// Ends listening on addresses that are gone, as soon as nobody looks at them who would accept from them yet, or
    /// nobody is on the way to them any more.
    pub(super) fn shut_removed(&mut self) {
        if self.removed.is_empty() {
            return;
        }
        let is_own_kept = matches!(self.phase, Phase::Serving | Phase::Drained);
        let is_looking =
            |worker: &Worker| !worker.has_closed && (worker.generation != self.generation || !is_own_kept);
        let waited_ms = clock::monotonic_ms().saturating_sub(self.retired_ms);
        if !self.workers.iter().any(is_looking) || slots::are_drained(&self.removed, waited_ms) {
            slots::shut(&std::mem::take(&mut self.removed));
        }
    }

    fn move_pid_file(&mut self, path: &std::path::Path) {
        if self.pid_file.is_none() {
            return;
        }
        let moved = PidFile::claim(path).and_then(|file| match file.write() {
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

    /// WINCH, QUIT: tells all workers to leave; with another master beside this one their connections go there.
    pub(super) fn dismiss_all(&mut self, phase: Phase) {
        self.phase = phase;
        self.give_up_reading();
        self.vacancies.clear();
        if self.switch.take().is_some() {
            self.settle_slots();
        }
        let is_followed = self.elder.is_some() || self.successor.is_some();
        let how = if is_followed { ToWorker::Drain } else { ToWorker::Quit };
        if phase == Phase::Leaving && !is_followed {
            // New clients are refused from now on, not left waiting for a process that is on its way out.
            let groups = self.slots.take_all();
            self.retire(groups);
        }
        for index in 0..self.workers.len() {
            self.dismiss(index, &how);
        }
    }
}
