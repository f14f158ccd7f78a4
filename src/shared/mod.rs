//! Engines that more than one language part has: what nginx keeps twice, as near copies in `http` and `stream`.
//!
//! Generic over `script`'s [`Scope`] and [`Compile`]. An engine reads arguments, keeps what they say, and decides; the rows
//! that lead to it, the contexts they may stand in and what follows from a decision are the language part's own.
//! Touches: what each file says.

pub mod access;
pub mod access_log;
pub mod balance_key;
pub mod bind;
pub mod connection;
pub mod control;
pub mod conversation;
pub mod error_log;
pub mod geoip;
pub mod geoip2;
pub mod health_check;
pub mod keyval_rows;
pub mod keyvals;
pub mod limit_conn;
pub mod limit_req;
pub mod listen;
pub mod log_format;
pub mod lookup;
pub mod name;
pub mod realip;
pub mod resolver;
pub mod server_names;
pub mod sockets;
pub mod starttls;
pub mod status_zone;
pub mod sticky;
pub mod tls;
pub mod upstream_rows;
pub mod zone;

use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::config::{Span, keywords};
use crate::log::{self, Level, Logger};
use crate::script::{Compile, Scope};
use crate::sys::names::Names;

/// Input to the compilation of a protocol's block from outside of it.
#[derive(Clone, Debug)]
pub struct CompileOptions {
    /// The base of relative paths of logs, roots and temporary files.
    pub prefix: PathBuf,
    /// The base of relative paths of files that belong to the configuration: the directory of the main file.
    pub folder: PathBuf,
    /// The main block's log, in force where no `error_log` is set.
    pub error_log: Logger,
    /// The addresses of names, and the names that still need a lookup.
    pub names: Rc<Names>,
    /// `-t`: nothing is created.
    pub test_only: bool,
}

/// A compile context whose directives name files, hosts and memory.
pub trait Environment: Compile {
    /// The block of the language part, as messages name it.
    const BLOCK: &'static str;

    /// Relative paths of logs begin here.
    fn prefix(&self) -> &Path;

    /// The names that were looked up, and those that are to be.
    fn names(&self) -> &Names;

    /// `-t`: nothing is created.
    fn is_test(&self) -> bool;

    /// The zones whose counts the API shows.
    fn status_zones(&mut self) -> &mut status_zone::Zones;
}

/// The log context of a scope, plus `, rule: file:line` for the directive that decided.
///
/// The rule comes last, so that parsers of nginx's logs still find all fields where they expect them.
pub struct ByRule<'a, S> {
    pub scope: &'a S,
    pub rule: Span,
}

impl<S: Scope> log::Context for ByRule<'_, S> {
    fn connection(&self) -> Option<u64> {
        self.scope.connection()
    }

    fn action(&self) -> Option<&str> {
        self.scope.action()
    }

    fn fields(&self, fields: &mut log::Fields<'_>) {
        self.scope.fields(fields);
        let place = self.scope.places().name(self.rule);
        if !place.is_empty() {
            fields.plain("rule", place);
        }
    }
}

/// How severe a limit's messages are; nginx's four, from the least severe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Info,
    Notice,
    Warn,
    Error,
}
keywords!(Severity { "info" => Info, "notice" => Notice, "warn" => Warn, "error" => Error });

impl Severity {
    /// One step less severe, as a delay is beside a rejection.
    pub fn milder(self) -> Self {
        match self {
            Self::Info | Self::Notice => Self::Info,
            Self::Warn => Self::Notice,
            Self::Error => Self::Warn,
        }
    }

    pub fn level(self) -> Level {
        match self {
            Self::Info => Level::Info,
            Self::Notice => Level::Notice,
            Self::Warn => Level::Warn,
            Self::Error => Level::Error,
        }
    }
}

#[cfg(test)]
mod tests;
