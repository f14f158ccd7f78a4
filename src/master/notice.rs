//! Log lines about the master's decisions: the facts and their texts.

use std::fmt;

use crate::log::{self, Level};
use crate::master::respawn::Cause;
use crate::master::roles::{Place, Role};
use crate::master::rules::Fault;
use crate::shm::heartbeat::{self, Heartbeat};
use crate::sys::process;

/// A line for the error log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    StartWorkers,
    BrokeRule { pid: i32, place: Place, fault: Fault },
    Late { pid: i32, role: Role },
    Fatal { pid: i32, role: Role, code: i32 },
    DiedYoung { place: Place, cause: Cause, wait_ms: u64 },
    Replaced { pid: i32, role: Role },
    NeverStarted { pid: i32, role: Role, limit_ms: u64 },
    KilledStuck { pid: i32, role: Role, limit_ms: u64 },
    Stuck { pid: i32, place: Place, silent_ms: u64, beat: Heartbeat },
    MovesAgain { pid: i32, role: Role, after_ms: u64 },
    Full { pid: i32, number: usize },
    HasRoom { pid: i32 },
    FellBack,
    TooManyGenerations { generation: u64, limit: usize },
    SuccessorGone { pid: i32 },
}

impl Notice {
    fn level(&self) -> Level {
        match self {
            Self::FellBack => Level::Emerg,
            Self::BrokeRule { .. }
            | Self::Late { .. }
            | Self::Fatal { .. }
            | Self::DiedYoung { .. }
            | Self::NeverStarted { .. }
            | Self::KilledStuck { .. }
            | Self::Stuck { .. } => Level::Alert,
            Self::MovesAgain { .. } | Self::Full { .. } | Self::TooManyGenerations { .. } => Level::Warn,
            Self::StartWorkers
            | Self::Replaced { .. }
            | Self::HasRoom { .. }
            | Self::SuccessorGone { .. } => Level::Notice,
        }
    }

    /// Writes it to the error log. For a stuck worker, asks the system what its process is waiting for. `within`: the
    /// functions that it is in.
    pub fn tell(&self, within: Option<&str>) {
        let state = match self {
            Self::Stuck { pid, place, .. } => {
                let help = if place.role.accepts() { "; its siblings take its new connections" } else { "" };
                let within = within.map(|within| format!(", in {within}")).unwrap_or_default();
                format!("; its state is {}{within}{help}", process::state(*pid))
            }
            Self::NeverStarted { pid, .. } => format!("; its state is {}", process::state(*pid)),
            _ => String::new(),
        };
        log::at!(self.level(), log::process(), &(), "{self}{state}");
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StartWorkers => write!(out, "start worker processes"),
            Self::BrokeRule { pid, place, fault } => {
                let who = who(*pid, *place);
                write!(out, "{who} breaks a rule of its control socket and is killed: {fault}")
            }
            Self::Late { pid, role } => {
                write!(out, "{} {pid} has not left in time and is killed", role.title())
            }
            Self::Fatal { pid, role, code } => {
                let title = role.title();
                write!(out, "{title} {pid} exited with fatal code {code} and cannot be respawned")
            }
            Self::DiedYoung { place, cause, wait_ms } => {
                let what = match cause {
                    Cause::Condemned { .. } => "was killed soon after it was born",
                    Cause::Replaced { .. } => "asked to be replaced as soon as it was born",
                    Cause::NotForked => "could not be forked",
                    Cause::Ended { .. } | Cause::Fatal => "died as soon as it was born",
                };
                let who = match place.role {
                    Role::Worker => format!("worker {}", place.number),
                    Role::Prober => "the prober".into(),
                    Role::CacheManager => "the cache manager".into(),
                    Role::Controller => "the controller".into(),
                    Role::Keeper => "the certificate keeper".into(),
                };
                write!(out, "{who} {what}, the next one starts in {wait_ms} ms")
            }
            Self::Replaced { pid, role } => write!(out, "{} {pid} is replaced", role.title()),
            Self::NeverStarted { pid, role, limit_ms } => {
                let title = role.title();
                write!(out, "{title} {pid} has not started in {limit_ms} ms and is killed and replaced")
            }
            Self::KilledStuck { pid, role, limit_ms } => {
                let title = role.title();
                write!(out, "{title} {pid} has been stuck for {limit_ms} ms and is killed and replaced")
            }
            Self::Stuck { pid, place, silent_ms, beat } => {
                let (who, position) = (who(*pid, *place), position(beat));
                write!(out, "{who} is stuck: no answer for {silent_ms} ms {position}")
            }
            Self::MovesAgain { pid, role, after_ms } => {
                let what = if role.accepts() { " and takes its connections back" } else { "" };
                write!(out, "{} {pid} responds again after {after_ms} ms{what}", role.title())
            }
            Self::Full { pid, number } => write!(
                out,
                "worker process {pid} (worker {number}) can take no more connections; siblings with room take new \
                 ones"
            ),
            Self::HasRoom { pid } => {
                write!(out, "worker process {pid} has room again and takes its connections back")
            }
            Self::FellBack => {
                write!(out, "no worker can run with the new configuration; the previous one stays in force")
            }
            Self::TooManyGenerations { generation, limit } => write!(
                out,
                "the workers of generation {generation} are ended with their requests: more than {limit} earlier \
                 generations are leaving (worker_generations); worker_shutdown_timeout bounds their time"
            ),
            Self::SuccessorGone { pid } => {
                write!(out, "the new binary process {pid} is gone, start worker processes")
            }
        }
    }
}

/// `worker process 7 (worker 0)`
fn who(pid: i32, place: Place) -> String {
    match place.role {
        Role::Worker => format!("worker process {pid} (worker {})", place.number),
        Role::Prober | Role::CacheManager | Role::Controller | Role::Keeper => {
            format!("{} {pid}", place.role.title())
        }
    }
}

/// The worker's position in its loop, by its own account.
fn position(beat: &Heartbeat) -> String {
    let place = match beat.state {
        heartbeat::State::Starting => "while starting",
        heartbeat::State::Awake => "within one turn of its loop",
        heartbeat::State::Asleep => "between two turns of its loop",
    };
    match beat.last_event {
        0 => place.into(),
        connection => format!("{place}, after a request on connection *{connection}"),
    }
}
