//! A file for the secrets of connections (`ssl_key_log`), in the format that packet analyzers read.
//!
//! Touches: the file, which the master opens and the workers write. A line is one write at the end of the
//! file, so that those of several workers do not mix. Truth: NSS key log format, draft-ietf-tls-keylogfile.

use std::fmt;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use nix::fcntl::OFlag;
use rustls::KeyLog;
use zeroize::Zeroizing;

use crate::log::{OpenError, Owner};
use crate::sys::trusted::{self, Place};

/// Whoever reads the file can decrypt the connections.
const MODE: u32 = 0o600;

/// The open files, which a worker needs.
static OPEN: Mutex<Vec<Weak<KeyLogFile>>> = Mutex::new(Vec::new());

/// An open file of secrets.
pub struct KeyLogFile {
    path: PathBuf,
    file: RwLock<File>,
}

impl KeyLogFile {
    /// Opens the file at its end, or creates it. Errors: those of open(2).
    pub fn open(path: &Path) -> io::Result<Arc<Self>> {
        let opened = Arc::new(Self { path: path.into(), file: RwLock::new(open(path, None)?) });
        let mut all = all();
        all.retain(|file| file.strong_count() > 0);
        all.push(Arc::downgrade(&opened));
        Ok(opened)
    }
}

fn open(path: &Path, owner: Option<Owner>) -> io::Result<File> {
    let place = Place::of(path)?.followed()?;
    let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_NONBLOCK;
    let opened = place.open_or_create(flags, MODE)?;
    if let Some(owner) = owner {
        trusted::give(&opened, &place, owner)?;
    }
    Ok(opened.file)
}

/// The descriptors of the open files: a worker keeps them when it is forked.
pub fn descriptors() -> Vec<RawFd> {
    let of = |file: Arc<KeyLogFile>| file.file.read().unwrap_or_else(PoisonError::into_inner).as_raw_fd();
    all().iter().filter_map(Weak::upgrade).map(of).collect()
}

/// Reopens all files by path, on USR1. Where that fails the old descriptor stays in use. The master passes
/// `owner`, so that workers can open the files too.
pub fn reopen(owner: Option<Owner>) -> Result<(), Vec<OpenError>> {
    let mut errors = Vec::new();
    for log in all().iter().filter_map(Weak::upgrade) {
        match open(&log.path, owner) {
            Ok(file) => *log.file.write().unwrap_or_else(PoisonError::into_inner) = file,
            Err(cause) => errors.push(OpenError { path: log.path.display().to_string(), cause }),
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn all() -> MutexGuard<'static, Vec<Weak<KeyLogFile>>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for KeyLogFile {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("KeyLogFile")
    }
}

impl KeyLog for KeyLogFile {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let mut line = Zeroizing::new(String::with_capacity(256));
        line.push_str(label);
        for bytes in [client_random, secret] {
            line.push(' ');
            bytes.iter().for_each(|byte| write!(line, "{byte:02x}").unwrap_or_default());
        }
        line.push('\n');
        let file = self.file.read().unwrap_or_else(PoisonError::into_inner);
        let _ = (&*file).write(line.as_bytes()); // a full disk must not end the connection
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_line_has_the_label_the_client_s_random_and_the_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        for _ in 0..2 {
            KeyLogFile::open(&path).unwrap().log("CLIENT_RANDOM", &[1, 0xab], &[0xff, 0]);
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "CLIENT_RANDOM 01ab ff00\n".repeat(2));
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_was_moved_away_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("keys"), folder.path().join("keys.1"));
        let file = KeyLogFile::open(&path).unwrap();
        file.log("OLD", &[1], &[2]);
        std::fs::rename(&path, &old).unwrap();
        file.log("OLD", &[1], &[2]);
        reopen(None).unwrap();
        file.log("NEW", &[1], &[2]);
        assert_eq!(std::fs::read_to_string(&old).unwrap(), "OLD 01 02\n".repeat(2));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "NEW 01 02\n");
        assert!(descriptors().contains(&file.file.read().unwrap().as_raw_fd()));
    }
}
