//! The statuses of clients' certificates that all workers share (`ssl_ocsp_cache shared:NAME:SIZE`).
//!
//! A zone is a table in shared memory like that of TLS sessions (`shm/tls_sessions.rs`), with one byte for
//! each certificate: a worker that dies at any instruction leaves it valid, and the oldest entries make room.
//! Touches: shared memory, the monotonic clock.
//! Behaviour: nginx.org, `ssl_ocsp_cache`.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};

use crate::base::number::parse_size;
use crate::net::tls::session_cache::SizeConflict;
use crate::net::tls::verify::ocsp::Status;
use crate::shm::named::{self, Used};
use crate::shm::tls_sessions::{Key, Table};
use crate::sys::clock;

/// nginx's least size of a zone: eight pages.
const BYTES_MIN: usize = 32 * 1024;
/// How long a status without an end is kept.
const ENDLESS_S: i64 = 3600;

/// One `ssl_ocsp_cache` as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Directive {
    Off,
    Shared { zone: Box<str>, bytes: usize },
}

/// Why the argument is refused. Displayed in nginx's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseError<'a> {
    Invalid(&'a str),
    TooSmall(&'a str),
}

impl fmt::Display for ParseError<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(text) => write!(out, "invalid OCSP cache \"{text}\""),
            Self::TooSmall(text) => write!(out, "OCSP cache \"{text}\" is too small"),
        }
    }
}

impl Directive {
    /// Reads `off` or `shared:NAME:SIZE`.
    pub fn parse(text: &str) -> Result<Self, ParseError<'_>> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let parts = text.strip_prefix("shared:").and_then(|rest| rest.split_once(':'));
        let (zone, size) = parts.filter(|(zone, _)| !zone.is_empty()).ok_or(ParseError::Invalid(text))?;
        let bytes = parse_size(size).and_then(|bytes| usize::try_from(bytes).ok());
        match bytes.ok_or(ParseError::Invalid(text))? {
            bytes if bytes < BYTES_MIN => Err(ParseError::TooSmall(text)),
            bytes => Ok(Self::Shared { zone: zone.into(), bytes }),
        }
    }
}

/// The zones while a configuration is read, by name.
#[derive(Debug, Default)]
pub struct Zones(BTreeMap<Box<str>, Arc<Zone>>);

impl Zones {
    /// The zone of this name, declared here or before. Errors: it was declared with another size.
    pub fn declare(&mut self, name: &str, bytes: usize) -> Result<Arc<Zone>, SizeConflict> {
        let new = || Arc::new(Zone { name: name.into(), bytes, table: OnceLock::new() });
        let zone = self.0.entry(name.into()).or_insert_with(new);
        if zone.bytes != bytes {
            return Err(SizeConflict { zone: name.into(), bytes, declared_bytes: zone.bytes });
        }
        Ok(Arc::clone(zone))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Zone>> {
        self.0.values()
    }
}

/// A zone that servers share.
#[derive(Debug)]
pub struct Zone {
    name: Box<str>,
    bytes: usize,
    /// Empty with `-t`, where nothing is served.
    table: OnceLock<Table>,
}

impl Zone {
    /// Maps its memory. For the master when a configuration is complete; not with `-t`.
    pub fn open(&self) -> io::Result<()> {
        if self.table.get().is_none() {
            let _ = self.table.set(Table::open(self.id(), self.bytes)?);
        }
        Ok(())
    }

    /// Its memory.
    pub fn used(&self) -> Used {
        Used { name: self.id(), bytes: self.bytes }
    }

    fn id(&self) -> u64 {
        named::name(&format!("ssl_ocsp_cache {} {}", self.name, self.bytes))
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The status of a certificate, unless it has expired.
    pub fn get(&self, key: &Key) -> Option<Status> {
        self.get_at(key, clock::monotonic_ms())
    }

    /// Keeps a status until it expires (seconds since 1970; `None`: for an hour).
    pub fn put(&self, key: &Key, status: Status, valid_until_s: Option<i64>) {
        let now_s = clock::wall_seconds();
        let left_s = valid_until_s.map_or(ENDLESS_S, |until_s| until_s.saturating_sub(now_s));
        self.put_at(key, status, left_s, clock::monotonic_ms());
    }

    fn get_at(&self, key: &Key, now_ms: u64) -> Option<Status> {
        match *self.table.get()?.get(key, u32::MAX, seconds(now_ms))? {
            [0] => Some(Status::Good),
            [1] => Some(Status::Revoked),
            [2] => Some(Status::Unknown),
            _ => None,
        }
    }

    fn put_at(&self, key: &Key, status: Status, left_s: i64, now_ms: u64) {
        let Some(table) = self.table.get().filter(|_| left_s > 0) else { return };
        let lifetime_s = u32::try_from(left_s).unwrap_or(u32::MAX);
        let byte = match status {
            Status::Good => 0,
            Status::Revoked => 1,
            Status::Unknown => 2,
        };
        table.put(key, &[byte], lifetime_s, seconds(now_ms));
    }
}

/// Seconds of the monotonic clock, which go up to 136 years.
fn seconds(now_ms: u64) -> u32 {
    u32::try_from(now_ms / 1000).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_as_nginx_reads_them() {
        assert_eq!(Directive::parse("off"), Ok(Directive::Off));
        let shared = Directive::Shared { zone: "a".into(), bytes: 1 << 20 };
        assert_eq!(Directive::parse("shared:a:1m"), Ok(shared));
        for text in ["on", "", "shared", "shared:a", "shared::1m", "shared:a:", "shared:a:x", "builtin"] {
            assert_eq!(Directive::parse(text), Err(ParseError::Invalid(text)));
        }
        let error = Directive::parse("shared:a:31k").expect_err("too small");
        assert_eq!(error.to_string(), "OCSP cache \"shared:a:31k\" is too small");
        assert_eq!(ParseError::Invalid("x").to_string(), "invalid OCSP cache \"x\"");
    }

    #[test]
    fn a_status_is_kept_until_it_expires() {
        let mut zones = Zones::default();
        let zone = zones.declare("cache.test", 64 << 10).expect("declared");
        assert!(Arc::ptr_eq(&zone, &zones.declare("cache.test", 64 << 10).expect("the same")));
        assert!(zones.declare("cache.test", 1 << 20).is_err(), "another size");
        let key = |byte| [byte; 32];
        zone.put_at(&key(1), Status::Good, 60, 1000);
        assert_eq!(zone.get_at(&key(1), 1000), None, "without memory, as with -t, nothing is kept");
        zone.open().expect("maps");
        let statuses = [Status::Good, Status::Revoked, Status::Unknown];
        for (byte, status) in (1..).zip(statuses) {
            zone.put_at(&key(byte), status, 60, 1000);
            assert_eq!(zone.get_at(&key(byte), 60_999), Some(status));
            assert_eq!(zone.get_at(&key(byte), 61_000), None, "expired");
        }
        zone.put_at(&key(1), Status::Revoked, i64::MAX, 1000);
        assert_eq!(zone.get_at(&key(1), 1 << 40), Some(Status::Revoked), "the newer one");
        zone.put_at(&key(5), Status::Good, 0, 1000);
        zone.put_at(&key(6), Status::Good, -1, 1000);
        assert_eq!((zone.get_at(&key(5), 1000), zone.get_at(&key(6), 1000)), (None, None));
    }
}
