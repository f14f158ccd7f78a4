//! Finding the files of a cache that were there before this start.
//!
//! Touches: the folder of the cache. Reads names and sizes only. A folder is entered if its name fits the levels of the
//! cache, and no symbolic link is followed; a file counts if its name is the one that its key would have. Other files
//! stay as they are, except temporary files that a process left behind a day ago or earlier.
//! Behaviour: nginx.org, `proxy_cache_path`: `loader_files`, `loader_threshold`, `loader_sleep`.

use std::fs::{DirEntry, ReadDir};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use crate::base::number::hex_digit;
use crate::cache::purge_file;
use crate::cache::zone::{NAME_DIGITS, Pace, TEMP_DIGITS, Zone};
use crate::shm::cache_index::Digest;

/// The age at which the process that wrote a temporary file has certainly given it up.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// A walk through the folder of a cache, in steps.
#[derive(Debug)]
pub struct Walk {
    zone: &'static Zone,
    /// The folders that are open, the outermost first.
    open: Vec<ReadDir>,
    pub counts: Counts,
}

/// The things that a walk has come across.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub files: u64,
    pub bytes: u64,
    /// Abandoned temporary files, which were removed.
    pub abandoned: u64,
    /// Files and folders that are not the cache's.
    pub strange: u64,
    /// The first call that failed, with its path.
    pub failed: Option<String>,
}

/// The kind of file that a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    File(Digest),
    Temporary,
    Other,
}

impl Walk {
    /// Errors: those of opendir(3).
    pub fn begin(zone: &'static Zone) -> io::Result<Self> {
        let open = vec![std::fs::read_dir(&zone.settings.folder)?];
        Ok(Self { zone, open, counts: Counts::default() })
    }

    /// Goes on until the pace asks for a pause, and calls `found` with each file and the bytes that it takes on disk.
    /// True at the end.
    pub fn step(&mut self, pace: &Pace, mut found: impl FnMut(&Digest, u64)) -> bool {
        let began = Instant::now();
        let threshold = Duration::from_millis(pace.threshold_ms);
        for count in 1.. {
            let Some(folder) = self.open.last_mut() else { return true };
            match folder.next() {
                None => _ = self.open.pop(),
                // If it fails for one it fails for all that follow: readdir(3) has no place to go on from.
                Some(Err(error)) => {
                    self.fail("readdir()", self.zone.settings.folder.clone(), &error);
                    self.open.pop();
                }
                Some(Ok(entry)) => self.look_at(&entry, &mut found),
            }
            if count >= pace.files || began.elapsed() >= threshold {
                break;
            }
        }
        self.open.is_empty()
    }

    fn look_at(&mut self, entry: &DirEntry, found: &mut impl FnMut(&Digest, u64)) {
        let Ok(kind) = entry.file_type() else { return };
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        let depth = self.open.len() - 1;
        if depth == 0 && purge_file::is_ours(name) {
            if purge_file::is_temporary(name) {
                self.remove_abandoned(entry);
            }
            return;
        }
        if let Some(digits) = self.zone.settings.levels.get(depth) {
            if !kind.is_dir() || name.len() != *digits || !name.iter().all(is_digit) {
                self.counts.strange += 1;
                return;
            }
            match std::fs::read_dir(entry.path()) {
                Ok(folder) => self.open.push(folder),
                Err(error) => self.fail("opendir()", entry.path(), &error),
            }
            return;
        }
        match read_name(name) {
            _ if !kind.is_file() => self.counts.strange += 1,
            Name::File(digest) if entry.path() == self.zone.file_name(&digest) => {
                // It may just have been removed.
                let Ok(there) = entry.metadata() else { return };
                let bytes = there.blocks() * 512;
                self.counts.files += 1;
                self.counts.bytes += bytes;
                found(&digest, bytes);
            }
            Name::Temporary => self.remove_abandoned(entry),
            Name::File(_) | Name::Other => self.counts.strange += 1,
        }
    }

    fn remove_abandoned(&mut self, entry: &DirEntry) {
        if is_abandoned(entry) && std::fs::remove_file(entry.path()).is_ok() {
            self.counts.abandoned += 1;
        }
    }

    fn fail(&mut self, call: &str, path: PathBuf, error: &io::Error) {
        let failed = &mut self.counts.failed;
        failed.get_or_insert_with(|| {
            format!("{call} \"{}\" failed {}", path.display(), crate::log::Cause(error))
        });
    }
}

fn is_digit(byte: &u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(byte)
}

/// `b7f54b2df7773722d382f4809d65029c` is a file, and the same with `.0000000017` a temporary one.
fn read_name(name: &[u8]) -> Name {
    let Some((hex, end)) = name.split_at_checked(NAME_DIGITS) else { return Name::Other };
    if !hex.iter().all(is_digit) {
        return Name::Other;
    }
    if !end.is_empty() {
        let is_temporary =
            end.len() == 1 + TEMP_DIGITS && end[0] == b'.' && end[1..].iter().all(u8::is_ascii_digit);
        return if is_temporary { Name::Temporary } else { Name::Other };
    }
    let mut digest = Digest::default();
    for (byte, pair) in digest.iter_mut().zip(hex.chunks_exact(2)) {
        let digit = |at: usize| hex_digit(pair[at]).unwrap_or(0);
        *byte = digit(0) << 4 | digit(1);
    }
    Name::File(digest)
}

fn is_abandoned(entry: &DirEntry) -> bool {
    let changed = entry.metadata().and_then(|there| there.modified());
    let age = changed.ok().and_then(|changed| SystemTime::now().duration_since(changed).ok());
    age.is_some_and(|age| age >= ABANDONED)
}

#[cfg(test)]
mod tests {
    use std::fs::{create_dir_all, write};
    use std::path::Path;

    use super::*;
    use crate::cache::zone::tests::{settings, zone_of};

    const KEY: &str = "b7f54b2df7773722d382f4809d65029c";

    fn walk(zone: &'static Zone, pace: &Pace) -> (Vec<Digest>, Counts, usize) {
        let (mut found, mut steps) = (Vec::new(), 1);
        let mut walk = Walk::begin(zone).expect("there");
        while !walk.step(pace, |digest, _| found.push(*digest)) {
            steps += 1;
        }
        (found, walk.counts, steps)
    }

    fn put(folder: &Path, path: &str, age: Duration) {
        let path = folder.join(path);
        create_dir_all(path.parent().expect("has a folder")).expect("made");
        write(&path, "x").expect("written");
        let file = std::fs::File::options().write(true).open(&path).expect("opens");
        file.set_modified(SystemTime::now() - age).expect("set");
    }

    #[test]
    fn files_count_under_the_name_of_their_key_only() {
        let folder = tempfile::tempdir().expect("made");
        let now = Duration::ZERO;
        put(folder.path(), &format!("c/29/{KEY}"), now);
        put(folder.path(), &format!("c/28/{KEY}"), now);
        put(folder.path(), &format!("c/29/{KEY}.0000000001"), now);
        put(folder.path(), &format!("c/29/{KEY}.0000000002"), ABANDONED);
        put(folder.path(), &format!("c/29/{KEY}.000000000x"), ABANDONED);
        put(folder.path(), &format!("c/29/{}", KEY.to_uppercase()), ABANDONED);
        put(folder.path(), &format!("temp/29/{KEY}"), now);
        put(folder.path(), KEY, now);
        put(folder.path(), "notes", ABANDONED);
        put(folder.path(), ".purges", ABANDONED);
        put(folder.path(), ".purges.7", now);
        put(folder.path(), ".purges.8", ABANDONED);
        std::os::unix::fs::symlink(folder.path().join("c"), folder.path().join("d")).expect("linked");
        let zone = zone_of(settings(folder.path(), &[1, 2]));
        let (found, counts, _) = walk(zone, &Pace::default());
        assert_eq!(found.iter().map(crate::cache::zone::hex).collect::<Vec<_>>(), [KEY]);
        assert_eq!((counts.files, counts.abandoned, counts.strange, counts.failed), (1, 2, 7, None));
        assert!(counts.bytes.is_multiple_of(512));
        assert!(folder.path().join("notes").exists() && folder.path().join(format!("c/28/{KEY}")).exists());
        assert!(!folder.path().join(format!("c/29/{KEY}.0000000002")).exists());
        let is_there = [".purges", ".purges.7", ".purges.8"].map(|name| folder.path().join(name).exists());
        assert_eq!(is_there, [true, true, false]);
    }

    #[test]
    fn a_walk_pauses_after_so_many_files() {
        let folder = tempfile::tempdir().expect("made");
        for number in 0..10 {
            put(folder.path(), &format!("{number:032x}"), Duration::ZERO);
        }
        let zone = zone_of(settings(folder.path(), &[]));
        let (found, _, steps) = walk(zone, &Pace { files: 3, ..Pace::default() });
        assert_eq!((found.len(), steps), (10, 4));
        let (found, _, steps) = walk(zone, &Pace { files: 0, threshold_ms: 0, sleep_ms: 0 });
        assert_eq!(found.len(), 10, "{steps} steps of at least one file");
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        let folder = tempfile::tempdir().expect("made");
        assert!(Walk::begin(zone_of(settings(&folder.path().join("none"), &[]))).is_err());
    }
}
