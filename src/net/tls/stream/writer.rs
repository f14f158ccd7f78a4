//! The sending direction of an encrypted connection: what is sealed and waits for the socket.
//!
//! Touches: nothing; bytes in, bytes out.

use std::io::{self, IoSliceMut};

use smallvec::SmallVec;

use super::{ALERT_BYTES, FILL_BYTES, KEY_UPDATE, OUT_BYTES};
use crate::net::tls::record::{self, Content, Direction, OVERHEAD_BYTES};
use crate::runtime::buffer::Buffer;

/// The sending direction.
pub(super) struct Writer {
    pub(super) keys: Direction,
    pub(super) out: Buffer,
    pub(super) record_bytes: usize,
    /// The sending direction is to be closed once `out` has been sent.
    pub(super) closes: bool,
    pub(super) is_closed: bool,
    /// A KeyUpdate waits in `out`: it answers all requests that arrive meanwhile (RFC 8446 §4.6.3), so that a
    /// peer which asks and does not read fills no memory.
    pub(super) has_update: bool,
}

impl Writer {
    /// Seals as much of the slices as fits. Returns the count of plaintext bytes.
    pub(super) fn seal(&mut self, slices: &[&[u8]], total: usize) -> Result<usize, record::Error> {
        let waiting = self.out.data().len();
        let record_count = total.div_ceil(self.record_bytes).max(1);
        let needed = waiting + total + record_count * OVERHEAD_BYTES + ALERT_BYTES;
        if self.keys.is_worn() && self.keys.suite().is_tls13() {
            self.reserve(needed + ALERT_BYTES);
            self.seal_key_update()?;
        } else {
            self.reserve(needed);
        }
        let mut rest = Slices { slices, at: 0 };
        let mut taken = 0;
        while taken < total {
            let space = self.out.space().len().saturating_sub(OVERHEAD_BYTES + ALERT_BYTES);
            let length = (total - taken).min(self.record_bytes).min(space);
            if length == 0 {
                break;
            }
            let parts = rest.take(length);
            self.keys.seal(Content::Data, &parts, &mut self.out)?;
            taken += length;
        }
        Ok(taken)
    }

    /// Has `fill` put plaintext into the places of the next records, `length` bytes or fewer, and seals it there.
    /// Nothing else waits in `out`. Returns the count of plaintext bytes; 0 if `fill` found no more.
    ///
    /// Errors: those of `fill`, when nothing has been sealed; or the key is worn.
    pub(super) fn fill(
        &mut self,
        length: usize,
        fill: impl FnOnce(&mut [IoSliceMut<'_>]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let (head, tail) = (self.keys.suite().head_bytes(), self.keys.suite().tail_bytes());
        let record_count = length.div_ceil(self.record_bytes).min(PLACES_MAX);
        let needed = length + record_count * (head + tail) + 2 * ALERT_BYTES;
        self.out = Buffer::take(needed.min(FILL_BYTES));
        if self.keys.is_worn() && self.keys.suite().is_tls13() {
            self.seal_key_update()?;
        }
        let outcome = fill(&mut places(self.out.space(), length, self.record_bytes, (head, tail)));
        let filled = *outcome.as_ref().unwrap_or(&0);
        let mut sealed = 0;
        while sealed < filled {
            let size = (filled - sealed).min(self.record_bytes);
            let count = self.keys.seal_in_place(Content::Data, self.out.space(), size)?;
            self.out.filled(count);
            sealed += size;
        }
        if self.out.data().is_empty() {
            self.out = Buffer::default();
        }
        outcome
    }

    /// Makes room for up to `needed` bytes in all, at most [`OUT_BYTES`].
    pub(super) fn reserve(&mut self, needed: usize) {
        let needed = needed.min(OUT_BYTES);
        if self.out.capacity() == 0 {
            self.out = Buffer::take(needed);
        } else if self.out.space().len() + self.out.data().len() < needed
            || self.out.space().len() < OVERHEAD_BYTES + ALERT_BYTES
        {
            self.out.compact();
            self.out.grow(needed);
        }
    }

    pub(super) fn alert(&mut self, level: u8, description: u8) {
        self.out.compact();
        self.out.grow(self.out.data().len() + ALERT_BYTES);
        let _ = self.keys.seal(Content::Alert, &[&[level, description]], &mut self.out);
    }

    pub(super) fn update_keys(&mut self) {
        self.out.compact();
        self.out.grow(self.out.data().len() + ALERT_BYTES + OVERHEAD_BYTES);
        let _ = self.seal_key_update();
    }

    pub(super) fn seal_key_update(&mut self) -> Result<(), record::Error> {
        self.keys.seal(Content::Handshake, &[&[KEY_UPDATE, 0, 0, 1, 0]], &mut self.out)?;
        self.keys.update();
        Ok(())
    }
}

/// The most records that are filled at once.
const PLACES_MAX: usize = 64;

/// The places of the plaintext of records that stand one after the other in `space`, for up to `length` bytes.
/// Room for an alert is left behind them.
fn places(
    space: &mut [u8],
    mut length: usize,
    record_bytes: usize,
    (head, tail): (usize, usize),
) -> SmallVec<[IoSliceMut<'_>; 16]> {
    let mut places = SmallVec::new();
    let room = space.len().saturating_sub(ALERT_BYTES);
    let mut rest = &mut space[..room];
    while length > 0 && rest.len() > head + tail && places.len() < PLACES_MAX {
        let size = length.min(record_bytes).min(rest.len() - head - tail);
        let (record, behind) = rest.split_at_mut(head + size + tail);
        places.push(IoSliceMut::new(&mut record[head..head + size]));
        (rest, length) = (behind, length - size);
    }
    places
}

/// Bytes of several slices, taken in order.
struct Slices<'a> {
    slices: &'a [&'a [u8]],
    /// Position in the first slice.
    at: usize,
}

impl<'a> Slices<'a> {
    /// The next `length` bytes; there are as many.
    pub(super) fn take(&mut self, mut length: usize) -> SmallVec<[&'a [u8]; 8]> {
        let mut parts = SmallVec::new();
        while length > 0 && !self.slices.is_empty() {
            let rest = &self.slices[0][self.at..];
            let count = rest.len().min(length);
            if count > 0 {
                parts.push(&rest[..count]);
            }
            length -= count;
            self.at += count;
            if self.at == self.slices[0].len() {
                self.slices = &self.slices[1..];
                self.at = 0;
            }
        }
        parts
    }
}
