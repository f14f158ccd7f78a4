//! The right to fetch or update a response, which one request at a time holds, in all workers together.

use crate::shm::cache_index::{Digest, Index, LOCK_MS_MAX, Ticket};

/// The right to fetch or update the response of a key. Dropping it gives it up.
///
/// The holder of a lock for an update renews it while the response arrives. One that is not renewed for
/// [`LOCK_MS_MAX`] belonged to a worker that died, and anybody may take it.
#[derive(Debug)]
pub struct Lock {
    index: Index,
    ticket: Ticket,
    renewed_ms: u64,
}

/// The time between two renewals.
const RENEWAL_MS: u64 = 1000;

impl Lock {
    /// Takes it from a holder that has not renewed it for `age_ms`, too. `None`: another request holds it.
    pub fn take(index: Index, digest: &Digest, now_ms: u64, age_ms: u64) -> Option<Self> {
        let ticket = index.lock(digest, now_ms, age_ms.min(LOCK_MS_MAX))?;
        Some(Self { index, ticket, renewed_ms: now_ms })
    }

    /// Says that the holder is still at work.
    pub fn renew(&mut self, now_ms: u64) {
        if now_ms.saturating_sub(self.renewed_ms) >= RENEWAL_MS {
            self.index.renew(&self.ticket, now_ms);
            self.renewed_ms = now_ms;
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.index.release(&self.ticket);
    }
}
