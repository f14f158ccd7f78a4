//! Replacing the binary: a new master is started with the listening sockets and a link to this one.
//! ```text
//! old: USR2 → pid becomes pid.oldbin, new master starts and serves too
//!      WINCH → old workers hand their connections over the link and leave; the old master stays
//!      QUIT → the old master leaves            HUP → old workers are back; the new one is told to QUIT
//!      the new master dies → pid.oldbin becomes pid, workers come back if they had left
//! ```

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::log;
use crate::master::link::{Link, Message, VERSION};
use crate::master::roles::Role;
use crate::master::seat::Connection;
use crate::master::supervisor::Event;
use crate::master::{Master, PENDING_MAX, inherit, notify};
use crate::net::handover::{Handover, MovedSession, MovedTunnel, NO_LISTENER, STATE_BYTES_MAX};
use crate::shm::lanes::{LANES, Lane};
use crate::sys::address::SockAddr;
use crate::sys::msg;
use crate::sys::nature::{self, Nature};
use crate::sys::process::{self, Forked, ProcessFd};
use crate::sys::sealed;
use crate::sys::signal::Blocked;
use crate::worker::messages::ToWorker;

/// A new master that this one has started.
#[derive(Debug)]
pub struct Successor {
    pub pid: i32,
    pub link: Link,
    /// The new master's own end, kept so that messages which it has not read when it dies are not lost.
    far_end: Link,
    /// Reports its end if it is not a child of this process; otherwise SIGCHLD does.
    pub process: Option<ProcessFd>,
}

/// The workers of the other master, as it reports them; and those whose master has ended.
#[derive(Debug, Default)]
pub struct OtherWorkers {
    alive: Vec<(Lane, i32)>,
    /// They finish their requests; then their lanes are free.
    orphans: Vec<(Lane, ProcessFd)>,
    /// The workers of this master, as last reported to the other one.
    told: Option<Vec<(Lane, i32)>>,
    /// The prober of the newer master checks the servers of upstreams: that of this one only looks names up, for its
    /// own workers.
    is_probing: bool,
    /// The last report to the older master: whether the prober of this one checks.
    has_told_probing: bool,
}

impl OtherWorkers {
    /// The descriptors that become readable when an orphan ends.
    pub fn orphans(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.orphans.iter().map(|(_, process)| process.as_fd())
    }
}

impl Master {
    /// USR2: starts the new binary, which serves in addition to this one.
    pub(super) fn upgrade(&mut self) {
        // It may have ended just before the signal came.
        self.hear_masters();
        if self.elder.is_some() {
            log::crit!(
                log::process(),
                &(),
                "the changing binary signal is ignored: the binary before this one still runs, end one of them first"
            );
            return;
        }
        if let Some(successor) = &self.successor {
            let pid = successor.pid;
            log::notice!(
                log::process(),
                &(),
                "the changing binary signal is ignored: process {pid} is the new binary"
            );
            return;
        }
        if let Some(pid_file) = &mut self.pid_file
            && let Err(error) = pid_file.move_away()
        {
            let path = pid_file.path().display();
            let cause = log::Cause(&error);
            log::alert!(log::process(), &(), "rename() of \"{path}\" failed before the new binary {cause}");
            return;
        }
        match self.start_successor() {
            Ok(successor) => {
                log::notice!(log::process(), &(), "start new binary process {}", successor.pid);
                self.successor = Some(successor);
                self.orders.leave_state();
            }
            Err(error) => {
                let cause = log::Cause(&error);
                log::alert!(log::process(), &(), "the new binary could not be started {cause}");
                self.put_pid_file_back();
            }
        }
    }

    fn start_successor(&mut self) -> std::io::Result<Successor> {
        let (ours, theirs) = msg::pair()?;
        let ours = Link::new(ours);
        let lanes = Box::new(self.lanes.grant(self.settings().worker_processes()));
        self.others.told = None;
        if !ours.send(&Message::Hello { version: VERSION, lanes }, &[]) {
            self.lanes.inherit([]);
            return Err(std::io::Error::other("the link takes no message"));
        }
        let blocked = Blocked::new()?;
        // A service manager watches only its own children: of any other main process it neither sees the end
        // nor waits for it at a stop.
        let is_detached = notify::is_wanted();
        let forked = if is_detached { process::fork_detached() } else { process::fork() };
        match forked.inspect_err(|_| self.lanes.inherit([]))? {
            Forked::Parent { child } => Ok(Successor {
                pid: child,
                link: ours,
                far_end: Link::new(theirs),
                process: is_detached.then(|| process::open(child)).transpose()?,
            }),
            Forked::Child => {
                drop(self.signals.take());
                drop(blocked);
                crate::sys::signal::unblock_all();
                let lock = self.pid_file.as_ref().map(|file| file.lock());
                let shm = crate::shm::as_fd();
                let legacy = self.orders.sealed(&self.cycle.config);
                let generation = self.supervisor.generation();
                let (fds, environment) =
                    inherit::bequeath(&self.slots, theirs.as_fd(), lock, &legacy, shm, generation);
                let error = process::exec(&self.program, &self.start.arguments, &environment, &fds);
                let (program, cause) = (self.program.display(), log::Cause(&error));
                log::alert!(
                    log::process(),
                    &(),
                    "execve() failed while executing new binary process \"{program}\" {cause}"
                );
                log::flush_all();
                std::process::exit(1);
            }
        }
    }

    /// Reports that this master is about to end. If there is another one, the service goes on. Until now the
    /// upgrade could be undone, and the older master was the main process.
    pub(super) fn tell_leaving(&self) {
        match &self.successor {
            Some(successor) => notify::main_pid(successor.pid),
            None if self.elder.is_none() => notify::stopping(),
            None => {}
        }
    }

    /// Reads the other master's messages, and notices the end of an older one.
    pub(super) fn hear_masters(&mut self) {
        if self.pending_fds() >= PENDING_MAX {
            return;
        }
        let mut found = Vec::new();
        if let Some(successor) = &mut self.successor {
            successor.link.receive(&mut found);
            if successor.process.as_ref().is_some_and(ProcessFd::has_ended) {
                let pid = successor.pid;
                log::notice!(log::process(), &(), "new binary process {pid} has ended");
                self.take_over(found);
                return self.successor_ended();
            }
        }
        let is_elder_gone = self.elder.as_mut().is_some_and(|elder| !elder.receive(&mut found));
        self.take_over(found);
        if is_elder_gone {
            self.elder = None;
            self.other_receives = false;
            self.others.has_told_probing = false;
            self.inherit_lanes();
        }
        self.reap_orphans();
    }

    fn take_over(&mut self, messages: Vec<(Message, Vec<OwnedFd>)>) {
        for message in messages {
            match message {
                (Message::HandOver(handover), mut fds) => {
                    if let Some(fd) = fds.pop() {
                        self.take_over_connection(handover, fd);
                    }
                }
                (Message::Tunnel(tunnel), fds) => self.take_over_tunnel(tunnel, fds),
                (Message::Session(address, session), mut fds) => {
                    if let Some(fd) = fds.pop() {
                        self.take_over_session(address, session, fd);
                    }
                }
                (Message::Released, _) => self.other_receives = false,
                (Message::Workers(workers), _) => self.others.alive = workers,
                (Message::Probing(is_on), _) => self.others.is_probing = is_on,
                (Message::Hello { .. }, _) => {}
            }
        }
    }

    /// Takes over a connection. The other master's indexes mean nothing here, since its configuration
    /// differs: the listener is that of the connection's own address. Without one the connection closes.
    fn take_over_connection(&mut self, handover: Handover, fd: OwnedFd) {
        let Nature::Connected(local) = nature::of(fd.as_fd()) else { return };
        let Some(listen) = self.roster.listener_of(&local) else { return };
        let address = self.roster.addresses[listen as usize].clone();
        self.pending.extend(Connection::new(handover, address, fd, true));
    }

    /// Takes over a tunnel; without a listener for its client's address it goes on as one that has none.
    fn take_over_tunnel(&mut self, tunnel: MovedTunnel, fds: Vec<OwnedFd>) {
        let [client, _, memory @ ..] = &fds[..] else { return };
        let is_whole = fds.len() == tunnel.fd_count()
            && memory.iter().all(|memory| sealed::is_sealed(memory.as_fd(), STATE_BYTES_MAX));
        let local = match nature::of(client.as_fd()) {
            Nature::Connected(local) | Nature::Ended(local) if is_whole => local,
            _ => return,
        };
        let listen = self.roster.listener_of(&local).filter(|_| tunnel.listen != NO_LISTENER);
        let address = listen.map(|listen| self.roster.addresses[listen as usize].clone());
        self.pending.push_back(Connection::of_tunnel(tunnel, address, fds, true));
    }

    /// Takes over a session of datagrams.
    fn take_over_session(&mut self, address: SocketAddr, session: MovedSession, fd: OwnedFd) {
        let address = SockAddr::Datagram(Box::new(address));
        self.pending.extend(Connection::of_session(session, address, fd, true));
    }

    /// Says hello to the master that has started this one.
    pub(super) fn greet_elder(&self) {
        if let Some(elder) = &self.elder {
            elder.send(&Message::Hello { version: VERSION, lanes: Box::new([0; LANES / 8]) }, &[]);
        }
    }

    /// The link to the other master of an upgrade.
    pub(super) fn link(&self) -> Option<&Link> {
        self.elder.as_ref().or(self.successor.as_ref().map(|successor| &successor.link))
    }

    /// Reports this master's workers to the other one, if they have changed.
    pub(super) fn tell_workers(&mut self) {
        let Some(link) = self.link() else { return };
        let own: Vec<(Lane, i32)> = self.workers.iter().map(|worker| (worker.lane, worker.pid)).collect();
        if self.others.told.as_ref() != Some(&own) && link.send(&Message::Workers(own.clone()), &[]) {
            self.others.told = Some(own);
        }
    }

    /// Sees to it that one of two masters checks the servers of upstreams: the newer one, as soon as its prober is ready
    /// and for as long as that master lives.
    pub(super) fn share_probing(&mut self) {
        let own = self.supervisor.is_probing();
        if let Some(elder) = &self.elder
            && self.others.has_told_probing != own
            && elder.send(&Message::Probing(own), &[])
        {
            self.others.has_told_probing = own;
        }
        let (is_paused, is_shared) = self.pauses();
        for keeper in self.workers.iter_mut().filter(|it| it.is_untold_of_pause(Role::Keeper, is_shared)) {
            if keeper.send(&ToWorker::Pause(is_shared)) {
                keeper.is_paused = is_shared;
            }
        }
        for prober in self.workers.iter_mut().filter(|it| it.is_untold_of_pause(Role::Prober, is_paused)) {
            if prober.send(&ToWorker::Pause(is_paused)) {
                prober.is_paused = is_paused;
                let what = if is_paused { "pause: those of the new binary have begun" } else { "go on" };
                log::notice!(log::process(), &(), "checks of prober process {} {what}", prober.pid);
            }
        }
    }

    /// Whether probers pause, since another master's checks; and the keeper of certificates, since workers that do not
    /// hear of its challenges have the listeners too.
    fn pauses(&self) -> (bool, bool) {
        (self.others.is_probing, self.elder.is_some() || self.successor.is_some())
    }

    /// True if a process has to be told that it pauses or goes on, and its socket is full.
    pub(super) fn has_untold_prober(&self) -> bool {
        let (is_paused, is_shared) = self.pauses();
        self.workers.iter().any(|worker| {
            worker.is_untold_of_pause(Role::Prober, is_paused)
                || worker.is_untold_of_pause(Role::Keeper, is_shared)
        })
    }

    /// Takes over the lanes of the other master, which has ended, except those of workers that are still
    /// alive.
    fn inherit_lanes(&mut self) {
        self.others.told = None;
        self.knows_steering = false;
        for (lane, pid) in std::mem::take(&mut self.others.alive) {
            match process::open(pid) {
                Ok(process) => self.others.orphans.push((lane, process)),
                // Give back what it held.
                Err(_) => crate::shm::lanes::collect(lane),
            }
        }
        self.lanes.inherit(self.others.orphans.iter().map(|(lane, _)| *lane));
        self.reap_orphans();
    }

    fn reap_orphans(&mut self) {
        let ended: Vec<_> = self.others.orphans.extract_if(.., |(_, process)| process.has_ended()).collect();
        for (lane, _) in ended {
            self.give_lane(lane);
        }
    }

    /// Handles the end of the new master while this one lives.
    pub(super) fn successor_ended(&mut self) {
        let Some(mut successor) = self.successor.take() else { return };
        let mut left = Vec::new();
        successor.link.receive(&mut left);
        successor.far_end.receive(&mut left);
        self.take_over(left);
        self.other_receives = false;
        self.others.is_probing = false;
        // Its workers notice by themselves that their master is gone.
        self.inherit_lanes();
        self.put_pid_file_back();
        self.happen(Event::SuccessorEnded(successor.pid));
    }

    fn put_pid_file_back(&mut self) {
        if let Some(pid_file) = &mut self.pid_file
            && let Err(error) = pid_file.move_back()
        {
            let path = pid_file.path().display();
            log::alert!(log::process(), &(), "rename() back to \"{path}\" failed {}", log::Cause(&error));
        }
    }
}
