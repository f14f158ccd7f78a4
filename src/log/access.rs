//! The access log's writer: complete lines, gathered in memory, one write(2) for many.
//!
//! Each process has its own buffer per file; several workers append to one file, whole lines per write (O_APPEND).
//! Without `buffer=` the lines of one loop turn are written at its end; with it when the buffer is full or `flush=`
//! is over. Nothing waits: a full disk loses whole lines, which are counted and told once a second at most.
//! Truth: nginx.org, ngx_http_log_module, `access_log`.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::file;
use super::lease::{self, Held, Interned, Owner, lock};
use super::repeat::now_ms;
use super::{drain, syslog, target};

/// Lines of one turn that are gathered before they are written without waiting for its end.
const TURN_BYTES_MAX: usize = 64 * 1024;
/// What may wait for a pipe whose reader is slow.
const WAITING_BYTES_MAX: usize = 1024 * 1024;
const RETRY_MS: u64 = 10;
/// Buffers kept for the next turn; 10,000 files share them.
const SPARE_MAX: usize = 4;

/// One access log. Copy it freely; one name is one file, opened once.
#[derive(Clone, Copy)]
pub struct File(&'static Slot);

/// `buffer=` in bytes, `flush=` in milliseconds, and the level of `gzip`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    pub buffer: Option<usize>,
    pub flush_ms: Option<u64>,
    /// 1 to 9; each buffer becomes a member of the file.
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
    sender: syslog::Sender,
    lines: Vec<u8>,
    /// `lines` begins with the rest of a line whose head is in the file.
    torn: bool,
    /// With `gzip`: a member that the file has not taken whole.
    packed: Packed,
    /// When the first of `lines` came, for `flush=`; when to try a slow pipe again.
    write_at_ms: Option<u64>,
    /// In the list of files with work at the turn's end.
    listed: bool,
    lost: u64,
    told_at: i64,
    failed_at: Option<i64>,
    cause: Option<io::Error>,
}

/// Lines as a gzip member, and how far it is written.
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
    /// The first argument of `access_log`: `syslog:…` or a path (relative to `prefix`). Opened by `Lease::open`.
    ///
    /// Errors are texts for a diagnostic: bad syslog parameters, or a `buffer=` or `flush=` unlike an earlier one of the same
    /// file under the same lease.
    pub fn declare(word: &str, prefix: &Path, options: Options) -> Result<File, String> {
        if let Some(parameters) = word.strip_prefix("syslog:") {
            if options != Options::default() {
                return Err("buffered logs cannot be sent to syslog".to_owned());
            }
            let settings = syslog::Settings::parse(parameters)?;
            return Ok(File::intern(word, || Kind::Syslog(settings), options).0);
        }
        let path = prefix.join(word);
        let (file, first) = File::intern(&path.to_string_lossy(), || Kind::File(path.clone()), options);
        let state = &mut *lock(&file.0.state);
        if first {
            state.options = options;
        } else if state.options != options {
            return Err(format!(
                "access_log \"{}\" already defined with conflicting parameters",
                file.0.name
            ));
        }
        Ok(file)
    }

    /// Declares and opens a file at once, for as long as the process lives.
    pub fn open(path: &Path, buffer: Option<usize>, flush_ms: Option<u64>) -> io::Result<File> {
        let file =
            File::declare(&path.to_string_lossy(), Path::new(""), Options { buffer, flush_ms, gzip: None })
                .map_err(io::Error::other)?;
        file.0.open(None)?;
        lease::mark_forever(file.0);
        Ok(file)
    }

    pub fn name(self) -> &'static str {
        &self.0.name
    }

    /// Takes one complete line; the `\n` at its end may be missing.
    pub fn write_line(self, line: &[u8]) {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let state = &mut *lock(&self.0.state);
        let path = match &self.0.kind {
            Kind::Syslog(settings) => {
                let secs = drain::wall_secs();
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

    /// The file and whether the current lease names it for the first time.
    fn intern(name: &str, kind: impl FnOnce() -> Kind, options: Options) -> (File, bool) {
        let (slot, first) = lease::intern(&SLOTS, name, || Slot {
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

/// Writes what the turn has gathered, and buffers whose time is over. For `runtime::at_turn_end`.
pub fn flush_turn() {
    if ANY_LISTED.load(Ordering::Relaxed) {
        flush_listed(|state, now_ms| state.is_due(now_ms));
    }
}

/// Writes everything, buffers that are not full too: before an exit.
pub fn flush_all() {
    flush_listed(|_, _| true);
}

/// Milliseconds until `flush_turn` has something to do though no turn brings it: `flush=`, a slow pipe.
pub fn due_ms() -> Option<u64> {
    if !ANY_LISTED.load(Ordering::Relaxed) {
        return None;
    }
    let now = now_ms();
    // A copy: `list` takes the two locks the other way round.
    let listed = lock(&LISTED).clone();
    listed.iter().filter_map(|slot| lock(&slot.state).wake_ms(now)).min()
}

fn flush_listed(wanted: impl Fn(&State, u64) -> bool) {
    let listed = std::mem::take(&mut *lock(&LISTED));
    ANY_LISTED.store(false, Ordering::Relaxed);
    let now = now_ms();
    for slot in listed {
        let told = {
            let state = &mut *lock(&slot.state);
            state.listed = false;
            if let Kind::File(path) = &slot.kind
                && wanted(state, now)
            {
                state.flush(path);
            }
            let told = state.take_loss();
            if !state.lines.is_empty() || !state.packed.bytes.is_empty() || state.lost > 0 {
                slot.list(state);
            }
            told
        };
        if let Some((lost, cause)) = told {
            tell(&slot.name, lost, &cause);
        }
    }
}

/// Says in the process's error log that lines were lost. F9's disk is full for hours: one line a second at most.
fn tell(name: &str, lost: u64, cause: &io::Error) {
    let logger = super::process();
    super::macros::crit!(logger, &(), "{}, {lost} lines lost", target::failed_text(name, cause));
}

impl Slot {
    /// Notes work for the turn's end.
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

    /// Milliseconds until this file wants `flush_turn`.
    fn wake_ms(&self, now_ms: u64) -> Option<u64> {
        let write = self.write_at_ms.map(|at| at.saturating_sub(now_ms));
        let tell = (self.lost > 0).then_some(1000);
        write.into_iter().chain(tell).min()
    }

    /// Writes the gathered lines. What cannot be written is lost, as whole lines; the rest of a line
    /// that was begun stays and goes first the next time.
    fn flush(&mut self, path: &Path) {
        self.write_at_ms = None;
        if self.lines.is_empty() && self.packed.bytes.is_empty() {
            return;
        }
        if self.failed_at.is_some_and(|second| second == drain::wall_secs()) {
            return self.drop_lines(0, None);
        }
        let Some(file) = &mut self.file else {
            let missing = io::Error::new(io::ErrorKind::NotFound, format!("{} is not open", path.display()));
            return self.drop_lines(0, Some(missing));
        };
        if let Some(level) = self.options.gzip {
            return self.flush_packed(level);
        }
        let mut done = 0;
        while done < self.lines.len() {
            match file.write(&self.lines[done..]) {
                Ok(0) => return self.drop_lines(done, Some(io::ErrorKind::WriteZero.into())),
                Ok(written) => done += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.torn = self.is_torn(done);
                    self.lines.drain(..done);
                    self.write_at_ms = Some(now_ms() + RETRY_MS);
                    return;
                }
                Err(error) => {
                    self.failed_at = Some(drain::wall_secs());
                    return self.drop_lines(done, Some(error));
                }
            }
        }
        (self.torn, self.failed_at) = (false, None);
        self.give_back();
    }

    /// Writes the lines as a gzip member; one that was begun goes first.
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
                Err(error) => {
                    self.failed_at = Some(drain::wall_secs());
                    if self.packed.done == 0 {
                        let lines = std::mem::take(&mut self.packed).lines;
                        self.lose(lines, error);
                    } else {
                        // Half a member would hide all that follow: its rest is tried again.
                        self.cause = Some(error);
                        self.write_at_ms = Some(now_ms() + 1000);
                    }
                    return;
                }
            }
            if self.packed.done == self.packed.bytes.len() {
                self.packed = Packed::default();
                self.failed_at = None;
            }
        }
    }

    /// Whether byte `done` of `lines` is within a line of which a part is in the file.
    fn is_torn(&self, done: usize) -> bool {
        if done == 0 { self.torn } else { self.lines[done - 1] != b'\n' }
    }

    /// Drops the lines from byte `done` on, but for the rest of a torn one.
    fn drop_lines(&mut self, done: usize, cause: Option<io::Error>) {
        let torn = self.is_torn(done);
        let rest = &self.lines[done..];
        let keep = if torn {
            rest.iter().position(|&byte| byte == b'\n').map_or(rest.len(), |at| at + 1)
        } else {
            0
        };
        let lost = rest[keep..].iter().filter(|&&byte| byte == b'\n').count() as u64;
        if keep == 0 {
            self.give_back();
        } else {
            self.lines.drain(..done);
            self.lines.truncate(keep);
            // Not tried again before the second of the failure is over.
            self.write_at_ms = Some(now_ms() + 1000);
        }
        self.torn = torn;
        self.lost += lost;
        if let Some(cause) = cause {
            self.cause = Some(cause);
        }
    }

    fn lose(&mut self, lines: u64, cause: io::Error) {
        self.lost += lines;
        self.cause = Some(cause);
    }

    /// The count to tell now, if a second has passed since the last.
    fn take_loss(&mut self) -> Option<(u64, io::Error)> {
        if self.lost == 0 {
            return None;
        }
        let second = drain::wall_secs();
        if self.told_at == second {
            return None;
        }
        self.told_at = second;
        let cause = self.cause.take().unwrap_or_else(|| io::Error::from_raw_os_error(libc::ENOSPC));
        Some((std::mem::take(&mut self.lost), cause))
    }

    /// Gives the emptied buffer to the next file that has a line; one with `buffer=` keeps its own.
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
        let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
        // Neither can fail: they write to memory.
        let bytes = encoder.write_all(lines).and_then(|()| encoder.finish()).unwrap_or_default();
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
        if state.file.is_some() {
            state.flush(path);
            if !state.lines.is_empty() {
                // The rest of a torn line, or what a slow pipe did not take: it belongs to the old file alone.
                let lines = state.lines.iter().filter(|&&byte| byte == b'\n').count() as u64;
                state.lost += lines - u64::from(state.torn).min(lines);
                state.give_back();
            }
            state.lost += std::mem::take(&mut state.packed).lines;
        }
        state.file = Some(opened);
        (state.torn, state.failed_at, state.write_at_ms) = (false, None, None);
        Ok(())
    }

    fn close(&self) {
        let state = &mut *lock(&self.state);
        if let Kind::File(path) = &self.kind {
            state.flush(path);
        }
        *state = State { options: state.options, listed: state.listed, ..State::default() };
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
