//! The destinations of error log lines, and the handle of them that configuration stores.
//!
//! A `Target` is a file, stderr, a syslog server or a ring in memory, interned by name. A `Logger` is a set
//! of targets, each with its level; it is interned too, and is a pointer that is valid before and after a
//! fork.
//! Truth: nginx.org, core module, `error_log`.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, OnceLock, PoisonError, RwLock};

use crate::base::number::parse_size;
use crate::sys::names::Names;
use crate::sys::process;

use super::context::Cause;
use super::file;
use super::lease::{self, Held, Interned, Owner, lock};
use super::level::Level;
use super::syslog;

/// One destination. Targets with the same name are the same destination, opened once.
#[derive(Clone, Copy)]
pub struct Target(&'static Sink);

struct Sink {
    name: String,
    kind: Kind,
    marks: Mutex<Vec<u32>>,
    state: Mutex<State>,
}

enum Kind {
    File(PathBuf),
    Stderr,
    Syslog(syslog::Settings),
    /// A ring of the last lines, for a debugger, with its size in bytes.
    Memory(usize),
}

#[derive(Default)]
struct State {
    file: Option<File>,
    /// Opened for a configuration that is not in force yet.
    staged: Option<File>,
    sender: syslog::Sender,
    ring: VecDeque<u8>,
    /// Lines lost since the last successful write.
    lost: u64,
    /// The second of the last failure, within which no write is tried again.
    failed_at: Option<i64>,
    /// The last write ended inside a line.
    torn: bool,
}

static SINKS: Interned<Sink> = LazyLock::new(Mutex::default);

impl Target {
    /// Parses the first argument of `error_log`: `stderr`, `syslog:…`, `memory:SIZE` or a path (relative to
    /// `prefix`).
    ///
    /// Nothing is opened yet; see `Lease::open`. Errors are texts for a diagnostic.
    pub fn parse(word: &str, prefix: &Path, names: &Names) -> Result<Target, String> {
        if word == "stderr" {
            return Ok(Target::stderr());
        }
        if let Some(parameters) = word.strip_prefix("syslog:") {
            let settings = syslog::Settings::parse(parameters, names)?;
            return Ok(Target::intern(word, &settings.key(word), || Kind::Syslog(settings.clone())));
        }
        if let Some(size) = word.strip_prefix("memory:") {
            let bytes =
                parse_size(size).and_then(|bytes| usize::try_from(bytes).ok()).filter(|&bytes| bytes > 0);
            let bytes = bytes.ok_or_else(|| format!("invalid buffer size \"{size}\""))?;
            return Ok(Target::intern(word, word, || Kind::Memory(bytes)));
        }
        if word.is_empty() {
            return Err("the name of a log file is empty".to_owned());
        }
        Ok(Target::file(&prefix.join(word)))
    }

    pub fn file(path: &Path) -> Target {
        let name = path.to_string_lossy();
        Target::intern(&name, &name, || Kind::File(path.to_owned()))
    }

    pub fn stderr() -> Target {
        Target::intern("stderr", "stderr", || Kind::Stderr)
    }

    /// The word or path that names this target.
    pub fn name(self) -> &'static str {
        &self.0.name
    }

    /// `key` is the name, extended by its current meaning (a server's address) if the name may mean another
    /// thing later.
    fn intern(name: &str, key: &str, kind: impl FnOnce() -> Kind) -> Target {
        let (sink, _) = lease::intern(&SINKS, key, || Sink {
            name: name.to_owned(),
            kind: kind(),
            marks: Mutex::default(),
            state: Mutex::default(),
        });
        Target(sink)
    }

    /// Redirects a standard stream to the file of this target; false if it has no open file.
    pub(super) fn is_given_to(self, stream: RawFd) -> bool {
        let state = lock(&self.0.state);
        state.file.as_ref().is_some_and(|file| process::redirect(file.as_fd(), stream).is_ok())
    }

    /// Opens the file now, outside any lease (`-e`).
    pub(super) fn open_early(self) -> io::Result<()> {
        self.0.open(None)?;
        // So that it stays open when a configuration that also names it is refused.
        lease::mark_forever(self.0);
        Ok(())
    }

    /// Writes one line, which ends with `\n`. Never waits: lines that cannot be written are counted, and the
    /// count is reported in the log itself as soon as a write succeeds. After a failure, no write is tried in
    /// the same second.
    pub(super) fn write(self, level: Level, secs: i64, line: &[u8]) {
        let state = &mut *lock(&self.0.state);
        if state.failed_at == Some(secs) {
            state.lost += 1;
            return;
        }
        match self.0.kind.write(state, level, secs, line) {
            Ok(()) => {
                state.failed_at = None;
                if state.lost > 0 {
                    let lost = std::mem::take(&mut state.lost);
                    let line = super::sink::own_line(secs, Level::Warn, |out| {
                        let _ = write!(out, "{lost} lines of this log were lost");
                    });
                    if self.0.kind.write(state, Level::Warn, secs, &line).is_err() {
                        state.lost += lost;
                    }
                }
            }
            Err(_) => {
                state.lost += 1;
                state.failed_at = Some(secs);
            }
        }
    }
}

#[cfg(test)]
impl Target {
    pub(super) fn ring(self) -> Vec<u8> {
        lock(&self.0.state).ring.iter().copied().collect()
    }
}

impl PartialEq for Target {
    fn eq(&self, other: &Target) -> bool {
        std::ptr::eq(self.0, other.0)
    }
}

impl Eq for Target {}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Target({})", self.0.name)
    }
}

impl Kind {
    fn write(&self, state: &mut State, level: Level, secs: i64, line: &[u8]) -> io::Result<()> {
        match self {
            Kind::File(_) => {
                let Some(file) = &mut state.file else { return Ok(()) };
                file::write_line(file, line, &mut state.torn)
            }
            Kind::Stderr => file::write_line(&mut io::stderr().lock(), line, &mut state.torn),
            Kind::Syslog(settings) => {
                state.sender.send(settings, level, secs, line.strip_suffix(b"\n").unwrap_or(line))
            }
            Kind::Memory(bytes) => {
                state.ring.extend(line);
                let over = state.ring.len().saturating_sub(*bytes);
                state.ring.drain(..over);
                Ok(())
            }
        }
    }
}

impl Held for Sink {
    fn marks(&self) -> &Mutex<Vec<u32>> {
        &self.marks
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn is_open(&self) -> bool {
        lock(&self.state).file.is_some()
    }

    fn reopen(&self, owner: Option<Owner>) -> io::Result<()> {
        if let Kind::File(path) = &self.kind {
            let opened = file::append_for(path, owner)?;
            let state = &mut *lock(&self.state);
            state.file = Some(opened);
            (state.failed_at, state.torn) = (None, false);
        } else {
            lock(&self.state).sender.close();
        }
        Ok(())
    }

    fn close(&self) {
        *lock(&self.state) = State::default();
    }

    fn stage(&self, owner: Option<Owner>) -> io::Result<()> {
        if let Kind::File(path) = &self.kind {
            let opened = file::append_for(path, owner)?;
            let state = &mut *lock(&self.state);
            let is_same = state.file.as_ref().is_some_and(|file| lease::is_same_file(file, &opened));
            state.staged = (!is_same).then_some(opened);
        }
        Ok(())
    }

    fn take_staged(&self) {
        let state = &mut *lock(&self.state);
        if let Some(opened) = state.staged.take() {
            state.file = Some(opened);
            (state.failed_at, state.torn) = (None, false);
        }
        // The next message connects again: a restarted server may listen at the same path.
        state.sender.close();
    }

    fn drop_staged(&self) {
        lock(&self.state).staged = None;
    }

    fn descriptors(&self) -> Vec<RawFd> {
        let state = lock(&self.state);
        let files = [&state.file, &state.staged].into_iter().flatten().map(AsRawFd::as_raw_fd);
        files.chain(state.sender.descriptor()).collect()
    }
}

/// A set of targets, each with its level: the `error_log` directives of one block.
///
/// Configuration stores one; the logging macros take it as their first argument. Copies are cheap, and equal
/// sets are the same logger.
#[derive(Clone, Copy)]
pub struct Logger(&'static Set);

struct Set {
    id: u32,
    /// One more than the most verbose level of all targets; 0 without targets.
    ceiling: u8,
    entries: Box<[(Target, Level)]>,
    debugging: OnceLock<Logger>,
}

static SETS: RwLock<Vec<&'static Set>> = RwLock::new(Vec::new());
static SET_IDS: LazyLock<Mutex<HashMap<SetKey, u32>>> = LazyLock::new(Mutex::default);

/// The addresses of the sinks, with their levels.
type SetKey = Vec<(usize, Level)>;

impl Logger {
    /// The logger for all `error_log` directives of one block, in order. A target that is named twice gets
    /// each line twice.
    pub fn of(entries: &[(Target, Level)]) -> Logger {
        for (target, _) in entries {
            lease::mark(target.0);
        }
        let key: SetKey =
            entries.iter().map(|&(target, level)| (std::ptr::from_ref(target.0).addr(), level)).collect();
        let mut ids = lock(&SET_IDS);
        let mut sets = SETS.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(&id) = ids.get(&key)
            && let Some(&set) = sets.get(id as usize)
        {
            return Logger(set);
        }
        let id = sets.len() as u32;
        let ceiling = entries.iter().map(|&(_, level)| level as u8 + 1).max().unwrap_or(0);
        let set: &'static Set =
            Box::leak(Box::new(Set { id, ceiling, entries: entries.into(), debugging: OnceLock::new() }));
        sets.push(set);
        ids.insert(key, id);
        Logger(set)
    }

    /// A logger that writes nothing.
    pub fn none() -> Logger {
        Logger::of(&[])
    }

    /// The same targets at level `debug`.
    pub fn debugging(self) -> Logger {
        let entries = || self.0.entries.iter().map(|&(target, _)| (target, Level::Debug)).collect::<Vec<_>>();
        *self.0.debugging.get_or_init(|| Logger::of(&entries()))
    }

    /// Whether any target includes this level.
    #[inline]
    pub fn accepts(self, level: Level) -> bool {
        (level as u8) < self.0.ceiling
    }

    /// The targets and their levels, as given.
    pub fn entries(self) -> &'static [(Target, Level)] {
        &self.0.entries
    }

    pub(super) fn id(self) -> u32 {
        self.0.id
    }

    pub(super) fn by_id(id: u32) -> Option<Logger> {
        SETS.read().unwrap_or_else(PoisonError::into_inner).get(id as usize).map(|&set| Logger(set))
    }
}

impl PartialEq for Logger {
    fn eq(&self, other: &Logger) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for Logger {}

impl std::fmt::Debug for Logger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.entries.iter()).finish()
    }
}

/// The reason why a target cannot be written to, for the process's log.
pub(super) fn failed_text(name: &str, error: &io::Error) -> String {
    format!("write() to \"{name}\" failed {}", Cause(error))
}
