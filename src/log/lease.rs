//! Leases of logs: a configuration leases the logs that it names.
//!
//! Targets and access logs are interned by name and live as long as the process, but hold a descriptor only
//! while a lease names them. So handles are plain copies that can be stored in immutable configuration. A
//! reload opens every file that it names, by path, in addition to those in use, and switches to them once the
//! whole configuration is accepted: thus a file that was moved away is replaced by a new one. Logs that no
//! configuration names are closed.
//! Truth: nginx's `cycle->open_files`.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use super::context::Cause;

/// The user and group that workers run as, who become the owners of opened files.
pub type Owner = (u32, u32);

/// A log that holds a descriptor while it is leased.
///
/// Error log targets and access logs implement it. The functions of this module call it when a configuration
/// is opened, accepted or dropped, and when logs are reopened.
pub(super) trait Held: Sync {
    /// The numbers of the leases that name this log.
    fn marks(&self) -> &Mutex<Vec<u32>>;
    fn name(&self) -> &str;
    fn is_open(&self) -> bool;
    fn reopen(&self, owner: Option<Owner>) -> io::Result<()>;
    fn close(&self);
    /// Opens the file by path, in addition to the one in use. Keeps nothing if it is still the same file.
    fn stage(&self, owner: Option<Owner>) -> io::Result<()>;
    /// Switches to the staged file.
    fn take_staged(&self);
    /// Closes a staged file that was not taken.
    fn drop_staged(&self);
    /// The descriptors that this log holds.
    fn descriptors(&self) -> Vec<RawFd>;

    fn open(&self, owner: Option<Owner>) -> io::Result<()> {
        if self.is_open() { self.stage(owner) } else { self.reopen(owner) }
    }
}

/// Whether two descriptors refer to the same file.
pub(super) fn is_same_file(one: &fs::File, other: &fs::File) -> bool {
    match (one.metadata(), other.metadata()) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

/// All logs of one kind, by name.
pub(super) type Interned<T> = LazyLock<Mutex<HashMap<String, &'static T>>>;

static HELD: Mutex<Vec<&'static dyn Held>> = Mutex::new(Vec::new());
/// The mark of a log that is used for as long as the process lives.
const FOREVER: u32 = u32::MAX;
static LAST: AtomicU32 = AtomicU32::new(0);
static CURRENT: AtomicU32 = AtomicU32::new(0);

/// Locks a mutex even if it is poisoned: the state of a log is consistent after every statement.
pub(super) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the log of this name, which is created on first use, and whether the current lease names it for
/// the first time.
pub(super) fn intern<T: Held>(all: &Interned<T>, name: &str, make: impl FnOnce() -> T) -> (&'static T, bool) {
    let mut all = lock(all);
    let held = *all.entry(name.to_owned()).or_insert_with(|| {
        let held: &'static T = Box::leak(Box::new(make()));
        lock(&HELD).push(held);
        held
    });
    (held, mark(held))
}

/// Notes that the current lease, if any, names `held`. True if it is the first time.
pub(super) fn mark(held: &dyn Held) -> bool {
    let current = CURRENT.load(Ordering::Relaxed);
    let mut marks = lock(held.marks());
    let first = current != 0 && !marks.contains(&current);
    if first {
        marks.push(current);
    }
    first
}

/// Keeps `held` open for as long as the process lives.
pub(super) fn mark_forever(held: &dyn Held) {
    let mut marks = lock(held.marks());
    if !marks.contains(&FOREVER) {
        marks.push(FOREVER);
    }
}

/// The claim of one configuration on its log files.
///
/// Every log declared between `begin` and the next `begin` (or the drop) belongs to it. The master opens the
/// logs with [`Lease::open`], and calls [`Lease::take`] once the whole configuration is accepted. Dropping a
/// lease closes the logs that no other lease names. Workers never drop theirs.
#[derive(Debug)]
pub struct Lease {
    number: u32,
}

impl Lease {
    pub fn begin() -> Lease {
        let number = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        CURRENT.store(number, Ordering::Relaxed);
        Lease { number }
    }

    /// Opens by path every log declared under this lease. Errors: all failures, not only the first.
    ///
    /// A file that is in use already stays in use until [`Lease::take`], or for good if opening fails or the
    /// lease is dropped before that.
    pub fn open(&self, owner: Option<Owner>) -> Result<(), Vec<OpenError>> {
        each(|held| self.names(held), |held| held.open(owner))
    }

    /// Switches to the files that `open` has opened: the configuration is now in force.
    pub fn take(&self) {
        for held in lock(&HELD).clone() {
            if self.names(held) {
                held.take_staged();
            }
        }
    }

    fn names(&self, held: &dyn Held) -> bool {
        lock(held.marks()).contains(&self.number)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let _ = CURRENT.compare_exchange(self.number, 0, Ordering::Relaxed, Ordering::Relaxed);
        for held in lock(&HELD).clone() {
            let mut marks = lock(held.marks());
            let before = marks.len();
            marks.retain(|&mark| mark != self.number);
            let (was_named, is_named) = (marks.len() != before, !marks.is_empty());
            drop(marks);
            if was_named && is_named {
                held.drop_staged();
            } else if was_named {
                held.close();
            }
        }
    }
}

/// See `log::descriptors`.
pub(super) fn descriptors() -> Vec<RawFd> {
    lock(&HELD).iter().flat_map(|held| held.descriptors()).collect()
}

/// Counts the calls of `reopen`, so that caches of further open logs notice them.
static REOPENED: AtomicU32 = AtomicU32::new(0);

pub(super) fn reopened() -> u32 {
    REOPENED.load(Ordering::Relaxed)
}

/// See `log::reopen`.
pub(super) fn reopen(owner: Option<Owner>) -> Result<(), Vec<OpenError>> {
    REOPENED.fetch_add(1, Ordering::Relaxed);
    each(|held| !lock(held.marks()).is_empty(), |held| held.reopen(owner))
}

fn each(
    wanted: impl Fn(&dyn Held) -> bool,
    act: impl Fn(&dyn Held) -> io::Result<()>,
) -> Result<(), Vec<OpenError>> {
    let mut errors = Vec::new();
    for held in lock(&HELD).clone() {
        if wanted(held)
            && let Err(cause) = act(held)
        {
            errors.push(OpenError { path: held.name().to_owned(), cause });
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// A log that could not be opened, shown in nginx's form: `open() "path" failed (2: No such file or
/// directory)`.
#[derive(Debug)]
pub struct OpenError {
    pub path: String,
    pub cause: io::Error,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "open() \"{}\" failed {}", self.path, Cause(&self.cause))
    }
}

impl std::error::Error for OpenError {}

/// Serializes tests that use the global state of the process: the current lease, the list of files with work.
#[cfg(test)]
pub(super) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    lock(&ALONE)
}
