//! Files that have no name until they are complete: nothing remains of one if its process is killed before.
//!
//! Truth: open(2), O_TMPFILE, and its example of linkat(2).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};

/// Creates one in the file system of `folder`, for reading and writing. Errors: also those of file systems that cannot
/// (NFS, old overlayfs).
pub fn create(folder: &Path) -> io::Result<File> {
    let flags = (OFlag::O_TMPFILE | OFlag::O_CLOEXEC).bits();
    OpenOptions::new().read(true).write(true).mode(0o600).custom_flags(flags).open(folder)
}

/// Gives it a name. Errors: `AlreadyExists` if the name is taken, `NotFound` if its directory is missing,
/// `CrossesDevices` if that is in another file system.
pub fn link(file: &File, path: &Path) -> io::Result<()> {
    let own = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(nix::unistd::linkat(AT_FDCWD, own.as_str(), AT_FDCWD, path, AtFlags::AT_SYMLINK_FOLLOW)?)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_appears_when_it_gets_its_name() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let names = || std::fs::read_dir(folder.path()).expect("it is there").count();
        let mut file = create(folder.path()).expect("a file system that can");
        file.write_all(b"whole").expect("written");
        assert_eq!(names(), 0);
        let path = folder.path().join("name");
        link(&file, &path).expect("linked");
        assert_eq!(std::fs::read(&path).expect("it is there"), b"whole");
        let kind = |path: &Path| link(&file, path).map_err(|error| error.kind());
        assert_eq!(kind(&path), Err(io::ErrorKind::AlreadyExists));
        assert_eq!(kind(&folder.path().join("no/name")), Err(io::ErrorKind::NotFound));
    }
}
