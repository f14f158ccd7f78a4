//! The OCSP responses that all workers share: one asks, and the others, and those that are forked later, have the
//! response for their first handshake.
//!
//! One table in shared memory like that of TLS sessions (`shm/tls_sessions.rs`): a worker that dies at any
//! instruction leaves it valid. A hostile worker can write anything there, so whoever takes a response checks
//! it as if it came from the responder.
//! Touches: shared memory, the monotonic clock.

use std::io;
use std::sync::OnceLock;

use crate::shm::named::{self, Used};
use crate::shm::tls_sessions::{Key, Table};
use crate::sys::clock;

/// Memory for each certificate: most responses have 500 to 2500 bytes.
const RESPONSE_BYTES: usize = 8 * 1024;
const BYTES_MIN: usize = 64 * 1024;
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// The responses of one configuration.
#[derive(Debug, Default)]
pub struct Staples {
    /// Empty with `-t`, where nothing is served.
    table: OnceLock<(Used, Table)>,
}

/// A response that some worker has asked for. It is not checked.
#[derive(Debug, PartialEq, Eq)]
pub struct Shared {
    pub response: Vec<u8>,
    /// When to ask for a newer one, in seconds since 1970.
    pub due_s: i64,
}

impl Staples {
    /// Maps memory for this many certificates. For the master when a configuration is complete; not with `-t`.
    pub fn open(&self, count: usize) -> io::Result<()> {
        // Few sizes, so that most reloads find the same memory.
        let bytes = count.saturating_mul(RESPONSE_BYTES).clamp(BYTES_MIN, BYTES_MAX).next_power_of_two();
        let id = named::name(&format!("ssl_stapling {bytes}"));
        if self.table.get().is_none() {
            let _ = self.table.set((Used { name: id, bytes }, Table::open(id, bytes)?));
        }
        Ok(())
    }

    /// Its memory; `None` with `-t`, where nothing is mapped.
    pub fn used(&self) -> Option<Used> {
        self.table.get().map(|(used, _)| *used)
    }

    /// The response for a certificate, if some worker has one that is still valid.
    pub fn get(&self, key: &Key) -> Option<Shared> {
        self.get_at(key, clock::monotonic_ms())
    }

    /// Gives a response to the other workers, for as long as it is valid. One that is too long for the table is
    /// not shared.
    pub fn put(&self, key: &Key, shared: &Shared, valid_s: i64) {
        self.put_at(key, shared, valid_s, clock::monotonic_ms());
    }

    fn get_at(&self, key: &Key, now_ms: u64) -> Option<Shared> {
        let value = self.table.get()?.1.get(key, u32::MAX, seconds(now_ms))?;
        let (due_s, response) = value.split_first_chunk()?;
        Some(Shared { response: response.to_vec(), due_s: i64::from_le_bytes(*due_s) })
    }

    fn put_at(&self, key: &Key, shared: &Shared, valid_s: i64, now_ms: u64) {
        let Some((_, table)) = self.table.get().filter(|_| valid_s > 0) else { return };
        let value = [&shared.due_s.to_le_bytes()[..], &shared.response].concat();
        table.put(key, &value, u32::try_from(valid_s).unwrap_or(u32::MAX), seconds(now_ms));
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
    fn a_response_is_shared_until_it_expires() {
        let staples = Staples::default();
        let shared = |byte, due_s| Shared { response: vec![byte; 2000], due_s };
        let key = |byte| [byte; 32];
        staples.put_at(&key(1), &shared(1, 7), 60, 1000);
        assert_eq!(
            (staples.get_at(&key(1), 1000), staples.used()),
            (None, None),
            "without memory, as with -t"
        );
        staples.open(3).expect("maps");
        assert!(staples.used().is_some());
        staples.put_at(&key(1), &shared(1, 7), 60, 1000);
        staples.put_at(&key(2), &shared(2, -8), i64::MAX, 1000);
        staples.put_at(&key(3), &shared(3, 9), 0, 1000);
        assert_eq!(staples.get_at(&key(1), 60_999), Some(shared(1, 7)));
        assert_eq!(staples.get_at(&key(1), 61_000), None, "expired");
        assert_eq!(staples.get_at(&key(2), 1 << 40), Some(shared(2, -8)));
        assert_eq!(staples.get_at(&key(3), 1000), None, "was not valid");
        staples.put_at(&key(1), &Shared { response: vec![0; 40_000], due_s: 0 }, 60, 1000);
        assert_eq!(staples.get_at(&key(1), 1000), Some(shared(1, 7)), "too long");
    }
}
