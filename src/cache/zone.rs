//! One cache: the folder of its files, the names of files, its limits, and the index of its keys.
//!
//! A zone is declared by `proxy_cache_path`, and the same in all processes of a generation. Touches: nothing; the
//! index is `shm/cache_index.rs`, and the manager of the files `cache/upkeep.rs`.
//! Behaviour: nginx.org, `proxy_cache_path`.

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use crate::base::number::format_size;
use crate::cache::entry::Meta;
use crate::cache::key::Key;
use crate::cache::status::Counts;
use crate::config::Span;
use crate::shm::cache_index::{Digest, Index};
use crate::shm::cache_purges::Purges;
use crate::sys::clock;

/// The largest number of levels of folders below that of a cache.
pub const LEVELS_MAX: usize = 3;
/// The digits of a file's name.
pub const NAME_DIGITS: usize = 32;
/// The digits that follow the name and a dot in the name of a temporary file.
pub const TEMP_DIGITS: usize = 10;

/// How much is done before a pause, so that the disk has time for requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Files in one go.
    pub files: u64,
    /// The duration of one.
    pub threshold_ms: u64,
    /// The pause after it.
    pub sleep_ms: u64,
}

/// nginx's: `manager_files=100 manager_threshold=200ms manager_sleep=50ms`.
impl Default for Pace {
    fn default() -> Self {
        Self { files: 100, threshold_ms: 200, sleep_ms: 50 }
    }
}

/// Whether files that a purge with `*` removes are looked for, and how much of that is done before a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purger {
    pub is_on: bool,
    pub pace: Pace,
}

/// nginx Plus': `purger=off purger_files=10 purger_threshold=50ms purger_sleep=50ms`.
impl Default for Purger {
    fn default() -> Self {
        Self { is_on: false, pace: Pace { files: 10, threshold_ms: 50, sleep_ms: 50 } }
    }
}

/// A cache as it was declared.
#[derive(Debug)]
pub struct Settings {
    pub name: Box<str>,
    /// The absolute path, without a slash at its end.
    pub folder: PathBuf,
    /// The digits of a file's name that name each level of folders: up to three levels of 1 or 2.
    pub levels: Vec<usize>,
    /// False: a file is written beside the place where it will be; true: in the directory for temporary files.
    pub uses_temp_path: bool,
    /// Bytes of the index.
    pub keys_bytes: usize,
    pub inactive_s: u64,
    /// `None`: no limit.
    pub max_bytes: Option<u64>,
    /// 0: no limit.
    pub min_free_bytes: u64,
    pub manager: Pace,
    pub loader: Pace,
    pub purger: Purger,
    pub span: Span,
}

/// A cache with its index.
#[derive(Debug)]
pub struct Zone {
    pub settings: Settings,
    /// The name of the memory of its index.
    pub id: u64,
    /// `None` with `-t`, where nothing is served.
    pub index: Option<Index>,
    /// The purges of many keys at a time; `None` with `-t`.
    pub purges: Option<Purges>,
    pub counts: Counts,
    /// When this process last logged that the index is full; 0: never.
    told_ms: AtomicU64,
}

/// The interval at which a process logs that an index is too small.
const TOLD_EVERY_MS: u64 = 60_000;

impl Zone {
    pub fn new(
        settings: Settings,
        id: u64,
        index: Option<Index>,
        purges: Option<Purges>,
        counts: Counts,
    ) -> Self {
        Self { settings, id, index, purges, counts, told_ms: AtomicU64::new(0) }
    }

    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// True if a purge with `*` removes a response with this key and description.
    #[inline]
    pub fn is_purged(&self, key: &Key, meta: &Meta) -> bool {
        let purges = self.purges.filter(|purges| !purges.is_empty());
        purges.is_some_and(|purges| purges.cover(key.text(), meta.received_ms(), clock::wall_ms()))
    }

    /// The path of a key's file, as nginx names it: `FOLDER/c/29/b7f54b2df7773722d382f4809d65029c` with
    /// levels 1 and 2.
    pub fn file_name(&self, digest: &Digest) -> PathBuf {
        let name = hex(digest);
        let mut path = self.settings.folder.clone();
        let mut end = name.len();
        for level in &self.settings.levels {
            path.push(&name[end - level..end]);
            end -= level;
        }
        path.push(name);
        path
    }

    /// A path beside the file of a key for writing it, with `use_temp_path=off`: the name, a dot and ten digits.
    pub fn temp_name(&self, digest: &Digest, number: u64) -> PathBuf {
        let mut path = self.file_name(digest).into_os_string();
        let _ = write!(path, ".{:010}", number % 10_u64.pow(TEMP_DIGITS as u32));
        path.into()
    }

    /// The message that the index is full.
    pub fn full(&self) -> String {
        let (name, size) = (self.name(), format_size(self.settings.keys_bytes as u64));
        format!(
            "cache keys zone \"{name}\" is full, responses are removed to make room: give it more than \
             keys_zone={name}:{size}"
        )
    }

    /// True if this process is to log now that the index is full: once a minute.
    pub fn tells_full(&self, now_ms: u64) -> bool {
        let told_ms = self.told_ms.load(Relaxed);
        if told_ms != 0 && now_ms.saturating_sub(told_ms) < TOLD_EVERY_MS {
            return false;
        }
        self.told_ms.store(now_ms.max(1), Relaxed);
        true
    }
}

/// The name of a key's file: its digest in small hexadecimal digits.
pub fn hex(digest: &Digest) -> String {
    let mut name = String::with_capacity(NAME_DIGITS);
    for byte in digest {
        let _ = write!(name, "{byte:02x}");
    }
    name
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use super::*;

    /// A cache with nginx's defaults.
    pub(crate) fn settings(folder: &Path, levels: &[usize]) -> Settings {
        Settings {
            name: "pages".into(),
            folder: folder.to_owned(),
            levels: levels.to_vec(),
            uses_temp_path: true,
            keys_bytes: 1 << 20,
            inactive_s: 600,
            max_bytes: None,
            min_free_bytes: 0,
            manager: Pace::default(),
            loader: Pace::default(),
            purger: Purger::default(),
            span: Span::default(),
        }
    }

    pub(crate) fn zone_of(settings: Settings) -> &'static Zone {
        Box::leak(Box::new(Zone::new(settings, 0, None, None, Counts::default())))
    }

    #[test]
    fn files_are_named_as_nginx_names_them() {
        let digest = 0xb7f5_4b2d_f777_3722_d382_f480_9d65_029c_u128.to_be_bytes();
        let name = |levels: &[usize]| {
            let zone = zone_of(settings(Path::new("/data"), levels));
            zone.file_name(&digest).to_str().expect("text").to_owned()
        };
        // The example of its manual.
        assert_eq!(name(&[1, 2]), "/data/c/29/b7f54b2df7773722d382f4809d65029c");
        assert_eq!(name(&[]), "/data/b7f54b2df7773722d382f4809d65029c");
        assert_eq!(name(&[2, 2, 1]), "/data/9c/02/5/b7f54b2df7773722d382f4809d65029c");
        let zone = zone_of(settings(Path::new("/data"), &[1]));
        let temporary = zone.temp_name(&digest, 70_000_000_017);
        assert_eq!(temporary.to_str(), Some("/data/c/b7f54b2df7773722d382f4809d65029c.0000000017"));
    }

    #[test]
    fn a_full_index_is_told_once_a_minute() {
        let zone = zone_of(settings(Path::new("/data"), &[]));
        assert_eq!(
            [0, 1, 59_999, 60_001, 60_002].map(|ms| zone.tells_full(ms)),
            [true, false, false, true, false]
        );
        assert!(zone.full().ends_with("give it more than keys_zone=pages:1m"), "{}", zone.full());
    }
}
