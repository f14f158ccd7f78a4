//! Sessions in memory that all workers share: a table of bounded size, in which the oldest make room.
//!
//! A key is a digest, so that whoever reads the memory cannot use a session's cookie. A session may have two more entries:
//! the right to refresh it, which exactly one worker can take, and its place in the lists of those that belong to one session
//! at the provider, and to one user. Nothing is stored for logins that are not finished.
//! Touches: that memory, the clock.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use aws_lc_rs::digest;

use crate::log::{self, Logger};
use crate::proto::oidc::session::{Refresh, Session, listed};
use crate::shm::named::{self, Used};
pub use crate::shm::tls_sessions::Key;
use crate::shm::tls_sessions::Table;
use crate::sys::clock;

/// The memory of a provider without `session_store`; nginx's default.
pub const BYTES: usize = 8 * 1024 * 1024;
/// How often the log says that the memory is too small.
const TOLD_EVERY_MS: u64 = 60_000;

/// The memory of sessions.
#[derive(Debug, Default)]
pub struct Store {
    name: Box<str>,
    bytes: usize,
    /// `None` with `-t`.
    table: Option<Table>,
    told_ms: AtomicU64,
}

/// Why a session cannot be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge {
    pub bytes: usize,
    pub bytes_max: usize,
}

impl std::fmt::Display for TooLarge {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { bytes, bytes_max } = self;
        write!(out, "the session has {bytes} bytes, and at most {bytes_max} are kept: ")?;
        out.write_str("have the provider put fewer claims into its tokens, or do without \"userinfo\"")
    }
}

/// The monotonic clock that all workers share.
pub fn now_s() -> u32 {
    u32::try_from(clock::monotonic_s()).unwrap_or(u32::MAX)
}

/// The key of an entry of this kind.
pub fn key(kind: &str, id: &[u8]) -> Key {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(kind.as_bytes());
    context.update(&[0]);
    context.update(id);
    context.finish().as_ref().try_into().unwrap_or([0; 32])
}

impl Store {
    pub fn new(name: &str, bytes: usize) -> Self {
        Self { name: name.into(), bytes, ..Self::default() }
    }

    /// Maps the memory. For the master when a configuration is complete; not with `-t`.
    pub fn open(&mut self) -> io::Result<()> {
        self.table = Some(Table::open(self.id(), self.bytes)?);
        Ok(())
    }

    pub fn used(&self) -> Used {
        Used { name: self.id(), bytes: self.bytes }
    }

    fn id(&self) -> u64 {
        // The same after a reload unless the size has changed.
        named::name(&format!("auth_oidc {} {}", self.name, self.bytes))
    }

    pub fn session(&self, key: &Key, timeout_s: u32) -> Option<Session> {
        Session::of(&self.table?.get(key, timeout_s, now_s())?)
    }

    /// Keeps a session for `timeout_s`. `refresh`: its refresh token.
    pub fn put(
        &self,
        key: &Key,
        session: &Session,
        refresh: Option<&str>,
        timeout_s: u32,
        log: Logger,
    ) -> Result<(), TooLarge> {
        self.put_bytes(key, &session.to_bytes(), timeout_s, log)?;
        if let Some(token) = refresh {
            let right = Refresh { not_before_s: 0, token: token.to_owned() };
            self.put_right(key, &right, timeout_s, log)?;
        }
        Ok(())
    }

    /// Puts back the right to refresh a session.
    pub fn put_right(
        &self,
        session: &Key,
        right: &Refresh,
        timeout_s: u32,
        log: Logger,
    ) -> Result<(), TooLarge> {
        self.put_bytes(&key("refresh", session), &right.to_bytes(), timeout_s, log)
    }

    /// Takes the right to refresh a session, if that is due: nobody else has it then.
    pub fn take_right(&self, session: &Key, timeout_s: u32) -> Option<Refresh> {
        let (table, key) = (self.table?, key("refresh", session));
        let seen = Refresh::of(&table.get(&key, timeout_s, now_s())?)?;
        if now_s() < seen.not_before_s {
            return None;
        }
        Refresh::of(&table.take(&key, timeout_s, now_s())?)
    }

    /// Adds a session to a list: that of a session at the provider, or of a user.
    pub fn enlist(&self, list: &Key, session: &Key, timeout_s: u32, log: Logger) {
        let known = self.table.and_then(|table| table.get(list, timeout_s, now_s())).unwrap_or_default();
        let (all, surplus) = listed(&known, session, |other| self.session(other, timeout_s).is_some());
        surplus.iter().for_each(|other| self.remove(other));
        // A list is far shorter than the longest entry.
        let _ = self.put_bytes(list, &all, timeout_s, log);
    }

    /// Notes an id, for `lifetime_s`.
    pub fn note(&self, id: &Key, lifetime_s: u32, log: Logger) {
        // A byte is never too long.
        let _ = self.put_bytes(id, &[1], lifetime_s, log);
    }

    pub fn is_noted(&self, id: &Key) -> bool {
        self.table.is_some_and(|table| table.get(id, u32::MAX, now_s()).is_some())
    }

    /// Removes a session, and the right to refresh it.
    pub fn remove(&self, session: &Key) {
        if let Some(table) = self.table {
            let _ = table.take(session, u32::MAX, now_s());
            let _ = table.take(&key("refresh", session), u32::MAX, now_s());
        }
    }

    /// Removes the sessions of a list for which `is_meant` is true. Returns how many there were.
    pub fn remove_listed(&self, list: &Key, is_meant: impl Fn(&Session) -> bool) -> usize {
        let taken = self.table.and_then(|table| table.take(list, u32::MAX, now_s())).unwrap_or_default();
        let keys = taken.as_chunks::<32>().0.iter();
        let meant = keys.filter(|key| self.session(key, u32::MAX).is_some_and(|session| is_meant(&session)));
        meant.map(|key| self.remove(key)).count()
    }

    fn put_bytes(&self, key: &Key, bytes: &[u8], timeout_s: u32, log: Logger) -> Result<(), TooLarge> {
        let Some(table) = self.table else { return Ok(()) };
        let bytes_max = table.value_bytes_max();
        if bytes.len() > bytes_max {
            return Err(TooLarge { bytes: bytes.len(), bytes_max });
        }
        // `None`: other workers were quicker each time; the client logs in again.
        let stored = table.put(key, bytes, timeout_s, now_s()).unwrap_or_default();
        if stored.evicted > 0 && self.is_due() {
            log::warn!(
                log,
                &(),
                "sessions of auth_oidc had to go before their time: the memory of {} is too small: raise it by \
                 \"session_store\" with a larger \"keyval_zone\"",
                self.name
            );
        }
        Ok(())
    }

    fn is_due(&self) -> bool {
        let (told_ms, now_ms) = (self.told_ms.load(Relaxed), clock::monotonic_ms());
        let is_due = told_ms == 0 || now_ms.saturating_sub(told_ms) >= TOLD_EVERY_MS;
        if is_due {
            self.told_ms.store(now_ms.max(1), Relaxed);
        }
        is_due
    }
}
