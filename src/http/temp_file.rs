//! Temporary files for data that a directive sends to disk instead of memory, and their directories.
//!
//! Touches the file system, on the blocking pool if a request waits for it. The master makes the directories
//! when it opens a configuration, for the user of the workers; a directory that disappears later is made
//! again. A file has no name before it is complete, so a worker that is killed leaves none; where the file
//! system cannot do that, it has a temporary one.
//! Behaviour: nginx.org, `client_body_temp_path`, `client_body_in_file_only`.

use std::cell::Cell;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::config::{Diagnostic, Node};
use crate::log::Cause;
use crate::runtime::blocking::{self, Lane};
use crate::sys::nameless;

/// How many names in use to skip before giving up: something else is filling the directory.
const NAMES_TRIED_MAX: u64 = 1000;

/// Files of at least this length are closed on the blocking pool.
const LARGE_BYTES: u64 = 4 * 1024 * 1024;

/// A directory for temporary files, and how they are spread over subdirectories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TempPath {
    pub path: PathBuf,
    /// How many digits of a file's number name each subdirectory, from the last digits on, which are the
    /// outermost.
    levels: Vec<usize>,
}

/// Where a file is written that gets another name when it is complete.
#[derive(Clone, Debug)]
pub enum Place {
    In(&'static TempPath),
    /// Beside that name, with a dot and ten digits behind it, so that the rename stays in one file system.
    Beside(PathBuf),
}

/// Whether a file is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// It no longer has a name: nothing remains even after a crash.
    Unnamed,
    /// Its name is removed with it.
    Removed,
    /// It is kept, once [`TempFile::complete`] has been called.
    Kept,
}

/// A file that is written once, from start to end, and then read.
///
/// Used for request bodies, spilled and stored responses. Reads and writes run on the blocking pool. Dropping
/// it closes the file and removes its name unless it is complete and to be kept.
#[derive(Debug)]
pub struct TempFile {
    /// `None` only while it is being dropped.
    file: Option<Arc<File>>,
    /// Its temporary name, whether it has it or not.
    path: PathBuf,
    has_name: bool,
    length: u64,
    keep: Keep,
    is_complete: bool,
}

impl TempPath {
    /// A directory without subdirectories.
    pub fn plain(path: PathBuf) -> Self {
        Self { path, levels: Vec::new() }
    }

    /// Reads the levels of `path [level1 [level2 [level3]]]`; `path` is complete.
    pub fn read(node: &Node, path: PathBuf) -> Result<Self, Diagnostic> {
        let mut levels = Vec::new();
        for word in node.args.iter().skip(1) {
            let level = word.text.parse().ok().filter(|level| (1..=3).contains(level));
            levels.push(level.ok_or_else(|| {
                Diagnostic::error(word.span, format!("\"{}\" directive invalid value", node.name.text))
                    .help("a level is 1, 2 or 3 digits of a file's number")
            })?);
        }
        Ok(Self { path, levels })
    }

    /// The path for a number: `7/45/0000012345` below the directory, with levels 1 and 2.
    fn name(&self, number: u64) -> PathBuf {
        let digits = format!("{:010}", number % 10_000_000_000);
        let mut path = self.path.clone();
        let mut end = digits.len();
        for level in &self.levels {
            path.push(&digits[end - level..end]);
            end -= level;
        }
        path.push(digits);
        path
    }
}

impl TempFile {
    /// Creates an empty file. Errors: a message with the failed call, the file and the cause.
    pub async fn create(place: &'static TempPath, keep: Keep) -> Result<Self, String> {
        let first = next_number();
        // The whole value is built there, so that it is dropped properly if the request has ended meanwhile.
        let work = move || match keep {
            Keep::Unnamed => Self::nameless(keep, first, |number| place.name(number)),
            Keep::Removed | Keep::Kept => Self::named(keep, first, |number| place.name(number)),
        };
        blocking::run(Lane::Files, work).await
    }

    /// Creates an empty file that is kept once it has been given its final name. Before that nothing remains of it, even
    /// after a crash, where the file system can have files without names. Errors: as for [`TempFile::create`].
    pub async fn create_at(place: Place) -> Result<Self, String> {
        let first = next_number();
        blocking::run(Lane::Files, move || Self::kept(&place, first)).await
    }

    /// Appends the rest of a file, or makes it of that alone, and gives it its final name: one job for all. Returns the
    /// file, for reading, and the bytes that it takes on disk. Errors: as for [`TempFile::rename`].
    pub async fn finish(
        file: Option<Self>,
        place: Place,
        data: Vec<u8>,
        target: PathBuf,
    ) -> Result<(Self, u64), String> {
        let first = next_number();
        let work = move || {
            let mut file = match file {
                Some(file) => file,
                None => Self::kept(&place, first)?,
            };
            let why =
                |call: &str, error| format!("{call} \"{}\" failed {}", file.path.display(), Cause(&error));
            let mut opened: &File = file.file();
            opened.write_all(&data).map_err(|error| why("write()", error))?;
            let bytes = opened.metadata().map_err(|error| why("fstat()", error))?.blocks() * 512;
            file.length += data.len() as u64;
            let named = file.give_name(&target, Some(0o700));
            named.map_err(|(call, error)| {
                format!("{call} \"{}\" failed {}", target.display(), Cause(&error))
            })?;
            Ok((file, bytes))
        };
        blocking::run(Lane::Files, work).await
    }

    fn kept(place: &Place, first: u64) -> Result<Self, String> {
        match place {
            Place::In(place) => Self::nameless(Keep::Kept, first, |number| place.name(number)),
            Place::Beside(target) => Self::nameless(Keep::Kept, first, |number| beside(target, number)),
        }
    }

    fn named(keep: Keep, first: u64, name: impl Fn(u64) -> PathBuf) -> Result<Self, String> {
        let (file, path) = open(first, name)?;
        Ok(Self { file: Some(Arc::new(file)), path, has_name: true, length: 0, keep, is_complete: false })
    }

    /// A file without a name, or, where the file system has no such files, with one.
    fn nameless(keep: Keep, first: u64, name: impl Fn(u64) -> PathBuf) -> Result<Self, String> {
        let path = name(first);
        let Some(file) = open_nameless(&path) else {
            let mut file = Self::named(keep, first, name)?;
            file.has_name = !(keep == Keep::Unnamed && std::fs::remove_file(&file.path).is_ok());
            return Ok(file);
        };
        Ok(Self { file: Some(Arc::new(file)), path, has_name: false, length: 0, keep, is_complete: false })
    }

    /// Appends data; returns the vector, empty. Errors: a message with the file's name.
    ///
    /// If it is dropped while waiting, the data may or may not have been written: the file is then unusable.
    pub async fn append(&mut self, data: Vec<u8>) -> Result<Vec<u8>, String> {
        let (mut data, written) = self.write(data).await;
        written?;
        data.clear();
        Ok(data)
    }

    /// The same; returns the data, also if it could not be written: what was written before is then intact.
    pub async fn write(&mut self, data: Vec<u8>) -> (Vec<u8>, Result<(), String>) {
        let file = Arc::clone(self.file());
        let count = data.len() as u64;
        let (data, written) = blocking::run(Lane::Files, move || {
            let written = (&*file).write_all(&data);
            (data, written)
        })
        .await;
        if written.is_ok() {
            self.length += count;
        }
        let path = self.path.display();
        (data, written.map_err(|error| format!("write() \"{path}\" failed {}", Cause(&error))))
    }

    /// Marks the file as complete, so that it can be kept.
    pub fn complete(&mut self) {
        self.is_complete = true;
    }

    /// Reads up to `count` bytes from `offset` on. Errors: a message with the file's name.
    pub async fn read(&self, offset: u64, count: usize) -> Result<Vec<u8>, String> {
        let file = Arc::clone(self.file());
        let read = blocking::run(Lane::Files, move || {
            let mut data = vec![0; count];
            let count = file.read_at(&mut data, offset)?;
            data.truncate(count);
            Ok::<_, io::Error>(data)
        });
        read.await.map_err(|error| format!("pread() \"{}\" failed {}", self.path.display(), Cause(&error)))
    }

    /// Gives the file its final name, in a directory that is created if it is missing. Errors: a message; the
    /// file is gone.
    pub async fn rename(
        mut self,
        target: PathBuf,
        mode: u32,
        modified: Option<SystemTime>,
    ) -> Result<(), String> {
        let work = move || {
            let renamed = self.rename_now(&target, mode, Some(0o700), modified);
            renamed
                .map_err(|(call, error)| format!("{call} \"{}\" failed {}", target.display(), Cause(&error)))
        };
        blocking::run(Lane::Files, work).await
    }

    /// The same for a thread that may wait. `folder_mode`: a missing directory is created with these permissions.
    /// Errors: the failed call and its error.
    pub fn rename_now(
        &mut self,
        target: &Path,
        mode: u32,
        folder_mode: Option<u32>,
        modified: Option<SystemTime>,
    ) -> Result<(), (&'static str, io::Error)> {
        self.file().set_permissions(PermissionsExt::from_mode(mode)).map_err(|error| ("chmod()", error))?;
        if let Some(modified) = modified {
            self.file().set_modified(modified).map_err(|error| ("utimes()", error))?;
        }
        self.give_name(target, folder_mode)
    }

    /// Renames the file, into a directory that is created with these permissions if it is missing.
    fn give_name(
        &mut self,
        target: &Path,
        folder_mode: Option<u32>,
    ) -> Result<(), (&'static str, io::Error)> {
        if self.keep == Keep::Unnamed {
            return self.copy_to(target);
        }
        let mut moved = self.move_to(target);
        if moved.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
            && let (Some(mode), Some(folder)) = (folder_mode, target.parent())
        {
            let made = DirBuilder::new().mode(mode).recursive(true).create(folder);
            made.map_err(|error| ("mkdir()", error))?;
            moved = self.move_to(target);
        }
        self.is_complete = moved.is_ok();
        match moved {
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => self.copy_to(target),
            moved => moved.map_err(|error| ("rename() to", error)),
        }
    }

    /// Makes the target a copy of the file.
    fn copy_to(&self, target: &Path) -> Result<(), (&'static str, io::Error)> {
        let copied = replace(target, |made| {
            io::copy(&mut FromStart { file: self.file(), offset: 0 }, made)?;
            let found = self.file().metadata()?;
            made.set_permissions(found.permissions())?;
            made.set_modified(found.modified()?)
        });
        copied.map_err(|error| ("copy to", error))
    }

    /// The same file without its name, which stays with its owner.
    pub fn unnamed(&self) -> Self {
        let (file, path) = (self.file.clone(), self.path.clone());
        Self { file, path, length: self.length, keep: Keep::Unnamed, is_complete: true, has_name: false }
    }

    fn move_to(&mut self, target: &Path) -> io::Result<()> {
        if !self.has_name {
            match nameless::link(self.file(), target) {
                // The name has a file that is to be replaced, or is in another file system.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.appear()?,
                Err(error) if error.kind() == io::ErrorKind::CrossesDevices => self.appear()?,
                linked => return linked,
            }
        }
        std::fs::rename(&self.path, target)
    }

    /// Gives a file without a name its temporary one, or another if that is taken.
    fn appear(&mut self) -> io::Result<()> {
        let first = self.path.clone();
        for number in 0..NAMES_TRIED_MAX {
            let mut linked = nameless::link(self.file(), &self.path);
            if linked.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
                make_parent(&self.path);
                linked = nameless::link(self.file(), &self.path);
            }
            match linked {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    self.path = beside(&first, number);
                }
                linked => {
                    self.has_name = linked.is_ok();
                    return linked;
                }
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    pub fn len(&self) -> u64 {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Its name, even after it was removed.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn file(&self) -> &Arc<File> {
        self.file.as_ref().expect("present until it is dropped")
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.file().as_fd()
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if self.has_name && (self.keep != Keep::Kept || !self.is_complete) {
            // it may have been taken away: that is the purpose of the name
            let _ = std::fs::remove_file(&self.path);
        }
        // The last close of an unnamed file frees its blocks, which takes long if there are many.
        if self.length >= LARGE_BYTES
            && let Some(file) = self.file.take()
        {
            blocking::detach(Lane::Files, move || drop(file));
        }
    }
}

/// Reads a file whose position belongs to others.
struct FromStart<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for FromStart<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

/// A path beside a file: its name, a dot and ten digits.
fn beside(target: &Path, number: u64) -> PathBuf {
    let mut path = target.as_os_str().to_owned();
    path.push(format!(".{:010}", number % 10_000_000_000));
    path.into()
}

fn make_parent(path: &Path) -> bool {
    path.parent().is_some_and(|folder| DirBuilder::new().mode(0o700).recursive(true).create(folder).is_ok())
}

/// Creates a file that could get this name later. `None`: that fails, or the file system cannot do it.
fn open_nameless(path: &Path) -> Option<File> {
    let folder = path.parent()?;
    match nameless::create(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && make_parent(path) => {
            nameless::create(folder).ok()
        }
        created => created.ok(),
    }
}

/// Puts a new file at a path, in the place of what is there: it is written beside it first, so that nothing sees half of
/// it. Errors: those of `write`, or of the file system; nothing has changed then.
pub fn replace(target: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    // Without the target's own name, which may be as long as names can be.
    let folder = target.parent().unwrap_or(Path::new("."));
    let made = create(next_number(), |number| folder.join(format!(".{:010}", number % 10_000_000_000)));
    let (mut file, path) = made.map_err(|(_, error)| error)?;
    let written = write(&mut file).and_then(|()| std::fs::rename(&path, target));
    if written.is_err() {
        let _ = std::fs::remove_file(&path); // the first error is the one to report
    }
    written
}

/// Creates a file under the first name that is not taken, counted from `first`, in a directory that is created if it is
/// missing.
fn open(first: u64, name: impl Fn(u64) -> PathBuf) -> Result<(File, PathBuf), String> {
    let mut created = create(first, &name);
    if let Err((path, error)) = &created
        && error.kind() == io::ErrorKind::NotFound
        && make_parent(path)
    {
        created = create(first, &name);
    }
    created.map_err(|(path, error)| format!("open() \"{}\" failed {}", path.display(), Cause(&error)))
}

/// Creates a file under the first name that is not taken. Errors: the path that was tried last, and its error.
fn create(first: u64, name: impl Fn(u64) -> PathBuf) -> Result<(File, PathBuf), (PathBuf, io::Error)> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600).custom_flags(libc::O_CLOEXEC);
    for number in first..first + NAMES_TRIED_MAX {
        let path = name(number);
        match options.open(&path) {
            Ok(file) => return Ok((file, path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err((path, error)),
        }
    }
    let taken = format!("{NAMES_TRIED_MAX} names from this one on are taken");
    Err((name(first), io::Error::other(taken)))
}

/// Numbers include the process id, so that those of different workers rarely collide.
fn next_number() -> u64 {
    thread_local! {
        static NEXT: Cell<u64> = const { Cell::new(0) };
    }
    let number = NEXT.get();
    NEXT.set(number + 1);
    u64::from(std::process::id()) * 100_003 + number
}

#[cfg(test)]
mod tests {
    use crate::sys::trusted::make_directory;

    use super::*;

    #[test]
    fn levels_are_the_last_digits_of_a_number() {
        let place = |levels: &[usize]| TempPath { path: "/t".into(), levels: levels.to_vec() };
        assert_eq!(place(&[]).name(12345).to_str(), Some("/t/0000012345"));
        assert_eq!(place(&[1, 2]).name(12345).to_str(), Some("/t/5/34/0000012345"));
        assert_eq!(place(&[3, 3, 3]).name(12345).to_str(), Some("/t/345/012/000/0000012345"));
        assert_eq!(place(&[1]).name(70_000_000_001).to_str(), Some("/t/1/0000000001"));
    }

    #[test]
    fn a_name_that_is_taken_is_not_used_twice() {
        let folder = tempfile::tempdir().unwrap();
        let place = TempPath { path: folder.path().join("deep/down"), levels: vec![2] };
        let (_, first) = open(100, |number| place.name(number)).unwrap();
        let (_, second) = open(100, |number| place.name(number)).unwrap();
        assert_ne!(first, second);
        let why = open(1, |number| TempPath::plain("/proc/none".into()).name(number)).unwrap_err();
        assert!(why.starts_with("open() \"/proc/none/"), "{why}");
    }

    #[test]
    fn a_file_gets_its_name_when_it_is_complete_whatever_had_it_before() {
        let folder = tempfile::tempdir().unwrap();
        let place = TempPath { path: folder.path().join("temp"), levels: vec![1] };
        let target = folder.path().join("deep/target");
        let count = || std::fs::read_dir(folder.path().join("temp/7")).map_or(0, Iterator::count);
        for (round, text) in ["first", "second", "third"].into_iter().enumerate() {
            let mut file = TempFile::nameless(Keep::Kept, 17, |number| place.name(number)).unwrap();
            let mut opened: &File = file.file();
            opened.write_all(text.as_bytes()).unwrap();
            assert_eq!((count(), file.has_name), (usize::from(round == 2), false));
            file.give_name(&target, Some(0o700)).unwrap();
            drop(file);
            assert_eq!(std::fs::read(&target).unwrap(), text.as_bytes());
            if round == 1 {
                // The temporary name of the third is taken.
                std::fs::write(place.name(17), "").unwrap();
            }
        }
        assert_eq!(count(), 1);
        let path = place.name(17);
        drop(TempFile::nameless(Keep::Kept, 17, |_| path.clone()).unwrap());
        assert_eq!(count(), 1, "a file that was never complete takes no other with it");
    }

    #[test]
    fn a_folder_is_made_once_and_closed_to_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        make_directory(&path, None).unwrap();
        make_directory(&path, None).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        assert!(make_directory(&folder.path().join("b/c"), None).is_err());
    }
}
