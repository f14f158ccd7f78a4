//! Opening and creating files at configured paths, safely for a process that is root.
//!
//! Such a path may lead through a directory that belongs to the workers' user, or to any other. The owner of
//! a directory can replace any file in it by a symbolic link, and root would then append to, or give away, a
//! file of their choice (CVE-2016-1247). So a path is walked from directory to directory, each held by a
//! descriptor, and a link is followed only if no other user than root can have put it there: the link and its
//! directory belong to root. Opened files are changed through their descriptor, never by name.
//!
//! A process that is not root has no privileges to abuse: it follows links as open(2) does.
//! Source: openat2(2), path_resolution(7), symlink(7).

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{
    AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2, readlinkat, renameat,
};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, mkdirat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, unlinkat};
use zeroize::Zeroizing;

/// Most links that one path may lead through, as in the kernel (path_resolution(7)).
const LINKS_MAX: u32 = 40;

/// Creates a directory for another user. An existing one is given to that user, unless a third user may have
/// created it.
pub fn make_directory(path: &Path, owner: Option<(u32, u32)>) -> io::Result<()> {
    Place::of(path)?.followed()?.make_directory(owner)
}

/// Reads a file in a directory that may belong to another user: root must not read a file of their choice for them, nor wait
/// for a writer of a named pipe.
///
/// Errors: those of open(2), and, in words: a link that another user may have put there, a second name of a file of root's, a
/// file that is not regular, and one of more than `bytes_max`.
pub fn read(path: &Path, bytes_max: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let place = Place::of(path)?.followed()?;
    let file = place.open(OFlag::O_RDONLY | OFlag::O_NONBLOCK)?;
    let found = fstat(&file)?;
    if !is_regular(&found) {
        return Err(io::Error::other("it is not a regular file"));
    }
    place.refuse_other_names(&found)?;
    let length = usize::try_from(found.st_size).ok().filter(|length| *length as u64 <= bytes_max);
    let length = length.ok_or_else(|| io::Error::other(format!("it is larger than {bytes_max} bytes")))?;
    // One byte more, so that the end is seen without another allocation, which would leave a copy.
    let mut data = Zeroizing::new(Vec::with_capacity(length + 1));
    file.take(length as u64 + 1).read_to_end(&mut data)?;
    Ok(data)
}

/// A name in a directory that is held open.
///
/// Logs, the pid file, the paths of unix sockets and temporary directories are handled through one. The name
/// is always looked up in the same directory, whatever happens to the path meanwhile.
#[derive(Debug)]
pub struct Place {
    folder: OwnedFd,
    name: OsString,
}

/// An open file, and whether this call created it.
#[derive(Debug)]
pub struct Opened {
    pub file: File,
    pub is_new: bool,
}

impl Place {
    /// Walks to the directory of `path`. The last name is not looked up yet; see [`Place::followed`].
    ///
    /// Errors: those of open(2), and, in words, a link that another user may have put there.
    pub fn of(path: &Path) -> io::Result<Self> {
        let name = path.file_name().ok_or(Errno::EISDIR)?.to_owned();
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let how = OpenHow::new().flags(DIRECTORY).resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
        let folder = match openat2(AT_FDCWD, parent, how) {
            // There is a link on the way, or the kernel has no openat2.
            Err(Errno::ELOOP | Errno::ENOSYS | Errno::EPERM) => {
                walk(open(".", DIRECTORY, Mode::empty())?, parent, &mut 0)?
            }
            opened => opened?,
        };
        Ok(Self { folder, name })
    }

    /// Follows the last name as long as it is a link.
    pub fn followed(mut self) -> io::Result<Self> {
        let mut links = 0;
        while let Some(target) = link_target(self.folder.as_fd(), &self.name, &mut links)? {
            self.name = target.file_name().ok_or(Errno::EISDIR)?.to_owned();
            if let Some(parent) = target.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                self.folder = walk(self.folder, parent, &mut links)?;
            }
        }
        Ok(self)
    }

    /// The name with `suffix` appended, in the same directory.
    pub fn beside(&self, suffix: &str) -> io::Result<Self> {
        let mut name = self.name.clone();
        name.push(suffix);
        Ok(Self { folder: self.folder.try_clone()?, name })
    }

    /// Opens an existing file. Errors: those of open(2), and, in words, a link.
    pub fn open(&self, flags: OFlag) -> io::Result<File> {
        let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
        // The links in /proc/PID/fd have no path behind them; only the kernel can follow them.
        let no_follow = if is_proc(self.folder.as_fd()) { OFlag::empty() } else { OFlag::O_NOFOLLOW };
        match openat(&self.folder, &*self.name, flags | no_follow, Mode::empty()) {
            Err(Errno::ELOOP) => Err(io::Error::other(format!("\"{}\" is a symbolic link", self.shown()))),
            opened => Ok(opened?.into()),
        }
    }

    /// Creates a file. Errors: EEXIST if the name is taken, even by a link.
    pub fn create(&self, flags: OFlag, mode: u32) -> io::Result<File> {
        let flags = flags | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        Ok(openat(&self.folder, &*self.name, flags, Mode::from_bits_truncate(mode))?.into())
    }

    /// Opens an existing file, or creates one.
    ///
    /// Errors: a file of root's with a second hard link, in a directory that is not root's: it may be any
    /// file of the system.
    pub fn open_or_create(&self, flags: OFlag, mode: u32) -> io::Result<Opened> {
        loop {
            match self.open(flags) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                opened => {
                    let file = opened?;
                    self.refuse_other_names(&fstat(&file)?)?;
                    return Ok(Opened { file, is_new: false });
                }
            }
            match self.create(flags, mode) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => return Ok(Opened { file: made?, is_new: true }),
            }
        }
    }

    /// Errors: a file of root's with a second hard link, in a directory that is not root's.
    fn refuse_other_names(&self, found: &FileStat) -> io::Result<()> {
        if is_regular(found) && found.st_nlink > 1 && !self.is_ours()? && found.st_uid == 0 {
            let shown = self.shown();
            let why = format!("\"{shown}\" has other names, and is in a directory that is not root's");
            return Err(io::Error::other(why));
        }
        Ok(())
    }

    /// Whether only root can have put a file with this name here: no other user can add or replace names, and
    /// the workers' group `gid` cannot either.
    pub fn is_guarded(&self, gid: u32) -> io::Result<bool> {
        let folder = fstat(&self.folder)?;
        let is_closed = folder.st_mode & 0o002 == 0 && (folder.st_mode & 0o020 == 0 || folder.st_gid != gid);
        Ok(is_ours(folder.st_uid) && (is_closed || folder.st_mode & libc::S_ISVTX != 0))
    }

    /// Renames the file to another place, replacing any file there.
    pub fn rename_to(&self, target: &Place) -> io::Result<()> {
        Ok(renameat(&self.folder, &*self.name, &target.folder, &*target.name)?)
    }

    /// Removes the name.
    pub fn remove(&self) -> io::Result<()> {
        Ok(unlinkat(&self.folder, &*self.name, UnlinkatFlags::NoRemoveDir)?)
    }

    /// The inode that has the name now; a link is not followed.
    pub fn inode(&self) -> io::Result<u64> {
        Ok(self.stat()?.st_ino)
    }

    pub fn is_socket(&self) -> bool {
        self.stat().is_ok_and(|found| kind(&found) == SFlag::S_IFSOCK)
    }

    /// Creates a directory for one user, 0700. An existing one is given to that user if only root can have
    /// put it there.
    ///
    /// Errors: those of mkdir(2), ENOTDIR, and, in words, a directory of another user.
    pub fn make_directory(&self, owner: Option<(u32, u32)>) -> io::Result<()> {
        let is_new = match mkdirat(&self.folder, &*self.name, Mode::S_IRWXU) {
            Err(Errno::EEXIST) => false,
            made => made.map(|()| true)?,
        };
        let Some((uid, gid)) = owner else { return Ok(()) };
        let made = File::from(openat(&self.folder, &*self.name, DIRECTORY_TO_CHANGE, Mode::empty())?);
        let found = fstat(&made)?;
        let is_as_wanted = found.st_uid == uid && found.st_mode & 0o700 == 0o700;
        if is_as_wanted {
            return Ok(());
        }
        if !is_new && !self.is_guarded(gid)? {
            let why = format!(
                "\"{}\" belongs to user {} and not to the workers' user, in a directory that others can write to: \
                 change the owner by hand, or remove it",
                self.shown(),
                found.st_uid
            );
            return Err(io::Error::other(why));
        }
        fchown(&made, Some(Uid::from_raw(uid)), None)?;
        Ok(fchmod(&made, Mode::from_bits_truncate(found.st_mode & 0o7777 | 0o700))?)
    }

    /// Whether the directory belongs to root or to this process's user.
    fn is_ours(&self) -> io::Result<bool> {
        Ok(is_ours(fstat(&self.folder)?.st_uid))
    }

    fn stat(&self) -> io::Result<FileStat> {
        Ok(fstatat(&self.folder, &*self.name, AtFlags::AT_SYMLINK_NOFOLLOW)?)
    }

    fn shown(&self) -> std::path::Display<'_> {
        Path::new(&self.name).display()
    }
}

/// Gives a file to the user who will reopen it by path, readable and writable.
///
/// Only files that this process created, or that no other user than root can have put there, are given away;
/// others stay as they are.
pub fn give(opened: &Opened, place: &Place, (uid, gid): (u32, u32)) -> io::Result<()> {
    let found = fstat(&opened.file)?;
    let is_root_s_alone = opened.is_new || (found.st_nlink == 1 && place.is_guarded(gid)?);
    if !is_regular(&found) || !is_root_s_alone {
        return Ok(());
    }
    if found.st_uid != uid {
        // A group other than root's stays: adm and the like may read logs on purpose.
        let group = (found.st_gid == 0).then(|| Gid::from_raw(gid));
        fchown(&opened.file, Some(Uid::from_raw(uid)), group)?;
    }
    if found.st_mode & 0o600 != 0o600 {
        fchmod(&opened.file, Mode::from_bits_truncate(found.st_mode & 0o7777 | 0o600))?;
    }
    Ok(())
}

/// The innermost directory on the way to `path` in which user `uid`, a member of group `gid`, can replace
/// names.
pub fn exposed_folder(path: &Path, uid: u32, gid: u32) -> Option<PathBuf> {
    let folder = path.parent()?.canonicalize().ok()?;
    let is_exposed = |folder: &&Path| {
        let Ok(found) = nix::sys::stat::stat(*folder) else { return false };
        let may_write = found.st_mode & 0o002 != 0 || (found.st_mode & 0o020 != 0 && found.st_gid == gid);
        found.st_uid == uid || (may_write && found.st_mode & libc::S_ISVTX == 0)
    };
    folder.ancestors().find(is_exposed).map(Path::to_owned)
}

const DIRECTORY: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);
/// Without O_PATH, on whose descriptors fchown(2) fails.
const DIRECTORY_TO_CHANGE: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Opens a directory part by part, starting at `folder`.
fn walk(mut folder: OwnedFd, path: &Path, links: &mut u32) -> io::Result<OwnedFd> {
    let mut parts: VecDeque<OsString> = parts(path);
    while let Some(part) = parts.pop_front() {
        if part == "/" {
            folder = open("/", DIRECTORY, Mode::empty())?;
        } else if let Some(target) = link_target(folder.as_fd(), &part, links)? {
            let mut front = self::parts(&target);
            front.append(&mut parts);
            parts = front;
        } else {
            folder = openat(&folder, &*part, DIRECTORY | OFlag::O_NOFOLLOW, Mode::empty())?;
        }
    }
    Ok(folder)
}

fn parts(path: &Path) -> VecDeque<OsString> {
    let named = path.components().filter(|part| *part != Component::CurDir);
    named.map(|part| part.as_os_str().to_owned()).collect()
}

/// The target of a link; `None` for any other file, and for a name that does not exist. Errors: a link that
/// another user can replace, and too many links.
fn link_target(folder: BorrowedFd<'_>, name: &OsStr, links: &mut u32) -> io::Result<Option<PathBuf>> {
    let link = match fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => return Ok(None),
        found => found?,
    };
    // The text of most links in /proc is not a path: `open` leaves them to the kernel.
    if kind(&link) != SFlag::S_IFLNK || (is_proc(folder) && name != "self" && name != "thread-self") {
        return Ok(None);
    }
    let owners = [link.st_uid, fstat(folder)?.st_uid];
    if let Some(other) = owners.into_iter().find(|uid| !is_ours(*uid)) {
        let why = format!(
            "\"{}\" is a symbolic link that user {other} can replace: root follows a link only where it and its \
             directory belong to root",
            name.display()
        );
        return Err(io::Error::other(why));
    }
    *links += 1;
    if *links > LINKS_MAX {
        return Err(Errno::ELOOP.into());
    }
    Ok(Some(readlinkat(folder, name)?.into()))
}

/// Root's files and our own are ours. If we are not root, all files are: we have no privileges that others
/// could abuse.
fn is_ours(uid: u32) -> bool {
    let own = Uid::effective();
    uid == 0 || uid == own.as_raw() || !own.is_root()
}

fn is_proc(folder: BorrowedFd<'_>) -> bool {
    fstatfs(folder).is_ok_and(|found| found.filesystem_type() == PROC_SUPER_MAGIC)
}

fn kind(found: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(found.st_mode & SFlag::S_IFMT.bits())
}

fn is_regular(found: &FileStat) -> bool {
    kind(found) == SFlag::S_IFREG
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

    use super::*;

    const APPEND: OFlag = OFlag::O_WRONLY.union(OFlag::O_APPEND);
    const NOBODY: u32 = 65_534;

    /// A directory of root's, and one of another user in it; `None` if we are not root and cannot create
    /// them.
    fn folders() -> Option<(tempfile::TempDir, PathBuf)> {
        let folder = tempfile::tempdir().unwrap();
        let theirs = folder.path().join("theirs");
        fs::create_dir(&theirs).unwrap();
        chown(&theirs, Some(NOBODY), Some(NOBODY)).ok().map(|()| (folder, theirs))
    }

    fn open(path: &Path) -> io::Result<Opened> {
        Place::of(path)?.followed()?.open_or_create(APPEND, 0o640)
    }

    #[test]
    fn links_of_root_in_directories_of_root_are_followed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("real")).unwrap();
        symlink("real", at("dir")).unwrap();
        symlink("../real/file", at("real/link")).unwrap();
        symlink(at("dir/link"), at("far")).unwrap();
        assert!(open(&at("far")).unwrap().is_new);
        assert!(!open(&at("real/file")).unwrap().is_new);
        symlink("loop", at("loop")).unwrap();
        assert_eq!(open(&at("loop")).unwrap_err().raw_os_error(), Some(libc::ELOOP));
        assert_eq!(open(&at("loop/x")).unwrap_err().raw_os_error(), Some(libc::ELOOP));
        assert_eq!(open(&at("none/x")).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(open(&at("real/file/x")).unwrap_err().raw_os_error(), Some(libc::ENOTDIR));
        open(Path::new("/dev/null")).unwrap();
        open(Path::new("/proc/self/fd/../fd/2")).unwrap();
    }

    #[test]
    fn links_that_another_user_can_replace_are_refused() {
        let Some((folder, theirs)) = folders() else { return };
        let secret = folder.path().join("secret");
        fs::write(&secret, "root").unwrap();
        // Their directory, root's link; root's directory, their link; and the same on the way.
        symlink(&secret, theirs.join("a")).unwrap();
        symlink(&secret, folder.path().join("b")).unwrap();
        std::os::unix::fs::lchown(folder.path().join("b"), Some(NOBODY), None).unwrap();
        symlink("..", theirs.join("up")).unwrap();
        for path in [theirs.join("a"), folder.path().join("b"), theirs.join("up/secret")] {
            let refused = open(&path).unwrap_err().to_string();
            assert!(refused.contains("symbolic link that user 65534 can replace"), "{refused}");
        }
        // A plain path through their directory is no link.
        assert!(open(&theirs.join("../secret")).is_ok());
        assert!(open(&theirs.join("new")).unwrap().is_new);
    }

    #[test]
    fn a_second_name_of_a_root_s_file_is_refused_where_others_can_make_one() {
        let Some((folder, theirs)) = folders() else { return };
        let secret = folder.path().join("secret");
        fs::write(&secret, "root").unwrap();
        fs::hard_link(&secret, theirs.join("log")).unwrap();
        assert!(open(&theirs.join("log")).unwrap_err().to_string().contains("other names"));
        assert!(open(&secret).is_ok(), "the same file, in a directory of root's");
    }

    #[test]
    fn only_files_that_nobody_else_can_have_put_there_are_given_away() {
        let Some((folder, theirs)) = folders() else { return };
        let given = |path: &Path| {
            let place = Place::of(path).unwrap();
            let opened = place.open_or_create(APPEND, 0o640).unwrap();
            give(&opened, &place, (NOBODY, NOBODY)).unwrap();
            fs::metadata(path).unwrap().uid() == NOBODY
        };
        let old = theirs.join("old");
        fs::write(&old, "root's").unwrap();
        assert!(!given(&old), "it may have been moved here");
        assert!(given(&theirs.join("new")));
        let ours = folder.path().join("ours");
        fs::write(&ours, "root's").unwrap();
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
        assert!(!given(&ours), "all can write to its directory");
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        assert!(given(&ours));
    }

    #[test]
    fn a_folder_that_a_user_can_write_to_is_found_on_the_way() {
        let Some((folder, theirs)) = folders() else { return };
        let base = folder.path().canonicalize().unwrap();
        fs::set_permissions(&base, PermissionsExt::from_mode(0o755)).unwrap();
        fs::create_dir(theirs.join("deep")).unwrap();
        fs::set_permissions(theirs.join("deep"), PermissionsExt::from_mode(0o755)).unwrap();
        let found = |path: &str| exposed_folder(&base.join(path), NOBODY, NOBODY);
        assert_eq!(found("a.log"), None);
        assert_eq!(found("theirs/a.log"), Some(base.join("theirs")));
        assert_eq!(found("theirs/deep/a.log"), Some(base.join("theirs")));
        fs::set_permissions(&base, PermissionsExt::from_mode(0o777)).unwrap();
        assert_eq!(found("a.log"), Some(base.clone()));
        fs::set_permissions(&base, PermissionsExt::from_mode(0o1777)).unwrap();
        assert_eq!(found("a.log"), None, "as /tmp");
    }

    #[test]
    fn a_directory_is_made_and_given_through_its_descriptor() {
        let Some((folder, theirs)) = folders() else { return };
        let make = |path: &Path| Place::of(path).unwrap().make_directory(Some((NOBODY, NOBODY)));
        let owner = |path: &Path| fs::metadata(path).unwrap().uid();
        for path in [folder.path().join("a"), theirs.join("a")] {
            make(&path).unwrap();
            make(&path).unwrap();
            assert_eq!((owner(&path), fs::metadata(&path).unwrap().mode() & 0o777), (NOBODY, 0o700));
        }
        fs::create_dir(theirs.join("root")).unwrap();
        assert!(make(&theirs.join("root")).unwrap_err().to_string().contains("by hand"));
        assert_eq!(owner(&theirs.join("root")), 0);
        fs::create_dir(folder.path().join("root")).unwrap();
        make(&folder.path().join("root")).unwrap();
        assert_eq!(owner(&folder.path().join("root")), NOBODY);
        fs::write(folder.path().join("file"), "").unwrap();
        assert!(make(&folder.path().join("file")).is_err());
        symlink(folder.path().join("root"), theirs.join("link")).unwrap();
        assert!(make(&theirs.join("link")).is_err());
    }
}
