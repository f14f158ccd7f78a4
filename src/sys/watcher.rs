//! Events of files: which of a set of paths may lead to other contents now.
//!
//! A path is watched at every symbolic link on its way as well as at its end, each in the directory that names
//! it: renaming into place, switching a link and writing in place are all seen. A directory that is itself
//! renamed away is not. Truth: inotify(7), path_resolution(7).

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Component, Path, PathBuf};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

/// The most symbolic links on the way of one path, as in the kernel.
const LINKS_MAX: usize = 40;
/// The most reads of events in one go; others wait for the next one.
const READS_MAX: usize = 64;

/// The descriptor of the events, and the names that matter in each watched directory.
#[derive(Debug)]
pub struct Watcher {
    inotify: Inotify,
    names: HashMap<WatchDescriptor, HashSet<OsString>>,
}

impl Watcher {
    pub fn new() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        Ok(Self { inotify, names: HashMap::new() })
    }

    /// Watches these absolute paths, and no others. Directories that do not exist are left out.
    ///
    /// Errors: the first other reason why a directory cannot be watched; all others are watched nevertheless.
    pub fn set<'a>(&mut self, paths: impl Iterator<Item = &'a Path>) -> Result<(), (PathBuf, io::Error)> {
        let mut folders: HashMap<PathBuf, HashSet<OsString>> = HashMap::new();
        for (folder, name) in paths.flat_map(steps) {
            folders.entry(folder).or_default().insert(name);
        }
        let events = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_ONLYDIR;
        let mut failure = Ok(());
        let mut names: HashMap<WatchDescriptor, HashSet<OsString>> = HashMap::new();
        for (folder, wanted) in folders {
            match self.inotify.add_watch(&folder, events) {
                // Two paths may lead to one directory, which has one descriptor.
                Ok(watch) => names.entry(watch).or_default().extend(wanted),
                Err(nix::Error::ENOENT | nix::Error::ENOTDIR) => {}
                Err(error) if failure.is_ok() => failure = Err((folder, error.into())),
                Err(_) => {}
            }
        }
        for watch in self.names.keys().filter(|watch| !names.contains_key(watch)) {
            let _ = self.inotify.rm_watch(*watch); // it may be gone with its directory
        }
        self.names = names;
        failure
    }

    /// Takes the events so far. True if one of them concerns a watched path, or if events were lost.
    pub fn take(&mut self) -> bool {
        let mut is_stirred = false;
        for _ in 0..READS_MAX {
            let Ok(events) = self.inotify.read_events() else { break };
            for event in events {
                is_stirred |= event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW)
                    || match (&event.name, self.names.get(&event.wd)) {
                        (Some(name), Some(names)) => names.contains(name),
                        // The directory itself, or one that is no longer watched.
                        (None, Some(_)) => true,
                        (_, None) => false,
                    };
            }
        }
        is_stirred
    }
}

impl AsFd for Watcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

/// The names that a path is resolved by, each with its directory: every symbolic link, and the end.
fn steps(path: &Path) -> Vec<(PathBuf, OsString)> {
    let mut found = Vec::new();
    let mut folder = PathBuf::from("/");
    let mut rest: VecDeque<OsString> = words(path);
    let mut links = 0;
    while let Some(name) = rest.pop_front() {
        if name == ".." {
            folder.pop();
            continue;
        }
        let next = folder.join(&name);
        match std::fs::read_link(&next) {
            Ok(target) if links < LINKS_MAX => {
                links += 1;
                found.push((folder.clone(), name));
                if target.is_absolute() {
                    folder = PathBuf::from("/");
                }
                for word in words(&target).into_iter().rev() {
                    rest.push_front(word);
                }
            }
            _ => {
                if rest.is_empty() {
                    found.push((folder.clone(), name));
                }
                folder = next;
            }
        }
    }
    found
}

fn words(path: &Path) -> VecDeque<OsString> {
    let word = |component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(word).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().canonicalize().expect("a path");
        (folder, path)
    }

    #[test]
    fn a_path_is_watched_at_each_link_and_at_its_end() {
        let (_guard, top) = folder();
        fs::create_dir_all(top.join("archive")).expect("ours");
        fs::create_dir_all(top.join("live")).expect("ours");
        symlink("../archive/1.pem", top.join("live/cert.pem")).expect("ours");
        let name = |folder: &str, name: &str| (top.join(folder), OsString::from(name));
        let expected = [name("live", "cert.pem"), name("archive", "1.pem")];
        assert_eq!(steps(&top.join("live/cert.pem")), expected, "also if it leads nowhere");
        symlink("loop", top.join("loop")).expect("ours");
        assert_eq!(steps(&top.join("loop")).len(), LINKS_MAX + 1, "a loop ends");
    }

    #[test]
    fn every_way_to_change_a_file_is_seen_and_nothing_else() {
        let (_guard, top) = folder();
        let path = top.join("cert.pem");
        fs::write(&path, "1").expect("ours");
        let mut watcher = Watcher::new().expect("inotify");
        watcher.set([path.as_path()].into_iter()).expect("watched");
        assert!(!watcher.take());
        fs::write(top.join("other"), "1").expect("ours");
        assert!(!watcher.take(), "another file of the directory");
        fs::write(&path, "2").expect("ours");
        assert!(watcher.take(), "written in place");
        fs::rename(top.join("other"), &path).expect("ours");
        assert!(watcher.take(), "renamed into place");
        fs::remove_file(&path).expect("ours");
        assert!(watcher.take(), "deleted");
        symlink("other", &path).expect("ours");
        assert!(watcher.take(), "a link");
        watcher.set(std::iter::empty()).expect("nothing to watch");
        watcher.take();
        fs::write(&path, "3").expect("ours");
        assert!(!watcher.take(), "not watched any more");
    }

    #[test]
    fn a_directory_of_links_that_is_switched_is_seen() {
        let (_guard, top) = folder();
        for version in ["v1", "v2"] {
            fs::create_dir(top.join(version)).expect("ours");
            fs::write(top.join(version).join("tls.crt"), version).expect("ours");
        }
        symlink("v1", top.join("..data")).expect("ours");
        symlink("..data/tls.crt", top.join("tls.crt")).expect("ours");
        let mut watcher = Watcher::new().expect("inotify");
        watcher.set([top.join("tls.crt").as_path()].into_iter()).expect("watched");
        symlink("v2", top.join("..tmp")).expect("ours");
        assert!(!watcher.take());
        fs::rename(top.join("..tmp"), top.join("..data")).expect("ours");
        assert!(watcher.take());
    }
}
