//! The master process: binds, forks, supervises. Never runs a request.
//!
//! Touches: configuration, listening sockets, the pid file, processes, signals. `supervisor.rs` decides what
//! to do with them; this room performs it.
//!
//! ```text
//! start: inherited descriptors → configuration, logs, pid file, addresses → background → workers → ready
//! then:  wait → what has happened → Supervisor::on → actions → what came of them → … → wait
//! ```

mod certificates;
mod challenges;
mod connections;
mod daemon;
mod datagrams;
mod fork;
mod generation;
mod inherit;
mod keyvals;
mod lanes;
mod link;
mod names;
mod notice;
mod notify;
mod opening;
mod orders;
pub mod pid;
pub mod problem;
mod reading;
mod respawn;
mod roles;
pub mod rules;
mod seat;
mod signals;
mod slots;
mod sockets;
mod state_file;
mod supervisor;
mod upgrade;
mod watchdog;
mod whereabouts;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::libc::{SIGKILL, SIGTERM, SIGXFSZ};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::cycle::{self, Cycle, Settings, Source};
use crate::log;
use crate::master::certificates::Certificates;
use crate::master::daemon::Starter;
use crate::master::inherit::Inherited;
use crate::master::lanes::Lanes;
use crate::master::link::{Link, Message};
use crate::master::orders::Orders;
use crate::master::pid::PidFile;
use crate::master::reading::Reading;
use crate::master::respawn::parts;
use crate::master::rules::{Fault, LEFT_MAX};
use crate::master::seat::{Cargo, Connection, Roster, Worker};
use crate::master::slots::{Group, Slots};
use crate::master::sockets::Change;
use crate::master::supervisor::{Action, Event, Phase, Sight, Supervisor, WorkerId};
use crate::master::upgrade::{OtherWorkers, Successor};
use crate::net::handover::NO_LISTENER;
use crate::net::listener::Listener;
use crate::shm::heartbeat;
use crate::sys::address::SockAddr;
use crate::sys::process::Ended;
use crate::sys::signal::Signals;
use crate::sys::{clock, process, signal, socket, terminal};
use crate::upstream::known;
use crate::worker::messages::{BYTES_MAX, ToMaster, ToWorker};

/// The parameters of a start, from the command line.
#[derive(Debug)]
pub struct Start {
    pub source: Source,
    /// The whole command line, for the title and for an upgrade.
    pub arguments: Vec<OsString>,
}

/// The sockets, processes and files that the supervisor decides about.
///
/// It reports each event to the supervisor and performs the actions that come back (`happen`, `perform`). Nothing here
/// decides when a worker is forked, told to leave or killed.
struct Master {
    start: Start,
    program: PathBuf,
    /// `None` in a child.
    signals: Option<Signals>,
    supervisor: Supervisor,
    slots: Slots,
    cycle: Cycle,
    /// The previous configuration, from the moment the next one is in force until its change begins.
    previous: Option<Box<Cycle>>,
    /// Set while the workers of this generation are not all ready.
    change: Option<Change>,
    /// The listeners and names that messages of this generation's workers can refer to.
    roster: Rc<Roster>,
    /// The workers of all generations.
    workers: Vec<Worker>,
    /// Where their messages are received.
    buffer: Box<[u8; BYTES_MAX]>,
    /// The lanes of the shared memory, and which of them its workers use.
    lanes: Lanes,
    pid_file: Option<PidFile>,
    /// The master that has started this one, while it lives.
    elder: Option<Link>,
    successor: Option<Successor>,
    /// The workers of the other master of an upgrade.
    others: OtherWorkers,
    starter: Option<Starter>,
    /// Idle connections that wait for a worker to take them over.
    pending: VecDeque<Connection>,
    /// The other master's workers receive datagrams, and those of this one do not (`datagrams.rs`).
    other_receives: bool,
    /// When workers were told to leave the last time, those of earlier generations or one that is replaced.
    settled_ms: u64,
    /// Index of the worker that takes the next one.
    turn: usize,
    /// The reload under way, until the names of its configuration are known.
    reading: Option<Reading>,
    /// The generation of the last prober.
    probed_generation: Option<u64>,
    /// The generation for which the lanes of others were last cleared of stray counts.
    cleared_generation: u64,
    /// The master knows which addresses have a steering program. After sockets were inherited it does not,
    /// until it has checked them.
    knows_steering: bool,
    /// Addresses that are no longer configured, until no old worker accepts from them, and the time at which
    /// the last of them was removed.
    removed: Vec<Group>,
    retired_ms: u64,
    notified_ms: u64,
    /// Those of the configuration in force, watched for changes.
    certificates: Certificates,
    /// The files for whose sake the configuration in force is read again, while it is.
    refreshing: Option<String>,
    /// Number of processes that ended in another way than they should.
    respawned: u64,
    /// The operators' orders, and the changes that they have made.
    orders: Orders,
}

/// Maximum number of connections that wait in the master; beyond it the workers wait.
const PENDING_MAX: usize = 256;
/// The most connections of other workers that one worker takes before its siblings: if they are slow for a moment, it does
/// not end up with more connections than it has descriptors for.
const LEAD_MAX: u64 = 256;
/// Interval of checking whether clients are still on their way to removed addresses.
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
    /// Does everything up to the first fork. `None`: the start was refused, and the reason reported.
    fn open(start: Start, inherited: Inherited) -> Option<Self> {
        let Inherited { mut slots, link, lock, shm, generation, is_in_background, refused, lanes, legacy } =
            inherited;
        let claim = |path: &Path| match lock {
            Some(lock) => Ok(PidFile::inherited(path, lock)),
            None => PidFile::claim(path),
        };
        // First of all: a configuration that is read has its counters there.
        if let Err(error) = shm_open(shm) {
            let why = problem::shared_memory(&error);
            let early = cycle::early_log(start.source.error_log.as_deref(), &start.source.prefix);
            terminal::tell(format_args!("pronghorn: [emerg] {why}"));
            log::emerg!(early, &(), "{why}");
            return None;
        }
        let (mut cycle, pid_file) = opening::start(&start.source, &mut slots, claim)?;
        let state = cycle.config.settings.control_state(&cycle.config.prefix);
        let orders = Orders::open(state, legacy, &mut cycle.config);
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
        // A reader of this file may send a signal at once: from here on they are handled.
        if let Some(file) = &pid_file {
            file.write()
                .map_err(|error| fails(&format!("writing \"{}\"", file.path().display()), error))
                .ok()?;
        }
        let program = program(&start.arguments);
        let now_ms = clock::monotonic_ms();
        let limits = reading::limits(&cycle.config);
        Some(Self {
            start,
            program,
            signals: Some(signals),
            supervisor: Supervisor::new(limits, generation, now_ms),
            slots,
            cycle,
            previous: None,
            change: None,
            roster: Rc::default(),
            workers: Vec::new(),
            buffer: Box::new([0; BYTES_MAX]),
            lanes,
            pid_file,
            // One of another version would never say that it has stopped: both receive then.
            other_receives: link.as_ref().is_some_and(Link::speaks),
            settled_ms: now_ms,
            elder: link,
            successor: None,
            others: OtherWorkers::default(),
            starter,
            pending: VecDeque::new(),
            turn: 0,
            reading: None,
            probed_generation: None,
            cleared_generation: 0,
            knows_steering: false,
            removed: Vec::new(),
            retired_ms: now_ms,
            notified_ms: now_ms,
            certificates: Certificates::default(),
            refreshing: None,
            orders,
            respawned: 0,
        })
    }

    fn supervise(&mut self) -> i32 {
        log::notice!(log::process(), &(), "pronghorn/{}", env!("CARGO_PKG_VERSION"));
        if !self.settings().master_process() {
            return self.serve_alone();
        }
        self.set_title();
        if let Err(error) = crate::shm::whereabouts::open() {
            log::warn!(
                log::process(),
                &(),
                "the log will not say where stuck workers are {}",
                log::Cause(&error)
            );
        }
        self.watch_certificates(false);
        self.greet_elder();
        self.happen(Event::Started);
        loop {
            if let Some(end) = self.supervisor.end(!self.pending.is_empty()) {
                end.why.iter().for_each(|why| tell_first_failure(why));
                self.leave();
                return end.code;
            }
            self.wait();
            self.heed_signals();
            self.hear_workers();
            self.hear_masters();
            self.hear_names();
            self.renew_certificates();
            self.happen(Event::Tick);
            self.workers.iter_mut().for_each(|worker| _ = worker.send_orders());
            self.confirm_challenges();
            self.deliver();
            self.let_receive();
            self.release();
            self.send_names();
            self.carry_out_orders();
            self.tell_workers();
            self.share_probing();
            self.shut_removed();
            self.look();
            self.tell_places();
            self.tell_manager();
        }
    }

    /// Reports an event to the supervisor and performs its actions. Their outcomes are the next events.
    fn happen(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for action in self.supervisor.on(event, clock::monotonic_ms()) {
                events.extend(self.perform(action));
            }
        }
    }

    /// Performs an action of the supervisor, and returns the event that its outcome is, if any.
    fn perform(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Prepare => self.prepare(),
            Action::Fork { worker, place, generation } => return Some(self.fork(worker, place, generation)),
            Action::Send(worker, message) => {
                if let Some(worker) = self.worker_mut(worker) {
                    worker.order(message);
                }
            }
            Action::Ping(id) => {
                let is_sent = self.worker_mut(id).is_some_and(Worker::ping);
                return (!is_sent).then_some(Event::PingUnsent(id));
            }
            Action::Lend { helper, slots } => {
                let lend =
                    |worker: &mut Worker| parts(&slots).all(|part| worker.send(&ToWorker::Lease(part)));
                let is_told = self.worker_mut(helper).is_some_and(lend);
                return (!is_told).then_some(Event::NotLent { helper, slots });
            }
            Action::Terminate(worker) => self.signal(worker, SIGTERM),
            Action::Kill(worker) => self.signal(worker, SIGKILL),
            Action::CheckSockets => return self.check_slots().then_some(Event::SocketsReplaced),
            Action::Steer => self.steer(),
            Action::ShutRemoved => self.shut_removed(),
            Action::Sweep => self.sweep_counters(),
            Action::MovePidFile => self.move_pid_file(),
            Action::Settle => self.settle_slots(),
            Action::Serve => self.announce(),
            Action::Restore => self.restore(),
            Action::TellRefused => notify::refused(),
            Action::RetireAll => {
                let groups = self.slots.take_all();
                self.retire(groups);
            }
            Action::Read => return self.read(),
            Action::GiveUpReading => self.give_up_reading(),
            Action::TellLeaving => self.tell_leaving(),
            Action::ReopenLogs => self.reopen_logs(),
            Action::Upgrade => self.upgrade(),
            Action::Locate(worker) => self.locate(worker),
            Action::Tell(notice) => self.tell(&notice),
        }
        None
    }

    fn worker_mut(&mut self, id: WorkerId) -> Option<&mut Worker> {
        self.workers.iter_mut().find(|worker| worker.id == id)
    }

    fn signal(&mut self, worker: WorkerId, number: i32) {
        if let Some(worker) = self.worker_mut(worker) {
            let _ = signal::send(worker.pid, number);
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

    /// Waits for a signal, a message, or the next time at which something is due.
    fn wait(&mut self) {
        let now_ms = clock::monotonic_ms();
        let due_ms = [
            Some(self.supervisor.due_ms(now_ms)),
            (!self.pending.is_empty()).then_some(now_ms + 5),
            self.is_receiving_due().then_some(now_ms + datagrams::LOOK_MS),
            self.has_unsent_names().then_some(now_ms + 5),
            self.workers.iter().any(|worker| !worker.unsent.is_empty()).then_some(now_ms + 5),
            self.orders.has_unsent(&self.workers).then_some(now_ms + 5),
            self.has_untold_prober().then_some(now_ms + 5),
            self.orders.questions.due_ms(),
            (!self.removed.is_empty()).then_some(now_ms + SHUT_LOOK_MS),
            self.reading.as_ref().map(|reading| reading.lookup.deadline_ms()),
            notify::watchdog_ms().map(|ms| self.notified_ms + ms),
            self.certificates.due_ms(now_ms),
        ];
        let wait_ms = due_ms.into_iter().flatten().min().map_or(250, |due_ms| due_ms.saturating_sub(now_ms));
        let mut fds: Vec<BorrowedFd<'_>> = self.signals.iter().map(Signals::as_fd).collect();
        if self.pending_fds() < PENDING_MAX {
            fds.extend(self.elder.iter().map(|link| link.fd.as_fd()));
            fds.extend(self.successor.iter().map(|successor| successor.link.fd.as_fd()));
        }
        // No signal reports the end of these.
        fds.extend(self.successor.iter().filter_map(|successor| Some(successor.process.as_ref()?.as_fd())));
        fds.extend(self.others.orphans());
        fds.extend(self.workers.iter().filter(|it| self.is_heard(it)).map(|it| it.control.as_fd()));
        fds.extend(self.reading.iter().filter_map(|reading| reading.lookup.as_fd()));
        fds.extend(self.certificates.as_fd());
        let listeners_from = fds.len();
        if self.supervisor.is_quiet() {
            // A new connection wakes the master too, so that it need not check while there is none.
            fds.extend(self.slots.groups().flat_map(|group| &group.fds).map(AsFd::as_fd));
        }
        let listeners_to = fds.len();
        let mut fds: Vec<PollFd<'_>> = fds.into_iter().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        // At a reload thousands of sessions may follow each other: go on as soon as their taker has read some.
        let full = self.workers.iter().filter(|worker| worker.is_full && !self.pending.is_empty());
        fds.extend(full.map(|worker| PollFd::new(worker.control.as_fd(), PollFlags::POLLOUT)));
        let timeout = PollTimeout::try_from(wait_ms.min(60_000) as u32).unwrap_or(PollTimeout::ZERO);
        // If it is interrupted by a signal, that is what it waits for.
        let _ = poll(&mut fds, timeout);
        let is_ready = |fd: &PollFd<'_>| fd.any().unwrap_or(false);
        let is_stirred = fds[listeners_from..listeners_to].iter().any(is_ready);
        drop(fds);
        if is_stirred {
            self.happen(Event::Stirred);
        }
    }

    /// A leaving worker hands over its connections; while our queue is full we do not read from it, so it waits.
    fn is_heard(&self, worker: &Worker) -> bool {
        let state = self.supervisor.hears(worker.id);
        state.is_some_and(|state| !state.is_leaving() || self.pending_fds() < PENDING_MAX)
    }

    /// The descriptors of all connections that wait here.
    fn pending_fds(&self) -> usize {
        self.pending.iter().map(|connection| connection.fds.len()).sum()
    }

    /// Reads the workers' messages, a bounded number from each, so that signals and other workers get their
    /// turn.
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

    /// Reads one message of a worker; false if there is none, or if it has broken a rule.
    fn hear(&mut self, index: usize, now_ms: u64) -> bool {
        let worker = &mut self.workers[index];
        let id = worker.id;
        let Some(state) = self.supervisor.hears(id) else { return false };
        let heard = match worker.hear(&mut self.buffer, state, now_ms) {
            None => return false,
            Some(Ok(heard)) => heard,
            Some(Err(fault)) => {
                self.happen(Event::BrokeRule(id, fault));
                return false;
            }
        };
        match heard {
            None => log::alert!(
                log::process(),
                &(),
                "worker process {}: a connection was lost, the master has no room for its descriptor: raise the limit \
                 of open files",
                worker.pid
            ),
            Some((ToMaster::Ready, _)) => self.happen(Event::Ready(id)),
            Some((ToMaster::HandOver(handover), mut fds)) => {
                let Some(fd) = fds.pop() else { return true };
                let received = worker.receive_connection(handover, fd);
                return self.wait_for_taker(id, received);
            }
            Some((ToMaster::HandOverTunnel(tunnel), fds)) => {
                let received = worker.receive_tunnel(tunnel, fds);
                return self.wait_for_taker(id, received);
            }
            Some((ToMaster::HandOverSession(session), mut fds)) => {
                let Some(fd) = fds.pop() else { return true };
                let received = worker.receive_session(session, fd);
                return self.wait_for_taker(id, received);
            }
            Some((ToMaster::Replace, _)) => {
                self.settled_ms = now_ms;
                self.happen(Event::Replace(id));
            }
            Some((ToMaster::Pong(_), _)) => self.happen(Event::Pong(id)),
            Some((ToMaster::Closed, _)) => self.happen(Event::Closed(id)),
            Some((ToMaster::Learned(learned), _)) => self.learn(index, &learned),
            Some((ToMaster::Order(number, order), _)) => self.orders.take(id, number, order.into_order()),
            Some((ToMaster::Listed(listed), _)) => self.hear_listed(id, listed),
            Some((ToMaster::Challenge(challenge), _)) => self.pass_challenge(id, challenge),
        }
        true
    }

    /// Keeps a connection until a worker takes it; false if its worker has broken a rule.
    fn wait_for_taker(&mut self, id: WorkerId, received: Result<Option<Connection>, Fault>) -> bool {
        match received {
            Ok(connection) => self.pending.extend(connection),
            Err(fault) => {
                self.happen(Event::BrokeRule(id, fault));
                return false;
            }
        }
        true
    }

    /// Reaps every child that has ended.
    pub(super) fn reap(&mut self) {
        while let Some((pid, ended)) = process::reap() {
            if let Some(reading) = &mut self.reading {
                reading.lookup.note_reaped(pid);
            }
            if self.successor.as_ref().is_some_and(|successor| successor.pid == pid) {
                tell("new binary process", pid, ended);
                self.successor_ended();
            } else if let Some(index) = self.workers.iter().position(|worker| worker.pid == pid) {
                tell(self.workers[index].role.title(), pid, ended);
                self.worker_ended(index, ended);
            }
        }
    }

    fn worker_ended(&mut self, index: usize, ended: Ended) {
        // Read its remaining messages, however many connections wait here already: they cannot be read later.
        let now_ms = clock::monotonic_ms();
        for _ in 0..LEFT_MAX {
            if !self.hear(index, now_ms) {
                break;
            }
        }
        self.respawned += u64::from(ended != Ended::Exited(0));
        let worker = self.workers.remove(index);
        self.give_lane(worker.lane);
        self.pending.extend(worker.unread());
        // The reports of a prober that has broken no rule stay valid; the next one looks at once.
        known::end(worker.pid, self.supervisor.hears(worker.id).is_some());
        self.happen(Event::Ended(worker.id, ended));
    }

    /// Checks every worker, when it is time.
    fn look(&mut self) {
        if clock::monotonic_ms() < self.supervisor.next_look_ms() {
            return;
        }
        let slots = self.listed_slots();
        let sights = self.workers.iter().map(|worker| {
            let own = self.supervisor.queues_to_look_at(worker.id).iter();
            let mut own = own.filter_map(|index| slots.get(*index as usize));
            let has_queue = own.any(|fd| socket::accept_backlog(*fd) > 0);
            (worker.id, Sight { beat: heartbeat::read(worker.lane), has_queue })
        });
        let sights = sights.collect();
        self.happen(Event::Looked(sights));
    }

    /// Passes idle connections to the workers of this generation in turn, or to the other master.
    fn deliver(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        self.workers.iter_mut().for_each(|worker| worker.is_full = false);
        let takers: Vec<WorkerId> = self.supervisor.takers().collect();
        let spans = if self.has_sessions() { self.spans() } else { Vec::new() };
        for _ in 0..self.pending.len() {
            let Some(connection) = self.pending.pop_front() else { return };
            if !self.deliver_one(&connection, &takers, &spans) {
                self.pending.push_back(connection);
            }
        }
    }

    /// Passes on one connection; false if no worker can take it now.
    ///
    /// `takers`: the workers that take connections over, in the order of their ids; `spans`: the sockets of each listener.
    fn deliver_one(&mut self, connection: &Connection, takers: &[WorkerId], spans: &[Range<usize>]) -> bool {
        let is_session = matches!(connection.cargo, Cargo::Session(_));
        let slot = match (&connection.cargo, &connection.address) {
            (Cargo::Session(session), Some(address)) => {
                let listen = self.roster.listener_of(address);
                listen.and_then(|listen| Self::slot_of(spans.get(listen as usize)?, session))
            }
            _ => None,
        };
        let receiver = slot.and_then(|slot| self.supervisor.lessee(slot));
        if is_session && receiver.is_none() && self.is_receiver_coming(slot) {
            return false;
        }
        let receiver = receiver.or_else(|| self.supervisor.helper(slot?));
        let mut takers: Vec<&mut Worker> =
            self.workers.iter_mut().filter(|worker| takers.binary_search(&worker.id).is_ok()).collect();
        let count = takers.len();
        let receiver = receiver.and_then(|id| takers.iter().position(|worker| worker.id == id));
        self.turn = receiver.unwrap_or(self.turn.wrapping_add(1));
        // A session has to be where its client's datagrams arrive: it waits for that worker. If there is none, any other
        // one can at least pass the answers on.
        let steps = if receiver.is_some() { 1 } else { count };
        let adopted_max = takers.iter().map(|worker| worker.adopted).min().unwrap_or(0) + LEAD_MAX;
        // The listener may be gone, and another one cover the client's address.
        let listener = connection.address.as_ref().and_then(|address| {
            let by_local = || {
                let fd = connection.fds.first().filter(|_| !matches!(connection.cargo, Cargo::Session(_)))?;
                self.roster.listener_of(&socket::local_addr(fd).ok()?)
            };
            self.roster.listener_of(address).or_else(by_local)
        });
        let listener = match &connection.cargo {
            // A tunnel goes on although its address is no longer configured.
            Cargo::Tunnel(_) => Some(listener.unwrap_or(NO_LISTENER)),
            Cargo::Idle(_) | Cargo::Session(_) => listener,
        };
        match listener {
            // Its address is no longer configured: the connection closes.
            None if count > 0 => {
                if let Cargo::Session(session) = &connection.cargo {
                    Self::end_session(connection, session);
                }
                return true;
            }
            Some(listen)
                if (0..steps).any(|step| {
                    let worker = &mut takers[(self.turn + step) % count];
                    let may_adopt = is_session || worker.adopted < adopted_max;
                    may_adopt && worker.adopt(listen, connection)
                }) =>
            {
                return true;
            }
            _ => {}
        }
        let message = match &connection.cargo {
            Cargo::Idle(handover) => Message::HandOver(handover.clone()),
            Cargo::Tunnel(tunnel) => Message::Tunnel(tunnel.clone()),
            Cargo::Session(session) => match connection.address.as_ref().and_then(SockAddr::inet) {
                Some(address) => Message::Session(*address, session.clone()),
                None => return true,
            },
        };
        // A connection from the link goes back only when no worker here can take it any more.
        let may_go = !connection.is_from_link || self.supervisor.phase() == Phase::Leaving;
        match self.link() {
            Some(link) if count == 0 && may_go => link.send(&message, &connection.fds),
            // The last worker is leaving and there is no other master: the connection closes.
            None if matches!(self.supervisor.phase(), Phase::Leaving | Phase::Stopping { .. }) => true,
            _ => false,
        }
    }

    fn tell_manager(&mut self) {
        let Some(every_ms) = notify::watchdog_ms() else { return };
        let now_ms = clock::monotonic_ms();
        if self.supervisor.is_well() && now_ms >= self.notified_ms + every_ms {
            self.notified_ms = now_ms;
            notify::watchdog();
        }
    }
}

/// Tells the starter and the log why no worker of a first start can run.
fn tell_first_failure(why: &str) {
    log::emerg!(log::process(), &(), "not one worker process can run: {why}");
    let is_told = log::process().entries().iter().any(|(target, _)| *target == log::Target::stderr());
    if !is_told && !log::has_stderr() {
        terminal::tell(format_args!("pronghorn: [emerg] not one worker process can run: {why}"));
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

/// Maps the counters: those of the older master, or new ones if its layout is another.
fn shm_open(adopted: Option<std::os::fd::OwnedFd>) -> std::io::Result<()> {
    crate::shm::open(adopted).or_else(|_| crate::shm::open(None))
}

/// The program that an upgrade executes: the one that started this process, by a path that is valid anywhere.
fn program(arguments: &[OsString]) -> PathBuf {
    let name = arguments.first().map(PathBuf::from).unwrap_or_default();
    if name.components().count() > 1 || name.is_absolute() {
        return std::path::absolute(&name).unwrap_or(name);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(&name)).find(|file| file.is_file()).unwrap_or(name)
}
