//! Replacing the binary: a new master is started with the listening sockets and a link to this one.
//!
//! ```text
//! old: USR2 → pid becomes pid.oldbin, new master starts and serves beside
//!      WINCH → old workers hand their connections over the link and leave; the old master stays
//!      QUIT → the old master leaves            HUP → old workers are back; the new one is told to QUIT
//!      the new master dies → pid.oldbin becomes pid, workers come back if they had left
//! ```

use std::os::fd::{AsFd, OwnedFd};

use crate::log;
use crate::master::seat::{Connection, Link};
use crate::master::{Master, PENDING_MAX, Phase, inherit, notify};
use crate::sys::msg;
use crate::sys::process::{self, Forked};
use crate::sys::signal::Blocked;
use crate::worker::control::ToMaster;

/// A new master that this one has started.
#[derive(Debug)]
pub struct Successor {
    pub pid: i32,
    pub link: Link,
    /// The new master's own end, kept so that what it has not read when it dies is not lost.
    far_end: Link,
    /// It is no child of this process, whose end would be heard of.
    pub is_detached: bool,
}

impl Master {
    /// USR2: starts the new binary beside this one.
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
        let blocked = Blocked::new()?;
        // A service manager watches over its own children only: of another main process it neither sees the end nor
        // waits for it at a stop.
        let is_detached = notify::is_wanted();
        let forked = if is_detached { process::fork_detached()? } else { process::fork()? };
        match forked {
            Forked::Parent { child } => Ok(Successor {
                pid: child,
                link: Link { fd: ours },
                far_end: Link { fd: theirs },
                is_detached,
            }),
            Forked::Child => {
                drop(self.signals.take());
                drop(blocked);
                crate::sys::signal::unblock_all();
                let lock = self.pid_file.as_ref().map(|file| file.lock());
                let shm = crate::shm::as_fd();
                let (fds, environment) =
                    inherit::bequeath(&self.slots, theirs.as_fd(), lock, shm, self.generation);
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

    /// This master is about to end. With another one beside it that is not the end of the service. Until now an upgrade
    /// could be undone, and the older master was the main process.
    pub(super) fn tell_leaving(&self) {
        match &self.successor {
            Some(successor) => notify::main_pid(successor.pid),
            None if self.elder.is_none() => notify::stopping(),
            None => {}
        }
    }

    /// Reads what the other master says, and notices that an older one is gone.
    pub(super) fn hear_masters(&mut self) {
        if self.pending.len() >= PENDING_MAX {
            return;
        }
        let mut found = Vec::new();
        if let Some(successor) = &self.successor {
            successor.link.receive(&mut found);
            if successor.is_detached && process::has_ended(successor.pid) {
                let pid = successor.pid;
                log::notice!(log::process(), &(), "new binary process {pid} has ended");
                self.take_over(found);
                return self.successor_ended();
            }
        }
        if self.elder.as_ref().is_some_and(|elder| !elder.receive(&mut found)) {
            self.elder = None;
        }
        self.take_over(found);
    }

    fn take_over(&mut self, messages: Vec<(ToMaster, Option<OwnedFd>)>) {
        for message in messages {
            if let (ToMaster::HandOver(handover), Some(fd)) = message {
                self.pending.push_back(Connection { handover, fd, is_from_link: true });
            }
        }
    }

    /// The new master has ended while this one lives.
    pub(super) fn successor_ended(&mut self) {
        let Some(successor) = self.successor.take() else { return };
        let mut left = Vec::new();
        successor.link.receive(&mut left);
        successor.far_end.receive(&mut left);
        self.take_over(left);
        // Its workers notice by themselves that their master is gone; their lanes are nobody's.
        for (lane, pid) in crate::shm::lanes::taken() {
            if i32::try_from(pid).is_ok_and(|pid| !process::is_alive(pid)) {
                crate::shm::lanes::give(lane);
            }
        }
        self.put_pid_file_back();
        if self.phase == Phase::Drained {
            let pid = successor.pid;
            log::notice!(log::process(), &(), "the new binary process {pid} is gone, start worker processes");
            self.phase = Phase::Serving;
            self.start_generation(None);
        }
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
