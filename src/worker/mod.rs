//! A worker process, after the fork, or a process beside the workers. Never creates a listener.
//!
//! Touches: everything a worker is: its limits, user, loop, leases, and the socket to its master. The prober and the
//! cache manager are workers without listeners and clients: one checks the servers of upstreams for all workers, the other
//! loads and removes the files of their caches.
//!
//! ```text
//! serving ─Drain→ handing over ─no connection left→ exit 0
//!    └─Quit, or the master is gone→ closing ─no connection left, or worker_shutdown_timeout→ exit 0
//! TERM, INT: exit at once
//! ```

mod accept;
mod hygiene;
pub mod messages;
mod outbox;
mod services;

use std::cell::Cell;
use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use nix::libc::{SIGCHLD, SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH, SIGXFSZ};

use crate::cache;
use crate::cycle::{Config, Renewal, TrustedRenewal};
use crate::log;
use crate::net::acme::{self, challenges, challenges::Challenge};
use crate::net::budget;
use crate::net::clients;
use crate::net::drain::{self, Mode};
use crate::net::handover::{Handover, MovedSession, MovedTunnel};
use crate::net::tls::{key_log, parcel};
use crate::net::{open, room};
use crate::runtime::{self, Io, Runtime, Timer, buffer};
use crate::shared::control::Desk;
use crate::shm::{behind, heartbeat, lanes, whereabouts};
use crate::sys::alloc;
use crate::sys::memory;
use crate::sys::msg;
use crate::sys::process;
use crate::sys::sealed;
use crate::sys::signal::Signals;
use crate::sys::terminal;
use crate::upstream::follow::Tell;
use crate::upstream::groups::Followed;
use crate::upstream::known::{self, Spot};
use accept::Leases;
pub use accept::Slot;
use messages::{BYTES_MAX, Learned, Listed, ToMaster, ToWorker};
use outbox::Outbox;
use services::Services;

/// Everything that the master gives to a worker apart from the configuration.
#[derive(Debug)]
pub struct Seat {
    /// From 0 within its generation.
    pub number: usize,
    pub generation: u64,
    pub control: OwnedFd,
    pub slots: Vec<Slot>,
    /// The slots to accept from at first.
    pub leased: Vec<messages::SlotIndex>,
    /// Workers of an earlier generation receive datagrams still: [`ToWorker::Receive`] says when they do not.
    pub waits: bool,
    /// The worker releases the starter's terminal when it is ready.
    pub leaves_terminal: bool,
    pub duty: Duty,
}

/// The work of a process that the master has forked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// It serves clients.
    Serve,
    /// It checks the servers of upstreams.
    Probe,
    /// It loads and removes the files of caches.
    ManageCaches,
    /// `master_process off`: it does all of these, and no other process has its slots, or heeds the signals of a master.
    Alone,
    /// It serves operators.
    Control,
    /// It asks authorities for certificates.
    KeepCertificates,
}

impl Duty {
    fn serves(self) -> bool {
        matches!(self, Self::Serve | Self::Alone)
    }

    fn probes(self) -> bool {
        matches!(self, Self::Probe | Self::Alone)
    }

    fn manages_caches(self) -> bool {
        matches!(self, Self::ManageCaches | Self::Alone)
    }

    fn keeps_certificates(self) -> bool {
        matches!(self, Self::KeepCertificates | Self::Alone)
    }

    /// True if nobody waits for it, so that it can end at once.
    fn has_no_clients(self) -> bool {
        matches!(self, Self::Probe | Self::ManageCaches | Self::KeepCertificates)
    }

    /// The term in the titles of processes.
    fn title(self) -> &'static str {
        match self {
            Self::Serve | Self::Alone => "worker process",
            Self::Probe => "prober process",
            Self::ManageCaches => "cache manager process",
            Self::Control => "controller process",
            Self::KeepCertificates => "certificate keeper process",
        }
    }
}

/// Descriptors that a worker needs in addition to its own: for a client, an upstream server, and a pipe between them.
const DESCRIPTORS_MIN: usize = 4;

/// Runs a worker to its end and returns its exit code. Called in a process of its own.
///
/// Code 2: the worker cannot run as configured, and trying again would not help.
pub fn run(config: Config, seat: Seat) -> i32 {
    if let Err(why) = hygiene::settle(&config, seat.duty.serves().then_some(seat.number)) {
        return cannot_run(&why, seat.number);
    }
    let number = seat.number;
    let Seat { generation, duty, .. } = seat;
    let checksum = config.checksum;
    process::set_title(&format!(
        "pronghorn: {} (generation {generation}, configuration {checksum:08x})",
        duty.title()
    ));
    crate::sys::alloc::keep_blocks();
    behind::keep_in_lane();
    if let Some(report) = whereabouts::words(lanes::mine()) {
        // Without it the log line about a stuck worker says less.
        let _ = crate::sys::whereabouts::report_to(report);
    }
    // The configuration lives as long as the process: plain references, no counts to touch.
    let config: &'static Config = Box::leak(Box::new(config));
    log::set_debugged(&config.settings.debugged);
    budget::set_max(config.settings.worker_memory_budget());
    let outcome = Runtime::new().and_then(|mut runtime| {
        // SIGPIPE and SIGXFSZ are taken only so that they do not end the process: the call fails, and we log
        // that.
        let taken = [SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2, SIGWINCH, SIGPIPE, SIGXFSZ];
        // Process 1 of a container gets every orphan, and there is no master that would collect them.
        let children: &[i32] = if seat.duty == Duty::Alone { &[SIGCHLD] } else { &[] };
        let signals = Signals::new(&[&taken, children].concat())?;
        crate::sys::signal::unblock_all();
        runtime.block_on(async move {
            serve(config, seat, signals).await?;
            runtime::leave_sockets_open();
            // Tunnels count their bytes and write their lines in the log.
            runtime::after_others().await;
            services::end();
            Ok(())
        })
    });
    log::flush_all();
    behind::flush();
    match outcome {
        // `worker_rlimit_nofile` has no room even for the loop.
        Err(error) if error.raw_os_error() == Some(nix::libc::EMFILE) => {
            cannot_run(&format!("the worker cannot start {}", log::Cause(&error)), number)
        }
        Ok(()) => {
            log::notice!(log::process(), &(), "exit");
            0
        }
        Err(error) => {
            log::alert!(log::process(), &(), "the worker cannot go on {}", log::Cause(&error));
            1
        }
    }
}

/// Without a master: looks at the files of certificates once a second, and uses those that have changed.
///
/// A process that serves alone is being debugged, so the files are read in its loop. One that has become another user may
/// be unable to read its keys again, which is logged.
async fn renew_certificates(config: &'static Config) {
    let (mut renewal, mut trusted) = (Renewal::new(config, false), TrustedRenewal::new(config, false));
    renewal.tell_expiry(config);
    loop {
        runtime::sleep(LOOK_ALONE_MS).await;
        renewal.stir();
        renewal.look(config, runtime::now_ms());
        trusted.stir();
        // Its settings are those that it started with: with a master new workers would take the place of this one.
        for path in trusted.look(config, runtime::now_ms()).paths {
            let (path, log) = (path.display(), log::process());
            log::warn!(
                log,
                &(),
                "\"{path}\" has changed: with \"master_process off\" it is used after a restart"
            );
        }
    }
}

/// Logs what the configuration needs of the system, and warns of what the system lacks. Once for all workers.
fn tell_needs(config: &Config) {
    let (open, log) = (process::open_files(), log::process());
    let (files, need) = (config.files_needed(open), config.memory_needed(memory::own_bytes()));
    log::notice!(log, &(), "each worker may need {files} open files; {need}");
    let lacks = memory::limit().and_then(|limit| need.missing(limit));
    for warning in config.files_missing(process::nofile(), open).into_iter().chain(lacks) {
        log::warn!(log, &(), "{warning}");
    }
}

/// Logs why no worker of this configuration can run, and returns the exit code that says so.
///
/// All workers fail for the same reason, so only the first one also writes it to the starter's terminal.
fn cannot_run(why: &str, number: usize) -> i32 {
    log::emerg!(log::process(), &(), "{why}");
    log::flush_all();
    let is_told = log::process().entries().iter().any(|(target, _)| *target == log::Target::stderr());
    if number == 0 && !is_told && !log::has_stderr() {
        terminal::tell(format_args!("pronghorn: [emerg] {why}"));
    }
    2
}

/// Interval at which a leaving worker without a master looks whether clients are on the way to its listeners.
const SHUT_LOOK_MS: u64 = 20;

/// Interval of looking at the files of certificates in a process without a master.
const LOOK_ALONE_MS: u64 = 1000;

/// Interval at which a message is sent again for which there was no room.
const SEND_AGAIN_MS: u64 = 20;

/// When a leaving worker tells how many of its connections could not be handed over.
const REMNANT_MS: u64 = 1000;

thread_local! {
    static PANICKED: Cell<bool> = const { Cell::new(false) };
    static FLUSH_ARMED: Cell<bool> = const { Cell::new(false) };
}

/// Events of the control task.
enum Event {
    /// With its sequence number.
    Message(u32, ToWorker, Vec<OwnedFd>),
    Signal(i32),
    /// Without a master: news about a name.
    Learned(Learned),
    MasterGone,
    /// The last connection has ended while the worker is leaving.
    Empty,
    /// Some connections have not moved to the new generation for a while.
    Remnant,
    /// The time for a graceful stop is over.
    Expired,
    Panicked,
}

/// As much memory a worker at rest keeps for the next requests: a few of them need no more.
const KEPT_AT_REST_BYTES: usize = 256 * 1024;

/// Frees what is kept for the next requests, as none has come for a while: a burst leaves megabytes.
fn give_back_memory() {
    if buffer::kept_bytes() + alloc::kept_bytes() <= KEPT_AT_REST_BYTES {
        return;
    }
    buffer::release();
    alloc::release();
    alloc::trim();
}

async fn serve(config: &'static Config, seat: Seat, signals: Signals) -> std::io::Result<()> {
    runtime::set_wait_hooks(heartbeat::asleep, || heartbeat::awake(runtime::now_ms()));
    room::probe(DESCRIPTORS_MIN)?;
    let duty = seat.duty;
    let is_alone = duty == Duty::Alone;
    if is_alone {
        while process::reap().is_some() {} // those that ended before their signal was handled
    }
    runtime::at_turn_end(flush_logs);
    runtime::at_turn_end(behind::flush);
    runtime::at_rest(give_back_memory);
    runtime::on_panic(panicked);
    runtime::set_turn_hook(turn_was_long);
    heartbeat::awake(runtime::now_ms());

    let outbox = Rc::new(Outbox::new(Io::register(seat.control)?));
    // The services outlive this function, and the socket to the master is closed with it.
    let mailed = Rc::downgrade(&outbox);
    let mail = move |message: ToMaster, fds: Vec<OwnedFd>| {
        if let Some(outbox) = mailed.upgrade() {
            outbox.push(message, fds);
        }
    };
    let mail = Rc::new(mail);
    let mailing = Rc::clone(&mail);
    let hand_over = move |fd, handover: &Handover| {
        mailing(ToMaster::HandOver(handover.clone()), vec![fd]);
        Ok(())
    };
    let mailing = Rc::clone(&mail);
    let hand_over_session =
        move |session: MovedSession, fd| mailing(ToMaster::HandOverSession(session), vec![fd]);
    let mailing = Rc::clone(&mail);
    let hand_over_tunnel = move |tunnel: MovedTunnel, fds| mailing(ToMaster::HandOverTunnel(tunnel), fds);
    let mailed = Rc::downgrade(&outbox);
    let tell = move |group: usize, server: usize, spots: &[Spot]| {
        let index = |index: usize| u32::try_from(index).unwrap_or(u32::MAX);
        let learned = Learned { group: index(group), server: index(server), spots: spots.to_vec() };
        if let Some(outbox) = mailed.upgrade() {
            outbox.push_learned(learned);
        }
    };
    let hooks = services::Hooks {
        hand_over: Box::new(hand_over),
        hand_over_tunnel: Box::new(hand_over_tunnel),
        hand_over_session: Box::new(hand_over_session),
    };
    let desk = match is_alone {
        true => Desk::default(), // it has no master
        false => Desk::new(move |number, order| mail(ToMaster::Order(number, order), Vec::new())),
    };
    let services = match duty {
        Duty::Serve | Duty::Alone => Services::new(config, hooks, desk.clone()),
        Duty::Control => {
            lanes::count_apart();
            Services::for_operators(config, desk.clone())
        }
        Duty::Probe | Duty::ManageCaches | Duty::KeepCertificates => None,
    };
    room::set_limits(connection_limit(config), process::nofile());
    if duty.serves() && seat.number == 0 {
        tell_needs(config);
    }
    if is_alone && !config.certificates().is_empty() {
        runtime::spawn(renew_certificates(config));
    }
    let leases = Rc::new(Leases::new(seat.slots, !seat.waits));
    if let Some(services) = services {
        seat.leased.iter().for_each(|slot| leases.add(*slot, services));
    }
    let prober = if duty.probes() { services::probe(config, &(Rc::new(tell) as Tell)) } else { None };
    if duty.manages_caches() {
        config.caches().for_each(cache::upkeep::start);
    }
    let mailed = Rc::downgrade(&outbox);
    let pass = move |challenge: Challenge| {
        challenges::apply(&challenge);
        if let Some(outbox) = mailed.upgrade().filter(|_| !is_alone) {
            outbox.push(ToMaster::Challenge(challenge), Vec::new());
        }
        is_alone
    };
    let plan = config.acme().filter(|_| duty.keeps_certificates());
    let keep = || plan.map(|plan| acme::keeper::start(plan, !is_alone, pass));
    let learn = |learned: Learned| {
        let (group, server) = (learned.group as usize, learned.server as usize);
        services.iter().for_each(|services| services.learn(group, server, &learned.spots));
        prober.iter().for_each(|prober| prober.learn(group, server, &learned.spots));
    };
    if seat.leaves_terminal {
        log::take_stderr();
    }
    outbox.push(ToMaster::Ready, Vec::new());
    let keeper = keep();
    let mut control = Control {
        signal_io: Io::register(signals.as_fd().try_clone_to_owned()?)?,
        signals,
        outbox,
        buffer: Box::new([0; BYTES_MAX]),
        is_alone,
        is_dismissed: false,
        is_to_be_replaced: false,
        deadline: Timer::new(),
        retry: Timer::new(),
        remnant: Timer::new(),
        has_told_closed: false,
        title: duty.title(),
    };
    loop {
        match poll_fn(|cx| control.poll_event(cx, &leases)).await {
            Event::Message(_, ToWorker::Adopt(handover), mut fds) => {
                if let (Some(services), Some(fd)) = (services, fds.pop()) {
                    services.adopt(fd, &handover);
                }
            }
            Event::Message(_, ToWorker::AdoptTunnel(tunnel), fds) => {
                if let Some(services) = services {
                    services.adopt_tunnel(tunnel, fds);
                }
            }
            Event::Message(_, ToWorker::AdoptSession(session), mut fds) => {
                if let (Some(services), Some(fd)) = (services, fds.pop()) {
                    services.adopt_session(session, fd);
                }
            }
            Event::Message(_, ToWorker::Receive, _) => leases.receive_datagrams(),
            Event::Message(_, ToWorker::Lease(slots), _) => {
                if let Some(services) = services.filter(|_| drain::mode() == Mode::Serving) {
                    slots.iter().for_each(|slot| leases.add(*slot, services));
                }
            }
            Event::Message(_, ToWorker::Release(slots), _) => {
                slots.iter().for_each(|slot| leases.remove(*slot))
            }
            Event::MasterGone if duty == Duty::Control => {
                desk.close();
                break;
            }
            Event::Message(_, ToWorker::Drain | ToWorker::Quit, _) | Event::MasterGone
                if duty.has_no_clients() =>
            {
                break;
            }
            Event::Signal(SIGQUIT | SIGWINCH) if duty.has_no_clients() => break,
            Event::Message(_, ToWorker::Drain, _) if duty == Duty::Control => {
                control.leave(Mode::Close, config, &leases, services);
                control.is_dismissed = true;
            }
            Event::Message(_, ToWorker::Drain, _) => {
                control.leave(Mode::HandOver, config, &leases, services);
                control.is_dismissed = true;
            }
            Event::Message(_, ToWorker::Quit, _) => {
                control.leave(Mode::Close, config, &leases, services);
                control.is_dismissed = true;
            }
            Event::Message(_, ToWorker::Edited(edited), _) => {
                let is_known = services.is_none_or(|services| services.edit(&edited))
                    && prober.is_none_or(|prober| prober.edit(&edited));
                if !is_known {
                    let what = "a change of an upstream could not be taken over";
                    log::error!(log::process(), &(), "{what}; this process will be replaced");
                    control.ask_for_replacement();
                }
            }
            Event::Message(_, ToWorker::List(query), _) => {
                services::list_connections(query).into_iter().for_each(|listed| control.send(listed));
            }
            Event::Message(_, ToWorker::End(query, id), _) => {
                let total = u32::from(clients::end(id));
                control.send(ToMaster::Listed(Listed { query, is_last: true, total, rows: Vec::new() }));
            }
            Event::Message(_, ToWorker::Pause(is_on), _) => {
                prober.iter().for_each(|prober| prober.pause(is_on));
                keeper.iter().for_each(|keeper| keeper.pause(is_on));
            }
            Event::Message(_, ToWorker::Challenge(challenge), _) => {
                challenges::apply(&challenge);
                keeper.iter().for_each(|keeper| keeper.heard(&challenge));
            }
            Event::Message(_, ToWorker::Keyval(news), _) => services::take_keyval(news),
            Event::Message(_, ToWorker::Answer(part), _) => {
                desk.hear(part.number, part.status, part.is_last, &part.body);
            }
            Event::Signal(SIGQUIT | SIGWINCH) | Event::MasterGone => {
                if is_alone && drain::mode() < Mode::Close {
                    leases.retire();
                    runtime::spawn(shut_drained(leases.clone()));
                }
                control.leave(Mode::Close, config, &leases, services);
            }
            Event::Message(_, ToWorker::Reopen, _) | Event::Signal(SIGUSR1) => reopen_logs(),
            Event::Message(_, ToWorker::Learned(learned), _) => learn(learned),
            Event::Learned(learned) => learn(place(config, learned)),
            Event::Message(number, ToWorker::Ping, _) => control.send(ToMaster::Pong(number)),
            Event::Message(_, ToWorker::Certificate(pair), mut fds) => {
                if let Err(why) = replace_certificate(config, pair, fds.pop()) {
                    let what = "a newer certificate could not be taken over";
                    log::error!(log::process(), &(), "{what}: {why}; this worker will be replaced");
                    control.ask_for_replacement();
                }
            }
            Event::Signal(SIGTERM | SIGINT) | Event::Empty => break,
            Event::Expired => {
                let closed = match open::count() {
                    1 => "1 connection is closed".to_owned(),
                    count => format!("{count} connections are closed"),
                };
                log::notice!(log::process(), &(), "worker_shutdown_timeout: {closed}");
                break;
            }
            Event::Remnant => tell_remnant(config),
            Event::Panicked => control.ask_for_replacement(),
            Event::Signal(number @ (SIGHUP | SIGUSR2)) if is_alone => {
                let name = crate::sys::signal::name(number);
                let what = "there is no reload and no upgrade with \"master_process off\"";
                log::warn!(log::process(), &(), "signal {number} ({name}) is ignored: {what}");
            }
            Event::Signal(_) => {} // HUP, USR2 and PIPE mean nothing to a worker, and children are reaped
        }
    }
    leases.halt();
    drain::begin(Mode::Now);
    Ok(())
}

struct Control {
    signal_io: Io,
    signals: Signals,
    outbox: Rc<Outbox>,
    /// Where messages are received.
    buffer: Box<[u8; BYTES_MAX]>,
    is_alone: bool,
    /// The master has told it to leave.
    is_dismissed: bool,
    is_to_be_replaced: bool,
    deadline: Timer,
    /// When to try again to send a message.
    retry: Timer,
    /// When to tell how many connections have not moved.
    remnant: Timer,
    /// The master knows that nothing is accepted any more.
    has_told_closed: bool,
    /// The term for this process in its title.
    title: &'static str,
}

impl Control {
    fn poll_event(&mut self, cx: &mut Context<'_>, leases: &Leases) -> Poll<Event> {
        if self.signal_io.poll_readable(cx).is_ready() {
            let mut drain = [0; 64];
            let received = self.signals.take();
            // Signals::take has read the socket through its own descriptor; this read updates the loop's
            // cached readiness.
            let _ = self.signal_io.try_read(&mut drain);
            if received.iter().any(|signal| signal.number == SIGCHLD) {
                while process::reap().is_some() {}
            }
            if let Some(signal) = received.iter().max_by_key(|signal| urgency(signal.number)) {
                return Poll::Ready(Event::Signal(signal.number));
            }
            let _ = self.signal_io.poll_readable(cx);
        }
        // A worker that leaves because of its own signal stays silent until the master tells it to leave too.
        if self.is_dismissed && !self.has_told_closed && leases.are_closed() {
            self.has_told_closed = true;
            self.send(ToMaster::Closed);
        }
        // Without a master it takes over itself what would have come back from it.
        if let Some(learned) = self.is_alone.then(|| self.outbox.take_learned()).flatten() {
            return Poll::Ready(Event::Learned(learned));
        }
        if !self.outbox.poll_send(cx) {
            self.retry.set(runtime::now_ms() + SEND_AGAIN_MS);
        }
        if self.retry.poll_expired(cx).is_ready() {
            self.retry.cancel();
            cx.waker().wake_by_ref();
        }
        if let Poll::Ready(event) = self.poll_message(cx, leases) {
            return Poll::Ready(event);
        }
        if PANICKED.replace(false) {
            return Poll::Ready(Event::Panicked);
        }
        if self.deadline.poll_expired(cx).is_ready() {
            return Poll::Ready(Event::Expired);
        }
        if self.remnant.poll_expired(cx).is_ready() {
            self.remnant.cancel();
            return Poll::Ready(Event::Remnant);
        }
        if drain::mode() > Mode::Serving && open::poll_idle(cx).is_ready() && self.outbox.is_empty() {
            return Poll::Ready(Event::Empty);
        }
        Poll::Pending
    }

    fn poll_message(&mut self, cx: &mut Context<'_>, leases: &Leases) -> Poll<Event> {
        let io = &self.outbox.io;
        while io.poll_readable(cx).is_ready() {
            // A reload may bring thousands of sessions: the clients of those that have come get their turns meanwhile.
            ready!(io.poll_budget(cx));
            let received = io.try_receive(|fd| msg::receive(fd, &mut self.buffer[..]));
            match received {
                Ok(msg::Message { length: 0, .. }) => return master_is_gone(leases),
                Ok(received) => {
                    if let Some((number, message)) = ToWorker::from_bytes(&self.buffer[..received.length]) {
                        return Poll::Ready(Event::Message(number, message, received.fds));
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return master_is_gone(leases),
            }
        }
        Poll::Pending
    }

    fn send(&self, message: ToMaster) {
        self.outbox.push(message, Vec::new());
    }

    /// Asks once, however many tasks panic.
    fn ask_for_replacement(&mut self) {
        if !std::mem::replace(&mut self.is_to_be_replaced, true) {
            self.send(ToMaster::Replace);
        }
    }

    fn leave(&mut self, mode: Mode, config: &'static Config, leases: &Leases, services: Option<Services>) {
        if drain::mode() >= mode {
            return;
        }
        if drain::mode() == Mode::Serving {
            log::notice!(log::process(), &(), "gracefully shutting down");
            process::set_title(&format!("pronghorn: {} is shutting down", self.title));
            if let Some(ms) = config.settings.worker_shutdown_timeout_ms() {
                self.deadline.set(runtime::now_ms() + ms);
            }
        }
        if mode == Mode::HandOver {
            self.remnant.set(runtime::now_ms() + REMNANT_MS);
        }
        leases.close(services);
        drain::begin(mode);
    }
}

/// Tells how many connections stay in this worker although there is a newer generation.
fn tell_remnant(config: &Config) {
    let count = open::count();
    if count == 0 {
        return;
    }
    let until = match config.settings.worker_shutdown_timeout_ms() {
        Some(ms) => format!("\"worker_shutdown_timeout\" closes them {} s after the reload", ms / 1000),
        None => "set \"worker_shutdown_timeout\" to limit that".into(),
    };
    log::notice!(
        log::process(),
        &(),
        "{count} connections cannot move to the new workers now and go on in this one; {until}"
    );
}

/// Without a master: gives the addresses of a name their counters and places in shared memory.
fn place(config: &Config, mut learned: Learned) -> Learned {
    let is_it = |it: &Followed| (it.group, it.server) == (learned.group as usize, learned.server as usize);
    if let Some(it) = config.followed_servers().find(is_it) {
        known::place(&it.key, &it.group_name, it.is_placed, &mut learned.spots);
    }
    learned
}

/// With `master_process off`: shuts the listeners down once no client is on its way to them.
async fn shut_drained(leases: Rc<Leases>) {
    let since_ms = runtime::now_ms();
    while !leases.are_drained(runtime::now_ms().saturating_sub(since_ms)) {
        runtime::sleep(SHUT_LOOK_MS).await;
    }
    leases.shut();
}

/// Handles the loss of the master: no other process will shut down the slots being retired.
fn master_is_gone(leases: &Leases) -> Poll<Event> {
    leases.abandon();
    if drain::mode() < Mode::Close { Poll::Ready(Event::MasterGone) } else { Poll::Pending }
}

/// Among several signals at once, the gravest is handled.
fn urgency(number: i32) -> u8 {
    match number {
        SIGTERM | SIGINT => 3,
        SIGQUIT | SIGWINCH => 2,
        SIGUSR1 => 1,
        _ => 0,
    }
}

/// The number of connections that this worker may have: `worker_connections`, but at most three quarters of
/// the remaining descriptors, since files and pipes need some too.
fn connection_limit(config: &Config) -> usize {
    config.connections_possible(process::nofile(), process::open_files())
}

fn reopen_logs() {
    log::notice!(log::process(), &(), "reopening logs");
    let outcomes = [log::reopen(None), key_log::reopen(None)];
    for error in outcomes.into_iter().filter_map(Result::err).flatten() {
        log::emerg!(log::process(), &(), "{error}");
    }
}

/// Takes over a certificate that the master has read. Errors: the worker goes on with the old one.
fn replace_certificate(config: &Config, pair: u32, parcel: Option<OwnedFd>) -> Result<(), &'static str> {
    let parcel = parcel.ok_or("there was no room for its descriptor, raise the limit of open files")?;
    let bytes = sealed::read(parcel, parcel::BYTES_MAX).map_err(|_| "it cannot be read")?;
    let certificate = parcel::read(&bytes).ok_or("it is damaged")?;
    config.replace_certificate(pair as usize, &certificate);
    Ok(())
}

/// Called at the end of a turn: writes the log lines; those that wait for `flush=` get a timer.
fn flush_logs() {
    log::flush_turn();
    if let Some(ms) = log::due_ms().filter(|_| !FLUSH_ARMED.replace(true)) {
        runtime::spawn(async move {
            runtime::sleep(ms).await;
            FLUSH_ARMED.set(false);
            log::flush_turn();
        });
    }
}

/// Keeps the longest turn for `$longest_turn`, and logs each one in which other connections had to wait for long.
fn turn_was_long(took_us: u64) {
    heartbeat::turn(took_us);
    if took_us >= runtime::LONG_TURN_US {
        let place = match heartbeat::last_event() {
            0 => String::new(),
            connection => format!(", after a request on connection *{connection}"),
        };
        let took_ms = took_us / 1000;
        log::warn!(
            log::process(),
            &(),
            "a turn of the event loop took {took_ms} ms{place}: other connections waited"
        );
    }
}

fn panicked(text: &str) {
    log::alert!(log::process(), &(), "a task panicked and was ended: {text}; this worker will be replaced");
    PANICKED.set(true);
    runtime::wake_all();
}

#[cfg(test)]
mod tests;
