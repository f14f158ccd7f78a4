//! The pid file: text, replaced by rename, protected by a lock that is held for life.
//!
//! The lock is a separate file next to it, so that the pid file can be renamed during an upgrade; the new
//! master inherits the locked descriptor (flock(2) belongs to the open file).

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use crate::log::Cause;
use crate::master::problem;
use crate::sys::process;
use crate::sys::trusted::Place;

#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    lock: File,
    is_moved: bool,
    /// The lock belongs to the master that has started this one.
    is_inherited: bool,
}

impl PidFile {
    /// Takes the lock. Fails with a message if the file's directory is missing, a running process holds the
    /// lock, or the path is something that must not be replaced.
    pub fn claim(path: &Path) -> Result<Self, String> {
        if let Some(why) = problem::unusable_pid(path) {
            return Err(why);
        }
        let name = with_suffix(path, ".lock");
        let failed = |error| format!("open() \"{}\" failed {}", name.display(), Cause(&error));
        let place = Place::of(&name).map_err(failed)?;
        loop {
            let lock = place.open_or_create(OFlag::O_RDWR | OFlag::O_NONBLOCK, 0o644).map_err(failed)?.file;
            if lock.try_lock().is_err() {
                let holder = read(path).map_or(String::new(), |pid| format!(" (process {pid})"));
                return Err(format!("\"{}\" belongs to a pronghorn that runs{holder}", path.display()));
            }
            // A process that left in between may have removed the file that we have locked.
            let is_same = place.inode().and_then(|inode| Ok(inode == lock.metadata()?.ino()));
            if is_same.unwrap_or(false) {
                return Ok(Self { path: path.into(), lock, is_moved: false, is_inherited: false });
            }
        }
    }

    /// Takes over the lock of the master that has started this one.
    pub fn inherited(path: &Path, lock: OwnedFd) -> Self {
        Self { path: path.into(), lock: lock.into(), is_moved: false, is_inherited: true }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn lock(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }

    /// Writes this process's id: into a new file, which then takes the name.
    pub fn write(&self) -> io::Result<()> {
        let place = Place::of(&self.path)?;
        let fresh = place.beside(".new")?;
        let _ = fresh.remove(); // of a process that was killed at this point
        let mut file = fresh.create(OFlag::O_WRONLY, 0o644)?;
        let outcome = writeln!(file, "{}", process::pid()).and_then(|()| fresh.rename_to(&place));
        outcome.inspect_err(|_| drop(fresh.remove()))
    }

    /// Makes room for the pid file of a new binary: `pid` becomes `pid.oldbin`.
    pub fn move_away(&mut self) -> io::Result<()> {
        let place = Place::of(&self.path)?;
        place.rename_to(&place.beside(".oldbin")?)?;
        self.is_moved = true;
        Ok(())
    }

    pub fn move_back(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.is_moved, false) {
            let place = Place::of(&self.path)?;
            place.beside(".oldbin")?.rename_to(&place)?;
        }
        Ok(())
    }

    /// Removes the traces of a start that failed.
    pub fn give_up(&self) {
        self.remove(self.is_inherited);
    }

    /// Removes the file if it still names this process; the lock too, unless another master shares it.
    pub fn remove(&self, is_lock_shared: bool) {
        let path = if self.is_moved { with_suffix(&self.path, ".oldbin") } else { self.path.clone() };
        if read(&path) == Some(process::pid()) {
            remove(&path);
        }
        if !is_lock_shared {
            remove(&with_suffix(&self.path, ".lock"));
        }
    }
}

fn remove(path: &Path) {
    let _ = Place::of(path).and_then(|place| place.remove());
}

/// True if a pid file was left by a process that is gone, and its number now belongs to another one: a
/// process of another name, while no master holds the file's lock.
pub fn is_left_behind(path: &Path, pid: i32) -> bool {
    let name = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/comm")).ok();
    let (Some(theirs), Some(ours)) = (name(&pid.to_string()), name("self")) else { return false };
    let is_free =
        || File::open(with_suffix(path, ".lock")).map_or(true, |lock| lock.try_lock_shared().is_ok());
    theirs != ours && is_free()
}

/// The process id in a pid file.
pub fn read(path: &Path) -> Option<i32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok().filter(|pid| *pid > 0)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_holds_it_and_leaves_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("p.pid");
        let mut first = PidFile::claim(&path).expect("free");
        first.write().expect("writes");
        assert_eq!(read(&path), Some(process::pid()));
        let refusal = PidFile::claim(&path).expect_err("held");
        assert!(refusal.contains(&process::pid().to_string()), "{refusal}");
        first.move_away().expect("renames");
        assert_eq!(read(&path), None);
        first.move_back().expect("renames");
        assert_eq!(read(&path), Some(process::pid()));
        first.remove(false);
        drop(first);
        assert_eq!(std::fs::read_dir(folder.path()).expect("reads").count(), 0);
        assert!(PidFile::claim(&path).is_ok());
    }

    #[test]
    fn a_number_that_means_another_process_by_now_is_seen() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("p.pid");
        let mut other = std::process::Command::new("sleep").arg("60").spawn().expect("it runs");
        let pid = other.id() as i32;
        let name = || std::fs::read_to_string(format!("/proc/{pid}/comm")).expect("it lives");
        while name().trim() != "sleep" {
            std::thread::yield_now();
        }
        assert!(is_left_behind(&path, pid), "no lock");
        let file = PidFile::claim(&path).expect("free");
        assert!(!is_left_behind(&path, pid), "a master of any name holds the lock");
        drop(file);
        assert!(is_left_behind(&path, pid));
        assert!(!is_left_behind(&path, process::pid()), "a process of our name");
        other.kill().expect("it lives");
        other.wait().expect("it ends");
        assert!(!is_left_behind(&path, pid), "nobody: the signal finds that out");
    }

    #[test]
    fn a_file_that_names_another_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("p.pid");
        let file = PidFile::claim(&path).expect("free");
        std::fs::write(&path, "1\n").expect("writes");
        file.remove(true);
        assert_eq!(read(&path), Some(1));
        assert!(
            PidFile::claim(&folder.path().join("none/p.pid")).expect_err("no folder").contains("(2: No such")
        );
    }
}
