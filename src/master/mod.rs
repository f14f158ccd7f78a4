//! The master process: binds, forks, supervises. Never runs a request.
//!
//! Touches: configuration, listening sockets, the pid file, processes, signals.
//!
//! ```text
//! start: inherited descriptors → configuration, logs, pid file, addresses → background → workers → ready
//!                    ┌──WINCH──▶ Drained ──HUP──┐
//! then:  Serving ────┤◀────────────────────────┘        (HUP while serving: the next generation)
//!                    └──QUIT──▶ Leaving ──TERM, INT──▶ Stopping ──no worker left──▶ exit 0
//! ```

mod daemon;
mod full;
mod generation;
mod inherit;
mod lanes;
mod link;
mod notify;
mod opening;
pub mod pid;
pub mod problem;
mod respawn;
pub mod rules;
mod seat;
mod signals;
mod slots;
mod upgrade;
mod watchdog;

use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::libc::SIGXFSZ;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::cycle::{self, Cycle, Settings, Source};
use crate::log;
use crate::master::daemon::Starter;
use crate::master::generation::{Reading, Switch};
use crate::master::inherit::Inherited;
use crate::master::lanes::Lanes;
use crate::master::link::{Link, Message};
use crate::master::pid::PidFile;
use crate::master::respawn::{FirstStart, Loan, Vacancy};
use crate::master::rules::Fault;
use crate::master::seat::{Connection, Roster, Worker};
use crate::master::slots::{Group, Slots};
use crate::master::upgrade::{OtherWorkers, Successor};
use crate::net::listener::Listener;
use crate::sys::signal::Signals;
use crate::sys::{clock, process, signal, socket, terminal};
use crate::upstream::known;
use crate::worker::messages::{Learned, ToMaster, ToWorker};

/// What the command line asks for.
#[derive(Debug)]
pub struct Start {
    pub source: Source,
    /// The whole command line, for the title and for an upgrade.
    pub arguments: Vec<OsString>,
}

/// What this master is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    /// WINCH: the workers have left, the addresses stay open.
    Drained,
    /// QUIT: it ends when the last worker has finished.
    Leaving,
    /// TERM, INT: workers are told to end at once, and killed from this time on (monotonic ms).
    Stopping {
        kill_ms: u64,
    },
}

struct Master {
    start: Start,
    program: PathBuf,
    /// `None` in a child.
    signals: Option<Signals>,
    slots: Slots,
    cycle: Cycle,
    /// Counts the sets of workers; binary upgrades go on counting.
    generation: u64,
    /// What messages of this generation's workers can name.
    roster: Rc<Roster>,
    /// Of all generations.
    workers: Vec<Worker>,
    /// Which places of the shared memory its workers have.
    lanes: Lanes,
    /// Places of this generation whose worker is gone and not replaced yet.
    vacancies: Vec<Vacancy>,
    /// Slots lent out for a worker number whose new worker is not ready yet.
    loans: Vec<(usize, Loan)>,
    /// How long the next replacement of a worker number that dies young has to wait.
    delays_ms: HashMap<usize, u64>,
    /// Set while the workers of this generation are not all ready.
    switch: Option<Switch>,
    phase: Phase,
    pid_file: Option<PidFile>,
    /// The master that has started this one, while it lives.
    elder: Option<Link>,
    successor: Option<Successor>,
    /// The workers of the other master of an upgrade.
    others: OtherWorkers,
    starter: Option<Starter>,
    /// Idle connections that wait for a worker to take them.
    pending: VecDeque<Connection>,
    /// Who takes the next one.
    turn: usize,
    /// The reload under way, until the names of its configuration are known.
    reading: Option<Reading>,
    reload_is_wanted: bool,
    /// How the first workers fare, until one set of them was ready.
    first: Option<FirstStart>,
    /// The generation whose workers found nothing held in the lanes of others.
    cleared_generation: u64,
    /// Listening sockets were opened anew that living workers do not have.
    renewal_is_wanted: bool,
    /// Whether each address's connections are steered is known: not of sockets that were inherited, until they were
    /// looked at.
    knows_steering: bool,
    /// Addresses that are not configured any more, until no old worker accepts from them, and when the last of them
    /// came to that.
    removed: Vec<Group>,
    retired_ms: u64,
    looked_ms: u64,
    /// What the workers' signs of life were at the last look, and looks in a row that found all of them asleep and
    /// the same.
    last_signs: u64,
    quiet_looks: u32,
    notified_ms: u64,
}

/// Connections that may wait in the master; beyond that it lets the workers wait.
const PENDING_MAX: usize = 256;
/// How often the master looks whether anybody is still on the way to addresses that go.
const SHUT_LOOK_MS: u64 = 20;

/// Runs the daemon to its end and returns the exit code. Worker processes end within this call.
pub fn run(start: Start) -> i32 {
    let inherited = Inherited::take();
    process::make_room_for_titles();
    process::set_umask(0o022);
    process::raise_nofile();
    signal::survive(SIGXFSZ);
    let Some(mut master) = Master::open(start, inherited) else { return 1 };
    master.supervise()
}

impl Master {
    /// Everything up to the first fork. `None`: refused, and told.
    fn open(start: Start, inherited: Inherited) -> Option<Self> {
        let Inherited { mut slots, link, lock, shm, generation, is_in_background, refused, lanes } =
            inherited;
        let claim = |path: &Path| match lock {
            Some(lock) => Ok(PidFile::inherited(path, lock)),
            None => PidFile::claim(path),
        };
        // First of all, for a configuration that is read has its counters there.
        if let Err(error) = shm_open(shm) {
            let why = problem::shared_memory(&error);
            let early = cycle::early_log(start.source.error_log.as_deref(), &start.source.prefix);
            terminal::tell(format_args!("pronghorn: [emerg] {why}"));
            log::emerg!(early, &(), "{why}");
            return None;
        }
        let (cycle, pid_file) = opening::start(&start.source, &mut slots, claim)?;
        if is_in_background {
            log::take_stderr();
        }
        for what in &refused {
            log::warn!(log::process(), &(), "{what} is not a listening socket and is closed");
        }
        for group in slots.remove_others(cycle.config.listeners()) {
            let level = if group.lent_count > 0 { log::Level::Warn } else { log::Level::Notice };
            let address = group.address;
            log::at!(
                level,
                log::process(),
                &(),
                "inherited address {address} is not configured and is closed"
            );
        }
        let is_upgrade = link.is_some();
        let give_up = || {
            pid_file.iter().for_each(PidFile::give_up);
            if !is_upgrade {
                slots.unlink();
            }
        };
        let is_demo = start.source.embedded.is_some();
        let fails = |what: &str, error: std::io::Error| {
            terminal::tell(format_args!("pronghorn: [emerg] {what} failed {}", log::Cause(&error)));
            log::emerg!(log::process(), &(), "{what} failed {}", log::Cause(&error));
            give_up();
        };
        let starter = if cycle.config.settings.daemon() && !is_demo && !is_upgrade {
            Some(daemon::detach().map_err(|error| fails("fork()", error)).ok()?)
        } else {
            None
        };
        let signals = Signals::new(signals::HANDLED).map_err(|error| fails("sigaction()", error)).ok()?;
        crate::sys::signal::unblock_all();
        // Whoever reads this file may send a signal at once: they are heeded by now.
        if let Some(file) = &pid_file {
            file.write()
                .map_err(|error| fails(&format!("writing \"{}\"", file.path().display()), error))
                .ok()?;
        }
        let program = program(&start.arguments);
        let now_ms = clock::monotonic_ms();
        Some(Self {
            start,
            program,
            signals: Some(signals),
            slots,
            cycle,
            generation,
            roster: Rc::default(),
            workers: Vec::new(),
            lanes,
            vacancies: Vec::new(),
            loans: Vec::new(),
            delays_ms: HashMap::new(),
            switch: None,
            phase: Phase::Serving,
            pid_file,
            elder: link,
            successor: None,
            others: OtherWorkers::default(),
            starter,
            pending: VecDeque::new(),
            turn: 0,
            reading: None,
            reload_is_wanted: false,
            first: Some(FirstStart::default()),
            cleared_generation: 0,
            renewal_is_wanted: false,
            knows_steering: false,
            removed: Vec::new(),
            retired_ms: now_ms,
            looked_ms: now_ms,
            last_signs: 0,
            quiet_looks: 0,
            notified_ms: now_ms,
        })
    }

    fn supervise(&mut self) -> i32 {
        log::notice!(log::process(), &(), "pronghorn/{}", env!("CARGO_PKG_VERSION"));
        if !self.settings().master_process() {
            return self.serve_alone();
        }
        self.set_title();
        self.greet_elder();
        log::notice!(log::process(), &(), "start worker processes");
        self.start_generation(None);
        loop {
            if let Some(code) = self.end() {
                self.leave();
                return code;
            }
            self.wait();
            self.heed_signals();
            self.hear_workers();
            self.hear_masters();
            self.hear_names();
            let now_ms = clock::monotonic_ms();
            self.fill_vacancies(now_ms);
            self.deliver();
            self.tell_workers();
            self.shut_removed();
            self.kill_late(now_ms);
            if now_ms >= self.next_look_ms() {
                self.looked_ms = now_ms;
                self.look(now_ms);
            }
            self.tell_manager(now_ms);
        }
    }

    fn settings(&self) -> &Settings {
        &self.cycle.config.settings
    }

    fn listeners(&self) -> &[Listener] {
        self.cycle.config.listeners()
    }

    fn set_title(&self) {
        let words: Vec<_> = self.start.arguments.iter().map(|word| word.to_string_lossy()).collect();
        process::set_title(&format!("pronghorn: master process {}", words.join(" ")));
    }

    /// The exit code, when there is nothing left to do.
    fn end(&self) -> Option<i32> {
        match self.phase {
            Phase::Leaving => (self.workers.is_empty() && self.pending.is_empty()).then_some(0),
            Phase::Stopping { .. } => self.workers.is_empty().then_some(0),
            // Not one worker of the first generation can run: the starter hears it.
            Phase::Serving if self.generation_has_failed() || self.first_start_has_failed() => Some(1),
            Phase::Serving | Phase::Drained => None,
        }
    }

    fn leave(&mut self) {
        let is_alone = self.elder.is_none() && self.successor.is_none();
        if is_alone {
            self.slots.unlink();
        }
        if let Some(file) = &self.pid_file {
            file.remove(!is_alone);
        }
        log::notice!(log::process(), &(), "exit");
    }

    /// Waits for a signal, a message, or the next time at which something is to be done.
    fn wait(&mut self) {
        let now_ms = clock::monotonic_ms();
        let due_ms = [
            Some(self.next_look_ms()),
            self.vacancies.iter().filter_map(|vacancy| vacancy.due_ms).min(),
            self.next_kill_ms(),
            (!self.pending.is_empty()).then_some(now_ms + 5),
            (!self.removed.is_empty()).then_some(now_ms + SHUT_LOOK_MS),
            self.reading.as_ref().map(|reading| reading.lookup.deadline_ms()),
            notify::watchdog_ms().map(|ms| self.notified_ms + ms),
        ];
        let wait_ms = due_ms.into_iter().flatten().min().map_or(250, |due_ms| due_ms.saturating_sub(now_ms));
        let mut fds: Vec<BorrowedFd<'_>> = self.signals.iter().map(Signals::as_fd).collect();
        if self.pending.len() < PENDING_MAX {
            fds.extend(self.elder.iter().map(|link| link.fd.as_fd()));
            fds.extend(self.successor.iter().map(|successor| successor.link.fd.as_fd()));
        }
        // No signal tells that these have ended.
        fds.extend(self.successor.iter().filter_map(|successor| Some(successor.process.as_ref()?.as_fd())));
        fds.extend(self.others.orphans());
        fds.extend(self.workers.iter().filter(|it| self.is_heard(it)).map(|it| it.control.as_fd()));
        fds.extend(self.reading.iter().filter_map(|reading| reading.lookup.as_fd()));
        let listeners_from = fds.len();
        if self.is_quiet() {
            // A connection that comes wakes the master too, so that it need not look while none does.
            fds.extend(self.slots.groups().flat_map(|group| &group.fds).map(AsFd::as_fd));
        }
        let mut fds: Vec<PollFd<'_>> = fds.into_iter().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let timeout = PollTimeout::try_from(wait_ms.min(60_000) as u32).unwrap_or(PollTimeout::ZERO);
        // Interrupted by a signal: that is what it waits for.
        let _ = poll(&mut fds, timeout);
        let is_ready = |fd: &PollFd<'_>| fd.any().unwrap_or(false);
        if fds[listeners_from..].iter().any(is_ready) {
            self.quiet_looks = 0;
        }
    }

    /// A leaving worker hands over its connections; while our queue is full we do not read from it, so it waits.
    fn is_heard(&self, worker: &Worker) -> bool {
        !worker.is_condemned && (!worker.state.is_leaving() || self.pending.len() < PENDING_MAX)
    }

    /// Takes what the workers say, of each a bounded number of messages: signals and the others have their turn.
    fn hear_workers(&mut self) {
        let now_ms = clock::monotonic_ms();
        for index in 0..self.workers.len() {
            for _ in 0..rules::A_TURN_MAX {
                if !self.is_heard(&self.workers[index]) || !self.hear(index, now_ms) {
                    break;
                }
            }
        }
    }

    /// Takes one message of a worker; false: there is none, or it has broken a rule.
    fn hear(&mut self, index: usize, now_ms: u64) -> bool {
        let worker = &mut self.workers[index];
        let heard = match worker.hear(now_ms) {
            None => return false,
            Some(Ok(heard)) => heard,
            Some(Err(fault)) => return self.condemn(index, fault),
        };
        match heard {
            None => log::alert!(
                log::process(),
                &(),
                "worker process {}: a connection was lost, the master has no room for its descriptor: raise the limit \
                 of open files",
                worker.pid
            ),
            Some((ToMaster::Ready, _)) => self.worker_is_ready(index),
            Some((ToMaster::HandOver(handover), Some(fd))) => match worker.receive_connection(handover, fd) {
                Ok(connection) => self.pending.extend(connection),
                Err(fault) => return self.condemn(index, fault),
            },
            Some((ToMaster::HandOver(_), None)) => {}
            Some((ToMaster::Replace, _)) => self.replace(index),
            Some((ToMaster::Pong(_), _)) => self.has_moved(index),
            Some((ToMaster::Closed, _)) => {
                worker.has_closed = true;
                self.shut_removed();
            }
            Some((ToMaster::Learned(learned), _)) => self.learn(index, &learned),
        }
        true
    }

    /// Notes where a followed name leads now, by the word of a worker of this generation.
    fn learn(&mut self, index: usize, learned: &Learned) {
        let worker = &self.workers[index];
        let Some(name) = worker.roster.names.get(&(learned.group, learned.server)) else { return };
        if worker.generation != self.generation || !known::remember(name, &learned.spots, worker.pid) {
            return;
        }
        let addresses: Vec<String> =
            learned.spots.iter().take(8).map(|spot| spot.address.to_string()).collect();
        let more = if learned.spots.len() > addresses.len() { ", …" } else { "" };
        log::notice!(
            log::process(),
            &(),
            "worker process {}: \"{name}\" leads to {} addresses now: {}{more}",
            worker.pid,
            learned.spots.len(),
            addresses.join(", ")
        );
    }

    /// A worker has broken a rule: other code than ours runs in it, or its memory is not what it was. It is killed, and
    /// nothing that it still says is heard. Always false: there is no next message.
    fn condemn(&mut self, index: usize, fault: Fault) -> bool {
        let worker = &mut self.workers[index];
        if !std::mem::replace(&mut worker.is_condemned, true) {
            let (pid, number) = (worker.pid, worker.number);
            log::alert!(
                log::process(),
                &(),
                "worker process {pid} (worker {number}) breaks a rule of its control socket and is killed: {fault}"
            );
            let _ = signal::send(pid, nix::libc::SIGKILL);
        }
        false
    }

    /// Gives idle connections to the workers of this generation in turn, or to the other master.
    fn deliver(&mut self) {
        for _ in 0..self.pending.len() {
            let Some(connection) = self.pending.pop_front() else { return };
            if !self.deliver_one(&connection) {
                self.pending.push_back(connection);
            }
        }
    }

    /// False: nobody can take it now.
    fn deliver_one(&mut self, connection: &Connection) -> bool {
        let generation = self.generation;
        let mut takers: Vec<&mut Worker> =
            self.workers.iter_mut().filter(|worker| worker.can_take(generation)).collect();
        let count = takers.len();
        self.turn = self.turn.wrapping_add(1);
        // The listener may be gone, and another cover the client's address.
        let by_local = || self.roster.listener_of(&socket::local_addr(&connection.fd).ok()?);
        match self.roster.listener_of(&connection.address).or_else(by_local) {
            // Its address is gone from the configuration: it closes.
            None if count > 0 => return true,
            Some(listen)
                if (0..count).any(|step| takers[(self.turn + step) % count].adopt(listen, connection)) =>
            {
                return true;
            }
            _ => {}
        }
        let link = self.elder.as_ref().or(self.successor.as_ref().map(|successor| &successor.link));
        let message = Message::HandOver(connection.handover.clone());
        // What came from there goes back only when nobody here can take it any more.
        let may_go = !connection.is_from_link || self.phase == Phase::Leaving;
        match link {
            Some(link) if count == 0 && may_go => link.send(&message, Some(&connection.fd)),
            // The last worker is leaving and nobody comes after: it closes.
            None if matches!(self.phase, Phase::Leaving | Phase::Stopping { .. }) => true,
            _ => false,
        }
    }

    fn tell_manager(&mut self, now_ms: u64) {
        let Some(every_ms) = notify::watchdog_ms() else { return };
        let is_well =
            self.workers.iter().all(|worker| worker.stuck.is_none() || self.is_being_helped(worker));
        if is_well && now_ms >= self.notified_ms + every_ms {
            self.notified_ms = now_ms;
            notify::watchdog();
        }
    }

    fn tell_all(&mut self, message: &ToWorker) {
        for worker in &mut self.workers {
            worker.send(message);
        }
    }
}

/// Maps the counters: those of the older master, or new ones where its plan of memory is another.
fn shm_open(adopted: Option<std::os::fd::OwnedFd>) -> std::io::Result<()> {
    crate::shm::open(adopted).or_else(|_| crate::shm::open(None))
}

/// What an upgrade executes: what this process was started by, found again from anywhere.
fn program(arguments: &[OsString]) -> PathBuf {
    let name = arguments.first().map(PathBuf::from).unwrap_or_default();
    if name.components().count() > 1 || name.is_absolute() {
        return std::path::absolute(&name).unwrap_or(name);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(&name)).find(|file| file.is_file()).unwrap_or(name)
}
