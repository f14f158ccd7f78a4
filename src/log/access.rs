//! The writer of access logs: complete lines are collected in memory, and many share one write(2).
//!
//! Each process has its own buffer for each file; several workers append to one file, whole lines per write
//! (O_APPEND). Without `buffer=` the lines of a loop turn are written at its end; with it, when the buffer is
//! full or the time of `flush=` is over. Nothing blocks: lines that a full disk rejects are held, up to a
//! bound, and tried again each second; lines beyond the bound are lost and counted. An outage is reported
//! once when it begins and once when it is over.
//! Truth: nginx.org, ngx_http_log_module, `access_log`.

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex};

use crate::base::gzip;
use crate::sys::names::Names;

use super::file;
use super::lease::{self, Held, Interned, Owner, lock};
use super::repeat::now_ms;
use super::{sink, syslog, target};

/// A turn whose lines exceed this writes them before its end.
const TURN_BYTES_MAX: usize = 64 * 1024;
/// Most bytes held for a pipe whose reader is slow, or for a full disk.
const WAITING_BYTES_MAX: usize = 1024 * 1024;
/// Pause before a full pipe is tried again.
const RETRY_MS: u64 = 10;
/// The same for a file that cannot be written to.
const OUTAGE_RETRY_MS: u64 = 1_000;
/// Interval between two reports of lost lines in one outage.
const TELL_S: i64 = 60;
/// Empty buffers kept for the next turn, shared by all files: there may be 10,000.
const SPARE_MAX: usize = 4;

/// A handle of one access log, stored in configuration.
///
/// Copies are cheap; all handles of one name refer to the same file, which is opened once. A [`Lease`] opens
/// and closes it. Requests write lines ([`File::write_line`]); the worker's loop calls [`flush_turn`] at the
/// end of each turn, and [`flush_all`] before it exits.
///
/// [`Lease`]: super::Lease
#[derive(Clone, Copy)]
pub struct File(&'static Slot);

/// The parameters `buffer=` (bytes), `flush=` (milliseconds) and `gzip` (level).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    pub buffer: Option<usize>,
    pub flush_ms: Option<u64>,
    /// 1 to 9; each buffer becomes a gzip member of the file.
    pub gzip: Option<u32>,
}

struct Slot {
    name: String,
    kind: Kind,
    marks: Mutex<Vec<u32>>,
    state: Mutex<State>,
}

enum Kind {
    File(PathBuf),
    Syslog(syslog::Settings),
}

#[derive(Default)]
struct State {
    options: Options,
    file: Option<fs::File>,
    /// Opened for a configuration that is not in force yet, with that configuration's parameters.
    staged: Option<fs::File>,
    staged_options: Option<Options>,
    sender: syslog::Sender,
    lines: Vec<u8>,
    /// `lines` begins with the rest of a line whose beginning is in the file already.
    torn: bool,
    /// With `gzip`: a member that has been written in part.
    packed: Packed,
    /// Deadline of `flush=`, or the time to try again.
    write_at_ms: Option<u64>,
    /// Whether the file is in `LISTED`, the files with work at the end of the turn.
    listed: bool,
    lost: u64,
    told_at: i64,
    /// The second of the last failure, within which no write is tried again.
    failed_at: Option<i64>,
    cause: Option<io::Error>,
    outage: Outage,
}

/// The state of an outage of one file: whether it can be written to, and what has been reported.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Outage {
    #[default]
    None,
    Untold,
    Told,
    /// The file can be written to again, which has not been reported yet.
    Over,
}

/// A report about a file for the error log.
enum News {
    Held(io::Error),
    Lost(u64, io::Error),
    Over,
}

/// A gzip member, and the number of its bytes that have been written.
#[derive(Default)]
struct Packed {
    bytes: Vec<u8>,
    done: usize,
    lines: u64,
}

static SLOTS: Interned<Slot> = LazyLock::new(Mutex::default);
static LISTED: Mutex<Vec<&'static Slot>> = Mutex::new(Vec::new());
static ANY_LISTED: AtomicBool = AtomicBool::new(false);
static SPARE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

impl File {
    /// Declares the log that the first argument of `access_log` names: `syslog:…` or a path (relative to
    /// `prefix`). `Lease::open` opens it.
    ///
    /// Errors are texts for a diagnostic: bad syslog parameters, or parameters that differ from earlier ones
    /// for the same file under the same lease.
    pub fn declare(word: &str, prefix: &Path, options: Options, names: &Names) -> Result<File, String> {
        if let Some(parameters) = word.strip_prefix("syslog:") {
            if options != Options::default() {
                return Err("buffered logs cannot be sent to syslog".to_owned());
            }
            let settings = syslog::Settings::parse(parameters, names)?;
            let key = settings.key(word);
            return Ok(File::intern(word, &key, || Kind::Syslog(settings), options).0);
        }
        let path = prefix.join(word);
        let name = path.to_string_lossy();
        let (file, first) = File::intern(&name, &name, || Kind::File(path.clone()), options);
        let state = &mut *lock(&file.0.state);
        if first && state.file.is_some() {
            state.staged_options = Some(options);
        } else if first {
            state.options = options;
        } else if state.staged_options.unwrap_or(state.options) != options {
            return Err(format!(
                "access_log \"{}\" already defined with conflicting parameters",
                file.0.name
            ));
        }
        Ok(file)
    }

    /// Declares a file and opens it at once, for as long as the process lives.
    pub fn open(path: &Path, buffer: Option<usize>, flush_ms: Option<u64>) -> io::Result<File> {
        let options = Options { buffer, flush_ms, gzip: None };
        let file = File::declare(&path.to_string_lossy(), Path::new(""), options, &Names::default())
            .map_err(io::Error::other)?;
        file.0.open(None)?;
        lease::mark_forever(file.0);
        Ok(file)
    }

    pub fn name(self) -> &'static str {
        &self.0.name
    }

    /// Queues one complete line; the final `\n` is optional. Never blocks and never fails: lost lines are
    /// counted.
    pub fn write_line(self, line: &[u8]) {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let state = &mut *lock(&self.0.state);
        let path = match &self.0.kind {
            Kind::Syslog(settings) => {
                let secs = sink::wall_secs();
                if let Err(error) = state.sender.send(settings, settings.severity, secs, line) {
                    state.lose(1, error);
                    self.0.list(state);
                }
                return;
            }
            Kind::File(path) => path,
        };
        let limit = state.options.buffer.unwrap_or(TURN_BYTES_MAX);
        if !state.lines.is_empty() && state.lines.len() + line.len() + 1 > limit {
            state.flush(path);
        }
        if state.lines.len() + line.len() + 1 > limit.max(WAITING_BYTES_MAX) && !state.lines.is_empty() {
            state.lose(1, io::ErrorKind::WouldBlock.into());
            self.0.list(state);
            return;
        }
        if state.lines.capacity() == 0 {
            state.lines = lock(&SPARE).pop().unwrap_or_default();
        }
        state.lines.extend_from_slice(line);
        state.lines.push(b'\n');
        if line.len() >= limit {
            state.flush(path);
        }
        if let (None, Some(flush_ms), Some(_)) =
            (state.write_at_ms, state.options.flush_ms, state.options.buffer)
        {
            state.write_at_ms = Some(now_ms() + flush_ms);
        }
        self.0.list(state);
    }

    /// Returns the file, and whether the current lease names it for the first time. `key`: see
    /// `Target::intern`.
    fn intern(name: &str, key: &str, kind: impl FnOnce() -> Kind, options: Options) -> (File, bool) {
        let (slot, first) = lease::intern(&SLOTS, key, || Slot {
            name: name.to_owned(),
            kind: kind(),
            marks: Mutex::default(),
            state: Mutex::new(State { options, ..State::default() }),
        });
        (File(slot), first)
    }
}

impl PartialEq for File {
    fn eq(&self, other: &File) -> bool {
        std::ptr::eq(self.0, other.0)
    }
}

impl Eq for File {}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "access::File({})", self.0.name)
    }
}

/// Writes the lines of this turn, and buffers whose `flush=` time is over. Runs at the end of each turn.
pub fn flush_turn() {
    if ANY_LISTED.load(Ordering::Relaxed) {
        flush_listed(|state, now_ms| state.is_due(now_ms));
    }
}

/// Writes everything, including buffers that are not full, before an exit.
pub fn flush_all() {
    let listed = lock(&LISTED).clone();
    for slot in &listed {
        lock(&slot.state).failed_at = None;
    }
    flush_listed(|_, _| true);
    for slot in listed {
        let count = lock(&slot.state).give_up();
        if count > 0 {
            super::macros::crit!(super::process(), &(), "{count} lines of \"{}\" lost", slot.name);
        }
    }
}

/// Milliseconds until `flush_turn` has work even if no events come: for `flush=`, and for a file to try
/// again.
pub fn due_ms() -> Option<u64> {
    if !ANY_LISTED.load(Ordering::Relaxed) {
        return None;
    }
    let now = now_ms();
    // A copy, so as not to hold both locks: `list` takes them in the other order.
    let listed = lock(&LISTED).clone();
    listed.iter().filter_map(|slot| lock(&slot.state).wake_ms(now)).min()
}

fn flush_listed(wanted: impl Fn(&State, u64) -> bool) {
    let listed = std::mem::take(&mut *lock(&LISTED));
    ANY_LISTED.store(false, Ordering::Relaxed);
    let now = now_ms();
    for slot in listed {
        let news = {
            let state = &mut *lock(&slot.state);
            state.listed = false;
            if let Kind::File(path) = &slot.kind
                && wanted(state, now)
            {
                state.flush(path);
            }
            let news = state.take_news();
            if !state.lines.is_empty() || !state.packed.bytes.is_empty() || state.lost > 0 {
                slot.list(state);
            }
            news
        };
        for news in news {
            tell(&slot.name, &news);
        }
    }
}

/// Reports an outage, or lost lines, in the process's error log.
fn tell(name: &str, news: &News) {
    let log = super::process();
    match news {
        News::Held(cause) => {
            let failed = target::failed_text(name, cause);
            super::macros::crit!(log, &(), "{failed}, its lines are held until it can be written to");
        }
        News::Lost(count, cause) => {
            super::macros::crit!(log, &(), "{}, {count} lines lost", target::failed_text(name, cause));
        }
        News::Over => super::macros::notice!(log, &(), "\"{name}\" can be written to again"),
    }
}

impl Slot {
    /// Adds the file to those with work at the end of the turn.
    fn list(&'static self, state: &mut State) {
        if !state.listed {
            state.listed = true;
            lock(&LISTED).push(self);
            ANY_LISTED.store(true, Ordering::Relaxed);
        }
    }
}

impl State {
    fn is_due(&self, now_ms: u64) -> bool {
        match self.write_at_ms {
            Some(at) => at <= now_ms,
            None => self.options.buffer.is_none(),
        }
    }

    /// Milliseconds until this file needs `flush_turn`.
    fn wake_ms(&self, now_ms: u64) -> Option<u64> {
        let write = self.write_at_ms.map(|at| at.saturating_sub(now_ms));
        let tell = (self.lost > 0).then_some(1000);
        write.into_iter().chain(tell).min()
    }

    /// Writes the collected lines. Lines that cannot be written stay and are tried again later.
    fn flush(&mut self, path: &Path) {
        self.write_at_ms = None;
        if self.lines.is_empty() && self.packed.bytes.is_empty() {
            return;
        }
        if self.failed_at.is_some_and(|second| second == sink::wall_secs()) {
            self.write_at_ms = Some(now_ms() + OUTAGE_RETRY_MS);
            return;
        }
        let Some(file) = &mut self.file else {
            let missing = io::Error::new(io::ErrorKind::NotFound, format!("{} is not open", path.display()));
            return self.fail(0, missing);
        };
        if let Some(level) = self.options.gzip {
            return self.flush_packed(level);
        }
        let mut done = 0;
        while done < self.lines.len() {
            match file.write(&self.lines[done..]) {
                Ok(0) => return self.fail(done, io::ErrorKind::WriteZero.into()),
                Ok(written) => done += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.keep_from(done);
                    self.write_at_ms = Some(now_ms() + RETRY_MS);
                    return;
                }
                Err(error) => return self.fail(done, error),
            }
        }
        self.torn = false;
        self.recover();
        self.give_back();
    }

    /// Writes the lines as a gzip member, after finishing one that was written in part.
    fn flush_packed(&mut self, level: u32) {
        loop {
            if self.packed.bytes.is_empty() {
                if self.lines.is_empty() {
                    return;
                }
                self.packed = Packed::new(&self.lines, level);
                self.give_back();
            }
            let Some(file) = &mut self.file else { return };
            match file.write(&self.packed.bytes[self.packed.done..]) {
                Ok(written) => self.packed.done += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.write_at_ms = Some(now_ms() + RETRY_MS);
                    return;
                }
                Err(error) => return self.fail(0, error),
            }
            if self.packed.done == self.packed.bytes.len() {
                self.packed = Packed::default();
                self.recover();
            }
        }
    }

    /// Switches to another file. The lines collected so far go to the old one.
    fn change_file(&mut self, path: &Path, opened: fs::File) {
        if self.file.is_some() {
            self.flush(path);
            if self.torn {
                // A line that was written in part to the old file must not continue in the new one.
                let rest =
                    self.lines.iter().position(|&byte| byte == b'\n').map_or(self.lines.len(), |at| at + 1);
                self.lines.drain(..rest);
            }
            if self.packed.done > 0 {
                self.lost += std::mem::take(&mut self.packed).lines;
            }
        }
        self.file = Some(opened);
        (self.torn, self.failed_at, self.write_at_ms) = (false, None, None);
    }

    /// Whether byte `done` of `lines` is inside a line that has been written in part.
    fn is_torn(&self, done: usize) -> bool {
        if done == 0 { self.torn } else { self.lines[done - 1] != b'\n' }
    }

    /// Drops the first `done` bytes, which have been written.
    fn keep_from(&mut self, done: usize) {
        self.torn = self.is_torn(done);
        self.lines.drain(..done);
    }

    /// Notes a failed write: the bytes from `done` on are still held.
    fn fail(&mut self, done: usize, cause: io::Error) {
        self.keep_from(done);
        self.failed_at = Some(sink::wall_secs());
        self.write_at_ms = Some(now_ms() + OUTAGE_RETRY_MS);
        self.cause = Some(cause);
        self.outage = match self.outage {
            Outage::None | Outage::Untold => Outage::Untold,
            Outage::Told | Outage::Over => Outage::Told,
        };
    }

    /// Notes a successful write.
    fn recover(&mut self) {
        self.failed_at = None;
        self.outage = match self.outage {
            Outage::None | Outage::Untold => Outage::None,
            Outage::Told | Outage::Over => Outage::Over,
        };
    }

    fn lose(&mut self, lines: u64, cause: io::Error) {
        self.lost += lines;
        if self.outage == Outage::None {
            self.cause = Some(cause);
        }
    }

    /// The reports that are due: counts of lost lines at most once a second, and less often during an outage.
    fn take_news(&mut self) -> Vec<News> {
        let mut news = Vec::new();
        let cause = |state: &mut Self| {
            let cause = state.cause.as_ref().and_then(io::Error::raw_os_error);
            io::Error::from_raw_os_error(cause.unwrap_or(libc::ENOSPC))
        };
        let second = sink::wall_secs();
        if self.outage == Outage::Untold {
            self.outage = Outage::Told;
            self.told_at = second;
            news.push(News::Held(cause(self)));
        }
        let pause = if self.outage == Outage::Told { TELL_S } else { 1 };
        if self.lost > 0 && second.saturating_sub(self.told_at) >= pause {
            self.told_at = second;
            news.push(News::Lost(std::mem::take(&mut self.lost), cause(self)));
        }
        if self.outage == Outage::Over {
            self.outage = Outage::None;
            news.push(News::Over);
        }
        news
    }

    /// Counts the lines that never reached the file: those lost and those still held.
    fn give_up(&mut self) -> u64 {
        let held = self.lines.iter().filter(|&&byte| byte == b'\n').count() as u64;
        std::mem::take(&mut self.lost) + held + self.packed.lines
    }

    /// Returns the emptied buffer to the pool for other files; a file with `buffer=` keeps its own.
    fn give_back(&mut self) {
        self.lines.clear();
        if self.options.buffer.is_none() {
            let buffer = std::mem::take(&mut self.lines);
            let mut spare = lock(&SPARE);
            if spare.len() < SPARE_MAX && buffer.capacity() <= 2 * TURN_BYTES_MAX {
                spare.push(buffer);
            }
        }
    }
}

impl Packed {
    fn new(lines: &[u8], level: u32) -> Self {
        let bytes = gzip::encode(lines, level as u8);
        Self { bytes, done: 0, lines: lines.iter().filter(|&&byte| byte == b'\n').count() as u64 }
    }
}

impl Held for Slot {
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
        let state = &mut *lock(&self.state);
        let Kind::File(path) = &self.kind else {
            state.sender.close();
            return Ok(());
        };
        let opened = file::append_for(path, owner)?;
        state.change_file(path, opened);
        Ok(())
    }

    fn close(&self) {
        let state = &mut *lock(&self.state);
        if let Kind::File(path) = &self.kind {
            state.flush(path);
        }
        *state = State { options: state.options, listed: state.listed, ..State::default() };
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
        if let (Some(opened), Kind::File(path)) = (state.staged.take(), &self.kind) {
            state.change_file(path, opened);
        }
        state.options = state.staged_options.take().unwrap_or(state.options);
        state.sender.close();
    }

    fn drop_staged(&self) {
        let state = &mut *lock(&self.state);
        (state.staged, state.staged_options) = (None, None);
    }

    fn descriptors(&self) -> Vec<RawFd> {
        let state = lock(&self.state);
        let files = [&state.file, &state.staged].into_iter().flatten().map(AsRawFd::as_raw_fd);
        files.chain(state.sender.descriptor()).collect()
    }
}

#[cfg(test)]
impl File {
    fn waiting(self) -> (usize, u64) {
        let state = lock(&self.0.state);
        (state.lines.len(), state.lost)
    }
}

#[cfg(test)]
#[path = "access_tests.rs"]
mod tests;
