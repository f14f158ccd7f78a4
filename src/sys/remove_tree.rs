//! Removes a directory with everything in it, however deep it is.
//!
//! Touches: the file system. Clients of WebDAV can nest directories deeper than any path is long, by moving one deep
//! tree into another. `std::fs::remove_dir_all` calls itself for each level, with an open directory each: enough levels
//! overflow the stack of its thread, and end the process. Here at most [`LEVELS_MAX`] directories are open: what lies
//! deeper is first moved up to the top of the tree. Links are removed, never followed, also if one takes the place of
//! a directory meanwhile.
//! Truth: openat(2), unlinkat(2), renameat(2).

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::dir::{Dir, OwningIter, Type};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

/// Directories that are open at a time. Each takes two descriptors, and 32 KB of libc's.
const LEVELS_MAX: usize = 32;

const FLAGS: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// A directory that is being emptied.
struct Level {
    /// Its name in the directory around it.
    name: CString,
    folder: OwnedFd,
    entries: OwningIter,
}

impl Level {
    fn new(name: CString, folder: OwnedFd) -> io::Result<Self> {
        let entries = Dir::openat(&folder, ".", FLAGS, Mode::empty())?.into_iter();
        Ok(Self { name, folder, entries })
    }
}

/// Removes the directory at `path`, which has no slash at its end. Entries that others remove meanwhile are no error.
///
/// Errors: those of the system calls; `DirectoryNotEmpty` if others add entries meanwhile. Part of the tree may be gone
/// then, and directories of it may have moved up within it.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let top = open(path, FLAGS, Mode::empty())?;
    // The number in the name of the next directory that is moved up.
    let mut number = 0;
    while empty(&top, &mut number)? {}
    std::fs::remove_dir(path)
}

/// Removes the entries of a directory. True: other directories have been moved up into it meanwhile.
fn empty(top: &OwnedFd, number: &mut u64) -> io::Result<bool> {
    let mut has_moved = false;
    let mut levels = vec![Level::new(CString::default(), top.try_clone()?)?];
    loop {
        let is_full = levels.len() == LEVELS_MAX;
        let Some(level) = levels.last_mut() else { return Ok(has_moved) };
        let Some(entry) = level.entries.next() else {
            let name = levels.pop().map(|level| level.name);
            if let (Some(name), Some(around)) = (name, levels.last()) {
                gone(unlinkat(&around.folder, &*name, UnlinkatFlags::RemoveDir))?;
            }
            continue;
        };
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if entry.file_type() != Some(Type::Directory) {
            match gone(unlinkat(&level.folder, name, UnlinkatFlags::NoRemoveDir)) {
                Err(Errno::EISDIR) => {} // the file system does not tell types
                removed => {
                    removed?;
                    continue;
                }
            }
        }
        if is_full {
            move_up(&level.folder, name, top, number)?;
            has_moved = true;
            continue;
        }
        match openat(&level.folder, name, FLAGS, Mode::empty()) {
            Ok(folder) => levels.push(Level::new(name.to_owned(), folder)?),
            Err(Errno::ENOENT) => {}
            // A link or a file has taken its place.
            Err(Errno::ELOOP | Errno::ENOTDIR) => {
                gone(unlinkat(&level.folder, name, UnlinkatFlags::NoRemoveDir))?
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Moves a directory to the top, under the first name from `number` on that is not taken.
fn move_up(folder: &OwnedFd, name: &CStr, top: &OwnedFd, number: &mut u64) -> io::Result<()> {
    loop {
        let target = format!(".removed.{number}");
        *number += 1;
        match renameat(folder, name, top, target.as_str()) {
            // An empty directory of this name was replaced, which does no harm here.
            Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::ENOTDIR) => {}
            moved => return Ok(gone(moved)?),
        }
    }
}

/// Takes what is not there for removed.
fn gone(result: nix::Result<()>) -> nix::Result<()> {
    match result {
        Err(Errno::ENOENT) => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use nix::sys::stat::mkdirat;

    use super::*;

    /// Makes directories inside each other, the innermost one with a file.
    fn nest(path: &Path, depth: usize) {
        fs::create_dir(path).expect("the folder is ours");
        let mut folder = open(path, FLAGS, Mode::empty()).expect("it was made");
        for _ in 0..depth {
            mkdirat(&folder, "d", Mode::S_IRWXU).expect("made");
            folder = openat(&folder, "d", FLAGS, Mode::empty()).expect("it was made");
        }
        openat(&folder, "file", OFlag::O_CREAT | OFlag::O_WRONLY, Mode::S_IRWXU).expect("made");
    }

    #[test]
    fn a_tree_deeper_than_any_path_is_removed_on_a_small_stack() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let path = root.path().join("tree");
        nest(&path, 2500); // 256 KB are too little for 2,000 calls of `remove_dir_all`
        // Names that are taken, by a directory with an entry, an empty one and a file.
        fs::create_dir_all(path.join(".removed.0/x")).expect("made");
        fs::create_dir(path.join(".removed.1")).expect("made");
        fs::write(path.join(".removed.2"), "").expect("written");
        let work = move || (remove_tree(&path).map_err(|error| error.to_string()), path.exists());
        let thread = std::thread::Builder::new().stack_size(256 * 1024).spawn(work).expect("a thread");
        assert_eq!(thread.join().expect("no panic"), (Ok(()), false));
    }

    #[test]
    fn links_are_removed_and_not_followed() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let (kept, path) = (root.path().join("kept"), root.path().join("tree"));
        fs::create_dir(&kept).expect("made");
        fs::write(kept.join("file"), "text").expect("written");
        fs::create_dir_all(path.join("a/b")).expect("made");
        for link in [path.join("link"), path.join("a/b/link")] {
            symlink(&kept, link).expect("made");
        }
        symlink(&path, root.path().join("to")).expect("made");
        assert!(remove_tree(&root.path().join("to")).is_err(), "the tree itself is no link");
        remove_tree(&path).expect("removed");
        assert!(!path.exists() && kept.join("file").exists());
    }
}
