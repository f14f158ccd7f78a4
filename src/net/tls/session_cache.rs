//! The server's session cache: `ssl_session_cache` and `ssl_session_timeout`.
//!
//! A zone is a table in shared memory (`shm/tls_sessions.rs`) which the server blocks that name it share, in all
//! workers; `builtin` names none, but is one too. Each server has a [`SessionCache`] over it, which is bound to the server's [`Context`]. rustls keeps there
//! the sessions of TLS 1.2 by their ID, and those of TLS 1.3 if no tickets are made; the latter are taken, so
//! each resumes once. Touches: shared memory, the monotonic clock, the log.
//! Behaviour: nginx.org, `ssl_session_cache`; RFC 8446 §4.6.1, RFC 5246 §7.4.1.2.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};

use rustls::server::StoresServerSessions;

use super::context::Context;
use crate::base::number::parse_size;
use crate::log;
use crate::shm::named::{self, Used};
use crate::shm::tls_sessions::Table;
use crate::sys::clock;

/// The default of `ssl_session_timeout`.
pub const TIMEOUT_S: u32 = 300;
/// nginx's least size of a zone: eight pages.
const BYTES_MIN: usize = 32 * 1024;
/// The sessions of `builtin` without a number, which are those of OpenSSL.
const BUILTIN_SESSIONS: usize = 20_480;
/// The most sessions of `builtin`: some 300 MiB if all are in use.
const BUILTIN_SESSIONS_MAX: usize = 1 << 20;
/// Memory for one session of `builtin`: four blocks of a table with their part of its index, enough for a session
/// without a client certificate and with a long name.
const BUILTIN_SESSION_BYTES: usize = 4 * 76;
/// More memory for one session where clients are asked for certificates: a kilobyte for a chain.
const BUILTIN_CHAIN_BYTES: usize = 16 * 76;
/// The length of rustls' session IDs and of its stateful tickets.
const ID_BYTES: usize = 32;
/// The interval at which a zone logs that it is too small.
const TOLD_EVERY_MS: u64 = 60_000;

/// One `ssl_session_cache` as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Directive {
    /// Clients are told that sessions cannot be used again.
    Off,
    /// Clients are told that they can, but none is kept. The default.
    None,
    /// `builtin`, with the number of sessions.
    Builtin {
        sessions: usize,
    },
    Shared {
        zone: Box<str>,
        bytes: usize,
    },
}

/// The reasons why arguments of `ssl_session_cache` are refused. Each names the argument, from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParseError {
    Invalid { argument: usize, text: Box<str> },
    TooSmall { argument: usize, text: Box<str> },
}

/// A zone is declared with another size than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SizeConflict {
    pub zone: Box<str>,
    pub bytes: usize,
    pub declared_bytes: usize,
}

/// The zones of session caches while a configuration is read, by name.
#[derive(Debug, Default)]
pub struct Zones(BTreeMap<Box<str>, Arc<Zone>>);

/// A zone that server blocks share.
#[derive(Debug)]
pub struct Zone {
    name: Box<str>,
    bytes: usize,
    /// Empty with `-t`, where nothing is served.
    table: OnceLock<Table>,
    /// The last time it logged that it forgot sessions before their time; 0: never.
    told_ms: AtomicU64,
}

/// The session cache of one server block.
#[derive(Debug)]
pub struct SessionCache {
    store: Store,
    context: Context,
    timeout_s: u32,
}

#[derive(Debug)]
enum Store {
    Off,
    None,
    Shared(Arc<Zone>),
}

impl Directive {
    /// Reads the arguments of `ssl_session_cache`: `off | none | [builtin[:SIZE]] [shared:NAME:SIZE]`. As in
    /// nginx `off` and `none` prevail over a zone. A zone prevails over `builtin`, which would keep each session
    /// twice.
    pub fn parse<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Result<Self, ParseError> {
        let (mut word, mut shared) = (None, None);
        for (argument, text) in arguments.into_iter().enumerate() {
            let invalid = || ParseError::Invalid { argument, text: text.into() };
            if let Some(value) = text.strip_prefix("shared:") {
                let (zone, size) = value.split_once(':').ok_or_else(invalid)?;
                let bytes = parse_size(size).and_then(|bytes| usize::try_from(bytes).ok());
                let bytes = bytes.filter(|_| !zone.is_empty()).ok_or_else(invalid)?;
                if bytes < BYTES_MIN {
                    return Err(ParseError::TooSmall { argument, text: text.into() });
                }
                shared = Some(Self::Shared { zone: zone.into(), bytes });
                continue;
            }
            word = Some(match text {
                "off" => Self::Off,
                "none" => Self::None,
                "builtin" => Self::Builtin { sessions: BUILTIN_SESSIONS },
                _ => {
                    let size = text.strip_prefix("builtin:").ok_or_else(invalid)?;
                    let sessions = size.parse::<u32>().ok().filter(|size| *size > 0).ok_or_else(invalid)?;
                    Self::Builtin { sessions: usize::try_from(sessions).unwrap_or(usize::MAX) }
                }
            });
        }
        Ok(match word {
            Some(word @ (Self::Off | Self::None)) => word,
            word => shared.or(word).unwrap_or(Self::None),
        })
    }
}

impl ParseError {
    /// The index of the argument that is refused.
    pub fn argument(&self) -> usize {
        match self {
            Self::Invalid { argument, .. } | Self::TooSmall { argument, .. } => *argument,
        }
    }

    /// What to write instead.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => {
                "write off, none, builtin:SESSIONS, or shared:NAME:SIZE, such as shared:TLS:10m"
            }
            Self::TooSmall { .. } => "a zone has 32k or more; one megabyte holds about 4000 sessions",
        }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid { text, .. } => write!(out, "invalid session cache \"{text}\""),
            Self::TooSmall { text, .. } => write!(out, "session cache \"{text}\" is too small"),
        }
    }
}

impl fmt::Display for SizeConflict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { zone, bytes, declared_bytes } = self;
        let conflict = "conflicts with already declared size";
        write!(out, "the size {bytes} of shared memory zone \"{zone}\" {conflict} {declared_bytes}")
    }
}

impl Zones {
    /// The zone of this name, declared here or before. Errors: it was declared with another size.
    pub fn declare(&mut self, name: &str, bytes: usize) -> Result<Arc<Zone>, SizeConflict> {
        let zone = self.0.entry(name.into()).or_insert_with(|| Arc::new(Zone::new(name, bytes)));
        if zone.bytes != bytes {
            return Err(SizeConflict { zone: name.into(), bytes, declared_bytes: zone.bytes });
        }
        Ok(zone.clone())
    }

    /// The zone of `builtin` for this number of sessions, with certificates of clients or without. Servers that ask
    /// for the same share it; beyond [`BUILTIN_SESSIONS_MAX`] it does not grow.
    pub fn builtin(&mut self, sessions: usize, are_certified: bool) -> Arc<Zone> {
        let sessions = sessions.min(BUILTIN_SESSIONS_MAX);
        let session_bytes = BUILTIN_SESSION_BYTES + if are_certified { BUILTIN_CHAIN_BYTES } else { 0 };
        let bytes = usize::max(sessions * session_bytes, BYTES_MIN);
        // Not a name that `shared:NAME:SIZE` can give.
        let name = format!("builtin:{sessions}");
        let key = format!("{name}:{bytes}").into_boxed_str();
        Arc::clone(self.0.entry(key).or_insert_with(|| Arc::new(Zone::new(&name, bytes))))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Zone>> {
        self.0.values()
    }
}

impl Zone {
    fn new(name: &str, bytes: usize) -> Self {
        Self { name: name.into(), bytes, table: OnceLock::new(), told_ms: AtomicU64::new(0) }
    }

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
        // The same after a reload unless the size has changed.
        named::name(&format!("ssl_session_cache {} {}", self.name, self.bytes))
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether it is time to log that the zone is too small.
    fn is_due(&self, now_ms: u64) -> bool {
        let told_ms = self.told_ms.load(Relaxed);
        let is_due = told_ms == 0 || now_ms.saturating_sub(told_ms) >= TOLD_EVERY_MS;
        if is_due {
            self.told_ms.store(now_ms.max(1), Relaxed);
        }
        is_due
    }

    #[cold]
    fn tell_too_small(&self, now_ms: u64) {
        if !self.is_due(now_ms) {
            return;
        }
        let written = if self.name.contains(':') {
            self.name.to_string()
        } else {
            format!("shared:{}:{}k", self.name, self.bytes / 1024)
        };
        log::warn!(
            log::process(),
            &(),
            "session cache \"{}\" is too small: it forgot sessions that had not expired; give \"ssl_session_cache\" \
             more than {}",
            self.name,
            written
        );
    }
}

impl SessionCache {
    /// `ssl_session_cache off`.
    pub fn off(context: Context) -> Self {
        Self { store: Store::Off, context, timeout_s: 0 }
    }

    /// `ssl_session_cache none`.
    pub fn none(context: Context) -> Self {
        Self { store: Store::None, context, timeout_s: 0 }
    }

    /// `ssl_session_cache shared:…` or `builtin`, with `ssl_session_timeout`.
    pub fn shared(zone: Arc<Zone>, context: Context, timeout_s: u32) -> Self {
        Self { store: Store::Shared(zone), context, timeout_s }
    }

    fn table(&self) -> Option<&Table> {
        match &self.store {
            Store::Off | Store::None => None,
            Store::Shared(zone) => zone.table.get(),
        }
    }

    fn put_at(&self, id: &[u8], value: &[u8], now_ms: u64) -> bool {
        let (Store::Shared(zone), Some(table)) = (&self.store, self.table()) else { return false };
        let Some(key) = self.key(id) else { return false };
        let Some(stored) = table.put(&key, value, self.timeout_s, seconds(now_ms)) else { return false };
        if stored.evicted > 0 {
            zone.tell_too_small(now_ms);
        }
        true
    }

    fn get_at(&self, id: &[u8], now_ms: u64) -> Option<Vec<u8>> {
        self.table()?.get(&self.key(id)?, self.timeout_s, seconds(now_ms))
    }

    fn take_at(&self, id: &[u8], now_ms: u64) -> Option<Vec<u8>> {
        self.table()?.take(&self.key(id)?, self.timeout_s, seconds(now_ms))
    }

    /// The key of a session of this context; `None` for an ID of a length that rustls does not make.
    fn key(&self, id: &[u8]) -> Option<[u8; 32]> {
        (id.len() == ID_BYTES).then(|| self.context.bind(id))
    }
}

impl StoresServerSessions for SessionCache {
    fn put(&self, id: Vec<u8>, value: Vec<u8>) -> bool {
        let value = zeroize::Zeroizing::new(value);
        self.put_at(&id, &value, clock::monotonic_ms())
    }

    fn get(&self, id: &[u8]) -> Option<Vec<u8>> {
        self.get_at(id, clock::monotonic_ms())
    }

    fn take(&self, id: &[u8]) -> Option<Vec<u8>> {
        self.take_at(id, clock::monotonic_ms())
    }

    fn can_cache(&self) -> bool {
        !matches!(self.store, Store::Off)
    }
}

/// Seconds of the monotonic clock, which go up to 136 years.
fn seconds(now_ms: u64) -> u32 {
    u32::try_from(now_ms / 1000).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::context::Settings;
    use super::*;

    fn context(name: &str) -> Context {
        Context::new(&Settings { server: &[name.as_bytes()], ..Settings::default() })
    }

    #[test]
    fn arguments_are_read_as_nginx_reads_them() {
        let shared = |zone: &str, bytes| Directive::Shared { zone: zone.into(), bytes };
        let builtin = |sessions| Directive::Builtin { sessions };
        let cases: [(&[&str], Directive); 11] = [
            (&["off"], Directive::Off),
            (&["none"], Directive::None),
            (&["builtin"], builtin(20_480)),
            (&["builtin:1000"], builtin(1000)),
            (&["builtin:10", "builtin:20"], builtin(20)),
            (&["builtin", "none"], Directive::None),
            (&["shared:TLS:10m"], shared("TLS", 10 << 20)),
            (&["shared:a:32k"], shared("a", 32 << 10)),
            (&["builtin:1000", "shared:TLS:1m"], shared("TLS", 1 << 20)),
            (&["shared:TLS:1m", "off"], Directive::Off),
            (&["shared:a:1m", "shared:b:1m"], shared("b", 1 << 20)),
        ];
        for (arguments, expected) in cases {
            assert_eq!(Directive::parse(arguments.iter().copied()), Ok(expected), "{arguments:?}");
        }
    }

    #[test]
    fn builtin_has_room_for_as_many_sessions_as_it_says() {
        let mut zones = Zones::default();
        for (sessions, are_certified) in [(1, false), (1000, false), (1000, true), (BUILTIN_SESSIONS, false)]
        {
            let zone = zones.builtin(sessions, are_certified);
            zone.open().expect("maps");
            let cache = SessionCache::shared(zone, context("builtin"), TIMEOUT_S);
            let id = |index: usize| {
                let mut id = [7; ID_BYTES];
                id[..8].copy_from_slice(&index.to_ne_bytes());
                id
            };
            let value = vec![1; if are_certified { 1200 } else { 200 }];
            (0..sessions).for_each(|index| assert!(cache.put_at(&id(index), &value, 1000)));
            let known = (0..sessions).filter(|index| cache.get_at(&id(*index), 2000).is_some()).count();
            assert!(known * 100 >= sessions * 99, "{known} of {sessions}");
        }
        let one = zones.builtin(1000, false);
        assert!(Arc::ptr_eq(&one, &zones.builtin(1000, false)), "one for all servers");
        assert_eq!(zones.builtin(usize::MAX, false).bytes(), BUILTIN_SESSIONS_MAX * BUILTIN_SESSION_BYTES);
        assert!(zones.declare("builtin", 64 << 10).is_ok(), "another zone");
        assert_eq!(zones.iter().count(), 6);
    }

    #[test]
    fn wrong_arguments_are_named() {
        let cases = [
            "on",
            "",
            "shared",
            "shared:TLS",
            "shared::1m",
            "shared:TLS:",
            "shared:TLS:x",
            "shared:TLS:1m:2",
            "builtin:",
            "builtin:0",
            "builtin:x",
        ];
        for text in cases {
            let error = Directive::parse(["builtin", text]).expect_err(text);
            assert_eq!(error, ParseError::Invalid { argument: 1, text: text.into() });
            assert_eq!(error.to_string(), format!("invalid session cache \"{text}\""));
        }
        let error = Directive::parse(["shared:TLS:31k"]).expect_err("too small");
        assert_eq!(
            (error.argument(), error.to_string().as_str()),
            (0, "session cache \"shared:TLS:31k\" is too small")
        );
    }

    #[test]
    fn a_zone_is_shared_and_has_one_size() {
        let mut zones = Zones::default();
        let one = zones.declare("TLS", 64 << 10).expect("declared");
        assert!(Arc::ptr_eq(&one, &zones.declare("TLS", 64 << 10).expect("the same")));
        let error = zones.declare("TLS", 1 << 20).expect_err("another size");
        let text =
            "the size 1048576 of shared memory zone \"TLS\" conflicts with already declared size 65536";
        assert_eq!(error.to_string(), text);
        assert_ne!(zones.declare("other", 64 << 10).expect("declared").id(), one.id());
        assert_eq!(zones.iter().count(), 2);
    }

    #[test]
    fn sessions_are_found_under_their_context_only() {
        let zone = Zones::default().declare("session_cache.test", 64 << 10).expect("declared");
        let cache = |name| SessionCache::shared(zone.clone(), context(name), TIMEOUT_S);
        let (one, same, other) = (cache("a"), cache("a"), cache("b"));
        let id = [7; ID_BYTES];
        assert!(!one.put_at(&id, b"session", 1000), "without memory, as with -t, nothing is kept");
        zone.open().expect("maps");
        assert!(one.put_at(&id, b"session", 1000));
        assert_eq!(
            same.get_at(&id, 2000).as_deref(),
            Some(&b"session"[..]),
            "two servers with equal settings"
        );
        assert_eq!(other.get_at(&id, 2000), None);
        assert_eq!(other.take_at(&id, 2000), None);
        assert_eq!(one.get_at(&id, 301_000), None, "expired");
        for id in [&b""[..], &[7; 31], &[7; 33], &[7; 70_000]] {
            assert!(!one.put_at(id, b"session", 1000) && one.get_at(id, 1000).is_none());
        }
        assert_eq!(same.take_at(&id, 2000).as_deref(), Some(&b"session"[..]));
        assert_eq!(one.take_at(&id, 2000), None, "once");
        assert!(!one.put_at(&id, &[0; 40_000], 1000), "too large");
    }

    #[test]
    fn off_and_none_differ_in_what_the_client_is_told() {
        let (off, none) = (SessionCache::off(context("a")), SessionCache::none(context("a")));
        assert_eq!((off.can_cache(), none.can_cache()), (false, true));
        for cache in [off, none] {
            assert!(!cache.put([7; ID_BYTES].into(), b"session".to_vec()));
            assert_eq!((cache.get(&[7; ID_BYTES]), cache.take(&[7; ID_BYTES])), (None, None));
        }
    }

    #[test]
    fn a_zone_says_once_a_minute_that_it_is_too_small() {
        let zone = Zone::new("session_cache.told", 32 << 10);
        let due = [5_000, 5_001, 64_999, 65_000, 65_001].map(|now_ms| zone.is_due(now_ms));
        assert_eq!(due, [true, false, false, true, false]);
    }
}
