//! A file for the secrets of connections (`ssl_key_log`), in the format that packet analyzers read.
//!
//! Touches: the file, which the master opens and the workers write. A line is one write at the end of the
//! file, so that those of several workers do not mix. Truth: NSS key log format, draft-ietf-tls-keylogfile.

use std::fmt;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::fcntl::OFlag;
use rustls::KeyLog;
use zeroize::Zeroizing;

use crate::sys::trusted::Place;

/// Whoever reads the file can decrypt the connections.
const MODE: u32 = 0o600;

/// The open files, which a worker needs.
static OPEN: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());

/// An open file of secrets.
pub struct KeyLogFile(File);

impl KeyLogFile {
    /// Opens the file at its end, or creates it. Errors: those of open(2).
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_NONBLOCK;
        let file = Place::of(path)?.followed()?.open_or_create(flags, MODE)?.file;
        open_files().push(file.as_raw_fd());
        Ok(Self(file))
    }
}

impl Drop for KeyLogFile {
    fn drop(&mut self) {
        open_files().retain(|fd| *fd != self.0.as_raw_fd());
    }
}

/// The descriptors of the open files: a worker keeps them when it is forked.
pub fn descriptors() -> Vec<RawFd> {
    open_files().clone()
}

fn open_files() -> MutexGuard<'static, Vec<RawFd>> {
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
        let _ = (&self.0).write(line.as_bytes()); // a full disk must not end the connection
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
}
