//! The folder of an issuer (`state_path`): its account, and for each certificate the chain with its key and the state
//! of its order.
//!
//! A file is written beside the one that it replaces, on the disk before it takes its place, and readable to nobody
//! else: so a crash or a full disk leaves what was there. One process at a time works with a folder ([`Lock`]).

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::net::acme::file_name;
use crate::net::acme::schedule::Failed;
use crate::net::tls::certificate::Certificate;
use crate::net::tls::pem::Passwords;

const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The state of a certificate that is kept besides it.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Memory {
    /// The order that is under way.
    pub order: Option<Begun>,
    pub failures: u32,
    pub retry_at_s: i64,
    pub retry_is_asked_for: bool,
    /// Why the last attempt failed.
    pub error: Option<String>,
    /// When the certificate came.
    pub issued_at_s: i64,
    /// The time that was chosen in the window which the authority suggests.
    pub renew_at_s: Option<i64>,
    /// When to ask for that window again.
    pub ask_window_at_s: i64,
}

/// An order that was sent to the authority: after a crash it goes on, so that nothing is asked for twice.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Begun {
    pub url: String,
    /// The directory of the authority.
    pub directory: String,
    /// The private key of the certificate, in PEM.
    pub key: String,
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl Memory {
    pub fn failed(&self) -> Failed {
        Failed { count: self.failures, retry_at_s: self.retry_at_s, is_asked_for: self.retry_is_asked_for }
    }

    pub fn set_failed(&mut self, failed: Failed) {
        (self.failures, self.retry_at_s, self.retry_is_asked_for) =
            (failed.count, failed.retry_at_s, failed.is_asked_for);
    }
}

/// A folder.
#[derive(Debug)]
pub struct Folder(PathBuf);

/// The right to work with a folder; the kernel takes it back when the process ends.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code, reason = "held for its drop")] Flock<File>);

impl Folder {
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// `None`: another process works with it.
    pub fn lock(&self) -> io::Result<Option<Lock>> {
        let path = self.0.join("lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(Lock(lock))),
            Err((_, nix::Error::EWOULDBLOCK)) => Ok(None),
            Err((_, error)) => Err(error.into()),
        }
    }

    /// The account at the authority with this directory; `None`: there is none yet.
    pub fn account(&self, directory: &str) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        self.read(&account_file(directory))
    }

    pub fn set_account(&self, directory: &str, content: &[u8]) -> io::Result<()> {
        self.write(&account_file(directory), content)
    }

    pub fn remove_account(&self, directory: &str) {
        let _ = std::fs::remove_file(self.0.join(account_file(directory)));
    }

    /// Reads the state of a certificate; a file that cannot be understood counts as none.
    pub fn memory(&self, stem: &str) -> io::Result<Memory> {
        let text = self.read(&format!("{stem}.json"))?;
        Ok(text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default())
    }

    pub fn set_memory(&self, stem: &str, memory: &Memory) -> io::Result<()> {
        let text = Zeroizing::new(serde_json::to_vec(memory)?);
        self.write(&format!("{stem}.json"), &text)
    }

    /// The certificate; `None`: there is none that can be used.
    pub fn certificate(&self, stem: &str) -> io::Result<Option<Certificate>> {
        let Some(text) = self.read(&file_name(stem))? else { return Ok(None) };
        Ok(Certificate::from_pem(&text, &text, &Passwords::default()).ok())
    }

    /// Replaces key and chain at once.
    pub fn set_certificate(&self, stem: &str, key: &str, chain: &str) -> io::Result<()> {
        let text = Zeroizing::new(format!("{}\n{chain}", key.trim_end()));
        self.write(&file_name(stem), text.as_bytes())
    }

    fn read(&self, name: &str) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        let file = match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(self.0.join(name))
        {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let mut data = Zeroizing::new(Vec::with_capacity(8 * 1024));
        file.take(FILE_BYTES_MAX).read_to_end(&mut data)?;
        Ok(Some(data))
    }

    fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let fresh = self.0.join(format!(".{name}.new"));
        let outcome = (|| {
            let mut options = OpenOptions::new();
            let mut file = options.create(true).truncate(true).write(true).mode(0o600).open(&fresh)?;
            file.set_permissions(PermissionsExt::from_mode(0o600))?; // it may be a leftover
            file.write_all(content)?;
            file.sync_all()?;
            std::fs::rename(&fresh, self.0.join(name))?;
            File::open(&self.0)?.sync_all()
        })();
        outcome.inspect_err(|_| {
            let _ = std::fs::remove_file(&fresh);
        })
    }
}

fn account_file(directory: &str) -> String {
    let hash = digest::digest(&digest::SHA256, directory.as_bytes());
    let hash: String = hash.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("account-{hash}.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_private_and_replaced_at_once() {
        let place = tempfile::tempdir().expect("a folder");
        let folder = Folder::new(place.path());
        assert!(folder.account("https://one/").expect("readable").is_none());
        folder.set_account("https://one/", b"first").expect("written");
        folder.set_account("https://one/", b"second").expect("written");
        assert_eq!(folder.account("https://one/").expect("readable").as_deref(), Some(&b"second".to_vec()));
        assert!(folder.account("https://two/").expect("readable").is_none());
        let names: Vec<_> = std::fs::read_dir(place.path()).expect("a folder").flatten().collect();
        assert_eq!(names.len(), 1, "no leftover");
        let mode = names[0].metadata().expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn what_cannot_be_written_leaves_the_old_file() {
        let place = tempfile::tempdir().expect("a folder");
        let folder = Folder::new(place.path());
        folder.set_certificate("a", "key", "chain").expect("written");
        std::fs::create_dir(place.path().join(".a.pem.new")).expect("it is in the way");
        folder.set_certificate("a", "other", "other").expect_err("a folder is no file");
        let text = std::fs::read_to_string(place.path().join("a.pem")).expect("there");
        assert_eq!(text, "key\nchain");
    }

    #[test]
    fn one_process_works_with_a_folder() {
        let place = tempfile::tempdir().expect("a folder");
        let folder = Folder::new(place.path());
        let lock = folder.lock().expect("a lock");
        assert!(lock.is_some() && folder.lock().expect("no lock").is_none());
        drop(lock);
        assert!(folder.lock().expect("a lock").is_some());
    }

    #[test]
    fn what_is_remembered_survives_and_damage_is_forgotten() {
        let place = tempfile::tempdir().expect("a folder");
        let folder = Folder::new(place.path());
        let order = Begun { url: "u".into(), directory: "d".into(), key: "k".into() };
        let memory = Memory { order: Some(order), failures: 3, ..Memory::default() };
        folder.set_memory("a", &memory).expect("written");
        let read = folder.memory("a").expect("readable");
        assert_eq!((read.failures, read.order.as_ref().map(|it| &*it.url)), (3, Some("u")));
        std::fs::write(place.path().join("a.json"), "{\"failures\":").expect("written");
        assert_eq!(folder.memory("a").expect("readable").failures, 0);
    }
}
