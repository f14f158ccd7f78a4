//! A zone: shared memory seen as typed slices of atomics.
//!
//! No allocator, no pointers, no mutex inside: a process that dies at any instruction leaves valid words.
#![allow(unsafe_code)]

use std::io;
use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64};

use crate::sys::mmap::{self, Shared};

/// Shared memory by memfd, mapped for the life of the process; dropping the zone keeps handed-out slices valid.
#[derive(Debug)]
pub struct Zone {
    shared: Shared,
}

impl Zone {
    /// Maps `bytes` of zeroes (rounded up to pages). Untouched pages cost nothing.
    pub fn map(bytes: usize) -> io::Result<Zone> {
        Ok(Zone { shared: mmap::shared("pronghorn", bytes)? })
    }

    /// Maps the zone behind a descriptor that another process's `as_fd` gave.
    pub fn adopt(fd: OwnedFd) -> io::Result<Zone> {
        Ok(Zone { shared: mmap::adopt(fd)? })
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.as_fd()
    }

    pub fn bytes(&self) -> usize {
        size_of_val(self.shared.words())
    }

    /// All of it as 64-bit words.
    pub fn words(&self) -> &'static [AtomicU64] {
        self.shared.words()
    }

    /// A part as 32-bit words; `range` counts 64-bit words. None when it does not lie inside.
    ///
    /// A range must be used in one width only: atomics of mixed sizes on the same bytes are not a race-free pair.
    pub fn halves(&self, range: Range<usize>) -> Option<&'static [AtomicU32]> {
        let words = self.shared.words().get(range)?;
        // SAFETY: the same bytes, with a smaller alignment; any bits are a valid AtomicU32, and the mapping lives
        // as long as the process.
        Some(unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), words.len() * 2) })
    }

    /// Zeroes a range of words (whole pages) and gives its memory back.
    pub fn clear(&self, range: Range<usize>) -> io::Result<()> {
        self.shared.clear(range)
    }

    /// Bytes in memory now.
    pub fn resident_bytes(&self) -> io::Result<u64> {
        mmap::resident_bytes(&self.shared)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    #[test]
    fn parts_stay_inside() {
        let zone = Zone::map(4096).expect("maps");
        let half = zone.halves(1..3).expect("inside");
        half[3].store(9, Relaxed);
        assert_eq!(half.len(), 4);
        assert_eq!(zone.halves(2..3).expect("inside")[1].load(Relaxed), 9);
        assert!(zone.halves(0..zone.words().len() + 1).is_none());
    }

    #[test]
    fn a_descriptor_carries_the_zone() {
        let zone = Zone::map(4096).expect("maps");
        zone.words()[0].store(42, Relaxed);
        let other = Zone::adopt(zone.as_fd().try_clone_to_owned().expect("dup")).expect("adopts");
        drop(zone);
        assert_eq!(other.words()[0].load(Relaxed), 42);
    }
}
