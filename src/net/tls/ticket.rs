//! Session tickets: `ssl_session_tickets`, `ssl_session_ticket_key`.
//!
//! ```text
//! ticket: name of the key: 16 | IV: 16 | AES-CBC(issued_s: 8, session) | HMAC-SHA256(context, all before): 32
//! ```
//! That is how nginx and OpenSSL seal theirs (RFC 5077 §4), with two additions: the MAC also covers the
//! [`Context`] of the server block, so that a ticket is worthless at another one, and the time of issue is
//! inside, so that a ticket ends with `ssl_session_timeout` although its key goes on. The MAC is checked, in
//! constant time, before anything is decrypted. Keys come from files, or from memory that all workers share
//! (`shm/ticket_keys.rs`), where they are replaced in time. Touches: files of keys, shared memory, both
//! clocks, random bytes.
//! Behaviour: nginx.org, `ssl_session_ticket_key`; RFC 5077, RFC 8446 §4.6.1.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use aws_lc_rs::cipher::{
    self, DecryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::{constant_time, hmac, iv, rand};
use rustls::server::ProducesTickets;
use zeroize::Zeroizing;

use super::context::Context;
use crate::log;
use crate::shm::named::{self, Used};
use crate::shm::ticket_keys;
use crate::sys::clock;

const NAME_BYTES: usize = ticket_keys::NAME_BYTES;
const BLOCK_BYTES: usize = 16;
const MAC_BYTES: usize = 32;
const ISSUED_BYTES: usize = 8;
const HEAD_BYTES: usize = NAME_BYTES + BLOCK_BYTES;
/// The largest ticket that fits into its extension and its message.
const TICKET_BYTES_MAX: usize = u16::MAX as usize;

/// The longest lifetime of a ticket (RFC 8446 §4.6.1): seven days.
const LIFETIME_S_MAX: u32 = 604_800;
/// How far the clock of another machine with the same key files may be ahead.
const SKEW_S_MAX: u64 = 60;

/// A key that seals and opens tickets.
pub struct TicketKey {
    name: [u8; NAME_BYTES],
    mac: hmac::Key,
    aes: Zeroizing<Vec<u8>>,
}

/// The reasons why a file of `ssl_session_ticket_key` is refused; to be read after the file's name.
#[derive(Debug)]
pub enum KeyFileError {
    Unreadable(io::Error),
    Size { bytes: u64 },
}

/// The keys of one or more server blocks.
#[derive(Clone, Debug)]
pub enum Keys {
    /// Of `ssl_session_ticket_key`: the first seals, all open. Not empty, or no ticket is issued.
    Files(Arc<[TicketKey]>),
    /// Made by the first worker that needs one.
    Shared(Arc<SharedKeys>),
}

/// Keys in shared memory, for all server blocks with the same lifetime of tickets.
#[derive(Debug)]
pub struct SharedKeys {
    period_s: u32,
    /// Empty with `-t`, where nothing is served.
    memory: OnceLock<ticket_keys::Keys>,
}

/// Issues and accepts the tickets of one server block.
#[derive(Debug)]
pub struct Ticketer {
    keys: Keys,
    context: Context,
    lifetime_s: u32,
}

/// The two clocks, in seconds.
#[derive(Clone, Copy, Debug)]
struct Now {
    /// Since 1970: tickets may come from another machine.
    wall_s: u64,
    /// Monotonic, for the keys.
    running_s: u32,
}

impl TicketKey {
    /// Of the bytes of a key file: 48, which are a name, an AES-128 key and an HMAC key of 16 each; or 80,
    /// which are a name (16), an HMAC key and an AES-256 key of 32 each.
    pub fn parse(bytes: &[u8]) -> Result<Self, KeyFileError> {
        let wrong = KeyFileError::Size { bytes: bytes.len() as u64 };
        let Some((name, keys)) = bytes.split_first_chunk() else { return Err(wrong) };
        let (mac, aes) = match keys.len() {
            32 => (&keys[16..], &keys[..16]),
            64 => (&keys[..32], &keys[32..]),
            _ => return Err(wrong),
        };
        Ok(Self {
            name: *name,
            mac: hmac::Key::new(hmac::HMAC_SHA256, mac),
            aes: Zeroizing::new(aes.to_vec()),
        })
    }

    /// Of a key file.
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        // Ask for the size first: to open a named pipe would wait for its other end.
        let bytes = std::fs::metadata(path).map_err(KeyFileError::Unreadable)?.len();
        if bytes != 48 && bytes != 80 {
            return Err(KeyFileError::Size { bytes });
        }
        let file = File::open(path).map_err(KeyFileError::Unreadable)?;
        let mut buffer = Zeroizing::new(Vec::with_capacity(128));
        file.take(81).read_to_end(&mut buffer).map_err(KeyFileError::Unreadable)?;
        Self::parse(&buffer)
    }

    /// `None`: the system has no random bytes, or the ticket would be too long.
    fn seal(&self, plain: &[u8], context: &Context, issued_s: u64) -> Option<Vec<u8>> {
        // With its padding, so that no reallocation leaves a copy behind.
        let mut sealed = Zeroizing::new(Vec::with_capacity(ISSUED_BYTES + plain.len() + BLOCK_BYTES));
        sealed.extend_from_slice(&issued_s.to_be_bytes());
        sealed.extend_from_slice(plain);
        let key = PaddedBlockEncryptingKey::cbc_pkcs7(self.cipher()?).ok()?;
        let DecryptionContext::Iv128(iv) = key.encrypt(&mut *sealed).ok()? else { return None };
        let length = HEAD_BYTES + sealed.len() + MAC_BYTES;
        if length > TICKET_BYTES_MAX {
            return None;
        }
        let mut ticket = Vec::with_capacity(length);
        ticket.extend_from_slice(&self.name);
        ticket.extend_from_slice(iv.as_ref());
        ticket.extend_from_slice(&sealed);
        let mac = self.mac(context, &ticket);
        ticket.extend_from_slice(mac.as_ref());
        Some(ticket)
    }

    /// The session in a ticket that starts with this key's name, and its time of issue. `None`: it is not
    /// ours, or of another context, or damaged.
    fn open(&self, ticket: &[u8], context: &Context) -> Option<(u64, Vec<u8>)> {
        let (sealed, mac) = ticket.split_last_chunk::<MAC_BYTES>()?;
        let expected = self.mac(context, sealed);
        constant_time::verify_slices_are_equal(expected.as_ref(), mac).ok()?;
        let (_, iv_and_text) = sealed.split_first_chunk::<NAME_BYTES>()?;
        let (iv, text) = iv_and_text.split_first_chunk::<BLOCK_BYTES>()?;
        let mut text = Zeroizing::new(text.to_vec());
        let key = PaddedBlockDecryptingKey::cbc_pkcs7(self.cipher()?).ok()?;
        let iv = DecryptionContext::Iv128(iv::FixedLength::from(iv));
        let plain = key.decrypt(&mut text, iv).ok()?;
        let (issued_s, session) = plain.split_first_chunk()?;
        Some((u64::from_be_bytes(*issued_s), session.to_vec()))
    }

    fn mac(&self, context: &Context, bytes: &[u8]) -> hmac::Tag {
        let mut mac = hmac::Context::with_key(&self.mac);
        // First, where a ticket of nginx under the same key has the name of its key.
        mac.update(context.as_bytes());
        mac.update(bytes);
        mac.sign()
    }

    fn cipher(&self) -> Option<UnboundCipherKey> {
        let algorithm = if self.aes.len() == 16 { &cipher::AES_128 } else { &cipher::AES_256 };
        UnboundCipherKey::new(algorithm, &self.aes).ok()
    }
}

impl fmt::Debug for TicketKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "TicketKey(AES-{})", self.aes.len() * 8)
    }
}

impl fmt::Display for KeyFileError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => write!(out, "cannot be read {}", log::Cause(error)),
            Self::Size { bytes } => write!(out, "must be 48 or 80 bytes, not {bytes}"),
        }
    }
}

impl SharedKeys {
    /// The keys for tickets that live for `ssl_session_timeout`, after which they are replaced, as in nginx.
    pub fn new(timeout_s: u32) -> Self {
        Self { period_s: timeout_s.clamp(1, LIFETIME_S_MAX), memory: OnceLock::new() }
    }

    /// Maps their memory and makes the first key. For the master when a configuration is complete; not with
    /// `-t`.
    pub fn open(&self) -> io::Result<()> {
        self.open_at(Now::read().running_s)
    }

    fn open_at(&self, running_s: u32) -> io::Result<()> {
        if self.memory.get().is_none() {
            let keys = ticket_keys::Keys::open(self.id(), self.period_s, running_s)?;
            let _ = keys.current(running_s, fresh);
            let _ = self.memory.set(keys);
        }
        Ok(())
    }

    /// Their memory.
    pub fn used(&self) -> Used {
        Used { name: self.id(), bytes: ticket_keys::ZONE_BYTES }
    }

    fn id(&self) -> u64 {
        named::name(&format!("ssl_session_tickets {}", self.period_s))
    }

    /// The time for which a key seals tickets, in seconds.
    pub fn period_s(&self) -> u32 {
        self.period_s
    }

    /// Erases the keys that open no tickets any more, even if no client comes. For a timer, once a period.
    pub fn erase_expired(&self) {
        if let Some(keys) = self.memory.get() {
            keys.erase_expired(Now::read().running_s);
        }
    }
}

impl Ticketer {
    /// The tickets of a server block, which live for `ssl_session_timeout`, but seven days at most.
    pub fn new(keys: Keys, context: Context, timeout_s: u32) -> Self {
        Self { keys, context, lifetime_s: timeout_s.min(LIFETIME_S_MAX) }
    }

    fn seal(&self, plain: &[u8], now: Now) -> Option<Vec<u8>> {
        match &self.keys {
            Keys::Files(keys) => keys.first()?.seal(plain, &self.context, now.wall_s),
            Keys::Shared(keys) => {
                let key = keys.memory.get()?.current(now.running_s, fresh)?;
                TicketKey::parse(&key[..]).ok()?.seal(plain, &self.context, now.wall_s)
            }
        }
    }

    fn open(&self, ticket: &[u8], now: Now) -> Option<Vec<u8>> {
        if ticket.len() > TICKET_BYTES_MAX {
            return None;
        }
        let name = ticket.first_chunk()?;
        let (issued_s, session) = match &self.keys {
            Keys::Files(keys) => keys.iter().find(|key| key.name == *name)?.open(ticket, &self.context)?,
            Keys::Shared(keys) => {
                let key = keys.memory.get()?.find(name, now.running_s)?;
                TicketKey::parse(&key[..]).ok()?.open(ticket, &self.context)?
            }
        };
        let session = Zeroizing::new(session);
        let is_from_the_future = issued_s.saturating_sub(now.wall_s) > SKEW_S_MAX;
        let is_expired = now.wall_s.saturating_sub(issued_s) >= u64::from(self.lifetime_s);
        (!is_from_the_future && !is_expired).then(|| session.to_vec())
    }
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        self.lifetime_s
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, Now::read())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.open(ticket, Now::read())
    }
}

impl Now {
    fn read() -> Self {
        let running_s = u32::try_from(clock::monotonic_ms() / 1000).unwrap_or(u32::MAX);
        Self { wall_s: u64::try_from(clock::wall_seconds()).unwrap_or(0), running_s }
    }
}

fn fresh() -> Option<ticket_keys::Key> {
    let mut key = Zeroizing::new([0; ticket_keys::KEY_BYTES]);
    rand::fill(&mut key[..]).ok()?;
    Some(key)
}

/// What holds for all tickets, for the fuzz targets (`fuzz/`) and the tests here.
#[cfg(any(test, feature = "property"))]
pub mod property {
    use super::*;
    use crate::net::tls::context::Settings;

    const NOW: Now = Now { wall_s: 1_800_000_000, running_s: 1000 };

    /// Panics unless `bytes` are refused as a ticket, survive a round trip as a session, and spoil the ticket
    /// of that session when one of them changes a byte of it, cuts it, or follows it.
    pub fn opens_its_own_only(bytes: &[u8]) {
        let ticketer = |bytes: &[u8], verify| {
            let key = TicketKey::parse(bytes).expect("48 or 80 bytes");
            let context = Context::new(&Settings { verify, ..Settings::default() });
            Ticketer::new(Keys::Files([key].into()), context, 300)
        };
        let (key, mut other_key) = (&[7; 80], [8; 80]);
        other_key[..NAME_BYTES].copy_from_slice(&key[..NAME_BYTES]);
        let own = ticketer(key, "on");
        assert_eq!(own.open(bytes, NOW), None);
        assert_eq!(own.open(&[&key[..NAME_BYTES], bytes].concat(), NOW), None);
        let Some(ticket) = own.seal(bytes, NOW) else {
            assert!(bytes.len() > TICKET_BYTES_MAX - 128, "only a long session makes no ticket");
            return;
        };
        assert_eq!(own.open(&ticket, NOW).as_deref(), Some(bytes));
        let others = [ticketer(key, "optional"), ticketer(&other_key, "on"), ticketer(&[7; 48], "on")];
        assert!(others.iter().all(|other| other.open(&ticket, NOW).is_none()));
        let mut changed = ticket.clone();
        for (index, &byte) in bytes.iter().enumerate().take(8).filter(|(_, byte)| **byte != 0) {
            let at = (index * 256 + usize::from(byte)) % ticket.len();
            changed[at] ^= byte;
            assert_eq!(own.open(&changed, NOW), None);
            changed[at] ^= byte;
            assert_eq!(own.open(&ticket[..at], NOW), None);
            changed.push(byte);
            assert_eq!(own.open(&changed, NOW), None);
            changed.pop();
        }
    }
}

#[cfg(test)]
mod tests;
