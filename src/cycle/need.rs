//! The resources that a configuration needs of the system: open files and memory.
//!
//! Pure, but for the memory that this process has now, which the configuration occupies. The numbers are told by `-t`
//! and at a start, with a warning where the system has less.

use std::fmt;

use crate::base::number::Bytes;
use crate::cycle::Config;
use crate::sys::memory::{Holder, Limit};

const MIB: u64 = 1024 * 1024;

/// The private memory of a worker without connections: its loop, its allocator's reserves, its cache of files.
const WORKER_BYTES: u64 = 8 * MIB;

/// The memory that a configuration may need, in bytes, if all its connections are in use and all buffers full.
///
/// The kernel's buffers of sockets are not in it, nor the workers of an earlier generation that finish their requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    pub workers: u64,
    /// `worker_connections`
    pub connections: u64,
    /// The most that one connection takes.
    pub connection: u64,
    /// `worker_memory_budget`; 0: no limit.
    pub budget: u64,
    /// The copies of key-value zones in all processes.
    pub copies: u64,
    /// The zones of shared memory.
    pub zones: u64,
    /// The configuration itself, which all processes share.
    pub config: u64,
}

impl Config {
    /// The memory that this configuration may need. `config`: bytes of the process that has read it.
    pub fn memory_needed(&self, config: u64) -> Need {
        let workers =
            if self.settings.master_process() { self.settings.worker_processes() as u64 } else { 1 };
        let keyvals: u64 = self.keyval_zones().map(|(_, zone)| zone.bytes_max as u64).sum();
        let http = self.http.as_ref().map_or(0, |http| http.connection_bytes());
        let stream = self.stream.as_ref().map_or(0, |stream| stream.connection_bytes());
        let mail = self.mail.as_ref().map_or(0, |mail| mail.connection_bytes());
        Need {
            workers,
            connections: self.settings.worker_connections() as u64,
            connection: http.max(stream).max(mail),
            budget: self.settings.worker_memory_budget(),
            copies: keyvals.saturating_mul(workers.saturating_add(1)), // the master's own is one more
            zones: self.zones().map(|zone| zone.bytes as u64).fold(0, u64::saturating_add),
            config,
        }
    }
}

impl Need {
    /// All connections of all workers.
    fn of_connections(&self) -> u64 {
        self.workers.saturating_mul(self.connections).saturating_mul(self.connection)
    }

    /// The budgets of all workers.
    fn of_budgets(&self) -> u64 {
        self.workers.saturating_mul(self.budget)
    }

    pub fn total(&self) -> u64 {
        let parts = [
            self.workers.saturating_mul(WORKER_BYTES),
            self.of_connections(),
            self.of_budgets(),
            self.copies,
            self.zones,
            self.config,
        ];
        parts.into_iter().fold(0, u64::saturating_add)
    }

    /// A warning if the system has less.
    pub fn missing(&self, limit: Limit) -> Option<String> {
        let excess = self.total().checked_sub(limit.bytes).filter(|excess| *excess > 0)?;
        Some(format!("{self}, but there are only {}: {}", Shown(limit), self.remedy(excess)))
    }

    /// The directive to change, with its value: the one that takes the most.
    fn remedy(&self, excess: u64) -> String {
        let (connections, budgets) = (self.of_connections(), self.of_budgets());
        let each = self.workers.saturating_mul(self.connection).max(1);
        let fewer = connections.saturating_sub(excess) / each;
        let less = budgets.saturating_sub(excess) / self.workers.max(1) / MIB;
        match (fewer, less) {
            (fewer, _) if fewer > 0 && connections >= budgets => {
                format!("set \"worker_connections\" to {fewer}")
            }
            (_, less) if less > 0 && budgets >= connections => {
                format!("set \"worker_memory_budget\" to {less}m")
            }
            (1.., _) => format!("set \"worker_connections\" to {fewer}"),
            (_, 1..) => format!("set \"worker_memory_budget\" to {less}m"),
            _ if self.zones > connections.saturating_add(budgets) => {
                "make the zones of shared memory smaller".into()
            }
            _ => "lower \"worker_processes\", \"worker_connections\" and \"worker_memory_budget\"".into(),
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { workers, connections, connection, budget, .. } = *self;
        let plural = if workers == 1 { "" } else { "s" };
        write!(
            out,
            "{workers} worker{plural} with {connections} connections of up to {}",
            Bytes(connection)
        )?;
        match budget {
            0 => out.write_str(" (and without a worker_memory_budget)")?,
            _ => write!(out, " and a worker_memory_budget of {}", Bytes(budget))?,
        }
        match self.zones.saturating_add(self.copies) {
            0 => {}
            zones => write!(out, ", and zones of {}", Bytes(zones))?,
        }
        write!(out, " may need {} of memory", Bytes(self.total()))
    }
}

/// The memory that there is, for people.
#[derive(Clone, Copy, Debug)]
pub struct Shown(pub Limit);

impl fmt::Display for Shown {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let holder = match self.0.of {
            Holder::Machine => "this machine",
            Holder::Group => "its control group",
        };
        write!(out, "{} of {holder}", Bytes(self.0.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1024;
    const GIB: u64 = 1024 * MIB;

    const NEED: Need = Need {
        workers: 4,
        connections: 1000,
        connection: 100 * KIB,
        budget: 64 * MIB,
        copies: 0,
        zones: 0,
        config: MIB,
    };

    fn limit(bytes: u64) -> Limit {
        Limit { bytes, of: Holder::Machine }
    }

    fn with(need: Need, remedy: &str) -> Need {
        let number =
            |text: &str| text.rsplit(' ').next().and_then(|word| word.trim_end_matches('m').parse().ok());
        match remedy {
            text if text.contains("worker_connections") => {
                Need { connections: number(text).expect("a number"), ..need }
            }
            text => Need { budget: number(text).map(|mib: u64| mib * MIB).expect("a number"), ..need },
        }
    }

    #[test]
    fn the_value_of_the_remedy_is_enough_and_no_smaller_than_it_must_be() {
        let larger = Need { connections: 100, budget: 1024 * MIB, ..NEED };
        for (need, limit) in [(NEED, limit(400 * MIB)), (larger, limit(GIB))] {
            let warning = need.missing(limit).expect("too much");
            let mended = with(need, warning.rsplit(": ").next().expect("the remedy"));
            assert_eq!(mended.missing(limit), None, "{warning}");
            let more = Need { connections: mended.connections + 1, budget: mended.budget + MIB, ..mended };
            assert!(more.missing(limit).is_some(), "{warning}");
        }
    }

    #[test]
    fn the_largest_part_is_to_become_smaller() {
        let zones = Need { zones: 8 * GIB, ..NEED };
        let many = Need { workers: 64, connections: 1, budget: MIB, ..NEED };
        let cases = [
            (NEED, 400 * MIB, "set \"worker_connections\" to "),
            (Need { budget: GIB, ..NEED }, GIB, "set \"worker_memory_budget\" to "),
            (zones, GIB, "make the zones of shared memory smaller"),
            (many, 16 * MIB, "lower \"worker_processes\""),
        ];
        for (need, bytes, remedy) in cases {
            let warning = need.missing(limit(bytes)).expect("too much");
            assert!(warning.contains(&format!(": {remedy}")), "{warning}");
        }
        assert_eq!(NEED.missing(limit(GIB)), None);
    }

    #[test]
    fn numbers_are_told_in_words_that_people_read() {
        assert_eq!(
            NEED.to_string(),
            "4 workers with 1000 connections of up to 100 KiB and a worker_memory_budget of 64 MiB may need 679.7 MiB of memory"
        );
        let unbounded = Need { workers: 1, budget: 0, zones: 3 * GIB / 2, ..NEED }.to_string();
        assert!(
            unbounded.contains("1 worker with") && unbounded.contains("without a worker_memory_budget"),
            "{unbounded}"
        );
        assert!(unbounded.contains("zones of 1.5 GiB"), "{unbounded}");
        let endless = Need { connections: u64::MAX, ..NEED };
        assert_eq!(endless.total(), u64::MAX, "no number is too large");
        assert!(endless.missing(limit(GIB)).is_some());
    }
}
