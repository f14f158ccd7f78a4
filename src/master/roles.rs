//! The roles of the processes that the master supervises, and the rules by which each is replaced and waited for.
//!
//! Pure: no clock. A new role is a new variant, with its answers to the questions asked here.

use crate::master::respawn::Cause;

/// The purpose of a process that the master supervises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Serves clients: it has listening sockets, and siblings that accept for it while it cannot.
    Worker,
    /// Checks the servers of upstreams, for all workers. There is none if there is nothing to check.
    Prober,
    /// Loads and removes the files of caches. There is none if there is no cache.
    CacheManager,
    /// Serves operators at the control socket. There is none if there is no such socket.
    Controller,
    /// Asks authorities for certificates. There is none if no certificate comes from one.
    Keeper,
}

/// One place to be filled by a process of a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    pub role: Role,
    /// From 0 within the role.
    pub number: usize,
}

impl Role {
    /// The rules for replacing a process that has ended.
    pub fn respawn(self) -> &'static Respawn {
        match self {
            Self::Worker => &WORKER,
            Self::Prober => &PROBER,
            Self::CacheManager => &CACHE_MANAGER,
            Self::Controller => &CONTROLLER,
            Self::Keeper => &KEEPER,
        }
    }

    /// True if a change of generations waits for this role: it is complete when all its processes are ready,
    /// and has failed if none of them can run. Those of another role start after the change, when those before
    /// them have ended, so that there are never two of one place.
    pub fn is_awaited(self) -> bool {
        match self {
            Self::Worker => true,
            Self::Prober | Self::CacheManager | Self::Controller | Self::Keeper => false,
        }
    }

    /// The term for its processes in logs.
    pub fn title(self) -> &'static str {
        match self {
            Self::Worker => "worker process",
            Self::Prober => "prober process",
            Self::CacheManager => "cache manager process",
            Self::Controller => "controller process",
            Self::Keeper => "certificate keeper process",
        }
    }

    /// The time in which a process that was told to leave must have left, by the limit of its configuration
    /// (`worker_shutdown_timeout`).
    pub fn shutdown_ms(self, configured: Option<u64>) -> Option<u64> {
        match self {
            Self::Worker => configured,
            Self::Prober | Self::CacheManager | Self::Keeper => Some(0), // they have no clients
            Self::Controller => Some(CONTROLLER_SHUTDOWN_MS),
        }
    }

    /// True if it accepts clients, so that siblings help out and the watchdog pings it.
    pub fn accepts(self) -> bool {
        match self {
            Self::Worker => true,
            Self::Prober | Self::CacheManager | Self::Controller | Self::Keeper => false,
        }
    }
}

/// The time in which a controller sends the answers that operators wait for: the next one starts after it.
const CONTROLLER_SHUTDOWN_MS: u64 = 3_000;

/// Rules for the delay before a vacant place is filled.
///
/// A process that lived long enough is replaced at once, and so is the first one that died young, which may
/// have been chance. After it, each that dies young is replaced after twice the previous delay.
#[derive(Clone, Copy, Debug)]
pub struct Respawn {
    /// A process that ends before this age has died young.
    young_ms: u64,
    /// The same for one that broke a rule: an attacker who took it over may take over the next ones just as
    /// fast.
    young_condemned_ms: u64,
    delay_min_ms: u64,
    delay_max_ms: u64,
    /// A process that ends with this code before it is ready cannot run as configured.
    fatal_code: i32,
}

/// The exit code of a worker that cannot run as configured (nginx's too).
pub const FATAL: i32 = 2;

const WORKER: Respawn = Respawn {
    young_ms: 150,
    young_condemned_ms: 60_000,
    delay_min_ms: 100,
    delay_max_ms: 30_000,
    fatal_code: FATAL,
};

const PROBER: Respawn = Respawn { ..WORKER };
const CACHE_MANAGER: Respawn = Respawn { ..WORKER };
const CONTROLLER: Respawn = Respawn { ..WORKER };
const KEEPER: Respawn = Respawn { ..WORKER };

impl Respawn {
    /// True if a process that ends with this code while it starts must not be tried again.
    pub fn is_fatal(&self, code: i32) -> bool {
        code == self.fatal_code
    }

    /// The delay before a place is filled; `None`: not before the next reload. `delay_ms` belongs to the
    /// place: it is the delay for the next process that dies young, 0 at first.
    pub fn wait_ms(&self, cause: Cause, delay_ms: &mut u64) -> Option<u64> {
        let has_lived = match cause {
            Cause::Fatal => return None,
            Cause::Ended { after_ms } | Cause::Replaced { after_ms } => after_ms >= self.young_ms,
            Cause::Condemned { after_ms } => after_ms >= self.young_condemned_ms,
            Cause::NotForked => false,
        };
        if has_lived {
            *delay_ms = 0;
            return Some(0);
        }
        let next_ms = (*delay_ms * 2).clamp(self.delay_min_ms, self.delay_max_ms);
        let wait_ms = std::mem::replace(delay_ms, next_ms);
        // The reason for a failed fork probably persists.
        Some(if cause == Cause::NotForked { wait_ms.max(self.delay_min_ms) } else { wait_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Respawn =
        Respawn { young_ms: 10, young_condemned_ms: 20, delay_min_ms: 3, delay_max_ms: 20, fatal_code: 7 };

    #[test]
    fn those_that_die_young_wait_ever_longer() {
        let mut delay_ms = 0;
        let mut wait = |cause| RULES.wait_ms(cause, &mut delay_ms);
        let young = Cause::Ended { after_ms: 9 };
        let waits: Vec<_> = (0..6).filter_map(|_| wait(young)).collect();
        assert_eq!(waits, [0, 3, 6, 12, 20, 20]);
        assert_eq!(wait(Cause::Ended { after_ms: 10 }), Some(0), "it has lived");
        assert_eq!((wait(young), wait(young)), (Some(0), Some(3)), "so it begins anew");
        assert_eq!(wait(Cause::Replaced { after_ms: 10 }), Some(0));
        assert_eq!((wait(Cause::Replaced { after_ms: 9 }), wait(young)), (Some(0), Some(3)));
    }

    #[test]
    fn each_cause_has_its_own_rule() {
        let wait = |cause, mut delay_ms| (RULES.wait_ms(cause, &mut delay_ms), delay_ms);
        assert_eq!(wait(Cause::Fatal, 6), (None, 6));
        assert_eq!(wait(Cause::NotForked, 0), (Some(3), 3), "never at once");
        assert_eq!(wait(Cause::NotForked, 6), (Some(6), 12));
        assert_eq!(wait(Cause::Condemned { after_ms: 19 }, 6), (Some(6), 12));
        assert_eq!(wait(Cause::Condemned { after_ms: 20 }, 6), (Some(0), 0));
        assert!(RULES.is_fatal(7) && !RULES.is_fatal(2) && WORKER.is_fatal(2));
    }
}
