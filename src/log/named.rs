//! Access logs whose name contains variables: opened for each line, or kept open for a while.
//!
//! Touches: the file system, immediately for each line, since such logs are not buffered.
//! Truth: nginx.org, ngx_http_log_module, `access_log` with variables and `open_log_file_cache`.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::file;
use super::lease::{self, lock};

/// The parameters of `open_log_file_cache`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most files in the cache; the least recently used one is dropped first.
    pub count_max: usize,
    /// A file without a line for this time is dropped.
    pub inactive_ms: u64,
    /// Number of lines after which a file is kept open.
    pub uses_min: u64,
    /// Interval at which the name of an open file is checked: the file may have been moved away.
    pub valid_ms: u64,
}

/// The cache of `open_log_file_cache`. Each `access_log` block with that directive has one per worker.
#[derive(Debug)]
pub struct Cache {
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<PathBuf, Entry>,
    /// Incremented for each line; the entry with the smallest tick is the least recently used.
    tick: u64,
    swept_ms: u64,
    /// The last seen value of `lease::reopened`.
    reopened: u32,
}

#[derive(Debug)]
struct Entry {
    file: Option<File>,
    uses: u64,
    tick: u64,
    used_ms: u64,
    checked_ms: u64,
    /// The last line was written in part.
    is_torn: bool,
}

/// Appends a whole line, including its `\n`, to a file, which is created if need be.
pub fn append(path: &Path, line: &[u8]) -> io::Result<()> {
    file::write_line(&mut file::append(path)?, line, &mut false)
}

impl Cache {
    pub fn new(limits: Limits) -> Self {
        Self { limits, state: Mutex::default() }
    }

    /// Like [`append`], but keeps the file open if it is used often enough.
    pub fn append(&self, path: &Path, line: &[u8], now_ms: u64) -> io::Result<()> {
        let Limits { count_max, inactive_ms, uses_min, valid_ms } = self.limits;
        let mut state = lock(&self.state);
        let state = &mut *state;
        state.sweep(inactive_ms, now_ms);
        state.reopen(lease::reopened());
        state.tick += 1;
        let mut entry = state.entries.remove(path).unwrap_or(Entry {
            file: None,
            uses: 0,
            tick: 0,
            used_ms: now_ms,
            checked_ms: now_ms,
            is_torn: false,
        });
        if now_ms.saturating_sub(entry.checked_ms) >= valid_ms {
            entry.file = entry.file.filter(|file| is_named(file, path));
            entry.checked_ms = now_ms;
        }
        let mut file = match entry.file.take() {
            Some(file) => file,
            None => {
                entry.is_torn = false;
                file::append(path)?
            }
        };
        let written = file::write_line(&mut file, line, &mut entry.is_torn);
        entry.uses += 1;
        (entry.tick, entry.used_ms) = (state.tick, now_ms);
        entry.file = (entry.uses >= uses_min).then_some(file);
        if state.entries.len() >= count_max {
            state.forget_oldest();
        }
        state.entries.insert(path.to_owned(), entry);
        written
    }
}

impl State {
    /// Drops files that have not been used for `inactive_ms`; scans at most once a second, or once per
    /// `inactive_ms`.
    fn sweep(&mut self, inactive_ms: u64, now_ms: u64) {
        if now_ms.saturating_sub(self.swept_ms) >= inactive_ms.min(1000) {
            self.swept_ms = now_ms;
            self.entries.retain(|_, entry| now_ms.saturating_sub(entry.used_ms) < inactive_ms);
        }
    }

    /// Closes all files if the logs have been reopened meanwhile: they may have been moved away.
    fn reopen(&mut self, count: u32) {
        if std::mem::replace(&mut self.reopened, count) != count {
            self.entries.values_mut().for_each(|entry| entry.file = None);
        }
    }

    fn forget_oldest(&mut self) {
        let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.tick);
        if let Some(path) = oldest.map(|(path, _)| path.clone()) {
            self.entries.remove(&path);
        }
    }
}

/// Whether the open file is still the one with this name.
fn is_named(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { count_max: 3, inactive_ms: 20_000, uses_min: 2, valid_ms: 60_000 };

    /// Writes a line to each name in turn, at these times, and returns the number of lines in each file. For
    /// a name that ends in `!` the directory is moved away during the write, so that only an open file gets
    /// the line.
    fn counts(limits: Limits, lines: &[(&str, u64)], names: &[&str]) -> Vec<usize> {
        let dir = tempfile::tempdir().expect("a directory");
        let (folder, moved) = (dir.path().join("logs"), dir.path().join("moved"));
        fs::create_dir(&folder).expect("creates");
        let cache = Cache::new(limits);
        for (name, now_ms) in lines {
            if let Some(name) = name.strip_suffix('!') {
                fs::rename(&folder, &moved).expect("moves");
                let _ = cache.append(&folder.join(name), b"line\n", *now_ms);
                fs::rename(&moved, &folder).expect("moves back");
            } else {
                cache.append(&folder.join(name), b"line\n", *now_ms).expect("appends");
            }
        }
        let count =
            |name: &&str| fs::read_to_string(folder.join(name)).map_or(0, |text| text.lines().count());
        names.iter().map(count).collect()
    }

    #[test]
    fn what_is_used_often_enough_stays_open() {
        assert_eq!(counts(LIMITS, &[("a", 0), ("a!", 0)], &["a"]), [1], "the second line had to open it");
        assert_eq!(counts(LIMITS, &[("a", 0), ("a", 0), ("a!", 0)], &["a"]), [3]);
    }

    #[test]
    fn the_longest_unused_one_is_forgotten() {
        let lines = [("a", 0), ("a", 0), ("b", 0), ("c", 0), ("c", 0), ("d", 0), ("d", 0)];
        let again = [("a!", 0), ("b!", 0), ("c!", 0), ("d!", 0)];
        let lines = [&lines[..], &again].concat();
        assert_eq!(counts(LIMITS, &lines, &["a", "b", "c", "d"]), [2, 1, 3, 3]);
    }

    #[test]
    fn time_closes_files() {
        let once = Limits { uses_min: 1, ..LIMITS };
        assert_eq!(counts(once, &[("a", 0), ("a!", 19_999)], &["a"]), [2]);
        assert_eq!(counts(once, &[("a", 0), ("a!", 20_000)], &["a"]), [1], "inactive");
        let checked = Limits { valid_ms: 5_000, ..once };
        assert_eq!(counts(checked, &[("a", 0), ("a!", 4_999)], &["a"]), [2]);
        assert_eq!(counts(checked, &[("a", 0), ("a!", 5_000)], &["a"]), [1], "moved away");
    }

    #[test]
    fn reopening_the_logs_closes_files() {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, moved) = (dir.path().join("a.log"), dir.path().join("b.log"));
        let cache = Cache::new(Limits { uses_min: 1, ..LIMITS });
        cache.append(&path, b"one\n", 0).expect("appends");
        fs::rename(&path, &moved).expect("moves");
        let count = lease::reopened();
        lock(&cache.state).reopen(count.wrapping_sub(1));
        cache.append(&path, b"two\n", 0).expect("appends");
        assert_eq!(fs::read(&path).expect("reads"), b"two\n");
        assert_eq!(fs::read(&moved).expect("reads"), b"one\n");
    }

    #[test]
    fn without_a_cache_each_line_finds_its_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.log");
        append(&path, b"one\n").expect("appends");
        fs::rename(&path, dir.path().join("b.log")).expect("moves");
        append(&path, b"two\n").expect("appends");
        assert_eq!(fs::read(&path).expect("reads"), b"two\n");
    }
}
