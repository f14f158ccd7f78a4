//! A zone: shared memory seen as typed slices of atomics.
//!
//! There is no allocator, pointer or mutex inside, so a process that dies at any instruction leaves valid
//! words.
#![allow(unsafe_code)]

use std::io;
use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64};

use crate::sys::mmap::{self, Shared};

/// Shared memory from a memfd. It stays mapped for the life of the process, so slices outlive a dropped
/// `Zone`.
#[derive(Debug)]
pub struct Zone {
    shared: Shared,
}

impl Zone {
    /// Maps `bytes` of zeroes, rounded up to whole pages. Untouched pages cost no memory.
    pub fn map(bytes: usize) -> io::Result<Zone> {
        Ok(Zone { shared: mmap::shared("pronghorn", bytes)? })
    }

    /// Maps the zone of a descriptor that another process got from `as_fd`.
    pub fn adopt(fd: OwnedFd) -> io::Result<Zone> {
        Ok(Zone { shared: mmap::adopt(fd)? })
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.as_fd()
    }

    pub fn bytes(&self) -> usize {
        size_of_val(self.shared.words())
    }

    /// The whole zone as 64-bit words.
    pub fn words(&self) -> &'static [AtomicU64] {
        self.shared.words()
    }

    /// A part of the zone as 32-bit words; `range` counts 64-bit words. `None` if it lies outside.
    ///
    /// A range must always be accessed in the same width: atomics of mixed sizes on the same bytes race.
    pub fn halves(&self, range: Range<usize>) -> Option<&'static [AtomicU32]> {
        let words = self.shared.words().get(range)?;
        // SAFETY: the same bytes, with a smaller alignment; any bits are a valid AtomicU32, and the mapping lives
        // as long as the process.
        Some(unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), words.len() * 2) })
    }

    /// Keeps the zone out of core files. For zones that hold keys.
    pub fn leave_out_of_dumps(&self) -> io::Result<()> {
        self.shared.leave_out_of_dumps()
    }

    /// Zeroes a range of words (whole pages) and gives its memory back.
    pub fn clear(&self, range: Range<usize>) -> io::Result<()> {
        self.shared.clear(range)
    }

    /// Number of bytes that are in memory now.
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
