//! Opening a log file: append only, never blocking, owned by whom the workers run as.
//!
//! Truth: open(2), fifo(7); nginx's `ngx_reopen_files` for what happens to the owner.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use super::lease::Owner;

/// Opens `path` for appending, creating it as 0644 (less the umask).
///
/// O_NONBLOCK changes nothing on a disk; on a pipe (`/dev/stdout` of a container) a reader that
/// stands still must not stop a worker. A FIFO without a reader is opened for both directions, as there
/// is no one yet to tell apart from a reader that left.
pub(super) fn append(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o644).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    match options.open(path) {
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => options.read(true).open(path),
        opened => opened,
    }
}

/// Opens `path` for appending, and gives it to the workers' user where one is named.
pub(super) fn append_for(path: &Path, owner: Option<Owner>) -> io::Result<File> {
    let file = append(path)?;
    owner.map_or(Ok(()), |owner| give(&file, owner))?;
    Ok(file)
}

/// Gives `file` to the workers' user, who reopens it by path, and lets that user read and write it.
fn give(file: &File, (uid, gid): Owner) -> io::Result<()> {
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Ok(());
    }
    if meta.uid() != uid {
        // The group stays: adm and the like read logs on purpose.
        let group = if meta.gid() == 0 { Some(gid) } else { None };
        fchown(file, Some(uid), group)?;
    }
    if meta.mode() & 0o600 != 0o600 {
        file.set_permissions(std::fs::Permissions::from_mode(meta.mode() & 0o7777 | 0o600))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn appends_and_creates() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.log");
        for _ in 0..2 {
            append(&path).expect("opens").write_all(b"line\n").expect("writes");
        }
        assert_eq!(std::fs::read(&path).expect("reads"), b"line\nline\n");
        assert!(append(&dir.path().join("missing/a.log")).is_err());
    }

    #[test]
    fn gives_the_owner_their_bits() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.log");
        let file = append(&path).expect("opens");
        file.set_permissions(std::fs::Permissions::from_mode(0o040)).expect("chmod");
        let meta = file.metadata().expect("stat");
        give(&file, (meta.uid(), meta.gid())).expect("gives");
        assert_eq!(file.metadata().expect("stat").mode() & 0o7777, 0o640);
    }

    #[test]
    fn a_fifo_without_reader_opens_and_never_blocks() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
        let mut file = append(&path).expect("opens");
        let page = [b'x'; 4096];
        let error = (0..1000).find_map(|_| file.write(&page).err()).expect("the pipe fills");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
