//! The memory of this worker that requests may have beyond what each needs: encoders, pages that are put together in memory,
//! requests inside requests.
//!
//! It is drawn before it is allocated, up to `worker_memory_budget`, and given back by a guard. Where it is used up, requests
//! make do with less: a smaller encoder or none, one include after the other. What is drawn, and how often a request had to
//! make do with less, are counted for all who look at the shared counters.

use std::cell::Cell;

use crate::shm::counter::{self, Total};

/// `worker_memory_budget` where the configuration does not say it.
pub const BYTES_DEFAULT: u64 = 256 * 1024 * 1024;

/// How often the log says that the budget is used up.
const TOLD_EVERY_MS: u64 = 10_000;

thread_local! {
    static MAX: Cell<usize> = const { Cell::new(BYTES_DEFAULT as usize) };
    static DRAWN: Cell<usize> = const { Cell::new(0) };
    static TOLD_MS: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Bytes that were drawn; given back when it is dropped.
#[derive(Debug, Default)]
pub struct Share(usize);

/// How much of the budget may be drawn for something: what many can have with little memory keeps a part for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Half,
    ThreeQuarters,
    Whole,
}

/// The budget of this worker, 0 for none.
pub fn set_max(bytes: u64) {
    MAX.set(usize::try_from(bytes).ok().filter(|bytes| *bytes > 0).unwrap_or(usize::MAX));
}

pub fn max() -> usize {
    MAX.get()
}

/// Draws bytes; `None`: with them more than this part of the budget would be drawn.
pub fn draw(bytes: usize, part: Part) -> Option<Share> {
    let mut share = Share::default();
    share.grow(bytes, part).then_some(share)
}

/// Counts a request that makes do with less. `Some`: the log has not said for a while that the budget is used up, and should,
/// with this text.
pub fn degrade(now_ms: u64) -> Option<String> {
    counter::add(Total::Degraded, 1);
    if TOLD_MS.get().is_some_and(|told_ms| now_ms.saturating_sub(told_ms) < TOLD_EVERY_MS) {
        return None;
    }
    TOLD_MS.set(Some(now_ms));
    let (drawn, max) = (DRAWN.get() / 1024, MAX.get() / 1024);
    Some(format!(
        "{drawn} of {max} KiB of the worker's memory budget are used: \"worker_memory_budget\" allows more"
    ))
}

impl Share {
    /// Draws more; false: nothing was drawn.
    pub fn grow(&mut self, bytes: usize, part: Part) -> bool {
        let max = match part {
            Part::Half => MAX.get() / 2,
            Part::ThreeQuarters => MAX.get() / 4 * 3,
            Part::Whole => MAX.get(),
        };
        let fits = DRAWN.get().saturating_add(bytes) <= max;
        if fits {
            self.add(bytes);
        }
        fits
    }

    /// Counts bytes that cannot be done without.
    pub fn add(&mut self, bytes: usize) {
        self.0 += bytes;
        DRAWN.set(DRAWN.get() + bytes);
        counter::add(Total::Drawn, bytes as u64);
    }

    /// Gives back all but so many bytes.
    pub fn shrink_to(&mut self, bytes: usize) {
        let less = self.0.saturating_sub(bytes);
        self.0 -= less;
        DRAWN.set(DRAWN.get() - less);
        counter::add(Total::Drawn, (less as u64).wrapping_neg());
    }

    pub fn bytes(&self) -> usize {
        self.0
    }
}

/// What is copied is held twice.
impl Clone for Share {
    fn clone(&self) -> Self {
        let mut copy = Self::default();
        copy.add(self.0);
        copy
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.0 > 0 {
            self.shrink_to(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_drawn_is_bounded_and_comes_back() {
        set_max(1000);
        let large = draw(500, Part::Half).expect("half of it");
        assert!(draw(1, Part::Half).is_none());
        let mut small = draw(200, Part::ThreeQuarters).expect("there is room");
        assert!(!small.grow(301, Part::Whole) && small.bytes() == 200);
        assert!(small.grow(300, Part::Whole));
        assert!(draw(1, Part::Whole).is_none());
        small.add(100); // counted beyond it
        small.shrink_to(10);
        assert_eq!(DRAWN.get(), 510);
        drop(large);
        assert_eq!(DRAWN.get(), 10);
        drop(small);
        assert_eq!(DRAWN.get(), 0);
        set_max(0);
        assert!(draw(1 << 40, Part::Half).is_some(), "no limit");
    }

    #[test]
    fn the_log_says_it_from_time_to_time() {
        let told: Vec<u64> =
            (0..30).map(|second| second * 1000).filter(|ms| degrade(*ms).is_some()).collect();
        assert_eq!(told, [0, 10_000, 20_000]);
    }
}
