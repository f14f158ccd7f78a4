//! The error log (nginx's line format) and the access log's writer.
//!
//! `error!(logger, context, "text {}", value; "key" => value)` writes to every target of a `Logger` that wants the level.
//! A `Logger` is a copy of a pointer and is stored in configuration; a `Lease` opens and closes what a cycle names.
//! `access::File` gathers lines. Both survive a fork and are reopened by `reopen`. slog is underneath (`drain`).
//! Truth: nginx.org, `error_log` and ngx_http_log_module.

pub mod access;
mod context;
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
pub use self::lease::{Lease, OpenError, Owner};
pub use self::level::Level;
pub use self::macros::*;
#[doc(hidden)]
pub use self::sink::emit;
pub use self::target::{Logger, Target};

/// The id of the process's own logger, plus one; 0 is stderr.
static PROCESS: AtomicU32 = AtomicU32::new(0);

/// Whether standard error is the process's log file.
static HAS_STDERR: AtomicBool = AtomicBool::new(false);

/// The log before the configuration is read: `-e FILE` or `-e stderr`, level `notice`; becomes the process's own.
pub fn early(word: &str, prefix: &Path, names: &Names) -> Result<Logger, OpenError> {
    let failed = |cause| OpenError { path: word.to_owned(), cause };
    let target = Target::parse(word, prefix, names).map_err(|text| failed(std::io::Error::other(text)))?;
    target.open_early().map_err(failed)?;
    let logger = Logger::of(&[(target, Level::Notice)]);
    set_process(logger);
    Ok(logger)
}

/// The logger for what is no connection's matter: the main level's `error_log`, before it `early`'s, before that stderr.
pub fn process() -> Logger {
    let id = PROCESS.load(Ordering::Relaxed);
    id.checked_sub(1)
        .and_then(Logger::by_id)
        .unwrap_or_else(|| Logger::of(&[(Target::stderr(), Level::Notice)]))
}

/// Makes `logger` the process's own: when a cycle is taken.
pub fn set_process(logger: Logger) {
    PROCESS.store(logger.id() + 1, Ordering::Relaxed);
    redirect_stderr();
}

/// Reopens all leased logs by path: USR1, and after a rotation.
///
/// Buffered lines go to the old file first. A file that cannot be opened keeps its old descriptor.
/// `owner` is given by the master, so that workers can open the files too.
pub fn reopen(owner: Option<Owner>) -> Result<(), Vec<OpenError>> {
    let outcome = lease::reopen(owner);
    redirect_stderr();
    outcome
}

/// Makes standard error the process's log file from now on, whichever that is: in the background.
///
/// A process that logs to standard error keeps it, one that logs to no file at all gets the null device.
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

/// What the end of a loop turn does for all logs: access lines are written, hidden repeats told when due.
pub fn flush_turn() {
    access::flush_turn();
    for summary in repeat::take_due(repeat::now_ms(), false) {
        sink::tell(&summary);
    }
}

/// Milliseconds until `flush_turn` should run though nothing happens; None: the worker may sleep.
pub fn due_ms() -> Option<u64> {
    let repeats = repeat::due_ms(repeat::now_ms());
    access::due_ms().into_iter().chain(repeats).min()
}

/// The descriptors of all logs, for a process that keeps these and closes others.
pub fn descriptors() -> Vec<RawFd> {
    lease::descriptors()
}

/// Writes everything that waits: before an exit.
pub fn flush_all() {
    access::flush_all();
    for summary in repeat::take_due(repeat::now_ms(), true) {
        sink::tell(&summary);
    }
}

#[cfg(test)]
mod tests;
