//! The static and the dynamic table of QPACK.
//!
//! Touches: nothing. RFC 9204 §3, appendix A.

use std::collections::VecDeque;

use super::{ENTRY_BYTES, Wrong};

/// The static table; the first entry has the index 0.
#[rustfmt::skip]
pub const STATIC: [(&str, &str); 99] = [
    (":authority", ""), (":path", "/"), ("age", "0"), ("content-disposition", ""), ("content-length", "0"),
    ("cookie", ""), ("date", ""), ("etag", ""), ("if-modified-since", ""), ("if-none-match", ""),
    ("last-modified", ""), ("link", ""), ("location", ""), ("referer", ""), ("set-cookie", ""),
    (":method", "CONNECT"), (":method", "DELETE"), (":method", "GET"), (":method", "HEAD"), (":method", "OPTIONS"),
    (":method", "POST"), (":method", "PUT"), (":scheme", "http"), (":scheme", "https"), (":status", "103"),
    (":status", "200"), (":status", "304"), (":status", "404"), (":status", "503"), ("accept", "*/*"),
    ("accept", "application/dns-message"), ("accept-encoding", "gzip, deflate, br"), ("accept-ranges", "bytes"),
    ("access-control-allow-headers", "cache-control"), ("access-control-allow-headers", "content-type"),
    ("access-control-allow-origin", "*"), ("cache-control", "max-age=0"), ("cache-control", "max-age=2592000"),
    ("cache-control", "max-age=604800"), ("cache-control", "no-cache"), ("cache-control", "no-store"),
    ("cache-control", "public, max-age=31536000"), ("content-encoding", "br"), ("content-encoding", "gzip"),
    ("content-type", "application/dns-message"), ("content-type", "application/javascript"),
    ("content-type", "application/json"), ("content-type", "application/x-www-form-urlencoded"),
    ("content-type", "image/gif"), ("content-type", "image/jpeg"), ("content-type", "image/png"),
    ("content-type", "text/css"), ("content-type", "text/html; charset=utf-8"), ("content-type", "text/plain"),
    ("content-type", "text/plain;charset=utf-8"), ("range", "bytes=0-"),
    ("strict-transport-security", "max-age=31536000"),
    ("strict-transport-security", "max-age=31536000; includesubdomains"),
    ("strict-transport-security", "max-age=31536000; includesubdomains; preload"), ("vary", "accept-encoding"),
    ("vary", "origin"), ("x-content-type-options", "nosniff"), ("x-xss-protection", "1; mode=block"),
    (":status", "100"), (":status", "204"), (":status", "206"), (":status", "302"), (":status", "400"),
    (":status", "403"), (":status", "421"), (":status", "425"), (":status", "500"), ("accept-language", ""),
    ("access-control-allow-credentials", "FALSE"), ("access-control-allow-credentials", "TRUE"),
    ("access-control-allow-headers", "*"), ("access-control-allow-methods", "get"),
    ("access-control-allow-methods", "get, post, options"), ("access-control-allow-methods", "options"),
    ("access-control-expose-headers", "content-length"), ("access-control-request-headers", "content-type"),
    ("access-control-request-method", "get"), ("access-control-request-method", "post"), ("alt-svc", "clear"),
    ("authorization", ""), ("content-security-policy", "script-src 'none'; object-src 'none'; base-uri 'none'"),
    ("early-data", "1"), ("expect-ct", ""), ("forwarded", ""), ("if-range", ""), ("origin", ""),
    ("purpose", "prefetch"), ("server", ""), ("timing-allow-origin", "*"), ("upgrade-insecure-requests", "1"),
    ("user-agent", ""), ("x-forwarded-for", ""), ("x-frame-options", "deny"), ("x-frame-options", "sameorigin"),
];

/// The dynamic table of a decoder. It begins with no capacity (§3.2.3): a connection whose peer inserts nothing pays nothing.
#[derive(Default)]
pub(super) struct Table {
    /// Name and value behind each other, with the length of the name; the oldest first.
    entries: VecDeque<(Box<[u8]>, usize)>,
    /// All insertions so far: the absolute index of the next entry.
    inserted: u64,
    capacity: usize,
    /// The sum of the entries' sizes as §3.2.1 counts them.
    size: usize,
}

impl Table {
    pub(super) fn inserted(&self) -> u64 {
        self.inserted
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// The sum of the entries' sizes.
    #[cfg(any(test, feature = "property"))]
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// The entry with this absolute index.
    pub(super) fn get(&self, absolute: u64) -> Option<(&[u8], &[u8])> {
        self.newest(self.inserted.checked_sub(absolute)?.checked_sub(1)?)
    }

    /// The entry that has as many newer ones.
    pub(super) fn newest(&self, index: u64) -> Option<(&[u8], &[u8])> {
        let index = usize::try_from(index).ok()?;
        let (bytes, name_length) =
            self.entries.get(self.entries.len().checked_sub(index)?.checked_sub(1)?)?;
        Some(bytes.split_at(*name_length))
    }

    /// Sets the capacity, and evicts what it has no room for.
    pub(super) fn set_capacity(&mut self, capacity: usize) {
        self.capacity = capacity;
        self.shrink_to(capacity);
    }

    fn shrink_to(&mut self, max: usize) {
        while self.size > max {
            let Some((bytes, _)) = self.entries.pop_front() else { return };
            self.size -= bytes.len() + ENTRY_BYTES;
        }
    }

    /// Inserts an entry. Errors: it is larger than the table (§3.2.2).
    pub(super) fn insert(&mut self, name: &[u8], value: &[u8]) -> Result<(), Wrong> {
        let size = name.len() + value.len() + ENTRY_BYTES;
        self.shrink_to(self.capacity.checked_sub(size).ok_or(Wrong)?);
        self.entries.push_back(([name, value].concat().into(), name.len()));
        self.size += size;
        self.inserted += 1;
        Ok(())
    }
}
