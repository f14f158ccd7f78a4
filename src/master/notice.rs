//! Log lines about the master's decisions: the facts and their texts.

use std::fmt;

use crate::log::{self, Level};
use crate::master::respawn::Cause;
use crate::master::rules::Fault;
use crate::shm::heartbeat::{self, Heartbeat};
use crate::sys::process;

/// A line for the error log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    StartWorkers,
    BrokeRule { pid: i32, number: usize, fault: Fault },
    Late { pid: i32 },
    Fatal { pid: i32, code: i32 },
    DiedYoung { number: usize, cause: Cause, wait_ms: u64 },
    Replaced { pid: i32 },
    NeverStarted { pid: i32, limit_ms: u64 },
    KilledStuck { pid: i32, limit_ms: u64 },
    Stuck { pid: i32, number: usize, silent_ms: u64, beat: Heartbeat },
    MovesAgain { pid: i32, after_ms: u64 },
    Full { pid: i32, number: usize },
    HasRoom { pid: i32 },
    FellBack,
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
            Self::MovesAgain { .. } | Self::Full { .. } => Level::Warn,
            Self::StartWorkers
            | Self::Replaced { .. }
            | Self::HasRoom { .. }
            | Self::SuccessorGone { .. } => Level::Notice,
        }
    }

    /// Writes it to the error log. For a stuck worker, asks the system what its process is waiting for.
    pub fn tell(&self) {
        let state = match self {
            Self::Stuck { pid, .. } => {
                format!("; its state is {}; its siblings take its new connections", process::state(*pid))
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
            Self::BrokeRule { pid, number, fault } => write!(
                out,
                "worker process {pid} (worker {number}) breaks a rule of its control socket and is killed: {fault}"
            ),
            Self::Late { pid } => write!(out, "worker process {pid} has not left in time and is killed"),
            Self::Fatal { pid, code } => {
                write!(out, "worker process {pid} exited with fatal code {code} and cannot be respawned")
            }
            Self::DiedYoung { number, cause, wait_ms } => {
                let what = match cause {
                    Cause::Condemned { .. } => "was killed soon after it was born",
                    Cause::Replaced { .. } => "asked to be replaced as soon as it was born",
                    Cause::NotForked => "could not be forked",
                    Cause::Ended { .. } | Cause::Fatal => "died as soon as it was born",
                };
                write!(out, "worker {number} {what}, the next one starts in {wait_ms} ms")
            }
            Self::Replaced { pid } => write!(out, "worker process {pid} is replaced"),
            Self::NeverStarted { pid, limit_ms } => {
                write!(
                    out,
                    "worker process {pid} has not started in {limit_ms} ms and is killed and replaced"
                )
            }
            Self::KilledStuck { pid, limit_ms } => {
                write!(
                    out,
                    "worker process {pid} has been stuck for {limit_ms} ms and is killed and replaced"
                )
            }
            Self::Stuck { pid, number, silent_ms, beat } => {
                let place = place(beat);
                write!(
                    out,
                    "worker process {pid} (worker {number}) is stuck: no answer for {silent_ms} ms {place}"
                )
            }
            Self::MovesAgain { pid, after_ms } => write!(
                out,
                "worker process {pid} responds again after {after_ms} ms and takes its connections back"
            ),
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
            Self::SuccessorGone { pid } => {
                write!(out, "the new binary process {pid} is gone, start worker processes")
            }
        }
    }
}

/// The worker's position in its loop, by its own account.
fn place(beat: &Heartbeat) -> String {
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
