//! Opening log files: append only, non-blocking, owned by the workers' user.
//!
//! Root does not follow links that other users may have created (`sys::trusted`).
//! Source: open(2), fifo(7); nginx's `ngx_reopen_files` for the change of owner.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use nix::fcntl::OFlag;

use super::lease::Owner;
use crate::sys::trusted::{self, Opened, Place};

/// Mode of a new log, less the umask. Not readable by everyone, since lines may contain confidential data of
/// clients.
const MODE: u32 = 0o640;

/// Opens `path` for appending, and creates it with mode 0640 if need be.
pub(super) fn append(path: &Path) -> io::Result<File> {
    append_for(path, None)
}

/// Opens `path` for appending, and gives it to `owner`, the workers' user, who will reopen it by path.
///
/// O_NONBLOCK has no effect on a disk; on a pipe (`/dev/stdout` of a container) it keeps a stalled reader
/// from blocking a worker. A FIFO without a reader cannot be opened for writing only (ENXIO), so it is opened
/// for both directions.
pub(super) fn append_for(path: &Path, owner: Option<Owner>) -> io::Result<File> {
    let place = Place::of(path)?.followed()?;
    let open = |access: OFlag| place.open_or_create(access | OFlag::O_APPEND | OFlag::O_NONBLOCK, MODE);
    let opened: Opened = match open(OFlag::O_WRONLY) {
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => open(OFlag::O_RDWR)?,
        opened => opened?,
    };
    if let Some(owner) = owner {
        trusted::give(&opened, &place, owner)?;
    }
    Ok(opened.file)
}

/// Writes a line, which ends with `\n`, to a log that may be full. A signal may interrupt a write to a pipe, or end it in the
/// middle of the line: the rest follows.
///
/// `is_torn`: the last line was written in part. It is ended first, so that this line does not continue it.
pub(super) fn write_line(file: &mut impl Write, line: &[u8], is_torn: &mut bool) -> io::Result<()> {
    if *is_torn {
        write_rest(file, b"\n", &mut 0)?;
        *is_torn = false;
    }
    let mut done = 0;
    write_rest(file, line, &mut done).inspect_err(|_| *is_torn = done > 0)
}

/// Writes until all is `done`.
fn write_rest(file: &mut impl Write, bytes: &[u8], done: &mut usize) -> io::Result<()> {
    while *done < bytes.len() {
        match file.write(&bytes[*done..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => *done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

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
        append_for(&path, Some((meta.uid(), meta.gid()))).expect("gives");
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

    /// A log that takes as many bytes as a script says, or fails.
    struct Scripted {
        script: Vec<Result<usize, io::ErrorKind>>,
        written: Vec<u8>,
    }

    impl Write for Scripted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = match self.script.is_empty() {
                true => bytes.len(),
                false => self.script.remove(0)?.min(bytes.len()),
            };
            self.written.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_is_whole_however_its_writes_are_interrupted() {
        use io::ErrorKind::{Interrupted, WouldBlock};
        let cases = [
            (vec![Err(Interrupted), Err(Interrupted)], "one\ntwo\n"),
            (vec![Ok(1), Err(Interrupted), Ok(2)], "one\ntwo\n"),
            (vec![Ok(2), Err(WouldBlock)], "on\ntwo\n"),
            (vec![Err(WouldBlock)], "two\n"),
            (vec![Ok(2), Err(WouldBlock), Err(Interrupted), Ok(1), Ok(1)], "on\ntwo\n"),
        ];
        for (script, expected) in cases {
            let mut log = Scripted { script, written: Vec::new() };
            let mut is_torn = false;
            let _ = write_line(&mut log, b"one\n", &mut is_torn);
            write_line(&mut log, b"two\n", &mut is_torn).expect("there is room again");
            assert_eq!(String::from_utf8_lossy(&log.written), expected);
        }
    }
}
