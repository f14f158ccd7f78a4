//! This worker's memory budget for requests: encoders, pages assembled in memory, subrequests.
//!
//! Memory beyond what every request needs is drawn before it is allocated, up to `worker_memory_budget`, and
//! given back by a guard. When the budget is used up, requests degrade: they get a smaller encoder or none,
//! or run their includes one after the other. The bytes drawn and the number of degraded requests are shared
//! counters.

use std::cell::Cell;

use crate::shm::counter::{self, Total};

/// Default of `worker_memory_budget`.
pub const BYTES_DEFAULT: u64 = 256 * 1024 * 1024;

/// Minimum time between two log lines that say that the budget is used up.
const TOLD_EVERY_MS: u64 = 10_000;

thread_local! {
    static MAX: Cell<usize> = const { Cell::new(BYTES_DEFAULT as usize) };
    static DRAWN: Cell<usize> = const { Cell::new(0) };
    static TOLD_MS: Cell<Option<u64>> = const { Cell::new(None) };
}

/// A number of drawn bytes; dropping it gives them back.
#[derive(Debug, Default)]
pub struct Share(usize);

/// The part of the budget up to which a kind of use may draw. Uses that help many requests with little memory
/// each may draw further than others, so that a part is reserved for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Half,
    ThreeQuarters,
    Whole,
}

/// Sets this worker's budget; 0 for no limit.
pub fn set_max(bytes: u64) {
    MAX.set(usize::try_from(bytes).ok().filter(|bytes| *bytes > 0).unwrap_or(usize::MAX));
}

pub fn max() -> usize {
    MAX.get()
}

/// Draws bytes. `None`: that would exceed this part of the budget.
pub fn draw(bytes: usize, part: Part) -> Option<Share> {
    let mut share = Share::default();
    share.grow(bytes, part).then_some(share)
}

/// Counts a request that degrades. `Some`: a text to log, when the last such line is long enough ago.
pub fn degrade(now_ms: u64) -> Option<String> {
    counter::add(Total::Degraded, 1);
    if TOLD_MS.get().is_some_and(|told_ms| now_ms.saturating_sub(told_ms) < TOLD_EVERY_MS) {
        return None;
    }
    TOLD_MS.set(Some(now_ms));
    let (drawn, max) = (DRAWN.get() / 1024, MAX.get() / 1024);
    Some(format!(
        "{drawn} of {max} KiB of the worker's memory budget are in use: raise \"worker_memory_budget\""
    ))
}

impl Share {
    /// Draws more. False: that would exceed this part of the budget, and nothing was drawn.
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

    /// Draws bytes that the request cannot do without, even beyond the budget.
    pub fn add(&mut self, bytes: usize) {
        self.0 += bytes;
        DRAWN.set(DRAWN.get() + bytes);
        counter::add(Total::Drawn, bytes as u64);
    }

    /// Gives back all but `bytes`.
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

/// A copy holds its bytes a second time.
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
