//! The changes of files and directories that WebDAV methods ask for.
//!
//! Runs on a thread of the blocking pool and knows no request: paths and settings go in, a status or a refusal comes out.
//! A file is never visible half written: it is made under a name of its own and renamed.
//! Behaviour: nginx.org, ngx_http_dav_module; RFC 4918 §9.6 to §9.9.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::errno::Errno;

use crate::http::modules::disable_symlinks::{Links, STEP};
use crate::http::temp_file::{self, TempFile};
use crate::log::Cause;
use crate::sys::remove_tree::remove_tree;

/// Why nothing, or not everything, was done.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    /// For the error log.
    pub why: String,
    /// The cause lies in this machine, not in the request.
    pub is_critical: bool,
}

/// The field `Depth`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    Zero,
    One,
    Infinity,
}

/// A copy or a move.
#[derive(Debug)]
pub struct Transfer {
    pub from: PathBuf,
    pub to: PathBuf,
    /// Both URIs end with a slash.
    pub is_collection: bool,
    pub is_move: bool,
    /// [`Depth::Zero`] copies a collection without its members.
    pub depth: Depth,
    /// A file or collection that is there may be replaced (`Overwrite`).
    pub overwrites: bool,
    /// Permissions of directories that are made on the way (`dav_access`).
    pub folder_mode: u32,
}

impl Refusal {
    fn client(status: u16, why: String) -> Self {
        Self { status, why, is_critical: false }
    }

    /// A system call failed; `missing` is the status if the path leads nowhere.
    fn of(call: &str, path: &Path, error: &io::Error, missing: u16) -> Self {
        let (status, is_critical) = match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR | libc::ENAMETOOLONG) => (missing, false),
            Some(libc::EACCES | libc::EPERM | libc::EROFS) => (403, false),
            Some(libc::EEXIST) => (405, false),
            Some(libc::ENOSPC | libc::EDQUOT) => (507, true),
            _ => (500, true),
        };
        Self { status, why: format!("{call} \"{}\" failed {}", path.display(), Cause(error)), is_critical }
    }
}

/// Refuses a path on which there is a link that must not be followed. A link at its end is changed itself and not followed,
/// unless a slash follows it.
pub fn check_links(links: &Links, path: &Path) -> Result<(), Refusal> {
    if links.are_followed() {
        return Ok(());
    }
    let bare = without_slash(path);
    let is_open = |path: &Path| {
        !matches!(links.open(path.as_os_str().as_bytes(), STEP), Err(Errno::ELOOP | Errno::ENOTDIR))
    };
    let is_collection = path.as_os_str().as_bytes().ends_with(b"/");
    if bare.parent().is_none_or(is_open) && (!is_collection || is_open(&bare)) {
        return Ok(());
    }
    Err(Refusal::client(403, format!("\"{}\" has a link that \"disable_symlinks\" forbids", path.display())))
}

/// Gives the file of a request's body its name. Returns 201, or 204 if the file was there before.
///
/// `folder_mode`: directories on the way are made with these permissions (`create_full_put_path`).
pub fn put(
    mut file: TempFile,
    to: &Path,
    mode: u32,
    folder_mode: Option<u32>,
    modified: Option<SystemTime>,
) -> Result<u16, Refusal> {
    let is_there = match fs::metadata(to) {
        Ok(found) if found.is_dir() => {
            let why = format!("\"{}\" could not be created: it is a directory", to.display());
            return Err(Refusal::client(409, why));
        }
        found => found.is_ok(),
    };
    if let Some(mode) = folder_mode {
        make_folders(to, mode)?;
    }
    match file.rename_now(to, mode, None, modified) {
        Ok(()) => Ok(if is_there { 204 } else { 201 }),
        Err((call, error)) => Err(Refusal::of(call, to, &error, 409)),
    }
}

/// Makes a directory, with exactly these permissions.
pub fn make_collection(path: &Path, mode: u32) -> Result<u16, Refusal> {
    make_folder(path, mode).map_err(|error| Refusal::of("mkdir()", path, &error, 409))?;
    Ok(201)
}

/// Removes a file, or a directory with everything in it.
pub fn delete(path: &Path, is_collection: bool, depth: Option<Depth>) -> Result<u16, Refusal> {
    // A path with a slash at its end would be followed if it is a link.
    let found = link_info(path, 404).map_err(|refusal| match fs::symlink_metadata(path) {
        Err(error) if error.raw_os_error() == Some(libc::ENOTDIR) => Refusal { status: 409, ..refusal },
        _ => refusal,
    })?;
    if found.is_dir() && !is_collection {
        return Err(Refusal::client(409, format!("DELETE \"{}\" failed: it is a directory", path.display())));
    }
    if found.is_dir() {
        if depth.is_some_and(|depth| depth != Depth::Infinity) {
            return Err(Refusal::client(400, "\"Depth\" header must be infinity".to_owned()));
        }
    } else if depth == Some(Depth::One) {
        return Err(Refusal::client(400, "\"Depth\" header must be 0 or infinity".to_owned()));
    }
    remove(path, &found)?;
    Ok(204)
}

/// Copies or moves. Returns 201 for a collection, 204 for a file, as nginx does.
pub fn transfer(task: &Transfer) -> Result<u16, Refusal> {
    let (from, to) = (without_slash(&task.from), without_slash(&task.to));
    let is_within = task.is_collection && (to.starts_with(&from) || from.starts_with(&to));
    let contained = || {
        let why =
            format!("\"{}\" and \"{}\" are the same or contain each other", from.display(), to.display());
        Refusal::client(403, why)
    };
    if from == to || is_within {
        return Err(contained());
    }
    let replaced = match fs::symlink_metadata(&to) {
        Ok(found) if found.is_dir() && !task.is_collection => {
            let why = format!("\"{}\" could not replace the collection \"{}\"", from.display(), to.display());
            return Err(Refusal::client(409, why));
        }
        Ok(_) if !task.overwrites => {
            let why = format!("\"{}\" could not be created: it exists", to.display());
            return Err(Refusal::client(412, why));
        }
        Ok(found) => Some(found),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(Refusal::of("lstat()", &to, &error, 404)),
    };
    // A file with a slash behind its name is not found.
    let source = link_info(&task.from, 404)?;
    if !source.is_dir() {
        return transfer_file(task, &from, &to, &source);
    }
    if !task.is_collection {
        return Err(Refusal::client(400, format!("\"{}\" is a collection", from.display())));
    }
    if (task.is_move || replaced.is_some()) && overlap(&from, &to) {
        return Err(contained());
    }
    if let Some(replaced) = replaced {
        remove(&to, &replaced)?;
    }
    if task.is_move {
        match fs::rename(&from, &to) {
            Ok(()) => return Ok(201),
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {}
            Err(error) => return Err(Refusal::of("rename() to", &to, &error, 409)),
        }
    }
    let left_out = copy_tree(&from, &to, &source, task.depth == Depth::Zero && !task.is_move)?;
    if task.is_move {
        if left_out > 0 {
            let what = "are neither files nor directories and were not copied: nothing is removed";
            let why = format!("{left_out} entries of \"{}\" {what}", from.display());
            return Err(Refusal { status: 500, why, is_critical: false });
        }
        remove(&from, &source)?;
    }
    Ok(201)
}

/// True if one of two directories is or contains the other, also by a link on the way: what is removed to make room for the
/// copy would be its source.
fn overlap(from: &Path, to: &Path) -> bool {
    let Ok(from) = fs::canonicalize(from) else { return false };
    // A link that is there already is replaced itself.
    let (Some(folder), Some(name)) = (to.parent(), to.file_name()) else { return true };
    let Ok(folder) = fs::canonicalize(folder) else { return false };
    let to = folder.join(name);
    to.starts_with(&from) || from.starts_with(&to)
}

fn transfer_file(task: &Transfer, from: &Path, to: &Path, source: &Metadata) -> Result<u16, Refusal> {
    if task.is_move {
        make_folders(to, task.folder_mode)?;
        match fs::rename(from, to) {
            Ok(()) => return Ok(204),
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {}
            Err(error) => return Err(Refusal::of("rename() to", to, &error, 409)),
        }
    }
    if !copy_file(from, to, source)? {
        let why = format!("\"{}\" is neither a file nor a directory", from.display());
        return Err(Refusal::client(403, why));
    }
    if task.is_move {
        remove(from, source)?;
    }
    Ok(204)
}

/// Copies a file with its permissions and its time. False: it is not a regular file.
fn copy_file(from: &Path, to: &Path, source: &Metadata) -> Result<bool, Refusal> {
    if !source.is_file() {
        return Ok(false);
    }
    // Something else may have taken its place: neither follow a link nor wait for a pipe's other end.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(from);
    let mut opened = opened.map_err(|error| Refusal::of("open()", from, &error, 404))?;
    let found = opened.metadata().map_err(|error| Refusal::of("fstat()", from, &error, 404))?;
    if !found.is_file() {
        return Ok(false);
    }
    let copied = temp_file::replace(to, |made| {
        io::copy(&mut opened, made)?;
        made.set_permissions(PermissionsExt::from_mode(found.mode() & 0o777))?;
        made.set_modified(found.modified()?)
    });
    copied.map_err(|error| Refusal::of("copy to", to, &error, 409))?;
    Ok(true)
}

/// A directory of a tree that is being copied.
struct Level {
    source: Metadata,
    /// The directories in it that are not copied yet.
    waiting: Vec<OsString>,
}

/// Copies a directory, with or without its members. Returns how many entries were left out because they are neither files
/// nor directories.
///
/// It keeps the names of the directories that wait on the way down, not those of the whole tree.
fn copy_tree(from: &Path, to: &Path, source: &Metadata, is_empty: bool) -> Result<u64, Refusal> {
    let (mut from, mut to) = (from.to_owned(), to.to_owned());
    make_copy(&to, source)?;
    let made = fs::symlink_metadata(&to).map_err(|error| Refusal::of("mkdir()", &to, &error, 409))?;
    let mut left_out = 0;
    let waiting = if is_empty { Vec::new() } else { copy_files(&from, &to, &mut left_out)? };
    let mut levels = vec![Level { source: source.clone(), waiting }];
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.waiting.pop() else {
            dress(&to, &level.source)?;
            levels.pop();
            from.pop();
            to.pop();
            continue;
        };
        from.push(&name);
        let source = link_info(&from, 404)?;
        // A link on the way to the destination may lead back into the source.
        let is_made = (source.dev(), source.ino()) == (made.dev(), made.ino());
        if is_made || !source.is_dir() {
            from.pop();
            continue;
        }
        to.push(&name);
        make_copy(&to, &source)?;
        let waiting = copy_files(&from, &to, &mut left_out)?;
        levels.push(Level { source, waiting });
    }
    Ok(left_out)
}

/// Makes the directory for a copy, open to us until its members are there.
fn make_copy(to: &Path, source: &Metadata) -> Result<(), Refusal> {
    let made = make_folder(to, source.mode() & 0o777 | 0o700);
    made.map_err(|error| Refusal::of("mkdir()", to, &error, 409))
}

/// Copies the files of a directory, and returns the names of the directories in it.
fn copy_files(from: &Path, to: &Path, left_out: &mut u64) -> Result<Vec<OsString>, Refusal> {
    let failed = |error: &io::Error| Refusal::of("readdir()", from, error, 404);
    let mut folders = Vec::new();
    for entry in fs::read_dir(from).map_err(|error| failed(&error))? {
        let entry = entry.map_err(|error| failed(&error))?;
        let found = link_info(&entry.path(), 404)?;
        if found.is_dir() {
            folders.push(entry.file_name());
        } else if !copy_file(&entry.path(), &to.join(entry.file_name()), &found)? {
            *left_out += 1;
        }
    }
    Ok(folders)
}

/// Gives a copied directory the time and the permissions of its source.
fn dress(folder: &Path, source: &Metadata) -> Result<(), Refusal> {
    let same = || {
        let folder = File::open(folder)?;
        folder.set_modified(source.modified()?)?;
        folder.set_permissions(PermissionsExt::from_mode(source.mode() & 0o777))
    };
    same().map_err(|error| Refusal::of("utimes()", folder, &error, 404))
}

fn remove(path: &Path, found: &Metadata) -> Result<(), Refusal> {
    let path = without_slash(path);
    let (call, removed) = match found.is_dir() {
        true => ("rmdir()", remove_tree(&path)),
        false => ("unlink()", fs::remove_file(&path)),
    };
    removed.map_err(|error| Refusal::of(call, &path, &error, 404))
}

fn link_info(path: &Path, missing: u16) -> Result<Metadata, Refusal> {
    fs::symlink_metadata(path).map_err(|error| Refusal::of("lstat()", path, &error, missing))
}

/// Makes the directories that lead to a path.
fn make_folders(path: &Path, mode: u32) -> Result<(), Refusal> {
    let Some(folder) = path.parent() else { return Ok(()) };
    let missing: Vec<&Path> =
        folder.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists()).collect();
    for folder in missing.into_iter().rev() {
        match make_folder(folder, mode) {
            // another request made it meanwhile
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.map_err(|error| Refusal::of("mkdir()", folder, &error, 409))?,
        }
    }
    Ok(())
}

/// Makes a directory with exactly these permissions, whatever the process' mask is.
fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().mode(mode).create(path)?;
    fs::set_permissions(path, PermissionsExt::from_mode(mode))
}

/// The path without repeated slashes and one at its end, which the system would follow if it is a link.
fn without_slash(path: &Path) -> PathBuf {
    path.components().collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn task(root: &Path, from: &str, to: &str) -> Transfer {
        Transfer {
            from: root.join(from),
            to: root.join(to),
            is_collection: from.ends_with('/'),
            is_move: false,
            depth: Depth::Infinity,
            overwrites: true,
            folder_mode: 0o700,
        }
    }

    fn status(done: Result<u16, Refusal>) -> u16 {
        done.unwrap_or_else(|refusal| refusal.status)
    }

    #[test]
    fn trees_are_copied_with_modes_and_times_and_without_special_files() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        fs::create_dir_all(root.join("a/b/c")).unwrap();
        fs::write(root.join("a/b/file"), "text").unwrap();
        fs::set_permissions(root.join("a/b"), PermissionsExt::from_mode(0o750)).unwrap();
        fs::set_permissions(root.join("a/b/file"), PermissionsExt::from_mode(0o640)).unwrap();
        symlink("/etc/passwd", root.join("a/link")).unwrap();
        let old = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        File::open(root.join("a/b")).unwrap().set_modified(old).unwrap();
        File::options().write(true).open(root.join("a/b/file")).unwrap().set_modified(old).unwrap();

        assert_eq!(status(transfer(&task(root, "a/", "to/"))), 201);
        assert_eq!(fs::read_to_string(root.join("to/b/file")).unwrap(), "text");
        for path in ["b", "b/file"] {
            let (from, to) = (root.join("a").join(path), root.join("to").join(path));
            let [from, to] = [from, to].map(|path| fs::metadata(path).unwrap());
            assert_eq!(
                (from.mode(), from.modified().unwrap()),
                (to.mode(), to.modified().unwrap()),
                "{path}"
            );
        }
        assert!(fs::symlink_metadata(root.join("to/link")).is_err());
        assert_eq!(status(transfer(&Transfer { depth: Depth::Zero, ..task(root, "a/", "flat/") })), 201);
        assert_eq!(fs::read_dir(root.join("flat")).unwrap().count(), 0);
    }

    #[test]
    fn a_tree_is_not_copied_into_itself_even_by_a_link() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        fs::create_dir(root.join("a")).unwrap();
        fs::write(root.join("a/file"), "text").unwrap();
        for (from, to) in [("a/", "a/b/"), ("a/", "a/"), ("a/", "a//"), ("a/b/", "a/"), ("a/file", "a//file")]
        {
            assert_eq!(status(transfer(&task(root, from, to))), 403, "{from} to {to}");
        }
        symlink("a", root.join("link")).unwrap();
        assert_eq!(status(transfer(&task(root, "a/", "link/b/"))), 201);
        assert!(root.join("a/b/file").exists() && !root.join("a/b/b").exists());
    }

    #[test]
    fn a_tree_that_is_its_own_destination_by_a_link_is_not_removed() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        fs::create_dir_all(root.join("a/b/c")).unwrap();
        fs::write(root.join("a/b/c/file"), "text").unwrap();
        symlink("a", root.join("link")).unwrap();
        for (from, to) in [("a/b/", "link/b/"), ("link/b/", "a/b/"), ("a/b/c/", "link/b/"), ("a/", "link/b/")]
        {
            let copied = task(root, from, to);
            assert_eq!(status(transfer(&copied)), 403, "{from} to {to}");
            assert_eq!(status(transfer(&Transfer { is_move: true, ..copied })), 403, "{from} to {to}");
            assert!(root.join("a/b/c/file").exists(), "{from} to {to}");
        }
        let moved = Transfer { is_move: true, ..task(root, "a/", "link/new/") };
        assert_eq!(status(transfer(&moved)), 403);
        // A link that is replaced contains nothing.
        assert_eq!(status(transfer(&task(root, "a/", "link/"))), 201);
        assert!(root.join("a/b/c/file").exists() && root.join("link/b/c/file").exists());
    }

    #[test]
    fn links_are_removed_and_replaced_themselves() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        fs::create_dir(root.join("kept")).unwrap();
        fs::write(root.join("kept/file"), "text").unwrap();
        symlink("kept", root.join("link")).unwrap();
        assert_eq!(status(delete(&root.join("link"), false, None)), 204);
        assert!(root.join("kept/file").exists());
        symlink("kept/file", root.join("link")).unwrap();
        fs::write(root.join("new"), "new").unwrap();
        assert_eq!(status(transfer(&task(root, "new", "link"))), 204);
        assert_eq!(fs::read_to_string(root.join("kept/file")).unwrap(), "text");
        assert_eq!(fs::read_to_string(root.join("link")).unwrap(), "new");
    }

    #[test]
    fn a_move_makes_the_directories_on_the_way_but_a_copy_does_not() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        fs::write(root.join("file"), "text").unwrap();
        assert_eq!(status(transfer(&task(root, "file", "x/y/file"))), 409);
        let moved = Transfer { is_move: true, folder_mode: 0o755, ..task(root, "file", "x/y/file") };
        assert_eq!(status(transfer(&moved)), 204);
        assert_eq!(fs::metadata(root.join("x/y")).unwrap().mode() & 0o777, 0o755);
        assert!(!root.join("file").exists());
        assert_eq!(fs::read_dir(root.join("x/y")).unwrap().count(), 1, "no temporary file is left");
    }
}
