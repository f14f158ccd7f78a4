//! The error log, in nginx's line format, and the writer of access logs.
//!
//! `error!(logger, context, "text {}", value; "key" => value)` writes to every target of a `Logger` that
//! includes the level. A `Logger` is a pointer that is stored in configuration; a `Lease` opens and closes
//! the logs that a configuration names. `access::File` collects access log lines. Both survive a fork and are
//! reopened by `reopen`. The error log is built on slog (`sink.rs`).
//! Truth: nginx.org, `error_log` and ngx_http_log_module.

pub mod access;
mod context;
mod debugged;
pub mod escape;
mod file;
pub mod format;
mod lease;
mod level;
mod macros;
pub mod named;
mod repeat;
mod sink;
mod syslog;
mod target;

use std::os::fd::{AsFd, RawFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::sys::names::Names;

pub use self::context::{Cause, Context, Fields, Text};
pub use self::debugged::{logger_for, set_debugged};
pub use self::lease::{Lease, OpenError, Owner};
pub use self::level::Level;
pub use self::macros::*;
#[doc(hidden)]
pub use self::sink::{begin_capture, capture, emit, end_capture};
pub use self::target::{Logger, Target};

/// The id of the process's logger, plus one; 0 means stderr.
static PROCESS: AtomicU32 = AtomicU32::new(0);

/// Whether standard error is the process's log file.
static HAS_STDERR: AtomicBool = AtomicBool::new(false);

/// Opens the log that is used before the configuration is read (`-e FILE` or `-e stderr`, level `notice`),
/// and makes it the process's logger.
pub fn early(word: &str, prefix: &Path, names: &Names) -> Result<Logger, OpenError> {
    let failed = |cause| OpenError { path: word.to_owned(), cause };
    let target = Target::parse(word, prefix, names).map_err(|text| failed(std::io::Error::other(text)))?;
    target.open_early().map_err(failed)?;
    let logger = Logger::of(&[(target, Level::Notice)]);
    set_process(logger);
    Ok(logger)
}

/// The logger for messages that concern no connection: the main level's `error_log`; before that is read,
/// `early`'s; before that, stderr.
pub fn process() -> Logger {
    let id = PROCESS.load(Ordering::Relaxed);
    id.checked_sub(1)
        .and_then(Logger::by_id)
        .unwrap_or_else(|| Logger::of(&[(Target::stderr(), Level::Notice)]))
}

/// Sets the process's logger, when a configuration comes into force.
pub fn set_process(logger: Logger) {
    PROCESS.store(logger.id() + 1, Ordering::Relaxed);
    redirect_stderr();
}

/// Reopens all leased logs by path, on USR1.
///
/// Buffered lines are first written to the old file. If a file cannot be opened, the old descriptor stays in
/// use. The master passes `owner`, so that workers can open the files too.
pub fn reopen(owner: Option<Owner>) -> Result<(), Vec<OpenError>> {
    let outcome = lease::reopen(owner);
    redirect_stderr();
    outcome
}

/// Redirects standard error to the process's log file, now and whenever that changes. For a daemon in the
/// background.
///
/// A process that logs to standard error keeps it; one that logs to no file gets /dev/null.
pub fn take_stderr() {
    HAS_STDERR.store(true, Ordering::Relaxed);
    redirect_stderr();
}

/// Whether `take_stderr` was called in this process or before it was forked.
pub fn has_stderr() -> bool {
    HAS_STDERR.load(Ordering::Relaxed)
}

fn redirect_stderr() {
    let entries = process().entries();
    if !has_stderr() || entries.iter().any(|(target, _)| *target == Target::stderr()) {
        return;
    }
    if !entries.iter().any(|(target, _)| target.is_given_to(2))
        && let Ok(null) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")
    {
        let _ = crate::sys::process::redirect(null.as_fd(), 2);
    }
}

/// Runs at the end of each loop turn: writes access log lines, and reports suppressed repeats when they are
/// due.
pub fn flush_turn() {
    access::flush_turn();
    if repeat::is_hiding() {
        for summary in repeat::take_due(repeat::now_ms(), false) {
            sink::tell(&summary);
        }
    }
}

/// Milliseconds until `flush_turn` must run even if no events come; `None`: the worker may sleep.
pub fn due_ms() -> Option<u64> {
    let repeats = repeat::is_hiding().then(|| repeat::due_ms(repeat::now_ms())).flatten();
    access::due_ms().into_iter().chain(repeats).min()
}

/// The descriptors of all logs, for a process that closes all others.
pub fn descriptors() -> Vec<RawFd> {
    lease::descriptors()
}

/// Writes everything that is pending, before an exit.
pub fn flush_all() {
    access::flush_all();
    for summary in repeat::take_due(repeat::now_ms(), true) {
        sink::tell(&summary);
    }
}

#[cfg(test)]
mod tests;
